"""Which layers of a network a pruner masks."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from synbb.errors import SynbbError
from synbb.pruning.wiring import TracedLayer


def masked_layers(layers: Sequence[TracedLayer], only: Sequence[str], exclude: Sequence[str]) -> list[TracedLayer]:
    """The layers that ``only`` names, or all but the first ones and the head, without those that ``exclude`` names.

    Args:
        layers: all of a network.
        only: patterns (``*`` matches anything) of layer names; empty for the default.
        exclude: patterns of layer names.

    Raises:
        SynbbError: a pattern fits no layer, or no layer is left.
    """
    for option, patterns in (("layers", only), ("exclude", exclude)):
        for pattern in patterns:
            if not any(_named(layer, (pattern,)) for layer in layers):
                names = ", ".join(layer.name for layer in layers)
                raise SynbbError(f"pruning.{option}: {pattern!r} fits no layer; there are {names}")
    if only:
        chosen = [layer for layer in layers if _named(layer, only)]
    else:
        chosen = [layer for layer in layers if not layer.reads_input_only and not layer.writes_output]
    chosen = [layer for layer in chosen if not _named(layer, exclude)]
    if not chosen:
        raise SynbbError("no layer is left to prune after the first, the head and pruning.exclude")
    return chosen


def _named(layer: TracedLayer, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(layer.name, pattern) for pattern in patterns)
