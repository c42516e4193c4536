from typing import Any

from .core import Model

def run_probe(model: Model, grads: list[Any], rule: int, mask: int, isa: str) -> None: ...
