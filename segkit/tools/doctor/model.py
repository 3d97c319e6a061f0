"""A trained model as a second opinion on the labels of a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from segkit import checkpoint as checkpoints
from segkit import export
from segkit.config import registry
from segkit.data.alignment import align_dataset
from segkit.data.label_map import DataError
from segkit.inference import predictor
from segkit.tools.doctor.agreement import format_offset
from segkit.tools.doctor.findings import Case, Finding, Key
from segkit.tools.doctor.labels import Comparison, ImageEvidence, Suspect, compare_label, rank_images
from segkit.types import Dataset, Sample

EXCHANGE = (
    0.05  # nats per pixel: sound labels of CamVid have at most 0.014, exchanged ones nearly always more
)
SHIFT = 0.05  # nats per pixel: sound labels have 0, masks moved by 15 pixels at least 0.1
SUSPICIOUS = 5.0  # score of a region worth a look; 1 is usual
MIN_IMAGES = 3  # that two classes are mixed up in


class Opinion(NamedTuple):
    """A sample with the comparison of its label and the prediction (H, W) of the model."""

    sample: Sample
    comparison: Comparison
    prediction: np.ndarray


class Model:
    """A model and the splits of a data set in its class order.

    Args:
        file: checkpoint or exported file.
        datasets: by split. Their bands become those of the model.
        plugins: packages that hold components of the model.

    Raises:
        ValueError: the file is not a model, or its classes differ from those of the data.
    """

    def __init__(self, file: str, datasets: Mapping[str, Any], *, plugins: Sequence[str] = ()) -> None:
        self.predictor = predictor.load(file, plugins=plugins)
        self.pairs = datasets
        for dataset in datasets.values():
            dataset.bands = self.predictor.bands
        self.table = self.predictor.table
        self.datasets: dict[str, Dataset] = {
            split: align_dataset(dataset, self.table.names) for split, dataset in datasets.items()
        }
        self.training_files = find_training_files(file)

    def compare(self, key: Key) -> Opinion:
        """Return the opinion on an image.

        Raises:
            DataError: the image or its mask cannot be read.
        """
        sample = self.datasets[key.split].read(key.position)
        probabilities = self.predictor.probabilities(sample.image)
        prediction = probabilities.argmax(0).astype(sample.label.dtype)
        return Opinion(sample, compare_label(probabilities, sample.label), prediction)

    def rank(self) -> list[Suspect]:
        """Return all readable images by how likely their labels are wrong, with a progress bar."""
        return rank_images(list(self._collect_evidence()))

    def _collect_evidence(self) -> Iterator[ImageEvidence]:
        keys = [Key(split, i) for split, dataset in self.pairs.items() for i in range(len(dataset))]
        cv2.setNumThreads(0)
        for key in tqdm(keys, "predict", unit="image", smoothing=0, disable=None):
            try:
                opinion = self.compare(key)
            except DataError:  # reported by the scan
                continue
            regions, shift, offset, exchange, _ = opinion.comparison
            yield ImageEvidence(
                key, opinion.sample.name, self.is_trained_on(key), regions, shift, offset, exchange
            )

    def is_trained_on(self, key: Key) -> bool | None:
        """Return whether the model was trained on an image; None if its training data are not there."""
        if self.training_files is None:
            return None
        return _identify_file(self.pairs[key.split].pairs[key.position].image) in self.training_files


def find_training_files(file: str) -> set[tuple[int, int]] | None:
    """Return device and inode of the training images of a model; None if they cannot be found."""
    if export.is_exported(file):
        stored: Mapping[str, Any] = export.read_metadata(file)["settings"]
    else:
        stored = checkpoints.read_checkpoint(file, mapped=True)["settings"]
    try:
        train = registry.build("data.datasets", {**stored["data"], "on_error": "skip"}, split="train")
        return {_identify_file(pair.image) for pair in train.pairs}
    except (ValueError, OSError, TypeError, KeyError, AttributeError):
        return None


def _identify_file(path: Path) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - follows links, as opening does
    return status.st_dev, status.st_ino


def describe_training(ranking: Sequence[Suspect]) -> str:
    """Return a sentence on the images that the model was trained on."""
    flags = [suspect.evidence.is_trained_on for suspect in ranking]
    memory = "It agrees more with labels that it was trained on, even with wrong ones"
    if None in flags:
        return (
            f"The training data of the model were not found, so what it was trained on is unknown. {memory}."
        )
    if not any(flags):
        return f"The model was trained on none of these {len(flags):,} images."
    trained = f"The model was trained on {sum(map(bool, flags)):,} of these {len(flags):,} images."
    return f"{trained} {memory}; they are compared among themselves."


def find_label_problems(ranking: Sequence[Suspect], names: Sequence[str]) -> list[Finding]:
    """Return findings on exchanged classes, moved masks, suspicious regions and mixed-up classes."""
    exchanged, moved, doubtful = [], [], []
    for suspect in ranking:
        image = suspect.evidence
        case = Case((image.key,), f"{image.name}: {describe_suspect(suspect, names)}")
        if image.exchange is not None and image.exchange[2] >= EXCHANGE:
            exchanged.append(case)
        elif image.shift >= SHIFT:
            moved.append(case)
        elif suspect.score >= SUSPICIOUS:
            doubtful.append(case)
    findings = []
    if exchanged:
        text = f"{len(exchanged):,} of {len(ranking):,} labels are likelier with two classes exchanged."
        findings.append(Finding("exchanged classes", "serious", text, "Correct these masks", exchanged))
    if moved:
        text = f"{len(moved):,} of {len(ranking):,} labels are likelier when moved."
        findings.append(Finding("moved labels", "serious", text, "Move these masks", moved))
    if doubtful:
        text = (
            f"{len(doubtful):,} of {len(ranking):,} labels have regions that the model contradicts strongly."
        )
        remedy = (
            "Look at them, and correct them where the model is right; --export writes them for label tools"
        )
        findings.append(Finding("suspicious regions", "warning", text, remedy, doubtful))
    if mixed := count_mixed_classes(ranking):
        cases = []
        for (a, b), (images, share) in mixed[:20]:
            where = f"{images} images, {100 * share:.2f} % of an image on average"
            cases.append(Case((), f"labeled {names[a]}, predicted {names[b]}: {where}"))
        text = "Classes that the model and the labels disagree on most, in suspicious regions."
        findings.append(Finding("mixed-up classes", "note", text, "Agree on where each of them ends", cases))
    return findings


def count_mixed_classes(ranking: Sequence[Suspect]) -> list[tuple[tuple[int, int], tuple[int, float]]]:
    """Return pairs (label, prediction) with their images and mean share of the pixels, most images first."""
    found: dict[tuple[int, int], list[float]] = {}
    for suspect in ranking:
        of_image: dict[tuple[int, int], float] = {}
        for region, score in zip(suspect.evidence.regions, suspect.region_scores, strict=True):
            if score >= 1 and region.label != region.prediction:
                pair = region.label, region.prediction
                of_image[pair] = of_image.get(pair, 0.0) + region.share
        for pair, share in of_image.items():
            found.setdefault(pair, []).append(share)
    counted = [(pair, (len(shares), float(np.mean(shares)))) for pair, shares in found.items()]
    return sorted((each for each in counted if each[1][0] >= MIN_IMAGES), key=lambda each: -each[1][0])


def describe_suspect(suspect: Suspect, names: Sequence[str]) -> str:
    """Return the strongest reason why the label of an image may be wrong."""
    image = suspect.evidence
    if image.exchange is not None and image.exchange[2] >= EXCHANGE:
        one, other, _ = image.exchange
        return f"{names[one]} and {names[other]} look exchanged"
    if image.shift >= SHIFT:
        return f"fits the prediction better when moved by {format_offset(image.offset)}"
    if not image.regions:
        return "no suspicious region"
    best = max(range(len(image.regions)), key=lambda place: suspect.region_scores[place])
    region = image.regions[best]
    share = f"{100 * region.share:.1f} % of the image"
    return f"labeled {names[region.label]}, predicted {names[region.prediction]} ({share})"


def ranking_to_plain(ranking: Sequence[Suspect], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the ranking as the content of a JSON file."""
    rows = []
    for suspect in ranking:
        image = suspect.evidence
        regions = [
            {
                "label": names[region.label],
                "prediction": names[region.prediction],
                "score": round(score, 3),
                "share": round(region.share, 5),
                "box": list(region.box),
            }
            for region, score in zip(image.regions, suspect.region_scores, strict=True)
            if score >= 1
        ]
        rows.append(
            {
                "split": image.key.split,
                "name": image.name,
                "score": round(suspect.score, 3),
                "trained_on": image.is_trained_on,
                "reason": describe_suspect(suspect, names),
                "regions": regions,
            }
        )
    return rows
