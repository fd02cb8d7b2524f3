"""A trained run, opened to be used: its settings, its task and its network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synbb.errors import SynbbError
from synbb.schema import validated
from synbb.tasks.base import PredictsFiles
from synbb.training.checkpoint import load_weights
from synbb.training.config import RunConfig
from synbb.training.run import RunFolder
from synbb.training.start import make_task


@dataclass(frozen=True)
class Trained:
    """Weights of a run, checked.

    Attributes:
        run: its folder.
        config: its settings.
        which: ``last`` or ``best``.
        about: step, scores, decision, density and SHA-256 of these weights.
    """

    run: RunFolder
    config: RunConfig
    which: str
    about: dict[str, Any]

    @classmethod
    def open(cls, path: Path, which: str = "last", *, allow_unfinished: bool | None = None) -> Trained:
        """The weights ``which`` of the run at ``path``.

        Args:
            path: of the run.
            which: ``last`` or ``best``.
            allow_unfinished: take weights whose masks are not final; None where nobody can ask for that.

        Raises:
            SynbbError: no such run or weights, or masks that are not final.
        """
        run = RunFolder.open(path)
        about = run.weights_info(which)
        if not about["final"] and not allow_unfinished:
            otherwise = "" if allow_unfinished is None else ", or pass --allow-unfinished"
            raise SynbbError(
                f"{path}: weights {which!r} are of step {about['step']} of {about['steps']}, when pruning had not "
                f"reached its final masks (density {about['density']:.3f}); finish training (synbb train ... "
                f"--resume){otherwise}"
            )
        return cls(run, run.config(), which, about)

    def decoded(self, decoding: str | None, beam: int | None) -> Trained:
        """The same weights, whose outputs are decoded otherwise than the run's settings say; None leaves them.

        Args:
            decoding: ``model.decoding`` of a run on speech.
            beam: ``model.beam``, hypotheses that are kept.

        Raises:
            SynbbError: a run on something else, no such decoding, or a beam for a decoding that has none.
        """
        wanted = {"decoding": decoding, "beam": beam}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        if not wanted:
            return self
        model = self.config.model
        if not wanted.keys() <= getattr(type(model), "model_fields", {}).keys():
            raise self.wrong_task("--decoding and --beam are of use with runs on speech")
        model = validated(type(model), {**model.model_dump(), **wanted}, "--decoding and --beam")
        if beam is not None and model.decoding != "beam":
            raise SynbbError(f"--beam {beam}: decoding {model.decoding!r} has none; pass --decoding beam as well")
        return replace(self, config=self.config.model_copy(update={"model": model}))

    def load(self, net: nn.Module) -> nn.Module:
        """Put the weights into ``net``; returns it in evaluation mode."""
        load_weights(self.run.weights_file(self.which), net)
        return net.eval()

    @property
    def decision(self) -> dict[str, Any]:
        """What was chosen on the validation split."""
        found: dict[str, Any] = self.about.get("decision", {})
        return found

    def file_predictor(self, wanted: str) -> PredictsFiles:
        """The task, restored from what the run knows of its data.

        Args:
            wanted: what it is needed for, for the message.

        Raises:
            SynbbError: a task that predicts no files.
        """
        task = make_task(self.config)
        if not isinstance(task, PredictsFiles):
            raise self.wrong_task(wanted)
        task.restore(self.run.data_facts())
        return task

    def wrong_task(self, wanted: str) -> SynbbError:
        """The error that this run is of another task; ``wanted`` says of which it would have to be, and for what."""
        return SynbbError(f"{self.run.path}: {wanted}, and this run is of task {self.config.task!r}")


def device_named(name: str) -> str:
    """A device of torch; ``auto`` is a GPU where there is one.

    Raises:
        SynbbError: no such device, one that is neither a CPU nor a GPU of CUDA, or torch does not see that GPU.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise SynbbError(f"--device {name}: no device that is computed on; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SynbbError(f"--device {name}: torch sees no GPU; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise SynbbError(f"--device {name}: torch sees no such GPU; use cuda:0{f' to cuda:{last}' if last else ''}")
    return name
