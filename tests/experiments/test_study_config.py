"""Settings of studies: what is refused, and in what words; plans and hashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_study import study, write_study

from synbb.errors import SynbbError
from synbb.experiments import StudySettings, load_study
from synbb.experiments.plan import PlannedRun, config_hash, plan
from synbb.experiments.study import look
from synbb.pruning.rows import Cell, RunTable
from synbb.schema import validated
from synbb.training.config import run_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "compare").glob("*.yaml"))
AFTER = {"method": "fixed", "after": "magnitude"}


def planned(**changes: Any) -> list[PlannedRun]:
    return plan(validated(StudySettings, study(**changes), "study"), Path("out"), "study")


@pytest.fixture(autouse=True)
def with_toy_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "magnitud"}, "reference 'magnitud' is none of the methods; did you mean 'magnitude'"),
        ({"densities": [0.5, 0]}, r"densities.1 = 0: .*greater than 0"),
        ({"densities": [1.5]}, r"densities.0 = 1.5: .*less than or equal to 1"),
        ({"densities": []}, "densities"),
        ({"densities": [0.5, 0.5]}, r"densities: 0.5 stands more than once"),
        ({"seeds": [1, 2, 1]}, r"seeds: 1 stands more than once"),
        ({"seeds": [-1]}, r"seeds.0 = -1"),
        ({"seeds": [0, 2**32]}, r"seeds.1 = 4294967296: .*less than 4294967296"),
        ({"methods__fixed": {"method": "fixed", "after": "magnitud"}}, "methods.fixed.after = 'magnitud' is none"),
        ({"methods__fixed": {"method": "fixed", "after": "dense"}}, "methods.fixed.after = 'dense': .* no masks"),
        (
            {"methods__a": {"method": "fixed", "after": "b"}, "methods__b": {"method": "fixed", "after": "a"}},
            "methods: a after b after a is a circle",
        ),
        ({"methods__a": {"method": "fixed", "after": "a"}}, "methods: a after a is a circle"),
        ({"methods__a/b": {"method": "random"}}, "name 'a/b' becomes a folder"),
        (
            {
                "methods__l": {"method": "bb", "tau": 0.3},
                "methods__f": {"method": "fixed", "after": "l", "density": 0.2},
            },
            "methods.f.after = 'l': that method is run at what its tau makes of it; drop methods.f.density",
        ),
        ({"run__seed": 3}, "run: seed has no effect, as `seeds` of the study decide it"),
        ({"run__pruning__density": 0.1}, "run: pruning.density has no effect, as `densities` of the study decide it"),
        ({"folds": {"one": {"seed": 3}}}, "folds.one: seed has no effect"),
        ({"folds": {"one": {"pruning.density": 0.1}}}, "folds.one: pruning.density has no effect"),
        ({"folds": {"one": {"pruning": {"density": 0.1}}}}, "folds.one: pruning.density has no effect"),
        ({"metods": {}}, "unknown key 'metods'; did you mean 'methods'"),
        (
            {"methods__m": {"method": "magnitude", "density": 0.1}, "methods__f": {"method": "fixed", "after": "m"}},
            "run at a density of its own; give methods.f.density = 0.1 too",
        ),
        (
            {
                "methods__m": {"method": "magnitude", "density": 0.1},
                "methods__f": {"method": "fixed", "after": "m", "density": 0.2},
            },
            "run at a density of its own; give methods.f.density = 0.1 too",
        ),
        (
            {"methods__f": {"method": "fixed", "after": "magnitude", "density": 0.1}},
            "methods.f.after = 'magnitude': that method is run at each density of the study; drop methods.f.density",
        ),
    ],
)
def test_studies_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        validated(StudySettings, study(**changes), "study")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods__odd": {"method": "magnitud"}}, "pruning method 'magnitud' is none"),
        (
            {"methods__odd": {"method": "random", "densty": 0.1}},
            "fold all, method odd: unknown key 'densty' in pruning",
        ),
        ({"methods__odd": {"method": "random", "density": 2}}, "methods.odd.density = 2 is no number above 0"),
        (
            {"methods__odd": {"method": "magnitude", "beta": "scaled", "drop": 0.9, "warmup": 0}},
            "methods.odd: beta, drop: no option that method magnitude reads; remove",
        ),
        ({"methods__odd": {"method": "none", "minimum": 7}}, "methods.odd: minimum: no option that method none reads"),
        ({"folds": {"one": {"data.nois": 1}}}, "fold one, method dense: unknown key 'nois' in data; did you mean"),
        ({"folds": {"one": {"data.noise.x": 1}}}, "folds.one: data.noise holds no keys"),
        ({"run__pruning__tau": 0.3, "densities": [0.25]}, "run.pruning.tau = 0.3: .* give it to methods"),
        ({"run__pruning": None}, "study: run.pruning = None holds no keys"),
        ({"run__pruning": 3}, "study: run.pruning = 3 holds no keys"),
        ({"run__training__devices": 2}, "training.devices=2: each run of a study has one device"),
    ],
)
def test_runs_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SynbbError, match=message):
        planned(**changes)


def test_masks_of_the_run_that_all_begin_with_are_held_when_asked_alone(tmp_path: Path) -> None:
    run = tmp_path / "pruned"
    run.mkdir()
    start = {"run__training__start_from": str(run)}
    assert planned(**start), "a run without masks has none to hold"
    (run / "masks.safetensors").touch()
    with pytest.raises(SynbbError, match="is a pruned run, whose masks every method would hold unasked; give run"):
        planned(**start)
    for masks in ("reopen", "dense", "keep"):
        assert planned(**start, run__pruning__masks=masks)
    one = {"dense": {"method": "none", "masks": "dense"}, "held": {"method": "none", "masks": "keep"}}
    assert planned(**start, methods=one, reference="dense")


def test_base_is_a_run_that_is_changed(tmp_path: Path) -> None:
    values = study()
    base = values.pop("run")
    base |= {"seed": 3, "pruning": {**base["pruning"], "density": 0.1}}  # of a run alone: a study has its own
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(base))
    values |= {"base": str(tmp_path / "run.yaml"), "run": {"training": {"steps": 7}}}
    file = tmp_path / "based.yaml"
    file.write_text(yaml.safe_dump(values))
    run = load_study(file, ["seeds=[5]", "run.data.noise=0.5"]).run
    assert run["training"] == {**base["training"], "steps": 7}
    assert run["data"] == {"noise": 0.5}
    found = load_study(file, ["seeds=[5]"])
    assert found.seeds == (5,)
    runs = plan(found, tmp_path, file.name)
    assert {each.config.seed for each in runs} == {5}
    assert {each.config.pruning.density for each in runs if each.cell.method != "dense"} == {0.5, 0.25}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_studies_can_be_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    settings = load_study(path)
    runs = plan(settings, tmp_path, path.name)
    assert len({each.cell for each in runs}) == len(runs)
    assert {each.cell.method for each in runs} == set(settings.methods)


def test_shipped_studies_keep_test_rows_apart() -> None:
    """Guards of 32 rows around what is scored, and no column from 704 on."""
    from synbb.volumes import Box

    scored = []
    for path in (path for path in CONFIGS if path.name in ("vnc-screen.yaml", "vnc.yaml")):
        settings = load_study(path)
        runs = plan(settings, Path("out"), path.name)
        for name in settings.folds:
            first = next(each for each in runs if each.cell.fold == name)
            boxes = {split: [] for split in ("train", "validation", "test")}
            for volume in first.config.data.volumes:
                boxes[volume.split] += [Box.parse(text) for text in volume.regions]
                assert Box.parse(volume.extent).stop[2] == 704
            for one, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
                for a in boxes[one]:
                    assert all(a.grow((0, 32, 0)).intersect(b) is None for b in boxes[other]), (name, one, other)
            scored += boxes["test"]
            assert sum(b.shape[1] for b in boxes["validation"]) == 128
    # What screening scored is not what confirmation scores.
    assert sorted((b.start[1], b.stop[1]) for b in scored) == [(0, 256), (256, 512), (512, 768), (768, 1024)]


def test_every_run_once_and_in_an_order_that_can_be_done() -> None:
    runs = planned(methods={"late": AFTER, "dense": {"method": "none"}, "magnitude": {"method": "magnitude"}})
    cells = [each.cell for each in runs]
    assert len(cells) == len(set(cells)) == 2 * (1 + 2 + 2)  # dense once a seed
    assert {cell.density for cell in cells if cell.method == "dense"} == {1.0}
    for each in runs:
        if each.cell.method == "late":
            before = Cell("all", "magnitude", each.cell.density, each.cell.seed)
            assert each.after == before
            assert cells.index(before) < cells.index(each.cell)
            assert each.config.pruning.masks_from == str(runs[cells.index(before)].masks_file)
        assert each.config.seed == each.cell.seed
        assert each.config.pruning.density == each.cell.density or each.cell.method == "dense"


def test_only_some_methods_and_those_that_they_need() -> None:
    settings = validated(StudySettings, study(methods__late=AFTER), "study")
    assert {each.cell.method for each in plan(settings, Path("out"), "s", ("late",))} == {"late", "magnitude"}
    with pytest.raises(SynbbError, match="--only 'lat' is none of the study's methods; did you mean 'late'"):
        plan(settings, Path("out"), "s", ("lat",))


def test_only_some_folds() -> None:
    settings = validated(StudySettings, study(folds={"a": {}, "b": {"training.steps": 31}}), "study")
    every = plan(settings, Path("out"), "s")
    some = plan(settings, Path("out"), "s", folds=("b",))
    assert some == [each for each in every if each.cell.fold == "b"] != []
    with pytest.raises(SynbbError, match="--folds 'c' is none of the study's folds"):
        plan(settings, Path("out"), "s", folds=("b", "c"))


def hashes(**changes: Any) -> dict[Cell, str]:
    return {each.cell: each.config_hash for each in planned(**changes)}


def test_what_changes_a_hash() -> None:
    before = hashes(methods__late=AFTER)
    assert len(set(before.values())) == len(before)
    assert hashes(methods__late=AFTER, run__training__prefetch=2, run__training__checkpoint_every=3) == before
    longer = hashes(methods__late=AFTER, run__training__steps=31)
    assert all(longer[cell] != before[cell] for cell in before)
    # Masks of other settings are other masks; an unpruned run has no use for pruning settings.
    other = hashes(methods__late=AFTER, methods__magnitude={"method": "magnitude", "scope": "network"})
    changed = {cell.method for cell in before if other[cell] != before[cell]}
    assert changed == {"magnitude", "late"}
    assert all(
        (a == b) == (cell.method == "dense")
        for cell, a in hashes(run__pruning__refresh=6).items()
        for b in [hashes()[cell]]
    )


def test_options_that_are_off_change_no_hash() -> None:
    values = study()["run"] | {"pruning": {"method": "random"}}
    plain = run_config(values, "run")

    class WithMore(type(plain)):  # type: ignore[misc]
        a_new_option: str | None = None
        another: bool = False

    assert config_hash(WithMore.model_validate(values)) == config_hash(plain)
    assert config_hash(WithMore.model_validate({**values, "another": True})) != config_hash(plain)


def hashed(**changes: Any) -> str:
    values = {**study()["run"], **changes}
    return config_hash(run_config(values, "run"))


def test_masks_that_are_given_by_path_are_part_of_the_hash() -> None:
    fixed = {"method": "fixed", "masks_from": "a/masks.safetensors"}
    assert hashed(pruning=fixed) != hashed(pruning={**fixed, "masks_from": "b/masks.safetensors"})
    # Of another run of the study, its hash tells: the folder of the study does not matter.
    one, other = (plan(validated(StudySettings, study(methods__late=AFTER), "s"), Path(at), "s") for at in ("x", "y"))
    assert [each.config_hash for each in one] == [each.config_hash for each in other]
    assert one[-1].config.pruning.masks_from != other[-1].config.pruning.masks_from


def test_masks_that_are_kept_are_another_run_than_none() -> None:
    start = {**study()["run"].get("training", {}), "start_from": "runs/a"}

    def of(training: dict[str, Any], **pruning: Any) -> str:
        return hashed(training=training, pruning={"method": "none", **pruning})

    assert of(start, masks="keep") != of(start, masks="dense")
    assert of(start) != of(start, masks="dense") == of(start, masks="reopen") == of(start, masks="dense", density=0.5)
    assert of(start, masks="keep", exclude=["a"]) != of(start, masks="keep")


def test_off_and_the_usual_are_two_settings() -> None:
    def of(**data: Any) -> str:
        volume = {"name": "a", "raw": "r", "labels": "l", "split": "train"}
        values = {"data": {"volumes": [volume], **data}, "model": {"voxel_size": [40, 8, 8]}}
        return config_hash(run_config(values, "run"))

    assert of() == of(objects=None)
    assert of(objects=False) != of()
    assert of(objects={}) not in (of(), of(objects=False))


def test_rows_decide_what_is_to_be_done(tmp_path: Path) -> None:
    runs = planned(methods__late=AFTER)
    table = RunTable(tmp_path / "runs.csv")
    late = next(each for each in runs if each.cell.method == "late")
    before = next(each for each in runs if each.cell == late.after)
    for each in runs:
        if each is not late:
            table.append(each.cell, each.config_hash, {"accuracy": 0.5})
    table.append(late.cell, "0" * 12, {"accuracy": 0.4})
    found = look(runs, table)
    # Its masks are gone with another machine: the run that it needs is done again.
    assert [each.cell for each in found.todo] == [before.cell, late.cell]
    assert [row["accuracy"] for row in found.other] == ["0.4"]
    assert len(found.done) == len(runs) - 1


def test_studies_that_are_shipped_find_the_rows_that_are_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash that moves would have everything trained anew: options are added so that they change none."""
    monkeypatch.chdir(Path(__file__).parents[2])
    known: dict[Path, dict[Cell, set[str]]] = {}
    for file in sorted(Path("configs/compare").glob("*.yaml")):
        found = load_study(file)
        if found.table is not None and Path(found.table).exists():
            for each in plan(found, Path("runs"), str(file)):
                known.setdefault(Path(found.table), {}).setdefault(each.cell, set()).add(each.config_hash)
    assert len(known) >= 10
    for table, cells in known.items():
        rows = [(Cell.of(row), row["config_hash"]) for row in RunTable(table).rows()]
        own = [(cell, one) for cell, one in rows if cell in cells]  # not those of other seeds or densities
        assert own
        lost = [str(cell) for cell, one in own if one not in cells[cell]]
        assert not lost, f"{table}: rows that no study finds: {lost[:5]}"
