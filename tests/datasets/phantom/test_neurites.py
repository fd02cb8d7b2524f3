from __future__ import annotations

import numpy as np
import pytest

from synbb.datasets.phantom.neurites import NeuriteMap


@pytest.fixture(scope="module")
def tissue() -> NeuriteMap:
    return NeuriteMap(0, np.full(3, -300.0), np.array([700.0, 2300.0, 2300.0]))


def test_a_window_is_part_of_the_section(tissue: NeuriteMap) -> None:
    group, depth = tissue.section(120.0, (0, 200), (10, 260), (8.0, 8.0))
    part_group, part_depth = tissue.section(120.0, (33, 90), (77, 201), (8.0, 8.0))
    assert np.array_equal(part_group, group[33:90, 67:191])
    assert np.array_equal(part_depth, depth[33:90, 67:191])


def test_the_map_does_not_depend_on_its_region(tissue: NeuriteMap) -> None:
    other = NeuriteMap(0, np.array([0.0, 400.0, 500.0]), np.array([300.0, 1700.0, 1500.0]))
    group, depth = tissue.section(120.0, (60, 160), (70, 170), (8.0, 8.0))
    other_group, other_depth = other.section(120.0, (60, 160), (70, 170), (8.0, 8.0))
    assert np.array_equal(tissue.ids[group], other.ids[other_group])
    assert np.array_equal(depth, other_depth)


@pytest.mark.parametrize("pixel", [4.6, 8.0, 20.0])
def test_grid_and_points_agree_at_any_pixel_size(tissue: NeuriteMap, pixel: float) -> None:
    size = int(1600 / pixel)
    group, depth = tissue.section(200.0, (0, size), (0, size), (pixel, pixel))
    y, x = (a.ravel() for a in np.meshgrid(np.arange(0, size, 5), np.arange(0, size, 5), indexing="ij"))
    points = np.stack([np.full(len(y), 200.0), y * pixel, x * pixel], axis=-1)
    found = tissue.locate(points)
    assert (found.neurite == group[y, x]).mean() > 0.98
    near = (found.neurite == group[y, x]) & (found.depth < 60)
    assert np.median(np.abs(found.depth - depth[y, x])[near]) < 2.0


def test_neurites_have_many_sizes_and_depth_vanishes_between_them(tissue: NeuriteMap) -> None:
    group, depth = tissue.section(200.0, (0, 250), (0, 250), (8.0, 8.0))
    sizes = np.bincount(group.ravel())
    sizes = sizes[sizes > 30]
    assert len(sizes) > 25
    assert sizes.max() > 15 * np.median(sizes)
    between = group[:, 1:] != group[:, :-1]
    assert np.median(np.minimum(depth[:, 1:], depth[:, :-1])[between]) < 6.0
