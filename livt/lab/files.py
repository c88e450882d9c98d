"""Files that appear whole or not at all, and JSON with a fixed order."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from livt.lab.failures import RunError


def write_atomically(path: Path, *content: bytes) -> None:
    """Write a file so that a reader, or a kill at any instant, sees the old content or the new, never a part.

    Raises OSError with the file's own name where the disk is full or cannot be written.
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
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):  # where nothing can be written, nothing was left
            temporary.unlink(missing_ok=True)


def dump_json(value: Any) -> bytes:
    """Return readable JSON with a fixed key order; ``nan`` (an empty group) becomes null."""
    return (json.dumps(nan_to_none(value), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def nan_to_none(value: Any) -> Any:
    """Return JSON values with null for every nan."""
    if isinstance(value, Mapping):
        return {k: nan_to_none(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_none(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_json(path: Path, remedy: str) -> Any:
    """Return a file's JSON. Raises RunError naming the file and the remedy where it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
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
