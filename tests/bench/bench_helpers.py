"""The benchmark's command line in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastoptim import __main__
from fastoptim.bench import cli


def run_bench(*arguments: str) -> int:
    """Run the command line with the smallest budget; return its exit status."""
    try:
        parsed = __main__.make_parser().parse_args(["bench", "--seconds", "0", "--rounds", "1", *arguments])
    except SystemExit as rejected:
        return int(rejected.code or 0)
    return cli.run(parsed)


def read_rows(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows
