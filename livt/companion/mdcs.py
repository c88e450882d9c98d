"""The chapter on MDCS: its arms, the verdict on D2, and how far experts and seeds differ, as HTML."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

import pandas as pd

from livt.companion import plots, report
from livt.companion.chapter import Panel
from livt.companion.disagreement import EXPERTS, SCORES, spread
from livt.companion.ledger import ruled
from livt.companion.plots.mdcs import idea, interplay
from livt.lab import experiments
from livt.lab.cost import flops_of
from livt.lab.suites import SUITES
from livt.losses import loss_of

COLUMNS = {"many": "many", "medium": "medium", "few": "few", "accuracy": "all", "ece": "ECE"}
# Experts and all on CIFAR-100-LT, ResNet-32, without and with self-distillation: the paper's supplement, Table 1.
PUBLISHED = {"many": (38.8, 40.6), "medium": (45.2, 50.8), "few": (31.4, 36.0), "all": (50.7, 56.1)}
GAIN = {"mdcs/both": 1.0, "mdcs/diversity": -1.0}
GAIN_ALIKE = {"mdcs/distillation": 1.0, "mdcs/neither": -1.0}
# What the verdicts that D2 can have mean: without a published number nothing is reproduced.
RULINGS = {
    "direction holds": "self-distillation gains more with diverse experts than without, and each part helps on average",
    "inconclusive": "the runs do not show whether each part helps, and helps more beside the other",
    "not reproduced": "a part does harm on average, or helps less beside the other than without it",
    "not run": "not all of the four cells have runs",
}
NOT_RUN = (
    "<p>Not run: no run of this experiment has a record yet. "
    "<code>python -m livt reproduce mdcs --suite digits</code> trains it.</p>"
)
NO_WEIGHTS = (
    "<p>Not measured: this needs the logits of single experts. They come from the weights of all these runs, which are "
    "not at hand, and no table of them was kept (<code>python -m livt.companion.disagreement</code>).</p>"
)


def each(panels: Sequence[Panel], show: Callable[[Panel], str]) -> str:
    """Return what ``show`` makes of each suite's runs, as tabs of HTML; one sentence where there are none."""
    return report.tabs({panel.title: show(panel) for panel in panels}) if panels else NOT_RUN


def drawing() -> str:
    """Return the idea as a figure."""
    caption = (
        "Left: adjusted by λ log n in training, an expert's raw logits carry the priors n<sup>1 − λ</sup> at test, "
        "here of 100 classes with 200 to 2 images. Right: each expert brings its strong view towards its own weak one."
    )
    alt = (
        "Three curves over the classes: the expert for many images falls, that for medium is flat, that for few "
        "rises. Beside them a flow: an image in a weak and a strong view passes expert k; an arrow marked KL leads "
        "from the weak prediction to the strong one, where the weak one is right."
    )
    return plots.shown(idea(), caption, alt)


def settings(suite: str) -> list[str]:
    """Return what is switched in each arm, a line of text each."""
    lines = []
    for arm, recipe in experiments.arms("mdcs", suite).items():
        options = loss_of(recipe.finetune).options | recipe.finetune.options
        lambdas = ", ".join(f"{options[f'lambda_{name}']:g}" for name in EXPERTS)
        chosen = "where the weak view is right" if options["confident"] else "of every image"
        distils = f"{options['weight']:g} KL {chosen}" if options["weight"] else "no KL"
        lines.append(f"{arm.removeprefix('mdcs/')}: lambda {lambdas}; {distils}")
    return lines


def cost(suite: str) -> str:
    """Return in words what an image of MDCS costs in fine-tuning, beside one of a single classifier with one view."""
    mdcs, plain = experiments.arms("mdcs", suite)["mdcs/both"], SUITES[suite].main
    classes = mdcs.data.num_classes
    ratio = flops_of("finetune", mdcs, classes) / flops_of("finetune", plain, classes)
    return f"{mdcs.data.name}, ViT {mdcs.model.size}: an image costs {ratio:.2f} times that of one view and one head"


# ---------------------------------------------------------------- accuracy


def accuracies(panel: Panel) -> str:
    """Return the accuracy of each arm by shot group, as an HTML table."""
    rows = {
        escape(arm.removeprefix("mdcs/")): {
            title: report.number(panel.measured, arm, metric) for metric, title in COLUMNS.items()
        }
        for arm in panel.arms
    }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")
    return report.table(frame, "Percent, mean ± standard deviation", panel.measured, f"{panel.name}_mdcs")


