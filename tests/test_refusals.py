"""Every refusal: the error, the place that its message names, and that not a byte has changed when it is raised."""

from __future__ import annotations

import copy
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import fastoptim as fo
from cases import PLAIN_CASES, Array, Case

Backend = Literal["native", "reference"]
Refusal = type[Exception]

OPTIMIZERS = list(fo.OPTIMIZERS.values())
WIDEST = {
    cls: max((case for case in PLAIN_CASES if case.optimizer is cls), key=lambda case: len(case.state))
    for cls in OPTIMIZERS
}
FLOAT32 = np.dtype(np.float32)
GUARD = 64
SHAPES = {"w0": (3, 4), "w1": (5,), "w2": (2, 3)}
LAST = "w2"  # whose faults must leave those before it alone


def name_of(thing: Any) -> str:
    return str(getattr(thing, "name", None) or getattr(thing, "__name__", None) or thing)


every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=name_of)
each_backend = pytest.mark.parametrize("backend", ["native", "reference"])
each_module = pytest.mark.parametrize("module", [fo.functional, fo.reference], ids=["functional", "reference"])


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
        self.opt: Any = WIDEST[optimizer].optimize(groups if grouped else self.params, backend)
        self.step()

    def step(self, **changed: Any) -> None:
        grads: dict[str, Any] = {**self.grads, **changed}
        self.opt.step([{k: grads[k] for k in ("w0", "w1")}, grads["w2"]] if self._grouped else grads)

    def state_arrays(self) -> list[Array]:
        return [array for entry in leaves(self.opt.state) for array in entry.values()]

    def everything(self) -> dict[str, Any]:
        state = [(array.ctypes.data, array.tobytes(), array.dtype, array.shape) for array in self.state_arrays()]
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.opt.param_groups]
        return {**super().everything(), "state": state, "options": options, "steps": self.opt.step_count}

    @contextmanager
    def refuses(self, error: Refusal, *words: str) -> Iterator[None]:
        self._twin = copy.deepcopy(self)
        with super().refuses(error, *words):
            yield

    def goes_on(self) -> None:
        """The next step has the bits it has in a model that never refused anything."""
        self._twin.step()
        self.step()
        for key, p in self.params.items():
            assert p.tobytes() == self._twin.params[key].tobytes()
        assert [s.tobytes() for s in self.state_arrays()] == [s.tobytes() for s in self._twin.state_arrays()]

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        """With the arrays' copies out of their buffers, and the optimizer's parameters still the model's."""
        twin = Model.__new__(Model)
        twin.params, twin.opt = copy.deepcopy((self.params, self.opt), memo)
        twin.grads, twin._grouped = self.grads, self._grouped
        return twin


def leaves(tree: Any) -> Iterator[dict[str, Array]]:
    """The dicts ``{name: array}`` of a state."""
    if isinstance(tree, dict) and all(isinstance(value, np.ndarray) for value in tree.values()):
        yield tree
    else:
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(value)


# ---- arrays that are none, or of a wrong dtype


class FakeCuda:
    """What a CuPy array looks like to those who do not import CuPy."""

    shape, dtype = SHAPES[LAST], FLOAT32

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "<f4", "data": (4096, False), "version": 3}


class FakeCpuTensor:
    """A PyTorch tensor on the CPU: its class has the attribute, reading it says that there is none."""

    shape, dtype = SHAPES[LAST], FLOAT32

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        raise AttributeError("Can't get __cuda_array_interface__ on non-CUDA tensor type")


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


without_cuda = pytest.mark.skipif(fo.build_info()["cuda"] is not None, reason="this build has CUDA")


def of_dtype(dtype: np.dtype[Any]) -> Array:
    return np.zeros(SHAPES[LAST], dtype)


