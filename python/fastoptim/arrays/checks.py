"""The checks of arrays: dtype, layout and memory, each with its error message.

A check takes an array of any family and works on its metadata.  written_ranges.py has the check for overlap.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from ..options.schema import StateArray
from ..reference_math import Array, bfloat16
from .cuda_families import ArrayMetadata
from .exported_family import library_of
from .families import ArrayFamily, family_of
from .tree import describe

_BUILTIN: list[np.dtype[Any]] = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16)]
#: The end of the message for an array of another library, by the package of its type.
_CONVERSIONS = {
    "torch": "; pass tensors on the CPU or on CUDA",
    "jax": "; JAX arrays are immutable: keep the parameters as np.array(x), and pass gradients as they are",
    "tensorflow": "; pass x.numpy(), a copy that an update does not write back",
    "pandas": "; pass x.to_numpy()",
    "mlx": "; pass np.array(x), a copy that an update does not write back",
    "pyarrow": "; Arrow's arrays are immutable: keep the parameters as x.to_numpy().copy()",
}
_CONVERSIONS["jaxlib"] = _CONVERSIONS["jax"]
_EXPECTED = "float64, float32, float16 or bfloat16 in native byte order"


class Partial:
    """A gradient for a part of a parameter, which only a step takes."""


def check_whole(grad: Any, place: str) -> None:
    """Raise TypeError for a gradient for a part of a parameter."""
    if isinstance(grad, Partial):
        raise TypeError(f"{place}: expected a whole array, got {type(grad).__name__}")


def canonical_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """Return the canonical dtype object of this format, or None if it is not one of the four formats."""
    for own in _BUILTIN:  # the usual case, in a fraction of the time
        if dtype is own:
            return own
    if not dtype.isnative:
        return None
    known: list[np.dtype[Any] | None] = [*_BUILTIN, bfloat16()]
    return next((own for own in known if own is not None and own == dtype), None)


def metadata_of(array: Any, place: str) -> Array:
    """Return the metadata of an array; a plain NumPy array is its own metadata."""
    family = family_of(array)
    if family is None:
        check_whole(array, place)
        hint = _CONVERSIONS.get(library_of(array), "")
        raise TypeError(f"{place}: expected a NumPy array, got {describe(array)}{hint}")
    return family.metadata(array, place)


def check_array(array: Any, place: str) -> Array:
    """Return the metadata of an array of one of the four formats of parameters and gradients."""
    metadata = metadata_of(array, place)
    if canonical_dtype(metadata.dtype) is None:
        raise TypeError(f"{place}: expected dtype {_EXPECTED}, got {metadata.dtype!r}")
    return metadata


def memory_of(metadata: Array) -> str:
    """Return the name of the memory that an array is in."""
    return f"CUDA device {metadata.gpu}" if isinstance(metadata, ArrayMetadata) else "the CPU"


def check_same_memory(metadata: Array, place: str, p: Array) -> None:
    """Raise ValueError if an array is not in the same memory as the parameter."""
    if type(metadata) is type(p) is np.ndarray:  # metadata of a GPU array is a subclass
        return
    expected, got = memory_of(p), memory_of(metadata)
    if got != expected:
        raise ValueError(f"{place}: expected an array on {expected} as the parameter, got one on {got}")


def check_target(array: Any, place: str) -> Array:
    """Return the metadata of a parameter: an array that a step may write."""
    checked = check_array(array, place)
    return check_writeable(checked, place, "" if checked.flags.writeable else _remedy(array))


def _remedy(array: Any) -> str:
    """Return the end of the message for a read-only array of another library."""
    by_dlpack = hasattr(array, "__dlpack__") and not hasattr(array, "__array_interface__")
    dlpack = "; before DLPack 1.0 (`__dlpack__` with `max_version`) every export is read-only" if by_dlpack else ""
    return _CONVERSIONS.get(library_of(array), dlpack)


def check_writeable(checked: Array, place: str, remedy: str = "") -> Array:
    """Return the metadata of a writeable and dense array."""
    if not checked.flags.writeable:
        raise ValueError(f"{place}: expected a writeable array, got a read-only one{remedy}")
    if not is_dense(checked):
        raise ValueError(
            f"{place}: expected a dense array (C, Fortran or any permuted order without gaps), "
            f"got shape {checked.shape} with strides {checked.strides}"
        )
    return checked


def check_state(array: Any, place: str, p: Array, schema: StateArray) -> Array:
    """Return the metadata of a state array that has the dtype, shape and memory order that its schema demands."""
    metadata = metadata_of(array, place)
    dtype, shape, kind = schema.dtype_for(p.dtype), schema.shape_for(p.shape), schema.kind
    if metadata.dtype != dtype and canonical_dtype(metadata.dtype) is None:
        raise TypeError(f"{place}: expected dtype {_EXPECTED}, got {metadata.dtype!r}")
    checked = check_writeable(metadata, place)
    if not kind.on_host:
        check_same_memory(checked, place, p)
    if checked.dtype != dtype:
        reason = f" for a {p.dtype} parameter" if kind.dtype is None else ""
        raise TypeError(f"{place}: expected {dtype}{reason}, got {checked.dtype}")
    if checked.shape != shape:
        raise ValueError(f"{place}: expected shape {shape}{kind.reason}, got {checked.shape}")
    if kind.keeps_layout and not same_layout(checked, p):
        raise ValueError(f"{place}: expected the parameter's memory order, strides {_order(p)}, got {_order(checked)}")
    return checked


def check_saved_shape(array: Any, dtype: np.dtype[Any], shape: tuple[int, ...], expected: str) -> None:
    """Raise ValueError unless a saved array has this dtype and shape; `expected` begins the message."""
    if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (dtype, shape):
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else describe(array)
        raise ValueError(f"{expected} as {dtype} of shape {shape}, got {got}")


def check_copy(array: Any, place: str, p: Array, family: ArrayFamily) -> Array:
    """Return the metadata of an array of 16 bits that receives the rounded parameter."""
    metadata = metadata_of(array, place)
    dtype = canonical_dtype(metadata.dtype)
    if dtype is None or dtype.itemsize != 2:
        raise TypeError(f"{place}: expected float16 or bfloat16 in native byte order, got {metadata.dtype!r}")
    if p.itemsize == 2:
        raise ValueError(f"{place}: expected None, as the parameter itself has 16 bits, got {describe(array)}")
    if family_of(array) is not family:
        raise ValueError(f"{place}: expected an array of {family.name} as the parameter, got {describe(array)}")
    checked = check_writeable(metadata, place)
    check_same_memory(checked, place, p)
    if checked.shape != p.shape:
        raise ValueError(f"{place}: expected shape {p.shape} as the parameter's, got {checked.shape}")
    if not same_layout(checked, p):
        raise ValueError(f"{place}: expected the parameter's memory order, strides {_order(p)}, got {_order(checked)}")
    return checked


def check_gradient(grad: Any, place: str, p: Array) -> Array:
    """Return the metadata of a gradient for that parameter, in any memory order."""
    if isinstance(grad, np.generic):  # NumPy's reductions return these instead of 0-d arrays
        grad = np.asarray(grad)
    checked = check_array(grad, place)
    check_same_memory(checked, place, p)
    if checked.shape != p.shape:
        raise ValueError(f"{place}: expected shape {p.shape} as the parameter's, got {checked.shape}")
    return checked


def raise_nonfinite(grads: Iterable[tuple[str, Any]]) -> NoReturn:
    """Raise the error that names the first gradient with an inf or NaN; each comes with its path."""
    for place, grad in grads:
        if grad is None:
            continue
        family = family_of(grad)
        try:
            values = np.asarray(grad) if family is None else family.to_numpy(grad)
        except TypeError:  # an unknown library's array on a GPU
            continue
        with np.errstate(invalid="ignore"):  # a signalling NaN
            wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            first = tuple(wrong[0].tolist())
            raise FloatingPointError(
                f"{place}: expected finite numbers, got {values[first]} at index {first}, the first of {len(wrong)} "
                f"such elements; nothing was updated"
            )
    raise FloatingPointError(
        "grads: expected finite numbers, got an inf in the parameter's precision after grad_scale; nothing was updated"
    )


def in_order_of(p: Array, grad: Array) -> Array:
    """Return a plain gradient in the parameter's memory order, copied only if it has another."""
    dtype = canonical_dtype(grad.dtype)
    assert dtype is not None
    if not same_layout(grad, p):
        ordered = np.empty_like(p, dtype=dtype)
        ordered[...] = grad
        return ordered
    return grad if grad.dtype is dtype else grad.view(dtype)


def is_dense(array: Array) -> bool:
    """Return whether the elements fill one contiguous range of memory, in any order of the axes."""
    if array.flags.c_contiguous or array.flags.f_contiguous:
        return True
    expected = array.itemsize
    for stride, length in sorted((s, n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= length
    return True


def same_layout(a: Array, b: Array) -> bool:
    """Return whether two arrays of one shape have each element at the same offset."""
    flags, other = a.flags, b.flags
    if flags.c_contiguous and other.c_contiguous:
        return True
    return _order(a) == _order(b)


def _order(array: Array) -> tuple[float, ...]:
    """Return the strides in elements, without those that are meaningless: of axes of length one and of empty arrays.

    A stride is no whole number of elements where the array is a field of packed records.
    """
    if array.size == 0:
        return ()
    item = array.itemsize
    return tuple(s / item if s % item else s // item for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
