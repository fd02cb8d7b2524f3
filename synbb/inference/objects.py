"""From probabilities to synapses: threshold, connected components, filters, a label volume and a table.

Works block by block, twice: once to find the objects, once to write them, and object by object between where touching
ones are split; ``docs/stitching.md`` says how. Nothing is at the output's place before everything is written.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError, disk_errors
from synbb.evaluation.components import Components, find_components
from synbb.evaluation.thresholds import check_dtype, check_range
from synbb.evaluation.window import grow_block
from synbb.inference.label_places import table_beside, written_beside
from synbb.inference.rules import NO_DATA, ObjectRules
from synbb.inference.splitting import SplitComponents, Splitter, split_components
from synbb.volumes.box import BlockGrid, Box, Triple, triple
from synbb.volumes.kinds import PLAN, check_finished, check_use
from synbb.volumes.storage import default_grid
from synbb.volumes.writing import WritableVolume, check_zarr_name, create_volume, followed, holds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from synbb.volumes.volume import Volume

CARRIED = (
    *("run_id", "model_sha256", "normalisation", "licence", "citation", "working_voxel_size", "region", NO_DATA, PLAN),
)
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
        rules: what made an object.
        threshold_source: where the threshold came from.
        sources: name of each rule → ``given``, ``stored`` with the probabilities, or ``usual``.
        chosen_on: on what data the stored ones were chosen, as the probabilities say; None where they do not.
        objects: number of objects written.
        too_small: number left out as smaller than the rules allow.
        too_large: number left out as larger.
        split: objects that were cut into several.
        left_whole: objects that were not looked at for cuts, because their bounding box is too large.
        voxels: voxels of the objects written.
    """

    output: str
    table: str
    rules: ObjectRules
    threshold_source: str
    sources: dict[str, str]
    chosen_on: str | None
    objects: int
    too_small: int
    too_large: int
    split: int
    left_whole: int
    voxels: int

    @property
    def threshold(self) -> float:
        """An object holds a voxel of p >= threshold."""
        return self.rules.threshold

    @property
    def connectivity(self) -> int:
        """6, 18 or 26."""
        return self.rules.connectivity

    @property
    def min_size_nm3(self) -> float:
        """Smaller objects were left out."""
        return self.rules.min_size_nm3


