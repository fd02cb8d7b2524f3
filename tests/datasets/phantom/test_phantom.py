from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import cc3d
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree
from sklearn.metrics import average_precision_score

from synbb.datasets.phantom import TISSUE, Block, PhantomSpec, render, write_phantom
from synbb.datasets.phantom.imaging import section_state
from synbb.datasets.phantom.structures import find_structures
from synbb.errors import SynbbError
from synbb.volumes import Box, open_volume

if TYPE_CHECKING:
    from pathlib import Path

SMALL = PhantomSpec(shape=(6, 80, 120), seed=4, missing_rate=0.2, fold_rate=0.3, stain_rate=0.5)


@pytest.fixture(scope="module")
def default_phantom() -> Block:
    """All of the volume that a fresh clone trains on."""
    return render(PhantomSpec(), PhantomSpec().box)


def test_labels_are_as_many_and_as_large_as_promised(default_phantom: Block) -> None:
    spec = PhantomSpec()
    labels = default_phantom.synapse > 0
    assert 0.005 <= labels.mean() <= 0.012
    assert cc3d.connected_components(labels, connectivity=26).max() >= 60
    cubic_micrometres = np.prod(np.array(spec.shape) * spec.voxel_size) / 1e9
    sizes = np.bincount(default_phantom.synapse.ravel())[1:]
    assert 0.7 < (sizes > 0).sum() / cubic_micrometres / spec.synapse_density < 1.4
    assert 500 < np.median(sizes[sizes > 0]) < 3000
    # Several sections thick.
    thickness = [s[0].stop - s[0].start for s in ndimage.find_objects(default_phantom.synapse) if s is not None]
    assert np.median(thickness) >= 3


def test_grey_values_do_not_give_the_labels_away(default_phantom: Block) -> None:
    sections = slice(10, 20)
    labels = (default_phantom.synapse[sections] > 0).ravel()
    grey = default_phantom.raw[sections].astype(np.float32)
    for values in (grey, -grey):
        assert average_precision_score(labels, values.ravel()) < 0.2
    # Even after the best smoothing it stays far below what a network reaches.
    assert average_precision_score(labels, -ndimage.gaussian_filter(grey, (0.7, 3, 3)).ravel()) < 0.3


def test_synapses_are_dark(default_phantom: Block) -> None:
    labels = default_phantom.synapse > 0
    assert default_phantom.raw[labels].mean() < 0.45 * default_phantom.raw.mean()


def test_vesicles_gather_at_synapses_and_stay_inside_neurites() -> None:
    found = find_structures(PhantomSpec(), np.zeros(3), np.array([1600.0, 2000.0, 2000.0]))
    where = found.neurites.locate(found.vesicles.centre)
    assert np.array_equal(where.neurite, found.vesicles.neurite)
    assert where.depth.min() > 20
    vesicles = cKDTree(found.vesicles.centre)
    near = [len(v) for v in vesicles.query_ball_point(found.synapses.centre, 250.0)]
    elsewhere = [len(v) for v in vesicles.query_ball_point(found.bodies.centre, 250.0)]
    assert np.median(near) > 3 * max(np.median(elsewhere), 3)


def test_the_volume_does_not_depend_on_its_blocks(tmp_path: Path) -> None:
    whole = write_phantom(tmp_path / "whole", SMALL, neurites=True)
    parts = write_phantom(tmp_path / "parts", SMALL, neurites=True, block=(4, 80, 61))
    for name in ("raw", "synapses", "neurites"):
        a, b = open_volume(whole[name]), open_volume(parts[name])
        assert np.array_equal(a.read(a.box), b.read(b.box)), name
    assert whole["table"].read_text() == parts["table"].read_text()


def test_a_larger_volume_contains_the_smaller_one() -> None:
    part = Box((2, 10, 20), (4, 60, 90))
    alone = render(PhantomSpec(seed=4, shape=(4, 60, 90)), part)
    within = render(PhantomSpec(seed=4, shape=(900, 6000, 90)), part)
    assert np.array_equal(alone.raw, within.raw)


def test_seeds_differ() -> None:
    box = Box.of_shape((1, 64, 64))
    assert not np.array_equal(render(PhantomSpec(seed=1), box).raw, render(PhantomSpec(seed=2), box).raw)


