"""Runs that begin with the weights of another: pruned from a checkpoint, fine-tuned with its masks or without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import config, trained, write_pair

from synbb.errors import SynbbError
from synbb.pruning import load_masks
from synbb.training import RunFolder
from synbb.training.start import start_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pair(folder)
    return folder


@pytest.fixture(scope="module")
def pruned(data: Path) -> RunFolder:
    return trained(config(data, pruning__method="magnitude", pruning__density=0.3), data / "pruned")[0]


def later(data: Path, source: RunFolder, name: str, **changes: object) -> RunFolder:
    return trained(config(data, training__start_from=str(source.path), **changes), data / name)[0]


def test_a_dense_run_is_pruned_from_its_checkpoint(data):
    dense, _ = trained(config(data, pruning__method="none"), data / "dense")
    run = later(data, dense, "from-dense", pruning__method="magnitude", training__learning_rate=1e-12)
    assert run.weights_info("last")["density"] == pytest.approx(0.5, abs=0.01)
    before, after = load_file(dense.weights_file("last")), load_file(run.weights_file("last"))
    for name, mask in load_masks(run.masks_file).items():
        kept = mask.expand_as(after[f"{name}.weight"])
        assert torch.allclose(after[f"{name}.weight"][kept], before[f"{name}.weight"][kept], atol=1e-6)


def test_kept_masks_hold_whatever_the_method(data, pruned):
    run = later(data, pruned, "kept", pruning__method="bb", pruning__density=0.9)
    ours, theirs = load_masks(run.masks_file), load_masks(pruned.masks_file)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert run.weights_info("last")["final"]


def test_a_run_of_another_task_is_refused(data, pruned):
    other = data / "heard"
    shutil.copytree(pruned.path, other)
    shutil.copyfile(Path(__file__).parents[2] / "configs/speech/phantom-speech.yaml", other / "config.yaml")
    given = config(data, training__start_from=str(other))
    with pytest.raises(SynbbError, match=r"heard is a run of task 'speech', and this one is of 'synapse'"):
        start_run(given, data / "of-another", resume=False, say=lambda _: None)


def test_held_masks_are_told(data, pruned):
    said: list[str] = []
    for masks in (None, "dense"):
        given = config(data, training__start_from=str(pruned.path), training__steps=2, pruning__masks=masks)
        start_run(given, data / f"told-{masks}", resume=False, say=said.append)
    (held,) = (line for line in said if "are held" in line)
    assert f"the masks of {pruned.path} are held, and pruning.method=bb and its density have no effect" in held


def test_reopened_masks_start_from_those_of_the_run_and_may_change(data, pruned):
    changes = {"pruning__method": "magnitude", "pruning__density": 0.6, "pruning__masks": "reopen"}
    run = later(data, pruned, "reopened", **changes)
    theirs, grown = load_masks(pruned.masks_file), load_masks(run.masks_file)
    assert run.weights_info("last")["density"] == pytest.approx(0.6, abs=0.01)
    assert any(bool((mask & ~theirs[name]).any()) for name, mask in grown.items())
    first = run.records("refresh")[0]
    assert first["churn"] > 0.5  # the share of the 0.3 live ones that joined them at the first refresh


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_reopened_masks_keep_their_weights_where_a_method_is_sparse_from_the_start(data, pruned, method):
    still = {"training__learning_rate": 1e-12, "pruning__drop": 0.0, "pruning__masks": "reopen"}
    run = later(data, pruned, f"reopened-{method}", pruning__method=method, pruning__density=0.3, **still)
    before, after = load_file(pruned.weights_file("last")), load_file(run.weights_file("last"))
    theirs, ours = load_masks(pruned.masks_file), load_masks(run.masks_file)
    for name, mask in theirs.items():
        assert torch.equal(ours[name], mask)
        assert torch.allclose(after[f"{name}.weight"], before[f"{name}.weight"], atol=1e-6)


def test_dense_drops_the_masks(data, pruned):
    run = later(data, pruned, "opened", pruning__method="none", pruning__masks="dense")
    assert run.weights_info("last")["density"] == 1
    weights = load_file(run.weights_file("last"))
    cut = [
        weights[f"{name}.weight"][~mask.expand_as(weights[f"{name}.weight"])]
        for name, mask in load_masks(pruned.masks_file).items()
    ]
    assert torch.cat(cut).count_nonzero() > 0


def test_a_run_of_another_network_or_none_is_refused(data, pruned):
    with pytest.raises(SynbbError, match="does not fit the model"):
        later(data, pruned, "other", model__filters=[8, 8, 8])
    with pytest.raises(SynbbError, match="no run folder"):
        trained(config(data, training__start_from=str(data / "nothing")), data / "none")
