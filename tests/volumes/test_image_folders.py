import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from synbb.errors import SynbbError
from synbb.volumes import open_volume
from synbb.volumes.image_stack import SectionCache

SIZE = (50.0, 4.0, 4.0)


def sections(folder, names, shape=(5, 6)):
    folder.mkdir()
    for value, name in enumerate(names):
        Image.fromarray(np.full(shape, value, np.uint8)).save(folder / name)
    return folder


def test_natural_order(tmp_path):
    folder = sections(tmp_path / "s", [f"sec_{z}.png" for z in range(12)])
    volume = open_volume(folder, voxel_size=SIZE)
    assert volume.read(volume.box)[:, 0, 0].tolist() == list(range(12))


def test_superscripts_are_no_numbers(tmp_path):
    folder = sections(tmp_path / "s", ["5²9.png", "5²10.png", "4²11.png"])
    volume = open_volume(folder, voxel_size=SIZE)
    assert volume.read(volume.box)[:, 0, 0].tolist() == [2, 0, 1]


def test_other_files_are_passed_over(tmp_path):
    folder = sections(tmp_path / "s", ["0.png", "1.png"])
    (folder / "notes.txt").write_text("x")
    (folder / "._0.png").write_bytes(b"resource fork")
    assert open_volume(folder, voxel_size=SIZE).shape == (2, 5, 6)


def test_voxel_size_is_asked_for(tmp_path):
    with pytest.raises(SynbbError, match="--voxel-size"):
        open_volume(sections(tmp_path / "s", ["0.png"]))


@pytest.mark.parametrize("size", [(1, 2), (1, 2, 3, 4), (0, 1, 1), (1, -1, 1), (1, float("nan"), 1)])
def test_voxel_size_that_makes_no_sense(tmp_path, size):
    with pytest.raises(SynbbError, match="three positive numbers"):
        open_volume(sections(tmp_path / "s", ["0.png"]), voxel_size=size)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_section_of_another_shape_is_named(tmp_path, suffix):
    folder = sections(tmp_path / "s", [f"{z}.{suffix}" for z in range(3)])
    Image.fromarray(np.zeros((5, 7), np.uint8)).save(folder / f"1.{suffix}")
    with pytest.raises(SynbbError, match=rf"1\.{suffix}: 5 x 7 pixels.*0\.{suffix} has 5 x 6"):
        open_volume(folder, voxel_size=SIZE)


def test_a_section_of_another_type_is_named(tmp_path):
    folder = sections(tmp_path / "s", ["0.tif", "1.tif"])
    tifffile.imwrite(folder / "1.tif", np.zeros((5, 6), np.uint16))
    with pytest.raises(SynbbError, match=r"1\.tif: pixels of type uint16"):
        open_volume(folder, voxel_size=SIZE)


def test_one_bit_and_eight_bit_masks_may_mix(tmp_path):
    folder = sections(tmp_path / "s", ["0.png", "1.png"])
    Image.fromarray(np.ones((5, 6), bool)).save(folder / "0.png")
    volume = open_volume(folder, voxel_size=SIZE)
    assert volume.dtype == np.uint8
    assert volume.read(volume.box)[:, 0, 0].tolist() == [1, 1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colour_is_no_section(tmp_path, suffix):
    folder = sections(tmp_path / "s", [f"0.{suffix}"])
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(folder / f"1.{suffix}")
    with pytest.raises(SynbbError, match=rf"1\.{suffix}.*grey"):
        open_volume(folder, voxel_size=SIZE)


def test_two_kinds_in_a_folder(tmp_path):
    with pytest.raises(SynbbError, match="both TIFF and PNG"):
        open_volume(sections(tmp_path / "s", ["0.png", "1.tif"]), voxel_size=SIZE)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_opening_decodes_no_section(tmp_path, monkeypatch, dtype):
    sections = np.random.default_rng(0).integers(0, 2, (3, 40, 50)).astype(dtype)
    for z, section in enumerate(sections):
        Image.fromarray(section).save(tmp_path / f"{z}.png")

    def decode(image):
        raise AssertionError(f"{image.filename} is decoded")

    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", decode)
        volume = open_volume(tmp_path, voxel_size=(1, 1, 1))
    assert (volume.read(volume.box) == sections).all()


def test_sixteen_bit_png(tmp_path):
    (tmp_path / "s").mkdir()
    array = np.arange(30, dtype=np.uint16).reshape(5, 6) * 2000
    Image.fromarray(array).save(tmp_path / "s" / "0.png")
    volume = open_volume(tmp_path / "s", voxel_size=SIZE)
    assert volume.dtype == np.uint16
    assert (volume.read(volume.box)[0] == array).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_deflate"])
def test_compressed_sections(tmp_path, compression):
    (tmp_path / "s").mkdir()
    array = np.random.default_rng(0).integers(0, 255, (2, 40, 50), np.uint8)
    for z in range(2):
        Image.fromarray(array[z]).save(tmp_path / "s" / f"{z}.tif", compression=compression)
    volume = open_volume(tmp_path / "s", voxel_size=SIZE)
    assert (volume.read(volume.box) == array).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_truncated_section_is_named(tmp_path, suffix):
    folder = tmp_path / "s"
    folder.mkdir()
    for z in range(3):
        section = np.random.default_rng(z).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(section).save(
            folder / f"{z}.{suffix}", **({"compression": "tiff_lzw"} if suffix == "tif" else {})
        )
    broken = folder / f"1.{suffix}"
    whole = broken.read_bytes()
    volume = open_volume(folder, voxel_size=SIZE)
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SynbbError, match=rf"1\.{suffix}.*unreadable"):
        volume.read(volume.box)
    broken.write_bytes(whole[:3])
    with pytest.raises(SynbbError, match=rf"1\.{suffix}.*unreadable"):
        open_volume(folder, voxel_size=SIZE)


