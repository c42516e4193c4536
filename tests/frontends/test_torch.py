"""`fastoptim.torch`: the core's bits, and everything that a user of `torch.optim` does with an optimizer."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import fastoptim as fo
from devices import IS_EMULATED, TorchOnTheCpu
from fastoptim.arrays import families
from loops import loop
from optional import optional

torch = optional("torch")

import fastoptim.torch  # noqa: E402

every_name = loop("name", [core.__name__ for core in fo.OPTIMIZERS.values()])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def optimizer_of(name: str, params: Any, **options: Any) -> Any:
    return getattr(fastoptim.torch, name)(params, **options)


def tensors(*dtypes: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (5,), ())
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return [p.to(dtype).requires_grad_() for p, dtype in zip(made, dtypes or [torch.float32] * 3, strict=True)]


def give_gradients(params: list[Any], seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    return [p.grad for p in params]


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


class Pair:
    """An optimizer, and one of the core over tensors with the same values."""

    def __init__(self, name: str, **options: Any) -> None:
        dtypes = (torch.float32, torch.float64, torch.bfloat16)
        self.params, self.twins = tensors(*dtypes), tensors(*dtypes)
        self.ours = optimizer_of(name, self.params, **options)
        self.core = getattr(fo, name)(self.twins, **options)

    def step(self, seed: int, missing: int = -1) -> None:
        grads = give_gradients(self.params, seed)
        if missing >= 0:
            self.params[missing].grad = grads[missing] = None
        self.ours.step()
        self.core.step(grads)
        assert_same(self.params, self.twins)


@every_name
def test_steps_have_the_core_s_bits(name: str) -> None:
    """Rates change as schedules change them, parameters miss gradients, and an option changes."""
    pair = Pair(name)
    for seed in range(12):
        if seed in (4, 5, 6):
            for opt in (pair.ours, pair.core):
                opt.param_groups[0]["lr"] *= 0.5
        if seed == 9:
            for opt in (pair.ours, pair.core):
                opt.param_groups[0].update(weight_decay=0.25, maximize=True)
        pair.step(seed, missing={3: 1, 10: 0}.get(seed, -1))
    counts = {seed: int(pair.ours.state[p]["step"]) for seed, p in enumerate(pair.params)}
    assert counts == ({0: 12, 1: 12, 2: 12} if fo.OPTIMIZERS[pair.core.name].reduces_all else {0: 11, 1: 11, 2: 12})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("SGD", "AdamW", "NAdam", "LAMB", "Prodigy")),
        ("AdamW", {"state_format": "int8", "int8_min_size": 0}),
        ("NAdam", {"state_format": "bfloat16"}),
        *((name, {}) for name in ("Adafactor", "CAME", "SM3", "AdamMini")),
    ],
)
@pytest.mark.parametrize("place", ["emulated"] if IS_EMULATED else [pytest.param("cuda", marks=pytest.mark.gpu)])
def test_steps_on_a_gpu(name: str, options: dict[str, Any], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rates that change, a gradient that is missing, a loss scale, and a state dict that is loaded."""
    if place == "emulated":
        monkeypatch.setattr(families, "FAMILIES", [TorchOnTheCpu()])
    params = [p.detach().to("cpu" if IS_EMULATED else "cuda").requires_grad_() for p in tensors()]
    twins = [p.detach().cpu().numpy().copy() for p in params]
    ours, core = optimizer_of(name, params, **options), getattr(fo, name)(twins, **options)
    for seed in range(8):
        grads = [
            p.to(params[0].device) for p in give_gradients([torch.empty_like(p, device="cpu") for p in params], seed)
        ]
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        if seed == 3:
            ours.param_groups[0]["lr"] = core.lr = 0.25
        if seed == 5:
            ours.load_state_dict(copy.deepcopy(ours.state_dict()))
        if seed == 6:
            params[1].grad = None
        ours.step()
        core.step([None if p.grad is None else grad.cpu().numpy() for p, grad in zip(params, grads, strict=True)])
        for p, twin in zip(params, twins, strict=True):
            assert p.detach().cpu().numpy().tobytes() == twin.tobytes()


