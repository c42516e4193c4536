"""Spoiled checkpoints: each is rejected with ValueError, and nothing has changed, or it is loaded and the model steps.

The changes are chosen by bytes, so that `tests/fuzz.py` draws them and `tests/fuzz_atheris.py` searches them.  Most
change the document or an array and write a digest that fits; the digest would reject nearly all others.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import fastoptim as fo
from cases import FLOAT32, FLOAT64, Array
from fastoptim.files import document, safetensors
from step_histories import assert_same

VALUES: list[Any] = [
    *[None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63 - 1, 2**63, 10**400, 0.5, 1.0, -0.0, 1e-300, 1e308, ""],
    *["none", "adam", "native", "float64", "é\ud800", [], {}, [[]], {"$tuple": []}, {"$tuple": 1}, {"$dict": [[1, 2]]}],
    *[{"$float": text} for text in ("nan", "inf", "-inf", "x")],
    *[{"$array": name} for name in ("params.0", "x")],
]
DTYPES = [FLOAT64, FLOAT32, np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.int64), np.dtype(bool)]
MOST_MEMORY = 1 << 20  # bytes; the files have some thousand


class Choices:
    """Numbers that bytes choose; zeros where these end."""

    def __init__(self, data: bytes) -> None:
        self.data = iter(data)

    def below(self, end: int) -> int:
        number = next(self.data, 0)
        if end > 256:
            number = 256 * number + next(self.data, 0)
        return number % max(end, 1)

    def of(self, values: Any) -> Any:
        return values[self.below(len(values))]


def model(dtype: Any) -> list[Array]:
    return [np.linspace(-1, 1, 6).reshape(2, 3).astype(dtype), np.array(0.5, dtype), np.zeros((0, 2), dtype)]


def grouped(dtype: Any) -> Any:
    return [{"params": model(dtype), "name": "first"}, {"params": {"b": np.ones(3, dtype)}, "lr": 0.3}]


MODELS: list[Callable[[Any], fo.Optimizer]] = [
    lambda backend: fo.Adam(model(np.float32), amsgrad=True, ema=0.9, backend=backend),
    lambda backend: fo.SGD(grouped(np.float64), momentum=0.9, swa_start=2, backend=backend),
    lambda backend: fo.Prodigy(model(ml_dtypes.bfloat16), backend=backend),
    lambda backend: fo.ScheduleFreeAdamW(model(np.float16), weight_decay=0.1, backend=backend),
    lambda backend: fo.LAMB(grouped(np.float32), clip_global_norm=1.0, grad_scale=4.0, backend=backend),
    lambda backend: fo.Momentum(model(np.float32), lr=fo.schedules.ReduceOnPlateau(0.1), backend=backend),
]


class Sample(NamedTuple):
    """A checkpoint, and its parts."""

    contents: bytes
    text: str
    arrays: dict[str, Array]


@cache
def samples() -> list[Sample]:
    made = []
    for make in MODELS:
        opt = make("native")
        for _ in range(3):
            opt.step(grads_of(opt))
        text, arrays = document.pack({"params": opt.params, "optimizer": opt.state_dict(), "epoch": 3})
        made.append(Sample(written(text, arrays), text, arrays))
    return made


def grads_of(opt: Any) -> Any:
    return opt._structure.build(iter([np.full(param.p.shape, 0.25, np.float32) for param in opt.param_states]))


def written(text: str, arrays: dict[str, Array]) -> bytes:
    """Return a file with these contents and their digest."""
    parts: list[bytes] = []

    class Collector:
        write = staticmethod(lambda data: parts.append(bytes(data)))

    digest = document._digest(text, arrays)
    metadata = {"format": "fastoptim", "version": document.VERSION, "document": text, "sha256": digest}
    safetensors.write(Collector, arrays, metadata, "")  # type: ignore[arg-type]
    return b"".join(parts)


# ---- changes


def spoiled_bytes(choices: Choices, contents: bytes) -> bytes:
    spoiled = bytearray(contents)
    for _ in range(1 + choices.below(3)):
        at, length = choices.below(len(spoiled)), 1 + choices.below(16)
        match choices.below(4):
            case 0:
                spoiled[at : at + 1] = bytes([choices.below(256)])
            case 1:
                del spoiled[at : at + length]
            case 2:
                spoiled[at:at] = spoiled[:length]
            case 3:
                del spoiled[at:]
    return bytes(spoiled)


def spoiled_parts(choices: Choices, sample: Sample) -> bytes:
    tree, arrays = json.loads(sample.text), dict(sample.arrays)
    for _ in range(1 + choices.below(4)):
        if choices.below(4) == 0:
            spoil_array(choices, arrays)
        else:
            spoil_node(choices, tree)
    return written(json.dumps(tree), arrays)


def spoil_array(choices: Choices, arrays: dict[str, Array]) -> None:
    name = choices.of(sorted(arrays))
    array = arrays[name]
    match choices.below(5):
        case 0:
            changed = bytearray(array.tobytes())
            if changed:
                changed[choices.below(len(changed))] = choices.below(256)
            arrays[name] = np.frombuffer(bytes(changed), array.dtype).reshape(array.shape)
        case 1:
            with np.errstate(all="ignore"):
                arrays[name] = array.astype(choices.of(DTYPES))
        case 2:
            arrays[name] = array[..., None] if array.ndim < 60 else array
        case 3:
            arrays[name] = arrays[choices.of(sorted(arrays))]
        case 4:
            arrays[name] = np.zeros(choices.of([(0,), (2, 3), (0, 2), (7,)]), array.dtype)


def nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Return each entry of a nesting, as its container and key."""
    found: list[tuple[Any, Any]] = []
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        found.append((tree, key))
        if isinstance(value, (dict, list)):
            found += nodes(value)
    return found


