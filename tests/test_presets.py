"""Named protocols keep their name only when unchanged."""

from __future__ import annotations

import pytest

from segkit.config.compose import CONF, compose_settings
from segkit.inference import build_protocol, presets

NAMES = sorted(file.stem for file in (CONF / "evaluation").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", ["ade20k", "cityscapes", "camvid", "voc"])
def test_unchanged_protocol_keeps_its_name(name, data):
    settings = compose_settings("test", ["model=deeplabv3_demo", f"data={data}", f"evaluation={name}"])
    assert build_protocol(settings).name == name
    assert presets.protocol_title(settings) == name


@pytest.mark.parametrize(
    ("words", "name", "title"),
    [
        (["evaluation.scales=[1]"], "encoding, changed: scales", "encoding-scales=1.0"),
        (
            ["evaluation.window=320", "evaluation.flip=false"],
            "encoding, changed: flip, window",
            "encoding-flip=False-window=320",
        ),
        (["evaluation.precision=bf16"], "encoding, changed: precision", "encoding-precision=bf16"),
        (
            ["evaluation.flip=true", "evaluation.memory=2", "evaluation.evaluators.boundary=true"],
            "encoding",
            "encoding",
        ),
        (["evaluation.name=mine", "evaluation.scales=[1]"], "mine", "mine"),
    ],
)
def test_changed_protocol_is_named_by_its_changes(words, name, title):
    settings = compose_settings(
        "test", ["model=deeplabv3_demo", "data=ade20k", "evaluation=encoding", *words]
    )
    assert build_protocol(settings).name == name
    assert presets.protocol_title(settings) == title
