import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from livt.config import Engine, with_overrides
from livt.data.sets import load_dataset
from livt.evaluate import summarize
from livt.finetune import create_classifier, create_loss, create_mixer
from livt.lab.failures import RunError
from livt.lab.recipes import digit_pairs, smoke
from livt.lab.results import records, results
from livt.lab.runs import RunStore
from livt.lab.stages import train
from livt.lab.train import train_all
from livt.losses import (
    LOSSES,
    BalancedBinaryCrossEntropy,
    BalancedCrossEntropy,
    BinaryCrossEntropy,
    Criterion,
    CrossEntropy,
    Loss,
)
from livt.optim import NonFiniteLossError, epoch_schedule, take_step
from livt.pretrain import create_mae

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with the smoke recipe pretrained."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    train("pretrain", smoke(), store, progress=False)
    return store


def weights(store, record):
    return load_file(store.weights(record.id))


def test_a_killed_run_resumes_bit_for_bit_at_every_moment():
    out = subprocess.run([sys.executable, HERE / "kill_points.py"], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    # config, two files an epoch, metrics, environment, weights, result: each before and after.
    assert "kill points: pretrain 18, finetune 18" in out.stdout


def test_pretraining_reconstructs_better_than_the_mean(tmp_path):
    """Per-patch normalized targets have variance 1, so guessing their mean costs about 1."""
    recipe = with_overrides(digit_pairs(), {"pretrain.epochs": 6, "pretrain.warmup_epochs": 1, "model.size": "pico"})
    record = train("pretrain", recipe, RunStore(tmp_path), progress=False)
    losses = [row["train_loss"] for row in record.metrics]
    assert losses[-1] < 0.95
    assert losses[-1] < 0.8 * losses[0]


def test_fine_tuning_learns_and_the_last_epoch_is_the_result(tmp_path):
    changes = {"pretrain": None, "finetune.epochs": 30, "finetune.base_lr": 0.02, "finetune.batch_size": 32}
    recipe = with_overrides(smoke(), changes)
    store = RunStore(tmp_path)
    record = train("finetune", recipe, store, progress=False)
    assert record.result["accuracy"] > 35, "ten classes: chance is 10"
    assert record.metrics[-1]["train_loss"] < 0.7 * record.metrics[0]["train_loss"]
    last = record.metrics[-1]
    assert {k: last[k] for k in ("accuracy", "many", "medium", "few")} == {
        k: pytest.approx(record.result[k], abs=1e-4) for k in ("accuracy", "many", "medium", "few")
    }
    assert record.result["pretrain_run"] is None

    # The stored weights give the stored numbers, and load into a fresh model by name.
    data = load_dataset(recipe.data)
    vit = create_classifier(recipe, data.num_classes).eval()
    vit.load_state_dict(weights(store, record))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.mean, data.std))
    with torch.no_grad():
        predicted = vit((data.evaluation.images / 255 - mean) / std).argmax(1)
    accuracy = 100 * (predicted == data.evaluation.labels).double().mean().item()
    assert accuracy == pytest.approx(record.result["accuracy"], abs=0.3)


def test_one_seed_is_one_result_and_another_seed_another(store, tmp_path):
    recipe = smoke()
    again = RunStore(tmp_path)
    first = train("finetune", recipe, store, progress=False)
    train("pretrain", recipe, again, progress=False)
    second = train("finetune", recipe, again, progress=False)
    assert all(torch.equal(v, weights(again, second)[k]) for k, v in weights(store, first).items())
    assert first.result == second.result
    other = train("pretrain", with_overrides(recipe, {"seed": 1}), again, progress=False)
    assert other.id != first.result["pretrain_run"]
    assert other.result != store.load(first.result["pretrain_run"]).result


def test_a_finished_run_is_not_trained_again(store, monkeypatch):
    record = train("pretrain", smoke(), store, progress=False)
    monkeypatch.setattr("livt.pretrain.create_mae", None)  # calling it would fail
    assert train("pretrain", smoke(), store, progress=False) == record


def test_fine_tuning_starts_from_the_pretrained_encoder(store, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "livt.finetune.create_optimizer", lambda vit, *rest: seen.update(vit.state_dict()) or pytest.skip.Exception
    )
    with pytest.raises(AttributeError):
        train("finetune", with_overrides(smoke(), {"finetune.epochs": 3}), store, progress=False)
    source = load_file(store.weights(train("pretrain", smoke(), store, progress=False).id))
    for name in ("patch_embed.proj.weight", "blocks.1.mlp.fc2.weight", "pos_embed", "cls_token"):
        assert torch.equal(seen[name], source[f"encoder.{name}"])
    assert seen["head.weight"].abs().max() < 1e-4


