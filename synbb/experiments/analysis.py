"""From the rows of a study, and the counts kept beside them, to a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from synbb.errors import SynbbError
from synbb.experiments.config import StudySettings
from synbb.experiments.plan import PlannedRun
from synbb.pruning.comparison import Comparison, points_of, realised_of
from synbb.pruning.paired import Point
from synbb.pruning.resampling import SMALLER_IS_BETTER, Resampled, load_resampled
from synbb.pruning.rows import HASH, Cell, Row, RunTable, plain

SIX_DIGITS = 1e-5
"""Relative difference of a score and what a table holds of it, at most."""


def rows_of(planned: list[PlannedRun], table: RunTable) -> dict[Cell, Row]:
    """The rows of a study's runs that have one; rows made with other settings do not count."""
    found = {each.cell: table.find(each.cell, each.config_hash) for each in planned}
    return {cell: row for cell, row in found.items() if row is not None}


def own_densities(study: StudySettings) -> dict[str, float]:
    """Method → the density that it is run at once for all densities, of those that have one."""
    return {name: own for name in study.methods if (own := study.own_density(name)) is not None}


def _unpruned(study: StudySettings) -> frozenset[str]:
    return frozenset(name for name in study.methods if study.unpruned(name))


def _taus(study: StudySettings) -> dict[str, float]:
    return {name: tau for name in study.methods if (tau := study.tau(name)) is not None}


def comparison_of(study: StudySettings, planned: list[PlannedRun], table: RunTable) -> Comparison:
    """What the finished runs of a study say.

    Scores that were kept as counts are resampled by held-out unit, too; a row whose counts are gone (they stay on the
    machine of the run), or are those of a run with other settings, counts with its score alone.

    Raises:
        SynbbError: no run is finished.
    """
    rows = rows_of(planned, table)
    if not rows:
        raise SynbbError(f"{table.path}: no run of this study is finished, so there is nothing to analyse")
    evidence = {each.cell: each.evidence for each in planned if each.cell in rows and each.evidence.is_file()}
    stored = {cell: load_resampled(file) for cell, file in evidence.items()}
    counts = {cell: of for cell, (of, config_hash) in stored.items() if _are_of(rows[cell], of, config_hash)}
    # What one row has counts for is a score of all of them, whether or not theirs are here.
    names = dict.fromkeys(filter(None, (row.get("main") for row in rows.values())))
    names |= dict.fromkeys(name for each in counts.values() for name in each)
    points: dict[Cell, dict[str, Point]] = {}
    for cell, row in rows.items():
        points[cell] = points_of(row, [name for name in row if name in names])
        for name, each in counts.get(cell, {}).items():
            if name in points[cell]:
                points[cell][name] = Point(points[cell][name].score, each)
    if not any(points.values()):
        raise SynbbError(f"{table.path}: no row of this study has a main score (the column that column main names)")
    return Comparison(
        points={cell: {name: each[name] for name in names if name in each} for cell, each in points.items()},
        methods=list(study.methods),
        densities=study.densities,
        reference=study.reference,
        own=own_densities(study),
        unpruned=_unpruned(study),
        tau=_taus(study),
        realised=realised_of(rows),
        smaller_is_better=frozenset(
            name for each, _ in stored.values() for name, of in each.items() if of.kind in SMALLER_IS_BETTER
        ),
    )


def _are_of(row: Row, counts: Mapping[str, Resampled], config_hash: str) -> bool:
    """Whether counts are of a row's run; of those that do not say so, whether they give the row's scores."""
    if config_hash:
        return config_hash == row[HASH]
    return all(
        math.isclose(float(row[name]), of.score(), rel_tol=SIX_DIGITS) for name, of in counts.items() if row.get(name)
    )


def screened_comparison(study: StudySettings) -> Comparison:
    """What an earlier study's table says of this one's methods, in its main score; seeds alone vary there.

    Raises:
        SynbbError: there is no such table, or no method has two seeds with the reference in it.
    """
    path = Path(study.screened or "")
    if not path.is_file():
        raise SynbbError(f"screened: {path} is no file; give the table of an earlier study, or leave the key out")
    rows = {cell: row for row in RunTable(path).rows() if (cell := Cell.of(row)).method in study.methods}
    found = Comparison(
        points={cell: points_of(row, [row.get("main", "")]) for cell, row in rows.items()},
        methods=list(study.methods),
        densities=sorted({cell.density for cell in rows if study.own_density(cell.method) is None}),
        reference=study.reference,
        own={name: float(plain(own)) for name, own in own_densities(study).items()},
        unpruned=_unpruned(study),
        tau=_taus(study),
        realised=realised_of(rows),
    )
    if not any(each.difference.seeds >= 2 for each in found.differences(found.scores)):
        raise SynbbError(
            f"screened: {path} holds no method of this study with two seeds or more and the reference "
            f"{study.reference!r} beside it: give methods the names that they had there"
        )
    return found
