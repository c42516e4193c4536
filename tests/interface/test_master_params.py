"""Options of parameters of 16 bits to their user: training that does not stall, checkpoints, groups and wrappers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, Array, DType, assert_same_bits, ordinary_values
from loops import loop
from models import each_backend

NAMES: dict[Any, str] = {24: "master_bits8", 32: "master_bits16"}
KINDS: tuple[dict[str, Any], ...] = (
    {"master_weight_bits": 24},
    {"master_weight_bits": 32},
    {"kahan": True},
    {"stochastic_rounding": True},
)
each_kind_of_bits = loop("kind", KINDS)
each_narrow = loop("dtype", [FLOAT16, BFLOAT16])


def values(seed: int, dtype: DType = BFLOAT16, size: int = 40) -> Array:
    return ordinary_values(np.random.default_rng(seed), dtype, size)


def arrays_of(opt: Any) -> list[Array]:
    return [array for param in opt.param_states for array in (param.p, *param.state.values())]


def assert_equal(opt: Any, other: Any) -> None:
    for array, want in zip(arrays_of(opt), arrays_of(other), strict=True):
        assert_same_bits(array, want)


# ---- what they are for


def distance(dtype: DType, **options: Any) -> float:
    """Train y = X w by AdamW, and return the root mean square distance of the parameters from the right ones."""
    rng = np.random.default_rng(0)
    right = rng.uniform(1, 2, 64).astype(FLOAT32)
    inputs = rng.standard_normal((256, 64)).astype(FLOAT32)
    w = np.ones(64, dtype)
    opt = fo.AdamW(w, lr=fo.schedules.Cosine(3e-3, 2000), weight_decay=0, **options)
    for _ in range(2000):
        opt.step(inputs.T @ (inputs @ (w.astype(FLOAT32) - right)) / 256)
    return float(np.sqrt(np.mean((opt.master_params() - right) ** 2)))


def test_training_stalls_in_16_bits_and_with_each_option_does_not() -> None:
    """A step of AdamW is at most 3e-3, less than half of bfloat16's gap from 1 to 2, which is 2^-8."""
    assert distance(BFLOAT16) > 0.5
    for dtype, options in ((FLOAT32, {}), *((BFLOAT16, kind) for kind in KINDS)):
        assert distance(dtype, **options) < 0.01


@each_backend
@loop("kind", KINDS)
def test_weight_decay_is_not_lost_to_rounding(kind: dict[str, Any], backend: Any) -> None:
    """A decay of 1e-4 a step is a thirtieth of half a gap."""
    p = np.full(1000, 1.0, BFLOAT16)
    opt = fo.AdamW(p, lr=0.01, weight_decay=0.01, backend=backend, **kind)
    for _ in range(500):
        opt.step(np.zeros(1000, FLOAT32))
    plain = np.ones(1, BFLOAT16)
    fo.AdamW(plain, lr=0.01, weight_decay=0.01, backend=backend).step(np.zeros(1, FLOAT32))
    assert plain[0] == 1
    assert abs(float(opt.master_params().mean()) - (1 - 1e-4) ** 500) < 0.002


# ---- the interface


@each_narrow
@each_backend
def test_only_parameters_of_16_bits_have_them(dtype: DType, backend: Any) -> None:
    for bits, name in NAMES.items():
        params = {"narrow": values(0, dtype), "single": values(1, FLOAT32), "double": values(2, FLOAT64)}
        plain = {name: p.copy() for name, p in params.items()}
        opt = fo.Adam(params, lr=0.01, master_weight_bits=bits, backend=backend)
        twin = fo.Adam(plain, lr=0.01, backend=backend)
        for t in range(3):
            for each in (opt, twin):
                each.step({name: values(t, FLOAT32) for name in params})
        assert [*opt.state["narrow"]] == ["m", "v", name]
        assert opt.state["narrow"][name].dtype == (np.int8 if bits == 24 else np.int16)
        for other in ("single", "double"):
            assert [*opt.state[other]] == ["m", "v"]
            assert_same_bits(params[other], plain[other])
        master = opt.master_params()
        assert {name: p.dtype for name, p in master.items()} == {
            "narrow": FLOAT32,
            "single": FLOAT32,
            "double": FLOAT64,
        }
        assert_same_bits(master["double"], params["double"])
        assert not np.shares_memory(master["single"], params["single"])


