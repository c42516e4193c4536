"""Packages that some tests need: a test without its package is skipped, and says how to install it."""

from __future__ import annotations

import re
from typing import Any

import pytest

PIP = {
    **dict.fromkeys(("jax", "keras", "numexpr", "optax", "torch"), "'.[peers]'"),
    "mpi4py": "'.[mpi]'",
    "safetensors": "'.[files]'",
    **dict.fromkeys(("matplotlib", "sklearn", "tqdm"), "'.[examples]'"),
    **{name: f"'.[{name}]'" for name in ("scipy", "thinc")},
    **dict.fromkeys(
        ("autograd", "expecttest", "flwr", "optimi", "optuna", "pytorch_optimizer", "spacy"), ".ci/run has the version"
    ),
}


def import_needs(code: str) -> None:
    """Skip the test unless the packages that the code imports, or whose front end it imports, are installed."""
    for package in re.findall(r"^(?:>>> )?(?:import|from) (?:fastoptim\.)?(\w+)", code, flags=re.MULTILINE):
        if package in PIP:
            optional(package)


def optional(name: str) -> Any:
    """Import a package, or skip the test."""
    package = name.partition(".")[0]
    reason = f"needs {package}: pip install {PIP.get(package, package)}"
    return pytest.importorskip(name, reason=reason, exc_type=ImportError)
