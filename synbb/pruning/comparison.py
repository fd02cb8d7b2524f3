"""Methods at equal density, compared: for a model and a training loop of one's own, and for ``synbb compare``."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from synbb.errors import SynbbError
from synbb.pruning.paired import LEAST_SEEDS, Difference, PairedBootstrap, Point, Points, Summary, holm, summary
from synbb.pruning.rows import FIRST, TEXT, Cell, Row, RunTable, is_number, plain

if TYPE_CHECKING:
    from synbb.pruning.pruner import Pruner

DENSE = 1.0
FOLD = "all"


@dataclass(frozen=True)
class Compared:
    """One method less the reference at one density, in one score.

    Attributes:
        score: its name.
        density: of the comparison; a method with a density of its own stands at each.
        method: its name.
        difference: from the reference.
    """

    score: str
    density: float
    method: str
    difference: Difference


@dataclass(frozen=True)
class Comparison:
    """Scores of many runs, and what they say of the methods.

    Attributes:
        points: run → score by name.
        methods: their names, in the order of tables and figures.
        densities: at which they are compared.
        reference: the method that the others are compared with.
        own: method → the density that it was run at instead of all densities (1 where none was asked for).
        realised: run → realised density.
        smaller_is_better: scores of which the lower one is better.
        unpruned: methods among those of ``own`` that prune nothing.
        tau: method among those of ``own`` → the local budget that settled its density.
    """

    points: Mapping[Cell, Mapping[str, Point]]
    methods: Sequence[str]
    densities: Sequence[float]
    reference: str
    own: Mapping[str, float]
    realised: Mapping[Cell, float]
    smaller_is_better: frozenset[str] = frozenset()
    unpruned: frozenset[str] = frozenset()
    tau: Mapping[str, float] = field(default_factory=dict)

    @property
    def scores(self) -> list[str]:
        """Names of all scores, as the runs name them."""
        return list(dict.fromkeys(name for each in self.points.values() for name in each))

    @property
    def family(self) -> list[tuple[float, str]]:
        """(density, method) of every difference from the reference in one score."""
        return family(self.methods, self.densities, self.reference, self.own)

    def label(self, method: str) -> str:
        """Its name, with the density of its own where it is pruned at one, whatever density it stands at."""
        if method not in self.own or method in self.unpruned:
            return method
        own = self.stands_at(method, self.own[method])
        if method not in self.tau:
            return f"{method} (density {own:g})"
        known = "" if math.isnan(own) else f", density {own:g}"
        return f"{method} (tau {self.tau[method]:g}{known})"

    def stands_at(self, method: str, density: float) -> float:
        """The density of what is compared at ``density``: a method's own, or what its local budget came to."""
        if method not in self.tau:
            return self.own.get(method, density)
        return float(f"{self._realised(method, self.own[method]):.3g}")

    def at(self, method: str, density: float, score: str) -> Points:
        """Scores of a method that stand for it at a density."""
        density = self.own.get(method, density)
        return {
            (cell.fold, cell.seed): each[score]
            for cell, each in self.points.items()
            if cell.method == method and cell.density == density and score in each
        }

    def summaries(self, score: str) -> list[tuple[str, float, Summary]]:
        """(method, density, mean and SD) of each method at each density that it was run at."""
        found = []
        for method in self.methods:
            for density in [self.own[method]] if method in self.own else self.densities:
                each = summary(self.at(method, density, score))
                if each.seeds:
                    found.append((method, density, each))
        return found

    def passed_over(self, score: str) -> int:
        """Runs with a score that no mean is made of, as their seed lacks folds that another one has."""
        known = sum(score in each and not math.isnan(each[score].score) for each in self.points.values())
        return known - sum(each.seeds * each.folds for _, _, each in self.summaries(score))

    def differences(self, scores: Sequence[str], bootstrap: PairedBootstrap | None = None) -> list[Compared]:
        """Every method less the reference at every density.

        P-values are adjusted by Holm's method for all comparisons of one score.

        Args:
            scores: their names.
            bootstrap: its draws; 2000 replicates by default.
        """
        drawn = bootstrap or PairedBootstrap()
        found: list[Compared] = []
        for score in scores:
            differences = []
            for density, method in self.family:
                each = drawn.difference(self.at(method, density, score), self.at(self.reference, density, score))
                differences.append(replace(each, smaller_is_better=score in self.smaller_is_better))
            adjusted = zip(self.family, holm(differences), strict=True)
            found += [Compared(score, density, method, each) for (density, method), each in adjusted]
        return found

    def score_rows(self, scores: Sequence[str]) -> list[Row]:
        """Mean, SD over seeds and number of seeds and folds of each score, one row for each."""
        return [
            {
                "score": score,
                "method": method,
                "density": plain(self.stands_at(method, density)),
                "realised_density": plain(self._realised(method, density)),
                "mean": plain(each.mean),
                "sd": plain(each.sd),
                "seeds": plain(each.seeds),
                "folds": plain(each.folds),
            }
            for score in scores
            for method, density, each in self.summaries(score)
        ]

    def _realised(self, method: str, density: float) -> float:
        known = [d for cell, d in self.realised.items() if (cell.method, cell.density) == (method, density)]
        return math.fsum(known) / len(known) if known else math.nan

    def difference_rows(self, differences: Sequence[Compared]) -> list[Row]:
        """One row for each difference, with its interval, p-value and verdict."""
        return [_difference_row(each, self) for each in differences]

    def __str__(self) -> str:
        scores = self.scores
        tables = markdown(self.score_rows(scores)), markdown(self.difference_rows(self.differences(scores)))
        return "\n\n".join(tables)


