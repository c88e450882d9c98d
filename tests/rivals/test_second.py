"""The stage of second stages: what is trained and what is not, resumed, evaluated again, refused, counted and shown."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from livt import __main__ as cli
from livt.companion import provenance
from livt.config import Recipe, with_overrides
from livt.data.augment import Augment
from livt.data.sets import load_dataset
from livt.finetune import create_classifier
from livt.lab.archive import export_runs, import_runs
from livt.lab.check import recipe_of
from livt.lab.cost import cost_of, flops_of
from livt.lab.failures import RunError
from livt.lab.find import find, mixed_code, starts
from livt.lab.recipe_files import read_recipe, write_recipe
from livt.lab.recipes import smoke
from livt.lab.results import results
from livt.lab.retrain import retrain
from livt.lab.runs import RunStore
from livt.lab.stages import STAGES, load_weights, train
from livt.lab.stored import save_for_timm, stored_logits
from livt.lab.train import plan, train_all
from livt.losses import LOSSES, CrossEntropy, Loss
from livt.rivals import second as loop
from livt.rivals.methods import METHODS, Method, features_of, head_of
from livt.rivals.second import create_second

BASE = {"finetune.loss": "ce", "pretrain": None, "finetune.epochs": 3}
FOLLOWING = [name for name in METHODS if name != "aggregation"]  # on any classifier; that one needs experts
LEARNING = [name for name, method in METHODS.items() if method.create is not None]
# What each learns, by name in a Vision Transformer.
LEARNED = {
    "crt": {"head.weight", "head.bias"},
    "lws": {"head.factor"},
    "disalign": {"head.magnitude", "head.margin", "head.confidence.weight", "head.confidence.bias"},
    "mislas": {"head.factor", "head.inner.weight", "head.inner.bias"},
    "weight_balancing": {"head.weight", "head.bias"},
}


def recipe(method: str, **changes) -> Recipe:
    return with_overrides(smoke(), BASE | {"second.method": method} | changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> RunStore:
    """A store with a first stage and all second stages on it."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    train_all([recipe(name) for name in FOLLOWING], store, jobs=1, progress=False)
    return store


def record_of(method: str, store: RunStore, stage: str = ""):
    return find([recipe(method)], store, stage)[recipe(method)]


def test_every_method_starts_from_the_one_first_stage_and_has_its_scores(store):
    assert [run_id.partition("-")[0] for run_id in store.ids()] == ["finetune"] + ["second"] * len(FOLLOWING)
    first = record_of("crt", store, "finetune")
    for name in FOLLOWING:
        method, record = METHODS[name], record_of(name, store)
        assert record.result["finetune_run"] == first.id
        assert len(record.metrics) == (1 if method.create is None else 10)
        assert (record.metrics[-1]["train_loss"] is None) == (method.create is None)
        assert 0 <= record.result["accuracy"] == record.metrics[-1]["accuracy"] <= 100
        assert recipe_of("second", record.config) == record.recipe == recipe(name)


@pytest.mark.parametrize("name", FOLLOWING)
def test_the_trunk_does_not_change(store, name):
    before = load_weights(record_of(name, store, "finetune"), store)
    after = load_weights(record_of(name, store), store)
    trunk = {key for key in before if not key.startswith("head.")}
    assert len(trunk) > 20
    prefix = "network." if name == "nearest_pixels" else ""
    assert all(torch.equal(before[key], after[prefix + key]) for key in trunk)
    own = {key for key in after if not key.startswith(prefix) or key[len(prefix) :] not in trunk}
    frozen = {"head.inner.weight", "head.inner.bias"} if name in ("lws", "disalign") else set()
    if name in LEARNED:
        assert own == LEARNED[name] | frozen
    for key in frozen:
        assert torch.equal(after[key], before[key.replace("inner.", "")])


@pytest.mark.parametrize("name", FOLLOWING)
def test_its_cost_is_told_before_anything_trains(name):
    cost = cost_of("second", recipe(name))
    assert cost.stage == "second"
    assert cost.parameters > 0


