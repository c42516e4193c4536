"""The bandwidth probe reads and writes what the step does, and the bytes are counted accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    DTYPES,
    FLOAT32,
    MIN_SHARE,
    PLAIN_CASES,
    Array,
    Case,
    DType,
    case_id,
    ordinary_values,
    state_values,
)
from fastoptim.bench import internals
from fastoptim.bench.workload import Workload
from fastoptim.options.schema import AVERAGE

MASK = 0x0123_4567_89AB_CDEF
FEW_CASES = [case for case in PLAIN_CASES if case.id in ("adam", "lamb", "madgrad")]


def check_probes(case: Case, p_dtype: DType, g_dtype: DType, sizes: Sequence[int]) -> None:
    """Call every probe with a mask of 0 and, for arrays of one format, another; compare all bytes with the accesses."""
    rng = np.random.default_rng(0)
    opt = case.optimize([ordinary_values(rng, p_dtype, size) for size in sizes])
    grads = [ordinary_values(rng, g_dtype, size) for size in sizes]
    opt.step(grads)
    models: list[dict[str, Array]] = []
    for param, g in zip(opt.param_states, grads, strict=True):
        models.append({"p": param.p, "g": g} | {k: a for k, a in param.state.items() if a.shape == param.p.shape})
        for array in list(models[-1].values())[2:]:
            array[...] = state_values(rng, array.dtype, array.size).reshape(array.shape)
    workload = Workload(case.optimizer.name, "", tuple((size,) for size in sizes), options=case.options)
    same_format = p_dtype == g_dtype and p_dtype.itemsize >= 4
    for probe in internals.make_probes(opt, grads, workload).values():
        for mask in (0, MASK) if same_format else (0,):
            expected = [after_probe(model, case, mask) for model in models]
            probe(mask)
            assert [{k: a.tobytes() for k, a in model.items()} for model in models] == expected


def after_probe(model: dict[str, Array], case: Case, mask: int) -> dict[str, bytes]:
    """Return the bytes after a probe: each written word is XORed with the masked XOR of those that are only read."""
    words = {name: array.reshape(-1).view(f"u{array.itemsize}").copy() for name, array in model.items()}
    masked = words["p"].dtype.type(mask & (2 ** (8 * model["p"].itemsize) - 1))
    for accesses in internals.passes_of(case.optimizer.check_options(case.options)):
        change = np.zeros_like(words["p"])
        for name, access in accesses.items():
            if mask and access == "r":
                change ^= words[name]
        for name, access in accesses.items():
            if mask and access == "rw":
                words[name] ^= masked if name == AVERAGE else change & masked
    return {name: array.tobytes() for name, array in words.items()}


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
@pytest.mark.parametrize(("p_dtype", "g_dtype"), list(product(DTYPES, DTYPES)), ids=str)
def test_a_probe_accesses_what_the_rule_declares(case: Case, p_dtype: DType, g_dtype: DType) -> None:
    check_probes(case, p_dtype, g_dtype, [1, 67, 0, 130])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", FEW_CASES, ids=case_id)
def test_a_probe_visits_every_element_once_on_any_number_of_threads(case: Case, threads: int) -> None:
    fo.set_num_threads(threads)
    check_probes(case, FLOAT32, FLOAT32, [4 * MIN_SHARE + 5, 1001, 3 * MIN_SHARE])


def test_a_probe_accesses_an_average() -> None:
    check_probes(Case(fo.SGD, {"ema": 0.9}, "ema"), FLOAT32, FLOAT32, [100])


@pytest.mark.parametrize("case", PLAIN_CASES, ids=case_id)
def test_a_step_accesses_what_its_rule_declares(case: Case) -> None:
    """Only declared arrays change, and a changed input changes the result if and only if it is declared as read."""
    passes = internals.passes_of(case.optimizer.check_options(case.options))
    reads = {name for accesses in passes for name, access in accesses.items() if access}
    writes = {name for accesses in passes for name, access in accesses.items() if access == "rw"}
    writes |= {name for name, array in case.optimizer.state_schema.items() if array.is_of_rows}  # between passes

    def step(changed: str = "") -> tuple[dict[str, bytes], dict[str, bytes]]:
        opt, grads = internals.make_optimizer(Workload(case.optimizer.name, "", ((50,),), options=case.options))
        opt.step(grads)
        arrays = {"p": opt.param_states[0].p, "g": grads[0], **opt.param_states[0].state}
        for name in passes[-1].keys() - {"p", "g"}:  # no state is zero, and Sophia's step is not clipped
            arrays[name] += np.float32(10 if name == "h" else 0.01)
        grads[0] *= 0.7
        if changed:
            arrays[changed] *= -3
        before = {name: array.tobytes() for name, array in arrays.items()}
        opt.step(grads)
        return before, {name: array.tobytes() for name, array in arrays.items()}

    before, after = step()
    assert {name for name in passes[-1] if before[name] != after[name]} <= writes
    for name in passes[-1].keys() - writes:
        other = step(name)[1]
        assert any(other[k] != after[k] for k in after if k != name) == (name in reads), name


@pytest.mark.parametrize(
    ("name", "dtype", "grad_dtype", "options", "moved"),
    [
        *((name, "float32", "float32", {}, moved) for name, moved in (("sgd", 12), ("lion", 20), ("adam", 28))),
        *((name, "float32", "float32", {}, moved) for name, moved in (("adagrad", 20), ("lamb", 40), ("novograd", 24))),
        ("adam", "float16", "float16", {}, 2 * 2 + 2 + 4 * 4),
        ("adam", "bfloat16", "float32", {}, 2 * 2 + 4 + 4 * 4),
        ("adam", "float64", "float64", {}, 2 * 8 + 8 + 4 * 8),
        ("adam", "float32", "float32", {"ema": 0.9}, 36),
        ("adam", "float32", "float32", {"amsgrad": True}, 36),
        ("adam", "float32", "float32", {"state_format": "bfloat16"}, 12 + 2 * 4),
        ("adam", "bfloat16", "bfloat16", {"master_weight_bits": 24}, 6 + 2 + 4 * 4),
    ],
)
def test_bytes_are_those_counted_by_hand(
    name: str, dtype: str, grad_dtype: str, options: dict[str, float], moved: int
) -> None:
    workload = Workload(name, "", ((30,), (2, 5)), dtype, grad_dtype, options=options)
    opt, grads = internals.make_optimizer(workload)
    arrays = [a for param in opt.param_states for a in (param.p, *param.state.values()) if a.shape == param.p.shape]
    assert internals.count_bytes(workload) == (40 * moved, sum(array.nbytes for array in [*arrays, *grads]))


def test_bytes_of_blocks_are_those_of_codes_and_scales() -> None:
    workload = Workload("adam", "", ((4096,), (64, 65), (30,)), options={"state_format": "int8"})
    opt, grads = internals.make_optimizer(workload)
    scales = 4 * (64 + 65)
    sizes = 4096 + 64 * 65
    assert internals.count_bytes(workload)[0] == 12 * sizes + 4 * (sizes + scales) + 28 * 30
    held = opt.state_nbytes + sum(array.nbytes for array in [*opt.params, *grads])
    assert internals.count_bytes(workload)[1] == held
