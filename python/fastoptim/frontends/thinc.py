"""Optimizers of thinc's protocol: called for one array of a model at a time, with a key, weights and gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from ..optimizer.base import OPTIMIZERS
from ..optimizer.base import Optimizer as BaseOptimizer
from ..optimizer.containers import is_same_memory
from ..options.schema import AVERAGE

try:
    import thinc.optimizers
    import thinc.schedules
    from thinc.api import Optimizer as ThincOptimizer
    from thinc.backends import get_array_ops
except ImportError as error:
    raise ImportError("fastoptim.thinc: expected thinc 8.3 or later; pip install 'fastoptim[thinc]'") from error

CLASSES = {cls.__name__: cls for cls in OPTIMIZERS.values()}

# thinc's names of options that every optimizer has.  Those that it takes as schedules are the attributes below.
_RENAMED = {"learn_rate": "lr", "L2": "weight_decay", "L2_is_weight_decay": "decoupled", "grad_clip": "clip_norm"}
_SCHEDULED = ("learn_rate", "L2", "grad_clip", "b1", "b2", "eps")


class _Stepper(NamedTuple):
    """The optimizer of one array, and the values of the scheduled options that it has."""

    optimizer: BaseOptimizer
    weights: Any
    values: tuple[float, ...]


class Optimizer(ThincOptimizer):  # type: ignore[misc]
    """A thinc optimizer that steps each array by a fastoptim optimizer of its own; see `factory`.

    Schedules, `step_schedules`, `learn_rate` and `averages` are those of thinc's class.
    """

    __slots__ = ("_class", "_options", "_steppers")

    def __init__(
        self, optimizer: type[BaseOptimizer], options: Mapping[str, Any], *, use_averages: bool, **of_thinc: Any
    ) -> None:
        rate = of_thinc.pop("learn_rate")
        if callable(rate) and not isinstance(rate, getattr(thinc.schedules, "Schedule", ())):
            schedule = rate
            rate = (schedule(step) for step in count())
        keeps_average = any(options[name] is not None for name in ("ema", "swa_start"))
        is_radam = optimizer.name == "radam"
        super().__init__(rate, use_averages=use_averages or keeps_average, use_radam=is_radam, **of_thinc)
        self._class, self._options = optimizer, dict(options)
        self._steppers: dict[Any, _Stepper] = {}
        self._made(np.zeros(1), self._values(None, 1.0))  # checks the options

    def __call__(self, key: Any, weights: Any, gradient: Any, *, lr_scale: float = 1.0) -> tuple[Any, Any]:
        """Update the weights in place, set the gradient to zero, as thinc adds to it, and return both."""
        if gradient.size == 0:
            return weights, gradient
        optimizer = self._optimizer_of(key, weights, self._values(key, lr_scale))
        optimizer.step(gradient)
        gradient.fill(0)
        if self.averages is not None and AVERAGE not in optimizer.state:
            ops = get_array_ops(weights)
            if key not in self.averages:
                self.averages[key] = ops.alloc(weights.shape, dtype="float32")
            ops.update_averages(self.averages[key], weights, optimizer.step_count)
        return weights, gradient

    def _values(self, key: Any, lr_scale: float) -> tuple[float, ...]:
        """Return the present values of the scheduled options, which are schedules in thinc 9 and numbers in thinc 8."""
        values = [getattr(self, name) for name in _SCHEDULED]
        if callable(values[0]):
            values = [value(self.step, **self._schedule_args(key)) for value in values]
        values[0] *= lr_scale
        return tuple(values)

    def _renamed(self, values: tuple[float, ...]) -> dict[str, Any]:
        """Return these values as the class's options."""
        lr, weight_decay, clip_norm, beta1, beta2, eps = values
        options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "clip_norm": clip_norm or None}
        if _has_two_betas(self._class):
            options["betas"] = (beta1, beta2)
        return options | ({"eps": eps} if "eps" in self._class.defaults else {})

    def _made(self, weights: Any, values: tuple[float, ...]) -> BaseOptimizer:
        return self._class(weights, **self._options, decoupled=self.L2_is_weight_decay, **self._renamed(values))

    def _optimizer_of(self, key: Any, weights: Any, values: tuple[float, ...]) -> BaseOptimizer:
        """Return the optimizer of an array, with these values; where another array replaced it, the state continues."""
        known = self._steppers.get(key)
        if known and known.weights is weights and known.values == values:
            return known.optimizer
        if known and is_same_memory(weights, known.weights):
            optimizer = known.optimizer
            optimizer.param_groups[0].update(self._renamed(values))
        else:
            optimizer = self._made(weights, values)
            if known:
                optimizer.load_state_dict(known.optimizer.state_dict(), convert=True)
                optimizer.param_groups[0].update(self._renamed(values))
            if AVERAGE in optimizer.state:
                self.averages[key] = optimizer.state[AVERAGE]
        self._steppers[key] = _Stepper(optimizer, weights, values)
        return optimizer


