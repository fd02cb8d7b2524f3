"""What ``--cluster`` says: workers on this machine, a scheduler that runs already, or jobs of a batch system."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import dask
import torch
from dask.utils import parse_timedelta
from distributed import Client, LocalCluster
from pydantic import Field, field_validator

from synbb.errors import SynbbError, get_extra
from synbb.inference.pipeline import threads_beside
from synbb.schema import Settings, validated
from synbb.volumes.stores import is_remote, split_kind, with_kind
from synbb.yaml_text import read_yaml

FORMS = "local:N, tcp://HOST:8786, or a YAML file (configs/clusters/)"

# A task that was on this many workers that died, and one more, comes back to the driver, which counts further
# (cluster.LOSSES) and computes its blocks one by one.
SCHEDULER = {"distributed.scheduler.allowed-failures": 4}

PATIENCE = "20s"  # for a scheduler's answer

EXTRA = "worker_extra_args"  # of dask_jobqueue: words of the workers' command

SYSTEMS = {"slurm": "SLURM", "pbs": "PBS", "lsf": "LSF", "sge": "SGE", "oar": "OAR", "htcondor": "HTCondor"}


@dataclass(frozen=True)
class Connection:
    """An open cluster.

    Attributes:
        client: of dask.
        threads: of all workers that are asked for; 0 where that is not ours to say.
    """

    client: Any
    threads: int


class ClusterFile(Settings):
    """Jobs of a batch system that are workers.

    Attributes:
        system: which.
        jobs: at most at once; a job that ends is replaced while blocks are missing.
        minimum: jobs that are kept even when there is little to do; None for ``jobs``.
        lifetime: of a worker, shorter than ``options.walltime`` by what a block takes ("225m").
        lifetime_stagger: up to which lifetimes differ, so that not all end at once.
        options: of the ``dask_jobqueue`` class (``SLURMCluster``): cores, memory, walltime, queue, ...
    """

    system: Literal["slurm", "pbs", "lsf", "sge", "oar", "htcondor"]
    jobs: Annotated[int, Field(ge=1)]
    minimum: Annotated[int, Field(ge=0)] | None = None
    lifetime: str | None = None
    lifetime_stagger: str | None = None
    options: dict[str, Any]

    @field_validator("lifetime", "lifetime_stagger")
    @classmethod
    def _is_duration(cls, value: str | None) -> str | None:
        try:
            parse_timedelta(value)
        except (KeyError, ValueError):
            raise ValueError("is no duration; write 225m, 3.75h or 45s") from None
        return value

    @field_validator("options")
    @classmethod
    def _has_words(cls, value: dict[str, Any]) -> dict[str, Any]:
        words = value.get(EXTRA, [])
        if not isinstance(words, list) or not all(type(word) in (str, int, float) for word in words):
            raise ValueError(f"{EXTRA} {words!r} is no list of words; write [--resources, GPU=1]")
        return value


def connected(
    where: str, *, lifetime: str | None = None, lifetime_stagger: str | None = None
) -> AbstractContextManager[Connection]:
    """The cluster that ``--cluster`` names, closed at the end (a scheduler that ran already goes on).

    What is wrong with the words is said by the call, and all else on entering.

    Args:
        where: one of :data:`FORMS`.
        lifetime: of the workers of a YAML file, in place of what it says.
        lifetime_stagger: likewise.

    Raises:
        SynbbError: none of the forms; lifetimes without a file; no scheduler answers; a file that cannot be used;
            dask-jobqueue is missing.
    """
    told = {"lifetime": lifetime, "lifetime_stagger": lifetime_stagger}
    changes = {name: value for name, value in told.items() if value is not None}
    if Path(where).suffix in {".yaml", ".yml"}:
        return _jobs(where, read_cluster_file(where, changes))
    for name in changes:
        option = f"--{name.replace('_', '-')}"
        raise SynbbError(f"{option} is of use with the YAML file of a batch system alone, and --cluster is {where!r}")
    kind, _, rest = where.partition(":")
    if kind == "local":
        if not rest.isdecimal() or int(rest) < 1:
            raise SynbbError(f"--cluster {where!r}: local:N wants a number of workers, for example local:4")
        return _local(int(rest))
    if re.match(r"[a-z]+://", where):
        return _running(where)
    raise SynbbError(f"--cluster {where!r} is none of {FORMS}")


def dashboard(client: Any) -> str:
    """A line that says where the cluster can be watched."""
    if not importlib.util.find_spec("bokeh"):
        return f"scheduler {client.scheduler.address}; its dashboard needs bokeh; {get_extra('cluster')}"
    return f"dashboard {client.dashboard_link}"


def absolute(path: str) -> str:
    """A path that workers with another working directory understand; addresses stay."""
    kind, place = split_kind(path)
    if is_remote(place):
        return path
    return with_kind(kind, str(Path(place).absolute()))


@contextmanager
def _local(workers: int) -> Iterator[Connection]:
    # Workers share the cores; dask would give each one thread of torch.
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
    env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    each = _local_threads(workers)
    # A worker that was killed is started again; dask forgets it unless it is back by then, and imports take long.
    settings = {**SCHEDULER, "distributed.deploy.lost-worker-timeout": "10m"}
    with dask.config.set(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Port .* is already in use")  # it then takes another
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=each,
            memory_limit=0,  # what is in memory is bounded by blocks in flight; dask would kill at its own estimate
            env=env,
        )
    with dask.config.set(settings), cluster, Client(cluster) as client:
        yield Connection(client, workers * each)


def _local_threads(workers: int) -> int:
    """Threads of each worker here: one, whose network takes the core; several beside GPUs, to read and write."""
    if not torch.cuda.is_available():
        return 1
    return max(2, threads_beside(torch.device("cuda")).readers // workers)


@contextmanager
def _running(address: str) -> Iterator[Connection]:
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise SynbbError(
            f"--cluster {address}: no scheduler answers ({error}); start one with `dask scheduler`, and workers with "
            f"`dask worker {address}`"
        ) from error
    with client:
        yield Connection(client, 0)


@contextmanager
def _jobs(path: str, settings: ClusterFile) -> Iterator[Connection]:
    with dask.config.set(SCHEDULER), job_cluster(settings, path) as cluster, Client(cluster) as client:
        least = settings.jobs if settings.minimum is None else settings.minimum
        # adapt, with equal bounds too: it replaces jobs that ended, which scale does not
        cluster.adapt(minimum_jobs=least, maximum_jobs=settings.jobs)
        yield Connection(client, settings.jobs * int(settings.options.get("cores", 1)))


def read_cluster_file(path: str, changes: dict[str, Any] | None = None) -> ClusterFile:
    """The settings in a cluster's file.

    Raises:
        SynbbError: no such file, no YAML, or settings that are unknown or wrong.
    """
    try:
        values = read_yaml(Path(path), f"--cluster {path}")
    except OSError as error:
        raise SynbbError(f"--cluster {path}: cannot be read ({error.strerror}); it must be one of {FORMS}") from error
    if not isinstance(values, dict):
        raise SynbbError(f"--cluster {path}: holds no settings; see configs/clusters/slurm.yaml")
    return validated(ClusterFile, {**values, **(changes or {})}, f"--cluster {path}")


def job_cluster(settings: ClusterFile, path: str) -> Any:
    """The ``dask_jobqueue`` cluster of these settings, without any job yet.

    Raises:
        SynbbError: dask-jobqueue is missing, an option is wrong, or the batch system is not on this machine.
    """
    try:
        import dask_jobqueue
    except ImportError as error:
        raise SynbbError(
            f"--cluster {path}: jobs of {settings.system} need dask-jobqueue, which is not installed; "
            + get_extra("cluster")
        ) from error
    kind = getattr(dask_jobqueue, f"{SYSTEMS[settings.system]}Cluster")
    submit = kind.job_cls.submit_command.split()[0]
    if shutil.which(submit) is None:
        raise SynbbError(
            f"--cluster {path}: {submit} is not on PATH; run where jobs of {settings.system} are submitted"
        )
    extra = [str(word) for word in settings.options.get(EXTRA, [])]
    if settings.lifetime is not None:
        extra += ["--lifetime", settings.lifetime]
    if settings.lifetime_stagger is not None:
        extra += ["--lifetime-stagger", settings.lifetime_stagger]
    try:
        return kind(**{**settings.options, EXTRA: extra})
    except (TypeError, ValueError) as error:
        raise SynbbError(f"--cluster {path}: options: {error}") from error
