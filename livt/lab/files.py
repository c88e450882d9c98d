"""Files that appear whole or not at all, and JSON with a fixed order."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from livt.lab.failures import RunError

MAX_DEPTH = 32  # of JSON that is read; a record has five


def write_atomically(path: Path, *content: bytes) -> None:
    """Write a file so that a reader, or a kill at any instant, sees the old content or the new, never a part.

    Raises OSError with the file's own name where the disk is full or cannot be written, RunError where a folder is in
    its place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for part in content:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if path.is_dir():
            raise RunError(f"{path} is a folder, and a file belongs there: move it away") from None
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):  # where nothing can be written, nothing was left
            temporary.unlink(missing_ok=True)


def dump_json(value: Any) -> bytes:
    """Return readable JSON with a fixed key order; ``nan`` (an empty group) becomes null."""
    return (json.dumps(nan_to_none(value), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def key_of(values: Mapping[str, Any]) -> str:
    """Return text that is the same for JSON values that are the same."""
    return json.dumps(values, sort_keys=True)


def nan_to_none(value: Any) -> Any:
    """Return JSON values with null for every nan."""
    if isinstance(value, Mapping):
        return {k: nan_to_none(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def parse_json(content: bytes) -> Any:
    """Return the value of JSON that may come from anywhere.

    Raises ValueError for what is not JSON, is nested deeper than ``MAX_DEPTH``, or has a number that is not finite or
    takes more than 64 bits.
    """
    try:
        value = json.loads(content, parse_constant=_refuse, parse_float=_finite, parse_int=_short)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        level, depth = [part for values in inner for part in values], depth + 1
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:40])


def _short(text: str) -> int:
    return int(text) if len(text) < 20 and abs(int(text)) < 2**63 else _refuse(text[:40])


def read_bytes(path: Path, remedy: str) -> bytes:
    """Return a file's content. Raises RunError naming the file and the remedy where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}): {remedy}") from None


def read_json(path: Path, remedy: str) -> Any:
    """Return a file's JSON. Raises RunError naming the file and the remedy where it cannot be read."""
    return json_of(read_bytes(path, remedy), path, remedy)


def json_of(content: bytes, path: Path, remedy: str) -> Any:
    """Return the JSON of a file's content. Raises RunError naming the file and the remedy where it is none."""
    try:
        return parse_json(content)
    except ValueError as error:
        raise RunError(f"{path} is not readable JSON ({error}): {remedy}") from None


def flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested values as (dotted path, value).

    >>> dict(flat({"a": 1, "b": {"c": 2}}))
    {'a': 1, 'b.c': 2}
    """
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value
