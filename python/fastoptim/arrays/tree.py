"""Nested dicts, lists and tuples: their structure, and the conversions from and to flat lists of leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from numbers import Number
from typing import Any

import numpy as np

from ..texts import brief_list


@dataclass(frozen=True)
class Structure:
    """The structure of a nesting; `kind` is None for a leaf, else the container's type."""

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    def paths(self, root: str = "") -> Iterator[str]:
        """Yield the path of each leaf as Python spells it: ``root['w'][0]``."""
        if self.kind is None:
            yield root
        for key, child in zip(self.keys, self.children, strict=True):
            yield from child.paths(f"{root}[{key_text(key)}]")

    def match(self, tree: Any, root: str) -> list[Any]:
        """Return the leaves of a nesting of the same structure, in this structure's order."""
        if self._is_flat:
            return self._entries(tree, root)
        leaves: list[Any] = []
        self._collect(tree, root, leaves)
        return leaves

    def match_partly(self, tree: Any, root: str) -> list[Any]:
        """Return the leaves as `match` does; None in the place of a container has None for each of its leaves."""
        if tree is None:
            return [None for _ in self.paths()]
        if self.kind is None:
            return [tree]
        entries = zip(self.keys, self.children, self._entries(tree, root), strict=True)
        return [leaf for key, child, e in entries for leaf in child.match_partly(e, f"{root}[{key_text(key)}]")]

    def build(self, leaves: Iterator[Any]) -> Any:
        """Return the nesting with these leaves."""
        if self.kind is None:
            return next(leaves)
        values = [child.build(leaves) for child in self.children]
        if issubclass(self.kind, dict):
            return dict(zip(self.keys, values, strict=True))
        if hasattr(self.kind, "_make"):  # a named tuple
            return self.kind._make(values)
        return tuple(values) if issubclass(self.kind, tuple) else values

    def nesting(self) -> Any:
        """Return the structure in the form for native code: None for a leaf, a dict for a dict, else a tuple."""
        if self.kind is None:
            return None
        children = [child.nesting() for child in self.children]
        return dict(zip(self.keys, children, strict=True)) if issubclass(self.kind, dict) else tuple(children)

    @cached_property
    def _is_flat(self) -> bool:
        return self.kind is not None and all(child.kind is None for child in self.children)

    @cached_property
    def _key_set(self) -> frozenset[Any]:
        return frozenset(self.keys)

    def _collect(self, tree: Any, root: str, leaves: list[Any]) -> None:
        if self.kind is None:
            leaves.append(tree)
            return
        entries = self._entries(tree, root)
        for key, child, entry in zip(self.keys, self.children, entries, strict=True):
            child._collect(entry, f"{root}[{key_text(key)}]", leaves)

    def _entries(self, tree: Any, root: str) -> list[Any]:
        """Return the entries of one container, in this structure's order."""
        assert self.kind is not None
        if issubclass(self.kind, dict):
            if not isinstance(tree, dict):
                raise TypeError(f"{root}: expected a dict with keys {brief_list(self.keys)}, got {describe(tree)}")
            if tree.keys() != self._key_set:
                missing = brief_list(key for key in self.keys if key not in tree)
                unknown = brief_list(key for key in tree if key not in self._key_set)
                raise TypeError(
                    f"{root}: expected the keys {brief_list(self.keys)}, got {brief_list(tree)}"
                    f" (missing {missing}, unknown {unknown})"
                )
            return [tree[key] for key in self.keys]
        if not isinstance(tree, (list, tuple)) or len(tree) != len(self.keys):
            raise TypeError(f"{root}: expected a list or tuple of {len(self.keys)} entries, got {describe(tree)}")
        return list(tree)


LEAF = Structure(None)


def structure_of(tree: Any) -> Structure:
    """Return the structure of a nesting, in which every dict, list and tuple is a container."""
    if isinstance(tree, dict):
        return Structure(dict, tuple(tree), tuple(structure_of(value) for value in tree.values()))
    if isinstance(tree, (list, tuple)):
        return Structure(type(tree), tuple(range(len(tree))), tuple(structure_of(value) for value in tree))
    return LEAF


def key_text(key: Any) -> str:
    """Return the text of a dict key in a path, the same for equal keys: `1`, `1.0`, `True` and ``np.int64(1)`` are 1.

    It does not depend on the version of NumPy or Python nor on hashes, as checkpoints contain it.
    """
    if isinstance(key, str):
        return repr(str.__str__(key))
    if isinstance(key, bytes):
        return repr(bytes(key))
    if isinstance(key, (Number, np.bool_)):
        return _number_text(key)
    if isinstance(key, tuple):
        return f"({', '.join(map(key_text, key))}{',' * (len(key) == 1)})"
    if isinstance(key, frozenset):
        return f"frozenset({{{', '.join(sorted(map(key_text, key)))}}})"
    return f"{type(key).__qualname__}.{key.name}" if isinstance(key, Enum) else repr(key)


def _number_text(key: Any) -> str:
    is_real = getattr(key, "imag", 0) == 0
    key = getattr(key, "real", key) if is_real else key
    for kind in (int, float) if is_real else (complex,):
        try:
            if (plain := kind(key)) == key:
                return repr(plain)
        except (TypeError, ValueError, OverflowError):  # not of this kind, such as infinity as an integer
            continue
    return repr(key)


def describe(thing: Any) -> str:
    """Return a short description of an argument for error messages."""
    if isinstance(thing, dict):
        return f"a dict with keys {brief_list(thing)}"
    if isinstance(thing, (list, tuple)):
        return f"a {type(thing).__name__} of {len(thing)} entries"
    return f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")
