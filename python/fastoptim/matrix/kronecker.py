"""Statistics of an array's axes: a square matrix for each, whose Kronecker product approximates that of the whole.

An array of k axes is, for each axis, a matrix with that axis as its rows and all others as its columns.  The factor of
an axis is a mean of such a matrix times its transpose.  The square matrices of all axes are packed into one vector, an
axis after the other; an axis without a factor takes no room.  Arrays here are in C order and of the compute type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..engines.stages import MatrixWork


def merged(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Return the shape with neighboring axes merged, from the first one on, as long as their product is within limit.

    This is the rule of SOAP's authors: axes of length 1 disappear, and a vector stays one.
    """
    axes, current = [], 1
    for side in shape:
        if current * side <= limit:
            current *= side
        else:
            axes.append(current if current > 1 else side)
            current = side if current > 1 else 1
    return (*axes, current) if current > 1 or not axes else (*axes,)


def axes_of(shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape in which a parameter's axes have factors."""
    return merged(shape, options["max_precond_dim"]) if options["merge_dims"] and len(shape) > 1 else shape


def sides_of(shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the side of the factor of each axis, 0 for an axis without one."""
    if not math.prod(shape) or (len(shape) == 1 and not options["precondition_1d"]):
        return (0,) * len(shape)
    return tuple(side if side <= options["max_precond_dim"] else 0 for side in axes_of(shape, options))


def unpack(packed: Any, sides: Sequence[int]) -> list[Any]:
    """Return the matrices as views of the vector, None for an axis without one."""
    matrices, first = [], 0
    for side in sides:
        end = first + side * side
        matrices.append(packed[first:end].reshape(side, side) if side else None)
        first = end
    return matrices


def in_axes(work: MatrixWork, array: Any) -> Any:
    """Return a copy in C order whose axes are those with factors."""
    x = work.array("x", tuple(array.shape))
    x[...] = array
    return x.reshape(axes_of(tuple(array.shape), work.options))


def turn(work: MatrixWork, x: Any, matrices: Sequence[Any], back: bool = False, again: bool = False) -> Any:
    """Multiply every axis by its matrix's transpose, or to turn back by the matrix; the result is in the workspace.

    A product takes the first axis and leaves it as the last one, so that after all axes their order is as before.  With
    `again`, x is the result of another call for the same axes: memory that the first product must not write.
    """
    shape = x.shape
    first = len(shape) if again else 0
    for i, (side, matrix) in enumerate(zip(shape, matrices, strict=True), first):
        columns = x.reshape(side, -1).swapaxes(0, 1)
        x = work.array(f"turned {i % 2}", tuple(columns.shape))
        if matrix is None:
            x[...] = columns
        else:
            work.matmul(columns, matrix.swapaxes(0, 1) if back else matrix, x)
    return x.reshape(shape)


def _multiply_unfolded(work: MatrixWork, x: Any, axis: int, out: Any) -> None:
    """Assign the product of the matrix of an axis with its own transpose."""
    side, before, after = x.shape[axis], math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    if after == 1:
        columns = x.reshape(before, side)
        return work.matmul(columns.swapaxes(0, 1), columns, out)
    rows = x.reshape(side, after) if before == 1 else work.array("unfolded", (side, before * after))
    if before > 1:
        rows.reshape(side, before, after)[...] = x.reshape(before, side, after).swapaxes(0, 1)
    return work.matmul(rows, rows.swapaxes(0, 1), out)


def next_factors(work: MatrixWork, name: str, x: Any, sides: Sequence[int], keep: float, weight: float) -> Any:
    """Return ``keep`` times the state's factors plus ``weight`` times those of x, as a new vector.

    Raises:
        FloatingPointError: If the result is not finite, which every later basis would contain.
    """
    new = work.zeros_like(name)
    old = unpack(work[name], sides)
    for axis, (factor, before) in enumerate(zip(unpack(new, sides), old, strict=True)):
        if factor is None:
            continue
        _multiply_unfolded(work, x, axis, factor)
        factor *= weight
        if keep:
            factor += keep * before
        diagonal = work.to_numpy(factor.reshape(-1)[:: factor.shape[0] + 1])  # bounds all other elements
        if not np.isfinite(diagonal).all():
            raise FloatingPointError(
                f"{work.param.g_place}: expected a gradient whose squares have a finite sum in {diagonal.dtype}, got "
                f"an element that is not finite, or a sum that overflows"
            )
    return new
