from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType, NotImplementedType
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

# name -> (index, hyper-parameters, state arrays, state numbers, sums, whether those are a group's, what the pass for
# the sums does with p, g and each state array, what the update does, whether its step does not depend on p)
RULES: dict[
    str,
    tuple[
        int, tuple[str, ...], tuple[str, ...], tuple[str, ...], int, bool, tuple[str, ...], tuple[str, ...], bool, bool
    ],
]

def build_info() -> dict[str, Any]: ...
def address_of(array: npt.NDArray[Any]) -> int: ...  # of the first element
def register_dtype(name: str, dtype: np.dtype[Any]) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...  # 0: the default
def set_threading(layer: str) -> None: ...
def thread_info() -> Any: ...
def stepping_threads() -> list[int]: ...
def end_threads(threads: list[int]) -> None: ...
def quota_processors(root: str) -> int: ...
def norms(
    arrays: list[npt.NDArray[Any]], norm_type: float = 2.0, where: str | int = "", stream: int = 0
) -> list[float]: ...
def square_sums(
    matrices: npt.NDArray[Any], isa: str = ""
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]: ...
def cuda_axis_scratch(batch: int, rows: int, columns: int) -> int: ...  # numbers of float64
def cuda_reduce_axes(
    matrices: npt.NDArray[Any],
    batch: int,
    rows: int,
    columns: int,
    scratch: npt.NDArray[Any],
    of_rows: npt.NDArray[Any] | None,
    of_columns: npt.NDArray[Any] | None,
    largest: bool,
    scale: float,
    where: int,
    stream: int,
) -> None: ...
def cuda_add_groups(numbers: npt.NDArray[Any], groups: int, group: int, where: int, stream: int) -> None: ...

# sums, numbers in a group of them, old averages, new ones, the same in double, factors, count, eps, weight, divisor,
# summand
Moment: TypeAlias = tuple[
    npt.NDArray[Any],
    int,
    npt.NDArray[Any],
    npt.NDArray[Any],
    npt.NDArray[Any] | None,
    npt.NDArray[Any] | None,
    float,
    float,
    float,
    float,
    float,
]

def cuda_update_moments(moments: Sequence[Moment], where: int, stream: int) -> None: ...
def cuda_set_row_factors(
    averages: npt.NDArray[Any],
    totals: npt.NDArray[Any],
    factors: npt.NDArray[Any],
    rows: int,
    least: float,
    where: int,
    stream: int,
) -> None: ...

# sums of squares, and those of elements times the scales for infinite and for small sums
UnitSums: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any] | None, npt.NDArray[Any] | None]

def cuda_set_clip_factors(
    params: UnitSums,
    gradients: UnitSums,
    factors: npt.NDArray[Any],
    clipping: float,
    eps: float,
    where: int,
    stream: int,
) -> None: ...
def cuda_clip_units(
    gradient: npt.NDArray[Any],
    factors: npt.NDArray[Any],
    is_last_axis: bool,
    clipped: npt.NDArray[Any],
    where: int,
    stream: int,
) -> None: ...
def fill_normal(
    array: npt.NDArray[Any], seed: int, step: int, param: int, where: str | int = "", stream: int = 0
) -> None: ...

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
        norm_type: float,
        clip_eps: float,
        l1: float,
        weight_decay: float,
        decoupled: bool,
        ema: float | None,
        ema_start: int,
        ema_debias: bool,
        swa_start: int | None,
        swa_every: int,
        weight_decay_at: int = -1,
        decay_schedule: str = "lr",
        lr_max: float = 0.0,
        cautious: bool = False,
        cautious_decay: bool = False,
        low: float = ...,
        high: float = ...,
        rounding_seed: int | None = None,
    ) -> None: ...

# (options, learning rate, step number, loss scale, host constants) of each group
GroupSteps = list[tuple[UpdateConfig, float, int, float, tuple[float, ...]]]
Arrays = list[npt.NDArray[Any]]
Where = str | int  # the instruction set, or the number of a GPU

# "stepped": the number of arrays that had a gradient; "skipped"; "parameter changed" and "gradient unrecognized": the
# index of the first such array; "captured": a CUDA graph captures the stream
Result = tuple[str, int]

class ArrayReader:
    def __init__(self, key: Sequence[str], address: str) -> None: ...

class RowIndex:
    def __init__(self, index: npt.NDArray[Any], n: int) -> None: ...
    @staticmethod
    def all(n: int) -> RowIndex: ...
    @property
    def gradient_rows(self) -> int: ...
    # the different entries of `counts` at these rows, the i-th of which have the constants first + i
    def group(self, counts: npt.NDArray[np.int64], first: int) -> list[int]: ...

