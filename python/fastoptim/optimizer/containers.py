"""The containers that an optimizer was made with, which show what the optimizer updates.

``params["w"] = params["w"] - change`` puts another array into the caller's dict, while the optimizer would continue to
update the old one.  The next step reports that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..arrays.families import family_of
from ..arrays.tree import Structure, describe
from ..core import address_of

if TYPE_CHECKING:
    from .protocols import OptimizerParts

OWN = "opt.params"  # the path of the optimizer's own containers

# (structure, what is in its place now, the path); nothing where the caller has removed it
Node = tuple[Structure, Any, str]


def given_structure(structures: list[Structure], grouped: bool) -> Structure:
    """Return the structure of the argument `params`, that of the groups' dicts included."""
    if not grouped:
        return structures[0]
    groups = tuple(Structure(dict, ("params",), (structure,)) for structure in structures)
    return Structure(list, tuple(range(len(groups))), groups)


def mutable_containers(optimizer: OptimizerParts) -> list[Any]:
    """Return the dicts and lists that show the parameters: the caller's, those of `params`, and a front end's."""
    return [tree for _, tree, _ in _nodes(optimizer) if isinstance(tree, (dict, list))] + [*optimizer._watched]


def check_not_rebound(optimizer: OptimizerParts) -> None:
    """Raise ValueError if another object is in the place of an array that the optimizer updates.

    Arrays that were removed or moved, None, and views of the same memory are no error.
    """
    own = {id(param.p) for param in optimizer.param_states}
    expected = {place: param.p for param in optimizer.param_states for place in (param.p_place, OWN + param.place)}
    for structure, entry, place in _nodes(optimizer):
        if structure.kind is not None or entry is None or id(entry) in own:
            continue
        if not is_same_memory(entry, expected[place]):
            raise ValueError(
                f"{place}: expected the array that the optimizer updates, got another one ({describe(entry)}); "
                f"assign in place, as in {place}[...] = value or {place} -= change, or make a new optimizer"
            )


def _nodes(optimizer: OptimizerParts) -> Iterator[Node]:
    if optimizer._given is not None:
        yield from _descend(optimizer._given_structure, optimizer._given, "params")
    yield from _descend(optimizer._structure, optimizer.params, OWN)


def _descend(structure: Structure, tree: Any, place: str) -> Iterator[Node]:
    yield structure, tree, place
    if structure.kind is None:
        return
    is_dict = issubclass(structure.kind, dict)
    if not isinstance(tree, dict if is_dict else (list, tuple)):
        return
    for key, child in zip(structure.keys, structure.children, strict=True):
        if key in tree if is_dict else key < len(tree):
            yield from _descend(child, tree[key], f"{place}[{key!r}]")


def is_same_memory(entry: Any, p: Any) -> bool:
    """Return whether two arrays have the same elements in memory."""
    family = family_of(entry)
    if family is None or family is not family_of(p):
        return False
    a, b = family.metadata(entry, ""), family.metadata(p, "")
    return (address_of(a), a.dtype, a.size) == (address_of(b), b.dtype, b.size)
