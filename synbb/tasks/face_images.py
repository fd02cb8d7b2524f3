"""The images of a face task: which ones, how they are read, and how a training image is changed at random."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from monai.data import set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandAffine,
    RandBiasField,
    RandCoarseDropout,
    RandFlip,
    RandGaussianNoise,
)
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from synbb.datasets.face_folders import FaceImage, Grey, list_faces, read_grey, read_pairs, select
from synbb.errors import SynbbError
from synbb.schema import Settings
from synbb.tasks.face_light import Evening, evened, shadowed
from synbb.tasks.splits import SHOWN, check_named_once, counted, left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

set_track_meta(False)  # as for volumes: images carry no affine

PositiveInt = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[Annotated[int, Field(ge=0)], PositiveInt]

Split = Literal["train", "validation", "test"]
Several = Literal["split", "folder"]


class FaceFolder(Settings):
    """Images of one folder that belong to one split.

    Attributes:
        folder: holds a folder of images for each identity.
        split: what they serve for.
        identities: first and one past the last, in natural order of the names; all by default.
        images: likewise, of each identity, among those that ``light`` and ``exclude`` leave.
        light: degrees between light and camera axis, above the first and up to the second; needs names as in
            Extended Yale B.
        exclude: patterns of file names to leave out.
        prefix: put before the names of its identities. A name stands for one person in all folders; folders that call
            different people by the same name need prefixes.
    """

    folder: str
    split: Split
    identities: Range | None = None
    images: Range | None = None
    light: tuple[float, float] | None = None
    exclude: tuple[str, ...] = ()
    prefix: str | None = None

    def faces(self) -> list[FaceImage]:
        """Its images.

        Raises:
            SynbbError: there is no image, or none that is chosen.
        """
        found = select(
            list_faces(self.folder),
            identities=self.identities,
            images=self.images,
            light=self.light,
            exclude=self.exclude,
        )
        if not found:
            raise SynbbError(
                f"data.images: no image of {self.folder} is left for split {self.split}: look at identities, images, "
                "light and exclude"
            )
        return [FaceImage(face.path, f"{self.prefix or ''}{face.identity}") for face in found]


class FaceAugmentation(Settings):
    """Probabilities of each change of a training image, and how far it goes; 0 switches one off.

    Attributes:
        flip: left and right exchanged.
        move: a turn, a shift and a change of scale together.
        turn: largest angle, degrees.
        shift: largest, as a share of each side.
        zoom: largest relative change of scale.
        contrast: gamma between 0.6 and 1.6.
        light: a smooth field over the image, as uneven light gives.
        noise: grain.
        cover: a rectangle of up to a quarter of each side is hidden.
        shadow: a shadow over one side, as light from there casts, in the image as stored: before its light is evened.
    """

    flip: Probability = 0.5
    move: Probability = 0.8
    turn: Annotated[float, Field(ge=0)] = 8.0
    shift: Probability = 0.06
    zoom: Probability = 0.08
    contrast: Probability = 0.3
    light: Probability = 0.3
    noise: Probability = 0.2
    cover: Probability = 0.2
    shadow: Probability = 0.0


def face_augmentation(settings: FaceAugmentation, size: tuple[int, int]) -> Compose:
    """MONAI transforms of images (1, y, x) of 0 to 1."""
    shift = [settings.shift * n for n in size]
    return Compose(
        [
            RandFlip(prob=settings.flip, spatial_axis=1),
            RandAffine(
                prob=settings.move,
                rotate_range=np.deg2rad(settings.turn),
                translate_range=shift,
                scale_range=[settings.zoom, settings.zoom],
                padding_mode="border",
            ),
            RandAdjustContrast(prob=settings.contrast, gamma=(0.6, 1.6)),
            RandBiasField(degree=2, coeff_range=(-0.4, 0.4), prob=settings.light),
            RandGaussianNoise(prob=settings.noise, std=0.03),
            RandCoarseDropout(
                holes=1,
                spatial_size=[max(n // 8, 1) for n in size],
                max_spatial_size=[max(n // 4, 1) for n in size],
                prob=settings.cover,
            ),
        ]
    )


@dataclass(frozen=True)
class Chosen:
    """The images of a split.

    Attributes:
        faces: in order.
        sources: number of the folder that each comes from: impostor pairs are made within one.
        skipped: files that could not be used, with the reason.
    """

    faces: tuple[FaceImage, ...]
    sources: NDArray[np.int64]
    skipped: tuple[str, ...] = ()

    @property
    def identities(self) -> list[str]:
        """Names, sorted."""
        return sorted({face.identity for face in self.faces})

    def owners(self) -> NDArray[np.int64]:
        """Number of each image's identity among the sorted names."""
        number = {name: place for place, name in enumerate(self.identities)}
        return np.array([number[face.identity] for face in self.faces], np.int64)


