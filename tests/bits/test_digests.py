"""Parameters and state after ten steps are what they were when digests.txt was recorded."""

from __future__ import annotations

import platform

import pytest

import digests
import fastoptim as fo
from cases import Case
from loops import each_case

RECORDED = digests.recorded()
PYTHON_POWERS = platform.libc_ver()[0] == "glibc"  # whose results were recorded


def check_digests(case: Case) -> None:
    """After an intended change: ``python tests/digests.py --record``, in a commit that says why."""
    if case.optimizer.host_constants and not PYTHON_POWERS:
        pytest.skip("some of this optimizer's constants come from Python's power function, which is the C library's")
    if case.optimizer.name not in RECORDED:
        pytest.skip("an optimizer that was added since the digests were recorded")
    assert digests.line_of(case) in RECORDED[case.optimizer.name], case.id


@each_case(digests.all_cases()[::4])
def test_cases_have_the_recorded_digests(case: Case) -> None:
    check_digests(case)


@pytest.mark.exhaustive
@each_case(digests.all_cases())
def test_every_case_has_the_recorded_digests(case: Case) -> None:
    check_digests(case)


def test_every_recorded_optimizer_exists() -> None:
    assert set(RECORDED) <= set(fo.OPTIMIZERS)
