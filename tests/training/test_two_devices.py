"""Two processes train one network: same masks and weights on both, one of them speaks, both stop together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import write_config, write_pair

from synbb.training import RunFolder


@pytest.mark.slow
def test_masks_and_weights_agree_and_both_stop(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_processes.py")
    write_pair(tmp_path)
    config = write_config(tmp_path, training__devices=2, training__batch_size=4)
    ended = subprocess.run(
        [sys.executable, str(script), str(config), str(tmp_path / "run"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])},
    )
    # The first process alone got SIGTERM in step 8; both finish it, and one of them says so.
    assert ended.returncode == 75, ended.stdout + ended.stderr
    assert ended.stdout.count("SIGTERM after step 8 of 12") == 1
    assert ended.stdout.count("step 6: validation") == 1
    first, second = ((tmp_path / f"rank{rank}.txt").read_text().splitlines() for rank in (0, 1))
    assert first == second
    assert [line.split()[0] for line in first] == ["5", "6", "8"]  # masks are chosen anew after 4, 6 and 8
    assert {line.split()[-1] for line in first} == {"2"}
    assert len({line.split()[1] for line in first}) == 3
    assert RunFolder.open(tmp_path / "run").weights_info("last")["step"] == 6
