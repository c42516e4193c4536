"""`fastoptim.torch`: sparse gradients are those of their rows, with the core's bits and PyTorch's results."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import fastoptim as fo
from loops import loop
from optional import optional

torch = optional("torch")

import fastoptim.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of PyTorch's own tensors

EPSILON = 2.0**-53  # the largest relative error of a rounding in float64
WORDS = torch.tensor([3, 0, 3, 8, 3, 1])
ELEMENTWISE = [core for core in fo.OPTIMIZERS.values() if core.check_options({}).is_elementwise]
OTHERS = [core for core in fo.OPTIMIZERS.values() if core not in ELEMENTWISE]


def embedding(dtype: Any = torch.float64) -> Any:
    torch.manual_seed(0)
    return torch.nn.Embedding(9, 4, sparse=True, dtype=dtype)


def give_gradient(layer: Any, seed: int) -> None:
    """A gradient that is not coalesced: one word occurs three times."""
    layer.weight.grad = None
    factors = torch.randn(len(WORDS), 4, generator=torch.Generator().manual_seed(seed)).to(layer.weight.dtype)
    (layer(WORDS) * factors).sum().backward()
    assert layer.weight.grad.is_sparse
    assert not layer.weight.grad.is_coalesced()


@loop("core", ELEMENTWISE)
def test_sparse_gradients_are_rows(core: type[fo.Optimizer]) -> None:
    """Alternately with dense gradients, and alongside a dense parameter."""
    layer, bias = embedding(torch.float32), torch.ones(4, requires_grad=True)
    twins = [layer.weight.detach().clone(), torch.ones(4)]
    opt: Any = getattr(fastoptim.torch, core.__name__)([layer.weight, bias])
    twin = core(twins)
    for seed in range(6):
        give_gradient(layer, seed)
        bias.grad = torch.full((4,), 0.5 + seed)
        grad = layer.weight.grad
        rows: Any = fo.Rows(grad._indices()[0], grad._values())
        if seed == 3:
            layer.weight.grad = rows = grad.to_dense()
        opt.step()
        twin.step([rows, bias.grad])
        assert torch.equal(layer.weight, twins[0])
        assert torch.equal(bias, twins[1])
    assert opt.state[layer.weight]["step"] == 6


def compare(layer: Any, ours: Any, theirs: Any, largest_step: float) -> None:
    """Step both; `largest_step` bounds the change of an element in a step.

    In each step a result is rounded once, and its change is the result of at most 40 operations on numbers that at most
    20 steps before have brought out of agreement by as much.
    """
    twin = theirs.param_groups[0]["params"][0]
    steps = 20
    for seed in range(steps):
        give_gradient(layer, seed)
        twin.grad = layer.weight.grad.clone()
        ours.step()
        theirs.step()
    bound = steps * (2 * (twin.abs().max() + 1) + 40 * steps * largest_step) * EPSILON
    assert (layer.weight - twin).abs().max() <= bound
    assert torch.equal(layer.weight[[2, 4, 5, 6, 7]], embedding().weight[[2, 4, 5, 6, 7]])


def test_steps_are_those_of_sparse_adam() -> None:
    """Except for `eps`, which SparseAdam adds before the bias correction: here too small to be seen."""
    layer, twin = embedding(), embedding().weight
    ours = fastoptim.torch.Adam([layer.weight], lr=0.1, eps=1e-200)
    compare(layer, ours, torch.optim.SparseAdam([twin], lr=0.1, eps=1e-200), largest_step=1.0)


@loop("name", ["SGD", "Adagrad"])
def test_steps_are_those_of_torch(name: str) -> None:
    layer, twin = embedding(), embedding().weight
    ours = getattr(fastoptim.torch, name)([layer.weight], lr=0.1)
    compare(layer, ours, getattr(torch.optim, name)([twin], lr=0.1), largest_step=1.0)


def test_clipping_and_loss_scales_apply_to_the_rows() -> None:
    layer = embedding()
    start = layer.weight.detach().clone()
    opt = fastoptim.torch.SGD([layer.weight], lr=1.0, clip_norm=0.5)
    for seed in (0, 1):
        give_gradient(layer, seed)
        opt.step()
        assert torch.isclose((layer.weight - start).norm(), torch.tensor(0.5, dtype=torch.float64))
        start = layer.weight.detach().clone()


def test_complex_parameters_and_those_with_gaps() -> None:
    real = embedding()
    opt = fastoptim.torch.Adam([real.weight])
    complex_p = torch.view_as_complex(real.weight.detach().clone().reshape(9, 2, 2)).requires_grad_()
    gaps = torch.zeros(9, 8, dtype=torch.float64)[:, ::2].copy_(real.weight.detach()).requires_grad_()
    others = fastoptim.torch.Adam([complex_p, gaps])
    for seed in range(3):
        give_gradient(real, seed)
        grad = real.weight.grad
        as_complex = torch.view_as_complex(grad._values().reshape(-1, 2, 2))
        complex_p.grad = torch.sparse_coo_tensor(grad._indices(), as_complex, (9, 2))
        gaps.grad = copy.copy(grad)
        opt.step()
        others.step()
    assert torch.equal(torch.view_as_real(complex_p).reshape(9, 4), real.weight)
    assert torch.equal(gaps, real.weight)


@loop("core", OTHERS)
def test_optimizers_with_sums_reject_sparse_gradients(core: type[fo.Optimizer]) -> None:
    layer = embedding()
    before = layer.weight.detach().clone()
    give_gradient(layer, 0)
    with pytest.raises(ValueError, match=rf"grads\[0\]\['params'\]\[0\]: .* as {core.__name__} has sums"):
        getattr(fastoptim.torch, core.__name__)([layer.weight]).step()
    assert torch.equal(layer.weight, before)


def test_other_sparse_gradients_are_rejected() -> None:
    p = torch.ones(3, 2, requires_grad=True)
    p.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(ValueError, match=r"grads\[0\]\['params'\]\[0\]: .* with one sparse dimension, got 2"):
        fastoptim.torch.SGD([p]).step()
    assert (p == 1).all()
