"""Running a network on arrays of one shape: device, precision, batches, and what to do when memory runs out."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from synbb.errors import RunEnded, SynbbError
from synbb.inference.blocks import BlockPlan, round_up
from synbb.models.layout import channels_last
from synbb.volumes.box import Box, Triple, triple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PRECISIONS: dict[str, torch.dtype | None] = {
    "32": None,
    "tf32": None,
    "bf16": torch.bfloat16,
    "16": torch.float16,
}

# On a CPU, PyTorch computes float32 conv3d with one sample by a slow path while channels x depth x height is at most
# 20480 (aten/src/ATen/native/Convolution.cpp, use_mkldnn). With some 20 channels that is a depth x height of about
# 1000. Measured (24, 48, 96 channels, one thread): 8 x 48 x 48 takes 0.12 s for one sample and 0.08 s for two, so a
# single one is run twice over; 20 x 212 x 212 takes 4.1 s for one and 8.6 s for two, and of the one 1 % is the slow
# path (the first layer and the head, which have one channel), so large ones are run singly, in half the memory.
SLOW_PLANE = 1024

CPU_IS_FULL = "DefaultCPUAllocator"  # which says so in a plain RuntimeError


class Network:
    """A network in evaluation mode on its device, for blocks of a padded grid.

    Use as a context manager: it puts the network into evaluation mode, and each of its modules back into the mode it
    was in at the end. Batch norm then uses its running statistics, so results do not depend on the batch.

    Attributes:
        flips: axes (0 z, 1 y, 2 x) along which logits are averaged over the block and its mirror images.
        batch: blocks given to the device at once; halved for good when its memory runs out.
        tile: working voxels computed at once inside a block, None for the whole block; halved likewise.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        stride: Triple,
        halo: Triple,
        device: str | torch.device | None = None,
        precision: str = "32",
        batch: int = 2,
        tile: Triple | None = None,
        flips: Sequence[int] = (),
    ) -> None:
        if precision not in PRECISIONS:
            raise SynbbError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        if batch < 1:
            raise SynbbError(f"batch {batch} must be at least 1")
        if tile is not None and min(tile) < 1:
            raise SynbbError(f"tile {tile} must be at least 1 along z, y and x")
        self.net = net
        self.stride = stride
        self.halo = halo
        self.device = _device_of(net) if device is None else torch.device(device)
        self.precision = precision
        self.batch = batch
        self.tile = None if tile is None else round_up(tile, stride)
        self.flips = tuple(sorted(set(flips)))
        if not set(self.flips) <= {0, 1, 2}:
            raise SynbbError(f"flips {self.flips} are axes 0 (z), 1 (y) and 2 (x)")
        self._modes: list[tuple[nn.Module, bool]] = []

    @property
    def on_card(self) -> bool:
        """Whether it is on a GPU, where work can be queued."""
        return self.device.type == "cuda"

    def __enter__(self) -> Self:
        self._modes = [(module, module.training) for module in self.net.modules()]
        channels_last(self.net.eval().to(self.device))
        return self

    def __exit__(self, *_: object) -> None:
        for module, training in self._modes:
            module.training = training

    def logits(self, blocks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits (Z, Y, X) float32, on the device, of tensors (Z, Y, X) float32 of one shape, whole strides an axis.

        On a GPU they may still be under way: whatever is given to the same stream comes after them.

        Raises:
            RunEnded: the smallest tile does not fit into the device's memory.
        """
        found = self._whole(blocks) if self.tile is None else []
        found.extend(self._tiled(block) for block in blocks[len(found) :])
        return found

    def finish(self) -> None:
        """Wait for what the device has still to do."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def _whole(self, blocks: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Results in order, all of them or up to the block that did not fit into the memory as a whole."""
        found: list[torch.Tensor] = []
        while self.tile is None and len(found) < len(blocks):
            part = blocks[len(found) : len(found) + self._at_once(blocks[0])]
            result = self._unless_full(part)
            if result is None:
                self._shrink(part, triple(blocks[0].shape))
            else:
                found.extend(result)
        return found

    def _at_once(self, block: torch.Tensor) -> int:
        return 1 if self.device.type == "cpu" and not _is_slow_alone(block) else self.batch

    def _fewest(self, block: torch.Tensor) -> int:
        """As how many a single block is run."""
        return 2 if self.device.type == "cpu" and _is_slow_alone(block) else 1

    def _unless_full(self, part: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
        """The results, or None when the device's memory did not suffice."""
        try:
            return self._forward(part)
        except RuntimeError as error:  # on a CPU it is no torch.OutOfMemoryError
            if not isinstance(error, torch.OutOfMemoryError) and CPU_IS_FULL not in str(error):
                raise
            # The except clause holds the frames, and so the tensors, that fill the memory: leave it first.
        if self.on_card:
            torch.cuda.empty_cache()
        return None

    def _forward(self, part: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        given = torch.stack([block.to(self.device) for block in part])[:, None]
        if len(part) < self._fewest(part[0]):
            given = torch.cat([given, given])
        kind = PRECISIONS[self.precision]
        with (
            torch.inference_mode(),
            _arithmetic(self.device, self.precision),
            torch.autocast(self.device.type, kind, enabled=kind is not None),
        ):
            output = self._mirrored(given) if self.flips else self.net(given)
        if output.shape != given.shape:
            raise SynbbError(
                f"the network turns {tuple(given.shape)} into {tuple(output.shape)}: one output channel of the input's "
                "size is wanted"
            )
        return list(output[: len(part), 0].float())

    def _mirrored(self, given: torch.Tensor) -> torch.Tensor:
        """Mean logits over all mirror images, each turned back."""
        images = [axes for count in range(len(self.flips) + 1) for axes in combinations(self.flips, count)]
        total: torch.Tensor | None = None
        for axes in images:
            dims = [axis + 2 for axis in axes]
            found = self.net(given.flip(dims)).float().flip(dims)
            total = found if total is None else total + found
        assert total is not None
        return total / len(images)

    def _shrink(self, part: Sequence[torch.Tensor], shape: Triple) -> None:
        """Halve the batch, then the tile.

        Args:
            part: blocks, or tiles of one, that did not fit together.
            shape: of a block.
        """
        if len(part) > self._fewest(part[0]):
            self.batch = len(part) // 2
            return
        self.batch = min(self.batch, len(part))
        size = list(shape) if self.tile is None else [min(t, n) for t, n in zip(self.tile, shape, strict=True)]
        axis = max(range(3), key=lambda a: size[a] // self.stride[a])
        half = -(-size[axis] // (2 * self.stride[axis])) * self.stride[axis]
        if half == size[axis]:
            raise RunEnded(
                f"{self.device}: out of memory for {_text(size)} working voxels and a halo of {_text(self.halo)}; use "
                "a smaller network, or another device"
            )
        size[axis] = half
        self.tile = triple(size)

    def _tiled(self, block: torch.Tensor) -> torch.Tensor:
        """One block in tiles, each with its halo: the block is treated as a volume of its own."""
        assert self.tile is not None
        found = None
        while found is None:
            found = self._with_tiles(block, self.tile)
        return found

    def _with_tiles(self, block: torch.Tensor, tile: Triple) -> torch.Tensor | None:
        """The result, or None where a batch of tiles did not fit, and there are to be fewer or smaller ones."""
        shape = triple(block.shape)
        plan = BlockPlan(Box.of_shape(shape), tile, shape, self.halo, self.stride)
        out = torch.empty(shape, device=self.device)
        for batch in plan.batches(self.batch):
            parts = [block[b.read.slices] for b in batch]
            found = self._unless_full(parts)
            if found is None:
                self._shrink(parts, shape)
                return None
            for part, logits in zip(batch, found, strict=True):
                out[part.write.slices] = logits[part.write.relative_to(part.read.start).slices]
        return out


def _is_slow_alone(block: torch.Tensor) -> bool:
    """Whether a CPU takes the slow path for a single block of this shape."""
    depth, height, _ = block.shape
    return depth * height < SLOW_PLANE


def _device_of(net: nn.Module) -> torch.device:
    first = next(net.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def _arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """float32 means float32: on a GPU, cuDNN would round factors to TensorFloat-32 (errors of 1e-3) by itself."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=precision == "tf32"):
        yield


def _text(values: Sequence[int]) -> str:
    return " x ".join(str(value) for value in values)
