"""Runs everything that the README and docs/performance.md show, one file of bench/results/ after another.

    pip install '.[peers,examples]'          and, as far as they can be had: pip install 'mlx[cpu]' deepspeed
    python bench/record.py                   everything: a quarter of an hour on two cores
    python bench/record.py --only gpt2 cold  some of it
    python bench/report.py                   then: the tables and pictures

A peer that is not installed is left out of its file, and a run that fails leaves the file of an earlier one as it was.
For times that mean something, leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
RESULTS = CHECKOUT / "bench" / "results"

PEERS = "bench/peers.py"
BENCH = "-m fastoptim bench"
#: What Python is given for each file.
RUNS: dict[str, str] = {
    "small": f"{PEERS} --work one mlp many --seconds 2",
    "large": f"{PEERS} --work 1e5 1e6 1.6e7 --seconds 2",
    "gpt2": f"{PEERS} --work gpt2 --peer 'torch fused' deepspeed optax numba --seconds 4",
    "cache": f"{PEERS} --work 2^12 2^13 2^14 2^15 2^16 2^17 2^18 --peer numba 'torch fused' --seconds 2",
    "optimizers": f"{PEERS} --work 1.6e7 --optimizer all --peer torch --seconds 2",
    "cold": f"{PEERS} --work mlp many 1e5 1e6 --block 1 --peer 'torch fused' deepspeed numba --seconds 2",
    "limit": f"{BENCH} all --size 2^16 2^24 2^26 --seconds 0.6",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="FILE", help=", ".join(RUNS))
    parser.add_argument("--threads", type=int, help="of every contender; default: as many as a step would use")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY")
    args = parser.parse_args(arguments)
    args.results.mkdir(parents=True, exist_ok=True)
    failed = []
    begin = time.monotonic()
    for count, name in enumerate(args.only, 1):
        command = shlex.split(RUNS[name]) + (["--threads", str(args.threads)] if args.threads else [])
        print(f"\n== {name}, {count} of {len(args.only)}, after {(time.monotonic() - begin) / 60:.1f} minutes")
        print(shlex.join(["python", *command]), flush=True)
        if not record(command, args.results / f"{name}.json"):
            failed.append(name)
    print(f"\n{(time.monotonic() - begin) / 60:.1f} minutes" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def record(command: Sequence[str], file: Path) -> bool:
    """Runs a benchmark and keeps what it wrote, with its command and the date; False if it wrote nothing."""
    with tempfile.TemporaryDirectory() as directory:
        written = Path(directory) / "run.json"
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        subprocess.run([sys.executable, *command, "--json", str(written)], cwd=CHECKOUT, check=False)
        if not written.exists():
            return False
        run = json.loads(written.read_text(encoding="utf-8"))
    run["settings"] |= {"command": shlex.join(["python", *command]), "date": date}
    file.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    return True


if __name__ == "__main__":
    sys.exit(main())
