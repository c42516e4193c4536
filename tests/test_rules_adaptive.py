"""The sign methods and the relatives of Adam: their ways by the papers' formulas, and what their classes promise.

Each formula here is one number's, in Python floats, with nothing folded, and with the paper's or its authors' defaults.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from math import copysign, exp, inf, log, sqrt
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import fastoptim as fo
from cases import DTYPES, Array, DType, assert_same_bits, ordinary_values, random_values, special_values
from fastoptim.reference_math import compute_dtype
from models import Memory

State = dict[str, float]
Pair = tuple[float, float]
Triple = tuple[float, float, float]
Backend = Literal["native", "reference"]

BACKENDS: tuple[Backend, Backend] = ("native", "reference")

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# ---- the papers' formulas: the next p, from g and from the state s, which starts at 0


def sgn(x: float) -> float:
    return copysign(1.0, x) if x else 0.0


def clip(x: float, low: float, high: float) -> float:
    return low if x < low else high if x > high else x


def mean(s: State, name: str, beta: float, x: float) -> float:
    s[name] = beta * s[name] + (1 - beta) * x
    return s[name]


def lion(p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.99)) -> float:
    direction = betas[0] * s["m"] + (1 - betas[0]) * g
    mean(s, "m", betas[1], g)
    return p - lr * sgn(direction)


def signsgd(p: float, g: float, s: State, t: int, *, lr: float) -> float:
    return p - lr * sgn(g)


def signum(p: float, g: float, s: State, t: int, *, lr: float, beta: float = 0.9) -> float:
    return p - lr * sgn(mean(s, "m", beta, g))


def tiger(p: float, g: float, s: State, t: int, *, lr: float, beta: float = 0.965) -> float:
    return signum(p, g, s, t, lr=lr, beta=beta)


def adabelief(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    before: bool = False,
) -> float:
    old = s["m"]
    m = mean(s, "m", betas[0], g)
    s["s"] = betas[1] * s["s"] + (1 - betas[1]) * (g - (old if before else m)) ** 2 + eps_root
    return p - lr * (m / (1 - betas[0] ** t)) / (sqrt(s["s"] / (1 - betas[1] ** t)) + eps)


def adabound(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    final_lr: float = 0.1,
    gamma: float = 1e-3,
    eps: float = 1e-8,
    base_lr: float = 0.0,
    amsbound: bool = False,
) -> float:
    m, v = mean(s, "m", betas[0], g), mean(s, "v", betas[1], g * g)
    s["v_max"] = max(s["v_max"], v)
    size = lr * sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t) / (sqrt(s["v_max"] if amsbound else v) + eps)
    goal = final_lr * lr / base_lr if base_lr else final_lr
    return p - clip(size, goal * (1 - 1 / (gamma * t + 1)), goal * (1 + 1 / (gamma * t))) * m


def yogi(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.999),
    eps: float = 1e-3,
    start: float = 1e-6,
) -> float:
    v = start if t == 1 else s["v"]
    s["v"] = v - (1 - betas[1]) * sgn(v - g * g) * g * g
    return p - lr * mean(s, "m", betas[0], g) / (sqrt(s["v"]) + eps)


def yogi_of_optax(p: float, g: float, s: State, t: int, *, lr: float) -> float:
    m, v = (1e-6, 1e-6) if t == 1 else (s["m"], s["v"])
    s["m"], s["v"] = 0.9 * m + 0.1 * g, v - (1 - 0.999) * sgn(v - g * g) * g * g
    return p - lr * (s["m"] / (1 - 0.9**t)) / (sqrt(s["v"] / (1 - 0.999**t)) + 1e-3)


def adan(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Triple = (0.98, 0.92, 0.99),
    eps: float = 1e-8,
    proximal: float = 0.0,
) -> float:
    b1, b2, b3 = betas
    change = g - (g if t == 1 else s["g"])
    s["g"] = g
    m = mean(s, "m", b1, g) / (1 - b1**t)
    v = mean(s, "v", b2, change) / (1 - b2**t)
    n = mean(s, "n", b3, (g + b2 * change) ** 2) / (1 - b3**t)
    return (p - lr * (m + b2 * v) / (sqrt(n) + eps)) / (1 + lr * proximal)


def ademamix(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Triple = (0.9, 0.999, 0.9999),
    alpha: float = 5.0,
    eps: float = 1e-8,
    warm_up: int = 0,
) -> float:
    b1, b2, b3 = betas
    if t < warm_up:
        alpha *= t / warm_up
        b3 = min(exp(log(b1) * log(b3) / ((1 - t / warm_up) * log(b3) + t / warm_up * log(b1))), b3)
    fast, slow = mean(s, "m1", b1, g) / (1 - b1**t), mean(s, "m2", b3, g)
    v = mean(s, "v", b2, g * g) / (1 - b2**t)
    return p - lr * (fast + alpha * slow) / (sqrt(v) + eps)


def adopt(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.9, 0.9999),
    eps: float = 1e-6,
    clipped: bool = True,
) -> float:
    if t == 1:
        s["v"] = g * g
        return p
    bound = (t - 1) ** 0.25 if clipped else inf
    m = mean(s, "m", betas[0], clip(g / max(sqrt(s["v"]), eps), -bound, bound))
    mean(s, "v", betas[1], g * g)
    return p - lr * m


def laprop(p: float, g: float, s: State, t: int, *, lr: float, betas: Pair = (0.9, 0.999), eps: float = 1e-15) -> float:
    v = mean(s, "v", betas[1], g * g) / (1 - betas[1] ** t)
    return p - lr * mean(s, "m", betas[0], g / (sqrt(v) + eps)) / (1 - betas[0] ** t)


def sophia(
    p: float,
    g: float,
    s: State,
    t: int,
    *,
    lr: float,
    betas: Pair = (0.965, 0.99),
    gamma: float = 0.04,
    eps: float = 1e-12,
) -> float:
    if t % 10 == 1:
        mean(s, "h", betas[1], curvature(t))
    m = mean(s, "m", betas[0], g)
    return p - lr * clip(m / max(gamma * s["h"], eps), -1, 1)


def curvature(t: int) -> float:
    """The estimate that is handed over before step t; negative now and then."""
    return 40.0 - 30 * (t // 10 % 3)


def sgdw(p: float, g: float, s: State, t: int, *, lr: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    s["b"] = g if t == 1 else momentum * s["b"] + g
    return p - lr * (g + momentum * s["b"] if nesterov else s["b"] if momentum else g)


# ---- the ways


class Way(NamedTuple):
    """An optimizer with options, and its formula with what they mean; `lr` and the decay are the paper's defaults."""

    optimizer: str
    formula: Callable[..., float]
    options: dict[str, Any]
    meant: dict[str, Any]
    lr: float
    weight_decay: float = 0.0
    decoupled: bool = False


