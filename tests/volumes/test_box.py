import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.volumes import Box
from synbb.volumes.box import BlockGrid, NmBox, parse_region, region_box

corners = st.tuples(*[st.integers(-20, 20)] * 3)
shapes = st.tuples(*[st.integers(0, 15)] * 3)
boxes = st.builds(lambda shape, start: Box.of_shape(shape, start), shapes, corners)


@given(boxes)
def test_text_and_back(box):
    assert Box.parse(str(box)) == box


@pytest.mark.parametrize("text", ["", "0:1,0:1", "0:1,0:1,0", "a:b,0:1,0:1", "0:1,0:1,0:1,0:1", "0.5:1,0:1,0:1"])
def test_parse_names_the_form(text):
    with pytest.raises(SynbbError, match="z0:z1,y0:y1,x0:x1"):
        Box.parse(text)


def test_reversed_box_is_refused():
    with pytest.raises(SynbbError, match="at most its stop"):
        Box((0, 5, 0), (1, 4, 1))


@given(boxes, boxes)
def test_intersection_counts_common_voxels(a, b):
    canvas = np.zeros((3, 60, 60, 60), bool)
    canvas[0][a.translate((22, 22, 22)).slices] = True
    canvas[1][b.translate((22, 22, 22)).slices] = True
    common = a.intersect(b)
    assert int((canvas[0] & canvas[1]).sum()) == (0 if common is None else common.size)
    assert a.contains(b) or b.empty or int((canvas[1] & ~canvas[0]).sum()) > 0


@given(boxes, st.tuples(*[st.integers(1, 9)] * 3), corners)
def test_blocks_tile_the_box_on_the_grid(box, shape, anchor):
    count = np.zeros((60, 60, 60), int)
    for block in box.blocks(shape, anchor):
        count[block.translate((22, 22, 22)).slices] += 1
        cells = [(a - o) // s for a, o, s in zip(block.start, anchor, shape, strict=True)]
        ends = [(b - 1 - o) // s for b, o, s in zip(block.stop, anchor, shape, strict=True)]
        assert cells == ends
    expected = np.zeros_like(count)
    expected[box.translate((22, 22, 22)).slices] = 1
    assert (count == expected).all()


@given(boxes, corners)
def test_translate_and_relative_are_inverse(box, by):
    assert box.translate(by).relative_to(by) == box
    assert box.grow((1, 2, 3)).shape == tuple(n + 2 * m for n, m in zip(box.shape, (1, 2, 3), strict=True))


def test_a_region_is_voxels_or_nm():
    assert parse_region("0:2,3:4,5:6") == Box((0, 3, 5), (2, 4, 6))
    assert parse_region(" -50:100.5, 0 : 1e3,4:8 nm") == NmBox((-50, 0, 4), (100.5, 1000, 8))
    assert region_box(None, (1, 1, 1), (0, 0, 0)) is None
    assert region_box(Box((0, 3, 5), (2, 4, 6)), (50, 4, 4), (0, 0, 0)) == Box((0, 3, 5), (2, 4, 6))
    assert str(parse_region("0:50,0:4,2:8nm")) == "z 0:50, y 0:4, x 2:8 (nm)"


@pytest.mark.parametrize("text", ["nm", "0:1,0:1nm", "a:b,0:1,0:1nm", "0:1:2,0:1,0:1 nm", "5:1,0:1,0:1nm"])
def test_a_region_in_nm_has_a_form(text):
    with pytest.raises(SynbbError, match=r"z0:z1,y0:y1,x0:x1nm|at most its stop"):
        parse_region(text)


@given(
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.tuples(*[st.floats(5, 500)] * 3),
    st.tuples(*[st.sampled_from([4.0, 4.6, 50.0])] * 3),
    st.tuples(*[st.floats(-100, 100)] * 3),
)
def test_nm_hold_the_voxels_whose_centres_lie_inside(start, length, size, offset):
    region = NmBox(start, tuple(a + n for a, n in zip(start, length, strict=True)))
    try:
        box = region.voxels(size, offset)
    except SynbbError:
        box = None
    for axis in range(3):
        centres = offset[axis] + np.arange(-400, 400) * size[axis]
        # Within a millionth of a voxel of an edge, either is right.
        inside = np.flatnonzero(
            (centres >= region.start[axis] + 1e-5 * size[axis]) & (centres < region.stop[axis] - 1e-5 * size[axis])
        )
        if box is not None and len(inside):
            assert box.start[axis] <= inside[0] - 400
            assert inside[-1] - 400 < box.stop[axis]
            assert box.stop[axis] - box.start[axis] - len(inside) <= 2


@pytest.mark.parametrize("text", ["0:1e999,0:1,0:1nm", "-1e999:0,0:1,0:1 nm"])
def test_a_region_in_nm_is_finite(text):
    with pytest.raises(SynbbError, match="a number is too large to be nm; give where the volume lies"):
        parse_region(text)


def test_nm_regions_that_touch_share_no_voxel():
    first = NmBox((0, 0, 0), (100, 40, 40)).voxels((50, 4.6, 4.6), (0, 0, 0))
    second = NmBox((100, 0, 0), (200, 40, 40)).voxels((50, 4.6, 4.6), (0, 0, 0))
    assert (first.start[0], first.stop[0], second.start[0]) == (0, 2, 2)
    assert NmBox((90, 8, 8), (110, 12, 12)).voxels((50, 4, 4), (100, 8, 8)) == Box((0, 0, 0), (1, 1, 1))
    with pytest.raises(SynbbError, match=r"z 1:2, y 0:4, x 0:4 \(nm\) holds the centre of no voxel of 50 x 4 x 4 nm"):
        NmBox((1, 0, 0), (2, 4, 4)).voxels((50, 4, 4), (0, 0, 0))


def test_boxes_are_shown_with_axes_and_unit():
    assert Box((0, 512, 0), (20, 768, 704)).named == "z 0:20, y 512:768, x 0:704 (voxels)"


def test_the_gap_between_two_boxes():
    one = Box((0, 10, 5), (4, 20, 6))
    assert [one.gap(Box((4, 25, 0), (9, 30, 9)), axis) for axis in range(3)] == [0, 5, 0]
    assert Box((4, 25, 0), (9, 30, 9)).gap(one, 1) == 5


@given(
    st.tuples(*[st.tuples(st.integers(0, 9), st.integers(1, 9))] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.integers(-3, 12)] * 3),
)
def test_blocks_of_a_grid_have_numbers(span, shape, anchor):
    box = Box(tuple(a for a, _ in span), tuple(a + n for a, n in span))
    grid = BlockGrid(box, shape, anchor)
    blocks = list(box.blocks(shape, anchor))
    assert [grid[number] for number in range(len(grid))] == blocks
    assert [grid.number(block) for block in blocks] == list(range(len(grid)))
    for number in (-1, len(grid)):
        with pytest.raises(IndexError):
            grid[number]
