"""Check the code that nvcc makes of the kernels, without a GPU.

Read from the module under test where that has CUDA and `cuobjdump` is there (``pip install nvidia-cuda-cuobjdump
nvidia-cuda-nvdisasm``); else `nvcc` compiles a few rules.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import fastoptim as fo
from fastoptim import core
from nvcc import CSRC, compiler, flags, output, rule_names, tool

# One of each kind: no state, the usual, a root of its own, sums, and all that a rule may have.
SAMPLE = ("SGD", "Adam", "MADGRAD", "LAMB", "Prodigy")
COMMON = (
    "SumGradients<float, NormType::kTwo, false>",
    "SumGradients<double, NormType::kInfinity, false>",
    "ClipAll",
    "Put",
    "CopyRows<true>",
    "AddRows<float>",
    "AddRows<double>",
)


class Code(NamedTuple):
    """By kernel, as in ``Update<Adam<float>,float>``."""

    ptx: dict[str, str]
    stack: dict[str, int]  # bytes of spilled registers and local memory
    sass: dict[str, str]  # empty where nothing disassembles


def by_kernel(listing: str, heading: str) -> dict[str, str]:
    """A listing's parts by what follows each heading, a mangled name."""
    parts = re.split(heading, listing, flags=re.MULTILINE)
    names = subprocess.run(["c++filt"], input="\n".join(parts[1::2]), capture_output=True, text=True, check=True)
    code: dict[str, str] = {}
    for name, text in zip(names.stdout.split("\n"), parts[2::2], strict=False):
        if found := re.search(r"kernel<(.*)>\(", name):
            code[re.sub(r"fo::\w+::|\s", "", found[1])] = text
    return code


def entries(ptx: str) -> dict[str, str]:
    return by_kernel(ptx, r"^.*\.entry (\w+)")


def of_module(cuobjdump: Path) -> Code:
    spec = importlib.util.find_spec("fastoptim._core")
    assert spec
    assert spec.origin
    module = Path(spec.origin)
    used = by_kernel(output(cuobjdump, "--dump-resource-usage", module), r"^\s*Function (\w+):")
    stack = {name: sum(map(int, re.findall(r"(?:STACK|LOCAL):(\d+)", text))) for name, text in used.items()}
    sass = by_kernel(output(cuobjdump, "-sass", module), r"^\s*Function : (\w+)") if tool("nvdisasm") else {}
    return Code(entries(output(cuobjdump, "-ptx", module)), stack, sass)


def of_sample(nvcc: Path, work: Path) -> Code:
    source = work / "sample.cu"
    kinds = [(make, rule, kind) for make in ("make", "make_staged") for rule in SAMPLE for kind in ("float", "double")]
    made = "".join(f"{make}<{rule}<{kind}>, {kind}>();\n" for make, rule, kind in kinds)
    made += "".join(f'kernel_of<{body}>("", "");\n' for body in COMMON)
    text = f'#define FO_PART 9  // no rule has it\n#include "{CSRC}/cuda/kernels.cu"\n'
    source.write_text(f"{text}namespace fo::FO_TARGET {{\nvoid sample() {{\n{made}}}\n}}\n", encoding="utf-8")
    command = compiler(nvcc)
    ptx, assembled = work / "sample.ptx", work / "sample.cubin"
    output(*command, "-ptx", source, "-o", ptx)
    told = output(*command, "-Xptxas", "-v", "-cubin", source, "-o", assembled)
    used = by_kernel(told, r"Compiling entry function '(\w+)'")
    stack = {name: int(re.findall(r"(\d+) bytes stack frame", text)[0]) for name, text in used.items()}
    return Code(entries(ptx.read_text(encoding="utf-8")), stack, {})


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Code:
    built = fo.build_info()["cuda"] not in (None, "emulated")
    if shutil.which("c++filt") is None:
        pytest.skip("needs c++filt on PATH")
    if built and (cuobjdump := tool("cuobjdump")):
        return of_module(cuobjdump)
    if CSRC.exists() and (nvcc := tool("nvcc")):
        return of_sample(nvcc, tmp_path_factory.mktemp("cuda"))
    pytest.skip("needs a build with CUDA and cuobjdump (pip install nvidia-cuda-cuobjdump), or a checkout and nvcc")


