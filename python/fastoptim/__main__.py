"""The command line ``python -m fastoptim``: build information and the benchmark."""

from __future__ import annotations

import argparse
import signal
import sys

from . import build_info
from .bench import cli


def main() -> int:
    """Run the command line and return its exit status."""
    parser = make_parser()
    arguments = parser.parse_args()
    if arguments.command == "bench":
        return cli.run(arguments)
    print_info()
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m fastoptim", description="Fused optimizer updates for NumPy.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print the build and what it found on this machine")
    bench = commands.add_parser("bench", help="compare steps with this machine's memory bandwidth")
    cli.add_arguments(bench)
    return parser


def print_info() -> None:
    """Print `build_info` as a table."""
    info = build_info()
    width = max(map(len, info))
    for key, value in info.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key:<{width}}  {shown if shown not in ('', None) else 'none'}")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):  # not on Windows
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that has gone, as `head`, ends the process quietly
    sys.exit(main())
