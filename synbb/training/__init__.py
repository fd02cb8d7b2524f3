"""Training: settings, the loop, checkpoints and the run folder."""

from synbb.training.config import RunConfig, load_config
from synbb.training.loop import StoppedBySignal, train
from synbb.training.run import RunFolder
from synbb.training.start import leads, make_task, start

__all__ = ["RunConfig", "RunFolder", "StoppedBySignal", "leads", "load_config", "make_task", "start", "train"]
