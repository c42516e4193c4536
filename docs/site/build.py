"""Build the documentation site: the pages of the repository, a page for each optimizer, and a gallery.

    pip install '.[docs]' && python docs/site/build.py            writes build/site/html
    python docs/site/build.py --links                             also checks the links to other sites

Warnings and broken links within the site are errors.  Sphinx reads copies under build/site/source, where
the pages have the same places as in the repository.  The pages of optimizers come from their docstrings; a new one has
its page without a change here.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sphinx.cmd.build import build_main

import fastoptim as fo
from fastoptim.schedules.base import Schedule

SITE = Path(__file__).parent
CHECKOUT = SITE.parents[1]
sys.path.append(str(SITE.parent))

from links import broken  # noqa: E402
from tables import GROUPS, summary, table  # noqa: E402

OUTPUT = CHECKOUT / "build" / "site"

#: Pages that are copied, by the heading of the navigation; those of docs/ that are not named here end the guide.
PAGES = {
    "Guide": (
        "choosing",
        "optimizers",
        "options",
        "schedules",
        "groups",
        "stopping",
        "lbfgs",
        "matrix_methods",
        "factored",
        "checkpoints",
        "coming_from",
        "other_libraries",
    ),
    "From textbook formulas": tuple(
        f"tutorials/{name}" for name in ("index", "gradient_descent", "momentum", "adaptive_rates", "adam", "network")
    ),
    "Speed": ("performance", "benchmark"),
    "Development": ("../CONTRIBUTING", "design", "../CHANGELOG", "versions", "../SECURITY"),
}

#: The examples that a beginner reads first; the gallery continues with the others.
FIRST_EXAMPLES = ("regression", "landscapes", "digits", "schedules", "choosing")

#: Modules whose docstrings are in the reference, with members to add; one whose library is absent is left out.
MODULES = {
    "functional": (),
    "reference": (),
    "distributed": ("Sharded",),
    "torch": (),
    "scipy": ("minimizer",),
    "autograd": (),
    "thinc": (),
}


def navigation(caption: str, entries: Sequence[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""])


def documented(directive: str, name: str, *options: str) -> str:
    """Return the block in which Sphinx inserts a docstring."""
    lines = [f".. {directive}:: fastoptim.{name}", *(f"   {each}" for each in options)]
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def pages_by_heading() -> dict[str, list[str]]:
    """Return the pages of the navigation, by their paths in the repository without a suffix."""
    named = {name for names in PAGES.values() for name in names}
    others = sorted(path.stem for path in (CHECKOUT / "docs").glob("*.md") if path.stem not in named)
    headings = {**PAGES, "Guide": (*PAGES["Guide"], *others)}
    return {title: [f"docs/{name}".replace("docs/../", "") for name in names] for title, names in headings.items()}


def front_page() -> str:
    """Return the README with the navigation of all pages."""
    parts = [(CHECKOUT / "README.md").read_text(encoding="utf-8")]
    parts += [navigation(title, names) for title, names in pages_by_heading().items()]
    return "\n".join([*parts, navigation("Reference", ["api/index", "gallery"])])


def reference_pages() -> dict[str, str]:
    """Return a page for each optimizer, those of the other names and modules, and their index."""
    optimizers = {cls.__name__ for cls in fo.OPTIMIZERS.values()}
    names = [name for name in fo.__all__ if name not in optimizers and callable(getattr(fo, name))]
    others = [name for name in names if name != "Optimizer"]
    pages = {
        "api/optimizer.md": f"# Optimizer\n\n{described('Optimizer')}",
        "api/others.md": "\n".join(["# Other classes and functions", "", *map(described, others)]),
        "api/schedules.md": schedules_page(),
        "api/modules.md": modules_page(),
    }
    index = ["# Reference", "", "Every optimizer takes the options of [Optimizer](optimizer.md).", ""]
    ungrouped = fo.OPTIMIZERS.keys() - {name for names in GROUPS.values() for name in names}
    entries = []
    for title, group in (GROUPS | ({"Others": sorted(ungrouped)} if ungrouped else {})).items():
        rows = []
        for cls in (fo.OPTIMIZERS[name] for name in group):
            pages[f"api/{cls.name}.md"] = f"# {cls.__name__}\n\n{documented('autoclass', cls.__name__)}"
            rows.append((f"[{cls.__name__}]({cls.name}.md)", summary(cls)))
            entries.append(cls.name)
        index += [f"## {title}", "", table(("class", "method"), rows), ""]
    index.append(navigation("Reference", [*entries, "optimizer", "schedules", "others", "modules"]))
    return pages | {"api/index.md": "\n".join(index)}


def described(name: str) -> str:
    """Return the block for a class with its methods, or for a function."""
    value = functools.reduce(getattr, name.split("."), fo)
    return documented("autoclass", name, ":members:") if isinstance(value, type) else documented("autofunction", name)


def modules_page() -> str:
    parts = ["# Modules", ""]
    for name, members in MODULES.items():
        try:
            importlib.import_module(f"fastoptim.{name}")
        except ImportError as error:
            print(f"left out: {error}")
            continue
        parts += [f"## `fastoptim.{name}`", "", documented("automodule", name)]
        parts += [described(f"{name}.{member}") for member in members]
    return "\n".join(parts)


def schedules_page() -> str:
    classes = {name: value for name, value in vars(fo.schedules).items() if isinstance(value, type)}
    names = [name for name, value in classes.items() if issubclass(value, Schedule)]
    return "\n".join(["# Schedules", "", *(documented("autoclass", f"schedules.{name}") for name in names)])


def gallery() -> str:
    """Return the examples with the first paragraph of their docstrings, their commands and pictures."""
    parts = ["# Gallery", ""]
    names = {path.stem for path in (CHECKOUT / "examples").glob("*.py")} - {"common", *FIRST_EXAMPLES}
    for name in (*FIRST_EXAMPLES, *sorted(names)):
        text = (CHECKOUT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        doc = ast.get_docstring(ast.parse(text)) or ""
        command = re.search(rf"(?:\w+ -n \d+ )?python examples/{name}\.py[^`\n]*", doc)
        parts += [f"## `{name}.py`", "", doc.split("\n\n")[0], ""]
        parts += ["```sh", command[0] if command else f"python examples/{name}.py", "```", ""]
        picture = f"docs/images/{name}.png"
        parts += [f"[![The picture that {name}.py draws]({picture})]({picture})", ""]  # leads to its full size
    return "\n".join(parts)


def linked(name: str, text: str) -> str:
    """Return a page whose links to the README lead to the front page, and whose tables link to optimizers' pages."""
    text = re.sub(r"\]\(((?:\.\./)*)README\.md", r"](\1index.md", text)
    up = "../" * name.count("/")
    for cls in fo.OPTIMIZERS.values():
        text = text.replace(f"\n| `{cls.__name__}` |", f"\n| [`{cls.__name__}`]({up}api/{cls.name}.md) |")
    return text


def write_sources(source: Path) -> None:
    """Write the pages from which Sphinx builds the site."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(CHECKOUT / "docs" / "images", source / "docs" / "images")
    made: dict[str, Callable[[], str]] = {"index.md": front_page, "gallery.md": gallery}
    pages = {name: make() for name, make in made.items()} | reference_pages()
    for name in (name for names in pages_by_heading().values() for name in names):
        pages[f"{name}.md"] = (CHECKOUT / f"{name}.md").read_text(encoding="utf-8")
    for name, text in pages.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(linked(name, text), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", action="store_true", help="check the links to other sites; needs a network")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory for sources and pages")
    args = parser.parse_args(arguments)
    source = args.output / "source"
    write_sources(source)
    for name in ["html", "linkcheck"] if args.links else ["html"]:
        shutil.rmtree(args.output / name, ignore_errors=True)  # with pages that no longer exist
        options = ["-W", "--keep-going", "-q", "-b", name, "-c", str(SITE)]
        if code := build_main([*options, str(source), str(args.output / name)]):
            return int(code)
    found = list(broken(args.output / "html"))
    print("\n".join(found) if found else "every link within the site leads somewhere")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
