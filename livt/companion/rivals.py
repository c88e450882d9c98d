"""The measured leaderboard: every method in one harness, as tables, comparisons and findings in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import combinations

import pandas as pd

from livt.companion import plots, report
from livt.companion.chapter import Panel
from livt.companion.frames import ledger, with_adjusted, with_removal
from livt.companion.leaderboards import published_gains
from livt.companion.ledger import signed
from livt.companion.methods import FAMILIES, family, title
from livt.companion.plots.benchmarks import intervals
from livt.companion.report import change, number
from livt.companion.statistics import RankCorrelation, estimate, holm, rank_correlation, two_sided
from livt.config import Recipe
from livt.lab import leaderboard
from livt.lab.cost import flops_of, parameters_of
from livt.lab.experiments import seeds_of
from livt.lab.find import find, starts
from livt.lab.results import results

WAYS = {"mgp": "equal epochs", "equal compute": "equal compute", "scratch": "from scratch"}
SCORES = {"many": "many", "medium": "medium", "few": "few", "accuracy": "all", "ece": "ECE"}
METHOD = {"method": ("method", False)}
COLUMNS = METHOD | {score: (name, True) for score, name in SCORES.items()} | {"seeds": ("seeds", True)}
COSTS = METHOD | {
    "family": ("family", False),
    "parameters": ("parameters", True),
    "compute": ("FLOPs / CE", True),
    "seconds": ("seconds", True),
}
BASES = ("bal_ce", "bal_bce")
BASELINES = ("nearest_pixels", "class_means")
LEVEL = 0.05  # of a family of tests, after Holm
NOT_RUN = "<p>No run of the leaderboard's methods has a record yet.</p>"


def each(panels: Sequence[Panel], show: Callable[[Panel], str]) -> str:
    """Return what ``show`` makes of each suite's leaderboard, as tabs of HTML; one sentence where there is none."""
    return report.tabs({panel.title: show(panel) for panel in panels}) if panels else NOT_RUN


def harness(panel: Panel) -> str:
    """Return the data and the network of a suite's leaderboard, which may be smaller than that of its other pages."""
    return f"{panel.suite.title}, ViT {panel.arms['mgp/ce'].model.size}"


def methods(measured: pd.DataFrame, way: str) -> list[str]:
    """Return the methods that have a run in one of the ``WAYS``, highest mean accuracy first."""
    own = measured[measured.arm.str.startswith(f"{way}/")]
    means = own.groupby("arm").accuracy.mean().sort_values(ascending=False, kind="stable")
    return [str(arm).removeprefix(f"{way}/") for arm in means.index]


# ---------------------------------------------------------------- the table


def tables(panel: Panel) -> str:
    """Return sortable tables for each of the three ways that have runs, the costs folded, and all rows as a file."""
    parts = []
    for way, name in WAYS.items():
        caption = f"{harness(panel)}, {name}: percent, mean ± standard deviation over seeds"
        rows = table_rows(panel, way)
        if rows:
            slug = f"measured-{panel.name}-{way}".replace(" ", "-").replace("_", "-")
            parts.append(report.sortable(slug, caption, COLUMNS, rows, "accuracy"))
            dearest = sorted(rows, key=lambda row: -float(row["compute"]))
            said = f"{harness(panel)}, {name}: what each costs"
            costs = report.sortable(f"{slug}-costs", said, COSTS, dearest, "compute")
            parts.append(report.folded(f"What each costs, {name}", costs))
    return "".join(parts) + report.download(with_adjusted(panel), f"{panel.name}_leaderboard")


