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
    """PyTorch, as docs/coming_from.md says, keeps some of their constants in the default dtype."""
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


# ---- PyTorch's schedulers


class Groups(torch.optim.Optimizer):  # type: ignore[misc, name-defined]
    """The class in docs/coming_from.md: PyTorch's schedulers take nothing but instances of its Optimizer."""

    def __init__(self, opt: fo.Optimizer) -> None:
        self.opt, self.param_groups, self.defaults = opt, opt.param_groups, opt.defaults

    def step(self, grads: Any) -> Any:
        return self.opt.step(grads)


SCHEDULERS: list[Any] = [
    lambda opt: torch.optim.lr_scheduler.StepLR(opt, 5, 0.5),
    lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 20),
    lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=40),
    lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + step)),
    lambda opt: torch.optim.lr_scheduler.CyclicLR(opt, 0.01, 0.1, step_size_up=6),
    lambda opt: torch.optim.swa_utils.SWALR(opt, 0.02, anneal_epochs=7),
    lambda opt: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.ConstantLR(opt), torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
]


@loop("make", SCHEDULERS)
@loop("options", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
@loop("rate", [lambda: 0.05, lambda: torch.tensor(0.05)])
def test_pytorch_s_schedulers_drive_it(make: Any, options: dict[str, Any], rate: Any) -> None:
    """They cycle the momentum, too, and continue from a state dict."""
    params = initial()
    tensors = [torch.tensor(p, requires_grad=True) for p in params]
    ours = fo.SGD(params, lr=rate(), **options)
    theirs = torch.optim.SGD(tensors, lr=rate(), **options)
    driven = Groups(ours)
    ours_scheduler, theirs_scheduler = make(driven), make(theirs)
    for i in range(30):
        if i == 15:
            before = ours.param_groups[0]
            ours.load_state_dict(ours.state_dict())
            assert ours.param_groups[0] is before
        driven.step(gradients(i))
        step_torch(theirs, tensors, [*gradients(i)])
        ours_scheduler.step()
        theirs_scheduler.step()
        assert_follows(params, tensors)
    saved = ours.state_dict()["groups"][0]
    assert saved["initial_lr"] == float(theirs.param_groups[0]["initial_lr"])
    again = fo.SGD(initial(), lr=0.5, **options)
    again.load_state_dict(ours.state_dict())
    assert again.param_groups[0]["initial_lr"] == saved["initial_lr"]


def test_a_tensor_may_be_the_loss_scale() -> None:
    p, q, scale = np.ones(3), np.ones(3), torch.tensor(8.0)
    opt, expected = fo.SGD(p, lr=0.1, grad_scale=scale), fo.SGD(q, lr=0.1)
    for scaled in (8.0, 2.0):
        scale.fill_(scaled)
        opt.step(np.full(3, scaled))
        expected.step(np.ones(3))
        np.testing.assert_array_equal(p, q)


@loop("rate", [0.1, lambda step: 0.1, fo.schedules.Linear(0.1, 0.2, 9)])
def test_autograd_sees_that_tensors_have_changed(rate: Any) -> None:
    """Each step increments the versions of the tensors that it writes, and only of these."""
    params = [torch.ones(3, requires_grad=True) for _ in range(2)]
    opt = fo.SGD(params, lr=rate)
    for step in range(5):
        before = [p._version for p in params]
        grads = [torch.ones(3), None if step == 4 else torch.ones(3)]
        opt.step(grads)
        assert [p._version > old for p, old in zip(params, before, strict=True)] == [True, step != 4]
    skipping = fo.SGD(params, lr=rate, skip_nonfinite=True)
    for grad in (1.0, torch.nan, 1.0, torch.nan):
        before = [p._version for p in params]
        taken = skipping.step([torch.full((3,), grad)] * 2)
        assert [p._version > old for p, old in zip(params, before, strict=True)] == [taken, taken]