@every_name
def test_copies_pickles_files_and_state_dicts_continue_with_the_same_bits(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    params, path = tensors(), tmp_path_factory.mktemp("files") / "x"
    first = optimizer_of(name, params)
    for seed in range(3):
        give_gradients(params, seed)
        first.step()
    pickled = pickle.loads(pickle.dumps(first))
    assert type(pickled) is type(first)
    loaded_params = [p.detach().clone().requires_grad_() for p in params]
    loaded = optimizer_of(name, loaded_params, lr=0.5)
    loaded.load_state_dict(copy.deepcopy(first.state_dict()))
    read_params = [torch.zeros_like(p).requires_grad_() for p in params]
    read = optimizer_of(name, read_params, lr=0.5)
    fo.save(path, params=params, optimizer=first)
    fo.load(path, params=read_params, optimizer=read)
    for each in (first, copy.deepcopy(first), pickled, loaded, read):
        own = each.param_groups[0]["params"]
        for seed in range(3, 6):
            give_gradients(own, seed)
            each.step()
        if each is not first:
            assert_same(own, params)


@every_name
def test_the_signature_and_the_docstring(name: str) -> None:
    cls, core = getattr(fastoptim.torch, name), getattr(fo, name)
    ours = inspect.signature(cls).parameters
    assert set(inspect.signature(core).parameters) - {"backend"} <= set(ours)
    if theirs := getattr(torch.optim, name, None):
        expected = inspect.signature(theirs).parameters
        assert set(expected) <= set(ours)
        positional = [[p.name for p in each.values() if p.kind is p.POSITIONAL_OR_KEYWORD] for each in (expected, ours)]
        assert positional[0] == positional[1]
        for key, parameter in expected.items():
            assert ours[key].default == parameter.default, key
    assert cls.__doc__ is not None
    assert f"fastoptim.torch.{name}(" in cls.__doc__
    assert "`Optimizer`" not in cls.__doc__
    for key in (*(ours.keys() - core.shared), "step"):
        assert re.search(rf"\b{key}\b", cls.__doc__), key
    assert pickle.loads(pickle.dumps(cls)) is cls


def test_unknown_names_and_options() -> None:
    with pytest.raises(AttributeError, match="no attribute 'AdamX'"):
        fastoptim.torch.AdamX  # noqa: B018
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        fastoptim.torch.Adam(tensors(), beta=1)
    optimizer = fastoptim.torch.Adam(tensors())
    with pytest.raises(ValueError, match="betas"):
        optimizer.add_param_group({"params": tensors(), "betas": (2, 0.9)})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(RuntimeError, match="differentiable: expected False"):
        fastoptim.torch.Adam(tensors(), differentiable=True)


def test_state_that_is_replaced_is_used() -> None:
    """Including a count that is assigned in place, a parameter with other memory, and a group that is added."""
    params, twins = tensors(), tensors()
    ours, theirs = fastoptim.torch.Adam(params), torch.optim.Adam(twins)

    def steps() -> None:
        for seed in range(3):
            give_gradients(params, seed)
            give_gradients(twins, seed)
            ours.step()
            theirs.step()
        for p, q in zip(params, twins, strict=True):
            torch.testing.assert_close(p, q)

    steps()
    for opt, own in ((ours, params), (theirs, twins)):
        opt.state[own[0]]["exp_avg"] = torch.full((4, 3), 0.5)
    steps()
    for opt, own in ((ours, params), (theirs, twins)):
        opt.state[own[1]]["step"].fill_(100)
    steps()
    for opt, own in ((ours, params), (theirs, twins)):
        opt.state[own[2]] = {key: value.clone() * 2 for key, value in opt.state[own[2]].items()}
    steps()
    for own in (params, twins):
        own[0].data = torch.ones(4, 3)
    steps()
    for opt, own in ((ours, params), (theirs, twins)):
        own.append(torch.ones(2, requires_grad=True))
        opt.add_param_group({"params": [own[3]], "lr": 0.1})
    steps()
    for opt in (ours, theirs):
        opt.param_groups[1]["amsgrad"] = True
        opt.state.clear()
    steps()
    assert "max_exp_avg_sq" in ours.state[params[3]]


def test_an_option_that_adds_state_in_mid_run() -> None:
    params, twins = tensors(), tensors()
    ours, theirs = fastoptim.torch.SGD(params, lr=0.1), torch.optim.SGD(twins, lr=0.1)
    for seed in range(6):
        if seed == 3:
            for opt in (ours, theirs):
                opt.param_groups[0]["momentum"] = 0.9
        give_gradients(params, seed)
        give_gradients(twins, seed)
        ours.step()
        theirs.step()
        for p, q in zip(params, twins, strict=True):
            torch.testing.assert_close(p, q)
    assert "momentum_buffer" in ours.state[params[0]]


def scaled_steps(optimizer: Any, params: list[Any], scaler: Any) -> None:
    for seed in range(6):
        grads = give_gradients(params, seed)
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad * scaler.get_scale()
        if seed == 2:
            params[1].grad[0] = torch.inf
        if seed == 4:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(params, 0.5)
        scaler.step(optimizer)
        scaler.update()


@loop("name", ["SGD", "AdamW", "NAdam", "Lion"])
def test_grad_scaler(name: str) -> None:
    """A step with an overflow is skipped and not counted, and the scale is a division within the step."""
    params, twins = tensors(), tensors()
    scaler, plain = (torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2) for _ in range(2))
    ours = optimizer_of(name, params)
    scaler.scale(torch.ones(()))  # creates the scale's tensor
    plain.scale(torch.ones(()))
    theirs = getattr(torch.optim, name, None)
    twin = theirs(twins) if theirs else optimizer_of(name, twins)
    if not theirs:
        twin._step_supports_amp_scaling = False  # gradients are divided before the step
    scaled_steps(ours, params, scaler)
    scaled_steps(twin, twins, plain)
    assert scaler.get_scale() == plain.get_scale()
    assert int(ours.state[params[0]]["step"]) == 5
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)