def test_uncompressed_section_truncated(tmp_path):
    folder = sections(tmp_path / "s", ["0.tif", "1.tif"], (64, 64))
    volume = open_volume(folder, voxel_size=SIZE)
    (folder / "1.tif").write_bytes((folder / "1.tif").read_bytes()[:2000])
    with pytest.raises(SynbbError, match=r"1\.tif.*unreadable"):
        volume.read(volume.box)


def test_pages_in_a_folder_are_refused(tmp_path):
    folder = sections(tmp_path / "s", ["0.tif"])
    tifffile.imwrite(folder / "1.tif", np.zeros((3, 5, 6), np.uint8), photometric="minisblack")
    with pytest.raises(SynbbError, match=r"1\.tif: holds 3 pages"):
        open_volume(folder, voxel_size=SIZE)


def test_pages_of_two_shapes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "m.tif") as out:
        out.write(np.zeros((5, 6), np.uint8))
        out.write(np.zeros((5, 7), np.uint8))
    with pytest.raises(SynbbError, match=r"m\.tif.*pages differ"):
        open_volume(tmp_path / "m.tif", voxel_size=SIZE)


@pytest.mark.parametrize("shape", [(2, 3, 5, 6), (5, 6)])
def test_tiff_of_other_axes_is_refused(tmp_path, shape):
    tifffile.imwrite(tmp_path / "m.tif", np.zeros(shape, np.uint8), photometric="minisblack")
    with pytest.raises(SynbbError, match=r"m\.tif"):
        open_volume(tmp_path / "m.tif", voxel_size=SIZE)


def test_imagej_stack(tmp_path):
    array = np.random.default_rng(0).integers(0, 60000, (7, 20, 30)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "m.tif", array, imagej=True, metadata={"axes": "ZYX"})
    volume = open_volume(tmp_path / "m.tif", voxel_size=SIZE)
    assert (volume.read(volume.box) == array).all()


@pytest.mark.parametrize("name", ["nothing.zarr", "nothing.h5", "folder/nothing"])
def test_missing_file_shows_what_is_there(tmp_path, name):
    sections(tmp_path / "here", ["0.png"])
    with pytest.raises(SynbbError, match="no such file"):
        open_volume(tmp_path / name)


def test_things_that_are_no_volume(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("text")
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "one.png")
    for name, message in [("empty", "without TIFF or PNG"), ("a.txt", "no format"), ("one.png", "one section")]:
        with pytest.raises(SynbbError, match=message):
            open_volume(tmp_path / name, voxel_size=SIZE)
    with pytest.raises(SynbbError, match="neither HDF5, zarr nor N5"):
        open_volume(tmp_path / "a.txt", dataset="x")


def test_section_cache_stays_below_its_limit():
    cache = SectionCache(limit=250)
    for index in range(5):
        cache.put(index, np.zeros(100, np.uint8))
    assert [index for index in range(5) if cache.get(index) is not None] == [3, 4]
    cache.put(9, np.zeros(251, np.uint8))
    assert cache.get(9) is None
    assert cache.get(3) is not None


