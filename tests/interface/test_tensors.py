"""PyTorch's tensors as arrays of the core, on the CPU and on a GPU; in an emulated build the CPU's are the GPU's."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes  # noqa: F401  # NumPy's name for bfloat16
import numpy as np
import pytest

import fastoptim as fo
from cases import BFLOAT16, DTYPES, FLOAT32, Array, assert_same_bits, ordinary_values
from devices import IS_EMULATED, OPTIMIZERS, TorchOnTheCpu
from fastoptim.arrays import families
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS

SHAPES = ((4, 5), (3,), (), (0,), (2, 3, 4))
PLACES = ["cpu", pytest.param("gpu", marks=[] if IS_EMULATED else pytest.mark.gpu)]
device = "cpu"  # that tensors are made on


@pytest.fixture(name="torch", params=PLACES)
def torch_on_the_device(request: pytest.FixtureRequest, torch: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "gpu" and IS_EMULATED:
        monkeypatch.setattr(families, "FAMILIES", [TorchOnTheCpu()])
    elif request.param == "gpu":
        monkeypatch.setattr(sys.modules[__name__], "device", "cuda")
    return torch


def tensor_of(torch: Any, array: Array) -> Any:
    """A copy on the device, in the same memory order."""
    plain = array.view(np.int16) if array.dtype == BFLOAT16 else array
    tensor = torch.from_numpy(plain.copy(order="K"))
    tensor = tensor.view(torch.bfloat16) if array.dtype == BFLOAT16 else tensor
    return tensor.to(device)


def array_of(torch: Any, tensor: Any) -> Array:
    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:
        return np.asarray(plain.view(torch.int16).numpy().view(BFLOAT16))
    return np.asarray(plain.numpy())


def arrays(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    made = []
    for i, shape in enumerate(SHAPES):
        values = ordinary_values(rng, DTYPES[(i + seed) % 4], int(np.prod(shape))).reshape(shape)
        made.append(np.asfortranarray(values) if i % 2 == 0 else values)
    return made


class Pair:
    """An optimizer of a module's parameters, and its twin by the reference."""

    def __init__(self, torch: Any, cls: Any, **options: Any) -> None:
        self.torch = torch
        self.params = [torch.nn.Parameter(tensor_of(torch, p)) for p in arrays(0)]
        self.there = cls(self.params, **options)
        self.here = cls([p.copy(order="K") for p in arrays(0)], **options, backend="reference")

    def step(self, seed: int) -> None:
        grads: list[Array | None] = list(arrays(seed))
        grads[seed % 2] = None
        self.there.step([None if g is None else tensor_of(self.torch, g) for g in grads])
        self.here.step(grads)
        self.assert_same()

    def assert_same(self) -> None:
        for p, wanted in zip(self.there.params, self.here.params, strict=True):
            assert_same_bits(array_of(self.torch, p), wanted)
        for state, theirs in zip(self.there.state, self.here.state, strict=True):
            for name, tensor in state.items():
                assert isinstance(tensor, self.torch.Tensor)
                assert not tensor.requires_grad
                assert_same_bits(array_of(self.torch, tensor), theirs[name])


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, *FACTORED_OPTIMIZERS.values()], ids=lambda cls: cls.name)
def test_steps_have_the_reference_s_bits(torch: Any, optimizer: Any) -> None:
    pair = Pair(torch, optimizer)
    for seed in (1, 2, 3, 4):
        pair.step(seed)
    assert all(p.requires_grad and p.is_leaf for p in pair.params)


def test_what_backward_leaves_is_stepped(torch: Any) -> None:
    p = torch.nn.Parameter(tensor_of(torch, np.arange(6, dtype=np.float32)))
    opt = fo.SGD([p], lr=0.25)
    for _ in range(2):
        p.grad = None
        (p * p).sum().backward()
        opt.step([p.grad])
    assert array_of(torch, p).tolist() == [0.25 * i for i in range(6)]


