"""Check the machine code that the compiler makes of the kernel loop.

The default run compiles the loop once, for the widest instruction set and with each rule's loop in a function of its
own.  The mark `exhaustive` adds all rules, the other instruction sets and the loop as it is built.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from cases import CHECKOUT
from loops import loop

CSRC = CHECKOUT / "csrc"

pytestmark = pytest.mark.skipif(not CSRC.exists(), reason="needs the sources: these tests run in a checkout")

Bodies = dict[str, str]  # the code of each function by its demangled name


def cmake() -> str:
    files = [CHECKOUT / "CMakeLists.txt", CHECKOUT / "cmake" / "loops.cmake"]
    return re.sub(r"#[^\n]*", "", "".join(path.read_text(encoding="utf-8") for path in files))


def compiler() -> list[str]:
    """Return $CXX, else the first of the usual names on PATH."""
    candidates = [shlex.split(os.environ.get("CXX", "")), ["g++"], ["clang++"]]
    for command in candidates:
        if command and shutil.which(command[0]):
            return command
    pytest.skip("needs a C++ compiler on PATH or in $CXX")


def compile_flags(isa: str) -> list[str]:
    """Return CMakeLists.txt's flags for a loop, except for those that only warn."""
    text = cmake()
    common = re.findall(r"target_compile_options\(fastoptim_flags INTERFACE\s+([^)]*)\)", text)
    own = re.search(rf"set\(fastoptim_isa_{isa}\s+([^)]*)\)", text)
    flags = " ".join([*common, own[1] if own else ""]).split()
    return [flag for flag in flags if re.match(r"-(?!W|fsanitize|fno-sanitize|g$)", flag)]


def instruction_sets() -> list[str]:
    if not CSRC.exists():
        return ["baseline"]
    found = " ".join(re.findall(r"(?:set|list)\((?:APPEND )?fastoptim_isas ([a-z0-9 ]+)\)", cmake())).split()
    return found if is_x86() else [isa for isa in found if not re.match("avx|sse", isa)]


def is_x86() -> bool:
    return platform.machine() in ("x86_64", "amd64", "AMD64")


