"""The cases that the tests run over, special values, and comparison by bits.

Every optimizer with every kind of option, taken from the registry, so that one added later is covered too;
the four number formats; the values where rounding, overflow and underflow bite.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import inf, isfinite, nan, nextafter
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

import ml_dtypes
import numpy as np
import numpy.typing as npt

import fastoptim as fo
from fastoptim.options.checks import Bounds, Range
from fastoptim.reference_math import compute_dtype

Array = npt.NDArray[Any]
DType = np.dtype[Any]

FLOAT64, FLOAT32, FLOAT16 = (np.dtype(kind) for kind in (np.float64, np.float32, np.float16))
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES: tuple[DType, ...] = (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)

CHECKOUT = Path(__file__).parents[1]

ISAS: tuple[str, ...] = tuple(fo.build_info()["isa_usable"])


def _constant(name: str, file: str, otherwise: int) -> int:
    """Read a constant from the sources, so that tested sizes stay at the borders; without sources, use a default."""
    source = CHECKOUT / "csrc" / "cpu" / file
    if not source.exists():
        return otherwise
    found = re.search(rf"constexpr (?:Index|std::int64_t) {name} = (\d+);", source.read_text(encoding="utf-8"))
    assert found, f"{source}: no constant {name}"
    return int(found[1])


TILE = _constant("kTile", "tile_loop.h", 1024)  # elements that are worked on at a time
MIN_SHARE = _constant("kMinShare", "device.h", 32768)  # elements that a thread has at least

# ---- optimizers with their options


@dataclass(frozen=True, eq=False)
class Case:
    """An optimizer with all its options."""

    optimizer: type[fo.Optimizer]
    options: dict[str, Any]
    id: str

    @property
    def variant(self) -> str:
        return self.optimizer.variant(**self.options)

    @property
    def state(self) -> tuple[str, ...]:
        return self.optimizer.check_options(self.options).state

    @property
    def written(self) -> tuple[str, ...]:
        """The state that every step changes."""
        return tuple(name for name in self.state if (self.optimizer.name, name) not in SLOW)

    @property
    def every_state(self) -> tuple[str, ...]:
        """The state of all variants, and the average if one is kept."""
        return tuple(self.optimizer.state) + self.state[len(self.optimizer.variants[self.variant]) :]

    @property
    def elementwise(self) -> bool:
        """True if an element's update depends on no other element."""
        bounds = (self.options["clip_norm"], self.options["clip_global_norm"])
        sums = self.optimizer.reduce_terms is not None or self.options["cautious"]
        return not sums and bounds == (None, None) and not self.skips

    @property
    def skips(self) -> bool:
        """True if a step tells whether it was taken."""
        return self.optimizer.check_options(self.options).skips

    def make_state(self, make: Callable[[], Array]) -> list[Array]:
        """State arrays from `make`, or one float64 number of it, or counts of its rows, where the state is these."""
        return [self.as_state(name, make()) for name in self.state]

    def as_state(self, name: str, array: Array) -> Array:
        """The array, or one float64 number of it, or numbers or counts of its rows, where the state is these."""
        convert = {"scalar": number_of, "rows": numbers_of_rows, "row_counts": counts_of}
        shape = self.optimizer.state_schema[name].shape
        return convert[shape](array) if shape in convert else array

    def optimize(self, params: Any, backend: Literal["native", "reference"] = "native") -> fo.Optimizer:
        return self.optimizer(params, **self.options, backend=backend)

    def update(self, module: ModuleType, p: Array, g: Array, state: list[Array], step: int) -> bool | None:
        """One update on these buffers, by ``fo.functional`` or ``fo.reference``."""
        taken: bool | None = getattr(module, self.optimizer.name)(p, g, *state, step=step, **self.options)
        return taken


# State that a step may leave alone: another method's, where the parameters started, what changes only now and then.
SLOW = {
    *(("sophia", "h"), ("madgrad", "x0"), ("rprop", "step_size")),
    *((f"schedule_free_{name}", "lr_max") for name in ("sgd", "adamw")),
    *(("prodigy", name) for name in ("p0", "d", "d_max", "d_numerator")),
}


def counts_of(array: Array) -> Array:
    """Counts from 0 to 9, one for each row."""
    return np.arange(len(array), dtype=np.int64) % 10


def numbers_of_rows(array: Array) -> Array:
    """The first number of each row, of zeros where rows have none."""
    rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    return np.ascontiguousarray(rows[:, 0]) if rows.size else np.zeros(len(rows), array.dtype)


def number_of(array: Array) -> Array:
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return np.array(array.reshape(-1)[0], FLOAT64)


Change = tuple[str, Any]  # what a test id calls it, and the option's value


def _other_number(name: str, allowed: Range, default: float) -> Iterator[Change]:
    """A number that no format keeps exactly."""
    if isfinite(allowed.high):
        yield name, allowed.low + (allowed.high - allowed.low) * (0.6 if default == 0.85 else 0.85)
    else:
        yield name, 30 * default or allowed.low + 0.03


