"""The main score of a study as lines of a terminal: what all rows share is said once, above them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from synbb.pruning.comparison import Compared, Comparison

GAP = "  "


def score_lines(comparison: Comparison) -> list[str]:
    """Mean and SD of the main score of each method, density by density."""
    score = comparison.scores[0]
    summaries = comparison.summaries(score)
    runs = [_runs(each.seeds, each.folds) for _, _, each in summaries]
    shared = len(set(runs)) == 1
    rows = [
        [
            f"{comparison.stands_at(method, density):g}",
            method,
            _with_spread(each.mean, each.sd),
            "" if shared else count,
        ]
        for (method, density, each), count in zip(summaries, runs, strict=True)
    ]
    rows.sort(key=lambda row: -float(row[0]))
    title = f"{score}, mean and SD" + (f" of {runs[0]}" if shared else "")
    return [title, *_aligned([["density", "method", score, "of"], *rows])]


def difference_lines(comparison: Comparison, differences: Sequence[Compared]) -> list[str]:
    """Each method less the reference in the main score, with its interval and verdict."""
    main = [each for each in differences if each.score == comparison.scores[0]]
    if not main:
        return []
    rows = []
    for each in main:
        found = each.difference
        low, high = found.low, found.high
        interval = "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"
        p = "" if found.p_adjusted is None else f"{found.p_adjusted:.2g}"
        mean = "" if math.isnan(found.mean) else f"{found.mean:+.3f}"
        rows.append([f"{each.density:g}", comparison.label(each.method), mean + interval, p, found.verdict])
    less = f"{comparison.scores[0]} less {comparison.label(comparison.reference)}"
    title = f"{less}, 95 % intervals, p adjusted for {len(main)} comparisons"
    return [title, *_aligned([["density", "method", "difference", "p", "verdict"], *rows])]


def _runs(seeds: int, folds: int) -> str:
    text = f"{seeds} seed{'s' * (seeds != 1)}"
    return text if folds == 1 else f"{text} x {folds} folds"


def _with_spread(mean: float, sd: float) -> str:
    return f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ± {sd:.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns below each other, empty ones left out; a blank line where the first column changes."""
    kept = [n for n in range(len(rows[0])) if any(row[n] for row in rows[1:])]
    widths = [max(len(row[n]) for row in rows) for n in kept]
    lines, before = [], rows[0][0]
    for row in rows:
        if row[0] != before:
            lines.append("")
            before = row[0]
        lines.append(GAP.join(row[n].ljust(width) for n, width in zip(kept, widths, strict=True)).rstrip())
    return lines
