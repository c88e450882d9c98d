"""What makes training repeatable: seeds, and one thread on the CPU."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def one_cpu_thread(device: torch.device) -> Iterator[None]:
    """Compute on one thread where the device is the CPU: sums round the same whoever trains, and resume exactly."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def seed_everything(*key: int) -> None:
    """Seed Python, NumPy and PyTorch from integers, such as (seed, stage, epoch).

    timm's augmentations and drop path draw from the global generators; seeding them anew each epoch is what makes a
    resumed run equal to an uninterrupted one.
    """
    torch.manual_seed(_seed_host(key))


def seed_of(*key: int) -> int:
    """Return a seed from integers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def _seed_host(key: tuple[int, ...]) -> int:
    """Seed what draws on the CPU, and return the seed."""
    state = seed_of(*key)
    random.seed(state)
    np.random.seed(state)
    torch.default_generator.manual_seed(state)
    return state


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Draw from seeds of this key alone: what was drawn before, or elsewhere, does not matter, nor does it notice.

    On the CPU, that is: a GPU's random numbers go on.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed_host(key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
