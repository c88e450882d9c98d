"""MetaFormer: what synthetic metadata are and know, the tokens, the stage in the run store, and the experiment."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from scipy import special, stats
from torch import nn
from torch.nn import functional as F

from livt import __main__ as cli
from livt.companion import metaformer as page
from livt.companion.chapter import Panel
from livt.companion.claims import claims
from livt.companion.ledger import ruled
from livt.companion.plots import WIDTH
from livt.companion.plots.metaformer import idea
from livt.config import with_overrides
from livt.data.sets import load_dataset
from livt.finetune import create_classifier
from livt.lab.check import check_values, recipe_of
from livt.lab.cost import cost_of, flops_of
from livt.lab.experiments import arms
from livt.lab.find import find
from livt.lab.metaformer import LEVELS, metaformer
from livt.lab.results import results
from livt.lab.runs import RunStore
from livt.lab.stages import STAGES, load_weights, run_id, train
from livt.lab.stored import stored_logits
from livt.lab.suites import SUITES
from livt.lab.train import train_all
from livt.rivals import metaformer as loop
from livt.rivals.metadata import centres, evidence, metadata_of, mutual_information
from livt.rivals.metaformer import (
    HEADS,
    MetadataToken,
    MetaFormer,
    create_metaformer,
    evaluation_metadata,
    hidden_share,
    hide,
)

ARMS = metaformer(SUITES["smoke"])
RECIPE = ARMS["bal_bce/6"]
CPU = torch.device("cpu")


# ---------------------------------------------------------------- what the metadata are


def drawn(concentration: float, count: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 5
    return labels, metadata_of(labels, 5, concentration, (1, 2)).double().numpy()


@pytest.mark.parametrize("concentration", [0.0, 0.5, 4.0, 50.0])
def test_draws_have_the_moments_of_their_distributions(concentration):
    labels, rows = drawn(concentration)
    places, days = centres(5)
    assert np.linalg.norm(rows[:, :3], axis=1) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(rows[:, 3:], axis=1) == pytest.approx(1, abs=1e-6)
    cosines = (rows[:, :3] * places[labels]).sum(1)
    # The mean cosine on a sphere is coth k - 1 / k, that on a circle I1(k) / I0(k).
    mean = 1 / np.tanh(concentration) - 1 / concentration if concentration else 0.0
    assert cosines.mean() == pytest.approx(mean, abs=0.015)
    day = np.cos(np.arctan2(rows[:, 3], rows[:, 4]) - days[labels])
    assert day.mean() == pytest.approx(special.ive(1, concentration) / special.ive(0, concentration), abs=0.02)
    aside = rows[:, :3] - cosines[:, None] * places[labels]
    assert aside.mean(0) == pytest.approx(0, abs=0.02), "even around the centre"


def test_the_evidence_is_the_log_density_of_scipy_but_for_a_constant():
    _, rows = drawn(7.0, 50)
    places, days = centres(5)
    angle = np.arctan2(rows[:, 3], rows[:, 4])
    unit = rows[:, :3] / np.linalg.norm(rows[:, :3], axis=1, keepdims=True)
    by_class = [
        stats.vonmises_fisher(mu, 7.0).logpdf(unit) + stats.vonmises(7.0, loc=day).logpdf(angle)
        for mu, day in zip(places, days, strict=True)
    ]
    apart = evidence(rows, 5, 7.0) - np.stack(by_class, 1)
    assert apart == pytest.approx(np.full_like(apart, apart[0, 0]), abs=1e-5)


def test_each_image_has_its_own_draw_by_key():
    labels = np.array([0, 1, 1, 2])
    one = metadata_of(labels, 3, 5.0, (0, 1))
    assert one.dtype == torch.float32
    assert torch.equal(one, metadata_of(labels, 3, 5.0, (0, 1)))
    assert not torch.isclose(one, metadata_of(labels, 3, 5.0, (0, 2))).any()
    assert not torch.isclose(one[1], one[2]).any(), "two images of one class"


def test_information_is_between_nothing_and_the_entropy_of_the_class():
    assert mutual_information(10, 0.0) == pytest.approx(0, abs=1e-12)
    assert mutual_information(10, 1e6) == pytest.approx(np.log2(10))
    prior = np.array([0.7, 0.2, 0.1])
    entropy = -(prior * np.log2(prior)).sum()
    assert mutual_information(3, 1e6, prior) == pytest.approx(entropy, abs=1e-3)
    found = [mutual_information(10, k, draws=4000) for k in (0, 1, 2, 4, 8, 16)]
    assert found == sorted(found)
    assert found[-1] < np.log2(10)


def test_information_of_weak_metadata_is_that_of_its_expansion():
    """For k near 0: the mean square of k (m - E m) . centre over classes and metadata, halved, in nats."""
    places, days = centres(6)
    k = 0.05
    spread = ((places - places.mean(0)) ** 2).sum(1).mean() / 3  # a uniform unit vector has variance 1 / 3 a coordinate
    around = np.stack((np.sin(days), np.cos(days)), 1)
    spread += ((around - around.mean(0)) ** 2).sum(1).mean() / 2
    expected = k**2 * spread / 2 / np.log(2)
    assert mutual_information(6, k, draws=200_000) == pytest.approx(expected, abs=4e-4)


# ---------------------------------------------------------------- the model


def test_a_token_is_that_of_the_formula():
    token = MetadataToken(3, 8).double()
    for parameter in token.parameters():
        nn.init.normal_(parameter)
    weights = {name: value.detach().numpy() for name, value in token.state_dict().items()}

    def layer(x, name):
        x = np.maximum(x @ weights[f"{name}.0.weight"].T + weights[f"{name}.0.bias"], 0)
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.2.weight"] + weights[f"{name}.2.bias"]

    metadata = torch.randn(4, 3, dtype=torch.float64)
    first = layer(metadata.numpy(), "embed")
    expected = first + layer(layer(first, "residual.0"), "residual.1")
    assert token(metadata).detach().numpy() == pytest.approx(expected, rel=1e-9)
    assert torch.autograd.gradcheck(token, metadata.requires_grad_())


def test_without_its_metadata_tokens_the_model_is_the_plain_network():
    torch.manual_seed(0)
    model = create_metaformer(RECIPE, 10).eval()
    nn.init.normal_(model.head.weight)
    plain = create_classifier(replace(RECIPE, meta=None), 10).eval()
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("metadata.")}
    plain.load_state_dict(own)
    images = torch.randn(3, 3, 8, 8)
    model.parts, model.metadata = (), nn.ModuleList()
    assert torch.allclose(model(images, torch.zeros(3, 0)), plain(images), atol=1e-5)


def test_metadata_act_through_attention_and_everything_learns():
    model = create_metaformer(RECIPE, 10).train()
    nn.init.normal_(model.head.weight)
    images, metadata = torch.randn(6, 3, 8, 8), F.normalize(torch.randn(6, 5))
    logits = model(images, metadata)
    F.cross_entropy(logits, torch.arange(6)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    missing = model(images)
    assert not torch.allclose(logits, missing, atol=1e-4)
    assert torch.allclose(missing, model(images, torch.zeros(6, 5)))
    model.set_grad_checkpointing(True)
    assert torch.allclose(model(images, metadata), logits, atol=1e-5)


def test_metadata_are_hidden_from_a_share_that_falls_linearly():
    assert [hidden_share(1.0, epoch, 4) for epoch in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert hidden_share(0.4, 5, 10) == pytest.approx(0.2)
    metadata = torch.ones(10, 5)
    assert (hide(metadata, 0.39).sum(1) == 0).sum() == 3
    assert torch.equal(hide(metadata, 0.0), metadata)
    assert not hide(metadata, 1.0).any()
    assert metadata.all(), "what is given stays"


# ---------------------------------------------------------------- the stage in the run store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> RunStore:
    store = RunStore(tmp_path_factory.mktemp("runs"))
    train_all([RECIPE], store, jobs=1, progress=False)
    return store


def test_scores_are_those_of_the_weights_with_metadata_shuffled_and_missing(store):
    record = find([RECIPE], store)[RECIPE]
    data, own = load_dataset(RECIPE.data), evaluation_metadata(RECIPE, load_dataset(RECIPE.data))
    logits, labels = stored_logits(record, store)
    assert 100 * (logits.argmax(1) == labels).double().mean().item() == pytest.approx(record.result["accuracy"])
    model = create_metaformer(RECIPE, 10).eval()
    model.load_state_dict(load_weights(record, store))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    images = (data.evaluation.images / 255 - mean) / std
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(loop.ORDER))
    assert not torch.equal(own, own[order])
    with torch.no_grad():
        assert torch.allclose(model(images, own), logits, atol=1e-4)
        for head, other in (("shuffled", model(images, own[order])), ("missing", model(images))):
            accuracy = 100 * (other.argmax(1) == labels).double().mean().item()
            assert record.result["heads"][head]["accuracy"] == pytest.approx(accuracy, abs=0.6)
    for found in (record.result, *record.result["heads"].values()):
        lead = None if None in (found["few"], found["many"]) else found["few"] - found["many"]
        assert found["tail_lead"] == lead
    assert set(record.result["heads"]) == set(HEADS)


def test_it_starts_from_the_pretraining_and_fine_tuning_has_no_part_in_it(store):
    record = find([RECIPE], store)[RECIPE]
    assert record.result["pretrain_run"] == run_id("pretrain", RECIPE, store)
    assert recipe_of("meta", record.config).meta == RECIPE.meta
    assert find([with_overrides(RECIPE, {"finetune.loss": "ce"})], store)
    assert STAGES["meta"].code(RECIPE) != STAGES["meta"].code(with_overrides(RECIPE, {"meta.loss": "focal"}))


def test_each_image_keeps_its_metadata_through_training(store, monkeypatch, tmp_path):
    """An image is known by its pixels, unaugmented; hidden metadata are zero, others those of the image."""
    recipe = with_overrides(RECIPE, {"meta.augment.shift": 0, "meta.epochs": 2, "meta.warmup_epochs": 0})
    seen, real = [], MetaFormer.forward

    def watched(self, images, metadata=None):
        if self.training:
            seen.append((images.detach().clone(), metadata.clone()))
        return real(self, images, metadata)

    monkeypatch.setattr(MetaFormer, "forward", watched)
    data = load_dataset(recipe.data)
    with RunStore(tmp_path).open(recipe.stage("meta"), data.digest) as run:
        loop.meta(recipe, data, run, device=CPU, progress=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    all_images = ((data.train.images / 255 - mean) / std).flatten(1)
    rows = metadata_of(data.train.labels, 10, recipe.meta.concentration, (recipe.seed, loop.STAGE, loop.TRAIN))
    shares = []
    for images, metadata in seen:
        numbers = torch.cdist(images.flatten(1), all_images).argmin(1)
        shown = metadata.any(1)
        shares.append(1 - shown.double().mean().item())
        same = torch.isclose(metadata, rows[numbers]).all(1)
        assert (same | ~shown).double().mean() > 0.95, "but for scans that are twins"
    half = len(shares) // 2
    assert shares == [1.0] * half + [0.5] * half


def test_a_killed_run_resumes_to_the_same(store, monkeypatch, tmp_path):
    other, real, epochs = RunStore(tmp_path), loop.predict_with, []
    train("pretrain", RECIPE, other, progress=False)

    def killed(*arguments):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "predict_with", killed)
    with pytest.raises(KeyboardInterrupt):
        train("meta", RECIPE, other, progress=False)
    monkeypatch.setattr(loop, "predict_with", real)
    again, whole = train("meta", RECIPE, other, progress=False), find([RECIPE], store)[RECIPE]
    assert (again.id, again.metrics, again.result) == (whole.id, whole.metrics, whole.result)
    assert other.weights(again.id).read_bytes() == store.weights(whole.id).read_bytes()


def test_a_record_is_checked(store):
    record = find([RECIPE], store)[RECIPE]
    values = {name: getattr(record, name) for name in ("id", "stage", "config", "metrics", "result", "environment")}
    check_values(values)
    heads = record.result["heads"]
    for damage, message in (
        ({"heads": {"shuffled": heads["shuffled"]}}, "missing of the result is None"),
        ({"heads": []}, "heads is"),
        ({"tail_lead": 101.0}, "tail_lead is 101.0, not a difference of percentages"),
        ({"heads": heads | {"missing": heads["missing"] | {"tail_lead": "1"}}}, "tail_lead is '1'"),
    ):
        with pytest.raises(ValueError, match=message):
            check_values(values | {"result": record.result | damage})


def test_rows_of_results_have_metadata_shuffled_and_missing_as_arms(store):
    table = results(find([RECIPE], store).values(), {"bal_bce/6": RECIPE}).set_index("arm")
    assert table.index.tolist() == ["bal_bce/6", "bal_bce/6, missing", "bal_bce/6, shuffled"]
    assert table.loss.unique().tolist() == ["bal_bce"]
    record = find([RECIPE], store)[RECIPE]
    assert table.few["bal_bce/6, missing"] == record.result["heads"]["missing"]["few"]
    assert "tail_lead" in table


def test_the_command_line_trains_and_shows_it(store, capsys):
    options = ["--runs", str(store.root), "--device", "cpu"]
    chosen = ["--set", "meta.concentration=6"]
    assert cli.main(["meta", "smoke", *options, *chosen, "--quiet"]) == 0
    assert find([RECIPE], store)[RECIPE].id in capsys.readouterr().out, "the arm of the experiment"
    assert cli.main(["runs", "list", "--runs", str(store.root)]) == 0
    assert "seed 0, bal_bce, metadata of concentration 6: accuracy" in capsys.readouterr().out
    assert cli.main(["meta", "smoke", *options]) != 0
    assert "smoke has no metadata: give it some, such as --set meta.concentration=10" in capsys.readouterr().err
    assert cli.main(["meta", "smoke", "--set", "seed=1", *chosen, "--dry-run", *options]) == 0
    assert "2 runs to train" in capsys.readouterr().out


# ---------------------------------------------------------------- the experiment


def test_arms_differ_by_loss_and_information_alone():
    found = arms("metaformer", "smoke")
    assert list(found) == [f"{loss}/{level}" for loss in ("ce", "bal_bce") for level in LEVELS]
    same = {with_overrides(recipe, {"meta.concentration": 0, "meta.loss": "ce"}).meta for recipe in found.values()}
    assert len(same) == 1
    assert len({str(recipe.stage("pretrain")) for recipe in found.values()}) == 1
    costs = {flops_of("meta", recipe, 10) for recipe in found.values()}
    assert len(costs) == 1
    assert costs.pop() > flops_of("finetune", RECIPE, 10), "two tokens more"
    assert cost_of("meta", RECIPE).parameters > cost_of("finetune", RECIPE).parameters
    (claim,) = (claim for claim in claims() if claim.id == "D3")
    named = {arm.partition(", ")[0] for contrast in claim.contrasts for arm in contrast.weights}
    assert named <= set(found)
    assert all(contrast.floor == 0 and not contrast.published for contrast in claim.contrasts)


def test_the_chapter_shows_what_there_is(store):
    found = {"ce/0": ARMS["ce/0"], "bal_bce/6": RECIPE}
    panel = Panel("smoke", found, tuple(find(found.values(), store).values()), store)
    shown = page.each([panel], page.scores)
    assert "Bal-BCE, κ = 6: 2.8 bits" in shown
    assert "CE, κ = 0" not in shown, "it has no run"
    assert '[[1,"accuracy",["' in shown
    assert "Bal-BCE, κ = 6: 2.8 bits" in page.gains(panel)
    looks = page.figure(panel)
    assert "bal_bce/6, missing" in looks
    assert "ce/0" not in looks
    assert "<strong>D3: " in ruled(panel, "D3")
    assert page.each([], page.scores) == "<p>MetaFormer has not been run yet.</p>"
    known = page.information("smoke").bits.astype(float)
    assert known.is_monotonic_increasing
    assert known[0] == 0
    assert idea().get_figwidth() <= WIDTH
    plt.close("all")


def test_every_level_has_a_row_of_its_own_though_two_know_as_much(store):
    """Of ten classes, metadata of concentration 20 and of 60 know 3.3 bits: all that there is."""
    record = find([RECIPE], store)[RECIPE]
    panel = Panel("smoke", ARMS, (record,), store)
    rows = pd.DataFrame(
        [
            {
                "arm": arm,
                "seed": seed,
                "part": "",
                "run": f"{arm}-{seed}",
                "many": 50.0,
                "medium": 50.0,
                "few": few + seed,
            }
            for seed in (0, 1)
            for arm, few in zip(ARMS, (0, 1, 2, 3, 10, 12, 14, 16), strict=True)
        ]
    ).assign(accuracy=50.0)
    vars(panel)["measured"] = rows

    def read(html):
        """The words of each row of a table: its heading, and the first of the cell of few-shot classes."""
        lines = [line.find_all(["th", "td"]) for line in BeautifulSoup(html, "html.parser").tbody.find_all("tr")]
        return {line[0].get_text(): line[3].get_text().split()[0] for line in lines}

    scores, gains, stacked = (read(show(panel)) for show in (page.scores, page.gains, page.stacked))
    levels = {0: "0.0", 6: "2.8", 20: "3.3", 60: "3.3"}
    assert list(scores) == [f"{n}, κ = {k}: {b} bits" for n in ("CE", "Bal-BCE") for k, b in levels.items()]
    assert list(gains.values()) == ["+1.0", "+2.0", "+3.0", "+2.0", "+4.0", "+6.0"]
    assert list(stacked.values()) == ["+10.0", "+11.0", "+12.0", "+13.0"]
    vars(panel)["measured"] = rows[rows.arm.str.startswith("ce/")]
    assert page.stacked(panel) == "", "there is nothing to compare"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta.concentration": -1}, "meta.concentration must not be negative, not -1"),
        ({"meta.concentration": 1e7}, "concentration must be at most 1,000,000"),
        ({"meta.masked": 1.5}, r"meta.masked must lie in \[0, 1\], not 1.5"),
        ({"meta.mixup": 0.1}, "meta.mixup and meta.cutmix must be 0"),
        ({"meta.sampling": "class"}, "meta.sampling must be 'image'"),
        ({"second.method": "crt"}, "meta takes the place of fine-tuning: second, cluster"),
        ({"model.size": "resnet8", "model.patch_size": 1, "pretrain": None}, "meta must be null: metadata are tokens"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(RECIPE, change)


def test_a_loss_with_a_model_of_its_own_is_refused():
    with pytest.raises(ValueError, match="meta.loss 'sade' brings a model or views of its own"):
        create_metaformer(with_overrides(RECIPE, {"meta.loss": "sade"}), 10)
    with pytest.raises(ValueError, match="this recipe has no stage with metadata: set meta.concentration"):
        with_overrides(SUITES["smoke"].main, {"meta.masked": 0.5})
