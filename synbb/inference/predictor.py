"""Prediction of arrays in memory and, block by block, of volumes on disk.

What is to be computed is decided here, who computes it is a driver (``drivers.py``):

    reader threads -> bounded queue -> network -> bounded queue -> writer threads -> ledger

A reader reads a block's read box and normalises it; a writer turns logits into probabilities, brings them to the
input's voxels, quantises, writes, and marks the block in the ledger. Nothing else than the blocks under way is in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from synbb.errors import SynbbError
from synbb.inference.block_work import BlockWork, not_finite, pad_to
from synbb.inference.blocks import BlockPlan, Windows, check_region, round_up
from synbb.inference.drivers import Driver, LocalDriver, Prediction, Progress
from synbb.inference.estimate import estimate
from synbb.inference.ledger import finished_marks
from synbb.inference.network import Network
from synbb.inference.no_data import Tissue, check_missing
from synbb.inference.output import NoDataReport
from synbb.inference.sizes import default_write_block
from synbb.models.processor import EMULATED, emulates_bf16
from synbb.models.receptive_field import block_dependent_norms
from synbb.volumes.box import AXES, Box, triple
from synbb.volumes.kinds import PLAN
from synbb.volumes.resample import WorkingView
from synbb.volumes.stores import split_kind, with_kind

if TYPE_CHECKING:
    from torch import nn

    from synbb.volumes.statistics import Normalisation
    from synbb.volumes.taps import Floats
    from synbb.volumes.volume import Volume

DTYPES = ("uint8", "float32")


@dataclass(frozen=True)
class PredictionSummary:
    """What a prediction did.

    Attributes:
        output: path of the volume written.
        region: voxels of the input that it covers.
        blocks: blocks of the plan.
        done: blocks computed now.
        skipped: blocks that an earlier call had finished.
        damaged: blocks among the finished ones that were found damaged (``verify``) and computed again.
        voxels: voxels of the input written now.
        seconds: wall time of the blocks, without opening and planning.
        work_factor: working voxels read for each one written.
        batch: blocks given to the device at once, at the end.
        tile: working voxels computed at once inside a block, at the end; None for whole blocks.
        lines: what was decided, for people, as printed before the first block.
        no_data: where the output has none, by section; None for a prediction that was not made.
    """

    output: str
    region: Box
    blocks: int
    done: int
    skipped: int
    damaged: int
    voxels: int
    seconds: float
    work_factor: float
    batch: int
    tile: tuple[int, int, int] | None
    lines: tuple[str, ...] = field(default=())
    no_data: NoDataReport | None = None

    @property
    def rate(self) -> float:
        """Megavoxels of the input written a second."""
        return self.voxels / self.seconds / 1e6 if self.seconds > 0 else 0.0


def predict_array(
    net: nn.Module,
    array: Floats,
    *,
    stride: Sequence[int],
    halo: Sequence[int],
    tile: Sequence[int] | None = None,
    device: str | torch.device | None = None,
    batch: int = 2,
    precision: str = "32",
) -> Floats:
    """Logits (z, y, x) float32 of a normalised array (z, y, x) float32 in memory.

    The array is padded at its far end up to whole strides (edge values). With ``tile`` None the network sees it whole;
    else in tiles of that many voxels (rounded up to the stride), each with its halo, with the same result.

    ``device`` None means where the network is.

    Raises:
        SynbbError: an array that has not three axes, holds no voxel, or arguments that make no sense.
        RunEnded: logits are not finite.
    """
    if array.ndim != 3 or array.size == 0:
        raise SynbbError(f"an array of shape {array.shape} cannot be predicted: three axes z, y, x are wanted")
    shape, steps, margin = triple(array.shape), triple(stride), triple(halo)
    padded = pad_to(np.ascontiguousarray(array, np.float32), round_up(shape, steps))
    part = None if tile is None else triple(tile)
    with Network(net, stride=steps, halo=margin, device=device, batch=batch, precision=precision, tile=part) as network:
        logits = network.logits([torch.from_numpy(padded)])[0][Box.of_shape(shape).slices]
    if not torch.isfinite(logits).all():
        raise not_finite("the array")
    found: Floats = np.ascontiguousarray(logits.cpu().numpy())
    return found


def predict_volume(
    net: nn.Module,
    volume: Volume,
    output_path: str | Path,
    *,
    working_voxel_size: Sequence[float],
    normalisation: Normalisation,
    stride: Sequence[int],
    halo: Sequence[int],
    attributes: Mapping[str, Any],
    model_sha256: str,
    run_id: str,
    region: Box | None = None,
    write_block: Sequence[int] | None = None,
    tile: Sequence[int] | None = None,
    batch: int = 2,
    device: str | torch.device | None = None,
    precision: str = "32",
    reader_threads: int | None = None,
    writer_threads: int | None = None,
    dtype: str = "uint8",
    resample_z: bool = False,
    tolerance: float = 0.02,
    mask: Volume | None = None,
    missing: str = "skip",
    floor: float = 0.0,
    flips: Sequence[int] = (),
    windows: Windows | None = None,
    verify: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
    driver: Driver | None = None,
) -> PredictionSummary:
    """Write the probabilities of ``volume`` (or of a region) to an OME-Zarr, block by block; go on where it stopped.

    The output has the voxels of ``volume``, the shape of ``region`` and its place in the world. Called again after an
    interruption it computes what is missing, and nothing when all is there.

    Args:
        net: maps (N, 1, Z, Y, X) to logits (N, 1, Z, Y, X); moved to ``device`` and left there with
            channels last, its modes are given back.
        volume: the input.
        output_path: ``something.zarr``; the ledger lies beside it.
        working_voxel_size: nm (z, y, x) at which the network sees the volume.
        normalisation: of this volume's grey values.
        stride: working voxels per voxel of the network's coarsest level (``total_stride``).
        halo: its ``receptive_field``; a smaller one is faster and wrong near the borders of blocks.
        attributes: stored as the output's metadata (threshold, licence, citation), with what this function knows
            beside.
        model_sha256: of the weights; part of the plan's identity.
        run_id: of the run that the network comes from.
        region: voxels of ``volume`` to write; what is read goes beyond it. None for the whole volume.
        write_block: voxels of ``volume`` in a block; None chooses.
        tile: working voxels computed at once inside a block; None for the whole block.
        batch: blocks given to the device at once (a CPU takes large ones singly, see ``network.py``).
        device: where the network runs; None for where it is.
        precision: ``32``, ``tf32``, ``bf16`` or ``16``.
        reader_threads: threads that read and normalise ahead of the network.
        writer_threads: threads that resample, compress and write behind it. None for either: few beside a network on
            the CPU, half of the cores each beside one on a GPU.
        dtype: ``uint8`` stores round(255 p), ``float32`` stores p.
        resample_z: allow resampling across sections.
        tolerance: relative difference of voxel sizes that counts as none.
        mask: nonzero where there is tissue; what lies outside is not predicted. Any voxel size and place.
        missing: whether an absent chunk of the input is an ``error`` or no data (``skip``).
        floor: smaller probabilities are written as 0, and chunks that are 0 everywhere are not written.
        flips: axes (0 z, 1 y, 2 x) along which mirror images are averaged.
        windows: blend overlapping windows instead of reading blocks with the whole ``halo``.
        verify: read finished blocks again first, and compute those that are not what was written.
        progress: called with (blocks done, blocks) from the writers' threads, one call at a time.
        announce: called with each line that describes the plan, before the first block.
        dry_run: describe the plan and what of it is finished, time one batch, and write nothing.
        driver: who computes the blocks; None for this process.

    Where the input has no data (absent chunks, blank tiles, outside of the mask) 0 is written; the output's metadata
    and ``OUT.zarr.no_data.csv`` say in which sections.

    Raises:
        SynbbError: a mistake in the arguments, an output of another run, an unreadable chunk of the input, or an absent
            one that must not be (the message names the block).
        RunEnded: the disk is full, or the network gives values that are not finite. Finished blocks are kept.
    """
    if dtype not in DTYPES:
        raise SynbbError(f"dtype {dtype!r} of the output is not one of {', '.join(DTYPES)}")
    if not 0 <= floor < 1:
        raise SynbbError(f"floor {floor} must lie in [0, 1): the probability below which 0 is written")
    check_missing(missing)
    view = WorkingView(volume, working_voxel_size, tolerance=tolerance, resample_z=resample_z)
    covered = check_region(region, volume.box, volume.path)
    steps, margin = triple(stride), triple(halo)
    reach = margin if windows is None else windows.reach
    wanted = default_write_block(covered, view.scale, reach, steps) if write_block is None else triple(write_block)
    identity = {
        "model_sha256": model_sha256,
        "normalisation": normalisation.to_dict(),
        "precision": precision,
        "dtype": dtype,
        **_input_identity(volume),
        **_given(missing=missing, floor=floor, flips=sorted(set(flips)), mask=mask),
    }
    plan = BlockPlan(covered, wanted, view.shape, margin, steps, view.scale, identity, windows)
    part = None if tile is None else triple(tile)
    network = Network(
        net, stride=steps, halo=margin, device=device, batch=batch, precision=precision, tile=part, flips=flips
    )
    tissue = None if mask is None else Tissue(mask, volume)
    work = BlockWork(view.quickly() if network.on_card else view, plan, normalisation, tissue, missing, floor)
    lines = _describe(work, network)
    say = announce or (lambda _: None)
    for line in lines:
        say(line)
    if dry_run:
        finished = finished_marks(output_path, plan.fields())
        expected = estimate(work, network, np.dtype(dtype), finished)
        for line in expected:
            say(line)
        return _nothing_done(str(output_path), plan, network, lines + expected, len(finished))
    stored = {
        "kind": "probabilities",
        "working_voxel_size": list(view.voxel_size),
        "region": str(covered),
        "source": volume.path,
        "normalisation": normalisation.to_dict(),
        **attributes,
        "run_id": run_id,
        "model_sha256": model_sha256,
        PLAN: plan.fingerprint(),
    }
    prediction = Prediction(work, network, str(output_path), dtype, stored, verify, progress, say)
    outcome = (driver or LocalDriver(reader_threads, writer_threads)).run(prediction)
    return PredictionSummary(
        output=str(output_path),
        region=covered,
        blocks=len(plan),
        done=outcome.done,
        skipped=outcome.skipped,
        damaged=outcome.damaged,
        voxels=outcome.voxels,
        seconds=outcome.seconds,
        work_factor=plan.work_factor,
        batch=network.batch,
        tile=network.tile,
        lines=tuple(lines),
        no_data=outcome.no_data,
    )


def _input_identity(volume: Volume) -> dict[str, Any]:
    """What tells one input from another: not its voxels, which would have to be read."""
    kind, place = split_kind(volume.path)
    file, mark, dataset = place.partition(":")
    where = str(Path(file).resolve()) + mark + dataset if Path(file).exists() else place
    return {
        "input_path": with_kind(kind, where),
        "input_shape": list(volume.shape),
        "input_dtype": str(volume.dtype),
        "input_voxel_size": list(volume.voxel_size),
        "input_offset": list(volume.offset),
        "input_attributes": volume.attributes,
    }


def _given(*, missing: str, floor: float, flips: list[int], mask: Volume | None) -> dict[str, Any]:
    """Choices that are part of the plan's identity where they were made."""
    chosen: dict[str, Any] = {}
    if missing != "skip":
        chosen["missing"] = missing
    if floor:
        chosen["floor"] = floor
    if flips:
        chosen["flips"] = flips
    if mask is not None:
        chosen["mask"] = {name.removeprefix("input_"): value for name, value in _input_identity(mask).items()}
    return chosen