def spoil_node(choices: Choices, tree: Any) -> None:
    if not (all_nodes := nodes(tree)):
        return
    container, key = choices.of(all_nodes)
    match choices.below(5):
        case 0:
            del container[key]
        case 1:
            other, name = choices.of(all_nodes)
            container[key] = json.loads(json.dumps(other[name] if name in other or isinstance(other, list) else None))
        case 2 if isinstance(container, list):
            container.insert(key, container[key])
        case 2:
            container[f"{key}'"] = container[key]
        case _:
            container[key] = deepcopy(choices.of(VALUES))  # a later change must not reach VALUES, nor close a circle


# ---- what must hold


def check_file(data: bytes, path: Path) -> int:
    """Check the file that the bytes choose; return whether it was loaded."""
    choices = Choices(data)
    which = choices.below(len(MODELS))
    sample = samples()[which]
    contents = spoiled_bytes(choices, sample.contents) if choices.below(4) == 0 else spoiled_parts(choices, sample)
    path.write_bytes(contents)
    twins = [MODELS[which](backend) for backend in ("native", "reference")]
    convert = choices.below(4) == 0
    said = [load_and_step(opt, path, convert) for opt in twins]
    assert said[0] == said[1], said
    native, reference = map(everything, twins)
    assert_same(native, reference)
    return not said[0]


def load_and_step(opt: Any, path: Path, convert: bool) -> str:
    """Return the error of a file that is rejected."""
    before = everything(opt)
    tracemalloc.start()
    try:
        fo.load(path, params=opt.params, optimizer=opt)
        if convert:
            opt.load(path, convert=True)
    except ValueError as error:
        assert_same(everything(opt), before, "rejected")
        return str(error)
    finally:
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
        tracemalloc.stop()
    # on_nonfinite="raise", with a loss scale so small that a gradient overflows
    with np.errstate(all="ignore"), suppress(FloatingPointError):
        opt.step(grads_of(opt))
    opt.state_dict()
    return ""


def everything(opt: Any) -> list[Any]:
    state = [{name: array.copy() for name, array in param.state.items()} for param in opt.param_states]
    options = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in opt.param_groups]
    rates = [repr(group["lr"]) if callable(group["lr"]) else group["lr"] for group in opt.param_groups]
    return [[param.p.copy() for param in opt.param_states], state, options, rates, opt.step_count, opt._missed]
