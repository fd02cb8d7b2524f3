"""Looking at the units of a network while it runs, and at those of their positions that count."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from synbb.pruning.wiring import UnitGroup

Valid = Tensor | Mapping[str, Tensor | None] | None
"""Positions that count: one mask for all units, masks by patterns of module names, or None where all positions do.

A mask is bool, shape (batch, 1, *space) or (batch, *space). Of a mapping, units take the first mask whose pattern
(``*`` matches anything) fits the module at which they are seen (:class:`synbb.pruning.wiring.Observer`); where its
value is None, or no pattern fits, all positions count. So an encoder's frames and a decoder's tokens can each have
their own: ``{"decoder*": tokens, "*": frames}``.
"""


class Observers:
    """Forward hooks that show the values of unit groups where the trace saw them.

    Args:
        model: the network; hooks are put on its modules.
        groups: the unit groups of :func:`synbb.pruning.wiring.trace`; those without an observer are never seen.
        see: called with (number of the group, its values, axis of its units) for each group in each wanted pass.
        wanted: whether a call of this module is to be shown.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[UnitGroup],
        see: Callable[[int, Tensor, int], None],
        wanted: Callable[[nn.Module], bool],
    ) -> None:
        self._groups, self._see, self._wanted = groups, see, wanted
        self._calls: dict[tuple[str, str], int] = {}
        self._handles = [model.register_forward_pre_hook(self._restart)]
        self._modules = modules = dict(model.named_modules())
        watched: dict[tuple[str, str], list[int]] = {}
        for number, group in enumerate(groups):
            if group.observer is not None:
                watched.setdefault((group.observer.module, group.observer.side), []).append(number)
        for (name, side), numbers in watched.items():
            if side == "input":
                self._handles.append(modules[name].register_forward_pre_hook(self._reader(name, numbers)))
            else:
                self._handles.append(modules[name].register_forward_hook(self._writer(name, numbers)))

    def close(self) -> None:
        """Take the hooks off the network."""
        for handle in self._handles:
            handle.remove()

    def _restart(self, model: nn.Module, _: tuple[Any, ...]) -> None:
        if model is self._modules[""]:
            self._calls = {}

    def _reader(self, name: str, numbers: list[int]) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._show((name, "input"), numbers, module, inputs[0])

        return hook

    def _writer(self, name: str, numbers: list[int]) -> Any:
        def hook(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
            self._show((name, "output"), numbers, module, output)

        return hook

    def _show(self, place: tuple[str, str], numbers: list[int], module: nn.Module, values: Tensor) -> None:
        if not is_or_stands_for(module, self._modules[place[0]]):
            return
        call = self._calls.get(place, 0)
        self._calls[place] = call + 1
        if not self._wanted(module):
            return
        for number in numbers:
            group = self._groups[number]
            assert group.observer is not None
            if group.observer.call is None or group.observer.call == call:
                axis = group.observer.axis
                whole = values.shape[axis] == group.size
                self._see(number, values if whole else values.narrow(axis, group.observer.start, group.size), axis)


def is_or_stands_for(module: nn.Module, watched: nn.Module) -> bool:
    """Whether a module that was called is the watched one, or its replica in ``nn.DataParallel``.

    A copy of a network, a mean of its weights say, has copies of its hooks and is another network.
    """
    return module is watched or getattr(module, "_is_replica", False)


class ValidMasks:
    """Positions that count, for each group of units.

    Args:
        valid: as :data:`Valid` says.
        groups: the unit groups of :func:`synbb.pruning.tracing.trace`.

    Raises:
        SynbbError: a mask is no tensor.
    """

    def __init__(self, valid: Valid, groups: Sequence[UnitGroup]) -> None:
        given = valid if isinstance(valid, Mapping) else {"*": valid}
        self._groups = groups
        self._masks = [(pattern, None if mask is None else ValidMask(mask)) for pattern, mask in given.items()]

    def at(self, number: int, shape: torch.Size, axis: int) -> tuple[Tensor, Tensor] | None:
        """:meth:`ValidMask.at` of the mask of group ``number``; None where all positions count.

        Raises:
            SynbbError: the mask has another batch or other axes.
        """
        observer = self._groups[number].observer
        module = "" if observer is None else observer.module
        mask = next((mask for pattern, mask in self._masks if fnmatchcase(module, pattern)), None)
        return None if mask is None else mask.at(shape, axis)


class ValidMask:
    """Positions that count, at the resolution of any layer.

    Args:
        mask: bool, shape (batch, 1, *space) or (batch, *space); resized to coarser levels by majority.

    Raises:
        SynbbError: it is no tensor.
    """

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor):
            raise SynbbError(
                f"valid mask of type {type(mask).__name__} is no tensor; give bool (batch, 1, *space), or a mapping of "
                "patterns of module names to such masks"
            )
        self._mask = mask
        self._known: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def at(self, shape: torch.Size, axis: int) -> tuple[Tensor, Tensor]:
        """The mask at the positions of a tensor of ``shape``, with one entry along its unit axis, and its count.

        The count stays on the device of the mask, int64, shape (): asking for it amid a pass would make a GPU wait.

        Raises:
            SynbbError: the mask has another batch or other axes.
        """
        mask = self._mask
        space = tuple(size for dim, size in enumerate(shape) if dim not in (0, axis))
        if (shape[0], *space) not in self._known:
            batch = mask.shape[0]
            given = mask.shape[2:] if mask.dim() > 2 and mask.shape[1] == 1 else mask.shape[1:]
            if len(given) == 0 or batch != shape[0] or axis == 0 or len(space) not in (0, len(given)):
                raise SynbbError(
                    f"valid mask of shape {tuple(mask.shape)} does not fit activations of shape {tuple(shape)}; "
                    "give bool (batch, 1, *space) with the batch axis first"
                )
            known = mask.reshape(batch, 1, *given)
            if not space:  # one value a sample: it counts when any of its positions does
                known = known.flatten(1).any(1, keepdim=True)
            elif tuple(given) != space:
                known = nn.functional.interpolate(known.float(), size=space, mode="area") >= 0.5
            self._known[shape[0], *space] = known.bool(), known.bool().sum()
        known, count = self._known[shape[0], *space]
        return known if axis == 1 else known.movedim(1, axis), count
