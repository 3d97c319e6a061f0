"""HTML report, parsed and used in a real browser."""

from __future__ import annotations

import base64
import html
import re

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from segkit.data.label_map import Entry, LabelMap, load_builtin_label_map
from segkit.evaluation import metrics, report
from segkit.evaluation.gallery import gather_extremes
from segkit.evaluation.intervals import Interval
from segkit.evaluation.scoring import Evaluation
from segkit.types import Sample
from webdriver import browser, needs_chromium

EVIL = "<script>alert('x')</script>\"&'"
NAMES = ["sky", "road", EVIL, "tree", "never seen"]
COLORS = np.array([[70, 130, 180], [128, 64, 128], [220, 20, 60], [107, 142, 35], [9, 9, 9]], np.uint8)
TABLE = LabelMap("town", tuple(Entry(k, name, tuple(COLORS[k])) for k, name in enumerate(NAMES)))
COUNTS = np.diag([900, 500, 20, 300, 0])
COUNTS[0, 1], COUNTS[2, 1], COUNTS[3, 0] = 60, 10, 90
SCORES = {"pixAcc": 0.915, "mIoU": 0.6875}


def sample(seed: int, height: int = 60, width: int = 80) -> Sample:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, (height, width), dtype=np.uint8)
    label[:5] = 255
    return Sample(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), label, f"street_{seed}")


class Street:
    """Five images, predicted the better the higher their number is."""

    def __init__(self):
        self.samples = [sample(seed) for seed in range(5)]
        self.samples[0] = self.samples[0]._replace(name=EVIL)
        self.names = [each.name for each in self.samples]

    def read(self, index):
        return self.samples[index]

    def predict(self, image):
        is_right = np.arange(image.label.shape[1]) < 10 * self.names.index(image.name)
        return np.minimum(np.where(is_right, image.label, 1), 3)

    def evaluate(self):
        counts = []
        for image in self.samples:
            matrix = metrics.ConfusionMatrix(5)
            matrix.update(image.label, self.predict(image))
            counts.append(metrics.count_pixels(matrix.counts))
        names = self.names
        return Evaluation(matrix.counts, {}, "whole", 1.0, names=names, image_counts=np.array(counts))


def write(folder, **changed):
    street = Street()
    evaluation = Evaluation(
        counts=torch.from_numpy(changed.pop("counts", COUNTS)),
        scores=changed.pop("scores", SCORES),
        protocol="whole (scales 1)",
        seconds=1.0,
        names=["street"] * changed.pop("images", 1234),
        intervals={"mIoU": Interval(0.6512, 0.7201)},
    )
    content = {
        "table": TABLE,
        "samples": gather_extremes(street.evaluate(), street, street.predict, worst=2, best=1),
        "settings": {
            "model": {"name": EVIL},
            "checkpoint": "runs/first/best.pt",
            "data": {"name": "town", "val_split": "val"},
        },
    }
    return report.write_report(folder, evaluation, **(content | changed))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "demo"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    (folder / "my classes.csv").write_text("")
    (folder / "overlays").mkdir()
    (folder / "overlays" / "street_1.jpg").write_bytes(b"")
    return write(folder)


