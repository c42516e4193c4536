"""Rows from the user's side: step counts of rows, changes of rows, errors, checkpoints and the cost."""

from __future__ import annotations

import copy
import tracemalloc
from typing import Any, cast

import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, VARIANT_CASES, Array, Case, assert_same_bits, ordinary_values
from loops import each_case, loop
from models import BACKENDS, OPTIMIZERS, Memory
from row_checks import is_elementwise, rows_of, summed

ROW_CASES = [case for case in VARIANT_CASES if is_elementwise(case)]
each_backend = loop("backend", BACKENDS)


def adam(params: Any, backend: Any = "native", **options: Any) -> fo.Adam:
    return fo.Adam(params, lr=0.1, backend=backend, **options)


# ---- step counts of rows


@each_case(ROW_CASES)
def test_counted_rows_are_optimizers_of_their_own(case: Case) -> None:
    rng = np.random.default_rng(12)
    n, shape = 4, (4, 3)
    p = rows_of(rng, np.arange(n), shape, FLOAT32)
    each = [case.optimize(p[[row]], "reference") for row in range(n)]
    options = case.options | {"row_steps": True}
    opts = [case.optimizer({"p": p.copy()}, **options, backend=backend) for backend in BACKENDS]
    counts = np.zeros(n, np.int64)
    for step in range(12):
        index = np.arange(n) if step % 4 == 0 else rng.integers(0, n, 3)
        values = rows_of(rng, index, shape, FLOAT32)
        for opt in opts:
            opt.step({"p": values if step % 8 == 0 else fo.Rows(index, values)})
        for row, g in zip(*summed(index, values, FLOAT32), strict=True):
            each[row].step(g[np.newaxis])
            counts[row] += 1
    for backend, opt in zip(BACKENDS, opts, strict=True):
        state = opt.state["p"]
        assert state.pop("row_steps").tolist() == counts.tolist()
        for row in range(n):
            assert_same_bits(opt.params["p"][[row]], each[row].params, f"{case.id} {backend}: row {row}")
            for name, array in state.items():
                assert_same_bits(array[[row]], each[row].state[name], f"{case.id} {backend}: {name} of row {row}")


@each_backend
def test_a_skipped_step_counts_no_row(backend: Any) -> None:
    opt = adam(np.ones((3, 2)), backend, row_steps=True, skip_nonfinite=True)
    assert opt.step(fo.Rows(np.array([1, 2]), np.ones((2, 2)))) is True
    assert opt.step(fo.Rows(np.array([1, 0]), np.full((2, 2), np.inf))) is False
    assert opt.state["row_steps"].tolist() == [0, 1, 1]


@each_backend
def test_counts_of_arrays_without_axes_and_without_rows(backend: Any) -> None:
    params = {"number": np.array(1.0), "none": np.zeros((0, 3))}
    opt = adam(params, backend, row_steps=True)
    for _ in range(2):
        opt.step({"number": np.array(1.0), "none": np.zeros((0, 3))})
    assert opt.state["number"]["row_steps"].tolist() == [2]
    assert np.isclose(params["number"], 0.8)


def test_counts_are_saved_and_copied(tmp_path: Any) -> None:
    opt = adam({"p": np.ones((4, 2))}, row_steps=True, ema=0.9)
    rows = {"p": fo.Rows(np.array([3, 1]), np.ones((2, 2)))}
    opt.step(rows)
    opt.save(tmp_path / "rows.safetensors")
    loaded = adam({"p": opt.params["p"].copy()}, "reference", row_steps=True, ema=0.9)
    loaded.load(tmp_path / "rows.safetensors")
    twins = [loaded, copy.deepcopy(opt), copy.copy(opt)]
    opt.step(rows)
    for twin in twins[:2]:
        twin.step(rows)
        assert_same_bits(twin.params["p"], opt.params["p"])
    for twin, taken in zip(twins, (2, 2, 1), strict=True):
        assert twin.state["p"]["row_steps"].tolist() == [0, taken, 0, taken]


def test_row_steps_may_be_assigned_later() -> None:
    opt = adam(np.ones((3, 2)))
    opt.step(np.ones((3, 2)))
    opt.param_groups[0]["row_steps"] = True
    opt.step(fo.Rows(np.array([1]), np.ones((1, 2))))
    assert opt.state["row_steps"].tolist() == [1, 2, 1]


