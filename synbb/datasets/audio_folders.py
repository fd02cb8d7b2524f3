"""Speech with transcripts in folders: CMU AN4, LibriSpeech, or a table of one's own.

    an4           FOLDER/etc/an4_PART.fileids, FOLDER/etc/an4_PART.transcription, FOLDER/wav/.../SPEAKER/ID.flac
    librispeech   FOLDER/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac, .../SPEAKER-CHAPTER.trans.txt
    table         a CSV with the columns audio (relative to the CSV), text and, where known, speaker

Utterances are taken in natural order of their paths (s2 before s10), whatever the order of a list. Transcripts are as
they stand, but for white space: one blank between words, none at the ends.
"""

from __future__ import annotations

import csv
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from synbb.datasets.ordering import files_below, natural, natural_paths
from synbb.errors import SynbbError, get_extra
from synbb.schema import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ENDINGS = frozenset({".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".sph", ".wav"})
HIGHEST_RATE = 1_000_000  # Hz; beyond, a header is damaged
DENSEST = 4096  # samples that a byte may stand for: more than silence in FLAC
LOUDEST = 16.0
"""Floating-point samples may exceed 1 a little; beyond this they were never meant to end there."""
TABLE = "transcripts.csv"
REMEDY = "replace or remove it"
_SENTENCE = re.compile(r"(?:<s>)?(.*?)(?:</s>)?\s*\(([^()\s]+)\)")
_CUT_WAV = re.compile(r"^data\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED = 0x7FFFFF00  # sizes from here on are placeholders of programs that wrote into a pipe

Layout = Literal["an4", "librispeech", "table"]
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Utterance:
    """One recording: who speaks and what is said, as far as it is known."""

    path: Path
    speaker: str | None
    text: str | None


@dataclass(frozen=True)
class Audio:
    """A decoded recording.

    Attributes:
        samples: (n,), float32 from -1 to 1, the mean of the channels.
        rate: samples a second.
        channels: how many the file has.
    """

    samples: Samples
    rate: int
    channels: int


def read_corpus(where: str | Path, layout: Layout, part: str | None = None) -> list[Utterance]:
    """All utterances of a part of a corpus, in natural order.

    Args:
        where: of ``an4`` and ``librispeech`` the folder; of ``table`` the CSV, or the folder that holds it.
        layout: of the files.
        part: of ``an4`` the name of a list (``train``, ``test``), which is needed; of ``librispeech`` a folder in
            ``where`` (``train-clean-100``), or none for ``where`` itself; of ``table`` a CSV in ``where`` without its
            ending, or none for ``transcripts.csv``.

    Raises:
        SynbbError: an unknown layout, a part that is missing or makes no sense, or what :func:`read_an4`,
            :func:`read_librispeech` and :func:`read_table` raise.
    """
    source = Path(where)
    match layout:
        case "an4":
            if part is None:
                raise SynbbError(f"{source}: the layout an4 needs a part, `train` or `test`")
            return read_an4(source, part)
        case "librispeech":
            return read_librispeech(source / part if part else source)
        case "table":
            if part and not source.is_dir():
                raise SynbbError(f"{source}: part {part!r} is of use with a folder of tables alone; leave it out")
            return read_table(source / (f"{part}.csv" if part else TABLE) if source.is_dir() else source)
    raise SynbbError(f"{source}: layout is {layout!r}{nearest(str(layout), get_args(Layout))}")


def read_an4(folder: str | Path, part: str) -> list[Utterance]:
    """A part of CMU AN4, by speaker; a speaker is the folder of the recordings.

    Args:
        folder: holds ``etc`` and ``wav``.
        part: ``train`` or ``test``, or another pair of lists in ``etc``.

    Raises:
        SynbbError: no such folder or part, a list that is damaged, an utterance in one list alone, without text or
            without its recording.
    """
    where = _folder(folder)
    list_file, text_file = (where / "etc" / f"an4_{part}.{ending}" for ending in ("fileids", "transcription"))
    if not list_file.is_file():
        parts = [path.stem.removeprefix("an4_") for path in natural((where / "etc").glob("an4_*.fileids"))]
        hint = f"parts there: {', '.join(parts)}" if parts else "expected AN4: etc/an4_train.fileids and wav/"
        raise SynbbError(f"{list_file}: no such list; {hint}")
    texts: dict[str, str] = {}
    for number, line in _lines(text_file):
        found = _SENTENCE.fullmatch(line)
        if found is None:
            raise SynbbError(f"{text_file}, line {number}: {line!r} does not end with an utterance in parentheses")
        _put(texts, found.group(2), found.group(1), f"{text_file}, line {number}")
    paths: dict[str, Path] = {}
    for number, line in _lines(list_file):
        name = line.rpartition("/")[2]
        if "/" not in line:
            raise SynbbError(f"{list_file}, line {number}: {line!r} has no folder, which names the speaker")
        if name in paths:
            raise SynbbError(f"{list_file}, line {number}: {name!r} is listed twice; remove one")
        paths[name] = where / "wav" / line
    for name in texts:
        if name not in paths:
            raise SynbbError(f"{text_file}: {name!r} is not in {list_file.name}; list it, or remove its line")
    found_all = []
    for name, stem in paths.items():
        if name not in texts:
            raise SynbbError(f"{list_file}: {name!r} has no transcript in {text_file.name}; add it, or remove its line")
        files = [stem.with_name(f"{name}{ending}") for ending in (".flac", ".wav", ".sph")]
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            raise SynbbError(f"{files[0]} (or .wav, .sph): no such file, but {list_file.name} lists it; fetch it again")
        found_all.append(Utterance(path, stem.parent.name, texts[name]))
    return _some(found_all, list_file)


def read_librispeech(folder: str | Path) -> list[Utterance]:
    """A part of LibriSpeech, by speaker and chapter.

    Args:
        folder: of the speakers, for example ``LibriSpeech/train-clean-100``.

    Raises:
        SynbbError: no such folder or another layout, a line without text or without its recording, a recording
            without a line.
    """
    where = _folder(folder)
    found = []
    for chapter in (chapter for speaker in _folders_in(where) for chapter in _folders_in(speaker)):
        files = {path.stem: path for path in natural(chapter.iterdir()) if _is_audio(path)}
        text_file = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
        if not files and not text_file.is_file():
            continue
        texts: dict[str, str] = {}
        for number, line in _lines(text_file):
            name, _, text = line.partition(" ")
            _put(texts, name, text, f"{text_file}, line {number}")
            if name not in files:
                raise SynbbError(f"{text_file}, line {number}: {chapter / name}.flac is not there; fetch it again")
        for name, path in files.items():
            if name not in texts:
                raise SynbbError(f"{path}: has no line in {text_file.name}; add it, or remove the recording")
            found.append(Utterance(path, chapter.parent.name, texts[name]))
    if not found:
        raise SynbbError(
            f"{where}: no SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt below it; expected LibriSpeech's layout, for "
            "example LibriSpeech/train-clean-100"
        )
    return _ordered(found)


def read_table(file: str | Path) -> list[Utterance]:
    """Utterances of a table, CSV in UTF-8.

    Args:
        file: has the columns ``audio`` (paths relative to its folder), ``text`` and, where known, ``speaker``; others
            are passed over.

    Raises:
        SynbbError: no such file or no such table, a line without audio or text, a recording that is listed twice or
            is not there.
    """
    path = Path(file)
    found: dict[Path, Utterance] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            table = csv.DictReader(opened, strict=True)
            columns = table.fieldnames or []
            for column in ("audio", "text"):
                if column not in columns:
                    unparted = len(columns) == 1 and any(mark in columns[0] for mark in ";\t")
                    hint = ", with commas between them" if unparted else ""
                    raise SynbbError(
                        f"{path}: there is no column {column!r} among {', '.join(columns) or 'none'}; the first line "
                        f"must name audio, text and, where known, speaker{hint}"
                    )
            for row in table:
                at = f"{path}, line {table.line_num}"
                one = _of_row(row, path.parent, at)
                audio = one.path.resolve()  # however the table spells it
                if audio in found:
                    raise SynbbError(f"{at}: {row['audio']!r} is listed twice; remove one")
                found[audio] = one
    except FileNotFoundError:
        raise SynbbError(
            f"{path}: no such table; give a CSV with the columns audio, text and, where known, speaker"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SynbbError(f"{path}: cannot be read as a table ({error}); save it as CSV in UTF-8") from None
    return _some(list(found.values()), path)


def _of_row(row: dict[Any, Any], folder: Path, at: str) -> Utterance:
    if None in row:  # where csv puts what is beyond the last column
        raise SynbbError(f"{at}: more values than columns; put a text that has commas into quotes")
    audio, text, speaker = ((row.get(column) or "").strip() for column in ("audio", "text", "speaker"))
    if not audio:
        raise SynbbError(f"{at}: audio is empty; name the recording, or remove the line")
    if not text:
        raise SynbbError(f"{at}: the transcript of {audio!r} is empty; write it, or remove the line")
    path = folder / audio
    if not path.is_file():
        raise SynbbError(f"{at}: {path} is not there; paths are relative to the folder of the table")
    return Utterance(path, speaker or None, " ".join(text.split()))


def list_audio(source: str | Path) -> list[Path]:
    """Every audio file below a folder, in natural order; a file is itself. Hidden ones are passed over, links followed.

    Raises:
        SynbbError: there is no such thing, or no audio.
    """
    where = Path(source)
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise SynbbError(f"{where}: no such file or folder of audio")
    found = [path for path in files_below(where) if _is_audio(path)]
    if not found:
        raise SynbbError(f"{where}: no audio below it ({', '.join(sorted(ENDINGS))})")
    return natural_paths(found)


def read_audio(path: str | Path) -> Audio:
    """Decode a recording with the library soundfile; channels are averaged, values beyond 1 (of floats) are clipped.

    Raises:
        SynbbError: soundfile is missing; there is no such file, it is empty, cut short, damaged or no audio; it holds
            no samples, or some that are not finite or far from -1 to 1.
    """
    file = Path(path)
    with _opened(file) as opened:
        stated, rate = _frames(opened, file), int(opened.samplerate)
        every: Samples = opened.read(dtype="float32", always_2d=True)
        vague = opened.format == "MP3"  # whose headers may state no more than a guess
    if not len(every) or (len(every) < stated and not vague):
        raise SynbbError(f"{file} is cut short: {len(every)} of {stated} samples; {REMEDY}")
    peak = float(np.abs(every).max())
    if not np.isfinite(peak):
        raise SynbbError(f"{file}: its samples are not all finite; {REMEDY}")
    if peak > LOUDEST:
        raise SynbbError(f"{file}: its samples reach {peak:g}, but floats must lie from -1 to 1; scale them")
    samples: Samples = every[:, 0] if every.shape[1] == 1 else every.mean(axis=1, dtype=np.float32)
    return Audio(np.clip(samples, -1, 1) if peak > 1 else samples, rate, every.shape[1])


def audio_seconds(path: str | Path) -> float:
    """How long a recording lasts, by its header alone.

    Raises:
        SynbbError: as :func:`read_audio`, but for what shows in the samples alone.
    """
    file = Path(path)
    with _opened(file) as opened:
        return _frames(opened, file) / int(opened.samplerate)


def audio_library() -> Any:
    """The library soundfile.

    Raises:
        SynbbError: it is not installed.
    """
    try:
        import soundfile  # an extra: nothing but speech needs it
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise SynbbError(f"audio needs the library soundfile ({error}); {get_extra('speech')}") from None
    return soundfile


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A recording, open; what goes wrong with it names it."""
    soundfile = audio_library()
    if not file.is_file():
        raise SynbbError(f"{file}: no such audio file")
    if file.stat().st_size == 0:
        raise SynbbError(f"{file} is empty (0 bytes); {REMEDY}")
    try:
        with soundfile.SoundFile(file) as opened:
            yield opened
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: a file without any header
        why = " ".join(str(getattr(error, "error_string", error)).split())  # libsndfile's own words, in one line
        raise SynbbError(f"{file} cannot be decoded as audio ({why}); {REMEDY}") from None


def _frames(opened: Any, file: Path) -> int:
    """Samples of each channel, as the header states them."""
    cut = _CUT_WAV.search(opened.extra_info) if opened.format.startswith("WAV") else None
    if cut and int(cut.group(2)) < int(cut.group(1)) < _STREAMED:
        raise SynbbError(f"{file} is cut short: {cut.group(2)} of {cut.group(1)} bytes of sound; {REMEDY}")
    if opened.frames < 1:
        raise SynbbError(f"{file} holds no samples; {REMEDY}")
    rate, size = int(opened.samplerate), file.stat().st_size
    # Said by the header alone: believed, it would ask for hundreds of GiB.
    if not 1 <= rate <= HIGHEST_RATE or opened.frames > DENSEST * size:
        raise SynbbError(f"{file} is damaged: {size:,} bytes of {opened.frames:,} samples at {rate:,} Hz; {REMEDY}")
    return int(opened.frames)


def _folder(folder: str | Path) -> Path:
    where = Path(folder)
    if not where.is_dir():
        raise SynbbError(f"{where}: no such folder of speech")
    return where


def _folders_in(folder: Path) -> Iterable[Path]:
    return (path for path in folder.iterdir() if path.is_dir())


def _is_audio(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()


def _lines(file: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SynbbError(f"{file}: no such list; fetch the data again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SynbbError(f"{file}: cannot be read ({error}); fetch it again") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _put(texts: dict[str, str], name: str, text: str, at: str) -> None:
    if name in texts:
        raise SynbbError(f"{at}: {name!r} has a transcript already; remove one")
    if not text.strip():
        raise SynbbError(f"{at}: the transcript of {name!r} is empty; write it, or remove the line")
    texts[name] = " ".join(text.split())


def _some(found: list[Utterance], file: Path) -> list[Utterance]:
    if not found:
        raise SynbbError(f"{file}: holds no utterance")
    return _ordered(found)


def _ordered(found: list[Utterance]) -> list[Utterance]:
    by_path = {one.path: one for one in found}
    return [by_path[path] for path in natural_paths(by_path)]
