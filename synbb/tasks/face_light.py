"""Light on a face: what takes uneven light out of an image, and what puts a shadow into one."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import expit
from skimage.exposure import equalize_adapthist

from synbb.datasets.face_folders import Grey

Evening = Literal["none", "clahe", "tan_triggs"]

GAMMA, INNER, OUTER, ALPHA, TAU = 0.2, 1.0, 2.0, 0.1, 10.0  # of Tan and Triggs
NOTHING = 1e-9  # of 1: the rounding of a flat image, which would be scaled up to contrast

DEPTH = (0.5, 0.98)
"""Share of the light that a shadow takes."""
SOFT = (0.02, 0.3)
"""Width of a shadow's edge, in halves of the face: from light of one lamp to light that fades around a cheek."""
WAVES = (8, 0.3)
"""A shadow's edge is bent over an eighth of the face, by some 0.3 of its half."""


def evened(grey: Grey, how: Evening) -> Grey:
    """Grey values (y, x), uint8, with less of what uneven light does to them.

    ``clahe`` is adaptive histogram equalisation (Zuiderveld 1994). ``tan_triggs`` is the chain of Tan and Triggs (IEEE
    Trans. Image Process. 19, 2010) with their constants: gamma 0.2, difference of Gaussians of 1 and 2 pixels, contrast
    brought to one scale and its tails compressed; grey 128 then is no contrast.
    """
    if how == "none":
        return grey
    if how == "clahe":
        return np.asarray(np.rint(255 * equalize_adapthist(grey)), np.uint8)
    curved = (grey / 255.0) ** GAMMA
    band = gaussian_filter(curved, INNER) - gaussian_filter(curved, OUTER)
    if np.abs(band).max() < NOTHING:
        return np.full(grey.shape, 128, np.uint8)
    band = band / max(float(np.mean(np.abs(band) ** ALPHA)) ** (1 / ALPHA), 1e-9)
    band = band / max(float(np.mean(np.minimum(TAU, np.abs(band)) ** ALPHA)) ** (1 / ALPHA), 1e-9)
    return np.asarray(np.rint(127.5 + 127.5 * np.tanh(band / TAU)), np.uint8)


def shadowed(grey: Grey, seed: int) -> Grey:
    """Grey values (y, x), uint8, with a shadow over one side, a function of ``seed``.

    The side, the depth of the shadow, and where its edge runs, how soft and how bent it is, are drawn at random. Light
    from the side does so to a face; evening of light leaves the shadow's edge, as it leaves that of a real one.
    """
    rng = np.random.default_rng(seed)
    height, width = grey.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    angle = rng.uniform(0, 2 * np.pi)
    parts, bend = WAVES
    waves = gaussian_filter(rng.standard_normal(grey.shape), min(grey.shape) / parts)
    across = x * np.cos(angle) + y * np.sin(angle) + bend * waves / max(float(waves.std()), NOTHING)
    soft = np.exp(rng.uniform(*np.log(SOFT)))
    dark = rng.uniform(*DEPTH) * expit((across - rng.uniform(-0.6, 0.6)) / soft)
    return np.asarray(np.rint(grey * (1 - dark)), np.uint8)
