"""The CUDA path against the CPU's, in every bit, over random models: tables, index arithmetic, sums, graphs.

Runs where the build emulates CUDA (``FASTOPTIM_CUDA=EMULATED``): the threads' own code, on this processor.  There an
access that is wider than its address allows ends the process, so these tests hold that, too.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from math import inf
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import fastoptim as fo
from fastoptim.core import RULES
from fastoptim.reference_math import norm_in_order

pytestmark = pytest.mark.skipif(fo.build_info()["cuda"] != "emulated", reason="needs FASTOPTIM_CUDA=EMULATED")

core: Any = importlib.import_module("fastoptim._core")
Array = npt.NDArray[Any]

DTYPES = [np.dtype(kind) for kind in ("float64", "float32", "float16", ml_dtypes.bfloat16)]

# Around what a thread, a tile, a chunk of the update and one of the sums take.
SIZES = (0, 1, 2, 3, 7, 8, 9, 31, 33, 255, 256, 1023, 1025, 2048, 4095, 4096, 4097, 5000, 16384, 20000, 40000)

# Options around the rule, by what a test id calls them.
AROUND: dict[str, dict[str, Any]] = {
    "nothing": {},
    "value": {"clip_value": 0.5},
    "norm": {"clip_norm": 0.7},
    "norms": {"clip_norm": 0.7, "clip_global_norm": 1.1},
    "norms of type 1": {"clip_norm": 0.7, "clip_global_norm": 1.1, "norm_type": 1.0, "clip_eps": 0.0},
    "norms of type inf": {"clip_norm": 0.7, "clip_global_norm": 1.1, "norm_type": inf, "clip_eps": 0.1},
    "penalty": {"l1": 0.01, "weight_decay": 0.02},
    "decay": {"weight_decay": 0.02, "decoupled": True},
    "average": {"ema": 0.9},
    "skip": {"skip_nonfinite": True},
}

SENTINEL = 0xA5


class Model:
    """Random arrays, twice: one for the CPU's plan, one for CUDA's, each in a buffer with a margin."""

    def __init__(
        self, rule: str, options: dict[str, Any], count: int, seed: int, sizes: tuple[int, ...] = SIZES
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.rule = RULES[rule]
        self.buffers: list[tuple[Array, Array]] = []
        self.arrays: list[tuple[Array, Array]] = []
        self.configs = [self.hyper(options, maximize) for maximize in (False, True)]
        self.groups = [int(self.random.integers(2)) for _ in range(count)]
        params: list[tuple[Array, Array]] = []
        states: list[list[list[tuple[Array, Array]]]] = []
        self.grads: list[Array | None] = []
        for _ in range(count):
            size = int(self.random.choice(sizes))
            dtype = DTYPES[self.random.integers(4)]
            own = np.dtype(np.float64 if dtype == np.float64 else np.float32)
            grad_dtype = dtype if self.random.random() < 0.6 else DTYPES[self.random.integers(4)]
            self.grads.append(self.pair(size, grad_dtype)[0] if self.random.random() < 0.9 else None)
            params.append(self.pair(size, dtype))
            state = [self.pair(size, own, positive=True) for _ in self.rule.state]
            numbers = [self.pair(1, np.dtype(np.float64), positive=True) for _ in self.rule.scalar_state]
            average = [self.pair(size, own)] if "ema" in options else []
            states.append([state, numbers, average])
        split = [[[[pair[side] for pair in kind] for kind in state] for state in states] for side in (0, 1)]
        core.register_dtype("bfloat16", np.dtype(ml_dtypes.bfloat16))
        for where, side in (("", 0), (0, 1)):
            shaped = [(state, [number.reshape(()) for number in numbers], rest) for state, numbers, rest in split[side]]
            model = core.Model([pair[side] for pair in params], shaped, self.groups, where, np.ndarray)
            if side:
                self.cuda = model
            else:
                self.cpu = model

    def hyper(self, options: dict[str, Any], maximize: bool) -> Any:
        usual = {"momentum": 0.9, "alpha": 0.9, "r": 1.0, "weight_lr_power": 1.0, "bias_correction": 1.0}
        usual |= {"warmup_steps": 0.0, "d_coef": 1.0, "growth_rate": inf, "threshold": 5.0}
        values = [0.9 if name.startswith("beta") else usual.get(name, 0.1) for name in self.rule.hyper]
        around: dict[str, Any] = {
            "clip_value": inf,
            "clip_norm": inf,
            "clip_global_norm": inf,
            "norm_type": 2.0,
            "clip_eps": 1e-6,
            "l1": 0.0,
            "weight_decay": 0.0,
        }
        around |= {"decoupled": False, "ema": None, "swa_start": None, "swa_every": 1, "skip_nonfinite": False}
        around |= {"ema_start": 0, "ema_debias": False}
        lr_at = self.rule.hyper.index("lr") if "lr" in self.rule.hyper else -1
        return core.UpdateConfig(
            rule=self.rule.number,
            values=values,
            lr_at=lr_at,
            host_constants_at=[],
            maximize=maximize,
            **(around | options),
        )

    def pair(self, size: int, dtype: np.dtype[Any], positive: bool = False) -> tuple[Array, Array]:
        """The same numbers twice, some elements off any alignment."""
        off = int(self.random.integers(9)) * dtype.itemsize if self.random.random() < 0.4 else 0
        numbers = self.random.standard_normal(size).astype(dtype)
        buffers, arrays = [], []
        for _ in range(2):
            buffer = np.full(size * dtype.itemsize + off + 192, SENTINEL, np.uint8)
            begin = -buffer.ctypes.data % 64 + 64 + off
            array = buffer[begin : begin + size * dtype.itemsize].view(dtype)
            array[...] = np.abs(numbers) if positive else numbers
            buffers.append(buffer[begin - 64 - off :][: size * dtype.itemsize + off + 128])
            arrays.append(array)
        self.buffers.append((buffers[0], buffers[1]))
        self.arrays.append((arrays[0], arrays[1]))
        return arrays[0], arrays[1]

    def group_steps(self, t: int) -> list[tuple[Any, ...]]:
        return [(hyper, 0.01 * t, t, 2.0, ()) for hyper in self.configs]

    def on_cpu(self, t: int) -> Any:
        return self.cpu.step(list(self.grads), None, self.group_steps(t))

    def on_cuda(self, t: int, **options: Any) -> Any:
        return self.cuda.step(list(self.grads), None, self.group_steps(t), stream=0, **options)

    def check(self) -> None:
        """Every byte is the same, margins included; but a NaN is a NaN."""
        for (a, b), (x, y) in zip(self.buffers, self.arrays, strict=True):
            y[np.isnan(x) & np.isnan(y)] = x[np.isnan(x) & np.isnan(y)]
            assert a.tobytes() == b.tobytes()


@pytest.fixture(params=["in_order", "random"])
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In which blocks run."""
    monkeypatch.setenv("FASTOPTIM_EMULATED_ORDER", request.param)


