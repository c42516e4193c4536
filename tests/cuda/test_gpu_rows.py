"""Steps of rows in a GPU's memory have the bits of the reference, and are rejected before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any, cast

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, FLOAT64, Array, Case, DType, assert_same_bits
from devices import IS_EMULATED, VARIANT_CASES, get, put, with_device
from loops import each_case, loop
from row_checks import SHAPES, is_elementwise, rows_of, selections

ROW_CASES = [case for case in VARIANT_CASES if is_elementwise(case)]
ADAM = next(case for case in ROW_CASES if case.optimizer is fo.Adam)
STEPS = 4


@pytest.fixture(autouse=IS_EMULATED)
def _blocks_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPTIM_EMULATED_ORDER", "random")


class Twins:
    """The same model on the device and with the reference."""

    def __init__(self, xp: Any, case: Case, dtypes: Iterator[DType], shapes: Any = SHAPES, **options: Any) -> None:
        self.xp, self.rng = xp, np.random.default_rng(20)
        hosts = {str(i): rows_of(self.rng, np.arange(shape[0]), shape, next(dtypes)) for i, shape in enumerate(shapes)}
        self.there: Any = case.optimizer({k: put(xp, p) for k, p in hosts.items()}, **case.options | options)
        self.here: Any = case.optimizer(hosts, **case.options | options, backend="reference")

    def selected(self, key: str, which: int, dtype: DType) -> Any:
        """A gradient for some rows, which are selected in another way for each `which`, by an index or a mask."""
        p = self.here.params[key]
        every = selections(self.rng, len(p))
        index = every[which % len(every)]
        if which % 3 == 2:
            index = np.isin(np.arange(len(p)), index)
        return fo.Rows(index, rows_of(self.rng, index, p.shape, dtype))

    def step(self, grads: dict[str, Any]) -> Any:
        taken = self.there.step({key: on_device(self.xp, grad, i) for i, (key, grad) in enumerate(grads.items())})
        assert self.here.step(grads) == taken
        for key, p in self.here.params.items():
            assert_same_bits(get(self.xp, self.there.params[key]), p, f"parameter {key}")
            for name, array in self.here.state[key].items():
                got = self.there.state[key][name]
                got = got if isinstance(got, np.ndarray) else get(self.xp, got)
                assert_same_bits(got, array, f"{name} of parameter {key}")
        return taken


def on_device(xp: Any, grad: Any, which: int) -> Any:
    """The gradient in the device's memory; every other index remains on the CPU."""
    if not isinstance(grad, fo.Rows):
        return None if grad is None else put(xp, grad)
    return fo.Rows(put(xp, grad.index) if which % 2 else grad.index, put(xp, grad.values))


def check_rows(xp: Any, case: Case, dtypes: Iterator[DType], g_dtypes: Iterator[DType], **options: Any) -> None:
    """Indices, masks, whole gradients and none, in turn."""
    twins = Twins(xp, case, dtypes, **options)
    for step in range(STEPS):
        grads = {key: twins.selected(key, i + step, next(g_dtypes)) for i, key in enumerate(twins.here.params)}
        whole, absent = str(step), str(step + 1)
        p = twins.here.params[whole]
        grads |= {whole: rows_of(twins.rng, np.arange(len(p)), p.shape, next(g_dtypes)), absent: None}
        twins.step(grads)


@with_device
@loop("row_steps", [False, True])
@each_case(ROW_CASES)
def test_rows_have_the_bits_of_the_reference(xp: Any, case: Case, row_steps: bool) -> None:
    check_rows(xp, case, cycle(DTYPES), cycle(DTYPES[:3]), row_steps=row_steps)


@with_device
@loop("row_steps", [False, True])
def test_norms_run_over_the_rows_in_ascending_order(xp: Any, row_steps: bool) -> None:
    """Rows with different counts are divided among several groups, and the norm is the same."""
    shapes = ((3000, 7), (40, 3), (4, 5))
    for norm_type in (1.0, 2.0, np.inf):
        options = {"clip_norm": 0.7, "clip_global_norm": 0.9, "norm_type": norm_type, "skip_nonfinite": True}
        twins = Twins(xp, ADAM, cycle([FLOAT32, FLOAT64, BFLOAT16]), shapes, row_steps=row_steps, ema=0.9, **options)
        for step in range(6):
            grads = {key: twins.selected(key, i + step, FLOAT64) for i, key in enumerate(twins.here.params)}
            grads["2"] = fo.Rows(np.array([1, 1]), np.ones((2, 5)))
            if step == 4:
                grads["2"].values[1, 2] = np.inf
            assert twins.step(grads) is (step != 4)


