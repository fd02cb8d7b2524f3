"""Whether what lies at a prediction's place is what its ledger was begun for.

A ledger outlives an output that somebody removes, and the name may be used for another volume then. That must neither
be continued nor be taken for a creation cut short, which is made anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from synbb.errors import SynbbError
from synbb.volumes.box import Box

if TYPE_CHECKING:
    from collections.abc import Mapping

OURS = frozenset({"zarr.json", "0"})
"""What an output consists of: the group's metadata and its array."""


def check_ownership(output: Path, ledger: Path, plan: Mapping[str, Any]) -> None:
    """Refuse what is not the output of ``plan``.

    Compared are the kind, the model, shape and type: what outputs of every version tell. An output whose metadata are
    not whole passes where it holds nothing else than ours do: it is damaged, or its creation was cut short.

    Args:
        output: something is there.
        ledger: for the message.
        plan: fields of the plan in the ledger.

    Raises:
        SynbbError: naming what differs.
    """
    told = _told(output)
    if told is None:
        what = what_else(output)
    else:
        wanted = _wanted(plan)
        differing = [name for name in wanted if told[name] != wanted[name]]
        what = "; ".join(f"{name} is {told[name]!r}, not {wanted[name]!r}" for name in differing)
    if not what:
        return
    raise SynbbError(
        f"{output}: is not the prediction that {ledger.name} was begun for ({what}), so it is neither continued nor "
        f"replaced; choose another output, and remove {ledger.name} if that prediction is gone"
    )


def what_else(output: Path) -> str:
    """What lies there that no output has, in words; empty where there is nothing but what an output may leave."""
    if not output.is_dir():
        return "it is no folder"
    strangers = sorted(file.name for file in output.iterdir() if file.name not in OURS and file.suffix != ".partial")
    return f"it holds {strangers[0]}" if strangers else ""


def _wanted(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What the output of a plan tells of itself."""
    wanted = {"kind": "probabilities", "shape": Box.parse(plan["region"]).shape}
    return {**wanted, **{name: plan[name] for name in ("dtype", "model_sha256") if name in plan}}


def _told(output: Path) -> dict[str, Any] | None:
    """What an OME-Zarr tells of itself; None where its metadata are not whole."""
    try:
        group = zarr.open_group(str(output), mode="r")
        array = zarr.open_array(str(output / "0"), mode="r")
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError):
        return None
    ours = group.attrs.asdict().get("synbb")
    about = ours if isinstance(ours, dict) else {}
    names = ("kind", "model_sha256")
    return {**{name: about.get(name) for name in names}, "shape": tuple(array.shape), "dtype": str(array.dtype)}
