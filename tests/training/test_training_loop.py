"""A tiny run: what it learns, what it leaves behind, what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import config, trained, write_config, write_pair
from torch import nn

from synbb.errors import RunEnded, SynbbError
from synbb.models.unet import build_unet
from synbb.training import RunFolder, keeping, make_task, start
from synbb.training.config import TrainingSettings
from synbb.training.events import EventFile
from synbb.training.keeping import recalibrate
from synbb.training.session import make_fabric, one_cycle


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pair(folder)
    return folder


@pytest.fixture(scope="module")
def finished(data: Path) -> tuple[RunFolder, list[str]]:
    """A run of 60 steps that began with its validation at step 12."""
    return trained(config(data, training__steps=60, training__validate_every=12), data / "finished")


def weights(run: RunFolder, which: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run.weights_file(which))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns(finished) -> None:
    run, _ = finished
    losses = [row["loss"] for row in run.records("train")]
    assert np.mean(losses[-2:]) < 0.8 * losses[0]
    scores = [row["pr_auc"] for row in run.records("validation")]
    assert scores[-1] > 0.5  # the share of foreground is 0.12


def test_the_run_folder_holds_what_it_says(finished) -> None:
    run, said = finished
    there = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    events = {name for name in there if name.startswith("tensorboard/events")}
    assert there - events == {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "pruning.json",
        "masks.safetensors",
        "balance.csv",
        "checkpoints/last.pt",
        *(f"weights/{which}.{ending}" for which in ("last", "best") for ending in ("json", "safetensors")),
    }
    assert len(events) == 1
    assert run.info()["data"]["volumes"][0]["licence"] == "CC0"
    assert sum("validation pr-auc" in line for line in said) == 5


def test_metrics_parse_and_repeat_in_tensorboard(finished) -> None:
    run, _ = finished
    rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"train", "validation", "refresh", "pruning"}
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(10, 61, 10))
    assert all(math.isfinite(row["loss"]) for row in run.records("train"))
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    diagnostics = {key for row in run.records("pruning") for key in row} - {"kind", "step"}
    assert diagnostics > {"entropy", "traffic", "dead", "macs", "held_out_entropy", "held_out_correlation"}
    for kind, key in (
        *(("train", "loss"), ("validation", "pr_auc"), ("refresh", "churn"), ("refresh", "density")),
        *(("pruning", key) for key in diagnostics),
    ):
        logged = {event.step: event.value for event in events.Scalars(f"{kind}/{key}")}
        assert logged == pytest.approx({row["step"]: row[key] for row in run.records(kind) if key in row})


def test_density_falls_to_the_target_and_masks_freeze(finished) -> None:
    run, _ = finished
    refreshes = run.records("refresh")
    assert [row["step"] for row in refreshes] == [*range(11, 36, 2), 36]
    densities = [row["density"] for row in refreshes]
    assert densities == sorted(densities, reverse=True)
    assert densities[-1] == pytest.approx(0.5, abs=0.01)
    report = run.pruning_report()
    assert report["final"]
    assert report["density"] == densities[-1]


def test_best_is_the_best_of_those_with_final_masks(finished) -> None:
    run, _ = finished
    rows = run.records("validation")
    assert [row["final"] for row in rows] == [False, False, True, True, True]
    best = run.weights_info("best")
    final = {row["step"]: row["pr_auc"] for row in rows if row["final"]}
    assert best["final"]
    assert best["validation"]["pr_auc"] == max(final.values())
    assert best["step"] == max(final, key=final.get)
    last = run.weights_info("last")
    assert last["step"] == 60
    assert 0 < last["decision"]["threshold"] < 1
    assert last["selected_by"] == "pr_auc"


def test_an_early_best_score_with_unfinished_masks_does_not_count(data: Path, monkeypatch, tmp_path: Path) -> None:
    from synbb.tasks.base import Validation
    from synbb.tasks.synapse import SynapseTask

    scores = iter([0.9, 0.2, 0.3, 0.25])
    monkeypatch.setattr(
        SynapseTask, "validate", lambda *_: Validation({"pr_auc": next(scores)}, "pr_auc", {"threshold": 0.5})
    )
    run, _ = trained(config(data, training__steps=12, training__validate_every=3), tmp_path / "run")
    assert [row["final"] for row in run.records("validation")] == [False, False, True, True]
    assert run.weights_info("best")["step"] == 9


def test_stored_weights_are_masked_and_belong_to_their_json(finished) -> None:
    run, _ = finished
    state = torch.load(run.checkpoint_file, weights_only=True)
    stored = weights(run)
    for name, mask in state["pruner"]["masks"].items():
        assert torch.all(stored[f"{name}.weight"][~mask.expand_as(stored[f"{name}.weight"])] == 0)
    file = run.weights_file("last").with_suffix(".json")
    text = file.read_text()
    file.write_text(text.replace(json.loads(text)["sha256"], "0" * 64))
    with pytest.raises(SynbbError, match=r"last.safetensors is damaged, or the run was stopped.*--resume"):
        run.weights_info("last")
    file.write_text(text)
    with pytest.raises(SynbbError, match="no weights 'worst'; it has last and best"):
        run.weights_info("worst")


def test_one_seed_one_run(data: Path, tmp_path: Path) -> None:
    one, _ = trained(config(data), tmp_path / "one")
    two, _ = trained(config(data, training__loader_threads=3, training__prefetch=2), tmp_path / "two")
    other, _ = trained(config(data, seed=4), tmp_path / "other")
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))


def test_method_none_is_bit_for_bit_density_one(data: Path, tmp_path: Path) -> None:
    dense, _ = trained(config(data, pruning__density=1.0), tmp_path / "dense")
    none, _ = trained(config(data, pruning__method="none"), tmp_path / "none")
    assert same(weights(dense), weights(none))
    assert not none.records("refresh")
    assert none.weights_info("best")["final"]
    # The same figures of the same network: on the same held-out patches, whether a pruner looked on or not.
    one, other = (run.pruning_report() for run in (dense, none))
    assert one["held_out"]["inputs"] == other["held_out"]["inputs"] == 16
    for name in ("entropy", "traffic", "correlation", "constant", "participation"):
        assert one["held_out"][name] == other["held_out"][name]
    assert (other["method"], other["macs"], other["dead"]) == ("none", one["macs"], one["dead"])
    assert none.records("pruning")[-1]["held_out_entropy"] == other["held_out"]["entropy"]


def test_a_dense_network_without_units_trains_without_a_report(data: Path, tmp_path: Path, monkeypatch) -> None:
    from synbb.training import keeping

    def nothing(*_: object) -> None:
        raise SynbbError("no layer reads the output of an activation, nothing to prune")

    monkeypatch.setattr(keeping, "trace", nothing)
    run, _ = trained(config(data, pruning__method="none"), tmp_path / "run")
    assert run.weights_info("last")["step"] == 12
    with pytest.raises(SynbbError, match="no pruning report: no validation has come yet, or no units were found"):
        run.pruning_report()


def test_without_a_validation_split_nothing_is_held_out(data: Path, tmp_path: Path) -> None:
    volumes = config(data).plain()["data"]["volumes"][:1]
    run, _ = trained(config(data, data__volumes=volumes), tmp_path / "run")
    assert run.pruning_report()["held_out"] is None
    row = run.records("pruning")[-1]
    assert "entropy" in row
    assert not any(name.startswith("held_out") for name in row)


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_rivals_reach_the_density(data: Path, tmp_path: Path, method: str) -> None:
    run, _ = trained(config(data, pruning__method=method), tmp_path / "run")
    assert run.weights_info("last")["density"] == pytest.approx(0.5, abs=0.02)


def test_recalibration_is_a_plain_average_over_the_patches() -> None:
    torch.manual_seed(0)
    net = build_unet((40, 8, 8), filters=(4, 8, 8))
    batches = [torch.randn(2, 1, 4, 16, 16) * (1 + i) for i in range(5)]
    first = next(m for m in net.modules() if isinstance(m, nn.BatchNorm3d))
    seen: list[torch.Tensor] = []
    handle = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    recalibrate(net, iter(batches), "cpu")
    handle.remove()
    means = torch.stack([x.mean((0, 2, 3, 4)) for x in seen]).mean(0)
    variances = torch.stack([x.var((0, 2, 3, 4), unbiased=True) for x in seen]).mean(0)
    assert torch.allclose(first.running_mean, means, atol=1e-6)
    assert torch.allclose(first.running_var, variances, rtol=1e-5)
    assert first.momentum == 0.1
    before = first.running_mean.clone()
    recalibrate(net, iter(batches), "cpu")
    assert torch.equal(first.running_mean, before)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 40])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.15, 0.5, 0.99])
def test_the_learning_rate_rises_and_falls_for_any_number_of_steps(steps: int, warmup: float) -> None:
    settings = TrainingSettings(steps=steps, warmup=warmup, learning_rate=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = one_cycle(optimizer, settings)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert all(0 <= rate <= 0.1 + 1e-9 for rate in rates)
    top = int(np.argmax(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_tensorboard_forgets_steps_that_are_done_again(tmp_path: Path) -> None:
    first = EventFile(tmp_path)
    for step in range(1, 9):
        first.add({"a": float(step)}, step)
    first.close()
    second = EventFile(tmp_path, 5)
    second.add({"a": 60.0}, 6)
    second.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("a")] == [(s, s) for s in range(1, 6)] + [(6, 60)]


# ---- starting, refusing, going on ----


def begin(file: Path, output: Path, *overrides: str, resume: bool = False) -> list[str]:
    said: list[str] = []
    start(file, list(overrides), output=output, resume=resume, say=said.append)
    return said


@pytest.fixture
def file(data: Path) -> Path:
    return write_config(data)


def test_an_existing_run_needs_resume(file: Path, tmp_path: Path) -> None:
    begin(file, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(SynbbError, match=r"run holds a run already: continue it with --resume"):
        begin(file, tmp_path / "run")
    with pytest.raises(SynbbError, match=r"other settings: pruning.density was 0.5, is 0.3"):
        begin(file, tmp_path / "run", "pruning.density=0.3", resume=True)
    with pytest.raises(SynbbError, match=r"data.volumes.0.weight was 1.0, is 2.0"):
        begin(file, tmp_path / "run", "data.volumes.0.weight=2", resume=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert "trained already" in begin(file, tmp_path / "run", resume=True)


def test_resume_without_a_run(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"nothing is no run folder"):
        begin(file, tmp_path / "nothing", resume=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_left_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(SynbbError, match=r"mine exists and is no run folder"):
        begin(file, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_empty_folder_will_do(file: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    begin(file, tmp_path / "run", "training.steps=1")
    assert RunFolder.open(tmp_path / "run").weights_info("last")["step"] == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pruning.exclude=[nowhere]", "pruning.exclude: 'nowhere' fits no layer"),
        ("pruning.exclude=['*']", "no layer is left to prune"),
        ("pruning.minimum=99", "minimum"),
        ("training.accelerator=cuda", "torch sees no GPU"),
        ("training.devices=3", r"training.batch_size=2 must be a multiple of the 3 devices"),
        ("data.cache_mib=8", None),
    ],
)
def test_settings_that_do_not_fit_leave_no_folder(file: Path, tmp_path: Path, override: str, message) -> None:
    if override == "training.accelerator=cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if message is None:
        begin(file, tmp_path / "run", override, "training.steps=1")
        return
    with pytest.raises(SynbbError, match=message):
        begin(file, tmp_path / "run", override)
    assert not list(tmp_path.iterdir())


def poison(monkeypatch: pytest.MonkeyPatch, at: int, how: str) -> None:
    """Make the loss, or only its gradient, NaN in the step ``at`` (from 1)."""
    from synbb.tasks.synapse import SynapseTask

    original, calls = SynapseTask.loss, []

    def loss(self, outputs, batch):
        calls.append(1)
        value = original(self, outputs, batch)
        if len(calls) != at:
            return value
        return value * float("nan") if how == "loss" else value + (outputs * 0).abs().sqrt().sum()

    monkeypatch.setattr(SynapseTask, "loss", loss)


@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.parametrize("clip", ["5", "0"])
def test_nan_ends_the_run_names_the_step_and_keeps_the_last_good_checkpoint(
    file: Path, tmp_path: Path, monkeypatch, how: str, clip: str
) -> None:
    poison(monkeypatch, 8, how)
    changes = [f"training.gradient_clip={clip}"]
    with pytest.raises(
        RunEnded, match=rf"the {how} is nan at step 8; the last good .*run/checkpoints/last.pt"
    ) as ended:
        begin(file, tmp_path / "run", *changes)
    assert ended.value.exit_status == 3
    run = RunFolder.open(tmp_path / "run")
    state = torch.load(run.checkpoint_file, weights_only=True)
    assert state["step"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())
    monkeypatch.undo()
    assert "resuming after step 6 of 12" in begin(file, tmp_path / "run", *changes, resume=True)
    begin(file, tmp_path / "clean", *changes)
    assert same(weights(run), weights(RunFolder.open(tmp_path / "clean")))


@pytest.fixture
def dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that draws from torch's own generator in every pass."""
    from synbb.tasks.synapse import SynapseTask

    original = SynapseTask.build_model

    def build(self):
        net = original(self)
        net.register_forward_pre_hook(lambda module, inputs: (F.dropout(inputs[0], 0.3, module.training), *inputs[1:]))
        return net

    monkeypatch.setattr(SynapseTask, "build_model", build)


