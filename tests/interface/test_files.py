"""Checkpoint files: what they keep, and that they are always whole."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import DTYPES, special_values
from fastoptim.files import document, safetensors
from loops import loop
from optional import optional
from step_histories import assert_same, model

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
