"""End a sweep of two training processes at random instants, and go on with it: for a person to run, for minutes.

    python tests/kill_sweeps.py [TRIALS] [--busy N]

Each trial starts ``reproduce loss_ablation`` on the smoke suite, sends its parent a signal a random time after its
first worker has started or, every other trial, after something was saved; SIGKILL twice as often as SIGINT, SIGTERM and
SIGHUP. It sees how long any process of the sweep lives on. One trial in five closes the parent's terminal instead.
All trials go on with one store, which is emptied when the sweep has come to its end.
Last, the sweep is let finish, and its runs are compared with those of an undisturbed one.
"""

import argparse
import fcntl
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SWEEP = ["reproduce", "loss_ablation", "--suite", "smoke", "--seeds", "0,1", "--jobs", "2", "--device", "cpu"]
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
STATUS = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


class Sweep:
    """The command in a forked process of its own session, which has imported what it needs."""

    def __init__(self, root: Path, out: int, terminal: int | None = None) -> None:
        from livt import __main__ as cli

        self.status: int | None = None
        sys.stdout.flush()
        self.id = os.fork()
        if self.id == 0:
            status = 1
            try:
                os.setsid()
                signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup for this harness would have it ignore,
                signal.signal(signal.SIGINT, signal.default_int_handler)  # and this a shell's background
                if terminal is not None:
                    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
                for stream in (0, 1, 2):
                    os.dup2(out, stream)
                os.closerange(3, 1000)
                status = cli.main([*SWEEP, "--runs", str(root)])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def poll(self) -> int | None:
        if self.status is None:
            ended, status = os.waitpid(self.id, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if ended else None
        return self.status

    def wait(self, seconds: float) -> int:
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert self.status is not None, f"it goes on after {seconds} s"
        return self.status

    def family(self) -> dict[int, str]:
        """Return the processes of its session that have not ended, by id, with what they are."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.id and state != "Z":
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:90]
            except OSError:  # it has ended meanwhile
                continue
        return found

    def until(self, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + 300
        while self.poll() is None and time.monotonic() < end and not reached():
            time.sleep(0.02)

    def has_worker(self) -> bool:
        return any("spawn_main" in what for what in self.family().values())

    def lives_on(self, limit: float = 120) -> float:
        """Return the seconds until no process of it is left."""
        began = time.monotonic()
        while (left := self.family()) and time.monotonic() - began < limit:
            self.poll()  # reap it
            time.sleep(0.02)
        for process in left:
            os.kill(process, signal.SIGKILL)
        assert not left, f"after {limit} s: {left}"
        return time.monotonic() - began


def saved(root: Path) -> int:
    """Return how many lines of scores the runs of a store have."""
    return sum(path.read_bytes().count(b"\n") for path in root.glob("*-*/metrics.jsonl"))


def until_saved_or_started(sweep: Sweep, root: Path, wait: float, after_save: bool) -> None:
    """Wait so many seconds after the first worker has started or something was saved."""
    before = saved(root)
    sweep.until((lambda: saved(root) > before) if after_save else sweep.has_worker)
    time.sleep(wait)


def trial(root: Path, how: signal.Signals, wait: float, after_save: bool) -> tuple[str, float]:
    """End a sweep; return what was ended, and after how many seconds its last process was gone."""
    with tempfile.TemporaryFile() as out:
        sweep = Sweep(root, out.fileno())
        until_saved_or_started(sweep, root, wait, after_save)
        finished = sweep.poll() is not None
        left = 10 - len(list(root.glob("*/result.json")))
        if not finished:
            os.kill(sweep.id, how)
        seconds = sweep.lives_on()
        status = sweep.wait(60)
        out.seek(0)
        text = out.read().decode()
    # What two workers have in hand may end just then; a sweep that goes on with more has not heard the signal.
    ended = (STATUS[how], -how) if left > 2 else (0, STATUS[how], -how)
    assert status == 0 if finished else status in ended, (status, how, left, text)
    assert "Traceback" not in text, text
    return "finished" if finished else how.name, seconds


def closed_terminal(root: Path, wait: float, after_save: bool) -> tuple[str, float]:
    """Start a sweep in a terminal of its own and close it."""
    ours, theirs = pty.openpty()
    sweep = Sweep(root, theirs, terminal=theirs)
    os.close(theirs)
    until_saved_or_started(sweep, root, wait, after_save)
    os.close(ours)
    seconds = sweep.lives_on()
    assert sweep.wait(60) in (0, 129, -signal.SIGHUP), sweep.status
    return "closed terminal", seconds


def contents(root: Path) -> dict[str, bytes]:
    names = ("config.json", "metrics.jsonl", "weights.safetensors")
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob("*-*/*") if p.name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="?", default=20)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="loops that compute meanwhile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=6, help="seconds to the signal, at most")
    options = parser.parse_args()
    chance, ended, longest = random.Random(options.seed), Counter[str](), Counter[str]()
    os.environ["OMP_NUM_THREADS"] = "1"
    import livt.lab.train  # noqa: F401  before the first fork

    loops = [subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while 1: pass"]) for _ in range(options.busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            root, whole = Path(folder) / "runs", Path(folder) / "whole"
            assert Sweep(whole, os.open(os.devnull, os.O_RDWR)).wait(1800) == 0
            for number in range(options.trials):
                wait, how, after_save = chance.uniform(0, options.longest), chance.choice(SIGNALS), number % 2 == 1
                if number % 10 in (3, 8):
                    what, seconds = closed_terminal(root, wait, after_save)
                else:
                    what, seconds = trial(root, how, wait, after_save)
                ended[what] += 1
                longest[what] = max(longest[what], seconds)
                done = len(list(root.glob("*/result.json")))
                since = "a save" if after_save else "the first worker"
                progress = f"{done} of 10 runs, {saved(root)} epochs"
                print(
                    f"{number + 1}: {what} {wait:.1f} s after {since}, gone in {seconds:.2f} s; {progress}", flush=True
                )
                if done == 10:
                    assert contents(root) == contents(whole)
                    shutil.rmtree(root)
            began = time.monotonic()
            with tempfile.TemporaryFile() as out:
                assert Sweep(root, out.fileno()).wait(1800) == 0
                out.seek(0)
                assert b"waiting for it" not in out.read(), "a lock was still held"
            assert contents(root) == contents(whole)
            print(f"went on and finished in {time.monotonic() - began:.0f} s, equal to the undisturbed sweep")
    finally:
        for loop in loops:
            loop.kill()
    for what, count in ended.items():
        print(f"{what}: {count}, the last process gone within {longest[what]:.2f} s")


if __name__ == "__main__":
    main()
