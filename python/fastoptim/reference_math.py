"""The arithmetic of the reference in NumPy: the compute type, and operations whose order is fixed.

Each operation rounds once to the type of its arguments, so that native code can reproduce its bits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

TILE, LANES = 1024, 32
ROW_BLOCK = 64


def bfloat16() -> np.dtype[Any] | None:
    """Return the bfloat16 of `ml_dtypes`, or None if that package is not loaded and so no such array exists."""
    ml_dtypes = sys.modules.get("ml_dtypes")
    return np.dtype(ml_dtypes.bfloat16) if ml_dtypes else None


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the type in which a parameter of this dtype is computed."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


class Format(NamedTuple):
    """A storage format of state: its dtype, and the conversions from and to the compute type."""

    dtype: Callable[[np.dtype[Any]], np.dtype[Any]]
    """From the parameter's dtype to the stored one."""

    encode: Callable[[Array, np.dtype[Any]], Array]
    """From the compute type to the stored dtype, rounded once to nearest even."""

    decode: Callable[[Array, np.dtype[Any]], Array]
    """From the stored dtype to the compute type, exactly."""


def _cast(x: Array, dtype: np.dtype[Any]) -> Array:
    return x.astype(dtype)


def _need_bfloat16(_: np.dtype[Any]) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(import_module("ml_dtypes").bfloat16)
    return dtype


def _encode_narrow(x: Array, dtype: np.dtype[Any]) -> Array:
    """Round float64 to odd first: a float32 with a sticky last bit, whose rounding to bfloat16 is a single rounding."""
    if x.dtype != np.float64:
        return x.astype(dtype)
    narrow = x.astype(np.float32)
    is_above = np.abs(narrow.astype(np.float64)) > np.abs(x)
    truncated = np.where(is_above, np.nextafter(narrow, np.float32(0)), narrow)
    is_inexact = (truncated != x) & np.isfinite(x)
    odd: Array = (truncated.view(np.uint32) | is_inexact.astype(np.uint32)).view(np.float32)
    return odd.astype(dtype)


#: The storage formats of state by name; the twins of those in csrc/formats.h.
FORMATS = {
    "compute": Format(compute_dtype, _cast, _cast),
    "float32": Format(lambda _: np.dtype(np.float32), _cast, _cast),
    "bfloat16": Format(_need_bfloat16, _encode_narrow, _cast),
    "float16": Format(lambda _: np.dtype(np.float16), _cast, _cast),
}


