"""Time steps of SOAP, in turn with those of the authors' soap.py on the same matrices in float32.

curl -O https://raw.githubusercontent.com/nikhilvyas/SOAP/main/soap.py
python bench/soap_steps.py --peer soap.py --shape 768x768 --count 2 --periods 2 --threads 2

A period is the ten steps from one change of the bases to the next.  Prints the median time of a step, the longest time,
which is that of a change, and the share of the library's products and decompositions in `fo.SOAP`.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastoptim as fo
from fastoptim.arrays.numpy_family import NumPy

PERIOD = 10


class TimedLibrary:
    """The time in NumPy's products and decompositions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("matmul", "eigh", "orthonormal"):
            setattr(NumPy, name, self._timed(getattr(NumPy, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            before = time.perf_counter()
            result = function(*args)
            self.seconds += time.perf_counter() - before
            return result

        return timed


def peer_step(path: Path, grads: list[np.ndarray]) -> Callable[[], object]:
    """Return the step of the authors' SOAP with these gradients."""
    spec = importlib.util.spec_from_file_location("authors_soap", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    params = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.from_numpy(g)
    return module.SOAP(params).step  # type: ignore[no-any-return]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the authors' soap.py; without it only fo.SOAP is timed")
    parser.add_argument("--shape", default="768x768", help="shape of the matrices (default 768x768)")
    parser.add_argument("--count", type=int, default=2, help="matrices (default 2)")
    parser.add_argument("--periods", type=int, default=2, help="periods of ten steps (default 2)")
    parser.add_argument("--threads", type=int, default=2, help="threads of fastoptim and PyTorch (default 2)")
    return parser


def main() -> None:
    """Measure and print."""
    args, library = make_parser().parse_args(), TimedLibrary()
    fo.set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    rng, size = np.random.default_rng(0), tuple(map(int, args.shape.split("x")))
    grads = [rng.standard_normal(size).astype(np.float32) for _ in range(args.count)]
    ours = fo.SOAP([np.zeros_like(g) for g in grads])
    calls: dict[str, Callable[[], object]] = {"fo.SOAP": partial(ours.step, grads)}
    if args.peer:
        calls["soap.py"] = peer_step(args.peer, grads)
    times: dict[str, list[float]] = {name: [] for name in calls}
    shares = []
    for t in range(args.periods * PERIOD + 1):
        for name, call in calls.items():
            library.seconds, before = 0.0, time.perf_counter()
            call()
            seconds = time.perf_counter() - before
            if t:  # the first step has the eigendecompositions
                times[name].append(seconds)
            if t and name == "fo.SOAP":
                shares.append(library.seconds / seconds)
    print(f"{args.count} x {args.shape}, float32")
    for name, own in times.items():
        print(f"  {name:8s} {1e3 * float(np.median(own)):9.1f} ms, longest {1e3 * max(own):9.1f} ms")
    print(f"  products and decompositions: {100 * float(np.median(shares)):.1f} % of fo.SOAP")


if __name__ == "__main__":
    main()
