"""What a volume is shown as."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from synbb.volumes.kinds import stated_kind
from synbb.volumes.pyramid import holds_labels

if TYPE_CHECKING:
    from synbb.volumes.volume import Volume


class Kind(StrEnum):
    """Grey values, probabilities of being a synapse, or labels."""

    RAW = "raw"
    PROBABILITIES = "probabilities"
    OBJECTS = "objects"


def kind_of(volume: Volume) -> Kind:
    """What a volume says of itself, else labels where it has 32 or 64 bit integers, else grey values."""
    stated = stated_kind(volume)
    if stated in (Kind.RAW, Kind.PROBABILITIES):
        return Kind(stated)
    return Kind.OBJECTS if holds_labels(volume) else Kind.RAW


def is_mask(volume: Volume) -> bool:
    """Whether labels of this volume mean foreground only: 8 bits, unless ``synbb segment`` wrote them.

    As in scores: masks in the wild mix their values, and ids do not fit 8 bits.
    """
    return volume.dtype.itemsize == 1 and stated_kind(volume) != Kind.OBJECTS
