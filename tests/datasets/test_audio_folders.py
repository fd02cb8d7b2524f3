"""Speech in folders: AN4, LibriSpeech, tables; order, damaged lists, damaged files."""

from __future__ import annotations

import csv
import random
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synbb.datasets.audio_folders import (
    Utterance,
    audio_seconds,
    list_audio,
    read_audio,
    read_corpus,
)
from synbb.datasets.ordering import natural_paths
from synbb.errors import SynbbError

AN4 = Path(__file__).resolve().parents[3] / "shared" / "data" / "an4"


def write(path: Path, samples: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(samples, 0.25, np.float32), 8000)


@pytest.fixture
def an4(tmp_path: Path) -> Path:
    folder = tmp_path / "an4"
    (folder / "etc").mkdir(parents=True)
    for speaker, ending in (("s10", "flac"), ("s2", "wav")):
        for number in (10, 9):
            write(folder / "wav" / "an4_clstk" / speaker / f"an{number}-{speaker}-b.{ending}")
    names = [f"an{number}-{speaker}-b" for speaker in ("s10", "s2") for number in (10, 9)]
    for part, form in (("train", "<s> GO  {} </s> ({})"), ("test", "GO {} ({})")):
        (folder / "etc" / f"an4_{part}.fileids").write_text(
            "".join(f"an4_clstk/{name.split('-')[1]}/{name}\n" for name in names)
        )
        (folder / "etc" / f"an4_{part}.transcription").write_text(
            "".join(form.format("ABCD"[place], name) + "\n" for place, name in enumerate(names)) + "\n"
        )
    return folder


@pytest.fixture
def librispeech(tmp_path: Path) -> Path:
    folder = tmp_path / "LibriSpeech" / "dev-clean"
    for speaker, chapter in ((84, 121123), (84, 7), (1272, 5)):
        where = folder / str(speaker) / str(chapter)
        for number in range(2):
            write(where / f"{speaker}-{chapter}-{number:04d}.flac")
        lines = [f"{speaker}-{chapter}-{number:04d} SAID {number}\n" for number in range(2)]
        (where / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in ("b/10.wav", "b/9.wav", "a.wav"):
        write(tmp_path / "own" / name)
    (tmp_path / "own" / "transcripts.csv").write_text(
        'text,audio,speaker,room\n"yes, please",b/10.wav,bo,1\n  no ,b/9.wav,bo,1\nä,a.wav,,2\n', encoding="utf-8"
    )
    return tmp_path / "own"


def plain(utterances: list[Utterance]) -> list[tuple[str, str | None, str | None]]:
    return [(each.path.name, each.speaker, each.text) for each in utterances]


@pytest.mark.parametrize("part", ["train", "test"])
def test_an4_is_read_with_and_without_marks_of_sentences(an4: Path, part: str) -> None:
    assert plain(read_corpus(an4, "an4", part)) == [
        ("an9-s2-b.wav", "s2", "GO D"),
        ("an10-s2-b.wav", "s2", "GO C"),
        ("an9-s10-b.flac", "s10", "GO B"),
        ("an10-s10-b.flac", "s10", "GO A"),
    ]


@pytest.mark.real_data
def test_the_real_an4_has_the_counts_of_its_authors() -> None:
    if not AN4.is_dir():
        pytest.skip("no AN4: ../shared/data/an4 is not beside this checkout")
    train, test = (read_corpus(AN4, "an4", part) for part in ("train", "test"))
    speakers = [{each.speaker for each in part} for part in (train, test)]
    assert [len(train), len(test), *map(len, speakers)] == [948, 130, 74, 10]
    assert not speakers[0] & speakers[1]
    assert all(re.fullmatch(r"[A-Z]+( [A-Z]+)*", each.text or "") for each in train + test), "letters and blanks"
    held_out = sorted(str(speaker) for speaker in speakers[0])[::10]
    assert sum(each.speaker in held_out for each in train) == 98
    began = time.perf_counter()
    audio = [read_audio(each.path) for each in test]
    took = time.perf_counter() - began
    assert {(each.rate, each.channels) for each in audio} == {(16000, 1)}
    assert sum(len(each.samples) for each in audio) / 16000 / 60 == pytest.approx(5.95, abs=0.01)
    assert took / len(test) < 0.02, "about a millisecond a file, on a busy machine too"


def test_librispeech_is_read_from_a_part_or_the_folder_of_parts(librispeech: Path) -> None:
    found = read_corpus(librispeech.parent, "librispeech", "dev-clean")
    assert found == read_corpus(librispeech, "librispeech")
    assert plain(found) == [
        (f"{of}-{number:04d}.flac", of.split("-")[0], f"SAID {number}")
        for of in ("84-7", "84-121123", "1272-5")
        for number in range(2)
    ]


def test_a_table_is_read_whatever_its_columns_besides(table: Path) -> None:
    found = read_corpus(table, "table")
    assert plain(found) == [("a.wav", None, "ä"), ("9.wav", "bo", "no"), ("10.wav", "bo", "yes, please")]
    assert read_corpus(table / "transcripts.csv", "table") == found
    assert read_corpus(table, "table", "transcripts") == found


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(words.filter(str.strip), min_size=1, max_size=4))
def test_any_text_survives_a_table(tmp_path: Path, texts: list[str]) -> None:
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "text"])
        for number, text in enumerate(texts):
            if not (tmp_path / f"{number}.wav").exists():
                write(tmp_path / f"{number}.wav")
            writer.writerow([f"{number}.wav", text])
    assert [each.text for each in read_corpus(tmp_path / "t.csv", "table")] == [" ".join(t.split()) for t in texts]


