"""A running viewer: which volumes, where it looks at first, and the server that it asks."""

from __future__ import annotations

import ipaddress
import os
import sys
import threading
import webbrowser
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from synbb.errors import SynbbError
from synbb.viewing.kinds import Kind
from synbb.viewing.library import neuroglancer
from synbb.viewing.points import read_points
from synbb.viewing.shown import ShownVolume
from synbb.volumes.kinds import is_finished
from synbb.volumes.opening import open_volume
from synbb.volumes.storage import VoxelSizeMissingError
from synbb.volumes.stores import split_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from synbb.volumes.box import Nanometres
    from synbb.volumes.volume import Volume

LOOPBACK = "127.0.0.1"
PANEL = 450
"""Pixels that what is looked at first takes in each of four panels."""
WITHOUT_LEVELS = 8.0
"""Voxels a pixel at most where there are no coarser levels."""
LARGE = 2**28
ORDER = tuple(Kind)  # later layers lie above earlier ones
TILTED = (0.36, 0.2, 0.08, 0.91)
"""Quaternion (x, y, z, w) of the view in three dimensions: a volume seen straight from above looks flat."""
BACKGROUND = "#1b1d21"


@dataclass(frozen=True)
class Asked:
    """A volume that is to be shown: where it lies, and as what (None: as what it is)."""

    path: str
    kind: Kind | None = None


class Session:
    """A viewer with its server, in threads of this process.

    Attributes:
        viewer: neuroglancer's.
        shown: the volumes, in the order of their layers.
        notes: what is worth knowing before one looks.
        address: for a browser; it holds the key of this session.
    """

    def __init__(self, viewer: Any, shown: Sequence[ShownVolume], notes: Sequence[str]) -> None:
        self.viewer = viewer
        self.shown = tuple(shown)
        self.notes = tuple(notes)
        self.address = str(viewer.get_viewer_url())

    def browse(self) -> None:
        """Open a browser here, where there is a screen: without one, a browser in the terminal might start instead."""
        if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            webbrowser.open(self.address)

    def wait(self) -> None:
        """Let it run until Ctrl-C, which is raised here as KeyboardInterrupt."""
        threading.Event().wait()

    def close(self) -> None:
        """Stop the server; what the browser still waits for is dropped."""
        _stop(neuroglancer())

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_session(
    volumes: Sequence[str | Asked],
    *,
    synapses: Sequence[str] = (),
    voxel_size: Sequence[float] | None = None,
    position: Sequence[float] | None = None,
    bind: str = LOOPBACK,
    port: int = 0,
    complain: Callable[[str], None] = print,
) -> Session:
    """Open volumes and tables in a viewer, and serve it.

    Args:
        volumes: as for :func:`open_volume`.
        synapses: tables, as ``synbb segment`` writes them.
        voxel_size: z, y, x in nm, of those volumes that state none.
        position: z, y, x in nm, looked at first; by default the middle of what all volumes have in common.
        bind: address that the server listens on.
        port: any free one when 0.
        complain: told of errors in reading, while the viewer runs.

    Raises:
        SynbbError: neuroglancer is not installed, a volume or table cannot be opened, nothing lies at ``position``, or
            the address cannot be listened on.
    """
    library = neuroglancer()
    shown = _open_all([Asked(v) if isinstance(v, str) else v for v in volumes], voxel_size)
    tables = {path: read_points(path) for path in synapses}
    reference = next((s for s in shown if s.kind is Kind.RAW), shown[0]).volume
    look = _common([s.volume for s in shown]) or reference.extent
    centre = _centre(reference, look, [s.volume for s in shown], position)
    viewer = _listen(library, bind, port)
    try:
        with viewer.txn() as state:
            _set_up(library, state, reference, look, centre, coarse=any(len(s.levels) > 1 for s in shown))
            _add_layers(state, shown, tables, complain)
    except BaseException:
        _stop(library)
        raise
    return Session(viewer, shown, [*_notes(shown), *_warning(bind)])


def _open_all(asked: Sequence[Asked], voxel_size: Sequence[float] | None) -> list[ShownVolume]:
    if not asked:
        raise SynbbError("no volume to show; name one or more")
    names: set[str] = set()
    shown = []
    for one in asked:
        try:
            volume = open_volume(one.path)
        except VoxelSizeMissingError:
            if voxel_size is None:
                raise
            volume = open_volume(one.path, voxel_size=voxel_size)
        name = _free(_name(one.path), names)
        names.add(name)
        shown.append(ShownVolume(volume, one.kind, name))
    return sorted(shown, key=lambda each: ORDER.index(each.kind))


def _name(path: str) -> str:
    """Of a layer: of the array inside a file, else of the file."""
    place = split_kind(path)[1].rstrip("/").replace("\\", "/")
    last = PurePosixPath(place).name.replace(":", "/")
    return PurePosixPath(last).name.removesuffix(".zarr").removesuffix(".n5") or "volume"


