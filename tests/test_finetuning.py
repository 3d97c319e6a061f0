"""Fine-tuning: loaded and re-initialized weights, freezing, layer-wise rates, early stopping."""

import dataclasses
import math
import random
import re
import signal

import numpy as np
import pytest
import torch
from torch import nn

from conftest import write_image
from runs import KillAt, Run, assert_same_end, ranks
from segkit import checkpoint, training
from segkit.config import compose
from segkit.data.label_map import Entry, LabelMap
from segkit.evaluation import Evaluation
from segkit.losses import cross_entropy
from segkit.models import segmenter
from segkit.models.network import Segmenter
from segkit.training import advice, best_metric, freezing, initial_model, parameter_groups
from segkit.types import Batch

BACKBONE = {"name": "resnest", "variant": "14", "width": 8, "drop_block": 0.1}
MODEL = {"backbone": BACKBONE, "head": {"name": "deeplabv3", "width": 8}, "auxiliary": {"name": "fcn"}}


def build_model(num_classes=3, **changed):
    return segmenter.build(num_classes, **{**MODEL, **changed})


def batch(size=2, seed=0, side=32):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 3, (size, side, side), dtype=torch.uint8, generator=generator)
    return Batch(image, label, [str(i) for i in range(size)])


def start_run(model, *, metric="mIoU", optimizer="sgd", size=2, optimize_cpu="auto", **schedule):
    rule = {"optimizer": {"name": optimizer}, "lr_schedule": {"name": "constant"}, "iterations": 100}
    return training.setup_training(
        model,
        cross_entropy.build(3),
        samples=8,
        schedule=training.Schedule(**{"lr": 0.01, "batch_size": size, **rule, **schedule}),
        runtime=training.Runtime(optimize_cpu=optimize_cpu),
        device=torch.device("cpu"),
        seed=1,
        metric=metric,
    )


class Odd(nn.Module):
    """A backbone of none of our names, with a branch that two stages share and a part that is not used."""

    out_channels, output_stride = [4, 4, 4, 4], 2

    def __init__(self):
        super().__init__()
        self.z, self.shared = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 4, 1)
        self.b, self.a = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.unused = nn.Linear(2, 2)

    def forward(self, image):
        first = self.shared(self.z(image))
        third = self.b(first)
        return [first, first * 2, third, self.shared(self.a(third))]


def stage_by_name(name):
    """Return the stage of a parameter by its name in the ResNet family."""
    return int(name[5]) if name.startswith("layer") else 1


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_stage_of_a_parameter_does_not_depend_on_its_name(output_stride):
    model = build_model(backbone={**BACKBONE, "variant": "26", "output_stride": output_stride})
    found = freezing.first_stage_of_parameters(model)
    assert {name: found[p] for name, p in model.backbone.named_parameters()} == {
        name: stage_by_name(name) for name, _ in model.backbone.named_parameters()
    }
    assert all(module.training for module in model.modules())


def test_shared_branch_belongs_to_its_first_stage():
    backbone = Odd()
    model = Segmenter(backbone, nn.Identity(), num_classes=2)
    found = freezing.first_stage_of_parameters(model)
    expected = {"z": 1, "shared": 1, "b": 3, "a": 4, "unused": 4}
    assert {name.split(".")[0]: found[p] for name, p in backbone.named_parameters()} == expected


@pytest.mark.medium
@pytest.mark.parametrize(
    ("freeze", "freeze_norm", "optimizer"),
    [(1, False, "sgd"), (2, True, "adamw"), (4, False, "adamw"), (0, True, "sgd")],
)
def test_frozen_tensors_do_not_change_in_fifty_steps(freeze, freeze_norm, optimizer):
    torch.manual_seed(0)
    model = build_model()
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = start_run(model, freeze=freeze, freeze_norm=freeze_norm, optimizer=optimizer, ema=0.9, lr=0.001)
    for seed in range(50):
        training.train_step(run, [batch(seed=seed, side=16)])

    def frozen(name):
        inner = name.removeprefix("backbone.")
        of_stage = inner != name and stage_by_name(inner) <= freeze
        return of_stage or (freeze_norm and name.rpartition(".")[0] in norms)

    assert run.ema_model is not None
    for state in (model.state_dict(), run.ema_model.state_dict()):
        same = {name: torch.equal(tensor, before[name]) for name, tensor in state.items()}
        assert [name for name in same if frozen(name) and not same[name]] == []
        moved = [name for name in same if not frozen(name) and not same[name]]
        assert len(moved) >= 0.8 * sum(not frozen(name) for name in same)