def segment(
    probabilities: Volume,
    output_path: str | Path,
    *,
    threshold: float | None = None,
    low: float | None = None,
    min_size_nm3: float | None = None,
    max_size_nm3: float | None = None,
    connectivity: int = 26,
    bridge: int | None = None,
    blank: Sequence[int] | None = None,
    split_nm: float | None = None,
    block: Sequence[int] | None = None,
    table_path: str | Path | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentSummary:
    """Label the connected components of p >= threshold and write them as OME-Zarr and CSV.

    In this order: components of p >= ``low``, joined over missing sections; of these the ones that reach the
    threshold; touching ones split; sizes. Ids are 1 to n in the order of the objects' first voxels (z, then y, then
    x), whatever the blocks. The CSV has one row an object: centroid in nm (world) and in voxels (an index is the centre
    of its voxel), bounding box in voxels (half-open), size, and mean and largest probability.

    What is None is read from the attributes of the probabilities (under the names of :class:`ObjectRules`, and
    ``no_data_sections``); what is not there either is not done.

    Args:
        probabilities: uint8 (value / 255) or floats in [0, 1].
        output_path: the label volume (uint32, same shape, voxel size and offset); symbolic links are followed.
        threshold: in (0, 1]; must be given or stored.
        low: in (0, threshold]: the components of p >= low that hold a voxel of p >= threshold.
        min_size_nm3: objects of less volume are left out.
        max_size_nm3: objects of more volume are left out.
        connectivity: 6 (faces), 18 (and edges) or 26 (and corners).
        bridge: objects that overlap in y, x on both sides of at most so many sections without data are one.
        blank: z of the sections without data, voxels of ``probabilities``.
        split_nm: objects are shared out among seeds, maxima of p at least so far apart.
        block: voxels of a block, rounded up to what one file of the output holds; chosen when None.
        table_path: the CSV; beside the output (OUT.zarr → OUT.csv) when None.
        overwrite: replace an output that is there.
        progress: called with (done, total) blocks, over all passes.

    Raises:
        SynbbError: no threshold, wrong values, gaps to bridge that nobody lists, an output that exists, a table
            inside of it, or another process that writes it.
        RunEnded: the disk is full, or what was being written was removed.
    """
    _check_probabilities(probabilities)
    rules = ObjectRules.of(
        probabilities,
        threshold=threshold,
        low=low,
        connectivity=connectivity,
        bridge=bridge,
        blank=blank,
        split_nm=split_nm,
        min_size_nm3=min_size_nm3,
        max_size_nm3=max_size_nm3,
    )
    check_zarr_name(Path(output_path))
    target = followed(Path(output_path))
    table = followed(table_beside(Path(output_path)) if table_path is None else Path(table_path))
    _check_not_input(probabilities, target)
    chunks, shards = _grid(probabilities.shape, block)
    with written_beside(target, table, overwrite=overwrite) as (partial, partial_table):
        writable = create_volume(
            partial,
            shape=probabilities.shape,
            dtype=np.uint32,
            voxel_size=probabilities.voxel_size,
            offset=probabilities.offset,
            chunks=chunks,
            shards=shards,
            overwrite=True,
            name=target.stem,
        )
        shape = _block_shape(writable, block)
        steps, parts = len(BlockGrid(probabilities.box, shape, probabilities.box.start)), 3 if rules.split_nm else 2
        reports = [_part(progress, part, parts, steps) for part in range(parts)]
        whole = find_whole(probabilities, rules, shape, reports[0])
        found: Components | SplitComponents = whole
        split = left_whole = 0
        if rules.split_nm:
            splitter = Splitter(probabilities, rules)
            left_whole = int(splitter.may_cut(whole.table)[1].sum())
            found = split_components(whole, splitter, reports[1])
            split = found.cut
        enough, not_too_much = rules.fits(found.table.voxels, float(np.prod(probabilities.voxel_size)))
        kept = found.keep(enough & not_too_much)
        del whole, found  # rows of every speck above the threshold
        if len(kept) > np.iinfo(np.uint32).max:
            raise SynbbError(f"{probabilities.path}: {len(kept):,} objects do not fit uint32; raise the threshold")
        _write_labels(probabilities, rules, kept, writable, reports[-1])
        writable.check_there()
        attributes = {name: probabilities.attributes[name] for name in CARRIED if name in probabilities.attributes}
        own = {"kind": "objects", **rules.attributes(), "source": probabilities.path, "objects": len(kept)}
        writable.set_attributes({**attributes, **own})
        _write_table(partial_table, probabilities, kept)
    return SegmentSummary(
        output=str(output_path),
        table=str(table),
        rules=rules,
        threshold_source="stored with the probabilities" if threshold is None else "given",
        sources=_sources(
            probabilities,
            threshold=threshold,
            low=low,
            bridge=bridge,
            split_nm=split_nm,
            min_size_nm3=min_size_nm3,
            max_size_nm3=max_size_nm3,
        ),
        chosen_on=probabilities.attributes.get("rules_chosen_on"),
        objects=len(kept),
        too_small=int((~enough).sum()),
        too_large=int((~not_too_much).sum()),
        split=split,
        left_whole=left_whole,
        voxels=int(kept.table.voxels.sum()),
    )


def _sources(probabilities: Volume, **given: float | None) -> dict[str, str]:
    stored = {name for name in given if probabilities.attributes.get(name) is not None}
    return {
        name: "given" if value is not None else "stored" if name in stored else "usual" for name, value in given.items()
    }


def _check_probabilities(probabilities: Volume) -> None:
    check_use(probabilities, "probabilities")
    check_finished(probabilities)
    check_dtype(probabilities.dtype, probabilities.path)


def _check_not_input(probabilities: Volume, target: Path) -> None:
    if target.resolve() == Path(probabilities.path).resolve():
        raise SynbbError(f"{target} is the input itself; give another output")
    if holds(target, probabilities):
        raise SynbbError(f"{target} holds the input {probabilities.path}, or is a part of it; give another output")


def _grid(shape: Triple, block: Sequence[int] | None) -> tuple[Triple, Triple | None]:
    """Chunks and shards of the output: chunks no larger than a block that was asked for, shards no larger than ours."""
    chunks, shards = default_grid(shape)
    if block is not None:
        if len(block) != 3 or min(block) < 1:
            raise SynbbError(f"block {tuple(block)} is not three positive numbers of voxels, z, y, x")
        smaller = triple([min(int(b), c) for b, c in zip(block, chunks, strict=True)])
        if smaller != chunks:
            return smaller, None
    # A file is written at once and in memory as uint32: the usual shard would be four of our blocks.
    return chunks, None if shards is None else grow_block(chunks, shape, split=False)


def _block_shape(writable: WritableVolume, block: Sequence[int] | None) -> tuple[int, int, int]:
    """Whole files of the output, so that each is written once."""
    if block is None:
        return grow_block(writable.unit, writable.shape, split=False)
    return triple([-(-int(b) // u) * u for b, u in zip(block, writable.unit, strict=True)])


def _part(progress: Callable[[int, int], None] | None, part: int, parts: int, steps: int) -> Callable[[int, int], None]:
    """One of several parts of the work, each of ``steps`` blocks or counted as such."""

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(part * steps + done * steps // total, parts * steps)

    return report


def find_whole(
    probabilities: Volume,
    rules: ObjectRules,
    shape: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Components:
    """The objects before any is split or left out for its size.

    Args:
        probabilities: uint8 or floats.
        rules: what an object is.
        shape: voxels of a block.
        progress: called with (done, total) blocks.

    Raises:
        SynbbError: values that are no probabilities.
    """

    def read(box: Box) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        values = probabilities.read(box)
        check_range(values, probabilities.path)
        return rules.mask(values), values

    bridges = rules.bridges(probabilities.shape[0])
    found = find_components(read, probabilities.box, shape, rules.connectivity, bridges=bridges, progress=progress)
    return found.keep(rules.sure(found.table.value_max, probabilities.dtype))


def _write_labels(
    probabilities: Volume,
    rules: ObjectRules,
    kept: Components | SplitComponents,
    writable: WritableVolume,
    progress: Callable[[int, int], None],
) -> None:
    for done, box in enumerate(kept.blocks, 1):
        mask = rules.mask(probabilities.read(box))
        writable.write(box, kept.labels(box, mask, np.uint32))
        progress(done, len(kept.blocks))


def _write_table(path: Path, probabilities: Volume, kept: Components | SplitComponents) -> None:
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
