"""Draw the figure of the README from the promoted records, and write the caption that says where it comes from."""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from livt import plots
from livt.experiments import results
from livt.report import published_panels, verdict_sentence
from livt.runs import Record, read_promoted

BOOK = Path(__file__).resolve().parent
README = BOOK.parent / "README.md"


def caption(runs: list[Record]) -> str:
    """Return what the figure shows and which runs stand behind it, as Markdown."""
    recipe, about = runs[0].recipe, runs[0].environment
    return (
        f"*Left: {len(runs)} runs on `{recipe.data.name}` (100 classes, 200 to 2 training images; a diamond is a "
        f"seed), {about['device']}, commit {about['commit'][:10]}, records in [`book/results/`](book/results). "
        f"Middle and right: the paper's Table 5.* {verdict_sentence(results(runs))}"
    )


def main() -> int:
    runs = [record for record in read_promoted(BOOK / "results").values() if record.stage == "finetune"]
    plots.use_style()
    plt.rcParams["svg.hashsalt"] = "livt"
    figure = plots.loss_ablation(results(runs), published_panels(["ViT-Tiny", "ViT-Base"]))
    figure.savefig(BOOK / "_static" / "loss_ablation.svg", metadata={"Date": None})
    text = README.read_text()
    marked = re.compile(r"<!-- caption -->\n.*?<!-- /caption -->", re.S)
    README.write_text(marked.sub(lambda _: f"<!-- caption -->\n{caption(runs)}\n<!-- /caption -->", text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
