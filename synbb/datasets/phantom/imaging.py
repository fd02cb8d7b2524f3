"""What the microscope and the knife add to the tissue: jitter, contrast, blur, grain, lost and damaged sections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from synbb.datasets.phantom.hashing import noise_plane, normal_scalar, uniform_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from synbb.datasets.phantom.spec import PhantomSpec

BLUR_PAD = 1  # pixels of tissue that the blur needs around a window
_TEXTURE = 512  # pixels along the periodic texture tile
_BLANK = 0  # grey value of a missing section


@dataclass(frozen=True)
class SectionState:
    """How one section came out: shift of the tissue in pixels, linear grey response, defects."""

    shift: tuple[int, int]
    gain: float
    offset: float
    missing: bool
    folded: bool
    stained: bool


def section_state(spec: PhantomSpec, z: int) -> SectionState:
    """The state of section ``z``, a function of (seed, z)."""
    shift = [
        round(spec.jitter * normal_scalar(spec.seed, f"shift{axis}", z) / spec.voxel_size[axis]) for axis in (1, 2)
    ]
    missing, folded, stained = (
        float(uniform_at(spec.seed, kind, z)[0]) < rate
        for kind, rate in (("missing", spec.missing_rate), ("fold", spec.fold_rate), ("stain", spec.stain_rate))
    )
    return SectionState(
        (shift[0], shift[1]),
        1.0 + spec.contrast_jitter * normal_scalar(spec.seed, "gain", z),
        100.0 * spec.contrast_jitter * normal_scalar(spec.seed, "offset", z),
        missing,
        folded,
        stained,
    )


@lru_cache(maxsize=4)
def _texture_tile(seed: int, pixel: tuple[float, float]) -> NDArray[np.float32]:
    """Grain of the cytoplasm, grey values: fine dark speckle on slow shading. Periodic."""
    index = np.arange(_TEXTURE)
    white = [noise_plane(seed, "texture", z, index, index) for z in (0, 1)]
    fine, slow = (
        ndimage.gaussian_filter(noise, [max(scale / p, 0.6) for p in pixel], mode="wrap")
        for noise, scale in zip(white, (11.0, 70.0), strict=True)
    )
    fine, slow = fine / fine.std(), slow / slow.std()
    result: NDArray[np.float32] = (11.0 * slow + 8.0 * fine - 28.0 * np.maximum(-fine - 0.9, 0)).astype(np.float32)
    return result


def texture(spec: PhantomSpec, z: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Texture of one section at tissue pixels: float32 (rows, columns)."""
    tile = _texture_tile(spec.seed, spec.voxel_size[1:])
    dy, dx = (int(uniform_at(spec.seed, f"texture{axis}", z)[0] * _TEXTURE) for axis in "yx")
    return tile[np.ix_((rows + dy) % _TEXTURE, (columns + dx) % _TEXTURE)]


def blur(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Binomial blur (1 2 1)/4 along both axes; the result lacks one pixel at each side."""
    quarter, half = np.float32(0.25), np.float32(0.5)
    rows = (image[:-2] + image[2:]) * quarter + image[1:-1] * half
    return ((rows[:, :-2] + rows[:, 2:]) * quarter + rows[:, 1:-1] * half).astype(np.float32, copy=False)


def record(
    spec: PhantomSpec,
    z: int,
    tissue: NDArray[np.float32],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """The image of a section: ``tissue`` is padded by BLUR_PAD around the image's ``rows`` and ``columns``."""
    state = section_state(spec, z)
    if state.missing:
        return np.full((len(rows), len(columns)), _BLANK, dtype=np.uint8)
    image = blur(tissue)
    if state.folded:
        image *= _fold(spec, z, rows, columns)
    if state.stained:
        image *= _stain(spec, z, rows, columns)
    image = np.float32(128.0) + (image - np.float32(128.0)) * np.float32(state.gain) + np.float32(state.offset)
    if spec.noise:
        # Shot noise: the variance grows with the signal.
        strength = np.float32(1.35 * spec.noise) * np.sqrt(np.maximum(image, np.float32(12.0)))
        image += strength * noise_plane(spec.seed, "grain", z, rows, columns)
    recorded: NDArray[np.uint8] = np.clip(image + np.float32(0.5), 0, 255).astype(np.uint8)
    return recorded


def _fold(spec: PhantomSpec, z: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Transmission of a fold: dark parallel bands 3 micrometres apart, slanted, about 90 nm wide."""
    y, x = rows[:, None] * spec.voxel_size[1], columns[None, :] * spec.voxel_size[2]
    slope = 2.0 * uniform_at(spec.seed, "fold-slope", z)[0] - 1.0
    phase = uniform_at(spec.seed, "fold-phase", z)[0]
    across = (y + slope * x) / 3000.0 + phase
    distance = np.abs(across - np.floor(across) - 0.5) * 3000.0
    transmission: NDArray[np.float32] = (1.0 - 0.7 * np.clip((70.0 - distance) / 40.0, 0.0, 1.0)).astype(np.float32)
    return transmission


def _stain(spec: PhantomSpec, z: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Transmission of stain precipitate: one black grain in each square of 1.5 micrometres."""
    side = 1500.0
    y, x = rows[:, None] * spec.voxel_size[1], columns[None, :] * spec.voxel_size[2]
    cell_y, cell_x = np.floor(y / side).astype(np.int64), np.floor(x / side).astype(np.int64)
    centre_y, centre_x, size = (
        uniform_at(spec.seed, name, np.full((1, 1), z), cell_y, cell_x) for name in ("stain-y", "stain-x", "stain-size")
    )
    radius = 20.0 + 60.0 * size**2
    # The grain keeps clear of its square's edges, so that it is never cut.
    dy = y - (cell_y + 0.1 + 0.8 * centre_y) * side
    dx = x - (cell_x + 0.1 + 0.8 * centre_x) * side
    distance = np.sqrt(dy * dy + dx * dx)
    transmission: NDArray[np.float32] = np.clip((distance - radius) / 10.0, 0.08, 1.0).astype(np.float32)
    return transmission
