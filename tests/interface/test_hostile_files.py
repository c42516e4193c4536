"""Spoiled and hostile checkpoint files do no harm, and give one clear error."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.files import document
from loops import loop
from step_histories import assert_same, model


def mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes of a file with a few changes of a random kind."""
    spoiled = bytearray(whole)
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(rng.integers(1, 4)):
        end = len(spoiled) if rng.random() < 0.5 else min(header, len(spoiled))
        at, length = int(rng.integers(0, end)), int(rng.integers(1, 9))
        match rng.integers(0, 8):
            case 0:
                spoiled[at] ^= 1 << rng.integers(0, 8)
            case 1:
                del spoiled[at:]
            case 2:
                del spoiled[at : at + length]
            case 3:
                spoiled[at:at] = rng.bytes(length)
            case 4:
                spoiled[at:at] = spoiled[max(at - 40, 0) : at]
            case 5:
                length = int(rng.choice([0, 1, header, len(spoiled), 2**31, 2**63]))
                spoiled[:8] = length.to_bytes(8, "little")
            case 6:  # another digit, in offsets, shapes and values
                digits = [i for i in range(8, end) if chr(spoiled[i]).isdigit()] or [at]
                spoiled[digits[at % len(digits)]] = ord("0") + int(rng.integers(0, 10))
            case 7:
                spoiled[at : at + length] = b"[" * length
        if not spoiled:
            break
    return bytes(spoiled)


def check_mutations(path: Path, seed: int, count: int) -> int:
    """Each mutated file is refused with one error, or gives what was saved; return the number of the latter."""
    params = model()
    opt = fo.Adam(params)
    opt.step(model())
    fo.save(path, params=params, optimizer=opt, epoch=3)
    whole, saved, rng = path.read_bytes(), fo.load(path), np.random.default_rng(seed)
    unharmed = 0
    tracemalloc.start()
    for _ in range(count):
        path.write_bytes(mutated(whole, rng))
        try:
            loaded = fo.load(path)
        except ValueError:
            continue
        assert_same(loaded, saved)
        unharmed += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    return unharmed


def test_a_mutated_file_is_refused_or_harmless(tmp_path: Path) -> None:
    assert check_mutations(tmp_path / "x", 0, 1000) < 100


@pytest.mark.exhaustive
def test_ten_thousand_mutated_files_are_refused_or_harmless(tmp_path: Path) -> None:
    assert check_mutations(tmp_path / "x", 1, 10_000) < 1000


Header = dict[str, Any]


def hostile(path: Path, change: Callable[[Header], Any], data: bytes = bytes(16)) -> None:
    """Write a file with a header that `change` has changed or replaced, and a digest that fits where one can."""
    header: Header = {"__metadata__": {"format": "fastoptim", "version": document.VERSION, "document": "{}"}}
    header["a"] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    changed = change(header)
    text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def entry(**changes: Any) -> Callable[[Header], Any]:
    return lambda header: header["a"].update(changes)


def with_document(text: str) -> Callable[[Header], Any]:
    def change(header: Header) -> None:
        digest = document._digest(text, {"a": np.zeros((2, 2), np.float32)})
        header["__metadata__"].update(document=text, sha256=digest)

    return change


HOSTILE: list[tuple[str, Callable[[Header], Any], str]] = [
    ("no object", lambda header: b"[1]", "expected a header that is an object"),
    ("deep header", lambda header: b'{"a":' + b"[" * 100_000, "expected a header in JSON"),
    ("no text", lambda header: b"\xff\xfe{}", "expected a header in JSON"),
    ("long number", lambda header: b'{"a":' + b"9" * 5000 + b"}", "expected a header in JSON"),
    ("twice", lambda header: b'{"a":1,"a":2}', "a key occurs twice"),
    ("metadata", lambda header: header.update(__metadata__={"a": 1}), "expected metadata of strings"),
    ("another origin", lambda header: header.pop("__metadata__"), "a safetensors file of another origin"),
    ("version", lambda header: header["__metadata__"].update(version="2"), "expected version 1, got '2'"),
    ("no digest", lambda header: None, "their digest differs"),
    ("dtype", entry(dtype="F8_E4M3"), "a: expected a dtype among"),
    ("dtype of another type", entry(dtype=[]), "a: expected a dtype among"),
    ("shape too large", entry(shape=[2, 3]), "a: expected 24 bytes, got 16"),
    ("huge shape", entry(shape=[2**62, 2**62]), "a: expected .* bytes, got 16"),
    ("empty huge shape", entry(shape=[0, 2**62], data_offsets=[0, 0]), "expected .* bytes, got"),
    ("negative", entry(shape=[-2, -2]), "a: expected a shape and two offsets"),
    ("no integers", entry(shape=[2.0, True]), "a: expected a shape and two offsets"),
    ("many dimensions", entry(shape=[2, 2] + [1] * 100), "a: expected a shape and two offsets"),
    ("gap", lambda header: header.update(b=dict(header["a"], data_offsets=[20, 36])), "from byte 16 on, got 20"),
    ("overlap", lambda header: header.update(b=dict(header["a"], data_offsets=[8, 24])), "from byte 16 on, got 8"),
    ("beyond the end", lambda header: header.update(b=dict(header["a"], data_offsets=[16, 32])), "expected .* bytes"),
    ("one key more", entry(more=1), "a: expected dtype, shape and data_offsets"),
    ("deep document", with_document("[" * 100_000), "expected a document"),
    ("no dict", with_document("[]"), "expected a document .*expected a dict, got a list"),
    ("unknown array", with_document('{"x":{"$array":"b"}}'), "expected a document"),
    ("array of arrays", with_document('{"x":{"$array":["a"]}}'), "expected a document"),
    ("unhashable key", with_document('{"x":{"$dict":[[[],1]]}}'), "expected a document"),
    ("no number", with_document('{"x":{"$float":null}}'), "expected a document"),
    ("large number", with_document('{"x":{"$float":1%s}}' % ("0" * 400)), "expected a document"),
    ("no surrogates", with_document("\ud800"), "expected a document"),
]


@loop(("name", "change", "message"), HOSTILE)
def test_a_hostile_file_gives_one_clear_error(
    name: str, change: Callable[[Header], Any], message: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("files") / "x"
    hostile(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        fo.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


@loop("contents", [b"", b"1234567", (2**63).to_bytes(8, "little"), (100).to_bytes(8, "little") + b"{}", bytes(8)])
def test_what_is_too_short_is_no_file(contents: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "x"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"expected a (safetensors file|header)"):
        fo.load(path)


def test_a_huge_header_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.write((2**36).to_bytes(8, "little"))
        file.truncate(2**37)  # sparse
    tracemalloc.start()
    with pytest.raises(ValueError, match="expected a header of at most"):
        fo.load(tmp_path / "x")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(ValueError, match="expected a regular file"):
        fo.load(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        fo.load(tmp_path / "y")
