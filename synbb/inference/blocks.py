"""Where a volume is cut: write boxes, read boxes, and the identity of the whole plan.

Along one axis, for a stride of 4, a halo of 6 (rounded up to 8) and write blocks of 12 voxels::

    voxel       0       8       16      24      32    37  40
    volume      |=====================================|          37 voxels
    padded      |=====================================|~~|       40: up to the stride, edge values
    stride grid |   |   |   |   |   |   |   |   |   |   |

    write 0     [###########]                                    0:12
    read  0     [###########+++++++]                             0:20   clipped at the volume's border
    write 1                 [###########]                        12:24
    read  1         [+++++++###########+++++++]                  4:32
    write 2                             [###########]            24:36
    read  2                     [+++++++###########+++~]         16:40
    write 3                                         [#]          36:37
    read  3                                 [+++++++##~~]        28:40

A read box begins and ends on the stride grid of the whole volume, so each of the network's levels samples the voxels it
would sample there; it holds all that the written voxels depend on; and at the volume's border it is clipped, not
padded, so that each layer pads where it pads in the whole volume. Then a block's result is that of the whole volume.

Written boxes are voxels of the input (level 0), read boxes are voxels of the working grid, in which the network sees
the volume (:class:`synbb.volumes.resample.WorkingView`). Where the two differ, the read box is grown by what linear
interpolation back to the input's voxels needs, at most one working voxel.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

from synbb.errors import SynbbError
from synbb.volumes.box import AXES, Box, Nanometres, Triple, triple
from synbb.volumes.resample import upsampling_support

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LAYOUT = 1
"""Version of the geometry in this file; a ledger of another version is refused."""


@dataclass(frozen=True)
class Span:
    """One block along one axis: what it writes, what that needs, what is read (half-open pairs)."""

    write: tuple[int, int]
    core: tuple[int, int]
    read: tuple[int, int]


@dataclass(frozen=True)
class Block:
    """One block of a plan.

    Attributes:
        index: its number in z, y, x order.
        write: voxels of the input (level 0) that it fills.
        core: voxels of the working grid from which those are made.
        read: voxels of the padded working grid that the network is given for it.
    """

    index: int
    write: Box
    core: Box
    read: Box


@dataclass(frozen=True)
class Windows:
    """Overlapping windows whose logits are blended, instead of blocks that are read with the whole halo.

    Windows are anchored at the volume, not at blocks, so that a voxel is blended of the same windows whatever the
    blocks are. Along an axis they begin at 0, step, 2 step ... and a last one ends where the padded volume ends.

    Attributes:
        shape: working voxels of a window; clipped to the volume, rounded up to whole strides.
        step: working voxels from one window to the next.
    """

    shape: Triple
    step: Triple

    @classmethod
    def overlapping(cls, shape: Sequence[int], overlap: float, stride: Sequence[int]) -> Windows:
        """Windows of ``shape`` (rounded up to whole strides) of which neighbours share the part ``overlap``.

        Raises:
            SynbbError: an overlap outside [0, 1), or a window without voxels.
        """
        if not 0 <= overlap < 1:
            raise SynbbError(f"overlap {overlap} must lie in [0, 1): the share of a window that its neighbour covers")
        if len(shape) != 3 or min(shape) < 1:
            raise SynbbError(f"window {tuple(shape)} must be at least 1 along z, y and x")
        whole = round_up(shape, stride)
        # 160 * (1 - 0.8) is a little less than 32, which is meant: overlaps are decimal fractions.
        steps = [math.floor(n * (1 - overlap) / s + 1e-9) for n, s in zip(whole, stride, strict=True)]
        step = [max(1, count) * s for count, s in zip(steps, stride, strict=True)]
        return cls(whole, triple(step))

    @property
    def reach(self) -> Triple:
        """How far beyond a voxel the windows that hold it extend, less one step."""
        return triple([n - s for n, s in zip(self.shape, self.step, strict=True)])

    def starts(self, axis: int, length: int) -> list[int]:
        """First voxels of the windows along an axis of the padded grid that has ``length`` voxels."""
        last = max(0, length - self.shape[axis])
        return [*range(0, last, self.step[axis]), last]

    def meeting(self, axis: int, length: int, low: int, high: int) -> list[tuple[int, int]]:
        """The windows that hold a voxel of ``low:high``."""
        size = min(self.shape[axis], length)
        found = [(start, start + size) for start in self.starts(axis, length)]
        return [(start, stop) for start, stop in found if start < high and stop > low]


@dataclass(frozen=True)
class BlockPlan:
    """How a region of a volume is cut into blocks, and of what run.

    Attributes:
        region: what is written, in voxels of the input.
        write_block: voxels of the input in a block; blocks are anchored at ``region.start`` and clipped to it.
        working_shape: voxels of the volume in the working grid.
        halo: margin of working voxels that a cell of the stride grid depends on (``receptive_field``).
        stride: working voxels per voxel of the network's coarsest level.
        scale: voxels of the input in a working voxel.
        windows: what the network is given at once where windows are blended; None where blocks have their whole halo.
        identity: what else must be unchanged for results to fit together (model, normalisation, input), JSON values.

    Raises:
        SynbbError: a region, block, halo, stride or scale that makes no sense.
    """

    region: Box
    write_block: Triple
    working_shape: Triple
    halo: Triple
    stride: Triple
    scale: Nanometres = (1.0, 1.0, 1.0)
    identity: Mapping[str, Any] = field(default_factory=dict)
    windows: Windows | None = None

    def __post_init__(self) -> None:
        for name in ("write_block", "working_shape", "stride"):
            if min(getattr(self, name)) < 1:
                raise SynbbError(f"{name} {getattr(self, name)} must be at least 1 along z, y and x")
        if min(self.halo) < 0:
            raise SynbbError(f"halo {self.halo} must not be negative")
        if not all(math.isfinite(f) and f > 0 for f in self.scale):
            raise SynbbError(f"scale {self.scale} must be three positive numbers")
        if self.region.empty or min(self.region.start) < 0:
            raise SynbbError(f"region {self.region} holds no voxel or begins before the volume does")
        room = [n * f for n, f in zip(self.working_shape, self.scale, strict=True)]
        if any(stop > math.ceil(size) for stop, size in zip(self.region.stop, room, strict=True)):
            raise SynbbError(
                f"region {self.region} is outside the volume, which ends at {[math.ceil(r) for r in room]}"
            )

    def __len__(self) -> int:
        return math.prod(self.grid)

    @property
    def grid(self) -> Triple:
        """Blocks along z, y, x."""
        return triple([len(spans) for spans in self._spans])

    @property
    def padded_shape(self) -> Triple:
        """The working grid up to whole strides; the far end is filled with edge values."""
        return round_up(self.working_shape, self.stride)

    @cached_property
    def _spans(self) -> tuple[tuple[Span, ...], ...]:
        """Blocks along each axis: the geometry is a product of three, which keeps plans of 10^5 blocks cheap."""
        return tuple(tuple(self._along(axis)) for axis in range(3))

    def _along(self, axis: int) -> Iterator[Span]:
        step, halo = self.stride[axis], self.halo[axis]
        end = self.padded_shape[axis]
        for start in range(self.region.start[axis], self.region.stop[axis], self.write_block[axis]):
            stop = min(start + self.write_block[axis], self.region.stop[axis])
            low, high = self._support(axis, start, stop)
            if self.windows is not None:
                met = self.windows.meeting(axis, end, low, high)
                yield Span((start, stop), (low, high), (met[0][0], met[-1][1]))
                continue
            begin = (low // step * step - halo) // step * step
            finish = -(-(-(-high // step) * step + halo) // step) * step
            yield Span((start, stop), (low, high), (max(0, begin), min(end, finish)))

    def _support(self, axis: int, start: int, stop: int) -> tuple[int, int]:
        """Working voxels that input voxels ``start:stop`` are interpolated from."""
        if self.scale[axis] == 1:
            return start, stop
        line, scale, shape = [(0, 1)] * 3, [1.0] * 3, [1] * 3
        line[axis], scale[axis], shape[axis] = (start, stop), self.scale[axis], self.working_shape[axis]
        needed = upsampling_support(_box(line), scale, shape)
        return needed.start[axis], needed.stop[axis]

    def block(self, index: int) -> Block:
        """The block of that number."""
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of a plan of {len(self)}")
        _, rows, columns = self.grid
        place = (index // (rows * columns), index // columns % rows, index % columns)
        spans = [self._spans[axis][i] for axis, i in enumerate(place)]
        return Block(
            index, _box([s.write for s in spans]), _box([s.core for s in spans]), _box([s.read for s in spans])
        )

    def __iter__(self) -> Iterator[Block]:
        return (self.block(index) for index in range(len(self)))

    def batches(self, size: int) -> Iterator[tuple[Block, ...]]:
        """All blocks in groups of up to ``size`` whose read boxes have one shape, the same at every call.

        Batches belong to the plan, not to what is left of it: a restart runs a block in the company it would have had,
        so that its result does not change in the last bit.
        """
        _, rows, columns = self.grid
        for shape in product(*[sorted({_length(s.read) for s in spans}, reverse=True) for spans in self._spans]):
            alike = [
                [i for i, span in enumerate(spans) if _length(span.read) == length]
                for spans, length in zip(self._spans, shape, strict=True)
            ]
            batch: list[Block] = []
            for z, y, x in product(*alike):
                batch.append(self.block((z * rows + y) * columns + x))
                if len(batch) == size:
                    yield tuple(batch)
                    batch = []
            if batch:
                yield tuple(batch)

    def windows_of(self, block: Block) -> list[Box]:
        """The windows that are blended for a block, in voxels of its read box; in z, y, x order.

        Raises:
            ValueError: the plan has none.
        """
        if self.windows is None:
            raise ValueError("blocks of this plan are read with their whole halo")
        along = [
            self.windows.meeting(axis, length, block.core.start[axis], block.core.stop[axis])
            for axis, length in enumerate(self.padded_shape)
        ]
        return [_box(ends).relative_to(block.read.start) for ends in product(*along)]

    @property
    def read_voxels(self) -> int:
        """Working voxels the network is given, all blocks together."""
        return math.prod(sum(self._given(axis, span) for span in spans) for axis, spans in enumerate(self._spans))

    def _given(self, axis: int, span: Span) -> int:
        if self.windows is None:
            return _length(span.read)
        return sum(_length(ends) for ends in self.windows.meeting(axis, self.padded_shape[axis], *span.core))

    @property
    def work_factor(self) -> float:
        """Working voxels read for each one written (1 would be no overlap at all)."""
        return self.read_voxels * math.prod(self.scale) / self.region.size

    def fields(self) -> dict[str, Any]:
        """All that the plan's identity is made of, by name, as JSON values."""
        geometry = {
            "layout": LAYOUT,
            "region": str(self.region),
            "write_block": list(self.write_block),
            "working_shape": list(self.working_shape),
            "scale": list(self.scale),
            "halo": list(self.halo),
            "stride": list(self.stride),
        }
        if self.windows is not None:
            geometry |= {"window": list(self.windows.shape), "window_step": list(self.windows.step)}
        plain: dict[str, Any] = json.loads(json.dumps({**geometry, **self.identity}))
        return plain

    def fingerprint(self) -> str:
        """SHA-256 over :meth:`fields`."""
        return fingerprint(self.fields())

    def __str__(self) -> str:
        if self.windows is None:
            how = f"halo {_text(self.halo)}"
        else:
            how = f"blended windows of {_text(self.windows.shape)} voxels in steps of {_text(self.windows.step)}"
        blocks = f"{len(self)} block{'s' * (len(self) != 1)} of {_text(self.write_block)} voxels"
        return f"{blocks}, {how}, stride {_text(self.stride)}, work factor {self.work_factor:.2f}"


def fingerprint(fields: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their names."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def round_up(sizes: Sequence[int], stride: Sequence[int]) -> Triple:
    """``sizes`` (a shape, a halo) rounded up to whole strides."""
    return triple([-(-n // s) * s for n, s in zip(triple(sizes), triple(stride), strict=True)])


def check_region(region: Box | None, volume: Box, name: str) -> Box:
    """``region``, or the whole volume when it is None.

    Raises:
        SynbbError: the region is empty or not inside the volume called ``name``.
    """
    if region is None:
        return volume
    if region.empty or not volume.contains(region):
        sizes = ", ".join(f"{axis} 0:{n}" for axis, n in zip(AXES, volume.stop, strict=True))
        raise SynbbError(
            f"region {region.named} is empty or outside {name}, whose voxels are {sizes}; choose one inside (in nm: "
            "with nm at its end)"
        )
    return region


def _box(ranges: Sequence[tuple[int, int]]) -> Box:
    return Box(triple([a for a, _ in ranges]), triple([b for _, b in ranges]))


def _length(ends: tuple[int, int]) -> int:
    return ends[1] - ends[0]


def _text(values: Sequence[int]) -> str:
    return " x ".join(str(value) for value in values)
