"""The synapse task: loss and scores pass over ignored voxels, batches do not depend on the processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import config, grey_and_labels, write_pair, write_volume

from synbb.errors import SynbbError
from synbb.evaluation.voxels import ScoreHistogram
from synbb.inference import predict_volume
from synbb.pruning import BudgetedBroadcast
from synbb.tasks.base import Batch
from synbb.training import make_task
from synbb.volumes import Box, open_volume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_pair(tmp_path)
    return tmp_path


def task(folder: Path, **changes):
    made = make_task(config(folder, **changes))
    made.lines = made.prepare()
    return made


def net_of(made) -> torch.nn.Module:
    torch.manual_seed(0)
    net = made.build_model()
    for module in net.modules():  # statistics as after training: not those of a fresh network
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return net


def test_loss_and_its_gradient_pass_over_invalid_voxels(folder: Path) -> None:
    made = task(folder)
    generator = torch.Generator().manual_seed(1)
    target = (torch.rand(2, 1, 4, 8, 8, generator=generator) < 0.3).float()
    valid = torch.rand(2, 1, 4, 8, 8, generator=generator) < 0.6
    logits = torch.randn(2, 1, 4, 8, 8, generator=generator, requires_grad=True)
    loss = made.loss(logits, Batch(logits, target, valid))
    loss.backward()
    assert torch.all(logits.grad[~valid] == 0)
    assert torch.all(logits.grad[valid] != 0)
    changed_target = torch.where(valid, target, 1 - target)
    changed_logits = torch.where(valid, logits, torch.full_like(logits, 30.0))
    assert torch.equal(made.loss(changed_logits, Batch(logits, changed_target, valid)), loss)
    everywhere = made.loss(logits, Batch(logits, target))
    assert everywhere != loss
    assert torch.equal(everywhere, made.loss(logits, Batch(logits, target, torch.ones_like(valid))))


def test_a_batch_without_a_valid_voxel_teaches_nothing(folder: Path) -> None:
    made = task(folder)
    logits = torch.randn(1, 1, 4, 8, 8, requires_grad=True)
    loss = made.loss(logits, Batch(logits, torch.ones_like(logits), torch.zeros_like(logits, dtype=torch.bool)))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.all(logits.grad == 0)


def test_on_rates_pass_over_invalid_voxels(folder: Path) -> None:
    made = task(folder)

    def rates(image: torch.Tensor, valid: torch.Tensor | None) -> np.ndarray:
        torch.manual_seed(0)
        net = made.build_model()
        pruner = BudgetedBroadcast(0.5, warmup=5, ramp=5)
        with pytest.warns(UserWarning, match="optimizer="):
            pruner.attach(net, made.example_inputs())
        net.train()
        for norm in [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm3d)]:
            norm.eval()  # statistics of the batch would carry what lies elsewhere
        with pruner.valid(valid):
            net(image)
        pruner.step()
        first = pruner.wiring.groups[0].size  # the first block's units see 3 x 3 in the plane only
        return pruner.activity.rates()[:first]

    image = torch.randn(2, 1, 4, 32, 32)
    valid = torch.zeros(2, 1, 4, 32, 32, dtype=torch.bool)
    valid[..., :8] = True
    elsewhere = image.clone()
    elsewhere[..., 16:] = 5.0
    # On the last layers the changed half would be seen; in the first block it is out of reach of what counts.
    assert np.array_equal(rates(image, valid), rates(elsewhere, valid))
    assert not np.array_equal(rates(image, None), rates(elsewhere, None))


@pytest.mark.parametrize("working", [(40.0, 8.0, 8.0), (40.0, 16.0, 16.0)])
def test_validation_scores_what_prediction_writes_at_full_resolution(folder: Path, working) -> None:
    made = task(folder, model__voxel_size=list(working), data__patch=[4, 8, 8])
    net = net_of(made)
    found = made.validate(net, "cpu")
    stride, halo = made.geometry(net)
    region = Box.parse("0:8,32:64,0:64")
    predict_volume(
        net,
        open_volume(folder / "raw.zarr"),
        folder / "out.zarr",
        working_voxel_size=working,
        normalisation=made._validation[0].normalisation,
        stride=stride,
        halo=halo,
        attributes={},
        model_sha256="0",
        run_id="0",
        region=region,
        write_block=(4, 16, 24),
    )
    histogram = ScoreHistogram()
    out = open_volume(folder / "out.zarr")
    truth = grey_and_labels()[1][region.slices] > 0
    histogram.add(out.read(out.box), truth, np.ones_like(truth))
    assert found.scores["pr_auc"] == pytest.approx(histogram.average_precision(), rel=1e-6)
    assert found.decision["threshold"] == pytest.approx(max(histogram.best_f1().threshold, 1 / 255))
    assert found.main == "pr_auc"


def test_validation_passes_over_what_is_not_annotated(folder: Path) -> None:
    mask = np.ones((8, 64, 64), dtype=np.uint8)
    mask[:, :, 30:] = 0
    write_volume(folder / "mask.zarr", mask)
    labels = grey_and_labels()[1]
    labels[:, :, 30:] = 1
    write_volume(folder / "wrong.zarr", labels)
    volumes = config(folder).plain()["data"]["volumes"]
    volumes[1]["mask"] = str(folder / "mask.zarr")
    one = task(folder, data__volumes=volumes)
    volumes[1]["labels"] = str(folder / "wrong.zarr")
    other = task(folder, data__volumes=volumes)
    net = net_of(one)
    assert one.validate(net, "cpu") == other.validate(net, "cpu")


def test_ranks_share_the_batch_of_one_process(folder: Path) -> None:
    made = task(folder, training__batch_size=4)
    whole = made.batch(7, 0, 1)
    halves = [made.batch(7, rank, 2) for rank in range(2)]
    for name in ("inputs", "targets", "valid"):
        both = torch.stack([getattr(each, name) for each in halves], 1).flatten(0, 1)
        assert torch.equal(both, getattr(whole, name))
    made.close()


def test_batches_do_not_depend_on_order_or_prefetching(folder: Path) -> None:
    one, two = task(folder), task(folder)
    one.upcoming(range(6), 0, 1)
    forwards = [one.batch(step, 0, 1) for step in range(6)]
    backwards = [two.batch(step, 0, 1) for step in reversed(range(6))]
    for a, b in zip(forwards, reversed(backwards), strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
    assert forwards[0].inputs.shape == (2, 1, 4, 16, 16)
    assert forwards[0].valid.dtype == torch.bool


def test_calibration_patches_are_many_uniform_and_plain(folder: Path) -> None:
    made = task(folder)
    batches = list(made.calibration_batches(51))
    assert sum(len(batch) for batch in batches) >= 51
    assert all(len(batch) >= 2 for batch in batches)
    again = list(made.calibration_batches(51))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_held_out_patches_are_of_the_validation_split_and_of_no_run_s_own(folder: Path) -> None:
    made = task(folder)
    batches = list(made.held_out_batches(7))
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]
    assert batches[0].shape == (2, 1, 4, 16, 16)
    assert batches[0].dtype == torch.float32
    again, other_seed = made.held_out_batches(7), task(folder, seed=99).held_out_batches(7)
    for batch, same, unseeded in zip(batches, again, other_seed, strict=True):
        assert torch.equal(batch, same)
        assert torch.equal(batch, unseeded)
    assert len(torch.unique(torch.cat(batches).flatten(1), dim=0)) == 7
    # Every patch stands somewhere in the validation region, as the network would read it there.
    view, normalisation = made._validation[0].view, made._validation[0].normalisation
    region = normalisation.apply(view.read(Box.parse("0:8,32:64,0:64")))
    windows = torch.from_numpy(region).unfold(0, 4, 1).unfold(1, 16, 1).unfold(2, 16, 1)
    for patch in torch.cat(batches):
        assert (windows == patch[0]).flatten(3).all(-1).any()


def test_held_out_patches_of_small_regions_are_cut_to_the_stride(folder: Path) -> None:
    volumes = config(folder).plain()["data"]["volumes"]
    volumes[1]["regions"] = ["0:8,33:64,2:16", "0:8,33:43,20:23"]
    made = task(folder, data__volumes=volumes)
    assert [tuple(batch.shape) for batch in made.held_out_batches(3)] == [(2, 1, 4, 16, 12), (1, 1, 4, 16, 12)]
    volumes[1]["regions"] = ["0:8,33:64,6:9"]
    assert list(task(folder, data__volumes=volumes).held_out_batches(3)) == []
    assert list(task(folder, data__volumes=volumes[:1]).held_out_batches(3)) == []


def test_facts_of_a_run_are_used_again(folder: Path) -> None:
    made = task(folder)
    facts = made.facts()
    facts["volumes"][0]["normalisation"]["low"] = 7.0
    second = make_task(config(folder))
    second.prepare(facts)
    assert second.facts() == facts
    assert {fact["name"] for fact in facts["volumes"]} == {"top", "bottom"}
    assert facts["min_size_nm3"] == pytest.approx(0.1 * 4 * 9 * 14 * 40 * 8 * 8)


def test_grey_values_of_one_volume_are_measured_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synbb.tasks import annotated

    calls = []
    original = annotated.measure_normalisation
    monkeypatch.setattr(annotated, "measure_normalisation", lambda *a, **k: calls.append(1) or original(*a, **k))
    made = task(folder)
    assert len(calls) == 1
    assert made._train[0].normalisation == made._validation[0].normalisation


def test_what_was_found_is_said(folder: Path) -> None:
    text = "\n".join(task(folder).lines)
    for part in ("top (train)", "40 x 8 x 8 nm", "percentiles 1 and 99", "16,384 annotated", "in 4 objects", "bottom"):
        assert part in text


def test_a_validation_split_without_foreground_is_an_error_before_training(folder: Path) -> None:
    volumes = config(folder).plain()["data"]["volumes"]
    volumes[1]["regions"] = ["0:1,32:64,0:64"]
    with pytest.raises(SynbbError, match=r"validation split \(bottom\) holds no foreground"):
        task(folder, data__volumes=volumes)


def test_without_validation_no_threshold(folder: Path) -> None:
    volumes = config(folder).plain()["data"]["volumes"][:1]
    made = task(folder, data__volumes=volumes)
    assert "no threshold is chosen" in made.lines[-1]
    assert made.validate(net_of(made), "cpu") is None


def test_patch_and_network_must_fit(folder: Path) -> None:
    with pytest.raises(SynbbError, match=r"data.patch \[4, 18, 16\] must be multiples .*stride \[1, 4, 4\]"):
        task(folder, data__patch=[4, 18, 16])
    with pytest.raises(SynbbError, match=r"data.patch \[4, 64, 16\] is larger than region .*'top'"):
        task(folder, data__patch=[4, 64, 16])
    with pytest.raises(SynbbError, match=r"receptive field of .*fewer levels"):
        task(folder, model__filters=[4, 8, 8, 8, 8], model__levels=5, model__residual=True, data__patch=[4, 16, 16])


def test_sections_of_another_thickness_are_refused(folder: Path) -> None:
    with pytest.raises(SynbbError, match=r"'top'.*sections of 50 nm are asked for"):
        task(folder, model__voxel_size=[50, 8, 8])


def test_an_entry_without_labels_needs_no_file_of_them(folder: Path) -> None:
    """``labels: none`` names no file: such entries are looked at like others, and are no missing data."""
    volumes = config(folder).plain()["data"]["volumes"]
    negative = {**volumes[0], "name": "empty", "labels": "none"}
    with pytest.raises(SynbbError, match=r"'top' \(train\) and 'empty' \(test\) share voxels"):
        task(folder, data__volumes=[{**volumes[0], "regions": []}, {**negative, "split": "test", "regions": []}])
    with pytest.raises(SynbbError, match=r"'empty': region 0:8,40:999,0:64 is empty or not inside"):
        task(folder, data__volumes=[volumes[0], {**negative, "split": "test", "regions": ["0:8,40:999,0:64"]}])
    third = {**negative, "regions": ["0:8,40:64,0:64"]}
    made = task(folder, data__volumes=[volumes[0], third], data__dataset="vnc")
    assert any("empty (train)" in line for line in made.lines)


def test_a_mask_that_is_not_there_is_missing_data(folder: Path) -> None:
    volumes = config(folder).plain()["data"]["volumes"]
    masked = {**volumes[1], "mask": str(folder / "absent.zarr")}
    with pytest.raises(SynbbError, match=r"absent.zarr is not there; get the data by `synbb data fetch vnc`"):
        task(folder, data__volumes=[volumes[0], masked], data__dataset="vnc")
    lines = task(folder, data__volumes=[volumes[0], {**masked, "split": "test"}]).lines
    assert any("bottom (test)" in line and "absent.zarr is not there" in line for line in lines)
