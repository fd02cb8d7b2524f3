"""What lives while a run trains: network, optimiser, schedule, pruner, and the devices under them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from synbb.errors import SynbbError, disk_errors
from synbb.models.layout import channels_last
from synbb.pruning import Pruner, load_masks
from synbb.tasks.base import Task, arguments
from synbb.training.checkpoint import RESUME, load_checkpoint, load_weights
from synbb.training.config import RunConfig, TrainingSettings
from synbb.training.events import EventFile
from synbb.training.pruning import make_pruner
from synbb.training.run import RunFolder

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass
class Session:
    """Everything that lives while a run trains."""

    config: RunConfig
    task: Task
    run: RunFolder
    fabric: Fabric
    model: nn.Module  # what is called: Fabric's wrapper
    net: nn.Module  # the network itself
    optimizer: Any
    scheduler: torch.optim.lr_scheduler.LRScheduler
    pruner: Pruner | None
    events: EventFile
    best: float = -math.inf

    @property
    def final(self) -> bool:
        """Whether the masks will not change any more."""
        return self.pruner is None or self.pruner.final

    @property
    def density(self) -> float:
        """Realised density of the masked layers."""
        return 1.0 if self.pruner is None else self.pruner.density()

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self.scheduler.get_last_lr()[0])

    def record(self, kind: str, step: int, **values: Any) -> None:
        """Add to the metrics file and to TensorBoard.

        Raises:
            RunEnded: the disk is full.
        """
        if self.fabric.is_global_zero:
            self.run.record(kind=kind, step=step, **values)
            with disk_errors(self.run.path / "tensorboard", RESUME):
                self.events.add({f"{kind}/{key}": float(value) for key, value in values.items()}, step)


def make_fabric(settings: TrainingSettings) -> Fabric:
    """Devices, processes and precision.

    Raises:
        SynbbError: a GPU is asked for and there is none, or the batch cannot be shared by the devices.
    """
    cuda = torch.cuda.is_available() and settings.accelerator != "cpu"
    if settings.accelerator == "cuda" and not cuda:
        raise SynbbError("training.accelerator=cuda, but torch sees no GPU; use accelerator=auto or cpu")
    devices = settings.devices if settings.devices != "auto" else (torch.cuda.device_count() if cuda else 1)
    if cuda and devices > torch.cuda.device_count():
        raise SynbbError(f"training.devices={devices}, but torch sees {torch.cuda.device_count()} GPU")
    if settings.batch_size % devices:
        raise SynbbError(
            f"training.batch_size={settings.batch_size} must be a multiple of the {devices} devices that share a batch"
        )
    precision = settings.precision
    if precision == "auto":
        precision = "bf16-mixed" if cuda and torch.cuda.is_bf16_supported() else "32-true"
    from lightning.fabric import Fabric  # seconds, of no use to whoever predicts or scores
    from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    # Processes of further devices are started here (or by torchrun). Left to itself Fabric takes the numbers of a
    # batch system, which say how many tasks a job may have and not that each of them runs this.
    plugins = [] if TorchElasticEnvironment.detect() else [LightningEnvironment()]
    return Fabric(accelerator="cuda" if cuda else "cpu", devices=devices, precision=precision, plugins=plugins)


def make_session(config: RunConfig, task: Task, run: RunFolder, fabric: Fabric) -> Session:
    """A run at its first step.

    Raises:
        SynbbError: pruning settings that do not fit the network.
    """
    settings = config.training
    # Weights are a function of the seed alone, the same on every rank and for every pruning method.
    torch.manual_seed(config.seed)
    net = task.build_model()
    source = None if settings.start_from is None else RunFolder.open(settings.start_from)
    if source is not None:
        source.weights_info("last")  # complains of weights that are missing or damaged
        load_weights(source.weights_file("last"), net)
    channels_last(net)
    # Left to itself torch goes from parameter to parameter on a CPU: 2 % more of a step, more on a busy machine.
    fused = True if fabric.device.type == "cpu" else None
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused
    )
    scheduler = one_cycle(optimizer, settings)
    model, wrapped = fabric.setup(net, optimizer)
    pruner = _pruner(config, source)
    if pruner is not None:
        pruner.attach(net, arguments(task.example_inputs(), fabric.device), optimizer=optimizer)
        if source is not None and config.pruning.masks == "reopen" and source.masks_file.is_file():
            pruner.begin_with(load_masks(source.masks_file), _latent(source))
    events = EventFile(run.path / "tensorboard")
    return Session(config, task, run, fabric, model, net, wrapped, scheduler, pruner, events)


def keeps_masks(config: RunConfig, source: RunFolder) -> bool:
    """Whether a run that begins with the weights of ``source`` holds its masks too."""
    return config.pruning.masks in (None, "keep") and source.masks_file.is_file()


def _pruner(config: RunConfig, source: RunFolder | None) -> Pruner | None:
    """The pruner of a run, or one that holds the masks of the run it starts from."""
    if source is not None and keeps_masks(config, source):
        kept = {"method": "fixed", "masks_from": str(source.masks_file), "shuffle": False, "schedule": None}
        if config.pruning.connection == "unit":  # masks of whole units are kernel-wise ones
            kept["connection"] = "kernel"
        return make_pruner(config.pruning.model_copy(update=kept), config.training.steps, config.seed)
    return make_pruner(config.pruning, config.training.steps, config.seed)


def _latent(source: RunFolder) -> dict[str, Tensor] | None:
    """What the cut weights of a run were, where its checkpoint is still there."""
    if not source.checkpoint_file.is_file():
        return None
    state = load_checkpoint(source.checkpoint_file)["pruner"]
    return None if state is None else state["latent"]


def one_cycle(optimizer: torch.optim.Optimizer, settings: TrainingSettings) -> torch.optim.lr_scheduler.OneCycleLR:
    """The learning rate rises over ``warmup`` of the steps and falls over the rest."""
    warmup = settings.warmup
    if abs(warmup * settings.steps - 1) < 1e-6:  # torch divides by steps of warm-up less one
        warmup = 1.001 / settings.steps
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, settings.steps, pct_start=warmup, cycle_momentum=False
    )
