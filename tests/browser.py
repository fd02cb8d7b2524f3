"""A browser without a window, and what neuroglancer shows in it."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# WebGL without a graphics card, and no address reachable but this machine's own.
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--window-size=900,700"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def chromium() -> str:
    """The program, or the test is skipped."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no browser to look with: none of {', '.join(NAMES)} is installed (apt-get install chromium)")
    return found


@contextmanager
def browser(address: str) -> Iterator[None]:
    """A browser that has opened an address."""
    program = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={profile}", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def picture(viewer: Any, size: tuple[int, int] = (640, 480), timeout: float = 60) -> np.ndarray:
    """What the viewer shows once everything is loaded, without its controls: rows, columns, RGB (uint8)."""
    with viewer.config_state.txn() as state:
        state.show_ui_controls = False
        state.show_panel_borders = False
        state.viewer_size = size
    for _ in range(5):  # the first may come before the panel has its size
        taken, done = [], threading.Event()
        viewer.async_screenshot(lambda reply, to=taken, end=done: (to.append(reply), end.set()))
        assert done.wait(timeout), "the browser sent no picture: does it have WebGL?"
        image = np.asarray(Image.open(io.BytesIO(taken[0].screenshot.image)).convert("RGB"))
        if image.shape == (size[1], size[0], 3):
            return image
    raise AssertionError(f"pictures of {image.shape}, not {size}")


def extent(found: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row + 1, first and last column + 1 of the pixels that are true."""
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert len(rows), "no such pixel"
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
