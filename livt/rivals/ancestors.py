"""WordNet's groups of Tiny-ImageNet's 200 classes as metadata: the one real side information on these images.

WordNet (Miller, 1995) has ImageNet's classes in a hierarchy of kinds: a golden retriever is a dog, a carnivore, an
animal. An image's metadata are ones at the groups to which its class belongs, and zeros elsewhere; only groups of a
least number of classes count, so that they tell roughly what is seen and not which class. They are no text: nothing
of a group's name enters.

``wordnet/ancestors.csv`` has the groups of two classes and more; ``data_prep/wordnet.py`` makes it from WordNet 3.0,
whose licence lies beside it.
"""

import csv
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

CLASSES = 200
TABLE = Path(__file__).parent / "wordnet" / "ancestors.csv"


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """Return the classes of each group by its name, wnids in their order; the larger groups come first."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {f"{row['name']} ({row['wnid']})": tuple(row["classes"].split()) for row in csv.DictReader(file)}


def codes(least: int) -> NDArray[np.float64]:
    """Return the groups of each class, zeros and ones [200, G], where a group has at least ``least`` classes.

    Classes are those of Tiny-ImageNet in the order of their wnids, which is that of its labels. Raises ValueError
    unless a group is that large, and at least of two classes.
    """
    kept = [members for members in groups().values() if len(members) >= least]
    if not kept or least < 2:
        raise ValueError(f"meta.ancestors must be from 2 to {CLASSES} classes, not {least}")
    place = {wnid: k for k, wnid in enumerate(sorted(set().union(*groups().values())))}
    found = np.zeros((len(place), len(kept)))
    for column, members in enumerate(kept):
        found[[place[wnid] for wnid in members], column] = 1
    return found


def information(least: int, prior: ArrayLike | None = None) -> float:
    """Return the mutual information of such metadata and the class in bits: the entropy of the codes.

    ``prior`` [200]: probabilities of the classes; None has all alike, as a balanced test split.
    """
    _, which = np.unique(codes(least), axis=0, return_inverse=True)
    shares = np.full(CLASSES, 1 / CLASSES) if prior is None else np.asarray(prior, dtype=np.float64)
    share = np.bincount(which.ravel(), weights=shares)
    share = share[share > 0]
    return max(0.0, float(-(share * np.log2(share)).sum()))
