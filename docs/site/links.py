"""Find links, anchors and pictures of the built pages that lead nowhere.

Sphinx's warnings are about the sources: links between pages of Markdown.  This reads the result, and with it what the
theme, docstrings, raw HTML and the navigation contribute.  `build.py --links` follows links to other sites.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and the targets of its links, pictures, scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.targets: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value or "")
            elif name in ("href", "src"):
                self.targets.add(value or "")


def broken(directory: Path) -> Iterator[str]:
    """Yield a line for each link within the site that leads nowhere."""
    page_at = cache(Page)
    for path in sorted(directory.rglob("*.html")):
        for target in sorted(page_at(path).targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            is_page = file.suffix == ".html" and file.is_file()
            if not file.is_file() or (is_page and unquote(parts.fragment) not in page_at(file).anchors):
                yield f"{path.relative_to(directory)}: broken link to {target}"
