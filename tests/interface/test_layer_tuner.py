"""The choice between one thread, the pool and OpenMP, on simulated machines: how much time it loses in the long run."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from fastoptim import _core

SHARES = 8
ONE_THREAD = 150e3  # ns


class Run(NamedTuple):
    """A simulated training."""

    ns: float
    """All steps together."""
    layers: list[str]
    """The layer of each step."""


# The nanoseconds of the t-th pass on the pool and on OpenMP, given how many passes in a row ran there.
Machine = dict[str, Callable[[int, int], float]]


def simulate(
    machine: Machine, passes: int = 20_000, prefer_openmp: bool = False, one_thread: float = ONE_THREAD
) -> Run:
    tuner = _core.LayerTuner()
    total, in_a_row = 0.0, 0
    layers: list[str] = []
    for t in range(passes):
        layer = tuner.choose(SHARES, prefer_openmp, int(total))
        in_a_row = in_a_row + 1 if layers[-1:] == [layer] else 1
        ns = one_thread if layer == "serial" else machine[layer](t, in_a_row)
        tuner.record(SHARES, layer, ns, 0 if layer == "serial" else one_thread)
        layers.append(layer)
        total += ns
    return Run(total, layers)


def always(share: float) -> Callable[[int, int], float]:
    return lambda t, in_a_row: share * ONE_THREAD


def stalls(share: float, probability: float, ns: float, seed: int = 0) -> Callable[[int, int], float]:
    """Fast, but now and then a thread is interrupted in the middle."""
    rng = random.Random(seed)
    return lambda t, in_a_row: share * ONE_THREAD + (ns if rng.random() < probability else 0)


def awake_after(passes: int, share: float, asleep_ns: float) -> Callable[[int, int], float]:
    """Fast once its threads have been kept awake by that many passes in a row."""
    return lambda t, in_a_row: share * ONE_THREAD if in_a_row > passes else asleep_ns


MACHINES: dict[str, tuple[Machine, float]] = {  # with the best possible share of the time on one thread
    "quiet": ({"pool": always(0.53), "openmp": always(0.52)}, 0.52),
    "a BLAS holds the other processor": ({"pool": always(0.7), "openmp": lambda t, n: 4e6}, 0.7),
    "nothing helps": ({"pool": always(1.3), "openmp": lambda t, n: 25e6}, 1),
    "a second thread gains nothing": ({"pool": always(1.02), "openmp": always(1.05)}, 1),
    "OpenMP is awake": ({"pool": always(1.2), "openmp": always(0.55)}, 0.55),
    "OpenMP is awake after a few passes": ({"pool": always(1.3), "openmp": awake_after(1, 0.6, 120e3)}, 0.6),
    "a busy neighbour": ({"pool": stalls(0.55, 1 / 30, 3e6), "openmp": stalls(1, 0.5, 4e6)}, 1),
    "rare interruptions": ({"pool": stalls(0.5, 1 / 1000, 4e6), "openmp": stalls(0.5, 1 / 10, 4e6)}, 0.53),
}


@pytest.mark.parametrize("prefer_openmp", [False, True])
@pytest.mark.parametrize("name", MACHINES)
def test_little_time_is_lost_in_the_long_run(name: str, prefer_openmp: bool) -> None:
    machine, best = MACHINES[name]
    run = simulate(machine, prefer_openmp=prefer_openmp)
    credit_and_first_trials = 40e6  # once
    assert run.ns <= 1.12 * best * ONE_THREAD * len(run.layers) + credit_and_first_trials


def test_it_is_never_much_worse_than_one_thread() -> None:
    for seed in range(20):
        rng = random.Random(seed)
        machine = {
            layer: stalls(rng.uniform(0.4, 2), rng.choice([0, 0.001, 0.03, 0.3]), 10 ** rng.uniform(5, 7.5), seed)
            for layer in ("pool", "openmp")
        }
        run = simulate(machine)
        assert run.ns <= 1.12 * ONE_THREAD * len(run.layers) + 40e6


@pytest.mark.parametrize("one_thread", [20e3, 1e6, 10e6])
def test_the_first_stalls_are_enough(one_thread: float) -> None:
    """A barrier that waits milliseconds is left after a few passes, whatever the size of a step."""
    machine: Machine = {"pool": lambda t, n: one_thread * 1.5 + 4e6, "openmp": lambda t, n: one_thread + 25e6}
    layers = simulate(machine, passes=200, one_thread=one_thread).layers
    assert layers[30:].count("serial") >= 0.9 * len(layers[30:])


def test_a_change_is_noticed() -> None:
    """A BLAS joins, and leaves again."""
    busy = range(5_000, 20_000)
    run = simulate(
        {
            "pool": lambda t, n: (0.7 if t in busy else 0.55) * ONE_THREAD,
            "openmp": lambda t, n: 5e6 if t in busy else 0.45 * ONE_THREAD,
        },
        passes=40_000,
    )
    assert run.layers[4_000:5_000].count("openmp") > 900
    assert run.layers[6_000:20_000].count("pool") > 13_500
    assert run.layers[35_000:].count("openmp") > 4_500


def test_one_thread_is_left_again_when_others_can_help() -> None:
    run = simulate(
        {"pool": lambda t, n: 4e6 if t < 500 else 0.5 * ONE_THREAD, "openmp": lambda t, n: 5e6}, passes=40_000
    )
    assert run.layers[100:400].count("serial") > 280
    assert run.layers[30_000:].count("pool") > 9_500


def test_sizes_do_not_share_their_measurements() -> None:
    tuner = _core.LayerTuner()
    for _ in range(100):
        layer = tuner.choose(2)
        tuner.record(2, layer, 5e6 if layer != "serial" else 30e3, 30e3)
    assert tuner.choose(2) == "serial"
    assert tuner.choose(64) == "pool"


def test_openmp_comes_first_where_pytorch_keeps_it_awake() -> None:
    assert _core.LayerTuner().choose(SHARES, prefer_openmp=True) == "openmp"
    assert _core.LayerTuner().choose(SHARES, prefer_openmp=False) == "pool"
