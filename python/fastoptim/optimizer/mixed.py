"""Groups of different optimizers in one: one step, one state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arrays.tree import describe
from ..options.checks import LearningRate
from ..options.fields import option
from ..texts import brief
from .base import Optimizer
from .group_changes import add_param_group
from .groups import is_groups

#: Methods of some optimizers that a step depends on, and that a mixture does not have.
_OWN_METHODS = ("eval", "update_hessian")


class Mixed(Optimizer):
    """Groups of different optimizers, with one step, one state dict and one native call.

    Each group ``{"params": ..., "optimizer": fo.AdamW, ...}`` names its optimizer and has that class's options and
    defaults.  Everything else is as for the groups of one optimizer: gradients are a list with one structure per group,
    an error anywhere leaves every group unchanged, and a step that one group skips is skipped by all.

    Options of the constructor apply to every group that does not set them.  With ``clip_global_norm`` there, the norm
    is that of all gradients, whatever their optimizer.

    Args:
        params: A list of groups.  "optimizer" is the class; options are those of the class, such as "lr".
        lr: Learning rate of the groups that set none; by default that of each group's class.
        **shared: Weight decay, clipping, averages and the rest that every optimizer has; see `Optimizer`.

    Raises:
        TypeError: `params` is not a list of groups, or "optimizer" is not the class of an optimizer.
        ValueError: An optimizer whose step needs more than its own group's gradients: Schedule-Free (`eval`), Sophia
            (`update_hessian`), NAG (`lookahead`) and Prodigy, whose sums run over all arrays.

    >>> import numpy as np, fastoptim as fo
    >>> w, b = np.ones((2, 2)), np.ones(2)
    >>> opt = fo.Mixed([
    ...     {"params": w, "optimizer": fo.Lion, "lr": 0.25},
    ...     {"params": b, "optimizer": fo.SGD, "lr": 0.5},
    ... ])
    >>> opt.step([np.full((2, 2), 3.0), np.ones(2)])
    >>> w[0], b
    (array([0.75, 0.75]), array([0.5, 0.5]))
    """

    name = "mixed"
    variants = {}
    has_function = False

    lr: LearningRate = option(default=None, kw_only=True)  # type: ignore[assignment]  # that of each group's class

    def __init__(self, params: Any, **options: Any) -> None:
        if not is_groups(params):
            raise TypeError(
                f"params: expected a list of groups {{'params': ..., 'optimizer': ...}}, got {describe(params)}"
            )
        self._rules = [_rule_of(group, f"params[{index}]") for index, group in enumerate(params)]
        super().__init__([_without_rule(group) for group in params], **options)

    @classmethod
    def check_options(cls, given: Mapping[str, Any], place: str = "") -> Any:
        """Do nothing: each group's class checks its options."""

    def rule_of(self, index: int) -> type[Optimizer]:
        """Return the optimizer of a group."""
        return self._rules[index]

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add a group with its "optimizer"; see `Optimizer.add_param_group`."""
        rule, group = self.formula_of(param_group)
        self._rules[len(self._trees) :] = [rule]
        add_param_group(self, group, rule)

    def formula_of(self, param_group: Mapping[str, Any]) -> tuple[type[Optimizer], dict[str, Any]]:
        """Return the optimizer that a new group names, and the group without it."""
        return _rule_of(param_group, "param_group"), _without_rule(param_group)


def _without_rule(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "optimizer"}


def _rule_of(group: Any, place: str) -> type[Optimizer]:
    """Return the optimizer that a group names; raise an error if a mixture cannot have it."""
    rule = group.get("optimizer") if isinstance(group, Mapping) else None
    if not (isinstance(rule, type) and issubclass(rule, Optimizer) and getattr(rule, "variants", None)):
        got = describe(group) if rule is None else brief(rule)
        raise TypeError(
            f"{place}: expected 'optimizer' with the class of an optimizer, such as fastoptim.AdamW, got {got}"
        )
    if not rule.has_function:
        raise ValueError(f"{place}['optimizer']: expected an optimizer with a formula of its own, got {rule.__name__}")
    own = [method for method in _OWN_METHODS if hasattr(rule, method)]
    if rule.lookahead is not Optimizer.lookahead:
        own.append("lookahead")
    if own or rule.reduces_all:
        reason = f"one with {own[0]}()" if own else "one whose sums run over all arrays"
        raise ValueError(
            f"{place}['optimizer']: expected an optimizer whose step depends on the group's gradients alone, "
            f"got {rule.__name__}, {reason}; make an optimizer of its own for these parameters"
        )
    return rule
