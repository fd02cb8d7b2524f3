"""Fixtures that several rooms share."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from synbb.cli.console import console

# Examples on a shared machine may take any time; what they find must not depend on it.
hypothesis.settings.register_profile("synbb", deadline=None)
hypothesis.settings.load_profile("synbb")

# What commands print is compared whole, whatever terminal the tests run in.
console.width = 200

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def vnc_folder() -> Path:
    """The VNC folder as upstream lays it out, cropped to columns x < 704."""
    folder = SHARED_DATA / "vnc"
    if not folder.is_dir():
        pytest.skip("no real VNC data: ../shared/data/vnc is not beside this checkout")
    return folder


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """A test of real data that is skipped although the data are there has failed."""
    outcome = yield
    report = outcome.get_result()
    needs_data = item.get_closest_marker("real_data") or "vnc_folder" in getattr(item, "fixturenames", ())
    if report.skipped and needs_data and SHARED_DATA.is_dir():
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped although {SHARED_DATA} is there: {report.longrepr}"