SCHEDULERS: list[Callable[[Any], Any]] = [
    lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=40),
    lambda opt: torch.optim.lr_scheduler.CyclicLR(opt, 0.01, 0.1, step_size_up=6),
    lambda opt: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 5),
    lambda opt: torch.optim.lr_scheduler.SequentialLR(
        opt,
        [torch.optim.lr_scheduler.LinearLR(opt, 0.1), torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)],
        milestones=[4],
    ),
    lambda opt: torch.optim.swa_utils.SWALR(opt, 0.02, anneal_epochs=7),
]


@loop("make", SCHEDULERS)
@loop("options", [{"momentum": 0.9}, {"momentum": 0.9, "lr": torch.tensor(0.05)}])
def test_schedulers(make: Any, options: dict[str, Any]) -> None:
    params, twins = tensors(), tensors()
    ours = fastoptim.torch.SGD(params, **{"lr": 0.05, **copy.deepcopy(options)})
    theirs = torch.optim.SGD(twins, **{"lr": 0.05, **copy.deepcopy(options)})
    schedulers = make(ours), make(theirs)
    for seed in range(20):
        for opt, own, scheduler in zip((ours, theirs), (params, twins), schedulers, strict=True):
            give_gradients(own, seed)
            opt.step()
            scheduler.step()
        for p, q in zip(params, twins, strict=True):
            torch.testing.assert_close(p, q)


def test_values_in_the_parameters_place() -> None:
    """Averages, look-ahead points and schedule-free averages are the core's."""
    averaged, ahead, free = Pair("SGD", lr=0.1, ema=0.5), Pair("NAG", lr=0.1), Pair("ScheduleFreeAdamW", lr=0.1)
    for pair in (averaged, ahead, free):
        pair.step(1)
        pair.step(2)
    for ours, core, pair in (
        (averaged.ours.averaged, averaged.core.averaged, averaged),
        (ahead.ours.lookahead, ahead.core.lookahead, ahead),
    ):
        with ours(), core():
            assert_same(pair.params, pair.twins)
            with pytest.raises(RuntimeError, match="expected its block to have ended"):
                pair.ours.step()
    for opt in (free.ours, free.core):
        opt.eval()
    assert_same(free.params, free.twins)
    for call in (free.ours.step, free.ours.state_dict):
        with pytest.raises(RuntimeError, match=r"expected train\(\) before"):
            call()
    for opt in (free.ours, free.core):
        opt.train()
    for pair in (averaged, ahead, free):
        pair.step(3)


def test_sophia_s_hessians() -> None:
    pair = Pair("Sophia", lr=0.1)
    for seed in range(3):
        estimates = [p.detach().abs() for p in pair.params]
        for opt in (pair.ours, pair.core):
            opt.update_hessian(estimates)
        pair.step(seed)


