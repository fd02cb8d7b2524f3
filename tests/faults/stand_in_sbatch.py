"""Stands in for a batch system: ``sbatch [options] SCRIPT [arguments]`` begins a job at once, ``scancel ID`` ends it.

Called by two small scripts on PATH (:func:`install`). A job is the script in a process group of its own, whose number
is its id; of ``#SBATCH --array=A-B`` each task is one. ``JOBS/ID`` holds the script that was submitted. Nothing of the
real SLURM is tested by this.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def install(folder: Path) -> Path:
    """Put ``sbatch`` and ``scancel`` into ``folder/bin``; returns where submitted scripts are kept."""
    jobs = folder / "jobs"
    jobs.mkdir()
    (folder / "bin").mkdir()
    for name in ("sbatch", "scancel"):
        file = folder / "bin" / name
        words = shlex.join([sys.executable, __file__, name, str(jobs)])
        file.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        file.chmod(0o755)
    return jobs


def running(jobs: Path) -> list[int]:
    """Ids of jobs of which a process is left."""
    return [job for job in sorted(int(path.name) for path in jobs.glob("[0-9]*")) if _alive(job)]


def end(job: int) -> None:
    """Kill a job with all its processes."""
    with suppress(ProcessLookupError):
        os.killpg(job, signal.SIGKILL)


def _alive(job: int) -> bool:
    """Whether a process of the group is left that is no zombie (state, parent and group follow the name in stat)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == job and state != "Z":
                return True
    return False


def _submit(jobs: Path, words: list[str]) -> None:
    at = next(i for i, word in enumerate(words) if not word.startswith("-"))
    text = Path(words[at]).read_text()
    array = re.search(r"^#SBATCH --array=(\d+)-(\d+)$", text, re.MULTILINE)
    tasks = range(int(array[1]), int(array[2]) + 1) if array else [None]
    for task in tasks:
        extra = {"SLURM_CPUS_PER_TASK": "1"} | ({} if task is None else {"SLURM_ARRAY_TASK_ID": str(task)})
        copy = jobs / f"script-{os.getpid()}-{task}"
        copy.write_text(text)
        with (jobs / f"log-{os.getpid()}-{task}").open("wb") as log:
            process = subprocess.Popen(
                ["bash", str(copy), *words[at + 1 :]],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **extra, "SLURM_JOB_ID": str(os.getpid())},
            )
        (jobs / str(process.pid)).write_text(text)
    print(f"Submitted batch job {process.pid}")


if __name__ == "__main__":
    command, where, *given = sys.argv[1:]
    if command == "sbatch":
        _submit(Path(where), given)
    else:
        for name in given:
            end(int(name))
