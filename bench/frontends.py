"""Time the updates of other libraries' optimizers and of fastoptim in their interfaces, in turn.

    python bench/frontends.py              # thinc, autograd and scikit-learn, as far as they are installed
    python bench/frontends.py thinc --seconds 2

A step is one call of the library's interface: thinc's optimizer for one array, autograd's loop over 10 iterations of
the arrays of a 784-256-10 network with a gradient that costs nothing, scikit-learn's `update_params` of the arrays of a
64-256-256-10 network.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

import fastoptim as fo
from fastoptim.bench.table import format_table
from fastoptim.bench.timing import Budget, interleave, summarize, verdict

Pair = tuple[str, Mapping[str, Callable[[], object]]]  # what is timed, and both steps: theirs and ours


def thinc() -> Iterator[Pair]:
    theirs, ours = import_module("thinc.api"), import_module("fastoptim.thinc")
    for size in (256, 10_000, 1_000_000):
        steps: dict[str, Callable[[], object]] = {}
        for name, module in (("theirs", theirs), ("ours", ours)):
            optimizer = module.Adam(0.001, grad_clip=0.0, use_averages=False)
            w, g = (np.random.default_rng(0).standard_normal(size, np.float32) for _ in range(2))
            steps[name] = partial(optimizer, (0, "W"), w, g)
        yield f"thinc, Adam, {size:,} elements", steps


def autograd() -> Iterator[Pair]:
    theirs, ours = import_module("autograd.misc.optimizers"), import_module("fastoptim.autograd")
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape) for shape in ((784, 256), (256,), (256, 10), (10,))]
    for name in ("adam", "rmsprop", "sgd"):
        steps = {
            each: partial(getattr(module, name), lambda x, i: params, params, num_iters=10)
            for each, module in (("theirs", theirs), ("ours", ours))
        }
        yield f"autograd, {name}, 10 iterations", steps


def sklearn() -> Iterator[Pair]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    optimizers = import_module("sklearn.neural_network._stochastic_optimizers")
    recipe = import_module("scikit_learn")
    for dtype in ("float64", "float32"):
        rng, shapes = np.random.default_rng(0), ((64, 256), (256, 256), (256, 10), (256,), (256,), (10,))
        params = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        grads = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
        theirs, ours = (optimizers.AdamOptimizer(params) for _ in range(2))
        updates = {"theirs": theirs.update_params, "ours": recipe.FusedUpdate(ours)}
        yield f"scikit-learn, Adam, {dtype}", {name: partial(each, params, grads) for name, each in updates.items()}


LIBRARIES = {"thinc": thinc, "autograd": autograd, "sklearn": sklearn}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", nargs="*", metavar="NAME", help=f"some of {', '.join(LIBRARIES)} (default all)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="time for each row (default 1)")
    return parser


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    if unknown := set(args.library) - LIBRARIES.keys():
        parser.error(f"expected names among {', '.join(LIBRARIES)}, got {', '.join(sorted(unknown))}")
    rows: list[Sequence[str]] = [("update", "theirs", "fastoptim", "times as fast", "noise")]
    for name in args.library or LIBRARIES:
        try:
            pairs = list(LIBRARIES[name]())
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        for title, steps in pairs:
            times = interleave(steps, Budget(args.seconds))
            theirs, ours = (summarize(times[each])["median"] for each in ("theirs", "ours"))
            ratio = f"{theirs / ours:.2g}"
            noise = verdict(times["theirs"], times["ours"])
            rows.append((title, f"{theirs * 1e6:,.1f} us", f"{ours * 1e6:,.1f} us", ratio, noise))
    print(f"fastoptim {fo.__version__}, {fo.build_info()['isa']}, {fo.get_num_threads()} threads at most")
    print(format_table(rows))


if __name__ == "__main__":
    main()
