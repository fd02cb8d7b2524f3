"""Where training patches lie: class-aware, and a function of (seed, step, item) alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synbb.errors import SynbbError
from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from numpy.typing import NDArray

STREAM_TRAINING, STREAM_CALIBRATION = 0, 1


@dataclass(frozen=True)
class SampledVolume:
    """What a sampler must know of one annotated volume, in working voxels.

    Attributes:
        name: for messages.
        regions: annotated boxes; a patch lies wholly inside one of them.
        weight: how often it is drawn, relative to the others.
        positives: coordinates of foreground voxels inside the regions, shape (n, 3), possibly none.
        region_of: region of each positive, shape (n,).
    """

    name: str
    regions: tuple[Box, ...]
    weight: float
    positives: NDArray[np.int32]
    region_of: NDArray[np.int32]


@dataclass(frozen=True)
class Patch:
    """One patch: which volume, where, and the seed of its augmentation."""

    volume: int
    box: Box
    seed: int


class PatchSampler:
    """Draws patches from annotated regions.

    Args:
        volumes: the annotated volumes.
        patch: shape z, y, x in working voxels.
        positive_fraction: share of patches drawn around a foreground voxel; the rest is uniform over the regions.
        seed: of the run.

    Raises:
        SynbbError: a patch does not fit a region, or patches with foreground are asked for and there is none.
    """

    def __init__(self, volumes: list[SampledVolume], patch: Triple, *, positive_fraction: float, seed: int) -> None:
        for volume in volumes:
            for region in volume.regions:
                if any(p > s for p, s in zip(patch, region.shape, strict=True)):
                    raise SynbbError(
                        f"data.patch {list(patch)} is larger than region {region} of data.volumes {volume.name!r}, "
                        f"which has {list(region.shape)} (both in working voxels, z y x): "
                        "choose a smaller patch or a larger region"
                    )
        self._volumes, self._patch, self._seed = volumes, patch, seed
        self._positive_fraction = positive_fraction
        with_positives = np.array([v.weight if len(v.positives) else 0.0 for v in volumes])
        if positive_fraction > 0 and with_positives.sum() == 0:
            raise SynbbError(
                "the whole training set holds no foreground voxel: check data.volumes[].labels and regions, "
                "or set data.positive_fraction=0 to train on background alone"
            )
        self._positive_shares = with_positives / max(with_positives.sum(), 1e-300)
        # Uniform patches are uniform over voxels, volumes weighed: weight times the room for a patch's corner.
        self._rooms = [np.array([_room(region, patch) for region in v.regions], dtype=float) for v in volumes]
        shares = np.array([v.weight * rooms.sum() for v, rooms in zip(volumes, self._rooms, strict=True)])
        self._uniform_shares = shares / shares.sum()

    def draw(self, step: int, item: int) -> Patch:
        """The patch of item ``item`` of the batch of optimiser step ``step``."""
        rng = np.random.default_rng([self._seed, STREAM_TRAINING, step, item])
        if rng.random() < self._positive_fraction:
            return self._around_positive(rng)
        return self._uniform(rng)

    def draw_uniform(self, item: int) -> Patch:
        """Sample number ``item`` of a sequence of uniform patches that is the same at every step."""
        return self._uniform(np.random.default_rng([self._seed, STREAM_CALIBRATION, item]))

    def _around_positive(self, rng: np.random.Generator) -> Patch:
        number = int(rng.choice(len(self._volumes), p=self._positive_shares))
        volume = self._volumes[number]
        chosen = int(rng.integers(len(volume.positives)))
        region = volume.regions[volume.region_of[chosen]]
        start = []
        for axis in range(3):
            at, size = int(volume.positives[chosen, axis]), self._patch[axis]
            low = max(region.start[axis], at - size + 1)
            high = min(region.stop[axis] - size, at)
            start.append(int(rng.integers(low, high + 1)))
        return Patch(number, Box.of_shape(self._patch, start), int(rng.integers(2**31)))

    def _uniform(self, rng: np.random.Generator) -> Patch:
        number = int(rng.choice(len(self._volumes), p=self._uniform_shares))
        rooms = self._rooms[number]
        region = self._volumes[number].regions[int(rng.choice(len(rooms), p=rooms / rooms.sum()))]
        start = [
            int(rng.integers(a, b - size + 1))
            for a, b, size in zip(region.start, region.stop, self._patch, strict=True)
        ]
        return Patch(number, Box.of_shape(self._patch, triple(start)), int(rng.integers(2**31)))


def fitting_sampler(
    regions: list[tuple[Box, ...]], patch: Triple, multiples: Triple, *, seed: int
) -> PatchSampler | None:
    """A sampler of uniform patches from regions that need not hold a whole training patch.

    The patch is cut to the largest region, to multiples of the network's stride; regions that do not hold it are left
    out.

    Args:
        regions: boxes of each volume, working voxels.
        patch: shape of a training patch.
        multiples: the network's stride.
        seed: of the patches' places.

    Returns:
        None when no region holds as much as one stride.
    """
    largest = max((region for each in regions for region in each), key=lambda region: region.size, default=None)
    if largest is None:
        return None
    sizes = [min(p, s) // m * m for p, s, m in zip(patch, largest.shape, multiples, strict=True)]
    if not all(sizes):
        return None
    fitting = [
        tuple(region for region in each if all(s <= r for s, r in zip(sizes, region.shape, strict=True)))
        for each in regions
    ]
    none = np.zeros((0, 3), dtype=np.int32), np.zeros(0, dtype=np.int32)
    volumes = [SampledVolume(str(number), each, 1.0, *none) for number, each in enumerate(fitting)]
    return PatchSampler(volumes, triple(sizes), positive_fraction=0.0, seed=seed)


def _room(region: Box, patch: Triple) -> int:
    """Number of places in ``region`` where a patch's first voxel may lie."""
    return int(np.prod([s - p + 1 for s, p in zip(region.shape, patch, strict=True)]))
