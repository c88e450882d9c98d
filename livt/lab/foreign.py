"""Somebody else's classifier, as a file or folder: read, and evaluated with the shot groups of a data set.

Read are the official ``.pth`` of LiVT and of MAE's fine-tuning (a state dict under ``model``), the same weights as
safetensors, and a folder that timm has written: plain Vision Transformers all of them. What a file claims is checked
against its size before memory is given to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from livt.config import DATASETS, MODEL_SIZES, AugmentConfig, DataConfig, Engine
from livt.data.augment import Augment, evaluation_crop
from livt.data.images import FileSplit
from livt.data.sets import load_evaluation, overview
from livt.evaluate import predict, summarize
from livt.lab.files import parse_json, read_bytes
from livt.models import MAX_BLOCKS, load_strictly, place, read_checkpoint, shown, vit_arguments

MAX_SIZE = 2**16  # of a number in a timm folder's configuration: a width, a side in pixels
# What a timm folder may say of its model; other arguments could name files, or code.
_ARGUMENTS = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "global_pool", "qkv_bias"}
_HEADS = {(width, depth): heads for width, depth, heads in MODEL_SIZES.values()}


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model in evaluation mode, its input in pixels (height, width), and what it expects of images.

    mean, std: [3], by which images are normalized. crop: the share of an image's short side that it looks at, None
    where the file does not say.
    """

    model: VisionTransformer
    size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD
    crop: float | None = None


def load_classifier(path: Path, *, num_heads: int | None = None, image_size: int | None = None) -> Classifier:
    """Return the classifier of a ``.pth``, a ``.safetensors``, or a timm folder.

    ``num_heads`` is needed where neither the file nor the width and depth of a known model size tell it. ``image_size``
    evaluates at another size, with position embeddings resampled. Weights alone do not say how their images were
    normalized: they are taken to be by ImageNet's mean and deviation, as the official code does it. Raises
    FileNotFoundError, or ValueError naming the file and what does not fit.
    """
    found = _folder(path) if path.is_dir() else _file(path, num_heads)
    if image_size is None or (image_size, image_size) == found.size:
        return found
    patch = found.model.patch_embed.patch_size[0]
    if image_size < 1 or image_size % patch:
        raise ValueError(f"image size {image_size} is not a multiple of the patch of {path}, {patch} pixels")
    found.model.set_input_size(img_size=(image_size, image_size))
    return replace(found, size=(image_size, image_size))


def _file(path: Path, num_heads: int | None) -> Classifier:
    """Return the classifier of a state dict, whose sizes are read off the shapes."""
    state = _safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path)
    if "head.weight" not in state or state["head.weight"].ndim != 2:
        what = "a masked autoencoder" if "mask_token" in state else "an encoder"
        raise ValueError(f"{path} has no classifier (no weight 'head.weight'): it is {what}, to be fine-tuned first")
    heads = _heads(state, path) if num_heads is None else num_heads
    arguments = vit_arguments(state, num_heads=heads, source=str(path))
    arguments["global_pool"] = "avg" if "fc_norm.weight" in state else "token"
    classes = len(state["head.weight"])
    model = load_strictly(lambda: VisionTransformer(num_classes=classes, **arguments), state, str(path)).eval()
    return Classifier(model=model, size=(arguments["img_size"],) * 2)


def _heads(state: Mapping[str, Tensor], path: Path) -> int:
    """Return the number of attention heads of a known width and depth: no weight has it in its shape."""
    width = state["head.weight"].shape[1]
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if (width, depth) not in _HEADS:
        raise ValueError(f"{path} has width {width} and depth {depth}, which tell no number of heads: give --heads")
    return _HEADS[width, depth]


def _safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} does not hold weights ({' '.join(str(error).split())[:120]})") from None
    for name, value in state.items():
        if not value.is_floating_point() or value.numel() == 0:
            raise ValueError(f"{path}: {shown(name)} is not a weight")
    return {name: value.float() for name, value in state.items()}


