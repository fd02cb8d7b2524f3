"""What makes an object of probabilities: values that were given, else those stored with the probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb.errors import SynbbError
from synbb.evaluation.components import bridges_over, neighbour_offsets
from synbb.evaluation.thresholds import check_threshold, foreground, stored_threshold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from synbb.evaluation.labels import Mask
    from synbb.volumes.volume import Volume

NO_DATA = "no_data_sections"
"""Attribute of a volume: the z of its sections without data, a list of voxel indices of that volume."""

CHOSEN = ("low", "bridge", "split_nm", "min_size_nm3", "max_size_nm3")
"""Rules that are chosen, with the threshold, on the validation split of a run."""


@dataclass(frozen=True)
class ObjectRules:
    """What makes an object; :meth:`attributes` has the names under which the values are stored.

    Attributes:
        threshold: an object holds a voxel of p >= threshold.
        low: its voxels have p >= low, which is the threshold or less.
        connectivity: 6, 18 or 26.
        bridge: over this many sections without data at most, objects that overlap in y, x are one.
        blank: z of the sections without data, ascending.
        split_nm: least distance of the seeds that share an object out; 0 leaves objects whole.
        min_size_nm3: smaller objects are left out.
        max_size_nm3: larger ones likewise; None keeps them.
    """

    threshold: float
    low: float
    connectivity: int = 26
    bridge: int = 0
    blank: tuple[int, ...] = ()
    split_nm: float = 0.0
    min_size_nm3: float = 0.0
    max_size_nm3: float | None = None

    @classmethod
    def of(
        cls,
        probabilities: Volume,
        *,
        threshold: float | None = None,
        low: float | None = None,
        connectivity: int = 26,
        bridge: int | None = None,
        blank: Sequence[int] | None = None,
        split_nm: float | None = None,
        min_size_nm3: float | None = None,
        max_size_nm3: float | None = None,
    ) -> ObjectRules:
        """The rules for a volume: each value as given, where None as stored with it, else the plain one.

        Raises:
            SynbbError: no threshold anywhere, a value out of range, or gaps to bridge and no list of them.
        """
        path, stored = probabilities.path, probabilities.attributes
        neighbour_offsets(connectivity)
        chosen = stored_threshold(stored, path) if threshold is None else check_threshold(threshold)
        if chosen is None:
            raise SynbbError(f"{path} stores no threshold; give one in (0, 1] with --threshold")
        lowest = _number(low, stored, "low", path, "--low")
        if low is None and threshold is not None and lowest is not None:
            lowest = min(lowest, chosen)  # what is stored belongs to another threshold
        if lowest is not None and not check_threshold(lowest, "low threshold (--low)") <= chosen:
            raise SynbbError(f"low threshold {lowest} (--low) is above the threshold {chosen}; give one that is not")
        gap = _number(bridge, stored, "bridge", path, "--bridge") or 0
        if gap < 0 or gap != int(gap):
            raise SynbbError(f"bridge of {gap} sections is not a number of sections; give 0 or more with --bridge")
        split = _number(split_nm, stored, "split_nm", path, "--split") or 0.0
        smallest = _number(min_size_nm3, stored, "min_size_nm3", path, "--min-size") or 0.0
        largest = _number(max_size_nm3, stored, "max_size_nm3", path, "--max-size")
        if not 0 <= split < np.inf:
            raise SynbbError(f"distance of seeds {split} nm is not a length; give 0 or more with --split")
        if not 0 <= smallest < np.inf:
            raise SynbbError(f"smallest size {smallest} nm3 is not a volume; give 0 or more with --min-size")
        if largest is not None and not smallest <= largest < np.inf:
            source = "stored" if max_size_nm3 is None else "--max-size"
            raise SynbbError(
                f"largest size {largest:,.0f} nm3 ({source}) is not a volume of at least the smallest, {smallest:,.0f} "
                "nm3; give --min-size and --max-size that fit each other"
            )
        return cls(
            threshold=chosen,
            low=chosen if lowest is None else lowest,
            connectivity=connectivity,
            bridge=int(gap),
            blank=_blank(blank, int(gap), probabilities),
            split_nm=split,
            min_size_nm3=smallest,
            max_size_nm3=largest,
        )

    def attributes(self) -> dict[str, Any]:
        """The values as they are stored with a volume."""
        values = {
            "threshold": self.threshold,
            "low": self.low,
            "connectivity": self.connectivity,
            "bridge": self.bridge,
            "split_nm": self.split_nm,
            "min_size_nm3": self.min_size_nm3,
            "max_size_nm3": self.max_size_nm3,
        }
        return values | ({NO_DATA: list(self.blank)} if self.blank else {})

    def mask(self, probabilities: NDArray[Any]) -> Mask:
        """The voxels that objects are made of."""
        return foreground(probabilities, self.low)

    def sure(self, values: NDArray[Any], dtype: np.dtype[Any]) -> Mask:
        """Which float64 ``values`` of a volume of type ``dtype`` reach the threshold."""
        return foreground(values.astype(dtype), self.threshold)  # there and back is exact, and it is the one rule

    def bridges(self, depth: int) -> list[tuple[int, int]]:
        """Pairs of sections that are joined, in a volume of ``depth`` sections."""
        return bridges_over(self.blank, depth, self.bridge)

    def fits(self, voxels: NDArray[np.int64], voxel_nm3: float) -> tuple[Mask, Mask]:
        """Which sizes are not too small, and which not too large."""
        largest = np.inf if self.max_size_nm3 is None else self.max_size_nm3
        return voxels * voxel_nm3 >= self.min_size_nm3, voxels * voxel_nm3 <= largest


def _number(given: float | None, stored: Mapping[str, Any], name: str, path: str, option: str) -> float | None:
    value = stored.get(name) if given is None else given
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise SynbbError(f"{path}: the stored {name} {value!r} is not a number; give {option}")
    return None if value is None else float(value)


def _blank(given: Sequence[int] | None, gap: int, probabilities: Volume) -> tuple[int, ...]:
    """Sections without data, ascending; nothing where no gap is bridged."""
    path, depth = probabilities.path, probabilities.shape[0]
    if not gap:
        if given is not None:
            raise SynbbError("blank sections (--blank) are of no use unless gaps are bridged; give --bridge N, too")
        return ()
    sections = probabilities.attributes.get(NO_DATA) if given is None else given
    if sections is None:
        raise SynbbError(
            f"{path} does not say which sections hold no data ({NO_DATA}), so none can be bridged; give --blank z,z,..."
        )
    if not isinstance(sections, list | tuple) or not all(type(z) is int and 0 <= z < depth for z in sections):
        raise SynbbError(
            f"{path}: sections without data {sections!r} are not section numbers from 0 to {depth - 1}; "
            "give --blank z,z,... in voxels of this volume"
        )
    return tuple(sorted(set(sections)))
