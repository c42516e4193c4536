"""The option `state_format`: what is compressed, how it is shown, saved, converted and refused."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, FLOAT32, Array, assert_same_bits, ordinary_values
from loops import loop

FORMATS = ("native", "bfloat16", "int8")
COMPRESSED = FORMATS[1:]
each_format = loop("state_format", COMPRESSED)


def values(seed: int, *shape: int, dtype: Any = FLOAT32) -> Array:
    return ordinary_values(np.random.default_rng(seed), np.dtype(dtype), int(np.prod(shape))).reshape(shape)


def params() -> dict[str, Array]:
    return {"w": values(0, 100, 64), "b": values(1, 64)}


def grads(seed: int) -> dict[str, Array]:
    return {"w": values(seed, 100, 64), "b": values(seed + 1, 64)}


def stepped(state_format: Any, steps: int = 3, **options: Any) -> Any:
    opt = fo.AdamW(params(), lr=0.01, state_format=state_format, **options)
    for t in range(steps):
        opt.step(grads(10 * t + 10))
    return opt


def arrays_of(opt: Any) -> list[Array]:
    """Return all parameters and state arrays, in an order that does not depend on how they came about."""
    return [array for param in opt.param_states for _, array in [("", param.p), *sorted(param.state.items())]]


def assert_same(opt: Any, other: Any) -> None:
    for array, want in zip(arrays_of(opt), arrays_of(other), strict=True):
        assert_same_bits(array, want)


# ---- what is kept


def test_large_arrays_have_codes_and_scales() -> None:
    opt = stepped("int8")
    m, v = opt.state["w"]["m"], opt.state["w"]["v"]
    assert list(m) == list(v) == ["codes", "scales"]
    assert (m["codes"].dtype, v["codes"].dtype) == (np.int8, np.uint8)
    assert m["codes"].shape == v["codes"].shape == (100, 64)
    assert m["scales"].dtype == v["scales"].dtype == np.float32
    assert m["scales"].shape == v["scales"].shape == (100,)
    assert opt.state["b"]["m"].dtype == np.float32  # fewer than 4096 elements
    assert opt.state_nbytes == 2 * (6400 + 400) + 2 * 256
    assert stepped("int8", int8_min_size=64).state_nbytes == 2 * (6400 + 400 + 64 + 4)
    assert stepped("int8", int8_min_size=6401).state_nbytes == stepped("native").state_nbytes == 2 * 4 * 6464


def test_bfloat16_state_has_half_of_the_bytes() -> None:
    opt = stepped("bfloat16")
    assert all(array.dtype == ml_dtypes.bfloat16 for own in opt.state.values() for array in own.values())
    assert 2 * opt.state_nbytes == stepped("native").state_nbytes


@each_format
def test_state_values_are_decoded_copies(state_format: Any) -> None:
    opt, native = stepped(state_format), stepped("native")
    found, near = opt.state_values(), native.state_values()
    assert found.keys() == opt.state.keys()
    for key, own in found.items():
        assert own.keys() == opt.state[key].keys()
        for name, array in own.items():
            assert array.dtype == np.float32
            assert not np.shares_memory(array, native.state[key][name])
            assert np.abs(array - near[key][name]).mean() < 0.02 * np.abs(near[key][name]).mean()
    assert_same_bits(near["w"]["m"], native.state["w"]["m"])


def test_state_is_live() -> None:
    opt = stepped("int8")
    opt.state["w"]["m"]["scales"][...] = 0
    assert not opt.state_values()["w"]["m"].any()


def test_memory_of_seven_bytes() -> None:
    """A bfloat16 parameter with 24 bits and codes of 8 bits: 2 + 1 + 2*(1 + 4/64)."""
    opt = fo.AdamW(np.zeros((64, 64), BFLOAT16), state_format="int8", master_weight_bits=24)
    opt.step(np.ones((64, 64), BFLOAT16))
    assert opt.state_nbytes + opt.params.nbytes == 4096 * 5 + 2 * 256


def test_arrays_that_cannot_be_compressed_stay_native() -> None:
    for name, kept in (("rprop", {"prev", "step_size"}), ("madgrad", {"s", "v", "x0"}), ("adam", set())):
        opt = fo.OPTIMIZERS[name](values(0, 4096), state_format="int8")
        assert {key for key, array in opt.state.items() if not isinstance(array, dict)} == kept
    amsgrad = fo.Adam(values(0, 4096), amsgrad=True, state_format="int8")
    assert [isinstance(array, dict) for array in amsgrad.state.values()] == [True, True, False]
    for centered in (False, True):
        opt = fo.RMSprop(values(0, 4096), centered=centered, state_format="int8")
        assert isinstance(opt.state["s"], dict) != centered


def test_initial_values_are_encoded() -> None:
    for options in ({"state_format": own} for own in COMPRESSED):
        opt = fo.Yogi(values(0, 4096), initial_accumulator_value=0.25, **options)  # type: ignore[arg-type]
        for _ in range(2):
            assert (opt.state_values()["v"] == 0.25).all()
            opt.step(values(1, 4096))
            opt.zero_state()


# ---- checkpoints and copies


@each_format
def test_all_ways_to_save_continue_with_the_same_bits(state_format: Any, tmp_path: Path) -> None:
    opt = stepped(state_format)
    path = tmp_path / "checkpoint"
    opt.save(path)
    twins = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for from_file in (False, True):
        new = stepped(state_format, steps=1)
        for p, q in zip(new.params.values(), opt.params.values(), strict=True):
            p[...] = q
        if from_file:
            new.load(path)
        else:
            new.load_state_dict(opt.state_dict())
        twins.append(new)
    for twin in twins:
        assert_same(twin, opt)
        twin.step(grads(50))
    opt.step(grads(50))
    for twin in twins:
        assert_same(twin, opt)


@each_format
def test_copies_keep_the_format_of_arrays_that_are_needed_later(state_format: Any) -> None:
    opt = fo.SGD(values(0, 4096), state_format=state_format)
    opt.step(values(1, 4096))
    for twin in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), copy.copy(opt)):
        twin.momentum = 0.9
        twin.step(values(2, 4096))
        assert isinstance(twin.state["b"], dict) == (state_format == "int8")
        assert twin.state_nbytes == opt.state_nbytes


@loop(("saved", "own"), [(a, b) for a in FORMATS for b in FORMATS if a != b])
def test_another_format_is_converted_only_if_asked(saved: str, own: str) -> None:
    source, target = stepped(saved), stepped(own, steps=1)
    before = [array.copy() for array in arrays_of(target)]
    with pytest.raises(ValueError, match=f"state_format: expected '{own}', got '{saved}'; .*convert=True"):
        target.load_state_dict(source.state_dict())
    for array, want in zip(arrays_of(target), before, strict=True):
        assert_same_bits(array, want)
    target.load_state_dict(source.state_dict(), convert=True)
    assert target.state_format == own
    assert target.step_count == 3
    found, want = target.state_values(), source.state_values()
    for key in want:
        for name in want[key]:
            assert np.abs(found[key][name] - want[key][name]).mean() < 0.01 * np.abs(want[key][name]).mean()
    if own == "native":
        assert_same_bits(found["w"]["v"], want["w"]["v"])
    target.step(grads(3))


def test_a_checkpoint_before_the_option_is_native() -> None:
    old = stepped("native").state_dict()
    for group in old["groups"]:
        del group["state_format"], group["int8_min_size"]
    stepped("native").load_state_dict(old)
    with pytest.raises(ValueError, match="state_format: expected 'int8', got 'native'"):
        stepped("int8").load_state_dict(old)


def test_another_least_size_is_converted_only_if_asked() -> None:
    source, target = stepped("int8", int8_min_size=64), stepped("int8")
    with pytest.raises(ValueError, match=r"state of params\['b'\]: expected 'm' in state_format 'native', got 'int8'"):
        target.load_state_dict(source.state_dict())
    target.load_state_dict(source.state_dict(), convert=True)
    assert_same_bits(target.state["b"]["m"], source.state_values()["b"]["m"])


def test_another_memory_order_is_converted_only_if_asked() -> None:
    source = fo.Adam(values(0, 96, 64), state_format="int8")
    source.step(values(1, 96, 64))
    target = fo.Adam(np.asfortranarray(source.params), state_format="int8")
    with pytest.raises(ValueError, match=r"in blocks along the axes \[1, 0\], .* got \[0, 1\]"):
        target.load_state_dict(source.state_dict())
    target.load_state_dict(source.state_dict(), convert=True)
    want = source.state_values()["m"]
    assert np.abs(target.state_values()["m"] - want).mean() < 0.02 * np.abs(want).mean()
    again = fo.Adam(np.asfortranarray(source.params), state_format="int8")
    again.load_state_dict(target.state_dict())
    assert_same(again, target)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("m", lambda array: array.astype(np.int16), "expected 'm' as int8"),
        ("m", lambda array: array[:1], "expected 'm' as int8 of shape"),
        ("m.scales", lambda array: array[1:], r"expected 'm.scales' as float32 of shape \(100,\)"),
        ("m.scales", lambda array: array.astype(np.float64), "expected 'm.scales' as float32"),
        ("v", lambda array: array.view(np.int8), "expected 'v' as uint8"),
        ("m.scales", lambda array: None, "expected"),
    ],
)
@loop("convert", [False, True])
def test_damaged_codes_are_rejected(name: str, change: Any, message: str, convert: bool) -> None:
    opt = stepped("int8")
    saved, before = opt.state_dict(), [array.copy() for array in arrays_of(opt)]
    state = saved["arrays"][0]["state"] if "w" in saved["arrays"][0]["place"] else saved["arrays"][1]["state"]
    state[name] = change(state[name])
    if convert and name == "m.scales" and state[name] is not None and state[name].dtype == np.float64:
        return  # converted
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(saved, convert=convert)
    for array, want in zip(arrays_of(opt), before, strict=True):
        assert_same_bits(array, want)


@each_format
@loop("saved_option", [False, True])
@loop("convert", [False, True])
def test_loaded_options_decide_which_arrays_are_compressed(
    state_format: Any, saved_option: bool, convert: bool
) -> None:
    """A centered RMSprop keeps native what another compresses."""
    source, target = (
        fo.RMSprop(values(0, 4096), centered=option, state_format=state_format, momentum=0.5)
        for option in (saved_option, not saved_option)
    )
    for seed in (1, 2):
        source.step(values(seed, 4096))
    target.params[...] = source.params
    target.load_state_dict(source.state_dict(), convert=convert)
    assert_same(target, source)
    twins = [copy.deepcopy(target), pickle.loads(pickle.dumps(target))]
    for opt in (source, target, *twins):
        opt.step(values(3, 4096))
    for opt in (target, *twins):
        assert_same(opt, source)
    target.centered = not saved_option
    with pytest.raises(ValueError, match="that change the format of 's'"):
        target.step(values(4, 4096))


def test_numbers_beyond_float32_are_not_converted() -> None:
    source, target = fo.Adam(np.ones(4096)), fo.Adam(np.ones(4096), state_format="int8")
    saved = source.state_dict()
    saved["arrays"][0]["state"]["m"][7] = 1e300
    with pytest.raises(ValueError, match="expected 'm' in the range of float32, got elements of float64"):
        target.load_state_dict(saved, convert=True)


# ---- other features


def test_negative_averages_of_squares_are_not_converted() -> None:
    source, target = fo.Adam(np.ones(8192, np.float32)), fo.Adam(np.ones(8192, np.float32), state_format="int8")
    source.step(np.ones(8192, np.float32))
    saved = source.state_dict()
    saved["arrays"][0]["state"]["m"][3] = -1  # which has a sign
    target.load_state_dict(saved, convert=True)
    before = target.state_dict()["arrays"][0]["state"]["v"].copy()
    saved["arrays"][0]["state"]["v"][5] = -0.25
    with pytest.raises(ValueError, match=r"expected 'v' without negative numbers, got -0\.25"):
        target.load_state_dict(saved, convert=True)
    assert_same_bits(target.state_dict()["arrays"][0]["state"]["v"], before)


@each_format
def test_the_lookahead_point_of_nag(state_format: Any) -> None:
    opt = fo.NAG(values(0, 4096), lr=0.1, state_format=state_format)
    opt.step(values(1, 4096))
    p, v = opt.params.copy(), opt.state_values()["v"]
    with opt.lookahead():
        assert_same_bits(opt.params, p + np.float32(0.9) * v)
    assert_same_bits(opt.params, p)


@each_format
def test_remap_keeps_the_state_of_rows(state_format: Any) -> None:
    opt = fo.Adam({"w": values(0, 100, 128)}, state_format=state_format)
    opt.step({"w": values(1, 100, 128)})
    before = opt.state_values()["w"]
    source = np.array([5, 5, -1, 99])
    opt.remap({"w": np.zeros((4, 128), np.float32)}, {"w": source})
    after = opt.state_values()["w"]
    for name, array in before.items():
        assert_same_bits(after[name][[0, 1, 3]], array[[5, 5, 99]])
        assert not after[name][2].any()
    twin = pickle.loads(pickle.dumps(opt))
    for one in (opt, twin):
        one.step({"w": values(2, 4, 128)})
    assert_same(twin, opt)


@loop("backend", ["native", "reference"])
@loop("optimizer", [fo.Adam, fo.Yogi])
def test_remap_past_the_least_size_takes_the_format_of_a_new_optimizer(optimizer: Any, backend: Any) -> None:
    """In both directions, also with rows that are no whole blocks."""
    options: dict[str, Any] = {"state_format": "int8", "backend": backend}
    for width in (64, 100):
        opt = optimizer({"w": values(0, 20, width)}, **options)
        opt.step({"w": values(1, 20, width)})
        for rows in (100, 99, 20) if width == 64 else (100,):
            source = np.arange(rows) % 20
            source[-1] = -1
            before = opt.state_values()["w"]
            opt.remap({"w": values(2, rows, width)}, {"w": source})
            fresh = optimizer({"w": values(2, rows, width)}, **options)
            initial = fresh.state_values()["w"]
            for name, array in opt.state_values()["w"].items():
                want = before[name][source]
                assert np.abs(array - want)[:-1].mean() < 0.02 * np.abs(want).mean()
                if width == 64:
                    assert_same_bits(array[-1], initial[name][-1])
            fresh.load_state_dict(opt.state_dict())
            for one in (opt, fresh):
                one.step({"w": values(3, rows, width)})
            assert_same(opt, fresh)


@each_format
def test_a_group_may_be_added_and_have_a_format_of_its_own(state_format: Any) -> None:
    opt = fo.Adam([{"params": values(0, 4096)}, {"params": values(1, 4096), "state_format": state_format}])
    opt.add_param_group({"params": values(2, 4096), "state_format": state_format})
    opt.step([values(3, 4096), values(4, 4096), values(5, 4096)])
    native, *others = (param.state["m"].dtype for param in opt.param_states)
    assert native == np.float32
    assert all(dtype.itemsize < 4 for dtype in others)


@each_format
def test_tensors_of_the_cpu_have_the_bits_of_arrays(torch: Any, state_format: Any) -> None:
    array = values(0, 70, 64)
    tensor = torch.from_numpy(array.copy())
    opt, twin = (fo.NAG(p, lr=0.1, state_format=state_format) for p in (tensor, array))
    for t in range(3):
        opt.step(torch.from_numpy(values(t, 70, 64)))
        twin.step(values(t, 70, 64))
    assert_same_bits(tensor.numpy(), array)
    assert isinstance(opt.state_values()["v"], torch.Tensor)
    assert_same_bits(opt.state_values()["v"].numpy(), twin.state_values()["v"])
    with opt.lookahead(), twin.lookahead():
        assert_same_bits(tensor.numpy(), array)
    twin.load_state_dict(opt.state_dict())
    opt.load_state_dict(twin.state_dict())
    assert opt.state_nbytes == twin.state_nbytes


# ---- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_format": "int4"}, "state_format: expected one of"),
        ({"state_format": None}, "state_format: expected one of"),
        ({"int8_min_size": -1}, "int8_min_size: expected an integer >= 0"),
    ],
)
def test_unknown_values_are_rejected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fo.Adam(values(0, 4096), **options)


@loop("backend", ["native", "reference"])
@loop("state_format", FORMATS)
def test_what_is_put_into_the_shown_state_does_not_hide_the_live_one(backend: Any, state_format: Any) -> None:
    opt = fo.Adam({"w": np.zeros((64, 64), np.float32)}, state_format=state_format, backend=backend)
    opt.step({"w": np.ones((64, 64), np.float32)})
    shown = opt.state["w"]
    shown["m"] = None
    if state_format == "int8":
        shown["v"]["codes"] = shown["v"]["scales"] = None
        del shown["v"]["scales"]
    opt.step({"w": np.ones((64, 64), np.float32)})
    live = opt.state["w"]
    for name, values in opt.state_values()["w"].items():
        stored = live[name]
        found = stored["scales"] * np.sign(stored["codes"][0, 0]) if state_format == "int8" else stored
        assert np.allclose(np.unique(found.astype(np.float32)), np.unique(values))


def test_the_format_cannot_be_assigned() -> None:
    opt = stepped("int8")
    for name, value in (("state_format", "native"), ("int8_min_size", 1)):
        before = opt.param_groups[0][name]
        opt.param_groups[0][name] = value
        with pytest.raises(ValueError, match=f"{name}: expected .* as the optimizer was made"):
            opt.step(grads(1))
        opt.param_groups[0][name] = before
    opt.step(grads(1))
    rms = fo.RMSprop(values(0, 4096), state_format="int8")
    rms.centered = True
    with pytest.raises(ValueError, match=r"state_format: expected 'native', as options .* change the format of 's'"):
        rms.step(values(1, 4096))


@loop("backend", ["native", "reference"])
def test_rows_that_are_not_whole_blocks_are_rejected(backend: Any) -> None:
    message = "expected rows of a multiple of 64 elements, as {}.*got 63; state_format='bfloat16' takes any rows"
    options: dict[str, Any] = {"state_format": "int8", "backend": backend}
    opt = fo.Adam({"w": values(0, 100, 63)}, **options)
    before = [array.copy() for array in arrays_of(opt)]
    for _ in range(2):
        with pytest.raises(ValueError, match=message.format("its gradient is Rows")):
            opt.step({"w": fo.Rows(np.array([1]), values(1, 1, 63))})
        for array, want in zip(arrays_of(opt), before, strict=True):
            assert_same_bits(array, want)
        opt.step({"w": values(1, 100, 63)})
        before = [array.copy() for array in arrays_of(opt)]
    with pytest.raises(ValueError, match=message.format("row_steps counts its rows")):
        fo.Adam(values(0, 100, 63), row_steps=True, **options)
    with pytest.raises(ValueError, match=message.format("remap moves its rows")):
        opt.remap({"w": values(0, 1, 63)}, {"w": np.array([1])})
    opt.row_steps = True
    with pytest.raises(ValueError, match=message.format("row_steps counts its rows")):
        opt.step({"w": values(1, 100, 63)})


@loop("backend", ["native", "reference"])
def test_rows_cut_no_blocks_of_state_that_the_options_do_not_use(backend: Any) -> None:
    options: dict[str, Any] = {"lr": 1.0, "momentum": 0.0, "state_format": "int8", "int8_min_size": 0}
    opt = fo.SGD({"w": np.zeros((3, 63), np.float32)}, backend=backend, **options)
    rows = fo.Rows(np.array([1]), np.ones((1, 63), np.float32))
    opt.step({"w": rows})
    opt.remap({"w": np.array(opt.params["w"][[1, 1]])}, {"w": np.array([1, 1])})
    opt.row_steps = True
    opt.step({"w": fo.Rows(np.array([1]), np.ones((1, 63), np.float32))})
    assert opt.params["w"][:, 0].tolist() == [-1, -2]
    opt.momentum = 0.9
    with pytest.raises(ValueError, match="expected rows of a multiple of 64 elements, as row_steps counts its rows"):
        opt.step({"w": rows})


@loop("backend", ["native", "reference"])
def test_the_first_of_several_wrong_gradients_is_named(backend: Any) -> None:
    params = {name: values(0, 100, 63) for name in "ab"}
    opt = fo.Adam(params, state_format="int8", backend=backend)
    wrong = {"a": fo.Rows(np.array([1]), values(1, 1, 63)), "b": values(1, 63)}
    with pytest.raises(ValueError, match=r"params\['a'\]: expected rows of a multiple of 64"):
        opt.step(wrong)


def test_functions_take_native_state() -> None:
    p, m, v = (values(i, 64) for i in range(3))
    for module in (fo.functional, fo.reference):
        with pytest.raises(ValueError, match="state_format: expected 'native' in a function, got 'int8'"):
            module.adam(p, p.copy(), m, v, step=1, state_format="int8")


# ---- memory

RESIDENT = """
import re
import ml_dtypes, numpy as np
import fastoptim as fo

def peak():  # of this program alone: resource.getrusage includes the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

COUNT, ones = 10**8, np.ones(1, ml_dtypes.bfloat16).view(np.int16)[0]
warm, *_ = [np.zeros(10**6, ml_dtypes.bfloat16) for _ in range(2)]
fo.AdamW(warm, state_format="int8", master_weight_bits=24).step(warm.copy())
before = peak()
p, g = np.empty(COUNT, ml_dtypes.bfloat16), np.empty(COUNT, ml_dtypes.bfloat16)
p.view(np.int16)[...] = g.view(np.int16)[...] = ones
opt = fo.AdamW(p, state_format="int8", master_weight_bits=24)
for _ in range(2):
    opt.step(g)
print((opt.state_nbytes + p.nbytes + g.nbytes) / COUNT, (peak() - before) / COUNT)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the resident memory is Linux's")
def test_the_resident_memory_of_seven_bytes() -> None:
    """Parameter, gradient, 8 more bits and both moments, in memory that the process has in fact."""
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    counted, resident = map(float, done.stdout.split())
    assert counted == pytest.approx(7.125, rel=1e-6)
    assert 6.8 < resident < 7.3  # the process may use memory that it had before
