"""CIFAR-10 and CIFAR-100 from the official archives, as lossless PNG in Parquet.

    python data_prep/cifar.py SOURCE TARGET                 # TARGET/cifar10/{train,test}.parquet
    python data_prep/cifar.py SOURCE TARGET --classes 100   # TARGET/cifar100, the fine labels

Rows are in the official order, and the number that begins an image's name is its official index: selections by index
can be replayed. The archives hold pickles, which can run any code when read; here only arrays, numbers, strings, lists
and dictionaries are accepted.
"""

import argparse
import io
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prepare import Contents, Plan, parser, prepare, run
from sources import Archive, check_counts, fetched, members
from storage import Entry, PrepareError

ARCHIVES = {
    10: Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        size=170_498_071,
        md5="c58f30108f718f92721af3b95e74349a",
        unpacked=250_000_000,
    ),
    100: Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        size=169_001_437,
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        unpacked=250_000_000,
    ),
}
BATCHES = {
    10: {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    100: {"train": ["train"], "test": ["test"]},
}
LABELS = {10: b"labels", 100: b"fine_labels"}
NAMES = {10: ("batches.meta", b"label_names"), 100: ("meta", b"fine_label_names")}
IMAGES = {"train": 50_000, "test": 10_000}

# What NumPy's own pickles call; found by asking it, since the name differs between its versions.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def unpickle(name: str, content: bytes) -> dict[bytes, Any]:
    """Read a pickle of arrays and plain values; raise PrepareError where it holds anything else."""
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(value, dict):
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}, not a dict")
        return value
    except Exception as error:  # a damaged pickle can raise anything
        raise PrepareError(f"{name} is refused as a pickle ({error}): it is not the official archive") from None


def read(path: Path, classes: int, unpacked: int) -> Contents:
    """Return the images of an archive in the official order."""
    batches, (meta, names_key) = BATCHES[classes], NAMES[classes]
    wanted = {meta, *batches["train"], *batches["test"]}
    found = {
        Path(name).name: unpickle(f"{path}: {name}", content)
        for name, content in members(path, unpacked, lambda name: Path(name).name in wanted)
    }
    if missing := sorted(wanted - found.keys()):
        raise PrepareError(f"{path} lacks {missing[0]}: delete it and run the same command again")
    names = [name.decode() for name in found[meta][names_key]]
    entries: list[Entry] = []
    for split, files in batches.items():
        labels: list[int] = []
        for file in files:
            pixels, batch_labels, file_names = (
                found[file].get(k, ()) for k in (b"data", LABELS[classes], b"filenames")
            )
            if not (isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 2):
                raise PrepareError(f"{path}: {file} holds no uint8 images: it is not the official archive")
            if not len(pixels) == len(batch_labels) == len(file_names) or pixels.shape[1] != 3 * 32 * 32:
                raise PrepareError(f"{path}: {file} has images and labels that do not match: it is not official")
            for image, label, file_name in zip(pixels.reshape(-1, 3, 32, 32), batch_labels, file_names, strict=True):
                stem = Path(file_name.decode()).stem
                entry_path = f"{split}/{len(labels):05d}_{stem}.png"
                entries.append(Entry(path=entry_path, label=label, source=_png(image.transpose(1, 2, 0))))
                labels.append(label)
        check_counts(f"{path} ({split})", labels, [IMAGES[split] // classes] * classes, names)
    return Contents(entries=entries, classes=names)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def work(options: argparse.Namespace) -> str:
    archive = ARCHIVES[options.classes]
    plan = Plan(
        name=f"cifar{options.classes}",
        form="parquet",
        request={"archive_md5": archive.md5},
        load=lambda: read(fetched(archive, options.source, options.url), options.classes, archive.unpacked),
    )
    return prepare(plan, options)


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("cifar.py", "Make TARGET/cifar10 or TARGET/cifar100 from the official archive.")
    made.add_argument("--classes", type=int, choices=(10, 100), default=10, help="which of the two (default: 10)")
    made.add_argument("--url", help="fetch the archive from here instead; its checksum must be the official one")
    return run(work, made, arguments)


if __name__ == "__main__":
    sys.exit(main())
