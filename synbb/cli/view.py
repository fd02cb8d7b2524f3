"""``synbb view``."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from synbb.cli.values import READABLE


def command(
    volumes: Annotated[list[str] | None, typer.Argument(metavar="VOLUME...", help=READABLE)] = None,
    raw: Annotated[list[str] | None, typer.Option(metavar="VOLUME", help="Show as grey values.")] = None,
    probabilities: Annotated[list[str] | None, typer.Option(metavar="VOLUME", help="Show as probabilities.")] = None,
    objects: Annotated[list[str] | None, typer.Option(metavar="VOLUME", help="Show as labels.")] = None,
    synapses: Annotated[
        list[str] | None, typer.Option(metavar="CSV", help="Table of `synbb segment`, shown as points.")
    ] = None,
    voxel_size: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="nm, for volumes that state none.")] = None,
    position: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="nm, looked at first.")] = None,
    bind: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Listen here; any but this machine's own lets others look.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser, or print the address only.")
    ] = True,
) -> None:
    """Look at volumes in neuroglancer, each as what it is: grey values, probabilities, objects. Ctrl-C ends it."""
    from synbb.cli.console import console, errors
    from synbb.cli.values import three_numbers
    from synbb.viewing import Kind, open_session
    from synbb.viewing.session import Asked
    from synbb.volumes.storage import parse_voxel_size

    given = {None: volumes, Kind.RAW: raw, Kind.PROBABILITIES: probabilities, Kind.OBJECTS: objects}
    session = open_session(
        [Asked(path, kind) for kind, paths in given.items() for path in paths or ()],
        synapses=synapses or (),
        voxel_size=None if voxel_size is None else parse_voxel_size(voxel_size),
        position=None if position is None else three_numbers(position, "--position"),
        bind=bind,
        port=port,
        complain=lambda text: errors.print(f"synbb: {text}", markup=False),
    )
    # Ctrl-C is how it ends, from the moment on at which the address can be read: before it waits, too.
    with suppress(KeyboardInterrupt), session:
        for each in session.shown:
            console.print(f"{each.name}: {each.kind}, {each.volume.path}", markup=False)
        for note in session.notes:
            console.print(f"note: {note}", markup=False)
        # Not through rich: interrupted between writing and emptying its buffer, it writes the line twice.
        typer.echo(f"{session.address}  (Ctrl-C ends)")
        if browser:
            session.browse()
        session.wait()
    console.print("closed")
