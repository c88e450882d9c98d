"""CIFAR-10 and CIFAR-100 from the official archives, as lossless PNG in Parquet.

    python data_prep/cifar.py SOURCE TARGET                 # TARGET/cifar10/{train,test}.parquet
    python data_prep/cifar.py SOURCE TARGET --classes 100   # TARGET/cifar100, the fine labels

Rows are in the official order, and an image's name is its official index: selections by index can be replayed. The
archives hold pickles, which can run any code when read: torchvision, which reads them, first compares each with its
official MD5.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from prepare import Contents, Plan, parser, prepare, run
from sources import Archive, check_counts, fetched, members
from storage import Entry, PrepareError
from torchvision.datasets import CIFAR10, CIFAR100

DATASETS = {10: CIFAR10, 100: CIFAR100}
SIZES = {10: 170_498_071, 100: 169_001_437}
ARCHIVES = {
    classes: Archive(url=made.url, size=SIZES[classes], md5=made.tgz_md5, unpacked=250_000_000)
    for classes, made in DATASETS.items()
}
IMAGES = {"train": 50_000, "test": 10_000}


def read(path: Path, classes: int, unpacked: int) -> Contents:
    """Return the images of an archive in the official order."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in members(path, unpacked, lambda name: True):
            member = Path(folder, name)
            member.parent.mkdir(parents=True, exist_ok=True)
            member.write_bytes(content)
        try:
            splits = {split: DATASETS[classes](folder, train=split == "train") for split in IMAGES}
        except RuntimeError:  # torchvision's advice would not help here
            reason = "a batch, or the names of the classes, is missing or does not have its official MD5"
            raise PrepareError(f"{path}: {reason}: delete it and run the same command again") from None
    entries: list[Entry] = []
    for split, made in splits.items():
        check_counts(f"{path} ({split})", made.targets, [IMAGES[split] // classes] * classes, made.classes)
        for index, (pixels, label) in enumerate(zip(made.data, made.targets, strict=True)):
            entries.append(Entry(path=f"{split}/{index:05d}.png", label=label, source=_png(pixels)))
    return Contents(entries=entries, classes=splits["train"].classes)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def work(options: argparse.Namespace) -> str:
    archive = ARCHIVES[options.classes]
    plan = Plan(
        name=f"cifar{options.classes}",
        form="parquet",
        request={"archive_md5": archive.md5, "names": "index"},
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
