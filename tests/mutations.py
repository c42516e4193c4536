"""Apply known mutations of the sources one at a time and report which test notices each.

    python tests/mutations.py                      # all: builds the C++ ones, which takes hours
    python tests/mutations.py --python-only        # some ten minutes
    python tests/mutations.py --only "checkpoint|schedule"
    python tests/mutations.py --list

Works in a copy of the checkout.  A mutation of C++ rebuilds what depends on its file, and the last build restores the
original.  The exit status is 1 if a mutation was not caught.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).parents[1]
BUILD = ("cmake", "--build", "--preset", "default")
# A mutation may leave a variable unused, so warnings are not errors.
CONFIGURE = ("cmake", "--preset", "default", "-DFASTOPTIM_CUDA=OFF", "-DFASTOPTIM_WERROR=OFF")
PATIENCE = 1800  # seconds until a run of the tests counts as hanging


class Mutation(NamedTuple):
    """A change of one file, the test files to run, and a pattern of the test that is expected to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    catcher: str

    @property
    def is_native(self) -> bool:
        return not self.file.endswith(".py")

    def applied(self, root: Path) -> str:
        """Return the mutated text; the pattern must occur exactly once."""
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: expected {self.old!r} once in {self.file}, got {text.count(self.old)} times"
            )
        return text.replace(self.old, self.new)


BITS, PAPERS, INTERFACE, REFUSALS = "tests/bits/", "tests/papers/", "tests/interface/", "tests/refusals/"
PACKAGE, CSRC = "python/fastoptim/", "csrc/"
ENGINE, MATH, STEPPING = "engines/reference.py", "reference_math.py", "optimizer/stepping.py"
GROUPS, CHECKPOINT = "optimizer/groups.py", "optimizer/checkpoint.py"


def python(name: str, file: str, old: str, new: str, tests: str, catcher: str) -> Mutation:
    return Mutation(name, PACKAGE + file, old, new, tests, catcher)


def native(name: str, file: str, old: str, new: str, catcher: str, tests: str = BITS + "test_bits.py") -> Mutation:
    return Mutation(name, CSRC + file, old, new, tests, catcher)


