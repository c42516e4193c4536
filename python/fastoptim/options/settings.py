"""The checked options of a group, and the constants of a step that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..extra_bits import extra_bits_of, is_narrow
from ..reference_math import Array
from .schema import AVERAGE, ROW_STEPS, SCALES, StateArray, stored_schema

if TYPE_CHECKING:  # a protocol takes time to make

    class RuleClass(Protocol):
        """The class attributes of an optimizer that engines read; `fastoptim.Optimizer` documents them."""

        name: ClassVar[str]
        defaults: ClassVar[dict[str, Any]]
        annotations: ClassVar[dict[str, Any]]
        shared: ClassVar[frozenset[str]]
        variants: ClassVar[Mapping[str, tuple[str, ...]]]
        state_schema: ClassVar[Mapping[str, StateArray]]
        variant_takes: ClassVar[frozenset[str]]
        host_constants: ClassVar[tuple[str, ...]]
        host_constants_takes: ClassVar[frozenset[str]]
        compute_host_constants: ClassVar[Callable[..., dict[str, float]]]
        decays_itself: ClassVar[bool]
        reduce_terms: ClassVar[Callable[..., tuple[float, ...]] | None]
        reduces_all: ClassVar[bool]
        scratch: ClassVar[tuple[str, ...]]
        stages: ClassVar[Any]  # a tuple of engines.stages.Stage
        stage_state: ClassVar[tuple[str, ...]]
        first_step_options: ClassVar[Mapping[str, Any]]
        is_factored: ClassVar[bool]
        reference: ClassVar[Callable[..., None]]

        @staticmethod
        def check_shape(shape: tuple[int, ...], options: Mapping[str, Any], place: str) -> None:
            """Raise ValueError for a parameter of a shape that the formula does not take."""

        @classmethod
        def schema_for(cls, options: Mapping[str, Any]) -> Mapping[str, StateArray]:
            """Return the declarations of the state arrays under these options."""


def scheduled_decay(lr: float, weight_decay: float, decay_schedule: str, lr_max: float | None) -> float:
    """Return the weight decay that, multiplied by the learning rate, follows a schedule."""
    largest = max(lr, lr_max or 0.0)
    if decay_schedule == "lr" or not largest:
        return weight_decay
    return (lr * weight_decay if decay_schedule == "corrected" else weight_decay) / largest


@dataclass(frozen=True, eq=False)
class Settings:
    """The checked options of an optimizer; the learning rate may be a callable or an array."""

    optimizer: type[RuleClass]
    variant: str
    options: Mapping[str, Any]
    memo: dict[str, Any] = field(default_factory=dict, repr=False)  # for an engine to cache what it derives from them

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "memo": {}}

    @property
    def state(self) -> tuple[str, ...]:
        """The state arrays that these options use."""
        return self.optimizer.variants[self.variant] + self.optimizer.stage_state + self._shared_state

    @property
    def every_state(self) -> tuple[str, ...]:
        """The state arrays of every variant, and those that the shared options need."""
        names = dict.fromkeys(name for names in self.optimizer.variants.values() for name in names)
        return (*names, *self.optimizer.stage_state, *self._shared_state)

    @property
    def _shared_state(self) -> tuple[str, ...]:
        kept = (AVERAGE,) * self.averages + (ROW_STEPS,) * bool(self.options["row_steps"])
        return kept if self.extra_bits is None else (*kept, self.extra_bits)

    def state_for(self, p: Array, schema: Mapping[str, StateArray]) -> tuple[str, ...]:
        """Return the state arrays of a parameter of this dtype and shape under these options, in these formats."""
        narrow = is_narrow(p.dtype)
        names = [
            name for name in self.state if (narrow or name != self.extra_bits) and schema[name].belongs_to(p.shape)
        ]
        return (*names, *(name + SCALES for name in names if name + SCALES in schema))

    def stored_schema(self, size: int) -> Mapping[str, StateArray]:
        """Return the declarations of the state of a parameter of so many elements."""
        schema, has_blocks = self.optimizer.schema_for(self.options), size >= self.options["int8_min_size"]
        return stored_schema(schema, self.options, has_blocks)

    @cached_property
    def extra_bits(self) -> str | None:
        """The state array with the bits that a parameter of 16 bits lacks."""
        return extra_bits_of(self.options)

    @cached_property
    def when_nonfinite(self) -> str:
        """The effect of a gradient that is not finite: "skip", "raise", or none if empty."""
        return "skip" if self.options["skip_nonfinite"] else self.options["on_nonfinite"] or ""

    @property
    def is_elementwise(self) -> bool:
        """True if the update of a row depends on no other row, nor on a number of the whole array."""
        own = self.optimizer.variants[self.variant]
        whole = self.optimizer.reduce_terms is not None or self.optimizer.stages or self.options["cautious"]
        return not whole and not any(self.optimizer.state_schema[name].is_scalar for name in own)

    @property
    def has_row_state(self) -> bool:
        """True if the formula keeps a number for each row."""
        return any(self.optimizer.state_schema[name].is_of_rows for name in self.optimizer.variants[self.variant])

    @property
    def why_not_elementwise(self) -> str:
        """The reason in a message that rejects rows."""
        name = self.optimizer.__name__
        return f"{name} has {'cautious=True' if self.options['cautious'] else 'sums or numbers of whole arrays'}"

    @property
    def skips(self) -> bool:
        """True if a step may be skipped."""
        return self.when_nonfinite == "skip"

    @cached_property
    def is_steady(self) -> bool:
        """True if native code can compute the constants of every step from its number and its learning rate.

        The rate is a number or a schedule whose code is all known, which may be called at any time.
        """
        rate, scale = self.options["lr"], self.options["grad_scale"]
        is_float = type(rate) is float  # a subclass may be callable
        varying = {"t"} if is_float else {"t", "lr"}
        return (
            (is_float or (getattr(rate, "is_pure", False) is True and not self.follows_lr_max))
            and isinstance(scale, float)
            and varying.isdisjoint(self._host_constant_arguments)
        )

    @cached_property
    def follows_lr_max(self) -> bool:
        """True if decoupled weight decay depends on the largest learning rate so far."""
        return bool(self.options["decay_schedule"] != "lr")

    def raised_lr_max(self, lr: float) -> float | None:
        """Return `lr_max` after a step at this learning rate, None where it stays as it is."""
        before = self.options["lr_max"]
        return lr if self.follows_lr_max and (before is None or lr > before) else None

    def weight_decay_at(self, lr: float) -> float:
        """Return the weight decay that, multiplied by the learning rate, follows `decay_schedule`."""
        options = self.options
        return scheduled_decay(lr, options["weight_decay"], options["decay_schedule"], options["lr_max"])

    @cached_property
    def _host_constant_arguments(self) -> dict[str, Any]:
        wanted = self.optimizer.host_constants_takes
        return {name: value for name, value in {"t": 0, **self.options}.items() if name in wanted}

    def host_constants_at(self, t: int, lr: float) -> dict[str, float]:
        """Return the host constants of step `t`."""
        arguments = self._host_constant_arguments.copy()
        if "t" in arguments:
            arguments["t"] = t
        if "lr" in arguments:
            arguments["lr"] = lr
        return self.optimizer.compute_host_constants(**arguments)

    @property
    def averages(self) -> bool:
        """True if an average of the parameters is kept."""
        return self.average_kind is not None

    @property
    def average_kind(self) -> str | None:
        """The option that selects the average; an average of another kind starts again from the parameters."""
        return next((name for name in ("ema", "swa_start") if self.options[name] is not None), None)

    @property
    def averaging(self) -> tuple[Any, Any]:
        """The options that select the values in a mean."""
        return self.options["swa_start"], self.options["swa_every"]