def rounded_to(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return x rounded once to a dtype of 16 bits."""
    with np.errstate(all="ignore"):
        return (_encode_narrow if dtype == bfloat16() else _cast)(x, dtype)


def loaded_formats() -> dict[str, np.dtype[Any]]:
    """Return the dtypes of the formats that other packages define, as far as these are imported."""
    return {} if (dtype := bfloat16()) is None else {"bfloat16": dtype}


def total(terms: Array) -> float:
    """Return the sum in double, in an order that depends on the number of terms alone.

    Tiles have 1024 terms in memory order.  A tile has 32 running sums, each of every 32nd term.  Pairwise summation
    adds first the running sums of a tile, then the tiles.
    """
    return float(totals(terms.ravel(order="K")))


def totals(terms: Array) -> Array:
    """Return the sums over the last axis in double, each in the order of `total`."""
    *leading, n = terms.shape
    count = -(-max(n, 1) // TILE)
    tiles = np.zeros((*leading, count, TILE // LANES, LANES))
    tiles.reshape(*leading, count * TILE)[..., :n] = terms
    sums = np.add.accumulate(tiles, axis=-2)[..., -1, :] + 0.0  # one after another; 0 where every term is -0.0
    for _ in range(LANES.bit_length() - 1):
        sums = sums[..., 0::2] + sums[..., 1::2]
    return np.asarray(_pairwise(sums[..., 0]))


def _pairwise(sums: Array) -> Any:
    """Return the pairwise sum over the last axis."""
    while (n := sums.shape[-1]) > 1:
        pairs = sums[..., 0 : n - n % 2 : 2] + sums[..., 1::2]
        sums = np.concatenate([pairs, sums[..., n - 1 :]], axis=-1) if n % 2 else pairs
    return sums[..., 0]


def mean_squares(x: Array) -> Array:
    """Return the mean of the squares of each row in double, whose sum has the order of `total`."""
    count = x.shape[0] if x.ndim else 1
    rows = square(x).reshape(count, x.size // max(count, 1))
    return totals(rows) / max(rows.shape[1], 1)


def along_rows(numbers: Array, x: Array) -> Array:
    """Return one number for each row of x in a shape that broadcasts with x."""
    return numbers.reshape(-1, *[1] * (x.ndim - 1)) if x.ndim else numbers.reshape(())


def square_sums(matrices: Array) -> tuple[Array, Array]:
    """Return the sums of squares over the rows and the columns of a batch of matrices, in double and in a fixed order.

    A row is summed as `total` does it.  In a column the squares of 64 rows are added one after another, then the sums
    of these blocks.
    """
    squares = square(matrices)
    batch, rows, columns = squares.shape
    count = -(-rows // ROW_BLOCK)
    blocks = np.zeros((batch, count, ROW_BLOCK, columns))
    blocks.reshape(batch, count * ROW_BLOCK, columns)[:, :rows] = squares
    of_blocks, of_columns = np.zeros((*blocks.shape[:2], columns)), np.zeros((batch, columns))
    for row in range(ROW_BLOCK):
        of_blocks = of_blocks + blocks[:, :, row]
    for block in range(count):
        of_columns = of_columns + of_blocks[:, block]
    return totals(squares).reshape(-1), of_columns.reshape(-1)


def norm(x: Array, norm_type: float) -> float:
    """Return the norm in double, of type 1, 2 or inf."""
    return _norm(x.astype(np.float64), norm_type, total)


def norm_in_order(norms: Sequence[float], norm_type: float) -> float:
    """Return the norm of all arrays from those of each, whose squares or values are added one after another."""
    with np.errstate(all="ignore"):
        return _norm(np.array(norms, np.float64), norm_type, _add_in_order)


def _add_in_order(terms: Array) -> float:
    sum_so_far = 0.0
    for term in terms.tolist():  # sum() would compensate from Python 3.12 on
        sum_so_far += term
    return sum_so_far


def _norm(x: Array, norm_type: float, add: Callable[[Array], float]) -> float:
    """Return the norm: for type 2 of x times a power of two if squares overflow or lose digits."""
    if norm_type == math.inf:
        return float(np.max(np.abs(x), initial=0))
    if norm_type == 1:
        return add(np.abs(x))
    squares = add(square(x))
    scale = 2.0**-538 if squares == math.inf else 2.0**537 if squares < 2.0**-800 else 1.0
    return math.sqrt(squares if scale == 1 else add(square(scale * x))) / scale


def square(x: Array) -> Array:
    """Return the square of each element in double."""
    wide = x.astype(np.float64)
    return wide * wide


def flush_subnormals(x: Array) -> Array:
    """Return x with subnormal numbers replaced by the zero of their sign."""
    return np.where(np.abs(x) < np.finfo(x.dtype).smallest_normal, np.copysign(x.dtype.type(0), x), x)


def power(base: float, t: int) -> float:
    """Return ``base**t`` by repeated squaring, a fixed sequence of multiplications; `pow` differs between libms."""
    result = 1.0
    while t > 0:
        if t % 2:
            result *= base
        base *= base
        t //= 2
    return result


def bias_correction_of(beta: float, t: int) -> float:
    """Return ``1 - beta**t``, every digit of it right except perhaps the last one.

    With c(n) = 1 - beta^n, c(m + n) = c(m) + c(n) - c(m) c(n) for n = m and for the bits of t.  The roundings of sums
    and differences are known exactly, and `low` and `result_low` collect them.
    """
    c, result, result_low = 1 - beta, 0.0, 0.0
    low = (1 - c) - beta
    while t > 0:
        if t % 2:
            product, both = result * c, c + result
            following = both - product
            roundings = (result - (both - c)), ((both - following) - product)
            result_low = result_low * (1 - c) + low * (1 - result) + roundings[0] + roundings[1]
            result = following
        square = c * c
        twice = 2 * c - square
        low = 2 * low * (1 - c) + ((2 * c - twice) - square)
        c = twice
        t //= 2
    return result + result_low


def shrink(p: Array, rate: float) -> Array:
    """Return the parameter after decoupled decay, ``p - rate*p``: a factor 1 - rate loses a small rate's digits."""
    factor = p.dtype.type(rate)
    return p - factor * p if factor else p


def mean_of(average: Any, x: Any, weight: float, dtype: np.dtype[Any] | None = None) -> Any:
    """Return the mean of an average and a new value, whose weight is given.

    The smaller of both weights is a factor of the difference, so that it keeps its digits.  Arrays of other libraries
    need their dtype, as NumPy names it.
    """
    near, far, smaller = (x, average, 1 - weight) if weight > 0.5 else (average, x, weight)
    factor = (dtype or x.dtype).type(smaller)
    return near + factor * (far - near) if factor else near


def decay(dtype: np.dtype[Any], rate: float) -> Any:
    """Return a decay rate rounded to that dtype, but below one: float32 would round 0.99999999 to one."""
    number = dtype.type
    return min(number(rate), np.nextafter(number(1), number(0)))


def maximum(a: Array, b: Array) -> Array:
    """Return the larger, NaN if either is NaN, and the first of equals; np.maximum does not specify 0 and -0."""
    return np.where((a >= b) | np.isnan(a), a, b)


def minimum(a: Array, b: Array) -> Array:
    """Return the smaller, NaN if either is NaN, and the first of equals."""
    return np.where((a <= b) | np.isnan(a), a, b)


def soft_threshold(x: Array, threshold: Array) -> Array:
    """Return x moved toward zero by the threshold, and zero within it."""
    return np.copysign(maximum(abs(x) - threshold, x.dtype.type(0)), x)


def proximal_step(p: Array, step: Array, rate: Array, l1: float, l2: float) -> None:
    """Move p by ``-rate*step``, and apply the proximal operator of ``l1*|p| + l2/2*p^2`` at each element's rate."""
    number = p.dtype.type
    p -= rate * step
    p[...] = soft_threshold(p, rate * number(l1)) / (1 + rate * number(l2))


def sign(x: Array) -> Array:
    """Return -1, 0 or 1; NaN for NaN; +0 for either zero."""
    return np.asarray(np.sign(x))


def cube_root(x: Array) -> Array:
    """Return the cube root within one unit in the last place, by fixed operations; `cbrt` differs between libms.

    Halley's method, after scaling away from the ends of the range.  The first guess divides the bit pattern, and so the
    exponent, by three.  Before each iteration the estimate is truncated to half of its digits to make its square exact.
    """
    dtype = np.dtype(x.dtype)
    number, patterns, steps, guess, half, span = {
        4: (np.float32, np.uint32, 2, 0x2A51245E, 0xFFFFF000, 32),
        8: (np.float64, np.uint64, 3, 0x2A9F900000000000, 0xFFFFFFFFF8000000, 256),
    }[dtype.itemsize]
    size = np.abs(x)
    low = size < number(math.ldexp(1, -2 * span))
    a = size * np.where(low, number(math.ldexp(1, 3 * span)), number(math.ldexp(1, -6)))
    pattern = a.view(patterns)
    pattern = (pattern >> patterns(2)) + (pattern >> patterns(4))
    pattern = pattern + (pattern >> patterns(4))
    pattern = pattern + (pattern >> patterns(8))
    r = (pattern + patterns(guess)).view(number)
    for _ in range(steps):
        r = (r.view(patterns) & patterns(half)).view(number)
        cube = r * r * r
        r = r + r * ((a - cube) / (cube + cube + a))
    r = r * np.where(low, number(math.ldexp(1, -span)), number(4))
    return np.where((size > 0) & (size < np.inf), np.copysign(r, x), x)
