"""Kill a training process at every file it puts in place, resume it, and compare with an uninterrupted run.

Run as a script by test_training.py: it forks before PyTorch has started any thread.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from livt.config import Recipe, with_overrides
from livt.data.sets import load_dataset
from livt.lab import files
from livt.lab.recipes import smoke
from livt.lab.runs import RunStore
from livt.lab.stages import train

SEALED = ("weights.safetensors", "metrics.jsonl", "result.json", "config.json")


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; return 0, or minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            work()
        except BaseException as error:
            print(f"child failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def killed_at(moment: int, work: Callable[[], object]) -> Callable[[], object]:
    """Return ``work`` with SIGKILL before (even ``moment``) or after (odd) the file number ``moment // 2`` appears."""

    def run() -> object:
        real, count = os.replace, 0

        def replace(source, target):
            nonlocal count
            if moment == 2 * count:
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target)
            if moment == 2 * count + 1:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        files.os.replace = replace
        return work()

    return run


def contents(store: RunStore, run_id: str) -> dict[str, bytes]:
    """The sealed files of a run; result.json without the checksum of the environment, which holds times."""
    store.load(run_id)
    found = {name: (store.root / run_id / name).read_bytes() for name in SEALED}
    found["result.json"] = files.dump_json(store.load(run_id).result)
    return found


def check(stage: str, recipe: Recipe, prepare: Callable[[RunStore], object], folder: Path) -> int:
    """Try every moment of one stage; return how many there were."""
    whole = RunStore(folder / "whole")
    assert in_child(lambda: (prepare(whole), train(stage, recipe, whole, progress=False))) == 0
    run_id = next(i for i in whole.ids() if i.startswith(stage))
    expected = contents(whole, run_id)
    moment = 0
    while survives(moment, stage, recipe, prepare, RunStore(folder / str(moment)), run_id, expected):
        moment += 1
    return moment


def survives(
    moment: int,
    stage: str,
    recipe: Recipe,
    prepare: Callable[[RunStore], object],
    store: RunStore,
    run_id: str,
    expected: dict[str, bytes],
) -> bool:
    """Kill at ``moment`` and resume; return False where training ended before that moment came."""
    assert in_child(lambda: prepare(store)) == 0
    ended = in_child(killed_at(moment, lambda: train(stage, recipe, store, progress=False)))
    if ended == 0:
        assert contents(store, run_id) == expected
        return False
    assert ended == -signal.SIGKILL, ended
    if (store.root / run_id / "result.json").exists():
        assert contents(store, run_id) == expected, f"moment {moment}: sealed too early"
    assert in_child(lambda: train(stage, recipe, store, progress=False)) == 0
    assert contents(store, run_id) == expected, f"moment {moment}: resumed to another result"
    left = {p.name for p in (store.root / run_id).iterdir()}
    assert left == {*SEALED, "environment.json"}, left
    return True


def main() -> None:
    recipe = with_overrides(smoke(), {"finetune.drop_path": 0.2, "finetune.mixup": 0.8, "finetune.cutmix": 1.0})
    recipe = with_overrides(recipe, {"finetune.augment.random_erasing": 0.25})
    load_dataset(recipe.data)  # once, not in each child
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = check("pretrain", recipe, lambda store: None, folder / "pretrain")
        pretrained = RunStore(folder / "pretrain" / "whole").find("pretrain")

        def copy(store: RunStore) -> None:
            shutil.copytree(folder / "pretrain" / "whole" / pretrained, store.root / pretrained)

        second = check("finetune", recipe, copy, folder / "finetune")
    print(f"kill points: pretrain {first}, finetune {second}")


if __name__ == "__main__":
    main()
