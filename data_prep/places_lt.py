"""Places-LT: 62,500 training images of Places365-Standard in 365 classes, 4,980 to 5 each; 100 each to evaluate.

    python data_prep/places_lt.py SOURCE TARGET --lists DIR    # TARGET/places_lt/{train,val}/CLASS/FILE

SOURCE is the unpacked Places365-Standard in class folders, ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``. The lists are
``Places_LT_train.txt`` and ``Places_LT_test.txt``; the images of the latter, Places365's own validation images, become
``val``. A class folder is named ``LABEL_NAME``: the plain names do not sort in the order of the labels ("desert_road"
comes before "desert-sand" in the lists, and after it in a sorted folder).
"""

import argparse
import sys
from collections.abc import Sequence

from prepare import prepare, run, tree_parser
from sources import list_plan, read_list

from livt.companion.published import published

OBTAIN = (
    "Places365-Standard is at http://places2.csail.mit.edu/download.html, the lists are in data/Places_LT of "
    "https://github.com/facebookresearch/classifier-balancing; pass their folder as --lists"
)
LISTS = {
    "train": ("Places_LT_train.txt", "726c4871dcbf07ce2f857703bfe32e9a83ffbf52d704239f6d95c4f4f4c247f7"),
    "val": ("Places_LT_test.txt", "44eee8441c8098c59195465abede425721bc35525d75209f9433b161a6eb37bc"),
}


def work(options: argparse.Namespace) -> str:
    table = published("class_counts/places_lt")
    folders = [f"{label:03d}_{name}" for label, name in enumerate(table["class_name"])]
    lists = {
        split: read_list(options.lists or options.source, name, len(folders), known, OBTAIN)
        for split, (name, known) in LISTS.items()
    }
    counts = {"train": table["n_train"].tolist(), "val": table["n_test"].tolist()}
    return prepare(list_plan(options, "places_lt", lists, folders, counts), options)


def main(arguments: Sequence[str] | None = None) -> int:
    made = tree_parser("places_lt.py", "Make TARGET/places_lt from Places365-Standard and the official lists.", OBTAIN)
    return run(work, made, arguments)


if __name__ == "__main__":
    sys.exit(main())
