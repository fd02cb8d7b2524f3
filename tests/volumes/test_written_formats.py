"""What is written: opened by another program, judged by the published schemas, placed right at every level."""

import json

import jsonschema
import ngff_schema
import numpy as np
import pytest

from synbb.errors import SynbbError
from synbb.volumes import create_volume, open_volume
from synbb.volumes.convert import convert

SIZE = (50.0, 4.0, 6.0)
TARGETS = ("0.5", "0.4", "precomputed")


def write(kind, source, folder, **options):
    """Convert to one of TARGETS; returns what to open."""
    if kind == "precomputed":
        pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")
        target = f"precomputed://{folder / 'out'}"
        convert(source, target, **options)
        return target
    convert(source, folder / "out.zarr", ome_version=kind, **options)
    return folder / "out.zarr"


def make(folder, array, *, offset=(0.0, 0.0, 0.0), size=SIZE):
    out = create_volume(folder / "in.zarr", shape=array.shape, dtype=array.dtype, voxel_size=size, offset=offset)
    out.write(out.box, array)
    return folder / "in.zarr"


def tensorstore_levels(target):
    """Every level as tensorstore sees it: values (z, y, x), nm of a voxel and of the first centre."""
    ts = pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")
    if str(target).startswith("precomputed://"):
        folder = str(target).removeprefix("precomputed://")
        with open(f"{folder}/info") as file:
            count = len(json.load(file)["scales"])
        for number in range(count):
            spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", "scale_index": number}
            store = ts.open(spec).result()[ts.d["channel"][0]]
            units = [unit.multiplier for unit in store.dimension_units]
            corner = [o * u for o, u in zip(store.domain.inclusive_min, units, strict=True)]
            centre = [c + u / 2 for c, u in zip(corner, units, strict=True)]
            yield store.read().result().T, units[::-1], centre[::-1]
        return
    driver, name = ("zarr3", "zarr.json") if (target / "zarr.json").exists() else ("zarr", ".zattrs")
    attributes = json.loads((target / name).read_text())
    image = (attributes["attributes"]["ome"] if driver == "zarr3" else attributes)["multiscales"][0]
    for dataset in image["datasets"]:
        store = ts.open({"driver": driver, "kvstore": f"file://{target}/{dataset['path']}/"}).result()
        scale, translation = dataset["coordinateTransformations"]
        yield store.read().result(), scale["scale"], translation["translation"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "uint64"])
@pytest.mark.parametrize("kind", TARGETS)
def test_tensorstore_reads_the_same_values(kind, dtype, tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (5, 70, 133)).astype(dtype)
    source = make(tmp_path, array, offset=(25, 2, 3))
    target = write(kind, source, tmp_path, pyramid=True)
    ours = open_volume(target)
    assert len(ours.levels) == 4
    assert (ours.dtype, ours.voxel_size, ours.offset) == (np.dtype(dtype), SIZE, pytest.approx((25, 2, 3)))
    levels = list(tensorstore_levels(target))
    assert (levels[0][0] == array).all()
    for level, (values, size, centre) in zip(ours.levels, levels, strict=True):
        assert (level.read(level.box) == values).all()
        assert level.voxel_size == pytest.approx(size)
        assert level.offset == pytest.approx(centre)


@pytest.mark.parametrize("kind", ["0.5", "0.4"])
def test_metadata_hold_the_published_schema(kind, tmp_path):
    source = make(tmp_path, np.ones((4, 300, 200), np.uint8), offset=(80, 2, 6))
    target = write(kind, source, tmp_path, pyramid=True)
    if kind == "0.5":
        attributes = json.loads((target / "zarr.json").read_text())["attributes"]
    else:
        attributes = json.loads((target / ".zattrs").read_text())
        assert json.loads((target / "0" / ".zarray").read_text())["dimension_separator"] == "/"
        assert not list(target.rglob("zarr.json"))
    ngff_schema.validate(attributes, kind)
    # The schema can say no.
    holder = attributes["ome"] if kind == "0.5" else attributes
    holder["multiscales"][0]["datasets"][0]["coordinateTransformations"].reverse()
    del holder["multiscales"][0]["axes"]
    with pytest.raises(jsonschema.ValidationError):
        ngff_schema.validate(attributes, kind)


