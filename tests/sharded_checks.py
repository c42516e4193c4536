"""Checks of `fo.distributed.Sharded` that every rank of an MPI job runs.

``mpiexec -n 3 python tests/sharded_checks.py NAME`` runs one of them.

Gradients are multiples of 1/16 of moderate size, so that their sum has the same bits in any order.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from mpi4py import MPI

import fastoptim as fo
from cases import PLAIN_CASES, VARIANT_CASES, Array, Case, assert_same_bits
from fastoptim.frontends.sharded import buckets
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS, MATRIX_OPTIMIZERS
from fastoptim.reference_math import compute_dtype

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
STEPS = 20

SHAPES: list[tuple[tuple[int, ...], Any]] = [
    ((3, 5), np.float32),
    ((700,), np.float32),
    ((), np.float64),
    ((4, 6), np.float16),
    ((0, 2), np.float32),
    ((2, 3, 4), np.float64),
    ((9,), ml_dtypes.bfloat16),
]


def values(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    return np.asarray(np.random.default_rng(seed).integers(-40, 41, shape) / 16).astype(dtype)


def model(seed: int = 0) -> list[Array]:
    """Parameters of several shapes, formats and memory orders."""
    arrays = [values(shape, dtype, seed + i) for i, (shape, dtype) in enumerate(SHAPES)]
    arrays[0] = np.asfortranarray(arrays[0])
    return arrays


@cache
def gradients(step: int, rank: int) -> list[Array | None]:
    """The gradients of one rank: in some steps an array has none, on one rank or on all."""
    grads: list[Array | None] = [
        values(shape, dtype, 1000 * step + 50 * rank + i) for i, (shape, dtype) in enumerate(SHAPES)
    ]
    if step % 4 == 2:
        grads[1] = None
    if step % 3 == 1 and rank == 0:
        grads[3] = None
    return grads


@cache
def summed(step: int) -> list[Array | None]:
    """The sums of all ranks' gradients."""
    each_rank = [gradients(step, rank) for rank in range(SIZE)]
    sums: list[Array | None] = []
    for i, (shape, dtype) in enumerate(SHAPES):
        there = [grads[i] for grads in each_rank if grads[i] is not None]
        total = np.zeros(shape, compute_dtype(np.dtype(dtype)))
        for grad in there:
            total += grad
        sums.append(total if there else None)
    return sums


def assert_equal(a: Any, b: Any, place: str) -> None:
    """The same bits of arrays in any nesting."""
    if isinstance(a, np.ndarray):
        assert_same_bits(a, b, place)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a:
            assert_equal(a[key], b[key], f"{place}[{key!r}]")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{place}[{i}]")
    else:
        assert a == b or a != a, f"{place}: {a} {b}"


