"""Files of a run that must never be half written: checkpoints, weights, JSON."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from synbb.errors import SynbbError, disk_errors

RESUME = "free some space and continue with --resume"
TEMPORARY = ".{name}.{pid}.tmp"


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file beside ``path``, flush it to disk and rename it over ``path``.

    Raises:
        RunEnded: the disk is full; what stood at ``path`` before is untouched.
    """
    beside = path.with_name(TEMPORARY.format(name=path.name, pid=os.getpid()))
    with disk_errors(path, RESUME):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


def remove_temporary(folder: Path) -> None:
    """Remove what a killed :func:`write_atomically` left anywhere in ``folder``."""
    for left in folder.rglob(TEMPORARY.format(name="*", pid="*")):
        left.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` as indented JSON, atomically."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SynbbError: the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise SynbbError(f"{path}: no such file; the run folder is incomplete") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SynbbError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise SynbbError(f"{path} is damaged: not a JSON object")
    return values


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors and plain values so that ``weights_only`` loading reads them."""
    # By way of memory: torch reports a full disk as a RuntimeError of its zip writer.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint; no code in it is run.

    Raises:
        SynbbError: the file is missing or damaged.
    """
    if not path.is_file():
        raise SynbbError(f"{path}: no checkpoint to resume from; start the run anew in another --output")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise SynbbError(f"{path} is damaged and cannot be loaded ({reason}); start a new run") from error
    if not isinstance(state, dict):
        raise SynbbError(f"{path} is damaged: it holds no checkpoint; start a new run")
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Save a model's parameters and buffers as safetensors, names that share a tensor once.

    MONAI registers some blocks under two names; the first one stands for both.
    """
    write_atomically(path, save(_unique_tensors(model)))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load what :func:`save_weights` saved.

    Raises:
        SynbbError: the file is missing, damaged or of another model.
    """
    if not path.is_file():
        raise SynbbError(f"{path}: no such weights; has the run been trained?")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise SynbbError(f"{path} is damaged and cannot be loaded ({error})") from error
    expected = {name: tuple(t.shape) for name, t in _unique_tensors(model).items()}
    shapes = {name: tuple(t.shape) for name, t in found.items()}
    if expected != shapes:
        name = sorted(set(expected.items()) ^ set(shapes.items()))[0][0]
        raise SynbbError(
            f"{path} does not fit the model: {name} is {shapes.get(name, 'missing')} there, "
            f"{expected.get(name, 'missing')} here"
        )
    model.load_state_dict(found, strict=False)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    unique: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            unique[name] = tensor.detach().cpu().contiguous()
    return unique