def test_values_shown_in_the_parameters_place(torch: Any) -> None:
    averaged, ahead, free = Pair(torch, fo.SGD, ema=0.5), Pair(torch, fo.NAG), Pair(torch, fo.ScheduleFreeAdamW)
    for pair in (averaged, ahead, free):
        pair.step(1)
    with averaged.there.averaged(), averaged.here.averaged():
        for p, wanted in zip(averaged.params, averaged.here.params, strict=True):
            assert_same_bits(array_of(torch, p), wanted)
    with ahead.there.lookahead(), ahead.here.lookahead():
        for p, wanted in zip(ahead.params, ahead.here.params, strict=True):
            assert_same_bits(array_of(torch, p), wanted)
    for opt in (free.there, free.here):
        opt.eval()
    for p, wanted in zip(free.params, free.here.params, strict=True):
        assert_same_bits(array_of(torch, p), wanted)
    for opt in (free.there, free.here):
        opt.train()
    for pair in (averaged, ahead, free):
        pair.assert_same()
        pair.step(2)


def test_a_tensor_that_is_given_other_memory(torch: Any) -> None:
    """``module.to(...)`` and loading weights may do this."""
    p = torch.nn.Parameter(tensor_of(torch, np.zeros(3, np.float32)))
    g = tensor_of(torch, np.ones(3, np.float32))
    opt = fo.SGD([p], lr=1.0)
    for _ in range(2):
        opt.step([g])
    before = p.data
    p.data = tensor_of(torch, np.full(3, 10, np.float32))
    for _ in range(3):
        opt.step([g])
    g.data = tensor_of(torch, np.full(3, 2, np.float32))
    opt.step([g])
    assert array_of(torch, p).tolist() == [5.0] * 3
    assert array_of(torch, before).tolist() == [-2.0] * 3
    p.data = tensor_of(torch, np.ones(4, np.float32))
    with pytest.raises(ValueError, match="expected shape"):
        opt.step([g])


def test_checkpoints_and_copies(torch: Any) -> None:
    pair = Pair(torch, fo.Adam, amsgrad=True)
    pair.step(1)
    saved = pair.there.state_dict()
    assert all(type(s) is np.ndarray for entry in saved["arrays"] for s in entry["state"].values())
    pair.there.load_state_dict(pair.here.state_dict())
    pair.here.load_state_dict(saved)
    pair.step(2)
    copies: list[Callable[[Any], Any]] = [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
    for make in copies:
        pair.there = make(pair.there)
        pair.step(3)


def test_norms(torch: Any) -> None:
    values = [a.astype(np.float32) for a in arrays(1)]
    assert fo.global_norm([tensor_of(torch, a) for a in values]) == fo.global_norm(values)


def test_gradients_in_another_order(torch: Any) -> None:
    p, g = (np.arange(12, dtype=np.float32).reshape(3, 4) for _ in range(2))
    there, here = fo.Adam(tensor_of(torch, p)), fo.Adam(p.copy(), backend="reference")
    for grad in (tensor_of(torch, np.asfortranarray(g)), tensor_of(torch, np.repeat(g, 2, axis=1))[:, ::2]):
        there.step(grad)
        here.step(g)
        assert_same_bits(array_of(torch, there.params), here.params)


def test_what_is_rejected(torch: Any) -> None:
    p, g = tensor_of(torch, np.ones(4, np.float32)), tensor_of(torch, np.ones(4, np.float32))
    for thing, error, match in (
        (p, ValueError, r"^grads\['w'\]: overlaps params\['w'\]"),
        (g[:2], ValueError, "expected shape"),
        (g.to(torch.int32), TypeError, "expected dtype"),
        (g.to(torch.float8_e4m3fn), TypeError, "expected dtype"),
        (g.to(torch.complex64), TypeError, "expected dtype"),
        (g.reshape(2, 2).to_sparse(), TypeError, "expected a strided tensor"),
    ):
        with pytest.raises(error, match=match):
            fo.Adam({"w": p}).step({"w": thing})
    with pytest.raises(ValueError, match="expected a dense array"):
        fo.Adam(tensor_of(torch, np.ones((4, 4), FLOAT32))[:, ::2])
    with pytest.raises(TypeError, match="lazy negation"):
        fo.Adam(tensor_of(torch, np.ones(1, np.complex64)).conj().imag)
    with pytest.raises(ValueError, match="is the same memory as"):
        fo.Adam([p, p])
    assert array_of(torch, p).tolist() == [1.0] * 4