def same(name: str, formula: Callable[..., float], rate: float, /, **options: Any) -> Way:
    """Options that are called alike here and there."""
    shared = {k: v for k, v in options.items() if k in ("weight_decay", "decoupled")}
    own = {k: v for k, v in options.items() if k not in ("weight_decay", "decoupled", "maximize", "lr")}
    return Way(name, formula, options, own, rate, **{**DECAYS.get(name, {}), **shared})


# Where decay is not coupled by default.
DECAYS: dict[str, dict[str, Any]] = {
    "lion": {"decoupled": True},
    "tiger": {"decoupled": True, "weight_decay": 0.01},
    "ademamix": {"decoupled": True},
    "sophia": {"decoupled": True, "weight_decay": 0.1},
    "sgdw": {"decoupled": True, "weight_decay": 0.01},
}


def falling(step: int) -> float:
    return 0.05 / (1 + 0.02 * step)


OTHERS: dict[str, Any] = {"lr": falling, "weight_decay": 0.1, "maximize": True}
BETAS, BETAS3 = {"betas": (0.8, 0.95)}, {"betas": (0.8, 0.95, 0.97)}

WAYS = [
    same("lion", lion, 1e-4),
    same("lion", lion, 1e-4, **OTHERS, **BETAS),
    same("lion", lion, 1e-4, weight_decay=0.1, decoupled=False),
    Way("lion", lion, {"convention": "keras"}, {}, 1e-3),
    Way("lion", lion, {"convention": "optax"}, {}, 1e-4, 1e-3, True),
    same("signsgd", signsgd, 1e-3),
    same("signsgd", signsgd, 1e-3, **OTHERS),
    same("signum", signum, 1e-3),
    same("signum", signum, 1e-3, **OTHERS, beta=0.6),
    same("tiger", tiger, 1e-3),
    same("tiger", tiger, 1e-3, **OTHERS, beta=0.6),
    same("adabelief", adabelief, 1e-3),
    same("adabelief", adabelief, 1e-3, **OTHERS, **BETAS, eps=1e-3, eps_root=1e-4),
    Way("adabelief", adabelief, {"convention": "optax"}, {}, 1e-3),
    Way("adabelief", adabelief, {"previous_mean": True}, {"before": True}, 1e-3),
    same("adabound", adabound, 1e-3),
    same("adabound", adabound, 1e-3, **OTHERS, **BETAS, final_lr=0.2, gamma=0.01, eps=1e-4),
    same("adabound", adabound, 1e-3, **OTHERS, gamma=0.05, base_lr=0.05),
    same("adabound", adabound, 1e-3, **OTHERS, amsbound=True, gamma=0.01),
    same("yogi", yogi, 1e-2),
    same("yogi", yogi, 1e-2, **OTHERS, **BETAS, eps=1e-4),
    Way("yogi", yogi, {"initial_accumulator_value": 0.3}, {"start": 0.3}, 1e-2),
    Way("yogi", yogi_of_optax, {"convention": "optax"}, {}, 1e-2),
    same("adan", adan, 1e-3),
    same("adan", adan, 1e-3, lr=falling, maximize=True, **BETAS3, eps=1e-3),
    same("adan", adan, 1e-3, **OTHERS, decoupled=False),
    Way("adan", adan, OTHERS, {"proximal": 0.1}, 1e-3),
    same("ademamix", ademamix, 1e-3),
    same("ademamix", ademamix, 1e-3, **OTHERS, **BETAS3, alpha=2.0, eps=1e-3),
    Way("ademamix", ademamix, {"t_alpha_beta3": 80}, {"warm_up": 80}, 1e-3),
    same("adopt", adopt, 1e-3),
    same("adopt", adopt, 1e-3, lr=falling, weight_decay=0.1, maximize=True, **BETAS, eps=0.3),
    same("adopt", adopt, 1e-3, clipped=False, weight_decay=0.1, decoupled=True),
    same("laprop", laprop, 4e-4),
    same("laprop", laprop, 4e-4, **OTHERS, **BETAS, eps=1e-3),
    same("sophia", sophia, 1e-4),
    same("sophia", sophia, 1e-4, **OTHERS, **BETAS, gamma=0.1, eps=0.5),
    same("sgdw", sgdw, 1e-3),
    same("sgdw", sgdw, 1e-3, **OTHERS, momentum=0.9),
    same("sgdw", sgdw, 1e-3, **OTHERS, momentum=0.9, nesterov=True),
]

