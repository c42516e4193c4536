"""Optimizers with sums over rows and columns: arrays of any shape and order, refusals, interrupts, and small state.

Tests with `xp` run on the CPU, and on a GPU or the emulated one.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array, assert_same_bits
from devices import get, on_every_device, put, with_device
from fastoptim.engines.stages import MatrixWork
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS
from loops import loop
from models import Backend, each_backend

# Among them what has no rows and columns, an empty one, several tiles, and more than one share of a thread.
SHAPES = ((7, 5), (3, 4, 6), (2, 1, 3, 2), (11,), (), (1, 1), (6, 1), (70, 1100), (0, 3))

every_factored_optimizer = pytest.mark.parametrize("optimizer", FACTORED_OPTIMIZERS.values(), ids=lambda cls: cls.name)


def arrays(seed: int, dtype: Any = np.float32, shapes: Any = SHAPES) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def steps(opt: Any, count: int, dtype: Any = np.float32) -> Any:
    for t in range(count):
        opt.step(arrays(t + 1, dtype))
    return opt


def bits_of(opt: Any) -> list[bytes]:
    return [np.asarray(each).tobytes() for param in opt.param_states for each in (param.p, *param.state.values())]


def assert_equal(opt: Any, other: Any, xp: Any = np) -> None:
    """Compare an optimizer of arrays of `xp` and one of NumPy's."""
    for param, twin in zip(opt.param_states, other.param_states, strict=True):
        assert_same_bits(get(xp, param.p), twin.p, param.place)
        assert param.state.keys() == twin.state.keys()
        for name, array in param.state.items():
            assert_same_bits(get(xp, array), twin.state[name], f"{param.place} {name}")


class Twins:
    """An optimizer of arrays of `xp` and its twin by the reference."""

    def __init__(self, xp: Any, optimizer: type[fo.Optimizer], params: list[Array], **options: Any) -> None:
        self.xp = xp
        self.opt: Any = optimizer([put(xp, p) for p in params], **options)
        self.twin: Any = optimizer([p.copy(order="K") for p in params], backend="reference", **options)

    def step(self, grads: list[Array]) -> None:
        self.opt.step([put(self.xp, g) for g in grads])
        self.twin.step(grads)

    def assert_equal(self) -> None:
        assert_equal(self.opt, self.twin, self.xp)


@on_every_device
@every_factored_optimizer
@loop("dtype", [np.float64, np.float32, np.float16])
def test_any_shape(optimizer: type[fo.Optimizer], dtype: Any, xp: Any) -> None:
    twins = Twins(xp, optimizer, arrays(0, dtype))
    for t in range(66 if dtype is np.float32 else 3):  # over the 64th
        twins.step(arrays(t + 1, dtype))
    twins.assert_equal()


PARTITIONS: list[tuple[type[fo.Optimizer], dict[str, Any]]] = [
    *((fo.AdamMini, options) for options in ({"partition": "array"}, {"partition": "heads", "heads": 2})),
    *((fo.Adafactor, options) for options in ({"beta1": 0.9, "convention": "keras"}, {"relative_step": False})),
    *((optimizer, {"clip_norm": 0.5, "cautious": True, "ema": 0.9}) for optimizer in FACTORED_OPTIMIZERS.values()),
    (fo.SM3, {"momentum": 0.0, "skip_nonfinite": True}),
]


@on_every_device
@loop(("optimizer", "options"), PARTITIONS)
def test_options(optimizer: type[fo.Optimizer], options: dict[str, Any], xp: Any) -> None:
    """In batches of several tiles, and of rows that are several blocks."""
    shapes = [(4, 6), (3, 2, 5), (11,), (2, 130, 7), (2500, 2), (4, 3000)]
    twins = Twins(xp, optimizer, arrays(0, np.float64, shapes), **options)
    for t in range(3):
        twins.step(arrays(t + 1, np.float64, shapes))
        if "skip_nonfinite" in options:
            bad = arrays(9, np.float64, shapes)
            bad[3][1, 3, 2] = np.nan
            twins.step(bad)
    twins.assert_equal()


