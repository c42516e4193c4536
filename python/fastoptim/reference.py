"""What the answer is, in plain NumPy.  ``fo.reference.NAME`` has the signature of ``fo.functional.NAME``.

Preparation and storage stand here, the formula of each optimizer in its own file; all are written from the papers and
not from the kernels, and fix the order of the operations, so that native code has bits to equal.  No compiled code of
fastoptim runs.

>>> import numpy as np, fastoptim as fo
>>> p, g = np.array([1.0, 2.0]), np.array([0.5, -0.5])
>>> fo.reference.sgd(p, g, step=1, lr=0.1)
>>> p
array([0.95, 2.05])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array, compute_dtype
from .engine import AVERAGE, GroupSnapshot, GroupStep, ParamState, check_one, check_targets
from .trees import Structure

TILE, LANES = 1024, 32


def unscaled(g: Array, group_step: GroupStep) -> Array:
    """The gradient divided by the loss scale, and negated to maximize."""
    gain = (-1.0 if group_step.settings.options["maximize"] else 1.0) / group_step.grad_scale
    return g if gain == 1 else g.dtype.type(gain) * g


def bounded(g: Array, group_step: GroupStep) -> Array:
    """Each element within `clip_value`."""
    bound = group_step.settings.options["clip_value"]
    if bound is None:
        return g
    number = g.dtype.type
    return maximum(minimum(g, number(bound)), number(-bound))


def clips(works: Sequence[_Work]) -> list[float | None]:
    """What each array's gradient is multiplied by, after its own norm and then after the norm of all."""
    options = [work.group_step.settings.options for work in works]
    if all(own["clip_norm"] is None and own["clip_global_norm"] is None for own in options):
        return [None] * len(works)
    norms = [math.sqrt(total(square(work.g))) for work in works]
    first = [_clip(own["clip_norm"], norm) for own, norm in zip(options, norms, strict=True)]
    whole = 0.0
    for factor, norm in zip(first, norms, strict=True):
        left = norm if factor is None else factor * norm if factor else 0.0
        whole += left * left
    second = [_clip(own["clip_global_norm"], math.sqrt(whole)) for own in options]
    return [_product(a, b) for a, b in zip(first, second, strict=True)]


def _clip(bound: float | None, norm: float) -> float | None:
    if bound is None:
        return None
    factor = bound / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
    return 1.0 if factor > 1 else factor


