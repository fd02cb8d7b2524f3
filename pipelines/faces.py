"""From a dataset to named people: fetch, train, evaluate, and embed the images of the folders that were scored.

    python pipelines/faces.py configs/faces/phantom-faces.yaml
    python pipelines/faces.py configs/faces/yaleb.yaml pruning.density=0.125

Read it from top to bottom: each stage is one call of the public API, the same that the ``synbb`` commands make. A stage
whose settings, inputs and outputs are those of an earlier call is skipped, so a second call does nothing; files are
known again by size and time of change. A training is not repeated where its data have changed: that is told. Files for
offline use are looked for in ``$SYNBB_SOURCES/<dataset>`` (by default ../shared/data/<dataset>) before anything is
downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stages import (
    Datasets,
    Overrides,
    RunFolder,
    Stages,
    by_name,
    call,
    evaluate,
    get_dataset,
    predict,
    settings_of,
    train,
)


def main(
    config: Annotated[Path, typer.Argument(help="Settings of the run; see configs/faces/.")],
    overrides: Overrides = None,
    output: RunFolder = None,
    to: Datasets = Path("data"),
) -> None:
    """Fetch, train, evaluate and embed; skip what is current."""
    settings = settings_of(config, overrides, "faces")
    run = output or Path("runs") / config.stem
    stages = Stages(run / "pipeline.json")

    # 1. The dataset, checked against the manifest. `fetch` leaves alone what is there and right.
    if settings.data.dataset is not None:
        get_dataset(settings.data.dataset, to)

    # 2. Training. An interrupted run is continued.
    folders = [Path(entry.folder) for entry in settings.data.images]
    train(stages, settings, folders, config, overrides, run)

    # 3. Scores on the test split of the config: who is who, and are two images of one person.
    pairs = [] if settings.data.pairs is None else [Path(settings.data.pairs)]
    tell_scores = evaluate(stages, run, [*folders, *pairs])

    # 4. Embeddings of every image of the folders that were scored, whatever its split, for whatever comes next.
    scored = [Path(entry.folder) for entry in settings.data.images if entry.split == "test"]
    for name, folder in by_name(scored).items():
        predict(stages, run, f"embed {folder}", folder, run / f"embeddings-{name}.csv")

    tell_scores()


if __name__ == "__main__":
    call(main)
