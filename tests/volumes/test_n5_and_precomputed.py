"""What others write as N5 and precomputed: axes, units, levels, offsets, chunks that are absent or broken."""

import builtins
import json

import numpy as np
import pytest
from foreign_formats import write_n5, write_precomputed

from synbb.errors import SynbbError
from synbb.volumes import Box, open_volume

pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")

SIZE = (50.0, 4.0, 6.0)  # z, y, x
RESOLUTION = [6.0, 4.0, 50.0]  # the same, as N5 counts axes


@pytest.fixture
def levels():
    rng = np.random.default_rng(1)
    return [rng.integers(1, 255, shape, dtype=np.uint8) for shape in ((4, 16, 20), (4, 8, 10), (2, 4, 5))]


def n5(folder, levels, group, own):
    for number, array in enumerate(levels):
        write_n5(folder / f"s{number}", array, (2, 4, 8), own[number])
    if group is not None:
        (folder / "attributes.json").write_text(json.dumps(group))
    return folder


FACTORS = [[1, 1, 1], [2, 2, 1], [4, 4, 2]]
NONE = [{}] * 3
OWN = [{"downsamplingFactors": factors} for factors in FACTORS]
PIXEL = {"pixelResolution": {"unit": "um", "dimensions": [0.006, 0.004, 0.05]}}
COSEM = [
    {"transform": {"axes": ["z", "y", "x"], "scale": s, "translate": t, "units": ["nm"] * 3}}
    for s, t in (([50, 4, 6], [0, 0, 0]), ([50, 8, 12], [0, 2, 3]), ([100, 16, 24], [25, 6, 9]))
]
OWN_SIZES = [{"resolution": [6 * x, 4 * y, 50 * z], "units": ["nm"] * 3} for x, y, z in FACTORS]
WAYS = {
    "neuroglancer": ({"resolution": RESOLUTION, "units": ["nm"] * 3, "downsamplingFactors": FACTORS}, NONE),
    "scales and pixelResolution": ({**PIXEL, "scales": FACTORS}, NONE),
    "n5-viewer": (None, [{**own, **PIXEL} for own in OWN]),
    "factors of levels": ({"resolution": RESOLUTION}, OWN),
    "COSEM": ({"axes": ["x", "y", "z"], "units": ["nm"] * 3, **PIXEL}, COSEM),
    "sizes of levels": ({"resolution": RESOLUTION}, OWN_SIZES),
    "metres": ({"resolution": [6e-9, 4e-9, 5e-8], "units": ["m"] * 3, "downsamplingFactors": FACTORS}, NONE),
}


@pytest.mark.parametrize("way", WAYS)
def test_levels_of_an_n5_group(way, levels, tmp_path):
    group, own = WAYS[way]
    volume = open_volume(n5(tmp_path / "v.n5", levels, group or {}, own))
    assert volume.format == "N5"
    assert [level.voxel_size for level in volume.levels] == [
        pytest.approx(s) for s in (SIZE, (50, 8, 12), (100, 16, 24))
    ]
    # Every level begins at one corner.
    assert [level.offset for level in volume.levels] == [pytest.approx(o) for o in ((0, 0, 0), (0, 2, 3), (25, 6, 9))]
    for level, array in zip(volume.levels, levels, strict=True):
        assert (level.read(level.box) == array).all()


def test_one_level_of_an_n5_group_knows_its_size(levels, tmp_path):
    for way in ("neuroglancer", "n5-viewer", "COSEM"):
        group, own = WAYS[way]
        folder = n5(tmp_path / f"{way}.n5", levels, group or {}, own)
        for level in (open_volume(folder / "s1"), open_volume(f"{folder}:s1")):
            assert (level.shape, level.levels) == ((4, 8, 10), (level,))
            assert level.voxel_size == pytest.approx((50, 8, 12))
            assert level.offset == pytest.approx((0, 2, 3))


def test_paintera_layout(levels, tmp_path):
    (tmp_path / "v.n5").mkdir()
    (tmp_path / "v.n5" / "attributes.json").write_text('{"painteraData": {"type": "raw"}}')
    group = {"multiScale": True, "resolution": RESOLUTION, "offset": [60, 8, 100]}
    n5(tmp_path / "v.n5" / "data", levels, group, OWN)
    volume = open_volume(tmp_path / "v.n5")
    assert (len(volume.levels), volume.voxel_size, volume.offset) == (3, SIZE, (100, 8, 60))


def test_axes_in_another_order_and_single_channels(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (1, 5, 4, 3), dtype=np.uint8)  # N5 counts them backwards
    write_n5(tmp_path / "v.n5", array, (1, 2, 2, 2), {"axes": ["z", "y", "x", "c"], "resolution": [50, 4, 6, 1]})
    volume = open_volume(tmp_path / "v.n5")
    assert (volume.shape, volume.voxel_size, volume.stored_axes) == ((3, 4, 5), SIZE, ("z", "y", "x", "c"))
    assert (volume.read(volume.box) == array[0].T).all()
    write_n5(tmp_path / "two.n5", np.repeat(array, 2, axis=0), (1, 2, 2, 2), {"resolution": [50, 4, 6, 1]})
    with pytest.raises(SynbbError, match=r"c \(2\)"):
        open_volume(tmp_path / "two.n5")


