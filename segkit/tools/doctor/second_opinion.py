"""What a model adds to an examination; apart from it, because torch takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segkit.data.alignment import as_label_map
from segkit.data.label_map import LabelMap
from segkit.tools.doctor import export, model, ranking_page
from segkit.tools.doctor.findings import Finding
from segkit.tools.doctor.labels import Suspect


class SecondOpinion:
    """The ranking of a model: findings, section of the page, content of the JSON file, images to export.

    Args:
        checkpoint: file of the model.
        datasets: by split.
        plugins: packages that hold components of the model.

    Raises:
        ValueError: the model cannot be used for these data.
    """

    def __init__(self, checkpoint: str, datasets: Mapping[str, Any], *, plugins: Sequence[str]) -> None:
        self.model = model.Model(checkpoint, datasets, plugins=plugins)
        self.names = self.model.table.names
        self.ranking: list[Suspect] = []

    def find_problems(self) -> list[Finding]:
        """Rank all images and return the findings on their labels."""
        self.ranking = self.model.rank()
        return model.find_label_problems(self.ranking, self.names)

    def render(self, count: int) -> str:
        """Return the section of the page on the first ``count`` images."""
        return ranking_page.render_ranking(self.ranking, self.model, count=count)

    def to_plain(self) -> dict[str, Any]:
        """Return the content for the JSON file."""
        ranking = model.ranking_to_plain(self.ranking, self.names)
        return {"model": model.describe_training(self.ranking), "ranking": ranking}

    def trace(self, count: int) -> tuple[list[export.ExportedImage], LabelMap]:
        """Return the first ``count`` images with outlines, and the class table in the order of the model."""
        images = []
        for suspect in self.ranking[:count]:
            key = suspect.evidence.key
            opinion = self.model.compare(key)
            file = self.model.pairs[key.split].pairs[key.position].image
            note = model.describe_suspect(suspect, self.names)
            images.append(export.trace_image(file, opinion.sample.label, opinion.prediction, note=note))
        return images, as_label_map(next(iter(self.model.datasets.values())).table)
