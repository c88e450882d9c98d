"""Frames that a chapter shows: measured beside published, judged contrasts, what made the runs."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isnan

import pandas as pd

from livt.companion import report
from livt.companion.chapter import Panel
from livt.companion.claims import claims
from livt.companion.contrasts import EXPLAINING, Contrast
from livt.companion.published import LOSS_NAMES, published
from livt.companion.report import number
from livt.companion.statistics import (
    MARGIN,
    estimate,
    holm,
    learnt_above,
    overall,
    p_value,
    verdict,
    within_margin,
)
from livt.lab.results import COLUMNS, METRICS, results
from livt.lab.runs import Record
from livt.longtail import GROUPS


def comparison(measured: pd.DataFrame, models: Sequence[str] = ("ViT-Tiny", "ViT-Base")) -> pd.DataFrame:
    """Return mean ± standard deviation over seeds by loss, each beside Table 5's rows for ``models``.

    measured: as from ``results``, with the losses as arms. Index: loss and source; columns: the metrics, as HTML.
    """
    table = published("table5_loss_by_model_size")
    columns = METRICS[:6]
    rows = {}
    for loss, name in LOSS_NAMES.items():
        seeds = (measured.arm == loss).sum()
        rows[name, f"measured, {report.in_seeds(seeds)}"] = {m: number(measured, loss, m) for m in columns}
        for model in models:
            row = table[(table.model == model) & (table.loss == name)].iloc[0]
            rows[name, f"paper, {model}"] = {metric: f"{row[metric]:.1f}" for metric in columns}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["loss", "source"])
    return frame.rename(columns={"ece": "ECE", "mce": "MCE"})


def groups(panel: Panel) -> list[str]:
    """Return the shot groups that have classes in what a panel shows, head first."""
    return [group for group in GROUPS if panel.measured[group].notna().any()]


def judge(measured: pd.DataFrame, contrasts: Sequence[Contrast], *, chance: float | None = None) -> pd.DataFrame:
    """Return a row per contrast, by its label: its number with the 95 % interval, the paper's, and the verdict.

    ``chance`` is the accuracy of guessing, percent: a contrast is inconclusive where one of the arms that it compares
    has a mean accuracy at most that of ``learnt_above``. An effect above the upper limit is explained where, with BCE
    from the prior in the place of plain BCE, the mean is at most the largest published number; a frame without that
    arm explains nothing. ``p``: one-sided, against the floor, and nan for what is not judged. ``size``: that there is
    no effect larger than ``MARGIN``, where the floor is not passed and the interval shows it; else "".
    """
    rows = {}
    lacking = {contrast.metric for contrast in contrasts} - set(measured)
    measured = measured.assign(**dict.fromkeys(lacking, float("nan")))
    for contrast in contrasts:
        values = contrast.measured(measured)
        judged = len(values) == 0 or _learnt(measured, contrast, chance)
        ruling = verdict(
            values,
            floor=contrast.floor,
            threshold=contrast.threshold,
            ceiling=contrast.ceiling,
            explained=_explained(measured, contrast, chance),
        )
        limits = {"floor": contrast.floor, "threshold": contrast.threshold, "upper limit": contrast.ceiling}
        rows[contrast.label] = {
            "n": len(values),
            "measured": number(measured, contrast.weights, contrast.metric, digits=contrast.digits),
            "95 % interval": number(
                measured, contrast.weights, contrast.metric, show="interval", digits=contrast.digits
            ),
            "paper": _range(contrast.published),
            **{name: "none" if limit is None else f"{limit:.1f}" for name, limit in limits.items()},
            "verdict": ruling if judged else "inconclusive",
            "size": _size(contrast, ruling, values) if judged else "",
            "p": p_value(values, contrast.floor) if judged and len(values) >= 3 else float("nan"),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _learnt(measured: pd.DataFrame, contrast: Contrast, chance: float | None) -> bool:
    accuracy = measured[measured.arm.isin(list(contrast.weights))].groupby("arm").accuracy.mean()
    return chance is None or bool((accuracy > learnt_above(chance)).all())


def _size(contrast: Contrast, ruling: str, values: pd.Series) -> str:
    small = ruling in ("inconclusive", "not reproduced") and contrast.in_points and within_margin(estimate(values))
    return f"no effect larger than {MARGIN:g} points" if small else ""


def _explained(measured: pd.DataFrame, contrast: Contrast, chance: float | None) -> bool:
    control = contrast.controls().get(EXPLAINING)
    if control is None or contrast.ceiling is None or not _learnt(measured, control, chance):
        return False
    e = estimate(control.measured(measured))
    return e.n >= 3 and e.mean <= max(contrast.published)


def _range(numbers: Sequence[float]) -> str:
    if not numbers:
        return "none"
    lowest, highest = min(numbers), max(numbers)
    return f"{lowest:.1f}" if lowest == highest else f"{lowest:.1f} to {highest:.1f}"


def ledger(
    found: Mapping[str, pd.DataFrame], sizes: Sequence[str], *, chance: float | None = None
) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return, for each claim by its id, the verdict and the judged contrasts behind it.

    ``found``: rows as from ``results`` for each experiment that was run on one suite; ``sizes``: that suite's model
    sizes, smallest first. Nothing but rows can change a verdict. The column ``Holm`` has the p-values adjusted for all
    contrasts that were judged; a claim of many contrasts is a family of its own.
    """
    judged, families = {}, dict[str, list[str]]()
    for claim in claims(sizes):
        runs = found.get(claim.experiment or "", pd.DataFrame(columns=COLUMNS))
        judged[claim.id] = judge(runs, claim.contrasts, chance=chance)
        if claim.contrasts:
            families.setdefault(claim.id if claim.many else "", []).append(claim.id)
    for members in families.values():
        adjusted = iter(holm([p for key in members for p in judged[key].p.dropna()]))
        for key in members:
            judged[key]["Holm"] = [float("nan") if isnan(p) else next(adjusted) for p in judged[key].p]
    return {key: (overall(rows.verdict.tolist() if len(rows) else []), rows) for key, rows in judged.items()}


