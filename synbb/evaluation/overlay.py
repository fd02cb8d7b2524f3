"""Pictures of raw sections with what was found, missed and falsely found drawn on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from synbb.evaluation.labels import Mask, foreground_and_valid
from synbb.evaluation.window import reading_block
from synbb.volumes.box import Box, triple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from synbb.volumes.volume import Volume

Colour = tuple[int, int, int]

# Of the palette of Okabe and Ito (2008), told apart with every common colour vision, and in grey by their lightness.
FOUND: Colour = (86, 180, 233)
MISSED: Colour = (240, 228, 66)
FALSE: Colour = (235, 100, 10)
ANNOTATION: Colour = (255, 255, 255)

VIEW_PIXELS = 768  # largest side of a view, raw pixels
_WIDTH = 1120  # of the drawn picture
_MAX_SCALE = 6.0
_GAP = 10
_PAPER: Colour = (24, 26, 30)
COLOURS = (FOUND, MISSED, FALSE, ANNOTATION, _PAPER)
_TILES = 2**24


def choose_views(truth: Volume, box: Box, count: int = 3, size: int = VIEW_PIXELS) -> list[Box]:
    """Choose the sections, and the place in them, that show most of the truth's foreground.

    The box is cut into ``count`` slabs along z so that the views are spread; of each slab the section whose best
    ``size`` x ``size`` window holds most foreground is taken. Slabs without any are left out; without any foreground
    at all the middle of the box is shown. Reads the truth chunk by chunk.

    Args:
        truth: labels.
        box: where to look, voxels of ``truth``.
        count: largest number of views.
        size: largest side of a view in pixels.

    Returns:
        Boxes of one section each, in the order of z.
    """
    depth, height, width = box.shape
    tile = 32
    while depth * -(-height // tile) * -(-width // tile) > _TILES:
        tile *= 2
    tiles = _count_tiles(truth, box, tile)
    views = []
    for slab in np.array_split(np.arange(depth), min(count, depth)):
        best = max(((*_best_window(tiles[z], size, tile), int(z)) for z in slab), key=lambda b: (b[0], -b[3]))
        if best[0]:
            views.append(_view(box, best[3], best[1], best[2], size))
    return views or [_view(box, depth // 2, max(0, (height - size) // 2), max(0, (width - size) // 2), size)]


def _count_tiles(truth: Volume, box: Box, tile: int) -> NDArray[np.int64]:
    """Foreground voxels in each (section, tile row, tile column)."""
    depth, height, width = box.shape
    counts = np.zeros((depth, -(-height // tile), -(-width // tile)), np.int64)
    for block in box.blocks(reading_block(truth)):
        z, y, x = np.nonzero(foreground_and_valid(truth.read(block))[0])
        dz, dy, dx = block.relative_to(box.start).start
        np.add.at(counts, (z + dz, (y + dy) // tile, (x + dx) // tile), 1)
    return counts


def _best_window(tiles: NDArray[np.int64], size: int, tile: int) -> tuple[int, int, int]:
    """Largest sum of a window of ``size`` pixels over tiles, and the first row and column of its centred place."""
    sides = [min(n, max(1, size // tile)) for n in tiles.shape]
    sums = np.pad(tiles.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = sides
    inside = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    best = int(inside.max())
    # Several windows may hold the same foreground; the middle one has it in its middle.
    rows, columns = np.nonzero(inside == best)
    middle = len(rows) // 2
    return best, int(rows[middle]) * tile, int(columns[middle]) * tile


def _view(box: Box, z: int, y: int, x: int, size: int) -> Box:
    shape = (1, min(size, box.shape[1]), min(size, box.shape[2]))
    y, x = min(y, box.shape[1] - shape[1]), min(x, box.shape[2] - shape[2])
    return Box.of_shape(shape, (z, y, x)).translate(box.start)


def nice_length(span_nm: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is at most ``span_nm``, which is above 0."""
    power = 10.0 ** np.floor(np.log10(span_nm))
    return float(max(m for m in (1, 2, 5) if m * power <= span_nm * (1 + 1e-9)) * power)


