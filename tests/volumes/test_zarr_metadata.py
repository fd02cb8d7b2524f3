"""OME-Zarr metadata: what we write holds the published rules; what others write is read."""

import json

import ngff_schema
import numpy as np
import pytest
import zarr

from synbb.errors import SynbbError
from synbb.volumes import Box, create_volume, open_volume
from synbb.volumes.pyramid import build_pyramid


def test_written_metadata_follow_the_specification(tmp_path):
    path = tmp_path / "em.zarr"
    out = create_volume(
        path, shape=(4, 300, 200), dtype="uint8", voxel_size=(40, 4, 4), offset=(80, 2, 6), attributes={"kind": "raw"}
    )
    out.write(out.box, np.ones(out.shape, np.uint8))
    build_pyramid(str(path))
    stored = json.loads((path / "zarr.json").read_text())
    assert (stored["zarr_format"], stored["node_type"]) == (3, "group")
    ngff_schema.validate(stored["attributes"], "0.5")
    assert stored["attributes"]["synbb"] == {"kind": "raw"}
    image = stored["attributes"]["ome"]["multiscales"][0]
    assert [(a["name"], a["type"], a["unit"]) for a in image["axes"]] == [(n, "space", "nanometer") for n in "zyx"]
    assert len(image["datasets"]) > 2
    for number, level in enumerate(image["datasets"]):
        array = json.loads((path / level["path"] / "zarr.json").read_text())
        assert array["dimension_names"] == ["z", "y", "x"]
        first, second = level["coordinateTransformations"]
        assert (first["type"], second["type"]) == ("scale", "translation")
        # Every level begins at one corner: its first centre lies half its own voxel from there.
        corner = [t - s / 2 for t, s in zip(second["translation"], first["scale"], strict=True)]
        assert corner == pytest.approx([80 - 20, 2 - 2, 6 - 2])
        if number:
            before = image["datasets"][number - 1]["coordinateTransformations"][0]["scale"]
            assert all(b in (a, 2 * a) for a, b in zip(before, first["scale"], strict=True))