def test_structures_are_sized_in_nm() -> None:
    """Half the voxel size shows the same tissue at twice the sampling."""
    still = {"jitter": 0.0, "noise": 0.0, "missing_rate": 0.0, "contrast_jitter": 0.0, "fold_rate": 0, "stain_rate": 0}
    coarse = render(PhantomSpec(voxel_size=(40, 8, 8), **still), Box.of_shape((2, 100, 100)))
    fine = render(PhantomSpec(voxel_size=(40, 4, 4), **still), Box.of_shape((2, 200, 200)))
    assert (fine.neurite[:, ::2, ::2] == coarse.neurite).mean() > 0.97
    assert ((fine.synapse[:, ::2, ::2] > 0) == (coarse.synapse > 0)).mean() > 0.995


def test_a_volume_without_synapses_is_legal(tmp_path: Path) -> None:
    spec = PhantomSpec(
        shape=(2, 64, 64), synapse_density=0, junction_density=0, distractor_density=0, vesicle_density=0
    )
    paths = write_phantom(tmp_path / "empty", spec)
    labels = open_volume(paths["synapses"])
    assert not labels.read(labels.box).any()
    assert paths["table"].read_text().splitlines() == ["id,z_nm,y_nm,x_nm,voxels"]


def test_what_is_written(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    paths = write_phantom(tmp_path / "p", SMALL, progress=lambda done, total: seen.append((done, total)))
    raw, labels = open_volume(paths["raw"]), open_volume(paths["synapses"])
    assert raw.shape == labels.shape == SMALL.shape
    assert raw.voxel_size == labels.voxel_size == SMALL.voxel_size
    assert raw.dtype == labels.dtype == np.uint8
    assert raw.attributes["licence"]
    assert labels.attributes["citation"]
    assert TISSUE.read(tmp_path / "p") == SMALL
    assert seen[-1] == (SMALL.box.size, SMALL.box.size)
    mask = labels.read(labels.box)
    assert set(np.unique(mask)) <= {0, 1}
    with paths["table"].open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert sum(int(row["voxels"]) for row in rows) == mask.sum()
    block = render(SMALL, SMALL.box)
    largest = max(rows, key=lambda row: int(row["voxels"]))
    sizes = np.bincount(block.synapse.ravel())[1:]
    centre = np.mean(np.nonzero(block.synapse == 1 + sizes.argmax()), axis=1) * SMALL.voxel_size
    assert np.allclose([float(largest[k]) for k in ("z_nm", "y_nm", "x_nm")], centre, atol=0.06)


def test_missing_sections_are_blank_and_labels_go_through() -> None:
    spec = PhantomSpec(shape=(30, 48, 48), seed=1, missing_rate=0.3)
    missing = [z for z in range(30) if section_state(spec, z).missing]
    assert 3 <= len(missing) <= 18
    assert not render(spec, Box((missing[0], 0, 0), (missing[0] + 1, 48, 48))).raw.any()
    kept = next(z for z in range(30) if z not in missing)
    assert render(spec, Box((kept, 0, 0), (kept + 1, 48, 48))).raw.any()


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    spec = PhantomSpec(shape=(1, 32, 32))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(SynbbError, match="other"):
            write_phantom(tmp_path / "other", spec, overwrite=overwrite)
    write_phantom(tmp_path / "p", spec)
    with pytest.raises(SynbbError, match="exists"):
        write_phantom(tmp_path / "p", spec)
    write_phantom(tmp_path / "p", PhantomSpec(shape=(1, 40, 32)), overwrite=True)
    assert TISSUE.read(tmp_path / "p").shape == (1, 40, 32)


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(spec: PhantomSpec, box: Box) -> Block:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("synbb.datasets.phantom.writer.render", fail)
    with pytest.raises(SynbbError, match="No space left") as caught:
        write_phantom(tmp_path / "p", SMALL)
    assert caught.value.exit_status == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (0, 8, 8)},
        {"shape": (8, 8)},
        {"voxel_size": (40, -8, 8)},
        {"synapse_density": -1},
        {"missing_rate": 1.5},
        {"jitter": float("nan")},
    ],
)
def test_a_senseless_spec_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SynbbError, match=next(iter(change))):
        PhantomSpec(**change)  # type: ignore[arg-type]


def test_a_spec_goes_to_a_dict_and_back() -> None:
    assert PhantomSpec.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(SynbbError, match="sead"):
        PhantomSpec.from_dict({"sead": 3})


def test_an_unfinished_folder_is_no_phantom(tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"phantom\.yaml"):
        TISSUE.read(tmp_path)
    (tmp_path / "phantom.yaml").write_text("spec: 3")
    with pytest.raises(SynbbError, match=r"phantom\.yaml"):
        TISSUE.read(tmp_path)