class FaceReader:
    """Reads images as the network takes them, and keeps what fits into memory.

    Args:
        size: y, x.
        evening: what is done against uneven light first.
        cache_bytes: of decoded images that are kept.
    """

    def __init__(self, size: tuple[int, int], *, evening: Evening = "none", cache_bytes: int) -> None:
        self.size, self._evening, self._room = size, evening, cache_bytes
        self._kept: dict[tuple[str, Path], Grey] = {}
        self._lock = threading.Lock()

    def grey(self, path: Path) -> Grey:
        """8-bit grey values (y, x), their light evened.

        Raises:
            SynbbError: the file does not decode.
        """
        if self._evening == "none":
            return self._stored(path)
        return self._held(("evened", path), lambda: evened(read_grey(path, self.size), self._evening))

    def image(self, path: Path, shadow: int | None = None) -> Tensor:
        """(1, y, x) of 0 to 1.

        Args:
            path: of the file.
            shadow: seed of a shadow that falls over the image as stored, before its light is evened.
        """
        grey = self.grey(path) if shadow is None else evened(shadowed(self._stored(path), shadow), self._evening)
        return torch.from_numpy(grey.astype(np.float32) / 255)[None]

    def _stored(self, path: Path) -> Grey:
        return self._held(("stored", path), lambda: read_grey(path, self.size))

    def _held(self, key: tuple[str, Path], make: Callable[[], Grey]) -> Grey:
        """What ``make`` gives, kept while there is room."""
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        values = make()
        with self._lock:
            if key not in self._kept and values.nbytes <= self._room:
                self._room -= values.nbytes
                self._kept[key] = values
        return values


