"""Fixtures, and the marker of tests that are too big to run unasked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fastoptim as fo
import fastoptim.native
from cases import ISAS


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "large: needs some 10 GB of memory; run with -m large")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "large" in config.option.markexpr:
        return
    large = [item for item in items if item.get_closest_marker("large")]
    if large:
        config.hook.pytest_deselected(items=large)
        items[:] = [item for item in items if item not in large]


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    before = fo.get_num_threads()
    yield
    fo.set_num_threads(before)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Native steps run this instruction set's code."""
    name = str(request.param)
    monkeypatch.setattr(fastoptim.native.Engine, "isa", name)
    return name