STEPS, SIZE = 150, 7
START = np.random.default_rng(0).normal(0, 3, SIZE)
GRADIENTS = np.random.default_rng(1).normal(0.3, 1, (STEPS, SIZE))


def way_id(way: Way) -> str:
    return "-".join([way.optimizer, *(f"{k}={getattr(v, '__name__', v)}" for k, v in way.options.items())])


def evaluate(way: Way, p: float, grads: Array) -> Iterator[float]:
    """One number's way."""
    state: State = defaultdict(float)
    rate = way.options.get("lr", lambda _: way.lr)
    for t, given in enumerate(map(float, grads), 1):
        lr, g = rate(t - 1), -given if way.options.get("maximize") else given
        if way.decoupled:
            p -= lr * way.weight_decay * p
        else:
            g += way.weight_decay * p
        p = way.formula(p, g, state, t, lr=lr, **way.meant)
        yield p


@each_backend
@pytest.mark.parametrize("way", WAYS, ids=way_id)
def test_the_way_of_the_paper(way: Way, backend: Backend) -> None:
    p = START.copy()
    opt = fo.OPTIMIZERS[way.optimizer](p, **way.options, backend=backend)
    found = []
    for t, g in enumerate(GRADIENTS, 1):
        if isinstance(opt, fo.Sophia) and t % 10 == 1:
            opt.update_hessian(np.full(SIZE, curvature(t)))
        opt.step(g)
        found.append(p.copy())
    wanted = [list(evaluate(way, float(start), grads)) for start, grads in zip(START, GRADIENTS.T, strict=True)]
    np.testing.assert_allclose(np.array(found).T, wanted, rtol=1e-12, atol=1e-14)


