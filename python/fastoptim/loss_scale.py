"""The loss scale of mixed-precision training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import core
from .arrays.tree import describe
from .options.checks import SCALES, PositiveCount, Range, Whole, check_option
from .reference_math import Array


class LossScaler:
    r"""A dynamic loss scale: grows while gradients stay finite, backs off when they do not.

    .. math::
        \text{scale} &= \text{scale} \cdot \text{growth\_factor} \quad
            \text{after growth\_interval steps taken in a row} \\
        \text{scale} &= \text{scale} \cdot \text{backoff\_factor} \quad \text{after a step that was skipped}

    float16 gradients below 6e-8 underflow to zero; a loss times `scale` has gradients times `scale`.  Pass the array
    `scale` to the optimizer, which reads it at each step, and let the optimizer skip steps whose gradients overflowed.

    Args:
        init_scale: The first scale, from 2^-126 to 2^126.
        growth_factor: At least 1.
        backoff_factor: Above 0, at most 1.
        growth_interval: Steps, at least 1.

    Raises:
        ValueError: An option out of range.
        TypeError: An option of the wrong type.

    Source: Micikevicius et al., "Mixed precision training", 2018, arXiv:1710.03740; names, defaults and rule are those
    of torch.amp.GradScaler.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.ones(2, np.float16)
    >>> scaler = fo.LossScaler(init_scale=1024.0)
    >>> opt = fo.SGD(p, lr=0.5, grad_scale=scaler.scale, skip_nonfinite=True)
    >>> for grads in (np.array([1024, 2048], np.float16), np.array([np.inf, 1], np.float16)):
    ...     taken = opt.step(grads)
    ...     scaler.update(taken)
    ...     print(p, taken, float(scaler.scale))
    [0.5 0. ] True 1024.0
    [0.5 0. ] False 512.0
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        self.scale: Array = np.array(SCALES.check(init_scale, "init_scale"))
        self.growth_factor = Range(1.0).check(growth_factor, "growth_factor")
        self.backoff_factor = Range(0.0, 1.0, above=True).check(backoff_factor, "backoff_factor")
        self.growth_interval: int = check_option(PositiveCount, growth_interval, "growth_interval")
        self._taken = 0  # successive steps taken since the last change of the scale

    def update(self, taken: bool) -> None:
        """Adapt the scale to whether the optimizer took its step.

        The scale stays between 2^-126 and 2^126, so that float32 represents it and its reciprocal.
        """
        if type(taken).__name__ not in ("bool", "bool_"):
            raise TypeError(
                f"taken: expected True or False, as step returns with skip_nonfinite, got {describe(taken)}"
            )
        count = self._taken + 1 if taken else 0
        grows = count == self.growth_interval
        factor = self.growth_factor if grows else 1.0 if taken else self.backoff_factor
        scale = min(max(float(self.scale) * factor, SCALES.low), SCALES.high)
        self._assign(scale, {"_taken": 0 if grows else count})

    def _assign(self, scale: float, attributes: Mapping[str, Any]) -> None:
        """Assign everything or nothing, also where a signal handler raises an exception."""

        def assign() -> None:
            self.scale[...] = scale
            vars(self).update(attributes)

        core.complete(assign)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue, as numbers."""
        return {
            **{name: value for name, value in vars(self).items() if name != "_taken"},
            "scale": float(self.scale),
            "taken": self._taken,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, in the same array `scale`; a call that raises an error has changed nothing."""
        expected = list(self.state_dict())
        if not isinstance(state_dict, Mapping) or set(state_dict) != set(expected):
            raise ValueError(f"state_dict: expected a dict with {expected}, got {describe(state_dict)}")
        options = [state_dict[name] for name in ("growth_factor", "backoff_factor", "growth_interval")]
        try:
            loaded = LossScaler(state_dict["scale"], *options)
            taken = Whole().check(state_dict["taken"], "taken")
        except (TypeError, ValueError) as error:
            raise ValueError(f"state_dict: {error}") from None
        if taken >= loaded.growth_interval:
            raise ValueError(f"state_dict: taken: expected less than growth_interval, got {taken}")
        self._assign(float(loaded.scale), {**vars(loaded), "scale": self.scale, "_taken": taken})

    def __repr__(self) -> str:
        return f"<LossScaler at {float(self.scale):g}>"
