"""Score a trained network: ``python test_seg.py --help`` lists what can be set.

From a checkpoint, or published weights, to scores that name their protocol.
"""

from __future__ import annotations

from typing import Any

from segkit.compose import command


def of_checkpoint(given: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's own data, network and sizes; what the command line says lies over them."""
    from segkit import trained

    return trained.beneath(given)


@command("test", beneath=of_checkpoint)
def main(settings: dict[str, Any]) -> None:
    """Rebuild the network, score every picture, and write what was found."""
    from segkit import components, distributed, inference, results, trained

    with distributed.processes(settings["device"]) as device:
        val_set = components.build("data.datasets", settings["data"], "val")
        model, table = trained.rebuild(settings, device)
        protocol = inference.protocol(**settings["evaluation"])
        folder = results.folder(settings, f"test-{protocol.name}")
        found = inference.evaluate(
            model,
            val_set,
            protocol,
            workers=settings["loader"]["workers"],
            on_image=results.keeper(folder, table, settings["save"]),
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
            print(f"results are in {folder}")


if __name__ == "__main__":
    main()
