"""Recompute cheap results in the backward pass instead of keeping them.

Convolutions are what a training step costs; normalizing, rectifying, adding and blending their outputs are
one pass over memory each. Plain autograd still keeps the input of every convolution. Under ``Recompute`` only
the outputs of convolutions (and of other unknown operations) are kept; the rest is noted as a ``Recipe``, a
function of what is kept. The backward pass runs the same kernels on the same numbers, so gradients are those
of plain autograd to the bit. A bottleneck with Split-Attention keeps 7 maps of 15. The idea is that of Chen
et al. 2016 (arXiv 1604.06174) and of in-place activated batch norm (arXiv 1712.02616).

Operations are observed from outside, so the code of a model needs to know nothing of this. Whatever is
changed in place is handled: a changed tensor is no longer the one that was noted, and recipes that need a
tensor are computed before it changes.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LONGEST = 8  # recipes that build on each other before a result is kept: about eight blocks of a stage
CHEAP = {  # the result is a new tensor
    *(torch.relu, Tensor.relu, F.silu, torch.add, Tensor.add, Tensor.__add__, torch.mul, Tensor.mul),
    *(Tensor.__mul__, torch.addcmul, Tensor.addcmul, torch.cat, F.avg_pool2d),
}
CHEAP_IN_PLACE = {torch.relu_, Tensor.relu_, Tensor.add_, Tensor.__iadd__, Tensor.mul_, Tensor.__imul__}
ACTIVATIONS = {F.relu: torch.relu_, F.silu: torch.ops.aten.silu_}  # with their in-place kernels
CHANGED = (
    "a tensor needed for the backward pass was changed in place. Change a copy of it, or set"
    " runtime.optimize_cpu=false"
)


class Recipe:
    """A function of kept tensors whose result can be computed again; it is always a new tensor."""

    def __init__(self, function: Callable[..., Tensor], sources: Sequence[Any], result: Tensor) -> None:
        self.function, self.sources = function, sources
        self.versions = [source._version if isinstance(source, Tensor) else 0 for source in sources]
        self.length = 1 + max(_length(source) for source in sources)
        self.size, self.stride = result.size(), result.stride()
        self.readers, self.value, self.version = 0, None, 0  # the value is shared until its last reader

    def compute(self) -> Tensor:
        """Compute the result.

        Raises:
            RuntimeError: a source was changed in place after the forward pass.
        """
        found: dict[int, Any] = {}
        # the longest first: a row of sums then holds two tensors at a time, and not one for each sum
        for place in sorted(range(len(self.sources)), key=lambda place: -_length(self.sources[place])):
            source = self.sources[place]
            if isinstance(source, Tensor) and source._version != self.versions[place]:
                raise RuntimeError(CHANGED)
            found[place] = source.read() if isinstance(source, Part) else source
        with torch.no_grad():
            return self.function(*[found[place] for place in range(len(found))])

    def cached(self) -> Tensor:
        """Return the result, kept until the last of its readers has been here."""
        if self.value is None or self.value._version != self.version:
            value = self.compute()
            if not self.readers:
                return value
            self.hold(value)
        return self.value  # pyright: ignore[reportReturnType]

    def hold(self, value: Tensor) -> None:
        """Give this to every reader, unless it is changed in between."""
        self.value, self.version = value, value._version

    def materialize(self) -> None:
        """Keep the result itself, as a source is about to change."""
        self.function, self.sources = torch.clone, [self.compute()]
        self.versions = [self.sources[0]._version]


class Part(NamedTuple):
    """A view of the result of a recipe."""

    recipe: Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def read(self) -> Tensor:
        """Return the view of the result."""
        return self.recipe.cached().as_strided(self.size, self.stride, self.offset)


class Kept(NamedTuple):
    """A tensor that autograd keeps, and its version, which PyTorch does not check where there are hooks."""

    tensor: Tensor
    version: int


def _length(source: Any) -> int:
    return source.recipe.length if isinstance(source, Part) else 0


class Recompute(TorchFunctionMode):
    """Context of a forward pass whose backward pass computes cheap results again."""

    def __init__(self) -> None:
        super().__init__()
        # by the address of a tensor's memory: its recipe and version (changed since, the recipe is void)
        self.recipes: dict[int, tuple[Recipe, int]] = {}
        self.users: dict[int, list[weakref.ref[Recipe]]] = {}  # recipes that read a kept tensor
        self.paused = False
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, unpack)

    def __enter__(self) -> Recompute:
        self.hooks.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.hooks.__exit__(*error)
        self.recipes.clear()
        self.users.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused or not torch.is_grad_enabled() or "out" in kwargs:
            return self._other(func, args, kwargs)
        if func in ACTIVATIONS:
            if kwargs.get("inplace") or args[1:2] == (True,):
                return self._in_place(ACTIVATIONS[func], args[:1], {}, run=lambda: func(*args, **kwargs))
            return self._new(func, args, kwargs)
        if func in CHEAP:
            return self._new(func, args, kwargs)
        if func in CHEAP_IN_PLACE:
            return self._in_place(func, args, kwargs, run=lambda: func(*args, **kwargs))
        if func is F.batch_norm:
            result = func(*args, **kwargs)
            self._note_norm(result, _Norm(*args, **kwargs))
            return result
        return self._other(func, args, kwargs)

    def _other(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.users and args and _is_in_place(func.__name__, args, kwargs):
            self._before_change(args[0])
        return func(*args, **kwargs)

    def _new(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation with a new result, and note it if one of its arguments can be computed again."""
        result = func(*args, **kwargs)
        flat = [*args[0], *args[1:]] if func is torch.cat else list(args)
        parts = [self.find(value) if isinstance(value, Tensor) else None for value in flat]
        # of one dtype: neither autocast nor promotion had a part in it
        if any(parts) and all(_is_alike(value, result) for value in [*flat, *kwargs.values()]):
            count = len(args[0]) if func is torch.cat else 0
            function = _cat(count) if count else func
            sources = [
                part or (value.detach() if isinstance(value, Tensor) else value)
                for part, value in zip(parts, flat, strict=True)
            ]
            named = {k: v.detach() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
            self.add(result, Recipe(_Named(function, named) if named else function, sources, result))
        return result

    def _in_place(self, func: Any, args: Any, kwargs: Any, *, run: Callable[[], Any]) -> Any:
        """Run an in-place operation; its result is noted before, as autograd saves it at once."""
        x, others = args[0], args[1:]
        self._before_change(x)
        before = self.find(x)
        simple = not kwargs and all(_is_alike(value, x) for value in others)
        if (
            before is not None
            and simple
            and (before.size, before.stride) == (before.recipe.size, before.recipe.stride)
        ):
            recipe, count = before.recipe, len(before.recipe.sources)

            def function(*values: Any) -> Tensor:
                return func(recipe_function(*values[:count]), *values[count:])

            recipe_function = recipe.function
            further = [self.find(v) or v.detach() if isinstance(v, Tensor) else v for v in others]
            self.add(x, Recipe(function, [*recipe.sources, *further], x), changes=1)
        return run()

    def _note_norm(self, result: Tensor, norm: _Norm) -> None:
        step: Any = result.grad_fn
        if type(step).__name__ != "NativeBatchNormBackward0" or norm.weight is None or norm.bias is None:
            return  # another kernel, such as cuDNN's
        scale, eps = norm.weight.detach(), norm.eps
        if norm.training or norm.running_mean is None or norm.running_var is None:
            # the kernel multiplies by weight / deviation: given so, the product is that of the first pass
            mean, scale = step._saved_result1.detach(), scale * step._saved_result2.detach()
            variance, eps = torch.ones_like(mean), 0.0
        else:
            mean, variance = norm.running_mean.clone(), norm.running_var.clone()

        def function(*sources: Tensor) -> Tensor:
            # F.batch_norm refuses an epsilon of zero in PyTorch 2.11
            return torch.batch_norm(*sources, training=False, momentum=0.0, eps=eps, cudnn_enabled=False)

        sources = [self.find(norm.input) or norm.input.detach(), scale, norm.bias.detach(), mean, variance]
        self.add(result, Recipe(function, sources, result))

    def add(self, tensor: Tensor, recipe: Recipe, *, changes: int = 0) -> None:
        """Note how a tensor can be computed again, after so many more changes in place."""
        if recipe.length > LONGEST:
            return
        address = tensor.untyped_storage().data_ptr()
        self.recipes[address] = (recipe, tensor._version + changes)
        weakref.finalize(tensor, self.forget, address, recipe).atexit = False
        for source in recipe.sources:
            if isinstance(source, Tensor):
                users = self.users.setdefault(source.untyped_storage().data_ptr(), [])
                users.append(weakref.ref(recipe))

    def forget(self, address: int, recipe: Recipe) -> None:
        """Forget a tensor that is gone: its memory may soon hold something else."""
        if address in self.recipes and self.recipes[address][0] is recipe:
            del self.recipes[address]

    def find(self, tensor: Tensor) -> Part | None:
        """Return how a tensor can be computed again, None if it must be kept."""
        if not self.recipes or tensor.layout is not torch.strided:
            return None
        recipe, version = self.recipes.get(tensor.untyped_storage().data_ptr(), (None, 0))
        if recipe is None or version != tensor._version:
            return None
        return Part(recipe, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def force_save(self, tensor: Tensor) -> None:
        """Keep a tensor that could be computed again, where that would take too much memory."""
        if part := self.find(tensor):
            part.recipe.hold(tensor.detach())

    def pack(self, tensor: Tensor) -> Kept | Part:
        """Decide what autograd keeps of a tensor."""
        part = None if self.paused else self.find(tensor)
        if part is None:
            return Kept(tensor, tensor._version)
        part.recipe.readers += 1
        return part

    def _before_change(self, tensor: Any) -> None:
        """Compute what needs a tensor that is about to be changed."""
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
            for reference in self.users.pop(tensor.untyped_storage().data_ptr(), ()):
                recipe = reference()
                if recipe is not None:
                    recipe.materialize()


def unpack(kept: Kept | Part) -> Tensor:
    """Return the tensor that was packed.

    Raises:
        RuntimeError: it was changed in place since.
    """
    if isinstance(kept, Kept):
        if kept.tensor._version != kept.version:
            raise RuntimeError(CHANGED)
        return kept.tensor
    value = kept.read()
    kept.recipe.readers -= 1
    if kept.recipe.readers == 0:
        kept.recipe.value = None
    return value


class _Norm(NamedTuple):
    """The arguments of ``F.batch_norm``."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


class _Named(NamedTuple):
    """A function with keyword arguments."""

    function: Callable[..., Tensor]
    named: dict[str, Any]

    def __call__(self, *args: Any) -> Tensor:
        return self.function(*args, **self.named)


def _cat(count: int) -> Callable[..., Tensor]:
    return lambda *values: torch.cat(values[:count], *values[count:])


def _is_alike(value: Any, result: Tensor) -> bool:
    return not isinstance(value, Tensor) or value.dtype == result.dtype


def _is_in_place(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether a function changes its first argument: ``add_``, ``__iadd__``, ``inplace=True``."""
    if name.endswith("__"):
        return name.startswith("__i") or name == "__setitem__"
    return name.endswith("_") or bool(kwargs.get("inplace")) or any(value is True for value in args[1:])


@contextlib.contextmanager
def recompute_context(model: nn.Module) -> Iterator[None]:
    """Run a training model's forward pass under ``Recompute``.

    The last two stages of the backbone are kept: the heads' backward pass, where memory is at its peak, would
    otherwise compute a whole stage again and hold it.
    """
    mode = Recompute()

    def keep_last_stages(_: nn.Module, args: Any, stages: Any) -> None:
        for stage in stages[-2:] if isinstance(stages, list | tuple) else ():
            mode.force_save(stage)

    backbone = getattr(model, "backbone", None)
    hook = backbone.register_forward_hook(keep_last_stages) if isinstance(backbone, nn.Module) else None
    global _active
    try:
        with mode:
            _active = mode
            yield
    finally:
        _active = None
        if hook is not None:
            hook.remove()


_active: Recompute | None = None


@contextlib.contextmanager
def no_recompute() -> Iterator[None]:
    """Note nothing of a part of the forward pass."""
    mode = _active
    if mode is None or mode.paused:
        yield
        return
    mode.paused = True
    try:
        yield
    finally:
        mode.paused = False


def note(result: Tensor, function: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """Note that a result, which is returned, is a function of sources of which one can be computed again."""
    if _active is not None and not _active.paused:
        parts = [_active.find(source) for source in sources]
        if any(parts):
            kept = [part or source.detach() for part, source in zip(parts, sources, strict=True)]
            _active.add(result, Recipe(function, kept, result))
    return result
