"""A worker with small work in place of a training: what it is to do is in its job."""

import os
import signal
import sys
import time
from pathlib import Path

from harness.errors import UserError
from harness.training.processes import worker
from harness.training.processes.command import LaunchCommand


class TrainingDiverged(UserError):
    """By its name."""


class Result:
    updates, history = 2, [{"loss": 0.5}]


def work(job: dict, advance) -> Result:
    rank = int(os.environ["RANK"]) if "RANK" in os.environ else 0
    Path(job["folder"], f"pid-{rank}").write_text(str(os.getpid()))
    if "asked" in job:
        launcher = LaunchCommand(**job["asked"])
        launcher.check_honoured(int(os.environ.get("WORLD_SIZE", "1")))
        from accelerate import Accelerator

        Accelerator(cpu=True)
        worker._strategy_check(launcher).on_init_end(None, None, None)
    if rank == 0 and advance:
        for _ in range(4):
            advance(3)
    if job["do"] == "finish":
        return Result()
    if rank == 1:
        time.sleep(1)
        if job["do"] == "diverge":
            raise TrainingDiverged("the loss is not finite")
        if job["do"] == "die":
            print("the last words of process 1", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


if __name__ == "__main__":
    worker.work = work
    worker.main(Path(sys.argv[1]))
