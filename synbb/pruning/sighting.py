"""Places where units can be seen: modules that read or return the values of a unit group during the trace.

On-rates are counted by hooks on modules, and an activation may be no module: its values are then looked for where the
next module reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from synbb.pruning.origins import CHANGED, Channels, Fidelity, Known, Origin
from synbb.pruning.wiring import Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.pruning.wiring import UnitGroup


@dataclass(frozen=True)
class _Sight:
    """A place where a unit group was seen."""

    observer: Observer
    fidelity: Fidelity


class Sightings:
    """Where each unit group was seen, module call by module call.

    Args:
        groups: of units, in order; more may be appended while the trace goes on.
    """

    def __init__(self, groups: Sequence[UnitGroup]) -> None:
        self._groups = groups
        self._sights: dict[int, list[_Sight]] = {}
        self._calls: dict[str, int] = {}
        self._inputs: dict[str, object] = {}

    def enter(self, module: str, value: object, known: Known | None) -> None:
        """A module is called with ``value`` as its first argument, None without any."""
        self._calls[module] = self._calls.get(module, 0) + 1
        self._inputs[module] = value
        self._look(module, "input", known)

    def leave(self, module: str, known: Known | None) -> None:
        """A module returns a value."""
        self._look(module, "output", known)

    def reads(self, module: str, axis: int, channels: int) -> bool:
        """Whether a module was called last with ``channels`` channels on ``axis`` of its first argument."""
        seen = self._inputs.get(module)
        return isinstance(seen, Tensor) and seen.dim() > axis and seen.shape[axis] == channels

    def _look(self, module: str, side: Literal["input", "output"], known: Known | None) -> None:
        """Note every group whose channels stand unmixed and in order in a value."""
        if not isinstance(known, Channels) or known.fidelity == CHANGED or not module:
            return
        for start, origins in enumerate(known.origins):
            first = next(iter(origins)) if len(origins) == 1 else None
            if first is None or first.kind != "unit" or first.channel != 0:
                continue
            size = self._groups[first.owner].size
            expected = tuple(frozenset({Origin("unit", first.owner, channel)}) for channel in range(size))
            if known.origins[start : start + size] == expected:
                observer = Observer(module, side, known.axis, start, self._calls[module] - 1)
                self._sights.setdefault(first.owner, []).append(_Sight(observer, known.fidelity))

    def observer(self, group: int) -> Observer | None:
        """The truest sight of group number ``group``; among equals a module called once in a pass, then the first."""
        sights = self._sights.get(group)
        if not sights:
            return None
        best = min(sights, key=lambda sight: (-sight.fidelity, self._calls[sight.observer.module] > 1)).observer
        call = best.call if self._calls[best.module] > 1 else None
        return Observer(best.module, best.side, best.axis, best.start, call)
