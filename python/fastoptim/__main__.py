"""``python -m fastoptim``: what this build is and what this machine has."""

from __future__ import annotations

import argparse

from . import build_info


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m fastoptim", description="Fused optimizer updates for NumPy.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print the build and what it found on this machine")
    parser.parse_args()
    print_info()


def print_info() -> None:
    """Prints `build_info` as a table."""
    info = build_info()
    width = max(map(len, info))
    for key, value in info.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        print(f"{key:<{width}}  {shown if shown not in ('', None) else 'none'}")


if __name__ == "__main__":
    main()
