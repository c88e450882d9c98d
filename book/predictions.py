"""Keep what the four losses say of test images of three classes of photographs, with the promoted records.

The figures of examples read it on machines that have the images and not the weights. It takes both, of a seed of all
four losses: the images from ``LIVT_DATA``, the weights from ``LIVT_RUNS``.
"""

import sys

from livt.companion.chapter import PHOTOGRAPHS, open_chapter
from livt.companion.examples import by_seed, keep, three_classes
from livt.data.images import DataError
from livt.lab.failures import RunError


def main() -> int:
    for panel in open_chapter({"suite": "digits"}).panels("loss_ablation"):
        for runs in by_seed(panel) if panel.name in PHOTOGRAPHS else ():
            try:
                for run in runs.values():
                    print(keep(run, panel.store, three_classes(panel.class_counts)))
                break
            except (DataError, RunError):
                continue
    return 0


if __name__ == "__main__":
    sys.exit(main())
