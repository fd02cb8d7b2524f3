"""Records of phantoms, and what may be replaced by one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from synbb.datasets.phantom import TISSUE, PhantomSpec, write_phantom
from synbb.datasets.phantom_faces import FACES, FacePhantom, write_phantom_faces
from synbb.datasets.phantom_kinds import SPEC_FILE, PhantomKind
from synbb.datasets.phantom_speech import SPEECH, SpeechPhantom, write_phantom_speech
from synbb.errors import RunEnded, SynbbError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
WRITERS: dict[str, Callable[..., Any]] = {
    "phantom": lambda folder: write_phantom(folder, PhantomSpec(shape=(1, 40, 32)), overwrite=True, neurites=True),
    "phantom faces": lambda folder: write_phantom_faces(folder, FacePhantom(1, 1), overwrite=True),
    "phantom speech": lambda folder: write_phantom_speech(
        folder, SpeechPhantom(speakers=1, utterances=1, words=(1, 1), vocabulary=1), overwrite=True
    ),
}
KINDS: dict[str, PhantomKind[Any]] = {kind.name: kind for kind in (TISSUE, FACES, SPEECH)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_no_phantom_of_the_kind_is_never_replaced(kind: str, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.tex").write_text("the only copy")
    (tmp_path / "file").write_text("another")
    shutil.copytree(CONFIGS / "synapse", tmp_path / "configs")  # its phantom.yaml is a config
    WRITERS[next(other for other in WRITERS if other != kind)](tmp_path / "other")
    before = contents(tmp_path)
    for name in ("thesis", "file", "configs", "other"):
        with pytest.raises(SynbbError, match=f"{name}: exists and is not a phantom of the kind '{kind}', so it is not"):
            WRITERS[kind](tmp_path / name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", WRITERS)
def test_a_phantom_is_replaced_when_nothing_else_is_in_its_folder(kind: str, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    WRITERS[kind](tmp_path / "p")
    before = contents(tmp_path / "p")
    for stranger in ("notes.txt", ".mine/notes.txt", "raw.zarr/labels/zarr.json", "p02/01.png", "s02/01.wav"):
        path = tmp_path / "p" / stranger
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("the only copy")
        with pytest.raises(SynbbError, match=f"p: holds {stranger}, which the phantom there did not come with"):
            WRITERS[kind](tmp_path / "p")
        assert path.read_text() == "the only copy"
        path.unlink()
    WRITERS[kind](tmp_path / "p")
    assert contents(tmp_path / "p") == before
    assert [each.name for each in tmp_path.iterdir()] == ["p"]


def test_what_is_put_there_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    WRITERS["phantom faces"](tmp_path / "p")
    with pytest.raises(SynbbError, match=r"holds notes\.txt"), FACES.folder(tmp_path / "p", overwrite=True):
        (tmp_path / "p" / "notes.txt").touch()
    assert (tmp_path / "p" / "p01" / "01.png").is_file()


def test_the_old_one_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    WRITERS["phantom faces"](tmp_path / "p")
    before = contents(tmp_path)
    with pytest.raises(ZeroDivisionError), FACES.folder(tmp_path / "p", overwrite=True) as stage:
        (stage / SPEC_FILE).write_text(str(1 / 0))
    assert contents(tmp_path) == before


def test_a_phantom_is_replaced_through_a_link(tmp_path: Path) -> None:
    WRITERS["phantom faces"](tmp_path / "large disk" / "p")
    (tmp_path / "p").symlink_to(tmp_path / "large disk" / "p")
    write_phantom_faces(tmp_path / "p", FacePhantom(2, 1), overwrite=True)
    assert (tmp_path / "p").is_symlink()
    assert FACES.read(tmp_path / "large disk" / "p") == FacePhantom(2, 1)


def test_a_full_disk_ends_a_phantom(tmp_path: Path) -> None:
    with pytest.raises(RunEnded, match=r"p: the disk .* is full"), FACES.folder(tmp_path / "p", overwrite=False):
        Path("/dev/full").write_text("x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", WRITERS)
def test_records_tell_their_kind_and_are_read_without_it(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path / "p")
    record = yaml.safe_load((tmp_path / "p" / SPEC_FILE).read_text())
    assert record["kind"] == kind
    spec = KINDS[kind].read(tmp_path / "p")
    assert KINDS[kind].to_dict(spec) == record["spec"]
    (tmp_path / "p" / SPEC_FILE).write_text(yaml.safe_dump(record["spec"]))
    assert KINDS[kind].read(tmp_path / "p") == spec
    WRITERS[kind](tmp_path / "p")
    assert yaml.safe_load((tmp_path / "p" / SPEC_FILE).read_text()) == record


@pytest.mark.parametrize(
    "record", ["", "[1", "- 1", "seed: 0", "kind: phantom faces", "{kind: phantom faces, spec: 3}",
               "{kind: phantom faces, spec: {size: big}}", "{kind: phantom faces, spec: {seed: -1}}",
               "{kind: phantom speech, spec: {}}"],
)  # fmt: skip
def test_records_that_are_none(record: str, tmp_path: Path) -> None:
    (tmp_path / SPEC_FILE).write_text(record)
    with pytest.raises(SynbbError, match=r"phantom\.yaml: is no record of the kind 'phantom faces' "):
        FACES.read(tmp_path)


def test_a_folder_without_a_record(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"holds no finished phantom; make one with `synbb data phantom-speech`"):
        SPEECH.read(tmp_path)
