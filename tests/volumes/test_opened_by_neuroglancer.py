"""What is written is opened by neuroglancer's own readers, and every level lies where it should."""

import numpy as np
import pytest
from browser import browser, extent, picture
from store_server import StoreServer
from tiny import write_volume

from synbb.volumes.convert import convert

neuroglancer = pytest.importorskip("neuroglancer", reason="the extra 'view' (neuroglancer) is not installed")
pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")

VOXEL = np.array((40.0, 8.0, 8.0))
OFFSET = (1100.0, 412.0, 228.0)  # the corner lies at 1080, 408, 224 nm: 27, 51, 28 voxels from the world's origin
MARKER = np.array((21, 87, 106))
SHAPE = (40, 200, 260)
FACTORS = ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8))
ZOOM = 4  # pixels to a voxel of 8 nm
SIZE = (480, 400)
SHADER = "void main() { emitGrayscale(toNormalized(getDataValue()) > 0.0 ? 1.0 : 0.0); }"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One bright voxel, with a pyramid, in each format, behind a web server."""
    folder = tmp_path_factory.mktemp("written")
    array = np.zeros(SHAPE, np.uint16)
    array[tuple(MARKER)] = 65535
    write_volume(folder / "in.zarr", array, voxel_size=tuple(VOXEL), offset=OFFSET)
    convert(folder / "in.zarr", folder / "v5.zarr", pyramid=True)
    convert(folder / "in.zarr", folder / "v4.zarr", pyramid=True, ome_version="0.4")
    convert(folder / "in.zarr", f"precomputed://{folder / 'pre'}", pyramid=True)
    server = StoreServer(folder)
    yield server
    server.close()


def covered(kind, factor):
    """Corners in nm of the voxel of a level that holds the marker.

    Levels of OME-Zarr share the volume's corner, those of precomputed lie on a grid from the world's origin.
    """
    corner = np.array(OFFSET) - VOXEL / 2
    first = MARKER if kind != "pre" else MARKER + np.rint(corner / VOXEL).astype(int)
    origin = corner if kind != "pre" else np.zeros(3)
    begin = origin + first // factor * factor * VOXEL
    return begin, begin + np.array(factor) * VOXEL


@pytest.mark.parametrize("kind", ["v5", "v4", "pre"])
def test_the_marker_stays_where_it_is_at_every_level(kind, served):
    source = {
        "v5": f"{served.address}/v5.zarr/|zarr3:",
        "v4": f"{served.address}/v4.zarr/|zarr2:",
        "pre": f"{served.address}/pre/|neuroglancer-precomputed:",
    }[kind]
    centre = np.array(OFFSET) + MARKER * VOXEL
    viewer = neuroglancer.Viewer(allow_credentials=False)
    try:
        with viewer.txn() as state:
            state.dimensions = neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="nm", scales=VOXEL)
            state.display_dimensions = ["x", "y", "z"]
            state.position = centre / VOXEL
            state.cross_section_scale = 1 / ZOOM
            state.show_axis_lines = state.show_scale_bar = state.show_default_annotations = False
            state.cross_section_background_color = "#000000"
        with browser(viewer.get_viewer_url()):
            for factor in FACTORS:
                for layout, axes in (("xy", (1, 2)), ("xz", (0, 2))):
                    with viewer.txn() as state:
                        state.layout = layout
                        layer = neuroglancer.ImageLayer(source=source, shader=SHADER, opacity=1.0)
                        layer.cross_section_render_scale = ZOOM * factor[2]
                        state.layers["marker"] = layer
                    bright = picture(viewer, SIZE)[..., 0] > 128
                    nm = [edge[axis] - centre[axis] for axis in axes for edge in covered(kind, factor)]
                    middle = (SIZE[1] / 2, SIZE[1] / 2, SIZE[0] / 2, SIZE[0] / 2)
                    expected = [m + shift * ZOOM / VOXEL.min() for m, shift in zip(middle, nm, strict=True)]
                    assert extent(bright) == pytest.approx(expected, abs=1), f"{layout} at {factor}"
    finally:
        neuroglancer.stop()
