from __future__ import annotations

import numpy as np
import pytest

from synbb.evaluation.overlay import (
    ANNOTATION,
    FALSE,
    FOUND,
    MISSED,
    choose_views,
    draw_section,
    draw_views,
    length_text,
    nice_length,
    outlines,
    stretch,
)
from synbb.volumes import Box


def disc(shape, centre, radius):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def test_pieces_are_sorted_by_what_they_touch():
    shape = (60, 90)
    truth = disc(shape, (15, 15), 8) | disc(shape, (45, 45), 6)
    predicted = disc(shape, (15, 20), 8) | disc(shape, (30, 80), 5)
    pieces = outlines(truth, predicted)
    np.testing.assert_array_equal(pieces["found"], disc(shape, (15, 20), 8))
    np.testing.assert_array_equal(pieces["annotation"], disc(shape, (15, 15), 8))
    np.testing.assert_array_equal(pieces["missed"], disc(shape, (45, 45), 6))
    np.testing.assert_array_equal(pieces["false"], disc(shape, (30, 80), 5))


def colours_of(picture):
    packed = np.unique(np.asarray(picture).reshape(-1, 3).astype(int) @ [65536, 256, 1])
    return {(int(c) >> 16, (int(c) >> 8) & 255, int(c) & 255) for c in packed}


@pytest.mark.parametrize("shape", [(60, 90), (40, 200), (200, 40), (1, 1), (700, 700)])
def test_a_picture_has_each_colour_only_where_there_is_something(shape):
    raw = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    nothing = np.zeros(shape, bool)
    blank = draw_section(raw, nothing, nothing, (4.0, 4.0), "section 3")
    assert blank.mode == "RGB"
    assert blank.width <= 1130
    if min(shape) < 30:
        return
    # the legend holds every colour, so look above it
    some = disc(shape, (shape[0] // 2, shape[1] // 2), 8)
    for truth, predicted, colour in ((some, nothing, MISSED), (nothing, some, FALSE), (some, some, FOUND)):
        drawn = draw_section(raw, truth, predicted, (4.0, 4.0)).crop((0, 0, blank.width, blank.height - 100))
        assert colour in colours_of(drawn)
        assert not {FOUND, MISSED, FALSE} - {colour} & colours_of(drawn)


def test_constant_and_wide_grey_values_are_drawn():
    assert stretch(np.full((5, 5), 77, np.uint16)).max() == 0
    wide = stretch(np.arange(60000, dtype=np.uint16).reshape(200, 300))
    assert (wide.min(), wide.max()) == (0, 255)


def test_what_is_no_number_is_black_and_the_rest_is_drawn():
    raw = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20)
    drawn = stretch(raw)
    raw[0, :3] = np.nan, np.inf, -np.inf
    assert (stretch(raw)[0, :3] == 0).all()
    assert np.abs(stretch(raw)[1:].astype(int) - drawn[1:]).max() < 8
    assert (stretch(np.full((2, 2), np.nan)) == 0).all()


def test_pixels_that_are_not_square_are_drawn_in_proportion():
    raw = np.zeros((50, 100), np.uint8)
    nothing = np.zeros((50, 100), bool)
    panel = draw_section(raw, nothing, nothing, (8.0, 4.0))  # 400 nm high and wide: panels beside each other
    assert panel.width == pytest.approx(1120, abs=2)
    assert panel.height == pytest.approx(555, abs=40)


@pytest.mark.parametrize(
    ("span", "length", "text"),
    [(999, 500, "500 nm"), (1000, 1000, "1 µm"), (73, 50, "50 nm"), (2600, 2000, "2 µm"), (1.2, 1, "1 nm")],
)
def test_scale_bars_are_round(span, length, text):
    assert nice_length(span) == pytest.approx(length)
    assert length_text(nice_length(span)) == text


def test_views_show_the_sections_and_places_with_most_truth(store):
    truth = np.zeros((12, 96, 160), np.uint8)
    truth[1, 70:80, 130:140] = 1
    truth[6, 5:25, 5:25] = 1
    truth[7, 5:10, 5:10] = 1
    volume = store("t.zarr", truth)
    views = choose_views(volume, volume.box, count=3, size=64)
    assert [view.start[0] for view in views] == [1, 6]  # nothing in the last third
    for view, (y, x) in zip(views, [(75, 135), (15, 15)], strict=True):
        assert view.shape == (1, 64, 64)
        assert volume.box.contains(view)
        assert view.contains(Box((view.start[0], y - 5, x - 5), (view.stop[0], y + 5, x + 5)))
    within = choose_views(volume, Box((0, 0, 0), (5, 96, 160)), count=1, size=1000)
    assert within == [Box((1, 0, 0), (2, 96, 160))]


def test_without_truth_the_middle_is_shown(store):
    volume = store("t.zarr", np.zeros((5, 40, 40), np.uint8))
    assert choose_views(volume, volume.box, size=20) == [Box((2, 10, 10), (3, 30, 30))]


def test_views_are_cut_to_what_raw_covers(store):
    truth = np.zeros((2, 40, 40), np.uint8)
    truth[:, 10:20, 10:20] = 1
    t = store("t.zarr", truth)
    raw = store("r.zarr", np.random.default_rng(0).integers(0, 255, (1, 30, 60), np.uint8))
    views = [Box((0, 0, 0), (1, 40, 40)), Box((1, 0, 0), (2, 40, 40))]
    pictures = draw_views(views, raw, t, lambda box: np.zeros(box.shape, bool), (0, 0, 5))
    assert [name for name, _ in pictures] == ["section_0000"]
    assert MISSED in colours_of(pictures[0][1])
    assert ANNOTATION in colours_of(pictures[0][1])
