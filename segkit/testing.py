"""Checks that a component keeps its contract, for the tests of those who write one.

Each takes a finished component, or a function that makes one, tries it on small inputs and raises
``AssertionError`` with what is wrong. None looks at names inside; ours pass them in tests/test_contracts.py.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.models import summary
from segkit.models.network import Segmenter
from segkit.types import Logits, Sample, class_id_dtype, ignore_index


def check(holds: object, words: str) -> None:
    """Raise ``AssertionError`` with these words unless something holds; ``python -O`` leaves it in."""
    if not holds:
        raise AssertionError(words)


def check_backbone(
    make: Callable[[int], Any], *, output_strides: Iterable[int] = (8, 16, 32), channels: int = 3
) -> None:
    """Four stages of the sizes and channels that are promised, at every output stride.

    Also: sizes that no stride divides are rounded up, every parameter gets a gradient, the same weights serve
    all output strides, and it can be pickled, copied, cast and summarized.

    Args:
        make: called with an output stride, gives a ``Backbone``.
        output_strides: those it has.
        channels: of the image.
    """
    states = []
    for output_stride in output_strides:
        backbone = make(output_stride)
        check(
            backbone.output_stride == output_stride,
            f"asked for output stride {output_stride}, it says {backbone.output_stride}",
        )
        strides = _check_stages(backbone, torch.rand(2, channels, 64, 64))
        check(
            strides[-1] == output_stride,
            f"the last stage has stride {strides[-1]}, output_stride says {output_stride}",
        )
        _check_stages(backbone, torch.rand(2, channels, 65, 97), strides)
        states.append({name: tensor.shape for name, tensor in backbone.state_dict().items()})
    check(all(state == states[0] for state in states), "its weights depend on the output stride")
    backbone = make(next(iter(output_strides)))
    _check_module(backbone, (torch.rand(2, channels, 64, 64),))
    _check_summary(backbone, channels)


def _check_stages(backbone: Any, image: Tensor, strides: Sequence[int] = ()) -> list[int]:
    """The strides of the stages, which are those given or else follow from the sizes."""
    stages = list(backbone.train()(image))
    check(len(stages) == len(backbone.out_channels) == 4, f"{len(stages)} stages, and four are wanted")
    height, width = image.shape[2:]
    strides = strides or [round(height / stage.shape[2]) for stage in stages]
    check(sorted(strides) == list(strides), f"strides {list(strides)}: a stage is finer than the one before")
    triples = zip(stages, backbone.out_channels, strides, strict=True)
    for place, (stage, channels, stride) in enumerate(triples, start=1):
        wanted = len(image), channels, math.ceil(height / stride), math.ceil(width / stride)
        check(
            tuple(stage.shape) == wanted,
            f"stage {place} of a {height}x{width} image is {tuple(stage.shape)}, not {wanted}"
            f" (stride {stride}, rounded up)",
        )
    return list(strides)


def _check_summary(backbone: nn.Module, channels: int) -> None:
    """A network of it is summarized without data, whatever its parts are called."""
    wrapped: Any = backbone
    spread = [0.5] * channels
    head = _Last(nn.Conv2d(wrapped.out_channels[-1], 3, 1))
    told = summary.format_summary(Segmenter(backbone, head, num_classes=3, mean=spread, std=spread), 64)
    check("operations are not counted" not in told, "it needs values on meta tensors")


class _Last(nn.Module):
    """A head of one convolution."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.reader = reader

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Of the last stage."""
        return self.reader(stages[-1])


def check_head(make: Callable[..., Any], *, num_classes: int = 5, align_corners: bool = True) -> None:
    """Logits of K classes from the stages of any backbone.

    Args:
        make: called with the late values it asks for by name (``in_channels``, ``num_classes``,
            ``output_stride``, ``align_corners``), gives a ``Head``.
        num_classes: K.
        align_corners: of the network's resizes.
    """
    for in_channels, strides in (((8, 16, 24, 32), (4, 8, 8, 8)), ((6, 12, 12, 20), (4, 8, 16, 32))):
        late = {"in_channels": list(in_channels), "num_classes": num_classes}
        head = make(**late, output_stride=strides[-1], align_corners=align_corners)
        sizes = [(math.ceil(65 / stride), math.ceil(97 / stride)) for stride in strides]
        stages = [torch.rand(2, c, *size) for c, size in zip(in_channels, sizes, strict=True)]
        logits = head.train()(stages)
        check(
            logits.ndim == 4 and logits.shape[:2] == (2, num_classes),
            f"logits are {tuple(logits.shape)}, and (2, {num_classes}, h, w) is wanted",
        )
        _check_module(head, (stages,))


def _check_module(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Gradients for every parameter, equal answers in evaluation, pickling, copying, casting, tracing."""
    module.train()
    module.zero_grad()
    _summed(module(*inputs)).backward()
    idle = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    check(not idle, f"no gradient reaches {', '.join(idle[:5])}; DistributedDataParallel would wait for it")
    module.zero_grad(set_to_none=True)
    module.eval()
    with torch.no_grad():
        expected = _summed(module(*inputs))
        check(torch.equal(expected, _summed(module(*inputs))), "in evaluation two answers differ")
        for words, other in (
            ("pickled", pickle.loads(pickle.dumps(module))),
            ("copied", copy.deepcopy(module)),
        ):
            check(torch.equal(expected, _summed(other(*inputs))), f"{words}, it answers otherwise")
        exported: Any = torch.export.export(module, inputs, strict=False).module()
        same = torch.allclose(expected, _summed(exported(*inputs)), rtol=1e-4)
        check(same, "traced (torch.export), it answers otherwise")
        double = copy.deepcopy(module).double()
        check(
            _summed(double(*_cast(inputs))).dtype == torch.float64,
            "cast to float64 it answers in another type",
        )