@pytest.mark.usefixtures("order")
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("rule", RULES)
def test_a_few_arrays(rule: str, around: str) -> None:
    seed = len(rule) * 100 + len(around)
    model = Model(rule, AROUND[around], 1 + seed % 11, seed)
    for t in (1, 2, 3):
        if around == "skip" and t == 2:
            make_infinite(model)
        assert model.on_cpu(t) == model.on_cuda(t)
        model.check()


@pytest.mark.parametrize(("rule", "arrays"), [("adam", 2), ("sm3_momentum", 3), ("momentum_ema", 1)])
def test_state_that_is_broadcast_is_read_by_rules_that_say_so(rule: str, arrays: int) -> None:
    """Momentum and Adam do not, and SM3 writes its mean."""
    p, column = np.ones((4, 3), np.float32), np.ones((1, 3), np.float32)
    model = core.Model([p], [([column] * arrays, [], [])], [0], 0, np.ndarray)
    with pytest.raises(ValueError, match="expected dense state on a GPU"):
        model.step([p.copy()], None, Model(rule, {}, 0, 0).group_steps(1))


def make_infinite(model: Model) -> None:
    for a, b in model.arrays:
        if a.size > 4 and any(a is g for g in model.grads):
            a[-1] = b[-1] = inf
            return


@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_arrays_of_many_sums(rule: str) -> None:
    model = Model(rule, AROUND["norms"], 3, 11, (700_001, 300_000))
    for t in (1, 2):
        assert model.on_cpu(t) == model.on_cuda(t)
        model.check()


@pytest.mark.parametrize("around", ["nothing", "norms"])
@pytest.mark.parametrize("rule", ["sgd", "adam", "lamb", "prodigy", "schedule_free_sgd"])
def test_more_arrays_than_fit_into_the_arguments(rule: str, around: str) -> None:
    model = Model(rule, AROUND[around], 150, 7, (3, 100, 5000))
    for t in (1, 2, 3):
        if t == 3:  # another table
            model.grads[5] = model.grads[6] = None
        assert model.on_cpu(t) == model.on_cuda(t)
        model.check()


@pytest.mark.parametrize("count", [4, 150])
def test_gradients_that_move(count: int) -> None:
    """Gradients at other addresses, and of other arrays, make a new table."""
    model = Model("adam", {}, count, 13, (3, 100, 5000))
    for t in (1, 2, 3):
        assert model.on_cpu(t) == model.on_cuda(t)
        model.check()
        model.grads = [None if g is None else g * g.dtype.type(2) for g in model.grads]


def captured(take: Callable[[], Any]) -> int:
    """The number of the graph."""
    family = ctypes.CDLL(core.__file__)
    family.fo_emulated_begin_capture()
    try:
        take()
    finally:
        graph: int = family.fo_emulated_end_capture()
    return graph


def replay(graph: int) -> None:
    ctypes.CDLL(core.__file__).fo_emulated_replay(graph)


