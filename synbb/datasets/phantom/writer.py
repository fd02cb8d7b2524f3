"""Writing a phantom to disk, block by block."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.datasets.phantom.render import Block, render
from synbb.datasets.phantom.spec import PhantomSpec
from synbb.datasets.phantom_kinds import SPEC_FILE, PhantomKind
from synbb.volumes import WritableVolume, create_volume
from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]

LICENCE = "CC0-1.0"
CITATION = "Synthetic volume made by synbb (no real tissue)."
VOLUMES = {"raw": "raw.zarr", "synapses": "synapses.zarr", "neurites": "neurites.zarr"}
TABLE = "synapses.csv"
_PLANE = 512  # voxels along y and x of a block at least, so that little tissue is worked out twice


def _files(_: PhantomSpec) -> list[str]:
    """What is written, whatever the spec; of a volume its own metadata and level, not what others put into it."""
    return [TABLE, *(f"{name}/{part}" for name in VOLUMES.values() for part in ("zarr.json", "0/"))]


TISSUE = PhantomKind("phantom", PhantomSpec.to_dict, PhantomSpec.from_dict, _files)


def write_phantom(
    folder: str | Path,
    spec: PhantomSpec,
    *,
    overwrite: bool = False,
    neurites: bool = False,
    block: Triple | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Write ``raw.zarr``, ``synapses.zarr``, ``synapses.csv`` and ``phantom.yaml`` into ``folder``.

    The volumes do not depend on how they are cut into blocks, and memory is bounded by one block. The folder appears
    under its name only when all is written.

    Args:
        folder: to create.
        spec: what to make.
        overwrite: replace a phantom that is already there.
        neurites: write ``neurites.zarr`` too (uint64 identities).
        block: voxels rendered at a time; by default whole shards of at least 512 x 512 in the plane.
        progress: told (voxels done, voxels in all).

    Returns:
        Paths by name: ``raw`` (uint8), ``synapses`` (uint8: 1 in a presynaptic density), ``table`` (CSV with
        id, centroid z_nm, y_nm, x_nm relative to the centre of the first voxel, and voxels), ``spec`` and perhaps
        ``neurites``.

    Raises:
        SynbbError: the folder exists and may not be replaced.
        RunEnded: the disk is full.
    """
    target = Path(folder)
    with TISSUE.folder(target, overwrite=overwrite) as stage:
        names = {"raw": VOLUMES["raw"], "synapses": VOLUMES["synapses"], "table": TABLE, "spec": SPEC_FILE}
        if neurites:
            names["neurites"] = VOLUMES["neurites"]
        raw, labels = _create(stage / names["raw"], spec, "raw"), _create(stage / names["synapses"], spec, "labels")
        identities = _create(stage / names["neurites"], spec, "neurites", np.uint64) if neurites else None
        table = SynapseTable(spec)
        done = 0
        for box in spec.box.blocks(block or _block_shape(raw)):
            rendered = render(spec, box)
            raw.write(box, rendered.raw)
            labels.write(box, (rendered.synapse > 0).astype(np.uint8))
            if identities is not None:
                identities.write(box, rendered.neurite)
            table.add(box, rendered)
            done += box.size
            if progress is not None:
                progress(done, spec.box.size)
        synapses = table.write(stage / names["table"])
        TISSUE.write(stage, spec, synapses=synapses, licence=LICENCE)
    return {name: target / file for name, file in names.items()}


class SynapseTable:
    """Sums over the voxels of each synapse, collected block by block."""

    def __init__(self, spec: PhantomSpec) -> None:
        self._voxel_size = np.array(spec.voxel_size)
        self._sums: dict[tuple[int, ...], NDArray[np.float64]] = {}

    def add(self, box: Box, block: Block) -> None:
        """Count the synapse voxels of one block."""
        z, y, x = np.nonzero(block.synapse)
        number = block.synapse[z, y, x] - 1
        size = len(block.keys)
        columns = [np.bincount(number, minlength=size)]
        columns += [
            np.bincount(number, weights=position + start, minlength=size)
            for position, start in zip((z, y, x), box.start, strict=True)
        ]
        sums = np.stack(columns, axis=1).astype(np.float64)
        for index in np.flatnonzero(columns[0]):
            key = tuple(int(part) for part in block.keys[index])
            self._sums[key] = self._sums.get(key, np.zeros(4)) + sums[index]

    def write(self, path: Path) -> int:
        """Write the CSV, numbered from 1 in the order of the lattice; returns the number of synapses."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "z_nm", "y_nm", "x_nm", "voxels"])
            for number, key in enumerate(sorted(self._sums), start=1):
                voxels, *position = self._sums[key]
                centre = np.array(position) / voxels * self._voxel_size
                writer.writerow([number, *(f"{value:.1f}" for value in centre), int(voxels)])
        return len(self._sums)


def _create(path: Path, spec: PhantomSpec, kind: str, dtype: Any = np.uint8) -> WritableVolume:
    attributes = {
        "kind": kind, "dataset": "phantom", "licence": LICENCE, "citation": CITATION, "spec": spec.to_dict(),
    }  # fmt: skip
    return create_volume(path, shape=spec.shape, dtype=dtype, voxel_size=spec.voxel_size, attributes=attributes)


def _block_shape(volume: WritableVolume) -> Triple:
    """Whole storage units, enlarged in the plane."""
    z, y, x = volume.unit
    return triple([z, y * -(-_PLANE // y), x * -(-_PLANE // x)])
