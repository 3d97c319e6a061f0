"""Random bad input ends in a result or a plain error, within a time limit.

A quarter of the cases, and with ``--hypothesis-profile=all`` (make test-all) all of about 2,400;
``--hypothesis-show-statistics`` counts them.
"""

import contextlib
import functools
import io
import json
import random
import tempfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import segkit
from runs import SMALL, assert_same
from segkit import checkpoint
from segkit import config as schema
from segkit.config.command_line import accept_any_key
from segkit.config.compose import compose_settings
from segkit.data.label_map import LabelMap
from segkit.data.pairs import read_image, read_mask
from segkit.models import segmenter, weights
from segkit.runtime import model_file

pytestmark = pytest.mark.medium


def cases(count):
    """Return Hypothesis settings: a number of cases, the same each time, at most ten seconds each."""
    count = count if settings.get_current_profile_name() == "all" else count // 4
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=count, deadline=10_000, derandomize=True, database=None, suppress_health_check=quiet
    )


user_errors_only = contextlib.suppress(ValueError, OSError)

WORDS = ["name", "resnest", "os", "..", "../../setup", "id", "lr", "", "é", "null", "a.b"]
NAMES = st.sampled_from(WORDS)
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), NAMES), st.integers(-2, 300)
)
TREES = st.recursive(
    SCALARS, lambda s: st.lists(s, max_size=4) | st.dictionaries(NAMES, s, max_size=4), max_leaves=8
)


TURNS = st.randoms(use_true_random=True)


def change_settings(turn, tree, values):
    """Return a copy of settings with one random place removed, renamed or replaced for each value."""
    tree = json.loads(json.dumps(tree))
    for value in values:
        place = tree
        while place:
            key = turn.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
            if isinstance(place[key], dict | list) and place[key] and turn.random() < 0.75:
                place = place[key]
                continue
            if turn.random() < 0.15:
                del place[key]
            elif turn.random() < 0.15 and isinstance(place, dict):
                place[turn.choice(WORDS)] = value
            else:
                place[key] = value
            break
    return tree


BASE = compose_settings("train", [*SMALL, "run_name=a"])


@cases(700)
@given(TURNS, st.lists(TREES, min_size=1, max_size=4))
def test_random_settings_are_checked_or_refused(turn, values):
    with user_errors_only:
        schema.check("train", change_settings(turn, BASE, values))


TYPED = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    "ab'\\\"[]{}=, :()$", max_size=12
)


@cases(600)
@given(TYPED)
def test_text_hydra_cannot_parse_is_passed_literally(text):
    parser = OverridesParser.create()
    try:
        parser.parse_override(f"++run_name={text}")
    except HydraException:
        assert str(parser.parse_override(accept_any_key(f"run_name={text}")).value()) == text
    else:
        assert accept_any_key(f"run_name={text}").removeprefix("++").startswith("run_name=")


COLUMNS = st.sampled_from(["id", "name", "color", "ignore", "category", "red", "green", "x", ""])
CELLS = SCALARS.map(str) | st.sampled_from(["#ff0000", "#12", "1 2 3", "yes", '"', "1\x00", "-1", "70000"])
LINES = st.lists(CELLS, max_size=6).map(",".join)
TABLES = st.one_of(
    st.builds(
        lambda head, lines: "\n".join([",".join(head), *lines]),
        st.lists(COLUMNS, max_size=6),
        st.lists(LINES),
    ),
    st.builds(lambda lines: "\n".join(["id,name,color,ignore", *lines]), st.lists(LINES, max_size=5)),
).map(str.encode) | st.binary(max_size=40)


@cases(400)
@given(TABLES, st.integers(0, 2**32 - 1))
def test_random_class_tables_are_read_or_refused(tmp_path_factory, content, seed):
    file = tmp_path_factory.getbasetemp() / "classes.csv"
    file.write_bytes(content)
    with user_errors_only:
        table = LabelMap.read(file, "fuzz")
        draw = np.random.default_rng(seed)
        kind = draw.choice([np.uint8, np.uint16])
        shape = (3, 4, 3) if draw.integers(2) else (3, 4)
        ids = table.encode(draw.integers(0, draw.integers(2, 300), shape).astype(kind), "mask.png")
        assert ids.dtype == np.uint8
        assert all(i < table.num_classes or i == 255 for i in ids.flatten())
        assert LabelMap.from_plain(table.to_plain()) == table


def encode_images():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    for suffix in (".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm"):
        yield suffix, cv2.imencode(suffix, image)[1].tobytes()
        if suffix != ".ppm":
            yield suffix, cv2.imencode(suffix, image[..., 0])[1].tobytes()


IMAGES = list(encode_images())


