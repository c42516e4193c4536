"""PyTorch's own tests of optimizers (test/test_optim.py), with its OptimizerInfo: inputs, schedulers, errors.

The tests have PyTorch's names.  docs/torch.md lists those that do not apply, with the reasons.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest

from loops import loop
from optional import optional

torch = optional("torch")
optional("expecttest")  # which that needs
hooks = optional("torch.optim.optimizer")
common = optional("torch.testing._internal.common_optimizers")

import fastoptim.torch  # noqa: E402

Parameter, assert_equal = torch.nn.Parameter, torch.testing.assert_close

INFOS = {info.name: info for info in common.optim_db if hasattr(fastoptim.torch, info.name) and info.name != "Muon"}
#: Cases of OptimizerInfo that the pages list as not applicable, by a part of their description.
ABSENT = ("differentiable",)

every_info = loop("name", INFOS)
#: Complex parameters have no sums over rows and columns.
every_elementwise_info = loop("name", [name for name in INFOS if name != "Adafactor"])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """PyTorch's threads cost more than these tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def inputs(name: str) -> Iterator[dict[str, Any]]:
    """The arguments of each case, with each implementation's flag off and on."""
    for case in common._get_optim_inputs_including_global_cliquey_kwargs("cpu", torch.float32, INFOS[name]):
        if not any(part in case.desc for part in ABSENT):
            case.kwargs.pop("differentiable", None)
            yield case.kwargs


def make(name: str, params: Any, kwargs: dict[str, Any]) -> Any:
    return getattr(fastoptim.torch, name)(params, **kwargs)


class Linear:
    """The suite's problem: a weight and a bias, with or without gaps in memory."""

    def __init__(self, contiguous: bool = True, dtype: Any = torch.float32) -> None:
        torch.manual_seed(0)
        self.input = torch.randn(5, dtype=dtype)
        shapes = ((10, 5), (10,)) if contiguous else ((10, 5, 2), (10, 2))
        self.params = [torch.randn(shape, dtype=dtype) for shape in shapes]
        self.params = [Parameter(p if contiguous else p[..., 0]) for p in self.params]

    def copy(self) -> Linear:
        twin = Linear()
        twin.input, twin.params = self.input, [Parameter(p.detach().clone()) for p in self.params]
        return twin

    def closure(self) -> Any:
        for p in self.params:
            p.grad = None
        weight, bias = self.params
        loss = (weight.mv(self.input) + bias).pow(2).sum()
        loss.backward()
        return loss


def step_schedulers(schedulers: list[Any], loss: Any) -> None:
    for scheduler in schedulers:
        on_loss = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        scheduler.step(loss.detach()) if on_loss else scheduler.step()


def assert_goes_right(before: Any, after: Any, kwargs: dict[str, Any]) -> None:
    assert after > before if kwargs.get("maximize") else after < before


def test_the_infos_are_torch_s() -> None:
    missing = {info.name for info in common.optim_db} - set(INFOS)
    assert missing <= {"LBFGS", "Muon", "SparseAdam"}


@every_info
def test_errors(name: str) -> None:
    """The types are PyTorch's, the messages of options the core's."""
    for case in INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32):
        given = case.optimizer_error_input
        params = given.params if given.params is not None else [Parameter(torch.randn(1, 1))]
        if re.search("as a Tensor|both Tensors", case.error_regex):  # every step is fused, and reads tensors
            assert make(name, params, given.kwargs).param_groups
            continue
        if issubclass(case.error_type, Warning):
            with pytest.warns(case.error_type, match=case.error_regex):
                make(name, params, given.kwargs)
        elif case.error_on is common.OptimizerErrorEnum.STEP_ERROR:
            optimizer = make(name, params, given.kwargs)
            with pytest.raises((case.error_type, ValueError)):  # docs/torch.md
                optimizer.step()
        else:
            with pytest.raises(case.error_type):
                make(name, params, given.kwargs)


@every_info
@loop("contiguous", [True, False])
@loop("with_lrsched", [True, False])
def test_forloop_goes_right_direction(name: str, contiguous: bool, with_lrsched: bool) -> None:
    for constructors in INFOS[name].scheduler_inputs if with_lrsched else [[]]:
        for kwargs in inputs(name):
            problem = Linear(contiguous)
            optimizer = make(name, problem.params, kwargs)
            schedulers = [constructor(optimizer) for constructor in constructors]
            initial = problem.closure().item()
            for _ in range(20):
                step_schedulers(schedulers, optimizer.step(problem.closure))
            assert_goes_right(initial, problem.closure().item(), kwargs)


