"""Paired differences between methods that were run with the same seeds on the same held-out data.

Two things vary by chance: the seed (initial weights and data order) and the held-out units that happened to be
annotated (tiles, objects). The bootstrap here draws both, the same ones for both methods, so that what they share
cancels. Within a fold units are drawn; folds are not, they are averaged with equal weight.

Few seeds need care: the mean of n draws out of n varies by (n - 1)/n too little, so n - 1 are drawn (Rao and Wu, J. Am.
Stat. Assoc. 83, 1988), and the percentiles are moved outwards as a t distribution would (the expanded percentile
interval of Hesterberg, Am. Stat. 69, 2015), with Satterthwaite's degrees of freedom for the two sources together.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from synbb.pruning.resampling import Resampled

LEAST_SEEDS = 5
"""Fewer paired seeds give points, no interval and no claim."""
LEVEL = 0.05
"""Two-sided error of intervals and verdicts."""
POWER = 0.8
REPLICATES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """One score of one run, with the counts it was made of where they are kept."""

    score: float
    counts: Resampled | None = None


Points = Mapping[tuple[str, int], Point]
"""(fold, seed) → score of one method at one density."""


@dataclass(frozen=True)
class Summary:
    """Scores of one method: mean over folds and seeds, SD over seeds (of their means over folds; nan for one).

    Each of the seeds has a run in each of the folds (:func:`complete`), so that seeds x folds runs are behind the mean.
    """

    mean: float
    sd: float
    seeds: int
    folds: int


@dataclass(frozen=True)
class Difference:
    """A method less the reference.

    Attributes:
        mean: over folds and seeds; nan without a pair.
        sd: of the paired differences, over seeds (nan for fewer than two).
        low: lower end of the 95 % interval; None with fewer than five paired seeds.
        high: upper end.
        p: two-sided p-value of a t test with the bootstrap's standard error; None where there is no interval.
        p_adjusted: the same by Holm's method over all comparisons of the family, those to come among them.
        seeds: paired seeds, each with a pair in every one of the folds.
        folds: folds that are paired.
        units: held-out units that were drawn, by name; empty when only seeds were.
        comparisons: size of the family.
        smaller_is_better: whether the lower score is the better one, as of error rates.
    """

    mean: float
    sd: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int
    folds: int
    units: dict[str, int]
    p_adjusted: float | None = None
    comparisons: int = 1
    smaller_is_better: bool = False

    @property
    def verdict(self) -> str:
        """``ahead`` or ``behind`` where the adjusted p-value is below 5 %; what is missing where nothing is claimed."""
        if self.seeds < LEAST_SEEDS:
            return f"no claim: {self.seeds} paired seeds"
        if self.p_adjusted is None:
            return "no claim"
        if self.p_adjusted >= LEVEL:
            return "no difference shown"
        return "ahead" if (self.mean > 0) != self.smaller_is_better else "behind"


def summary(points: Points) -> Summary:
    """Mean and SD over seeds, of those that have all folds."""
    used = complete(_known(points))
    values = np.asarray(list(seed_means(points).values()), np.float64)
    return Summary(_mean(values), _sd(values), len(values), len({fold for fold, _ in used}))


def seed_means(points: Points) -> dict[int, float]:
    """Mean over folds of each seed that has all of them."""
    return _by_seed({key: points[key].score for key in complete(_known(points))})


def complete(runs: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The (fold, seed) pairs of seeds that have all folds, in order.

    All folds are those of the seed that has most of them, the first of several. Folds differ by more than seeds do:
    a mean to which one seed adds other folds than the next would tell of folds, not of methods.
    """
    folds: dict[int, set[str]] = {}
    for fold, seed in runs:
        folds.setdefault(seed, set()).add(fold)
    most = max((each for _, each in sorted(folds.items())), key=len, default=set())
    return sorted((fold, seed) for seed, each in folds.items() if each == most for fold in most)


