"""Settings against signatures: what is refused, and that the refusal says what is accepted."""

import re
import time
from typing import Literal

import pytest

from segkit import components, settings
from segkit.settings import PositiveFloat, PositiveInt, Size


def _schedule(**changes):
    plain = {
        "batch_size": 2,
        "lr": 0.1,
        "epochs": 1,
        "optimiser": {"name": "sgd", "momentum": 0.9},
        "policy": {"name": "poly", "power": 1},
    }
    return {"schedule": {**plain, **changes}}


def test_an_integer_where_a_number_is_meant_becomes_one():
    checked = settings.check("train", _schedule(lr=1))
    assert checked["schedule"]["lr"] == 1.0
    assert isinstance(checked["schedule"]["lr"], float)
    assert checked["schedule"]["policy"]["power"] == 1.0


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
            r"schedule.batchsize=2: there is no such setting; did you mean schedule.batch_size\?",
        ),
        (
            {"policy": {"name": "poli"}},
            r"schedule.policy.name=poli: no 'poli' in segkit/schedules.*cosine, one_cycle, poly",
        ),
        ({"policy": "poly"}, r"schedule.policy=poly: this is a group.*schedule/policy=poly"),
        (
            {"policy": {"name": "poly", "gamma": 2}},
            r"schedule.policy.gamma=2: .* accepts: final, name, power",
        ),
        ({"ema": 1.5}, r"schedule.ema=1.5: must be a number at least 0 and at most 1 or null"),
    ],
)
def test_a_wrong_setting_is_refused_with_key_value_and_what_is_accepted(change, message):
    with pytest.raises(ValueError, match=message):
        settings.check("train", _schedule(**change))


def test_all_faults_are_told_at_once():
    with pytest.raises(ValueError, match="bogus") as refusal:
        settings.check("train", _schedule(lr=-1, epochs="x") | {"bogus": 1})
    assert len(str(refusal.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (480, Size, 480),
        ([240, 320], Size, [240, 320]),
        (3, PositiveInt | None, 3),
        (None, PositiveInt | None, None),
        ([1, 2], list[PositiveFloat], [1.0, 2.0]),
        ([], tuple[float, ...], []),
        ("auto", bool | Literal["auto"], "auto"),
        (8, Literal[8, 16, 32], 8),
    ],
)
def test_values_that_fit_pass(value, annotation, expected):
    assert settings._coerce(value, annotation) == expected


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
    ],
)
def test_values_that_do_not_fit_are_refused(value, annotation):
    with pytest.raises(ValueError, match=re.escape(str(value))):
        settings._coerce(value, annotation)


def test_a_size_is_described_in_words():
    assert settings.describe(Size) == (
        "an integer at least 1 or [an integer at least 1, an integer at least 1]"
    )


def test_the_folder_listing_is_the_registry():
    assert {"poly", "cosine"} <= set(components.available("schedules"))
    factor = components.build("schedules", {"name": "poly", "power": 1.0}, 10)
    assert factor(5) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["nope", "../poly", "_hidden", None, "poly.py", "__init__"])
def test_only_what_lies_in_the_folder_can_be_named(name):
    with pytest.raises(
        ValueError, match="in segkit/schedules; there are: constant, cosine, one_cycle, poly, step"
    ):
        components.build("schedules", {"name": name}, 10)


def test_checking_takes_no_time_to_speak_of():
    settings.keywords.cache_clear()
    begin = time.perf_counter()
    settings.check("train", _schedule())
    assert time.perf_counter() - begin < 0.5
