"""Where the book's numbers come from, as a page: the table of all runs.

Functions of records and frames that return HTML or frames; nothing here trains or reads a file.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from livt.config import Recipe, cluster_settings, second_settings
from livt.lab.files import flat
from livt.lab.results import told
from livt.lab.runs import Record

CURVE = ("train_loss", "accuracy", "many", "medium", "few", "ece")
Arms = Mapping[str, Mapping[str, Recipe]]


def run_links(ids: Iterable[str]) -> str:
    """Return links to rows of the page of runs, as HTML."""
    return ", ".join(f'<a href="runs.html#{run}"><code>{run}</code></a>' for run in ids)


def settings(recipe: Recipe, stage: str = "finetune") -> dict[str, Any]:
    """Return what decides the run of a stage, by dotted path, without the seed; ``pretrain`` None from scratch."""
    left_out = {"format", "stage", "seed"}
    return dict(flat({key: value for key, value in recipe.stage(stage).items() if key not in left_out}))


def differences(recipe: Recipe, base: Recipe, stage: str = "finetune") -> str:
    """Return the settings in which a recipe differs from another, as text; "none" stands for a missing value.

    Of a second stage or a clustering that the other lacks, its method is told, and what differs from the method's
    default section.
    """
    own, other = settings(recipe, stage), settings(base, stage if getattr(base, stage) else base.last_stage)
    if stage == "second" and recipe.second is not None and base.second is None:
        usual = second_settings(recipe.finetune.to_dict(), recipe.second.method)
        other |= {key: value for key, value in flat({"second": usual}) if key != "second.method"}
    if stage == "cluster" and recipe.cluster is not None:
        usual = cluster_settings(recipe.cluster.method)
        other |= {key: value for key, value in flat({"cluster": usual}) if key != "cluster.method"}
    if recipe.pretrain is None:
        other = {key: value for key, value in other.items() if not key.startswith("pretrain.")}
    changed = {key: value for key, value in own.items() if key not in other or other[key] != value}
    return ", ".join(f"{key} = {_written(value)}" for key, value in changed.items())


def _written(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value).lower()


def owners(arms: Arms) -> dict[Recipe, dict[str, list[str]]]:
    """Return, for each recipe at seed 0, the arms it is in each experiment. ``arms``: by experiment, then by arm."""
    found: dict[Recipe, dict[str, list[str]]] = {}
    for experiment, recipes in arms.items():
        for arm, recipe in recipes.items():
            found.setdefault(told(recipe), {}).setdefault(experiment, []).append(arm)
    return found


def runs_frame(records: Sequence[Record], arms: Arms, base: Recipe) -> pd.DataFrame:
    """Return a row per run: what it is for, how its recipe differs from ``base``, what made it, and its result.

    A run of no arm names the experiments of the runs among ``records`` that start from it.
    """
    uses = owners(arms)
    starts: dict[str, list[Record]] = {}
    for run in records:
        for stage in ("pretrain", "finetune"):
            starts.setdefault(run.result.get(f"{stage}_run") or "", []).append(run)
    rows = []
    for run in records:
        about = run.environment
        used = {} if run.stage == "pretrain" else uses.get(told(run.recipe), {})
        if not used:
            ids: dict[str, set[str]] = {}
            for follower in starts.get(run.id, []):
                for experiment in uses.get(told(follower.recipe), {}):
                    ids.setdefault(experiment, set()).add(follower.id)
            used = {experiment: [f"start of {len(own)}"] for experiment, own in ids.items()}
        recipe = next((r.recipe for r in (run, *starts.get(run.id, [])) if r.stage != "pretrain"), None)
        rows.append(
            {
                "run": run.id,
                "stage": run.stage,
                "used by": "; ".join(f"{experiment}: {', '.join(names)}" for experiment, names in used.items()),
                "differs": differences(recipe, base, run.stage) if recipe else "",
                "seed": run.config["seed"],
                "pretrained by": run.result.get("pretrain_run"),
                "second stage of": run.result.get("finetune_run"),
                "epochs": len(run.metrics),
                "accuracy": run.result.get("accuracy"),
                "training loss": run.metrics[-1]["train_loss"],
                "seconds": about["wall_time_s"],
                "images per second": about["images_per_second"],
                "commit": f"{about['commit'][:10]}{', changed' if about['dirty'] else ''}" if about["commit"] else "",
                "data digest": about["data_digest"],
                "hardware": f"{about['device']}, threads: {about['threads']}",
                "Python": about["python"],
                **{name: version for name, version in about["packages"].items() if version},
                "finished": about["finished"],
            }
        )
    return pd.DataFrame(rows)


def curves_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return a row per run and epoch with its training loss and, of a classifier, metrics, to three decimals."""
    rows = [
        {"run": run.id, "epoch": row["epoch"], **{name: row.get(name) for name in CURVE}}
        for run in records
        for row in run.metrics
    ]
    frame = pd.DataFrame(rows, columns=["run", "epoch", *CURVE])
    return frame.astype(dict.fromkeys(CURVE, float)).round(3)


