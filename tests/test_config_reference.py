"""docs/config.md says what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_of_keys_is_current() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "config_reference.py"), "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_page_has_keys_of_all_parts_with_their_defaults() -> None:
    page = (ROOT / "docs" / "config.md").read_text()
    for row in (
        "| `training.steps` | 2000 |",
        "| `data.volumes.N.split` | required |",
        "| `data.augment.max_shift` | 6 |",
        "| `data.objects.max_size` | [null, 20.0] |",
        "| `model.linear_bias` | true |",
        "| `methods.NAME.after` | null |",
    ):
        assert row in page
    assert "(train, validation, test)" in page
