"""Models of a few arrays, which tests over all optimizers step, copy and spoil, and what must be refused in them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
import fastoptim.core
from cases import DTYPES, FLOAT32, PLAIN_CASES, VARIANT_CASES, Array, Case
from loops import Decorator, Test, each_case, iteration, loop, without_arguments

Backend = Literal["native", "reference"]
Refusal = type[Exception]

OPTIMIZERS = list(fo.OPTIMIZERS.values())
WIDEST = {
    cls: max((case for case in PLAIN_CASES if case.optimizer is cls), key=lambda case: len(case.state))
    for cls in OPTIMIZERS
}


def kind_of(optimizer: type[fo.Optimizer]) -> tuple[object, ...]:
    """Return the properties by which the base class may treat optimizers differently."""
    methods = {name for cls in optimizer.__mro__ for name in vars(cls) if cls.__module__.startswith("fastoptim.rules")}
    own = {"step", "lookahead", "averaged", "state_dict", "load_state_dict", "eval", "update_hessian", "__init__"}
    return (
        bool(optimizer.state),
        any(optimizer.state_schema[name].is_scalar for name in optimizer.state),
        any(optimizer.state_schema[name].is_of_rows for name in optimizer.state),
        optimizer.reduces_all,
        frozenset(methods & own),
    )


KINDS = [*{kind_of(cls): cls for cls in reversed(OPTIMIZERS)}.values()]  # the first of each kind
INDEPENDENT = [cls for cls in OPTIMIZERS if not cls.reduces_all]  # one array's update depends on no other's
GUARD = 64
SHAPES = {"w0": (3, 4), "w1": (5,), "w2": (2, 3)}
LAST = "w2"  # whose faults must leave those before it alone


def name_of(thing: Any) -> str:
    return str(getattr(thing, "name", None) or getattr(thing, "__name__", None) or thing)


STATES = {case.state for case in VARIANT_CASES if case.state}

every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=name_of)
each_kind = pytest.mark.parametrize("optimizer", KINDS, ids=name_of)
every_variant = each_case(VARIANT_CASES)
each_backend = loop("backend", ["native", "reference"])
each_dtype = loop("dtype", DTYPES)
each_module = loop("module", [fo.functional, fo.reference])
without_cuda = pytest.mark.skipif(not fastoptim.core.cuda_status(), reason="this machine has CUDA")


def each_subject(argument: str, make: Callable[[type[fo.Optimizer], Any], Any], contexts: Sequence[Any]) -> Decorator:
    """Run the test for the first optimizer of each kind in each context, with what `make` returns for both."""

    def decorate(test: Test) -> Test:
        def run(**given: Any) -> None:
            for cls, context in product(KINDS, contexts):
                with iteration("optimizer, context", f"{cls.name}, {name_of(context)}"):
                    subject = make(cls, context)
                    test(**given, **{argument: subject})
                    if isinstance(subject, Model):
                        subject.assert_continues()

        return without_arguments(test, run, [argument])

    return decorate


def leaves(tree: Any) -> Iterator[Any]:
    """Yield the leaves of a tree; a state's dict of arrays is one leaf."""
    if is_state(tree) or not isinstance(tree, (dict, list, tuple)):
        yield tree
        return
    for value in tree.values() if isinstance(tree, dict) else tree:
        yield from leaves(value)


def is_state(tree: Any) -> bool:
    return isinstance(tree, dict) and tuple(tree) in STATES


def rate(step: int) -> float:
    return 0.1 / (1 + step)


# ---- memory that is watched


class Memory:
    """Arrays in buffers of their own, of which every byte is watched, also those before and behind the arrays."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._buffers: list[Array] = []

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT32) -> Array:
        """Numbers from 0.5 to 1.5."""
        size = math.prod(shape) * dtype.itemsize
        self._buffers.append(np.full(GUARD + size + GUARD, 0xA5, np.uint8))
        array = self._buffers[-1][GUARD : GUARD + size].view(dtype).reshape(shape)
        array[...] = self._rng.random(shape) + 0.5
        return array

    def near(self, array: Array, offset: int, dtype: np.dtype[Any] = FLOAT32) -> Array:
        """The array of that shape and dtype that begins so many bytes behind this one's beginning."""
        buffer = next(buffer for buffer in self._buffers if np.shares_memory(buffer, array))
        return buffer[GUARD + offset :][: array.size * dtype.itemsize].view(dtype).reshape(array.shape)

    def everything(self) -> dict[str, Any]:
        return {f"buffer {i}": buffer.tobytes() for i, buffer in enumerate(self._buffers)}

    @contextmanager
    def refuses(self, error: Refusal, *words: str) -> Iterator[None]:
        """Expects exactly this error with these words in it, and that it changes nothing."""
        before = self.everything()
        with pytest.raises(error) as caught:
            yield
        assert caught.type is error
        after = self.everything()
        assert [place for place, seen in before.items() if after[place] != seen] == []
        assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


