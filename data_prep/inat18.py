"""iNaturalist 2018: 437,513 training images of 8,142 species, 1,000 to 2 each; 3 each to evaluate.

    python data_prep/inat18.py SOURCE TARGET    # TARGET/inat18/{train,val}/CATEGORY/FILE

SOURCE holds the unpacked ``train_val2018/SUPERCATEGORY/CATEGORY/*.jpg`` and ``train2018.json`` and ``val2018.json``;
instead of the latter, ``iNaturalist18_train.txt`` and ``iNaturalist18_val.txt`` (``path label`` lists) do. Both may lie
in another folder, passed as ``--lists``.

With ``--metadata`` the place and date of each image are read too, from ``train2018_locations.json`` and
``val2018_locations.json`` beside the annotations, and written as ``TARGET/inat18.metadata.csv``.

A label is the category id. The category folders are plain numbers, which a reader of sorted folders puts in the order
0, 1, 10, 100, 1000, ...; the official LiVT code trained with labels in that order. In the target a category folder has
four digits, so that its place among the sorted folders is its id. A list whose labels count the other way is refused.
"""

import argparse
import datetime
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from prepare import prepare, run, tree_parser
from sources import ImageList, is_safe, list_plan, read_list
from storage import PrepareError

from livt.companion.published import published
from livt.lab.files import write_atomically

OBTAIN = (
    "images and annotations are at https://github.com/visipedia/inat_comp/tree/master/2018 (train_val2018.tar.gz, "
    "train2018.json.tar.gz, val2018.json.tar.gz); unpack them into SOURCE"
)
LOCATIONS = {"train": "train2018_locations.json", "val": "val2018_locations.json"}
OBTAIN_LOCATIONS = "it is in inat2018_locations.zip, at https://github.com/visipedia/inat_comp/tree/master/2018"
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
    metadata = None
    if options.metadata:  # read before anything is made
        metadata = pd.concat([read_metadata(folder, split, folders) for split in LISTS], ignore_index=True)
    made = prepare(list_plan(options, "inat18", lists, folders, counts), options)
    if metadata is None:
        return made
    path = options.target / "inat18.metadata.csv"
    write_atomically(path, metadata.to_csv(index=False).encode())
    return (
        f"{made}\n{path}: {metadata.place.sum():,} places and {metadata.day.sum():,} days of {len(metadata):,} images"
    )


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


def read_metadata(folder: Path, split: str, folders: Sequence[str]) -> pd.DataFrame:
    """Return a row per image of a split: ``path`` in the target; ``x``, ``y``, ``z``; ``sin``, ``cos``; what is known.

    ``folders`` are those of the categories in the target. The place is a unit vector, x towards longitude 0 and z
    towards the north; the day of the year is an angle, 0 at the start of January 1 and whole at its end. What
    is not known is zeros, and ``place`` or ``day`` is then False.

    The official file is a list of objects with ``id`` of the image, ``lat`` and ``lon`` in degrees, and ``date``, such
    as ``2017-05-01 14:34:12+00:00``; each may be null. An image that it lacks is one of which nothing is known.
    Raises PrepareError for a file that is missing or of another form, and for a place that is not on Earth.
    """
    images = _read_json(folder / JSON[split], OBTAIN)
    path = folder / LOCATIONS[split]
    found = _read_json(path, OBTAIN_LOCATIONS)
    try:
        known = {entry["id"]: entry for entry in found}
        category = {a["image_id"]: folders[a["category_id"]] for a in images["annotations"]}
        rows = []
        for image in images["images"]:
            entry = known.get(image["id"], {})
            target = f"{split}/{category[image['id']]}/{PurePosixPath(image['file_name']).name}"
            place, day = unit_vector(entry.get("lat"), entry.get("lon")), day_of_year(entry.get("date"))
            rows.append((target, *(place or (0.0,) * 3), *(day or (0.0,) * 2), place is not None, day is not None))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise PrepareError(f"{path} does not give places and dates of images ({reason}); {OBTAIN_LOCATIONS}") from None
    return pd.DataFrame(rows, columns=["path", "x", "y", "z", "sin", "cos", "place", "day"])


def unit_vector(latitude: float | None, longitude: float | None) -> tuple[float, float, float] | None:
    """Return a place given in degrees as a unit vector, None where it is not known. Raises ValueError off the Earth.

    >>> [round(v, 3) for v in unit_vector(0, 90)]
    [0.0, 1.0, 0.0]
    """
    if latitude is None or longitude is None:
        return None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ValueError(f"there is no place of latitude {latitude} and longitude {longitude}")
    phi, theta = math.radians(latitude), math.radians(longitude)
    return math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi)


def day_of_year(date: str | None) -> tuple[float, float] | None:
    """Return sine and cosine of a date's day of the year, None where it is not known. Raises ValueError for no date.

    >>> day_of_year("2017-01-01 23:59:59+00:00")
    (0.0, 1.0)
    """
    if not date:
        return None
    day = datetime.date.fromisoformat(date.strip()[:10])
    start = datetime.date(day.year, 1, 1)
    angle = 2 * math.pi * (day - start).days / (datetime.date(day.year + 1, 1, 1) - start).days
    return math.sin(angle), math.cos(angle)


def _read_json(path: Path, obtain: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PrepareError(f"{path} is missing; {obtain}") from None
    except (ValueError, RecursionError) as error:
        raise PrepareError(f"{path} is not JSON ({type(error).__name__}: {error}); {obtain}") from None


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
    made.add_argument(
        "--metadata", action="store_true", help="write TARGET/inat18.metadata.csv: place and day of images"
    )
    return run(work, made, arguments)


if __name__ == "__main__":
    sys.exit(main())
