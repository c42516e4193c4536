from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

# name -> (index, hyper-parameters, state arrays)
RULES: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]]

def build_info() -> dict[str, Any]: ...
def set_bfloat16(dtype: np.dtype[Any]) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...

class Hyper:
    def __init__(
        self,
        rule: int,
        values: list[float],
        lr_at: int,
        maximize: bool,
        weight_decay: float,
        decoupled: bool,
    ) -> None: ...

class Plan:
    CHANGED: ClassVar[int]
    FIRST_ODD: ClassVar[int]
    def __init__(
        self,
        params: list[npt.NDArray[Any]],
        states: list[list[npt.NDArray[Any]]],
        groups: list[int],
        isa: str = "",
    ) -> None: ...
    def step(
        self,
        grads: list[Any],
        update_of: list[int] | None,
        updates: list[tuple[Hyper, float, int]],
    ) -> int: ...
