"""WordNet's groups of Tiny-ImageNet's classes: which of the 200 are dogs, which vehicles, which food.

    python data_prep/wordnet.py data.noun classes.csv    # livt/rivals/wordnet/ancestors.csv

``data.noun`` is WordNet 3.0's, whose offsets are ImageNet's wnids (Debian: package ``wordnet-base``); ``classes.csv``
has a column ``wnid``. Written are all synsets with at least two of these classes below them, the larger first: wnid,
name, number of classes, and the wnids of these classes. The table comes with the package, so that only a change of
classes needs this.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from prepare import run
from storage import PrepareError

from livt.lab.files import write_atomically
from livt.rivals.ancestors import TABLE

HYPERNYM = ("@", "@i")  # the pointers from a synset up, and from an instance to its kind


def work(options: argparse.Namespace) -> str:
    names, above = read_nouns(options.nouns)
    wnids = sorted(pd.read_csv(options.classes)["wnid"])
    if unknown := sorted(set(wnids) - set(names)):
        raise PrepareError(f"{options.nouns} lacks {', '.join(unknown[:5])}: it is not that of WordNet 3.0")
    write_atomically(options.target, table(wnids, names, above).to_csv(index=False, lineterminator="\n").encode())
    return f"{options.target} is written"


def read_nouns(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return name and direct hypernyms of each noun of WordNet by wnid. Raises PrepareError for another format.

    A line is: offset, file, type, number of words in hexadecimal, words with a number each, number of pointers,
    pointers of four fields (kind, offset, part of speech, words), and behind a bar the gloss.
    """
    names, above = {}, {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            fields = line.partition("|")[0].split()
            first = 4 + 2 * int(fields[3], 16)
            pointers = [fields[first + 1 + 4 * k :][:3] for k in range(int(fields[first]))]
            wnid = f"n{fields[0]}"
            names[wnid] = fields[4].replace("_", " ")
            above[wnid] = [f"n{offset}" for kind, offset, _ in pointers if kind in HYPERNYM]
    except OSError as error:
        raise PrepareError(f"{path} cannot be read: {error.strerror}") from None
    except (IndexError, ValueError):
        raise PrepareError(f"{path} is not data.noun of WordNet") from None
    return names, above


def table(wnids: list[str], names: Mapping[str, str], above: Mapping[str, list[str]]) -> pd.DataFrame:
    """Return all synsets above at least two of the classes: wnid, name, count, and the classes below it."""
    below: dict[str, list[str]] = {}
    for wnid in wnids:
        seen, waiting = set(), list(above[wnid])
        while waiting:
            synset = waiting.pop()
            if synset not in seen:
                seen.add(synset)
                waiting.extend(above.get(synset, ()))
        for synset in seen:
            below.setdefault(synset, []).append(wnid)
    rows = [(synset, names[synset], len(own), " ".join(own)) for synset, own in below.items() if len(own) > 1]
    rows.sort(key=lambda row: (-row[2], row[0]))
    return pd.DataFrame(rows, columns=["wnid", "name", "count", "classes"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nouns", type=Path, help="data.noun of WordNet 3.0")
    parser.add_argument("classes", type=Path, help="classes.csv of Tiny-ImageNet")
    parser.add_argument("--target", type=Path, default=TABLE, help="the table to write (default: the package's)")
    parser.set_defaults(jobs=1)
    return run(work, parser, arguments)


if __name__ == "__main__":
    sys.exit(main())
