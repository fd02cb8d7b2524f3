"""What a person sees: volumes of different voxel sizes and regions, each in its place and colour."""

import numpy as np
import pytest
from browser import browser, extent, picture
from tiny import write_volume

pytest.importorskip("neuroglancer", reason="the extra 'view' (neuroglancer) is not installed")

from synbb.viewing import open_session
from synbb.volumes import open_volume
from synbb.volumes.convert import convert

FINE, COARSE = (40.0, 8.0, 8.0), (40.0, 16.0, 16.0)
ZOOM = 4  # pixels to a fine voxel
SIZE = (640, 480)


@pytest.fixture
def volumes(tmp_path):
    """A bright box in raw, a probable box, a labelled box: apart from each other, at three places of the world."""
    rng = np.random.default_rng(0)
    raw = rng.integers(30, 60, (12, 96, 128), dtype=np.uint8)
    raw[2:10, 20:28, 30:50] = 250
    write_volume(tmp_path / "grey.zarr", raw, voxel_size=FINE, offset=(400, 160, 80))
    probable = np.zeros((6, 40, 60), np.uint8)
    probable[:, 10:20, 20:30] = 230
    write_volume(
        tmp_path / "p.zarr", probable, voxel_size=FINE, offset=(480, 480, 400),
        attributes={"kind": "probabilities", "threshold": 0.6, "complete": False},
    )  # fmt: skip
    labels = np.zeros((12, 48, 64), np.uint32)
    labels[:, 36:40, 10:14] = 1
    # Of the same extent as raw: its first centre lies half a coarse voxel from the common corner.
    write_volume(
        tmp_path / "found.zarr", labels, voxel_size=COARSE, offset=(400, 164, 84),
        attributes={"kind": "objects", "objects": 1},
    )  # fmt: skip
    return [str(tmp_path / name) for name in ("found.zarr", "p.zarr", "grey.zarr")]


def seen(box, centre):
    """Rows and columns of SIZE that a box of the world covers, given y0, y1, x0, x1 and the centre in nm."""
    y0, y1, x0, x1 = box
    px = FINE[1] / ZOOM
    middle = (SIZE[1] / 2, SIZE[1] / 2, SIZE[0] / 2, SIZE[0] / 2)
    of = (centre[1], centre[1], centre[2], centre[2])
    return [m + (edge - c) / px for m, edge, c in zip(middle, (y0, y1, x0, x1), of, strict=True)]


def test_volumes_overlay_where_they_lie_in_the_world(volumes):
    centre = open_volume(volumes[2]).centre_of((6, 48, 64))
    with open_session(volumes, position=centre) as session, browser(session.address):
        assert [(each.name, each.kind) for each in session.shown] == [
            ("grey", "raw"), ("p", "probabilities"), ("found", "objects"),
        ]  # fmt: skip
        with session.viewer.txn() as state:
            state.layout = "xy"
            state.cross_section_scale = 1 / ZOOM
            state.show_axis_lines = state.show_scale_bar = state.show_default_annotations = False
        image = picture(session.viewer, SIZE).astype(int)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    grey = (abs(red - green) < 10) & (abs(green - blue) < 10)
    bright, coloured = grey & (red > 200), ~grey & (abs(image - image.mean(axis=2, keepdims=True)).max(axis=2) > 40)
    orange = coloured & (red > 150) & (blue < 60)
    # Bright box: rows 20 to 28, columns 30 to 50 of raw, whose corner lies at y 156, x 76 nm.
    assert extent(bright) == pytest.approx(seen((316, 380, 316, 476), centre), abs=1)
    # Probable box: rows 10 to 20, columns 20 to 30, corner at y 476, x 396 nm.
    assert extent(orange) == pytest.approx(seen((556, 636, 556, 636), centre), abs=1)
    # Object: rows 36 to 40, columns 10 to 14 of 16 nm, corner at y 156, x 76 nm.
    object_of = np.zeros_like(coloured)
    rows = slice(int(seen((716, 0, 0, 0), centre)[0]), None)
    object_of[rows] = coloured[rows]
    assert extent(object_of) == pytest.approx(seen((732, 796, 236, 300), centre), abs=1)
    assert coloured.sum() == orange.sum() + object_of.sum()


def test_coarse_levels_are_read_where_they_are_stored(volumes, tmp_path):
    convert(volumes[2], tmp_path / "pyramid.zarr", pyramid=True)
    with open_session([str(tmp_path / "pyramid.zarr")]) as session, browser(session.address):
        shown = session.shown[0]
        assert list(shown.levels) == [(1, 1, 1), (1, 2, 2)]
        read = []
        values = shown.values
        shown.values = lambda block: (read.append(block.shape), values(block))[1]
        with session.viewer.txn() as state:
            state.layout = "xy"
            state.cross_section_scale = 4
        picture(session.viewer, SIZE)
    assert read
    assert all(max(shape[1:]) <= 64 for shape in read)  # level 1 is 48 x 64
