"""Several processes train one run: torchrun starts them, DistributedDataParallel averages their gradients.

Each process takes its share of the parts of a batch, and of the images to evaluate; without torchrun there is one
process and everything here costs nothing. Shapes: ``N`` images.
"""

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from math import ceil
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

# Of one exchange: more than evaluating and saving take. When a process dies, torchrun or srun ends the others.
TIMEOUT = timedelta(minutes=30)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_leader() -> bool:
    """Whether this process writes and reports for all."""
    return rank() == 0


def agree(number: int) -> bool:
    """Whether all processes have the same number, of less than 64 bits; all get the answer."""
    if size() == 1:
        return True
    largest = torch.tensor([number, -number], device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return bool(largest.sum() == 0)


def from_leader(value: Any) -> Any:
    """Return the leader's value in every process: a shared file system may show the others an older state."""
    if size() == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes that torchrun started, if any; yield this process's device.

    "cuda" is the GPU of this process's number on its machine: NCCL connects them, gloo connects CPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        number = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()  # a task may see its own GPU alone
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    # After an elastic restart the store still holds the addresses of the processes that are gone (PyTorch issue
    # 135712). On one machine the count of restarts tells them apart; machines may count differently.
    one_machine = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if one_machine else "0"
    store, number, count = next(distributed.rendezvous("env://", timeout=TIMEOUT))
    store = distributed.PrefixStore(f"restart {restarts}", store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=number, world_size=count, timeout=TIMEOUT)
    try:
        yield device
    except BaseException:
        atexit.register(_end)
        raise
    distributed.destroy_process_group()


def is_lost(error: BaseException) -> bool:
    """Whether an exchange failed because another process has ended; NCCL has a type for it, gloo a text."""
    return isinstance(error, distributed.DistError) or (size() > 1 and "gloo" in str(error))


def _end() -> None:
    """End this process after an error, leaving no group: NCCL would wait for the others, and they for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model as it is to be called in training: its gradients are averaged over the processes."""
    if size() == 1:
        return model
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def without_averaging(model: nn.Module | None) -> AbstractContextManager:
    """Return a context in which gradients add up in each process; the next backward pass averages their sums."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def mean(value: Tensor) -> Tensor:
    """Return the mean of a number over the processes, the same in each."""
    if size() > 1:
        distributed.all_reduce(value)
        value = value / size()
    return value


def share(count: int) -> range:
    """Return which of ``count`` things are this process's: every one belongs to exactly one."""
    return range(rank(), count, size())


def gathered(own: Tensor, count: int, device: torch.device) -> Tensor:
    """Return the rows of all ``count`` things, in order, from each process's rows of its :func:`share`."""
    if size() == 1:
        return own
    rows = own.new_zeros(ceil(count / size()), *own.shape[1:], device=device)  # the last row of some stays unused
    rows[: len(own)] = own
    everyone = [torch.empty_like(rows) for _ in range(size())]
    distributed.all_gather(everyone, rows)
    return torch.stack(everyone, dim=1).flatten(0, 1)[:count].to(own.device)
