"""Sections as images: a folder of TIFF or PNG files, or one TIFF file of many pages."""

from __future__ import annotations

import re
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image

from synbb.errors import SynbbError
from synbb.volumes.per_process import PerProcess
from synbb.volumes.storage import Voxels, plain_dtype, unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from synbb.volumes.box import Box, Triple

TIFF = (".tif", ".tiff")
PNG = (".png",)
SHOWN_GAPS = 5
SECTION_CACHE_BYTES = 2**28

_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class Section:
    """Where one section is stored: ``offset`` is set where its pixels lie uncompressed in one run of the file.

    ``white_zero`` says that its file calls 0 white.
    """

    file: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int | None = None
    page: int = 0
    white_zero: bool = False


class SectionCache:
    """The decoded sections used last, within a byte limit; forgotten when pickled."""

    def __init__(self, limit: int = SECTION_CACHE_BYTES) -> None:
        self._limit = limit
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._planes: OrderedDict[int, Voxels] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> int:
        return self._limit

    def __setstate__(self, limit: int) -> None:
        self._limit = limit
        self._begin()

    def get(self, index: int) -> Voxels | None:
        """The section, if it is still here."""
        with self._lock:
            plane = self._planes.get(index)
            if plane is not None:
                self._planes.move_to_end(index)
            return plane

    def put(self, index: int, plane: Voxels) -> None:
        """Keep a section, dropping the ones not used for longest."""
        if plane.nbytes > self._limit:
            return
        with self._lock:
            if index in self._planes:
                return
            self._planes[index] = plane
            self._bytes += plane.nbytes
            while self._bytes > self._limit:
                self._bytes -= self._planes.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class StackStorage:
    """Sections of one shape, in order; a chunk is a section."""

    path: str
    sections: tuple[Section, ...] = field(repr=False)
    dtype: np.dtype[Any]
    format: str
    cache: SectionCache = field(default_factory=SectionCache, repr=False, compare=False)
    pages: PerProcess[tifffile.TiffFile] | None = field(default=None, repr=False, compare=False)
    shards: Triple | None = None

    @property
    def shape(self) -> Triple:
        """Sections, rows, columns."""
        return (len(self.sections), *self.sections[0].shape)

    @property
    def chunks(self) -> Triple:
        """One section."""
        return (1, *self.sections[0].shape)

    def read(self, box: Box) -> Voxels:
        """The voxels of ``box``.

        Raises:
            SynbbError: a section's file is truncated or cannot be decoded; the message names it.
        """
        _, rows, columns = box.slices
        out = np.empty(box.shape, self.dtype)
        for place, index in enumerate(range(box.start[0], box.stop[0])):
            out[place] = self._plane(index)[rows, columns]
        return out

    def _plane(self, index: int) -> Voxels:
        section = self.sections[index]
        what = f"section {index}" + (f" ({Path(section.file).name})" if section.file != self.path else "")
        try:
            if section.offset is not None:
                return np.memmap(section.file, section.dtype, "r", section.offset, section.shape)
            plane = self.cache.get(index)
            if plane is None:
                plane = self._decode(section)
                self.cache.put(index, plane)
        except Exception as error:  # decoders raise whatever they like
            raise unreadable(self.path, what, error) from error
        if plane.shape != section.shape:
            raise unreadable(self.path, what, ValueError(f"it decodes to {plane.shape}, not {section.shape}"))
        return plane

    def _decode(self, section: Section) -> Voxels:
        if self.pages is not None:
            with self.pages.held() as tiff:  # threads would move each other's file position
                return _decode_page(tiff, section)
        if section.file.lower().endswith(TIFF):
            with tifffile.TiffFile(section.file) as tiff:
                return _decode_page(tiff, section)
        with _open_image(section.file) as image:
            return np.asarray(image)


