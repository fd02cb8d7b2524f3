"""From a dataset to scored synapses: fetch, train, predict, segment, evaluate.

    python pipelines/synapse.py configs/synapse/vnc.yaml
    python pipelines/synapse.py configs/synapse/phantom.yaml training.steps=300

Read it from top to bottom: each stage is one call of the public API, the same that the ``synbb`` commands make. A stage
whose settings, inputs and outputs are those of an earlier call is skipped, so a second call does nothing; files are
known again by size and time of change. A training is not repeated where its data have changed: that is told. Files for
offline use are looked for in ``$SYNBB_SOURCES/<dataset>`` (by default ../shared/data/<dataset>) before anything is
downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from stages import Datasets, Overrides, RunFolder, Stages, call, get_dataset, say, settings_of, stamps, train
from synbb.cli.console import console, progress
from synbb.errors import SynbbError
from synbb.evaluation import evaluate_volumes
from synbb.inference.objects import segment
from synbb.inference.output import remove_output
from synbb.prediction.volumes import predict
from synbb.tasks.annotated import NEGATIVE, VolumeSettings
from synbb.training.checkpoint import file_sha256
from synbb.volumes import Box, open_volume, placement
from synbb.volumes.hdf5_storage import split_dataset
from synbb.volumes.stores import is_remote, split_kind


def main(
    config: Annotated[Path, typer.Argument(help="Settings of the run; see configs/synapse/.")],
    overrides: Overrides = None,
    output: RunFolder = None,
    to: Datasets = Path("data"),
) -> None:
    """Fetch, train, predict, segment and evaluate; skip what is current."""
    settings = settings_of(config, overrides, "synapse")
    run = output or Path("runs") / config.stem
    stages = Stages(run / "pipeline.json")
    parts = [volume for volume in settings.data.volumes if volume.split == "test"]
    for part in parts:
        region_of(part)  # what cannot be scored here is said before the training

    # 1. The dataset, checked against the manifest. `fetch` leaves alone what is there and right.
    if settings.data.dataset is not None:
        get_dataset(settings.data.dataset, to)

    # 2. Training. An interrupted run is continued.
    training = [path for volume in settings.data.volumes if volume.split != "test" for path in volume.files]
    train(stages, settings, files_of(*training), config, overrides, run)

    # 3. to 5. For each part of the test split: probabilities, synapses, scores.
    for part in parts:
        score_part(stages, run, part)


def score_part(stages: Stages, run: Path, part: VolumeSettings) -> None:
    """Predict, segment and evaluate one part of the test split."""
    region, results = region_of(part), run / part.name
    probabilities, objects, evaluation = (
        results / name for name in ("probabilities.zarr", "synapses.zarr", "evaluation")
    )
    inputs = {
        "weights": file_sha256(run / "weights/last.safetensors"),
        "part": part.model_dump(mode="json"),
        "raw": stamps(files_of(part.raw)),
    }
    stages.run(
        f"predict {part.name}",
        inputs,
        [probabilities],
        lambda: predict_part(run, part, probabilities, region),
        afresh=lambda: remove_output(probabilities) if probabilities.exists() else None,  # its blocks would be kept
    )
    stages.run(
        f"segment {part.name}",
        inputs,
        [objects, objects.with_suffix(".csv")],
        lambda: segment_part(probabilities, objects),
    )
    fresh = stages.run(
        f"evaluate {part.name}",
        {**inputs, "labels": stamps(files_of(part.labels))},
        [evaluation / "scores.json", evaluation / "report.html"],
        lambda: evaluate_part(part, region, results),
    )
    print_scores(evaluation, part.name, fresh=fresh)


def files_of(*paths: str) -> list[Path]:
    """Files and folders of volumes. What lies at an address is left out: it cannot be told whether it has changed."""
    places = [split_kind(path)[1] for path in dict.fromkeys(paths)]
    return [Path(split_dataset(place)[0]) for place in places if not is_remote(place)]


def predict_part(run: Path, part: VolumeSettings, output: Path, region: Box) -> None:
    """Probabilities of one region; finished blocks of an earlier call are kept, nothing beyond the extent is read."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with progress("predicting", "blocks") as bar:
        lines = predict(run, part.raw, output, region=region, extent=extent_of(part), progress=bar, say=say)
    for line in lines:
        say(line)


def segment_part(probabilities: Path, output: Path) -> None:
    """Synapses by the threshold and the rules that the run chose on its validation split."""
    with progress("segmenting", "blocks") as bar:
        found = segment(open_volume(probabilities), output, overwrite=True, progress=bar)
    console.print(f"{found.objects} synapses at p >= {found.threshold:.3f}: {output}", markup=False)


def evaluate_part(part: VolumeSettings, region: Box, results: Path) -> None:
    """Scores against the annotation, and a page that shows them."""
    raw, truth = (open_volume(path, voxel_size=part.voxel_size) for path in (part.raw, part.labels))
    extent = extent_of(part)
    if extent is not None:  # scoring looks a little beyond the region for partners of objects that it cuts
        inside = extent.relative_to(placement(truth, raw).start).intersect(truth.box)
        truth, raw = truth.crop(inside or truth.box), raw.crop(extent)
    with progress("evaluating", "blocks") as bar:
        evaluate_volumes(
            truth=truth,
            objects=results / "synapses.zarr",
            probabilities=results / "probabilities.zarr",
            raw=raw,
            region=region.relative_to(placement(truth, raw).start).relative_to(extent.start if extent else (0, 0, 0)),
            output=results / "evaluation",
            progress=bar,
        )


def region_of(part: VolumeSettings) -> Box:
    """The one box of a test entry, voxels of raw.

    Raises:
        SynbbError: the entry names no region, several, a mask, or no labels: this pipeline cannot score it.
    """
    if len(part.regions) != 1:
        raise SynbbError(f"data.volumes {part.name!r}: a test entry of this pipeline names exactly one region")
    for key, given in (("mask", part.mask is not None), ("labels: none", part.labels == NEGATIVE)):
        if given:
            raise SynbbError(
                f"data.volumes {part.name!r}: this pipeline would not heed `{key}` of a test entry; use `synbb train`, "
                "and `synbb evaluate RUN`, which does"
            )
    return Box.parse(part.regions[0])


def extent_of(part: VolumeSettings) -> Box | None:
    """The part of raw beyond which nothing exists for this run."""
    return None if part.extent is None else Box.parse(part.extent)


def print_scores(evaluation: Path, name: str, *, fresh: bool) -> None:
    """The figures that matter, from scores.json, and where the page and the pictures lie."""
    scores = json.loads((evaluation / "scores.json").read_text())
    console.print(f"{name}{'' if fresh else ' (scored before)'}: {headline(scores)}", markup=False)
    console.print(f"report  {evaluation / 'report.html'}", markup=False)
    for picture in sorted(evaluation.glob("*.png")):
        console.print(f"overlay {picture}", markup=False)


def headline(scores: dict[str, Any]) -> str:
    """PR-AUC and F1 of voxels, F1 of objects."""
    voxels, by_distance = scores["voxels"], scores["objects"]["by_distance"]
    return (
        f"voxel PR-AUC {number(voxels['average_precision'])}, F1 {number(voxels['at_threshold']['f1'])} at the "
        f"validation threshold; synapse F1 {number(by_distance['f1'])} (precision {number(by_distance['precision'])}, "
        f"recall {number(by_distance['recall'])})"
    )


def number(value: float | None) -> str:
    """Three digits, or a dash where the score is not defined."""
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    call(main)
