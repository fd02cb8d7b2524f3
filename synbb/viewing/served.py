"""A shown volume as neuroglancer's server wants it. Imports neuroglancer: see ``library.py``."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from neuroglancer import CoordinateSpace, _neuroglancer
from neuroglancer.chunks import encode_npz
from neuroglancer.local_volume import LocalVolume, MeshesNotSupportedForVolume

from synbb.errors import SynbbError
from synbb.viewing.kinds import Kind
from synbb.volumes.pyramid import SMALLEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from synbb.viewing.shown import ShownVolume

METRES = 1e-9


class ServedVolume(LocalVolume):
    """Serves pieces of a volume as they are asked for; the volume is never in memory.

    Neuroglancer's own class keeps an array, makes every resolution from its voxels, and surfaces from all of it.
    """

    def __init__(self, shown: ShownVolume, complain: Callable[[str], None]) -> None:
        """Take a volume.

        Args:
            shown: the volume.
            complain: told once of each error in reading; the viewer is told, too, but says little.
        """
        names, size = ["z", "y", "x"], shown.volume.voxel_size
        super().__init__(
            _Described(shown),
            dimensions=CoordinateSpace(names=names, units="nm", scales=size),
            volume_type="segmentation" if shown.kind is Kind.OBJECTS else "image",
            voxel_offset=(0, 0, 0),
            max_downsampling=shown.coarsest,
            max_downsampled_size=SMALLEST,
        )
        self.shown = shown
        self.complain = complain
        self.complaints: set[str] = set()
        self.surfaces: Any = None
        self.making = Lock()

    def get_encoded_subvolume(
        self,
        data_format: str,  # noqa: ARG002 (the server's interface; the client asks for what info() names)
        start: NDArray[np.int64],
        end: NDArray[np.int64],
        scale_key: str,
    ) -> tuple[bytes, str]:
        """A piece, for the client.

        Raises:
            ValueError: it cannot be read; the server answers 400 with the message.
        """
        try:
            piece = self.shown.read(start.tolist(), end.tolist(), [int(f) for f in scale_key.split(",")])
        except SynbbError as error:
            message = str(error)
            if message not in self.complaints:
                self.complaints.add(message)
                self.complain(message)
            raise ValueError(message) from error
        return encode_npz(piece), "application/octet-stream"

    def _get_mesh_generator(self) -> Any:
        with self.making:
            if self.surfaces is None:
                factor = self.shown.mesh_factor()
                if self.shown.kind is not Kind.OBJECTS or factor is None:
                    raise MeshesNotSupportedForVolume
                size = [v * METRES * f for v, f in zip(self.shown.volume.voxel_size, factor, strict=True)]
                labels = self.shown.read((0, 0, 0), self.shown.shape(factor), factor)
                self.surfaces = _neuroglancer.OnDemandObjectMeshGenerator(
                    labels.transpose(), size, np.zeros(3), max_quadrics_error=(min(size) / 2) ** 2
                )
            return self.surfaces


class _Described:
    """What neuroglancer asks of an array at first: shape and type."""

    def __init__(self, shown: ShownVolume) -> None:
        self.shape = shown.volume.shape
        self.dtype = shown.dtype
