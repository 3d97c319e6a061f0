"""Probe the attention of a trained network as in the papers; each probe writes one figure.

    python train_seg.py experiment=ablation model/backbone=sknet run_name=sk
    python examples/probes.py kernels runs/sk/best.pt   # SKNet: weight of the large kernel, enlarged objects
    python examples/probes.py enhance runs/sge/best.pt  # SGE: maps before and after, and their variation
    python examples/probes.py splits runs/st/best.pt    # ResNeSt: weights of the splits by class and stage

Images are those of the checkpoint's validation set. The figure is saved beside the checkpoint or as
``--output``; its numbers are printed. Thin networks need not show what the papers report for ImageNet.
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


def enlarge_center(image: np.ndarray, factor: float) -> np.ndarray:
    """Crop the center of an image (H, W, 3) and resize it to the image's size."""
    height, width = image.shape[:2]
    rows, columns = round(height / factor), round(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    center = image[top : top + rows, left : left + columns]
    return cv2.resize(center, (width, height), interpolation=cv2.INTER_LINEAR)


def run_with_hooks(
    model: nn.Module, kind: type[nn.Module], images: Iterable[np.ndarray]
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Yield for each image the inputs and outputs of all modules of a kind, by name.

    Raises:
        ValueError: the network has no such module.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    if not modules:
        raise ValueError(f"this network has no {kind.__name__}. Use the checkpoint of a network with one")
    values: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values[name] = inputs[0].detach(), output.detach()

    hooks = [m.register_forward_hook(functools.partial(record, name)) for name, m in modules.items()]
    try:
        with torch.inference_mode():
            for image in images:
                model.eval()(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
                yield dict(values)
    finally:
        for hook in hooks:
            hook.remove()


def measure_large_kernel(model: nn.Module, images: Sequence[np.ndarray]) -> Curves:
    """Return the weight of the largest kernel minus that of the smallest by enlargement, for each block."""
    differences: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in FACTORS])
    for n, factor in enumerate(FACTORS):
        enlarged = (enlarge_center(image, factor) for image in images)
        for values in run_with_hooks(model, Selection, enlarged):
            for name, (_, weights) in values.items():  # (1, M, C, 1, 1)
                differences[name][n].append(float(weights[0, -1].mean() - weights[0, 0].mean()))
    return {
        name: [(factor, float(np.mean(each))) for factor, each in zip(FACTORS, values, strict=True)]
        for name, values in differences.items()
    }


def variation(x: Tensor, groups: int) -> float:
    """Return std over mean, over positions, of the length of each group's vector in (B, C, H, W)."""
    length = x.unflatten(1, (groups, -1)).float().norm(dim=2)  # (B, G, H, W)
    return float((length.std((2, 3)) / length.mean((2, 3)).clamp(min=1e-12)).mean())


def measure_enhancement(model: nn.Module, images: Sequence[np.ndarray]) -> Curves:
    """Return the variation before and after each SGE module, by the number of the module."""
    modules = dict(model.named_modules())
    before, after = defaultdict(list), defaultdict(list)
    for values in run_with_hooks(model, SpatialGroupEnhance, images):
        for name, (x, out) in values.items():
            groups = int(modules[name].groups)  # pyright: ignore[reportArgumentType]
            before[name].append(variation(x, groups))
            after[name].append(variation(out, groups))
    both = {"before": before, "after": after}
    return {
        when: [(n, float(np.mean(values))) for n, values in enumerate(modules.values(), start=1)]
        for when, modules in both.items()
    }


def apply_colors(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Draw values (H, W) uint8 as colored rectangles, dark is 0, in a picture of a size (width, height)."""
    large = cv2.resize(values, size, interpolation=cv2.INTER_NEAREST)
    return cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def draw_maps(model: nn.Module, images: Sequence[np.ndarray]) -> np.ndarray:
    """Draw each image beside the mean activation before and after the last SGE module."""
    rows = []
    for image, values in zip(images, run_with_hooks(model, SpatialGroupEnhance, images), strict=True):
        row = [image]
        for x in list(values.values())[-1]:
            strength = x[0].float().norm(dim=0).numpy()
            strength = (255 * strength / max(strength.max(), 1e-12)).astype(np.uint8)
            row.append(apply_colors(strength, image.shape[1::-1]))
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


def crop_classes(
    samples: Iterable[Sample], num_classes: int, *, count: int = 20
) -> dict[int, list[np.ndarray]]:
    """Crop up to ``count`` images of each class: its largest component with a margin, at the image's size."""
    crops: dict[int, list[np.ndarray]] = {k: [] for k in range(num_classes)}
    for image, label, *_ in samples:
        for k in np.unique(label[label < num_classes]):
            _, _, statistics, _ = cv2.connectedComponentsWithStats((label == k).astype(np.uint8))
            x, y, width, height, area = statistics[1:][statistics[1:, cv2.CC_STAT_AREA].argmax()]
            if len(crops[int(k)]) == count or area < label.size / 200:
                continue
            margin = max(width, height) // 4
            center = image[max(y - margin, 0) : y + height + margin, max(x - margin, 0) : x + width + margin]
            crops[int(k)].append(cv2.resize(center, label.shape[::-1], interpolation=cv2.INTER_LINEAR))
    return {k: images for k, images in crops.items() if images}


def measure_split_weights(model: nn.Module, by_class: dict[int, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the mean weight of the first split, (classes, C), for each Split-Attention module."""
    modules = {name: m for name, m in model.named_modules() if isinstance(m, SplitAttention)}
    scores: dict[str, Tensor] = {}  # output of ``fc2`` for the last image

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        scores[name] = output.detach()

    hooks = [m.fc2.register_forward_hook(functools.partial(record, name)) for name, m in modules.items()]
    means: dict[str, list[np.ndarray]] = defaultdict(list)
    try:
        for images in by_class.values():
            class_weights: dict[str, list[Tensor]] = defaultdict(list)
            for _ in run_with_hooks(model, SplitAttention, images):
                for name, module in modules.items():
                    class_weights[name].append(module.attention(scores[name])[0, 0, :, 0, 0])
            for name, weights in class_weights.items():
                means[name].append(torch.stack(weights).mean(0).numpy())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: np.stack(rows) for name, rows in means.items()}


def class_distance(weights: np.ndarray) -> float:
    """Return the standard deviation of weights (classes, C) over classes, averaged over channels."""
    return float(weights.std(0).mean())


def draw_kernels(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """Draw the figure of ``measure_large_kernel`` and return its numbers."""
    curves = measure_large_kernel(model, [sample.image for sample in samples])
    panel = "weight of the largest kernel minus the smallest, by enlargement"
    overlays.save_image(file, line_charts.draw_line_charts({panel: curves}))
    return [f"{name}: {values[0][1]:+.4f} at 1, {values[-1][1]:+.4f} at 2" for name, values in curves.items()]


def draw_enhance(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """Draw the figures of ``measure_enhancement`` and ``draw_maps`` and return their numbers."""
    images = [sample.image for sample in samples]
    curves = measure_enhancement(model, images)
    chart = line_charts.draw_line_charts({"variation of a group over positions, by module": curves})
    overlays.save_image(file, overlays.stack_vertically(chart, draw_maps(model, images[:4])))
    pairs = zip(curves["before"], curves["after"], strict=True)
    return [f"module {n}: {before:.4f} before, {after:.4f} after" for (n, before), (_, after) in pairs]


def draw_class_rows(weights: np.ndarray, names: Sequence[str], *, title: str, width: int = 900) -> np.ndarray:
    """Draw weights (classes, C), one row per class; channels are sorted by their mean, dark is 0."""
    ordered = weights[:, weights.mean(0).argsort()]
    left = max(map(overlays.text_width, names)) + 12
    cells = np.round(255 * ordered.clip(0, 1)).astype(np.uint8)
    picture = apply_colors(cells, (width - left - 8, overlays.LINE * len(names)))
    canvas = overlays.blank_canvas(overlays.LINE * (len(names) + 1) + 16, width)
    overlays.write_text(canvas, title, (8, overlays.LINE - 4))
    top = overlays.LINE + 4
    canvas[top : top + len(picture), left : width - 8] = picture
    for row, name in enumerate(names):
        overlays.write_text(canvas, name, (8, top + overlays.LINE * (row + 1) - 5))
    return canvas


def draw_splits(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """Draw the figure of ``measure_split_weights`` and return the distances between classes."""
    by_class = crop_classes(samples, table.num_classes)
    weights, names = measure_split_weights(model, by_class), [table.names[k] for k in by_class]
    title = "{}: weight of the first split by class, channels sorted by their mean"
    panels = [draw_class_rows(rows, names, title=title.format(name)) for name, rows in weights.items()]
    overlays.save_image(file, overlays.stack_vertically(*panels))
    return [f"{name}: std over classes {class_distance(rows):.4f}" for name, rows in weights.items()]


PROBES: dict[str, Callable[[nn.Module, Sequence[Sample], ClassTable, Path], list[str]]] = {
    "kernels": draw_kernels,
    "enhance": draw_enhance,
    "splits": draw_splits,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the network, run the probe and print its numbers.

    Raises:
        ValueError: the checkpoint cannot be read, or its network has no such module.
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
    print(f"saved {file}")


if __name__ == "__main__":
    report_user_errors(main)
