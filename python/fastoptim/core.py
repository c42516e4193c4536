"""The compiled module: the only importer of `_core`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from . import _core
from ._core import ArrayReader as ArrayReader
from ._core import BandwidthProbe as BandwidthProbe
from ._core import FastPath as FastPath
from ._core import LayerTuner as LayerTuner
from ._core import Model as Model
from ._core import OptionSet as OptionSet
from ._core import RowIndex as RowIndex
from ._core import StateArguments as StateArguments
from ._core import Temporarily as Temporarily
from ._core import UpdateConfig as UpdateConfig
from ._core import address_of as address_of
from ._core import build_info as build_info
from ._core import complete as complete
from ._core import cuda_add_groups as cuda_add_groups
from ._core import cuda_axis_scratch as cuda_axis_scratch
from ._core import cuda_clip_units as cuda_clip_units
from ._core import cuda_device_of as cuda_device_of
from ._core import cuda_reduce_axes as cuda_reduce_axes
from ._core import cuda_set_clip_factors as cuda_set_clip_factors
from ._core import cuda_set_row_factors as cuda_set_row_factors
from ._core import cuda_status as cuda_status
from ._core import cuda_update_moments as cuda_update_moments
from ._core import cuda_wait as cuda_wait
from ._core import end_threads as end_threads
from ._core import fill_normal as fill_normal
from ._core import get_num_threads as get_num_threads
from ._core import norms as norms
from ._core import quota_processors as quota_processors
from ._core import register_dtype as register_dtype
from ._core import set_num_threads as set_num_threads
from ._core import set_threading as set_threading
from ._core import square_sums as square_sums
from ._core import stepping_threads as stepping_threads
from ._core import thread_info as thread_info
from ._core import try_update as try_update

if TYPE_CHECKING:
    from ._core import GroupSteps as GroupSteps
    from ._core import Moment as Moment
    from ._core import UnitSums as UnitSums


class Rule(NamedTuple):
    """The description of one compiled rule."""

    number: int
    hyper: tuple[str, ...]
    state: tuple[str, ...]
    scalar_state: tuple[str, ...]
    sums: int
    reduces_all: bool
    reduces: tuple[str, ...]
    """The access of the reduction to p, g and each array of `state`: "", "r" or "rw"; empty without a reduction."""
    updates: tuple[str, ...]
    """The same for the update."""
    ignores_p: bool
    """Whether the update is a step that does not depend on p."""
    has_row_state: bool
    """True if the last array of `state` has one number for each row."""


RULES = {name: Rule(*rule) for name, rule in _core.RULES.items()}
