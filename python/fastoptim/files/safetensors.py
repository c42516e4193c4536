"""The safetensors layout: arrays by name, and strings as metadata, in one file that any reader of the format opens.

The file is the length of the header (8 bytes), the header in JSON, and the bytes of the arrays without gaps.  Reading
checks everything before it allocates, and allocates no more than the file is long.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..reference_math import FORMATS, Array

#: The format's name of each dtype.
CODES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{f"{code}{bits}": f"{kind}{bits}" for code, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}
METADATA = "__metadata__"  # of the header: no array can have this name
_ALIGNMENT = 8
MAX_NDIM = 64  # of NumPy
MAX_HEADER = 32 << 20  # bytes; parsed, a hostile one takes some ten times as much


class Contents(NamedTuple):
    """The contents of a file."""

    arrays: dict[str, Array]
    metadata: dict[str, str]


class _Entry(NamedTuple):
    """An array in the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def code_of(dtype: np.dtype[Any]) -> str | None:
    """Return the format's name of a dtype, None if it has none."""
    return next((code for code, name in CODES.items() if dtype.isnative and dtype.name == name), None)


def write(file: BinaryIO, arrays: Mapping[str, Array], metadata: Mapping[str, str], place: str) -> None:
    """Write arrays, whose dtypes have a code, in the order of their alignment."""
    header: dict[str, Any] = {METADATA: dict(metadata)}
    at = 0
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    for name, array in ordered:
        offsets = [at, at := at + array.nbytes]
        header[name] = {"dtype": code_of(array.dtype), "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ValueError(f"{place}: expected a header of at most {MAX_HEADER:,} bytes, got {len(text):,}")
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        file.write(bytes_of(array))


def bytes_of(array: Array) -> memoryview:
    """Return the bytes of an array in C order."""
    return np.asarray(array, order="C").reshape(-1).view(np.uint8).data


def read(path: str | os.PathLike[str]) -> Contents:
    """Read a file, or raise ValueError if it does not have the layout."""
    place = os.fspath(path)
    if not stat.S_ISREG(Path(path).stat().st_mode):  # before it is opened: a pipe without a writer would wait
        raise ValueError(f"{place}: expected a regular file, got another kind")
    with Path(path).open("rb") as file:
        return _read(file, place)


def _read(file: BinaryIO, place: str) -> Contents:
    size = os.fstat(file.fileno()).st_size
    header = _header(file, size, place)
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{place}: expected metadata of strings, got others")
    begin = file.tell()
    entries = sorted((_entry(place, *item) for item in header.items()), key=lambda entry: (entry.begin, entry.end))
    end = 0
    for entry in entries:
        if entry.begin != end:
            raise ValueError(f"{place}: {entry.name}: expected data from byte {end:,} on, got {entry.begin:,}")
        end = entry.end
    if begin + end != size:
        raise ValueError(f"{place}: expected {begin + end:,} bytes, got {size:,}")
    return Contents({entry.name: _read_array(file, entry, place) for entry in entries}, metadata)


def _header(file: BinaryIO, size: int, place: str) -> dict[str, Any]:
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise ValueError(f"{place}: expected a safetensors file, got one whose header does not fit into it")
    if length > MAX_HEADER:
        raise ValueError(f"{place}: expected a header of at most {MAX_HEADER:,} bytes, got {length:,}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: expected a header in JSON, got one with an error: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{place}: expected a header that is an object, got a {type(header).__name__}")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(result := dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _entry(place: str, name: str, described: Any) -> _Entry:
    place = f"{place}: {name}"
    if not isinstance(described, dict) or described.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{place}: expected dtype, shape and data_offsets, got others")
    code, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    if not isinstance(code, str) or code not in CODES:
        raise ValueError(f"{place}: expected a dtype among {list(CODES)}, got {str(code)[:20]!r}")
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise ValueError(f"{place}: expected a shape and two offsets of 63 bits, got others")
    itemsize = 2 if code == "BF16" else np.dtype(CODES[code]).itemsize
    expected = math.prod(shape) * itemsize
    if offsets[1] - offsets[0] != expected:
        raise ValueError(f"{place}: expected {expected:,} bytes, got {offsets[1] - offsets[0]:,}")
    return _Entry(name, CODES[code], tuple(shape), *offsets)


def _are_counts(values: Any) -> bool:
    if not isinstance(values, list) or len(values) > MAX_NDIM:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _dtype_of(name: str) -> np.dtype[Any]:
    return FORMATS[name].dtype(np.dtype(np.float32)) if name in FORMATS else np.dtype(name)


def _read_array(file: BinaryIO, entry: _Entry, place: str) -> Array:
    memory = np.empty(entry.end - entry.begin, np.uint8)
    if file.readinto(memory) != memory.size:  # type: ignore[attr-defined]
        raise ValueError(f"{place}: {entry.name}: expected {memory.size:,} bytes, got fewer")
    try:
        return memory.view(_dtype_of(entry.dtype)).reshape(entry.shape)
    except ImportError as error:
        raise ImportError(f"{place}: {entry.name} needs bfloat16: pip install 'fastoptim[bfloat16]'") from error
    except ValueError as error:  # more dimensions than NumPy has
        raise ValueError(f"{place}: {entry.name}: expected an array of NumPy, got {error}") from None
