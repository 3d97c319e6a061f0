"""Export a trained network to a file for other runtimes; it is kept only if it agrees with PyTorch.

  python export_seg.py checkpoint=runs/demo/best.pt
  python export_seg.py checkpoint=runs/NAME/best.pt format=openvino interface=logits output=FILE.xml
  python export_seg.py checkpoint=runs/NAME/best.pt precision=int8 data.root=DIR
  python test_seg.py checkpoint=runs/NAME/best.onnx

Keys people set most:
  checkpoint=FILE  format=onnx|openvino|torch_export  output=FILE  precision=fp32|fp16|int8
  interface=ids (uint8 RGB in, class ids out) | logits (for scales, flips, windows and probabilities)
  image_size=[480,640]  input=PHOTOS  images=3  calibration=PHOTOS  calibration_images=32  data.root=DIR
--cfg job prints the settings of the command line, without those stored in the checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segkit.runtime.interrupt  # noqa: F401 - first: Ctrl-C while the rest is imported
from segkit.config.cli import command, read_checkpoint_settings
from segkit.runtime.commands import cli_command
from segkit.runtime.text import format_count


@command("export", stored=read_checkpoint_settings)
def main(settings: dict[str, Any]) -> None:
    """Load the network, write it to a temporary file, compare with PyTorch, then rename the file."""
    import torch

    from segkit import export, inference
    from segkit.export import verification
    from segkit.inference import predictor
    from segkit.runtime import files

    kind, path = choose_kind_and_path(settings)
    files.make_output_folder(path.parent)
    trained = predictor.load_model({**settings, "device": "cpu"}, torch.device("cpu"))
    model, protocol = trained.model.eval(), inference.build_protocol(settings)
    images, origin = verification.load_verification_images(
        settings["input"], settings.get("data"), split="val", count=settings["images"]
    )
    metadata = export.build_metadata(trained, kind, settings, protocol)
    calibration = load_calibration_images(model, kind, settings)
    print(f"Exporting to {kind.format}, interface {kind.interface}, {kind.precision} ...", flush=True)
    with export.export_atomically(model, path, kind, metadata=metadata, calibration=calibration) as file:
        exported = export.load_exported(file, trust_code=True)
        count = format_count(len(images), "image")
        print(f"Comparing with PyTorch in float32 on {count}: {origin}", flush=True)
        comparisons = []
        for comparison in verification.compare_outputs(model, exported, images):
            comparisons.append(comparison)
            equal = comparison.equal / comparison.pixels
            print(
                f"  {comparison.height}x{comparison.width}: {equal:.4%} of the pixels are equal", flush=True
            )
        print(verification.check_agreement(comparisons, kind, path))
        if kind.precision == "int8":
            check_int8_score(model, exported, settings, path)
    mebibytes = sum(part.stat().st_size for part in export.list_exported_files(path)) / 2**20
    trust = " trust_code=true" if kind.format == "torch_export" else ""
    print(f"Saved {path} ({mebibytes:.1f} MiB). Next:")
    print(f"  {cli_command('test')} checkpoint={path}{trust}")
    print(f"  {cli_command('predict')} checkpoint={path}{trust} input=PHOTOS")


def choose_kind_and_path(settings: dict[str, Any]) -> tuple[Any, Path]:
    """Return the kind of file that the settings select, and its path: ``output``, or beside the weights."""
    from segkit import export

    size = settings["image_size"]
    if isinstance(size, int):
        size = size, size
    kind = export.ExportKind(settings["format"], settings["interface"], size, settings["precision"])
    source, output = settings["checkpoint"] or settings["model"]["weights"], settings["output"]
    if export.is_exported(source):
        raise ValueError(
            f"checkpoint={source}: is an exported file already. Give the checkpoint it came from"
        )
    if kind.precision == "int8" and kind.format == "torch_export":
        raise ValueError("precision=int8: only format=onnx and format=openvino have it, not torch_export")
    suffix = export.FORMATS[kind.format]
    if output is None:
        precision = "" if kind.precision == "fp32" else f"-{kind.precision}"
        weights = Path(source.rsplit("/", 1)[-1] if "://" in source else source).expanduser()
        return kind, weights.with_name(f"{weights.stem}{precision}{suffix}")
    if Path(output).suffix.lower() != suffix:
        raise ValueError(f"output={output}: a file of format={kind.format} ends in {suffix}")
    return kind, Path(output)


def load_calibration_images(model: Any, kind: Any, settings: dict[str, Any]) -> list[Any]:
    """Return images for the activation ranges of int8, as the file takes them; none for other precisions."""
    if kind.precision != "int8":
        return []
    from segkit.config import registry
    from segkit.export import verification

    source, data = settings["calibration"], settings.get("data")
    if source is None:
        if not data:
            raise ValueError("precision=int8: needs images to calibrate and to score. Give data=...")
        registry.build("data.datasets", data, split="train")  # raises its errors, which are ignored below
    images, origin = verification.load_verification_images(
        source, data, split="train", count=settings["calibration_images"]
    )
    print(f"Calibrating with {format_count(len(images), 'image')}: {origin}", flush=True)
    return [verification.prepare_input(model, image, kind) for image in images]


def check_int8_score(model: Any, exported: Any, settings: dict[str, Any], path: Any) -> None:
    """Score network and file on the validation split, and raise an error if the file loses too much."""
    from segkit import evaluation, inference
    from segkit.config import registry
    from segkit.export import verification

    val_set = registry.build("data.datasets", settings["data"], split="val")
    protocol = inference.build_protocol(settings)
    before = evaluation.evaluate(model, val_set, protocol).scores["mIoU"]
    after = evaluation.evaluate(exported, val_set, protocol).scores["mIoU"]
    count = format_count(len(val_set), "image")
    print(f"mIoU on {count} ({protocol.name}): float32 {before:.2%}, int8 {after:.2%}", flush=True)
    verification.check_int8_drop(before, after, path)


if __name__ == "__main__":
    main()