NAMES = list(dict.fromkeys(way.optimizer for way in WAYS))

every_name = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}], ids=str)
def test_sgdw_is_torch_s_sgd_on_shrunk_parameters(options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    p = START.copy()
    tensor = torch.tensor(START, requires_grad=True)
    ours, theirs = fo.SGDW(p, lr=0.1, weight_decay=0.2, **options), torch.optim.SGD([tensor], lr=0.1, **options)
    for g in GRADIENTS:
        ours.step(g)
        tensor.data.mul_(1 - 0.1 * 0.2)
        tensor.grad = torch.from_numpy(g)
        theirs.step()
        np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-12, atol=1e-14)


# ---- zero gradients


@each_backend
@each_dtype
@every_name
def test_zero_gradients_move_nothing(name: str, dtype: DType, backend: Backend) -> None:
    """From the first step on, and never by 0/0."""
    p = ordinary_values(np.random.default_rng(0), dtype, 50)
    before = p.copy()
    opt = fo.OPTIMIZERS[name](p, weight_decay=0.0, backend=backend)
    for _ in range(5):
        opt.step(np.zeros(50, dtype))
    assert_same_bits(p, before)
    assert all(np.isfinite(array).all() for array in opt.state.values())


@each_dtype
@every_name
def test_gradients_that_end_leave_no_nan(name: str, dtype: DType) -> None:
    p = np.ones(50, dtype)
    opt = fo.OPTIMIZERS[name](p)
    for t in range(300):
        opt.step(np.ones(50, dtype) if t < 2 else np.zeros(50, dtype))
    assert np.isfinite(p).all()


# ---- what the classes promise


def moves(opt: fo.Optimizer, grads: Array) -> Iterator[Array]:
    """By how much each step moved."""
    for g in grads:
        before = opt.params.copy()
        opt.step(g)
        yield opt.params - before


@pytest.mark.parametrize("name", ["lion", "signsgd", "signum", "tiger"])
def test_steps_by_the_sign_have_one_size(name: str) -> None:
    opt = fo.OPTIMIZERS[name](np.zeros(SIZE), lr=0.25, weight_decay=0.0)
    assert all((abs(move) == 0.25).all() for move in moves(opt, GRADIENTS))


def test_signum_with_momentum_as_a_sum_is_the_same() -> None:
    opt = fo.Signum(np.zeros(SIZE), lr=0.25, beta=0.9)
    total = np.zeros(SIZE)
    for g, move in zip(GRADIENTS, moves(opt, GRADIENTS), strict=True):
        total = 0.9 * total + g
        assert (move == -0.25 * np.sign(total)).all()


def test_tiger_is_lion_with_one_rate() -> None:
    p, q = START.copy(), START.copy()
    tiger, lion = fo.Tiger(p, beta=0.9), fo.Lion(q, lr=1e-3, betas=(0.9, 0.9), weight_decay=0.01)
    for g in GRADIENTS:
        tiger.step(g)
        lion.step(g)
    assert_same_bits(p, q)


