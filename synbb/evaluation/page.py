"""The report as one self-contained HTML page: no network, no script; light, dark and on paper."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any

from synbb.evaluation.curve_svg import Line, Marker, curve_svg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5a6672; --rule: #d9dee3; --paper: #fff; --plate: #f4f6f8;
  --curve0: #0072b2; --curve1: #c2570c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa6b2; --rule: #343b43; --paper: #15181c;
  --plate: #1e2329; --curve0: #56b4e9; --curve1: #f0a35e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 "Inter", system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; font-weight: 650; }
h2 { font-size: 1.1rem; margin: 2.6rem 0 .7rem; font-weight: 650; }
p { margin: .4rem 0; max-width: 46rem; } .soft, figcaption { color: var(--soft); font-size: .88rem; }
.headline { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.5rem 0; }
.headline div { flex: 1 1 10rem; background: var(--plate); border-radius: 8px; padding: .8rem 1.1rem; }
.headline b { display: block; font-size: 1.9rem; line-height: 1.25; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.headline span { color: var(--soft); font-size: .88rem; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.4rem; margin: 0; font-size: .92rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .92rem; }
th { text-align: right; font-weight: 500; color: var(--soft); font-size: .84rem; vertical-align: bottom; }
td { text-align: right; } th:first-child, td:first-child { text-align: left; }
th, td { padding: .42rem .9rem .42rem 0; border-bottom: 1px solid var(--rule); } tr > :last-child { padding-right: 0; }
table.texts :is(th, td) { text-align: left; }
td small { color: var(--soft); display: block; }
figure { margin: 1rem 0; break-inside: avoid; }
figure img { width: 100%; height: auto; display: block; border-radius: 6px; }
figure.plot { max-width: 42rem; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 13px; font-family: inherit; font-variant-numeric: tabular-nums; }
svg text.axis { fill: var(--ink); } svg text.small { fill: var(--ink); font-size: 12.5px; paint-order: stroke;
  stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
.grid { stroke: var(--rule); fill: none; } .chance { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
.curve { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.curve0 { stroke: var(--curve0); } .curve1 { stroke: var(--curve1); }
.marker { stroke-width: 2.2; } .hollow { fill: var(--paper); }
.filled.curve0 { fill: var(--curve0); } .filled.curve1 { fill: var(--curve1); }
.key { display: inline-block; width: 1.4rem; height: 3px; vertical-align: middle; margin: 0 .35rem 0 .9rem; }
.key:first-child { margin-left: 0; }
.key.curve0 { background: var(--curve0); } .key.curve1 { background: var(--curve1); }
footer { margin-top: 3rem; border-top: 1px solid var(--rule); padding-top: .8rem; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
@media print { :root { --ink: #000; --soft: #444; --rule: #bbb; --paper: #fff; --plate: #f2f2f2; --curve0: #0072b2;
  --curve1: #c2570c; } main { padding: 0; max-width: none; } h2 { break-after: avoid; } tr { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def page(scores: Mapping[str, Any], pictures: Sequence[tuple[str, bytes]] = ()) -> str:
    """The report.

    Args:
        scores: what ``evaluate_volumes`` returns.
        pictures: name and PNG bytes of each overlay.
    """
    title = "Synapse scores"
    body = [_header(scores, title), _headline(scores), _facts(scores)]
    if scores.get("voxels"):
        body += [_voxel_table(scores), _curve(scores)]
    if scores.get("objects"):
        body.append(_object_table(scores["objects"]))
    if pictures:
        body.append(_pictures(pictures))
    return document(title, body, scores)


def document(title: str, body: Sequence[str], made: Mapping[str, Any]) -> str:
    """A whole page.

    Args:
        title: of the window.
        body: HTML of its parts.
        made: ``synbb_version`` and ``created``, for the foot.
    """
    foot = f"Made by synbb {made['synbb_version']} on {made['created']}. The numbers are in scores.json beside it."
    parts = [*body, f'<footer class="soft">{escape(foot)}</footer>']
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )


def number(value: float | None, digits: int = 3) -> str:
    """A score for people; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _header(scores: Mapping[str, Any], title: str) -> str:
    inputs = scores["inputs"]
    scored = [inputs[name]["path"] for name in ("probabilities", "objects") if name in inputs]
    return (
        f'<h1>{title}</h1><p class="soft">{escape(" and ".join(scored))} against {escape(inputs["truth"]["path"])}</p>'
    )


def _headline(scores: Mapping[str, Any]) -> str:
    cards = []
    voxels, objects = scores.get("voxels"), scores.get("objects")
    if voxels:
        cards.append(("voxel PR-AUC", voxels["average_precision"], f"random guess {number(voxels['prevalence'])}"))
        if voxels["at_threshold"]:
            at = voxels["at_threshold"]
            cards.append(("voxel F1", at["f1"], f"at threshold {number(at['threshold'])}"))
        elif voxels["best"]:
            cards.append(("voxel F1, best", voxels["best"]["f1"], "threshold chosen on the scored voxels themselves"))
    if objects:
        by = objects["by_distance"]
        note = f"{by['found']} of {by['truth']} true, {by['correct']} of {by['predicted']} predicted matched"
        cards.append(("object F1, by distance", by["f1"], note))
    return (
        '<div class="headline">'
        + "".join(f"<div><span>{escape(n)}</span><b>{number(v)}</b><span>{escape(t)}</span></div>" for n, v, t in cards)
        + "</div>"
    )