@given(st.lists(st.text("a01/", min_size=1).map(Path), unique=True), st.randoms())
def test_the_order_is_one_whatever_came_first(paths: list[Path], chance: random.Random) -> None:
    shuffled = list(paths)
    chance.shuffle(shuffled)
    assert natural_paths(shuffled) == natural_paths(paths)


def test_numbers_count_by_value_in_folders_too() -> None:
    names = ["a/2/x", "a/10/1", "a/10/9", "a/10/11", "a/010/11", "b"]
    assert [str(path) for path in natural_paths(map(Path, sorted(names)))] == [*names[:3], "a/010/11", "a/10/11", "b"]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


LIST, SAID = "etc/an4_train.fileids", "etc/an4_train.transcription"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (SAID, "<s> GO  A </s> (an10-s10-b)\n", "", r"an4_train\.fileids: 'an10-s10-b' has no transcript in an4_train"),
        (LIST, "an4_clstk/s10/an10-s10-b\n", "", r"an4_train\.transcription: 'an10-s10-b' is not in an4_train\.fil"),
        (SAID, "(an10-s10-b)", "", r"transcription, line 1: '<s> GO  A </s>' does not end with an utterance"),
        (SAID, "GO  A", " ", r"transcription, line 1: the transcript of 'an10-s10-b' is empty; write it"),
        (SAID, "(an9-s10-b)", "(an10-s10-b)", r"transcription, line 2: 'an10-s10-b' has a transcript already"),
        (LIST, "an4_clstk/s10/an9-s10-b", "an4_clstk/s10/an10-s10-b", r"fileids, line 2: 'an10-s10-b' is listed twice"),
        (LIST, "an4_clstk/s10/an10", "an4_clstk/s11/an10", r"s11/an10-s10-b\.flac \(or \.wav, \.sph\): no such file"),
        (LIST, "an4_clstk/s10/an10", "an10", r"fileids, line 1: 'an10-s10-b' has no folder, which names the speaker"),
    ],
)
def test_damaged_lists_of_an4(an4: Path, file: str, old: str, new: str, message: str) -> None:
    edit(an4 / file, old, new)
    with pytest.raises(SynbbError, match=message):
        read_corpus(an4, "an4", "train")


def test_what_an4_lacks(an4: Path, librispeech: Path, tmp_path: Path) -> None:
    with pytest.raises(SynbbError, match=r"an4_dev\.fileids: no such list; parts there: test, train"):
        read_corpus(an4, "an4", "dev")
    with pytest.raises(SynbbError, match="needs a part, `train` or `test`"):
        read_corpus(an4, "an4")
    with pytest.raises(SynbbError, match=r"no such list; expected AN4: etc/an4_train\.fileids and wav/"):
        read_corpus(librispeech, "an4", "train")
    with pytest.raises(SynbbError, match="nowhere: no such folder of speech"):
        read_corpus(tmp_path / "nowhere", "an4", "train")
    for name in (LIST, SAID):
        (an4 / name).write_text("\n")
    with pytest.raises(SynbbError, match="holds no utterance"):
        read_corpus(an4, "an4", "train")
    (an4 / SAID).write_bytes(b"\xff\xfe")
    with pytest.raises(SynbbError, match=r"transcription: cannot be read \(.*utf-8"):
        read_corpus(an4, "an4", "train")
    (an4 / SAID).unlink()
    with pytest.raises(SynbbError, match=r"transcription: no such list"):
        read_corpus(an4, "an4", "train")


