"""The speech task: batches, losses, scores, transcripts, and what does not fit."""

from __future__ import annotations

import base64
import csv
import shutil
import sys
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synbb.datasets.audio_folders import Utterance
from synbb.datasets.phantom_speech import SpeechPhantom, write_phantom_speech
from synbb.errors import SynbbError
from synbb.models.speech_transformer import REDUCTION, heard_positions, least_frames, shorter, within
from synbb.tasks.base import PredictsFiles
from synbb.tasks.speech import IGNORED, SpeechTask
from synbb.tasks.speech_corpus import Chosen, CorpusPart, Heard, needed_positions, writable
from synbb.tasks.speech_text import Characters, Subwords, restore_vocabulary
from synbb.tasks.transcribing import SCORES_AT_ONCE, SpeechModelSettings, Transcriber
from synbb.training import make_task
from synbb.training.config import run_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("speech") / "words"
    write_phantom_speech(where, SpeechPhantom(speakers=6, utterances=5, vocabulary=8, words=(1, 2)))
    return where


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def parts(folder: Path) -> list[dict[str, Any]]:
    corpus = {"corpus": str(folder)}
    return [
        {**corpus, "split": "train", "speakers": [0, 4]},
        {**corpus, "split": "validation", "speakers": [4, 5]},
        {**corpus, "split": "test", "speakers": [5, 6]},
    ]


def made(
    corpora: list[dict[str, Any]], seed: int = 0, batch_size: int = 4, model: Any = None, **data: Any
) -> SpeechTask:
    values = {
        "task": "speech",
        "seed": seed,
        "data": {"corpora": corpora, "features": {"mels": 20}, **data},
        "model": {"width": 16, "layers": 1, "heads": 2, "hidden": 16, **(model or {})},
        "training": {"batch_size": batch_size},
    }
    task = make_task(run_config(values, "test"))
    assert isinstance(task, SpeechTask)
    return task


def prepared(*arguments: Any, **options: Any) -> SpeechTask:
    task = made(*arguments, **options)
    task.prepare()
    return task


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "transcripts.csv").open() as file:
        return list(csv.DictReader(file))


def rewrite(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "transcripts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["audio", "text", "speaker"])
        writer.writeheader()
        writer.writerows(rows)


# ---- batches ----


def test_a_batch_is_a_function_of_seed_and_step(folder: Path) -> None:
    one, other = prepared(parts(folder)), prepared(parts(folder))
    other.batch(9, 0, 1)  # what was asked before does not matter
    a, b = one.batch(3, 0, 1), other.batch(3, 0, 1)
    for mine, theirs in zip(a.inputs, b.inputs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert torch.equal(a.targets, b.targets)
    assert a.inputs[0].shape[:2] == (4, 20)
    other_seed = prepared(parts(folder), seed=1).batch(3, 0, 1)
    assert other_seed.inputs[0].shape != a.inputs[0].shape or (other_seed.inputs[0] != a.inputs[0]).any()


def test_ranks_share_the_batch_of_one(folder: Path) -> None:
    task = prepared(parts(folder))
    whole = task.batch(5, 0, 1)
    shares = [task.batch(5, rank, 2) for rank in (0, 1)]
    for rank, share in enumerate(shares):
        for row in range(2):
            length = int(share.inputs[1][row])
            assert length == whole.inputs[1][2 * row + rank]
            torch.testing.assert_close(share.inputs[0][row, :, :length], whole.inputs[0][2 * row + rank, :, :length])


def test_an_epoch_shows_every_utterance_once_and_lengths_go_together(folder: Path) -> None:
    task = prepared(parts(folder), batch_size=5)
    spread = []
    for epoch in range(2):
        texts: Counter[str] = Counter()
        for step in range(4):
            batch = task.batch(4 * epoch + step, 0, 1)
            texts.update(task._vocabulary.decode([t for t in row.tolist() if t != IGNORED]) for row in batch.targets)
            spread.append(float(batch.inputs[1].max() / batch.inputs[1].min()))
        assert texts == Counter(task._train.texts)
    shuffled = np.random.default_rng(0).permutation([each.frames for each in task._train.heard]).reshape(4, 5)
    assert np.mean(spread) < (shuffled.max(axis=1) / shuffled.min(axis=1)).mean()


@pytest.mark.parametrize("channels", [3, None])
def test_valid_positions_are_those_of_frames_and_of_tokens(folder: Path, channels: int | None) -> None:
    batch = prepared(parts(folder), model={"decoder_layers": 1, "channels": channels}).batch(0, 0, 1)
    frames, lengths, so_far = batch.inputs
    assert isinstance(batch.valid, dict)
    positions = heard_positions(lengths, *frames.shape[1:], over_bands=channels is not None)
    assert {*batch.valid} == {*positions, "decoder*"}
    for pattern, mask in positions.items():
        assert torch.equal(batch.valid[pattern], mask)
    written = (batch.targets != IGNORED).sum(dim=1)
    assert torch.equal(batch.valid["decoder*"].sum(dim=1), written + 1)
    assert so_far.shape == (4, batch.targets.shape[1] + 1)
    assert (frames.transpose(1, 2)[~within(lengths, frames.shape[2])] == 0).all()


def positions_of(frames: int) -> int:
    """Positions of the encoder for a number of frames."""
    return int(shorter(shorter(torch.tensor(frames))))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=12), st.integers(0, 5))
