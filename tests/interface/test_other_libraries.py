"""Arrays of the CPU that other libraries export: stepped in place without a copy, with NumPy's bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
from cases import Array, assert_same_bits
from loops import loop
from models import Backend, each_backend
from optional import optional


class ByInterface:
    """A library's array that has the array interface."""

    def __init__(self, array: Array) -> None:
        self.array, self.dtype = array, array.dtype

    @property
    def __array_interface__(self) -> Any:
        return self.array.__array_interface__


class ByDLPack:
    """A library's array that has DLPack's methods."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


each_export = loop("export", [ByInterface, ByDLPack])


def values() -> dict[str, Array]:
    return {
        "w": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "b": np.array(2.0),
        "e": np.zeros((0, 2), np.float16),
    }


@each_backend
@each_export
@loop("name", fo.OPTIMIZERS)
def test_a_step_has_numpy_s_bits(name: str, export: Any, backend: Backend) -> None:
    memory, expected = values(), values()
    params = {key: export(p) for key, p in memory.items()}
    ours, theirs = (fo.OPTIMIZERS[name](p, backend=backend) for p in (params, expected))
    for step in range(1, 4):
        grads = {key: np.asarray(np.cos(p + step), p.dtype) for key, p in values().items()}
        ours.step({key: export(g.copy(order="C")) for key, g in grads.items()})
        theirs.step(grads)
    for key, wanted in expected.items():
        assert_same_bits(memory[key], wanted)
        for array, state in zip(ours.state[key].values(), theirs.state[key].values(), strict=True):
            assert_same_bits(array, state)


def test_bfloat16_of_the_array_interface() -> None:
    p, q = (np.ones(3, ml_dtypes.bfloat16) for _ in range(2))
    fo.SGD(ByInterface(p), lr=0.5).step(ByInterface(p.copy()))
    fo.SGD(q, lr=0.5).step(q.copy())
    assert_same_bits(p, q)


@each_export
def test_averages_copies_and_norms(export: Any) -> None:
    p = np.ones(3)
    opt = fo.SGD([export(p)], lr=0.5, ema=0.5, weight_decay=0.1)
    opt.step([export(np.ones(3))])
    with opt.averaged():
        assert_same_bits(p, opt.state[0]["average"])
    assert not np.array_equal(p, opt.state[0]["average"])
    opt.load_state_dict(opt.state_dict())
    assert fo.global_norm([export(np.array([3.0])), np.array([4.0])]) == 5


@each_export
def test_what_is_rejected(export: Any) -> None:
    locked, p = np.ones(3), np.ones(3)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match=r"^params: expected a writeable array"):
        fo.SGD(export(locked))
    fo.SGD(p.copy()).step(export(locked))  # a gradient is only read
    for grad, error, match in (
        (p, ValueError, "overlaps params"),
        (np.ones(4), ValueError, "expected shape"),
        (np.ones(3, int), TypeError, "expected dtype"),
    ):
        with pytest.raises(error, match=match):
            fo.SGD(export(p)).step(export(grad))
    with pytest.raises(ValueError, match=r"^params\[1\]: expected an array of another library as params\[0\]"):
        fo.SGD([export(p), np.ones(3)])


def test_what_numpy_cannot_view() -> None:
    class Broken(ByDLPack):
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("not now")

    with pytest.raises(TypeError, match=r"^params: expected an array that NumPy can view.*Broken: not now"):
        fo.SGD(Broken(np.ones(3)))


@each_backend
def test_an_array_without_memory_is_named(backend: Backend) -> None:
    class Nowhere:
        def __dlpack__(self) -> Any: ...

        def __dlpack_device__(self) -> tuple[int, int]:
            raise ValueError("Unknown device type meta for Dlpack")  # as PyTorch does

    opt = fo.SGD({"w": np.zeros(3)}, backend=backend)
    with pytest.raises(TypeError, match=r"grads\['w'\]: expected a NumPy array, got .*Nowhere"):
        opt.step({"w": Nowhere()})
    with pytest.raises(TypeError, match=r"arrays\[0\]: expected a NumPy array"):
        fo.global_norm([Nowhere()])


def test_immutable_arrays() -> None:
    """They are gradients, and the error for parameters says what to do."""
    jax = optional("jax")
    p = np.ones(3, np.float32)
    fo.SGD(p, lr=0.5).step(jax.numpy.ones(3))
    assert p.tolist() == [0.5] * 3
    with pytest.raises(ValueError, match=r"^params: expected a writeable array.*keep the parameters as np\.array\(x\)"):
        fo.SGD(jax.numpy.ones(3))


def test_tensors_and_arrays_meet() -> None:
    """A tensor's gradient may be an array, and the other way round."""
    torch = optional("torch")
    tensor, array = torch.ones(3, requires_grad=True), np.ones(3, np.float32)
    ours, theirs = fo.Adam(tensor, lr=0.1), fo.Adam(array, lr=0.1)
    for grad in (np.ones(3, np.float32), torch.ones(3), np.ones(6)[::2], torch.ones(6)[::2]):
        ours.step(grad)
        theirs.step(grad)
        assert tensor.tolist() == array.tolist()
    two = optional("torch.testing._internal.two_tensor").TwoTensor  # a tensor of tensors
    with pytest.raises(TypeError, match="memory of its own, got TwoTensor"):
        fo.SGD(two(torch.ones(3), torch.ones(3)))


def test_an_export_without_max_version() -> None:
    """NumPy views memory that comes by DLPack before version 1.0 as read-only."""

    class Old(ByDLPack):
        def __dlpack__(self, stream: Any = None) -> Any:  # type: ignore[override]
            return self.array.__dlpack__(stream=stream)

    with pytest.raises(ValueError, match=r"^params: expected a writeable array.*max_version"):
        fo.SGD(Old(np.ones(3)))
