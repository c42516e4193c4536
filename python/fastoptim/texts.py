"""Texts of values for error messages: short ones, whatever the value."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

_MOST = 12  # entries of a container


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = self.maxarray = _MOST
        self.maxstring = self.maxother = 300

    def repr_int(self, x: int, level: int) -> str:
        """Return the digits of an integer that has a few; Python refuses to print thousands."""
        return repr(x) if x.bit_length() < 1000 else f"an integer of {x.bit_length():,} bits"


_brief = _Brief()


def brief(value: Any) -> str:
    """Return the `repr` of a value, shortened in the middle where it is long."""
    return _brief.repr(value)


def brief_list(values: Iterable[Any]) -> str:
    """Return the beginning of these values as a list."""
    return brief(list(islice(values, _MOST + 1)))
