"""The snippets in docs/budgeted_broadcast.md run as they stand, and the tests that docs/wiring.md names exist."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import yaml

from synbb.training.pruning import PruningSettings, make_pruner

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_snippet_runs(capsys):
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / "budgeted_broadcast.md").read_text(), re.DOTALL)
    assert len(snippets) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(snippets[0], "budgeted_broadcast.md", "exec"), {})
    assert "'density': 0.25" in capsys.readouterr().out


def test_the_settings_to_begin_with_are_settings():
    written = re.findall(r"```yaml\n(.*?)```", (DOCS / "budgeted_broadcast.md").read_text(), re.DOTALL)
    given = [settings for text in written if (settings := yaml.safe_load(text).get("pruning"))]
    assert given
    for settings in given:
        assert make_pruner(PruningSettings(**settings), steps=200, seed=0) is not None


def test_named_tests_exist():
    named = re.findall(r"`(test_\w+)(?:\.\.\.)?`", (DOCS / "wiring.md").read_text())
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert len(named) > 8
    assert not [name for name in named if f"def {name}" not in source]
