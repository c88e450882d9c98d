"""Weights of runs, read from files that somebody may have made to do harm: bounds first, then content."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from livt.models import misfit, shown


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a safetensors file; no tensor is read.

    Raises ValueError saying what is wrong with the file, also for tensors that are neither float32 nor, as counters
    are, int64.
    """
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            parts = {name: file.get_slice(name) for name in names}
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"does not hold weights ({' '.join(str(error).split())[:120]})") from None
    for name, (dtype, _) in found.items():
        if dtype not in ("F32", "I64"):
            raise ValueError(f"holds {shown(name)} as {dtype}, not as F32")
    return {name: shape for name, (_, shape) in found.items()}


def read_weights(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights in a safetensors file, which are those of ``model``: one on the meta device will do.

    Raises ValueError saying what differs, or that one of them is not finite.
    """
    found = shapes(path)
    problem = misfit(model, found)
    if problem:
        raise ValueError(f"does not fit the model of its recipe: {problem}")
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in found}
    own = model.state_dict()
    for name, value in weights.items():
        if value.dtype != own[name].dtype:
            raise ValueError(f"holds {name} as {value.dtype}, not as {own[name].dtype}")
        if not value.isfinite().all():
            raise ValueError(f"holds {name} with numbers that are not finite")
    return weights
