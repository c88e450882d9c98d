"""From recipes to the records of their runs: the run store, else the promoted records, else missing.

Matched by what names a run, without its images: nothing is loaded or trained, so that the book also shows what the
machine that builds it cannot train.
"""

import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

from livt.config import Recipe
from livt.lab.failures import RunError
from livt.lab.files import key_of, read_json
from livt.lab.promoted import Promoted, promoted_folder, promoted_records
from livt.lab.runs import Record, RunStore
from livt.lab.stages import STAGES
from livt.losses import LOSSES


def find(recipes: Iterable[Recipe], store: RunStore | None, stage: str = "") -> dict[Recipe, Record]:
    """Return the record of each recipe that has one, in the order of the recipes; ``stage``: that one, else the last.

    ``store`` None finds promoted records alone. Raises RunError for a record that is damaged, and where a store has two
    of one recipe, of different images.
    """
    wanted = {recipe: key_of(recipe.stage(stage or recipe.last_stage)) for recipe in recipes}
    own = {} if store is None else _stored(store, set(wanted.values()))
    promoted = _promoted()
    found: dict[Recipe, Record] = {}
    for recipe, key in wanted.items():
        if store is not None and key in own:
            found[recipe] = store.load(own[key])
        elif key in promoted.by_key:
            found[recipe] = promoted[promoted.by_key[key]]
    return found


def data_sets(store: RunStore) -> set[str]:
    """Return the names of the data sets of all records, of the store and promoted."""
    finished = filter(store.is_finished, store.ids())
    own = [read_json(store.root / run_id / "config.json", "the run is damaged") for run_id in finished]
    return {config["data"]["name"] for config in (*own, *map(json.loads, _promoted().by_key))}


def starts(records: Iterable[Record], store: RunStore) -> list[Record]:
    """Return the records of the runs that these start from, at whatever remove and each once.

    Those that neither place has are left out.
    """
    promoted = _promoted()
    found: dict[str, Record] = {}
    waiting = list(records)
    for record in waiting:  # which grows: what a run starts from starts from others
        for stage in STAGES:
            source = record.result.get(f"{stage}_run")
            if source and source not in found:
                if store.is_finished(source):
                    found[source] = store.load(source)
                elif source in promoted:
                    found[source] = promoted[source]
                if source in found:
                    waiting.append(found[source])
    return list(found.values())


def _stored(store: RunStore, wanted: Collection[str]) -> dict[str, str]:
    """Return the ids of the store's finished runs by what names them, of those that are wanted."""
    found: dict[str, str] = {}
    for run_id in filter(store.is_finished, store.ids()):
        path = store.root / run_id / "config.json"
        key = key_of(read_json(path, f"the run is damaged; delete the folder {path.parent} to train it anew"))
        if key in wanted and key in found:
            raise RunError(
                f"{found[key]} and {run_id} in {store.root} are of one recipe and different images: keep one of them"
            )
        found[key] = run_id
    return found


def _promoted() -> Promoted:
    return promoted_records(promoted_folder())


# ---------------------------------------------------------------- one code in one table


def kind(record: Record) -> tuple[str, str]:
    """Return what a proof about one run is taken to say of others: they have the same stage, loss and method."""
    section = record.config.get(record.stage, {})
    return record.stage, section.get("loss", section.get("method", ""))


def mixed_code(shown: Sequence[Record], known: Iterable[Record]) -> str:
    """Say how records that stand in one table were made by different training code, or return "".

    Compared are those that the present code trains by the same modules: stages, and methods with a module of their own,
    differ anyway. Codes are taken as one where a run of the same stage and loss among ``known`` was trained by both and
    was equal to the bit.
    """
    same: dict[tuple[tuple[str, str], str], set[str]] = {}
    for record in (*known, *shown):
        group = {record.code, *(proof["code"] for proof in record.proofs if proof["equal"])}
        for code in list(group):
            group |= same.get((kind(record), code), set())
        for code in group:
            same[kind(record), code] = group
    alike: dict[tuple[str, ...], list[Record]] = {}
    for record in shown:
        alike.setdefault(_trained_by(record), []).append(record)
    by_code: dict[str, list[str]] = {}
    for records in alike.values():
        if not set.intersection(*(same[kind(record), record.code] for record in records)):
            for record in records:
                by_code.setdefault(record.code, []).append(record.id)
    if not by_code:
        return ""
    parts = "; ".join(f"{code}: {len(runs)} runs such as {runs[0]}" for code, runs in by_code.items())
    return (
        f"runs of different training code stand in one table ({parts}): train one of each loss again with "
        "`python -m livt runs verify --retrain RUN`, which shows whether the codes are equal, or train all anew"
    )


def _trained_by(record: Record) -> tuple[str, ...]:
    """Return the stage of a record with its method and with the module of each loss that it has, if they are known.

    A student without a teacher has no loss of one.
    """
    modules = []
    for section in record.config.values():
        loss = LOSSES.get(section.get("loss", "")) if isinstance(section, Mapping) else None
        create = None if loss is None else getattr(loss.create, "func", loss.create)
        modules.append(getattr(create, "__module__", ""))
    method = record.config.get(record.stage, {}).get("method", "")
    return record.stage, method, *sorted(filter(None, modules))


_told = False


def tell_of_other_code(recipes: Iterable[Recipe], store: RunStore) -> None:
    """Say on stderr, once in a process, which stored runs were made by training code that is not the present one."""
    global _told
    other = []
    for stage in STAGES:
        having = [recipe for recipe in recipes if getattr(recipe, stage) is not None]
        for recipe, record in find(having, store, stage).items():
            present = STAGES[stage].code(recipe)
            proven = {proof["code"] for proof in record.proofs if proof["equal"]}
            if store.is_finished(record.id) and record.code != present and present not in proven:
                other.append(record.id)
    if other and not _told:
        _told = True
        named = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        print(
            f"livt: note: in {store.root}, training code that has changed since made {named}: `python -m livt runs "
            "verify --retrain RUN` shows whether that changes a result; to train a run anew, delete its folder",
            file=sys.stderr,
        )
