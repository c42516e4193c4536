"""Compare the steps of `fastoptim.torch` with those of `torch.optim` on the CPU, on the shapes of four models.

    python bench/torch_optimizers.py                          # the table of docs/torch.md, some minutes
    python bench/torch_optimizers.py --model mlp --scaler     # with GradScaler

Rounds of a few steps alternate between the implementations, so that changes of the machine's load affect all alike.
The result of each is its fastest round, which other processes disturb least.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable
from typing import Any

import torch

import fastoptim as fo
import fastoptim.torch

Shapes = list[tuple[int, ...]]


def gpt2() -> Shapes:
    """GPT-2 small."""
    width = 768
    layer = [(width,)] * 6 + [(3 * width, width), (3 * width,), (width, width), (4 * width, width), (4 * width,)]
    return [(50257, width), (1024, width), *([*layer, (width, 4 * width)] * 12), (width,), (width,)]


def resnet18() -> Shapes:
    """ResNet-18: convolutions, each with the scale and the shift of a normalization."""
    convolutions = [(64, 3, 7, 7)] + [(64, 64, 3, 3)] * 4
    for before, width in ((64, 128), (128, 256), (256, 512)):
        convolutions += [(width, before, 3, 3), *[(width, width, 3, 3)] * 3, (width, before, 1, 1)]
    normalized = [shape for conv in convolutions for shape in (conv, conv[:1], conv[:1])]
    return [*normalized, (1000, 512), (1000,)]


MODELS: dict[str, Shapes] = {
    "small": [(32, 16), (32,), (32, 32), (32,), (4, 32), (4,)],
    "mlp": [(128, 784), (128,), (64, 128), (64,), (10, 64), (10,)],
    "resnet18": resnet18(),
    "gpt2": gpt2(),
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-4, "momentum": 0.9},
    "AdamW": {},
    "Adagrad": {},
    "RMSprop": {},
    "NAdam": {},
}
FLAGS = {"default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def stepper(make: Callable[..., Any], shapes: Shapes, options: dict[str, Any], scaled: bool) -> Callable[[], Any]:
    """Return a step of an optimizer over new parameters with gradients."""
    params = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p) * 0.01
    optimizer = make(params, **options)
    if not scaled:
        return optimizer.step  # type: ignore[no-any-return]
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=10**9)
    scaler.scale(torch.ones(()))

    def step() -> None:
        scaler.step(optimizer)
        scaler.update()

    return step


def measure(
    steps: dict[str, Callable[[], Any]], seconds: float, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return the time of a step of each in its fastest round, in microseconds."""
    counts = {}
    for name, step in steps.items():
        for _ in range(3):
            step()
        start = clock()
        step()
        counts[name] = max(1, int(seconds / rounds / (clock() - start)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = clock()
            for _ in range(counts[name]):
                step()
            times[name].append((clock() - start) / counts[name] * 1e6)
    return {name: min(each) for name, each in times.items()}


def compare(model: str, name: str, scaled: bool, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the time of a step of each implementation."""
    theirs = getattr(torch.optim, name)
    steps = {"fastoptim": stepper(getattr(fastoptim.torch, name), MODELS[model], OPTIMIZERS[name], scaled)}
    for flag, options in FLAGS.items():
        if flag == "default" or flag in inspect.signature(theirs).parameters:
            steps[flag] = stepper(theirs, MODELS[model], {**OPTIMIZERS[name], **options}, scaled)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    return measure(steps, arguments.seconds, arguments.rounds, clock)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--optimizer", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--scaler", action="store_true", help="step through GradScaler")
    parser.add_argument("--cpu-time", action="store_true", help="of the process, for one thread on a busy machine")
    parser.add_argument("--threads", type=int, default=fo.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="of each implementation")
    parser.add_argument("--rounds", type=int, default=15)
    return parser


def main() -> None:
    """Print the table."""
    arguments = make_parser().parse_args()
    fo.set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, microseconds a step (torch / fastoptim)")
    print("| model | optimizer | fastoptim | default | foreach | fused |\n|---|---|---|---|---|---|")
    cases = [(model, name) for model in arguments.model for name in arguments.optimizer]
    for model, name in cases:
        times = compare(model, name, arguments.scaler, arguments)
        ours = times["fastoptim"]
        cells = [f"{times[flag]:,.0f} ({times[flag] / ours:.1f}x)" if flag in times else "-" for flag in FLAGS]
        print(f"| {model} | {name} | {ours:,.0f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
