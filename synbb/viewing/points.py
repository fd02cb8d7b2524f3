"""Tables of synapses, as ``synbb segment`` writes them, to be shown as points."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from synbb.volumes.box import Nanometres

PLACE = ("z_nm", "y_nm", "x_nm")
NOTED = ("voxels", "score_mean", "score_max")
MOST_POINTS = 50_000
"""All points are kept in the page's state, so a browser does not manage any number."""


@dataclass(frozen=True)
class SynapsePoint:
    """A row.

    Attributes:
        place: z, y, x of the centroid, nm.
        text: what the viewer says of it.
    """

    place: Nanometres
    text: str


def read_points(path: str | Path) -> list[SynapsePoint]:
    """Read a table with columns z_nm, y_nm, x_nm, and id, voxels and scores where there are such.

    Raises:
        SynbbError: no such file, no text in UTF-8, a column is missing, a place is no finite number, or there are too
            many rows.
    """
    file = Path(path)
    if not file.is_file():
        raise SynbbError(f"--synapses {path}: no such file; give the CSV that synbb segment wrote beside the labels")
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = csv.DictReader(opened)
            missing = [name for name in PLACE if name not in (rows.fieldnames or ())]
            if missing:
                raise SynbbError(
                    f"--synapses {path}: no column {', '.join(missing)}; a table of synapses has positions in nm, as "
                    "synbb segment writes them"
                )
            points = [_point(row, f"--synapses {path}, line {rows.line_num}") for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SynbbError(
            f"--synapses {path}: cannot be read as a table ({error}); give a CSV in UTF-8, as synbb segment writes it"
        ) from error
    if len(points) > MOST_POINTS:
        raise SynbbError(
            f"--synapses {path}: {len(points):,} rows are more than a browser shows well ({MOST_POINTS:,}); cut the "
            "table to the place of interest"
        )
    return points


def _point(row: dict[str, str], where: str) -> SynapsePoint:
    try:
        z, y, x = (float(row[name]) for name in PLACE)
    except (TypeError, ValueError):
        z = y = x = nan
    if not all(isfinite(v) for v in (z, y, x)):
        raise SynbbError(f"{where}: {[row[name] for name in PLACE]} is no place in nm")
    noted = [f"{name} {row[name]}" for name in NOTED if row.get(name)]
    return SynapsePoint((z, y, x), ", ".join([f"synapse {row.get('id') or '?'}", *noted]))
