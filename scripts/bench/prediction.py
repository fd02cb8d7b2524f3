"""Zarr to zarr prediction against the network alone, and against MONAI's sliding window.

    python scripts/bench/prediction.py VOLUME|noise:Z,Y,X [--region z0:z1,y0:y1,x0:x1] [--run RUN --labels LABELS]
        [--threads 1] [--device cuda] [--precision bf16] [--batch 2] [--readers 2] [--writers 1] [--windows 4]

Three sides take turns in this process, each at its best batch and memory layout, in *written* voxels a second; beside a
GPU after a turn that does not count (cuDNN chooses its ways in it):

pipeline   ``predict_volume``: reads VOLUME, normalises, resamples, computes, writes uint8, keeps its ledger
network    the same blocks of the same plan, already in memory, through the network alone
monai      ``monai.inferers.SlidingWindowInferer`` over the region in memory (already read and resampled, nothing
           written; on a GPU all of it lies there, and its logits stay there): the patch that the network was trained
           on, overlap 0.5, Gaussian

``noise:64,2048,2048`` makes a volume of noise of 50 x 4.6 x 4.6 nm first (``--grid 9.2``: of 50 x 9.2 x 9.2, at which
the default network works), and removes it at the end. ``--repeat 2,4,4`` makes a larger one of VOLUME, and of LABELS,
and its mirror images.

With a RUN its network is used, and with LABELS too the PR-AUC of both predictions is told (brought to the voxels of
VOLUME alike); without, the default network with random weights. ``--free`` takes a network that computes next to
nothing: what is timed then is everything around it, as beside a GPU that is fast enough.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from devices import called, finish, sizes
from monai.inferers import SlidingWindowInferer
from torch import nn

from synbb.evaluation.voxels import ScoreHistogram
from synbb.inference import BlockPlan, predict_volume
from synbb.inference.allocator import return_large_arrays
from synbb.inference.block_work import BlockWork, quantise
from synbb.inference.network import Network
from synbb.inference.pipeline import threads_beside
from synbb.inference.sizes import default_write_block
from synbb.models import build_unet, receptive_field, total_stride
from synbb.models.layout import channels_last
from synbb.tasks.synapse import SynapseTask
from synbb.training.checkpoint import load_weights
from synbb.training.run import RunFolder
from synbb.training.start import make_task
from synbb.volumes import Volume, create_volume, open_volume
from synbb.volumes.box import Box, triple
from synbb.volumes.opening import open_labels
from synbb.volumes.resample import WorkingView, upsample_to_source, upsampling_support
from synbb.volumes.statistics import measure_normalisation

VOXEL_SIZE = (50.0, 9.2, 9.2)
PATCH = (12, 96, 96)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume")
    parser.add_argument("--region", type=Box.parse)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--labels")
    parser.add_argument("--grid", type=float, default=4.6, help="nm in the plane of a volume of noise")
    parser.add_argument("--repeat", type=sizes, help="mirror images along z, y, x")
    parser.add_argument("--free", action="store_true", help="a network that costs nothing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["32", "tf32", "bf16"], default="32")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--batch", type=int, default=2, help="blocks given to the device at once")
    parser.add_argument("--readers", type=int, help="threads that read ahead; by default as predict has them")
    parser.add_argument("--writers", type=int, help="threads that write behind")
    parser.add_argument("--windows", type=int, default=4, help="windows that MONAI computes at once")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.device.type == "cpu":
        return_large_arrays()  # as `synbb predict` does
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        path = _noise(options.volume, options.grid, place)
        if options.repeat:
            path = _repeated(open_volume(path), options.repeat, place / "repeated.zarr")
            if options.labels:
                options.labels = _repeated(open_labels(options.labels), options.repeat, place / "labels.zarr")
        compare(options, path, place)


def compare(options: argparse.Namespace, path: str, folder: Path) -> None:
    """Time the three sides over the volume at ``path`` and print what was found."""
    volume = open_volume(path)
    region = options.region or volume.box
    net, voxel_size, patch = _network(options.run)
    net.to(options.device)
    channels_last(net)
    stride = total_stride(net)
    halo = receptive_field(net, stride)
    if options.free:
        net = Free().to(options.device)
    view = WorkingView(volume, voxel_size)
    normalisation = measure_normalisation(volume, within=[region])
    block = default_write_block(region, view.scale, halo, stride)
    plan = BlockPlan(region, block, view.shape, halo, stride, view.scale)
    on_card = options.device.type == "cuda"
    work = BlockWork(view.quickly() if on_card else view, plan, normalisation)
    inputs = {each.index: work.read(each, for_card=on_card) for each in plan}
    working = upsampling_support(region, view.scale, view.shape)
    array = torch.from_numpy(normalisation.apply(view.read(working)))[None, None].to(options.device)
    inferer = SlidingWindowInferer(
        [min(p, n) for p, n in zip(patch, working.shape, strict=True)],
        sw_batch_size=options.windows,
        overlap=0.5,
        mode="gaussian",
    )

    def network() -> None:
        with Network(net, stride=stride, halo=halo, precision=options.precision, batch=options.batch) as alone:
            for batch in plan.batches(alone.batch):
                work.logits(alone, batch, [inputs[each.index] for each in batch])
            alone.finish()

    def monai() -> Any:
        kind = torch.bfloat16 if options.precision == "bf16" else None
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=options.precision == "tf32"),
            torch.autocast(options.device.type, kind, enabled=kind is not None),
        ):
            found = inferer(array, net).float()
            finish(options.device)
            return found

    def pipeline(output: Path) -> None:
        predict_volume(
            net,
            volume,
            output,
            working_voxel_size=voxel_size,
            normalisation=normalisation,
            stride=stride,
            halo=halo,
            attributes={},
            model_sha256="0" * 64,
            run_id="benchmark",
            region=region,
            precision=options.precision,
            batch=options.batch,
            reader_threads=options.readers,
            writer_threads=options.writers,
        )

    taken: dict[str, list[float]] = {"pipeline": [], "network": [], "monai": []}
    for turn in range(0 if options.device.type == "cpu" else -1, options.rounds):
        output = folder / f"{turn}.zarr"
        for name in (list(taken), list(taken)[::-1])[turn % 2]:
            began = time.perf_counter()
            if name == "pipeline":
                pipeline(output)
            elif name == "network":
                network()
            else:
                logits = monai()
            if turn >= 0:
                taken[name].append(time.perf_counter() - began)
    stored = open_volume(str(output))
    ours = stored.read(stored.box)
    print(f"{volume.path} {region}: {region.size / 1e6:.1f} Mvox written; {plan}")
    print(f"windows of MONAI {tuple(inferer.roi_size)}, {options.windows} at once; blocks {options.batch} at once")
    some = threads_beside(options.device)
    beside = f"{options.readers or some.readers} readers, {options.writers or some.writers} writers"
    print(f"{called(options.device)}, {options.threads} thread(s), {beside}, precision {options.precision}")
    print(
        f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {options.rounds} rounds, medians",
        flush=True,
    )
    rates = {name: region.size / statistics.median(each) / 1e6 for name, each in taken.items()}
    for name, rate in rates.items():
        turns = ", ".join(f"{each:.2f}" for each in taken[name])
        print(f"{name:9s} {rate:.3f} Mvox/s ({turns} s)")
    shares = [a / b for a, b in zip(taken["network"], taken["pipeline"], strict=True)]
    faster = [a / b for a, b in zip(taken["monai"], taken["pipeline"], strict=True)]
    print(f"pipeline / network alone: {statistics.median(shares):.3f}")
    print(f"pipeline / MONAI sliding window: {statistics.median(faster):.2f}")
    if options.labels:
        truth = open_labels(options.labels)
        wanted = truth.read(region) > 0
        theirs = 1 / (1 + np.exp(-logits[0, 0].cpu().numpy()))
        theirs = upsample_to_source(theirs, working, region, view.scale, view.shape)
        scores = [_pr_auc(each, wanted) for each in (ours, quantise(theirs))]
        print(f"PR-AUC: pipeline {scores[0]:.4f}, MONAI {scores[1]:.4f} (both of 8 bits)")


class Free(nn.Module):
    """Logits of noise without any work; blocks and halos stay those of the network that it stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(6.0))

    def forward(self, greys: torch.Tensor) -> torch.Tensor:
        """Probabilities of 0.002 to 0.007."""
        return greys - self.shift


