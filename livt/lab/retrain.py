"""Training a finished run again, to see whether it gives the same to the bit.

That is what tells a change of the training code, of PyTorch or of the machine that leaves results alone from one that
does not, and a record that was made as it says from one that was only given fitting checksums.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from livt.config import Recipe
from livt.lab import stages
from livt.lab.check import recipe_of
from livt.lab.environment import git_state
from livt.lab.failures import RunError
from livt.lab.files import dump_json, flat, sha256, write_atomically
from livt.lab.promoted import promoted_folder, read_promoted, write_record
from livt.lab.runs import Record, RunStore


def known_run(name: str, store: RunStore) -> str:
    """Return the id of the one finished run, of the store or promoted, whose name or digest begins with ``name``."""
    ids = {*filter(store.is_finished, store.ids()), *read_promoted(promoted_folder())}
    matches = sorted(i for i in ids if i.startswith(name) or i.split("-", 1)[1].startswith(name))
    if len(matches) != 1:
        found = f"fits {', '.join(matches)}" if matches else "fits none"
        raise RunError(f"no single finished run {name!r} in {store.root} or {promoted_folder()}: it {found}")
    return matches[0]


def retrain(run_ids: Sequence[str], store: RunStore, *, device: str = "cpu") -> Iterator[tuple[str, bool, str]]:
    """Train runs of the store, or promoted ones, again with what they start from, which is trained once for all.

    Yields for each its id, whether metrics, result and weights are equal to the bit, and in words what was found. The
    proof, which says what code trained it again, when and where, is kept: in the run's ``proofs.json``, and in the
    promoted record. Raises RunError, before anything trains, where the images of one have changed since.
    """
    promoted = read_promoted(promoted_folder())
    records = [store.load(i) if store.is_finished(i) else promoted[i] for i in run_ids]
    recipes = [recipe_of(record.stage, record.config) for record in records]
    for record, recipe in zip(records, recipes, strict=True):
        if stages.run_id(record.stage, recipe, store) != record.id:
            raise RunError(f"{record.id} cannot be trained again: its images, or what its settings mean, have changed")
    with tempfile.TemporaryDirectory(prefix="livt-retrain-") as folder:
        other = RunStore(folder)
        for record, recipe in zip(records, recipes, strict=True):
            again = _trained(record.stage, recipe, other, device)
            differs = _differences(record, again, store, other)
            proof = {
                "code": again.code,
                **git_state(),
                "device": again.environment["device"],
                "torch": again.environment["packages"]["torch"],
                "equal": not differs,
                "date": datetime.now(UTC).date().isoformat(),
            }
            _keep(record, proof, store, promoted)
            yield record.id, not differs, _said(record, again, differs)


def _differences(record: Record, again: Record, store: RunStore, other: RunStore) -> list[str]:
    """Return which parts of a run are not equal to the bit; its weights count where the store has them."""
    pairs: dict[str, tuple[Any, ...]] = {
        name: (getattr(record, name), getattr(again, name)) for name in ("metrics", "result")
    }
    if store.is_finished(record.id):
        pairs["weights"] = tuple(sha256(place.weights(record.id).read_bytes()) for place in (store, other))
    return [name for name, (before, after) in pairs.items() if dump_json(before) != dump_json(after)]


def _trained(stage: str, recipe: Recipe, store: RunStore, device: str) -> Record:
    for need in recipe.needs(stage):
        _trained(need, recipe, store, device)
    return stages.train(stage, recipe, store, device=device)


def _keep(record: Record, proof: Mapping[str, Any], store: RunStore, promoted: Mapping[str, Record]) -> None:
    if store.is_finished(record.id):
        write_atomically(store.root / record.id / "proofs.json", dump_json([*record.proofs, proof]))
    kept = promoted.get(record.id)
    if kept is not None and kept.result == record.result:
        write_record(replace(kept, proofs=(*kept.proofs, dict(proof))), promoted_folder())


def _said(record: Record, again: Record, differs: Sequence[str]) -> str:
    if not differs:
        return "trained again, equal to the bit"
    before, after = (dict(flat(r.result)) for r in (record, again))
    score = "accuracy" if "accuracy" in before else "train_loss"
    about = {
        "device": [r.environment["device"] for r in (record, again)],
        "torch": [r.environment["packages"]["torch"] for r in (record, again)],
        "training code": [r.code for r in (record, again)],
    }
    made = "; ".join(f"{name} {old}, now {new}" for name, (old, new) in about.items() if old != new)
    return (
        f"trained again, and {', '.join(differs)} differ: {score} {before[score]:.4f}, now {after[score]:.4f}; "
        f"made with {made or 'the same device, PyTorch and training code'}"
    )
