"""The tables that a study shows in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from synbb.experiments.terminal import difference_lines, score_lines
from synbb.pruning.comparison import Comparison
from synbb.pruning.paired import Point
from synbb.pruning.rows import Cell

# bb is ahead of magnitude by 0.1 in every seed at a half, and equal to it at a quarter.
SCORES = {("dense", 1.0): 0.9, ("bb-both", 0.5): 0.8, ("bb-both", 0.25): 0.5, ("magnitude", 0.5): 0.7}
SCORES |= {("magnitude", 0.25): 0.5}


def study(seeds: Sequence[int], folds: Sequence[str] = ("all",)) -> Comparison:
    points = {
        Cell(fold, method, density, seed): {"pr_auc": Point(score + 0.001 * seed), "f1": Point(0.1)}
        for (method, density), score in SCORES.items()
        for fold in folds
        for seed in seeds
    }
    names = list(dict.fromkeys(method for method, _ in SCORES))
    realised = {cell: cell.density for cell in points}
    unpruned = frozenset({"dense"})
    return Comparison(points, names, [0.5, 0.25], "magnitude", {"dense": 1.0}, realised, unpruned=unpruned)


def test_scores_are_grouped_by_density_and_say_once_what_they_share() -> None:
    assert score_lines(study(range(5), ["a", "b"])) == [
        "pr_auc, mean and SD of 5 seeds x 2 folds",
        "density  method     pr_auc",
        "",
        "1        dense      0.902 ± 0.002",
        "",
        "0.5      bb-both    0.802 ± 0.002",
        "0.5      magnitude  0.702 ± 0.002",
        "",
        "0.25     bb-both    0.502 ± 0.002",
        "0.25     magnitude  0.502 ± 0.002",
    ]


def test_runs_that_are_missing_show() -> None:
    whole = study(range(3))
    points = {cell: each for cell, each in whole.points.items() if (cell.method, cell.seed) != ("dense", 2)}
    title, header, _, dense, *rest = score_lines(Comparison(points, *list(vars(whole).values())[1:]))
    assert title == "pr_auc, mean and SD"
    assert header.split() == ["density", "method", "pr_auc", "of"]
    assert dense.endswith("2 seeds")
    assert rest[-1].endswith("3 seeds")


def test_folds_that_are_missing_show() -> None:
    whole = study(range(3), ["a", "b"])
    points = {cell: each for cell, each in whole.points.items() if (cell.method, cell.fold) != ("dense", "b")}
    points |= {Cell("b", "dense", 1.0, 1): {"pr_auc": Point(0.1)}}
    some = Comparison(points, *list(vars(whole).values())[1:])
    title, _, _, dense, *rest = score_lines(some)
    assert title == "pr_auc, mean and SD"
    assert dense.endswith("1 seed x 2 folds")
    assert rest[-1].endswith("3 seeds x 2 folds")
    assert some.passed_over("pr_auc") == 2


def test_one_seed_has_no_spread_and_no_claim() -> None:
    one = study([0])
    assert "0.900" in score_lines(one)[3]
    assert not any("±" in line for line in score_lines(one))
    lines = difference_lines(one, one.differences(one.scores))
    assert lines[1].split() == ["density", "method", "difference", "verdict"]
    assert lines[3].split(maxsplit=3) == ["0.5", "dense", "+0.200", "no claim: 1 paired seeds"]


def test_differences_fit_a_narrow_terminal() -> None:
    many = study(range(6))
    lines = difference_lines(many, many.differences(many.scores))
    assert lines[0] == "pr_auc less magnitude, 95 % intervals, p adjusted for 4 comparisons"
    assert lines[1].split() == ["density", "method", "difference", "p", "verdict"]
    ahead = next(line for line in lines if line.startswith("0.5      bb-both"))
    assert "+0.100 [+0.100, +0.100]" in ahead
    assert ahead.endswith("ahead")
    assert max(map(len, lines)) <= 80


def test_a_difference_without_a_pair_is_an_empty_cell() -> None:
    whole = study(range(2))
    points = {cell: each for cell, each in whole.points.items() if cell.method != "dense"}
    some = Comparison(points, *list(vars(whole).values())[1:])
    lines = difference_lines(some, some.differences(["pr_auc"]))
    assert [line.split() for line in lines if "dense" in line] == [
        [density, "dense", "no", "claim:", "0", "paired", "seeds"] for density in ("0.5", "0.25")
    ]


def test_a_density_of_its_own_stands_beside_the_method() -> None:
    whole = study(range(2))
    points = dict(whole.points)
    points |= {Cell("all", "tuned", 0.1, seed): {"pr_auc": Point(0.6)} for seed in range(2)}
    own = {"dense": 1.0, "tuned": 0.1}
    given = (points, [*whole.methods, "tuned"], whole.densities)
    unpruned = frozenset({"dense"})
    some = Comparison(*given, "magnitude", own, {}, unpruned=unpruned)
    found = some.differences(["pr_auc"])
    lines = difference_lines(some, found)
    assert [line.split()[0] for line in lines if " tuned (density 0.1) " in line] == ["0.5", "0.25"]
    assert [line.split()[1] for line in lines if "dense " in line] == ["dense", "dense"]
    densities = [(row["density"], row["method_density"], row["less_density"]) for row in some.difference_rows(found)]
    assert densities[:3] == [("0.5", "1", "0.5"), ("0.5", "0.5", "0.5"), ("0.5", "0.1", "0.5")]
    other = Comparison(*given, "tuned", own, {}, unpruned=unpruned)
    title, _, _, dense, *_ = difference_lines(other, other.differences(["pr_auc"]))
    assert title.startswith("pr_auc less tuned (density 0.1), 95 % intervals, p adjusted for 5 comparisons")
    assert other.difference_rows(other.differences(["pr_auc"]))[0]["less_density"] == "0.1"
    assert dense.split()[:2] == ["0.5", "dense"]


def test_a_study_of_the_reference_alone_has_no_differences() -> None:
    assert difference_lines(study(range(2)), []) == []