# ---- other rows


@each_case(ROW_CASES)
@each_backend
def test_remap_moves_the_state_of_rows(case: Case, backend: Any) -> None:
    rng = np.random.default_rng(13)
    shape = (5, 3)
    params = {"p": rows_of(rng, np.arange(5), shape, FLOAT32), "q": [rows_of(rng, np.arange(5), shape, FLOAT32)]}
    opt = case.optimizer(params, **case.options | {"row_steps": True}, backend=backend)
    for _ in range(3):
        g = rows_of(rng, np.arange(5), shape, FLOAT32)
        opt.step({"p": g, "q": [g]})
    before = {name: array.copy() for name, array in opt.state["p"].items()}
    source = np.array([4, 0, 0, -1, 2, -1, 4])
    new = rows_of(rng, source, shape, FLOAT32)
    opt.remap({"p": new}, source={"p": source})
    assert params["p"] is new
    assert opt.params["p"] is new
    fresh = case.optimizer(new.copy(), **case.options | {"row_steps": True}).state
    for name, array in opt.state["p"].items():
        wanted = np.where((source >= 0).reshape(-1, *[1] * (array.ndim - 1)), before[name][source], fresh[name])
        assert_same_bits(array, wanted.astype(array.dtype), f"{case.id}: {name}")
    g = rows_of(rng, source, shape, FLOAT32)
    opt.step({"p": g, "q": [g[:5]]})
    opt.step({"p": fo.Rows(np.array([6]), g[:1]), "q": [None]})


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda cls: cls.name)
def test_remap_in_every_container(optimizer: type[fo.Optimizer]) -> None:
    """The optimizer continues with the new arrays, whether they were in a dict, a list, a tuple, groups or nothing."""
    index = np.array([1, -1])
    for make, replaced in (
        (lambda p: p, lambda p: p),
        (lambda p: [p], lambda p: [p]),
        (lambda p: ((p, np.ones(2)), {"a": p.copy()}), lambda p: ((p, None), {})),
        (lambda p: [{"params": (p,), "lr": 0.5}, {"params": {"a": p.copy()}}], lambda p: [(p,), None]),
    ):
        old, new = np.ones((3, 2)), np.zeros((2, 2))
        opt = optimizer(make(old))
        opt.remap(replaced(new), source=replaced(index))
        arrays = [param.p for param in opt.param_states]
        assert arrays[0] is new
        for _ in range(2):
            opt.step(opt._structure.build(np.ones(p.shape) for p in arrays))
        assert new.all()
        assert (old == 1).all()
        copy.deepcopy(opt).load_state_dict(opt.state_dict())


def test_remap_waits_for_a_sum() -> None:
    p = np.zeros((4, 2))
    opt = fo.SGD(p, lr=1.0)
    opt.accumulate(np.ones((4, 2)))
    with pytest.raises(RuntimeError, match="remap: expected step"):
        opt.remap(p[:2].copy(), source=np.array([0, 1]))
    opt.step()
    opt.remap(new := p[:2].copy(), source=np.array([0, 1]))
    opt.accumulate(np.ones((2, 2)))
    opt.step()
    assert new[:, 0].tolist() == [-2, -2]


# ---- errors


class Table(Memory):
    """An optimizer whose every byte is watched."""

    def __init__(self, backend: Any, **options: Any) -> None:
        super().__init__()
        self.p, self.q = self.array((4, 3)), self.array((2,))
        self.opt = adam({"p": self.p, "q": self.q}, backend, **options)
        self.step(fo.Rows(np.array([1]), np.ones((1, 3), np.float32)))

    def step(self, rows: Any) -> None:
        self.opt.step({"p": rows, "q": np.ones(2, np.float32)})

    def everything(self) -> dict[str, Any]:
        state = {f"{key} {name}": a.tobytes() for key, s in self.opt.state.items() for name, a in s.items()}
        return {**super().everything(), **state, "steps": self.opt.step_count}


