"""Where trained networks are computed."""

from __future__ import annotations

import pytest

from synbb.errors import SynbbError
from synbb.prediction.trained import device_named


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "cuda:x", "gpu", ""])
def test_devices_that_are_not_computed_on_are_refused(name: str) -> None:
    with pytest.raises(SynbbError, match=f"--device {name}: no device that is computed on; use auto, cpu, cuda or"):
        device_named(name)


def test_a_processor_is_there() -> None:
    assert device_named("cpu") == "cpu"
    assert device_named("auto") in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("there", "name", "said"),
    [
        (0, "cuda", "torch sees no GPU; use --device cpu"),
        (1, "cuda:1", "torch sees no such GPU; use cuda:0$"),
        (2, "cuda:7", "torch sees no such GPU; use cuda:0 to cuda:1$"),
    ],
)
def test_gpus_that_are_not_there_are_named(there: int, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    with pytest.raises(SynbbError, match=f"--device {name}: {said}"):
        device_named(name)
    assert [device_named(f"cuda:{number}") for number in range(there)] == [f"cuda:{number}" for number in range(there)]
