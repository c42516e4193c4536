"""`fastoptim.torch.Muon` is `fo.Muon` on tensors, reads PyTorch's state dicts, and rejects what is no whole matrix."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from frameworks import import_torch

torch = import_torch()
fastoptim_torch = pytest.importorskip("fastoptim.torch")

SHAPES = ((6, 9), (9, 4), (2, 3, 5))


def tensors(seed: int, shapes: Any = SHAPES) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def step(params: list[Any], opt: Any, seed: int) -> None:
    for p, g in zip(params, tensors(seed, [p.shape for p in params]), strict=True):
        p.grad = g.detach()
    opt.step()


@pytest.mark.parametrize("name", ["Muon", "NorMuon", "SOAP", "Shampoo"])
def test_steps_as_on_numpy_arrays(name: str) -> None:
    """To the bit, as NumPy's BLAS and LAPACK do both; PyTorch's autograd sees the change."""
    params = tensors(0)
    arrays = [p.detach().numpy().copy() for p in params]
    ours, theirs = getattr(fastoptim_torch, name)(params, lr=0.1), getattr(fo, name)(arrays, lr=0.1)
    version = params[0]._version
    for t in range(3):
        step(params, ours, t + 1)
        theirs.step([p.grad.numpy() for p in params])
    assert params[0]._version > version
    for p, q in zip(params, arrays, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q)


@pytest.mark.parametrize("name", ["Muon", "NorMuon"])
def test_iterates_in_bfloat16(name: str) -> None:
    """Five iterations in 8 bits change the step by some percent, as PyTorch's own do; larger coefficients by more."""
    wide, narrow, theirs = ([torch.zeros(shape).requires_grad_() for shape in SHAPES[:2]] for _ in range(3))
    for params, ns_dtype in ((wide, "compute"), (narrow, "bfloat16")):
        step(params, getattr(fastoptim_torch, name)(params, lr=1.0, weight_decay=0.0, ns_dtype=ns_dtype), 1)
    for p, q in zip(wide, narrow, strict=True):
        assert 1e-4 < float((p - q).detach().norm() / p.detach().norm()) < (0.05 if name == "Muon" else 0.25)
    if name == "Muon":
        step(theirs, torch.optim.Muon(theirs, lr=1.0, weight_decay=0.0), 1)
        for p, q in zip(theirs, narrow, strict=True):
            assert (p - q).norm() < 0.05 * p.norm()


@pytest.mark.parametrize("name", ["SOAP", "Shampoo"])
def test_continues_from_a_state_dict(name: str) -> None:
    """The state that is packed has the shape that the saved options demand, not that of the defaults."""
    params = tensors(0)
    ours = getattr(fastoptim_torch, name)(params, max_precond_dim=5, precondition_frequency=2)
    for t in range(3):
        step(params, ours, t + 1)
    twins = [p.detach().clone().requires_grad_() for p in params]
    other = getattr(fastoptim_torch, name)(twins, lr=0.5)
    other.load_state_dict(copy.deepcopy(ours.state_dict()))
    for t in range(3):
        step(params, ours, t + 5)
        step(twins, other, t + 5)
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
        assert ours.state[p]["factors"].numel() == sum(n * n for n in p.shape if n <= 5)


def test_exchanges_state_dicts_with_torch() -> None:
    params = tensors(0, SHAPES[:2])
    theirs = torch.optim.Muon(params, lr=0.1)
    step(params, theirs, 1)
    ours = fastoptim_torch.Muon(params, lr=0.3)
    saved = copy.deepcopy(theirs.state_dict())
    ours.load_state_dict(saved)
    assert ours.param_groups[0]["lr"] == 0.1
    for p, state in zip(params, saved["state"].values(), strict=True):
        torch.testing.assert_close(ours.state[p]["momentum_buffer"], state["momentum_buffer"])
    step(params, ours, 2)
    theirs.load_state_dict(ours.state_dict())


def test_shapes_are_checked_before_the_first_step() -> None:
    (p,) = tensors(0, ((6, 4),))
    for make in (fastoptim_torch.Muon, fastoptim_torch.AdamMini):
        options = {"partition": "heads"} if make is fastoptim_torch.AdamMini else {}
        message = r"param_groups\[{}\]\['params'\]\[0\]: expected .* that heads=5 divides, got 6"
        with pytest.raises(ValueError, match=message.format(0)):
            make([p], heads=5, **options)
        opt = make([p], heads=3, **options)
        (q,) = tensors(1, ((6, 4),))
        with pytest.raises(ValueError, match=message.format(1)):
            opt.add_param_group({"params": [q], "heads": 5})
        assert len(opt.param_groups) == 1
        opt.add_param_group({"params": [q]})
        step([p, q], opt, 0)


@pytest.mark.parametrize(
    ("name", "options", "change"),
    [
        ("AdamMini", {"partition": "heads", "heads": 2}, {"heads": 2**62}),
        ("SOAP", {"max_precond_dim": 4, "precondition_1d": True}, {"max_precond_dim": 2**62}),
    ],
)
def test_state_dicts_with_options_of_other_shapes_are_rejected(
    name: str, options: dict[str, Any], change: dict[str, Any]
) -> None:
    """Before an array of that shape is allocated."""
    params = tensors(0, ((4_000_000, 1) if name == "AdamMini" else (4_000_000,),))
    opt = getattr(fastoptim_torch, name)(params, **options)
    step(params, opt, 0)
    saved = opt.state_dict()
    saved["param_groups"][0].update(change)
    with pytest.raises(ValueError, match="expected"):
        opt.load_state_dict(saved)
    step(params, opt, 1)


def test_only_whole_real_matrices() -> None:
    for p, message in (
        (torch.zeros(3), "expected a matrix or a batch of matrices, got shape"),
        (torch.zeros(3, 2, dtype=torch.complex64), "expected a real tensor for muon, got torch.complex64"),
    ):
        p.requires_grad_().grad = torch.ones_like(p)
        with pytest.raises(ValueError, match=message):
            fastoptim_torch.Muon([p]).step()
