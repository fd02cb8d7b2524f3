"""Importer of section stacks (the VNC layout): files checked against the manifest, then OME-Zarr volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from synbb.datasets.checksums import pixel_sha256
from synbb.errors import SynbbError
from synbb.volumes import Box, create_volume, open_volume

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from synbb.datasets.manifest import Layer, SectionStacks

Sections = NDArray[np.uint8]


def section_files(dataset: SectionStacks) -> list[str]:
    """Relative paths of all files of the dataset."""
    return [layer.files.format(section=n) for layer in dataset.layers.values() for n in range(dataset.sections)]


def import_sections(name: str, dataset: SectionStacks, source: Path, stage: Path) -> list[str]:
    """Read all layers, compare their checksums, then write one volume a layer into ``stage``.

    Nothing is written before every layer is right.

    Returns:
        A line for each volume.

    Raises:
        SynbbError: a section is missing, damaged or of another size, or a layer's checksum is wrong.
    """
    layers = {key: read_layer(dataset, layer, source) for key, layer in dataset.layers.items()}
    for key, layer in dataset.layers.items():
        _compare(f"{source}: layer {key}", dataset, layer, pixel_sha256(layers[key], dataset.checked_columns))
    lines = []
    for key, layer in dataset.layers.items():
        voxels = layers.pop(key)
        volume = create_volume(
            stage / f"{key}.zarr",
            shape=voxels.shape,
            dtype=np.uint8,
            voxel_size=dataset.voxel_size,
            attributes=_attributes(name, dataset, layer),
            name=key,
        )
        volume.write(volume.box, voxels)
        lines.append(f"{key}.zarr: {' x '.join(str(n) for n in voxels.shape)}, checksum as in the manifest")
    return lines


def verify_sections(dataset: SectionStacks, folder: Path) -> list[str]:
    """Compare the volumes in ``folder`` with the manifest's checksums; a line for each.

    Raises:
        SynbbError: a volume is missing, of another shape, or its voxels differ.
    """
    lines = []
    for key, layer in dataset.layers.items():
        path = folder / f"{key}.zarr"
        if not path.exists():
            raise SynbbError(f"{path}: not found; remove {folder} and fetch the dataset again")
        volume = open_volume(path)
        z, y, x = volume.shape
        if (z, y) != (dataset.sections, dataset.rows) or x not in dataset.columns:
            raise SynbbError(
                f"{path}: shape {volume.shape} is not that of the dataset; remove {folder} and fetch again"
            )
        sections = (volume.read(Box((n, 0, 0), (n + 1, y, x)))[0] for n in range(z))
        _compare(str(path), dataset, layer, pixel_sha256(sections, dataset.checked_columns))
        lines.append(f"{path.name}: checksum as in the manifest")
    return lines


def read_layer(dataset: SectionStacks, layer: Layer, source: Path) -> Sections:
    """All sections of a layer: uint8 (z, y, x); labels as 0 and 1.

    Raises:
        SynbbError: a section is missing, damaged, or of another size than the dataset's and its neighbours'.
    """
    sections = list(_read_sections(dataset, layer, source))
    widths = sorted({section.shape[1] for section in sections})
    if len(widths) > 1:
        raise SynbbError(
            f"{source}: the sections {layer.files} are {widths[0]} and {widths[1]} columns wide; all must be alike"
        )
    return np.stack(sections)


def _read_sections(dataset: SectionStacks, layer: Layer, source: Path) -> Iterator[Sections]:
    for number in range(dataset.sections):
        path = source / layer.files.format(section=number)
        pixels = read_section(path)
        if pixels.ndim != 2 or pixels.shape[0] != dataset.rows or pixels.shape[1] not in dataset.columns:
            widths = " or ".join(str(c) for c in dataset.columns)
            raise SynbbError(
                f"{path}: has {pixels.shape} pixels; the dataset has {dataset.rows} rows and {widths} columns"
            )
        if layer.labels:
            yield (pixels > 0).astype(np.uint8)
        elif pixels.dtype == np.uint8:
            yield pixels
        else:
            raise SynbbError(f"{path}: holds {pixels.dtype}; the dataset is 8-bit grey (uint8)")


def read_section(path: Path) -> NDArray[Any]:
    """The pixels of one TIFF or PNG file.

    Raises:
        SynbbError: the file is missing or damaged.
    """
    if not path.is_file():
        raise SynbbError(f"{path}: not found; every section of the dataset must be there")
    try:
        if path.suffix == ".tif":
            return np.asarray(tifffile.imread(path))
        with Image.open(path) as image:
            return np.asarray(image)
    # The decoders raise many types on a damaged file: struct.error, zlib.error, SyntaxError, ValueError and more.
    except Exception as error:
        raise SynbbError(f"{path}: is damaged or no image ({error}); get the file again") from error


def _compare(what: str, dataset: SectionStacks, layer: Layer, found: str) -> None:
    if found != layer.sha256:
        raise SynbbError(
            f"{what}: wrong checksum of the first {dataset.checked_columns} columns: expected sha256 {layer.sha256}, "
            f"found {found}; get the files again from {dataset.source.homepage}"
        )


def _attributes(name: str, dataset: SectionStacks, layer: Layer) -> dict[str, Any]:
    return {
        "kind": "labels" if layer.labels else "raw",
        "dataset": name,
        "source": dataset.source.homepage,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "sha256": layer.sha256,
        "sha256_columns": dataset.checked_columns,
    }
