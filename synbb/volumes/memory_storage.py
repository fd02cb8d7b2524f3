"""A volume over an array in memory, for what is made and used at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.volume import Volume

if TYPE_CHECKING:
    import numpy as np

    from synbb.volumes.box import Nanometres
    from synbb.volumes.storage import Voxels


@dataclass(frozen=True, eq=False)
class ArrayStorage:
    """The storage of such a volume.

    Attributes:
        array: (z, y, x).
    """

    array: Voxels
    format: str = "array in memory"
    shards: Triple | None = None

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return triple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.array.dtype

    @property
    def chunks(self) -> Triple:
        """The array is one piece."""
        return self.shape

    def read(self, box: Box) -> Voxels:
        """The voxels of ``box``."""
        return self.array[box.slices]


def volume_of_array(name: str, array: Voxels, voxel_size: Nanometres) -> Volume:
    """``array`` (z, y, x) as a volume that is called ``name`` in messages."""
    return Volume(name, ArrayStorage(array), Box.of_shape(triple(array.shape)), voxel_size)
