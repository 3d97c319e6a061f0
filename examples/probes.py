"""The attention papers' probes of a trained network, each one figure.

    python train_seg.py experiment=ablation model/backbone=sknet run_name=sk       two minutes on two cores
    python examples/probes.py kernels runs/sk/best.pt     SKNet: does the large kernel gain where things grow?
    python examples/probes.py enhance runs/sge/best.pt    SGE: maps before and after, and how much they vary
    python examples/probes.py splits runs/st/best.pt      ResNeSt: weights of the splits by class and stage

Images are those of the checkpoint's validation set. The figure goes beside the checkpoint unless
``--output`` says where; the numbers in it are printed. What a thin network of two minutes shows need not be
what the papers saw in theirs, trained on ImageNet.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone

from segkit import checkpoint
from segkit.config import registry
from segkit.inference import predictor
from segkit.models.layers.selective_kernel import Selection
from segkit.models.layers.spatial_group_enhance import SpatialGroupEnhance
from segkit.models.layers.split_attention import SplitAttention
from segkit.runtime.errors import report_user_errors
from segkit.types import ClassTable, Sample
from segkit.visualize import line_charts, overlays

FACTORS = (1.0, 1.25, 1.5, 1.75, 2.0)  # the SKNet article's are 1, 1.5 and 2
Curves = dict[str, list[tuple[float, float]]]


def enlarged(image: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image (H, W, 3), enlarged to its size: what stands there grows by the factor."""
    height, width = image.shape[:2]
    rows, columns = round(height / factor), round(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = image[top : top + rows, left : left + columns]
    return cv2.resize(middle, (width, height), interpolation=cv2.INTER_LINEAR)


def watched(
    model: nn.Module, kind: type[nn.Module], images: Iterable[np.ndarray]
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """For each image, what goes into every module of a kind and what comes out, by its name.

    Raises:
        ValueError: the network has no such module.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    if not modules:
        raise ValueError(f"this network has no {kind.__name__}; give the checkpoint of one that has")
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        seen[name] = given[0].detach(), out.detach()

    hooks = [m.register_forward_hook(functools.partial(note, name)) for name, m in modules.items()]
    try:
        with torch.inference_mode():
            for image in images:
                model.eval()(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
                yield dict(seen)
    finally:
        for hook in hooks:
            hook.remove()


def large_kernel(model: nn.Module, images: Sequence[np.ndarray]) -> Curves:
    """Weight of the branch of largest reach less that of the smallest, by enlargement; a curve a block."""
    found: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in FACTORS])
    for n, factor in enumerate(FACTORS):
        for seen in watched(model, Selection, (enlarged(image, factor) for image in images)):
            for name, (_, weights) in seen.items():  # (1, M, C, 1, 1)
                found[name][n].append(float(weights[0, -1].mean() - weights[0, 0].mean()))
    return {
        name: [(factor, float(np.mean(some))) for factor, some in zip(FACTORS, values, strict=True)]
        for name, values in found.items()
    }


def variation(x: Tensor, groups: int) -> float:
    """Deviation over mean, over positions, of the length of each group's vector in (B, C, H, W)."""
    length = x.unflatten(1, (groups, -1)).float().norm(dim=2)  # (B, G, H, W)
    return float((length.std((2, 3)) / length.mean((2, 3)).clamp(min=1e-12)).mean())


def enhancement(model: nn.Module, images: Sequence[np.ndarray]) -> Curves:
    """Variation before and after each SGE module, by the number of the module."""
    modules = dict(model.named_modules())
    before, after = defaultdict(list), defaultdict(list)
    for seen in watched(model, SpatialGroupEnhance, images):
        for name, (given, out) in seen.items():
            groups = int(modules[name].groups)  # pyright: ignore[reportArgumentType]
            before[name].append(variation(given, groups))
            after[name].append(variation(out, groups))
    both = {"before": before, "after": after}
    return {
        when: [(n, float(np.mean(values))) for n, values in enumerate(some.values(), start=1)]
        for when, some in both.items()
    }


def colored(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Values (H, W) uint8 in colors, dark is 0, each a rectangle of a picture of a size (width, height)."""
    large = cv2.resize(values, size, interpolation=cv2.INTER_NEAREST)
    return cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def map_sheet(model: nn.Module, images: Sequence[np.ndarray]) -> np.ndarray:
    """Each image with the mean activation before and after the last SGE module beside it."""
    rows = []
    for image, seen in zip(images, watched(model, SpatialGroupEnhance, images), strict=True):
        row = [image]
        for x in list(seen.values())[-1]:
            strength = x[0].float().norm(dim=0).numpy()
            strength = (255 * strength / max(strength.max(), 1e-12)).astype(np.uint8)
            row.append(colored(strength, image.shape[1::-1]))
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


def cut_out(samples: Iterable[Sample], num_classes: int, *, most: int = 20) -> dict[int, list[np.ndarray]]:
    """Up to ``most`` images of each class: its largest part in a label with a margin, at the image's size."""
    found: dict[int, list[np.ndarray]] = {k: [] for k in range(num_classes)}
    for image, label, *_ in samples:
        for k in np.unique(label[label < num_classes]):
            _, _, statistics, _ = cv2.connectedComponentsWithStats((label == k).astype(np.uint8))
            x, y, width, height, area = statistics[1:][statistics[1:, cv2.CC_STAT_AREA].argmax()]
            if len(found[int(k)]) == most or area < label.size / 200:
                continue
            room = max(width, height) // 4
            middle = image[max(y - room, 0) : y + height + room, max(x - room, 0) : x + width + room]
            found[int(k)].append(cv2.resize(middle, label.shape[::-1], interpolation=cv2.INTER_LINEAR))
    return {k: some for k, some in found.items() if some}


def split_weights(model: nn.Module, by_class: dict[int, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean weight of the first split of every channel, (classes, C), for each Split-Attention module."""
    modules = {name: m for name, m in model.named_modules() if isinstance(m, SplitAttention)}
    scores: dict[str, Tensor] = {}  # of the last image, as ``fc2`` gives them

    def note(name: str, module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        scores[name] = out.detach()

    hooks = [m.fc2.register_forward_hook(functools.partial(note, name)) for name, m in modules.items()]
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    try:
        for images in by_class.values():
            mine: dict[str, list[Tensor]] = defaultdict(list)
            for _ in watched(model, SplitAttention, images):
                for name, module in modules.items():
                    mine[name].append(module.attention(scores[name])[0, 0, :, 0, 0])
            for name, weights in mine.items():
                found[name].append(torch.stack(weights).mean(0).numpy())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: np.stack(rows) for name, rows in found.items()}


def apart(weights: np.ndarray) -> float:
    """How far classes are apart in weights (classes, C): deviation over classes, mean of the channels."""
    return float(weights.std(0).mean())


def draw_kernels(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """The figure of ``large_kernel``, and what is in it."""
    curves = large_kernel(model, [sample.image for sample in samples])
    panel = "weight of the largest kernel less the smallest, by enlargement"
    overlays.save_image(file, line_charts.draw_line_charts({panel: curves}))
    return [f"{name}: {values[0][1]:+.4f} at 1, {values[-1][1]:+.4f} at 2" for name, values in curves.items()]


def draw_enhance(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """The figures of ``enhancement`` and ``map_sheet``, and what is in them."""
    images = [sample.image for sample in samples]
    curves = enhancement(model, images)
    chart = line_charts.draw_line_charts({"variation of a group over positions, by module": curves})
    overlays.save_image(file, overlays.stack_vertically(chart, map_sheet(model, images[:4])))
    pairs = zip(curves["before"], curves["after"], strict=True)
    return [f"module {n}: {before:.4f} before, {after:.4f} after" for (n, before), (_, after) in pairs]


def class_rows(weights: np.ndarray, names: Sequence[str], *, title: str, width: int = 900) -> np.ndarray:
    """Weights (classes, C) as a picture, a row a class; channels in the order of their mean, dark is 0."""
    ordered = weights[:, weights.mean(0).argsort()]
    left = max(map(overlays.text_width, names)) + 12
    cells = np.round(255 * ordered.clip(0, 1)).astype(np.uint8)
    picture = colored(cells, (width - left - 8, overlays.LINE * len(names)))
    canvas = overlays.blank_canvas(overlays.LINE * (len(names) + 1) + 16, width)
    overlays.write_text(canvas, title, (8, overlays.LINE - 4))
    top = overlays.LINE + 4
    canvas[top : top + len(picture), left : width - 8] = picture
    for row, name in enumerate(names):
        overlays.write_text(canvas, name, (8, top + overlays.LINE * (row + 1) - 5))
    return canvas


def draw_splits(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """The figure of ``split_weights``, and how far classes are apart."""
    by_class = cut_out(samples, table.num_classes)
    weights, names = split_weights(model, by_class), [table.names[k] for k in by_class]
    title = "{}: weight of the first split; a row a class, channels by their mean"
    panels = [class_rows(rows, names, title=title.format(name)) for name, rows in weights.items()]
    overlays.save_image(file, overlays.stack_vertically(*panels))
    return [f"{name}: classes {apart(rows):.4f} apart" for name, rows in weights.items()]


PROBES: dict[str, Callable[[nn.Module, Sequence[Sample], ClassTable, Path], list[str]]] = {
    "kernels": draw_kernels,
    "enhance": draw_enhance,
    "splits": draw_splits,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the network, look, draw and print.

    Raises:
        ValueError: the checkpoint cannot be read, or its network has no such attention.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("probe", choices=PROBES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--output", type=Path, metavar="FILE.png")
    chosen = parser.parse_args(arguments)
    settings = checkpoint.read_checkpoint(chosen.checkpoint)["settings"]
    model = predictor.load(chosen.checkpoint, device="cpu").network
    data = registry.build("data.datasets", settings["data"], split="val")
    samples = [data.read(index) for index in range(min(chosen.images, len(data)))]
    file = chosen.output or chosen.checkpoint.with_name(f"{chosen.probe}.png")
    for line in PROBES[chosen.probe](model, samples, data.table, file):
        print(line)
    print(f"drawn: {file}")


if __name__ == "__main__":
    report_user_errors(main)
