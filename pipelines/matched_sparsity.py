"""Methods at equal density, from a dataset to a table of differences: fetch, compare, print.

    python pipelines/matched_sparsity.py configs/compare/vnc.yaml --jobs 2
    python pipelines/matched_sparsity.py configs/compare/phantom.yaml 'seeds=[0]' run.training.steps=100

Read it from top to bottom: each step is one call of the public API, the same that the ``synbb`` commands make. A study
that was stopped goes on where it was; a second call runs nothing and analyses what is there. Files for offline use are
looked for in ``$SYNBB_SOURCES/<dataset>`` (by default ../shared/data/<dataset>) before anything is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages import Datasets, Overrides, call, get_dataset, say
from synbb.experiments import compare, load_study
from synbb.experiments.plan import plan


def main(
    config: Annotated[Path, typer.Argument(help="Settings of the study; see configs/compare/.")],
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the study; runs/compare/<name of the config> by default.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default one a GPU, else one.")] = None,
    to: Datasets = Path("data"),
) -> None:
    """Fetch the data, compare the methods, show what came out."""
    output = output or Path("runs") / "compare" / config.stem
    planned = plan(load_study(config, overrides or []), output, str(config))

    # 1. The datasets, checked against the manifest. `fetch` leaves alone what is there and right.
    named = {getattr(run.config.data, "dataset", None) for run in planned}
    for dataset in sorted(each for each in named if each is not None):
        get_dataset(dataset, to)

    # 2. Every run that has no row yet: method x density x seed x fold, each trained and scored on its test split.
    #    Then the analysis: means, paired differences with intervals, two figures.
    folder = compare(config, overrides or [], output=output, jobs=jobs, say=say)

    # 3. What to look at.
    say(f"summary     {folder / 'summary.md'}")
    for picture in sorted(folder.glob("*.png")):
        say(f"figure      {picture}")


if __name__ == "__main__":
    call(main)
