"""The pass that a step is measured against reads and writes what the step does, and the bytes are counted so."""

from __future__ import annotations

from itertools import product, repeat

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, FLOAT32, MIN_SHARE, PLAIN_CASES, Case, DType, bits, case_id
from fastoptim import core
from fastoptim.bench import task
from fastoptim.bench.models import Work, one_array
from fastoptim.bench.task import Task
from fastoptim.engines import native
from limits import MASK, arrays_of, expected_limit, optimizer_on


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
@pytest.mark.parametrize(("p_dtype", "g_dtype"), list(product(DTYPES, DTYPES)), ids=str)
def test_the_limit_reads_and_writes_what_it_says(case: Case, p_dtype: DType, g_dtype: DType, isa: str) -> None:
    opt, grads = optimizer_on(case, [1, 67, 0, 130], p_dtype, g_dtype)
    expected, answer = expected_limit(map(arrays_of, opt.param_states, grads, repeat(case)), case, MASK)
    limit = native.bandwidth_probe_of(opt.param_states, grads, case.optimizer.check_options(case.options), isa)
    assert limit(MASK) == answer
    assert [
        a.tobytes() for s, g in zip(opt.param_states, grads, strict=True) for a in arrays_of(s, g, case)
    ] == expected


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", [case for case in PLAIN_CASES if case.id in ("adam", "lamb", "madgrad")], ids=case_id)
def test_the_limit_takes_every_element_once_on_any_number_of_threads(case: Case, threads: int) -> None:
    fo.set_num_threads(threads)
    sizes = [4 * MIN_SHARE + 5, 1001, 3 * MIN_SHARE]  # on one thread the first is a batch
    opt, grads = optimizer_on(case, sizes, FLOAT32, FLOAT32)
    expected, answer = expected_limit(map(arrays_of, opt.param_states, grads, repeat(case)), case, MASK)
    assert (
        native.bandwidth_probe_of(opt.param_states, grads, case.optimizer.check_options(case.options))(MASK) == answer
    )
    assert [
        a.tobytes() for s, g in zip(opt.param_states, grads, strict=True) for a in arrays_of(s, g, case)
    ] == expected


def test_the_limit_writes_an_average_too() -> None:
    p, g = np.ones(100, np.float32), np.ones(100, np.float32)
    opt = fo.SGD(p, ema=0.9)
    average = opt.param_states[0].state["average"]
    before = bits(average).copy()
    native.bandwidth_probe_of(opt.param_states, [g], fo.SGD.check_options({"ema": 0.9}))(MASK)
    assert (bits(average) == before ^ np.uint32(MASK & 0xFFFFFFFF)).all()


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
def test_a_mask_of_zero_changes_nothing(case: Case) -> None:
    """So that the limit can run on the optimizer's own arrays."""
    opt, grads = optimizer_on(case, [1000, 3], FLOAT32, FLOAT32)
    before = [a.tobytes() for s, g in zip(opt.param_states, grads, strict=True) for a in arrays_of(s, g, case)]
    native.bandwidth_probe_of(opt.param_states, grads, case.optimizer.check_options(case.options))(0)
    assert [a.tobytes() for s, g in zip(opt.param_states, grads, strict=True) for a in arrays_of(s, g, case)] == before


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
def test_a_step_writes_what_its_rule_says_and_depends_on_what_it_only_reads(case: Case) -> None:
    rule = core.RULES[case.variant]
    names = ("p", "g", *rule.state)
    passes = [dict(zip(names, accesses, strict=True)) for accesses in (rule.reduces, rule.updates) if accesses]
    reads = {name for accesses in passes for name, access in accesses.items() if access}
    writes = {name for accesses in passes for name, access in accesses.items() if access == "rw"}

    def stepped(spoilt: str = "") -> tuple[dict[str, bytes], dict[str, bytes]]:
        opt, grads = optimizer_on(case, [50], FLOAT32, FLOAT32)
        opt.step(grads)
        slot = opt.param_states[0]
        arrays = {"p": slot.p, "g": grads[0], **slot.state}
        grads[0] *= 0.7
        if spoilt:
            arrays[spoilt] *= -3
        before = {name: array.tobytes() for name, array in arrays.items()}
        opt.step(grads)
        return before, {name: array.tobytes() for name, array in arrays.items()}

    before, after = stepped()
    changed = {name for name in names if before[name] != after[name]}
    assert changed <= writes
    assert writes - changed <= {"p", *case.every_state} - {"p", *case.written}
    for name in set(names) - writes:
        other = stepped(name)[1]
        moved = {n for n in after if n != name and other[n] != after[n]}
        assert bool(moved) == (name in reads), f"{name} is {'' if name in reads else 'not '}read, but moves {moved}"


# What an element of float32 costs by hand: p and g, and what the papers' formulas keep.
BYTES = {"sgd": 12, "lion": 20, "adam": 28, "adagrad": 20, "adan": 44, "lars": 28, "lamb": 40, "novograd": 24}
BYTES |= {"madgrad": 32, "sophia": 24, "prodigy": 52, "signsgd": 12}


@pytest.mark.parametrize(("name", "count"), BYTES.items())
def test_bytes_are_those_counted_by_hand(name: str, count: int) -> None:
    assert Task(name, one_array(10)).bytes_moved == 10 * count


def test_bytes_follow_the_formats_and_the_average() -> None:
    ten = one_array(10)
    assert Task("adam", ten, "float16", "float16").bytes_moved == 10 * (2 * 2 + 2 + 4 * 4)
    assert Task("adam", ten, "bfloat16", "float32").bytes_moved == 10 * (2 * 2 + 4 + 4 * 4)
    assert Task("adam", ten, "float64", "float64").bytes_moved == 10 * (2 * 8 + 8 + 4 * 8)
    assert Task("adam", ten, options=(("ema", 0.9),)).bytes_moved == 10 * 36
    assert Task("adam", ten, options=(("amsgrad", True),)).bytes_moved == 10 * 36


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
@pytest.mark.parametrize("p_dtype", DTYPES, ids=str)
def test_memory_is_that_of_the_arrays(case: Case, p_dtype: DType) -> None:
    given = tuple((k, v) for k, v in case.options.items() if v != case.optimizer.defaults[k])
    about = Task(case.optimizer.name, Work("w", ((30,), (2, 5))), p_dtype.name, p_dtype.name, options=given)
    opt, grads = task.optimizer_of(about, "native")
    arrays = [a for slot in opt.param_states for a in (slot.p, *slot.state.values()) if a.shape == slot.p.shape]
    assert about.bytes_kept == sum(array.nbytes for array in [*arrays, *grads])
