"""The stages of training: how each is trained, and what it hands to those that start from it.

``livt.config.STAGES`` says which stage starts from which; nothing else needs to know how many there are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from livt.clustering.cluster import cluster, create_clusters
from livt.config import Engine, Recipe
from livt.data.sets import check_fit, load_dataset
from livt.finetune import create_classifier, finetune
from livt.lab.check import recipe_of
from livt.lab.environment import code_of
from livt.lab.failures import RunError
from livt.lab.runs import Record, RunStore, damaged
from livt.lab.weights import read_weights
from livt.losses import Loss, loss_of
from livt.mae import encoder_weights
from livt.models import MAX_BLOCKS
from livt.pretrain import create_mae, pretrain
from livt.rivals.distill import create_student, distill
from livt.rivals.metaformer import create_metaformer, meta
from livt.rivals.methods import method_of
from livt.rivals.second import create_second, second
from livt.rivals.teacher import create_teacher, teacher

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How a stage is trained.

    train: a loop, called with recipe, images, the open run, ``device``, ``progress``, ``engine``, and the weights that
    it needs under the names that ``needs`` gives them, by the stage that hands them over. model: the untrained model
    of a recipe for so many classes, whose weights the run keeps. gives: what the stage hands over, from the weights of
    its run. uses: modules that the loop calls by a name of the recipe, as the loss.
    """

    train: Callable[..., None]
    model: Callable[[Recipe, int], nn.Module]
    needs: Mapping[str, str] = field(default_factory=dict)
    gives: Callable[[Weights], Weights] = dict
    uses: Callable[[Recipe], list[str]] = lambda recipe: []

    def code(self, recipe: Recipe) -> str:
        """Return the digest of the code that trains this stage of a recipe."""
        return code_of(self.train.__module__, *self.uses(recipe))


def _loss_module(recipe: Recipe) -> list[str]:
    return [_module_of(loss_of(recipe.finetune))]


def _module_of(loss: Loss) -> str:
    return getattr(loss.create, "func", loss.create).__module__  # a partial is of the module of its function


def _teacher_modules(recipe: Recipe) -> list[str]:
    return [] if recipe.teacher is None else [_module_of(loss_of(recipe.teacher))]


def _meta_modules(recipe: Recipe) -> list[str]:
    return [] if recipe.meta is None else [_module_of(loss_of(recipe.meta))]


def _second_modules(recipe: Recipe) -> list[str]:
    assert recipe.second is not None
    return [*_loss_module(recipe), method_of(recipe.second).adapt.__module__]


STAGES = {
    "pretrain": Stage(train=pretrain, model=lambda recipe, classes: create_mae(recipe), gives=encoder_weights),
    "finetune": Stage(
        train=finetune,
        model=create_classifier,
        needs={"pretrain": "encoder"},
        uses=_loss_module,
    ),
    "second": Stage(train=second, model=create_second, needs={"finetune": "first"}, uses=_second_modules),
    "cluster": Stage(train=cluster, model=create_clusters, needs={"pretrain": "encoder"}),
    "teacher": Stage(train=teacher, model=create_teacher, uses=_teacher_modules),
    "distill": Stage(train=distill, model=create_student, needs={"teacher": "taught_by"}, uses=_teacher_modules),
    "meta": Stage(train=meta, model=create_metaformer, needs={"pretrain": "encoder"}, uses=_meta_modules),
}


def check_recipe(recipe: Recipe) -> None:
    """Raise ValueError where a stage of the recipe cannot train on its data or on so many processes, or by its methods.

    It is called before any stage begins.
    """
    check_fit(recipe)
    if recipe.second is not None:
        with torch.device("meta"):
            create_second(recipe, load_dataset(recipe.data).num_classes)
    if recipe.cluster is not None:
        with torch.device("meta"):
            create_clusters(recipe, load_dataset(recipe.data).num_classes)
    if recipe.meta is not None:
        with torch.device("meta"):
            create_metaformer(recipe, load_dataset(recipe.data).num_classes)
    if recipe.teacher is not None:
        with torch.device("meta"):
            create_teacher(recipe, load_dataset(recipe.data).num_classes)


def run_id(stage: str, recipe: Recipe, store: RunStore) -> str:
    """Return the id of the run of a recipe's stage; its images are read for it."""
    return store.id(recipe.stage(stage), load_dataset(recipe.data_of(stage)).digest)


def train(
    stage: str,
    recipe: Recipe,
    store: RunStore,
    *,
    device: str = "cpu",
    progress: bool = True,
    engine: Engine = Engine(),
) -> Record:
    """Train a stage of a recipe, or return the finished run; resume what was interrupted.

    Raises ValueError for settings that do not fit the data, RunError for a damaged run, or where a run that the stage
    starts from is missing or unfinished, NonFiniteLossError when the loss is no longer a number.
    """
    check_recipe(recipe)
    recipe_config, data, on = recipe.stage(stage), load_dataset(recipe.data_of(stage)), torch.device(device)
    images = data.steps_per_epoch(batch := getattr(recipe, stage).batch_size) * batch
    with store.open(recipe_config, data.digest, on, STAGES[stage].code(recipe), images) as run:
        if not run.finished:
            given: dict[str, Any] = {}
            for need in recipe.needs(stage):
                run.sources[need] = run_id(need, recipe, store)
                given[STAGES[stage].needs[need]] = STAGES[need].gives(_weights(run.sources[need], need, store))
            own = replace(recipe, seed=recipe.seed_of(stage))
            STAGES[stage].train(own, data, run, device=on, progress=progress, engine=engine, **given)
    return store.load_for_all(run.id)


def _weights(source: str, stage: str, store: RunStore) -> Weights:
    if not store.is_finished(source):
        raise RunError(f"the {stage} run {source} is not finished in {store.root}: train this stage first")
    return load_weights(store.load(source), store)


def load_weights(record: Record, store: RunStore) -> dict[str, Tensor]:
    """Return the weights of a run of the store. Raises RunError where they are not those of its recipe's model."""
    path = store.weights(record.id)
    classes = len(record.result.get("class_counts", ()))  # of images of one's own, the recipe does not say how many
    try:
        return read_weights(path, _untrained(record.stage, recipe_of(record.stage, record.config), classes))
    except (ValueError, OverflowError, RuntimeError) as error:  # a recipe can ask for more than a tensor can have
        raise RunError(f"{path} {error}: {damaged(path.parent)}") from None


@lru_cache(maxsize=32)
def _untrained(stage: str, recipe: Recipe, classes: int) -> nn.Module:
    """Return the model of a recipe's stage without memory, for its names and shapes."""
    if recipe.pretrain is not None and recipe.pretrain.decoder_depth > MAX_BLOCKS:
        raise ValueError(f"cannot have the {recipe.pretrain.decoder_depth} decoder blocks of its recipe")
    with torch.device("meta"):
        return STAGES[stage].model(recipe, classes)
