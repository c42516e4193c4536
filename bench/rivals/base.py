"""What a peer is: a name, what it offers, and how its step is made from NumPy arrays."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Options = Mapping[str, Any]
Names = Mapping[str, str | tuple[str, ...]]  # a peer's of our options


class Contender(Protocol):
    """Parameters, gradients and state of a peer's own, and the step that is timed."""

    def feed(self, grads: Iterable[Array]) -> None:
        """Takes these numbers for its gradients from now on; is not timed."""

    def step(self) -> object:
        """One step, finished when it returns."""

    def params(self) -> list[Array]:
        """The parameters as they are now."""


class Offer(NamedTuple):
    """One of our optimizers at a peer."""

    theirs: str
    more: Options = {}  # what theirs is told besides the hyper-parameters, or in another way
    ours: Options = {}  # by which our formula becomes theirs


class Peer(ABC):
    """A library, or a way of writing the update oneself."""

    #: In tables and on the command line.
    name: str
    #: What pip installs and Python imports.
    package: str
    #: How a step is made, in one line.
    about: str
    #: Our name of each optimizer that it has.
    offers: Mapping[str, Offer]

    def installed(self) -> bool:
        """Whether it can be imported; nothing is."""
        return find_spec(self.package) is not None

    def version(self) -> str:
        """Of the installed package."""
        return importlib.metadata.version(self.package)

    def use(self, threads: int) -> None:  # noqa: B027 (most peers read the environment, which `contest.bind` has set)
        """Works with so many threads from now on."""

    @abstractmethod
    def make(self, optimizer: str, options: Options, params: Sequence[Array], grads: Sequence[Array]) -> Contender:
        """A contender over copies of these arrays, at step 0."""


def renamed(options: Options, names: Names) -> dict[str, Any]:
    """The options by a peer's names; of a pair each part has its own."""
    found: dict[str, Any] = {}
    for option, value in options.items():
        name = names.get(option, option)
        found |= {name: value} if isinstance(name, str) else dict(zip(name, value, strict=True))
    return found
