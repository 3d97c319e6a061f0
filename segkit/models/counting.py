"""Operations of a network: multiplications and additions of its convolutions and matrix products."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

OTHER_PRODUCTS = re.compile(r"conv|mm_?$|matmul|linear$|einsum|dot$|inner$|outer$|attention|lstm|gru|rnn")


class Unknown(Exception):  # noqa: N818
    """There are operations that the quick count does not know."""


def flops(call: Callable[[], object]) -> int:
    """Operations of a call, multiplications and additions apart, by PyTorch's own counter.

    On the meta device it costs no arithmetic, but imports PyTorch's compiler, which takes seconds.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def is_quick(module: nn.Module) -> bool:
    """Whether all in it is PyTorch's or ours, where nothing but images lies along the first axis."""
    return all(type(part).__module__.startswith(("torch.nn.", "segkit.")) for part in module.modules())


def flops_of_an_image(call: Callable[[], object]) -> int:
    """The same for one image, where the call is given a batch of none: it costs no arithmetic anywhere.

    Raises:
        Unknown: there are products besides those of two-dimensional convolutions.
    """
    with torch.no_grad(), _Convolutions() as counter:
        call()
    return counter.flops


class _Convolutions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is torch.conv2d:
            self.flops += 2 * out.shape[1:].numel() * args[1][0].numel()
        elif OTHER_PRODUCTS.search(getattr(function, "__name__", "")):
            raise Unknown(function)
        return out
