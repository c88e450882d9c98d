"""Vision Transformers on timm, and their checkpoints in and out.

Shapes: ``B`` batch, ``L`` patches, ``D`` width, ``C`` classes. Images are [B, 3, H, W].
"""

import argparse
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

from livt.config import MODEL_SIZES

ModuleT = TypeVar("ModuleT", bound=nn.Module)
MAX_BLOCKS = 256  # of a checkpoint that is read: five times those of the deepest published ViT


def create_vit(
    size: str,
    image_size: int | tuple[int, int],
    patch_size: int,
    num_classes: int,
    *,
    drop_path: float = 0.0,
    global_pool: str = "avg",
) -> VisionTransformer:
    """Return a timm ViT of a named size, its classifier near zero (truncated normal of std 2e-5, bias 0).

    ``global_pool`` "avg" averages the patch tokens and normalizes after that (``fc_norm``), for classification;
    "token" normalizes every token (``norm``), for an encoder to pretrain. ``num_classes`` 0 leaves out the classifier.

    Raises ValueError for an unknown size, and for an image size that is not a multiple of the patch.
    """
    if size not in MODEL_SIZES:
        raise ValueError(f"unknown model size {size!r}; choose from {', '.join(MODEL_SIZES)}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"image size {height} x {width} is not a multiple of the patch size {patch_size}")
    embed_dim, depth, num_heads = MODEL_SIZES[size]
    vit = VisionTransformer(
        img_size=(height, width),
        patch_size=patch_size,
        num_classes=num_classes,
        global_pool=global_pool,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        drop_path_rate=drop_path,
    )
    if num_classes:
        nn.init.trunc_normal_(vit.head.weight, std=2e-5)
        nn.init.zeros_(vit.head.bias)
    return vit


def compile_model(model: nn.Module) -> None:
    """Compile a model in place; masks and dropped paths are drawn as without compilation."""
    model.compile(options={"fallback_random": True})


def place(model: nn.Module, device: torch.device, precision: str) -> nn.Module:
    """Move a model to the device it trains on, with the faster attention of the two for it.

    PyTorch's fused attention pays on a GPU. On a CPU it makes no difference in float32, and in bfloat16 it doubles the
    time of a step (``make bench``).
    """
    for module in model.modules():
        if isinstance(module, Attention):
            module.fused_attn = module.fused_attn and not (device.type == "cpu" and precision == "bfloat16")
    return model.to(device)


def timm_config(
    size: str,
    image_size: tuple[int, int],
    patch_size: int,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop: float,
) -> dict[str, Any]:
    """Return the ``config.json`` beside a classifier's ``model.safetensors``, as ``timm.create_model`` reads a folder.

    ``mean`` and ``std`` [3] normalize its images, of whose short side it looks at the share ``crop``; timm's transforms
    take them from there too.
    """
    embed_dim, depth, num_heads = MODEL_SIZES[size]
    arguments = {"embed_dim": embed_dim, "depth": depth, "num_heads": num_heads, "patch_size": patch_size}
    return {
        "architecture": "vit_base_patch16_224",  # every size is this class, with the arguments below
        "num_classes": num_classes,
        "global_pool": "avg",
        "model_args": {**arguments, "img_size": list(image_size), "global_pool": "avg"},
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [3, *image_size],
            "fixed_input_size": True,
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bicubic",
            "crop_pct": crop,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of each weight: loaded; fresh (in the model alone); dropped (in the state alone); resampled."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    dropped: tuple[str, ...]
    resampled: tuple[str, ...]


def load_encoder(model: VisionTransformer, state: Mapping[str, Tensor]) -> LoadReport:
    """Move the weights of a pretrained encoder into a classifier, in place.

    The classifier keeps its own ``fc_norm`` and ``head``, the encoder's ``norm`` is dropped, and position embeddings
    are resampled when the number of patches differs, from a square grid (a state dict does not hold its grid).
    Raises ValueError naming anything else that is missing, unexpected, or
    of another shape; then nothing has been loaded.
    """
    own = model.state_dict()
    state = dict(state)
    resampled = []
    positions = state.get("pos_embed", own["pos_embed"])
    if positions.ndim == 3 and positions.shape[1] != own["pos_embed"].shape[1]:
        if math.isqrt(positions.shape[1] - 1) ** 2 != positions.shape[1] - 1:
            raise ValueError(
                f"pos_embed has {positions.shape[1]} rows, the model needs {own['pos_embed'].shape[1]}; "
                "only a square grid and a class token can be resampled"
            )
        grid = list(model.patch_embed.grid_size)
        state["pos_embed"] = resample_abs_pos_embed(positions, grid, num_prefix_tokens=model.num_prefix_tokens)
        resampled.append("pos_embed")
    fresh = sorted(own.keys() - state.keys())
    dropped = sorted(state.keys() - own.keys())
    loaded = sorted(own.keys() & state.keys())
    problems = [f"missing {k}" for k in fresh if not k.startswith(("fc_norm.", "head."))]
    problems += [f"unexpected {k}" for k in dropped if not k.startswith("norm.")]
    problems += [
        f"{k} has shape {tuple(state[k].shape)}, the model needs {tuple(own[k].shape)}"
        for k in loaded
        if state[k].shape != own[k].shape
    ]
    if problems:
        raise ValueError(f"the encoder's weights do not fit the model: {'; '.join(problems)}")
    model.load_state_dict({k: state[k] for k in loaded}, strict=False)
    return LoadReport(loaded=tuple(loaded), fresh=tuple(fresh), dropped=tuple(dropped), resampled=tuple(resampled))


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the ``model`` state dict of a public ``.pth`` file, read as weights only: no code in it can run.

    Raises FileNotFoundError, or ValueError naming the file and what is wrong with it, such as weights that claim to be
    larger than the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    source = "get it again from its source"
    try:
        _check_entries(path)
        # The released files carry their command-line arguments; a Namespace is inert.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle can fail in any way, and PyTorch's text advises to trust it
        raise ValueError(f"{path} is damaged, or holds more than weights, and was not loaded: {source}") from None
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(type(v) in (Tensor, nn.Parameter) for v in state.values()):
        raise ValueError(f"{path} does not hold a state dict under the key 'model'")
    for name, value in state.items():
        dense = value.layout == torch.strided and value.device.type == "cpu" and value.is_floating_point()
        if not isinstance(name, str) or not dense or value.numel() == 0:
            raise ValueError(f"{path}: {shown(name)} is not a weight: {source}")
    # A view can claim any shape over a storage of one number.
    if sum(value.nbytes for value in state.values()) > path.stat().st_size:
        raise ValueError(f"{path}: the weights claim to be larger than the file: {source}")
    return state


def _check_entries(path: Path) -> None:
    """Raise ValueError for a compressed file, which could unfold to any size: PyTorch's own are not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if sum(entry.file_size for entry in file.infolist()) > path.stat().st_size:
                raise ValueError("compressed")


def shown(name: object) -> str:
    """Return a name from a file as a message can show it: escaped, and not long."""
    text = ascii(name)
    return text if len(text) <= 80 else f"{text[:77]}..."


def vit_arguments(state: Mapping[str, Tensor], *, num_heads: int, source: str) -> dict[str, Any]:
    """Return a timm ViT's constructor arguments, read off the shapes of a state dict with a square patch grid.

    Raises ValueError naming ``source`` and the first weight that is missing or does not fit.
    """
    try:
        embed_dim, in_chans, patch_size, _ = state["patch_embed.proj.weight"].shape
        grid = math.isqrt(state["pos_embed"].shape[1] - 1)
        mlp_ratio = state["blocks.0.mlp.fc1.weight"].shape[0] / embed_dim
    except KeyError as error:
        raise ValueError(f"{source} lacks the weight {error}") from None
    except (IndexError, ValueError):
        raise ValueError(f"{source}: patch_embed.proj.weight must have 4 dimensions, pos_embed 3") from None
    if grid**2 + 1 != state["pos_embed"].shape[1]:
        rows = state["pos_embed"].shape[1]
        raise ValueError(f"{source}: pos_embed has {rows} rows, not those of a square grid and a class token")
    if num_heads < 1 or embed_dim % num_heads:
        raise ValueError(f"{source}: num_heads {num_heads} does not divide the width {embed_dim}")
    return {
        "img_size": grid * patch_size,
        "patch_size": patch_size,
        "in_chans": in_chans,
        "embed_dim": embed_dim,
        "depth": count_blocks(state, "blocks.", source),
        "num_heads": num_heads,
        "mlp_ratio": mlp_ratio,
    }


def count_blocks(state: Mapping[str, Tensor], prefix: str, source: str) -> int:
    """Return the number of transformer blocks whose weights begin with ``prefix``, such as ``blocks.``.

    Raises ValueError naming ``source`` where that is more than ``MAX_BLOCKS``.
    """
    count = len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})
    if count > MAX_BLOCKS:
        raise ValueError(f"{source} has {count} {prefix.rstrip('.')}, more than the {MAX_BLOCKS} that are read")
    return count


def misfit(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> str:
    """Say how the names and shapes of some weights differ from those of a model, or return ""."""
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    problems = [f"missing {name}" for name in own if name not in shapes]
    problems += [f"unexpected {shown(name)}" for name in shapes if name not in own]
    problems += [
        f"{name} has shape {tuple(shapes[name])}, the model needs {shape}"
        for name, shape in own.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    return "; ".join(problems[:3]) + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")


def load_strictly(create: Callable[[], ModuleT], state: Mapping[str, Tensor], source: str) -> ModuleT:
    """Return the model that ``create`` makes, with the weights of a state dict of the same names and shapes.

    The model gets memory when its weights are known to fit, so that it is no larger than they are. Raises ValueError
    naming ``source`` and what differs.
    """
    with torch.device("meta"):
        model = create()
    problem = misfit(model, {name: value.shape for name, value in state.items()})
    if problem:
        raise ValueError(f"{source} does not fit the model: {problem}")
    model.to_empty(device="cpu").load_state_dict(state)
    return model


def load_livt_checkpoint(path: str | Path, *, num_heads: int) -> VisionTransformer:
    """Return the classifier of an official fine-tuned ``.pth``: average pooling, ``fc_norm`` and ``head``.

    All sizes but the number of heads are read off the shapes. Raises FileNotFoundError, or ValueError naming the
    file and what does not fit.
    """
    state = read_checkpoint(path)
    if "head.weight" not in state or not state["head.weight"].ndim:
        raise ValueError(f"{path} lacks the weight 'head.weight': it is not a fine-tuned classifier")
    arguments = vit_arguments(state, num_heads=num_heads, source=str(path))
    classes = len(state["head.weight"])
    return load_strictly(
        lambda: VisionTransformer(global_pool="avg", num_classes=classes, **arguments), state, str(path)
    ).eval()