def table_rows(panel: Panel, way: str) -> list[dict[str, str]]:
    """Return a row for each method in one of the ``WAYS``, best first, as ``report.sortable`` takes them."""
    measured, classes = with_adjusted(panel), len(panel.class_counts)
    base = compute(panel.arms["mgp/ce"], classes)
    took = seconds(panel)
    rows = []
    for method in methods(measured, way):
        arm = f"{way}/{method}"
        own, recipe = measured[measured.arm == arm], panel.arms[arm.removesuffix(", adjusted")]
        size = parameters_of(recipe.last_stage, recipe, classes)
        row = {
            "method": escape(title(method)) + (" (this paper)" if method == "bal_bce" else ""),
            "family": family(method),
            "seeds": str(own.seed.nunique()),
            "parameters": f"{size:,}",
            "sort parameters": str(size),
            "compute": f"{compute(recipe, classes) / base:.2f}",
            "seconds": f"{own.run.map(took).mean():.0f}",
        }
        for score in SCORES:
            row |= {score: number(measured, arm, score), f"sort {score}": f"{own[score].mean():.6f}"}
        rows.append(row)
    return rows


def compute(recipe: Recipe, classes: int) -> float:
    """Return the floating-point operations of all stages of a recipe, per training image."""
    stages = {name: getattr(recipe, name) for name in ("pretrain", "finetune", "second")}
    return float(sum(s.epochs * flops_of(name, recipe, classes) for name, s in stages.items() if s is not None))


def seconds(panel: Panel) -> dict[str, float]:
    """Return the seconds of each run's training with labels, by run id: of a second stage, those of its first too."""
    every = {run.id: run for run in (*panel.records, *starts(panel.records, panel.store))}
    found = {}
    for run in panel.records:
        first = every.get(run.result.get("finetune_run", ""))
        found[run.id] = sum(r.environment["wall_time_s"] for r in (run, first) if r is not None)
    return found


def baselines(panel: Panel) -> pd.DataFrame:
    """Return the rows of what learns no classifier on a panel's images, by title: pixels and class means of CE.

    They are runs of the leaderboard, whose ViT is named where it is not the panel's.
    """
    arms = {}
    for name, recipe in leaderboard.rivals(panel.suite).items():
        method = name.removeprefix("mgp/")
        if method in BASELINES:
            other = recipe.model.size != panel.suite.main.model.size and method != "nearest_pixels"
            arms[title(method) + f", ViT {recipe.model.size}" * other] = recipe
    seeds = seeds_of("rivals", panel.name)
    wanted = [replace(recipe, seed=seed) for recipe in arms.values() for seed in seeds]
    return results(find(wanted, panel.store).values(), arms)


# ---------------------------------------------------------------- who is ahead of whom


def gaps(measured: pd.DataFrame, base: str, metric: str = "accuracy", way: str = "mgp") -> pd.DataFrame:
    """Return each method minus ``base`` within a seed, best method first, with Holm's method over the methods.

    At equal compute there are only those that cost more than CE; the bases, which do not, are those of equal epochs.

    Columns: method, arm, n, mean, low, high (95 % Student interval, points), p (two-sided), Holm, and told: 1 ahead of
    the base, -1 behind it, 0 where they are not told apart, or n is below three.
    """
    wide = measured.pivot(index="seed", columns="arm", values=metric)
    rows = []
    for method in methods(measured, way):
        arm, other = f"{way}/{method}", _base(way, base)
        if method == base or other not in wide:
            continue
        values = (wide[arm] - wide[other]).dropna()
        e = estimate(values)
        p = two_sided(values) if e.n >= 3 else float("nan")
        rows.append({"method": method, "arm": arm, "n": e.n, "mean": e.mean, "low": e.low, "high": e.high, "p": p})
    table = pd.DataFrame(rows, columns=["method", "arm", "n", "mean", "low", "high", "p"])
    adjusted = iter(holm(table.p.dropna().tolist()))
    table["Holm"] = [next(adjusted) if p == p else p for p in table.p]
    table["told"] = [int((h <= LEVEL) * ((m > 0) - (m < 0))) for h, m in zip(table.Holm, table["mean"], strict=True)]
    return table


