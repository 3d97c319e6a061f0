"""Recompute cheap results in the backward pass instead of storing them.

Plain autograd stores the input of every convolution. Most of these inputs are cheap: normalized, rectified,
added or blended outputs of other convolutions. ``Recompute`` stores the outputs of convolutions (and of all
operations it does not know) and, for the cheap results, a ``Recipe``: a function and its inputs. The backward
pass runs the same kernels on the same numbers, so gradients equal those of plain autograd to the bit. A
bottleneck with Split-Attention stores 7 maps instead of 15. The idea is that of Chen et al. 2016 (arXiv
1604.06174) and of in-place activated batch norm (arXiv 1712.02616).

1. ``Recompute.__torch_function__`` sees every operation and registers a recipe for each cheap result, under
   the address of its memory.
2. When autograd stores a tensor, ``Recompute.pack`` replaces it with a view of its recipe, if there is one.
3. When the backward pass needs the tensor, ``unpack`` computes the recipe.

Tensors that change in place are safe: a recipe is valid for one version of its result only, and recipes that
read a tensor are computed before it changes.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segkit.cpu import depthwise, resize

MAX_DEPTH = 8  # recipes that build on each other before a result is stored: about eight blocks of a stage
CHEAP = {  # the result is a new tensor
    *(torch.relu, Tensor.relu, F.silu, torch.add, Tensor.add, Tensor.__add__, torch.mul, Tensor.mul),
    *(Tensor.__mul__, torch.addcmul, Tensor.addcmul, torch.cat, F.avg_pool2d),
}
CHEAP_IN_PLACE = {torch.relu_, Tensor.relu_, Tensor.add_, Tensor.__iadd__, Tensor.mul_, Tensor.__imul__}
FASTER = {torch.conv2d: depthwise.conv2d, F.interpolate: resize.interpolate}  # run instead
ACTIVATIONS = {F.relu: torch.relu_, F.silu: torch.ops.aten.silu_}  # with their in-place kernels
CHANGED_IN_PLACE = (
    "a tensor needed for the backward pass was changed in place. Change a copy of it, or set"
    " runtime.optimize_cpu=false"
)


class Recipe:
    """A function and its inputs, which compute a result again; the result is always a new tensor.

    Attributes:
        inputs: tensors that are stored, views of other recipes, and constants.
        depth: recipes that build on each other, this one included.
        readers: tensors stored by autograd that need the result; the last one frees ``value``.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Any], result: Tensor) -> None:
        self.function, self.inputs = function, inputs
        self.versions = [value._version if isinstance(value, Tensor) else 0 for value in inputs]
        self.depth = 1 + max(_depth(value) for value in inputs)
        self.size, self.stride = result.size(), result.stride()
        self.readers = 0
        self.value: Tensor | None = None
        self.value_version = 0

    def compute(self) -> Tensor:
        """Compute the result.

        Raises:
            RuntimeError: an input was changed in place after the forward pass.
        """
        values: dict[int, Any] = {}
        # The deepest input first: a row of sums then needs two tensors at a time, not one for each sum.
        for index in sorted(range(len(self.inputs)), key=lambda index: -_depth(self.inputs[index])):
            value = self.inputs[index]
            if isinstance(value, Tensor) and value._version != self.versions[index]:
                raise RuntimeError(CHANGED_IN_PLACE)
            values[index] = value.read() if isinstance(value, RecipeView) else value
        with torch.no_grad():
            return self.function(*[values[index] for index in range(len(values))])

    def result(self) -> Tensor:
        """Return the result, computed once for all readers."""
        if self.value is not None and self.value._version == self.value_version:
            return self.value
        value = self.compute()
        if self.readers:
            self.store(value)
        return value

    def store(self, value: Tensor) -> None:
        """Store the result for all readers; it is dropped if it changes."""
        self.value, self.value_version = value, value._version

    def materialize(self) -> None:
        """Replace the recipe with its result, as one of its inputs is about to change."""
        result = self.compute()
        self.function, self.inputs, self.versions = torch.clone, [result], [result._version]


class RecipeView(NamedTuple):
    """A view of the result of a recipe."""

    recipe: Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def read(self) -> Tensor:
        """Return the view of the recipe's result, which is computed if it is not stored."""
        return self.recipe.result().as_strided(self.size, self.stride, self.offset)


class StoredTensor(NamedTuple):
    """A tensor that autograd stores, and its version, which PyTorch does not check for hooks."""

    tensor: Tensor
    version: int


def _depth(value: Any) -> int:
    if isinstance(value, RecipeView):
        return value.recipe.depth
    return 0


