"""Adam's numbers of a step, for the updates that are written by hand: one division and one root are left an element."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np

from .base import Options


class AdamScalars(NamedTuple):
    """``m = keep1*m + rise1*g; v = keep2*v + rise2*g*g; p -= rate*m / (sqrt(v) + eps)``."""

    keep1: np.float32
    rise1: np.float32
    keep2: np.float32
    rise2: np.float32
    rate: np.float32
    eps: np.float32


def adam_scalars(options: Options, step: int) -> AdamScalars:
    """At a step counted from 1."""
    beta1, beta2 = options["betas"]
    root = sqrt(1 - beta2**step)
    rate = options["lr"] * root / (1 - beta1**step)
    return AdamScalars(*map(np.float32, (beta1, 1 - beta1, beta2, 1 - beta2, rate, options["eps"] * root)))
