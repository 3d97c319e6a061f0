"""Predict masks for images, folders and videos.

  python predict_seg.py checkpoint=runs/demo/best.pt input=PHOTOS
  python predict_seg.py checkpoint=runs/NAME/best.pt input=ride.mp4 evaluation=sliding save=[overlays,ids]
  python predict_seg.py model=deeplabv3_resnest101 data=ade20k model.weights=FILE input='photos/*.jpg'

Keys people set most:
  checkpoint=FILE  input=IMAGE|FOLDER|PATTERN|LIST.txt|VIDEO|0  output=DIR  device=auto|cpu|cuda|cuda:1|mps
  save=[ids,colors,overlays,probabilities]  resume=true  submission=true
  evaluation=whole|sliding|encoding|mmseg|mmseg_ms|mmseg_slide  evaluation.scales=[0.75,1,1.25]
  evaluation.flip=true  evaluation.window=480  evaluation.precision=bf16
--cfg job prints the settings of the command line, without those stored in the checkpoint.
"""

from __future__ import annotations

import sys
from typing import Any

import segkit.runtime.interrupt  # noqa: F401 - first: Ctrl-C while the rest is imported
from segkit.config.cli import command, read_checkpoint_settings


@command("predict", stored=read_checkpoint_settings)
def main(settings: dict[str, Any]) -> None:
    """Find the images, load the network, and write its predictions."""
    from segkit import inference
    from segkit.evaluation import results, submissions
    from segkit.evaluation.scoring import hash_weights
    from segkit.inference import predict_files, prediction_index, predictor, sources
    from segkit.inference.video import Video
    from segkit.runtime import distributed

    kinds = set(settings["save"]) | ({"ids"} if settings["submission"] else set())
    if not kinds:
        raise ValueError(
            "save=[]: no output is selected. Give one or more of ids, colors, overlays, probabilities"
        )
    with distributed.init_process_group(settings["device"]) as device:
        source = distributed.decide_on_main(lambda: sources.find_images(settings["input"]))
        video = Video(source.video) if source.video is not None else None
        network = predictor.load_model(settings, device)
        if settings["submission"]:
            submissions.find_archive_format(network.table)  # fail before the work if there is no server
        predictor = predictor.Predictor(network, inference.build_protocol(settings))
        folder = distributed.decide_on_main(
            lambda: prediction_index.claim_outputs(
                results.choose_output_folder(settings, f"predict-{source.title}"),
                source.images,
                source=source.place,
                network={"weights_sha256": hash_weights(network.model), **predictor.protocol.as_dict()},
                is_default=settings["output"] is None,
            )
        )
        names = [image.name for image in source.images]
        options = {"kinds": kinds, "resume": settings["resume"]}
        if video is None:
            outcome = predict_files.predict_images(predictor, source.images, folder, **options)
        else:
            outcome = predict_files.predict_video(predictor, video, folder, names[0], **options)
        if distributed.is_main():
            unit = "images" if video is None else "frames"
            print(f"{unit}: {outcome}. Results: {folder}")
        if outcome.failures:
            if distributed.is_main():
                print("\n".join(["Not predicted:", *outcome.failures]), file=sys.stderr)
            raise SystemExit(1)
        if settings["submission"] and distributed.is_main():
            print(f"Verified archive: {submissions.pack_archive(folder, names, network.table)}")


if __name__ == "__main__":
    main()
