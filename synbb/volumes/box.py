"""Axis-aligned boxes of voxels: half-open, integer, ordered z, y, x."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from math import ceil, isfinite
from typing import TYPE_CHECKING

import numpy as np

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Triple = tuple[int, int, int]
Nanometres = tuple[float, float, float]

AXES = ("z", "y", "x")


def triple(values: Sequence[int]) -> Triple:
    """Three Python integers of any sequence of three (numpy scalars included)."""
    z, y, x = (int(value) for value in values)
    return z, y, x


@dataclass(frozen=True, order=True)
class Box:
    """The voxels ``start <= v < stop`` on each of the axes z, y, x."""

    start: Triple
    stop: Triple

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", triple(self.start))
        object.__setattr__(self, "stop", triple(self.stop))
        if any(a > b for a, b in zip(self.start, self.stop, strict=True)):
            raise SynbbError(f"region {self}: every start must be at most its stop")

    @classmethod
    def of_shape(cls, shape: Sequence[int], start: Sequence[int] = (0, 0, 0)) -> Box:
        """The box of ``shape`` voxels that begins at ``start``."""
        begin = triple(start)
        return cls(begin, triple([b + s for b, s in zip(begin, shape, strict=True)]))

    @classmethod
    def parse(cls, text: str) -> Box:
        """Read ``z0:z1,y0:y1,x0:x1``, voxels, half-open.

        Raises:
            SynbbError: the text has another form.
        """
        match = re.fullmatch(r"\s*" + r"\s*,\s*".join([r"(-?\d+)\s*:\s*(-?\d+)"] * 3) + r"\s*", text)
        if match is None:
            raise SynbbError(
                f"region {text!r} is not of the form z0:z1,y0:y1,x0:x1 (voxels, half-open; or nm with nm at the end), "
                "for example 0:20,512:768,0:704"
            )
        numbers = [int(group) for group in match.groups()]
        return cls(triple(numbers[0::2]), triple(numbers[1::2]))

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))

    @property
    def named(self) -> str:
        """For people: ``z 0:20, y 512:768, x 0:704 (voxels)``."""
        spans = ", ".join(f"{axis} {a}:{b}" for axis, a, b in zip(AXES, self.start, self.stop, strict=True))
        return f"{spans} (voxels)"

    def gap(self, other: Box, axis: int) -> int:
        """Voxels between two boxes along an axis; 0 where they touch or overlap there."""
        return max(0, other.start[axis] - self.stop[axis], self.start[axis] - other.stop[axis])

    @property
    def shape(self) -> Triple:
        """Voxels along z, y, x."""
        return triple([b - a for a, b in zip(self.start, self.stop, strict=True)])

    @property
    def size(self) -> int:
        """Number of voxels."""
        z, y, x = self.shape
        return z * y * x

    @property
    def empty(self) -> bool:
        """Whether the box holds no voxel."""
        return self.size == 0

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of this box in an array whose first voxel is (0, 0, 0)."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def relative_to(self, origin: Sequence[int]) -> Box:
        """The same voxels counted from ``origin``."""
        return self.translate([-int(o) for o in origin])

    def translate(self, by: Sequence[int]) -> Box:
        """The box moved by ``by`` voxels."""
        return Box(
            triple([a + int(d) for a, d in zip(self.start, by, strict=True)]),
            triple([b + int(d) for b, d in zip(self.stop, by, strict=True)]),
        )

    def grow(self, margin: Sequence[int]) -> Box:
        """The box with ``margin`` voxels more on both sides of each axis."""
        return Box(
            triple([a - int(m) for a, m in zip(self.start, margin, strict=True)]),
            triple([b + int(m) for b, m in zip(self.stop, margin, strict=True)]),
        )

    def to_grid(self, shape: Sequence[int]) -> Box:
        """Grown to whole blocks of the grid of ``shape`` voxels that begins at 0."""
        start = [a // n * n for a, n in zip(self.start, shape, strict=True)]
        stop = [-(-b // n) * n for b, n in zip(self.stop, shape, strict=True)]
        return Box(triple(start), triple(stop))

    def intersect(self, other: Box) -> Box | None:
        """The common voxels, or None when there are none."""
        start = triple(np.maximum(self.start, other.start).tolist())
        stop = triple(np.minimum(self.stop, other.stop).tolist())
        return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def hull(self, other: Box) -> Box:
        """The smallest box that holds both."""
        return Box(
            triple(np.minimum(self.start, other.start).tolist()), triple(np.maximum(self.stop, other.stop).tolist())
        )

    def contains(self, other: Box) -> bool:
        """Whether every voxel of ``other`` lies in this box."""
        return all(a <= b for a, b in zip(self.start, other.start, strict=True)) and all(
            a >= b for a, b in zip(self.stop, other.stop, strict=True)
        )

    def blocks(self, shape: Sequence[int], anchor: Sequence[int] = (0, 0, 0)) -> Iterator[Box]:
        """Cut the box along the grid of ``shape`` voxels anchored at ``anchor``, in z, y, x order.

        Blocks at the border are clipped to the box, so they tile it without overlap.
        """
        steps = triple(shape)
        corners = []
        for axis in range(3):
            first = (self.start[axis] - int(anchor[axis])) // steps[axis]
            last = -(-(self.stop[axis] - int(anchor[axis])) // steps[axis])
            corners.append([int(anchor[axis]) + i * steps[axis] for i in range(first, last)])
        for corner in product(*corners):
            block = Box.of_shape(steps, corner).intersect(self)
            if block is not None:
                yield block


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of ``box.blocks(shape, anchor)``, without a list of them."""

    box: Box
    shape: Triple
    anchor: Triple

    def __iter__(self) -> Iterator[Box]:
        return self.box.blocks(self.shape, self.anchor)

    def __len__(self) -> int:
        return int(np.prod(self._count))

    def __getitem__(self, number: int) -> Box:
        """The block of a number.

        Raises:
            IndexError: there are fewer.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        place = np.unravel_index(number, self._count)
        corners = zip(self.box.start, self.anchor, self.shape, place, strict=True)
        corner = [a + ((first - a) // s + int(p)) * s for first, a, s, p in corners]
        block = Box.of_shape(self.shape, corner).intersect(self.box)
        assert block is not None, "a block of the grid shares voxels with the box"
        return block

    def place(self, block: Box) -> Triple:
        """Place of a block in the grid, counted from that of the first one."""
        starts = zip(block.start, self.box.start, self.anchor, self.shape, strict=True)
        return triple([(b - a) // s - (first - a) // s for b, first, a, s in starts])

    def number(self, block: Box) -> int:
        """Place of a block in the order of z, y, x."""
        return int(np.ravel_multi_index(self.place(block), self._count))

    @property
    def _count(self) -> Triple:
        last = Box(triple([n - 1 for n in self.box.stop]), self.box.stop)
        return triple([n + 1 for n in self.place(last)])


@dataclass(frozen=True)
class NmBox:
    """A region of the world, in nm: ``start <= p < stop`` on each of the axes z, y, x."""

    start: Nanometres
    stop: Nanometres

    def __str__(self) -> str:
        spans = zip(AXES, self.start, self.stop, strict=True)
        return ", ".join(f"{axis} {a:g}:{b:g}" for axis, a, b in spans) + " (nm)"

    def voxels(self, voxel_size: Sequence[float], offset: Sequence[float]) -> Box:
        """The voxels whose centres lie in the region: regions that touch share none.

        Args:
            voxel_size: nm.
            offset: nm, centre of voxel 0.

        Raises:
            SynbbError: there is none.
        """
        edges = []
        for corner in (self.start, self.stop):
            places = [(p - o) / v for p, o, v in zip(corner, offset, voxel_size, strict=True)]
            edges.append(triple([ceil(place - 1e-6) for place in places]))  # 1e-6: decimal fractions are not exact
        box = Box(*edges)
        if box.empty:
            size = " x ".join(f"{v:g}" for v in voxel_size)
            raise SynbbError(f"region {self} holds the centre of no voxel of {size} nm (z, y, x); enlarge it")
        return box


def parse_region(text: str) -> Box | NmBox:
    """Read ``z0:z1,y0:y1,x0:x1`` in voxels, or in nm of the world where ``nm`` stands at the end; half-open.

    Raises:
        SynbbError: the text has another form, a number is not finite, or a start lies beyond its stop.
    """
    stripped = text.strip()
    if not stripped.lower().endswith("nm"):
        return Box.parse(text)
    number = r"([-+]?\d+\.?\d*(?:[eE][-+]?\d+)?)"
    match = re.fullmatch(r"\s*,\s*".join([rf"{number}\s*:\s*{number}"] * 3), stripped[:-2].rstrip())
    if match is None:
        raise SynbbError(
            f"region {text!r} is not of the form z0:z1,y0:y1,x0:x1nm (nm, half-open), "
            "for example 0:1000,2048:3072,0:2816nm"
        )
    numbers = [float(group) for group in match.groups()]
    if not all(map(isfinite, numbers)):
        raise SynbbError(f"region {text!r}: a number is too large to be nm; give where the volume lies (synbb info)")
    region = NmBox((numbers[0], numbers[2], numbers[4]), (numbers[1], numbers[3], numbers[5]))
    if any(a > b for a, b in zip(region.start, region.stop, strict=True)):
        raise SynbbError(f"region {region}: every start must be at most its stop")
    return region


def region_box(region: Box | NmBox | None, voxel_size: Sequence[float], offset: Sequence[float]) -> Box | None:
    """A region in voxels of the volume that has this voxel size and offset (nm); None stays None.

    Raises:
        SynbbError: the region holds no voxel.
    """
    return region.voxels(voxel_size, offset) if isinstance(region, NmBox) else region
