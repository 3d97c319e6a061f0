"""The ResNet family: bottleneck networks that differ in their 3x3 or in their attention.

plain     ResNet (arXiv 1512.03385, the stride in the 3x3), its variants c, d and s (arXiv 1812.01187), and
          ResNeXt (arXiv 1611.05431) with a grouped 3x3
se        squeeze-and-excitation after each block (arXiv 1709.01507)
cbam      channel, then spatial attention after each block (arXiv 1807.06521)
sge       spatial group-wise enhance after each block (arXiv 1905.09646)
sk        SK-ResNet of implus/PytorchInsight: a dense and a grouped 3x3, both of dilation 1
sknet     SKNet (arXiv 1903.06586): a selective kernel, SK[2, 16, 32], instead of ResNeXt's 3x3
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Annotated, Any, Literal

from segkit.config import Fraction, Interval, PathStr, PositiveInt
from segkit.models.backbones._family import Backbone, override_variant
from segkit.models.layers.bottleneck import EXPANSION, Unit, Variant, conv3x3
from segkit.models.layers.convolutional_attention import ConvolutionalAttention
from segkit.models.layers.groups import check_divisible
from segkit.models.layers.selective_kernel import SelectiveKernel
from segkit.models.layers.spatial_group_enhance import SpatialGroupEnhance
from segkit.models.layers.squeeze_excitation import SqueezeExcitation
from segkit.models.weights import load_backbone

R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)


VARIANTS = {
    "50": Variant(R50),
    "101": Variant(R101),
    "152": Variant(R152),
    "50c": Variant(R50, stem_width=32),
    "101c": Variant(R101, stem_width=32),
    "152c": Variant(R152, stem_width=32),
    "50d": Variant(R50, stem_width=32, average_down=True),
    "101d": Variant(R101, stem_width=32, average_down=True),
    "152d": Variant(R152, stem_width=32, average_down=True),
    "50s": Variant(R50, stem_width=64),
    "101s": Variant(R101, stem_width=64),
    "152s": Variant(R152, stem_width=64),
    "50_32x4d": Variant(R50, cardinality=32, bottleneck_width=4),
    "101_32x8d": Variant(R101, cardinality=32, bottleneck_width=8),
    "se_50": Variant(R50, "se"),
    "se_101": Variant(R101, "se"),
    "se_152": Variant(R152, "se"),
    "se_50_32x4d": Variant(R50, "se", cardinality=32, bottleneck_width=4),
    "se_101_32x4d": Variant(R101, "se", cardinality=32, bottleneck_width=4),
    "cbam_50": Variant(R50, "cbam"),
    "cbam_101": Variant(R101, "cbam"),
    "cbam_50_32x4d": Variant(R50, "cbam", cardinality=32, bottleneck_width=4),
    "sge_50": Variant(R50, "sge"),
    "sge_101": Variant(R101, "sge"),
    "sk_50": Variant(R50, "sk"),
    "sk_101": Variant(R101, "sk"),
    "sk_152": Variant(R152, "sk"),
    "sknet_50": Variant(R50, "sknet", cardinality=32, bottleneck_width=4),
    "sknet_101": Variant(R101, "sknet", cardinality=32, bottleneck_width=4),
}

PUBLISHED = {  # by torchvision, trained on ImageNet; the name ends in the first digits of the SHA-256
    variant: f"https://download.pytorch.org/models/{file}.pth"
    for variant, file in {
        "50": "resnet50-0676ba61",
        "101": "resnet101-63fe2227",
        "152": "resnet152-394f9c45",
        "50_32x4d": "resnext50_32x4d-7cdf4587",
        "101_32x8d": "resnext101_32x8d-8ba56ff5",
    }.items()
}


def _plain(v: Variant) -> Unit:
    return Unit(partial(conv3x3, groups=v.cardinality))


def _se(v: Variant, *, reduction: int = 16) -> Unit:
    return _plain(v)._replace(attention=partial(SqueezeExcitation, reduction=reduction))


def _cbam(v: Variant, *, reduction: int = 16, kernel: int = 7) -> Unit:
    if kernel % 2 == 0:
        raise ValueError(f"model.backbone.kernel={kernel}: must be odd")
    return _plain(v)._replace(attention=partial(ConvolutionalAttention, reduction=reduction, kernel=kernel))


def _sge(
    v: Variant, *, groups: int = 64, scale: float = 0.0, shift: float = 1.0, normalize: bool = True
) -> Unit:
    check_divisible("model.backbone.groups", groups, 64 * EXPANSION)
    attention = partial(SpatialGroupEnhance, groups=groups, scale=scale, shift=shift, normalize=normalize)
    return _plain(v)._replace(attention=attention)


def _sk(v: Variant, *, groups: int = 32, reduction: int = 16, least_inner: int = 1) -> Unit:
    check_divisible("model.backbone.groups", groups, v.bottleneck_width * v.cardinality)
    kernels = (1, v.cardinality), (1, groups)
    return Unit(partial(SelectiveKernel, kernels=kernels, reduction=reduction, least_inner=least_inner))


def _sknet(
    v: Variant, *, branches: int = 2, groups: int = 32, reduction: int = 16, least_inner: int = 32
) -> Unit:
    check_divisible("model.backbone.groups", groups, v.bottleneck_width * v.cardinality)
    kernels = [(m + 1, groups) for m in range(branches)]
    return Unit(partial(SelectiveKernel, kernels=kernels, reduction=reduction, least_inner=least_inner))


UNITS = {"plain": _plain, "se": _se, "cbam": _cbam, "sge": _sge, "sk": _sk, "sknet": _sknet}


def _make_unit(numbers: Variant, variant: str, **unit_settings: Any) -> Unit:
    """Return the unit of a variant; settings that are None are the unit's defaults.

    Raises:
        ValueError: its unit has no such setting, or the numbers do not fit.
    """
    unit_settings = {name: value for name, value in unit_settings.items() if value is not None}
    allowed = list(inspect.signature(UNITS[numbers.unit]).parameters)[1:]
    for name, value in unit_settings.items():
        if name not in allowed:
            raise ValueError(
                f"model.backbone.{name}={value}: must be null, as variant {variant} has no such setting "
                f"(its settings: {', '.join(allowed) or 'none'})"
            )
    return UNITS[numbers.unit](numbers, **unit_settings)


Name = Literal[
    "50", "101", "152", "50c", "101c", "152c", "50d", "101d", "152d", "50s", "101s", "152s",
    "50_32x4d", "101_32x8d", "se_50", "se_101", "se_152", "se_50_32x4d", "se_101_32x4d", "cbam_50",
    "cbam_101", "cbam_50_32x4d", "sge_50", "sge_101", "sk_50", "sk_101", "sk_152", "sknet_50",
    "sknet_101",
]  # fmt: skip


def build(  # noqa: PLR0913 - one keyword for each number of the papers
    num_classes: int | None = None,
    *,
    variant: Name,
    output_stride: Literal[8, 16, 32] = 8,
    width: Annotated[int, Interval(ge=1, le=512)] = 64,
    blocks: list[PositiveInt] | None = None,
    cardinality: Annotated[int, Interval(ge=1, le=64)] | None = None,
    bottleneck_width: Annotated[int, Interval(ge=1, le=512)] | None = None,
    stem_width: Annotated[int, Interval(ge=0, le=512)] | None = None,
    average_down: bool | None = None,
    pool: Literal["none", "after", "before", "strided"] | None = None,
    multi_grid: list[PositiveInt] | None = None,
    groups: PositiveInt | None = None,
    reduction: Annotated[int, Interval(ge=1, le=256)] | None = None,
    branches: Annotated[int, Interval(ge=1, le=8)] | None = None,
    least_inner: Annotated[int, Interval(ge=1, le=1024)] | None = None,
    scale: Annotated[float, Interval(ge=-100, le=100)] | None = None,
    shift: Annotated[float, Interval(ge=-100, le=100)] | None = None,
    normalize: bool | None = None,
    kernel: Annotated[int, Interval(ge=1, le=31)] | None = None,
    dropout: Fraction = 0.0,
    weights: PathStr | None = None,
) -> Backbone:
    """Build a network of the family; ``conf/model/backbone/`` describes the settings of each unit.

    Raises:
        ValueError: the numbers or the weights do not fit.
    """
    numbers = override_variant(
        VARIANTS[variant],
        blocks=blocks,
        cardinality=cardinality,
        bottleneck_width=bottleneck_width,
        stem_width=stem_width,
        average_down=average_down,
        pool=pool,
    )
    unit = _make_unit(
        numbers,
        variant,
        groups=groups,
        reduction=reduction,
        branches=branches,
        least_inner=least_inner,
        scale=scale,
        shift=shift,
        normalize=normalize,
        kernel=kernel,
    )
    network = Backbone(
        numbers,
        unit,
        output_stride=output_stride,
        width=width,
        num_classes=num_classes,
        dropout=dropout,
        multi_grid=multi_grid,
    )
    load_backbone(network, weights, PUBLISHED.get(variant) if numbers == VARIANTS[variant] else None)
    return network
