"""One call from volumes to a report: what ``synbb evaluate`` and the pipelines do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synbb import __version__
from synbb.errors import SynbbError
from synbb.evaluation.detection import DetectionScores, score_by_distance, score_by_overlap
from synbb.evaluation.labels import Mask, foreground_and_valid
from synbb.evaluation.object_tables import MeasuredObjects, measure_objects
from synbb.evaluation.overlay import choose_views, draw_views
from synbb.evaluation.report import SCHEMA_VERSION, objects_text, prepare_folder, write_scores
from synbb.evaluation.thresholds import as_probability, check_threshold, foreground, stored_threshold
from synbb.evaluation.voxels import ScoreHistogram, score_volumes
from synbb.evaluation.window import Window, common_window, reading_block
from synbb.volumes.box import region_box
from synbb.volumes.kinds import Use, check_finished, check_use, stated_kind
from synbb.volumes.opening import open_labels, open_volume
from synbb.volumes.storage import VoxelSizeMissingError
from synbb.volumes.volume import Volume, placement

if TYPE_CHECKING:
    from synbb.volumes.box import Box, NmBox

DISTANCE_NM = 300.0
IOU = 0.5
CURVE_POINTS = 400
RULES = ("connectivity", "low", "bridge", "split_nm", "min_size_nm3", "max_size_nm3", "rules_chosen_on")

Source = str | Path | Volume
USES: dict[str, Use] = {
    "truth": "labels",
    "probabilities": "probabilities",
    "against": "probabilities",
    "objects": "objects",
    "raw": "raw",
}

Progress = Callable[[int, int], None]


def evaluate_volumes(
    *,
    truth: Source,
    output: str | Path,
    objects: Source | None = None,
    probabilities: Source | None = None,
    against: Source | None = None,
    raw: Source | None = None,
    region: Box | NmBox | None = None,
    threshold: float | None = None,
    distance_nm: float = DISTANCE_NM,
    iou: float = IOU,
    voxel_size: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score probabilities and objects against the truth, and write the report.

    All scores are of the same voxels: those of ``region`` that every scored volume covers.

    Args:
        truth: labels, a path or an open volume.
        output: folder for ``scores.json``, ``report.html``, ``objects.csv`` and pictures.
        objects: label volume, as ``synbb segment`` writes it.
        probabilities: uint8 (value / 255) or floats.
        against: second probabilities, scored on the same voxels at their own stored threshold and compared.
        raw: grey values, for pictures.
        region: voxels of the truth, or nm of the world; all of the truth when None.
        threshold: for the probabilities; when None the one stored with them; without either only the best is shown.
        distance_nm: largest distance of matched centroids.
        iou: least intersection over union of objects matched by overlap.
        voxel_size: z, y, x in nm, for files that do not state theirs.
        progress: called with (done, total) blocks, anew for each volume that is scored.

    Returns:
        The scores, plain values, as in ``scores.json``.

    Raises:
        SynbbError: nothing to score, a region outside the truth, volumes that do not fit each other, bad values, or
            an output folder with files of the report's names that no evaluation wrote.
        RunEnded: the disk is full.
    """
    if objects is None and probabilities is None:
        raise SynbbError("nothing to score: give --probabilities, --objects, or both")
    if against is not None and probabilities is None:
        raise SynbbError("--against is compared with --probabilities; give those too")
    wanted = _open(truth, voxel_size, open_labels)
    grey = None if raw is None else _open(raw, voxel_size)
    given = {"probabilities": probabilities, "against": against, "objects": objects}
    scored = {name: _open(source, voxel_size) for name, source in given.items() if source is not None}
    everything = {"truth": wanted, **scored, **({} if grey is None else {"raw": grey})}
    _check_kinds(everything)
    chosen, source = _threshold(scored.get("probabilities"), threshold)
    window = common_window(wanted, scored, region_box(region, wanted.voxel_size, wanted.offset))
    raw_origin = None if grey is None else placement(wanted, grey).start
    prepare_folder(output)

    scores: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "synbb_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": {name: _about_volume(volume) for name, volume in everything.items()},
        "region": {"voxels": str(window.truth), "nm": _extent(wanted, window.truth)},
        "threshold": {"value": chosen, "source": source},
        "about": _about_run(everything),
        "notes": [window.note],
    }
    histogram, found = None, None
    if "probabilities" in scored:
        histogram = _histogram("probabilities", scored, wanted, window, progress)
        scores["voxels"] = _voxel_scores(histogram, chosen)
    if "against" in scored:
        own, _ = _threshold(scored["against"], None)
        scores["against"] = _voxel_scores(_histogram("against", scored, wanted, window, progress), own)
        scores["difference"] = difference(scored["probabilities"], scored["against"], window)
    if "objects" in scored:
        measured = measure_objects(wanted, scored["objects"], region=window.truth, progress=progress)
        by_distance, scores["objects"] = _object_scores(measured, distance_nm, iou)
        found = objects_text(by_distance, measured.truth, measured.predicted)
    pictures = []
    if grey is not None and raw_origin is not None:
        views = choose_views(wanted, window.truth)
        predicted, what = _prediction(scored, window, histogram, chosen)
        pictures = draw_views(views, grey, wanted, predicted, raw_origin, what)
        if not pictures:
            scores["notes"].append(f"No pictures: {grey.path} does not cover the sections that hold the truth.")
    write_scores(output, scores, pictures, found)
    return scores


