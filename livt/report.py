"""What a notebook shows: tables beside the published numbers, verdicts, provenance; and a check of its parameters."""

import ast
import contextlib
from collections.abc import MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd

from livt.experiments import METRICS
from livt.paper import LOSS_CLAIMS, LOSS_NAMES, Claim, Estimate, estimate, published, verdict
from livt.runs import Record


def comparison(measured: pd.DataFrame, models: Sequence[str] = ("ViT-Tiny", "ViT-Base")) -> pd.DataFrame:
    """Return mean ± standard deviation over seeds by loss, each beside Table 5's rows for ``models``.

    measured: as from ``results``. Index: loss and source; columns: the metrics, percent, as text.
    """
    table = published("table5_loss_by_model_size")
    rows = {}
    for loss, name in LOSS_NAMES.items():
        runs = measured[measured.loss == loss]
        found = {metric: estimate(runs[metric].dropna()) for metric in METRICS}
        rows[name, f"measured, {len(runs)} seeds"] = {m: _spread(e) for m, e in found.items()}
        for model in models:
            row = table[(table.model == model) & (table.loss == name)].iloc[0]
            rows[name, f"paper, {model}"] = {metric: f"{row[metric]:.1f}" for metric in METRICS}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["loss", "source"])
    return frame


def _spread(e: Estimate) -> str:
    return "-" if e.n == 0 else f"{e.mean:.1f}" if e.n == 1 else f"{e.mean:.1f} ± {e.std:.1f}"


def judge(
    measured: pd.DataFrame, claims: Sequence[Claim] = LOSS_CLAIMS, *, chance: float | None = None
) -> pd.DataFrame:
    """Return a row per claim, by its id: its number in points with the 95 % interval, the paper's, and the verdict.

    ``chance`` is the accuracy of guessing, percent: a claim is inconclusive where no loss that it compares has a mean
    accuracy above five times that, as nothing was learnt that could be compared.
    """
    rows = {}
    for claim in claims:
        values, paper = claim.measured(measured), claim.published()
        e = estimate(values)
        compared = measured[measured.loss.isin(list(claim.weights))].groupby("loss").accuracy.mean()
        learnt = chance is None or compared.empty or compared.max() > 5 * chance
        ruling = verdict(values, floor=claim.floor, threshold=claim.threshold)
        signs = [f"{'-' if weight < 0 else '+'} {LOSS_NAMES[loss]}" for loss, weight in claim.weights.items()]
        rows[claim.id] = {
            "difference, in points": f"{' '.join(signs).removeprefix('+ ')}, {claim.metric}",
            "n": e.n,
            "measured": _spread(e),
            "95 % interval": "-" if e.n < 2 else f"{e.low:.1f} to {e.high:.1f}",
            "paper, by size": f"{paper.min():.1f} to {paper.max():.1f}",
            "threshold": claim.threshold,
            "verdict": ruling if learnt or ruling == "not run" else "inconclusive",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


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
    """Return a row per run with its metrics as text, to one decimal, as the command line prints them."""
    return measured.assign(**{metric: measured[metric].map("{:.1f}".format) for metric in METRICS})


def verdict_sentence(measured: pd.DataFrame, *, chance: float | None = None) -> str:
    """Return the answer in one Markdown sentence, computed from the runs; ``chance`` as for ``judge``."""
    rows = judge(measured, chance=chance)
    parts = [
        f"{text} is {row['measured']} points (95 % interval {row['95 % interval']}; "
        f"paper {row['paper, by size']}): **{row['verdict']}**"
        for text, row in (("Bal-BCE minus BCE", rows.loc["C5"]), ("Bal-BCE minus Bal-CE", rows.loc["C6"]))
    ]
    return f"Over {rows.loc['C5', 'n']} seeds, {'; '.join(parts)}."


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
    line = "; ".join(f"{column}: {table[column].iloc[0]}" for column in common)
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
