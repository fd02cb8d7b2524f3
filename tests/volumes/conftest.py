"""Small volumes in every format that is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from foreign_formats import write_n5, write_precomputed
from PIL import Image

from synbb.volumes import Volume, create_volume, open_volume

if TYPE_CHECKING:
    from pathlib import Path

VOXEL_SIZE = (50.0, 4.0, 6.0)

Maker = Callable[[str, np.ndarray], Volume]


def write_as(kind: str, folder: Path, array: np.ndarray) -> Volume:
    """Store ``array`` as ``kind`` in the empty ``folder`` with libraries other than ours, and open it."""
    folder.mkdir()
    if kind in ("ours", "sharded"):
        grid = {"chunks": (2, 8, 8), "shards": (4, 16, 16)} if kind == "sharded" else {"chunks": (5, 16, 15)}
        writable = create_volume(folder / "v.zarr", shape=array.shape, dtype=array.dtype, voxel_size=VOXEL_SIZE, **grid)
        writable.write(writable.box, array)
        return writable.volume
    if kind in ("zarr2", "zarr3"):
        stored = zarr.create_array(
            str(folder / "v.zarr"), shape=array.shape, dtype=array.dtype, chunks=(5, 16, 15), zarr_format=int(kind[-1])
        )
        stored[:] = array
        return open_volume(folder / "v.zarr", voxel_size=VOXEL_SIZE)
    if kind in ("hdf5", "hdf5_plain"):
        with h5py.File(folder / "v.h5", "w") as file:
            chunked = {"chunks": tuple(min(c, n) for c, n in zip((5, 16, 15), array.shape, strict=True))}
            options = {**chunked, "compression": "gzip"} if kind == "hdf5" else {}
            dataset = file.create_dataset("volumes/raw", data=array, **options)
            dataset.attrs["resolution"] = VOXEL_SIZE
        return open_volume(folder / "v.h5")
    if kind == "n5":
        metadata = {"axes": ["x", "y", "z"], "units": ["nm"] * 3, "resolution": VOXEL_SIZE[::-1]}
        write_n5(folder / "v.n5" / "em", array, (5, 16, 15), metadata)
        return open_volume(folder / "v.n5" / "em")
    if kind == "precomputed":
        write_precomputed(folder / "v", [array], [VOXEL_SIZE], [(0, 0, 0)], chunk=(5, 16, 15))
        return open_volume(folder / "v")
    if kind == "multipage":
        tifffile.imwrite(folder / "v.tif", array, photometric="minisblack", compression="zlib")
        return open_volume(folder / "v.tif", voxel_size=VOXEL_SIZE)
    for z, section in enumerate(array):
        if kind == "png":
            Image.fromarray(section).save(folder / f"s{z}.png")
        else:
            compression = "zlib" if kind == "tiff_compressed" else None
            tifffile.imwrite(folder / f"s{z}.tif", section, photometric="minisblack", compression=compression)
    return open_volume(folder, voxel_size=VOXEL_SIZE)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """A function (kind, array) -> Volume that stores the array in a new folder."""
    numbers = itertools.count()
    return lambda kind, array: write_as(kind, tmp_path / f"{kind}-{next(numbers)}", array)


@pytest.fixture
def grey() -> np.ndarray:
    """A grey volume of 13 x 45 x 38 voxels without constant tiles."""
    return np.random.default_rng(5).integers(1, 256, (13, 45, 38), dtype=np.uint8)
