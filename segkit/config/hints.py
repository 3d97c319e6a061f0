"""Suggestions for wrong settings: words of other toolkits, misspellings, and values in place of sections."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segkit.config import registry, schema
from segkit.config.dotted import value_of
from segkit.config.schema import COMMANDS, CONF, LISTS, SECTIONS

SYNONYMS = {  # what other toolkits call a setting or a group
    "schedule.lr": "learning_rate base_lr lr0 init_lr",
    "schedule.batch_size": "batch bs batchsize train_batch_size samples_per_gpu",
    "schedule.epochs": "epoch max_epoch num_epochs max_epochs n_epochs total_epochs train_epochs",
    "schedule.iterations": "iters max_iter max_iters num_iters max_steps steps total_iters num_iterations",
    "schedule.accumulate": "accumulation grad_accum gradient_accumulation accumulate_grad_batches",
    "schedule.clip_gradient": "grad_clip clip_grad clip_grad_norm gradient_clip_val max_norm",
    "schedule.optimizer.weight_decay": "wd",
    "sizes.crop": "crop_size img_size image_size imgsz input_size resolution size patch_size",
    "loader.workers": "num_workers n_workers nworkers workers_per_gpu",
    "loader.sampling": "sampler data_sampler class_balanced oversample repeat_factor_sampling",
    "loader.repeat_threshold": "oversample_thr repeat_thresh repeat_factor_threshold",
    "runtime.precision": "amp mixed_precision use_amp fp16 bf16 half dtype",
    "data.root": "data_root data_dir data_path dataset_root dataset_dir root_dir path",
    "data": "dataset",
    "model": "arch architecture network net model_name",
    "model/backbone": "encoder encoder_name backbone_name",
    "model/head": "decoder decoder_name",
    "model.backbone.weights": "pretrained encoder_weights backbone_weights",
    "model.weights": "pretrained_path init_from load_from finetune",
    "checkpoint": "ckpt ckpt_path checkpoint_path model_path",
    "run_dir": "output_dir work_dir save_dir log_dir logdir out_dir project",
    "run_name": "exp_name experiment_name run exp name",
    "output": "out out_file save_path",
    "input": "image images source img",
    "evaluation.every": "eval_every val_every eval_interval val_interval check_val_every_n_epoch",
    "checkpoint.every": "save_every save_interval checkpoint_interval save_freq",
    "seed": "random_seed manual_seed",
    "schedule/lr_schedule": "lr_schedule policy scheduler lr_scheduler lr_policy",
    "schedule/optimizer": "optimizer optimiser optim optimizer_name",
    "augment": "augmentation augmentations aug transforms",
    "loss": "criterion loss_fn loss_function",
    "augment.hflip": "hflip horizontal_flip flip_prob",
}
ELSEWHERE = {  # how to do what no setting does
    "the class table of the data set has the classes (data=folder: classes.csv in data.root)": (
        "num_classes num_class n_classes n_class nclass nclasses nc classes nb_classes"
    ),
    "the launcher starts the processes: torchrun --nproc-per-node N train_seg.py ...": (
        "gpus num_gpus n_gpu n_gpus ngpu ngpus nproc nproc_per_node world_size"
    ),
    "choose a GPU with device=cuda:N": "gpu gpu_id gpu_ids cuda devices cuda_visible_devices",
    "continue a run with run_name=NAME resume=true": "resume_from auto_resume",
}
ABBREVIATED = {"ce": "cross_entropy", "crossentropy": "cross_entropy", "onecycle": "one_cycle"}


def write_value(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(write_value, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value}"


def is_path(value: str) -> bool:
    """Return whether a value in place of a choice names a file or folder."""
    return "/" in value or value.startswith("~") or Path(value).exists()


def read_keys(path: str) -> dict[str, list[Any]]:
    """Return the keys of a section ("" is the top level) with the types that they take anywhere."""
    signatures = [value_of(keys, path) for keys in COMMANDS.values()]
    place = SECTIONS.get(path, "")
    if ":" in place:
        signatures.append(schema.read_keywords(place).accepted)
    elif place:
        components = registry.available(place)
        signatures += [schema.read_component(place, name).accepted for name in components]
    found: dict[str, list[Any]] = {}
    for accepted in signatures:
        if isinstance(accepted, dict):
            for key, kind in accepted.items():
                found.setdefault(key, []).append(kind)
    return found


def list_groups(top: Iterable[str]) -> dict[str, list[str]]:
    """Return the groups under top-level keys, such as ``model/backbone``, with their files."""
    groups = [path.replace(".", "/") for path in SECTIONS if path.split(".")[0] in top]
    found = {group: schema.choices(group) for group in groups}
    return {group: files for group, files in found.items() if files}


def find_similar(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that contain a word, are contained in it, or are spelled like it, at most three."""
    listed = list(names)
    word = ABBREVIATED.get(word, word).lower().replace("-", "_")
    if word in listed:
        return [word]
    containing = [name for name in listed if word in name or word.replace("_", "") in name]
    contained = [name for name in listed if name in word.split("_")]  # dice in dice_loss
    digits = re.findall(r"\d+", word)  # resnet18 is not resnet101
    close = difflib.get_close_matches(word, listed, n=1)
    close = [name for name in close if digits == re.findall(r"\d+", name)]
    return (containing or contained or close)[:3]


