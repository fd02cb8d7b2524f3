"""N5 and precomputed as tensorstore writes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np


def write_n5(folder: Path, array: np.ndarray, block: tuple[int, ...], attributes: dict[str, Any]) -> None:
    """Store ``array`` (z, y, x) as an N5 array with axes x, y, z, and merge ``attributes`` into its attributes.json."""
    tensorstore = pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")
    metadata = {
        "dataType": array.dtype.newbyteorder("=").name,
        "dimensions": array.shape[::-1],
        "blockSize": block[::-1],
        "compression": {"type": "gzip"},
    }
    spec = {"driver": "n5", "kvstore": f"file://{folder}/", "metadata": metadata}
    tensorstore.open(spec, create=True).result()[...] = array.T
    file = folder / "attributes.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **attributes}))


def write_precomputed(
    folder: Path,
    arrays: Sequence[np.ndarray],
    sizes: Sequence[Sequence[float]],
    offsets: Sequence[Sequence[int]],
    *,
    chunk: Sequence[int] = (16, 16, 16),
    **scale: Any,
) -> None:
    """Store arrays (z, y, x) as the scales of a precomputed volume.

    Args:
        folder: to be made.
        arrays: of one type.
        sizes: nm, z, y, x.
        offsets: voxel_offset of each scale, z, y, x.
        chunk: voxels, z, y, x.
        scale: further keys of the scales' metadata.
    """
    tensorstore = pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")
    for number, (array, size, offset) in enumerate(zip(arrays, sizes, offsets, strict=True)):
        described = {
            "key": f"scale {number}",
            "size": array.shape[::-1],
            "resolution": list(size)[::-1],
            "voxel_offset": list(offset)[::-1],
            "chunk_size": list(chunk)[::-1],
            "encoding": "raw",
            **scale,
        }
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{folder}/",
            "multiscale_metadata": {
                "data_type": array.dtype.newbyteorder("=").name,
                "num_channels": 1,
                "type": "image",
            },
            "scale_metadata": described,
        }
        tensorstore.open(spec, create=True, open=True).result()[..., 0] = array.T
