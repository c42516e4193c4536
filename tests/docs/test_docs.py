"""The documentation runs, and says of every optimizer what it owes the reader."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import CHECKOUT
from loops import loop
from optional import import_needs

README = CHECKOUT / "README.md"
SCHEDULES_PAGE = CHECKOUT / "docs" / "schedules.md"

OPTIMIZERS = list(fo.OPTIMIZERS.values())
SCHEDULES: list[Any] = [
    thing
    for thing in vars(fo.schedules).values()
    if inspect.isclass(thing) and issubclass(thing, fo.schedules.Schedule)
]
SCHEDULES.remove(fo.schedules.Schedule)
MODULES = [
    "fastoptim",
    *(m.name for m in pkgutil.walk_packages(fo.__path__, "fastoptim.") if m.name != "fastoptim._core"),
]

every_optimizer = loop("optimizer", OPTIMIZERS)
every_schedule = loop("schedule", SCHEDULES)


def imported(name: str) -> ModuleType:
    """Import a module; a front end, which has its library's name, needs that."""
    import_needs(f"import {name.rpartition('.')[2]}")
    return importlib.import_module(name)


# ---- examples in docstrings


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    failed, _ = doctest.testmod(imported(name))
    assert failed == 0


@loop("module", [fo, fo.functional, fo.reference, fo.schedules])
def test_public_modules_have_an_example(module: ModuleType) -> None:
    assert doctest.DocTestParser().get_examples(module.__doc__ or "")


@every_optimizer
def test_an_optimizer_s_example_steps_it_and_shows_the_parameters(optimizer: type[fo.Optimizer]) -> None:
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(optimizer) or "")
    source = "".join(example.source for example in examples)
    assert f"fo.{optimizer.__name__}(" in source
    assert ".step(" in source
    assert "array(" in examples[-1].want


# ---- what a docstring owes


