"""Commands: functions of checked settings, with settings from ``conf/COMMAND.yaml`` and the command line.

::

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
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import segkit
from segkit.config import command_line, compose, hints, registry, schema
from segkit.config.compose import ConfigTree, Reader
from segkit.config.dotted import value_of
from segkit.config.schema import COMMANDS, CONF, LISTS
from segkit.runtime import environment, run_folder
from segkit.runtime.commands import cli_command
from segkit.runtime.errors import report_user_errors

BUILT_IN = ("mixed", "confusion")  # components that no list needs to name
Main = Callable[[dict[str, Any]], None]
HYDRA_OVERRIDES = (  # no folder and no log of Hydra's; a sweep leaves its multirun.yaml beside the runs
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.dir=${oc.select:run_dir,.}",
    "hydra.sweep.subdir=.",
)


def read_checkpoint_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the data, network and sizes that a checkpoint stores; ``stored`` of commands that use one."""
    from segkit.inference import predictor  # seconds, which the help does not need

    return predictor.settings_from_checkpoint(settings)


def command(
    name: str, *, stored: Reader | None = None, choose: Reader | None = None
) -> Callable[[Main], Callable[[], None]]:
    """Make a function of settings a command. Without arguments the command prints its help.

    Args:
        name: of its yaml file and of its schema in ``COMMANDS``.
        stored: as of ``compose.compose_settings``.
        choose: as of ``compose.compose_settings``.
    """

    def decorate(function: Main) -> Callable[[], None]:
        @functools.wraps(function)
        def main() -> None:
            environment.set_thread_env(training=name == "train")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come to us
            resolve = functools.partial(compose.resolve_settings, stored=stored, choose=choose)
            report_user_errors(lambda: _run(name, resolve, function))

        return main

    return decorate


def _run(name: str, resolve_settings: Callable[[ConfigTree], dict[str, Any]], function: Main) -> None:
    """Print what a flag asks for, or call the function with its settings, in a sweep once for each job."""
    words = sys.argv[1:]
    flags, settings = command_line.parse_flags(words)

    def start(config: ConfigTree) -> None:
        if flags.cfg == "job":
            composed = compose.resolve(config.tree)
            _write(yaml.safe_dump(value_of(composed, flags.package), sort_keys=False))
            return
        checked = resolve_settings(config)
        note = recipe_note(config.choices)
        is_new = name == "train" and checked["resume"] is not True  # a resumed run has its own settings
        if note and is_new and run_folder.is_main() and not checked["summary"]:
            print(note, flush=True)  # noqa: T201
        function(checked)

    if flags.version:
        print(f"segkit {segkit.__version__}")  # noqa: T201
    elif flags.help or not words:
        command_line.prepare(words)
        _write(help_text(name, function.__globals__["__doc__"]))
    elif flags.multirun or flags.info or any(word.lstrip("+").startswith("hydra") for word in settings):
        _run_hydra(name, flags, settings, start)
    else:
        start(compose.compose_tree(name, words))


def recipe_note(choices: Mapping[str, Any]) -> str | None:
    """Return a line for a pair of data set and model without a published recipe, None if there is one."""
    data, model = choices.get("data"), choices.get("model")
    if choices.get("experiment") or (CONF / "recipe" / f"{data}" / f"{model}.yaml").is_file():
        return None
    return f"no published recipe for {data} + {model}; using the defaults (docs/recipes.md)"


def _write(text: str) -> None:
    """Print a text; ``| head`` may close the pipe early."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_hydra(
    name: str, flags: Namespace, settings: Sequence[str], start: Callable[[ConfigTree], None]
) -> None:
    """Have Hydra start the jobs of a sweep, or print what another flag requests."""
    folders = [f"--config-dir={folder}" for folder in flags.config_dir]
    overrides = command_line.prepare([*folders, *settings], sweeps=flags.multirun)
    words = [*folders, *HYDRA_OVERRIDES, *overrides]
    if flags.multirun:
        words.append("--multirun")
    if flags.info:
        words += ["--info", flags.info]
    failures: list[Exception] = []

    def run_job(config: DictConfig) -> None:
        job = HydraConfig.get()
        task, suffix = list(job.overrides.task), ""
        if job.mode == RunMode.MULTIRUN:
            suffix = "".join(f"-{override}" for override in sweep_suffix(task, overrides))
        GlobalHydra.instance().clear()  # its overrides are composed anew
        try:
            report_user_errors(lambda: start(compose.compose_tree(name, [*folders, *task], suffix)))
        except Exception as error:
            failures.append(error)
            raise

    sys.argv[1:] = words
    try:
        hydra.main(**compose.VERSION_BASE, config_path=str(CONF), config_name=name)(run_job)()
    except Exception as error:
        if error in failures:
            raise
        raise ValueError(command_line.describe_error(error, overrides)) from error


def help_text(name: str, docstring: str) -> str:
    """Return the help of a command: the docstring of its script, and the groups with their files."""
    for other in COMMANDS:
        docstring = docstring.replace(f"python {other}_seg.py", cli_command(other))
    return f"{docstring.strip()}\n\nGroups (choose with group=file):\n{list_choices(name)}\n"


def list_choices(name: str) -> str:
    """Return the groups of a command with their files, and the components that settings list by name."""
    groups = hints.list_groups(COMMANDS[name])
    if name == "train":
        groups["experiment"] = schema.choices("experiment")
    lines = [f"{group}: {', '.join(files)}" for group, files in groups.items()]
    for path, package in LISTS.items():
        names = [component for component in registry.available(package) if component not in BUILT_IN]
        if names and path.split(".")[0] in COMMANDS[name]:
            lines.append(f"{hints.write_item(path)}: {', '.join(names)}")
    return "\n".join(lines)


def sweep_suffix(overrides: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the overrides that only one job of a sweep has, as parts of a folder's name.

    Args:
        overrides: of the job.
        words: of the command line.
    """
    own = [o.lstrip("+") for o in overrides if o not in words and not o.lstrip("+").startswith("run_name=")]
    return [re.sub(r"[^\w.=-]", "_", override) for override in own]
