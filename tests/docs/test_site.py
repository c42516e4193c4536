"""The site: broken links are found, a new optimizer has its page, and files that texts name exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import fastoptim as fo
from cases import CHECKOUT
from loops import loop

pytestmark = pytest.mark.skipif(not (CHECKOUT / "README.md").exists(), reason="needs docs/: run in a checkout")

BROKEN = {
    "no such page": '<a href="absent.html">x</a>',
    "no such directory": '<a href="absent/">x</a>',
    "no such anchor": '<a href="other.html#absent">x</a>',
    "no such anchor in this page": '<a href="#absent">x</a>',
    "no such picture": '<img src="absent.png">',
}


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Any:
    """docs/site/links.py as a module."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "docs" / "site"))
    return importlib.import_module("links")


def write_site(directory: Path, extra: str) -> None:
    good = '<p id="a"><a href="sub/third.html#b">x</a><a href="#a">x</a><a href="https://a.org/x">x</a></p>'
    (directory / "sub").mkdir(exist_ok=True)
    (directory / "index.html").write_text(good + extra, encoding="utf-8")
    (directory / "other.html").write_text('<a href="index.html">x</a>', encoding="utf-8")
    third = '<p id="b"><img src="../a%20b.png"></p><a href="../other.html?x=1#">'
    (directory / "sub" / "third.html").write_text(third, encoding="utf-8")
    (directory / "a b.png").touch()


def test_a_whole_site_has_no_broken_link(links: Any, tmp_path: Path) -> None:
    write_site(tmp_path, "")
    assert list(links.broken(tmp_path)) == []


@loop(("name", "extra"), BROKEN.items())
def test_a_broken_link_is_found(name: str, extra: str, links: Any, tmp_path: Path) -> None:
    write_site(tmp_path, extra)
    (line,) = links.broken(tmp_path)
    assert line.startswith("index.html: broken link to ")


#: `csrc/` is the include path of C++ files; the recipe's names are examples.
TEXTS = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("docs/**/*.py")]
TEXTS += [path for directory in ("python", "examples", "bench") for path in CHECKOUT.glob(f"{directory}/**/*.py")]
FILE = re.compile(r"\b(?:docs|examples|bench|tests|csrc|python|cmake)/[\w./]+\.(?:md|py|sh|h|cpp|cu|txt|json|png)\b")


@loop("text", TEXTS)
def test_files_that_a_text_names_exist(text: Path) -> None:
    named = set(FILE.findall(text.read_text(encoding="utf-8")))
    assert [name for name in named if "NAME" not in name and not (CHECKOUT / name).exists()] == []


@loop("page", [path for path in TEXTS if path.suffix == ".md"])
def test_links_to_other_sites_are_whole(page: Path) -> None:
    """Whether these sites answer is for ``python docs/site/build.py --links``."""
    for link in re.findall(r"\]\((\w+:[^)]*)\)", page.read_text(encoding="utf-8")):
        assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/[\w~/.%#=?&-]*)?", link), link


@loop("text", [path for path in TEXTS if path.suffix == ".py"])
def test_formulas_of_one_line_have_no_alignment(text: Path) -> None:
    """Sphinx aligns a formula at & only if it has several lines."""
    source = text.read_text(encoding="utf-8")
    for indent, formula in re.findall(r"^( *)\.\. math::\n((?:\1 +\S.*\n|\n)+)", source, flags=re.MULTILINE):
        assert "&" not in formula or "\\\\" in formula, indent + formula


def test_a_new_optimizer_is_in_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are made of the classes: an optimizer that joins a group needs no other change of a page."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "docs"))
    tables = importlib.import_module("tables")

    class Newest(fo.Adam):
        """Newest: an optimizer of tomorrow.

        Source: Nobody, 2031, arXiv:3101.00001.

        >>> Newest([])
        """

    monkeypatch.setitem(fo.OPTIMIZERS, "newest", Newest)
    monkeypatch.setitem(tables.GROUPS, "Sign-based", (*tables.GROUPS["Sign-based"], "newest"))
    row = "| `Newest` | An optimizer of tomorrow | 0.001 | 2 to 3: `m`, `v` (`v_max`) | 28 to 36 |"
    assert row in tables.optimizers()
    assert '"fastoptim.Newest.v1" = "fastoptim.thinc:Newest"' in tables.entry_points()
