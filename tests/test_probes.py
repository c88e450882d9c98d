"""The probes of features against scikit-learn, a forward pass by hand, and the training that they must not touch."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from livt.config import AugmentConfig, with_overrides
from livt.data.augment import Augment
from livt.data.images import Split
from livt.data.sets import load_dataset
from livt.lab.recipes import digit_pairs, smoke, tiny_imagenet_lt
from livt.lab.runs import RunStore
from livt.lab.stages import train
from livt.longtail import shot_groups
from livt.models import create_vit
from livt.pretrain import create_mae, probe_epochs
from livt.probes import features, knn_scores, linear_scores, probe

PARTS = ("accuracy", "many", "medium", "few")


def clouds(dtype, seed=0, width=7):
    """Features of four long-tailed classes around four centres: train, labels, evaluation."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(4), (61, 15, 7, 3))
    centres = rng.normal(size=(4, width)) + 0.5
    train = centres[labels] + rng.normal(size=(len(labels), width)) * np.linspace(0.3, 3, width)
    evaluation = centres[rng.integers(0, 4, 31)] + rng.normal(size=(31, width))
    return torch.tensor(train, dtype=dtype), torch.from_numpy(labels), torch.tensor(evaluation, dtype=dtype)


# ------------------------------------------------------------------------------------------- nearest neighbours


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (5, 0.2)])
def test_nearest_neighbours_match_scikit_learn(k, temperature):
    train, labels, evaluation = clouds(torch.float32)
    scores = knn_scores(train, labels, evaluation, 4, k=k, temperature=temperature)
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train.double().numpy(), labels.numpy())
    expected = reference.predict_proba(evaluation.double().numpy())
    np.testing.assert_allclose(scores / scores.sum(1, keepdim=True), expected, atol=2e-5)
    assert (scores.argmax(1).numpy() == reference.predict(evaluation.double().numpy())).all()


def test_neighbours_default_to_the_usual_constants_and_to_all_there_are():
    train, labels, evaluation = clouds(torch.float32)
    same = knn_scores(train, labels, evaluation, 4, k=20, temperature=0.07)
    torch.testing.assert_close(knn_scores(train, labels, evaluation, 4), same, rtol=0, atol=0)
    few = knn_scores(train[:6], labels[:6], evaluation, 4)
    everyone = knn_scores(train[:6], labels[:6], evaluation, 4, k=6)
    torch.testing.assert_close(few, everyone, rtol=0, atol=0)


def test_neighbours_ask_for_direction_and_not_for_length():
    train, labels, evaluation = clouds(torch.float32)
    length = torch.linspace(0.1, 10, len(train))[:, None]
    expected = knn_scores(train, labels, evaluation, 4)
    torch.testing.assert_close(knn_scores(train * length, labels, 3 * evaluation, 4), expected, rtol=1e-4, atol=0)


# ---------------------------------------------------------------------------------------------------- linear map


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_linear_map_matches_scikit_learn(ridge, seed):
    train, labels, evaluation = clouds(torch.float64, seed)
    scores = linear_scores(train, labels, evaluation, 4, ridge=ridge)
    x, y = train.numpy(), labels.numpy()
    mean, std = x.mean(0), x.std(0, ddof=1)
    weight = 1 / np.bincount(y)[y]
    # Ridge adds its penalty to the weighted sum of squares, and leaves the constant free.
    reference = Ridge(alpha=ridge * weight.sum(), solver="cholesky")
    reference.fit((x - mean) / std, np.eye(4)[y], sample_weight=weight)
    np.testing.assert_allclose(scores, reference.predict((evaluation.numpy() - mean) / std), rtol=0, atol=1e-8)


def test_the_linear_map_solves_in_float64():
    train, labels, evaluation = clouds(torch.float64)
    single = linear_scores(train.float(), labels, evaluation.float(), 4)
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, linear_scores(train, labels, evaluation, 4), rtol=0, atol=1e-4)


def test_a_constant_feature_and_an_absent_class_do_no_harm():
    train, labels, evaluation = clouds(torch.float64)
    expected = linear_scores(train, labels, evaluation, 4)
    ones = torch.ones(len(train), 1, dtype=torch.float64), torch.ones(len(evaluation), 1, dtype=torch.float64)
    wider = linear_scores(torch.cat((train, ones[0]), 1), labels, torch.cat((evaluation, ones[1]), 1), 5)
    torch.testing.assert_close(wider[:, :4], expected)
    assert (wider[:, 4] == 0).all()


# ------------------------------------------------------------------------------------------------------ features


@pytest.fixture(scope="module")
def digits():
    return load_dataset(smoke().data)


def encoder_of(seed=0, drop_path=0.5):
    torch.manual_seed(seed)
    encoder = create_vit("pico", (8, 8), 4, 0, drop_path=drop_path, global_pool="token")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return encoder


