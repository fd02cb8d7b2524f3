"""Where annotation counts: placed by offset and voxel size, ignored outside labels, regions, mask and extent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import VOXEL, annotated, grey_and_labels, write_pair, write_volume

from synbb.errors import SynbbError
from synbb.tasks.annotated import AnnotatedVolume, VolumeSettings
from synbb.volumes import Box, create_volume
from synbb.volumes.statistics import Normalisation

WHOLE = Box((0, 0, 0), (8, 64, 64))


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    write_pair(tmp_path)
    return {"raw": str(tmp_path / "raw.zarr"), "labels": str(tmp_path / "labels.zarr")}


def labels_at(path: Path, start: tuple[int, int, int], array: np.ndarray) -> str:
    """A label file whose first voxel lies at ``start`` of raw."""
    offset = [s * v for s, v in zip(start, VOXEL, strict=True)]
    write_volume(path, array, offset=offset, chunks=(2, 8, 8))
    return str(path)


def test_without_regions_all_that_the_labels_cover_counts(pair: dict[str, str]) -> None:
    volume = annotated(**pair)
    foreground, valid = volume.truth(WHOLE)
    assert valid.all()
    assert np.array_equal(foreground, grey_and_labels()[1] > 0)
    assert volume.regions == (WHOLE,)


@pytest.mark.parametrize("cache", [0, 2**20])
def test_labels_smaller_than_raw_at_an_offset(pair: dict[str, str], tmp_path: Path, cache: int) -> None:
    part = np.zeros((4, 20, 30), dtype=np.uint16)
    part[1, 2, 3] = 700
    labels = labels_at(tmp_path / "part.zarr", (2, 11, 17), part)
    entry = VolumeSettings(name="it", raw=pair["raw"], labels=labels, split="train")
    volume = AnnotatedVolume(entry, VOXEL, percentiles=(1, 99), cache_bytes=cache)
    covered = Box((2, 11, 17), (6, 31, 47))
    assert volume.regions == (covered,)
    foreground, valid = volume.truth(WHOLE)
    assert np.argwhere(foreground).tolist() == [[3, 13, 20]]
    expected = np.zeros(WHOLE.shape, dtype=bool)
    expected[covered.slices] = True
    assert np.array_equal(valid, expected)
    one, known = volume.truth(Box((3, 13, 20), (4, 14, 21)))
    assert one.all()
    assert known.all()
    outside = volume.truth(Box((0, 0, 0), (2, 5, 5)))
    assert not outside[0].any()
    assert not outside[1].any()
    volume.close()


def test_labels_beyond_raw_and_raws_own_offset(tmp_path: Path) -> None:
    raw, labels = grey_and_labels()
    write_volume(tmp_path / "raw.zarr", raw, offset=(400.0, 80.0, 160.0))
    write_volume(tmp_path / "labels.zarr", labels, offset=(400.0 - 2 * 40, 80.0 + 60 * 8, 160.0))
    volume = annotated(raw=str(tmp_path / "raw.zarr"), labels=str(tmp_path / "labels.zarr"))
    foreground, valid = volume.truth(WHOLE)
    assert valid.sum() == 6 * 4 * 64
    assert volume.regions == (Box((0, 60, 0), (6, 64, 64)),)
    assert np.array_equal(foreground[:6, 60:], labels[2:, :4] > 0)
    assert not foreground[6:].any()


def test_regions_and_mask_and_ignore_values(pair: dict[str, str], tmp_path: Path) -> None:
    ids = grey_and_labels()[1].astype(np.uint64)
    ids[ids == 0] = 0xFFFFFFFFFFFFFFFF
    ids[0, :, :8] = 0xFFFFFFFFFFFFFFFE
    ids[7, 5, 5] = 0xFFFFFFFFFFFFFFFD
    write_volume(tmp_path / "cremi.zarr", ids)
    mask = np.ones((8, 64, 40), dtype=np.uint8)
    mask[:, 20:24] = 0
    write_volume(tmp_path / "mask.zarr", mask)
    volume = annotated(
        raw=pair["raw"],
        labels=str(tmp_path / "cremi.zarr"),
        mask=str(tmp_path / "mask.zarr"),
        regions=["0:8,0:32,0:64", "2:6,40:60,10:50"],
    )
    foreground, valid = volume.truth(WHOLE)
    expected = np.zeros(WHOLE.shape, dtype=bool)
    expected[:, :32] = True
    expected[2:6, 40:60, 10:50] = True
    expected[:, 20:24] = False
    expected[:, :, 40:] = False  # beyond the mask nobody annotated
    expected[0, :, :8] = False
    expected[7, 5, 5] = False
    assert np.array_equal(valid, expected)
    assert np.array_equal(foreground, expected & (grey_and_labels()[1] > 0))


@pytest.mark.parametrize("kind", ["none", "zeros"])
def test_a_volume_without_a_synapse_is_a_legal_negative(pair: dict[str, str], tmp_path: Path, kind: str) -> None:
    labels = kind
    if kind == "zeros":
        labels = labels_at(tmp_path / "zeros.zarr", (0, 0, 0), np.zeros((8, 64, 64), np.uint8))
    volume = annotated(raw=pair["raw"], labels=labels, regions=["0:8,0:16,0:64"])
    foreground, valid = volume.truth(WHOLE)
    assert not foreground.any()
    assert valid[:, :16].all()
    assert not valid[:, 16:].any()
    assert not volume.has_foreground()
    assert len(volume.sampled().positives) == 0
    assert len(volume.object_sizes()) == 0


def test_labels_that_do_not_overlap_print_both_boxes(pair: dict[str, str], tmp_path: Path) -> None:
    labels = labels_at(tmp_path / "far.zarr", (0, 500, 0), np.ones((2, 8, 8), np.uint8))
    with pytest.raises(SynbbError, match=r"data.volumes 'it'.*do not overlap.*y 3996 to 4060.*y -4 to 508"):
        annotated(raw=pair["raw"], labels=labels)


@pytest.mark.parametrize("kind", ["raw", "probabilities"])
def test_grey_values_and_probabilities_are_no_annotation(kind: str, pair: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "other.zarr"
    create_volume(path, shape=(8, 64, 64), dtype=np.uint8, voxel_size=(40, 8, 8), attributes={"kind": kind})
    with pytest.raises(SynbbError, match=f"other.zarr holds .*kind: {kind}.*name the volume of an annotation"):
        annotated(raw=pair["raw"], labels=str(path))


def test_labels_between_voxels_print_both_boxes(pair: dict[str, str], tmp_path: Path) -> None:
    write_volume(tmp_path / "between.zarr", np.ones((2, 8, 8), np.uint8), offset=(0, 4, 0))
    with pytest.raises(SynbbError, match=r"between the voxels of raw, 0.500 voxels along y.*y 0 to 64.*y -4 to 508"):
        annotated(raw=pair["raw"], labels=str(tmp_path / "between.zarr"))


def test_boxes_that_do_not_fit_are_named(pair: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"region 0:8,0:65,0:64 .*not inside .*raw.zarr, which is 0:8,0:64,0:64"):
        annotated(**pair, regions=["0:8,0:65,0:64"])
    with pytest.raises(SynbbError, match=r"region 0:8,0:32,0:64 .*extent of .*which is 0:8,16:64,0:64"):
        annotated(**pair, regions=["0:8,0:32,0:64"], extent="0:8,16:64,0:64")
    with pytest.raises(SynbbError, match="extent 0:9,0:64,0:64"):
        annotated(**pair, extent="0:9,0:64,0:64")
    with pytest.raises(SynbbError, match="z0:z1,y0:y1,x0:x1"):
        annotated(**pair, regions=["everything"])
    with pytest.raises(SynbbError, match="empty"):
        annotated(**pair, regions=["0:8,3:3,0:64"])
    part = labels_at(tmp_path / "part.zarr", (0, 0, 0), np.ones((8, 16, 64), np.uint8))
    with pytest.raises(SynbbError, match=r"region 0:8,32:64,0:64 holds nothing of the labels .*0:8,0:16,0:64"):
        annotated(raw=pair["raw"], labels=part, regions=["0:8,0:32,0:64", "0:8,32:64,0:64"])
    with pytest.raises(SynbbError, match=r"covers 0:8,0:16,0:64 of raw, outside the extent"):
        annotated(raw=pair["raw"], labels=part, extent="0:8,32:64,0:64")


def test_an_extent_is_the_same_as_a_cropped_file(pair: dict[str, str], tmp_path: Path) -> None:
    raw, labels = grey_and_labels()
    raw[:, :, 48:] = np.random.default_rng(1).integers(0, 30, (8, 64, 16))  # other greys beyond
    write_volume(tmp_path / "wide.zarr", raw, chunks=(8, 64, 20))
    write_volume(tmp_path / "crop.zarr", raw[1:, 4:, :48].copy(), offset=(40, 32, 0), chunks=(3, 16, 48))
    write_volume(tmp_path / "croplabels.zarr", labels[1:, 4:, :48].copy(), offset=(40, 32, 0))
    wide = annotated(
        (40.0, 16.0, 16.0),
        raw=str(tmp_path / "wide.zarr"),
        labels=pair["labels"],
        extent="1:8,4:64,0:48",
        regions=["1:8,8:40,0:48"],
    )
    crop = annotated(
        (40.0, 16.0, 16.0),
        raw=str(tmp_path / "crop.zarr"),
        labels=str(tmp_path / "croplabels.zarr"),
        regions=["0:7,4:36,0:48"],
    )
    assert wide.normalisation == crop.normalisation
    assert wide.view.shape == crop.view.shape
    assert wide.regions == crop.regions
    box = wide.view.box
    assert np.array_equal(wide.image(box), crop.image(box))
    for one, other in zip(wide.working_truth(box), crop.working_truth(box), strict=True):
        assert np.array_equal(one, other)
    for key in ("regions", "positives", "region_of"):
        assert np.array_equal(getattr(wide.sampled(), key), getattr(crop.sampled(), key))


def reference(values: np.ndarray, factor: float, shape: tuple[int, int]) -> np.ndarray:
    """Share of each working voxel that is set, in the plane, by fine sampling."""
    fine = 60
    out = np.zeros((values.shape[0], *shape))
    for y in range(shape[0]):
        for x in range(shape[1]):
            rows, columns = (
                np.floor((np.arange(fine) + 0.5) / fine * (min((w + 1) * factor, n) - w * factor) + w * factor)
                for w, n in ((y, values.shape[1]), (x, values.shape[2]))
            )
            out[:, y, x] = values[:, rows.astype(int)][:, :, columns.astype(int)].mean((1, 2))
    return out


@pytest.mark.parametrize("factor", [2, 3, 1.5, 2.4])
def test_working_truth_is_the_majority_and_whole_validity(tmp_path: Path, factor: float) -> None:
    rng = np.random.default_rng(2)
    labels = (rng.random((2, 26, 31)) < 0.5).astype(np.uint8)
    write_volume(tmp_path / "raw.zarr", rng.integers(1, 255, labels.shape, dtype=np.uint8))
    write_volume(tmp_path / "labels.zarr", labels)
    volume = annotated(
        (40.0, 8 * factor, 8 * factor),
        raw=str(tmp_path / "raw.zarr"),
        labels=str(tmp_path / "labels.zarr"),
        regions=["0:2,3:26,2:31"],
    )
    box = volume.view.box
    foreground, valid = volume.working_truth(box)
    inside = np.zeros(labels.shape, dtype=bool)
    inside[:, 3:26, 2:31] = True
    whole = reference(inside, factor, box.shape[1:]) > 0.999
    assert np.array_equal(valid, whole)
    share = reference((labels > 0) & inside, factor, box.shape[1:])
    sure = np.abs(share - 0.5) > 0.02
    assert np.array_equal(foreground[sure], (share >= 0.5)[sure] & whole[sure])
    assert not foreground[~valid].any()
    part = Box((1, 2, 3), (2, 6, 9))  # the same, whatever box is asked for
    for alone, all_ in zip(volume.working_truth(part), (foreground, valid), strict=True):
        assert np.array_equal(alone, all_[part.slices])
    for region in volume.working_regions():
        assert valid[region.slices].all()


def test_working_voxels_finer_than_raw(pair: dict[str, str]) -> None:
    volume = annotated((40.0, 4.0, 4.0), **pair, regions=["0:8,8:40,0:64"])
    box = volume.view.box
    assert box.shape == (8, 128, 128)
    foreground, valid = volume.working_truth(box)
    assert valid[:, 18:78].all()
    assert not valid[:, :14].any()
    inner = grey_and_labels()[1][:, 10:38].repeat(2, 1).repeat(2, 2) > 0
    assert (foreground[:, 20:76] != inner).mean() < 0.02
    for start in ((0, 0, 0), (3, 31, 63), (4, 124, 124)):
        part = Box.of_shape((3, 4, 4), start)
        assert np.array_equal(volume.working_truth(part)[0], foreground[part.slices])
    assert volume.sampled().positives.shape[0] == sum(foreground[r.slices].sum() for r in volume.working_regions())


def test_positives_are_the_foreground_that_training_sees(pair: dict[str, str]) -> None:
    volume = annotated((40.0, 16.0, 16.0), **pair, regions=["0:8,0:31,0:64", "2:8,34:64,8:64"])
    foreground, _ = volume.working_truth(volume.view.box)
    sampled = volume.sampled()
    expected = {(n, *p) for n, r in enumerate(sampled.regions) for p in np.argwhere(foreground[r.slices]) + r.start}
    assert {(n, *p) for n, p in zip(sampled.region_of, sampled.positives, strict=True)} == expected
    assert len(expected) > 100


def test_16_bit_and_inverted_contrast_give_the_same_image(tmp_path: Path) -> None:
    write_pair(tmp_path)
    raw = grey_and_labels()[0].astype(np.uint16)
    write_volume(tmp_path / "deep.zarr", raw * 100 + 3000)
    write_volume(tmp_path / "negative.zarr", (40_000 - raw * 100).astype(np.uint16))
    labels = str(tmp_path / "labels.zarr")
    plain, deep, negative = (
        annotated(raw=str(tmp_path / name), labels=labels, invert=invert).image(WHOLE)
        for name, invert in (("raw.zarr", False), ("deep.zarr", False), ("negative.zarr", True))
    )
    assert plain.dtype == np.float32
    assert np.allclose(plain, deep, atol=1e-5)
    assert np.allclose(plain, negative, atol=2e-5)


def test_facts_hold_what_prediction_needs(pair: dict[str, str]) -> None:
    volume = annotated(**pair, extent="0:8,0:64,0:48")
    facts = volume.facts()
    assert Normalisation.from_dict(facts["normalisation"]) == volume.normalisation
    assert facts["voxel_size"] == list(VOXEL)
    assert (facts["licence"], facts["citation"]) == ("CC0", "nobody")
    assert annotated(**pair, licence="own", citation="me").facts()["licence"] == "own"


def test_prefetching_reads_what_is_asked_for(pair: dict[str, str]) -> None:
    entry = VolumeSettings(name="it", **pair, split="train")
    box = Box((1, 3, 5), (5, 19, 21))
    with_cache = AnnotatedVolume(entry, (40.0, 16.0, 16.0), percentiles=(1, 99), cache_bytes=2**20)
    without = AnnotatedVolume(entry, (40.0, 16.0, 16.0), percentiles=(1, 99))
    with_cache.prefetch([box])
    assert np.array_equal(with_cache.image(box), without.image(box))
    assert np.array_equal(with_cache.working_truth(box)[0], without.working_truth(box)[0])
    assert with_cache.normalisation == without.normalisation
    with_cache.close()


def test_a_cache_too_small_for_a_chunk_is_a_clear_error(pair: dict[str, str]) -> None:
    with pytest.raises(SynbbError, match=r"data.volumes 'it'.*more memory"):
        AnnotatedVolume(VolumeSettings(name="it", **pair, split="train"), VOXEL, percentiles=(1, 99), cache_bytes=9)


@pytest.mark.parametrize("blocks", [(32, 512, 512), (2, 16, 16)])
def test_objects_are_ids_where_labels_hold_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, int, int]
) -> None:
    """Two ids touch, one is in two pieces; of a mask the connected parts count."""
    monkeypatch.setattr("synbb.tasks.annotated.SCANNED", blocks)
    ids = np.zeros(WHOLE.shape, np.uint64)
    ids[1:5, 4:14, 4:14], ids[1:5, 4:14, 14:20] = 2**40, 2
    ids[1:3, 40:45, 40:50], ids[1:3, 40:45, 54:60] = 3, 3
    ids[7], ids[6, :, :8] = 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFE
    write_volume(tmp_path / "raw.zarr", grey_and_labels()[0])
    write_volume(tmp_path / "ids.zarr", ids)
    write_volume(tmp_path / "mask.zarr", ((ids > 0) & (ids < 2**41)).astype(np.uint8))
    raw, voxel = str(tmp_path / "raw.zarr"), float(np.prod(VOXEL))
    by_id = annotated(raw=raw, labels=str(tmp_path / "ids.zarr"))
    assert sorted(by_id.object_sizes() / voxel) == [160, 240, 400]
    assert np.array_equal(by_id.ids(WHOLE), np.where(by_id.truth(WHOLE)[0], ids, 0))
    by_part = annotated(raw=raw, labels=str(tmp_path / "mask.zarr"))
    assert sorted(by_part.object_sizes() / voxel) == [60, 100, 640]
    apart = annotated(raw=raw, labels=str(tmp_path / "ids.zarr"), regions=["0:8,0:64,0:8", "0:8,0:64,8:16"])
    assert sorted(apart.object_sizes() / voxel) == [80, 400], "an id is one in all regions"
