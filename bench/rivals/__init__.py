"""The peers that bench/peers.py times beside fastoptim: one room each, and the list of them.

A peer that is not installed costs nothing and is named: no file here imports a peer before it is asked for a step.
"""

from __future__ import annotations

from .base import Array, Contender, Offer, Options, Peer
from .deepspeed import DeepSpeed
from .keras import Keras
from .mlx import Mlx
from .numba import Numba
from .numexpr import NumExpr
from .numpy import NumPy
from .optax import Optax
from .ours import Ours
from .thinc import Thinc
from .torch import TorchEager, TorchForeach, TorchFused

#: In the order of the tables.
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        TorchFused(),
        TorchForeach(),
        TorchEager(),
        DeepSpeed(),
        Optax(),
        Keras(),
        Numba(),
        NumExpr(),
        NumPy(),
        Thinc(),
        Mlx(),
    )
}

__all__ = ["PEERS", "Array", "Contender", "Offer", "Options", "Ours", "Peer"]
