"""`fastoptim.torch` with compressed state: the core's bits, what is shown, saved, converted and rejected."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastoptim as fo
from loops import loop
from optional import optional

torch = optional("torch")

import fastoptim.torch  # noqa: E402

FORMATS = ("native", "bfloat16", "int8")
each_format = loop("state_format", FORMATS[1:])
STORAGE: tuple[dict[str, Any], ...] = (
    {},
    {"master_weight_bits": 24},
    {"master_weight_bits": 32},
    {"kahan": True},
    {"stochastic_rounding": True, "seed": 7},
)


def numbers(seed: int, *shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def optimizer_of(name: str, params: Any, **options: Any) -> Any:
    return getattr(fastoptim.torch, name)(params, **options)


def parameters(dtype: Any = None, shapes: tuple[tuple[int, ...], ...] = ((9, 20), (3, 65))) -> list[Any]:
    return [torch.nn.Parameter(numbers(i, *shape).to(dtype or torch.float32)) for i, shape in enumerate(shapes)]


def step(opt: Any, seed: int) -> list[Any]:
    """Take a step by random gradients, and return them."""
    grads = []
    for i, p in enumerate(p for group in opt.param_groups for p in group["params"]):
        p.grad = numbers(100 * seed + i, *p.shape).to(p.dtype)
        grads.append(p.grad)
    opt.step()
    return grads


def parts(state: dict[str, Any]) -> dict[str, Any]:
    """The tensors of a parameter's state by flat names, without its step count."""
    flat: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": each for part, each in value.items()}
        elif name != "step":
            flat[name] = value
    return flat