def test_a_resumed_run_with_dropout_is_the_one_that_was_not_stopped(
    file: Path, tmp_path: Path, monkeypatch, dropout
) -> None:
    with monkeypatch.context() as bad:
        poison(bad, 8, "loss")
        with pytest.raises(RunEnded, match="loss is nan at step 8"):
            begin(file, tmp_path / "run", "pruning.gate=0")
    run = RunFolder.open(tmp_path / "run")
    shutil.copytree(run.path, tmp_path / "old")
    begin(file, tmp_path / "run", "pruning.gate=0", resume=True)
    begin(file, tmp_path / "clean", "pruning.gate=0")
    clean = RunFolder.open(tmp_path / "clean")
    assert same(weights(run), weights(clean))
    # A checkpoint of before states were kept goes on all the same, with other numbers.
    old = RunFolder.open(tmp_path / "old")
    state = torch.load(old.checkpoint_file, weights_only=True)
    del state["random"]
    torch.save(state, old.checkpoint_file)
    begin(file, old.path, "pruning.gate=0", resume=True)
    assert not same(weights(old), weights(clean))


class Second:
    """What :mod:`synbb.training.keeping` asks of Fabric, in the second of two processes on a CPU."""

    device, world_size, global_rank = torch.device("cpu"), 2, 1

    def __init__(self, first: torch.Tensor) -> None:
        self.first = first

    def all_gather(self, own: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.first, own])

    def seed_everything(self, seed: int, *, verbose: bool) -> None:
        torch.manual_seed(seed)


