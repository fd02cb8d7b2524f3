"""Phantom faces: drawings of people that the project makes itself, for tests and first runs without any download.

An identity is the shape of a face (outline, eyes, brows, nose, mouth, hair, shade of the skin); an image of it adds a
small turn and shift, the direction of the light, an expression and noise. Everything is a function of the seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synbb.datasets.face_folders import list_faces, read_grey
from synbb.datasets.phantom_kinds import PhantomKind
from synbb.errors import SynbbError
from synbb.schema import nearest

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FacePhantom:
    """What is drawn.

    Attributes:
        identities: number of people.
        images: of each.
        size: y, x of an image, pixels.
        seed: of everything.
        noise: standard deviation of the grain, of 0 to 1.
        light: how unevenly the light falls, 0 for from the front alone.
    """

    identities: int = 20
    images: int = 10
    size: tuple[int, int] = (48, 40)
    seed: int = 0
    noise: float = 0.04
    light: float = 0.5

    def __post_init__(self) -> None:
        if min(self.identities, self.images) < 1 or min(self.size) < 16:
            raise SynbbError(
                f"phantom faces: {self.identities} identities, {self.images} images of {self.size} pixels: at least "
                "1, 1 and 16 x 16 are needed"
            )
        for name in ("seed", "noise", "light"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise SynbbError(f"phantom faces: {name} = {value} must be a number of at least 0")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FacePhantom:
        """From plain values, as they stand in the manifest.

        Raises:
            SynbbError: an unknown key, or values that make no face.
        """
        known = [each.name for each in fields(cls)]
        for key in values:
            if key not in known:
                raise SynbbError(f"phantom faces: unknown key {key!r}{nearest(key, known)}")
        plain: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in values.items()}
        return cls(**plain)


FACES = PhantomKind(
    "phantom faces",
    lambda spec: asdict(spec) | {"size": list(spec.size)},
    FacePhantom.from_dict,
    lambda spec: [image_path(Path(), *which).as_posix() for which in _each(spec)],
)


def write_phantom_faces(folder: str | Path, spec: FacePhantom, *, overwrite: bool = False) -> Path:
    """Write ``pNN/MM.png`` for every identity and image, and ``phantom.yaml`` (the spec).

    Args:
        folder: to create.
        spec: what is drawn.
        overwrite: replace a phantom that is there.

    Raises:
        SynbbError: the folder is there and may not be replaced.
        RunEnded: the disk is full.
    """
    where = Path(folder)
    with FACES.folder(where, overwrite=overwrite) as stage:
        for person, number in _each(spec):
            path = image_path(stage, person, number)
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(draw_face(spec, person, number)).save(path)
        FACES.write(stage, spec)
    return where


def verify_phantom_faces(folder: Path, spec: FacePhantom) -> int:
    """Draw every image anew and compare; returns how many.

    Raises:
        SynbbError: it is another phantom, or an image is missing, differs or is one too many.
    """
    FACES.check(folder, spec)
    remedy = f"remove {folder} and make it anew"
    expected = {image_path(folder, *which): which for which in _each(spec)}
    for path, which in expected.items():
        if not path.is_file():
            raise SynbbError(f"{path}: missing; {remedy}")
        if not np.array_equal(read_grey(path, spec.size), draw_face(spec, *which)):
            raise SynbbError(f"{path}: differs from what its spec gives; {remedy}")
    for face in list_faces(folder):
        if face.path not in expected:
            raise SynbbError(f"{face.path}: no image of the dataset; move it elsewhere")
    return len(expected)


def _each(spec: FacePhantom) -> list[tuple[int, int]]:
    return [(person, number) for person in range(spec.identities) for number in range(spec.images)]


def image_path(folder: Path, person: int, number: int) -> Path:
    """Where an image lies."""
    return folder / f"p{person + 1:02d}" / f"{number + 1:02d}.png"


def draw_face(spec: FacePhantom, person: int, number: int) -> NDArray[np.uint8]:
    """One image, uint8 (y, x)."""
    who = np.random.default_rng([spec.seed, person]).uniform(-1, 1, 15)
    how = np.random.default_rng([spec.seed, person, number])
    turn, dy, dx = how.normal(0, 0.06), how.normal(0, 0.02), how.normal(0, 0.03)
    shade, smile, blink = how.uniform(0.1, 0.5), how.normal(0, 0.4), how.uniform(0.6, 1.1)
    angle, strength = how.uniform(0, 2 * np.pi), spec.light * how.uniform(0, 1)
    height, width = spec.size
    y, x = np.meshgrid(np.linspace(-1.2, 1.2, height), np.linspace(-1, 1, width), indexing="ij")
    y, x = y - dy * 2, x - dx * 2
    y, x = y * np.cos(turn) - x * np.sin(turn), y * np.sin(turn) + x * np.cos(turn)
    soft = 2.4 / height  # of edges: about a pixel
    grey = np.full(spec.size, shade)
    skin = 0.62 + 0.12 * who[0]
    wide, tall = 0.66 + 0.1 * who[1], 0.92 + 0.08 * who[2]
    jaw = x * (1 + (0.16 + 0.14 * who[3]) * np.clip(y, 0, None))
    grey = _over(grey, _inside(np.hypot(jaw / wide, y / tall), soft), skin)
    hairline = -0.55 + 0.14 * who[4] + 0.12 * who[5] * np.cos(3 * x)
    crown = _inside(np.hypot(x / (wide * 1.08), y / (tall * 1.06)), soft)
    grey = _over(grey, crown * _inside(1 + (y - hairline), soft), 0.16 + 0.14 * who[6])
    apart, eye_y, eye = 0.27 + 0.05 * who[7], -0.16 + 0.06 * who[8], 0.1 + 0.025 * who[9]
    for side in (-1, 1):
        at = np.hypot((x - side * apart) / (1.5 * eye), (y - eye_y) / (0.8 * eye * blink))
        grey = _over(grey, _inside(at, soft / eye), 0.9)
        grey = _over(grey, _inside(np.hypot(x - side * apart, y - eye_y) / (0.6 * eye), soft / eye), 0.1)
        brow = np.abs(y - (eye_y - 0.17 - 0.03 * who[10]) - 0.35 * who[11] * (side * x - apart)) / (
            0.03 + 0.01 * who[6]
        )
        near = _inside(np.abs(x - side * apart) / 0.17, soft / 0.17)
        grey = _over(grey, near * _inside(brow, soft / 0.03), 0.2 + 0.1 * who[6])
    nose = np.hypot(x / (0.07 + 0.025 * who[12]), (y - 0.12) / (0.22 + 0.05 * who[13]))
    grey = _over(grey, 0.5 * _inside(nose, soft / 0.07), skin - 0.16)
    mouth_y, mouth = 0.5 + 0.06 * who[14], 0.22 + 0.06 * who[9]
    lips = np.abs(y - mouth_y + 0.25 * smile * (x**2 - mouth**2 / 2)) / 0.045
    grey = _over(grey, _inside(np.abs(x) / mouth, soft / mouth) * _inside(lips, soft / 0.045), 0.3 + 0.1 * who[13])
    grey = grey * (1 + strength * (np.cos(angle) * x + np.sin(angle) * y))
    grey = grey + how.normal(0, spec.noise, spec.size)
    drawn: NDArray[np.uint8] = np.clip(np.rint(255 * grey), 0, 255).astype(np.uint8)
    return drawn


def _inside(distance: Floats, soft: float) -> Floats:
    """1 where a distance is below 1, 0 beyond, with a soft edge."""
    return np.clip((1 - distance) / max(soft, 1e-6) + 0.5, 0, 1)


def _over(below: Floats, share: Floats, shade: float) -> Floats:
    return below * (1 - share) + shade * share
