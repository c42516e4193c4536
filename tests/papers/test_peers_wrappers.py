"""Live libraries: pytorch_optimizer and optimi for methods that PyTorch, Keras and optax do not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from cases import Array
from optional import optional

STEPS, SHAPE = 40, (6, 4)
RNG = np.random.default_rng(0)
START, QUADRATIC = RNG.standard_normal(SHAPE), RNG.standard_normal((6, 6))
GRADS = RNG.standard_normal((STEPS, *SHAPE))
MARS: dict[str, Any] = {"lr": 0.01, "betas": (0.95, 0.99), "gamma": 0.025, "eps": 0.0, "weight_decay": 0.1}
STABLE: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}


def peer_parameter() -> Any:
    torch = optional("torch")
    return torch.nn.Parameter(torch.tensor(START.copy()))


def assert_agree(ours: Any, p: Array, peer: Any, q: Any, tolerance: float) -> None:
    torch = optional("torch")
    for g in GRADS:
        ours.step(g)
        q.grad = torch.tensor(g.copy())
        peer.step()
    np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=tolerance)


def of_optimi(q: Any) -> Any:
    return optional("optimi").StableAdamW([q], **STABLE, foreach=False, kahan_sum=False)


def of_kozistr(q: Any) -> Any:
    return optional("pytorch_optimizer").StableAdamW([q], **STABLE, kahan_sum=False)


def mars(q: Any) -> Any:
    return optional("pytorch_optimizer").MARS([q], **MARS, weight_decouple=True, optimize_1d=True)


def lookahead(q: Any) -> Any:
    inner = optional("torch").optim.SGD([q], lr=0.1, momentum=0.9)
    return optional("pytorch_optimizer").Lookahead(inner, k=5, alpha=0.5, pullback_momentum="none")


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (lambda p: fo.StableAdamW(p, **STABLE), of_optimi, 1e-13),
        (lambda p: fo.StableAdamW(p, **STABLE), of_kozistr, 1e-13),
        (lambda p: fo.MARS(p, **MARS), mars, 1e-11),  # theirs has another place for eps, and adds 1e-15 to v
        (lambda p: fo.Lookahead(fo.SGD(p, lr=0.1, momentum=0.9)), lookahead, 1e-13),
    ],
)
def test_trajectories_agree(ours: Callable[[Array], Any], theirs: Callable[[Any], Any], tolerance: float) -> None:
    p, q = START.copy(), peer_parameter()
    assert_agree(ours(p), p, theirs(q), q, tolerance)


def test_grokfast_agrees() -> None:
    torch = optional("torch")
    grokfast = optional("pytorch_optimizer.optimizer.grokfast")
    p, model = START.copy(), torch.nn.Linear(4, 6, bias=False, dtype=torch.float64)
    model.weight.data = torch.tensor(START.copy())
    ours, theirs = fo.GrokFast(fo.Adam(p, lr=0.01)), torch.optim.Adam(model.parameters(), lr=0.01)
    averages = None
    for g in GRADS:
        ours.step(g)
        model.weight.grad = torch.tensor(g.copy())
        averages = grokfast.gradfilter_ema(model, averages, alpha=0.98, lamb=2.0)
        averages = {name: h.clone() for name, h in averages.items()}  # theirs are the gradients' own memory at first
        theirs.step()
    np.testing.assert_allclose(p, model.weight.detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_agrees(adaptive: bool) -> None:
    """To the precision of the norm, which is float32 there."""
    torch, a = optional("torch"), QUADRATIC @ QUADRATIC.T
    p, q = START.copy(), peer_parameter()
    ours = fo.SAM(fo.SGD(p, lr=0.01, momentum=0.9), rho=0.05, adaptive=adaptive)
    theirs = optional("pytorch_optimizer").SAM([q], torch.optim.SGD, rho=0.05, adaptive=adaptive, lr=0.01, momentum=0.9)
    for _ in range(20):
        with ours.ascent(a @ p):
            g = a @ p
        ours.step(g)
        for step in (theirs.first_step, theirs.second_step):
            q.grad = torch.tensor(a) @ q.detach()
            step(zero_grad=True)
    np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=1e-8)