def kept(measured: pd.DataFrame, *, chance: float) -> str:
    """Return what BCE from the prior, in the place of BCE, leaves of each claim about it, in points, as HTML.

    Of a claim it is the first contrast, by its label; "" where nothing was run.
    """
    found = []
    for claim in claims():
        if claim.experiment == "loss_ablation" and EXPLAINING in claim.contrasts[0].controls():
            row = judge(measured, [claim.contrasts[0].controls()[EXPLAINING]], chance=chance).iloc[0]
            if row["verdict"] != "not run":
                found.append(f"{row.name} {row['measured']} ({row['95 % interval']}; {claim.id})")
    return "; ".join(found)


def first_epoch_above(curves: pd.DataFrame, accuracy: float) -> pd.DataFrame:
    """Return the first epoch at which each run's accuracy exceeds ``accuracy`` [%]: a row per loss, a column per seed.

    ``-`` stands for never.
    """
    passed = curves[curves.accuracy > accuracy].groupby(["loss", "seed"]).epoch.min().unstack()
    table = passed.reindex(index=list(LOSS_NAMES), columns=sorted(curves.seed.unique()))
    table = table.astype("Int64").astype(object).where(table.notna(), "-")
    return table.rename(index=LOSS_NAMES).rename_axis(None).rename(columns="seed {}".format).rename_axis(None, axis=1)


