"""Drawn faces: reproducible, told apart, and not by their background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from synbb.datasets import fetch, verify
from synbb.datasets.face_folders import list_faces, read_grey
from synbb.datasets.phantom_faces import FACES, FacePhantom, draw_face, write_phantom_faces
from synbb.errors import SynbbError

SPEC = FacePhantom(identities=12, images=6, size=(48, 40))


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    write_phantom_faces(tmp_path / "a", SPEC)
    faces = list_faces(tmp_path / "a")
    assert len(faces) == 72
    assert [face.identity for face in faces[::6]] == [f"p{n:02d}" for n in range(1, 13)]
    np.testing.assert_array_equal(read_grey(faces[7].path, SPEC.size), draw_face(SPEC, 1, 1))
    other = FacePhantom(identities=12, images=6, size=(48, 40), seed=1)
    assert (draw_face(other, 1, 1) != draw_face(SPEC, 1, 1)).any()


def test_images_of_one_person_are_alike_and_their_corners_say_nothing() -> None:
    drawn = np.array([[draw_face(SPEC, p, n) for n in range(6)] for p in range(12)], dtype=float)

    def named_right(values: np.ndarray) -> float:
        """Share of images whose nearest other image, by correlation, shows the same person."""
        flat = values.reshape(72, -1)
        flat = (flat - flat.mean(axis=1, keepdims=True)) / (flat.std(axis=1, keepdims=True) + 1e-9)
        alike = flat @ flat.T
        np.fill_diagonal(alike, -np.inf)
        return float((alike.argmax(axis=1) // 6 == np.arange(72) // 6).mean())

    assert 0.3 < named_right(drawn) < 0.95, "neither hopeless nor a matter of comparing pixels"
    assert named_right(drawn[:, :, :6, :6]) < 0.3, "a corner shows the background alone"


def test_fetched_and_verified_by_the_manifest(tmp_path: Path) -> None:
    first = fetch("phantom-faces", to=tmp_path)
    assert not first.current
    assert fetch("phantom-faces", to=tmp_path).current
    assert verify("phantom-faces", to=tmp_path) == ["200 images: every pixel as the spec gives it"]
    damaged = tmp_path / "phantom-faces" / "p03" / "04.png"
    damaged.write_bytes((tmp_path / "phantom-faces" / "p03" / "05.png").read_bytes())
    with pytest.raises(SynbbError, match=r"04\.png: differs"):
        verify("phantom-faces", to=tmp_path)
    damaged.unlink()
    with pytest.raises(SynbbError, match=r"04\.png: missing"):
        fetch("phantom-faces", to=tmp_path)
    with pytest.raises(SynbbError, match="makes this dataset itself"):
        fetch("phantom-faces", source=tmp_path, to=tmp_path / "other")


def test_other_faces_are_not_the_dataset(tmp_path: Path) -> None:
    folder = write_phantom_faces(tmp_path / "phantom-faces", FacePhantom(identities=21))
    for check in (fetch, verify):
        with pytest.raises(SynbbError, match="another phantom, whose identities is 21; that of the dataset is 20"):
            check("phantom-faces", to=tmp_path)
    write_phantom_faces(folder, FacePhantom(), overwrite=True)
    (folder / "README.txt").touch()
    verify("phantom-faces", to=tmp_path)
    for stranger in ("p05/11.png", "somebody/1.png"):
        (folder / stranger).parent.mkdir(exist_ok=True)
        (folder / stranger).write_bytes((folder / "p01" / "01.png").read_bytes())
        with pytest.raises(SynbbError, match=f"{stranger}: no image of the dataset; move it elsewhere"):
            verify("phantom-faces", to=tmp_path)
        (folder / stranger).unlink()


def test_keys_of_a_spec() -> None:
    assert FacePhantom.from_dict({"identities": 3, "size": [20, 18]}).size == (20, 18)
    with pytest.raises(SynbbError, match="unknown key 'image'; did you mean 'images'"):
        FacePhantom.from_dict({"image": 3})


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match="at least"):
        FacePhantom(identities=0)
    for name, value in (("seed", -1), ("noise", np.nan), ("noise", -0.1), ("light", np.inf)):
        with pytest.raises(SynbbError, match=f"phantom faces: {name} = {value} must be a number of at least 0"):
            FacePhantom(**{name: value})
    write_phantom_faces(tmp_path / "a", FacePhantom(identities=1, images=1))
    with pytest.raises(SynbbError, match="exists already"):
        write_phantom_faces(tmp_path / "a", SPEC)
    write_phantom_faces(tmp_path / "a", SPEC, overwrite=True)
    assert len(list_faces(tmp_path / "a")) == 72
    assert FACES.read(tmp_path / "a") == SPEC