def test_autograd_sees_that_parameters_have_changed() -> None:
    p = torch.ones(3, requires_grad=True)
    loss = (p * p * p).sum()
    loss.backward(retain_graph=True)
    for _ in range(3):
        fastoptim.torch.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@loop("name", ["SGD", "AdamW", "Muon"])
def test_compiled_models_and_functions(name: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2, bias=name != "Muon")
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager")
    ours, theirs = optimizer_of(name, model.parameters()), optimizer_of(name, twin.parameters())
    for _ in range(3):
        for net, opt in ((compiled, ours), (twin, theirs)):
            opt.zero_grad()
            net(torch.ones(4, 3)).square().sum().backward()
            opt.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_compiled_step_is_a_break_of_the_graph() -> None:
    params, twins = tensors(), tensors()
    ours, theirs = fastoptim.torch.AdamW(params), fastoptim.torch.AdamW(twins)
    step = torch.compile(ours.step, backend="aot_eager")
    for seed in range(3):
        give_gradients(params, seed)
        give_gradients(twins, seed)
        step()
        theirs.step()
    assert_same(params, twins)


@loop("rate", [-1.0, float("nan"), float("inf"), "0.1"])
def test_a_rate_out_of_range_changes_nothing(rate: Any) -> None:
    params = tensors()
    optimizer = fastoptim.torch.AdamW(params)
    for seed in range(3):
        give_gradients(params, seed)
        optimizer.step()
    before, saved = [p.detach().clone() for p in params], copy.deepcopy(optimizer.state_dict()["state"])
    optimizer.param_groups[0]["lr"] = rate
    with pytest.raises((ValueError, TypeError), match=r"param_groups\[0\].*lr"):
        optimizer.step()
    assert_same(params, before)
    torch.testing.assert_close(optimizer.state_dict()["state"], saved, rtol=0, atol=0)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()


def test_loaded_state_shares_no_memory() -> None:
    params, twins = tensors(), tensors()
    ours, theirs = (fastoptim.torch.SGD(own, lr=0.1, momentum=0.9) for own in (params, twins))
    give_gradients(params, 0)
    ours.step()
    theirs.load_state_dict(ours.state_dict())
    before = copy.deepcopy(ours.state_dict()["state"])
    give_gradients(twins, 1)
    theirs.step()
    torch.testing.assert_close(ours.state_dict()["state"], before, rtol=0, atol=0)


def test_a_subclass_and_its_step() -> None:
    class Mine(fastoptim.torch.Adam):  # type: ignore[misc]
        calls = 0

        def step(self, closure: Any = None) -> Any:
            self.calls += 1
            return super().step(closure)

    params, twins = tensors(), tensors()
    mine, plain = Mine(params), fastoptim.torch.Adam(twins)
    for opt, own in ((mine, params), (plain, twins)):
        give_gradients(own, 0)
        opt.step()
    assert mine.calls == 1
    assert_same(params, twins)


@pytest.fixture
def mesh(tmp_path: Any) -> Iterator[Any]:
    """A device mesh of this process alone."""
    distributed = optional("torch.distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield optional("torch.distributed.device_mesh").init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_fsdp2(mesh: Any) -> None:
    """Local shards are stepped in place; the state is made of DTensors, as PyTorch's checkpoints expect."""
    fsdp, tensor = optional("torch.distributed.fsdp"), optional("torch.distributed.tensor")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    twin = copy.deepcopy(model)
    fsdp.fully_shard(model, mesh=mesh)
    ours, theirs = fastoptim.torch.AdamW(model.parameters()), fastoptim.torch.AdamW(twin.parameters())
    for step in range(4):
        for net, opt in ((model, ours), (twin, theirs)):
            opt.zero_grad()
            net(torch.ones(2, 3)).square().sum().backward()
            opt.step()
        if step == 1:
            ours.load_state_dict(copy.deepcopy(ours.state_dict()))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert isinstance(p, tensor.DTensor)
        assert torch.equal(p.to_local(), q)
        state = ours.state[p]["exp_avg"]
        assert isinstance(state, tensor.DTensor)
        assert state.placements == p.placements
        assert torch.equal(state.to_local(), theirs.state[q]["exp_avg"])
    for opt in (
        fastoptim.torch.LAMB(model.parameters()),
        fastoptim.torch.Adam(model.parameters(), clip_global_norm=1.0),
    ):
        with pytest.raises(ValueError, match=r"param_groups\[0\]\['params'\]\[0\]: .*got a DTensor"):
            opt.step()


def test_a_parameter_given_twice_is_rejected() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = fastoptim.torch.Adam([p, p])
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"\['params'\]\[1\]: expected each parameter once, got that of .*\[0\]$"):
        optimizer.step()
    assert not optimizer.state
    assert bool((p == 1).all())


