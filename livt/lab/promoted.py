"""Promoted records: finished runs as small JSON files, which are committed and which the book shows."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import livt
from livt.lab.check import check_values
from livt.lab.failures import RunError
from livt.lab.files import dump_json, json_of, key_of, read_bytes, sha256, write_atomically
from livt.lab.runs import Record, RunStore

SEAL = re.compile(rb'^ "sha256": "[0-9a-f]{64}",\n', re.MULTILINE)


def promoted_folder() -> Path:
    """Return where promoted records lie: ``$LIVT_RESULTS``, else ``book/results`` of the checkout."""
    return Path(os.environ.get("LIVT_RESULTS") or Path(livt.__file__).parents[1] / "book" / "results")


def check_record(values: Mapping[str, Any], source: str) -> Record:
    """Return a record read from JSON, or raise RunError naming ``source`` and what contradicts its configuration.

    Checked: types, ranges and lengths (:func:`livt.lab.check.check_values`), the digest of configuration and data, the
    number of epochs, the peak learning rate, and that the result is that of the last epoch.
    """
    try:
        check_values(values)
    except ValueError as error:
        raise RunError(f"{source} is not a run record: {error}") from None
    record = Record(**{**values, "proofs": tuple(values.get("proofs", ()))})
    score = "accuracy" if "accuracy" in record.result else "train_loss"
    stage = record.config[record.stage]
    if len(record.metrics) != stage["epochs"]:
        raise RunError(f"{source}: it has {len(record.metrics)} epochs, but its configuration says {stage['epochs']}")
    learned = record.metrics[-1]["train_loss"] is not None  # null: a second stage that only looks
    found = {
        "digest": RunStore.id(record.config, record.environment["data_digest"]),
        "peak learning rate": max(row["lr"] for row in record.metrics),
        f"last {score}": record.metrics[-1][score],
    }
    expected = {
        "digest": record.id,
        "peak learning rate": stage["base_lr"] * stage["batch_size"] / 256 if learned else 0.0,
        f"last {score}": record.result[score],
    }
    for name, value in expected.items():
        same = math.isclose(found[name], value, rel_tol=1e-6) if isinstance(value, float) else found[name] == value
        if not same:
            raise RunError(f"{source}: the {name} is {found[name]}, but its configuration or result says {value}")
    return record


def promote(store: RunStore, run_id: str, folder: Path) -> Path:
    """Write a finished run as a small JSON record into ``folder``; refuse one that contradicts its configuration."""
    record = check_record(store.load(run_id).to_dict(), str(store.root / run_id))
    folder.mkdir(parents=True, exist_ok=True)
    return write_record(record, folder)


def write_record(record: Record, folder: Path) -> Path:
    """Write a record into the folder of promoted ones."""
    path = folder / f"{record.id}.json"
    for leftover in folder.glob(f".{path.name}.*.tmp"):  # a kill may have left one
        leftover.unlink(missing_ok=True)
    write_atomically(path, dump_json({**record.to_dict(), "sha256": sha256(dump_json(record.to_dict()))}))
    return path


class Promoted(Mapping[str, Record]):
    """Promoted records by run id. Each is checked when it is first looked up, which takes longer than to read it."""

    def __init__(self, read: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> None:
        self._read = read
        self._checked: dict[str, Record] = {}

    def __getitem__(self, run_id: str) -> Record:
        if run_id not in self._checked:
            path, values = self._read[run_id]
            self._checked[run_id] = check_record(values, str(path))
        return self._checked[run_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    @cached_property
    def by_key(self) -> Mapping[str, str]:
        """Run ids by the text of their configuration (``livt.lab.files.key_of``)."""
        return {key_of(values.get("config", {})): run_id for run_id, (_, values) in self._read.items()}


def promoted_records(folder: Path) -> Promoted:
    """Return the promoted records of a folder; RunError for a file that was changed after its promotion."""
    return _read(_state(folder))


def read_promoted(folder: Path) -> dict[str, Record]:
    """Return the promoted records of a folder by run id, each checked."""
    return dict(promoted_records(folder))


_State = tuple[tuple[Path, int, int], ...]


def _state(folder: Path) -> _State:
    """Return the records of a folder with what tells that one has changed."""
    files = ((path, path.stat()) for path in sorted(folder.glob("*.json")))
    return tuple((path, about.st_mtime_ns, about.st_size) for path, about in files)


@lru_cache(maxsize=4)
def _read(files: _State) -> Promoted:
    read = {}
    for path, *_ in files:
        content = read_bytes(path, "promote the run again")
        values = json_of(content, path, "promote the run again")
        seal = values.pop("sha256", None) if isinstance(values, dict) else None
        # What was sealed is the file without the seal's line; one that was formatted anew is written again to compare.
        sealed = sha256(SEAL.sub(b"", content, count=1)) == seal
        if not sealed:
            sealed = sha256(dump_json(check_record(values, str(path)).to_dict())) == seal
        if not sealed or path.stem != values.get("id"):
            raise RunError(f"{path} was changed after its promotion: promote the run again")
        read[path.stem] = path, values
    return Promoted(read)
