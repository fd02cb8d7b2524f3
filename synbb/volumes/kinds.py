"""What volumes that ``synbb`` wrote say of themselves, and what may be given as what.

The attribute ``kind`` stands in their metadata: ``raw``, ``probabilities``, ``labels`` or ``objects``. Volumes of
others tell none, and are taken at their word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from synbb.volumes.volume import Volume

Use = Literal["raw", "probabilities", "labels", "objects", "mask"]

COMPLETE = "complete"
"""Attribute of what ``predict`` writes: false until every block is there."""
PLAN = "plan"
"""Attribute of a prediction, and of labels made of it: the fingerprint of all that was asked for."""
CALLED = {"raw": "grey values", "probabilities": "probabilities", "labels": "an annotation", "objects": "objects"}
"""What a volume of each kind holds."""
WANTED = {**CALLED, "mask": "a mask, nonzero where there is tissue"}
"""What is asked for, by use."""
LABEL_KINDS = ("labels", "objects")
"""Whose values are names. Objects may be given as labels: networks learn from those of others, and are compared."""
MEANT: dict[Use, tuple[str, ...]] = {
    "raw": ("raw",),
    "probabilities": ("probabilities",),
    "labels": LABEL_KINDS,
    "objects": LABEL_KINDS,
    "mask": LABEL_KINDS,
}


def stated_kind(volume: Volume) -> str | None:
    """The kind that its metadata tell, if they do."""
    kind = volume.attributes.get("kind")
    return kind if isinstance(kind, str) and kind in CALLED else None


def check_use(volume: Volume, use: Use, option: str = "") -> None:
    """Refuse a volume that cannot be meant, by what it says of itself.

    Args:
        volume: as it was given.
        use: what it was given as.
        option: of the command, by which it was given.

    Raises:
        SynbbError: it holds something else.
    """
    kind = stated_kind(volume)
    if kind is None or kind in MEANT[use]:
        return
    given = f", given as {option}," if option else ""
    raise SynbbError(
        f"{volume.path}{given} holds {CALLED[kind]} (its metadata say kind: {kind}); name the volume of {WANTED[use]}"
    )


def is_finished(volume: Volume) -> bool:
    """Whether no block of it is missing, as far as its metadata say."""
    return volume.attributes.get(COMPLETE) is not False


def check_finished(volume: Volume) -> None:
    """Refuse a prediction of which blocks are missing: they would count as 0.

    Raises:
        SynbbError: its metadata say so.
    """
    if not is_finished(volume):
        raise SynbbError(f"{volume.path} is not finished: blocks are missing; call synbb predict again first")
