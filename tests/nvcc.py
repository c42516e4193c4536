"""CUDA's compiler and tools, for tests that inspect or interpret the kernels' code."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from cases import CHECKOUT

CSRC = CHECKOUT / "csrc"

_RULE = re.compile(r'^struct (\w+)[^{;]*\{[^}]*?\bname = "(\w+)"', re.MULTILINE)


def tool(name: str) -> Path | None:
    """Return one of CUDA's programs: on PATH, else a wheel's."""
    if found := shutil.which(name):
        return Path(found)
    wheels = importlib.util.find_spec("nvidia")
    roots = (wheels.submodule_search_locations if wheels else None) or []
    return next((path for root in roots for path in Path(root).glob(f"*/bin/{name}")), None)


def output(*command: str | Path) -> str:
    """Run a command and return what it prints."""
    disassembler = tool("nvdisasm")
    environment = {**os.environ, **({"NVDISASM_PATH": str(disassembler.parent)} if disassembler else {})}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, errors="replace", env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def rule_names() -> dict[str, str]:
    """Return a rule's name by its struct's."""
    return {struct: name for path in CSRC.glob("rules/*.h") for struct, name in _RULE.findall(path.read_text("utf-8"))}


def _cmake_text() -> str:
    return re.sub(r"#[^\n]*", "", (CHECKOUT / "cmake" / "cuda.cmake").read_text(encoding="utf-8"))


def flags() -> list[str]:
    """Return the options of the real compile."""
    begin = r"target_compile_options\(fastoptim_cuda_flags INTERFACE\s+(.*?)\n\s*\$<"
    found = re.search(begin, _cmake_text(), re.DOTALL)
    assert found
    return found[1].split()


def compiler(nvcc: Path) -> list[str | Path]:
    """Return the beginning of a command that compiles kernels as the real build does."""
    return [nvcc, "-std=c++20", "-O3", *flags(), "-Werror=all-warnings", "-DFO_TARGET=gpu", "-arch=sm_80"]


def _ptx(nvcc: Path, source: Path, made: Path, *options: str) -> str:
    """Compile with arguments of the emulated build's size, whose launches are interpreted."""
    (size,) = set(re.findall(r"FO_ARGUMENT_BYTES=(\d+)", _cmake_text()))
    output(*compiler(nvcc), f"-DFO_ARGUMENT_BYTES={size}", f"-I{CSRC}", *options, "-ptx", source, "-o", made)
    return made.read_text(encoding="utf-8")


def ptx_of_all(nvcc: Path, work: Path) -> list[str]:
    """Return the PTX of every kernel, as modules; two compilers run at the same time."""
    found = re.search(r"fastoptim_cuda_parts ([\d ]+)\)", _cmake_text())
    assert found
    with ThreadPoolExecutor(2) as pool:

        def compile_part(part: str, options: tuple[str, ...]) -> str:
            made = work / f"{part}{len(options)}.ptx"
            return _ptx(nvcc, CSRC / "cuda" / "kernels.cu", made, f"-DFO_PART={part}", *options)

        return list(pool.map(compile_part, *zip(*product(found[1].split(), ((), ("-DFO_STAGED",))), strict=True)))


def ptx_of_some(nvcc: Path, work: Path, rules: Iterable[str]) -> str:
    """Return the PTX of the kernels that belong to no rule, and of all rules in the files that define these."""
    names = set(rules)
    files = [
        path for path in sorted(CSRC.glob("rules/*.h")) if names & set(dict(_RULE.findall(path.read_text())).values())
    ]
    listed, source = work / "rules.inc", work / "sample.cu"
    listed.write_text("".join(f'#include "rules/{path.name}"\n' for path in files), encoding="utf-8")
    source.write_text(
        f"""#define FO_PART 0
#define FO_UNIT_RULES "{listed}"
#include "{CSRC}/cuda/kernels.cu"
namespace fo::FO_TARGET {{
void instantiate() {{
    for_rules([](auto... each) {{
        (make<Rule<each, float>, float>(), ...);
        (make<Rule<each, double>, double>(), ...);
        (make_staged<Rule<each, float>, float>(), ...);
        (make_staged<Rule<each, double>, double>(), ...);
        return 0;
    }});
}}
}}
""",
        encoding="utf-8",
    )
    return _ptx(nvcc, source, work / "sample.ptx")
