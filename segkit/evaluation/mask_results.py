"""``test_seg.py predictions=DIR``: score predicted masks and write the same results as for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segkit.config import registry
from segkit.data.alignment import as_label_map
from segkit.data.pairs import Pairs
from segkit.data.reading import read_mask
from segkit.evaluation import masks, metrics, report, results
from segkit.evaluation.scoring import Evaluation


def score_and_write(settings: Mapping[str, Any]) -> str:
    """Score the masks of ``predictions``, write the results and return them as text.

    Raises:
        ValueError: as ``masks.score_masks``; or a setting needs a network.
    """
    for key in ("save", "submission"):
        if settings[key]:
            raise ValueError(f"{key}={settings[key]}: needs a network, but predictions= scores files")
    dataset: Pairs = registry.build("data.datasets", settings["data"], split="val")
    given_format, on_error = settings["predictions_format"], settings["data"].get("on_error", "stop")
    found = masks.find_predictions(
        Path(settings["predictions"]), dataset, format=given_format, on_error=on_error
    )
    absent, evaluators = settings["evaluation"]["absent"], settings["evaluation"]["evaluators"]
    protocol: Any = masks.MaskProtocol(found.format, absent, evaluators)
    identity = masks.fingerprint_predictions(found, dataset, evaluators)
    folder = results.make_output_folder(dict(settings), {}, protocol, identity)
    evaluation = masks.score_predictions(
        found, dataset, protocol, on_error=on_error, partial=folder / "partial", progress=True
    )
    table = as_label_map(dataset.table)
    metadata = {"predictions": str(found.folder), "weights_sha256": identity, "settings": settings}
    index_of = {name: index for index, name in enumerate(dataset.names)}
    results.write_results(
        folder,
        evaluation,
        table,
        metadata,
        predictions=[found.files[index_of[name]] for name in evaluation.names],
        predictions_format=found.format,
    )
    if settings["report"]:
        gallery = report.Gallery()
        decoder = masks.Decoder(dataset.table, found.format)
        for name in _find_extremes(evaluation, worst=9, best=3):
            file = found.files[index_of[name]]
            gallery.add(dataset.read(index_of[name]), decoder.decode(read_mask(file, "any"), file))
        report.write_report(folder, evaluation, table, samples=gallery.gather_images(), settings=settings)
    lines = [results.format_summary(evaluation, table, data=results.describe_data(settings))]
    if given_format == "auto":
        lines.append(f"predictions_format={found.format} (detected): {masks.FORMATS[found.format]}")
    if unassigned := int(evaluation.counts[:, -1].sum()):
        lines.append(f"{unassigned:,} labeled pixels are predicted as no class; they count as wrong")
    return "\n".join([*lines, f"results are in {folder}"])


def _find_extremes(evaluation: Evaluation, *, worst: int, best: int) -> list[str]:
    """Return the names of the images with the lowest and highest mean IoU, over classes in the labels."""
    assert evaluation.image_counts is not None
    counts = evaluation.image_counts[..., : len(evaluation.counts)]
    iou = metrics.score_pixels(counts, absent="labels")["mIoU"]
    order: list[int] = np.argsort(iou, kind="stable").tolist()  # NaN last
    order = order[: np.count_nonzero(~np.isnan(iou))]
    return [evaluation.names[index] for index in dict.fromkeys([*order[:worst], *order[-best:]])]
