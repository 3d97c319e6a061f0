"""Train a segmentation network.

  python train_seg.py experiment=demo
  python train_seg.py model=deeplabv3_resnest101 data=ade20k data.root=DIR runtime=gpu
  python train_seg.py data=folder data.root=DIR model=deeplabv3_resnest50 schedule.epochs=40 resume=auto

Keys people set most:
  run_name=NAME  resume=true|auto  seed=0  device=auto|cpu|cuda|cuda:1|mps  summary=true  profile=true
  data.root=DIR  model.weights=FILE  model.backbone.weights=imagenet  model.backbone.output_stride=8|16|32
  schedule.epochs=N  schedule.batch_size=N  schedule.lr=0.01  schedule.accumulate=N  loader.workers=N
  loader.sampling=uniform|repeat_factor  augment.class_uniform_crop=0.5  (rare classes)
  evaluation.every=N  runtime.precision=bf16  runtime.compile=true  checkpoint.every=ITERATIONS
--cfg job prints the composed settings; --multirun runs every value of a list (schedule.lr=0.01,0.02).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segkit.runtime.interrupt  # noqa: F401 - first, for Ctrl-C during the other imports
from segkit.config.auto import find_auto
from segkit.config.cli import command
from segkit.config.dotted import value_of
from segkit.monitor.banners import format_startup_line
from segkit.runtime import signals
from segkit.runtime.commands import cli_command

COMPLETION = """
{folder} is complete: {best}; sample predictions in {folder}/samples.png. Next steps:
  {python} -m tensorboard.main --logdir {folder.parent}
  {test} checkpoint={folder}/{file} report=true
  {predict} checkpoint={folder}/{file} input=PHOTOS"""

CHOSEN_REASONS: list[str] = []  # of the values that were chosen from the images of this run


def read_stored_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the run to resume, or the network of the checkpoint to fine-tune, or neither."""
    from segkit.runtime import run_folder

    if (folder := run_folder.find_run_to_resume(settings)) is not None:
        from segkit import checkpoint

        if (stored := checkpoint.read_settings(folder)) is not None:
            return stored
    if value_of(settings, "model.weights") is not None:
        from segkit.training import initial_model

        if (model := initial_model.read_model_settings(settings)) is not None:
            return {"model": model}
    return {}


def settings_from_images(settings: dict[str, Any]) -> dict[str, Any]:
    """Return values that are chosen from the images for ``auto`` settings; ``train`` prints the reasons."""
    CHOSEN_REASONS.clear()
    if not find_auto(settings) or settings["summary"]:
        return {}
    from segkit.data.choosing import choose_settings

    chosen = choose_settings(settings)
    CHOSEN_REASONS.extend(chosen.reasons)
    return chosen


def print_summary(settings: dict[str, Any]) -> None:
    """Print the layers of the network; needs no images and downloads nothing."""
    from segkit.data import label_map
    from segkit.models import published, segmenter, summary

    model = settings["model"]
    published.check_local_file("model.weights", model["weights"])
    if model["weights"] is None:  # otherwise the weights of the backbone are not read
        published.check_local_file("model.backbone.weights", model["backbone"].get("weights"))
    num_classes = label_map.load_class_table(settings["data"]).num_classes
    network = segmenter.build(num_classes, **segmenter.remove_weights(model))
    print(summary.format_summary(network, settings["sizes"]["crop"]))


def run_diagnostic(run: Any, steps: Any, folder: Path, *, profile: bool) -> str:
    """Run the profiler or the learning-rate range test instead of training, and return its report."""
    from segkit import training
    from segkit.monitor.profiling import profile_steps
    from segkit.training import range_test

    if profile:
        return profile_steps(steps, lambda step: training.train_step(run, step[0]), folder)
    return range_test.report_range_test(range_test.run_range_test(run, steps), folder)


def completion_message(settings: dict[str, Any], run: Any, folder: Path) -> str:
    """Return the message printed when training ends: the best score and the next commands."""
    python = signals.python_command()
    plugins = f" plugins=[{','.join(settings['plugins'])}]" if settings["plugins"] else ""
    calls = {name: cli_command(name, python=python) + plugins for name in ("test", "predict")}
    if run.best is None:
        best, file = f"{run.metric} was undefined in every validation, so there is no best.pt", "last.pt"
    else:
        best, file = f"best {run.best_text}", "best.pt"
    return COMPLETION.format(folder=folder, best=best, file=file, python=python, **calls)


def train(settings: dict[str, Any], folder: Path) -> None:
    """Build everything, then step, save and validate until the schedule ends."""
    from segkit.config import registry
    from segkit.data.alignment import align_dataset
    from segkit.data.overlap import warn_about_overlap
    from segkit.runtime import run_folder

    train_set = registry.build("data.datasets", settings["data"], split="train")
    val_set = registry.build("data.datasets", settings["data"], split="val")
    val_set = align_dataset(val_set, train_set.table.names)
    warn_about_overlap(train_set, val_set)

    # torch takes seconds to import, so wrong data are reported before
    from segkit import checkpoint, inference, training
    from segkit.models import segmenter
    from segkit.runtime import distributed

    with distributed.init_process_group(settings["device"]) as device:
        run = training.build_training(settings, train_set, device, val_set=val_set)
        network = segmenter.fill_normalization(settings["model"], run.model.backbone)
        settings = {**settings, "model": network}
        protocol = inference.build_protocol(settings)
        about = checkpoint.describe_training(settings, train_set.table)
        config = checkpoint.CheckpointConfig(**settings["checkpoint"])
        checkpoints = checkpoint.Checkpoints(folder, config, about)
        state = checkpoints.load_newest()
        if state is not None:
            run.restore(state)
        steps = training.remaining_steps(run, settings, train_set)
        if CHOSEN_REASONS and run_folder.is_main():  # after everything that may be refused
            print("chosen from the images:", *CHOSEN_REASONS, sep="\n  ", flush=True)
        if settings["profile"] or settings["lr_finder"]:
            print(run_diagnostic(run, steps, folder, profile=settings["profile"]))
            return
        monitor_context = training.open_monitor(run, settings, (train_set, val_set), folder)
        with monitor_context as monitor, signals.defer_signals(run.stop_request):
            workers, every = settings["loader"]["workers"], settings["evaluation"]["every"]
            validation = {"workers": workers, "monitor": monitor, "checkpoints": checkpoints}
            if run.validation_pending:
                training.checkpoint_and_validate(run, val_set, protocol, **validation)
            for batches, waited in steps:
                step = training.train_step(run, batches)
                training.log_step(monitor, run, step, batches, waited=waited)
                run.validation_pending = run.schedule.is_due(run.iteration, every=every, samples=run.samples)
                training.checkpoint_and_validate(run, val_set, protocol, **validation)
            monitor.log_message(completion_message(settings, run, folder))


@command("train", stored=read_stored_settings, choose=settings_from_images)
def main(settings: dict[str, Any]) -> None:
    """Train a network, or print its summary."""
    from segkit.runtime import run_folder

    if settings["summary"]:
        print_summary(settings)
        return
    folder = run_folder.get_run_folder(settings)
    with run_folder.lock_run_folder(folder, resume=settings["resume"]):  # first: another run may use it
        if run_folder.is_main():
            print(format_startup_line(settings, folder), flush=True)
        train(settings, folder)


if __name__ == "__main__":
    main()
