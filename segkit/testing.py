"""Checks that a component fulfills its protocol, for the tests of plug-ins.

Each takes a component, or a function that makes one, runs it on small inputs, and raises ``AssertionError``
with what is wrong. segkit's own components pass them in tests/test_contracts.py.
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.models import summary
from segkit.models.heads import fcn
from segkit.models.network import Segmenter
from segkit.types import Logits, Sample, class_id_dtype, ignore_index


def check(condition: object, message: str) -> None:
    """Raise ``AssertionError`` unless a condition holds, also under ``python -O``."""
    if not condition:
        raise AssertionError(message)


def check_backbone(
    make: Callable[[int], Any], *, output_strides: Iterable[int] = (8, 16, 32), channels: int = 3
) -> None:
    """Check the contract of a backbone at every output stride: stages, gradients, pickling, tracing.

    Sizes must be rounded up, every parameter must get a gradient, the weights must not depend on the output
    stride, and the backbone must support pickling, copying, casting, tracing and the summary.

    Args:
        make: returns a ``Backbone`` for an output stride.
        output_strides: strides to check.
        channels: of the image.
    """
    states = []
    for output_stride in output_strides:
        backbone = make(output_stride)
        stated = backbone.output_stride
        check(stated == output_stride, f"output_stride is {stated}, not {output_stride} as requested")
        strides = _check_stages(backbone, torch.rand(2, channels, 64, 64))
        last = f"the last stage has stride {strides[-1]}, but output_stride is {output_stride}"
        check(strides[-1] == output_stride, last)
        _check_stages(backbone, torch.rand(2, channels, 65, 97), strides)
        states.append({name: tensor.shape for name, tensor in backbone.state_dict().items()})
    check(all(state == states[0] for state in states), "its weights depend on the output stride")
    backbone = make(next(iter(output_strides)))
    _check_module(backbone, (torch.rand(2, channels, 64, 64),))
    statistics = [0.5] * channels
    head = fcn.build(backbone.out_channels, 3)
    text = summary.format_summary(
        Segmenter(backbone, head, num_classes=3, mean=statistics, std=statistics), 64
    )
    check("operations are not counted" not in text, "it needs values on meta tensors")


def _check_stages(backbone: Any, image: Tensor, strides: Sequence[int] = ()) -> list[int]:
    """Check the shapes of the stages and return their strides, by default computed from their sizes."""
    stages = list(backbone.train()(image))
    check(len(stages) == len(backbone.out_channels) == 4, f"{len(stages)} stages instead of four")
    height, width = image.shape[2:]
    strides = list(strides) or [round(height / stage.shape[2]) for stage in stages]
    check(sorted(strides) == strides, f"strides {strides}: a stage is finer than the one before")
    shapes = [tuple(stage.shape) for stage in stages]
    sizes = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in strides]
    pairs = zip(backbone.out_channels, sizes, strict=True)
    expected = [(len(image), channels, *size) for channels, size in pairs]
    message = (
        f"stages of a {height}x{width} image are {shapes}, not {expected} (strides {strides}, rounded up)"
    )
    check(shapes == expected, message)
    return strides


def check_head(make: Callable[..., Any], *, num_classes: int = 5, align_corners: bool = True) -> None:
    """Check that a head returns logits of K classes for the stages of any backbone.

    Args:
        make: returns a ``Head`` for those of the keywords ``in_channels``, ``num_classes``, ``output_stride``
            and ``align_corners`` that it accepts, such as the ``build`` of the module.
        num_classes: K.
        align_corners: as used for resizing.
    """
    for in_channels, strides in (((8, 16, 24, 32), (4, 8, 8, 8)), ((6, 12, 12, 20), (4, 8, 16, 32))):
        supplied = {"in_channels": list(in_channels), "num_classes": num_classes}
        supplied |= {"output_stride": strides[-1], "align_corners": align_corners}
        parameters = inspect.signature(make).parameters
        accepts_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        head = make(**{key: value for key, value in supplied.items() if accepts_all or key in parameters})
        sizes = [(math.ceil(65 / stride), math.ceil(97 / stride)) for stride in strides]
        stages = [torch.rand(2, c, *size) for c, size in zip(in_channels, sizes, strict=True)]
        logits = head.train()(stages)
        is_right = logits.ndim == 4 and logits.shape[:2] == (2, num_classes)
        check(is_right, f"logits are {tuple(logits.shape)}, not (2, {num_classes}, h, w)")
        _check_module(head, (stages,))


def _check_module(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Check gradients of all parameters, repeatability, pickling, copying, casting and tracing."""
    module.train()
    module.zero_grad()
    _sum_squares(module(*inputs)).backward()
    unused = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    check(not unused, f"no gradient reaches {', '.join(unused[:5])}")
    module.zero_grad(set_to_none=True)
    module.eval()
    with torch.no_grad():
        expected = _sum_squares(module(*inputs))
        check(torch.equal(expected, _sum_squares(module(*inputs))), "two outputs in evaluation differ")
        copies = {"pickled": pickle.loads(pickle.dumps(module)), "copied": copy.deepcopy(module)}
        for how, other in copies.items():
            check(torch.equal(expected, _sum_squares(other(*inputs))), f"the {how} module has another output")
        exported: Any = torch.export.export(module, inputs, strict=False).module()
        same = torch.allclose(expected, _sum_squares(exported(*inputs)), rtol=1e-4)
        check(same, "the module traced by torch.export has another output")
        dtype = _sum_squares(copy.deepcopy(module).double()(*_cast(inputs))).dtype
        check(dtype == torch.float64, "cast to float64, its output has another dtype")


