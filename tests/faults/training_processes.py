"""Start jobs in ``train_process.py`` and look at what they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


class Processes:
    """A running ``train_process.py``."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self.log = process, log

    def __call__(self, *arguments: Any, **job: Any) -> int:
        """Run ``synbb ARGUMENTS``; the exit status, or minus the signal that killed it."""
        self.log.write_text("")
        sent = {"arguments": [str(a) for a in arguments], "log": str(self.log), **job}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(sent) + "\n")
        self._process.stdin.flush()
        return os.waitstatus_to_exitcode(int(self._process.stdout.readline()))

    @property
    def said(self) -> str:
        """Standard output and error of the last job."""
        return self.log.read_text()


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """A server of jobs, one thread each, on the CPU."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("train_process.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Processes(process, folder / "said.txt")
        finally:
            assert process.stdin is not None
            process.stdin.close()


def assert_same_weights(one: Path, other: Path) -> None:
    """Bit-identical final weights."""
    left, right = (load_file(run / "weights" / "last.safetensors") for run in (one, other))
    assert left.keys() == right.keys()
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing, f"{len(differing)} of {len(left)} tensors differ, the first is {differing[0]}"
