"""The clustering stage: its scores, its labels, its records, and that a killed run ends as one that was not."""

import json

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, normalized_mutual_info_score
from torch.nn.functional import normalize

from livt import __main__ as cli
from livt.clustering import cluster as loop
from livt.clustering.methods import METHODS, mass_at, method_of, neighbour_graph, pseudo_labels
from livt.clustering.metrics import cluster_scores
from livt.config import Recipe, with_overrides
from livt.data.augment import Augment
from livt.data.seeds import seed_of
from livt.data.sets import load_dataset
from livt.lab.cost import cost_of, flops_of, parameters_of
from livt.lab.experiments import ON_DEMAND, arms
from livt.lab.find import find
from livt.lab.recipes import smoke
from livt.lab.results import results
from livt.lab.runs import RunStore
from livt.lab.stages import STAGES, load_weights, train
from livt.lab.stored import stored_logits
from livt.models import load_encoder

CPU = torch.device("cpu")


def recipe(method="sp2ot", **changes):
    epochs = {} if method == "k_means" else {"cluster.epochs": 3}
    return with_overrides(smoke(), {"cluster.method": method, **epochs, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = RunStore(tmp_path_factory.mktemp("runs"))
    train("pretrain", recipe(), store, progress=False)
    for method in METHODS:
        train("cluster", recipe(method), store, progress=False)
    return store


def record_of(method, store):
    return find([recipe(method)], store)[recipe(method)]


# ---------------------------------------------------------------- scores


def test_scores_are_those_of_scikit_learn_under_the_matching():
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [40, 20, 8, 2])
    clusters = np.where(draw.random(70) < 0.7, (labels + 1) % 4, draw.integers(0, 4, 70))
    found = cluster_scores(clusters, labels, np.bincount(labels))
    named = np.array(found["matching"])[clusters]
    assert sorted(found["matching"]) == [0, 1, 2, 3]
    assert found["accuracy"] == pytest.approx(100 * balanced_accuracy_score(labels, named))
    assert found["image_accuracy"] == pytest.approx(100 * accuracy_score(labels, named))
    assert found["f1"] == pytest.approx(100 * f1_score(labels, named, average="macro"))
    assert found["nmi"] == pytest.approx(100 * normalized_mutual_info_score(labels, clusters))
    assert found["sizes"] == np.bincount(clusters, minlength=4).tolist()


def test_a_small_class_survives_where_a_cluster_is_mostly_it():
    labels = np.repeat(np.arange(3), [10, 4, 2])
    assert cluster_scores(labels, labels, [10, 4, 2])["survivors"] == 100
    merged = np.where(labels == 2, 1, labels)  # the smallest class lies with the other small one
    assert cluster_scores(merged, labels, [10, 4, 2])["survivors"] == 50
    torn = np.array([0] * 5 + [2] * 5 + [1] * 4 + [2] * 2)  # it lies in half of the largest
    assert cluster_scores(torn, labels, [10, 4, 2])["survivors"] == 50
    even = cluster_scores([0, 1], [0, 1], [1, 1])
    assert even["survivors"] is None
    assert even["many"] is None


# ---------------------------------------------------------------- labels


def test_the_graph_has_the_nearest_by_cosine():
    features = normalize(torch.from_numpy(np.random.default_rng(0).normal(size=(30, 5))), dim=1)
    dense = neighbour_graph(features, 4).to_dense()
    cosine = (features @ features.T).fill_diagonal_(-1)
    for row, own in zip(dense, cosine, strict=True):
        assert set(row.nonzero().flatten().tolist()) == set(own.topk(4).indices[own.topk(4).values > 0].tolist())
        assert torch.allclose(row[row > 0], own[row > 0])
    assert neighbour_graph(features[:3], 20).shape == (3, 3)


def test_methods_lead_into_each_other():
    log_p = torch.from_numpy(np.random.default_rng(0).normal(scale=2, size=(40, 5))).log_softmax(1)
    graph = neighbour_graph(normalize(log_p, dim=1), 5)
    options = {name: method.options for name, method in METHODS.items()}
    p2ot = pseudo_labels(log_p, 0.4, options["p2ot"])
    assert torch.allclose(pseudo_labels(log_p, 0.4, options["sp2ot"] | {"weight": 0.0}, graph).q, p2ot.q, atol=1e-4)
    uot = pseudo_labels(log_p, 1.0, options["uot"])
    assert torch.equal(pseudo_labels(log_p, 1.0, options["p2ot"]).q, uot.q)
    assert torch.allclose(pseudo_labels(log_p, 1.0, options["sp2ot"], graph).q, uot.q, atol=1e-4)
    balanced = pseudo_labels(log_p, 1.0, options["balanced"])
    assert torch.allclose(pseudo_labels(log_p, 1.0, options["uot"] | {"gamma": 1e6}).q, balanced.q, atol=1e-4)
    assert mass_at(0, 50, options["sp2ot"]) == pytest.approx(0.1 + 0.9 * np.exp(-5))
    assert [mass_at(n, 1, options["sp2ot"]) for n in (0,)] == [mass_at(49, 50, options["sp2ot"])] == [1.0]
    assert {mass_at(n, 9, options["uot"]) for n in range(9)} == {1.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster.method": "best"}, "cluster.method 'best' is not one of k_means"),
        ({"cluster.options.gamma": -1}, "cluster.options.gamma must not be negative, not -1"),
        ({"cluster.options.epsilon": 0}, "cluster.options.epsilon must be positive"),
        ({"cluster.options.start_mass": 2}, "cluster.options.start_mass must lie in"),
        ({"cluster.options.neighbours": 1.5}, "cluster.options.neighbours must be a whole number"),
        ({"cluster.options.weight": -1}, "cluster.options.weight must not be negative"),
        (
            {"cluster.method": "uot", "cluster.options.weight": 1},
            "cluster.options has no 'weight': uot has ep",
        ),
        ({"cluster.method": "k_means", "cluster.epochs": 2}, "cluster.epochs must be 1, not 2"),
    ],
)
def test_bad_settings_are_named_before_anything_trains(changes, message):
    made = with_overrides(smoke(), {"cluster.method": "sp2ot", **changes})
    with pytest.raises(ValueError, match=message):
        method_of(made.cluster)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster.epochs": 3}, "this recipe has no clustering: set cluster.method"),
        ({"cluster.method": "uot", "cluster.augment.flip": True}, "cluster.augment must be off"),
        ({"cluster.method": "uot", "cluster.temperature": 0}, "cluster.temperature must be positive"),
        ({"cluster.method": "uot", "cluster.tokens": "cls"}, "cluster.tokens must be 'mean' or 'all'"),
        ({"cluster.method": "uot", "pretrain": None}, "cluster needs pretrain"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(smoke(), changes)


# ---------------------------------------------------------------- runs


def test_every_method_leaves_a_record_with_its_scores(store):
    data = load_dataset(smoke().data)
    for method in METHODS:
        found = record_of(method, store)
        assert found.stage == "cluster"
        assert found.result["pretrain_run"].startswith("pretrain-")
        assert sum(found.result["sizes"]) == len(data.train.labels)
        assert found.recipe.cluster == recipe(method).cluster
        assert [row["train_loss"] is None for row in found.metrics] == [method == "k_means"] * len(found.metrics)
        assert all(sum(row["sizes"]) == len(data.train.labels) for row in found.metrics)
        with pytest.raises(ValueError, match="is a clustering run: it has no classifier"):
            stored_logits(found, store)
    masses = [row["mass"] for row in record_of("sp2ot", store).metrics]
    assert masses == pytest.approx([mass_at(n, 3, {"start_mass": 0.1}) for n in range(3)])
    table = results([record_of(m, store) for m in METHODS], {m: recipe(m) for m in METHODS})
    assert table.arm.tolist() == list(METHODS)
    assert table.survivors.notna().all()


def test_k_means_is_scikit_learns_from_the_shared_seeds(store):
    chosen = recipe("k_means")
    data = load_dataset(chosen.data)
    encoder = loop._encoder(chosen)
    source = store.load(record_of("k_means", store).result["pretrain_run"])
    load_encoder(encoder, STAGES["pretrain"].gives(load_weights(source, store)))
    seen = loop.features_of(encoder, data.train, "mean", Augment(chosen.cluster.augment, data.mean, data.std))
    points = normalize(seen - seen.mean(0), dim=1).double().numpy()
    seeds = kmeans_plusplus(points, 10, random_state=seed_of(0, loop.STAGE))[0]
    theirs = KMeans(10, init=seeds, n_init=1).fit(points).labels_
    head = loop.create_clusters(chosen, 10)
    head.load_state_dict(load_weights(record_of("k_means", store), store))
    assert (head(seen).argmax(1).numpy() == theirs).mean() > 0.99


def test_a_killed_run_ends_as_an_uninterrupted_one(store, tmp_path, monkeypatch):
    again = RunStore(tmp_path)
    train("pretrain", recipe(), again, progress=False)
    real, calls = loop.pseudo_labels, []

    def fails(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "pseudo_labels", fails)
    with pytest.raises(KeyboardInterrupt):
        train("cluster", recipe(), again, progress=False)
    resumed, whole = train("cluster", recipe(), again, progress=False), record_of("sp2ot", store)
    assert len(calls) == 4
    assert (resumed.id, resumed.metrics, resumed.result) == (whole.id, whole.metrics, whole.result)
    weights = (place.weights(whole.id).read_bytes() for place in (store, again))
    assert next(weights) == next(weights)


def test_labels_of_classes_change_nothing_but_scores(store, tmp_path):
    """The encoder and the images alone decide the head."""
    data = load_dataset(smoke().data)
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(data.train.labels.numpy()))
    other = type(data)(**{**vars(data), "train": type(data.train)(images=data.train.images, labels=shuffled)})
    source = store.load(record_of("sp2ot", store).result["pretrain_run"])
    encoder = STAGES["pretrain"].gives(load_weights(source, store))
    again = RunStore(tmp_path)
    with again.open(recipe().stage("cluster"), data.digest) as run:
        loop.cluster(recipe(), other, run, encoder=encoder, device=CPU, progress=False)
        assert (again.weights(run.id)).read_bytes() == store.weights(record_of("sp2ot", store).id).read_bytes()


