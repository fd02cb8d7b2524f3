"""The label volume of ``synbb predict --segment``: that it can be written is known before anything is predicted."""

from __future__ import annotations

from pathlib import Path

from synbb.errors import SynbbError
from synbb.inference.label_places import check_places, table_beside
from synbb.inference.rules import ObjectRules
from synbb.volumes import open_volume
from synbb.volumes.kinds import PLAN, is_finished
from synbb.volumes.writing import check_zarr_name, followed
from synbb.volumes.zarr_opening import is_zarr


def check_labels(labels: Path, probabilities: Path, *, dry_run: bool = False) -> None:
    """Make sure that ``labels`` and their table can be written beside ``probabilities``.

    Args:
        labels: the label volume; its table is the CSV of that name.
        probabilities: what is going to be predicted.
        dry_run: make no folder.

    Raises:
        SynbbError: something is there, one would lie in the other, or there can be no folder.
        RunEnded: the disk is full.
    """
    check_zarr_name(labels)
    here, there = labels.resolve(), probabilities.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise SynbbError(f"--segment {labels} and OUTPUT {probabilities} lie in one place; give each one of its own")
    remedy = "choose another name for --segment, or remove it"
    check_places(followed(labels), followed(table_beside(labels)), remedy=remedy, dry_run=dry_run)


def labels_are_made(labels: Path, probabilities: Path) -> bool:
    """Whether an earlier call made ``labels`` and their table of these probabilities, which are finished.

    The plan of a prediction tells its input, region, weights and all that was chosen; labels carry its fingerprint.

    Raises:
        SynbbError: the probabilities are damaged.
    """
    if not all(is_zarr(each) for each in (labels, probabilities)) or not table_beside(labels).is_file():
        return False
    predicted = open_volume(str(probabilities))
    wanted = predicted.attributes.get(PLAN)
    if wanted is None or not is_finished(predicted):
        return False
    try:
        made, rules = open_volume(str(labels)), ObjectRules.of(predicted).attributes()
    except SynbbError:  # no volume; or probabilities without a threshold, of which segment says so
        return False
    return all(made.attributes.get(name) == value for name, value in {PLAN: wanted, **rules}.items())
