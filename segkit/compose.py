"""Settings are composed here, and only here, with Hydra; everything below takes plain dicts and lists.

A command is a function of its checked settings::

    @command("train")
    def main(settings): ...

    if __name__ == "__main__":
        main()
"""

from __future__ import annotations

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from segkit import settings as schema

CONF = Path(__file__).parent.parent / "conf"
Story = Callable[[dict[str, Any]], None]


def command(
    name: str, *, beneath: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Callable[[Story], Callable[[], None]]:
    """Make a function of settings a command that reads them from ``conf/<name>.yaml`` and the command line.

    Args:
        name: of the yaml, and of the schema in ``segkit.settings.COMMANDS``.
        beneath: given what the command line says, settings that lie under it (those of a checkpoint, say).
    """

    def decorate(story: Story) -> Callable[[], None]:
        @functools.wraps(story)
        def run(config: DictConfig) -> None:
            with_errors_in_words(lambda: story(plain(name, config, beneath)))

        def main() -> None:
            os.environ.setdefault(
                "OMP_WAIT_POLICY", "PASSIVE"
            )  # threads that wait leave the core to the loader
            sys.argv[1:] = [accept_any_key(argument) for argument in sys.argv[1:]]
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(run)()

        return main

    return decorate


def composed(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The checked settings of a command without running it, for scripts and tests.

    Raises:
        ValueError: a key, type or value that the command does not accept, or a choice that does not exist.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return plain(name, hydra.compose(name, [accept_any_key(override) for override in overrides]))
        except HydraException as error:
            raise ValueError(str(error)) from error


def plain(
    name: str, config: DictConfig, beneath: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Composed settings as checked dicts and lists.

    Raises:
        ValueError: a key, type or value that the command does not accept.
    """
    if beneath is not None:
        given = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
        config = cast("DictConfig", OmegaConf.merge(OmegaConf.create(beneath(given)), config))
    settings = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    if "run_name" in settings and HydraConfig.initialized():
        settings["run_name"] = _run_name(settings["run_name"])
    return schema.check(name, settings)


def _run_name(given: str | None) -> str:
    """The name given, or one of what was chosen; every job of ``--multirun`` adds what is its own."""
    job = HydraConfig.get()
    chosen = job.runtime.choices
    name = given or chosen.get("experiment") or f"{chosen.get('model')}-{chosen.get('data')}"
    own = swept(job.overrides.task, sys.argv) if job.mode == RunMode.MULTIRUN else []
    return "-".join([name, *own])


def swept(overrides: Sequence[str], typed: Sequence[str]) -> list[str]:
    """What a job has of its own: its overrides that were not typed so, fit for a folder's name."""
    own = [o.lstrip("+") for o in overrides if o not in typed and not o.lstrip("+").startswith("run_name=")]
    return [re.sub(r"[^\w.=-]", "_", override) for override in own]


def accept_any_key(argument: str) -> str:
    """``a.b=1`` as ``++a.b=1``: an unknown key then reaches our check, which says what is accepted.

    Choices of a file (``model=...``) and Hydra's own keys and flags are left alone. A value that Hydra cannot
    read is put in quotes: a path may hold umlauts, brackets and equal signs.
    """
    key, equals, value = argument.partition("=")
    plain_key = re.fullmatch(r"[A-Za-z_][\w./]*", key)
    if not equals or not plain_key or key.startswith("hydra") or (CONF / key).is_dir():
        return argument
    try:
        OverridesParser.create().parse_override(f"++{argument}")
    except HydraException:
        quoted = value.replace("'", "\\'")
        return f"++{key}='{quoted}'"
    return f"++{argument}"


def with_errors_in_words(story: Callable[[], None]) -> None:
    """A user's mistake ends with its message alone and exit status 2 (SEGKIT_TRACEBACK=1 shows where)."""
    try:
        story()
    except (ValueError, OSError) as error:
        if os.environ.get("SEGKIT_TRACEBACK"):
            traceback.print_exc()
        elif os.environ.get("RANK", "0") == "0" or isinstance(error, OSError):
            sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
