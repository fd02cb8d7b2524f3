import pytest
import torch

from synbb.inference.estimate import hints


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_beside_a_gpu_missing_tensorstore_is_named(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synbb.volumes.stores.find_spec", lambda _: None)
    (line,) = hints(torch.device(device))
    assert ".[remote]" in line
    monkeypatch.setattr("synbb.volumes.stores.find_spec", lambda name: name)
    assert hints(torch.device(device)) == []
    monkeypatch.setattr("synbb.inference.estimate.takes_memory_from_glibc", lambda: False)
    assert hints(torch.device("cpu")) == []
