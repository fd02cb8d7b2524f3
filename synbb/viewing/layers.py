"""How each kind of volume looks at first. Imports neuroglancer: see ``library.py``."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import neuroglancer
import numpy as np

from synbb.evaluation.thresholds import stored_threshold
from synbb.viewing.kinds import Kind
from synbb.viewing.served import ServedVolume
from synbb.volumes.statistics import sample_greys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from synbb.viewing.points import SynapsePoint
    from synbb.viewing.shown import ShownVolume
    from synbb.volumes.volume import Volume

PERCENTILES = (0.5, 99.5)
SAMPLE_VOXELS = 2**23
MESHES_AT_ONCE = 2000
"""Objects whose surfaces are shown without being asked for."""
DEFAULT_THRESHOLD = 0.5
PROBABILITY_COLOURS = ("#ff9500", "#ff3b6b", "#c77dff")
MASK_COLOURS = ("#00d8ff", "#7cff5a", "#ffe14a")
POINT_COLOURS = ("#ffe14a", "#ff7ad9", "#9dffb0")

RAW = """#uicontrol invlerp grey(range=[{low}, {high}], window=[{bottom}, {top}])
void main() {{
  emitGrayscale(grey());
}}
"""
PROBABILITIES = """#uicontrol float threshold slider(min=0, max=1, step=0.01, default={threshold:.4f})
#uicontrol float faint slider(min=0, max=1, step=0.05, default=0.3)
#uicontrol vec3 colour color(default="{colour}")
void main() {{
  float p = toNormalized(getDataValue());
  float below = faint * p / max(threshold, 0.001);
  emitRGBA(vec4(colour, p >= threshold ? 0.65 : below));
}}
"""
# Rings in sections, dots in three dimensions: what a point marks stays visible.
POINTS = """void main() {
  setPointMarkerSize(PROJECTION_VIEW ? 3.0 : 8.0);
  setPointMarkerBorderWidth(PROJECTION_VIEW ? 0.0 : 1.5);
  setPointMarkerBorderColor(defaultColor());
  setPointMarkerColor(vec4(defaultColor(), PROJECTION_VIEW ? 1.0 : 0.1));
}
"""


class Layers:
    """Makes layers, one colour after the other."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        """Begin.

        Args:
            complain: told of errors in reading, while the viewer runs.
        """
        self.complain = complain
        self.number = {Kind.PROBABILITIES: count(), Kind.OBJECTS: count()}
        self.tables = count()

    def volume(self, shown: ShownVolume) -> Any:
        """The layer of a volume.

        Raises:
            SynbbError: its grey values cannot be read, or the threshold stored with it is none.
        """
        source = self._source(shown)
        if shown.kind is Kind.RAW:
            return neuroglancer.ImageLayer(source=source, shader=raw_shader(shown), opacity=1.0)
        number = next(self.number[shown.kind])
        if shown.kind is Kind.PROBABILITIES:
            colour = PROBABILITY_COLOURS[number % len(PROBABILITY_COLOURS)]
            threshold = stored_threshold(shown.volume.attributes, shown.volume.path) or DEFAULT_THRESHOLD
            shader = PROBABILITIES.format(threshold=threshold, colour=colour)
            return neuroglancer.ImageLayer(source=source, shader=shader, opacity=1.0)
        layer = neuroglancer.SegmentationLayer(source=source, selected_alpha=0.6, segments=surfaces(shown))
        if shown.mask:
            layer.segment_default_color = MASK_COLOURS[number % len(MASK_COLOURS)]
        return layer

    def points(self, synapses: Sequence[SynapsePoint]) -> Any:
        """The layer of a table."""
        annotations = [
            neuroglancer.PointAnnotation(id=str(i), point=synapse.place, description=synapse.text)
            for i, synapse in enumerate(synapses)
        ]
        return neuroglancer.LocalAnnotationLayer(
            neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="nm", scales=(1, 1, 1)),
            annotations=annotations,
            annotation_color=POINT_COLOURS[next(self.tables) % len(POINT_COLOURS)],
            shader=POINTS,
        )

    def _source(self, shown: ShownVolume) -> Any:
        """A volume in its place: the viewer's voxel 0 begins at the corner, ours is placed by its centre."""
        size, corner = shown.volume.voxel_size, shown.volume.extent[0]
        matrix = np.eye(3, 4)
        # In voxels of the volume; its scale tells the viewer how large those are.
        matrix[:, 3] = [c / s for c, s in zip(corner, size, strict=True)]
        space = neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="nm", scales=size)
        return neuroglancer.LayerDataSource(
            url=ServedVolume(shown, self.complain),
            transform=neuroglancer.CoordinateSpaceTransform(output_dimensions=space, matrix=matrix),
        )


def raw_shader(shown: ShownVolume) -> str:
    """Black and white at the percentiles of tissue, as far as the type allows to move them.

    Raises:
        SynbbError: a chunk is truncated or unreadable.
    """
    low, high, bottom, top = grey_range(shown.volume)
    number = "{:.6g}" if shown.dtype.kind == "f" else "{:.0f}"
    named = {"low": low, "high": high, "bottom": bottom, "top": top}
    return RAW.format(**{name: number.format(value) for name, value in named.items()})


def grey_range(volume: Volume) -> tuple[float, float, float, float]:
    """Grey values for black and white, then the smallest and largest that one may choose, from a sample of voxels."""
    sample = sample_greys(volume, max_voxels=SAMPLE_VOXELS)
    low, high = sample.lowest, sample.highest
    if not np.isfinite([low, high]).all():  # nothing but NaN, or an infinity somewhere
        low, high = 0.0, 1.0
    least, most = low, high
    if sample.tissue:
        low, high = (sample.percentile(p) for p in PERCENTILES)
    if not low < high:
        low, high = low - 1, low + 1
    bottom, top = min(low, least), max(high, most)
    if volume.dtype.kind in "ui" and volume.dtype.itemsize == 1:
        bottom, top = float(np.iinfo(volume.dtype).min), float(np.iinfo(volume.dtype).max)
        low, high = max(low, bottom), min(high, top)
    return low, high, bottom, top


def surfaces(shown: ShownVolume) -> list[int]:
    """Ids whose surfaces are shown at first: all, where they are few and known without reading the volume."""
    if shown.mesh_factor() is None:
        return []
    if shown.mask:
        return [1]
    known = shown.volume.attributes.get("objects")  # `synbb segment` numbers its objects 1 to n
    return list(range(1, known + 1)) if isinstance(known, int) and known <= MESHES_AT_ONCE else []
