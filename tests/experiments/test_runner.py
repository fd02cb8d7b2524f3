"""What a study may use of a machine."""

from __future__ import annotations

import os
import signal
import time

import pytest

from synbb.experiments import runner
from synbb.experiments.runner import Resources, _signals


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("2,1", 2), (" 2 , 1", 2), ("many", None), ("", None)])
def test_threads_are_those_of_the_environment(said: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert Resources.of(1, None).threads == (threads or len(os.sched_getaffinity(0)))
    assert Resources.of(1, 5).threads == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_another_signal_ends_a_study_at_once(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ONE_SIGNAL", 0.1)
    with _signals() as received:
        time.sleep(0.15)
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(received) == 2
        time.sleep(0.15)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