@pytest.mark.parametrize(
    ("group", "own", "message"),
    [
        ({"resolution": RESOLUTION}, NONE, "s1 states neither"),
        ({"resolution": RESOLUTION, "units": ["furlong"] * 3, "downsamplingFactors": FACTORS}, NONE, "furlong"),
        ({"resolution": [4], "downsamplingFactors": FACTORS}, NONE, "broken"),
        ({"downsamplingFactors": FACTORS}, NONE, "no voxel size"),
    ],
)
def test_what_n5_does_not_say(group, own, message, levels, tmp_path):
    folder = n5(tmp_path / "v.n5", levels, group, own)
    with pytest.raises(SynbbError, match=rf"v\.n5.*{message}"):
        open_volume(folder)


def test_a_given_voxel_size_serves_an_n5_array_without(levels, tmp_path):
    write_n5(tmp_path / "v.n5", levels[0], (2, 4, 8), {})
    with pytest.raises(SynbbError, match="voxel size"):
        open_volume(tmp_path / "v.n5")
    assert open_volume(tmp_path / "v.n5", voxel_size=SIZE).voxel_size == SIZE


def test_container_without_array_is_named(tmp_path):
    (tmp_path / "v.n5").mkdir()
    (tmp_path / "v.n5" / "attributes.json").write_text('{"n5": "2.0.0"}')
    with pytest.raises(SynbbError, match=r"v\.n5:ARRAY"):
        open_volume(tmp_path / "v.n5")
    with pytest.raises(SynbbError, match="'em'"):
        open_volume(tmp_path / "v.n5", dataset="em")


def test_precomputed_scales_offsets_and_channels(levels, tmp_path):
    sizes = [SIZE, (50, 8, 12), (100, 16, 24)]
    write_precomputed(tmp_path / "p", levels, sizes, [(2, 8, 12), (2, 4, 6), (1, 2, 3)])
    volume = open_volume(tmp_path / "p")
    assert volume.format == "neuroglancer precomputed (raw)"
    assert [level.voxel_size for level in volume.levels] == sizes
    # voxel_offset is the corner: 100, 32 and 72 nm at every scale.
    for level, array in zip(volume.levels, levels, strict=True):
        assert level.extent[0] == pytest.approx((100, 32, 72))
        assert (level.read(level.box) == array).all()
    assert volume.offset == pytest.approx((125, 34, 75))
    assert open_volume(f"precomputed://{tmp_path / 'p'}").shape == volume.shape
    # A crop on voxels of all scales keeps them.
    assert len(volume.crop(Box((2, 4, 4), (4, 12, 16))).levels) == 3


@pytest.mark.parametrize("encoding", ["raw", "png", "compressed_segmentation"])
def test_precomputed_encodings_and_shards(encoding, levels, tmp_path):
    array = levels[0].astype(np.uint32 if encoding.startswith("compressed") else np.uint8)
    options = {"compressed_segmentation_block_size": [4, 4, 2]} if encoding.startswith("compressed") else {}
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "minishard_bits": 1,
        "shard_bits": 1,
        "hash": "identity",
    }
    for name, more in (("plain", {}), ("sharded", {"sharding": sharding})):
        write_precomputed(
            tmp_path / name, [array], [SIZE], [(0, 0, 0)], chunk=(2, 4, 8), encoding=encoding, **options, **more
        )
        volume = open_volume(tmp_path / name)
        assert (volume.read(volume.box) == array).all()
        assert volume.chunks == (2, 4, 8)


@pytest.mark.parametrize("scales", [[], [{}], [{"key": "a", "resolution": [0, 1, 1], "size": [1, 1, 1]}], "x"])
def test_broken_info_is_a_users_error(scales, tmp_path):
    info = {"@type": "neuroglancer_multiscale_volume", "data_type": "uint8", "num_channels": 1, "scales": scales}
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "info").write_text(json.dumps(info))
    with pytest.raises(SynbbError, match=str(tmp_path / "p")):
        open_volume(tmp_path / "p")


def store(kind, folder, array):
    """One level in chunks of 2 x 4 x 8; returns the volume and the file of the chunk at voxel 2, 4, 8."""
    if kind == "n5":
        write_n5(folder, array, (2, 4, 8), {"resolution": RESOLUTION})
        return open_volume(folder), folder / "1" / "1" / "1"
    write_precomputed(folder, [array], [SIZE], [(2, 4, 8)], chunk=(2, 4, 8))
    return open_volume(folder), folder / "scale 0" / "16-24_8-12_4-6"


@pytest.mark.parametrize("kind", ["n5", "precomputed"])
def test_absent_chunks_read_as_zero(kind, levels, tmp_path):
    volume, file = store(kind, tmp_path / "v", levels[0])
    file.unlink()
    expected = levels[0].copy()
    expected[2:4, 4:8, 8:16] = 0
    assert (volume.read(volume.box) == expected).all()


@pytest.mark.parametrize("keep", [0, 5, -3])
@pytest.mark.parametrize("kind", ["n5", "precomputed"])
def test_truncated_chunks_are_named(kind, keep, levels, tmp_path):
    volume, file = store(kind, tmp_path / "v", levels[0])
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SynbbError, match=rf"z 2:4, y 4:8, x 8:16 .* truncated.*{file.relative_to(tmp_path)}"):
        volume.read(volume.box)
    clean = Box((0, 0, 0), (4, 4, 20))
    assert (volume.read(clean) == levels[0][clean.slices]).all()


def test_missing_extra_is_named(levels, tmp_path, monkeypatch):
    write_precomputed(tmp_path / "p", levels[:1], [SIZE], [(0, 0, 0)])
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "tensorstore":
            raise ModuleNotFoundError("No module named 'tensorstore'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for place in (tmp_path / "p", "https://127.0.0.1/v.zarr", "s3://bucket/v.n5", "gs://bucket/v"):
        with pytest.raises(SynbbError, match=r"-e '\.\[remote\]'"):
            open_volume(place)
