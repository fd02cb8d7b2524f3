"""The ``synbb`` command, one file a subcommand. Floor 4."""

import os

# Before torch is imported: on Linux its CPU allocator then asks for huge pages, which feature maps of tens of MB need
# (docs/performance.md). A value that the user set stays.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