def test_adabelief_before_and_after_differ_by_beta1() -> None:
    after, before = (fo.AdaBelief(START.copy(), eps_root=0.0, previous_mean=previous) for previous in (False, True))
    for g in GRADIENTS:
        after.step(g)
        before.step(g)
    np.testing.assert_allclose(before.state["s"] * 0.9**2, after.state["s"], rtol=1e-12)


def test_adabelief_keeps_its_eps_root_in_float32() -> None:
    opt = fo.AdaBelief(np.zeros(3, np.float32))
    for _ in range(3):
        opt.step(np.zeros(3, np.float32))
    np.testing.assert_allclose(opt.state["s"], 3e-16, rtol=2e-3)


@pytest.mark.parametrize("amsbound", [False, True])
def test_adabound_keeps_to_its_bounds(amsbound: bool) -> None:
    """Each is reached; at 1/gamma steps they are within a factor of two of the final rate."""
    opt = fo.AdaBound(np.zeros(SIZE), lr=1e-3, final_lr=0.01, gamma=0.05, amsbound=amsbound)
    grads = GRADIENTS * 10.0 ** np.arange(-3, 4)
    low, high = set(), set()
    for t, move in enumerate(moves(opt, grads), 1):
        lower, upper = 0.01 * (1 - 1 / (0.05 * t + 1)), 0.01 * (1 + 1 / (0.05 * t))
        size = -move / opt.state["m"]
        low.update(np.flatnonzero(np.isclose(size, lower, rtol=1e-9, atol=0)).tolist())
        high.update(np.flatnonzero(np.isclose(size, upper, rtol=1e-9, atol=0)).tolist())
        assert (size >= lower * (1 - 1e-9)).all()
        assert (size <= upper * (1 + 1e-9)).all()
        assert t < 20 or 0.005 <= lower < upper <= 0.02
    assert low
    assert high


@pytest.mark.parametrize("more", [False, True])
def test_adabound_that_never_closes_in_is_adam(more: bool) -> None:
    p, q = START.copy(), START.copy()
    bound, adam = fo.AdaBound(p, gamma=0.0, eps=0.0, amsbound=more), fo.Adam(q, eps=0.0, amsgrad=more)
    for g in GRADIENTS:
        bound.step(g)
        adam.step(g)
    np.testing.assert_allclose(p, q, rtol=1e-12)


def test_adabound_s_bounds_follow_the_rate_from_its_base() -> None:
    for base_lr, factor in ((None, 1.0), (0.2, 0.5)):
        p = np.zeros(1)
        fo.AdaBound(p, lr=0.1, final_lr=1e-6, gamma=1e9, base_lr=base_lr).step(np.ones(1))
        np.testing.assert_allclose(p, -1e-6 * factor * 0.1, rtol=1e-6)


def test_yogi_s_squares_move_by_a_share_of_the_present_one() -> None:
    opt = fo.Yogi(np.zeros(SIZE), betas=(0.9, 0.99))
    v = opt.state["v"].copy()
    for g in [np.full(SIZE, 100.0), *GRADIENTS]:
        opt.step(g)
        np.testing.assert_allclose(abs(opt.state["v"] - v), 0.01 * g * g, rtol=1e-6, atol=1e-12)
        v = opt.state["v"].copy()
    assert (v > 95).all()


@pytest.mark.parametrize(("convention", "mean"), [("paper", 0.0), ("optax", 1e-6)])
def test_yogi_starts_as_its_convention_does(convention: Any, mean: float) -> None:
    opt = fo.Yogi(np.zeros(3), convention=convention)
    assert {name: set(array.tolist()) for name, array in opt.state.items()} == {"m": {mean}, "v": {1e-6}}


def test_adan_s_decay_is_a_quotient() -> None:
    p = np.array([3.0])
    opt = fo.Adan(p, lr=0.5, weight_decay=0.5)
    for _ in range(4):
        opt.step(np.zeros(1))
    np.testing.assert_allclose(p, 3.0 / 1.25**4, rtol=1e-14)


