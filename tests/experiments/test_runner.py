"""What a study may use of a machine."""

from __future__ import annotations

import os

import pytest

from synbb.experiments.runner import Resources


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("2,1", 2), (" 2 , 1", 2), ("many", None), ("", None)])
def test_threads_are_those_of_the_environment(said: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert Resources.of(1, None).threads == (threads or len(os.sched_getaffinity(0)))
    assert Resources.of(1, 5).threads == 5
