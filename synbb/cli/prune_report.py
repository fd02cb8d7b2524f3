"""``synbb prune-report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def command(run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]) -> None:
    """Show what pruning did, layer by layer: realised density, on-rates, traffic, dead units."""
    from synbb.cli.console import console
    from synbb.training.run import RunFolder

    values = RunFolder.open(run).pruning_report()
    console.print(_table(values))
    for line in _lines(values):
        console.print(line, markup=False)


def _table(values: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        title_justify="left",
        title=f"{values['method']}, step {values['steps']}, masks {'final' if values['final'] else 'not final'}",
    )
    table.add_column("masked layer", overflow="fold")
    for name in ("connections", "density", "on-rate", "spread", "traffic", "units", "dead"):
        table.add_column(name, justify="right")
    for layer in values["layers"]:
        table.add_row(
            layer["name"],
            f"{layer['connections']:,}",
            f"{layer['density']:.4f}",
            _number(layer["on_rate"]),
            _number(layer["on_rate_spread"]),
            f"{layer['traffic']:,.1f}",
            str(layer["units"]),
            str(layer["dead"]),
        )
    return table


def _lines(values: dict[str, Any]) -> list[str]:
    fit = values["fit"]
    density = (
        f"density {values['density']:.4f} over the masked layers, which hold {values['masked_share']:.1%} of the "
        f"weights; {values['whole_density']:.4f} of all weights are live"
    )
    traffic = (
        f"traffic {values['traffic']:,.0f}, coding entropy {_number(values['entropy'])} bit a unit, "
        f"{values['dead']} of {values['units']} units dead (first layers included), "
        f"regrown at the last refresh {values['churn']:.4f}"
    )
    lines = [density, traffic]
    if fit["slope"] is not None:
        lines.append(
            f"balance fit: log((1-a)/a) = {fit['slope']:.2f} x relative {values['fit_degree']} + c, "
            f"R² {fit['r_squared']:.2f} over {fit['unclipped']} units ({fit['clipped_share']:.0%} clipped)"
        )
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
