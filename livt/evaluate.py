"""A model and a split in, metrics out. Logits are raw: no loss's bias acts at test.

Shapes: ``N`` images, ``C`` classes.
"""

import torch
from torch import Tensor, nn

from livt.augment import Augment
from livt.data import Split


@torch.inference_mode()
def predict(model: nn.Module, split: Split, augment: Augment, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """Return raw float32 logits [N, C] and labels [N] of a split, on the CPU; the model is left in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    parts = [model(augment.normalize(images.to(device))).float().cpu() for images in split.images.split(batch_size)]
    return torch.cat(parts), split.labels.cpu()
