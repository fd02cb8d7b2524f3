"""Predicting volumes on disk: what is stored, what is done again, what is refused, and what is left behind."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import zarr
from random_networks import VOXEL, geometry, random_unet, random_volume
from torch import nn

from synbb.errors import RunEnded, SynbbError
from synbb.inference import predict_array, predict_volume, verify_output
from synbb.inference.block_work import BlockInput, BlockWork
from synbb.inference.drivers import LocalDriver
from synbb.inference.leased import LeasedDriver
from synbb.inference.ledger import read_marks
from synbb.inference.ledger_lines import ledger_path
from synbb.inference.output import no_data_path, remove_output, remove_partial, reopen
from synbb.volumes.box import Box
from synbb.volumes.opening import open_volume
from synbb.volumes.statistics import Normalisation
from synbb.volumes.writing import OutputRemoved, create_volume

if TYPE_CHECKING:
    from pathlib import Path

    from synbb.inference.blocks import Block
    from synbb.inference.drivers import Driver, Prediction
    from synbb.inference.ledger import Ledger
    from synbb.inference.predictor import PredictionSummary
    from synbb.volumes.volume import Volume
    from synbb.volumes.writing import WritableVolume

GREY = Normalisation(20.0, 230.0)
NET = random_unet()
GEOMETRY = geometry(NET)
BLOCK = (4, 16, 24)


@pytest.fixture
def raw(tmp_path: Path) -> Volume:
    return random_volume(tmp_path / "raw.zarr", (9, 50, 61))


def predict(volume: Volume, output: Path, net: nn.Module = NET, **changed: Any) -> PredictionSummary:
    arguments: dict[str, Any] = {
        "working_voxel_size": VOXEL,
        "normalisation": GREY,
        "attributes": {"threshold": 0.4, "licence": "CC0"},
        "model_sha256": "0" * 64,
        "run_id": "run-1",
        "write_block": BLOCK,
        **GEOMETRY,
    }
    return predict_volume(net, volume, output, **{**arguments, **changed})


def expected(volume: Volume, region: Box | None = None) -> np.ndarray[Any, Any]:
    logits = predict_array(NET, GREY.apply(volume.read(volume.box)), **GEOMETRY).astype(np.float64)
    return (255 / (1 + np.exp(-logits)))[(region or volume.box).slices]


def test_the_output_and_its_metadata(raw: Volume, tmp_path: Path) -> None:
    lines: list[str] = []
    reports: list[tuple[int, int]] = []
    summary = predict(raw, tmp_path / "out.zarr", announce=lines.append, progress=lambda *r: reports.append(r))
    stored = open_volume(str(tmp_path / "out.zarr"))
    assert (stored.shape, stored.dtype) == (raw.shape, np.uint8)
    assert stored.voxel_size == raw.voxel_size
    assert stored.offset == raw.offset
    assert np.abs(stored.read(stored.box) - expected(raw)).max() <= 0.5 + 1e-3
    assert stored.attributes == {
        "kind": "probabilities",
        "run_id": "run-1",
        "model_sha256": "0" * 64,
        "plan": json.loads(ledger_path(tmp_path / "out.zarr").read_text().splitlines()[0])["fingerprint"],
        "threshold": 0.4,
        "licence": "CC0",
        "normalisation": GREY.to_dict(),
        "working_voxel_size": list(VOXEL),
        "region": "0:9,0:50,0:61",
        "source": raw.path,
        "complete": True,
        "no_data_sections": [],
    }
    assert (summary.blocks, summary.done, summary.skipped) == (36, 36, 0)
    assert summary.voxels == raw.box.size
    assert summary.rate > 0
    assert tuple(lines) == summary.lines
    assert any("work factor" in line for line in lines)
    assert reports == [(n, 36) for n in range(37)]
    assert not [t for t in threading.enumerate() if t.name.startswith("synbb")], "no thread is left"


def test_a_region_limits_what_is_written_not_what_is_read(raw: Volume, tmp_path: Path) -> None:
    region = Box((3, 11, 7), (8, 43, 60))
    predict(raw, tmp_path / "out.zarr", region=region)
    stored = open_volume(str(tmp_path / "out.zarr"))
    assert stored.shape == region.shape
    assert stored.offset == raw.centre_of(region.start)
    assert np.abs(stored.read(stored.box) - expected(raw, region)).max() <= 0.5 + 1e-3


def test_the_default_block(raw: Volume, tmp_path: Path) -> None:
    summary = predict(raw, tmp_path / "out.zarr", write_block=None)
    assert summary.blocks == 1
    assert verify_output(tmp_path / "out.zarr") == []


def test_a_second_call_does_nothing(raw: Volume, tmp_path: Path) -> None:
    predict(raw, tmp_path / "out.zarr")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    calls: list[int] = []
    handle = NET.register_forward_hook(lambda *_: calls.append(1))
    try:
        summary = predict(raw, tmp_path / "out.zarr")
    finally:
        handle.remove()
    assert (summary.done, summary.skipped) == (0, 36)
    assert not calls
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files


def test_only_missing_blocks_are_computed_and_to_the_last_bit(raw: Volume, tmp_path: Path) -> None:
    whole = tmp_path / "whole.zarr"
    predict(raw, whole, dtype="float32")
    stop = tmp_path / "stop.zarr"

    def interrupt(done: int, _total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(raw, stop, dtype="float32", progress=interrupt)
    assert not [t for t in threading.enumerate() if t.name.startswith("synbb")]
    finished = set(read_marks(stop)[1])
    assert 10 <= len(finished) < 36
    assert open_volume(str(stop)).attributes["complete"] is False
    summary = predict(raw, stop, dtype="float32")
    assert (summary.done, summary.skipped) == (36 - len(finished), len(finished))
    a, b = open_volume(str(whole)), open_volume(str(stop))
    np.testing.assert_array_equal(a.read(a.box), b.read(b.box))
    assert b.attributes["complete"] is True


def test_verification_finds_and_repairs_what_was_damaged(raw: Volume, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    predict(raw, output)
    before = open_volume(str(output)).read(raw.box)
    chunks = sorted(path for path in (output / "0").rglob("*") if path.is_file() and path.name != "zarr.json")
    chunks[0].unlink()  # reads as zeros, without any error
    chunks[-1].write_bytes(chunks[-1].read_bytes()[:20])
    assert len(verify_output(output)) == 2
    assert predict(raw, output).done == 0, "without verification the ledger is believed"
    summary = predict(raw, output, verify=True)
    assert (summary.done, summary.damaged) == (2, 2)
    assert verify_output(output) == []
    np.testing.assert_array_equal(open_volume(str(output)).read(raw.box), before)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"model_sha256": "1" * 64}, "model_sha256"),
        ({"normalisation": Normalisation(0.0, 255.0)}, "normalisation"),
        ({"precision": "bf16"}, "precision"),
        ({"dtype": "float32"}, "dtype"),
        ({"region": Box.of_shape((4, 16, 16))}, "region"),
        ({"write_block": (4, 16, 16)}, "write_block"),
        ({"halo": (4, 19, 23)}, "halo"),
    ],
)
def test_another_plan_is_refused(raw: Volume, tmp_path: Path, changed: dict[str, Any], name: str) -> None:
    predict(raw, tmp_path / "out.zarr", write_block=(9, 64, 64))
    before = ledger_path(tmp_path / "out.zarr").read_bytes()
    with pytest.raises(SynbbError, match=rf"was begun with other settings; .*{name} was .*, is now"):
        predict(raw, tmp_path / "out.zarr", **{"write_block": (9, 64, 64), **changed})
    assert ledger_path(tmp_path / "out.zarr").read_bytes() == before


def test_an_output_without_a_finished_block_is_begun_anew_with_another_plan(raw: Volume, tmp_path: Path) -> None:
    class Unreachable(LocalDriver):
        def compute(self, prediction: Prediction, output: WritableVolume, ledger: Ledger) -> int:
            raise SynbbError("no scheduler answers")

    with pytest.raises(SynbbError, match="no scheduler answers"):
        predict(raw, tmp_path / "out.zarr", driver=Unreachable())
    assert predict(raw, tmp_path / "out.zarr", dtype="float32").skipped == 0
    assert open_volume(tmp_path / "out.zarr").dtype == np.float32
    assert open_volume(tmp_path / "out.zarr").attributes["complete"] is True


def test_another_input_is_refused(raw: Volume, tmp_path: Path) -> None:
    predict(raw, tmp_path / "out.zarr")
    other = random_volume(tmp_path / "other.zarr", raw.shape)
    with pytest.raises(SynbbError, match=r"input_path was .*raw\.zarr.*, is now .*other\.zarr"):
        predict(other, tmp_path / "out.zarr")


def test_batch_and_tile_are_no_part_of_the_identity(raw: Volume, tmp_path: Path) -> None:
    predict(raw, tmp_path / "out.zarr")
    assert predict(raw, tmp_path / "out.zarr", batch=3, tile=(4, 8, 8), reader_threads=1).done == 0


def test_threads_change_no_voxel_and_tell_of_blocks_in_turn(raw: Volume, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    predict(raw, tmp_path / "one.zarr", reader_threads=1, writer_threads=1)
    many = {"reader_threads": 5, "writer_threads": 4, "batch": 3}
    summary = predict(raw, tmp_path / "many.zarr", progress=lambda *r: reports.append(r), **many)
    assert reports == [(done, summary.blocks) for done in range(summary.blocks + 1)]
    one, found = (open_volume(str(tmp_path / f"{name}.zarr")) for name in ("one", "many"))
    np.testing.assert_array_equal(found.read(found.box), one.read(one.box))


def test_the_expected_time_is_that_of_the_slowest_part(
    raw: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = BlockWork.read

    def slow(work: BlockWork, block: Block, *, for_card: bool) -> BlockInput:
        time.sleep(0.2)
        return read(work, block, for_card=for_card)

    def rate() -> float:
        said = predict(raw, tmp_path / "out.zarr", dry_run=True).lines
        found = re.search(r"at ([\d.]+) Mvox/s", "\n".join(said))
        assert found, said
        return float(found[1])

    quick = rate()
    monkeypatch.setattr(BlockWork, "read", slow)
    # Two threads, 0.2 s a block: 0.015 Mvox/s, told with two decimals.
    assert rate() <= round(2 * math.prod(BLOCK) / 0.2 / 1e6, 2) < quick


@pytest.mark.parametrize("slow", [True, False])
def test_a_dry_run_names_a_faster_allocator_where_none_is_loaded(
    slow: bool, raw: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synbb.inference.estimate.takes_memory_from_glibc", lambda: slow)
    said = predict(raw, tmp_path / "out.zarr", dry_run=True).lines
    assert any("tcmalloc preloaded" in line for line in said) == slow


@pytest.mark.parametrize("emulates", [True, False])
def test_a_precision_that_the_processor_emulates_is_told(
    emulates: bool, raw: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synbb.inference.predictor.emulates_bf16", lambda: emulates)
    for precision in ("32", "bf16"):
        lines = predict(raw, tmp_path / precision / "out.zarr", precision=precision, dry_run=True).lines
        assert any("no instructions for bf16" in line for line in lines) == (emulates and precision == "bf16")


def test_a_dry_run_counts_what_is_finished_and_refuses_what_the_call_would_refuse(raw: Volume, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    blocks = predict(raw, out).blocks
    whole = predict(raw, out, dry_run=True)
    assert whole.skipped == blocks
    assert f"{blocks} of {blocks} blocks are finished already, nothing is left to compute" in whole.lines
    content = ledger_path(out).read_bytes()
    lines = content.splitlines(keepends=True)
    ledger_path(out).write_bytes(b"".join(lines[:-2]))  # as if two blocks were still to come
    part = predict(raw, out, dry_run=True)
    assert part.skipped == blocks - 2
    assert f"{blocks - 2} of {blocks} blocks are finished already" in part.lines
    assert any("Mvox/s" in line for line in part.lines)
    with pytest.raises(SynbbError, match="was begun with other settings; dtype was"):
        predict(raw, out, dry_run=True, dtype="float32")
    create_volume(tmp_path / "other.zarr", shape=(2, 2, 2), dtype="uint8", voxel_size=VOXEL)
    with pytest.raises(SynbbError, match="has no ledger"):
        predict(raw, tmp_path / "other.zarr", dry_run=True)
    assert ledger_path(out).read_bytes() == b"".join(lines[:-2])


def test_what_lies_at_the_output_already_is_not_touched(raw: Volume, tmp_path: Path) -> None:
    stranger = create_volume(tmp_path / "out.zarr", shape=(2, 2, 2), dtype="uint8", voxel_size=VOXEL)
    with pytest.raises(SynbbError, match="has no ledger"):
        predict(raw, tmp_path / "out.zarr")
    assert open_volume(stranger.path).shape == (2, 2, 2)
    assert not ledger_path(tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("driver", [None, LeasedDriver()])
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("kind", ["raw", "probabilities"])
def test_another_volume_beside_a_ledger_that_was_left_is_not_touched(
    raw: Volume, tmp_path: Path, driver: Driver | None, finished: bool, kind: str
) -> None:
    out = tmp_path / "out.zarr"
    predict(raw, out, driver=driver)
    if not finished:  # a process that ended before its first block
        whole = ledger_path(out).read_bytes()
        ledger_path(out).write_bytes(whole[: whole.index(b"\n") + 1])
    shutil.rmtree(out)
    mine = create_volume(
        out, shape=(9, 50, 61), dtype="uint8", voxel_size=VOXEL, attributes={"kind": kind, "model_sha256": "1" * 64}
    )
    mine.write(mine.box, np.full(mine.shape, 7, np.uint8))
    before = ledger_path(out).read_bytes()
    for options in ({"driver": driver}, {"driver": driver, "dtype": "float32"}, {"dry_run": True}):
        with pytest.raises(SynbbError, match=r"is not the prediction that out.zarr.ledger.jsonl was begun for \("):
            predict(raw, out, **options)
    assert ledger_path(out).read_bytes() == before
    assert (open_volume(out).read(mine.box) == 7).all()


def test_a_folder_of_other_things_beside_a_ledger_that_was_left_is_not_touched(raw: Volume, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    predict(raw, out)
    shutil.rmtree(out)
    zarr.create_array(str(out / "volumes/raw"), shape=(2, 2, 2), dtype="uint8")[:] = 7
    zarr.open_group(str(out), mode="a")
    with pytest.raises(SynbbError, match="it holds volumes"):
        predict(raw, out)
    assert zarr.open_array(str(out / "volumes/raw"), mode="r")[0, 0, 0] == 7


def test_a_creation_that_was_cut_short_is_made_anew(raw: Volume, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    predict(raw, out)
    whole = ledger_path(out).read_bytes()
    ledger_path(out).write_bytes(whole[: whole.index(b"\n") + 1])
    shutil.rmtree(out / "0")
    assert predict(raw, out).skipped == 0
    assert np.abs(open_volume(out).read(raw.box) - expected(raw)).max() <= 0.5 + 1e-3


def test_a_creation_that_was_cut_short_before_it_was_a_zarr_is_made_anew(raw: Volume, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    predict(raw, out)
    whole = ledger_path(out).read_bytes()
    ledger_path(out).write_bytes(whole[: whole.index(b"\n") + 1])
    shutil.rmtree(out)
    out.mkdir()
    (out / "zarr.json.0f1e2d.partial").write_bytes(b"{")
    assert predict(raw, out).skipped == 0
    assert [each.name for each in out.iterdir() if each.suffix == ".partial"] == []


@pytest.mark.parametrize("driver", [None, LeasedDriver()])
def test_an_output_may_be_a_link_to_an_empty_folder(raw: Volume, tmp_path: Path, driver: Driver | None) -> None:
    place = tmp_path / "scratch" / "place"
    place.mkdir(parents=True)
    out = tmp_path / "out.zarr"
    out.symlink_to(place)
    predict(raw, out, driver=driver)
    assert out.is_symlink()
    assert predict(raw, out).skipped > 0
    assert np.abs(open_volume(place).read(raw.box) - expected(raw)).max() <= 0.5 + 1e-3
    assert [each.name for each in (tmp_path / "scratch").iterdir()] == ["place"]
    remove_output(out)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith("out")] == []


def test_an_input_is_one_however_its_place_is_written(
    raw: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    predict(open_volume("zarr://raw.zarr"), tmp_path / "out.zarr")
    again = predict(open_volume(f"zarr://{tmp_path}/raw.zarr"), tmp_path / "out.zarr")
    assert again.skipped == again.blocks


def test_an_output_whose_array_goes_while_it_is_continued_is_told(raw: Volume, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    predict(raw, out)
    again = reopen(str(out))
    again.check_there()
    shutil.rmtree(out / "0")
    with pytest.raises(OutputRemoved, match=r"out\.zarr/0 has no metadata"):
        again.check_there()


def test_what_killed_writers_left_is_removed(raw: Volume, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    predict(raw, out)
    chunk = next(each for each in (out / "0" / "c").rglob("*") if each.is_file())
    for left in (f"{chunk.name}.0f1e2d.partial", f"{chunk.name}_3026f252c55f1ec9.__lock"):
        (chunk.parent / left).write_bytes(b"half")
    remove_partial(str(out))
    assert not [each for each in out.rglob("*") if each.is_file() and each.read_bytes() == b"half"]
    assert verify_output(out) == []


def test_the_report_of_missing_sections_goes_with_its_output(raw: Volume, tmp_path: Path) -> None:
    gaps = create_volume(tmp_path / "gaps.zarr", shape=raw.shape, dtype="uint8", voxel_size=VOXEL)
    values = raw.read(raw.box)
    values[4] = 0
    gaps.write(gaps.box, values)
    out = tmp_path / "out.zarr"
    predict(gaps.volume, out)
    assert no_data_path(out).is_file()
    shutil.rmtree(out)
    predict(raw, out)
    assert not no_data_path(out).exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"region": Box.of_shape((9, 50, 62))}, "outside"),
        ({"dtype": "int8"}, "uint8, float32"),
        ({"precision": "8"}, "32, tf32, bf16, 16"),
        ({"batch": 0}, "batch 0"),
        ({"tile": (0, 4, 4)}, "tile"),
        ({"write_block": (4, 0, 4)}, "write_block"),
        ({"working_voxel_size": (30.0, 9.2, 9.2)}, "sections of 30 nm"),
    ],
)
def test_mistakes_leave_nothing_behind(raw: Volume, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SynbbError, match=message) as caught:
        predict(raw, tmp_path / "out.zarr", **changed)
    assert caught.value.exit_status == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.zarr"]


class Broken(nn.Module):
    """Gives no numbers in the third batch."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * float("nan") if self.calls == 3 else x


