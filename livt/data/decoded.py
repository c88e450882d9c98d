"""Decoded images of a Parquet file, kept so that the next start need not decode them.

They lie beside the file, in ``.decoded``, or, where that cannot be written, in ``$XDG_CACHE_HOME/livt/decoded``
(``~/.cache`` without it). A name is the digest of all that decides the content: every byte of the file, which of its
images, their size, and the versions of what decodes them. An entry is written whole or not at all, checked against its
own digest when it is read, and deleted, the longest unused first, when all together exceed ``MAX_BYTES``. Where no
folder can be written, images are decoded each time.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import features
from torch import Tensor

MAX_BYTES = 2**31  # of one folder
_CODECS = tuple(str(features.version(name)) for name in ("jpg", "zlib", "webp"))


def kept(
    path: Path, indices: NDArray[np.int64], size: tuple[int, int], fit: bool, decode: Callable[[], Tensor]
) -> Tensor:
    """Return images of a file, uint8 [N, 3, H, W]: those that are kept, else what ``decode`` returns, to be kept.

    indices: [N], which of the file. size: H and W. fit: whether images of another size are brought to it.
    """
    shape = (len(indices), 3, *size)
    before = _digest(path)
    about = f"1 {before} {shape} {fit} {PIL.__version__} {_CODECS}"
    name = hashlib.sha256(about.encode() + indices.tobytes()).hexdigest()[:32]
    for folder in _folders(path):
        found = _read(folder / name, shape)
        if found is not None:
            return found
    images = decode()
    if images.nbytes <= MAX_BYTES and _digest(path) == before:  # else the file was replaced in between
        for folder in _folders(path):
            with suppress(OSError):
                _write(folder, name, images)
                break
    return images


def _folders(path: Path) -> Iterator[Path]:
    yield path.parent / ".decoded"
    yield Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "livt" / "decoded"


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    """Return the images of an entry; None where there is none, or it is not what was written."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError:
        return None
    seal, values = content[:32].tobytes(), content[32:]
    if values.size != np.prod(shape) or hashlib.sha256(values.data).digest() != seal:
        return None
    with suppress(OSError):
        os.utime(path)  # used now: the last to be deleted
    return torch.from_numpy(values).view(shape)


def _write(folder: Path, name: str, images: Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = images.numpy().data
    handle, temporary = tempfile.mkstemp(prefix=".", dir=folder)
    try:
        with open(handle, "wb") as file:
            file.write(hashlib.sha256(values).digest())
            file.write(values)
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / name)
    finally:
        with suppress(OSError):
            os.unlink(temporary)  # there is one if something failed
    with suppress(OSError):  # another process deletes too
        _delete_oldest(folder)


def _delete_oldest(folder: Path) -> None:
    entries = sorted(((entry.stat(), entry) for entry in folder.iterdir()), key=lambda pair: -pair[0].st_mtime_ns)
    total = 0
    for status, entry in entries:  # what a kill has left counts too
        total += status.st_size
        if total > MAX_BYTES:
            entry.unlink(missing_ok=True)