def standardised(image: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 of each image by itself; one of a single grey becomes 0."""
    return (image - image.mean()) / image.std().clamp(min=1e-3)


def choose(
    folders: Sequence[FaceFolder],
    split: str,
    reader: FaceReader,
    *,
    skip_bad: bool,
    several: Several | None,
    decode: bool = True,
) -> Chosen:
    """The images of a split.

    Args:
        folders: all of a task.
        split: whose images are wanted.
        reader: reads them.
        skip_bad: leave out images that do not decode and identities with one image, instead of refusing them.
        several: where an identity needs two images: in the split to be learnt, in one folder to make a genuine pair;
            nowhere when None.
        decode: whether each image is decoded once, to see that it can be.

    Raises:
        SynbbError: nothing is left, an image does not decode or is named twice, or an identity has one image; the file
            is named.
    """
    faces: list[FaceImage] = []
    sources: list[int] = []
    skipped: list[str] = []
    there = dict.fromkeys(Path(entry.folder).resolve() for entry in folders)  # one however it is written
    places = {folder: place for place, folder in enumerate(there)}
    named = [(Path(entry.folder).resolve(), entry.faces()) for entry in folders if entry.split == split]
    check_named_once("data.images", split, (face.path for _, found in named for face in found))
    for folder, found in named:
        read = [face for face in found if not decode or _reads(reader, face.path, skipped if skip_bad else None)]
        faces += read
        sources += [places[folder]] * len(read)
    if several is not None:
        faces, sources = _without_lonely(faces, sources, several, skipped if skip_bad else None)
    if any(entry.split == split for entry in folders) and not faces:
        raise SynbbError(f"data.images: none of the {len(skipped)} images of split {split} can be used: {skipped[0]}")
    return Chosen(tuple(faces), np.array(sources, np.int64), tuple(skipped))


def _reads(reader: FaceReader, path: Path, skipped: list[str] | None) -> bool:
    try:
        reader.grey(path)
    except SynbbError as error:
        if skipped is None:
            raise SynbbError(f"{error}, or pass data.on_bad=skip") from None
        skipped.append(str(error))
        return False
    return True


def _without_lonely(
    faces: list[FaceImage], sources: list[int], several: Several, skipped: list[str] | None
) -> tuple[list[FaceImage], list[int]]:
    """Identities with two images and more, in the split or in a folder."""
    where, use = ("", "teaches no identity") if several == "split" else (" in its folder", "makes no pair")
    owners = [(face.identity, 0 if several == "split" else source) for face, source in zip(faces, sources, strict=True)]
    count = Counter(owners)
    lonely = [face for face, owner in zip(faces, owners, strict=True) if count[owner] == 1]
    if lonely and skipped is None:
        others = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
        raise SynbbError(
            f"{lonely[0].path} is the only image of {lonely[0].identity}{where}{others}: it {use}; add images, leave "
            "it out, or pass data.on_bad=skip"
        )
    if skipped is not None:
        skipped += [f"{face.path} is the only image of {face.identity}{where}" for face in lonely]
    kept = [place for place, owner in enumerate(owners) if count[owner] > 1]
    return [faces[place] for place in kept], [sources[place] for place in kept]


def listed_pairs(file: str, named: Chosen, chosen: Chosen) -> tuple[NDArray[np.int64], list[str]]:
    """Pairs of test images from a list, shape (pairs, 2), and a line that counts those of images that were left out.

    Args:
        file: in the layout of LFW's pairs.txt.
        named: the images that it speaks of.
        chosen: those that can be used, which the numbers returned are of.

    Raises:
        SynbbError: the list does not fit the images, or none of its pairs can be used.
    """
    places = {face.path: place for place, face in enumerate(chosen.faces)}
    ends = [(named.faces[one].path, named.faces[other].path) for one, other in read_pairs(file, named.faces)]
    pairs = [(places[one], places[other]) for one, other in ends if one in places and other in places]
    if not pairs:
        raise SynbbError(f"data.pairs: each of the {len(ends)} pairs of {file} names an image that was left out")
    lost = len(ends) - len(pairs)
    return np.array(pairs, np.int64), [f"test: {counted(lost, 'pair')} of images left out, too"] if lost else []


def told(split: str, chosen: Chosen) -> list[str]:
    """Lines for a person: how many images, what was left out, and who stands in several folders."""
    found = f"{split}: {counted(len(chosen.faces), 'image')} of {len(chosen.identities)} identities"
    return [found, *left_out(split, "image", chosen.skipped), *_in_several_folders(split, chosen)]


def _in_several_folders(split: str, chosen: Chosen) -> list[str]:
    """A line that names the people whom a split has from more than one folder, as they may be different ones."""
    sources: dict[str, set[int]] = {}
    for face, source in zip(chosen.faces, chosen.sources.tolist(), strict=True):
        sources.setdefault(face.identity, set()).add(source)
    several = [name for name, among in sources.items() if len(among) > 1]
    if not several:
        return []
    named = ", ".join(several[:SHOWN]) + (", ..." if len(several) > SHOWN else "")
    said = f"{split}: {counted(len(several), 'name')} in several folders, each taken for one person ({named})"
    return [f"{said}; give a folder a `prefix` where they are different people"]


def changed(chain: Any, image: Tensor, seed: int) -> Tensor:
    """``image`` (1, y, x) after the random changes of ``chain``, a function of ``seed``."""
    chain.set_random_state(seed=seed)
    result: Tensor = torch.as_tensor(chain(image))
    return result.clamp(0, 1)
