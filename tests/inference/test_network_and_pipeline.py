"""What happens when a device's memory runs out, and when a thread fails."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from random_networks import geometry, random_unet
from torch import Tensor, nn

from synbb.errors import RunEnded, SynbbError
from synbb.inference.network import Network
from synbb.inference.pipeline import Readers, Writers

NET = random_unet()
GEOMETRY = geometry(NET)


class SmallMemory(nn.Module):
    """A network on a device that holds so many voxels."""

    def __init__(self, voxels: int) -> None:
        super().__init__()
        self.net = NET
        self.voxels = voxels
        self.refused: list[tuple[int, ...]] = []
        self.given: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > self.voxels:
            self.refused.append(tuple(x.shape))
            torch.empty(2**62, dtype=torch.uint8, device=x.device)
        self.given.append(tuple(x.shape))
        out: Tensor = self.net(x)
        return out


def blocks(count: int, shape: tuple[int, int, int] = (3, 48, 80)) -> list[Tensor]:
    return list(torch.from_numpy(np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)))


def assert_near(found: list[Tensor], reference: list[Tensor]) -> None:
    torch.testing.assert_close(torch.stack(found), torch.stack(reference), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("voxels", "batch", "tile"),
    [
        (10**9, 4, None),
        (2 * 3 * 48 * 80, 2, None),  # a batch of 2 fits (a single one is run as two on a CPU)
        (2 * 3 * 48 * 60, 2, "halved"),
    ],
)
def test_batches_then_tiles_are_halved_until_they_fit(voxels: int, batch: int, tile: str | None) -> None:
    with Network(NET, **GEOMETRY, batch=4) as plenty:
        reference = plenty.logits(blocks(4))
    small = SmallMemory(voxels)
    with Network(small, **GEOMETRY, batch=4) as network:
        found = network.logits(blocks(4))
        assert network.batch == batch
        assert (network.tile is None) == (tile is None)
        if network.tile is not None:
            assert all(t % s == 0 for t, s in zip(network.tile, network.stride, strict=True))
        assert_near(network.logits(blocks(4)), reference)
    assert_near(found, reference)
    assert len(set(small.refused)) == len(small.refused), "each attempt is smaller than the one before"


@pytest.mark.parametrize("tile", [None, (64, 512, 512)])
def test_large_blocks_are_tiled_after_one_attempt_on_a_cpu(tile: tuple[int, int, int] | None) -> None:
    shape = (22, 48, 40)  # run singly, whatever the batch
    with Network(NET, **GEOMETRY) as plenty:
        reference = plenty.logits(blocks(2, shape))
    small = SmallMemory(22 * 48 * 39)
    with Network(small, **GEOMETRY, batch=1 if tile else 4, tile=tile) as network:
        found = network.logits(blocks(2, shape))
    assert_near(found, reference)
    assert small.refused[0] == (1, 1, *shape)
    assert small.refused.count(small.refused[0]) == 1


def test_errors_that_are_not_of_memory_keep_their_traceback() -> None:
    with Network(nn.Conv3d(2, 1, 1), **GEOMETRY) as network, pytest.raises(RuntimeError, match="channels"):
        network.logits(blocks(1))


def test_what_cannot_be_halved_any_more_ends_the_run() -> None:
    with Network(SmallMemory(10), **GEOMETRY) as network, pytest.raises(RunEnded, match="out of memory for 1 x 4 x 4"):
        network.logits(blocks(1))


def test_small_blocks_are_never_run_singly_on_a_cpu() -> None:
    seen = SmallMemory(10**9)
    with Network(seen, **GEOMETRY, batch=2) as network:
        network.logits(blocks(3))
        network.logits(blocks(2, (20, 64, 8)))
    assert [shape[0] for shape in seen.given] == [2, 2, 1, 1], "small ones in pairs, large ones singly"


def test_outputs_of_another_shape_are_refused() -> None:
    with Network(nn.Conv3d(1, 2, 1), **GEOMETRY) as network, pytest.raises(SynbbError, match="one output channel"):
        network.logits(blocks(1))


def test_bf16_is_near() -> None:
    with Network(NET, **GEOMETRY) as network:
        full = network.logits(blocks(2))
    with Network(NET, **GEOMETRY, precision="bf16") as network:
        half = network.logits(blocks(2))
    assert all(each.dtype == torch.float32 for each in half)
    assert 0 < (torch.stack(half) - torch.stack(full)).abs().max() < 0.2


def test_readers_keep_order_and_read_a_bounded_number_ahead() -> None:
    lock, begun, taken, most = threading.Lock(), 0, 0, 0

    def read(item: int) -> int:
        nonlocal begun, most
        with lock:
            begun += 1
            most = max(most, begun - taken)
        time.sleep(0.001 * (item % 3))
        return item * item

    with Readers(read, threads=3, ahead=4) as readers:
        for number, result in enumerate(readers.over(range(40))):
            assert result == number * number
            with lock:
                taken += 1
    assert begun == 40
    assert most <= 4 + 2


def test_after_an_error_no_other_item_is_begun() -> None:
    """Else a store that does not answer would be waited for once more by every thread."""
    begun: list[int] = []
    waiting = threading.Barrier(2)

    def read(item: int) -> int:
        begun.append(item)
        if item == 2:
            waiting.wait(30)
            raise ValueError("silent")
        if item == 3:
            waiting.wait(30)
            time.sleep(0.2)  # the other thread fails meanwhile
        return item

    taken: list[int] = []
    with pytest.raises(ValueError, match="silent"), Readers(read, threads=2, ahead=4) as readers:
        taken.extend(readers.over(range(100)))
    assert taken == [0, 1]
    assert sorted(begun) == [0, 1, 2, 3]


def test_a_reader_that_fails_is_heard_in_its_turn() -> None:
    def read(item: int) -> int:
        if item == 5:
            raise ValueError("chunk")
        return item

    got: list[int] = []
    with pytest.raises(ValueError, match="chunk"), Readers(read, threads=2, ahead=3) as readers:
        got.extend(readers.over(range(100)))
    assert not [t for t in threading.enumerate() if t.name.startswith("synbb")]


def test_after_a_failed_job_no_other_is_begun() -> None:
    done: list[int] = []

    def job(number: int) -> None:
        if number == 3:
            raise OSError("disk")
        done.append(number)

    def write_all() -> None:
        with Writers(threads=1, behind=2) as writer:
            for number in range(100):
                writer.submit(lambda number=number: job(number))

    with pytest.raises(OSError, match="disk"):
        write_all()
    assert done == [0, 1, 2]
    assert not [t for t in threading.enumerate() if t.name.startswith("synbb")]


def test_writers_work_at_the_same_time_and_a_failure_stops_them_all() -> None:
    together = threading.Barrier(3, timeout=10)
    begun: list[int] = []

    def job(number: int) -> None:
        begun.append(number)
        if number < 3:
            together.wait()  # all three must be here at once
        if number == 2:
            raise OSError("disk")

    def write_all() -> None:
        with Writers(threads=3, behind=4) as writers:
            for number in range(100):
                writers.submit(lambda number=number: job(number))

    with pytest.raises(OSError, match="disk"):
        write_all()
    assert {0, 1, 2} <= set(begun)
    assert len(begun) < 100
    assert not [t for t in threading.enumerate() if t.name.startswith("synbb")]


def test_the_last_job_that_fails_is_heard_too() -> None:
    def fail() -> None:
        time.sleep(0.02)
        raise OSError("disk")

    def write() -> None:
        with Writers(threads=1, behind=2) as writer:
            writer.submit(fail)

    with pytest.raises(OSError, match="disk"):
        write()


def test_the_first_error_wins_and_the_writers_is_noted() -> None:
    def fail() -> None:
        raise OSError("disk")

    def write() -> None:
        with Writers(threads=1, behind=5) as writer:
            writer.submit(fail)
            raise ValueError("network")

    with pytest.raises(ValueError, match="network") as caught:
        write()
    assert "OSError: disk" in caught.value.__notes__[0]


def test_an_interrupt_finishes_what_waits() -> None:
    done: list[int] = []

    def slow() -> None:
        time.sleep(0.02)
        done.append(1)

    def write() -> None:
        with Writers(threads=1, behind=5) as writer:
            for _ in range(4):
                writer.submit(slow)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert len(done) == 4
