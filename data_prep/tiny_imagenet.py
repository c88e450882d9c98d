"""Tiny-ImageNet from the official archive: 200 classes, 500 training and 50 validation images each, 64 x 64.

    python data_prep/tiny_imagenet.py SOURCE TARGET    # TARGET/tiny_imagenet/{train,val}.parquet and classes.csv

Labels are the places of the class names (WordNet ids) in sorted order. The labels of the archive's test images were
never published; the validation images serve as the test split. ``classes.csv`` gives each class the number of training
images that ImageNet-LT gives it, by its WordNet id: ``livt`` takes as many for the ImageNet-LT profile. The images'
bytes are the archive's.

Three validation images are in the training split as well; the script names them, and ``--drop-overlap`` leaves them
out of training.
"""

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from prepare import Contents, Plan, parser, prepare, run
from sources import Archive, check_counts, fetched, members
from storage import Entry, PrepareError

from livt.companion.published import published

ARCHIVE = Archive(
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    size=248_100_043,
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    unpacked=1_000_000_000,
)
CLASSES = 200
IMAGES = {"train": 500, "val": 50}  # per class
ROOT = "tiny-imagenet-200/"
WNIDS, WORDS, ANNOTATIONS = "wnids.txt", "words.txt", "val/val_annotations.txt"


def read(path: Path, unpacked: int) -> Contents:
    """Return the images of the archive, training images in the order of their class and number."""
    texts: dict[str, str] = {}
    images: dict[str, bytes] = {}
    for name, content in members(path, unpacked, lambda name: not name.startswith(f"{ROOT}test/")):
        inner = name.removeprefix(ROOT)
        if inner in (WNIDS, WORDS, ANNOTATIONS):
            texts[inner] = content.decode()
        elif inner.endswith(".JPEG"):
            images[inner] = content
    if missing := [name for name in (WNIDS, WORDS, ANNOTATIONS) if name not in texts]:
        raise PrepareError(f"{path} lacks {ROOT}{missing[0]}: delete it and run the same command again")
    wnids = sorted(texts[WNIDS].split())
    if len(set(wnids)) != CLASSES:
        raise PrepareError(f"{path}: {WNIDS} names {len(set(wnids))} classes, not {CLASSES}: it is not official")
    of_validation = dict(line.split("\t")[:2] for line in texts[ANNOTATIONS].splitlines())
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    entries = []
    for name, content in images.items():
        split, file = name.partition("/")[0], Path(name).name
        wnid = name.split("/")[1] if split == "train" else of_validation.get(file)
        if wnid not in label_of:
            raise PrepareError(f"{path}: {name} has no class of {WNIDS}: it is not the official archive")
        entries.append(Entry(path=f"{split}/{file}", label=label_of[wnid], source=content))
    entries.sort(key=lambda entry: (entry.label, len(entry.path), entry.path))  # _2 before _10
    for split, count in IMAGES.items():
        labels = [entry.label for entry in entries if entry.split == split]
        check_counts(f"{path} ({split})", labels, [count] * CLASSES, wnids)
    words = dict(line.split("\t", 1) for line in texts[WORDS].splitlines())
    return Contents(entries=entries, classes=wnids, extras={"classes.csv": classes_csv(wnids, words)})


def classes_csv(wnids: Sequence[str], words: Mapping[str, str]) -> bytes:
    """Return label, WordNet id, name, and ImageNet-LT's class index and training images of each class."""
    imagenet_lt = published("class_counts/imagenet_lt").set_index("wnid")
    if unknown := [wnid for wnid in wnids if wnid not in imagenet_lt.index]:
        raise PrepareError(f"class {unknown[0]} is not one of ImageNet-LT's: the archive is not the official one")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("label", "wnid", "name", "imagenet_lt_class_index", "imagenet_lt_n_train"))
    for label, wnid in enumerate(wnids):
        row = imagenet_lt.loc[wnid]
        writer.writerow((label, wnid, words.get(wnid, wnid), row["class_index"], row["n_train"]))
    return text.getvalue().encode()


def work(options: argparse.Namespace) -> str:
    plan = Plan(
        name="tiny_imagenet",
        form="parquet",
        request={"archive_md5": ARCHIVE.md5},
        load=lambda: read(fetched(ARCHIVE, options.source, options.url), ARCHIVE.unpacked),
    )
    return prepare(plan, options)


def main(arguments: Sequence[str] | None = None) -> int:
    made = parser("tiny_imagenet.py", "Make TARGET/tiny_imagenet from the official archive.")
    made.add_argument("--url", help="fetch the archive from here instead; its checksum must be the official one")
    return run(work, made, arguments)


if __name__ == "__main__":
    sys.exit(main())
