"""Splits share no voxel however a config spells it, and a split names none twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
from tiny import VOXEL, config, grey_and_labels, settings, write_pair

from synbb.errors import SynbbError
from synbb.tasks.annotated import VolumeSettings
from synbb.tasks.volumes_apart import Part, missing_guards, place_of
from synbb.training import make_task


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pair(tmp_path)
    return tmp_path


def prepared(folder: Path, *entries: dict[str, Any]) -> list[str]:
    """Lines of a task whose entries are the first of :mod:`tiny` with these changes."""
    first = settings(folder)["data"]["volumes"][0]
    made = make_task(config(folder, data__volumes=[{**first, **each} for each in entries]))
    try:
        return made.prepare()
    finally:
        made.close()


def test_a_place_is_one_however_it_is_written(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "raw.zarr")
    for spelling in (f"{folder}/./raw.zarr", f"{folder}/x/../raw.zarr/", f"{folder}/link", f"zarr://{folder}/raw.zarr"):
        assert place_of(spelling) == (str(folder / "raw.zarr"), "")
    assert place_of(f"{folder}/./a.h5:volumes/raw") == place_of(f"{folder}/a.h5:/volumes/raw")
    assert place_of(f"{folder}/a.h5:raw") != place_of(f"{folder}/a.h5:other")
    assert place_of("s3://bucket/raw.zarr/") == place_of("s3://bucket/raw.zarr")
    assert place_of(f"{folder}/a.zarr:/0") == place_of(f"{folder}/a.zarr/0/") != place_of(f"{folder}/a.zarr")
    assert place_of("s3://bucket/raw.zarr:0") == place_of("s3://bucket/raw.zarr/0")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_entry_without_regions_is_compared_too(folder: Path, split: str) -> None:
    with pytest.raises(SynbbError, match=rf"'top' \(train\) and 'b' \({split}\) share voxels 0:8,32:64,0:64 of .*raw"):
        prepared(folder, {"regions": []}, {"name": "b", "split": split, "regions": ["0:8,32:64,0:64"]})


def test_splits_of_one_file_in_two_spellings_are_compared(folder: Path) -> None:
    other = {"name": "b", "split": "test", "raw": f"{folder}/./raw.zarr"}
    with pytest.raises(SynbbError, match=r"'top' \(train\) and 'b' \(test\) share voxels 0:8,0:32,0:64"):
        config(folder, data__volumes=[settings(folder)["data"]["volumes"][0], {**_first(folder), **other}])
    lines = prepared(folder, {}, {**other, "regions": ["0:8,33:64,0:64"]})
    assert any("top (train) and b (test) lie 1 voxels apart along y" in line for line in lines)


@pytest.mark.parametrize(
    ("region", "axis", "view"), [("0:8,32:48,0:64", "y", 19), ("0:8,0:32,64:80", "x", 21), ("8:16,0:32,0:64", "z", 4)]
)
def test_splits_that_touch_want_a_guard_where_they_do(folder: Path, region: str, axis: str, view: int) -> None:
    entries = [{**_first(folder), "regions": ["0:8,0:32,0:64"]}, {"split": "test", "regions": [region]}]
    parts = [replace(Part.named(VolumeSettings(**{**_first(folder), **each})), voxel_size=VOXEL) for each in entries]
    for pair in (parts, parts[::-1]):
        (line,) = missing_guards(pair, (4, 19, 21), VOXEL)
        assert f"lie 0 voxels apart along {axis}, and the network sees {view}: " in line


@pytest.mark.parametrize("array", ["/0", ":0", ":/0"])
def test_an_image_and_its_array_are_one_volume(folder: Path, array: str) -> None:
    other = {"name": "b", "split": "test", "raw": f"{folder}/raw.zarr{array}"}
    with pytest.raises(SynbbError, match=r"'top' \(train\) and 'b' \(test\) share voxels 0:8,0:32,0:64"):
        prepared(folder, {}, other)
    with pytest.raises(SynbbError, match=r"'top' \(train\) and 'b' \(test\) share voxels 0:8,0:32,0:64"):
        prepared(folder, {}, {**other, "labels": f"{folder}/absent.zarr"})
    again = {"name": "b", "regions": ["0:8,30:64,0:64"]}
    with pytest.raises(SynbbError, match=r"both name voxels 0:8,30:32,0:64"):
        prepared(folder, {}, {**again, "labels": f"{folder}/labels.zarr{array}"})
    lines = prepared(folder, {}, {**other, "regions": ["0:8,33:64,0:64"]})
    assert any("top (train) and b (test) lie 1 voxels apart along y" in line for line in lines)


def test_datasets_of_hdf5_are_the_ones_that_are_read(folder: Path) -> None:
    raw, labels = grey_and_labels()
    with h5py.File(folder / "a.h5", "w") as file:
        for name, array in (("volumes/raw", raw), ("volumes/labels/clefts", labels)):
            file.create_dataset(name, data=array).attrs["resolution"] = (40.0, 8.0, 8.0)
    part = {"raw": f"{folder}/a.h5", "labels": f"{folder}/a.h5"}
    with pytest.raises(SynbbError, match=r"'top' \(train\) and 'b' \(test\) share voxels 0:8,0:32,0:64"):
        prepared(folder, part, {**part, "name": "b", "split": "test", "raw": f"{folder}/a.h5:volumes/raw"})


def test_regions_are_compared_in_voxels_of_the_file(folder: Path) -> None:
    upper = {"extent": "0:8,0:32,0:64", "regions": []}
    lower = {"name": "b", "extent": "0:8,32:64,0:64", "regions": [], "split": "validation"}
    assert prepared(folder, upper, lower)
    with pytest.raises(SynbbError, match=r"share voxels 0:8,24:32,0:64"):
        prepared(folder, upper, {**lower, "extent": "0:8,24:64,0:64"})


def test_what_a_split_names_twice_is_refused(folder: Path) -> None:
    with pytest.raises(SynbbError, match=r"'top' \(train\): regions 0:8,0:32,0:64 and 0:8,0:20,0:64 share voxels"):
        prepared(folder, {"regions": ["0:8,0:32,0:64", "0:8,0:20,0:64"]})
    again = {"name": "b", "raw": f"{folder}/./raw.zarr", "regions": ["0:8,30:64,0:64"]}
    with pytest.raises(SynbbError, match=r"'top' \(train\) and 'b' \(train\) both name voxels 0:8,30:32,0:64"):
        prepared(folder, {}, again)
    (folder / "labels.zarr").rename(folder / "second.zarr")
    (folder / "labels.zarr").symlink_to(folder / "second.zarr")
    with pytest.raises(SynbbError, match=r"'top' \(train\) and 'b' \(train\) both name voxels"):
        prepared(folder, {}, {**again, "labels": str(folder / "second.zarr")})
    assert prepared(folder, {}, {**again, "labels": "none"})  # another annotation of the same place


def test_a_region_of_another_form_is_named_with_its_entry(folder: Path) -> None:
    with pytest.raises(SynbbError, match=r"data.volumes 'top': region '0-8' is not of the form"):
        config(folder, data__volumes=[{**_first(folder), "regions": ["0-8"]}])


def _first(folder: Path) -> dict[str, Any]:
    return settings(folder)["data"]["volumes"][0]
