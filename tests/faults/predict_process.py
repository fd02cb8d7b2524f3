"""What a process does that predicts, for the tests that kill it.

It prints ``computed N`` when block N is read for the network, and the summary's numbers at the end, into a log; it
exits like the command line: 2 for a user's mistake, 3 for a run that had to end.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from synbb.errors import SynbbError
from synbb.inference import predict_volume
from synbb.inference.block_work import BlockWork
from synbb.inference.leased import LeasedDriver
from synbb.inference.ledger_lines import workers_folder
from synbb.volumes.opening import open_volume
from synbb.volumes.statistics import Normalisation

if TYPE_CHECKING:
    from typing import Any

    from synbb.inference import PredictionSummary

VOXEL = (50.0, 9.2, 9.2)
STRIDE, HALO, BLOCK = (1, 2, 2), (1, 3, 3), (2, 8, 8)


class Net(nn.Module):
    """Two convolutions and a pooling path, fixed weights; pauses at each batch so that there is time to die."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv3d(1, 3, (3, 3, 3), padding=1)
        self.down = nn.Conv3d(3, 3, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.up = nn.ConvTranspose3d(3, 1, (1, 2, 2), stride=(1, 2, 2))
        self.pause = pause

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.pause)
        out: Tensor = self.up(torch.relu(self.down(torch.relu(self.first(x)))))
        return out


def announce_reads(broken: int | str | None = None) -> None:
    """Let each block that is going to be computed be printed; reading block ``broken``, or ``every`` one, raises."""
    read_quietly = BlockWork.read

    def read(work: BlockWork, block: Any, **how: Any) -> Any:
        print("computed", block.index, flush=True)
        if broken in (block.index, "every"):
            raise RuntimeError(f"block {block.index} is broken")
        return read_quietly(work, block, **how)

    BlockWork.read = read  # type: ignore[method-assign]


def wait_for_others(output: str, count: int) -> None:
    """Let no block be read before so many workers share ``output``, and count failures from the same moment on."""
    read_at_once, all_there = BlockWork.read, threading.Event()

    def read(work: BlockWork, block: Any, **how: Any) -> Any:
        while not all_there.is_set():
            if len(list(workers_folder(output).glob("marks-*.jsonl"))) >= count:
                time.sleep(0.5)  # a worker reads what others noted just after it made its file
                all_there.set()
            time.sleep(0.01)
        return read_at_once(work, block, **how)

    BlockWork.read = read  # type: ignore[method-assign]


def main(
    raw: str,
    output: str,
    log: str,
    pause: float = 0.0,
    *,
    file_limit: int = 0,
    expiry: float = 0.0,
    broken: int | str | None = None,
    together: int = 0,
    **changed: Any,
) -> None:
    """Predict ``raw``.

    Args:
        raw: the input.
        output: the prediction.
        log: what is printed.
        pause: seconds at each batch.
        file_limit: the most bytes that a file of this process may have.
        expiry: be a worker with leases that expire so.
        broken: number of a block whose reading raises, or ``every``.
        together: workers that must be there before the first block is read.
        changed: arguments of predict_volume.
    """
    # A shell ignores Ctrl-C for what it starts in the background, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(log, "w", buffering=1) as stream:
        sys.stdout = sys.stderr = stream
        if together:
            wait_for_others(output, together)
        status = predict(raw, output, pause, file_limit, expiry, broken, changed)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    sys.exit(status)


def predict(
    raw: str,
    output: str,
    pause: float,
    file_limit: int,
    expiry: float,
    broken: int | str | None,
    changed: dict[str, Any],
) -> int:
    torch.set_num_threads(1)
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    announce_reads(broken)
    if expiry:
        changed["driver"] = LeasedDriver(expiry=expiry)
    try:
        summary = predict_blocks(raw, output, pause, announce=lambda line: print(line, flush=True), **changed)
    except SynbbError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_status
    print("summary", summary.blocks, summary.done, summary.skipped, flush=True)
    return 0


def predict_blocks(raw: str, output: str, pause: float = 0.0, **changed: Any) -> PredictionSummary:
    """The prediction of all tests of this folder."""
    arguments = {
        "working_voxel_size": VOXEL,
        "normalisation": Normalisation(0.0, 255.0),
        "stride": STRIDE,
        "halo": HALO,
        "write_block": BLOCK,
        "attributes": {},
        "model_sha256": "0" * 64,
        "run_id": "fault",
        "dtype": "float32",
    }
    return predict_volume(Net(pause), open_volume(raw), output, **{**arguments, **changed})