def shared_settings(frame: pd.DataFrame) -> dict[str, str]:
    """Return what all rows of ``runs_frame`` have in common about how they were made, by name."""
    columns = [c for c in frame.columns[frame.columns.get_loc("commit") :] if c != "finished"] if len(frame) else []
    return {name: str(frame[name].iloc[0]) for name in columns if frame[name].nunique(dropna=False) == 1}


def sparkline(values: Sequence[float], text: str, *, top: float) -> str:
    """Return a small curve as inline SVG, from 0 at the bottom to ``top``; ``text`` says it in words."""
    width, height = 90, 22
    step = width / max(1, len(values) - 1)
    points = " ".join(f"{i * step:.0f},{height * (1 - value / (top or 1)):.0f}" for i, value in enumerate(values))
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.2"/>'
    base = f'<path d="M0 {height}H{width}" stroke="currentColor" stroke-opacity=".35"/>'
    return f'<svg width="{width}" height="{height}" role="img" aria-label="{escape(text)}">{base}{line}</svg>'


def curve(run: Record) -> str:
    """Return a run's learning curve as inline SVG: accuracy from 0 to 100 %, or training loss from 0 to its largest."""
    scored = run.stage != "pretrain"
    metric, name = ("accuracy", "accuracy, %") if scored else ("train_loss", "training loss")
    values = [row[metric] for row in run.metrics]
    top = 100.0 if scored else max(values)
    digits = 1 if scored else 3
    text = f"{name}: {values[0]:.{digits}f} after epoch 1, {values[-1]:.{digits}f} after epoch {len(values)}"
    return sparkline(values, text, top=top)


def runs_table(
    records: Sequence[Record], frame: pd.DataFrame, numbers: Mapping[str, str], title: str = "All runs"
) -> str:
    """Return a table of runs as HTML: an anchor per run; the book's script adds a field that filters all runs.

    frame: ``runs_frame`` of the records, with a column ``data`` where they are of several suites. numbers: the result
    of each run as HTML, by its id: accuracy, or the loss of a pretraining. What all rows have in common is left to
    ``shared_settings``.
    """
    shared = shared_settings(frame)
    varies = [c for c in frame.columns[frame.columns.get_loc("commit") :] if c not in shared and c != "finished"]
    columns = {
        "run": "text",
        **({"data": "text"} if "data" in frame else {}),
        "seed": "number",
        "accuracy [%]": "number",
        "learning curve": "none",
        "used by": "text",
        "differs from the main recipe": "text",
        "loss of MGP": "number",
        "seconds": "number",
        "images/s": "number",
        **dict.fromkeys(varies, "text"),
    }
    rows = []
    for run, (_, row) in zip(records, frame.iterrows(), strict=True):
        source = next((s for s in (row["pretrained by"], row["second stage of"]) if isinstance(s, str)), None)
        after = f'<br>after <a href="#{source}"><code>{source}</code></a>' if source else ""
        score, loss = (numbers[run.id], "-") if run.stage != "pretrain" else ("-", numbers[run.id])
        cells = [
            *([f"<td>{escape(row['data'])}</td>"] if "data" in frame else []),
            f'<td class="livt-right" data-sort="{row["seed"]}"><span hidden>seed </span>{row["seed"]}</td>',
            f'<td class="livt-right">{score}</td>',
            f"<td>{curve(run)}</td>",
            f'<td class="livt-wrapped">{escape(row["used by"]).replace("; ", "<br>")}</td>',
            f'<td class="livt-wrapped">{escape(row["differs"]).replace(", ", "<br>") or "-"}</td>',
            f'<td class="livt-right">{loss}</td>',
            f'<td class="livt-right">{row["seconds"]:.1f}</td>',
            f'<td class="livt-right">{row["images per second"]:.0f}</td>',
            *(f'<td class="livt-digest">{escape(str(row[name]))}</td>' for name in varies),
        ]
        rows.append(f'<tr id="{run.id}"><th scope="row"><code>{run.id}</code>{after}</th>{"".join(cells)}</tr>')
    head = "".join(f'<th scope="col" data-kind="{kind}">{escape(name)}</th>' for name, kind in columns.items())
    body = "\n".join(rows)
    return (
        '<div class="livt-all-runs-box" style="max-height: 80vh; overflow: auto" role="region" '
        f'aria-label="{title}" tabindex="0">\n'
        f'<table class="livt-all-runs livt-sortable" id="livt-{title.lower().replace(" ", "-")}">\n'
        f"<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def reproduction(records: Iterable[Record], promoted: Mapping[str, Record]) -> pd.DataFrame:
    """Return a row per classifier's run that was promoted too: both accuracies and the difference, largest first.

    ``trained anew`` is False where the promoted record is a copy of the very run, which repeats nothing.
    """
    columns = ["run", "here", "promoted", "difference", "trained anew", "hardware here", "hardware promoted"]
    rows = []
    for run in records:
        if run.stage != "pretrain" and run.id in promoted:
            kept = promoted[run.id]
            here, there = run.result["accuracy"], kept.result["accuracy"]
            made_on = [record.environment["device"] for record in (run, kept)]
            rows.append([run.id, here, there, here - there, run.environment != kept.environment, *made_on])
    frame = pd.DataFrame(rows, columns=columns).astype({"trained anew": bool})
    return frame.sort_values("difference", key=abs, ascending=False, kind="stable", ignore_index=True)