def _has_two_betas(optimizer: type[BaseOptimizer]) -> bool:
    return len(optimizer.defaults.get("betas", ())) == 2


def factory(optimizer: type[BaseOptimizer]) -> Callable[..., Optimizer]:
    """Return a function that makes thinc optimizers of a class, as `fastoptim.thinc` has one for each.

    Its options are thinc's `learn_rate`, `L2`, `L2_is_weight_decay`, `grad_clip`, `use_averages`, `beta1`, `beta2` and
    `eps` with thinc's meaning and the class's defaults, as far as the class has them, and the other options of the
    class.  Each of the numbers may be one of thinc's schedules, and `learn_rate` any callable of the step.  `grad_clip`
    is 0 for none.  With `ema` or `swa_start`, which average in the same pass over the arrays, the averages are those.

    The default of `grad_clip` is 0, and of `use_averages` False.  Where thinc has an optimizer of the same name
    (`Adam`, `RAdam`, `SGD`), these defaults and that of `L2_is_weight_decay` are thinc's, and `eps_hat` is True, as
    in thinc's formula.

    Each array is stepped alone: `clip_global_norm` bounds the norm of each, and Prodigy estimates a rate for each.
    thinc has no look-ahead for `NAG` and no Hessians for `Sophia`.

    >>> import numpy as np, fastoptim as fo, fastoptim.thinc
    >>> optimizer = fastoptim.thinc.factory(fo.Lion)(0.5, L2=0.0)
    >>> optimizer((0, "b"), np.ones(2, "f"), np.array([3, -1], "f"))[0]
    array([0.5, 1.5], dtype=float32)
    """
    hidden = {*_RENAMED.values(), "params", "convention", "copies", *(("betas",) if _has_two_betas(optimizer) else ())}
    defaults = {thinc_name: optimizer.defaults[name] for thinc_name, name in _RENAMED.items()}
    defaults |= {"grad_clip": 0.0, "use_averages": False}
    if _has_two_betas(optimizer):
        defaults["beta1"], defaults["beta2"] = optimizer.defaults["betas"]
    own = {name: p.default for name, p in inspect.signature(optimizer).parameters.items() if name not in hidden}
    theirs = getattr(thinc.optimizers, optimizer.__name__, None)
    if theirs:
        known = inspect.signature(theirs).parameters
        defaults |= {name: known[name].default for name in ("L2_is_weight_decay", "grad_clip", "use_averages")}
        own |= {"eps_hat": True} if "eps_hat" in own else {}
    defaults |= {**own, "clip_eps": 0.0}

    def make(*args: Any, **kwargs: Any) -> Optimizer:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        names = (*_RENAMED, "use_averages", "beta1", "beta2", "eps")
        of_thinc = {name: given.pop(name) for name in names if name in given}
        return Optimizer(optimizer, given, **of_thinc)

    kinds = [inspect.Parameter.POSITIONAL_OR_KEYWORD] + [inspect.Parameter.KEYWORD_ONLY] * (len(defaults) - 1)
    parameters = [
        inspect.Parameter(name, kind, default=defaults[name]) for name, kind in zip(defaults, kinds, strict=True)
    ]
    signature = inspect.Signature(parameters)
    make.__signature__ = signature  # type: ignore[attr-defined]
    make.__name__ = make.__qualname__ = optimizer.__name__
    make.__doc__ = f"Return a thinc optimizer that steps by `fastoptim.{optimizer.__name__}`; see `factory`."
    return make