def family(
    methods: Sequence[str], densities: Sequence[float], reference: str, own: Mapping[str, float]
) -> list[tuple[float, str]]:
    """(density, method) of every difference from the reference; two that have densities of their own differ once."""
    return [
        (density, method)
        for density in densities
        for method in methods
        if method != reference and not ({method, reference} <= own.keys() and density != densities[0])
    ]


def _difference_row(each: Compared, comparison: Comparison) -> Row:
    found, reference = each.difference, comparison.reference
    over = " and ".join(["seeds", *(f"{n} {name}" for name, n in found.units.items())])
    return {
        "score": each.score,
        "density": plain(each.density),
        "method": each.method,
        "method_density": plain(comparison.stands_at(each.method, each.density)),
        "less": reference,
        "less_density": plain(comparison.stands_at(reference, each.density)),
        "difference": plain(found.mean),
        "sd_of_pairs": plain(found.sd),
        "low": plain(found.low),
        "high": plain(found.high),
        "p": plain(found.p),
        "p_adjusted": plain(found.p_adjusted),
        "verdict": found.verdict,
        "seeds": plain(found.seeds),
        "folds": plain(found.folds),
        "interval_over": over if found.seeds >= LEAST_SEEDS else "",
        "comparisons": plain(found.comparisons),
    }


