"""What bench/peers.py steps: the shapes of each work, and the numbers that every optimizer is given there."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

from fastoptim.bench.models import Shape, gpt2, mlp


class Work(NamedTuple):
    """Arrays that are stepped together."""

    name: str
    title: str
    shapes: tuple[Shape, ...]

    @property
    def elements(self) -> int:
        """In all arrays."""
        return sum(map(prod, self.shapes))


WORKS: dict[str, Work] = {
    work.name: work
    for work in (
        Work("one", "1 array of 1", ((1,),)),
        Work("mlp", "784-256-10 network, 4 arrays", mlp()),
        Work("many", "1,000 arrays of 256", ((256,),) * 1000),
        Work("1e5", "1 array of 1e5", ((10**5,),)),
        Work("1e6", "1 array of 1e6", ((10**6,),)),
        Work("1.6e7", "1 array of 1.6e7", ((16 * 10**6,),)),
        Work("gpt2", "GPT-2 124M, 148 arrays", gpt2()),
        *(Work(f"2^{power}", f"1 array of 2^{power}", ((2**power,),)) for power in range(12, 19)),
    )
}

#: In every work and at every peer, by the names that they have here (which are PyTorch's).
OPTIONS: dict[str, Mapping[str, Any]] = {
    "adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    "adamw": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    "sgd": {"lr": 1e-3, "momentum": 0.9},
    "adagrad": {"lr": 1e-2, "eps": 1e-10},
    "rmsprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8},
    "adamax": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    "nadam": {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 4e-3},
    "radam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    "adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
    "rprop": {"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)},
    "lion": {"lr": 1e-4, "betas": (0.9, 0.99)},
}
