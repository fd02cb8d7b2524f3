"""From a corpus to transcripts: fetch, train, evaluate, and transcribe the folders that hold what was scored.

    python pipelines/speech.py configs/speech/phantom-speech.yaml
    python pipelines/speech.py configs/speech/an4.yaml pruning.method=none pruning.density=1 --output runs/an4-dense

Read it from top to bottom: each stage is one call of the public API, the same that the ``synbb`` commands make. A stage
whose settings, inputs and outputs are those of an earlier call is skipped, so a second call does nothing; files are
known again by size and time of change. A training is not repeated where its data have changed: that is told. Files for
offline use are looked for in ``$SYNBB_SOURCES/<dataset>`` (by default ../shared/data/<dataset>) before anything is
downloaded.
"""

from __future__ import annotations

import os
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
from synbb.tasks.speech_corpus import CorpusPart


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
    folders = [folder_of(part) for part in settings.data.corpora]
    train(stages, settings, folders, config, overrides, run)

    # 3. Scores on the test split of the config: word error rates, and which words are missed.
    tell_scores = evaluate(stages, run, folders)

    # 4. Transcripts as of recordings that nobody has written down: of all audio below the innermost folder that holds
    #    what was scored, where other splits may lie too.
    scored = [innermost(part) for part in settings.data.corpora if part.split == "test"]
    for name, folder in by_name(scored).items():
        predict(stages, run, f"transcribe {folder}", folder, run / f"transcripts-{name}.csv")

    tell_scores()


def folder_of(part: CorpusPart) -> Path:
    """The folder of a part of a corpus, or of its table."""
    corpus = Path(part.corpus)
    if part.layout == "librispeech" and part.part:
        return corpus / part.part
    return corpus.parent if corpus.is_file() else corpus


def innermost(part: CorpusPart) -> Path:
    """The innermost folder that holds all recordings of a part; its folder, where a table names some beyond that."""
    folder = folder_of(part)
    outer = os.path.abspath(folder)  # noqa: PTH100 (a link keeps its own name)
    inner = os.path.commonpath([os.path.abspath(each.path.parent) for each in part.utterances()])  # noqa: PTH100
    return folder / Path(inner).relative_to(outer) if Path(inner).is_relative_to(outer) else folder


if __name__ == "__main__":
    call(main)
