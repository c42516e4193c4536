"""The check that a class and its native rules declare the same state, options and reductions.

It runs once per class at import.  A mismatch would otherwise give wrong numbers later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core import RULES
from ..options.checks import expand

if TYPE_CHECKING:
    from ..options.settings import RuleClass

DECAY = ("weight_decay", "decoupled")


def check_against_native(cls: type[RuleClass]) -> None:
    """Raise ImportError if a variant of the class does not match the native rule of that name."""
    own = {k: v for k, v in cls.defaults.items() if k not in cls.shared or (k in DECAY and cls.decays_itself)}
    ours = {"lr", *expand(own), *cls.host_constants}
    used: set[str] = set()
    for variant, state in cls.variants.items():
        if variant not in RULES:
            raise ImportError(f"{cls.__name__}: the compiled module has no rule {variant!r}")
        rule = RULES[variant]
        used.update(rule.hyper)
        scalars = tuple(name for name in state + cls.scratch if cls.state_schema[name].is_scalar)
        if rule.state + rule.scalar_state != state + cls.scratch or rule.scalar_state != scalars:
            raise ImportError(f"{cls.__name__}: state of {variant!r} is {state} here, {rule} in the rule")
        if tuple(name for name in state if cls.state_schema[name].is_of_rows) != rule.state[-1:] * rule.has_row_state:
            raise ImportError(f"{cls.__name__}: has_row_state of {variant!r} is {rule.has_row_state} in the rule")
        if not ours.issuperset(rule.hyper):
            raise ImportError(
                f"{cls.__name__}: the rule {variant!r} takes {sorted(set(rule.hyper) - ours)}, unknown here"
            )
        if (rule.sums > 0) != (cls.reduce_terms is not None):
            raise ImportError(f"{cls.__name__}: the rule {variant!r} takes {rule.sums} sums")
        if rule.reduces_all != cls.reduces_all:
            raise ImportError(f"{cls.__name__}: reduces_all of {variant!r} is {rule.reduces_all} in the rule")
    for name, value in expand(own).items():
        number = isinstance(value, float) and not name.startswith("initial_")
        if number and name not in used and not cls.host_constants and not cls.stages:  # which may depend on it
            raise ImportError(f"{cls.__name__}: no rule takes {name!r}")
