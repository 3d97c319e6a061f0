"""Suggest the setting that a word from another toolkit stands for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
ABBREVIATED = {"ce": "cross_entropy", "crossentropy": "cross_entropy", "onecycle": "one_cycle"}
MEANT = {word: setting for setting, words in SYNONYMS.items() for word in words.split()}
PROCESSES = "the launcher starts the processes: torchrun --nproc-per-node {number} train_seg.py ..."
CLASSES = "the class table of the data set has the classes (data=folder: classes.csv in data.root)"
GPU_COUNTS = ("gpus", "num_gpus", "n_gpu", "n_gpus", "ngpu", "ngpus", "nproc", "nproc_per_node", "world_size")
GPU_NAMES = ("gpu", "gpu_id", "gpu_ids", "cuda", "devices", "cuda_visible_devices")
RESUMING = ("resume_from", "auto_resume")
CLASS_COUNTS = (
    "num_classes",
    "num_class",
    "n_classes",
    "n_class",
    "nclass",
    "nclasses",
    "nc",
    "classes",
    "nb_classes",
)


def explain_elsewhere(key: str, value: Any) -> str | None:
    """Return how to do what no setting does, such as choosing GPUs; None for other keys."""
    word = re.split(r"[./]", key)[-1].lower().replace("-", "_")
    if word in CLASS_COUNTS:
        return CLASSES
    if word in RESUMING:
        return "continue a run with run_name=NAME resume=true"
    listed = re.findall(r"[^][,\s]+", write_value(value))
    if word in GPU_COUNTS:
        number = listed[0] if len(listed) == 1 else len(listed) or "N"
        return PROCESSES.format(number=number)
    if word in GPU_NAMES:
        if len(listed) > 1:
            return PROCESSES.format(number=len(listed))
        number = f":{listed[0]}" if listed and listed[0].isdigit() else ""
        return f"did you mean device=cuda{number}?"
    return None


def suggest(
    key: str, value: Any, *, sections: Mapping[str, Iterable[str]], groups: Mapping[str, Iterable[str]]
) -> list[str]:
    """Return settings to type in the place of an unknown one, the likeliest first.

    Args:
        key: that nothing accepts; of a dotted one the last word counts.
        value: that it was given.
        sections: by the dotted path of a section, its keys; "" is the top level.
        groups: by the name of a group, its files.
    """
    word = re.split(r"[./]", key)[-1].lower().replace("-", "_")
    written = write_value(value)
    places = [f"{path}.{word}".lstrip(".") for path, keys in sections.items() if word in keys]
    named = [group for group in groups if group.split("/")[-1] == word]
    if meant := MEANT.get(word):
        if meant in groups:
            named = [meant]
        elif any(meant == f"{path}.{name}".lstrip(".") for path, keys in sections.items() for name in keys):
            places = [meant]
    if named:
        return [choose_from(named[0], written, groups[named[0]])]
    if places == ["model.backbone.weights"] and written in ("true", "True"):
        written = "imagenet"
    if places == ["runtime.precision"] and written not in ("fp16", "bf16", "float32", "auto"):
        written = {"fp16": "fp16", "half": "fp16"}.get(word, "bf16")
    return [f"{place}={written}" for place in places]


def choose_from(group: str, value: str, names: Iterable[str]) -> str:
    """Return how to choose a file of a group: that of the value where there is one."""
    listed = list(names)
    near = find_similar(value, listed)
    return f"{group}={near[0]}" if near else f"{group}=NAME ({', '.join(listed)})"


def find_similar(word: str, names: Iterable[str]) -> list[str]:
    """Return the names that are spelled like a word or hold it, at most three."""
    listed = list(names)
    word = ABBREVIATED.get(word, word)
    if word in listed:
        return [word]
    plain = word.lower().replace("-", "_")
    whole = [name for name in listed if name in plain.split("_")]  # dice in dice_loss
    joined = plain.replace("_", "")
    holding = [
        name
        for name in listed
        if len(plain) > 1
        and {plain, joined} & {name, *name.split("_"), name[: len(plain)], name[-len(plain) :]}
    ]
    digits = re.findall(r"\d+", plain)  # resnet18 is not resnet101
    close = [
        name for name in difflib.get_close_matches(plain, listed, n=3) if digits == re.findall(r"\d+", name)
    ]
    return (holding or whole or close[:1])[:3]


def write_value(value: Any) -> str:
    """Write a value as it is typed."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(write_value, value))}]"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else f"{value}"


def is_path(value: str) -> bool:
    """Return whether a value in the place of a choice names a file or folder."""
    return "/" in value or value.startswith("~") or Path(value).exists()
