"""CREMI files, plain folders, the phantom, and the command line."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from synbb.cli.data import app
from synbb.datasets import fetch, load_manifest, verify
from synbb.datasets.checksums import tree_of
from synbb.datasets.manifest import Dataset, FolderTree, Phantom, PhantomSpeech, Source
from synbb.datasets.phantom import PhantomSpec, render, write_phantom
from synbb.datasets.phantom_speech import SpeechPhantom, verify_phantom_speech, write_phantom_speech
from synbb.errors import SynbbError
from synbb.volumes import open_volume

if TYPE_CHECKING:
    from pathlib import Path

BACKGROUND = 0xFFFFFFFFFFFFFFFF


def write_sample(path: Path, **changes: Any) -> None:
    """A phantom in the CREMI layout: padded raw, clefts placed by their offset."""
    spec = PhantomSpec(shape=(4, 80, 80), voxel_size=(40, 4, 4), seed=2)
    block = render(spec, spec.box)
    clefts = np.where(block.synapse > 0, block.synapse, -1).astype(np.int64).view(np.uint64)[1:3, 8:72, 8:72]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array, offset in (
            ("volumes/raw", block.raw, None),
            ("volumes/labels/clefts", clefts, (40.0, 32.0, 32.0)),
        ):
            if changes.get(name, True) is None:
                continue
            data = changes.get(name, array)
            stored = file.create_dataset(name, data=data)
            if changes.get("resolution", True) is not None:
                stored.attrs["resolution"] = changes.get("resolution", (40.0, 4.0, 4.0))
            if offset is not None:
                stored.attrs["offset"] = offset


def test_cremi_files_are_kept_and_registered(tmp_path: Path) -> None:
    for sample in "AB":
        write_sample(tmp_path / f"up/sample_{sample}_20160501.hdf")
    write_sample(tmp_path / "up/sample_A+_20160601.hdf", **{"volumes/labels/clefts": None})
    fetched = fetch("cremi", source=tmp_path / "up", to=tmp_path / "data")
    assert len(fetched.lines) == 3
    assert any("no labels" in line for line in fetched.lines)
    file = fetched.folder / "sample_A_20160501.hdf"
    assert file.read_bytes() == (tmp_path / "up" / file.name).read_bytes()
    assert open_volume(file).voxel_size == (40, 4, 4)
    clefts = open_volume(f"{file}:volumes/labels/clefts")
    assert clefts.offset == (40, 32, 32)
    assert clefts.read(clefts.box).max() == BACKGROUND
    assert len(verify("cremi", to=tmp_path / "data")) == 3
    assert fetch("cremi", source=tmp_path / "up", to=tmp_path / "data").current


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"volumes/raw": None}, ["volumes/raw", "no dataset"]),
        ({"volumes/raw": np.zeros((4, 4), np.uint8)}, ["volumes/raw", "2 axes"]),
        ({"volumes/labels/clefts": np.zeros((2, 4, 4), np.uint8)}, ["volumes/labels/clefts", "uint64"]),
        ({"resolution": None}, ["resolution"]),
        ({"resolution": (4.0, 4.0, 40.0)}, ["resolution", "40"]),
    ],
)
def test_another_hdf5_layout_is_refused(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    write_sample(tmp_path / "up/sample_A.hdf", **changes)
    with pytest.raises(SynbbError) as caught:
        fetch("cremi", source=tmp_path / "up", to=tmp_path / "data")
    assert all(word in str(caught.value) for word in ["sample_A.hdf", *words]), str(caught.value)
    assert not list((tmp_path / "data").glob("*"))


def test_a_damaged_or_absent_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    with pytest.raises(SynbbError, match=r"sample_\*\.hdf"):
        fetch("cremi", source=tmp_path / "up", to=tmp_path / "data")
    (tmp_path / "up/sample_A.hdf").write_bytes(b"no hdf5")
    with pytest.raises(SynbbError, match=r"sample_A\.hdf.*damaged"):
        fetch("cremi", source=tmp_path / "up", to=tmp_path / "data")


def test_a_changed_sample_is_found(tmp_path: Path) -> None:
    write_sample(tmp_path / "up/sample_A.hdf")
    file = fetch("cremi", source=tmp_path / "up", to=tmp_path / "data").folder / "sample_A.hdf"
    with h5py.File(file, "r+") as opened:
        opened["volumes/raw"][0, 0, 0] ^= 1
    with pytest.raises(SynbbError, match=r"sample_A\.hdf: wrong checksum"):
        verify("cremi", to=tmp_path / "data")
    file.unlink()
    with pytest.raises(SynbbError, match=r"sample_A\.hdf: not found"):
        verify("cremi", to=tmp_path / "data")


@pytest.fixture
def tree(tmp_path: Path) -> tuple[Path, dict[str, Dataset]]:
    folder = tmp_path / "up"
    for name in ("a/1.pgm", "a/2.pgm", "b/1.pgm", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    found = tree_of(folder, ["*/*.pgm"])
    entry = FolderTree(
        kind="folder", title="t", source=Source(homepage="https://h"), licence="l", citation="c", layout="a/N.pgm",
        include=("*/*.pgm",), count=3, size=found.size, sha256=found.sha256,
    )  # fmt: skip
    return folder, {"faces": entry}


def test_a_folder_is_copied_and_checked(tmp_path: Path, tree: tuple[Path, dict[str, Dataset]]) -> None:
    source, manifest = tree
    fetched = fetch("faces", source=source, to=tmp_path / "data", manifest=manifest)
    assert sorted(p.name for p in fetched.folder.rglob("*.*")) == ["1.pgm", "1.pgm", "2.pgm"]
    assert verify("faces", to=tmp_path / "data", manifest=manifest)
    assert fetch("faces", to=tmp_path / "data", manifest=manifest).current
    (fetched.folder / "a/1.pgm").chmod(0o644)
    (fetched.folder / "a/1.pgm").write_text("content of a/X.pgm")
    with pytest.raises(SynbbError, match="wrong checksum"):
        verify("faces", to=tmp_path / "data", manifest=manifest)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a/2.pgm", None, r"2 files of the dataset \(2 \*/\*\.pgm\), expected 3"),
        ("c/9.pgm", "x", r"4 files of the dataset \(4 \*/\*\.pgm\), expected 3; move elsewhere what"),
        ("a/2.pgm", "xx", "bytes"),
        ("a/2.pgm", 17, "sha256"),
    ],
)
def test_a_wrong_folder_is_refused(
    tmp_path: Path, tree: tuple[Path, dict[str, Dataset]], name: str, content: str | int | None, words: str
) -> None:
    source, manifest = tree
    (source / name).parent.mkdir(exist_ok=True)
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_text(content if isinstance(content, str) else "content of a/3.pgm")
    with pytest.raises(SynbbError, match=words):
        fetch("faces", source=source, to=tmp_path / "data", manifest=manifest)
    assert not list((tmp_path / "data").glob("*"))


def test_what_programs_leave_belongs_to_no_dataset(tmp_path: Path, tree: tuple[Path, dict[str, Dataset]]) -> None:
    source, manifest = tree
    for name in (".Trash-1000/1.pgm", "a/._1.pgm", "a/.DS_Store"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("x")
    manifest["faces"] = manifest["faces"].model_copy(update={"include": ("*/*.pgm", "a/*")})
    folder = fetch("faces", source=source, to=tmp_path / "data", manifest=manifest).folder
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "a/1.pgm", "a/2.pgm", "b/1.pgm",
    ]  # fmt: skip


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"Jos\xe9.pgm")).write_text("x")
    line = b"Jos\xe9.pgm\x001\x00" + hashlib.sha256(b"x").hexdigest().encode() + b"\n"
    assert tree_of(tmp_path, ["*.pgm"]).sha256 == hashlib.sha256(line).hexdigest()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, tree: tuple[Path, dict[str, Dataset]]) -> None:
    source, manifest = tree
    (source / "a/2.pgm").unlink()
    (source / "a/2.pgm").symlink_to("/proc/self/mem")  # whose first page nobody reads
    with pytest.raises(SynbbError, match=r"a/2\.pgm: cannot be read \(Input/output error\)"):
        fetch("faces", source=source, to=tmp_path / "data", manifest=manifest)


def test_a_folder_without_plain_files_upstream_needs_from(
    tmp_path: Path, tree: tuple[Path, dict[str, Dataset]]
) -> None:
    with pytest.raises(SynbbError, match="--from DIR"):
        fetch("faces", to=tmp_path / "data", manifest=tree[1])


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["an4", "orl", "yaleb"])
def test_the_real_folders_are_as_the_manifest_says(vnc_folder: Path, name: str) -> None:
    folder = vnc_folder.parent / name
    if not folder.is_dir():
        pytest.skip(f"no real data: {name} is not beside vnc")
    dataset = load_manifest()[name]
    assert isinstance(dataset, FolderTree)
    tree = tree_of(folder, dataset.include)
    assert (len(tree.names), tree.size, tree.sha256) == (dataset.count, dataset.size, dataset.sha256)


def test_the_phantom_is_made_and_verified(tmp_path: Path) -> None:
    entry = load_manifest()["phantom"]
    assert isinstance(entry, Phantom)
    manifest: dict[str, Dataset] = {"phantom": entry.model_copy(update={"spec": {"shape": [3, 64, 64]}})}
    assert not fetch("phantom", to=tmp_path, manifest=manifest).current
    assert fetch("phantom", to=tmp_path, manifest=manifest).current
    with pytest.raises(SynbbError, match="itself"):
        fetch("phantom", source=tmp_path, to=tmp_path / "other", manifest=manifest)
    raw = zarr.open_array(tmp_path / "phantom/raw.zarr/0", mode="r+")
    raw[0, 0, 0] = 255 - raw[0, 0, 0]
    with pytest.raises(SynbbError, match="differs from what its spec gives"):
        verify("phantom", to=tmp_path, manifest=manifest)


def test_another_phantom_is_not_the_dataset(tmp_path: Path) -> None:
    write_phantom(tmp_path / "phantom", PhantomSpec(shape=(3, 64, 64), seed=99))
    entry = load_manifest()["phantom"]
    manifest: dict[str, Dataset] = {"phantom": entry.model_copy(update={"spec": {"shape": [3, 64, 64], "seed": 7}})}
    for check in (fetch, verify):
        with pytest.raises(SynbbError, match=r"phantom: another phantom, whose seed is 99; that of the dataset is 7"):
            check("phantom", to=tmp_path, manifest=manifest)


def test_the_phantom_speech_is_made_and_verified(tmp_path: Path) -> None:
    entry = load_manifest()["phantom-speech"]
    assert isinstance(entry, PhantomSpeech)
    few = {"speakers": 2, "utterances": 2}
    manifest: dict[str, Dataset] = {"phantom-speech": entry.model_copy(update={"spec": few})}
    told: list[tuple[int, int]] = []
    fetched = fetch("phantom-speech", to=tmp_path, manifest=manifest, progress=lambda *done: told.append(done))
    assert (fetched.current, told[-1]) == (False, (4, 4))
    assert fetch("phantom-speech", to=tmp_path, manifest=manifest).current
    lines = verify("phantom-speech", to=tmp_path, manifest=manifest)
    assert lines == ["4 utterances: every sample and word as the spec gives it"]
    with pytest.raises(SynbbError, match="itself"):
        fetch("phantom-speech", source=tmp_path, to=tmp_path / "other", manifest=manifest)
    (tmp_path / "phantom-speech" / "s02" / "01.wav").unlink()
    with pytest.raises(SynbbError, match=r"01\.wav: missing"):
        verify("phantom-speech", to=tmp_path, manifest=manifest)


def test_other_speech_is_not_the_dataset(tmp_path: Path) -> None:
    entry = load_manifest()["phantom-speech"]
    assert isinstance(entry, PhantomSpeech)
    few = {"speakers": 1, "utterances": 1}
    manifest: dict[str, Dataset] = {"phantom-speech": entry.model_copy(update={"spec": few})}
    write_phantom_speech(tmp_path / "phantom-speech", SpeechPhantom.from_dict(few | {"snr": 20}))
    for check in (fetch, verify):
        with pytest.raises(SynbbError, match=r"another phantom, whose snr is 20\.0; that of the dataset is 15\.0"):
            check("phantom-speech", to=tmp_path, manifest=manifest)


def test_the_manifest_agrees_with_the_phantom_speech_defaults() -> None:
    entry = load_manifest()["phantom-speech"]
    assert isinstance(entry, PhantomSpeech)
    spec = SpeechPhantom.from_dict(entry.spec)
    assert f"{spec.vocabulary} made-up words, spoken by {spec.speakers} voices" in entry.title
    assert f"{spec.utterances} utterances each" in entry.title


def test_the_manifest_agrees_with_the_phantom_defaults() -> None:
    entry = load_manifest()["phantom"]
    assert isinstance(entry, Phantom)
    assert PhantomSpec.from_dict(entry.spec).voxel_size == entry.voxel_size


def test_commands(tmp_path: Path) -> None:
    run = CliRunner()
    listed = run.invoke(app, ["list"])
    assert listed.exit_code == 0
    assert "cremi" in listed.output
    folder = tmp_path / "p"
    made = run.invoke(app, ["phantom", str(folder), "--shape", "2,48,40", "--seed", "3", "--voxel-size", "50,9.2,9.2"])
    assert made.exit_code == 0, made.output
    volume = open_volume(folder / "raw.zarr")
    assert (volume.shape, volume.voxel_size) == ((2, 48, 40), (50, 9.2, 9.2))
    speech = tmp_path / "s"
    few = ["--speakers", "2", "--utterances", "1", "--words", "1,1", "--vocabulary", "4", "--snr", "30", "--seed", "7"]
    made = run.invoke(app, ["phantom-speech", str(speech), *few])
    assert made.exit_code == 0, made.output
    assert "2 speakers x 1 utterances of 1 to 1 words" in made.output
    spec = SpeechPhantom(speakers=2, utterances=1, words=(1, 1), vocabulary=4, snr=30, seed=7)
    assert verify_phantom_speech(speech, spec) == 2
    for arguments, word in (
        (["phantom", str(folder)], "exists"),
        (["phantom-speech", str(speech)], "exists already"),
        (["phantom-speech", str(tmp_path / "t"), "--words", "3"], "--words '3' must be the fewest and the most words"),
        (["phantom-speech", str(tmp_path / "t"), "--vocabulary", "0"], "vocabulary = 0"),
        (["phantom", str(tmp_path / "q"), "--shape", "2,48"], "--shape"),
        (["fetch", "vnk"], "vnc"),
        (["verify", "vnc", "--to", str(tmp_path)], "fetch vnc"),
    ):
        failed = run.invoke(app, arguments)
        assert isinstance(failed.exception, SynbbError)
        assert word in str(failed.exception)


def test_fetch_and_verify_commands_show_licence_and_citation(tmp_path: Path) -> None:
    write_sample(tmp_path / "up/sample_A.hdf")
    run = CliRunner()
    for words in ("fetched and checked", "nothing to do"):
        done = run.invoke(app, ["fetch", "cremi", "--from", str(tmp_path / "up"), "--to", str(tmp_path / "data")])
        assert done.exit_code == 0, done.output
        assert words in done.output
        assert "Licence:" in done.output
        assert "Funke" in done.output
    checked = run.invoke(app, ["verify", "cremi", "--to", str(tmp_path / "data")])
    assert checked.exit_code == 0, checked.output
    assert "right" in checked.output