def stored_bytes(run):
    """Bytes that a step keeps of its forward pass, besides the weights."""
    found, weights = {}, {p.data_ptr() for p in run.model.parameters()}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        training.train_step(run, [batch(side=64)])
    return sum(size for place, size in found.items() if place not in weights)


@pytest.mark.medium
def test_no_activations_are_stored_below_frozen_stages():
    torch.manual_seed(0)
    runs = [start_run(build_model(), freeze=freeze, optimize_cpu=False) for freeze in range(5)]
    sizes = [stored_bytes(run) for run in runs]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.75 * sizes[0]
    frozen = [p for p in runs[2].model.parameters() if not p.requires_grad]
    assert frozen
    assert all(p.grad is None for p in frozen)
    assert not {id(p) for p in frozen} & {id(p) for g in runs[2].optimizer.param_groups for p in g["params"]}


@pytest.mark.medium
def test_freeze_norm_trains_with_a_batch_of_one():
    with pytest.raises(ValueError, match=r"a training batch of one .* schedule.batch_size"):
        training.train_step(start_run(build_model(), size=1), [batch(1)])
    run = start_run(build_model(), size=1, freeze_norm=True)
    losses = [float(training.train_step(run, [batch(1)]).losses["main"]) for _ in range(30)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("seed", range(5))
def test_layer_decay_sets_the_rate_of_each_stage(seed):
    draw = random.Random(seed)
    decay, lr, times = draw.uniform(0.3, 0.95), draw.uniform(1e-4, 1e-2), draw.choice([1, 10])
    exempt = draw.random() < 0.5
    model = build_model()
    groups = parameter_groups.parameter_groups(
        model, lr=lr, head_lr_multiplier=times, decay_norm_and_bias=not exempt, layer_decay=decay
    )
    rates = {p: (g["lr"], g["base_lr"], g.get("weight_decay")) for g in groups for p in g["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        inner = name.removeprefix("backbone.")
        rate = lr * times if inner == name else lr * decay ** (4 - stage_by_name(inner))
        fixed = 0.0 if exempt and parameter.ndim == 1 else None
        assert rates[parameter] == (pytest.approx(rate), pytest.approx(rate), fixed), name
    assert groups[0]["lr"] == lr, "the first group is shown as the run's"


def table(*names):
    return LabelMap("mine", tuple(Entry(k, name, (10 * k, 0, 0)) for k, name in enumerate(names)))


def initial_model_for(weights, *names, **changed):
    return initial_model.build_model({**MODEL, "weights": str(weights), **changed}, table(*names))


def save(path, model, *names):
    """A checkpoint of a run whose classes had these names."""
    about = {"settings": {"model": MODEL}, "classes": table(*names).to_plain(), "iteration": 5}
    checkpoint.write_checkpoint(path, {**about, "model": model.state_dict()})
    return path


@pytest.mark.parametrize("names", [("sky", "sea"), ("sky", "sea", "tree", "road"), ("sky", "sea", "cat")])
def test_other_classes_renew_only_the_classifiers(names, tmp_path):
    source = build_model(3)
    file = save(tmp_path / "best.pt", source, "sky", "sea", "tree")
    torch.manual_seed(7)
    fresh = build_model(len(names)).state_dict()
    torch.manual_seed(7)
    model, (messages,) = initial_model_for(file, *names)
    changed = initial_model.find_class_tensors(source, MODEL)
    for name, tensor in model.state_dict().items():
        expected = fresh if name in changed else source.state_dict()
        assert torch.equal(tensor, expected[name]), name
    assert {n.split(".")[0] for n in changed} == {"head", "auxiliary"}
    assert len(changed) == 4
    assert f"{len(fresh) - 4} tensors loaded" in messages
    assert f"re-initialized for other classes: {', '.join(sorted(changed))}; left out: none" in messages


def test_same_classes_keep_all_weights(tmp_path):
    source = build_model(2)
    model, (messages,) = initial_model_for(save(tmp_path / "best.pt", source, "sky", "sea"), "sky", "sea")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), model.parameters(), strict=True))
    assert "re-initialized for other classes: none" in messages


