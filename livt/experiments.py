"""Which recipes answer which table or figure; trains what is missing, returns a tidy frame.

An experiment is a function of a profile that names the recipes to compare, its arms. Nothing here decides how one
recipe trains.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from livt.config import LOSSES, Engine, PretrainConfig, Recipe, with_overrides
from livt.data import check_fit, load_dataset
from livt.executors import Plan, TimeIsUp, devices_of, train_as_jobs, train_side_by_side
from livt.finetune import create_classifier
from livt.pretrain import create_mae
from livt.recipes import PROFILES, Profile
from livt.runs import Record, RunStore

METRICS = ["many", "medium", "few", "accuracy", "ece", "mce", "share_to_95"]
COLUMNS = ["arm", "loss", "size", "seed", *METRICS, "part", "run"]


def loss_ablation(profile: Profile) -> dict[str, Recipe]:
    """Table 5 at one size: CE, Bal-CE, BCE and Bal-BCE from one pretraining per seed."""
    return {loss: with_overrides(profile.main, {"finetune.loss": loss}) for loss in LOSSES}


def model_size(profile: Profile) -> dict[str, Recipe]:
    """Table 5 and its figure: the four losses at each model size."""
    return {
        f"{size}/{loss}": with_overrides(profile.sweep, {"model.size": size, "finetune.loss": loss})
        for size in profile.sizes
        for loss in LOSSES
    }


def recipes_lt_vs_balanced(profile: Profile) -> dict[str, Recipe]:
    """Table 1: three recipes, each on the long-tailed images and on as many balanced ones.

    Of ImageNet-LT, whose smallest classes have 5 images, no such set can be taken: there the balanced images are those
    of ImageNet-BAL, 160 of each class and 38 % more.

    ``vit``: CE from scratch. ``deit3``: after DeiT III (Touvron et al., ECCV 2022), from scratch, BCE and drop path.
    Its BCE starts at 1/C, without which it does not leave its start at small scale; its mixup and cutmix are the
    profile's, none on digit pairs (validation, seed 100: 18.1 with the original 0.8 and 1.0, 35.1 with 0.2 and 0.2,
    68.0 without). ``mae``: MGP, then CE. All have the same compute.
    """
    epochs = equal_compute_epochs(profile.sweep)
    recipes: dict[str, dict[str, Any]] = {
        "vit": {"pretrain": None, "finetune.loss": "ce", "finetune.epochs": epochs},
        "deit3": {
            "pretrain": None,
            "finetune.loss": "bce",
            "finetune.start": "uniform",
            "finetune.epochs": epochs,
            "finetune.drop_path": max(0.05, profile.sweep.finetune.drop_path),
        },
        "mae": {"finetune.loss": "ce"},
    }
    balanced = {"data.name": "imagenet_bal"} if profile.sweep.data.name == "imagenet_lt" else {"data.balanced": True}
    return {
        f"{name}/{data}": with_overrides(profile.sweep, {**overrides, **images})
        for name, overrides in recipes.items()
        for data, images in (("balanced", balanced), ("lt", {}))
    }


def ablations(profile: Profile) -> dict[str, Recipe]:
    """One setting at a time, of Bal-BCE: tau, mask ratio, pretraining length, label smoothing, the start."""
    base = with_overrides(profile.sweep, {"finetune.loss": "bal_bce"})
    pretraining = _pretraining(base)
    half = max(2, pretraining.epochs // 2)
    changes: dict[str, dict[str, Any]] = {
        "base": {},
        **{f"tau {tau:g}": {"finetune.tau": tau} for tau in (0.5, 1.5)},
        **{f"mask {ratio:g}": {"pretrain.mask_ratio": ratio} for ratio in (0.25, 0.5, 0.75)},
        "pretrained 0": {"pretrain": None},
        f"pretrained {half}": {
            "pretrain.epochs": half,
            "pretrain.warmup_epochs": pretraining.warmup_epochs * half / pretraining.epochs,
        },
        "smoothing uniform": {"finetune.label_smoothing": 0.1},
        "smoothing prior": {"finetune.label_smoothing": 0.1, "finetune.smoothing_target": "prior"},
        "smoothing none": {"finetune.label_smoothing": 0.0},
        "bce": {"finetune.loss": "bce"},
        "bce, prior start": {"finetune.loss": "bce", "finetune.start": "prior"},
    }
    arms = {name: with_overrides(base, change) for name, change in changes.items()}
    return {name: recipe for name, recipe in arms.items() if name == "base" or recipe != base}


def anatomy(profile: Profile) -> dict[str, Recipe]:
    """What Bal-BCE really does: BCE and CE from each start, at several lengths of fine-tuning and model sizes.

    Keys: ``<size>/<epochs>/<loss>, <start> start``, and Bal-BCE and Bal-CE at the length and size of the sweep.
    """
    sweep = profile.sweep
    plain = (("bce", "zero"), ("bce", "uniform"), ("bce", "prior"), ("ce", "zero"), ("ce", "prior"))
    arms = {}

    def add(size: str, epochs: int, loss: str, start: str) -> None:
        changes = {"model.size": size, "finetune.loss": loss, "finetune.start": start, "finetune.epochs": epochs}
        arms[f"{size}/{epochs}/{loss}, {start} start"] = with_overrides(profile.sweep, changes)

    for epochs in profile.lengths:
        for loss, start in plain:
            add(sweep.model.size, epochs, loss, start)
    for size in profile.sizes:
        for loss, start in plain[:3]:
            add(size, sweep.finetune.epochs, loss, start)
    for loss in ("bal_bce", "bal_ce"):
        add(sweep.model.size, sweep.finetune.epochs, loss, "zero")
    return arms


def equal_compute(profile: Profile) -> dict[str, Recipe]:
    """MGP and fine-tuning beside training from scratch: with equal epochs of labels, and with equal compute.

    Keys: ``mgp/<loss>``, ``scratch, equal epochs/<loss>``, ``scratch, equal compute/<loss>``.
    """
    scratch = {"pretrain": None, "finetune.epochs": equal_compute_epochs(profile.sweep)}
    starts: dict[str, dict[str, Any]] = {
        "mgp": {},
        "scratch, equal epochs": {"pretrain": None},
        "scratch, equal compute": scratch,
    }
    return {
        f"{name}/{loss}": with_overrides(profile.sweep, {**changes, "finetune.loss": loss})
        for name, changes in starts.items()
        for loss in ("ce", "bal_bce")
    }


def paper_vs_code(profile: Profile) -> dict[str, Recipe]:
    """Bal-BCE by the paper's settings, and with each setting in which the released runs differ.

    The paper states no label smoothing, so its arm has none.
    """
    base = with_overrides(profile.sweep, {"finetune.loss": "bal_bce", "finetune.label_smoothing": 0.0})
    changes: dict[str, dict[str, Any]] = {
        "paper": {},
        "half the warm-up": {"finetune.warmup_epochs": base.finetune.warmup_epochs / 2},
        "AdamW beta2 0.999": {"finetune.beta2": 0.999},
        "layer decay 0.65": {"finetune.layer_decay": 0.65},
        "label smoothing 0.1": {"finetune.label_smoothing": 0.1},
    }
    return {name: with_overrides(base, change) for name, change in changes.items()}


def controls(profile: Profile) -> dict[str, Recipe]:
    """Plain BCE at the settings of the loss ablation without its slow start: from 1/C for each class, or the prior."""
    base = with_overrides(profile.main, {"finetune.loss": "bce"})
    return {f"bce, {start} start": with_overrides(base, {"finetune.start": start}) for start in ("uniform", "prior")}


EXPERIMENTS: dict[str, Callable[[Profile], dict[str, Recipe]]] = {
    "loss_ablation": loss_ablation,
    "model_size": model_size,
    "recipes_lt_vs_balanced": recipes_lt_vs_balanced,
    "ablations": ablations,
    "anatomy": anatomy,
    "equal_compute": equal_compute,
    "paper_vs_code": paper_vs_code,
    "controls": controls,
}


def _pretraining(recipe: Recipe) -> PretrainConfig:
    if recipe.pretrain is None:
        raise ValueError("this experiment needs a recipe with a pretraining stage")
    return recipe.pretrain


@cache
def flops_per_image(recipe: Recipe) -> tuple[int, int]:
    """Return the floating-point operations of one image's step in pretraining and in fine-tuning.

    Counted are matrix products, forward and backward, by PyTorch's own counter. Raises ValueError for a recipe without
    pretraining.
    """
    settings = _pretraining(recipe)
    with torch.device("meta"):
        mae, vit = create_mae(recipe), create_classifier(recipe)
        images = [torch.zeros(1, 3, *data.size) for data in (recipe.pretrain_data, recipe.data)]
    with FlopCounterMode(display=False) as pretraining:
        mae(images[0], settings.mask_ratio).loss.backward()
    with FlopCounterMode(display=False) as supervised:
        vit(images[1]).sum().backward()
    return pretraining.get_total_flops(), supervised.get_total_flops()


def equal_compute_epochs(recipe: Recipe) -> int:
    """Return the epochs of training from scratch that cost what both stages of the recipe cost."""
    pretraining, supervised = flops_per_image(recipe)
    return recipe.finetune.epochs + round(_pretraining(recipe).epochs * pretraining / supervised)


def arms(experiment: str, profile: str) -> dict[str, Recipe]:
    """Return the recipe of each arm of an experiment, at seed 0."""
    return EXPERIMENTS[experiment](PROFILES[profile])


def recipes(experiment: str, profile: str, seeds: Sequence[int]) -> list[Recipe]:
    """Return an experiment's recipes: each arm with each seed."""
    return [replace(arm, seed=seed) for arm in arms(experiment, profile).values() for seed in seeds]


