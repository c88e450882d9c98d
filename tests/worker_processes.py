"""What test_distributed.py starts under torchrun: training with one process disturbed, and rows gathered.

torchrun ... worker_processes.py killed RUNS    # one process is killed after the first epoch, once
torchrun ... worker_processes.py forbidden RUNS # a process that is not the leader may not write
torchrun ... worker_processes.py fails RUNS     # a process that is not the leader raises in the first epoch
torchrun ... worker_processes.py apart RUNS     # each process has a run store of its own
torchrun ... worker_processes.py gather         # prints what each process has gathered
"""

import os
import signal
import sys
from pathlib import Path

import torch

from livt import distributed
from livt.config import with_overrides
from livt.lab import runs, stages
from livt.lab.failures import RunError
from livt.lab.recipes import smoke
from livt.lab.runs import OpenRun, RunStore

RANK, RESTARTS = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
PARTS = {"pretrain.accumulation_steps": 2, "finetune.accumulation_steps": 2}


def killed() -> None:
    save = OpenRun.save

    def save_and_die(self, *arguments, **named):
        save(self, *arguments, **named)
        if RANK == 1 and RESTARTS == 0 and self.config["stage"] == "finetune":
            os.kill(os.getpid(), signal.SIGKILL)

    OpenRun.save = save_and_die


def forbidden() -> None:
    def refuse(*_):
        raise AssertionError("only the leader writes")

    if RANK:
        runs.os.replace = refuse
        Path.mkdir = refuse
        Path.unlink = refuse


def fails() -> None:
    def save(*_, **__):
        raise RunError("this process has failed")

    if RANK:
        OpenRun.save = save


def train(root: str) -> None:
    recipe = with_overrides(smoke(), PARTS)
    with distributed.process_group(torch.device("cpu")):
        for stage in recipe.up_to(recipe.last_stage):
            record = stages.train(stage, recipe, RunStore(root), progress=False)
            print(f"process {RANK}: {record.id}\n", end="", flush=True)


def gather() -> None:
    with distributed.process_group(torch.device("cpu")):
        for count in (1, 2, 7):
            own = torch.tensor([[10 * i, i] for i in distributed.share(count)], dtype=torch.float32).reshape(-1, 2)
            rows = distributed.gathered(own, count, torch.device("cpu"))
            print(f"process {RANK}: {rows[:, 1].int().tolist()}\n", end="", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["gather"]:
            gather()
        case ["apart", root]:
            train(f"{root}/{RANK}")
        case [mode, root]:
            {"killed": killed, "forbidden": forbidden, "fails": fails}[mode]()
            train(root)