def markdown(rows: Sequence[Row]) -> str:
    """Rows as a table in Markdown, padded so that it reads well as plain text, with three decimals."""
    if not rows:
        return "(no rows)"
    columns = list(rows[0])
    rows = [{name: _three_decimals(value) for name, value in row.items()} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}
    lines = [[name.ljust(widths[name]) for name in columns], ["-" * widths[name] for name in columns]]
    lines += [[row[name].ljust(widths[name]) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _three_decimals(text: str) -> str:
    """A number with more decimals, shortened; anything else as it is."""
    whole, point, decimals = text.partition(".")
    if not point or len(decimals) <= 3 or not (whole.lstrip("-") + decimals).isdecimal():
        return text
    return f"{float(text):.3f}"


def compare(
    train_fn: Callable[[Pruner | None, int], float | Mapping[str, float]],
    methods: Mapping[str, Callable[[float, int], Pruner] | None],
    *,
    densities: Sequence[float],
    seeds: Sequence[int],
    reference: str,
    smaller_is_better: Sequence[str] = (),
    table: str | Path | None = None,
    version: str = "",
    say: Callable[[str], None] | None = None,
) -> Comparison:
    """Compare pruning methods on a model and a training loop of one's own.

    ::

        def train(pruner, seed):
            torch.manual_seed(seed)                      # the same weights and data for every method
            model = make_model()
            optimizer = torch.optim.AdamW(model.parameters())
            if pruner is not None:
                pruner.attach(model, example_inputs, optimizer=optimizer)
            ...                                          # pruner.step() after optimizer.step()
            return {"accuracy": held_out_accuracy(model)}

        methods = {"dense": None, "bb": lambda density, seed: BudgetedBroadcast(density, warmup=100, ramp=300)}
        print(compare(train, methods, densities=[0.25, 0.1], seeds=range(5), reference="bb", table="runs.csv"))

    Args:
        train_fn: trains once with an unattached pruner (None: unpruned) and a seed, and returns held-out scores.
        methods: name → a function of density and seed that makes the pruner; None for no pruning, which is run once
            a seed and compared at every density.
        densities: each in (0, 1].
        seeds: at least five for intervals.
        reference: name of the method that the others are compared with.
        smaller_is_better: scores of which the lower one is better; of all others the higher one is.
        table: CSV of finished runs; rows that it holds are not run again. In memory when None.
        version: any text; change it when ``train_fn`` or a method has changed, so that old rows do not count.
        say: called with a line for each finished run.

    Returns:
        The comparison; ``print`` shows its tables.

    Raises:
        SynbbError: a density outside (0, 1], a double seed or density, a reference that is no method, or scores that
            are no finite numbers, a name in ``smaller_is_better`` that is no score, or a pruner that is not attached.
    """
    seeds, densities = [int(seed) for seed in seeds], [float(density) for density in densities]
    _check(methods, densities, seeds, reference)
    if isinstance(smaller_is_better, str):
        raise SynbbError(f"smaller_is_better must be a list of scores: [{smaller_is_better!r}]")
    rows = RunTable(None if table is None else Path(table))
    own = {name: DENSE for name, make in methods.items() if make is None}
    cells = [
        (Cell(FOLD, name, own.get(name, density), seed), make)
        for seed in seeds
        for density in densities
        for name, make in methods.items()
    ]
    wanted = dict.fromkeys(cell for cell, _ in cells)
    makers = dict(cells)
    known = dict.fromkeys(name for row in _found(rows, wanted, version).values() for name in points_of(row))
    first = True
    for cell in wanted:
        if rows.find(cell, _hash(cell, version)) is None:
            make = makers[cell]
            pruner = None if make is None else make(cell.density, cell.seed)
            scores = _scores(train_fn(pruner, cell.seed), cell)
            if pruner is not None and not pruner.attached:
                raise SynbbError(f"{cell}: train_fn returned and did not attach the pruner that it was given")
            realised = 1.0 if pruner is None else pruner.density()
            if pruner is not None and not pruner.final:
                warnings.warn(
                    f"synbb: {cell}: training ended at step {pruner.steps}, before the last masks (step "
                    f"{pruner.schedule.end}), at density {realised:.3g}: it is compared as it is; train for longer, or "
                    "give a smaller warmup and ramp",
                    stacklevel=2,
                )
            rows.append(cell, _hash(cell, version), {"realised_density": realised, **scores})
            known |= dict.fromkeys(scores)
            if first:  # a slip of the pen shows now, not after the last run; a run may leave a score out
                _check_known(smaller_is_better, known)
            first = False
            if say is not None:
                say(f"{cell}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    found = _found(rows, wanted, version)
    _check_known(smaller_is_better, known)
    return Comparison(
        points={cell: points_of(row) for cell, row in found.items()},
        methods=list(methods),
        densities=densities,
        reference=reference,
        own=own,
        unpruned=frozenset(own),
        realised=realised_of(found),
        smaller_is_better=frozenset(smaller_is_better),
    )


def _found(rows: RunTable, cells: Iterable[Cell], version: str) -> dict[Cell, Row]:
    return {cell: row for cell in cells if (row := rows.find(cell, _hash(cell, version))) is not None}


def points_of(row: Row, names: Sequence[str] | None = None) -> dict[str, Point]:
    """The scores in a row, without counts; all numbers beside the first columns when ``names`` is None."""
    wanted = [name for name in row if name not in (*FIRST, *TEXT)] if names is None else names
    return {name: Point(float(row[name])) for name in wanted if is_number(row.get(name, ""))}


def realised_of(rows: Mapping[Cell, Row]) -> dict[Cell, float]:
    """Realised density of each run that has one."""
    return {cell: float(row["realised_density"]) for cell, row in rows.items() if row.get("realised_density")}


def _check(methods: Mapping[str, object], densities: Sequence[float], seeds: Sequence[int], reference: str) -> None:
    if reference not in methods:
        raise SynbbError(f"reference {reference!r} is none of the methods {', '.join(methods)}")
    for name, make in methods.items():
        if make is not None and not callable(make):
            raise SynbbError(
                f"method {name!r} is {type(make).__name__}: give a function of density and seed that makes a new "
                "pruner, or None for no pruning"
            )
    for density in densities:
        if not 0 < density <= 1:
            raise SynbbError(f"density {density} is not above 0 and at most 1")
    for what, values in (("density", densities), ("seed", seeds)):
        if not values:
            raise SynbbError(f"no {what} is given")
        texts = [plain(value) for value in values]  # as a table tells them apart
        double = [text for text in texts if texts.count(text) > 1]
        if double:
            raise SynbbError(f"{what} {double[0]} is given more than once")


def _hash(cell: Cell, version: str) -> str:
    return hashlib.sha256(json.dumps([cell.key, version]).encode()).hexdigest()[:12]


def _scores(found: float | Mapping[str, float], cell: Cell) -> dict[str, float]:
    scores = dict(found) if isinstance(found, Mapping) else {"score": found}
    taken = {*FIRST, *TEXT}
    for name, value in scores.items():
        if name in taken:
            raise SynbbError(f"train_fn returned a score named {name!r}, which is a column of the table: rename it")
        try:
            scores[name] = float(value)
        except (TypeError, ValueError):
            raise SynbbError(f"train_fn returned {name} = {value!r} for {cell}; scores are numbers") from None
        if not math.isfinite(scores[name]):  # left out, it would make a method better by its failures
            raise SynbbError(
                f"train_fn returned {name} = {value} for {cell}: return what a run that failed is worth, or leave that "
                "score out"
            )
    return scores


def _check_known(smaller_is_better: Sequence[str], scores: Iterable[str]) -> None:
    """Names that are no score would turn a verdict round."""
    for name in smaller_is_better:
        if name not in scores:
            raise SynbbError(f"smaller_is_better names {name!r}, which is no score; there are {', '.join(scores)}")
