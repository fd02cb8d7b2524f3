"""``synbb prune-report``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from synbb.places import run_at

WIDE = 110  # columns of a terminal in which a table has room
OF_NUMBERS = 58  # of which the numbers of a layer take so many where it has not
LAYER_COLUMNS = ("connections", "density", "on-rate", "spread", "traffic", "units", "dead")


def command(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]) -> None:
    """Show what pruning did, layer by layer, and how the network codes held-out data; dense runs too."""
    run_at(run)
    from synbb.cli.console import console
    from synbb.training.run import RunFolder

    folder = RunFolder.open(run)
    values = folder.pruning_report()
    console.print(_layers(values, console.width))
    for line in _lines(values, folder.records("refresh")):
        console.print(line, markup=False)
    console.print()
    console.print(_coding(values))
    if values["fits"]:
        console.print(_fits(values))


def _table(title: str, first: str, columns: tuple[str, ...], *, narrow: bool = False) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, int(not narrow)), title_justify="left", title=title)
    table.add_column(first, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _layers(values: dict[str, Any], console_width: int) -> Any:
    if any(layer["masked"] for layer in values["layers"]):
        state = f"masks {'final' if values['final'] else 'not final'}"
    else:
        state = "no layer is masked; on-rates of held-out data"
    narrow = console_width < WIDE
    table = _table(f"{values['method']}, step {values['steps']}, {state}", "layer", LAYER_COLUMNS, narrow=narrow)
    for layer in values["layers"]:
        table.add_row(
            _in_lines(layer["name"], console_width - OF_NUMBERS) if narrow else layer["name"],
            f"{layer['connections']:,}",
            f"{layer['density']:.4f}" if layer["masked"] else "unmasked",
            _number(layer["on_rate"]),
            _number(layer["on_rate_spread"]),
            _number(layer["traffic"], ",.1f"),
            str(layer["units"]),
            str(layer["dead"]),
        )
    return table


def _in_lines(name: str, width: int) -> str:
    """``name``, broken after its dots where it is longer than ``width``."""
    lines = [""]
    for part in re.split(r"(?<=\.)", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _lines(values: dict[str, Any], refreshes: list[dict[str, Any]]) -> list[str]:
    lines = []
    if values["masked_share"]:
        lines.append(
            f"density {values['density']:.4f} over the masked layers, which hold {values['masked_share']:.1%} of the "
            f"weights; {values['whole_density']:.4f} of all weights are live"
        )
    if values["dense_macs"]:
        lines.append(
            f"{values['macs']:,} multiply-accumulates for one example input, "
            f"{values['macs'] / values['dense_macs']:.4f} of the dense ones"
        )
    lines.append(f"{values['dead']} of {values['units']} units dead (first layers included)")
    if refreshes:
        churn = [row["churn"] for row in refreshes]
        half = len(churn) // 2
        lines.append(
            f"regrown per refresh: {_mean(churn[: half or 1]):.4f} in the first half of {len(churn)} refreshes, "
            f"{_mean(churn[half:]):.4f} in the second, {churn[-1]:.4f} at the last"
        )
    return lines


def _coding(values: dict[str, Any]) -> Any:
    """Training figures beside held-out ones."""
    held_out = values["held_out"]
    title = "coding of the units"
    if held_out is not None:
        title += (
            "; training: by the run's pruning.statistic; held-out: "
            f"{held_out['inputs']} validation samples, evaluation mode, on where h > 0"
        )
    table = _table(title, "figure", ("training", "held-out"))
    other = held_out or {}
    table.add_row("coding entropy, bit a unit", _number(values["entropy"]), _number(other.get("entropy")))
    table.add_row("traffic", _number(values["traffic"], ",.1f"), _number(other.get("traffic"), ",.1f"))
    table.add_row("mean |correlation| of units", "", _number(other.get("correlation")))
    table.add_row("share of units that never vary", "", _number(other.get("constant")))
    table.add_row("participation ratio / units", "", _number(other.get("participation")))
    return table


def _fits(values: dict[str, Any]) -> Any:
    """How well the law holds, on the degree it was solved for and on the other."""
    table = _table(
        "balance fit: log((1-a)/a) = slope x relative degree + c", "degree", ("slope", "R²", "units", "clipped")
    )
    for which, fit in values["fits"].items():
        law = " (solved for)" if which in values["actuated"] else ""
        found = {"training": fit}
        if which in values["decided_fits"]:
            found = {"last refresh's": values["decided_fits"][which], **found}
        if values["held_out"] is not None:
            found["held-out"] = values["held_out"]["fits"][which]
        for where, each in found.items():
            table.add_row(
                f"{which.replace('_', '-')}{law}, {where} on-rates",
                _number(each["slope"], ".2f"),
                _number(each["r_squared"]),
                str(each["unclipped"]),
                f"{each['clipped_share']:.0%}",
            )
    return table


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _number(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)
