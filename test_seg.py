"""Score a trained network.

  python test_seg.py checkpoint=runs/demo/best.pt
  python test_seg.py checkpoint=runs/NAME/best.pt data.root=DIR evaluation=encoding report=true
  python test_seg.py model=deeplabv3_resnest101 data=ade20k data.root=DIR model.weights=FILE
  python test_seg.py predictions=DIR data=cityscapes data.root=DIR     masks that any tool predicted

Keys people set most:
  checkpoint=FILE  output=DIR  data.root=DIR  data.val_split=NAME  device=auto|cpu|cuda:1|mps  resume=true
  evaluation=whole|sliding|encoding|mmseg|mmseg_ms|mmseg_slide  evaluation.scales=[1]  evaluation.flip=true
  evaluation.window=480  evaluation.stride=320  evaluation.precision=bf16  evaluation.absent=exclude
  predictions_format=auto|ids|raw|colors
  save=[ids,colors,overlays]  submission=true  report=true
--cfg job prints the settings of the command line, without those stored in the checkpoint.
"""

from __future__ import annotations

from typing import Any

import segkit.runtime.interrupt  # noqa: F401 - first: Ctrl-C while the rest is imported
from segkit.config.cli import command, read_checkpoint_settings


@command("test", stored=read_checkpoint_settings)
def main(settings: dict[str, Any]) -> None:
    """Load the network, score every image, and write the results."""
    if settings["predictions"] is not None:
        from segkit.evaluation import mask_results

        print(mask_results.score_and_write(settings))
        return
    from segkit import evaluation, inference
    from segkit.config import registry
    from segkit.data.alignment import align_dataset, as_label_map
    from segkit.data.overlap import warn_if_trained_on
    from segkit.evaluation import report, results, submissions
    from segkit.evaluation.gallery import gather_extremes
    from segkit.inference import predictor
    from segkit.runtime import distributed

    with distributed.init_process_group(settings["device"]) as device:
        val_set = registry.build("data.datasets", settings["data"], split="val")
        model, table, trained_on, _ = predictor.load_model(settings, device)
        val_set = align_dataset(val_set, table.names)
        warn_if_trained_on(trained_on, val_set)
        if settings["submission"]:  # archives have the ids of the model's data set
            submissions.find_archive_format(table)  # fail before the work if there is no server
        else:
            table = as_label_map(val_set.table)
        protocol = inference.build_protocol(settings).resolve_precision(device)
        weights_sha256 = evaluation.hash_weights(model)
        folder = distributed.decide_on_main(
            lambda: results.make_output_folder(settings, trained_on, protocol, weights_sha256)
        )
        kinds = set(settings["save"]) | ({"ids"} if settings["submission"] else set())
        result = evaluation.evaluate(
            model,
            val_set,
            protocol,
            workers=settings["loader"]["workers"],
            on_image=results.make_image_callback(folder, table, kinds=kinds),
            partial=folder / "partial",
            resume=settings["resume"],
        )
        if distributed.is_main():
            metadata = {
                "weights": settings["checkpoint"] or settings["model"]["weights"],
                "weights_sha256": weights_sha256,
                "settings": settings,
            }
            results.write_results(folder, result, table, metadata)
            if settings["submission"]:
                submissions.pack_archive(folder, val_set.names, table)
            if settings["report"]:
                fast = inference.prepare(model, precision=protocol.precision)
                samples = gather_extremes(
                    result,
                    val_set,
                    lambda sample: inference.predict(fast, sample.image, protocol).cpu().numpy(),
                )
                report.write_report(folder, result, table, samples=samples, settings=settings)
            print(results.format_summary(result, table, data=results.describe_data(settings)))
            print(f"Results: {folder}")


if __name__ == "__main__":
    main()