class PairedBootstrap:
    """Draws of held-out units, made once and used for every method and score.

    Args:
        replicates: bootstrap samples.
        seed: of the draws.
    """

    def __init__(self, replicates: int = REPLICATES, seed: int = 0) -> None:
        self.replicates, self._seed = replicates, seed
        self._draws: dict[tuple[str, str, int], NDArray[np.int64]] = {}
        self._scores: dict[tuple[str, int], tuple[Resampled, Floats]] = {}

    def difference(self, ours: Points, theirs: Points) -> Difference:
        """``ours`` less ``theirs`` over the (fold, seed) pairs that both have a score for, of seeds with all folds."""
        pairs = complete(_known(ours) & _known(theirs))
        if not pairs:
            return Difference(math.nan, math.nan, None, None, None, 0, 0, {})
        values = {key: ours[key].score - theirs[key].score for key in pairs}
        by_seed = np.asarray(list(_by_seed(values).values()), np.float64)
        folds = sorted({fold for fold, _ in pairs})
        found = Difference(
            _mean(by_seed), _sd(by_seed), None, None, None, len(by_seed), len(folds), self._units(ours, theirs, pairs)
        )
        if len(by_seed) < LEAST_SEEDS:
            return found
        by_replicate, of_units = self._replicates(ours, theirs, values, found)
        return replace(found, **self._interval(by_replicate, of_units, by_seed, found))

    def _units(self, ours: Points, theirs: Points, pairs: list[tuple[str, int]]) -> dict[str, int]:
        """Units over all folds; nothing unless every run has kept its counts, and the same units."""
        of_fold: dict[str, dict[str, int]] = {}
        for fold, seed in pairs:
            for point in (ours[fold, seed], theirs[fold, seed]):
                if point.counts is None or of_fold.setdefault(fold, point.counts.units) != point.counts.units:
                    return {}
        names = dict.fromkeys(name for units in of_fold.values() for name in units)
        return {name: sum(units.get(name, 0) for units in of_fold.values()) for name in names}

    def _replicates(
        self, ours: Points, theirs: Points, values: Mapping[tuple[str, int], float], found: Difference
    ) -> tuple[Floats, Floats]:
        """(replicates,) mean differences with seeds and units drawn, and with units alone."""
        seeds = sorted({seed for _, seed in values})
        sums, counts = np.zeros((self.replicates, len(seeds))), np.zeros((self.replicates, len(seeds)))
        for (fold, seed), value in values.items():
            if found.units:
                gaps = self._redrawn(fold, ours[fold, seed]) - self._redrawn(fold, theirs[fold, seed])
            else:
                gaps = np.full(self.replicates, value)
            known = ~np.isnan(gaps)  # a sample may hold no object at all
            sums[:, seeds.index(seed)] += np.where(known, gaps, 0.0)
            counts[:, seeds.index(seed)] += known
        by_seed = sums / np.where(counts > 0, counts, np.nan)
        n = len(seeds)
        weights = np.random.default_rng([self._seed, n]).multinomial(n - 1, np.full(n, 1 / n), self.replicates)
        return _weighted(by_seed, weights), _weighted(by_seed, np.ones_like(weights))

    def _redrawn(self, fold: str, point: Point) -> Floats:
        counts = point.counts
        assert counts is not None
        key = (fold, id(counts))
        if key not in self._scores:  # with the counts, so that their id stays theirs
            draws = {name: self._draw(fold, name, n) for name, n in counts.units.items()}
            self._scores[key] = (counts, counts.scores(draws))
        return self._scores[key][1]

    def _draw(self, fold: str, part: str, units: int) -> NDArray[np.int64]:
        key = (fold, part, units)
        if key not in self._draws:
            source = np.random.default_rng([self._seed, zlib.crc32(f"{fold}/{part}".encode()), units])
            drawn = max(units - 1, 1)
            chance = np.full(units, 1 / units) if units else np.zeros(0)
            self._draws[key] = (
                source.multinomial(drawn, chance, self.replicates)
                if units
                else np.zeros((self.replicates, 0), np.int64)
            )
        return self._draws[key]

    @staticmethod
    def _interval(replicates: Floats, of_units: Floats, by_seed: Floats, found: Difference) -> dict[str, Any]:
        replicates, of_units = (each[~np.isnan(each)] for each in (replicates, of_units))
        if not len(replicates):
            return {}
        of_seeds, n = float(np.var(by_seed, ddof=1)) / len(by_seed), sum(found.units.values())
        drawn = float(np.var(of_units)) if found.units else 0.0
        freedom = _satterthwaite([(of_seeds, len(by_seed) - 1), (drawn, n - 1)])
        tail = NormalDist().cdf(-t_quantile(1 - LEVEL / 2, freedom))
        low, high = np.quantile(replicates, [tail, 1 - tail])
        error = float(np.std(replicates))
        p = 2 * t_tail(abs(found.mean) / error, freedom) if error > 0 else float(found.mean == 0)
        return {"low": float(low), "high": float(high), "p": p}


