"""Training step, schedule, and saved and restored state."""

import copy
import tracemalloc

import pytest
import torch
from torch import nn

import runs
from runs import assert_same, make_schedule
from segkit import training
from segkit.config import compose, registry
from segkit.data import loaders, transforms
from segkit.data.datasets import shapes
from segkit.runtime import precision as runtime_precision
from segkit.training import advice
from segkit.types import IGNORE_INDEX, Batch, Logits

SCENES = shapes.build("train", size=40, train_scenes=7)


class Tiny(nn.Module):
    """A segmenter without batch normalization, so that parts of a batch do not see each other."""

    def __init__(self, num_classes=3, dropout=0.0, norm=False):
        super().__init__()
        self.norm = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(8, num_classes, 1)
        self.num_classes = num_classes

    def forward(self, image):
        return Logits(self.head(self.dropout(self.backbone(self.norm(image.float() / 255)).relu())))


def batch(size=4, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (size, 3, 6, 7), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 3, (size, 6, 7), dtype=torch.uint8, generator=generator)
    label[0, :5] = IGNORE_INDEX  # parts hold different numbers of scored pixels
    return Batch(image, label, [str(i) for i in range(size)])


def start_run(loss=None, *, dropout=0.0, num_classes=3, norm=False, precision="float32", runtime=(), **how):
    torch.manual_seed(0)
    model, runtime = Tiny(num_classes, dropout=dropout, norm=norm), {"precision": precision, **dict(runtime)}
    return runs.start_run(model, loss, runtime=runtime, **{"lr": 0.5, **how})


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def split_batch(whole, count):
    size = len(whole.names) // count
    return [
        Batch(whole.image[i : i + size], whole.label[i : i + size], whole.names[i : i + size])
        for i in range(0, len(whole.names), size)
    ]


MIXED = {"cross_entropy": {"weight": 0.375, "average": "all"}, "focal": {"weight": 2.0}, "dice": {}}


@pytest.mark.parametrize("loss", [{}, {"average": "all"}, {"name": "mixed", "parts": MIXED}])
def test_accumulated_step_equals_the_undivided_step(loss):
    loss = registry.build("losses", {"name": "cross_entropy", **loss}, num_classes=3)
    whole, divided = start_run(loss), start_run(loss, accumulate=4)
    for seed in range(3):
        first = training.train_step(whole, [batch(seed=seed)])
        second = training.train_step(divided, split_batch(batch(seed=seed), 4))
        torch.testing.assert_close(first.losses, second.losses)
    torch.testing.assert_close(weights(whole), weights(divided))


def test_step_is_sgd_on_the_mean_over_scored_pixels():
    run = start_run()
    model = Tiny()
    model.load_state_dict(run.model.state_dict())
    data = batch()
    loss = nn.functional.cross_entropy(model(data.image).main, data.label.long(), ignore_index=IGNORE_INDEX)
    loss.backward()
    step = training.train_step(run, [data])
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert float(step.losses["main"]) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert float(step.gradient_norm) == pytest.approx(float(gradient.norm()), rel=1e-5)
    for before, after in zip(model.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.5 * (before.grad + 1e-4 * before))


def test_clip_gradient_bounds_the_step_and_reports_the_norm():
    free, clipped = start_run(), start_run(clip_gradient=0.01)
    start = weights(free)
    norm = training.train_step(free, [batch()]).gradient_norm
    assert float(training.train_step(clipped, [batch()]).gradient_norm) == float(norm) > 0.01
    moved = (weights(clipped) - start).norm()
    assert float(moved) == pytest.approx(0.5 * 0.01, rel=2e-2)  # weight decay adds a little


def test_restored_run_takes_bit_equal_steps(tmp_path):
    straight = start_run(dropout=0.5, ema=0.9)
    for i in range(3):
        training.train_step(straight, [batch(seed=i)])
    torch.save(straight.state(), tmp_path / "state.pt")
    resumed = start_run(dropout=0.5, ema=0.9)
    torch.rand(100)  # the generator's position does not matter
    resumed.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same(resumed.state(), straight.state())
    for run in (straight, resumed):
        training.train_step(run, [batch(seed=3)])
    assert_same(resumed.state(), straight.state())


