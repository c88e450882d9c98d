"""Kill the preparation of a data set before and after every file it puts in place, run it again, and compare.

The test runs this file as a script: it forks before any thread has started.
"""

import argparse
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DATA_PREP = Path(__file__).parents[1] / "data_prep"
CHANGES = ("link", "symlink", "replace", "rename", "unlink", "mkdir")  # of os
# What ends the writing of a file, and which argument names it.
WRITES = ((shutil, "copy2", 1), (os, "fsync", 0))


@pytest.mark.slow
def test_a_killed_preparation_goes_on_at_every_moment():
    out = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert out.returncode == 0, out.stdout + out.stderr
    moments = dict(line.split(": ") for line in out.stdout.splitlines())
    assert set(moments) == {"copy", "shards", "another form"}
    assert all(int(count) >= 20 for count in moments.values()), moments


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; return 0, or minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"child failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(moment: int, work: Callable[[], object]) -> Callable[[], object]:
    """Return ``work`` with SIGKILL before (even ``moment``) or after (odd) the call number ``moment // 2``.

    After a call that writes a file, half of the file is there.
    """

    def run() -> object:
        count, lock = 0, threading.RLock()

        def counted(real: Callable, written: int | None = None) -> Callable:
            def call(*arguments, **options):
                nonlocal count
                with lock:
                    if moment == 2 * count:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = real(*arguments, **options)
                    if moment == 2 * count + 1:
                        if written is not None:
                            os.truncate(arguments[written], os.path.getsize(arguments[written]) // 2)
                        os.kill(os.getpid(), signal.SIGKILL)
                    count += 1
                return result

            return call

        for name in CHANGES:
            setattr(os, name, counted(getattr(os, name)))
        for module, name, written in WRITES:
            setattr(module, name, counted(getattr(module, name), written))
        return work()

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(work: Callable[[Path], object], before: Callable[[Path], object], folder: Path) -> int:
    """Try every moment; return how many there were. ``before`` makes the target that is to be replaced, if any."""
    assert in_child(lambda: before(folder / "before")) == 0
    assert in_child(lambda: (before(folder / "whole"), work(folder / "whole"))) == 0
    old, expected = (contents(folder / name / "set") for name in ("before", "whole"))
    moment = 0
    while True:
        target = folder / str(moment)
        shutil.copytree(folder / "before", target, symlinks=True)
        ended = in_child(killed_at(moment, lambda: work(target)))  # noqa: B023
        if ended == 0:
            assert contents(target / "set") == expected
            return moment
        assert ended == -signal.SIGKILL, ended
        found = contents(target / "set")
        assert found in ({}, old, expected), f"moment {moment}: half there"
        assert found or not (target / "set").exists(), f"moment {moment}: an empty folder"
        assert in_child(lambda: work(target)) == 0  # noqa: B023
        assert contents(target / "set") == expected, f"moment {moment}: another result"
        left = {path.name for path in target.iterdir()} - {".set.lock"}
        assert left == {"set"}, f"moment {moment}: {left}"
        shutil.rmtree(target)
        moment += 1


def main() -> None:
    sys.path.insert(0, str(DATA_PREP))
    import prepare
    import storage

    storage.SHARD_IMAGES = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entries = []
        for i in range(4):
            path = folder / f"source/{i}.png"
            path.parent.mkdir(exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(buffer, "PNG")
            path.write_bytes(buffer.getvalue())
            entries.append(
                storage.Entry(path=f"{'train' if i < 2 else 'val'}/{i % 2}/{i}.png", label=i % 2, source=path)
            )
        contents_of_source = prepare.Contents(entries=entries, classes=["0", "1"], extras={"extra.csv": b"x\n"})

        def work(form: str, how: str = "link") -> Callable[[Path], object]:
            plan = prepare.Plan(name="set", form=form, request={}, load=lambda: contents_of_source)

            def run(target: Path) -> object:
                options = argparse.Namespace(
                    source=folder, target=target, how=how, jobs=2, verify=True, force=True, drop_overlap=False
                )
                return prepare.prepare(plan, options)

            return run

        def nothing(target: Path) -> None:
            (target / "set").parent.mkdir()

        for label, made, before in (
            ("copy", work("tree", "copy"), nothing),
            ("shards", work("shards"), nothing),
            ("another form", work("tree", "link"), work("tree", "symlink")),
        ):
            (folder / label).mkdir()
            print(f"{label}: {check(made, before, folder / label)}", flush=True)


if __name__ == "__main__":
    main()