@every_info
def test_param_group_with_lrscheduler_goes_right_direction(name: str) -> None:
    for constructors in INFOS[name].scheduler_inputs:
        problem = Linear()
        weight, bias = problem.params
        optimizer = make(name, [{"params": [weight]}, {"params": [bias], "lr": 0.01}], {})
        schedulers = [constructor(optimizer) for constructor in constructors]
        initial = problem.closure().item()
        for _ in range(20):
            step_schedulers(schedulers, optimizer.step(problem.closure))
        assert problem.closure().item() < initial


@every_info
def test_tensor_lr(name: str) -> None:
    for kwargs in inputs(name):
        problem = Linear()
        twin = problem.copy()
        optimizer = make(name, problem.params, {**kwargs, "lr": 1e-3})
        with_tensor = make(name, twin.params, {**kwargs, "lr": torch.tensor(1e-3, dtype=torch.float64)})
        for i in range(5):
            optimizer.step(problem.closure)
            with_tensor.step(twin.closure)
            for p, q in zip(problem.params, twin.params, strict=True):
                assert torch.equal(p, q)
            if i == 2:
                with_tensor.param_groups[0]["lr"].fill_(1e-2)  # as schedulers do
                optimizer.param_groups[0]["lr"] = 1e-2


def rosenbrock(x: Any) -> Any:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@loop("name", [name for name, info in INFOS.items() if info.supports_sparse])
@loop("with_lrsched", [True, False])
def test_rosenbrock_sparse(name: str, with_lrsched: bool) -> None:
    """Cyclic coordinate descent: dense gradients with one element, and sparse ones that are not coalesced."""
    updates, constructors = INFOS[name].metadata_for_sparse
    for kwargs in inputs(name):
        kwargs = {**kwargs, **updates, "weight_decay": 0.0}
        params = [Parameter(torch.tensor([1.5, 1.5])) for _ in range(2)]
        optimizers = [make(name, [p], kwargs) for p in params]
        schedulers = [[c(optimizer) for c in constructors if with_lrsched] for optimizer in optimizers]
        for i in range(100):
            for p, optimizer, own, sparse in zip(params, optimizers, schedulers, (True, False), strict=True):
                p.grad = None
                loss = rosenbrock(p)
                loss.backward()
                assert p.grad is not None
                x = p.grad[i % 2]
                index = torch.tensor([[i % 2] * 2])
                grad = torch.sparse_coo_tensor(index, torch.stack([x / 4, x - x / 4]), (2,), check_invariants=True)
                p.grad = grad if sparse else grad.to_dense()
                optimizer.step()
                step_schedulers(own, loss.detach())
            assert_equal(*params, atol=5e-6, rtol=5e-6)
        assert_goes_right(rosenbrock(torch.tensor([1.5, 1.5])), rosenbrock(params[0].detach()), kwargs)


@every_elementwise_info
def test_complex(name: str) -> None:
    """Complex parameters are stepped as their real views are, in every bit."""
    for kwargs in inputs(name):
        torch.manual_seed(0)
        ours = [torch.randn(shape, dtype=torch.complex64, requires_grad=True) for shape in ((10, 5), (10,))]
        ours.append(torch.randn(10, 5, requires_grad=True))
        real = [(torch.view_as_real(p) if p.is_complex() else p).detach().clone().requires_grad_() for p in ours]
        optimizers = [make(name, params, kwargs) for params in (ours, real)]
        for _ in range(3):
            for p, q in zip(ours, real, strict=True):
                q.grad = torch.randn_like(q)
                p.grad = torch.view_as_complex(q.grad) if p.is_complex() else q.grad
            for optimizer in optimizers:
                optimizer.step()
            for p, q in zip(ours, real, strict=True):
                assert torch.equal(torch.view_as_real(p) if p.is_complex() else p, q)


@every_elementwise_info
def test_complex_2d(name: str) -> None:
    """A complex parameter is stepped as its real and imaginary parts are."""
    for kwargs in inputs(name):
        torch.manual_seed(0)
        whole = torch.randn(2, dtype=torch.complex64, requires_grad=True)
        parts = [part.detach().clone().requires_grad_() for part in (whole.real, whole.imag)]
        optimizers = [make(name, [whole], kwargs), make(name, parts, kwargs)]
        for _ in range(3):
            for optimizer, value in zip(optimizers, (whole, torch.complex(*parts)), strict=True):
                optimizer.zero_grad()
                rosenbrock(value).abs().backward()
                optimizer.step()
            assert_equal(whole.real, parts[0])
            assert_equal(whole.imag, parts[1])


