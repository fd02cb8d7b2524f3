"""A zarr store on local files that tells a truncated file from a missing one."""

from __future__ import annotations

from typing import Any

from zarr.abc.store import RangeByteRequest
from zarr.storage import LocalStore, WrapperStore


class CheckedStore(WrapperStore):
    """Refuses files and ranges that end early.

    Zarr (3.1) takes a shard without bytes, and a range beyond the end of one, for a chunk that
    was never written, and hands out the fill value.
    """

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """The bytes, or None when there is no such file.

        Raises:
            EOFError: there are fewer bytes than there must be.
        """
        found = await super().get(key, prototype, byte_range)
        if found is None:
            return None
        expected = byte_range.end - byte_range.start if isinstance(byte_range, RangeByteRequest) else 1
        if len(found) < expected:
            raise EOFError(f"{key} ends early: {len(found)} bytes where at least {expected} belong")
        return found


def local_store(path: str) -> CheckedStore:
    """The read-only store of a folder."""
    return CheckedStore(LocalStore(path, read_only=True))
