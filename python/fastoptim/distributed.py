"""Optimizers on several processes, over MPI or NCCL: `Sharded`."""

from .frontends.sharded.optimizer import Sharded as Sharded

__all__ = ["Sharded"]