def _sum_squares(outputs: Any) -> Tensor:
    """Return one number that depends on all outputs."""
    tensors = [outputs] if isinstance(outputs, Tensor) else outputs
    return torch.stack([tensor.square().sum() for tensor in tensors]).sum()


def _cast(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.double()
    return type(inputs)(_cast(item) for item in inputs)


def check_loss(make: Callable[[int], Any], *, num_classes: int = 4) -> None:
    """Check gradients of scored pixels only, a float64 weight, and finite values if all pixels are ignored.

    Args:
        make: returns a ``Loss`` for a number of classes.
        num_classes: K.
    """
    draw = torch.Generator().manual_seed(0)
    loss = make(num_classes)
    logits = torch.randn(2, num_classes, 9, 7, generator=draw, requires_grad=True)
    dtype = getattr(torch, class_id_dtype(num_classes))
    label = torch.randint(0, num_classes, (2, 9, 7), generator=draw).to(dtype)
    label[:, :2] = ignore_index(num_classes)
    terms = loss(Logits(logits), label)
    check(isinstance(terms, dict) and terms, "a loss returns a dict of its terms")
    total = torch.stack([term.sum() for term in terms.values()]).sum()
    check(torch.isfinite(total), f"the loss is {total.item()}")
    (gradient,) = torch.autograd.grad(total, logits)
    check(torch.isfinite(gradient).all() and gradient.any(), "its gradient is zero or not finite")
    check(not gradient[:, :, :2].any(), "ignored pixels get a gradient")
    weight = loss.compute_weight(label)
    is_plain = weight.dtype == torch.float64 and not weight.requires_grad
    check(is_plain, f"its weight is {weight.dtype}, not float64 without a gradient")
    ignored = torch.full_like(label, ignore_index(num_classes))
    empty = torch.stack([term.sum() for term in loss(Logits(logits), ignored).values()]).sum()
    check(torch.isfinite(empty), "it is not finite if all pixels are ignored")
    check(set(terms) <= set(loss(Logits(logits, logits), label)), "with auxiliary logits a term is missing")
    pickle.loads(pickle.dumps(loss))


def check_dataset(dataset: Any, *, most: int = 16) -> None:
    """Check names, class table and samples, and that reading is repeatable, also after pickling.

    Args:
        dataset: a ``Dataset``.
        most: samples to read.
    """
    check(len(dataset) == len(dataset.names) > 0, f"{len(dataset)} samples with {len(dataset.names)} names")
    check(len(set(dataset.names)) == len(dataset), "two samples have the same name")
    check(dataset.on_error in ("stop", "skip"), f"on_error is {dataset.on_error!r}, not stop or skip")
    table = dataset.table
    is_whole = len(table.names) == len(table.colors) == table.num_classes
    check(is_whole, "its class table has another number of names or colors")
    other = pickle.loads(pickle.dumps(dataset))
    for index in range(min(most, len(dataset))):
        sample = dataset.read(index)
        _check_sample(sample, table.num_classes)
        name = dataset.names[index]
        check(sample.name == name, f"sample {index} is named {sample.name}, not {name}")
        for again in (dataset.read(index), other.read(index)):
            same = np.array_equal(sample.image, again.image) and np.array_equal(sample.label, again.label)
            check(same, f"{sample.name}: reading it again returns another sample")


def _check_sample(sample: Sample, num_classes: int) -> None:
    image, label = sample.image, sample.label
    dtype = class_id_dtype(num_classes)
    check(image.dtype == np.uint8, f"{sample.name}: the image is {image.dtype}, not uint8")
    check(label.dtype == dtype, f"{sample.name}: the label is {label.dtype}, not {dtype}")
    message = f"{sample.name}: image {image.shape} and label {label.shape} are not (H, W, C) and (H, W)"
    check(image.ndim == 3 and image.shape[:2] == label.shape, message)
    wrong = sorted(set(np.unique(label).tolist()) - set(range(num_classes)) - {ignore_index(num_classes)})
    check(not wrong, f"{sample.name}: ids {wrong} are not classes (0..{num_classes - 1})")


def check_augmentation(
    change: Callable[[Sample, np.random.Generator], Sample], *, num_classes: int = 3
) -> None:
    """Check repeatability for equal generators, valid sizes and ids, an unchanged input, and pickling."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, num_classes, (24, 31), dtype=class_id_dtype(num_classes))
    sample = Sample(draw.integers(0, 256, (24, 31, 3), dtype=np.uint8), label, "a")
    before = sample.image.copy(), sample.label.copy()
    changed = change(sample, np.random.default_rng(7))
    _check_sample(changed, num_classes)
    check(changed.label.shape == label.shape, f"the size changes from {label.shape} to {changed.label.shape}")
    is_same = np.array_equal(sample.image, before[0]) and np.array_equal(sample.label, before[1])
    check(is_same, "it changes its input in place")
    for again in (change, pickle.loads(pickle.dumps(change))):
        other = again(sample, np.random.default_rng(7))
        check(np.array_equal(changed.image, other.image), "equal generators give other results")


def check_evaluator(make: Callable[[], Any], *, num_classes: int = 3) -> None:
    """Check that states add up: images counted separately and summed, or counted together.

    Args:
        make: returns a new ``Evaluator`` of ``num_classes`` classes.
        num_classes: K.
    """
    draw = np.random.default_rng(0)
    whole, parts = make(), [make(), make()]
    check(not whole.state().any(), "a new state is not zero")
    for index in range(6):
        label = draw.integers(0, num_classes, (17, 13 + index), dtype=class_id_dtype(num_classes))
        prediction = torch.from_numpy(draw.integers(0, num_classes, label.shape, dtype=label.dtype))
        label[:2] = ignore_index(num_classes)
        whole.update(label, prediction)
        parts[index % 2].update(label, prediction)
    total = parts[0].state() + parts[1].state()
    check(whole.state().dtype in (torch.int64, torch.float64), f"its state is {whole.state().dtype}")
    is_sum = torch.allclose(whole.state().double(), total.double())
    check(is_sum, "states of parts do not add up to the state of all")
    together, summed = whole.compute(whole.state().cpu()), make().compute(total.cpu())
    is_same = together.scores.keys() == summed.scores.keys()
    check(is_same, "a new evaluator has other scores for the same state")
    for name, value in together.scores.items():
        same = math.isclose(value, summed.scores[name], rel_tol=1e-12) or value != value
        check(same, f"{name} depends on more than the state")
    columns = {name: len(column) for name, column in together.classes.items() if len(column) != num_classes}
    check(not columns, f"columns of other lengths than {num_classes}: {columns}")


def check_writer(make: Callable[[Any, int], Any], folder: Any) -> None:
    """Check that a writer accepts all that a run records, also of a resumed run.

    Args:
        make: returns a ``Writer`` for the run's folder and the number of finished iterations.
        folder: an empty folder.
    """
    for start in (0, 10):
        writer = make(folder, start)
        for iteration in (start, start + 10):
            writer.add_scalars(iteration, {"train/loss": 0.5, "val/mIoU": float("nan")})
            writer.add_image("val/samples", iteration, np.zeros((4, 6, 3), np.uint8))
            writer.add_text("settings", iteration, "*text*")
        if not start:
            settings = {"schedule.lr": 0.1, "data.name": "a", "model.flag": True, "none": None}
            writer.add_hparams(settings, ["val/mIoU"])
        writer.flush()
        writer.close()