def _find_meaning(answers: Mapping[str, str], key: str) -> str | None:
    """Return the answer that has the last word of a key among its words."""
    meanings = {word: answer for answer, words in answers.items() for word in words.split()}
    return meanings.get(_last_word(key))


def _last_word(key: str) -> str:
    return re.split(r"[./]", key)[-1].lower().replace("-", "_")


def explain_elsewhere(key: str) -> str | None:
    """Return how to do what no setting does, such as choosing GPUs; None for other keys."""
    return _find_meaning(ELSEWHERE, key)


def suggest_settings(key: str, value: Any, top: Iterable[str] = ()) -> list[str]:
    """Return corrected settings such as ``schedule.lr=0.1`` for an unknown key; none if nothing fits.

    Args:
        key: as typed; of a dotted key the last word counts.
        value: its value.
        top: the top-level keys to choose from; none: those of all commands.
    """
    word, written, top = _last_word(key), write_value(value), list(top or read_keys(""))
    sections = [path for path in dict.fromkeys([*top, *SECTIONS]) if path.split(".")[0] in top]
    keys = [*top, *(f"{path}.{name}" for path in sections for name in read_keys(path))]
    groups = list_groups(top)
    places = [name for name in keys if name.split(".")[-1] == word]
    named = [group for group in groups if group.split("/")[-1] == word]
    meant = _find_meaning(SYNONYMS, word)
    if meant in groups:
        named = [meant]
    elif meant in keys:
        places = [meant]
    if named:
        group = named[0]
        backbone = find_backbone(written) if group == "model/backbone" else None
        names = find_similar(written, groups[group])[:1] or [f"NAME ({', '.join(groups[group])})"]
        return [backbone or f"{group}={names[0]}"]
    if places == ["model.backbone.weights"] and value is True:
        written = "imagenet"
    if places == ["runtime.precision"] and written not in ("fp16", "bf16", "float32", "auto"):
        written = "bf16"
    return [f"{place}={written}" for place in places]


def explain_unknown(path: str, leaf: str, value: Any, accepted: Iterable[str]) -> str:
    """Return what an unknown setting may mean, or which keys its section accepts.

    Args:
        path: the section that lacks the key; "" is the top level.
        leaf: the key, dotted where it is nested.
        value: its value.
        accepted: the keys of the section.
    """
    elsewhere = explain_elsewhere(leaf)
    if elsewhere:
        return elsewhere
    names, (key, dot, rest) = sorted(accepted), leaf.partition(".")
    close = [f"{name}{dot}{rest}" for name in difflib.get_close_matches(key, names, n=1)]
    near = [f"{path}.{name}={write_value(value)}".lstrip(".") for name in close]
    if path:
        suggested = suggest_settings(leaf, value)
        meant = near or [one for one in suggested if not one.startswith(f"{path}.{key}=")]
    else:
        meant = suggest_settings(leaf, value, names) or near
    if meant:
        return f"did you mean {' or '.join(meant)}?"
    commands = [f"{name}_seg.py" for name, keys in COMMANDS.items() if not path and leaf in keys]
    if commands:
        return f"it is a setting of {', '.join(commands)}"
    suggested = suggest_settings(leaf, value) if not path else []
    if suggested:
        return f"train_seg.py takes {suggested[0]}"
    return f"{path or 'the top level'} accepts: {', '.join(names) or 'nothing yet'}"


