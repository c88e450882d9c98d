"""DeiT-LT beside LiVT (claim D1): what a CNN teaches a ViT, its flatness, strong images, and all at equal compute."""

import dataclasses
from dataclasses import replace
from functools import cache
from typing import Any

from livt.config import DistillConfig, Recipe, StageConfig, TeacherConfig, with_overrides
from livt.lab.suites import Suite

# Of the student alone: images that the teacher was not trained on. DeiT's, but on digits, which a policy made for
# photographs turns into others, and where mixing keeps a ViT from learning in so few epochs. On validation pairs, seed
# 100, DeiT-LT has 80.6 % by weak augmentation, 77.5 with random erasing, and 46.4 with mixup and CutMix of 0.2 besides.
# Few-shot, the class and the distillation token have 66.4 and 70.4, 55.8 and 67.7, 5.7 and 32.6. Taken: erasing alone.
STRONG: dict[str, Any] = {"rand_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.25, "mixup": 0.8, "cutmix": 1.0}
STRONG_DIGITS: dict[str, Any] = {"rand_augment": None, "random_erasing": 0.25, "mixup": 0.0, "cutmix": 0.0}


def distilled(suite: Suite) -> dict[str, Recipe]:
    """Return the arms that need no cost: DeiT-LT, with a teacher that is not flat, and without strong augmentation.

    The teacher takes the suite's epochs of fine-tuning on weakly augmented images, the student those of both stages of
    LiVT, re-weighted in the last twelfth, as 100 of the authors' 1,200 epochs are.
    """
    base, both = suite.main.finetune, _epochs(suite.main)
    assert suite.main.pretrain is not None
    shared = {field.name: getattr(base, field.name) for field in dataclasses.fields(StageConfig)}
    weak = replace(base.augment, rand_augment=None, random_erasing=0.0)
    strength = STRONG_DIGITS if suite.main.data.name in ("digits", "digit_pairs") else STRONG
    augment = {name: value for name, value in strength.items() if hasattr(weak, name)}
    mixing = {name: value for name, value in strength.items() if name not in augment}
    warmup = base.warmup_epochs * both / base.epochs
    student = shared | {"epochs": both, "warmup_epochs": warmup, "drop_path": base.drop_path}
    recipe = replace(
        suite.main,
        pretrain=None,
        teacher=TeacherConfig(**shared | {"augment": weak}, size=suite.cnn),
        distill=DistillConfig(**student | {"augment": replace(weak, **augment)}, **mixing),
    )
    assert recipe.teacher is not None
    assert recipe.distill is not None
    return {
        "deit_lt": recipe,
        "plain teacher": replace(recipe, teacher=replace(recipe.teacher, rho=0.0)),
        "weak augmentation": replace(recipe, distill=replace(recipe.distill, augment=weak, mixup=0.0, cutmix=0.0)),
    }


def deit_lt(suite: Suite) -> dict[str, Recipe]:
    """Claim D1: DeiT-LT, its parts left out one at a time; ViTs without a teacher, and LiVT, at its whole compute.

    ``vit``: the same student whose two tokens both learn the labels, with strong and with weak augmentation. Where
    images are mixed, its are to the end, and DeiT-LT's not in the last twelfth.
    ``livt``: MGP and Bal-BCE. They have the compute of teacher and student together; both stages of LiVT, and their
    warm-ups, grow by one factor. A plain teacher costs half of a flat one, and its arm the less.
    """
    arms = distilled(suite)
    budget = compute(arms["deit_lt"])
    for name, of in (("vit", "deit_lt"), ("vit, weak augmentation", "weak augmentation")):
        settings = arms[of].distill
        assert settings is not None
        alone = replace(arms[of], teacher=None, distill=replace(settings, share=1.0))
        epochs = max(2, round(settings.epochs * budget / compute(alone)))
        warmup = settings.warmup_epochs * epochs / settings.epochs
        arms[name] = with_overrides(alone, {"distill.epochs": epochs, "distill.warmup_epochs": warmup})
    livt = with_overrides(suite.main, {"finetune.loss": "bal_bce"})
    factor = budget / compute(livt)
    changes: dict[str, Any] = {}
    for stage in ("pretrain", "finetune"):
        settings = getattr(livt, stage)
        epochs = max(2, round(settings.epochs * factor))
        changes |= {
            f"{stage}.epochs": epochs,
            f"{stage}.warmup_epochs": settings.warmup_epochs * epochs / settings.epochs,
        }
    return arms | {"livt": with_overrides(livt, changes)}


@cache
def compute(recipe: Recipe) -> int:
    """Return the floating-point operations of all stages of a recipe, for each training image."""
    from livt.data.sets import classes_of  # heavy, and names of experiments are asked for more often than their cost
    from livt.lab.cost import flops_of

    classes = classes_of(recipe.data)
    stages = recipe.up_to(recipe.last_stage)
    return sum(getattr(recipe, stage).epochs * flops_of(stage, recipe, classes) for stage in stages)


def _epochs(recipe: Recipe) -> int:
    assert recipe.pretrain is not None
    return recipe.pretrain.epochs + recipe.finetune.epochs
