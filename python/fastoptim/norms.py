"""The norm of many arrays at once, and gradients that are clipped by the norms of units."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from .arrays.checks import canonical_dtype, check_array, check_same_memory, is_dense
from .arrays.cuda_families import ArrayMetadata, Cuda
from .arrays.families import family_in, family_of
from .arrays.tree import structure_of
from .engines import cuda, native
from .engines.gpu_axes import GpuAxes
from .options.checks import NonNegative, NormType, Positive, check_option
from .reference_math import Array, compute_dtype, norm_in_order, rounded_to

#: The exponent of zero, below that of any norm.
_OF_ZERO = -(2**20)


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


def adaptive_clip(
    params: Any, grads: Any, clipping: float = 0.01, eps: float = 1e-3, *, output_axis: Literal[0, -1] = 0
) -> Any:
    r"""Return gradients whose norm is bounded for each unit, relative to the unit's parameters (AGC).

    .. math::
        g_i = g_i \cdot \min(1, \lambda \max(\lVert p_i \rVert, \epsilon) / \lVert g_i \rVert)
        \quad \text{for each output } i

    A unit is the weights of one output: a row of a matrix, a kernel of a convolution, or the whole of an array of fewer
    than two axes.  The authors do not clip the last layer: leave its arrays out of this call, and its gradients as they
    are.  Pass the result to `step`; the gradients themselves are only read.  Sums of squares are in double precision in
    a fixed order, so that the bits are the same on every machine and for any number of threads.  A unit with a gradient
    that is not finite stays as it is.

    Args:
        params: One array, or any nesting of dicts, lists and tuples of arrays.
        grads: Gradients of the same structure and shapes; None in the place of an array stays None.
        clipping: :math:`\lambda`, above 0.  Default 0.01.
        eps: :math:`\epsilon`, the least norm of a unit, at least 0.  Default 1e-3.
        output_axis: The axis of the outputs: 0 as in PyTorch, or -1 as in Keras and JAX.  Default 0.

    Returns:
        New arrays of the gradients' dtypes, in the structure of `params`: NumPy arrays, or on a GPU those of the
        gradients' library.

    Raises:
        TypeError: Another structure, a leaf that is not an array, or a dtype that no optimizer accepts.
        ValueError: Another shape, an option out of range, or a gradient that is not in its parameter's memory; on a GPU
            also one of another library.
        RuntimeError: A call with CuPy arrays while a CUDA graph is captured.

    Source: Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", 2021,
    arXiv:2102.06171.

    >>> import numpy as np, fastoptim as fo
    >>> params = {"w": np.array([[3.0, 4.0], [0.0, 0.0]])}
    >>> grads = {"w": np.array([[0.3, 0.4], [0.0, 1e-6]])}
    >>> fo.adaptive_clip(params, grads)["w"]
    array([[3.e-02, 4.e-02],
           [0.e+00, 1.e-06]])
    """
    clipping = check_option(Positive, clipping, "clipping")
    eps = check_option(NonNegative, eps, "eps")
    output_axis = check_option(Literal[0, -1], output_axis, "output_axis")
    structure = structure_of(params)
    leaves = zip(structure.match(params, "params"), structure.match_partly(grads, "grads"), strict=True)
    pairs = [
        None if g is None else _checked_pair(p, g, path) for (p, g), path in zip(leaves, structure.paths(), strict=True)
    ]
    return structure.build(iter([None if pair is None else _clip(*pair, clipping, eps, output_axis) for pair in pairs]))


def _checked_pair(p: Any, g: Any, path: str) -> tuple[Any, Any]:
    """Return a parameter and its gradient as NumPy arrays, or as they are on a GPU."""
    arrays, places = [], (f"params{path}", f"grads{path}")
    for array, place in zip((p, g), places, strict=True):
        checked = check_array(np.asarray(array) if isinstance(array, np.generic) else array, place)
        arrays.append(checked if isinstance(checked, ArrayMetadata) else _plain(checked))
    own, grad = arrays
    check_same_memory(grad, places[1], own)
    if grad.shape != own.shape:
        raise ValueError(f"grads{path}: expected shape {own.shape} as the parameter's, got {grad.shape}")
    if not isinstance(own, ArrayMetadata):
        return own, grad
    expected, got = (family_in(each) for each in (p, g))
    if got is not expected:
        raise ValueError(f"grads{path}: expected an array of {expected.name} as the parameter, got one of {got.name}")
    return p, g


def _clip_on_gpu(p: Any, g: Any, clipping: float, eps: float, output_axis: int) -> Any:
    """Return the clipped gradient of one parameter in C order, without a wait for the GPU."""
    family = family_in(g)
    assert isinstance(family, Cuda)

    def allocate(name: str, size: int) -> Any:
        return family.full(g, (size,), 0.0, np.dtype(np.float64))

    metadata = family.metadata(g, "")
    if family.stream(metadata.gpu, g).records and not family.gives_memory_to_graphs:
        raise RuntimeError(
            f"adaptive_clip: expected a call before a CUDA graph is captured, as {family.name} gives the call's memory "
            f"to other arrays while the graph still uses it, got one in a capture"
        )
    with family.arithmetic(g):
        if not metadata.flags.c_contiguous:
            g = family.contiguous(g)
        clipped = family.full(g, metadata.shape, 0.0, metadata.dtype)
        if metadata.size:
            GpuAxes(family, g, allocate).clip_units(p, g, clipped, clipping, eps, output_axis)
    return clipped


class _Norms(NamedTuple):
    """Numbers that may exceed the range of a double: ``fraction * 2**exponent``, the fraction in [0.5, 1) or 0."""

    fraction: Array
    exponent: Array

    @classmethod
    def of(cls, values: Any, exponent: Any = 0) -> _Norms:
        """Return ``values * 2**exponent``."""
        fraction, own = np.frexp(values)
        return cls(fraction, np.where(fraction == 0, _OF_ZERO, own + exponent))

    def exceeds(self, other: _Norms) -> Array:
        """Return where these are larger than others, and both are finite."""
        is_finite = np.isfinite(self.fraction) & np.isfinite(other.fraction)
        is_equal = self.exponent == other.exponent
        return is_finite & np.where(is_equal, self.fraction > other.fraction, self.exponent > other.exponent)


def _clip(p: Any, g: Any, clipping: float, eps: float, output_axis: int) -> Any:
    """Return the clipped gradient of one parameter."""
    if not isinstance(g, np.ndarray):
        return _clip_on_gpu(p, g, clipping, eps, output_axis)
    shape = [1] * g.ndim
    if g.ndim > 1:
        shape[output_axis] = -1
    with np.errstate(all="ignore"):
        own, least, norms = _unit_norms(p, output_axis), _Norms.of(eps), _unit_norms(g, output_axis)
        is_small = least.exceeds(own)
        fraction, exponent = (np.where(is_small, *pair) for pair in zip(least, own, strict=True))
        bounds = _Norms.of(clipping * fraction, exponent)
        exceeds = norms.exceeds(bounds)
        ratios = np.where(exceeds, bounds.fraction / norms.fraction, 1.0)
        ratio = _Norms.of(ratios, np.where(exceeds, bounds.exponent - norms.exponent, 0))
        fraction, exponent = (part.reshape(shape) for part in ratio)
        factors, dtype = np.ldexp(fraction, exponent), compute_dtype(g.dtype)
        if factors.min(initial=1.0) >= np.finfo(dtype).smallest_normal:
            clipped = factors.astype(dtype) * g
        else:  # a factor of fewer digits would lose some of the result's
            clipped = np.ldexp(fraction * g.astype(np.float64), exponent)
        clipped = rounded_to(clipped, g.dtype) if g.itemsize == 2 else clipped.astype(g.dtype, copy=False)
        return np.where(exceeds.reshape(shape), clipped, g)


def _unit_norms(x: Array, output_axis: int) -> _Norms:
    """Return the norm of each unit, from squares in double that are scaled where these overflow or lose digits."""
    over_rows = x.ndim > 1 and output_axis == -1
    units = x.shape[output_axis] if x.ndim > 1 else 1
    rest = x.size // max(units, 1)
    matrix = np.ascontiguousarray(x).reshape(1, *((rest, units) if over_rows else (units, rest)))
    squares = native.square_sums(matrix)[over_rows]
    norms, exponents = np.sqrt(squares), np.zeros(squares.shape, np.int64)
    if x.dtype == np.float64:
        for lost, exponent in ((squares == np.inf, 538), (squares < 2.0**-800, -537)):
            if lost.any():
                norms[lost] = np.sqrt(native.square_sums(2.0**-exponent * matrix)[over_rows][lost])
                exponents[lost] = exponent
    return _Norms.of(norms, exponents)


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
