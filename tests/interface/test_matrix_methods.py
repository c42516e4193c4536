"""Optimizers with stages have the options, errors and checkpoints of the others, and step all arrays or none.

They work on whole matrices, or on sums over their rows and columns.  Both backends call the same matrix products, so
that the bits of those are equal, too.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
from cases import Array, assert_same_bits
from fastoptim.arrays.numpy_family import NumPy
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS, MATRIX_OPTIMIZERS
from loops import loop
from models import Backend, each_backend

SHAPES = {"a": (6, 9), "b": (9, 4), "c": (2, 3, 5), "d": (1, 4)}

every_matrix_optimizer = pytest.mark.parametrize("optimizer", MATRIX_OPTIMIZERS.values(), ids=lambda cls: cls.name)
orthogonalizing = pytest.mark.parametrize("optimizer", [fo.Muon, fo.NorMuon], ids=lambda cls: cls.name)
every_staged_optimizer = pytest.mark.parametrize(
    "optimizer", [*MATRIX_OPTIMIZERS.values(), *FACTORED_OPTIMIZERS.values()], ids=lambda cls: cls.name
)


def arrays(seed: int, dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def bits_of(opt: Any) -> list[bytes]:
    own = [[param.p, *param.state.values()] for param in opt.param_states]
    return [np.asarray(array).tobytes() for each in own for array in each]


def assert_equal(opt: Any, other: Any) -> None:
    for param, twin in zip(opt.param_states, other.param_states, strict=True):
        assert_same_bits(param.p, twin.p, param.place)
        assert param.state.keys() == twin.state.keys()
        for name, array in param.state.items():
            assert_same_bits(array, twin.state[name], f"{param.place} {name}")


OPTIONS: list[Mapping[str, Any]] = [
    {},
    {"maximize": True, "grad_scale": 8.0, "clip_value": 0.5},
    {"clip_norm": 0.1, "clip_global_norm": 0.2, "clip_eps": 0.0},
    {"decoupled": False, "weight_decay": 0.5, "l1": 0.1},
    {"weight_decay": 0.5, "decoupled": True, "decay_schedule": "corrected"},
    {"ema": 0.9, "ema_start": 2},
    {"swa_start": 2, "skip_nonfinite": True},
    {"bounds": (-0.5, 0.75)},
    {"lr": fo.schedules.Cosine(0.1, 5), "on_nonfinite": "raise"},
]
#: Of those whose formula does not contain the decay.
MASKED: list[Mapping[str, Any]] = [{"cautious": True}, {"cautious_decay": True, "weight_decay": 0.5, "decoupled": True}]


def options_of(optimizer: type[fo.Optimizer]) -> list[Mapping[str, Any]]:
    return OPTIONS if optimizer.decays_itself else OPTIONS + MASKED


@every_staged_optimizer
@loop("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_backends_have_the_same_bits(optimizer: type[fo.Optimizer], dtype: Any) -> None:
    """Over the 64th step, after which state has no subnormal numbers, and with missing gradients."""
    for options in options_of(optimizer) if dtype is np.float32 else [{}]:
        params = [arrays(0, dtype) for _ in range(2)]
        opts = [
            optimizer(own, **{"lr": 0.1, **options}, backend=backend)
            for own, backend in zip(params, ("native", "reference"), strict=True)
        ]
        for t in range(66 if options == {} else 4):
            grads: dict[str, Any] = arrays(t + 1, dtype)
            if t % 3 == 1:
                grads["a"] = None
            results = [opt.step(grads) for opt in opts]
            assert results[0] == results[1]
        assert_equal(*opts)


@every_staged_optimizer
@each_backend
def test_copies_and_any_memory_order(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    params = {name: np.asfortranarray(p) for name, p in arrays(0).items()}
    plain = arrays(0)
    halves = {name: np.zeros(p.shape, np.float16, order="F") for name, p in params.items()}
    opt, other = optimizer(params, lr=0.1, copies=halves, backend=backend), optimizer(plain, lr=0.1, backend=backend)
    for t in range(3):
        grads = arrays(t + 1)
        before = copy.deepcopy(grads)
        opt.step({name: np.asfortranarray(g) for name, g in grads.items()})
        other.step(grads)
        for name, g in grads.items():
            assert_same_bits(g, before[name], "the gradient is only read")
    for name, p in params.items():
        np.testing.assert_allclose(p, plain[name], rtol=0, atol=1e-6)  # norms add in another order
        assert_same_bits(halves[name], p.astype(np.float16))


@orthogonalizing
@each_backend
def test_only_matrices(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    for shape in ((), (5,)):
        with pytest.raises(ValueError, match=r"params\['b'\]: expected a matrix .* got shape .* fastoptim.Mixed"):
            optimizer({"w": np.ones((2, 2)), "b": np.ones(shape)}, backend=backend)
    update = getattr(fo.functional if backend == "native" else fo.reference, optimizer.name)
    with pytest.raises(ValueError, match=r"^p: expected a matrix"):
        update(np.ones(5), np.ones(5), *[np.zeros(5)] * len(optimizer.state), step=1)


@every_matrix_optimizer
@each_backend
def test_only_whole_gradients(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    opt = optimizer({"w": np.ones((2, 2))}, backend=backend)
    with pytest.raises(ValueError, match="expected a gradient for the whole array, as"):
        opt.step({"w": fo.Rows(np.array([0]), np.ones((1, 2)))})
    with pytest.raises(ValueError, match="row_steps: expected False, as"):
        optimizer(np.ones((2, 2)), row_steps=True)


@each_backend
def test_heads_divide_the_outputs(backend: Backend) -> None:
    with pytest.raises(ValueError, match=r"params: expected outputs that heads=4 divides, got 6"):
        fo.Muon(np.ones((6, 4)), heads=4, backend=backend)
    opt = fo.Muon({"w": np.ones((6, 4))}, heads=3, backend=backend)
    opt.heads = 4
    with pytest.raises(ValueError, match=r"params\['w'\]: expected outputs that heads=4 divides, got 6"):
        opt.step({"w": np.ones((6, 4))})


@loop(
    ("value", "error", "message"),
    [
        ("cubic", ValueError, r"expected one of \['classic', 'quintic', 'polar_express'\], got 'cubic'"),
        (3.0, TypeError, "or coefficients, got 3.0"),
        ((), TypeError, r"or coefficients, got \(\)"),
        ((1.0, 2.0), TypeError, "expected three numbers for an iteration"),
        (((1.0, 2.0, 3.0), 4.0), TypeError, "expected three numbers for an iteration, got 4.0"),
        ((1.0, 2.0, np.inf), ValueError, "expected finite numbers"),
        ((1.0, 2.0, "x"), TypeError, "expected a number, got 'x'"),
    ],
)
def test_coefficients_are_checked(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^ns_coefficients: .*{message}"):
        fo.Muon(np.ones((2, 2)), ns_coefficients=value)


@each_backend
def test_numpy_has_no_products_in_bfloat16(backend: Backend) -> None:
    opt = fo.Muon({"w": np.ones((2, 2))}, ns_dtype="bfloat16", backend=backend)
    with pytest.raises(ValueError, match=r"params\['w'\]: expected a PyTorch tensor .* got an array of NumPy"):
        opt.step({"w": np.ones((2, 2))})
    assert (opt.params["w"] == 1).all()
    assert not opt.state["w"]["m"].any()


def test_rows_as_outputs() -> None:
    for name in ("flatten", "input_first"):
        with pytest.raises(ValueError, match=f"{name}: expected False for NorMuon"):
            fo.NorMuon(np.ones((2, 2)), **{name: True})  # type: ignore[arg-type]


def mixed(optimizer: type[fo.Optimizer], seed: int, backend: Backend, **options: Any) -> fo.Mixed:
    weights, rest = arrays(seed), {"bias": np.ones(5, np.float32)}
    groups = [
        {"params": weights, "optimizer": optimizer, "lr": 0.05},
        {"params": rest, "optimizer": fo.AdamW, "lr": 3e-3},
    ]
    return fo.Mixed(groups, backend=backend, **options)


@every_staged_optimizer
@each_backend
def test_mixed_steps_every_group_or_none(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    opt, weights, bias = mixed(optimizer, 0, backend), arrays(0), np.ones(5, np.float32)
    alone = [optimizer(weights, lr=0.05, backend=backend), fo.AdamW(bias, lr=3e-3, backend=backend)]
    for t in range(4):
        grads: list[Any] = [arrays(t + 1), {"bias": np.arange(5, dtype=np.float32)}]
        opt.step(grads)
        for each, g in zip(alone, (grads[0], grads[1]["bias"]), strict=True):
            each.step(g)
        if t == 1:
            opt.load_state_dict(opt.state_dict())
    assert bits_of(opt) == bits_of(alone[0]) + bits_of(alone[1])
    before = bits_of(opt)
    with pytest.raises(ValueError, match=r"grads\[1\]\['bias'\]: expected shape"):
        opt.step([arrays(9), {"bias": np.ones(4)}])
    opt.skip_nonfinite = True
    assert opt.step([arrays(9), {"bias": np.full(5, np.inf, np.float32)}]) is False
    assert bits_of(opt) == before
    assert opt.step_count == 4


@every_staged_optimizer
@each_backend
def test_the_norm_is_that_of_all_groups(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    opt, other = mixed(optimizer, 0, backend, clip_global_norm=1.0), mixed(optimizer, 0, backend)
    for t in range(2):
        grads: list[Any] = [arrays(t + 1), {"bias": np.full(5, 9 * t, np.float32)}]
        opt.step(grads)
        factor = np.float32(1 / (fo.global_norm(grads) + 1e-6))
        other.step([{name: factor * g for name, g in grads[0].items()}, {"bias": factor * grads[1]["bias"]}])
    assert_equal(opt, other)


@every_staged_optimizer
@each_backend
def test_a_skipped_or_refused_step_changes_no_byte(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    opt = optimizer(arrays(0), skip_nonfinite=True, backend=backend)
    for t in range(3):
        assert opt.step(arrays(t + 1)) is True
    before, wrong = bits_of(opt), arrays(7)
    wrong["d"][0, 3] = np.nan
    assert opt.step(wrong) is False
    with pytest.raises(ValueError, match=r"grads\['d'\]: expected shape"):
        opt.step({**wrong, "d": np.ones((4, 1), np.float32)})
    assert bits_of(opt) == before
    assert opt.step_count == 3


@every_matrix_optimizer
@each_backend
def test_an_interrupt_between_products_changes_no_byte(
    optimizer: type[fo.Optimizer], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt, twin = (optimizer(arrays(0), backend=backend) for _ in range(2))
    for t in range(2):
        opt.step(arrays(t + 1))
        twin.step(arrays(t + 1))
    before, calls, product = bits_of(opt), 0, NumPy.matmul

    def interrupted(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        product(*args)

    with monkeypatch.context() as patched:
        patched.setattr(NumPy, "matmul", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opt.step(arrays(9))
    assert bits_of(opt) == before
    for t in range(2):
        opt.step(arrays(t + 3))
        twin.step(arrays(t + 3))
    assert_equal(opt, twin)


@every_matrix_optimizer
def test_no_product_overwrites_its_factors(optimizer: type[fo.Optimizer], monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy makes a copy then; other libraries return wrong numbers."""
    product = NumPy.matmul

    def checked(family: NumPy, a: Any, b: Any, out: Any) -> None:
        assert not np.shares_memory(a, out)
        assert not np.shares_memory(b, out)
        product(family, a, b, out)

    monkeypatch.setattr(NumPy, "matmul", checked)
    often = {"precondition_frequency": 1} if "precondition_frequency" in optimizer.defaults else {}
    for options in (often, {**often, "precondition_1d": True}) if often else (often,):
        shapes = {**SHAPES, "e": (7,)} if often else SHAPES
        opt = optimizer({name: np.ones(shape, np.float32) for name, shape in shapes.items()}, **options)
        for t in range(3):
            opt.step({name: np.full(shape, t + 1, np.float32) for name, shape in shapes.items()})