def test_fine_tuning_without_its_pretraining_says_so(tmp_path):
    with pytest.raises(RunError, match=r"the pretrain run pretrain-\w+ is not finished in .*: train this stage first"):
        train("finetune", smoke(), RunStore(tmp_path), progress=False)


def test_a_loss_that_is_no_number_stops_with_the_step_and_keeps_the_state(tmp_path):
    recipe = with_overrides(smoke(), {"pretrain": None, "finetune.base_lr": 1e30, "finetune.epochs": 5})
    store = RunStore(tmp_path)
    with pytest.raises(
        NonFiniteLossError, match=r"training loss is (nan|inf) at step \d+ of finetune-\w+; its last good"
    ):
        train("finetune", recipe, store, progress=False)
    assert not store.is_finished(store.ids()[0])


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pretrain.batch_size", 512, "batch_size 512 exceeds the 305 training images"),
        ("finetune.batch_size", 512, "batch_size 512 exceeds the 305 training images"),
        ("finetune.augment.rand_augment", "foo", "rand_augment 'foo' is no timm policy such as rand-m9-mstd0.5-inc1"),
        ("finetune.augment.rand_augment", "rand-m9-zz1", "rand_augment 'rand-m9-zz1' is no timm policy"),
    ],
)
def test_what_does_not_fit_either_stage_is_refused_before_the_first(tmp_path, path, value, message):
    recipe = with_overrides(smoke(), {path: value})
    store = RunStore(tmp_path / "runs")
    for work in (
        lambda: train("pretrain", recipe, store, progress=False),
        lambda: train_all([recipe], store, progress=False),
    ):
        with pytest.raises(ValueError, match=message):
            work()
    assert not (tmp_path / "runs").exists()


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    """One step of one epoch: its loss is finite, what it leaves behind is not."""
    changes = {"epochs": 1, "warmup_epochs": 0, "batch_size": 256, "base_lr": 1e39}
    recipe = with_overrides(smoke(), {f"pretrain.{name}": value for name, value in changes.items()})
    store = RunStore(tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"is no longer finite at the end of epoch 1 of pretrain-"):
        train("pretrain", recipe, store, progress=False)
    assert not store.is_finished(store.ids()[0])
    assert store.progress(store.ids()[0]) == 0


def test_the_number_of_threads_does_not_change_a_result(store, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    again = RunStore(tmp_path)
    record = train("pretrain", smoke(), again, progress=False)
    assert torch.get_num_threads() == 2, "the caller's setting comes back"
    torch.set_num_threads(before)
    assert all(torch.equal(v, weights(again, record)[k]) for k, v in weights(store, record).items())
    assert record.environment["threads"] == 1


def test_gradient_accumulation_equals_one_batch():
    recipe = with_overrides(smoke(), {"finetune.loss": "bce"})
    data = load_dataset(recipe.data)
    images, labels = data.train.images[:64].float() / 255, data.train.labels[:64]
    updated = []
    for parts in (1, 4):
        settings = with_overrides(recipe, {"finetune.accumulation_steps": parts}).finetune
        torch.manual_seed(0)
        vit = create_classifier(recipe, 10).double()
        optimizer = torch.optim.SGD([{"params": list(vit.parameters()), "lr_scale": 1.0}], lr=1.0)
        criterion = create_loss(settings, data.class_counts)
        batch = zip(images.double().chunk(parts), labels.chunk(parts), strict=True)
        mean = take_step(optimizer, lambda x, y: criterion(vit(x), y), batch, lr=0.1, settings=settings)  # noqa: B023
        updated.append((mean.item(), torch.cat([p.detach().flatten() for p in vit.parameters()])))
    assert updated[0][0] == pytest.approx(updated[1][0], rel=1e-12)
    torch.testing.assert_close(updated[0][1], updated[1][1], atol=1e-12, rtol=0)


def test_clipping_bounds_the_gradient():
    settings = with_overrides(smoke(), {"finetune.clip_grad": 0.5}).finetune
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([{"params": [parameter], "lr_scale": 1.0}], lr=1.0)
    take_step(optimizer, lambda x: (parameter * x).sum() * 100, [(torch.ones(2, 3),)], lr=1.0, settings=settings)
    assert parameter.detach().norm().item() == pytest.approx(0.5, rel=1e-4)


def test_a_step_scales_the_rate_by_layer():
    first, last = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [first], "lr_scale": 0.25}, {"params": [last], "lr_scale": 1.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    take_step(
        optimizer,
        lambda x: (first + last).sum() * x.mean(),
        [(torch.ones(2, 1),)],
        lr=0.1,
        settings=smoke().finetune,
    )
    assert (first.item(), last.item()) == pytest.approx((-0.025, -0.1))


def test_epochs_become_steps():
    settings = with_overrides(smoke(), {"finetune.epochs": 4, "finetune.warmup_epochs": 1}).finetune
    schedule = [pair for epoch in range(4) for pair in epoch_schedule(settings, epoch, 5)]
    assert [step for step, _ in schedule] == list(range(20))
    assert schedule[0][1] == 0
    assert schedule[5][1] == max(lr for _, lr in schedule) == settings.lr


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ce", CrossEntropy),
        ("bal_ce", BalancedCrossEntropy),
        ("bce", BinaryCrossEntropy),
        ("bal_bce", BalancedBinaryCrossEntropy),
    ],
)
def test_losses_by_recipe_name(name, kind):
    settings = with_overrides(smoke(), {"finetune.loss": name}).finetune
    criterion = create_loss(settings, [3, 1])
    assert type(criterion) is kind
    if name.startswith("bal"):
        half = create_loss(with_overrides(smoke(), {"finetune.loss": name, "finetune.tau": 0.5}).finetune, [3, 1])
        torch.testing.assert_close(half.exact_bias, criterion.exact_bias / 2)


