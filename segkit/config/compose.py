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
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segkit.config import checking, hints, registry, schema
from segkit.config.auto import BANDS, PHOTOGRAPHS, USUAL, fill_auto, find_auto
from segkit.config.command_line import prepare
from segkit.config.dotted import copy_keys, flat, merge, value_of
from segkit.config.schema import CONF
from segkit.config.values import convert

# Hydra 1.4 deprecates what 1.3 needs
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
LOG = logging.getLogger("segkit")
Reader = Callable[[dict[str, Any]], Mapping[str, Any]]

OF_START = ("plugins", "resume", "run_name", "run_dir", "device", "summary", "profile", "lr_finder")
"""Keys that are never taken from the run to resume."""
PAIR = ("data", "model", "recipe", "experiment")  # groups that a recipe is chosen by, or is below


class ConfigTree(NamedTuple):
    """Composed settings before stored and chosen values are merged and references resolved."""

    command: str
    tree: dict[str, Any]  # settings with their ${references}
    overrides: Sequence[str]
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


def compose_tree(command: str, arguments: Sequence[str]) -> ConfigTree:
    """Return what Hydra composes from the words of a command line.

    Raises:
        ValueError: a word that is no setting, or a choice that does not exist.
    """
    overrides = prepare(command, arguments)
    folders = [f"file://{folder.resolve()}" for folder in schema.extra_folders]
    search = [f"hydra.searchpath={folders}"] if folders else []
    with hydra.initialize_config_dir(str(CONF), **VERSION_BASE):
        try:
            config = hydra.compose(command, [*search, *overrides], return_hydra_config=True)
        except Exception as error:
            raise ValueError(describe_error(error, overrides)) from error
        choices = _to_plain(config.hydra.runtime.choices)
    return read_config(command, config, overrides, choices)


def read_config(
    command: str, config: DictConfig, overrides: Sequence[str], choices: Mapping[str, Any], suffix: str = ""
) -> ConfigTree:
    """Return what Hydra composed as plain dicts and lists, with the recipe merged and the run named.

    Args:
        command: its name.
        config: of Hydra.
        overrides: of the command line.
        choices: the file of each group.
        suffix: appended to the name of a run of a sweep.
    """
    tree = _to_plain(config, resolve=False)
    tree.pop("hydra", None)
    plugins = tree.get("plugins") or []
    tree["plugins"] = plugins if isinstance(plugins, list) else [plugins]
    registry.use_plugins(map(str, tree["plugins"]))
    keys, groups = _parse_overrides(overrides)
    experiment = _read_choice("experiment", choices.get("experiment"))
    keys += _leaf_keys(experiment)
    groups = _overridden_groups(experiment) | groups
    variant = _read_choice("model/backbone", groups.get("model/backbone")).get("variant")
    if variant is not None:  # of the chosen family, in place of the model's
        _merge_below(tree, {"model": {"backbone": {"variant": variant}}}, keys)
    chosen = [(group, name) for group, name in groups.items() if group not in PAIR]
    keys += [key for group, name in chosen for key in _keys_of_choice(group, name)]
    _merge_below(tree, tree.pop("recipe", None) or {}, keys)
    if "run_name" in tree:
        default = choices.get("experiment") or f"{choices.get('model')}-{choices.get('data')}"
        with contextlib.suppress(ValueError):  # the check refuses a name that is no text
            tree["run_name"] = convert(tree["run_name"] or str(default), str) + suffix
    return ConfigTree(command, tree, overrides, groups, choices)


def resolve_settings(
    config: ConfigTree, *, stored: Reader | None = None, choose: Reader | None = None
) -> dict[str, Any]:
    """Return composed settings as checked dicts, lists and tuples.

    Args:
        config: of ``read_config``.
        stored: as of ``compose_settings``.
        choose: as of ``compose_settings``.

    Raises:
        ValueError: a key, type or value that the command does not accept.
    """
    command, tree = config.command, config.tree
    checking.expand_paths(command, tree)
    below = dict(stored(_resolve_if_possible(tree)) if stored else {})
    is_resumed = "run_name" in below
    if below:
        _merge_stored(tree, below, config.overrides, is_resumed=is_resumed)
    if choose and not is_resumed:
        usual = resolve(command, fill_auto(tree, USUAL))
        drop_inapplicable_keys(usual, config)
        checking.check(command, usual)  # errors come before the images are looked at
        tree = fill_auto(tree, choose(resolve(command, tree)))
    settings = resolve(command, fill_auto(tree, USUAL))
    for line in drop_inapplicable_keys(settings, config):
        LOG.warning("%s", line)
    return checking.check(command, settings)


