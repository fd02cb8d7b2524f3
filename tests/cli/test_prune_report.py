"""``synbb prune-report``: what of a run's pruning is printed."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Cli
from tiny import config, trained


def test_prune_report_names_every_layer(cli: Cli, finished: Path) -> None:
    ended = cli("prune-report", finished / "run")
    assert ended.status == 0
    report = json.loads((finished / "run" / "pruning.json").read_text())
    layers = report["layers"]
    assert len(layers) >= 11
    assert [layer["masked"] for layer in layers] == [False, *[True] * (len(layers) - 2), False]
    for layer in layers:
        row = next(line for line in ended.out.splitlines() if layer["name"] in line)
        assert (f"{layer['density']:.4f}" if layer["masked"] else "unmasked") in row
    held_out = report["held_out"]
    for figure in ("entropy", "correlation", "participation"):
        assert f"{held_out[figure]:.3f}" in ended.out
    assert "fan-in (solved for), held-out on-rates" in ended.out
    assert "regrown per refresh" in ended.out
    assert "masks final" in ended.out
    assert "of the weights" in ended.out


def test_prune_report_of_a_dense_run(cli: Cli, data: Path, tmp_path: Path) -> None:
    trained(config(data, pruning__method="none", training__steps=2, training__validate_every=2), tmp_path / "dense")
    ended = cli("prune-report", tmp_path / "dense")
    assert ended.status == 0, ended.error
    held_out = json.loads((tmp_path / "dense" / "pruning.json").read_text())["held_out"]
    assert "no layer is masked" in ended.out
    assert f"{held_out['entropy']:.3f}" in ended.out
    assert f"{held_out['traffic']:,.1f}" in ended.out
    assert "balance fit" not in ended.out
