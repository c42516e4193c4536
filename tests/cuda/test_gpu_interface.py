"""Everything that an optimizer does, on arrays in a GPU's memory: the same bits as the reference on NumPy arrays.

Each test leads a pair of optimizers, one on the device and one by the reference on the CPU, through the same calls.
"""

from __future__ import annotations

import copy
import pickle
import re
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    CHECKOUT,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Array,
    Case,
    assert_same_bits,
    case_id,
)
from cases import ordinary_values as ordinary
from devices import IS_EMULATED, OPTIMIZERS, PLAIN_CASES, PREPARED_CASES, each_kind, get, put, with_device
from gpu_pairs import SHAPES, Pair, assert_same_leaves, model, pair_of, tree_of
from models import WIDEST, leaves, name_of, rate

every_widest_case = pytest.mark.parametrize("case", [WIDEST[cls] for cls in OPTIMIZERS], ids=case_id)


# ---- steps


@with_device
@pytest.mark.parametrize("case", PLAIN_CASES + PREPARED_CASES, ids=case_id)
def test_nestings_dtypes_orders_and_gradients_that_are_missing(xp: Any, case: Case) -> None:
    pair = pair_of(xp, case)
    for seed in range(1, 7):
        grads: list[Array | None] = list(model(seed))
        for i in range(seed % 3):
            grads[(seed + i) % len(grads)] = None
        pair.step(grads)
    pair.step([None] * len(SHAPES))
    pair.step(model(7))


