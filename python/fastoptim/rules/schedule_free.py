"""Schedule-Free SGD and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np

from ..arrays.param_state import ParamState
from ..optimizer.base import Optimizer
from ..options.checks import Count, Decay, LearningRate, NonNegative, Range, Whole
from ..options.fields import argument, option
from ..options.schema import StateArray
from ..reference_math import Array, bias_correction_of, compute_dtype, decay, power

Exponent = Annotated[int, Whole(0, 64)]
Interpolation = Annotated[float, Range(0.01, 1)]  # away from 0, as the average is recovered by division by it

SCHEMA = {"z": StateArray(initial="p"), "weight_sum": StateArray("scalar"), "lr_max": StateArray("scalar")}


class ScheduleFree(Optimizer):
    """Base of the Schedule-Free optimizers: gradients are evaluated at y, the model is the average x."""

    variants = {}
    evaluated_state = ("z",)  # the state that `eval` reads

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(params, *args, **kwargs)
        self._trained: list[Any] = []  # the parameters y, while swapped for the averages x

    @staticmethod
    def interpolation(options: Mapping[str, Any]) -> float:
        """Return the weight of x in y, the point where gradients are evaluated."""
        raise NotImplementedError

    def eval(self) -> None:
        """Swap the averages x into the parameters, to evaluate or to save them; a no-op after `eval`.

        Until `train`, stepping and reading, saving, loading or copying the state raise RuntimeError.

        >>> import numpy as np, fastoptim as fo
        >>> p = np.array([1.0])
        >>> opt = fo.ScheduleFreeSGD(p, lr=0.5, momentum=0.5)
        >>> for _ in range(2):
        ...     opt.step(np.array([1.0]))
        >>> opt.eval()
        >>> p
        array([0.25])
        >>> opt.train()
        >>> p
        array([0.125])
        """
        if self._swapped_by == "eval":
            return
        self._swap_in("eval", self._averages, self._trained)

    def train(self) -> None:
        """Restore the parameters bit for bit as they were before `eval`; a no-op after `train`."""
        if self._swapped_by == "eval":
            self._swap_out("eval", self._trained)

    def _averages(self) -> list[Any]:
        groups = [self._settings(index).options for index in range(len(self.param_groups))]
        return self.own_values(lambda param: _average(param, self.interpolation(groups[param.group])))

    def check_not_swapped(self) -> None:
        """Raise RuntimeError while the parameters are swapped for other values."""
        if self._swapped_by == "eval":
            raise RuntimeError("eval: expected train() before; the averages stand in the parameters' place")
        super().check_not_swapped()


def _average(param: ParamState, beta: float) -> Any:
    """Return the x for which y is ``(1 - beta)*z + beta*x``, in the compute type."""
    dtype = compute_dtype(param.metadata.dtype)
    with param.family.arithmetic(param.p):
        y, z = param.values(), param.state["z"]
        return y + dtype.type((1 - beta) / beta) * (y - z)


def _update(
    y: Array,
    direction: Array,
    z: Array,
    weight_sum: Array,
    lr_max: Array,
    *,
    t: int,
    lr: float,
    beta: float,
    r: int,
    weight_lr_power: int,
) -> None:
    """Update y and z along a direction, and the weights of the average."""
    number = y.dtype.type
    lr_max[...] = lr_max if float(lr_max) >= lr else lr
    weight = power(float(t), r) * power(float(lr_max), weight_lr_power)
    weight_sum[...] = weight_sum + weight
    average_weight = weight / float(weight_sum) if weight_sum != 0 else 0.0
    y_step_size = number(-lr * ((1 - beta) + beta * average_weight))
    y[...] = y + number(average_weight) * (z - y) + y_step_size * direction
    z -= number(lr) * direction


def _warmed_up(lr: float, t: int, warmup_steps: int) -> float:
    return lr * (float(t) / warmup_steps) if t < warmup_steps else lr


class ScheduleFreeSGD(ScheduleFree):
    r"""Schedule-Free SGD: an average of the iterates instead of a schedule that ends at a known step.

    .. math::
        \gamma &= \eta \min(1, t / T_\text{warmup}), \qquad
        w = t^r \max(\gamma_1, \dots, \gamma_t)^k, \qquad c = w / \textstyle\sum w \\
        p &= p + c (z - p) + \gamma\, (\mu (1 - c) - 1)\, g \\
        z &= z - \gamma g

    The parameters are the point :math:`y = (1 - \mu) z + \mu x` between the iterate :math:`z` and the weighted average
    :math:`x` of all :math:`z`.  Gradients are evaluated at :math:`y`; the model to evaluate and to save is :math:`x`.
    `eval` swaps it into the parameters, and `train` restores :math:`y`.  Learning rates are 1 to 10 times those of SGD,
    and constant except for the warm-up.

    The exponents are whole numbers, so that every machine computes the same powers.  :math:`x` has no array of its own:
    ``x = y + (1/momentum - 1) * (y - z)``, which with half-precision parameters has their rounding error.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 1.0.
        momentum: :math:`\mu`, in [0.01, 1]: with 1 gradients are evaluated at :math:`x`, near 0 at :math:`z`.  Default
            0.9.
        warmup_steps: :math:`T_\text{warmup}`, a whole number: the number of steps in which the learning rate increases
            to `lr`.  Default 0.
        r: :math:`r`, a whole number from 0 to 64: the weight of an iterate grows with :math:`t^r`.  Default 0.
        weight_lr_power: :math:`k`, a whole number from 0 to 64: exponent of the largest learning rate so far in the
            weights.  Default 2.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a method that needs the parameters is called between `eval` and `train`.

    Source: Defazio et al., "The Road Less Scheduled", 2024, arXiv:2405.15682; the weights as in its authors' code.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.ScheduleFreeSGD(p, lr=0.5, momentum=0.5)
    >>> for _ in range(2):
    ...     opt.step(np.array([1.0]))
    >>> p, opt.state["z"]
    (array([0.125]), array([0.]))
    """

    name = "schedule_free_sgd"
    variants = {"schedule_free_sgd": ("z", "weight_sum", "lr_max")}
    state_schema = SCHEMA

    lr: LearningRate = 1.0
    momentum: Interpolation = 0.9
    warmup_steps: Count = 0
    r: Exponent = 0
    weight_lr_power: Exponent = 2

    @staticmethod
    def interpolation(options: Mapping[str, Any]) -> float:
        """Return the momentum."""
        return float(options["momentum"])

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        z: Array,
        weight_sum: Array,
        lr_max: Array,
        *,
        t: int,
        lr: float,
        momentum: float,
        warmup_steps: int,
        r: int,
        weight_lr_power: int,
    ) -> None:
        """The formula in NumPy."""
        warm_lr = _warmed_up(lr, t, warmup_steps)
        weights = {"r": r, "weight_lr_power": weight_lr_power}
        _update(p, g, z, weight_sum, lr_max, t=t, lr=warm_lr, beta=momentum, **weights)


class ScheduleFreeAdamW(ScheduleFree):
    r"""Schedule-Free AdamW: an average of the iterates instead of momentum and of a schedule with a known end.

    .. math::
        v &= \beta_2 v + (1 - \beta_2) g^2 \\
        \gamma &= \eta \min(1, t / T_\text{warmup}) \sqrt{1 - \beta_2^t}, \qquad
        w = t^r \max(\gamma_1, \dots, \gamma_t)^k, \qquad c = w / \textstyle\sum w \\
        d &= g / (\sqrt v + \epsilon) + \lambda p \\
        p &= p + c (z - p) + \gamma\, (\beta_1 (1 - c) - 1)\, d \\
        z &= z - \gamma d

    The parameters are the point :math:`y = (1 - \beta_1) z + \beta_1 x` between the iterate :math:`z` and the weighted
    average :math:`x` of all :math:`z`.  Gradients are evaluated at :math:`y`; the model to evaluate and to save is
    :math:`x`.  `eval` swaps it into the parameters, and `train` restores :math:`y`.  Learning rates are 1 to 10 times
    those of AdamW, and constant except for a warm-up, which is recommended.

    The exponents are whole numbers, so that every machine computes the same powers.  :math:`x` has no array of its own:
    ``x = y + (1/beta1 - 1) * (y - z)``, which with half-precision parameters has their rounding error.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.  Default 0.0025.
        betas: :math:`\beta_1` in [0.01, 1]: with 1 gradients are evaluated at :math:`x`, near 0 at :math:`z`; and
            :math:`\beta_2`, decay rate of the average of squares, in [0, 1).  Default (0.9, 0.999).
        eps: :math:`\epsilon`, at least 0, added to the denominator for numerical stability.  Default 1e-8.
        warmup_steps: :math:`T_\text{warmup}`, a whole number: the number of steps in which the learning rate increases
            to `lr`.  Default 0.
        r: :math:`r`, a whole number from 0 to 64: the weight of an iterate grows with :math:`t^r`.  Default 0.
        weight_lr_power: :math:`k`, a whole number from 0 to 64: exponent of the largest learning rate so far in the
            weights.  Default 2.
        correct_rate: Multiply the learning rate by :math:`\sqrt{1 - \beta_2^t}`, and with it the weight decay and the
            weights, as in the paper; if False, :math:`v` is corrected, ``sqrt(v / (1 - beta2^t)) + eps``, as in Adam.
            Default True.
        decoupled: Use the weight decay :math:`\lambda p` of the formula; if False, it is added to the gradient.
            Default True.
        convention: "paper"; "keras", which corrects :math:`v` and gives all iterates the same weight (its weight decay
            shrinks :math:`y` alone, which is not reproduced); or "optax", which corrects :math:`v`, as in later
            versions of the authors' code (optax's warm-up starts from 0, this one and the authors' one step later).
            Default "paper".
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a method that needs the parameters is called between `eval` and `train`.

    Source: Defazio et al., "The Road Less Scheduled", 2024, arXiv:2405.15682; the weights as in its authors' code.

    >>> import numpy as np, fastoptim as fo
    >>> p = np.array([1.0])
    >>> opt = fo.ScheduleFreeAdamW(p, lr=0.1)
    >>> opt.step(np.array([5.0]))
    >>> opt.eval()
    >>> p.round(6)
    array([0.9])
    """

    name = "schedule_free_adamw"
    variants = {"schedule_free_adamw": ("z", "v", "weight_sum", "lr_max")}
    state_schema = {**SCHEMA, "v": StateArray(compress="non-negative")}
    decays_itself = True
    conventions = {
        "paper": {},
        "keras": {"correct_rate": False, "weight_lr_power": 0},
        "optax": {"correct_rate": False},
    }

    lr: LearningRate = 0.0025
    betas: tuple[Interpolation, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    warmup_steps: Count = 0
    r: Exponent = 0
    weight_lr_power: Exponent = 2
    correct_rate: bool = True
    decoupled: bool = option(default=True, kw_only=True)
    convention: Literal["paper", "keras", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def interpolation(options: Mapping[str, Any]) -> float:
        """Return beta1."""
        return float(options["betas"][0])

    @staticmethod
    def reference(
        p: Array,
        g: Array,
        z: Array,
        v: Array,
        weight_sum: Array,
        lr_max: Array,
        *,
        t: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        warmup_steps: int,
        r: int,
        weight_lr_power: int,
        correct_rate: bool,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        """The formula in NumPy."""
        number = p.dtype.type
        beta2 = decay(p.dtype, betas[1])
        one_minus_beta2 = number(1 - float(beta2))
        root = math.sqrt(bias_correction_of(float(beta2), t))
        lr_scale, g_scale = (root, 1.0) if correct_rate else (1.0, root)
        g = g + number(0 if decoupled else weight_decay) * p
        v[...] = beta2 * v + one_minus_beta2 * g * g
        direction = number(g_scale) * g / (np.sqrt(v) + number(eps * g_scale))
        direction = direction + number(weight_decay if decoupled else 0) * p
        warm_lr = _warmed_up(lr, t, warmup_steps) * lr_scale
        weights = {"r": r, "weight_lr_power": weight_lr_power}
        _update(p, direction, z, weight_sum, lr_max, t=t, lr=warm_lr, beta=betas[0], **weights)
