"""The input lies in a store that fails while a prediction runs: a real web server, and one that speaks S3."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predict_process import predict_blocks
from predicting import BLOCKS, voxels
from store_server import StoreServer

from synbb.errors import RunEnded
from synbb.inference.attempts import compute_blocks
from synbb.inference.blocks import Block
from synbb.inference.ledger import read_marks
from synbb.volumes import Box, stores

pytest.importorskip("tensorstore", reason="the extra 'remote' (tensorstore) is not installed")

RETRIES = {"max_retries": 3, "initial_delay": "50ms", "max_delay": "200ms"}


@pytest.fixture
def server(raw: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreServer]:
    monkeypatch.setattr(stores, "RETRIES", RETRIES)
    running = StoreServer(raw.parent.parent)
    for name, value in running.s3().items():
        monkeypatch.setenv(name, value)
    yield running
    running.close()


@pytest.fixture(params=["http", "s3"])
def address(request: pytest.FixtureRequest, server: StoreServer, raw: Path) -> str:
    return f"{server.address if request.param == 'http' else 's3:/'}/{raw.parent.name}/{raw.name}"


def after(count: int, then: Callable[[], None]) -> Callable[[int, int], None]:
    """For ``progress``: call ``then`` once ``count`` blocks are done."""
    waiting = [then]

    def progress(done: int, _: int) -> None:
        if done >= count and waiting:
            waiting.pop()()

    return progress


def fail(server: StoreServer, how: int | str) -> Callable[[], None]:
    """Let every request for a chunk fail from now on."""

    def begin() -> None:
        server.asked.clear()
        server.faults.append(("/c/", how))

    return begin


def test_a_store_that_stumbles_costs_nothing_but_time(
    address: str, server: StoreServer, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    server.flaky = 2
    output = str(tmp_path / "out.zarr")
    assert predict_blocks(address, output).done == BLOCKS
    assert max(server.asked.values()) >= 3
    np.testing.assert_array_equal(voxels(tmp_path / "out.zarr"), undisturbed)


def test_a_store_that_goes_on_failing_ends_the_run_after_bounded_attempts(
    address: str, server: StoreServer, undisturbed: np.ndarray, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    with pytest.raises(RunEnded, match=r"block \d+ of 80 .* does not answer .* Finished blocks are kept") as ended:
        predict_blocks(address, str(output), 0.01, progress=after(10, fail(server, 503)))
    assert ended.value.exit_status == 3
    assert address in str(ended.value)
    threads = 2  # each may have asked for the same chunk
    assert max(server.asked.values()) <= threads * (RETRIES["max_retries"] + 1)
    marked = len(read_marks(output)[1])
    assert 10 <= marked < BLOCKS
    server.faults.clear()
    assert predict_blocks(address, str(output)).skipped == marked
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_store_that_falls_silent_is_waited_for_once(
    address: str, server: StoreServer, undisturbed: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many blocks are being read: the limit holds for the run."""
    monkeypatch.setattr(stores, "GIVE_UP", 4.0)
    output, began = tmp_path / "out.zarr", 0.0

    def fall_silent() -> None:
        nonlocal began
        began = time.monotonic()
        fail(server, "silence")()

    with pytest.raises(RunEnded, match="did not answer within 4 s") as ended:
        predict_blocks(address, str(output), 0.01, progress=after(10, fall_silent))
    assert time.monotonic() - began < 2 * stores.GIVE_UP
    assert ended.value.exit_status == 3
    server.faults.clear()
    assert predict_blocks(address, str(output)).done < BLOCKS
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_worker_waits_once_for_all_blocks_of_a_batch() -> None:
    """Each is reported as failed, and may be tried elsewhere."""
    asked: list[int] = []

    class Silent:
        on_card = False

        def read(self, block: Any, **_: Any) -> Any:
            asked.append(block.index)
            raise RunEnded("block cannot be computed: the store did not answer")

    box = Box((0, 0, 0), (1, 1, 1))
    blocks = [Block(number, box, box, box) for number in range(4)]
    work: Any = Silent()
    marks, failures = compute_blocks(work, work, work, blocks, frozenset({1, 2, 3}))
    assert asked == [1]
    assert marks == []
    assert [failure.block for failure in failures] == [1, 2, 3]
    assert not any(failure.fatal for failure in failures)


def test_a_request_that_stalls_is_made_again(server: StoreServer, raw: Path) -> None:
    """A server that accepts and never answers holds one request up, not the run. (Limits are read once a process.)"""
    script = (
        "import sys, threading\n"
        "from synbb.volumes import open_volume\n"
        "volume = open_volume(sys.argv[1])\n"
        "print('opened', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(volume.read(volume.box).sum())\n"
    )
    given = [sys.executable, "-c", script, f"{server.address}/{raw.parent.name}/{raw.name}"]
    limits = {**os.environ, "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "1"}
    with subprocess.Popen(given, env=limits, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "opened\n"
        server.faults.append(("/c/0/0/0$", "silence"))
        began = time.monotonic()
        print(file=process.stdin, flush=True)
        while not server.asked[f"{raw.parent.name}/{raw.name}/0/c/0/0/0"]:
            time.sleep(0.01)
        server.faults[:] = [("no such path", 404)]  # the next one is answered; who was silent stays so
        assert int(process.stdout.readline()) == voxels(raw).sum(dtype=int)
        assert time.monotonic() - began < 20
    assert server.asked[f"{raw.parent.name}/{raw.name}/0/c/0/0/0"] == 2


def test_stalls_and_pauses_end_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("LOW_SPEED_TIME_SECONDS", "CONNECT_TIMEOUT_SECONDS", "LOW_SPEED_LIMIT_BYTES")
    for name in names:
        monkeypatch.delenv(f"TENSORSTORE_CURL_{name}", raising=False)
    stores.tensorstore("")
    found: list[Any] = [os.environ.pop(f"TENSORSTORE_CURL_{name}") for name in names]
    assert found == ["10", "10", "1"]
    assert 2 * float(found[0]) < stores.GIVE_UP == 60, "there is time to ask again"
