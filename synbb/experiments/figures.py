"""Two figures of a study: score against density, and the balance of the reference method."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from synbb.pruning.balance import balance_fit, log_odds
from synbb.pruning.comparison import Comparison
from synbb.pruning.paired import seed_means

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
MOST_PANELS = 3
MARKERS = "osD^vP*X<>hp"
MOST_COLOURS = 20
"""Lines after so many are dashed, as the colours begin again."""
LEGEND_ROWS = 16
SMALL = 7.5
GREY = "#777777"
REFERENCE = "#c1272d"
OTHERS = "#33608c"


def draw_scores(comparison: Comparison, scores: Sequence[str], file: Path) -> list[Path]:
    """Score against realised density: a line a method through its means, a point a seed, dense as a band.

    Args:
        comparison: the runs.
        scores: a panel for each.
        file: without ending; PNG and SVG are written.
    """
    if len(comparison.densities) == 1:
        return _saved(_ranked(comparison, scores), file)
    columns = -(-len(comparison.methods) // LEGEND_ROWS)
    figure = Figure(figsize=(1.6 * columns + 4.2 * len(scores), 4.2), layout="constrained")
    panels: Any = figure.subplots(1, len(scores), squeeze=False)[0]
    colours = _colours(comparison)
    for axes, score in zip(panels, scores, strict=True):
        _draw_score(axes, comparison, score, colours)
    handles: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside right center",
        ncols=columns,
        frameon=False,
        fontsize=SMALL + 1,
    )
    return _saved(figure, file)


def _ranked(comparison: Comparison, scores: Sequence[str]) -> Figure:
    """At a single density: methods from the best to the worst in the first score, a point a seed, a bar the mean."""
    first = sorted(comparison.summaries(scores[0]), key=lambda each: each[2].mean)
    figure = Figure(figsize=(2.0 + 3.6 * len(scores), 1.3 + 0.24 * len(first)), layout="constrained")
    panels: Any = figure.subplots(1, len(scores), squeeze=False, sharey=True)[0]
    for axes, score in zip(panels, scores, strict=True):
        means = {method: each.mean for method, _, each in comparison.summaries(score)}
        for place, (method, density, _) in enumerate(first):
            other = GREY if method in comparison.unpruned else OTHERS
            colour = REFERENCE if method == comparison.reference else other
            seeds = _of_seeds(comparison, method, density, score)
            axes.plot([means.get(method, math.nan)], [place], "|", color=colour, markersize=11, markeredgewidth=2.2)
            axes.scatter(seeds, np.full(len(seeds), place), s=14, color=colour, alpha=0.6, linewidths=0)
        if comparison.reference in means:
            axes.axvline(means[comparison.reference], color=REFERENCE, linewidth=0.8, alpha=0.5, zorder=0)
        axes.set_xlabel(_name(score))
        axes.set_title(_runs(comparison, score), fontsize=SMALL + 1, color=GREY, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", linewidth=0.4, alpha=0.5)
        axes.locator_params(axis="x", nbins=5)  # more labels of four digits touch
    labels = [comparison.label(method) for method, _, _ in first]
    panels[0].set_yticks(range(len(first)), labels, fontsize=SMALL + 1)
    panels[0].set_ylim(-0.7, len(first) - 0.3)
    figure.suptitle(f"density {comparison.densities[0]:g} of the masked layers", fontsize=SMALL + 3, x=0.01, ha="left")
    return figure


def _colours(comparison: Comparison) -> dict[str, tuple[Any, str]]:
    """Colour and marker of each method; the reference stands out."""
    names = [name for name in comparison.methods if name != comparison.reference]
    palette = mpl.colormaps["tab10" if len(names) <= 9 else "tab20"].colors  # type: ignore[attr-defined]
    free = [colour for i, colour in enumerate(palette) if i != (3 if len(names) <= 9 else 6)]  # red is taken
    chosen = {name: (free[i % len(free)], MARKERS[1 + i % (len(MARKERS) - 1)]) for i, name in enumerate(names)}
    return {comparison.reference: (REFERENCE, MARKERS[0]), **chosen}


def _draw_score(axes: Axes, comparison: Comparison, score: str, colours: Mapping[str, tuple[Any, str]]) -> None:
    lines = [name for name in comparison.methods if name not in comparison.own]
    for position, name in enumerate(lines):
        colour, marker = colours[name]
        spread = 1 + 0.012 * (position - (len(lines) - 1) / 2)  # so that points of methods do not cover each other
        found = [(d, each) for method, d, each in comparison.summaries(score) if method == name]
        leading = name == comparison.reference
        axes.plot(
            [d * spread for d, _ in found],
            [each.mean for _, each in found],
            color=colour,
            marker=marker,
            markersize=6 if leading else 4.5,
            linewidth=2.2 if leading else 1.2,
            linestyle="-" if position < MOST_COLOURS else "--",
            zorder=4 if leading else 3,
            label=name,
        )
        for density, _ in found:
            seeds = _of_seeds(comparison, name, density, score)
            at = np.full(len(seeds), density * spread)
            axes.scatter(at, seeds, s=9, color=[colour], alpha=0.45, linewidths=0, zorder=2)
    for name in comparison.own:
        found_own = [each for method, _, each in comparison.summaries(score) if method == name]
        if not found_own:
            continue
        colour = GREY if name in comparison.unpruned else colours[name][0]
        mean, sd = found_own[0].mean, found_own[0].sd
        axes.axhline(mean, color=colour, linewidth=1.2, linestyle="--", zorder=1, label=comparison.label(name))
        if not math.isnan(sd):
            axes.axhspan(mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0, zorder=0)
    axes.set_xscale("log")
    axes.set_xticks(list(comparison.densities), [f"{d:g}" for d in comparison.densities])
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.set_xlabel("density of the masked layers")
    axes.set_ylabel(_name(score))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.4, alpha=0.5)
    axes.set_title(_runs(comparison, score), fontsize=SMALL + 1, color=GREY, loc="left")


def _of_seeds(comparison: Comparison, method: str, density: float, score: str) -> list[float]:
    return list(seed_means(comparison.at(method, density, score)).values())


def _runs(comparison: Comparison, score: str) -> str:
    found = [each for _, _, each in comparison.summaries(score)]
    seeds, folds = _many([each.seeds for each in found], "seed"), _many([each.folds for each in found], "fold")
    return f"mean of {seeds}, {folds}; points are seeds"


def _many(numbers: Sequence[int], what: str) -> str:
    least, most = min(numbers), max(numbers)
    return f"{most} {what}{'s' * (most > 1)}" if least == most else f"{least} to {most} {what}s"


def _name(score: str) -> str:
    return {"pr_auc": "voxel PR-AUC"}.get(score, score.replace("_", " ").replace("f1", "F1"))


@dataclass(frozen=True)
class Units:
    """Rows of a run's ``balance.csv``.

    Attributes:
        on_rate: a of each unit.
        kappa: its relative degree in the actuated direction.
        capacity: its degree when dense.
        clipped: whether a bound of the law holds its degree.
        group: number of the group that its offset is shared with.
        direction: what kappa counts, ``fan_in`` or ``fan_out``.
    """

    on_rate: NDArray[np.float64]
    kappa: NDArray[np.float64]
    capacity: NDArray[np.float64]
    clipped: NDArray[np.bool_]
    group: NDArray[np.int64]
    direction: str


def read_units(file: Path) -> Units | None:
    """The units of a run, None when it left no such file or nothing was on record."""
    if not file.is_file():
        return None
    with file.open(newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["on_rate"] not in ("", "nan")]
    if not rows:
        return None
    direction = rows[0]["direction"]
    rows = [row for row in rows if row["direction"] == direction]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    return Units(
        on_rate=np.asarray([float(row["on_rate"]) for row in rows]),
        kappa=np.asarray([float(row["kappa"]) for row in rows]),
        capacity=np.asarray([float(row["capacity"]) for row in rows]),
        clipped=np.asarray([row["clipped"].lower() in ("1", "true") for row in rows]),
        group=np.asarray([groups.index(row["group"]) for row in rows], np.int64),
        direction=direction,
    )


def draw_balance(units: Mapping[float, Units], method: str, run: str, file: Path) -> list[Path]:
    """log((1 - a) / a) against relative degree with its fit, a panel a density.

    Args:
        units: density → units of one run.
        method: its name.
        run: which run it is (fold and seed).
        file: without ending; PNG and SVG are written.
    """
    shown = sorted(units.items(), reverse=True)[:MOST_PANELS]
    figure = Figure(figsize=(1.0 + 3.8 * len(shown), 4.0), layout="constrained")
    panels: Any = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, (density, each) in zip(panels, shown, strict=True):
        _draw_balance(axes, each)
        axes.set_title(f"density {density:g}", fontsize=SMALL + 2, loc="left")
    panels[0].set_ylabel("log((1 − a) / a) of the on-rate a")
    figure.suptitle(f"Balance of {method}, {run}", fontsize=SMALL + 3, x=0.01, ha="left")
    return _saved(figure, file)


def _draw_balance(axes: Axes, units: Units) -> None:
    odds = log_odds(units.on_rate)
    free = ~units.clipped
    count = int(units.group.max()) + 1
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, max(count, 2)))[units.group]
    axes.scatter(units.kappa[~free], odds[~free], s=12, facecolors="none", edgecolors=GREY, linewidths=0.6, alpha=0.6)
    axes.scatter(units.kappa[free], odds[free], s=16, c=colours[free], linewidths=0)
    degree = np.rint(units.kappa * units.capacity)
    # Bounds that the file knows of as clipped, not those that the fit would derive from a minimum.
    fit = balance_fit(units.on_rate[free], degree[free], units.capacity[free], 0.0, groups=units.group[free])
    text = f"clipped {np.mean(units.clipped):.0%} of {len(odds)} units"
    if not math.isnan(fit.slope):
        judged = free & (units.capacity >= 32)
        for group in np.unique(units.group[judged]):
            mine = judged & (units.group == group)
            ends = np.asarray([units.kappa[mine].min(), units.kappa[mine].max()])
            line = odds[mine].mean() + fit.slope * (ends - units.kappa[mine].mean())
            axes.plot(ends, line, color=REFERENCE, linewidth=1.3)
        text = f"slope {fit.slope:.2f}, R² {fit.r_squared:.3f} (n = {fit.unclipped}, K ≥ 32)\n{text}"
    else:
        text = f"no group with 10 unclipped units of K ≥ 32: no fit\n{text}"
    axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=SMALL)
    axes.set_xlabel(f"relative degree κ ({units.direction.replace('_', '-')})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.18)


def _saved(figure: Figure, file: Path) -> list[Path]:
    made = []
    with mpl.rc_context({"svg.hashsalt": "synbb", "svg.fonttype": "none"}):
        for ending in FORMATS:
            made.append(file.with_suffix(f".{ending}"))
            metadata = {"Date": None} if ending == "svg" else None
            figure.savefig(made[-1], dpi=150, metadata=metadata)
    return made
