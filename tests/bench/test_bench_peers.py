"""The scripts in bench/: peers answer as fastoptim does before they are timed, and the pages show what was recorded."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from argparse import Namespace
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
import peers  # noqa: E402
import report  # noqa: E402
import threads  # noqa: E402
from adapters import OPTIONS, PEERS, Offer, Peer  # noqa: E402
from fastoptim import __main__  # noqa: E402
from fastoptim.bench import cli  # noqa: E402
from fastoptim.bench.timing import Budget  # noqa: E402
from fastoptim.bench.workload import Workload  # noqa: E402
from optional import optional  # noqa: E402

OFFERS = [(peer, optimizer) for peer in PEERS.values() for optimizer in peer.offers]


def small(optimizer: str, shapes: Sequence[tuple[int, ...]] = ((7, 3), (1,), (500,))) -> Workload:
    return Workload(optimizer, "small", tuple(shapes), options=OPTIONS[optimizer])


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize(("peer", "optimizer"), OFFERS, ids=lambda value: getattr(value, "name", value))
def test_a_peer_answers_as_fastoptim_does(peer: Peer, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not peer.installed():
        pytest.skip(f"not installed: {peer.packages}; pip install '.[peers]'")
    if optimizer != "adam":
        monkeypatch.setattr(adapters, "MOST_COMPILED", 0)  # MLX calls a C++ compiler, which takes seconds
    large = [(adapters.LEAST_PARALLEL,)] if peer.name == "numba" else []
    workload = small(optimizer, [(7, 3), (1,), (500,), *large])
    row = peers.compare(workload, peer.name, Budget(0, 1, 1))
    assert (row["checked_elements"], row["problem"]) == (workload.elements, None)
    params, grads = peers.make_arrays(workload)
    theirs = peer.stepper(optimizer, params, grads)
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
        ("adamw", {"weight_decay": 0.0}),
        ("sgd", {"nesterov": True}),
        ("radam", {"threshold": 7.5}),
        ("adam", {"lr": -1}),
    ],
)
def test_a_peer_with_another_answer_is_not_timed(
    optimizer: str, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str, options: dict[str, Any], params: Any, grads: Any) -> Any:
        return adapters.make_ours(optimizer, options, params, grads)

    monkeypatch.setitem(PEERS, "wrong", Peer("wrong", "numpy", "", make, {optimizer: Offer(optimizer, other)}))
    row = peers.compare(small(optimizer), "wrong", Budget(0))
    assert ("ValueError: " if other == {"lr": -1} else "answer differs") in str(row["problem"])
    assert row["times_as_fast"] is None
    assert "seconds" not in row


def test_ours_must_have_the_reference_s_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_ours(*arguments: Any) -> adapters.Stepper:
        made = adapters.make_ours(*arguments)
        if arguments[-1] != "reference":
            made.params()[2][499] = np.nextafter(made.params()[2][499], np.float32(1))
        return made

    monkeypatch.setattr(peers, "make_ours", make_ours)
    with pytest.raises(AssertionError):
        peers.compare(small("adam"), "numpy", Budget(0))


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
        assert peers.WORKLOADS[row["work"]][0] in shown


def die(*arguments: object) -> None:
    os._exit(1)


def test_the_row_of_a_process_that_died_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "compare", die)
    row = peers.compare_apart(small("adam"), "numpy", Budget(0), lambda share: None)
    assert "process" in str(row["problem"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "0"], "--threads: expected"),
        (["--json", "no/such/directory/run.json"], "--json: expected"),
        (["--peer", "pytorch"], "no such peer: pytorch; there are torch fused, "),
    ],
)
def test_invalid_arguments_are_rejected(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        sys.exit(peers.main(["--work", "one", "--peer", "numpy", *arguments]))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", report.RUNS)
def test_a_recorded_run_is_what_its_command_asks_for(name: str) -> None:
    command, rows = (
        shlex.split(report.RUNS[name]),
        [row for runs in report.recorded(name).values() for row in report.rows_of(runs)],
    )
    assert rows
    if command[0] == "-m":
        made = {(w.name, w.optimizer) for w in cli.workloads_of(__main__.make_parser().parse_args(command[2:]))}
        assert made >= {(row["work"], row["optimizer"]) for row in rows}
    else:
        args = peers.make_parser().parse_args(command[1:])
        args.peers = [peer for peer in PEERS if peer.startswith(tuple(args.peer))]
        assert {name for name, _ in peers.jobs_of(args)} >= {
            f"{row['peer']} {row['optimizer']} {row['work']}" for row in rows
        }
        assert all(row["title"] == peers.WORKLOADS[row["work"]][0] for row in rows)


def test_a_run_is_recorded_where_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RUNS", {"one": "bench/peers.py --work one --peer numpy --seconds 0"})
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGES", {})
    monkeypatch.setattr(report, "PICTURES", {})
    report.main(["--record", "--machine", "mine"])
    said = report.describe("one")
    assert said.startswith("`python bench/peers.py --work one --peer numpy --seconds 0`.\n\n- mine, ")
    assert said.endswith(" of 1 rows count.")


def test_a_noisy_row_gives_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"median": 1.0}
    row = {"optimizer": "adam", "work": "one", "title": "one", "ours_seconds": seconds, "times_as_fast": 3.0}
    rows = [row | {"peer": "numpy", "noise": "noisy: 4 rounds"}, row | {"peer": "numba", "noise": "quiet"}]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "small.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert "| one | mine | 1.0 s | 3.0 | - |" in report.peer_table(["small"], "work", "Adam")
    rows[1]["noise"] = rows[0]["noise"]
    (tmp_path / "mine" / "small.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    assert "| one | mine | - | - | - |" in report.peer_table(["small"], "work", "Adam")


@pytest.mark.parametrize("page", report.PAGES)
def test_the_pages_show_the_results(page: str) -> None:
    """To update them: ``python bench/report.py``."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    assert filled(text, report.PAGES[page]) == text


@pytest.mark.parametrize("page", [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")], ids=lambda path: path.name)
def test_the_commands_on_a_page_can_be_parsed(page: Path) -> None:
    command = re.compile(r"python3? (-m fastoptim|bench/\w+\.py)((?: (?!-->)[^`\n#]*)?)")
    for script, arguments in command.findall(page.read_text(encoding="utf-8")):
        assert script == "-m fastoptim" or (CHECKOUT / script).exists()
        module: Any = __main__ if script == "-m fastoptim" else optional(Path(script).stem)
        if "--help" not in arguments:
            module.make_parser().parse_args(shlex.split(arguments))


def test_the_pictures_can_be_drawn(tmp_path: Path) -> None:
    optional("matplotlib")
    for path, make in report.PICTURES.items():
        assert (CHECKOUT / path).exists()
        make(tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_each_turn_of_threads_gives_a_time_by_size_and_way() -> None:
    args = Namespace(rounds=2, seconds=0.0, size=[16, 64, 256], way=["one thread", "default"])
    times = threads.measure(threads.SITUATIONS["numpy products"], args)
    assert times.shape == (2, 3, 2)
    assert (times > 0).all()