def image(path, shapes, *, version="0.4", axes="zyx", unit="nanometer", scales=None, translations=None, top=()):
    """Write an OME-Zarr image as another program might; array k holds k + 1."""
    fmt = 3 if version == "0.5" else 2
    group = zarr.open_group(str(path), mode="w", zarr_format=fmt)
    datasets = []
    for k, shape in enumerate(shapes):
        array = group.create_array(str(k), shape=shape, chunks=shape, dtype="uint8")
        array[:] = np.arange(array.size, dtype=np.uint8).reshape(shape) + k
        steps = [] if scales is None else [{"type": "scale", "scale": scales[k]}]
        steps += [] if translations is None else [{"type": "translation", "translation": translations[k]}]
        datasets.append({"path": str(k), **({"coordinateTransformations": steps} if steps else {})})
    kinds = {"t": "time", "c": "channel"}
    named = [
        {"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if unit and a not in kinds else {})} for a in axes
    ]
    multiscale = {"axes": named, "datasets": datasets, **({"coordinateTransformations": list(top)} if top else {})}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    else:
        group.attrs["multiscales"] = [{"version": version, **multiscale}]
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_units_and_offsets(tmp_path, version):
    path = image(
        tmp_path / "a.zarr",
        [(4, 8, 8), (4, 4, 4)],
        version=version,
        unit="micrometer",
        scales=[[0.05, 0.004, 0.004], [0.05, 0.008, 0.008]],
        translations=[[1, 0, 0], [1, 0.002, 0.002]],
    )
    volume = open_volume(path)
    assert version in volume.format
    assert [level.shape for level in volume.levels] == [(4, 8, 8), (4, 4, 4)]
    assert volume.voxel_size == pytest.approx((50, 4, 4))
    assert volume.levels[1].voxel_size == pytest.approx((50, 8, 8))
    assert volume.offset == pytest.approx((1000, 0, 0))
    assert volume.levels[1].offset == pytest.approx((1000, 2, 2))
    assert volume.levels[0] is volume


def test_one_level_of_a_pyramid_by_its_own_path(tmp_path):
    path = image(tmp_path / "a.zarr", [(4, 8, 8), (4, 4, 4)], scales=[[50, 4, 4], [50, 8, 8]])
    for level in (open_volume(path / "1"), open_volume(path, dataset="1"), open_volume(f"{path}:1")):
        assert (level.shape, level.voxel_size, level.levels) == ((4, 4, 4), (50, 8, 8), (level,))


def test_singleton_time_and_channel_are_squeezed(tmp_path):
    path = image(tmp_path / "a.zarr", [(1, 1, 3, 4, 5)], axes="tczyx", scales=[[1, 1, 50, 4, 4]])
    volume = open_volume(path)
    assert volume.shape == (3, 4, 5)
    assert volume.read(Box((1, 2, 3), (2, 3, 4))).item() == 20 + 10 + 3


def test_axes_in_another_order_are_put_right(tmp_path):
    path = image(tmp_path / "a.zarr", [(5, 1, 4, 3)], axes="xcyz", scales=[[6, 1, 4, 50]])
    volume = open_volume(path)
    stored = np.arange(60).reshape(5, 4, 3)
    assert (volume.shape, volume.voxel_size) == ((3, 4, 5), (50, 4, 6))
    assert (volume.read(volume.box) == stored.transpose(2, 1, 0)).all()
    assert (volume.dask.compute(scheduler="sync") == stored.transpose(2, 1, 0)).all()


def test_transformation_of_the_whole_image_comes_last(tmp_path):
    top = [{"type": "scale", "scale": [2, 2, 2]}, {"type": "translation", "translation": [1, 1, 1]}]
    path = image(tmp_path / "a.zarr", [(3, 4, 5)], scales=[[25, 2, 2]], translations=[[10, 0, 0]], top=top)
    assert open_volume(path).voxel_size == (50, 4, 4)
    assert open_volume(path).offset == (21, 1, 1)


def test_no_unit_asks_for_the_voxel_size_and_scales_the_offset(tmp_path):
    path = image(tmp_path / "a.zarr", [(3, 4, 5)], unit=None, scales=[[1, 2, 2]], translations=[[3, 4, 4]])
    with pytest.raises(SynbbError, match="voxel size"):
        open_volume(path)
    volume = open_volume(path, voxel_size=(50, 4, 4))
    assert (volume.voxel_size, volume.offset) == ((50, 4, 4), (150, 8, 8))


def test_given_voxel_size_overrules_and_levels_keep_their_ratio(tmp_path):
    path = image(tmp_path / "a.zarr", [(4, 8, 8), (4, 4, 4)], scales=[[50, 4, 4], [50, 8, 8]])
    volume = open_volume(path, voxel_size=(40, 5, 5))
    assert [level.voxel_size for level in volume.levels] == [(40, 5, 5), (40, 10, 10)]
    assert volume.levels[1].offset == (0, 2.5, 2.5)


def test_given_voxel_size_moves_the_levels_with_it(tmp_path):
    scales, translations = [[50, 4, 4], [50, 8, 8]], [[100, 40, 80], [100, 42, 82]]
    path = image(tmp_path / "a.zarr", [(4, 8, 8), (4, 4, 4)], scales=scales, translations=translations)
    volume = open_volume(path, voxel_size=(40, 5, 5))
    assert volume.offset == (100, 40, 80)
    assert volume.levels[1].offset == pytest.approx((100, 42.5, 82.5))
    assert [level.offset for level in open_volume(path).levels] == [(100, 40, 80), (100, 42, 82)]


def test_bioformats_layout(tmp_path):
    zarr.open_group(str(tmp_path / "b.zarr"), mode="w", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    image(tmp_path / "b.zarr" / "0", [(3, 4, 5)], scales=[[50, 4, 4]])
    assert open_volume(tmp_path / "b.zarr").shape == (3, 4, 5)


def test_cremi_layout_in_zarr(tmp_path):
    group = zarr.open_group(str(tmp_path / "c.zarr"), mode="w", zarr_format=2)
    array = group.create_array("volumes/raw", shape=(3, 4, 5), chunks=(3, 4, 5), dtype="uint8")
    array.attrs.update({"resolution": [40, 4, 4], "offset": [40, 8, 8]})
    volume = open_volume(tmp_path / "c.zarr")
    assert (volume.voxel_size, volume.offset) == ((40, 4, 4), (40, 8, 8))


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((4, 5), "yx", "2 axes"),
        ((2, 3, 4, 5), "czyx", r"c \(2\)"),
        ((3, 4, 5), "tyx", "t, y, x"),
    ],
)
def test_wrong_axes_are_named(tmp_path, shape, axes, message):
    path = image(tmp_path / "a.zarr", [shape], axes=axes, scales=[[1.0] * len(axes)])
    with pytest.raises(SynbbError, match=message):
        open_volume(path)


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 4, 5)])
def test_wrong_number_of_axes_of_a_plain_array(tmp_path, shape):
    zarr.create_array(str(tmp_path / "p.zarr"), shape=shape, dtype="uint8")
    with pytest.raises(SynbbError, match=r"p\.zarr.*axes"):
        open_volume(tmp_path / "p.zarr", voxel_size=(1, 1, 1))


