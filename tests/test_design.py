"""The house's rules of dependency and arithmetic, held over the sources and over what a compiler makes of them."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
CSRC = CHECKOUT / "csrc"
PACKAGE = CHECKOUT / "python" / "fastoptim"

pytestmark = pytest.mark.skipif(not CSRC.exists(), reason="needs the sources: these tests run in a checkout")

SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


# ---- C++ sources


def code_of(path: Path) -> str:
    """The text without comments."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def includes(path: Path) -> tuple[list[str], list[str]]:
    """What a file includes: ours, in quotes and relative to csrc, and others', in brackets."""
    code = code_of(path)
    quoted = re.findall(r'^\s*#\s*include\s*"([^"]+)"', code, re.MULTILINE)
    ours = [Path(os.path.normpath(path.parent / name)).relative_to(CSRC).as_posix() for name in quoted]
    return ours, re.findall(r"^\s*#\s*include\s*<([^>]+)>", code, re.MULTILINE)


def is_standard(header: str) -> bool:
    return re.fullmatch(r"[a-z_0-9]+|immintrin\.h", header) is not None  # the last is each compiler's own


def is_unknowing(path: Path) -> bool:
    """Whether a file includes the standard library alone."""
    ours, others = includes(path)
    return not ours and all(map(is_standard, others))


def test_sources_are_found() -> None:
    assert {"rule.h", "rules.h", "step.h", "bindings.cpp"} <= {path.name for path in SOURCES}
    assert {"native.py", "core.py"} <= {path.name for path in MODULES}


@pytest.mark.parametrize("path", sorted(CSRC.glob("rules/*")), ids=name_of)
def test_a_rule_includes_rule_h_and_nothing_else(path: Path) -> None:
    assert includes(path) == (["rule.h"], [])


def test_rule_h_includes_the_standard_library_alone() -> None:
    assert is_unknowing(CSRC / "rule.h")
    assert not {"thread", "mutex", "atomic"} & set(includes(CSRC / "rule.h")[1])


def test_call_h_includes_nothing_of_ours() -> None:
    assert is_unknowing(CSRC / "step.h")


@pytest.mark.parametrize("name", ["formats.h", "prepare.h", "rule_traits.h"])
def test_the_stages_know_calls_and_rules_alone(name: str) -> None:
    ours, others = includes(CSRC / name)
    assert set(ours) <= {"step.h", "rule.h", "rule_traits.h"}
    assert all(map(is_standard, others))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_python_is_seen_by_the_bindings_alone(path: Path) -> None:
    ours, others = includes(path)
    may = path.parent == CSRC and path.stem in {
        "bindings",
        "buffer",
        "cuda_plan",
        "gil",
        "bandwidth_probe",
        "plan",
        "repeat",
    }
    seen = [header for header in others if re.search(r"pybind11|Python\.h|numpy", header)]
    seen += [
        header
        for header in ours
        if header in {"buffer.h", "cuda_plan.h", "gil.h", "bandwidth_probe.h", "plan.h", "repeat.h"}
    ]
    assert may or not seen


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_cuda_is_seen_by_its_loop_alone(path: Path) -> None:
    _, others = includes(path)
    cuda = [header for header in others if re.match(r"cuda|cu[a-z]*\.h|cub/|thrust/|cooperative_groups|nv", header)]
    assert path.is_relative_to(CSRC / "cuda") or not cuda


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name in ("cpu", "cuda")], ids=name_of)
def test_a_loop_knows_storage_preparation_rules_and_calls(path: Path) -> None:
    """And headers that know nothing of ours themselves."""
    ours, _ = includes(path)
    abroad = {header for header in ours if not header.startswith(path.parent.name + "/")}
    unknowing = {header for header in abroad if is_unknowing(CSRC / header)}
    stages = {"formats.h", "prepare.h", "rule_traits.h", "rules.h", "rule.h", "step.h", "rule_info.h"}
    assert abroad - unknowing <= stages


@pytest.mark.parametrize("path", sorted(CSRC.glob("rules/*")), ids=name_of)
def test_every_rule_is_registered(path: Path) -> None:
    assert f"rules/{path.name}" in includes(CSRC / "rules.h")[0]


# ---- arithmetic

