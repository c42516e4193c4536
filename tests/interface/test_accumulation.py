"""Gradients that are summed over several batches before a step."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, DTYPES, FLOAT16, FLOAT32, Array, DType, assert_same_bits, ordinary_values
from loops import loop
from models import WIDEST, Backend, each_backend, each_dtype, each_kind, leaves

SIZE = 40


def numbers(seed: int, dtype: DType) -> Array:
    return ordinary_values(np.random.default_rng(seed), dtype, SIZE).reshape(5, 8)


def bytes_of(opt: Any) -> Any:
    return [p.tobytes() for p in leaves(opt.params)], [
        array.tobytes() for state in leaves(opt.state) for array in state.values()
    ]


@each_kind
@each_backend
@each_dtype
def test_a_step_takes_the_sum_in_the_compute_type(
    optimizer: type[fo.Optimizer], backend: Backend, dtype: DType
) -> None:
    """Of gradients of every dtype, in the order of the calls; divided by their number unless the sum is asked for."""
    options = {**WIDEST[optimizer].options, "lr": 0.1, "grad_scale": 3.0}
    p, q = numbers(0, dtype), numbers(0, dtype)
    ours, other = optimizer({"w": p}, **options, backend=backend), optimizer({"w": q}, **options)
    compute = np.float64 if dtype == np.float64 else np.float32
    for t in range(3):
        grads = [numbers(10 * t + i, each) for i, each in enumerate(DTYPES)]
        grads[1] = np.asfortranarray(grads[1])
        total = np.zeros((5, 8), compute)
        for g in grads:
            ours.accumulate({"w": g})
            total = total + g.astype(compute)
        mean = t != 1
        other.grad_scale = 3.0 * (len(grads) if mean else 1)
        other.step({"w": total})
        assert ours.step(accumulation="mean" if mean else "sum") is None
        assert_same_bits(p, q)
        assert bytes_of(ours) == bytes_of(other)
    assert ours.step_count == 3


@each_backend
def test_none_adds_nothing(backend: Backend) -> None:
    p = [np.ones(3), np.ones(3), np.ones(3)]
    opt = fo.SGD(p, lr=1.0, backend=backend)
    opt.accumulate([np.full(3, 2.0), None, None])
    opt.accumulate([np.full(3, 4.0), np.full(3, 4.0), None])
    opt.step()
    assert [array[0] for array in p] == [-2, -1, 1]
    assert [entry["steps"] for entry in opt.state_dict()["arrays"]] == [1, 1, 0]


@each_backend
def test_gradients_are_added_when_they_are_passed(backend: Backend) -> None:
    """One buffer that the caller writes again serves all batches."""
    p, g = np.zeros(3), np.ones(3)
    opt = fo.SGD(p, lr=1.0, backend=backend)
    for _ in range(3):
        opt.accumulate(g)
        g *= 2
    opt.step(accumulation="sum")
    assert p.tolist() == [-7] * 3


@each_backend
def test_a_gradient_that_is_not_finite_skips_the_step_and_drops_the_sum(backend: Backend) -> None:
    p = np.ones(3)
    opt = fo.SGD({"w": p}, lr=1.0, skip_nonfinite=True, backend=backend)
    bad = np.array([1, np.inf, 1])
    for grads in ([bad, np.ones(3)], [bad, -bad]):
        for g in grads:
            opt.accumulate({"w": g})
        assert opt.step() is False
    opt.accumulate({"w": np.ones(3)})
    assert opt.step() is True
    assert p.tolist() == [0] * 3
    opt.skip_nonfinite, opt.on_nonfinite = False, "raise"
    opt.accumulate({"w": bad})
    with pytest.raises(FloatingPointError, match=r"grads\['w'\].*\(1,\)"):
        opt.step()
    opt.step({"w": np.ones(3)})


@each_backend
@loop("optimizer", [fo.SOAP, fo.Shampoo])
def test_a_sum_that_no_step_could_take_is_dropped(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    p = np.ones((2, 3))
    opt = optimizer({"w": p}, backend=backend)
    opt.accumulate({"w": np.full((2, 3), np.nan)})
    with pytest.raises(FloatingPointError, match=r"grads\['w'\]: expected a gradient whose squares have a finite sum"):
        opt.step()
    assert p.tolist() == [[1.0] * 3] * 2
    opt.step({"w": np.ones((2, 3))})


@each_backend
def test_a_refused_gradient_adds_nothing(backend: Backend) -> None:
    p = [np.ones(3), np.ones(2)]
    opt = fo.SGD({"a": p[0], "b": p[1]}, lr=1.0, backend=backend)
    with pytest.raises(RuntimeError, match="step: expected gradients, or calls of accumulate before"):
        opt.step()
    opt.accumulate({"a": np.ones(3), "b": np.ones(2)})
    for wrong, error, words in (
        (np.ones(4), ValueError, r"grads\['b'\]: expected shape"),
        (np.ones(2, int), TypeError, r"grads\['b'\]"),
    ):
        with pytest.raises(error, match=words):
            opt.accumulate({"a": np.ones(3), "b": wrong})
    with pytest.raises(TypeError, match="grads: expected the keys"):
        opt.accumulate({"a": np.ones(3)})
    with pytest.raises(ValueError, match="accumulation: expected"):
        opt.step(accumulation="average")  # type: ignore[arg-type]
    for other in (fo.SGD(np.ones(3), backend=backend), fo.GrokFast(fo.SGD(np.ones(3), backend=backend))):
        for _ in range(3):
            with pytest.raises(ValueError, match="accumulation: expected"):
                other.step(np.ones(3), accumulation="average")  # type: ignore[arg-type]
            other.step(np.ones(3))
    with pytest.raises(RuntimeError, match=r"step: expected step\(\) without gradients first.*the 1 accumulated"):
        opt.step({"a": np.ones(3), "b": np.ones(2)})
    with pytest.raises(RuntimeError, match=r"add_param_group: expected step\(\) without gradients first"):
        opt.add_param_group({"params": np.ones(2)})
    opt.step()
    assert (p[0].tolist(), p[1].tolist()) == ([0] * 3, [0] * 2)
    with pytest.raises(RuntimeError, match="step: expected gradients"):
        opt.step()


def test_sums_are_not_added_to_swapped_parameters() -> None:
    opt = fo.SGD(np.ones(3), ema=0.5)
    with opt.averaged(), pytest.raises(RuntimeError, match="averaged"):
        opt.accumulate(np.ones(3))


@each_backend
@loop("dtype", [FLOAT32, FLOAT16, BFLOAT16])
def test_a_sum_goes_through_checkpoints_and_copies(backend: Backend, dtype: DType) -> None:
    def made() -> fo.Adam:
        opt = fo.Adam([{"params": numbers(0, dtype)}, {"params": [numbers(1, dtype)]}], backend=backend)
        opt.step([numbers(2, dtype), [numbers(3, dtype)]])
        return opt

    def go_on(opt: Any) -> Any:
        opt.accumulate([numbers(6, dtype), [None]])
        opt.step()
        return bytes_of(opt)

    opt = made()
    opt.accumulate([None, [numbers(4, dtype)]])
    opt.accumulate([None, [numbers(5, dtype)]])
    loaded = made()
    loaded.load_state_dict(opt.state_dict())
    twins = [loaded, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), copy.copy(opt)]
    expected = [go_on(twin) for twin in twins[:3]]
    assert expected[0] == expected[1] == expected[2] == go_on(opt)
    loaded.accumulate([numbers(4, dtype), [numbers(5, dtype)]])
    loaded.load_state_dict(made().state_dict())
    with pytest.raises(RuntimeError, match="step: expected gradients"):
        loaded.step()


def test_a_sum_goes_through_a_file(tmp_path: Path) -> None:
    p, q = np.ones(3), np.ones(3)
    opt, other = fo.SGD(p, lr=1.0), fo.SGD(q, lr=1.0)
    opt.accumulate(np.array([1.0, 2.0, 3.0]))
    opt.save(tmp_path / "opt.safetensors")
    other.load(tmp_path / "opt.safetensors")
    other.step()
    assert q.tolist() == [0, -1, -2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": -1}, r"\['accumulated'\]\['count'\]"),
        ({"counts": {"": 3}}, r"\['accumulated'\]\['counts'\]: expected at most 2"),
        ({"sums": {}}, r"\['accumulated'\]\['sums'\]: expected a dict"),
        ({"sums": {"": np.ones(4)}}, "the sum of grads as float64 of shape"),
    ],
)
def test_a_wrong_sum_is_rejected(change: dict[str, Any], words: str) -> None:
    opt = fo.SGD(np.ones(3))
    for _ in range(2):
        opt.accumulate(np.ones(3))
    saved = opt.state_dict()
    saved["accumulated"].update(change)
    with pytest.raises(ValueError, match=words):
        opt.load_state_dict(saved)


def test_zero_state_drops_a_sum() -> None:
    opt = fo.SGD(np.ones(3))
    opt.accumulate(np.ones(3))
    opt.zero_state()
    with pytest.raises(RuntimeError, match="step: expected gradients"):
        opt.step()


def test_the_buffers_are_made_once() -> None:
    opt = fo.SGD(np.ones(3))
    seen = set()
    for _ in range(3):
        opt.accumulate(np.ones(3))
        assert opt._accumulator is not None
        seen.add(id(opt._accumulator.buffers[0].p))
        opt.step()
    assert len(seen) == 1
