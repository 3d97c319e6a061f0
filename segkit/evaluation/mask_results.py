"""``test_seg.py predictions=DIR``: score predicted masks and write the same results as for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkit.config import registry
from segkit.data.alignment import as_label_map
from segkit.evaluation import masks, report, results
from segkit.evaluation.gallery import gather_extremes


def score_and_write(settings: Mapping[str, Any]) -> str:
    """Score the masks of ``predictions``, write the results and return them as text.

    Raises:
        ValueError: as ``masks.score_masks``; or a setting needs a network.
    """
    for key in ("save", "submission"):
        if settings[key]:
            raise ValueError(f"{key}={settings[key]}: needs a network, but predictions= scores files")
    dataset: Any = registry.build("data.datasets", settings["data"], split="val")
    given_format, on_error = settings["predictions_format"], settings["data"].get("on_error", "stop")
    found = masks.PredictedMasks(
        Path(settings["predictions"]), dataset, format=given_format, on_error=on_error
    )
    absent, evaluators = settings["evaluation"]["absent"], settings["evaluation"]["evaluators"]
    protocol: Any = masks.MaskProtocol(found.format, absent, evaluators)
    identity = found.hash_files()
    folder = results.make_output_folder(dict(settings), {}, protocol, identity)
    evaluation = found.score(protocol, partial=folder / "partial", progress=True)
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
        samples = gather_extremes(evaluation, dataset, lambda sample: found.read(index_of[sample.name]))
        report.write_report(folder, evaluation, table, samples=samples, settings=settings)
    lines = [results.format_summary(evaluation, table, data=results.describe_data(settings))]
    if given_format == "auto":
        lines.append(f"predictions_format={found.format} (detected): {masks.FORMATS[found.format]}")
    if unassigned := int(evaluation.counts[:, -1].sum()):
        lines.append(f"{unassigned:,} labeled pixels are predicted as no class; they count as wrong")
    return "\n".join([*lines, f"Results: {folder}"])
