"""Mistakes planted in a data set that the doctor finds, and the time it takes.

    python benchmarks/doctor.py copies --root data/camvid [--quick]
    python benchmarks/doctor.py masks --root data/camvid [--quick]
    python benchmarks/doctor.py labels --root data/camvid --checkpoint best.pt [--quick]
    python benchmarks/doctor.py speed --root data/camvid [--images 1000]

``copies``: recompressed, resized and mirrored copies of every image, against the false pairs among the
images. ``masks``: every fifth mask shifted, mirrored, or exchanged with that of another image. ``labels``:
errors in 5 % of the validation labels (two classes exchanged, a mask shifted by 15 pixels, a region
relabeled), their share in the first 10 % of the ranking, and in that of cleanlab from the same predictions,
if it is installed. ``speed``: seconds and peak memory for a folder of brightened and moved copies.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import turns

import segkit
from segkit.config import registry
from segkit.data.alignment import align_dataset
from segkit.tools.doctor import agreement, copies, labels
from segkit.tools.doctor.findings import Key, Record
from segkit.tools.doctor.scan import examine_pair, to_gray
from segkit.types import ignore_index

SHIFT = 15  # pixels


def recompress(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image after JPEG."""
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def resize(image: np.ndarray, factor: float) -> np.ndarray:
    """Return an image of another size."""
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=method)


def mirror(image: np.ndarray) -> np.ndarray:
    """Return the mirrored image."""
    return np.ascontiguousarray(image[:, ::-1])


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG quality 30": lambda image: recompress(image, 30),
    "JPEG quality 75": lambda image: recompress(image, 75),
    "quarter of the size": lambda image: resize(image, 0.25),
    "0.6 of the size": lambda image: resize(image, 0.6),
    "1.7 of the size": lambda image: resize(image, 1.7),
    "mirrored": mirror,
    "mirrored, half the size, JPEG quality 50": lambda image: recompress(resize(mirror(image), 0.5), 50),
}


