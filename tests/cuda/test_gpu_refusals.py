"""Rejected arrays in a GPU's memory, before anything is written, and machines without CUDA."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cupy_on_host
import fastoptim as fo
import fastoptim.core
from cases import BFLOAT16, FLOAT32, FLOAT64, Array
from devices import IS_EMULATED, each_kind, get, put, with_device
from loops import loop
from models import OPTIMIZERS, WIDEST, FakeCuda, leaves, without_cuda

Refusal = type[Exception]


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


class Shown:
    """An array that nobody made, which speaks the interface."""

    def __init__(self, array: Any, **changed: Any) -> None:
        self.array = array  # kept alive
        interface = dict(array.__cuda_array_interface__)
        interface.update(changed)
        self.__cuda_array_interface__ = {k: v for k, v in interface.items() if v is not ...}


class Model:
    """An optimizer in the middle of its work, of which every byte is watched."""

    def __init__(self, xp: Any, optimizer: type[fo.Optimizer]) -> None:
        self.xp = xp
        self.memory = put(xp, np.arange(64, dtype=np.float32))
        self.params = {"w0": put(xp, ones(3, 4)), "w1": self.memory[8:14].reshape(2, 3)}
        self.grads = {"w0": put(xp, ones(3, 4)), "w1": put(xp, ones(2, 3))}
        self.opt: Any = WIDEST[optimizer].optimize(self.params)
        self.opt.step(self.grads)

    def everything(self) -> list[Any]:
        state = [array for entry in leaves(self.opt.state) for array in entry.values()]
        arrays = [self.memory, *self.params.values(), *self.grads.values(), *state]
        return [get(self.xp, array).tobytes() for array in arrays] + [self.opt.step_count]

    def refuses(self, error: Refusal, *words: str, **changed: Any) -> None:
        before = self.everything()
        with pytest.raises(error) as caught:
            self.opt.step({**self.grads, **changed})
        assert caught.type is error
        assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
        assert self.everything() == before


def bad_gradients(xp: Any, model: Model) -> list[tuple[Any, Refusal, list[str]]]:
    fits = put(xp, ones(2, 3))
    return [
        (1.0, TypeError, ["got float"]),
        (object(), TypeError, ["got object"]),
        (ones(2, 3), ValueError, ["expected an array on CUDA device 0 as the parameter", "got one on the CPU"]),
        (np.float32(1), ValueError, ["got one on the CPU"]),
        *(
            (put(xp, ones(*shape)), ValueError, ["expected shape (2, 3)", f"got {shape}"])
            for shape in [(3, 2), (6,), ()]
        ),
        *((put(xp, np.ones((2, 3), kind)), TypeError, ["expected dtype float64", kind]) for kind in ("int32", "uint8")),
        (put(xp, np.ones((2, 3), np.complex64)), TypeError, ["complex64"]),
        (Shown(fits, typestr=">f4"), TypeError, [">f4"]),
        (Shown(fits, typestr="<f9"), TypeError, ["__cuda_array_interface__"]),
        (Shown(fits, data=...), TypeError, ["__cuda_array_interface__"]),
        (Shown(fits, mask=fits), TypeError, ["without a mask"]),
        (Shown(fits, data=(fits.data.ptr + 2, False)), ValueError, ["multiples of their 4 bytes"]),
        (model.params["w1"], ValueError, ["overlaps params['w1']"]),
        (model.memory[3:9].reshape(2, 3), ValueError, ["overlaps params['w1']"]),
        (model.memory[13:19].reshape(2, 3), ValueError, ["overlaps params['w1']"]),
        (model.memory[0:48].reshape(2, 24)[:, 0:24:8], ValueError, ["overlaps params['w1']"]),
        (model.params["w0"].reshape(-1)[6:].reshape(2, 3), ValueError, ["overlaps params['w0']"]),
    ]


@with_device
@each_kind
def test_gradients(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    model = Model(xp, optimizer)
    for _ in range(2):  # the second time after a step that took everything as it is
        for grad, error, words in bad_gradients(xp, model):
            model.refuses(error, "grads['w1']: ", *words, w1=grad)
        model.opt.step(model.grads)


@with_device
def test_a_gradient_over_the_state(xp: Any) -> None:
    model = Model(xp, fo.Adam)
    for name in ("m", "v"):
        model.refuses(ValueError, "grads['w1']: overlaps state['w1']", w1=model.opt.state["w1"][name])


@with_device
def test_gradients_beside_what_is_written_or_over_each_other(xp: Any) -> None:
    model = Model(xp, fo.Adam)
    for grad in (model.memory[2:8], model.memory[14:20], model.grads["w0"].reshape(-1)[:6]):
        model.opt.step({**model.grads, "w1": grad.reshape(2, 3)})
    assert model.opt.step_count == 4


@with_device
def test_gradients_of_anybody_s(xp: Any) -> None:
    """With or without strides, in versions 2 and 3, and with a pointer of 0 where there are no elements."""
    p, g = np.arange(6, dtype=np.float32).reshape(2, 3), ones(2, 3) * np.float32(0.3)
    there: Any = fo.Adam([put(xp, p), put(xp, ones(0))])
    here = fo.Adam([p.copy(), ones(0)])
    grad = put(xp, g)
    empty = Shown(put(xp, ones(0)), data=(0, False))
    for shown in (
        Shown(grad),
        Shown(grad, version=2, strides=None),
        Shown(grad, strides=(12, 4), stream=1),
        Shown(grad, strides=...),
        Shown(grad, data=(grad.data.ptr, True)),
    ):
        there.step([shown, empty])
        here.step([g, ones(0)])
        assert get(xp, there.params[0]).tobytes() == here.params[0].tobytes()


@with_device
def test_other_streams_are_waited_for(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each, those that the interfaces of gradients or of anybody's buffers name."""
    waits: list[tuple[int, ...]] = []
    wait = fastoptim.core.cuda_wait

    def spy(*arguments: int) -> None:
        waits.append(arguments)
        wait(*arguments)

    monkeypatch.setattr(fastoptim.core, "cuda_wait", spy)
    own, other = (xp.cuda.Stream(non_blocking=True) for _ in range(2))

    def shown(stream: Any) -> Any:
        return Shown(put(xp, ones(3)), stream=stream)

    with own:
        opt: Any = fo.SGD([put(xp, ones(3)) for _ in range(2)])
        opt.step([shown(other.ptr), shown(other.ptr)])
        assert waits == [(0, own.ptr, other.ptr)]
        opt.step([shown(None), shown(own.ptr)])
        opt.step([put(xp, ones(3)), shown(...)])
        assert len(waits) == 1
        fo.functional.sgd(shown(other.ptr), shown(own.ptr), step=1)  # on the stream of p
        assert waits[1:] == [(0, other.ptr, own.ptr)]
        own.synchronize()
        other.synchronize()


