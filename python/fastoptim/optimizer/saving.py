"""Checkpoints in files: parameters, optimizer and numbers together, or the optimizer alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from .. import core
from ..arrays.checks import check_target
from ..arrays.families import ArrayFamily, family_of
from ..arrays.numpy_family import NUMPY
from ..arrays.tree import describe, key_text, structure_of
from ..files import document
from ..texts import brief
from .copies import WritesCopies, refresh

Path = str | os.PathLike[str]


class HasStateDict(Protocol):
    """An optimizer, or anything else with a state dict."""

    def state_dict(self) -> dict[str, Any] | None:
        """Return everything needed to continue."""

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> None:
        """Continue from a state dict, or raise an error and change nothing."""


def save(path: Path, *, params: Any = None, optimizer: HasStateDict | None = None, **numbers: Any) -> None:
    """Write a checkpoint of parameters, optimizer and numbers to one file, atomically and durably.

    The file is written as ``.NAME.new``, flushed to the disk and then renamed.  If the process is killed at any
    moment, `path` is the old checkpoint or the new one, and whole.  It is a safetensors file, with everything but the
    arrays as JSON in its metadata, and contains no pickle.

    Args:
        path: The file to write or to replace.
        params: The parameters: any nesting of dicts, lists and tuples of arrays, whose keys are strings or numbers.
        optimizer: An optimizer, or another object with `state_dict` and `load_state_dict`, which has to take NumPy
            arrays.  For optimizers of other libraries there are their own functions, such as ``torch.save``.
        **numbers: Anything else to save, such as ``epoch=3``: numbers, strings, None, arrays and nestings of these.

    Raises:
        TypeError: Something that a file cannot store, such as a function, or a state dict of `optimizer` with arrays
            other than NumPy's, such as that of ``torch.optim.Adam``.  The old file stays as it is.
        OSError: The file cannot be written, or `path` is a directory, a device or a pipe.  It stays as it is.

    >>> import numpy as np, fastoptim as fo
    >>> params = {"w": np.ones(2)}
    >>> opt = fo.Adam(params)
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
    >>> fo.save(path, params=params, optimizer=opt, epoch=3)
    >>> opt.step({"w": np.ones(2)})
    >>> fo.load(path, params=params, optimizer=opt)["epoch"]
    3
    >>> params, opt.step_count
    ({'w': array([1., 1.])}, 0)
    """
    _check_optimizer(optimizer)
    write(path, params, optimizer, None if optimizer is None else optimizer.state_dict(), numbers)


def write(
    path: Path,
    params: Any,
    optimizer: HasStateDict | None,
    state_dict: Mapping[str, Any] | None,
    numbers: Mapping[str, Any],
) -> None:
    """Write a checkpoint; of several processes, one whose state dict is None leaves that to another one."""
    with _together(optimizer, "save"):
        if optimizer is not None and state_dict is None:
            return
        if not getattr(optimizer, "_loads_numpy_arrays", False):
            _check_arrays(state_dict, "optimizer.state_dict()")
        values = {"params": params, "optimizer": state_dict}
        document.save(path, {**{name: value for name, value in values.items() if value is not None}, **numbers})


def load(path: Path, *, params: Any = None, optimizer: HasStateDict | None = None) -> dict[str, Any]:
    """Read a file of `save`, and return its contents: a dict with the arguments of `save` by name.

    ``["optimizer"]`` is a state dict for `load_state_dict`.  Arrays are new NumPy arrays in C order.

    Args:
        path: The file.
        params: Arrays of the saved structure, shapes and dtypes that take the saved values in place.
        optimizer: An optimizer that continues from the saved state.

    Raises:
        TypeError: `optimizer` has no `load_state_dict`.
        ValueError: The file is damaged, of another version or of another origin, or what it contains does not fit
            `params` or `optimizer`.  Nothing has changed.

    See `save` for an example.
    """
    _check_optimizer(optimizer)
    with _together(optimizer, "load"):
        saved = document.load(path)
        targets = [] if params is None else _targets(params, entry_of(saved, "params", path), path)
        state_dict = {} if optimizer is None else state_dict_of(saved, path)
    if optimizer is not None:
        optimizer.load_state_dict(state_dict)

    def assign() -> None:
        for family, target, source in targets:
            family.assign(target, source)
        if isinstance(optimizer, WritesCopies):
            refresh(optimizer.param_states)

    core.complete(assign)
    return saved


class SavedInFiles:
    """The methods `save` and `load` of a class with a state dict."""

    def save(self: Any, path: Path) -> None:
        """Write the state dict to a file, atomically and durably; see `fastoptim.save`, which adds the parameters."""
        save(path, optimizer=self)

    def load(self: Any, path: Path, *, convert: bool = False) -> None:
        """Continue from a file of `save` or `fastoptim.save`; see `load_state_dict`."""
        self.load_state_dict(state_dict_of(document.load(path), path), convert=convert)


def _check_optimizer(optimizer: Any) -> None:
    methods = ("state_dict", "load_state_dict")
    if optimizer is None or (not isinstance(optimizer, type) and all(hasattr(optimizer, name) for name in methods)):
        return
    raise TypeError(f"optimizer: expected an object with {' and '.join(methods)}, got {brief(optimizer)}")


def _check_arrays(value: Any, place: str) -> None:
    """Raise TypeError for an array that would come back as one of NumPy, which its optimizer may not load."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_arrays(entry, f"{place}[{key_text(key)}]")
    elif isinstance(value, (list, tuple)):
        for i, entry in enumerate(value):
            _check_arrays(entry, f"{place}[{i}]")
    elif family_of(value) not in (None, NUMPY):
        raise TypeError(
            f"{place}: expected numbers and NumPy arrays, as which a file is read, got {describe(value)}; "
            "save it by its own library, as with torch.save"
        )


def _together(optimizer: Any, call: str) -> AbstractContextManager[None]:
    """Return a context in which an error is one of every process, if the optimizer is divided among several."""
    together = getattr(optimizer, "_together", None)
    return nullcontext() if together is None else together(call)


def entry_of(saved: Mapping[str, Any], name: str, path: Path) -> Any:
    """Return this entry of what a file contains; raise ValueError if there is none."""
    if name not in saved:
        raise ValueError(f"{os.fspath(path)}: expected a checkpoint with {name!r}, got one with {sorted(saved)}")
    return saved[name]


def state_dict_of(saved: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the optimizer's state dict in what a file contains; raise ValueError if there is none."""
    state_dict = entry_of(saved, "optimizer", path)
    if not isinstance(state_dict, dict):
        raise ValueError(f"{os.fspath(path)}: optimizer: expected a dict, got {describe(state_dict)}")
    return state_dict


def _targets(params: Any, saved: Any, path: Path) -> list[tuple[ArrayFamily, Any, Any]]:
    """Return the family of each parameter, the parameter, and the saved array that fits it."""
    structure = structure_of(params)
    arrays = structure.match(params, "params")
    try:
        sources = structure.match(saved, f"{os.fspath(path)}: params")
    except TypeError as error:
        raise ValueError(str(error)) from None
    targets = []
    for p, source, place in zip(arrays, sources, structure.paths("params"), strict=True):
        target = check_target(p, place)
        expected = f"{target.dtype} of shape {target.shape}"
        got = f"{source.dtype} of shape {source.shape}" if isinstance(source, np.ndarray) else describe(source)
        if got != expected:
            raise ValueError(f"{os.fspath(path)}: {place}: expected {expected}, got {got}")
        family = family_of(p)
        assert family is not None
        targets.append((family, p, source))
    return targets
