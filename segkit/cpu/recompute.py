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
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segkit.cpu import depthwise, resize

MAX_DEPTH = 8  # recipes that build on each other before a result is stored: about eight blocks of a stage
CHEAP = {  # the result is a new tensor
    *(torch.relu, Tensor.relu, torch.add, Tensor.add, Tensor.__add__, torch.mul, Tensor.mul),
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
        inputs: stored tensors, views of other recipes, and constants.
        depth: recipes that build on each other, this one included.
        readers: tensors stored by autograd that need the result; the last one frees ``value``.
    """

    inputs: Sequence[Any]

    def __init__(self, function: Callable[..., Tensor], inputs: Sequence[Any], result: Tensor) -> None:
        self.function, self.inputs = function, inputs
        self.depth = 1 + max(_depth(value) for value in inputs)
        self.size, self.stride = result.size(), result.stride()
        self.readers = 0
        self.value: StoredTensor | None = None

    def compute(self) -> Tensor:
        """Compute the result."""
        values = [*self.inputs]
        # The deepest input first: a row of sums then needs two tensors at a time, not one for each sum.
        for index in sorted(range(len(values)), key=lambda index: -_depth(values[index])):
            if isinstance(values[index], StoredTensor | RecipeView):
                values[index] = values[index].read()
        with torch.no_grad():
            return self.function(*values)

    def result(self) -> Tensor:
        """Return the result, computed once for all readers; it is computed again if it was changed."""
        if self.value is not None and self.value.is_unchanged():
            return self.value.tensor
        result = self.compute()
        if self.readers:
            self.value = store(result)
        return result

    def materialize(self) -> None:
        """Replace the recipe with its result, as one of its inputs is about to change."""
        self.function, self.inputs = torch.clone, [store(self.compute())]


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
    """A tensor and its version, which PyTorch does not check for hooks."""

    tensor: Tensor
    version: int

    def is_unchanged(self) -> bool:
        """Return whether the tensor has not been changed in place."""
        return self.tensor._version == self.version

    def read(self) -> Tensor:
        """Return the tensor.

        Raises:
            RuntimeError: it was changed in place after the forward pass.
        """
        if not self.is_unchanged():
            raise RuntimeError(CHANGED_IN_PLACE)
        return self.tensor


def store(tensor: Tensor) -> StoredTensor:
    """Store a tensor with its present version."""
    return StoredTensor(tensor.detach(), tensor._version)


def _depth(value: Any) -> int:
    if isinstance(value, RecipeView):
        return value.recipe.depth
    return 0


class FastOperations(TorchFunctionMode):
    """Context in which some operations have faster gradients."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return FASTER.get(func, func)(*args, **(kwargs or {}))


class Recompute(TorchFunctionMode):
    """Context of a forward pass whose backward pass recomputes cheap results.

    Attributes:
        recipes: by the address of a result's memory: its recipe and the version it is valid for.
        dependents: by the address of a stored tensor's memory: the recipes that read it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recipes: dict[int, tuple[Recipe, int]] = {}
        self.dependents: defaultdict[int, weakref.WeakSet[Recipe]] = defaultdict(weakref.WeakSet)
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, unpack)

    def __enter__(self) -> Recompute:
        global _active
        _active = self
        self.hooks.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        global _active
        _active = None
        super().__exit__(*error)
        self.hooks.__exit__(*error)
        self.recipes.clear()
        self.dependents.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func, kwargs = FASTER.get(func, func), kwargs or {}
        can_register = _active is self and torch.is_grad_enabled() and args and "out" not in kwargs
        is_in_place = _is_in_place(func.__name__, args, kwargs)
        if can_register and func is F.batch_norm:
            result = func(*args, **kwargs)
            self._register_batch_norm(result, args[0], kwargs.get("bias"))  # as it passes its arguments on
            return result
        if can_register and (func in CHEAP or (func in ACTIVATIONS and not is_in_place)):
            return self._run_cheap(func, args, kwargs)
        if can_register and (func in ACTIVATIONS or func in CHEAP_IN_PLACE):
            self._register_in_place(func, args, kwargs)
        elif is_in_place and args:
            self._materialize_dependents(args[0])
        return func(*args, **kwargs)

    def _run_cheap(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation with a new result; register it if one of its inputs can be recomputed."""
        result = func(*args, **kwargs)
        values, others = args, ()
        if func is torch.cat:  # of a list of tensors
            values, others = args[0], args[1:]

        def compute(*values: Any) -> Tensor:
            if func is torch.cat:
                return torch.cat(values, *others, **kwargs)
            return func(*values, **kwargs)

        # Equal dtypes: neither autocast nor type promotion took part.
        is_simple = all(_has_dtype(value, result.dtype) for value in values)
        if is_simple and not any(isinstance(value, Tensor) for value in kwargs.values()):
            self.register_result(result, compute, values)
        return result

    def _register_in_place(self, func: Any, args: Any, kwargs: Any) -> None:
        """Register the result of an operation before it changes its input: autograd stores it in the call."""
        x, others = args[0], args[1:]
        if func in ACTIVATIONS:
            func, others, kwargs = ACTIVATIONS[func], (), {}
        self._materialize_dependents(x)
        view = self.find(x)
        if view is None or kwargs or not all(_has_dtype(value, x.dtype) for value in others):
            return
        recipe, function, count = view.recipe, view.recipe.function, len(view.recipe.inputs)
        if (view.size, view.stride) != (recipe.size, recipe.stride):  # a part of the result
            return

        def change(*values: Any) -> Tensor:
            return func(function(*values[:count]), *values[count:])

        inputs = [*recipe.inputs, *map(self._as_input, others)]
        self._register(x, Recipe(change, inputs, x), changes=1)

    def _register_batch_norm(self, result: Tensor, input: Tensor, bias: Tensor | None) -> None:
        step: Any = result.grad_fn
        if type(step).__name__ != "NativeBatchNormBackward0" or step._saved_weight is None or bias is None:
            return  # another kernel, such as cuDNN's
        mean, variance = step._saved_running_mean, step._saved_running_var
        scale, eps = step._saved_weight.detach(), step._saved_eps
        if step._saved_training or mean is None:
            # The kernel multiplies by weight / std. With this scale, the product is that of the first pass.
            mean, scale = step._saved_result1, scale * step._saved_result2
            variance, eps = torch.ones_like(mean), 0.0
        else:
            mean, variance = mean.clone(), variance.clone()

        def normalize(*values: Tensor) -> Tensor:
            # F.batch_norm refuses an epsilon of zero in PyTorch 2.11
            return torch.batch_norm(*values, training=False, momentum=0.0, eps=eps, cudnn_enabled=False)

        inputs = [self._as_input(value) for value in (input, scale, bias, mean, variance)]
        self._register(result, Recipe(normalize, inputs, result))

    def register_result(self, result: Tensor, function: Callable[..., Tensor], values: Sequence[Any]) -> None:
        """Register ``function(*values)`` as the way to recompute a result, if that saves memory."""
        inputs = [self._as_input(value) for value in values]
        if any(isinstance(value, RecipeView) for value in inputs):
            self._register(result, Recipe(function, inputs, result))

    def _register(self, tensor: Tensor, recipe: Recipe, *, changes: int = 0) -> None:
        """Register how a tensor can be recomputed, once it has changed in place ``changes`` more times."""
        if recipe.depth > MAX_DEPTH:
            return
        address = tensor.untyped_storage().data_ptr()
        self.recipes[address] = (recipe, tensor._version + changes)
        weakref.finalize(tensor, self._forget, address, recipe).atexit = False
        for value in recipe.inputs:
            if isinstance(value, StoredTensor):
                self.dependents[value.tensor.untyped_storage().data_ptr()].add(recipe)

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
        return self.find(value) or store(value)

    def force_save(self, tensor: Tensor) -> None:
        """Store a tensor although it could be recomputed, where that would take too much memory."""
        if view := self.find(tensor):
            view.recipe.value = store(tensor)

    def pack(self, tensor: Tensor) -> StoredTensor | RecipeView:
        """Return what autograd stores in place of a tensor."""
        view = self.find(tensor) if _active is self else None
        if view is None:
            return store(tensor)
        view.recipe.readers += 1
        return view

    def _materialize_dependents(self, tensor: Any) -> None:
        """Compute the recipes that read a tensor which is about to change."""
        if isinstance(tensor, Tensor) and tensor.layout is torch.strided:
            for recipe in self.dependents.pop(tensor.untyped_storage().data_ptr(), ()):
                recipe.materialize()


def unpack(packed: StoredTensor | RecipeView) -> Tensor:
    """Return the tensor that was packed."""
    value = packed.read()
    if isinstance(packed, RecipeView):
        packed.recipe.readers -= 1
        if packed.recipe.readers == 0:
            packed.recipe.value = None
    return value


def _has_dtype(value: Any, dtype: torch.dtype) -> bool:
    return not isinstance(value, Tensor) or value.dtype == dtype


def _is_in_place(name: str, args: Any, kwargs: Any) -> bool:
    """Return whether a function may change its first argument: ``add_``, ``__iadd__``, ``inplace=True``."""
    if name.endswith("__"):
        return name.startswith("__i") or name == "__setitem__"
    return name.endswith("_") or bool(kwargs.get("inplace")) or any(value is True for value in args[1:])


_active: Recompute | None = None  # None also in parts of a forward pass without recomputation


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

    with contextlib.ExitStack() as stack:
        backbone = getattr(model, "backbone", None)
        if isinstance(backbone, nn.Module):
            stack.callback(backbone.register_forward_hook(store_last_stages).remove)
        stack.enter_context(mode)
        yield


@contextlib.contextmanager
def no_recompute() -> Iterator[contextlib.AbstractContextManager[Any]]:
    """Run a part of the forward pass without recomputation; yield a context in which to run it again."""
    global _active
    before, _active = _active, None
    try:
        yield contextlib.nullcontext() if before is None else FastOperations()
    finally:
        _active = before


def register_result(result: Tensor, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Register ``function(*inputs)`` as the way to recompute a result, which is returned."""
    if _active is not None:
        _active.register_result(result, function, inputs)
    return result
