"""Examine a data set, and write the page, the JSON file and the list of images to leave out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segkit.data.pairs import Pairs
from segkit.runtime import files
from segkit.runtime.commands import cli_command
from segkit.runtime.text import format_count
from segkit.tools.doctor import agreement, classes, copies, export, page, ranking, values
from segkit.tools.doctor.findings import Case, Finding, Key, group_cases
from segkit.tools.doctor.scan import scan_datasets, to_gray

UNUSED = ("copies in both splits", "images without labels", "plain images")


def examine_dataset(
    datasets: Mapping[str, Pairs],
    *,
    folder: Path,
    checkpoint: str | None = None,
    plugins: Sequence[str] = (),
    count: int = 24,
    tools: Sequence[str] = (),
) -> tuple[list[Finding], list[str]]:
    """Examine the splits of a data set and write ``doctor.html``, ``doctor.json`` and ``exclude.txt``.

    Args:
        datasets: built with ``on_error="skip"``, by split: ``train``, ``val`` or both.
        folder: of the files; it is created.
        checkpoint: of a model that ranks the images by how likely their labels are wrong.
        plugins: packages that hold components of the model.
        count: images of the ranking that are shown and exported.
        tools: keys of ``export.TOOLS``: label tools that get the first images of the ranking; without a
            checkpoint the images whose masks do not fit.

    Returns:
        The findings, and lines of text on them and on the written files.

    Raises:
        ValueError: the checkpoint cannot be used for these data.
        OSError: the files cannot be written.
    """
    model = None
    if checkpoint is not None:  # before the scan, so that a wrong checkpoint is reported at once
        from segkit.tools.doctor.model import Model  # imports torch, which takes seconds

        model = Model(checkpoint, datasets, plugins=plugins)
    records, problems = scan_datasets(datasets)

    def read_gray(key: Key) -> np.ndarray:
        dataset = datasets[key.split]
        return to_gray(dataset.read_image(key.position), dataset)[0]

    first = next(iter(datasets.values()))
    table = first.table
    cases = [
        *(Case("unusable files", (), str(problem)) for problem in problems),
        *copies.find_copies(records, read_gray),
        *agreement.find_misfits(records),
        *values.find_unusual_images(records),
        *classes.find_class_problems(records, table.names),
        *classes.find_similar_classes(table),
    ]
    section, content = "", {}
    if model is not None:
        cases += ranking.find_label_problems(model.ranking, model.table.names)
        section = page.render_ranking(model.ranking, model.table, model.compare, count=count)
        content["model"] = ranking.describe_training(model.ranking)
        content["ranking"] = ranking.ranking_to_plain(model.ranking, model.table.names)
    findings = group_cases(cases)
    sizes = {split: len(dataset) for split, dataset in datasets.items()}
    plain = [finding.to_plain() for finding in findings]
    content = {"name": first.name, "images": sizes, "findings": plain} | content
    files.write_text(folder / "doctor.html", page.render_page(datasets, findings, section))
    files.write_json(folder / "doctor.json", content)
    files.write_text(folder / "exclude.txt", format_exclude_list(findings))
    lines = [f"{f.severity:>8}: {f.kind}: {len(f.cases):,}. {f.remedy}." for f in findings]
    lines.append(f"{format_count(sum(sizes.values()), 'image')} examined; see {folder / 'doctor.html'}")
    if tools:
        images = _choose_images(findings, datasets, model, count)
        if model is not None:
            table = model.table
        base = export.common_folder(pair.image for dataset in datasets.values() for pair in dataset.pairs)
        target = folder / "export"
        number = export.export_images(images, table=table, base=base, folder=target, tools=tools)
        command = f"{cli_command('data', 'folder')} import --table {target / 'classes.csv'} --images {base}"
        lines += [
            f"{format_count(number, 'image')} exported to {target}; corrected files come back with",
            f"  {command} --root CORRECTED --from {tools[0]} FILES",
        ]
    return findings, lines


def _choose_images(
    findings: Sequence[Finding], datasets: Mapping[str, Pairs], model: Any, count: int
) -> Iterator[export.ExportedImage]:
    """Yield the images to export: the first of the ranking or, without a model, those with misfits."""
    if model is None:
        cases = [case for finding in findings if finding.kind in agreement.KINDS for case in finding.cases]
        chosen = [(case.images[0], case.text) for case in cases]
    else:
        names = model.table.names
        chosen = [(suspect.key, ranking.explain_suspect(suspect, names)[1]) for suspect in model.ranking]
    for key, note in chosen[:count]:
        dataset, prediction = datasets[key.split], None
        if model is None:
            label = dataset.read_label(key.position)
        else:
            opinion = model.compare(key)
            label, prediction = opinion.sample.label, opinion.prediction
        yield export.ExportedImage(dataset.pairs[key.position].image, label, prediction, note)


def format_exclude_list(findings: Sequence[Finding]) -> str:
    """Return the text of ``exclude.txt``: training images that are copies, or have nothing to learn from."""
    names: dict[str, None] = {}  # an ordered set
    for finding in findings:
        for case in finding.cases:
            training = [key.name for key in case.images if key.split == "train"]
            if finding.kind == "copies in one split":
                names |= dict.fromkeys(training[1:])  # one is kept
            elif finding.kind in UNUSED:
                names |= dict.fromkeys(training)
    return "\n".join(["# for data.exclude=FILE: training images to leave out, one name per line", *names, ""])
