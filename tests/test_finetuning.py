"""Fine-tuning: loaded and re-initialized weights, freezing, layer-wise rates, early stopping."""

import dataclasses
import math
import random
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from conftest import write_folder
from runs import KillAt, Run, assert_same_end, make_schedule, start_run
from segkit import checkpoint, training
from segkit.data.label_map import Entry, LabelMap
from segkit.models import segmenter
from segkit.models.network import Segmenter
from segkit.training import advice, best_metric, initial_model, parameter_groups
from segkit.types import Batch

BACKBONE = {"name": "resnest", "variant": "14", "width": 8, "drop_block": 0.1}
ADAMW = {"name": "adamw"}
MODEL = {"backbone": BACKBONE, "head": {"name": "deeplabv3", "width": 8}, "auxiliary": {"name": "fcn"}}


def build_model(num_classes=3, **changed):
    return segmenter.build(num_classes, **{**MODEL, **changed})


def batch(size=2, seed=0, side=32):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    label = torch.randint(0, 3, (size, side, side), dtype=torch.uint8, generator=generator)
    return Batch(image, label, [str(i) for i in range(size)])


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


@pytest.mark.parametrize("output_stride", [8, 32])
def test_stage_of_a_parameter_does_not_depend_on_its_name(output_stride):
    model = build_model(backbone={**BACKBONE, "variant": "26", "output_stride": output_stride})
    found = parameter_groups.first_stage_of_parameters(model)
    assert {name: found[p] for name, p in model.backbone.named_parameters()} == {
        name: stage_by_name(name) for name, _ in model.backbone.named_parameters()
    }
    assert all(module.training for module in model.modules())


def test_shared_branch_belongs_to_its_first_stage():
    backbone = Odd()
    model = Segmenter(backbone, nn.Identity(), num_classes=2)
    found = parameter_groups.first_stage_of_parameters(model)
    expected = {"z": 1, "shared": 1, "b": 3, "a": 4, "unused": 4}
    assert {name.split(".")[0]: found[p] for name, p in backbone.named_parameters()} == expected


@pytest.mark.medium
@pytest.mark.parametrize("parts", [{"freeze": 2, "freeze_norm": True, "optimizer": ADAMW}, {"freeze": 4}])
def test_frozen_tensors_do_not_change_in_fifty_steps(parts):
    torch.manual_seed(0)
    model = build_model()
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = start_run(model, **parts, ema=0.9, lr=0.001, iterations=50)
    for seed in range(50):
        training.train_step(run, [batch(seed=seed, side=16)])

    def is_frozen(name):
        inner = name.removeprefix("backbone.")
        of_stage = inner != name and stage_by_name(inner) <= parts["freeze"]
        return of_stage or ("freeze_norm" in parts and name.rpartition(".")[0] in norms)

    for state in (model.state_dict(), run.ema_model.state_dict()):
        moved = {name for name, tensor in state.items() if not torch.equal(tensor, before[name])}
        assert not any(map(is_frozen, moved))
        assert len(moved) >= 0.8 * sum(not is_frozen(name) for name in state)


def stored_bytes(freeze):
    """Bytes that a step keeps of its forward pass, besides the weights."""
    torch.manual_seed(0)
    run = start_run(build_model(), freeze=freeze, runtime={"optimize_cpu": False})
    found, weights = {}, {p.data_ptr() for p in run.model.parameters()}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        training.train_step(run, [batch(side=64)])
    return sum(size for place, size in found.items() if place not in weights)


