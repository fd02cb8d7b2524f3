"""What a volume needs of a file format, and the errors that all formats share."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from collections.abc import Sequence

Voxels = npt.NDArray[Any]

MAX_PARTITIONS = 10_000

CHUNKS = (32, 128, 128)
SHARDS = (64, 512, 512)
SHARDED_FROM = 2**28  # voxels; below that a volume is a few hundred files at most


class Storage(Protocol):
    """One stored array, seen as z, y, x; reads go straight to the file and the object can be pickled."""

    @property
    def format(self) -> str:
        """Words for people, such as ``OME-Zarr 0.5 (zarr v3)``."""

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native type of the values that :meth:`read` returns."""

    @property
    def chunks(self) -> Triple:
        """Voxels of the smallest piece that is read or decoded at once."""

    @property
    def shards(self) -> Triple | None:
        """Voxels of one file where several chunks share it."""

    def read(self, box: Box) -> Voxels:
        """The voxels of ``box``, which lies inside ``shape``.

        Raises:
            SynbbError: a piece of the file is truncated or cannot be decoded; the message names it.
        """


@runtime_checkable
class Sparse(Protocol):
    """A storage that need not hold every chunk of its array.

    Attributes:
        absence_costs: whether finding out takes as long as reading (a request for each chunk).
    """

    @property
    def absence_costs(self) -> bool:
        """As above."""

    def absent(self, box: Box) -> list[Box]:
        """The parts of ``box`` whose chunks were never written; they read as the fill value."""


def plain_dtype(dtype: np.dtype[Any] | type, where: str) -> np.dtype[Any]:
    """Native-endian type under which stored values are handed out; booleans become uint8.

    Raises:
        SynbbError: the values are neither integers, floats nor booleans.
    """
    stored = np.dtype(dtype)
    if stored.kind == "b":
        return np.dtype(np.uint8)
    if stored.kind not in "uif":
        raise SynbbError(f"{where}: values of type {stored} are no volume; integers, floats or booleans are read")
    return stored.newbyteorder("=")


def default_grid(shape: Sequence[int]) -> tuple[Triple, Triple | None]:
    """Chunks, and shards for volumes of more than a quarter gigavoxel, for a volume of ``shape`` voxels."""
    chunks = triple([max(1, min(c, int(n))) for c, n in zip(CHUNKS, shape, strict=True)])
    if prod(int(n) for n in shape) <= SHARDED_FROM:
        return chunks, None
    return chunks, default_shards(shape, chunks)


def default_shards(shape: Sequence[int], chunks: Sequence[int]) -> Triple:
    """About 64 x 512 x 512 voxels, a whole number of chunks on each axis and no larger than the volume needs."""
    return triple(
        [
            c * max(1, min(wanted // c, -(-int(n) // c)))
            for wanted, c, n in zip(SHARDS, (int(c) for c in chunks), shape, strict=True)
        ]
    )


def partition_shape(shape: Sequence[int], unit: Sequence[int], limit: int = MAX_PARTITIONS) -> Triple:
    """Shape of dask chunks: ``unit`` (a storage chunk or shard), doubled along its shortest axes until few enough.

    Args:
        shape: voxels of the volume.
        unit: voxels of one storage chunk or shard.
        limit: largest number of partitions.

    Returns:
        A whole multiple of ``unit`` on every axis, so that no stored piece belongs to two partitions.
    """
    part = [int(u) for u in unit]
    while prod(-(-int(n) // p) for n, p in zip(shape, part, strict=True)) > limit:
        axes = [axis for axis in range(3) if part[axis] < int(shape[axis])]
        shortest = min(axes, key=lambda axis: part[axis])
        part[shortest] *= 2
    return triple(part)


def unreadable(path: str, what: str, error: Exception) -> SynbbError:
    """The error for a stored piece that is truncated or cannot be decoded."""
    return SynbbError(
        f"{path}: {what} is truncated or unreadable ({type(error).__name__}: {error}); "
        "restore this file from a copy, or convert the volume again"
    )


def check_voxel_size(voxel_size: Sequence[float], where: str) -> tuple[float, float, float]:
    """Three positive nanometres.

    Raises:
        SynbbError: another number of values, or one that is not a positive number.
    """
    values = [float(v) for v in voxel_size]
    if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
        raise SynbbError(f"{where}: voxel size {values} must be three positive numbers: z, y, x in nm")
    return values[0], values[1], values[2]


def parse_voxel_size(text: str) -> tuple[float, float, float]:
    """Read ``z,y,x`` in nm.

    Raises:
        SynbbError: the text has another form.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SynbbError(f"voxel size {text!r} is not z,y,x in nm, for example 50,4.6,4.6") from error
    return check_voxel_size(values, repr(text))


class VoxelSizeMissingError(SynbbError):
    """A file does not say how large its voxels are."""


def no_voxel_size(path: str) -> SynbbError:
    """The error for a file that does not say how large its voxels are."""
    return VoxelSizeMissingError(
        f"{path}: the file states no voxel size; give it in nm as z, y, x "
        "(--voxel-size 50,4,4; in a config voxel_size: [50, 4, 4])"
    )