def counted(table: pd.DataFrame, base: str) -> str:
    """Return in words how many methods are told to be ahead of ``base``, and which, and how many behind; as HTML."""
    ahead = [escape(title(method)) for method in table[table.told == 1].method]
    named = f" ({'; '.join(ahead)})" if ahead else ""
    behind, even = (table.told == -1).sum(), (table.told == 0).sum()
    first = f"{len(ahead) or 'none'} {'are' if len(ahead) > 1 else 'is'} ahead of {title(base)}{named}"
    return f"{first}, {behind} behind, {even} not told apart"


def ahead(panel: Panel) -> str:
    """Return the verdict on C11, and the differences to Bal-CE and Bal-BCE as a figure and as a table, as HTML."""
    measured = with_adjusted(panel)
    found = {f"minus {title(base)}": gaps(measured, base) for base in BASES}
    said = "; ".join(counted(table, base) for base, table in zip(BASES, found.values(), strict=True))
    caption = (
        f"{report.begun(harness(panel))}, from MGP with equal epochs: accuracy of each method {' and '.join(found)}"
    )
    caption += f" within a seed, mean and 95 % interval. After Holm's correction {said}."
    names = {f"mgp/{method}": title(method) for method in methods(measured, "mgp")}
    alt = f"{caption} A row for each method, best first; what is told apart from zero is filled."
    figure = plots.shown(intervals(found, names), caption, alt)
    return verdict(panel) + figure + gap_table(panel) + with_fewer_epochs(panel)


def with_fewer_epochs(panel: Panel) -> str:
    """Return what is ahead of Bal-CE and Bal-BCE at equal compute, of the methods that cost more, as HTML."""
    way, measured = "equal compute", with_adjusted(panel)
    found = len(methods(measured, way))
    if not found:
        return ""
    said = "; ".join(counted(gaps(measured, base, way=way), base) for base in BASES)
    return f"<p>At {way}, of the {found} that cost more than CE, {said}.</p>" + gap_table(panel, way)


def verdict(panel: Panel) -> str:
    """Return the verdict on C11 as HTML, and in words what the contrasts behind it are."""
    ruling, judged = ledger({"rivals": with_adjusted(panel)}, panel.suite.sizes, chance=panel.chance)["C11"]
    labels = judged.index.str.removeprefix("Bal-BCE minus ").str.removesuffix(", from MGP")
    parts = []
    for kind, words in {
        "direction holds": "ahead of",
        "inconclusive": "undecided beside",
        "not reproduced": "behind",
        "not run": "not run beside",
    }.items():
        own = labels[judged.verdict == kind]
        if kind == "not run" and own.empty:
            continue
        parts.append(f"{words} {len(own)}" + (f" ({escape('; '.join(own))})" if 0 < len(own) <= 12 else ""))
    return f"<p><strong>C11: {signed(ruling)}.</strong> Of {len(judged)} rivals Bal-BCE is {'; '.join(parts)}.</p>"


def gap_table(panel: Panel, way: str = "mgp") -> str:
    """Return the differences to both bases as an HTML table, a row per method in one of the ``WAYS``, folded."""
    measured = with_adjusted(panel)
    found = {base: gaps(measured, base, way=way).set_index("method") for base in BASES}
    rows: dict[str, dict[str, str]] = {}
    for method in methods(measured, way):
        row = rows[escape(title(method))] = {}
        for base, table in found.items():
            here = method in table.index
            weights = {f"{way}/{method}": 1, _base(way, base): -1}
            row[f"minus {title(base)}"] = change(measured, weights) if here else "-"
            row[f"p (Holm), {title(base)}"] = _p(table.Holm[method]) if here else "-"
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return report.folded(f"The differences as a table, {WAYS[way]}", report.table(frame))


def _base(way: str, base: str) -> str:
    return f"{'mgp' if way == 'equal compute' else way}/{base}"


def _p(value: float) -> str:
    return "-" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"


# ---------------------------------------------------------------- published gains and measured ones


