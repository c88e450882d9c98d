"""Probes of supervised encoders: against scikit-learn, and the section of the page with numbers from records."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from livt.companion import supervised
from livt.companion.chapter import Panel
from livt.data.augment import Augment
from livt.data.sets import load_dataset
from livt.finetune import create_classifier
from livt.lab.experiments import arms, equal_compute_epochs, recipes
from livt.lab.find import find
from livt.lab.runs import RunStore
from livt.lab.stages import load_weights
from livt.lab.stored import stored_logits
from livt.lab.suites import SUITES
from livt.lab.train import train_all
from livt.rivals.methods import features_of


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> RunStore:
    store = RunStore(tmp_path_factory.mktemp("runs"))
    train_all(recipes("probes", "smoke"), store, jobs=1, progress=False)
    return store


@pytest.fixture(scope="module")
def panel(store) -> Panel:
    return Panel("smoke", arms("probes", "smoke"), tuple(find(recipes("probes", "smoke"), store).values()), store)


def test_from_scratch_has_the_compute_of_both_stages():
    found = arms("probes", "smoke")
    epochs = {name: recipe.finetune.epochs for name, recipe in found.items()}
    assert epochs["CE from scratch/knn"] == equal_compute_epochs(SUITES["smoke"].sweep) > epochs["MGP, then CE/knn"]
    assert {name for name, recipe in found.items() if recipe.pretrain is None} == {
        "CE from scratch/knn",
        "CE from scratch/linear",
    }


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_a_probe_is_scikit_learns_on_the_features_that_the_head_sees(store, probe):
    recipe = arms("probes", "smoke")[f"MGP, then CE/{probe}"]
    data, records = (
        load_dataset(recipe.data),
        [find([recipe], store, stage)[recipe] for stage in ("finetune", "second")],
    )
    model = create_classifier(recipe, data.num_classes)
    model.load_state_dict(load_weights(records[0], store))
    augment = Augment(recipe.second.augment, data.mean, data.std)
    with torch.no_grad():
        train, test = (features_of(model.eval(), augment.normalize(s.images)) for s in (data.train, data.evaluation))
    labels = data.train.labels.numpy()
    if probe == "knn":
        reference = KNeighborsClassifier(
            20, metric="cosine", algorithm="brute", weights=lambda far: np.exp((1 - far) / 0.07)
        )
        expected = reference.fit(train, labels).predict(test)
    else:
        x, y = ((part - train.mean(0)) / train.std(0) for part in (train, test))
        weight = 1 / np.bincount(labels)[labels]
        reference = Ridge(alpha=1e-3 * weight.sum()).fit(x.double(), np.eye(10)[labels], sample_weight=weight)
        expected = reference.predict(y.double()).argmax(1)
    found = stored_logits(records[1], store)[0].argmax(1).numpy()
    assert (found == expected).mean() > 0.995  # neighbours that are equally near may come in another order


def test_each_number_of_the_section_is_a_records(panel, store):
    shown = supervised.section([panel])
    spec = importlib.util.spec_from_file_location("check", Path(__file__).parents[1] / "book" / "check.py")
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    count, problems = check.check_html(shown, store.load)
    assert problems == []
    assert count >= 2 * (4 + 2) * 3, "two probes of four encoders, and a difference with its interval, by group"
    assert "MGP alone minus CE from scratch" in shown


def test_mgp_alone_is_what_its_own_probes_read(panel):
    frame = supervised.probed(panel)
    alone = frame[frame.arm == "MGP alone/linear"]
    assert sorted(alone.seed) == [0, 1, 2]
    for run in panel.starts:
        row = alone[alone.run == run.id].iloc[0]
        assert row.accuracy == run.metrics[-1]["probe"]["linear_accuracy"]


def test_without_runs_it_says_so():
    assert supervised.section([]) == supervised.NOT_RUN
