"""Every optimizer as a `torch.optim.Optimizer`, for tensors on the CPU and on CUDA, without copies.

>>> import torch
>>> import fastoptim.torch
>>> model = torch.nn.Linear(3, 1)
>>> opt = fastoptim.torch.AdamW(model.parameters(), lr=1e-3)
>>> opt.zero_grad()
>>> model(torch.ones(2, 3)).sum().backward()
>>> opt.step()
"""

from typing import Any

from .frontends.torch import OPTIMIZERS
from .frontends.torch import Optimizer as Optimizer

__all__ = ["Optimizer", *sorted(cls.__name__ for cls in OPTIMIZERS)]

globals().update({cls.__name__: cls for cls in OPTIMIZERS})


def __getattr__(name: str) -> Any:  # the classes above exist; type checkers do not see them
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; the optimizers are {__all__[1:]}")