def _open_image(file: str) -> Image.Image:
    # Pillow takes more than 179 megapixels for an attack; for a section that is an ordinary size.
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decode_page(tiff: tifffile.TiffFile, section: Section) -> Voxels:
    try:
        return np.asarray(tiff.pages[section.page].asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
    # tifffile leaves LZW and others to the package imagecodecs; Pillow brings most of them.
    with _open_image(section.file) as image:
        image.seek(section.page)
        return np.asarray(image)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``s2`` before ``s10``."""
    return [
        (0, int(part), part) if part.isdecimal() else (1, 0, part.lower()) for part in re.split(r"(\d+)", name) if part
    ]


def section_files(folder: Path) -> list[Path]:
    """The folder's image files in natural order (hidden files are none).

    Raises:
        SynbbError: there are both TIFF and PNG files.
    """
    files = [f for f in folder.iterdir() if f.suffix.lower() in TIFF + PNG and not f.name.startswith(".")]
    kinds = {f.suffix.lower() in TIFF for f in files}
    if len(kinds) > 1:
        raise SynbbError(f"{folder}: holds both TIFF and PNG files; keep one stack of sections in a folder")
    return sorted(files, key=lambda f: natural_key(f.name))


def open_folder(path: str) -> StackStorage:
    """A folder of sections, one image a file.

    Raises:
        SynbbError: a section that is no grey image or has a palette, cannot be read, or differs in shape or type from
            the first.
    """
    files = section_files(Path(path))
    _tell_gaps(path, files)
    sections = [_section_of(file) for file in files]
    first = sections[0]
    for section in sections[1:]:
        if section.shape != first.shape:
            raise SynbbError(
                f"{section.file}: {section.shape[0]} x {section.shape[1]} pixels, but the first section "
                f"{Path(first.file).name} has {first.shape[0]} x {first.shape[1]}; all sections must have one shape"
            )
        if plain_dtype(section.dtype, section.file) != plain_dtype(first.dtype, first.file):
            raise SynbbError(
                f"{section.file}: pixels of type {section.dtype}, but the first section {Path(first.file).name} has "
                f"{first.dtype}; all sections must have one type"
            )
    _tell_white_zero(path, sections)
    kind = "TIFF" if files[0].suffix.lower() in TIFF else "PNG"
    return StackStorage(path, tuple(sections), plain_dtype(first.dtype, path), f"{kind} sections")


def _tell_gaps(path: str, files: list[Path]) -> None:
    """Warn of numbers that are left out where files are numbered one by one: what comes after lies too high."""
    numbers = [int(found[-1]) for found in (re.findall(r"\d+", file.stem) for file in files) if found]
    steps = [after - before for before, after in pairwise(numbers)]
    if len(numbers) < len(files) or not steps or min(steps) < 1 or steps.count(1) <= len(steps) / 2:
        return
    gaps = [
        f"{step - 1} between {files[place].name} and {files[place + 1].name}"
        for place, step in enumerate(steps)
        if step > 1
    ]
    if gaps:
        more = f" and {len(gaps) - SHOWN_GAPS} more places" if len(gaps) > SHOWN_GAPS else ""
        warnings.warn(
            f"synbb: {path}: sections are missing by their numbers: {', '.join(gaps[:SHOWN_GAPS])}{more}. They are "
            "closed up, so what comes after lies higher than it was cut; put an empty (black) image in each place to "
            "keep z",
            stacklevel=2,
        )


def _tell_white_zero(path: str, sections: Sequence[Section]) -> None:
    """Warn of sections that viewers show with dark and bright exchanged: values are read as they are stored."""
    white = [section for section in sections if section.white_zero]
    if not white:
        return
    if len(white) == len(sections):
        which = "its sections call"
        remedy = "`invert` in a config and --invert exchange grey values, labels have to be converted"
    else:
        which = f"{len(white)} of {len(sections)} sections, {Path(white[0].file).name} the first, call"
        remedy = "convert them, so that all sections are alike"
    warnings.warn(
        f"synbb: {path}: {which} 0 white (TIFF's MinIsWhite); values are read as they are stored, dark and bright "
        f"exchanged against what viewers show; {remedy}",
        stacklevel=2,
    )


def _section_of(file: Path) -> Section:
    try:
        section = _tiff_section(file) if file.suffix.lower() in TIFF else _png_section(file)
    except SynbbError:
        raise
    except Exception as error:  # decoders raise whatever they like
        raise unreadable(str(file), "the section", error) from error
    return section


def _tiff_section(file: Path) -> Section:
    with tifffile.TiffFile(file) as tiff:
        if len(tiff.pages) > 1:
            raise SynbbError(
                f"{file}: holds {len(tiff.pages)} pages, but in a folder every file must be one section; "
                "open a TIFF file of many pages by its own path"
            )
        page = tiff.pages[0]
        _check_grey(file, page.shape)
        _check_no_palette(str(file), _page_palette(page))
        rows, columns = page.shape
        dtype = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
        run = page.is_contiguous and page.is_memmappable
        offset = page.dataoffsets[0] if run else None
        return Section(str(file), (rows, columns), dtype, offset, white_zero=_white_zero(page))


def _png_section(file: Path) -> Section:
    with _open_image(str(file)) as image:
        sample = np.asarray(Image.new(image.mode, (1, 1)))  # of the file itself, all would be decoded
        _check_grey(file, (image.height, image.width, *sample.shape[2:]))
        colours = image.getpalette("RGB") if image.mode == "P" else None
        _check_no_palette(str(file), None if colours is None else np.array(colours).reshape(-1, 3))
        return Section(str(file), (image.height, image.width), sample.dtype)


def _check_grey(file: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise SynbbError(
            f"{file}: an image of shape {shape} is no grey section (rows, columns); convert colours to grey"
        )


def _page_palette(page: Any) -> Voxels | None:
    """Colours (n, 3) of 8 bits that the values of a TIFF page stand for, None where they are grey values."""
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.colormap is None:
        return None
    return np.asarray(page.colormap).T >> 8


def _white_zero(page: Any) -> bool:
    return bool(page.photometric == tifffile.PHOTOMETRIC.MINISWHITE)


def _check_no_palette(file: str, palette: Voxels | None) -> None:
    """Refuse values that are places in a table of colours, unless each place holds the grey of its own number."""
    if palette is not None and (palette != np.arange(len(palette))[:, None]).any():
        raise SynbbError(
            f"{file}: its pixels are places in a palette of {len(palette)} colours, not grey values; convert the "
            "images to grey (8 or 16 bits without a palette)"
        )


def open_multipage(path: str) -> StackStorage:
    """One TIFF file of many pages.

    Raises:
        SynbbError: not one series of equal grey pages without a palette, or unreadable.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            sections = _page_sections(tiff, path)
    except SynbbError:
        raise
    except Exception as error:  # decoders raise whatever they like
        raise unreadable(path, "the TIFF file", error) from error
    _tell_white_zero(path, sections)
    return StackStorage(
        path,
        tuple(sections),
        plain_dtype(sections[0].dtype, path),
        "TIFF, many pages",
        pages=PerProcess(tifffile.TiffFile, path),
    )


def _page_sections(tiff: tifffile.TiffFile, path: str) -> list[Section]:
    series = tiff.series[0]
    if len(tiff.series) > 1:
        raise SynbbError(
            f"{path}: its {len(tiff.pages)} pages differ: the first {len(series.pages)} are {series.shape}, then "
            f"{tiff.series[1].shape}; all sections must have one shape and type"
        )
    plane = tuple(tiff.pages[0].shape)
    # Names of axes are often guessed or missing, so only the page's own shape is trusted.
    leading = [n for n in series.shape[:-2] if n > 1] if tuple(series.shape[-2:]) == plane else [len(tiff.pages)]
    if len(plane) != 2 or len(leading) > 1:
        raise SynbbError(
            f"{path}: axes {series.axes} of shape {tuple(series.shape)} are no volume; a TIFF file of grey sections "
            "(z, y, x) is read, or a folder of single sections"
        )
    _check_no_palette(path, _page_palette(tiff.pages[0]))
    depth, (rows, columns) = prod(leading), plane
    if depth == 1:
        raise SynbbError(f"{path}: a single page is one section; give the folder that holds all sections")
    dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    plane_bytes = rows * columns * dtype.itemsize
    if series.dataoffset is not None:
        offsets: list[int | None] = [series.dataoffset + z * plane_bytes for z in range(depth)]
    elif len(series.pages) == depth:
        offsets = [None] * depth
    else:
        raise SynbbError(f"{path}: {len(series.pages)} pages hold {depth} sections; write one section a page")
    white = _white_zero(tiff.pages[0])
    return [Section(path, (rows, columns), dtype, offset, z, white) for z, offset in enumerate(offsets)]