def _edge_numbers(name: str, allowed: Range, default: float) -> Iterator[Change]:
    if isfinite(allowed.low):
        yield f"{name}=min", allowed.low
    if isfinite(allowed.high):
        yield f"{name}=max", nextafter(allowed.high, allowed.low) if allowed.below else allowed.high


def _changes(numbers: Any, name: str, annotation: Any, default: Any) -> Iterator[Change]:
    """Other values of one option; `numbers` picks those of a number."""
    if type(None) in get_args(annotation):
        yield from _changes(numbers, name, get_args(annotation)[0], 0.3 if default is None else default)
    elif annotation is bool:
        yield (f"no_{name}" if default else name), not default
    elif get_origin(annotation) is Literal:
        yield from ((str(value), value) for value in get_args(annotation) if value != default)
    elif get_origin(annotation) is tuple:
        for i, part in enumerate(get_args(annotation)):
            for label, value in _changes(numbers, f"{name}{i}", part, default[i]):
                yield label, (*default[:i], value, *default[i + 1 :])
    elif annotation is Bounds:
        yield name, (-0.3, 0.4)
    elif get_origin(annotation) is Annotated and get_args(annotation)[0] is int:
        yield name, default + 1 if isinstance(default, int) else 2
    elif get_origin(annotation) is Annotated and isinstance(get_args(annotation)[1], Range):
        yield from numbers(name, get_args(annotation)[1], default)
    else:
        raise AssertionError(f"{name}: no values are known for {annotation!r}")


def _variant(optimizer: type[fo.Optimizer], options: Mapping[str, Any]) -> str | None:
    """The variant that the options mean, or None where the class refuses them."""
    try:
        return optimizer.check_options(options).variant
    except ValueError:
        return None


def _deciding(optimizer: type[fo.Optimizer], choices: Mapping[str, list[Change]]) -> list[str]:
    """The options on which, whatever the others are, the variant or a refusal depends."""
    variants = {
        labels: _variant(optimizer, {name: value for name, (_, value) in zip(choices, picked, strict=True)})
        for picked in product(*choices.values())
        for labels in [tuple(label for label, _ in picked)]
    }

    def decides(i: int) -> bool:
        seen: dict[tuple[str, ...], str | None] = {}
        return any(seen.setdefault((*at[:i], *at[i + 1 :]), variant) != variant for at, variant in variants.items())

    return [name for i, name in enumerate(choices) if decides(i)]


# What happens to an element of p and g around the rule: everything at once, in two ways.
PREPARATION: dict[str, dict[str, Any]] = {
    "prepared": {
        "weight_decay": 0.03,
        "l1": 0.01,
        "clip_value": 3.0,
        "grad_scale": 3.0,
        "maximize": True,
        "ema": 0.85,
    },
    "shrunk": {"weight_decay": 0.03, "decoupled": True, "grad_scale": 0.7, "swa_start": 2, "swa_every": 2},
    "bounded": {"weight_decay": 0.03, "decoupled": True, "decay_schedule": "corrected", "bounds": (-1.5, None)},
    "scaled_cautious": {"grad_scale": 0.7, "cautious": True, "ema": 0.85},
    "masked": {"weight_decay": 0.3, "decoupled": True, "cautious_decay": True, "cautious": True, "bounds": (None, 2)},
}

# With these every shared option is also tried by itself.
EXEMPLARS = ("sgd", "adam")


def own_options(optimizer: type[fo.Optimizer]) -> dict[str, Any]:
    """The options that are the optimizer's own, with their defaults."""
    decay = ("weight_decay", "decoupled") if optimizer.decays_itself else ()
    return {k: v for k, v in optimizer.defaults.items() if k == "lr" or k not in optimizer.shared or k in decay}


def _cases_of(optimizer: type[fo.Optimizer]) -> Iterator[Case]:
    """In every combination of the options that decide the variant: every other own option by itself, and all that can
    happen around the rule together; then the conventions."""
    own = own_options(optimizer)
    tried = {k: v for k, v in optimizer.defaults.items() if k in own or optimizer.name in EXEMPLARS}
    # skip_nonfinite by another name; no effect by itself; their tests are of rows and of storage
    of_storage = ("master_weight_bits", "kahan", "stochastic_rounding", "seed", "state_format", "int8_min_size")
    for name in ("on_nonfinite", "norm_type", "clip_eps", "lr_max", "row_steps", *of_storage):
        tried.pop(name, None)
    others = {k: list(_changes(_other_number, k, optimizer.annotations[k], v)) for k, v in tried.items()}
    edges = {k: list(_changes(_edge_numbers, k, optimizer.annotations[k], v)) for k, v in tried.items()}
    choices = {k: [("", v), *others[k]] for k, v in own.items()}
    deciding = _deciding(optimizer, choices)
    seen = []
    for base in product(*(choices[name] for name in deciding)):
        start = dict(zip(deciding, base, strict=True))
        changed: list[dict[str, Change]] = [{}]
        changed += [{name: change} for name in tried for change in others[name] + edges[name]]
        changed += [
            {k: (label if i == 0 else "", v) for i, (k, v) in enumerate(options.items())}
            for label, options in PREPARATION.items()
        ]
        for change in changed:
            picked = start | change
            options = optimizer.defaults | {name: value for name, (_, value) in picked.items()}
            if options in seen or _variant(optimizer, options) is None:
                continue
            seen.append(options)
            labels = [label for label, _ in picked.values() if label]
            yield Case(optimizer, options, "-".join([optimizer.name, *labels]))
    for convention in optimizer.conventions:
        options = dict(optimizer.check_options({"convention": convention}).options)
        if options not in seen:
            seen.append(options)
            yield Case(optimizer, options, f"{optimizer.name}-as_in_{convention}")