def published_panels(models: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return Table 5's rows of each model by panel title, with the loss names of this package."""
    table = published("table5_loss_by_model_size")
    table["loss"] = table["loss"].map({name: loss for loss, name in LOSS_NAMES.items()})
    return {f"paper, {model} on ImageNet-LT, 1 seed": table[table.model == model] for model in models}


def per_run(measured: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run with its metrics as HTML that names the run, to one decimal, as the command line does."""
    rows = []
    for i in range(len(measured)):
        one = measured.iloc[i : i + 1]
        row = {name: one[name].iloc[0] for name in ("arm", "seed")}
        row |= {metric: number(one, row["arm"], metric) for metric in METRICS[:6]}
        rows.append({**row, "run": one.run.iloc[0]})
    return pd.DataFrame(rows)


def with_removal(panel: Panel) -> pd.DataFrame:
    """Return a panel's rows, and, per run of a plain loss, "<arm>, removed": its balanced bias taken away at test."""
    removed = results(panel.records, panel.arms, part="posthoc")
    return pd.concat([panel.measured, removed.assign(arm=removed.arm + ", removed")], ignore_index=True)


def with_adjusted(panel: Panel) -> pd.DataFrame:
    """Return a panel's rows, and, per run of the leaderboard's CE, those of its logits adjusted to the priors at test.

    Such a row's arm is that of CE with ", adjusted" behind it, as a method of its own.
    """
    ce = {arm: recipe for arm, recipe in panel.arms.items() if arm in ("mgp/ce", "scratch/ce")}
    adjusted = results(panel.records, ce, part="posthoc") if ce else panel.measured[:0]
    return pd.concat([panel.measured, adjusted.assign(arm=adjusted.arm + ", adjusted")], ignore_index=True)


def verdict_sentence(
    measured: pd.DataFrame, ids: Sequence[str], sizes: Sequence[str] = (), *, chance: float | None = None
) -> str:
    """Return what the runs say of some claims in one Markdown sentence; ``sizes`` and ``chance`` as for ``ledger``."""
    parts, seeds = [], 0
    for claim in claims(sizes):
        for contrast in claim.contrasts if claim.id in ids else ():
            row = judge(measured, [contrast], chance=chance).iloc[0]
            seeds = max(seeds, row["n"])
            parts.append(
                f"{contrast.label} is {row['measured']} points (95 % interval {row['95 % interval']}; "
                f"paper {row['paper']}): **{row['verdict']}**"
            )
    return f"Over {seeds} seeds, {'; '.join(parts)}."


def judged_table(
    measured: pd.DataFrame, ids: Sequence[str], sizes: Sequence[str] = (), *, chance: float | None = None
) -> str:
    """Return the contrasts of some claims as an HTML table, the verdict first."""
    judged = pd.concat(
        {
            claim.id: with_limits(judge(measured, claim.contrasts, chance=chance))
            for claim in claims(sizes)
            if claim.id in ids
        }
    )
    return report.table(judged.rename_axis(["claim", "difference, in points"]))


def with_limits(judged: pd.DataFrame) -> pd.DataFrame:
    """Return judged contrasts as a page shows them: the verdict first, the limits in one column.

    Where nothing is published for any of them, there is a floor and nothing else.
    """
    verdicts = judged.verdict.where(judged["size"] == "", judged.verdict + "; " + judged["size"])
    shown = judged[["measured", "95 % interval", "n"]]
    shown.insert(0, "verdict", verdicts)
    if (judged[["paper", "threshold", "upper limit"]] == "none").all(axis=None):
        return shown.assign(floor=judged.floor)
    limits = judged.floor + "; " + judged.threshold + "; " + judged["upper limit"]
    return shown.assign(paper=judged.paper, **{"floor; threshold; upper limit": limits})


def sources(panels: Iterable[Panel]) -> str:
    """Return where the numbers of a chapter come from, as HTML: a row per run, what made it, and what they share."""
    parts = []
    for panel in panels:
        each = per_run(panel.measured[~panel.measured.part.str.startswith("heads.")])
        parts.append(made_by(panel.title, [*panel.starts, *panel.records]))
        parts.append(report.folded(f"Each run ({len(each)})", report.table(each.set_index("arm"))))
    return "".join(parts)


def made_by(title: str, runs: Sequence[Record]) -> str:
    """Return what made the runs, under a title, as HTML: what all have in common, and folded a row per run."""
    common, table = provenance(runs)
    rows = report.table(table.set_index("run"), html=False)
    folded = report.folded(f"What made each run and what it starts from ({len(table)})", rows)
    return f"<p>{escape(title)}. {escape(common)}</p>{folded}"


def provenance(runs: Sequence[Record]) -> tuple[str, pd.DataFrame]:
    """Return what made the runs: a line for what all have in common, and a row per run for what differs."""
    rows = []
    for run in runs:
        about = run.environment
        commit = f"{about['commit'][:10]}{', changed' if about['dirty'] else ''}" if about["commit"] else "unknown"
        rows.append(
            {
                "run": run.id,
                "seed": run.config["seed"],
                "pretrained by": run.result.get("pretrain_run") or "-",
                "second stage of": run.result.get("finetune_run") or "-",
                "taught by": run.result.get("teacher_run") or "-",
                "commit": commit,
                "data digest": about["data_digest"],
                "hardware": f"{about['device']}, threads: {about['threads']}",
                "torch": about["packages"]["torch"],
                "timm": about["packages"]["timm"],
                "Python": about["python"],
                "images/s": round(about["images_per_second"]),
                "seconds": round(about["wall_time_s"]),
            }
        )
    table = pd.DataFrame(rows)
    common = [c for c in table if len(table) > 1 and c != "seed" and table[c].nunique() == 1]
    line = "; ".join(f"{column}: {table[column].iloc[0]}" for column in common if table[column].iloc[0] != "-")
    return line, table.drop(columns=common)
