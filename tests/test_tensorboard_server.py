"""What TensorBoard itself serves of a run, and that every tab of it opens in a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from test_monitor import COLOURS, NAMES, record

from segkit.monitor.monitor import Monitor
from segkit.types import Sample
from webdriver import browser, needs_chromium, until

RUNS = ("first", "second")


def draw_samples(folder: Path) -> None:
    """Validation images at two iterations of a run that exists."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    label = np.repeat(np.repeat(rng.integers(0, 3, (9, 12), dtype=np.uint8), 10, 0), 10, 1)
    sample = Sample(image, label, "a")
    with Monitor(folder, start=40, total=60, iterations_per_epoch=8, names=NAMES, colours=COLOURS) as monitor:
        for iteration in (50, 60):
            monitor.samples(iteration, [sample, sample], [label, np.zeros_like(label)])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a TensorBoard over two runs, one of them resumed."""
    runs = tmp_path_factory.mktemp("runs")
    record(runs / "first", stop=37)
    record(runs / "first", start=20)
    record(runs / "second")
    draw_samples(runs / "second")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "http://" in line)
            found = re.search(r"http://\S+", line)
            assert found is not None
            url = found.group().rstrip("/")
            until(lambda: set(RUNS) <= set(ask(url, "runs")))
            until(lambda: "val/mIoU" in ask(url, "plugin/scalars/tags").get("second", {}))
            until(lambda: "val/samples" in ask(url, "plugin/images/tags").get("second", {}))
            yield url
        finally:
            process.terminate()


def ask(url: str, path: str, **query: object):
    with urllib.request.urlopen(f"{url}/data/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
        return json.load(answer)


def test_there_are_exactly_the_runs_that_were_made(server):
    assert sorted(ask(server, "runs")) == sorted(RUNS)


def test_both_runs_have_the_same_curves(server):
    tags = ask(server, "plugin/scalars/tags")
    assert set(tags["first"]) == set(tags["second"])
    assert {"train/loss", "train/lr", "val/pixAcc", "val/mIoU", "val_iou/traffic light"} <= set(tags["first"])


def test_the_server_shows_a_resumed_run_without_doubles_or_gaps(server):
    points = {
        run: [
            (step, value)
            for _, step, value in ask(server, "plugin/scalars/scalars", run=run, tag="train/loss")
        ]
        for run in RUNS
    }
    assert points["first"] == points["second"]
    assert [step for step, _ in points["first"]] == [10, 20, 30, 40]


def test_images_can_be_scrubbed_and_are_pngs(server):
    images = ask(server, "plugin/images/images", run="second", tag="val/samples", sample=0)
    assert [image["step"] for image in images] == [50, 60]
    url = f"{server}/data/plugin/images/individualImage?{images[0]['query']}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read(4) == b"\x89PNG"


def test_texts_are_served(server):
    assert "environment/text_summary" in ask(server, "plugin/text/tags")["first"]
    texts = ask(server, "plugin/text/text", run="first", tag="environment/text_summary")
    assert "<table>" in texts[0]["text"]


def test_hparams_list_both_runs_with_their_scores(server):
    def post(path: str, body: dict):
        request = urllib.request.Request(
            f"{server}/data/plugin/hparams/{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    experiment = post("experiment", {"experimentName": ""})
    names = [info["name"] for info in experiment["hparamInfos"]]
    assert names == ["schedule.length", "schedule.lr", "data.flip", "model.name", "sizes"], (
        "what tells most, then by name"
    )
    found = post(
        "session_groups",
        {
            "experimentName": "",
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
            "colParams": [{"metric": {"group": "", "tag": "val/mIoU"}, "order": "ORDER_DESC"}],
            "startIndex": 0,
            "sliceSize": 10,
        },
    )
    values = [group["metricValues"] for group in found["sessionGroups"]]
    assert [[v["value"] for v in row if v["name"]["tag"] == "val/mIoU"] for row in values] == [
        [pytest.approx(0.4)],
        [pytest.approx(0.4)],
    ]


def test_the_custom_layout_is_served(server):
    layout = ask(server, "plugin/custom_scalars/layout")
    assert [chart["title"] for chart in layout["category"][0]["chart"]] == ["loss", "mIoU", "learning rate"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize(
    ("tab", "says"),
    [
        ("timeseries", "val_iou"),
        ("scalars", "val_iou"),
        ("images", "val/samples"),
        ("custom_scalars", "overview"),
        ("hparams", "schedule.lr"),
        ("text", "environment"),
    ],
)
def test_every_tab_opens_in_a_browser(server, page, tab, says):
    deep_text = """
        const words = [];
        (function walk(node) {
            if (node.shadowRoot) walk(node.shadowRoot);
            if (node.tagName === 'IFRAME' && node.contentDocument) walk(node.contentDocument.body);
            for (const child of node.childNodes) {
                if (child.nodeType === 3) words.push(child.data);
                else if (child.nodeType === 1 && !['STYLE', 'SCRIPT'].includes(child.tagName)) walk(child);
            }
        })(document.body);
        return words.join(' ').includes(arguments[0]);"""
    page.open("about:blank")
    page.open(f"{server}/#{tab}")
    page.wait(deep_text, says)
    assert page.errors() == []
