"""Train a segmentation network.

  python train_seg.py experiment=demo
  python train_seg.py model=deeplabv3_resnest101 data=ade20k data.root=DIR runtime=gpu
  python train_seg.py data=folder data.root=DIR model=deeplabv3_resnest50 schedule.epochs=40 resume=auto

Keys people set most:
  run_name=NAME  resume=true|auto  seed=0  device=auto|cpu|cuda|cuda:1|mps  summary=true  profile=true
  data.root=DIR  model.weights=FILE  model.backbone.weights=imagenet  model.backbone.output_stride=8|16|32
  schedule.epochs=N  schedule.batch_size=N  schedule.lr=0.01  schedule.accumulate=N  loader.workers=N
  evaluation.every=N  runtime.precision=bf16  runtime.compile=true  checkpoint.every=ITERATIONS
--cfg job shows the composed settings; --multirun runs every value of a list (schedule.lr=0.01,0.02).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import segkit.runtime.interrupt  # noqa: F401 - first: Ctrl-C while the rest is imported
from segkit.config.compose import Hooks, command
from segkit.config.dotted import value_of
from segkit.config.open_keys import find_unset
from segkit.monitor.banners import startup_line
from segkit.runtime import signals
from segkit.runtime.commands import cli_command

FAREWELL = """
{folder} is complete: {best}; images in {folder}/samples.png. To go on:
  {python} -m tensorboard.main --logdir {folder.parent}
  {test} checkpoint={folder}/{file} report=true
  {predict} checkpoint={folder}/{file} input=PHOTOS"""

CHOSEN: list[str] = []  # reasons of the values that were chosen from the images of this run


def of_run(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings of the run to resume; command-line overrides win."""
    from segkit.runtime import run_folder

    if (folder := run_folder.find_run_to_resume(settings)) is None:
        return None
    from segkit import checkpoint

    return checkpoint.read_settings(folder)


def of_weights(settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the model settings of the checkpoint to fine-tune; command-line overrides win."""
    if value_of(settings, "model.weights") is None:
        return None
    from segkit.training import initial_model

    return initial_model.settings_of_weights(settings)


def settings_from_images(settings: dict[str, Any]) -> dict[str, Any]:
    """Return values that are chosen from the images for unset keys; ``main`` prints the reasons."""
    CHOSEN.clear()
    if not find_unset(settings) or settings["summary"]:
        return {}
    from segkit.data.choosing import choose_settings

    chosen = choose_settings(settings)
    CHOSEN.extend(chosen.reasons)
    return chosen


def print_summary(settings: dict[str, Any]) -> None:
    """The network, layer by layer; it needs no data."""
    from segkit.data import label_map
    from segkit.models import published, segmenter, summary

    network = settings["model"]
    published.check_local_file("model.weights", network["weights"])
    if network["weights"] is None:  # otherwise those of the backbone are not read
        published.check_local_file("model.backbone.weights", network["backbone"].get("weights"))
    num_classes = label_map.load_class_table(settings["data"]).num_classes
    model = segmenter.build(
        num_classes, **segmenter.without_weights(settings["model"])
    )  # nothing to download
    print(summary.format_summary(model, settings["sizes"]["crop"]))


def run_diagnostic(run: Any, steps: Any, folder: Path, *, profile: bool) -> str:
    """What steps tell that are taken to be measured: where their time goes, or how high a rate may be."""
    from segkit import training
    from segkit.monitor.profiling import profile_steps

    if profile:
        return profile_steps(steps, lambda step: training.train_step(run, step[0]), folder)
    return training.range_test(run, steps, folder)


def farewell(settings: dict[str, Any], run: Any, folder: Path) -> str:
    """What a run that is complete leaves to do."""
    python = signals.python_command()
    named = f" plugins=[{','.join(settings['plugins'])}]" if settings["plugins"] else ""
    calls = {name: cli_command(name, python=python) + named for name in ("test", "predict")}
    if run.best is None:
        best, file = f"{run.metric} was undefined in every validation, so there is no best.pt", "last.pt"
    else:
        best, file = f"best {run.best_text}", "best.pt"
    return FAREWELL.format(folder=folder, best=best, file=file, python=python, **calls)


@command("train", Hooks(resumed=of_run, tuned=of_weights, choose=settings_from_images))
def main(settings: dict[str, Any]) -> None:
    """Build everything, then step, save and score until the schedule ends."""
    from segkit.config import registry
    from segkit.data.alignment import align_dataset
    from segkit.data.overlap import warn_about_overlap
    from segkit.runtime import run_folder

    if settings["summary"]:
        print_summary(settings)
        return
    folder = run_folder.folder_of(settings)
    with run_folder.lock_run_folder(
        folder, resume=settings["resume"]
    ):  # another's run is refused before anything is built
        if run_folder.is_main():
            print(startup_line(settings, folder), flush=True)
        train_set = registry.build("data.datasets", settings["data"], split="train")
        val_set = registry.build("data.datasets", settings["data"], split="val")
        val_set = align_dataset(val_set, train_set.table.names)
        warn_about_overlap(train_set, val_set)
        # what can be refused is refused before torch's seconds of import
        from segkit import checkpoint, inference, training
        from segkit.runtime import distributed

        with distributed.init_process_group(settings["device"]) as device:
            run = training.build_training(settings, train_set, device, val_set=val_set)
            protocol = inference.build_protocol(settings)
            checkpoints = checkpoint.Checkpoints.from_settings(settings, folder, train_set.table)
            if (state := checkpoints.resumed()) is not None:
                run.restore(state)
            steps = training.remaining_steps(run, settings, train_set)
            if CHOSEN and run_folder.is_main():  # after what may be refused
                print("chosen from the images:", *CHOSEN, sep="\n  ", flush=True)
            if settings["profile"] or settings["lr_finder"]:
                print(run_diagnostic(run, steps, folder, profile=settings["profile"]))
                return
            monitored = training.open_monitor(run, settings, (train_set, val_set), folder)
            with monitored as monitor, signals.defer_signals(run.request):
                workers = settings["loader"]["workers"]
                kept = {"monitor": monitor, "checkpoints": checkpoints, "workers": workers}
                checkpoint_and_validate = partial(
                    training.checkpoint_and_validate, run, val_set, protocol, **kept
                )
                if run.validation_pending:
                    checkpoint_and_validate()
                for parts, waited in steps:
                    step = training.train_step(run, parts)
                    training.record(monitor, run, step, parts, waited=waited)
                    run.validation_pending = run.due(settings["evaluation"]["every"])
                    checkpoint_and_validate()
                monitor.log_message(farewell(settings, run, folder))


if __name__ == "__main__":
    main()
