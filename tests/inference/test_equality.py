"""Blockwise prediction is whole-volume prediction: an acceptance criterion, to 1e-5 on float logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import VOXEL, geometry, random_unet, random_volume, randomise_

from synbb.inference.block_work import BlockWork, core_logits
from synbb.inference.blocks import BlockPlan, round_up
from synbb.inference.network import Network
from synbb.inference.predictor import predict_array, predict_volume
from synbb.models import build_unet
from synbb.models.layout import channels_last
from synbb.volumes.opening import open_volume
from synbb.volumes.resample import WorkingView, upsample_to_source
from synbb.volumes.statistics import Normalisation

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from synbb.volumes.taps import Floats

TOLERANCE = 1e-5
GREY = Normalisation(20.0, 230.0)
TINY = random_unet()
TINY_GEOMETRY = geometry(TINY)


def whole_logits(net: nn.Module, array: Floats, stride: tuple[int, int, int]) -> Floats:
    """The reference, independent of the code under test: pad at the far end, run the network once, cut."""
    padded = np.pad(
        array, [(0, n - m) for n, m in zip(round_up(array.shape, stride), array.shape, strict=True)], mode="edge"
    )
    with torch.inference_mode():
        out = net(torch.from_numpy(np.stack([padded, padded]))[:, None])[0, 0].numpy()
    return out[tuple(slice(0, n) for n in array.shape)]


def blockwise_logits(net: nn.Module, plan: BlockPlan, view: WorkingView) -> Floats:
    """Logits of the working grid, put together of the blocks' cores."""
    out = np.full(view.shape, np.nan, np.float32)
    with Network(net, stride=plan.stride, halo=plan.halo) as network:
        for batch in plan.batches(2):
            work = BlockWork(view, plan, GREY)
            found = work.logits(network, batch, [work.read(block) for block in batch])
            for block, logits in zip(batch, found, strict=True):
                out[block.core.slices] = core_logits(logits, block)
    return out


@pytest.fixture(scope="module")
def default_network() -> nn.Module:
    """The default network at full size, random weights and norm statistics."""
    torch.manual_seed(5)
    net = build_unet(VOXEL)
    randomise_(net, 5)
    channels_last(net)  # as prediction lays weights out: other kernels round in another order
    return net.eval()


def test_the_default_network_on_a_volume(default_network: nn.Module, tmp_path: Path) -> None:
    volume = random_volume(tmp_path / "raw.zarr", (13, 82, 91))
    view = WorkingView(volume, VOXEL)
    plan = BlockPlan(volume.box, (5, 28, 32), view.shape, **geometry(default_network))
    assert min(plan.grid) >= 3
    assert any(n % s for n, s in zip(view.shape, plan.stride, strict=True)), "the shape must not divide"
    assert any(plan.halo[a] < b.read.start[a] for b in plan for a in range(3)), "some blocks lie inside"
    reference = whole_logits(default_network, GREY.apply(volume.read(volume.box)), plan.stride)
    found = blockwise_logits(default_network, plan, view)
    assert reference.std() > 0.05, "logits of one value would prove nothing"
    np.testing.assert_allclose(found, reference, rtol=0, atol=TOLERANCE)


def test_the_default_network_on_a_resampled_volume(default_network: nn.Module, tmp_path: Path) -> None:
    """4.6 nm pixels worked at 9.2: probabilities of blocks against the whole volume brought back in one piece."""
    volume = random_volume(tmp_path / "raw.zarr", (12, 150, 167), (50.0, 4.6, 4.6))
    view = WorkingView(volume, VOXEL)
    assert view.scale == (1.0, 2.0, 2.0)
    logits = whole_logits(default_network, GREY.apply(view.read(view.box)), (1, 4, 4))
    expected = upsample_to_source(
        (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32), view.box, volume.box, view.scale, view.shape
    )
    arguments = geometry(default_network)
    plan = BlockPlan(volume.box, (4, 50, 56), view.shape, **arguments, scale=view.scale)
    assert min(plan.grid) >= 3
    np.testing.assert_allclose(blockwise_logits(default_network, plan, view), logits, rtol=0, atol=TOLERANCE)
    predict(default_network, volume, tmp_path / "out.zarr", write_block=(4, 50, 56), dtype="float32", **arguments)
    stored = open_volume(str(tmp_path / "out.zarr"))
    assert stored.voxel_size == (50.0, 4.6, 4.6)
    np.testing.assert_allclose(stored.read(stored.box), expected, rtol=0, atol=TOLERANCE)


def predict(net: nn.Module, volume: Any, output: Path, **arguments: Any) -> Any:
    return predict_volume(
        net,
        volume,
        output,
        working_voxel_size=VOXEL,
        normalisation=GREY,
        attributes={},
        model_sha256="0" * 64,
        run_id="test",
        **arguments,
    )


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 14), st.integers(1, 70), st.integers(1, 70)),
    tile=st.tuples(st.integers(1, 8), st.integers(1, 40), st.integers(1, 40)),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_arrays_in_tiles(shape: tuple[int, int, int], tile: tuple[int, int, int], batch: int, seed: int) -> None:
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    reference = whole_logits(TINY, array, TINY_GEOMETRY["stride"])
    whole = predict_array(TINY, array, **TINY_GEOMETRY)
    tile = tuple(max(t, -(-n // 4)) for t, n in zip(tile, shape, strict=True))  # a few tiles an axis: fast enough
    tiled = predict_array(TINY, array, tile=tile, batch=batch, **TINY_GEOMETRY)
    np.testing.assert_allclose(whole, reference, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(tiled, reference, rtol=0, atol=TOLERANCE)


def test_a_smaller_halo_is_seen() -> None:
    """The tests above can fail: one step of the stride grid less, and blocks differ."""
    array = np.random.default_rng(0).normal(size=(9, 64, 64)).astype(np.float32)
    reference = predict_array(TINY, array, **TINY_GEOMETRY)
    for axis in range(3):
        halo = list(TINY_GEOMETRY["halo"])
        halo[axis] -= TINY_GEOMETRY["stride"][axis]
        found = predict_array(TINY, array, tile=(3, 16, 16), stride=TINY_GEOMETRY["stride"], halo=halo)
        assert np.abs(found - reference).max() > TOLERANCE, axis


def test_networks_that_pool_every_axis() -> None:
    net = random_unet(seed=3, filters=(3, 3, 3), voxel_size=(8, 8, 8))
    array = np.random.default_rng(0).normal(size=(45, 30, 38)).astype(np.float32)
    tiled = predict_array(net, array, tile=(12, 12, 12), **geometry(net))
    np.testing.assert_allclose(tiled, whole_logits(net, array, (4, 4, 4)), rtol=0, atol=TOLERANCE)
