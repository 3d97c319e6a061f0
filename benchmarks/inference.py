"""Images per second of single images on this machine: segkit in every way it can run, and its peers.

    python benchmarks/inference.py --size 512x683 --variant 50 [--sides eager,bf16,openvino,...] [--rounds 5]
    python benchmarks/inference.py --size 512x683 --variant 50 --flips --sides plain_loop,eager,openvino_bf16
    python benchmarks/inference.py pipeline --size 512x683 --variant 50 [--rounds 3]
    python benchmarks/inference.py large --size 8000x10000 --variant 101
    python benchmarks/inference.py ceiling
    python benchmarks/inference.py table

Each call measures some sides, alternating, and adds its medians to ``--results`` (JSON lines), so that a
table can be made of parts of a few minutes. Every part measures the side ``eager`` too: ratios are of one
run. Exported files are kept in ``--files``. Weights are fresh: time does not depend on them; the ranges of
int8 are learnt from noise. Single-scale is one look at the whole image, with class ids at its own size as
the result; multi-scale (``--flips``) is six scales with mirrored copies.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from segkit.data.labels import Entry, LabelTable
from segkit.drawing import overlays
from segkit.inference import Protocol, export, predict, predict_files, prepare, sources
from segkit.inference.export import verification
from segkit.inference.predictor import Predictor, Trained
from segkit.inference.video import Video, VideoFile
from segkit.models import segmenter
from segkit.system.hardware import supports_bf16

CLASSES = 150
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def network(variant: str) -> segmenter.Segmenter:
    """DeepLabV3 on ResNeSt at output stride 8, with fresh weights."""
    torch.manual_seed(0)
    backbone = {"name": "resnest", "variant": variant, "output_stride": 8}
    return segmenter.build(CLASSES, backbone=backbone, head={"name": "deeplabv3"}).eval()


def scene(size: tuple[int, int]) -> np.ndarray:
    """An image (H, W, 3) of smooth noise."""
    noise = np.random.default_rng(0).integers(0, 256, (size[0] // 16, size[1] // 16, 3), np.uint8)
    return verification.fitted(noise, size)


class Peer:
    """A network of others on one image: normalise, run, resize if need be, argmax."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], *, bf16: bool = False) -> None:
        self.run, self.bf16 = run, bf16

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, flips: bool) -> torch.Tensor:
        """Class ids (1, H, W) of an image (H, W, 3)."""
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).sub(0.45).div(0.225)
        x = x.to(memory_format=torch.channels_last)
        if not flips:
            return self.logits(x).argmax(1)
        scores: Any = 0
        for scale in SCALES:  # as the test-time augmentation of the peers: softmax of each view at full size
            y = F.interpolate(x, scale_factor=scale, mode="bilinear") if scale != 1 else x
            for mirrored in (False, True):
                logits = self.logits(y.flip(3) if mirrored else y)
                logits = F.interpolate(logits, x.shape[2:], mode="bilinear")
                scores = scores + (logits.flip(3) if mirrored else logits).softmax(1)
        return scores.argmax(1)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Of a normalised batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.run(x).float()


def smp(variant: str, *, bf16: bool) -> Peer:
    """DeepLabV3 of segmentation_models.pytorch on timm's ResNeSt, channels last."""
    import segmentation_models_pytorch as models

    encoder = "tu-resnest50d" if variant == "50" else f"tu-resnest{variant}e"
    model: Any = models.DeepLabV3(encoder, encoder_weights=None, classes=CLASSES).eval()
    model = model.to(memory_format=torch.channels_last)

    def run(x: torch.Tensor) -> torch.Tensor:
        pad = (-x.shape[3] % 8, -x.shape[2] % 8)  # it takes multiples of its stride alone
        return model(F.pad(x, (0, pad[0], 0, pad[1])))[:, :, : x.shape[2], : x.shape[3]]

    return Peer(run, bf16=bf16)


