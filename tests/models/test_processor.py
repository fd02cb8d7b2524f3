"""What a processor can do, from what Linux tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from synbb.models.processor import emulates_bf16


@pytest.mark.parametrize(
    ("facts", "emulates"),
    [
        ("flags\t\t: fpu avx2 avx512f\nflags\t\t: fpu avx2 avx512f\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", False),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile\n", False),
        ("Features\t: fp asimd bf16\n", False),
        (None, False),
    ],
)
def test_processors_without_bf16_are_told_from_their_flags(tmp_path: Path, facts: str | None, emulates: bool) -> None:
    if facts is not None:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{facts}")
    assert emulates_bf16(tmp_path / "cpuinfo") == emulates