def by_hand(vit, images, data):
    """Patches, class token, positions, blocks and norm; then the mean of the tokens behind the class token."""
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (data.mean, data.std))
    x = (images / 255 - mean) / std
    projection = vit.patch_embed.proj
    x = torch.nn.functional.conv2d(x, projection.weight, projection.bias, stride=4).flatten(2).transpose(1, 2)
    x = torch.cat((vit.cls_token.expand(len(x), -1, -1), x), 1) + vit.pos_embed
    for block in vit.blocks:
        x = x + block.attn(block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    return vit.norm(x)[:, 1:].mean(1)


@pytest.mark.parametrize("training", [True, False])
def test_features_are_the_mean_patch_token_of_images_as_they_are(digits, training, monkeypatch):
    split = Split(images=digits.evaluation.images[:23], labels=digits.evaluation.labels[:23])
    vit = encoder_of()
    vit.train(training)
    augment = Augment(AugmentConfig(shift=2, flip=True, random_erasing=1.0), digits.mean, digits.std)
    monkeypatch.setattr("livt.data.batches.EVALUATION_BATCH", 10)
    found = features(vit, split, augment)
    assert vit.training is training
    assert all(module.training is training for module in vit.modules())
    assert not found.requires_grad
    assert found.shape == (23, vit.embed_dim)
    with torch.no_grad():
        torch.testing.assert_close(found, by_hand(vit.eval(), split.images, digits), rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- probe


def test_a_probe_scores_each_group_of_the_evaluation_split(digits):
    vit = encoder_of()
    augment = Augment(AugmentConfig(), digits.mean, digits.std)
    row = probe(vit, digits, augment)
    assert list(row) == [f"{name}_{part}" for name in ("knn", "linear") for part in PARTS]
    assert all(type(value) is float and 0 <= value <= 100 for value in row.values())
    with torch.no_grad():
        train, evaluation = (by_hand(vit.eval(), split.images, digits) for split in (digits.train, digits.evaluation))
    labels, groups = digits.evaluation.labels.numpy(), shot_groups(digits.class_counts)
    for name, scores_of in (("knn", knn_scores), ("linear", linear_scores)):
        hit = scores_of(train, digits.train.labels, evaluation, 10).argmax(1).numpy() == labels
        # An image whose best two classes all but tie may fall to either side.
        assert row[f"{name}_accuracy"] == pytest.approx(100 * hit.mean(), abs=0.5)
        for group in ("many", "medium", "few"):
            inside = groups[labels] == group
            assert row[f"{name}_{group}"] == pytest.approx(100 * hit[inside].mean(), abs=2)


def test_features_of_labels_are_probed_perfectly_and_noise_at_chance(digits):
    """An encoder is not needed to see what 100 % and chance are: the scores alone decide."""
    labels, expected = digits.train.labels, digits.evaluation.labels
    one_hot = torch.nn.functional.one_hot
    generator = torch.Generator().manual_seed(0)
    for scores_of in (knn_scores, linear_scores):
        known = scores_of(one_hot(labels, 10).float(), labels, one_hot(expected, 10).float(), 10)
        assert (known.argmax(1) == expected).all()
        noise = (torch.randn(len(y), 16, generator=generator) for y in (labels, expected))
        blind = scores_of(next(noise), labels, next(noise), 10).argmax(1)
        assert (blind == expected).double().mean() < 0.2


# ------------------------------------------------------------------------------------------------ during training


@pytest.mark.parametrize(
    ("epochs", "probes", "expected"),
    [(25, 6, {5, 10, 15, 20, 25}), (7, 2, {7}), (7, 4, {2, 5, 7}), (7, 0, set()), (400, 9, set(range(50, 401, 50)))],
)
def test_probe_epochs_are_evenly_spread_and_end_with_training(epochs, probes, expected):
    recipe = with_overrides(smoke(), {"pretrain.epochs": epochs, "pretrain.probes": probes})
    assert probe_epochs(recipe.pretrain) == expected


@pytest.mark.parametrize("recipe", [smoke(), digit_pairs(), tiny_imagenet_lt()], ids=lambda r: r.data.name)
def test_each_recipe_is_probed_as_often_as_it_says(recipe):
    epochs = probe_epochs(recipe.pretrain)
    assert len(epochs) == recipe.pretrain.probes - 1  # and once before training
    assert max(epochs) == recipe.pretrain.epochs


def test_probes_are_recorded_at_their_epochs_and_change_no_weight(tmp_path, digits):
    recipe = with_overrides(smoke(), {"pretrain.epochs": 4, "pretrain.probes": 3})
    store = RunStore(tmp_path)
    probed = train("pretrain", recipe, store, progress=False)
    blind = train("pretrain", with_overrides(recipe, {"pretrain.probes": 0}), store, progress=False)
    assert [row["epoch"] for row in probed.metrics if "probe" in row] == [2, 4]
    assert [row["epoch"] for row in probed.metrics if "probe_untrained" in row] == [1]
    assert not any(key.startswith("probe") for row in blind.metrics for key in row)
    assert [row["train_loss"] for row in probed.metrics] == [row["train_loss"] for row in blind.metrics]
    with_probes, without = (load_file(store.weights(run.id)) for run in (probed, blind))
    assert all(torch.equal(with_probes[name], without[name]) for name in without)

    # The last probe is that of the stored weights, which other notebooks and readers probe again.
    mae = create_mae(recipe)
    mae.load_state_dict(with_probes)
    again = probe(mae.encoder, digits, Augment(recipe.pretrain.augment, digits.mean, digits.std))
    assert again == pytest.approx(probed.metrics[-1]["probe"], abs=0.5)