def build_datasets(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return both splits of the data set."""
    settings = {"name": arguments.data, "root": arguments.root}
    return {split: registry.build("data.datasets", settings, split=split) for split in ("train", "val")}


def read_records(datasets: dict[str, Any], step: int) -> tuple[list[Record], list[Key]]:
    """Return the records of every ``step``-th image, and their keys."""
    records = [
        examine_pair(data, split, place)
        for split, data in datasets.items()
        for place in range(0, len(data), step)
    ]
    return records, [record.key for record in records]


def measure_copies(arguments: argparse.Namespace) -> None:
    """Print the share of found copies of each kind, and the false pairs among the images."""
    datasets = build_datasets(arguments)
    records, keys = read_records(datasets, 8 if arguments.quick else 1)
    count = len(records)

    @functools.cache
    def read(key: Key) -> np.ndarray:
        if key.split == "planted":
            return cv2.cvtColor(make_copy(key.position), cv2.COLOR_RGB2GRAY)
        dataset = datasets[key.split]
        return to_gray(dataset.read_image(key.position), dataset)[0]

    alone = copies.find_matches(np.stack([record.descriptor for record in records]))
    false = copies.confirm_copies(alone, records, read)
    print(f"{count} images: {len(alone)} nearly equal pairs, {len(false)} called copies")
    for title, change in COPIES.items():
        read.cache_clear()

        def make_copy(place: int, change: Callable[[np.ndarray], np.ndarray] = change) -> np.ndarray:
            return change(datasets[keys[place].split].read(keys[place].position).image)

        added = [
            record._replace(
                key=Key("planted", place, ""),
                image_digest=b"",
                descriptor=copies.describe_image(read(Key("planted", place, ""))),
            )
            for place, record in enumerate(records)
        ]
        both = records + added
        matches = copies.find_matches(np.stack([record.descriptor for record in both]))
        pairs = {match[:2] for match in copies.confirm_copies(matches, both, read)}
        found = sum((place, count + place) in pairs for place in range(count))
        print(f"{title:>45}: {found} of {count} found ({found / count:.1%})")


def measure_masks(arguments: argparse.Namespace) -> None:
    """Print the share of found misfits of each kind, and the share of sound masks that are reported."""
    datasets = build_datasets(arguments)
    records, keys = read_records(datasets, 8 if arguments.quick else 1)
    samples = [datasets[key.split].read(key.position) for key in keys]
    draw, num_classes = np.random.default_rng(0), datasets["train"].table.num_classes

    def exchange(place: int) -> np.ndarray:
        other = samples[(place + len(samples) // 2) % len(samples)].label
        return cv2.resize(other, samples[place].label.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

    def report(title: str, changed: list[Record], chosen: set[Key]) -> None:
        cases = agreement.find_misfits(changed)
        named = {case.images[0] for case in cases}
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(c.kind for c in cases).items())
        print(f"{title:>12}: {len(named & chosen)} of {len(chosen)} found ({kinds or 'nothing'})")

    changes: dict[str, Callable[[int], np.ndarray]] = {
        "shifted": lambda place: shift_label(samples[place].label, draw, num_classes),
        "mirrored": lambda place: mirror(samples[place].label),
        "exchanged": exchange,
    }
    report("unchanged", records, set(keys))
    chosen = list(range(0, len(records), 5))  # the others are unchanged
    for title, change in changes.items():
        changed = list(records)
        for place in chosen:
            gray = to_gray(samples[place].image, datasets[keys[place].split])[0]
            fit = agreement.measure_agreement(gray, change(place))
            changed[place] = records[place]._replace(agreement=fit)
        report(title, changed, {keys[place] for place in chosen})


def exchange_classes(label: np.ndarray, draw: np.random.Generator, num_classes: int) -> np.ndarray | None:
    """Return a label with two classes exchanged that cover at least 1 % each; None without two."""
    large = [k for k in range(num_classes) if (label == k).mean() >= 0.01]
    if len(large) < 2:
        return None
    one, other = draw.choice(large, 2, replace=False)
    changed = label.copy()
    changed[label == one], changed[label == other] = other, one
    return changed


def shift_label(label: np.ndarray, draw: np.random.Generator, num_classes: int) -> np.ndarray:
    """Return a label moved by ``SHIFT`` pixels in a random direction."""
    y, x = [(0, SHIFT), (0, -SHIFT), (SHIFT, 0), (-SHIFT, 0)][draw.integers(4)]
    move = np.array([[1, 0, x], [0, 1, y]], np.float32)
    fill = ignore_index(num_classes)
    return cv2.warpAffine(label, move, label.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=fill)


def relabel_region(label: np.ndarray, draw: np.random.Generator, num_classes: int) -> np.ndarray | None:
    """Return a label with one region of at least 0.5 % of the pixels in a random other class."""
    regions = []
    for k in range(num_classes):
        number, components, boxes, _ = cv2.connectedComponentsWithStats(np.uint8(label == k), connectivity=4)
        areas = boxes[:, cv2.CC_STAT_AREA]
        regions += [(k, components == i) for i in range(1, number) if areas[i] >= 0.005 * label.size]
    if not regions:
        return None
    own, region = regions[draw.integers(len(regions))]
    changed = label.copy()
    changed[region] = draw.choice([k for k in range(num_classes) if k != own])
    return changed


ERRORS = {"exchanged": exchange_classes, "shifted": shift_label, "relabeled": relabel_region}


def score_with_cleanlab(probabilities: np.ndarray, label: np.ndarray) -> float:
    """Return cleanlab's quality score of a label, lower is worse; ignored pixels count as right."""
    from cleanlab.segmentation.rank import get_label_quality_scores

    is_ignored = label == ignore_index(len(probabilities))
    probabilities = probabilities / probabilities.sum(0)
    probabilities[:, is_ignored] = 0
    probabilities[0][is_ignored] = 1
    known = np.where(is_ignored, 0, label).astype(np.int64)
    return float(get_label_quality_scores(known[None], probabilities[None], verbose=False)[0][0])


def measure_labels(arguments: argparse.Namespace) -> None:
    """Print the share of planted errors in the first tenth of the rankings."""
    dataset = build_datasets(arguments)["val"]
    with_cleanlab = importlib.util.find_spec("cleanlab") is not None
    trained = segkit.load(arguments.checkpoint)
    dataset = align_dataset(dataset, trained.table.names)
    samples = [dataset.read(place) for place in range(0, len(dataset), 4 if arguments.quick else 1)]
    predicted = [trained.probabilities(sample.image).astype(np.float16) for sample in samples]
    count, num_classes = len(samples), trained.table.num_classes

    def judge(place: int, label: np.ndarray) -> tuple[labels.Suspect, float]:
        probabilities = predicted[place].astype(np.float32)
        compared, _ = labels.compare_label(probabilities, label)
        image = labels.Suspect(Key("val", place, samples[place].name), False, compared)
        return image, score_with_cleanlab(probabilities, label) if with_cleanlab else 0.0

    sound = [judge(place, sample.label) for place, sample in enumerate(samples)]
    found: dict[str, list[tuple[bool, bool]]] = {kind: [] for kind in ERRORS}
    for draw_number in range(3 if arguments.quick else 60):
        draw, judged, planted = np.random.default_rng(draw_number), list(sound), {}
        for number, place in enumerate(
            draw.choice(count, max(1, round(0.05 * count)), replace=False).tolist()
        ):
            kind = list(ERRORS)[(number + draw_number) % len(ERRORS)]
            changed = ERRORS[kind](samples[place].label, draw, num_classes)
            if changed is not None:
                planted[place] = kind
                judged[place] = judge(place, changed)
        tenth = count // 10
        ours = {s.key.position for s in labels.rank_images([e for e, _ in judged])[:tenth]}
        theirs = set(np.argsort([score for _, score in judged], kind="stable")[:tenth].tolist())
        for place, kind in planted.items():
            found[kind].append((place in ours, place in theirs))
    everything = [each for rows in found.values() for each in rows]
    for kind, rows in {**found, "all": everything}.items():
        shares = np.mean(rows, axis=0) if rows else (np.nan, np.nan)
        theirs = f", cleanlab {shares[1]:.1%}" if with_cleanlab else ""
        print(f"{kind:>12}: {shares[0]:.1%} of {len(rows)} in the first 10 %{theirs}")


def measure_speed(arguments: argparse.Namespace) -> None:
    """Print seconds and peak memory of the command on a folder of many images."""
    dataset = build_datasets(arguments)["train"]
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for split in ("train", "val"):
            for kind in ("images", "annotations"):
                (root / kind / split).mkdir(parents=True)
        for number in range(arguments.images):
            pair = dataset.pairs[number % len(dataset)]
            image, mask = cv2.imread(str(pair.image)), cv2.imread(str(pair.label), cv2.IMREAD_UNCHANGED)
            move = np.array([[1, 0, draw.integers(-60, 60)], [0, 1, draw.integers(-40, 40)]], np.float32)
            size = image.shape[1::-1]
            split = "train" if number % 5 else "val"
            image = cv2.convertScaleAbs(image, alpha=draw.uniform(0.8, 1.2))
            image = cv2.warpAffine(image, move, size, borderMode=cv2.BORDER_REFLECT)
            mask = cv2.warpAffine(mask, move, size, flags=0, borderMode=cv2.BORDER_REFLECT)
            cv2.imwrite(str(root / f"images/{split}/{number:06d}.jpg"), image)
            cv2.imwrite(str(root / f"annotations/{split}/{number:06d}.png"), mask)
        script = Path(__file__).resolve().parent.parent / "datasets" / f"{arguments.data}.py"
        command = [sys.executable, str(script), "doctor", "--root", temporary, "--output", f"{temporary}/out"]
        start = time.perf_counter()
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    if result.returncode not in (0, 1) or "examined" not in result.stdout:
        raise SystemExit(result.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(result.stdout)
    print(f"{arguments.images} images: {seconds:.1f} s, {peak:.0f} MiB at most")


def main() -> None:
    """Measure what the command line names."""
    parser = turns.make_parser(__doc__)
    measures = {
        "copies": measure_copies,
        "masks": measure_masks,
        "labels": measure_labels,
        "speed": measure_speed,
    }
    parser.add_argument("measure", choices=measures)
    parser.add_argument("--root", required=True)
    parser.add_argument("--data", default="camvid", help="name of the data set")
    parser.add_argument("--checkpoint", help="of the model for labels")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="a part of the images")
    arguments = parser.parse_args()
    measures[arguments.measure](arguments)


if __name__ == "__main__":
    main()
