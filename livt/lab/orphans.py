"""No process outlives the one that started it.

A run's lock belongs to every process that was forked with it, and is free when the last of them has ended. So those
that load images end with the process that trains, and that one with the sweep that started it, at whatever instant and
however busy the machine: on Linux by the system's own hand. Light: a process can call this before it imports the rest.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_open = 0  # how many runs this process trains
_forking = 0  # the process that forks


def end_with(parent: int) -> None:
    """Let the system kill this process when ``parent`` ends, the process whose thread has started it.

    Elsewhere than on Linux this only ends a process whose parent has ended already.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the system knew
        os._exit(1)


def watch(parent: int) -> None:
    """End this process within a second of ``parent``, from a thread: where the system does not do it."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


@contextmanager
def none() -> Iterator[None]:
    """Let every process that is forked meanwhile end with this one."""
    global _open
    _open += 1
    try:
        yield
    finally:
        _open -= 1


def _before() -> None:
    global _forking
    _forking = os.getpid()


def _in_child() -> None:
    if _open:
        end_with(_forking)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)
