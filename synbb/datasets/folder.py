"""Importer of plain folders: the files that belong to a dataset, copied and checked as a whole."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from synbb.datasets.checksums import names_in, tree_of
from synbb.errors import SynbbError, disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from synbb.datasets.manifest import FolderTree


def import_folder(dataset: FolderTree, source: Path, stage: Path) -> list[str]:
    """Check the tree in ``source``, then copy what belongs to the dataset into ``stage``.

    Returns:
        One line.

    Raises:
        SynbbError: files are missing, too many, or differ, or cannot be read.
        RunEnded: the disk is full.
    """
    names = _check(dataset, source, "get the files again")
    with disk_errors(stage):
        for name in names:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, stage / name)
    return [f"{len(names)} files, {dataset.size} bytes, checksum as in the manifest"]


def verify_folder(dataset: FolderTree, folder: Path) -> list[str]:
    """Compare a fetched tree with the manifest; one line.

    Raises:
        SynbbError: files are missing, too many, or differ.
    """
    names = _check(dataset, folder, f"remove {folder} and fetch the dataset again")
    return [f"{len(names)} files: checksum as in the manifest"]


def _check(dataset: FolderTree, folder: Path, remedy: str) -> tuple[str, ...]:
    matching = {pattern: names_in(folder, pattern) for pattern in dataset.include}
    count = len({name for names in matching.values() for name in names})
    if count != dataset.count:
        each = ", ".join(f"{len(names)} {pattern}" for pattern, names in matching.items())
        more = count > dataset.count
        raise SynbbError(
            f"{folder}: has {count} files of the dataset ({each}), expected {dataset.count}; "
            f"{'move elsewhere what is none of its own' if more else remedy}"
        )
    tree = tree_of(folder, dataset.include)
    if tree.size != dataset.size:
        raise SynbbError(f"{folder}: the dataset's files hold {tree.size} bytes, expected {dataset.size}; {remedy}")
    if tree.sha256 != dataset.sha256:
        raise SynbbError(f"{folder}: wrong checksum: expected sha256 {dataset.sha256}, found {tree.sha256}; {remedy}")
    return tree.names
