"""Recipes by name: the smaller profiles of the paper's two-stage training. Each states command, hardware and cost."""

from collections.abc import Callable
from dataclasses import dataclass

from livt.config import (
    AugmentConfig,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    Recipe,
    with_overrides,
)


def smoke() -> Recipe:
    """A few steps on single digits, to see that everything runs.

    Command: ``python -m livt reproduce loss_ablation --profile smoke``. Hardware: any CPU; seconds. Expected score:
    none, it does not train long enough to learn.
    """
    return Recipe(
        data=DataConfig(name="digits", max_count=110, imbalance_factor=50),
        model=ModelConfig(size="pico", patch_size=4),
        pretrain=PretrainConfig(
            epochs=2,
            warmup_epochs=1,
            batch_size=64,
            base_lr=4e-3,
            mask_ratio=0.5,
            decoder_width=16,
            decoder_depth=1,
            decoder_heads=2,
            probes=2,
            augment=AugmentConfig(shift=1),
        ),
        finetune=FinetuneConfig(
            loss="bal_bce", epochs=2, warmup_epochs=1, batch_size=64, base_lr=4e-3, augment=AugmentConfig(shift=1)
        ),
    )


def digit_pairs() -> Recipe:
    """Profile ``cpu``: 100 two-digit classes, 200 to 2 training images, made of two real scans each.

    Command: ``python -m livt reproduce loss_ablation --profile cpu``. Hardware: two CPU cores, about a minute for three
    seeds. Expected score: none is published; ``book/results`` holds the records of a run.

    Settings were chosen on validation pairs (``data.evaluation=validation``, seed 100, one seed each), made of scans
    that neither train nor test. Overall accuracy, CE / Bal-BCE, in percent, at 15 epochs of fine-tuning:

    - as below: 57.6 / 87.5; with 20 epochs of pretraining at base_lr 8e-3: 59.4 / 82.8.
    - pretraining, batch 256: base_lr 2e-3 26.6 / 73.9, 4e-3 42.4 / 75.8, 4e-3 and 50 epochs 64.2 / 85.2; batch 128:
      base_lr 8e-3 64.0 / 86.8, batch 64: 62.3 / 90.3; decoder of width 24 at 20 epochs and 8e-3: 43.9 / 78.2.
    - fine-tuning base_lr 8e-3: 34.8 / 66.1, 3.2e-2: 39.0 / 94.0; batch 64: 57.6 / 81.9, and 3.2e-2, 10 epochs:
      53.7 / 84.0. Width 16, 20 epochs: 34.0 / 59.2; width 64, 20 epochs: 91.8 / 97.3.
    - from scratch, 40 epochs, CE: base_lr 8e-3 42.4, 1.6e-2 69.1, 3.2e-2 49.3; without layer decay 55.2, 54.2.

    Plain BCE decides the length of fine-tuning: it has 1.0 at 15 epochs, 2.1 at 20, 17.1 at 30 and 47.2 at 40. Taken:
    the 30 epochs at which every loss has left its start (CE 90.3, Bal-CE 95.8, Bal-BCE 95.4) and none needs more than
    seconds. Mask ratio, weight decay and shifts are those of an earlier search on a model of depth 4.
    """
    return Recipe(
        data=DataConfig(name="digit_pairs", max_count=200, imbalance_factor=100),
        model=ModelConfig(size="pico", patch_size=4),
        pretrain=PretrainConfig(
            epochs=25,
            warmup_epochs=2.5,
            batch_size=128,
            base_lr=4e-3,
            mask_ratio=0.5,
            decoder_width=32,
            decoder_depth=1,
            decoder_heads=2,
            probes=6,
        ),
        finetune=FinetuneConfig(
            loss="bal_bce", epochs=30, warmup_epochs=1.5, batch_size=128, base_lr=1.6e-2, augment=AugmentConfig(shift=1)
        ),
    )


def digit_pairs_short() -> Recipe:
    """As :func:`digit_pairs` with half its fine-tuning: what the sweeps of profile ``cpu`` vary.

    Command: ``python -m livt reproduce ablations --profile cpu``. Hardware: two CPU cores, a minute for three seeds.
    Expected score: on validation pairs CE 57.6, Bal-CE 87.0, BCE 1.0, Bal-BCE 87.5.
    """
    return with_overrides(digit_pairs(), {"finetune.epochs": 15})


def tiny_imagenet_lt() -> Recipe:
    """Profile ``gpu``: ViT-Tiny on Tiny-ImageNet with the real ImageNet-LT class counts, 64 px.

    Command: ``LIVT_DATA=... python -m livt reproduce loss_ablation --profile gpu``. Hardware: one GPU; three seeds are
    about 9e16 floating-point operations, from which 20 to 40 minutes on an H200 are estimated, not measured.
    Expected score: none is published for this subset; the order of the losses is what the paper predicts.

    Settings follow the paper's tables of hyper-parameters and augmentation, with a smaller batch and fewer epochs.
    They have not been tuned. RandAugment is left out, as it runs image by image on the CPU.
    """
    return Recipe(
        data=DataConfig(name="tiny_imagenet"),
        model=ModelConfig(size="tiny", patch_size=8),
        pretrain=PretrainConfig(
            epochs=400,
            warmup_epochs=20,
            batch_size=1024,
            base_lr=3e-4,
            decoder_width=192,
            decoder_depth=4,
            decoder_heads=6,
            probes=9,
            precision="bfloat16",
            augment=AugmentConfig(flip=True, crop_min_scale=0.2),
        ),
        finetune=FinetuneConfig(
            loss="bal_bce",
            epochs=100,
            warmup_epochs=10,
            batch_size=512,
            base_lr=1e-3,
            min_lr=1e-6,
            drop_path=0.1,
            label_smoothing=0.1,
            mixup=0.8,
            cutmix=1.0,
            precision="bfloat16",
            augment=AugmentConfig(flip=True, crop_min_scale=0.3, random_erasing=0.25),
        ),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    "smoke": smoke,
    "digit_pairs": digit_pairs,
    "digit_pairs_short": digit_pairs_short,
    "tiny_imagenet_lt": tiny_imagenet_lt,
}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the experiments train at one scale.

    main: the recipe of the loss ablation. sweep: the recipe that other experiments vary, shorter where their number
    would cost too much. sizes: model sizes, smallest first. lengths: epochs of fine-tuning to compare.
    """

    main: Recipe
    sweep: Recipe
    sizes: tuple[str, ...]
    lengths: tuple[int, ...]


PROFILES: dict[str, Profile] = {
    "smoke": Profile(main=smoke(), sweep=smoke(), sizes=("femto", "pico"), lengths=(2, 3)),
    "cpu": Profile(
        main=digit_pairs(), sweep=digit_pairs_short(), sizes=("femto", "pico", "micro"), lengths=(8, 15, 30)
    ),
    "gpu": Profile(
        main=tiny_imagenet_lt(), sweep=tiny_imagenet_lt(), sizes=("tiny", "small", "base"), lengths=(25, 50, 100)
    ),
}
