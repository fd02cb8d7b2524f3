"""Tasks of somebody's own that return what a run cannot use are told so, by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import toy_task
from toy_study import RUN

from synbb.errors import SynbbError
from synbb.tasks.base import Validation
from synbb.training.config import run_config
from synbb.training.start import start_run


@pytest.mark.parametrize(
    ("method", "returned", "message"),
    [
        ("validate", {"accuracy": 1.0}, r"validate\(\) returned dict, no synbb\.tasks\.base\.Validation"),
        ("validate", Validation({"accuracy": 1.0}, "acuracy", {}), "the main score 'acuracy' is none of accuracy"),
        ("facts", {"mean": np.float32(0.5)}, r"facts\(\) must be plain values that JSON can hold .*float32"),
    ],
)
def test_what_a_run_cannot_use(
    method: str, returned: object, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "toy_task", toy_task)  # other tests import copies of it
    monkeypatch.setattr(toy_task.Points, method, lambda *_: returned)
    values = {**RUN, "training": {**RUN["training"], "steps": 2, "validate_every": 2}}
    with pytest.raises(SynbbError, match=f"task toy_task:Points: {message}"):
        start_run(run_config(values, "test"), tmp_path / "run", resume=False, say=lambda _: None)
