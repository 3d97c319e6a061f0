"""Settings of a command, composed from all their sources and checked.

Each source overrides those before it:

1. defaults: ``conf/COMMAND.yaml`` with the files that its groups choose;
2. recipe: ``conf/recipe/DATA/MODEL.yaml``, except for sections whose group is chosen otherwise;
3. experiment: ``conf/experiment/NAME.yaml``;
4. stored settings: of the run to resume, or of the checkpoint to test, predict, export or fine-tune;
5. command line: groups and keys, and every value that refers to them, as ``${sizes.crop}`` does.

Values that are still ``auto`` are then chosen from the images of ``data=folder``, or are the usual ones.
Hydra composes 1, 3 and 5, and the recipe as a separate node.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import hydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.config import checking, command_line, registry, schema
from segkit.config.auto import BANDS, PHOTO_STATS, USUAL, fill_auto, find_auto
from segkit.config.dotted import flat, merge, merge_below, set_value, value_of
from segkit.config.schema import CONF, START_KEYS

# Hydra 1.4 deprecates what 1.3 needs
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
LOG = logging.getLogger("segkit")
Reader = Callable[[dict[str, Any]], Mapping[str, Any]]


class ConfigTree(NamedTuple):
    """Composed settings before stored and chosen values are merged and references resolved."""

    command: str
    tree: dict[str, Any]  # settings with their ${references}
    fixed: list[str]  # dotted keys that the command line or a chosen experiment sets, also by its groups
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
    """Return the settings of a command line, with the recipe merged and the run named, plus a suffix."""
    overrides = command_line.prepare(words)
    search = f"hydra.searchpath={[f'file://{folder.resolve()}' for folder in schema.folders[1:]]}"
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        try:
            config = hydra.compose(command, [search, *overrides], return_hydra_config=True)
        except Exception as error:
            raise ValueError(command_line.describe_error(error, overrides)) from error
        tree, choices = _to_plain(config, resolve=False), _to_plain(config.hydra.runtime.choices)
    del tree["hydra"]
    plugins = tree.get("plugins") or []
    tree["plugins"] = plugins if isinstance(plugins, list) else [plugins]
    registry.use_plugins(map(str, tree["plugins"]))

    experiment = _read_choice("experiment", choices.get("experiment"))
    typed, chosen = command_line.split_overrides(overrides)
    chosen = _overridden_groups(experiment) | chosen
    fixed = [*typed, *flat(experiment)]
    variant = _read_choice("model/backbone", chosen.get("model.backbone")).get("variant")
    if variant is not None:  # of the chosen family, in place of the model's
        tree = merge_below(tree, {"model": {"backbone": {"variant": variant}}}, fixed)
    fixed += _keys_of_groups(group for group in chosen if group not in ("data", "model"))
    tree = merge_below(tree, tree.pop("recipe", None) or {}, fixed)
    fixed += _keys_of_groups(chosen)
    _drop_inapplicable_keys(tree, chosen, typed)
    if not isinstance(tree.get("run_name", []), dict | list):  # the check refuses these
        default = choices.get("experiment") or f"{choices.get('model')}-{choices.get('data')}"
        tree["run_name"] = f"{tree['run_name'] or default}{suffix}"
    return ConfigTree(command, tree, fixed, choices)


def resolve_settings(
    config: ConfigTree, *, stored: Reader | None = None, choose: Reader | None = None
) -> dict[str, Any]:
    """Return the checked settings of a ``ConfigTree``; the rest is as of ``compose_settings``."""
    tree, below = config.tree, {}
    if stored:
        settings = tree
        with contextlib.suppress(ValueError):  # a reference may be to a section that the checkpoint supplies
            settings = resolve(tree)
        below = stored(settings)
    if below:
        tree = _merge_stored(config, below)
    settings = checking.check(config.command, resolve(fill_auto(tree, USUAL)))  # before images are looked at
    if choose and "run_name" not in below and (values := choose(resolve(tree))):
        settings = checking.check(config.command, resolve(fill_auto(tree, {**USUAL, **values})))
    return settings


def resolve(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with their references resolved; a ValueError names one that cannot be."""
    try:
        return _to_plain(OmegaConf.create(dict(tree)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "settings"
        raise ValueError(f"{key}: {str(error).splitlines()[0]}") from error


def _to_plain(config: Any, *, resolve: bool = True) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=resolve))


def _merge_stored(config: ConfigTree, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with stored ones below the command line, and in place of ``auto`` and unset bands."""
    values = flat(stored)
    for key, value in values.items():
        if isinstance(value, str) and "${" in value:
            raise ValueError(f"{key}={value}: stored settings must not refer to others")
    registry.check_plugins_are_named(stored.get("plugins", ()), "the run to resume")
    keys = [*config.fixed, *START_KEYS]
    for key, value in flat(config.tree).items():  # values that refer to them, as ${sizes.crop} does
        if any(_is_in(reference, keys) for reference in re.findall(r"\$\{([\w.]+)\}", str(value))):
            keys.append(key)
    if "run_name" not in stored and "data" not in stored:  # the bands of new images decide
        keys += [key for key in PHOTO_STATS if key in find_auto(merge(config.tree, stored))]
    tree = merge_below(config.tree, stored, keys)
    known = {key: value for key, value in values.items() if value not in (None, "auto")}
    tree = fill_auto(tree, {key: value for key, value in known.items() if key not in PHOTO_STATS})
    for key in BANDS:
        if key in known and key in flat(tree) and value_of(tree, key) is None:
            set_value(tree, key, known[key])
    return tree


def _drop_inapplicable_keys(tree: dict[str, Any], chosen: Iterable[str], typed: Iterable[str]) -> None:
    """Drop keys that a file sets for a component that was replaced, with a warning; in place.

    Keys of the command line stay, for the check to refuse.
    """
    for path, place in schema.SECTIONS.items():
        section = value_of(tree, path)
        if ":" in place or not _is_in(path, chosen) or not isinstance(section, dict):
            continue
        with contextlib.suppress(ValueError):  # the check refuses an unknown component
            accepted = schema.read_section(path, section).accepted
            for key in [key for key in section if key not in accepted]:
                full = f"{path}.{key}"
                if not any(_is_in(word, [full]) for word in typed):
                    value, name = section.pop(key), section["name"]
                    LOG.warning("%s=%s is left out: %s has no such setting", full, value, name)


def _is_in(key: str, others: Iterable[str]) -> bool:
    """Return whether a dotted key is one of others, or within one."""
    return any(f"{key}.".startswith(f"{other}.") for other in others)


def _read_choice(group: str, name: object) -> dict[str, Any]:
    """Return the content of a file of a group, an empty dict if there is no such file."""
    for folder in schema.folders:
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return _to_plain(OmegaConf.load(file), resolve=False)
    return {}


def _overridden_groups(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the dotted keys of the groups that the ``defaults`` of a file override, with their files."""
    entries = [entry for entry in content.get("defaults", ()) if isinstance(entry, dict)]
    pairs = [pair for entry in entries for pair in entry.items() if pair[0].startswith("override ")]
    return {key.split()[1].lstrip("/").replace("/", "."): str(file) for key, file in pairs}


def _keys_of_groups(groups: Iterable[str]) -> list[str]:
    """Return the dotted keys that the files of groups set."""
    keys = {
        "data": ["data", "sizes"],
        "evaluation": [f"evaluation.{key}" for key in schema.read_section("evaluation", {}).accepted],
        "schedule": ["schedule", "evaluation.every"],
    }
    return [key for group in groups for key in keys.get(group, [group])]
