"""``synbb data``: list, fetch, verify, and make a phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from synbb.cli.console import console, progress

app = typer.Typer(no_args_is_help=True, help="Datasets: list, fetch, verify; make a phantom volume.")

Name = Annotated[str, typer.Argument(help="Dataset, as `synbb data list` shows it.")]
To = Annotated[Path, typer.Option("--to", help="Folder of all datasets.")]


@app.command("list")
def list_datasets() -> None:
    """Show every dataset of the manifest with its licence, voxel size, layout and source."""
    from rich.table import Table

    from synbb.datasets import load_manifest

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")  # an address that is cut cannot be copied
    for name, dataset in load_manifest().items():
        size = [" x ".join(f"{v:g}" for v in dataset.voxel_size) + " nm"] if dataset.voxel_size else []
        table.add_row(name, dataset.title)
        table.add_row("", "; ".join([*size, f"licence: {dataset.licence}"]))
        table.add_row("", f"layout: {dataset.layout}")
        table.add_row("", dataset.source.homepage)
        table.add_row("", "")
    console.print(table)


@app.command("fetch")
def fetch_dataset(
    name: Name,
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with upstream's files; without it they are downloaded.")
    ] = None,
    to: To = Path("data"),
) -> None:
    """Bring a dataset into the folder of all datasets, with its checksums compared."""
    from synbb.datasets import fetch, find_dataset, load_manifest

    manifest = load_manifest()
    dataset = find_dataset(name, manifest)
    with progress(f"fetch {name}") as report:
        fetched = fetch(name, source=source, to=to, manifest=manifest, progress=report)
    for line in fetched.lines:
        console.print(f"  {line}", markup=False)
    done = "is there already and right; nothing to do" if fetched.current else "fetched and checked"
    console.print(f"{fetched.folder}: {done}", markup=False)
    console.print(f"Licence: {dataset.licence}", markup=False)
    console.print(f"Cite: {dataset.citation}", markup=False)


@app.command("verify")
def verify_dataset(name: Name, to: To = Path("data")) -> None:
    """Compare a fetched dataset with the manifest's checksums."""
    from synbb.datasets import verify

    for line in verify(name, to=to):
        console.print(f"  {line}", markup=False)
    console.print(f"{to / name}: right", markup=False)


@app.command("phantom")
def make_phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to create.")],
    shape: Annotated[str, typer.Option(help="Voxels z,y,x.")] = "40,512,512",
    voxel_size: Annotated[str, typer.Option(help="nm z,y,x.")] = "40,8,8",
    seed: Annotated[int, typer.Option(help="The same seed gives the same data.")] = 0,
    synapse_density: Annotated[float, typer.Option(help="Synapses per cubic micrometre; 0 for none.")] = 3.0,
    noise: Annotated[float, typer.Option(help="Strength of the grain.")] = 1.0,
    jitter: Annotated[float, typer.Option(help="Standard deviation of a section's shift, nm.")] = 12.0,
    missing_rate: Annotated[float, typer.Option(help="Share of sections that are blank.")] = 0.02,
    fold_rate: Annotated[float, typer.Option(help="Share of sections with a fold.")] = 0.02,
    stain_rate: Annotated[float, typer.Option(help="Share of sections with stain.")] = 0.03,
    neurites: Annotated[bool, typer.Option("--neurites", help="Write neurites.zarr too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a phantom that is there.")] = False,
) -> None:
    """Make a synthetic EM volume with synapse labels, of any shape."""
    from synbb.datasets import PhantomSpec, write_phantom
    from synbb.datasets.phantom import parse_triple

    z, y, x = parse_triple("--shape", shape, int)
    spec = PhantomSpec(
        shape=(z, y, x),
        voxel_size=parse_triple("--voxel-size", voxel_size, float),
        seed=seed,
        synapse_density=synapse_density,
        noise=noise,
        jitter=jitter,
        missing_rate=missing_rate,
        fold_rate=fold_rate,
        stain_rate=stain_rate,
    )
    with progress("phantom", "voxels") as report:
        paths = write_phantom(folder, spec, overwrite=overwrite, neurites=neurites, progress=report)
    for name, path in paths.items():
        console.print(f"  {name}: {path}", markup=False)


@app.command("phantom-faces")
def make_phantom_faces(
    folder: Annotated[Path, typer.Argument(help="Folder to create.")],
    identities: Annotated[int, typer.Option(help="Number of people.")] = 20,
    images: Annotated[int, typer.Option(help="Images of each.")] = 10,
    size: Annotated[str, typer.Option(help="Pixels y,x.")] = "48,40",
    seed: Annotated[int, typer.Option(help="The same seed gives the same data.")] = 0,
    noise: Annotated[float, typer.Option(help="Grain, of 0 to 1.")] = 0.04,
    light: Annotated[float, typer.Option(help="How unevenly the light falls; 0 for from the front alone.")] = 0.5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a phantom that is there.")] = False,
) -> None:
    """Draw faces of people who do not exist, a folder each."""
    from synbb.cli.values import integers
    from synbb.datasets.phantom_faces import FacePhantom, write_phantom_faces
    from synbb.errors import SynbbError

    pixels = integers(size, "--size")
    if len(pixels) != 2:
        raise SynbbError(f"--size {size!r} must be two positive whole numbers y,x, for example 48,40")
    spec = FacePhantom(identities, images, (pixels[0], pixels[1]), seed, noise, light)
    write_phantom_faces(folder, spec, overwrite=overwrite)
    console.print(
        f"{folder}: {identities} identities x {images} images of {pixels[0]} x {pixels[1]} pixels", markup=False
    )


@app.command("phantom-speech")
def make_phantom_speech(
    folder: Annotated[Path, typer.Argument(help="Folder to create.")],
    speakers: Annotated[int, typer.Option(help="Number of people.")] = 20,
    utterances: Annotated[int, typer.Option(help="Utterances of each.")] = 20,
    words: Annotated[str, typer.Option(help="Fewest and most words of an utterance.")] = "2,4",
    vocabulary: Annotated[int, typer.Option(help="Number of different words.")] = 30,
    snr: Annotated[float, typer.Option(help="How much louder speech is than the background noise, dB.")] = 15.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same data.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a phantom that is there.")] = False,
) -> None:
    """Speak made-up words with voices of people who do not exist, a folder each, with transcripts."""
    from synbb.cli.values import integers
    from synbb.datasets.phantom_speech import SpeechPhantom, write_phantom_speech
    from synbb.errors import SynbbError

    ends = integers(words, "--words")
    if len(ends) != 2 or not 1 <= ends[0] <= ends[1]:
        raise SynbbError(f"--words {words!r} must be the fewest and the most words, for example 2,4")
    spec = SpeechPhantom.from_dict(
        {
            "speakers": speakers,
            "utterances": utterances,
            "words": ends,
            "vocabulary": vocabulary,
            "snr": snr,
            "seed": seed,
        }
    )
    with progress("phantom speech", "utterances") as report:
        write_phantom_speech(folder, spec, overwrite=overwrite, progress=report)
    console.print(
        f"{folder}: {speakers} speakers x {utterances} utterances of {ends[0]} to {ends[1]} words", markup=False
    )
