"""What the chapter on masked pretraining computes from stored weights, against the definitions."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from livt.companion.masked import (
    grey_levels,
    mean_guess,
    parts_of,
    probe_tokens,
    probes_by_epoch,
    rebuild,
    some,
    untrained_mae,
)
from livt.companion.plots import masked_pretraining
from livt.data.augment import Augment
from livt.data.images import FileSplit
from livt.data.sets import load_dataset
from livt.lab.recipes import smoke

RECIPE = smoke()


@pytest.fixture(scope="module")
def data():
    return load_dataset(RECIPE.data)


@pytest.fixture(scope="module")
def augment(data):
    return Augment(RECIPE.pretrain.augment, data.mean, data.std)


def test_the_loss_of_means_is_that_of_a_model_that_predicts_zero(data, augment):
    """Normalized patches have mean 0: the means are an answer of zeros, whose loss the model's own method gives."""
    mae = untrained_mae(RECIPE)
    images = augment.normalize(data.train.images[:50])
    patches = mae.patchify(images).double()
    nothing, everything = torch.zeros_like(patches), torch.ones(patches.shape[:2], dtype=torch.float64)
    expected = mae.loss(patches, nothing, everything, normalize_targets=True).item()
    assert mean_guess(mae, images) == pytest.approx(expected, rel=1e-9)


def test_the_start_of_a_pretraining_is_that_of_its_seed():
    first, again, other = (untrained_mae(replace(RECIPE, seed=seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_neighbours_read_pixels_as_a_loop_over_test_images_does(data, augment):
    found = probe_tokens(None, data, augment, untrained_mae(RECIPE))
    grey = [normalize(augment.normalize(s.images)[:, 0].flatten(1), dim=1) for s in (data.train, data.evaluation)]
    correct = 0
    for x, label in zip(grey[1], data.evaluation.labels.tolist(), strict=True):
        cosine = (grey[0] @ x).numpy()
        nearest = np.argsort(-cosine)[:20]
        votes = np.bincount(data.train.labels[nearest], np.exp(cosine[nearest] / 0.07), minlength=10)
        correct += votes.argmax() == label
    share = 100 * correct / len(data.evaluation.labels)
    assert found["all patches", "knn"]["accuracy"] == pytest.approx(share, abs=0.3)  # float32 ties
    assert found["mean patch", "knn"]["accuracy"] < share


def test_an_encoder_is_read_by_both_probes_from_both_views(data, augment):
    mae = untrained_mae(RECIPE)
    found = probe_tokens(mae, data, augment, mae)
    assert set(found) == {(view, probe) for view in ("mean patch", "all patches") for probe in ("knn", "linear")}
    assert all(10 < scores["accuracy"] <= 100 for scores in found.values())


def test_images_in_files_are_refused(data, augment):
    files = FileSplit.__new__(FileSplit)
    with pytest.raises(ValueError, match="the tokens of images in files do not fit into memory"):
        probe_tokens(None, replace(data, train=files), augment, untrained_mae(RECIPE))


def test_an_empty_group_is_nan():
    found = parts_of({"knn_accuracy": 50.0, "knn_many": 60.0, "knn_medium": 40.0, "knn_few": None}, "knn")
    assert np.isnan(found["few"])
    assert found["medium"] == 40


def test_a_rebuilt_image_has_the_error_that_the_loss_names(data, augment):
    """The loss is the mean squared error of hidden pixels, each divided by the deviation of its patch."""
    mae, images, visible = untrained_mae(RECIPE), data.evaluation.images[:8], 3
    length, p = mae.decoder_pos_embed.shape[1] - 1, mae.patch_size
    noise = torch.rand(len(images), length, generator=torch.Generator().manual_seed(0))
    found = rebuild(mae, augment, images, visible, noise)
    assert found.mask.sum().item() == len(images) * (length - visible) * p * p * 3
    errors = []
    for i, patch in enumerate(noise.argsort(1)[:, visible:]):
        for k in patch.tolist():
            row, column = divmod(k, images.shape[-1] // p)
            cut = (slice(None), slice(row * p, row * p + p), slice(column * p, column * p + p))
            pixels = images[i], found.predicted[i], found.means[i]
            true, predicted, mean = (augment.normalize(x[None])[0][cut].double() for x in pixels)
            errors.append(((predicted - true) ** 2).mean() / (true.var() + 1e-6))
            assert found.mask[i][cut].all()
            assert (mean - true.mean()).abs().max() < 1e-5
    assert found.loss == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)


def test_grey_levels_are_means_of_channels_and_of_blocks():
    image = torch.arange(48, dtype=torch.float32).view(3, 4, 4)
    expected = image.numpy().reshape(3, 2, 2, 2, 2).mean((0, 2, 4))
    assert grey_levels(image, 2) == pytest.approx(expected)
    assert grey_levels(image * 100).max() == 255


def test_images_to_look_at_are_all_that_memory_has_or_evenly_spaced_files(data):
    assert some(data.evaluation, 5).tolist() == list(range(len(data.evaluation.labels)))
    files = FileSplit.__new__(FileSplit)
    object.__setattr__(files, "labels", torch.zeros(1000, dtype=torch.int64))
    assert some(files, 10).tolist() == list(range(0, 1000, 100))


def test_probes_by_epoch_begin_with_the_untrained_encoder():
    read = {f"knn_{part}": 50.0 for part in ("accuracy", "many", "medium", "few")}
    metrics = [{"epoch": 1, "probe_untrained": read}, {"epoch": 2, "probe": read | {"knn_few": None}}]
    runs = [SimpleNamespace(id="run", config={"seed": 4}, metrics=m) for m in (metrics, [{"epoch": 1}])]
    found = probes_by_epoch(runs, ["knn"])
    assert found[["seed", "probe", "epoch", "accuracy"]].values.tolist() == [[4, "knn", 0, 50], [4, "knn", 2, 50]]
    assert found.few.isna().tolist() == [False, True]
    assert probes_by_epoch(runs[1:], ["knn"]).empty


def test_no_label_of_the_probes_lies_under_their_legend():
    scores = dict.fromkeys(("accuracy", "many", "medium", "few"), 9)
    rows = [{"probe": probe, "seed": 0, "epoch": epoch} | scores for probe in ("knn", "linear") for epoch in (0, 9)]
    panels = {title: (pd.DataFrame(rows), 1.0) for title in ("one", "another")}
    figure = masked_pretraining.probes(panels, {"knn": "neighbours", "linear": "linear map"})
    figure.canvas.draw()
    (legend,) = figure.legends
    labels = [axis.xaxis.label for axis in figure.axes if axis.get_xlabel()]
    assert labels
    assert not any(legend.get_window_extent().overlaps(label.get_window_extent()) for label in labels)
    plt.close(figure)
