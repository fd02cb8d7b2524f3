"""Random changes of training patches: MONAI's, and what goes wrong in serial sections.

All transforms work on dictionaries with ``image`` (float, (1, z, y, x)), ``label`` and ``valid`` (same shape). Where
sections go missing the label stays: a synapse that spans the gap is still one synapse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from monai.data import set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandGaussianNoised,
    Randomizable,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from pydantic import Field

from synbb.schema import Settings

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

# Patches carry no affine: without MONAI's bookkeeping of it a patch costs half.
set_track_meta(False)

SPATIAL = ("image", "label", "valid")

Probability = Annotated[float, Field(ge=0, le=1)]


class Augmentation(Settings):
    """Probabilities of each change, per patch; 0 switches one off.

    Attributes:
        flip: each axis on its own.
        rotate: quarter turns in the plane (square patches only).
        intensity: scale, shift and gamma of the whole patch, and noise.
        section_contrast: another brightness and contrast for each section.
        missing_section: one inner section blank.
        misalignment: the sections behind a random one are shifted in the plane.
        max_shift: largest misalignment, in working voxels.
    """

    flip: Probability = 0.5
    rotate: Probability = 0.75
    intensity: Probability = 0.3
    section_contrast: Probability = 0.3
    missing_section: Probability = 0.05
    misalignment: Probability = 0.1
    max_shift: Annotated[int, Field(ge=0)] = 6


class RandomChange(Randomizable):
    """A transform of whole patches whose random state a MONAI chain seeds."""


class RandSectionContrastd(RandomChange):
    """Scale and shift each section's grey values on its own, as uneven staining and exposure do."""

    def __init__(self, prob: float, spread: float = 0.1) -> None:
        self.prob, self.spread = prob, spread

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to ``data["image"]``, shape (1, z, y, x)."""
        result = dict(data)
        if self.R.random() < self.prob:
            image = result["image"]
            sections = image.shape[1]
            scale = torch.from_numpy(self.R.uniform(1 - self.spread, 1 + self.spread, (1, sections, 1, 1)))
            shift = torch.from_numpy(self.R.uniform(-self.spread, self.spread, (1, sections, 1, 1)))
            result["image"] = (image - 0.5) * scale.to(image) + 0.5 + shift.to(image)
        return result


class RandMissingSectiond(RandomChange):
    """Blank one section that has a neighbour on both sides, to the grey of padding (0)."""

    def __init__(self, prob: float) -> None:
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to ``data["image"]``, shape (1, z, y, x); the label stays."""
        result = dict(data)
        sections = result["image"].shape[1]
        if self.R.random() < self.prob and sections > 2:
            image = result["image"].clone()
            image[:, self.R.randint(1, sections - 1)] = 0
            result["image"] = image
        return result


class RandMisalignmentd(RandomChange):
    """Shift all sections behind a random one in the plane, image and label alike; what enters is ignored."""

    def __init__(self, prob: float, max_shift: int) -> None:
        self.prob, self.max_shift = prob, max_shift

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to image, label and valid mask, each (1, z, y, x)."""
        result = dict(data)
        sections = result["image"].shape[1]
        if self.R.random() >= self.prob or sections < 2 or self.max_shift < 1:
            return result
        first = self.R.randint(1, sections)
        shift = tuple(int(self.R.randint(-self.max_shift, self.max_shift + 1)) for _ in range(2))
        for key in SPATIAL:
            moved = result[key].clone()
            moved[:, first:] = torch.roll(moved[:, first:], shift, dims=(2, 3))
            result[key] = moved
        # A roll brings in the opposite border: those voxels are no neighbours of what they now touch.
        for axis, step in zip((2, 3), shift, strict=True):
            length = result["valid"].shape[axis]
            strip = slice(0, step) if step > 0 else slice(max(length + step, 0), length)
            if step:
                index = [slice(None)] * 4
                index[1], index[axis] = slice(first, None), strip
                result["valid"][tuple(index)] = 0
                result["image"][tuple(index)] = 0
        return result


def augmentation(settings: Augmentation, patch: tuple[int, int, int]) -> Compose:
    """The chain of transforms for patches of shape ``patch`` (z, y, x)."""
    square = patch[1] == patch[2]
    return Compose(
        [
            *[RandFlipd(SPATIAL, prob=settings.flip, spatial_axis=axis) for axis in range(3)],
            *([RandRotate90d(SPATIAL, prob=settings.rotate, max_k=3, spatial_axes=(1, 2))] if square else []),
            RandMisalignmentd(settings.misalignment, settings.max_shift),
            RandScaleIntensityd("image", factors=0.15, prob=settings.intensity),
            RandShiftIntensityd("image", offsets=0.1, prob=settings.intensity),
            RandAdjustContrastd("image", gamma=(0.8, 1.25), prob=settings.intensity),
            RandGaussianNoised("image", std=0.04, prob=settings.intensity),
            RandSectionContrastd(settings.section_contrast),
            RandMissingSectiond(settings.missing_section),
        ]
    )


def augmented(
    chain: Compose, image: np.ndarray, label: np.ndarray, valid: np.ndarray, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One augmented patch: the result depends on the arrays and ``seed`` alone.

    Args:
        chain: from :func:`augmentation`; its random state is set anew, so a thread must own it.
        image: float32, (z, y, x), normalised.
        label: bool, (z, y, x).
        valid: bool, (z, y, x).
        seed: 32-bit seed of this sample.

    Returns:
        image float32, label float32 and valid bool, each (1, z, y, x).
    """
    chain.set_random_state(seed=seed)
    arrays = {"image": image, "label": label, "valid": valid}
    data = {key: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32))[None] for key, a in arrays.items()}
    result = chain(data)
    plain = {key: torch.as_tensor(result[key]).as_subclass(torch.Tensor).contiguous() for key in SPATIAL}
    return plain["image"].float(), plain["label"].float(), plain["valid"] > 0.5
