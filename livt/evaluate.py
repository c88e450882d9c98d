"""A model and a split in, metrics out. Logits are raw: no loss's bias acts at test.

Shapes: ``N`` images, ``C`` classes.
"""

import torch
from torch import Tensor, nn

from livt.augment import Augment
from livt.batches import apply
from livt.config import Engine
from livt.images import FileSplit, Split


def predict(
    model: nn.Module,
    split: Split | FileSplit,
    augment: Augment,
    precision: str = "float32",
    engine: Engine = Engine(),
) -> tuple[Tensor, Tensor]:
    """Return raw float32 logits [N, C] and labels [N] of a split, on the CPU; the model is left in evaluation mode.

    ``precision`` "bfloat16" computes as such a training does. Several processes share the images.
    """
    model.eval()
    device = next(model.parameters()).device

    def logits_of(images: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return model(images)

    return apply(logits_of, split, augment, device, engine), split.labels.cpu()
