"""Predict masks with a trained network: ``python predict_seg.py --help`` lists what can be set.

From a checkpoint alone, or published weights, to masks and overlays of images, folders and videos.
"""

from __future__ import annotations

from typing import Any

from segkit.compose import Hooks, command, of_checkpoint


@command("predict", Hooks(defaults=of_checkpoint))
def main(settings: dict[str, Any]) -> None:
    """Find the images, rebuild the network, and write what it says about each."""
    from segkit import inference
    from segkit.evaluation import results, submissions
    from segkit.inference import predict_files, predictor, sources
    from segkit.inference.video import Video
    from segkit.system import distributed

    source, kinds = settings["input"], set(settings["save"])
    with distributed.processes(settings["device"]) as device:
        images = sources.find(source)
        video = None if images else Video(source)
        network = predictor.rebuild(settings, device)
        if settings["submission"]:
            submissions.format_of(network.table)  # refuses what no server takes, before the work
            kinds |= {"ids"}
        predictor = predictor.Predictor(network, inference.of_settings(settings))
        folder = results.folder(settings, f"predict-{sources.title(source)}")
        how = {"kinds": kinds, "resume": settings["resume"]}
        if video:
            frames, dropped = predict_files.of_video(predictor, video, folder, sources.title(source), **how)
            lost = f", {dropped} came while the network was at work and were dropped" if dropped else ""
            print(f"{frames} frames are predicted{lost}, see {folder}")
            return
        unreadable = predict_files.of_images(predictor, images, folder, **how)
        if distributed.is_main():
            print(f"{len(images) - len(unreadable)} of {len(images)} images are predicted, see {folder}")
        if unreadable:
            raise ValueError("\n".join([f"{len(unreadable)} could not be read:", *unreadable]))
        if settings["submission"] and distributed.is_main():
            print(f"verified: {submissions.pack(folder, [image.name for image in images], network.table)}")


if __name__ == "__main__":
    main()
