"""The norm of many arrays at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .arrays.checks import canonical_dtype, check_array, is_dense
from .arrays.cuda_families import ArrayMetadata
from .arrays.families import family_of
from .arrays.tree import structure_of
from .engines import cuda, native
from .options.checks import NormType, check_option
from .reference_math import Array, norm_in_order


def global_norm(arrays: Any, norm_type: float = 2.0) -> float:
    r"""Return the norm of all elements of one array or of any nesting of arrays.

    .. math::
        \sqrt{\textstyle\sum_i \lVert a_i \rVert^2}, \quad \textstyle\sum_i \lVert a_i \rVert_1, \quad
        \max_i \lVert a_i \rVert_\infty \quad \text{for norm\_type 2, 1, inf}

    The norm that `clip_global_norm` bounds, with the same bits where gradients have their parameters' dtype: squares
    and sums are in double, in an order that depends on the sizes alone, and squares that overflow or underflow are
    scaled.  The result is inf or NaN if an element is, and 0 without elements.  None instead of an array contributes
    nothing.

    Raises:
        TypeError: A leaf that is not an array, or has a dtype that no optimizer accepts; `norm_type` is not a number.
        ValueError: `norm_type` is not 1, 2 or inf.

    >>> import numpy as np, fastoptim as fo
    >>> fo.global_norm({"w": np.array([[3.0]]), "b": np.array([4.0])})
    5.0
    """
    norm_type = check_option(NormType, norm_type, "norm_type")
    structure = structure_of(arrays)
    named = zip(structure.match(arrays, "arrays"), structure.paths("arrays"), strict=True)
    checked = [_readable(array, place) for array, place in named if array is not None]
    return norm_in_order(_norms(checked, norm_type), norm_type)


class _Dense(NamedTuple):
    """An array without gaps, and its metadata."""

    array: Any
    metadata: Array
    place: str


def _readable(array: Any, place: str) -> _Dense:
    """Return a dense array: the array itself, or a copy if it is not dense."""
    if isinstance(array, np.generic):  # NumPy's reductions return these instead of 0-d arrays
        array = np.asarray(array)
    metadata = check_array(array, place)
    if not is_dense(metadata):
        family = family_of(array)
        assert family is not None
        array = family.contiguous(array)
        metadata = family.metadata(array, place)
    return _Dense(array, metadata, place)


def _norms(arrays: list[_Dense], norm_type: float) -> list[float]:
    on_gpu = [isinstance(dense.metadata, ArrayMetadata) for dense in arrays]
    if any(on_gpu):
        if not all(on_gpu):
            odd = arrays[on_gpu.index(False)]
            raise ValueError(f"{odd.place}: expected a CUDA array as its neighbors, got a NumPy array")
        return cuda.norms([dense.array for dense in arrays], norm_type)
    return native.norms([_plain(dense.metadata) for dense in arrays], norm_type)


def _plain(array: Array) -> Array:
    dtype = canonical_dtype(array.dtype)
    assert dtype is not None
    return array.view(dtype, np.ndarray)
