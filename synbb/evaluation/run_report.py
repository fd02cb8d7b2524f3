"""Scores of a run on a split of its own: ``scores.json`` and a page with every figure and its interval."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from synbb.evaluation.page import document, number
from synbb.evaluation.report import CASES, SCHEMA_VERSION, csv_text, write_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

NAMES = {
    "rank_1": "rank-1 identification",
    "roc_auc": "ROC-AUC of genuine and impostor pairs",
    "equal_error": "equal error rate",
    "accepted_at_0.1": "genuine pairs accepted, 10 % of impostors too",
    "accepted_at_0.01": "genuine pairs accepted, 1 % of impostors too",
    "identified_at_0.1": "known people named right, 10 % of strangers named",
    "identified_at_0.01": "known people named right, 1 % of strangers named",
    "named_right_at_threshold": "known people named right at the stored threshold",
    "strangers_named_at_threshold": "strangers named at the stored threshold",
    "word_accuracy": "word accuracy, 1 - WER",
    "wer": "word error rate (WER)",
    "cer": "character error rate (CER)",
    "missed_rare": "words not recognised, of the third of the vocabulary that is rare in training",
    "missed_middle": "words not recognised, of the middle third",
    "missed_frequent": "words not recognised, of the frequent third",
    "missed_unseen": "words not recognised, of those never seen in training",
    "pr_auc": "voxel PR-AUC",
    "object_f1": "object F1",
    "voxel_f1": "voxel F1",
}
"""Figures in words; any other is shown by its name."""
SHOWN = 20
"""Cases on the page."""
LONG = 30


Cases = tuple["Sequence[str]", "Sequence[Sequence[str]]"]
"""Columns, and a row for each case that was scored, the worst first."""


def write_run_scores(folder: Path, result: Mapping[str, Any], cases: Cases | None = None) -> None:
    """Write ``scores.json`` and ``report.html``, and ``cases.csv`` where there are cases.

    Args:
        folder: made when it is not there.
        result: what ``evaluate_run`` returns.
        cases: what was scored, one by one.

    Raises:
        SynbbError: a file is where the folder should be, or files in the folder are not those of an evaluation.
        RunEnded: the disk is full.
    """
    stated = {"schema_version": SCHEMA_VERSION, **result}
    # Names of files that are no UTF-8, as Linux allows, stand in a table as they are on the disk.
    files = {} if cases is None else {CASES: csv_text(*cases).encode(errors="surrogateescape")}
    write_files(folder, stated, run_page(stated, cases), files)


def run_page(result: Mapping[str, Any], cases: Cases | None = None) -> str:
    """The page."""
    title = f"Scores of a run on {result['task']}"
    main = result["scores"][result["main"]]
    cards = [(in_words(result["main"]), main), *_second(result)]
    headline = "".join(
        f"<div><span>{escape(name)}</span><b>{number(figure['value'])}</b><span>{_range(figure)}</span></div>"
        for name, figure in cards
    )
    rows = "".join(
        f"<tr><td>{escape(in_words(name))}</td><td>{_value(figure)}</td><td>{_range(figure)}</td></tr>"
        for name, figure in result["scores"].items()
    )
    facts = [
        ("Run", f"{result['run']} ({result['run_id']}), weights {result['weights']} of step {result['step']}"),
        ("Density", f"{result['density']:.4f} of the masked layers"),
        ("Model (sha256)", result["model_sha256"]),
        ("Decision", "; ".join(_decided(result["decision"])) or "none"),
        *((key.capitalize(), value) for key, value in result["about"].items()),
    ]
    described = "".join(f"<dt>{escape(a)}</dt><dd>{escape(str(b))}</dd>" for a, b in facts)
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in result["notes"])
    table = (
        '<div class="scroll"><table><tr><th></th><th>value</th><th>95 % interval</th></tr>'
        f'{rows}</table></div><p class="soft">Intervals are bootstraps over the held-out units that stand beside them; '
        "what another seed of training would give is not in them.</p>"
    )
    body = [
        f'<h1>{escape(title)}</h1><p class="soft">{escape(result["run"])} on its {escape(result["split"])} split</p>',
        f'<div class="headline">{headline}</div>',
        f"<h2>What was scored</h2><dl>{described}</dl>{notes}",
        f"<h2>Figures</h2>{table}",
        *([] if cases is None else [_worst(*cases)]),
    ]
    return document(title, body, result)


def _worst(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first cases as a table, each named by its file in the first column; the CSV has all."""
    head = "".join(f"<th>{escape(in_words(name))}</th>" for name in columns)
    shown = [[_short(file), *values] for file, *values in rows[:SHOWN]]
    body = "".join(f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row)}</tr>" for row in shown)
    more = f'<p class="soft">{len(rows):,} cases in cases.csv beside this page.</p>'
    table = f'<div class="scroll"><table class="texts"><tr>{head}</tr>{body}</table></div>'
    return f"<h2>Cases, the worst first</h2>{table}{more}"


def _short(value: str) -> str:
    """A long path by its file and the folder that holds it."""
    parts = value.split("/")
    return value if len(value) <= LONG or len(parts) < 3 else f"…/{'/'.join(parts[-2:])}"


def in_words(name: str) -> str:
    """A figure's name for people."""
    return NAMES.get(name, name.replace("_", " "))


def _second(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    others = [name for name in result["scores"] if name in NAMES and name != result["main"]]
    return [(in_words(name), result["scores"][name]) for name in others[:2]]


def _value(figure: Mapping[str, Any]) -> str:
    value = figure["value"]
    return f"{value:,}" if isinstance(value, int) else number(value)


def _range(figure: Mapping[str, Any]) -> str:
    if figure.get("low") is None:
        return ""
    units = ", ".join(f"{count:,} {name}" for name, count in figure["units"].items())
    return f"{number(figure['low'])} to {number(figure['high'])} ({units})"


def _decided(values: Mapping[str, Any]) -> list[str]:
    """What was chosen on the validation split, a group of settings (the rules of objects) in one piece."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            inner = ", ".join(f"{key} {plain_text(each)}" for key, each in value.items() if each is not None)
            lines.append(f"{name}: {inner}")
        else:
            lines.append(f"{name} {plain_text(value)}")
    return lines


def plain_text(value: Any) -> str:
    """A setting for people: four digits of a fraction, whole numbers of what is large."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