def test_stochastic_rounding_leaves_other_parameters_alone() -> None:
    for dtype in (FLOAT32, FLOAT64):
        p, q = values(0, dtype), values(0, dtype)
        fo.Adam(p, stochastic_rounding=True, seed=5).step(values(1))
        fo.Adam(q).step(values(1))
        assert_same_bits(p, q)


def test_parameters_and_seeds_have_random_bits_of_their_own() -> None:
    def after(seed: int) -> list[Array]:
        params = [np.ones(500, BFLOAT16) for _ in range(2)]
        fo.SGD(params, lr=1.0, stochastic_rounding=True, seed=seed).step([np.full(500, 2.0**-10, FLOAT32)] * 2)
        return params

    first, second = after(0)
    assert (first != second).any()
    assert (first != after(1)[0]).any()
    assert_same_bits(first, after(0)[0])


@each_kind_of_bits
def test_a_parameter_has_the_bits_of_its_place_whatever_steps_with_it(kind: dict[str, Any]) -> None:
    """The other gradients may be absent, and the group may have been added later."""
    params = [values(i) for i in range(3)]
    alone, added = [p.copy() for p in params], [p.copy() for p in params]
    opt, other = fo.SGD(params, **kind), fo.SGD(alone, **kind)
    third = fo.SGD([{"params": added[:2]}], **kind)
    third.add_param_group({"params": added[2]})
    grads = [values(i + 9, FLOAT32) for i in range(3)]
    opt.step(grads)
    other.step([None, None, grads[2]])
    third.step([grads[:2], grads[2]])
    assert_same_bits(alone[2], params[2])
    assert_same_bits(added[2], params[2])