@every_staged_optimizer
@each_backend
def test_continues_from_a_checkpoint(optimizer: type[fo.Optimizer], backend: Backend, tmp_path: Path) -> None:
    opt = optimizer(arrays(0), lr=0.1, ema=0.9, backend=backend)
    for t in range(3):
        opt.step(arrays(t + 1))
    opt.save(tmp_path / "state")
    other = optimizer(copy.deepcopy(opt.params), lr=0.5, backend=backend)
    other.load(tmp_path / "state")
    again = pickle.loads(pickle.dumps(opt))
    for t in range(3):
        for each in (opt, other, again):
            each.step(arrays(t + 5))
    assert_equal(opt, other)
    assert_equal(opt, again)
    assert all(not set(optimizer.scratch) & set(state) for state in opt.state.values())


@every_staged_optimizer
def test_functions_take_the_same_step(optimizer: type[fo.Optimizer]) -> None:
    opt = optimizer({"a": arrays(0)["a"]}, lr=0.1)
    for module in (fo.functional, fo.reference):
        own = optimizer({"a": arrays(0)["a"]}, lr=0.1)
        p, state = own.params["a"], list(own.state["a"].values())
        for t in range(3):
            if module is fo.functional:
                opt.step({"a": arrays(t + 1)["a"]})
            assert getattr(module, optimizer.name)(p, arrays(t + 1)["a"], *state, step=t + 1, lr=0.1) is None
        assert_equal(opt, own)


@every_staged_optimizer
def test_wrappers_and_accumulation(optimizer: type[fo.Optimizer]) -> None:
    """Lookahead, SAM and GrokFast call the step as that of any optimizer."""
    opt = fo.GrokFast(fo.Lookahead(optimizer(arrays(0), lr=0.1), k=2))
    for t in range(4):
        opt.step(arrays(t + 1))
    sam = fo.SAM(optimizer(arrays(0), lr=0.1))
    with sam.ascent(arrays(1)):
        grads = arrays(2)
    sam.step(grads)
    mean, other = (optimizer(arrays(0), lr=0.1) for _ in range(2))
    mean.accumulate(arrays(1))
    mean.accumulate(arrays(1))
    mean.step()
    other.step(arrays(1))
    assert_equal(mean, other)
