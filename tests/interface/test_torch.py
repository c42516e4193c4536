"""Follow torch.optim in float64: missing gradients, groups, schedules, defaults, and tensors that share memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from loops import loop
from models import Backend, each_backend
from optional import optional

torch = optional("torch")

STEPS = 100
SHAPES = ((4, 3), (5,), ())
LATE, GAP = range(7), range(40, 46)  # steps in which a parameter has no gradient


NAMES = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "Adadelta", "Rprop", "ASGD")
# All but two: ASGD takes torch's rate of the step before, and Rprop's is only the first step size.
SCHEDULED = [name for name in NAMES if name not in ("ASGD", "Rprop")]


@pytest.fixture(autouse=True)
def _torch_counts_in_double() -> Iterator[None]:
    """Or the scalars that it keeps from step to step would be float32, however precise the parameters are."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


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


OPTIONS: dict[str, dict[str, Any]] = {"ASGD": {"t0": 20.0}}
STATE = {
    "Adamax": {"m": "exp_avg", "u": "exp_inf"},
    "Adadelta": {"s": "square_avg", "x": "acc_delta"},
    "Rprop": {"prev": "prev", "step_size": "step_size"},
    "ASGD": {"ax": "ax"},
}


@loop("torch_name", NAMES)
@each_backend
def test_missing_gradients_and_the_state(torch_name: str, backend: Backend) -> None:
    """One parameter has no gradient at first, another has none for a while."""
    options = OPTIONS.get(torch_name, {})
    params = initial()
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    ours: Any = getattr(fo, torch_name)(params, **options, backend=backend)
    theirs = getattr(torch.optim, torch_name)(tensors, **options)
    for i in range(STEPS):
        grads: list[Array | None] = [*gradients(i)]
        if i in LATE:
            grads[0] = None
        if i in GAP:
            grads[1] = None
        ours.step(grads)
        step_torch(theirs, tensors, grads)
        assert_follows(params, tensors)
    for name, torch_name_of_state in STATE.get(torch_name, {}).items():
        for tensor, state in zip(tensors, ours.state, strict=True):
            wanted = theirs.state[tensor][torch_name_of_state].numpy()
            np.testing.assert_allclose(state[name], wanted, rtol=1e-12, atol=1e-15)


def test_which_need_the_default_dtype_to_be_float64() -> None:
    """As docs/coming_from.md says: PyTorch keeps some of their constants in the default dtype."""
    torch.set_default_dtype(torch.float32)
    differ = set()
    for name in NAMES:
        params = initial()
        tensors = [torch.tensor(p, requires_grad=True) for p in params]
        ours, theirs = (
            make(p, **OPTIONS.get(name, {}))
            for make, p in ((getattr(fo, name), params), (getattr(torch.optim, name), tensors))
        )
        for i in range(STEPS):
            ours.step(gradients(i))
            step_torch(theirs, tensors, [*gradients(i)])
        try:
            assert_follows(params, tensors)
        except AssertionError:
            differ.add(name)
    assert differ == {"NAdam", "ASGD"}


@loop("torch_name", SCHEDULED)
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


@loop("torch_name", SCHEDULED)
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
    """Compare every option that both have under one name."""
    for name in NAMES:
        theirs = getattr(torch.optim, name)([torch.zeros(1)]).defaults
        ours = getattr(fo, name).defaults
        assert {k: v for k, v in ours.items() if k in theirs} == {k: v for k, v in theirs.items() if k in ours}, name


def test_a_model_s_memory_is_stepped_through_views() -> None:
    torch.manual_seed(0)
    model, twin = torch.nn.Linear(10, 1), torch.nn.Linear(10, 1)
    twin.load_state_dict(model.state_dict())
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    ours = fo.SGD({name: p.detach().numpy() for name, p in model.named_parameters()}, lr=0.1, momentum=0.9)
    x, y = torch.randn(64, 10), torch.randn(64, 1)
    for _ in range(20):
        for net in (model, twin):
            net.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
        ours.step({name: p.grad.numpy() for name, p in model.named_parameters()})
        theirs.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)