def test_weights_without_class_names_are_taken_in_order(tmp_path):
    torch.save(build_model(2).state_dict(), tmp_path / "published.pth")
    _, messages = initial_model_for(tmp_path / "published.pth", "sky", "sea")
    assert (
        "does not name its classes; they are assumed to be the 2 classes of mine, in this order"
        in messages[1]
    )
    _, messages = initial_model_for(tmp_path / "published.pth", "sky", "sea", "tree")
    assert len(messages) == 1


def test_weights_of_another_architecture_are_refused(tmp_path):
    file = save(tmp_path / "best.pt", build_model(3), "sky", "sea", "tree")
    with pytest.raises(ValueError, match=r"of another shape: backbone\.conv1"):
        initial_model_for(file, "sky", "sea", backbone={**BACKBONE, "width": 16})
    with pytest.raises(ValueError, match="of another shape"):  # and no command but a training renews anything
        segmenter.build(2, **MODEL, weights=str(file))


def result(value, class_iou=(0.25, math.nan)):
    scores = dict.fromkeys(("pixAcc", "mAcc", "fwIoU", "mDice"), 0.0) | {"mIoU": value}
    return Evaluation(torch.zeros(2, 2), scores, None, 0.0, {"IoU": list(class_iou)})  # pyright: ignore


def test_metric_value_of_each_metric():
    losses = {"main": 0.5, "aux": 0.25}
    names = ["sky", "sea"]
    found = {
        metric: best_metric.metric_value(metric, result(0.4), losses, names)
        for metric in ("mIoU", "pixAcc", "val/loss", "iou/sky", "iou/sea")
    }
    assert found["mIoU"] == 0.4
    assert found["val/loss"] == 0.75
    assert found["iou/sky"] == 0.25
    assert math.isnan(found["iou/sea"])


@pytest.mark.parametrize(
    ("metric", "messages"),
    [
        ("iou/skyy", r"Did you mean checkpoint\.metric=iou/sky\?"),
        ("miou", r"Did you mean checkpoint\.metric=mIoU\?"),
        ("loss", r"mIoU, pixAcc, mAcc, fwIoU, mDice, val/loss, or iou/CLASS with a class of sky, sea\."),
    ],
)
def test_unknown_metric_is_refused_with_suggestions(metric, messages):
    with pytest.raises(ValueError, match=f"checkpoint.metric={metric}: must be one of .*{messages}"):
        best_metric.check_metric(metric, ["sky", "sea"])


def test_best_and_patience_match_a_naive_search():
    tiny = start_run(segmenter.Segmenter(nn.Conv2d(3, 2, 1), nn.Identity(), num_classes=2))
    draw = random.Random(0)
    for _ in range(200):
        metric, patience = draw.choice(["mIoU", "val/loss", "iou/sky"]), draw.randint(1, 4)
        schedule = dataclasses.replace(tiny.schedule, patience=patience)
        run = dataclasses.replace(tiny, metric=metric, schedule=schedule)
        values = [draw.choice([math.nan, *(k / 4 for k in range(5))]) for _ in range(12)]
        for count, value in enumerate(values, start=1):
            was_best = run.update_best(value)
            seen = [-v if metric == "val/loss" else v for v in values[:count]]
            seen = [-math.inf if math.isnan(v) else v for v in seen]
            at = seen.index(max(seen)) if max(seen) > -math.inf else None  # NaN is never the best
            stale = 0 if at is None else count - 1 - at
            assert was_best == (at == count - 1)
            assert run.validations_since_best == stale
            assert run.best == (None if at is None else values[at])
            assert run.is_out_of_patience == (stale >= patience)
            assert len(run.remaining_iterations) == (0 if run.is_out_of_patience else 100)