class Model(Memory):
    """An optimizer in the middle of its work, in the variant with the most state."""

    def __init__(self, optimizer: type[fo.Optimizer], backend: Backend, *, grouped: bool = False) -> None:
        super().__init__()
        self.params = {key: self.array(shape) for key, shape in SHAPES.items()}
        self.grads = {key: self.array(shape) for key, shape in SHAPES.items()}
        groups = [{"params": {"w0": self.params["w0"], "w1": self.params["w1"]}}, {"params": self.params["w2"]}]
        self._grouped = grouped
        self._twin: Model | None = None
        self.make = partial(optimizer, backend=backend)
        self.opt: Any = WIDEST[optimizer].optimize(groups if grouped else self.params, backend)
        self.step()

    def step(self, **changed: Any) -> None:
        grads: dict[str, Any] = {**self.grads, **changed}
        self.opt.step([{k: grads[k] for k in ("w0", "w1")}, grads["w2"]] if self._grouped else grads)
        self._twin = None

    def both(self) -> list[Any]:
        """Return the optimizer and that of the twin, which refused nothing."""
        return [self.opt] if self._twin is None else [self.opt, self._twin.opt]

    def state_arrays(self) -> list[Array]:
        return [array for entry in leaves(self.opt.state) for array in entry.values()]

    def everything(self) -> dict[str, Any]:
        state = [(array.ctypes.data, array.tobytes(), array.dtype, array.shape) for array in self.state_arrays()]
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.opt.param_groups]
        return {**super().everything(), "state": state, "options": options, "steps": self.opt.step_count}

    @contextmanager
    def refuses(self, error: Refusal, *words: str) -> Iterator[None]:
        if self._twin is None:
            self._twin = copy.deepcopy(self)
        with super().refuses(error, *words):
            yield

    def assert_continues(self) -> None:
        """The next step has the bits it has in a model that never refused anything."""
        if self._twin is None:
            return
        twin = self._twin
        twin.step()
        self.step()
        assert [p.tobytes() for p in self.params.values()] == [p.tobytes() for p in twin.params.values()]
        assert [s.tobytes() for s in self.state_arrays()] == [s.tobytes() for s in twin.state_arrays()]

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """With the arrays' copies out of their buffers, and the optimizer's parameters still the model's."""
        twin = Model.__new__(Model)
        twin.params, twin.opt = copy.deepcopy((self.params, self.opt), memo)
        twin.grads, twin._grouped, twin.make, twin._twin = self.grads, self._grouped, self.make, None
        return twin


class Buffers(Memory):
    """A parameter, its gradient and its state, as a caller of ``fo.functional`` keeps them."""

    def __init__(self, optimizer: type[fo.Optimizer], module: ModuleType) -> None:
        super().__init__()
        self.module = module
        self.case: Case = WIDEST[optimizer]
        self.p, self.g = self.array((2, 3)), self.array((2, 3))
        schema = self.case.optimizer.state_schema
        self.state = {
            name: self.array(schema[name].shape_for((2, 3)), schema[name].dtype_for(FLOAT32))
            for name in self.case.state
        }
        self.scalar_state = [name for name in self.case.state if schema[name].is_scalar]
        self.arrays = [name for name in self.state if schema[name].kind.keeps_layout]  # like the parameter

    def update(self, **changed: Any) -> None:
        """One update with some of the arrays, the step or options changed."""
        arrays: dict[str, Any] = {"p": self.p, "g": self.g, **self.state}
        arrays.update({name: changed.pop(name) for name in arrays if name in changed})
        p, g, *state = arrays.values()
        options: Mapping[str, Any] = {**self.case.options, "step": 1, **changed}
        getattr(self.module, self.case.optimizer.name)(p, g, *state, **options)


Make = Callable[..., fo.Optimizer]
BACKENDS = get_args(Backend)
each_make = each_subject("make", lambda cls, backend: partial(cls, backend=backend), BACKENDS)
each_model = each_subject("model", Model, BACKENDS)
each_grouped_model = each_subject("model", partial(Model, grouped=True), BACKENDS)
each_buffers = each_subject("buffers", Buffers, [fo.functional, fo.reference])


# ---- arrays that are none, or wrong ones for a place of shape (2, 3)


class FakeCuda:
    """An object with the interface of a CuPy array."""

    shape, dtype = SHAPES[LAST], FLOAT32

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "<f4", "data": (4096, False), "version": 3}


NO_ARRAYS: list[tuple[Any, str]] = [
    (1.5, "got float"),
    (1, "got int"),
    ("weights", "got str"),
    (b"weights", "got bytes"),
    (memoryview(bytes(24)), "got memoryview"),
    (object(), "got object"),
    ((x for x in (1.0, 2.0)), "got generator"),
    ({1.0}, "got set"),
    (np.ndarray, "got type"),
    (np.ma.masked_array(np.ones(SHAPES[LAST], np.float32)), "MaskedArray"),
]

ODD_DTYPES = [
    *(np.dtype(code) for code in "?bBhHiIlLqQFDGOMm"),
    *(np.dtype(code) for code in ("S4", "U4", "V2", "f4,f4")),
    *(np.dtype(kind).newbyteorder() for kind in "efdFi"),
    *(np.dtype(ml_dtypes.bfloat16).newbyteorder(), np.dtype(ml_dtypes.float8_e4m3fn)),
    *([np.dtype(np.longdouble)] if np.longdouble(1).itemsize > 8 else []),
]


def of_dtype(dtype: np.dtype[Any]) -> Array:
    return np.zeros(SHAPES[LAST], dtype)


# For (2, 3): of the same size, those that would broadcast, longer and shorter ones, none.
WRONG_SHAPES: list[tuple[int, ...]] = [(3, 2), (6,), (2, 3, 1), (1, 2, 3), (1, 3), (3,), (2, 1), (1, 1), (1,), ()]
WRONG_SHAPES += [(2, 4), (2, 2), (4, 3), (0, 3), (0,)]