def wrong_rows(table: Table) -> list[tuple[Any, Any, type[Exception], str]]:
    index, values = np.array([0, 2]), np.ones((2, 3), np.float32)
    return [
        (np.array([0, 4]), values, IndexError, "grads['p'].index: expected indices from 0 to 3, got 4 at position 1"),
        (np.array([-1, 2**31 - 1], np.int32), values, IndexError, "got -1 at position 0"),
        (np.array([0, 2], np.uint64), values, TypeError, "dtype int32, int64 or bool"),
        (np.array([0, 2], ">i8"), values, TypeError, "dtype int32, int64 or bool"),
        (np.array([0.0, 2.0]), values, TypeError, "dtype int32, int64 or bool"),
        ([0, 2], values, TypeError, "grads['p'].index: expected an array of int32, int64 or bool, got a list"),
        (index[:, None], values, ValueError, "expected one axis, got shape (2, 1)"),
        (np.ones(3, bool), values, ValueError, "expected a mask of the parameter's 4 rows"),
        (np.ones(4, bool), values, ValueError, "grads['p'].values: expected shape (4, 3), got (2, 3)"),
        (index, values[:1], ValueError, "grads['p'].values: expected shape (2, 3), got (1, 3)"),
        (index, values[:, :2], ValueError, "expected shape (2, 3)"),
        (index, values.astype(int), TypeError, "grads['p'].values: expected dtype float64"),
        (index, 1.0, TypeError, "grads['p'].values"),
        (index, table.p[:2], ValueError, "grads['p'].values: overlaps params['p']"),
    ]


@each_backend
def test_wrong_rows_change_nothing(backend: Any) -> None:
    for options in ({}, {"row_steps": True}):
        table = Table(backend, **options)
        for index, values, error, words in wrong_rows(table):
            with table.refuses(error, words):
                table.step(fo.Rows(index, values))


@each_backend
def test_a_whole_gradient_with_row_steps_is_named_as_one(backend: Any) -> None:
    p = np.ones((4, 3))
    opt = adam(p, backend, row_steps=True)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^grads: overlaps params"):
            opt.step(p[::-1])
        opt.step(np.ones((4, 3)))


@each_backend
def test_parameters_that_have_no_rows(backend: Any) -> None:
    for p, words in ((np.asfortranarray(np.ones((3, 2))), "params: expected C order"), (np.array(1.0), "got Rows")):
        opt = adam(p, backend)
        with pytest.raises(ValueError, match=words):
            opt.step(fo.Rows(np.array([0]), np.ones((1, 2))))


@each_backend
def test_rows_that_count_are_contiguous(backend: Any) -> None:
    """Gradients may be rows or whole arrays, and the option or the array may have come in any way."""
    words = r"params\['p'\]: expected C order, as row_steps counts its rows, got strides \(8, 32\)"
    p = np.zeros((4, 3), order="F")
    with pytest.raises(ValueError, match=words):
        adam({"p": p}, backend, row_steps=True)
    opt = adam({"p": p}, backend)
    opt.param_groups[0]["row_steps"] = True
    with pytest.raises(ValueError, match=words):
        opt.step({"p": np.ones((4, 3))})
    opt.row_steps = False
    opt.step({"p": np.ones((4, 3))})
    other = adam({"p": p.copy(order="C")}, backend, row_steps=True)
    with pytest.raises(ValueError, match=words):
        other.remap({"p": p}, source={"p": np.arange(4)})
    other.step({"p": np.ones((4, 3))})
    with pytest.raises(ValueError, match=words):
        opt.load_state_dict(other.state_dict())
    opt.step({"p": np.ones((4, 3))})


@pytest.mark.parametrize(
    "optimizer", [cls for cls in OPTIMIZERS if not cls.check_options({}).is_elementwise], ids=lambda cls: cls.name
)
@each_backend
def test_optimizers_with_sums_reject_rows(optimizer: type[fo.Optimizer], backend: Any) -> None:
    opt = optimizer(np.ones((3, 2)), backend=backend)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"as {optimizer.__name__} has sums"):
            opt.step(fo.Rows(np.array([0]), np.ones((1, 2))))
        opt.step(np.ones((3, 2)))
    with pytest.raises(ValueError, match=f"row_steps: expected False, as {optimizer.__name__} has"):
        optimizer(np.ones((3, 2)), row_steps=True)


