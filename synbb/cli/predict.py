"""``synbb predict``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from synbb.inference.drivers import Driver


FOR_SPEECH = ("decoding", "beam")
"""What is of use with a run on speech alone."""
FOR_FILES = frozenset(
    {"run", "volume", "output", "named_output", "weights", "device", "allow_unfinished", "overwrite", *FOR_SPEECH}
)
"""What is of use with a run that predicts files."""
NEEDED = {
    "window": ("overlap",),
    "lease_expiry": ("worker",),
    "retries": ("cluster", "worker"),
    "worker_timeout": ("cluster",),
    "lifetime": ("cluster",),
    "lifetime_stagger": ("cluster",),
}
"""Options that say how something is done, and which ask for it."""


def command(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.")],
    volume: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="Volume to predict; for faces a folder of images, for speech of audio."),
    ],
    output: Annotated[
        Path | None,
        typer.Argument(metavar="OUTPUT", help="Probabilities (OUTPUT.zarr), written block by block; else a CSV."),
    ] = None,
    named_output: Annotated[Path | None, typer.Option("--output", help="OUTPUT, given by name.")] = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="z0:z1,y0:y1,x0:x1[nm]",
            help="Write only this part of INPUT: voxels, or with nm at the end nm, half-open.",
        ),
    ] = None,
    weights: Annotated[str, typer.Option(help="last, or best on the validation split.")] = "last",
    voxel_size: Annotated[
        str | None, typer.Option("--voxel-size", metavar="Z,Y,X", help="nm, for an INPUT that states none.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Share by which voxel sizes may differ and count as the same: 0.02 for 2 %.")
    ] = 0.02,
    resample_z: Annotated[bool, typer.Option("--resample-z", help="Allow resampling across sections.")] = False,
    invert: Annotated[
        bool | None, typer.Option("--invert/--no-invert", help="Dark and bright exchanged; by default as in training.")
    ] = None,
    block: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Voxels of INPUT in a block; chosen by default.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Blocks given to the device at once.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="32, tf32, bf16 or 16.")] = "32",
    dtype: Annotated[str, typer.Option(help="uint8 stores round(255 p), float32 stores p.")] = "uint8",
    mask: Annotated[
        str | None, typer.Option(metavar="VOLUME", help="Nonzero where there is tissue: nothing outside is predicted.")
    ] = None,
    missing: Annotated[
        str, typer.Option(metavar="error|skip", help="Whether absent chunks of INPUT are an error or no data.")
    ] = "skip",
    floor: Annotated[
        float, typer.Option(metavar="P", help="Write 0 for smaller probabilities, and no chunks of zeros.")
    ] = 0.0,
    flips: Annotated[
        str, typer.Option(metavar="AXES", help="Average over mirror images along these axes, such as yx.")
    ] = "",
    overlap: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Blend windows that overlap by this share, instead of blocks with their exact halo."
        ),
    ] = None,
    window: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Working voxels of a window; a training patch by default.")
    ] = None,
    segment: Annotated[
        str | None, typer.Option(metavar="OUT.zarr", help="Segment at once, by threshold and rules of the run.")
    ] = None,
    drop_probabilities: Annotated[
        bool, typer.Option("--drop-probabilities", help="With --segment: remove the probabilities afterwards.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long it takes; write nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read finished blocks again first and redo damaged ones.")
    ] = False,
    allow_unfinished: Annotated[
        bool, typer.Option("--allow-unfinished", help="Predict although the masks of the run are not final.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT, a CSV, where it is there.")] = False,
    decoding: Annotated[
        str | None, typer.Option(metavar="greedy|beam", help="Of speech; by default as the run's settings say.")
    ] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Hypotheses kept by beam decoding of speech.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="local:N|tcp://HOST:8786|FILE.yaml", help="Blocks on workers of a dask cluster."),
    ] = None,
    worker: Annotated[
        bool, typer.Option("--worker", help="Be one of any number of processes that share OUTPUT (job arrays).")
    ] = False,
    lease_expiry: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Silence after which a --worker counts as lost.")
    ] = 60.0,
    retries: Annotated[
        int, typer.Option(min=0, help="Further attempts for a block that raises (--cluster, --worker).")
    ] = 2,
    worker_timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="End after so long without any worker (--cluster).")
    ] = 600.0,
    lifetime: Annotated[
        str | None, typer.Option(metavar="225m", help="Of a worker, shorter than its job's walltime (FILE.yaml).")
    ] = None,
    lifetime_stagger: Annotated[
        str | None, typer.Option(metavar="10m", help="Up to which lifetimes differ (FILE.yaml).")
    ] = None,
) -> None:
    """Predict synapse probabilities over a volume of any size; started again, it does only what is missing.

    With a run on faces or speech INPUT is a folder of images or audio, or one file, OUTPUT a CSV of embeddings or
    transcripts; of the options --weights, --device, --allow-unfinished and --overwrite then apply, with speech
    --decoding and --beam besides.
    """
    from synbb.cli.values import refuse_others, refuse_without, three_integers
    from synbb.errors import SynbbError
    from synbb.places import run_at

    # What is wrong with the command itself is said before what takes seconds to import.
    if dry_run:
        output, named_output = output or named_output or Path("probabilities.zarr"), None  # nothing is written
    if (output is None) == (named_output is None):
        raise SynbbError("give one OUTPUT, as the last argument or with --output")
    output = output or named_output
    assert output is not None
    if drop_probabilities and segment is None:
        raise SynbbError("--drop-probabilities leaves nothing without --segment OUT.zarr; give both, or neither")
    refuse_without(context, NEEDED)
    if segment is not None and worker:
        raise SynbbError(
            "--segment would be done by every --worker at once; run synbb segment when all of them have ended"
        )
    if cluster is not None and worker:
        raise SynbbError("--cluster and --worker are two ways of the same; choose one")
    block_shape = None if block is None else three_integers(block, "--block")
    window_shape = None if window is None else three_integers(window, "--window")
    run_at(run)

    from synbb.volumes.box import parse_region
    from synbb.volumes.storage import parse_voxel_size

    voxels = None if region is None else parse_region(region)
    sizes = None if voxel_size is None else parse_voxel_size(voxel_size)

    from synbb.cli import segment as segmenting
    from synbb.cli.console import console, progress
    from synbb.inference.allocator import return_large_arrays
    from synbb.inference.output import remove_output
    from synbb.prediction.files import predict_files, predicts_files
    from synbb.prediction.labels import check_labels, labels_are_made
    from synbb.prediction.trained import device_named
    from synbb.prediction.volumes import predict

    if predicts_files(run):
        refuse_others(context, FOR_FILES, f"of use with volumes alone, and {run} is a run that predicts files")
        predict_files(
            run,
            Path(volume),
            output,
            which=weights,
            device=device,
            allow_unfinished=allow_unfinished,
            overwrite=overwrite,
            decoding=decoding,
            beam=beam,
            say=lambda line: console.print(line, markup=False),
        )
        return
    refuse_others(context, {*context.params} - {*FOR_SPEECH}, f"of use with runs on speech, and {run} predicts volumes")
    if overwrite:
        raise SynbbError("--overwrite is of use with runs that predict files; remove OUTPUT to predict a volume anew")
    segmented = False
    if segment is not None:
        # Blocks that --verify does again are not those that the labels were made of.
        segmented = not verify and labels_are_made(Path(segment), output)
        if not segmented:
            check_labels(Path(segment), output, dry_run=dry_run)
    driver: Driver | None = None
    if worker:
        from synbb.inference.leased import LeasedDriver

        driver = LeasedDriver(retries=retries, expiry=lease_expiry)
    if cluster is not None:
        from synbb.inference.cluster import ClusterDriver
        from synbb.inference.cluster_start import absolute, connected

        connect = partial(connected, cluster, lifetime=lifetime, lifetime_stagger=lifetime_stagger)
        connect()  # is nothing until it is entered, but says what is wrong before the volume is looked at
        driver = ClusterDriver(connect, device=device, retries=retries, worker_timeout=worker_timeout)
        volume, output, device = absolute(volume), output.absolute(), "cpu"
        mask = None if mask is None else absolute(mask)
    if device_named(device) == "cpu":
        return_large_arrays()

    with progress("predicting", "blocks") as bar, _told_when_interrupted():
        summary = predict(
            run,
            volume,
            output,
            region=voxels,
            which=weights,
            voxel_size=sizes,
            tolerance=tolerance,
            resample_z=resample_z,
            invert=invert,
            write_block=block_shape,
            batch=batch,
            device=device,
            precision=precision,
            dtype=dtype,
            mask=mask,
            missing=missing,
            floor=floor,
            flips=flips,
            overlap=overlap,
            window=window_shape,
            verify=verify,
            dry_run=dry_run,
            allow_unfinished=allow_unfinished,
            driver=driver,
            progress=bar,
            say=lambda line: console.print(line, markup=False),
        )
    for line in summary:
        console.print(line, markup=False)
    if segment is not None and not dry_run:
        if segmented:
            console.print(f"labels {segment} were made of them before", markup=False)
        else:
            segmenting.command(str(output), segment)
        if drop_probabilities:
            remove_output(output)
            console.print(f"removed {output}", markup=False)


@contextmanager
def _told_when_interrupted() -> Iterator[None]:
    """Ctrl-C loses nothing here, and says so."""
    from synbb.cli.console import errors

    try:
        yield
    except KeyboardInterrupt:
        errors.print("synbb: interrupted; finished blocks are kept, and the same command goes on")
        raise
