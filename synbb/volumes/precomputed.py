"""Neuroglancer's precomputed volumes, read and written.

A scale's ``voxel_offset`` times its resolution is the CORNER of its first voxel; our offset (OME-Zarr's translation) is
the centre, half a voxel further. Voxels of every scale lie on one grid from the world's origin, so a coarser scale of a
volume that begins at an odd voxel begins half outside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError, disk_errors
from synbb.volumes import stores
from synbb.volumes.box import Box, Nanometres, Triple, triple
from synbb.volumes.hdf5_storage import three_floats
from synbb.volumes.levels import volume_of_levels
from synbb.volumes.ome import OmeImage, OmeLevel
from synbb.volumes.tensor_storage import open_storage

if TYPE_CHECKING:
    from synbb.volumes.storage import Voxels
    from synbb.volumes.volume import Volume

FORMAT = "neuroglancer precomputed"
KIND = "neuroglancer_multiscale_volume"
AXES = ("x", "y", "z", "c")
DTYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "float32")
CHUNK = (64, 64, 64)
SHIFT = "off_grid_nm"  # in our metadata: how far a volume lies off the grid (z, y, x), which precomputed cannot say


def is_precomputed(info: Mapping[str, Any]) -> bool:
    """Whether an ``info`` file describes a volume (and no mesh, skeletons or annotations)."""
    return info.get("@type", KIND) == KIND and isinstance(info.get("scales"), Sequence) and "data_type" in info


def open_precomputed(
    given: str, place: str, info: Mapping[str, Any], size: Nanometres | None, deadline: float
) -> Volume:
    """Open a volume; its scales become the levels.

    Args:
        given: for messages.
        place: path or address.
        info: content of the file ``info``.
        size: overrules the voxel size that is stated.
        deadline: seconds since the epoch.

    Raises:
        SynbbError: broken metadata, an encoding that is not read, or several channels.
    """
    try:
        ours = dict(info.get("synbb") or {})
        off_grid = three_floats(ours.pop(SHIFT, (0, 0, 0)), f"{given}: {SHIFT}")
        levels = tuple(_level(scale, off_grid) for scale in info["scales"])
        encodings = [str(scale["encoding"]) for scale in info["scales"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SynbbError(
            f"{given}: its info file is broken ({type(error).__name__}: {error}); restore it from a copy"
        ) from error
    if not levels:
        raise SynbbError(f"{given}: its info file lists no scale; restore it from a copy")
    spec = {"driver": "neuroglancer_precomputed", "kvstore": stores.kvstore(place)}
    storages = [
        open_storage({**spec, "scale_index": number}, AXES, f"{place}/{level.path}", f"{FORMAT} ({how})", deadline)
        for number, (level, how) in enumerate(zip(levels, encodings, strict=True))
    ]
    return volume_of_levels(given, OmeImage("", AXES, levels), storages, size, {"synbb": ours})


def _level(scale: Mapping[str, Any], off_grid: Nanometres) -> OmeLevel:
    x, y, z = (float(v) for v in scale["resolution"])
    fx, fy, fz = (float(v) + 0.5 for v in scale.get("voxel_offset") or (0, 0, 0))
    if min(x, y, z) <= 0:
        raise ValueError(f"resolution {scale['resolution']}")
    offset = (fz * z + off_grid[0], fy * y + off_grid[1], fx * x + off_grid[2])
    return OmeLevel(str(scale["key"]), (z, y, x), offset)


@dataclass
class Scale:
    """A scale being written. Blocks of whole chunks can be written independently."""

    path: str
    store: Any
    first: Triple
    unit: Triple

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return self.box.shape

    @property
    def box(self) -> Box:
        """All voxels, from (0, 0, 0)."""
        x, y, z = self.store.shape[:3]
        return Box.of_shape((z, y, x))

    def write(self, box: Box, array: Voxels) -> None:
        """Write the voxels of ``box``.

        Raises:
            SynbbError: the place cannot be written.
            RunEnded: the disk is full.
        """
        place = box.translate(self.first)
        with disk_errors(self.path):
            try:
                self.store[tuple(reversed(place.slices))] = array.transpose(2, 1, 0)[..., np.newaxis]
            except ValueError as error:  # tensorstore has no error numbers
                if "No space left" in str(error) or "Disk quota" in str(error):
                    raise OSError(28, str(error)) from error
                raise


@dataclass(frozen=True)
class Target:
    """A precomputed volume to be written below ``path``.

    Attributes:
        path: a folder.
        dtype: of the values.
        labels: whether values are names (stored as a segmentation).
        attributes: our metadata.
        chunk: voxels, z, y, x.
    """

    path: Path
    dtype: np.dtype[Any]
    labels: bool
    attributes: Mapping[str, Any]
    chunk: Triple = CHUNK

    def scale(self, shape: Triple, voxel_size: Nanometres, first: Triple) -> Scale:
        """Begin a scale.

        Args:
            shape: voxels.
            voxel_size: nm.
            first: the first voxel's number on the grid from the world's origin.
        """
        library = stores.tensorstore(str(self.path))
        compressed = self.labels and self.dtype.name in ("uint32", "uint64")
        unit = triple([min(c, n) for c, n in zip(self.chunk, shape, strict=True)])
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": stores.kvstore(str(self.path)),
            "multiscale_metadata": {
                "data_type": self.dtype.name,
                "num_channels": 1,
                "type": "segmentation" if self.labels else "image",
            },
            "scale_metadata": {
                "key": "_".join(f"{v:.9g}" for v in reversed(voxel_size)),
                "size": list(reversed(shape)),
                "resolution": list(reversed(voxel_size)),
                "voxel_offset": list(reversed(first)),
                "chunk_size": list(reversed(unit)),
                "encoding": "compressed_segmentation" if compressed else "raw",
                **({"compressed_segmentation_block_size": [8, 8, 8]} if compressed else {}),
            },
        }
        with disk_errors(str(self.path)):
            store = library.open(spec, create=True, open=True, context=stores.context()).result()
        return Scale(str(self.path), store, first, unit)

    def finish(self) -> None:
        """Add our metadata, which readers of precomputed pass over, to ``info``."""
        file = self.path / "info"
        with disk_errors(str(self.path)):
            file.write_text(json.dumps({**json.loads(file.read_bytes()), "synbb": dict(self.attributes)}))


def first_voxel(offset: Nanometres, voxel_size: Nanometres) -> Triple:
    """Number of the first voxel on the grid from the world's origin: exact, or the nearest there is."""
    return triple([round(o / v - 0.5 + 1e-6) for o, v in zip(offset, voxel_size, strict=True)])


def shift(offset: Nanometres, voxel_size: Nanometres) -> Nanometres:
    """Nm by which a volume lies off the grid of precomputed, half a voxel at most."""
    first = first_voxel(offset, voxel_size)
    z, y, x = (o - (f + 0.5) * v for o, f, v in zip(offset, first, voxel_size, strict=True))
    return z, y, x


def check_dtype(dtype: np.dtype[Any], where: str) -> None:
    """Refuse what precomputed cannot hold.

    Raises:
        SynbbError: another type.
    """
    if dtype.name not in DTYPES:
        raise SynbbError(
            f"{where}: precomputed holds no {dtype.name}, only {', '.join(DTYPES)}; write an OME-Zarr instead"
        )


def is_precomputed_folder(where: Path) -> bool:
    """Whether the folder holds a precomputed volume."""
    info = where / "info"
    if not info.is_file():
        return False
    try:
        value = json.loads(info.read_bytes())
    except ValueError:
        return False
    return isinstance(value, dict) and is_precomputed(value)
