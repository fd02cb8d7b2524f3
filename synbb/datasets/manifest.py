"""The data manifest: every dataset's source, licence, citation, layout, checksums and splits, typed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import synbb
from synbb.errors import SynbbError
from synbb.schema import Settings, nearest, validated
from synbb.yaml_text import read_yaml

MANIFEST_NAME = "data_manifest.yaml"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
VoxelSize = tuple[float, float, float]


class Source(Settings):
    """Where a dataset comes from.

    Attributes:
        homepage: what a person opens.
        repository: GitHub ``owner/name``, where the files are taken from one.
        commit: of that repository.
        base_url: address that the names of ``files`` are appended to; none where upstream offers no plain files in
            this layout.
        files: names to download; ``{section:02d}`` stands for every section.
    """

    homepage: str
    repository: str | None = None
    commit: str | None = None
    base_url: str | None = None
    files: tuple[str, ...] = ()


class _Dataset(Settings):
    """What every dataset states.

    Attributes:
        title: one line.
        source: where it comes from.
        licence: as upstream states it.
        citation: what to cite; shown wherever a result made with the data is shown.
        layout: the files, for people.
        axes: order of the axes of its arrays.
        voxel_size: nm along z, y, x, for volumes.
        splits: regions or lists by name, for people and configs.
        notes: what else to know.
    """

    title: str
    source: Source
    licence: str
    citation: str
    layout: str
    axes: str | None = None
    voxel_size: VoxelSize | None = None
    splits: dict[str, str] = Field(default_factory=dict)
    notes: str = ""


class Layer(Settings):
    """One stack of section files.

    Attributes:
        files: path of a section, with ``{section:02d}``.
        labels: whether any value above 0 is foreground (stored as 0 and 1).
        sha256: of the decoded pixels of all sections, uint8, rows in order, columns below ``checked_columns`` only.
    """

    files: str
    labels: bool = False
    sha256: Sha256


class SectionStacks(_Dataset):
    """Stacks of 8-bit TIFF and PNG sections, fetched into one OME-Zarr volume a layer.

    Attributes:
        sections: number of sections of every layer.
        rows: pixels along y.
        columns: the widths, in pixels, that the files may have.
        checked_columns: columns that the checksums cover, so that crop and original check alike.
        layers: by the name of the volume they become.
    """

    kind: Literal["section stacks"]
    voxel_size: VoxelSize
    sections: int
    rows: int
    columns: tuple[int, ...]
    checked_columns: int
    layers: dict[str, Layer]


class CremiFiles(_Dataset):
    """HDF5 files in the layout of the CREMI challenge, kept as they are.

    Attributes:
        pattern: names of the files.
        raw: path of the grey values in a file.
        clefts: path of the cleft labels.
        background: label of voxels that are in no cleft.
        sha256: by file name, where upstream's checksums are known.
    """

    kind: Literal["cremi"]
    voxel_size: VoxelSize
    pattern: str
    raw: str
    clefts: str
    background: int
    sha256: dict[str, Sha256] = Field(default_factory=dict)


class FolderTree(_Dataset):
    """A tree of files, copied as it is.

    Attributes:
        include: patterns (relative to the folder) of what belongs to the dataset.
        count: number of files.
        size: bytes in all.
        sha256: of the lines ``name NUL size NUL sha256-of-content NEWLINE``, sorted by name.
    """

    kind: Literal["folder"]
    include: tuple[str, ...]
    count: int
    size: int
    sha256: Sha256


class Phantom(_Dataset):
    """A volume that the project makes itself.

    Attributes:
        spec: keys of ``PhantomSpec`` that differ from its defaults.
    """

    kind: Literal["phantom"]
    voxel_size: VoxelSize
    spec: dict[str, Any] = Field(default_factory=dict)


class PhantomFaces(_Dataset):
    """Faces that the project draws itself.

    Attributes:
        spec: keys of ``FacePhantom`` that differ from its defaults.
    """

    kind: Literal["phantom faces"]
    spec: dict[str, Any] = Field(default_factory=dict)


class PhantomSpeech(_Dataset):
    """Speech that the project makes itself.

    Attributes:
        spec: keys of ``SpeechPhantom`` that differ from its defaults.
    """

    kind: Literal["phantom speech"]
    spec: dict[str, Any] = Field(default_factory=dict)


Dataset = SectionStacks | CremiFiles | FolderTree | Phantom | PhantomFaces | PhantomSpeech
_KINDS: dict[str, type[_Dataset]] = {
    "section stacks": SectionStacks,
    "cremi": CremiFiles,
    "folder": FolderTree,
    "phantom": Phantom,
    "phantom faces": PhantomFaces,
    "phantom speech": PhantomSpeech,
}


def manifest_path() -> Path:
    """The manifest of this installation: at the top of the checkout, or where ``pip install`` put it.

    Raises:
        SynbbError: it is in neither place.
    """
    package = Path(synbb.__file__).resolve().parent
    beside = package.parent / MANIFEST_NAME
    if beside.is_file() and (package.parent / "pyproject.toml").is_file():
        return beside
    # Installed as a data file: its place depends on the scheme, but the distribution's record knows it.
    try:
        installed = importlib.metadata.files("synbb") or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        path = Path(str(file.locate()))
        if file.name == MANIFEST_NAME and path.is_file():
            return path
    raise SynbbError(f"{MANIFEST_NAME}: not found beside {package} nor among the installed files; reinstall synbb")


def load_manifest(path: str | Path | None = None) -> dict[str, Dataset]:
    """All datasets by name.

    Args:
        path: of a manifest; by default that of this installation.

    Raises:
        SynbbError: the file is missing, is no YAML, or has an unknown key or a wrong value, which is named.
    """
    file = Path(path) if path is not None else manifest_path()
    try:
        records = read_yaml(file, str(file))
    except OSError as error:
        raise SynbbError(f"{file}: cannot be read ({error.strerror})") from error
    if not isinstance(records, dict) or not isinstance(records.get("datasets"), dict):
        raise SynbbError(f"{file}: must have the key 'datasets', a record for each dataset")
    return {name: _dataset(f"{file}: {name}", record) for name, record in records["datasets"].items()}


def find_dataset(name: str, datasets: dict[str, Dataset]) -> Dataset:
    """The dataset called ``name``.

    Raises:
        SynbbError: there is none; the nearest name is suggested.
    """
    if name not in datasets:
        raise SynbbError(f"unknown dataset {name!r}{nearest(name, list(datasets))}; see `synbb data list`")
    return datasets[name]


def check_fetched(dataset: str | None, missing: Sequence[str]) -> None:
    """Whether the data of a config that names its dataset are there.

    Args:
        dataset: its name, None where the config names none.
        missing: paths of the config that do not exist.

    Raises:
        SynbbError: there is no such dataset, or it is not fetched.
    """
    if dataset is None:
        return
    find_dataset(dataset, load_manifest())
    if missing:
        raise SynbbError(
            f"{missing[0]} is not there; get the data by `synbb data fetch {dataset}` (--from FOLDER takes files that "
            "you have already)"
        )


def credit(dataset: str | None) -> dict[str, str]:
    """Licence and citation of a dataset by its name, as a run keeps them; nothing for data of one's own.

    Raises:
        SynbbError: there is no such dataset.
    """
    if dataset is None:
        return {}
    found = find_dataset(dataset, load_manifest())
    return {"licence": found.licence, "citation": found.citation}


def _dataset(where: str, record: Any) -> Dataset:
    kind = record.get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SynbbError(f"{where}: kind is {kind!r}{nearest(str(kind), list(_KINDS))}")
    found = validated(_KINDS[kind], record, where)
    assert isinstance(found, SectionStacks | CremiFiles | FolderTree | Phantom | PhantomFaces | PhantomSpeech)
    return found
