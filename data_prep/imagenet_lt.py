"""ImageNet-LT: 115,846 training images of ImageNet in 1,000 classes, 1,280 to 5 each; 50 each to evaluate.

    python data_prep/imagenet_lt.py SOURCE TARGET --lists DIR               # TARGET/imagenet_lt/{train,val}/WNID/FILE
    python data_prep/imagenet_lt.py SOURCE TARGET --lists DIR --balanced    # TARGET/imagenet_bal: 160 per class

SOURCE is the unpacked ILSVRC 2012, ``train/WNID/*.JPEG`` and ``val/WNID/*.JPEG`` (or ``val/*.JPEG``). The lists are
``ImageNet_LT_train.txt`` and ``ImageNet_LT_test.txt``; the images of the latter, ImageNet's own validation images,
become ``val``.

The paper takes 160 images of each class for ImageNet-BAL and does not say which. Here they are those whose file names
have the smallest SHA-256: the same images on every machine, in no order that a class could share.
"""

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from prepare import Contents, Plan, prepare, run, tree_parser
from sources import ImageList, entries_of, list_plan, read_list
from storage import PrepareError

from livt.companion.published import published

OBTAIN = (
    "ImageNet is at https://image-net.org/download.php after registration, the lists are in data/ImageNet_LT of "
    "https://github.com/facebookresearch/classifier-balancing; pass their folder as --lists"
)
LISTS = {
    "train": ("ImageNet_LT_train.txt", "git:a063f095fcd475db4cf8b0658c4b73955535bbf9"),
    "val": ("ImageNet_LT_test.txt", "d1590191cf8a71fada7b1aaedaa2d139a2aea93ff2f1b755319d0bd8dbaa55d5"),
}
PER_CLASS = 160


def work(options: argparse.Namespace) -> str:
    table = published("class_counts/imagenet_lt")
    wnids = table["wnid"].tolist()
    lists = {}
    for split, (name, known) in LISTS.items():
        if split == "train" and options.balanced:
            continue
        images = read_list(options.lists or options.source, name, len(wnids), known, OBTAIN)
        for path, label in images.records:
            if PurePosixPath(path).parent.name != wnids[label]:
                raise PrepareError(f"{name}: {path} has label {label}, which is {wnids[label]}; {OBTAIN}")
        lists[split] = images
    lists["val"] = as_unpacked(lists["val"], options.source)
    counts = {"train": table["n_train"].tolist(), "val": table["n_test"].tolist()}
    plan = list_plan(options, "imagenet_lt", lists, wnids, counts)
    return prepare(balanced(plan, options.source, wnids) if options.balanced else plan, options)


def as_unpacked(images: ImageList, source: Path) -> ImageList:
    """Return the list with the paths of a validation folder without class folders, where it is one."""
    flat = [(f"val/{PurePosixPath(path).name}", label) for path, label in images.records]
    return dataclasses.replace(images, records=flat) if (source / flat[0][0]).exists() else images


def balanced(plan: Plan, source: Path, wnids: Sequence[str]) -> Plan:
    """Return the plan with ``PER_CLASS`` drawn training images of each class."""

    def load() -> Contents:
        evaluation = plan.load()
        train = ImageList(name=str(source / "train"), records=draw(source, wnids), sha256="", official=None)
        entries = entries_of("train", train, source, wnids) + evaluation.entries
        return dataclasses.replace(evaluation, entries=entries)

    request = {**plan.request, "images_per_class": PER_CLASS}
    return dataclasses.replace(plan, name="imagenet_bal", request=request, load=load)


def draw(source: Path, wnids: Sequence[str]) -> list[tuple[str, int]]:
    """Return path and label of the images whose names have the smallest SHA-256 in their class."""
    records = []
    for label, wnid in enumerate(wnids):
        folder = source / "train" / wnid
        names = sorted(path.name for path in folder.glob("*.JPEG"))
        if len(names) < PER_CLASS:
            raise PrepareError(f"{folder} has {len(names)} images (*.JPEG), but {PER_CLASS} are drawn; {OBTAIN}")
        names.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        records += [(f"train/{wnid}/{name}", label) for name in sorted(names[:PER_CLASS])]
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    made = tree_parser("imagenet_lt.py", "Make TARGET/imagenet_lt from ImageNet and the official lists.", OBTAIN)
    made.add_argument("--balanced", action="store_true", help="make TARGET/imagenet_bal instead: 160 images per class")
    return run(work, made, arguments)


if __name__ == "__main__":
    sys.exit(main())
