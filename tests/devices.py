"""Arrays in a GPU's memory, for tests: CuPy's with a GPU, else a double of CuPy over the CPU's memory in a build with
``FASTOPTIM_CUDA=EMULATED``, where the kernels' code runs on the CPU.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import cases
import fastoptim as fo
from cases import Array
from fastoptim.arrays import cuda_families, families
from fastoptim.arrays.torch_families import TorchCuda
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS
from models import KINDS, name_of

IS_EMULATED = fo.build_info()["cuda"] == "emulated"

if IS_EMULATED:
    families.FAMILIES.insert(0, cuda_families.CuPy("cupy_on_host"))


class TorchOnTheCpu(TorchCuda):
    """PyTorch's CUDA tensors in an emulated build, whose device is the CPU."""

    def _is_here(self, tensor: Any) -> bool:
        return True

    def stream(self, gpu: int, array: Any = None) -> cuda_families.Stream:
        return cuda_families.Stream(0, False)


OPTIMIZERS = [*fo.OPTIMIZERS.values()]
CASES, PLAIN_CASES, PREPARED_CASES = cases.CASES, cases.PLAIN_CASES, cases.PREPARED_CASES
VARIANT_CASES = PLAIN_CASES + PREPARED_CASES
each_kind = pytest.mark.parametrize("optimizer", KINDS, ids=name_of)

#: The modules that arrays are made with.
MODULES = ["cupy_on_host"] if IS_EMULATED else [pytest.param("cupy", marks=pytest.mark.gpu)]

with_device = pytest.mark.parametrize("xp", MODULES, indirect=True)
"""With `xp`, the module; as a fixture it is imported only where the test runs."""

on_every_device = pytest.mark.parametrize("xp", ["numpy", *MODULES], indirect=True)
"""With `xp`, NumPy or such a module."""

_FACTORED = [rule for cls in FACTORED_OPTIMIZERS.values() for rule in (cls, *(stage.rule for stage in cls.stages))]
FACTORED_RULES = {name for rule in _FACTORED for name in rule.variants}
"""The rules of optimizers with sums over rows and columns."""

LINE = 128  # bytes that a GPU's caches move at once
OFFSETS = 16  # of elements: more than the widest load reads at once
SENTINEL = 0xA5


def import_module(name: str) -> Any:
    return importlib.import_module(name)


def put(xp: Any, host: Array) -> Any:
    """A copy on the device, in the same memory order."""
    axes = sorted(range(host.ndim), key=lambda axis: -host.strides[axis])
    inner_last = np.ascontiguousarray(host.transpose(axes)).reshape([host.shape[axis] for axis in axes])
    return xp.asarray(inner_last.copy()).transpose(*np.argsort(axes).tolist()) if axes else xp.asarray(host.copy())


def get(xp: Any, array: Any) -> Array:
    """A copy on the CPU, in the same memory order."""
    return array.copy(order="K") if xp is np else np.asarray(xp.asnumpy(array))


class Placed:
    """An array so many bytes behind the begin of a line, with sentinels before and behind it."""

    def __init__(self, xp: Any, values: Array, offset: int) -> None:
        self._xp = xp
        self._memory = xp.asarray(np.full(values.nbytes + 4 * LINE, SENTINEL, np.uint8))
        self._begin = -self._memory.data.ptr % LINE + LINE + offset
        self._end = self._begin + values.nbytes
        self.array = self._memory[self._begin : self._end].view(values.dtype).reshape(values.shape)
        self.array[...] = xp.asarray(values)

    @property
    def values(self) -> Array:
        return get(self._xp, self.array)

    def assert_intact(self, place: str) -> None:
        memory = get(self._xp, self._memory)
        assert (memory[: self._begin] == SENTINEL).all(), f"{place}: written before its begin"
        assert (memory[self._end :] == SENTINEL).all(), f"{place}: written behind its end"