MUTATIONS = [
    # ---- the reference and the rules in Python
    python(
        "reference: the square of g first",
        "rules/adam.py",
        "one_minus_beta2 * g * g",
        "one_minus_beta2 * (g * g)",
        BITS + "test_bits.py",
        "special",
    ),
    python(
        "reference: eps not corrected for bias",
        "rules/adam.py",
        "number(eps * math.sqrt(eps_scale))",
        "number(eps)",
        PAPERS + "test_adam.py",
        "follows_the_formula",
    ),
    python(
        "reference: the first SGD step damped",
        "rules/sgd.py",
        "skips_dampening = t == 1 and not dampen_first",
        "skips_dampening = False",
        PAPERS + "test_sgd.py",
        "follows_the_formula",
    ),
    python(
        "reference: Rprop steps back after a turn",
        "rules/rprop.py",
        "prev[...] = np.where(changed_sign, number(0), g)",
        "prev[...] = g",
        PAPERS + "test_rprop.py",
        "follows_the_formula",
    ),
    python(
        "convention: Keras' epsilon of Adam",
        "rules/adam.py",
        '"keras": {"eps": 1e-7, "eps_hat": True}',
        '"keras": {"eps": 1e-8, "eps_hat": True}',
        PAPERS + "test_adam.py",
        "follows_the_formula",
    ),
    python(
        "convention: the paper's threshold of RAdam",
        "rules/radam.py",
        '"paper": {"threshold": 4.0}',
        '"paper": {"threshold": 5.0}',
        PAPERS + "test_radam.py",
        "follows_the_formula",
    ),
    python(
        "convention: optax' decay rate of RMSprop",
        "rules/rmsprop.py",
        '"optax": {"alpha": 0.9, "eps": 0.0,',
        '"optax": {"alpha": 0.99, "eps": 0.0,',
        PAPERS + "test_rmsprop.py",
        "follows_the_formula",
    ),
    python(
        "reference: a decay rate may round to one",
        MATH,
        "return min(number(rate), np.nextafter(number(1), number(0)))",
        "return number(rate)",
        BITS + "test_bits.py",
        "special",
    ),
    python(
        "reference: maximum drops NaN",
        MATH,
        "return np.where((a >= b) | np.isnan(a), a, b)",
        "return np.where(a >= b, a, b)",
        BITS + "test_bits.py",
        "special",
    ),
    # ---- passes around a rule
    python(
        "pass: the norm without its epsilon",
        ENGINE,
        "factor = bound / (norm + 1e-6)",
        "factor = bound / norm if norm else 1.0",
        INTERFACE + "test_preparation.py",
        "each_option|combinations",
    ),
    python(
        "pass: no lower bound",
        ENGINE,
        "return maximum(minimum(g, number(bound)), number(-bound))",
        "return minimum(g, number(bound))",
        INTERFACE + "test_preparation.py",
        "each_option",
    ),
    python(
        "pass: the norm of all from unclipped norms",
        ENGINE,
        "clipped = norm if factor is None else factor * norm if factor else 0.0",
        "clipped = norm",
        INTERFACE + "test_preparation.py",
        "each_option|combinations",
    ),
    python(
        "pass: decoupled decay in place of coupled",
        ENGINE,
        'if options["weight_decay"] and not options["decoupled"]',
        'if options["weight_decay"] and options["decoupled"]',
        INTERFACE + "test_preparation.py",
        "each_option",
    ),
    python(
        "pass: the sums of a group are those of its last array",
        ENGINE,
        "tuple(a + b for a, b in zip(before, work.sums, strict=True))",
        "work.sums",
        PAPERS + "test_prodigy.py",
        "follows_the_formula|estimate",
    ),
    python(
        "pass: only finite gradients of the first array",
        ENGINE,
        "if skips and not all(np.isfinite(work.g).all() for work in works):",
        "if skips and not all(np.isfinite(work.g).all() for work in works[:1]):",
        INTERFACE + "test_preparation.py",
        "combinations|odd|skip",
    ),
    python(
        "pass: decoupled decay before the reductions",
        ENGINE,
        "    _reduce(works)\n    for work in works:\n        settings = work.group_step.settings\n"
        "        shrink(work.p, work.group_step)",
        "    for work in works:\n        shrink(work.p, work.group_step)\n    _reduce(works)\n    for work in works:\n"
        "        settings = work.group_step.settings",
        INTERFACE + "test_state_schema.py",
        "decoupled_decay",
    ),
    python(
        "format: float64 is rounded to bfloat16 by way of float32",
        MATH,
        "return odd.astype(dtype)",
        "return narrow.astype(dtype)",
        INTERFACE + "test_state_schema.py",
        "bfloat16",
    ),
    python(
        "average: the mean of every step counts one too many",
        ENGINE,
        "kept = float(count) / float(count + 1)",
        "kept = float(count + 1) / float(count + 2)",
        INTERFACE + "test_averages.py",
        "average",
    ),
    python(
        "sum: other pairs of lanes",
        MATH,
        "sums = sums[:, 0::2] + sums[:, 1::2]",
        "sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]",
        BITS + "test_norms.py",
        "documented_order",
    ),
    python(
        "norm: the squares added without a square root between",
        "norms.py",
        "whole += norm * norm",
        "whole += squared",
        BITS + "test_norms.py",
        "norm",
    ),
    # ---- state, steps, groups and missing gradients
    python(
        "schema: the initial value of a state array is left out",
        "arrays/param_state.py",
        "        if initial:\n",
        '        if initial == "p":\n',
        PAPERS + "test_rprop.py",
        "rprop|follows_the_formula",
    ),
    python(
        "schema: an average starts from zero",
        "options/schema.py",
        'AVERAGE_ARRAY = StateArray(initial="p")',
        "AVERAGE_ARRAY = StateArray()",
        INTERFACE + "test_averages.py",
        "average|mean",
    ),
    python(
        "step: a step without a gradient counts",
        STEPPING,
        "optimizer._missed[i] = optimizer._missed.get(i, 0) + 1\n    for group_step",
        "optimizer._missed[i] = 0\n    for group_step",
        INTERFACE + "test_structure.py",
        "counts_its_own_steps|missing",
    ),
    python(
        "step: an array that missed a step has the step count of its group",
        STEPPING,
        "on_time.t - key[1]",
        "on_time.t",
        INTERFACE + "test_structure.py",
        "counts_its_own_steps|missing",
    ),
    python(
        "step: the fast path is taken although an array missed a step",
        STEPPING,
        "elif stepped == len(flat) and not optimizer._missed:",
        "elif stepped == len(flat):",
        INTERFACE + "test_structure.py",
        "counts_its_own_steps|missing",
    ),
    python(
        "step: the schedule is one step ahead",
        STEPPING,
        "lr = rate_at(lr, optimizer._step_count, place, \"['lr']\")",
        "lr = rate_at(lr, optimizer._step_count + 1, place, \"['lr']\")",
        INTERFACE + "test_structure.py",
        "rate|counts_its_own_steps",
    ),
    python(
        "step: a schedule may take the step itself",
        STEPPING,
        "if optimizer._step_count != before:",
        "if optimizer._step_count < before:",
        INTERFACE + "test_fast_path.py",
        "must_not_do",
    ),
    python(
        "step: gradients may overlap what is written",
        "arrays/param_state.py",
        "    written.check_no_overlap(checked, param.g_place)\n",
        "",
        REFUSALS + "test_refusals_arrays.py",
        "memory_of|overlap|name_the_group",
    ),
    python(
        "groups: the fast path keeps the options of before an assignment",
        GROUPS,
        "    optimizer._fast_path = None\n",
        "",
        INTERFACE + "test_fast_path.py",
        "noticed|change",
    ),
    python(
        "groups: the model keeps the state of before an assignment",
        GROUPS,
        "        optimizer._engine = None\n",
        "",
        INTERFACE + "test_groups.py",
        "options",
    ),
    # ---- checkpoints
    python(
        "checkpoint: another optimizer's is accepted",
        CHECKPOINT,
        '    _expect(_entry(state_dict, "optimizer", "state_dict"), optimizer.name, "state_dict[\'optimizer\']")\n',
        "",
        REFUSALS + "test_refusals_checkpoint.py",
        "state_dict",
    ),
    python(
        "checkpoint: an array may be ahead of the optimizer",
        CHECKPOINT,
        "if steps > step_count:",
        "if steps > step_count + 1_000_000:",
        REFUSALS + "test_refusals_checkpoint.py",
        "spoiled",
    ),
    python(
        "checkpoint: the arrays' own steps are forgotten",
        CHECKPOINT,
        "optimizer._missed = {i: step_count - steps for i, (steps, _) in enumerate(arrays) if steps != step_count}",
        "optimizer._missed = {}",
        INTERFACE + "test_checkpoint.py",
        "missed",
    ),
    python(
        "checkpoint: the state is not copied",
        CHECKPOINT,
        "name: param.family.to_numpy(array)",
        "name: array",
        INTERFACE + "test_checkpoint.py",
        "copies|restores|continue",
    ),
    python(
        "checkpoint: the loader's schedule is not kept",
        CHECKPOINT,
        'for k in ("lr", "grad_scale") if',
        'for k in ("grad_scale",) if',
        INTERFACE + "test_checkpoint.py",
        "function_for_a_rate",
    ),
    # ---- schedules and the loss scale
    python(
        "schedule: Step falls one step early",
        "schedules/stepwise.py",
        "power(self.gamma, step // self.step_size)",
        "power(self.gamma, (step + 1) // self.step_size)",
        INTERFACE + "test_schedules.py",
        "values",
    ),
    python(
        "schedule: warm-up from the rate after it",
        "schedules/combined.py",
        'return blend(self.init_value, rate_at(self.lr, 0, "lr"), step / self.warmup_steps)',
        'return blend(self.init_value, rate_at(self.lr, step, "lr"), step / self.warmup_steps)',
        INTERFACE + "test_schedules.py",
        "values",
    ),
    python(
        "schedule: a plateau waits one metric less",
        "schedules/plateau.py",
        'if state["num_bad_epochs"] > self.patience:',
        'if state["num_bad_epochs"] >= self.patience:',
        INTERFACE + "test_schedules.py",
        "plateau",
    ),
    python(
        "loss scale: growth one step late",
        "loss_scale.py",
        "elif self._taken == self.growth_interval:",
        "elif self._taken > self.growth_interval:",
        INTERFACE + "test_loss_scale.py",
        "rule",
    ),
    python(
        "loss scale: not reset by a skipped step",
        "loss_scale.py",
        "self._taken = self._taken + 1 if taken else 0",
        "self._taken = self._taken + 1 if taken else self._taken",
        INTERFACE + "test_loss_scale.py",
        "rule",
    ),
    # ---- rules in C++
    native(
        "Adam: eps rounded twice", "rules/adam.h", "T(eps * sqrt(eps_scale))", "T(eps) * T(sqrt(eps_scale))", "special"
    ),
    native(
        "Adam: bias correction from the unrounded rate",
        "rules/adam.h",
        "mean1.bias_correction(clock)",
        "clock.bias_correction(beta1)",
        "special",
    ),
    native(
        "SGD: Nesterov without momentum ahead",
        "rules/sgd.h",
        "this->buffer_lr * g + this->momentum * b",
        "this->buffer_lr * g + b",
        "special",
    ),
    native(
        "average of squares: the square first",
        "rule.h",
        "one_minus_beta * x * x",
        "one_minus_beta * (x * x)",
        "special",
    ),
    native(
        "constants: the step number off by one",
        "rule.h",
        "for (std::int64_t n = t; n > 0; n >>= 1) {",
        "for (std::int64_t n = t + 1; n > 0; n >>= 1) {",
        "special",
    ),
    native(
        "constants: a decay rate may round to one",
        "rule.h",
        "return T(beta) < below_one ? T(beta) : below_one;",
        "return T(beta);",
        "special",
    ),
    native("max takes the second of equals", "rule.h", "return a >= b || a != a", "return a > b || a != a", "special"),
    native("max drops NaN", "rule.h", "return a >= b || a != a ? a : b;", "return a >= b ? a : b;", "special"),
    # ---- formats
    native("float16: ties away from zero", "formats.h", "0xfffu + (magnitude >> 13 & 1u)", "0x1000u", "special|format"),
    native("float16: overflow to the largest", "formats.h", "? 0x7c00u : half", "? 0x7bffu : half", "special|format"),
    native(
        "bfloat16: cut in place of rounded",
        "formats.h",
        "(all + 0x7fffu + (all >> 16 & 1u)) >> 16",
        "all >> 16",
        "special|format",
    ),
    native(
        "round_to_odd: nothing marks a number that was rounded up",
        "formats.h",
        "narrow_magnitude != magnitude && x - x == 0",
        "narrow_magnitude < magnitude && x - x == 0",
        "single_one|stores_state",
        INTERFACE + "test_state_schema.py",
    ),
    # ---- passes, tiles, sums
    native(
        "plan: clip_global_norm takes no norms",
        "plan_passes.cpp",
        " || constants.clip_global_norm < INFINITY",
        "",
        "norm|combinations|option",
        INTERFACE + "test_preparation.py",
    ),
    native(
        "plan: a batch may end within a parameter",
        "plan_passes.cpp",
        ">= batch_elements && last_of_param)",
        ">= batch_elements)",
        "segment|batch",
        BITS + "test_segments.py",
    ),
    native(
        "plan: the sums of a group are not added",
        "plan_passes.cpp",
        "add(needs.reduce_group,",
        "add(false,",
        "group|batches|follows_the_formula",
        f"{PAPERS}test_rules_with_sums.py {PAPERS}test_prodigy.py",
    ),
    native(
        "device: the sums of a parameter are those of its last segment",
        "cpu/device.cpp",
        "sum = first ? segment : sum + segment;",
        "sum = segment;",
        "sums_run_over_all_segments",
        BITS + "test_segments.py",
    ),
    native(
        "device: all groups have the same sums",
        "cpu/device.cpp",
        "members[step_.segments[i].group]",
        "members[0]",
        "groups",
        PAPERS + "test_rules_with_sums.py",
    ),
    native(
        "kernel: no lower bound",
        "prepare.h",
        "return clamp(scaled(g), -bound, bound);",
        "return at_most(scaled(g), bound);",
        "special",
    ),
    native(
        "kernel: the norm without its epsilon",
        "reduce.h",
        "bound / (norm + 1e-6)",
        "bound / norm",
        "norm|combinations|option",
        f"{BITS}test_norms.py {INTERFACE}test_preparation.py",
    ),
    native(
        "tile: the last element of some tiles is left out",
        "cpu/tile_loop.h",
        "n = std::min(end - begin, most);",
        "n = std::min(end - begin, most);\n        if (n == 33) --n, --end;",
        "sizes",
    ),
    native(
        "tile: the last element of an odd tile is not stored",
        "cpu/tile_loop.h",
        "if (!in_place_) encode<T>(array_.format, copy_, memory_, n);",
        "if (!in_place_) encode<T>(array_.format, copy_, memory_, n - n % 2);",
        "format|sizes",
    ),
    native(
        "sum: the odd one dropped",
        "reduce.h",
        "i + width < at.count",
        "i + 2 * width <= at.count",
        "norm",
        BITS + "test_norms.py",
    ),
    native(
        "sum: a wrong lane in the tail",
        "cpu/tile_loop.h",
        "lanes[k][i % kLanes] += each[k];",
        "lanes[k][0] += each[k];",
        "norm",
        BITS + "test_norms.py",
    ),
    # ---- the model and its fast path
    native(
        "model: a gradient may overlap what is written",
        "python/model.cpp",
        "if (overlaps_own(interval_of(gradient.data, size, gradient.format))) return false;",
        "",
        "memory_of",
        REFUSALS + "test_refusals_arrays.py",
    ),
    native(
        "fast path: options that were assigned are not noticed",
        "python/fast_path.cpp",
        "if (value != PyTuple_GET_ITEM(values.ptr(), i)) return false;",
        "",
        "change",
        INTERFACE + "test_fast_path.py",
    ),
    native(
        "fast path: missing gradients are not noticed",
        "python/fast_path.cpp",
        " || read.value != static_cast<std::int64_t>(leaves.size()))",
        ")",
        "change",
        INTERFACE + "test_fast_path.py",
    ),
    native(
        "fast path: the constants of the step before",
        "python/fast_path.cpp",
        "fixed_constants(step_count + 1)",
        "fixed_constants(step_count > 0 ? step_count : 1)",
        "change|noticed",
        INTERFACE + "test_fast_path.py",
    ),
    # ---- threads
    native(
        "share: a gap between segments",
        "cpu/shares.h",
        "const std::int64_t stop = std::min(end, begins[i + 1]);",
        "const std::int64_t stop = std::min(end - (end != begins.back()), begins[i + 1]);\n"
        "            if (stop <= begin) break;",
        "thread",
        f"{BITS}test_bits.py {BITS}test_threads.py",
    ),
    native(
        "threads: the floating-point environment left as it is",
        "float_environment.h",
        "_mm_setcsr(0x1f80); }",
        "}",
        "floating_point_mode",
        BITS + "test_threads.py",
    ),
    native(
        "threads: the lock of the interpreter kept",
        "python/gil.cpp",
        "    state_ = PyEval_SaveThread();\n",
        "    state_ = PyEval_SaveThread();\n    PyEval_RestoreThread(state_);\n",
        "gil|crash",
        BITS + "test_threads.py",
    ),
    native(
        "threads: limits of OpenMP ignored",
        "cpu/thread_count.cpp",
        "if (limits.limit && limits.limit < count.threads)",
        "if (false)",
        "limit|threadpoolctl",
        INTERFACE + "test_thread_count.py",
    ),
    native(
        "threads: kept in a fork",
        "cpu/pool.cpp",
        "pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr, std::memory_order_relaxed); });",
        "",
        "fork|hangs",
        INTERFACE + "test_processes.py",
    ),
    # ---- the build
    Mutation(
        "build: contraction allowed",
        "CMakeLists.txt",
        "-fno-fast-math -ffp-contract=off",
        "-fno-fast-math -ffp-contract=fast -mfma",
        f"tests/builds/test_sources.py {BITS}test_bits.py",
        "flag|special",
    ),
]


