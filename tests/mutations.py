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
CONFIGURE = ("cmake", "--preset", "default", "-DFASTOPTIM_CUDA=OFF")
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


def python(name: str, file: str, old: str, new: str, tests: str, catcher: str) -> Mutation:
    return Mutation(name, PACKAGE + file, old, new, tests, catcher)


def native(name: str, file: str, old: str, new: str, catcher: str, tests: str = BITS + "test_bits.py") -> Mutation:
    return Mutation(name, CSRC + file, old, new, tests, catcher)


MUTATIONS = [
    # ---- the reference and the rules in Python
    python(
        "reference: the square of g first",
        "rules/adam.py",
        "number(1 - float(beta2)) * g * g",
        "number(1 - float(beta2)) * (g * g)",
        BITS + "test_bits.py",
        "special",
    ),
    python(
        "reference: eps not corrected for bias",
        "rules/adam.py",
        "number(eps * math.sqrt(meant))",
        "number(eps)",
        PAPERS + "test_adam.py",
        "follows_the_formula",
    ),
    python(
        "reference: the first SGD step damped",
        "rules/sgd.py",
        "undamped = t == 1 and not dampen_first",
        "undamped = False",
        PAPERS + "test_sgd.py",
        "follows_the_formula",
    ),
    python(
        "reference: Rprop steps back after a turn",
        "rules/rprop.py",
        "prev[...] = np.where(turns, number(0), g)",
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
        "reference.py",
        "return min(number(rate), np.nextafter(number(1), number(0)))",
        "return number(rate)",
        BITS + "test_bits.py",
        "special",
    ),
    python(
        "reference: maximum drops NaN",
        "reference.py",
        "return np.where((a >= b) | np.isnan(a), a, b)",
        "return np.where(a >= b, a, b)",
        BITS + "test_bits.py",
        "special",
    ),
    # ---- passes around a rule
    python(
        "pass: the norm without its epsilon",
        "reference.py",
        "factor = bound / (norm + 1e-6)",
        "factor = bound / norm if norm else 1.0",
        INTERFACE + "test_preparation.py",
        "each_option|combinations",
    ),
    python(
        "pass: no lower bound",
        "reference.py",
        "return maximum(minimum(g, number(bound)), number(-bound))",
        "return minimum(g, number(bound))",
        INTERFACE + "test_preparation.py",
        "each_option",
    ),
    python(
        "pass: the norm of all from unclipped norms",
        "reference.py",
        "left = norm if factor is None else factor * norm if factor else 0.0",
        "left = norm",
        INTERFACE + "test_preparation.py",
        "each_option|combinations",
    ),
    python(
        "pass: decoupled decay in place of coupled",
        "reference.py",
        'if not options["decoupled"]:',
        'if options["decoupled"]:',
        INTERFACE + "test_preparation.py",
        "each_option",
    ),
    python(
        "pass: the sums of a group left out",
        "reference.py",
        "        if optimizer.reduces_group:\n            before",
        "        if not optimizer.reduces_group:\n            before",
        PAPERS + "test_prodigy.py",
        "follows_the_formula|estimate",
    ),
    python(
        "pass: only finite gradients of the first array",
        "reference.py",
        "if skips and not all(np.isfinite(work.g).all() for work in works):",
        "if skips and not all(np.isfinite(work.g).all() for work in works[:1]):",
        INTERFACE + "test_preparation.py",
        "combinations|odd|skip",
    ),
    python(
        "average: the mean of every step counts one too many",
        "reference.py",
        "kept = float(count) / float(count + 1)",
        "kept = float(count + 1) / float(count + 2)",
        INTERFACE + "test_averages.py",
        "average",
    ),
    python(
        "sum: other pairs of lanes",
        "reference.py",
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
    # ---- steps, groups and missing gradients
    python(
        "step: a step without a gradient counts",
        "optimizer.py",
        "self._missed[i] = self._missed.get(i, 0) + 1\n        for group_step",
        "self._missed[i] = 0\n        for group_step",
        INTERFACE + "test_structure.py",
        "counts_its_own_steps|missing",
    ),
    python(
        "step: the schedule is one step ahead",
        "optimizer.py",
        "lr = rate_at(lr, self._step_count, place, \"['lr']\")",
        "lr = rate_at(lr, self._step_count + 1, place, \"['lr']\")",
        INTERFACE + "test_structure.py",
        "rate",
    ),
    python(
        "step: gradients may overlap what is written",
        "engine.py",
        "    written.check_no_overlap(checked, param.g_place)\n",
        "",
        REFUSALS + "test_refusals_arrays.py",
        "memory_of|overlap|name_the_group",
    ),
    # ---- checkpoints
    python(
        "checkpoint: another optimizer's is accepted",
        "checkpoint.py",
        '    _expect(_entry(state_dict, "optimizer", "state_dict"), optimizer.name, "state_dict[\'optimizer\']")\n',
        "",
        REFUSALS + "test_refusals_checkpoint.py",
        "state_dict",
    ),
    python(
        "checkpoint: an array may be ahead of the optimizer",
        "checkpoint.py",
        "if steps > step_count:",
        "if steps > step_count + 1_000_000:",
        REFUSALS + "test_refusals_checkpoint.py",
        "spoiled",
    ),
    python(
        "checkpoint: the arrays' own steps are forgotten",
        "optimizer.py",
        "self._missed = {i: step_count - steps for i, (steps, _) in enumerate(arrays) if steps != step_count}",
        "self._missed = {}",
        INTERFACE + "test_checkpoint.py",
        "missed",
    ),
    # ---- schedules and the loss scale
    python(
        "schedule: Step falls one step early",
        "schedules.py",
        "_power(self.gamma, step // self.step_size)",
        "_power(self.gamma, (step + 1) // self.step_size)",
        INTERFACE + "test_schedules.py",
        "values",
    ),
    python(
        "schedule: warm-up from the rate after it",
        "schedules.py",
        'return _blend(self.init_value, rate_at(self.lr, 0, "lr"), step / self.warmup_steps)',
        'return _blend(self.init_value, rate_at(self.lr, step, "lr"), step / self.warmup_steps)',
        INTERFACE + "test_schedules.py",
        "values",
    ),
    python(
        "schedule: a plateau waits one metric less",
        "schedules.py",
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
        "Adam: the square of g first",
        "rules/adam.h",
        "v = keep2 * v + rise2 * g * g;",
        "v = keep2 * v + rise2 * (g * g);",
        "special",
    ),
    native("Adam: eps rounded twice", "rules/adam.h", "T(eps * sqrt(meant))", "T(eps) * T(sqrt(meant))", "special"),
    native(
        "Adam: bias correction from the unrounded rate",
        "rules/adam.h",
        "clock.bias(double(keep1))",
        "clock.bias(beta1)",
        "special",
    ),
    native(
        "SGD: Nesterov without momentum ahead",
        "rules/sgd.h",
        "this->push * g + this->momentum * b",
        "this->push * g + b",
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
        "return T(rate) < below_one ? T(rate) : below_one;",
        "return T(rate);",
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
    # ---- passes, tiles, sums
    native(
        "kernel: no lower bound",
        "prepare.h",
        "return within(scaled(g), -bound, bound);",
        "return at_most(scaled(g), bound);",
        "special",
    ),
    native(
        "kernel: the norm without its epsilon",
        "prepare.h",
        "bound / (norm + 1e-6)",
        "bound / norm",
        "norm|combinations|option",
        f"{BITS}test_norms.py {INTERFACE}test_preparation.py",
    ),
    native(
        "tile: the last element of some tiles is left out",
        "cpu/loop.cpp",
        "n = std::min(end - begin, most);",
        "n = std::min(end - begin, most);\n        if (n == 33) --end;",
        "sizes",
    ),
    native(
        "sum: the odd one dropped",
        "reduce.h",
        "if (count % 2) sums[count / 2 * stride] = sums[(count - 1) * stride];",
        "if (count % 2) sums[count / 2 * stride] = 0;",
        "norm",
        BITS + "test_norms.py",
    ),
    native(
        "sum: a wrong lane in the tail",
        "cpu/loop.cpp",
        "lanes[k][i % kLanes] += each[k];",
        "lanes[k][0] += each[k];",
        "norm",
        BITS + "test_norms.py",
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
        "gil.cpp",
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
