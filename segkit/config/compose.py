"""Settings are composed here, and only here, with Hydra; everything below takes plain dicts and lists.

A command is a function of its checked settings::

    @command("train")
    def main(settings): ...

    if __name__ == "__main__":
        main()
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from segkit.config import COMMANDS, CONF, arguments, declared, groups, open_keys, registry, resuming, schema
from segkit.config.dotted import value_of
from segkit.config.values import coerce
from segkit.runtime import environment, run_folder
from segkit.runtime.commands import cli_command
from segkit.runtime.errors import report_user_errors

# Hydra 1.4 deprecates what 1.3 needs
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
LOG = logging.getLogger("segkit")
Story = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Hooks:
    """What a command knows of its settings besides its files; each is given them before they are checked."""

    defaults: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Settings that lie under what the command line says; given that alone."""
    resumed: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None
    """The settings of the run that goes on, None of a new one; over them lies what was typed."""
    tuned: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None
    """Of a new run: the section ``model`` of the network to fine-tune, None without one; likewise."""
    choose: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
    """Of a new run: values by dotted key of what was left open; without it the usual ones stand there."""


def settings_from_checkpoint(given: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's own data, network and sizes: ``defaults`` of commands that use a trained network."""
    from segkit.inference import predictor  # seconds, which the help does not need

    return predictor.settings_from_checkpoint(given)


def command(name: str, hooks: Hooks = Hooks()) -> Callable[[Story], Callable[[], None]]:
    """Make a function of settings a command that reads them from ``conf/<name>.yaml`` and the command line.

    Without any argument the command prints its help.

    Args:
        name: of the yaml, and of the schema in ``segkit.config.COMMANDS``.
        hooks: what else the settings follow from.
    """

    def decorate(story: Story) -> Callable[[], None]:
        @functools.wraps(story)
        def main() -> None:
            environment.set_thread_env(training=name == "train")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors come to us
            report_user_errors(lambda: _compose_and_run(name, hooks, story))

        return main

    return decorate


OF_HYDRA = (  # it makes no folder and no log of its own; a sweep leaves its multirun.yaml beside the runs
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.dir=${oc.select:run_dir,.}",
    "hydra.sweep.subdir=.",
)


def help_text(name: str, docstring: str) -> str:
    """Return the help of a command: the docstring of its script, and the groups with their files."""
    for other in COMMANDS:
        docstring = docstring.replace(f"python {other}_seg.py", cli_command(other))
    return f"{docstring.strip()}\n\nGroups (choose with group=file):\n{groups.list_choices(name)}\n"


def _compose_and_run(name: str, hooks: Hooks, story: Story) -> None:
    ours: list[Exception] = []

    def settings_of_start(config: DictConfig, typed: Sequence[str]) -> dict[str, Any]:
        choices = HydraConfig.get().runtime.choices
        settings = resolve_settings(name, config, hooks, typed=typed, choices=choices)
        if (
            name == "train"
            and run_folder.is_main()
            and not settings["summary"]
            and (note := recipe_note(choices))
        ):
            print(note, flush=True)  # noqa: T201
        return settings

    def run(config: DictConfig) -> None:
        typed = HydraConfig.get().overrides.task
        try:
            report_user_errors(lambda: story(settings_of_start(config, typed)))
        except Exception as error:
            ours.append(error)
            raise

    arguments.check(sys.argv[1:])
    registry.use_plugins(_plugins(sys.argv[1:]))
    flags, words = arguments.split_flags(sys.argv[1:])
    sweeps = bool({"--multirun", "-m"} & {*flags})
    said = [accept_any_key(argument, name, sweeps=sweeps) for argument in words]
    try:
        if not (flags or said) or {"--help", "-h"} & {*flags}:
            sys.stdout.write(help_text(name, story.__globals__["__doc__"]))
            sys.stdout.flush()
            return
        sys.argv[1:] = [*flags, *OF_HYDRA, *said]
        hydra.main(**VERSION_BASE, config_path=str(CONF), config_name=name)(run)()
    except BrokenPipeError:  # `--help | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if error in ours:
            raise
        raise ValueError(_in_words(error, sys.argv[1:])) from error


def composed(name: str, overrides: Sequence[str] = (), hooks: Hooks = Hooks()) -> dict[str, Any]:
    """The checked settings of a command without running it, for scripts and tests.

    Raises:
        ValueError: a key, type or value that the command does not accept, or a choice that does not exist.
    """
    arguments.check(overrides)
    registry.use_plugins(_plugins(overrides))
    typed = [accept_any_key(override, name) for override in overrides]
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        try:
            config = hydra.compose(name, typed, return_hydra_config=True)
        except Exception as error:
            raise ValueError(_in_words(error, overrides)) from error
        chosen = OmegaConf.to_container(config.hydra.runtime.choices)
        with flag_override(config, ["struct", "readonly"], [False, False]):
            del config["hydra"]
        if name == "train" and config.get("run_name") in (None, ""):
            config["run_name"] = default_run_name(cast("dict[str, Any]", chosen))
        return resolve_settings(name, config, hooks, typed=typed, choices=cast("dict[str, Any]", chosen))


def default_run_name(choices: Mapping[str, Any]) -> str:
    """Return the name of a run that was given none, by the files that were chosen."""
    return str(choices.get("experiment") or f"{choices.get('model')}-{choices.get('data')}")


def _plugins(typed: Sequence[str]) -> list[str]:
    """The packages that the command line names; the help lists their components, too."""
    said = [argument for argument in typed if argument.lstrip("+").startswith("plugins=")]
    try:
        named = [OverridesParser.create().parse_override(argument).value() for argument in said]
    except HydraException:
        return []  # composing says what is wrong with it
    return [str(name) for value in named for name in (value if isinstance(value, list) else [value])]


def _in_words(error: Exception, typed: Sequence[str]) -> str:
    """An error of Hydra's as one line, with what was typed if it does not name it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[:2])[:400]
    if known := re.match(r"Error resolving interpolation '.*?', possible interpolation keys: (.*)", said):
        lost = [group for group in ("data", "model") if group not in known[1].split(", ")]
        return "\n".join(
            f"{g} is missing; choose it with {g}=NAME ({', '.join(schema.choices(g))})" for g in lost
        )
    if clash := re.match(r"Error merging override \++([\w.]+)=(.*)", said):
        return schema.section_expected(clash[1], clash[2])
    if isinstance(error, HydraException) and said:
        return said
    words = " ".join(argument.removeprefix("++") for argument in typed)[:400]
    return f"the settings cannot be composed ({type(error).__name__} {said}); one of these is wrong: {words}"


def resolve_settings(
    name: str,
    config: DictConfig,
    hooks: Hooks = Hooks(),
    *,
    typed: Sequence[str] = (),
    choices: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Composed settings as checked dicts, lists and tuples.

    Args:
        name: of the command.
        config: as Hydra composed it.
        hooks: as of ``command``.
        typed: the overrides of the command line, which lie over those of a run that is resumed.
        choices: the file that was chosen of each group.

    Raises:
        ValueError: a key, type or value that the command does not accept.
    """
    named = OmegaConf.select(config, "plugins")
    named = [named] if isinstance(named, str) else list(named or ())
    registry.use_plugins(str(name) for name in named)
    config, below = _with(config, {"plugins": named}), dict[str, Any]()
    try:
        if hooks.defaults is not None:
            below = hooks.defaults(cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False)))
            config = cast("DictConfig", OmegaConf.merge(OmegaConf.create(below), config))
        settings = _resolve_config(name, config)
    except OmegaConfBaseException as error:
        said = f"{getattr(error, 'full_key', None) or 'settings'}: {str(error).splitlines()[0]}"
        raise ValueError("\n".join(schema.missing_key_message(name, config)) or said) from error
    before = hooks.resumed(settings) if hooks.resumed else None
    network = hooks.tuned(settings) if hooks.tuned and before is None else None
    known = before or (below if network is None else {"model": network})
    said = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(list(typed))}
    chosen = {k: str(v) for k, v in said.items() if v is not None and (CONF / k).is_dir()}
    config = _with(config, _without_recipe(name, typed, chosen, choices or {}))
    overridden, content = _overrides_of_experiment(choices or {})
    chosen_backbone = {**overridden, **chosen}.get("model/backbone")
    if "model.backbone.variant" not in said and value_of(content, "model.backbone.variant") is None:
        config = _with(config, _own_variant(chosen_backbone))
    drop = functools.partial(
        groups.drop_inapplicable_keys, chosen=overridden | chosen, typed=said.keys() - chosen.keys()
    )
    config = _closed(name, config, known, hooks.choose if before is None else None, drop)
    settings = _resolve_config(name, config)
    for line in drop(settings):
        LOG.warning("%s", line)
    paths = _paths(typed)
    if before is not None:
        registry.check_plugins_are_named(before.get("plugins", ()), "the run that goes on")
    elif network is not None:  # one of photographs takes what the images of other bands say
        before = {**settings, "model": network}
        paths += [key for key in open_keys.PHOTOGRAPHS if key in open_keys.find_unset(before)]
    if before is not None:
        raw = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
        settings = resuming.merge_on_resume(before, settings, resuming.with_interpolating_keys(raw, paths))
    return schema.check(name, settings)


