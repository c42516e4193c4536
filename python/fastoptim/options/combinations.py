"""Combinations of options that are rejected, and options of every optimizer that some rules cannot have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..extra_bits import WAYS

if TYPE_CHECKING:
    from .settings import RuleClass

_EVALUATION_POINT = "its parameter is the point where the gradient is evaluated, which its state determines"
_FROM_SUMS = "its parameter follows from sums over all steps, which would make up for a masked step later"
_OWN_AVERAGE = "its average contains the parameters as the formula leaves them"
_NOISE = "its step contains noise, which a mask would bias"
_SCHEDULE_FREE = dict.fromkeys(("schedule_free_sgd", "schedule_free_adamw"), _EVALUATION_POINT)

#: By option and optimizer, the reason why the optimizer cannot have it.
_EXCLUDED: Mapping[str, Mapping[str, str]] = {
    "bounds": {**_SCHEDULE_FREE, "asgd": _OWN_AVERAGE},
    "cautious": {**_SCHEDULE_FREE, "asgd": _OWN_AVERAGE, "ftrl": _FROM_SUMS, "madgrad": _FROM_SUMS, "sgld": _NOISE},
    "cautious_decay": {**_SCHEDULE_FREE, "asgd": _OWN_AVERAGE, "sgld": _NOISE},
}
#: The values of options that not every combination can have, where they are disabled.
_DISABLED: Mapping[str, Any] = {"decay_schedule": "lr", "bounds": None, "cautious": False, "cautious_decay": False}
_OWN_DECAY = "its formula contains the decay"


def check_combination(cls: type[RuleClass], options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that exclude each other, or that the rule cannot have."""
    if options["ema"] is not None and options["swa_start"] is not None:
        raise ValueError("ema: expected None together with swa_start, as one average is kept, got both")
    chosen = [name for name, default in WAYS.items() if options[name] != default]
    if len(chosen) > 1:
        first, second = chosen[:2]
        raise ValueError(f"{second}: expected False together with {first}={options[first]}, got {options[second]}")
    if options["skip_nonfinite"] and options["on_nonfinite"] == "raise":
        raise ValueError("skip_nonfinite: expected False together with on_nonfinite='raise', got True")
    for name, value in options.items():
        if (default := _DISABLED.get(name, value)) == value:
            continue
        if name.endswith(("decay", "schedule")) and not options["decoupled"]:
            raise ValueError(f"{name}: expected {default!r} without decoupled weight decay, got {value!r}")
        if reason := _reason(cls, name, options):
            raise ValueError(f"{name}: expected {default!r} for {cls.__name__}, as {reason}, got {value!r}")


def _reason(cls: type[RuleClass], option: str, options: Mapping[str, Any]) -> str:
    """Return why the optimizer, or the one that it derives from, cannot have an option; empty if it can."""
    for base in cls.__mro__:
        if reason := _EXCLUDED.get(option, {}).get(vars(base).get("name", "")):
            return reason
    decays = cls.decays_itself and options["decoupled"]
    conflicts = option == "cautious_decay" or (option == "cautious" and options["weight_decay"] > 0)
    return _OWN_DECAY if decays and conflicts else ""
