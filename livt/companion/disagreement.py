"""How far the experts of a model differ, and models of different seeds: read off stored weights, and kept as a table.

A record has no logits of single experts, and a promoted one no weights to compute them from. So they are computed
where the weights are, and kept beside the promoted records:

    python -m livt.companion.disagreement --suite digits

writes ``derived/mdcs_digits.csv`` into the folder of promoted records. Shapes: ``S`` seeds, ``N`` images of the
evaluation split, ``K`` experts, ``C`` classes.
"""

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from livt.companion.chapter import Panel
from livt.config import Engine
from livt.data.augment import Augment
from livt.data.batches import apply
from livt.lab import experiments
from livt.lab.failures import RunError
from livt.lab.files import sha256, write_atomically
from livt.lab.find import find
from livt.lab.promoted import promoted_folder
from livt.lab.results import results
from livt.lab.runs import Record, RunStore
from livt.lab.stages import STAGES, load_weights
from livt.lab.stored import data_of
from livt.lab.suites import SUITES
from livt.longtail import GROUPS, shot_groups
from livt.rivals.experts import expert_logits

EXPERTS = ("many", "medium", "few")  # the experts of MDCS, by the classes that each is for
SCORES = ("disagreement", "variance", "bias", "expert_variance")


def logits_of_experts(record: Record, store: RunStore) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return logits [N, K, C] of the experts of a run, and labels [N], on its evaluation split, in float32.

    Raises RunError where weights or data are not those of the run, ValueError for a model without experts.
    """
    weights, data, recipe = load_weights(record, store), data_of(record), record.recipe
    model = STAGES[record.stage].model(recipe, data.num_classes).eval()
    model.load_state_dict(weights)
    augment = Augment(recipe.finetune.augment, data.mean, data.std)
    logits = apply(lambda images: expert_logits(model, images), data.evaluation, augment, torch.device("cpu"), Engine())
    return logits.double().numpy(), data.evaluation.labels.numpy()


def main_prediction(logits: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the class [N] that most of the models decide for, of their logits [S, N, C].

    Of classes with as many votes, it is that with the highest mean probability.
    """
    votes = np.eye(logits.shape[-1])[logits.argmax(-1)].sum(0)
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    return (votes + 0.5 * (exps / exps.sum(-1, keepdims=True)).mean(0)).argmax(-1)


def spread_of(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> list[dict[str, float]]:
    """Return for each of several seeds how its experts, and how it and the other seeds, differ; all in percent.

    logits [S, N, K, C], of two experts or more; labels [N]. disagreement: images on which two experts decide
    differently, a mean over pairs.
    Bias and variance are those of Domingos (ICML 2000) for zero-one loss, as RIDE and MDCS report them: variance, the
    images on which a seed decides otherwise than the main prediction of all seeds (:func:`main_prediction`); bias, of
    all seeds, those on which the main prediction is wrong. ``expert_variance`` is the mean of the variances of the
    experts, each beside its own main prediction. The experts' mean logits decide for the model.
    One seed has no other to differ from: all but its disagreement are nan.
    """
    whole = logits.mean(2)
    main = main_prediction(whole)
    of_experts = [main_prediction(logits[:, :, k]) for k in range(logits.shape[2])]
    rows = []
    for own, mean in zip(logits.argmax(-1), whole.argmax(-1), strict=True):  # [N, K], [N]
        apart = [own[:, i] != own[:, j] for i, j in combinations(range(own.shape[1]), 2)]
        shares = {
            "disagreement": np.mean(apart),
            "variance": np.mean(mean != main),
            "bias": np.mean(main != labels),
            "expert_variance": np.mean([own[:, k] != main_k for k, main_k in enumerate(of_experts)]),
        }
        told = shares if len(logits) > 1 else dict.fromkeys(shares, np.nan) | {"disagreement": shares["disagreement"]}
        rows.append({name: 100 * float(share) for name, share in told.items()})
    return rows


def measured(panel: Panel) -> pd.DataFrame:
    """Return a row per run of a panel whose runs all have their weights in the store.

    Columns: arm, seed, run; code, of what trained it; weights, the beginning of their SHA-256; accuracy, of the mean;
    of each expert of ``EXPERTS`` its accuracy over all classes and over each group, such as ``few_all`` and
    ``few_many``; and those of :func:`spread_of`, each arm for itself. Raises RunError for missing or damaged weights.
    """
    runs = {record.id: record for record in panel.records}
    rows: list[dict[str, Any]] = []
    for arm, own in results(panel.records, panel.arms).groupby("arm", sort=False):
        found = [logits_of_experts(runs[run], panel.store) for run in own.run]
        labels = found[0][1]
        group = shot_groups(panel.class_counts)[labels]
        for row, (logits, _), spread in zip(
            own.itertuples(), found, spread_of(np.stack([z for z, _ in found]), labels), strict=True
        ):
            seal = sha256(panel.store.weights(row.run).read_bytes())[:16]
            values: dict[str, Any] = {"arm": arm, "seed": row.seed, "run": row.run, "code": runs[row.run].code}
            values |= {"weights": seal, "accuracy": 100 * float((logits.mean(1).argmax(-1) == labels).mean())}
            for k, name in enumerate(EXPERTS):
                right = logits[:, k].argmax(-1) == labels
                values[f"{name}_all"] = 100 * float(right.mean())
                values |= {f"{name}_{g}": 100 * float(right[group == g].mean()) for g in GROUPS if (group == g).any()}
            rows.append(values | spread)
    return pd.DataFrame(rows)


def table_path(suite: str, folder: Path | None = None) -> Path:
    """Return where the table of a suite is kept; ``folder``: of the promoted records."""
    return (folder or promoted_folder()) / "derived" / f"mdcs_{suite}.csv"


def spread(panel: Panel) -> pd.DataFrame:
    """Return what :func:`measured` does, of the store's weights where it has them all, else as it was kept.

    A kept table stands for exactly the runs of the panel, or it is not shown: variance over seeds is that of all. An
    empty frame stands for none. Raises RunError where table and records part ways.
    """
    runs = [record.id for record in panel.records]
    if runs and all(panel.store.is_finished(run) for run in runs):
        return measured(panel)
    path = table_path(panel.name)
    kept = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["run"])
    if set(kept.run) != set(runs):
        return kept.iloc[:0]
    accuracy = panel.measured.set_index("run").accuracy
    if (kept.set_index("run").accuracy - accuracy).abs().max() > 0.01:
        raise RunError(f"{path} has other accuracies than the records of its runs: write it again from their weights")
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table of a suite from the runs of the store (``$LIVT_RUNS``)."""
    parser = argparse.ArgumentParser(description="Keep how far experts and seeds differ, from stored weights.")
    parser.add_argument("--suite", choices=tuple(SUITES), default="digits")
    suite, store = parser.parse_args(arguments).suite, RunStore()
    records = find(experiments.recipes("mdcs", suite), store).values()
    missing = [record.id for record in records if not store.is_finished(record.id)]
    if missing or not records:
        parser.error(f"{store.root} lacks the weights of {', '.join(missing) or 'every run of mdcs'}")
    table = measured(Panel(suite, experiments.arms("mdcs", suite), tuple(records), store))
    path = table_path(suite)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, table.round(4).to_csv(index=False).encode())
    print(f"{path}: {len(table)} runs")


if __name__ == "__main__":
    main()
