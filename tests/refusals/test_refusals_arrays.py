"""Refusals of parameters and gradients: their dtypes, structure, shape, layout, and memory in common."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import fastoptim as fo
from cases import FLOAT32, Array
from loops import loop
from models import (
    LAST,
    NO_ARRAYS,
    ODD_DTYPES,
    OPTIMIZERS,
    SHAPES,
    WIDEST,
    WRONG_SHAPES,
    Backend,
    FakeCuda,
    Make,
    Memory,
    Model,
    each_backend,
    each_grouped_model,
    each_make,
    each_model,
    name_of,
    of_dtype,
    without_cuda,
)

# ---- arrays that are none, or of a wrong dtype


class FakeCpuTensor:
    """A PyTorch tensor on the CPU: its class has the attribute, reading it says that there is none."""

    shape, dtype = SHAPES[LAST], FLOAT32

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        raise AttributeError("Can't get __cuda_array_interface__ on non-CUDA tensor type")


@each_model
def test_a_gradient_that_is_no_array(model: Model) -> None:
    for thing, got in NO_ARRAYS:
        with model.refuses(TypeError, "grads['w2']: expected a NumPy array", got):
            model.step(w2=thing)


@each_model
@loop("container", [[[1.0] * 3] * 2, (1.0, 2.0), {"a": 1.0}, []])
def test_a_container_in_the_place_of_a_gradient(model: Model, container: Any) -> None:
    with model.refuses(TypeError, "grads['w2']: expected a NumPy array, got a " + type(container).__name__):
        model.step(w2=container)


@each_make
def test_a_parameter_that_is_no_array(make: Make) -> None:
    memory = Memory()
    first, second = memory.array((2,)), memory.array((2,))
    for thing, got in NO_ARRAYS:
        with memory.refuses(TypeError, "params['w'][1]: expected a NumPy array", got):
            make({"v": first, "w": [second, thing]})


@each_make
@loop("thing", [None, np.float32(1), 1.0])
def test_parameters_that_are_no_array(make: Make, thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^params: expected a NumPy array, got \w"):
        make(thing)


@each_make
@loop("nothing", [[], {}, (), {"a": [], "b": {}}, [{"params": []}]])
def test_parameters_without_an_array(make: Make, nothing: Any) -> None:
    with pytest.raises(ValueError, match=r"^params: expected at least one array, got none"):
        make(nothing)


@each_model
def test_a_gradient_of_a_wrong_dtype(model: Model) -> None:
    for dtype in ODD_DTYPES:
        with model.refuses(TypeError, "grads['w2']: expected dtype float64, float32, float16 or bfloat16", repr(dtype)):
            model.step(w2=of_dtype(dtype))


@each_make
def test_a_parameter_of_a_wrong_dtype(make: Make) -> None:
    memory = Memory()
    first = memory.array((2,))
    for dtype in ODD_DTYPES:
        with memory.refuses(TypeError, "params[1]: expected dtype float64, float32, float16 or bfloat16", repr(dtype)):
            make([first, of_dtype(dtype)])


@each_model
def test_a_tensor_on_the_cpu_is_no_cuda_array(model: Model) -> None:
    with model.refuses(TypeError, "grads['w2']: expected a NumPy array", "FakeCpuTensor"):
        model.step(w2=FakeCpuTensor())
    with model.refuses(TypeError, "params['b']: expected a NumPy array", "FakeCpuTensor"):
        model.make({"a": model.array((2,)), "b": FakeCpuTensor()})


@without_cuda
@each_model
def test_cuda_arrays_without_a_cuda_build(model: Model) -> None:
    with model.refuses(RuntimeError, "grads['w2']", "CUDA", "FakeCuda"):
        model.step(w2=FakeCuda())
    model.assert_continues()
    with model.refuses(RuntimeError, "params['b']", "CUDA", "FakeCuda"):
        model.make({"a": model.array((2,)), "b": FakeCuda()})


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


@each_model
@loop("kind", STRUCTURES)
def test_gradients_of_another_structure(model: Model, kind: str) -> None:
    change, words = STRUCTURES[kind]
    with model.refuses(TypeError, *words):
        model.opt.step(change(model.grads))


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


@each_make
@loop("kind", NESTED)
def test_gradients_of_another_nesting(make: Make, kind: str) -> None:
    tree, words = NESTED[kind]
    memory = Memory()
    opt = make(plant({"a": [0, (1, 2)], "b": {"c": 3}}, [memory.array((2,)) for _ in range(4)]))
    with memory.refuses(TypeError, *words):
        opt.step(plant(tree, [memory.array((2,)) for _ in range(5)]))
    assert opt.step_count == 0


@each_grouped_model
def test_gradients_of_groups_name_the_group(model: Model) -> None:
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


# ---- shape and layout


@each_model
def test_a_gradient_of_a_wrong_shape(model: Model) -> None:
    for shape in WRONG_SHAPES:
        with model.refuses(ValueError, "grads['w2']: expected shape (2, 3)", f"got {shape}"):
            model.step(w2=np.ones(shape, np.float32))


@each_make
def test_a_gradient_for_an_array_without_dimensions_or_elements(make: Make) -> None:
    memory = Memory()
    opt = make([memory.array(()), memory.array((0, 3))])
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


@each_make
@loop("kind", GAPPED)
def test_a_parameter_that_is_not_dense(make: Make, kind: str) -> None:
    memory = Memory()
    p = GAPPED[kind](memory.array((4, 4)))
    words = ["expected a dense array", f"got shape {p.shape} with strides {p.strides}"]
    with memory.refuses(ValueError, "params['b']: ", *words):
        make({"a": memory.array((2,)), "b": p})
    with memory.refuses(ValueError, "params[1]['params']['b']: ", *words):
        make([{"params": memory.array((2,))}, {"params": {"b": p}}])


@each_make
def test_a_read_only_parameter(make: Make) -> None:
    memory = Memory()
    locked = memory.array((3,))
    locked.flags.writeable = False
    with memory.refuses(ValueError, "params['b']: expected a writeable array, got a read-only one"):
        make({"a": memory.array((2,)), "b": locked})
    with memory.refuses(ValueError, "params: expected a writeable array"):
        make(np.frombuffer(bytes(8), np.float32))


@each_model
def test_a_parameter_made_read_only_later(model: Model) -> None:
    model.params["w2"].flags.writeable = False
    with model.refuses(ValueError, "params['w2']: expected a writeable array, got a read-only one"):
        model.step()
    model.params["w2"].flags.writeable = True


@each_model
def test_locking_what_shows_the_state_locks_nothing(model: Model) -> None:
    free = copy.deepcopy(model)
    for array in model.state_arrays():
        array.flags.writeable = False
    model.step()
    free.step()
    model.opt.load_state_dict(free.opt.state_dict())
    model.step()
    free.step()
    assert [p.tobytes() for p in model.params.values()] == [p.tobytes() for p in free.params.values()]
    assert [s.tobytes() for s in model.state_arrays()] == [s.tobytes() for s in free.state_arrays()]


@pytest.mark.parametrize("optimizer", [cls for cls in OPTIMIZERS if cls.state], ids=name_of)
@each_backend
@loop("shape", [(3, 2), (6,), (1, 2, 3)])
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
for name, options in eval(sys.argv[2]).items():
    print(name, flush=True)
    for size, grad_size in [(n, g) for n in (2, 990, 1100, 50000) for g in (n, 1000)]:
        first, p = np.ones(4, np.float32), np.ones(1000, np.float32)
        opt = fo.OPTIMIZERS[name]([first, p], backend=sys.argv[1], **options)
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


@loop("backend", ["native", "reference"])
def test_a_parameter_resized_in_place_later(backend: str) -> None:
    """The memory that the optimizer knew is gone, or another's: a process of its own, which may well break."""
    options = {cls.name: WIDEST[cls].options for cls in OPTIMIZERS if WIDEST[cls].state}
    command = [sys.executable, "-c", RESIZES, backend, repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout.split()[-1] + done.stderr


def set_shape(array: Array, shape: tuple[int, ...]) -> None:
    """In place, which NumPy deprecates; users of older ones do it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = shape


# ---- memory in common


@each_make
@loop(
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
)
def test_parameters_with_memory_in_common(make: Make, trees: Callable[[Array], Any], places: list[str]) -> None:
    memory = Memory()
    with memory.refuses(ValueError, *places):
        make(trees(memory.array((4, 4))))


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


@each_model
@loop("kind", SHARED)
def test_a_gradient_in_the_memory_of_parameters(model: Model, kind: str) -> None:
    owner = "w0" if kind.startswith("another") else "w2"
    with model.refuses(ValueError, "grads['w2']: overlaps", f"params[{owner!r}]"):
        model.step(w2=SHARED[kind](model))


@each_model
def test_a_gradient_in_the_memory_of_state(model: Model) -> None:
    p = model.params["w2"]
    for name in (name for name in WIDEST[type(model.opt)].state if model.opt.state["w2"][name].shape == p.shape):
        with model.refuses(ValueError, f"grads['w2']: overlaps state['w2'][{name!r}]"):
            model.step(w2=model.opt.state["w2"][name])
        with model.refuses(ValueError, f"grads['w2']: overlaps state['w0'][{name!r}]"):
            model.step(w2=model.opt.state["w0"][name].reshape(-1)[3:9].reshape(2, 3))
        model.assert_continues()


@each_model
def test_a_gradient_in_the_memory_of_a_parameter_that_stays(model: Model) -> None:
    """A step without that parameter's gradient reads it only, but the rule is one for all steps."""
    with model.refuses(ValueError, "grads['w2']: overlaps params['w0']"):
        model.step(w2=SHARED["another"](model), w0=None)


@each_model
def test_gradients_may_share_memory_with_each_other(model: Model) -> None:
    expected = copy.deepcopy(model)
    everywhere = np.full(12, 0.75, np.float32)
    model.step(w0=everywhere.reshape(3, 4), w1=everywhere[:5], w2=np.broadcast_to(everywhere[:1], (2, 3)))
    expected.step(**{key: np.full(shape, 0.75, np.float32) for key, shape in SHAPES.items()})
    assert {k: p.tobytes() for k, p in model.params.items()} == {k: p.tobytes() for k, p in expected.params.items()}


@each_make
def test_a_gradient_may_lie_around_a_parameter(make: Make) -> None:
    """Its ends are on either side, but no element is the parameter's."""
    rows = np.ones((3, 4), np.float32)
    p, g = rows[1], as_strided(rows, (2, 2), (32, 8))
    opt = make([p, np.ones((2, 2), np.float32)])
    opt.step([np.ones(4, np.float32), g])
    assert rows[[0, 2]].tobytes() == np.ones((2, 4), np.float32).tobytes()
    with pytest.raises(ValueError, match=re.escape("grads[1]: overlaps params[0]")):
        opt.step([np.ones(4, np.float32), as_strided(rows, (2, 2), (16, 8))])