def test_what_is_left_of_a_stretched_utterance_fits_its_transcript(tokens: list[int], more: int) -> None:
    frames = SpeechTask._least(tokens) + more
    assert positions_of(frames) >= needed_positions(tokens)
    needed = needed_positions(tokens)
    assert positions_of(least_frames(needed)) == needed
    assert positions_of(least_frames(needed) - 1) == needed - 1


# ---- loss ----


def test_the_ctc_loss_is_that_of_each_utterance(folder: Path) -> None:
    task = prepared(parts(folder))
    batch = task.batch(0, 0, 1)
    net = task.build_model().eval()
    outputs = net(*batch.inputs)
    by_hand = []
    for row in range(4):
        count = int(batch.inputs[1][row])
        alone, positions = net(batch.inputs[0][row : row + 1, :, :count], batch.inputs[1][row : row + 1])
        target = batch.targets[row][batch.targets[row] != IGNORED]
        loss = torch.nn.functional.ctc_loss(
            alone[0].log_softmax(1)[:, None], target[None], positions, torch.tensor([len(target)]), reduction="sum"
        )
        by_hand.append(loss / len(target))
    torch.testing.assert_close(task.loss(outputs, batch), torch.stack(by_hand).mean(), rtol=1e-4, atol=1e-4)


def test_the_decoder_is_to_say_each_token_and_then_the_end(folder: Path) -> None:
    task = prepared(parts(folder), model={"decoder_layers": 1, "ctc_weight": 0.25, "smoothing": 0.0})
    batch = task.batch(0, 0, 1)
    outputs = task.build_model().eval()(*batch.inputs)
    ctc = task.loss(outputs[:2], batch)
    said = []
    for row in range(4):
        tokens = [*batch.targets[row][batch.targets[row] != IGNORED].tolist(), task._vocabulary.size]
        assert batch.inputs[2][row, : len(tokens)].tolist() == [task._vocabulary.size, *tokens[:-1]]
        log = outputs[2][row].log_softmax(1)
        said += [-log[place, token] for place, token in enumerate(tokens)]
    wanted = 0.25 * ctc + 0.75 * torch.stack(said).mean()
    torch.testing.assert_close(task.loss(outputs, batch), wanted)