@pytest.mark.parametrize(("optimizer", "accumulate"), [("sgd", 1), ("adamw", 2)])
def test_batch_without_scored_pixels_changes_nothing(optimizer, accumulate, caplog):
    run = start_run(
        optimizer={"name": optimizer, "weight_decay": 0.1}, accumulate=accumulate, ema=0.5, norm=True
    )
    training.train_step(run, split_batch(batch(), accumulate))
    before = copy.deepcopy(run.state())
    data = batch(seed=1)
    data = data._replace(label=torch.full_like(data.label, IGNORE_INDEX))
    for _ in range(2):
        step = training.train_step(run, split_batch(data, accumulate))
    assert sum(step.losses.values()) == 0
    assert caplog.text.count("no pixel of the batch is scored") == 1
    after = run.state()
    assert after["iteration"] == 3
    for key in ("model", "average", "optimizer"):
        assert_same(after[key], before[key], ignore=("lr",))


def resume_from(state, **schedule):
    run = start_run(**schedule)
    run.restore(state)
    return run


@pytest.fixture
def saved_state():
    """The state of a run on nine images after two steps."""
    run = start_run(samples=9)
    for seed in range(2):
        training.train_step(run, [batch(seed=seed)])
    return copy.deepcopy(run.state())


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"batch_size": 2}, r"schedule.batch_size=2: the run was trained with 4 up to iteration 2"),
        ({"samples": 8}, r"number of training images=8: the run was trained with 9"),
        ({"drop_last": True}, r"samples of an epoch \(schedule.drop_last\)=8: the run was trained with 9"),
        ({"iterations": 1}, "schedule: ends at iteration 1, and the run has done 2"),
    ],
)
def test_resume_at_another_position_is_refused(now, message, saved_state):
    with pytest.raises(ValueError, match=message):
        resume_from(saved_state, **{"samples": 9, **now})


def test_changed_files_are_reported_on_resume():
    before, now = start_run(), start_run()
    before.files, before.val_files, before.best = "a", "b", 0.5
    now.files, now.val_files = "a", "b"
    now.restore(before.state())
    assert (now.notes, now.best) == ([], 0.5)
    now.files, now.val_files = "c", "d"
    now.restore(before.state())
    assert "the training files have other names" in now.notes[0]
    assert "the validation files changed since the checkpoint, so its best mIoU 50.00%" in now.notes[1]
    assert (now.best, now.val_files) == (None, "d")
    now.metric, now.val_files = "pixAcc", "b"
    now.restore(before.state())
    assert (now.best, now.metric) == (None, "pixAcc")


def test_finished_run_without_validation_is_validated():
    run = start_run(iterations=2)
    for seed in range(2):
        training.train_step(run, [batch(seed=seed)])
    assert resume_from(run.state(), iterations=2).validation_pending
    run.last_validation = 2
    assert not resume_from(run.state(), iterations=2).validation_pending


def test_restore_refuses_incomplete_states(saved_state):
    wrong = {
        "position": [None, {}, {"batch_size": 4}],
        "optimizer": [None, {}, {"state": {}, "param_groups": [1]}],
        "guard": [None, {}, [1]],
        "model": [None],
        "iteration": [{}, "4"],
    }
    damaged = [{**saved_state, key: value} for key, values in wrong.items() for value in values]
    missing = (*wrong, "validation_pending", "val_files")
    damaged += [{name: value for name, value in saved_state.items() if name != key} for key in missing]
    for state in damaged:
        with pytest.raises(ValueError, match="the checkpoint "):
            resume_from(state, samples=9)


def test_restore_refuses_momentum_of_another_shape(saved_state):
    saved_state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"momentum_buffer has shape \(2,\) for a weight of"):
        resume_from(saved_state, samples=9)


@pytest.mark.parametrize(("before", "now"), [("float32", "fp16"), ("fp16", "bf16")])
def test_run_resumes_in_another_precision(before, now):
    run = start_run(precision=before)
    training.train_step(run, [batch()])
    after = resume_from(run.state(), precision=now)
    training.train_step(after, [batch(seed=1)])
    assert after.iteration == 2
    assert weights(after).isfinite().all()


def test_ema_distance_is_relative_to_the_norm_of_the_weights():
    run = start_run(ema=0.9)
    assert run.ema_model is not None
    assert run.ema_distance() == 0
    with torch.no_grad():
        for weight in run.ema_model.parameters():
            weight.mul_(1.25)
    assert float(run.ema_distance()) == pytest.approx(0.25)
    assert start_run().ema_distance() is None


def test_schedule_length_and_due_iterations():
    by_epochs = make_schedule(iterations=None, epochs=2.5)
    assert by_epochs.length(10) == 7  # ceil(25 / 4)
    assert [t for t in range(1, 8) if by_epochs.is_due(t, every=1, samples=10)] == [3, 5, 7]
    by_iterations = make_schedule(iterations=5)
    assert [t for t in range(1, 6) if by_iterations.is_due(t, every=2, samples=10)] == [2, 4, 5]


