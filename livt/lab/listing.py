"""The runs of a store as rows: chosen, sorted, and shown by columns."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from livt.config import Recipe
from livt.lab.experiments import everything
from livt.lab.failures import RunError
from livt.lab.files import flat, key_of, read_json
from livt.lab.runs import RunStore
from livt.lab.stages import STAGES

Row = dict[str, Any]
_CONDITION = re.compile(r"([\w.]+)\s*(!=|=|<|>)\s*(.+)", re.DOTALL)


def row_of(store: RunStore, run_id: str) -> Row:
    """Return what is known of a run: id, stage, state, epochs, config, and, of a finished one, result and environment.

    state: finished, unfinished or damaged; then ``problem`` says what is wrong.
    """
    row: Row = {"id": run_id, "stage": run_id.partition("-")[0], "epochs": store.progress(run_id), "config": {}}
    try:
        if store.is_finished(run_id):
            record = store.load(run_id)
            about = {"config": record.config, "result": record.result, "environment": record.environment}
            return row | {"state": "finished"} | about
        config = read_json(store.root / run_id / "config.json", "delete the folder")
        return row | {"state": "unfinished", "config": config if isinstance(config, dict) else {}}
    except RunError as error:
        state = "damaged" if store.is_finished(run_id) else "unfinished"  # a kill may have come before the first file
        return row | {"state": state, "problem": str(error)}


def columns_of(row: Row) -> dict[str, Any]:
    """Return all that a row can be chosen, sorted and shown by: settings, results and environment by their own names.

    Where two have one name, a setting comes before a result, and that before the environment.
    """
    parts = [row.get(part, {}) for part in ("environment", "result", "config")]
    found = {name: value for part in parts for name, value in flat(part) if not isinstance(value, list)}
    return found | {name: value for name, value in row.items() if not isinstance(value, Mapping)}


def of_suite(rows: Sequence[Row], suite: str) -> list[Row]:
    """Return the rows of the runs of a suite's experiments, of any seed."""
    recipes: list[Recipe] = everything(suite)
    wanted = {_seedless(r.stage(stage)) for r in recipes for stage in STAGES if getattr(r, stage) is not None}
    return [row for row in rows if _seedless(row["config"]) in wanted]


def _seedless(config: Mapping[str, Any]) -> str:
    return key_of({**config, "seed": 0})


def chosen(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """Return the rows of which every condition holds, such as ``finetune.loss=bce`` or ``accuracy>50``.

    Raises ValueError for what is no condition, and for a column that no row has.
    """
    for condition in conditions:
        match = _CONDITION.fullmatch(condition.strip())
        if not match:
            raise ValueError(f"--where {condition}: expected COLUMN=VALUE, or !=, < or > for =")
        name, sign, text = match.groups()
        _check_column("--where", name, rows)
        rows = [row for row in rows if _holds(columns_of(row).get(name), sign, text)]
    return list(rows)


def _holds(value: Any, sign: str, text: str) -> bool:
    try:
        wanted = json.loads(text)
    except ValueError:
        wanted = text
    if sign in "<>":
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (value, wanted))
        return numbers and (value < wanted if sign == "<" else value > wanted)
    same = value == wanted or (isinstance(value, str) and value == text)
    return same == (sign == "=")


def in_order(rows: Sequence[Row], name: str, descending: bool) -> list[Row]:
    """Return rows sorted by a column, those that lack it last. Raises ValueError for a column that no row has."""
    _check_column("--sort", name, rows)
    having = [row for row in rows if columns_of(row).get(name) is not None]

    def key(row: Row) -> tuple[bool, Any]:
        value = columns_of(row)[name]
        return (False, value) if isinstance(value, int | float) else (True, str(value))

    lacking = [row for row in rows if columns_of(row).get(name) is None]
    return sorted(having, key=key, reverse=descending) + lacking


def with_columns(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return rows of these columns alone, null where one lacks it. Raises ValueError for a column that no row has."""
    for name in names:
        _check_column("--columns", name, rows)
    return [{name: columns_of(row).get(name) for name in names} for row in rows]


def _check_column(option: str, name: str, rows: Collection[Row]) -> None:
    known = {column for row in rows for column in columns_of(row)}
    if rows and name not in known:
        raise ValueError(f"{option} {name}: no run has this column; known are {', '.join(sorted(known))}")
