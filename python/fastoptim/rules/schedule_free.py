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
from ..reference_math import Array, compute_dtype, decay, power

Exponent = Annotated[int, Whole(0, 64)]
Between = Annotated[float, Range(0.01, 1)]  # the average is recovered by a division by it

SCHEMA = {"z": StateArray(initial="p"), "weight_sum": StateArray("scalar"), "lr_max": StateArray("scalar")}


class ScheduleFree(Optimizer):
    """What the two have in common: gradients are taken at y, evaluation is at the average x."""

    variants = {}

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(params, *args, **kwargs)
        self._trained: list[Any] = []  # the parameters, while the averages stand in their place

    @staticmethod
    def between(options: Mapping[str, Any]) -> float:
        """How far from z towards x the gradients are taken."""
        raise NotImplementedError

    def eval(self) -> None:
        """Puts the averages x into the parameters, to evaluate or to save them; nothing if they are there already.

        Until `train` the optimizer neither steps nor shows, saves, loads or copies its state: RuntimeError.

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
        self.check_not_swapped()
        self.check_arrays()
        groups = [self._settings(index).options for index in range(len(self.param_groups))]
        averages = [_average(param, self.between(groups[param.group])) for param in self.param_states]
        self._trained = [param.family.copy(param.p) for param in self.param_states]
        self._swapped_by = "eval"
        for param, x in zip(self.param_states, averages, strict=True):
            param.family.assign(param.p, x)

    def train(self) -> None:
        """Puts the parameters back, bit for bit as they were before `eval`; nothing if they are there already."""
        if self._swapped_by == "eval":
            self._put_back(self._trained, "eval")
            self._trained, self._swapped_by = [], ""

    def check_not_swapped(self) -> None:
        """RuntimeError while other values stand in the parameters' place."""
        if self._swapped_by == "eval":
            raise RuntimeError("eval: expected train() before; the averages stand in the parameters' place")
        super().check_not_swapped()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`, with its options and state; see `Optimizer`.  Not between `eval` and `train`."""
        self.check_not_swapped()
        super().load_state_dict(state_dict)


def _average(param: ParamState, between: float) -> Any:
    """The x of which y is ``(1 - between)*z + between*x``, in the compute type."""
    dtype = compute_dtype(param.metadata.dtype)
    with param.family.arithmetic(param.p):
        y, z = param.family.astype(param.p, dtype), param.state["z"]
        return y + dtype.type(1 / between - 1) * (y - z)


def _step(
    y: Array,
    along: Array,
    z: Array,
    weight_sum: Array,
    lr_max: Array,
    *,
    t: int,
    lr: float,
    between: float,
    r: int,
    weight_lr_power: int,
) -> None:
    """What both do once they know their direction."""
    number = y.dtype.type
    lr_max[...] = lr_max if float(lr_max) >= lr else lr
    weight = power(float(t), r) * power(float(lr_max), weight_lr_power)
    weight_sum[...] = weight_sum + weight
    newest = weight / float(weight_sum) if weight_sum != 0 else 0.0
    y[...] = y + number(newest) * (z - y) + number(lr * (between * (1 - newest) - 1)) * along
    z -= number(lr) * along


def _warm(lr: float, t: int, warmup_steps: int) -> float:
    return lr * (t / warmup_steps) if t < warmup_steps else lr


class ScheduleFreeSGD(ScheduleFree):
    r"""Schedule-Free SGD: an average of the iterates in place of a schedule that ends at a known step.

    .. math::
        \gamma &= \eta \min(1, t / T_\text{warmup}), \qquad
        w = t^r \max(\gamma_1, \dots, \gamma_t)^k, \qquad c = w / \textstyle\sum w \\
        p &= p + c (z - p) + \gamma\, (\mu (1 - c) - 1)\, g \\
        z &= z - \gamma g

    The parameters are the point :math:`y = (1 - \mu) z + \mu x` between the iterate :math:`z` and the weighted mean
    :math:`x` of all :math:`z`, where gradients are to be taken; the model to evaluate and to keep is :math:`x`.  `eval`
    puts it into the parameters, `train` goes back to :math:`y`.  Learning rates are larger than SGD's, 1 to 10 times,
    and constant but for the warm-up.

    The exponents are whole numbers here, so that every machine computes the same powers.  :math:`x` has no array of its
    own: ``x = y + (1/momentum - 1) * (y - z)``, which with half-precision parameters has their rounding.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        momentum: :math:`\mu`, in [0.01, 1]: at 1 gradients are taken at :math:`x`, near 0 at :math:`z`.
        warmup_steps: :math:`T_\text{warmup}`, a whole number: for so many steps the rate rises to `lr`.
        r: :math:`r`, a whole number from 0 to 64: late iterates weigh :math:`t^r` as much.
        weight_lr_power: :math:`k`, a whole number from 0 to 64: what the largest rate so far counts in the weights.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.
        RuntimeError: `step` and the like between `eval` and `train`.

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
    momentum: Between = 0.9
    warmup_steps: Count = 0
    r: Exponent = 0
    weight_lr_power: Exponent = 2

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "schedule_free_sgd"

    @staticmethod
    def between(options: Mapping[str, Any]) -> float:
        """The momentum."""
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
        rate = _warm(lr, t, warmup_steps)
        weights = {"r": r, "weight_lr_power": weight_lr_power}
        _step(p, g, z, weight_sum, lr_max, t=t, lr=rate, between=momentum, **weights)


class ScheduleFreeAdamW(ScheduleFree):
    r"""Schedule-Free AdamW: an average of the iterates in place of momentum and of a schedule that ends somewhere.

    .. math::
        v &= \beta_2 v + (1 - \beta_2) g^2 \\
        \gamma &= \eta \min(1, t / T_\text{warmup}) \sqrt{1 - \beta_2^t}, \qquad
        w = t^r \max(\gamma_1, \dots, \gamma_t)^k, \qquad c = w / \textstyle\sum w \\
        d &= g / (\sqrt v + \epsilon) + \lambda p \\
        p &= p + c (z - p) + \gamma\, (\beta_1 (1 - c) - 1)\, d \\
        z &= z - \gamma d

    The parameters are the point :math:`y = (1 - \beta_1) z + \beta_1 x` between the iterate :math:`z` and the weighted
    mean :math:`x` of all :math:`z`, where gradients are to be taken; the model to evaluate and to keep is :math:`x`.
    `eval` puts it into the parameters, `train` goes back to :math:`y`.  Learning rates are AdamW's, or up to ten times
    those, constant but for a warm-up, which it wants.

    The exponents are whole numbers here, so that every machine computes the same powers.  :math:`x` has no array of its
    own: ``x = y + (1/beta1 - 1) * (y - z)``, which with half-precision parameters has their rounding.

    Args:
        params: Arrays to update in place; see `Optimizer`.
        lr: Learning rate :math:`\eta`, at least 0, or a callable of the step.
        betas: :math:`\beta_1` in [0.01, 1]: at 1 gradients are taken at :math:`x`, near 0 at :math:`z`; and
            :math:`\beta_2` in [0, 1), how slowly the mean square forgets.
        eps: :math:`\epsilon`, added to the root, at least 0.
        warmup_steps: :math:`T_\text{warmup}`, a whole number: for so many steps the rate rises to `lr`.
        r: :math:`r`, a whole number from 0 to 64: late iterates weigh :math:`t^r` as much.
        weight_lr_power: :math:`k`, a whole number from 0 to 64: what the largest rate so far counts in the weights.
        correct_rate: Whether :math:`\sqrt{1 - \beta_2^t}` is part of the learning rate, and so of decay and weights, as
            in the paper; else :math:`v` is corrected, ``sqrt(v / (1 - beta2^t)) + eps``, as in Adam.
        decoupled: Whether weight decay is the :math:`\lambda p` of the formula; else it is added to the gradient.
        convention: "paper"; "keras": corrects :math:`v`, and weighs all iterates alike (its weight decay shrinks
            :math:`y` alone and is not repeated here); or "optax": corrects :math:`v`, as the authors' later code does
            (optax's warm-up begins at 0, ours and theirs one step on).
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        ValueError: An option out of range.
        RuntimeError: `step` and the like between `eval` and `train`.

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
    state_schema = SCHEMA
    decays_itself = True
    conventions = {
        "paper": {},
        "keras": {"correct_rate": False, "weight_lr_power": 0},
        "optax": {"correct_rate": False},
    }

    lr: LearningRate = 0.0025
    betas: tuple[Between, Decay] = (0.9, 0.999)
    eps: NonNegative = 1e-8
    warmup_steps: Count = 0
    r: Exponent = 0
    weight_lr_power: Exponent = 2
    correct_rate: bool = True
    decoupled: bool = option(default=True, kw_only=True)
    convention: Literal["paper", "keras", "optax"] = argument(default="paper", kw_only=True)

    @staticmethod
    def variant(**_: Any) -> str:
        """There is one."""
        return "schedule_free_adamw"

    @staticmethod
    def between(options: Mapping[str, Any]) -> float:
        """The first of the betas."""
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
        keep = decay(p.dtype, betas[1])
        root = math.sqrt(1 - power(float(keep), t))
        rate = _warm(lr, t, warmup_steps)
        of_rate, of_v = (root, 1.0) if correct_rate else (1.0, root)
        g = g + number(0 if decoupled else weight_decay) * p
        v[...] = keep * v + number(1 - float(keep)) * g * g
        d = number(of_v) * g / (np.sqrt(v) + number(eps * of_v)) + number(weight_decay if decoupled else 0) * p
        weights = {"r": r, "weight_lr_power": weight_lr_power}
        _step(p, d, z, weight_sum, lr_max, t=t, lr=rate * of_rate, between=betas[0], **weights)