class Margin(Criterion):
    """A loss of another kind: the multi-class hinge, with a margin that shrinks with the number of images."""

    def __init__(self, class_counts, tau):
        super().__init__()
        self.margins = 1 / torch.as_tensor(class_counts, dtype=torch.float32) ** 0.25

    def forward(self, logits, targets):
        own = logits.gather(1, targets[:, None])
        return (logits - own + self.margins).clamp(min=0).sum(1).mean()


def test_an_entry_of_the_table_trains_by_its_name(tmp_path, monkeypatch):
    """Nothing else needs to know of it."""
    entry = Loss(name="margin", title="Margin", create=Margin, reads="softmax", source="this test")
    monkeypatch.setitem(LOSSES, "margin", entry)
    changes = {"pretrain": None, "finetune.loss": "margin", "finetune.epochs": 20, "finetune.base_lr": 0.02}
    recipe = with_overrides(smoke(), changes)
    store = RunStore(tmp_path)
    train_all([recipe], store, jobs=1, progress=False)
    (record,) = records([recipe], store)
    assert record.recipe == recipe
    assert record.metrics[-1]["train_loss"] < 0.8 * record.metrics[0]["train_loss"]
    assert set(record.result["posthoc"]) >= {"accuracy", "few"}, "it has no bias: its prior is taken off at test"
    assert results([record]).loss.tolist() == ["margin"]


def test_a_loss_without_an_entry_is_refused_before_either_stage(tmp_path):
    recipe = with_overrides(smoke(), {"finetune.loss": "margin"})
    store = RunStore(tmp_path / "runs")
    for work in (lambda: train("pretrain", recipe, store), lambda: train_all([recipe], store)):
        with pytest.raises(ValueError, match="finetune.loss 'margin' is not one of ce, bal_ce, bce, bal_bce"):
            work()
    assert not store.root.exists()


def test_targets_are_one_hot_smoothed_or_mixed():
    labels, images = torch.arange(4), torch.rand(4, 3, 8, 8)
    counts = [50, 20, 15, 10, 5]

    def targets(**changes):
        overrides = {f"finetune.{name}": value for name, value in changes.items()}
        return create_mixer(with_overrides(smoke(), overrides).finetune, counts)(images.clone(), labels)

    plain, one_hot = targets(), torch.nn.functional.one_hot(labels, 5).float()
    assert torch.equal(plain[0], images)
    assert torch.equal(plain[1], labels), "hard labels stay hard: the losses are faster with them"
    torch.testing.assert_close(targets(label_smoothing=0.1)[1], one_hot * 0.9 + 0.02)
    towards = torch.tensor(counts) / 100
    smooth = targets(label_smoothing=0.1, smoothing_target="prior")[1]
    torch.testing.assert_close(smooth, one_hot * 0.9 + 0.1 * towards)
    np.random.seed(0)
    mixed_images, mixed = targets(mixup=0.8)
    share = mixed[0, 0].item()
    assert 0 < share < 1
    torch.testing.assert_close(mixed[0], torch.tensor([share, 0, 0, 1 - share, 0]))
    torch.testing.assert_close(mixed_images[0], images[0] * share + images[3] * (1 - share))


def test_every_part_of_the_autoencoder_learns():
    mae = create_mae(smoke())
    mae(torch.rand(4, 3, 8, 8), 0.5).loss.backward()
    assert [n for n, p in mae.named_parameters() if p.requires_grad and p.grad is None] == []


