"""Export a trained network to a file that other runtimes run, and compare it with PyTorch before it is kept.

  python export_seg.py checkpoint=runs/demo/best.pt
  python export_seg.py checkpoint=runs/NAME/best.pt format=openvino interface=logits output=FILE.xml
  python export_seg.py checkpoint=runs/NAME/best.pt precision=int8 data.root=DIR
  python test_seg.py checkpoint=runs/NAME/best.onnx

Keys people set most:
  checkpoint=FILE  format=onnx|openvino|torch_export  output=FILE  precision=fp32|fp16|int8
  interface=ids (uint8 RGB in, class ids out) | logits (for scales, flips, windows and probabilities)
  image_size=[480,640]  input=PHOTOS  images=3  calibration=PHOTOS  calibration_images=32  data.root=DIR
--cfg job shows what the command line says, without the settings of the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segkit.runtime.interrupt  # noqa: F401 - first: Ctrl-C while the rest is imported
from segkit.config.compose import Hooks, command, settings_from_checkpoint
from segkit.runtime.commands import cli_command
from segkit.runtime.text import format_count


@command("export", Hooks(defaults=settings_from_checkpoint))
def main(settings: dict[str, Any]) -> None:
    """Rebuild the network, write it under a temporary name, compare, and only then give it its name."""
    import torch

    from segkit import export, inference
    from segkit.export import verification
    from segkit.export.about import build_metadata
    from segkit.inference import predictor
    from segkit.runtime import files

    kind, path = wanted(settings)
    files.make_output_folder(path.parent)
    trained = predictor.load_model({**settings, "device": "cpu"}, torch.device("cpu"))
    model, protocol = trained.model.eval(), inference.build_protocol(settings)
    images = verification.load_verification_images(
        settings["input"], settings.get("data"), split="val", count=settings["images"]
    )
    network = export.make_export_network(model, kind)
    print(f"exporting to {kind.format}, interface {kind.interface}, {kind.precision} ...", flush=True)
    about = build_metadata(trained, kind, settings, protocol)
    with export.export_atomically(
        network, path, kind, about=about, calibration=calibration(model, kind, settings)
    ) as file:
        deployed = export.load_exported(file, trained.table.num_classes, trust_code=True)
        print(
            f"comparing with PyTorch in float32 on {format_count(len(images.images), 'image')}:",
            images.origin,
            flush=True,
        )
        found = []
        for at_size in verification.compare_outputs(model, deployed, images.images):
            found.append(at_size)
            share = at_size.equal / at_size.pixels
            print(f"  {at_size.height}x{at_size.width}: {share:.4%} of the pixels are equal", flush=True)
        print(verification.check_agreement(found, kind, path))
        if kind.precision == "int8":
            judge_agreement(model, deployed, settings, path)
    mebibytes = sum(part.stat().st_size for part in export.list_exported_files(path)) / 2**20
    print(f"{path} is written ({mebibytes:.1f} MiB); to go on:")
    checkpoint = f"checkpoint={path}{' trust_code=true' if kind.format == 'torch_export' else ''}"
    print(f"  {cli_command('test')} {checkpoint}\n  {cli_command('predict')} {checkpoint} input=PHOTOS")


def wanted(settings: dict[str, Any]) -> tuple[Any, Path]:
    """The kind of file that the settings ask for, and where it goes."""
    from segkit import export

    size = settings["image_size"]
    size = (size, size) if isinstance(size, int) else size
    kind = export.ExportKind(settings["format"], settings["interface"], size, settings["precision"])
    source = settings["checkpoint"] or settings["model"]["weights"]
    if export.is_exported(source):
        raise ValueError(
            f"checkpoint={source} is an exported file already; give the checkpoint it was made of"
        )
    beside = Path(source.rsplit("/", 1)[-1] if "://" in source else source).expanduser()
    return kind, export.choose_export_path(settings["output"], beside, kind)


def calibration(model: Any, kind: Any, settings: dict[str, Any]) -> list[Any]:
    """Images to learn the ranges of activations from, as the file takes them; none but for int8."""
    if kind.precision != "int8":
        return []
    from segkit.export import verification

    given, data = settings["calibration"], settings.get("data")
    if given is None:
        from segkit.config import registry

        if not data:
            raise ValueError(
                "precision=int8 learns ranges from images and is judged by a data set: give data=..."
            )
        registry.build("data.datasets", data, split="train")  # here its errors are told, not passed over
    found = verification.load_verification_images(
        given, data, split="train", count=settings["calibration_images"]
    )
    print(f"calibrating with {format_count(len(found.images), 'image')}: {found.origin}", flush=True)
    return [verification.prepare_input(model, image, kind) for image in found.images]


def judge_agreement(model: Any, deployed: Any, settings: dict[str, Any], path: Any) -> None:
    """Score both on the validation split, and refuse a file that scores less."""
    from segkit import evaluation, inference
    from segkit.config import registry
    from segkit.export import verification

    val_set, protocol = (
        registry.build("data.datasets", settings["data"], split="val"),
        inference.build_protocol(settings),
    )
    before, after = (
        evaluation.evaluate(scored, val_set, protocol).scores["mIoU"] for scored in (model, deployed)
    )
    print(
        f"mIoU on {format_count(len(val_set), 'image')} ({protocol.name}):",
        f"float32 {before:.2%}, int8 {after:.2%}",
        flush=True,
    )
    verification.check_int8_drop(before, after, path)


if __name__ == "__main__":
    main()
