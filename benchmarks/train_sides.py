"""Training steps of segkit, of segmentation_models.pytorch and of PyTorch-Encoding.

All train DeepLabV3 on the same ResNeSt at output stride 8 with SGD and the same loss; for the variants in
``TIMM`` segkit and smp train another head on a backbone of timm. smp runs in its default
layout and in channels-last. ``published`` is the step of PyTorch-Encoding around segkit's network: full-size
logits in float32 and everything stored for the backward pass. cuDNN tries its algorithms for all sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

SIDES = {  # side: modes it has
    "segkit": ("float32", "bf16", "compiled", "bf16_compiled", "accumulate"),
    "smp": ("float32", "bf16", "compiled", "bf16_compiled"),
    "smp_channels_last": ("float32", "bf16", "compiled", "bf16_compiled"),
    "published": ("float32",),
}
HALF = ("bf16", "bf16_compiled")  # modes in bf16
COMPILED = ("compiled", "bf16_compiled")
TIMM: dict[str, tuple[dict[str, Any], int]] = {  # head, output stride
    "tf_efficientnet_lite0": ({"name": "deeplabv3"}, 16),
    "convnext_tiny": ({"name": "upernet", "width": 256}, 32),
}
Step = Callable[[Any, Any], Any]  # images (B, 3, H, W) and labels (B, H, W), uint8, to the loss


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network and its batch."""
    parser.add_argument("--variant", default="50", choices=["14", "26", "50", "101", *TIMM])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0)


def make_batch(given: argparse.Namespace) -> tuple[Any, Any]:
    """Return random images (B, 3, H, W) uint8 and labels (B, H, W), always the same."""
    import torch

    from segkit.types import class_id_dtype

    size, crop = given.batch, given.crop
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (size, 3, crop, crop), dtype=torch.uint8, generator=generator)
    cells = torch.randint(0, given.classes, (size, crop // 16 + 1, crop // 16 + 1), generator=generator)
    label = cells.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :crop, :crop]
    label = label.to(getattr(torch, class_id_dtype(given.classes))).contiguous()
    if given.device == "cuda":  # as the loader does
        return image.pin_memory(), label.pin_memory()
    return image, label


def build_network(given: argparse.Namespace) -> Any:
    """Build DeepLabV3 on a ResNeSt with seeded weights, whose blocks start as in timm, or one of ``TIMM``."""
    import torch

    from segkit.models import segmenter

    torch.manual_seed(given.seed)
    if given.variant in TIMM:
        head, stride = TIMM[given.variant]
        backbone = {"name": "timm", "variant": given.variant, "output_stride": stride}
        return segmenter.build(given.classes, backbone=backbone, head=head)
    return segmenter.build(
        given.classes,
        backbone={"name": "resnest", "variant": given.variant, "output_stride": 8, "last_gamma": 0.0},
        head={"name": "deeplabv3"},
    )


def describe_network(variant: str) -> str:
    """Return the names of head and backbone."""
    if variant in TIMM:
        return f"{TIMM[variant][0]['name']} on {variant}"
    return f"DeepLabV3-ResNeSt-{variant}"


def segkit_step(given: argparse.Namespace, mode: str) -> Step:
    """Return the step of ``train_seg.py``."""
    import torch

    from segkit import training
    from segkit.config import registry
    from segkit.types import Batch

    parts = 2 if mode == "accumulate" else 1
    run = training.setup_training(
        build_network(given),
        registry.build("losses", {"name": "cross_entropy"}, num_classes=given.classes),
        samples=1000,
        schedule=training.Schedule(
            batch_size=given.batch,
            lr=0.01,
            iterations=10**6,
            accumulate=parts,
            optimizer={"name": "sgd"},
            lr_schedule={"name": "constant"},
        ),
        runtime=training.Runtime(
            precision="bf16" if mode in HALF else "float32",
            compile=mode in COMPILED,
        ),
        device=torch.device(given.device),
        seed=given.seed,
    )
    each = given.batch // parts

    def step(image: Any, label: Any) -> Any:
        places = range(0, given.batch, each)
        batches = [Batch(image[i : i + each], label[i : i + each], [""] * each) for i in places]
        return sum(training.train_step(run, batches).losses.values())

    return step


def peer_step(given: argparse.Namespace, mode: str, model: Any, *, channels_last: bool) -> Step:
    """Return a plain training step of a network that returns full-size logits."""
    import torch
    import torch.nn.functional as F

    from segkit.types import ignore_index

    torch.backends.cudnn.benchmark = True  # as segkit's training
    layout = torch.channels_last if channels_last else torch.contiguous_format
    ignored = ignore_index(given.classes)
    model = model.to(given.device, memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    mean, std = (
        torch.tensor(three, device=given.device)[:, None, None]
        for three in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    runner = torch.compile(model) if mode in COMPILED else model

    def step(image: Any, label: Any) -> Any:
        image, label = (each.to(given.device, non_blocking=True) for each in (image, label))
        x = (image.float() / 255 - mean) / std
        x = x.contiguous(memory_format=layout)
        optimizer.zero_grad()
        with torch.autocast(given.device, torch.bfloat16, enabled=mode in HALF):
            logits = runner(x)
            if not isinstance(logits, torch.Tensor):
                logits = logits.main
            loss = F.cross_entropy(logits, label.long(), ignore_index=ignored)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def smp_network(given: argparse.Namespace) -> Any:
    """Build DeepLabV3 of segmentation_models.pytorch on timm's ResNeSt, or one of ``TIMM``."""
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(given.seed)
    how: dict[str, Any] = {"encoder_weights": None, "classes": given.classes}
    if given.variant in TIMM:
        head, stride = TIMM[given.variant]
        if head["name"] == "upernet":
            return smp.UPerNet(f"tu-{given.variant}", decoder_channels=head["width"], **how)
        how |= {"encoder_output_stride": stride, "decoder_atrous_rates": (6, 12, 18)}
        return smp.DeepLabV3(f"tu-{given.variant}", **how)
    name = f"tu-resnest{given.variant}{'e' if given.variant == '101' else 'd'}"
    return smp.DeepLabV3(name, encoder_output_stride=8, **how)


def make_step(given: argparse.Namespace, side: str, mode: str) -> Step:
    """Return the step of a side."""
    if side == "segkit":
        return segkit_step(given, mode)
    build = build_network if side == "published" else smp_network
    model = build(given)
    return peer_step(given, mode, model, channels_last=side.endswith("channels_last"))
