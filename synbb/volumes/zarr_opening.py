"""Opening OME-Zarr images and plain zarr arrays, in folders by the zarr library, in remote stores by tensorstore."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import zarr

from synbb.errors import SynbbError
from synbb.volumes import stores
from synbb.volumes.box import Nanometres
from synbb.volumes.checked_store import local_store
from synbb.volumes.hdf5_storage import CREMI_RAW, three_floats
from synbb.volumes.levels import alone, volume_of, volume_of_levels, with_metadata
from synbb.volumes.ome import OmeImage, read_image
from synbb.volumes.storage import Storage, check_voxel_size, unreadable
from synbb.volumes.tensor_storage import open_storage
from synbb.volumes.volume import Volume
from synbb.volumes.zarr_storage import ZarrStorage, space_axes

ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")

Names = Sequence[str | None]


def is_zarr(where: Path) -> bool:
    """Whether the folder holds zarr metadata."""
    return any((where / mark).is_file() for mark in ZARR_MARKS)


@dataclass(frozen=True)
class Node:
    """A group or an array, wherever it is stored.

    Attributes:
        place: path or address.
        version: of the zarr format, 2 or 3.
        attributes: of the user.
        shape: None for a group.
        names: of an array's axes, where they are stated.
        storage: opens the array, given the names of its axes and the format in words.
    """

    place: str
    version: int
    attributes: Mapping[str, Any]
    shape: tuple[int, ...] | None = None
    names: Names | None = None
    storage: Callable[[Names | None, str], Storage] | None = None


class Tree(Protocol):
    """Where nodes are looked up."""

    def node(self, place: str) -> Node | None:
        """The node at a path or address, None where there is none."""

    def listing(self, place: str) -> str:
        """A sentence on the arrays below a place, for messages."""


class LocalTree:
    """Folders, read by the zarr library."""

    def node(self, place: str) -> Node | None:
        """The node in a folder."""
        folder = Path(place)
        if not is_zarr(folder):
            return None
        stored = str(folder.absolute())  # what is opened here may be read by a process that is somewhere else
        try:
            found = zarr.open(store=local_store(stored), mode="r")
        except Exception as error:  # broken JSON and unknown codecs surface in many ways
            raise unreadable(place, "the zarr metadata", error) from error
        attributes = found.attrs.asdict()
        version = found.metadata.zarr_format
        if not isinstance(found, zarr.Array):
            return Node(place, version, attributes)

        def storage(names: Names | None, label: str) -> Storage:
            return ZarrStorage(stored, found, space_axes(found.shape, names, place), label)

        return Node(place, version, attributes, found.shape, getattr(found.metadata, "dimension_names", None), storage)

    def listing(self, place: str) -> str:
        """Up to twenty arrays."""
        where = Path(place)
        found: list[str] = []
        for folder in sorted(p for p in where.glob("**/") if len(p.relative_to(where).parts) <= 3):
            if any((folder / mark).is_file() for mark in ("zarr.json", ".zarray")):
                node = self.node(str(folder))
                if node is not None and node.storage is not None:
                    dtype = node.storage(None, "").dtype if len(node.shape or ()) == 3 else ""
                    found.append(f"{folder.relative_to(where)} {node.shape} {dtype}".strip())
            if len(found) >= 20:
                break
        return f"It holds: {'; '.join(found) or 'no array'}"


@dataclass
class RemoteTree:
    """Addresses, read by tensorstore until ``deadline`` (seconds since the epoch)."""

    deadline: float

    def node(self, place: str) -> Node | None:
        """The node at an address."""
        found = stores.read_json(place, ("zarr.json", ".zarray", ".zgroup", ".zattrs"), self.deadline)
        if "zarr.json" in found:
            metadata, version = found["zarr.json"], 3
            attributes = metadata.get("attributes") or {}
            array = metadata.get("node_type") == "array"
        elif ".zarray" in found or ".zgroup" in found:
            metadata, version = found.get(".zarray", {}), 2
            attributes = found.get(".zattrs", {})
            array = ".zarray" in found
        else:
            return None
        if not array:
            return Node(place, version, attributes)
        driver = {"driver": "zarr3" if version == 3 else "zarr", "kvstore": stores.kvstore(place)}

        def storage(names: Names | None, label: str) -> Storage:
            return open_storage(driver, names, place, label, self.deadline)

        shape = tuple(metadata.get("shape") or ())
        return Node(place, version, attributes, shape, metadata.get("dimension_names"), storage)

    def listing(self, place: str) -> str:
        """Remote stores are not listed: many do not allow it."""
        return f"Name the array below {place}"


def open_zarr(tree: Tree, given: str, root: str, inner: str | None, size: Nanometres | None) -> Volume:
    """Open the array or image at ``root``, or ``inner`` below it.

    Raises:
        SynbbError: no such array, broken metadata, not three axes, or no voxel size.
    """
    place = f"{root}/{inner}" if inner else root
    node = tree.node(place)
    if node is None:
        raise SynbbError(f"{given}: no array or group {inner!r} in it; {tree.listing(root)}")
    if node.shape is not None:
        return _open_array(tree, given, node, size)
    image = read_image(node.attributes, given)
    if image is not None:
        return _open_image(tree, given, node, image, size)
    if "bioformats2raw.layout" in node.attributes and (child := tree.node(f"{place}/0")) is not None:
        image = read_image(child.attributes, given)
        if image is not None:
            return _open_image(tree, given, child, image, size)
    raw = tree.node(f"{place}/{CREMI_RAW}")
    if raw is not None and raw.shape is not None:
        return _open_array(tree, given, raw, size)
    raise SynbbError(
        f"{given}: a zarr group without OME-Zarr image metadata; name the array as {given}:ARRAY. {tree.listing(place)}"
    )


def _open_array(tree: Tree, given: str, node: Node, size: Nanometres | None) -> Volume:
    above, _, name = node.place.rstrip("/").rpartition("/")
    parent = tree.node(above) if above and not above.endswith("/") else None
    if parent is not None and parent.shape is None:
        image = read_image(parent.attributes, above)
        for level in image.levels if image else ():
            if image is not None and level.path == name:
                return _open_image(tree, given, parent, alone(image, level), size)
    stated = node.attributes.get("resolution", node.attributes.get("voxel_size"))
    what = f"{given}: attribute resolution"
    resolution = None if stated is None else check_voxel_size(three_floats(stated, what), what)
    offset = node.attributes.get("offset")
    centre = (0.0, 0.0, 0.0) if offset is None else three_floats(offset, f"{given}: attribute offset")
    names = node.names if node.names and len(node.names) == len(node.shape or ()) else None
    assert node.storage is not None
    volume = volume_of(given, node.storage(names, f"zarr v{node.version}"), size or resolution, centre)
    if names is not None and all(names):
        volume = replace(volume, stored_axes=tuple(str(name).lower() for name in names))
    return with_metadata(volume, node.attributes)


def _open_image(tree: Tree, given: str, group: Node, image: OmeImage, size: Nanometres | None) -> Volume:
    label = f"OME-Zarr {image.version} (zarr v{group.version})"
    storages = []
    for level in image.levels:
        place = f"{group.place}/{level.path}"
        node = tree.node(place)
        if node is None or node.shape is None or node.storage is None:
            raise SynbbError(
                f"{given}: its metadata names level {level.path!r}, but there is no such array; restore it"
            )
        names: Names | None = image.axes
        if len(image.axes) != len(node.shape):
            if "c" not in image.axes:
                named = f"{len(image.axes)}: {', '.join(image.axes)}"
                raise SynbbError(f"{place}: {len(node.shape)} axes, but its metadata names {named}")
            names = None
        storages.append(node.storage(names, label))
    return volume_of_levels(given, image, storages, size, group.attributes)
