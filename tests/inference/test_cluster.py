"""The loop of the driver over a cluster that is played: what dask blames whom for, without its races.

The cluster itself, its workers and their ends: tests/faults/test_cluster_lost.py.
"""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import KilledWorker

from synbb.errors import RunEnded
from synbb.inference.blocks import Block, BlockPlan
from synbb.inference.cluster import LOSSES, _Run, _tasks
from synbb.inference.cluster_start import Connection
from synbb.inference.cluster_worker import Done
from synbb.inference.ledger_lines import Mark
from synbb.volumes.box import Box

PLAN = BlockPlan(Box.of_shape((4, 4, 40)), (4, 4, 4), (4, 4, 40), (0, 0, 0), (1, 1, 1))
ALLOWED = 3


class Task:
    """A future of dask: what ``compute_batch`` was to do, and what became of it."""

    status = "finished"

    def __init__(self, key: str, batch: tuple[Block, ...], missing: frozenset[int]) -> None:
        self.key = key
        self.batch = batch
        self.missing = missing
        self.killed = False

    def result(self, timeout: float) -> Done:
        if self.killed:
            raise KilledWorker(self.key, SimpleNamespace(address="tcp://worker"), ALLOWED)
        marks = tuple(Mark(block.index, block.write, 1, "") for block in self.batch if block.index in self.missing)
        return Done("tcp://worker", marks, ())

    def add_done_callback(self, call: Any) -> None: ...

    def release(self) -> None: ...


class OneWorker:
    """A cluster whose worker holds all tasks that are given out, and dies with them when one of them is deadly."""

    status = "running"

    def __init__(self, deadly: set[int]) -> None:
        self.deadly = deadly
        self.waiting: list[Task] = []
        self.over: deque[Task] = deque()

    def nthreads(self) -> dict[str, int]:
        return {"tcp://worker": 2}

    def submit(
        self, _: Any, name: str, batch: tuple[Block, ...], missing: frozenset[int], key: str, **how: Any
    ) -> Task:
        self.waiting.append(Task(key, batch, missing))
        return self.waiting[-1]

    def put(self, _: Task) -> None: ...

    def get(self, timeout: float) -> Task:
        """The queue of ended tasks: when it is empty the worker takes what waits at it."""
        if not self.over:
            dies = any(task.missing & self.deadly for task in self.waiting)
            for task in self.waiting:
                task.killed = dies
            self.over.extend(self.waiting)
            self.waiting.clear()
        return self.over.popleft()


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("deadly", [{4}, {0}, {9}, {4, 5}, {0, 3, 9}])
def test_of_blocks_that_wait_at_a_worker_that_dies_only_the_deadly_are_given_up(deadly: set[int], batch: int) -> None:
    cluster = OneWorker(deadly)
    said: list[str] = []
    prediction: Any = SimpleNamespace(
        work=SimpleNamespace(plan=PLAN),
        network=SimpleNamespace(batch=batch),
        output="out.zarr",
        say=said.append,
        report=lambda done, note: None,
    )
    marks: dict[int, Mark] = {}
    ledger: Any = SimpleNamespace(marks=marks, mark=lambda mark: marks.update({mark.block: mark}))
    run = _Run(prediction, ledger, Connection(cluster, 2), "synbb-test", 2, 600.0)
    run.ended = cluster  # type: ignore[assignment]
    named = ", ".join(map(str, sorted(deadly)))
    with pytest.raises(RunEnded, match=rf"{len(deadly)} of {len(PLAN)} blocks failed: {named} \("):
        run.until_done(_tasks(prediction, frozenset()))
    assert set(marks) == set(range(len(PLAN))) - deadly
    assert len(said) == len(deadly)
    assert all(run.losses[block] >= LOSSES for block in deadly)
