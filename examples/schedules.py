"""Draw all learning-rate schedules of fastoptim.

The second and third line of a panel differ from the first in the option named below it.  Rates are drawn from 0 to the
largest.  A dotted line marks the end of a schedule.  The gray line is an invented loss, which converges to a lower
value with a lower rate.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from common import INK, look, make_parser, panels, positive, save
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fastoptim import schedules

FAMILIES = ("falling", "periodic", "up and down once", "composed", "following a metric")
FALLING, PERIODIC, ONCE, COMPOSED, FOLLOWING = range(5)
STRENGTHS = (1.0, 0.55, 0.3)
GREY = "#7d838c"


class Panel(NamedTuple):
    """Schedules of one class, the option in which they differ, and the step at which they end."""

    family: int
    note: str
    shown: Sequence[Callable[[int], float]]
    end: int | None = None


def every(n: int) -> list[Panel]:
    """Return one panel per class; schedules of known length end after `n` steps."""
    s = schedules
    tenth = n // 10
    cyclic: dict[str, Any] = {"base_lr": 0.1, "max_lr": 1, "step_size_up": 2 * tenth}
    parts: list[Any] = [s.Warmup(1, 2 * tenth), 1, s.Linear(1, 1, 0.1, total_iters=4 * tenth)]
    return [
        Panel(FALLING, "", [s.Constant(0.7)]),
        Panel(FALLING, "gamma 0.5", [s.Step(1, step_size=2 * tenth, gamma=0.5)]),
        Panel(FALLING, "gamma 0.3", [s.MultiStep(1, milestones=[5 * tenth, 8 * tenth], gamma=0.3)]),
        Panel(FALLING, "scales 0.6, 0.5, 0.2", [s.PiecewiseConstant(1, [2 * tenth, 5 * tenth, n], [0.6, 0.5, 0.2])]),
        Panel(FALLING, "gamma", [s.Exponential(1, gamma=rate ** (1 / n)) for rate in (0.2, 0.02)]),
        Panel(FALLING, "decay_rate", [s.NaturalExponential(1, rate, transition_steps=n) for rate in (2, 6)]),
        Panel(FALLING, "decay_rate", [s.InverseTime(1, rate, transition_steps=n) for rate in (3, 15)]),
        Panel(FALLING, "transition_steps", [s.InverseSqrt(1, transition_steps=n // part) for part in (8, 50)]),
        Panel(FALLING, "power 1, 0.5, 3", [s.Polynomial(1, n, power) for power in (1, 0.5, 3)], n),
        Panel(FALLING, "start_factor, end_factor", [s.Linear(1, 1, 0, n), s.Linear(1, 0.2, 0.6, n)], n),
        Panel(FALLING, "eta_min 0, 0.3", [s.Cosine(1, n, eta_min) for eta_min in (0, 0.3)], n),
        Panel(FALLING, "power 0.5, 2", [s.OneMinusPower(1, n, power) for power in (0.5, 2)], n),
        Panel(FALLING, "", [s.REX(1, n)], n),
        Panel(PERIODIC, "T_mult 2", [s.CosineWarmRestarts(1, T_0=n // 6, T_mult=2)]),
        Panel(PERIODIC, "triangular, triangular2", [s.Cyclic(**cyclic), s.Cyclic(**cyclic, mode="triangular2")]),
        Panel(ONCE, "three_phase", [s.OneCycle(1, n, three_phase=three) for three in (False, True)], n),
        Panel(COMPOSED, "then Cosine", [s.Warmup(s.Cosine(1, n - 2 * tenth), warmup_steps=2 * tenth)], n),
        Panel(COMPOSED, "Warmup, 1, Linear", [s.Sequence(parts, boundaries=[2 * tenth, 6 * tenth])], n),
        Panel(COMPOSED, "Step, Warmup", [s.Product([s.Step(1, 2 * tenth, 0.5), s.Warmup(1, 2 * tenth)])]),
        Panel(FOLLOWING, "factor 0.5", [s.ReduceOnPlateau(1, factor=0.5, patience=tenth, threshold=0.01)]),
    ]


def training(schedule: Callable[[int], float], steps: int) -> tuple[list[float], list[float]]:
    """Return the rate and the invented loss of each step; the loss converges to a lower value with a lower rate."""
    rates, losses = [], [1.0]
    for step in range(steps):
        rates.append(schedule(step))
        losses.append(losses[-1] + (0.1 + 0.5 * rates[-1] - losses[-1]) * 20 / steps)
        if isinstance(schedule, schedules.ReduceOnPlateau):
            schedule.update(losses[-1])
    return rates, losses


def draw_panel(axes: Axes, panel: Panel, steps: int) -> None:
    axes.set(xlim=(0, steps), ylim=(0, 1.05), xticks=[], yticks=[0, 0.5, 1], yticklabels=[])
    axes.set_title(type(panel.shown[0]).__name__, fontsize=10)
    axes.set_xlabel(panel.note, fontsize=8.5, color=GREY, loc="left")
    axes.tick_params(length=0)
    if panel.end:
        axes.axvline(panel.end, color=INK, linewidth=0.8, linestyle=":")
    for schedule, strength in zip(panel.shown, STRENGTHS, strict=False):
        rates, losses = training(schedule, steps)
        if panel.family == FOLLOWING:
            axes.plot(losses, color=GREY, linewidth=1)
        axes.plot(rates, linewidth=2, alpha=strength, drawstyle="steps-post", clip_on=False, **look(panel.family))


def draw_families(axes: Axes) -> None:
    axes.set_axis_off()
    lines = [Line2D([], [], linewidth=2, **look(i)) for i in range(len(FAMILIES))]
    axes.legend(lines, FAMILIES, loc="center left", frameon=False, borderaxespad=0, handlelength=1.2, fontsize=8.5)


def draw(args: Namespace) -> None:
    shown = every(args.steps * 5 // 6)
    figure, grid = panels(len(shown) + 1, 13, 6, "Learning rate against step", rows=3)
    for axes, panel in zip(grid, shown, strict=False):
        draw_panel(axes, panel, args.steps)
    draw_families(grid[-1])
    save(figure, args.output)


def parse() -> Namespace:
    parser = make_parser(__doc__, "schedules.png")
    parser.add_argument("--steps", type=positive, metavar="N", default=600, help="number of steps (default 600)")
    return parser.parse_args()


def main() -> None:
    draw(parse())


if __name__ == "__main__":
    main()
