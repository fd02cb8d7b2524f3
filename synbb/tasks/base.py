"""What a training loop knows of a task: data, model, loss and scores behind one small interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from synbb.pruning.resampling import Resampled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from synbb.pruning.observing import Valid

Inputs = Tensor | tuple[Tensor, ...]
"""What a model reads, batch first: one tensor, or all its positional arguments."""


def arguments(inputs: Inputs, device: Any) -> tuple[Tensor, ...]:
    """The positional arguments of the model, on ``device``."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(each.to(device, non_blocking=True) for each in given)


@dataclass(frozen=True)
class Batch:
    """One rank's share of an optimiser step.

    Attributes:
        inputs: what the model reads.
        targets: what the loss compares with.
        valid: positions that count for on-rates, bool, batch first, or by patterns of module names where those of
            modules differ; None when all do.
    """

    inputs: Inputs
    targets: Tensor
    valid: Valid = None

    def to(self, device: Any) -> Batch:
        """The batch on ``device``; its inputs are the positional arguments of the model."""
        if isinstance(self.valid, Mapping):
            valid: Valid = {name: _sent(mask, device) for name, mask in self.valid.items()}
        else:
            valid = _sent(self.valid, device)
        return Batch(arguments(self.inputs, device), self.targets.to(device, non_blocking=True), valid)


def _sent(mask: Tensor | None, device: Any) -> Tensor | None:
    return None if mask is None else mask.to(device, non_blocking=True)


@dataclass(frozen=True)
class Validation:
    """Scores on held-out data.

    Attributes:
        scores: every figure by name.
        main: name of the figure that decides which checkpoint is best; larger is better.
        decision: what prediction needs that was chosen on this data (a threshold, for example).
    """

    scores: dict[str, float]
    main: str
    decision: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """What a task has to say of files, or of single cases: one row each.

    Attributes:
        columns: their names, that of the file first.
        rows: as many texts as columns.
        skipped: files that could not be read, with the reason.
        notes: what a person should know of the files, or of how it went.
    """

    columns: list[str]
    rows: list[list[str]]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeldOut:
    """Scores on the test split, and what they were counted from.

    Attributes:
        scores: every figure by name.
        main: name of the figure that methods are compared by first.
        resampled: name of a figure → its counts by resampling unit, for paired bootstrap intervals. The units are the
            same, in the same order, for every run on the same test data.
        notes: what a person must know to read the figures.
        cases: what was scored, one by one, the worst first.
    """

    scores: dict[str, float]
    main: str
    resampled: dict[str, Resampled] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cases: Table | None = None


class Task(Protocol):
    """Data, model, loss and scores of one kind of problem."""

    def begin_with(self, facts: dict[str, Any]) -> None:
        """Take what the weights of another run stand for from its facts, before the data are prepared."""

    def prepare(self, known: dict[str, Any] | None = None) -> list[str]:
        """Open and check all data.

        Args:
            known: facts of the run, where it is continued or scored.

        Returns:
            Lines that tell a person what was found.
        """

    def build_model(self) -> nn.Module:
        """A newly initialised network, from torch's global random state."""

    def example_inputs(self) -> Inputs:
        """Inputs of the shape of training inputs, channels along axis 1."""

    def batch(self, step: int, rank: int, world_size: int) -> Batch:
        """The share of ``rank`` in the batch of step ``step``: a function of the seed and these alone. Thread-safe."""

    def upcoming(self, steps: range, rank: int, world_size: int) -> None:
        """Start loading what the batches of ``steps`` will need."""

    def calibration_batches(self, count: int) -> Iterator[Inputs]:
        """Inputs of at least ``count`` uniformly drawn, unaugmented samples, to re-estimate norm statistics."""

    def held_out_batches(self, count: int) -> Iterator[Inputs]:
        """Inputs of ``count`` unaugmented samples of the validation split, the same at every call, without padding.

        Empty when there is no such split. They tell how the network codes what it was not trained on.
        """

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Scalar loss of the model's outputs, all on one device."""

    def validate(self, model: nn.Module, device: Any) -> Validation | None:
        """Score the model, in evaluation mode, on the validation split; None when there is no such split."""

    def score(self, model: nn.Module, device: Any, decision: dict[str, Any]) -> HeldOut | None:
        """Score the model, in evaluation mode, on the test split, which is opened here; None when there is none.

        Args:
            model: trained.
            device: where it is.
            decision: what :meth:`validate` chose on the validation split.
        """

    def facts(self) -> dict[str, Any]:
        """What a run must keep of its data (normalisation, voxel size, licences), as plain values."""

    def close(self) -> None:
        """Release caches and threads."""


@runtime_checkable
class PredictsFiles(Protocol):
    """A task whose input is a folder of files and whose prediction is a table (speech, faces)."""

    def restore(self, facts: dict[str, Any]) -> None:
        """Be ready to build the network and to predict, from the facts of a run, without its data."""

    def build_model(self) -> nn.Module:
        """As :meth:`Task.build_model`."""

    def predict_files(self, model: nn.Module, source: Path, device: Any) -> Table:
        """Predict all files of ``source`` with a model in evaluation mode."""
