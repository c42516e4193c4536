"""`fastoptim.torch`: counts of rows, copies in 16 bits, and parameters that get other rows, with the core's bits."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from loops import loop
from optional import optional

torch = optional("torch")

import fastoptim.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of PyTorch's own tensors

ROW_CLASSES = ["Adam", "AdamW", "RowwiseAdagrad", "RowwiseAdam", "SGD"]
HALVES = [torch.float16, torch.bfloat16]


def table(rows: int = 6) -> Any:
    return torch.linspace(-1, 1, 3 * rows).reshape(rows, 3).requires_grad_()


def give_rows(p: Any, seed: int) -> fo.Rows:
    """Set a sparse gradient and return it as rows."""
    rng = np.random.default_rng(seed)
    index = torch.from_numpy(rng.integers(0, len(p), 4))
    values = torch.from_numpy(rng.standard_normal((4, 3)).astype(np.float32))
    p.grad = torch.sparse_coo_tensor(index[None], values, p.shape)
    return fo.Rows(index, values)


def assert_same_state(own: dict[str, Any], twin: Any) -> None:
    names = {"exp_avg": "m", "exp_avg_sq": "v"}
    found = {names.get(name, name): value for name, value in own.items() if name != "step"}
    assert found.keys() == twin.keys()
    for name, value in found.items():
        assert torch.equal(value, torch.as_tensor(twin[name])), name


@loop("name", ROW_CLASSES)
def test_rows_count_their_steps(name: str) -> None:
    """The same holds after a state dict, a pickle and a copy of the optimizer."""
    p, q = table(), table().detach().clone()
    opt, twin = getattr(fastoptim.torch, name)([p], row_steps=True), getattr(fo, name)([q], row_steps=True)
    for seed in range(8):
        twin.step([give_rows(p, seed)])
        opt.step()
        assert torch.equal(p, q)
        assert_same_state(opt.state[p], twin.state[0])
        assert opt.state[p]["row_steps"].dtype == torch.int64
        if seed == 3:
            file = io.BytesIO()
            torch.save(opt.state_dict(), file)
            file.seek(0)
            opt = getattr(fastoptim.torch, name)([p])
            opt.load_state_dict(torch.load(file))
        if seed == 5:
            opt = pickle.loads(pickle.dumps(opt))
            p = opt.param_groups[0]["params"][0]


def test_counts_that_begin_later_are_those_of_the_parameter() -> None:
    p = table()
    opt = fastoptim.torch.Adam([p])
    for _ in range(3):
        give_rows(p, 0)
        opt.step()
    opt.param_groups[0]["row_steps"] = True
    rows = give_rows(p, 1)
    opt.step()
    counts = torch.full((6,), 3)
    counts[rows.index.unique()] += 1
    assert torch.equal(opt.state[p]["row_steps"], counts)


def test_a_new_stepper_begins_counts_at_the_steps_of_the_parameter() -> None:
    p = table()
    opt = fastoptim.torch.Adam([p])
    give_rows(p, 0)
    opt.step()
    other = fastoptim.torch.Adam([p], row_steps=True)
    saved = opt.state_dict()
    saved["param_groups"][0]["row_steps"] = True
    other.load_state_dict(saved)
    rows = give_rows(p, 1)
    other.step()
    counts = torch.ones(6, dtype=torch.int64)
    counts[rows.index.unique()] += 1
    assert torch.equal(other.state[p]["row_steps"], counts)


@loop("half", HALVES)
def test_copies_are_written(half: Any) -> None:
    p, bias = table(), torch.ones(3, requires_grad=True)
    own = torch.zeros(6, 3, dtype=half)
    opt = fastoptim.torch.AdamW([{"params": [p]}, {"params": [bias], "lr": 0.1}], copies=[own, None])
    assert torch.equal(own, p.to(half))
    for seed in range(4):
        give_rows(p, seed)
        if seed == 2:
            p.grad = p.grad.to_dense()
        bias.grad = torch.ones(3)
        before = own._version
        opt.step()
        assert torch.equal(own, p.to(half))
        assert own._version > before
    with torch.no_grad():
        p.zero_()
    opt.refresh_copies()
    assert not own.any()


def test_copies_of_an_optimizer_have_their_own_copies() -> None:
    p, half = table(), torch.zeros(6, 3, dtype=torch.float16)
    opt = fastoptim.torch.SGD([p], lr=0.5, copies=[half])
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        (q,), before = other.param_groups[0]["params"], half.clone()
        q.grad = torch.ones(6, 3)
        other.step()
        assert torch.equal(other._copies[q], q.to(torch.float16))
        assert torch.equal(half, before)


@loop(
    ("copies", "error", "message"),
    [
        ([None], TypeError, "copies: expected a list of 2 tensors or None, one for each parameter, got 1"),
        (torch.zeros(6, 3), TypeError, "copies: expected a list of 2 tensors or None, one for each parameter, got Te"),
        ([torch.zeros(6, 3), None], TypeError, r"copies\[0\]: expected float16 or bfloat16"),
        ([torch.zeros(3, 6, dtype=torch.float16), None], ValueError, r"copies\[0\]: expected shape \(6, 3\)"),
        ([None, torch.zeros(2, dtype=torch.float16)], ValueError, "expected a dense real tensor of which"),
    ],
)
def test_copies_that_do_not_fit_are_rejected(copies: Any, error: type[Exception], message: str) -> None:
    params = [table(), torch.ones(2, dtype=torch.complex64, requires_grad=True)]
    with pytest.raises(error, match=message):
        fastoptim.torch.SGD(params, copies=copies)


@loop("name", ROW_CLASSES)
@loop("row_steps", [False, True])
def test_remap_moves_the_rows_of_state(name: str, row_steps: bool) -> None:
    p, bias = table(), torch.ones(3, requires_grad=True)
    params = [p.detach().clone(), torch.ones(3)]
    opt: Any = getattr(fastoptim.torch, name)([p, bias], row_steps=row_steps)
    twin: Any = getattr(fo, name)(params, row_steps=row_steps)
    source, new = torch.tensor([5, 5, -1, 0, 2]), table(5)
    for seed in range(6):
        if seed == 3:
            opt.remap({p: new}, {p: source})
            twin.remap([new.detach().clone(), None], source=[source.numpy(), None])
            assert p not in opt.state
            p = new
        bias.grad = torch.ones(3)
        twin.step([give_rows(p, seed), bias.grad])
        opt.step()
        assert torch.equal(p, twin.params[0])
        assert_same_state(opt.state[p], twin.state[0])


def test_remaps_that_do_not_fit_are_rejected() -> None:
    p, other = table(), table()
    opt = fastoptim.torch.Adam([p])
    give_rows(p, 0)
    opt.step()
    rows, state = torch.tensor([0, 1]), copy.deepcopy(opt.state[p])
    new = table(2)
    refused: list[tuple[Any, Any, type[Exception], str]] = [
        ({other: new}, {other: rows}, TypeError, "params: expected a dict whose keys are parameters of the optimizer"),
        ({p: new}, {}, TypeError, r"source.*: expected an array"),
        ({p: new}, {p: torch.tensor([0, 6])}, IndexError, "expected indices from -1 to 5, got 6 at position 1"),
        ({p: new.detach()}, {p: rows}, ValueError, "expected a leaf that requires gradients"),
        ({p: torch.ones(2, 4, requires_grad=True)}, {p: rows}, ValueError, "expected float32 of shape"),
    ]
    for params, source, error, message in refused:
        with pytest.raises(error, match=message):
            opt.remap(params, source)
        assert opt.param_groups[0]["params"][0] is p
        assert all(torch.equal(value, state[name]) for name, value in opt.state[p].items())
    half = torch.zeros(6, 3, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"expected a parameter without a copy in `copies`, as remap changes its rows"):
        fastoptim.torch.Adam([p], copies=[half]).remap({p: new}, {p: rows})


@loop("name", ["RowwiseAdagrad", "RowwiseAdam"])
def test_state_of_rows_of_complex_parameters_is_real(name: str) -> None:
    p = torch.ones(4, 3, dtype=torch.complex64, requires_grad=True)
    real = torch.view_as_real(p.detach().clone())
    opt, twin = getattr(fastoptim.torch, name)([p]), getattr(fo, name)([real])
    for _ in range(3):
        p.grad = torch.full((4, 3), 1 + 2j, dtype=torch.complex64)
        opt.step()
        twin.step([torch.view_as_real(p.grad)])
    assert torch.equal(torch.view_as_real(p.detach()), real)
