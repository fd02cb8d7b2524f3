"""``synbb compare`` as one call."""

from __future__ import annotations

from pathlib import Path

from synbb.experiments.config import load_study
from synbb.experiments.plan import plan
from synbb.experiments.runner import Resources, Say
from synbb.experiments.study import look, run_study, table_of


def compare(
    config: str | Path,
    overrides: list[str] | tuple[str, ...] = (),
    *,
    output: Path | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    only: tuple[str, ...] = (),
    dry_run: bool = False,
    analyse_only: bool = False,
    say: Say = print,
) -> Path:
    """Run what is missing of a study, then analyse it.

    Args:
        config: YAML file of the study.
        overrides: ``key=value`` with dotted keys.
        output: folder of the study; runs/compare/<name of the file> by default.
        jobs: runs at a time; one for each GPU by default, else one.
        threads: of each run; all cores shared by default.
        only: methods to run.
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
    planned = plan(study, folder, str(config), only)
    resources = Resources.of(jobs, threads)
    if dry_run:
        table = table_of(study, folder)
        progress = look(planned, table)
        done = {each.cell for each in progress.done}
        for each in planned:
            say(f"{'done   ' if each.cell in done else 'missing'} {each.config_hash} {each.cell}")
        seconds = progress.seconds(table)
        time = "" if seconds is None else f", about {seconds / resources.jobs / 60:.0f} min with {resources.jobs} jobs"
        say(f"{len(progress.done)} of {len(planned)} runs done, {len(progress.todo)} to do{time}")
        return folder
    if not analyse_only:
        run_study(study, planned, folder, resources=resources, say=say)
    return folder
