"""Models of finished runs: evaluated again, or written for other code."""

from pathlib import Path

import torch
from torch import Tensor

from livt.data.augment import Augment, evaluation_crop
from livt.data.images import FileSplit
from livt.data.sets import Dataset, load_dataset
from livt.evaluate import predict
from livt.finetune import create_network
from livt.lab.failures import RunError
from livt.lab.files import dump_json, write_atomically
from livt.lab.runs import Record, RunStore
from livt.lab.stages import STAGES, load_weights
from livt.models import misfit, place, timm_config
from livt.rivals.metaformer import MetaFormer, evaluation_metadata, predict_with
from livt.rivals.second import prepare


def stored_logits(record: Record, store: RunStore, *, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return raw logits [N, C] and labels [N] of a classifier's run on its evaluation split, from its stored weights.

    Raises ValueError for a pretraining run, RunError where the data have changed since the run.
    """
    weights = load_weights(record, store)  # first: they bound what the recipe says of its images
    data, recipe = data_of(record), record.recipe
    settings = getattr(recipe, record.stage)
    model = STAGES[record.stage].model(recipe, data.num_classes)
    model.load_state_dict(weights)
    augment = Augment(settings.augment, data.mean, data.std)
    place(model, torch.device(device), settings.precision)
    if isinstance(model, MetaFormer):
        given = evaluation_metadata(recipe, data)
        return predict_with(model, data, given, augment, settings.precision), data.evaluation.labels.cpu()
    if record.stage == "second":
        prepare(model, recipe, data, augment)
    return predict(model, data.evaluation, augment, settings.precision)


def data_of(record: Record) -> Dataset:
    """Return the data set of a classifier's run.

    Raises ValueError for a pretraining run, RunError where the data have changed since the run.
    """
    if record.stage in ("pretrain", "cluster"):
        kind = {"pretrain": "pretraining", "cluster": "clustering"}[record.stage]
        raise ValueError(f"{record.id} is a {kind} run: it has no classifier")
    recipe = record.recipe
    data = load_dataset(recipe.data)
    if data.digest != record.environment["data_digest"]:
        change = f"its digest is {data.digest}, not {record.environment['data_digest']}"
        raise RunError(
            f"the data {recipe.data.name} has changed since {record.id}: {change}; restore the data, or train again"
        )
    return data


def save_for_timm(record: Record, store: RunStore, folder: Path) -> None:
    """Write a classifier's model as ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it.

    ``folder`` gets ``model.safetensors`` and ``config.json``, the latter last. Raises ValueError for a pretraining run,
    and for a model that a method has made more than a plain network; RunError where the data, whose mean and deviation
    belong to the model, have changed since the run.
    """
    weights = load_weights(record, store)  # they are those of the model, or nothing is written
    data = data_of(record)
    recipe = record.recipe
    with torch.device("meta"):
        problem = misfit(create_network(recipe, data.num_classes), {k: v.shape for k, v in weights.items()})
    if problem:
        raise ValueError(f"{record.id} has a model of its method's own, not a plain network: {problem}")
    size, patch_size = recipe.data.size, recipe.model.patch_size
    crop = evaluation_crop(size[0]) if isinstance(data.evaluation, FileSplit) else 1.0  # in memory are whole images
    config = timm_config(recipe.model.size, size, patch_size, data.num_classes, data.mean, data.std, crop)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "model.safetensors", store.weights(record.id).read_bytes())
    write_atomically(folder / "config.json", dump_json(config))
