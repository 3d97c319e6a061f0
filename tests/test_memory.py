"""``runtime.memory``: what is chosen, that it fits, and that a run keeps it."""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import segkit
from segkit import checkpoint, components, training
from segkit.system import failures, memory
from segkit.training import memory as choosing
from segkit.training import trial

ROOT = Path(__file__).parents[1]
GIB = 2**30
STAGES = ["layer1", "layer2", "layer3", "layer4"]
CPU = torch.device("cpu")


def settings(*words):
    return segkit.composed("train", ["data=shapes", "model=deeplabv3_demo", "run_name=x", *words])


def on_paper(fixed, each, gradients, saved):
    """Stands for the trials: bytes that follow a formula, and what was asked."""
    asked_for = []

    def taken(checkpoint, parts, images):
        share = 1 - sum(saved[stage] for stage in checkpoint)
        return fixed + gradients * (parts > 1) + each * share * images

    def tried(asked):
        asked_for.append(asked)
        found = [taken(asked.checkpoint, asked.parts, images) for images in asked.images]
        return trial.Told(STAGES, [int(number) for number in found], "")

    return taken, tried, asked_for


@pytest.mark.parametrize("seed", range(30))
def test_the_choice_is_the_first_that_fits_of_all_ways_in_the_order_that_is_promised(seed, monkeypatch):
    draw = random.Random(seed)
    saved = dict(zip(STAGES, (0.1, 0.1, 0.3, 0.2), strict=True))
    taken, tried, asked_for = on_paper(
        draw.uniform(0.1, 1) * GIB, draw.uniform(0.05, 0.6) * GIB, draw.uniform(0, 0.2) * GIB, saved
    )
    monkeypatch.setattr(trial, "tried", tried)
    batch, frozen = draw.choice([1, 2, 3, 4, 8, 12, 16]), draw.random() < 0.5
    already = draw.choice([(), ("layer3",), ("layer1",)])
    room = draw.uniform(0.5, 8) * GIB
    given = settings(
        f"schedule.batch_size={batch}",
        f"schedule.freeze_norm={frozen}",
        f"runtime.checkpoint=[{','.join(already)}]",
    )
    levels = [already, tuple(s for s in STAGES if s in (*already, "layer3")), tuple(STAGES)]
    parts = [n for n in range(1, batch + 1) if batch % n == 0 and (frozen or batch // n >= min(2, batch))]
    ways = itertools.product(levels, parts) if frozen else ((s, n) for n in parts for s in levels)
    fitting = [(n, s) for s, n in ways if 1.1 * taken(s, n, batch // n) <= room]
    trials = choosing._Trials(given, num_classes=5, device=CPU)
    if not fitting:
        with pytest.raises(ValueError, match="at least, in parts of the fewest images"):
            trials.choice(room, held=0)
        return
    way = trials.choice(room, held=0)
    assert (way.accumulate, way.checkpoint) == fitting[0]
    assert way.bytes == pytest.approx(
        taken(way.checkpoint, way.accumulate, batch // way.accumulate), rel=1e-6
    )
    assert len(asked_for) == len({(asked.checkpoint, asked.parts) for asked in asked_for}) <= 6


def test_a_trial_that_ran_out_of_memory_does_not_fit_and_one_that_failed_is_told(monkeypatch):
    given = settings("schedule.batch_size=8")
    for said in ("torch.OutOfMemoryError: CUDA out of memory. Tried ...", ""):
        monkeypatch.setattr(trial, "tried", lambda asked, said=said: trial.Told(STAGES, [GIB], said))
        with pytest.raises(ValueError, match="a step takes inf at least"):
            choosing._Trials(given, num_classes=5, device=CPU).choice(8 * GIB, held=0)
    monkeypatch.setattr(trial, "tried", lambda asked: trial.Told([], [], "KeyError: 'name'"))
    with pytest.raises(ValueError, match="the trial of a step failed: KeyError: 'name'"):
        choosing._Trials(given, num_classes=5, device=CPU).choice(8 * GIB, held=0)


def test_a_run_that_goes_on_keeps_what_was_chosen_and_chooses_anew_when_asked_for_another(
    monkeypatch, capsys
):
    saved = dict.fromkeys(STAGES, 0.2)
    _, tried, asked_for = on_paper(0.2 * GIB, 0.5 * GIB, 0.1 * GIB, saved)
    monkeypatch.setattr(trial, "tried", tried)
    monkeypatch.setattr(memory, "held", lambda: 0)
    how = {"num_classes": 5, "device": CPU}
    given = settings("schedule.batch_size=8", "runtime.memory=1")
    chosen = choosing.fitted(given, before=None, **how)
    assert (chosen["schedule"]["accumulate"], chosen["runtime"]["checkpoint"]) == (2, tuple(STAGES))
    assert "a step takes 0.70 of 1.00 GiB with 4 images in a part" in capsys.readouterr().out
    asked_for.clear()
    assert choosing.fitted(given, before=chosen, **how) == chosen
    assert not asked_for
    other = settings("schedule.batch_size=8", "runtime.memory=9")
    assert choosing.fitted(other, before=chosen, **how)["schedule"]["accumulate"] == 1
    assert choosing.fitted(settings(), before=chosen, **how) == settings()


def test_an_end_of_memory_in_a_step_ends_with_settings_that_would_fit(monkeypatch):
    saved = dict.fromkeys(STAGES, 0.2)
    _, tried, _ = on_paper(0.2 * GIB, 0.5 * GIB, 0.1 * GIB, saved)
    monkeypatch.setattr(trial, "tried", tried)
    monkeypatch.setattr(memory, "held", lambda: 0)
    monkeypatch.setattr(memory, "peak", lambda device: GIB)
    given = settings("schedule.batch_size=8", "sizes.crop=32")
    train_set = components.build("data.datasets", given["data"], split="train")
    run = training.of_settings(given, train_set, CPU)

    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(run.runner, "forward", full)
    parts, _ = next(training.steps_left(run, given, train_set))
    with pytest.raises(RuntimeError) as met, choosing.telling_what_fits(run, given):
        training.train_step(run, parts)
    told = failures.out_of_memory(met.value)
    assert (
        "during a training step: schedule.accumulate=2 runtime.checkpoint=[layer1,layer2,layer3,layer4]"
        in told
    )
    assert "would fit: a step takes 0.70 GiB then of the 1.00 there were; make schedule.batch_size" in told


def test_limits_of_containers_leave_less_and_what_was_only_read_does_not_count(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 250\nactive_file 9\n")
    assert memory._of_cgroups(tmp_path) == [550]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_cgroups(tmp_path) == []


MEASURED = """
import sys
import torch
from segkit.system import memory
import train_seg
sys.argv[0] = "train_seg.py"
try:
    train_seg.main()
finally:
    print(memory.peak(torch.device("cpu")))
"""


def trained(folder, *words):
    """What the real command says, and what it held at most."""
    common = [
        "data=shapes",
        "model=deeplabv3_demo",
        "data.train_scenes=16",
        "data.val_scenes=1",
        "device=cpu",
    ]
    common += ["schedule.epochs=null", "schedule.iterations=3", "loader.workers=0", f"run_dir={folder}"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *common, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return done.stdout, done.stderr, int(done.stdout.split()[-1])


@pytest.mark.slow
def test_a_stated_budget_is_kept_by_the_command_and_stored_with_the_run(tmp_path):
    words = ["schedule.batch_size=16", "sizes.crop=128", "run_name=fits"]
    out, err, free = trained(tmp_path, *words, "run_name=free")
    assert "complete" in out, err
    budget = 0.9 * free / GIB  # with all stages run again, and a tenth to spare, 0.88 of it are needed
    out, err, peak = trained(tmp_path, *words, f"runtime.memory={budget}")
    assert "complete" in out, err
    line = next(line for line in out.splitlines() if "a step takes" in line)
    predicted = float(line.split("a step takes ")[1].split(" of")[0])
    assert peak <= budget * GIB
    assert predicted == pytest.approx(peak / GIB, rel=0.1)
    kept = checkpoint.settings_of(tmp_path / "fits")
    assert f"schedule.accumulate={kept['schedule']['accumulate']} " in line
    assert f"runtime.checkpoint=[{','.join(kept['runtime']['checkpoint'])}]" in line
    out, err, _ = trained(
        tmp_path, *words, f"runtime.memory={budget}", "resume=true", "schedule.iterations=4"
    )
    assert "measuring" not in out
    assert (
        checkpoint.settings_of(tmp_path / "fits")["schedule"]["accumulate"] == kept["schedule"]["accumulate"]
    )
    out, err, _ = trained(tmp_path, *words, "run_name=small", "runtime.memory=0.1")
    assert err.startswith("error: runtime.memory=0.1: there are 0.10 GiB, and a step takes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "parts", "checkpoint"),
    [
        (("sizes.crop=160",), 1, ()),
        (
            ("sizes.crop=96", "model.backbone.variant=26", "schedule.ema=0.9"),
            1,
            ("layer1", "layer2", "layer3"),
        ),
        (("sizes.crop=128", "model/head=pspnet", "model.backbone.output_stride=16"), 2, ()),
        (("sizes.crop=128", "model/head=fcn", "schedule/optimiser=adamw", "model.backbone.width=32"), 1, ()),
    ],
)
def test_two_small_steps_predict_the_large_one(words, parts, checkpoint):
    asked = trial.Asked(settings(*words), 5, "cpu", (2, 4), parts, checkpoint, several=False)
    line = choosing._line(asked.images, trial.tried(asked))
    (true,) = trial.tried(asked._replace(images=(12,))).bytes
    process = 500 * 2**20  # what a process holds before it trains
    assert process + line.at(12) == pytest.approx(process + true, rel=0.1)
    assert line.at(12) == pytest.approx(true, rel=0.2)