@with_device
@each_kind
def test_groups_and_options_that_change(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    case = WIDEST[optimizer]
    arrays, grads = model(0), [model(seed) for seed in range(1, 6)]

    def grouped(values: Sequence[Any]) -> list[Any]:
        return [list(values[:2]), {"rest": tuple(values[2:])}]

    def make(values: Sequence[Any], backend: Any) -> Any:
        first, second = grouped(values)
        groups = [{"params": first, "lr": 0.5}, {"params": second, "weight_decay": 0.25}]
        return optimizer(groups, **case.options, backend=backend)

    there, here = make([put(xp, p) for p in arrays], "native"), make([p.copy(order="K") for p in arrays], "reference")
    for i, values in enumerate(grads):
        for opt in (there, here):
            opt.param_groups[1]["lr"] = 0.125 * i
            opt.param_groups[0]["maximize"] = bool(i % 2)
            if i == 2:
                opt.lr = rate
            if i == 3:
                opt.param_groups[0]["ema"] = 0.5
        there.step(grouped([put(xp, g) for g in values]))
        here.step(grouped(values))
        for p, wanted in zip(leaves((there.params, there.state)), leaves((here.params, here.state)), strict=True):
            pairs = [(p[k], wanted[k]) for k in p] if isinstance(p, dict) else [(p, wanted)]
            for array, expected in pairs:
                assert_same_bits(get(xp, array), expected)


@with_device
@each_kind
def test_gradients_in_another_order_or_strided(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    case = WIDEST[optimizer]
    rng = np.random.default_rng(0)
    p, g = (ordinary(rng, FLOAT32, 24).reshape(4, 6) for _ in range(2))
    there, here = case.optimize(put(xp, p)), case.optimize(p.copy(), "reference")
    wide = put(xp, np.repeat(g, 2, axis=1))
    for grad in (put(xp, np.asfortranarray(g)), wide[:, ::2], put(xp, g[::-1])[::-1]):
        there.step(grad)
        here.step(g)
        assert_same_bits(get(xp, there.params), here.params)


@with_device
def test_the_same_gradient_objects_with_other_numbers_and_formats(xp: Any) -> None:
    """Objects of the step before are not looked at again; others in their places are."""
    rng = np.random.default_rng(0)
    p = [ordinary(rng, FLOAT32, 30).reshape(5, 6) for _ in range(3)]
    grads = [[ordinary(rng, dtype, 30).reshape(5, 6) for _ in p] for dtype in (FLOAT32, FLOAT16, FLOAT32, FLOAT64)]
    there, here = fo.Adam([put(xp, a) for a in p]), fo.Adam([a.copy() for a in p], backend="reference")
    placed = [put(xp, g) for g in grads[0]]
    for step in range(4):
        for array, g in zip(placed, grads[0], strict=True):
            array[...] = xp.asarray(g * np.float32(step))
        there.step(placed)
        here.step([g * np.float32(step) for g in grads[0]])
    for values in grads:
        other = [placed[0], *(put(xp, g) for g in values[1:])]
        for _ in range(2):
            there.step(other)
            here.step([grads[0][0] * np.float32(3), *values[1:]])
    assert_same_leaves(xp, there.params, here.params)


@with_device
def test_a_refusal_forgets_nothing_of_what_it_saw(xp: Any) -> None:
    """The first of two gradients has a new format, the second is rejected."""
    there: Any = fo.Adam([put(xp, np.ones(3)), put(xp, np.ones(3))])
    here: Any = fo.Adam([np.ones(3), np.ones(3)])
    small = np.arange(3, dtype=np.float16)
    there.step([put(xp, np.ones(3)), put(xp, np.ones(3))])
    here.step([np.ones(3), np.ones(3)])
    with pytest.raises(ValueError, match=r"^grads\[1\]: expected shape"):
        there.step([put(xp, small), put(xp, np.ones(4))])
    for _ in range(2):
        there.step([put(xp, small), put(xp, np.ones(3))])
        here.step([small, np.ones(3)])
    assert_same_leaves(xp, there.params, here.params)


@with_device
def test_a_gradient_s_memory_is_free_after_the_step(xp: Any) -> None:
    opt = fo.SGD(put(xp, np.ones(5, np.float32)))
    for _ in range(3):
        grad = put(xp, np.ones(5, np.float32))
        opt.step(grad)
        gone = weakref.ref(grad)
        del grad
        assert gone() is None


@with_device
@pytest.mark.parametrize("optimizer", [fo.Adam, fo.LAMB, fo.Prodigy], ids=name_of)
def test_thousands_of_arrays(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    """More than the arguments of a launch have room for."""
    rng = np.random.default_rng(0)
    sizes = [int(size) for size in rng.integers(0, 40, 2500)]
    sizes[1000] = 70_000
    p = [ordinary(rng, FLOAT32, size) for size in sizes]
    there: Any = optimizer([put(xp, a) for a in p], clip_global_norm=1.0)
    here: Any = optimizer([a.copy() for a in p], clip_global_norm=1.0)  # native on the CPU, which equals the reference
    for step in range(3):
        grads: list[Array | None] = [ordinary(rng, FLOAT32, size) for size in sizes]
        if step:
            grads[17] = grads[2000] = None
        there.step([None if g is None else put(xp, g) for g in grads])
        here.step(grads)
    for i, (a, b) in enumerate(zip(there.params, here.params, strict=True)):
        assert_same_bits(get(xp, a), b, f"array {i}")


# ---- values shown in the parameters' place


@with_device
@pytest.mark.parametrize("options", [{"ema": 0.75}, {"swa_start": 2}], ids=str)
def test_averages(xp: Any, options: dict[str, Any]) -> None:
    pair = Pair(xp, lambda params, backend: fo.AdamW(params, **options, backend=backend), model(0))
    for seed in (1, 2, 3):
        pair.step(model(seed))
    with pair.there.averaged(), pair.here.averaged():
        assert_same_leaves(xp, pair.there.params, pair.here.params)
    pair.step(model(4))


@with_device
def test_the_look_ahead(xp: Any) -> None:
    pair = Pair(xp, lambda params, backend: fo.NAG(params, momentum=0.85, backend=backend), model(0))
    for seed in (1, 2, 3):
        with pair.there.lookahead(), pair.here.lookahead():
            assert_same_leaves(xp, pair.there.params, pair.here.params)
        pair.step(model(seed))


@with_device
@pytest.mark.parametrize("optimizer", [fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW], ids=name_of)
def test_train_and_eval(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    pair = Pair(xp, lambda params, backend: optimizer(params, backend=backend), model(0))
    for seed in (1, 2):
        pair.step(model(seed))
        for opt in pair.both():
            opt.eval()
        assert_same_leaves(xp, pair.there.params, pair.here.params)
        with pytest.raises(RuntimeError, match="eval: expected train"):
            pair.there.step(pair.onto(model(3)))
        for opt in pair.both():
            opt.train()
        pair.assert_same()


@with_device
def test_estimates_of_the_hessian(xp: Any) -> None:
    pair = Pair(xp, lambda params, backend: fo.Sophia(params, backend=backend), model(0))
    for seed in (1, 2):
        pair.there.update_hessian(pair.onto(model(seed + 10)))
        pair.here.update_hessian(tree_of(model(seed + 10)))
        pair.step(model(seed))


# ---- checkpoints and copies


@with_device
@every_widest_case
def test_a_checkpoint_continues_anywhere(xp: Any, case: Case) -> None:
    """On the device from the CPU's, on the CPU from the device's; and it is made of NumPy arrays."""
    pair = pair_of(xp, case)
    pair.step(model(1))
    pair.step([None, *model(2)[1:]])
    saved, wanted = pair.there.state_dict(), pair.here.state_dict()
    for entry, other in zip(saved["arrays"], wanted["arrays"], strict=True):
        assert {k: v for k, v in entry.items() if k != "state"} == {k: v for k, v in other.items() if k != "state"}
        for name, array in entry["state"].items():
            assert type(array) is np.ndarray
            assert_same_bits(array, other["state"][name])
    params = [get(xp, p) for p in leaves(pair.there.params)]
    other = Pair(xp, lambda params, backend: case.optimize(params, backend), params)
    other.there.load_state_dict(wanted)
    other.here.load_state_dict(saved)
    other.step(model(3))


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}


@with_device
@each_kind
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_continues_alone(xp: Any, optimizer: type[fo.Optimizer], make: Callable[[Any], Any]) -> None:
    pair = pair_of(xp, WIDEST[optimizer])
    pair.step(model(1))
    pair.there, original = make(pair.there), pair.there
    before = [get(xp, p) for p in leaves(original.params)]
    pair.step(model(2))
    for p, values in zip(leaves(original.params), before, strict=True):
        assert_same_bits(get(xp, p), values)


@with_device
def test_a_pickle_in_the_middle_of_eval_is_rejected(xp: Any) -> None:
    opt = fo.ScheduleFreeSGD(put(xp, np.ones(3)))
    opt.eval()
    with pytest.raises(RuntimeError, match="eval"):
        pickle.dumps(opt)


@with_device
def test_the_state_is_the_live_one(xp: Any) -> None:
    p = put(xp, np.ones(3, np.float32))
    opt: Any = fo.SGD(p, momentum=0.5, lr=1.0)
    opt.step(put(xp, np.ones(3, np.float32)))
    opt.state["b"][...] = 4.0
    opt.step(put(xp, np.zeros(3, np.float32)))
    assert get(xp, p).tolist() == [-2.0] * 3


@with_device
def test_repr(xp: Any) -> None:
    assert repr(fo.Adam(put(xp, np.ones((30, 50))))) == "<Adam of 1 arrays, 1,500 elements>"


# ---- norms and scales


@with_device
def test_global_norm(xp: Any) -> None:
    wide = np.asfortranarray(ordinary(np.random.default_rng(0), FLOAT32, 4000).reshape(80, 50))
    arrays: list[Array] = [*model(1), wide[::2]]
    there = [put(xp, array) for array in arrays[:-1]] + [put(xp, wide)[::2]]
    assert fo.global_norm(there) == fo.global_norm(arrays)
    assert fo.global_norm(there[-1]) == fo.global_norm(arrays[-1])
    assert fo.global_norm({"a": there[0], "b": None}) == fo.global_norm(arrays[0])
    assert fo.global_norm([put(xp, np.array([np.inf, 1.0]))]) == np.inf


@with_device
def test_a_loss_scale_and_steps_that_are_skipped(xp: Any) -> None:
    scalers = iter([fo.LossScaler(init_scale=1024.0, growth_interval=2) for _ in range(2)])
    made = []

    def make(params: Any, backend: Any) -> Any:
        made.append(next(scalers))
        return fo.Adam(params, grad_scale=made[-1].scale, skip_nonfinite=True, clip_global_norm=1.0, backend=backend)

    pair = Pair(xp, make, model(0, (FLOAT32, FLOAT16)))
    for seed in range(1, 7):
        grads = model(seed, (FLOAT32, FLOAT16))
        if seed in (2, 5):
            grads[3][1, 2] = np.nan if seed == 2 else np.inf
        taken = pair.step(grads)
        assert taken is (seed not in (2, 5))
        for scaler in made:
            scaler.update(taken)
        assert made[0].scale == made[1].scale


@with_device
@pytest.mark.parametrize("optimizer", [fo.SGD, fo.LAMB], ids=name_of)
def test_a_step_without_gradients_is_not_skipped(xp: Any, optimizer: type[fo.Optimizer]) -> None:
    pair = Pair(xp, lambda params, backend: optimizer(params, skip_nonfinite=True, backend=backend), model(0))
    nothing = [None] * len(model(0))
    assert pair.step(nothing)
    grads = model(1)
    grads[0][...] = np.nan
    assert not pair.step(grads)
    assert pair.step(nothing)


# ---- several devices


@pytest.fixture
def devices(xp: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of two devices."""
    if IS_EMULATED:
        monkeypatch.setenv("FASTOPTIM_EMULATED_DEVICES", "2")
    elif xp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    return [0, 1]


def put_on(xp: Any, device: int, array: Array) -> Any:
    with xp.cuda.Device(device):
        return put(xp, array)


@with_device
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (fo.Adam, {}),
        (fo.LAMB, {"clip_norm": 1.0}),
        (fo.Adam, {"clip_global_norm": 0.5}),
        (fo.AdamW, {"clip_norm": 2.0, "clip_global_norm": 0.5, "skip_nonfinite": True, "grad_scale": 3.0}),
    ],
    ids=str,
)
def test_arrays_on_two_devices(
    xp: Any, devices: list[int], optimizer: type[fo.Optimizer], options: dict[str, Any]
) -> None:
    arrays, where = model(0), [0, 1, 1, 0, 1, 0]
    there: Any = optimizer([put_on(xp, d, p) for d, p in zip(where, arrays, strict=True)], **options)
    here: Any = optimizer([p.copy(order="K") for p in arrays], **options, backend="reference")
    for seed in range(1, 5):
        grads: list[Array | None] = list(model(seed))
        if seed == 2:
            grads[1] = None
        if seed == 3:
            assert grads[4] is not None
            grads[4][0, 0, 0] = np.nan
        if seed == 3 and not options.get("skip_nonfinite"):
            continue
        placed = [None if g is None else put_on(xp, d, g) for d, g in zip(where, grads, strict=True)]
        assert there.step(placed) is here.step(grads)
        assert there.step_count == here.step_count
        assert_same_leaves(xp, there.params, here.params)
    assert [p.data.device_id for p in there.params] == where
    assert [s.data.device_id for entry in there.state for s in entry.values()] == [
        d for d, entry in zip(where, there.state, strict=True) for _ in entry
    ]
    assert fo.global_norm(there.params) == fo.global_norm(here.params)


@with_device
def test_a_gradient_on_another_device(xp: Any, devices: list[int]) -> None:
    opt = fo.Adam({"w": put_on(xp, 1, np.ones(3))})
    elsewhere = r"^grads\['w'\]: expected an array on CUDA device 1 .* got one on CUDA device 0"
    with pytest.raises(ValueError, match=elsewhere):
        opt.step({"w": put_on(xp, 0, np.ones(3))})
    opt.step({"w": put_on(xp, 1, np.ones(3))})
    with pytest.raises(ValueError, match=elsewhere):
        opt.step({"w": put_on(xp, 0, np.ones(3))})


@with_device
def test_sums_over_all_arrays_on_two_devices(xp: Any, devices: list[int]) -> None:
    arrays = [put_on(xp, d, np.ones(3)) for d in devices]
    opt: Any = fo.Prodigy([{"params": array} for array in arrays])
    message = r"^params\[1\]\['params'\]: expected an array on CUDA device 0 as params\[0\]\['params'\], as sums"
    with pytest.raises(ValueError, match=message):
        opt.step([put_on(xp, d, np.ones(3)) for d in devices])


# ---- the page

PAGE = CHECKOUT / "docs" / "cuda.md"


@with_device
@pytest.mark.skipif(not PAGE.exists(), reason="needs docs/cuda.md: this test runs in a checkout")
def test_the_page_s_code_runs(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", xp)
    code = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(code) == 2
    for block in code:
        exec(block, {"__name__": "__main__"})
