"""Suggestions for wrong settings: words of other toolkits, misspellings, and values in place of sections."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable
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
MEANINGS = {word: meaning for meaning, words in (SYNONYMS | ELSEWHERE).items() for word in words.split()}
ABBREVIATED = {"ce": "cross_entropy", "crossentropy": "cross_entropy", "onecycle": "one_cycle"}
SWITCHES = {  # what true and false mean for other toolkits' switches, as in pretrained=true, amp=false
    "model.backbone.weights": {True: "imagenet", False: "null"},
    "runtime.precision": {True: "bf16", False: "float32"},
}


def write_value(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(write_value, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value}"


def read_keys(path: str) -> dict[str, list[Any]]:
    """Return the keys of a section ("" is the top level) in any command or component, with their types."""
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
    word = ABBREVIATED.get(word, word).lower().replace("-", "_")
    names = list(names)
    if word in names:
        return [word]
    containing = [name for name in names if word in name or word.replace("_", "") in name]
    contained = [name for name in names if name in word.split("_")]  # dice in dice_loss
    return (containing or contained or difflib.get_close_matches(word, names, n=1))[:3]


def suggest_settings(key: str, value: Any, top: Iterable[str] = ()) -> list[str]:
    """Return what to type instead of an unknown key, or a sentence of ``ELSEWHERE``; empty if nothing fits.

    Args:
        key: as typed; its last word counts.
        value: its value.
        top: the top-level keys to choose from; none: those of all commands.
    """
    top = list(top or read_keys(""))
    word = re.split(r"[./]", key)[-1].lower().replace("-", "_")
    sections = [path for path in dict.fromkeys([*top, *SECTIONS]) if path.split(".")[0] in top]
    keys = [*top, *(f"{path}.{name}" for path in sections for name in read_keys(path))]
    groups = list_groups(top)
    meaning = MEANINGS.get(word)
    if meaning in ELSEWHERE:
        return [meaning]
    if meaning in keys or meaning in groups:
        places = [meaning]
    else:
        named = [group for group in groups if group.split("/")[-1] == word]
        places = named[:1] or [name for name in keys if name.split(".")[-1] == word]
    return [_write_setting(place, value, groups.get(place)) for place in places]


def _write_setting(place: str, value: Any, files: list[str] | None) -> str:
    """Return a setting with a value, or the choice of a file of a group that the value may mean."""
    written = write_value(value)
    if files is None:
        if isinstance(value, bool) and place in SWITCHES:
            written = SWITCHES[place][value]
        return f"{place}={written}"
    if place == "model/backbone" and (backbone := find_backbone(written)):
        return backbone
    names = find_similar(written, files)
    return f"{place}={names[0]}" if names else f"{place}=NAME ({', '.join(files)})"


def format_question(suggestions: list[str]) -> str:
    """Return suggestions as a question; a sentence of ``ELSEWHERE`` is returned as it is."""
    if not suggestions or suggestions[0] in ELSEWHERE:
        return "".join(suggestions)
    return f"did you mean {' or '.join(suggestions)}?"


def explain_unknown(prefix: str, leaf: str, value: Any, accepted: Iterable[str]) -> str:
    """Return what an unknown setting may mean, or which keys its section accepts.

    Args:
        prefix: the section that lacks the key, with a dot; "" is the top level.
        leaf: the key, dotted where it is nested.
        value: its value.
        accepted: the keys of the section.
    """
    key, dot, rest = leaf.partition(".")
    names = difflib.get_close_matches(key, accepted, n=1)
    near = [f"{prefix}{name}{dot}{rest}={write_value(value)}" for name in names]
    if prefix:
        suggested = suggest_settings(leaf, value)
        meant = near or [one for one in suggested if not one.startswith(f"{prefix}{key}=")]
    else:
        meant = suggest_settings(leaf, value, accepted) or near
    if meant:
        return format_question(meant)
    for command, keys in COMMANDS.items():
        if not prefix and (meant := suggest_settings(leaf, value, keys)):
            return f"{command}_seg.py takes {meant[0]}"
    section = prefix.rstrip(".") or "the top level"
    return f"{section} accepts: {', '.join(sorted(accepted)) or 'nothing yet'}"


def explain_section(path: str, value: Any) -> str:
    """Return the message for a value in place of a section."""
    wrong = f"{path}={write_value(value)}: this is a section"
    if path == "checkpoint" and isinstance(value, str) and not value.startswith("["):
        return f"{wrong}; to start from a file: model.weights={value}; to continue: run_name=NAME resume=true"
    return f"{wrong}; {_explain_setting(path, value)}"


def explain_missing(path: str) -> str:
    """Return the message for a missing key."""
    return f"{path} is missing; {_explain_setting(path, '?')}"


def _explain_setting(path: str, value: Any) -> str:
    """Return how to set a section or key."""
    group = path.replace(".", "/")
    if path in LISTS:
        names = ", ".join(registry.available(LISTS[path]))
        return f"set each by its name, {write_item(path)}; there are: {names or 'none yet'}"
    files = schema.choices(group)
    if files:
        return f"choose it with {_write_setting(group, value, files)}"
    keys = ", ".join(schema.read_section(path, {}).accepted)
    if keys:
        return f"set {path}.KEY=... ({keys})"
    return f"give it with {path}={'true' if path.rpartition('.')[0] in LISTS else '...'}"


def write_item(path: str) -> str:
    """Return how a component of a list is set, such as ``writers.NAME=true``."""
    return f"{path}.NAME.weight=1" if path == "loss.parts" else f"{path}.NAME=true"


def explain_choice(group: str, name: str) -> str:
    """Return the message for choosing a file that a group does not have."""
    if group == "data" and ("/" in name or Path(name).exists()):
        meant = [f"data=folder data.root={name}"]
    elif group == "model" and Path(name).suffix in (".pt", ".pth", ".onnx"):
        meant = [f"checkpoint={name}", f"model.weights={name}"]
    elif group == "model/backbone" and (backbone := find_backbone(name)):
        meant = [backbone]
    else:
        meant = [f"{group}={near}" for near in find_similar(name, schema.choices(group))]
        meant += [f"{other}={name}" for other, files in list_groups(read_keys("")).items() if name in files]
    question = f"{format_question(meant)} " if meant else ""
    known = ", ".join(schema.choices(group))
    return f"{group}={name}: there is no such choice; {question}there are: {known}"


def find_backbone(name: str) -> str | None:
    """Return the settings of a backbone by its common name, such as ``se_resnet50``."""
    for file in sorted((CONF / "model" / "backbone").glob("*.yaml")):
        default = re.search(r'^variant: "(\D*)\d', file.read_text(encoding="utf-8"), re.MULTILINE)
        depth = name.replace("resnext", "resnet").removeprefix(file.stem)
        if default is None or depth == name:
            continue
        component = "resnest" if file.stem == "resnest" else "resnet"
        variants = schema.read_component("models.backbones", component).accepted["variant"]
        if f"{default[1]}{depth}" in typing.get_args(variants):
            return f"model/backbone={file.stem} model.backbone.variant={default[1]}{depth}"
    return None
