"""The label volume of ``synbb predict --segment``: that it can be written is known before anything is predicted."""

from __future__ import annotations

from pathlib import Path

from synbb.errors import SynbbError, make_folder
from synbb.inference.objects import table_beside
from synbb.inference.rules import ObjectRules
from synbb.tasks.volumes_apart import place_of
from synbb.training.run import RunFolder
from synbb.volumes import Volume, open_volume
from synbb.volumes.box import Box, NmBox, region_box
from synbb.volumes.kinds import is_finished, stated_kind
from synbb.volumes.writing import check_zarr_name, followed
from synbb.volumes.zarr_opening import is_zarr

BY = ("run_id", "model_sha256")
"""Attributes of a prediction, and of labels made of it, that say which weights predicted."""


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
    for path in (labels, table_beside(labels)):
        if path.exists():
            raise SynbbError(f"{path} exists; choose another name for --segment, or remove it")
        if not dry_run:
            make_folder(followed(path).parent)


def labels_are_made(labels: Path, probabilities: Path, run_path: Path, which: str) -> bool:
    """Whether an earlier call made ``labels`` and their table of these probabilities, which are finished.

    Args:
        labels: the label volume.
        probabilities: of which it would be made.
        run_path: folder of the run that predicts.
        which: its weights, ``last`` or ``best``.

    Raises:
        SynbbError: a volume that cannot be read, or a run without these weights.
    """
    made = _made_of(labels, probabilities, run_path, which)
    if made is None or not is_zarr(probabilities):
        return False
    predicted = open_volume(str(probabilities))
    if not is_finished(predicted) or any(made.attributes.get(key) != predicted.attributes.get(key) for key in BY):
        return False
    rules = ObjectRules.of(predicted).attributes()
    return all(made.attributes.get(name) == value for name, value in rules.items())


def labels_are_left(
    labels: Path, probabilities: Path, run_path: Path, which: str, volume: Volume, region: Box | NmBox | None
) -> bool:
    """Whether an earlier call made ``labels`` and their table, and dropped the probabilities.

    Args:
        labels: the label volume.
        probabilities: of which it would be made.
        run_path: folder of the run that predicts.
        which: its weights, ``last`` or ``best``.
        volume: the input.
        region: of it; all of it when None.

    Raises:
        SynbbError: a volume that cannot be read, a run without these weights, or a region that holds no voxel.
    """
    made = None if probabilities.exists() else _made_of(labels, probabilities, run_path, which)
    if made is None:
        return False
    box = region_box(region, volume.voxel_size, volume.offset) or volume.box
    return made.shape == box.shape and made.offset == volume.centre_of(box.start)


def _made_of(labels: Path, probabilities: Path, run_path: Path, which: str) -> Volume | None:
    """The labels, where these weights and these probabilities stand behind them and their table is there."""
    if not is_zarr(labels) or not table_beside(labels).is_file():
        return None
    made = open_volume(str(labels))
    source = made.attributes.get("source")
    if (
        stated_kind(made) != "objects"
        or not isinstance(source, str)
        or place_of(source) != place_of(str(probabilities))
    ):
        return None
    run = RunFolder.open(run_path)
    by = (run.info()["id"], run.weights_info(which)["sha256"])
    return made if by == tuple(made.attributes.get(key) for key in BY) else None