def _summed(outputs: Any) -> Tensor:
    """One number that depends on all outputs."""
    several = [outputs] if isinstance(outputs, Tensor) else outputs
    return torch.stack([output.square().sum() for output in several]).sum()


def _cast(inputs: Any) -> Any:
    return inputs.double() if isinstance(inputs, Tensor) else type(inputs)(_cast(item) for item in inputs)


def check_loss(make: Callable[[int], Any], *, num_classes: int = 4) -> None:
    """Named parts with gradients, of scored pixels alone, and a float64 weight; finite where all is ignored.

    Args:
        make: called with the number of classes, gives a ``Loss``.
        num_classes: K.
    """
    draw = torch.Generator().manual_seed(0)
    loss = make(num_classes)
    logits = torch.randn(2, num_classes, 9, 7, generator=draw, requires_grad=True)
    label = torch.randint(0, num_classes, (2, 9, 7), generator=draw).to(
        getattr(torch, class_id_dtype(num_classes))
    )
    label[:, :2] = ignore_index(num_classes)
    parts = loss(Logits(logits), label)
    check(isinstance(parts, dict) and parts, "a loss gives its parts by name")
    total = torch.stack([part.sum() for part in parts.values()]).sum()
    check(torch.isfinite(total), f"the loss is {total.item()}")
    (gradient,) = torch.autograd.grad(total, logits)
    check(torch.isfinite(gradient).all() and gradient.any(), "its gradient is zero or not finite")
    check(not gradient[:, :, :2].any(), "ignored pixels get a gradient")
    weight = loss.weight(label)
    check(
        weight.dtype == torch.float64 and not weight.requires_grad,
        f"its weight is {weight.dtype}, not float64",
    )
    nothing = torch.full_like(label, ignore_index(num_classes))
    empty = torch.stack([part.sum() for part in loss(Logits(logits), nothing).values()]).sum()
    check(torch.isfinite(empty), "where all pixels are ignored it is not finite")
    check(set(parts) <= set(loss(Logits(logits, logits), label)), "with auxiliary logits a part is missing")
    pickle.loads(pickle.dumps(loss))


def check_dataset(dataset: Any, *, most: int = 16) -> None:
    """Names, a table, and samples that are what they promise and the same when read again, also pickled.

    Args:
        dataset: a ``Dataset``.
        most: samples to read.
    """
    check(len(dataset) == len(dataset.names) > 0, f"{len(dataset)} samples with {len(dataset.names)} names")
    check(len(set(dataset.names)) == len(dataset), "two samples have one name")
    check(dataset.on_error in ("stop", "skip"), f"on_error is {dataset.on_error!r}, not stop or skip")
    table = dataset.table
    check(
        len(table.names) == len(table.colors) == table.num_classes, "its table has other names than classes"
    )
    other = pickle.loads(pickle.dumps(dataset))
    for index in range(min(most, len(dataset))):
        sample = dataset.read(index)
        _check_sample(sample, table.num_classes)
        check(sample.name == dataset.names[index], f"sample {index} is called {sample.name}")
        for again in (dataset.read(index), other.read(index)):
            same = np.array_equal(sample.image, again.image) and np.array_equal(sample.label, again.label)
            check(same, f"{sample.name}: read again, it is another sample")


