"""Exhausted memory: a call in which an allocation fails raises MemoryError and has changed nothing, or completes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: Replaces the C library's allocator, which Python, NumPy and native code use.
ALLOCATOR = """
#include <errno.h>
#include <stddef.h>
void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
static __thread long armed, count, first, failures, least;
void fail_allocations(long a, long b, long c) { count = 0, first = a, failures = b, least = c, armed = 1; }
long end_failures(void) { armed = 0; return count; }
static int fails(size_t size) {
    if (!armed || (long)size < least) return 0;
    ++count;
    if (count < first || count - first >= failures) return 0;
    errno = ENOMEM;
    return 1;
}
void *malloc(size_t n) { return fails(n) ? 0 : __libc_malloc(n); }
void *calloc(size_t k, size_t n) { return fails(k * n) ? 0 : __libc_calloc(k, n); }
void *realloc(void *p, size_t n) { return fails(n) ? 0 : __libc_realloc(p, n); }
void *aligned_alloc(size_t to, size_t n) { return fails(n) ? 0 : __libc_memalign(to, n); }
int posix_memalign(void **p, size_t to, size_t n) {
    void *made = fails(n) ? 0 : __libc_memalign(to, n);
    if (!made) return ENOMEM;
    *p = made;
    return 0;
}
"""

pytestmark = [
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or shutil.which("cc") is None, reason="needs glibc and cc"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer has an allocator of its own"),
]


def check_sweep(folder: Path, most: int, failures: int) -> None:
    source, library = folder / "allocator.c", folder / "allocator.so"
    source.write_text(ALLOCATOR)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    python = "malloc" if sys.version_info[:2] == (3, 11) else "default"  # others crash without a generator or a frame
    own = {"LD_PRELOAD": str(library), "PYTHONMALLOC": python, "FASTOPTIM_THREADING": "serial"}  # OpenMP would exit
    script = Path(__file__).parent.parent / "memory_sweep.py"
    run = subprocess.run(
        [sys.executable, script, library, str(most), str(failures)],
        env=os.environ | own,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (0, "\n"), run.stderr[-2000:]


def test_a_failed_allocation_changes_nothing(tmp_path: Path) -> None:
    check_sweep(tmp_path, 10, 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("failures", [1, 3])  # core.complete makes four attempts
def test_every_failed_allocation_changes_nothing(failures: int, tmp_path: Path) -> None:
    check_sweep(tmp_path, 1000, failures)