@contextmanager
def raises(kind: type[Exception], *parts: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def clipped(case: Case) -> Case:
    bounds = {"clip_norm": 30.0, "clip_global_norm": 7.0, "skip_nonfinite": True, "on_nonfinite": None}
    return Case(case.optimizer, case.options | bounds, f"{case.id}-clipped")


# ---- the checks


def run_pair(case: Case, backend: Any = "native", axes: int = 0) -> None:
    """Step a sharded optimizer and one process's with the sums, of the arrays with so many axes or more."""

    def chosen(arrays: list[Any]) -> list[Any]:
        return [array for array, (shape, _) in zip(arrays, SHAPES, strict=True) if len(shape) >= axes]

    params, others = chosen(model()), chosen(model())
    opt = fo.distributed.Sharded(case.optimizer, params, COMM, **case.options, backend=backend)
    other = case.optimize(others, backend)
    for step in range(1, STEPS + 1):
        grads = chosen(gradients(step, RANK))
        total = chosen(summed(step))
        if step == 7 and case.skips:
            if RANK == SIZE - 1:
                grads = [*grads[:-1], np.full_like(grads[-1], np.nan)]
            assert opt.step(grads) is False
            continue
        assert opt.step(grads) == other.step(total)
        if step in (1, STEPS):
            assert_equal(params, others, f"{case.id}, step {step}")
    saved = opt.state_dict(root=SIZE - 1)
    assert (saved is None) == (RANK != SIZE - 1)
    if saved is not None:
        assert_equal(saved, other.state_dict(), case.id)
    opt.close()


def check_bits() -> None:
    """Every optimizer, clipped by the norm of all gradients."""
    for case in PLAIN_CASES:
        run_pair(clipped(case))


def check_bits_of_variants() -> None:
    """Every optimizer, also with all that precedes and follows a rule."""
    for case in VARIANT_CASES:
        run_pair(case)


def check_bits_of_reference() -> None:
    for case in PLAIN_CASES:
        if case.optimizer.name in ("adamw", "lamb", "prodigy"):
            run_pair(clipped(case), "reference")


def check_matrix_methods_and_factored_optimizers() -> None:
    """Whole matrices have one owner, so that their products and sums are those of one process."""
    for name, optimizer in {**MATRIX_OPTIMIZERS, **FACTORED_OPTIMIZERS}.items():
        options = {"clip_global_norm": 7.0, "state_format": "int8", "int8_min_size": 0}
        run_pair(Case(optimizer, optimizer.defaults | options, name), axes=2 * ("muon" in name))
    for form in ({"state_format": "bfloat16"}, {"state_format": "int8", "int8_min_size": 0}):
        for storage in ({"master_weight_bits": 32}, {"kahan": True}):
            run_pair(Case(fo.AdamW, fo.AdamW.defaults | form | storage, f"{form} {storage}"))


def check_mixed() -> None:
    """Groups of different optimizers, one of which is added later, and a state dict."""
    compressed = {"state_format": "int8", "int8_min_size": 0}

    def groups(arrays: list[Array]) -> list[dict[str, Any]]:
        return [
            {"params": arrays[:3], "optimizer": fo.AdamW, **compressed},
            {"params": [arrays[3], arrays[5]], "optimizer": fo.Muon, "lr": 0.1},
        ]

    def divided(arrays: list[Any], step: int) -> list[list[Any]]:
        return [arrays[:3], [arrays[3], arrays[5]], arrays[6:]][: 2 + (step > 3)]

    params, others = model(), model()
    opt = fo.distributed.Sharded(fo.Mixed, groups(params), COMM, clip_global_norm=7.0)
    other = fo.Mixed(groups(others), clip_global_norm=7.0)
    for step in range(1, 9):
        opt.step(divided(gradients(step, RANK), step))
        other.step(divided(summed(step), step))
        assert_equal(params, others, f"step {step}")
        if step == 3:
            with raises(TypeError, "param_group: expected 'optimizer' with the class of an optimizer"):
                opt.add_param_group({"params": params[6:]})
            opt.add_param_group({"params": params[6:], "optimizer": fo.Lion, "master_weight_bits": 24})
            other.add_param_group({"params": others[6:], "optimizer": fo.Lion, "master_weight_bits": 24})
        if step == 5:
            saved, whole = opt.state_dict(), other.state_dict()
            if saved is not None:
                assert_equal(saved, whole, "state dict")
            opt.load_state_dict(saved)
    opt.check_synced()
    opt.close()


def check_small_buckets() -> None:
    """Every array travels in its own memory where it can, and several transfers are under way at a time."""
    buckets.BUCKET_BYTES = 40
    for case in PLAIN_CASES:
        if case.optimizer.name in ("adam", "lamb", "prodigy", "lion"):
            run_pair(case)
            run_pair(clipped(case))
    params, others = model(), model()
    params[0] = np.array(params[0], order="F" if RANK else "C")  # travels in its own memory on one rank alone
    opt, other = fo.distributed.Sharded(fo.Adam, params, COMM), fo.Adam(others)
    opt.step(gradients(1, RANK))
    other.step(summed(1))
    assert_equal(params, others, "memory orders")
    opt.close()


def check_groups_and_swaps() -> None:
    params, others = model(), model()

    def groups(arrays: list[Array]) -> list[dict[str, Any]]:
        return [{"params": arrays[:3]}, {"params": arrays[3:], "lr": fo.schedules.Exponential(0.1, 0.9)}]

    nag, one_nag = fo.distributed.Sharded(fo.NAG, groups(params), COMM, ema=0.9), fo.NAG(groups(others), ema=0.9)
    for step in range(1, 6):
        with nag.lookahead(), one_nag.lookahead():
            assert_equal(params, others, "lookahead")
        for opt, grads in ((nag, gradients(step, RANK)), (one_nag, summed(step))):
            opt.step([grads[:3], grads[3:]])
        nag.lr = one_nag.lr = 0.1 / step
    before = [p.copy() for p in params]
    with nag.averaged(), one_nag.averaged():
        assert_equal(params, others, "averaged")
    assert_equal(params, before, "after averaged")
    nag.check_synced()

    free, one_free = fo.distributed.Sharded(fo.ScheduleFreeAdamW, params, COMM), fo.ScheduleFreeAdamW(others)
    for step in range(1, 4):
        free.step(gradients(step, RANK))
        one_free.step(summed(step))
        free.eval()
        one_free.eval()
        assert_equal(params, others, "eval")
        free.train()
        one_free.train()
    sophia, one_sophia = fo.distributed.Sharded(fo.Sophia, params, COMM), fo.Sophia(others)
    for step in range(1, 4):
        sophia.update_hessian(gradients(step, RANK))
        one_sophia.update_hessian(summed(step))
        sophia.step(gradients(step, RANK))
        one_sophia.step(summed(step))
    assert_equal(params, others, "sophia")
    for opt in (nag, free, sophia):
        opt.close()
    compressed = {"state_format": "int8", "int8_min_size": 0}
    for options in ({"master_weight_bits": 24}, {"stochastic_rounding": True}, compressed):
        run_pair(Case(fo.AdamW, fo.AdamW.defaults | options, str(options)))
    wide = fo.distributed.Sharded(fo.SGD, params, COMM, kahan=True)
    with raises(RuntimeError, "master_params: expected the state of params[", "which another process has"):
        wide.master_params()
    wide.close()


def check_copies() -> None:
    """Every rank has the copies of one process, also of arrays that others own."""
    params, others = model(), model()
    halves, one_halves = ([half_of(p) for p in arrays] for arrays in (params, others))
    opt = fo.distributed.Sharded(fo.AdamW, params, COMM, lr=0.1, copies=halves)
    other = fo.AdamW(others, lr=0.1, copies=one_halves)
    for step in range(1, 6):
        opt.step(gradients(step, RANK))
        other.step(summed(step))
        assert_equal([half for half in halves if half is not None], [h for h in one_halves if h is not None], "copies")
    halves[1][...] = 0
    opt.refresh_copies()
    assert_equal(halves[1], params[1].astype(np.float16), "refreshed")
    opt.close()


def half_of(p: Array) -> Any:
    return None if p.itemsize == 2 else np.zeros_like(p, np.float16)


def check_accumulation() -> None:
    """Two calls on every rank and one step are a step by the mean of the sums, and an error of one adds nothing."""
    each: list[dict[str, Any]] = [{}, {"clip_global_norm": 1.0, "skip_nonfinite": True}]
    for options in each:
        params, others = model(), model()
        opt = fo.distributed.Sharded(fo.Adam, params, COMM, **options)
        other = fo.Adam(others, **options)
        for step in range(1, 9, 2):
            for part in (step, step + 1):
                opt.accumulate(gradients(part, RANK))
                other.accumulate(summed(part))
            wrong = [*gradients(1, RANK)[:-1], np.zeros(3)] if RANK == SIZE - 1 else gradients(1, RANK)
            with raises(ValueError if RANK == SIZE - 1 else RuntimeError, "grads[6]: expected shape"):
                opt.accumulate(wrong)
            for call in (opt.state_dict, partial(opt.step, gradients(1, RANK))):
                with raises(RuntimeError, "expected step() without gradients first, which takes the sum of the 2"):
                    call()
            how: Any = "sum" if step > 4 else "mean"
            assert opt.step(accumulation=how) == other.step(accumulation=how)
            assert_equal(params, others, f"step {step}")
        with raises(RuntimeError, "step: expected gradients, or calls of accumulate before"):
            opt.step()
        other.accumulate(summed(1))
        saved = other.state_dict()
        with raises(ValueError if RANK == 0 else RuntimeError, "expected no 'accumulated' gradients"):
            opt.load_state_dict(saved)
        if SIZE > 1:
            opt.accumulate(gradients(1, RANK))
            if RANK == 0:
                opt.optimizer.accumulate(gradients(1, RANK))
            with raises(RuntimeError, "step: expected the same options and step on every rank"):
                opt.step()
        opt.close()


def check_added_groups() -> None:
    params, others = model(), model()
    opt = fo.distributed.Sharded(fo.AdamW, [{"params": params[:2]}], COMM, clip_global_norm=7.0)
    other = fo.AdamW([{"params": others[:2]}], clip_global_norm=7.0)
    last = RANK == SIZE - 1
    for step in range(1, 6):
        grads, total = gradients(step, RANK), summed(step)
        if step == 3:
            for wrong, error, text in (
                ({"params": params[2:], "lr": -1.0}, ValueError, "lr: expected"),
                ({"params": [params[0]]}, ValueError, "params["),
                (3, TypeError, "param_group: expected a dict with 'params', got int"),
            ):
                with raises(error if last else RuntimeError, text):
                    opt.add_param_group(wrong if last else {"params": params[2:]})
            if SIZE > 1:
                different = [values((5,), np.float32, RANK)]
                with raises(RuntimeError, "expected the same bits on every rank"):
                    opt.add_param_group({"params": different})
                with raises(RuntimeError, "add_param_group: expected the same options and step on every rank"):
                    opt.add_param_group({"params": params[2:], "lr": 0.1 * (1 + RANK)})
            opt.add_param_group({"params": params[2:], "lr": 0.1})
            other.add_param_group({"params": others[2:], "lr": 0.1})
            assert len(opt.owners) == len(params)
        opt.step([grads[:2], grads[2:]] if step > 2 else [grads[:2]])
        other.step([total[:2], total[2:]] if step > 2 else [total[:2]])
        assert_equal(params, others, f"step {step}")
    own = {i: bool(state) for i, state in enumerate([*opt.state[0], *opt.state[1]])}
    assert own == {i: owner == RANK for i, owner in enumerate(opt.owners)}
    saved = opt.state_dict()
    if saved is not None:
        assert_equal(saved, other.state_dict(), "state dict")
    opt.check_synced()
    opt.close()


def check_memory() -> None:
    """The state of a rank is its share."""
    params = [np.zeros(1000 * (1 + i % 5), np.float32) for i in range(40)]
    opt = fo.distributed.Sharded(fo.Adam, params, COMM)
    own = sum(array.nbytes for state in opt.state for array in state.values())
    total = 2 * sum(p.nbytes for p in params)
    assert own <= total / SIZE + 2 * 5000 * 4
    assert COMM.allreduce(own) == total
    opt.step([np.ones_like(p) for p in params])
    opt.param_groups[0]["amsgrad"] = True
    opt.step([np.ones_like(p) for p in params])
    assert COMM.allreduce(sum(array.nbytes for state in opt.state for array in state.values())) == 1.5 * total
    opt.close()


def check_relay(path: str, rounds: str = "1") -> None:
    """Continue from the file of another number of ranks, and write the next one."""
    for _ in range(int(rounds)):
        relay(path)


def relay(path: str) -> None:
    params = model()
    opt = fo.distributed.Sharded(fo.LAMB, params, COMM, ema=0.9)
    if Path(path).exists():
        opt.load(path)
        assert fo.load(path, params=params)["note"] == "relay"
    COMM.Barrier()
    first = opt.step_count
    for step in range(first + 1, first + 4):  # gradients that do not depend on the number of ranks
        opt.step([None if grad is None or RANK else grad for grad in gradients(step, 0)])
    opt.save(path, params=params, root=SIZE - 1, note="relay")
    fo.save(path + ".again", params=params, optimizer=opt)
    COMM.Barrier()
    fo.load(path + ".again", params=params, optimizer=opt)
    own = opt.state_dict()
    with raises(ValueError, "optimizer"):
        opt.load_state_dict(None if own is None else own | {"optimizer": "adam"})
    with raises(ValueError if RANK == 0 else RuntimeError, "state_dict: expected a dict with 'arrays'"):
        opt.load_state_dict({"arrays": 3} if RANK == 0 else None)
    opt.check_synced()
    opt.close()


def check_errors(directory: str) -> None:
    """An error on one rank is an error on all, nothing has changed, and all may continue."""
    last, make = SIZE - 1, fo.distributed.Sharded
    for what in ("adamw", fo.Adam(model()), 3, dict):
        with raises(TypeError, "optimizer_class: expected the class of an optimizer, such as fastoptim.AdamW, got"):
            make(what, model(), COMM)
    for timeout, kind in ((-1, ValueError), (0, ValueError), (float("nan"), ValueError), ("a", TypeError)):
        with raises(kind if last == RANK else RuntimeError, "timeout: expected"):
            make(fo.Adam, model(), COMM, timeout=timeout if last == RANK else None)
    with raises(ValueError if last == RANK else RuntimeError, "lr"):
        fo.distributed.Sharded(fo.Adam, model(), COMM, lr=-1.0 if last == RANK else 1.0)
    with raises(RuntimeError, "params[0]: expected the same bits on every rank", f"rank {last}"):
        fo.distributed.Sharded(fo.Adam, model(seed=last == RANK and 7), COMM)
    with raises(RuntimeError, "expected the same options and step on every rank"):
        fo.distributed.Sharded(fo.Adam, model()[: 3 - (last == RANK)], COMM)

    params, others = model(), model()
    opt, other = fo.distributed.Sharded(fo.Adam, params, COMM), fo.Adam(others)

    def step(change: Callable[[list[Any]], Any]) -> None:
        grads: list[Any] = [None if grad is None else grad.copy() for grad in gradients(1, RANK)]
        if last == RANK:
            change(grads)
        opt.step(grads)

    for change, kind, text in (
        (lambda grads: grads.pop(), TypeError, "expected a list or tuple of 7 entries"),
        (lambda grads: grads.__setitem__(0, np.zeros(3)), ValueError, "grads[0]: expected shape"),
        (lambda grads: grads.__setitem__(0, "no"), TypeError, "grads[0]: expected"),
        (lambda grads: grads.__setitem__(0, params[0]), ValueError, "grads[0]: overlaps params[0]"),
    ):
        with raises(kind if last == RANK else RuntimeError, text):
            step(change)
        assert_equal(params, others, text)
    with raises(AttributeError, "learning_rate", "did you mean 'lr'?"):
        opt.learning_rate = 3
    with raises(AttributeError, "learning_rate", "did you mean 'lr'?"):
        _ = opt.learning_rate
    with raises(AttributeError, "params: expected it where the optimizer is made"):
        opt.params = others
    opt.note = "mine"
    assert opt.note == "mine"
    for name, value in (("lr", 0.5), ("weight_decay", 0.1)):
        kept = opt.param_groups[0][name]
        if last == RANK:
            opt.param_groups[0][name] = value
        with raises(RuntimeError, "step: expected the same options and step on every rank"):
            step(lambda grads: None)
        opt.param_groups[0][name] = kept
    with raises(RuntimeError, "expected the same call on every rank"):
        opt.check_synced() if last == RANK else opt.state_dict()
    for save in (opt.save, partial(fo.save, optimizer=opt)):
        with raises(OSError if RANK == 0 else RuntimeError, "/no/such/directory"):
            save("/no/such/directory/x")
    path = f"{directory}/x"
    opt.save(path, params=params)
    wrong = [*params[1:], params[0]]
    for its_path, its_params, error in ((path + "no", params, OSError), (path, wrong, ValueError)):
        with raises(error if last == RANK else RuntimeError, path if last == RANK else f"load: rank {last} failed"):
            own = (its_path, its_params) if last == RANK else (path, params)
            fo.load(own[0], params=own[1], optimizer=opt)
    for root in (SIZE, -1, "0", True):
        for call in (
            partial(opt.state_dict, root),
            partial(opt.save, path, root=root),
            partial(opt.load, path, root=root),
            partial(opt.load_state_dict, {}, root=root),
        ):
            with raises(ValueError if type(root) is int else TypeError, f"root: expected an integer in [0, {last}]"):
                call()
    opt.param_groups[0]["on_nonfinite"] = "raise"
    with raises(FloatingPointError, "grads[1]: expected finite numbers in the sum over the ranks"):
        step(lambda grads: grads[1].fill(np.inf))
    opt.param_groups[0]["on_nonfinite"] = None
    assert opt.step_count == 0
    step(lambda grads: None)
    other.step(summed(1))
    assert_equal(params, others, "after errors")
    if last == RANK:
        params[1][3] += 1
    with raises(RuntimeError, "params[1]: expected the same bits"):
        opt.check_synced()
    opt.close()
    with raises(RuntimeError, "step: expected ranks that all take part, but the connection was closed"):
        opt.step(gradients(1, RANK))
    with raises(TypeError, "comm: expected a communicator of mpi4py"):
        fo.distributed.Sharded(fo.Adam, model(), object())
    print(f"rank {RANK} is through", flush=True)


def leaving(how: Callable[[], Any]) -> None:
    """Rank 1 leaves after two steps; the others report the error."""
    opt = fo.distributed.Sharded(fo.Adam, model(), COMM)
    for step in range(1, 6):
        if RANK == 1 and step == 3:
            how()
        try:
            opt.step(gradients(step, RANK))
        except RuntimeError as error:
            print(f"rank {RANK}: {error}", flush=True)
            with raises(RuntimeError, "expected ranks that all take part, but rank 1"):
                opt.check_synced()
            raise SystemExit(0) from None


def check_leaves_by_exception() -> None:
    leaving(lambda: 1 / 0)


def check_leaves_by_exit() -> None:
    leaving(sys.exit)


def check_killed() -> None:
    leaving(lambda: os.kill(os.getpid(), signal.SIGKILL))


def check_interrupted() -> None:
    """A KeyboardInterrupt while arrays are under way."""

    def interrupt_soon() -> None:
        def handler(*_: Any) -> None:
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)

    opt = fo.distributed.Sharded(fo.Adam, model(), COMM)
    if RANK == 0:
        time.sleep(1.0)  # the others wait for its part
    if RANK == 1:
        interrupt_soon()
        try:
            opt.step(gradients(1, RANK))
        except KeyboardInterrupt:
            time.sleep(1.0)
        sys.exit()
    try:
        opt.step(gradients(1, RANK))
    except RuntimeError as error:
        print(f"rank {RANK}: {error}", flush=True)


def check_timeout() -> None:
    opt = fo.distributed.Sharded(fo.Adam, model(), COMM, timeout=0.5)
    if RANK == 1:
        time.sleep(2)
        return
    try:
        opt.step(gradients(1, RANK))
    except (TimeoutError, RuntimeError) as error:  # the second, if another one's time is over first
        print(f"rank {RANK}: {error}", flush=True)


if __name__ == "__main__":
    try:
        globals()[f"check_{sys.argv[1]}"](*sys.argv[2:])
    except (SystemExit, ZeroDivisionError):
        raise
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        COMM.Abort(1)