def _check_sample(sample: Sample, num_classes: int) -> None:
    image, label = sample.image, sample.label
    wanted = class_id_dtype(num_classes)
    check(image.dtype == np.uint8, f"{sample.name}: the image is {image.dtype} and not uint8")
    check(label.dtype == wanted, f"{sample.name}: the label is {label.dtype} and not {wanted}")
    check(
        image.ndim == 3 and image.shape[:2] == label.shape,
        f"{sample.name}: image {image.shape} and label {label.shape} are not (H, W, C) and (H, W)",
    )
    wrong = sorted(set(np.unique(label).tolist()) - set(range(num_classes)) - {ignore_index(num_classes)})
    check(not wrong, f"{sample.name}: ids {wrong} are no classes (0..{num_classes - 1})")


def check_augmentation(
    change: Callable[[Sample, np.random.Generator], Sample], *, num_classes: int = 3
) -> None:
    """Equal draws change equally, sizes and ids stay valid, the sample given is left alone; it pickles."""
    draw = np.random.default_rng(0)
    label = draw.integers(0, num_classes, (24, 31), dtype=class_id_dtype(num_classes))
    sample = Sample(draw.integers(0, 256, (24, 31, 3), dtype=np.uint8), label, "a")
    before = sample.image.copy(), sample.label.copy()
    found = change(sample, np.random.default_rng(7))
    _check_sample(found, num_classes)
    check(found.label.shape == label.shape, f"the crop was {label.shape} and came back {found.label.shape}")
    kept = np.array_equal(sample.image, before[0]) and np.array_equal(sample.label, before[1])
    check(kept, "it changes the sample it is given")
    for again in (change, pickle.loads(pickle.dumps(change))):
        other = again(sample, np.random.default_rng(7))
        check(np.array_equal(found.image, other.image), "equal generators draw differently")


def check_evaluator(make: Callable[[], Any], *, num_classes: int = 3) -> None:
    """Its states add up: counted apart and summed, images give what they give counted together.

    Args:
        make: gives a fresh ``Evaluator`` of so many classes.
        num_classes: K.
    """
    draw = np.random.default_rng(0)
    whole, parts = make(), [make(), make()]
    check(not whole.state().any(), "a fresh state is not zero")
    for index in range(6):
        label = draw.integers(0, num_classes, (17, 13 + index), dtype=class_id_dtype(num_classes))
        prediction = torch.from_numpy(draw.integers(0, num_classes, label.shape, dtype=label.dtype))
        label[:2] = ignore_index(num_classes)
        whole.update(label, prediction)
        parts[index % 2].update(label, prediction)
    total = parts[0].state() + parts[1].state()
    check(whole.state().dtype in (torch.int64, torch.float64), f"its state is {whole.state().dtype}")
    check(
        torch.allclose(whole.state().double(), total.double()), "states of parts do not add up to the whole's"
    )
    together, summed = whole.compute(whole.state().cpu()), make().compute(total.cpu())
    check(
        together.scores.keys() == summed.scores.keys(),
        "a fresh evaluator has other scores for the same state",
    )
    for name, value in together.scores.items():
        same = math.isclose(value, summed.scores[name], rel_tol=1e-12) or value != value
        check(same, f"{name} depends on more than the state")
    columns = {name: len(column) for name, column in together.classes.items() if len(column) != num_classes}
    check(not columns, f"columns of other lengths than {num_classes}: {columns}")


def check_writer(make: Callable[[Any, int], Any], folder: Any) -> None:
    """It takes all that a run records, and a run that goes on.

    Args:
        make: called with the run's folder and the iterations done before, gives a ``Writer``.
        folder: an empty one.
    """
    for start in (0, 10):
        writer = make(folder, start)
        for iteration in (start, start + 10):
            writer.add_scalars(iteration, {"train/loss": 0.5, "val/mIoU": float("nan")})
            writer.add_image("val/samples", iteration, np.zeros((4, 6, 3), np.uint8))
            writer.add_text("settings", iteration, "*text*")
        if not start:
            writer.add_hparams(
                {"schedule.lr": 0.1, "data.name": "a", "model.flag": True, "none": None}, ["val/mIoU"]
            )
        writer.flush()
        writer.close()
