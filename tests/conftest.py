"""Fixtures that several rooms share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def vnc_folder() -> Path:
    """The VNC folder as upstream lays it out, cropped to columns x < 704."""
    folder = SHARED_DATA / "vnc"
    if not folder.is_dir():
        pytest.skip("no real VNC data: ../shared/data/vnc is not beside this checkout")
    return folder
