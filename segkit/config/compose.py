"""Settings of a command, composed from all their sources and checked.

Each source overrides those before it:

1. defaults: ``conf/COMMAND.yaml`` with the files that its groups choose;
2. recipe: ``conf/recipe/DATA/MODEL.yaml``, except for sections whose group is chosen otherwise;
3. experiment: ``conf/experiment/NAME.yaml``;
4. stored settings: of the run to resume, or of the checkpoint to test, predict, export or fine-tune;
5. command line: groups and keys, and every value that refers to them, as ``${sizes.crop}`` does.

Values that are still ``auto`` are then chosen from the images (a training with ``data=folder``), or the
usual ones.
Hydra composes 1, 3 and 5; the recipe is in a separate node and is merged here.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.config import checking, command_line, hints, registry, schema
from segkit.config.auto import BANDS, PHOTOGRAPHS, USUAL, fill_auto, find_auto
from segkit.config.dotted import flat, merge, merge_below, set_value, value_of
from segkit.config.schema import CONF
from segkit.config.values import convert

# Hydra 1.4 deprecates what 1.3 needs
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
LOG = logging.getLogger("segkit")
Reader = Callable[[dict[str, Any]], Mapping[str, Any]]

OF_START = ("plugins", "resume", "run_name", "run_dir", "device", "summary", "profile", "lr_finder")
"""Keys that are never taken from the run to resume."""


class ConfigTree(NamedTuple):
    """Composed settings before stored and chosen values are merged and references resolved."""

    command: str
    tree: dict[str, Any]  # settings with their ${references}
    typed: list[str]  # dotted keys of the command line
    experiment: dict[str, Any]  # content of its file
    groups: Mapping[str, str]  # chosen by the command line or the experiment, with their files
    choices: Mapping[str, Any]  # the file of each group


def compose_settings(
    command: str, overrides: Sequence[str] = (), *, stored: Reader | None = None, choose: Reader | None = None
) -> dict[str, Any]:
    """Return the checked settings of a command as a plain nested dict, without running it.

    Args:
        command: ``train``, ``test``, ``predict`` or ``export``.
        overrides: as on the command line.
        stored: returns settings of a checkpoint for settings composed so far; nested, empty without one.
        choose: returns values from the images for settings that are ``auto``, by dotted key.

    Raises:
        ValueError: a key, type or value that the command does not accept, or a choice that does not exist.
    """
    return resolve_settings(compose_tree(command, overrides), stored=stored, choose=choose)


def compose_tree(command: str, words: Sequence[str], suffix: str = "") -> ConfigTree:
    """Return the settings that the words of a command line give, with the recipe merged and the run named.

    Args:
        command: its name.
        words: as typed.
        suffix: appended to the name of the run.

    Raises:
        ValueError: a word that is no setting, or a choice that does not exist.
    """
    overrides = command_line.prepare(words)
    folders = [f"file://{folder.resolve()}" for folder in schema.folders[1:]]
    search = [f"hydra.searchpath={folders}"] if folders else []
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        try:
            config = hydra.compose(command, [*search, *overrides], return_hydra_config=True)
        except Exception as error:
            raise ValueError(describe_error(error, overrides)) from error
        tree, choices = _to_plain(config, resolve=False), _to_plain(config.hydra.runtime.choices)
    del tree["hydra"]
    plugins = tree.get("plugins") or []
    tree["plugins"] = plugins if isinstance(plugins, list) else [plugins]
    registry.use_plugins(map(str, tree["plugins"]))
    typed, groups = _parse_overrides(overrides)
    experiment = _read_choice("experiment", choices.get("experiment"))
    groups = _overridden_groups(experiment) | groups
    set_later = [*typed, *flat(experiment)]
    variant = _read_choice("model/backbone", groups.get("model/backbone")).get("variant")
    if variant is not None:  # of the chosen family, in place of the model's
        tree = merge_below(tree, {"model": {"backbone": {"variant": variant}}}, set_later)
    set_later += _keys_of_groups(group for group in groups if group not in ("data", "model"))
    tree = merge_below(tree, tree.pop("recipe", None) or {}, set_later)
    if "run_name" in tree:
        default = choices.get("experiment") or f"{choices.get('model')}-{choices.get('data')}"
        with contextlib.suppress(ValueError):  # the check refuses a name that is no text
            tree["run_name"] = convert(tree["run_name"] or str(default), str) + suffix
    return ConfigTree(command, tree, typed, experiment, groups, choices)


def resolve_settings(
    config: ConfigTree, *, stored: Reader | None = None, choose: Reader | None = None
) -> dict[str, Any]:
    """Return composed settings as checked dicts, lists and tuples.

    Args:
        config: of ``compose_tree``.
        stored: as of ``compose_settings``.
        choose: as of ``compose_settings``.

    Raises:
        ValueError: a key, type or value that the command does not accept.
    """
    tree, below = config.tree, {}
    if stored:
        settings = tree
        with contextlib.suppress(ValueError):  # a checkpoint may have still to supply a section
            settings = resolve(tree)
        below = stored(settings)
    if below:
        tree = _merge_stored(config, below)
    _drop_inapplicable_keys(tree, config)
    settings = checking.check(config.command, resolve(fill_auto(tree, USUAL)))  # before images are looked at
    if choose and "run_name" not in below and (values := choose(resolve(tree))):
        tree = fill_auto(fill_auto(tree, values), USUAL)
        settings = checking.check(config.command, resolve(tree))
    return settings


def resolve(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with their references resolved.

    Raises:
        ValueError: a reference to a key that does not exist.
    """
    try:
        return _to_plain(OmegaConf.create(dict(tree)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "settings"
        raise ValueError(f"{key}: {str(error).splitlines()[0]}") from error


def _to_plain(config: Any, *, resolve: bool = True) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=resolve))


