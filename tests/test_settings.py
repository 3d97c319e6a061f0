"""Settings are checked against signatures; messages say what is accepted."""

import sys
import typing
from typing import Literal

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from segkit import config
from segkit.config import PositiveFloat, PositiveInt, Size, registry, schema, values
from segkit.config.command_line import accept_any_key
from segkit.config.compose import compose_settings
from segkit.config.dotted import merge, value_of
from segkit.config.values import Device

COMPLETE = compose_settings("train", ["run_name=a", "data=folder"])


def without(tree, path):
    """Return a copy of settings without one dotted key."""
    key, _, rest = path.partition(".")
    inner = {key: without(tree[key], rest)} if rest else {}
    return {k: v for k, v in tree.items() if k != key} | inner


def choices_in(annotation):
    """Yield every ``Literal`` within an annotation."""
    if typing.get_origin(annotation) is Literal:
        yield annotation
    for inner in typing.get_args(annotation):
        yield from choices_in(inner)


def test_every_literal_choice_can_be_typed_unquoted():
    places = [place for place in schema.SECTIONS.values() if ":" in place]
    packages = {place for place in (*schema.SECTIONS.values(), *schema.LISTS.values()) if ":" not in place}
    for package in packages:
        files = [registry.find_component(package, name)[1] for name in registry.available(package)]
        places += [f"{file}:build" for file in files]
    annotations = [one for place in places for one in schema.read_keywords(place).accepted.values()]
    literals = [literal for annotation in annotations for literal in choices_in(annotation)]
    cases = [(literal, word) for literal in literals for word in typing.get_args(literal)]
    assert len(cases) > 80
    for literal, word in cases:
        typed = OverridesParser.create().parse_override(f"++key={word}").value()
        assert values.convert(typed, literal) == word


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("schedule", {"lr": None}, "lr=null: must be a valid number"),
        ("schedule", {"decay_norm_and_bias": "no"}, "decay_norm_and_bias=no: must be a valid boolean"),
        ("schedule", {"batchsize": 2}, r"batchsize=2: there is no such .*mean schedule.batch_size=2\?"),
        ("schedule", {"lr_schedule": "poly"}, "lr_schedule=poly: this is a section; .*lr_schedule=poly"),
        ("schedule.lr_schedule", {"name": "poli"}, "name=poli: no 'poli' in .*lr_schedules.*one_cycle, poly"),
        (
            "schedule.lr_schedule",
            {"name": "poly", "milestones": 2},
            "milestones=2: .* accepts: final, name, power",
        ),
        ("schedule", {"lr": 1e38}, r"lr=1e\+38: must be at most 1000"),
        ("schedule", {"iterations": 10**18}, "iterations=1000000000000000000: must be at most 100000000"),
        ("augment", {"crop_size": [480, 30000]}, r"crop_size=\[480,30000\]: must be at most 8192"),
        ("augment", {"rotation": float("inf")}, "rotation=inf: must be a finite number"),
        ("augment", {"resize": "area"}, "resize=area: must be 'pil_bilinear', 'pil_bicubic' or 'opencv"),
    ],
)
def test_wrong_setting_is_refused_with_key_value_and_rule(section, change, message):
    with pytest.raises(ValueError, match=rf"(?m)^{section}\.{message}") as error:
        config.check(section, change)
    lines = [line for line in str(error.value).splitlines() if "is missing" not in line]
    assert len(lines) == 1  # the rest of the section is not given


def test_all_faults_are_reported_at_once():
    wrong = merge(COMPLETE, {"schedule": {"lr": -1, "epochs": "x"}, "bogus": 1})
    with pytest.raises(ValueError, match="bogus") as error:
        config.check("train", wrong)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (480, Size, 480),
        ([240, 320], Size, (240, 320)),
        (3, PositiveInt | None, 3),
        ([1, 2], list[PositiveFloat], [1.0, 2.0]),
        (1, float, 1.0),
        ([], tuple[float, ...], ()),
        (1, str, "1"),
        (float("nan"), str | None, "nan"),
        (True, str | list[str], "true"),
        (0, str | None | PositiveInt | Literal[0], 0),
        ("cuda:1", Device, "cuda:1"),
        ("auto", bool | Literal["auto"], "auto"),
        (50, Literal["50", "101"], "50"),
    ],
)
def test_fitting_values_are_converted_to_their_type(value, annotation, expected):
    converted = values.convert(value, annotation)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ([240, 320, 3], Size),
        (7, Literal[8, 16, 32]),
        ("1", PositiveInt),
        (1.0, PositiveInt),
        (True, PositiveInt),
        (1, bool),
        ([-1], tuple[PositiveFloat, PositiveFloat]),
        (float("inf"), float),
        (float("nan"), float),
        (10**400, float),
        (2**63, PositiveInt),
        ("cuda:", Device),
        ("cuda:1x", Device),
        (object(), str),
        *(({"a": 1}, kind) for kind in (str, Size, PositiveInt | None, Device, list[str])),
    ],
)
def test_values_of_another_type_or_range_are_refused(value, annotation):
    with pytest.raises(ValueError, match=r"^must [^\n]*$"):
        values.convert(value, annotation)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("schedule.lr", r"schedule.lr is missing; give it with schedule.lr=\.\.\."),
        ("model.backbone", r"model.backbone is missing; choose it with model/backbone=NAME \(.*resnest"),
        ("model.backbone.name", r"no None in segkit/models/backbones; there are: .*resnest"),
        ("data", r"data is missing; choose it with data=NAME \(ade20k, camvid"),
    ],
)
def test_missing_key_is_named_with_how_to_set_it(path, message):
    with pytest.raises(ValueError, match=message) as error:
        config.check("train", without(COMPLETE, path))
    assert len(str(error.value).splitlines()) == 1