def test_adan_s_first_change_is_none() -> None:
    opt = fo.Adan(np.zeros(3))
    opt.step(np.array([1.0, inf, -2.0]))
    assert (opt.state["v"] == 0).all()
    assert opt.state["g_prev"].tolist() == [1.0, inf, -2.0]


def test_ademamix_without_its_slow_mean_is_adam() -> None:
    p, q = START.copy(), START.copy()
    mix, adam = fo.AdEMAMix(p, alpha=0.0), fo.Adam(q)
    for g in GRADIENTS:
        mix.step(g)
        adam.step(g)
    np.testing.assert_allclose(p, q, rtol=1e-12)


@pytest.mark.parametrize("betas", [(0.9, 0.999, 0.9999), (0.0, 0.5, 0.99), (0.9, 0.5, 0.0), (0.0, 0.5, 0.0)], ids=str)
def test_ademamix_warms_up(betas: tuple[float, float, float]) -> None:
    """From alpha 0 and near beta1 to their full values, which stay; the memory grows linearly."""
    steps = [
        fo.AdEMAMix.compute_host_constants(t=t, betas=betas, alpha=5.0, t_alpha_beta3=1000) for t in range(1, 1002)
    ]
    np.testing.assert_allclose([step["alpha"] for step in steps[:1000]], np.linspace(0.005, 5, 1000), rtol=1e-12)
    assert steps[999] == steps[1000] == {"alpha": 5.0, "beta3": betas[2]}
    if betas[2] > betas[0] > 0:
        memory = [-1 / log(step["beta3"]) for step in steps[:1000]]
        np.testing.assert_allclose(np.diff(memory), (1 / log(betas[0]) - 1 / log(betas[2])) / 1000, rtol=1e-6)
    assert all(0 <= step["beta3"] <= betas[2] for step in steps)


@each_backend
@each_dtype
def test_adopt_s_first_step_only_looks(dtype: DType, backend: Backend) -> None:
    p, g = START.astype(dtype), GRADIENTS[0].astype(dtype)
    before = p.copy()
    opt = fo.ADOPT(p, backend=backend)
    opt.step(g)
    assert_same_bits(p, before)
    wide = g.astype(compute_dtype(dtype))
    assert_same_bits(opt.state["v"], wide * wide)
    assert (opt.state["m"] == 0).all()


def test_adopt_s_ratios_are_bounded_unless_it_is_told_not_to() -> None:
    grads = np.array([[1e-9], [1.0]])
    for clipped, size in ((True, 0.1), (False, 1e5)):
        *_, last = moves(fo.ADOPT(np.zeros(1), lr=1.0, clipped=clipped), grads)
        np.testing.assert_allclose(last, -size, rtol=1e-12)


def test_laprop_s_steps_are_bounded() -> None:
    opt = fo.LaProp(np.zeros(SIZE), lr=1.0, betas=(0.5, 0.9))
    grads = GRADIENTS * 10.0 ** np.random.default_rng(2).integers(-9, 9, STEPS)[:, None]
    largest = max(abs(move).max() for move in moves(opt, grads))
    assert 1 < largest <= 1 / sqrt(1 - 0.9)


# ---- Sophia's second state


def hessians_of(dtype: DType, size: int) -> list[Array]:
    rng = np.random.default_rng(3)
    return [random_values(rng, dtype, size) for _ in range(3)] + [np.resize(special_values(dtype), size)]


@pytest.mark.parametrize("g_dtype", DTYPES, ids=str)
@each_dtype
def test_hessians_by_the_kernel_and_by_the_reference(dtype: DType, g_dtype: DType, isa: str) -> None:
    """Bit for bit, special values included; only h changes."""
    size = 2 * 1024 + 7
    p = ordinary_values(np.random.default_rng(0), dtype, size)
    before = p.copy()
    native, plain = (fo.Sophia(p if backend == "native" else p.copy(), backend=backend) for backend in BACKENDS)
    for hessian in hessians_of(g_dtype, size):
        given = hessian.copy()
        native.update_hessian(hessian)
        plain.update_hessian(hessian)
        assert_same_bits(native.state["h"], plain.state["h"])
        assert hessian.tobytes() == given.tobytes()
    assert_same_bits(native.params, before)
    assert_same_bits(plain.params, before)
    assert (native.state["m"] == 0).all()


