"""Writing what was measured: ``scores.json``, ``report.html``, ``objects.csv`` and the pictures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from synbb.errors import SynbbError, disk_errors
from synbb.evaluation.overlay import COLOURS
from synbb.evaluation.page import page
from synbb.volumes.writing import is_volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from synbb.evaluation.detection import DetectionScores, ObjectTable

SCHEMA_VERSION = 1

SCORES = "scores.json"
OBJECTS = "objects.csv"
CASES = "cases.csv"
PICTURES = "section_*.png"
FILES = (SCORES, "report.html", OBJECTS, CASES, PICTURES)
"""What reports write, and remove where another one left it."""


def prepare_folder(folder: str | Path) -> Path:
    """Make the folder for a report; what another evaluation left there will be replaced file by file.

    Raises:
        SynbbError: a file or a volume is in the way, or files of the names of ours that no evaluation wrote.
        RunEnded: the disk is full.
    """
    where = Path(folder)
    if where.exists() and not where.is_dir():
        raise SynbbError(f"{where} is a file; give a folder for the report with --output")
    if is_volume(where):
        raise SynbbError(f"{where} is a volume; give another folder for the report with --output")
    strangers = [file.name for file in _files(where)]
    if strangers and not _is_report(where):
        raise SynbbError(
            f"{where}: holds {strangers[0]}, which a report would replace, and no {SCORES} of an earlier evaluation; "
            "give another folder for the report with --output"
        )
    with disk_errors(str(where)):
        where.mkdir(parents=True, exist_ok=True)
    return where


def write_scores(
    folder: str | Path,
    scores: Mapping[str, Any],
    pictures: Sequence[tuple[str, Image.Image]] = (),
    objects: str | None = None,
) -> None:
    """Write ``scores.json``, ``report.html``, one PNG a picture and the objects, each beside its place and renamed.

    Args:
        folder: made when it is not there.
        scores: plain values, as ``evaluate_volumes`` returns them; ``schema_version`` is added.
        pictures: name of the file, ``section_`` and the section, and picture.
        objects: what ``objects.csv`` shall hold (:func:`objects_text`); without it there is none.

    Raises:
        SynbbError: a file is where the folder should be, or files in the folder are not those of an evaluation.
        RunEnded: the disk is full.
    """
    stated = {"schema_version": SCHEMA_VERSION, **scores}
    drawn = [(name, _png(picture)) for name, picture in pictures]
    files = {f"{name}.png": png for name, png in drawn}
    if objects is not None:
        files[OBJECTS] = objects.encode()
    write_files(folder, stated, page(stated, drawn), files)


def write_files(
    folder: str | Path, stated: Mapping[str, Any], html: str, files: Mapping[str, bytes] | None = None
) -> None:
    """Replace the report in a folder: figures, page and files beside them; what the new one lacks is removed.

    Raises:
        SynbbError: a file is where the folder should be, or files in the folder are not those of an evaluation.
        RunEnded: the disk is full.
    """
    where = prepare_folder(folder)
    text = json.dumps(stated, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    # First, for it says whose the others are: a report that was cut short can be written again.
    replace_file(where / SCORES, _encoded(text))
    given = {**(files or {}), "report.html": _encoded(html)}
    for file in _files(where):
        if file.name not in given and file.name != SCORES:
            file.unlink()
    for name, content in given.items():
        replace_file(where / name, content)


def _encoded(text: str) -> bytes:
    """UTF-8; bytes of names that are none are escaped, in JSON so that they are read back as they were."""
    return text.encode(errors="backslashreplace")


def _files(where: Path) -> list[Path]:
    """What lies there under names of ours."""
    return [file for pattern in FILES for file in sorted(where.glob(pattern))]


def _is_report(where: Path) -> bool:
    """Whether the ``scores.json`` in a folder is one that we wrote."""
    try:
        stated = json.loads((where / SCORES).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(stated, dict) and "schema_version" in stated


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as text."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()


def objects_text(scores: DetectionScores, truth: ObjectTable, predicted: ObjectTable) -> str:
    """A table of one row for each matched pair, missed object and false object, places and distances in nm."""
    at_truth = {int(name): place for name, place in zip(truth.ids, truth.centroids, strict=True)}
    at_predicted = {int(name): place for name, place in zip(predicted.ids, predicted.centroids, strict=True)}
    rows: list[list[object]] = []
    for match in scores.matched:
        place = [f"{v:.1f}" for v in at_truth[match.truth_id]]
        iou = "" if match.iou is None else f"{match.iou:.4f}"
        rows.append(["matched", match.truth_id, match.predicted_id, *place, f"{match.distance_nm:.1f}", iou])
    for kind, objects, places in (("missed", scores.missed, at_truth), ("false", scores.false, at_predicted)):
        for item in objects:
            near = "" if item.nearest_nm is None else f"{item.nearest_nm:.1f}"
            names = [item.id, ""] if kind == "missed" else ["", item.id]
            rows.append([kind, *names, *(f"{v:.1f}" for v in places[item.id]), near, ""])
    return csv_text(["kind", "truth_id", "predicted_id", "z_nm", "y_nm", "x_nm", "distance_nm", "iou"], rows)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its place, then rename it.

    Raises:
        RunEnded: the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with disk_errors(str(path)):
            partial.write_bytes(content)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Greys and the few colours of the drawing fit a palette, and the page is a third of the size.
    greys = [(v, v, v) for v in np.linspace(0, 255, 256 - len(COLOURS)).round().astype(int).tolist()]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in (*COLOURS, *greys) for value in colour])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
