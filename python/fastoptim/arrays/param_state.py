"""A parameter with its state, and the checks of all of them together before a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import block_codes
from ..extra_bits import EXTRA_BITS, WAYS, decode, encode, is_narrow
from ..options.schema import SCALES, Codes, StateArray
from ..reference_math import Array, compute_dtype, rounded_to
from .checks import check_copy, check_gradient, check_state, check_target, in_order_of
from .cuda_families import ArrayMetadata
from .families import ArrayFamily, family_in, on_host
from .written_ranges import WrittenRanges

if TYPE_CHECKING:
    from ..options.settings import Settings

_DEFAULT = StateArray()

#: The axes in any memory order over which native code reads one number for each row or column.
MAX_AXES = 4


@dataclass(frozen=True)
class ParamState:
    """One parameter array with its live state arrays, its group, and the paths that error messages name."""

    p: Any  # an array of the user's library, as the state arrays are
    state: dict[str, Any]
    group: int = 0
    place: str = ""  # the path of the gradient and the state in their structures, as in grads['w1']
    p_place: str = "p"
    g_name: str = "grads"
    schema: Mapping[str, StateArray] = field(default_factory=dict)  # arrays that are absent have the default

    index: int = 0  # among the parameters of the optimizer, for random numbers

    used_by_graphs: list[Any] = field(default_factory=list)  # by captured CUDA graphs: kept alive, never read
    copy: Any = None  # an array of 16 bits that receives the rounded parameter in each step
    is_remote: bool = False  # another process has the state, and this one only a copy of the parameter

    @property
    def g_place(self) -> str:
        """The path of the gradient in messages."""
        return self.g_name + self.place

    def state_place(self, name: str) -> str:
        """Return the path of a state array in messages."""
        return f"state{self.place}[{name!r}]"

    @property
    def copy_place(self) -> str:
        """The path of the copy in messages."""
        return "copies" + self.place

    @property
    def copy_metadata(self) -> Array:
        """The shape, dtype and address of the copy."""
        return self.family.metadata(self.copy, self.copy_place)

    def schema_of(self, name: str) -> StateArray:
        """Return the declaration of a state array."""
        return self.schema.get(name, _DEFAULT)

    def allocate(self, name: str) -> Any:
        """Return zeros for a state array, in the parameter's array family."""
        schema, p = self.schema_of(name), self.metadata
        dtype = schema.dtype_for(p.dtype)
        if schema.kind.keeps_layout:
            return self.family.zeros(self.p, dtype)
        shape = schema.shape_for(p.shape)
        return np.zeros(shape, dtype) if schema.kind.on_host else self.family.full(self.p, shape, 0.0, dtype)

    def initial_state(self, name: str, options: Mapping[str, Any]) -> Any:
        """Return a new state array with its values before the first step."""
        array, initial = self.allocate(name), self.schema_of(name).initial_for(options)
        if initial:
            family = family_in(array) if self.schema_of(name).kind.on_host else self.family
            family.assign(array, self.p if initial == "p" else initial)
        return array

    def values_of(self, name: str) -> Any:
        """Return a copy of a state array in the compute type or, if it has a format of its own, in that."""
        array, schema = self.state[name], self.schema_of(name)
        if not isinstance(schema, Codes):
            return family_in(array).copy(array)
        p, decoded = self.metadata, on_host(array)
        if schema.code is not None:
            scales = on_host(self.state[name + SCALES])
            decoded = from_memory_order(block_codes.decode(in_memory_order(decoded, p), scales, schema.code), p)
        values = self.family.zeros(self.p, compute_dtype(p.dtype))
        self.family.assign(values, decoded.astype(np.float32))
        return values

    @property
    def extra_bits(self) -> str | None:
        """The name of the state array with the bits that the parameter lacks."""
        return next((name for name in EXTRA_BITS if name in self.state), None)

    def values(self) -> Any:
        """Return the parameter with its extra bits as a new array of the compute type."""
        name, dtype = self.extra_bits, compute_dtype(self.metadata.dtype)
        if name is None:
            return self.family.astype(self.p, dtype)
        values = self.family.zeros(self.p, dtype)
        self.family.assign(values, decode(on_host(self.p), on_host(self.state[name])))
        return values

    def assign(self, values: Any) -> None:
        """Assign values of the compute type to the parameter and its extra bits."""
        name = self.extra_bits
        if name is None:
            return self.family.assign(self.p, values)
        dtype = self.metadata.dtype
        numbers = np.asarray(values) if isinstance(values, np.generic) else on_host(values)  # NumPy's 0-d results
        p, bits = encode(numbers, dtype, self.schema_of(name).dtype_for(dtype))
        self.family.assign(self.p, p)
        self.family.assign(self.state[name], bits)
        return None

    @property
    def family(self) -> ArrayFamily:
        """The array family of the parameter."""
        return family_in(self.p)

    @property
    def metadata(self) -> Array:
        """The parameter's shape, dtype and address."""
        return self.family.metadata(self.p, self.p_place)


def memory_order(p: Array) -> list[int]:
    """Return the axes of a dense array, from the largest stride to the smallest; those of length one first."""
    return sorted(range(p.ndim), key=lambda axis: (p.shape[axis] != 1, -p.strides[axis]))


def in_memory_order(array: Array, p: Array) -> Array:
    """Return a flat view of an array with the layout of p."""
    flat: Array = array.transpose(memory_order(p)).reshape(-1)
    return flat


def from_memory_order(flat: Array, p: Array) -> Array:
    """Return the elements of a flat array in the shape of p, whose order of memory they have."""
    order = memory_order(p)
    back = sorted(range(p.ndim), key=order.__getitem__)
    in_shape: Array = flat.reshape([p.shape[axis] for axis in order]).transpose(back)
    return in_shape


