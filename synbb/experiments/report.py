"""What a study leaves: results.csv, differences.csv, summary.md and two figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from synbb.experiments.analysis import rows_of
from synbb.experiments.config import StudySettings
from synbb.experiments.figures import MOST_PANELS, draw_balance, draw_scores, read_units
from synbb.experiments.plan import PlannedRun
from synbb.experiments.study import scored_of
from synbb.experiments.terminal import difference_lines, score_lines
from synbb.pruning.comparison import Compared, Comparison, markdown
from synbb.pruning.paired import LEAST_SEEDS, LEVEL, POWER, REPLICATES, smallest_detectable
from synbb.pruning.rows import Row, RunTable, write_csv
from synbb.training.checkpoint import write_atomically


def write_report(
    study: StudySettings, planned: list[PlannedRun], table: RunTable, comparison: Comparison, output: Path
) -> list[str]:
    """Write all files of an analysis.

    Returns:
        Lines for a person: the tables of the main score, and where the files lie.
    """
    rows = rows_of(planned, table)
    scores = comparison.scores
    differences = comparison.differences(scores)
    score_rows, difference_rows = comparison.score_rows(scores), comparison.difference_rows(differences)
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    write_csv(output / "results.csv", columns, list(rows.values()))
    write_csv(output / "differences.csv", list(difference_rows[0]) if difference_rows else ["score"], difference_rows)
    notes = [*_notes(study, planned, comparison, differences, len(rows)), *device_lines(list(rows.values()))]
    write_atomically(output / "summary.md", _text(score_rows, difference_rows, notes, scores).encode())
    files = [output / name for name in ("results.csv", "differences.csv", "summary.md")]
    shown = _shown(scores)
    files += draw_scores(comparison, shown, output / "score-against-density.png")
    files += _balance(study, planned, comparison, output)
    return [
        *(*score_lines(comparison), "", *difference_lines(comparison, differences), ""),
        *notes,
        *(f"written {file}" for file in files),
    ]


def _shown(scores: list[str]) -> list[str]:
    """Panels of the figure: the main score first, then those of objects."""
    others = sorted(scores[1:], key=lambda name: not name.startswith("object_f1"))
    return [scores[0], *others][: MOST_PANELS - 1]


def _balance(study: StudySettings, planned: list[PlannedRun], comparison: Comparison, output: Path) -> list[Path]:
    """The figure of the reference method's first run at each density, where its units are on record."""
    fold, seed = next(iter(study.folds)), study.seeds[0]
    units = {}
    for each in planned:
        at_place = (each.cell.method, each.cell.fold, each.cell.seed) == (study.reference, fold, seed)
        if at_place and scored_of(each) is not None:  # else another run may have left the file
            found = read_units(each.folder / "balance.csv")
            if found is not None:
                units[comparison.stands_at(study.reference, each.cell.density)] = found
    return draw_balance(units, study.reference, f"{fold}, seed {seed}", output / "balance.png") if units else []


def _text(scores: list[Row], differences: list[Row], notes: list[str], names: list[str]) -> str:
    parts = ["# Results of the study", *notes, ""]
    for name in names:
        parts += [
            f"## {name}",
            "",
            markdown([_without(row, "score") for row in scores if row["score"] == name]),
            "",
            markdown([_without(row, "score") for row in differences if row["score"] == name]),
            "",
        ]
    return "\n".join(parts)


def _without(row: Row, column: str) -> Row:
    return {name: value for name, value in row.items() if name != column}


def _notes(
    study: StudySettings, planned: list[PlannedRun], comparison: Comparison, differences: list[Compared], rows: int
) -> list[str]:
    """How the numbers were made."""
    family = sum(each.score == comparison.scores[0] for each in differences)
    done = (
        f"{rows} of {len(planned)} runs are finished. Differences are a method less {study.reference}, at equal "
        "density, fold and seed; folds are averaged, SD is over seeds."
    )
    intervals = (
        f"Intervals: 95 %, {REPLICATES} paired bootstrap samples over seeds and held-out units (folds are not drawn), "
        f"expanded for few seeds; none with fewer than {LEAST_SEEDS} paired seeds, and no claim then."
    )
    verdicts = f"Verdicts: {family} comparisons in each score, p-values adjusted by Holm's method at {LEVEL:g}."
    notes = [done, *_passed_over(comparison), *_own_densities(comparison), intervals, verdicts]
    judged = [each.difference for each in differences if each.difference.seeds >= LEAST_SEEDS]
    lost = sum(not each.units for each in judged)
    if lost:
        notes.append(
            f"For {lost} of {len(judged)} intervals the counts of some runs are not on this machine, or those of "
            "another run lie at their place: over seeds only."
        )
    return notes + power_lines(comparison, differences, len(study.seeds), family)


def _own_densities(comparison: Comparison) -> list[str]:
    """Of the methods that are compared at another density than theirs."""
    own = [
        comparison.label(name) if name in comparison.tau else f"{name} at {density:g}"
        for name, density in comparison.own.items()
    ]
    if not own:
        return []
    return [f"Not at equal density: {', '.join(own)}, run once and compared at every density."]


def _passed_over(comparison: Comparison) -> list[str]:
    count = comparison.passed_over(comparison.scores[0])
    if not count:
        return []
    return [f"{count} finished runs stand behind no mean: their seed lacks folds that another seed of the method has."]


def device_lines(rows: Sequence[Row]) -> list[str]:
    """A warning where rows were made on several devices, by their column ``device``; rows without one say nothing."""
    found = Counter(filter(None, (row.get("device") for row in rows)))
    if len(found) < 2:
        return []
    named = ", ".join(f"{device} ({count})" for device, count in sorted(found.items()))
    return [f"Runs were made on {named}: two runs of one seed differ by the device, too. Pair runs of one device."]


def power_lines(comparison: Comparison, differences: list[Compared], seeds: int, comparisons: int) -> list[str]:
    """The smallest difference that so many seeds, five at least, would find, from the paired SDs that are known.

    Args:
        comparison: scores of some runs.
        differences: between its methods.
        seeds: of the study to judge.
        comparisons: that it makes in each score.
    """
    lines = []
    seeds = max(seeds, LEAST_SEEDS)
    for score in comparison.scores:
        found = [each.difference for each in differences if each.score == score]
        known = [each.sd for each in found if each.seeds >= 2]
        pooled = (sum(sd**2 for sd in known) / len(known)) ** 0.5 if known else 0.0
        if pooled:
            least = smallest_detectable(pooled, seeds, comparisons)
            lines.append(
                f"{score}: paired SD over seeds {pooled:.3f}; {seeds} seeds find a difference of {least:.3f} with "
                f"{POWER:.0%} power (two-sided {LEVEL:.0%} / {comparisons} comparisons)."
            )
    return lines
