"""What a notebook shows: tables beside the published numbers, verdicts, provenance; and a check of its parameters."""

import ast
import base64
import contextlib
import json
import re
from collections.abc import Mapping, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import pandas as pd

from livt.experiments import COLUMNS, METRICS
from livt.paper import LOSS_NAMES, Contrast, Estimate, claims, estimate, overall, published, verdict
from livt.runs import Record

Show = Literal["mean", "spread", "interval"]


def number(
    measured: pd.DataFrame,
    weights: Mapping[str, float] | str,
    metric: str,
    *,
    show: Show = "spread",
    digits: int = 1,
    signed: bool = False,
) -> str:
    """Return a measured number as HTML that names the runs behind it, so that the book's build can check it.

    measured: rows as from ``results``. ``weights``: the number is the sum of ``weights[arm] * metric`` within one seed;
    a single arm's name stands for weight 1. ``show``: the mean over seeds, the mean ± standard deviation ("spread"), or
    the 95 % Student-t interval of the mean. ``-`` stands for nothing measured. Raises ValueError where two rows are of
    one arm and seed.
    """
    weights = {weights: 1} if isinstance(weights, str) else weights
    rows = measured[measured.arm.isin(list(weights))].set_index(["seed", "arm"]).sort_index()
    if rows.index.has_duplicates:
        raise ValueError(f"two runs of one arm and seed: {rows.index[rows.index.duplicated()][0]}")
    values: list[float] = []
    terms: list[tuple[float, str, list[str]]] = [(weight, arm, []) for arm, weight in weights.items()]
    for seed in sorted(measured.seed.unique()):
        if all((seed, arm) in rows.index for arm in weights):
            values.append(sum(w * rows.at[(seed, arm), metric] for arm, w in weights.items()))
            for _, arm, ids in terms:
                ids.append(rows.at[(seed, arm), "run"])
    data = []
    for weight, arm, ids in terms:
        parts = rows.xs(arm, level="arm").part.unique() if ids else [""]
        data.append([weight, f"{parts[0]}.{metric}" if parts[0] else metric, ids])
    text = _text(estimate(pd.Series(values, dtype=float).dropna()), show, digits, signed)
    attributes = {"data-terms": json.dumps(data, separators=(",", ":")), "data-show": show}
    attributes |= {"data-digits": str(digits)} if digits != 1 else {}
    attributes |= {"data-signed": "true"} if signed else {}
    written = " ".join(f"{name}='{value}'" for name, value in attributes.items())
    return f"<span {written}>{text}</span>"


def _text(e: Estimate, show: Show, digits: int = 1, signed: bool = False) -> str:
    form = f"{'+' if signed else ''}.{digits}f"
    if e.n == 0 or (show == "interval" and e.n == 1):
        return "-"
    if show == "interval":
        return f"{e.low:{form}} to {e.high:{form}}"
    return f"{e.mean:{form}}" if show == "mean" or e.n == 1 else f"{e.mean:{form}} ± {e.std:.{digits}f}"


def plain(text: str) -> str:
    """Return text without its HTML tags, for where only Markdown is read."""
    return re.sub(r"</?span[^>]*>", "", text)


def table(frame: pd.DataFrame, caption: str = "", csv: pd.DataFrame | None = None, name: str = "table") -> str:
    """Return a frame of text as an HTML table, its cells taken as HTML, with a link that downloads ``csv``.

    ``csv`` None downloads nothing; ``name`` is the file's name without its ending.
    """
    body = frame.to_html(escape=False, classes="livt-measured", border=0, na_rep="-", index_names=False)
    for level in frame.index.names:  # pandas leaves the corner empty, or gives the names a row of their own
        body = body.replace("<th></th>", f"<th>{level}</th>" if level else "<td></td>", 1)
    if caption:
        body = body.replace(">", f"><caption>{caption}</caption>", 1)
    return f'<div class="livt-table">{body}</div>' + ("" if csv is None else download(csv, name))


def download(frame: pd.DataFrame, name: str) -> str:
    """Return a link, as HTML, that downloads the frame as ``<name>.csv``; the page itself holds the data."""
    content = base64.b64encode(frame.to_csv(index=False).encode()).decode()
    link = f'<a class="livt-download" download="{name}.csv" href="data:text/csv;base64,{content}">'
    return f'<p class="livt-download">{link}Download {name}.csv</a> ({len(frame)} rows)</p>'


def comparison(measured: pd.DataFrame, models: Sequence[str] = ("ViT-Tiny", "ViT-Base")) -> pd.DataFrame:
    """Return mean ± standard deviation over seeds by loss, each beside Table 5's rows for ``models``.

    measured: as from ``results``, with the losses as arms. Index: loss and source; columns: the metrics, as HTML.
    """
    table = published("table5_loss_by_model_size")
    columns = METRICS[:6]
    rows = {}
    for loss, name in LOSS_NAMES.items():
        seeds = (measured.arm == loss).sum()
        rows[name, f"measured, {seeds} seeds"] = {m: number(measured, loss, m) for m in columns}
        for model in models:
            row = table[(table.model == model) & (table.loss == name)].iloc[0]
            rows[name, f"paper, {model}"] = {metric: f"{row[metric]:.1f}" for metric in columns}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["loss", "source"])
    return frame


