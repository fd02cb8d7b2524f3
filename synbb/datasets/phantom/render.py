"""From structures to grey values and labels, one section window at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from synbb.datasets.phantom.imaging import BLUR_PAD, record, section_state, texture
from synbb.datasets.phantom.structures import DARK_SHARE, Blobs, Structures, Vesicles, find_structures

if TYPE_CHECKING:
    from synbb.datasets.phantom.fields import Floats
    from synbb.datasets.phantom.spec import PhantomSpec
    from synbb.volumes.box import Box

Image = NDArray[np.float32]

# Grey values before contrast and noise, near those of the Drosophila VNC volume (osmium: membranes dark).
_LIGHT, _LIGHT_SPREAD, _DARK = 148.0, 45.0, 84.0
_MEMBRANE, _DENSITY, _BODY, _VESICLE_WALL, _VESICLE_LUMEN = 44.0, 46.0, 32.0, 84.0, 168.0
_MEMBRANE_HALF = 13.0  # nm from the border that are fully dark
_MEMBRANE_EDGE = 9.0  # nm over which it fades


@dataclass(frozen=True)
class Block:
    """A rendered box.

    Attributes:
        raw: uint8 (z, y, x).
        synapse: int32, 1 + index into ``keys``, 0 elsewhere.
        neurite: uint64 identity of each voxel's neurite.
        keys: identity (n, 4) of each synapse within reach.
    """

    raw: NDArray[np.uint8]
    synapse: NDArray[np.int32]
    neurite: NDArray[np.uint64]
    keys: NDArray[np.int64]


def render(spec: PhantomSpec, box: Box) -> Block:
    """The voxels of ``box``, each a function of the seed and its position alone; memory grows with the box only."""
    voxel = np.array(spec.voxel_size)
    slack = 8.0 * spec.jitter + 4 * voxel.max()
    structures = find_structures(spec, np.array(box.start) * voxel - slack, np.array(box.stop) * voxel + slack)
    raw = np.empty(box.shape, dtype=np.uint8)
    synapse = np.empty(box.shape, dtype=np.int32)
    neurite = np.empty(box.shape, dtype=np.uint64)
    rows, columns = np.arange(box.start[1], box.stop[1]), np.arange(box.start[2], box.stop[2])
    for index, z in enumerate(range(box.start[0], box.stop[0])):
        tissue, synapse[index], group = _Section(spec, structures, z, rows, columns).draw()
        raw[index] = record(spec, z, tissue, rows, columns)
        neurite[index] = structures.neurites.ids[group]
    return Block(raw, synapse, neurite, structures.synapses.key)


class _Section:
    """One window of one section while it is drawn; arrays are padded by BLUR_PAD."""

    def __init__(
        self,
        spec: PhantomSpec,
        structures: Structures,
        z: int,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
    ) -> None:
        self.spec, self.structures, self.z = spec, structures, z
        self.height = z * spec.voxel_size[0]
        self.pixel = spec.voxel_size[1:]
        shift = section_state(spec, z).shift
        self.rows = np.arange(rows[0] - BLUR_PAD, rows[-1] + 1 + BLUR_PAD) + shift[0]
        self.columns = np.arange(columns[0] - BLUR_PAD, columns[-1] + 1 + BLUR_PAD) + shift[1]
        # One more pixel at the far end, for the slope of the depth.
        group, depth = structures.neurites.section(
            self.height,
            (int(self.rows[0]), int(self.rows[-1]) + 2),
            (int(self.columns[0]), int(self.columns[-1]) + 2),
            self.pixel,
        )
        self.group, self.depth = group[:-1, :-1].copy(), depth[:-1, :-1].copy()
        slope_y = (depth[1:, :-1] - self.depth) / np.float32(self.pixel[0])
        slope_x = (depth[:-1, 1:] - self.depth) / np.float32(self.pixel[1])
        self.slope = np.sqrt(slope_y * slope_y + slope_x * slope_x)
        self.image: Image = np.empty(self.depth.shape, dtype=np.float32)
        self.labels = np.zeros(self.depth.shape, dtype=np.int32)

    def draw(self) -> tuple[Image, NDArray[np.int32], NDArray[np.int32]]:
        """Grey values (padded), synapse numbers and neurite indices (both of the window itself)."""
        self._cytoplasm()
        self._mitochondria(self.structures.mitochondria)
        self._bodies(self.structures.bodies)
        self._vesicles(self.structures.vesicles)
        self._membranes()
        self._junctions(self.structures.junctions)
        self._synapses(self.structures.synapses)
        inner = (slice(BLUR_PAD, -BLUR_PAD), slice(BLUR_PAD, -BLUR_PAD))
        return self.image, self.labels[inner], self.group[inner]

    def _cytoplasm(self) -> None:
        character = self.structures.neurites.character
        grey = np.where(character["dark"] < DARK_SHARE, _DARK, _LIGHT + _LIGHT_SPREAD * character["grey"])
        self.image = grey.astype(np.float32)[self.group] + texture(self.spec, self.z, self.rows, self.columns)

    def _membranes(self) -> None:
        """Dark where the border is near; a membrane that lies flat in the section is greyer, as in projection."""
        edge = np.float32(1.0 / _MEMBRANE_EDGE)
        alpha = np.clip((np.float32(_MEMBRANE_HALF + _MEMBRANE_EDGE) - self.depth) * edge, 0, 1)
        alpha *= np.float32(0.5) + np.float32(0.5) * np.minimum(self.slope * np.float32(1.4), 1)
        self.image += alpha * (np.float32(_MEMBRANE) - self.image)

    def _windows(self, blobs: Blobs, grow: float) -> list[tuple[int, tuple[slice, slice], Floats]]:
        """Blobs that reach this section, their windows, and each window's coordinates in units of their radii (3, ...).

        ``grow`` is how far beyond the surface, in radii, the window must reach.
        """
        result = []
        reach = blobs.radii.max(axis=1) * grow if len(blobs) else np.zeros(0)
        y, x = self.rows * self.pixel[0], self.columns * self.pixel[1]
        for index in np.flatnonzero(np.abs(blobs.centre[:, 0] - self.height) < reach):
            cz, cy, cx = blobs.centre[index]
            y0, y1 = np.searchsorted(y, [cy - reach[index], cy + reach[index]])
            x0, x1 = np.searchsorted(x, [cx - reach[index], cx + reach[index]])
            if y0 == y1 or x0 == x1:
                continue
            dy, dx = (y[y0:y1] - cy)[:, None], (x[x0:x1] - cx)[None, :]
            scaled = blobs.axes[index] / blobs.radii[index][:, None]
            local = np.stack([row[0] * (self.height - cz) + row[1] * dy + row[2] * dx for row in scaled])
            result.append((int(index), (slice(y0, y1), slice(x0, x1)), local))
        return result

    def _shade(self, window: tuple[slice, slice], alpha: Floats, grey: Floats | float) -> None:
        view = self.image[window]
        view += (alpha * (grey - view)).astype(np.float32)

    def _mitochondria(self, blobs: Blobs) -> None:
        """Dark matrix with stripes (cristae) inside a darker outer membrane."""
        for index, window, local in self._windows(blobs, 1.0):
            radius = np.sqrt((local * local).sum(axis=0))
            inside = (self.group[window] == blobs.neurite[index]) & (self.depth[window] > 24.0)
            alpha = np.clip((1.0 - radius) * 9.0, 0, 1) * inside
            if not alpha.any():
                continue
            length, thick = blobs.radii[index, 0], blobs.radii[index, 1]
            # Cristae about 55 nm apart, leaning and bent: a triangle wave along the long axis.
            along = (local[0] * length + 0.45 * local[1] * thick + 0.3 * local[1] * local[1] * thick) / 55.0
            wave = 2.0 * np.abs(along - np.floor(along) - 0.5)
            fade = np.clip((0.86 - radius) * 8.0, 0, 1)
            matrix = 74.0 + 34.0 * blobs.shade[index]
            rim = np.clip(1.0 - np.abs(radius - 0.9) * 12.0, 0, 1)
            grey = matrix + fade * (38.0 * np.clip(1.6 * wave - 0.5, 0, 1) - 14.0)
            grey = grey + rim * (40.0 - grey)
            self._shade(window, alpha, grey)

    def _bodies(self, blobs: Blobs) -> None:
        for index, window, local in self._windows(blobs, 1.2):
            radius = np.sqrt((local * local).sum(axis=0))
            inside = self.group[window] == blobs.neurite[index]
            self._shade(window, np.clip((1.1 - radius) * 4.0, 0, 1) * inside * 0.95, _BODY + 30.0 * blobs.shade[index])

    def _junctions(self, blobs: Blobs) -> None:
        for index, window, local in self._windows(blobs, 1.2):
            radius = np.sqrt((local * local).sum(axis=0))
            near = np.clip((40.0 - self.depth[window]) / 14.0, 0, 1)
            self._shade(
                window, np.clip((1.12 - radius) * 4.0, 0, 1) * near * 0.95, _DENSITY - 8.0 + 16.0 * blobs.shade[index]
            )

    def _synapses(self, blobs: Blobs) -> None:
        """The dark presynaptic density, which is the label, on the inner face of the membrane."""
        for index, window, local in self._windows(blobs, 1.25):
            radius = np.sqrt((local * local).sum(axis=0))
            radius = radius * (1.0 + _wobble(local, float(blobs.shade[index])))
            home = self.group[window] == blobs.neurite[index]
            near = np.where(home, 1.0, np.clip((20.0 - self.depth[window]) / 8.0, 0, 1))
            self._shade(
                window, np.clip((1.12 - radius) * 4.5, 0, 1) * near, _DENSITY - 10.0 + 20.0 * blobs.shade[index]
            )
            label = (radius < 1.0) & (near > 0.5)
            self.labels[window][label] = index + 1

    def _vesicles(self, vesicles: Vesicles) -> None:
        """Rings: a vesicle shows in full in the one section that holds its centre (sections are as thick as it is)."""
        depth = vesicles.centre[:, 0] - self.height
        here = np.flatnonzero((depth >= -0.5 * self.spec.voxel_size[0]) & (depth < 0.5 * self.spec.voxel_size[0]))
        if not len(here):
            return
        outer = float(vesicles.radius.max()) + 10.0
        offsets = [np.arange(-int(outer / p) - 1, int(outer / p) + 2) for p in self.pixel]
        row = np.round(vesicles.centre[here, 1] / self.pixel[0]).astype(np.int64)[:, None, None] + offsets[0][:, None]
        column = np.round(vesicles.centre[here, 2] / self.pixel[1]).astype(np.int64)[:, None, None] + offsets[1]
        dy = row * self.pixel[0] - vesicles.centre[here, 1][:, None, None]
        dx = column * self.pixel[1] - vesicles.centre[here, 2][:, None, None]
        distance = np.sqrt(dy * dy + dx * dx)
        radius = vesicles.radius[here][:, None, None]
        row, column = np.broadcast_arrays(row - self.rows[0], column - self.columns[0])
        height, width = self.image.shape
        use = (distance < radius + 9.0) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        home = np.broadcast_to(vesicles.neurite[here][:, None, None], use.shape)[use]
        row, column = row[use], column[use]
        kept = self.group[row, column] == home
        row, column = row[kept], column[kept]
        inside = np.clip((np.broadcast_to(radius, use.shape)[use][kept] - distance[use][kept]) / 6.0, -1.5, 1.5)
        wall = np.clip(1.5 - np.abs(inside), 0, 1)
        # The largest wall wins where vesicles overlap, whatever their order.
        flat = row * width + column
        alpha, lumen = np.zeros(height * width), np.zeros(height * width)
        np.maximum.at(alpha, flat, wall)
        np.maximum.at(lumen, flat, np.clip(inside, 0, 1) * (1 - wall))
        image = self.image.reshape(-1)  # a view: the image is contiguous
        touched = np.unique(flat)
        values = image[touched].astype(np.float64)
        values += 0.75 * lumen[touched] * (_VESICLE_LUMEN - values)
        values += alpha[touched] * np.minimum(_VESICLE_WALL - values, 0.0)
        image[touched] = values.astype(np.float32)


def _wobble(local: Floats, phase: float) -> Floats:
    """Between -0.16 and 0.16, wavy along the two flat axes: an outline that is no ellipse."""
    along = 1.1 * local[1] + 0.6 * local[2] + phase
    across = 0.9 * local[2] - 0.5 * local[1] + 3.7 * phase
    waves = [4.0 * np.abs(w - np.floor(w) - 0.5) - 1.0 for w in (along, across)]
    wobble: Floats = 0.16 * waves[0] * waves[1]
    return wobble