def test_checked_settings_pass_the_check_unchanged():
    assert isinstance(COMPLETE["augment"]["scales"], tuple)
    assert config.check("train", COMPLETE) == COMPLETE


def test_annotation_may_use_aliases_of_its_module(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    (tmp_path / "own.py").write_text(
        "from typing import Literal\nfrom segkit.config import PositiveInt\n"
        "OnError = Literal['stop', 'skip']\nSome = tuple[PositiveInt, ...] | None\n"
        "def build(total, *, on_error: OnError, sides: Some = None): ...\n"
    )
    keys = schema.read_keywords("own.py:build")
    assert keys.accepted == {"on_error": Literal["stop", "skip"], "sides": tuple[PositiveInt, ...] | None}
    assert keys.required == {"on_error"}


def test_builder_gets_only_the_supplied_values_it_names(tmp_path, monkeypatch):
    folder = tmp_path / "supplied_plugin" / "models" / "heads"
    folder.mkdir(parents=True)
    signatures = {"some": "in_channels, num_classes=3, *, width=1", "none": "*, width=1"}
    for name, signature in signatures.items():
        (folder / f"{name}.py").write_text(f"def build({signature}):\n    return locals()\n")
    monkeypatch.setattr("sys.path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(registry, "_plugins", {})
    registry.use_plugins(["supplied_plugin"])
    supplied = {"in_channels": [1], "output_stride": 8}
    some = registry.build("models.heads", {"name": "some", "width": 2}, **supplied)
    assert some == {"in_channels": [1], "num_classes": 3, "width": 2}
    assert registry.build("models.heads", {"name": "none"}, **supplied) == {"width": 1}


@pytest.mark.parametrize(
    ("typed", "key", "expected"),
    [
        ("run_name=2026_11_21", "run_name", "2026_11_21"),
        ("run_name=true", "run_name", "true"),
        ("run_name=1e3", "run_name", "1e3"),
        ("+run_name=7", "run_name", "7"),
        ("data.train_split=0.8", "data.train_split", "0.8"),
        ("data.root=/data/a,b", "data.root", "/data/a,b"),
        ("data.root=[/a,/b]", "data.root", ["/a", "/b"]),
        ("device=cuda:1", "device", "cuda:1"),
        ("model.backbone.variant=26", "model.backbone.variant", "26"),
    ],
)
def test_numbers_and_commas_are_text_where_text_is_expected(typed, key, expected):
    names = [] if "run_name" in typed else ["run_name=a"]
    value = value_of(compose_settings("train", ["data=folder", *names, typed]), key)
    assert value == expected
    assert type(value) is type(expected)


def test_input_whose_name_is_a_number_is_text():
    network = ["model=deeplabv3_demo", "data=ade20k", "model.weights=a.pth"]
    assert compose_settings("predict", [*network, "input=2024_11"])["input"] == "2024_11"


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("schedule.lr=1", "++schedule.lr=1"),
        ("model=deeplabv3_demo", "model=deeplabv3_demo"),
        ("~loss", "~loss"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("input=photos/*.jpg", "++input=photos/*.jpg"),
        ("input=Größe (1)/a=b.jpg", "++input='Größe (1)/a=b.jpg'"),
        ("input=it's.jpg", "++input='it\\'s.jpg'"),
        ("data.root=[a,b]", "++data.root=[a,b]"),
    ],
)
def test_words_are_passed_to_hydra_so_that_the_check_sees_any_key_and_path(typed, passed):
    assert accept_any_key(typed) == passed
