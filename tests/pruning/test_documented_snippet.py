"""The snippet in docs/budgeted_broadcast.md runs as it stands, and the tests that docs/wiring.md names exist."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_snippet_runs(capsys):
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / "budgeted_broadcast.md").read_text(), re.DOTALL)
    assert len(snippets) == 1
    exec(compile(snippets[0], "budgeted_broadcast.md", "exec"), {})
    assert "'density': 0.25" in capsys.readouterr().out


def test_named_tests_exist():
    named = re.findall(r"`(test_\w+)(?:\.\.\.)?`", (DOCS / "wiring.md").read_text())
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert len(named) > 8
    assert not [name for name in named if f"def {name}" not in source]
