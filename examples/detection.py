"""Train torchvision's detectors on segkit's backbones, with COCO data or drawn scenes.

    python examples/detection.py                  a thin Mask R-CNN on drawn scenes, minutes on a CPU
    python examples/detection.py --method cascade_mask_rcnn --train instances_train2017.json train2017 \
        --val instances_val2017.json val2017 --iterations 90000 --batch-size 16 --lr 0.02 --size 800 1333 \
        --optimizer sgd model/backbone=resnest model.backbone.weights=imagenet

Methods: faster_rcnn, mask_rcnn, retinanet, cascade_rcnn, cascade_mask_rcnn. Settings of ``train_seg.py`` may
follow; any ``model/backbone=`` works, undilated. Scores are COCO's (pip install 'segkit[detection]').
docs/models.md lists published scores.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import coco
import torch
from cascade import add_cascade
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import LastLevelMaxPool
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from a clone

from segkit.config import registry
from segkit.config.compose import compose_settings
from segkit.runtime.errors import report_user_errors

THIN = ["model/backbone=resnest", "model.backbone.variant=14", "model.backbone.width=16"]  # for drawn scenes
THIN += ["model.backbone.weights=null"]
FEW = {"rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 50, "box_batch_size_per_image": 64}


class Pyramid(nn.Module):
    """Feature pyramid of a backbone: five levels of one width for torchvision's detectors.

    Args:
        network: a backbone with four stages and ``out_channels``.
        width: of the levels.
        single: stages 2 to 4 and two coarser levels, of strides 8 to 128, for one-stage detectors; otherwise
            all four stages and a coarser level, of strides 4 to 64.
    """

    def __init__(self, network: nn.Module, *, width: int = 256, single: bool = False) -> None:
        super().__init__()
        channels: list[int] = list(network.out_channels)  # pyright: ignore[reportArgumentType]
        self.body, self.first = network, 1 if single else 0
        extra = LastLevelP6P7(width, width) if single else LastLevelMaxPool()
        self.fpn = FeaturePyramidNetwork(channels[self.first :], width, extra_blocks=extra)
        self.out_channels = width

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return five levels (B, width, H/s, W/s) of a normalized image (B, 3, H, W)."""
        stages = self.body(image)[self.first :]
        return self.fpn(OrderedDict((str(i), stage) for i, stage in enumerate(stages)))


def freeze_normalization(module: nn.Module) -> None:
    """Replace every batch normalization by a frozen one with the same statistics."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict(), strict=False)  # it has no num_batches_tracked
            replacement: nn.Module = frozen
            if hasattr(child, "act"):  # of timm
                replacement = nn.Sequential(frozen, child.drop, child.act)
            setattr(module, name, replacement)
        else:
            freeze_normalization(child)


def build_pyramid(settings: dict[str, Any], *, width: int = 256, single: bool = False) -> Pyramid:
    """Build a backbone of segkit with a feature pyramid.

    Args:
        settings: of the backbone. With ``weights`` its normalization is frozen, as detectors use small
            batches; without, it is trained with at least two images at a time.
        width: see ``Pyramid``.
        single: see ``Pyramid``.
    """
    network = registry.build("models.backbones", {**settings, "output_stride": 32})
    if settings.get("weights") is not None:
        freeze_normalization(network)
    return Pyramid(network, width=width, single=single)


def two_stage(kind: Callable[..., Any], *, stages: int = 1) -> Callable[..., Any]:
    """Return the builder of a two-stage detector."""

    def build(num_classes: int, settings: dict[str, Any], *, thin: bool = False, **sizes: Any) -> Any:
        sizes |= FEW if thin else {"rpn_post_nms_top_n_train": 1000}
        detector = kind(build_pyramid(settings, width=64 if thin else 256), num_classes, **sizes)
        if thin:
            shrink_heads(detector.roi_heads, num_classes)
        return add_cascade(detector, num_classes) if stages > 1 else detector

    return build


def shrink_heads(heads: Any, num_classes: int, *, width: int = 64) -> None:
    """Replace the heads of a detector by smaller ones, in place."""
    heads.box_head = TwoMLPHead(width * 7**2, 2 * width)
    heads.box_predictor = FastRCNNPredictor(2 * width, num_classes)
    if heads.has_mask():
        heads.mask_head = MaskRCNNHeads(width, (width, width), 1)
        heads.mask_predictor = MaskRCNNPredictor(width, width, num_classes)


def retinanet(num_classes: int, settings: dict[str, Any], *, thin: bool = False, **sizes: Any) -> RetinaNet:
    """Build a RetinaNet with three anchor sizes per octave (arXiv 1708.02002)."""
    octave = tuple(tuple(int(base * 2 ** (n / 3)) for n in range(3)) for base in (32, 64, 128, 256, 512))
    anchors = AnchorGenerator(octave, ((0.5, 1.0, 2.0),) * 5)
    levels = build_pyramid(settings, width=64 if thin else 256, single=True)
    return RetinaNet(levels, num_classes, anchor_generator=anchors, **sizes)


METHODS: dict[str, Callable[..., Any]] = {
    "faster_rcnn": two_stage(FasterRCNN),
    "mask_rcnn": two_stage(MaskRCNN),
    "retinanet": retinanet,
    "cascade_rcnn": two_stage(FasterRCNN, stages=3),
    "cascade_mask_rcnn": two_stage(MaskRCNN, stages=3),
}


def flip(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Flip an image and its boxes and masks horizontally."""
    left, top, right, bottom = target["boxes"].unbind(1)
    width = image.shape[2]
    boxes = torch.stack([width - right, top, width - left, bottom], 1)
    return image.flip(2), {**target, "boxes": boxes, "masks": target["masks"].flip(2)}


