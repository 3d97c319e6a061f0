"""Score a trained network: ``python test_seg.py --help`` lists what can be set.

From a checkpoint, or published weights, to scores that name their protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segkit.compose import command

if TYPE_CHECKING:
    import numpy as np

    from segkit.types import Sample


def of_checkpoint(given: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's own data, network and sizes; what the command line says lies over them."""
    from segkit import trained

    return trained.beneath(given)


@command("test", beneath=of_checkpoint)
def main(settings: dict[str, Any]) -> None:
    """Rebuild the network, score every picture, and write what was found."""
    from segkit import components, distributed, inference, report, results, trained

    with distributed.processes(settings["device"]) as device:
        val_set = components.build("data.datasets", settings["data"], "val")
        model, table = trained.rebuild(settings, device)
        protocol = inference.protocol(**settings["evaluation"])
        folder = results.folder(settings, f"test-{protocol.name}")
        keep, gallery = results.keeper(folder, table, settings["save"]), report.Gallery()

        def see(sample: Sample, ids: np.ndarray) -> None:
            keep(sample, ids)
            if settings["report"]:
                gallery.add(sample, ids)

        found = inference.evaluate(
            model,
            val_set,
            protocol,
            workers=settings["loader"]["workers"],
            on_image=see,
            partial=folder / "partial",
            resume=settings["resume"],
        )
        if distributed.is_main():
            about = {
                "pictures": len(val_set),
                "weights": settings["checkpoint"] or settings["model"]["weights"],
                "weights_sha256": inference.weights_hash(model),
                "settings": settings,
            }
            results.write(folder, found, table, about)
            print(results.summary(found, table))
            if settings["report"]:
                report.write_report(
                    folder,
                    scores=found.scores,
                    protocol=protocol,
                    names=table.names,
                    colours=table.colours,
                    counts=found.counts.numpy(),
                    samples=gallery.samples(),
                    settings=settings,
                )
            print(f"results are in {folder}")


if __name__ == "__main__":
    main()
