"""``synbb enroll`` and ``synbb identify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synbb.places import run_at

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run on faces.")]
Weights = Annotated[str, typer.Option(help="last, or best on the validation split.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


def enroll(
    run: Run,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images for each identity.")],
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY.safetensors", help="File to write.")],
    add: Annotated[bool, typer.Option("--add", help="Enroll into a gallery that is there.")] = False,
    weights: Weights = "last",
    device: Device = "auto",
) -> None:
    """Put people into a gallery: the mean embedding of each."""
    run_at(run)
    from synbb.cli.console import console
    from synbb.prediction.identify import enroll

    enroll(run, folder, gallery, add=add, which=weights, device=device, say=lambda t: console.print(t, markup=False))


def identify(
    run: Run,
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY.safetensors", help="As `synbb enroll` wrote it.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="An image, or a folder of images.")],
    output: Annotated[Path, typer.Option(metavar="NAMES.csv", help="Who is on each image.")],
    threshold: Annotated[
        float | None, typer.Option(help="Cosine from which somebody is named; by default that of the run.")
    ] = None,
    weights: Weights = "last",
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace NAMES.csv where it is there.")] = False,
) -> None:
    """Name the people on images by a gallery."""
    run_at(run)
    from synbb.cli.console import console
    from synbb.prediction.identify import identify

    identify(
        run,
        gallery,
        images,
        output,
        threshold=threshold,
        which=weights,
        device=device,
        overwrite=overwrite,
        say=lambda line: console.print(line, markup=False),
    )
