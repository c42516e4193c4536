"""PyTorch's tensors, detached from autograd: one array family for the CPU's memory and one for CUDA.

PyTorch is not imported here: a user who passes tensors has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np

from ..reference_math import Array, bfloat16
from .cuda_families import ArrayMetadata, Cuda, Stream, array_at, make_metadata
from .numpy_family import NUMPY


def version_marker(arrays: Sequence[Any]) -> Callable[[], None] | None:
    """Return the call that makes autograd see a change of these tensors; None for arrays of other libraries."""
    torch = sys.modules.get("torch")
    if torch is None or not arrays or not isinstance(arrays[0], getattr(torch, "Tensor", ())):
        return None
    tensors = [tensor for tensor in arrays if not tensor.is_inference()]
    return partial(torch.autograd.graph.increment_version, tensors)


class _Torch:
    """The operations on tensors of both families."""

    multiplies_bfloat16 = True

    reader: tuple[Sequence[str], str] | None = (("shape", "stride()", "dtype", "device"), "data_ptr()")
    """See `Cuda.reader`."""

    @property
    def _torch(self) -> Any:
        return sys.modules["torch"]

    def owns(self, thing: Any) -> bool:
        """Return whether this is a tensor in the family's memory."""
        module = sys.modules.get("torch")
        return module is not None and isinstance(thing, getattr(module, "Tensor", ())) and self._is_here(thing)

    def _is_here(self, tensor: Any) -> bool:
        raise NotImplementedError

    def _description(self, tensor: Any, place: str) -> tuple[int, Any, list[int], np.dtype[Any]]:
        """Return address, shape, strides in bytes and dtype; raise TypeError for a tensor without plain elements."""
        if tensor.layout is not self._torch.strided:
            raise TypeError(f"{place}: expected a strided tensor, got one of layout {tensor.layout}")
        dtype, address = self._dtype(tensor, place), tensor.data_ptr()
        if tensor.is_neg():
            raise TypeError(f"{place}: expected a tensor without lazy negation; pass tensor.resolve_neg()")
        if not address and tensor.numel():
            raise TypeError(f"{place}: expected a tensor with memory of its own, got {type(tensor).__name__}")
        return address, tensor.shape, [stride * dtype.itemsize for stride in tensor.stride()], dtype

    def _dtype(self, tensor: Any, place: str) -> np.dtype[Any]:
        name = str(tensor.dtype).removeprefix("torch.")
        kind = getattr(sys.modules.get("ml_dtypes", np), name, None)  # NumPy has no bfloat16 of its own
        try:
            return np.dtype(kind or name)
        except TypeError:
            after = " after `import ml_dtypes`" * (name == "bfloat16")
            expected = f"float64, float32, float16 or bfloat16{after}"
            raise TypeError(f"{place}: expected dtype {expected}, got {tensor.dtype}") from None

    def _named(self, dtype: np.dtype[Any]) -> Any:
        return getattr(self._torch, dtype.name)

    def zeros(self, like: Any, dtype: np.dtype[Any]) -> Any:
        """Return zeros that require no gradient."""
        return self._torch.zeros_like(like, dtype=self._named(dtype), requires_grad=False)

    def full(self, like: Any, shape: tuple[int, ...], value: float, dtype: np.dtype[Any]) -> Any:
        """Return a tensor of that shape on the device of `like`."""
        return self._torch.full(shape, value, dtype=self._named(dtype), device=like.device)

    def copy(self, array: Any) -> Any:
        """Return a copy in the same memory order."""
        return array.detach().clone()

    def contiguous(self, array: Any) -> Any:
        """Return a copy in C order."""
        return array.detach().contiguous()

    def view(self, array: Any) -> Any:
        """Return a view of the same memory."""
        return array.detach()

    def transpose(self, array: Any, axes: Sequence[int]) -> Any:
        """Return a view with the axes in another order."""
        return array.detach().permute(tuple(axes))

    def assign(self, target: Any, source: Any) -> None:
        """Assign a number, a NumPy array, or any array that PyTorch can convert."""
        if isinstance(source, (int, float)):
            target.detach().fill_(source)
            return
        if isinstance(source, np.ndarray) and source.dtype == bfloat16():  # which PyTorch does not convert
            source = source.astype(np.float32)
        target.detach().copy_(self._torch.as_tensor(source))

    def copy_rows(self, target: Any, rows: Array, source: Any, source_rows: Array) -> None:
        """Assign rows of `source` to rows of `target`."""
        to, of = (self._torch.as_tensor(index, device=target.device) for index in (rows, source_rows))
        target.detach()[to] = source.detach()[of]

    def astype(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return a copy in that dtype."""
        return array.detach().to(self._named(dtype), copy=True)

    def to_numpy(self, array: Any) -> Array:
        """Return a NumPy copy, after a wait for the current stream."""
        tensor = array.detach().cpu()
        return NUMPY.to_numpy(array_at(*self._description(tensor, ""), owner=tensor))

    def in_bfloat16(self, array: Any) -> Any:
        """Return a tensor with the rounded elements of a tensor, or of a NumPy array."""
        return self._torch.as_tensor(array).to(self._torch.bfloat16)

    def empty_bfloat16(self, like: Any, shape: tuple[int, ...]) -> Any:
        """Return a tensor with any elements on the device of `like`."""
        return self._torch.empty(shape, dtype=self._torch.bfloat16, device=like.device)

    def matmul(self, a: Any, b: Any, out: Any) -> None:
        """Multiply by cuBLAS; on the CPU NumPy does, which takes half of the time where b is the transpose of a."""
        self._torch.matmul(a, b, out=out)

    def eigh(self, matrix: Any) -> Any:
        """Decompose by cuSOLVER."""
        return self._torch.linalg.eigh(matrix)

    def orthonormal(self, matrix: Any) -> Any:
        """Decompose by cuSOLVER."""
        return self._torch.linalg.qr(matrix)[0]

    def arithmetic(self, array: Any) -> AbstractContextManager[Any]:
        """Return a context in which autograd records nothing."""
        return self._torch.no_grad()  # type: ignore[no-any-return]


class TorchCuda(_Torch, Cuda):
    """Tensors on CUDA."""

    name = "PyTorch on CUDA"
    names_streams = False
    gives_memory_to_graphs = True

    def _is_here(self, tensor: Any) -> bool:
        return bool(tensor.is_cuda)

    def _metadata(self, array: Any, place: str) -> ArrayMetadata:
        return make_metadata(*self._description(array, place), gpu=array.device.index or 0)

    def stream(self, gpu: int, array: Any = None) -> Stream:
        """Return PyTorch's current stream."""
        cuda = self._torch.cuda
        with cuda.device(gpu):
            return Stream(cuda.current_stream().cuda_stream, cuda.is_current_stream_capturing())

    def producer(self, gpu: int, array: Any) -> int | None:
        """Return PyTorch's current stream; the interface of a tensor does not name it."""
        return self.stream(gpu).pointer


class TorchCpu(_Torch):
    """Tensors in the CPU's memory; their metadata is a NumPy array over the same memory."""

    name = "PyTorch on the CPU"

    def _is_here(self, tensor: Any) -> bool:
        return bool(tensor.is_cpu)

    def metadata(self, array: Any, place: str) -> Array:
        """Return a NumPy array over the tensor's memory."""
        return array_at(*self._description(array, place), owner=array)

    def zeros(self, like: Any, dtype: np.dtype[Any]) -> Any:
        """Return zeros that lie in memory as NumPy's state arrays do."""
        if dtype.kind == "V":  # NumPy's type for another package's bfloat16
            return super().zeros(like, dtype)
        return self._torch.from_numpy(NUMPY.zeros(self.metadata(like, ""), dtype))

    def check_takes_place(self, array: Any) -> None:
        """Do nothing: the CPU executes at once."""

    def to_numpy(self, array: Any) -> Array:
        """Return a NumPy copy."""
        return NUMPY.to_numpy(self.metadata(array, ""))