@pytest.mark.parametrize(("decoder_layers", "decoding"), [(0, "greedy"), (0, "beam"), (1, "beam")])
def test_it_learns_to_write_what_it_hears(folder: Path, tmp_path: Path, decoder_layers: int, decoding: str) -> None:
    """Two utterances by heart: the whole way from audio to text, in each way of decoding."""
    corpus = [{"corpus": str(folder), "split": split, "speakers": [0, 1]} for split in ("train",)]
    still = {"speed": 0, "tract": 0, "bands": 0, "times": 0}
    model = {
        "decoder_layers": decoder_layers,
        "decoding": decoding,
        "width": 48,
        "hidden": 96,
        "dropout": 0.0,
        "beam": 4,
    }
    task = prepared(corpus, model=model, batch_size=5, augment=still)
    torch.manual_seed(0)
    net = task.build_model()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    batch = task.batch(0, 0, 1)
    for _ in range(250):
        loss = task.loss(net(*batch.inputs), batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if loss.item() < 0.05:
            break
    table = task.predict_files(net.eval(), folder, "cpu")
    heard = {each.utterance.path.name: each.text for each in task._train.heard}
    spoken = {
        Path(path).name: text
        for path, text, _ in table.rows
        if Path(path).parent == task._train.heard[0].utterance.path.parent
    }
    assert spoken == heard
    assert table.columns == ["audio", "text", "seconds"]
    assert len(table.rows) == 30
    assert "times as fast as it was spoken" in table.notes[-1]


def test_the_decoders_end_is_never_written_by_ctc_alone(folder: Path) -> None:
    task = prepared(parts(folder), model={"decoder_layers": 1})
    net = task.build_model().eval()
    with torch.no_grad():
        net.ctc.bias[-1] = 100.0  # as a network in its first steps may have it
        net.ctc.bias[3] = 50.0
    found = task.validate(net, "cpu")
    assert found is not None
    letter = task._vocabulary.decode([3])
    assert {part for _, text, _ in task.predict_files(net, folder, "cpu").rows for part in text.split()} == {letter}


# ---- scores ----


def test_scores_are_those_of_the_transcripts_and_count_by_speaker(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = prepared(parts(folder))
    said = ["", "", "", "", ""]
    monkeypatch.setattr(Transcriber, "utterances", lambda *_: said)
    found = task.score(task.build_model(), "cpu", {})
    assert found is not None
    assert found.main == "word_accuracy"
    assert (found.scores["wer"], found.scores["cer"], found.scores["word_accuracy"]) == (1, 1, 0)
    chosen = task._writable(task._choose("test"))
    said[2] = chosen.texts[2]
    assert found.cases is not None
    assert found.cases.columns == ["audio", "speaker", "said", "written", "wrong_words", "words"]
    worst = [row for row in task.score(task.build_model(), "cpu", {}).cases.rows if row[4] == "0"]
    assert [row[2:4] for row in worst] == [[chosen.texts[2]] * 2]
    said[:] = chosen.texts
    right = task.score(task.build_model(), "cpu", {})
    assert right is not None
    assert right.scores["word_accuracy"] == 1
    assert {name: value for name, value in right.scores.items() if name.startswith("missed")}.values() != {}
    assert all(value == 0 for name, value in right.scores.items() if name.startswith("missed"))
    assert right.resampled["word_accuracy"].units == {"utterances": 5}, "one speaker cannot be drawn anew"
    assert right.resampled["word_accuracy"].score() == 1
    assert right.scores["utterances"] == 5


def test_a_restored_task_transcribes_without_its_data(folder: Path) -> None:
    task = prepared(parts(folder))
    net = task.build_model().eval()
    again = made([{"corpus": "gone", "split": "train"}])
    assert isinstance(again, PredictsFiles)
    again.restore(task.facts())
    one, other = (each.predict_files(net, folder, "cpu") for each in (task, again))
    assert one.rows == other.rows


def test_held_out_utterances_come_alone_and_unpadded(folder: Path) -> None:
    task = prepared(parts(folder))
    found = list(task.held_out_batches(3))
    assert [int(lengths[0]) for _, lengths in found] == [frames.shape[2] for frames, _ in found]
    assert len(found) == 3
    assert len(list(task.held_out_batches(100))) == 5
    assert sum(len(lengths) for _, lengths in task.calibration_batches(50)) == 50


# ---- what does not fit ----


def test_a_speaker_in_two_splits_is_named(folder: Path) -> None:
    corpora = parts(folder)
    corpora[1] = {**corpora[0], "split": "validation", "speakers": [3, 5]}
    with pytest.raises(SynbbError, match=r"is in split train and in split validation"):
        prepared(corpora)


def test_speakers_are_divided_by_their_whole_names(own: Path) -> None:
    rows = rows_of(own)
    names = {name: f"room {place % 2}/{place + 8}/" for place, name in enumerate(sorted({r["speaker"] for r in rows}))}
    rewrite(own, [{**row, "speaker": names[row["speaker"]]} for row in rows])
    chosen = [CorpusPart(corpus=str(own), split="train", speakers=part).utterances() for part in ((0, 2), (2, 6))]
    assert [len(each) for each in chosen] == [10, 20]
    assert {each.speaker for each in chosen[0]} == {"room 0/8/", "room 0/10/"}


def test_an_utterance_that_a_split_names_twice_is_named(folder: Path) -> None:
    again = [*parts(folder), {"corpus": f"{folder}/../{folder.name}", "split": "train", "speakers": [3, 4]}]
    with pytest.raises(SynbbError, match=r"data.corpora: \S+ is named twice in split train, also as \S+, and would"):
        prepared(again)


def test_a_speaker_of_another_table_is_named(own: Path, folder: Path) -> None:
    corpora = parts(folder)
    corpora[1]["corpus"] = str(own)
    corpora[1]["speakers"] = [3, 4]
    with pytest.raises(SynbbError, match=r"split validation is spoken by \S+, who is also in split train"):
        prepared(corpora)
    assert prepared(corpora, speakers_apart=False)._validation.heard


@pytest.mark.parametrize("damage", ["speaker", "characters", "audio"])
def test_what_is_wrong_with_the_test_split_shows_before_training(folder: Path, own: Path, damage: str) -> None:
    corpora = parts(folder)
    corpora[2]["corpus"] = str(own)
    rows = rows_of(own)
    if damage == "speaker":
        corpora[2]["speakers"] = [0, 1]
    elif damage == "characters":
        rewrite(own, [{**row, "text": row["text"] + " Ω"} for row in rows])
    else:
        (own / rows[-1]["audio"]).write_bytes(b"none")
    said = {"speaker": "split test is spoken by", "characters": "holds 'Ω'", "audio": "cannot be decoded as audio"}
    with pytest.raises(SynbbError, match=said[damage]):
        prepared(corpora)


def test_few_words_and_long_recordings(own: Path, tmp_path: Path) -> None:
    rewrite(own, [{**row, "text": "ab"} for row in rows_of(own)])
    task = prepared(parts(own))
    found = task.score(task.build_model().eval(), "cpu", {})
    assert found is not None
    assert not any(name.startswith("missed") for name in found.scores), "one word has no thirds"
    longest = max(each.seconds for each in task._train.heard)
    assert task.facts()["longest"] == longest
    assert task._transcriber()._longest == longest
    assert prepared(parts(own), longest=9)._transcriber()._longest == 9


def test_characters_outside_the_alphabet_name_the_file(own: Path) -> None:
    rows = rows_of(own)
    name = sorted({row["speaker"] for row in rows})[4]
    last = next(row for row in rows if row["speaker"] == name)
    last["text"] += " Ω9"
    rewrite(own, rows)
    with pytest.raises(SynbbError, match=rf"{Path(last['audio']).name}.* holds 'Ω', '9', not in the alphabet"):
        prepared(parts(own))
    lines = made(parts(own), on_bad="skip").prepare()
    assert any("validation: 1 utterance left out" in line and last["audio"] in line for line in lines)


def test_a_transcript_longer_than_its_audio_is_named(own: Path) -> None:
    rows = rows_of(own)
    rows[0]["text"] = " ".join([rows[0]["text"]] * 40)
    rewrite(own, rows)
    with pytest.raises(SynbbError, match=r"are too short for its transcript"):
        prepared(parts(own))


def test_the_last_position_may_stand_for_a_single_frame() -> None:
    nine = Chosen((Heard(Utterance(Path("a.wav"), None, "TWO"), 9, 0.1),))
    assert writable(nine, Characters("OTW"), least_frames, skip_bad=False).texts == ["TWO"]
    eight = Chosen((replace(nine.heard[0], frames=8),))
    with pytest.raises(SynbbError, match=r"8 frames \(0.10 s\) are too short for its transcript 'TWO', which needs 9"):
        writable(eight, Characters("OTW"), least_frames, skip_bad=False)


@pytest.mark.parametrize("whole", [True, False])
def test_files_that_are_no_audio_end_the_run_or_are_left_out(own: Path, whole: bool) -> None:
    first = own / rows_of(own)[0]["audio"]
    first.write_bytes(b"no audio at all" * 20)
    memory = {"cache_mib": 1024 if whole else 1}
    if not whole:  # then headers alone are read: what is damaged later in the file shows in training
        memory["features"] = {"mels": 20, "hop": 0.1}
    with pytest.raises(SynbbError, match=rf"{first.name} cannot be decoded .*on_bad=skip"):
        prepared(parts(own), **memory)
    lines = made(parts(own), on_bad="skip", **memory).prepare()
    assert any(line.startswith("train: 1 utterance left out") and first.name in line for line in lines)


def test_what_the_test_split_loses_is_told_with_its_scores(own: Path) -> None:
    tested = [row for row in rows_of(own) if row["speaker"] == sorted({row["speaker"] for row in rows_of(own)})[5]]
    (own / tested[0]["audio"]).write_bytes(b"no audio at all" * 20)
    task = prepared(parts(own), on_bad="skip")
    found = task.score(task.build_model().eval(), "cpu", {})
    assert found is not None
    assert found.scores["utterances"] == len(tested) - 1
    assert found.notes[0].startswith("test: 1 utterance left out: ")


def test_what_is_missing_or_wrong_shows_before_any_audio_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SynbbError, match="width 16 is no multiple of heads 5; choose heads that divide it"):
        made(parts(folder), model={"heads": 5})
    monkeypatch.setitem(sys.modules, "jiwer", None)
    monkeypatch.setattr("synbb.tasks.speech.choose", lambda *_, **__: pytest.fail("audio was looked at"))
    with pytest.raises(SynbbError, match="jiwer, which is not installed; in the checkout"):
        made(parts(folder)).prepare()


def test_bad_files_among_recordings_are_told(own: Path) -> None:
    (own / "empty.wav").touch()
    task = prepared(parts(own))
    table = task.predict_files(task.build_model().eval(), own, "cpu")
    assert len(table.rows) == 30
    assert len(table.skipped) == 1
    assert "empty.wav is empty" in table.skipped[0]


def test_a_long_recording_is_transcribed_in_pieces(folder: Path, tmp_path: Path) -> None:
    task = prepared(parts(folder), longest=2.0)
    joined = np.concatenate([soundfile.read(each.utterance.path, dtype="float32")[0] for each in task._train.heard])
    soundfile.write(tmp_path / "long.wav", np.stack([joined, joined], axis=1), 16000)
    table = task.predict_files(task.build_model().eval(), tmp_path / "long.wav", "cpu")
    assert [row[2] for row in table.rows] == [f"{len(joined) / 16000:.2f}"]
    assert "1 of the files had several channels, whose mean was taken" in table.notes


def test_other_transcripts_do_not_continue_a_run(folder: Path) -> None:
    facts = prepared(parts(folder)).facts()
    with pytest.raises(SynbbError, match="other"):
        made(parts(folder), vocabulary={"case": "lower"}).prepare(facts)
    with pytest.raises(SynbbError, match="no entry of corpora has split: train"):
        made([{"corpus": str(folder), "split": "test"}])
    with pytest.raises(SynbbError, match=r"no utterance of .* is left for split train"):
        prepared([{"corpus": str(folder), "split": "train", "speakers": [50, 60]}])


def test_subwords_are_of_the_training_transcripts(folder: Path) -> None:
    pytest.importorskip("sentencepiece")
    task = prepared(parts(folder), vocabulary={"kind": "subwords", "size": 25})
    assert task._vocabulary.size == 26
    again = made([{"corpus": "gone", "split": "train"}])
    again.restore(task.facts())
    assert again._vocabulary.facts() == task._vocabulary.facts()


@pytest.mark.parametrize("kind", ["characters", "subwords"])
def test_who_begins_with_the_weights_of_a_run_writes_with_its_vocabulary(folder: Path, own: Path, kind: str) -> None:
    if kind == "subwords":
        pytest.importorskip("sentencepiece")
    vocabulary = {"kind": kind, **({"size": 25} if kind == "subwords" else {})}
    first = prepared(parts(folder), vocabulary=vocabulary)
    rewrite(own, [{**row, "text": row["text"].upper().replace("V", "F")} for row in rows_of(own)])
    later = made(parts(own), vocabulary=vocabulary)
    later.begin_with(first.facts())
    lines = later.prepare()
    assert lines[-1].endswith(f"{kind}, those of the run that this one begins with")
    assert later._vocabulary.facts() == first._vocabulary.facts()
    assert prepared(parts(own), vocabulary=vocabulary)._vocabulary.facts() != first._vocabulary.facts()
    resumed = made(parts(own), vocabulary=vocabulary)
    resumed.prepare(later.facts())
    assert resumed._vocabulary.facts() == first._vocabulary.facts()


def test_a_vocabulary_of_another_kind_begins_no_run(folder: Path) -> None:
    pytest.importorskip("sentencepiece")
    pieces = {"vocabulary": {"kind": "subwords", "size": 25}}
    few, many = prepared(parts(folder)).facts(), prepared(parts(folder), **pieces).facts()
    with pytest.raises(SynbbError, match=r"25 subwords, and the run .* writes \d+ characters"):
        made(parts(folder), **pieces).begin_with(few)
    with pytest.raises(SynbbError, match=r"20 subwords, and the run .* writes 25 subwords"):
        made(parts(folder), vocabulary={"kind": "subwords", "size": 20}).begin_with(many)


@pytest.mark.parametrize("stored_before", [False, True])
def test_a_run_keeps_its_subwords_whatever_compressed_them(
    own: Path, monkeypatch: pytest.MonkeyPatch, stored_before: bool
) -> None:
    pytest.importorskip("sentencepiece")
    subwords = {"kind": "subwords", "size": 25}
    facts = prepared(parts(own), vocabulary=subwords).facts()
    stored = facts["vocabulary"]
    model = zlib.decompress(base64.b85decode(stored["model"]))
    stored["model"] = base64.b85encode(zlib.compress(model, 0)).decode()
    if stored_before:  # without the hash of the transcripts
        del stored["learnt_from"]
    else:
        monkeypatch.setattr(Subwords, "learn", lambda *_: pytest.fail("learnt anew"))
    task = made(parts(own), vocabulary=subwords)
    task.prepare(facts)
    assert task._vocabulary.encode("GO") == restore_vocabulary(stored).encode("GO")
    rewrite(own, [{**row, "text": f"{row['text']} {row['text'][:3]}"} for row in rows_of(own)])
    with pytest.raises(SynbbError, match="transcripts are others than when the run was begun"):
        made(parts(own), vocabulary=subwords).prepare(facts)


@pytest.mark.real_data
def test_every_tenth_speaker_of_an4_is_held_out() -> None:
    source = Path(__file__).parents[3] / "shared" / "data" / "an4"
    if not source.is_dir():
        pytest.skip(f"{source} is not there: real speech")
    an4 = {"corpus": str(source), "layout": "an4"}
    task = made(
        [
            {**an4, "part": "train", "split": "train", "but_every": 10},
            {**an4, "part": "train", "split": "validation", "every": 10},
            {**an4, "part": "test", "split": "test"},
        ],
        cache_mib=1,
    )
    assert task.prepare()[:2] == [
        "train: 850 utterances of 66 speakers, 38.2 min",
        "validation: 98 utterances of 8 speakers, 4.2 min",
    ]


@settings(max_examples=50, deadline=None)
@given(frames=st.lists(st.integers(1, 200_000), max_size=100), heads=st.integers(1, 8))
def test_few_long_utterances_are_heard_at_once(frames: list[int], heads: int) -> None:
    own: Any = None
    model = SpeechModelSettings(width=8 * heads, heads=heads)
    groups = [*Transcriber(own, own, model, 10.0)._together(frames)]
    assert sorted(place for group in groups for place in group) == [*range(len(frames))]
    lengths = [frames[place] for group in groups for place in group]
    assert lengths == sorted(frames)
    for group in groups:
        scores = len(group) * heads * (max(frames[place] for place in group) / REDUCTION) ** 2 * 4
        assert len(group) <= 32
        assert len(group) == 1 or scores <= SCORES_AT_ONCE