def damage_bytes(turn, content):
    """Change, cut or insert some bytes."""
    content = bytearray(content)
    for _ in range(turn.randint(1, 4)):
        at = turn.randrange(len(content)) if content else 0
        how = turn.randrange(4)
        if how == 0:
            del content[at:]
        elif how == 1:
            content[at:at] = turn.randbytes(turn.randrange(9))
        else:
            content[at : at + 1] = turn.randbytes(1)
    return bytes(content)


@cases(600)
@given(TURNS, st.sampled_from(IMAGES), st.sampled_from(["image", "ids", "any"]))
def test_damaged_images_are_read_or_refused(tmp_path_factory, turn, image, use):
    suffix, content = image
    file = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    file.write_bytes(damage_bytes(turn, content))
    with user_errors_only:
        array = read_image(file) if use == "image" else read_mask(file, use)
        assert array.size > 0


@functools.cache
def good():
    """Return a checkpoint of one class."""
    table = LabelMap.from_plain({"name": "two", "entries": [[0, "a", [0, 0, 0], False, ""]]})
    network = {**BASE["model"], "backbone": {**BASE["model"]["backbone"], "width": 4}}
    model = segmenter.build(1, **network)
    content = {"settings": {**BASE, "model": network}, "classes": table.to_plain(), "iteration": 1}
    return {"format": 1, **content, "model": model.state_dict()}


@cases(300)
@given(turn=TURNS)
def test_damaged_checkpoints_are_read_or_refused(tmp_path_factory, turn):
    buffer = io.BytesIO()
    torch.save({**good(), "model": {"weight": torch.zeros(3)}}, buffer)
    file = tmp_path_factory.getbasetemp() / "fuzz.pt"
    file.write_bytes(damage_bytes(turn, buffer.getvalue()))
    with user_errors_only:
        checkpoint.read_checkpoint(file)


@cases(80)
@given(turn=TURNS, values=st.lists(TREES, min_size=2, max_size=2))
def test_changed_checkpoint_settings_load_or_are_refused(tmp_path_factory, turn, values):
    plain = {key: good()[key] for key in ("settings", "classes", "iteration")}
    focus = {"model": plain["settings"]["model"]}
    content = change_settings(turn, plain, values)
    if turn.random() < 0.5:  # nothing but its network
        content = {**plain, "settings": {**plain["settings"], **change_settings(turn, focus, values[:1])}}
    file = tmp_path_factory.getbasetemp() / "changed.pt"
    torch.save({"format": 1, "model": good()["model"], **content}, file)
    with user_errors_only:
        segkit.load(file)


def flip_bit(turn, content):
    at = turn.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << turn.randrange(8)]) + content[at + 1 :]


def zero_page(turn, content):
    at = turn.randrange(0, len(content), 4096)
    return content[:at] + bytes(len(content[at : at + 4096])) + content[at + 4096 :]


def cut(turn, content):
    return content[: turn.randrange(len(content))]


@functools.cache
def stored_weights(kind):
    """Return the bytes of a weights file, a function that reads it, and its content."""
    state = {
        f"layer{i}.weight": torch.randn(64, 32, generator=torch.Generator().manual_seed(i)) for i in range(9)
    }
    content = {"format": 1, "iteration": 7, "settings": {"seed": 1}, "classes": {"name": "a"}, "model": state}
    buffer = io.BytesIO()
    if kind == "safetensors":
        about = {key: value for key, value in content.items() if key != "model"}
        with tempfile.TemporaryDirectory() as folder:
            model_file.write_model_file(Path(folder, "x.safetensors"), state, about)
            return Path(folder, "x.safetensors").read_bytes(), checkpoint.read_checkpoint, content
    torch.save(state if kind == "zip" else content, buffer)
    if kind == "pt":
        return buffer.getvalue(), checkpoint.read_checkpoint, content
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.pth", buffer.getvalue())
    return outer.getvalue(), lambda file: weights.read_weights_file(file).state, state


@pytest.mark.parametrize("damage", [flip_bit, zero_page, cut])
@pytest.mark.parametrize("kind", ["pt", "zip", "safetensors"])
def test_damaged_weights_are_never_read_as_other_numbers(kind, damage, tmp_path):
    whole, read, content = stored_weights(kind)
    turn, file = random.Random(0), tmp_path / f"x.{kind}"
    refused = 0
    for _ in range(400 if damage is flip_bit else 100):
        file.write_bytes(damage(turn, whole))
        try:
            found = read(file)
        except ValueError:
            refused += 1
        else:
            assert_same(found, content)
    assert refused > 90


def test_damaged_checkpoints_never_give_other_settings(tmp_path):
    whole, _, content = stored_weights("pt")
    turn, file = random.Random(0), tmp_path / "x.pt"
    for _ in range(200):
        file.write_bytes(flip_bit(turn, whole))
        with user_errors_only:
            assert checkpoint.read_checkpoint(file, mapped=True)["settings"] == content["settings"]
