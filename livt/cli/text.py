"""How commands show runs and scores."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

SCORES = ("accuracy", "many", "medium", "few", "ece", "mce")


def outcome(result: Mapping[str, Any]) -> str:
    """Return the result of a run in a few words."""
    return scores(result) if "accuracy" in result else f"training loss {result['train_loss']:.4f}"


def scores(result: Mapping[str, Any]) -> str:
    """Return the scores of a classifier in a line."""
    return ", ".join(f"{name} {score(result[name])}" for name in SCORES if name in result)


def score(value: float | None) -> str:
    """Return a percentage; of an empty group it is null as stored, nan as found."""
    return "-" if value is None or value != value else f"{value:.1f}"


def cell(value: Any, form: str = "{}") -> str:
    """Return a value as a column shows it; ``form`` is for numbers that are not whole."""
    if isinstance(value, list):
        return f"{len(value)} values"
    return form.format(value) if isinstance(value, float) else "null" if value is None else str(value)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines; a row of one cell is a heading, and has no say in the widths."""
    columns = max(map(len, rows), default=0)
    widths = [max((len(row[column]) for row in rows if len(row) > 1), default=0) for column in range(columns)]
    return ["  ".join(t.ljust(width) for t, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def as_csv(row: Mapping[str, Any]) -> str:
    """Return one row as CSV with its header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow({key: "" if value is None or value != value else value for key, value in row.items()})
    return file.getvalue()