@pytest.mark.parametrize("metric", ["iou/sea", "mIoU", "val/loss"])
def test_undefined_metric_is_explained(metric):
    messages = best_metric.explain_undefined(metric, math.nan)
    assert messages.startswith(f"checkpoint.metric={metric} is ")
    assert "Choose another checkpoint.metric" in messages
    assert ("no validation image has a pixel of 'sea'" in messages) == (metric == "iou/sea")


STILL = ["schedule.lr=1e-12", "schedule.freeze_norm=true", "schedule.patience=2", "evaluation.every=2"]


@pytest.mark.medium
def test_early_stopping_is_exact_across_resumes(tmp_path):
    """Nothing moves, so the first of the validations at 2, 4, 6, 8 and 10 stays the best."""
    whole = Run(tmp_path / "whole", *STILL)
    killed = tmp_path / "killed"
    for kill in [
        KillAt("segkit.evaluation.evaluate", 2),  # in the validation at 4
        KillAt("segkit.training.validation.release_memory", 1),  # after it, before it is saved
    ]:
        assert Run(killed, *STILL, "resume=auto", before=kill).exit_status() == -signal.SIGKILL
    last = Run(killed, *STILL, "resume=auto")
    assert_same_end(whole.complete(), last.complete())
    assert checkpoint.read_checkpoint(killed / "last.pt")["iteration"] == 6
    assert "stopping early at 6 of 10 iterations: the last 2 validations found no better mIoU" in last.output
    again = Run(killed, *STILL, "resume=true")
    again.complete()
    assert checkpoint.read_checkpoint(killed / "last.pt")["iteration"] == 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six images of two classes in the layout of ``data=folder``."""
    root = tmp_path_factory.mktemp("photos")
    (root / "classes.csv").write_text("id,name,color\n0,grass,#00ff00\n1,stone,#808080\n")
    draw = np.random.default_rng(0)
    for index in range(6):
        mask = np.zeros((40, 48), np.uint8)
        mask[:, draw.integers(10, 40) :] = 1
        write_image(root / f"masks/{index}.png", mask)
        noise = draw.integers(0, 40, (40, 48, 3)) + 120 * mask[..., None]
        write_image(root / f"images/{index}.png", noise.astype(np.uint8))
    return root


def train_arguments(photos, tmp_path, *rest):
    """What a user types, and what keeps it small."""
    where = [f"data.root={photos}", "data.train_split=80%", "data.val_split=20%", f"run_dir={tmp_path}"]
    small = ["sizes.crop=32", "sizes.base=48", "loader.workers=0", "run_name=mine"]
    return ["data=folder", *where, *small, *rest]


@pytest.mark.medium
def test_finetuning_takes_the_network_of_the_checkpoint(tiny_run, photos, tmp_path, run_here, capsys):
    rest = ["schedule.epochs=null", "schedule.iterations=2", "schedule.batch_size=2", "schedule.freeze=2"]
    arguments = train_arguments(photos, tmp_path, f"model.weights={tiny_run}/best.pt", *rest)
    assert run_here("train_seg", *arguments) == 0
    output = capsys.readouterr().out
    assert f"million parameters, weights {tiny_run}/best.pt" in output
    assert "re-initialized for other classes: auxiliary." in output
    assert (
        "careful: batch normalization over 2 images at a time is mostly noise; use schedule.freeze_norm"
        in output
    )
    theirs, ours = (checkpoint.read_checkpoint(file / "best.pt") for file in (tiny_run, tmp_path / "mine"))
    assert ours["settings"]["model"]["backbone"]["width"] == 8
    name = "backbone.layer2.0.conv1.weight"
    assert torch.equal(ours["model"][name], theirs["model"][name])


@pytest.mark.parametrize(
    ("weights", "schedule", "messages"),
    [
        (
            "a.pt",
            {"size": 2, "lr": 0.001},
            r"over 2 images at a time .* use schedule.freeze_norm=true, .* or schedule.batch_size=8",
        ),
        (None, {"size": 2}, r"over 2 images at a time is mostly noise; use schedule.batch_size=8"),
        (None, {"size": 4, "accumulate": 4}, r"over 1 image at a time .* schedule.batch_size=32"),
        (
            "a.pt",
            {"size": 8, "optimizer": "adamw"},
            r"lr=0.01 with adamw is high .* from a.pt, .* schedule.lr=0.0004",
        ),
        ("imagenet", {"size": 8, "lr": 0.011}, r"lr=0.011 with sgd is high .* schedule.lr=0.002"),
        (
            None,
            {"size": 8, "freeze": 1, "freeze_norm": True},
            r"freeze=1 and schedule.freeze_norm=true: .* from scratch",
        ),
        (
            None,
            {"size": 8, "ema": 0.999},
            r"ema=0.999 averages over 1,000 .* has 100, .* schedule.ema=0.9 or less",
        ),
    ],
)
def test_settings_known_to_fail_are_warned_about(weights, schedule, messages):
    run = start_run(build_model(), **schedule)
    (output,) = advice.find_warnings(run, {"weights": weights, "backbone": {"weights": None}})
    assert re.search(messages, output), output


def test_patience_beyond_the_last_validation_is_refused():
    run = start_run(build_model(), patience=3, iterations=50)
    with pytest.raises(ValueError, match=r"schedule.patience=3: this training has 1 validation in all"):
        advice.check_patience(run, every=50)
    advice.check_patience(run, every=10)


@pytest.mark.parametrize(
    ("weights", "schedule"),
    [
        ("a.pt", {"size": 2, "lr": 0.001, "freeze_norm": True}),
        ("imagenet", {"size": 16, "lr": 0.01}),  # the published recipe
        ("a.pt", {"size": 8, "optimizer": "adamw", "lr": 1e-4, "freeze": 2, "ema": 0.9}),
        (None, {"size": 16, "lr": 0.1}),
    ],
)
def test_working_settings_have_no_warnings(weights, schedule):
    assert (
        advice.find_warnings(
            start_run(build_model(), **schedule), {"weights": weights, "backbone": {"weights": None}}
        )
        == []
    )


@pytest.mark.parametrize("seed", range(20))
def test_count_validations_matches_due_iterations(seed):
    draw = random.Random(seed)
    length = draw.choice(
        [{"epochs": draw.uniform(0.1, 9)}, {"epochs": None, "iterations": draw.randint(1, 90)}]
    )
    schedule = training.Schedule(batch_size=4, lr=1, optimizer={}, lr_schedule={}, **length)
    every, samples = draw.choice([0.3, 1, 2.5, 7, 200]), draw.randint(4, 40)
    due = [
        t for t in range(1, schedule.length(samples) + 1) if schedule.is_due(t, every=every, samples=samples)
    ]
    assert schedule.count_validations(every=every, samples=samples) == len(due)


@pytest.mark.medium
def test_finetune_experiment_matches_its_documentation(photos, tmp_path, tiny_run):
    settings = compose.compose_settings(
        "train",
        ["experiment=finetune", *train_arguments(photos, tmp_path, f"model.weights={tiny_run}/best.pt")],
    )
    schedule = settings["schedule"]
    assert (schedule["lr"], schedule["head_lr_multiplier"], schedule["layer_decay"]) == (1e-4, 10, 0.75)
    assert schedule["optimizer"]["name"] == "adamw"
    assert schedule["patience"] == 10


@pytest.mark.medium
@pytest.mark.parametrize(
    "wrong", ["model=null", "model.weights=3", "model.weights={a:1}", "model.weights=/dev/null"]
)
def test_invalid_weights_are_refused_in_one_line(wrong, tmp_path, run_here, capsys):
    assert run_here("train_seg", "data=shapes", wrong, f"run_dir={tmp_path}") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.medium
def test_two_processes_freeze_the_same_stages(tmp_path):
    """From scratch, so that what is frozen still has the values it began with."""
    both = ranks(2, tmp_path / "run", "schedule.freeze=2", "schedule.iterations=3", "evaluation.every=3")
    for run in both:
        run.complete()
    state = checkpoint.read_checkpoint(tmp_path / "run" / "last.pt")["model"]
    means = {name: tensor for name, tensor in state.items() if name.endswith("running_mean")}
    frozen = [
        name for name in means if stage_by_name(name.removeprefix("backbone.")) <= 2 and "backbone" in name
    ]
    assert frozen
    assert [name for name in means if not means[name].any()] == frozen
