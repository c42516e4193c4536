"""The front ends' libraries are optional."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

FRONT_ENDS = ("scipy", "thinc", "torch")


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name, *(module for module in sys.modules if module.startswith(f"{name}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    for module in (f"fastoptim.{name}", f"fastoptim.frontends.{name}"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ImportError, match=rf"^fastoptim\.{name}: expected .*; pip install 'fastoptim\[{name}\]'$"):
        importlib.import_module(f"fastoptim.{name}")


def test_fastoptim_imports_no_front_end() -> None:
    code = "import sys, fastoptim; print([m for m in sys.modules if 'frontends' in m or m in sys.argv])"
    run = [sys.executable, "-c", code, *FRONT_ENDS]
    assert subprocess.run(run, capture_output=True, check=True, text=True).stdout == "[]\n"