def judge(measured: pd.DataFrame, contrasts: Sequence[Contrast], *, chance: float | None = None) -> pd.DataFrame:
    """Return a row per contrast, by its label: its number with the 95 % interval, the paper's, and the verdict.

    ``chance`` is the accuracy of guessing, percent: a contrast is inconclusive where no arm that it compares has a mean
    accuracy above five times that, as nothing was learnt that could be compared.
    """
    rows = {}
    for contrast in contrasts:
        e = estimate(contrast.measured(measured))
        compared = measured[measured.arm.isin(list(contrast.weights))].groupby("arm").accuracy.mean()
        learnt = chance is None or compared.empty or compared.max() > 5 * chance
        ruling = verdict(contrast.measured(measured), floor=contrast.floor, threshold=contrast.threshold)
        lowest, highest = min(contrast.published), max(contrast.published)
        rows[contrast.label] = {
            "n": e.n,
            "measured": number(measured, contrast.weights, contrast.metric),
            "95 % interval": number(measured, contrast.weights, contrast.metric, show="interval"),
            "paper": f"{lowest:.1f}" if lowest == highest else f"{lowest:.1f} to {highest:.1f}",
            "floor": f"{contrast.floor:.1f}",
            "threshold": f"{contrast.threshold:.1f}",
            "verdict": ruling if learnt or ruling == "not run" else "inconclusive",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def ledger(
    found: Mapping[str, pd.DataFrame], sizes: Sequence[str], *, chance: float | None = None
) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return, for each claim by its id, the verdict and the judged contrasts behind it.

    ``found``: rows as from ``results`` for each experiment that was run at one scale; ``sizes``: that scale's model
    sizes, smallest first. Nothing but rows can change a verdict.
    """
    verdicts = {}
    for claim in claims(sizes):
        runs = found.get(claim.experiment or "", pd.DataFrame(columns=COLUMNS))
        judged = judge(runs, claim.contrasts, chance=chance)
        verdicts[claim.id] = overall(judged.verdict.tolist() if len(judged) else []), judged
    return verdicts


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
        one = measured.iloc[[i]]
        row = {name: one[name].iloc[0] for name in ("arm", "seed")}
        row |= {metric: number(one, row["arm"], metric) for metric in METRICS[:6]}
        rows.append({**row, "run": one.run.iloc[0]})
    return pd.DataFrame(rows)


def verdict_sentence(measured: pd.DataFrame, *, chance: float | None = None) -> str:
    """Return the ablation's answer in one Markdown sentence, computed from the runs; ``chance`` as for ``judge``."""
    ledger = {claim.id: claim.contrasts[0] for claim in claims() if claim.id in ("C5", "C6")}
    parts, seeds = [], 0
    for contrast in ledger.values():
        row = judge(measured, [contrast], chance=chance).iloc[0]
        seeds = row["n"]
        parts.append(
            f"{contrast.label} is {row['measured']} points (95 % interval {row['95 % interval']}; "
            f"paper {row['paper']}): **{row['verdict']}**"
        )
    return f"Over {seeds} seeds, {'; '.join(parts)}."


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


def check_parameters(namespace: MutableMapping[str, Any], **allowed: Any) -> SimpleNamespace:
    """Return a notebook's parameters, checked; call it in the cell behind ``parameters`` with ``globals()``.

    ``allowed`` gives, for each parameter, a type (``int``, not negative; ``float``; ``str``), ``list[int]`` or a tuple
    of choices. A string is read as a literal where another type is asked for, as papermill's ``-p seeds '[0, 1]'``
    gives a string. Raises ValueError for a parameter that is unknown (a plain value in the namespace that is not
    allowed, when the cell first runs), ill-typed or not among the choices, naming what is allowed.
    """
    literals = (bool, int, float, str, list, tuple, dict, type(None))
    given = {k for k, v in namespace.items() if isinstance(v, literals) and not k.startswith("_")} - {"In", "Out"}
    unknown = sorted(given - allowed.keys()) if "_parameters_checked" not in namespace else []
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(unknown)}; this notebook takes {', '.join(allowed)}")
    namespace["_parameters_checked"] = True  # the cell may run again, when the notebook has values of its own
    return SimpleNamespace(**{name: _check_parameter(name, namespace[name], kind) for name, kind in allowed.items()})


def _check_parameter(name: str, value: Any, kind: Any) -> Any:
    if isinstance(kind, tuple):
        if value not in kind:
            raise ValueError(f"parameter {name} = {value!r} is not one of {', '.join(kind)}")
        return value
    if isinstance(value, str) and kind is not str:
        with contextlib.suppress(ValueError, SyntaxError):  # the check below names the type it should have
            value = ast.literal_eval(value)
    if kind == list[int]:
        fits = isinstance(value, list | tuple) and len(value) > 0 and all(type(v) is int and v >= 0 for v in value)
        if not fits or len(set(value)) != len(value):
            raise ValueError(f"parameter {name} must be a list of different whole numbers, like [0, 1], not {value!r}")
        return list(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is int and value < 0):
        raise ValueError(f"parameter {name} must be {kind.__name__}{' from 0' * (kind is int)}, not {value!r}")
    return value
