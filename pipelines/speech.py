"""From a corpus to transcripts: fetch, train, evaluate, and transcribe every file that was scored.

    python pipelines/speech.py configs/speech/phantom-speech.yaml
    python pipelines/speech.py configs/speech/an4.yaml pruning.method=none pruning.density=1 --output runs/an4-dense

Read it from top to bottom: each stage is one call of the public API, the same that the ``synbb`` commands make. A stage
whose settings, inputs and outputs are those of an earlier call is skipped, so a second call does nothing. Files for
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
    config: Annotated[Path, typer.Argument(help="Settings of the run; see configs/speech/.")],
    overrides: Overrides = None,
    output: RunFolder = None,
    to: Datasets = Path("data"),
) -> None:
    """Fetch, train, evaluate and transcribe; skip what is current."""
    settings = settings_of(config, overrides, "speech")
    run = output or Path("runs") / config.stem
    stages = Stages(run / "pipeline.json")

    # 1. The dataset, checked against the manifest. `fetch` leaves alone what is there and right.
    if settings.data.dataset is not None:
        get_dataset(settings.data.dataset, to)

    # 2. Training. An interrupted run is continued.
    stages.run("train", settings.plain(), [run / "weights/last.safetensors"], lambda: train(config, overrides, run))

    # 3. Scores on the test split of the config: word error rates, and which words are missed.
    corpora = [Path(part.corpus) for part in settings.data.corpora if part.split == "test"]
    folders = [corpus.parent if corpus.is_file() else corpus for corpus in corpora]
    tell_scores = evaluate(stages, run, folders)

    # 4. Transcripts of all audio beside what was scored, as of recordings that nobody has written down.
    for name, folder in by_name(folders).items():
        predict(stages, run, f"transcribe {folder}", folder, run / f"transcripts-{name}.csv")

    tell_scores()


if __name__ == "__main__":
    call(main)
