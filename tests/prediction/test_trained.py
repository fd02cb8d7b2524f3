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