AROUND: dict[str, Any] = {
    "weight_decay": 0.5,
    "l1": 0.5,
    "clip_value": 0.01,
    "clip_norm": 0.01,
    "clip_global_norm": 0.01,
    "grad_scale": 1024.0,
    "maximize": True,
    "ema": 0.5,
}


@each_backend
@pytest.mark.parametrize("decoupled", [False, True])
def test_a_hessian_is_taken_as_it_is(decoupled: bool, backend: Backend) -> None:
    """Whatever happens to gradients; and neither parameters, their average nor the clock notice."""
    p = START.copy()
    opt = fo.Sophia(p, betas=(0.5, 0.75), **AROUND, decoupled=decoupled, backend=backend)
    average = opt.state["average"].copy()
    assert opt.update_hessian(np.full(SIZE, 8.0)) is None
    assert (opt.state["h"] == 2.0).all()
    assert_same_bits(p, START)
    assert_same_bits(opt.state["average"], average)
    assert opt.step_count == 0


@each_backend
def test_groups_keep_their_hessians_by_their_own_rates(backend: Backend) -> None:
    groups = [{"params": np.zeros(2), "betas": (0.9, 0.5)}, {"params": [np.zeros(2), np.zeros(3)]}]
    opt = fo.Sophia(groups, betas=(0.9, 0.75), backend=backend)
    opt.update_hessian([np.ones(2), [np.ones(2), None]])
    opt.step([np.ones(2), [None, np.ones(3)]])
    opt.param_groups[0]["betas"] = (0.9, 0.0)
    opt.update_hessian([np.ones(2), [np.ones(2), np.ones(3)]])
    assert opt.state[0]["h"].tolist() == [1.0] * 2
    assert opt.state[1][0]["h"].tolist() == [0.4375] * 2
    assert opt.state[1][1]["h"].tolist() == [0.25] * 3


@each_backend
def test_a_step_after_a_hessian_and_a_checkpoint(backend: Backend) -> None:
    """The state that a checkpoint replaced is the one that the next Hessian goes into."""
    p, q = START.copy(), START.copy()
    opt, other = fo.Sophia(p, backend=backend), fo.Sophia(q, backend=backend)
    for i, g in enumerate(GRADIENTS[:20]):
        if i == 10:
            q[...] = p
            other.load_state_dict(opt.state_dict())
        for each in (opt, other) if i >= 10 else (opt,):
            each.update_hessian(g * g)
            each.step(g)
    assert_same_bits(q, p)
    assert_same_bits(other.state["h"], opt.state["h"])


@each_backend
def test_hessians_that_are_not_finite_are_skipped(backend: Backend) -> None:
    opt = fo.Sophia([np.zeros(2), np.zeros(2)], skip_nonfinite=True, backend=backend)
    assert opt.update_hessian([np.ones(2), np.array([1.0, inf])]) is False
    assert all((state["h"] == 0).all() for state in opt.state)
    assert opt.update_hessian([np.ones(2), np.ones(2)]) is True
    assert all((state["h"] > 0).all() for state in opt.state)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "structure": ([1], TypeError, "hessians"),
    "keys": ({"a": np.ones(3)}, TypeError, "hessians"),
    "shape": ({"a": np.ones(3), "b": np.ones(3)}, ValueError, "hessians['b']"),
    "dtype": ({"a": np.ones(3), "b": np.ones(2, int)}, TypeError, "hessians['b']"),
    "no array": ({"a": np.ones(3), "b": 1.0}, TypeError, "hessians['b']"),
}


