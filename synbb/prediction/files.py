"""Prediction of files with a trained run, one row of a table each: embeddings of faces, transcripts of speech."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from synbb.errors import SynbbError, make_folder
from synbb.evaluation.report import csv_text
from synbb.prediction.trained import Trained, device_named
from synbb.tasks.base import PredictsFiles, Table
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
    overwrite: bool = False,
    decoding: str | None = None,
    beam: int | None = None,
    say: Callable[[str], None],
) -> None:
    """Predict the files of ``source`` into a CSV; files that cannot be read are listed in a second one beside it.

    Args:
        run_path: folder of the run.
        source: folder of files, or one file.
        output: the CSV.
        which: weights, ``last`` or ``best``.
        device: of torch, or ``auto``.
        allow_unfinished: predict although the masks are not final.
        overwrite: replace ``output`` where it is there.
        decoding: of speech, ``greedy`` or ``beam``; None is that of the run.
        beam: hypotheses that are kept; None is the run's.
        say: prints a line for a person.

    Raises:
        SynbbError: no such run or files, a run that predicts volumes, or one without this decoding.
        RunEnded: the disk is full.
    """
    check_table(output, overwrite=overwrite)
    trained = Trained.open(run_path, which, allow_unfinished=allow_unfinished).decoded(decoding, beam)
    task = trained.file_predictor("files are predicted by runs on speech or faces")
    place = device_named(device)
    net = trained.load(task.build_model()).to(place)
    make_folder(output.parent)  # before the work: that it cannot be made must not show after it
    table = task.predict_files(net, source, place)
    write_table(table, output, say)
    say(f"{len(table.rows)} file{'s' * (len(table.rows) != 1)} in {output}")
    facts = trained.run.data_facts()
    for key in ("licence", "citation"):
        if facts.get(key):
            say(f"{key} of the training data: {facts[key]}")


def check_table(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that is no CSV by its name, or is there already, itself or the list of what was left out.

    Args:
        output: the CSV.
        overwrite: take the place of files that are there; of folders never.

    Raises:
        SynbbError: it is.
    """
    if output.suffix.lower() != ".csv":
        raise SynbbError(f"{output}: what is said of files is a table; name the output something.csv")
    for file in (output, _left_out_beside(output)):
        if file.is_dir():
            raise SynbbError(f"{file} is a folder, where a table would be written; choose another name")
        if file.exists() and not overwrite:
            raise SynbbError(f"{file} exists; choose another name, or pass --overwrite")


def _left_out_beside(output: Path) -> Path:
    return output.with_suffix(".left-out.csv")


def write_table(table: Table, output: Path, say: Callable[[str], None]) -> None:
    """Write the rows, and what was left out to ``NAME.left-out.csv`` beside ``NAME.csv``; say what a person must know.

    Raises:
        RunEnded: the disk is full.
    """
    write_atomically(output, _encoded(csv_text(table.columns, table.rows)))
    left_out = _left_out_beside(output)
    left_out.unlink(missing_ok=True)
    if table.skipped:
        write_atomically(left_out, _encoded(csv_text(["reason"], [[reason] for reason in table.skipped])))
        more = f"; and more, all in {left_out}" if len(table.skipped) > SHOWN else ""
        shown = "; ".join(table.skipped[:SHOWN]).encode(errors="backslashreplace").decode()
        say(f"left out ({len(table.skipped)}): {shown}{more}")
    for note in table.notes:
        say(note)


def _encoded(text: str) -> bytes:
    """UTF-8; names of files that are none, as Linux allows, are written as they are on the disk."""
    return text.encode(errors="surrogateescape")