def test_values_that_are_not_finite_end_the_run(raw: Volume, tmp_path: Path) -> None:
    with pytest.raises(RunEnded, match=r"block .* not finite") as caught:
        predict(raw, tmp_path / "out.zarr", net=Broken())
    assert caught.value.exit_status == 3
    assert 1 <= len(read_marks(tmp_path / "out.zarr")[1]) < 36
    assert not [t for t in threading.enumerate() if t.name.startswith("synbb")]
    with pytest.raises(RunEnded, match="not finite"):
        predict_array(Broken(), np.full((1, 4, 4), np.nan, np.float32), **GEOMETRY)


def test_the_mode_of_every_module_is_given_back(raw: Volume, tmp_path: Path) -> None:
    net = random_unet()
    net.train()
    net.input_block.eval()
    statistics = [buffer.clone() for buffer in net.buffers()]
    predict(raw, tmp_path / "out.zarr", net=net, write_block=None)
    assert net.training
    assert net.bottleneck.training
    assert not net.input_block.conv1.training
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), statistics, strict=True))


def test_instance_norm_is_warned_of(raw: Volume, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv3d(1, 1, 1), nn.InstanceNorm3d(1))
    summary = predict(raw, tmp_path / "out.zarr", net=net, stride=(1, 1, 1), halo=(0, 0, 0))
    assert any("statistics of each block" in line for line in summary.lines)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4)])
def test_arrays_that_are_no_volume(shape: tuple[int, ...]) -> None:
    with pytest.raises(SynbbError, match="shape"):
        predict_array(NET, np.zeros(shape, np.float32), **GEOMETRY)
