"""What glibc keeps of what is freed: seen by page faults and by what stays in memory, in processes of their own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from synbb.inference.allocator import takes_memory_from_glibc

glibc_alone = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are settings of glibc's malloc")

LINE = "7f2c00000000-7f2c00021000 r-xp 00000000 08:01 4711                 /usr/lib/x86_64-linux-gnu/{}\n"


@pytest.mark.parametrize("library", ["libtcmalloc_minimal.so.4.5.10", "libjemalloc.so.2", "libmimalloc.so.2.1"])
def test_an_allocator_that_is_loaded_is_seen(library: str, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(LINE.format("libc.so.6"))
    assert takes_memory_from_glibc(maps)
    maps.write_text(LINE.format(library) + LINE.format("libc.so.6"))
    assert not takes_memory_from_glibc(maps)


def test_a_system_without_maps_or_without_glibc_gets_no_hint(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    assert not takes_memory_from_glibc(maps)
    maps.write_text(LINE.format("ld-musl-x86_64.so.1"))
    assert not takes_memory_from_glibc(maps)
    maps.write_text(LINE.format("libc-2.31.so"))  # as glibc was called before 2.34
    assert takes_memory_from_glibc(maps)


PAGES = """
import resource, sys
import numpy as np
from synbb.inference.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    block = np.empty(8 * 2**20, np.uint8)
    block[::4096] = 1
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HOLES = """
import sys, threading
import numpy as np
from synbb.inference.allocator import return_large_arrays

if sys.argv[1] == "return":
    return_large_arrays()
np.empty(30 * 2**20, np.uint8)  # freed at once: glibc then puts arrays of this size into arenas

def work():
    kept = []
    for _ in range(12):
        block = np.ones(12 * 2**20, np.uint8)
        kept.append(np.ones(100_000, np.uint8))  # lies behind it in the arena, which cannot shrink then
        blocks.append(block)
    small.append(kept)

blocks, small = [], []
thread = threading.Thread(target=work)
thread.start()
thread.join()
blocks.clear()
with open("/proc/self/statm") as file:
    print(int(file.read().split()[1]) * 4096 // 2**20)
"""


def _told(program: str, *arguments: str, **environment: str) -> int:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_PRE"))}
    bare["NUMPY_MADVISE_HUGEPAGE"] = "0"  # else a page is 4 KiB or 2 MiB, as it happens
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments], env={**bare, **environment}, capture_output=True, check=True
    )
    return int(found.stdout)


@glibc_alone
def test_freed_memory_is_kept_whatever_dask_has_set() -> None:
    trimmed = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    assert _told(PAGES, "keep", **trimmed) < _told(PAGES, "as dask has it", **trimmed) / 3


@glibc_alone
def test_large_arrays_of_threads_leave_no_holes_behind() -> None:
    """144 MiB are freed, in blocks of 12 with a small array after each."""
    assert _told(HOLES, "return") < _told(HOLES, "as glibc does") - 100


@glibc_alone
@pytest.mark.parametrize(
    ("variable", "value"),
    [("MALLOC_MMAP_THRESHOLD_", "33554432"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=33554432")],
)
def test_what_the_user_set_stays(variable: str, value: str) -> None:
    assert _told(HOLES, "return", **{variable: value}) > _told(HOLES, "return") + 100