def torchvision(*, bf16: bool) -> Peer:
    """Torchvision's DeepLabV3 on ResNet-101, channels last: another network, as fast as it gets there."""
    from torchvision.models.segmentation import deeplabv3_resnet101

    model = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    model = model.to(memory_format=torch.channels_last)
    return Peer(lambda x: model(x)["out"], bf16=bf16)


def exported(model: segmenter.Segmenter, kind: export.Kind, path: Path, size: tuple[int, int]) -> Any:
    """The file of a network, made at the first call."""
    if not path.exists():
        told = {"interface": kind.interface, "image_size": kind.image_size, "precision": kind.precision}
        told |= {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist()}
        told |= {"align_corners": model.align_corners, "classes": {}, "settings": {}}
        smaller = [verification.as_taken(model, scene((side, side)), kind) for side in (193, 257)]
        with export.written(export.network_for(model, kind), path, kind, about=told, calibration=smaller):
            pass
    return export.opened(path, CLASSES)


def side(name: str, variant: str, size: tuple[int, int], folder: Path) -> Callable[[np.ndarray, bool], Any]:
    """A way to go from an image to class ids."""
    peers = {
        "smp": lambda: smp(variant, bf16=False),
        "smp_bf16": lambda: smp(variant, bf16=True),
        "torchvision": lambda: torchvision(bf16=False),
        "torchvision_bf16": lambda: torchvision(bf16=True),
    }
    if name in peers:
        return peers[name]()
    model = network(variant)
    if name == "plain_loop":  # one view after the other, each at full size, as published
        return Peer(lambda x: model(x).main)
    bf16 = name.endswith("bf16")
    ready: Any = model
    if name in ("prepared", "bf16"):
        ready = prepare(model, precision="bf16" if bf16 else "float32")
    elif name == "compiled":
        ready = prepare(model, precision="bf16" if supports_bf16(torch.device("cpu")) else "float32")
        ready.forward = torch.compile(ready.forward, dynamic=False)
        ready.backbone, ready.head = torch.compile(ready.backbone), torch.compile(ready.head)
    elif name != "eager":
        format, precision = name.split("_")[0], "int8" if "int8" in name else "fp32"
        kind = export.Kind(format, "logits", None, precision)  # pyright: ignore[reportArgumentType]
        file = exported(model, kind, folder / f"{variant}-{precision}{export.FORMATS[format]}", size)
        ready = prepare(file, precision="bf16" if bf16 else "float32")
    views = {"scales": SCALES, "flip": True}
    single, several = Protocol(), Protocol(**views)
    return lambda image, flips: predict(ready, image, several if flips else single)


def measure(given: argparse.Namespace) -> None:
    """Alternate the sides, and append their medians to the results."""
    height, width = _size(given)
    image = scene((height, width))
    names = list(dict.fromkeys(["eager", *given.sides.split(",")]))
    ways = {name: side(name, given.variant, (height, width), given.files) for name in names}
    clock = _clock(given)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds + 1):  # the first warms up
        for name, way in ways.items():
            start = clock()
            way(image, given.flips)
            seconds[name].append(clock() - start)
            print(f"  {name:18} {seconds[name][-1]:8.3f} s", flush=True)
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    part: dict[str, Any] = {
        "size": given.size,
        "variant": given.variant,
        "flips": given.flips,
        "rounds": given.rounds,
    }
    part |= {"threads": torch.get_num_threads(), "clock": given.clock, "seconds": medians}
    with given.results.open("a") as file:
        file.write(json.dumps(part) + "\n")
    for name, median in medians.items():
        print(f"{name:18} {1 / median:7.3f} images/s  {medians['eager'] / median:6.2f}x of eager")


def ceiling(given: argparse.Namespace) -> None:
    """Multiply-adds per second of plain matrix products, and those of one image: what could be at best."""
    from torch.utils.flop_counter import FlopCounterMode

    for kind in (torch.float32, torch.bfloat16):
        a = torch.randn(2048, 2048, dtype=kind)
        taken = []
        for _ in range(12):
            start = _clock(given)()
            a @ a
            taken.append(_clock(given)() - start)
        print(f"{kind}: {2 * 2048**3 / min(taken) / 1e9:.0f} GFLOP/s")
    for variant in ("50", "101"):
        for size in ((512, 683), (1024, 2048)):
            with torch.device("meta"), FlopCounterMode(display=False) as counter:
                network(variant)(torch.rand(1, 3, *size))
            print(
                f"DeepLabV3-ResNeSt-{variant}, {size}: {counter.get_total_flops() / 1e9:.0f} GFLOP an image"
            )