@on_every_device
@every_factored_optimizer
@loop("options", [{}, {"clip_norm": 0.5}, {"skip_nonfinite": True}])
def test_groups(optimizer: type[fo.Optimizer], options: dict[str, Any], xp: Any) -> None:
    """Each array has passes of its own, with the options of its group and perhaps without a gradient."""
    shapes = [(4, 6), (5, 3), (7,)]
    params = arrays(0, shapes=shapes)
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, (0.1, 0.2, 0.3), strict=True)]
    twin = optimizer(
        [{**group, "params": [p.copy()]} for group, p in zip(groups, params, strict=True)],
        backend="reference",
        **options,
    )
    there = [{**group, "params": [put(xp, p)]} for group, p in zip(groups, params, strict=True)]
    opt = optimizer(there, backend="native", **options)
    for t, absent in enumerate((None, 1, 2, 0)):
        grads: list[Any] = arrays(t + 1, shapes=shapes)
        taken = opt.step([[None if i == absent else put(xp, g)] for i, g in enumerate(grads)])
        assert taken == twin.step([[None if i == absent else g] for i, g in enumerate(grads)])
    assert_equal(opt, twin, xp)


@on_every_device
@every_factored_optimizer
@loop("state_format", ["int8", "bfloat16"])
def test_compressed_means(optimizer: type[fo.Optimizer], state_format: str, xp: Any) -> None:
    """The moving averages of gradients or steps; CAME's is read by a stage and stays native."""
    options: dict[str, Any] = {"beta1": 0.9} if optimizer is fo.Adafactor else {}
    twins = Twins(xp, optimizer, arrays(0), state_format=state_format, int8_min_size=64, **options)
    for t in range(3):
        twins.step(arrays(t + 1))
    twins.assert_equal()
    dtypes = {name: array.dtype for name, array in twins.opt.param_states[7].state.items()}
    assert (dtypes["m"] == np.float32) == (optimizer is fo.CAME)
    assert all(dtype == np.float32 for name, dtype in dtypes.items() if name != "m")


@every_factored_optimizer
def test_any_gradient(optimizer: type[fo.Optimizer]) -> None:
    """Gradients of another dtype, strided, in another order or read-only, and of a dtype that is rounded."""
    opts = [optimizer(arrays(0), backend=backend) for backend in ("native", "reference")]
    for dtype in (np.float64, np.float16):
        for t in range(3):
            grads = arrays(t + 1, dtype)
            grads[0] = np.asfortranarray(grads[0])
            grads[1] = np.repeat(grads[1], 2, axis=2)[..., ::2]
            grads[3] = grads[3][::-1]
            grads[7].flags.writeable = False
            before = copy.deepcopy(grads)
            for opt in opts:
                opt.step(grads)
            for g, h in zip(grads, before, strict=True):
                assert_same_bits(g, h)
    assert_equal(*opts)
    plain = optimizer(arrays(0))
    for dtype in (np.float64, np.float16):
        for t in range(3):
            grads = [g.astype(np.float32) for g in arrays(t + 1, dtype)]
            grads[3] = grads[3][::-1].copy()
            plain.step(grads)
    assert_equal(opts[0], plain)


@on_every_device
@every_factored_optimizer
def test_any_memory_order(optimizer: type[fo.Optimizer], xp: Any) -> None:
    shapes = [shape for shape in SHAPES if len(shape) > 1]
    twins = Twins(xp, optimizer, [np.asfortranarray(p) for p in arrays(0, shapes=shapes)], cautious=True, clip_norm=1.0)
    for t in range(3):
        twins.step(arrays(t + 1, shapes=shapes))
    twins.assert_equal()


@on_every_device
@every_factored_optimizer
@loop("to_layout", [np.ascontiguousarray, np.asfortranarray])
def test_sums_in_memory_order(optimizer: type[fo.Optimizer], to_layout: Any, xp: Any) -> None:
    """In double, whose last digits show the order of a sum."""
    shapes = [(3, 1030), (70, 50), (9, 8, 100)]
    twins = Twins(xp, optimizer, [np.asfortranarray(p) for p in arrays(0, np.float64, shapes)])
    for t in range(4):
        twins.step([to_layout(3 * g) for g in arrays(t + 1, np.float64, shapes)])
    twins.assert_equal()


@with_device
@every_factored_optimizer
def test_gradients_on_a_gpu(optimizer: type[fo.Optimizer], xp: Any) -> None:
    """The gradients have another dtype or order, are strided, or are missing."""
    twins = Twins(xp, optimizer, arrays(0))
    for dtype in (np.float64, np.float16):
        grads: list[Any] = arrays(1, dtype)
        wide = np.repeat(grads[1], 2, axis=2)
        on_gpu = [put(xp, g) for g in grads]
        on_gpu[0], on_gpu[1] = put(xp, np.asfortranarray(grads[0])), put(xp, wide)[..., ::2]
        on_gpu[2] = grads[2] = None
        twins.opt.step(on_gpu)
        twins.twin.step(grads)
    twins.assert_equal()


