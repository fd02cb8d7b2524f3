"""What the pipelines share: names of tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_call import ROOT


def test_folders_of_one_name_get_tables_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    from stages import by_name

    monkeypatch.chdir(tmp_path)
    assert by_name([Path("data/orl"), Path("data/yaleb")]) == {"orl": Path("data/orl"), "yaleb": Path("data/yaleb")}
    folders = [Path("a/test"), Path("b/test"), Path("c/a/test"), Path("other"), Path("./a/../a/test")]
    assert by_name(folders) == {
        f"{tmp_path.name}-a-test": Path("a/test"),
        "b-test": Path("b/test"),
        "c-a-test": Path("c/a/test"),
        "other": Path("other"),
    }
