"""`fo.distributed.Sharded` over the interface of CuPy's NCCL backend, with threads in the place of GPUs."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import PLAIN_CASES, Array, Case, assert_same_bits
from devices import IS_EMULATED, get, put, with_device
from fastoptim.frontends.sharded.links import NCCLLink, link_of

pytestmark = pytest.mark.skipif(not IS_EMULATED, reason="needs a build with FASTOPTIM_CUDA=EMULATED")

RANKS = 3
BOUNDS: dict[str, Any] = {"clip_global_norm": 7.0, "skip_nonfinite": True, "on_nonfinite": None}
CASES = [
    Case(case.optimizer, case.options | BOUNDS, case.id)
    for case in PLAIN_CASES
    if case.optimizer.name in ("adamw", "lamb", "novograd", "sgd")
]


class Exchange:
    """State that the threads share."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks, timeout=60)
        self.slots: list[Any] = [None] * ranks
        self.queues = {(i, j): queue.Queue[Any]() for i in range(ranks) for j in range(ranks)}


class NCCLBackend:
    """The interface of ``cupyx.distributed.NCCLBackend``."""

    def __init__(self, n_devices: int, rank: int, exchange: Exchange) -> None:
        self._n_devices, self.rank, self._exchange = n_devices, rank, exchange

    def _gathered(self, array: Any) -> list[Array]:
        self._exchange.slots[self.rank] = array.host.copy()
        self._exchange.barrier.wait()
        every = list(self._exchange.slots)
        self._exchange.barrier.wait()
        return every

    def all_reduce(self, in_array: Any, out_array: Any, op: str = "sum", stream: Any = None) -> None:
        out_array.host[...] = sum(self._gathered(in_array))

    def reduce(self, in_array: Any, out_array: Any, root: int = 0, op: str = "sum", stream: Any = None) -> None:
        total = sum(self._gathered(in_array))
        if self.rank == root:
            out_array.host[...] = total

    def broadcast(self, in_out_array: Any, root: int = 0, stream: Any = None) -> None:
        in_out_array.host[...] = self._gathered(in_out_array)[root]

    def send(self, array: Any, peer: int, stream: Any = None) -> None:
        self._exchange.queues[self.rank, peer].put(array.host.copy())

    def recv(self, out_array: Any, peer: int, stream: Any = None) -> None:
        out_array.host[...] = self._exchange.queues[peer, self.rank].get(timeout=60)


def on_every_rank(work: Callable[[NCCLBackend], Any]) -> list[Any]:
    """Return the result of each rank."""
    exchange, results, errors = Exchange(RANKS), [None] * RANKS, []

    def run(rank: int) -> None:
        try:
            results[rank] = work(NCCLBackend(RANKS, rank, exchange))
        except BaseException as error:
            errors.append(error)
            exchange.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def values(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    shapes: list[tuple[tuple[int, ...], Any]] = [((3, 5), np.float32), ((700,), np.float32), ((4, 2), np.float16)]
    return [(rng.integers(-40, 41, shape) / 16).astype(dtype) for shape, dtype in shapes]


def transposed(arrays: list[Array]) -> list[Array]:
    return [np.asfortranarray(arrays[0]), *arrays[1:]]


@with_device
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_ranks_with_gpus_have_the_bits_of_one_process(case: Case, xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", xp)

    def work(comm: NCCLBackend) -> tuple[list[Array], Any]:
        params = [put(xp, p) for p in transposed(values(0))]
        opt = fo.distributed.Sharded(case.optimizer, params, comm, **case.options)
        for step in range(1, 5):
            opt.step([put(xp, g) for g in values(10 * step + comm.rank)])
        bad = [put(xp, np.full((3, 5), np.nan, np.float32)), None, None]
        assert opt.step(bad if comm.rank == 1 else [None] * 3) is False
        opt.check_synced()
        saved = opt.state_dict(root=1)
        opt.load_state_dict(saved, root=1)
        return [get(xp, p) for p in params], saved

    results = on_every_rank(work)
    params = transposed(values(0))
    one = case.optimizer(params, **case.options)
    for step in range(1, 5):
        each = [values(10 * step + rank) for rank in range(RANKS)]
        one.step([sum(g.astype(np.float32) for g in grads) for grads in zip(*each, strict=True)])
    for ended, _ in results:
        for a, b in zip(ended, params, strict=True):
            assert_same_bits(a, b, case.id)
    assert [saved is None for _, saved in results] == [True, False, True]
    for a, b in zip(results[1][1]["arrays"], one.state_dict()["arrays"], strict=True):
        for name in b["state"]:
            assert_same_bits(a["state"][name], b["state"][name], name)


@with_device
def test_what_gpus_of_several_ranks_cannot_do_is_refused(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", xp)

    def work(comm: NCCLBackend) -> None:
        assert isinstance(link_of(comm), NCCLLink)
        with pytest.raises(ValueError, match="timeout: expected None with NCCL"):
            fo.distributed.Sharded(fo.Adam, put(xp, np.zeros(3)), comm, timeout=1.0)
        with pytest.raises(TypeError, match="params: expected an array of cupy"):
            fo.distributed.Sharded(fo.Adam, np.zeros(3), comm)
        with pytest.raises(ValueError, match="Prodigy: expected"):
            fo.distributed.Sharded(fo.Prodigy, put(xp, np.zeros(3)), comm)

    on_every_rank(work)
