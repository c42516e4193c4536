"""Checkpoint files: what they keep, that they are always whole, and that spoiled ones do no harm."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, special_values
from fastoptim.files import document, safetensors
from loops import loop
from optional import optional
from step_histories import assert_same


def model() -> dict[str, Any]:
    return {"w": np.ones((2, 3), np.float32), "b": [np.zeros(3, ml_dtypes.bfloat16), (np.array(2.0), np.zeros((0, 2)))]}


# ---- what they keep

VALUES: dict[str, Any] = {
    "numbers": [0, -1, 2**80, True, 0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan, None, "", "é\ud800\0"],
    "nestings": {"a": (1, [2, (3,)], {}), "b": [], "c": ()},
    "keys": {1: "int", "1": "str", None: 2, 2.5: {"$tuple": [1]}},
    "tags": [{"$array": "x"}, {"$dict": 1, "more": 2}, {"$float": "nan"}],
    "arrays": [
        *map(special_values, DTYPES),
        *(np.arange(3, dtype=f"{kind}{n}") for kind in "iu" for n in (1, 2, 4, 8)),
    ],
    "shapes": [np.array(1.5), np.zeros((0, 3)), np.ones((2, 1, 3)), np.array([True, False])],
    "paths": {"a": {"b": np.zeros(1)}, "a.b": np.ones(2), "é\ud800": np.ones(3)},
}


def test_every_value_comes_back(tmp_path: Path) -> None:
    fo.save(tmp_path / "x", **VALUES)
    assert_same(fo.load(tmp_path / "x"), VALUES)
    tagged: dict[str, Any] = {"$dict": [[1, 2]]}
    fo.save(tmp_path / "x", **tagged)
    assert fo.load(tmp_path / "x") == tagged


def test_arrays_without_gaps_in_another_order_and_numbers_of_numpy_are_values(tmp_path: Path) -> None:
    grid = np.arange(24.0).reshape(2, 3, 4)
    fo.save(tmp_path / "x", params=[grid.T, grid[::2, :, 1:3]], a=np.float32(0.1), b=np.int8(3), c=np.bool_(True))
    saved = fo.load(tmp_path / "x")
    assert_same(saved, {"params": [grid.T, grid[::2, :, 1:3]], "a": float(np.float32(0.1)), "b": 3, "c": True})


def test_parameters_and_optimizer_continue_together(tmp_path: Path) -> None:
    params, others = model(), model()
    opt, other = fo.AdamW(params, ema=0.9), fo.AdamW(others, ema=0.9, lr=7.0)
    opt.step(model())
    fo.save(tmp_path / "x", params=params, optimizer=opt, epoch=3)
    assert fo.load(str(tmp_path / "x"), params=others, optimizer=other)["epoch"] == 3
    for optimizer in (opt, other):
        optimizer.step(model())
    assert_same(others, params)
    assert_same(other.state_dict(), opt.state_dict())
    other.save(tmp_path / "y")
    opt.load(tmp_path / "x")
    assert opt.step_count == 1
    opt.load(tmp_path / "y")
    assert opt.step_count == 2


def test_an_optimizer_may_convert_what_it_loads(tmp_path: Path) -> None:
    fo.SGD(np.zeros(3), momentum=0.9).save(tmp_path / "x")
    opt = fo.SGD(np.zeros(3, np.float32), momentum=0.9)
    with pytest.raises(ValueError, match="convert=True"):
        opt.load(tmp_path / "x")
    opt.load(tmp_path / "x", convert=True)


def test_the_library_of_the_format_reads_the_arrays(tmp_path: Path) -> None:
    library = optional("safetensors.numpy")
    fo.save(tmp_path / "x", params=model(), epoch=3)
    arrays = library.load_file(tmp_path / "x")
    assert_same(arrays["params.w"], model()["w"])
    assert_same(arrays["params.b.0"], model()["b"][0])
    library.save_file(arrays, tmp_path / "y", {"note": "no checkpoint"})
    read = safetensors.read(tmp_path / "y")
    assert read.metadata == {"note": "no checkpoint"}
    assert_same(dict(sorted(read.arrays.items())), dict(sorted(arrays.items())))


# ---- what cannot be saved, and what does not fit


@loop(
    ("value", "message"),
    [
        (lambda step: 0.1, r"x\['a'\]\[1\]: expected an array, a number, .*, got function"),
        ({1, 2}, r"x\['a'\]\[1\]: expected an array, .*, got set"),
        (np.array([object()]), r"x\['a'\]\[1\]: expected a dtype among"),
        (np.zeros(2, ">f4"), r"x\['a'\]\[1\]: expected a dtype among"),
        (np.ma.masked_array(np.ones(2)), r"x\['a'\]\[1\]: expected an array"),
        ({(1, 2): 3}, r"x\['a'\]\[1\]: expected keys that are strings or numbers, got a tuple"),
    ],
)
def test_what_a_file_cannot_hold_is_named_before_the_first_write(
    value: Any, message: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("files") / "x"
    fo.save(path, x=1)
    with pytest.raises(TypeError, match=message):
        fo.save(path, x={"a": [0, value]})
    assert fo.load(path) == {"x": 1}
    assert list(path.parent.iterdir()) == [path]


class Foreign:
    """An optimizer of another library."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def state_dict(self) -> dict[str, Any]:
        return {"state": [{"m": self.array}]}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        self.array = state_dict["state"][0]["m"]


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    torch = optional("torch")
    path, p = tmp_path / "x", torch.ones(2, requires_grad=True)
    opt = torch.optim.Adam([p])
    fo.save(path, optimizer=opt)  # there is no state yet
    fo.load(path, optimizer=opt)
    p.sum().backward()
    opt.step()
    for each, place in ((opt, r"\['state'\]\[0\]\['step'\]"), (Foreign(p), r"\['state'\]\[0\]\['m'\]")):
        with pytest.raises(TypeError, match=rf"state_dict\(\){place}: expected .* NumPy arrays.*torch\.save"):
            fo.save(path, optimizer=each)
    fo.save(path, optimizer=Foreign(np.ones(2)))
    fo.load(path, optimizer=(other := Foreign(np.zeros(2))))
    assert other.array.tolist() == [1, 1]