class Recompute(TorchFunctionMode):
    """Context of a forward pass whose backward pass recomputes cheap results.

    Attributes:
        recipes: by the address of a result's memory: its recipe and the version it is valid for.
        dependents: by the address of a stored tensor's memory: the recipes that read it.
        paused: if set, nothing is registered.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recipes: dict[int, tuple[Recipe, int]] = {}
        self.dependents: dict[int, list[weakref.ref[Recipe]]] = {}
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
        self.dependents.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        func = FASTER.get(func, func)
        if self.paused or not torch.is_grad_enabled() or "out" in kwargs:
            return self._run_unknown(func, args, kwargs)
        if func in ACTIVATIONS and args:
            if kwargs.get("inplace") or args[1:2] == (True,):
                self._register_in_place(ACTIVATIONS[func], args[0], (), {})
                return func(*args, **kwargs)
            return self._run_cheap(func, args, kwargs)
        if func in CHEAP:
            return self._run_cheap(func, args, kwargs)
        if func in CHEAP_IN_PLACE:
            self._register_in_place(func, args[0], args[1:], kwargs)
            return func(*args, **kwargs)
        if func is F.batch_norm:
            result = func(*args, **kwargs)
            self._register_batch_norm(result, _BatchNormArguments(*args, **kwargs))
            return result
        return self._run_unknown(func, args, kwargs)

    def _run_unknown(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self.dependents and args and _is_in_place(func.__name__, args, kwargs):
            self._materialize_dependents(args[0])
        return func(*args, **kwargs)

    def _run_cheap(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation with a new result; register it if one of its inputs can be recomputed."""
        result = func(*args, **kwargs)
        values, function = list(args), func
        if func is torch.cat and args:  # of a list of tensors
            values, function = list(args[0]), _cat(args[1:])
        if kwargs:
            function = functools.partial(function, **kwargs)
        # Equal dtypes: neither autocast nor type promotion took part.
        is_simple = all(_has_dtype(value, result.dtype) for value in values)
        is_simple = is_simple and not any(isinstance(value, Tensor) for value in kwargs.values())
        if is_simple:
            inputs = [self._as_input(value) for value in values]
            if any(isinstance(value, RecipeView) for value in inputs):
                self.register(result, Recipe(function, inputs, result))
        return result

    def _register_in_place(self, func: Any, x: Tensor, others: Sequence[Any], kwargs: Any) -> None:
        """Register the result of an operation that is about to change ``x``; autograd stores it at once."""
        self._materialize_dependents(x)
        before = self.find(x)
        if before is None or kwargs or not all(_has_dtype(value, x.dtype) for value in others):
            return
        recipe, function, count = before.recipe, before.recipe.function, len(before.recipe.inputs)
        if (before.size, before.stride) != (recipe.size, recipe.stride):
            return

        def change(*values: Any) -> Tensor:
            return func(function(*values[:count]), *values[count:])

        inputs = [*recipe.inputs, *map(self._as_input, others)]
        self.register(x, Recipe(change, inputs, x), changes=1)

    def _register_batch_norm(self, result: Tensor, norm: _BatchNormArguments) -> None:
        step: Any = result.grad_fn
        if type(step).__name__ != "NativeBatchNormBackward0" or norm.weight is None or norm.bias is None:
            return  # another kernel, such as cuDNN's
        scale, eps = norm.weight.detach(), norm.eps
        if norm.training or norm.running_mean is None or norm.running_var is None:
            # The kernel multiplies by weight / std. With this scale, the product is that of the first pass.
            mean, scale = step._saved_result1.detach(), scale * step._saved_result2.detach()
            variance, eps = torch.ones_like(mean), 0.0
        else:
            mean, variance = norm.running_mean.clone(), norm.running_var.clone()

        def normalize(*values: Tensor) -> Tensor:
            # F.batch_norm refuses an epsilon of zero in PyTorch 2.11
            return torch.batch_norm(*values, training=False, momentum=0.0, eps=eps, cudnn_enabled=False)

        inputs = [self._as_input(norm.input), scale, norm.bias.detach(), mean, variance]
        self.register(result, Recipe(normalize, inputs, result))

    def register(self, tensor: Tensor, recipe: Recipe, *, changes: int = 0) -> None:
        """Register how a tensor can be recomputed, once it has changed in place ``changes`` more times."""
        if recipe.depth > MAX_DEPTH:
            return
        address = tensor.untyped_storage().data_ptr()
        self.recipes[address] = (recipe, tensor._version + changes)
        weakref.finalize(tensor, self._forget, address, recipe).atexit = False
        for value in recipe.inputs:
            if isinstance(value, Tensor):
                dependents = self.dependents.setdefault(value.untyped_storage().data_ptr(), [])
                dependents.append(weakref.ref(recipe))

    def _forget(self, address: int, recipe: Recipe) -> None:
        """Remove a tensor that no longer exists: its memory may soon hold something else."""
        if address in self.recipes and self.recipes[address][0] is recipe:
            del self.recipes[address]

    def find(self, tensor: Tensor) -> RecipeView | None:
        """Return how a tensor can be recomputed, or None if it must be stored."""
        if not self.recipes or tensor.layout is not torch.strided:
            return None
        recipe, version = self.recipes.get(tensor.untyped_storage().data_ptr(), (None, 0))
        if recipe is None or version != tensor._version:
            return None
        return RecipeView(recipe, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def _as_input(self, value: Any) -> Any:
        """Return a value as an input of a recipe."""
        if not isinstance(value, Tensor):
            return value
        return self.find(value) or value.detach()

    def force_save(self, tensor: Tensor) -> None:
        """Store a tensor although it could be recomputed, where that would take too much memory."""
        if view := self.find(tensor):
            view.recipe.store(tensor.detach())

    def pack(self, tensor: Tensor) -> StoredTensor | RecipeView:
        """Return what autograd stores in place of a tensor."""
        view = None if self.paused else self.find(tensor)
        if view is None:
            return StoredTensor(tensor, tensor._version)
        view.recipe.readers += 1
        return view

    def _materialize_dependents(self, tensor: Any) -> None:
        """Compute the recipes that read a tensor which is about to change."""
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
            for reference in self.dependents.pop(tensor.untyped_storage().data_ptr(), ()):
                recipe = reference()
                if recipe is not None:
                    recipe.materialize()


def unpack(packed: StoredTensor | RecipeView) -> Tensor:
    """Return the tensor that was packed.

    Raises:
        RuntimeError: it was changed in place since.
    """
    if isinstance(packed, StoredTensor):
        if packed.tensor._version != packed.version:
            raise RuntimeError(CHANGED_IN_PLACE)
        return packed.tensor
    value, recipe = packed.read(), packed.recipe
    recipe.readers -= 1
    if recipe.readers == 0:
        recipe.value = None
    return value


class _BatchNormArguments(NamedTuple):
    """The arguments of ``F.batch_norm``."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


def _cat(constants: Sequence[Any]) -> Callable[..., Tensor]:
    return lambda *tensors, **kwargs: torch.cat(tensors, *constants, **kwargs)


def _has_dtype(value: Any, dtype: torch.dtype) -> bool:
    return not isinstance(value, Tensor) or value.dtype == dtype


def _is_in_place(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether a function changes its first argument: ``add_``, ``__iadd__``, ``inplace=True``."""
    if name.endswith("__"):
        return name.startswith("__i") or name == "__setitem__"
    return name.endswith("_") or bool(kwargs.get("inplace")) or any(value is True for value in args[1:])


_active: Recompute | None = None


@contextlib.contextmanager
def recompute_context(model: nn.Module) -> Iterator[None]:
    """Run a training model's forward pass under ``Recompute``.

    The last two stages of the backbone are stored: the heads' backward pass, where memory is at its peak,
    would otherwise recompute a whole stage.
    """
    mode = Recompute()

    def store_last_stages(_: nn.Module, args: Any, stages: Any) -> None:
        if isinstance(stages, list | tuple):
            for stage in stages[-2:]:
                mode.force_save(stage)

    backbone = getattr(model, "backbone", None)
    hook = None
    if isinstance(backbone, nn.Module):
        hook = backbone.register_forward_hook(store_last_stages)
    global _active
    try:
        with mode:
            _active = mode
            yield
    finally:
        _active = None
        if hook is not None:
            hook.remove()


@contextlib.contextmanager
def no_recompute() -> Iterator[None]:
    """Register no recipes in a part of the forward pass."""
    mode = _active
    if mode is None:
        yield
        return
    was_paused, mode.paused = mode.paused, True
    try:
        yield
    finally:
        mode.paused = was_paused


def register_result(result: Tensor, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Register ``function(*inputs)`` as the way to recompute a result, which is returned."""
    mode = _active
    if mode is not None and not mode.paused:
        values = [mode._as_input(value) for value in inputs]
        if any(isinstance(value, RecipeView) for value in values):
            mode.register(result, Recipe(function, values, result))
    return result
