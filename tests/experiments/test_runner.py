"""What a study may use of a machine."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from synbb.experiments import runner
from synbb.experiments.runner import Resources, _signals


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("2,1", 2), (" 2 , 1", 2), ("many", None), ("", None)])
def test_threads_are_those_of_the_environment(said: str, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert Resources.of(1, None).threads == (threads or len(os.sched_getaffinity(0)))
    assert Resources.of(1, 5).threads == 5


@pytest.mark.parametrize(
    ("chosen", "count", "names"),
    [
        (None, 2, ("0", "1")),
        ("5, 3", 2, ("5", "3")),
        ("GPU-8932f937,GPU-1b2c", 2, ("GPU-8932f937", "GPU-1b2c")),
        ("1,-1,0", 1, ("1",)),
        ("", 0, ()),
    ],
)
def test_gpus_are_those_of_the_environment(
    chosen: str | None, count: int, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    found = Resources.of(None, 1)
    assert found.gpus == names
    assert found.jobs == max(1, count)


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