@pytest.fixture(scope="module")
def tab(page, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        tab.open(page.as_uri())
        yield tab


def test_report_is_self_contained(page):
    text = page.read_text()
    sources = re.findall(r'src="([^"]*)"', text)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    links = re.findall(r'<a href="([^"]*)"', text)
    assert links == ["my%20classes.csv", "result.json", "overlays/street_1.jpg"]
    assert "default-src 'none'" in text


def test_names_are_escaped_in_the_report(page):
    text = page.read_text()
    assert text.count(html.escape(EVIL)) >= 3  # class table, pairs, legend, image
    assert "<script>alert" not in text


def test_report_shows_title_scores_and_protocol(page, tmp_path):
    text = page.read_text()
    for part in ("pixAcc", "91.50", "mIoU", "68.75", "65.12 to 72.01", "whole (scales 1)"):
        assert part in text
    for tag in ("title", "h1"):
        assert f"<{tag}>first on town val: 1,234 images</{tag}>" in text
    assert "<h1>Evaluation: 7 images</h1>" in write(tmp_path, settings={}, images=7).read_text()


def test_report_shows_images_and_legend_before_the_table(page):
    text = page.read_text()
    assert text.index("<figure>") < text.index('id="classes"')
    legend = text.partition('class="panel legend"')[2].partition("</section>")[0]
    assert "road" in legend
    assert "never seen" not in legend


def test_report_defines_known_scores(tmp_path):
    scores = dict.fromkeys(("pixAcc", "mAcc", "mIoU", "fwIoU", "mDice"), 0.5)
    text = write(tmp_path, scores=scores | {"other": 0.5}).read_text()
    assert re.findall(r"<dt>(\w+)<dd>\w+", text) == list(scores)


def test_report_layer_shows_the_prediction(page):
    figures = page.read_text().split("<figure>")[1:]
    assert len(figures) == 3
    found = re.search(r'<img class="prediction"[^>]*base64,([^"]+)"', figures[0])
    assert found is not None
    drawn = cv2.imdecode(np.frombuffer(base64.b64decode(found.group(1)), np.uint8), cv2.IMREAD_COLOR)
    assert drawn is not None
    assert (drawn[..., ::-1] == COLORS[1]).all(), "the worst image was predicted to be all road"


def test_report_without_images_or_errors(tmp_path):
    text = write(tmp_path, samples=[], counts=np.diag([1, 2, 3, 4, 5])).read_text()
    assert "No pixels were confused." in text
    assert "<section hidden>" in text
    assert "$" not in re.sub(r"data:[^\"]*|<script>.*</script>", "", text, flags=re.DOTALL)


def test_pixels_predicted_as_no_class_lower_the_recall(tmp_path):
    counts = np.column_stack([np.diag([6, 2, 3, 4, 5]), [2, 0, 0, 0, 0]])
    text = write(tmp_path, samples=[], counts=counts).read_text()
    values = re.findall(r'<td[^>]* data-value="([^"]*)"', text)
    assert values[1:4] == ["0.75", "0.75", "1"]  # IoU, recall, precision


@pytest.mark.parametrize(("worst", "best", "expected"), [(2, 1, [0, 1, 4]), (4, 3, range(5)), (0, 0, [])])
def test_gallery_has_the_worst_and_best_images(worst, best, expected):
    street = Street()
    found = gather_extremes(street.evaluate(), street, street.predict, worst=worst, best=best)
    assert [image.name for image in found] == [street.names[index] for index in expected]
    for image, index in zip(found, expected, strict=True):
        seen = street.samples[index].label != 255
        truth, ids = street.samples[index].label[seen], street.predict(street.samples[index])[seen]
        iou = jaccard_score(truth, ids, labels=np.unique(truth), average="macro")
        assert image.score == pytest.approx(iou, abs=1e-12)


def test_gallery_images_are_scaled_down_and_unlabeled_ones_left_out():
    street = Street()
    street.samples = [sample(0, 1000, 2000), sample(1)]
    street.samples[1].label[:] = 255
    street.names = [each.name for each in street.samples]
    (found,) = gather_extremes(street.evaluate(), street, lambda image: image.label % 4)
    assert found.image.shape == (320, 640, 3)
    assert found.label.shape == found.prediction.shape == (320, 640)


@pytest.mark.medium
@needs_chromium
def test_column_click_sorts_the_table(tab):
    assert tab.errors() == []
    names = "return [...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[0].dataset.value)"
    click = "document.querySelectorAll('#classes th button')[arguments[0]].click()"
    heads = "[...document.querySelectorAll('#classes th button')]"
    marks = f"return {heads}.map(b => getComputedStyle(b, '::after').content)"
    assert set(tab.run(marks)) == {'" \u2195"'}
    assert tab.run(names) == NAMES
    tab.run(click, 1)  # IoU: sky 900/1050, road 500/570, evil 20/30, tree 300/390
    assert tab.run(names) == [EVIL, "tree", "sky", "road", "never seen"]
    tab.run(click, 1)
    assert tab.run(names) == ["road", "sky", "tree", EVIL, "never seen"]
    tab.run(click, 0)
    assert tab.run(names) == [EVIL, "never seen", "road", "sky", "tree"]
    tab.run(click, 4)  # pixels: a class nobody labeled has the value 0
    assert tab.run(names)[0] == "never seen"
    marks = "return [...document.querySelectorAll('#classes th')].map(h => h.getAttribute('aria-sort'))"
    assert tab.run(marks) == [None, None, None, None, "ascending"]


@needs_chromium
def test_layer_buttons_and_opacity_of_one_and_all_images(tab):
    shown = """
        const seen = (figure, layer) => getComputedStyle(figure.querySelector('.' + layer)).opacity > 0;
        return [...document.querySelectorAll('figure')].map(
            figure => ['label', 'prediction', 'error'].filter(layer => seen(figure, layer)))"""
    click = "document.querySelectorAll(arguments[0])[arguments[1]].click()"
    assert tab.run(shown) == [["error"]] * 3
    tab.run(click, "figure button", 1)
    assert tab.run(shown) == [["label"], ["error"], ["error"]]
    tab.run(click, "#everywhere button", 2)
    assert tab.run(shown) == [["prediction"]] * 3
    tab.run(click, "#everywhere button", 0)
    assert tab.run(shown) == [[]] * 3
    tab.run(click, "#everywhere button", 3)
    tab.run(
        "const s = document.getElementById('opacity'); s.value = 0.25; s.dispatchEvent(new Event('input'))"
    )
    opacity = "return [...document.querySelectorAll('.error')].map(e => getComputedStyle(e).opacity)"
    assert tab.run(opacity) == ["0.25"] * 3


@needs_chromium
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_no_table_is_cut_and_nothing_scrolls_sideways(tmp_path, tab, page, width):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 10**6, (150, 150)) + np.diag([10**8] * 150)
    cut = """return [...document.querySelectorAll("table")]
        .filter(t => t.offsetWidth > t.parentElement.clientWidth).map(t => t.id)"""
    tab.open(write(tmp_path, table=load_builtin_label_map("ade20k"), counts=counts).as_uri())
    tab.resize(width, 800)
    try:
        assert tab.run("return document.documentElement.scrollWidth") <= width
        assert tab.run(cut) == []
    finally:
        tab.open(page.as_uri())


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)], ids=str)
def test_report_has_no_accessibility_violation(tab, width, dark):
    tab.resize(width, 800)
    tab.dark(on=dark)
    tab.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    found = tab.find_violations()
    tab.dark(on=False)
    assert not found


@needs_chromium
def test_confusion_matrix_size_and_dark_mode(tab):
    size = "const i = document.querySelector('.heat'); return [i.width, i.naturalWidth]"
    tab.resize(360, 800)
    shown, drawn = tab.run(size)
    assert shown == drawn
    color = "return getComputedStyle(document.body).backgroundColor"
    light = tab.run(color)
    tab.dark(on=True)
    assert "invert" in tab.run("return getComputedStyle(document.querySelector('.heat')).filter")
    assert tab.run(color) != light
    tab.dark(on=False)