@each_backend
@loop("optimizer", [fo.LAMB, fo.Muon])
def test_a_group_that_needs_whole_gradients_rejects_rows_alone(backend: Any, optimizer: type[fo.Optimizer]) -> None:
    rows, whole, p, q = fo.Rows(np.array([0]), np.ones((1, 2))), np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2))
    groups = [{"params": p, "optimizer": fo.Adam}, {"params": q, "optimizer": optimizer}]
    opt = fo.Mixed(groups, backend=backend, clip_global_norm=9.0)
    backwards = fo.Mixed(groups[::-1], backend=backend)
    for _ in range(2):
        opt.step([rows, whole])
        before = p.copy(), q.copy()
        with pytest.raises(ValueError, match=rf"grads\[1\]: .*, as {optimizer.__name__} has sums"):
            opt.step([rows, rows])
        with pytest.raises(ValueError, match=rf"grads\[0\]: .*, as {optimizer.__name__} has sums"):
            backwards.step([rows, np.ones(3)])  # the first of two errors
        assert np.array_equal((p, q), before)
    assert (p[1:] == 1).all()
    assert (p[0] != 1).all()


@each_backend
def test_an_option_that_is_assigned_in_mid_run_rejects_rows(backend: Any) -> None:
    opt, rows = adam(np.ones((3, 2)), backend), fo.Rows(np.array([0]), np.ones((1, 2)))
    opt.step(rows)
    before = opt.params.copy()
    opt.param_groups[0]["cautious"] = True
    with pytest.raises(ValueError, match=r"grads: .*, as Adam has cautious=True"):
        opt.step(rows)
    assert np.array_equal(opt.params, before)


@each_backend
def test_whole_arrays_are_expected_outside_a_step(backend: Any) -> None:
    """Also in `accumulate`: a step by a sum would decay the rows without a gradient."""
    rows, p = fo.Rows(np.array([0]), np.ones((1, 2))), np.ones((3, 2))
    opt = adam(p, backend)
    calls: list[Any] = [
        opt.accumulate,
        fo.global_norm,
        fo.GrokFast(opt).step,
        lambda grads: fo.SAM(opt).ascent(grads).__enter__(),
        lambda grads: fo.EarlyStopping(opt, grad_tol=1.0).update(1.0, grads),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"^(grads|arrays): expected a whole array, got Rows$"):
            call(rows)
    assert (p == 1).all()
    opt.step(rows)


def test_wrong_remaps_change_nothing() -> None:
    new, index = np.ones((2, 3), np.float32), np.array([1, -1])
    wrong: list[tuple[Any, Any, type[Exception], str]] = [
        ({"p": new}, {"p": np.array([1, 4])}, IndexError, "source['p']: expected indices from -1 to 3, got 4"),
        ({"p": new}, {"p": np.array([-2, 1])}, IndexError, "got -2 at position 0"),
        ({"p": new}, {"p": index[:1]}, ValueError, "one index for each of the 2 new rows"),
        ({"p": new}, {"p": np.ones(4, bool)}, ValueError, "one index for each of the 2 new rows, got a mask"),
        ({"p": new}, {}, TypeError, "source['p']: expected an array"),
        ({"r": new}, {"r": index}, TypeError, "some of the keys ['p', 'q']"),
        ({"p": new[:, :2].copy()}, {"p": index}, ValueError, "expected float32 of shape ('n', 3)"),
        ({"p": new.astype(float)}, {"p": index}, ValueError, "got float64"),
        ({"p": [new]}, {"p": index}, TypeError, "params['p']"),
    ]
    for backend in BACKENDS:
        table = Table(backend)
        for params, source, error, words in wrong:
            with table.refuses(error, words):
                table.opt.remap(params, source=source)
        with table.refuses(ValueError, "share no memory"):
            table.opt.remap({"p": table.p, "q": table.p.reshape(-1)[:2]}, source={"p": np.arange(4), "q": index})


def test_on_nonfinite_names_the_values() -> None:
    opt = adam({"p": np.ones((3, 2))}, on_nonfinite="raise")
    values = np.array([[1.0, 2.0], [3.0, np.nan]])
    with pytest.raises(FloatingPointError, match=r"grads\['p'\].values: .* nan at index \(1, 1\)"):
        opt.step({"p": fo.Rows(np.array([2, 0]), values)})


@each_backend
def test_on_nonfinite_names_what_a_mask_selects(backend: Any) -> None:
    opt = adam(np.ones((4, 2)), backend, on_nonfinite="raise")
    values = np.ones((4, 2))
    values[0], values[2, 1] = np.nan, np.inf
    with pytest.raises(FloatingPointError, match=r"grads\.values: .* inf at index \(2, 1\), the first of 1 such"):
        opt.step(fo.Rows(np.array([False, False, True, True]), values))