CASES: list[Case] = [case for optimizer in fo.OPTIMIZERS.values() for case in _cases_of(optimizer)]


def _first_of_each_variant(prepared: bool) -> Iterator[Case]:
    seen = set()
    for case in CASES:
        key = (case.optimizer, case.variant)
        if prepared == (case.options["clip_value"] is not None and case.options["maximize"]) and key not in seen:
            seen.add(key)
            yield case


# One case a variant, and one more with everything that can happen to p and g before the rule.
PLAIN_CASES = list(_first_of_each_variant(prepared=False))
PREPARED_CASES = list(_first_of_each_variant(prepared=True))
VARIANT_CASES = PLAIN_CASES + PREPARED_CASES


def case_id(case: Any) -> str:
    return case.id if isinstance(case, Case) else str(case)


# ---- values


@cache
def special_values(dtype: DType) -> Array:
    """The ends of every format, the borders between which it rounds, and some ordinary numbers; both signs."""
    ends = [float(end) for info in map(ml_dtypes.finfo, DTYPES) for end in _ends(info)]
    half = [65520 - 2**-8, 65520, 1 + 2**-11, 1 + 3 * 2**-11, 2**-25, 3 * 2**-25, 2**-14 - 2**-25]
    brain = [1 + 2**-8, 1 + 3 * 2**-8, 2.0**128 - 2.0**119]
    single = [1 + 2**-24, 1 + 3 * 2**-24, 2.0**128 - 2.0**103, 2**-150, 3 * 2**-150]
    ordinary = [0.1, 3, 1e-3, 1e5, 1e19, 1e-23, 1e154, 1e-162]
    with np.errstate(all="ignore"):
        positive = np.array([0, 1, inf, nan, *ends, *half, *brain, *single, *ordinary]).astype(dtype)
    values = np.concatenate([positive, -positive])
    return values[np.unique(bits(values), return_index=True)[1]]


def _ends(info: Any) -> tuple[Any, ...]:
    least, tiny = float(info.smallest_subnormal), float(info.smallest_normal)
    return least, tiny - least, tiny, info.max


def random_values(rng: np.random.Generator, dtype: DType, size: int) -> Array:
    """Half of them any bit pattern of the format, half of them of ordinary size."""
    patterns = rng.integers(0, 256, size * dtype.itemsize, np.uint8).view(dtype)
    with np.errstate(all="ignore"):
        return np.where(rng.random(size) < 0.5, patterns, ordinary_values(rng, dtype, size))


def ordinary_values(rng: np.random.Generator, dtype: DType, size: int) -> Array:
    """Finite numbers from about 1e-3 to 10, of both signs."""
    return np.ldexp(rng.standard_normal(size), rng.integers(-8, 2, size)).astype(dtype)


def state_values(rng: np.random.Generator, dtype: DType, size: int) -> Array:
    """Return values that state may have: never negative, so that every square root is a number."""
    return np.abs(ordinary_values(rng, compute_dtype(dtype), size))


# ---- comparison


def bits(array: Array) -> npt.NDArray[Any]:
    """The elements' bit patterns, in one dimension."""
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")


def assert_same_bits(actual: Array, expected: Array, place: str = "") -> None:
    """NaN equals NaN; everything else is equal by its bits, zeros by their sign."""
    __tracebackhide__ = True
    assert actual.dtype == expected.dtype, f"{place}: expected {expected.dtype}, got {actual.dtype}"
    assert actual.shape == expected.shape, f"{place}: expected shape {expected.shape}, got {actual.shape}"
    got, wanted = bits(actual), bits(expected)
    differ = got != wanted
    if not differ.any():
        return
    with np.errstate(invalid="ignore"):  # a signalling NaN
        differ &= ~(np.isnan(actual) & np.isnan(expected)).reshape(-1)
    if not differ.any():
        return
    first = int(differ.argmax())
    index = np.unravel_index(first, actual.shape)
    width = 2 * actual.dtype.itemsize
    raise AssertionError(
        f"{place}: {int(differ.sum())} of {actual.size} {actual.dtype} elements differ, the first at "
        f"{tuple(map(int, index))}: expected {expected[index]} (0x{int(wanted[first]):0{width}x}), "
        f"got {actual[index]} (0x{int(got[first]):0{width}x})"
    )