@pytest.mark.parametrize("name", [name for name in FOLLOWING if METHODS[name].create is None])
def test_what_learns_nothing_reads_bfloat16_too(store, name, tmp_path):
    chosen = recipe(name, **{"second.precision": "bfloat16"})
    other = RunStore(tmp_path)
    first = load_weights(record_of(name, store, "finetune"), store)
    data = load_dataset(chosen.data)
    with other.open(chosen.stage("second"), data.digest) as run:
        loop.second(chosen, data, run, first=first, device=torch.device("cpu"), progress=False)
    assert abs(other.load(run.id).result["accuracy"] - record_of(name, store).result["accuracy"]) < 5


@pytest.mark.parametrize("name", LEARNING)
def test_what_the_method_learns_gets_gradients_and_nothing_else_does(store, name, monkeypatch, tmp_path):
    """All of it: DisAlign's confidence from the second step on, as it has nothing to weigh at the start."""
    seen: list[dict[str, torch.Tensor]] = []
    real = loop.take_step

    def watched(optimizer, *arguments, model, **more):
        value = real(optimizer, *arguments, model=model, **more)
        assert not model.training
        learned = {key for key, p in model.named_parameters() if p.requires_grad}
        assert learned == LEARNED[name]
        grouped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert grouped == {id(p) for key, p in model.named_parameters() if key in learned}
        assert all(p.grad is None for key, p in model.named_parameters() if key not in learned)
        seen.append({key: p.grad.clone() for key, p in model.named_parameters() if key in learned})
        return value

    monkeypatch.setattr(loop, "take_step", watched)
    first = load_weights(record_of(name, store, "finetune"), store)
    other = RunStore(tmp_path)
    chosen = recipe(name, **{"second.epochs": 1})
    data = load_dataset(chosen.data)
    with other.open(chosen.stage("second"), data.digest) as run:
        loop.second(chosen, data, run, first=first, device=torch.device("cpu"), progress=False)
    assert all(gradient.abs().sum() > 0 for gradient in seen[1].values())


@pytest.mark.parametrize("name", LEARNING)
def test_a_killed_run_resumes_to_the_same(store, name, monkeypatch, tmp_path):
    other = RunStore(tmp_path)
    train("finetune", recipe(name), other, progress=False)
    real, epochs = loop.predict, []

    def killed(*arguments):
        epochs.append(1)
        if len(epochs) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        train("second", recipe(name), other, progress=False)
    monkeypatch.setattr(loop, "predict", real)
    again, whole = train("second", recipe(name), other, progress=False), record_of(name, store)
    assert (again.id, again.metrics, again.result) == (whole.id, whole.metrics, whole.result)
    assert other.weights(again.id).read_bytes() == store.weights(whole.id).read_bytes()


@pytest.mark.parametrize("name", FOLLOWING)
def test_stored_logits_have_the_scores_of_the_run(store, name):
    record = record_of(name, store)
    logits, labels = stored_logits(record, store)
    assert 100 * (logits.argmax(1) == labels).double().mean().item() == pytest.approx(record.result["accuracy"])


def test_without_training_the_first_stage_stays_by_its_limits(store, tmp_path):
    """LWS and DisAlign, before their first step, are the first stage; tau-norm at 0 is it without a bias."""
    first = load_weights(record_of("crt", store, "finetune"), store)
    model = create_classifier(recipe("crt"), 10)
    model.load_state_dict(first)
    images = torch.rand(6, 3, 8, 8)
    before = model.eval()(images)
    for name in ("lws", "disalign", "mislas", "weight_balancing"):
        assert torch.equal(create_second(recipe(name), 10, first)(images), before)
    head_of(model).bias.data.zero_()
    assert torch.equal(create_second(recipe("tau_norm", **{"second.options.tau": 0}), 10, first)(images), model(images))


@pytest.mark.parametrize("name", ["class_means", "nearest_feature", "nearest_pixels"])
def test_neighbours_are_those_of_scikit_learn_on_the_features_of_the_first_stage(store, name):
    data = load_dataset(recipe(name).data)
    model = create_classifier(recipe(name), 10)
    model.load_state_dict(load_weights(record_of(name, store, "finetune"), store))
    augment = Augment(recipe(name).second.augment, data.mean, data.std)
    with torch.no_grad():
        points = [augment.normalize(split.images) for split in (data.train, data.evaluation)]
        if name != "nearest_pixels":
            points = [features_of(model.eval(), images) for images in points]
    x, other = (part.flatten(1).double().numpy() for part in points)
    reference = NearestCentroid() if name == "class_means" else KNeighborsClassifier(1, algorithm="brute")
    expected = reference.fit(x, data.train.labels.numpy()).predict(other)
    found = stored_logits(record_of(name, store), store)[0].argmax(1).numpy()
    assert np.array_equal(found, expected)


