"""The workloads of bench/peers.py, and the options that every peer is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastoptim.bench.workload import Shapes, gpt2, mlp

#: A title and the shapes of the arrays.
WORKLOADS: dict[str, tuple[str, Shapes]] = {
    "one": ("1 array of 1", ((1,),)),
    "mlp": ("784-256-10 network, 4 arrays", mlp()),
    "many": ("1,000 arrays of 256", ((256,),) * 1000),
    "1e5": ("1 array of 1e5", ((10**5,),)),
    "1e6": ("1 array of 1e6", ((10**6,),)),
    "1.6e7": ("1 array of 1.6e7", ((16 * 10**6,),)),
    "gpt2": ("GPT-2 124M, 148 arrays", gpt2()),
    **{f"2^{power}": (f"1 array of 2^{power}", ((2**power,),)) for power in range(12, 19)},
}

#: The same numbers in every workload and for every peer, by the names that they have here (which are PyTorch's).
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
