"""Words of the command line, checked and made ready for Hydra."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from segkit.config import hints, registry, schema, values
from segkit.config.schema import CONF

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def prepare(words: Sequence[str], *, sweeps: bool = False) -> list[str]:
    """Check a command line, register its plug-ins and folders, and return its overrides for Hydra.

    Args:
        words: as typed, flags included.
        sweeps: whether a comma separates the values of a sweep.

    Raises:
        ValueError: a word is no ``key=value``, or chooses a file that does not exist; with a suggestion.
    """
    flags, settings = parse_flags(words)
    schema.folders[1:] = map(Path, flags.config_dir)
    for folder in schema.folders[1:]:
        if not folder.is_dir():
            raise ValueError(f"--config-dir={folder}: there is no such folder")
    for place, word in enumerate(settings):
        _check(word, settings[place + 1 :])
    registry.use_plugins(_plugins(settings))
    return [accept_any_key(word, sweeps=sweeps) for word in settings]


def parse_flags(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags, and the other words in their order; a ValueError refuses a wrong value of a flag."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for names in (("--help", "-h"), ("--version",), ("--multirun", "-m")):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
    parser.add_argument("--cfg", "-c", choices=("job",))
    parser.add_argument("--package", "-p", default="")
    parser.add_argument("--config-dir", "-cd", action="append", default=[])  # of choices beside ours
    try:
        return parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error


def _check(word: str, following: Sequence[str]) -> None:
    name, equals, value = word.partition("=")
    if word.startswith("-") or not (equals or word.startswith("~")):
        raise ValueError(_explain_word(word, following))
    if name == "resume" and "/" in value:
        raise ValueError(f"{word}: must be true, false or auto; name the run: run_dir=DIR run_name=NAME")
    group = name.lstrip("+")
    files = schema.choices(group)
    if files and re.fullmatch(r"[\w./~-]+", value) and value not in (*files, "null"):
        raise ValueError(hints.explain_choice(group, value))


def _explain_word(word: str, following: Sequence[str]) -> str:
    """Return the message for a word that is no ``key=value``: a flag, a choice, or ``lr 0.1``."""
    key, equals, value = re.sub(r"^(\w+):", r"\1=", word.lstrip("-")).partition("=")
    if not equals:
        value = next((one for one in following if one != "="), "VALUE")
        if "=" in value or value.startswith("-"):  # the next setting or flag
            value = "VALUE"
    groups = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())
    meant = [f"{group}={key}" for group in groups if key in schema.choices(group)]
    if Path(key).suffix in (".pt", ".pth"):
        meant = [f"checkpoint={key}"]
    elif Path(word).is_dir():
        meant = [f"data=folder data.root={word}"]
    meant = meant or hints.suggest_settings(key, value)
    if equals and not meant:
        meant = [f"{key}={value}"]
    hint = hints.format_question(meant) or "see --help"
    return f"{word}: settings are written key=value, without dashes; {hint}"


def _plugins(words: Sequence[str]) -> list[str]:
    """Return the packages that ``plugins=`` names."""
    given = [word for word in words if word.lstrip("+").startswith("plugins=")]
    try:
        named = [OverridesParser.create().parse_override(word).value() for word in given]
    except HydraException:
        return []  # reported when Hydra composes
    return [str(name) for value in named for name in (value if isinstance(value, list) else [value])]


def accept_any_key(word: str, *, sweeps: bool = False) -> str:
    """Return ``a.b=1`` as ``++a.b=1``, so that an unknown key reaches our check, which suggests another.

    Choices of a file (``model=...``) and Hydra's own keys are unchanged. A value that Hydra cannot read is
    put in quotes: a path may contain umlauts, brackets and equal signs. So is ``2026_11`` for a text, which
    would be the number 202611, and a path with a comma, which would be a sweep.

    Args:
        word: as typed.
        sweeps: whether a comma separates the values of a sweep.
    """
    key, equals, value = word.partition("=")
    is_key = re.fullmatch(r"[A-Za-z_][\w./]*", key)
    if not equals or not is_key or key.startswith("hydra") or (CONF / key).is_dir():
        return word
    section, _, name = key.rpartition(".")
    kinds = hints.read_keys(section).get(name, [])
    try:
        parsed = OverridesParser.create().parse_override(f"++{word}")
        is_number = isinstance(parsed.value(), int | float)
        is_list = parsed.is_sweep_override() and not sweeps
    except HydraException:
        return f"++{key}={_quote(value)}"
    if (is_number and _takes(kinds, value)) or (is_list and (not kinds or _takes(kinds, value))):
        return f"++{key}={_quote(value)}"
    return f"++{word}"


def _takes(kinds: Sequence[Any], text: str) -> bool:
    """Return whether a text fits one of the annotations of a setting."""
    for kind in kinds:
        if isinstance(kind, dict):  # a section
            continue
        with contextlib.suppress(ValueError):
            values.convert(text, kind)
            return True
    return False


def _quote(value: str) -> str:
    """Put text, or each text of a list, in quotes, so that Hydra reads it literally."""
    items = re.fullmatch(r"\[([^\[\]]+)\]", value)
    if items:
        return f"[{','.join(_quote(item.strip()) for item in items[1].split(','))}]"
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", value)  # a backslash escapes where a quote follows
    quoted = re.sub(r"(\\+)\Z", r"\1\1", quoted)
    return f"'{quoted}'"


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the dotted keys that the command line sets, and those of its groups with their files."""
    typed, groups = [], {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if any((folder / key).is_dir() for folder in schema.folders):
            groups[key.replace("/", ".")] = str(override.value())
        else:
            typed.append(key)
    return typed, groups


def describe_error(error: Exception, overrides: Sequence[str]) -> str:
    """Return the message for an error of Hydra, with the command line if it does not name the fault."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2])[:400]
    clash = re.match(r"Error merging override \++([\w.]+)=(.*)", text)
    if clash:
        return hints.explain_section(clash[1], clash[2])
    if isinstance(error, HydraException) and text:
        return text
    typed = " ".join(word.removeprefix("++") for word in overrides)[:400]
    return f"the settings cannot be composed ({type(error).__name__} {text}); one of these is wrong: {typed}"
