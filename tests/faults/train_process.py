"""Real training processes that start in a moment: a parent with everything imported forks one for each job.

Run as ``python train_process.py``; reads jobs as JSON lines, answers each with the child's wait status. A job is the
command line of ``synbb`` and, perhaps, {"signal": number, "step": n, "when": ...}: the child sends itself that signal
after the optimiser step n ("after"), while the loss of step n is computed ("inside"), or while the checkpoint after
step n is being written ("writing").
"""

from __future__ import annotations

import json
import os
import resource
import sys


def main() -> None:
    """Serve jobs until the input ends."""
    import synbb.cli.app
    import synbb.cli.predict
    import synbb.training  # noqa: F401  imported before the fork, so that children need not

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            run(job)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


def run(job: dict) -> None:
    """One job in a child; does not return."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["synbb", *job["arguments"]]
    if "largest_file" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest_file"], job["largest_file"]))
    if "signal" in job:
        arrange(job)
    code = 1
    try:
        from synbb.cli.app import main as synbb

        synbb()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def arrange(job: dict) -> None:
    """Have the signal sent at the step."""
    from synbb.tasks.synapse import SynapseTask
    from synbb.training import checkpoint, keeping, loop

    done = {"step": 0}
    step_of_loop, loss, replace = loop._step, SynapseTask.loss, checkpoint.Path.replace

    def send(when: str) -> None:
        if job["when"] == when and done["step"] == job["step"]:
            os.kill(os.getpid(), job["signal"])

    def step(session, number, batch):
        done["step"] = number + 1
        value = step_of_loop(session, number, batch)
        send("after")
        return value

    def compute(self, outputs, batch):
        send("inside")
        return loss(self, outputs, batch)

    def rename(self, target):
        if self.name.startswith(".last.pt"):
            send("writing")
        return replace(self, target)

    loop._step, SynapseTask.loss, checkpoint.Path.replace = step, compute, rename
    assert keeping is not None


if __name__ == "__main__":
    main()
