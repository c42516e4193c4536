"""The scripts in bench/: peers answer as fastoptim does before they are timed, and the pages show what was recorded."""

from __future__ import annotations

import json
import re
import shlex
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CHECKOUT = Path(__file__).parents[2]
if not (CHECKOUT / "bench").exists():
    pytest.skip("needs bench/: this test runs in a checkout", allow_module_level=True)
sys.path += [str(CHECKOUT / "bench"), str(CHECKOUT / "docs")]

from tables import filled  # noqa: E402

import adapters  # noqa: E402
import compare  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
import threads  # noqa: E402
from adapters import PEERS, Offer, Peer  # noqa: E402
from fastoptim.bench import cli  # noqa: E402
from fastoptim.bench.workload import Workload  # noqa: E402
from optional import optional  # noqa: E402
from workloads import OPTIONS, WORKLOADS  # noqa: E402

OFFERS = [(peer, optimizer) for peer in PEERS.values() for optimizer in peer.offers]


def small(optimizer: str, shapes: Sequence[tuple[int, ...]] = ((7, 3), (1,), (500,))) -> Workload:
    return Workload(optimizer, "small", tuple(shapes), options=OPTIONS[optimizer])


def make_peer(peer: Peer, workload: Workload) -> Any:
    params, grads = compare.make_arrays(workload)
    return peer.make(peer.offers[workload.optimizer], workload.options, params, grads)


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize(("peer", "optimizer"), OFFERS, ids=lambda value: getattr(value, "name", value))
def test_a_peer_answers_as_fastoptim_does(peer: Peer, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not peer.installed():
        pytest.skip(f"{peer.package} or {peer.needs} is not installed: pip install '.[peers]'")
    if optimizer != "adam":
        monkeypatch.setattr(adapters, "MOST_COMPILED", 0)  # MLX calls a C++ compiler, which takes seconds
    large = [(adapters.LEAST_PARALLEL,)] if peer.name == "numba" else []
    workload = small(optimizer, [(7, 3), (1,), (500,), *large])
    steps, compared, problem = compare.prepare(workload, peer)
    assert (list(steps), compared, problem) == (["ours", "theirs"], workload.elements, None)
    theirs = make_peer(peer, workload)
    params, grads = compare.make_arrays(workload)
    theirs.set_grads(-g for g in grads)
    theirs.step()
    for after, p, g in zip(theirs.params(), params, grads, strict=True):
        assert after.shape == p.shape
        assert (np.sign(after - p) == np.sign(g)).mean() > 0.9  # uphill by the new gradients


@pytest.mark.parametrize(
    ("optimizer", "other"),
    [
        ("adam", {"lr": 1.001e-3}),
        ("adam", {"eps_hat": True}),
        ("adam", {"eps_root": 1e-8, "eps": 0.0}),
        ("adamw", {"weight_decay": 0.0}),
        ("sgd", {"nesterov": True}),
        ("radam", {"threshold": 7.5}),
        ("rprop", {"etas": (0.5, 1.21)}),
        ("adam", {"lr": -1}),
    ],
)
def test_a_peer_with_another_answer_is_not_timed(
    optimizer: str, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(offer: Offer, options: Any, params: Any, grads: Any) -> Any:
        return adapters.make_ours(optimizer, {**options, **other}, params, grads)

    monkeypatch.setitem(PEERS, "wrong", Peer("wrong", "numpy", "", make, {optimizer: Offer(optimizer)}))
    row = compare.compare(small(optimizer), "wrong", seconds=0)
    assert str(row["problem"]).startswith("ValueError: " if "lr" in other and other["lr"] < 0 else "answer differs: ")
    assert row["times_as_fast"] is None
    assert "seconds" not in row


def test_ours_must_have_the_reference_s_bits() -> None:
    params, grads = compare.make_arrays(small("adam"))
    checker = compare.AnswerChecker("adam", params, grads)
    ours = adapters.make_ours("adam", OPTIONS["adam"], params, grads)
    compare.run_steps(ours, grads)
    checker.check_ours(ours)
    ours.params()[2][499] = np.nextafter(ours.params()[2][499], np.float32(1))
    with pytest.raises(AssertionError):
        checker.check_ours(ours)


@pytest.mark.parametrize("block", [[], ["--block", "1"]], ids=["warm", "cold"])
def test_the_command_line(block: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--work", "one", "mlp", "--peer", "numpy", "--optimizer", "adam", "lion", "--seconds", "0", *block]
    assert peers.main([*arguments, "--json", str(tmp_path / "run.json")]) == 0
    run = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert run["settings"]["peers"] == {"numpy": np.__version__}
    assert [(row["work"], row["optimizer"], row["peer"]) for row in run["rows"]] == [
        ("one", "adam", "numpy"),
        ("mlp", "adam", "numpy"),
    ]
    shown = capsys.readouterr().out
    for row in run["rows"]:
        assert row["times_as_fast"] == row["seconds"]["median"] / row["ours_seconds"]["median"]
        assert WORKLOADS[row["work"]][0] in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads: expected"),
        (["--block", "0"], "--block: expected"),
        (["--seconds", "nan"], "--seconds: expected"),
        (["--json", "no/such/directory/run.json"], "--json: expected"),
        (["--peer", "pytorch"], "no such peer: pytorch; there are torch fused, "),
    ],
)
def test_invalid_arguments_are_rejected(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as rejected:
        peers.main(["--work", "one", "--peer", "numpy", *arguments])
    assert message in f"{rejected.value}{capsys.readouterr().err}"


def test_the_rows_of_a_process_that_died_say_so() -> None:
    args = peers.make_parser().parse_args(["--work", "one", "mlp", "--seconds", "0"])
    args.threads = "two"  # the process ends at once
    rows = list(peers.run([PEERS["numpy"]], args))
    assert [row["work"] for row in rows] == ["one", "mlp"]
    assert all("process" in str(row["problem"]) for row in rows)


@pytest.mark.parametrize("name", report.RUNS)
def test_a_recorded_run_is_what_its_command_asks_for(name: str) -> None:
    command, run = shlex.split(report.RUNS[name]), report.load(name)
    if command[0] == "-m":
        parser = ArgumentParser()
        cli.add_arguments(parser)
        assert cli.workloads_of(parser.parse_args(command[3:]))
    else:
        assert peers.select_peers(peers.make_parser().parse_args(command[1:]).peer)
    assert run["settings"]["command"].startswith(shlex.join(["python", *command]))
    assert {row.get("peer", "numpy") for row in run["rows"]} <= set(PEERS)
    assert all(row["title"] == WORKLOADS[row["work"]][0] for row in run["rows"] if "peer" in row)


def test_a_run_is_recorded_with_its_command_and_date(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    assert not report.record(["bench/peers.py", "--peer", "nobody"], file)
    assert not file.exists()
    assert report.record(["bench/peers.py", "--work", "one", "--peer", "numpy", "--seconds", "0"], file)
    settings = json.loads(file.read_text(encoding="utf-8"))["settings"]
    assert settings["command"] == "python bench/peers.py --work one --peer numpy --seconds 0"
    assert re.match(r"\d{4}-\d\d-\d\dT", settings["date"])


@pytest.mark.parametrize("page", report.PAGES)
def test_the_pages_show_the_results(page: str) -> None:
    """To update them: ``python bench/report.py``."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    assert filled(text, report.PAGES[page]) == text


def test_the_check_writes_nothing_and_names_old_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "CHECKOUT", tmp_path)
    monkeypatch.setattr(report, "PAGES", {"page.md": {"speed": lambda: "new"}})
    monkeypatch.setattr(report, "PICTURES", {})
    old = "<!-- speed: made -->\n\nold\n\n<!-- end of speed -->\n"
    page = tmp_path / "page.md"
    page.write_text(old, encoding="utf-8")
    assert report.main(["--check"]) == 1
    assert page.read_text(encoding="utf-8") == old
    assert "out of date: page.md" in capsys.readouterr().out
    assert report.main([]) == 0
    assert page.read_text(encoding="utf-8") == old.replace("old", "new")
    assert report.main(["--check"]) == 0


def test_the_readme_s_prose_contains_no_measured_number() -> None:
    section = (CHECKOUT / "README.md").read_text(encoding="utf-8").split("## Speed")[1].split("\n## ")[0]
    prose = re.sub(r"(<!-- ([a-z ]+): [^\n]* -->\n).*?<!-- end of \2 -->\n", "", section, flags=re.DOTALL)
    assert len(prose) < len(section) / 2
    assert re.findall(r"[\d.,]+ ?(?:times|x\b|us\b|ms\b|%|GB)", prose) == []


def test_the_pictures_can_be_drawn(tmp_path: Path) -> None:
    optional("matplotlib")
    for path, make in report.PICTURES.items():
        assert (CHECKOUT / path).exists()
        make(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_each_turn_of_threads_gives_a_time_by_way_and_size() -> None:
    args = Namespace(rounds=2, seconds=0.0)
    (first, second) = threads.measure("idle", ["one thread", "default"], [16, 64], args)
    assert first.keys() == second.keys() == {"one thread", "default"}
    assert all(time > 0 for turn in (first, second) for times in turn.values() for time in times)
    assert {len(times) for times in first.values()} == {2}
