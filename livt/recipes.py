"""Recipes by name: the smaller profiles of the paper's two-stage training. Each states command, hardware and cost."""

from collections.abc import Callable

from livt.config import AugmentConfig, DataConfig, FinetuneConfig, ModelConfig, PretrainConfig, Recipe


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
            augment=AugmentConfig(shift=1),
        ),
        finetune=FinetuneConfig(
            loss="bal_bce", epochs=2, warmup_epochs=1, batch_size=64, base_lr=4e-3, augment=AugmentConfig(shift=1)
        ),
    )


def digit_pairs() -> Recipe:
    """Profile ``cpu``."""
    return Recipe(
        data=DataConfig(name="digit_pairs", max_count=200, imbalance_factor=100),
        model=ModelConfig(size="nano", patch_size=4),
        pretrain=PretrainConfig(
            epochs=50,
            warmup_epochs=5,
            batch_size=256,
            base_lr=2e-3,
            mask_ratio=0.5,
            decoder_width=48,
            decoder_depth=1,
            decoder_heads=4,
        ),
        finetune=FinetuneConfig(
            loss="bal_bce", epochs=20, warmup_epochs=2, batch_size=128, base_lr=8e-3, augment=AugmentConfig(shift=1)
        ),
    )


def tiny_imagenet_lt() -> Recipe:
    """Profile ``gpu``: ViT-Tiny on Tiny-ImageNet with the real ImageNet-LT class counts, 64 px.

    Command: ``LIVT_DATA=... python -m livt reproduce loss_ablation --profile gpu``. Hardware: one GPU; three seeds are
    about 9e16 floating-point operations, from which 20 to 40 minutes on an H200 are estimated, not measured. Expected
    score: none is published for this subset; the order of the losses is what the paper predicts.

    Settings follow the paper's (Tables of hyper-parameters and augmentation) with a smaller batch and fewer epochs; they
    have not been tuned, and RandAugment is left out, as it runs image by image on the CPU.
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
    "tiny_imagenet_lt": tiny_imagenet_lt,
}
PROFILES: dict[str, Callable[[], Recipe]] = {"smoke": smoke, "cpu": digit_pairs, "gpu": tiny_imagenet_lt}