def resolve(command: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with their references resolved and ``~`` expanded.

    Raises:
        ValueError: a reference to a key that does not exist.
    """
    try:
        settings = _to_plain(OmegaConf.create(dict(tree)))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "settings"
        missing = checking.find_missing(command, tree)
        raise ValueError("\n".join(missing) or f"{key}: {str(error).splitlines()[0]}") from error
    checking.expand_paths(command, settings)
    return settings


def _resolve_if_possible(tree: dict[str, Any]) -> dict[str, Any]:
    """Return settings with resolved references; unresolved if a checkpoint has still to supply a section."""
    try:
        return _to_plain(OmegaConf.create(tree))
    except OmegaConfBaseException:
        return tree


def _to_plain(config: Any, *, resolve: bool = True) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(config, resolve=resolve))


def _merge_below(tree: dict[str, Any], layer: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Merge a layer into settings, except for the dotted keys that a later source sets; in place."""
    merged = merge(tree, layer)
    copy_keys(tree, merged, keys)
    tree.clear()
    tree.update(merged)


def _merge_stored(
    tree: dict[str, Any], stored: dict[str, Any], overrides: Sequence[str], *, is_resumed: bool
) -> None:
    """Merge stored settings below the command line, and into its keys that are ``auto`` or lack bands."""
    for key, value in flat(stored).items():
        if isinstance(value, str) and "${" in value:
            raise ValueError(f"{key}={value}: stored settings must not refer to others")
    registry.check_plugins_are_named(stored.get("plugins", ()), "the run to resume")
    keys, groups = _parse_overrides(overrides)
    keys += [key for group, name in groups.items() for key in _keys_of_choice(group, name)]
    keys = [*_with_references(tree, keys), *OF_START]
    if not is_resumed and value_of(stored, "data") is None:  # the bands of new images decide
        keys += [key for key in PHOTOGRAPHS if key in find_auto(merge(tree, stored))]
    _merge_below(tree, stored, keys)
    keys = [key for key in find_auto(tree) if key not in PHOTOGRAPHS]
    keys += [key for key in BANDS if key in flat(tree) and value_of(tree, key) is None]
    known = {key: value_of(stored, key) for key in (*keys, "schedule.iterations")}
    known = {key: value for key, value in known.items() if value not in (None, "auto")}
    tree.update(fill_auto(tree, known, keys))


def drop_inapplicable_keys(settings: dict[str, Any], config: ConfigTree) -> list[str]:
    """Drop keys that an experiment sets for a component that was replaced; return a line for each.

    Keys of the command line stay, for the check to refuse.
    """
    keys, _ = _parse_overrides(config.overrides)
    lines: list[str] = []
    for path, place in schema.SECTIONS.items():
        group, section = path.replace(".", "/"), value_of(settings, path)
        is_chosen = any(f"{group}/".startswith(f"{chosen}/") for chosen in config.groups)
        if ":" in place or not is_chosen or not isinstance(section, dict) or "name" not in section:
            continue
        for key in schema.unknown_keys(path, section):
            if any(f"{word}.".startswith(f"{path}.{key}.") for word in keys):
                continue
            value = section.pop(key)
            if value is not None:
                lines.append(f"{path}.{key}={value} is left out: {section['name']} has no such setting")
    return lines


def recipe_note(choices: Mapping[str, Any]) -> str | None:
    """Return a line for a pair of data set and model without a published recipe, None if there is one."""
    data, model = choices.get("data"), choices.get("model")
    if choices.get("experiment") or (CONF / "recipe" / f"{data}" / f"{model}.yaml").is_file():
        return None
    return f"no published recipe for {data} + {model}; using the defaults (docs/recipes.md)"


def _is_group(key: str) -> bool:
    """Return whether a key names a group of files."""
    return any((folder / key).is_dir() for folder in schema.config_folders())


def _parse_overrides(overrides: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the dotted keys that the command line sets, and the groups that it chooses with their files."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    groups = {one.key_or_group: str(one.value()) for one in parsed if _is_group(one.key_or_group)}
    return [one.key_or_group for one in parsed if not _is_group(one.key_or_group)], groups


def _read_choice(group: str, name: object) -> dict[str, Any]:
    """Return the content of a file of a group, an empty dict if there is no such file."""
    for folder in schema.config_folders():
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return _to_plain(OmegaConf.load(file), resolve=False)
    return {}


def _overridden_groups(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the groups that the ``defaults`` of a file override, with their files."""
    entries = [entry for entry in content.get("defaults", ()) if isinstance(entry, dict)]
    pairs = [pair for entry in entries for pair in entry.items() if pair[0].startswith("override ")]
    return {key.removeprefix("override ").lstrip("/"): str(name) for key, name in pairs}


def _keys_of_choice(group: str, name: str) -> list[str]:
    """Return the dotted keys that a file of a group sets, those of the groups it overrides included."""
    if group == "evaluation":  # evaluation.every belongs to the schedule
        return [f"evaluation.{key}" for key in schema.read_keywords(schema.SECTIONS[group]).accepted]
    if group == "schedule":
        return ["schedule", "evaluation.every"]
    if group not in ("data", "experiment"):
        return [group.replace("/", ".")]
    content = _read_choice(group, name)
    inner = [_keys_of_choice(*pair) for pair in _overridden_groups(content).items()]
    return [key for keys in inner for key in keys] + _leaf_keys(content)


def _leaf_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys that a file sets; a component, which has a ``name``, is one."""
    keys: list[str] = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and "name" not in value:
            keys += _leaf_keys(value, f"{prefix}{key}.")
        elif key != "defaults":
            keys.append(f"{prefix}{key}")
    return keys


def _with_references(tree: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return dotted keys, and the keys whose values refer to them, as ``${sizes.crop}`` does."""
    keys = list(keys)
    for path, value in flat(tree).items():
        for reference in re.findall(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else ():
            if any(f"{reference}.".startswith(f"{key}.") for key in keys):
                keys.append(path)
    return keys


def describe_error(error: Exception, arguments: Sequence[str]) -> str:
    """Return the message for an error of Hydra, with the command line if it does not name the fault."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:2])[:400]
    if known := re.match(r"Error resolving interpolation '.*?', possible interpolation keys: (.*)", text):
        missing = [group for group in ("data", "model") if group not in known[1].split(", ")]
        if missing:
            return "\n".join(hints.explain_missing(group, dict, ()) for group in missing)
    if clash := re.match(r"Error merging override \++([\w.]+)=(.*)", text):
        return hints.explain_section(clash[1], clash[2])
    if isinstance(error, HydraException) and text:
        return text
    typed = " ".join(word.removeprefix("++") for word in arguments)[:400]
    return f"the settings cannot be composed ({type(error).__name__} {text}); one of these is wrong: {typed}"