def sections(documented_class: type) -> dict[str, str]:
    """The docstring's Args and Raises, by heading, and the text before them."""
    parts = re.split(r"^(Args|Raises):\n", inspect.getdoc(documented_class) or "", flags=re.MULTILINE)
    return {"text": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented(documented_class: type) -> list[str]:
    """The arguments that Args describes, in its order."""
    return re.findall(r"^    (\w+): +\S", sections(documented_class)["Args"], flags=re.MULTILINE)


SHARED = """**shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`."""


@every_optimizer
def test_an_optimizer_has_a_summary_of_one_line(optimizer: type[fo.Optimizer]) -> None:
    first, second = (inspect.getdoc(optimizer) or "").splitlines()[:2]
    assert re.match(r"[A-Z].*\.$", first)
    assert second == ""


@every_optimizer
def test_an_optimizer_has_its_own_formula(optimizer: type[fo.Optimizer]) -> None:
    assert "__doc__" in vars(optimizer)
    formula = re.search(r"^\.\. math::\n((?:    .*\n|\n)+)", sections(optimizer)["text"], flags=re.MULTILINE)
    assert formula
    assert "p &= " in formula[1] or "p = " in formula[1]


@every_optimizer
def test_an_optimizer_documents_every_argument(optimizer: type[fo.Optimizer]) -> None:
    shared = optimizer.shared | {"copies", "backend"}
    own = [name for name in inspect.signature(optimizer).parameters if name not in shared]
    redefined = [name for name in optimizer.shared if vars(fo.Optimizer)[name].default != optimizer.defaults[name]]
    assert [name for name in documented(optimizer) if name not in redefined] == own
    assert [name for name in redefined if name not in (inspect.getdoc(optimizer) or "")] == []
    assert sections(optimizer)["Args"].rstrip().endswith(SHARED)


def test_the_base_documents_what_every_optimizer_takes() -> None:
    assert set(documented(fo.Optimizer)) == {"params", "lr", "convention", "copies", "backend", *fo.Adam.shared}


@every_optimizer
def test_an_optimizer_names_its_source(optimizer: type[fo.Optimizer]) -> None:
    source = re.search(r"^Source: ((?:.+\n)+)", inspect.getdoc(optimizer) or "", flags=re.MULTILINE)
    assert source
    assert re.search(r"\b(19|20)\d\d\b", source[1])
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/|https?://|JMLR|ICML|NeurIPS|ICLR|lecture|\"", source[1])


@every_schedule
def test_a_schedule_s_docstring_is_whole(schedule: type[fo.schedules.Schedule]) -> None:
    text = inspect.getdoc(schedule) or ""
    assert re.match(r"[A-Z].*\.\n\n\.\. math::\n    \S", text)
    assert documented(schedule) == list(inspect.signature(schedule).parameters)
    assert re.search(r"^    (Type|Value)Error: ", sections(schedule)["Raises"], flags=re.MULTILINE)
    assert re.search(r"^Source: .*(arXiv:\d{4}\.\d{4,5}|doi:10\.\d+/|optax\.|tf\.)", text, flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_examples(text)
    assert f"fo.schedules.{schedule.__name__}(" in "".join(example.source for example in examples)
    assert examples[-1].want


@pytest.mark.skipif(not README.exists(), reason="needs docs/schedules.md: this test runs in a checkout")
def test_the_page_on_schedules_has_every_one() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", SCHEDULES_PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    drawn = re.findall(r"Panel\(\w+, \"[^\"]*\", \[s\.(\w+)\(", (CHECKOUT / "examples/schedules.py").read_text("utf-8"))
    assert rows == drawn
    assert sorted(rows) == sorted(schedule.__name__ for schedule in SCHEDULES)


@pytest.mark.skipif(not README.exists(), reason="needs docs/rows.md: this test runs in a checkout")
def test_the_page_on_rows_lists_the_optimizers_that_reject_them() -> None:
    page = (CHECKOUT / "docs" / "rows.md").read_text(encoding="utf-8")
    texts = [
        re.search(r"one number for an array reject rows: (.*)", page),
        re.search(r"one number per array \(([^)]*)\)", inspect.getdoc(fo.Rows) or ""),
    ]
    rejecting = {optimizer.__name__ for optimizer in OPTIMIZERS if rejects_rows(optimizer)}
    for text in texts:
        assert text
        assert set(re.findall(r"`(\w+)`", text[1])) == rejecting


def rejects_rows(optimizer: type[fo.Optimizer]) -> bool:
    opt = optimizer(np.ones((3, 2)), backend="reference")
    try:
        opt.step(fo.Rows(np.array([1]), np.ones((1, 2))))
    except ValueError:
        return True
    return False


@every_optimizer
def test_every_public_method_is_documented(optimizer: type[fo.Optimizer]) -> None:
    methods = [member for name, member in inspect.getmembers(optimizer, callable) if not name.startswith("_")]
    assert [method.__qualname__ for method in methods if not inspect.getdoc(method)] == []


@pytest.mark.parametrize("name", MODULES)
def test_every_public_thing_is_documented(name: str) -> None:
    module = imported(name)
    own = [thing for _, thing in inspect.getmembers(module) if getattr(thing, "__module__", None) == name]
    own = [thing for thing in own if inspect.isclass(thing) or inspect.isfunction(thing)]
    assert module.__doc__
    assert [thing.__name__ for thing in own if not thing.__name__.startswith("_") and not thing.__doc__] == []


# ---- the README and the pages


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\b[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted(CHECKOUT.glob("docs/**/*.md"))] if README.exists() else []
BLOCKS = [(path.name, block) for path in PAGES for block in blocks(path.read_text(encoding="utf-8"))]


@pytest.mark.skipif(not README.exists(), reason="needs README.md: this test runs in a checkout")
@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_the_pages_code_runs(page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    import_needs(block)
    if block.lstrip().startswith(">>>"):
        test = doctest.DocTestParser().get_doctest(block, {"__name__": "__main__"}, page, page, 0)
        assert doctest.DocTestRunner().run(test).failed == 0
        return
    code = compile(block, page, "exec")
    if not block.lstrip().startswith("# sketch"):
        exec(code, {"__name__": "__main__"})


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    """docs/tables.py as a module."""
    if not (CHECKOUT / "docs" / "tables.py").exists():
        pytest.skip("needs docs/tables.py: this test runs in a checkout")
    monkeypatch.syspath_prepend(str(CHECKOUT / "docs"))
    return importlib.import_module("tables")


# A new optimizer passes the tests before it is on the pages: these tests do not check that pages are complete.


def test_an_optimizer_is_in_one_group_of_the_tables_at_most(tables: Any) -> None:
    grouped = [name for names in tables.GROUPS.values() for name in names]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) <= set(fo.OPTIMIZERS)


def test_the_pages_tables_are_those_that_the_package_gives(tables: Any) -> None:
    """Else: ``python docs/tables.py``."""
    for page, made in tables.PAGES.items():
        text = (CHECKOUT / page).read_text(encoding="utf-8")
        assert tables.filled(text, made) == text, page


def test_what_a_step_moves_is_counted_from_its_rule(tables: Any) -> None:
    assert tables.bytes_moved(fo.SGD, "sgd") == 4 * 3
    assert tables.bytes_moved(fo.Adam, "adam") == 4 * 7
    assert tables.bytes_moved(fo.LARS, "lars") == 4 * (2 + 5)
    assert tables.bytes_moved(fo.LAMB, "lamb") == 4 * (6 + 4)


@pytest.mark.skipif(not README.exists(), reason="needs README.md: this test runs in a checkout")
def test_the_readme_names_the_optimizers() -> None:
    listed = README.read_text(encoding="utf-8").split("## The optimizers")[1].split("\n##")[0]
    named = set(re.findall(r"`([A-Z]\w+)`", listed)) & {cls.__name__ for cls in OPTIMIZERS}
    assert len(named) >= 40


def test_every_optimizer_that_was_measured_learns(tables: Any) -> None:
    results = json.loads(tables.MEASURED.read_text(encoding="utf-8"))["results"]
    assert set(results) <= set(fo.OPTIMIZERS)
    assert [name for name, result in results.items() if min(result["accuracy"]["1"]) < 0.93] == []


@loop("page", PAGES)
def test_the_lines_of_a_table_have_as_many_cells(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table


def anchors(page: Path) -> set[str]:
    """Return GitHub's anchors of the page's headings."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@loop("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^()\s]+)\)", text)
    for link in (link for link in links if not link.startswith("https://")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_blocks_are_cut_out_of_markdown() -> None:
    text = "a\n```python\nx = 1\n```\nb\n```sh\nls\n```\n```python run\n# sketch\ny\n```\n"
    assert blocks(text) == ["x = 1\n", "# sketch\ny\n"]
