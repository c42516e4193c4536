"""Newton-Schulz iterations: an approximation of the nearest orthogonal matrix that needs matrix products alone.

An iteration applies an odd polynomial to all singular values at once.  Its coefficients are a choice between few
iterations and accurate ones; those of Muon leave singular values between 0.7 and 1.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np

from ..engines.stages import MatrixWork, NarrowWork
from ..options.checks import as_float
from ..texts import brief

Polynomial: TypeAlias = tuple[float, float, float]
"""The coefficients of x, x^3 and x^5."""

#: Named sequences of polynomials; the last one repeats.
COEFFICIENTS: dict[str, tuple[Polynomial, ...]] = {
    "classic": ((3.4445, -4.7750, 2.0315),),
    "quintic": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "polar_express": (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
}
#: Factors of the norm before the iterations, where a sequence needs singular values that are well below 1.
NORM_FACTORS = {"polar_express": 1.02}


class _Coefficients:
    """A name in `COEFFICIENTS`, three numbers, or a sequence of three numbers for each iteration."""

    def check(self, value: Any, place: str) -> str | tuple[Polynomial, ...]:
        """Return the name, or the polynomials."""
        if isinstance(value, str):
            if value not in COEFFICIENTS:
                raise ValueError(f"{place}: expected one of {list(COEFFICIENTS)}, got {brief(value)}")
            return value
        if not isinstance(value, (tuple, list)) or not value:
            raise TypeError(f"{place}: expected one of {list(COEFFICIENTS)} or coefficients, got {brief(value)}")
        if not isinstance(value[0], (tuple, list)):
            value = (value,)
        return tuple(self._polynomial(each, place) for each in value)

    def _polynomial(self, value: Any, place: str) -> Polynomial:
        if not isinstance(value, (tuple, list)) or len(value) != 3:
            raise TypeError(f"{place}: expected three numbers for an iteration, got {brief(value)}")
        first, third, fifth = (as_float(each, place) for each in value)
        if not all(map(math.isfinite, (first, third, fifth))):
            raise ValueError(f"{place}: expected finite numbers, got {brief(value)}")
        return first, third, fifth


Coefficients: TypeAlias = Annotated[str | Sequence[Any], _Coefficients()]


def polynomials_of(coefficients: str | tuple[Polynomial, ...], count: int) -> list[Polynomial]:
    """Return so many polynomials: the first ones of a sequence, of which the last one repeats."""
    known = COEFFICIENTS[coefficients] if isinstance(coefficients, str) else coefficients
    return [*known[:count], *[known[-1]] * (count - len(known))]


def normalize(work: MatrixWork, x: Any, factor: float, eps: float, is_floor: bool) -> None:
    """Divide each matrix by its Frobenius norm, times a factor, plus `eps`; with `is_floor` by at least `eps`.

    The norms are in double.  So neither large nor tiny elements overflow, and neither does the quotient.
    """
    if work.on_gpu:
        wide = work.astype(x, np.dtype(np.float64))
        norm = (wide * wide).sum((-2, -1)) ** 0.5 * factor
        norm = norm - (norm - eps) * (norm < eps) if is_floor else norm + eps
        norm = norm + (norm <= 0)
        x[...] = wide / norm[..., None, None]
        return
    matrices = x.reshape(-1, *x.shape[-2:])
    for matrix, norm in zip(matrices, work.norms([*matrices]), strict=True):
        least = max(norm * factor, eps) if is_floor else norm * factor + eps
        mantissa, exponent = math.frexp(least or 1.0)
        if abs(exponent) < np.finfo(matrix.dtype).maxexp - 2:
            matrix *= math.ldexp(1 / mantissa, -exponent)
            continue
        half = -exponent // 2  # the quotient itself may be infinite; both factors are normal numbers
        matrix *= math.ldexp(1 / mantissa, half)
        matrix *= math.ldexp(1.0, -exponent - half)


def iterate(work: MatrixWork | NarrowWork, x: Any, polynomials: Sequence[Polynomial], scale: float) -> Any:
    """Apply the polynomials to the singular values of each matrix, and return the result times `scale`.

    With A = x x' and S = (A + h)^2, where h is half of the quotient of the last two coefficients, the factor
    b + c A + d A^2 of x is d S + b - d h^2.  So an iteration needs three products and one pass over a square matrix,
    and two of the products are of a matrix with its own transpose, which a BLAS computes in half of the time.  In
    bfloat16 the differences of d S would lose most of its digits, and b A is added to d A^2.
    """
    rows, columns = x.shape[-2:]
    side = min(rows, columns)
    square = (*x.shape[:-2], side, side)
    a, s, y = work.array("a", square), work.array("s", square), work.array("y", x.shape)
    on_diagonal = [each.reshape(*square[:-2], -1)[..., :: side + 1] for each in (a, s)]
    for i, (first, third, fifth) in enumerate(polynomials):
        factor = scale if i == len(polynomials) - 1 else 1.0
        _times_transpose(work.matmul, x, a, rows > columns)
        shift = third / (2 * fifth) if fifth and work.completes_squares else 0.0
        if shift:
            on_diagonal[0] += shift
        if fifth:
            _times_transpose(work.matmul, a, s, False)
            s *= fifth * factor
        else:
            s[...] = 0.0
        if not shift:
            s += a * (third * factor)
        on_diagonal[1] += (first - fifth * shift * shift) * factor
        work.matmul(*((x, s) if rows > columns else (s, x)), y)
        x, y = y, x
    return x


def _times_transpose(matmul: Callable[[Any, Any, Any], None], x: Any, out: Any, transpose_first: bool) -> None:
    transposed = x.swapaxes(-1, -2)
    matmul(*((transposed, x) if transpose_first else (x, transposed)), out)