@each_backend
@each_kind_of_bits
def test_a_checkpoint_continues_with_the_same_bits(kind: dict[str, Any], backend: Any, tmp_path: Path) -> None:
    def make() -> Any:
        return fo.Adam({"w": values(0), "v": values(1, FLOAT16)}, lr=0.01, backend=backend, **kind)

    opt = make()
    for t in range(3):
        opt.step({"w": values(t), "v": values(t)})
    others = [make(), make(), copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for other in others[:2]:
        for name, p in opt.params.items():
            other.params[name][...] = p
    others[0].load_state_dict(opt.state_dict())
    opt.save(tmp_path / "x")
    others[1].load(tmp_path / "x")
    for each in (opt, *others):
        each.step({"w": values(7), "v": values(8)})
    for other in others:
        assert_equal(other, opt)


def test_bits_of_another_dtype_start_again_from_zero() -> None:
    """With `convert`: they are differences from parameters of the dtype that was saved."""
    opt = fo.Adam(values(0), lr=0.01, master_weight_bits=24)
    opt.step(values(1))
    assert opt.state["master_bits8"].any()
    saved = opt.state_dict()
    for dtype in DTYPES:
        other = fo.Adam(values(0, dtype))
        other.load_state_dict(saved, convert=True)
        assert other.master_weight_bits == 24
        if dtype.itemsize > 2:
            assert [*other.state] == ["m", "v"]
        elif dtype == FLOAT16:
            assert not other.state["master_bits8"].any()
        else:
            assert_same_bits(other.state["master_bits8"], opt.state["master_bits8"])
        other.step(values(2))


def test_a_state_dict_without_the_bits_is_rejected() -> None:
    opt = fo.SGD(values(0), master_weight_bits=24)
    saved = opt.state_dict()
    del saved["arrays"][0]["state"]["master_bits8"]
    with pytest.raises(ValueError, match=r"state of params: expected the arrays \['master_bits8'\], got a dict"):
        opt.load_state_dict(saved)
    saved["arrays"][0]["state"]["master_bits8"] = np.zeros(40, np.int16)
    with pytest.raises(ValueError, match=r"expected 'master_bits8' as int8 of shape \(40,\), got int16 of shape"):
        opt.load_state_dict(saved)


@each_backend
def test_an_option_may_be_assigned_and_its_bits_start_from_zero(backend: Any) -> None:
    opt = fo.SGD(values(0), lr=0.01, master_weight_bits=32, backend=backend)
    for option, value, name in (
        ("master_weight_bits", 24, "master_bits8"),
        ("master_weight_bits", None, None),
        ("kahan", True, "compensation"),
        ("kahan", False, None),
        ("master_weight_bits", 24, "master_bits8"),
    ):
        opt.step(values(1, FLOAT32))
        before = opt.params.copy()
        opt.param_groups[0][option] = value
        opt.lr = 0.0
        opt.step(values(1, FLOAT32))
        assert_same_bits(opt.params, before)
        assert [*opt.state] == ([name] if name else [])
        if name:
            assert not opt.state[name].astype(FLOAT32).any()
        opt.lr = 0.01


@each_backend
@loop("kind", KINDS[:3])
def test_a_parameter_that_is_assigned_is_the_new_one_within_half_a_gap(kind: dict[str, Any], backend: Any) -> None:
    p = values(0)
    opt = fo.SGD(p, lr=0.01, backend=backend, **kind)
    opt.step(values(1, FLOAT32))
    p[...] = np.arange(-20, 20)
    gap = np.abs(np.nextafter(p, np.copysign(BFLOAT16.type(np.inf), p)).astype(FLOAT32) - p.astype(FLOAT32))
    assert (np.abs(opt.master_params() - p.astype(FLOAT32)) <= gap / 2).all()
    opt.zero_state()
    assert_same_bits(opt.master_params(), p.astype(FLOAT32))


@each_kind_of_bits
def test_new_rows_have_no_bits_and_kept_rows_their_own(kind: dict[str, Any]) -> None:
    opt = fo.SGD(values(0).reshape(10, 4), lr=0.01, **kind)
    opt.step(values(1, FLOAT32).reshape(10, 4))
    before, source = opt.master_params(), np.array([3, 3, 9, -1])
    new = np.vstack([opt.params[source[:3]], np.ones((1, 4), BFLOAT16)])
    opt.remap(new, source)
    assert_same_bits(opt.master_params()[:3], before[source[:3]])
    assert (opt.master_params()[3] == 1).all()


def test_groups_and_optimizers_may_differ() -> None:
    params = [values(i) for i in range(3)]
    opt = fo.Mixed(
        [
            {"params": params[0], "optimizer": fo.AdamW, "master_weight_bits": 32},
            {"params": params[1], "optimizer": fo.Lion, "kahan": True},
            {"params": params[2], "optimizer": fo.SGD},
        ],
        lr=0.01,
    )
    opt.step([values(i + 5, FLOAT32) for i in range(3)])
    assert [[*state] for state in opt.state] == [["m", "v", "master_bits16"], ["m", "compensation"], []]
    assert [p.dtype for p in opt.master_params()] == [FLOAT32] * 3


# ---- methods that write parameters


def twins(make: Any, **options: Any) -> tuple[Any, Any]:
    """Return what `make` makes of parameters with the bits of float32, and of float32."""
    return make(values(0), master_weight_bits=32, **options), make(values(0).astype(FLOAT32), **options)


@each_backend
def test_lookahead_writes_and_reads_all_bits(backend: Any) -> None:
    opt, twin = twins(lambda p, **options: fo.Lookahead(fo.SGD(p, lr=0.01, backend=backend, **options), k=2))
    for t in range(5):
        for each in (opt, twin):
            each.step(values(t, FLOAT32))
        assert_same_bits(opt.master_params(), twin.params)


@each_backend
@each_kind_of_bits
def test_lookahead_of_an_array_without_axes(backend: Any, kind: dict[str, Any]) -> None:
    """Whose slow weights NumPy computes as a number."""
    p, vector = np.array(1, BFLOAT16), np.ones(1, BFLOAT16)
    opts = [fo.Lookahead(fo.SGD(each, lr=0.01, backend=backend, **kind), k=2) for each in (p, vector)]
    for _ in range(4):
        for each in opts:
            each.step(np.full(each.params.shape, 3, FLOAT32))
    assert_same_bits(p, vector.reshape(()))
    assert p != 1


def test_lookahead_gradients_are_taken_at_the_rounded_point() -> None:
    opt, twin = twins(lambda p, **options: fo.NAG(p, lr=0.01, **options))
    for t in range(3):
        with opt.lookahead(), twin.lookahead():
            assert_same_bits(opt.params, twin.params.astype(BFLOAT16))
        for each in (opt, twin):
            each.step(values(t, FLOAT32))
    assert_same_bits(opt.master_params(), twin.params)


def test_schedule_free_averages_have_no_rounding_error() -> None:
    opt, twin = twins(fo.ScheduleFreeSGD, lr=0.01)
    for t in range(3):
        for each in (opt, twin):
            each.step(values(t, FLOAT32))
    opt.eval()
    twin.eval()
    assert_same_bits(opt.params, twin.params.astype(BFLOAT16))
    opt.train()
    assert_same_bits(opt.master_params(), (twin.train(), twin.params)[1])


def test_a_swap_leaves_the_bits_alone() -> None:
    opt = fo.SAM(fo.SGD(values(0), lr=0.01, ema=0.5, kahan=True), rho=1.0)
    opt.step(values(1, FLOAT32))
    before = opt.master_params()
    for swap in (lambda: opt.averaged(), lambda: opt.ascent(values(2))):
        with swap(), pytest.raises(RuntimeError, match="expected its block to have ended"):
            opt.master_params()
        assert_same_bits(opt.master_params(), before)


@loop("kind", KINDS[:3])
def test_early_stopping_restores_all_bits(kind: dict[str, Any]) -> None:
    opt = fo.SGD(values(0), lr=0.01, **kind)
    opt.step(values(1, FLOAT32))
    stopping = fo.EarlyStopping(opt, patience=1)
    stopping.update(1.0)
    best = opt.master_params()
    opt.step(values(2, FLOAT32))
    assert stopping.update(2.0)
    assert_same_bits(opt.master_params(), best)


# ---- rejected


@loop(
    ("options", "message"),
    [
        ({"master_weight_bits": 16}, r"master_weight_bits: expected one of \[24, 32\], got 16"),
        ({"master_weight_bits": 24.0}, r"master_weight_bits: expected one of \[24, 32\], got 24.0"),
        (
            {"master_weight_bits": 24, "kahan": True},
            "kahan: expected False together with master_weight_bits=24, got True",
        ),
        (
            {"kahan": True, "stochastic_rounding": True},
            "stochastic_rounding: expected False together with kahan=True, got True",
        ),
        (
            {"master_weight_bits": 32, "stochastic_rounding": True},
            "stochastic_rounding: expected False together with master_weight_bits=32, got True",
        ),
        ({"stochastic_rounding": True, "seed": -1}, r"seed: expected an integer >= 0 of at most 63 bits, got -1"),
    ],
)
def test_options_that_exclude_each_other_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fo.SGD(values(0), **options)


@loop("module", [fo.functional, fo.reference])
def test_functions_have_stochastic_rounding_alone(module: Any) -> None:
    p, q = np.ones(40, BFLOAT16), np.ones(40, BFLOAT16)
    grad = np.full(40, 2.0**-10, FLOAT32)
    module.sgd(p, grad, step=1, lr=1.0, stochastic_rounding=True, seed=3)
    fo.SGD(q, lr=1.0, stochastic_rounding=True, seed=3).step(grad)
    assert_same_bits(p, q)
    for options, name in (({"master_weight_bits": 24}, "master_weight_bits"), ({"kahan": True}, "kahan")):
        with pytest.raises(ValueError, match=f"^{name}: expected .* in a function, whose state has no place"):
            module.sgd(p, grad, step=1, **options)
