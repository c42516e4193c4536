"""What the benchmark shows: its table, how far it has come, and the picture."""

from __future__ import annotations

import io
import math
import sys
from itertools import pairwise, product
from pathlib import Path

import pytest

import fastoptim as fo
from benching import a_row, bench
from fastoptim.bench import machine, plot, progress, results, table

MATPLOTLIB = "needs matplotlib"


# ---- the table


def test_columns_are_aligned_with_every_optimizer() -> None:
    times = [1e-7, 3.4e-6, 5.6e-3, 7.0, 123.4]
    rows = []
    for i, name in enumerate(fo.OPTIMIZERS):
        median = times[i % len(times)]
        seconds = results.Times(median=median, low=median / 3, high=median * 3, rounds=5)
        rows.append(a_row(optimizer=name, seconds=seconds, noise="quiet" if i % 3 else "noisy: spread 90 %", threads=i))
    header, *lines = table.table(rows).splitlines()
    assert len(lines) == len(fo.OPTIMIZERS)
    for column in ("optimizer", "work", "threads", "noise"):
        at = header.index(column)
        assert {line[at - 1 : at] for line in lines if len(line) > at} <= {"", " "}
    for column in ("a step", "10-90 %", "ns/element", "GB/s", "limit", "share", "fixed", "beyond"):
        end = header.index(column) + len(column)
        assert all(line[end - 1] != " " and line[end : end + 1] in ("", " ") for line in lines), column


def test_what_all_rows_share_stands_above_the_table() -> None:
    rows = [a_row(), a_row(threads=1)]
    assert "threads" in table.table(rows).splitlines()[0]
    assert "dtype" not in table.table(rows).splitlines()[0]
    assert "dtype float32" in table.in_common(rows)
    assert "threads" not in table.in_common(rows)


def test_options_stand_beside_the_name() -> None:
    assert table.name_of(a_row(options={"amsgrad": True, "lr": 0.1})) == "adam(amsgrad=True, lr=0.1)"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(3.2e-7, "0.320 us"), (1.5e-4, "150 us"), (2.5e-2, "25.0 ms"), (12.0, "12.0 s")]
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert table.duration(seconds) == shown


# ---- progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("installed", [True, False], ids=["tqdm", "own"])
def test_a_terminal_is_shown_how_far_it_is(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if installed:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    stream = Terminal()
    with progress.Progress(4, stream) as shown:
        for name in ("adam 10", "lion 10"):
            shown.begin(name)
            shown.part(0.5)
            shown.end()
    assert "adam 10" in stream.getvalue()
    assert "lion 10" in stream.getvalue()
    assert "\r" in stream.getvalue()
    assert "\n" not in stream.getvalue().rstrip()


def test_nothing_is_shown_elsewhere() -> None:
    stream = io.StringIO()
    with progress.Progress(4, stream) as shown:
        shown.begin("adam")
        shown.part(0.5)
        shown.end()
    assert stream.getvalue() == ""


def test_a_line_fits_its_terminal() -> None:
    for columns, done in product((20, 80, 200), (0, 1.5, 4)):
        shown = progress.line(done, 4, "adam 1e6", columns)
        assert len(shown) == columns - 1
    assert progress.line(2, 4, "", 80).count("#") == 20


# ---- the picture


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    file = tmp_path / "run.png"
    assert bench("all", "--size", "10", "30", "--model", "tiny", "--block", "1", "--plot", str(file)) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    assert file.stat().st_size > 20_000


def test_no_window_is_opened_and_the_format_is_the_name_s(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason=MATPLOTLIB)
    before = matplotlib.get_backend(auto_select=False)
    plot.draw([a_row(), a_row(threads=1, share=0.5)], tmp_path / "run.svg", machine.describe())
    assert "<svg" in (tmp_path / "run.svg").read_text(encoding="utf-8")
    assert matplotlib.get_backend(auto_select=False) == before


def test_a_panel_for_each_setting() -> None:
    rows = [a_row(), a_row(threads=1), a_row(dtype="float16"), a_row(work="2e6")]
    panels = plot.panels_of(rows)
    assert [len(members) for members in panels.values()] == [2, 1, 1]
    assert list(panels)[:2] == ["float32, 2 threads, baseline, cpu", "float32, 1 thread, baseline, cpu"]
    assert list(panels)[2].startswith("float16 with float32 gradients")


@pytest.mark.parametrize("places", [[0.1] * 5, [0.0, 0.01, 0.5, 1.0], [1.0] * 40, [0.97, 0.99, 1.0], []])
def test_names_keep_clear_of_each_other(places: list[float]) -> None:
    found = plot.spaced(places, 0.05, 1.0)
    assert len(found) == len(places)
    assert all(b - a >= 0.05 - 1e-6 for a, b in pairwise(found))
    assert all(math.isfinite(place) for place in found)
    if 0.05 * (len(places) - 1) <= 1:
        assert all(0 <= place <= 1 for place in found)
