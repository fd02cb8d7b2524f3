"""Face images in folders, one for each identity: ORL, cropped Extended Yale B, LFW, or one's own.

    FOLDER/IDENTITY/anything.png (.pgm, .jpg, .jpeg, .bmp, .tif)

Identities and images are taken in natural order (s2 before s10). Names in the manner of Extended Yale B
(``..._P00A+035E-20.png``) say from where the light came.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from synbb.datasets.ordering import natural
from synbb.errors import SynbbError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ENDINGS = frozenset({".png", ".pgm", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_LIGHT = re.compile(r"A([+-]\d{3})E([+-]\d{2})")

ORIENTATION = 0x0112  # of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of an orientation upright.

``ImageOps.exif_transpose`` writes all other tags anew besides, and fails where one of them is damaged.
"""
UNDECODABLE = (UnidentifiedImageError, Image.DecompressionBombError, struct.error)

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class FaceImage:
    """One image and who it shows."""

    path: Path
    identity: str


def list_faces(folder: str | Path) -> list[FaceImage]:
    """All images below ``folder``, by identity, both in natural order. Hidden ones are passed over.

    Raises:
        SynbbError: no such folder, or no image in a folder of an identity.
    """
    where = Path(folder)
    if not where.is_dir():
        raise SynbbError(f"{where}: no such folder; give one that holds a folder of images for each identity")
    found = _in_folders(where)
    if not found:
        raise SynbbError(
            f"{where}: no image ({', '.join(sorted(ENDINGS))}) in a folder of its own below it; expected "
            "IDENTITY/IMAGE.png"
        )
    return found


def _in_folders(where: Path) -> list[FaceImage]:
    return [
        FaceImage(path, each.name)
        for each in natural(where.iterdir())
        if each.is_dir() and not each.name.startswith(".")
        for path in natural(each.iterdir())
        if _is_image(path)
    ]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def list_images(source: Path) -> list[Path]:
    """Images of a folder, then those of the folders of identities in it, in natural order; a file is itself.

    Raises:
        SynbbError: there is no such thing, or no image.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise SynbbError(f"{source}: no such file or folder of images")
    direct = [path for path in natural(source.iterdir()) if _is_image(path)]
    found = direct + [face.path for face in _in_folders(source)]
    if not found:
        raise SynbbError(f"{source}: no image ({', '.join(sorted(ENDINGS))}) in it or in a folder in it")
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

    Values of more than 8 bits are scaled to 8, see :func:`_to_8_bits`; what EXIF says of a camera's side up is heeded.

    Raises:
        SynbbError: the file is no image, or damaged, larger than Pillow opens, or holds values that are no grey.
    """
    try:
        with Image.open(path) as image:
            deep = image.mode == "F" or image.mode.startswith("I")
            turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
            turned = image if turn is None else image.transpose(turn)
            grey = Image.fromarray(_to_8_bits(np.asarray(turned))) if deep else turned.convert("L")
            if grey.size != (size[1], size[0]):
                grey = grey.resize((size[1], size[0]), Image.Resampling.LANCZOS)
            return np.asarray(grey, dtype=np.uint8)
    except (*UNDECODABLE, OSError, SyntaxError, ValueError) as error:
        raise SynbbError(f"{path} cannot be decoded as an image ({error}); replace or remove it") from None


def _to_8_bits(values: NDArray[Any]) -> Grey:
    """Deeper grey values as 8 bits: 0 to 1 for floats of that range, else by the fewest bits that hold the largest.

    A camera of 12 bits in a file of 16 so keeps its range. Pillow's own conversion cuts everything off at 255.

    Raises:
        ValueError: a value is negative or not finite.
    """
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("it holds negative values, or such that are no numbers")
    largest = float(values.max())
    if values.dtype.kind == "f" and largest <= 1:
        return np.asarray(np.round(values * 255), np.uint8)
    bits = max(8, math.ceil(math.log2(largest + 1)))
    return np.asarray(np.floor(values / 2.0 ** (bits - 8)), np.uint8)


