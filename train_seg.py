"""Train a segmentation network: ``python train_seg.py --help`` lists what can be set.

The order of events of a whole training, from settings to ``runs/<run_name>/best.pt``.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Any

from segkit.compose import command
from segkit.monitor.banners import Facts, banner, opening

FAREWELL = """
{folder} is complete: best mIoU {best:.2%}; pictures in {folder}/samples.png. To go on:
  {python} -m tensorboard.main --logdir {folder.parent}
  {python} test_seg.py checkpoint={folder}/best.pt report=true
  {python} predict_seg.py checkpoint={folder}/best.pt input=PHOTOS"""


def of_run(settings: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the run that goes on, if one does; what the command line says lies over them."""
    from segkit.system import runs

    if (folder := runs.going_on(settings)) is None:
        return None
    from segkit import checkpoint

    return checkpoint.settings_of(folder)


def print_summary(settings: dict[str, Any]) -> None:
    """The network, layer by layer; it needs no data."""
    from segkit.data import labels
    from segkit.models import segmenter, summary

    settings["model"]["weights"] = settings["model"]["backbone"]["weights"] = None  # nothing to download
    model = segmenter.build(labels.of_settings(settings["data"]).num_classes, **settings["model"])
    print(summary.summarise(model, settings["sizes"]["crop"]))


@command("train", resumed=of_run)
def main(settings: dict[str, Any]) -> None:
    """Build everything, then step, save and score until the schedule ends."""
    from segkit import components
    from segkit.system import runs

    if settings["summary"]:
        print_summary(settings)
        return
    folder = runs.folder_of(settings)
    runs.refuse(folder, resume=settings["resume"])  # what can be is refused before torch's seconds of import
    if os.environ.get("RANK", "0") == "0":
        print(opening(settings, folder), flush=True)
    train_set = components.build("data.datasets", settings["data"], "train")
    val_set = components.build("data.datasets", settings["data"], "val")
    import torch

    from segkit import checkpoint, inference, training
    from segkit.models import summary
    from segkit.monitor.profiling import profile_steps
    from segkit.system import distributed, signals
    from segkit.training.validation import save_validate_leave, validate

    with distributed.processes(settings["device"]) as device, contextlib.ExitStack() as on_exit:
        found = on_exit.enter_context(checkpoint.open_run(folder, resume=settings["resume"]))
        torch.manual_seed(settings["seed"])
        run = begun(settings, train_set, device)
        protocol = inference.of_settings(settings)
        about = {"settings": settings, "classes": train_set.table.to_plain()}
        if found:
            checkpoint.compare(found, about)
            run.restore(found)
        checkpoints = checkpoint.Checkpoints(folder, checkpoint.Keeping(**settings["checkpoint"]), about)
        batches = training_batches(settings, train_set, run)
        if settings["profile"]:
            stepper = training.steps(batches, run.schedule.accumulate)
            print(profile_steps(stepper, lambda step: training.train_step(run, step[0]), folder))
            return
        monitor = on_exit.enter_context(opened_monitor(train_set, run, folder))
        on_exit.enter_context(signals.listening(run.request))
        monitor.say(banner(settings, facts_of(run, train_set, val_set)))
        monitor.describe(settings, network=summary.summarise(run.model, settings["sizes"]["crop"]))
        keeping = {"monitor": monitor, "checkpoints": checkpoints}
        workers = settings["loader"]["workers"]
        validation = functools.partial(validate, run, val_set, protocol, workers=workers, **keeping)
        follow_up = functools.partial(save_validate_leave, run, validation, **keeping)
        if run.owes_scores:
            follow_up()
        for parts, waited in training.steps(batches, run.schedule.accumulate):
            if run.iteration == 0:
                monitor.batch(0, parts[0])
            step = training.train_step(run, parts)
            monitor.step(
                run.iteration,
                step.losses,
                run.learning_rates(),
                images=run.schedule.batch_size,
                data_seconds=waited,
                gradient_norm=step.gradient_norm,
                ema_distance=run.ema_distance,
            )
            run.owes_scores = run.schedule.due(
                run.iteration, every=settings["evaluation"]["every"], samples=len(train_set)
            )
            follow_up()
        monitor.say(FAREWELL.format(folder=folder, best=run.best, python=signals.interpreter()))


def begun(settings: dict[str, Any], train_set: Any, device: Any) -> Any:
    """The run at its beginning: network, loss and what trains them."""
    from segkit import components, training
    from segkit.models import segmenter

    num_classes = train_set.table.num_classes
    return training.begin(
        segmenter.build(num_classes, **settings["model"]),
        components.build("losses", settings["loss"], num_classes),
        samples=len(train_set),
        schedule=training.Schedule(**settings["schedule"]),
        runtime=training.Runtime(**settings["runtime"]),
        device=device,
        seed=settings["seed"],
    )


def training_batches(settings: dict[str, Any], train_set: Any, run: Any) -> Any:
    """The batches of the iterations that are still to do, for this process."""
    from segkit.data import loaders, transforms
    from segkit.system import distributed

    return loaders.training_loader(
        train_set,
        transforms.build(**settings["augment"]),
        loaders.Order(
            len(train_set),
            settings["seed"],
            run.schedule.batch_size,
            accumulate=run.schedule.accumulate,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            drop_last=run.schedule.drop_last,
        ),
        iterations=range(run.iteration, run.length),
        workers=settings["loader"]["workers"],
    )


def opened_monitor(train_set: Any, run: Any, folder: Path) -> Any:
    """The run's monitor, going on where the run does."""
    from segkit.monitor.monitor import Monitor

    return Monitor(
        folder,
        start=run.iteration,
        validation_pending=run.owes_scores,
        total=run.length,
        iterations_per_epoch=run.schedule.seen(len(train_set)) / run.schedule.batch_size,
        names=train_set.table.names,
        colours=train_set.table.colours,
    )


def facts_of(run: Any, train_set: Any, val_set: Any) -> Facts:
    """What the banner tells besides the settings."""
    from segkit.models import summary

    return Facts(
        summary.parameters(run.model),
        train_images=len(train_set),
        val_images=len(val_set),
        iterations=run.length,
        done=run.iteration,
        device=str(run.device),
        precision=run.runtime.precision,
    )


if __name__ == "__main__":
    main()