OF_RECIPE = {  # groups that a recipe fills, with what conf/train.yaml chooses
    "loss": "cross_entropy",
    "augment": "encoding",
    "schedule": "default",
    "schedule/optimizer": "sgd",
    "schedule/lr_schedule": "poly",
}


def _without_recipe(
    name: str, typed: Sequence[str], chosen: Iterable[str], choices: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the sections of groups that somebody chooses, without the recipe's part.

    Args:
        name: of the command.
        typed: overrides of the command line.
        chosen: groups that it chooses.
        choices: the file of every group.
    """
    other = [group for group, usual in OF_RECIPE.items() if choices.get(group, usual) != usual]
    groups_chosen = [group for group in OF_RECIPE if group in (*chosen, *other)]
    if name != "train" or not groups_chosen or "recipe" in chosen:
        return {}
    plain_config = hydra.compose(name, [*typed, "recipe=none"])
    paths = [group.replace("/", ".") for group in groups_chosen]
    paths += ["evaluation.every"] if "schedule" in groups_chosen else []  # in the schedule's unit
    sections = {path: OmegaConf.select(plain_config, path) for path in paths}
    return {
        path: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for path, value in sections.items()
    }


def _load_choice(group: str, name: str | None) -> dict[str, Any]:
    """Return what the yaml file of a choice says, an empty dict where there is no such file."""
    for folder in (CONF, *declared.own_folders):
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(file)))
    return {}


def _overrides_of_experiment(choices: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the groups that the experiment overrides, with their files, and its own settings."""
    content = _load_choice("experiment", choices.get("experiment"))
    entries = [entry for entry in content.pop("defaults", []) if isinstance(entry, dict)]
    pairs = [pair for entry in entries for pair in entry.items() if pair[0].startswith("override ")]
    return {key.removeprefix("override ").lstrip("/"): str(name) for key, name in pairs}, content


def _own_variant(family: str | None) -> dict[str, Any]:
    """Return the default variant of a backbone family that was chosen in place of the model's own."""
    variant = _load_choice("model/backbone", family).get("variant")
    return {} if variant is None else {"model.backbone.variant": variant}


def recipe_note(choices: Mapping[str, Any]) -> str | None:
    """Return a line for a pair without a published recipe, None where there is one."""
    data, model = choices.get("data"), choices.get("model")
    if choices.get("experiment") or (CONF / "recipe" / f"{data}" / f"{model}.yaml").is_file():
        return None
    return f"no published recipe for {data} + {model}; using the defaults (docs/recipes.md)"


def _resolve_config(command: str, config: DictConfig) -> dict[str, Any]:
    """Return plain dicts and lists, with references resolved and the name of the run."""
    settings = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    schema.expand_paths(command, settings)
    if "run_name" in settings and HydraConfig.initialized():
        settings["run_name"] = _run_name(settings["run_name"])
    return settings


def _closed(
    name: str,
    config: DictConfig,
    known: Mapping[str, Any],
    choose: Callable[[dict[str, Any]], Mapping[str, Any]] | None,
    drop: Callable[[dict[str, Any]], Any],
) -> DictConfig:
    """Return the settings with every unset key filled: from ``known``, ``choose`` or usual values.

    Args:
        name: of the command.
        config: the settings.
        known: those of a resumed run or of a checkpoint.
        choose: returns values that follow from the images.
        drop: removes keys that do not apply, before the settings are checked.
    """
    config = _with(config, open_keys.values_for_unset(_resolve_config(name, config), known))
    if choose is not None:
        usual = _with(
            config.copy(), open_keys.values_for_unset(_resolve_config(name, config), open_keys.USUAL)
        )
        settings = _resolve_config(name, usual)
        drop(settings)
        schema.check(name, settings)  # errors come before what is chosen is printed
        config = _with(config, choose(_resolve_config(name, config)))
    return _with(config, open_keys.values_for_unset(_resolve_config(name, config), open_keys.USUAL))


def _with(config: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """The settings with values at dotted keys, so that what refers to them follows."""
    for key, value in values.items():
        OmegaConf.update(config, key, _in_lists(value), merge=False, force_add=True)
    return config


def _in_lists(value: Any) -> Any:
    return [_in_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _paths(typed: Sequence[str]) -> list[str]:
    """Dotted keys of the settings that the command line says, those of the files it chooses included."""
    paths: list[str] = []
    for override in OverridesParser.create().parse_overrides(list(typed)):
        group = override.key_or_group
        if (CONF / group).is_dir():
            paths += _paths_of_choice(group, str(override.value()))
        else:
            paths.append(group)
    return paths


def _paths_of_choice(group: str, choice: str) -> list[str]:
    """The section that a file of a group fills; a file that says several sections names them itself."""
    file = CONF / group / f"{choice}.yaml"
    if not file.is_file() or "@package _global_" not in file.read_text(encoding="utf-8"):
        return [group.replace("/", ".")]
    content = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(file)))
    paths: list[str] = []
    for entry in content.pop("defaults", []):
        for key, chosen in entry.items() if isinstance(entry, dict) else ():
            paths += _paths_of_choice(key.removeprefix("override ").lstrip("/"), str(chosen))
    return paths + resuming.leaf_keys(content)


def _run_name(given: Any) -> Any:
    """The name given, or one of what was chosen; every job of ``--multirun`` adds what is its own."""
    job = HydraConfig.get()
    name = default_run_name(job.runtime.choices)
    try:
        name = name if given in (None, "") else coerce(given, str)
    except ValueError:
        return given  # for the check to refuse
    own = sweep_suffix(job.overrides.task, sys.argv) if job.mode == RunMode.MULTIRUN else []
    return "-".join([name, *own])


def sweep_suffix(overrides: Sequence[str], typed: Sequence[str]) -> list[str]:
    """What a job has of its own: its overrides that were not typed so, fit for a folder's name."""
    own = [o.lstrip("+") for o in overrides if o not in typed and not o.lstrip("+").startswith("run_name=")]
    return [re.sub(r"[^\w.=-]", "_", override) for override in own]


def accept_any_key(argument: str, name: str = "train", *, sweeps: bool = False) -> str:
    """``a.b=1`` as ``++a.b=1``: an unknown key then reaches our check, which says what is accepted.

    Choices of a file (``model=...``) and Hydra's own keys and flags are left alone. A value that Hydra cannot
    read is put in quotes: a path may hold umlauts, brackets and equal signs. So is ``2026_11`` where text is
    meant, which would be the number 202611, and a path with a comma, which would be a sweep.

    Args:
        argument: as typed.
        name: of the command.
        sweeps: a comma separates the values of a sweep.
    """
    key, equals, value = argument.partition("=")
    plain_key = re.fullmatch(r"[A-Za-z_][\w./]*", key)
    if not equals or not plain_key or key.startswith("hydra") or (CONF / key).is_dir():
        return argument
    try:
        read = OverridesParser.create().parse_override(f"++{argument}")
        if isinstance(read.value(), int | float):
            unusual = f"{read.value()}" != value or Path(value).exists()  # 2024_11, or a folder of that name
            if schema.is_text(name, key) or (unusual and schema.may_be_text(name, key)):
                return f"++{key}='{value}'"
        if read.is_sweep_override() and not sweeps and schema.may_be_text(name, key):
            return f"++{key}={_quote(value)}"
    except HydraException:
        return f"++{key}={_quote(value)}"
    return f"++{argument}"


def _quote(value: str) -> str:
    """Put text, or each text of a list, in quotes, so that Hydra reads it as it is."""
    if listed := re.fullmatch(r"\[([^\[\]]+)\]", value):
        return f"[{','.join(_quote(item.strip()) for item in listed[1].split(','))}]"
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", value)  # a backslash escapes where a quote follows
    quoted = re.sub(r"(\\+)\Z", r"\1\1", quoted)
    return f"'{quoted}'"
