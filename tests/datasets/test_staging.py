"""Folders that appear when they are whole, and what may be replaced by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from synbb.datasets.phantom import PhantomSpec, write_phantom
from synbb.datasets.phantom_faces import FacePhantom, write_phantom_faces
from synbb.datasets.phantom_speech import SpeechPhantom, write_phantom_speech
from synbb.datasets.staging import SPEC_FILE, phantom_folder, staged_folder
from synbb.errors import SynbbError

WRITERS = {
    "em": lambda folder: write_phantom(folder, PhantomSpec(shape=(1, 40, 32)), overwrite=True),
    "faces": lambda folder: write_phantom_faces(folder, FacePhantom(1, 1), overwrite=True),
    "speech": lambda folder: write_phantom_speech(
        folder, SpeechPhantom(speakers=1, utterances=1, words=(1, 1), vocabulary=1), overwrite=True
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_no_phantom_is_never_replaced(kind: str, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.tex").write_text("the only copy")
    (tmp_path / "file").write_text("another")
    for name in ("thesis", "file"):
        with pytest.raises(SynbbError, match="is not a phantom, so it is not overwritten"):
            WRITERS[kind](tmp_path / name)
    assert (tmp_path / "thesis" / "chapter-1.tex").read_text() == "the only copy"
    (tmp_path / "empty").mkdir()
    WRITERS[kind](tmp_path / "empty")
    before = {file.name for file in (tmp_path / "empty").iterdir()}
    WRITERS[kind](tmp_path / "empty")
    assert {file.name for file in (tmp_path / "empty").iterdir()} == before


def test_the_old_one_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    with phantom_folder(tmp_path / "p", overwrite=False) as stage:
        (stage / SPEC_FILE).write_text("old")
    with pytest.raises(ZeroDivisionError), phantom_folder(tmp_path / "p", overwrite=True) as stage:
        (stage / SPEC_FILE).write_text(str(1 / 0))
    assert [(file.name, file.read_text()) for file in (tmp_path / "p").iterdir()] == [(SPEC_FILE, "old")]
    assert [each.name for each in tmp_path.iterdir()] == ["p"]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "left by a killed process").touch()
    with staged_folder(tmp_path / "a") as stage:
        (stage / "file").touch()
        assert not (tmp_path / "a").exists()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["file"]
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
