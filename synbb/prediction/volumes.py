"""Prediction with a trained run: its weights, voxel size, normalisation and threshold applied to a volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synbb.errors import SynbbError
from synbb.evaluation.run_report import plain_text
from synbb.inference.blocks import Windows, check_region
from synbb.inference.drivers import Driver
from synbb.inference.no_data import Tissue
from synbb.inference.output import no_data_path
from synbb.inference.predictor import PredictionSummary, predict_volume
from synbb.inference.rules import CHOSEN
from synbb.prediction.trained import Trained, device_named
from synbb.tasks.synapse import SynapseTask
from synbb.tasks.volumes_apart import place_of
from synbb.training.start import make_task
from synbb.volumes import Volume, open_volume
from synbb.volumes.box import AXES, Box, Nanometres, NmBox, Triple, region_box
from synbb.volumes.kinds import check_use
from synbb.volumes.statistics import Inside, Normalisation, measure_normalisation
from synbb.volumes.writing import check_zarr_name

CHOSEN_ON = "validation split of the run"


def predict(
    run_path: Path,
    input_path: str,
    output_path: Path,
    *,
    region: Box | NmBox | None = None,
    extent: Box | None = None,
    which: str = "last",
    voxel_size: Nanometres | None = None,
    tolerance: float = 0.02,
    resample_z: bool = False,
    invert: bool | None = None,
    write_block: Triple | None = None,
    batch: int = 2,
    device: str = "auto",
    precision: str = "32",
    dtype: str = "uint8",
    mask: str | None = None,
    missing: str = "skip",
    floor: float = 0.0,
    flips: str = "",
    overlap: float | None = None,
    window: Triple | None = None,
    verify: bool = False,
    dry_run: bool = False,
    allow_unfinished: bool = False,
    driver: Driver | None = None,
    progress: Callable[..., None] | None = None,
    say: Callable[[str], None],
) -> list[str]:
    """Predict ``input_path`` with a run into ``output_path``; see ``predict_volume`` for the blocks.

    A volume that the run was trained or validated on keeps the normalisation it had there; of any other volume it is
    measured anew. The output's metadata carry run, model hash, threshold, normalisation, licences and citations.

    Args:
        run_path: folder of the run.
        input_path: volume to predict.
        output_path: OME-Zarr to write.
        region: voxels of the input to write, or nm of the world.
        extent: voxels of the input beyond which nothing is read, not even as context.
        which: weights ``last`` or ``best``.
        voxel_size: of an input that states none.
        tolerance: relative difference of voxel sizes that counts as none.
        resample_z: allow resampling across sections.
        invert: exchange dark and bright; None does as training did.
        write_block: voxels of the input in a block.
        batch: blocks given to the device at once.
        device: ``auto`` takes a GPU when there is one.
        precision: ``32``, ``tf32``, ``bf16`` or ``16``.
        dtype: ``uint8`` or ``float32``.
        mask: volume, nonzero where there is tissue; what lies outside is not predicted.
        missing: whether absent chunks of the input are an ``error`` or no data (``skip``).
        floor: smaller probabilities are written as 0.
        flips: axes along which mirror images are averaged, such as ``yx``.
        overlap: share of a window that its neighbour covers: windows are blended; None reads blocks with their halo.
        window: working voxels of a window; those of a training patch when None.
        verify: check finished blocks first.
        dry_run: say what would be done, and write nothing.
        allow_unfinished: predict although the masks are not final.
        driver: who computes the blocks; None for this process.
        progress: called with (blocks done, blocks), and a note on how it goes where the driver has one.
        say: prints a line for a person.

    Returns:
        Lines that sum up what was done.

    Raises:
        SynbbError: no such run, weights or volume; masks that are not final; an output of another run.
        RunEnded: the disk is full.
    """
    trained = Trained.open(run_path, which, allow_unfinished=allow_unfinished)
    run, config, weights = trained.run, trained.config, trained.about
    volume = open_volume(input_path, voxel_size=voxel_size)
    check_use(volume, "raw")
    check_zarr_name(output_path)
    if place_of(str(output_path)) == place_of(volume.path):
        raise SynbbError(f"{output_path} is the input itself; give another output")
    region = region_box(region, volume.voxel_size, volume.offset)
    check_region(region, volume.box, volume.path)  # before the network is loaded and grey values are sampled
    tissue = None if mask is None else _open_mask(mask, volume)
    attributes: dict[str, Any] = {}
    if extent is not None:
        covered = region or extent
        _check_extent(covered, extent)
        volume, region = volume.crop(extent), covered.relative_to(extent.start)
        attributes = {"region": str(covered), "extent": str(extent)}  # in voxels of the input as it is on disk
    facts = run.data_facts()
    inside = None if tissue is None else Tissue(tissue, volume).inside
    normalisation, origin = _normalisation(facts, volume, config.data.percentiles, invert, inside)
    say(f"normalisation: {origin}")
    task = make_task(config)
    if not isinstance(task, SynapseTask):
        raise SynbbError(
            f"{run_path}: volumes are predicted by runs of task synapse, and this one is of {config.task!r}"
        )
    net = trained.load(task.build_model())
    stride, halo = task.geometry(net)
    windows = None if overlap is None else Windows.overlapping(window or config.data.patch, overlap, stride)
    threshold = _threshold(weights)
    say(
        f"weights {which!r} of step {weights['step']}, density {weights['density']:.3f}, "
        + (f"threshold {threshold:.3f} chosen on the validation split" if threshold is not None else "no threshold")
    )
    chosen = weights.get("decision", {}).get("objects")
    if chosen is not None:
        rules = ", ".join(f"{name} {plain_text(chosen[name])}" for name in CHOSEN if chosen[name] is not None)
        told = f"F1 of objects {chosen['object_f1']:.3f} there, {chosen['plain_object_f1']:.3f} by the plain ones"
        say(f"rules of objects chosen with it: {rules} ({told})")
    lowest = threshold if chosen is None else chosen["low"]
    if lowest is not None and floor > lowest:
        say(f"--floor {floor:g} lies above {lowest:.3g}, down to which objects reach: they will lose voxels")
    summary = predict_volume(
        net,
        volume,
        output_path,
        working_voxel_size=config.model.voxel_size,
        normalisation=normalisation,
        stride=stride,
        halo=halo,
        attributes={**_attributes(facts, volume, weights, which), **attributes},
        model_sha256=weights["sha256"],
        run_id=run.info()["id"],
        region=region,
        write_block=write_block,
        batch=batch,
        device=device_named(device),
        precision=precision,
        dtype=dtype,
        resample_z=resample_z,
        tolerance=tolerance,
        mask=tissue,
        missing=missing,
        floor=floor,
        flips=_axes(flips),
        windows=windows,
        verify=verify,
        dry_run=dry_run,
        driver=driver,
        progress=progress,
        announce=say,
    )
    return ["dry run: nothing was written"] if dry_run else _summary(summary, verified=verify)


def _open_mask(path: str, volume: Volume) -> Volume:
    """The mask, which must meet the volume.

    Raises:
        SynbbError: no such volume, or it lies elsewhere.
    """
    mask = open_volume(path)
    check_use(mask, "mask", "--mask")
    both = zip(AXES, *mask.extent, *volume.extent, strict=True)
    for axis, begin, end, first, last in both:
        if end <= first or begin >= last:
            raise SynbbError(
                f"mask {path} lies at {axis} {begin:g} to {end:g} nm, and {volume.path} at {first:g} to {last:g} nm: "
                "they do not meet; correct the offset of one of them"
            )
    return mask


def _axes(flips: str) -> list[int]:
    if not set(flips) <= set(AXES):
        raise SynbbError(f"--flips {flips!r}: name axes among {', '.join(AXES)}, such as yx")
    return [AXES.index(axis) for axis in flips]


def _normalisation(
    facts: dict[str, Any],
    volume: Volume,
    percentiles: tuple[float, float],
    invert: bool | None,
    inside: Inside | None,
) -> tuple[Normalisation, str]:
    """Grey values for ``volume``, and where they come from."""
    known = {
        Normalisation.from_dict(fact["normalisation"])
        for fact in facts["volumes"]
        if place_of(fact["path"]) == place_of(volume.path)
    }
    if len(known) == 1 and invert is None:
        return known.pop(), "as in training on this volume"
    # Parts of this volume that had grey values of their own in training decide nothing for the whole.
    inverted = any(fact["normalisation"]["invert"] for fact in facts["volumes"]) if invert is None else invert
    found = measure_normalisation(volume, percentiles=percentiles, invert=inverted, inside=inside)
    return found, "measured on this volume" + ("" if inside is None else ", inside the mask")


def _attributes(facts: dict[str, Any], volume: Volume, weights: dict[str, Any], which: str) -> dict[str, Any]:
    """What the output must say of the model and of the data behind it."""
    own = {key: volume.attributes[key] for key in ("licence", "citation") if key in volume.attributes}
    trained = {
        key: sorted({fact[key] for fact in facts["volumes"] if fact.get(key)}) for key in ("licence", "citation")
    }
    both = {key: "; ".join(dict.fromkeys([*([own[key]] if key in own else []), *trained[key]])) for key in trained}
    return {
        "threshold": _threshold(weights),
        "threshold_chosen_on": None if _threshold(weights) is None else CHOSEN_ON,
        **_object_rules(facts, weights),
        "weights": which,
        "step": weights["step"],
        "density": weights["density"],
        **{key: text for key, text in both.items() if text},
    }


def _threshold(weights: dict[str, Any]) -> float | None:
    threshold = weights.get("decision", {}).get("threshold")
    return None if threshold is None else float(threshold)


def _object_rules(facts: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """What ``segment`` takes by default: what was chosen with the threshold, else the smallest size alone."""
    chosen = weights.get("decision", {}).get("objects")
    if chosen is None:
        return {"min_size_nm3": facts.get("min_size_nm3")}
    return {name: chosen[name] for name in CHOSEN} | {"rules_chosen_on": CHOSEN_ON}


def _check_extent(region: Box, extent: Box) -> None:
    if not extent.contains(region):
        raise SynbbError(f"region {region.named} is not inside the extent {extent.named}")


def _summary(summary: PredictionSummary, *, verified: bool) -> list[str]:
    found = f", {summary.damaged} of them damaged and done again" if summary.damaged else ""
    before = f"; {summary.skipped} blocks were finished before{found}" if summary.skipped or found else ""
    if summary.done == 0:
        looked = ", and what was written was read again" if verified else ""
        return [f"nothing to do: all {summary.blocks} blocks of {summary.output} are finished{looked}"]
    speed = f"{summary.seconds:.1f} s, {summary.rate:.2f} Mvox/s written"
    return [
        f"{summary.done} of {summary.blocks} blocks in {speed}{before}",
        *_no_data(summary),
        f"probabilities {summary.output}",
    ]


def _no_data(summary: PredictionSummary) -> list[str]:
    report = summary.no_data
    if report is None or not any(report.voxels):
        return []
    whole = f"sections {_ranges(report.whole)} hold none at all" if report.whole else "no section is without any"
    partly = f", {len(report.partly)} others in part" if report.partly else ""
    return [f"no data: {whole}{partly}; see {no_data_path(summary.output)}"]


def _ranges(numbers: list[int]) -> str:
    """``1, 3-5`` for 1, 3, 4, 5."""
    starts = [n for n in numbers if n - 1 not in set(numbers)]
    stops = [n for n in numbers if n + 1 not in set(numbers)]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, stops, strict=True))
