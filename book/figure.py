"""Draw the figure of the README from the promoted records, and write the caption that says where it comes from."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

from livt import experiments, plots
from livt.experiments import results
from livt.report import published_panels, verdict_sentence
from livt.runs import Record, dump_json, read_promoted, sha256

BOOK = Path(__file__).resolve().parent
README = BOOK.parent / "README.md"


def promoted_runs() -> list[Record]:
    """Return the promoted runs of the loss ablation at profile cpu."""
    arms = set(experiments.arms("loss_ablation", "cpu").values())
    records = read_promoted(BOOK / "results").values()
    return [r for r in records if r.stage == "finetune" and replace(r.recipe, seed=0) in arms]


def caption(runs: list[Record]) -> str:
    """Return what the figure shows and which runs stand behind it, as Markdown."""
    recipe, about, counts = runs[0].recipe, runs[0].environment, runs[0].result["class_counts"]
    return (
        f"*Left: {len(runs)} runs on `{recipe.data.name}` ({len(counts)} classes, {max(counts)} to {min(counts)} "
        f"training images; a diamond is a seed), {about['device']}, commit {about['commit'][:10]}, records in "
        f"[`book/results/`](book/results). Middle and right: the paper's Table 5.* "
        f"{verdict_sentence(results(runs), chance=100 / len(counts))} Plain BCE starts slowly; the chapter on the "
        "ablation shows when it leaves chance."
    )


def fingerprint(runs: list[Record]) -> str:
    """Return a digest of the numbers that the figure draws; the figure's file carries it."""
    return sha256(dump_json({run.id: run.result for run in runs}))


def main() -> int:
    runs = promoted_runs()
    plots.use_style()
    plt.rcParams["svg.hashsalt"] = "livt"
    figure = plots.loss_ablation(results(runs), published_panels(["ViT-Tiny", "ViT-Base"]))
    figure.savefig(BOOK / "_static" / "loss_ablation.svg", metadata={"Date": None, "Description": fingerprint(runs)})
    text = README.read_text()
    marked = re.compile(r"<!-- caption -->\n.*?<!-- /caption -->", re.S)
    README.write_text(marked.sub(lambda _: f"<!-- caption -->\n{caption(runs)}\n<!-- /caption -->", text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
