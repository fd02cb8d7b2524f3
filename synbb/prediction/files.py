"""Prediction of files with a trained run, one row of a table each: embeddings of faces, transcripts of speech."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from synbb.errors import SynbbError
from synbb.prediction.trained import Trained, device_named
from synbb.tasks.base import PredictsFiles
from synbb.training.checkpoint import write_atomically
from synbb.training.run import RunFolder
from synbb.training.start import make_task

SHOWN = 5  # skipped files that are named


def predicts_files(run_path: Path) -> bool:
    """Whether the task of a run predicts files, not volumes.

    Raises:
        SynbbError: no such run.
    """
    return isinstance(make_task(RunFolder.open(run_path).config()), PredictsFiles)


def predict_files(
    run_path: Path,
    source: Path,
    output: Path,
    *,
    which: str = "last",
    device: str = "auto",
    allow_unfinished: bool = False,
    say: Callable[[str], None],
) -> None:
    """Predict the files of ``source`` into a CSV.

    Args:
        run_path: folder of the run.
        source: folder of files, or one file.
        output: the CSV; replaced when it is there.
        which: weights, ``last`` or ``best``.
        device: of torch, or ``auto``.
        allow_unfinished: predict although the masks are not final.
        say: prints a line for a person.

    Raises:
        SynbbError: no such run or files, or a run that predicts volumes.
        RunEnded: the disk is full.
    """
    if output.suffix.lower() != ".csv":
        raise SynbbError(f"{output}: predictions of files are a table; name the output something.csv")
    trained = Trained.open(run_path, which, allow_unfinished=allow_unfinished)
    task = trained.file_predictor("files are predicted by runs on speech or faces")
    place = device_named(device)
    net = trained.load(task.build_model()).to(place)
    table = task.predict_files(net, source, place)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, buffer.getvalue().encode())
    if table.skipped:
        more = f"; and {len(table.skipped) - SHOWN} more" if len(table.skipped) > SHOWN else ""
        say(f"{len(table.skipped)} files left out: {'; '.join(table.skipped[:SHOWN])}{more}")
    for note in table.notes:
        say(note)
    say(f"{len(table.rows)} files in {output}")
    facts = trained.run.data_facts()
    for key in ("licence", "citation"):
        if facts.get(key):
            say(f"{key} of the training data: {facts[key]}")
