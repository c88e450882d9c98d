"""Draw the figures of README and landing page from the promoted records, and the caption that says whence they come."""

import re
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from livt.companion import plots
from livt.companion.claims import claims
from livt.companion.examples import recall_table
from livt.companion.frames import judge, kept, published_panels
from livt.companion.published import LOSS_NAMES
from livt.companion.report import plain
from livt.config import Recipe
from livt.lab import experiments
from livt.lab.files import dump_json, sha256
from livt.lab.find import find
from livt.lab.results import results
from livt.lab.runs import Record
from livt.lab.suites import SUITES

BOOK = Path(__file__).resolve().parent
README = BOOK.parent / "README.md"
STEPS = {"uniform": "start at 1/C", "prior": "start at the prior", "removed": "prior removed at test"}
STEP_COLOURS, STEP_HATCHES = ("#999999", "#009E73", "#CC79A7"), ("", "\\\\\\", "++")
GROUPS = {"accuracy": "all", "few": "few-shot", "medium": "medium-shot"}
# Inches: two figures stand side by side in the column of a page, and one is as wide as a phone.
HALF, TALL = 3.4, 6.6
DRAWN = ("photos", "photos_tiny", "digits")  # the suites that are drawn, in this order


def promoted_runs(experiment: str = "loss_ablation", suite: str = "digits") -> list[Record]:
    """Return the promoted fine-tuning runs of an experiment."""
    return list(find(experiments.recipes(experiment, suite), None).values())


def shown() -> dict[str, list[Record]]:
    """Return the promoted runs of the loss ablation by suite: photographs first, then digits, where there are any."""
    found = {suite: promoted_runs(suite=suite) for suite in DRAWN}
    return {suite: runs for suite, runs in found.items() if runs}


def taken_apart() -> dict[str, list[Record]]:
    """Return the promoted runs of the anatomy by suite, photographs first, where all lengths and starts have runs."""
    found = {suite: promoted_runs("anatomy", suite) for suite in DRAWN}
    return {
        suite: runs
        for suite, runs in found.items()
        if {arm for row in bars(suite).values() for arm in row} <= set(results(runs, plain_bce(suite)).arm)
    }


def plain_bce(suite: str) -> dict[str, Recipe]:
    """Return the arms of a suite's anatomy that train by BCE."""
    return {arm: recipe for arm, recipe in experiments.arms("anatomy", suite).items() if recipe.finetune.loss == "bce"}


def bars(suite: str) -> dict[int, list[str]]:
    """Return the arms of each bar of ``steps``, by epochs of fine-tuning: BCE from each start."""
    size, starts = SUITES[suite].sweep.model.size, ("zero", "uniform", "prior")
    return {epochs: [f"{size}/{epochs}/bce, {start} start" for start in starts] for epochs in SUITES[suite].lengths}


def caption(ablations: dict[str, list[Record]]) -> str:
    """Return what the figure shows, its differences, three classes, and which runs stand behind it, as Markdown."""
    leading, *_ = ablations
    runs = ablations[leading]
    recall = recall_table(SUITES[leading].main.data, np.array(runs[0].result["class_counts"]), runs).map(plain)
    parts = (
        "*Measured here, and in the paper's Table 5; a diamond is a seed, and each panel has its own scale.* "
        "Differences are in points, mean ± standard deviation over seeds, with the 95 % interval:",
        markdown(differences(ablations)),
        f"Of three classes of {SUITES[leading].title}, with the number of their training images, the losses find, in "
        "percent of the test images:",
        markdown(recall),
        "\n".join(behind(suite, found) for suite, found in ablations.items()),
        "The chapter on what Bal-BCE really does takes its gain apart. Records: [`book/results/`](book/results).",
    )
    return "\n\n".join(parts)


def differences(ablations: dict[str, list[Record]]) -> pd.DataFrame:
    """Return the contrasts of C5 and C6 with their verdicts, a column for the paper and for each suite, as Markdown."""
    table = {}
    for suite, runs in ablations.items():
        rows, chance = with_controls(suite, runs), 100 / len(runs[0].result["class_counts"])
        for claim in claims():
            if claim.id in ("C5", "C6"):
                for label, row in judge(rows, claim.contrasts, chance=chance).iterrows():
                    found = f"{plain(row.measured)} ({plain(row['95 % interval'])}): **{row.verdict}**"
                    table.setdefault(f"{label} ({claim.id})", {"the paper": row.paper})[SUITES[suite].title] = found
    return pd.DataFrame.from_dict(table, orient="index").rename_axis("")


