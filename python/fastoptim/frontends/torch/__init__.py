"""The optimizers as subclasses of `torch.optim.Optimizer`; see `fastoptim.torch`."""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastoptim.torch: expected PyTorch; pip install 'fastoptim[torch]'") from error

from .optimizer import OPTIMIZERS as OPTIMIZERS
from .optimizer import Optimizer as Optimizer