def test_parameters_without_elements_of_their_own_are_rejected() -> None:
    lazy = torch.nn.Parameter(torch.ones(2, dtype=torch.cfloat).conj())
    lazy.grad = torch.ones(2, dtype=torch.cfloat)
    meta = torch.nn.Parameter(torch.ones(2, device="meta"))
    meta.grad = torch.ones(2, device="meta")
    for p, got in ((lazy, "lazy conjugation"), (meta, "device meta")):
        with pytest.raises(TypeError, match=rf"param_groups\[0\]\['params'\]\[0\]: .*{got}"):
            fastoptim.torch.SGD([p], lr=0.1).step()


@loop("of", ["group", "constructor"])
@loop(
    ("name", "option", "first", "second"),
    [
        ("SGD", "weight_decay", 0.0, 1.0),
        ("Adam", "eps", 1.0, 0.5),
        ("Adam", "betas", (0.5, 0.5), (0.25, 0.75)),
        ("Adam", "weight_decay", 0.5, 0.25),
    ],
)
def test_options_that_are_tensors_are_read_at_every_step(
    of: str, name: str, option: str, first: Any, second: Any
) -> None:
    live = tuple(map(torch.tensor, first)) if isinstance(first, tuple) else torch.tensor(first)
    params, twins = tensors(), tensors()
    ours = optimizer_of(name, params, lr=0.1, **({option: live} if of == "constructor" else {}))
    theirs = optimizer_of(name, twins, lr=0.1)
    for seed in range(8):
        if seed == 2:
            ours.param_groups[0][option] = live
        if seed == 5:
            pairs = zip(live, second, strict=True) if isinstance(live, tuple) else [(live, second)]
            for tensor, value in pairs:
                tensor.fill_(value)
        if seed >= 2 or of == "constructor":
            theirs.param_groups[0][option] = first if seed < 5 else second
        give_gradients(params, seed)
        give_gradients(twins, seed)
        ours.step()
        theirs.step()
        assert_same(params, twins)
    assert ours.param_groups[0][option] is live


def made_by(module: Any, name: str, **options: Any) -> Any:
    params = tensors()
    give_gradients(params, 1)
    optimizer = getattr(module, name)(params, **options)
    optimizer.step()
    return optimizer


def damaged(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    saved: dict[str, Any] = copy.deepcopy(made_by(torch.optim, "Adam", lr=0.5).state_dict())
    change(saved)
    return saved


REJECTED: list[tuple[str, Callable[[], Any], str]] = [
    ("Adam", lambda: made_by(torch.optim, "SGD", lr=0.5).state_dict(), "dampening.* of another"),
    ("Adam", lambda: made_by(fastoptim.torch, "SGD", lr=0.5).state_dict(), "dampening.* of another"),
    ("Adam", lambda: made_by(torch.optim, "Adamax").state_dict(), "exp_inf.* of another"),
    ("RMSprop", lambda: made_by(torch.optim, "Adam").state_dict(), "amsgrad.* of another"),
    ("Lion", lambda: made_by(torch.optim, "Adam").state_dict(), "of another optimizer"),
    ("Adam", lambda: damaged(lambda saved: saved["state"][1].pop("exp_avg_sq")), "without .'exp_avg_sq'"),
    ("Adam", lambda: damaged(lambda saved: saved["state"][1].update(exp_avg=torch.ones(7))), "expected exp_avg of"),
    ("Adam", lambda: damaged(lambda saved: saved["param_groups"][0].update(lr=-1.0)), r"param_groups\[0\]: lr"),
]


@loop(("name", "saved", "message"), REJECTED)
def test_a_state_dict_that_is_rejected_changes_nothing(name: str, saved: Callable[[], Any], message: str) -> None:
    optimizer, twin = made_by(fastoptim.torch, name), made_by(fastoptim.torch, name)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved())
    found, expected = optimizer.state_dict(), twin.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    torch.testing.assert_close(found["state"], expected["state"], rtol=0, atol=0)
    for opt in (optimizer, twin):
        give_gradients(opt.param_groups[0]["params"], 2)
        opt.step()
    assert_same(optimizer.param_groups[0]["params"], twin.param_groups[0]["params"])