def assert_same_state(ours: Any, theirs: Any) -> None:
    """Bits of two parameters' states, whatever the names of their arrays."""
    own, other = parts(ours), parts(theirs)
    assert len(own) == len(other)
    for a, b in zip(own.values(), other.values(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def assert_same(params: list[Any], others: list[Any]) -> None:
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


# ---- bits


@loop("name", [core.__name__ for core in fo.OPTIMIZERS.values()])
@each_format
def test_steps_have_the_core_s_bits(name: str, state_format: Any) -> None:
    for storage in STORAGE:
        dtype = torch.bfloat16 if storage else torch.float32
        options = {"state_format": state_format, "int8_min_size": 190, **storage}
        params, twins = parameters(dtype), [p.detach().clone() for p in parameters(dtype)]
        ours, core = optimizer_of(name, params, **options), getattr(fo, name)(twins, **options)
        for t in range(4):
            core.step(step(ours, t))
            assert_same(params, twins)
        for p, state in zip(params, core.state, strict=True):
            assert_same_state(ours.state[p], state)
        assert ours.state_nbytes == core.state_nbytes
        assert_same(ours.master_params(), core.master_params())
        for found, want in zip(ours.state_values().values(), core.state_values(), strict=True):
            assert_same_state(found, want)


@loop("name", ["AdamMini", "SM3", "Adafactor", "Muon", "SOAP"])
def test_matrix_methods_and_factored_optimizers_have_the_core_s_bits(name: str) -> None:
    options: dict[str, Any] = {"state_format": "int8", "int8_min_size": 0}
    if name == "Adafactor":
        options["beta1"] = 0.9
    params, twins = parameters(), [p.detach().clone() for p in parameters()]
    ours, core = optimizer_of(name, params, **options), getattr(fo, name)(twins, **options)
    for t in range(3):
        core.step(step(ours, t))
        assert_same(params, twins)
    assert ours.state_nbytes == core.state_nbytes


@each_format
def test_complex_parameters(state_format: Any) -> None:
    """Their real and imaginary parts are stepped."""
    whole = torch.nn.Parameter(torch.complex(numbers(0, 40), numbers(1, 40)))
    twin = torch.view_as_real(whole.detach().clone()).contiguous()
    options = {"state_format": state_format, "int8_min_size": 0}
    opt, core = fastoptim.torch.AdamW([whole], **options), fo.AdamW(twin, **options)
    for t in range(3):
        whole.grad = torch.complex(numbers(2 + t, 40), numbers(9 + t, 40))
        opt.step()
        core.step(torch.view_as_real(whole.grad))
        assert torch.equal(torch.view_as_real(whole.detach()), twin)
        opt.load_state_dict(opt.state_dict())


# ---- what is kept


def test_state_has_codes_and_scales() -> None:
    p, small = parameters(shapes=((64, 64), (64,)))
    opt = fastoptim.torch.AdamW([p, small], state_format="int8")
    step(opt, 0)
    m, v = (opt.state[p][name] for name in ("exp_avg", "exp_avg_sq"))
    assert (m["codes"].dtype, v["codes"].dtype, m["scales"].dtype) == (torch.int8, torch.uint8, torch.float32)
    assert (m["codes"].shape, m["scales"].shape) == (p.shape, (64,))
    assert opt.state[small]["exp_avg"].dtype == torch.float32  # fewer than 4096 elements
    assert opt.state_nbytes == 2 * (4096 + 4 * 64) + 2 * 4 * 64
    m["scales"].zero_()  # it is live
    assert not opt.state_values()[p]["exp_avg"].any()
    assert opt.state_values()[p].keys() == opt.state[p].keys()


def test_arrays_that_are_needed_later_have_the_format() -> None:
    (p,) = parameters(shapes=((64, 64),))
    opt = fastoptim.torch.SGD([p], state_format="int8")
    step(opt, 0)
    opt.param_groups[0]["momentum"] = 0.9
    step(opt, 1)
    assert opt.state[p]["momentum_buffer"]["codes"].dtype == torch.int8


@each_format
def test_state_follows_another_memory_order(state_format: Any) -> None:
    (p,) = parameters(shapes=((2, 8, 16, 17),))
    opt = fastoptim.torch.AdamW([p], lr=0.0, state_format=state_format)
    step(opt, 0)
    before = opt.state_values()[p]["exp_avg"]
    p.data = p.data.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(opt)
    p.grad = torch.zeros_like(p)
    opt.step()
    state = opt.state[p]["exp_avg"]
    assert (state["codes"] if state_format == "int8" else state).stride() == p.stride()
    after = opt.state_values()[p]["exp_avg"]
    assert (after - 0.9 * before).abs().mean() < 0.03 * before.abs().mean()
    (q,) = twin.param_groups[0]["params"]
    q.grad = torch.zeros_like(q)
    twin.step()
    assert torch.equal(p, q)


def test_sparse_gradients_and_remap() -> None:
    layer = torch.nn.Embedding(100, 64, sparse=True)
    opt = fastoptim.torch.AdamW(layer.parameters(), state_format="int8")
    twin_array = layer.weight.detach().numpy().copy()
    twin = fo.AdamW({"w": twin_array}, state_format="int8")
    for words in ([3, 5, 3], [99, 5, 0]):
        opt.zero_grad()
        layer(torch.tensor(words)).sum().backward()
        grad = layer.weight.grad.coalesce()
        twin.step({"w": fo.Rows(grad.indices()[0].numpy(), grad.values().numpy())})
        opt.step()
    assert torch.equal(layer.weight, torch.from_numpy(twin_array))
    for rows in (150, 20):  # at 20 rows the state is native
        source = np.arange(rows) % 100
        new = torch.nn.Parameter(torch.ones(rows, 64))
        opt.remap({layer.weight: new}, {layer.weight: torch.from_numpy(source)})
        twin.remap({"w": np.ones((rows, 64), np.float32)}, {"w": source})
        layer.weight = new
        assert_same_state(
            {name: opt.state[new][name] for name in ("exp_avg", "exp_avg_sq")},
            {name: shown(value) for name, value in twin.state["w"].items()},
        )
        assert isinstance(opt.state[new]["exp_avg"], dict) == (rows == 150)
        new.grad = torch.ones_like(new)
        opt.step()
        twin.step({"w": np.ones((rows, 64), np.float32)})
        assert torch.equal(new, torch.from_numpy(twin.params["w"]))


def shown(value: Any) -> Any:
    as_tensor = torch.from_numpy
    return {k: as_tensor(v) for k, v in value.items()} if isinstance(value, dict) else as_tensor(value)


# ---- copies and checkpoints


@each_format
@loop("storage", [{}, {"master_weight_bits": 24}, {"stochastic_rounding": True}])
def test_every_way_to_save_continues_with_the_same_bits(
    state_format: Any, storage: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """PyTorch casts floating state to the parameter's dtype; codes, scales and master bits are not."""
    options = {"state_format": state_format, "int8_min_size": 190, **storage}
    dtype = torch.bfloat16 if storage else torch.float32
    params = parameters(dtype)
    params[1].data = params[1].data.t().contiguous().t()  # in Fortran order
    first = fastoptim.torch.AdamW(params, lr=0.01, **options)
    for t in range(3):
        step(first, t)

    def new() -> Any:
        own = [torch.nn.Parameter(p.detach().clone()) for p in params]
        return fastoptim.torch.AdamW(own, lr=0.5, **options)

    path = tmp_path_factory.mktemp("files") / "x"
    fo.save(path, optimizer=first)
    written = io.BytesIO()
    torch.save(first.state_dict(), written)
    written.seek(0)
    twins = [first, copy.deepcopy(first), pickle.loads(pickle.dumps(first)), new(), new(), new()]
    twins[3].load_state_dict(copy.deepcopy(first.state_dict()))
    twins[4].load_state_dict(torch.load(written, weights_only=True))
    fo.load(path, optimizer=twins[5])
    for each in twins:
        own = each.param_groups[0]["params"]
        for p, q in zip(own, params, strict=True):
            assert_same_state(each.state[p], first.state[q]) if each is not first else None
    for each in twins[1:]:
        for t in range(3, 5):
            step(each, t)
    for t in range(3, 5):
        step(first, t)
    for each in twins:
        assert_same(each.param_groups[0]["params"], params)


@loop(
    ("saved", "own"), [(a, b) for a in ("native", "bfloat16", "int8") for b in ("native", "bfloat16", "int8") if a != b]
)
def test_another_format_is_converted_only_if_asked(saved: Any, own: Any) -> None:
    shapes = ((64, 65),)
    source = fastoptim.torch.Adam(parameters(shapes=shapes), state_format=saved)
    target = fastoptim.torch.Adam(parameters(shapes=shapes), state_format=own)
    step(source, 0)
    step(target, 1)
    (p,), (q,) = source.param_groups[0]["params"], target.param_groups[0]["params"]
    before = copy.deepcopy(parts(target.state[q]))
    message = rf"state_dict\['param_groups'\]\[0\]: state_format: expected '{own}', got '{saved}'; .*convert=True"
    with pytest.raises(ValueError, match=message):
        target.load_state_dict(source.state_dict())
    assert_same_state(target.state[q], before)
    target.load_state_dict(source.state_dict(), convert=True)
    assert target.param_groups[0]["state_format"] == own
    found, want = target.state_values()[q], source.state_values()[p]
    for name in ("exp_avg", "exp_avg_sq"):
        assert (found[name] - want[name]).abs().mean() < 0.01 * want[name].abs().mean()
    step(target, 2)
    core = fo.Adam([p.detach().clone()], state_format=saved)
    core.step([numbers(0, 64, 65)])
    converted = fo.Adam([p.detach().clone()], state_format=own)
    converted.load_state_dict(core.state_dict(), convert=True)
    again = fastoptim.torch.Adam([q], state_format=own)
    again.load_state_dict(source.state_dict(), convert=True)
    assert_same_state(again.state[q], converted.state[0])


def test_state_dicts_of_torch_optim_are_converted_if_asked() -> None:
    params = parameters(shapes=((64, 65),))
    theirs = torch.optim.Adam(params)
    step(theirs, 0)
    opt = fastoptim.torch.Adam(params, state_format="int8")
    with pytest.raises(ValueError, match="state_format: expected 'int8', got 'native'"):
        opt.load_state_dict(theirs.state_dict())
    opt.load_state_dict(theirs.state_dict(), convert=True)
    assert opt.state[params[0]]["exp_avg_sq"]["codes"].dtype == torch.uint8
    back = fastoptim.torch.Adam(params)
    back.load_state_dict(opt.state_dict(), convert=True)
    theirs.load_state_dict(back.state_dict())
    step(theirs, 1)


def test_another_least_size_is_converted_only_if_asked() -> None:
    params = parameters(shapes=((64, 65),))
    source = fastoptim.torch.Adam(params, state_format="int8")
    step(source, 0)
    target = fastoptim.torch.Adam(params, state_format="int8", int8_min_size=10_000)
    with pytest.raises(ValueError, match=r"state_dict\['state'\]\[0\]: expected 'm' in state_format 'native', got"):
        target.load_state_dict(source.state_dict())
    target.load_state_dict(source.state_dict(), convert=True)
    assert torch.equal(target.state[params[0]]["exp_avg"], source.state_values()[params[0]]["exp_avg"])


@loop("convert", [False, True])
def test_damaged_codes_are_rejected(convert: bool) -> None:
    (p,) = parameters(shapes=((64, 65),))
    opt = fastoptim.torch.Adam([p], state_format="int8")
    step(opt, 0)
    before = copy.deepcopy(parts(opt.state[p]))
    changes: dict[str, Any] = {
        "codes": (lambda array: array[:1], lambda array: array.to(torch.int16), None),
        "scales": (lambda array: array[1:], None),
    }
    for part, each in changes.items():
        for change in each:
            saved = copy.deepcopy(opt.state_dict())
            own = saved["state"][0]["exp_avg"]
            if change is None:
                del own[part]
            else:
                own[part] = change(own[part])
            with pytest.raises(ValueError, match=r"state_dict"):
                opt.load_state_dict(saved, convert=convert)
            assert_same_state(opt.state[p], before)


def test_a_group_is_added_with_a_format_of_its_own() -> None:
    first, second = parameters(shapes=((64, 65),) * 2)
    opt = fastoptim.torch.Adam([first])
    step(opt, 0)
    opt.add_param_group({"params": [second], "state_format": "int8"})
    step(opt, 1)
    assert isinstance(opt.state[second]["exp_avg"], dict)
    assert isinstance(opt.state[first]["exp_avg"], torch.Tensor)
    restored = copy.deepcopy(opt)
    restored.load_state_dict(opt.state_dict())
    for each in (opt, restored):
        step(each, 2)
    assert_same(opt.param_groups[1]["params"], restored.param_groups[1]["params"])


# ---- refusals


@loop("renewed", [False, True])
def test_the_format_cannot_be_assigned_where_there_is_state(renewed: bool) -> None:
    (p,) = parameters(shapes=((64, 65),))
    opt = fastoptim.torch.Adam([p])
    opt.param_groups[0]["state_format"] = "int8"
    step(opt, 0)
    assert isinstance(opt.state[p]["exp_avg"], dict)
    if renewed:
        opt = pickle.loads(pickle.dumps(opt))
    opt.param_groups[0]["state_format"] = "native"
    with pytest.raises(ValueError, match=r"state_format: expected 'int8'.*convert=True"):
        step(opt, 1)
    opt.param_groups[0]["state_format"] = "int8"
    step(opt, 1)
    (p,) = opt.param_groups[0]["params"]
    opt.state[p]["exp_avg"].pop("scales")
    with pytest.raises(ValueError, match="state_format: expected 'native', the format of its 'm', got 'int8'"):
        step(opt, 2)


def test_a_fresh_state_dict_keeps_the_format() -> None:
    """One from before the first step."""
    (p,) = parameters(shapes=((64, 65),))
    opt = fastoptim.torch.Adam([p], state_format="int8")
    opt.load_state_dict(opt.state_dict())
    step(opt, 0)
    assert isinstance(opt.state[p]["exp_avg"], dict)


def test_blocks_of_a_part_of_a_tensor_are_rejected(tmp_path: Path) -> None:
    tensor = optional("torch.distributed.tensor")
    if not torch.distributed.is_gloo_available():
        pytest.skip("needs gloo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/x", rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        p = torch.nn.Parameter(tensor.distribute_tensor(numbers(0, 64, 64), mesh, [tensor.Shard(0)]))
        for state_format in ("bfloat16", "int8"):
            opt = fastoptim.torch.AdamW([p], state_format=state_format)
            p.grad = torch.ones_like(p)
            if state_format == "bfloat16":
                opt.step()
                assert opt.state[p]["exp_avg"].to_local().dtype == torch.bfloat16
                continue
            with pytest.raises(ValueError, match=r"expected state_format 'native' or 'bfloat16'.*got 'int8'"):
                opt.step()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@loop("flat", [False, True])
def test_distributed_checkpoints_keep_codes(flat: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nested dicts, and flattened ones with the names of the parameters."""
    checkpoint = optional("torch.distributed.checkpoint")
    state_dicts = optional("torch.distributed.checkpoint.state_dict")
    options = {"options": state_dicts.StateDictOptions(flatten_optimizer_state_dict=flat)}
    path = tmp_path_factory.mktemp("checkpoint")
    models, optimizers = [], []
    for _ in range(2):
        models.append(torch.nn.Linear(64, 65))
        optimizers.append(fastoptim.torch.AdamW(models[-1].parameters(), state_format="int8"))
    step(optimizers[0], 0)
    models[1].load_state_dict(models[0].state_dict())
    saved = state_dicts.get_optimizer_state_dict(models[0], optimizers[0], **options)
    checkpoint.save({"optimizer": saved}, checkpoint_id=path)
    target = state_dicts.get_optimizer_state_dict(models[1], optimizers[1], **options)
    checkpoint.load({"optimizer": target}, checkpoint_id=path)
    state_dicts.set_optimizer_state_dict(models[1], optimizers[1], target, **options)
    for opt in optimizers:
        step(opt, 1)
    assert_same(list(models[0].parameters()), list(models[1].parameters()))
    assert isinstance(optimizers[1].state[models[1].weight]["exp_avg"], dict)