@with_device
def test_a_first_step_may_have_no_rows(xp: Any) -> None:
    """Before there are buffers for rows."""
    twins = Twins(xp, ADAM, cycle([FLOAT32]), [(30, 4), (5, 3)])
    nothing = fo.Rows(np.zeros(0, np.int64), np.zeros((0, 4)))
    twins.step({"0": nothing, "1": np.ones((5, 3))})
    twins.step({"0": nothing, "1": None})


@with_device
def test_values_in_any_memory_order(xp: Any) -> None:
    twins = Twins(xp, ADAM, cycle([FLOAT32]), [(30, 4, 3)])
    rng = twins.rng
    for values in (
        np.asfortranarray(rng.standard_normal((9, 4, 3))),
        rng.standard_normal((9, 3, 4)).transpose(0, 2, 1),
        rng.standard_normal((9, 4, 3)).astype(np.float32),
    ):
        twins.step({"0": fo.Rows(rng.integers(0, 30, 9), values)})


@with_device
@loop("row_steps", [False, True])
def test_copies_of_the_rows_are_written(xp: Any, row_steps: bool) -> None:
    for half, dtype in ((FLOAT16, FLOAT64), (BFLOAT16, FLOAT32)):
        for shape in ((30, 4), (30, 3), (3, 2000)):
            rng = np.random.default_rng(21)
            p, copy = rows_of(rng, np.arange(shape[0]), shape, dtype), np.zeros(shape, half)
            q, there = put(xp, p), put(xp, copy)
            here = fo.AdamW(p, copies=copy, row_steps=row_steps, bounds=(-1, 1), backend="reference")
            opt = fo.AdamW(q, copies=there, row_steps=row_steps, bounds=(-1, 1))
            for index in selections(rng, shape[0]):
                values = rows_of(rng, index, shape, dtype)
                here.step(fo.Rows(index, values))
                opt.step(fo.Rows(index, put(xp, values)))
                assert_same_bits(get(xp, q), p)
                assert_same_bits(get(xp, there), copy)


@with_device
@loop("row_steps", [False, True])
def test_rows_alongside_groups_that_need_whole_gradients(xp: Any, row_steps: bool) -> None:
    rng = np.random.default_rng(22)
    hosts = [rows_of(rng, np.arange(60), (60, 33), dtype) for dtype in (FLOAT32, FLOAT64, FLOAT32)]
    opts = []
    for params, backend in (([put(xp, p) for p in hosts], "native"), (hosts, "reference")):
        options: list[dict[str, Any]] = [
            {"optimizer": fo.Adam, "row_steps": row_steps},
            {"optimizer": fo.LAMB},
            {"optimizer": fo.AdamW, "cautious": True, "cautious_decay": True},
        ]
        groups = [{"params": p, **own} for p, own in zip(params, options, strict=True)]
        opts.append(fo.Mixed(groups, backend=cast(Any, backend), clip_global_norm=3.0))
    for index in selections(rng, 60):
        rows = fo.Rows(index, rows_of(rng, index, (60, 33), FLOAT32))
        whole = [rows_of(rng, np.arange(60), (60, 33), FLOAT32) for _ in range(2)]
        opts[0].step([on_device(xp, grad, 1) for grad in (rows, *whole)])
        opts[1].step([rows, *whole])
        for q, p in zip(opts[0].params, hosts, strict=True):
            assert_same_bits(get(xp, q), p)


@with_device
def test_more_arrays_than_the_arguments_of_a_launch_describe(xp: Any) -> None:
    twins = Twins(xp, ADAM, cycle([FLOAT32, FLOAT64]), [(5, 3)] * 90)
    for step in range(2):
        twins.step({key: twins.selected(key, i + step, FLOAT32) for i, key in enumerate(twins.here.params)})