def _facts(scores: Mapping[str, Any]) -> str:
    rows: list[tuple[str, str]] = []
    for name, volume in scores["inputs"].items():
        size = " × ".join(f"{v:g}" for v in volume["voxel_size_nm"])
        rows.append((name.capitalize(), f"{volume['path']} ({' × '.join(map(str, volume['shape']))} at {size} nm)"))
    region = scores["region"]
    extent = " × ".join(f"{b - a:,.0f}" for a, b in zip(*region["nm"], strict=True))
    rows.append(("Region (z, y, x)", f"{region['voxels']} of the truth; {extent} nm"))
    threshold = scores["threshold"]
    shown = "none" if threshold["value"] is None else f"{threshold['value']:.4g}"
    rows.append(("Threshold", f"{shown}; {threshold['source']}"))
    about = scores["about"]
    names = (("run_id", "Run"), ("model_sha256", "Model (sha256)"), ("licence", "Licence"), ("citation", "Citation"))
    rows += [(label, str(about[key])) for key, label in names if about.get(key)]
    facts = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in rows)
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in scores["notes"])
    return f"<h2>What was scored</h2><dl>{facts}</dl>{notes}"


def _voxel_table(scores: Mapping[str, Any]) -> str:
    rows = []
    sets = [("", scores["voxels"])] + ([("against: ", scores["against"])] if scores.get("against") else [])
    for prefix, voxels in sets:
        area = number(voxels["average_precision"])
        if voxels["at_threshold"]:
            rows.append(_voxel_row(f"{prefix}at the stated threshold", "", area, voxels["at_threshold"]))
        if voxels["best"]:
            warning = "chosen on the scored voxels themselves"
            rows.append(_voxel_row(f"{prefix}at the best threshold", warning, area, voxels["best"]))
        if not voxels["at_threshold"] and not voxels["best"]:
            rows.append(f"<tr><td>{prefix}no threshold</td>" + f"<td>{area}</td>" + "<td>–</td>" * 4 + "</tr>")
        if voxels["explanation"]:
            rows.append(f'<tr><td colspan="6">{escape(voxels["explanation"])}</td></tr>')
    head = "<tr><th></th><th>PR-AUC</th><th>threshold</th><th>precision</th><th>recall</th><th>F1</th></tr>"
    voxels = scores["voxels"]
    note = (
        f"{voxels['scored']:,} voxels scored, {voxels['positives']:,} of them foreground in the truth "
        f"({100 * (voxels['prevalence'] or 0):.3g} %), {voxels['ignored']:,} ignored. PR-AUC is the average precision."
    )
    if scores.get("difference"):
        gap = scores["difference"]
        note += f" The two probabilities differ by {gap['mean']:.4f} on average and {gap['max']:.4f} at most."
    return f'<h2>Voxels</h2><div class="scroll"><table>{head}{"".join(rows)}</table></div><p class="soft">{note}</p>'


def _voxel_row(name: str, remark: str, area: str, at: Mapping[str, Any]) -> str:
    small = f"<small>{escape(remark)}</small>" if remark else ""
    cells = [area, *(number(at[key]) for key in ("threshold", "precision", "recall", "f1"))]
    return f"<tr><td>{escape(name)}{small}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _curve(scores: Mapping[str, Any]) -> str:
    sets = [("probabilities", scores["voxels"])]
    if scores.get("against"):
        sets.append(("against", scores["against"]))
    lines = [_line(name, voxels) for name, voxels in sets if voxels["average_precision"] is not None]
    if not lines:
        return ""
    caption = "Precision and recall of voxels over all thresholds. Filled: the stated threshold; hollow: the best one."
    keys = ""
    if len(lines) > 1:
        keys = "".join(f'<span class="key curve{i}"></span>{escape(line.name)}' for i, line in enumerate(lines)) + ". "
    svg = curve_svg(lines, scores["voxels"]["prevalence"])
    return f'<figure class="plot">{svg}<figcaption>{keys}{caption}</figcaption></figure>'


def _line(name: str, voxels: Mapping[str, Any]) -> Line:
    markers = []
    for key, text in (("best", "best F1, at"), ("at_threshold", "threshold")):
        at = voxels[key]
        if at and at["precision"] is not None and at["recall"] is not None:
            text = f"{text} {at['threshold']:.3f}"
            markers.append(Marker(at["recall"], at["precision"], text, filled=key == "at_threshold"))
    curve = voxels["curve"]
    return Line(name, curve["recall"], curve["precision"], markers)


def _object_table(objects: Mapping[str, Any]) -> str:
    rows = []
    for key in ("by_distance", "by_overlap", "by_iou"):
        by = objects[key]
        cells = [f"{by['found']} / {by['truth']}", f"{by['correct']} / {by['predicted']}"]
        cells += [number(by[name]) for name in ("precision", "recall", "f1")]
        rows.append(f"<tr><td>{escape(by['rule'])}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = (
        "<tr><th>matched, one to one, by</th><th>true found</th><th>predicted true</th>"
        "<th>precision</th><th>recall</th><th>F1</th></tr>"
    )
    return (
        f'<h2>Objects</h2><div class="scroll"><table>{head}{"".join(rows)}</table></div>'
        f'<p class="soft">{escape(objects["note"])} Each object, with its partner and distance, is in objects.csv.</p>'
    )


def _pictures(pictures: Sequence[tuple[str, bytes]]) -> str:
    figures = [
        f'<figure><img alt="{escape(name)}: raw, and with outlines" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}"></figure>'
        for name, png in pictures
    ]
    note = (
        "The sections with most synapse voxels, bare and with outlines. A predicted piece that touches an annotated "
        "one in the same section is drawn as found; objects are matched in three dimensions, so the tables may differ."
    )
    return f'<h2>Sections</h2><p class="soft">{note}</p>' + "".join(figures)
