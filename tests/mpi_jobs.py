"""Start the processes of an MPI job."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastoptim as fo
from optional import optional

CHECKS = Path(__file__).with_name("sharded_checks.py")


def launch(
    ranks: int, *arguments: str, program: Path = CHECKS, patience: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a check, or another program, on that many ranks."""
    optional("mpi4py")
    launcher = Path(sys.executable).with_name("mpiexec")  # of PyPI's MPI
    found = str(launcher) if launcher.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("needs mpiexec: pip install mpich")
    paths = [str(Path(fo.__file__).parents[1]), str(CHECKS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        **dict.fromkeys(("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"), "1"),  # Open MPI
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    command = [found, "-n", str(ranks), sys.executable, str(program), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=patience, check=False)


def run(ranks: int, *arguments: str, program: Path = CHECKS) -> str:
    """Return what a job that has to succeed prints."""
    done = launch(ranks, *arguments, program=program)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
