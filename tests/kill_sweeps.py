"""End a sweep of two training processes at random instants, and go on with it: for a person to run, for minutes.

    python tests/kill_sweeps.py [TRIALS] [--busy N]

Each trial starts ``reproduce loss_ablation`` on the smoke suite, sends its parent a signal after a random time, SIGKILL
twice as often as SIGINT, SIGTERM and SIGHUP, and sees how long any process of it lives on; one in ten closes the
terminal of the parent instead. All trials go on with one store, which is emptied when the sweep has come to its end.
Last, the sweep is let finish, and its runs are compared with those of an undisturbed one.
"""

import argparse
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

SWEEP = [
    "-m",
    "livt",
    "reproduce",
    "loss_ablation",
    "--suite",
    "smoke",
    "--seeds",
    "0,1",
    "--jobs",
    "2",
    "--device",
    "cpu",
]
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
STATUS = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def start(root: Path, mark: str, **options: object) -> subprocess.Popen:
    """Start the sweep; every process of it has ``mark`` in its environment."""
    environment = os.environ | {"LIVT_TRIAL": mark, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, *SWEEP, "--runs", str(root)], env=environment, **options)


def alive(mark: str) -> dict[int, str]:
    """Return the processes that have ``mark`` in their environment, by id, with what they are."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"LIVT_TRIAL={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:90]
        except OSError:  # it has ended meanwhile
            continue
    return found


def lives_on(mark: str, parent: subprocess.Popen, limit: float = 120) -> float:
    """Return the seconds until no process with ``mark`` is left."""
    began = time.monotonic()
    while (left := alive(mark)) and time.monotonic() - began < limit:
        parent.poll()  # reap it
        time.sleep(0.05)
    assert not left, f"after {limit} s: {left}"
    return time.monotonic() - began


def workers(mark: str) -> int:
    return sum("spawn_main" in what for what in alive(mark).values())


def trial(root: Path, mark: str, how: signal.Signals, wait: float) -> tuple[str, float]:
    """End a sweep ``wait`` seconds after its first worker has started; return what was ended, and after how long."""
    with tempfile.TemporaryFile() as err:
        process = start(root, mark, stdout=subprocess.DEVNULL, stderr=err)
        began = time.monotonic()
        while process.poll() is None and not workers(mark) and time.monotonic() - began < 120:
            time.sleep(0.02)
        time.sleep(wait)
        finished = process.poll() is not None
        process.send_signal(how)
        seconds = lives_on(mark, process)
        status = process.wait(timeout=60)
        err.seek(0)
        text = err.read().decode()
    if finished:
        assert status == 0, text
        return "finished", seconds
    if status != 0:  # 0: it ended by itself at this instant
        assert status in (STATUS[how], -how), (status, how, text)
        assert "Traceback" not in text, text
    return how.name, seconds


def closed_terminal(root: Path, mark: str, wait: float) -> tuple[str, float]:
    """Start a sweep in a terminal of its own and close it."""
    ours, theirs = pty.openpty()
    process = start(
        root, mark, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=take_terminal
    )
    os.close(theirs)
    began = time.monotonic()
    while process.poll() is None and not workers(mark) and time.monotonic() - began < 120:
        time.sleep(0.02)
    time.sleep(wait)
    os.close(ours)
    seconds = lives_on(mark, process)
    status = process.wait(timeout=60)
    assert status in (0, 129, -signal.SIGHUP), status
    return "closed terminal", seconds


def take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def contents(root: Path) -> dict[str, bytes]:
    names = ("config.json", "metrics.jsonl", "weights.safetensors")
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob("*-*/*") if p.name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int, nargs="?", default=20)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="loops that compute meanwhile")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, default=12, help="seconds from the first worker to the signal, at most"
    )
    options = parser.parse_args()
    chance, ended, longest = random.Random(options.seed), Counter[str](), Counter[str]()
    loops = [subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while 1: pass"]) for _ in range(options.busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            root, whole = Path(folder) / "runs", Path(folder) / "whole"
            process = start(whole, "whole", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            assert process.wait(timeout=600) == 0
            for number in range(options.trials):
                wait, how = chance.uniform(0, options.longest), chance.choice(SIGNALS)
                if number % 10 == 9:
                    what, seconds = closed_terminal(root, f"{os.getpid()}-{number}", wait)
                else:
                    what, seconds = trial(root, f"{os.getpid()}-{number}", how, wait)
                ended[what] += 1
                longest[what] = max(longest[what], seconds)
                done = len(list(root.glob("*/result.json")))
                print(
                    f"{number + 1}: {what} after {wait:.1f} s, gone in {seconds:.2f} s; {done} of 10 runs", flush=True
                )
                if done == 10:
                    assert contents(root) == contents(whole)
                    shutil.rmtree(root)
            began = time.monotonic()
            process = start(root, "last", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            _, err = process.communicate(timeout=600)
            assert process.returncode == 0, err
            assert "waiting for it" not in err, "a lock was still held"
            assert contents(root) == contents(whole)
            print(f"went on and finished in {time.monotonic() - began:.0f} s, equal to the undisturbed sweep")
    finally:
        for loop in loops:
            loop.kill()
    for what, count in ended.items():
        print(f"{what}: {count}, the last process gone within {longest[what]:.2f} s")


if __name__ == "__main__":
    main()
