"""The PTX that nvcc makes of the kernels equals the reference in every bit, run by an interpreter without a GPU.

An emulated build makes the launches: their arguments, tables and workspace are those of a GPU.  The interpreter
(tests/ptx) also checks each access, race and barrier.  A sample of the optimizers runs unasked; the exhaustive tests
compile and run every kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice, product
from math import inf
from typing import Any, NamedTuple

import numpy as np
import pytest

import fastoptim as fo
from cases import (
    DTYPES,
    FLOAT32,
    FLOAT64,
    Array,
    Case,
    DType,
    assert_same_bits,
    ordinary_values,
    random_values,
    special_values,
    state_values,
)
from devices import (
    FACTORED_RULES,
    IS_EMULATED,
    OFFSETS,
    OPTIMIZERS,
    PREPARED_CASES,
    VARIANT_CASES,
    Placed,
    get,
    import_module,
)
from fastoptim import core
from fastoptim.arrays.cuda_families import CuPy
from fastoptim.engines.gpu_axes import GpuAxes, Moment
from fastoptim.engines.reference import FLUSH_INTERVAL
from fastoptim.matrix.factors import average
from fastoptim.optimizer.base import FACTORED_OPTIMIZERS, MATRIX_OPTIMIZERS
from fastoptim.options.schema import SCALES
from fastoptim.random_bits import normal_numbers
from fastoptim.reference_math import square_sums, totals
from nvcc import CSRC, ptx_of_all, ptx_of_some, rule_names, tool
from ptx.device import Device
from ptx.machine import Program
from ptx.memory import Fault
from ptx.mutants import fused, renamed, widened, without_barrier
from ptx.parser import Kernel, parse

SIZE = 1031  # what 128 threads move as vectors, and 7 more
# Rules that no call of an optimizer's `step` launches.
LBFGS = {f"lbfgs_{name}" for name in ("add", "add_pair", "add_four", "dot", "dots", "scale")}
MATRICES = {"muon_direction", "muon", "soap_gradient", "soap_direction", "soap", "shampoo_gradient", "shampoo"}
OTHER_RULES = {"sophia_hessian", "shampoo_grafted", *LBFGS, *MATRICES, *FACTORED_RULES}
MUTANTS = 9  # of each kind: as many sums as Adam's update of one element has
CHUNK, SUM_CHUNK = 4096, 16384  # elements of an update's and of a reduction's block
PAIRS = list(product(DTYPES, DTYPES))


def kernel_kind(optimizer: type[fo.Optimizer]) -> tuple[bool, ...]:
    """Return which kernels the optimizer's rules have."""
    schemas = [optimizer.state_schema[name] for name in optimizer.state]
    has_scalars, has_rows = any(each.is_scalar for each in schemas), any(each.is_of_rows for each in schemas)
    return bool(schemas), has_scalars, optimizer.reduces_all, optimizer.reduce_terms is None, has_rows


SAMPLE: list[type[fo.Optimizer]] = [*{kernel_kind(cls): cls for cls in (*reversed(OPTIMIZERS), fo.Adam)}.values()]


def needs_nvcc() -> Any:
    if not IS_EMULATED:
        pytest.skip("needs a build with FASTOPTIM_CUDA=EMULATED, whose launches are interpreted")
    nvcc = tool("nvcc")
    if nvcc is None or not CSRC.exists():
        pytest.skip("needs nvcc of CUDA 12.1 or later, and a checkout")
    return nvcc


Programs = dict[str, Program]