def test_generators_are_seeded_anew_at_any_step() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    drawn = []
    for seed in (0, 2**32 - 1):
        for done in (0, 1, 4294, 4295, 10**7):  # 1,000,003 times 4,295 is no number of 32 bits any more
            keeping.seed_generators(SimpleNamespace(fabric=fabric, config=SimpleNamespace(seed=seed)), done)
            drawn.append(float(torch.rand(())))
    assert len(set(drawn)) == len(drawn)


def test_each_process_draws_numbers_of_its_own_again() -> None:
    session = SimpleNamespace(fabric=Second(torch.get_rng_state()), config=SimpleNamespace(seed=0))
    torch.rand(3)
    states = keeping._random_states(session)
    drawn = torch.rand(5)
    keeping._set_random(session, states, 7)
    assert torch.equal(torch.rand(5), drawn)
    torch.manual_seed(1 + 7 * 1_000_003)
    fresh = torch.rand(5)
    for other in (None, {"cpu": states["cpu"][:1]}):  # of before states were kept; of one process
        keeping._set_random(session, other, 7)
        assert torch.equal(torch.rand(5), fresh)


def test_nan_in_the_first_step_says_that_nothing_is_kept(file: Path, tmp_path: Path, monkeypatch) -> None:
    poison(monkeypatch, 1, "loss")
    with pytest.raises(RunEnded, match="at step 1; no checkpoint was written yet"):
        begin(file, tmp_path / "run")


