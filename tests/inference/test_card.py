"""The arithmetic that a GPU does for a block is that of ``block_work.py``; what needs a GPU is skipped without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import VOXEL, geometry, random_unet, random_volume

from synbb.errors import RunEnded
from synbb.inference.block_work import BlockWork, core_logits
from synbb.inference.blocks import BlockPlan
from synbb.inference.card import greys, probabilities
from synbb.inference.predictor import predict_volume
from synbb.volumes import create_volume, open_volume
from synbb.volumes.memory_storage import volume_of_array
from synbb.volumes.resample import WorkingView
from synbb.volumes.statistics import Normalisation

if TYPE_CHECKING:
    from pathlib import Path

    from synbb.volumes.box import Triple
    from synbb.volumes.volume import Volume

NET = random_unet()
GEOMETRY = geometry(NET)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


@settings(max_examples=20, deadline=None)
@given(low=st.floats(0, 100), width=st.floats(1, 150), invert=st.booleans())
def test_grey_values_are_normalised_alike(low: float, width: float, invert: bool) -> None:
    normalisation = Normalisation(low, low + width, invert=invert)
    values = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    volume = volume_of_array("greys", values, VOXEL)
    view = WorkingView(volume, VOXEL)
    found = greys(torch.from_numpy(values), view, view.box, (4, 8, 8), normalisation).numpy()
    np.testing.assert_allclose(found, normalisation.apply(values), rtol=0, atol=1e-6)


@pytest.mark.parametrize("voxel_size", [VOXEL, (50.0, 4.6, 4.6), (25.0, 4.6, 9.2), (50.0, 6.0, 2.3)])
def test_the_network_sees_the_same(tmp_path: Path, voxel_size: tuple[float, float, float]) -> None:
    """As stored, averaged by whole and broken numbers, across sections; padded at the far end."""
    volume = random_volume(tmp_path / "raw.zarr", (7, 70, 45), voxel_size)
    view = WorkingView(volume, VOXEL, resample_z=True)
    plan = BlockPlan(volume.box, (4, 32, 32), view.shape, **GEOMETRY, scale=view.scale)
    work = BlockWork(view, plan, Normalisation(20.0, 230.0))
    for block in plan:
        there = block.read.intersect(view.box)
        assert there is not None
        stored = torch.from_numpy(view.stored(there))
        found = greys(stored, view, there, block.read.shape, work.normalisation)
        expected = work.read(block).array
        assert expected is not None
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("voxel_size", [VOXEL, (50.0, 4.6, 4.6), (50.0, 3.7, 18.4), (25.0, 4.6, 9.2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_probabilities_are_those_of_the_other_way(
    tmp_path: Path, voxel_size: tuple[float, float, float], dtype: type
) -> None:
    """As stored, enlarged by two, by broken numbers, across sections; with a floor and places without data."""
    shape = (6, 70, 45)
    volume = random_volume(tmp_path / "raw.zarr", shape, voxel_size)
    view = WorkingView(volume, VOXEL, resample_z=True)
    plan = BlockPlan(volume.box, (4, 32, 32), view.shape, **GEOMETRY, scale=view.scale)
    work = BlockWork(view, plan, Normalisation(20.0, 230.0), floor=0.02)
    rng = np.random.default_rng(0)
    for block in plan:
        logits = torch.from_numpy(rng.normal(-2, 3, block.read.shape).astype(np.float32))
        no_data = rng.random(block.write.shape) < 0.1
        one = work.voxels(logits, block, no_data, np.dtype(dtype))()
        other = probabilities(
            core_logits(logits, block), block, plan, no_data=no_data, floor=0.02, dtype=np.dtype(dtype)
        ).numpy()
        assert one.dtype == other.dtype == dtype
        assert (one == 0).any()
        near = np.abs(one.astype(float) - other) <= (1 if dtype is np.uint8 else 1e-6)
        # A probability that lies at the floor to the last bit may fall on either side.
        assert (near | (np.minimum(one, other) == 0)).all()
        assert (~near).mean() < 1e-3
        if dtype is np.uint8:
            assert (one != other).mean() < 1e-3


def predicted(volume: Volume, path: Path, device: str, **choices: object) -> np.ndarray:
    settings: dict[str, object] = {
        "working_voxel_size": VOXEL,
        "normalisation": Normalisation(20.0, 230.0),
        **GEOMETRY,
        "attributes": {},
        "model_sha256": "0" * 64,
        "run_id": "test",
        "write_block": (4, 32, 32),
        "dtype": "float32",
        "device": device,
        **choices,
    }
    predict_volume(random_unet(), volume, path, **settings)  # type: ignore[arg-type]
    stored = open_volume(str(path))
    return stored.read(stored.box)


@needs_gpu
@pytest.mark.parametrize("voxel_size", [VOXEL, (50.0, 4.6, 4.6)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_volume_is_predicted_on_a_gpu_as_on_the_cpu(
    tmp_path: Path, voxel_size: tuple[float, float, float], kind: type
) -> None:
    raw = random_volume(tmp_path / "bytes.zarr", (9, 70, 75), voxel_size)
    greys = raw.read(raw.box).astype(kind)
    greys[3] = 7  # a section without data
    other = create_volume(tmp_path / "raw.zarr", shape=greys.shape, dtype=kind, voxel_size=voxel_size)
    other.write(other.box, greys)
    volume = open_volume(str(tmp_path / "raw.zarr"))
    here, there = (predicted(volume, tmp_path / f"{name}.zarr", name) for name in ("cpu", "cuda"))
    assert here.std() > 0.05
    assert (here[3] == 0).all()
    assert (there[3] == 0).all()
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-4)


@needs_gpu
def test_logits_that_are_not_finite_end_a_run_on_a_gpu(tmp_path: Path) -> None:
    volume = random_volume(tmp_path / "raw.zarr", (5, 40, 40))
    normalisation = Normalisation(20.0, 230.0)
    net = random_unet()
    for parameter in net.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(RunEnded, match="not finite"):
        predict_volume(
            net,
            volume,
            tmp_path / "out.zarr",
            working_voxel_size=VOXEL,
            normalisation=normalisation,
            **GEOMETRY,
            attributes={},
            model_sha256="0" * 64,
            run_id="test",
            device="cuda",
        )


@needs_gpu
@pytest.mark.parametrize("tile", [None, (4, 16, 16)])
def test_what_overlaps_or_is_tiled_is_the_same_on_a_gpu(tmp_path: Path, tile: Triple | None) -> None:
    volume = random_volume(tmp_path / "raw.zarr", (9, 70, 75))
    here, there = (
        predicted(volume, tmp_path / f"{name}.zarr", name, tile=tile, flips=(1,)) for name in ("cpu", "cuda")
    )
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-4)
