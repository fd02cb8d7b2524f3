"""``synbb compare`` as one call."""

from __future__ import annotations

from pathlib import Path

from synbb.experiments.analysis import comparison_of, own_densities, rows_of, screened_comparison
from synbb.experiments.config import StudySettings, load_study
from synbb.experiments.plan import PlannedRun, plan
from synbb.experiments.report import power_lines, write_report
from synbb.experiments.runner import Resources, Say
from synbb.experiments.study import StudyIncomplete, look, run_study, table_of
from synbb.pruning.comparison import family
from synbb.pruning.rows import RunTable


def compare(
    config: str | Path,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    output: Path | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    only: tuple[str, ...] = (),
    folds: tuple[str, ...] = (),
    dry_run: bool = False,
    analyse_only: bool = False,
    say: Say = print,
) -> Path:
    """Run what is missing of a study, then analyse all of it that is there.

    Args:
        config: YAML file of the study.
        overrides: ``key=value`` with dotted keys.
        output: folder of the study; runs/compare/<name of the file> by default.
        jobs: runs at a time; one for each GPU by default, else one.
        threads: of each run; all cores shared by default.
        only: methods to run, all when empty; the analysis takes every finished run of the study.
        folds: folds to run, likewise.
        dry_run: say what is done and what is missing, and run nothing.
        analyse_only: analyse the rows that are there.
        say: prints a line.

    Returns:
        The folder of the study.

    Raises:
        SynbbError: settings that do not fit.
        RunEnded: runs failed, or the study was stopped by a signal.
    """
    study = load_study(config, overrides)
    folder = output or Path("runs") / "compare" / Path(config).stem
    planned = plan(study, folder, str(config))
    chosen = plan(study, folder, str(config), only, folds) if only or folds else planned
    resources = Resources.of(jobs, threads)
    table = table_of(study, folder)
    if dry_run:
        _tell(study, planned, chosen, table, resources, say)
        return folder
    problem = None
    if not analyse_only:
        try:
            run_study(study, chosen, folder, resources=resources, say=say)
        except StudyIncomplete as error:
            problem = error  # what did succeed is analysed nevertheless
    table.rows()
    if problem is None or rows_of(planned, table):
        for line in write_report(study, planned, table, comparison_of(study, planned, table), folder):
            say(line)
    if problem is not None:
        raise problem
    return folder


def _tell(
    study: StudySettings,
    planned: list[PlannedRun],
    chosen: list[PlannedRun],
    table: RunTable,
    resources: Resources,
    say: Say,
) -> None:
    """What is done and missing of the chosen runs, how long it will take, and what the study could find."""
    progress = look(chosen, table)
    done = {each.cell for each in progress.done}
    for each in chosen:
        say(f"{'done   ' if each.cell in done else 'missing'} {each.config_hash} {each.cell}")
    if progress.other:
        say(f"{len(progress.other)} rows of {table.path} were made with other settings and are passed over")
    seconds = progress.seconds(table)
    time = "" if seconds is None else f", about {seconds / resources.jobs / 60:.0f} min with {resources.jobs} at a time"
    say(f"{len(progress.done)} of {len(chosen)} runs done, {len(progress.todo)} to do{time}; table {table.path}")
    comparisons = len(family(list(study.methods), study.densities, study.reference, own_densities(study)))
    say(f"{comparisons} comparisons with {study.reference} in each score, {len(study.seeds)} seeds")
    if rows_of(planned, table):
        comparison = comparison_of(study, planned, table)
    elif study.screened:
        comparison = screened_comparison(study)
        say(f"from the spread between seeds in {study.screened}:")
    else:
        return
    for line in power_lines(comparison, comparison.differences(comparison.scores), len(study.seeds), comparisons):
        say(line)
