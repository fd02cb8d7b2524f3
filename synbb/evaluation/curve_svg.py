"""The precision-recall curve as SVG: scalable, printable, and coloured by the page around it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH, _HEIGHT = 620, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 14, 50


@dataclass(frozen=True)
class Marker:
    """A point of a curve that deserves a name; filled for a threshold that was given, hollow for the best one."""

    recall: float
    precision: float
    text: str
    filled: bool


@dataclass(frozen=True)
class Line:
    """One curve: its name, its points by ascending threshold, and its markers."""

    name: str
    recall: Sequence[float]
    precision: Sequence[float]
    markers: Sequence[Marker] = ()


def curve_svg(lines: Sequence[Line], prevalence: float | None) -> str:
    """Draw precision over recall.

    Args:
        lines: one or two curves; their classes in the page's style are ``curve0`` and ``curve1``.
        prevalence: drawn as the level of a random guess.
    """
    parts = [
        (
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Precision-recall curve" '
            'xmlns="http://www.w3.org/2000/svg">'
        )
    ]
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = _x(tick), _y(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {_y(0):.1f}V{_y(1):.1f}M{_x(0):.1f} {y:.1f}H{_x(1):.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{_y(0) + 20:.1f}" text-anchor="middle">{tick:.1f}</text>')
        parts.append(f'<text x="{_x(0) - 9:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:.1f}</text>')
    parts.append(f'<text class="axis" x="{_x(0.5):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">Recall</text>')
    middle = _y(0.5)
    parts.append(
        f'<text class="axis" x="16" y="{middle:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 16 {middle:.1f})">Precision</text>'
    )
    if prevalence is not None:
        y = _y(prevalence)
        parts.append(f'<path class="chance" d="M{_x(0):.1f} {y:.1f}H{_x(1):.1f}"/>')
        parts.append(f'<text class="small" x="{_x(0) + 8:.1f}" y="{y - 6:.1f}">random guess {prevalence:.3f}</text>')
    for number, line in enumerate(lines):
        points = " ".join(
            f"{_x(r):.1f},{_y(p):.1f}" for r, p in reversed(list(zip(line.recall, line.precision, strict=True)))
        )
        parts.append(f'<polyline class="curve curve{number}" points="{points}"/>')
    for number, line in enumerate(lines):
        parts.extend(_marker(marker, number) for marker in line.markers)
    return "".join([*parts, "</svg>"])


def _marker(marker: Marker, number: int) -> str:
    x, y = _x(marker.recall), _y(marker.precision)
    # The two often lie close to each other: one name goes below left, the other above right, unless it would not fit.
    left = x > _x(0.25) if marker.filled else x > _x(0.75)
    dx, anchor = (-10, "end") if left else (10, "start")
    dy = 18 if marker.filled else -8
    kind = "filled" if marker.filled else "hollow"
    text = f'<text class="small" x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}">{escape(marker.text)}</text>'
    return f'<circle class="marker {kind} curve{number}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>{text if number == 0 else ""}'


def _x(recall: float) -> float:
    return _LEFT + recall * (_WIDTH - _LEFT - _RIGHT)


def _y(precision: float) -> float:
    return _HEIGHT - _BOTTOM - precision * (_HEIGHT - _TOP - _BOTTOM)