def everything(profile: str, seeds: Sequence[int] = (0, 1, 2)) -> list[Recipe]:
    """Return the recipes of all experiments, each once."""
    return list(dict.fromkeys(r for experiment in EXPERIMENTS for r in recipes(experiment, profile, seeds)))


def reproduce(
    experiment: str,
    profile: str,
    seeds: Sequence[int],
    store: RunStore,
    **how: Any,
) -> pd.DataFrame:
    """Train what the experiment lacks and return a row per fine-tuning run, with the columns ``COLUMNS``.

    ``how`` is handed to :func:`train_all`.
    """
    wanted = recipes(experiment, profile, seeds)
    train_all(wanted, store, **how)
    return results(records(wanted, store), arms(experiment, profile))


def table_of(experiments: Sequence[str], profile: str, seeds: Sequence[int], store: RunStore) -> pd.DataFrame:
    """Return a row per finished run of the experiments; of several, with a column that names the experiment."""
    tables = []
    for name in experiments:
        wanted = recipes(name, profile, seeds)
        done = [r for r in wanted if store.is_finished(store.id(r.stage("finetune"), load_dataset(r.data).digest))]
        table = results(records(done, store), arms(name, profile))
        if len(experiments) > 1:
            table.insert(0, "experiment", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def records(recipes: Sequence[Recipe], store: RunStore) -> list[Record]:
    """Return the finished fine-tuning run of each recipe. Raises RunError for one that is missing or damaged."""
    return [store.load(store.id(r.stage("finetune"), load_dataset(r.data).digest)) for r in recipes]


def results(
    runs: Iterable[Record], arms: Mapping[str, Recipe] | None = None, part: Literal["", "posthoc"] = ""
) -> pd.DataFrame:
    """Return one tidy row per run and arm that it belongs to, in the order of the arms.

    Values are percentages, nan for an empty group.

    ``arms`` None takes the loss as the arm. Runs of no arm are left out. ``part`` "posthoc" gives the metrics of plain
    losses after their balanced bias was taken from the logits at test; a run of a balanced loss has none.
    """
    names: dict[Recipe, list[str]] = {}
    for name, recipe in (arms or {}).items():
        names.setdefault(replace(recipe, seed=0), []).append(name)
    rows = []
    for run in runs:
        recipe = run.recipe
        found = run.result.get(part) if part else run.result
        if found is None:
            continue
        for arm in names.get(replace(recipe, seed=0), []) if arms else [recipe.finetune.loss]:
            about = {"arm": arm, "loss": recipe.finetune.loss, "size": recipe.model.size, "seed": recipe.seed}
            rows.append({**about, **{name: found.get(name) for name in METRICS}, "part": part, "run": run.id})
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(METRICS, float))
    order = {name: i for i, name in enumerate(arms or LOSSES)}
    return table.sort_values("arm", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def curves(runs: Sequence[Record]) -> pd.DataFrame:
    """Return one tidy row per run and epoch: loss, seed, run and the epoch's metrics."""
    rows = [
        {"loss": run.recipe.finetune.loss, "seed": run.recipe.seed, "run": run.id, **row}
        for run in runs
        for row in run.metrics
    ]
    return pd.DataFrame(rows)


def train_all(
    recipes: Sequence[Recipe],
    store: RunStore,
    *,
    jobs: int | None = None,
    device: str = "cpu",
    progress: bool = True,
    engine: Engine = Engine(),
    executor: Literal["local", "slurm", "submitit"] = "local",
    slurm: Mapping[str, Any] | None = None,
    deadline: float | None = None,
) -> None:
    """Train every recipe that is not in the store; a pretraining shared by several recipes is trained once.

    ``executor`` "local" trains on this machine, several runs side by side, each on one GPU or CPU thread: ``jobs``
    processes, None for one per GPU or CPU core. "slurm" submits a job for each run, with the ``slurm`` parameters, and
    waits for them; there ``device`` may be "auto". "submitit" does the same without SLURM, on this machine. At
    ``deadline``, a value of ``time.monotonic``, local training ends with TimeIsUp.
    """
    missing = plan(recipes, store)
    if not missing.stages:
        return
    if deadline is not None and time.monotonic() > deadline:
        raise TimeIsUp
    if executor == "local":
        devices = devices_of(device, torch.cuda.device_count(), jobs)
        train_side_by_side(missing, store, devices, engine=engine, progress=progress, deadline=deadline)
    else:
        train_as_jobs(
            missing,
            store,
            device=device,
            engine=engine,
            progress=progress,
            parameters=slurm or {},
            cluster="slurm" if executor == "slurm" else "local",
        )


def plan(recipes: Sequence[Recipe], store: RunStore) -> Plan:
    """Return the stages of the recipes that are not in the store. Raises RunError where what is there is damaged."""
    stages: dict[str, tuple[str, Recipe]] = {}
    follows: dict[str, list[str]] = {}
    for recipe in dict.fromkeys(recipes):
        check_fit(recipe)
        run_id = store.id(recipe.stage("finetune"), load_dataset(recipe.data).digest)
        if store.is_finished(run_id):
            store.load(run_id)  # a damaged run is named before anything trains
            continue
        stages[run_id] = ("finetune", recipe)
        if recipe.pretrain:
            first = store.id(recipe.stage("pretrain"), load_dataset(recipe.pretrain_data).digest)
            if not store.is_finished(first):
                stages[first] = ("pretrain", recipe)
                follows.setdefault(first, []).append(run_id)
    return Plan(stages, follows)
