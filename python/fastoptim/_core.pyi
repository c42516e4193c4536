from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

# name -> (index, hyper-parameters, state arrays, state numbers, sums, whether those are a group's, what the pass for
# the sums does with p, g and each state array, what the update does)
RULES: dict[
    str,
    tuple[int, tuple[str, ...], tuple[str, ...], tuple[str, ...], int, bool, tuple[str, ...], tuple[str, ...]],
]

def build_info() -> dict[str, Any]: ...
def set_bfloat16(dtype: np.dtype[Any]) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def set_threading(layer: str) -> None: ...
def thread_info() -> Any: ...
def stepping_threads() -> list[int]: ...
def end_threads(threads: list[int]) -> None: ...
def quota_processors(root: str) -> int: ...
def squared_norms(arrays: list[npt.NDArray[Any]]) -> list[float]: ...

class LayerTuner:
    def __init__(self) -> None: ...
    def choose(self, length: int, prefer_openmp: bool = False, now: int = 0) -> str: ...
    def record(self, length: int, layer: str, ns: float, one_thread_ns: float) -> None: ...

class UpdateConfig:
    def __init__(
        self,
        *,
        rule: int,
        values: list[float],
        lr_at: int,
        host_constants_at: list[int],
        maximize: bool,
        skip_nonfinite: bool,
        clip_value: float,
        clip_norm: float,
        clip_global_norm: float,
        l1: float,
        weight_decay: float,
        decoupled: bool,
        ema: float | None,
        swa_start: int | None,
        swa_every: int,
    ) -> None: ...

# each with its learning rate, step, loss scale and step scalars
GroupSteps = list[tuple[UpdateConfig, float, int, float, tuple[float, ...]]]
Arrays = list[npt.NDArray[Any]]

class Plan:
    CHANGED: ClassVar[int]
    SKIPPED: ClassVar[int]
    FIRST_ODD: ClassVar[int]
    def __init__(
        self,
        params: Arrays,
        states: list[tuple[Arrays, Arrays, Arrays]],
        groups: list[int],
        isa: str = "",
    ) -> None: ...
    def step(
        self,
        grads: list[Any],
        step_of: list[int] | None,
        group_steps: GroupSteps,
    ) -> int: ...

class BandwidthProbe:
    def __init__(
        self,
        rule: int,
        params: Arrays,
        grads: Arrays,
        states: list[Arrays],
        averages: list[Arrays],
        isa: str = "",
    ) -> None: ...
    def __call__(self, mask: int) -> int: ...

# None for a leaf, a tuple for a list or tuple, a dict for a dict
Nesting = None | tuple["Nesting", ...] | dict[Any, "Nesting"]

class Repeat:
    def __init__(self, plan: Plan, nesting: Nesting, configs: list[UpdateConfig]) -> None: ...
    # of what was seen of each group its options' values, first in a tuple
    def match(self, groups: list[dict[str, Any]], seen: list[Any], grads: Any) -> list[Any] | None: ...
    # each update with its settings, which are known, learning rate, step, loss scale and step scalars
    def step(self, grads: list[Any], group_steps: list[Any]) -> int: ...

class Steady:
    # of each group its options' values, learning rate, loss scale and step scalars
    def __init__(
        self, repeat: Repeat, groups: list[tuple[tuple[Any, ...], float, float, tuple[float, ...]]]
    ) -> None: ...
    def __call__(self, groups: list[dict[str, Any]], grads: Any, step_count: int) -> bool: ...

# ---- CUDA: arrays are addresses, streams are handles

Addresses = list[int]
Parameter = tuple[int, int, str]  # its first element, its size, its format

def cuda_status() -> str: ...
def cuda_device_of(address: int) -> int: ...
def cuda_squared_norms(arrays: list[Parameter], device: int, stream: int) -> list[float]: ...

class CudaPlan:
    SKIPPED: ClassVar[int]
    def __init__(
        self,
        params: list[Parameter],
        states: list[tuple[Addresses, Addresses, Addresses]],
        groups: list[int],
        device: int,
    ) -> None: ...
    def step(
        self,
        grads: list[int | None],
        formats: str | list[str],
        step_of: list[int] | None,
        group_steps: GroupSteps,
        stream: int,
        whole_norm: float | None = None,
    ) -> int: ...
    def gradient_norms(
        self,
        grads: list[int | None],
        formats: str | list[str],
        step_of: list[int] | None,
        group_steps: GroupSteps,
        stream: int,
    ) -> list[float] | None: ...
    def advance(self, step_of: list[int] | None, group_steps: GroupSteps, stream: int) -> None: ...

class CudaBandwidthProbe:
    def __init__(
        self,
        rule: int,
        params: list[Parameter],
        states: list[tuple[Addresses, Addresses, Addresses]],
        grads: list[int | None],
        formats: str | list[str],
        device: int,
    ) -> None: ...
    def __call__(self, mask: int, stream: int) -> None: ...
    def answer(self, stream: int) -> int: ...
