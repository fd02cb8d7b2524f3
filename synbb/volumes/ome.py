"""OME-Zarr image metadata: reading 0.1 to 0.5, writing 0.5 and 0.4 (https://ngff.openmicroscopy.org/0.5/)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synbb.errors import SynbbError

if TYPE_CHECKING:
    from synbb.volumes.box import Nanometres

VERSION = "0.5"
ZARR_FORMATS = {"0.5": 3, "0.4": 2}
"""Versions that are written, and the zarr format of each."""

NM_PER_UNIT = {
    "angstrom": 0.1,
    "picometer": 1e-3,
    "nanometer": 1.0,
    "micrometer": 1e3,
    "millimeter": 1e6,
    "centimeter": 1e7,
    "meter": 1e9,
    # Not in the specification, but met in files.
    "nm": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "micron": 1e3,
    "mm": 1e6,
    "m": 1e9,
    "nanometers": 1.0,
    "nanometre": 1.0,
    "nanometres": 1.0,
    "micrometers": 1e3,
    "micrometre": 1e3,
    "micrometres": 1e3,
    "microns": 1e3,
    "angstroms": 0.1,
}


@dataclass(frozen=True)
class OmeLevel:
    """One array of a pyramid: its path in the group, voxel size and centre of its first voxel, in nm.

    ``voxel_size`` is None where the metadata states no scale or no unit; ``offset`` is then in voxels.
    """

    path: str
    voxel_size: Nanometres | None
    offset: Nanometres


@dataclass(frozen=True)
class OmeImage:
    """A multiscale image: names of all its axes, and its levels with the finest first.

    ``placed`` is whether each level's offset is its own. Many OME-Zarr state one translation, or none, for all their
    levels: those that have the finest one's are taken to share its corner.
    """

    version: str
    axes: tuple[str, ...]
    levels: tuple[OmeLevel, ...]
    unit: str = "nm"
    placed: bool = True


def image_metadata(name: str, levels: Sequence[OmeLevel], version: str = VERSION) -> dict[str, Any]:
    """The group attributes of an OME-Zarr image with axes z, y, x in nm.

    Args:
        name: what viewers call the image.
        levels: finest first, voxel sizes known.
        version: 0.5 (zarr v3), or 0.4 (zarr v2).
    """
    image = {
        "name": name,
        "axes": [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"],
        "datasets": [
            {
                "path": level.path,
                "coordinateTransformations": [
                    {"type": "scale", "scale": list(level.voxel_size or ())},
                    {"type": "translation", "translation": list(level.offset)},
                ],
            }
            for level in levels
        ],
    }
    if version == VERSION:
        return {"ome": {"version": version, "multiscales": [image]}}
    return {"multiscales": [{"version": version, **image}]}


def read_image(attributes: Mapping[str, Any], where: str) -> OmeImage | None:
    """The multiscale image that a group's attributes describe, the first of several, None when they describe none.

    Raises:
        SynbbError: there is such metadata but it breaks the specification.
    """
    ome = attributes.get("ome")
    holder: Mapping[str, Any] = ome if isinstance(ome, Mapping) else attributes
    images = holder.get("multiscales")
    if not images:
        return None
    try:
        image = images[0]
        version = str(holder.get("version") or image.get("version") or "0.1")
        axes, factors = _axes(image.get("axes"))
        if not set("zyx") <= set(axes):
            raise SynbbError(f"{where}: {len(axes)} axes named {', '.join(axes)} are no volume; z, y, x are needed")
        common = image.get("coordinateTransformations") or []
        levels = tuple(_level(dataset, common, axes, factors) for dataset in image["datasets"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise SynbbError(
            f"{where}: its OME-Zarr metadata is broken ({type(error).__name__}: {error}); "
            "compare it with https://ngff.openmicroscopy.org or name the array with dataset="
        ) from error
    if not levels:
        raise SynbbError(f"{where}: its OME-Zarr metadata lists no dataset; name the array with dataset=")
    return OmeImage(version, axes, levels, _unit(image.get("axes") or ()), placed=False)


def _unit(axes: Sequence[Any]) -> str:
    """The unit of the first axis of space that states one, as it is written."""
    for axis in axes:
        if isinstance(axis, Mapping) and str(axis.get("name")).lower() in "zyx" and axis.get("unit"):
            return str(axis["unit"])
    return "not stated"


def _axes(stated: Any) -> tuple[tuple[str, ...], dict[str, float | None]]:
    """Names of the axes, and nm per unit of each spatial one (None: no unit that we know)."""
    if not stated:  # 0.1 and 0.2 had five axes and named none
        return tuple("tczyx"), dict.fromkeys("zyx")
    names: list[str] = []
    factors: dict[str, float | None] = {}
    for axis in stated:
        name = axis if isinstance(axis, str) else str(axis["name"])
        unit = None if isinstance(axis, str) else axis.get("unit")
        names.append(name.lower())
        factors[name.lower()] = NM_PER_UNIT.get(str(unit).lower())
    return tuple(names), factors


def _level(
    dataset: Mapping[str, Any], common: Any, axes: tuple[str, ...], factors: dict[str, float | None]
) -> OmeLevel:
    scale = [1.0] * len(axes)
    offset = [0.0] * len(axes)
    scaled = False
    for step in [*(dataset.get("coordinateTransformations") or []), *common]:
        if step["type"] == "scale":
            by = [float(v) for v in step["scale"]]
            scale = [a * b for a, b in zip(scale, by, strict=True)]
            offset = [a * b for a, b in zip(offset, by, strict=True)]
            scaled = True
        elif step["type"] == "translation":
            by = [float(v) for v in step["translation"]]
            offset = [a + b for a, b in zip(offset, by, strict=True)]
        elif step["type"] != "identity":
            raise ValueError(f"coordinate transformation of type {step['type']!r}")
    at = [axes.index(axis) for axis in "zyx"]
    z, y, x = (scale[i] for i in at)
    oz, oy, ox = (offset[i] for i in at)
    fz, fy, fx = (factors.get(axis) for axis in "zyx")
    path = str(dataset["path"])
    if min(z, y, x) <= 0:
        raise ValueError(f"scale {scale} of dataset {path!r}")
    if not scaled or fz is None or fy is None or fx is None:
        return OmeLevel(path, None, (oz / z, oy / y, ox / x))
    return OmeLevel(path, (z * fz, y * fy, x * fx), (oz * fz, oy * fy, ox * fx))
