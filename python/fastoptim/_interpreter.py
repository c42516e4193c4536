"""Importing this module raises ImportError in a subinterpreter.

NumPy supports the main interpreter only, and the compiled module would wait forever for the main interpreter's lock.
"""

from __future__ import annotations

from importlib import import_module


def _is_main() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # Python 3.13 and later; before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        current, main = interpreters.get_current(), interpreters.get_main()
        return bool(current == main)
    return True


if not _is_main():
    raise ImportError("fastoptim: expected the main interpreter, got a subinterpreter")