@with_device
def test_a_bfloat16_gradient_of_anybody_s(xp: Any) -> None:
    """Its typestr says no more than two bytes; its dtype says which."""
    g = np.arange(6).astype(BFLOAT16)
    there, here = fo.SGD(put(xp, ones(6))), fo.SGD(ones(6))
    grad: Any = Shown(put(xp, g), typestr="|V2")
    with pytest.raises(TypeError, match="expected dtype"):
        there.step(grad)
    grad.dtype = BFLOAT16
    there.step(grad)
    here.step(g)
    assert get(xp, there.params).tobytes() == here.params.tobytes()


def bad_parameters(xp: Any) -> list[tuple[Any, Refusal, list[str]]]:
    fits = put(xp, ones(4, 6))
    return [
        (ones(3), ValueError, ["params['b']: expected an array of CuPy as params['a']", "got one of NumPy"]),
        (Shown(fits, data=(fits.data.ptr, True)), ValueError, ["params['b']: expected a writeable array"]),
        (fits[:, ::2], ValueError, ["params['b']: expected a dense array"]),
        (fits[::-1], ValueError, ["params['b']: expected a dense array"]),
        (put(xp, np.ones(3, np.int64)), TypeError, ["params['b']: expected dtype", "int64"]),
        (Shown(fits), TypeError, ["params['b']: expected CuPy arrays or PyTorch tensors", "cupy.asarray"]),
        (1.0, TypeError, ["params['b']: expected a NumPy array, got float"]),
    ]


@with_device
def test_parameters(xp: Any) -> None:
    for thing, error, words in bad_parameters(xp):
        with pytest.raises(error) as caught:
            fo.Adam({"a": put(xp, ones(3)), "b": thing})
        assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


@with_device
def test_parameters_that_overlap(xp: Any) -> None:
    memory = put(xp, ones(20))
    for first, second, how in (
        (memory[:10], memory[:10], "params[1]: is the same memory as params[0]"),
        (memory[:10], memory[9:], "params[1]: overlaps params[0]"),
        (memory[9:], memory[:10], "params[0]: overlaps params[1]"),
    ):
        with pytest.raises(ValueError, match=r"params\[") as caught:
            fo.SGD([first, second])
        assert how in str(caught.value)
    with pytest.raises(ValueError, match="is the same memory as"):
        fo.SGD([memory, memory])
    fo.SGD([memory[:10], memory[10:]])


@with_device
def test_a_parameter_of_numpy_and_a_gradient_on_a_device(xp: Any) -> None:
    opt = fo.SGD({"w": ones(3)})
    for grad in (put(xp, ones(3)), Shown(put(xp, ones(3)))):
        with pytest.raises(ValueError, match=r"^grads\['w'\]: expected an array on the CPU .* on CUDA device 0"):
            opt.step({"w": grad})


