"""Windows that are blended, and mirror images that are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import SlidingWindowInferer
from random_networks import VOXEL, geometry, random_unet, random_volume

from synbb.errors import SynbbError
from synbb.inference import predict_array, predict_volume
from synbb.inference.blocks import BlockPlan, Windows
from synbb.inference.network import Network
from synbb.volumes.box import Box
from synbb.volumes.opening import open_volume
from synbb.volumes.statistics import Normalisation
from synbb.volumes.volume import Volume

GREY = Normalisation(20.0, 230.0)
NET = random_unet()
GEOMETRY = geometry(NET)
STRIDE = GEOMETRY["stride"]


def predicted(volume: Volume, output: Path, **changed: Any) -> np.ndarray[Any, Any]:
    arguments: dict[str, Any] = {
        "working_voxel_size": VOXEL,
        "normalisation": GREY,
        "attributes": {},
        "model_sha256": "0" * 64,
        "run_id": "run-1",
        "dtype": "float32",
        **GEOMETRY,
    }
    predict_volume(NET, volume, output, **{**arguments, **changed})
    stored = open_volume(str(output))
    return stored.read(stored.box)


def logit(p: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    p = p.astype(np.float64)
    return np.log(p) - np.log1p(-p)


@given(
    length=st.integers(1, 90),
    size=st.integers(1, 40),
    overlap=st.floats(0, 0.9),
    stride=st.sampled_from([1, 2, 4]),
    ends=st.tuples(st.integers(0, 89), st.integers(1, 40)),
)
def test_windows_cover_the_axis_and_those_met_are_all_that_hold_a_voxel(length, size, overlap, stride, ends):
    length = -(-length // stride) * stride
    windows = Windows.overlapping((size, size, size), overlap, (stride, stride, stride))
    starts = windows.starts(1, length)
    assert starts == sorted(set(starts))
    assert all(start % stride == 0 for start in starts)
    low, high = min(ends[0], length - 1), min(ends[0] + ends[1], length)
    every = [(start, min(start + windows.shape[1], length)) for start in starts]
    assert every[-1][1] == length
    covered = np.zeros(length, int)
    for start, stop in every:
        covered[start:stop] += 1
    assert covered.min() >= 1
    met = windows.meeting(1, length, low, high)
    assert met == [(a, b) for a, b in every if any(a <= voxel < b for voxel in range(low, high))]


@pytest.mark.parametrize("block", [(4, 16, 24), (3, 20, 17), (9, 50, 61)])
def test_blended_windows_do_not_depend_on_the_blocks(tmp_path: Path, block: tuple[int, int, int]) -> None:
    raw = random_volume(tmp_path / "raw.zarr", (9, 50, 61))
    windows = Windows.overlapping((6, 32, 32), 0.5, STRIDE)
    one = predicted(raw, tmp_path / "one.zarr", windows=windows, write_block=(9, 50, 61))
    other = predicted(raw, tmp_path / "other.zarr", windows=windows, write_block=block, batch=3)
    assert np.abs(logit(one) - logit(other)).max() < 1e-4


def test_blended_windows_are_those_of_monai(tmp_path: Path) -> None:
    """MONAI lays its windows alike where the volume is as long as its windows need."""
    raw = random_volume(tmp_path / "raw.zarr", (8, 64, 64))
    found = predicted(raw, tmp_path / "out.zarr", windows=Windows.overlapping((8, 32, 32), 0.5, STRIDE))
    inferer = SlidingWindowInferer((8, 32, 32), sw_batch_size=2, overlap=(0.0, 0.5, 0.5), mode="gaussian")
    given_ = torch.from_numpy(GREY.apply(raw.read(raw.box)))[None, None]
    with torch.inference_mode():
        expected = inferer(given_, NET)[0, 0].numpy()
    assert np.abs(logit(found) - expected).max() < 1e-3


def test_a_window_as_large_as_the_volume_is_the_whole_prediction(tmp_path: Path) -> None:
    raw = random_volume(tmp_path / "raw.zarr", (8, 32, 40))
    found = predicted(raw, tmp_path / "out.zarr", windows=Windows.overlapping((99, 99, 99), 0.5, STRIDE))
    whole = predict_array(NET, GREY.apply(raw.read(raw.box)), **GEOMETRY)
    assert np.abs(logit(found) - whole).max() < 1e-4


def test_the_work_of_windows_is_counted() -> None:
    windows = Windows.overlapping((8, 16, 16), 0.5, (1, 4, 4))
    assert windows.step == (4, 8, 8)
    plan = BlockPlan(Box.of_shape((8, 64, 64)), (8, 64, 64), (8, 64, 64), (0, 0, 0), (1, 4, 4), windows=windows)
    block = next(iter(plan))
    boxes = plan.windows_of(block)
    assert len(boxes) == 7 * 7
    assert plan.read_voxels == 49 * 8 * 16 * 16
    assert plan.fields()["window"] == [8, 16, 16]
    with pytest.raises(SynbbError, match=r"overlap 1\.0 must lie in"):
        Windows.overlapping((8, 8, 8), 1.0, STRIDE)


@pytest.mark.parametrize(
    ("overlap", "step"),
    [(0.8, (16, 32, 32)), (0.9, (8, 16, 16)), (0.95, (8, 8, 8)), (0.85, (8, 24, 24)), (0.81, (8, 24, 24))],
)
def test_a_step_of_whole_strides_is_taken_as_it_is(overlap: float, step: tuple[int, int, int]) -> None:
    assert Windows.overlapping((80, 160, 160), overlap, (8, 8, 8)).step == step


@settings(max_examples=6, deadline=None)
@given(axes=st.sets(st.integers(0, 2), min_size=1))
def test_mirror_images_make_the_prediction_symmetric(axes: set[int]) -> None:
    """Mirrored input, mirrored output: exact for shapes of whole strides."""
    rng = np.random.default_rng(0)
    array = torch.from_numpy(rng.normal(size=(6, 4 * STRIDE[1], 5 * STRIDE[2])).astype(np.float32))
    with Network(NET, stride=STRIDE, halo=GEOMETRY["halo"], flips=sorted(axes)) as network:
        straight = network.logits([array])[0]
        for axis in axes:
            turned = network.logits([array.flip(axis)])[0]
            assert (turned.flip(axis) - straight).abs().max() < 1e-4
    with Network(NET, stride=STRIDE, halo=GEOMETRY["halo"]) as network:
        once = network.logits([array])[0]
    assert (once - straight).abs().max() > 1e-2


def test_mirrored_blocks_are_the_mirrored_whole(tmp_path: Path) -> None:
    raw = random_volume(tmp_path / "raw.zarr", (9, 50, 61))
    one = predicted(raw, tmp_path / "one.zarr", flips=(1, 2), write_block=(9, 50, 61))
    other = predicted(raw, tmp_path / "other.zarr", flips=(1, 2), write_block=(4, 16, 24))
    assert np.abs(logit(one) - logit(other)).max() < 1e-4
    with pytest.raises(SynbbError, match="axes 0"):
        predicted(raw, tmp_path / "third.zarr", flips=(3,))
