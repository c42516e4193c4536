"""Fixtures, and the markers of tests that are not run unasked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

import fastoptim as fo
import fastoptim.engines.native
from cases import ISAS
from devices import import_module
from optional import optional

UNASKED = {
    "exhaustive": "repeats another test over a larger grid; run with -m 'exhaustive or not exhaustive'",
    "large": "needs some 10 GB of memory; run with -m large",
    "gpu": "needs a GPU, CuPy and a build with CUDA; run with -m gpu",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, what in UNASKED.items():
        config.addinivalue_line("markers", f"{name}: {what}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unasked = [name for name in UNASKED if name not in config.option.markexpr]
    left = [item for item in items if any(item.get_closest_marker(name) for name in unasked)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


def pytest_exception_interact(node: pytest.Item, call: pytest.CallInfo[object]) -> None:
    """End the run at an error that ends a CUDA context: every later test would fail."""
    if call.excinfo and "can no longer use the GPU" in str(call.excinfo.value):
        node.session.shouldfail = "the process can no longer use the GPU"


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    before = fo.thread_info()
    yield
    fo.set_num_threads(before["limits"]["call"])
    fo.set_threading(before["threading"])


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Native steps run this instruction set's code."""
    name = str(request.param)
    monkeypatch.setattr(fastoptim.engines.native.Engine, "isa", name)
    return name


@pytest.fixture
def torch() -> Any:
    return optional("torch")


@pytest.fixture
def xp(request: pytest.FixtureRequest) -> Any:
    """CuPy, or its double in an emulated build.  FASTOPTIM_CUPY_POOL=OFF gives each array memory of its own from the
    driver, so that a tool detects writes outside it."""
    module = import_module(request.param)
    if os.environ.get("FASTOPTIM_CUPY_POOL") == "OFF" and request.param == "cupy":
        module.cuda.set_allocator(None)
    return module