@loop("count", [-5, 3])
def test_wrong_counts_in_a_state_dict(count: int) -> None:
    opt = adam(np.ones((3, 2)), row_steps=True)
    for _ in range(2):
        opt.step(fo.Rows(np.array([1]), np.ones((1, 2))))
    saved = opt.state_dict()
    saved["arrays"][0]["state"]["row_steps"][0] = count
    with pytest.raises(ValueError, match="state of params: expected 'row_steps' from 0 to 2, got "):
        opt.load_state_dict(saved)


# ---- other libraries


def test_rows_of_other_libraries() -> None:
    torch = pytest.importorskip("torch")
    p, q = np.ones((5, 2), np.float32), np.ones((5, 2), np.float32)
    opt, twin = adam(p), adam(q)
    for index in (np.array([3, 0, 3]), np.array([True, False, True, False, False])):
        values = ordinary_values(np.random.default_rng(0), FLOAT32, 2 * len(index)).reshape(-1, 2)
        opt.step(fo.Rows(torch.from_numpy(index), torch.from_numpy(values)))
        twin.step(fo.Rows(index, values))
    assert_same_bits(p, q)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_counts_that_are_switched_on_in_mid_run_begin_with_the_parameters(backend: Any) -> None:
    """The same holds after a phase without counts; an array that has missed a step has one less."""
    p, q = ([np.zeros((2, 1)), np.zeros((3, 1))] for _ in range(2))
    opt = fo.Adam(p, lr=0.1, ema=0.9, ema_debias=True, backend=backend)
    twin = fo.Adam(q, lr=0.1, ema=0.9, ema_debias=True, backend=backend)
    for step in range(8):
        opt.row_steps = step in (3, 4, 7)
        for each in (opt, twin):
            each.step([np.full((2, 1), step + 1.0), None if step == 1 else np.full((3, 1), step - 3.0)])
        for ours, theirs in zip(opt.param_states, twin.param_states, strict=True):
            assert_same_bits(ours.p, theirs.p)
            assert_same_bits(ours.state["average"], theirs.state["average"])
    assert [state["row_steps"].tolist() for state in opt.state] == [[8, 8], [7, 7, 7]]


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_remap_writes_the_copies(backend: Any) -> None:
    p, half = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float16)
    opt = fo.SGD(p, lr=1.0, copies=half, backend=backend)
    new = np.arange(6, dtype=np.float32).reshape(3, 2)
    opt.remap(new, source=np.array([2, 1, 0]))
    np.testing.assert_array_equal(half, new)
    opt.step(fo.Rows(np.array([1]), np.ones((1, 2))))
    np.testing.assert_array_equal(half, [[0, 1], [1, 2], [4, 5]])


def test_the_reason_for_rejected_rows_is_named() -> None:
    rows = fo.Rows(np.array([1]), np.ones((1, 2)))
    with pytest.raises(ValueError, match="grads: expected a gradient for the whole array, as Adam has cautious=True"):
        fo.Adam(np.zeros((3, 2)), cautious=True).step(rows)
    with pytest.raises(ValueError, match="row_steps: expected False, as LAMB has sums or numbers of whole arrays"):
        fo.LAMB(np.zeros((3, 2)), row_steps=True)


def test_rows_in_functions() -> None:
    p, m, v = (np.zeros((3, 2)) for _ in range(3))
    fo.functional.adam(p, fo.Rows(np.array([1]), np.ones((1, 2))), m, v, step=1, lr=0.5)
    assert p.any(axis=1).tolist() == m.any(axis=1).tolist() == [False, True, False]


def test_memory_does_not_grow_with_the_table() -> None:
    """No array of the table's size is made or copied."""
    table: Array = np.zeros((2_000_000, 4), np.float32)
    opt = cast(Any, fo.SGD)(table, lr=0.1)
    rows = fo.Rows(np.array([5, 1_999_999]), np.ones((2, 4), np.float32))
    opt.step(rows)
    tracemalloc.start()
    opt.step(rows)
    assert tracemalloc.get_traced_memory()[1] < 20_000
    tracemalloc.stop()
