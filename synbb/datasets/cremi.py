"""Importer of CREMI files: HDF5 kept as it is, its layout checked."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import h5py
import numpy as np
import yaml

from synbb.datasets.checksums import file_sha256
from synbb.errors import SynbbError, disk_errors

if TYPE_CHECKING:
    from pathlib import Path

    from synbb.datasets.manifest import CremiFiles

RECEIPT = "fetched.yaml"
_TOLERANCE = 0.01  # relative, of the voxel size


def import_cremi(name: str, dataset: CremiFiles, source: Path, stage: Path) -> list[str]:
    """Check every sample in ``source`` and put it into ``stage``: a hard link where possible, else a copy.

    Returns:
        A line for each file.

    Raises:
        SynbbError: no sample is there, or one has another layout or checksum, or cannot be read.
        RunEnded: the disk is full.
    """
    samples = sorted(source.glob(dataset.pattern))
    if not samples:
        raise SynbbError(f"{source}: holds no {dataset.pattern}; get the files from {dataset.source.homepage}")
    lines = [f"{sample.name}: {check_layout(dataset, sample)}" for sample in samples]
    sums = {sample.name: file_sha256(sample) for sample in samples}
    _compare(dataset, source, sums, dataset.sha256)
    receipt = {"dataset": name, "licence": dataset.licence, "citation": dataset.citation, "sha256": sums}
    with disk_errors(stage):
        for sample in samples:
            _link_or_copy(sample, stage / sample.name)
        (stage / RECEIPT).write_text(yaml.safe_dump(receipt, sort_keys=False))
    return lines


def verify_cremi(dataset: CremiFiles, folder: Path) -> list[str]:
    """Compare the files in ``folder`` with what was fetched, and with the manifest where it knows; a line for each.

    Raises:
        SynbbError: a file is missing or differs.
    """
    path = folder / RECEIPT
    try:
        sums = dict(yaml.safe_load(path.read_text())["sha256"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SynbbError(f"{path}: missing or unreadable ({error}); remove {folder} and fetch again") from error
    for name in sums:
        if not (folder / name).is_file():
            raise SynbbError(f"{folder / name}: not found; remove {folder} and fetch the dataset again")
    found = {name: file_sha256(folder / name) for name in sums}
    _compare(dataset, folder, found, {**sums, **dataset.sha256})
    return [f"{name}: checksum as fetched; {check_layout(dataset, folder / name)}" for name in sums]


def check_layout(dataset: CremiFiles, path: Path) -> str:
    """Open a file and compare it with the layout in the manifest.

    Returns:
        A line for people: shape, and whether labels are there.

    Raises:
        SynbbError: the file is damaged, or raw or labels are missing or unlike the layout.
    """
    try:
        with h5py.File(path, "r") as file:
            shape = _check_array(dataset, path, file, dataset.raw, np.dtype(np.uint8))
            text = f"raw {' x '.join(str(n) for n in shape)}"
            # The test samples A+, B+, C+ come without labels.
            if dataset.clefts not in file:
                return f"{text}, no labels"
            labels = _check_array(dataset, path, file, dataset.clefts, np.dtype(np.uint64))
            return f"{text}, clefts {' x '.join(str(n) for n in labels)}"
    except OSError as error:
        raise SynbbError(
            f"{path}: is damaged or no HDF5 file ({error}); get it from {dataset.source.homepage}"
        ) from error


def _check_array(
    dataset: CremiFiles, path: Path, file: h5py.File, name: str, dtype: np.dtype[np.uint8] | np.dtype[np.uint64]
) -> tuple[int, ...]:
    array = file.get(name)
    if not isinstance(array, h5py.Dataset):
        raise SynbbError(f"{path}: has no dataset {name}, so it is not in the CREMI layout ({dataset.layout})")
    if array.ndim != 3 or array.dtype != dtype:
        raise SynbbError(
            f"{path}:{name}: is {array.dtype} with {array.ndim} axes; the CREMI layout has {dtype}, z, y, x"
        )
    resolution = array.attrs.get("resolution")
    if resolution is None:
        raise SynbbError(f"{path}:{name}: has no attribute 'resolution' (nm along z, y, x)")
    if np.shape(resolution) != (3,) or not np.allclose(resolution, dataset.voxel_size, rtol=_TOLERANCE):
        raise SynbbError(
            f"{path}:{name}: resolution is {np.asarray(resolution, float).tolist()}; "
            f"the dataset's is {list(dataset.voxel_size)} nm"
        )
    return tuple(int(n) for n in array.shape)


def _compare(dataset: CremiFiles, folder: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    for name, value in found.items():
        if expected.get(name, value) != value:
            raise SynbbError(
                f"{folder / name}: wrong checksum: expected sha256 {expected[name]}, found {value}; get the file again "
                f"from {dataset.source.homepage}"
            )


def _link_or_copy(source: Path, target: Path) -> None:
    """Files of gigabytes: no second copy on one file system."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copy2(source, target)
