"""The geometry of blocks: what is written, what is read, and when two plans are one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.errors import SynbbError
from synbb.inference.blocks import BlockPlan, check_region, round_up
from synbb.inference.sizes import FIRST_BLOCK, WORK_FACTOR, default_write_block, output_grid
from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.resample import upsampling_support

ONE = (1.0, 1.0, 1.0)
DEFAULT_HALO, DEFAULT_STRIDE = (4, 19, 19), (1, 4, 4)


def plan_of(shape: Triple, block: Triple, halo: Triple, stride: Triple, region: Box | None = None) -> BlockPlan:
    return BlockPlan(region or Box.of_shape(shape), block, shape, halo, stride)


@st.composite
def plans(draw: st.DrawFn) -> BlockPlan:
    """Plans at scales that are whole, broken, and below one."""
    scale = tuple(draw(st.sampled_from([1.0, 2.0, 2.3, 0.5])) for _ in range(3))
    shape = tuple(draw(st.integers(1, 40)) for _ in range(3))
    working = triple([max(1, int(np.ceil(n / f - 1e-6))) for n, f in zip(shape, scale, strict=True)])
    start = [draw(st.integers(0, n - 1)) for n in shape]
    stop = [draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True)]
    block = tuple(draw(st.integers(1, 20)) for _ in range(3))
    halo = tuple(draw(st.integers(0, 9)) for _ in range(3))
    stride = tuple(draw(st.sampled_from([1, 2, 4, 8])) for _ in range(3))
    return BlockPlan(Box(triple(start), triple(stop)), block, working, halo, stride, scale)


def test_the_drawing_in_the_docstring() -> None:
    plan = plan_of((1, 1, 37), (1, 1, 12), (0, 0, 6), (1, 1, 4))
    assert [(b.write.start[2], b.write.stop[2]) for b in plan] == [(0, 12), (12, 24), (24, 36), (36, 37)]
    assert [(b.read.start[2], b.read.stop[2]) for b in plan] == [(0, 20), (4, 32), (16, 40), (28, 40)]


@settings(max_examples=150, deadline=None)
@given(plans())
def test_every_plan_keeps_its_promises(plan: BlockPlan) -> None:
    written = np.zeros(plan.region.shape, int)
    padded = Box.of_shape(plan.padded_shape)
    read = 0
    for number, block in enumerate(plan):
        assert block.index == number
        written[block.write.relative_to(plan.region.start).slices] += 1
        read += block.read.size
        assert padded.contains(block.read)
        assert block.read.contains(block.core)
        assert all(v % s == 0 for v, s in zip(block.read.start, plan.stride, strict=True))
        assert all(v % s == 0 for v, s in zip(block.read.stop, plan.stride, strict=True))
        assert block.core == upsampling_support(block.write, plan.scale, plan.working_shape)
        assert Box.of_shape(plan.working_shape).intersect(block.read) is not None
        for axis in range(3):  # whole cells of the grid, and the halo on either side of them, or the border
            step, halo = plan.stride[axis], plan.halo[axis]
            first = block.core.start[axis] // step * step
            last = -(-block.core.stop[axis] // step) * step
            assert block.read.start[axis] <= max(0, first - halo)
            assert block.read.stop[axis] >= min(plan.padded_shape[axis], last + halo)
            assert block.read.start[axis] > first - halo - step
            assert block.read.stop[axis] < last + halo + step
    assert (written == 1).all(), "each voxel of the region is written by one block"
    assert plan.read_voxels == read
    assert plan.work_factor == pytest.approx(read * np.prod(plan.scale) / plan.region.size)


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(1, 4))
def test_batches_hold_each_block_once_and_one_shape_each(plan: BlockPlan, size: int) -> None:
    batches = list(plan.batches(size))
    assert sorted(block.index for batch in batches for block in batch) == list(range(len(plan)))
    assert all(len({block.read.shape for block in batch}) == 1 and len(batch) <= size for batch in batches)
    assert batches == list(plan.batches(size))
    short = Counter(batch[0].read.shape for batch in batches if len(batch) < size)
    assert max(short.values(), default=0) <= 1, "at most one batch of each shape is not full"


def test_the_default_block_of_a_large_volume_keeps_the_work_factor() -> None:
    shape = (1000, 20_000, 20_000)
    block = default_write_block(Box.of_shape(shape), ONE, DEFAULT_HALO, DEFAULT_STRIDE)
    plan = plan_of(shape, block, DEFAULT_HALO, DEFAULT_STRIDE)
    assert block == FIRST_BLOCK
    assert 1.5 < plan.work_factor < 1.8


@pytest.mark.parametrize("scale", [ONE, (1.0, 2.0, 2.0), (1.0, 2.3, 2.3)])
@pytest.mark.parametrize(
    ("halo", "stride"), [((4, 19, 19), (1, 4, 4)), ((8, 22, 22), (1, 8, 8)), ((9, 39, 39), (2, 8, 8))]
)
def test_default_blocks_of_other_networks(scale: tuple[float, float, float], halo: Triple, stride: Triple) -> None:
    working = (1000, 8000, 8000)
    shape = triple([int(n * f) for n, f in zip(working, scale, strict=True)])
    region = Box.of_shape(shape)
    block = default_write_block(region, scale, halo, stride)
    plan = BlockPlan(region, block, triple(working), halo, stride, scale)
    assert plan.work_factor <= WORK_FACTOR
    assert all(b % c == 0 for b, c in zip(block, (32, 128, 128), strict=True))


@pytest.mark.parametrize("sections", [20, 40, 48])
def test_a_thin_volume_is_not_cut_along_z(sections: int) -> None:
    shape = (sections, 1024, 704)
    block = default_write_block(Box.of_shape(shape), ONE, DEFAULT_HALO, DEFAULT_STRIDE)
    plan = plan_of(shape, block, DEFAULT_HALO, DEFAULT_STRIDE)
    assert block[0] == sections
    assert plan.work_factor < 1.35


def test_a_deeper_volume_is_cut_into_whole_chunks() -> None:
    block = default_write_block(Box.of_shape((49, 1024, 704)), ONE, DEFAULT_HALO, DEFAULT_STRIDE)
    assert block == FIRST_BLOCK


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(1, 1500)] * 3),
    st.tuples(*[st.integers(1, 600)] * 3),
)
def test_no_file_of_the_output_belongs_to_two_blocks(shape: Triple, block: Triple) -> None:
    chunks, shards = output_grid(Box.of_shape(shape), block)
    for unit in (chunks, shards or chunks):
        assert all(b >= n or b % u == 0 for n, b, u in zip(shape, block, unit, strict=True))
    assert shards is None or all(s % c == 0 for s, c in zip(shards, chunks, strict=True))


def test_large_outputs_are_sharded_by_block() -> None:
    chunks, shards = output_grid(Box.of_shape((640, 2048, 2048)), (32, 256, 256))
    assert (chunks, shards) == ((32, 128, 128), (32, 256, 256))
    assert output_grid(Box.of_shape((20, 1024, 704)), (20, 256, 256)) == ((20, 128, 128), None)


def test_the_fingerprint_changes_with_every_field() -> None:
    plan = BlockPlan(Box.of_shape((8, 8, 8)), (4, 4, 4), (8, 8, 8), (1, 1, 1), (1, 2, 2), identity={"model": "a"})
    others = [
        replace(plan, region=Box((1, 0, 0), (8, 8, 8))),
        replace(plan, write_block=(4, 4, 8)),
        replace(plan, working_shape=(9, 8, 8)),
        replace(plan, halo=(1, 1, 2)),
        replace(plan, stride=(1, 2, 4)),
        replace(plan, working_shape=(8, 8, 4), scale=(1.0, 1.0, 2.0)),
        replace(plan, identity={"model": "b"}),
        replace(plan, identity={"model": "a", "precision": "32"}),
    ]
    assert len({plan.fingerprint(), *(other.fingerprint() for other in others)}) == 1 + len(others)
    assert replace(plan, identity={"model": "a"}).fingerprint() == plan.fingerprint()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"write_block": (0, 4, 4)}, "write_block"),
        ({"stride": (1, 0, 1)}, "stride"),
        ({"halo": (0, -1, 0)}, "halo"),
        ({"scale": (1.0, float("nan"), 1.0)}, "scale"),
        ({"region": Box((0, 0, 0), (9, 8, 8))}, "outside the volume"),
        ({"region": Box((0, 0, 0), (0, 8, 8))}, "no voxel"),
        ({"region": Box((-1, 0, 0), (8, 8, 8))}, "before the volume"),
    ],
)
def test_impossible_plans_are_refused(changed: dict[str, object], message: str) -> None:
    plan = BlockPlan(Box.of_shape((8, 8, 8)), (4, 4, 4), (8, 8, 8), (1, 1, 1), (1, 2, 2))
    with pytest.raises(SynbbError, match=message):
        replace(plan, **changed)


def test_regions() -> None:
    volume = Box.of_shape((4, 5, 6))
    assert check_region(None, volume, "raw") == volume
    with pytest.raises(SynbbError, match=r"region z 0:4, y 0:5, x 0:7.*raw.*x 0:6"):
        check_region(Box.of_shape((4, 5, 7)), volume, "raw")
    with pytest.raises(SynbbError, match="empty"):
        check_region(Box((1, 1, 1), (1, 2, 2)), volume, "raw")
    with pytest.raises(IndexError):
        plan_of((4, 5, 6), (4, 4, 4), (0, 0, 0), (1, 1, 1)).block(4)
    assert round_up((0, 5, 8), (1, 4, 4)) == (0, 8, 8)
