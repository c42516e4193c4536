"""Tensors as the core steps them, and the state of a parameter under PyTorch's names.

The core takes dense real tensors with memory of their own.  A complex parameter is stepped through a real view, the
local shard of a DTensor in its place, and a parameter with gaps through a dense copy, which is assigned back.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ...arrays.checks import is_dense
from ...arrays.families import family_of
from ...arrays.rows import Rows
from ...options.schema import SCALES, shown_state

if TYPE_CHECKING:
    from ...options.settings import RuleClass

with contextlib.suppress(ImportError):  # NumPy's name for bfloat16
    import ml_dtypes  # noqa: F401

_ADAM = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}
_NAMES = {
    "sgd": {"b": "momentum_buffer"},
    **dict.fromkeys(("adam", "adamw", "nadam", "radam"), _ADAM),
    "soap": {"m": "exp_avg", "v": "exp_avg_sq"},
    "muon": {"m": "momentum_buffer"},
    "normuon": {"m": "momentum_buffer", "v": "second_momentum_buffer"},
    "adafactor": {"r": "row_var", "c": "col_var", "v": "variance"},
    "adamax": {"m": "exp_avg", "u": "exp_inf"},
    "adadelta": {"s": "square_avg", "x": "acc_delta"},
    "adagrad": {"s": "sum"},
    "rmsprop": {"s": "square_avg", "g_avg": "grad_avg", "b": "momentum_buffer"},
}


def names_of(optimizer: type[RuleClass]) -> Mapping[str, str]:
    """Return PyTorch's name of each state array; one that PyTorch does not have keeps its own."""
    known = _NAMES.get(optimizer.name, {})
    return {name: known.get(name, name) for name in optimizer.state_schema}


def _nadam_numbers(options: Mapping[str, Any], t: int) -> dict[str, float]:
    beta1, rate = float(options["betas"][0]), options["momentum_decay"]
    product = 1.0
    for step in range(1, t + 1):
        product *= beta1 if rate is None else beta1 * (1 - 0.5 * 0.96 ** (step * float(rate)))
        if not product:
            break
    return {"mu_product": product}


def _asgd_numbers(options: Mapping[str, Any], t: int) -> dict[str, float]:
    lr = float(options["lr"])
    eta = lr / (1 + float(options["lambd"]) * lr * t) ** float(options["alpha"])
    return {"eta": eta, "mu": 1 / max(1.0, t - float(options["t0"]))}


def no_numbers(options: Mapping[str, Any], t: int) -> dict[str, float]:
    """Return nothing."""
    return {}


#: Numbers that PyTorch keeps as state and that follow from the options and the step.
NUMBERS: dict[str, Callable[[Mapping[str, Any], int], dict[str, float]]] = {
    "nadam": _nadam_numbers,
    "asgd": _asgd_numbers,
}


def scalar_tensor(number: float) -> Any:
    """Return a number as a tensor of the type that PyTorch keeps step counts in."""
    return torch.tensor(number, dtype=step_dtype())


def step_dtype() -> Any:
    """Return the type of step counts: float64 only if that is PyTorch's default."""
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32


def with_tensors(value: Any) -> Any:
    """Return nested values with new tensors in the places of NumPy arrays."""
    if isinstance(value, dict):
        return {key: with_tensors(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(with_tensors, value))
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.name == "bfloat16":
        return torch.tensor(value.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(value)


def is_sharded(tensor: Any) -> bool:
    """Return whether this is a DTensor."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")  # which has made the tensor
    return module is not None and isinstance(tensor, module.DTensor)


def inner(tensor: Any) -> Any:
    """Return the real, strided tensor with the elements that this process holds."""
    if is_sharded(tensor):
        tensor = tensor.detach().to_local()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.detach().resolve_conj())
    return tensor


def outer(array: Any, like: Any) -> Any:
    """Return a state array as PyTorch keeps it for a parameter: complex, or a DTensor, if it has its elements."""
    if isinstance(array, np.ndarray):
        array = torch.from_numpy(array)
    if array.shape != inner(like).shape or (array.dtype == torch.float64 and not array.dim()):
        return array
    if like.is_complex() and array.is_floating_point() and array.dtype != torch.bfloat16:  # which have complex types
        array = torch.view_as_complex(array)
    if is_sharded(like):
        place = {"device_mesh": like.device_mesh, "placements": like.placements, "run_check": False}
        array = type(like.detach()).from_local(array, **place, shape=like.shape, stride=like.stride())
    return array


class Target(NamedTuple):
    """A parameter, and the array in its place that the core steps."""

    tensor: Any
    array: Any
    is_copy: bool
    """True if the array is a copy without the parameter's gaps."""
    layout: tuple[Any, ...]
    """Type, shape and strides of the parameter."""

    @classmethod
    def of(cls, tensor: Any, place: str) -> Target:
        """Make it."""
        if tensor.is_meta:
            raise TypeError(f"{place}: expected a tensor with memory, got one on the device meta")
        if tensor.is_conj():
            raise TypeError(f"{place}: expected a tensor without lazy conjugation; pass tensor.resolve_conj()")
        array = inner(tensor)
        family = family_of(array)
        is_copy = family is not None and not is_dense(family.metadata(array, place))
        if is_copy:
            array = array.detach().clone(memory_format=torch.contiguous_format)
        return cls(tensor, array, is_copy, _layout_of(tensor))

    @property
    def is_plain(self) -> bool:
        """True if the core steps the parameter itself."""
        return self.array is self.tensor

    def has_moved(self) -> bool:
        """Return whether the parameter has another layout, or other memory than the view of it."""
        if _layout_of(self.tensor) != self.layout:
            return True
        return not (self.is_plain or self.is_copy) and self.array.data_ptr() != inner(self.tensor).data_ptr()

    def pull(self) -> None:
        """Copy the parameter's elements into a copy."""
        if self.is_copy:
            self.array.copy_(inner(self.tensor).detach())

    def push(self) -> None:
        """Copy a copy's elements into the parameter."""
        if self.is_copy:
            inner(self.tensor).detach().copy_(self.array)


def _layout_of(tensor: Any) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.stride()


def gradient_of(tensor: Any, place: str) -> Any:
    """Return the gradient of a parameter that is not stepped itself, or is sparse, then as `Rows`."""
    grad = tensor.grad
    if grad is None or not grad.is_sparse:
        return None if grad is None else _without_negation(inner(grad))
    if grad.sparse_dim() != 1:
        raise ValueError(
            f"{place}: expected a sparse gradient of whole rows, with one sparse dimension, got {grad.sparse_dim()}"
        )
    return Rows(grad._indices()[0], _without_negation(inner(grad._values())))


def _without_negation(tensor: Any) -> Any:
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def state_arrays(state: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Yield the core's name of each state array that a parameter has, and the array."""
    for name, own in names.items():
        value = state.get(own)
        parts = {name: value.get("codes"), name + SCALES: value.get("scales")} if type(value) is dict else {name: value}
        yield from ((key, inner(part)) for key, part in parts.items() if isinstance(part, torch.Tensor))


def shown_arrays(arrays: Mapping[str, Any], names: Mapping[str, str], like: Any) -> dict[str, Any]:
    """Return the core's state arrays of a parameter as PyTorch keeps them; those in blocks as codes and scales."""
    shown = shown_state({name: outer(array, like) for name, array in arrays.items()})
    return {names[name]: value for name, value in shown.items()}


def tensors_in(state: Mapping[str, Any]) -> list[Any]:
    """Return the values of a parameter's state, of arrays in blocks codes and scales."""
    return [each for value in state.values() for each in (value.values() if type(value) is dict else (value,))]
