"""The import graph of the package, built from its sources: no cycle, and layers that point one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import fastoptim as fo

PACKAGE = Path(fo.__file__).parent

#: From the lowest layer to the highest; a module imports those of lower layers and of its own.
LAYERS = (
    ("_core", "core", "_interpreter", "block_codes", "extra_bits", "random_bits", "reference_math", "texts"),
    ("options",),
    ("arrays",),
    ("engines",),
    ("files",),
    ("schedules", "loss_scale", "norms", "threads"),
    ("early_stopping",),
    ("optimizer",),
    ("lbfgs", "matrix", "rules", "wrappers"),
    ("sgld",),
    ("functional",),
    ("reference",),
    ("",),  # fastoptim/__init__.py
    ("frontends",),
    ("autograd", "distributed", "scipy", "thinc", "torch"),
    ("bench",),
    ("__main__",),
)

#: Packages that may be imported inside a function, since they are optional.
OPTIONAL = {"cupy", "matplotlib", "ml_dtypes", "tqdm"}

#: Modules of the package that may be imported inside a function, to save import time.
LAZY = {("bench.plot", "bench.table")}


class Import(NamedTuple):
    """One import: the importing module and the imported one, by their names inside the package."""

    module: str
    imported: str
    line: int
    is_nested: bool  # inside a function


def modules_in(root: Path) -> dict[str, Path]:
    """Return every module below a package by its dotted name; "" is the package itself."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """Yield the imports of other modules of the package; those under TYPE_CHECKING count as any."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    package = [part for part in package if part]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nested = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or (
            node.level == 0 and (node.module or "").split(".")[0] != "fastoptim"
        ):
            continue
        if node.level:
            base = package[: len(package) - (node.level - 1)] + (node.module or "").split(".")
        else:
            base = (node.module or "").split(".")[1:]
        name = ".".join(part for part in base if part)
        for alias in node.names:
            inner = f"{name}.{alias.name}".removeprefix(".")
            imported = inner if inner in known or inner == "_core" else name
            yield Import(module, imported, node.lineno, id(node) in nested)


def graph_of(root: Path) -> list[Import]:
    """Return all imports between modules of a package."""
    known = modules_in(root)
    found = [edge for module, path in known.items() for edge in imports_of(module, path, known)]
    return [edge for edge in found if edge.module != edge.imported]


def cycle_in(edges: list[Import]) -> list[str]:
    """Return the modules of one cycle, empty if there is none."""
    targets: dict[str, list[str]] = {}
    for edge in edges:
        targets.setdefault(edge.module, []).append(edge.imported)
    done: set[str] = set()
    trail: list[str] = []

    def visit(module: str) -> list[str]:
        if module in trail:
            return trail[trail.index(module) :]
        if module in done:
            return []
        trail.append(module)
        for target in targets.get(module, []):
            if cycle := visit(target):
                return cycle
        trail.pop()
        done.add(module)
        return []

    return next((cycle for module in targets if (cycle := visit(module))), [])


def layer_of(module: str) -> int:
    """Return the height of a module's layer; a module without a layer is an error of this table."""
    top = module.split(".")[0]
    return next(height for height, names in enumerate(LAYERS) if top in names)


def against_layers(edges: list[Import]) -> list[Import]:
    """Return the imports of a higher layer."""
    return [edge for edge in edges if layer_of(edge.imported) > layer_of(edge.module)]


def nested_imports(root: Path) -> list[str]:
    """Return the imports inside functions, as ``module:line: imported``, that are not on the lists above."""
    known = modules_in(root)
    found = [
        f"{edge.module}:{edge.line}: {edge.imported}"
        for edge in graph_of(root)
        if edge.is_nested and (edge.module, edge.imported) not in LAZY
    ]
    for module, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import):
                        names = [alias.name for alias in node.names]
                    elif isinstance(node, ast.ImportFrom) and node.level == 0:
                        names = [node.module or ""]
                    else:
                        continue
                    found += [f"{module}:{node.lineno}: {name}" for name in names if name.split(".")[0] not in OPTIONAL]
    return sorted(set(found))


def test_the_package_has_no_import_cycle() -> None:
    edges = graph_of(PACKAGE)
    assert {edge.module for edge in edges} >= {"optimizer.base", "rules.adam", "engines.native", "functional", ""}
    assert cycle_in(edges) == []


def test_imports_point_to_lower_layers() -> None:
    assert against_layers(graph_of(PACKAGE)) == []


def test_imports_inside_functions_are_of_optional_packages() -> None:
    assert nested_imports(PACKAGE) == []


# ---- the checks themselves, on small packages


def write(root: Path, sources: Mapping[str, str]) -> Path:
    for name, text in sources.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("sources", "cycle"),
    [
        ({"a.py": "from . import b", "b.py": "from .a import x"}, {"a", "b"}),
        ({"a.py": "from .b import x", "b.py": "import numpy"}, set()),
        (
            {"a.py": "if TYPE_CHECKING:\n    from .b import x", "b.py": "def f():\n    from fastoptim.a import y"},
            {"a", "b"},
        ),
        (
            {
                "p/__init__.py": "",
                "p/a.py": "from ..q.b import x",
                "q/b.py": "from ..q import c",
                "q/c.py": "from ..p import a",
            },
            {"p.a", "q.b", "q.c"},
        ),
        ({"__init__.py": "from .a import x", "a.py": "from . import y"}, {"", "a"}),
    ],
    ids=["two modules", "none", "typing and nested", "packages", "the package itself"],
)
def test_a_cycle_is_found(tmp_path: Path, sources: dict[str, str], cycle: set[str]) -> None:
    assert set(cycle_in(graph_of(write(tmp_path, sources)))) == cycle


@pytest.mark.parametrize(
    ("sources", "wrong"),
    [
        ({"arrays/tree.py": "from ..optimizer.base import x", "optimizer/base.py": ""}, ["optimizer.base"]),
        ({"options/a.py": "from ..arrays import b", "arrays/b.py": ""}, ["arrays.b"]),
        ({"rules/adam.py": "from ..optimizer.base import x", "optimizer/base.py": ""}, []),
    ],
    ids=["two layers up", "one layer up", "down"],
)
def test_an_import_of_a_higher_layer_is_found(tmp_path: Path, sources: dict[str, str], wrong: list[str]) -> None:
    assert [edge.imported for edge in against_layers(graph_of(write(tmp_path, sources)))] == wrong


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from .b import x", ["a:2: b"]),
        ("def f():\n    import json", ["a:2: json"]),
        ("def f():\n    import tqdm", []),
        ("from .b import x", []),
    ],
    ids=["of the package", "of another", "optional", "at the top"],
)
def test_an_import_inside_a_function_is_found(tmp_path: Path, source: str, found: list[str]) -> None:
    assert nested_imports(write(tmp_path, {"a.py": source, "b.py": ""})) == found
