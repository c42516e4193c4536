"""Checkpoints of earlier versions continue with the bits that these had, and the version is the same everywhere."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import pytest

import digests
import fastoptim as fo
import released_checkpoints as released
from cases import CHECKOUT
from loops import loop

FILES = sorted(released.DIRECTORY.glob("*.safetensors"))
PYTHON_POWERS = platform.libc_ver()[0] == "glibc"  # whose results were recorded


def test_there_is_a_checkpoint_of_an_earlier_version() -> None:
    assert "0.1.0" in {path.stem for path in FILES}


@loop("path", FILES)
def test_every_optimizer_continues_from_it(path: Path) -> None:
    runs: dict[str, dict[str, Any]] = fo.load(path)["runs"]
    assert len(runs) >= 40
    for name, run in runs.items():
        cls = fo.OPTIMIZERS[name]
        opt = cls(run["params"])
        opt.load_state_dict(run["state"])
        assert opt.step_count == released.STEPS
        opt.step(released.grads_of_step(released.STEPS + 1))
        if PYTHON_POWERS or not cls.host_constants:
            assert digests.digest_of(opt) == run["digest"], name


@loop("path", FILES)
def test_groups_options_averages_and_schedules_continue_from_it(path: Path) -> None:
    params = released.make_params()
    opt = released.make_rich(params)
    saved = fo.load(path, params=params, optimizer=opt)
    released.step_rich(opt, released.STEPS + 1)
    assert digests.digest_of(opt) == saved["digest"]
    assert opt.param_groups[0]["lr"].rate == 0.05  # halved by the saved count of bad epochs
    assert opt.param_groups[1]["initial_lr"] == 0.01
    scaler = fo.LossScaler()
    scaler.load_state_dict(saved["scaler"])
    assert scaler.scale == 512


@loop("name", ["pyproject.toml", "CITATION.cff", "CHANGELOG.md"])
def test_the_version_is_the_same_everywhere(name: str) -> None:
    """pyproject.toml is its source: the package, and by it the site, read the version that was built from there."""
    if not (CHECKOUT / name).exists() or not (CHECKOUT / "README.md").exists():
        pytest.skip(f"needs {name}: this test runs in a checkout")
    text = (CHECKOUT / name).read_text(encoding="utf-8")
    found = re.search(r'^(?:version(?: =|:) "?|## (?!Unreleased))(\d[\w.]*)', text, flags=re.MULTILINE)
    assert found
    assert found[1] == fo.__version__


def test_the_changelog_and_the_citation_have_the_same_date() -> None:
    dates = []
    for name, pattern in {"CHANGELOG.md": r"^## \d\S* - (\S+)$", "CITATION.cff": r'^date-released: "(.*)"$'}.items():
        if not (CHECKOUT / "README.md").exists():
            pytest.skip(f"needs {name}: this test runs in a checkout")
        found = re.search(pattern, (CHECKOUT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert found
        dates.append(found[1])
    assert dates[0] == dates[1]