# Not rounded correctly by every library, or more than one rounding: each would give other bits somewhere else.
INEXACT = (
    r"pow[if]?|exp(?:2|10|m1)?|log(?:2|10|1p)?|(?:arc|a)?(?:sin|cos|tan)h?|atan2|erfc?|[tl]gamma|cbrt"
    r"|hypot|rsqrt|reciprocal|fma|fmod|remainder|fdim"
)


@pytest.mark.parametrize("path", [*sorted(CSRC.glob("rules/*")), CSRC / "rule.h", CSRC / "prepare.h"], ids=name_of)
def test_rules_use_exact_operations_alone(path: Path) -> None:
    assert re.findall(rf"\b(?:{INEXACT})[fl]?\s*\(", code_of(path)) == []


@pytest.mark.parametrize("path", sorted(CSRC.glob("rules/*")), ids=name_of)
def test_rules_take_their_functions_from_rule_h(path: Path) -> None:
    named = set(re.findall(r"\bstd::(\w+)", code_of(path)))
    assert named <= {"array", "int32_t", "int64_t", "uint32_t", "uint64_t", "size_t"}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("rules/*.py")), ids=name_of)
def test_references_use_exact_operations_alone(path: Path) -> None:
    """But for the numbers of a step, which native code is given, too."""
    tree = without_host_constants(parse(path))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert [name for name in sorted(called) if re.fullmatch(rf"{INEXACT}|power|float_power|dot", name)] == []


def without_host_constants(tree: ast.Module) -> ast.Module:
    """A module without its `compute_host_constants` and the functions that only that needs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if getattr(part, "name", "") != "compute_host_constants"]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    rest = [node for node in tree.body if node not in functions]
    while used := [
        f for f in functions if f.name in {n.id for r in rest for n in ast.walk(r) if isinstance(n, ast.Name)}
    ]:
        rest += used
        functions = [f for f in functions if f not in used]
    return ast.Module(rest, [])


def cmake() -> str:
    return re.sub(r"#[^\n]*", "", (CHECKOUT / "CMakeLists.txt").read_text(encoding="utf-8"))


def test_no_flag_changes_the_arithmetic_or_ties_the_build_to_this_machine() -> None:
    forbidden = (
        r"-march=native|-mtune=native|-mcpu=native|-xHost|-ffast-math|-Ofast|-funsafe-math|-fassociative-math"
        r"|-freciprocal-math|-ffinite-math|-fno-signed-zeros|-ffp-contract=(?!off)|-mfma|-ffp-model=fast|/fp:fast"
        r"|-use_fast_math|--use_fast_math|-ftz=true|-flto"
    )
    assert re.findall(forbidden, cmake()) == []
    assert re.search(r"(?<!\S)-ffp-contract=off(?!\S)", cmake())
    assert "/fp:precise" in cmake()


# ---- Python sources


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each import at run time: the module, with its leading dots, and the names taken from it."""
    tree = parse(path)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_compiled_module_is_imported_by_core_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = any("_core" in [*module.split("."), *names] for module, names in imports(path))
    named = re.search(r"""["'][\w.]*\b_core["']""", text) is not None  # import_module and the like
    assert (imported or named) == (path == PACKAGE / "core.py")


@pytest.mark.parametrize("path", [p for p in PACKAGE.glob("rules/*.py") if p.name != "__init__.py"], ids=name_of)
def test_an_optimizer_imports_the_base_and_other_optimizers_alone(path: Path) -> None:
    relative = {module for module, _ in imports(path) if module.startswith(".")}
    siblings = {f".{other.stem}" for other in PACKAGE.glob("rules/*.py")}
    layers = ("arrays", "options", "engines.base", "optimizer.base", "reference_math")
    assert all(module in siblings or module.startswith(tuple(f"..{layer}" for layer in layers)) for module in relative)
    assert not [module for module, _ in imports(path) if module.startswith("fastoptim")]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_numpy_is_the_only_package_imported(path: Path) -> None:
    absolute = {module.split(".")[0] for module, _ in imports(path) if not module.startswith(".")}
    assert absolute <= {"numpy", "fastoptim", *sys.stdlib_module_names}


def imported_by_name(path: Path) -> set[str]:
    """The packages that `import_module` is called with."""
    names = re.findall(r"""import_module\(["']([\w.]+)""", path.read_text(encoding="utf-8"))
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_packages_are_imported_where_they_are_needed_alone(path: Path) -> None:
    """The benchmark's, and ml_dtypes for state that is stored in bfloat16."""
    extras = {"cupy", "matplotlib", "ml_dtypes", "tqdm"}
    storage = {"ml_dtypes"} if path.name == "reference_math.py" else set()
    assert imported_by_name(path) <= (extras if path.parent.name == "bench" else storage)


