"""N:M patterns: linear layers keep at most N of M consecutive inputs of each output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from synbb.pruning.balance import Floats
    from synbb.pruning.connections import ConnectionTable
    from synbb.pruning.wiring import TracedLayer

Pattern = tuple[int, int]
"""N and M."""


def read_pattern(text: str | None) -> Pattern | None:
    """The pattern of ``"N:M"``; None is none.

    Raises:
        SynbbError: a text of another form.
    """
    if text is None:
        return None
    keep, colon, of = str(text).partition(":")
    if not (colon and keep.isdecimal() and of.isdecimal() and 0 < int(keep) < int(of)):
        raise SynbbError(f"pruning pattern {text!r} is not of the form N:M with 0 < N < M, such as 2:4")
    return int(keep), int(of)


def check_pattern(pattern: Pattern, layers: Sequence[TracedLayer], density: float | None) -> None:
    """Refuse a pattern that masked layers cannot have, or that leaves less than ``density``, where one is asked for.

    Raises:
        SynbbError: it is one of these.
    """
    keep, of = pattern
    linear = [layer for layer in layers if layer.kind == "linear"]
    if not linear:
        raise SynbbError(f"pruning pattern {keep}:{of} is for linear layers, and none is masked here")
    for layer in linear:
        if layer.in_channels % of:
            raise SynbbError(
                f"pruning pattern {keep}:{of}: layer {layer.name!r} has {layer.in_channels} inputs, no multiple of "
                f"{of}; exclude it"
            )
    if density is not None and density > keep / of:
        raise SynbbError(
            f"pruning density {density} contradicts pattern {keep}:{of}, which leaves at most {keep / of:g} of a "
            "linear layer: lower the density or drop the pattern"
        )


def most_shares(pattern: Pattern, layers: Sequence[TracedLayer]) -> Floats:
    """Largest share of each layer that a pattern leaves."""
    keep, of = pattern
    return np.array([keep / of if layer.kind == "linear" else 1.0 for layer in layers])


def eligible(
    table: ConnectionTable, scores: Floats, layers: Sequence[TracedLayer], pattern: Pattern | None
) -> NDArray[np.bool_]:
    """What a pattern leaves: the N strongest of each M consecutive inputs of a linear layer's output; all without one.

    Args:
        table: all masked connections.
        scores: strength of each.
        layers: the masked layers; the pattern leaves those alone that are not linear.
        pattern: N and M, as :func:`check_pattern` lets through.
    """
    left = np.ones(table.count, dtype=bool)
    if pattern is None:
        return left
    keep, of = pattern
    for members, layer in zip(table.scopes("layer"), layers, strict=True):
        if layer.kind != "linear":
            continue
        blocks = scores[members].reshape(-1, of)  # (out, in) row by row, so that M consecutive inputs stand together
        order = np.argsort(-blocks, axis=1, kind="stable")
        allowed = np.zeros(blocks.shape, dtype=bool)
        np.put_along_axis(allowed, order[:, :keep], True, axis=1)
        left[members] = allowed.ravel()
    return left