@with_device
def test_a_remap_moves_rows_and_counts(xp: Any) -> None:
    twins = Twins(xp, ADAM, cycle([FLOAT32]), [(6, 2)], row_steps=True, ema=0.5)
    twins.step({"0": fo.Rows(np.array([4, 0, 4]), np.ones((3, 2)))})
    source, new = np.array([4, 0, 4, -1]), np.ones((4, 2), np.float32)
    twins.there.remap({"0": put(xp, new)}, source={"0": source})
    twins.here.remap({"0": new}, source={"0": source})
    twins.step({"0": fo.Rows(np.array([3, 2]), np.ones((2, 2)))})


def wrong_rows(xp: Any, p: Any) -> list[tuple[Any, Any, type[Exception], str]]:
    index, values = put(xp, np.array([0, 2])), put(xp, np.ones((2, 3), np.float32))
    return [
        (put(xp, np.array([0, 4])), values, IndexError, "grads.index: expected indices from 0 to 3, got 4 at position"),
        (np.array([-1, 1]), values, IndexError, "got -1 at position 0"),
        (put(xp, np.ones(3, bool)), values, ValueError, "expected a mask of the parameter's 4 rows"),
        (put(xp, np.array([0.0, 2.0])), values, TypeError, "grads.index: expected dtype int32, int64 or bool"),
        (index, values[:1], ValueError, "grads.values: expected shape (2, 3), got (1, 3)"),
        (index, np.ones((2, 3)), ValueError, "grads.values: expected an array on CUDA device 0"),
        (index, p[:2], ValueError, "grads.values: overlaps params"),
    ]


@with_device
@loop("row_steps", [False, True])
def test_wrong_rows_change_nothing(xp: Any, row_steps: bool) -> None:
    p = put(xp, np.ones((4, 3), np.float32))
    opt: Any = fo.Adam(p, row_steps=row_steps)
    rows = fo.Rows(put(xp, np.array([1])), put(xp, np.ones((1, 3), np.float32)))
    opt.step(rows)

    def everything() -> list[Any]:
        arrays = [p, *opt.state.values()]
        return [a.tobytes() if isinstance(a, np.ndarray) else get(xp, a).tobytes() for a in arrays] + [opt.step_count]

    before = everything()
    for index, values, error, words in wrong_rows(xp, p):
        with pytest.raises(error) as caught:
            opt.step(fo.Rows(index, values))
        assert words in str(caught.value)
        assert everything() == before
    opt.step(rows)


@with_device
def test_rows_that_do_not_fit_are_named(xp: Any) -> None:
    rows = fo.Rows(np.array([1]), put(xp, np.ones((1, 3))))
    for opt, words in (
        (fo.LAMB(put(xp, np.ones((4, 3)))), "as LAMB has sums"),
        (fo.Adam(put(xp, np.ones((3, 4)).T)), "params: expected C order, as its gradient is Rows"),
    ):
        with pytest.raises(ValueError, match=words):
            opt.step(rows)
    with pytest.raises(ValueError, match="params: expected C order, as row_steps counts its rows"):
        fo.Adam(put(xp, np.ones((3, 4)).T), row_steps=True)


@with_device
def test_a_graph_contains_no_rows(xp: Any) -> None:
    """It would repeat the rows of the capture."""
    whole, rows = put(xp, np.ones((4, 3))), fo.Rows(np.array([1]), put(xp, np.ones((1, 3))))
    for row_steps, grads, words in (
        (False, rows, "grads: expected a gradient for the whole array in a step that a CUDA graph captures, got Rows"),
        (True, whole, "row_steps: expected False in a step that a CUDA graph captures, got True"),
    ):
        with xp.cuda.Stream(non_blocking=True) as stream:
            opt: Any = fo.Adam(put(xp, np.ones((4, 3))), row_steps=row_steps)
            opt.step(rows)
            stream.begin_capture()
            try:
                with pytest.raises(ValueError, match=words):
                    opt.step(grads)
            finally:
                stream.end_capture()
            opt.step(rows)


@with_device
def test_on_nonfinite_names_the_values(xp: Any) -> None:
    values: Array = np.ones((4, 2))
    values[0], values[2, 1] = np.nan, np.inf
    for index, place in ((np.array([False, False, True, True]), (2, 1)), (np.arange(4), (0, 0))):
        opt: Any = fo.Adam(put(xp, np.ones((4, 2))), on_nonfinite="raise")
        with pytest.raises(FloatingPointError, match=rf"grads\.values: .* at index \({place[0]}, {place[1]}\)"):
            opt.step(fo.Rows(put(xp, index), put(xp, values)))
