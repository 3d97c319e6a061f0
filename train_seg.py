"""Train a segmentation network: ``python train_seg.py --help`` lists what can be set.

The order of events of a whole training, from settings to ``runs/<run_name>/best.pt``.
"""

from __future__ import annotations

import contextlib
from typing import Any

from segkit.compose import command

FAREWELL = """
{folder} is complete: best mIoU {best:.2%}; pictures in {folder}/samples.png. To go on:
  {python} -m tensorboard.main --logdir {folder.parent}
  {python} test_seg.py checkpoint={folder}/best.pt report=true
  {python} predict_seg.py checkpoint={folder}/best.pt input=PHOTOS"""


def of_run(settings: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the run that goes on, if one does; what the command line says lies over them."""
    from segkit import runs

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
    """Build everything, then step, score and save until the schedule ends."""
    from segkit import components, runs

    if settings["summary"]:
        print_summary(settings)
        return
    folder = runs.folder_of(settings)
    runs.refuse(folder, resume=settings["resume"])  # what can be is refused before torch's seconds of import
    train_set = components.build("data.datasets", settings["data"], "train")
    val_set = components.build("data.datasets", settings["data"], "val")
    import torch

    from segkit import checkpoint, distributed, inference, signals, training
    from segkit.data import loaders, transforms
    from segkit.models import segmenter, summary
    from segkit.monitor import Monitor, profile_steps
    from segkit.validation import validate

    with distributed.processes(settings["device"]) as device, contextlib.ExitStack() as on_exit:
        found = on_exit.enter_context(checkpoint.open_run(folder, resume=settings["resume"]))
        torch.manual_seed(settings["seed"])
        table = train_set.table
        model = segmenter.build(table.num_classes, **settings["model"])
        schedule = training.Schedule(**settings["schedule"])
        run = training.begin(
            model,
            components.build("losses", settings["loss"], table.num_classes),
            samples=len(train_set),
            schedule=schedule,
            runtime=training.Runtime(**settings["runtime"]),
            device=device,
            seed=settings["seed"],
        )
        every = settings["evaluation"]["every"]
        protocol = inference.protocol(**{k: v for k, v in settings["evaluation"].items() if k != "every"})

        about = {"settings": settings, "classes": table.to_plain()}
        if found:
            checkpoint.compare(found, about)
            run.restore(found)
        checkpoints = checkpoint.Checkpoints(folder, checkpoint.Keeping(**settings["checkpoint"]), about)
        batches = loaders.training_loader(
            train_set,
            transforms.build(**settings["augment"]),
            loaders.Order(
                len(train_set),
                settings["seed"],
                schedule.batch_size,
                accumulate=schedule.accumulate,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                drop_last=schedule.drop_last,
            ),
            iterations=range(run.iteration, run.length),
            workers=settings["loader"]["workers"],
        )
        if settings["profile"]:
            stepper = training.steps(batches, schedule.accumulate)
            print(profile_steps(stepper, lambda step: training.train_step(run, step[0]), folder))
            return
        monitor = Monitor(
            folder,
            start=run.iteration,
            total=run.length,
            iterations_per_epoch=schedule.seen(len(train_set)) / schedule.batch_size,
            names=table.names,
            colours=table.colours,
        )
        on_exit.enter_context(monitor)
        on_exit.enter_context(signals.listening(run.request))
        monitor.describe(settings, network=summary.summarise(model, settings["sizes"]["crop"]))
        if run.owes_scores:
            validate(run, val_set, protocol, monitor=monitor, checkpoints=checkpoints)
        for parts, waited in training.steps(batches, schedule.accumulate):
            if run.iteration == 0:
                monitor.batch(0, parts[0])
            step = training.train_step(run, parts)
            monitor.step(
                run.iteration,
                step.losses,
                run.learning_rates(),
                images=schedule.batch_size,
                data_seconds=waited,
                gradient_norm=step.gradient_norm,
                ema_distance=run.ema_distance,
            )
            if schedule.due(run.iteration, every=every, samples=len(train_set)):
                validate(run, val_set, protocol, monitor=monitor, checkpoints=checkpoints)
            leaving = run.asked_to_leave()
            if leaving or checkpoints.due(run.iteration) or run.iteration == run.length:
                monitor.flush()  # so that a run resumed from here has no gap in its curves
                checkpoints.save(run.state())
            if leaving:
                distributed.barrier()
                signals.leave(leaving)
        monitor.say(FAREWELL.format(folder=folder, best=run.best, python=signals.interpreter()))


if __name__ == "__main__":
    main()
