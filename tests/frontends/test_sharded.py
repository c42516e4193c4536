"""`fo.distributed.Sharded` under MPI, with one to four processes; the division of arrays; links without processes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.frontends.sharded.buckets import owners_of
from loops import loop
from mpi_jobs import launch, run


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_optimizer_has_the_bits_of_one_process(ranks: int) -> None:
    run(ranks, "bits")


@pytest.mark.parametrize(
    ("ranks", "check"),
    [
        (3, "small_buckets"),
        (2, "bits_of_reference"),
        (3, "groups_and_swaps"),
        (3, "copies"),
        (3, "matrix_methods_and_factored_optimizers"),
        (3, "mixed"),
        (2, "accumulation"),
        (3, "added_groups"),
        (1, "memory"),
        (4, "memory"),
    ],
)
def test_it_is_one_optimizer_to_its_user(ranks: int, check: str) -> None:
    run(ranks, check)


@pytest.mark.exhaustive
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_variant_has_the_bits_of_one_process(ranks: int) -> None:
    run(ranks, "bits_of_variants")


def test_a_file_continues_with_any_number_of_ranks(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    for ranks in (3, 1, 4):
        run(ranks, "relay", path)
    once = str(tmp_path / "once")
    run(1, "relay", once, "3")
    assert Path(path).read_bytes() == Path(once).read_bytes()
    saved = fo.load(path)
    opt = fo.LAMB(saved["params"])
    opt.load(path)
    assert opt.step_count == 9


def test_an_error_on_one_rank_is_an_error_on_all_and_harmless(tmp_path: Path) -> None:
    said = run(3, "errors", str(tmp_path))
    assert [f"rank {rank} is through" in said for rank in range(3)] == [True] * 3


@loop(
    ("check", "message"),
    [
        ("leaves_by_exception", "step: rank 1 has left"),
        ("leaves_by_exit", "step: rank 1 has left"),
        ("interrupted", "step: rank 1 stopped in step with KeyboardInterrupt"),
    ],
)
def test_a_rank_that_leaves_is_one_clear_error_on_the_others(check: str, message: str) -> None:
    done = launch(3, check, patience=60)
    assert [f"rank {rank}: {message}" in done.stdout for rank in range(3)] == [True, False, True], done.stderr


def test_a_rank_that_is_killed_or_late_does_not_keep_the_others() -> None:
    assert launch(3, "killed", patience=60).returncode != 0
    said = launch(3, "timeout", patience=60).stdout
    assert said.count("expected the other ranks within 0.5 s") == 2


# ---- without processes


def test_arrays_go_to_the_rank_with_the_least_the_largest_first() -> None:
    assert owners_of([5, 9, 1, 7, 3], 2) == [1, 0, 0, 1, 0]
    assert owners_of([4, 4, 4], 2) == [0, 1, 0]
    assert owners_of([1], 3) == [0]
    assert owners_of([4, 4, 4], 2, [(0, 6), (1, 1)]) == [1, 1, 0]
    rng = np.random.default_rng(0)
    for ranks in (1, 2, 3, 7):
        sizes = rng.integers(1, 1000, 50).tolist()
        owners = owners_of(sizes, ranks)
        loads = np.bincount(owners, sizes, ranks)
        assert loads.max() <= sum(sizes) / ranks + max(sizes)


def test_what_is_no_communicator_is_named() -> None:
    with pytest.raises(TypeError, match=r"comm: expected a communicator of mpi4py, .*, got builtins\.object"):
        fo.distributed.Sharded(fo.Adam, np.zeros(3), object())


def test_fastoptim_imports_neither_this_nor_mpi() -> None:
    code = "import sys, fastoptim; print([m for m in sys.modules if 'frontends' in m or 'mpi4py' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif(find_spec("flwr") is None, reason="in CI's stage with the peers")
def test_the_stage_with_the_peers_has_mpi() -> None:
    assert find_spec("mpi4py")
    assert run(1, "memory") == ""
