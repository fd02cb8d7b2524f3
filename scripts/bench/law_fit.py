"""How well realised degrees follow the law, by density: R² of log((1-a)/a) against kappa on the rates of the choice.

    python scripts/bench/law_fit.py [--filters 8,16,32] [--connection weight] [--spread 0.8]

An untrained U-Net, on-rates drawn with log-odds of a given standard deviation, one refresh at each density. What is
measured is rounding to whole connections, clipping, and with ``both`` that a degree is the intersection of two choices
(``matched`` meets both): nothing here depends on training. Units with K >= 32, groups of
ten unclipped ones and more.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch

from synbb.models import build_unet
from synbb.pruning import BudgetedBroadcast
from synbb.pruning.actuators import keep_balanced
from synbb.pruning.balance import Balance, balance_fit
from synbb.pruning.broadcast import DEFAULT_BETA, SCALED_BETA
from synbb.pruning.connections import Budget, ConnectionTable

DENSITIES = (0.5, 0.25, 0.125, 0.0625, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", default="8,16,32")
    parser.add_argument("--connection", choices=("kernel", "weight"), default="weight")
    parser.add_argument("--spread", type=float, default=0.8, help="standard deviation of the log-odds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    net = build_unet((50.0, 9.2, 9.2), filters=[int(n) for n in options.filters.split(",")])
    pruner = BudgetedBroadcast(density=0.5, warmup=1, ramp=2, refresh=1, connection=options.connection)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is no optimiser here
        pruner.attach(net, torch.zeros(1, 1, 8, 32, 32))
    table, units = pruner.table, pruner.wiring.unit_count
    odds = np.random.default_rng(options.seed).normal(0, options.spread, units)
    rates = 1 / (1 + np.exp(odds))
    print(f"{table.count} connections ({options.connection}), {units} units, log-odds of SD {options.spread}")
    columns = [("fan_in", "in"), ("fan_out", "out"), *((a, d) for a in ("both", "matched") for d in ("in", "out"))]
    print("beta     density  " + "".join(f"{f'{actuator} ({direction})':>14s}" for actuator, direction in columns))
    for name in ("default", "scaled"):
        for density in DENSITIES:
            law = Balance(odds, DEFAULT_BETA if name == "default" else SCALED_BETA / density)
            budget = Budget("layer", np.full(len(table.layer_sizes), density))
            found = []
            for actuator, direction in columns:
                kept = keep_balanced(table, pruner.weights.norms(), law, budget, actuator=actuator, minimum=0)
                pairs = table.in_pairs if direction == "in" else table.out_pairs
                found.append(r_squared(table, kept, rates, pairs))
            print(f"{name:8s} {density:<9g}" + "".join(f"{each:14.3f}" for each in found))


def r_squared(table: ConnectionTable, kept: np.ndarray, rates: np.ndarray, pairs: np.ndarray) -> float:
    """Over rows of (layer, unit), which share d0 within a layer."""
    connections, units = pairs
    rows, row = np.unique(np.stack([table.layer[connections], units]), axis=1, return_inverse=True)
    degree, capacity = np.bincount(row, weights=kept[connections]), np.bincount(row)
    return balance_fit(rates[rows[1]], degree, capacity, 0.0, groups=rows[0]).r_squared


if __name__ == "__main__":
    main()