def markdown(table: pd.DataFrame) -> str:
    """Return a table of text in Markdown."""
    rows = [[table.index.name, *table.columns], ["---"] * (1 + table.shape[1]), *table.reset_index().to_numpy()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def behind(suite: str, runs: list[Record]) -> str:
    """Return the data and the runs behind a suite's numbers and what its controls leave, as an item of Markdown."""
    counts = runs[0].result["class_counts"]
    devices = dict.fromkeys(run.environment["device"] for run in runs)
    commits = dict.fromkeys(run.environment["commit"][:10] for run in runs)
    code = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"
    return (
        f"- {SUITES[suite].title}: {len(counts)} classes, {max(counts):,} to {min(counts)} training images; "
        f"{len(runs)} runs, {' and '.join(devices)}, {code}.{control(with_controls(suite, runs), 100 / len(counts))}"
    )


def with_controls(suite: str, runs: list[Record]) -> pd.DataFrame:
    """Return the rows of a suite's loss ablation, and of the promoted runs of its controls."""
    arms = experiments.arms("loss_ablation", suite) | experiments.arms("controls", suite)
    return results([*runs, *promoted_runs("controls", suite)], arms)


def control(rows: pd.DataFrame, chance: float) -> str:
    """Return in a sentence what is left of the claims about BCE from Bal-BCE's start, as Markdown; "" without runs."""
    left = plain(kept(rows, chance=chance))
    return f" With BCE that starts at the prior, as Bal-BCE does, in points: {left}." if left else ""


def fingerprint(runs: Iterable[Record]) -> str:
    """Return a digest of the numbers that a figure draws; the figure's file carries it."""
    return sha256(dump_json({run.id: run.result for run in runs}))


def ours(suite: str) -> str:
    """Return the data and the network of a suite, as the title of a panel."""
    return f"{SUITES[suite].title}, ViT {SUITES[suite].main.model.size}"


def losses(ablations: dict[str, list[Record]]) -> Figure:
    """Draw the four losses here, a panel for each suite of the loss ablation, and in the paper."""
    (paper,) = published_panels(["ViT-Base"]).values()
    panels = {f"this book: {ours(suite)}": results(runs) for suite, runs in ablations.items()}
    panels["the paper: ImageNet-LT, ViT-Base"] = paper
    figure, axes = plt.subplots(len(panels), 1, figsize=(HALF, TALL), layout="constrained")
    for axis, (title, frame) in zip(axes, panels.items(), strict=True):
        _bars(axis, frame)
        axis.set(title=title, ylabel="accuracy [%]")
    axes[-1].set_xlabel("test classes")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def steps(anatomies: dict[str, list[Record]]) -> Figure:
    """Draw the steps from BCE to Bal-BCE at each length of fine-tuning, a panel for each suite of the anatomy.

    A step that loses accuracy goes back over the one before it.
    """
    figure, axes = plt.subplots(len(anatomies), 1, figsize=(HALF, TALL), squeeze=False, layout="constrained")
    for axis, (suite, runs) in zip(axes.flat, anatomies.items(), strict=True):
        _steps(axis, suite, *(results(runs, plain_bce(suite), part) for part in ("", "posthoc")))
    axes[-1, 0].set_xlabel("accuracy on all classes [%]")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _bars(axis: Axes, frame: pd.DataFrame) -> None:
    """Draw the accuracy of each loss on all classes and on the rarest group: not every set has few-shot classes."""
    metrics = ["accuracy", next(group for group in ("few", "medium") if frame[group].notna().any())]
    for i, (loss, name) in enumerate(LOSS_NAMES.items()):
        rows = frame[frame.loss == loss]
        for j, metric in enumerate(metrics):
            x = j + (i - 1.5) * 0.2
            bar = {"color": plots.COLOURS[loss], "hatch": plots.HATCHES[loss], "edgecolor": "0.25"}
            axis.bar(x, rows[metric].mean(), 0.19, label=name if j == 0 else None, **bar)
            axis.plot([x] * len(rows), rows[metric], "D", color="0.1", markersize=3.5 if len(rows) > 1 else 0)
    plots.percent(axis, frame[metrics].max(axis=None))
    axis.set_xticks([0, 1], [GROUPS[metric] for metric in metrics])
    axis.grid(axis="x", visible=False)


def _steps(axis: Axes, suite: str, plain: pd.DataFrame, posthoc: pd.DataFrame) -> None:
    """Draw one panel; plain, posthoc: rows as trained, and after the bias was removed."""
    lengths = bars(suite)
    for i, arms in enumerate(lengths.values()):
        means = [plain[plain.arm == arm].accuracy.mean() for arm in arms]
        means.append(posthoc[posthoc.arm == arms[-1]].accuracy.mean())
        bar = {"color": plots.COLOURS["bce"], "hatch": plots.HATCHES["bce"], "edgecolor": "0.25"}
        axis.barh(i, means[0], 0.6, label="BCE" if i == 0 else None, **bar)
        styles = zip(STEP_COLOURS, STEP_HATCHES, STEPS.values(), strict=True)
        for low, high, (colour, hatch, name) in zip(means[:-1], means[1:], styles, strict=True):
            label = f"+ {name}" if i == 0 else None
            axis.barh(i, high - low, 0.6, left=low, color=colour, hatch=hatch, edgecolor="0.25", label=label)
        axis.annotate(f"{means[-1]:.0f}", (means[-1], i), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(lengths)), [str(epochs) for epochs in lengths])
    axis.set(title=f"{SUITES[suite].title}, ViT {SUITES[suite].sweep.model.size}", xlim=(0, 108))
    axis.set_ylabel("epochs of fine-tuning")
    axis.grid(axis="y", visible=False)


def save(figure: Figure, name: str, runs: Iterable[Record]) -> None:
    (BOOK / "_static" / name).write_bytes(plots.svg(figure, outlines=True, description=fingerprint(runs)))


def main() -> int:
    plots.use_style()
    ablations, anatomies = shown(), taken_apart()
    panels = published_panels(["ViT-Base"])
    measured = {f"measured, {SUITES[suite].title}": results(runs) for suite, runs in ablations.items()}
    save(plots.loss_ablation(measured | panels), "loss_ablation.svg", chain(*ablations.values()))
    save(losses(ablations), "losses.svg", chain(*ablations.values()))
    save(steps(anatomies), "steps.svg", chain(*anatomies.values()))
    text = README.read_text()
    marked = re.compile(r"<!-- caption -->\n.*?<!-- /caption -->", re.S)
    README.write_text(marked.sub(lambda _: f"<!-- caption -->\n{caption(ablations)}\n<!-- /caption -->", text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
