"""State dicts of a sharded optimizer: gathered from the owners, and divided among any number of ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...files import document, safetensors
from ...reference_math import Array
from .links import Link


def gather(link: Link, state_dict: dict[str, Any], owners: Sequence[int], root: int) -> dict[str, Any] | None:
    """Return on root the state dict with the state of every array, from one of each rank with that of its own."""
    for owner in range(link.size):
        own = {i: state_dict["arrays"][i] for i in range(len(owners)) if owners[i] == owner} if owner != root else {}
        if not own:
            continue
        if received := move(link, {"arrays": list(own.values())}, owner, root):
            for i, entry in zip(own, received["arrays"], strict=True):
                state_dict["arrays"][i] = entry
    return state_dict if link.rank == root else None


def scatter(link: Link, state_dict: Mapping[str, Any] | None, owners: Mapping[str, int], root: int) -> dict[str, Any]:
    """Return on each rank the state dict with the state of its own arrays, from the whole one on root."""
    own: dict[str, Any] = {}
    for rank in range(link.size):
        part = None if state_dict is None else _part(state_dict, owners, rank)
        if rank == root:
            own = part or own
        elif received := move(link, part, root, rank):
            own = received
    return own


def _part(state_dict: Mapping[str, Any], owners: Mapping[str, int], rank: int) -> dict[str, Any]:
    entries = [
        entry if owners.get(entry["place"], 0) == rank else {**entry, "state": {}} for entry in state_dict["arrays"]
    ]
    return {**state_dict, "arrays": entries}


def check_parts(state_dict: Any) -> None:
    """Raise ValueError if a state dict cannot be divided; the ranks check everything else."""
    entries = state_dict.get("arrays") if isinstance(state_dict, Mapping) else None
    if not isinstance(entries, (list, tuple)) or not all(
        isinstance(entry, Mapping) and isinstance(entry.get("place"), str) for entry in entries
    ):
        raise ValueError("state_dict: expected a dict with 'arrays', each with its 'place', got another value")
    if "accumulated" in state_dict:
        raise ValueError("state_dict: expected no 'accumulated' gradients, which one process has, got a sum of them")


def move(link: Link, values: Mapping[str, Any] | None, source: int, target: int) -> dict[str, Any] | None:
    """Return on the target the values of the source: numbers, strings and arrays."""
    if link.rank not in (source, target):
        return None
    text: bytes = b""
    arrays: dict[str, Array] = {}
    if link.rank == source:
        assert values is not None
        packed, arrays = document.pack(values)
        described = [[name, array.dtype.name, array.shape] for name, array in arrays.items()]
        text = json.dumps([packed, described]).encode()
    length = np.array([len(text)])
    link.move(length.view(np.uint8), source, target)
    message = _message(text, int(length[0]))
    link.move(message, source, target)
    if link.rank == source:
        for array in arrays.values():
            link.move(np.frombuffer(safetensors.bytes_of(array), np.uint8), source, target)
        return None
    packed, described = json.loads(message.tobytes())
    for name, dtype, shape in described:
        arrays[name] = np.empty(shape, dtype)
        link.move(arrays[name].reshape(-1).view(np.uint8), source, target)
    return document.unpack(packed, arrays)


def _message(text: bytes, length: int) -> Array:
    return np.frombuffer(text, np.uint8) if text else np.empty(length, np.uint8)
