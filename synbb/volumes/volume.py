"""A stored volume: one type for every format."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Nanometres, Triple, triple
from synbb.volumes.storage import Sparse, Storage, Voxels, partition_shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume of grey values or labels, axes z, y, x.

    Opening reads metadata only. A volume can be pickled and read from several threads and processes.

    Attributes:
        path: as given by whoever opened it (with ``:dataset`` where there is one).
        storage: the stored array.
        region: the part of ``storage`` that this volume shows, in voxels of the storage.
        voxel_size: nm along z, y, x.
        offset: nm, world position of the CENTRE of this volume's first voxel, as OME-Zarr's translation.
        attributes: our own metadata (``synbb``), empty where there is none.
        coarser: further levels of the pyramid, finest first.
        stored_axes: names of the axes as they are stored.
        unit: of lengths as they are stored; here they are nm.
    """

    path: str
    storage: Storage
    region: Box
    voxel_size: Nanometres
    offset: Nanometres = (0.0, 0.0, 0.0)
    attributes: dict[str, Any] = field(default_factory=dict)
    coarser: tuple[Volume, ...] = ()
    stored_axes: tuple[str, ...] = ("z", "y", "x")
    unit: str = "nm"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "dask"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"Volume({self.path!r}, shape={self.shape}, dtype={self.dtype}, voxel_size={self.voxel_size} nm)"

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return self.region.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.storage.dtype

    @property
    def box(self) -> Box:
        """All voxels of this volume: from (0, 0, 0) to its shape."""
        return Box.of_shape(self.shape)

    @property
    def format(self) -> str:
        """Words for people, such as ``OME-Zarr 0.5 (zarr v3)``."""
        return self.storage.format

    @property
    def chunks(self) -> Triple:
        """Voxels of a chunk of the storage."""
        return self.storage.chunks

    @property
    def shards(self) -> Triple | None:
        """Voxels of a shard of the storage, None where there are none."""
        return self.storage.shards

    @property
    def levels(self) -> tuple[Volume, ...]:
        """This volume, then the coarser levels of its pyramid."""
        return (self, *self.coarser)

    @property
    def extent(self) -> tuple[Nanometres, Nanometres]:
        """World positions of the outer corners, nm."""
        begin = [o - v / 2 for o, v in zip(self.offset, self.voxel_size, strict=True)]
        end = [b + n * v for b, n, v in zip(begin, self.shape, self.voxel_size, strict=True)]
        return (begin[0], begin[1], begin[2]), (end[0], end[1], end[2])

    @cached_property
    def dask(self) -> da.Array:
        """The volume as a lazy dask array.

        A dask chunk is a storage chunk or shard, or a group of them where there would be more than
        about 10,000, and never cuts one in two. For a single patch, :meth:`read` is far cheaper.
        """
        unit = partition_shape(self.shape, self.shards or self.chunks)
        return da.from_array(
            _Readable(self),
            chunks=_cuts(self.region, unit),
            name=False,
            asarray=False,
            fancy=False,
            meta=np.empty((0, 0, 0), self.dtype),
        )

    def read(self, box: Box) -> Voxels:
        """Read the voxels of ``box`` directly from the file.

        Returns:
            A new C-contiguous array of shape ``box.shape``.

        Raises:
            SynbbError: the box is not inside the volume, or a chunk is truncated or unreadable.
        """
        if not self.box.contains(box):
            raise SynbbError(f"{self.path}: region {box.named} is not inside the volume, which is {self.box.named}")
        if box.empty:
            return np.empty(box.shape, self.dtype)
        found = self.storage.read(box.translate(self.region.start))
        return np.ascontiguousarray(found, dtype=self.dtype)

    def absent(self, box: Box, *, at_any_cost: bool = True) -> list[Box]:
        """The parts of ``box`` whose chunks the file lacks (they read as its fill value).

        Args:
            box: voxels of this volume.
            at_any_cost: False leaves storages alone that would have to be read for it, and finds nothing there.
        """
        if box.empty or not isinstance(self.storage, Sparse):
            return []
        if self.storage.absence_costs and not at_any_cost:
            return []
        back = [-a for a in self.region.start]
        return [part.translate(back) for part in self.storage.absent(box.translate(self.region.start))]

    def crop(self, box: Box) -> Volume:
        """The volume that ends at ``box``: its voxel 0 is ``box.start`` and nothing outside exists.

        Coarser levels stay where the box falls on the borders of their voxels, and are dropped elsewhere.

        Raises:
            SynbbError: the box is empty or not inside the volume.
        """
        if box.empty or not self.box.contains(box):
            raise SynbbError(
                f"{self.path}: region {box.named} is empty or not inside the volume, which is {self.box.named}"
            )
        if box == self.box:
            return self
        kept = [level for level in (_crop_level(self, coarse, box) for coarse in self.coarser) if level is not None]
        return replace(
            self,
            region=box.translate(self.region.start),
            offset=self.centre_of(box.start),
            coarser=tuple(kept),
        )

    def centre_of(self, voxel: Sequence[float]) -> Nanometres:
        """World position of the centre of a voxel, nm."""
        z, y, x = (o + float(i) * v for o, i, v in zip(self.offset, voxel, self.voxel_size, strict=True))
        return z, y, x

    def with_attributes(self, attributes: Mapping[str, Any]) -> Volume:
        """The same volume carrying other metadata (nothing is written)."""
        return replace(self, attributes=dict(attributes))


