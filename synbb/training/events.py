"""Scalars for TensorBoard, written at once by the calling thread.

The writers of torch and TensorBoard write behind, in a thread: a full disk would end that thread, and not the run.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


class EventFile:
    """A new event file in ``folder``, made with the first scalar.

    Args:
        folder: TensorBoard's log folder.
        first: steps done before; what earlier files say of later steps is void.
    """

    def __init__(self, folder: Path, first: int = 0) -> None:
        self._folder, self._first = folder, first
        self._writer: RecordWriter | None = None

    def add(self, scalars: dict[str, float], step: int) -> None:
        """Write ``scalars`` of a step.

        Raises:
            OSError: the file cannot be written.
        """
        if self._writer is None:
            self._writer = self._open()
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(self._writer, Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        """Close the file, if one was made."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> RecordWriter:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{os.uname().nodename}.{os.getpid()}"
        # Unbuffered, so that nothing is left to be written when the file is closed on a full disk.
        writer = RecordWriter((self._folder / name).open("wb", buffering=0))
        self._write(writer, Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(writer, Event(wall_time=time.time(), step=self._first + 1, session_log=start))
        return writer

    @staticmethod
    def _write(writer: RecordWriter, event: Event) -> None:
        writer.write(event.SerializeToString())
