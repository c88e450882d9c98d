"""Augmentation and normalization of a batch, and what makes training repeatable: seeds and one thread.

Shapes: ``B`` batch, ``H`` and ``W`` pixels.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import RandAugment, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from livt.config import AugmentConfig

# Of the official code: up to this many pixels, evaluation cuts the centre out of an image 256 / 224 times as large.
LARGEST_WITH_MARGIN, MARGIN = 224, 256 / 224


def evaluation_crop(size: int) -> float:
    """Return the share of the short side of an image in a file that evaluation at this size looks at."""
    return 1 / MARGIN if size <= LARGEST_WITH_MARGIN else 1.0


def file_transform(config: AugmentConfig | None, size: int, mean: Sequence[float]) -> Callable[[Image.Image], Tensor]:
    """Return timm's transform of one RGB image to uint8 [3, size, size]: crop, flip, RandAugment, all bicubic.

    ``config`` None is for evaluation: resize, and cut out the centre. Random erasing and normalization are left to the
    batch (:meth:`Augment.finish`).
    """
    if config is None:
        transform = create_transform(size, use_prefetcher=True, interpolation="bicubic", crop_pct=evaluation_crop(size))
    else:
        transform = create_transform(
            size,
            is_training=True,
            use_prefetcher=True,
            scale=(config.crop_min_scale, 1.0),
            hflip=0.5 if config.flip else 0.0,
            color_jitter=None,
            auto_augment=config.rand_augment,
            interpolation="bicubic",
            mean=mean,
        )
        for step in transform.transforms:
            if isinstance(step, RandAugment):
                _blacken(step)
    return partial(_to_tensor, transform)


# Functions of the module, not nested ones: a loading process that is not forked gets them pickled.
def _to_tensor(transform: Callable[[Image.Image], np.ndarray], image: Image.Image) -> Tensor:
    return torch.as_tensor(np.asarray(transform(image)))


def _posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def _blacken(policy: RandAugment) -> RandAugment:
    """Let a RandAugment keep 0 bits of an image, at magnitude 10, as ever: black. Since 13, Pillow refuses that."""
    for operation in policy.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return policy


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the CPU on a device, without making a GPU wait: from pinned memory the copy is asynchronous."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


class Augment:
    """Augment and normalize a batch: uint8 [B, 3, H, W] in, float32 [B, 3, H, W] out, on the batch's device."""

    def __init__(self, config: AugmentConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        self.config = config
        self.mean = torch.tensor(mean).view(3, 1, 1) * 255
        self.std = torch.tensor(std).view(3, 1, 1) * 255
        self._moved: dict[torch.device, tuple[Tensor, Tensor]] = {}
        fill = tuple(round(255 * m) for m in mean)
        name = config.rand_augment
        try:
            self.rand_augment = _blacken(rand_augment_transform(name, {"img_mean": fill})) if name else None
        except (AssertionError, KeyError, ValueError) as error:
            raise ValueError(f"augment.rand_augment {name!r} is no timm policy such as rand-m9-mstd0.5-inc1") from error

    def normalize(self, images: Tensor) -> Tensor:
        """Return float32 images of zero mean and unit deviation per channel, over the training split."""
        if images.device not in self._moved:
            self._moved[images.device] = self.mean.to(images.device), self.std.to(images.device)
        mean, std = self._moved[images.device]
        return (images - mean) / std

    def __call__(self, images: Tensor) -> Tensor:
        config = self.config
        if config.crop_min_scale is not None:
            images = random_resized_crop(images, config.crop_min_scale)
        if config.shift:
            images = random_shift(images, config.shift)
        if config.flip:
            flipped = moved(torch.rand(len(images)) < 0.5, images.device)
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        if self.rand_augment is not None:
            augmented = [pil_to_tensor(self.rand_augment(to_pil_image(image))) for image in images.cpu()]
            images = torch.stack(augmented).to(images.device)
        return self.finish(images)

    def finish(self, images: Tensor) -> Tensor:
        """Normalize, and erase at random: what is left for images that :func:`file_transform` has augmented."""
        images = self.normalize(images)
        if self.config.random_erasing:
            erase = RandomErasing(self.config.random_erasing, mode="pixel", max_count=1, device=images.device)
            images = erase(images)
        return images


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Shift each image by up to ``pixels`` in each direction, filling with zeros."""
    batch, _, height, width = images.shape
    padded = F.pad(images, (pixels,) * 4)
    offset = moved(torch.randint(0, 2 * pixels + 1, (2, batch, 1)), images.device)
    rows = offset[0] + torch.arange(height, device=images.device)  # [B, H]
    columns = offset[1] + torch.arange(width, device=images.device)  # [B, W]
    index = torch.arange(batch, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_resized_crop(images: Tensor, min_scale: float) -> Tensor:
    """Crop a random box of each image, area in [min_scale, 1] and aspect ratio in [3/4, 4/3], back to full size."""
    batch = len(images)
    area = torch.empty(batch).uniform_(min_scale, 1)
    aspect = torch.empty(batch).uniform_(np.log(3 / 4), np.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = ((torch.rand(2, batch) * 2 - 1) * (1 - torch.stack((width, height)))).unbind()
    zero = torch.zeros(batch)
    theta = moved(torch.stack((width, zero, x, zero, height, y), dim=1).view(batch, 2, 3), images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    crops = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return crops.round_().clamp_(0, 255).to(torch.uint8)
