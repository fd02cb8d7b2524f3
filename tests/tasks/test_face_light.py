"""Light on faces: what evening takes out of an image and leaves in it, and what a shadow does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from synbb.tasks.face_light import DEPTH, evened, shadowed


def test_clahe_spreads_grey_values_of_a_dark_corner() -> None:
    grey = np.random.default_rng(0).integers(0, 30, (64, 64), dtype=np.uint8)
    grey[32:] += 200
    assert evened(grey, "clahe").astype(float)[:24].std() > 2 * grey[:24].astype(float).std()
    assert (evened(grey, "none") == grey).all()


def test_tan_triggs_takes_a_gradient_of_light_back() -> None:
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(64, 64)), 1.5)
    texture = 0.5 + 0.2 * texture / texture.std()
    light = np.linspace(0.15, 1.0, 64)[None]
    even, uneven = (np.clip(255 * texture * each, 1, 255).astype(np.uint8) for each in (0.6, light))

    def alike(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])

    assert alike(even, uneven) < 0.7
    assert alike(evened(even, "tan_triggs"), evened(uneven, "tan_triggs")) > 0.9
    assert (evened(np.full((8, 8), 9, np.uint8), "tan_triggs") == 128).all(), "no contrast is the middle"


@given(seed=st.integers(0, 2**31 - 1))
def test_a_shadow_darkens_and_is_a_function_of_its_seed(seed: int) -> None:
    light = np.full((48, 42), 200, np.uint8)
    dark = shadowed(light, seed)
    assert dark.dtype == np.uint8
    assert dark.shape == light.shape
    assert (dark == shadowed(light, seed)).all()
    assert (dark <= light).all()
    assert dark.min() >= np.floor(200 * (1 - DEPTH[1])), "nothing is darker than the deepest shadow"


def test_shadows_differ_in_side_and_depth() -> None:
    light = np.full((48, 42), 200, np.uint8)
    shadows = np.stack([shadowed(light, seed) for seed in range(64)]).astype(float)
    left, right = shadows[:, :, :21].mean(axis=(1, 2)), shadows[:, :, 21:].mean(axis=(1, 2))
    assert 10 < (left < right).sum() < 54
    assert shadows.min(axis=(1, 2)).min() < 20
    assert shadows.min(axis=(1, 2)).max() > 60
    # On one side: in most of them the centre of what is lost is far from that of what is kept.
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]

    def centre(weight: np.ndarray) -> np.ndarray:
        return np.array([(axis * weight).sum() / weight.sum() for axis in (y, x)])

    apart = [np.abs(centre(200 - shadow) - centre(shadow)).max() for shadow in shadows]
    assert np.median(apart) > 8, "pixels"
    assert evened(shadowed(light, 0), "tan_triggs").std() > 0, "its edge is left"
