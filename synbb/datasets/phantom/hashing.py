"""Random numbers that are a function of (seed, stream, integer position) and of nothing else.

A generator with a state would make a voxel depend on the order in which blocks are written. Here every draw is a hash
of where it is asked for, so any plan of blocks gives the same volume.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_MASK = (1 << 64) - 1
# Odd steps of the Weyl sequence along each coordinate; the first is that of SplitMix64.
_STEPS = (
    0x9E3779B97F4A7C15,
    0xD1B54A32D192ED03,
    0x8CB92BA72F3D8DD7,
    0xABC98388FB8FAC03,
    0xDB4F0B9175AE2165,
    0xBBE0563303A4615F,
)


def _mix_int(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on a Python integer."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The same on an array (which wraps silently, as wanted)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@lru_cache(maxsize=4096)
def _state(seed: int, stream: str) -> int:
    state = _mix_int(seed + _STEPS[0])
    for letter in stream.encode():
        state = _mix_int(state + letter + _STEPS[0])
    return state


def hash_at(seed: int, stream: str, *coordinates: ArrayLike) -> NDArray[np.uint64]:
    """64 hashed bits at each position.

    Args:
        seed: of the volume.
        stream: names what is drawn, so that two quantities at one position are independent.
        coordinates: up to six integers, negative ones too; broadcast against each other.

    Returns:
        An array of the broadcast shape (at least one axis).
    """
    place: NDArray[np.uint64] = np.array([_state(seed, stream)], dtype=np.uint64)
    for coordinate, step in zip(coordinates, _STEPS[: len(coordinates)], strict=True):
        place = place + np.atleast_1d(np.asarray(coordinate, dtype=np.int64)).view(np.uint64) * np.uint64(step)
    return _mix(place)


def uniform_at(seed: int, stream: str, *coordinates: ArrayLike) -> NDArray[np.float64]:
    """One number in [0, 1) at each position; see :func:`hash_at`."""
    result: NDArray[np.float64] = (hash_at(seed, stream, *coordinates) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return result


def normal_scalar(seed: int, stream: str, *coordinates: int) -> float:
    """One number of mean 0, variance 1 (the sum of twelve uniforms: bounded by 6)."""
    draws = uniform_at(seed, stream, *[np.full(12, c) for c in coordinates], np.arange(12))
    return float(draws.sum() - 6.0)


def noise_plane(seed: int, stream: str, z: int, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float32]:
    """White noise of mean 0 and variance 1 at the voxels of one section, fast.

    The sum of four hashed bytes a voxel (32-bit finaliser "lowbias32" of C. Wellons on a hashed row key), near enough
    to a normal distribution for the grain of an image.

    Returns:
        float32 array (rows, columns).
    """
    row_keys = hash_at(seed, stream, z, rows).astype(np.uint32)[:, None]
    column_keys = hash_at(seed, stream, columns).astype(np.uint32)[None, :]
    bits = row_keys ^ column_keys
    bits ^= bits >> np.uint32(16)
    bits *= np.uint32(0x7FEB352D)
    bits ^= bits >> np.uint32(15)
    bits *= np.uint32(0x846CA68B)
    bits ^= bits >> np.uint32(16)
    pairs = (bits & np.uint32(0x00FF00FF)) + ((bits >> np.uint32(8)) & np.uint32(0x00FF00FF))
    total = (pairs & np.uint32(0xFFFF)) + (pairs >> np.uint32(16))
    # Four bytes: mean 4 * 127.5, variance 4 * (256^2 - 1) / 12.
    result: NDArray[np.float32] = (total.astype(np.float32) - np.float32(510.0)) * np.float32(1.0 / 147.80)
    return result
