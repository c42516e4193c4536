"""The benchmark beside its peers: those installed answer as fastoptim does, and the pages say what was recorded."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo

CHECKOUT = Path(__file__).parents[1]
if not (CHECKOUT / "bench").exists():
    pytest.skip("needs bench/: this test runs in a checkout", allow_module_level=True)
sys.path.append(str(CHECKOUT / "bench"))


import contest  # noqa: E402
import peers  # noqa: E402
import record  # noqa: E402
import report  # noqa: E402
from apart import Plan, reports  # noqa: E402
from fastoptim.bench import cli  # noqa: E402
from rivals import PEERS, Array, Contender, Offer, Options, Ours, Peer, mlx  # noqa: E402
from works import OPTIONS, WORKS, Work  # noqa: E402

SMALL = Work("small", "three arrays", ((7, 3), (1,), (500,)))
OFFERS = [(peer, optimizer) for peer in PEERS.values() for optimizer in peer.offers]


def needs(peer: Peer) -> None:
    if not peer.installed():
        pytest.skip(
            f"{peer.package} is not installed, or what it runs on: pip install '.[peers]'; see docs/performance.md"
        )


# ---- answers


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize(("peer", "optimizer"), OFFERS, ids=lambda value: getattr(value, "name", value))
def test_a_peer_answers_as_fastoptim_does(peer: Peer, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(peer)
    if optimizer != "adam":
        monkeypatch.setattr(mlx, "MOST_COMPILED", 0)  # it calls a C++ compiler, which takes seconds
    pair = contest.line_up(SMALL, optimizer, peer)
    assert pair.problem is None
    assert pair.compared == SMALL.elements


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_a_peer_works_on_copies_and_takes_the_gradients_it_is_fed(peer: Peer) -> None:
    needs(peer)
    optimizer = next(iter(peer.offers))
    params, grads = contest.made(SMALL)
    before = [p.copy() for p in params], [g.copy() for g in grads]
    theirs = peer.make(optimizer, OPTIONS[optimizer], params, grads)
    theirs.feed(-g for g in grads)
    theirs.step()
    for p, g, start, g_before in zip(params, grads, *before, strict=True):
        np.testing.assert_array_equal(p, start)
        np.testing.assert_array_equal(g, g_before)
    for after, p, g in zip(theirs.params(), params, grads, strict=True):
        assert after.shape == p.shape
        assert (np.sign(after - p) == np.sign(g)).mean() > 0.9  # uphill, by the gradients that it was fed


@pytest.mark.filterwarnings("ignore")
def test_numba_s_threads_share_an_array() -> None:
    needs(PEERS["numba"])
    assert contest.line_up(Work("large", "two arrays", ((70_000,), (3,))), "adam", PEERS["numba"]).problem is None


class Mistaken(Peer):
    """fastoptim with other options than it was given, or what it raises."""

    name = package = "mistaken"
    about = "for these tests"
    offers = {name: Offer(name) for name in OPTIONS}

    def __init__(self, **other: Any) -> None:
        self._other = other

    def version(self) -> str:
        return "0"

    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Contender:
        return Ours(optimizer, {**options, **self._other}, params, grads)


@pytest.mark.parametrize(
    ("optimizer", "other"),
    [
        ("adam", {"lr": 1.001e-3}),
        ("adam", {"eps_hat": True}),
        ("adam", {"eps_root": 1e-8, "eps": 0.0}),
        ("adam", {"betas": (0.9, 0.99)}),
        ("adamw", {"weight_decay": 0.0}),
        ("sgd", {"nesterov": True}),
        ("radam", {"threshold": 7.5}),
        ("nadam", {"momentum_decay": None}),
        ("adamax", {"eps_outside": True, "eps": 1e-3}),
        ("rprop", {"etas": (0.5, 1.21)}),
        ("lion", {"betas": (0.99, 0.99)}),
    ],
)
def test_another_answer_is_noticed_and_not_timed(optimizer: str, other: dict[str, Any]) -> None:
    row = contest.contest(SMALL, optimizer, Mistaken(**other), seconds=0)
    assert str(row["problem"]).startswith("answer differs: ")
    assert (row["times_as_fast"], row["seconds"], row["ours_seconds"]) == (None, None, None)


def test_what_a_peer_raises_is_its_row() -> None:
    row = contest.contest(SMALL, "adam", Mistaken(lr=-1), seconds=0)
    assert str(row["problem"]).startswith("ValueError: ")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 0.0, 1.001e-3])
def test_one_wrong_element_is_a_difference(wrong: float) -> None:
    before, ours = [np.zeros(5, np.float32)] * 2, [np.full(5, 1e-3, np.float32)] * 2
    theirs = [array.copy() for array in ours]
    assert contest.difference(before, ours, theirs) is None
    theirs[1][3] = wrong
    assert "in array 1" in str(contest.difference(before, ours, theirs))


def test_ours_must_have_the_reference_s_bits() -> None:
    params, grads = contest.made(SMALL)
    judge = contest.Judge("adam", params, grads)
    ours = Ours("adam", OPTIONS["adam"], params, grads)
    contest.drill(ours, grads)
    judge.refuse_ours(ours)
    ours.params()[2][499] = np.nextafter(ours.params()[2][499], np.float32(1))
    with pytest.raises(AssertionError):
        judge.refuse_ours(ours)


# ---- what can be chosen


def test_offers_are_optimizers_with_options() -> None:
    assert {optimizer for _, optimizer in OFFERS} == set(OPTIONS) <= set(fo.OPTIMIZERS)
    for optimizer, options in OPTIONS.items():
        fo.OPTIMIZERS[optimizer].check_options(dict(options))


def test_works_are_what_their_titles_say() -> None:
    sizes = {name: (len(work.shapes), work.elements) for name, work in WORKS.items()}
    assert sizes["one"] == (1, 1)
    assert sizes["mlp"] == (4, 784 * 256 + 256 + 2560 + 10)
    assert sizes["many"] == (1000, 256_000)
    assert sizes["1.6e7"] == (1, 16_000_000)
    assert sizes["gpt2"] == (148, 124_439_808)
    assert [sizes[f"2^{power}"] for power in range(12, 19)] == [(1, 2**power) for power in range(12, 19)]


def test_a_sample_is_of_every_array_and_not_of_every_element() -> None:
    arrays = [np.zeros(shape, np.float32) for shape in ((3,), (1000, 2000))]
    sampled = contest.sample(arrays)
    assert [array.size > 0 for array in sampled] == [True, True]
    assert sum(array.size for array in sampled) <= contest.COMPARED + len(arrays)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--work", "one", "mlp", "--peer", "numpy", "--optimizer", "adam", "lion", "--seconds", "0"]
    assert peers.main([*arguments, "--json", str(tmp_path / "run.json")]) == 0
    run = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert run["schema"] == 1
    assert run["settings"]["peers"] == {"numpy": np.__version__}
    assert [(row["work"], row["optimizer"], row["peer"]) for row in run["rows"]] == [
        ("one", "adam", "numpy"),
        ("mlp", "adam", "numpy"),
    ]
    for row in run["rows"]:
        assert set(row) == set(contest.Row.__annotations__)
        assert row["times_as_fast"] == row["seconds"]["median"] / row["ours_seconds"]["median"]
        assert row["checked_elements"] == WORKS[row["work"]].elements
    out = capsys.readouterr().out
    assert [work for work in ("one", "mlp") if WORKS[work].title not in out] == []


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert [name for name in [*WORKS, *PEERS, *OPTIONS] if name not in out] == []


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(SystemExit, match="no such peer: pytorch; there are torch fused, "):
        peers.main(["--peer", "pytorch"])


@pytest.mark.parametrize(
    "wrong", [["--threads", "0"], ["--block", "0"], ["--seconds", "nan"], ["--json", "no/such/directory/run.json"]]
)
def test_numbers_and_files_that_cannot_be_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        peers.main(["--work", "one", "--peer", "numpy", *wrong])
    assert f"{wrong[0]}: expected" in capsys.readouterr().err


def test_rows_of_a_process_that_died_say_so() -> None:
    bad: Any = "two"
    plan = Plan("numpy", [("one", "adam"), ("mlp", "adam")], bad, 0, None)
    rows = [said.row for said in reports(plan) if said.row]
    assert [(row["work"], row["problem"]) for row in rows] == [
        ("one", "the process ended with 1"),
        ("mlp", "the process ended with 1"),
    ]


# ---- what is recorded


@pytest.mark.parametrize("name", record.RUNS)
def test_a_run_can_be_asked_for(name: str) -> None:
    command = shlex.split(record.RUNS[name])
    if command[0] == record.PEERS:
        chosen = peers.parser().parse_args(command[1:])
        assert peers.chosen(chosen.peer)
    else:
        assert command[:3] == shlex.split(record.BENCH)
        parser = ArgumentParser()
        cli.add_arguments(parser)
        assert cli.tasks_of(parser.parse_args(command[3:]))


def test_a_run_is_recorded_with_its_command_and_date(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    assert not record.record(["bench/peers.py", "--peer", "nobody"], file)
    assert not file.exists()
    assert record.record(["bench/peers.py", "--work", "one", "--peer", "numpy", "--seconds", "0"], file)
    kept = file.read_text(encoding="utf-8")
    run = json.loads(kept)
    assert run["settings"]["command"] == "python bench/peers.py --work one --peer numpy --seconds 0"
    assert re.match(r"\d{4}-\d\d-\d\dT", run["settings"]["date"])
    assert not record.record(["bench/peers.py", "--peer", "nobody"], file)
    assert file.read_text(encoding="utf-8") == kept


@pytest.mark.parametrize("name", record.RUNS)
def test_what_is_recorded_is_what_the_run_asks_for(name: str) -> None:
    run = report.load(name)
    assert run["settings"]["command"].startswith(shlex.join(["python", *shlex.split(record.RUNS[name])]))
    assert run["rows"]
    assert {row.get("peer", "numpy") for row in run["rows"]} <= set(report.PEERS) == set(PEERS)
    assert all(row["title"] == WORKS[row["work"]].title for row in run["rows"] if "peer" in row)


# ---- what the pages say


@pytest.mark.parametrize("page", report.PAGES)
def test_the_pages_are_what_the_results_give(page: str) -> None:
    """Else: ``python bench/report.py``."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    made = report.filled(text, report.PAGES[page])
    assert made == text
    assert report.filled(made, report.PAGES[page]) == made


