"""Check that gradients for some rows have the bits of a dense step on these rows, and leave other rows alone."""

from __future__ import annotations

from itertools import cycle
from typing import Any, cast

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    BFLOAT16,
    CASES,
    DTYPES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    ISAS,
    MIN_SHARE,
    VARIANT_CASES,
    Array,
    Case,
    DType,
    assert_same_bits,
)
from fastoptim.reference_math import compute_dtype
from loops import each_case, loop, using_isa
from row_checks import SHAPES, is_elementwise, rows_of, selections, summed

ROW_CASES = [case for case in VARIANT_CASES if is_elementwise(case)]
OTHER_CASES = [case for case in CASES if case not in VARIANT_CASES and is_elementwise(case)]
STEPS = 3


class Twins:
    """A model that receives rows, and for each step dense arrays of these rows with the model's state in them."""

    def __init__(self, case: Case, dtypes: Any, backend: Any, shapes: Any = SHAPES) -> None:
        self.rng = np.random.default_rng(8)
        self.case = case
        params = {str(i): rows_of(self.rng, np.arange(shape[0]), shape, next(dtypes)) for i, shape in enumerate(shapes)}
        self.opt = case.optimize(params, backend)

    def step(self, grads: dict[str, Any], dense: dict[str, tuple[Array, Array]]) -> None:
        """Step with `grads`; `dense` has the rows of each and their summed gradients."""
        opt, keys = self.opt, list(dense)
        small = self.case.optimize({key: opt.params[key][dense[key][0]] for key in keys}, "reference")
        saved = opt.state_dict()
        arrays = {entry["place"]: entry for entry in saved["arrays"]}
        for key in keys:
            entry = arrays[f"[{key!r}]"]
            entry["shape"] = list(small.params[key].shape)
            entry["state"] = {name: array[dense[key][0]] for name, array in entry["state"].items()}
        small.load_state_dict(saved)
        before = {k: {n: a.copy() for n, a in {"p": opt.params[k], **opt.state[k]}.items()} for k in keys}
        taken = opt.step(grads)
        assert small.step({key: dense[key][1] for key in keys}) == taken
        for key in keys:
            found = {"p": opt.params[key], **opt.state[key]}
            wanted = {"p": small.params[key], **small.state[key]}
            for name, array in found.items():
                before[key][name][dense[key][0]] = wanted[name]
                assert_same_bits(array, before[key][name], f"{self.case.id}: {name} of {key}")


def check_rows(case: Case, backend: str, p_dtypes: Any, g_dtypes: Any, shapes: Any = SHAPES) -> None:
    twins = Twins(case, p_dtypes, backend, shapes)
    for step in range(STEPS):
        grads, dense = {}, {}
        for i, (key, p) in enumerate(twins.opt.params.items()):
            every = selections(twins.rng, len(p))
            index = every[(i + step) % len(every)]
            values = rows_of(twins.rng, index, p.shape, next(g_dtypes))
            grads[key] = fo.Rows(index, values)
            dense[key] = summed(index, values, compute_dtype(p.dtype))
        twins.step(grads, dense)


@each_case(ROW_CASES)
@loop("backend", ["native", "reference"])
def test_rows_are_stepped_as_a_dense_array(case: Case, backend: str) -> None:
    with using_isa(ISAS[ROW_CASES.index(case) % len(ISAS)]):
        check_rows(case, backend, cycle(DTYPES), cycle(DTYPES[:3]))


@pytest.mark.exhaustive
@each_case(OTHER_CASES)
@loop("p_dtype", DTYPES)
def test_rows_of_every_case(case: Case, p_dtype: DType) -> None:
    check_rows(case, "native", cycle([p_dtype]), cycle(DTYPES))


