"""The check of the numbers that a caller's function returned."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..reference_math import Array
from ..texts import brief


def as_real(value: Any, dtype: Any, place: str) -> Array:
    """Return real numbers as an array of a dtype; raise TypeError for None, complex numbers and strings.

    NumPy alone converts None to NaN, parses strings, and drops imaginary parts with a warning.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biufVO" or any(each is None for each in array.flat if array.dtype.kind == "O"):
        got = brief(value) if array.ndim == 0 else f"an array of {array.dtype}"
        raise TypeError(f"{place}: expected real numbers, got {got}")
    return array.astype(dtype, copy=False)