def check_targets(param_states: Sequence[ParamState]) -> WrittenRanges:
    """Return the ranges that a step writes; raise an error if it could not write a parameter or a state array."""
    targets = []
    for param in param_states:
        if param.family is not param_states[0].family:
            first, name = param_states[0], param.family.name
            expected = f"expected an array of {first.family.name} as {first.p_place}"
            raise ValueError(f"{param.p_place}: {expected}, got one of {name}")
        p = check_target(param.p, param.p_place)
        targets.append((param.p_place, p))
        if param.copy is not None:
            targets.append((param.copy_place, check_copy(param.copy, param.copy_place, p, param.family)))
        for name, array in param.state.items():
            place = param.state_place(name)
            targets.append((place, check_state(array, place, p, param.schema_of(name))))
    return WrittenRanges(targets)


def in_compute_type(param: ParamState, grad: Any, written: WrittenRanges) -> Any:
    """Return a checked gradient as a new array of the compute type, in the parameter's family and memory order."""
    p = param.metadata
    checked = check_gradient(grad, param.g_place, p)
    written.check_no_overlap(checked, param.g_place)
    dtype = compute_dtype(p.dtype)
    array = param.family.zeros(param.p, dtype)
    with np.errstate(all="ignore"):
        param.family.assign(array, grad if isinstance(checked, ArrayMetadata) else checked.astype(dtype))
    return array


def check_takes_options(param: ParamState, settings: Settings) -> None:
    """Raise ValueError for options or state that the parameter cannot have: on a GPU, or with rows without blocks."""
    p, options = param.metadata, settings.options
    has_many_sums = settings.optimizer.reduces_all and p.dtype == np.float64  # no kernel has the registers
    if isinstance(p, ArrayMetadata) and (settings.has_row_state or has_many_sums):
        refused = {"state_format": "native", **(WAYS if is_narrow(p.dtype) else {})}
        for name, default in refused.items():
            if options[name] != default:
                raise ValueError(
                    f"{name}: expected {default!r} for {param.p_place}, which is on a GPU, got {options[name]!r}"
                )
    reads_axes = settings.optimizer.is_factored or (settings.has_row_state and isinstance(p, ArrayMetadata))
    if reads_axes and p.ndim > MAX_AXES and not p.flags.c_contiguous:
        numbers = "sums over rows and columns" if settings.optimizer.is_factored else "numbers of its rows"
        raise ValueError(
            f"{param.p_place}: expected C order for more than {MAX_AXES} axes, as {settings.optimizer.__name__} has "
            f"{numbers}, got strides {p.strides}"
        )
    if options["row_steps"]:
        check_whole_blocks(param, "row_steps counts its rows", settings.optimizer.variants[settings.variant])
    check_bounds(param, options)


def check_bounds(param: ParamState, options: Mapping[str, Any]) -> None:
    """Raise ValueError for bounds that would be infinite where they are rounded to the parameter's number format."""
    if (bounds := options["bounds"]) is None:
        return
    p = param.metadata.dtype
    is_widened = any(options[name] != default for name, default in WAYS.items())
    dtype = compute_dtype(p) if is_widened else p
    if exceed(bounds, dtype):
        raise ValueError(f"bounds: expected numbers in the range of {dtype} for {param.p_place}, got {bounds}")


def exceed(numbers: Iterable[float], dtype: np.dtype[Any]) -> bool:
    """Return whether one of the finite numbers is infinite in this dtype."""
    with np.errstate(over="ignore"):
        finite = [number for number in numbers if math.isfinite(number)]
        return not bool(np.isfinite(rounded_to(np.array(finite), dtype)).all())


def cuts_blocks(param: ParamState, names: Iterable[str]) -> bool:
    """Return whether a state array of these names has blocks of which the parameter's rows are no whole numbers."""
    row_size = math.prod(param.metadata.shape[1:])
    return bool(row_size % block_codes.BLOCK) and any(name + SCALES in param.schema for name in names)


def check_whole_blocks(param: ParamState, reason: str, names: Iterable[str]) -> None:
    """Raise ValueError if the parameter's rows cut blocks of a state array of these names."""
    if cuts_blocks(param, names):
        row_size = math.prod(param.metadata.shape[1:])
        raise ValueError(
            f"{param.p_place}: expected rows of a multiple of {block_codes.BLOCK} elements, as {reason} and "
            f"state_format='int8' has blocks of {block_codes.BLOCK}, got {row_size}; state_format='bfloat16' takes "
            f"any rows, as do parameters of fewer than int8_min_size elements"
        )


def check_has_rows(param: ParamState) -> None:
    """Raise ValueError for a parameter whose rows cannot count their steps, as they are not contiguous."""
    p = param.metadata
    if not p.flags.c_contiguous:
        raise ValueError(f"{param.p_place}: expected C order, as row_steps counts its rows, got strides {p.strides}")


def check_one(param: ParamState, grad: Any, written: WrittenRanges) -> Array:
    """Return a checked NumPy gradient in its parameter's memory order."""
    p = param.metadata
    checked = check_gradient(grad, param.g_place, p)
    written.check_no_overlap(checked, param.g_place)
    return in_order_of(p, checked)


def refresh(param_states: Iterable[ParamState]) -> None:
    """Round the parameters into their copies; may be called again."""
    for param in param_states:
        if param.copy is not None:
            p, copy = param.metadata, param.copy_metadata
            rounded = rounded_to(p, copy.dtype) if param.p is p else param.p
            param.family.assign(param.copy, rounded)
