"""YAML that people write: what it is read as, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from synbb.errors import SynbbError
from synbb.yaml_text import parse_yaml, read_yaml


@pytest.mark.parametrize("text", ["2:4", "1:30.5", "2026-11-30", "2026-99-99", "2026-11-30 21:16:00", "0:1,0:1,0:1"])
def test_what_no_setting_is_is_text(text: str) -> None:
    assert parse_yaml(f"value: {text}", "file") == {"value": text}
    assert parse_yaml(yaml.safe_dump({"value": text}), "file") == {"value": text}


@pytest.mark.parametrize("text", ["7", "-0x1f", "010", "1.5", "-.inf", "1e-3", "yes", "null", "[1, a]", "'2:4'"])
def test_all_else_is_as_usual(text: str) -> None:
    assert parse_yaml(text, "file") == yaml.safe_load(text)


def test_merged_keys_may_be_given_anew() -> None:
    text = "- &a {x: 1, y: 1}\n- &b {<<: *a, y: 2}\n- {<<: *b, x: 3}\n- {<<: [*a, *b], z: 4}\n"
    assert parse_yaml(text, "file") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"file is not valid YAML: key 'a' stands twice, remove one \(line 3, column 1\)"),
        ("a: {b: 1, 'b': 2}", r"key 'b' stands twice, remove one \(line 1, column 11\)"),
        ("- &x {a: 1}\n- {<<: *x, b: 1, b: 2}", r"key 'b' stands twice, remove one \(line 2, column 18\)"),
        ("[1", r"file is not valid YAML: while parsing a flow sequence, expected .* \(line 1, column 3\)"),
        ("a: !!timestamp 2026-99-99", r"file is not valid YAML: month must be in 1..12"),
        ("a: !!int many", r"file is not valid YAML: invalid literal"),
        ("a: &x [*x]", r"file is nested too deep, or something in it holds itself"),
        ("a: \x01", r"file is not valid YAML: unacceptable character"),
    ],
)
def test_mistakes_are_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(SynbbError, match=message) as told:
        parse_yaml(text, "file")
    assert "\n" not in str(told.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SynbbError, match="settings is not valid YAML: 'utf-8' codec"):
        read_yaml(tmp_path / "binary", "settings")