def test_bf16_training_runs_and_keeps_float32_weights(tmp_path):
    recipe = with_overrides(smoke(), {"pretrain.precision": "bfloat16", "finetune.precision": "bfloat16"})
    store = RunStore(tmp_path)
    pre = train("pretrain", recipe, store, progress=False)
    fine = train("finetune", recipe, store, progress=False)
    assert math.isfinite(fine.result["accuracy"])
    assert {v.dtype for v in weights(store, fine).values()} == {torch.float32}
    full = train("pretrain", smoke(), store, progress=False)
    assert pre.result["train_loss"] == pytest.approx(full.result["train_loss"], rel=0.02)


def test_the_summary_of_a_run_is_plain_json_with_its_diagram():
    logits = torch.randn(60, 3, generator=torch.manual_seed(0))
    labels = torch.arange(60) % 3
    result = summarize(logits, labels, [200, 50, 50])
    assert sum(result["reliability"]["size"]) == 60
    assert math.isnan(result["few"])
    assert result["class_counts"] == [200, 50, 50]
    assert len(result["per_class"]) == 3


RANDOM = {"finetune.drop_path": 0.2, "finetune.mixup": 0.8, "pretrain.probes": 0}


def saved_bytes(work) -> int:
    """Bytes that ``work`` keeps for its backward pass, each storage once."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
    ):
        loss = work()
    loss.backward()
    return sum(kept.values())


def test_checkpointing_changes_nothing_but_memory(tmp_path):
    recipe = with_overrides(smoke(), RANDOM)
    found = []
    for checkpointing in (False, True):
        store = RunStore(tmp_path / str(checkpointing))
        engine = Engine(checkpointing=checkpointing)
        found.append(
            [
                weights(store, train(stage, recipe, store, progress=False, engine=engine))
                for stage in recipe.up_to("finetune")
            ]
        )
    for plain, checkpointed in zip(*found, strict=True):
        assert all(torch.equal(value, checkpointed[name]) for name, value in plain.items())

    larger = with_overrides(smoke(), {"model.size": "nano", "pretrain.decoder_depth": 4})
    mae, vit, images = create_mae(larger), create_classifier(larger, 10), torch.rand(64, 3, 8, 8)
    whole = saved_bytes(lambda: mae(images, 0.5).loss), saved_bytes(lambda: vit(images).sum())
    mae.checkpointing = True
    vit.set_grad_checkpointing(True)
    checkpointed = saved_bytes(lambda: mae(images, 0.5).loss), saved_bytes(lambda: vit(images).sum())
    assert checkpointed[0] < 0.5 * whole[0]
    assert checkpointed[1] < 0.5 * whole[1]


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_result_but_for_rounding(tmp_path):
    recipe = with_overrides(smoke(), {"pretrain.probes": 0})
    runs = []
    for compiled in (False, True):
        store = RunStore(tmp_path / str(compiled))
        engine = Engine(compile=compiled)
        runs.append([train(s, recipe, store, progress=False, engine=engine) for s in recipe.up_to(recipe.last_stage)])
    for plain, compiled in zip(*runs, strict=True):
        for row, other in zip(plain.metrics, compiled.metrics, strict=True):
            assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
    assert runs[0][1].result["accuracy"] == pytest.approx(runs[1][1].result["accuracy"], abs=1.5)


def test_fine_tuning_may_start_from_other_images_of_another_size(tmp_path):
    """As 384 px fine-tuning starts from 224 px pretraining; the pretraining run is that of a recipe on those images."""
    small = with_overrides(smoke(), {"pretrain.probes": 0})
    store = RunStore(tmp_path)
    pretrained = train("pretrain", small, store, progress=False)
    large = with_overrides(small, {"data.image_size": 16, "data.max_count": 100, "pretrain.data": small.data.to_dict()})
    assert train("pretrain", large, store, progress=False) == pretrained
    record = train("finetune", large, store, progress=False)
    assert record.result["pretrain_run"] == pretrained.id
    assert record.recipe == large
    assert weights(store, record)["pos_embed"].shape[1] == 1 + 4 * 4
    assert len(store.ids()) == 2
    train_all([large], store, progress=False)
    assert len(store.ids()) == 2, "both stages are found"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrain.data": {"name": "digits", "image_size": 10}}, "image size 10 x 10 is not a multiple of"),
        ({"pretrain.data": {"name": "imagenet_lt"}}, "data.image_size must be set: the images of"),
        ({"pretrain.data": {"name": "digits", "image_size": 4}}, "mask_ratio 0.5 leaves 0 of 1 patches visible"),
        ({"pretrain.data": {"name": "digit_pairs", "max_count": 20, "imbalance_factor": 2}}, "resampled from square"),
    ],
)  # fmt: skip
def test_pretraining_data_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(smoke(), changes)
