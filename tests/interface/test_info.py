"""build_info, the command line, the environment variables, and the stub of the native module."""

from __future__ import annotations

import ast
import importlib.resources
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from types import ModuleType

import pytest

import fastoptim as fo
from fastoptim import _core

KINDS: dict[str, type | tuple[type, ...]] = {
    "version": str,
    "compiler": str,
    "isa_compiled": list,
    "isa_usable": list,
    "isa": str,
    "openmp": bool,
    "threads": int,
    "cuda": (str, type(None)),
    "cuda_architectures": list,
    "cuda_devices": list,
}
THREADS = "import fastoptim; print(fastoptim.get_num_threads())"


def run(*arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments and with these variables changed; None removes one."""
    merged: dict[str, str | None] = {**os.environ, "FASTOPTIM_ISA": None, "OMP_NUM_THREADS": None, **environment}
    merged["PYTHONPATH"] = os.pathsep.join([str(Path(fo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    kept = {name: value for name, value in merged.items() if value is not None}
    return subprocess.run([sys.executable, *arguments], env=kept, capture_output=True, text=True, timeout=60)


def printed(*arguments: str, **environment: str | None) -> str:
    done = run(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- build_info


def test_build_info_has_every_key_of_its_type() -> None:
    info = fo.build_info()
    assert set(info) >= set(KINDS)
    assert {key: type(info[key]) for key, kind in KINDS.items() if not isinstance(info[key], kind)} == {}
    assert all(isinstance(entry, str) for value in info.values() if isinstance(value, list) for entry in value)


def test_build_info_agrees_with_itself() -> None:
    info = fo.build_info()
    assert info["version"] == fo.__version__
    assert info["isa_usable"]
    assert set(info["isa_usable"]) <= set(info["isa_compiled"])
    assert info["isa"] in info["isa_usable"]
    assert info["isa_compiled"][0] == info["isa_usable"][0] == "baseline"
    assert info["threads"] == fo.get_num_threads() >= 1
    assert info["openmp"] or info["threads"] == 1
    assert bool(info["cuda"]) == bool(info["cuda_architectures"])
    assert info["compiler"].split()[1][0].isdigit()


def test_build_info_is_a_fresh_dict() -> None:
    fo.build_info()["version"] = "changed"
    assert fo.build_info()["version"] == fo.__version__


def test_version_is_the_distribution_s() -> None:
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?\S*", fo.__version__)
    try:
        assert version("fastoptim") == fo.__version__
    except PackageNotFoundError:
        pytest.skip("not installed as a distribution")


def test_the_distribution_needs_numpy_alone() -> None:
    try:
        needed = requires("fastoptim") or []
    except PackageNotFoundError:
        pytest.skip("not installed as a distribution")
    assert [re.split(r"[^\w-]", entry)[0] for entry in needed if "extra ==" not in entry] == ["numpy"]


# ---- the command line


def test_info_prints_every_entry() -> None:
    lines = printed("-m", "fastoptim", "info").splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert list(shown) == list(fo.build_info())
    assert shown["version"] == fo.__version__
    assert shown["isa_usable"] == ", ".join(fo.build_info()["isa_usable"])
    assert not {"None", "[]", ""} & set(shown.values())


def test_help_names_the_commands() -> None:
    text = printed("-m", "fastoptim", "--help")
    assert "python -m fastoptim" in text
    assert "info" in text


def test_a_missing_or_unknown_command_is_an_error_of_usage() -> None:
    for arguments in ([], ["no-such-command"]):
        done = run("-m", "fastoptim", *arguments)
        assert done.returncode == 2
        assert "usage: python -m fastoptim" in done.stderr
        assert "Traceback" not in done.stderr


# ---- instruction sets


@pytest.mark.parametrize("unset", [None, ""], ids=["unset", "empty"])
def test_the_strongest_instruction_set_is_the_default(unset: str | None) -> None:
    chosen = printed("-c", "import fastoptim; print(fastoptim.build_info()['isa'])", FASTOPTIM_ISA=unset)
    assert chosen == fo.build_info()["isa_usable"][-1]


# ---- threads

needs_openmp = pytest.mark.skipif(not fo.build_info()["openmp"], reason="built without OpenMP: always one thread")
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no process affinity")


def cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []


@needs_openmp
@needs_affinity
@pytest.mark.parametrize("count", sorted({1, min(2, len(cpus())), len(cpus())}))
def test_else_the_cpus_that_this_process_may_use(count: int) -> None:
    allowed = set(cpus()[:count])
    assert printed("-c", f"import os; os.sched_setaffinity(0, {allowed}); {THREADS}") == str(count)


@needs_openmp
@needs_affinity
def test_omp_num_threads_goes_before_the_cpus() -> None:
    bound = f"import os; os.sched_setaffinity(0, {{{cpus()[0]}}}); {THREADS}"
    assert printed("-c", bound, OMP_NUM_THREADS="2") == "2"


# ---- the package


@pytest.mark.parametrize("package", ["cupy", "torch", "ml_dtypes"])
def test_importing_and_stepping_loads_no_other_package(package: str) -> None:
    steps = (
        "import sys, numpy as np, fastoptim as fo\n"
        "for cls in fo.OPTIMIZERS.values():\n"
        "    for backend in ('native', 'reference'):\n"
        "        opt = cls(np.ones(3), backend=backend)\n"
        "        opt.step(np.ones(3))\n"
        "        opt.load_state_dict(opt.state_dict())\n"
        f"print({package!r} in sys.modules)\n"
    )
    assert printed("-c", steps) == "False"


def test_the_package_is_typed() -> None:
    files = importlib.resources.files(fo)
    assert files.joinpath("py.typed").is_file()
    assert files.joinpath("_core.pyi").is_file()


def stub() -> ast.Module:
    return ast.parse(importlib.resources.files(fo).joinpath("_core.pyi").read_text(encoding="utf-8"))


def names_in(body: list[ast.stmt]) -> set[str]:
    named = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    annotated = (node for node in body if isinstance(node, ast.AnnAssign))
    return named | {ast.unparse(node.target) for node in annotated if ast.unparse(node.annotation) != "TypeAlias"}


METHODS = ("__init__", "__call__", "__enter__", "__exit__")


def public(names: Mapping[str, object]) -> set[str]:
    return {name for name in names if not name.startswith("_") or name in METHODS}


def test_the_stub_names_what_the_native_module_has() -> None:
    assert names_in(stub().body) == public(vars(_core))


@pytest.mark.parametrize("node", [n for n in stub().body if isinstance(n, ast.ClassDef)], ids=lambda node: node.name)
def test_the_stub_names_what_a_native_class_has(node: ast.ClassDef) -> None:
    assert names_in(node.body) == public(vars(getattr(_core, node.name)))


def test_all_public_names_are_there() -> None:
    """No other names are public, whatever the package imports."""
    names = {name: getattr(fo, name) for name in dir(fo) if not name.startswith("__")}
    assert sorted(names) == fo.__all__
    assert all(fo.__dir__().count(name) == 1 for name in names)
    assert {name for name, value in names.items() if isinstance(value, ModuleType)} == {
        *("distributed", "functional", "reference", "schedules"),
    }
    assert {name: value for name, value in names.items() if value in fo.OPTIMIZERS.values()} == {
        cls.__name__: cls for cls in fo.OPTIMIZERS.values()
    }
    other = {"OPTIMIZERS", "Optimizer", "LossScaler", "global_norm", "build_info", "thread_info"}
    assert other | {"get_num_threads", "set_num_threads", "set_threading"} <= set(names)


@pytest.mark.parametrize("optimizer", fo.OPTIMIZERS.values(), ids=lambda cls: cls.name)
def test_a_signature_shows_plain_types_and_defaults(optimizer: type[fo.Optimizer]) -> None:
    signature = inspect.signature(optimizer)
    for private in ("Annotated", "Range", "fastoptim", "ndarray["):
        assert private not in str(signature)
    assert f"lr: float | collections.abc.Callable | numpy.ndarray = {optimizer.defaults['lr']!r}, " in str(signature)
    assert {name: p.default for name, p in signature.parameters.items() if name in optimizer.defaults} == dict(
        optimizer.defaults
    )


def test_bfloat16_loaded_after_the_first_step() -> None:
    """In a process of its own, which a step that never ends must not outlive."""
    code = """
import numpy as np, fastoptim as fo
p = np.ones(3, np.float32)
opt = fo.SGD(p, lr=1.0)
opt.step(np.ones(3, np.float32))
import ml_dtypes
opt.step(np.ones(3, ml_dtypes.bfloat16))
assert p.tolist() == [-1, -1, -1]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
