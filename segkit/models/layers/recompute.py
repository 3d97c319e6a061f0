"""Cheap results of the forward pass are not kept for the backward pass: it computes them again, to the bit.

Convolutions are what a training step costs; normalising, rectifying, adding and blending what they gave are
one pass over memory each. Plain autograd keeps the input of every convolution all the same. Within
``recomputing`` only what convolutions (and other layers) returned is kept, and the rest is noted as a recipe:
a function of what is kept. A bottleneck with Split-Attention keeps 7 maps of 15. The idea is that of Chen et
al. 2016 (arXiv 1604.06174) and of in-place activated batch norm (arXiv 1712.02616); the arithmetic is plain
autograd's.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

LONGEST = 8  # recipes that build on each other before a result is kept: about eight blocks of a stage


class Recipe:
    """A tensor that can be had again. ``again`` returns a tensor of its own, nobody else's memory."""

    def __init__(self, again: Callable[..., Tensor], sources: Sequence[Tensor | Part]) -> None:
        self.again, self.sources = again, sources
        self.versions = [0 if isinstance(part, Part) else part._version for part in sources]
        self.length = 1 + max(_length(part) for part in sources)
        self.readers, self.value = 0, None  # who will ask for it, and what the first of them got
        self.version = 0  # of the value

    @torch.no_grad()
    def cook(self) -> Tensor:
        """The tensor; kept until the last of its readers has been here."""
        if self.value is not None and self.value._version == self.version:
            return self.value
        found: dict[int, Tensor] = {}
        # the longest first: a row of sums then holds two tensors at a time, and not one for each sum
        for place in sorted(range(len(self.sources)), key=lambda place: -_length(self.sources[place])):
            part = self.sources[place]
            if not isinstance(part, Part) and part._version != self.versions[place]:
                raise RuntimeError(
                    "a map was changed in place after another had been made of it, which is to be made"
                    " again for the backward pass: change a copy, or use runtime.recompute=false"
                )
            found[place] = part.read() if isinstance(part, Part) else part
        value = self.again(*[found[place] for place in range(len(found))])
        if self.readers:
            self.hold(value)
        return value

    def hold(self, value: Tensor) -> None:
        """Give this to who asks, while nobody changes it."""
        self.value, self.version = value, value._version


class Part(NamedTuple):
    """A view of a tensor that can be had again."""

    recipe: Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def read(self) -> Tensor:
        """As it was."""
        return self.recipe.cook().as_strided(self.size, self.stride, self.offset)


def _length(part: Tensor | Part) -> int:
    return part.recipe.length if isinstance(part, Part) else 0


class _Notes:
    """The recipes of tensors that are alive, by the address of their memory."""

    def __init__(self) -> None:
        self.recipes: dict[
            int, tuple[Recipe, int]
        ] = {}  # with the tensor's version: changed since, it is void

    def add(self, tensor: Tensor, recipe: Recipe, *, changes: int = 0) -> None:
        if recipe.length > LONGEST:
            return
        address = tensor.untyped_storage().data_ptr()
        self.recipes[address] = (recipe, tensor._version + changes)
        weakref.finalize(tensor, self.forget, address, recipe).atexit = False

    def forget(self, address: int, recipe: Recipe) -> None:
        if address in self.recipes and self.recipes[address][0] is recipe:
            del self.recipes[address]  # the memory may soon hold something else

    def find(self, tensor: Tensor) -> Part | None:
        recipe, version = self.recipes.get(tensor.untyped_storage().data_ptr(), (None, 0))
        if recipe is None or version != tensor._version:
            return None
        return Part(recipe, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def pack(self, tensor: Tensor) -> Tensor | Part:
        part = self.find(tensor)
        if part is None:
            return tensor
        part.recipe.readers += 1
        return part


def _unpack(kept: Tensor | Part) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    recipe = kept.recipe
    value = kept.read()
    recipe.readers -= 1
    if recipe.readers == 0:
        recipe.value = None
    return value


_notes: _Notes | None = None


@contextlib.contextmanager
def recomputing() -> Iterator[None]:
    """Run a forward pass whose cheap results its backward pass computes again."""
    global _notes
    _notes = _Notes()
    hooks = register_module_forward_pre_hook(_look_before), register_module_forward_hook(_look_after)
    try:
        with torch.autograd.graph.saved_tensors_hooks(_notes.pack, _unpack):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        _notes = None


@contextlib.contextmanager
def set_aside() -> Iterator[None]:
    """Note nothing of a part of the forward pass."""
    global _notes
    before, _notes = _notes, None
    try:
        yield
    finally:
        _notes = before


def told(result: Tensor, again: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """Note that ``again(*sources)`` is the result, if a source can be had again; gives the result.

    The other sources are kept in place of the result.
    """
    if _notes is not None:
        parts = [_notes.find(source) for source in sources]
        if any(parts):
            kept = [part or source.detach() for part, source in zip(parts, sources, strict=True)]
            _notes.add(result, Recipe(again, kept))
    return result


def keep(tensor: Tensor) -> None:
    """Keep a tensor that could be had again, as making it would take too much where memory is at its peak."""
    part = None if _notes is None else _notes.find(tensor)
    if part is not None:
        part.recipe.hold(tensor.detach())


def added(a: Tensor, b: Tensor) -> Tensor:
    """``a + b``."""
    return told(a + b, torch.add, a, b)


def _look_before(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Called before every module: a rectifier in place keeps its own result, which must be noted by then."""
    if _notes is not None and type(module) is nn.ReLU and module.inplace:
        before = _notes.find(args[0])
        if before is not None:
            again = before.recipe.again
            recipe = Recipe(lambda *values: again(*values).relu_(), before.recipe.sources)
            _notes.add(args[0], recipe, changes=1)


def _look_after(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
    """Called after every module: notes what normalisations and pools did."""
    if _notes is None:
        return
    if isinstance(module, nn.BatchNorm2d) and type(module).forward is nn.BatchNorm2d.forward:
        _look_at_norm(module, args[0], result)
    elif type(module) is nn.AvgPool2d:
        told(result, module.forward, args[0])


def _look_at_norm(norm: nn.BatchNorm2d, x: Tensor, result: Tensor) -> None:
    assert _notes is not None
    step: Any = result.grad_fn
    if type(step).__name__ != "NativeBatchNormBackward0" or norm.weight is None:
        return  # cuDNN's, synchronised or shared normalisation: kept as ever
    if norm.training or norm.running_mean is None or norm.running_var is None:
        # the kernel multiplies by weight / deviation: handed over so, the product is that of the first pass
        mean, scale = step._saved_result1.detach(), norm.weight.detach() * step._saved_result2.detach()
        variance, epsilon = torch.ones_like(mean), 0.0
    else:
        mean, scale = norm.running_mean.clone(), norm.weight.detach()
        variance, epsilon = norm.running_var.clone(), norm.eps
    bias = norm.bias.detach()

    def again(x: Tensor) -> Tensor:
        # the kernel of the first pass by itself: F.batch_norm refuses an epsilon of zero in PyTorch 2.11
        rest = {"training": False, "momentum": 0.0, "eps": epsilon, "cudnn_enabled": False}
        return torch.batch_norm(x, scale, bias, mean, variance, **rest)

    _notes.add(result, Recipe(again, [_notes.find(x) or x.detach()]))