@each_backend
@pytest.mark.parametrize("why", REFUSED)
def test_hessians_are_refused_as_gradients_are(why: str, backend: Backend) -> None:
    """With the place, and before the first write."""
    hessians, error, place = REFUSED[why]
    memory = Memory()
    opt = fo.Sophia({"a": memory.array((3,)), "b": memory.array((2,))}, backend=backend)
    with memory.refuses(error, place):
        opt.update_hessian(hessians)
    assert all((state["h"] == 0).all() for state in opt.state.values())


def test_hessians_in_the_memory_of_the_parameters_are_refused() -> None:
    p = np.zeros(3)
    opt = fo.Sophia(p)
    with pytest.raises(ValueError, match="hessians"):
        opt.update_hessian(p)


def test_no_hessians_while_averages_are_shown() -> None:
    opt = fo.Sophia(np.zeros(3), ema=0.5)
    with opt.averaged(), pytest.raises(RuntimeError, match="averaged"):
        opt.update_hessian(np.ones(3))


def test_no_hessians_for_groups_that_are_not_there() -> None:
    opt = fo.Sophia([{"params": np.zeros(3)}])
    opt.param_groups.append({"params": np.zeros(3)})
    with pytest.raises(ValueError, match="param_groups: expected 1 groups, got 2"):
        opt.update_hessian([np.ones(3)])


def test_sophia_never_moves_further_than_its_rate() -> None:
    """And by just that against the sign of the mean where curvature is unknown or negative."""
    opt = fo.Sophia(np.zeros(3), lr=0.25, gamma=1.0, betas=(0.0, 0.0), weight_decay=0.0)
    opt.update_hessian(np.array([4.0, -4.0, 0.5]))
    opt.step(np.array([1.0, 1.0, -1.0]))
    assert opt.params.tolist() == [-0.0625, -0.25, 0.25]


# ---- minima


def rosenbrock(p: Array) -> tuple[Array, Array]:
    """Its gradient, and the diagonal of its Hessian."""
    x, y = p
    return (
        np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)]),
        np.array([2 - 400 * (y - 3 * x * x), 200.0]),
    )


def quadratic(p: Array) -> tuple[Array, Array]:
    diagonal = np.array([1.0, 30.0])
    return diagonal * (p - 1), diagonal


# With a rate for both functions; other options where the defaults are made for longer runs or for smaller gradients.
SETTINGS: dict[str, dict[str, Any]] = {
    "lion": {"lr": 1e-3},
    "signsgd": {"lr": 2e-4},
    "signum": {"lr": 1e-3},
    "tiger": {"lr": 1e-3},
    "adabelief": {"lr": 0.01},
    "adabound": {"lr": 0.1, "final_lr": 2e-3},
    "yogi": {"lr": 0.1},
    "adan": {"lr": 0.01},
    "ademamix": {"lr": 0.01, "betas": (0.9, 0.999, 0.99)},
    "adopt": {"lr": 0.01, "betas": (0.9, 0.99)},
    "laprop": {"lr": 0.01},
    "sophia": {"lr": 0.1},
    "sgdw": {"lr": 1e-3, "momentum": 0.9},
}


@pytest.mark.parametrize("function", [quadratic, rosenbrock])
@every_name
def test_reaches_the_minimum(name: str, function: Callable[[Array], tuple[Array, Array]]) -> None:
    """With a rate that falls to 0, and no decay, which would pull away from it."""
    p: npt.NDArray[np.float64] = np.array([-1.2, 1.0])
    steps = 30_000 if name == "signsgd" else 10_000
    setting = SETTINGS[name]
    opt = fo.OPTIMIZERS[name](p, **{**setting, "lr": lambda step: setting["lr"] * (1 - step / steps)}, weight_decay=0.0)
    for step in range(steps):
        gradient, diagonal = function(p)
        if isinstance(opt, fo.Sophia) and step % 10 == 0:
            opt.update_hessian(diagonal)
        opt.step(gradient)
    np.testing.assert_allclose(p, 1, atol=1e-2)
