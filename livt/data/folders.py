"""Reads folders of one's own images: a tree of files, or a list of them as CSV.

Classes that have names are numbered in the names' sorted order, as by torchvision's ``ImageFolder``.
"""

import csv
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from livt.data.images import DataError
from livt.data.listing import Listing, Row, check_labels, listing_of, numbered

EVALUATION = ("test", "val")  # the first that is there


# ---------------------------------------------------------------- lists


def read_lists(folder: Path, size: int) -> Listing:
    """Return what ``train.csv`` and ``test.csv`` list; raises DataError naming the file and line."""
    train = folder / "train.csv"
    evaluation = next((path for name in EVALUATION if (path := folder / f"{name}.csv").is_file()), None)
    if evaluation is None:
        raise DataError(f"{folder} holds train.csv, but neither test.csv nor val.csv: list the images to evaluate on")
    seen: dict[str, str] = {}
    tables = [_read_list(path, seen) for path in (train, evaluation)]
    labels = [label for table in tables for _, _, label, _ in table]
    if all(label.removeprefix("-").isdecimal() for label in labels):
        tables = [[(where, name, str(int(label)), length) for where, name, label, length in t] for t in tables]
        classes = numbered(str(train), [int(label) for _, _, label, _ in tables[0]], "correct it, or name the classes")
    else:
        classes = sorted({label for _, _, label, _ in tables[0]})
    label_of = {name: label for label, name in enumerate(classes)}
    for where, _, label, _ in tables[1]:
        if label not in label_of:
            raise DataError(f"{where}: {label!r} is no class of train.csv, which has {len(classes)}: correct the list")
    splits = [[(name, label_of[label], length) for _, name, label, length in table] for table in tables]
    check_labels(str(evaluation), np.array([row[1] for row in splits[1]]), classes, "list images of every class")
    return listing_of(folder, splits[0], splits[1], classes, size, "mend the file, or take it out of the list")


def _read_list(path: Path, seen: dict[str, str]) -> list[tuple[str, str, str, int]]:
    """Return, of each line: where it stands, the path of an image, its label as text, and its size in bytes.

    ``seen``: where each path has stood so far; no image may train and evaluate, or count twice.
    """
    rows: list[tuple[str, str, str, int]] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, restval="")
            if not {"path", "label"} <= set(lines.fieldnames or ()):
                raise DataError(f"{path} does not begin with a line that names the columns path and label: add it")
            for line in lines:
                where, name, label = f"{path}, line {lines.line_num}", line["path"], line["label"].strip()
                if None in line or not (name and label):  # fields that no column names are under None
                    raise DataError(f"{where} is not a path and a label: correct it, with quotes around commas")
                pure = PurePosixPath(name)
                if pure.is_absolute() or ".." in pure.parts:
                    remedy = f"give the path within {path.parent}, where links may stand for the images"
                    raise DataError(f"{where}: the path {name!r} leaves the folder of the list: {remedy}")
                if str(pure) in seen:
                    raise DataError(f"{where}: {name} stands in {seen[str(pure)]} too: take one of them out")
                seen[str(pure)] = where
                rows.append((where, str(pure), label, _size(path.parent / pure, where)))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): save it as CSV, in UTF-8") from None
    if not rows:
        raise DataError(f"{path} lists no images: add lines of a path and a label")
    return rows


def _size(path: Path, where: str) -> int:
    if not path.is_file():
        raise DataError(f"{where}: there is no file {path}: correct the list, or put the image there")
    return path.stat().st_size


# ---------------------------------------------------------------- trees


def read_tree(folder: Path, size: int) -> Listing:
    """Return what a tree of class folders holds; raises DataError naming the folder."""
    train = folder / "train"
    classes = _folders(train)
    if not classes:
        raise DataError(f"{train} holds no folders of classes: put each image into train/CLASS/")
    evaluation = next((path for name in EVALUATION if _folders(path := folder / name)), None)
    if evaluation is None:
        raise DataError(
            f"{folder} holds train/CLASS/, but neither test/CLASS/ nor val/CLASS/: put images to evaluate on there"
        )
    if odd := sorted(set(classes) ^ set(_folders(evaluation))):
        has, lacks = (train, evaluation) if odd[0] in classes else (evaluation, train)
        raise DataError(
            f"{has} has a class {odd[0]!r} that {lacks} lacks ({len(odd)} such in all): every class needs a folder of "
            "images in both"
        )
    remedy = f"put images there ({', '.join(IMG_EXTENSIONS)}), or delete the class from both folders"
    splits: list[list[Row]] = []
    for split in (train, evaluation):
        rows = [
            (path.relative_to(folder).as_posix(), label, path.stat().st_size)
            for label, name in enumerate(classes)
            for path in sorted(_images(split / name))
        ]
        check_labels(str(split), np.array([row[1] for row in rows], dtype=np.int64), classes, remedy)
        splits.append(rows)
    return listing_of(folder, splits[0], splits[1], classes, size, "mend the file, or delete it")


def _folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted; those that begin with a dot are other programs' own."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> Iterable[Path]:
    """Yield the image files below a folder, by their extensions, hidden ones left out."""
    for top, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith("."):
                path = Path(top, name)
                if not path.exists():
                    raise DataError(f"{path} is a link to a file that is gone: restore the file, or delete the link")
                yield path