def figure(panels: Sequence[Panel]) -> str:
    """Return the 2 x 2 of every suite as a figure."""
    if not panels:
        return NOT_RUN
    said = [f"{panel.suite.title} {_gains(panel)}" for panel in panels]
    caption = f"Accuracy by part, mean and 95 % interval; a dot is a seed. Self-distillation gains: {'; '.join(said)}."
    alt = f"{report.plain(caption)} Lines from without to with self-distillation, of diverse and of alike experts."
    return plots.shown(interplay({panel.title: panel.measured for panel in panels}), caption, alt)


def _gains(panel: Panel) -> str:
    diverse, alike = (report.change(panel.measured, weights) for weights in (GAIN, GAIN_ALIKE))
    return f"{diverse} points with diverse experts, {alike} with alike ones"


def verdict(panel: Panel) -> str:
    """Return the verdict on D2 and what it rests on, as HTML."""
    return ruled(panel, "D2", RULINGS)


def confident(panel: Panel) -> str:
    """Return what confident instance sampling changes, with diverse experts and with alike ones, as an HTML table."""
    rows = {}
    for arm, title in (("both", "diverse experts"), ("distillation", "alike experts")):
        weights = {f"mdcs/{arm}": 1.0, f"mdcs/{arm}, every image": -1.0}
        rows[title] = {name: report.change(panel.measured, weights, m) for m, name in COLUMNS.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("with sampling minus without")
    return report.table(frame, "Points, mean and 95 % interval")


# ---------------------------------------------------------------- how far experts and seeds differ


def apart(panel: Panel) -> str:
    """Return what single experts score, and how far experts and seeds differ, as HTML."""
    table = spread(panel)
    return NO_WEIGHTS if table.empty else _experts(panel, table) + _differing(panel, table)


def _experts(panel: Panel, table: pd.DataFrame) -> str:
    """Return the accuracy of each expert by shot group and what self-distillation changes."""
    groups = {"many": "many", "medium": "medium", "few": "few", "all": "all"}
    rows = {}
    for arm, own in table.groupby("arm", sort=False):
        lambdas = experts_of(panel, str(arm))
        for number, name in enumerate(EXPERTS, 1):
            rows[str(arm).removeprefix("mdcs/"), f"{number}, λ = {lambdas[name]:g}"] = {
                title: report.text(own[f"{name}_{group}"]) if f"{name}_{group}" in own else "-"
                for group, title in groups.items()
            }
    frame = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["arm", "expert"]))
    changes = {}
    for name in (*EXPERTS, "all"):
        column = "accuracy" if name == "all" else f"{name}_all"
        before, after = PUBLISHED[name]
        title = "mean of the experts" if name == "all" else f"expert for {name}"
        changes[title] = {"measured": _change(table, GAIN, column), "paper": f"{after - before:+.1f}"}
    gains = pd.DataFrame.from_dict(changes, orient="index").rename_axis("gain of self-distillation, diverse experts")
    return report.table(frame, "Accuracy of single experts, percent") + report.table(gains, "Over all classes, points")


def experts_of(panel: Panel, arm: str) -> dict[str, float]:
    """Return the lambda of each expert of an arm."""
    settings = panel.arms[arm].finetune
    options = loss_of(settings).options | settings.options
    return {name: options[f"lambda_{name}"] for name in EXPERTS}


def _differing(panel: Panel, table: pd.DataFrame) -> str:
    """Return disagreement of experts, bias and variance over seeds by arm, and what each part changes."""
    titles = {
        "disagreement": "experts disagree",
        "variance": "variance",
        "bias": "bias",
        "expert_variance": "variance of an expert",
    }
    rows = {
        str(arm).removeprefix("mdcs/"): {
            titles[s]: report.text(own[s], "mean" if s == "bias" else "spread") for s in SCORES
        }
        for arm, own in table.groupby("arm", sort=False)
    }
    effects: Mapping[str, Mapping[str, float]] = {
        "self-distillation, diverse experts": GAIN,
        "self-distillation, alike experts": GAIN_ALIKE,
        "diverse experts, with self-distillation": {"mdcs/both": 1, "mdcs/distillation": -1},
        "diverse experts, without": {"mdcs/diversity": 1, "mdcs/neither": -1},
    }
    changes = {
        name: {titles[score]: _change(table, weights, score) for score in SCORES if score != "bias"}
        for name, weights in effects.items()
    }
    levels = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")
    changed = pd.DataFrame.from_dict(changes, orient="index").rename_axis("what it changes, points")
    return report.table(levels, "Percent of test images", table, f"{panel.name}_experts") + report.table(changed)


def _change(table: pd.DataFrame, weights: Mapping[str, float], column: str) -> str:
    wide = table.pivot(index="seed", columns="arm", values=column).reindex(columns=list(weights))
    return report.text_change((wide * pd.Series(weights)).sum(axis=1, skipna=False).dropna())
