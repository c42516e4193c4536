"""The repaired wheel: what it needs of a system, and other libraries in the same process.

`FASTOPTIM_WHEEL` names the file; `.ci/run` builds, repairs and installs it, and sets the variable.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from optional import optional

WHEEL = Path(os.environ.get("FASTOPTIM_WHEEL", ""))

#: Bytes of a wheel with all instruction sets; with CUDA's kernels for all architectures it is larger.
MOST_BYTES, MOST_BYTES_WITH_CUDA = 5_000_000, 15_000_000

#: The oldest version of glibc that a wheel built on Debian 12 can have; the release's image gives 2.28.
NEWEST_GLIBC = (2, 34)

OTHERS = {
    "torch": "import torch\nn = torch.ones(300, 300)\nassert float((n @ n).sum()) == 300.0**3",
    "sklearn": "from sklearn.cluster import KMeans\nKMeans(2, n_init=1).fit([[0.0], [1.0], [9.0]] * 200)",
    "fastoptim": """
import numpy as np, fastoptim as fo
fo.set_num_threads(2)
for layer in ("pool", "openmp"):
    fo.set_threading(layer)
    p, q = np.ones(10**6, np.float32), np.ones(10**6, np.float32)
    g = np.linspace(-1, 1, p.size, dtype=np.float32)
    ours, expected = fo.Adam(p), fo.Adam(q, backend="reference")
    for _ in range(3):
        ours.step(g)
        expected.step(g)
    assert np.array_equal(p, q)
""",
}

needs_wheel = pytest.mark.skipif(not WHEEL.name, reason="needs FASTOPTIM_WHEEL, which .ci/run sets")


@needs_wheel
def test_its_size_and_the_system_that_it_needs() -> None:
    import fastoptim as fo

    most = MOST_BYTES_WITH_CUDA if fo.build_info()["cuda"] else MOST_BYTES
    assert WHEEL.stat().st_size < most
    found = re.findall(r"manylinux_(\d+)_(\d+)_x86_64", WHEEL.name)
    assert found
    assert min((int(major), int(minor)) for major, minor in found) <= NEWEST_GLIBC


@needs_wheel
def test_its_files() -> None:
    with zipfile.ZipFile(WHEEL) as wheel:
        names = wheel.namelist()
    assert {"fastoptim/py.typed", "fastoptim/_core.pyi"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    kinds = {re.sub(r"-[0-9a-f]{8}|\.so.*", "", Path(name).name) for name in names if ".so" in name}
    assert {kind.partition(".")[0] for kind in kinds} == {"_core", "_bench", "libgomp"}
    assert not [name for name in names if name.startswith(("tests", "bench", "csrc"))]


@needs_wheel
@pytest.mark.parametrize("order", list(itertools.permutations(OTHERS)), ids=" ".join)
def test_other_libraries_with_openmp_in_any_order(order: tuple[str, ...]) -> None:
    for name in OTHERS:
        optional(name)
    program = "\n".join(OTHERS[name] for name in order * 2)
    subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", program], check=True, timeout=300)