@with_device
@each_kind
def test_the_reference_computes_on_numpy_arrays(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    with pytest.raises(ValueError, match=r"^params\['w'\]: expected a NumPy array, as the reference computes"):
        optimizer({"w": put(xp, ones(3))}, backend="reference")
    with pytest.raises(ValueError, match=r"^p: expected a NumPy array, as the reference computes"):
        fo.reference.sgd(put(xp, ones(3)), put(xp, ones(3)), step=1)


@with_device
def test_functions(xp: Any) -> None:
    p, g, m, v = (put(xp, ones(2, 3)) for _ in range(4))
    for arrays, error, words in (
        (
            (p, g, m, ones(2, 3)),
            ValueError,
            "v: expected an array on CUDA device 0 as the parameter, got",
        ),
        ((ones(2, 3), ones(2, 3), m, v), ValueError, "m: expected an array on the CPU"),
        ((p, g, m, m), ValueError, "state['v']: is the same memory as state['m']"),
        ((p, p, m, v), ValueError, "g: overlaps p"),
        ((p, g, m, put(xp, ones(3, 2))), ValueError, "v: expected shape (2, 3)"),
        ((p, g, m, put(xp, np.ones((2, 3)))), TypeError, "v: expected float32"),
        ((p, g, m, put(xp, np.asfortranarray(ones(2, 3)))), ValueError, "v: expected the parameter's memory order"),
        ((Shown(p, data=(p.data.ptr, True)), g, m, v), ValueError, "p: expected a writeable array"),
        ((p, None, m, v), TypeError, "g: expected"),
    ):
        with pytest.raises(error) as caught:
            fo.functional.adam(*arrays, step=1)
        assert words in str(caught.value)
        assert [get(xp, array).tolist() for array in (p, g, m, v)] == [ones(2, 3).tolist()] * 4


@with_device
def test_functions_on_anybody_s_arrays(xp: Any) -> None:
    arrays = [put(xp, ones(5)) for _ in range(4)]
    fo.functional.adam(*map(Shown, arrays), step=1)
    wanted = [ones(5) for _ in range(4)]
    fo.functional.adam(*wanted, step=1)
    assert [get(xp, array).tobytes() for array in arrays] == [array.tobytes() for array in wanted]


@with_device
def test_norms(xp: Any) -> None:
    with pytest.raises(ValueError, match=r"^arrays\[1\]: expected a CUDA array as its neighbors, got a NumPy array"):
        fo.global_norm([put(xp, ones(3)), ones(3)])
    with pytest.raises(TypeError, match=r"^arrays\['a'\]: expected dtype"):
        fo.global_norm({"a": put(xp, np.ones(3, np.int32))})


@with_device
@loop("name", ["rowwise_adagrad", "rowwise_adam"])
def test_state_of_rows_needs_c_order_for_more_than_four_axes(xp: Any, name: str) -> None:
    cls, p = fo.OPTIMIZERS[name], put(xp, np.asfortranarray(ones(2, 3, 2, 3, 2)))
    message = f"expected C order for more than 4 axes, as {cls.__name__} has numbers of its rows, got strides"
    with pytest.raises(ValueError, match=rf"^params\['w'\]: {message}"):
        cls({"w": p})
    state = [put(xp, ones(2)) if cls.state_schema[own].is_of_rows else p.copy(order="K") for own in cls.state]
    with pytest.raises(ValueError, match=f"^p: {message}"):
        getattr(fo.functional, name)(p, p.copy(order="K"), *state, step=1)
    assert (get(xp, p) == 1).all()


# ---- where CUDA cannot be used

ANYBODY_S: list[Callable[[], Any]] = [FakeCuda, lambda: cupy_on_host.asarray(ones(2, 3))]


@without_cuda
@loop("optimizer", OPTIMIZERS)
@loop("make", ANYBODY_S)
def test_the_error_says_why(optimizer: type[fo.Optimizer], make: Callable[[], Any]) -> None:
    why = fastoptim.core.cuda_status()
    assert why
    kind = type(make()).__name__
    with pytest.raises(RuntimeError) as caught:
        optimizer({"w": make()})
    assert str(caught.value).startswith("params['w']: got a CUDA array (")
    assert f"{kind}), but {why}; expected a NumPy array" in str(caught.value)


def test_nothing_imports_cupy_or_torch() -> None:
    """Not even steps, checkpoints and refusals."""
    code = """
import sys, numpy as np, fastoptim as fo
opt = fo.Adam([np.ones(3)])
opt.step([np.ones(3)])
opt.load_state_dict(opt.state_dict())
try:
    opt.step([object()])
except TypeError:
    pass
assert not {"cupy", "torch", "numba", "ml_dtypes"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not IS_EMULATED, reason="needs a build with FASTOPTIM_CUDA=EMULATED")
def test_a_machine_without_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPTIM_EMULATED_DEVICES", "0")
    with pytest.raises(RuntimeError, match=r"^params: got a CUDA array .*, but no CUDA device was found; expected"):
        fo.Adam(cupy_on_host.asarray(np.ones(3, FLOAT32)))
    p = np.ones(3, FLOAT64)
    fo.SGD(p, lr=1.0).step(np.ones(3))
    assert p.tolist() == [0.0] * 3