class Outcome(NamedTuple):
    caught: bool
    by: str


def run(*command: str, cwd: Path, path: Path | None = None, timeout: float | None = None) -> tuple[int, str]:
    """Return the exit status and the output of a command."""
    environment = None if path is None else {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )
    return done.returncode, done.stdout + done.stderr


class Workspace:
    """A copy of the checkout with a package to test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.built = False
        _, listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=CHECKOUT)
        for name in filter(lambda name: (CHECKOUT / name).is_file(), listed.splitlines()):
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != (CHECKOUT / name).read_bytes():
                shutil.copy(CHECKOUT / name, target)
        compiled = importlib.import_module("fastoptim._core").__file__
        assert compiled is not None
        shutil.copy(compiled, root / PACKAGE)

    def build(self) -> None:
        commands = [BUILD] if self.built else [CONFIGURE, BUILD]
        for command in commands:
            status, output = run(*command, cwd=self.root)
            if status:
                raise RuntimeError(f"{' '.join(command)} failed:\n{output[-3000:]}")
        self.built = True

    def try_mutation(self, mutation: Mutation) -> Outcome:
        """Apply a mutation, run its tests, and restore the file."""
        path = self.root / mutation.file
        original = path.read_text(encoding="utf-8")
        path.write_text(mutation.applied(self.root), encoding="utf-8")
        try:
            if mutation.is_native:
                self.build()
            return self.run_tests(mutation)
        except RuntimeError as error:
            return Outcome(False, str(error).splitlines()[-1])
        finally:
            path.write_text(original, encoding="utf-8")

    def run_tests(self, mutation: Mutation) -> Outcome:
        site = self.root / ("build/default/site" if mutation.is_native else "python")
        pytest = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no")
        try:
            status, output = run(*pytest, *mutation.tests.split(), cwd=self.root, path=site, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return Outcome(True, "hangs")
        if status == 0:
            return Outcome(False, "")
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        if failed:
            return Outcome(True, failed[1])
        return Outcome(status < 0, "crash" if status < 0 else output.strip().splitlines()[-1])


def with_progress(mutations: list[Mutation]) -> Iterator[Mutation]:
    """Show a progress bar if tqdm is installed."""
    try:
        tqdm: Any = importlib.import_module("tqdm").tqdm
    except ImportError:
        yield from mutations
        return
    bar = tqdm(mutations, unit="mutation", file=sys.stderr, disable=None)
    for mutation in bar:
        bar.set_postfix_str(mutation.name)
        yield mutation


def table(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {what}" for name, what in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list the mutations and exit")
    parser.add_argument("--only", metavar="PATTERN", default="", help="mutations whose name or file matches")
    parser.add_argument("--python-only", action="store_true", help="leave out what needs a build")
    parser.add_argument("--work", metavar="DIR", type=Path, help="keep the copy and its build here, to use them again")
    arguments = parser.parse_args()
    chosen = [
        mutation
        for mutation in MUTATIONS
        if re.search(arguments.only, f"{mutation.name} {mutation.file}")
        and not (arguments.python_only and mutation.is_native)
    ]
    if arguments.list:
        print(table((mutation.name, f"{mutation.file}: {mutation.tests}") for mutation in chosen))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace(arguments.work or Path(temporary))
        outcomes = [(mutation, workspace.try_mutation(mutation)) for mutation in with_progress(chosen)]
    missed = [mutation for mutation, outcome in outcomes if not outcome.caught]
    rows = []
    for mutation, outcome in outcomes:
        expected = outcome.caught and re.search(mutation.catcher, outcome.by) is not None
        note = "" if expected or not outcome.caught else f" (expected {mutation.catcher})"
        rows.append((mutation.name, (outcome.by + note) if outcome.caught else f"NOT CAUGHT {outcome.by}"))
    print(table(rows))
    print(f"{len(outcomes) - len(missed)} of {len(outcomes)} caught")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