def _nothing_done(output: str, plan: BlockPlan, network: Network, lines: list[str], finished: int) -> PredictionSummary:
    return PredictionSummary(
        output=output,
        region=plan.region,
        blocks=len(plan),
        done=0,
        skipped=finished,
        damaged=0,
        voxels=0,
        seconds=0.0,
        work_factor=plan.work_factor,
        batch=network.batch,
        tile=network.tile,
        lines=tuple(lines),
    )


def _describe(work: BlockWork, network: Network) -> list[str]:
    lines = [work.view.description, f"normalisation {work.normalisation}", str(work.plan)]
    if network.flips:
        lines.append(f"mean over mirror images along {', '.join(AXES[axis] for axis in network.flips)}")
    if work.tissue is not None:
        lines.append(f"only inside {work.tissue.mask.path}")
    if work.floor:
        lines.append(f"probabilities below {work.floor:g} are written as 0; chunks of zeros are not written")
    if network.precision == "bf16" and network.device.type == "cpu" and emulates_bf16():
        lines.append(f"precision bf16: {EMULATED}; 32 avoids that")
    norms = block_dependent_norms(network.net)
    if norms:
        lines.append(
            f"{len(norms)} norms ({norms[0]} ...) take statistics of each block: the result depends on where blocks lie"
        )
    return lines
