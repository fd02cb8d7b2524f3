import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.volumes import Box

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