def compare_with_torch(name: str, kwargs: dict[str, Any], dtype: Any, tolerance: dict[str, float]) -> None:
    """Follow torch.optim through `_compare_between`: a layer frozen on the way, steps without any gradient."""
    x = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=dtype)
    models, optimizers = [], []
    for module in (torch.optim, fastoptim.torch):
        torch.manual_seed(1)
        layers = torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1), torch.nn.Sigmoid()
        models.append(torch.nn.Sequential(*layers).to(dtype))
        lone = torch.ones((), dtype=dtype, requires_grad=True)
        lone.grad = torch.full_like(lone, 0.5)
        own = deepcopy(kwargs)
        optimizers.append(getattr(module, name)([*models[-1].parameters(), lone], **own))
    for i in range(7):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            if i in (3, 5):
                model[2].requires_grad_(i == 5)
            if i != 2:
                model(x).sum().backward()
            optimizer.step()
        theirs, ours = optimizers
        for p, q in zip(theirs.param_groups[0]["params"], ours.param_groups[0]["params"], strict=True):
            assert_equal(q, p, **tolerance)
        saved, own_state = theirs.state_dict()["state"], ours.state_dict()["state"]
        for key, state in saved.items():
            if key not in own_state:  # Adagrad's has state before its first gradient
                assert name == "Adagrad"
                continue
            for array, value in state.items():
                if isinstance(value, torch.Tensor) and (name, array) not in OWN_NUMBERS:
                    assert_equal(own_state[key][array].to(value.dtype), value, **tolerance)


OWN_NUMBERS = {("ASGD", "eta"), ("ASGD", "mu")}  # PyTorch rounds these to float32 and holds them a step longer


@every_info
def test_foreach_matches_forloop(name: str) -> None:
    """Here: each case follows PyTorch's for loop in float64."""
    for kwargs in inputs(name):
        reference = {k: v for k, v in kwargs.items() if k not in ("foreach", "fused", "capturable")}
        compare_with_torch(name, reference, torch.float64, {"rtol": 1e-6, "atol": 1e-7})


@loop("name", [name for name, info in INFOS.items() if "fused" in info.supported_impls])
@loop("dtype", [torch.float32, torch.float64])
def test_fused_matches_forloop(name: str, dtype: Any) -> None:
    """Here: each case follows PyTorch's fused kernel.  (16-bit state is float32 here, see below.)"""
    for kwargs in inputs(name):
        if isinstance(kwargs.get("lr"), torch.Tensor) or not kwargs.get("fused"):
            continue
        compare_with_torch(name, kwargs, dtype, {"rtol": 1e-5, "atol": 1e-6})


@every_info
@loop("dtype", [torch.float16, torch.bfloat16])
def test_16_bits(name: str, dtype: Any) -> None:
    """State is float32, also after loading, where PyTorch would round it to the parameter's type."""
    for kwargs in inputs(name):
        p = torch.ones(8, dtype=dtype, requires_grad=True)
        p.grad = torch.full((8,), 0.25, dtype=dtype)
        optimizer = make(name, [p], kwargs)
        optimizer.step()
        again = make(name, [p], kwargs)
        again.load_state_dict(optimizer.state_dict())
        for key, value in optimizer.state[p].items():
            assert value.dtype == torch.float32
            assert torch.equal(again.state[p][key], value)
        again.step()


@every_info
def test_param_groups_weight_decay(name: str) -> None:
    for kwargs in inputs(name):
        problem = Linear()
        weight, bias = problem.params
        optimizer = make(name, [{"params": [weight], **kwargs}, {"params": [bias], **kwargs, "weight_decay": 0.0}], {})
        initial = problem.closure().item()
        for _ in range(20):
            problem.closure()
            optimizer.step()
        assert_goes_right(initial, problem.closure().item(), kwargs)


