"""Workers of a cluster are killed while they predict: real processes, real signals, a real scheduler."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

import cluster_process
import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from predict_process import predict_blocks
from predicting import BLOCKS, voxels

from synbb.errors import RunEnded, SynbbError
from synbb.inference.cluster import ClusterDriver
from synbb.inference.cluster_start import connected
from synbb.inference.ledger import read_marks
from synbb.inference.ledger_lines import ledger_path
from synbb.volumes.opening import open_volume


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    # Each loss comes back to the driver at once, which then counts alone.
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=0, processes=False, dashboard_address=None, protocol="tcp://") as cluster,
    ):
        yield cluster.scheduler_address


class Workers:
    """Processes that work for one scheduler."""

    def __init__(self, scheduler: str, folder: Path) -> None:
        self.scheduler = scheduler
        self.folder = folder
        self.processes: list[BaseProcess] = []
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["synbb.inference.predictor", "synbb.inference.cluster_worker"])

    def start(self, **faults: Any) -> BaseProcess:
        log = self.folder / f"worker-{len(self.processes)}.log"
        process = self.context.Process(
            target=cluster_process.main, args=(self.scheduler, str(log)), kwargs=faults, daemon=True
        )
        process.start()
        self.processes.append(process)
        return process

    def kill_all(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    @property
    def computed(self) -> list[int]:
        lines = "".join(log.read_text() for log in self.folder.glob("worker-*.log")).splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith("computed")]


@pytest.fixture
def workers(scheduler: str, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(scheduler, tmp_path)
    yield made
    made.kill_all()


class Predicting:
    """A prediction on a cluster, in a thread; the test goes on and kills."""

    def __init__(self, raw: Path, output: Path, scheduler: str, pause: float = 0.0, **options: Any) -> None:
        self.said: list[str] = []
        driver = ClusterDriver(lambda: connected(scheduler), **options)
        self.future: Future[Any] = Future()
        self.output = output
        given = {"driver": driver, "announce": self.said.append}
        # A daemon: a test that fails does not wait for the end.
        Thread(target=self._run, args=(str(raw), str(output), pause), kwargs=given, daemon=True).start()

    def _run(self, *args: Any, **given: Any) -> None:
        try:
            self.future.set_result(predict_blocks(*args, **given))
        except BaseException as error:  # raised where the test asks for the result
            self.future.set_exception(error)

    def wait_for_marks(self, count: int) -> None:
        until = time.monotonic() + 240
        while time.monotonic() < until and not self.future.done():
            where = ledger_path(self.output)
            if where.exists() and where.read_bytes().count(b'"block"') >= count:
                return
            time.sleep(0.005)
        pytest.fail(f"{count} blocks were never marked: {self.said}")

    def end(self) -> Any:
        return self.future.result(240)  # importing torch takes its time on a busy machine


def test_killed_workers_cost_nothing_but_time(
    raw: Path, undisturbed: np.ndarray, scheduler: str, workers: Workers, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    victims = [workers.start() for _ in range(2)]
    predicting = Predicting(raw, output, scheduler, pause=0.05, retries=0)
    dice = random.Random(3)
    for count in (1, *range(6, 60, 6)):  # one, then others in turn: ten in all
        predicting.wait_for_marks(count)
        time.sleep(dice.uniform(0.0, 0.1))
        victim = victims.pop(0)
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victims.append(workers.start())
    summary = predicting.end()
    assert (summary.blocks, summary.done) == (BLOCKS, BLOCKS)
    assert not [line for line in predicting.said if line.startswith("block ")], "no block is declared failed"
    np.testing.assert_array_equal(voxels(output), undisturbed)
    assert open_volume(str(output)).attributes["complete"] is True
    assert set(workers.computed) == set(range(BLOCKS))


def test_a_block_that_is_under_way_in_ten_losses_is_not_to_blame(
    raw: Path, undisturbed: np.ndarray, scheduler: str, workers: Workers, tmp_path: Path
) -> None:
    """The worst of it: whichever worker has block 41 is killed, ten times."""
    output = tmp_path / "out.zarr"
    for _ in range(2):
        workers.start(slow=41)
    predicting = Predicting(raw, output, scheduler)
    killed = 0
    until = time.monotonic() + 240
    while killed < 10 and time.monotonic() < until:
        for log in sorted(workers.folder.glob("worker-*.log")):
            process = workers.processes[int(log.stem.split("-")[1])]
            if process.is_alive() and "computed 41\n" in log.read_text():
                process.kill()
                process.join()
                killed += 1
                workers.start(slow=41 if killed < 9 else None)
        time.sleep(0.02)
    assert killed == 10
    assert predicting.end().done == BLOCKS
    assert not [line for line in predicting.said if line.startswith("block ")], "no block is declared failed"
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_block_that_always_raises_is_reported_once(
    raw: Path, undisturbed: np.ndarray, scheduler: str, workers: Workers, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    for _ in range(2):
        workers.start(broken=7)
    predicting = Predicting(raw, output, scheduler, retries=2)
    with pytest.raises(RunEnded, match=rf"1 of {BLOCKS} blocks failed: 7 \(.*block 7 is broken") as ended:
        predicting.end()
    assert ended.value.exit_status == 3
    told = [line for line in predicting.said if line.startswith("block 7 ")]
    assert len(told) == 1
    assert "failed 3 times" in told[0]
    assert "Traceback" in told[0]
    assert workers.computed.count(7) == 3
    assert set(read_marks(output)[1]) == set(range(BLOCKS)) - {7}
    assert open_volume(str(output)).attributes["complete"] is False
    assert predict_blocks(str(raw), str(output)).done == 1, "another call goes on where it ended"
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_a_block_that_kills_workers_is_given_up(
    raw: Path, scheduler: str, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the second loss: a block that waited behind this one once is not sent out beside it again.
    monkeypatch.setattr("synbb.inference.cluster.LOSSES", 2)
    output = tmp_path / "out.zarr"
    for _ in range(2):
        workers.start(deadly=41)
    predicting = Predicting(raw, output, scheduler)
    while not predicting.future.done():
        if sum(process.is_alive() for process in workers.processes) < 2:
            workers.start(deadly=41)
        time.sleep(0.05)
    with pytest.raises(RunEnded, match=rf"1 of {BLOCKS} blocks failed: 41 "):
        predicting.end()
    assert [line for line in predicting.said if "block 41 " in line and "2 workers died" in line]
    assert set(read_marks(output)[1]) == set(range(BLOCKS)) - {41}


def test_without_workers_the_run_ends_and_can_go_on(
    raw: Path, undisturbed: np.ndarray, scheduler: str, workers: Workers, tmp_path: Path
) -> None:
    output = tmp_path / "out.zarr"
    workers.start()
    with Client(scheduler) as client:
        client.wait_for_workers(1, timeout=120)
    predicting = Predicting(raw, output, scheduler, pause=0.05, worker_timeout=1.5)
    predicting.wait_for_marks(10)
    workers.kill_all()
    with pytest.raises(RunEnded, match=r"all workers are gone.*finished and kept") as ended:
        predicting.end()
    assert ended.value.exit_status == 3
    marked = set(read_marks(output)[1])
    assert 10 <= len(marked) < BLOCKS
    fresh = Workers(scheduler, tmp_path / "fresh")
    fresh.folder.mkdir()
    fresh.start()
    try:
        assert Predicting(raw, output, scheduler).end().skipped == len(marked)
    finally:
        fresh.kill_all()
    assert not marked & set(fresh.computed), "no block is computed after its mark"
    np.testing.assert_array_equal(voxels(output), undisturbed)


def test_without_scheduler_the_run_ends(raw: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None, protocol="tcp://") as cluster:
        workers = Workers(cluster.scheduler_address, tmp_path)
        workers.start()
        predicting = Predicting(raw, output, cluster.scheduler_address, pause=0.05)
        predicting.wait_for_marks(5)
    with pytest.raises(RunEnded, match=r"connection to the scheduler is lost; .* finished and kept"):
        predicting.end()
    workers.kill_all()
    assert 5 <= len(read_marks(output)[1]) < BLOCKS


def test_nobody_answers(raw: Path, tmp_path: Path) -> None:
    driver = ClusterDriver(lambda: connected("local:none"))
    with pytest.raises(SynbbError, match="local:N wants a number"):
        predict_blocks(str(raw), str(tmp_path / "out.zarr"), driver=driver)


def test_workers_of_this_machine_are_replaced_when_killed(raw: Path, undisturbed: np.ndarray, tmp_path: Path) -> None:
    """``--cluster local:1``: dask's nanny starts the process again, which gets network and plan anew."""
    output = tmp_path / "out.zarr"
    predicting = Predicting(raw, output, "local:1", pause=0.05)
    predicting.wait_for_marks(5)
    for child in multiprocessing.active_children():
        if "Nanny" in child.name or "Dask Worker" in child.name:
            child.kill()
    assert predicting.end().done == BLOCKS
    np.testing.assert_array_equal(voxels(output), undisturbed)
