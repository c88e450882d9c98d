"""Recipes as files: YAML or JSON with the fields of ``livt.config``, written whole with what each field means."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from livt.config import FILE_DATASETS, MODEL_SIZES, PRECISIONS, RESNETS, SAMPLINGS, STARTS, Options, Recipe
from livt.lab.files import parse_json, read_bytes

MAX_BYTES = 2**20  # of a file
_POWER = re.compile(r"[-+]?[0-9]+([eE][-+]?[0-9]+)$")  # a number, which YAML 1.1 takes for text
# What a field means, in a line; a name means the same in each section that has it, but for those with a path.
FIELDS = {
    "data": "which images train, and which evaluate",
    "name": "a known data set, a folder below the data folder, or the path of one",
    "max_count": "training images of the largest class; null, as imbalance_factor then is: the data set's own counts",
    "imbalance_factor": "of an exponential profile: images of the largest class over those of the smallest",
    "balanced": "spread as many training images evenly over the classes",
    "image_size": f"side in pixels; null keeps the native size ({', '.join(FILE_DATASETS)} and folders need one)",
    "evaluation": "test, or validation: training images set apart, to choose settings by",
    "validation_images": "of each class, where evaluation is validation",
    "draw": "another number draws other training images of the pool, with the same counts",
    "model": "a Vision Transformer, or a residual network",
    "size": f"one of {', '.join(MODEL_SIZES)}, or without pretraining {', '.join(RESNETS)}",
    "patch_size": "side of a patch in pixels; it divides the image; 1 for a residual network",
    "pretrain": "MGP, a masked autoencoder on the training images; null trains from scratch",
    "finetune": "BFT, the classifier",
    "second": "a second stage on the classifier, whose trunk it keeps; null has none",
    "cluster": "clusters the pretrained features without labels; null does not",
    "cluster.method": "a name of livt.clustering.methods.METHODS: k_means, balanced, uot, p2ot or sp2ot",
    "tokens": "mean: of each image's patch tokens; all: these behind one another",
    "temperature": "of the cosines between features and prototypes",
    "teacher": "a residual network from scratch, for a student to learn from; null has none",
    "teacher.size": f"one of {', '.join(RESNETS)}",
    "rho": "radius of sharpness-aware minimisation, SAM; 0 is plain training",
    "distill": "DeiT-LT's student of the teacher, from scratch, in the place of fine-tuning; null has none",
    "share": "of training, after which the distillation weighs the classes, and nothing is mixed; 1 is never",
    "beta": "of those class-balanced weights",
    "meta": "MetaFormer: fine-tuning with synthetic metadata as tokens, in its place; null has none",
    "concentration": "of an image's place and day around those of its class; 0 says nothing of the class",
    "masked": "share of the training images whose metadata are hidden at first; it falls linearly to 0",
    "ancestors": "0, or metadata are WordNet's groups of at least so many classes of Tiny-ImageNet",
    "method": "a name of livt.rivals.methods.METHODS: crt, tau_norm, lws, disalign, mislas, class_means and more",
    "second.options": "parameters of the method by name, where they are not those of its paper",
    "epochs": "passes over the training images",
    "warmup_epochs": "of these, with a learning rate that rises linearly from 0",
    "batch_size": "images of a step, over all devices",
    "base_lr": "the peak learning rate is base_lr * batch_size / 256",
    "min_lr": "learning rate at the end of the half cosine",
    "beta1": "of AdamW",
    "beta2": "of AdamW",
    "weight_decay": "of AdamW; biases and norms have none",
    "accumulation_steps": "equal parts that a batch is worked off in; it divides batch_size",
    "clip_grad": "largest norm of the gradient; null does not clip",
    "precision": f"one of {', '.join(PRECISIONS)}; losses are float32 always",
    "augment": "augmentation of training images; each is off at its default",
    "shift": "random translation, pixels, padded with zeros",
    "flip": "random horizontal flip",
    "crop_min_scale": "random resized crop, from this share of the area up to all; null does not crop",
    "rand_augment": "timm's text, such as rand-m9-mstd0.5-inc1; null has none",
    "random_erasing": "probability",
    "mask_ratio": "share of the patches that is removed",
    "normalize_targets": "bring the pixels of each target patch to mean 0 and deviation 1",
    "decoder_width": "a multiple of 4 * decoder_heads",
    "decoder_depth": "blocks of the decoder",
    "decoder_heads": "attention heads of the decoder",
    "pretrain.data": "other images to pretrain on, or of another size; null takes those above",
    "probes": "how often the features are probed with labels, from start to end; 0, or at least 2",
    "loss": "a name of livt.losses.LOSSES: ce, bal_ce, bce, bal_bce and more",
    "tau": "scale of a balanced loss's bias",
    "start": f"bias of the untrained classifier: one of {', '.join(STARTS)}",
    "layer_decay": "each block learns at this multiple of the rate of the next",
    "drop_path": "largest probability of leaving out a block; it grows with depth",
    "label_smoothing": "share of each target that is moved",
    "smoothing_target": f"where to: one of {', '.join(STARTS[1:])}",
    "mixup": "alpha of mixup; 0 is off",
    "cutmix": "alpha of CutMix; 0 is off",
    "sampling": f"one of {', '.join(SAMPLINGS)}: by images, by the root of the class count, or as many of each class",
    "options": "parameters of the loss by name, where they are not those of its paper",
    "seed": "of all random numbers",
    "pretrain.seed": "of this stage alone; null takes that of the recipe",
}


def write_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML, whole, with a comment at each field; :func:`read_recipe` gives the same recipe."""
    return "\n".join(_lines(recipe, "")) + "\n"


def _lines(section: Any, indent: str, above: str = "") -> Iterator[str]:
    for field in dataclasses.fields(section):
        value, path = getattr(section, field.name), above + field.name
        meaning = FIELDS.get(path) or FIELDS[field.name]
        if dataclasses.is_dataclass(value):
            yield f"{indent}{field.name}:  # {meaning}"
            yield from _lines(value, indent + "  ", f"{path}.")
        else:
            yield f"{indent}{field.name}: {_scalar(value)}  # {meaning}"


def _scalar(value: Any) -> str:
    if isinstance(value, Options):
        return json.dumps(value)
    if isinstance(value, str) and (_POWER.fullmatch(value) or not value.isprintable()):
        return json.dumps(value)
    return yaml.safe_dump(value, allow_unicode=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a file; fields that it leaves out stand at their defaults.

    Raises RunError for a file that cannot be read, ValueError naming the file for one that is no recipe.
    """
    content = read_bytes(path, "give the path of a recipe file, or the name of a recipe")
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        values = parse_json(content) if path.suffix.lower() == ".json" else _parse_yaml(content)
        if not isinstance(values, dict):
            raise ValueError("it does not have the sections data, model, pretrain and finetune")
        return Recipe.from_dict(values)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a recipe: {' '.join(str(error).split())[:400]}") from None


def _parse_yaml(content: bytes) -> Any:
    try:
        return yaml.load(content, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class _Loader(yaml.SafeLoader):
    """Plain values alone: no aliases, which could unfold to any size, and no key twice; 1e-3 is a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it has an alias (*name): write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = [str(key) for key in keys if keys.count(key) > 1]
        if twice:
            raise ValueError(f"the key {twice[0]!r} is there twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+([eE][-+]?[0-9]+)$"), list("-+0123456789")
)
