"""Face images in folders, one for each identity: ORL, cropped Extended Yale B, LFW, or one's own.

    FOLDER/IDENTITY/anything.png (.pgm, .jpg, .jpeg, .bmp, .tif)

Identities and images are taken in natural order (s2 before s10). Names in the manner of Extended Yale B
(``..._P00A+035E-20.png``) say from where the light came.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from synbb.datasets.ordering import natural
from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Sequence

ENDINGS = frozenset({".png", ".pgm", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_LIGHT = re.compile(r"A([+-]\d{3})E([+-]\d{2})")

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class FaceImage:
    """One image and who it shows."""

    path: Path
    identity: str


def list_faces(folder: str | Path) -> list[FaceImage]:
    """All images below ``folder``, by identity, both in natural order.

    Raises:
        SynbbError: no such folder, or no image in a folder of an identity.
    """
    where = Path(folder)
    if not where.is_dir():
        raise SynbbError(f"{where}: no such folder; give one that holds a folder of images for each identity")
    found = [
        FaceImage(path, each.name)
        for each in natural(where.iterdir())
        if each.is_dir()
        for path in natural(each.iterdir())
        if path.suffix.lower() in ENDINGS
    ]
    if not found:
        raise SynbbError(
            f"{where}: no image ({', '.join(sorted(ENDINGS))}) in a folder of its own below it; expected "
            "IDENTITY/IMAGE.png"
        )
    return found


def select(
    faces: Sequence[FaceImage],
    *,
    identities: tuple[int, int] | None = None,
    images: tuple[int, int] | None = None,
    light: tuple[float, float] | None = None,
    exclude: Sequence[str] = (),
) -> list[FaceImage]:
    """Part of the images of a folder.

    Args:
        faces: as :func:`list_faces` gave them.
        identities: first and one past the last, counted from 0.
        images: likewise, of each identity, among those that ``light`` and ``exclude`` leave.
        light: degrees between light and camera axis, above the first (0 itself included) and up to the second.
        exclude: patterns of file names.

    Raises:
        SynbbError: ``light`` is given and a name says nothing of it.
    """
    kept = [face for face in faces if not any(fnmatchcase(face.path.name, pattern) for pattern in exclude)]
    if identities is not None:
        wanted = set(_names(faces)[slice(*identities)])
        kept = [face for face in kept if face.identity in wanted]
    if light is not None:
        low, high = light
        kept = [face for face in kept if (low < _angle(face) or low == 0) and _angle(face) <= high]
    if images is not None:
        place: dict[str, int] = {}
        chosen = []
        for face in kept:
            number = place[face.identity] = place.get(face.identity, -1) + 1
            if images[0] <= number < images[1]:
                chosen.append(face)
        kept = chosen
    return kept


def _names(faces: Sequence[FaceImage]) -> list[str]:
    return list(dict.fromkeys(face.identity for face in faces))


def _angle(face: FaceImage) -> float:
    angle = light_angle(face.path.name)
    if angle is None:
        raise SynbbError(
            f"{face.path}: its name does not say where the light came from (...A+035E-20... in degrees); leave out "
            "`light`, or exclude the file"
        )
    return angle


def light_angle(name: str) -> float | None:
    """Degrees between the light and the camera's axis, from a name in the manner of Extended Yale B.

    arccos(cos A cos E) of azimuth A and elevation E; subsets 1 to 5 of the literature end at 12, 25, 51.2, 77 and 180.
    """
    found = _LIGHT.search(name)
    if found is None:
        return None
    azimuth, elevation = (math.radians(int(part)) for part in found.groups())
    cosine = math.cos(azimuth) * math.cos(elevation)
    return round(math.degrees(math.acos(min(1.0, max(-1.0, cosine)))), 6)  # 25 degrees are 25, not a hair more


def read_grey(path: Path, size: tuple[int, int]) -> Grey:
    """An image as 8-bit grey values of ``size`` (y, x); another size is resampled (Lanczos, antialiased).

    Raises:
        SynbbError: the file is no image, or damaged.
    """
    try:
        with Image.open(path) as image:
            grey = image.convert("L")
            if grey.size != (size[1], size[0]):
                grey = grey.resize((size[1], size[0]), Image.Resampling.LANCZOS)
            return np.asarray(grey, dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise SynbbError(f"{path} cannot be decoded as an image ({error}); replace or remove it") from None


def read_pairs(file: str | Path, faces: Sequence[FaceImage]) -> list[tuple[int, int]]:
    """Pairs of images from a file in the layout of LFW's ``pairs.txt``.

    ``name i j`` are images i and j of one identity, ``name i other j`` of two; images are counted from 1 as in their
    names (``name_0001.jpg``), or in natural order where names hold no such number. LFW's first
    line, numbers alone, is passed over.

    Args:
        file: the list.
        faces: the images it speaks of.

    Returns:
        Positions in ``faces``.

    Raises:
        SynbbError: no such file, a line that is no pair, or an image that is not there.
    """
    path = Path(file)
    if not path.is_file():
        raise SynbbError(f"pairs {path}: no such file; it lists pairs as LFW's pairs.txt does")
    by_number: dict[tuple[str, int], int] = {}
    count: dict[str, int] = {}
    for position, face in enumerate(faces):
        count[face.identity] = count.get(face.identity, 0) + 1
        stated = re.search(r"_(\d+)$", face.path.stem)
        by_number[face.identity, int(stated.group(1)) if stated else count[face.identity]] = position
    pairs = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = line.split("\t") if "\t" in line else line.split()
        if not parts or (number == 1 and all(part.isdigit() for part in parts)):
            continue  # LFW begins with the number of folds and pairs
        match parts:
            case [name, one, other]:
                ends = [(name, one), (name, other)]
            case [name, one, second, other]:
                ends = [(name, one), (second, other)]
            case _:
                raise SynbbError(f"{path}, line {number}: {line!r} is neither `name i j` nor `name i other j`")
        pairs.append((_position(by_number, ends[0], path, number), _position(by_number, ends[1], path, number)))
    if not pairs:
        raise SynbbError(f"pairs {path}: holds no pair")
    return pairs


def _position(known: dict[tuple[str, int], int], end: tuple[str, str], path: Path, line: int) -> int:
    name, text = end
    if not text.isdigit():
        raise SynbbError(f"{path}, line {line}: {text!r} is no number of an image of {name}")
    if (name, int(text)) not in known:
        raise SynbbError(f"{path}, line {line}: there is no image {int(text)} of {name!r} in the images of the split")
    return known[name, int(text)]
