"""Which recipes answer which table or figure.

An experiment is a function of a suite that names the recipes to compare, its arms. Nothing here decides how one recipe
trains.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from livt.config import FILE_DATASETS, PretrainConfig, Recipe, with_overrides
from livt.lab.deit_lt import deit_lt, distilled
from livt.lab.leaderboard import leaderboard, rivals
from livt.lab.mdcs import mdcs
from livt.lab.metaformer import ancestors, metaformer
from livt.lab.ranges import SEED
from livt.lab.search import search, searched
from livt.lab.suites import SUITES, Suite, with_parts

# Table 5's, in its order; the table of all losses is livt.losses.LOSSES.
PAPER_LOSSES = ("ce", "bal_ce", "bce", "bal_bce")
AFTER_MGP = {"MGP, then CE": "ce", "MGP, then Bal-BCE": "bal_bce"}


def loss_ablation(suite: Suite) -> dict[str, Recipe]:
    """Table 5 at one size: CE, Bal-CE, BCE and Bal-BCE from one pretraining per seed."""
    return {loss: with_overrides(suite.main, {"finetune.loss": loss}) for loss in PAPER_LOSSES}


def model_size(suite: Suite) -> dict[str, Recipe]:
    """Table 5 and its figure: the four losses at each model size."""
    return {
        f"{size}/{loss}": with_overrides(suite.sweep, {"model.size": size, "finetune.loss": loss})
        for size in suite.sizes
        for loss in PAPER_LOSSES
    }


def recipes_lt_vs_balanced(suite: Suite) -> dict[str, Recipe]:
    """Table 1: three recipes, each on the long-tailed images and on as many balanced ones.

    Of ImageNet-LT, whose smallest classes have 5 images, no such set can be taken: there the balanced images are those
    of ImageNet-BAL, 160 of each class and 38 % more.

    ``vit``: CE from scratch. ``deit3``: after DeiT III (Touvron et al., ECCV 2022), from scratch, BCE and drop path.
    Its BCE starts at 1/C, without which it does not leave its start at small scale; its mixup and cutmix are the
    suite's, none on digit pairs (validation, seed 100: 18.1 with the original 0.8 and 1.0, 35.1 with 0.2 and 0.2,
    68.0 without). ``mae``: MGP, then CE. All have the same compute.
    """
    epochs = equal_compute_epochs(suite.sweep)
    recipes: dict[str, dict[str, Any]] = {
        "vit": {"pretrain": None, "finetune.loss": "ce", "finetune.epochs": epochs},
        "deit3": {
            "pretrain": None,
            "finetune.loss": "bce",
            "finetune.start": "uniform",
            "finetune.epochs": epochs,
            "finetune.drop_path": max(0.05, suite.sweep.finetune.drop_path),
        },
        "mae": {"finetune.loss": "ce"},
    }
    balanced = {"data.name": "imagenet_bal"} if suite.sweep.data.name == "imagenet_lt" else {"data.balanced": True}
    return {
        f"{name}/{data}": with_overrides(suite.sweep, {**overrides, **images})
        for name, overrides in recipes.items()
        for data, images in (("balanced", balanced), ("lt", {}))
    }


def networks(suite: Suite) -> dict[str, Recipe]:
    """Claim C1: a residual network beside the ViT, both by CE from scratch, on long-tailed and on balanced images.

    All have the same compute, and the ViT is that of ``recipes_lt_vs_balanced``.
    """
    vit = {arm: recipe for arm, recipe in recipes_lt_vs_balanced(suite).items() if arm.startswith("vit/")}
    network = {"model.size": suite.cnn, "model.patch_size": 1, "finetune.drop_path": 0.0}
    cnn = {arm.replace("vit", "cnn"): with_overrides(recipe, network) for arm, recipe in vit.items()}
    (_, own), (_, other) = (flops_per_image(next(iter(arms.values()))) for arms in (vit, cnn))
    epochs = max(2, round(equal_compute_epochs(suite.sweep) * own / other))
    return vit | {arm: with_overrides(recipe, {"finetune.epochs": epochs}) for arm, recipe in cnn.items()}


def resolution(suite: Suite) -> dict[str, Recipe]:
    """Claim C10: Bal-BCE at the resolution of the pretraining, and at a higher one; none where images have none."""
    if suite.finer is None:
        return {}
    return {
        "pretrained resolution": with_overrides(suite.main, {"finetune.loss": "bal_bce"}),
        "higher resolution": with_overrides(suite.finer, {"finetune.loss": "bal_bce"}),
    }


def ablations(suite: Suite) -> dict[str, Recipe]:
    """One setting at a time, of Bal-BCE: tau, mask ratio, pretraining length, label smoothing, the start."""
    base = with_overrides(suite.sweep, {"finetune.loss": "bal_bce"})
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


def anatomy(suite: Suite) -> dict[str, Recipe]:
    """What Bal-BCE really does: BCE and CE from each start, at several lengths of fine-tuning and model sizes.

    Keys: ``<size>/<epochs>/<loss>, <start> start``; Bal-BCE and Bal-CE at each length too.
    """
    sweep = suite.sweep
    plain = (("bce", "zero"), ("bce", "uniform"), ("bce", "prior"), ("ce", "zero"), ("ce", "prior"))
    arms = {}

    def add(size: str, epochs: int, loss: str, start: str) -> None:
        changes = {"model.size": size, "finetune.loss": loss, "finetune.start": start, "finetune.epochs": epochs}
        arms[f"{size}/{epochs}/{loss}, {start} start"] = with_overrides(suite.sweep, changes)

    for epochs in suite.lengths:
        for loss, start in plain:
            add(sweep.model.size, epochs, loss, start)
    for size in suite.sizes:
        for loss, start in plain[:3]:
            add(size, sweep.finetune.epochs, loss, start)
    for epochs in (sweep.finetune.epochs, *suite.lengths):
        for loss in ("bal_bce", "bal_ce"):
            add(sweep.model.size, epochs, loss, "zero")
    return arms


def equal_compute(suite: Suite) -> dict[str, Recipe]:
    """MGP and fine-tuning beside training from scratch: with equal epochs of labels, and with equal compute.

    Keys: ``mgp/<loss>``, ``scratch, equal epochs/<loss>``, ``scratch, equal compute/<loss>``.
    """
    scratch = {"pretrain": None, "finetune.epochs": equal_compute_epochs(suite.sweep)}
    starts: dict[str, dict[str, Any]] = {
        "mgp": {},
        "scratch, equal epochs": {"pretrain": None},
        "scratch, equal compute": scratch,
    }
    return {
        f"{name}/{loss}": with_overrides(suite.sweep, {**changes, "finetune.loss": loss})
        for name, changes in starts.items()
        for loss in ("ce", "bal_bce")
    }


def paper_vs_code(suite: Suite) -> dict[str, Recipe]:
    """Bal-BCE by the paper's settings, and with each setting in which the released runs differ.

    The paper states no label smoothing, so its arm has none.
    """
    base = with_overrides(suite.sweep, {"finetune.loss": "bal_bce", "finetune.label_smoothing": 0.0})
    changes: dict[str, dict[str, Any]] = {
        "paper": {},
        "half the warm-up": {"finetune.warmup_epochs": base.finetune.warmup_epochs / 2},
        "AdamW beta2 0.999": {"finetune.beta2": 0.999},
        "layer decay 0.65": {"finetune.layer_decay": 0.65},
        "label smoothing 0.1": {"finetune.label_smoothing": 0.1},
    }
    return {name: with_overrides(base, change) for name, change in changes.items()}


def controls(suite: Suite) -> dict[str, Recipe]:
    """The plain losses of the loss ablation from another start: BCE from 1/C for each class, and both from the prior.

    CE starts at 1/C by itself.
    """
    starts = (("bce", "uniform"), ("bce", "prior"), ("ce", "prior"))
    return {
        f"{loss}, {start} start": with_overrides(suite.main, {"finetune.loss": loss, "finetune.start": start})
        for loss, start in starts
    }


def probes(suite: Suite) -> dict[str, Recipe]:
    """What labels do to features: the probes of a pretraining, of encoders that were trained with labels.

    Keys: ``<encoder>/<probe>``. The encoders are those of :func:`equal_compute`; from scratch has the same compute.
    """
    return _probed("CE from scratch", equal_compute(suite)["scratch, equal compute/ce"]) | probes_after_mgp(suite)


def probes_after_mgp(suite: Suite) -> dict[str, Recipe]:
    """Return the arms of :func:`probes` with a pretraining, for which no cost is counted."""
    found = {title: with_overrides(suite.sweep, {"finetune.loss": loss}) for title, loss in AFTER_MGP.items()}
    return {arm: recipe for title, base in found.items() for arm, recipe in _probed(title, base).items()}


def _probed(encoder: str, recipe: Recipe) -> dict[str, Recipe]:
    return {
        f"{encoder}/{probe}": with_overrides(recipe, {"second.method": f"{probe}_probe"}) for probe in ("knn", "linear")
    }


def variance(suite: Suite) -> dict[str, Recipe]:
    """Where the spread comes from: four draws of the training images, three MGPs on each, fine-tunings of each by seed.

    The draws have the same class counts, and one test split; no two MGPs have one seed. Keys: ``draw <number>, MGP
    <seed>/<loss>``. None for images that are used whole, of which there is one draw.
    """
    if suite.sweep.data.name in FILE_DATASETS and suite.sweep.data.max_count is None:
        return {}
    pretraining = _pretraining(suite.sweep)
    return {
        f"draw {draw}, MGP {seed}/{loss}": with_overrides(
            replace(suite.sweep, pretrain=replace(pretraining, seed=seed)),
            {"data.draw": draw, "finetune.loss": loss},
        )
        for draw in (1, 2, 3, 4)
        for seed in range(3 * draw, 3 * draw + 3)
        for loss in ("ce", "bal_bce")
    }


def clustering(suite: Suite) -> dict[str, Recipe]:
    """Claim D4: pretrained features clustered without labels in five ways, with one head, start and budget for all.

    The mean patch token of a digit pair does not know which of its digits is the first, so there all tokens are taken.
    """
    tokens = "all" if suite.main.data.name == "digit_pairs" else "mean"
    return {
        method: with_overrides(suite.main, {"cluster.method": method, "cluster.tokens": tokens})
        for method in ("k_means", "balanced", "uot", "p2ot", "sp2ot")
    }


EXPERIMENTS: dict[str, Callable[[Suite], dict[str, Recipe]]] = {
    "loss_ablation": loss_ablation,
    "model_size": model_size,
    "recipes_lt_vs_balanced": recipes_lt_vs_balanced,
    "networks": networks,
    "resolution": resolution,
    "ablations": ablations,
    "anatomy": anatomy,
    "equal_compute": equal_compute,
    "paper_vs_code": paper_vs_code,
    "controls": controls,
    "leaderboard": leaderboard,
    "rivals": rivals,
    "probes": probes,
    "variance": variance,
    "mdcs": mdcs,
    "clustering": clustering,
    "deit_lt": deit_lt,
    "metaformer": metaformer,
    "ancestors": ancestors,
    "search": search,
    "searched": searched,
}
# Of these a page asks only where a suite has a run: to name their arms, their costs are counted, or they have runs of
# other experiments.
COUNTED = ("leaderboard", "rivals", "deit_lt", "probes")
# What a build shows from the records that there are, and trains only where a suite names it.
ON_DEMAND = (*COUNTED, "variance", "mdcs", "clustering", "metaformer", "ancestors", "search", "searched")
# Of those, what chooses settings on validation images, with its seeds: no result, and on no page as one.
CHOOSING = {"search": (SEED,)}
# Of those that a page looks for by arms that need no cost, their function.
SOUGHT_BY = {"deit_lt": distilled, "probes": probes_after_mgp}


def _pretraining(recipe: Recipe) -> PretrainConfig:
    if recipe.pretrain is None:
        raise ValueError("this experiment needs a recipe with a pretraining stage")
    return recipe.pretrain


@cache
def flops_per_image(recipe: Recipe) -> tuple[int, int]:
    """Return the floating-point operations of one image's step in pretraining, 0 without it, and in fine-tuning.

    Counted are matrix products, forward and backward, by PyTorch's own counter.
    """
    from livt.data.sets import classes_of  # heavy, and names of experiments are asked for more often than their cost
    from livt.lab.cost import flops_of

    classes = classes_of(recipe.data)
    pretraining = 0 if recipe.pretrain is None else flops_of("pretrain", recipe, classes)
    return pretraining, flops_of("finetune", recipe, classes)


def equal_compute_epochs(recipe: Recipe) -> int:
    """Return the epochs of training from scratch that cost what both stages of the recipe cost."""
    pretraining, supervised = flops_per_image(recipe)
    return recipe.finetune.epochs + round(_pretraining(recipe).epochs * pretraining / supervised)


def arms(experiment: str, suite: str) -> dict[str, Recipe]:
    """Return the recipe of each arm of an experiment, at seed 0."""
    return EXPERIMENTS[experiment](SUITES[suite])


def seeds_of(experiment: str, suite: str) -> tuple[int, ...]:
    """Return the seeds with which a suite trains an experiment."""
    return CHOOSING.get(experiment) or SUITES[suite].seeds_of.get(experiment, SUITES[suite].seeds)


def recipes(experiment: str, suite: str, seeds: Sequence[int] | None = None, only: Sequence[str] = ()) -> list[Recipe]:
    """Return an experiment's recipes: each arm, or ``only`` some, with each seed, by default those of the suite."""
    chosen = seeds_of(experiment, suite) if seeds is None else seeds
    found = arms(experiment, suite)
    return [replace(found[arm], seed=seed) for arm in found if not only or arm in only for seed in chosen]


def trained(suite: str) -> tuple[str, ...]:
    """Return the names of the experiments that a build trains on a suite: its own, else all but those on demand."""
    return SUITES[suite].experiments or tuple(name for name in EXPERIMENTS if name not in ON_DEMAND)


def shown(suite: str) -> tuple[str, ...]:
    """Return the names of the experiments that a page shows of a suite where there are records of them."""
    return tuple(name for name in dict.fromkeys((*trained(suite), *ON_DEMAND)) if name not in CHOOSING)


def everything(suite: str) -> list[Recipe]:
    """Return the recipes of all experiments of a suite and its parts, each once."""
    return list(
        dict.fromkeys(
            recipe for part in with_parts(suite) for experiment in trained(part) for recipe in recipes(experiment, part)
        )
    )
