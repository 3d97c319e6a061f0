"""Settings against signatures: what is refused, and that the refusal says what is accepted."""

import ast
import re
import time
import typing
from typing import Literal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from segkit import config
from segkit.config import PositiveFloat, PositiveInt, Size, declared, registry, schema, values
from segkit.config.compose import composed
from segkit.config.values import Device

WHOLE = composed("train", ["run_name=a", "data=folder"])


def _schedule(**changes):
    plain = {
        "batch_size": 2,
        "lr": 0.1,
        "epochs": 1,
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "lr_schedule": {"name": "poly", "power": 1},
    }
    return {**WHOLE, "schedule": {**plain, **changes}}


def _without(tree, path):
    """A copy of a tree of settings without one of its keys."""
    key, _, rest = path.partition(".")
    inner = {key: _without(tree[key], rest)} if rest else {}
    return {k: v for k, v in tree.items() if k != key} | inner


def _choices(annotation):
    """The words of every choice within an annotation."""
    if typing.get_origin(annotation) is Literal:
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _choices(inner)


def test_every_word_of_every_choice_can_be_typed_as_it_stands():
    wheres = [where for where in declared.SECTIONS.values() if ":" in where]
    packages = {
        where for where in (*declared.SECTIONS.values(), *declared.LISTS.values()) if ":" not in where
    }
    wheres += [
        f"{registry.component_file(package, name)}:build"
        for package in packages
        for name in registry.available(package)
    ]
    seen = 0
    for where in wheres:
        for name, annotation in schema.keywords(where).accepted.items():
            for choice in _choices(annotation):
                for word in typing.get_args(choice):
                    typed = OverridesParser.create().parse_override(f"++key={word}").value()
                    assert values.coerce(typed, choice) == word, (where, name, word)
                    seen += 1
    assert seen > 80


def test_an_integer_where_a_number_is_meant_becomes_one():
    checked = config.check("train", _schedule(lr=1))
    assert checked["schedule"]["lr"] == 1.0
    assert isinstance(checked["schedule"]["lr"], float)
    assert checked["schedule"]["lr_schedule"]["power"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": "abc"}, r"schedule.epochs=abc: must be a number above 0 and at most 100000 or null"),
        ({"lr": -1}, r"schedule.lr=-1: must be a number above 0"),
        ({"lr": float("nan")}, r"schedule.lr=nan: must be a number above 0"),
        ({"lr": None}, r"schedule.lr=None: must be a number above 0"),
        ({"batch_size": 2.5}, r"schedule.batch_size=2.5: must be an integer at least 1"),
        ({"batch_size": True}, r"schedule.batch_size=True: must be an integer"),
        ({"decay_norm_and_bias": "no"}, r"schedule.decay_norm_and_bias=no: must be true or false"),
        (
            {"batchsize": 2},
            r"schedule.batchsize=2: there is no such setting; did you mean schedule.batch_size=2\?",
        ),
        (
            {"lr_schedule": {"name": "poli"}},
            r"schedule.lr_schedule.name=poli: no 'poli' in segkit/training/lr_schedules.*one_cycle, poly",
        ),
        ({"lr_schedule": "poly"}, r"schedule.lr_schedule=poly: this is a group.*schedule/lr_schedule=poly"),
        (
            {"lr_schedule": 7},
            r"schedule.lr_schedule=7: this is a group; .* schedule/lr_schedule=NAME \(.*poly",
        ),
        (
            {"lr_schedule": {"name": "poly", "milestones": 2}},
            r"schedule.lr_schedule.milestones=2: .* accepts: final, name, power",
        ),
        ({"ema": 1.5}, r"schedule.ema=1.5: must be a number at least 0 and below 1 or null"),
    ],
)
def test_a_wrong_setting_is_refused_with_key_value_and_what_is_accepted(change, message):
    with pytest.raises(ValueError, match=message):
        config.check("train", _schedule(**change))


def test_all_faults_are_told_at_once():
    with pytest.raises(ValueError, match="bogus") as refusal:
        config.check("train", _schedule(lr=-1, epochs="x") | {"bogus": 1})
    assert len(str(refusal.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (480, Size, 480),
        ([240, 320], Size, (240, 320)),
        (3, PositiveInt | None, 3),
        (None, PositiveInt | None, None),
        ([1, 2], list[PositiveFloat], [1.0, 2.0]),
        ([], tuple[float, ...], ()),
        (1, str, "1"),
        (0.8, str, "0.8"),
        (float("nan"), str | None, "nan"),
        (True, str | list[str], "true"),
        (0, str | None | PositiveInt | Literal[0], 0),
        ("cuda:1", Device, "cuda:1"),
        ("auto", bool | Literal["auto"], "auto"),
        (8, Literal[8, 16, 32], 8),
    ],
)
def test_values_that_fit_pass(value, annotation, expected):
    assert values.coerce(value, annotation) == expected


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ([240, 320, 3], Size),
        (0, Size),
        (7, Literal[8, 16, 32]),
        (8.0, Literal[8, 16, 32]),
        ("1", PositiveInt),
        (True, PositiveInt),
        (1, bool),
        (2, list[int]),
        ([-1], tuple[PositiveFloat, PositiveFloat]),
        (float("inf"), float),
        (float("-inf"), float),
        (float("nan"), float),
        (10**400, float),
        (10**400, int),
        (-(2**63), int),
        (30000, Size),
        ("cuda:", Device),
        ("cuda:1x", Device),
    ],
)
def test_values_that_do_not_fit_are_refused(value, annotation):
    with pytest.raises(ValueError, match=re.escape(str(value))):
        values.coerce(value, annotation)


