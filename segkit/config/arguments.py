"""The command line before it is composed: settings are ``key=value``, choices are files that exist."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from segkit.config import declared, hints, schema

FLAGS = {"--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"}
FLAGS |= {"--shell-completion", "-sc", "--info", "-i"}
INFO = ("--info", "-i")
KINDS_OF_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
WITH_VALUE = {"--cfg", "-c", "--package", "-p", "--config-name", "-cn", "--experimental-rerun"}
ELSEWHERE = {"--config-path", "-cp"}  # configurations that are not ours
OWN = {"--config-dir", "-cd"}  # a folder of choices beside ours


def check(arguments: Sequence[str]) -> None:
    """Make sure that every argument is one.

    Raises:
        ValueError: an argument is no ``key=value``, or chooses a file that is not there; with what is meant.
    """
    ours = not any(a.split("=")[0] in ELSEWHERE or a.startswith("hydra.searchpath") for a in arguments)
    declared.own_folders[:] = _own_folders(arguments)
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.partition("=")
        if name in FLAGS:
            rest = rest[1:] if name in INFO and rest and rest[0] in KINDS_OF_INFO else rest
            continue
        if name in WITH_VALUE | ELSEWHERE | OWN:
            rest = rest if equals else rest[1:]
            continue
        if argument.startswith("-"):
            raise ValueError(_without_dashes(argument, rest))
        if not equals and not argument.startswith("~"):
            raise ValueError(f"{argument}: settings are written key=value{_suggest_for_word(argument, rest)}")
        if name == "resume" and hints.is_path(value):
            raise ValueError(f"{argument}: must be true, false or auto. {_name_run(Path(value))}")
        if ours and (elsewhere := hints.explain_elsewhere(name, value)) and "." not in name:
            raise ValueError(f"{argument}: there is no such setting; {elsewhere}")
        group = name.lstrip("+")
        plain_choice = ours and schema.choices(group) and re.fullmatch(r"[\w./~-]+", value)
        if plain_choice and (fault := schema.unknown_choice(group, value)):
            raise ValueError(fault)


def _own_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders that ``--config-dir`` names."""
    folders = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        if name in OWN:
            folders.append(Path(value if equals else following))
            if not folders[-1].is_dir():
                raise ValueError(f"{name}={folders[-1]}: there is no such folder")
    return folders


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the flags with their values, and the settings: Hydra reads no settings after a flag."""
    flags: list[str] = []
    settings: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in INFO and rest and rest[0] in KINDS_OF_INFO:
            flags.append(f"--info={rest.pop(0)}")
        elif word in WITH_VALUE | ELSEWHERE | OWN and rest:
            flags += [word, rest.pop(0)]
        elif word.startswith("-"):
            flags.append(word)
        else:
            settings.append(word)
    return flags, settings


def _without_dashes(argument: str, rest: Sequence[str]) -> str:
    key, equals, value = argument.lstrip("-").partition("=")
    if not equals:
        value = rest[0] if rest and "=" not in rest[0] and not rest[0].startswith("-") else "VALUE"
    plain = key.replace("-", "_")
    if elsewhere := hints.explain_elsewhere(plain, value):
        return f"{argument}: there is no such setting; {elsewhere}"
    meant = (schema.suggest(key, value) or [f"{plain}={value}"])[0]
    return f"{argument}: settings are written key=value without dashes: {meant}"


def _name_run(path: Path) -> str:
    """Return the settings that continue the run of a checkpoint or folder."""
    folder = path.parent if path.suffix == ".pt" else path
    return f"A run is named by its folder: run_dir={folder.parent} run_name={folder.name} resume=true"


def _suggest_for_word(word: str, rest: Sequence[str]) -> str:
    groups = [folder.name for folder in sorted(declared.CONF.iterdir()) if folder.is_dir()]
    meant = [f"{group}={word}" for group in groups if group != "hydra" and word in schema.choices(group)]
    if Path(word).suffix in (".pt", ".pth"):
        meant.append(f"checkpoint={word}")
    elif not meant and Path(word).exists():
        meant += [f"data.root={word}", f"input={word}"]
    elif not meant:  # "epochs 10", "lr = 0.1", "epochs:10"
        key, colon, value = word.partition(":")
        following = next((one for one in rest if one != "="), "=")
        value = value if colon else "VALUE" if "=" in following else following
        meant = schema.suggest(key, value)
    return f"; did you mean {' or '.join(meant)}?" if meant else ", see --help"
