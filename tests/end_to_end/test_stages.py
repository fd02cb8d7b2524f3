"""What the pipelines share: names of tables, and what is current."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_call import ROOT, refused

from synbb.errors import SynbbError


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


def test_a_stage_is_done_again_when_its_source_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    from stages import Stages, stamps

    source, table = tmp_path / "words", tmp_path / "scores.json"
    (source / "s1").mkdir(parents=True)
    (source / "transcripts.csv").write_text("audio,text\n")
    (source / "s1" / "a.wav").write_bytes(b"1")

    def done() -> bool:
        given = {"sources": stamps([source, tmp_path / "nothing.txt"] if table.exists() else [source])}
        return Stages(tmp_path / "pipeline.json").run("evaluate", given, [table], table.touch)

    assert done()
    (tmp_path / "nothing.txt").touch()
    assert done(), "a list of pairs besides"
    assert not done()
    (source / "transcripts.csv").write_text("audio,text\ncorrected\n")
    assert done()
    (source / "s1" / "b.wav").write_bytes(b"2")
    assert done()
    assert not done()


def test_damaged_records_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    from stages import Stages

    (tmp_path / "pipeline.json").write_text('{"train": ')
    with pytest.raises(SynbbError, match=r"pipeline.json is damaged"):
        Stages(tmp_path / "pipeline.json").run("train", {}, [], lambda: None)


def test_a_study_without_data_is_refused_by_its_key(tmp_path: Path) -> None:
    said = refused("matched_sparsity", tmp_path, ROOT / "configs" / "compare" / "phantom.yaml", "run.data=null")
    assert "folds.band-0: data holds no keys" in said
