"""A leading ``~`` in any setting that names a file or folder is the user's home folder."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

import segkit
from segkit.config.compose import compose_settings
from segkit.config.dotted import value_of
from segkit.config.values import parse_path
from segkit.data.pairs import cache_folder
from segkit.runtime import download

TRAIN = ["data=folder", "run_name=a"]
WEIGHTS = ["model=deeplabv3_demo", "data=ade20k", "model.weights=a.pth"]
PATHS = [
    ("train", [], "run_dir"),
    ("train", TRAIN, "data.root"),
    ("train", TRAIN, "data.classes"),
    ("train", TRAIN, "data.train_split"),
    ("train", [], "model.weights"),
    ("train", [], "model.backbone.weights"),
    ("train", [], "loss.class_weights"),
    ("predict", WEIGHTS, "input"),
    ("predict", WEIGHTS, "output"),
    ("test", WEIGHTS, "output"),
    ("export", WEIGHTS, "calibration"),
]


@pytest.mark.parametrize(("command", "words", "key"), PATHS)
def test_home_is_expanded_in_every_path(command, words, key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert value_of(compose_settings(command, [*words, f"{key}=~/a b"]), key) == "/home/me/a b"


def test_only_a_leading_tilde_of_a_known_user_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for typed, expected in (("~", "/home/me"), ("./~", "./~"), ("a~", "a~")):
        assert compose_settings("train", [f"run_dir={typed}"])["run_dir"] == expected
    assert compose_settings("train", ["run_name='~x'"])["run_name"] == "~x"  # no path
    assert compose_settings("train", [*TRAIN, "data.root=[~/a,/b]"])["data"]["root"] == ["/home/me/a", "/b"]
    with pytest.raises(ValueError, match="run_dir=~nobody-here/a: there is no user nobody-here"):
        compose_settings("train", ["run_dir=~nobody-here/a"])


def test_home_is_expanded_in_arguments_of_tools(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", type=parse_path)
    assert parser.parse_args(["--file=~/a"]).file == Path("/home/me/a")
    with pytest.raises(SystemExit):
        parser.parse_args(["--file=~nobody-here/a"])
    assert "argument --file: there is no user nobody-here on this machine" in capsys.readouterr().err


def test_no_tool_takes_plain_paths():
    sources = [*Path("datasets").glob("*.py"), *Path("segkit/tools").rglob("*.py")]
    assert [str(file) for file in sources if re.search(r'type"?[=:] ?Path\b', file.read_text())] == []


def test_load_refuses_the_home_of_unknown_users():
    with pytest.raises(ValueError, match="there is no user nobody-here on this machine"):
        segkit.load("~nobody-here/best.pt")


def test_home_is_expanded_in_the_cache_variable(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SEGKIT_CACHE", "~/cache")
    assert cache_folder("disk", Path("/root")) == Path("/home/me/cache/decoded")
    assert download.cache_folder() == Path("/home/me/cache")
