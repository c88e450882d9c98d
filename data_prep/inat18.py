"""iNaturalist 2018: 437,513 training images of 8,142 species, 1,000 to 2 each; 3 each to evaluate.

    python data_prep/inat18.py SOURCE TARGET    # TARGET/inat18/{train,val}/CATEGORY/FILE

SOURCE holds the unpacked ``train_val2018/SUPERCATEGORY/CATEGORY/*.jpg`` and ``train2018.json`` and ``val2018.json``;
instead of the latter, ``iNaturalist18_train.txt`` and ``iNaturalist18_val.txt`` (``path label`` lists) do. Both may lie
in another folder, passed as ``--lists``.

A label is the category id. The category folders are plain numbers, which a reader of sorted folders puts in the order
0, 1, 10, 100, 1000, ...; the official LiVT code trained with labels in that order. In the target a category folder has
four digits, so that its place among the sorted folders is its id. A list whose labels count the other way is refused.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from prepare import prepare, run, tree_parser
from sources import ImageList, is_safe, list_plan, read_list
from storage import PrepareError

from livt.companion.published import published

OBTAIN = (
    "images and annotations are at https://github.com/visipedia/inat_comp/tree/master/2018 (train_val2018.tar.gz, "
    "train2018.json.tar.gz, val2018.json.tar.gz); unpack them into SOURCE"
)
JSON = {"train": "train2018.json", "val": "val2018.json"}
LISTS = {
    "train": ("iNaturalist18_train.txt", "git:4accdb7584d2f0a5106c40a33ed6afa392189bcc"),
    "val": ("iNaturalist18_val.txt", "efaeff65f80641b60864470e6f255aa69453406ef5717eec8c6681748f3a61f3"),
}


def work(options: argparse.Namespace) -> str:
    table = published("class_counts/inat18")
    folder = options.lists or options.source
    lists = {}
    for split, (name, known) in LISTS.items():
        if (folder / JSON[split]).is_file() or not any(folder.glob(f"{name}*")):
            lists[split] = read_annotations(folder / JSON[split])
        else:
            lists[split] = read_list(folder, name, len(table), known, OBTAIN)
        check_categories(lists[split], folder, len(table))
    counts = {"train": table["n_train"].tolist(), "val": table["n_test"].tolist()}
    folders = [f"{category:04d}" for category in table["class_index"]]
    return prepare(list_plan(options, "inat18", lists, folders, counts), options)


def read_annotations(path: Path) -> ImageList:
    """Read the official JSON: ``images`` with their file names, ``annotations`` with their category ids."""
    try:
        content = path.read_bytes()
        values = json.loads(content)
        names = {image["id"]: image["file_name"] for image in values["images"]}
        records = [(names[a["image_id"]], a["category_id"]) for a in values["annotations"]]
        if not all(type(name) is str and type(category) is int for name, category in records):
            raise TypeError("a file_name is no string, or a category_id no number")
    except FileNotFoundError:
        raise PrepareError(f"{path} is missing; {OBTAIN}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise PrepareError(f"{path} is not JSON with images and annotations ({reason}); {OBTAIN}") from None
    return ImageList(name=path.name, records=records, sha256=hashlib.sha256(content).hexdigest(), official=None)


def check_categories(images: ImageList, folder: Path, num_classes: int) -> None:
    """Raise PrepareError where a path is unsafe, or a label is not the number of the image's category folder."""
    in_string_order = sorted(range(num_classes), key=str)
    for path, label in images.records:
        if not is_safe(path):
            raise PrepareError(f"{folder / images.name}: the path {path!r} leaves its folder; {OBTAIN}")
        category = PurePosixPath(path).parent.name
        if category == str(label) and 0 <= label < num_classes:
            continue
        reason = f"{folder / images.name}: {path} has label {label}, not its category {category}"
        if 0 <= label < num_classes and category == str(in_string_order[label]):
            reason += ": the labels count the folders in string order (0, 1, 10, 100, ...)"
        raise PrepareError(f"{reason}; {OBTAIN}")


def main(arguments: Sequence[str] | None = None) -> int:
    made = tree_parser("inat18.py", "Make TARGET/inat18 from the official images and annotations.", OBTAIN)
    return run(work, made, arguments)


if __name__ == "__main__":
    sys.exit(main())
