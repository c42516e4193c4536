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


def read_mutations(text: str) -> list[Mutation]:
    """Read the table: the name after "#", "file | tests | catcher" after "@", the lines of the pattern after "-" and
    those of its replacement after "+".
    """
    mutations = []
    for entry in re.split(r"^# ", text, flags=re.MULTILINE)[1:]:
        name, head, *change = entry.rstrip("\n").split("\n")
        file, tests, catcher = head.removeprefix("@ ").split(" | ", 2)
        old, new = ("\n".join(line[2:] for line in change if line[0] == sign) for sign in "-+")
        mutations.append(Mutation(name, file, old, new, tests, catcher))
    return mutations


MUTATIONS = read_mutations((CHECKOUT / "tests" / "mutations.txt").read_text(encoding="utf-8"))


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
        shutil.copy(compiled, root / "python" / "fastoptim")

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