def _merge_stored(config: ConfigTree, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with stored ones below the command line, and in its keys that are ``auto`` or bands."""
    values = flat(stored)
    for key, value in values.items():
        if isinstance(value, str) and "${" in value:
            raise ValueError(f"{key}={value}: stored settings must not refer to others")
    registry.check_plugins_are_named(stored.get("plugins", ()), "the run to resume")
    keys = [*config.typed, *flat(config.experiment), *_keys_of_groups(config.groups)]
    keys = [*_with_references(config.tree, keys), *OF_START]
    if "run_name" not in stored and "data" not in stored:  # the bands of new images decide
        keys += [key for key in PHOTOGRAPHS if key in find_auto(merge(config.tree, stored))]
    tree = merge_below(config.tree, stored, keys)
    known = {key: value for key, value in values.items() if value not in (None, "auto")}
    tree = fill_auto(tree, {key: value for key, value in known.items() if key not in PHOTOGRAPHS})
    for key in BANDS:
        if key in known and key in flat(tree) and value_of(tree, key) is None:
            set_value(tree, key, known[key])
    return tree


def _drop_inapplicable_keys(tree: dict[str, Any], config: ConfigTree) -> None:
    """Drop keys that an experiment sets for a component that was replaced, with a warning; in place.

    Keys of the command line stay, for the check to refuse.
    """
    for path, place in schema.SECTIONS.items():
        group, section = path.replace(".", "/"), value_of(tree, path)
        is_chosen = any(f"{group}/".startswith(f"{chosen}/") for chosen in config.groups)
        if ":" in place or not is_chosen or not isinstance(section, dict):
            continue
        with contextlib.suppress(ValueError):  # the check refuses an unknown component
            unknown = section.keys() - schema.read_section(path, section).accepted
            for key in [key for key in section if key in unknown]:
                if any(f"{word}.".startswith(f"{path}.{key}.") for word in config.typed):
                    continue
                value = section.pop(key)
                if value is not None:
                    name = section["name"]
                    LOG.warning("%s.%s=%s is left out: %s has no such setting", path, key, value, name)


def recipe_note(choices: Mapping[str, Any]) -> str | None:
    """Return a line for a pair of data set and model without a published recipe, None if there is one."""
    data, model = choices.get("data"), choices.get("model")
    if choices.get("experiment") or (CONF / "recipe" / f"{data}" / f"{model}.yaml").is_file():
        return None
    return f"no published recipe for {data} + {model}; using the defaults (docs/recipes.md)"


def _parse_overrides(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the dotted keys that the command line sets, and the groups that it chooses with their files."""
    typed: list[str] = []
    groups: dict[str, str] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if any((folder / key).is_dir() for folder in schema.folders):
            groups[key] = str(override.value())
        else:
            typed.append(key)
    return typed, groups


def _read_choice(group: str, name: object) -> dict[str, Any]:
    """Return the content of a file of a group, an empty dict if there is no such file."""
    for folder in schema.folders:
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return _to_plain(OmegaConf.load(file), resolve=False)
    return {}


def _overridden_groups(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the groups that the ``defaults`` of a file override, with their files."""
    entries = [entry for entry in content.get("defaults", ()) if isinstance(entry, dict)]
    pairs = [pair for entry in entries for pair in entry.items() if pair[0].startswith("override ")]
    return {key.removeprefix("override ").lstrip("/"): str(name) for key, name in pairs}


def _keys_of_groups(groups: Iterable[str]) -> list[str]:
    """Return the dotted keys that the files of groups set."""
    keys = {
        "data": ["data", "sizes"],
        "evaluation": [f"evaluation.{key}" for key in schema.read_section("evaluation", {}).accepted],
        "schedule": ["schedule", "evaluation.every"],
        "experiment": [],  # those in its file
    }
    return [key for group in groups for key in keys.get(group, [group.replace("/", ".")])]


def _with_references(tree: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return dotted keys, and the keys whose values refer to them, as ``${sizes.crop}`` does."""
    keys = list(keys)
    for path, value in flat(tree).items():
        for reference in re.findall(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else ():
            if any(f"{reference}.".startswith(f"{key}.") for key in keys):
                keys.append(path)
    return keys


def describe_error(error: Exception, overrides: Sequence[str]) -> str:
    """Return the message for an error of Hydra, with the command line if it does not name the fault."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2])[:400]
    if clash := re.match(r"Error merging override \++([\w.]+)=(.*)", text):
        return hints.explain_section(clash[1], clash[2])
    if isinstance(error, HydraException) and text:
        return text
    typed = " ".join(word.removeprefix("++") for word in overrides)[:400]
    return f"the settings cannot be composed ({type(error).__name__} {text}); one of these is wrong: {typed}"