@pytest.mark.real_data
def test_real_sections(vnc_folder):
    raw = open_volume(vnc_folder / "stack1" / "raw", voxel_size=(50, 4.6, 4.6))
    labels = open_volume(vnc_folder / "stack1" / "synapses", voxel_size=(50, 4.6, 4.6))
    assert raw.shape[:2] == labels.shape[:2] == (20, 1024)
    band = type(raw.box)((0, 0, 0), (20, 1024, 704))
    assert (labels.crop(band).read(band) > 0).mean() == pytest.approx(0.00567, abs=0.00005)


def test_missing_numbers_are_told(tmp_path):
    names = [f"cell2_z{z:03}.png" for z in range(12) if z not in (4, 7, 8)]
    folder = sections(tmp_path / "s", names)
    with pytest.warns(UserWarning, match=r"synbb: .*: 1 between cell2_z003.png and cell2_z005.png, 2 between") as told:
        assert open_volume(folder, voxel_size=SIZE).shape[0] == 9
    assert len(told) == 1


@pytest.mark.parametrize(
    "names",
    [
        [f"{z}.png" for z in range(4)],
        [f"{z}.png" for z in range(0, 100, 10)],  # named by nm, say
        ["a.png", "b.png", "d.png"],
        ["1.png", "2.png", "x.png", "5.png"],
        ["1_a.png", "1_b.png", "3_a.png", "3_b.png"],
        ["only-7.png"],
    ],
)
@pytest.mark.filterwarnings("error")
def test_numbers_that_do_not_count_sections_are_left_alone(tmp_path, names):
    assert open_volume(sections(tmp_path / "s", names), voxel_size=SIZE).shape[0] == len(names)


def test_sections_whose_zero_is_white_are_told(tmp_path):
    folder = sections(tmp_path / "s", ["0.tif", "1.tif", "2.tif"])
    tifffile.imwrite(folder / "1.tif", np.full((5, 6), 7, np.uint8), photometric="miniswhite")
    with pytest.warns(
        UserWarning, match=r"synbb: .*s: 1 of 3 sections, 1\.tif the first, call 0 white .* convert them"
    ):
        volume = open_volume(folder, voxel_size=SIZE)
    assert volume.read(volume.box)[:, 0, 0].tolist() == [0, 7, 2], "as they are stored"
    many = tmp_path / "many.tif"
    tifffile.imwrite(many, np.full((3, 5, 6), 7, np.uint8), photometric="miniswhite")
    with pytest.warns(UserWarning, match=r"many\.tif: its sections call 0 white .* --invert exchange"):
        assert (open_volume(many, voxel_size=SIZE).read(volume.box) == 7).all()


GREY = np.array([[10, 200, 90], [200, 90, 10]], np.uint8)


@pytest.mark.parametrize("kind", ["png", "tif", "pages"])
def test_places_in_a_palette_are_no_grey_values(tmp_path, kind):
    folder = tmp_path / "s"
    folder.mkdir()
    greys, places = np.unique(GREY, return_inverse=True)
    places = places.reshape(GREY.shape).astype(np.uint8)
    if kind == "png":
        image = Image.fromarray(places, "P")
        image.putpalette([value for grey in greys.tolist() for value in (grey, grey, grey)])
        image.save(folder / "0.png")
    else:
        colours = np.zeros((3, 256), np.uint16)
        colours[:, : len(greys)] = greys * np.uint16(257)
        stored = places if kind == "tif" else np.stack([places, places])
        tifffile.imwrite(folder / "0.tif", stored, photometric="palette", colormap=colours)
    with pytest.raises(SynbbError, match=r"0\.(png|tif): its pixels are places in a palette of \d+ colours.*to grey"):
        open_volume(folder / "0.tif" if kind == "pages" else folder, voxel_size=SIZE)


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_a_palette_of_all_greys_in_order_changes_nothing(tmp_path, kind):
    folder = tmp_path / "s"
    folder.mkdir()
    if kind == "png":
        image = Image.fromarray(GREY, "P")
        image.putpalette([value for grey in range(256) for value in (grey, grey, grey)])
        image.save(folder / "0.png")
    else:
        ramp = np.broadcast_to(np.arange(256, dtype=np.uint16) * 257, (3, 256))
        tifffile.imwrite(folder / "0.tif", GREY, photometric="palette", colormap=ramp)
    volume = open_volume(folder, voxel_size=SIZE)
    assert (volume.read(volume.box)[0] == GREY).all()