def test_rows_among_threads() -> None:
    case = next(case for case in CASES if case.variant == "adam" and case.options["clip_norm"])
    shapes = ((3000, 37), (7 * MIN_SHARE // 5, 5))
    for threads in (1, 3, 7):
        fo.set_num_threads(threads)
        try:
            check_rows(case, "native", cycle([FLOAT32, BFLOAT16]), cycle([FLOAT32]), shapes)
        finally:
            fo.set_num_threads(None)


@loop("backend", ["native", "reference"])
def test_a_mask_selects_rows_of_a_dense_array(backend: str) -> None:
    rng = np.random.default_rng(9)
    for p_dtype, shape in zip(cycle(DTYPES), SHAPES, strict=False):
        twins = Twins(next(c for c in ROW_CASES if c.variant == "adam"), cycle([p_dtype]), backend, [shape])
        for mask in (rng.random(shape[0]) < 0.5, np.zeros(shape[0], bool), np.ones(2 * shape[0], bool)[::2]):
            g = rows_of(rng, mask, shape, FLOAT32)
            twins.step({"0": fo.Rows(mask, g)}, {"0": (np.flatnonzero(mask), g[mask])})


@loop("backend", ["native", "reference"])
def test_values_and_indices_in_any_layout(backend: str) -> None:
    rng = np.random.default_rng(10)
    shape = (30, 4, 3)
    twins = Twins(next(c for c in ROW_CASES if c.variant == "adam"), cycle([FLOAT32]), backend, [shape])
    for index in (np.arange(40)[5:25:2], rng.integers(0, 30, (12, 2))[:, 1], np.arange(29, -1, -3)):
        k = len(index)
        for values in (
            np.asfortranarray(rng.standard_normal((k, 4, 3))),
            rng.standard_normal((k, 4, 6))[:, ::-1, ::2],
            np.broadcast_to(rng.standard_normal(3), (k, 4, 3)),
            rng.standard_normal((2 * k, 4, 3))[::-2],
        ):
            twins.step({"0": fo.Rows(index, values)}, {"0": summed(index, values, FLOAT32)})


@loop("index", [np.array([3, 0, 4, 1]), np.array([True, False, True, True])])
def test_norms_of_rows_do_not_depend_on_the_layout(index: Array) -> None:
    n = 5 if index.dtype == np.int64 else 4
    for seed in range(60):
        values = np.random.default_rng(seed).standard_normal((4, 2, 3))
        results = []
        for backend in ("native", "reference"):
            for own in (values, np.asfortranarray(values), values[::-1].copy()[::-1]):
                p = np.ones((n, 2, 3))
                cast(Any, fo.SGD)(p, lr=0.1, clip_norm=0.5, backend=backend).step(fo.Rows(index, own))
                results.append(p)
        for p in results[1:]:
            assert_same_bits(p, results[0], f"seed {seed}")


def test_rows_and_dense_gradients_in_one_step() -> None:
    """Norms run over what is there, and arrays without a gradient stay as they are."""
    rng = np.random.default_rng(11)
    results = []
    for backend in ("native", "reference"):
        rng = np.random.default_rng(11)
        params = {name: rows_of(rng, np.arange(30), (30, 5), FLOAT32) for name in "abc"}
        opt = fo.AdamW(params, lr=0.1, clip_global_norm=0.5, skip_nonfinite=True, ema=0.9, backend=cast(Any, backend))
        for step in range(70):
            index = rng.integers(0, 30, 9)
            values = rows_of(rng, index, (30, 5), FLOAT32)
            if step == 3:
                values[0, 0] = np.inf
            grads = {"a": fo.Rows(index, values), "b": rows_of(rng, np.arange(30), (30, 5), FLOAT32), "c": None}
            assert opt.step(grads) is (step != 3)
        results.append(opt)
    native, reference = results
    for name in "abc":
        assert_same_bits(native.params[name], reference.params[name], name)
        for key, array in native.state[name].items():
            assert_same_bits(array, reference.state[name][key], f"{key} of {name}")


@loop("half", [FLOAT16, BFLOAT16])
@loop("row_steps", [False, True])
def test_copies_of_the_rows_are_written(half: DType, row_steps: bool) -> None:
    """Other rows of the copies keep every bit."""
    for p_dtype, shape in zip(cycle((FLOAT32, FLOAT64)), SHAPES, strict=False):
        start = rows_of(np.random.default_rng(12), np.arange(shape[0]), shape, p_dtype)
        models = []
        for backend in ("native", "reference"):
            rng = np.random.default_rng(13)
            p, copy = start.copy(), np.zeros(shape, half)
            opt = fo.AdamW(p, copies=copy, row_steps=row_steps, ema=0.9, bounds=(-1, 1), backend=cast(Any, backend))
            for index in selections(rng, shape[0]):
                copy[...] = 7
                opt.step(fo.Rows(index, rows_of(rng, index, shape, p_dtype)))
                stepped = np.isin(np.arange(shape[0]), index)
                assert_same_bits(copy[stepped], p[stepped].astype(half))
                assert (copy[~stepped] == 7).all()
            opt.step(rows_of(rng, np.arange(shape[0]), shape, p_dtype))
            models.append((p, copy))
        for own, wanted in zip(*models, strict=True):
            assert_same_bits(own, wanted, f"{shape} of {p_dtype}")


def mixed(params: Any, backend: str, row_steps: bool) -> Any:
    optimizers: list[dict[str, Any]] = [
        {"optimizer": fo.Adam, "row_steps": row_steps},
        {"optimizer": fo.LAMB},
        {"optimizer": fo.SGD, "cautious": True},
        {"optimizer": fo.NovoGrad},
    ]
    groups = [{"params": p, **own} for p, own in zip(params, optimizers, strict=True)]
    return fo.Mixed(groups, backend=cast(Any, backend), clip_global_norm=3.0)


@loop("row_steps", [False, True])
def test_rows_alongside_groups_that_need_whole_gradients(row_steps: bool) -> None:
    starts = [rows_of(np.random.default_rng(14), np.arange(60), (60, 33), dtype) for dtype in DTYPES]
    models = []
    for backend in ("native", "reference"):
        rng = np.random.default_rng(15)
        opt = mixed([p.copy() for p in starts], backend, row_steps)
        for index in selections(rng, 60):
            whole = [rows_of(rng, np.arange(60), p.shape, FLOAT32) for p in starts[1:]]
            opt.step([fo.Rows(index, rows_of(rng, index, starts[0].shape, FLOAT32)), *whole])
        models.append(opt)
    for i, (own, wanted) in enumerate(zip(*(opt.params for opt in models), strict=True)):
        assert_same_bits(own, wanted, f"parameter {i}")
        for name, array in models[0].state[i].items():
            assert_same_bits(array, models[1].state[i][name], f"{name} of parameter {i}")


def test_the_fast_path_takes_rows() -> None:
    p, q = np.ones((6, 2)), np.ones((6, 2))
    opt, slow = fo.Adam(p), fo.Adam(q)
    for i in range(5):
        rows = fo.Rows(np.array([i, 2]), np.full((2, 2), 0.5 + i))
        assert opt._fast_path is not None or i == 0
        opt.step(rows)
        slow._fast_path = None
        slow.step(rows)
    assert_same_bits(p, q)