# A voxel bright in level 0, its place in the world, and where the volume begins: on the grid, half a voxel off it (an
# offset of 0 is a centre), and at odd voxels, so that coarser voxels of precomputed reach out of the volume.
@pytest.mark.parametrize("offset", [(25, 2, 3), (0, 0, 0), (175, 14, 9), (-125, -22, 63)])
@pytest.mark.parametrize("marker", [(0, 0, 0), (3, 101, 77), (6, 149, 199)])
@pytest.mark.parametrize("kind", TARGETS)
def test_a_marker_stays_where_it_is_at_every_level(kind, marker, offset, tmp_path):
    array = np.zeros((7, 150, 200), np.float32)
    array[marker] = 1e6
    place = np.array(offset) + np.array(marker) * SIZE
    target = write(kind, make(tmp_path, array, offset=offset), tmp_path, pyramid=True)
    levels = list(tensorstore_levels(target))
    assert len(levels) > 2
    off_grid = kind == "precomputed" and offset == (0, 0, 0)
    for values, size, centre in levels:
        brightest = np.argwhere(values == values.max())
        found = np.array(centre) + brightest * np.array(size)
        # Half a voxel of the level at most, and half one of level 0 for what lies off the grid.
        allowed = np.array(size) / 2 + (np.array(SIZE) / 2 if off_grid else 0)
        assert (np.abs(found - place).min(axis=0) <= allowed + 1e-6).all()
        assert len(brightest) == 1
    ours = open_volume(target)
    for level in ours.levels:
        values = level.read(level.box)
        found = level.centre_of(np.argwhere(values == values.max())[0])
        assert (np.abs(np.array(found) - place) <= np.array(level.voxel_size) / 2 + 1e-6).all()
    assert ours.offset == pytest.approx(offset)


@pytest.mark.parametrize("kind", ["0.4", "precomputed"])
def test_labels_metadata_and_rewriting(kind, tmp_path):
    labels = np.random.default_rng(0).choice(np.array([0, 5, 2**40 + 1], np.uint64), (2, 150, 150))
    out = create_volume(
        tmp_path / "in.zarr", shape=labels.shape, dtype="uint64", voxel_size=SIZE, attributes={"licence": "CC BY"}
    )
    out.write(out.box, labels)
    target = write(kind, tmp_path / "in.zarr", tmp_path, pyramid=True)
    found = open_volume(target)
    assert (found.read(found.box) == labels).all()
    assert set(np.unique(found.levels[1].read(found.levels[1].box))) == {0, 5, 2**40 + 1}
    assert found.attributes == {"licence": "CC BY", "converted_from": str(tmp_path / "in.zarr")}
    with pytest.raises(SynbbError, match="exists already"):
        write(kind, tmp_path / "in.zarr", tmp_path)
    again = write(kind, target, tmp_path, overwrite=True)
    assert (open_volume(again).read(found.box) == labels).all()
    assert not list(tmp_path.glob(".*partial"))


def test_what_cannot_be_written_is_refused(tmp_path):
    source = make(tmp_path, np.ones((2, 8, 8), np.float64))
    for target, options, message in (
        (f"precomputed://{tmp_path / 'p'}", {}, "no float64"),
        (f"precomputed://{tmp_path / 'p'}", {"shards": (2, 8, 8)}, "without shards"),
        (f"precomputed://{tmp_path / 'p'}", {"ome_version": "0.4"}, "has no OME version, 0.4 was given"),
        ("s3://bucket/v.zarr", {}, "written to folders"),
        (f"n5://{tmp_path / 'v.n5'}", {}, "written to folders"),
        (tmp_path / "v.zarr", {"ome_version": "0.3"}, "0.3 is not written"),
        (tmp_path / "v.zarr", {"ome_version": "0.4", "shards": (2, 8, 8)}, "has no shards"),
    ):
        with pytest.raises(SynbbError, match=message):
            convert(source, target, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["in.zarr"]
