import json

import pytest

from livt.config import MODEL_SIZES, FinetuneConfig, PretrainConfig, Recipe, digest, with_overrides
from livt.lab.recipes import RECIPES, digit_pairs, smoke
from livt.lab.suites import SUITES


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES)
def test_a_recipe_survives_json(make):
    recipe = make()
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_suites_are_made_of_recipes():
    made = {make() for make in RECIPES.values()}
    assert {recipe for suite in SUITES.values() for recipe in (suite.main, suite.sweep)} <= made


def test_recipes_state_command_hardware_and_score():
    for make in RECIPES.values():
        text = getattr(make, "func", make).__doc__  # a variant is its function with arguments
        assert "Command:" in text, make
        assert "Hardware:" in text, make
        assert "xpected score" in text, make


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("finetune.los", "bce", "finetune.los: unknown key 'los'"),
        ("nosection.x", "1", "'nosection' is not a section"),
        ("pretrain.mask_ratio", "1.0", r"inside \(0, 1\)"),
        ("pretrain.mask_ratio", "0", r"inside \(0, 1\)"),
        ("pretrain.mask_ratio", "0.99", "leaves 0 of 4 patches"),
        ("finetune.warmup_epochs", "2", "shorter than training"),
        ("finetune.epochs", "many", "epochs must be int, not 'many'"),
        ("finetune.epochs", "2.5", "epochs must be int, not 2.5"),
        ("finetune.epochs", "true", "epochs must be int, not True"),
        ("finetune.epochs", "0", "at least 1"),
        ("finetune.base_lr", "Infinity", "finite"),
        ("finetune.base_lr", "-1", "base_lr"),
        ("finetune.base_lr", "1" + 400 * "0", "base_lr must be finite"),
        ("finetune.augment.shift", "8", "shift 8 moves the image"),
        ("finetune.tau", "-1", "tau must not be negative"),
        ("finetune.layer_decay", "0", "layer_decay"),
        ("finetune.drop_path", "1", "drop_path"),
        ("finetune.precision", "float16", "float32, bfloat16"),
        ("finetune.accumulation_steps", "7", "must divide batch_size"),
        ("finetune.augment.random_erasing", "2", "probability"),
        ("finetune.augment", "3", "augment must be AugmentConfig"),
        ("pretrain.decoder_heads", "3", "multiple of 4 x decoder_heads"),
        ("model.patch_size", "3", "image size 8 x 8 is not a multiple"),
        ("model.size", "huge", "not one of femto"),
        ("data.name", "imagenet", "not one of digits"),
        ("data.imbalance_factor", "1000", "between 1 and data.max_count"),
        ("data.max_count", "null", "go together"),
        ("data.evaluation", "train", "'test' or 'validation'"),
        ("seed", "-1", "seed must not be negative"),
    ],
)
def test_impossible_values_are_refused_by_name(path, value, message):
    with pytest.raises(ValueError, match=message) as error:
        with_overrides(smoke(), {path: value})
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def test_mixing_needs_an_even_number_of_images():
    with pytest.raises(ValueError, match="must be even"):
        with_overrides(smoke(), {"finetune.mixup": 0.8, "finetune.batch_size": 63})


def test_overrides_read_json_and_plain_words():
    recipe = with_overrides(
        smoke(),
        {"finetune.augment.rand_augment": "rand-m9-mstd0.5-inc1", "pretrain": "null", "finetune.clip_grad": "1"},
    )
    assert recipe.pretrain is None
    assert recipe.finetune.clip_grad == 1.0
    assert recipe.finetune.augment.rand_augment == "rand-m9-mstd0.5-inc1"


def test_unknown_and_missing_keys_of_json_are_named():
    values = smoke().to_dict()
    known = "cluster, data, distill, finetune, meta, model, pretrain, second, seed, teacher"
    with pytest.raises(ValueError, match=f"unknown key 'colour'; Recipe has {known}"):
        Recipe.from_dict(values | {"colour": 1})
    del values["model"]
    with pytest.raises(ValueError, match="Recipe lacks model"):
        Recipe.from_dict(values)


def test_the_digest_depends_on_values_and_data_alone():
    recipe = smoke()
    config = recipe.stage("finetune")
    shuffled = dict(reversed(config.items()))
    assert digest(config, "data") == digest(shuffled, "data")
    assert digest(config, "data") != digest(config, "other data")
    assert len(digest(config, "data")) == 12
    whole = with_overrides(recipe, {"finetune.tau": 1, "data.imbalance_factor": 50})
    assert digest(whole.stage("finetune"), "data") == digest(config, "data"), "1 and 1.0 are one recipe"
    # A literal value: a digest that changes by itself would orphan every stored run and promoted record.
    assert digest({"stage": "finetune", "seed": 0, "tau": 1.0}, "0" * 16) == "aa9bc09fa302"


def test_pretraining_is_shared_by_fine_tunings_that_differ():
    one, other = (with_overrides(smoke(), {"finetune.loss": loss}) for loss in ("ce", "bal_bce"))
    assert one.stage("pretrain") == other.stage("pretrain")
    assert one.stage("finetune") != other.stage("finetune")
    with pytest.raises(ValueError, match="this recipe has no stage 'pretrain'"):
        with_overrides(smoke(), {"pretrain": None}).stage("pretrain")


def test_the_peak_learning_rate_scales_with_the_batch():
    assert FinetuneConfig(loss="ce", epochs=2, warmup_epochs=1, batch_size=1024, base_lr=1e-3).lr == pytest.approx(4e-3)


def test_defaults_are_the_papers():
    """Values of the paper's hyper-parameter table that are defaults here."""
    fine = FinetuneConfig(loss="bal_bce", epochs=100, warmup_epochs=10, batch_size=1024, base_lr=1e-3)
    pre = PretrainConfig(
        epochs=800,
        warmup_epochs=40,
        batch_size=4096,
        base_lr=1.5e-4,
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
    )
    assert (fine.beta1, fine.beta2, fine.weight_decay, fine.layer_decay, fine.tau) == (0.9, 0.99, 0.05, 0.75, 1.0)
    assert (pre.beta1, pre.beta2, pre.weight_decay, pre.mask_ratio, pre.min_lr) == (0.9, 0.95, 0.05, 0.75, 0.0)
    assert MODEL_SIZES["base"] == (768, 12, 12)


def test_image_size_follows_the_data_unless_set():
    assert digit_pairs().data.size == (8, 16)
    square = with_overrides(digit_pairs(), {"data.image_size": 16})
    assert square.data.size == (16, 16)
