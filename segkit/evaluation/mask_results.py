"""``test_seg.py predictions=DIR``: score predicted masks and write the same results as for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from segkit.config import registry
from segkit.data.alignment import as_label_map
from segkit.data.pairs import Pairs
from segkit.data.reading import read_mask
from segkit.evaluation import masks, report, results
from segkit.evaluation.masks import MaskScores
from segkit.evaluation.metrics import Absent, compute_class_scores
from segkit.evaluation.scoring import Evaluation
from segkit.types import class_id_dtype, ignore_index


@dataclass(frozen=True)
class MaskProtocol:
    """Settings that decide the scores of predicted masks; takes the place of an evaluation protocol."""

    format: masks.Format
    absent: Absent
    evaluators: Mapping[str, Any]
    name: str = "masks"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python."""
        return asdict(self)

    def __str__(self) -> str:
        return f"predicted masks: {masks.FORMATS[self.format]}; classes without pixels: {self.absent}"


def score_and_write(settings: Mapping[str, Any]) -> str:
    """Score the masks of ``predictions``, write the results and return them as text.

    Raises:
        ValueError: as ``masks.score_masks``; or a setting needs a network.
    """
    for key in ("save", "submission"):
        if settings[key]:
            raise ValueError(f"{key}={settings[key]}: needs a network, but predictions= scores files")
    dataset: Pairs = registry.build("data.datasets", settings["data"], split="val")
    predictions, absent = Path(settings["predictions"]), settings["evaluation"]["absent"]
    evaluators = settings["evaluation"]["evaluators"]
    on_error = settings["data"].get("on_error", "stop")
    files, problems = masks.match_predictions(predictions, dataset)
    if problems and on_error == "stop":  # before a folder is made
        raise ValueError(masks.list_problems(problems, predictions))
    format = settings["predictions_format"]
    if format == "auto":
        format = masks.detect_format(files, dataset)
    identity = masks.fingerprint_predictions(dataset, files, format, evaluators)
    protocol: Any = MaskProtocol(format, absent, evaluators)
    folder = results.make_output_folder(dict(settings), {}, protocol, identity)
    found = masks.score_masks(
        predictions,
        dataset,
        format=format,
        absent=absent,
        evaluators=evaluators,
        on_error=on_error,
        partial=folder / "partial.npz",
        progress=True,
    )
    table = as_label_map(dataset.table)
    evaluation = _as_evaluation(found, protocol)
    metadata = {"predictions": str(predictions), "weights_sha256": identity, "settings": settings}
    results.write_results(folder, evaluation, table, metadata)
    index_of = {name: index for index, name in enumerate(dataset.names)}
    results.write_image_counts(
        folder,
        found.names,
        found.image_counts,
        predictions=[files[index_of[name]] for name in found.names],
        predictions_format=found.format,
    )
    if settings["report"]:
        gallery = report.Gallery()
        decoder = masks.Decoder(dataset.table, found.format)
        for index in _find_extremes(found, index_of, worst=9, best=3):
            ids = decoder.decode(read_mask(files[index], "any"), files[index])
            classes = table.num_classes
            shown = np.where(ids == classes, ignore_index(classes), ids).astype(class_id_dtype(classes))
            gallery.add(dataset.read(index), shown)
        report.write_report(folder, evaluation, table, samples=gallery.gather_images(), settings=settings)
    lines = [results.format_summary(evaluation, table, data=results.describe_data(settings))]
    if settings["predictions_format"] == "auto":
        lines.append(f"predictions_format={found.format} (detected): {masks.FORMATS[found.format]}")
    if unassigned := int(found.counts[:, -1].sum()):
        lines.append(f"{unassigned:,} labeled pixels are predicted as no class; they count as wrong")
    return "\n".join([*lines, f"results are in {folder}"])


def _as_evaluation(found: MaskScores, protocol: MaskProtocol) -> Evaluation:
    return Evaluation(
        counts=torch.from_numpy(found.counts),
        scores=found.scores,
        protocol=cast("Any", protocol),
        seconds=0.0,
        classes={"IoU": found.class_iou, **found.columns},
        category_iou=found.category_iou,
        images=len(found.names),
        skipped=found.skipped,
        intervals=found.intervals,
        class_intervals=[*found.class_intervals, *found.category_intervals.values()],
    )


def _find_extremes(found: MaskScores, index_of: Mapping[str, int], *, worst: int, best: int) -> list[int]:
    """Return the data set indices of the images with the lowest and highest mean IoU."""
    classes = len(found.class_iou)
    counts = found.image_counts[..., :classes]
    iou = np.where(counts[:, 1] > 0, compute_class_scores(counts)["IoU"], np.nan)
    is_scored = (counts[:, 1] > 0).any(1)
    score = np.nanmean(iou[is_scored], axis=1)
    order = np.flatnonzero(is_scored)[np.argsort(score, kind="stable")]
    chosen = dict.fromkeys([*order[:worst].tolist(), *order[-best:].tolist()])
    return [index_of[found.names[index]] for index in chosen]
