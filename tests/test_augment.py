import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from livt.config import AugmentConfig
from livt.data.augment import Augment, file_transform, random_resized_crop, random_shift
from livt.data.seeds import seed_everything

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def images(batch: int = 16, height: int = 8, width: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.manual_seed(0))


def test_without_augmentation_images_are_only_normalized():
    x = images()
    expected = (x.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    out = Augment(AugmentConfig(), MEAN, STD)(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)


def test_shift_moves_each_image_whole_and_fills_with_zeros():
    x = images(64)
    seed_everything(0)
    shifted = random_shift(x, 1)
    seen = set()
    for before, after in zip(x, shifted, strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
        fits = [(r, c) for r in range(3) for c in range(3) if torch.equal(after, padded[:, r : r + 8, c : c + 16])]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 9, "every direction occurs"


def test_flip_mirrors_about_half_of_the_images():
    x = images(200)
    seed_everything(1)
    augment = Augment(AugmentConfig(flip=True), MEAN, STD)
    out, plain, mirrored = augment(x), augment.normalize(x), augment.normalize(x.flip(3))
    same = torch.tensor([torch.equal(a, b) for a, b in zip(out, plain, strict=True)])
    flipped = torch.tensor([torch.equal(a, b) for a, b in zip(out, mirrored, strict=True)])
    assert (same ^ flipped).all()
    assert 60 < int(flipped.sum()) < 140


def test_a_crop_magnifies_and_shows_no_padding():
    flat = torch.full((8, 3, 16, 16), 77, dtype=torch.uint8)
    seed_everything(2)
    assert torch.equal(random_resized_crop(flat, 0.2), flat)
    ramp = torch.arange(0, 256, 8, dtype=torch.uint8).expand(64, 3, 32, 32).contiguous()
    seed_everything(3)
    spread = random_resized_crop(ramp, 0.2).float()
    widths = (spread[:, 0, 16, -1] - spread[:, 0, 16, 0]) / 248
    assert (widths > 0.2).all()
    assert (widths <= 1.01).all()
    assert widths.std() > 0.05


@pytest.mark.parametrize(
    "config",
    [
        AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1"),
        AugmentConfig(random_erasing=1.0),
        AugmentConfig(shift=1, flip=True, crop_min_scale=0.3, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25),
    ],
)
def test_augmentation_changes_images_and_repeats_with_the_seed(config):
    x = images(32, 32, 32)
    augment = Augment(config, MEAN, STD)
    results = []
    for seed in (0, 0, 1):
        seed_everything(seed)
        results.append(augment(x))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], augment.normalize(x))
    assert results[0].isfinite().all()
    assert results[0].shape == x.shape


def test_seeds_differ_by_every_part_of_the_key():
    drawn = []
    for key in ((0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 3)):
        seed_everything(*key)
        drawn.append(torch.rand(4))
    assert len({tuple(d.tolist()) for d in drawn}) == 4


@pytest.mark.parametrize("magnitude", [0, 5, 9, 10])
def test_rand_augment_reaches_every_magnitude(magnitude):
    """At magnitude 10, posterize keeps 0 bits: a black image, which Pillow refuses to make since version 13."""
    policy = f"rand-m{magnitude}-inc1-n1"
    augment = Augment(AugmentConfig(rand_augment=policy), (0.5,) * 3, (0.25,) * 3)
    transform = file_transform(AugmentConfig(crop_min_scale=1.0, rand_augment=policy), 16, (0.5,) * 3)
    images = torch.randint(1, 256, (200, 3, 16, 16), dtype=torch.uint8)
    seed_everything(0)
    batch = augment(images)
    single = torch.stack([transform(to_pil_image(image)) for image in images])
    for found in (batch * 0.25 + 0.5, single / 255):
        black = (found.flatten(1) < 1e-3).all(1).sum()
        assert (black > 0) == (magnitude == 10)
