"""Fetching and verifying a dataset, whatever its kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synbb.datasets.cremi import import_cremi, verify_cremi
from synbb.datasets.download import download_files
from synbb.datasets.folder import import_folder, verify_folder
from synbb.datasets.manifest import (
    CremiFiles,
    Dataset,
    FolderTree,
    Phantom,
    PhantomFaces,
    PhantomSpeech,
    SectionStacks,
    find_dataset,
    load_manifest,
)
from synbb.datasets.phantom import TISSUE, PhantomSpec, render, write_phantom
from synbb.datasets.phantom_faces import FacePhantom, verify_phantom_faces, write_phantom_faces
from synbb.datasets.phantom_speech import SpeechPhantom, verify_phantom_speech, write_phantom_speech
from synbb.datasets.sections import import_sections, section_files, verify_sections
from synbb.datasets.staging import staged_folder
from synbb.errors import RunEnded, SynbbError
from synbb.volumes import open_volume

Progress = Callable[[int, int], None]
_Files = SectionStacks | CremiFiles | FolderTree

PHANTOM_BLOCK = (32, 512, 512)  # voxels made anew at once to compare


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes:
        folder: where the dataset lies.
        current: whether it was there already, right, and nothing was done.
        lines: what was checked, for people.
    """

    folder: Path
    current: bool
    lines: tuple[str, ...]


def fetch(
    name: str,
    *,
    source: str | Path | None = None,
    to: str | Path = "data",
    manifest: dict[str, Dataset] | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Bring a dataset into ``to/name``, checked; a dataset that is there and right is left alone.

    The folder appears only when all is there and its checksums are those of the manifest. What was downloaded before a
    fetch ended is kept beside it (``.NAME.download``) until the dataset is there.

    Args:
        name: of the dataset.
        source: folder with upstream's files; without it they are downloaded where upstream offers plain files.
        to: folder of all datasets.
        manifest: datasets by name; by default those of this installation.
        progress: told (done, total) while files are downloaded, voxels or utterances made.

    Raises:
        SynbbError: unknown name, missing, damaged or wrong files, an address that cannot be reached, or something else
            in the place of the dataset, or another process fetches it.
        RunEnded: the disk is full.
    """
    dataset = find_dataset(name, load_manifest() if manifest is None else manifest)
    if source is not None and not Path(source).is_dir():
        raise SynbbError(f"{name}: --from {source} is not a folder; give the one that holds upstream's files")
    folder = Path(to) / name
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return Fetched(folder, True, tuple(_verify(dataset, folder)))
    if source is not None and isinstance(dataset, Phantom | PhantomFaces | PhantomSpeech):
        raise SynbbError(f"{name}: synbb makes this dataset itself; leave out --from {source}")
    if isinstance(dataset, PhantomFaces):
        write_phantom_faces(folder, FacePhantom.from_dict(dataset.spec))
        return Fetched(folder, False, ("one folder of images an identity",))
    if isinstance(dataset, PhantomSpeech):
        write_phantom_speech(folder, SpeechPhantom.from_dict(dataset.spec), progress=progress)
        return Fetched(folder, False, ("one folder of recordings a speaker, transcripts.csv, phantom.yaml",))
    if isinstance(dataset, Phantom):
        write_phantom(folder, PhantomSpec.from_dict(dataset.spec), progress=progress)
        return Fetched(folder, False, ("raw.zarr, synapses.zarr, synapses.csv, phantom.yaml",))
    if source is None and dataset.source.base_url is None:
        raise SynbbError(
            f"{name}: upstream offers no plain files in this layout, so it cannot be downloaded; get it from "
            f"{dataset.source.homepage} and run `synbb data fetch {name} --from DIR` (layout: {dataset.layout})"
        )
    with staged_folder(folder) as stage:
        downloads = stage.with_suffix(".download")  # of this process alone where the stage is: without locks
        if source is None:
            lines = _download_and_import(name, dataset, downloads, stage, progress)
        else:
            lines = _import(name, dataset, Path(source), stage)
    if source is None or Path(source).resolve() != downloads:
        shutil.rmtree(downloads, ignore_errors=True)
    return Fetched(folder, False, tuple(lines))


def verify(name: str, *, to: str | Path = "data", manifest: dict[str, Dataset] | None = None) -> list[str]:
    """Check a fetched dataset; returns a line for each thing that was found right.

    Args:
        name: of the dataset.
        to: folder of all datasets.
        manifest: datasets by name; by default those of this installation.

    Raises:
        SynbbError: unknown name, not fetched, or something is missing or differs.
    """
    dataset = find_dataset(name, load_manifest() if manifest is None else manifest)
    folder = Path(to) / name
    if not folder.is_dir():
        raise SynbbError(f"{folder}: not found; run `synbb data fetch {name}` first, or say where it is with --to")
    return _verify(dataset, folder)


def _download_and_import(
    name: str, dataset: _Files, downloads: Path, stage: Path, progress: Progress | None
) -> list[str]:
    """Download into a folder that outlives this process, so that the next fetch goes on with the files that lack."""
    base = dataset.source.base_url
    assert base is not None
    files = section_files(dataset) if isinstance(dataset, SectionStacks) else list(dataset.source.files)
    download_files(name, base, dataset.source.homepage, files, downloads, progress)
    try:
        return _import(name, dataset, downloads, stage)
    except RunEnded:  # a full disk says nothing of the files
        raise
    except SynbbError:
        shutil.rmtree(downloads, ignore_errors=True)  # or they would be taken again
        raise


def _import(name: str, dataset: _Files, source: Path, stage: Path) -> list[str]:
    match dataset:
        case SectionStacks():
            return import_sections(name, dataset, source, stage)
        case CremiFiles():
            return import_cremi(name, dataset, source, stage)
        case FolderTree():
            return import_folder(dataset, source, stage)


def _verify(dataset: Dataset, folder: Path) -> list[str]:
    match dataset:
        case SectionStacks():
            return verify_sections(dataset, folder)
        case CremiFiles():
            return verify_cremi(dataset, folder)
        case FolderTree():
            return verify_folder(dataset, folder)
        case Phantom():
            return _verify_phantom(folder, PhantomSpec.from_dict(dataset.spec))
        case PhantomFaces():
            count = verify_phantom_faces(folder, FacePhantom.from_dict(dataset.spec))
            return [f"{count} images: every pixel as the spec gives it"]
        case PhantomSpeech():
            count = verify_phantom_speech(folder, SpeechPhantom.from_dict(dataset.spec))
            return [f"{count} utterances: every sample and word as the spec gives it"]


def _verify_phantom(folder: Path, spec: PhantomSpec) -> list[str]:
    """Make the phantom anew from its spec, block by block, and compare every voxel."""
    TISSUE.check(folder, spec)
    stored = {name: open_volume(folder / name) for name in ("raw.zarr", "synapses.zarr")}
    for name, volume in stored.items():
        if volume.shape != spec.shape:
            raise SynbbError(f"{folder / name}: shape {volume.shape}, its spec says {spec.shape}; make it anew")
    for part in spec.box.blocks(PHANTOM_BLOCK):
        expected = render(spec, part)
        voxels = {"raw.zarr": expected.raw, "synapses.zarr": (expected.synapse > 0).astype(np.uint8)}
        for name, volume in stored.items():
            if not np.array_equal(volume.read(part), voxels[name]):
                raise SynbbError(
                    f"{folder / name}: differs from what its spec gives (in {part}); remove {folder} and make it anew"
                )
    return ["raw.zarr, synapses.zarr: every voxel as the spec gives it"]
