"""Figures of the attention papers for a trained network.

    python train_seg.py experiment=ablation model/backbone=sknet run_name=sk       two minutes on two cores
    python examples/probes.py kernels runs/sk/best.pt     SKNet: weight of the large kernel as objects grow
    python examples/probes.py enhance runs/sge/best.pt    SGE: maps and their variation before and after
    python examples/probes.py splits runs/st/best.pt      ResNeSt: weights of the splits by class and stage

The images are those of the checkpoint's validation set. The figure is saved next to the checkpoint or to
``--output``, and its numbers are printed. A small network trained for two minutes need not behave like the
papers' networks, which were trained on ImageNet.
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

FACTORS = (1.0, 1.25, 1.5, 1.75, 2.0)  # 1, 1.5 and 2 in the SKNet paper
Curves = dict[str, list[tuple[float, float]]]


def enlarge_center(image: np.ndarray, factor: float) -> np.ndarray:
    """Crop the center of an image (H, W, 3) and resize it to the size of the image."""
    height, width = image.shape[:2]
    rows, columns = round(height / factor), round(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = image[top : top + rows, left : left + columns]
    return cv2.resize(middle, (width, height), interpolation=cv2.INTER_LINEAR)


def record_modules(
    model: nn.Module, module_type: type[nn.Module], images: Iterable[np.ndarray]
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Yield input and output of every module of a type, by name, for each image.

    Raises:
        ValueError: the network has no such module.
    """
    modules = {name: module for name, module in model.named_modules() if isinstance(module, module_type)}
    if not modules:
        raise ValueError(f"the network has no {module_type.__name__}. Give a checkpoint of one that has")
    recorded: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        recorded[name] = inputs[0].detach(), out.detach()

    hooks = [m.register_forward_hook(functools.partial(record, name)) for name, m in modules.items()]
    try:
        with torch.inference_mode():
            for image in images:
                model.eval()(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
                yield dict(recorded)
    finally:
        for hook in hooks:
            hook.remove()


def kernel_weights(model: nn.Module, images: Sequence[np.ndarray]) -> Curves:
    """Return weight of the largest kernel minus that of the smallest by enlargement, a curve per block."""
    differences: dict[str, list[list[float]]] = defaultdict(lambda: [[] for _ in FACTORS])
    for n, factor in enumerate(FACTORS):
        for seen in record_modules(model, Selection, (enlarge_center(image, factor) for image in images)):
            for name, (_, weights) in seen.items():  # (1, M, C, 1, 1)
                differences[name][n].append(float(weights[0, -1].mean() - weights[0, 0].mean()))
    return {
        name: [(factor, float(np.mean(v))) for factor, v in zip(FACTORS, values, strict=True)]
        for name, values in differences.items()
    }


def variation(x: Tensor, groups: int) -> float:
    """Return std / mean over positions of the norm of each group's vector in (B, C, H, W)."""
    length = x.unflatten(1, (groups, -1)).float().norm(dim=2)  # (B, G, H, W)
    return float((length.std((2, 3)) / length.mean((2, 3)).clamp(min=1e-12)).mean())


def enhancement(model: nn.Module, images: Sequence[np.ndarray]) -> Curves:
    """Return the variation before and after each SGE module, by the number of the module."""
    modules = dict(model.named_modules())
    before, after = defaultdict(list), defaultdict(list)
    for seen in record_modules(model, SpatialGroupEnhance, images):
        for name, (before_module, out) in seen.items():
            groups = int(modules[name].groups)  # pyright: ignore[reportArgumentType]
            before[name].append(variation(before_module, groups))
            after[name].append(variation(out, groups))
    both = {"before": before, "after": after}
    return {
        when: [(n, float(np.mean(values))) for n, values in enumerate(modules.values(), start=1)]
        for when, modules in both.items()
    }


def apply_color_map(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return values (H, W) uint8 as a color image of a size (width, height); 0 is dark."""
    large = cv2.resize(values, size, interpolation=cv2.INTER_NEAREST)
    return cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def map_sheet(model: nn.Module, images: Sequence[np.ndarray]) -> np.ndarray:
    """Return each image next to the activation norm before and after the last SGE module."""
    rows = []
    for image, seen in zip(images, record_modules(model, SpatialGroupEnhance, images), strict=True):
        row = [image]
        for x in list(seen.values())[-1]:
            strength = x[0].float().norm(dim=0).numpy()
            strength = (255 * strength / max(strength.max(), 1e-12)).astype(np.uint8)
            row.append(apply_color_map(strength, image.shape[1::-1]))
        rows.append(np.concatenate(row, 1))
    return np.concatenate(rows)


def crop_objects(
    samples: Iterable[Sample], num_classes: int, *, most: int = 20
) -> dict[int, list[np.ndarray]]:
    """Return up to ``most`` crops of each class: its largest component with a margin, at image size."""
    crops: dict[int, list[np.ndarray]] = {k: [] for k in range(num_classes)}
    for image, label, *_ in samples:
        for k in np.unique(label[label < num_classes]):
            _, _, statistics, _ = cv2.connectedComponentsWithStats((label == k).astype(np.uint8))
            x, y, width, height, area = statistics[1:][statistics[1:, cv2.CC_STAT_AREA].argmax()]
            if len(crops[int(k)]) == most or area < label.size / 200:
                continue
            margin = max(width, height) // 4
            middle = image[max(y - margin, 0) : y + height + margin, max(x - margin, 0) : x + width + margin]
            crops[int(k)].append(cv2.resize(middle, label.shape[::-1], interpolation=cv2.INTER_LINEAR))
    return {k: images for k, images in crops.items() if images}


def split_weights(model: nn.Module, by_class: dict[int, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the mean weight (classes, C) of the first split for each Split-Attention module."""
    modules = {name: m for name, m in model.named_modules() if isinstance(m, SplitAttention)}
    scores: dict[str, Tensor] = {}  # output of ``fc2`` for the last image

    def record(name: str, module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
        scores[name] = out.detach()

    hooks = [m.fc2.register_forward_hook(functools.partial(record, name)) for name, m in modules.items()]
    means: dict[str, list[np.ndarray]] = defaultdict(list)
    try:
        for images in by_class.values():
            per_image: dict[str, list[Tensor]] = defaultdict(list)
            for _ in record_modules(model, SplitAttention, images):
                for name, module in modules.items():
                    per_image[name].append(module.attention(scores[name])[0, 0, :, 0, 0])
            for name, weights in per_image.items():
                means[name].append(torch.stack(weights).mean(0).numpy())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: np.stack(rows) for name, rows in means.items()}


def class_spread(weights: np.ndarray) -> float:
    """Return the standard deviation over classes of weights (classes, C), averaged over channels."""
    return float(weights.std(0).mean())


def draw_kernels(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """Draw ``kernel_weights``; return its numbers as text."""
    curves = kernel_weights(model, [sample.image for sample in samples])
    panel = "weight of the largest minus the smallest kernel, by enlargement"
    overlays.save_image(file, line_charts.charts({panel: curves}))
    return [f"{name}: {values[0][1]:+.4f} at 1, {values[-1][1]:+.4f} at 2" for name, values in curves.items()]


def draw_enhance(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """Draw ``enhancement`` and ``map_sheet``; return their numbers as text."""
    images = [sample.image for sample in samples]
    curves = enhancement(model, images)
    chart = line_charts.charts({"variation of a group over positions, by module": curves})
    overlays.save_image(file, overlays.stack_vertically(chart, map_sheet(model, images[:4])))
    pairs = zip(curves["before"], curves["after"], strict=True)
    return [f"module {n}: {before:.4f} before, {after:.4f} after" for (n, before), (_, after) in pairs]


def class_rows(weights: np.ndarray, names: Sequence[str], *, title: str, width: int = 900) -> np.ndarray:
    """Draw weights (classes, C), one row per class; channels sorted by mean, 0 is dark."""
    ordered = weights[:, weights.mean(0).argsort()]
    left = max(map(overlays.text_width, names)) + 12
    cells = np.round(255 * ordered.clip(0, 1)).astype(np.uint8)
    image = apply_color_map(cells, (width - left - 8, overlays.LINE * len(names)))
    canvas = overlays.blank_canvas(overlays.LINE * (len(names) + 1) + 16, width)
    overlays.write_text(canvas, title, (8, overlays.LINE - 4))
    top = overlays.LINE + 4
    canvas[top : top + len(image), left : width - 8] = image
    for row, name in enumerate(names):
        overlays.write_text(canvas, name, (8, top + overlays.LINE * (row + 1) - 5))
    return canvas


def draw_splits(model: nn.Module, samples: Sequence[Sample], table: ClassTable, file: Path) -> list[str]:
    """Draw ``split_weights``; return the spread over classes as text."""
    by_class = crop_objects(samples, table.num_classes)
    weights, names = split_weights(model, by_class), [table.names[k] for k in by_class]
    title = "{}: weight of the first split; one row per class, channels sorted by mean"
    panels = [class_rows(rows, names, title=title.format(name)) for name, rows in weights.items()]
    overlays.save_image(file, overlays.stack_vertically(*panels))
    return [f"{name}: spread over classes {class_spread(rows):.4f}" for name, rows in weights.items()]


PROBES: dict[str, Callable[[nn.Module, Sequence[Sample], ClassTable, Path], list[str]]] = {
    "kernels": draw_kernels,
    "enhance": draw_enhance,
    "splits": draw_splits,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the network, draw the figure and print its numbers.

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
    args = parser.parse_args(arguments)
    settings = checkpoint.read_checkpoint(args.checkpoint)["settings"]
    model = predictor.load(args.checkpoint, device="cpu").network
    data = registry.build("data.datasets", settings["data"], split="val")
    samples = [data.read(index) for index in range(min(args.images, len(data)))]
    file = args.output or args.checkpoint.with_name(f"{args.probe}.png")
    for line in PROBES[args.probe](model, samples, data.table, file):
        print(line)
    print(f"saved {file}")


if __name__ == "__main__":
    report_user_errors(main)