def difference(one: Volume, other: Volume, window: Window) -> dict[str, float]:
    """Mean and largest absolute difference of two probabilities over a window that names them, where both are numbers.

    Args:
        one: member ``probabilities`` of the window.
        other: member ``against``.
        window: the voxels to compare.
    """
    total, largest, compared = 0.0, 0.0, 0
    for block in window.truth.blocks(reading_block(one)):
        a = as_probability(one.read(window.of("probabilities", block)))
        gap = np.abs(a - as_probability(other.read(window.of("against", block))))
        gap = gap[~np.isnan(gap)]  # what is scored was refused if it is NaN: these the truth ignores
        total += float(gap.sum())
        largest = max(largest, float(gap.max(initial=0.0)))
        compared += gap.size
    return {"mean": total / max(compared, 1), "max": largest}


def _open(source: Source, voxel_size: Sequence[float] | None, opened: Callable[..., Volume] = open_volume) -> Volume:
    if isinstance(source, Volume):
        return source
    try:
        return opened(source)
    except VoxelSizeMissingError:
        if voxel_size is None:
            raise
        return opened(source, voxel_size=voxel_size)


def _check_kinds(given: Mapping[str, Volume]) -> None:
    """Refuse what cannot be meant, by what volumes say of themselves."""
    for name, volume in given.items():
        check_use(volume, USES[name], f"--{name}")
        check_finished(volume)
    kinds = {name: stated_kind(volume) for name, volume in given.items()}
    if kinds["truth"] == "objects" and kinds.get("objects") == "labels":
        raise SynbbError(
            f"--truth {given['truth'].path} is what synbb segment found, and --objects {given['objects'].path} an "
            "annotation: they seem to be exchanged"
        )


def _threshold(probabilities: Volume | None, given: float | None) -> tuple[float | None, str]:
    if probabilities is None:
        if given is not None:
            raise SynbbError(f"threshold {given} was given, but no --probabilities that it could be for")
        return None, "no probabilities were scored"
    if given is not None:
        return check_threshold(given), "given for this evaluation"
    stored = stored_threshold(probabilities.attributes, probabilities.path)
    if stored is None:
        return None, "the probabilities store none and none was given"
    chosen_on = probabilities.attributes.get("threshold_chosen_on")
    where = f"chosen on {chosen_on}" if chosen_on else "chosen when the model was validated"
    return stored, f"stored with the probabilities, {where}"