def programs_of(modules: Iterable[str]) -> Programs:
    kernels: dict[str, Kernel] = {}
    for module in modules:
        kernels |= parse(module)
    return {name: Program(kernel) for name, kernel in kernels.items()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    rules = [rule for cls in SAMPLE for rule in cls.variants]
    return programs_of([ptx_of_some(needs_nvcc(), tmp_path_factory.mktemp("ptx"), rules)])


@pytest.fixture(scope="module")
def all_programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return programs_of(ptx_of_all(needs_nvcc(), tmp_path_factory.mktemp("ptx")))


def rules_of(programs: Programs) -> dict[str, str]:
    """Return the rule of each kernel by the kernel's name, "" for those that belong to none."""
    names = rule_names()
    structs = {name: name.partition("<")[2].partition("<")[0] for name in programs}
    return {name: names.get(struct, "") for name, struct in structs.items()}


# ---- steps in both


class Parameter(NamedTuple):
    p: Array
    grads: list[Array]
    offset: int  # of elements from an aligned address


def parameters(case: Case, steps: int) -> list[Parameter]:
    """Return arrays in all formats: aligned ones of ordinary numbers and others of special ones, with tails.

    A sum over all arrays would be NaN with special numbers, which would hide errors.
    """
    rng = np.random.default_rng(1)
    mixes = case.optimizer.reduces_all or case.options["clip_global_norm"] is not None
    special = ordinary_values if mixes else special_mixture
    made = []
    for i, (p_dtype, g_dtype) in enumerate(PAIRS):
        made.append(parameter(rng, ordinary_values, (p_dtype, g_dtype), SIZE, steps, 0))
        made.append(parameter(rng, special, (p_dtype, g_dtype), SIZE, steps, 1 + i % (OFFSETS - 1)))
    long = (SUM_CHUNK if case.optimizer.reduce_terms else CHUNK) + 1100
    made.append(parameter(rng, ordinary_values, (FLOAT32, FLOAT32), long, steps, 1))
    made.append(parameter(rng, ordinary_values, (FLOAT64, FLOAT64), long, steps, 0))
    made.append(parameter(rng, ordinary_values, (FLOAT32, FLOAT32), 1, steps, 3))
    return made


def parameter(
    rng: np.random.Generator, values: Any, pair: tuple[DType, DType], size: int, steps: int, offset: int
) -> Parameter:
    return Parameter(values(rng, pair[0], size), [values(rng, pair[1], size) for _ in range(steps)], offset)


def special_mixture(rng: np.random.Generator, dtype: DType, size: int) -> Array:
    some = rng.choice(special_values(dtype), size)
    return np.where(rng.random(size) < 0.5, some, random_values(rng, dtype, size))


def placed(device: Device, name: str, values: Array, offset: int, *, writable: bool = True) -> Any:
    """Copy an array to the device and let kernels access it, and not what lies around it."""
    place = Placed(import_module("cupy_on_host"), values, offset * values.itemsize)
    device.own(name, place.array, writable=writable)
    return place.array


def own_state(device: Device, states: Iterable[dict[str, Any]]) -> None:
    for i, state in enumerate(states):
        for name, array in state.items():
            device.own(f"{name}[{i}]", array)


def arrays_of(opt: Any) -> list[dict[str, Any]]:
    """Return the state arrays of each parameter, with the scales of codes."""
    return [param.state for param in opt.param_states]


def check_steps(programs: Programs, case: Case, arrays: list[Parameter]) -> set[str]:
    """Step an optimizer whose launches are interpreted, and one with the reference; return the kernels."""
    device = Device(programs)
    expected = case.optimize([p.copy() for p, _, _ in arrays], "reference")
    params = [placed(device, f"p[{i}]", p, offset) for i, (p, _, offset) in enumerate(arrays)]
    opt: Any = case.optimize(params)
    own_state(device, arrays_of(opt))
    for t in range(len(arrays[0].grads)):
        hosts = [grads[t] for _, grads, _ in arrays]
        grads = [
            placed(device, f"g[{i}]", g, offset, writable=False)
            for i, (g, (_, _, offset)) in enumerate(zip(hosts, arrays, strict=True))
        ]
        with device.interpreting():
            taken = opt.step(grads)
        assert taken == expected.step(hosts)
        xp = import_module("cupy_on_host")
        for i, (p, wanted) in enumerate(zip(opt.params, expected.params, strict=True)):
            assert_same_bits(get(xp, p), wanted, f"p[{i}] after step {t + 1}")
            for name, array in arrays_of(opt)[i].items():
                assert_same_bits(get(xp, array), arrays_of(expected)[i][name], f"{name}[{i}] after step {t + 1}")
    return device.launched


def check_function(programs: Programs, case: Case, p_dtype: DType, g_dtype: DType, drift: int) -> set[str]:
    """Update buffers at other addresses, in a step that flushes subnormal numbers, by a launch for one array."""
    device = Device(programs)
    rng = np.random.default_rng(2)
    before = [special_mixture(rng, dtype, SIZE) for dtype in (p_dtype, g_dtype)]
    before += case.make_state(lambda: state_values(rng, p_dtype, SIZE))
    buffers = [placed(device, f"buffer {i}", array, 1 + i * drift) for i, array in enumerate(before)]
    with device.interpreting():
        case.update(fo.functional, buffers[0], buffers[1], buffers[2:], FLUSH_INTERVAL)
    case.update(fo.reference, before[0], before[1], before[2:], FLUSH_INTERVAL)
    for name, array, wanted in zip(("p", "g", *case.state), buffers, before, strict=True):
        assert_same_bits(get(import_module("cupy_on_host"), array), wanted, f"{name} at step {FLUSH_INTERVAL}")
    return device.launched


def staged_parameters(case: Case) -> list[Parameter]:
    """Return arrays in all formats with tails, one of several chunks, and one at an address that is not aligned."""
    rng = np.random.default_rng(7)
    pairs = [(dtype, DTYPES[i]) for i, dtype in enumerate(DTYPES)]
    if case.optimizer.reduces_all:  # has no such kernels in float64
        pairs = [pair for pair in pairs if pair[0] != FLOAT64]
    made = [parameter(rng, ordinary_values, pair, SIZE, 2, 0) for pair in pairs]
    long = (SUM_CHUNK if case.optimizer.reduce_terms else CHUNK) + 1100
    made.append(parameter(rng, ordinary_values, (DTYPES[3], FLOAT32), long, 2, 0))
    made.append(parameter(rng, ordinary_values, (DTYPES[2], DTYPES[3]), 130, 2, 3))
    return made


INT8: dict[str, Any] = {"state_format": "int8", "int8_min_size": 0}


def check_storage(programs: Programs, case: Case, **storage: Any) -> set[str]:
    stored = Case(case.optimizer, {**case.options, **storage}, f"{case.id}, {storage}")
    return check_steps(programs, stored, staged_parameters(case))


def is_staged(name: str) -> bool:
    return name.split("<")[0].endswith("Staged")


def check_optimizer(programs: Programs, optimizer: type[fo.Optimizer], cases: Iterable[Case]) -> None:
    """Step with every variant; all kernels of the optimizer are launched."""
    launched, compressed = set[str](), set[str]()
    for case, g_dtype in zip(cases, cycle(DTYPES), strict=False):
        if case.optimizer is not optimizer:
            continue
        launched |= check_steps(programs, case, parameters(case, 2))
        if not any(schema.is_of_rows for schema in optimizer.state_schema.values()):
            launched |= check_storage(programs, case, **INT8, master_weight_bits=24)
        for p_dtype, drift in product((FLOAT32, FLOAT64), (0, 1)):
            launched |= check_function(programs, case, p_dtype, g_dtype, drift)
        settings = optimizer.check_options({**case.options, **INT8})
        schema = settings.stored_schema(SIZE)
        if any(name + SCALES in schema for name in optimizer.variants[settings.variant]):
            compressed.add(settings.variant)
    rules = {*optimizer.variants} - OTHER_RULES
    needed = {name: rule for name, rule in rules_of(programs).items() if rule in rules}
    assert needed
    needed = {  # in float64 nothing but compressed state is staged
        name: rule
        for name, rule in needed.items()
        if rule in compressed or not (is_staged(name) and name.endswith("double>"))
    }
    common = {"FinishSums": optimizer.reduce_terms, "AddAll": optimizer.reduces_all}
    assert {*needed, *(name for name, used in common.items() if used)} - launched == set()


# ---- norms, several devices, graphs


def case_with(optimizer: type[fo.Optimizer], **options: Any) -> Case:
    return Case(optimizer, {**optimizer.defaults, **options}, str(options))


NORMS: list[dict[str, Any]] = [
    *({"clip_norm": 0.5, "norm_type": kind} for kind in (1.0, 2.0, inf)),
    *({"clip_global_norm": 0.7, "norm_type": kind} for kind in (1.0, 2.0, inf)),
    {"skip_nonfinite": True},
]


def check_norms(programs: Programs) -> None:
    """Every type of norm, bounds of both kinds, squares that overflow, and a gradient that is not finite."""
    launched: set[str] = set()
    rng = np.random.default_rng(3)
    for options in NORMS:
        case = case_with(fo.Adam, **options)
        pairs = product((FLOAT32, FLOAT64), DTYPES)
        arrays = [parameter(rng, ordinary_values, pair, SIZE, 2, i) for i, pair in enumerate(pairs)]
        arrays.append(parameter(rng, ordinary_values, (FLOAT32, FLOAT32), SUM_CHUNK + 1100, 2, 0))
        arrays += [parameter(rng, scaled_values(scale), (FLOAT64, FLOAT64), SIZE, 2, 0) for scale in (1e200, 1e-200)]
        if case.skips:
            arrays[3].grads[1][-1] = inf
        launched |= check_steps(programs, case, arrays)
    common = {name for name, rule in rules_of(programs).items() if not rule}
    elsewhere = {"AddAll", "FinishSums", "Put", *FILL_NORMAL, *ROW_KERNELS, *AXIS_KERNELS, *CLIP_KERNELS}
    assert common - launched == elsewhere  # which other tests require


def scaled_values(scale: float) -> Callable[[np.random.Generator, DType, int], Array]:
    return lambda rng, dtype, size: ordinary_values(rng, dtype, size) * scale


def check_graph(programs: Programs) -> None:
    """A replay reads its tables from the arguments and its constants from memory that the host has written."""
    case, xp = case_with(fo.Adam, clip_global_norm=1.0), import_module("cupy_on_host")
    rng = np.random.default_rng(4)
    p, g = (ordinary_values(rng, FLOAT32, SIZE) for _ in range(2))
    device, expected = Device(programs), case.optimize(p.copy(), "reference")
    with xp.cuda.Stream(non_blocking=True) as stream, device.interpreting():
        grads = placed(device, "g", g, 0)
        opt: Any = case.optimize(placed(device, "p", p, 0))
        own_state(device, [opt.state])
        opt.step(grads)
        stream.begin_capture()
        opt.step(grads)
        graph = stream.end_capture()
        for _ in range(2):
            opt.graph_step()
            graph.launch()
    for _ in range(3):
        expected.step(g)
    assert_same_bits(get(xp, opt.params), expected.params)
    assert device.launched >= {"Put", "ClipAll"}


def check_devices(programs: Programs) -> None:
    """The host adds the norms of two devices and uploads the result."""
    xp, device = import_module("cupy_on_host"), Device(programs)
    rng = np.random.default_rng(5)
    p, g = ([ordinary_values(rng, FLOAT32, size) for size in (100, 50)] for _ in range(2))
    params, grads = [], []
    for i in range(2):
        with xp.cuda.Device(i):
            params.append(placed(device, f"p[{i}]", p[i], 0))
            grads.append(placed(device, f"g[{i}]", g[i], 0, writable=False))
    opt: Any = fo.Adam(params, clip_global_norm=0.5)
    own_state(device, opt.state)
    with device.interpreting():
        opt.step(grads)
    expected = fo.Adam(p, clip_global_norm=0.5, backend="reference")
    expected.step(g)
    for array, wanted in zip(params, expected.params, strict=True):
        assert_same_bits(get(xp, array), wanted)
    assert device.launched >= {"Put", "ClipAll"}


FILL_NORMAL = {"FillNormal<float>", "FillNormal<double>"}
AXIS_KERNELS = {
    "AddGroups",
    *(f"SumAxes<{kind},{largest}>" for kind in ("float", "double") for largest in ("false", "true")),
    *(f"FinishAxes<{largest}>" for largest in ("false", "true")),
    *(f"{name}<{kind}>" for kind in ("float", "double") for name in ("UpdateMoments", "RowFactors")),
}
CLIP_KERNELS = {"ClipFactors", "ClipUnits<float>", "ClipUnits<double>"}
ROW_KERNELS = {"CopyRows<false>", "CopyRows<true>", "AddRows<float>", "AddRows<double>"}


def check_noise(programs: Programs) -> None:
    device, family = Device(programs), CuPy("cupy_on_host")
    for dtype in (FLOAT32, FLOAT64):
        array = placed(device, "noise", np.zeros(SIZE, dtype), 1)
        with device.interpreting():
            core.fill_normal(family.metadata(array, ""), 1, 2, 3, where=0)
        wanted = normal_numbers(1, 3, 2, SIZE).astype(dtype)
        assert_same_bits(get(import_module("cupy_on_host"), array), wanted)
    assert device.launched == FILL_NORMAL


def check_axes(programs: Programs) -> None:
    """Matrices of several tiles and blocks of rows, and what follows from their sums."""
    xp, device, family = import_module("cupy_on_host"), Device(programs), CuPy("cupy_on_host")
    rng = np.random.default_rng(11)
    shape = batch, rows, columns = 2, 67, 1030

    def allocate(name: str, size: int) -> Any:
        array = xp.full((size,), np.nan, FLOAT64)
        device.own(name, array)
        return array

    def on_device(values: Array) -> Any:
        return placed(device, "an array", values, 1, writable=True)

    for dtype in DTYPES:
        host = abs(ordinary_values(rng, dtype, batch * rows * columns).reshape(shape))
        gpu = GpuAxes(family, x := on_device(host), allocate)
        with device.interpreting():
            largest = [get(xp, each) for each in gpu.reduce(x, shape, largest=True)]
            of_rows, of_columns = gpu.reduce(x, shape)
        sums = square_sums(host)
        for found, wanted in zip(largest, (host.max(2), host.max(1)), strict=True):
            assert_same_bits(found, wanted.reshape(-1).astype(np.float64))
        assert_same_bits(get(xp, of_rows), sums[0])
        assert_same_bits(get(xp, of_columns), sums[1])
        if dtype.itemsize == 2:
            continue
        old, least = ordinary_values(rng, dtype, batch * rows), 0.3
        new, factors, row_factors = (on_device(np.zeros(size, dtype)) for size in (batch, batch * rows, batch * rows))
        averages = on_device(np.zeros(batch * rows, dtype))
        with device.interpreting():
            gpu.update_moments([Moment(of_rows, on_device(old), averages, columns, 0.3, 1e-3, is_kept=True)])
            kept = get(xp, of_rows)
            gpu.add_groups(of_rows, rows)
            gpu.set_row_factors(averages, of_rows, row_factors, rows, least)
            gpu.update_moments(
                [Moment(of_rows, on_device(old[:2]), new, 7.0, 0.1, 0.0, rows, factors, divisor=0.4, summand=1e-8)]
            )
        r = average(old, 0.3, sums[0] / columns + 1e-3)
        assert_same_bits(get(xp, averages), r)
        assert_same_bits(kept, r.astype(np.float64))
        of_groups = totals(kept.reshape(batch, rows))
        mean = np.repeat(of_groups / rows, rows)
        with np.errstate(invalid="ignore"):
            assert_same_bits(get(xp, row_factors), (1 / np.sqrt(kept / np.maximum(mean, least))).astype(dtype))
            v = average(old[:2], 0.1, of_groups / 7.0)
            factor = (1 / (np.sqrt(v.astype(np.float64) / 0.4) + 1e-8)).astype(dtype)
        assert_same_bits(get(xp, new), v)
        assert_same_bits(get(xp, factors), np.repeat(factor, rows))
    assert device.launched == AXIS_KERNELS


def owning(device: Device, allocate: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Return a function that allocates an array and allows the kernels to access it."""

    def allocate_and_own(*arguments: Any) -> Any:
        array = allocate(*arguments)
        device.own(what, array)
        return array

    return allocate_and_own


def check_clipping(programs: Programs) -> None:
    """Units within the bound and beyond it, with factors below the range of float32 and squares that overflow."""
    xp, device, rng = import_module("cupy_on_host"), Device(programs), np.random.default_rng(13)
    with pytest.MonkeyPatch.context() as patch, device.interpreting():
        patch.setattr(CuPy, "full", owning(device, CuPy.full, "sums, factors or a result"))
        for dtype, scale, axis in product(DTYPES, (1.0, 1e300), (0, -1)):
            params, grads = (ordinary_values(rng, dtype, 40 * 9).reshape(40, 9) for _ in range(2))
            with np.errstate(over="ignore"):
                grads[::2] *= dtype.type(scale) if dtype == FLOAT64 else dtype.type(3.0)
                params[:7] *= dtype.type(1 / scale) if dtype == FLOAT64 else dtype.type(1e-4)
            there = [placed(device, "an array", array, 1, writable=False) for array in (params, grads)]
            options: dict[str, Any] = {"clipping": 0.5, "eps": 0.0, "output_axis": axis}
            found = fo.adaptive_clip(there[0], there[1], **options)
            assert_same_bits(get(xp, found), fo.adaptive_clip(params, grads, **options))
    assert device.launched >= CLIP_KERNELS


def check_factored(programs: Programs, dtype: DType, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Two steps of a matrix, a vector and a batch in another order."""
    xp, device, rng = import_module("cupy_on_host"), Device(programs), np.random.default_rng(12)

    def owned(make: Callable[..., Any]) -> Callable[..., Any]:
        def make_and_own(*arguments: Any) -> Any:
            array = make(*arguments)
            device.own("state, scratch, sums or a copy", array)
            return array

        return make_and_own

    def values() -> list[Array]:
        flat = [ordinary_values(rng, dtype, size) for size in (SIZE, 9, 210)]
        return [flat[0].reshape(1, SIZE), flat[1], np.asfortranarray(flat[2].reshape(5, 6, 7))]

    options: dict[str, Any] = {"weight_decay": 0.1, "cautious": True}
    runs: list[tuple[Any, dict[str, Any]]] = [(cls, options) for cls in FACTORED_OPTIMIZERS.values()]
    for cls, given in [*runs, (fo.Adafactor, {"beta1": 0.9, "l1": 0.01}), (fo.SM3, {"momentum": 0.0})]:
        hosts, grads = values(), values()
        expected = cls([p.copy(order="K") for p in hosts], **given, backend="reference")
        with monkeypatch.context() as patch, device.interpreting():
            for name in ("full", "zeros", "contiguous"):
                patch.setattr(CuPy, name, owned(getattr(CuPy, name)))
            params = []
            for host in hosts:
                params.append(xp.asarray(host))
                device.own("p", params[-1])
            opt = cls(params, **given)
            own_state(device, opt.state)
            for _ in range(2):
                on_device = [xp.asarray(g.copy(order="K")) for g in grads]
                for g in on_device:
                    device.own("g", g, writable=False)
                opt.step(on_device)
                expected.step(grads)
        for param, twin in zip(opt.param_states, expected.param_states, strict=True):
            assert_same_bits(get(xp, param.p), twin.p, f"{cls.name}: p{param.place}")
    return device.launched


def check_rows(programs: Programs, optimizer: Any, *, row_steps: bool) -> None:
    """Rows of units of 16, 8, 4 and 2 bytes, some repeatedly, which one block copies or two."""
    device, rng = Device(programs), np.random.default_rng(9)
    shapes: list[tuple[tuple[int, ...], DType]] = [
        ((20, 4), FLOAT32),
        ((20, 2), FLOAT32),
        ((20, 1), FLOAT32),
        ((20, 3), DTYPES[2]),
        ((300, 5), FLOAT64),
        ((9, 1100), FLOAT32),
    ]
    hosts = [ordinary_values(rng, dtype, int(np.prod(shape))).reshape(shape) for shape, dtype in shapes]
    options: dict[str, Any] = {"row_steps": row_steps, "clip_norm": 1.0, "weight_decay": 0.01}
    opt: Any = optimizer([placed(device, "p", p, 0) for p in hosts], **options)
    expected = optimizer(hosts, **options, backend="reference")
    own_state(device, ({k: a for k, a in state.items() if k != "row_steps"} for state in opt.state))
    for dtype in DTYPES[:2]:
        rows = [(rng.integers(0, len(p), len(p)), p[0].size) for p in hosts]
        values = [ordinary_values(rng, dtype, len(index) * size).reshape(-1, size) for index, size in rows]
        there = [placed(device, "g", g, 0, writable=False) for g in values]
        with device.interpreting():
            opt.step([fo.Rows(index, g) for (index, _), g in zip(rows, there, strict=True)])
        expected.step([fo.Rows(index, g) for (index, _), g in zip(rows, values, strict=True)])
    for p, wanted in zip(opt.params, expected.params, strict=True):
        assert_same_bits(get(import_module("cupy_on_host"), p), wanted)
    assert device.launched >= ROW_KERNELS


def check_lbfgs(programs: Programs, dtype: DType, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Iterations until the history is full, with the passes for one pair and for four."""
    xp, device = import_module("cupy_on_host"), Device(programs)
    rng = np.random.default_rng(7)
    host, factors = ordinary_values(rng, dtype, SIZE), rng.uniform(0.1, 10, SIZE)
    p = placed(device, "p", host, 0)

    def gradient_at(at: Array) -> tuple[float, Array]:
        g = factors * at.astype(np.float64)
        return float((g * at).sum()) / 2, g.astype(dtype)

    def closure() -> tuple[float, Any]:
        loss, g = gradient_at(get(xp, p))
        return loss, placed(device, f"g[{opt.evaluations}]", g, 0, writable=False)

    options: dict[str, Any] = {"max_iter": 8, "history_size": 5, "tolerance_grad": 0, "tolerance_change": 0}
    with monkeypatch.context() as patch, device.interpreting():
        patch.setattr(CuPy, "full", owning(device, CuPy.full, "a vector or a sum"))
        opt = fo.LBFGS(p, **options)
        opt.step(closure)
    fo.LBFGS(host, **options, backend="reference").step(lambda: gradient_at(host))
    assert_same_bits(get(xp, p), host)
    return device.launched


def check_hessian(programs: Programs, dtype: DType) -> set[str]:
    device, rng = Device(programs), np.random.default_rng(8)
    p, hessian = (special_mixture(rng, dtype, SIZE) for _ in range(2))
    expected = fo.Sophia(p.copy(), backend="reference")
    opt = fo.Sophia(placed(device, "p", p, 1))
    own_state(device, [opt.state])
    with device.interpreting():
        opt.update_hessian(placed(device, "hessians", hessian, 3, writable=False))
    expected.update_hessian(hessian)
    assert_same_bits(get(import_module("cupy_on_host"), opt.state["h"]), expected.state["h"])
    return device.launched


def check_matrix_methods(programs: Programs, dtype: DType, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Two steps of every one; the host computes the products."""
    xp, device, rng = import_module("cupy_on_host"), Device(programs), np.random.default_rng(9)
    runs: list[tuple[Any, dict[str, Any]]] = [(cls, {}) for cls in MATRIX_OPTIMIZERS.values()]
    for cls, options in [*runs, (fo.Shampoo, {"grafting": "adam"})]:
        host, g = (ordinary_values(rng, dtype, SIZE).reshape(1, SIZE) for _ in range(2))
        expected, on_gpu = cls(host, lr=0.1, **options), placed(device, "p", host, 0)
        with monkeypatch.context() as patch, device.interpreting():
            patch.setattr(CuPy, "zeros", owning(device, CuPy.zeros, "state or scratch"))
            opt = cls(on_gpu, lr=0.1, **options)
            grad = placed(device, "g", g, 0, writable=False)
            for _ in range(2):
                opt.step(grad)
                expected.step(g)
        np.testing.assert_allclose(get(xp, on_gpu), host, rtol=0, atol=1e-5)
        np.testing.assert_allclose(get(xp, opt.state["m"]), expected.state["m"], rtol=0, atol=1e-5)
    return device.launched


# ---- tests


@pytest.mark.parametrize("optimizer", SAMPLE, ids=lambda cls: cls.name)
def test_a_sample_of_optimizers(sample: Programs, optimizer: type[fo.Optimizer]) -> None:
    check_optimizer(sample, optimizer, PREPARED_CASES if optimizer.reduce_terms else VARIANT_CASES)


@pytest.mark.exhaustive
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda cls: cls.name)
def test_every_optimizer(all_programs: Programs, optimizer: type[fo.Optimizer]) -> None:
    check_optimizer(all_programs, optimizer, VARIANT_CASES)


@pytest.mark.exhaustive
def test_rules_that_no_step_of_an_optimizer_launches(all_programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their staged kernels have the code of the others' around the rule; emulated ones run in tests of devices."""
    launched: set[str] = set()
    for dtype in (FLOAT32, FLOAT64):
        launched |= check_lbfgs(all_programs, dtype, monkeypatch) | check_hessian(all_programs, dtype)
        launched |= check_matrix_methods(all_programs, dtype, monkeypatch)
        launched |= check_factored(all_programs, dtype, monkeypatch)
    needed = {name for name, rule in rules_of(all_programs).items() if rule in OTHER_RULES and not is_staged(name)}
    assert needed - launched == set()


@pytest.mark.parametrize(
    "storage",
    [
        {"kahan": True},
        {"master_weight_bits": 32},
        {"state_format": "bfloat16", "stochastic_rounding": True, "seed": 2**40, "cautious": True, "ema": 0.9},
        {**INT8, "clip_norm": 1.0, "bounds": (-0.5, 0.5)},
    ],
    ids=str,
)
def test_storage(sample: Programs, storage: dict[str, Any]) -> None:
    check_storage(sample, case_with(fo.Adam), **storage)


def test_norms_of_gradients(sample: Programs) -> None:
    check_norms(sample)


def test_a_captured_graph(sample: Programs) -> None:
    check_graph(sample)


@pytest.mark.parametrize("row_steps", [False, True])
@pytest.mark.parametrize("optimizer", [fo.Adam, *(cls for cls in SAMPLE if kernel_kind(cls)[-1])])
def test_rows(sample: Programs, optimizer: Any, row_steps: bool) -> None:
    check_rows(sample, optimizer, row_steps=row_steps)


def test_sums_over_rows_and_columns(sample: Programs) -> None:
    check_axes(sample)


def test_clipped_units(sample: Programs) -> None:
    check_clipping(sample)


def test_random_numbers(sample: Programs) -> None:
    check_noise(sample)


def test_two_devices(sample: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTOPTIM_EMULATED_DEVICES", "2")
    check_devices(sample)


# ---- mutations

ADAM = next(case for case in PREPARED_CASES if case.optimizer is fo.Adam)
LAMB = next(case for case in PREPARED_CASES if case.optimizer is fo.LAMB)


def survivors(
    programs: Programs, name: str, mutate: Callable[[Program], Iterator[Program]], check: Callable[[Programs], Any]
) -> list[bool]:
    """Return which of the first mutants of a kernel pass; one that fails a check must do so in this kernel."""
    original = Program(programs[name].kernel)
    check({**programs, name: original})
    passed = []
    for mutant in islice(mutate(original), MUTANTS):
        try:
            check({**programs, name: mutant})
            passed.append(True)
        except (AssertionError, Fault):
            passed.append(False)
    return passed


def check_adam(drift: int) -> Callable[[Programs], Any]:
    return lambda programs: check_function(programs, ADAM, FLOAT32, FLOAT32, drift)


def check_many_chunks(case: Case) -> Callable[[Programs], Any]:
    rng = np.random.default_rng(6)
    arrays = [parameter(rng, ordinary_values, (FLOAT32, FLOAT32), size, 1, 0) for size in (4 * SUM_CHUNK, 1)]
    return lambda programs: check_steps(programs, case, arrays)


def roots(program: Program) -> Iterator[Program]:
    return renamed(program, "sqrt.rn.f32", "sqrt.approx.f32")


def truncated(program: Program) -> Iterator[Program]:
    return renamed(program, "add.rn.f32", "add.rz.f32")


def test_other_roundings_are_detected(sample: Programs) -> None:
    """Some of an element's products and sums are exact, as with a sign, 1 and 0, and some an option deselects."""
    update = "Update<Adam<float>,float>"
    assert sum(survivors(sample, update, fused, check_adam(0))) < MUTANTS / 2
    assert sum(survivors(sample, update, truncated, check_adam(0))) < MUTANTS / 2
    assert not any(survivors(sample, update, roots, check_adam(0)))


def test_loads_wider_than_their_alignment_are_detected(sample: Programs) -> None:
    passed = survivors(sample, "Update<Adam<float>,float>", widened, check_adam(1))
    assert passed
    assert not any(passed)


@pytest.mark.parametrize(
    ("name", "case"),
    [("Reduce<LAMB<float>,float>", LAMB), ("FinishSums", LAMB), ("ClipAll", case_with(fo.Adam, clip_global_norm=0.5))],
    ids=lambda value: str(getattr(value, "id", value)),
)
def test_missing_barriers_are_detected(sample: Programs, name: str, case: Case) -> None:
    passed = survivors(sample, name, without_barrier, check_many_chunks(case))
    assert passed
    assert not any(passed)


@pytest.mark.exhaustive
def test_every_kernel_is_of_an_optimizer_or_common(all_programs: Programs, sample: Programs) -> None:
    """So that the tests above, which require kernels by their rule, leave none out."""
    found = rules_of(all_programs)
    assert set(found.values()) == {rule for cls in OPTIMIZERS for rule in cls.variants} | OTHER_RULES | {""}
    assert {name for name, rule in found.items() if not rule} <= sample.keys()