def _folder(folder: Path) -> Classifier:
    """Return the classifier of a folder with ``config.json`` and ``model.safetensors``, as timm writes them."""
    path = folder / "config.json"
    try:
        values = parse_json(read_bytes(path, "give a folder that timm has written"))
        name, arguments = values["architecture"], _model_arguments(values)
        if not isinstance(name, str) or ":" in name or not timm.is_model(name):
            raise ValueError(f"timm has no architecture {shown(name)}")
        settings = values.get("pretrained_cfg", {})
        mean, std = (tuple(map(float, settings[key])) for key in ("mean", "std"))
        crop = float(settings.get("crop_pct") or 1.0)
        if len(mean) != 3 or len(std) != 3 or not min(std) > 0:
            raise ValueError("mean and std are not those of three channels")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not describe a model of timm ({' '.join(str(error).split())[:120]})") from None

    def create() -> VisionTransformer:
        model = timm.create_model(name, **arguments)
        if type(model) is not VisionTransformer:
            raise ValueError(f"{path}: {name} is not a plain Vision Transformer: no other model is read")
        return model

    weights = folder / "model.safetensors"
    try:
        model = load_strictly(create, _safetensors(weights), str(weights)).eval()
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"{path} does not describe a model of timm ({' '.join(str(error).split())[:120]})") from None
    height, width = model.patch_embed.img_size
    return Classifier(model=model, size=(height, width), mean=mean, std=std, crop=crop)


def _model_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to create a timm folder's model with. Raises ValueError for what no model is known to need."""
    arguments = dict(values.get("model_args") or {})
    for key in ("num_classes", "global_pool"):
        if values.get(key) is not None:
            arguments.setdefault(key, values[key])
    for key, value in arguments.items():
        if key not in _ARGUMENTS | {"num_classes"}:
            raise ValueError(f"model_args has {shown(key)}, which is not read")
        numbers = value if isinstance(value, list) else [value]
        for number in numbers:
            plain = isinstance(number, bool) or (key == "global_pool" and number in ("avg", "token"))
            bound = MAX_BLOCKS if key == "depth" else MAX_SIZE
            if not plain and not (isinstance(number, int | float) and 0 < number <= bound):
                raise ValueError(f"model_args: {key} is {shown(value)}")
    return arguments


def data_for(data: DataConfig | str, found: Classifier) -> DataConfig:
    """Return which images a classifier is evaluated on: those of a configuration or a name, at its own size.

    Raises ValueError for images that are not square where the model's are, or the other way round.
    """
    height, width = found.size
    name = data if isinstance(data, str) else data.name
    if name in DATASETS and DATASETS[name][1:] == found.size:
        size = None
    elif height == width:
        size = height
    else:
        raise ValueError(f"the model is for images of {height} x {width} pixels, and {name} has no such ones")
    return DataConfig(name=name, image_size=size) if isinstance(data, str) else replace(data, image_size=size)


def evaluate_classifier(
    found: Classifier, data: DataConfig, *, device: str = "cpu", engine: Engine = Engine()
) -> tuple[dict[str, Any], list[str]]:
    """Return the metrics of a classifier on the evaluation images of a data set, and what to know about them.

    The training images give the shot groups by their counts; none of them is decoded. Raises ValueError where the
    numbers of classes differ.
    """
    about = overview(data)
    classes, expected = found.model.num_classes, len(about.class_counts)
    if classes != expected:
        raise ValueError(f"the model has {classes} classes, and {data.name} has {expected}")
    if data.size != found.size:
        raise ValueError(f"the model is for images of {found.size[0]} x {found.size[1]} pixels: give --image-size")
    split, notes = load_evaluation(data), []
    own = evaluation_crop(data.size[0]) if isinstance(split, FileSplit) else 1.0
    if found.crop is not None and not np.isclose(own, found.crop, atol=0.005):
        notes.append(f"the folder asks for the share {found.crop:g} of an image's short side; evaluated at {own:g}")
    augment = Augment(AugmentConfig(), found.mean, found.std)
    place(found.model, torch.device(device), "float32")
    logits, labels = predict(found.model, split, augment, engine=engine)
    if not logits.isfinite().all():
        raise ValueError("the model gives numbers that are not finite: its weights are damaged")
    return summarize(logits, labels, about.class_counts), notes
