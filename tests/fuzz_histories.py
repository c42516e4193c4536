"""One random history of an optimizer, by both backends: every result, error, option and bit must be equal after each
operation, and a rejected call must have changed nothing.

Operations are steps with any gradients, wrong gradients, assigned options and schedules, saved and loaded states,
copies, swapped parameters, and other threads and instruction sets.  An operation draws its arguments once, and returns
the call for either twin.  `tests/fuzz.py` runs histories.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

import fastoptim as fo
import fastoptim.engines.native
from bit_checks import ODD, Buffer
from cases import DTYPES, ISAS, MIN_SHARE, Array
from fastoptim.extra_bits import EXTRA_BITS
from fastoptim.optimizer.base import known_optimizers
from fastoptim.options.schema import AVERAGE
from models import leaves
from random_cases import random_array, random_case, random_option
from step_histories import assert_same

Backend = Literal["native", "reference"]
Call = Callable[["Twin"], Any]

OPERATIONS = 25
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (7,), (3, 5), (0, 4), (2, 3, 4), (70,), (40, 30))
MATRICES = [shape for shape in SHAPES if len(shape) > 1]
WRONG_DTYPES = ("i8", "c8", "?", "O", ">f4", "U1")
SCHEDULES: list[Callable[[], Any]] = [
    lambda: fo.schedules.Cosine(0.1, 20),
    lambda: fo.schedules.Warmup(fo.schedules.Step(0.2, 3), 4),
    lambda: fo.schedules.ReduceOnPlateau(0.3),
    lambda: lambda step: 0.1 / (1 + step),
    lambda: np.array(0.05),
]
THREADING = [layer for layer in ("auto", "pool", "openmp", "serial") if layer != "openmp" or fo.build_info()["openmp"]]


class Twin:
    """One backend's optimizer, and its parameters between guards."""

    def __init__(self, optimizer: type[fo.Optimizer], backend: Backend, groups: Any, offsets: list[int]) -> None:
        self.backend = backend
        places = iter(offsets)
        self.buffers: list[Buffer] = []

        def placed(values: Array) -> Array:
            is_fortran = not values.flags.c_contiguous
            self.buffers.append(Buffer(values.T if is_fortran else values, next(places)))
            return self.buffers[-1].array.T if is_fortran else self.buffers[-1].array

        self.opt: Any = optimizer(mapped(placed, groups), backend=backend)
        self.saved: Any = None

    @property
    def params(self) -> list[Array]:
        return [param.p for param in self.opt.param_states]

    def everything(self) -> dict[str, Any]:
        """Return copies of everything that an operation may change."""
        return {
            "params": [p.copy() for p in self.params],
            "state": [{name: array.copy() for name, array in param.state.items()} for param in self.opt.param_states],
            "counts": [self.opt.step_count, dict(self.opt._missed), self.opt._swapped_by],
            "options": [
                {k: comparable(v) for k, v in group.items() if k != "params"} for group in self.opt.param_groups
            ],
        }

    def assert_guards_intact(self) -> None:
        for i, buffer in enumerate(self.buffers):
            buffer.assert_intact(f"params[{i}]")


def mapped(function: Callable[[Array], Any], tree: Any) -> Any:
    """Return the tree with `function` of each array."""
    if isinstance(tree, dict):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(function, value) for value in tree)
    return function(tree) if isinstance(tree, np.ndarray) else tree


def comparable(option: Any) -> Any:
    """Return the state of an option that is an object of its own in each twin."""
    if callable(option):
        return repr(option) if isinstance(option, fo.schedules.Schedule) else "a function"
    return float(option) if isinstance(option, np.ndarray) else option


def outcome_of(call: Call, twin: Twin) -> Any:
    """Return the result of a call, or its error as a text."""
    try:
        return call(twin)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}".replace(f"backend={twin.backend!r}", "backend")