def _product(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else a * b


def decayed(p: Array, g: Array, group_step: GroupStep) -> Array:
    """The gradient with its penalties; with decoupled decay it is `p` that changes, in place."""
    number, options = p.dtype.type, group_step.settings.options
    if options["l1"]:
        g = g + number(options["l1"]) * sign(p)
    weight_decay = options["weight_decay"]
    if not weight_decay or group_step.settings.optimizer.decays_itself:
        return g
    if not options["decoupled"]:
        return np.asarray(g + number(weight_decay) * p)
    p *= number(1 - group_step.lr * weight_decay)
    return g


def average_of(average: Array, p: Array, group_step: GroupStep) -> None:
    """The average of the parameters, in place: exponential, or of every `swa_every`-th step from `swa_start` on."""
    options, number, t = group_step.settings.options, p.dtype.type, group_step.t
    if options["ema"] is not None:
        keep = decay(p.dtype, options["ema"])
    elif t < options["swa_start"]:
        keep = number(0)
    else:
        count, between = divmod(t - options["swa_start"], options["swa_every"])
        kept = float(count) / float(count + 1)
        if between or kept == 1:
            return
        keep = decay(p.dtype, kept)
    average[...] = keep * average + number(1 - float(keep)) * p


def total(terms: Array) -> float:
    """Their sum in double, in an order that depends on their number alone.

    Tiles of 1024 in the order of memory; in a tile 32 running sums, each of every 32nd term; then neighbours are added
    in pairs, first the running sums of a tile, then the tiles.
    """
    flat = terms.ravel(order="K").astype(np.float64)
    tiles = np.zeros((-(-max(flat.size, 1) // TILE), TILE // LANES, LANES))
    tiles.reshape(-1)[: flat.size] = flat
    sums = np.zeros((len(tiles), LANES))
    for row in range(TILE // LANES):
        sums = sums + tiles[:, row]
    for _ in range(LANES.bit_length() - 1):
        sums = sums[:, 0::2] + sums[:, 1::2]
    return _pairwise(sums[:, 0])


def _pairwise(sums: Array) -> float:
    while sums.size > 1:
        pairs = sums[: sums.size // 2 * 2]
        sums = np.concatenate([pairs[0::2] + pairs[1::2], sums[pairs.size :]])
    return float(sums[0])


def square(x: Array) -> Array:
    """Of each element, in double."""
    wide = x.astype(np.float64)
    return wide * wide


def power(base: float, t: int) -> float:
    """``base**t`` by repeated squaring: fixed multiplications, where a libm's pow may differ from another's."""
    result = 1.0
    while t > 0:
        if t % 2:
            result *= base
        base *= base
        t //= 2
    return result


def decay(dtype: np.dtype[Any], rate: float) -> Any:
    """A decay rate as its dtype keeps it, below one: float32 would round 0.99999999 to one, which never decays."""
    number = dtype.type
    return min(number(rate), np.nextafter(number(1), number(0)))


def maximum(a: Array, b: Array) -> Array:
    """The larger, NaN if either is, and the first of equals: np.maximum leaves open which of 0 and -0 it takes."""
    return np.where((a >= b) | np.isnan(a), a, b)


def minimum(a: Array, b: Array) -> Array:
    """The smaller, NaN if either is, and the first of equals."""
    return np.where((a <= b) | np.isnan(a), a, b)


def sign(x: Array) -> Array:
    """-1, 0 or 1; NaN for NaN; +0 for either zero."""
    return np.asarray(np.sign(x))


def cube_root(x: Array) -> Array:
    """Within one unit in the last place, by fixed operations: NumPy's is the libm's, and each libm's is another.

    Halley's method on numbers far from the ends of the range, from a first guess that divides the bit pattern, and with
    it the exponent, by three.  Before each step the root is cut to half of its digits, so that its square is exact.
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


@dataclass
class _Work:
    """One array in one step, in its compute type."""

    param: ParamState
    group_step: GroupStep
    p: Array
    g: Array
    sums: tuple[float, ...] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """What the formula takes beside p, g and the sums."""
        settings, lr, t, _, scalars = self.group_step
        optimizer = settings.optimizer
        own = {k: v for k, v in settings.options.items() if k not in optimizer.shared or k == "lr"}
        if optimizer.decays_itself:
            own |= {k: settings.options[k] for k in ("weight_decay", "decoupled")}
        state = {name: self.param.state[name] for name in optimizer.variants[settings.variant]}
        return {**state, **own, "lr": lr, "t": t, **scalars}


class Engine:
    """The reference backend: one array after another."""

    def __init__(self, param_states: Sequence[ParamState]) -> None:
        self._param_states = param_states

    def step(self, grads: list[Any], group_steps: Sequence[GroupStep], step_of: list[int] | None = None) -> int | None:
        """Update every array that has a gradient; see fastoptim.engine.Engine."""
        written = check_targets(self._param_states)
        checked = [
            None if grad is None else check_one(param, grad, written)
            for param, grad in zip(self._param_states, grads, strict=True)
        ]
        with np.errstate(all="ignore"):
            works = []
            for i, (param, grad) in enumerate(zip(self._param_states, checked, strict=True)):
                if grad is not None:
                    group_step = group_steps[param.group if step_of is None else step_of[i]]
                    dtype = compute_dtype(param.p.dtype)
                    works.append(_Work(param, group_step, param.p.astype(dtype), grad.astype(dtype)))
            return len(works) if _step(works, group_steps) else None

    def repeat(self, structure: Structure, groups: Sequence[GroupSnapshot]) -> None:
        """None; see fastoptim.engine.Engine."""


def _step(works: list[_Work], group_steps: Sequence[GroupStep]) -> bool:
    for work in works:
        work.g = unscaled(work.g, work.group_step)
    skips = any(group_step.settings.options["skip_nonfinite"] for group_step in group_steps)
    if skips and not all(np.isfinite(work.g).all() for work in works):
        return False
    for work in works:
        work.g = bounded(work.g, work.group_step)
    for work, clip in zip(works, clips(works), strict=True):
        if clip is not None:
            work.g = work.p.dtype.type(clip) * work.g
        work.g = decayed(work.p, work.g, work.group_step)
    _measure(works)
    for work in works:
        settings, p = work.group_step.settings, work.p
        sums = {"sums": work.sums} if work.sums else {}
        settings.optimizer.reference(p, work.g, **work.arguments, **sums)
        if settings.averages:
            average_of(work.param.state[AVERAGE], p, work.group_step)
        work.param.p[...] = p.astype(work.param.p.dtype)
    return True


def _measure(works: list[_Work]) -> None:
    """The sums that some formulas need first, of each array or of a group's arrays in their order."""
    of_group: dict[int, tuple[float, ...]] = {}
    for work in works:
        optimizer = work.group_step.settings.optimizer
        if optimizer.reduce_terms is None:
            continue
        work.sums = optimizer.reduce_terms(work.p, work.g, **work.arguments)
        if optimizer.reduces_group:
            before = of_group.get(work.param.group, (0.0,) * len(work.sums))
            of_group[work.param.group] = tuple(a + b for a, b in zip(before, work.sums, strict=True))
    for work in works:
        if work.group_step.settings.optimizer.reduces_group:
            work.sums = of_group[work.param.group]


def __getattr__(name: str) -> Callable[..., bool | None]:
    from .functional import bind

    return bind(name, "reference", __name__)


def __dir__() -> list[str]:
    from .optimizer import OPTIMIZERS

    return sorted([*globals(), *OPTIMIZERS])
