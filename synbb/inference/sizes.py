"""How large a write block is by default, and the chunks of the output that it is a multiple of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from synbb.inference.blocks import round_up
from synbb.volumes.box import Box, Triple, triple
from synbb.volumes.storage import CHUNKS, SHARDED_FROM

if TYPE_CHECKING:
    from collections.abc import Sequence

WORK_FACTOR = 2.2
"""Working voxels read for each one written that a default block may cost, where memory allows."""

FIRST_BLOCK = (32, 256, 256)  # working voxels
THIN = FIRST_BLOCK[0] * 3 // 2
"""Working sections up to which one block reaches through: a few left over would be read with several times as many."""
LARGEST_BLOCK = 2**23  # working voxels; a network of 24 channels takes about 100 times 4 bytes for each


def default_write_block(region: Box, scale: Sequence[float], halo: Sequence[int], stride: Sequence[int]) -> Triple:
    """Voxels of the input in a write block: whole chunks of the output, no larger than ``region``.

    Begins at 32 x 256 x 256 working voxels (all sections, if they are at most :data:`THIN`) and doubles the axis that
    loses most to its halo until a block inside a large volume reads at most :data:`WORK_FACTOR` times what it writes,
    or holds :data:`LARGEST_BLOCK` voxels.
    """
    # Interpolation back to the input takes a further working voxel, hence a further step of the stride grid.
    margin = [2 * (h if f == 1 else h + s) for h, f, s in zip(round_up(halo, stride), scale, stride, strict=True)]
    limit = [max(1, math.ceil(n / f)) for n, f in zip(region.shape, scale, strict=True)]
    size = [min(n, most) for n, most in zip(FIRST_BLOCK, limit, strict=True)]
    if limit[0] <= THIN:
        size[0] = limit[0]
    while _factor(size, margin) > WORK_FACTOR and math.prod(size) < LARGEST_BLOCK:
        free = [axis for axis in range(3) if size[axis] < limit[axis]]
        if not free:
            break
        axis = max(free, key=lambda a: margin[a] / size[a])
        size[axis] = min(2 * size[axis], limit[axis])
    block = []
    for n, whole, f, most, chunk in zip(size, limit, scale, region.shape, CHUNKS, strict=True):
        chunks = max(1, round(n * f / chunk))
        block.append(most if n == whole else min(chunks * chunk, most))
    return triple(block)


def output_grid(region: Box, write_block: Sequence[int]) -> tuple[Triple, Triple | None]:
    """Chunks and shards of the output, such that no file of it belongs to two write blocks.

    Shards (one a write block) are used for outputs of more than a quarter gigavoxel, which would have too many files.
    """
    chunks, shards = [], []
    for length, block, usual in zip(region.shape, triple(write_block), CHUNKS, strict=True):
        if block >= length:  # one block along this axis
            chunk = min(usual, length)
        else:
            chunk = max(n for n in range(1, min(usual, block) + 1) if block % n == 0)
            if chunk < min(usual, block) // 4:  # a block of 509 voxels has no divisor but 1
                chunk = block
        chunks.append(chunk)
        shards.append(-(-min(block, length) // chunk) * chunk)
    large = region.size > SHARDED_FROM
    return triple(chunks), triple(shards) if large else None


def _factor(size: Sequence[int], margin: Sequence[int]) -> float:
    return math.prod((n + m) / n for n, m in zip(size, margin, strict=True))