def _pr_auc(levels: Any, wanted: Any) -> float:
    histogram = ScoreHistogram()
    histogram.add(levels, wanted)
    return histogram.average_precision() or 0.0


def _noise(text: str, grid: float, folder: Path) -> str:
    """Where the volume is, made first if it is to be noise."""
    kind, colon, extent = text.partition(":")
    if (kind, colon) != ("noise", ":"):
        return text
    shape = triple(sizes(extent))
    path = folder / "noise.zarr"
    generator = np.random.default_rng(0)
    written = create_volume(path, shape=shape, dtype=np.uint8, voxel_size=(50.0, grid, grid))
    for box in written.box.blocks(written.unit):
        written.write(box, generator.integers(0, 256, box.shape, np.uint8))
    return str(path)


def _repeated(volume: Volume, times: tuple[int, ...], path: Path) -> str:
    """Where a volume of mirror images is, made of ``volume``."""
    values = volume.read(volume.box)
    for axis, count in enumerate(times):
        images = [np.flip(values, axis) if number % 2 else values for number in range(count)]
        values = np.concatenate(images, axis)
    written = create_volume(path, shape=values.shape, dtype=values.dtype, voxel_size=volume.voxel_size)
    for box in written.box.blocks(written.unit):
        written.write(box, np.ascontiguousarray(values[box.slices]))
    return str(path)


def _network(path: Path | None) -> tuple[nn.Module, tuple[float, float, float], tuple[int, int, int]]:
    if path is None:
        torch.manual_seed(0)
        return build_unet(VOXEL_SIZE).eval(), VOXEL_SIZE, PATCH
    run = RunFolder.open(path)
    config = run.config()
    task = make_task(config)
    assert isinstance(task, SynapseTask)
    net = task.build_model()
    load_weights(run.weights_file("last"), net)
    return net.eval(), config.model.voxel_size, triple(config.data.patch)


if __name__ == "__main__":
    main()