def _free(name: str, taken: Iterable[str]) -> str:
    if name not in taken:
        return name
    return next(f"{name} {n}" for n in count(2) if f"{name} {n}" not in taken)


def _common(volumes: Sequence[Volume]) -> tuple[Nanometres, Nanometres] | None:
    """What all volumes have in common, nm."""
    begin = [max(v.extent[0][axis] for v in volumes) for axis in range(3)]
    end = [min(v.extent[1][axis] for v in volumes) for axis in range(3)]
    if any(a >= b for a, b in zip(begin, end, strict=True)):
        return None
    return (begin[0], begin[1], begin[2]), (end[0], end[1], end[2])


def _centre(
    reference: Volume,
    look: tuple[Nanometres, Nanometres],
    volumes: Sequence[Volume],
    position: Sequence[float] | None,
) -> list[float]:
    """Where to look at first, in voxels of the world: the centre of a voxel, so that sections are stepped whole."""
    place = [(a + b) / 2 for a, b in zip(*look, strict=True)] if position is None else [float(p) for p in position]
    if position is not None and not any(_inside(volume, place) for volume in volumes):
        raise SynbbError(
            f"--position {','.join(f'{p:g}' for p in place)} (nm) lies in none of the volumes; "
            f"{reference.path} reaches from {_text(reference.extent[0])} to {_text(reference.extent[1])} (z,y,x in nm)"
        )
    steps = [round((p - o) / v) for p, o, v in zip(place, reference.offset, reference.voxel_size, strict=True)]
    return [c / v for c, v in zip(reference.centre_of(steps), reference.voxel_size, strict=True)]


def _inside(volume: Volume, place: Sequence[float]) -> bool:
    return all(a <= p <= b for a, p, b in zip(volume.extent[0], place, volume.extent[1], strict=True))


def _text(place: Sequence[float]) -> str:
    return ",".join(f"{p:g}" for p in place)


def _listen(library: Any, bind: str, port: int) -> Any:
    library.set_server_bind_address(bind, port)
    try:
        # Without credentials: the viewer is not to hand out this person's keys to stores.
        return library.Viewer(allow_credentials=False)
    except OSError as error:
        _stop(library)
        raise SynbbError(
            f"cannot listen on {bind}, port {port} ({error.strerror or error}); choose another --port, or leave it out"
        ) from error


def _stop(library: Any) -> None:
    running = library.server.global_server
    if running is not None:
        running.executor.shutdown(wait=False, cancel_futures=True)
    library.server.stop()
    library.server.set_server_bind_address()  # the library keeps it, for whatever this process serves next


def _set_up(
    library: Any,
    state: Any,
    reference: Volume,
    look: tuple[Nanometres, Nanometres],
    centre: Sequence[float],
    *,
    coarse: bool,
) -> None:
    smallest = min(reference.voxel_size)
    extent = [(b - a) / smallest for a, b in zip(*look, strict=True)]
    state.title = f"synbb: {_name(reference.path)}"
    state.dimensions = library.CoordinateSpace(names=["z", "y", "x"], units="nm", scales=reference.voxel_size)
    state.display_dimensions = ["x", "y", "z"]
    state.position = centre
    zoom = max(extent[1:]) / PANEL
    state.cross_section_scale = zoom if coarse else min(zoom, WITHOUT_LEVELS)
    state.projection_scale = 1.3 * max(extent)
    state.projection_orientation = TILTED
    state.hide_cross_section_background_3d = True  # else the planes hide what lies behind them
    state.layout = "4panel"
    state.cross_section_background_color = state.projection_background_color = BACKGROUND


def _add_layers(
    state: Any,
    shown: Sequence[ShownVolume],
    tables: dict[str, list[Any]],
    complain: Callable[[str], None],
) -> None:
    from synbb.viewing.layers import Layers

    layers = Layers(complain)
    names = {each.name for each in shown}
    for each in shown:
        state.layers.append(name=each.name, layer=layers.volume(each))
    for path, points in tables.items():
        name = _free(PurePosixPath(path).name, names)
        names.add(name)
        state.layers.append(name=name, layer=layers.points(points))


def _notes(shown: Sequence[ShownVolume]) -> list[str]:
    notes = []
    for each in shown:
        if not is_finished(each.volume):
            notes.append(f"{each.volume.path} is not finished: blocks that are missing read as 0")
        if each.volume.box.size > LARGE and len(each.levels) == 1:
            notes.append(
                f"{each.volume.path} has no coarser levels, so far zoomed out it is slow; "
                "synbb convert --pyramid makes them"
            )
    return notes


def _warning(bind: str) -> list[str]:
    try:
        here = bind == "localhost" or ipaddress.ip_address(bind).is_loopback
    except ValueError:
        here = False
    return [] if here else [f"listening on {bind}: who reaches this machine and knows the address sees the volumes"]