def test_a_size_is_described_in_words():
    assert values.describe(Size) == (
        "an integer at least 1 and at most 16384 or [an integer at least 1 and at most 16384,"
        " an integer at least 1 and at most 16384]"
    )


def test_the_folder_listing_is_the_registry():
    assert {"poly", "cosine"} <= set(registry.available("training.lr_schedules"))
    factor = registry.build("training.lr_schedules", {"name": "poly", "power": 1.0}, total=10)
    assert factor(5) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["nope", "../poly", "_hidden", None, "poly.py", "__init__"])
def test_only_what_lies_in_the_folder_can_be_named(name):
    with pytest.raises(
        ValueError,
        match="in segkit/training/lr_schedules; there are: constant, cosine, one_cycle, poly, step",
    ):
        registry.build("training.lr_schedules", {"name": name}, total=10)


def test_checking_takes_no_time_to_speak_of():
    config.read_keywords.cache_clear()
    begin = time.perf_counter()
    config.check("train", _schedule())
    assert time.perf_counter() - begin < 0.5


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("seed", r"seed is missing; give it with seed=\.\.\. \(an integer at least 0\)"),
        (
            "schedule.lr",
            r"schedule.lr is missing; give it with schedule.lr=\.\.\. \(a number above 0 and at most 1000\)",
        ),
        ("loader", r"loader is missing; give it with loader.workers=\.\.\."),
        ("loader.workers", r"loader.workers is missing"),
        ("model.backbone", r"model.backbone is missing; choose it with model/backbone=NAME \(.*resnest"),
        ("model.backbone.name", r"no None in segkit/models/backbones; there are: .*resnest"),
        ("data", r"data is missing; choose it with data=NAME \(ade20k, camvid"),
        ("data.root", r"data.root is missing; give it with data.root=\.\.\."),
        ("checkpoint", r"checkpoint is missing; give it with checkpoint.every=\.\.\. checkpoint.minutes="),
        ("evaluation.every", r"evaluation.every is missing"),
        ("schedule.optimizer", r"schedule.optimizer is missing; choose it with schedule/optimizer=NAME"),
    ],
)
def test_a_key_that_must_be_there_is_named_with_how_to_give_it(path, message):
    with pytest.raises(ValueError, match=message) as refusal:
        config.check("train", _without(WHOLE, path))
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("path", ["augment.scales", "evaluation.scales", "runtime", "sizes"])
def test_what_was_checked_is_checked_again_without_a_change(path):
    section = WHOLE
    for key in path.split("."):
        section = section[key]
    assert isinstance(section, tuple | dict)
    assert config.check("train", WHOLE) == WHOLE


def test_an_annotation_may_use_an_alias_of_its_module_or_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "words.py").write_text(
        "from typing import Literal\nOnError = Literal['stop', 'skip']\n"
    )
    (tmp_path / "own.py").write_text(
        "from segkit.shared.words import OnError\nfrom segkit.config import PositiveInt\n"
        "Some = tuple[PositiveInt, ...] | None\n"
        "def build(total, *, on_error: OnError, sides: Some = None): ...\n"
    )
    found = config.read_keywords("own.py:build")
    assert found.accepted == {"on_error": Literal["stop", "skip"], "sides": tuple[PositiveInt, ...] | None}
    assert found.required == ("on_error",)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("run_name", True), ("data.root", True), ("data.train_split", True), ("model.weights", True),
     ("seed", False), ("schedule.lr", False), ("data.seed", False), ("no.such", False)],
)  # fmt: skip
def test_keys_that_take_text_are_known(path, expected):
    assert schema.is_text("train", path) is expected


def test_a_builder_gets_the_late_values_it_asks_for_and_no_others():

    def head(in_channels, num_classes=3, *, width=1):
        return in_channels, num_classes, width

    late = {"in_channels": [1, 2], "output_stride": 8}
    assert registry._asked_for(head, late, "a") == {"in_channels": [1, 2]}
    assert registry._asked_for(lambda *, lr=1: lr, late, "a") == {}
    with pytest.raises(ValueError, match=r"models.heads.a: its build asks for depth, and the program"):
        registry._asked_for(lambda in_channels, depth: depth, late, "models.heads.a")


def test_heads_name_only_what_they_use():
    """Each positional parameter of a head's build is used in its body."""
    for name in registry.available("models.heads"):
        tree = ast.parse(registry.component_file("models.heads", name).read_text(encoding="utf-8"))
        (build,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "build"]
        used = {node.id for part in build.body for node in ast.walk(part) if isinstance(node, ast.Name)}
        assert {argument.arg for argument in build.args.args} <= used, name
