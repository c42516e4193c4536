"""The division of arrays among ranks, and the buffers in which gradients and parameters travel.

Every rank computes the same division.  A large array travels in its own memory, small ones together in one buffer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ...arrays.param_state import ParamState
from ...reference_math import compute_dtype
from .links import Link, Request

BUCKET_BYTES = 1 << 20  # of gradients that travel together, unless one array has more


def owners_of(sizes: Sequence[int], ranks: int, owned: Iterable[tuple[int, int]] = ()) -> list[int]:
    """Return the rank that owns each array: the largest array first, to the rank with the least so far.

    `owned` are the rank and the size of each array that has an owner already.
    """
    owners, loads = [0] * len(sizes), [0] * ranks
    for rank, size in owned:
        loads[rank] += size
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        owners[i] = min(range(ranks), key=lambda rank: (loads[rank], rank))
        loads[owners[i]] += sizes[i]
    return owners


class Bucket:
    """Arrays of one owner, whose gradients are added in one transfer and whose parameters return in another."""

    def __init__(self, owner: int, indices: list[int], param_states: Sequence[ParamState], link: Link) -> None:
        self.owner, self.indices = owner, indices
        self.params = [param_states[i] for i in indices]
        self.is_own = owner == link.rank
        self._link = link
        self._dtype = compute_dtype(self.params[0].metadata.dtype)
        self._sizes = [param.metadata.size for param in self.params]
        self._sums: Any = None  # of the owner: the gradients, added up
        self._send: Any = None
        self._bytes: Any = None  # the parameters, where they do not travel in their own memory

    def reduce(self, grads: Sequence[Any]) -> Request:
        """Start to add up the gradients; a rank without one adds zeros."""
        own = self._own_buffer(grads[0], self._dtype) if len(grads) == 1 and grads[0] is not None else None
        if own is None:
            if self._send is None:
                self._send = self._link.xp.empty(sum(self._sizes), self._dtype)
            for part, grad, param in zip(self._parts(self._send), grads, self.params, strict=True):
                if grad is None:
                    part[...] = 0
                else:
                    part.reshape(param.metadata.shape)[...] = grad
            own = self._send
        if self.is_own and self._sums is None:
            self._sums = self._link.xp.empty(own.size, self._dtype)
        return self._link.reduce(own, self._sums, self.owner)

    def grads(self, present: Sequence[bool]) -> list[Any]:
        """Return the sums of the gradients, None for an array of which no rank has one."""
        if not any(present):
            return [None] * len(self.params)
        parts = zip(self._parts(self._sums), self.params, present, strict=True)
        return [part.reshape(param.metadata.shape) if there else None for part, param, there in parts]

    def broadcast(self) -> Request:
        """Start to send the owner's parameters to all."""
        own = self._own_buffer(self.params[0].p, None) if len(self.params) == 1 else None
        if own is not None:
            return self._link.broadcast(own, self.owner)
        if self._bytes is None:
            *before, last = self.params  # one array has as many bytes as in its own memory, which others may use
            self._bytes = self._link.xp.empty(sum(map(_padded, before)) + last.metadata.nbytes, np.uint8)
        if self.is_own:
            for part, param in zip(self._byte_parts(), self.params, strict=True):
                part[...] = self._link.xp.ascontiguousarray(param.p).reshape(-1).view(np.uint8)
        return _ThenUnpack(self, self._link.broadcast(self._bytes, self.owner))

    def unpack(self) -> None:
        """Assign the parameters that have arrived."""
        if not self.is_own:
            for part, param in zip(self._byte_parts(), self.params, strict=True):
                p = param.p
                param.family.assign(p, part.view(p.dtype).reshape(p.shape))

    def _parts(self, buffer: Any) -> list[Any]:
        ends = np.cumsum(self._sizes).tolist()
        return [buffer[end - size : end] for size, end in zip(self._sizes, ends, strict=True)]

    def _byte_parts(self) -> list[Any]:
        begins = [0, *np.cumsum([_padded(param) for param in self.params]).tolist()]
        return [
            self._bytes[at : at + param.metadata.nbytes] for at, param in zip(begins[:-1], self.params, strict=True)
        ]

    def _own_buffer(self, array: Any, dtype: np.dtype[Any] | None) -> Any:
        """Return the array's own memory as a buffer, of bytes without a dtype; None if its elements lie otherwise."""
        if not array.flags.c_contiguous or (dtype is not None and array.dtype != dtype) or not array.size:
            return None
        flat = array.reshape(-1)
        return flat.view(np.uint8) if dtype is None else flat


def _padded(param: ParamState) -> int:
    """Return the bytes of a parameter, rounded up to its neighbor's alignment."""
    return -(-param.metadata.nbytes // 16) * 16


class _ThenUnpack:
    def __init__(self, bucket: Bucket, request: Request) -> None:
        self._bucket, self._request = bucket, request

    def wait(self) -> None:
        self._request.wait()
        self._bucket.unpack()


def buckets_of(param_states: Sequence[ParamState], owners: Sequence[int], link: Link) -> list[Bucket]:
    """Return the buckets, those of different owners in turn, so that owners work at the same time."""
    by_owner: list[list[list[int]]] = [[] for _ in range(link.size)]
    open_buckets: dict[tuple[int, str], list[int]] = {}
    for i, param in enumerate(param_states):
        p = param.metadata
        dtype = compute_dtype(p.dtype)
        nbytes = math.prod(p.shape) * dtype.itemsize
        key = (owners[i], dtype.name)
        indices = open_buckets.get(key)
        if indices is None or nbytes >= BUCKET_BYTES:
            indices = []
            by_owner[owners[i]].append(indices)
            open_buckets[key] = indices
        indices.append(i)
        own = sum(param_states[j].metadata.size for j in indices) * dtype.itemsize
        if own >= BUCKET_BYTES:
            del open_buckets[key]
    ordered = [(turn, owner, indices) for owner, buckets in enumerate(by_owner) for turn, indices in enumerate(buckets)]
    return [Bucket(owner, indices, param_states, link) for _, owner, indices in sorted(ordered)]