@every_info
def test_param_groups_lr(name: str) -> None:
    outer = {"lr": 1e-28, **({"step_sizes": (0, 50)} if name == "Rprop" else {})}
    for kwargs in inputs(name):
        problem, other = Linear(), Parameter(torch.randn(2))
        before = other.detach().clone()
        kwargs = {**kwargs, "lr": kwargs.get("lr") or 1e-3}
        optimizer = make(name, [{"params": problem.params, **kwargs}, {"params": [other]}], outer)
        initial = problem.closure().item()
        for _ in range(20):
            problem.closure()
            other.grad = torch.rand_like(other)
            optimizer.step()
        assert_goes_right(initial, problem.closure().item(), kwargs)
        assert_equal(other.detach(), before)


@every_info
def test_step_is_noop_when_params_have_no_grad(name: str) -> None:
    for kwargs in inputs(name):
        params = [torch.randn(2, 3) for _ in range(2)] + [torch.tensor([1, 1])]
        before = [p.clone() for p in params]
        optimizer = make(name, params, kwargs)
        assert optimizer.step(lambda: 3) == 3
        assert all(map(torch.equal, params, before))
        assert not optimizer.state


@every_info
def test_step_is_noop_for_zero_grads(name: str) -> None:
    for kwargs in inputs(name):
        p = torch.randn(5, 1, requires_grad=True)
        before = p.detach().clone()
        if kwargs.get("weight_decay", 0) != 0 or "lambd" in kwargs:  # which is ASGD's decay
            continue
        optimizer = make(name, [p], {**kwargs, **({"lr": 1e-5} if name == "AdamW" else {})})
        p.grad = torch.zeros_like(p)
        optimizer.step()
        assert_equal(p.detach(), before)


@every_info
def test_optimizer_can_be_printed(name: str) -> None:
    for kwargs in inputs(name):
        assert name in repr(make(name, Linear().params, kwargs))


def named(params: list[Any], is_named: bool) -> list[Any]:
    return [(f"name{i}", p) for i, p in enumerate(params)] if is_named else params