def iterate_batches(dataset: coco.Coco, size: int, iterations: int, *, seed: int) -> Iterator[list[Any]]:
    """Yield shuffled batches, with half of the images flipped."""
    draw, queue = random.Random(seed), []
    for _ in range(iterations):
        while len(queue) < size:
            queue += draw.sample(range(len(dataset)), len(dataset))
        batch, queue = queue[:size], queue[size:]
        yield [flip(*dataset[i]) if draw.random() < 0.5 else dataset[i] for i in batch]


def train(detector: Any, dataset: coco.Coco, chosen: argparse.Namespace) -> None:
    """Train with warmup and cosine decay; print the losses ten times."""
    trained = [p for p in detector.parameters() if p.requires_grad]
    if chosen.optimizer == "sgd":
        optimizer = torch.optim.SGD(trained, chosen.lr, momentum=0.9, weight_decay=1e-4)
    else:
        optimizer = torch.optim.AdamW(trained, chosen.lr, weight_decay=1e-2)
    warmup, total = max(chosen.iterations // 20, 1), chosen.iterations
    factor = LambdaLR(optimizer, lambda t: min((t + 1) / warmup, (1 + math.cos(math.pi * t / total)) / 2))
    detector.train().to(chosen.device)
    start = time.perf_counter()
    for t, batch in enumerate(iterate_batches(dataset, chosen.batch_size, total, seed=chosen.seed), start=1):
        images = [image.to(chosen.device) for image, _ in batch]
        losses = detector(images, [{k: v.to(chosen.device) for k, v in each.items()} for _, each in batch])
        loss = torch.stack(list(losses.values())).sum()
        if not loss.isfinite():
            raise ValueError(f"the loss is {loss.item()} at iteration {t}. Lower --lr (now {chosen.lr})")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 10.0)
        optimizer.step()
        factor.step()
        if t % max(total // 10, 1) == 0 or t == total:
            parts = ", ".join(
                f"{name.removeprefix('loss_')} {value.item():.3f}" for name, value in losses.items()
            )
            left = (time.perf_counter() - start) / t * (total - t)
            print(f"{t}/{total}: loss {loss.item():.3f} ({parts}); {left:.0f} s left", flush=True)


def detect(detector: Any, dataset: coco.Coco, device: str) -> list[dict[str, Tensor]]:
    """Return the detections in each image, on the CPU."""
    detector.eval().to(device)
    with torch.inference_mode():
        answers = (detector([dataset[i][0].to(device)])[0] for i in range(len(dataset)))
        return [{name: value.cpu() for name, value in answer.items()} for answer in answers]


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the options of this script and the settings of the backbone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pair = {"nargs": 2, "type": Path, "metavar": ("JSON", "IMAGES")}
    parser.add_argument("--method", choices=METHODS, default="mask_rcnn")
    parser.add_argument(
        "--train", help="COCO annotations and folder of images (default: drawn scenes)", **pair
    )
    parser.add_argument("--val", help="the same, for evaluation", **pair)
    parser.add_argument(
        "--size", nargs=2, type=int, default=(128, 128), help="shorter side, maximum of the longer side"
    )
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, metavar="FILE", help="save the weights of the detector")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen, settings = parser.parse_known_args(arguments)
    if (chosen.train is None) != (chosen.val is None):
        parser.error("--train and --val must be given together, or neither for drawn scenes")
    if unknown := [word for word in settings if word.startswith("-") or "=" not in word]:
        parser.error(f"{unknown[0]}: settings are written key=value, such as model/backbone=resnest")
    return chosen, compose_settings("train", ["run_name=detection", *(settings or THIN)])["model"]["backbone"]


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Train and evaluate a detector; print and return the scores.

    Raises:
        ValueError: the files are not COCO's, the settings are wrong, or the loss is not finite.
    """
    chosen, settings = parse_arguments(arguments)
    coco.import_pycocotools()
    torch.manual_seed(chosen.seed)
    with tempfile.TemporaryDirectory() as folder:
        drawn = [(f"{folder}/train", 400, 1), (f"{folder}/val", 50, 2)]
        files = [chosen.train, chosen.val]
        if chosen.train is None:
            files = [coco.draw_set(Path(where), scenes, seed=seed) for where, scenes, seed in drawn]
        train_set, val_set = (coco.Coco(*pair) for pair in files)
        if train_set.categories != val_set.categories:
            raise ValueError(f"{val_set.file}: the categories differ from those of {train_set.file}")
        sizes = {"min_size": chosen.size[0], "max_size": chosen.size[1], "thin": chosen.train is None}
        detector = METHODS[chosen.method](len(train_set.categories) + 1, settings, **sizes)
        name = f"{chosen.method} on {settings['name']} {settings['variant']}"
        print(
            f"{name}: {len(train_set)} training images, {len(val_set)} validation images, {chosen.device}",
            flush=True,
        )
        train(detector, train_set, chosen)
        scores = val_set.scores(detect(detector, val_set, chosen.device))
    if chosen.output is not None:
        torch.save(detector.state_dict(), chosen.output)
    for kind, figures in scores.items():
        print(f"{kind}: " + "  ".join(f"{figure} {value:.2f}" for figure, value in figures.items()))
    return scores


if __name__ == "__main__":
    report_user_errors(main)
