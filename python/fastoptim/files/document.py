"""Nested values as a file: the arrays by name, everything else as one document in JSON, a digest over both.

A document may hold dicts, lists, tuples, None, numbers, strings and arrays.  No value executes code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays.families import family_of
from ..arrays.numpy_family import NUMPY, plain
from ..arrays.tree import describe, key_text
from ..reference_math import Array
from ..texts import brief
from . import safetensors
from .replacement import replacement

#: It rises when the layout of a document changes.
VERSION = "1"

# A dict with one of these as its only key is not a dict of the caller's.
_ARRAY, _DICT, _TUPLE, _FLOAT = "$array", "$dict", "$tuple", "$float"
_TAGS = {_ARRAY, _DICT, _TUPLE, _FLOAT}


def save(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write these values, atomically and durably; raise TypeError, before the first write, if one cannot be stored."""
    text, arrays = pack(values)
    metadata = {"format": "fastoptim", "version": VERSION, "document": text, "sha256": _digest(text, arrays)}
    with replacement(path) as file:
        safetensors.write(file, arrays, metadata, os.fspath(path))


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the values in a file; raise ValueError if it is not whole, or not of this version."""
    place = os.fspath(path)
    arrays, metadata = safetensors.read(path)
    if metadata.get("format") != "fastoptim":
        raise ValueError(f"{place}: expected a checkpoint of fastoptim, got a safetensors file of another origin")
    if (version := metadata.get("version")) != VERSION:
        raise ValueError(f"{place}: expected version {VERSION}, got {brief(version)}")
    text = metadata.get("document", "")
    if metadata.get("sha256") != _digest(text, arrays):
        raise ValueError(f"{place}: expected contents as they were written, got others: their digest differs")
    try:
        return unpack(text, arrays)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"{place}: expected a document of fastoptim, got one with an error: {error!r}") from None


def pack(values: Mapping[str, Any]) -> tuple[str, dict[str, Array]]:
    """Return the values as a document, and its arrays by name."""
    arrays: dict[str, Array] = {}
    encoded = {key: _encode(value, key, key, arrays) for key, value in values.items()}
    return json.dumps(encoded, separators=(",", ":"), allow_nan=False), arrays


def unpack(text: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Return the values of a document."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"expected a dict, got {describe(values)}")
    return {key: _decode(value, arrays) for key, value in values.items()}


def _digest(text: str, arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name, array in sorted(arrays.items()):
        digest.update(f"\n{name!r} {array.dtype.name} {array.shape}\n".encode())
        digest.update(safetensors.bytes_of(array))
    return digest.hexdigest()


def _encode(value: Any, place: str, name: str, arrays: dict[str, Array]) -> Any:
    """Return the value as JSON has it, with its arrays added to `arrays`; `name` is for these, `place` for messages."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
    if isinstance(value, dict):
        items = [(k, _encode(v, f"{place}[{key_text(k)}]", f"{name}.{k}", arrays)) for k, v in value.items()]
        if all(isinstance(key, str) for key in value) and not (len(value) == 1 and value.keys() <= _TAGS):
            return dict(items)
        return {_DICT: [[_encode_key(k, place), v] for k, v in items]}
    if isinstance(value, (list, tuple)):
        entries = [_encode(v, f"{place}[{i}]", f"{name}.{i}", arrays) for i, v in enumerate(value)]
        return {_TUPLE: entries} if isinstance(value, tuple) else entries
    return {_ARRAY: _add_array(value, place, name, arrays)}


def _encode_key(key: Any, place: str) -> Any:
    if isinstance(key, (str, bool, int, float, np.generic)) or key is None:
        return _encode(key, place, "", {})
    raise TypeError(f"{place}: expected keys that are strings or numbers, got {describe(key)}")


def _add_array(value: Any, place: str, name: str, arrays: dict[str, Array]) -> str:
    family = family_of(value)
    if family is None:
        raise TypeError(
            f"{place}: expected an array, a number, a string, None or a nesting of these, got {describe(value)}"
        )
    array = plain(value) if family is NUMPY else family.to_numpy(value)
    if safetensors.code_of(array.dtype) is None:
        raise TypeError(f"{place}: expected a dtype among {list(safetensors.CODES.values())}, got {array.dtype!r}")
    name = name.encode("utf-8", "backslashreplace").decode()
    while name in arrays or name == safetensors.METADATA:  # a key with a dot may give the path of another array
        name += "'"
    arrays[name] = array
    return name


def _decode(value: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        return [_decode(entry, arrays) for entry in value]
    if not isinstance(value, dict):
        return value
    content: Any
    tag, content = next(iter(value.items())) if len(value) == 1 else ("", None)
    if tag == _ARRAY:
        return arrays[content]
    if tag == _FLOAT:
        return float(content)
    if tag == _TUPLE:
        return tuple(_decode(entry, arrays) for entry in content)
    if tag == _DICT:
        return {_decode(key, arrays): _decode(entry, arrays) for key, entry in content}
    return {key: _decode(entry, arrays) for key, entry in value.items()}