def gains(measured: pd.DataFrame) -> pd.DataFrame:
    """Return ``published_gains`` of methods measured here, with the mean gain over CE here in ``measured``."""
    paper, wide = published_gains(), measured.pivot(index="seed", columns="arm", values="accuracy")
    found = {
        method: (wide[f"mgp/{method}"] - wide["mgp/ce"]).mean()
        for method in paper.method.unique()
        if {f"mgp/{method}", "mgp/ce"} <= set(wide)
    }
    return paper.assign(measured=paper.method.map(found)).dropna(subset="measured")


def between_tables() -> str:
    """Return how far the orders of the published gains agree among themselves, as HTML: a scale for those with ours.

    Of the pairs of tables with six methods or more in common.
    """
    wide = published_gains().pivot(index="method", columns="data", values="gain")
    said = []
    for pair in combinations(published_gains().data.unique(), 2):
        both = wide[list(pair)].dropna()
        if len(both) >= 6:
            r = rank_correlation(*(both[name].tolist() for name in pair))
            said.append(f"{r.tau:.2f} ({r.low:.2f} to {r.high:.2f}; {' and '.join(pair)}, {r.n} methods)")
    return f"<p>Among themselves the published orders have a tau of {'; '.join(said)}.</p>"


def gain_table(panel: Panel) -> str:
    """Return the published and the measured gains over CE beside each other, and how far their orders agree."""
    found = gains(panel.measured)
    rows = {}
    for method in found.drop_duplicates("method").sort_values("measured", ascending=False).method:
        own = found[found.method == method].set_index("data")
        rows[escape(title(method))] = {
            "measured": change(panel.measured, {f"mgp/{method}": 1, "mgp/ce": -1}),
            **{name: f"{own.gain[name]:+.1f}{'' if own.equal[name] else '*'}" for name in own.index},
        }
    columns = ["measured", *found.data.unique()]
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns).fillna("-")
    orders = [
        f"<li>{name}: {agreement(rank_correlation(own.gain, own.measured))}</li>"
        for name, own in found.groupby("data", sort=False)
    ]
    return report.table(frame.rename_axis("gain over CE")) + f"<ul>{''.join(orders)}</ul>"


def agreement(r: RankCorrelation) -> str:
    """Return a rank correlation in words."""
    if r.low != r.low:
        return f"methods with both numbers: {r.n}, too few to compare their orders."
    reading = "the orders agree" if r.low > 0 else "the orders disagree" if r.high < 0 else "they may be unrelated"
    interval = f"95 % interval over methods {r.low:.2f} to {r.high:.2f}; p = {_p(r.p)}".replace("= <", "<")
    return f"Kendall's tau of {r.n} methods is {r.tau:.2f} ({interval}): <strong>{reading}</strong>."


# ---------------------------------------------------------------- families