def _histogram(
    name: str, scored: Mapping[str, Volume], truth: Volume, window: Window, progress: Progress | None
) -> ScoreHistogram:
    placed = Window(window.truth, {"probabilities": window.origins[name]}, window.note)
    return score_volumes(scored[name], truth, window=placed, progress=progress).histogram


def _voxel_scores(histogram: ScoreHistogram, threshold: float | None) -> dict[str, Any]:
    best = histogram.best_f1()
    return {
        "average_precision": histogram.average_precision(),
        "explanation": histogram.explanation,
        "prevalence": histogram.prevalence,
        "scored": histogram.total,
        "positives": histogram.truth_voxels,
        "ignored": histogram.ignored,
        "at_threshold": None if threshold is None or not histogram.total else histogram.at(threshold).to_dict(),
        "best": None if best is None else {**best.to_dict(), "chosen_on": "the scored voxels themselves"},
        "curve": _thin_curve(histogram),
    }


def _thin_curve(histogram: ScoreHistogram) -> dict[str, list[float]]:
    """The curve, thinned to points that differ visibly; empty where recall has no meaning."""
    if not histogram.truth_voxels:
        return {"recall": [], "precision": [], "thresholds": []}
    curve = histogram.curve()
    cells = np.rint(np.stack([curve.recall, curve.precision]) * CURVE_POINTS)
    kept = np.flatnonzero(np.r_[True, np.any(np.diff(cells, axis=1) != 0, axis=0)])
    return {
        name: [round(float(v), 6) for v in getattr(curve, name)[kept]] for name in ("recall", "precision", "thresholds")
    }


def _object_scores(measured: MeasuredObjects, distance_nm: float, iou: float) -> tuple[DetectionScores, dict[str, Any]]:
    by_distance = score_by_distance(measured.truth, measured.predicted, distance_nm, measured.overlaps)
    by_overlap = score_by_overlap(measured.truth, measured.predicted, measured.overlaps)
    by_iou = score_by_overlap(measured.truth, measured.predicted, measured.overlaps, iou)
    return by_distance, {
        "note": measured.note,
        "distance_nm": distance_nm,
        "iou": iou,
        "by_distance": by_distance.to_dict(),
        "by_overlap": by_overlap.to_dict(),
        "by_iou": by_iou.to_dict(),
    }


def _prediction(
    scored: Mapping[str, Volume], window: Window, histogram: ScoreHistogram | None, threshold: float | None
) -> tuple[Callable[[Box], Mask], str]:
    """What to draw as the prediction: the objects, else p >= threshold (the best one when none is known)."""
    if "objects" in scored:
        labels = scored["objects"]
        return lambda box: foreground_and_valid(labels.read(window.of("objects", box)))[0], "prediction: objects"
    best = None if histogram is None else histogram.best_f1()
    level = threshold if threshold is not None else (0.5 if best is None else best.threshold)
    values = scored["probabilities"]
    return lambda box: foreground(values.read(window.of("probabilities", box)), level), f"prediction: p ≥ {level:.3f}"


def _about_volume(volume: Volume) -> dict[str, Any]:
    return {
        "path": volume.path,
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxel_size_nm": list(volume.voxel_size),
        "offset_nm": list(volume.offset),
    }


def _about_run(volumes: Mapping[str, Volume]) -> dict[str, Any]:
    """Run, model, licence and citation, as the volumes carry them."""
    about: dict[str, Any] = {}
    for name in ("raw", "truth", "objects", "probabilities"):  # the later one counts
        if name in volumes:
            about |= volumes[name].attributes
    keys = ("run_id", "model_sha256", "licence", "citation", *RULES)
    return {key: about[key] for key in keys if about.get(key) is not None}


def _extent(volume: Volume, box: Box) -> list[list[float]]:
    """Outer corners of a box, world, nm."""
    size = np.asarray(volume.voxel_size)
    corners = (np.asarray(volume.offset) + (np.asarray(edge) - 0.5) * size for edge in (box.start, box.stop))
    return [corner.tolist() for corner in corners]