@pytest.mark.parametrize(
    ("data", "model", "samples", "steps"),
    [
        ("ade20k", "deeplabv3_resnest101", 20210, 227340),
        ("cityscapes", "deeplabv3_resnest101", 2975, 89040),
    ],
)
def test_recipes_have_the_published_number_of_steps(data, model, samples, steps):
    words = [f"data={data}", "data.root=none", f"model={model}", "evaluation.every=1"]
    settings = compose.compose_settings("train", words)["schedule"]
    schedule = training.Schedule(**settings)
    assert schedule.length(samples) == steps
    per_epoch = samples // schedule.batch_size
    dues = [t for t in range(1, 3 * per_epoch + 1) if schedule.is_due(t, every=1, samples=samples)]
    assert dues == [per_epoch, 2 * per_epoch, 3 * per_epoch]
    policy = registry.build("training.lr_schedules", schedule.lr_schedule, total=steps)
    for t in (0, 1, 12345, steps // 2, steps - 1):  # as the original writes it, to the last bit
        assert schedule.lr * policy(t) == schedule.lr * pow((1 - 1.0 * t / steps), 0.9)


def test_drop_last_keeps_a_set_smaller_than_a_batch():
    schedule = make_schedule(batch_size=16, iterations=None, epochs=10, drop_last=True)
    assert schedule.length(5) == 4  # ceil(50 / 16)
    assert schedule.length(16) == schedule.length(31) == 10


def test_memory_does_not_depend_on_the_schedule_length():
    steps, order = range(100_000_000), loaders.SampleOrder(7, 0, 4)
    batches = loaders.TrainingLoader(SCENES, lambda sample, seed: sample, order, iterations=steps)
    tracemalloc.start()
    assert len(batches) == 100_000_000
    next(iter(batches))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("length", [{"epochs": 1, "iterations": 1}, {"epochs": None, "iterations": None}])
def test_schedule_with_two_lengths_or_none_is_refused(length):
    with pytest.raises(ValueError, match=r"exactly one must be set. Set the other one to null"):
        make_schedule(**length)


@pytest.mark.parametrize(
    ("crop", "base", "share"),
    [
        (80, None, None),  # scenes of 40x40 at up to twice their size
        ((80, 240), 40, "33%"),
        (400, (50, 50), "6%"),
        (None, 50, None),
    ],
)
def test_crops_that_are_mostly_padding_are_reported(crop, base, share):
    warnings = list(advice.warn_padding(SCENES, transforms.build(crop_size=crop, base_size=base)))
    assert len(warnings) == (share is not None)
    assert all(f"images cover at most {share} of a crop" in warning for warning in warnings)


def test_one_scored_class_is_refused():
    with pytest.raises(ValueError, match="Make background a class"):
        start_run(num_classes=1)


@pytest.mark.parametrize(("units", "precision"), [(True, "bf16"), (False, "float32")])
def test_precision_auto_is_bf16_where_the_device_has_units(units, precision, monkeypatch, caplog):
    monkeypatch.setattr(runtime_precision, "supports_bf16", lambda _: units)
    cpu = torch.device("cpu")
    assert training.Runtime(precision="auto").resolve(cpu).precision == precision
    with training.Runtime(precision="auto").autocast(cpu):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == runtime_precision.PRECISION[precision]
    assert not caplog.records
    assert training.Runtime(precision="bf16").resolve(cpu).precision == "bf16"
    assert ("runtime.precision=float32" in caplog.text) is not units


def test_optimize_cpu_auto_means_cpu_without_compile(monkeypatch):
    monkeypatch.setattr(runtime_precision.shutil, "which", lambda name: name)
    for device, settings, expected in (
        ("cpu", {}, True),
        ("cpu", {"optimize_cpu": False}, False),
        ("cpu", {"compile": True}, False),
        ("mps", {}, False),
    ):
        assert training.Runtime(**settings).resolve(torch.device(device)).optimize_cpu is expected
    with pytest.raises(ValueError, match=r"runtime.optimize_cpu=true: must be auto or false with .*compile"):
        training.Runtime(optimize_cpu=True, compile=True).resolve(torch.device("cpu"))


def test_compile_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setattr(runtime_precision.shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match=r"runtime.compile=true: needs a C\+\+ compiler"):
        training.Runtime(compile=True).resolve(torch.device("cpu"))


def test_batch_size_must_be_a_multiple_of_accumulate():
    with pytest.raises(ValueError, match=r"schedule.batch_size=4: must be a multiple of 3"):
        make_schedule(accumulate=3)
