"""Which images two samples of one data set share."""

from typing import Any

from livt.data.images import FileSplit, Split


def known(split: Split | FileSplit) -> list[bytes]:
    """Return what tells each image of a split from others: its pixels, or the name of its file."""
    if isinstance(split, FileSplit):
        return [path.rpartition(b"/")[2] for path in split.paths.tolist()]
    return [image.numpy().tobytes() for image in split.images]


def nested_classes(one: Split | FileSplit, other: Split | FileSplit) -> list[bool]:
    """Return for each class whether its smaller sample of the two is a part of the larger."""

    def by_class(split: Any) -> dict[int, set[bytes]]:
        found: dict[int, set[bytes]] = {}
        for label, image in zip(split.labels.tolist(), known(split), strict=True):
            found.setdefault(label, set()).add(image)
        return found

    first, second = by_class(one), by_class(other)
    return [first[label] <= second[label] or second[label] <= first[label] for label in sorted(first)]
