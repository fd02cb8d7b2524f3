"""Files of a run that must never be half written: checkpoints, weights, JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from synbb.errors import RunEnded, SynbbError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, flush it to disk and rename it over ``path``.

    Raises:
        RunEnded: the disk is full; what stood at ``path`` before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(beside)
        with beside.open("rb") as handle:
            os.fsync(handle.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunEnded(
                f"{path}: the disk is full ({error.strerror}); free space and continue with --resume"
            ) from None
        raise
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write ``values`` as indented JSON, atomically."""
    write_atomically(path, lambda beside: _write_text(beside, json.dumps(values, indent=2) + "\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SynbbError: the file is missing or damaged.
    """
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise SynbbError(f"{path}: no such file; the run folder is incomplete") from None
    except json.JSONDecodeError as error:
        raise SynbbError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise SynbbError(f"{path} is damaged: not a JSON object")
    return values


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save tensors and plain values so that ``weights_only`` loading reads them."""

    def write(beside: Path) -> None:
        # torch reports a full disk as a RuntimeError of its zip writer; writing through a Python file keeps the OSError.
        with beside.open("wb") as handle:
            torch.save(state, handle)

    write_atomically(path, write)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint; no code in it is run.

    Raises:
        SynbbError: the file is missing or damaged.
    """
    if not path.is_file():
        raise SynbbError(f"{path}: no checkpoint to resume from; start the run anew in another --output")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise SynbbError(f"{path} is damaged and cannot be loaded ({error})") from None
    assert isinstance(state, dict)
    return state


def save_weights(path: Path, model: nn.Module) -> None:
    """Save a model's parameters and buffers as safetensors, names that share a tensor once.

    MONAI registers some blocks under two names; the first one stands for both.
    """
    unique = _unique_tensors(model)
    write_atomically(path, lambda beside: save_file(unique, beside))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load what :func:`save_weights` saved.

    Raises:
        SynbbError: the file is missing, damaged or of another model.
    """
    if not path.is_file():
        raise SynbbError(f"{path}: no such weights; has the run been trained?")
    try:
        found = load_file(path)
    except Exception as error:  # safetensors raises its own class for every kind of damage
        raise SynbbError(f"{path} is damaged and cannot be loaded ({error})") from error
    expected = {name: tuple(t.shape) for name, t in _unique_tensors(model).items()}
    shapes = {name: tuple(t.shape) for name, t in found.items()}
    if expected != shapes:
        name = sorted(set(expected.items()) ^ set(shapes.items()))[0][0]
        raise SynbbError(
            f"{path} does not fit the model: {name} is {shapes.get(name)} there and {expected.get(name)} here"
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


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)
