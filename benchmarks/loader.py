"""Images per second of the complete loader, compared with albumentations and torchvision v2 pipelines.

    python benchmarks/loader.py [--workers 2] [--rounds 5]

All sides read the same files with OpenCV, sample from the same distributions (the `encoding` preset: long
side uniform in 0.5 .. 2 of the base, flip, random crop; in some cases color jitter and blur) and batch with
DataLoader. The peers return normalized float32, segkit uint8 (the device normalizes). segkit averages when it
shrinks, like PIL in the published training; so does torchvision with antialiasing. The others, and segkit
with `augment.resize=opencv_linear`, skip pixels. `decoded` reads uncompressed copies, so that geometry
dominates. Rounds alternate; results are medians. With `--workers 0`, the default, images per second of CPU
time of one core; with workers, of wall time from the first batch on.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A
import cv2
import numpy as np
import torch
import turns
from albumentations.pytorch import ToTensorV2
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from segkit.data import loaders, transforms
from segkit.data.datasets import shapes
from segkit.data.label_map import load_builtin_label_map
from segkit.data.pairs import Pairs, match_files

BATCH = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Case(NamedTuple):
    """Kind of data and augmentation."""

    title: str
    size: tuple[int, int]
    suffix: str
    base: int
    crop: int
    decoded: bool = False
    color: bool = False
    files: int = 16
    samples: int = 160


ADE20K: dict[str, Any] = {"size": (512, 683), "suffix": ".jpg", "base": 520, "crop": 480}
CITYSCAPES: dict[str, Any] = {"size": (1024, 2048), "suffix": ".png", "base": 2048, "crop": 768, "files": 6}
CASES = [
    Case("ADE20K-sized JPEG", **ADE20K, samples=240),
    Case("ADE20K-sized, decoded", **ADE20K, decoded=True, samples=400),
    Case("ADE20K-sized, decoded, color and blur", **ADE20K, decoded=True, color=True, samples=240),
    Case("2048x1024 PNG", **CITYSCAPES, samples=32),
    Case("2048x1024, decoded", **CITYSCAPES, decoded=True, samples=96),
    Case("2048x1024, decoded, color and blur", **CITYSCAPES, decoded=True, color=True, samples=96),
]


def write_scenes(folder: Path, case: Case) -> None:
    """Write drawn scenes, smoothed to about the file size of photographs."""
    scenes = shapes.build("train", size=case.size)
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for index in range(case.files):
        sample = scenes.read(index)
        image = cv2.GaussianBlur(sample.image, (0, 0), 0.8)[..., ::-1]
        cv2.imwrite(str(folder / f"images/{index}{case.suffix}"), image)
        cv2.imwrite(str(folder / f"masks/{index}.png"), sample.label)


def segkit_batches(data: Pairs, case: Case, workers: int, resize: str) -> Iterator[Any]:
    """Iterate over the batches of segkit's loader."""
    strength = {"color_jitter": 0.5, "blur": 0.2} if case.color else {}
    how: Any = {"resize": resize, **strength}
    transform = transforms.build(crop_size=case.crop, base_size=case.base, **how)
    batches = range(case.samples // BATCH)
    return iter(
        loaders.TrainingLoader(
            data, transform, loaders.SampleOrder(len(data), 0, BATCH), iterations=batches, workers=workers
        )
    )


class Peer:
    """Map-style data set with segkit's reading code."""

    def __init__(self, data: Pairs, samples: int, transform: Callable[[np.ndarray, np.ndarray], Any]):
        self.data, self.samples, self.transform = data, samples, transform

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Any:
        image, label, *_ = self.data.read(index * 7919 % len(self.data))
        return self.transform(image, label)


def peer_batches(
    data: Pairs, case: Case, workers: int, make_transform: Callable[[Case], Callable[..., Any]]
) -> Iterator[Any]:
    """Iterate over the batches of a DataLoader with a peer's transform."""
    dataset: Any = Peer(data, case.samples, make_transform(case))
    setting: Any = {"num_workers": workers, "worker_init_fn": lambda _: cv2.setNumThreads(0)}
    return iter(DataLoader(dataset, batch_size=BATCH, **setting))


def plain_albumentations(case: Case) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Return the transform of albumentations."""
    color = [
        A.RandomBrightnessContrast(32 / 255, 0, p=0.5),
        A.RandomBrightnessContrast(0, 0.5, p=0.5),
        A.ColorJitter((1, 1), (1, 1), (0.5, 1.5), (0, 0), p=0.5),
        A.ColorJitter((1, 1), (1, 1), (1, 1), (-0.1, 0.1), p=0.5),
        A.GaussianBlur(blur_limit=0, sigma_limit=(0.1, 1.0), p=0.2),
    ]
    pipeline = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.LongestMaxSize(max_size=list(range(case.base // 2, 2 * case.base + 1))),
            A.PadIfNeeded(case.crop, case.crop, position="top_left", fill_mask=255),
            A.RandomCrop(case.crop, case.crop),
            *(color if case.color else []),
            A.Normalize(MEAN, STD),
            ToTensorV2(),
        ]
    )

    def transform(image: np.ndarray, label: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        result = pipeline(image=image, mask=label)
        return result["image"], result["mask"]

    return transform


def torchvision_v2(case: Case, *, averaging: bool = False) -> Callable[[np.ndarray, np.ndarray], Any]:
    """Return the transform of torchvision."""
    short = case.base * min(case.size) / max(case.size)
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    to_float: Any = {tv_tensors.Image: torch.float32, "others": None}
    color = [v2.RandomPhotometricDistort(p=0.5), v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.0))], p=0.2)]
    pipeline = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomResize(int(short / 2), int(2 * short) + 1, antialias=averaging),
            v2.RandomCrop(case.crop, pad_if_needed=True, fill=fill),  # type: ignore[arg-type]
            *(color if case.color else []),
            v2.ToDtype(to_float, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    def transform(image: np.ndarray, label: np.ndarray) -> Any:
        planes = torch.from_numpy(image).permute(2, 0, 1)
        return pipeline(tv_tensors.Image(planes), tv_tensors.Mask(torch.from_numpy(label)))

    return transform


SIDES: dict[str, Callable[[Pairs, Case, int], Iterator[Any]]] = {
    "segkit": partial(segkit_batches, resize="pil_bilinear"),
    "torchvision, averaging": partial(peer_batches, make_transform=partial(torchvision_v2, averaging=True)),
    "segkit, linear": partial(segkit_batches, resize="opencv_linear"),
    "albumentations": partial(peer_batches, make_transform=plain_albumentations),
    "torchvision": partial(peer_batches, make_transform=torchvision_v2),
}
COMPARED = (  # sides that average when shrinking, and sides that skip pixels
    ("segkit", "torchvision, averaging"),
    ("segkit, linear", "albumentations"),
    ("segkit, linear", "torchvision"),
)


def measure_rate(batches: Iterator[Any], clock: Callable[[], float], images: int) -> float:
    """Return images per second after the first batch, when workers have started."""
    next(batches)
    start = clock()
    for _ in batches:
        pass
    return (images - BATCH) / (clock() - start)


def measure_case(case: Case, rounds: int, workers: int) -> dict[str, float]:
    """Return median images per second of each side."""
    clock = time.perf_counter if workers else time.process_time
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_scenes(folder, case)
        found = match_files(folder / "images", folder / "masks")
        cache = "disk" if case.decoded else "none"
        data = Pairs("bench", load_builtin_label_map("shapes"), found, root=place, cache=cache)
        for index in range(len(data)):
            data.read(index)
        for _ in range(rounds):
            for name, batches in SIDES.items():
                rates[name].append(measure_rate(batches(data, case, workers), clock, case.samples))
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    """Measure and print one table."""
    parser = turns.make_parser(__doc__)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cases", type=int, nargs="+", default=range(len(CASES)), help="rows of the table, from 0"
    )
    parser.add_argument("--results", type=Path, help="append the figures to this file of JSON lines")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    names = ["images/s", *SIDES, *(f"{ours} to {theirs}" for ours, theirs in COMPARED)]
    print(f"| {' | '.join(names)} |\n{'|---' * len(names)}|")
    for case in (CASES[number] for number in given.cases):
        rates = measure_case(case, given.rounds, given.workers)
        cells = [f"{rate:.0f}" for rate in rates.values()]
        cells += [f"{rates[ours] / rates[theirs]:.1f}x" for ours, theirs in COMPARED]
        print(f"| {case.title} | {' | '.join(cells)} |", flush=True)
        part = {"what": "loader", "title": case.title, "rates": rates, "compared": COMPARED}
        turns.store_results(given, part)


if __name__ == "__main__":
    main()