class _Readable:
    """What dask wants of an array: shape, dtype, and slices."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.shape = volume.shape
        self.dtype = volume.dtype
        self.ndim = 3

    def __getitem__(self, index: tuple[slice, ...]) -> Voxels:
        bounds = [part.indices(n) for part, n in zip(index, self.shape, strict=True)]
        box = Box(triple([b[0] for b in bounds]), triple([max(b[0], b[1]) for b in bounds]))
        found = self.volume.read(box)
        steps = [b[2] for b in bounds]
        return found if steps == [1, 1, 1] else found[tuple(slice(None, None, step) for step in steps)]


def _cuts(region: Box, unit: Triple) -> tuple[tuple[int, ...], ...]:
    """Chunk lengths along each axis for ``region``, cut where the storage is cut."""
    lengths = []
    for start, stop, step in zip(region.start, region.stop, unit, strict=True):
        edges = [start, *range((start // step + 1) * step, stop, step), stop]
        lengths.append(tuple(b - a for a, b in pairwise(edges)))
    return tuple(lengths)


def level_factor(fine: Volume, coarse: Volume, slack: float = 0.02) -> tuple[float, float, float]:
    """Voxels of ``fine`` in one of ``coarse``, per axis; a whole number where it is one within ``slack``."""
    factors = []
    for a, b in zip(fine.voxel_size, coarse.voxel_size, strict=True):
        ratio = b / a
        whole = max(1, round(ratio))
        factors.append(float(whole) if abs(ratio - whole) <= slack * whole else ratio)
    return factors[0], factors[1], factors[2]


def share_corner(fine: Volume, coarse: Volume, tolerance: float = 0.01) -> bool:
    """Whether two levels begin at one corner, within ``tolerance`` voxels of ``fine``.

    Those of precomputed need not: their voxels lie on a grid from the world's origin.
    """
    corners = zip(fine.extent[0], coarse.extent[0], fine.voxel_size, strict=True)
    return all(abs(a - b) <= tolerance * v for a, b, v in corners)


def _crop_level(fine: Volume, coarse: Volume, box: Box) -> Volume | None:
    if not share_corner(fine, coarse):
        return None
    start, stop = [], []
    for axis, factor in enumerate(level_factor(fine, coarse)):
        if not factor.is_integer():
            return None
        step, last = int(factor), fine.shape[axis]
        at_end = box.stop[axis] == last
        if box.start[axis] % step or (box.stop[axis] % step and not at_end):
            return None
        start.append(box.start[axis] // step)
        stop.append(coarse.shape[axis] if at_end else box.stop[axis] // step)
    if any(a >= b for a, b in zip(start, stop, strict=True)):
        return None
    part = Box(triple(start), triple(stop))
    if not coarse.box.contains(part):
        return None
    return replace(coarse, region=part.translate(coarse.region.start), offset=coarse.centre_of(part.start))


def placement(labels: Volume, raw: Volume, tolerance: float = 0.05) -> Box:
    """Where a label volume lies in its raw volume.

    Args:
        labels: placed by its offset and voxel size.
        raw: likewise.
        tolerance: how far, in voxels, the label voxels may lie from raw voxels anywhere in the labels.

    Returns:
        The box of ``labels`` in voxels of ``raw``. It overlaps ``raw.box`` but need not lie inside it.

    Raises:
        SynbbError: voxel sizes differ, labels sit between voxels, or the two do not overlap; the message
            prints both boxes in nm.
    """
    both = f"labels {_describe(labels)}; raw {_describe(raw)}"
    start = []
    for axis, name in enumerate("zyx"):
        ratio = labels.voxel_size[axis] / raw.voxel_size[axis]
        if abs(ratio - 1) > 0.01 or abs(ratio - 1) * labels.shape[axis] > max(tolerance, 1e-9):
            raise SynbbError(
                f"voxel sizes of labels and raw differ along {name}: {both}. Correct the voxel size that is wrong "
                "(voxel_size in the config, or convert again with --voxel-size)"
            )
        shift = (labels.offset[axis] - raw.offset[axis]) / raw.voxel_size[axis]
        if abs(shift - round(shift)) > tolerance:
            raise SynbbError(
                f"labels sit between the voxels of raw, {shift:.3f} voxels along {name}: {both}. Correct the offset "
                "(it is the centre of the first voxel), or resample the labels"
            )
        start.append(round(shift))
    box = Box.of_shape(labels.shape, start)
    if box.intersect(raw.box) is None:
        raise SynbbError(f"labels and raw do not overlap: {both}. Correct the offset of one of them")
    return box


def _describe(volume: Volume) -> str:
    begin, end = volume.extent
    spans = ", ".join(f"{axis} {a:g} to {b:g}" for axis, a, b in zip("zyx", begin, end, strict=True))
    size = " x ".join(f"{v:g}" for v in volume.voxel_size)
    return f"{volume.path} ({spans} nm at {size} nm voxels)"