def test_the_check_writes_nothing_and_says_what_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "CHECKOUT", tmp_path)
    monkeypatch.setattr(report, "PAGES", {"page.md": {"speed": lambda: "new"}})
    old, new = (f"<!-- speed: made -->\n\n{text}\n\n<!-- end of speed -->\n" for text in ("old", "new"))
    page = tmp_path / "page.md"
    page.write_text(old, encoding="utf-8")
    assert report.main(["--check"]) == 1
    assert page.read_text(encoding="utf-8") == old
    assert "out of date: page.md" in capsys.readouterr().out
    page.write_text(new, encoding="utf-8")
    assert report.main(["--check"]) == 0


def test_a_peer_that_is_faster_is_named() -> None:
    row = {"peer": "numba", "title": "1 array", "optimizer": "adam"}
    rows = [{**row, "times_as_fast": number} for number in (0.5, 0.97, 1.04, 3.0)]
    said = report.faster([{"rows": rows}])
    assert said.startswith("Faster than fastoptim here: numba (1 array: 0.50).  As fast, within 5 %: ")
    assert said.endswith(": numba (1 array: 0.97; 1 array: 1.0).")


def test_the_numbers_examples() -> None:
    assert doctest.testmod(report).failed == 0


def test_the_readme_s_own_words_hold_no_measured_number() -> None:
    section = (CHECKOUT / "README.md").read_text(encoding="utf-8").split("## Speed")[1].split("\n## ")[0]
    prose = re.sub(r"(<!-- ([a-z ]+): [^\n]* -->\n).*?<!-- end of \2 -->\n", "", section, flags=re.DOTALL)
    assert len(prose) < len(section) / 2
    assert re.findall(r"[\d.,]+ ?(?:times|x\b|us\b|ms\b|%|GB)", prose) == []


def test_the_pictures_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[examples]'")
    for path, make in report.PICTURES.items():
        assert (CHECKOUT / path).exists()
        make(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 10_000
