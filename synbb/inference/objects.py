"""From probabilities to synapses: threshold, connected components, size filter, a label volume and a table.

Works block by block, twice: once to find the objects, once to write them; ``docs/stitching.md`` says how components
are joined across blocks. Nothing is at the output's place before everything is written.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError, disk_errors
from synbb.evaluation.components import Components, find_components, neighbour_offsets
from synbb.evaluation.thresholds import check_dtype, check_range, check_threshold, foreground, stored_threshold
from synbb.evaluation.window import BlockGrid, grow_block
from synbb.volumes.box import Box, triple
from synbb.volumes.storage import default_grid
from synbb.volumes.writing import WritableVolume, create_volume, is_zarr

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from synbb.volumes.volume import Volume

CARRIED = ("run_id", "model_sha256", "normalisation", "licence", "citation", "working_voxel_size", "region")
COLUMNS = (
    *("id", "z_nm", "y_nm", "x_nm", "z", "y", "x", "z_start", "y_start", "x_start", "z_stop", "y_stop", "x_stop"),
    *("voxels", "volume_nm3", "score_mean", "score_max"),
)


@dataclass(frozen=True)
class SegmentSummary:
    """What ``segment`` made.

    Attributes:
        output: the label volume.
        table: the CSV.
        threshold: foreground was p >= threshold.
        threshold_source: where it came from.
        connectivity: 6, 18 or 26.
        min_size_nm3: smaller objects were left out.
        objects: number of objects written.
        too_small: number left out.
        voxels: voxels of the objects written.
    """

    output: str
    table: str
    threshold: float
    threshold_source: str
    connectivity: int
    min_size_nm3: float
    objects: int
    too_small: int
    voxels: int


def segment(
    probabilities: Volume,
    output_path: str | Path,
    *,
    threshold: float | None = None,
    min_size_nm3: float | None = None,
    connectivity: int = 26,
    block: Sequence[int] | None = None,
    table_path: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentSummary:
    """Label the connected components of p >= threshold and write them as OME-Zarr and CSV.

    Ids are 1 to n in the order of the objects' first voxels (z, then y, then x), whatever the blocks. The CSV has one
    row an object: centroid in nm (world) and in voxels (an index is the centre of its voxel), bounding box in voxels
    (half-open), size, and mean and largest probability.

    Args:
        probabilities: uint8 (value / 255) or floats in [0, 1].
        output_path: the label volume (uint32, same shape, voxel size and offset).
        threshold: in (0, 1]; the one stored with the probabilities when None.
        min_size_nm3: objects of less volume are left out; when None what the probabilities store, if anything.
        connectivity: 6 (faces), 18 (and edges) or 26 (and corners).
        block: voxels of a block, rounded up to what one file of the output holds; chosen when None.
        table_path: the CSV; beside the output (OUT.zarr → OUT.csv) when None.
        overwrite: replace an output that is there.
        progress: called with (done, total) blocks, over both passes.

    Raises:
        SynbbError: no threshold, wrong values, or an output that exists.
        RunEnded: the disk is full.
    """
    chosen, source = _threshold(probabilities, threshold)
    smallest = _min_size(probabilities, min_size_nm3)
    neighbour_offsets(connectivity)
    target = Path(output_path)
    table = _table_path(target) if table_path is None else Path(table_path)
    _check_targets(probabilities, target, table, overwrite=overwrite)
    partial = target.with_name(f".{target.name}.partial")
    partial_table = table.with_name(f".{table.name}.partial")
    try:
        writable = create_volume(
            partial,
            shape=probabilities.shape,
            dtype=np.uint32,
            voxel_size=probabilities.voxel_size,
            offset=probabilities.offset,
            chunks=_chunks(probabilities.shape, block),
            overwrite=True,
            name=target.stem,
        )
        shape = _block_shape(writable, block)
        steps = len(BlockGrid(probabilities.box, shape, probabilities.box.start))
        found = _find(probabilities, chosen, connectivity, shape, _part(progress, 0, 2 * steps))
        size = float(np.prod(probabilities.voxel_size))
        kept = found.keep(found.table.voxels * size >= smallest)
        if len(kept) > np.iinfo(np.uint32).max:
            raise SynbbError(f"{probabilities.path}: {len(kept):,} objects do not fit uint32; raise the threshold")
        _write_labels(probabilities, chosen, kept, writable, _part(progress, steps, 2 * steps))
        attributes = {name: probabilities.attributes[name] for name in CARRIED if name in probabilities.attributes}
        own = {"kind": "objects", "threshold": chosen, "min_size_nm3": smallest, "connectivity": connectivity}
        writable.set_attributes({**attributes, **own, "source": probabilities.path, "objects": len(kept)})
        _write_table(partial_table, probabilities, kept)
        _publish(partial, target)
        _publish(partial_table, table)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        partial_table.unlink(missing_ok=True)
    return SegmentSummary(
        output=str(output_path),
        table=str(table),
        threshold=chosen,
        threshold_source=source,
        connectivity=connectivity,
        min_size_nm3=smallest,
        objects=len(kept),
        too_small=len(found) - len(kept),
        voxels=int(kept.table.voxels.sum()),
    )


def _threshold(probabilities: Volume, given: float | None) -> tuple[float, str]:
    if probabilities.attributes.get("kind") == "objects":
        raise SynbbError(f"{probabilities.path} holds objects already; segment takes the probabilities of predict")
    if probabilities.attributes.get("complete") is False:
        raise SynbbError(f"{probabilities.path} is not finished: blocks are missing; call synbb predict again first")
    check_dtype(probabilities.dtype, probabilities.path)
    if given is not None:
        return check_threshold(given), "given"
    stored = stored_threshold(probabilities.attributes, probabilities.path)
    if stored is None:
        raise SynbbError(f"{probabilities.path} stores no threshold; give one in (0, 1] with --threshold")
    return stored, "stored with the probabilities"


def _min_size(probabilities: Volume, given: float | None) -> float:
    stored = probabilities.attributes.get("min_size_nm3") or 0.0
    smallest = float(stored if given is None else given)
    if not 0 <= smallest < np.inf:
        raise SynbbError(f"smallest size {given} nm3 is not a volume; give 0 or more with --min-size")
    return smallest


def _table_path(target: Path) -> Path:
    return target.with_suffix(".csv") if target.suffix == ".zarr" else target.with_name(f"{target.name}.csv")


def _check_targets(probabilities: Volume, target: Path, table: Path, *, overwrite: bool) -> None:
    if target.resolve() == Path(probabilities.path).resolve():
        raise SynbbError(f"{target} is the input itself; give another output")
    for path in (target, table):
        if path.exists() and not overwrite:
            raise SynbbError(f"{path} exists; choose another output, remove it, or say --overwrite")
    if target.exists() and not is_zarr(target):
        raise SynbbError(f"{target} exists and is not a zarr, so it is not overwritten; remove it yourself")
    if table.is_dir():
        raise SynbbError(f"{table} is a folder, where the table of objects would be written; choose another output")


def _chunks(shape: Sequence[int], block: Sequence[int] | None) -> tuple[int, int, int] | None:
    """Chunks no larger than a block that was asked for; None, the usual grid, where that already holds."""
    if block is None:
        return None
    if len(block) != 3 or min(block) < 1:
        raise SynbbError(f"block {tuple(block)} is not three positive numbers of voxels, z, y, x")
    usual = default_grid(shape)[0]
    chunks = triple([min(int(b), c) for b, c in zip(block, usual, strict=True)])
    return None if chunks == usual else chunks


def _block_shape(writable: WritableVolume, block: Sequence[int] | None) -> tuple[int, int, int]:
    """Whole files of the output, so that each is written once."""
    if block is None:
        return grow_block(writable.unit, writable.shape, split=False)
    return triple([-(-int(b) // u) * u for b, u in zip(block, writable.unit, strict=True)])


def _part(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int, int], None]:
    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(before + done, total)

    return report


def _find(
    probabilities: Volume,
    threshold: float,
    connectivity: int,
    shape: Sequence[int],
    progress: Callable[[int, int], None],
) -> Components:
    def read(box: Box) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        values = probabilities.read(box)
        check_range(values, probabilities.path)
        return foreground(values, threshold), values

    return find_components(read, probabilities.box, shape, connectivity, progress=progress)


def _write_labels(
    probabilities: Volume,
    threshold: float,
    kept: Components,
    writable: WritableVolume,
    progress: Callable[[int, int], None],
) -> None:
    blocks = kept.blocks
    for done, box in enumerate(blocks, 1):
        mask = foreground(probabilities.read(box), threshold)
        writable.write(box, kept.labels(box, mask, np.uint32))
        progress(done, len(blocks))


def _write_table(path: Path, probabilities: Volume, kept: Components) -> None:
    table = kept.table
    centroids = table.centroids
    world = np.asarray(probabilities.offset) + centroids * np.asarray(probabilities.voxel_size)
    volume = table.voxels * float(np.prod(probabilities.voxel_size))
    unit = 255.0 if probabilities.dtype == np.uint8 else 1.0
    mean, highest = table.value_sum / table.voxels / unit, table.value_max / unit
    with disk_errors(str(path)), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for i in range(len(table)):
            writer.writerow(
                [
                    i + 1,
                    *(f"{v:.3f}" for v in (*world[i], *centroids[i])),
                    *table.start[i].tolist(),
                    *table.stop[i].tolist(),
                    int(table.voxels[i]),
                    f"{volume[i]:.10g}",
                    f"{mean[i]:.5f}",
                    f"{highest[i]:.5f}",
                ]
            )


def _publish(partial: Path, target: Path) -> None:
    """Put a finished output in its place; what was there goes once the new one stands."""
    old = target.with_name(f".{target.name}.old")
    with disk_errors(str(target)):
        if target.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        partial.replace(target)
        shutil.rmtree(old, ignore_errors=True)