def test_lengths_of_weights_end_below_the_limit(store):
    both = (load_weights(record_of("weight_balancing", store, stage), store) for stage in ("finetune", "second"))
    before, after = (weights["head.weight"] for weights in both)
    length = before.norm(dim=1)
    limit = length.min() + 0.1 * (length.max() - length.min())
    assert after.norm(dim=1).max() <= limit * (1 + 1e-6)


# ---------------------------------------------------------------- what is refused


def test_without_its_first_stage_it_is_refused_by_name(tmp_path):
    with pytest.raises(RunError, match=r"the finetune run finetune-\w+ is not finished in .*: train this stage first"):
        train("second", recipe("crt"), RunStore(tmp_path), progress=False)


class Two(nn.Module):
    """Two classifiers on one network: a model without a head of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.other = network, nn.Linear(network.num_features, network.num_classes)

    def forward(self, images):
        features = features_of(self.network, images)
        return (self.network.head(features) + self.other(features)) / 2


@pytest.fixture
def experts(monkeypatch):
    def create(class_counts, tau):
        return CrossEntropy()

    entry = Loss(name="two", title="Two", create=create, reads="softmax", source="this test", adapt=Two)
    monkeypatch.setitem(LOSSES, "two", entry)


@pytest.mark.parametrize("name", [name for name in FOLLOWING if name != "nearest_pixels"])
def test_a_model_without_one_head_is_refused_before_anything_trains(experts, name, tmp_path):
    message = f"second.method '{name}' cannot follow finetune.loss 'two': its model does not end in one head"
    for stage in ("finetune", "second"):
        with pytest.raises(ValueError, match=message):
            train(stage, recipe(name, **{"finetune.loss": "two"}), RunStore(tmp_path), progress=False)
    with pytest.raises(ValueError, match=message):
        plan([recipe(name, **{"finetune.loss": "two"})], RunStore(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_method_can_look_at_test_images_without_labels_on_a_model_of_its_own(experts, monkeypatch, tmp_path):
    """As test-time aggregation of experts does: it learns nothing by labels, and its numbers repeat."""
    drawn = []

    class Weighted(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.register_buffer("shares", torch.ones(2) / 2)

        def each(self, images):
            features = features_of(self.model.network, images)
            return torch.stack([self.model.network.head(features), self.model.other(features)], 1)

        def forward(self, images):
            return (self.shares[:, None] * self.each(images)).sum(1)

    def prepare(model, data, look, step):
        logits = look(model.each, data.evaluation)
        assert logits.shape == (400, 2, 10)
        drawn.append(torch.rand(1).item())
        model.shares.copy_(torch.softmax(step * logits.amax(2).mean(0), 0))

    entry = Method(
        name="look", title="", source="", adapt=lambda model, step: Weighted(model), prepare=prepare, on_head=False,
        options={"step": 3.0},
    )  # fmt: skip
    monkeypatch.setitem(METHODS, "look", entry)
    chosen = recipe("look", **{"finetune.loss": "two", "second.epochs": 1})
    store = RunStore(tmp_path)
    train("finetune", chosen, store, progress=False)
    record = train("second", chosen, store, progress=False)
    logits, labels = stored_logits(record, store)
    assert 100 * (logits.argmax(1) == labels).double().mean().item() == pytest.approx(record.result["accuracy"])
    assert len(drawn) == 2
    assert len(set(drawn)) == 1
    assert load_weights(record, store)["shares"].sum() == pytest.approx(1)


# ---------------------------------------------------------------- recipes and ids


def test_a_second_stage_comes_with_the_settings_of_fine_tuning_and_of_its_paper():
    made = recipe("crt", **{"finetune.batch_size": 32, "second.clip_grad": 1.0, "second.augment.flip": True})
    settings, first = made.second, made.finetune
    assert (settings.method, settings.sampling, settings.epochs, settings.warmup_epochs) == ("crt", "class", 10, 0)
    assert (settings.batch_size, settings.base_lr, settings.beta2) == (32, first.base_lr, first.beta2)
    assert (settings.clip_grad, first.clip_grad) == (1.0, None)
    assert (settings.augment.flip, first.augment.flip) == (True, False)
    assert settings.augment.shift == first.augment.shift == 1
    assert recipe("weight_balancing").second.weight_decay == 0.1
    assert with_overrides(made, {"second.epochs": 4}).second.epochs == 4
    assert with_overrides(made, {"second": None}).second is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second.epochs": 3}, "second.epochs: this recipe has no second stage: set second.method"),
        ({"second.method": "crt", "second.sampling": "some"}, "sampling 'some' is not one of"),
        ({"second.method": "crt", "second.gamma": 3}, "second.gamma: unknown key"),
        ({"second.method": "crt", "second.augment.shift": 8}, "second.augment.shift 8 moves the image"),
    ],
)
def test_impossible_sections_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(smoke(), changes)


def test_a_second_stage_renames_no_first_one_and_methods_and_options_name_their_own():
    plain = with_overrides(smoke(), {"finetune.loss": "ce"})
    made = with_overrides(plain, {"second.method": "disalign"})
    for stage in ("pretrain", "finetune"):
        assert made.stage(stage) == plain.stage(stage)
    assert "second" not in plain.identity()
    assert (made.last_stage, made.up_to("second"), made.needs("second")) == (
        "second",
        ["pretrain", "finetune", "second"],
        ["finetune"],
    )
    other = with_overrides(made, {"second.options.rho": 0.5})
    third = with_overrides(plain, {"second.method": "lws"})
    assert made.stage("second") != other.stage("second") != third.stage("second")
    assert Recipe.from_dict(json.loads(json.dumps(other.to_dict()))) == other


def test_a_recipe_file_keeps_a_second_stage(tmp_path):
    made = recipe("disalign", **{"second.options.rho": 0.5})
    (tmp_path / "r.yaml").write_text(write_recipe(made))
    assert read_recipe(tmp_path / "r.yaml") == made
    assert "second: null" in write_recipe(smoke())


# ---------------------------------------------------------------- what surrounds it


def test_a_frozen_trunk_costs_its_way_forward_alone():
    with torch.device("meta"):
        model, images = create_classifier(recipe("crt"), 10).eval(), torch.zeros(1, 3, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    forward, width = counter.get_total_flops(), model.num_features
    assert flops_of("second", recipe("lws"), 10) == forward
    assert flops_of("second", recipe("crt"), 10) == forward + 2 * width * 10
    assert flops_of("second", recipe("class_means"), 10) == forward - 2 * width * 10
    assert flops_of("second", recipe("tau_norm"), 10) == 0
    cost = cost_of("second", recipe("crt"))
    trunk, head = sum(p.numel() for p in model.parameters()) - (width + 1) * 10, (width + 1) * 10
    assert cost.parameters == trunk + head
    assert 0 <= cost.memory - 18 * head - 6 * trunk < 64 * 4 * 2 * (width + 2 * 10)


def test_the_code_of_a_method_counts_for_its_own_runs():
    codes = {name: STAGES["second"].code(recipe(name)) for name in ("crt", "lws", "tau_norm")}
    assert len(set(codes.values())) == 3
    assert STAGES["second"].code(recipe("crt", **{"second.epochs": 3})) == codes["crt"]


def test_stages_of_other_code_stand_in_one_table_and_one_stage_does_not(store):
    records = [record_of("crt", store, "finetune"), *(record_of(name, store) for name in FOLLOWING)]
    assert len({record.code for record in records}) > 3
    assert mixed_code(records, []) == ""
    from dataclasses import replace

    changed = replace(records[1], environment=records[1].environment | {"code": "0" * 12})
    assert "runs of different training code" in mixed_code([*records, changed], [])


def test_an_archive_brings_the_runs_before_it(tmp_path):
    chosen = with_overrides(smoke(), {"finetune.loss": "ce", "finetune.epochs": 2, "second.method": "tau_norm"})
    store = RunStore(tmp_path / "runs")
    for stage in chosen.up_to("second"):
        record = train(stage, chosen, store, progress=False)
    assert {run.stage for run in starts([record], store)} == {"pretrain", "finetune"}
    assert len(export_runs(store, [record.id], tmp_path / "runs.tar")) == 3
    other = RunStore(tmp_path / "other")
    assert all(import_runs(other, tmp_path / "runs.tar").values())
    assert other.load(record.id).result == record.result
    ((_, equal, _),) = retrain([record.id], other)
    assert equal


@pytest.mark.parametrize("name", ["crt", "tau_norm"])
def test_a_plain_network_is_written_for_timm(store, name, tmp_path):
    save_for_timm(record_of(name, store), store, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "config.json"}


def test_a_model_that_timm_does_not_have_is_refused(store, tmp_path):
    with pytest.raises(ValueError, match="has a model of its method's own, not a plain network: missing head.weight"):
        save_for_timm(record_of("lws", store), store, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_trains_all_stages_and_tells_the_cost_first(tmp_path, capsys):
    options = ["--runs", str(tmp_path), "--device", "cpu", "--quiet", "--set", "pretrain=null"]
    assert cli.main(["second", "smoke", *options]) == 2
    assert "smoke has no second stage: give it one, such as --set second.method=crt" in capsys.readouterr().err
    options += ["--set", "second.method=crt", "--set", "second.epochs=2"]
    assert cli.main(["second", "smoke", *options, "--dry-run"]) == 0
    assert "second, 1 run" in capsys.readouterr().out
    assert cli.main(["finetune", "smoke", *options]) == 0
    assert [run_id.partition("-")[0] for run_id in RunStore(tmp_path).ids()] == ["finetune"]
    assert cli.main(["second", "smoke", *options]) == 0
    found = RunStore(tmp_path).ids()
    assert [run_id.partition("-")[0] for run_id in found] == ["finetune", "second"]
    capsys.readouterr()
    assert cli.main(["runs", "list", "--runs", str(tmp_path), "--stage", "second"]) == 0
    assert "bal_bce, crt: accuracy" in capsys.readouterr().out
    assert cli.main(["evaluate", found[1], "--runs", str(tmp_path), "--device", "cpu"]) == 0
    assert cli.main(["runs", "verify", "--runs", str(tmp_path)]) == 0
    assert cli.main(["second", "smoke", *options, "--set", "second.method=best"]) == 2
    assert "second.method 'best' is not one of aggregation, crt" in capsys.readouterr().err


def test_a_residual_network_keeps_its_statistics(tmp_path):
    chosen = recipe("crt", **{"model.size": "resnet10", "model.patch_size": 1, "second.precision": "bfloat16"})
    store = RunStore(tmp_path)
    first, record = (train(stage, chosen, store, progress=False) for stage in ("finetune", "second"))
    before, after = load_weights(first, store), load_weights(record, store)
    assert before.keys() == after.keys()
    assert {key for key in before if not torch.equal(before[key], after[key])} <= {"head.fc.weight", "head.fc.bias"}
    assert any(key.endswith("running_mean") for key in before)


def test_an_unlearned_row_is_stored_without_a_training_loss(store):
    row = json.loads(Path(store.root / record_of("tau_norm", store).id / "metrics.jsonl").read_text())
    assert (row["train_loss"], row["lr"]) == (None, 0.0)


def test_the_page_of_runs_says_what_a_second_stage_starts_from_and_how_it_differs(store):
    base = with_overrides(smoke(), BASE)
    names = ("crt", "disalign")
    arms = {"second": {"ce": base} | {name: recipe(name) for name in names}}
    first = record_of("crt", store, "finetune")
    records = [first, *(record_of(name, store) for name in names)]
    frame = provenance.runs_frame(records, arms, base)
    assert list(frame["used by"]) == ["second: ce", "second: crt", "second: disalign"]
    assert list(frame["second stage of"].fillna("-")) == ["-", first.id, first.id]
    assert list(frame["differs"]) == ["", "second.method = crt", "second.method = disalign"]
    changed = recipe("crt", **{"second.epochs": 3, "second.options.x": 2})
    said = provenance.differences(changed, base, "second")
    assert said == "second.epochs = 3, second.method = crt, second.options.x = 2"
    table = provenance.runs_table(records, frame, dict.fromkeys(frame.run, "50.0"))
    assert table.count(f'after <a href="#{first.id}">') == 2
    assert table.count("50.0") == 3
    unlisted = provenance.runs_frame(records, {"second": {"crt": recipe("crt")}}, base)
    assert unlisted["used by"][0] == "second: start of 1", "a first stage that is no arm of its own"


def test_without_arms_a_second_stage_has_its_method_in_its_name(store):
    records = [record_of("crt", store, "finetune"), record_of("crt", store), record_of("tau_norm", store)]
    assert set(results(records).arm) == {"ce", "ce, crt", "ce, tau_norm"}