class Model:
    def __init__(
        self,
        params: Arrays,
        states: list[tuple[Arrays, Arrays, Arrays]],
        groups: list[int],
        where: Where,
        array_type: type,
        reader: ArrayReader | None = None,
        owners: list[Any] = ...,
        param_of: list[int] | None = None,
        rows_type: type | None = None,
        copies: Sequence[npt.NDArray[Any] | None] = (),
        extras: Sequence[npt.NDArray[Any] | None] = (),
        indices: Sequence[int] = (),
        compressed: Sequence[Sequence[tuple[str, npt.NDArray[Any] | None] | None]] = (),
    ) -> None: ...
    def recognize(self, grads: list[Any], step_of: list[int] | None, group_steps: GroupSteps) -> Result: ...
    def remember(self, i: int, grad: Any, metadata: npt.NDArray[Any]) -> None: ...
    def step(
        self,
        grads: list[Any],
        step_of: list[int] | None,
        group_steps: GroupSteps,
        now: list[Any] = ...,
        after: tuple[Any, ...] = ...,
        stream: int = 0,
        global_norm: float | None = None,
        sums: Sequence[float] = (),
    ) -> Result: ...
    def clipped_norms(
        self, grads: list[Any], step_of: list[int] | None, group_steps: GroupSteps, stream: int = 0
    ) -> list[float] | None: ...
    def rule_sums(
        self,
        grads: list[Any],
        step_of: list[int] | None,
        group_steps: GroupSteps,
        stream: int = 0,
        global_norm: float | None = None,
    ) -> list[float]: ...
    def advance(self, step_of: list[int] | None, group_steps: GroupSteps, stream: int) -> None: ...

# None for a leaf, a tuple for a list or tuple, a dict for a dict
Nesting = None | tuple["Nesting", ...] | dict[Any, "Nesting"]

class FastPath:
    # `fixed`: of each group the values of its options, the learning rate, the loss scale and the host constants
    def __init__(
        self,
        model: Model,
        nesting: Nesting,
        configs: list[UpdateConfig],
        fixed: list[tuple[tuple[Any, ...], float, float, tuple[float, ...]]] | None,
        stream: Callable[[], tuple[int, bool]] | None,
        containers: list[Any],
    ) -> None: ...
    # the first entry of `counts` is the step count, which a step increments
    def try_step(
        self, groups: list[dict[str, Any]], grads: Any, counts: list[Any], scheduled: tuple[float, ...] | None = None
    ) -> bool: ...
    # each snapshot begins with a tuple of the options' keys and values
    def match_inputs(self, groups: list[dict[str, Any]], snapshots: list[Any], grads: Any) -> list[Any] | None: ...
    def step_with(self, grads: list[Any], group_steps: list[Any], counts: list[Any]) -> Result: ...

# Call `work`, which may be called again, until it returns; then raise the first exception
def complete(work: Callable[[], Any]) -> None: ...

class Temporarily:
    def __init__(self, begin: Callable[[], Any], end: Callable[[], Any]) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exception: Any) -> None: ...

class BandwidthProbe:
    def __init__(self, model: Model, grads: list[Any], rule: int, loops: Any) -> None: ...
    def __call__(self, mask: int) -> None: ...

class StateArguments:
    # of each alternative the state arguments: a role, its index in the rule (-1 if unused) and a format
    def __init__(self, rule: int, alternatives: list[list[tuple[str, int, str]]]) -> None: ...

class OptionSet:
    WEIGHT_DECAY: ClassVar[int]

    def __init__(
        self,
        config: UpdateConfig,
        given: dict[str, Any],
        readable: Mapping[str, tuple[list[int], float, float]],
        lr: float,
        grad_scale: float,
        when_nonfinite: str,
        host_constants: Callable[[int, float], dict[str, float]] | None,
        states: StateArguments,
    ) -> None: ...

# the result of the function; if nothing was done, NotImplemented if no option set matched, else Ellipsis
def try_update(
    option_sets: tuple[OptionSet, ...], p: Any, g: Any, state: tuple[Any, ...], step: Any, options: dict[str, Any]
) -> bool | EllipsisType | NotImplementedType | None: ...
def cuda_status() -> str: ...
def cuda_device_of(address: int) -> int: ...
def cuda_wait(device: int, stream: int, other: int) -> None: ...
