"""The bandwidth probe reads and writes what the step does, and the bytes are counted accordingly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from bench_helpers import check_probes

import fastoptim as fo
from cases import DTYPES, FLOAT32, MIN_SHARE, PLAIN_CASES, Case, DType, case_id
from fastoptim.bench import internals
from fastoptim.bench.workload import Workload

FEW_CASES = [case for case in PLAIN_CASES if case.id in ("adam", "lamb", "madgrad")]


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

    def step(changed: str = "") -> tuple[dict[str, bytes], dict[str, bytes]]:
        opt, grads = internals.make_optimizer(Workload(case.optimizer.name, "", ((50,),), options=case.options))
        opt.step(grads)
        arrays = {"p": opt.param_states[0].p, "g": grads[0], **opt.param_states[0].state}
        for name in passes[-1].keys() - {"p", "g"}:
            arrays[name] += np.float32(
                10 if name == "h" else 0.01
            )  # no state is zero, and Sophia's step is not clipped
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
    ],
)
def test_bytes_are_those_counted_by_hand(
    name: str, dtype: str, grad_dtype: str, options: dict[str, float], moved: int
) -> None:
    workload = Workload(name, "", ((30,), (2, 5)), dtype, grad_dtype, options=options)
    opt, grads = internals.make_optimizer(workload)
    assert internals.bytes_moved(workload) == 40 * moved
    arrays = [a for param in opt.param_states for a in (param.p, *param.state.values()) if a.shape == param.p.shape]
    assert internals.bytes_kept(workload) == sum(array.nbytes for array in [*arrays, *grads])