def length_text(nanometres: float) -> str:
    """A length for people: nm below a micrometre, µm from there on."""
    return f"{nanometres / 1000:g} µm" if nanometres >= 1000 else f"{nanometres:g} nm"


def stretch(raw: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values of a section as uint8, black (and what is no number) and white at its 0.5th and 99.5th percentile."""
    known = np.isfinite(raw)
    if not known.any():
        return np.zeros(raw.shape, np.uint8)
    low, high = np.percentile(raw[known], (0.5, 99.5))
    scaled = (np.where(known, raw, low).astype(np.float64) - low) / max(float(high - low), 1e-9)
    return np.asarray(np.clip(np.rint(255 * scaled), 0, 255), np.uint8)


def outlines(truth: Mask, predicted: Mask) -> dict[str, Mask]:
    """Sort the pieces of one section.

    Args:
        truth: (y, x) foreground of the truth.
        predicted: (y, x) foreground of the prediction.

    Returns:
        Masks: ``found`` (predicted pieces that touch truth), ``false`` (those that do not), ``missed`` (true pieces
        that no prediction touches) and ``annotation`` (the other true pieces). Pieces are 8-connected in the section.
    """
    predicted_hits, predicted_rest = _split(predicted, truth)
    truth_hits, truth_rest = _split(truth, predicted)
    return {"found": predicted_hits, "false": predicted_rest, "missed": truth_rest, "annotation": truth_hits}


def _split(pieces: Mask, other: Mask) -> tuple[Mask, Mask]:
    labels, count = ndimage.label(pieces, np.ones((3, 3)))
    touched = np.zeros(count + 1, bool)
    touched[np.unique(labels[other])] = True
    touched[0] = False
    hits = np.asarray(touched[labels], bool)
    return hits, pieces & ~hits


def draw_section(
    raw: NDArray[Any], truth: Mask, predicted: Mask, pixel_nm: Sequence[float], title: str = ""
) -> Image.Image:
    """Draw a raw section twice, bare and with outlines, with a scale bar and a legend.

    Args:
        raw: (y, x) grey values, any number type.
        truth: (y, x) foreground of the truth.
        predicted: (y, x) foreground of the prediction.
        pixel_nm: size of a pixel, y and x, nm.
        title: a line above the picture.

    Returns:
        An RGB picture about 1100 pixels wide: panels beside each other, or below each other for wide sections.
    """
    height, width = raw.shape[0] * pixel_nm[0], raw.shape[1] * pixel_nm[1]
    beside = width < 1.6 * height
    room = (_WIDTH - _GAP) // 2 if beside else _WIDTH
    scale = min(room / width, _MAX_SCALE / pixel_nm[1])  # drawn pixels a nanometre
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = Image.fromarray(stretch(raw)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    drawn = _draw_outlines(grey, outlines(truth, predicted), size)
    _draw_scale_bar(drawn, scale)
    top = 30 if title else 0
    across = 2 * size[0] + _GAP if beside else size[0]
    down = size[1] if beside else 2 * size[1] + _GAP
    legend = _legend(across)
    page = Image.new("RGB", (across, top + down + legend.height), _PAPER)
    page.paste(grey, (0, top))
    page.paste(drawn, (size[0] + _GAP, top) if beside else (0, top + size[1] + _GAP))
    page.paste(legend, (0, top + down))
    if title:
        ImageDraw.Draw(page).text((6, 7), title, font=_font(15), fill=(225, 228, 232))
    return page


def _draw_outlines(grey: Image.Image, pieces: dict[str, Mask], size: tuple[int, int]) -> Image.Image:
    pixels = np.array(grey)
    y, x = np.mgrid[: size[1], : size[0]]
    dashes = (x + y) // 8 % 2 == 0
    styles = (("annotation", ANNOTATION, 1), ("missed", MISSED, 3), ("false", FALSE, 3), ("found", FOUND, 3))
    for name, colour, thickness in styles:
        shape = np.asarray(Image.fromarray(pieces[name].astype(np.uint8) * 255).resize(size, Image.Resampling.BICUBIC))
        inside = shape >= 128
        ring = ndimage.binary_dilation(inside, np.ones((3, 3)), iterations=thickness) & ~inside
        if name in ("missed", "annotation"):
            ring &= dashes
        pixels[ring] = colour
    return Image.fromarray(pixels)


def _draw_scale_bar(picture: Image.Image, scale: float) -> None:
    length = nice_length(max(picture.width / scale / 4, 1e-3))
    drawn, pen, font = round(length * scale), ImageDraw.Draw(picture), _font(15)
    text = length_text(length)
    left, bottom = 14, picture.height - 14
    room = max(drawn, round(pen.textlength(text, font=font)))
    # On a dark plate: sections are light here and dark there.
    pen.rectangle((left - 7, bottom - 29, left + room + 7, bottom + 6), fill=_PAPER)
    pen.rectangle((left, bottom - 4, left + drawn, bottom), fill=ANNOTATION)
    pen.text((left, bottom - 26), text, font=font, fill=ANNOTATION)


_LEGEND = (
    ("found (prediction)", FOUND, False),
    ("its annotation", ANNOTATION, True),
    ("missed", MISSED, True),
    ("false", FALSE, False),
)


def _legend(width: int) -> Image.Image:
    """The legend as a strip of ``width`` pixels, in as many lines as it needs."""
    font, line = _font(15), 26
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], 6, 0
    for text, colour, dashed in _LEGEND:
        room = 34 + round(measure.textlength(text, font=font)) + 22
        if x > 6 and x + room - 22 > width:
            x, y = 6, y + line
        places.append((x, y, text, colour, dashed))
        x += room
    strip = Image.new("RGB", (width, y + line + 8), _PAPER)
    pen = ImageDraw.Draw(strip)
    for left, top, text, colour, dashed in places:
        middle = top + 16
        for start in range(left, left + 26, 9 if dashed else 26):
            pen.rectangle((start, middle - 1, start + (5 if dashed else 26), middle + 1), fill=colour)
        pen.text((left + 34, top + 6), text, font=font, fill=(225, 228, 232))
    return strip


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own DejaVu Sans, which has µ and is there on every machine."""
    return ImageFont.truetype(str(Path(font_manager.findfont("DejaVu Sans"))), size)


def draw_views(
    views: Sequence[Box], raw: Volume, truth: Volume, predicted: Any, raw_origin: Sequence[int], what: str = ""
) -> list[tuple[str, Image.Image]]:
    """Draw sections of volumes.

    Args:
        views: boxes of one section each, voxels of ``truth``; what lies outside ``raw`` is left out.
        raw: grey values.
        truth: labels.
        predicted: box of the truth → boolean array, the prediction's foreground.
        raw_origin: the truth's first voxel in voxels of ``raw``.
        what: words for the title, such as the threshold.

    Returns:
        A name (``section_0012``, the section in voxels of the truth) and a picture for each view.
    """
    pictures = []
    covered = raw.box.translate([-int(o) for o in raw_origin])
    for view in views:
        shown = view.intersect(covered)
        if shown is None:
            continue
        z = shown.start[0]
        wanted = foreground_and_valid(truth.read(shown))[0][0]
        grey = raw.read(shown.translate(triple(raw_origin)))[0]
        y0, x0 = shown.start[1:]
        y1, x1 = shown.stop[1:]
        title = f"section {z}, y {y0}:{y1}, x {x0}:{x1}" + (f"; {what}" if what else "")
        pictures.append(
            (f"section_{z:04d}", draw_section(grey, wanted, predicted(shown)[0], truth.voxel_size[1:], title))
        )
    return pictures
