"""What goes wrong while a run is trained, told to the user: what it was, and what to do.

PyTorch is imported only where it is needed: ``data_prep`` writes its files by ``livt.lab.files`` and does without.
"""

import errno
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class RunError(RuntimeError):
    """A run that cannot be used: damaged, missing, or contradicting itself. The message names the file."""


class Ended(KeyboardInterrupt):
    """A signal has asked this process to end; ``status`` is the exit status that says so."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}: the same command goes on from the last saved epoch")
        self.status = 128 + number


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a failed allocation, on a GPU or the CPU, from other errors: PyTorch has one type for the GPU alone."""
    import torch

    texts = ("DefaultCPUAllocator: ", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    found = isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    return found or isinstance(error, MemoryError | torch.OutOfMemoryError)


def is_full(error: BaseException) -> bool:
    """Whether a file could not be written for want of room."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_write(root: Path, error: OSError) -> str:
    """Return what to tell a user whose run store is read-only, or full, or no folder."""
    return f"cannot write to the run store {root}: {error.strerror}; choose another with --runs DIR or LIVT_RUNS"


def explained(error: BaseException, run_id: str, config: Mapping[str, Any]) -> RunError | None:
    """Return what to tell the user of an error that ended the training of a run; None for a defect of this program.

    ``config``: the stage configuration of the run.
    """
    from livt import distributed

    if distributed.is_lost(error):
        return RunError(
            f"another process that trains {run_id} has ended, as its own message says; the same command goes on from "
            "the last saved epoch"
        )
    if "out of shared memory" in str(error):
        return RunError(
            f"no shared memory is left for the processes that load images for {run_id}: give more (docker run "
            "--shm-size=16g), or train with --workers 0; the same command goes on from the last saved epoch"
        )
    if "DataLoader worker (pid" in str(error):  # at any instant: PyTorch watches for their death
        return RunError(
            f"a process that loads images for {run_id} was killed, perhaps for lack of memory: try fewer --workers; "
            "the same command goes on from the last saved epoch"
        )
    if not is_out_of_memory(error):
        return None
    stage = config[config["stage"]]
    return RunError(
        f"out of memory while training {run_id}: add --checkpointing (slower; this run goes on from its last saved "
        f"epoch), or train another run with more {config['stage']}.accumulation_steps (now "
        f"{stage['accumulation_steps']}; the batch of {stage['batch_size']} is then worked off in smaller parts) or a "
        "smaller model.size"
    )
