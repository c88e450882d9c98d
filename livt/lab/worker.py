"""The start of a process that trains for a sweep; light, so that it soon knows to end with its parent."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from livt.lab import orphans

device = ""  # of this process: one GPU for all its runs


def start(parent: int, unclaimed: Any) -> None:
    """End at once with the parent: a run survives a kill at any instant. Claim a device of the queue ``unclaimed``."""
    orphans.end_with(parent)
    orphans.watch(parent)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # its own is a semaphore of the system, which a kill would leave behind
    global device
    device = unclaimed.get()


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back signals that end the parent while it starts processes, which are then deaf to those of a terminal.

    Ctrl-C and a closed terminal reach every process of a command: the parent alone answers, and ends the others.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
