from typing import Any

from .core import Model

class BandwidthProbe:
    def __init__(self, model: Model, grads: list[Any], rule: int, isa: str) -> None: ...
    def __call__(self, mask: int) -> None: ...
