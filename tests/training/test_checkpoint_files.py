"""Files of a run are whole or as they were before."""

from __future__ import annotations

import errno
import os
import pickle
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from synbb.errors import RunEnded, SynbbError
from synbb.models.unet import build_unet
from synbb.training.checkpoint import (
    load_checkpoint,
    load_weights,
    read_json,
    remove_temporary,
    save_checkpoint,
    save_weights,
    write_atomically,
    write_json,
)
from synbb.training.keeping import restore


def small_net(seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return build_unet((40, 8, 8), filters=(4, 8, 8), **options)


def fail_in_fsync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_ends_the_run_and_leaves_the_old_file(tmp_path: Path, monkeypatch, number: int) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    fail_in_fsync(monkeypatch, number)
    with pytest.raises(RunEnded, match=r"a.json: the disk .*full.*--resume"):
        write_json(file, {"a": 2})
    assert read_json(file) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_other_errors_stay_what_they_are(tmp_path: Path, monkeypatch) -> None:
    fail_in_fsync(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "a", b"1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save", [save_checkpoint, save_weights])
def test_checkpoint_and_weights_on_a_disk_that_is_really_full(tmp_path: Path, save) -> None:
    net = small_net()
    thing = net.state_dict() if save is save_checkpoint else net
    save(tmp_path / "file", thing)
    before = (tmp_path / "file").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(RunEnded, match="full"):
            save(tmp_path / "file", thing)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "file").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    for name in (".last.pt.123.tmp", "weights/.last.safetensors.7.tmp"):
        (tmp_path / name).write_bytes(b"half")
    write_json(tmp_path / "run.json", {})
    remove_temporary(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["run.json"]


def test_checkpoints_go_through_the_disk(tmp_path: Path) -> None:
    net = small_net()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 1, 4, 16, 16)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "c.pt", {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "best": 0.5})
    found = load_checkpoint(tmp_path / "c.pt")
    assert all(torch.equal(found["model"][name], tensor) for name, tensor in net.state_dict().items())
    other = torch.optim.AdamW(small_net(1).parameters())
    other.load_state_dict(found["optimizer"])
    assert found["best"] == 0.5


class Bomb:
    def __reduce__(self) -> tuple:
        return os.system, ("touch exploded",)


def test_damaged_checkpoints_are_refused_and_no_code_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "c.pt"
    with pytest.raises(SynbbError, match="no checkpoint to resume from"):
        load_checkpoint(file)
    save_checkpoint(file, {"a": torch.zeros(1000)})
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"nonsense", pickle.dumps(Bomb())):
        file.write_bytes(content)
        with pytest.raises(SynbbError, match=r"c.pt is damaged"):
            load_checkpoint(file)
    torch.save(Bomb(), file)
    with pytest.raises(SynbbError, match=r"c.pt is damaged"):
        load_checkpoint(file)
    torch.save([1], file)
    with pytest.raises(SynbbError, match="holds no checkpoint"):
        load_checkpoint(file)
    assert not (tmp_path / "exploded").exists()


def test_weights_of_twice_registered_blocks(tmp_path: Path) -> None:
    net, other = small_net(0), small_net(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
    save_weights(tmp_path / "w.safetensors", net)
    stored = load_file(tmp_path / "w.safetensors")
    assert len(stored) < len(net.state_dict())  # MONAI's DynUNet names most blocks twice
    assert sum(t.numel() for n, t in stored.items() if "running" not in n and "tracked" not in n) == sum(
        p.numel() for p in net.parameters()
    )
    load_weights(tmp_path / "w.safetensors", other)
    for name, tensor in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


def test_weights_of_another_model(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_weights(file, small_net())
    with pytest.raises(SynbbError, match=r"w.safetensors does not fit the model: .* is \(.*\) there, \(.*\) here"):
        load_weights(file, build_unet((40, 8, 8), filters=(4, 8, 16)))
    with pytest.raises(SynbbError, match=r"does not fit the model: bias is missing there, \(1,\) here"):
        load_weights(file, nn.Conv3d(1, 1, 1))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(SynbbError, match="damaged"):
        load_weights(file, small_net())
    with pytest.raises(SynbbError, match="no such weights"):
        load_weights(tmp_path / "none", small_net())


def test_json_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with pytest.raises(SynbbError, match="run folder is incomplete"):
        read_json(file)
    for content in (b"{", b"[1]", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(SynbbError, match=r"run.json is damaged"):
            read_json(file)


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    file = tmp_path / "last.pt"
    save_checkpoint(file, {"model": nn.Linear(3, 2).state_dict()})
    session: Any = SimpleNamespace(run=SimpleNamespace(checkpoint_file=file), net=nn.Linear(2, 2))
    with pytest.raises(
        SynbbError, match=r"last\.pt does not fit the network of the config .*size mismatch.*start a new run"
    ):
        restore(session)