def without_names(state_dict: dict[str, Any]) -> dict[str, Any]:
    groups = [{k: v for k, v in group.items() if k != "param_names"} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


@every_info
@loop(("is_named", "other_is_named"), [(a, b) for a in (True, False) for b in (True, False)])
def test_state_dict_deterministic(name: str, is_named: bool, other_is_named: bool) -> None:
    """With test_can_load_from_to_named_state_dict."""
    for kwargs in inputs(name):
        problem = Linear()
        optimizer = make(name, named(problem.params, is_named), kwargs)
        for _ in range(3):
            optimizer.step(problem.closure)
        twin = problem.copy()
        again = make(name, named(twin.params, other_is_named), kwargs)
        again.load_state_dict(deepcopy(optimizer.state_dict()))
        for _ in range(3):
            optimizer.step(problem.closure)
            again.step(twin.closure)
            assert all(map(torch.equal, problem.params, twin.params))
        theirs, ours = without_names(again.state_dict()), without_names(optimizer.state_dict())
        assert theirs["param_groups"] == ours["param_groups"]
        assert_equal(theirs["state"], ours["state"], rtol=0, atol=0)
        names = again.state_dict()["param_groups"][0].get("param_names")
        assert names == (["name0", "name1"] if is_named or other_is_named else None)
        again.param_groups.extend(again.param_groups)
        assert without_names(again.state_dict())["param_groups"][-1] == ours["param_groups"][-1]


@every_info
def test_can_load_older_state_dict(name: str) -> None:
    for kwargs in inputs(name):
        problem = Linear()
        optimizer = make(name, problem.params, kwargs)
        optimizer.step(problem.closure)
        older = deepcopy(optimizer.state_dict())
        for group in older["param_groups"]:
            for flag in INFOS[name].not_og_supported_flags:
                group.pop(flag, None)
        optimizer.load_state_dict(older)
        optimizer.step(problem.closure)


@every_info
def test_save_load_equality_with_weights_only(name: str) -> None:
    for kwargs in inputs(name):
        problem = Linear()
        optimizer = make(name, problem.params, kwargs)
        optimizer.step(problem.closure)
        file = io.BytesIO()
        torch.save(saved := optimizer.state_dict(), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        assert loaded["param_groups"] == saved["param_groups"]
        assert_equal(loaded["state"], saved["state"], rtol=0, atol=0)


@every_info
def test_load_nontensor_step(name: str) -> None:
    for kwargs in inputs(name):
        problem = Linear()
        optimizer = make(name, problem.params, kwargs)
        for _ in range(3):
            optimizer.step(problem.closure)
        saved = deepcopy(optimizer.state_dict())
        for state in saved["state"].values():
            state["step"] = state["step"].item()
        optimizer.load_state_dict(saved)
        optimizer.step(problem.closure)
        assert all(state["step"] == 4 for state in optimizer.state.values())


@every_info
def test_state_dict_hooks(name: str) -> None:
    """Hooks of state_dict and load_state_dict, before and after, prepended."""

    def mark(optimizer: Any) -> None:
        optimizer.state["test"] = 1

    def unmark(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        assert state_dict["state"].pop("test") == 1
        return {**state_dict, "ran": True}

    def rate(lr: float) -> Callable[..., Any]:
        def hook(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
            copied = deepcopy(state_dict)
            copied["param_groups"][0]["lr"] = lr
            return copied

        return hook

    for kwargs in inputs(name):
        problem = Linear()
        optimizer = make(name, problem.params, kwargs)
        optimizer.register_state_dict_pre_hook(mark)
        assert optimizer.state_dict()["state"]["test"] == 1
        optimizer.register_state_dict_post_hook(unmark)
        saved = optimizer.state_dict()
        assert saved["ran"]
        optimizer.register_load_state_dict_pre_hook(rate(0.002))
        optimizer.register_load_state_dict_pre_hook(rate(0.003), prepend=True)
        seen: list[float] = []
        optimizer.register_load_state_dict_post_hook(lambda o, seen=seen: seen.append(o.param_groups[0]["lr"]))
        optimizer.load_state_dict(saved)
        assert seen == [0.002]
        optimizer.step(problem.closure)


@every_info
def test_step_all_hooks(name: str) -> None:
    """With test_step_pre_hook and test_step_post_hook."""
    seen: list[Any] = []

    def hook(number: int) -> Callable[..., None]:
        return lambda optimizer, args, kwargs: seen.append(number)

    optimizer = make(name, (problem := Linear()).params, {})
    handles = [
        hooks.register_optimizer_step_pre_hook(hook(0)),
        hooks.register_optimizer_step_post_hook(hook(5)),
        optimizer.register_step_pre_hook(hook(1)),
        optimizer.register_step_post_hook(hook(2)),
    ]
    try:
        optimizer.step(problem.closure)
        assert seen == [0, 1, 2, 5]
    finally:
        for handle in handles:
            handle.remove()
    optimizer.step(problem.closure)
    assert seen == [0, 1, 2, 5]
    closures = [problem.closure, Linear().closure]
    handle = optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 7), kwargs))
    assert optimizer.step(closures[0]) == 7
    handle.remove()


@every_info
def test_deepcopy_copies_all_public_attrs(name: str) -> None:
    for kwargs in inputs(name):
        problem = Linear()
        optimizer = make(name, problem.params, kwargs)
        for _ in range(3):
            optimizer.step(problem.closure)
        copied = deepcopy(optimizer)
        public = [{k for k in vars(each) if not k.startswith("_")} for each in (optimizer, copied)]
        assert public[0] == public[1]
        for p, q in zip(problem.params, copied.param_groups[0]["params"], strict=True):
            p.grad = q.grad = torch.ones_like(p)
        for each in (optimizer, copied):
            each.step()
        assert all(map(torch.equal, problem.params, copied.param_groups[0]["params"]))


@every_info
def test_non_empty_state(name: str) -> None:
    for kwargs in inputs(name):
        optimizer = make(name, (problem := Linear()).params, kwargs)
        optimizer.step(problem.closure)
        assert len(optimizer.state) == 2
        assert all(optimizer.state.values())


@every_info
def test_set_default_dtype_works(name: str) -> None:
    """Step counts are float32, or float64 if that is the default."""
    try:
        for default, expected in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
            torch.set_default_dtype(default)
            problem = Linear()
            optimizer = make(name, problem.params, {})
            optimizer.step(problem.closure)
            assert {state["step"].dtype for state in optimizer.state.values()} == {expected}
    finally:
        torch.set_default_dtype(torch.float32)


@every_info
def test_step_does_nothing_if_found_inf(name: str) -> None:
    """test_fused_does_not_step_if_foundinf, on the CPU."""
    for kwargs in inputs(name):
        for scale in (None, torch.ones(1)):
            p = torch.ones(1)
            p.grad = torch.ones(1)
            optimizer = make(name, [p], kwargs)
            optimizer.grad_scale, optimizer.found_inf = scale, torch.ones(())
            optimizer.step()
            assert p.item() == 1
            assert not optimizer.state