def pipeline(given: argparse.Namespace) -> None:
    """A folder and a video through reading, network and writing, against the network alone."""
    images = [np.roll(scene(_size(given)), 40 * i, 1) for i in range(8)]
    table = LabelTable("noise", tuple(Entry(k, str(k), (k, 255 - k, 2 * k % 256)) for k in range(CLASSES)))
    fast = Predictor(Trained(network(given.variant), table), Protocol(precision="auto"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with VideoFile(folder / "ride.mp4", 25) as video:
            for i, image in enumerate(images):
                overlays.save(folder / "photos" / f"{i}.jpg", image)
                video.add(image)
        taken: dict[str, list[float]] = {"network": [], "folder": [], "video": []}
        how = {"kinds": ["overlays"], "resume": False}
        for turn in range(given.rounds + 1):  # the first warms up
            out = folder / str(turn)
            ways = {
                "network": lambda: [fast.predict(image) for image in images],
                "folder": lambda out=out: predict_files.of_images(
                    fast, sources.find(str(folder / "photos")), out, **how
                ),
                "video": lambda out=out: predict_files.of_video(
                    fast, Video(str(folder / "ride.mp4")), out, "ride", **how
                ),
            }
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                taken[name].append((time.perf_counter() - start) / len(images))
    medians = {name: statistics.median(each[1:]) for name, each in taken.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:.3f} s an image, {medians['network'] / median:.0%} of the network's speed")


def large(given: argparse.Namespace) -> None:
    """Peak memory of one large image in windows, over the loaded network and the image."""
    height, width = _size(given)
    fast = prepare(network(given.variant), precision="auto")
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = Protocol(name="sliding", window=768, stride=768)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is no longer counted as ours
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = _kib("VmRSS"), time.perf_counter()
    predict(fast, image, how)
    grown, took = (_kib("VmHWM") - before) / 2**20, time.perf_counter() - start
    print(f"ResNeSt-{given.variant}, {width}x{height}: {grown:.2f} GiB over network and image, {took:.0f} s")


def _clock(given: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if given.clock == "processor" else time.perf_counter


def _kib(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def _size(given: argparse.Namespace) -> tuple[int, int]:
    height, width = (int(part) for part in given.size.split("x"))
    return height, width


def table(given: argparse.Namespace) -> None:
    """The results as a page has them."""
    for line in given.results.read_text().splitlines():
        part = json.loads(line)
        how = "six scales, flips" if part["flips"] else "single-scale"
        clock = f"{part['threads']} threads, {part['clock']} time"
        print(f"\nResNeSt-{part['variant']}, {part['size']}, {how}, {clock}\n")
        print("| side | images/s | of eager |\n|---|---|---|")
        eager = part["seconds"]["eager"]
        for name, seconds in sorted(part["seconds"].items(), key=lambda item: -item[1]):
            print(f"| {name} | {1 / seconds:.3f} | {eager / seconds:.2f}x |")


WHAT = {"measure": measure, "pipeline": pipeline, "large": large, "ceiling": ceiling, "table": table}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", default="measure", choices=[*WHAT])
    parser.add_argument("--size", default="512x683")
    parser.add_argument("--variant", default="50", choices=["50", "101"])
    parser.add_argument("--sides", default="prepared,bf16,onnx,openvino,openvino_bf16,openvino_int8")
    parser.add_argument("--flips", action="store_true")
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "processor"], help="processor: busy machines"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("inference.jsonl"))
    parser.add_argument("--files", type=Path, default=Path())
    given = parser.parse_args()
    WHAT[given.what](given)
