"""``synbb.pruning.compare``: a model and a loop of one's own."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from synbb.errors import SynbbError
from synbb.pruning import Magnitude, RandomMask
from synbb.pruning.comparison import compare
from synbb.pruning.rows import Cell, RunTable

METHODS = {
    "dense": None,
    "magnitude": lambda density, seed: Magnitude(density, warmup=2, ramp=6, refresh=2),
    "random": lambda density, seed: RandomMask(density, warmup=2, ramp=6, refresh=2, seed=seed),
}


class Training:
    """Fits a line through a perceptron; counts how often it is called."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, pruner, seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        if pruner is not None:
            pruner.attach(model, torch.zeros(1, 2), optimizer=optimizer)
        x = torch.randn(64, 2)
        for _ in range(12):
            loss = ((model(x)[:, 0] - x.sum(dim=1)) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if pruner is not None:
                pruner.step()
        self.calls.append(("dense" if pruner is None else pruner.method, seed))
        return {"score": 1 - float(loss.detach()), "steps_done": 12}


def test_every_method_density_and_seed_once(tmp_path: Path) -> None:
    train = Training()
    options = {"densities": [0.5, 0.25], "seeds": range(5), "reference": "random", "table": tmp_path / "runs.csv"}
    found = compare(train, METHODS, **options)
    assert len(train.calls) == 5 * (1 + 2 + 2)
    with (tmp_path / "runs.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 25
    for row in rows:
        assert float(row["realised_density"]) == pytest.approx(float(row["density"]), abs=0.02)
    text = str(found)
    assert "no claim" not in text
    assert all(f"| {name} " in text for name in METHODS)
    differences = found.differences(["score"])
    assert [(each.method, each.density) for each in differences] == [
        (name, density) for density in (0.5, 0.25) for name in ("dense", "magnitude")
    ]
    assert all(each.difference.low <= each.difference.mean <= each.difference.high for each in differences)
    # A second call runs nothing; another version runs everything again.
    again = compare(train, METHODS, **options)
    assert len(train.calls) == 25
    rounded = {
        key: {name: pytest.approx(p.score, rel=1e-4) for name, p in each.items()} for key, each in found.points.items()
    }
    assert {key: {name: p.score for name, p in each.items()} for key, each in again.points.items()} == rounded
    compare(train, METHODS, version="2", **{**options, "seeds": [0]})
    assert len(train.calls) == 30


def test_densities_of_more_digits_than_a_table_holds_are_found_again(tmp_path: Path) -> None:
    train = Training()
    options = {"densities": [1 / 3, 0.25], "seeds": [0, 1], "reference": "random", "table": tmp_path / "runs.csv"}
    found = compare(train, METHODS, **options)
    assert len(found.points) == len(train.calls) == 2 * (1 + 2 + 2)
    assert len(found.at("magnitude", 1 / 3, "score")) == 2
    with (tmp_path / "runs.csv").open(newline="") as handle:
        assert {row["density"] for row in csv.DictReader(handle)} == {"1", "0.333333", "0.25"}
    compare(train, METHODS, **options)
    assert len(train.calls) == 10


def test_what_was_done_before_an_error_is_kept(tmp_path: Path) -> None:
    train = Training()

    def fails(pruner, seed: int) -> dict[str, float]:
        if seed == 1:
            raise RuntimeError("out of luck")
        return train(pruner, seed)

    options = {"densities": [0.5], "seeds": [0, 1], "reference": "dense", "table": tmp_path / "runs.csv"}
    with pytest.raises(RuntimeError, match="out of luck"):
        compare(fails, METHODS, **options)
    assert len(train.calls) == 3
    compare(train, METHODS, **options)
    assert [seed for _, seed in train.calls] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "dens"}, "reference 'dens' is none of the methods dense, magnitude, random"),
        ({"densities": [0.0]}, r"density 0.0 is not above 0 and at most 1"),
        ({"densities": []}, "no density is given"),
        ({"seeds": [1, 1]}, "seed 1 is given more than once"),
        ({"densities": [1 / 3, 0.333333]}, "density 0.333333 is given more than once"),
        ({"methods": {"dense": None, "bb": "bb"}}, "method 'bb' is str: give a function of density and seed"),
        ({"methods": {"dense": None, "bb": Magnitude(0.5)}}, "method 'bb' is Magnitude: give a function"),
    ],
)
def test_comparisons_that_cannot_be(changes: dict, message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        compare(Training(), **{"methods": METHODS, "densities": [0.5], "seeds": [0], "reference": "dense", **changes})


def test_scores_that_are_none() -> None:
    options = {"densities": [0.5], "seeds": [0], "reference": "dense"}
    with pytest.raises(SynbbError, match="train_fn returned score = None for all dense density 1 seed 0"):
        compare(lambda *_: None, METHODS, **options)
    with pytest.raises(SynbbError, match="a score named 'density', which is a column of the table: rename it"):
        compare(lambda *_: {"density": 1.0}, METHODS, **options)
    with pytest.raises(SynbbError, match="train_fn returned loss = nan for all dense density 1 seed 0: return what"):
        compare(lambda *_: {"loss": float("nan")}, METHODS, **options)


def test_names_that_are_no_score_would_turn_verdicts_round(tmp_path: Path) -> None:
    options = {"densities": [0.5], "seeds": [0, 1], "reference": "dense"}
    training = Training()
    with pytest.raises(
        SynbbError, match="smaller_is_better names 'los', which is no score; there are score, steps_done"
    ):
        compare(training, METHODS, **options, smaller_is_better=["los"])
    assert len(training.calls) <= 1, "the first run shows it"
    with pytest.raises(SynbbError, match=r"smaller_is_better must be a list of scores: \['loss'\]"):
        compare(training, METHODS, **options, smaller_is_better="loss")
    table = tmp_path / "runs.csv"
    compare(training, METHODS, **options, table=table, smaller_is_better=["score"])
    with pytest.raises(SynbbError, match="smaller_is_better names 'los'"):
        compare(training, METHODS, **options, table=table, smaller_is_better=["los"])


def test_a_run_may_leave_a_score_out(tmp_path: Path) -> None:
    """As the message about scores that are not finite advises."""
    calls: list[int] = []

    def train(pruner: None, seed: int) -> dict[str, float]:
        calls.append(seed)
        return {"acc": 0.5} if seed else {"acc": 1.0, "wer": 0.25}

    options = {"densities": [1.0], "seeds": [0, 1, 2], "reference": "dense", "smaller_is_better": ["wer"]}
    options["table"] = tmp_path / "runs.csv"
    for _ in range(2):
        found = compare(train, {"dense": None}, **options)
        assert [len(found.at("dense", 1.0, name)) for name in ("acc", "wer")] == [3, 1]
    assert calls == [0, 1, 2]
    (tmp_path / "runs.csv").unlink()
    with pytest.raises(SynbbError, match="smaller_is_better names 'wer'"):
        compare(train, {"dense": None}, **{**options, "seeds": [1, 0]})
    compare(train, {"dense": None}, **{**options, "seeds": [1, 0]})
    assert calls == [0, 1, 2, 1, 0], "the first run was kept"


def test_a_training_that_ends_before_the_last_masks_is_told_of() -> None:
    methods = {"dense": None, "late": lambda density, seed: Magnitude(density, warmup=2, ramp=60, refresh=2)}
    told = r"all late density 0\.5 seed 0: .* at step 12, before the last masks \(step 62\)"
    with pytest.warns(UserWarning, match=told):
        found = compare(Training(), methods, densities=[0.5], seeds=[0], reference="dense")
    assert 0.5 < next(each for cell, each in found.realised.items() if cell.method == "late") < 1


def test_a_pruner_that_nobody_attached_is_no_run() -> None:
    options = {"densities": [0.5], "seeds": [0], "reference": "dense"}
    with pytest.raises(SynbbError, match="train_fn returned and did not attach the pruner that it was given"):
        compare(lambda *_: {"loss": 1.0}, METHODS, **options)


def test_tables_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    table = RunTable(file)
    table.append(Cell("all", "bb", 0.1, 3), "abc", {"score": 0.123456789, "missing": None})
    table.append(Cell("all", "bb", 0.1, 4), "abc", {"score": float("nan"), "later": 2})
    found = RunTable(file)
    assert found.rows()[0] == {
        "fold": "all",
        "method": "bb",
        "density": "0.1",
        "seed": "3",
        "config_hash": "abc",
        "score": "0.123457",
        "missing": "",
        "later": "",
    }
    assert found.find(Cell("all", "bb", 0.1, 4), "abc")["later"] == "2"
    assert found.find(Cell("all", "bb", 0.1, 4), "abd") is None
    assert found.others(Cell("all", "bb", 0.1, 4), "abd") == [found.rows()[1]]
    file.write_text(file.read_text() + "all,bb,much,4,abc,1,2,3\n")
    with pytest.raises(SynbbError, match=r"runs.csv: line 4 is no row of a run .* mend or remove the line"):
        RunTable(file)
    file.write_text("a,b\n1,2\n")
    with pytest.raises(SynbbError, match="line 2 is no row of a run"):
        RunTable(file)