def read_pairs(file: str | Path, faces: Sequence[FaceImage]) -> list[tuple[int, int]]:
    """Pairs of images from a file in the layout of LFW's ``pairs.txt``.

    ``name i j`` are images i and j of one identity, ``name i other j`` of two. The number of an image is that in its
    name (``name_0001.jpg``, ``1.pgm``); where not all names of an identity hold one, it is the place among all images
    of its folder in natural order, from 1, whichever of them are in ``faces``. LFW's first line, of one or two numbers,
    is passed over.

    Args:
        file: the list, UTF-8.
        faces: the images it speaks of.

    Returns:
        Positions in ``faces``.

    Raises:
        SynbbError: no such file, a line that is no pair, an image that is not there, or two of one number.
    """
    path = Path(file)
    if not path.is_file():
        raise SynbbError(f"pairs {path}: no such file; it lists pairs as LFW's pairs.txt does")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SynbbError(f"pairs {path}: is not UTF-8 ({error.reason} at byte {error.start}); convert it") from None
    by_number = _numbered(faces, path)
    pairs = []
    for number, line in enumerate(lines, start=1):
        parts = line.split("\t") if "\t" in line else line.split()
        if not parts or (number == 1 and len(parts) <= 2 and all(part.isdecimal() for part in parts)):
            continue  # LFW begins with the number of folds and pairs
        match parts:
            case [name, one, other]:
                ends = [(name, one), (name, other)]
            case [name, one, second, other]:
                ends = [(name, one), (second, other)]
            case _:
                raise SynbbError(f"{path}, line {number}: {line!r} is neither `name i j` nor `name i other j`")
        first, second_one = (_position(by_number, end, path, number) for end in ends)
        if first == second_one:
            raise SynbbError(f"{path}, line {number}: {line!r} pairs an image with itself; remove the line")
        pairs.append((first, second_one))
    if not pairs:
        raise SynbbError(f"pairs {path}: holds no pair")
    return pairs


def _numbered(faces: Sequence[FaceImage], pairs: Path) -> dict[tuple[str, int], int]:
    """Positions of images by identity and number.

    Raises:
        SynbbError: two images of an identity have one number.
    """
    positions: dict[str, list[int]] = {}
    for position, face in enumerate(faces):
        positions.setdefault(face.identity, []).append(position)
    found: dict[tuple[str, int], int] = {}
    for identity, own in positions.items():
        stated = [re.search(r"(?:^|_)(\d+)$", faces[position].path.stem) for position in own]
        places = {} if all(stated) else _places(faces[position].path for position in own)
        for position, match in zip(own, stated, strict=True):
            number = int(match[1]) if match and not places else places[faces[position].path]
            if (identity, number) in found:
                one, other = faces[found[identity, number]].path, faces[position].path
                raise SynbbError(
                    f"pairs {pairs}: {one} and {other} are both image {number} of {identity!r}; rename or leave out one"
                )
            found[identity, number] = position
    return found


def _places(images: Iterable[Path]) -> dict[Path, int]:
    """Numbers from 1 of all images in each of their folders: what is chosen of them does not change a number."""
    folders = {image.parent for image in images}
    stored = [[path for path in natural(folder.iterdir()) if _is_image(path)] for folder in folders]
    return {path: number for paths in stored for number, path in enumerate(paths, start=1)}


def _position(known: dict[tuple[str, int], int], end: tuple[str, str], path: Path, line: int) -> int:
    name, text = end
    if not text.isdecimal():
        raise SynbbError(f"{path}, line {line}: {text!r} is no number of an image of {name}")
    if (name, int(text)) not in known:
        raise SynbbError(f"{path}, line {line}: there is no image {int(text)} of {name!r} in the images of the split")
    return known[name, int(text)]