def explain_section(path: str, value: Any) -> str:
    """Return the message for a value in place of a section."""
    group, wrong = path.replace(".", "/"), f"{path}={write_value(value)}: this is a section"
    names = schema.choices(group)
    if path in LISTS:
        names = registry.available(LISTS[path])
        return (
            f"{wrong}; set each by its name, {write_item(path)}; there are: {', '.join(names) or 'none yet'}"
        )
    if names:
        choice = f"{group}=NAME ({', '.join(names)})"
        if value in names:
            choice = f"{group}={value}"
        elif group == "model/backbone":
            choice = find_backbone(str(value)) or choice
        return f"{wrong}; choose a file of it with {choice}"
    if path == "checkpoint" and isinstance(value, str) and not value.startswith("["):
        return f"{wrong}; to start from a file: model.weights={value}; to continue: run_name=NAME resume=true"
    keys = ", ".join(schema.read_section(path, {}).accepted)
    return f"{wrong}; set {path}.KEY=... ({keys})" if keys else f"{wrong}; set {path}.KEY=..."


def write_item(path: str) -> str:
    """Return how a component of a list is set, such as ``writers.NAME=true``."""
    return f"{path}.NAME.weight=1" if path == "loss.parts" else f"{path}.NAME=true"


def explain_missing(path: str) -> str:
    """Return the message for a missing key."""
    group = path.replace(".", "/")
    names = schema.choices(group)
    if names:
        return f"{path} is missing; choose it with {group}=NAME ({', '.join(names)})"
    return f"{path} is missing; give it with {path}=..."


def explain_choice(group: str, name: str) -> str | None:
    """Return the message for choosing a file that a group does not have, None if it has it."""
    names = schema.choices(group)
    if name in (*names, "null", ""):
        return None
    if group == "data" and is_path(name):
        return f"data={name}: data= chooses a kind of data set; did you mean data=folder data.root={name}?"
    if group == "model" and Path(name).suffix in (".pt", ".pth", ".onnx"):
        return (
            f"model={name}: model= chooses a network; did you mean checkpoint={name} or model.weights={name}?"
        )
    inner = [f"{group}/{folder.name}" for folder in sorted((CONF / group).glob("*/"))]
    meant = [f"{group}={near}" for near in find_similar(name, names)]
    meant += [f"{other}={name}" for other in inner if name in schema.choices(other)]
    backbone = find_backbone(name) if group == "model/backbone" else None
    if backbone:
        return f"{group}={name}: there is no such choice; did you mean {backbone}?"
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"{group}={name}: there is no such choice; {hint}there are: {', '.join(names)}"


def find_backbone(name: str) -> str | None:
    """Return the settings of a backbone by its common name, such as ``se_resnet50``."""
    for file in sorted((CONF / "model" / "backbone").glob("*.yaml")):
        default = re.search(r'^variant: "(\D*)\d', file.read_text(encoding="utf-8"), re.MULTILINE)
        family, depth = file.stem, name.replace("resnext", "resnet").removeprefix(file.stem)
        if default is None or depth == name:
            continue
        component = "resnest" if family == "resnest" else "resnet"
        variants = schema.read_component("models.backbones", component).accepted["variant"]
        if f"{default[1]}{depth}" in typing.get_args(variants):
            return f"model/backbone={family} model.backbone.variant={default[1]}{depth}"
    return None