def test_numpy_is_the_only_dependency() -> None:
    declared = re.search(r"^dependencies = \[(.*?)\]", (CHECKOUT / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    assert declared
    assert re.findall(r'"([\w-]+)', declared[1]) == ["numpy"]


# ---- what a compiler makes of the loop


def compiler() -> list[str] | None:
    """$CXX, else the first of the usual names on PATH."""
    candidates = [shlex.split(os.environ.get("CXX", "")), ["g++"], ["clang++"]]
    return next((command for command in candidates if command and shutil.which(command[0])), None)


def compile_flags(isa: str) -> list[str]:
    """CMakeLists.txt's flags for a loop; those that only warn left out."""
    text = cmake()
    common = re.findall(r"target_compile_options\(fastoptim_flags INTERFACE\s+([^)]*)\)", text)
    own = re.search(rf"set\(fastoptim_isa_{isa}\s+([^)]*)\)", text)
    flags = " ".join([*common, own[1] if own else ""]).split()
    return [flag for flag in flags if re.match(r"-(?!W|fsanitize|fno-sanitize|g$)", flag)]


def instruction_sets() -> list[str]:
    if not CSRC.exists():
        return []
    names = re.findall(r"(?:set|list)\((?:APPEND )?fastoptim_isas ([^)]*)\)", cmake())
    found = " ".join(names).split()
    return found if is_x86() else [isa for isa in found if not re.match("avx|sse", isa)]


def is_x86() -> bool:
    return os.uname().machine in ("x86_64", "amd64") if hasattr(os, "uname") else False


def run_tool(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout


def need(tool: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool} on PATH")
    return tool


@pytest.fixture(scope="module", params=instruction_sets())
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def compiled(source: Path, isa: str, target: Path) -> Path:
    """The loop as CMake's Release compiles it for one instruction set."""
    command = compiler()
    if command is None:
        pytest.skip("needs a C++ compiler on PATH or in $CXX")
    if sys.platform != "linux":
        pytest.skip("reads ELF objects")
    flags = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
    flags += [*compile_flags(isa), f"-DFO_TARGET={isa}", *["-DFO_X86"] * is_x86(), f"-I{CSRC / 'cpu'}"]
    built = subprocess.run([*command, *flags, "-c", str(source), "-o", str(target)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return target


def disassembled(target: Path) -> dict[str, str]:
    """The code of each function by its demangled name."""
    listing = run_tool(need("objdump"), "-d", "-C", "--no-show-raw-insn", target)
    parts = re.split(r"^[0-9a-f]+ <(.*)>:$", listing, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def loop(isa: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(CSRC / "cpu" / "loop.cpp", isa, tmp_path_factory.mktemp("loop") / f"{isa}.o")


@pytest.fixture(scope="module")
def bandwidth_probe_loop(isa: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(
        CSRC / "cpu" / "bandwidth_probe_loop.cpp", isa, tmp_path_factory.mktemp("bandwidth_probe_loop") / f"{isa}.o"
    )


@pytest.fixture(scope="module")
def bodies(loop: Path) -> dict[str, str]:
    return disassembled(loop)


@pytest.fixture(scope="module")
def rules_alone(isa: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each rule's own loop, kept apart from the preparation that is vectorised beside it."""
    text = (CSRC / "cpu" / "loop.cpp").read_text(encoding="utf-8")
    assert text.count("void apply(") == 1
    source = tmp_path_factory.mktemp("alone") / "loop.cpp"
    source.write_text(text.replace("void apply(", "__attribute__((noinline)) void apply("), encoding="utf-8")
    return disassembled(compiled(source, isa, source.with_suffix(".o")))


def rules_of(bodies: dict[str, str], kind: str = "float", function: str = "update") -> dict[str, str]:
    """Each rule's code in one compute type."""
    code: dict[str, str] = {}
    for name, body in bodies.items():
        rule = rf"fo::\w+::(\w+)<{kind}>"
        if found := re.search(rf"\b{function}<(?:{rule}|fo::\w+::ApplyRule<{rule} ?>), {kind}>", name):
            rule_name = found[1] or found[2]
            code[rule_name] = code.get(rule_name, "") + body
    return code


def test_the_flags_are_those_of_the_build(isa: str) -> None:
    flags = compile_flags(isa)
    assert "-ffp-contract=off" in flags
    assert isa == "baseline" or any(flag.startswith("-m") for flag in flags)


def test_no_symbol_can_be_merged_with_another_instruction_set_s(
    loop: Path, bandwidth_probe_loop: Path, isa: str
) -> None:
    """A weak one could, if its name does not say whose it is: the linker keeps any one, and the baseline could end up
    running AVX-512 code.
    """
    for target, function in ((loop, "loops"), (bandwidth_probe_loop, "probes")):
        listed = run_tool(need("nm"), "-C", "--defined-only", target).splitlines()
        defined = [line.split(maxsplit=2)[1:] for line in listed]
        assert [name for kind, name in defined if kind in "WwVvu" and not name.startswith(f"fo::{isa}::")] == []
        assert [name for kind, name in defined if kind in "TDBRC"] == [f"fo::cpu::{function}_{isa}()"]


def test_no_multiplication_is_fused_with_an_addition(bodies: dict[str, str]) -> None:
    fused = re.compile(r"\s(v?fn?m(?:add|sub)\w*|fml[as]\w*|bfmla\w*)\s")
    assert {name: found for name, body in bodies.items() if (found := fused.findall(body))} == {}


def test_no_approximate_instruction_is_used(bodies: dict[str, str]) -> None:
    approximate = re.compile(r"\s(v?rcp\w+|v?rsqrt\w+|frecp\w+|frsqrt\w+)\s")
    assert {name: found for name, body in bodies.items() if (found := approximate.findall(body))} == {}


def test_every_rule_is_there(bodies: dict[str, str]) -> None:
    registered = [
        name for path in CSRC.glob("rules/*") for name in re.findall(r"^FO_RULE\((\w+)\)", code_of(path), re.M)
    ]
    assert registered
    assert sorted(rules_of(bodies)) == sorted(registered)


# By instruction set its widest registers, by compute type the suffixes of packed and of scalar instructions.
WIDE = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}
SUFFIXES = {"float": ("ps", "ss"), "double": ("pd", "sd")}

reads_x86 = pytest.mark.skipif(not is_x86(), reason="reads x86 instructions")
each_kind = pytest.mark.parametrize("kind", SUFFIXES)


@reads_x86
@each_kind
def test_every_rule_is_vectorised(rules_alone: dict[str, str], isa: str, kind: str) -> None:
    packed = re.compile(rf"\sv?(?:mul|add|sub){SUFFIXES[kind][0]}\s.*%{WIDE[isa]}")
    code = rules_of(rules_alone, kind, "apply")
    assert set(code) >= {"Adam", "SGD"}
    assert [rule for rule, body in code.items() if not packed.search(body)] == []


@reads_x86
@each_kind
@pytest.mark.parametrize("operation", ["mul", "add", "sub", "div", "sqrt"])
def test_what_the_scalar_tail_does_the_loop_does_packed(
    rules_alone: dict[str, str], isa: str, kind: str, operation: str
) -> None:
    many, one = SUFFIXES[kind]
    scalar, packed = re.compile(rf"\sv?{operation}{one}\s"), re.compile(rf"\sv?{operation}{many}\s.*%{WIDE[isa]}")
    code = rules_of(rules_alone, kind, "apply")
    assert [rule for rule, body in code.items() if scalar.search(body) and not packed.search(body)] == []


@reads_x86
@each_kind
def test_divisions_and_roots_are_packed(bodies: dict[str, str], isa: str, kind: str) -> None:
    code = rules_of(bodies, kind)
    for rule, operation in {"Adam": "div", "RMSprop": "sqrt", "Adagrad": "div"}.items():
        assert re.search(rf"\sv?{operation}{SUFFIXES[kind][0]}\s.*%{WIDE[isa]}", code[rule]), rule


@reads_x86
def test_the_limit_is_as_wide_as_the_rules(bandwidth_probe_loop: Path, isa: str) -> None:
    """Or steps would be measured against less than the processor can do."""
    packed = re.compile(rf"\sv?p?xor[a-z]*\s.*%{WIDE[isa]}")
    code = {name: body for name, body in disassembled(bandwidth_probe_loop).items() if "pass_over<" in name}
    assert len(code) > 10
    assert [name for name, body in code.items() if not packed.search(body)] == []
