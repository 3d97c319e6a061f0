"""Findings of the doctor: what is wrong, how serious it is, and which images show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from segkit.runtime.text import format_count

Severity = Literal["serious", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("serious", "warning", "note")


class Key(NamedTuple):
    """An image: its split and its position in it."""

    split: str
    position: int


class Case(NamedTuple):
    """One occurrence of a finding: the images concerned and a sentence on them."""

    images: tuple[Key, ...]
    text: str


@dataclass
class Finding:
    """One kind of problem with all its occurrences, the clearest first.

    Attributes:
        kind: short, such as ``shifted masks``; the title on the page.
        severity: ``serious`` makes the command exit with 1.
        text: what was found, with numbers.
        remedy: what to do.
        cases: occurrences.
    """

    kind: str
    severity: Severity
    text: str
    remedy: str
    cases: list[Case] = field(default_factory=list)

    def to_plain(self, names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Return the finding as the content of a JSON file; ``names`` are those of each split."""
        cases = [
            {
                "images": [
                    {"split": key.split, "name": names[key.split][key.position]} for key in case.images
                ],
                "text": case.text,
            }
            for case in self.cases
        ]
        return {
            "kind": self.kind,
            "severity": self.severity,
            "text": self.text,
            "remedy": self.remedy,
            "cases": cases,
        }


def count_with_verb(number: int, noun: str, *, singular: str = "is", plural: str = "are") -> str:
    """Return a number with its noun and verb: ``1 image is``, ``2 images are``."""
    return f"{format_count(number, noun)} {singular if number == 1 else plural}"


def findings_with_cases(*findings: Finding) -> list[Finding]:
    """Return the findings that have a case."""
    return [finding for finding in findings if finding.cases]


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with serious ones first, otherwise in their order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
