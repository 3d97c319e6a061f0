"""``make gpu`` on a CPU: figures, interruption, parts that fail or cannot run."""

import json
import subprocess
import sys
from argparse import Namespace

import pytest
import torch
from test_benchmarks import benchmarks  # noqa: F401 - a fixture
from test_signals import wait_until

from conftest import ROOT, run_command

pytestmark = pytest.mark.usefixtures("benchmarks")
QUICK = ["benchmarks/gpu.py", "--device", "cpu", "--quick"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def read_parts(folder):
    file = folder / "results.json"
    return json.loads(file.read_text())["parts"] if file.exists() else {}


@pytest.mark.slow
def test_all_parts(tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    names = ["ceiling", "evaluation", "training", "tests", "step_50"]  # step_101 is the same when quick
    printed = run_command(*QUICK, "--output", tmp_path, "--parts", *names).stdout
    parts, table = read_parts(tmp_path), (tmp_path / "results.md").read_text()
    assert [*parts] == names
    found = {}
    for name, part in parts.items():
        assert part["status"] == "complete"
        for figure in part["figures"]:
            assert f"{name}: {figure['figure']}  " in printed
            assert f"| {name} | {figure['figure']} | " in table
            found[figure["figure"]] = figure
    for mode in ("bf16", "bf16_compiled"):
        ours = found[f"segkit, {mode}: images/s"]
        best = found[f"{ours['peer']}, {mode}: images/s"]
        assert ours["ratio"] == pytest.approx(ours["value"] / best["value"], rel=0.01)
        assert 0 < ours["share"] < 1
    assert found["segkit compiled to smp eager"]["value"] > 0
    assert [figure["value"] for figure in parts["tests"]["figures"]] == ["passed"] * 3
    assert found["experiment=demo: images/s, median"]["value"] > 0
    assert found["float32: one image"]["peer"] == "plain"
    assert found["float32: pixels that agree with the loop"]["value"] > 99


@pytest.mark.medium
def test_killed_call_is_continued_and_failed_parts_run_again(tmp_path, monkeypatch, capsys):
    import gpu

    command = [*QUICK, "--output", str(tmp_path), "--parts", "ceiling", "training"]
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True) as script:
        wait_until((tmp_path / "training.log").exists, seconds=120)
        script.kill()
        assert "ceiling: matrix products, bf16" in script.stdout.read()
    monkeypatch.setattr(sys, "argv", command)
    (tmp_path / "training").write_text("in the way of the run folder")
    with pytest.raises(SystemExit, match="1"):
        gpu.main()
    printed = capsys.readouterr().out
    assert printed.startswith("ceiling: complete since an earlier call\ntraining: failed: NotADirectoryError")
    assert "* training: failed: NotADirectoryError" in (tmp_path / "results.md").read_text()

    (tmp_path / "training").unlink()
    gpu.main()
    assert "training: experiment=demo: mIoU" in capsys.readouterr().out
    assert read_parts(tmp_path)["training"]["status"] == "complete"


def test_missing_packages_skip_a_part_and_a_slow_part_is_stopped(monkeypatch, tmp_path, capsys):
    import gpu

    assert sum(limit for limit, _ in gpu.PARTS.values()) < 470  # seconds
    given = Namespace(device="cpu", quick=True, output=tmp_path, parts=["tests", "ceiling"], patience=1)
    monkeypatch.setitem(gpu.PARTS, "tests", (9, ["pytest", "no_package", "no_other"]))
    monkeypatch.setitem(gpu.PARTS, "ceiling", (0.2, []))
    results = {"setup": {}, "parts": {}}
    gpu.run_parts(given, results)
    assert capsys.readouterr().out.splitlines() == [
        "tests: skipped: no_package, no_other are not installed",
        "ceiling: failed: stopped after its limit of 0 s",
    ]
    assert read_parts(tmp_path) == results["parts"]


def test_machine_without_gpu_is_refused(tmp_path, monkeypatch):
    import gpu

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="torch finds no CUDA device"):
        gpu.main()