def test_weights_that_overflow_are_never_kept(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RunEnded, match=r"(not finite after|nan at|inf at) step"):
        begin(file, tmp_path / "run", "training.learning_rate=1e38", "training.checkpoint_every=1")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


def test_a_run_stopped_before_its_first_checkpoint_begins_again(file: Path, data: Path, tmp_path: Path) -> None:
    given = config(data)
    task = make_task(given)
    task.prepare()
    run = RunFolder.create(tmp_path / "run", given, data=task.facts())
    task.close()
    run.record(kind="train", step=3, loss=1.0)
    with run.metrics_file.open("a") as handle:
        handle.write('{"kind": "train", "st')
    assert "resuming after step 0 of 12" in begin(file, tmp_path / "run", resume=True)
    assert [row["step"] for row in run.records("train")] == [10, 12]
    begin(file, tmp_path / "clean")
    assert same(weights(run), weights(RunFolder.open(tmp_path / "clean")))


def test_an_unreadable_chunk_met_while_training_is_named(data: Path, tmp_path: Path, monkeypatch) -> None:
    from synbb.tasks.annotated import AnnotatedVolume

    original = AnnotatedVolume.image

    def image(self, box):
        if box.start[1] > 8:
            raise SynbbError("raw.zarr: chunk 0/1/1 is truncated")
        return original(self, box)

    monkeypatch.setattr(AnnotatedVolume, "image", image)
    with pytest.raises(SynbbError, match="chunk 0/1/1"):
        begin(write_config(data), tmp_path / "run")


def test_damaged_run_files_are_named(finished, tmp_path: Path) -> None:
    import shutil

    run = RunFolder(shutil.copytree(finished[0].path, tmp_path / "run"))
    for name, read in (("config.yaml", run.config), ("run.json", run.info), ("pruning.json", run.pruning_report)):
        (run.path / name).write_text("{: [")
        with pytest.raises(SynbbError, match=f"{name} is damaged"):
            read()
    (run.path / "run.json").write_text("{}")
    with pytest.raises(SynbbError, match=r"run.json is damaged: it says nothing of the data"):
        run.data_facts()


def test_the_tasks_of_a_batch_job_are_not_its_processes(monkeypatch):
    for name, value in {"NTASKS": "4", "JOB_NAME": "train", "JOB_ID": "7", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert make_fabric(TrainingSettings(accelerator="cpu")).world_size == 1


def test_a_run_in_the_current_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SynbbError, match=r"--output \. is the current folder"):
        RunFolder.check_free(".")