@every_factored_optimizer
def test_more_axes_need_c_order(optimizer: type[fo.Optimizer]) -> None:
    p = np.ones((2, 3, 2, 2, 2))
    optimizer({"w": p}).step({"w": p.copy()})
    with pytest.raises(ValueError, match=r"params\['w'\]: expected C order for more than 4 axes, as .* got strides"):
        optimizer({"w": np.asfortranarray(p)})


@every_factored_optimizer
@loop("threads", [1, 2, 5])
def test_any_number_of_threads(optimizer: type[fo.Optimizer], threads: int) -> None:
    shape = [(300, 700)]
    params = [arrays(0, shapes=shape) for _ in range(2)]
    reference = optimizer(params[0], backend="reference")
    reference.step(arrays(1, shapes=shape))
    fo.set_num_threads(threads)
    try:
        optimizer(params[1]).step(arrays(1, shapes=shape))
    finally:
        fo.set_num_threads(None)
    assert_same_bits(params[1][0], params[0][0])


@every_factored_optimizer
@each_backend
def test_an_interrupt_between_sums_changes_no_byte(
    optimizer: type[fo.Optimizer], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt, twin = (steps(optimizer(arrays(0), backend=backend), 2) for _ in range(2))
    before, calls, setitem = bits_of(opt), 0, MatrixWork.__getitem__

    def interrupted(work: MatrixWork, name: str) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return setitem(work, name)

    with monkeypatch.context() as patched:
        patched.setattr(MatrixWork, "__getitem__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(arrays(9))
    assert bits_of(opt) == before
    for each in (opt, twin):
        each.step(arrays(3))
    assert_equal(opt, twin)


@every_factored_optimizer
@each_backend
def test_an_error_at_a_late_array_changes_no_byte(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    opt = steps(optimizer(arrays(0), backend=backend), 2)
    before = bits_of(opt)
    for wrong, error in ((np.ones((1100, 70), np.float32), ValueError), (np.ones((70, 1100), int), TypeError)):
        with pytest.raises(error, match=r"^grads\[7\]: expected"):
            opt.step([*arrays(5)[:7], wrong, arrays(5)[8]])
    overlapping = opt.params[7]
    with pytest.raises(ValueError, match=r"^grads\[7\]: .*overlap"):
        opt.step([*arrays(5)[:7], overlapping, arrays(5)[8]])
    assert bits_of(opt) == before


@every_factored_optimizer
@each_backend
def test_functions_step_any_shape(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    update = getattr(fo.functional if backend == "native" else fo.reference, optimizer.name)
    opt = steps(optimizer(arrays(0), backend=backend), 2)
    for i, param in enumerate(optimizer(arrays(0)).param_states):
        for t in range(2):
            update(param.p, arrays(t + 1)[i], *param.state.values(), step=t + 1)
        assert_same_bits(param.p, opt.params[i])


@every_factored_optimizer
def test_a_checkpoint_of_any_shape(optimizer: type[fo.Optimizer]) -> None:
    opt = steps(optimizer(arrays(0)), 2)
    other = optimizer(copy.deepcopy(opt.params))
    other.load_state_dict(opt.state_dict())
    for each in (opt, other):
        each.step(arrays(7))
    assert_equal(opt, other)


def test_adafactor_has_two_vectors_for_a_matrix() -> None:
    opt = fo.Adafactor([np.ones((30, 40), np.float32), np.ones((5, 30, 40)), np.ones(7)], beta1=None)
    assert [{name: array.shape for name, array in each.items()} for each in opt.state] == [
        {"r": (30, 1), "c": (1, 40)},
        {"r": (5, 30, 1), "c": (5, 1, 40)},
        {"v": (7,)},
    ]
    assert [state.dtype for state in opt.state[0].values()] == [np.float32] * 2


@loop(
    ("options", "message"),
    [
        ({"eps": (-1, 0)}, r"eps\[0\]: expected a number >= 0"),
        ({"eps": (None, None)}, r"eps\[1\]: expected"),
        ({"d": 0}, "d: expected a number > 0"),
        ({"beta2_decay": 0.8}, r"beta2_decay: expected a number in \[-100, 0\]"),
        ({"beta1": 1.0}, "beta1: expected"),
        ({"eps_form": "inside"}, "eps_form: expected"),
        ({"convention": "optax"}, "convention: expected"),
    ],
)
def test_adafactor_checks_its_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        fo.Adafactor(np.ones((2, 2)), **options)