def test_no_activations_are_stored_below_frozen_stages():
    sizes = [stored_bytes(freeze) for freeze in (0, 2, 4)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.75 * sizes[0]


@pytest.mark.medium
def test_freeze_norm_trains_with_a_batch_of_one():
    with pytest.raises(ValueError, match=r"a training batch of one .* schedule.batch_size"):
        training.train_step(start_run(build_model(), batch_size=1), [batch(1)])
    run = start_run(build_model(), batch_size=1, freeze_norm=True, iterations=100)
    losses = [float(training.train_step(run, [batch(1)]).losses["main"]) for _ in range(30)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("seed", range(8))
def test_parameter_groups_have_the_rates_of_their_stages(seed):
    draw = random.Random(seed)
    decay, lr, times = draw.choice([1.0, 0.75, 0.4]), draw.uniform(1e-4, 1e-2), draw.choice([1, 10])
    exempt, freeze, freeze_norm = draw.random() < 0.5, draw.randint(0, 4), draw.random() < 0.5
    model = build_model()
    rates_of = {"lr": lr, "head_lr_multiplier": times, "layer_decay": decay}
    parts = {"freeze": freeze, "freeze_norm": freeze_norm, "decay_norm_and_bias": not exempt}
    schedule = make_schedule(**rates_of, **parts)
    parameter_groups.freeze(model, schedule)
    groups = parameter_groups.parameter_groups(model, schedule)
    rates = {p: (g["lr"], g["base_lr"], g.get("weight_decay")) for g in groups for p in g["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates)
    norms = {p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        inner = name.removeprefix("backbone.")
        is_head = inner == name
        if (freeze_norm and parameter in norms) or (not is_head and stage_by_name(inner) <= freeze):
            assert parameter not in rates, name
            continue
        rate = lr * times if is_head else lr * decay ** (4 - stage_by_name(inner))
        fixed = 0.0 if exempt and parameter.ndim == 1 else None
        assert rates[parameter] == (pytest.approx(rate), pytest.approx(rate), fixed), name
    assert groups[0]["lr"] == pytest.approx(lr if freeze < 4 else lr * times)  # shown as the run's rate


def table(*names):
    return LabelMap("mine", tuple(Entry(k, name, (10 * k, 0, 0)) for k, name in enumerate(names)))


def initial_model_for(weights, *names, **changed):
    return initial_model.build_model({**MODEL, "weights": str(weights), **changed}, table(*names))


def save(path, model, *names):
    """A checkpoint of a run whose classes had these names."""
    about = {"settings": {"model": MODEL}, "classes": table(*names).to_plain(), "iteration": 5}
    checkpoint.write_checkpoint(path, {**about, "model": model.state_dict()})
    return path


@pytest.mark.parametrize("names", ["sky sea tree", "sky sea tree road", "sky sea cat"])
def test_other_classes_renew_only_the_classifiers(names, tmp_path):
    is_other, names = names != "sky sea tree", names.split()
    source = build_model(3)
    file = save(tmp_path / "best.pt", source, "sky", "sea", "tree")
    torch.manual_seed(7)
    fresh = build_model(len(names)).state_dict()
    torch.manual_seed(7)
    model, (messages,) = initial_model_for(file, *names)
    renewed = sorted(initial_model.find_class_tensors(source, MODEL)) if is_other else []
    for name, tensor in model.state_dict().items():
        expected = fresh if name in renewed else source.state_dict()
        assert torch.equal(tensor, expected[name]), name
    assert [name.split(".")[0] for name in renewed] in ([], ["auxiliary"] * 2 + ["head"] * 2)
    assert f"{len(fresh) - len(renewed)} tensors loaded" in messages
    assert f"re-initialized for other classes: {', '.join(renewed) or 'none'}; left out: none" in messages


def test_weights_without_class_names_are_taken_in_order(tmp_path):
    torch.save(build_model(2).state_dict(), tmp_path / "published.pth")
    _, messages = initial_model_for(tmp_path / "published.pth", "sky", "sea")
    assert "does not name its classes; they are assumed to be the 2 classes of mine" in messages[1]
    _, messages = initial_model_for(tmp_path / "published.pth", "sky", "sea", "tree")
    assert len(messages) == 1


def test_weights_of_another_architecture_are_refused(tmp_path):
    file = save(tmp_path / "best.pt", build_model(3), "sky", "sea", "tree")
    with pytest.raises(ValueError, match=r"of another shape: backbone\.conv1"):
        initial_model_for(file, "sky", "sea", backbone={**BACKBONE, "width": 16})
    with pytest.raises(ValueError, match="of another shape"):  # and no command but a training renews anything
        segmenter.build(2, **MODEL, weights=str(file))


def test_metric_value_of_each_metric():
    result = SimpleNamespace(scores={"mIoU": 0.4}, class_iou=[0.25, math.nan])
    losses = {"main": 0.5, "aux": 0.25}
    for metric, value in {"mIoU": 0.4, "val/loss": 0.75, "iou/sky": 0.25, "iou/sea": math.nan}.items():
        found = best_metric.metric_value(metric, result, losses, ["sky", "sea"])
        assert found == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize(
    ("metric", "hint"), [("iou/skyy", r" Did you mean iou/sky\?"), ("loss", " such as sky, sea")]
)
def test_unknown_metric_is_refused_with_suggestions(metric, hint):
    with pytest.raises(ValueError, match=f"checkpoint.metric={metric}: must be one of .*val/loss.*{hint}"):
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
            assert len(run.remaining_iterations) == (0 if run.is_out_of_patience else 10)


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


@pytest.mark.medium
def test_finetuning_takes_the_network_of_the_checkpoint(tiny_run, tmp_path, run_here, capsys):
    write_folder(tmp_path, map(str, range(6)), ["grass", "stone"], (40, 48))
    data = ["data=folder", f"data.root={tmp_path}", "data.train_split=80%", "data.val_split=20%"]
    data += ["sizes.crop=32", "sizes.base=48", "loader.workers=0", f"model.weights={tiny_run}/best.pt"]
    rest = ["schedule.epochs=null", "schedule.iterations=2", "schedule.batch_size=2", "schedule.freeze=2"]
    assert run_here("train_seg", *data, *rest, f"run_dir={tmp_path}", "run_name=mine") == 0
    output = capsys.readouterr().out
    assert f"million parameters, weights {tiny_run}/best.pt" in output
    assert "re-initialized for other classes: auxiliary." in output
    assert "careful: batch normalization over 2 images at a time is mostly noise" in output
    theirs, ours = (checkpoint.read_checkpoint(file / "best.pt") for file in (tiny_run, tmp_path / "mine"))
    assert ours["settings"]["model"]["backbone"]["width"] == 8
    name = "backbone.layer2.0.conv1.weight"
    assert torch.equal(ours["model"][name], theirs["model"][name])


@pytest.mark.parametrize(
    ("weights", "schedule", "message"),
    [
        ("a.pt", {"batch_size": 2, "lr": 0.001}, r"over 2 images at a time .* use schedule.freeze_norm=true"),
        (None, {"batch_size": 4, "accumulate": 4}, r"over 1 image at a time .* a larger schedule.batch_size"),
        ("a.pt", {"optimizer": ADAMW}, r"lr=0.01 with adamw may .* a.pt .* schedule.lr=0.0004"),
        ("imagenet", {"lr": 0.011}, r"lr=0.011 with sgd may .* schedule.lr=0.002"),
        (None, {"freeze_norm": True}, r"from scratch, so its frozen layers stay random"),
        (None, {"ema": 0.999}, r"averages over 1,000 of 100 iterations.* at most 0.9"),
        ("a.pt", {"batch_size": 2, "lr": 0.001, "freeze_norm": True}, None),
        ("imagenet", {"batch_size": 16}, None),  # the published recipe
        ("a.pt", {"optimizer": ADAMW, "lr": 1e-4, "freeze": 2, "ema": 0.9}, None),
    ],
)
def test_settings_known_to_fail_are_warned_about(weights, schedule, message):
    run = start_run(build_model(), **{"batch_size": 8, "iterations": 100, **schedule})
    warnings = list(advice.find_warnings(run, {"weights": weights, "backbone": {"weights": None}}))
    assert len(warnings) == (message is not None)
    assert all(re.search(message, warning) for warning in warnings), warnings


def test_patience_beyond_the_last_validation_is_refused():
    draw = random.Random(0)
    for _ in range(100):
        epochs, iterations = draw.choice([(draw.uniform(0.1, 9), None), (None, draw.randint(1, 90))])
        schedule = make_schedule(epochs=epochs, iterations=iterations, patience=draw.randint(1, 9))
        samples, every = draw.randint(4, 40), draw.choice([0.3, 1, 2.5, 7, 200])
        steps = schedule.length(samples)
        run = SimpleNamespace(schedule=schedule, samples=samples, length=steps)
        validations = sum(schedule.is_due(t, every=every, samples=samples) for t in range(1, steps + 1))
        if validations > schedule.patience:
            advice.check_patience(run, every=every)
        else:
            with pytest.raises(ValueError, match=r"schedule.patience=\d: .* would never end early"):
                advice.check_patience(run, every=every)
