"""What is still to train: stages by run id, and which of them wait for which; the device to train on."""

import sys
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from livt.config import Recipe
from livt.lab.runs import RunStore, progress_text


class TimeIsUp(Exception):
    """The time that was given for training is over; saved epochs are kept."""


@dataclass(frozen=True)
class Plan:
    """The stages to train, by run id, those before that others need; and the runs among them that each needs.

    images: those that an epoch of each sees, where they are known.
    """

    stages: Mapping[str, tuple[str, Recipe]]
    needs: Mapping[str, frozenset[str]]
    images: Mapping[str, int] = field(default_factory=dict)

    @property
    def ready(self) -> list[str]:
        """The runs that wait for no other."""
        return [run_id for run_id in self.stages if not self.needs.get(run_id)]

    def follows(self, finished: str, trained: Container[str]) -> list[str]:
        """Return the runs that can start now that one has finished; ``trained`` are all that have, this one too."""
        waiting = (run_id for run_id, needed in self.needs.items() if finished in needed)
        return [run_id for run_id in waiting if all(needed in trained for needed in self.needs[run_id])]

    def behind(self, run_ids: Iterable[str]) -> set[str]:
        """Return the runs that cannot be trained without these, at whatever remove."""
        lost = set(run_ids)
        for run_id in self.stages:  # what is needed comes first
            if self.needs.get(run_id, frozenset()) & lost:
                lost.add(run_id)
        return lost - set(run_ids)

    def progress_bar(self, shown: bool) -> tqdm:
        """Return a bar over the training images of all stages, repeated ones counted again."""
        total = sum(_epochs(*planned) * self.images.get(run_id, 1) for run_id, planned in self.stages.items())
        mininterval = 0.2 if sys.stderr.isatty() else 10.0
        return tqdm(total=total, disable=not shown, unit="image", unit_scale=True, mininterval=mininterval)

    def show(self, bar: tqdm, store: RunStore) -> None:
        """Bring the bar to what the store holds; of the runs, it shows the one that has last completed an epoch."""
        finished = sum(store.is_finished(run_id) for run_id in self.stages)
        done = {run_id: store.progress(run_id) for run_id in self.stages}
        bar.set_description(f"{finished} of {len(self.stages)} runs", refresh=False)
        latest = store.latest(self.stages)
        if latest:
            text = progress_text(done[latest], _epochs(*self.stages[latest]), store.last_row(latest))
            bar.set_postfix_str(f"{latest}: {text}", refresh=False)
        bar.update(sum(done[run_id] * self.images.get(run_id, 1) for run_id in self.stages) - bar.n)


def _epochs(stage: str, recipe: Recipe) -> int:
    return getattr(recipe, stage).epochs


def usable_device(name: str) -> str:
    """Return the device of a name, "auto" being the GPU where there is one. Raises ValueError for one of no use."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        return name  # not tried: of several processes, each would take memory of the first GPU
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return name
