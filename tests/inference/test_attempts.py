"""What is said of blocks that failed."""

from __future__ import annotations

from synbb.inference.attempts import NAMED, what_failed


def test_a_few_of_many_failed_blocks_are_named() -> None:
    few = str(what_failed("out.zarr", {7: "ValueError: odd", 3: "ValueError: even"}, 8, 10))
    assert "2 of 10 blocks failed: 3, 7 (block 3: ValueError: even); 8 are finished" in few
    many = str(what_failed("out.zarr", dict.fromkeys(range(5000), "ValueError: odd"), 1, 5001))
    assert "5000 of 5001 blocks failed: 0, 1, 2, 3" in many
    assert f", {NAMED - 1} and {5000 - NAMED} more (block 0" in many
