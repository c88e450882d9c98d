"""Draw the figures of README and landing page from the promoted records, and the caption that says whence they come."""

import re
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from livt.companion import plots
from livt.companion.contrasts import EXPLAINING
from livt.companion.frames import judge, published_panels, verdict_sentence
from livt.companion.landing import CONTRASTS
from livt.companion.published import LOSS_NAMES
from livt.companion.report import plain
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
HALF, TALL = 3.4, 5.8


def promoted_runs(experiment: str = "loss_ablation", suite: str = "digits") -> list[Record]:
    """Return the promoted fine-tuning runs of an experiment."""
    return list(find(experiments.recipes(experiment, suite), None).values())


def shown() -> dict[str, list[Record]]:
    """Return the promoted runs of the loss ablation by suite: photographs first, then digits, where there are any."""
    found = {suite: promoted_runs(suite=suite) for suite in ("photos", "digits")}
    return {suite: runs for suite, runs in found.items() if runs}


def caption(ablations: dict[str, list[Record]]) -> str:
    """Return what the figure shows and which runs stand behind it, as Markdown."""
    parts = []
    for suite, runs in ablations.items():
        counts = runs[0].result["class_counts"]
        devices = dict.fromkeys(run.environment["device"] for run in runs)
        commits = dict.fromkeys(run.environment["commit"][:10] for run in runs)
        code = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}"
        rows, chance = with_controls(suite, runs), 100 / len(counts)
        sentence = plain(verdict_sentence(rows, ("C5", "C6"), chance=chance))
        parts.append(
            f"On {SUITES[suite].title} ({len(counts)} classes, {max(counts):,} to {min(counts)} training images; "
            f"{len(runs)} runs, {' and '.join(devices)}, {code}): {sentence}{control(rows, chance)}"
        )
    return (
        "*Measured above, the paper's Table 5 below; a diamond is a seed. Records: [`book/results/`](book/results).* "
        f"{' '.join(parts)} The chapter on what Bal-BCE really does takes its gain apart."
    )


def with_controls(suite: str, runs: list[Record]) -> pd.DataFrame:
    """Return the rows of a suite's loss ablation, and of the promoted runs of its controls."""
    arms = experiments.arms("loss_ablation", suite) | experiments.arms("controls", suite)
    return results([*runs, *promoted_runs("controls", suite)], arms)


def control(rows: pd.DataFrame, chance: float) -> str:
    """Return in a sentence what Bal-BCE gains over BCE where both start at the prior, as Markdown; "" without runs."""
    row = judge(rows, [CONTRASTS["Bal-BCE minus BCE"].controls()[EXPLAINING]], chance=chance).iloc[0]
    if row["verdict"] == "not run":
        return ""
    measured = f"{plain(row['measured'])} points (95 % interval {plain(row['95 % interval'])})"
    return f" Where BCE starts at the prior, as Bal-BCE does, the first difference is {measured}."


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
        axis.set(title=title, ylim=(0, 103), ylabel="accuracy [%]")
    axes[-1].set_xlabel("test classes")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def steps(plain: pd.DataFrame, posthoc: pd.DataFrame) -> Figure:
    """Draw the steps from BCE to Bal-BCE at each length of fine-tuning.

    plain, posthoc: rows of the anatomy, as trained and after the bias was removed.
    """
    figure, axis = plt.subplots(figsize=(HALF, TALL), layout="constrained")
    _steps(axis, plain, posthoc)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
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
    axis.set_xticks([0, 1], [GROUPS[metric] for metric in metrics])
    axis.grid(axis="x", visible=False)


def _steps(axis: Axes, plain: pd.DataFrame, posthoc: pd.DataFrame) -> None:
    suite = SUITES["digits"]
    size = suite.sweep.model.size
    for i, epochs in enumerate(suite.lengths):
        arm = f"{size}/{epochs}/bce, {{}} start".format
        means = [plain[plain.arm == arm(start)].accuracy.mean() for start in ("zero", "uniform", "prior")]
        means.append(posthoc[posthoc.arm == arm("prior")].accuracy.mean())
        bar = {"color": plots.COLOURS["bce"], "hatch": plots.HATCHES["bce"], "edgecolor": "0.25"}
        axis.barh(i, means[0], 0.6, label="BCE" if i == 0 else None, **bar)
        styles = zip(STEP_COLOURS, STEP_HATCHES, STEPS.values(), strict=True)
        for low, high, (colour, hatch, name) in zip(means[:-1], means[1:], styles, strict=True):
            label = f"+ {name}" if i == 0 else None
            axis.barh(i, high - low, 0.6, left=low, color=colour, hatch=hatch, edgecolor="0.25", label=label)
        axis.annotate(f"{means[-1]:.0f}", (means[-1], i), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(suite.lengths)), [str(epochs) for epochs in suite.lengths])
    axis.set(title=f"from BCE to Bal-BCE: {ours('digits')}", xlabel="accuracy on all classes [%]", xlim=(0, 108))
    axis.set_ylabel("epochs of fine-tuning")
    axis.grid(axis="y", visible=False)


def save(figure: Figure, name: str, runs: Iterable[Record]) -> None:
    plt.rcParams["svg.hashsalt"] = "livt"
    figure.savefig(BOOK / "_static" / name, metadata={"Date": None, "Description": fingerprint(runs)})


def main() -> int:
    plots.use_style()
    ablations, anatomy = shown(), promoted_runs("anatomy")
    panels = published_panels(["ViT-Tiny", "ViT-Base"])
    measured = {f"measured, {SUITES[suite].title}": results(runs) for suite, runs in ablations.items()}
    save(plots.loss_ablation(measured | panels), "loss_ablation.svg", chain(*ablations.values()))
    arms = {k: v for k, v in experiments.arms("anatomy", "digits").items() if v.finetune.loss == "bce"}
    save(losses(ablations), "losses.svg", chain(*ablations.values()))
    save(steps(*(results(anatomy, arms, part) for part in ("", "posthoc"))), "steps.svg", anatomy)
    text = README.read_text()
    marked = re.compile(r"<!-- caption -->\n.*?<!-- /caption -->", re.S)
    README.write_text(marked.sub(lambda _: f"<!-- caption -->\n{caption(ablations)}\n<!-- /caption -->", text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
