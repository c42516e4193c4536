"""What an acceptable array is: dtypes, layout, overlap, and every refusal with its message."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference_math import Array, bfloat16, compute_dtype
from .cuda_families import ArrayMetadata
from .families import family_of
from .tree import describe

_BUILTIN: list[np.dtype[Any]] = [np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16)]
_EXPECTED = "float64, float32, float16 or bfloat16 in native byte order"


def canonical_dtype(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The one dtype object that stands for this format, or None if it is none of ours."""
    if not dtype.isnative:
        return None
    known: list[np.dtype[Any] | None] = [*_BUILTIN, bfloat16()]
    return next((own for own in known if own is not None and own == dtype), None)


def check_array(array: Any, place: str) -> Array:
    """The metadata of an array of one of the four formats: NumPy's own, or of an array in a GPU's memory."""
    family = family_of(array)
    if family is None:
        raise TypeError(f"{place}: expected a NumPy array, got {describe(array)}")
    metadata = family.metadata(array, place)
    if canonical_dtype(metadata.dtype) is None:
        raise TypeError(f"{place}: expected dtype {_EXPECTED}, got {metadata.dtype!r}")
    return metadata


def memory_of(metadata: Array) -> str:
    """Whose memory an array is in."""
    return f"CUDA device {metadata.gpu}" if isinstance(metadata, ArrayMetadata) else "the CPU"


def check_beside(metadata: Array, place: str, p: Array) -> None:
    """Refuses an array that is not in the memory that the parameter is in."""
    expected, got = memory_of(p), memory_of(metadata)
    if got != expected:
        raise ValueError(f"{place}: expected an array on {expected} as the parameter, got one on {got}")


def check_target(array: Any, place: str) -> Array:
    """An array that a step may write: writeable and dense."""
    checked = check_array(array, place)
    if not checked.flags.writeable:
        raise ValueError(f"{place}: expected a writeable array, got a read-only one")
    if not is_dense(checked):
        raise ValueError(
            f"{place}: expected a dense array (C, Fortran or any permuted order without gaps), "
            f"got shape {checked.shape} with strides {checked.strides}"
        )
    return checked


def check_state(array: Any, place: str, p: Array) -> Array:
    """A state array for that parameter."""
    checked = check_target(array, place)
    check_beside(checked, place, p)
    expected = compute_dtype(p.dtype)
    if checked.dtype != expected:
        raise TypeError(f"{place}: expected {expected} beside a {p.dtype} parameter, got {checked.dtype}")
    if checked.shape != p.shape:
        raise ValueError(f"{place}: expected shape {p.shape} as the parameter's, got {checked.shape}")
    if not same_layout(checked, p):
        raise ValueError(f"{place}: expected the parameter's memory order, strides {_order(p)}, got {_order(checked)}")
    return checked


def check_scalar(array: Any, place: str, p: Array) -> Array:
    """A state array that is one number for the whole of a parameter."""
    checked = check_target(array, place)
    check_beside(checked, place, p)
    if checked.dtype != np.float64:
        raise TypeError(f"{place}: expected float64, got {checked.dtype}")
    if checked.shape != ():
        raise ValueError(f"{place}: expected shape (), one number for the whole array, got {checked.shape}")
    return checked


def check_gradient(grad: Any, place: str, p: Array) -> Array:
    """The metadata of a gradient for that parameter, in whatever memory order."""
    if isinstance(grad, np.generic):  # what NumPy's own reductions return in place of a 0-d array
        grad = np.asarray(grad)
    checked = check_array(grad, place)
    check_beside(checked, place, p)
    if checked.shape != p.shape:
        raise ValueError(f"{place}: expected shape {p.shape} as the parameter's, got {checked.shape}")
    return checked


def in_order_of(p: Array, grad: Array) -> Array:
    """A gradient as a plain array in the parameter's memory order; a copy only where it has another."""
    dtype = canonical_dtype(grad.dtype)
    assert dtype is not None
    if not same_layout(grad, p):
        ordered = np.empty_like(p, dtype=dtype, subok=False)
        ordered[...] = grad
        return ordered
    return grad if type(grad) is np.ndarray and grad.dtype is dtype else grad.view(dtype, np.ndarray)


def is_dense(array: Array) -> bool:
    """Whether the elements fill one stretch of memory, in whatever order of the axes."""
    if array.flags.c_contiguous or array.flags.f_contiguous:
        return True
    expected = array.itemsize
    for stride, length in sorted((s, n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= length
    return True


def same_layout(a: Array, b: Array) -> bool:
    """Whether the same elements of two arrays of one shape are at the same places."""
    return _order(a) == _order(b)


def _order(array: Array) -> tuple[int, ...]:
    """Strides in elements; none for axes of length one or for an array without elements, where they mean nothing."""
    if array.size == 0:
        return ()
    return tuple(s // array.itemsize for s, n in zip(array.strides, array.shape, strict=True) if n > 1)
