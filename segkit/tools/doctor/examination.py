"""Examine a data set, and write the page, the JSON file and the list of images to leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segkit.data.label_map import LabelMap
from segkit.data.pairs import Pairs
from segkit.runtime import files
from segkit.runtime.commands import cli_command
from segkit.runtime.text import format_count
from segkit.tools.doctor import agreement, classes, copies, export, page, ranking, values
from segkit.tools.doctor.findings import Case, Finding, Key, select_findings
from segkit.tools.doctor.scan import Scan, scan_datasets, to_gray

UNUSED = ("copies in both splits", "copies in one split", "images without labels", "plain images")


@dataclass
class Examination:
    """The findings on a data set, and the folder with their files."""

    folder: Path
    findings: list[Finding]
    images: int
    notes: list[str] = field(default_factory=list)

    @property
    def is_serious(self) -> bool:
        """Return whether any finding is serious."""
        return any(finding.severity == "serious" for finding in self.findings)

    def lines(self) -> list[str]:
        """Return the findings as lines of text."""
        lines = [f"{finding.severity:>8}: {finding.text}" for finding in self.findings]
        lines.append(f"{format_count(self.images, 'image')} examined; see {self.folder / 'doctor.html'}")
        return lines + self.notes


def examine_dataset(
    datasets: Mapping[str, Pairs],
    *,
    folder: Path,
    checkpoint: str | None = None,
    plugins: Sequence[str] = (),
    count: int = 24,
    tools: Sequence[str] = (),
) -> Examination:
    """Examine the splits of a data set and write ``doctor.html``, ``doctor.json`` and ``exclude.txt``.

    Args:
        datasets: built with ``on_error="skip"``, by split: ``train``, ``val`` or both.
        folder: of the files; it is created.
        checkpoint: of a model that ranks the images by how likely their labels are wrong.
        plugins: packages that hold components of the model.
        count: images of the ranking that are shown and exported.
        tools: keys of ``export.TOOLS``: label tools that get the first images of the ranking; without a
            checkpoint the images whose masks do not fit.

    Raises:
        ValueError: the checkpoint cannot be used for these data.
        OSError: the files cannot be written.
    """
    model = None
    if checkpoint is not None:  # before the scan, so that a wrong checkpoint is reported at once
        from segkit.tools.doctor.model import Model  # imports torch, which takes seconds

        model = Model(checkpoint, datasets, plugins=plugins)
    scan = scan_datasets(datasets)

    def read_gray(key: Key) -> np.ndarray:
        dataset = datasets[key.split]
        return to_gray(dataset.read_image(key.position), dataset)[0]

    first = next(iter(datasets.values()))
    found = [
        _describe_unreadable(scan),
        *copies.find_copies(scan.records, read_gray),
        *agreement.find_misfits(scan.records),
        *values.find_unusual_values(scan.records),
        *classes.find_class_problems(scan),
        *classes.find_similar_classes(first.table),
    ]
    section, content = "", {}
    if model is not None:
        suspects, names = model.ranking, model.table.names
        found += ranking.find_label_problems(suspects, names)
        section = ranking.render_ranking(suspects, model.table, model.compare, count=count)
        content["model"] = ranking.describe_training(suspects)
        content["ranking"] = ranking.ranking_to_plain(suspects, names)
    findings = select_findings(found)
    text = page.render_page(
        scan,
        findings,
        title=f"Examination of {first.name}",
        read=lambda key: datasets[key.split].read(key.position),
        ranking=section,
    )
    content = {
        "name": first.name,
        "images": {split: len(dataset) for split, dataset in datasets.items()},
        "findings": [finding.to_plain(scan.names) for finding in findings],
        **content,
    }
    files.write_text(folder / "doctor.html", text)
    files.write_json(folder / "doctor.json", content)
    files.write_text(folder / "exclude.txt", format_exclude_list(scan, findings))
    examination = Examination(folder, findings, sum(map(len, datasets.values())))
    if tools:
        if model is not None:
            images, table = model.trace(count)
        else:
            images, table = _trace_misfits(findings, datasets, count=count), first.table
        base = export.common_folder(pair.image for dataset in datasets.values() for pair in dataset.pairs)
        examination.notes += _export(images, table, base, folder / "export", tools)
    return examination


def _trace_misfits(
    findings: Sequence[Finding], datasets: Mapping[str, Pairs], *, count: int
) -> list[export.ExportedImage]:
    """Return the first images whose masks do not fit, with outlines."""
    cases = [case for finding in findings if finding.kind in agreement.KINDS for case in finding.cases]
    images = []
    for case in cases[:count]:
        split, position = case.images[0]
        label = datasets[split].read_label(position)
        images.append(export.trace_image(datasets[split].pairs[position].image, label, note=case.text))
    return images


def _export(
    images: Sequence[export.ExportedImage], table: LabelMap, base: Path, folder: Path, tools: Sequence[str]
) -> list[str]:
    """Write the files of the label tools, and return lines on how they come back."""
    if not images:
        return ["nothing to export"]
    export.export_images(images, table=table, base=base, folder=folder, tools=tools)
    command = f"{cli_command('data', 'folder')} import --table {folder / 'classes.csv'} --images {base}"
    return [
        f"{format_count(len(images), 'image')} exported to {folder}; corrected files come back with",
        f"  {command} --root CORRECTED --from {tools[0]} FILES",
    ]


def _describe_unreadable(scan: Scan) -> Finding:
    kinds = ", ".join(dict.fromkeys(problem.kind for problem in scan.problems))
    text = f"{format_count(len(scan.problems), 'file')} cannot be used: {kinds}."
    cases = [Case((), str(problem)) for problem in scan.problems]
    return Finding("unusable files", "serious", text, "Repair or remove them", cases)


def format_exclude_list(scan: Scan, findings: list[Finding]) -> str:
    """Return the text of ``exclude.txt``: training images that are copies, or have nothing to learn from."""
    chosen: dict[int, str] = {}
    for finding in findings:
        if finding.kind not in UNUSED:
            continue
        for case in finding.cases:
            training = [key.position for key in case.images if key.split == "train"]
            if finding.kind == "copies in one split":  # one is kept
                training = training[1:]
            for index in training:
                chosen.setdefault(index, finding.kind)
    lines = ["# for data.exclude=FILE: training images to leave out, one name per line"]
    for kind in dict.fromkeys(chosen.values()):
        lines.append(f"# {kind}")
        lines += [scan.names["train"][index] for index, reason in chosen.items() if reason == kind]
    return "\n".join([*lines, ""])