def test_damaged_librispeech(librispeech: Path, an4: Path) -> None:
    chapter = librispeech / "84" / "7"
    lines = chapter / "84-7.trans.txt"
    whole = lines.read_text()
    for old, new, message in (
        ("84-7-0001 SAID 1\n", "", r"84-7-0001\.flac: has no line in 84-7\.trans\.txt; add it"),
        ("84-7-0001 SAID 1", "84-7-0002 SAID 1", r"line 2: .*84-7-0002\.flac is not there; fetch it again"),
        ("84-7-0001 SAID 1", "84-7-0001 ", r"line 2: the transcript of '84-7-0001' is empty"),
        ("84-7-0001", "84-7-0000", r"line 2: '84-7-0000' has a transcript already"),
    ):
        lines.write_text(whole)
        edit(lines, old, new)
        with pytest.raises(SynbbError, match=message):
            read_corpus(librispeech, "librispeech")
    lines.unlink()
    with pytest.raises(SynbbError, match=r"84-7\.trans\.txt: no such list"):
        read_corpus(librispeech, "librispeech")
    for other in (librispeech.parent, an4):
        with pytest.raises(SynbbError, match=r"expected LibriSpeech's layout, for example LibriSpeech/train-clean-100"):
            read_corpus(other, "librispeech")
    with pytest.raises(SynbbError, match="train-clean-100: no such folder of speech"):
        read_corpus(librispeech.parent, "librispeech", "train-clean-100")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"there is no column 'audio' among none; the first line must name audio, text"),
        ("audio,words\na.wav,hi\n", r"there is no column 'text' among audio, words"),
        ("file,text\na.wav,hi\n", r"there is no column 'audio' among file, text"),
        ("audio;text\na.wav;hi\n", r"no column 'audio' among audio;text; .*, with commas between them"),
        ("audio,text\n", "holds no utterance"),
        ("audio,text\na.wav,\n", r"line 2: the transcript of 'a\.wav' is empty"),
        ("audio,text\na.wav\n", r"line 2: the transcript of 'a\.wav' is empty"),
        ("audio,text\n,hi\n", "line 2: audio is empty"),
        ("audio,text\na.wav,hi\na.wav,ho\n", r"line 3: 'a\.wav' is listed twice"),
        ("audio,text\na.wav,hi\n./a.wav,ho\n", r"line 3: '\./a\.wav' is listed twice"),
        ("audio,text\na.wav,hi, you\n", "line 2: more values than columns; put a text that has commas into quotes"),
        ("audio,text\nz.wav,hi\n", r"line 2: .*z\.wav is not there; paths are relative to the folder of the table"),
        ('audio,text\na.wav,"hi\n', "cannot be read as a table"),
        ("audio,text\na.wav,\udcff\n", r"cannot be read as a table \(.*utf-8.*save it as CSV in UTF-8"),
    ],
)
def test_damaged_tables(table: Path, content: str, message: str) -> None:
    file = table / "transcripts.csv"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(SynbbError, match=message) as caught:
        read_corpus(table, "table")
    assert str(file) in str(caught.value)


def test_tables_and_layouts_that_are_not_there(table: Path) -> None:
    with pytest.raises(SynbbError, match=r"train\.csv: no such table"):
        read_corpus(table, "table", "train")
    with pytest.raises(SynbbError, match="part 'train' is of use with a folder of tables alone"):
        read_corpus(table / "transcripts.csv", "table", "train")
    with pytest.raises(SynbbError, match="layout is 'tabel'; did you mean 'table'"):
        read_corpus(table, "tabel")  # type: ignore[arg-type]


def test_audio_below_a_folder(table: Path, tmp_path: Path) -> None:
    write(table / "c" / "d" / "x.FLAC")
    (table / "c" / "._x.wav").write_bytes(b"what macOS leaves beside x.wav")
    (table / "folder.wav").mkdir()
    write(table / ".Trash-1000" / "files" / "z.wav")
    found = [str(path.relative_to(table)) for path in list_audio(table)]
    assert found == ["a.wav", "b/9.wav", "b/10.wav", "c/d/x.FLAC"]
    assert list_audio(table / "a.wav") == [table / "a.wav"]
    write(tmp_path / "elsewhere" / "y.wav")
    (table / "c" / "link").symlink_to(tmp_path / "elsewhere")
    (table / "c" / "round").symlink_to(table)
    found = [str(path.relative_to(table)) for path in list_audio(table)]
    assert found == ["a.wav", "b/9.wav", "b/10.wav", "c/d/x.FLAC", "c/link/y.wav"]
    assert list_audio(table / ".Trash-1000") == [table / ".Trash-1000" / "files" / "z.wav"], "asked for by its name"
    with pytest.raises(SynbbError, match=r"folder\.wav: no audio below it"):
        list_audio(table / "folder.wav")
    with pytest.raises(SynbbError, match="nowhere: no such file or folder of audio"):
        list_audio(tmp_path / "nowhere")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.lists(st.integers(-32768, 32767), min_size=1, max_size=3), min_size=1, max_size=50).filter(
        lambda rows: len({len(row) for row in rows}) == 1
    ),
    ending=st.sampled_from(["wav", "flac"]),
    rate=st.sampled_from([8000, 16000, 44100]),
)
def test_samples_are_the_mean_of_the_channels(tmp_path: Path, values: list[list[int]], ending: str, rate: int) -> None:
    stored = np.array(values, np.int16)
    soundfile.write(tmp_path / f"a.{ending}", stored, rate)
    audio = read_audio(tmp_path / f"a.{ending}")
    assert (audio.rate, audio.channels, audio.samples.dtype) == (rate, stored.shape[1], np.float32)
    np.testing.assert_allclose(audio.samples, stored.mean(axis=1) / 32768, atol=1e-6)
    assert audio_seconds(tmp_path / f"a.{ending}") == len(stored) / rate