@pytest.mark.parametrize(
    "broken",
    [
        [{"datasets": []}],
        [{"axes": "zyx"}],
        [{"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale"}]}], "axes": ["z", "y", "x"]}],
        [{"datasets": [{"path": "0", "coordinateTransformations": [{"type": "affine"}]}], "axes": ["z", "y", "x"]}],
        [{"datasets": [{"path": "0"}], "axes": [{"type": "space"}] * 3}],
        ["no object"],
    ],
)
def test_broken_metadata_are_a_users_error(tmp_path, broken):
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2, attributes={"multiscales": broken})
    group.create_array("0", shape=(2, 3, 4), dtype="uint8")
    with pytest.raises(SynbbError, match=r"a\.zarr.*(OME-Zarr|axes)"):
        open_volume(tmp_path / "a.zarr", voxel_size=(1, 1, 1))


def test_missing_level_is_named(tmp_path):
    path = image(tmp_path / "a.zarr", [(4, 8, 8), (4, 4, 4)], scales=[[50, 4, 4], [50, 8, 8]])
    for file in sorted((path / "1").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    with pytest.raises(SynbbError, match="level '1'"):
        open_volume(path)


def test_group_without_metadata_lists_its_arrays(tmp_path):
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w", zarr_format=3)
    group.create_array("inner/em", shape=(2, 3, 4), dtype="uint8")
    with pytest.raises(SynbbError, match=r"inner/em \(2, 3, 4\) uint8"):
        open_volume(tmp_path / "g.zarr")
    with pytest.raises(SynbbError, match=r"no array or group 'inner/no'.*inner/em"):
        open_volume(tmp_path / "g.zarr", dataset="inner/no")
    assert open_volume(tmp_path / "g.zarr", dataset="inner/em", voxel_size=(1, 1, 1)).shape == (2, 3, 4)


def test_broken_json_is_a_users_error(tmp_path):
    create_volume(tmp_path / "v.zarr", shape=(2, 3, 4), dtype="uint8", voxel_size=(1, 1, 1))
    (tmp_path / "v.zarr" / "zarr.json").write_text('{"zarr_format": 3,')
    with pytest.raises(SynbbError, match=r"v\.zarr.*metadata"):
        open_volume(tmp_path / "v.zarr")


@pytest.mark.parametrize("translations", [None, [[8, 0, 0], [8, 0, 0], [8, 6, 6]]])
def test_a_level_opened_alone_lies_where_it_does_in_its_pyramid(tmp_path, translations):
    scales = [[40, 4, 4], [40, 8, 8], [40, 16, 16]]
    path = image(tmp_path / "p.zarr", [(2, 8, 8), (2, 4, 4), (2, 2, 2)], scales=scales, translations=translations)
    levels = open_volume(path).levels
    assert levels[1].offset != levels[0].offset
    for number, level in enumerate(levels):
        alone = open_volume(f"{path}:{number}")
        assert (alone.voxel_size, alone.offset) == (level.voxel_size, level.offset)
