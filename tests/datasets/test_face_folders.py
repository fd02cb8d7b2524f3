"""Folders of faces: order, parts of them, light, pairs, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from synbb.datasets.face_folders import light_angle, list_faces, list_images, read_grey, read_pairs, select
from synbb.errors import SynbbError


def write(path: Path, value: int = 100, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for person in (1, 2, 10):
        for number in (1, 2, 11):
            write(tmp_path / "faces" / f"s{person}" / f"{number}.pgm")
    (tmp_path / "faces" / "README.txt").write_text("no image")
    (tmp_path / "faces" / "s1" / "notes.txt").write_text("no image")
    return tmp_path / "faces"


def names(faces: object) -> list[str]:
    return [f"{face.identity}/{face.path.stem}" for face in faces]  # type: ignore[attr-defined]


def test_identities_and_images_come_in_natural_order(folder: Path) -> None:
    assert names(list_faces(folder)) == [f"s{p}/{n}" for p in (1, 2, 10) for n in (1, 2, 11)]


def test_parts_are_half_open_and_counted_within_what_is_left(folder: Path) -> None:
    faces = list_faces(folder)
    assert names(select(faces, identities=(1, 3))) == [f"s{p}/{n}" for p in (2, 10) for n in (1, 2, 11)]
    assert names(select(faces, images=(0, 1))) == ["s1/1", "s2/1", "s10/1"]
    assert names(select(faces, images=(0, 1), exclude=["1.*"])) == ["s1/2", "s2/2", "s10/2"]
    both = names(select(faces, images=(0, 2))) + names(select(faces, images=(2, 99)))
    assert sorted(both) == sorted(names(faces)), "parts share nothing and leave nothing"


@pytest.mark.parametrize(
    ("name", "angle"),
    [
        ("yaleB01_P00A+000E+00.png", 0.0),
        ("yaleB01_P00A+025E+00.png", 25.0),
        ("yaleB01_P00A-035E+15.png", 37.7),  # arccos(cos 35 cos 15)
        ("yaleB01_P00A+000E-20.png", 20.0),
        ("yaleB01_P00_Ambient.png", None),
    ],
)
def test_the_direction_of_light_is_read_from_names(name: str, angle: float | None) -> None:
    found = light_angle(name)
    assert found == (None if angle is None else pytest.approx(angle, abs=0.01))


def test_light_selects_and_complains_of_names_without_it(tmp_path: Path) -> None:
    for name in ("P00A+000E+00", "P00A+010E+00", "P00A+025E+00", "P00A+050E+00"):
        write(tmp_path / "a" / f"{name}.png")
    faces = list_faces(tmp_path)
    assert [face.path.stem for face in select(faces, light=(0, 12))] == ["P00A+000E+00", "P00A+010E+00"]
    assert [face.path.stem for face in select(faces, light=(12, 25))] == ["P00A+025E+00"], "25 degrees are 25"
    write(tmp_path / "a" / "ambient.png")
    with pytest.raises(SynbbError, match=r"ambient\.png: its name does not say where the light came from"):
        select(list_faces(tmp_path), light=(0, 12))


@pytest.mark.real_data
def test_subsets_of_yale_b_have_the_sizes_of_the_literature() -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "yaleb"
    if not folder.is_dir():
        pytest.skip("no Yale B: ../shared/data/yaleb is not beside this checkout")
    faces = list_faces(folder)
    bounds = [(0, 12), (12, 25), (25, 51.2), (51.2, 77), (77, 180)]
    assert [len(select(faces, light=each)) for each in bounds] == [263, 456, 455, 526, 714]
    assert len({face.identity for face in faces}) == 38


def test_images_are_brought_to_one_size(tmp_path: Path) -> None:
    write(tmp_path / "a.png", value=77, size=(20, 30))
    values = read_grey(tmp_path / "a.png", (10, 12))
    assert values.shape == (10, 12)
    assert values.dtype == np.uint8
    assert (values == 77).all()


GREY = np.linspace(0, 255, 48).astype(np.uint8).reshape(8, 6)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("16.png", GREY.astype(np.uint16) * 257),
        ("16.tif", GREY.astype(np.uint16) * 257),
        ("16.pgm", GREY.astype(np.uint16) * 257),
        ("12.png", GREY.astype(np.uint16) * 16 + 15),
        ("32.tif", GREY.astype(np.int32) * 2**20),
        ("share.tif", GREY.astype(np.float32) / 255),
        ("8 bits as numbers.tif", GREY.astype(np.float32)),
    ],
)
def test_deeper_images_show_what_8_bits_do(tmp_path: Path, name: str, stored: np.ndarray) -> None:
    Image.fromarray(stored).save(tmp_path / name)
    assert (read_grey(tmp_path / name, GREY.shape) == GREY).all()


def test_values_that_are_no_grey_are_refused(tmp_path: Path) -> None:
    for number, value in enumerate((np.nan, np.inf, -1.0)):
        Image.fromarray(np.full((8, 6), value, np.float32)).save(tmp_path / f"{number}.tif")
        with pytest.raises(SynbbError, match=r"tif cannot be decoded .*negative values, or such that are no numbers"):
            read_grey(tmp_path / f"{number}.tif", (8, 6))


def test_a_photograph_taken_on_its_side_is_turned(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6  # the camera was turned by a quarter, clockwise
    Image.fromarray(np.rot90(GREY)).save(tmp_path / "a.png", exif=tag)
    assert (read_grey(tmp_path / "a.png", GREY.shape) == GREY).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow_and_other_tags_may_be_damaged(tmp_path: Path, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(GREY).save(tmp_path / "whole.png", exif=tags)
    with Image.open(tmp_path / "whole.png") as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    tags[0x0128] = "inch"  # the unit of resolution is a number
    Image.fromarray(GREY).save(tmp_path / "damaged.png", exif=tags)
    for name in ("whole.png", "damaged.png"):
        assert (read_grey(tmp_path / name, upright.shape) == upright).all()


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 20])
def test_what_does_not_decode_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(SynbbError, match=r"bad\.png cannot be decoded as an image"):
        read_grey(tmp_path / "bad.png", (4, 4))


def test_an_image_larger_than_pillow_opens_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(SynbbError, match=r"huge\.png cannot be decoded as an image .*decompression bomb"):
        read_grey(tmp_path / "huge.png", (8, 8))


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    with pytest.raises(SynbbError, match=r"cut\.png cannot be decoded"):
        read_grey(tmp_path / "cut.png", (64, 64))


def test_folders_without_faces(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match="no such folder"):
        list_faces(tmp_path / "nowhere")
    write(tmp_path / "loose.png")
    with pytest.raises(SynbbError, match=r"no image .* in a folder of its own"):
        list_faces(tmp_path)


def test_pairs_in_the_layout_of_lfw(tmp_path: Path) -> None:
    for name, count in (("Ann_Lee", 3), ("Bo", 1)):
        for number in range(1, count + 1):
            write(tmp_path / "lfw" / name / f"{name}_{number:04d}.jpg")
    faces = list_faces(tmp_path / "lfw")
    listed = tmp_path / "pairs.txt"
    listed.write_text("1\t2\nAnn_Lee\t1\t3\nAnn_Lee\t2\tBo\t1\n")
    assert read_pairs(listed, faces) == [(0, 2), (1, 3)]
    for text, message in (
        ("Ann_Lee\t1\t9\n", r"line 1: there is no image 9 of 'Ann_Lee'"),
        ("1\t2\nAnn_Lee\t1\n", r"line 2: .* is neither `name i j` nor `name i other j`"),
        ("Ann_Lee\tone\t2\n", r"line 1: 'one' is no number of an image of Ann_Lee"),
        ("10\t300\n", "holds no pair"),
        ("Ann_Lee\t2\t2\n", r"line 1: .* pairs an image with itself"),
    ):
        listed.write_text(text)
        with pytest.raises(SynbbError, match=message):
            read_pairs(listed, faces)
    with pytest.raises(SynbbError, match="no such file"):
        read_pairs(tmp_path / "none.txt", faces)


def test_a_first_pair_of_people_named_by_numbers_is_a_pair(tmp_path: Path) -> None:
    for name, count in (("12", 2), ("7", 1)):
        for number in range(1, count + 1):
            write(tmp_path / "faces" / name / f"{number}.png")
    faces = list_faces(tmp_path / "faces")
    assert [face.identity for face in faces] == ["7", "12", "12"]
    listed = tmp_path / "pairs.txt"
    for header in ("", "2\n", "1 2\n"):
        listed.write_text(header + "12 1 2\n12 1 7 1\n")
        assert read_pairs(listed, faces) == [(1, 2), (1, 0)]


def test_images_named_by_numbers_are_those_of_the_list(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "pairs.txt"
    listed.write_text("s1 1 11\ns1 2 s10 1\n")
    assert read_pairs(listed, list_faces(folder)) == [(0, 2), (1, 6)]
    second = select(list_faces(folder), images=(1, 3))
    listed.write_text("s1 2 11\n")
    assert read_pairs(listed, second) == [(0, 1)]
    listed.write_text("s1 1 2\n")
    with pytest.raises(SynbbError, match="there is no image 1 of 's1' in the images of the split"):
        read_pairs(listed, second)


def test_images_without_numbers_are_counted_before_some_are_chosen(tmp_path: Path) -> None:
    for name in ("front", "left", "right", "smile2"):
        write(tmp_path / "faces" / "A" / f"{name}.png")
    write(tmp_path / "faces" / "A" / ".front.png")
    listed = tmp_path / "pairs.txt"
    listed.write_text("A 3 4\n")
    faces = list_faces(tmp_path / "faces")
    assert read_pairs(listed, faces) == [(2, 3)]
    assert read_pairs(listed, select(faces, images=(2, 4))) == [(0, 1)]
    assert read_pairs(listed, select(faces, exclude=["left*"])) == [(1, 2)]
    listed.write_text("A 1 3\n")
    with pytest.raises(SynbbError, match="there is no image 1 of 'A'"):
        read_pairs(listed, select(faces, images=(2, 4)))
    write(tmp_path / "more" / "A" / "front.png")
    with pytest.raises(SynbbError, match=r"are both image 1 of 'A'; rename"):
        read_pairs(listed, [*faces, *list_faces(tmp_path / "more")])


def test_two_images_of_one_number_are_named(tmp_path: Path) -> None:
    for name in ("front_0001", "front_0002", "side_0001"):
        write(tmp_path / "A" / f"{name}.png")
    listed = tmp_path / "pairs.txt"
    listed.write_text("A 1 2\n")
    with pytest.raises(SynbbError, match=r"front_0001\.png and .*side_0001\.png are both image 1 of 'A'; rename"):
        read_pairs(listed, list_faces(tmp_path))


def test_images_of_which_some_have_numbers_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b_0001"):
        write(tmp_path / "A" / f"{name}.png")
    listed = tmp_path / "pairs.txt"
    listed.write_text("A 1 2\n")
    assert read_pairs(listed, list_faces(tmp_path)) == [(0, 1)]


def test_lists_of_other_editors(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "pairs.txt"
    listed.write_bytes("\ufeff1\t1\r\ns1\t1\t11\r\n".encode())
    assert read_pairs(listed, list_faces(folder)) == [(0, 2)]
    listed.write_bytes("José 1 2\n".encode("latin-1"))
    with pytest.raises(SynbbError, match=r"pairs\.txt: is not UTF-8 .* at byte 3\); convert it"):
        read_pairs(listed, list_faces(folder))
    listed.write_text("s1 ² 2\n")
    with pytest.raises(SynbbError, match=r"line 1: '²' is no number of an image of s1"):
        read_pairs(listed, list_faces(folder))


def test_a_picture_beside_the_folders_hides_none_of_them(folder: Path) -> None:
    below = list_images(folder)
    assert [path.parent.name for path in below] == ["s1"] * 3 + ["s2"] * 3 + ["s10"] * 3
    write(folder / "group.png")
    assert list_images(folder) == [folder / "group.png", *below]
    assert list_images(folder / "s1") == below[:3]
    assert list_images(folder / "group.png") == [folder / "group.png"]
    (folder / "none" / ".git").mkdir(parents=True)
    with pytest.raises(SynbbError, match=r"none: no image \(.*\) in it or in a folder in it"):
        list_images(folder / "none")


def test_hidden_files_and_folders_are_nobody(folder: Path) -> None:
    before = names(list_faces(folder))
    write(folder / ".thumbs" / "x.png")
    write(folder / "s1" / "._1.png")
    assert names(list_faces(folder)) == before
