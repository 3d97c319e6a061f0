"""A ResNeSt under torchvision's detectors: stages in, feature pyramid, Faster R-CNN or Mask R-CNN.

    python examples/detection.py                     twelve steps on drawn scenes, on the CPU

``faster_rcnn`` and ``mask_rcnn`` return torchvision's own models: train them with torchvision's reference
scripts, or anything else that takes those.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from segkit.models.backbones import resnest


class Pyramid(nn.Module):
    """The four stages of a backbone as five levels of one width; what torchvision's detectors want."""

    def __init__(self, network: nn.Module, channels: list[int], *, width: int = 256) -> None:
        super().__init__()
        self.body = network
        self.fpn = FeaturePyramidNetwork(channels, width, extra_blocks=LastLevelMaxPool())
        self.out_channels = width

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Normalised image (B, 3, H, W) to levels of strides 4, 8, 16, 32 and 64."""
        return self.fpn(OrderedDict((str(i), stage) for i, stage in enumerate(self.body(image))))


def pyramid(variant: str = "50", *, weights: str | None = None, width: int = 64) -> Pyramid:
    """A ResNeSt with a feature pyramid.

    Args:
        variant: of ``segkit.models.backbones.resnest``.
        weights: "imagenet", a path or an address; the normalisation is then frozen, since detectors see few
            pictures at a time. None trains from scratch, with at least two pictures at a time.
        width: 64 for the published network.
    """
    network = resnest.build(variant=variant, output_stride=32, width=width, weights=weights)
    if weights is not None:
        freeze_normalisation(network)
    return Pyramid(network, network.out_channels)


def freeze_normalisation(module: nn.Module) -> None:
    """Replace every batch normalisation by a fixed one with the same numbers."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            frozen.load_state_dict(child.state_dict(), strict=False)  # it has no count of batches
            setattr(module, name, frozen)
        else:
            freeze_normalisation(child)


def faster_rcnn(num_classes: int, backbone: Pyramid, **settings: object) -> FasterRCNN:
    """Boxes; ``num_classes`` counts the background, ``settings`` are torchvision's."""
    return FasterRCNN(backbone, num_classes, **settings)  # pyright: ignore[reportArgumentType]


def mask_rcnn(num_classes: int, backbone: Pyramid, **settings: object) -> MaskRCNN:
    """Boxes and masks; ``num_classes`` counts the background, ``settings`` are torchvision's."""
    return MaskRCNN(backbone, num_classes, **settings)  # pyright: ignore[reportArgumentType]


def drawn_scene(seed: int, *, side: int = 128) -> tuple[Tensor, dict[str, Tensor]]:
    """A picture (3, H, W) in 0..1 with a square (class 1) and a disc (class 2), and where they are."""
    generator = torch.Generator().manual_seed(seed)
    picture = 0.3 * torch.rand(3, side, side, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    boxes, masks = [], []
    for label in (1, 2):
        radius = int(torch.randint(side // 10, side // 5, (), generator=generator))
        y, x = torch.randint(radius, side - radius, (2,), generator=generator).tolist()
        across, down = (columns - x).abs(), (rows - y).abs()
        inside = (across.maximum(down) if label == 1 else (across**2 + down**2).sqrt()) <= radius - 1
        picture[:, inside] = torch.rand(3, 1, generator=generator) * 0.3 + 0.7
        masks.append(inside)
        boxes.append([x - radius, y - radius, x + radius, y + radius])
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor([1, 2]),
        "masks": torch.stack(masks).to(torch.uint8),
    }
    return picture, target


def main() -> None:
    """Train a thin detector on drawn scenes and show what it finds in a new one."""
    parser = argparse.ArgumentParser(description="Mask R-CNN on a thin ResNeSt-14, on drawn scenes")
    parser.add_argument("--steps", type=int, default=12)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    sizes = {
        "min_size": 128,
        "max_size": 128,
        "rpn_post_nms_top_n_train": 100,
        "box_batch_size_per_image": 32,
    }
    model = mask_rcnn(3, pyramid("14", width=16), **sizes).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for step in range(steps):
        pictures, targets = zip(*(drawn_scene(2 * step + i) for i in range(2)), strict=True)
        losses = model(list(pictures), list(targets))
        loss = sum(losses.values(), torch.zeros(()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step + 1}: loss {loss.item():.3f}")
    picture, target = drawn_scene(-1)
    with torch.inference_mode():
        found = model.eval()([picture])[0]
    print(
        f"drawn: {target['boxes'].tolist()}\n"
        f"found: {found['boxes'][:2].tolist()} {found['scores'][:2].tolist()}"
    )


if __name__ == "__main__":
    main()
