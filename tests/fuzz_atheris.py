"""Search for checkpoints that break loading, guided by the branches that they reach (pip install atheris).

    python tests/fuzz_atheris.py -max_total_time=60 -len_control=0 -max_len=40

The arguments are libFuzzer's; -help=1 lists them.  A failure writes the bytes that chose the file to `crash-...`, which
as the only argument repeats it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

MODULES = ["fastoptim.files", "fastoptim.optimizer", "fastoptim.options", "fastoptim.schedules", "fastoptim.arrays"]

with atheris.instrument_imports(include=MODULES):
    from fuzz_files import check_file

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "checkpoint"
        atheris.Setup(sys.argv, lambda data: check_file(data, path) and None)
        atheris.Fuzz()
