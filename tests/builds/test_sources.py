"""Check the rules of dependency and arithmetic over the sources."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases import CHECKOUT
from loops import loop

CSRC = CHECKOUT / "csrc"
PACKAGE = CHECKOUT / "python" / "fastoptim"

pytestmark = pytest.mark.skipif(not CSRC.exists(), reason="needs the sources: these tests run in a checkout")

SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


# ---- C++ sources


def code_of(path: Path) -> str:
    """The text without comments."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def includes(path: Path) -> tuple[list[str], list[str]]:
    """Return the headers of the project, relative to csrc, and those in angle brackets."""
    code = code_of(path)
    quoted = re.findall(r'^\s*#\s*include\s*"([^"]+)"', code, re.MULTILINE)
    ours = [Path(os.path.normpath(path.parent / name)).relative_to(CSRC).as_posix() for name in quoted]
    return ours, re.findall(r"^\s*#\s*include\s*<([^>]+)>", code, re.MULTILINE)


def is_standard(header: str) -> bool:
    return re.fullmatch(r"[a-z_0-9]+|immintrin\.h", header) is not None  # the last is each compiler's own


def is_unknowing(path: Path) -> bool:
    """Return True if a file includes only the standard library."""
    ours, others = includes(path)
    return not ours and all(map(is_standard, others))


#: The headers that code of each layer may include, by the directories and files that form it.  Later layers may include
#: all earlier ones and their own.
LAYERS = (
    ("rule.h", "random_bits.h"),
    ("formats.h", "array_ref.h", "block_codes.h", "extra_bits.h", "step.h", "reduce.h"),
    (
        "rules",
        "rules.h",
        "rule_traits.h",
        "rule_info",
        "pass.h",
        "plan_passes",
        "prepare.h",
        "update_config",
        "device.h",
    ),
    ("cpu", "cuda"),
    ("python", "bench"),
)
EVERYWHERE = {"expect.h", "float_environment.h"}  # they include the standard library alone


def layer_of(name: str) -> int:
    """Return the index of the layer of a file, named relative to csrc."""
    first, stem = name.split("/")[0], name.split(".")[0]
    return next(i for i, parts in enumerate(LAYERS) if first in parts or stem in parts)


def test_sources_are_found() -> None:
    assert {"rule.h", "rules.h", "step.h", "module.cpp"} <= {path.name for path in SOURCES}
    assert {"native.py", "base.py"} <= {path.name for path in MODULES}


@loop("path", SOURCES)
def test_includes_follow_the_layers(path: Path) -> None:
    name = path.relative_to(CSRC).as_posix()
    if name in EVERYWHERE:
        return
    for header in includes(path)[0]:
        if header in EVERYWHERE or not (CSRC / header).exists():  # generated
            continue
        assert layer_of(header) <= layer_of(name), (name, header)
        if {name.split("/")[0], header.split("/")[0]} == {"cpu", "cuda"}:
            raise AssertionError(f"{name} includes {header}: neither device may depend on the other")


@loop("name", sorted(EVERYWHERE))
def test_small_headers_include_the_standard_library_alone(name: str) -> None:
    assert is_unknowing(CSRC / name)


@loop("path", sorted(CSRC.glob("rules/*")))
def test_a_rule_includes_rule_h_and_nothing_else(path: Path) -> None:
    assert includes(path) == (["rule.h"], [])


def test_rule_h_includes_the_standard_library_alone() -> None:
    assert is_unknowing(CSRC / "rule.h")
    assert not {"thread", "mutex", "atomic"} & set(includes(CSRC / "rule.h")[1])


@loop("path", SOURCES)
def test_the_bindings_alone_include_python(path: Path) -> None:
    _, others = includes(path)
    python = [header for header in others if re.search(r"pybind11|Python\.h|numpy", header)]
    assert path.parent.name in ("python", "bench") or not python


@loop("path", SOURCES)
def test_cuda_is_seen_by_its_loop_alone(path: Path) -> None:
    _, others = includes(path)
    cuda = [header for header in others if re.match(r"cuda|cu[a-z]*\.h|cub/|thrust/|cooperative_groups|nv", header)]
    assert path.is_relative_to(CSRC / "cuda") or not cuda


@loop("path", sorted(CSRC.glob("rules/*")))
def test_every_rule_is_registered(path: Path) -> None:
    assert f"rules/{path.name}" in includes(CSRC / "rules.h")[0]


# ---- arithmetic

# Not rounded correctly by every library, or more than one rounding: each would give other bits somewhere else.
INEXACT = (
    r"pow[if]?|exp(?:2|10|m1)?|log(?:2|10|1p)?|(?:arc|a)?(?:sin|cos|tan)h?|atan2|erfc?|[tl]gamma|cbrt"
    r"|hypot|rsqrt|reciprocal|fma|fmod|remainder|fdim"
)