@pytest.mark.parametrize("count", [3, 150])
@pytest.mark.parametrize("around", ["nothing", "norms", "norms of type inf", "average"])
@pytest.mark.parametrize("rule", ["adam", "novograd", "prodigy", "schedule_free_adamw", "rowwise_adam"])
def test_a_captured_step_takes_the_numbers_it_is_given(rule: str, around: str, count: int) -> None:
    model = Model(rule, AROUND[around], count, 3, (3, 100, 5000))
    graph = captured(lambda: model.on_cuda(1))
    for t in (1, 2, 3):
        model.on_cpu(t)
        model.cuda.advance(None, model.group_steps(t), 0)
        replay(graph)
        model.check()
    model.on_cpu(4)
    model.on_cuda(4)  # and without the graph
    model.check()
    model.on_cpu(5)
    model.cuda.advance(None, model.group_steps(5), 0)
    replay(graph)
    model.check()


def test_what_a_graph_cannot_do() -> None:
    skipping = Model("sgd", AROUND["skip"], 2, 1)
    with pytest.raises(RuntimeError, match=r"skip_nonfinite.*cannot be captured"):
        captured(lambda: skipping.on_cuda(1))
    plain, clipping = Model("sgd", {}, 2, 1), Model("sgd", AROUND["norm"], 2, 1)
    with pytest.raises(RuntimeError, match="no step of these arrays was captured"):
        plain.cuda.advance(None, plain.group_steps(1), 0)
    captured(lambda: plain.on_cuda(1))
    with pytest.raises(RuntimeError, match="capture it again"):
        plain.cuda.advance(None, clipping.group_steps(1), 0)


@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_norms_over_several_plans(rule: str) -> None:
    """Devices reduce their own gradients, the host adds in the model's order, and each device steps."""
    model = Model(rule, AROUND["norms"], 9, 5)
    arguments = list(model.grads), None, model.group_steps(1), 0
    norms = model.cuda.clipped_norms(*arguments)
    assert norms == model.cpu.clipped_norms(*arguments)
    model.on_cpu(1)
    model.on_cuda(1, global_norm=norm_in_order(norms, 2.0))
    model.check()


@pytest.mark.parametrize("scale", [1, 1e200, 1e-200, float("nan")])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, inf])
def test_norms_are_the_cpu_s(scale: float, norm_type: float) -> None:
    grads = [g * scale if g.dtype == np.float64 else g for g in Model("sgd", {}, 12, 9).grads if g is not None]
    expected = core.norms(grads, norm_type)
    assert str(core.norms(grads, norm_type, 0)) == str(expected)


def test_norms_of_a_type_in_each_group() -> None:
    model = Model("sgd", {}, 30, 4)
    model.configs = [model.hyper({"clip_norm": 0.7, "norm_type": norm_type}, False) for norm_type in (1.0, inf)]
    graph = captured(lambda: model.on_cuda(1))
    for t in (1, 2):
        model.on_cpu(t)
        model.cuda.advance(None, model.group_steps(t), 0)
        replay(graph)
        model.check()
    model.configs.reverse()
    with pytest.raises(RuntimeError, match="capture it again"):
        model.cuda.advance(None, model.group_steps(3), 0)


@pytest.mark.parametrize("count", [30, 150])
@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_squares_that_overflow_or_underflow(scale: float, count: int) -> None:
    """Of some arrays in float64, in steps and in replays, in which the same arrays are ordinary at times."""
    model = Model("sgd", AROUND["norms"], count, 8, (0, 1, 100, 5000, 40000))
    graph = captured(lambda: model.on_cuda(1))
    doubles = [pair for pair in model.arrays if pair[0].dtype == np.float64 and any(pair[0] is g for g in model.grads)]
    assert len(doubles) > 2
    for t, factor in enumerate((scale, 1 / scale, scale), 1):
        for g in sum(doubles[::2], ()):
            g *= factor
        model.on_cpu(t)
        model.cuda.advance(None, model.group_steps(t), 0)
        replay(graph)
        model.check()
        model.on_cpu(t)
        assert model.on_cuda(t)[0] == "stepped"
        model.check()


def test_an_address_between_elements_is_refused() -> None:
    between = np.zeros(9, np.uint8)[1:].view(np.float32)
    with pytest.raises(ValueError, match="expected an address that is a multiple of the item size"):
        core.Model([between], [([], [], [])], [0], 0, np.ndarray)


def test_an_empty_array_counts() -> None:
    empty = [np.zeros(0, np.float32), np.zeros(0, np.float32)]
    model = core.Model(empty, [([], [], [])] * 2, [0, 0], 0, np.ndarray)
    step = [(Model("sgd", {}, 0, 0).configs[0], 0.1, 1, 1.0, ())]
    assert model.step([np.zeros(0, np.float32), None], None, step) == ("stepped", 1)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(RuntimeError, match="expected a CUDA device from 0 to 0, got 1"):
        core.Model([], [], [], 1, np.ndarray)