def run_tool(name: str, *arguments: str | Path) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} on PATH")
    return subprocess.run([name, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


#: The usual rule, one with a root of its own, one with sums, and one without state.
SAMPLE = ("adam", "madgrad", "prodigy", "sgd")


def compiled(source: Path, target_name: str, isa: str, target: Path, *flags_of_unit: str) -> Path:
    """Compile a loop as CMake's Release does for one instruction set."""
    command = compiler()
    if sys.platform != "linux":
        pytest.skip("reads ELF objects")
    flags = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
    flags += [*compile_flags(isa), f"-DFO_TARGET={target_name}", *["-DFO_X86"] * is_x86()]
    flags += [*flags_of_unit, f"-I{target.parent}", "-isystem", sysconfig.get_paths()["include"]]
    built = subprocess.run([*command, *flags, "-c", str(source), "-o", str(target)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target


def disassembled(target: Path) -> Bodies:
    listing = run_tool("objdump", "-d", "-C", "--no-show-raw-insn", target)
    parts = re.split(r"^[0-9a-f]+ <(.*)>:$", listing, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rules_of(bodies: Bodies, kind: str = "float", function: str = "update") -> Bodies:
    """Return each rule's code in one compute type."""
    wrapper = r"fo::\w+::ApplyRule<" if function == "apply" else ""
    code: Bodies = {}
    for name, body in bodies.items():
        if found := re.search(rf"\b{function}<{wrapper}fo::\w+::(\w+)<{kind}>", name):
            code[found[1]] = code.get(found[1], "") + body
    return code


# ---- checks

# By instruction set its widest registers, by compute type the suffixes of packed and of scalar instructions.
WIDE = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}
SUFFIXES = {"float": ("ps", "ss"), "double": ("pd", "sd")}


def check_symbols(target: Path, namespace: str, function: str) -> None:
    """A weak symbol could be merged with that of another instruction set, if its name does not say whose it is: the
    linker keeps any one, and the baseline could end up running AVX-512 code.
    """
    listed = run_tool("nm", "-C", "--defined-only", target).splitlines()
    defined = [line.split(maxsplit=2)[1:] for line in listed]
    assert [name for kind, name in defined if kind in "WwVvu" and f"fo::{namespace}::" not in name] == []
    assert [name for kind, name in defined if kind in "TDBRC"] == [f"fo::{function}_{namespace}()"]


def check_arithmetic(bodies: Bodies) -> None:
    """No multiplication is fused with an addition, and no instruction is approximate."""
    forbidden = re.compile(r"\s(v?fn?m(?:add|sub)\w*|fml[as]\w*|bfmla\w*|v?rcp\w+|v?rsqrt\w+|frecp\w+|frsqrt\w+)\s")
    assert {name: found for name, body in bodies.items() if (found := forbidden.findall(body))} == {}


def check_inlined(names: Iterable[str]) -> None:
    """No function of one element has a body of its own."""
    assert [name for name in names if re.search(r"::(?:apply_one|apply_rule)<|::(?:operator\(\)|step)\(", name)] == []


def check_rules(bodies: Bodies, names: Sequence[str]) -> None:
    text = "".join((CSRC / "rules" / f"{name}.h").read_text(encoding="utf-8") for name in names)
    registered = re.findall(r"^FO_RULE\((\w+)\)", text, re.MULTILINE)
    assert registered
    assert sorted(rules_of(bodies)) == sorted(registered)


def scalar_only(bodies: Bodies, isa: str, operations: str, many: str, one: str) -> list[str]:
    """Return the names of those with scalar operations, which are those of tails, but no packed ones."""
    scalar = re.compile(rf"\sv?(?:{operations}){one}\s")
    packed = re.compile(rf"\sv?(?:{operations}){many}\s.*%{WIDE[isa]}")
    return [name for name, body in bodies.items() if scalar.search(body) and not packed.search(body)]


def check_vectorised(bodies: Bodies, isa: str) -> None:
    """Every rule's loop is packed, and what its scalar tail does the loop does packed."""
    for kind, (many, one) in SUFFIXES.items():
        code = rules_of(bodies, kind, "apply")
        assert set(code) >= {"Adam", "SGD"}
        arithmetic = re.compile(rf"\sv?(?:mul|add|sub)(?:{many}|{one})\s")  # which rules that copy do not have
        packed = re.compile(rf"\sv?(?:mul|add|sub){many}\s.*%{WIDE[isa]}")
        assert [rule for rule, body in code.items() if arithmetic.search(body) and not packed.search(body)] == [], kind
        for operation in ("mul", "add", "sub", "div", "sqrt"):
            missing = scalar_only(code, isa, operation, many, one)
            assert missing == [], f"{operation} of {kind}"


def check_prefetched(bodies: Bodies) -> None:
    """No array is loaded under a mask: GCC does not prefetch it, and bfloat16 took twice as long as float16 there."""
    masked = re.compile(r"\svmovdqu(?:8|16)\s+\S*\(.*\{%k\d\}")
    assert [name for name, body in bodies.items() if masked.search(body)] == []


def check_probe(bodies: Bodies, isa: str) -> None:
    """A narrow probe would measure steps against less than the processor can do."""
    packed = re.compile(rf"\sv?p?xor[a-z]*\s.*%{WIDE[isa]}")
    code = {name: body for name, body in bodies.items() if re.search(r"\bprobe<", name)}
    assert len(code) >= 6
    assert [name for name, body in code.items() if not packed.search(body)] == []


def check_loops(isa: str, work: Path, separate: bool, names: Sequence[str]) -> None:
    """Compile both loops of the rules in these files and check them.

    `separate` keeps each rule's loop apart from the preparation.
    """
    sources = work / "csrc"
    shutil.copytree(CSRC, sources)
    (work / "units.inc").write_text(f"FO_UNIT({isa}, 0)\n", encoding="utf-8")  # one unit has all rules
    unit = work / "rules_0.h"
    unit.write_text("".join(f'#include "rules/{name}.h"\n' for name in names), encoding="utf-8")
    of_unit = (f'-DFO_UNIT_RULES="{unit}"', f"-I{sources}")
    shared = sources / "cpu" / "tile_loop.h"
    text = shared.read_text(encoding="utf-8")
    assert text.count("void apply(") == 1
    if separate:
        shared.write_text(text.replace("void apply(", "__attribute__((noinline)) void apply("), encoding="utf-8")
    loop_object = compiled(sources / "cpu" / "loop.cpp", f"{isa}_0", isa, work / "loop.o", *of_unit)
    check_symbols(loop_object, f"{isa}_0", "cpu::unit")
    bodies = disassembled(loop_object)
    check_arithmetic(bodies)
    check_inlined(bodies)
    check_prefetched(bodies)
    check_rules(bodies, names)
    if separate and is_x86():
        check_vectorised(bodies, isa)
    probe = compiled(sources / "bench" / "probe_loop.cpp", isa, isa, work / "probe.o", *of_unit)
    check_symbols(probe, isa, "bench::probe_loops")
    if is_x86():
        check_probe(disassembled(probe), isa)


@loop("isa", instruction_sets())
def test_the_flags_are_those_of_the_build(isa: str) -> None:
    flags = compile_flags(isa)
    assert "-ffp-contract=off" in flags
    assert isa == "baseline" or any(flag.startswith("-m") for flag in flags)


def test_the_loop_of_the_widest_instruction_set(tmp_path: Path) -> None:
    check_loops(instruction_sets()[-1], tmp_path, separate=True, names=SAMPLE)


@pytest.mark.parametrize("name", ["norms", "stages", "storage"])
def test_the_loops_of_tiles_of_the_widest_instruction_set(name: str, tmp_path: Path) -> None:
    """A function with scalar arithmetic, that of a tail, has packed arithmetic, too: one selection more in the mask of
    cautious steps made them take five times as long.
    """
    isa = instruction_sets()[-1]
    source = CSRC / "cpu" / f"{name}.cpp"
    bodies = disassembled(compiled(source, f"{isa}_stages", isa, tmp_path / "tiles.o", f"-DFO_ISA={isa}"))
    check_arithmetic(bodies)
    check_prefetched(bodies)
    if is_x86():
        assert any(re.search(r"\sv?(?:mul|add|sub)s[sd]\s", body) for body in bodies.values())
        assert scalar_only(bodies, isa, "mul|add|sub", "p[sd]", "s[sd]") == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("isa", instruction_sets()[:-1])
def test_the_loop_of_the_other_instruction_sets(isa: str, tmp_path: Path) -> None:
    check_loops(isa, tmp_path, separate=False, names=SAMPLE)


@pytest.mark.exhaustive
def test_the_loop_of_all_rules(tmp_path: Path) -> None:
    names = [path.stem for path in sorted(CSRC.glob("rules/*.h"))]
    check_loops(instruction_sets()[-1], tmp_path, separate=True, names=names)


def module_path() -> str:
    module = importlib.util.find_spec("fastoptim._core")
    assert module
    assert module.origin
    return module.origin


@pytest.mark.exhaustive
def test_the_arithmetic_of_the_module() -> None:
    """No operation of any rule is fused or approximate, for every instruction set, as the module is built."""
    listing = run_tool("objdump", "-d", "--no-show-raw-insn", module_path())
    assert re.search(r"\smulps\s|\svmulps\s|\sfmul\s", listing)
    check_arithmetic({"module": listing})


def test_no_loop_calls_a_function_of_one_element() -> None:
    """GCC vectorizes no such loop: Adan with decay, whose function it did not inline, took eight times as long."""
    names = [line.split(maxsplit=2)[-1] for line in run_tool("nm", "-C", module_path()).splitlines()]
    loops = [name for name in names if re.search(rf"\bfo::(?:{'|'.join(instruction_sets())})_\d+::", name)]
    if not any("update_or_count<" in name for name in loops):
        pytest.skip("needs a module with its symbols")
    check_inlined(loops)


ON_OLD_PROCESSOR = """
import numpy as np, fastoptim as fo
p = np.ones(99, np.float32)
fo.Adam(p).step(p + 1)
print(fo.build_info()["isa"])
"""


@pytest.mark.skipif(not is_x86() or not shutil.which("qemu-x86_64"), reason="needs x86-64 and qemu-x86_64 (qemu-user)")
@pytest.mark.parametrize(("processor", "isa"), [("Nehalem", "baseline"), ("Haswell", "avx2")])
def test_a_processor_without_avx_runs_the_baseline(processor: str, isa: str) -> None:
    if isa not in instruction_sets():
        pytest.skip(f"this build has no {isa}")
    plain = {k: v for k, v in os.environ.items() if k != "FASTOPTIM_ISA"}
    plain["OPENBLAS_CORETYPE"] = processor  # NumPy's library would select kernels that this one does not have
    command = ["qemu-x86_64", "-cpu", processor, sys.executable, "-c", ON_OLD_PROCESSOR]
    ended = subprocess.run(command, capture_output=True, text=True, env=plain)
    assert (ended.returncode, ended.stdout.strip()) == (0, isa), ended.stderr