@loop("thing", [3, fo.Adam, {"w": np.zeros(2)}, "adam"])
def test_what_is_no_optimizer_is_named(thing: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "x"
    fo.save(path, x=1)
    for call in (fo.save, fo.load):
        with pytest.raises(TypeError, match="optimizer: expected an object with state_dict and load_state_dict, got"):
            call(path, optimizer=thing)
    assert fo.load(path) == {"x": 1}


@loop(
    ("params", "message"),
    [
        ({"w": np.zeros(3)}, r"params\['w'\]: expected float64 of shape \(3,\), got float32 of shape \(2,\)"),
        ({"w": np.zeros(2)}, r"params\['w'\]: expected float64 of shape \(2,\), got float32"),
        ({"v": np.zeros(2, np.float32)}, r"x: params: expected the keys \['v'\]"),
        ([np.zeros(2, np.float32)], r"x: params: expected a list"),
    ],
)
def test_parameters_that_do_not_fit_stay_and_so_does_the_optimizer(
    params: Any, message: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("files") / "x"
    saved = {"w": np.ones(2, np.float32)}
    opt = fo.Adam(saved)
    fo.save(path, params=saved, optimizer=opt)
    opt.step({"w": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match=message):
        fo.load(path, params=params, optimizer=opt)
    assert opt.step_count == 1
    with pytest.raises(ValueError, match="optimizer"):
        fo.load(path, params=saved, optimizer=fo.SGD(saved))
    assert saved["w"][0] != 1
    fo.save(path, params={"w": "text"})
    with pytest.raises(ValueError, match=r"x: params\['w'\]: expected float32 of shape \(2,\), got str"):
        fo.load(path, params=saved)
    document.save(path, {"optimizer": 1.5})
    with pytest.raises(ValueError, match=r"x: optimizer: expected a dict, got float"):
        opt.load(path)
    fo.save(path, epoch=1)
    with pytest.raises(ValueError, match=r"x: expected a checkpoint with 'optimizer', got one with \['epoch'\]"):
        opt.load(path)


# ---- always whole

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
import fastoptim as fo

path, rng = Path(sys.argv[1]), random.Random(0)
def save(i):
    fo.save(path, params=np.full(20_000, i), i=i)
save(-1)
cut = 0
for child in range(200):
    pid = os.fork()
    if pid == 0:
        for i in range(10**6):
            save(child + i / 1e6)
    time.sleep(0.001 + 0.01 * rng.random())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    cut += path.with_name(".x.new").exists()
    saved = fo.load(path)
    assert (saved["params"] == saved["i"]).all()
save(0)
assert sorted(os.listdir(path.parent)) == ["x"]
print(cut)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "x")], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20  # most moments are in the middle of a save


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def note(owner: Any, name: str, what: Callable[[Any], str]) -> None:
        original = getattr(owner, name)

        def noting(*args: Any) -> Any:
            calls.append(what(args[0]))
            return original(*args)

        monkeypatch.setattr(owner, name, noting)

    note(os, "fsync", lambda descriptor: f"sync {Path(f'/proc/self/fd/{descriptor}').resolve().name}")
    note(Path, "replace", lambda path: f"rename {path.name}")
    fo.save(tmp_path / "x", a=1)
    expected = ["sync .x.new", "rename .x.new", f"sync {tmp_path.name}"]
    assert calls == expected if sys.platform == "linux" else len(calls) >= 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", ["x", ".x.new"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(FileExistsError, match=r"x: expected a regular file or none, got"):
        fo.save(tmp_path / "x", a=1)
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    fo.save(tmp_path / "x", a=1)
    (tmp_path / "x").chmod(0o640)
    fo.save(tmp_path / "x", a=2)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("name", ["__metadata__", "$array", "$dict", "$tuple", "$float"])
@pytest.mark.parametrize("value", [1, np.ones(2), [np.ones(2)]], ids=["number", "array", "list"])
def test_names_of_the_format_are_names(tmp_path: Path, name: str, value: Any) -> None:
    for values in ({name: value}, {"a": {name: value}}, {name: value, "a": {name: {name: value}}}):
        document.save(tmp_path / "x", values)
        assert_same(fo.load(tmp_path / "x"), values)


def test_an_exception_in_a_save_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fo.save(tmp_path / "x", a=1)
    monkeypatch.setattr(safetensors, "MAX_HEADER", 20)
    with pytest.raises(ValueError, match="x: expected a header"):
        fo.save(tmp_path / "x", a=2)
    monkeypatch.undo()
    assert fo.load(tmp_path / "x") == {"a": 1}
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_writers_of_one_path_wait_for_each_other(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(10):
                fo.save(tmp_path / "x", a=np.full(50_000, number), b=number)
                saved = fo.load(tmp_path / "x")
                assert (saved["a"] == saved["b"]).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_a_link_stays_a_link_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there/x")
    fo.save(tmp_path / "link", a=1)
    assert (tmp_path / "link").is_symlink()
    assert fo.load(tmp_path / "there" / "x") == {"a": 1}


# ---- spoiled and hostile files


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
