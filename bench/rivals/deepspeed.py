"""DeepSpeed's CPU Adam, which it compiles when it is first used: that takes minutes, and needs ninja and a compiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .base import Offer, Options
from .torch import Torch


class DeepSpeed(Torch):
    """Its own kernel over PyTorch's tensors."""

    name = "deepspeed"
    package = "deepspeed"
    about = "deepspeed.ops.adam.DeepSpeedCPUAdam(tensors).step()"
    offers = {
        "adam": Offer("DeepSpeedCPUAdam", {"adamw_mode": False}),
        "adamw": Offer("DeepSpeedCPUAdam", {"adamw_mode": True}),
    }

    def stepper(self, offer: Offer, options: Options, tensors: list[Any]) -> Callable[[], object]:
        """Its optimizer's own step."""
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or it looks for others first
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(tensors, **options, **offer.more).step  # type: ignore[no-any-return]
