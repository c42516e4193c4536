"""Sessions for contributors, each in an environment of its own: `nox -l` lists them, and `nox -s lint` runs one.

Arguments after `--` go to the session's program, as in `nox -s tests -- -k adam`.  The build options are environment
variables, as for pip: `FASTOPTIM_CUDA=OFF FASTOPTIM_ISAS=avx2 nox -s tests`.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
EXTRAS = PROJECT["project"]["optional-dependencies"]
BUILD_TOOLS = [*PROJECT["build-system"]["requires"], "cmake>=3.21", "ninja>=1.10"]
BUILT = Path("build/nox").absolute()


def cpp_files(session: nox.Session, *patterns: str) -> list[str]:
    """Return the C++ files under version control."""
    return str(session.run("git", "ls-files", *patterns, external=True, silent=True)).split()


def install_built(session: nox.Session, *extras: str) -> None:
    """Install the wheel that the session `wheel` has built."""
    (wheel,) = (BUILT / "wheel").glob("fastoptim-*.whl")
    session.install(f"{wheel}[{','.join(extras)}]")


@nox.session(requires=["wheel"])
def tests(session: nox.Session) -> None:
    """Run the tests."""
    install_built(session, "test")
    session.run("pytest", *session.posargs)


@nox.session(requires=["wheel"])
def tests_exhaustive(session: nox.Session) -> None:
    """Run the tests and those marked `exhaustive`, which take long."""
    install_built(session, "test")
    session.run("pytest", "-m", "exhaustive or not exhaustive", *session.posargs)


@nox.session(requires=["wheel"])
def docs(session: nox.Session) -> None:
    """Run the examples of docstrings and pages, and check the generated tables."""
    install_built(session, "test", "examples")
    session.run("pytest", "-k", "docs or examples", *session.posargs)


@nox.session(requires=["wheel"])
def site(session: nox.Session) -> None:
    """Build the documentation's site in build/site/html; `-- --links` also checks the links to other sites."""
    install_built(session, "docs")
    session.run("python", "docs/site/build.py", *session.posargs)


@nox.session(requires=["wheel"])
def bench(session: nox.Session) -> None:
    """Time Adam against the memory bandwidth for a few seconds."""
    install_built(session)
    session.run("python", "-m", "fastoptim", "bench", *(session.posargs or ["adam", "--size", "2^16", "2^22"]))


@nox.session
def lint(session: nox.Session) -> None:
    """Check Python with ruff and mypy, and the format of the C++ code."""
    session.install(*PROJECT["project"]["dependencies"], *EXTRAS["dev"], *EXTRAS["test"], *EXTRAS["examples"])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("clang-format", "--dry-run", "-Werror", *cpp_files(session, "*.h", "*.cpp", "*.cu"))


@nox.session
def tidy(session: nox.Session) -> None:
    """Check the C++ code with clang-tidy; .clang-tidy lists the checks."""
    session.install(*EXTRAS["dev"])
    session.run("cmake", "--preset", "tidy", silent=True)
    # The loops are the headers that rule_info.cpp includes, compiled once for each group of rules.
    everything_else = r"csrc/(?!cpu/loop|bench/probe_loop).*\.cpp$"
    session.run("run-clang-tidy.py", "-quiet", "-p", "build/tidy", *(session.posargs or [everything_else]))


@nox.session(reuse_venv=True)  # with the same environment and without build isolation, objects are reused
def wheel(session: nox.Session) -> None:
    """Build a wheel without compiler warnings, and import it away from the checkout."""
    session.install(*BUILD_TOOLS)
    for old in (BUILT / "wheel").glob("*.whl"):
        old.unlink()
    settings = [f"-Cbuild-dir={BUILT}/objects", "-Ccmake.define.FASTOPTIM_WERROR=ON"]
    session.run("pip", "wheel", "--no-deps", "--no-build-isolation", *settings, "-w", f"{BUILT}/wheel", ".")
    (built,) = (BUILT / "wheel").glob("fastoptim-*.whl")
    session.install("--force-reinstall", str(built))
    with session.chdir(session.create_tmp()):
        session.run("python", "-c", "import fastoptim; print(fastoptim.build_info())")


@nox.session(reuse_venv=True)
def emulated(session: nox.Session) -> None:
    """Test the CUDA code on the CPU."""
    session.install(*BUILD_TOOLS)
    settings = [f"-Cbuild-dir={BUILT}/emulated", "-Ccmake.define.FASTOPTIM_CUDA=EMULATED"]
    session.install("--no-build-isolation", *settings, ".[test]")
    session.run("pytest", "-k", "cuda or gpu", *session.posargs)
