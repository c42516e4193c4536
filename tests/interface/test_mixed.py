"""Groups of different optimizers in one."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastoptim as fo
from cases import FLOAT32, VARIANT_CASES, Array, assert_same_bits, ordinary_values
from models import Backend, each_backend, leaves


def is_mixable(optimizer: type[fo.Optimizer]) -> bool:
    special = any(hasattr(optimizer, name) for name in ("eval", "update_hessian"))
    return not (special or optimizer.reduces_all or optimizer is fo.NAG)


CASES = [case for case in VARIANT_CASES if is_mixable(case.optimizer)]


def numbers(seed: int, size: int = 37) -> Array:
    return ordinary_values(np.random.default_rng(seed), FLOAT32, size)


@each_backend
def test_each_group_steps_as_its_optimizer(backend: Backend) -> None:
    """Every variant of every optimizer in one, which also misses gradients and goes through a state dict."""
    p, q = ([numbers(i) for i in range(len(CASES))] for _ in range(2))
    groups = [{"params": [a], "optimizer": c.optimizer, **c.options} for a, c in zip(p, CASES, strict=True)]
    opt = fo.Mixed(groups, backend=backend)
    alone = [case.optimize([a], backend) for a, case in zip(q, CASES, strict=True)]
    for t in range(4):
        grads = [[None if (i + t) % 7 == 0 and t else numbers(100 * t + i)] for i in range(len(CASES))]
        opt.step(grads)
        for each, g in zip(alone, grads, strict=True):
            each.step(g)
        if t == 1:
            opt.load_state_dict(opt.state_dict())
            opt = pickle.loads(pickle.dumps(opt))
            for ours, leaf in zip(p, leaves(opt.params), strict=True):
                assert_same_bits(leaf, ours)
            p = list(leaves(opt.params))
    for case, ours, expected, state, each in zip(CASES, p, q, opt.state, alone, strict=True):
        assert_same_bits(ours, expected, case.id)
        for name, array in each.state[0].items():
            assert_same_bits(state[0][name], array, f"{case.id} {name}")


def made(**options: Any) -> tuple[Array, Array, fo.Mixed]:
    w, b = np.ones((2, 2)), np.zeros(3)
    groups = [
        {"params": {"w": w}, "optimizer": fo.Lion, "lr": 0.25},
        {"params": b, "optimizer": fo.SGD, "momentum": 0.5},
    ]
    return w, b, fo.Mixed(groups, **options)


GRADS: list[Any] = [{"w": np.full((2, 2), 3.0)}, np.array([2.0, 0.0, -2.0])]


@each_backend
def test_the_norm_is_that_of_all_groups(backend: Backend) -> None:
    _, b, opt = made(clip_global_norm=0.5, lr=0.25, backend=backend)
    opt.step(GRADS)
    assert opt.lr == 0.25
    assert_same_bits(b, 0 - 0.25 * (0.5 / (fo.global_norm(GRADS) + 1e-6) * GRADS[1]))


@each_backend
def test_one_decision_to_skip(backend: Backend) -> None:
    w, b, opt = made(backend=backend)
    opt.param_groups[0]["skip_nonfinite"] = True
    assert opt.step(GRADS) is True
    before = w.tobytes(), b.tobytes()
    assert opt.step([GRADS[0], np.array([0, np.inf, 0])]) is False
    assert (w.tobytes(), b.tobytes(), opt.step_count) == (*before, 1)


@each_backend
@pytest.mark.parametrize("steps", [0, 2])
def test_an_error_in_the_last_group_leaves_the_first(backend: Backend, steps: int) -> None:
    w, b, opt = made(backend=backend)
    for _ in range(steps):
        opt.step(GRADS)
    before = w.tobytes(), b.tobytes()
    for wrong, error in ((np.ones(4), ValueError), (np.ones(3, int), TypeError), (None, None)):
        if error:
            with pytest.raises(error, match=r"grads\[1\]"):
                opt.step([GRADS[0], wrong])
    with pytest.raises(TypeError, match="grads: expected a list or tuple of 2 entries"):
        opt.step(GRADS[:1])
    opt.param_groups[1]["momentum"] = 2.0
    with pytest.raises(ValueError, match=r"param_groups\[1\]: momentum"):
        opt.step(GRADS)
    assert (w.tobytes(), b.tobytes(), opt.step_count) == (*before, steps)


def test_it_takes_the_fast_path() -> None:
    _, _, opt = made()
    opt.step(GRADS)
    assert opt._fast_path is not None
    assert opt._fast_path.try_step is not None


def test_files_and_copies(tmp_path: Path) -> None:
    w, b, opt = made()
    opt.step(GRADS)
    opt.save(tmp_path / "opt.safetensors")
    w2, b2, other = made()
    w2[...], b2[...] = w, b
    other.load(tmp_path / "opt.safetensors")
    twin = copy.deepcopy(opt)
    for each in (opt, other, twin):
        each.step(GRADS)
    assert_same_bits(b, b2)
    assert_same_bits(b, twin.params[1])


@each_backend
def test_groups_with_formats_of_their_own(backend: Backend, tmp_path: Path) -> None:
    """They step as the optimizers alone, through copies, files, another group and a change of the format."""
    int8: dict[str, Any] = {"state_format": "int8", "int8_min_size": 0}
    formats = [
        (fo.AdamW, np.float32, int8),
        (fo.Lion, np.float32, {"state_format": "bfloat16"}),
        (fo.Muon, np.float32, {}),
        (fo.AdamMini, np.float32, int8),
        (fo.Adam, ml_dtypes.bfloat16, {**int8, "master_weight_bits": 24}),
        (fo.SGD, ml_dtypes.bfloat16, {"momentum": 0.9, "stochastic_rounding": True}),
    ]

    def arrays() -> list[Any]:
        return [numbers(i, 40).reshape(4, 10).astype(dtype) for i, (_, dtype, _) in enumerate(formats)]

    def grouped(params: list[Any]) -> list[dict[str, Any]]:
        return [{"params": p, "optimizer": f[0], **f[2]} for p, f in zip(params, formats, strict=True)]

    *params, last = arrays()
    opt = fo.Mixed(grouped([*params, last])[:-1], backend=backend)
    opt.add_param_group(grouped([*params, last])[-1])
    each = arrays()
    # The random bits depend on the parameter's index: each optimizer has all parameters, and steps one.
    alone = [
        made([*each[:i], p, *each[i + 1 :]], backend=backend, **options)
        for i, (p, (made, _, options)) in enumerate(zip(each, formats, strict=True))
    ]
    for t in range(4):
        grads = [numbers(100 * t + i, 40).reshape(4, 10) for i in range(len(formats))]
        opt.step(grads)
        for i, one in enumerate(alone):
            one.step([g if i == j else None for j, g in enumerate(grads)])
        if t == 1:
            opt = pickle.loads(pickle.dumps(opt))
            opt.load_state_dict(opt.state_dict())
        if t == 2:
            opt.save(tmp_path / "x")
            opt.load(tmp_path / "x")
    for i, one in enumerate(alone):
        assert_same_bits(opt.params[i], each[i], formats[i][0].__name__)
        for name, array in one.state_values()[i].items():
            assert_same_bits(opt.state_values()[i][name], array, name)
    native = fo.Mixed([{**group, "state_format": "native"} for group in grouped(arrays())], backend=backend)
    with pytest.raises(ValueError, match=r"state_dict\['groups'\]\[0\]: state_format: expected 'native', got 'int8'"):
        native.load_state_dict(opt.state_dict())
    native.load_state_dict(opt.state_dict(), convert=True)
    assert_same_bits(native.state[0]["v"], opt.state_values()[0]["v"])
    assert_same_bits(native.state[4]["master_bits8"], opt.state[4]["master_bits8"])


def test_a_state_dict_of_other_optimizers_is_rejected() -> None:
    w, b, opt = made()
    saved = fo.Mixed([{"params": {"w": w}, "optimizer": fo.SGD}, {"params": b, "optimizer": fo.SGD}]).state_dict()
    with pytest.raises(ValueError, match=r"state_dict\['groups'\]\[0\]\['optimizer'\]: expected 'lion', got 'sgd'"):
        opt.load_state_dict(saved)
    with pytest.raises(ValueError, match="expected 'mixed', got 'adam'"):
        opt.load_state_dict(fo.Adam([{"params": {"w": w}}, {"params": b}]).state_dict())


def test_a_group_with_another_optimizer_is_added() -> None:
    _, _, opt = made()
    opt.step(GRADS)
    p, q = np.ones(2), np.ones(2)
    opt.add_param_group({"params": p, "optimizer": fo.AdamW, "lr": 0.5})
    alone = fo.AdamW(q, lr=0.5)
    for _ in range(2):
        opt.step([*GRADS, np.ones(2)])
        alone.step(np.ones(2))
    assert_same_bits(p, q)
    assert [group["optimizer"] for group in opt.state_dict()["groups"]] == ["lion", "sgd", "adamw"]


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (np.ones(2), TypeError, "params: expected a list of groups"),
        ([{"params": np.ones(2)}], TypeError, r"params\[0\]: expected 'optimizer' with the class"),
        ([{"params": np.ones(2), "optimizer": "adam"}], TypeError, r"params\[0\]: expected 'optimizer'.*got 'adam'"),
        ([{"params": np.ones(2), "optimizer": fo.Optimizer}], TypeError, r"params\[0\]: expected 'optimizer'"),
        ([{"params": np.ones(2), "optimizer": fo.Mixed}], TypeError, r"params\[0\]: expected 'optimizer'"),
        ([{"params": np.ones(2), "optimizer": fo.SGD, "betas": (0.9, 0.9)}], TypeError, r"params\[0\]: betas: not an"),
        ([{"params": np.ones(2), "optimizer": fo.Adam, "betas": (0.9, 2)}], ValueError, r"params\[0\]: betas"),
        *(
            ([{"params": np.ones(2), "optimizer": cls}], ValueError, rf"params\[0\]\['optimizer'\].*{cls.__name__}")
            for cls in fo.OPTIMIZERS.values()
            if not is_mixable(cls)
        ),
    ],
)
def test_wrong_groups(params: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        fo.Mixed(params)


def test_wrong_options() -> None:
    group = {"params": np.ones(2), "optimizer": fo.Adam}
    with pytest.raises(TypeError, match="betas: not an option of Mixed"):
        fo.Mixed([group], betas=(0.9, 0.9))
    with pytest.raises(ValueError, match=r"params\[0\]: clip_global_norm"):
        fo.Mixed([group], clip_global_norm=-1)
