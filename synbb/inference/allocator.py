"""glibc's allocator, which holds what a network on a CPU computes with: how much it keeps of what is freed.

By itself glibc puts arrays of up to 32 MiB into its arenas once an array as large has been freed, and returns to the
system only what lies at an arena's end. Numbers beside what is set here are in docs/performance.md.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

MIB = 2**20
TRIMMED = "MALLOC_TRIM_THRESHOLD_"
CHOSEN = (TRIMMED, "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables with which a user sets what is set here."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

ALLOCATORS = ("tcmalloc", "jemalloc", "mimalloc")
GLIBC = r"/libc(\.so\.6|-2\.\d+\.so)\b"


def takes_memory_from_glibc(maps: Path = Path("/proc/self/maps")) -> bool:
    """Whether glibc is loaded (Linux has ``maps``; musl is another matter) and no allocator that keeps large tensors.

    glibc fetches each tensor of more than 32 MiB from the system anew, page by page; feature maps of a block are such.
    """
    loaded = maps.read_text(errors="replace") if maps.is_file() else ""
    return re.search(GLIBC, loaded) is not None and not any(name in loaded for name in ALLOCATORS)


def return_large_arrays() -> None:
    """Let arrays of more than 8 MiB go back to the system as soon as they are freed, unless the user chose otherwise.

    Blocks are read and written in threads, each with an arena, whose arrays of 10 to 30 MiB leave holes: memory would
    grow for hours. What is smaller, and 64 MiB at an arena's end, is still kept, so that it takes no time.
    """
    if not any(name in os.environ for name in CHOSEN):
        _set(mapped=8 * MIB, kept=64 * MIB)


def keep_freed_memory() -> None:
    """Let this process keep what it frees for the next block, as glibc does by itself.

    dask starts its workers with MALLOC_TRIM_THRESHOLD_, with which glibc returns each large tensor to the system and
    fetches it anew, page by page, for the next one: a block then takes 1.3 times as long.
    """
    if TRIMMED in os.environ:
        _set(mapped=32 * MIB, kept=64 * MIB)


def _set(*, mapped: int, kept: int) -> None:
    """Bytes from which an array is a mapping of its own, and that are kept at an arena's end.

    Setting one of the two stops glibc from moving the other, so that both are set.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(M_MMAP_THRESHOLD, mapped)
        adjust(M_TRIM_THRESHOLD, kept)
