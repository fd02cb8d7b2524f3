"""The table of connections: which units stand at their ends."""

from __future__ import annotations

import numpy as np

from synbb.pruning.connections import ConnectionTable
from synbb.pruning.wiring import TracedLayer


def test_a_kernel_weight_belongs_to_its_slice():
    grouped = TracedLayer("layer", "conv", 2, 4, 6, 6 * 2 * 3)
    grouped.reads = np.array([[0, 1, 2, 3], [0, 1, 2, 3]])
    grouped.writes = np.array([[0, 5], [4, 5]])
    table = ConnectionTable.build([grouped], [(6, 2, 3)], [3])
    assert table.count == 36
    assert table.fan_out(np.ones(36, bool), 6).tolist() == [9, 9, 9, 9, 0, 0]  # 3 outputs of 3 weights each
    assert table.fan_in(np.ones(36, bool), 6).tolist() == [0, 0, 0, 0, 6, 6]
    first_slice = table.out_pairs[1][:3]
    assert first_slice.tolist() == [0, 0, 0]