def updates_in(of: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    """Each update kernel: its name, the rule's struct, the compute type, the code."""
    for name, text in of.items():
        if found := re.fullmatch(r"Update<(\w+)<.*,(float|double)>", name):
            yield name, found[1], found[2], text


def test_the_flags_keep_the_arithmetic() -> None:
    if not CSRC.exists():
        pytest.skip("needs the sources: this test runs in a checkout")
    assert {"--fmad=false", "-prec-div=true", "-prec-sqrt=true", "-ftz=false"} <= set(flags())


def test_every_rule_has_its_kernels(code: Code) -> None:
    kinds = {(rule, kind) for _, rule, kind, _ in updates_in(code.ptx)}
    rules = {rule for rule, _ in kinds}
    assert kinds == {(rule, kind) for rule in rules for kind in ("float", "double")}
    assert rules == set(SAMPLE) or len(rules) == len(core.RULES)
    assert set(code.ptx) == set(code.stack)


def test_no_register_is_spilled_and_no_local_memory_used(code: Code) -> None:
    assert {name: used for name, used in code.stack.items() if used} == {}
    assert [name for name, text in code.ptx.items() if re.search(r"\b(ld|st)\.local\b|\.local\s", text)] == []


# In PTX, as ptxas makes divisions and roots of fused operations that are exact together.
INEXACT = r"(?:fma|mad)\.[\w.]*f\d+|[\w.]*\.(?:ftz|approx)\b[\w.]*|(?:rcp(?!\.rn\b)|rsqrt|ex2|lg2|sin|cos|tanh)\.[\w.]+"


def test_nothing_is_fused_approximated_or_flushed(code: Code) -> None:
    found = {name: set(re.findall(rf"^\s+(?:@!?%p\d+ )?({INEXACT})\s", text, re.M)) for name, text in code.ptx.items()}
    assert {name: what for name, what in found.items() if what} == {}


def test_every_operation_rounds_to_nearest(code: Code) -> None:
    """The rounding is explicit: ptxas may fuse an operation without it."""
    seen = set()
    for text in code.ptx.values():
        seen |= set(re.findall(r"\s((?:add|sub|mul|div|sqrt)\.(?:[a-z]+\.)*f(?:32|64))\s", text))
        seen |= set(re.findall(r"\s(cvt\.(?:[a-z]+\.)*f32\.f64)\s", text))
    assert {operation for operation in seen if operation.split(".")[1] != "rn"} == set()
    assert {"add.rn.f32", "mul.rn.f64", "div.rn.f32", "div.rn.f64", "sqrt.rn.f32", "sqrt.rn.f64"} <= seen


def test_arguments_are_at_most_four_kilobytes(code: Code) -> None:
    """Except those of uploads, which no graph contains."""
    found = {name: int(re.search(r"\.param \.align 16 \.b8 \w+\[(\d+)\]", text)[1]) for name, text in code.ptx.items()}  # type: ignore[index]
    assert {name for name, size in found.items() if size > 4096} <= {"Put"}
    assert max(found.values()) <= 32764


# 16 bytes of global memory, and 8.
VECTOR = r"\s{}\.global\.(?:v4\.\w32|v2\.\w64)\s"
PAIR = r"\s{}\.global\.v2\.\w32\s"

# How many vectors a thread's elements are: of the parameter in each format it may have, and so on.  Four elements of a
# 16-bit format are a pair, in both formats alike.
VECTORS = {
    "float": {"p": 2, "g": 2 + 4, "state": 2},
    "double": {"p": 4, "g": 4, "state": 4},
}

# Arrays that a rule writes without regard to what they held; nvcc removes their loads.  A signature cannot tell.
ONLY_WRITTEN = {
    "muon_direction": 1,
    "soap_gradient": 1,
    "soap_direction": 1,
    "shampoo_gradient": 2,
    "factored_gradient": 1,
    "sm3_bound": 1,
    "came_residual": 1,
}


def vectors(rule: str, kind: str) -> tuple[int, int]:
    """How many a kernel loads and stores at least, the average among the state; the parameter may decay, always."""
    per, (_, g, *state) = VECTORS[kind], (*core.RULES[rule].updates, "rw")
    read = sum("r" in each for each in state) - ONLY_WRITTEN.get(rule, 0)
    loads = per["p"] + per["g"] * ("r" in g) + per["state"] * read
    return loads, per["p"] + per["state"] * sum("w" in each for each in state)


def test_neighbouring_threads_access_neighbouring_elements(code: Code) -> None:
    """Four each, in the compute type at once and in a 16-bit format as a pair: no sector is written in halves."""
    names = rule_names()
    if not names:
        pytest.skip("needs the sources: this test runs in a checkout")
    for name, rule, kind, text in updates_in(code.ptx):
        loads, stores = vectors(names[rule], kind)
        assert len(re.findall(VECTOR.format("ld"), text)) >= loads, name
        assert len(re.findall(VECTOR.format("st"), text)) >= stores, name
        reads_g = "r" in core.RULES[names[rule]].updates[1]
        assert len(re.findall(PAIR.format("ld"), text)) >= (2 + 2 * reads_g if kind == "float" else 4 * reads_g), name
        assert len(re.findall(PAIR.format("st"), text)) >= (2 if kind == "float" else 0), name
    for name, text in code.ptx.items():
        assert not name.startswith("SumGradients") or re.search(VECTOR.format("ld"), text), name


# Rows of 8 elements in SumGradients, whose loop is there with and without a check of each element.
GRADIENT_ROWS = 2


def test_norms_convert_each_element_once(code: Code) -> None:
    """And once a row whether all are finite: the conversions take longer than the loads."""
    for name, text in code.ptx.items():
        if name.startswith("SumGradients<float"):
            assert len(re.findall(r"\scvt\.f64\.f32\s", text)) <= GRADIENT_ROWS * (2 * 8 + 1), name


def test_the_machine_code_does_too(code: Code) -> None:
    names = rule_names()
    if not names or not code.sass:
        pytest.skip("needs a checkout, a build with CUDA and nvdisasm (pip install nvidia-cuda-nvdisasm)")
    for name, rule, kind, text in updates_in(code.sass):
        loads, stores = vectors(names[rule], kind)
        assert len(re.findall(r"\sLDG\.E\.128", text)) >= loads, name
        assert len(re.findall(r"\sSTG\.E\.128", text)) >= stores, name