def test_the_head_learns_and_every_prototype_gets_a_gradient():
    head = loop.create_clusters(recipe("uot"), 10)
    torch.nn.init.normal_(head.weight)
    features = torch.randn(32, head.weight.shape[1], generator=torch.Generator().manual_seed(0))
    head(features).log_softmax(1).mul(torch.rand(32, 10)).sum().backward()
    assert (head.weight.grad.abs().sum(1) > 0).all()
    assert not loop.create_clusters(recipe("k_means"), 10).weight.requires_grad


# ---------------------------------------------------------------- recipes, names, costs


def test_a_recipe_names_its_run_by_the_pretraining_and_its_own_section():
    made, other = recipe(), with_overrides(recipe(), {"finetune.loss": "ce"})
    assert made.stage("cluster") == other.stage("cluster")
    assert "finetune" not in made.stage("cluster")
    assert (made.last_stage, made.up_to("cluster")) == ("cluster", ["pretrain", "cluster"])
    assert "cluster" not in smoke().identity()
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    assert set(arms("clustering", "digits")) == set(METHODS)
    assert arms("clustering", "digits")["uot"].cluster.tokens == "all"
    assert "clustering" in ON_DEMAND


def test_costs_are_those_of_the_head():
    width = 32
    assert parameters_of("cluster", recipe(), 10) == 10 * width
    assert flops_of("cluster", recipe("k_means"), 10) == 0
    assert flops_of("cluster", recipe(), 10) == 2 * 2 * width * 10  # forward, and back to the prototypes
    assert cost_of("cluster", recipe()).epochs == 3


def test_the_command_line(store, capsys):
    options = ["--runs", str(store.root), "--device", "cpu", "--quiet"]
    assert cli.main(["cluster", "smoke", *options]) == 2
    assert "clusters nothing: give it a method" in capsys.readouterr().err
    chosen = ["--set", "cluster.method=sp2ot", "--set", "cluster.epochs=3"]
    assert cli.main(["cluster", "smoke", *options, *chosen]) == 0
    assert f"{record_of('sp2ot', store).id}: accuracy" in capsys.readouterr().out
    assert cli.main(["runs", "list", "--runs", str(store.root), "--stage", "cluster"]) == 0
    assert "seed 0, sp2ot: accuracy" in capsys.readouterr().out
