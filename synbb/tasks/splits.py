"""Splits of data that lie in many files: that they lie apart, and what is said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

SHOWN = 5
"""Files that a line names."""


def check_files_apart(key: str, split: str, paths: Iterable[Path], others: Mapping[str, Iterable[Path]]) -> None:
    """Refuse a file of ``split`` that is in another one, too.

    Args:
        key: of the settings, for the message.
        split: whose files are looked at.
        paths: its files.
        others: files of other splits.

    Raises:
        SynbbError: there is one; it is named.
    """
    taken = {path.resolve(): other for other, files in others.items() for path in files}
    for path in paths:
        other = taken.get(path.resolve())
        if other is not None:
            raise SynbbError(f"{key}: {path} is in split {other} and in split {split}; splits must lie apart")


def check_named_once(key: str, split: str, paths: Iterable[Path]) -> None:
    """Refuse a file that a split names twice, by whatever way: it would count twice, and be its own double.

    Args:
        key: of the settings, for the message.
        split: whose files are looked at.
        paths: its files.

    Raises:
        SynbbError: there is one; it is named.
    """
    known: dict[Path, Path] = {}
    for path in paths:
        place = path.resolve()
        if place in known:
            also = "" if known[place] == path else f", also as {known[place]}"
            raise SynbbError(
                f"{key}: {path} is named twice in split {split}{also}, and would count twice; name it once"
            )
        known[place] = path


def left_out(split: str, what: str, skipped: Sequence[str]) -> list[str]:
    """A line that says how many files of a split cannot be used, and why; none when there are none.

    It can be printed: bytes of names that are no UTF-8, as Linux allows, are escaped.
    """
    if not skipped:
        return []
    more = f"; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
    shown = "; ".join(skipped[:SHOWN]).encode(errors="backslashreplace").decode()
    return [f"{split}: {counted(len(skipped), what)} left out: {shown}{more}"]


def evenly(count: int, among: int) -> list[int]:
    """At most ``count`` places, evenly spread over 0 to ``among`` - 1."""
    spread = np.linspace(0, among - 1, min(count, among)).astype(int) if among else ()
    return sorted({int(place) for place in spread})


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
