"""From a volume to probabilities, and from probabilities to objects, block by block. Floor 2.

Names are loaded when they are first asked for: cutting objects out of probabilities does not need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synbb.inference.blocks import Block, BlockPlan
    from synbb.inference.ledger import Ledger
    from synbb.inference.ledger_lines import Mark
    from synbb.inference.output import verify_output
    from synbb.inference.predictor import PredictionSummary, predict_array, predict_volume

_HOMES = {
    "Block": "blocks",
    "BlockPlan": "blocks",
    "Ledger": "ledger",
    "Mark": "ledger",
    "PredictionSummary": "predictor",
    "predict_array": "predictor",
    "predict_volume": "predictor",
    "verify_output": "output",
}

__all__ = [
    "Block",
    "BlockPlan",
    "Ledger",
    "Mark",
    "PredictionSummary",
    "predict_array",
    "predict_volume",
    "verify_output",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
