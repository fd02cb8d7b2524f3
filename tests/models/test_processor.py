"""What a processor can do, from what Linux tells of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synbb.models.processor import MOST, emulates_bf16, leave_amx_alone


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


TRAINED = """
import torch
from torch import nn
from synbb.models.processor import leave_amx_alone

leave_amx_alone()
torch.set_num_threads(1)
layer = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
for _ in range(4):
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(torch.randn(1, 8, 1, 96, 96))
    found.float().square().mean().backward()
print("alive")
"""


def test_training_in_bf16_survives_where_amx_is() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ONEDNN_VERBOSE": "1"}
    environment.pop(MOST, None)
    done = subprocess.run(
        [sys.executable, "-c", TRAINED], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.endswith("alive\n")
    computed = [line for line in done.stdout.splitlines() if ",exec,cpu,convolution," in line]
    assert computed
    assert not any("amx" in line for line in computed)


@pytest.mark.parametrize(
    ("flags", "given", "said", "left"),
    [
        ("avx512_bf16 amx_bf16", None, "AVX512_CORE_FP16", True),
        ("avx512_bf16 amx_bf16", "AVX512_CORE_AMX", "AVX512_CORE_AMX", False),
        ("avx2", None, None, False),
    ],
)
def test_amx_is_left_alone_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, given: str | None, said: str | None, left: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setenv(MOST, given or "")
    if given is None:
        monkeypatch.delenv(MOST)
    assert leave_amx_alone(tmp_path / "cpuinfo") == left
    assert os.environ.get(MOST) == said
