"""What the pipelines share: names of tables, and what is current."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pipeline_call import ROOT, refused
from tiny import write_config, write_pair

from synbb.errors import SynbbError
from synbb.tasks.speech_corpus import CorpusPart
from synbb.training import load_config


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


def test_work_that_would_continue_begins_afresh_with_other_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    from stages import Stages

    output = tmp_path / "blocks"
    stages = Stages(tmp_path / "pipeline.json")

    def add(block: str, *, fail: bool = False) -> None:
        with output.open("a") as file:
            file.write(block)
        if fail:
            raise KeyboardInterrupt

    def predict(raw: int, block: str, *, fail: bool = False) -> str:
        stages.run("predict", {"raw": raw}, [output], lambda: add(block, fail=fail), afresh=output.unlink)
        return output.read_text()

    with pytest.raises(KeyboardInterrupt):
        predict(1, "a", fail=True)
    assert predict(1, "b") == "ab", "interrupted, and continued"
    with pytest.raises(KeyboardInterrupt):
        predict(2, "c", fail=True)
    assert predict(3, "d") == "d", "of raw 2 nothing is left"
    assert predict(3, "e") == "d"
    with pytest.raises(KeyboardInterrupt):
        predict(4, "f", fail=True)
    assert predict(3, "g") == "g", "what is there is of raw 4"


def test_data_that_change_after_the_training_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    import stages

    write_pair(tmp_path)
    file, run = write_config(tmp_path, training__steps=2, training__validate_every=2), tmp_path / "run"
    said: list[str] = []
    monkeypatch.setattr(stages, "say", said.append)

    def train() -> list[str]:
        said.clear()
        sources = [tmp_path / "raw.zarr", tmp_path / "labels.zarr"]
        stages.train(stages.Stages(run / "pipeline.json"), load_config(file), sources, file, None, run)
        return [line for line in said if "changed" in line]

    assert not train()
    assert not train()
    (tmp_path / "labels.zarr" / "zarr.json").touch()
    for _ in range(2):
        (told,) = train()
        assert told.startswith(f"{tmp_path / 'labels.zarr'}: changed since the training began, which is not repeated")


def test_what_is_transcribed_lies_with_what_was_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    monkeypatch.delitem(sys.modules, "speech", raising=False)
    from speech import folder_of, innermost

    monkeypatch.chdir(tmp_path)
    chapter = Path("Libri/test-clean/1/2")
    for place in (chapter, chapter.parent / "3", Path("Libri/train-clean-100/4/5"), Path("words/a"), Path("words/b")):
        place.mkdir(parents=True)
    for place in (chapter, chapter.parent / "3"):
        name = f"1-{place.name}"
        (place / f"{name}-0.flac").touch()
        (place / f"{name}.trans.txt").write_text(f"{name}-0 A WORD\n")
    libri = CorpusPart(corpus="Libri", split="test", layout="librispeech", part="test-clean")
    assert folder_of(libri) == Path("Libri/test-clean")
    assert innermost(libri) == Path("Libri/test-clean/1")
    for name in ("words/a/1.wav", "words/b/1.wav", "beyond.wav"):
        Path(name).touch()
    for table, names, place in (
        ("one", ["b/1.wav"], "words/b"),
        ("both", ["a/1.wav", "b/1.wav"], "words"),
        ("beyond", ["b/1.wav", "../beyond.wav"], "words"),
    ):
        Path(f"words/{table}.csv").write_text("audio,text\n" + "".join(f"{name},word\n" for name in names))
        for corpus, part in (("words", table), (f"words/{table}.csv", None)):
            found = CorpusPart(corpus=corpus, split="test", part=part)
            assert (folder_of(found), innermost(found)) == (Path("words"), Path(place))


def test_damaged_records_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "pipelines"))
    from stages import Stages

    (tmp_path / "pipeline.json").write_text('{"train": ')
    with pytest.raises(SynbbError, match=r"pipeline.json is damaged"):
        Stages(tmp_path / "pipeline.json").run("train", {}, [], lambda: None)


def test_a_study_without_data_is_refused_by_its_key(tmp_path: Path) -> None:
    said = refused("matched_sparsity", tmp_path, ROOT / "configs" / "compare" / "phantom.yaml", "run.data=null")
    assert "folds.band-0: data holds no keys" in said
