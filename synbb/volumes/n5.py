"""N5 arrays and multiscale groups, with the metadata that the field writes.

N5 has no standard for physical units. Read are, for each level s0, s1, ... and in this order: ``transform`` (axes,
scale, translate, units), as COSEM writes it; the level's own ``pixelResolution`` or ``resolution``, times its own
``downsamplingFactors``, as n5-viewer and Paintera do; the group's, times the level's entry in the group's
``downsamplingFactors`` or ``scales``, as neuroglancer does. N5 counts axes x, y, z where ``axes`` says nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from synbb.errors import SynbbError
from synbb.volumes import stores
from synbb.volumes.levels import volume_of_levels
from synbb.volumes.ome import NM_PER_UNIT, OmeImage, OmeLevel
from synbb.volumes.tensor_storage import open_storage

if TYPE_CHECKING:
    from synbb.volumes.box import Nanometres
    from synbb.volumes.volume import Volume

AXES = ("x", "y", "z", "c", "t")
MAX_LEVELS = 64

_LEVEL = re.compile(r"s\d+")


def open_n5(given: str, place: str, attributes: Mapping[str, Any], size: Nanometres | None, deadline: float) -> Volume:
    """Open an array, or a group with arrays s0, s1, ... (Paintera's may lie in ``data``).

    Args:
        given: for messages.
        place: path or address.
        attributes: the place's ``attributes.json``.
        size: overrules the voxel size that is stated.
        deadline: seconds since the epoch.

    Raises:
        SynbbError: neither array nor multiscale group, broken metadata, not three axes, or no voxel size.
    """
    group: Mapping[str, Any] = {}
    levels: dict[str, Mapping[str, Any]]
    if "dimensions" in attributes:
        above, _, name = place.rpartition("/")
        if _LEVEL.fullmatch(name) and above:
            group = _attributes(above, deadline) or {}
        levels = {place: attributes}
        numbers = [int(name[1:])] if group else [0]
    else:
        group, levels = _find_levels(place, attributes, deadline)
        numbers = list(range(len(levels)))
    if not levels:
        raise SynbbError(
            f"{given}: an N5 group without s0, s1, ...; name an array in it as {given}:ARRAY "
            "(the path of a folder with dimensions in its attributes.json)"
        )
    try:
        axes = _axes(next(iter(levels.values())), group)
        unit = _unit(next(iter(levels.values())), group)
        described = tuple(
            _level(path, level, group, number, axes)
            for number, (path, level) in zip(numbers, levels.items(), strict=True)
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise SynbbError(
            f"{given}: its N5 metadata is broken ({type(error).__name__}: {error}); correct attributes.json, or "
            "open one array of it with --voxel-size"
        ) from error
    storages = [
        open_storage({"driver": "n5", "kvstore": stores.kvstore(path)}, axes, path, "N5", deadline) for path in levels
    ]
    return volume_of_levels(given, OmeImage("", axes, described, unit), storages, size, group or attributes)


def _attributes(place: str, deadline: float) -> dict[str, Any] | None:
    return stores.read_json(place, ("attributes.json",), deadline).get("attributes.json")


def _find_levels(
    place: str, attributes: Mapping[str, Any], deadline: float
) -> tuple[Mapping[str, Any], dict[str, Mapping[str, Any]]]:
    """The group's attributes, and those of each of its levels by path or address."""
    for folder in (place, f"{place}/data"):
        found: dict[str, Mapping[str, Any]] = {}
        for number in range(MAX_LEVELS):
            path = f"{folder}/s{number}"
            level = _attributes(path, deadline)
            if level is None or "dimensions" not in level:
                break
            found[path] = level
        if found:
            inner = {} if folder == place else _attributes(folder, deadline) or {}
            return {**attributes, **inner}, found
    return attributes, {}


def _axes(level: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[str, ...]:
    count = len(level["dimensions"])
    named = level.get("axes") or group.get("axes")
    if named and len(named) == count:
        return tuple(str(axis).lower() for axis in named)
    return AXES[:count]


def _unit(level: Mapping[str, Any], group: Mapping[str, Any]) -> str:
    for holder in (level, group):
        transform, pixel = holder.get("transform"), holder.get("pixelResolution")
        stated = (transform or {}).get("units") or holder.get("units")
        if stated:
            return str(stated[0])
        if isinstance(pixel, Mapping) and pixel.get("unit"):
            return str(pixel["unit"])
    return "nm"


def _level(
    path: str, level: Mapping[str, Any], group: Mapping[str, Any], number: int, axes: tuple[str, ...]
) -> OmeLevel:
    name = path.rpartition("/")[2]
    if "transform" in level:
        transform = level["transform"]
        named = [str(axis).lower() for axis in transform["axes"]]
        scale, shift = transform["scale"], transform.get("translate") or [0.0] * len(named)
        factors = _in_nm(transform.get("units"), named)
        return OmeLevel(name, _pick(scale, named, factors), _pick(shift, named, factors))
    own, of_group = _resolution(level, axes), _resolution(group, axes)
    fine = own or of_group
    factor = _factor(level, axes)
    if factor is None and own is None:
        factor = _factor_of_group(group, number, axes)
        if factor is None:
            raise ValueError(f"{name} states neither resolution nor downsamplingFactors")
    step = factor or (1.0, 1.0, 1.0)
    corner = level.get("offset", group.get("offset")) or [0.0] * len(axes)
    if fine is None:
        sz, sy, sx = ((f - 1) / 2 / f for f in step)  # in voxels of the level
        return OmeLevel(name, None, (sz, sy, sx))
    first = _pick(corner, axes, _in_nm(level.get("units") or group.get("units"), axes))
    # The centre of f voxels is (f - 1) / 2 voxels beyond the centre of the first; a level's own resolution is its own.
    z, y, x = (o + (f - 1) / 2 * v for o, f, v in zip(first, step, fine, strict=True))
    sz, sy, sx = (f * v for f, v in zip(step, fine, strict=True))
    if factor is None and of_group is not None and number:
        z, y, x = (o + (v - g) / 2 for o, v, g in zip(first, fine, of_group, strict=True))
    return OmeLevel(name, (sz, sy, sx), (z, y, x))


def _resolution(holder: Mapping[str, Any], axes: Sequence[str]) -> Nanometres | None:
    """Nm along z, y, x."""
    pixel = holder.get("pixelResolution")
    if isinstance(pixel, Mapping):
        return _pick(pixel["dimensions"], axes, _in_nm([pixel.get("unit", "nm")] * len(axes), axes))
    stated = pixel or holder.get("resolution")
    return None if stated is None else _pick(stated, axes, _in_nm(holder.get("units"), axes))


def _factor(holder: Mapping[str, Any], axes: Sequence[str]) -> Nanometres | None:
    stated = holder.get("downsamplingFactors")
    if stated is None:
        return None
    values = stated if isinstance(stated, Sequence) else [stated] * len(axes)
    return _pick(values, axes, [1.0] * len(axes))


def _factor_of_group(group: Mapping[str, Any], number: int, axes: Sequence[str]) -> Nanometres | None:
    stated = group.get("downsamplingFactors") or group.get("scales")
    if stated is not None:
        return _pick(stated[number], axes, [1.0] * len(axes))
    return (1.0, 1.0, 1.0) if number == 0 else None


def _in_nm(units: Sequence[str] | None, axes: Sequence[str]) -> list[float]:
    """Nm per unit of each axis; where nothing is said, the field means nm."""
    if not units:
        return [1.0] * len(axes)
    factors = []
    for axis, unit in zip(axes, units, strict=False):
        known = NM_PER_UNIT.get(str(unit).lower())
        if known is None and axis in "zyx":
            raise ValueError(f"unit {unit!r} of axis {axis}")
        factors.append(known or 1.0)
    return factors


def _pick(values: Sequence[Any], axes: Sequence[str], factors: Sequence[float]) -> Nanometres:
    """Values along z, y, x; of x, y, z alone where there are more axes than values."""
    at = [list(axes).index(axis) for axis in "zyx"]
    z, y, x = (float(values[i]) * factors[i] for i in at)
    return z, y, x