@loop("change", ["channels_last", "strided", "double"])
@loop("name", ["SGD", "AdamW"])
def test_a_parameter_whose_layout_changes(name: str, change: str) -> None:
    options = {"momentum": 0.9} if name == "SGD" else {}
    torch.manual_seed(0)
    own, twin = (torch.nn.Parameter(p) for p in (torch.randn(2, 3, 4, 5),) * 2)
    twin.data = own.data.clone()
    ours, theirs = optimizer_of(name, [own], lr=0.1, **options), getattr(torch.optim, name)([twin], lr=0.1, **options)
    for step in range(6):
        if step == 3 and change == "channels_last":
            own.data = own.data.to(memory_format=torch.channels_last)
        elif step == 3 and change == "strided":
            own.data = torch.stack([own.data, own.data], -1)[..., 0]
        elif step == 3:
            own.grad = twin.grad = None
            own.data, twin.data = own.data.double(), twin.data.double()
            for key, value in theirs.state[twin].items():  # which torch.optim.Adam does not convert
                theirs.state[twin][key] = value if key == "step" else value.double()
        own.grad = torch.randn(own.shape).to(own.dtype)
        twin.grad = own.grad.clone()
        ours.step()
        theirs.step()
        torch.testing.assert_close(own.float(), twin.float(), rtol=1e-4, atol=1e-5)  # the first steps are float32
    state = ours.state[own]["momentum_buffer" if name == "SGD" else "exp_avg"]
    assert state.dtype == own.dtype
    assert change == "strided" or state.stride() == own.stride()


@loop(("flags", "message"), [({"foreach": True, "fused": True}, "^fused: "), ({"differentiable": True}, "^different")])
def test_flags_that_are_rejected(flags: dict[str, bool], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        fastoptim.torch.Adam(tensors(), **flags)


@loop(
    "options", [{"master_weight_bits": 24}, {"master_weight_bits": 32}, {"kahan": True}, {"stochastic_rounding": True}]
)
def test_parameters_of_16_bits_keep_small_steps(options: dict[str, Any]) -> None:
    """With the bits of the core; state dicts keep the integers, and an absent gradient shifts no random numbers."""
    params, own = tensors(*[torch.bfloat16] * 3), tensors(*[torch.bfloat16] * 3)
    opt, core = optimizer_of("AdamW", params, lr=1e-4, **options), fo.AdamW(own, lr=1e-4, **options)
    for t in range(4):
        grads: list[Any] = give_gradients(params, t)
        if t < 2:
            params[0].grad = grads[0] = None
        opt.step()
        core.step(grads)
        assert_same(params, own)
        assert_same(opt.master_params(), core.master_params())
        if t == 2:
            saved = opt.state_dict()
            opt = optimizer_of("AdamW", params, **options)
            opt.load_state_dict(copy.deepcopy(saved))
    for p, state in zip(params, core.state, strict=True):
        for name in state.keys() - {"m", "v"}:
            assert torch.equal(opt.state[p][name], state[name])
            assert opt.state[p][name].dtype == state[name].dtype
    opt.param_groups[0].update(dict.fromkeys(options, None if "master_weight_bits" in options else False))
    give_gradients(params, 9)
    opt.step()
    assert {"exp_avg", "exp_avg_sq", "step"} == opt.state[params[0]].keys()


@loop("options", [{"master_weight_bits": 24}, {"master_weight_bits": 32}, {"kahan": True}])
@loop("loads", [False, True])
def test_extra_bits_end_where_a_parameter_gets_more_bits(options: dict[str, Any], loads: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        params = tensors(*[torch.bfloat16] * 3)[:1]
        opt = optimizer_of("AdamW", params, lr=0.1, **options)
        give_gradients(params, 0)
        opt.step()
        (p,), saved = params, opt.state_dict()
        p.data = p.data.to(dtype)
        if loads:
            opt.load_state_dict(saved)
        before, p.grad = p.detach().clone(), torch.ones_like(p)
        opt.step()
        assert {"exp_avg", "exp_avg_sq", "step"} == opt.state[p].keys()
        assert torch.equal(opt.master_params()[0], p)
        assert not torch.equal(p, before)