def best_of_families(measured: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the method of each family with the best mean of a metric, from MGP with equal epochs, best family first.

    Columns: family, method, mean; told: whether the first is told apart from this one within seeds, by Holm's method.
    """
    sign = -1 if metric == "ece" else 1
    means = measured[measured.arm.str.startswith("mgp/")].groupby("arm")[metric].mean().dropna()
    rows = []
    for name, members in FAMILIES.items():
        own = means[means.index.isin([f"mgp/{method}" for method in members])]
        if len(own):
            arm = (sign * own).idxmax()
            rows.append({"family": name, "method": arm.removeprefix("mgp/"), "mean": own[arm]})
    table = pd.DataFrame(rows, columns=["family", "method", "mean"])
    table = table.sort_values("mean", ascending=sign < 0, kind="stable", ignore_index=True)
    wide = measured.pivot(index="seed", columns="arm", values=metric)
    p = []
    for method in table.method[1:]:
        values = (wide[f"mgp/{table.method[0]}"] - wide[f"mgp/{method}"]).dropna()
        p.append(two_sided(values) if len(values) >= 3 else 1.0)
    table["told"] = [False, *(adjusted <= LEVEL for adjusted in holm(p))][: len(table)]
    return table


def family_table(panel: Panel) -> str:
    """Return the best method of each family by metric, and which families the first is not told apart from."""
    measured = with_adjusted(panel)
    rows: dict[str, dict[str, str]] = {}
    said = []
    for metric, name in SCORES.items():
        best = best_of_families(measured, metric)
        for row in best.itertuples():
            shown = number(measured, f"mgp/{row.method}", metric)
            rows.setdefault(row.family, {})[name] = f"{shown} {escape(title(row.method))}"
        if len(best) > 1:
            even = best.family[1:][~best.told[1:].astype(bool)].tolist()
            beside = f"not told apart: {', '.join(even)}" if even else "told apart from all others"
            said.append(f"<li>{name}: {best.family[0]} ({escape(title(best.method[0]))}); {beside}</li>")
    frame = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=list(SCORES.values()))
    return report.table(frame.rename_axis("family")) + f"<p>First by mean:</p><ul>{''.join(said)}</ul>"


# ---------------------------------------------------------------- the crossings


def crossings(panel: Panel) -> str:
    """Return each method with and without MGP, and each loss plain and with its prior taken away at test, as HTML."""
    measured, names = panel.measured, methods(panel.measured, "mgp")
    started = {name: (_after_mgp(panel, name), f"scratch/{name}") for name in methods(measured, "scratch")}
    started = {name: pair for name, pair in started.items() if (measured.arm == pair[0]).any()}
    start = _crossing(measured, started, "MGP", "scratch", "method")
    removed = with_removal(panel)
    arms = {name: (f"mgp/{name}", f"mgp/{name}, removed") for name in names}
    arms = {name: pair for name, pair in arms.items() if (removed.arm == pair[1]).any()}
    prior = _crossing(removed, {name: pair[::-1] for name, pair in arms.items()}, "adjusted", "plain", "loss")
    if not started:
        return start + prior
    order = rank_correlation(*(_means(measured, pair) for pair in zip(*started.values(), strict=True)))
    said = f"{first_of(measured, started)} The order with MGP and from scratch: {agreement(order)}"
    return f"{start}<p>{said}</p>{prior}"


def _after_mgp(panel: Panel, method: str) -> str:
    """Return the arm of a method that has MGP and costs what the others cost."""
    dearer = f"equal compute/{method}"
    return dearer if dearer in panel.arms else f"mgp/{method}"


def first_of(measured: pd.DataFrame, started: Mapping[str, tuple[str, str]]) -> str:
    """Say whether the method that is first with MGP is first from scratch too; ``started``: both arms of each."""
    after, alone = (
        max(started, key=dict(zip(started, _means(measured, pair), strict=True)).__getitem__)
        for pair in zip(*started.values(), strict=True)
    )
    if after == alone:
        return f"{escape(title(after))} is first with MGP and from scratch."
    gap = [change(measured, {started[alone][way]: 1, started[after][way]: -1}) for way in (0, 1)]
    return (
        f"First with MGP is {escape(title(after))}, first from scratch {escape(title(alone))}. {escape(title(alone))} "
        f"minus {escape(title(after))} is {gap[0]} points with MGP and {gap[1]} from scratch."
    )


def _means(measured: pd.DataFrame, arms: Sequence[str]) -> list[float]:
    return measured.groupby("arm").accuracy.mean().reindex(list(arms)).tolist()


def _crossing(measured: pd.DataFrame, pairs: Mapping[str, tuple[str, str]], first: str, second: str, of: str) -> str:
    rows = {
        escape(title(name)): {
            f"{second}, all": number(measured, plain, "accuracy"),
            f"{first}, all": number(measured, other, "accuracy"),
            "difference, all": change(measured, {other: 1, plain: -1}),
            "difference, few": change(measured, {other: 1, plain: -1}, "few"),
        }
        for name, (other, plain) in pairs.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return report.table(frame.rename_axis(of), f"{report.begun(first)} beside {second}") if rows else ""