@pytest.mark.parametrize("ending", ["ogg", "mp3", "aiff", "au"])
def test_other_formats(tmp_path: Path, ending: str) -> None:
    tone = 0.5 * np.sin(np.arange(8000) / 5)
    soundfile.write(tmp_path / f"a.{ending}", tone, 16000)
    audio = read_audio(tmp_path / f"a.{ending}")
    assert (audio.rate, len(audio.samples)) == (16000, 8000)
    assert np.corrcoef(audio.samples, tone)[0, 1] > 0.99


def test_floats_may_go_a_little_beyond_one_and_no_further(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    soundfile.write(file, np.array([0.5, -1.25, 1.5]), 8000, subtype="FLOAT")
    assert read_audio(file).samples.tolist() == [0.5, -1, 1]
    soundfile.write(file, np.array([0.5, -12000.0]), 8000, subtype="FLOAT")
    with pytest.raises(SynbbError, match=r"a\.wav: its samples reach 12000, but floats must lie from -1 to 1"):
        read_audio(file)
    for bad in (np.nan, np.inf):
        soundfile.write(file, np.array([[0.5, 0], [0.1, bad]]), 8000, subtype="FLOAT")
        with pytest.raises(SynbbError, match=r"a\.wav: its samples are not all finite"):
            read_audio(file)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.ogg", "a.raw"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"is empty \(0 bytes\)"), (b"no audio at all", "cannot be decoded as audio")],
)
def test_what_is_no_audio_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (read_audio, audio_seconds):
        with pytest.raises(SynbbError, match=rf"{re.escape(name)} {message}") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(caught.value).count(name) == 1


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("wav", r"a\.wav is cut short: 2\d{4} of 32000 bytes of sound"),
        ("flac", r"a\.flac cannot be decoded as audio"),
        ("ogg", r"a\.ogg (holds no samples|is cut short)"),
    ],
)
def test_files_that_are_cut_short(tmp_path: Path, ending: str, message: str) -> None:
    file = tmp_path / f"a.{ending}"
    soundfile.write(file, 0.1 * np.random.default_rng(0).normal(size=16000), 16000)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(SynbbError, match=message):
        read_audio(file)


def test_a_wav_out_of_a_pipe_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    write(file, 500)
    whole = bytearray(file.read_bytes())
    for at in (4, 40):  # programs that cannot go back leave the sizes of file and data open
        whole[at : at + 4] = b"\xff\xff\xff\xff"
    file.write_bytes(whole)
    assert len(read_audio(file).samples) == 500


def test_audio_that_is_not_there_or_has_no_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for read in (read_audio, audio_seconds):
        for where in (tmp_path / "none.wav", tmp_path):
            with pytest.raises(SynbbError, match=f"{where.name}: no such audio file"):
                read(where)
        write(tmp_path / "silent.wav", samples=0)
        with pytest.raises(SynbbError, match=r"silent\.wav holds no samples"):
            read(tmp_path / "silent.wav")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(SynbbError, match=r"-e '\.\[speech\]'"):
        read_audio(tmp_path / "silent.wav")


@pytest.mark.parametrize("what", ["rate", "length"])
def test_headers_that_cannot_be_are_not_believed(tmp_path: Path, what: str) -> None:
    """Believed, they would ask for hundreds of GiB."""
    file = tmp_path / ("a.wav" if what == "rate" else "a.flac")
    soundfile.write(file, np.zeros(1000), 16000)
    content = bytearray(file.read_bytes())
    if what == "rate":
        content[24:28] = (2**31 - 1).to_bytes(4, "little")
    else:  # 36 bits of STREAMINFO
        content[21] |= 0x0F
        content[22:26] = b"\xff" * 4
    file.write_bytes(content)
    for read in (read_audio, audio_seconds):
        with pytest.raises(
            SynbbError, match=r"a\.\w+ is damaged: [\d,]+ bytes of [\d,]+ samples at [\d,]+ Hz; replace"
        ):
            read(file)


def test_an_hour_of_silence_is_believed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(3600 * 8000, np.int16), 8000)
    assert audio_seconds(tmp_path / "a.flac") == 3600
