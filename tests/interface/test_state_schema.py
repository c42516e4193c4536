"""The schema of state arrays: what a class may declare, and storage formats in the reference engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, FLOAT16, FLOAT32, PLAIN_CASES, Array, Case, assert_same_bits, case_id, ordinary_values
from fastoptim.options.schema import SHAPES, SHARED_STATE, STATE_FORMATS, StateArray
from fastoptim.reference_math import FORMATS


class MomentumInBfloat16(fo.Momentum):
    """Momentum whose velocity is stored in bfloat16; without a name of its own it is not registered."""

    state_schema = {"v": StateArray(format="bfloat16")}


class LambInFloat16(fo.LAMB):
    """LAMB, whose reductions update the state, with both means in float16."""

    state_schema = {"m": StateArray(format="float16"), "v": StateArray(format="float16")}


class ReducesBeforeDecay(fo.SGD):
    """SGD scaled by the sum of the parameters, which is to be taken before decoupled decay."""

    @staticmethod
    def total_of_params(p: Array, g: Array, **_: Any) -> tuple[float, ...]:
        return (float(p.sum()),)

    @staticmethod
    def scaled(p: Array, g: Array, *, lr: float, sums: tuple[float], **_: Any) -> None:
        p -= p.dtype.type(lr * sums[0]) * g


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "row"}, f"shape: expected one of {list(SHAPES)}, got 'row'"),
        ({"format": "int3"}, f"format: expected one of {list(STATE_FORMATS)}, got 'int3'"),
        ({"shape": "scalar", "format": "float16"}, "format: expected 'compute' with shape 'scalar', got 'float16'"),
        (
            {"compress": "unsigned"},
            "compress: expected None, a function or one of ['signed', 'non-negative'], got 'unsigned'",
        ),
        (
            {"compress": "signed", "initial": "p"},
            "compress: expected None with initial='p', an iterate, got 'signed'",
        ),
    ],
)
def test_unknown_declarations_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        StateArray(**options)
    assert str(caught.value) == message


def test_a_declared_array_that_no_variant_has_is_rejected() -> None:
    with pytest.raises(ImportError, match=r"state_schema has \['w'\], which no variant has"):
        type("Wrong", (fo.Momentum,), {"state_schema": {"w": StateArray()}})


def test_a_class_completes_its_schema() -> None:
    assert fo.Adam.state_schema["m"] == StateArray(compress="signed")
    assert fo.Adam.state_schema["v_max"] == StateArray()
    assert fo.Prodigy.state_schema["d"].is_scalar
    assert fo.RowwiseAdam.state_schema["v"].is_of_rows
    assert MomentumInBfloat16.state_schema["average"].initial == "p"
    sums = {"row_sums", "column_sums", "no_matrix", "row_factor", "column_factor", "row_block"}
    assert set(SHAPES) == {"param", "scalar", "matrix_rows", "blocks", "rows", "row_counts", *sums}


def test_rounding_to_bfloat16_is_a_single_one() -> None:
    """1 + 2^-8 is halfway between neighbours, and a little more rounds up; by way of float32 it would round to even."""
    x = np.array([1 + 2**-8 + 2**-40, 1 + 2**-8, -1 - 2**-8 - 2**-40, np.inf, np.nan, 0.0, 1e300])
    with np.errstate(over="ignore"):
        encoded = FORMATS["bfloat16"].encode(x, BFLOAT16).astype(np.float64)
    np.testing.assert_array_equal(encoded, [1 + 2**-7, 1.0, -1 - 2**-7, np.inf, np.nan, 0.0, np.inf])
    again = FORMATS["bfloat16"].encode(encoded, BFLOAT16).astype(np.float64)
    np.testing.assert_array_equal(again, encoded)


def rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    return x.astype(dtype).astype(x.dtype)


@pytest.mark.parametrize("p_dtype", [np.float32, BFLOAT16], ids=str)
def test_the_reference_stores_state_in_its_format(p_dtype: Any) -> None:
    rng = np.random.default_rng(0)
    p = rng.standard_normal((3, 5)).astype(p_dtype)
    q, v = p.copy(), np.zeros((3, 5), np.float32)
    opt = MomentumInBfloat16(p, lr=0.1, backend="reference")
    for t in range(1, 4):
        g = rng.standard_normal((3, 5)).astype(np.float32)
        opt.step(g)
        fo.reference.momentum(q, g, v, step=t, lr=0.1)
        v = rounded(v, BFLOAT16)
        np.testing.assert_array_equal(opt.state["v"].astype(np.float32), v)
        np.testing.assert_array_equal(p, q)
    assert opt.state["v"].dtype == BFLOAT16


def test_a_state_dict_keeps_the_format() -> None:
    params = [np.ones(3, np.float32) for _ in range(2)]
    opts = [MomentumInBfloat16(p, lr=0.1, backend="reference") for p in params]
    opts[0].step(np.arange(3, dtype=np.float32))
    opts[1].load_state_dict(opts[0].state_dict())
    assert opts[1].state["v"].tobytes() == opts[0].state["v"].tobytes()
    assert opts[1].state["v"].dtype == BFLOAT16
    with pytest.raises(ValueError, match="expected 'v' as bfloat16 of shape"):
        opts[1].load_state_dict(fo.Momentum(np.ones(3, np.float32), backend="reference").state_dict())


def test_state_that_both_passes_use_is_rounded_after_each() -> None:
    rng = np.random.default_rng(1)
    p = rng.standard_normal(40).astype(np.float32)
    opt = LambInFloat16(p, lr=0.1, backend="reference")
    for _ in range(3):
        opt.step(rng.standard_normal(40).astype(np.float32))
    assert {name: array.dtype for name, array in opt.state.items()} == {"m": FLOAT16, "v": FLOAT16}
    assert np.isfinite(p).all()


def test_reductions_precede_decoupled_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum is 3 + 5 = 8; of the parameters after decay it would be 4."""
    monkeypatch.setattr(ReducesBeforeDecay, "reduce_terms", staticmethod(ReducesBeforeDecay.total_of_params))
    monkeypatch.setattr(ReducesBeforeDecay, "reference", staticmethod(ReducesBeforeDecay.scaled))
    p = np.array([3.0, 5.0])
    opt = ReducesBeforeDecay(p, lr=0.5, weight_decay=1.0, decoupled=True, backend="reference")
    opt.step(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(p, [3 * 0.5 - 0.5 * 8 * 1, 5 * 0.5 - 0.5 * 8 * 2])


@pytest.mark.parametrize("p_dtype", [np.float64, np.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
def test_native_code_stores_state_as_the_reference_does(case: Case, p_dtype: Any) -> None:
    """All arrays in each format, over more than one tile, with preparation and an average."""
    rng = np.random.default_rng(2)
    start = ordinary_values(rng, np.dtype(p_dtype), 2100)
    grads = [ordinary_values(rng, FLOAT32, 2100) for _ in range(3)]
    for name in STATE_FORMATS[1:]:
        own = {k: v for k, v in case.optimizer.state_schema.items() if k not in SHARED_STATE and v.shape == "param"}
        schema = {k: replace(v, format=name) for k, v in own.items()}
        cls = type("Compressed", (case.optimizer,), {"state_schema": schema})
        options = {**case.options, "clip_norm": 3.0, "ema": 0.9}
        native, reference = (cls(start.copy(), **options, backend=kind) for kind in ("native", "reference"))
        for g in grads:
            native.step(g)
            reference.step(g)
        assert_same_bits(native.params, reference.params)
        for key, array in native.state.items():
            assert_same_bits(array, reference.state[key])