def may_be_unlocked(array: Array) -> bool:
    """Return whether NumPy lets an array be writeable again: not one over another object's memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is None


class History:
    """The history of a seed.  `write` receives a line for each operation before it begins."""

    def __init__(self, seed: tuple[int, int], work: Path, write: Callable[[str], Any]) -> None:
        self.rng = np.random.default_rng(seed)
        self.work, self.write = work, write
        known = list(known_optimizers().values())
        self.optimizer: type[fo.Optimizer] = known[self.below(len(known))]
        self.change_threads()
        self.dtypes = [DTYPES[i] for i in self.rng.permutation(len(DTYPES))[: 1 + self.below(len(DTYPES))]]
        groups = self.groups()
        self.twins = [Twin(self.optimizer, *each) for each in self.twin_arguments(groups)]
        self.seen: list[dict[str, Any]] = []  # everything of each twin after the last operation
        self.given: list[Array | None] = []  # the gradients of the last step
        self.operations = [
            *[self.step] * 10,
            *[self.wrong_step, self.assign_option] * 3,
            *[self.assign_rate, self.save, self.restore, self.exchange_states, self.write_file],
            *[self.overwrite, self.replace_by_copy, self.in_place_of_parameters, self.change_threads],
        ]

    def below(self, end: int) -> int:
        return int(self.rng.integers(end))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def run(self) -> int:
        """Run all operations; return their number."""
        self.compare("at the start")
        for i in range(1 + self.below(OPERATIONS)):
            operation = self.operations[self.below(len(self.operations))]
            call = operation()
            if call is not None:
                self.both(f"{i}: {operation.__name__}", call)
        for twin in self.twins:
            twin.assert_guards_intact()
        return i + 1

    def both(self, what: str, call: Call) -> Any:
        """Make a call by each twin, and compare everything."""
        self.write(what)
        outcomes = []
        for twin, before in zip(self.twins, self.seen, strict=True):
            with np.errstate(all="ignore"):
                outcomes.append(outcome_of(call, twin))
            if isinstance(outcomes[-1], str):
                self.assert_unchanged(what, before, twin.everything())
        self.write(f"   {str(outcomes[0])[:300]}")
        assert_same(outcomes[0], outcomes[1], what)
        self.compare(what)
        return outcomes[0]

    def assert_unchanged(self, what: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Check a rejected call.  An assigned option may add state, restart averages and fill in options."""
        for had, has, p in zip(before["state"], after["state"], after["params"], strict=True):
            had = {name: array for name, array in had.items() if name in has or name not in EXTRA_BITS}
            kept = {name: has[name] for name in had}
            for name in EXTRA_BITS:  # that start again where an option was assigned twice
                if name in had and not kept[name].astype(np.float32).any():
                    kept[name] = had[name]
            if AVERAGE in had and np.array_equal(kept[AVERAGE], p.astype(had[AVERAGE].dtype), equal_nan=True):
                kept[AVERAGE] = had[AVERAGE]
            assert_same(kept, had, f"{what}, rejected: state")
        for name in ("params", "counts"):
            assert_same(after[name], before[name], f"{what}, rejected: {name}")

    def compare(self, what: str) -> None:
        self.seen = [twin.everything() for twin in self.twins]
        native, reference = self.seen
        assert_same(native, reference, what)

    # ---- the beginning

    def twin_arguments(self, groups: Any) -> Iterator[tuple[Backend, Any, list[int]]]:
        for backend in ("native", "reference"):
            yield backend, mapped(np.copy, groups), [self.below(ODD) // 8 * 8 for _ in range(20)]

    def groups(self) -> Any:
        """Return a structure of parameters, or groups of them, with options that the optimizer accepts."""
        while True:
            groups = [{"params": self.structure(), **self.options()} for _ in range(1 + self.below(3))]
            given = groups if len(groups) > 1 or self.chance(0.5) else [{**groups[0], "params": [groups[0]["params"]]}]
            try:
                self.optimizer(given)
            except ValueError:  # groups that exclude each other
                continue
            self.write(f"{self.optimizer.__name__}: {mapped(lambda p: f'{p.dtype}{list(p.shape)}', given)}")
            return given

    def options(self) -> dict[str, Any]:
        case = random_case(self.rng, self.optimizer)
        if self.optimizer.conventions and self.chance(0.2):
            names = list(self.optimizer.conventions)
            return {"convention": names[self.below(len(names))]}
        return {name: value for name, value in case.options.items() if value != self.optimizer.defaults[name]}

    def structure(self) -> Any:
        arrays = [self.param() for _ in range(1 + self.below(4))]
        shape: Callable[[], Any] = [
            lambda: arrays[0],
            lambda: arrays,
            lambda: {f"p{i}": array for i, array in enumerate(arrays)},
            lambda: {"a": (arrays[0], [*arrays[1:]]), 1: arrays[0].copy()},
        ][self.below(4)]
        return shape()

    def param(self) -> Array:
        if self.optimizer.stages:
            return self.values(MATRICES[self.below(len(MATRICES))], self.dtypes[self.below(len(self.dtypes))])
        shape = SHAPES[self.below(len(SHAPES))] if self.chance(0.97) else (2 * MIN_SHARE + self.below(3 * MIN_SHARE),)
        return self.values(shape, self.dtypes[self.below(len(self.dtypes))])

    def values(self, shape: tuple[int, ...], dtype: Any) -> Array:
        array = random_array(self.rng, dtype, int(np.prod(shape))).reshape(shape)
        return np.array(array, order="F") if self.chance(0.2) else array

    # ---- operations

    def step(self) -> Call:
        grads = self.grads()
        self.given = grads
        some = [self.rows(grad) if self.chance(0.15) else grad for grad in grads]
        return lambda twin: twin.opt.step(self.tree(twin, some))

    def rows(self, grad: Array | None) -> Any:
        """Return some rows of a gradient, selected by a mask or by indices, which may be repeated."""
        if grad is None or not grad.ndim:
            return grad
        n = len(grad)
        if self.chance(0.5):
            return fo.Rows(self.rng.random(n) < 0.5, grad)
        index = self.rng.integers(0, max(n, 1), self.below(2 * n + 1) if n else 0)
        return fo.Rows(index, grad[index])

    def grads(self) -> list[Array | None]:
        """Return new gradients, or those of the last step with other values."""
        params = self.twins[0].params
        if self.given and self.chance(0.5):
            for grad in self.given:
                if grad is not None and grad.flags.writeable:
                    grad[...] = random_array(self.rng, grad.dtype, grad.size).reshape(grad.shape)
            return self.given
        return [None if self.chance(0.1) else self.grad(p.shape) for p in params]

    def grad(self, shape: tuple[int, ...]) -> Array:
        grad = self.values(shape, DTYPES[self.below(len(DTYPES))])
        if grad.ndim and self.chance(0.1):
            grad = np.repeat(grad, 2, axis=-1)[..., ::2]
        grad.flags.writeable = self.chance(0.9)
        return grad

    def tree(self, twin: Twin, flat: list[Any]) -> Any:
        return twin.opt._structure.build(iter(flat))

    def wrong_step(self) -> Call | None:
        """A step with one gradient that is wrong, or with a parameter that is locked."""
        grads: list[Any] = [self.grad(p.shape) for p in self.twins[0].params]
        i = self.below(len(grads))
        shape = grads[i].shape

        def locked(twin: Twin) -> Any:
            twin.params[i].flags.writeable = False
            try:
                return twin.opt.step(self.tree(twin, grads))
            finally:
                twin.params[i].flags.writeable = True

        def with_own_parameter(twin: Twin) -> Any:
            return twin.opt.step(self.tree(twin, [*grads[:i], twin.params[i], *grads[i + 1 :]]))

        if self.chance(0.15) and all(may_be_unlocked(twin.params[i]) for twin in self.twins):
            return locked
        if self.chance(0.15):
            return with_own_parameter
        wrong = [
            np.zeros((*shape, 2), np.float32),
            np.zeros(shape, WRONG_DTYPES[self.below(len(WRONG_DTYPES))]),
            "a text",
            1.5,
            [grads[i]],
            np.ma.masked_array(grads[i]),
        ][self.below(6)]
        return lambda twin: twin.opt.step(self.tree(twin, [*grads[:i], wrong, *grads[i + 1 :]]))

    def assign_option(self) -> Call:
        """Assign an option of one group and step; put it back if that is rejected."""
        names = list(self.optimizer.defaults)
        name = names[self.below(len(names))]
        index = self.below(len(self.twins[0].opt.param_groups))
        value = random_option(self.rng, self.optimizer.annotations[name], self.optimizer.defaults[name])
        if self.chance(0.1):
            value = [-1.0, float("nan"), "x", None, 10**30, (1, 2)][self.below(6)]
        grads = self.grads()
        self.write(f"   groups[{index}][{name!r}] = {value!r}")

        def assign(twin: Twin) -> Any:
            group = twin.opt.param_groups[index]
            before, group[name] = group[name], value
            try:
                return twin.opt.step(self.tree(twin, grads))
            except Exception:
                group[name] = before
                raise

        return assign

    def overwrite(self) -> Call:
        """Assign other values to a parameter, as a caller may, whose extra bits stay."""
        i = self.below(len(self.twins[0].params))
        given = self.values(self.twins[0].params[i].shape, self.twins[0].params[i].dtype)

        def write(twin: Twin) -> Any:
            twin.opt.master_params()  # raises the errors of assigned options, before the caller's own write
            twin.params[i][...] = given
            return list(leaves(twin.opt.master_params()))

        return write

    def assign_rate(self) -> Call:
        make = SCHEDULES[self.below(len(SCHEDULES))]
        return lambda twin: setattr(twin.opt, "lr", make())

    def save(self) -> Call:
        def save(twin: Twin) -> Any:
            twin.saved = twin.opt.state_dict()
            return twin.saved

        return save

    def restore(self) -> Call:
        return lambda twin: twin.saved and twin.opt.load_state_dict(twin.saved)

    def exchange_states(self) -> Call:
        """Each loads the state of the other, which is equal."""
        native, reference = self.twins

        def load(twin: Twin) -> Any:
            return twin.opt.load_state_dict((reference if twin is native else native).opt.state_dict())

        return load

    def write_file(self) -> Call:
        path = self.work / "checkpoint"

        def write(twin: Twin) -> Any:
            fo.save(path, params=twin.opt.params, optimizer=twin.opt)
            return fo.load(path, params=twin.opt.params, optimizer=twin.opt)

        return write

    def replace_by_copy(self) -> Call:
        pickles = self.chance(0.5)

        def replace(twin: Twin) -> Any:
            try:
                twin.opt = pickle.loads(pickle.dumps(twin.opt)) if pickles else copy.deepcopy(twin.opt)
            except (AttributeError, pickle.PicklingError):  # a schedule that is a local function
                return None
            return [param.place for param in twin.opt.param_states]

        return replace

    def in_place_of_parameters(self) -> Call:
        """Swap the parameters for their averages or for the point ahead, and try what is not allowed meanwhile."""
        how = ["averaged", "lookahead", "eval"][self.below(3)]
        grads = self.grads()

        def swap(twin: Twin) -> Any:
            if how == "eval":
                if not hasattr(twin.opt, "eval"):
                    return None
                twin.opt.eval()
                try:
                    return [p.copy() for p in twin.params]
                finally:
                    twin.opt.train()
            with getattr(twin.opt, how)():
                shown = [p.copy() for p in twin.params]
                return shown, how == "averaged" and outcome_of(lambda twin: twin.opt.step(self.tree(twin, grads)), twin)

        return swap

    def change_threads(self) -> None:
        threads = 1 + self.below(5)
        layer = THREADING[self.below(len(THREADING))]
        isa = ISAS[self.below(len(ISAS))]
        self.write(f"{threads} threads of {layer}, {isa}")
        fo.set_num_threads(threads)
        fo.set_threading(layer)
        fastoptim.engines.native.Engine.isa = isa
