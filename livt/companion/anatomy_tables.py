"""The split of a gain as a page shows it: tables, and the verdict in sentences. All return HTML.

A ``split`` is that of ``livt.companion.anatomy``.
"""

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from livt.companion import report
from livt.companion.anatomy import STAGES, STEPS, Split, steps
from livt.companion.contrasts import Contrast
from livt.companion.plots import anatomy, shown
from livt.companion.published import LOSS_NAMES, published
from livt.companion.report import number
from livt.companion.statistics import estimate, learnt_above, sign

# By loss and start: the probability that the start gives each class.
STARTS = {
    "bce": {"zero": "1/2", "uniform": "1/C", "prior": "prior"},
    "ce": {"zero": "1/C", "prior": "prior"},  # a softmax of zeros
}


def split_column(split: Split, where: str, losses: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return where each loss starts, its steps, their total, and the check, as HTML by loss and row."""
    column: dict[tuple[str, str], str] = {}
    for loss in losses:
        measured, last = split.measured, f"{where}/{STAGES[loss][-1]}"
        plain, balanced = LOSS_NAMES[loss], LOSS_NAMES[f"bal_{loss}"]
        check = {f"{where}/bal_{loss}, zero start": 1, last: -1}
        rows = {f"{plain}, start at {STARTS[loss]['zero']}": number(measured, f"{where}/{STAGES[loss][0]}", "accuracy")}
        for step, weights in steps(where, loss).items():
            mark = "=" if step == "total gain" else "+"
            rows[f"{mark} {step}"] = number(measured, weights, "accuracy", signed=True)
        rows[f"{balanced}, by start and removal"] = number(measured, last, "accuracy")
        rows[f"{balanced} as trained, minus that"] = number(measured, check, "accuracy", digits=2, signed=True)
        column |= {(plain, row): text for row, text in rows.items()}
    return column


def said(
    split: Split, weights: Mapping[str, float], names: Sequence[str] = ("a loss", "too close to tell", "a gain")
) -> str:
    """Return a difference of accuracies as HTML, with its interval and one of ``names`` by its sign: below, 0, above.

    It is inconclusive with fewer than three seeds, and where no arm has learned anything.
    """
    contrast = Contrast(label="", metric="accuracy", weights=weights, floor=0, published=())
    e = estimate(contrast.measured(split.measured))
    best = split.measured[split.measured.arm.isin(list(weights))].groupby("arm").accuracy.mean().max()
    word = names[sign(e) + 1] if e.n >= 3 and best > learnt_above(split.panel.chance) else "inconclusive"
    mean = number(split.measured, weights, "accuracy", show="mean", signed=True)
    interval = number(split.measured, weights, "accuracy", show="interval", signed=True)
    return f"{mean} points ({interval}), <strong>{word}</strong>"


def split_tab(split: Split, columns: Mapping[str, str], losses: Sequence[str]) -> str:
    """Return the table of the steps of some losses, and its figure; columns: title to what its arms begin with."""
    found = {title: split_column(split, where, losses) for title, where in columns.items()}
    gains = []
    for title, where in columns.items():
        each = list(steps(where, "bce").values())[:3]
        numbers = [number(split.measured, weights, "accuracy", show="mean", signed=True) for weights in each]
        gains.append(f"{title} {', '.join(numbers)}")
    caption = (
        f"Accuracy by the start of the classifier, a dot per seed, on {split.panel.title}. BCE gains by leaving the "
        f"plateau, by the prior in the start, and by the removal at test, in points: {'; '.join(gains)}."
    )
    figure = anatomy.stages(split.measured, columns, losses, split.panel.chance)
    return report.table(pd.DataFrame(found)) + shown(figure, caption, f"Rising lines. {report.plain(caption)}")


def by_metric(split: Split, metrics: Mapping[str, str], models: Iterable[str]) -> str:
    """Return the table of each step's change of some metrics, points, beside the total of some models of Table 5.

    metrics: column by title.
    """
    paper = published("table5_loss_by_model_size").set_index(["model", "loss"])[list(metrics.values())]
    rows: dict[tuple[str, str], list[str]] = {}
    for loss in STAGES:
        plain, balanced = LOSS_NAMES[loss], LOSS_NAMES[f"bal_{loss}"]
        for step, weights in steps(split.where, loss).items():
            rows[plain, step] = [number(split.measured, weights, m, signed=True) for m in metrics.values()]
        for model in models:
            change = paper.loc[(model, balanced)] - paper.loc[(model, plain)]
            rows[plain, f"total, paper, {model}"] = [f"{value:+.1f}" for value in change]
    return _table(rows, list(metrics))


def by_start(split: Split, metrics: Mapping[str, str]) -> str:
    """Return the table of both plain losses from each start, as they are and with the bias subtracted at test.

    Beside them: their accuracy minus that of the balanced loss as trained. metrics: column by title.
    """
    rows: dict[tuple[str, str], list[str]] = {}
    for loss in STAGES:
        trained = f"{split.where}/bal_{loss}, zero start"
        for start, title in STARTS[loss].items():
            arm = f"{split.where}/{loss}, {start} start"
            for kind, of_kind in (("as it is", arm), ("minus b", f"{arm}, removed")):
                weights = {of_kind: 1, trained: -1}
                gap = number(split.measured, weights, "accuracy", show="interval", signed=True)
                own = [number(split.measured, of_kind, metric) for metric in metrics.values()]
                rows[f"{LOSS_NAMES[loss]}, {title}", kind] = [*own, gap]
        own = [number(split.measured, trained, metric) for metric in metrics.values()]
        rows[LOSS_NAMES[f"bal_{loss}"], "as trained"] = [*own, ""]
    return _table(rows, [*metrics, "minus trained"])


def verdict(split: Split) -> str:
    """Return what can be told of each step, of both families' steps compared, and of both controls, in paragraphs."""
    lines = []
    for loss in STAGES:
        parts = steps(split.where, loss)
        total = said(split, parts.pop("total gain"))
        each = "; ".join(f"{step} {said(split, weights)}" for step, weights in parts.items())
        lines.append(f"<em>From {LOSS_NAMES[loss]} to {LOSS_NAMES[f'bal_{loss}']}</em>: {total}. Of these: {each}.")
    bce, ce = steps(split.where, "bce"), steps(split.where, "ce")
    both = {step: bce[step] | {arm: -weight for arm, weight in ce[step].items()} for step in STEPS["ce"]}
    words = ("larger for CE", "too close to tell", "larger for BCE")
    compared = "; ".join(f"{step} {said(split, weights, words)}" for step, weights in both.items())
    lines.append(f"The steps that both families have, BCE's minus CE's: {compared}.")
    controls = {f"{split.where}/bce, {start} start, removed": w for start, w in (("prior", 1), ("uniform", -1))}
    words = ("1/C is ahead", "too close to tell", "the prior is ahead")
    lines.append(f"Both controls with the bias subtracted at test, prior minus 1/C: {said(split, controls, words)}.")
    return "".join(f"<p>{line}</p>" for line in lines)


def _table(rows: Mapping[tuple[str, str], Sequence[str]], columns: Sequence[str]) -> str:
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return report.table(frame.set_axis(pd.MultiIndex.from_tuples(list(rows))))