def holm(differences: Sequence[Difference]) -> list[Difference]:
    """The same differences with p-values adjusted for all of them (Holm, Scand. J. Stat. 6, 1979).

    The family is what was planned: one without a p-value, as runs of it are missing, counts as if it had the largest.
    """
    tested = sorted((d.p, i) for i, d in enumerate(differences) if d.p is not None)
    adjusted: dict[int, float] = {}
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(differences) - rank)))
        adjusted[i] = largest
    return [replace(d, p_adjusted=adjusted.get(i), comparisons=len(differences)) for i, d in enumerate(differences)]


def smallest_detectable(sd: float, seeds: int, comparisons: int) -> float:
    """The true difference that a paired t test over ``seeds`` finds with 80 % power.

    Two-sided at 5 % divided by the number of comparisons (Bonferroni), with n - 1 degrees of freedom; the power is
    that of the noncentral t distribution. Seeds alone are counted; that the held-out data are a sample comes on top.

    Args:
        sd: standard deviation of paired differences over seeds.
        seeds: paired seeds of the study to come, at least 2.
        comparisons: how many differences are to be judged.
    """
    freedom = seeds - 1
    critical = t_quantile(1 - LEVEL / (2 * comparisons), freedom)
    low, high = 0.0, 4 * critical + 4
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, critical, freedom) < POWER else (low, middle)
    return high * sd / math.sqrt(seeds)


def _power(noncentral: float, critical: float, freedom: int) -> float:
    """P(T > critical) of the noncentral t distribution, by Simpson's rule over u, the estimated over the true SD."""
    normal = NormalDist()
    u = np.linspace(1e-9, 1 + 12 / math.sqrt(2 * freedom), 401)
    constant = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    density = np.exp(constant + (freedom - 1) * np.log(u) - freedom * u**2 / 2)
    above = np.asarray([normal.cdf(noncentral - critical * each) for each in u])
    return _simpson(density * above, u)


def t_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's distribution, t >= 0.

    With t = sqrt(freedom) tan(x) the density is c cos(x)^(freedom - 1), which Simpson's rule integrates from x to pi/2.
    """
    if math.isinf(freedom):
        return NormalDist().cdf(-t)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    x = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 4001)
    return min(0.5, constant * _simpson(np.maximum(np.cos(x), 0.0) ** (freedom - 1), x))


def _simpson(values: Floats, at: Floats) -> float:
    """Integral of values at an odd number of equally spaced points."""
    weights = np.full(len(at), 2.0)
    weights[1::2], weights[[0, -1]] = 4.0, 1.0
    return float(values @ weights) * float(at[1] - at[0]) / 3


def t_quantile(probability: float, freedom: float) -> float:
    """The value below which Student's T lies with ``probability``, at least 0.5; by bisection."""
    low, high = 0.0, 1.0
    while t_tail(high, freedom) > 1 - probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - probability else (low, middle)
    return high


def _satterthwaite(parts: Iterable[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of variances (variance, its degrees of freedom)."""
    known = [(v, f) for v, f in parts if v > 0 and f > 0]
    if not known:
        return math.inf
    return float(sum(v for v, _ in known) ** 2 / sum(v**2 / f for v, f in known))


def _known(points: Points) -> set[tuple[str, int]]:
    """(fold, seed) of the points that have a score."""
    return {key for key, point in points.items() if not math.isnan(point.score)}


def _by_seed(values: Mapping[tuple[str, int], float]) -> dict[int, float]:
    """Mean over folds of each seed."""
    of_seed: dict[int, list[float]] = {}
    for (_, seed), value in values.items():
        of_seed.setdefault(seed, []).append(value)
    return {seed: float(np.mean(each)) for seed, each in of_seed.items()}


def _weighted(by_seed: Floats, weights: NDArray[np.int64]) -> Floats:
    """(replicates,) means over seeds; a seed without a value counts for nothing."""
    known = ~np.isnan(by_seed)
    total = (weights * known).sum(axis=1)
    return np.asarray((weights * np.where(known, by_seed, 0.0)).sum(axis=1) / np.where(total > 0, total, np.nan))


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _sd(values: Floats) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
