"""The common behavior of the methods on top of any optimizer: Lookahead, SAM and GrokFast."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, FLOAT32, FLOAT64, DType, assert_same_bits
from loops import loop
from models import Backend, each_backend, each_dtype, leaves
from optional import optional
from wrapped import WRAPPERS, bytes_of, each_wrapper, made, numbers, step


@each_wrapper
@each_dtype
def test_backends_agree(wrapper: Any, dtype: DType) -> None:
    native, reference = made(wrapper, dtype), made(wrapper, dtype, "reference")
    for t in range(5):
        step(native, t, dtype)
        step(reference, t, dtype)
        assert bytes_of(native) == bytes_of(reference)


@each_wrapper
def test_tensors_have_the_bits_of_arrays(wrapper: Any) -> None:
    torch = optional("torch")
    for dtype in (FLOAT64, FLOAT32, BFLOAT16):
        arrays = [numbers(0, dtype), numbers(1, dtype)]
        tensors = [torch.tensor(p.astype(np.float64)).to(getattr(torch, dtype.name)) for p in arrays]
        opts = [wrapper(fo.Adam(p, lr=0.05), **WRAPPERS[wrapper]) for p in (tensors, arrays)]
        for t in range(4):
            g = [numbers(10 + t), numbers(20 + t)]
            for opt, own in zip(opts, ([torch.tensor(each) for each in g], g), strict=True):
                if hasattr(opt, "ascent"):
                    with opt.ascent(own):
                        own = [each + 1 for each in own]
                opt.step(own)
        for ours, expected in zip(tensors, arrays, strict=True):
            assert_same_bits(ours.to(torch.float64).numpy(), expected.astype(np.float64))


@each_wrapper
@each_backend
def test_checkpoints_and_copies_continue_with_the_same_bits(wrapper: Any, backend: Backend) -> None:
    opt, other = made(wrapper, backend=backend), made(wrapper, backend=backend)
    for t in range(3):
        step(opt, t)
    for p, source in zip(leaves(other.params), leaves(opt.params), strict=True):
        p[...] = source
    for name in opt.options:
        setattr(other, name, {int: 7, float: 0.25, bool: False}[type(getattr(opt, name))])
    other.load_state_dict(opt.state_dict())
    twins = [other, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    shallow = copy.copy(opt)
    seen = bytes_of(opt)
    for t in range(3, 6):
        for each in (opt, *twins):
            step(each, t)
    for twin in twins:
        assert bytes_of(twin) == bytes_of(opt)
        assert repr(twin) == repr(opt)
    assert bytes_of(shallow)[1:] == seen[1:]
    assert shallow.params["w"] is opt.params["w"]


@each_wrapper
def test_a_file_continues_with_the_same_bits(wrapper: Any, tmp_path: Path) -> None:
    opt, other = made(wrapper), made(wrapper)
    step(opt, 0)
    fo.save(tmp_path / "run.safetensors", params=opt.params, optimizer=opt)
    fo.load(tmp_path / "run.safetensors", params=other.params, optimizer=other)
    for each in (opt, other):
        step(each, 1)
        step(each, 2)
    assert bytes_of(opt) == bytes_of(other)


@each_wrapper
def test_a_wrong_state_dict_changes_nothing(wrapper: Any) -> None:
    opt = made(wrapper)
    for t in range(3):
        step(opt, t)
    before = bytes_of(opt)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"optimizer": "adam"}, f"expected '{wrapper.name}', got 'adam'"),
        ({"version": 0}, r"\['version'\]"),
        ({"inner": fo.SGD(np.ones(3)).state_dict()}, "expected 'adam', got 'sgd'"),
        ({"options": []}, r"\['options'\]: expected a dict, got"),
        ({"options": {"kappa": 1}}, r"\['options'\]: expected options among .*, got unknown \['kappa'\]"),
        ({"options": dict.fromkeys(wrapper.options, "x")}, r"\['options'\]\[.*\]: expected .*, got 'x'"),
        *[({"counts": dict.fromkeys(wrapper.counts, 4)}, f"{name}.*at most 3, .*got 4") for name in wrapper.counts],
        ({"arrays": []}, r"\['arrays'\]: expected a list of 2"),
    ]
    for change, words in changes:
        with pytest.raises(ValueError, match=words):
            opt.load_state_dict({**opt.state_dict(), **change})
    saved = opt.state_dict()
    saved["arrays"][1]["state"] = {"unknown": np.ones(3)}
    with pytest.raises(ValueError, match=r"state of params\['b'\]: expected the arrays"):
        opt.load_state_dict(saved)
    assert bytes_of(opt) == before


@each_wrapper
def test_an_option_that_was_not_saved_has_its_default(wrapper: Any) -> None:
    opt, default = fo.SAM(made(wrapper)), wrapper(fo.SGD(np.ones(2)))
    step(opt, 0)
    saved = opt.state_dict()
    saved["inner"]["options"].clear()
    opt.load_state_dict(saved)
    for name in wrapper.options:
        assert getattr(opt.optimizer, name) == getattr(default, name)


@each_wrapper
def test_a_misspelled_option_is_no_new_attribute(wrapper: Any) -> None:
    opt = made(wrapper)
    name = max(wrapper.options, key=len)
    with pytest.raises(AttributeError, match=f"not an attribute of {wrapper.__name__}; did you mean '{name}'"):
        setattr(opt, name + "_", 0)
    opt.epoch = 1


def test_lookahead_counts_from_a_reset_of_the_optimizer_inside() -> None:
    opt = made(fo.Lookahead)
    for t in range(4):
        step(opt, t)
    opt.optimizer.zero_state()
    step(opt, 0)
    step(opt, 1)
    assert opt.synchronized_at == 2


@each_wrapper
def test_attributes_and_groups_are_the_optimizer_s(wrapper: Any) -> None:
    opt = made(wrapper, skip_nonfinite=True)
    opt.lr = 0.25
    assert opt.optimizer.param_groups[0]["lr"] == 0.25 == opt.lr
    assert step(opt, 0) is True
    assert (opt.step_count, opt.optimizer.step_count) == (1, 1)
    with pytest.raises(AttributeError, match="did you mean"):
        opt.weight_decy = 1
    with pytest.raises(AttributeError, match="param_group"):
        _ = opt.param_group
    p = np.ones(2, np.float32)
    opt.add_param_group({"params": p})
    for t in range(3):
        opt.step([{"w": numbers(t), "b": numbers(t, shape=(3,))}, np.ones(2, np.float32)])
    assert (p < 1).all()
    assert [entry["place"] for entry in opt.state_dict()["arrays"]] == ["[0]['w']", "[0]['b']", "[1]"]


@each_wrapper
@loop("nested", [False, True])
def test_remap_moves_the_rows_of_the_method(wrapper: Any, nested: bool) -> None:
    """Rows that only change places continue as before."""
    order = np.array([3, 0, 4, 1, 2])
    opt, other = made(wrapper), made(wrapper)
    outer = [fo.SAM(each) if nested and wrapper is not fo.SAM else each for each in (opt, other)]
    for each in outer:
        step(each, 0)
        step(each, 1)
    outer[0].remap({"w": other.params["w"][order]}, source={"w": order})
    assert outer[0].state_dict()["arrays"][0]["shape"] == [5, 8]
    for t in range(2, 5):
        grads = {"w": numbers(t), "b": numbers(t, shape=(3,))}
        outer[0].step({**grads, "w": grads["w"][order]})
        outer[1].step(grads)
        assert_same_bits(opt.params["w"], other.params["w"][order])
        for mine, expected in zip(opt.own_states, other.own_states, strict=True):
            for name, array in expected.state.items():
                assert_same_bits(mine.state[name], array[order] if mine.place == "['w']" else array)
    outer[0].remap({"w": np.ones((2, 8), np.float32)}, source={"w": np.array([0, -1])})
    outer[0].step({"w": np.ones((2, 8), np.float32), "b": None})
    assert outer[0].state_dict()["arrays"][0]["shape"] == [2, 8]


def test_lookahead_pulls_new_rows_to_their_first_values() -> None:
    params = {"e": np.ones((4, 2))}
    opt = fo.Lookahead(fo.SGD(params, lr=1.0), k=1)
    opt.remap({"e": np.full((6, 2), 10.0)}, source={"e": np.array([0, 1, 2, 3, -1, -1])})
    opt.step({"e": np.ones((6, 2))})
    assert params["e"][:, 0].tolist() == [5, 5, 5, 5, 9.5, 9.5]


@each_wrapper
def test_changes_of_the_optimizer_inside(wrapper: Any) -> None:
    opt = made(wrapper)
    p = np.ones(2, np.float32)
    opt.optimizer.add_param_group({"params": p})
    copy.deepcopy(opt)
    grads = [{"w": numbers(0), "b": numbers(1, shape=(3,))}, np.ones(2, np.float32)]
    for _ in range(2):
        opt.step(grads)
    saved = opt.state_dict()["arrays"]
    assert [list(entry["state"]) for entry in saved] == [list(saved[0]["state"])] * 3
    opt.optimizer.remap([None, np.ones(3, np.float32)], source=[None, np.array([0, 1, 1])])
    with pytest.raises(RuntimeError, match=rf"params\[1\].*: expected .* call remap of the {wrapper.__name__}"):
        opt.step([grads[0], np.ones(3, np.float32)])


@each_wrapper
def test_arrays_without_axes(wrapper: Any) -> None:
    p = np.ones(())
    opt = wrapper(fo.SGD(p), **WRAPPERS[wrapper])
    for _ in range(3):
        if wrapper is fo.SAM:
            with opt.ascent(np.ones(())):
                pass
        opt.step(np.ones(()))
        opt.load_state_dict(opt.state_dict())


@each_wrapper
def test_zero_state_continues_as_a_new_one(wrapper: Any) -> None:
    opt, new = made(wrapper), made(wrapper)
    for t in range(3):
        step(opt, t)
    opt.zero_state()
    new = wrapper(fo.Adam({k: p.copy() for k, p in opt.params.items()}, lr=0.05), **WRAPPERS[wrapper])
    for t in range(3):
        step(opt, t)
        step(new, t)
        assert bytes_of(opt) == bytes_of(new)


@each_wrapper
def test_a_skipped_step_changes_nothing(wrapper: Any) -> None:
    opt = made(wrapper, skip_nonfinite=True)
    bad = {"w": numbers(0), "b": np.array([0, np.nan, 0], np.float32)}
    for t in range(3):
        step(opt, t)
        before = bytes_of(opt)
        assert opt.step(bad) is False
        assert bytes_of(opt) == before


@each_wrapper
def test_errors_name_the_place(wrapper: Any) -> None:
    opt = made(wrapper)
    for grads, error, words in (
        ({"w": numbers(0), "b": np.ones(4)}, ValueError, r"grads\['b'\]: expected shape"),
        ({"w": numbers(0)}, TypeError, "grads: expected the keys"),
    ):
        for call in [opt.step, *([lambda g: opt.ascent(g).__enter__()] if wrapper is fo.SAM else [])]:
            before = bytes_of(opt)
            with pytest.raises(error, match=words):
                call(grads)
            assert bytes_of(opt) == before
    for wrong in (np.ones(3), fo.Adam, None):
        with pytest.raises(TypeError, match="optimizer: expected an optimizer of fastoptim"):
            wrapper(wrong)
    name = next(iter(opt.options))
    with pytest.raises(ValueError, match=f"{name}: expected"):
        setattr(opt, name, -1)


def test_wrappers_wrap_each_other() -> None:
    opt = fo.Lookahead(fo.SAM(fo.GrokFast(fo.Mixed([{"params": np.ones(3), "optimizer": fo.SGD}]))), k=1)
    with opt.ascent([np.ones(3)]):
        pass
    opt.step([np.ones(3)])
    assert repr(opt).startswith("<Lookahead of <SAM of <GrokFast of <Mixed of 1 arrays")
    opt.load_state_dict(opt.state_dict())


def test_grokfast_has_no_sums() -> None:
    opt = fo.Lookahead(made(fo.GrokFast))
    for call in (lambda: opt.accumulate({"w": numbers(0), "b": None}), opt.step):
        with pytest.raises(TypeError, match="GrokFast"):
            call()