@loop("path", [*sorted(CSRC.glob("rules/*")), CSRC / "rule.h", CSRC / "prepare.h"])
def test_rules_use_exact_operations_alone(path: Path) -> None:
    assert re.findall(rf"\b(?:{INEXACT})[fl]?\s*\(", code_of(path)) == []


@loop("path", sorted(CSRC.glob("rules/*")))
def test_rules_take_their_functions_from_rule_h(path: Path) -> None:
    named = set(re.findall(r"\bstd::(\w+)", code_of(path)))
    assert named <= {"array", "int32_t", "int64_t", "uint32_t", "uint64_t", "size_t"}


@loop("path", sorted(PACKAGE.glob("rules/*.py")))
def test_references_use_exact_operations_alone(path: Path) -> None:
    """Host constants are exempt: native code receives them."""
    tree = without_host_constants(parse(path))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert [name for name in sorted(called) if re.fullmatch(rf"{INEXACT}|power|float_power|dot", name)] == []


def without_host_constants(tree: ast.Module) -> ast.Module:
    """A module without its `compute_host_constants` and the functions that only that needs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if getattr(part, "name", "") != "compute_host_constants"]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    rest = [node for node in tree.body if node not in functions]
    while used := [
        f for f in functions if f.name in {n.id for r in rest for n in ast.walk(r) if isinstance(n, ast.Name)}
    ]:
        rest += used
        functions = [f for f in functions if f not in used]
    return ast.Module(rest, [])


def cmake() -> str:
    return re.sub(r"#[^\n]*", "", (CHECKOUT / "CMakeLists.txt").read_text(encoding="utf-8"))


def test_no_flag_changes_the_arithmetic_or_ties_the_build_to_this_machine() -> None:
    forbidden = (
        r"-march=native|-mtune=native|-mcpu=native|-xHost|-ffast-math|-Ofast|-funsafe-math|-fassociative-math"
        r"|-freciprocal-math|-ffinite-math|-fno-signed-zeros|-ffp-contract=(?!off)|-mfma|-ffp-model=fast|/fp:fast"
        r"|-use_fast_math|--use_fast_math|-ftz=true|-flto"
    )
    assert re.findall(forbidden, cmake()) == []
    assert re.search(r"(?<!\S)-ffp-contract=off(?!\S)", cmake())
    assert "/fp:precise" in cmake()


# ---- Python sources


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each import at run time: the module, with its leading dots, and the names taken from it."""
    tree = parse(path)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


@loop("path", MODULES)
def test_core_alone_imports_the_compiled_module(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = any("_core" in [*module.split("."), *names] for module, names in imports(path))
    named = re.search(r"""["'][\w.]*\b_core["']""", text) is not None  # import_module and the like
    assert (imported or named) == (path == PACKAGE / "core.py")


@loop("path", [p for p in PACKAGE.glob("rules/*.py") if p.name != "__init__.py"])
def test_an_optimizer_imports_the_base_and_other_optimizers_alone(path: Path) -> None:
    relative = {module for module, _ in imports(path) if module.startswith(".")}
    siblings = {f".{other.stem}" for other in PACKAGE.glob("rules/*.py")}
    layers = ("..optimizer.base", "..options.", "..reference_math", "..arrays.param_state", "..engines.base")
    assert all(module in siblings or module.startswith(layers) for module in relative)
    assert not [module for module, _ in imports(path) if module.startswith("fastoptim")]


@loop("path", MODULES)
def test_numpy_is_the_only_package_imported(path: Path) -> None:
    absolute = {module.split(".")[0] for module, _ in imports(path) if not module.startswith(".")}
    library = {path.stem} if path.parent.name == "frontends" else set()
    if path.parent.parent.name == "frontends":
        library = {path.parent.name, "ml_dtypes"}  # and the package by which NumPy has bfloat16
    assert absolute <= {"numpy", "fastoptim", *library, *sys.stdlib_module_names}


def imported_by_name(path: Path) -> set[str]:
    """The packages that `import_module` is called with."""
    names = re.findall(r"""import_module\(["']([\w.]+)""", path.read_text(encoding="utf-8"))
    return {name.split(".")[0] for name in names}


@loop("path", MODULES)
def test_the_benchmark_alone_imports_extras_and_only_where_it_needs_them(path: Path) -> None:
    extras = {"cupy", "matplotlib", "ml_dtypes", "tqdm"}
    encodes_bfloat16 = path == PACKAGE / "reference_math.py"
    assert imported_by_name(path) <= (
        extras if path.parent.name == "bench" else {"ml_dtypes"} if encodes_bfloat16 else set()
    )


def test_numpy_is_the_only_dependency() -> None:
    declared = re.search(r"^dependencies = \[(.*?)\]", (CHECKOUT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert declared
    assert re.findall(r'"([\w-]+)', declared[1]) == ["numpy"]