@every_optimizer
@each_backend
def test_a_gradient_that_is_no_array(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    for thing, got in NO_ARRAYS:
        with model.refuses(TypeError, "grads['w2']: expected a NumPy array", got):
            model.step(w2=thing)
    model.goes_on()


@every_optimizer
@each_backend
@pytest.mark.parametrize("container", [[[1.0] * 3] * 2, (1.0, 2.0), {"a": 1.0}, []], ids=repr)
def test_a_container_in_the_place_of_a_gradient(
    optimizer: type[fo.Optimizer], backend: Backend, container: Any
) -> None:
    model = Model(optimizer, backend)
    with model.refuses(TypeError, "grads['w2']: expected a NumPy array, got a " + type(container).__name__):
        model.step(w2=container)
    model.goes_on()


@every_optimizer
@each_backend
def test_a_parameter_that_is_no_array(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    memory = Memory()
    first, second = memory.array((2,)), memory.array((2,))
    for thing, got in NO_ARRAYS:
        with memory.refuses(TypeError, "params['w'][1]: expected a NumPy array", got):
            optimizer({"v": first, "w": [second, thing]}, backend=backend)


@every_optimizer
@each_backend
@pytest.mark.parametrize("thing", [None, np.float32(1), 1.0], ids=repr)
def test_parameters_that_are_no_array(optimizer: type[fo.Optimizer], backend: Backend, thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^params: expected a NumPy array, got \w"):
        optimizer(thing, backend=backend)


@every_optimizer
@each_backend
@pytest.mark.parametrize("nothing", [[], {}, (), {"a": [], "b": {}}, [{"params": []}]], ids=repr)
def test_parameters_without_an_array(optimizer: type[fo.Optimizer], backend: Backend, nothing: Any) -> None:
    with pytest.raises(ValueError, match=r"^params: expected at least one array, got none"):
        optimizer(nothing, backend=backend)


@every_optimizer
@each_backend
def test_a_gradient_of_a_wrong_dtype(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    for dtype in ODD_DTYPES:
        with model.refuses(TypeError, "grads['w2']: expected dtype float64, float32, float16 or bfloat16", repr(dtype)):
            model.step(w2=of_dtype(dtype))
    model.goes_on()


@every_optimizer
@each_backend
def test_a_parameter_of_a_wrong_dtype(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    memory = Memory()
    first = memory.array((2,))
    for dtype in ODD_DTYPES:
        with memory.refuses(TypeError, "params[1]: expected dtype float64, float32, float16 or bfloat16", repr(dtype)):
            optimizer([first, of_dtype(dtype)], backend=backend)


@every_optimizer
@each_backend
def test_a_tensor_on_the_cpu_is_no_cuda_array(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    with model.refuses(TypeError, "grads['w2']: expected a NumPy array", "FakeCpuTensor"):
        model.step(w2=FakeCpuTensor())
    with model.refuses(TypeError, "params['b']: expected a NumPy array", "FakeCpuTensor"):
        optimizer({"a": model.array((2,)), "b": FakeCpuTensor()}, backend=backend)


@without_cuda
@every_optimizer
@each_backend
def test_cuda_arrays_without_a_cuda_build(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    with model.refuses(RuntimeError, "grads['w2']", "CUDA", "FakeCuda"):
        model.step(w2=FakeCuda())
    model.goes_on()
    with model.refuses(RuntimeError, "params['b']", "CUDA", "FakeCuda"):
        optimizer({"a": model.array((2,)), "b": FakeCuda()}, backend=backend)


# ---- structure

STRUCTURES: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "missing": (lambda g: {k: g[k] for k in ("w0", "w1")}, ["grads: expected the keys", "missing ['w2']"]),
    "extra": (lambda g: {**g, "w3": g["w2"]}, ["grads: expected the keys", "unknown ['w3']"]),
    "renamed": (lambda g: {"w0": g["w0"], "w1": g["w1"], 2: g["w2"]}, ["missing ['w2']", "unknown [2]"]),
    "empty": (lambda g: {}, ["missing ['w0', 'w1', 'w2']"]),
    "list": (lambda g: list(g.values()), ["grads: expected a dict with keys ['w0', 'w1', 'w2']", "a list of 3"]),
    "array": (lambda g: g["w0"], ["grads: expected a dict", "got numpy.ndarray"]),
    "none": (lambda g: None, ["grads: expected a dict", "got NoneType"]),
    "number": (lambda g: 0.0, ["grads: expected a dict", "got float"]),
}


@every_optimizer
@each_backend
@pytest.mark.parametrize("kind", STRUCTURES)
def test_gradients_of_another_structure(optimizer: type[fo.Optimizer], backend: Backend, kind: str) -> None:
    make, words = STRUCTURES[kind]
    model = Model(optimizer, backend)
    with model.refuses(TypeError, *words):
        model.opt.step(make(model.grads))
    model.goes_on()


NESTED: dict[str, tuple[Any, list[str]]] = {
    "short": ({"a": [0, (1,)], "b": {"c": 3}}, ["grads['a'][1]: expected a list or tuple of 2 entries", "tuple of 1"]),
    "long": ({"a": [0, (1, 2, 4)], "b": {"c": 3}}, ["grads['a'][1]: ", "tuple of 3"]),
    "shallow": ({"a": [0, 1], "b": {"c": 3}}, ["grads['a'][1]: expected a list or tuple of 2", "got numpy.ndarray"]),
    "dict": ({"a": {0: 0, 1: (1, 2)}, "b": {"c": 3}}, ["grads['a']: expected a list or tuple of 2", "dict with keys"]),
    "list": ({"a": [0, (1, 2)], "b": [3]}, ["grads['b']: expected a dict with keys ['c']", "a list of 1"]),
    "leaf": ({"a": [0, (1, 2)], "b": 3}, ["grads['b']: expected a dict with keys ['c']", "numpy.ndarray"]),
    "none": ({"a": None, "b": {"c": 3}}, ["grads['a']: expected a list or tuple of 2 entries", "NoneType"]),
    "key": ({"a": [0, (1, 2)], "b": {"d": 3}}, ["grads['b']: ", "missing ['c']", "unknown ['d']"]),
    "deep": ({"a": [0, (1, 2)], "b": {"c": [3]}}, ["grads['b']['c']: expected a NumPy array", "a list of 1"]),
    "string": ({"a": "ab", "b": {"c": 3}}, ["grads['a']: expected a list or tuple of 2", "got str"]),
}


def plant(tree: Any, arrays: list[Array]) -> Any:
    """The tree with arrays in the places of their numbers."""
    if isinstance(tree, dict):
        return {key: plant(value, arrays) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(plant(value, arrays) for value in tree)
    return arrays[tree] if isinstance(tree, int) else tree


@every_optimizer
@each_backend
@pytest.mark.parametrize("kind", NESTED)
def test_gradients_of_another_nesting(optimizer: type[fo.Optimizer], backend: Backend, kind: str) -> None:
    tree, words = NESTED[kind]
    memory = Memory()
    opt = optimizer(plant({"a": [0, (1, 2)], "b": {"c": 3}}, [memory.array((2,)) for _ in range(4)]), backend=backend)
    with memory.refuses(TypeError, *words):
        opt.step(plant(tree, [memory.array((2,)) for _ in range(5)]))
    assert opt.step_count == 0


@every_optimizer
@each_backend
def test_gradients_of_groups_name_the_group(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend, grouped=True)
    with model.refuses(TypeError, "grads: expected a list or tuple of 2 entries", "a dict with keys"):
        model.opt.step(model.grads)
    with model.refuses(TypeError, "grads[0]: ", "missing ['w1']"):
        model.opt.step([{"w0": model.grads["w0"]}, model.grads["w2"]])
    with model.refuses(ValueError, "grads[0]['w1']: expected shape (5,)", "got (6,)"):
        model.step(w1=np.zeros(6, np.float32))
    with model.refuses(ValueError, "grads[1]: expected shape (2, 3)", "got (3, 2)"):
        model.step(w2=np.zeros((3, 2), np.float32))
    with model.refuses(ValueError, "grads[1]: overlaps params[0]['params']['w0']"):
        model.step(w2=model.params["w0"].reshape(-1)[:6].reshape(2, 3))
    model.goes_on()


# ---- shape and layout

# For (2, 3): of the same size, those that would broadcast, longer and shorter ones, none.
WRONG_SHAPES: list[tuple[int, ...]] = [(3, 2), (6,), (2, 3, 1), (1, 2, 3), (1, 3), (3,), (2, 1), (1, 1), (1,), ()]
WRONG_SHAPES += [(2, 4), (2, 2), (4, 3), (0, 3), (0,)]


@every_optimizer
@each_backend
def test_a_gradient_of_a_wrong_shape(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    for shape in WRONG_SHAPES:
        with model.refuses(ValueError, "grads['w2']: expected shape (2, 3)", f"got {shape}"):
            model.step(w2=np.ones(shape, np.float32))
    model.goes_on()


@every_optimizer
@each_backend
def test_a_gradient_for_an_array_without_dimensions_or_elements(
    optimizer: type[fo.Optimizer], backend: Backend
) -> None:
    memory = Memory()
    opt = optimizer([memory.array(()), memory.array((0, 3))], backend=backend)
    with memory.refuses(ValueError, "grads[0]: expected shape ()", "got (1,)"):
        opt.step([memory.array((1,)), memory.array((0, 3))])
    with memory.refuses(ValueError, "grads[1]: expected shape (0, 3)", "got (3, 0)"):
        opt.step([memory.array(()), memory.array((3, 0))])
    with memory.refuses(TypeError, "grads[0]: expected dtype", "int64"):
        opt.step([np.int64(1), memory.array((0, 3))])


GAPPED: dict[str, Callable[[Array], Array]] = {
    "every_other": lambda a: a[:, ::2],
    "columns": lambda a: a[:, :3],
    "backwards": lambda a: a[::-1],
    "backwards_columns": lambda a: a[:, ::-1],
    "diagonal": lambda a: as_strided(a, (4,), (20,)),
    "repeated": lambda a: as_strided(a, (4, 4), (0, 4)),
    "sliding": lambda a: as_strided(a, (6, 3), (4, 4)),
}


@every_optimizer
@each_backend
@pytest.mark.parametrize("kind", GAPPED)
def test_a_parameter_that_is_not_dense(optimizer: type[fo.Optimizer], backend: Backend, kind: str) -> None:
    memory = Memory()
    p = GAPPED[kind](memory.array((4, 4)))
    words = ["expected a dense array", f"got shape {p.shape} with strides {p.strides}"]
    with memory.refuses(ValueError, "params['b']: ", *words):
        optimizer({"a": memory.array((2,)), "b": p}, backend=backend)
    with memory.refuses(ValueError, "params[1]['params']['b']: ", *words):
        optimizer([{"params": memory.array((2,))}, {"params": {"b": p}}], backend=backend)


@every_optimizer
@each_backend
def test_a_read_only_parameter(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    memory = Memory()
    locked = memory.array((3,))
    locked.flags.writeable = False
    with memory.refuses(ValueError, "params['b']: expected a writeable array, got a read-only one"):
        optimizer({"a": memory.array((2,)), "b": locked}, backend=backend)
    with memory.refuses(ValueError, "params: expected a writeable array"):
        optimizer(np.frombuffer(bytes(8), np.float32), backend=backend)


@every_optimizer
@each_backend
def test_a_parameter_made_read_only_later(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    model.params["w2"].flags.writeable = False
    with model.refuses(ValueError, "params['w2']: expected a writeable array, got a read-only one"):
        model.step()
    model.params["w2"].flags.writeable = True
    model.goes_on()


@every_optimizer
@each_backend
def test_locking_what_shows_the_state_locks_nothing(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model, free = Model(optimizer, backend), Model(optimizer, backend)
    for array in model.state_arrays():
        array.flags.writeable = False
    model.step()
    free.step()
    model.opt.load_state_dict(free.opt.state_dict())
    model.step()
    free.step()
    assert [p.tobytes() for p in model.params.values()] == [p.tobytes() for p in free.params.values()]
    assert [s.tobytes() for s in model.state_arrays()] == [s.tobytes() for s in free.state_arrays()]


@every_optimizer
@each_backend
@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 2, 3)], ids=str)
def test_a_parameter_reshaped_in_place_later(
    optimizer: type[fo.Optimizer], backend: Backend, shape: tuple[int, ...]
) -> None:
    """Its state has the old shape: refused, not half done."""
    memory = Memory()
    params = [memory.array((4,)), memory.array((2, 3))]
    opt = WIDEST[optimizer].optimize(params, backend)
    opt.step([memory.array((4,)), memory.array((2, 3))])
    set_shape(params[1], shape)
    grads = [memory.array((4,)), memory.array(shape)]
    with memory.refuses(ValueError, "[1]"):
        opt.step(grads)
    assert opt.step_count == 1


RESIZES = """
import sys, numpy as np, fastoptim as fo
name, backend, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
for size in (2, 990, 1100, 50000):
    for grad_size in (size, 1000):
        first, p = np.ones(4, np.float32), np.ones(1000, np.float32)
        opt = fo.OPTIMIZERS[name]([first, p], backend=backend, **options)
        opt.step([np.ones(4, np.float32), np.ones(1000, np.float32)])
        before = first.tobytes()
        p.resize((size,), refcheck=False)
        try:
            opt.step([np.ones(4, np.float32), np.ones(grad_size, np.float32)])
            sys.exit(f"accepted {grad_size} gradients for 1000 elements become {size}")
        except ValueError as error:
            assert "s[1]" in str(error) or "state[1]" in str(error), error
        assert first.tobytes() == before
        assert opt.step_count == 1
"""


@each_backend
@pytest.mark.parametrize("optimizer", [cls for cls in OPTIMIZERS if WIDEST[cls].state], ids=name_of)
def test_a_parameter_resized_in_place_later(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """The memory that the optimizer knew is gone, or another's: a process of its own, which may well break."""
    arguments = [optimizer.name, backend, repr(WIDEST[optimizer].options)]
    done = subprocess.run([sys.executable, "-c", RESIZES, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def set_shape(array: Array, shape: tuple[int, ...]) -> None:
    """In place, which NumPy deprecates; users of older ones do it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = shape


# ---- memory in common


@every_optimizer
@each_backend
@pytest.mark.parametrize(
    ("trees", "places"),
    [
        (lambda a: {"x": a, "y": a}, ["params['x']", "params['y']", "same memory"]),
        (lambda a: {"x": a, "y": a.T}, ["params['x']", "params['y']", "same memory"]),
        (lambda a: {"x": a, "y": a.view(np.float64)}, ["params['x']", "params['y']"]),
        (lambda a: {"x": a, "y": a[1]}, ["params['x']", "params['y']", "overlaps"]),
        (lambda a: {"x": a[2:], "y": a[:3]}, ["params['x']", "params['y']", "overlaps"]),
        (lambda a: [a[:2], (a[3:], a[1:3])], ["params[0]", "params[1][1]", "overlaps"]),
        (lambda a: [{"params": [a]}, {"params": {"y": a}}], ["params[0]['params'][0]", "params[1]['params']['y']"]),
    ],
    ids=["same", "transposed", "other_dtype", "part", "partly", "nested", "groups"],
)
def test_parameters_with_memory_in_common(
    optimizer: type[fo.Optimizer], backend: Backend, trees: Callable[[Array], Any], places: list[str]
) -> None:
    memory = Memory()
    with memory.refuses(ValueError, *places):
        optimizer(trees(memory.array((4, 4))), backend=backend)


def test_parameters_beside_each_other_have_none() -> None:
    memory = np.ones(12, np.float32)
    opt = fo.SGD([memory[:5], memory[5:], np.ones(0, np.float32)])
    opt.step([np.ones(5, np.float32), np.ones(7, np.float32), np.ones(0, np.float32)])
    assert opt.step_count == 1


SHARED: dict[str, Callable[[Model], Array]] = {
    "itself": lambda m: m.params["w2"],
    "itself_backwards": lambda m: m.params["w2"][::-1, ::-1],
    "itself_in_another_order": lambda m: m.params["w2"].reshape(3, 2).T,
    "another": lambda m: m.params["w0"].reshape(-1)[:6].reshape(2, 3),
    "another_s_rows": lambda m: m.params["w0"][:2, :3],
    "one_element_behind": lambda m: m.near(m.params["w2"], 4),
    "one_byte_of_the_end": lambda m: m.near(m.params["w2"], 23),
    "one_byte_of_the_start": lambda m: m.near(m.params["w2"], -23),
    "wider": lambda m: m.near(m.params["w2"], -40, np.dtype(np.float64)),
    "narrower": lambda m: m.near(m.params["w2"], 11, np.dtype(np.float16)),
    "around": lambda m: as_strided(m.near(m.params["w2"], -32), (2, 3), (24, 4)),
}


@every_optimizer
@each_backend
@pytest.mark.parametrize("kind", SHARED)
def test_a_gradient_in_the_memory_of_parameters(optimizer: type[fo.Optimizer], backend: Backend, kind: str) -> None:
    model = Model(optimizer, backend)
    owner = "w0" if kind.startswith("another") else "w2"
    with model.refuses(ValueError, "grads['w2']: overlaps", f"params[{owner!r}]"):
        model.step(w2=SHARED[kind](model))
    model.goes_on()


@every_optimizer
@each_backend
def test_a_gradient_in_the_memory_of_state(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    for name in WIDEST[optimizer].state:
        with model.refuses(ValueError, f"grads['w2']: overlaps state['w2'][{name!r}]"):
            model.step(w2=model.opt.state["w2"][name])
        with model.refuses(ValueError, f"grads['w2']: overlaps state['w0'][{name!r}]"):
            model.step(w2=model.opt.state["w0"][name].reshape(-1)[3:9].reshape(2, 3))
        model.goes_on()


@every_optimizer
@each_backend
def test_a_gradient_in_the_memory_of_a_parameter_that_stays(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """A step without that parameter's gradient reads it only, but the rule is one for all steps."""
    model = Model(optimizer, backend)
    with model.refuses(ValueError, "grads['w2']: overlaps params['w0']"):
        model.step(w2=SHARED["another"](model), w0=None)
    model.goes_on()


@every_optimizer
@each_backend
def test_gradients_may_share_memory_with_each_other(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    expected = copy.deepcopy(model)
    everywhere = np.full(12, 0.75, np.float32)
    model.step(w0=everywhere.reshape(3, 4), w1=everywhere[:5], w2=np.broadcast_to(everywhere[:1], (2, 3)))
    expected.step(**{key: np.full(shape, 0.75, np.float32) for key, shape in SHAPES.items()})
    assert {k: p.tobytes() for k, p in model.params.items()} == {k: p.tobytes() for k, p in expected.params.items()}


@every_optimizer
@each_backend
def test_a_gradient_may_lie_around_a_parameter(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """Its ends are on either side, but no element is the parameter's."""
    rows = np.ones((3, 4), np.float32)
    p, g = rows[1], as_strided(rows, (2, 2), (32, 8))
    opt = optimizer([p, np.ones((2, 2), np.float32)], backend=backend)
    opt.step([np.ones(4, np.float32), g])
    assert rows[[0, 2]].tobytes() == np.ones((2, 4), np.float32).tobytes()
    with pytest.raises(ValueError, match=re.escape("grads[1]: overlaps params[0]")):
        opt.step([np.ones(4, np.float32), as_strided(rows, (2, 2), (16, 8))])


# ---- hyper-parameters


class Wrong(NamedTuple):
    """A value that an option must refuse, with which error, and the part of the option that the message names."""

    value: Any
    error: Refusal
    part: str = ""


NO_NUMBERS: list[Any] = ["0.1", True, np.True_, 1j, [0.1], np.array([0.1]), np.array(0.1), object()]


def wrong_numbers(low: float, high: float, below: bool) -> Iterator[Wrong]:
    values = [math.nan, math.inf, -math.inf, math.nextafter(low, -math.inf), low - 1, np.float32("nan"), -(10**6)]
    if math.isfinite(high):
        values += [math.nextafter(high, math.inf), high + 1, *([high] if below else [])]
    yield from (Wrong(value, ValueError) for value in values)
    yield from (Wrong(value, TypeError) for value in [*NO_NUMBERS, None])


def wrong_values(annotation: Any, default: Any) -> Iterator[Wrong]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from wrong_numbers(args[1].low, args[1].high, args[1].below)
    elif origin is tuple:
        for i, part in enumerate(args):
            for value, error, _ in wrong_values(part, default[i]):
                yield Wrong((*default[:i], value, *default[i + 1 :]), error, f"[{i}]")
        yield from (
            Wrong(value, TypeError) for value in (0.5, None, "ab", (), default[:1], (*default, 0.5), {0.1, 0.2})
        )
    elif origin is Literal:
        yield from (Wrong(value, ValueError) for value in ("no such", "", str(default).upper()))
    else:
        assert annotation is bool
        yield from (Wrong(value, TypeError) for value in (1, 0, None, "True", 1.0, np.array(True)))


EVERY_OPTION = [(cls, name) for cls in OPTIMIZERS for name in cls.defaults]
every_option = pytest.mark.parametrize(
    ("optimizer", "option"), EVERY_OPTION, ids=[f"{cls.name}-{name}" for cls, name in EVERY_OPTION]
)


def wrong_for(optimizer: type[fo.Optimizer], option: str) -> list[Wrong]:
    return list(wrong_values(optimizer.annotations[option], optimizer.defaults[option]))


@every_option
def test_a_constructor_refuses_wrong_options(optimizer: type[fo.Optimizer], option: str) -> None:
    memory = Memory()
    p = memory.array((3,))
    for value, error, part in wrong_for(optimizer, option):
        with memory.refuses(error, f"{option}{part}: expected "):
            optimizer(p, **{option: value})


@every_option
def test_a_constructor_refuses_a_group_s_wrong_options(optimizer: type[fo.Optimizer], option: str) -> None:
    memory = Memory()
    p, q = memory.array((3,)), memory.array((3,))
    for value, error, part in wrong_for(optimizer, option):
        with memory.refuses(error, f"params[1]: {option}{part}: expected "):
            optimizer([{"params": p}, {"params": q, option: value}])


@every_option
@each_backend
def test_a_step_refuses_options_assigned_to_a_group(
    optimizer: type[fo.Optimizer], option: str, backend: Backend
) -> None:
    model = Model(optimizer, backend, grouped=True)
    group = model.opt.param_groups[1]
    good = group[option]
    for value, error, part in wrong_for(optimizer, option):
        if isinstance(good, bool) and value in (0, 1):
            continue  # taken for the False or True that it equals
        group[option] = value
        with model.refuses(error, f"param_groups[1]: {option}{part}: expected "):
            model.step()
    group[option] = good
    model.opt.param_groups[0][option] = good
    model._twin.opt.param_groups[1][option] = good
    model.goes_on()


@every_option
def test_an_optimizer_refuses_options_assigned_to_all_groups(optimizer: type[fo.Optimizer], option: str) -> None:
    model = Model(optimizer, "native", grouped=True)
    for value, error, part in wrong_for(optimizer, option):
        with model.refuses(error, f"{option}{part}: expected "):
            setattr(model.opt, option, value)
    model.goes_on()


@every_option
@each_module
def test_functions_refuse_wrong_options(optimizer: type[fo.Optimizer], option: str, module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for value, error, part in wrong_for(optimizer, option):
        with buffers.refuses(error, f"{option}{part}: expected "):
            buffers.update(module, **{option: value})


# What the interface promises, whatever the classes' annotations say.
PROMISED: list[tuple[str, Any]] = [
    *(("lr", value) for value in (-1e-9, math.nan, math.inf)),
    *(("betas", value) for value in ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, -0.1), (math.nan, 0.9), (0.9, 1.5))),
    *((name, value) for name in ("eps", "eps_root", "weight_decay", "lr_decay") for value in (-1e-12, math.nan)),
    *((name, value) for name in ("momentum", "dampening") for value in (-0.1, 1.1, math.nan)),
    *(("alpha", value) for value in (-0.1, 1.0, math.nan)),
    ("initial_accumulator_value", -0.1),
    ("form", "polyak"),
]


@pytest.mark.parametrize(("option", "value"), PROMISED, ids=str)
def test_the_promised_ranges(option: str, value: Any) -> None:
    takers = [cls for cls in OPTIMIZERS if option in cls.defaults]
    assert takers
    for optimizer in takers:
        with pytest.raises(ValueError, match=option):
            optimizer(np.ones(2), **{option: value})


@every_optimizer
def test_a_number_beyond_every_float(optimizer: type[fo.Optimizer]) -> None:
    with pytest.raises(ValueError, match=r"^lr: expected "):
        optimizer(np.ones(2), lr=10**400)


@every_optimizer
@each_backend
@pytest.mark.parametrize("option", ["learning_rate", "beta1", "params_", "foreach"])
def test_an_unknown_option(optimizer: type[fo.Optimizer], backend: Backend, option: str) -> None:
    model = Model(optimizer, backend, grouped=True)
    with model.refuses(TypeError, option):
        optimizer(model.array((2,)), backend=backend, **{option: 1e-3})
    with model.refuses(TypeError, f"params[1]: {option}: not an option of ", "'lr'"):
        optimizer([{"params": model.array((2,))}, {"params": model.array((2,)), option: 1e-3}], backend=backend)
    model.opt.param_groups[1][option] = 1e-3
    with model.refuses(TypeError, f"param_groups[1]: {option}: not an option of "):
        model.step()
    del model.opt.param_groups[1][option]
    del model._twin.opt.param_groups[1][option]
    model.goes_on()


@every_optimizer
@pytest.mark.parametrize("backend", ["cuda", "", None, "Native", 1])
def test_an_unknown_backend(optimizer: type[fo.Optimizer], backend: Any) -> None:
    with pytest.raises(ValueError, match=r"^backend: expected one of \['native', 'reference'\], got "):
        optimizer(np.ones(2), backend=backend)


@each_backend
def test_options_that_exclude_each_other(backend: Backend) -> None:
    """SGD's Nesterov step, as in PyTorch."""
    p = np.ones(2)
    combinations: list[dict[str, Any]] = [{}, {"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}]
    for options in combinations:
        with pytest.raises(ValueError, match="nesterov: expected momentum > 0 and dampening 0"):
            fo.SGD(p, nesterov=True, backend=backend, **options)
    with pytest.raises(ValueError, match=re.escape("params[1]: nesterov: ")):
        fo.SGD([{"params": p}, {"params": np.ones(2), "nesterov": True}], backend=backend)
    opt = fo.SGD([{"params": p}, {"params": np.ones(2), "momentum": 0.9}], backend=backend)
    opt.param_groups[1].update(nesterov=True, dampening=0.5)
    with pytest.raises(ValueError, match=re.escape("param_groups[1]: nesterov: ")):
        opt.step([np.ones(2), np.ones(2)])
    assert p.tolist() == [1, 1]


# ---- learning rates that are functions


class RateError(Exception):
    pass


def failing_rate(step: int) -> float:
    raise RateError(f"no rate for step {step}")


RATES: list[tuple[Callable[[int], Any], Refusal, str]] = [
    (lambda _: math.nan, ValueError, "got nan"),
    (lambda _: math.inf, ValueError, "got inf"),
    (lambda _: -1e-9, ValueError, "got -1e-09"),
    (lambda _: None, TypeError, "got None"),
    (lambda _: "0.1", TypeError, "got '0.1'"),
    (lambda _: True, TypeError, "got True"),
    (lambda _: np.ones(2), TypeError, "got array"),
    (lambda step: lambda _: step, TypeError, "got <function"),
]


@every_optimizer
@each_backend
@pytest.mark.parametrize(("rate", "error", "got"), RATES, ids=[got for _, _, got in RATES])
def test_a_function_that_gives_no_learning_rate(
    optimizer: type[fo.Optimizer], backend: Backend, rate: Callable[[int], Any], error: Refusal, got: str
) -> None:
    model = Model(optimizer, backend, grouped=True)
    model.opt.param_groups[1]["lr"] = rate
    with model.refuses(error, "param_groups[1]['lr'] at step 1: expected a number >= 0", got):
        model.step()


@every_optimizer
@each_backend
def test_a_function_that_raises(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend, grouped=True)
    model.opt.param_groups[1]["lr"] = failing_rate
    with model.refuses(RateError, "no rate for step 1"):
        model.step()
    good = model.opt.param_groups[0]["lr"]
    model.opt.param_groups[1]["lr"] = model._twin.opt.param_groups[1]["lr"] = good
    model.goes_on()


# ---- one update on the caller's buffers


class Buffers(Memory):
    """A parameter, its gradient and its state, as a caller of ``fo.functional`` keeps them."""

    def __init__(self, optimizer: type[fo.Optimizer]) -> None:
        super().__init__()
        self.case: Case = WIDEST[optimizer]
        self.p, self.g = self.array((2, 3)), self.array((2, 3))
        self.state = {name: self.array((2, 3)) for name in self.case.state}

    def update(self, module: ModuleType, /, **changed: Any) -> None:
        """One update with some of the arrays, the step or options changed."""
        arrays: dict[str, Any] = {"p": self.p, "g": self.g, **self.state}
        arrays.update({name: changed.pop(name) for name in arrays if name in changed})
        p, g, *state = arrays.values()
        options: Mapping[str, Any] = {**self.case.options, "step": 1, **changed}
        getattr(module, self.case.optimizer.name)(p, g, *state, **options)


@every_optimizer
@each_module
def test_functions_refuse_what_is_no_array(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("p", "g", *buffers.state):
        for thing, got in NO_ARRAYS:
            with buffers.refuses(TypeError, f"{name}: expected a NumPy array", got):
                buffers.update(module, **{name: thing})


@every_optimizer
@each_module
def test_functions_refuse_wrong_dtypes(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("p", "g", *buffers.state):
        for dtype in ODD_DTYPES:
            with buffers.refuses(TypeError, f"{name}: expected dtype float64, float32", repr(dtype)):
                buffers.update(module, **{name: of_dtype(dtype)})


@every_optimizer
@each_module
def test_functions_refuse_state_of_another_compute_type(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in buffers.state:
        for dtype in (np.float64, np.float16, ml_dtypes.bfloat16):
            with buffers.refuses(
                TypeError, f"{name}: expected float32 beside a float32 parameter", np.dtype(dtype).name
            ):
                buffers.update(module, **{name: of_dtype(np.dtype(dtype))})


@every_optimizer
@each_module
def test_functions_refuse_wrong_shapes(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("g", *buffers.state):
        for shape in WRONG_SHAPES:
            with buffers.refuses(ValueError, f"{name}: expected shape (2, 3)", f"got {shape}"):
                buffers.update(module, **{name: np.ones(shape, np.float32)})


@every_optimizer
@each_module
def test_functions_refuse_what_they_cannot_write(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("p", *buffers.state):
        locked = buffers.array((2, 3))
        locked.flags.writeable = False
        with buffers.refuses(ValueError, f"{name}: expected a writeable array"):
            buffers.update(module, **{name: locked})
        with buffers.refuses(ValueError, f"{name}: expected a dense array"):
            buffers.update(module, **{name: buffers.array((2, 6))[:, ::2]})
    for name in buffers.state:
        with buffers.refuses(ValueError, f"{name}: expected the parameter's memory order"):
            buffers.update(module, **{name: buffers.array((3, 2)).T})


@every_optimizer
@each_module
def test_functions_refuse_memory_in_common(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    written = {"p": buffers.p, **buffers.state}
    for name, array in written.items():
        for offset in (0, 4, -4, 23):
            with buffers.refuses(ValueError, "g: overlaps ", name):
                buffers.update(module, g=buffers.near(array, offset))
            for other in buffers.state:
                if other != name:
                    with buffers.refuses(ValueError, name, other):
                        buffers.update(module, **{other: buffers.near(array, offset)})


@every_optimizer
@each_module
def test_functions_refuse_a_wrong_number_of_state_arrays(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    update = getattr(module, optimizer.name)
    options = buffers.case.options
    needed = list(buffers.case.state)
    for count in range(len(optimizer.state) + 3):
        if count not in (len(needed), len(optimizer.state)):
            state = [buffers.array((2, 3)) for _ in range(count)]
            with buffers.refuses(TypeError, f"expected the state arrays {needed}, got {count} arrays"):
                update(buffers.p, buffers.g, *state, step=1, **options)


@every_optimizer
@each_module
def test_functions_refuse_a_wrong_step(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for step in (0, -1, -(2**70), np.int64(0)):
        with buffers.refuses(ValueError, "step: expected an integer >= 1, got"):
            buffers.update(module, step=step)
    for nonsense in (1.0, np.float64(1), True, None, "1", [1], math.nan):
        with buffers.refuses(TypeError, "step: expected an integer >= 1, got"):
            buffers.update(module, step=nonsense)


@every_optimizer
@each_module
def test_functions_need_a_step(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    with buffers.refuses(TypeError, "step"):
        getattr(module, optimizer.name)(buffers.p, buffers.g, *buffers.state.values())


@every_optimizer
@each_module
@pytest.mark.parametrize("option", ["learning_rate", "backend", "params", "t"])
def test_functions_refuse_unknown_options(optimizer: type[fo.Optimizer], module: ModuleType, option: str) -> None:
    buffers = Buffers(optimizer)
    with buffers.refuses(TypeError, f"{option}: not an option of ", "'lr'"):
        buffers.update(module, **{option: 1})


@without_cuda
@every_optimizer
@each_module
def test_functions_refuse_cuda_arrays_without_a_cuda_build(optimizer: type[fo.Optimizer], module: ModuleType) -> None:
    buffers = Buffers(optimizer)
    for name in ("p", "g", *buffers.state):
        with buffers.refuses(RuntimeError, f"{name}: ", "CUDA", "FakeCuda"):
            buffers.update(module, **{name: FakeCuda()})


# ---- state dicts

Spoil = Callable[[dict[str, Any]], Any]


def top(key: str, value: Any) -> Spoil:
    return lambda d: d.update({key: value})


def option(key: str, value: Any) -> Spoil:
    return lambda d: d["groups"][0].update({key: value})


def entry(key: str, value: Any, index: int = -1) -> Spoil:
    return lambda d: d["arrays"][index].update({key: value})


def removal(key: str, within: str = "") -> Spoil:
    return lambda d: (d[within][-1] if within else d).pop(key)


def exchange_places(d: dict[str, Any]) -> None:
    first, *_, last = d["arrays"]
    first["place"], last["place"] = last["place"], first["place"]


STEPS: list[Any] = [-1, 1.5, "3", None, True, math.nan, [3]]
LISTS: list[Any] = [None, [], {}, 1, "abc", [None], [[], [], []]]
RATES_SAVED: list[Any] = [math.nan, -1.0, None, "0.1", math.inf, [0.1]]
NO_STATES: list[Any] = [None, [], 1, {"no such": None}]
PLACES: list[Any] = ["['w3']", "", None, 2, ["w2"]]
SAVED_SHAPES: list[Any] = [[3, 2], [6], [], [2, 3, 1], None, 6, "23", [2.5, 3], [[2, 3]]]

SPOILED: dict[str, Spoil] = {
    **{f"without {key}": removal(key) for key in ("version", "optimizer", "step_count", "groups", "arrays")},
    "version later": lambda d: d.update(version=d["version"] + 1),
    "version None": top("version", None),
    "optimizer other": top("optimizer", "no such optimizer"),
    "optimizer None": top("optimizer", None),
    **{f"step_count {value}": top("step_count", value) for value in STEPS},
    "step_count below an array's": top("step_count", 0),
    **{f"groups {value}": top("groups", value) for value in LISTS},
    "groups twice": lambda d: d.update(groups=d["groups"] * 2),
    "option unknown": option("learning_rate", 1e-3),
    "option missing": lambda d: d["groups"][0].pop("weight_decay"),
    **{f"lr {value}": option("lr", value) for value in RATES_SAVED},
    "maximize 1": option("maximize", 1),
    **{f"arrays {value}": top("arrays", value) for value in LISTS},
    "arrays fewer": lambda d: d["arrays"].pop(),
    "arrays more": lambda d: d["arrays"].append(d["arrays"][-1]),
    "arrays twice the same": lambda d: d["arrays"].__setitem__(-1, d["arrays"][0]),
    "places exchanged": exchange_places,
    **{f"an array without {key}": removal(key, "arrays") for key in ("place", "dtype", "shape", "steps", "state")},
    **{f"place {value}": entry("place", value) for value in PLACES},
    **{f"dtype {value}": entry("dtype", value) for value in ("float64", "float16", None, 32)},
    **{f"shape {value}": entry("shape", value) for value in SAVED_SHAPES},
    **{f"steps {value}": entry("steps", value) for value in [*STEPS, 10**6]},
    **{f"state {value}": entry("state", value) for value in NO_STATES},
}

SPOILED_STATE: list[Callable[[Array], Any]] = [
    lambda a: a[:1],
    lambda a: a.reshape(-1),
    lambda a: a.T,
    lambda a: a[None],
    lambda a: 0.0,
    lambda a: np.zeros((), np.float32),
    lambda a: a[:0],
    lambda a: a.astype(np.float64),
    lambda a: a.astype(np.float16),
    lambda a: a.astype(np.int32),
    lambda a: a.astype(object),
    lambda a: a.astype(a.dtype.newbyteorder()),
    lambda a: a.tolist(),
    lambda a: None,
    lambda a: a.tobytes(),
]


@every_optimizer
@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_state_dict(optimizer: type[fo.Optimizer], kind: str) -> None:
    model = Model(optimizer, "native")
    spoiled = state_dict_of_another(optimizer)
    SPOILED[kind](spoiled)
    with model.refuses(ValueError, "state"):
        model.opt.load_state_dict(spoiled)
    model.goes_on()


@every_optimizer
@each_backend
def test_a_spoiled_array_of_a_state_dict(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    for name in WIDEST[optimizer].state:
        for spoil in SPOILED_STATE:
            spoiled = state_dict_of_another(optimizer)
            state = spoiled["arrays"][-1]["state"]
            state[name] = spoil(state[name])
            with model.refuses(ValueError, f"params['w2']: expected {name!r} as float32 of shape (2, 3)"):
                model.opt.load_state_dict(spoiled)
        model.goes_on()


def state_dict_of_another(optimizer: type[fo.Optimizer]) -> dict[str, Any]:
    """One that would load, from an optimizer with other state and another learning rate."""
    state_dict: dict[str, Any] = copy.deepcopy(_state_dict_of_another(optimizer.name))
    return state_dict


@cache
def _state_dict_of_another(name: str) -> dict[str, Any]:
    other = Model(fo.OPTIMIZERS[name], "native")
    other.opt.lr = 0.125
    for _ in range(3):
        other.step()
    state_dict: dict[str, Any] = other.opt.state_dict()
    return state_dict


@every_optimizer
@each_backend
def test_the_state_dict_before_it_is_spoiled_loads(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    """Or none of the refusals above would show anything."""
    model = Model(optimizer, backend)
    model.opt.load_state_dict(state_dict_of_another(optimizer))
    assert model.opt.step_count == 4
    assert model.opt.lr == 0.125


@every_optimizer
@each_backend
def test_a_state_dict_without_an_array_s_state(optimizer: type[fo.Optimizer], backend: Backend) -> None:
    model = Model(optimizer, backend)
    for name in WIDEST[optimizer].state:
        spoiled = state_dict_of_another(optimizer)
        del spoiled["arrays"][-1]["state"][name]
        with model.refuses(ValueError, "state of params['w2']", f"{name!r}"):
            model.opt.load_state_dict(spoiled)


@every_optimizer
@pytest.mark.parametrize("thing", [None, [], 1, "state", np.ones(2)], ids=lambda thing: type(thing).__name__)
def test_a_state_dict_that_is_none(optimizer: type[fo.Optimizer], thing: Any) -> None:
    model = Model(optimizer, "native")
    with model.refuses(TypeError, "state_dict: expected a dict, got "):
        model.opt.load_state_dict(thing)
    model.goes_on()


@every_optimizer
def test_a_state_dict_of_another_optimizer(optimizer: type[fo.Optimizer]) -> None:
    model = Model(optimizer, "native")
    for other in OPTIMIZERS:
        if other is not optimizer:
            with model.refuses(ValueError, "state_dict['optimizer']", repr(optimizer.name), repr(other.name)):
                model.opt.load_state_dict(state_dict_of_another(other))
    model.goes_on()


@every_optimizer
def test_a_state_dict_of_other_parameters(optimizer: type[fo.Optimizer]) -> None:
    model = Model(optimizer, "native")
    good = dict(model.params)
    others: list[tuple[Any, str]] = [
        (list(good.values()), "['w0']"),
        ({k: good[k] for k in ("w0", "w1")}, "list of 3"),
        ([{"params": good}], "['w0']"),
        ({**good, "w2": np.ones((3, 2), np.float32)}, "3, 2"),
        ({**good, "w2": np.ones((2, 3))}, "float64"),
        ({**good, "w2": np.ones((2, 3), ml_dtypes.bfloat16)}, "bfloat16"),
    ]
    for params, word in others:
        dump = WIDEST[optimizer].optimize(params).state_dict()
        with model.refuses(ValueError, "state", word):
            model.opt.load_state_dict(dump)
    model.goes_on()
