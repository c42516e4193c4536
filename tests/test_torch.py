"""The ways of torch.optim's own optimizers, in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import Array

torch = pytest.importorskip("torch")

STEPS = 100
SHAPES = ((4, 3), (5,), ())
LATE, GAP = range(7), range(40, 46)  # steps in which a parameter has no gradient


class Pair(NamedTuple):
    """The same optimizer here and there: its name in torch, and options with the same names in both."""

    torch_name: str
    options: dict[str, Any]


PAIRS = [
    Pair("SGD", {"lr": 0.1}),
    Pair("SGD", {"lr": 0.1, "weight_decay": 0.01, "maximize": True}),
    Pair("SGD", {"lr": 0.1, "momentum": 0.9}),
    Pair("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    Pair("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    Pair("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01, "maximize": True}),
    Pair("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    Pair("Adagrad", {"lr": 0.1}),
    Pair("Adagrad", {"lr": 0.1, "lr_decay": 0.05, "initial_accumulator_value": 0.2, "eps": 1e-6}),
    Pair("Adagrad", {"lr": 0.1, "weight_decay": 0.01, "maximize": True}),
    Pair("RMSprop", {"lr": 0.01}),
    Pair("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.01}),
    Pair("RMSprop", {"lr": 0.01, "centered": True}),
    Pair("RMSprop", {"lr": 0.01, "momentum": 0.9}),
    Pair("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True, "weight_decay": 0.01, "maximize": True}),
    Pair("Adam", {}),
    Pair("Adam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-4}),
    Pair("Adam", {"lr": 0.02, "amsgrad": True}),
    Pair("Adam", {"lr": 0.02, "weight_decay": 0.1, "maximize": True}),
    Pair("Adam", {"lr": 0.02, "amsgrad": True, "weight_decay": 0.1}),
    Pair("AdamW", {}),
    Pair("AdamW", {"lr": 0.02, "weight_decay": 0.2, "maximize": True}),
    Pair("AdamW", {"lr": 0.02, "amsgrad": True}),
]


def pair_id(pair: Pair) -> str:
    return "-".join([pair.torch_name, *(f"{k}={v}" for k, v in pair.options.items())])


def initial() -> list[Array]:
    rng = np.random.default_rng(0)
    return [np.asarray(5 + rng.random(shape)) for shape in SHAPES]


def gradients(step: int) -> list[Array]:
    rng = np.random.default_rng(1 + step)
    return [np.asarray(rng.standard_normal(shape) + 0.5) for shape in SHAPES]


def assert_follows(params: list[Array], tensors: list[Any]) -> None:
    for p, tensor in zip(params, tensors, strict=True):
        np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-12)


def step_torch(opt: Any, tensors: list[Any], grads: list[Array | None]) -> None:
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = None if g is None else torch.from_numpy(g)
    opt.step()


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("pair", PAIRS, ids=pair_id)
def test_the_way_of_torch(pair: Pair, backend: Any) -> None:
    """With a parameter whose gradient is missing at first, and one where it is missing for a while."""
    params = initial()
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    ours = getattr(fo, pair.torch_name)(params, **pair.options, backend=backend)
    theirs = getattr(torch.optim, pair.torch_name)(tensors, **pair.options)
    for i in range(STEPS):
        grads: list[Array | None] = [*gradients(i)]
        if i in LATE:
            grads[0] = None
        if i in GAP:
            grads[1] = None
        ours.step(grads)
        step_torch(theirs, tensors, grads)
        assert_follows(params, tensors)


@pytest.mark.parametrize("torch_name", ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"])
def test_groups(torch_name: str) -> None:
    """With options of their own, one of which changes on the way."""
    params = initial()
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    own: list[dict[str, Any]] = [{"lr": 0.02, "weight_decay": 0.1}, {"maximize": True}, {}]
    ours = getattr(fo, torch_name)([{"params": p, **o} for p, o in zip(params, own, strict=True)], lr=0.01)
    theirs = getattr(torch.optim, torch_name)(
        [{"params": [t], **o} for t, o in zip(tensors, own, strict=True)], lr=0.01
    )
    for i in range(STEPS):
        if i == STEPS // 2:
            for opt in (ours, theirs):
                opt.param_groups[0]["lr"] /= 3
                opt.param_groups[2]["weight_decay"] = 0.05
        grads = gradients(i)
        ours.step(grads)
        step_torch(theirs, tensors, [*grads])
        assert_follows(params, tensors)
    assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in theirs.param_groups]


@pytest.mark.parametrize("torch_name", ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"])
def test_a_schedule(torch_name: str) -> None:
    """A callable of the step is torch's LambdaLR."""
    params = initial()
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    ours = getattr(fo, torch_name)(params, lr=lambda step: 0.01 * 0.9**step)
    theirs = getattr(torch.optim, torch_name)(tensors, lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(theirs, lambda step: 0.9**step)
    for i in range(STEPS):
        grads = gradients(i)
        ours.step(grads)
        step_torch(theirs, tensors, [*grads])
        schedule.step()
        assert_follows(params, tensors)


def test_defaults_are_torchs() -> None:
    """But for the learning rates that the two name differently, every option that both have."""
    for name in ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW"):
        theirs = getattr(torch.optim, name)([torch.zeros(1)]).defaults
        ours = getattr(fo, name).defaults
        assert {k: v for k, v in ours.items() if k in theirs} == {k: v for k, v in theirs.items() if k in ours}, name
