"""The claims ledger of a suite: its verdicts, the controls and lengths of training beside them, and all as HTML."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isnan
from textwrap import fill

import pandas as pd

from livt.companion import report
from livt.companion.chapter import Panel
from livt.companion.claims import claims
from livt.companion.contrasts import Claim
from livt.companion.frames import judge, judged_table, ledger, with_adjusted, with_limits
from livt.companion.statistics import VERDICTS, learnt_above, overall

# What the ledger needs: the experiments that its claims name, their controls, and the lengths of training.
EXPERIMENTS = (*dict.fromkeys(c.experiment for c in claims() if c.experiment), "controls", "anatomy")
# A verdict's sign, so that colour is not needed to tell them apart.
SIGNS = dict(zip(VERDICTS, "●▲◐△✕?–", strict=True))
# What a chapter that the ledger names is called in a link.
CHAPTERS = {
    "benchmarks": "the leaderboards",
    "calibration": "calibration",
    "convergence": "convergence",
    "deit_lt": "DeiT-LT",
    "loss_ablation": "the loss ablation",
    "mdcs": "experts that disagree",
    "metaformer": "metadata as tokens",
    "model_size": "model size",
    "photographs": "photographs",
    "recipes_lt_vs_balanced": "three recipes",
    "sp2ot": "clustering without labels",
}


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """What the runs of one suite say of a claim.

    judged: a row per contrast. controls: the same rows with a control in the place of plain losses, by its name; they
    decide nothing but what makes an effect larger than published. lengths: the verdict at each other length of
    fine-tuning that was run, in epochs. network: that of the lengths, where it is not that of the verdict, else "".
    """

    claim: Claim
    verdict: str
    judged: pd.DataFrame
    controls: Mapping[str, pd.DataFrame]
    lengths: Mapping[int, str]
    network: str = ""


def rulings(panel: Panel) -> dict[str, Ruling]:
    """Return the ruling on each claim, by its id, from the runs of ``EXPERIMENTS`` on one suite."""
    suite, sizes, rows = panel.suite, panel.suite.sizes, with_adjusted(panel)
    other = suite.sweep.model != suite.main.model
    experiments = [name for name in EXPERIMENTS if name != "anatomy"]
    judged = ledger(dict.fromkeys(experiments, rows), sizes, chance=panel.chance)
    lasting = [epochs for epochs in suite.lengths if other or epochs != suite.main.finetune.epochs]
    at = {n: ledger({"loss_ablation": at_length(panel, n)}, sizes, chance=panel.chance) for n in lasting}
    found = {}
    for claim in claims(sizes):
        controls: dict[str, list[pd.DataFrame]] = {}
        for contrast in claim.contrasts:
            for name, control in contrast.controls().items():
                controls.setdefault(name, []).append(judge(rows, [control], chance=panel.chance))
        lengths = {epochs: verdicts[claim.id][0] for epochs, verdicts in at.items()}
        found[claim.id] = Ruling(
            claim=claim,
            verdict=judged[claim.id][0],
            judged=judged[claim.id][1],
            controls={name: pd.concat(frames) for name, frames in controls.items()},
            lengths={epochs: verdict for epochs, verdict in lengths.items() if verdict != "not run"},
            network=f"ViT {suite.sweep.model.size}" if other else "",
        )
    return found


def at_length(panel: Panel, epochs: int) -> pd.DataFrame:
    """Return the runs of the experiment ``anatomy`` with so many epochs, their arms named as the claims name them."""
    prefix = f"{panel.suite.sweep.model.size}/{epochs}/"
    rows = panel.measured[panel.measured.arm.str.startswith(prefix)]
    return rows.assign(arm=rows.arm.str.removeprefix(prefix).str.removesuffix(", zero start"))


def signed(verdict: str) -> str:
    """Return a verdict as HTML with its sign, which a screen reader skips."""
    return f'<span class="livt-verdict"><span aria-hidden="true">{SIGNS[verdict]}</span> {verdict}</span>'


def declared(claim_id: str) -> str:
    """Return as plain text what a claim says, what the paper reports, what limits it, and the floor of each part.

    Raises ValueError for a claim that there is not.
    """
    found = [claim for claim in claims() if claim.id == claim_id]
    if not found:
        raise ValueError(f"no claim {claim_id!r}; choose from {', '.join(claim.id for claim in claims())}")
    (claim,) = found
    lines = [f"{claim.id}. {claim.statement}.", f"Evidence: {claim.evidence}.", f"Limit: {claim.limit}."]
    lines += [f"- {part.label}: above {part.floor:g} {part.unit}" for part in claim.contrasts]
    return "\n".join(fill(line, 74, subsequent_indent="  ") for line in lines)  # as wide as a page's column


def ruled(panel: Panel, claim_id: str, meanings: Mapping[str, str] | None = None) -> str:
    """Return the verdict on a claim from the runs of its own experiment, and on each of its parts, as HTML.

    meanings: what each verdict means in words, by its name; they follow it.
    """
    (claim,) = (claim for claim in claims() if claim.id == claim_id)
    found = ledger({str(claim.experiment): panel.measured}, panel.suite.sizes, chance=panel.chance)[claim_id][0]
    more = f" On {escape(panel.suite.title)}, {meanings[found]}." if meanings else ""
    table = judged_table(panel.measured, (claim_id,), panel.suite.sizes, chance=panel.chance)
    return f"<p><strong>{claim_id}: {signed(found)}.</strong>{more}</p>{table}"


def counted(verdicts: Iterable[str]) -> str:
    """Return how many claims have each verdict, as text: "2 reproduced; 1 not run"."""
    found = list(verdicts)
    return "; ".join(f"{found.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in found) or "no claims"


def beside(ruling: Ruling) -> list[str]:
    """Return what stands beside a verdict, as pieces of HTML: its controls, and the lengths that change it."""
    parts = [f"{name}: {signed(overall(rows.verdict.tolist()))}" for name, rows in ruling.controls.items()]
    changed: dict[str, list[str]] = {}
    for epochs, verdict in ruling.lengths.items():
        if verdict != ruling.verdict:
            changed.setdefault(verdict, []).append(str(epochs))
    by = f" of a {ruling.network}" if ruling.network else ""
    return parts + [f"after {' and '.join(n)} epochs{by}: {signed(verdict)}" for verdict, n in changed.items()]


def summary(found: Mapping[str, Mapping[str, Ruling]], unshown: Sequence[str] = ()) -> str:
    """Return the ledger as an HTML table: a row per claim, a column per suite, and a line for suites without runs.

    found: by the suite's title, then by the claim's id. The links are those of a page in the folder of the chapters.
    """
    rows = []
    for claim in claims():
        statement = (
            f"{escape(claim.statement)} "
            f'<a class="livt-chapter" href="{claim.chapter}.html">{CHAPTERS[claim.chapter]}</a>'
        )
        cells = {"statement": statement}
        for title, verdicts in found.items():
            ruling = verdicts[claim.id]
            items = "".join(f"<li>{part}</li>" for part in beside(ruling) if ruling.verdict != "not run")
            cells[title] = signed(ruling.verdict) + (f'<ul class="livt-beside">{items}</ul>' if items else "")
        rows.append((f'<a href="claims.html#claim-{claim.id}">{claim.id}</a>', cells))
    line = f"<p>Not run: {escape(', '.join(unshown))}.</p>" if unshown else ""
    return cards(rows, "claim", "The claims ledger") + line


def cards(rows: Sequence[tuple[str, Mapping[str, str]]], head: str, label: str) -> str:
    """Return rows of HTML cells, each row's own heading first, as a table whose rows are cards on a narrow screen.

    The style sheet of the book shows a cell's name, its ``data-label``, where the table's head is hidden.
    """
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in (head, *rows[0][1]))
    body = "\n".join(
        f'<tr><th scope="row">{title}</th>'
        + "".join(f'<td data-label="{escape(name)}">{cell}</td>' for name, cell in cells.items())
        + "</tr>"
        for title, cells in rows
    )
    return (
        f'<div class="livt-table" role="region" aria-label="{escape(label)}" tabindex="0">\n'
        f'<table class="table livt-cards">\n<thead><tr>{names}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def section(claim: Claim, found: Mapping[str, Ruling]) -> str:
    """Return all that the ledger has about a claim, as HTML; ``found``: its ruling on each suite, by title."""
    chapter = f'<a href="{claim.chapter}.html">{CHAPTERS[claim.chapter]}</a>'
    items = {"Evidence": escape(claim.evidence), "Limit": escape(claim.limit), "Chapter": chapter}
    if claim.experiment:
        items["Runs"] = f'those of <a href="runs.html#experiment-{claim.experiment}">{claim.experiment}</a>'
    else:
        items["Not run"] = escape(claim.reason)
    text = "".join(f"<li>{name}: {value}</li>" for name, value in items.items())
    tables = {title: contrasts(ruling) for title, ruling in found.items() if ruling.verdict != "not run"}
    return (
        f'<section id="claim-{claim.id}"><p><strong>{claim.id}. {escape(claim.statement)}.</strong></p>'
        f"<ul>{text}</ul>{report.tabs(tables) if tables else ''}</section>"
    )


def contrasts(ruling: Ruling) -> str:
    """Return the judged contrasts of a claim on one suite as HTML, its controls below them."""
    rows = []
    for name, judged in ({"": ruling.judged} | dict(ruling.controls)).items():
        for label, row in with_limits(judged).iterrows():
            ruled, _, size = row["verdict"].partition("; ")
            said = signed(ruled) + (f"; {size}" if size else "")
            cells = {"verdict": said, **row.drop("verdict").astype(str)}
            adjusted = judged.loc[str(label)].get("Holm", float("nan"))
            cells["p (Holm)"] = "-" if isnan(adjusted) else "< 0.001" if adjusted < 0.001 else f"{adjusted:.3f}"
            rows.append((f"{escape(str(label))}{f'; <em>{escape(name)}</em>' if name else ''}", cells))
    lengths = "; ".join(f"{epochs} epochs: {signed(verdict)}" for epochs, verdict in ruling.lengths.items())
    when = f"By length of fine-tuning, {ruling.network}" if ruling.network else "At other lengths of fine-tuning"
    other = f"<p>{when}: {lengths}.</p>" if lengths else ""
    return cards(rows, "difference, in points", f"Contrasts of {ruling.claim.id}") + other


def plateau(panel: Panel) -> str:
    """Return how far plain BCE had come in the runs of the loss ablation of one suite, as HTML; "" without them."""
    rows = panel.measured[panel.measured.arm.isin(["ce", "bce"])]
    curves, level = panel.curves[panel.curves.run.isin(rows.run)], learnt_above(panel.chance)
    if set(rows.arm) < {"ce", "bce"}:
        return ""
    first = {
        loss: [one.epoch[one.accuracy > level].min() for _, one in curves[curves.loss == loss].groupby("seed")]
        for loss in ("bce", "ce")
    }
    when = {loss: ", ".join("never" if isnan(e) else str(e) for e in epochs) for loss, epochs in first.items()}
    waited = [epoch / curves.epoch.max() for epoch in first["bce"]]
    reading = (
        "In some seed it never left its plateau: the distance to it shows its start and says nothing of its end"
        if any(map(isnan, waited))
        else "It spent half of its training or more there: the distance to it mixes its slow start with the long tail"
        if sum(waited) / len(waited) >= 0.5
        else "It left its plateau in the first half of training"
    )
    return (
        f"Plain BCE ends at {report.number(rows, 'bce', 'accuracy')} %. It first exceeded {level:g} % after epoch "
        f"{when['bce']} of {curves.epoch.max()} (CE: {when['ce']}), a number for each seed. <strong>{reading}.</strong>"
    )
