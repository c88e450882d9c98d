"""What training would take: against numbers counted by hand, and against the activations that PyTorch keeps."""

from dataclasses import replace

import pytest
import torch

from livt import __main__ as cli
from livt.config import with_overrides
from livt.data import sets
from livt.finetune import create_classifier
from livt.lab.cost import Cost, Speed, cost_of, hours, speed_of
from livt.lab.environment import device_name
from livt.lab.experiments import flops_per_image
from livt.lab.promoted import promoted_folder, read_promoted
from livt.lab.recipes import RECIPES
from livt.pretrain import create_mae

CPU = torch.device("cpu")


def test_parameters_steps_and_operations_of_a_stage():
    recipe = RECIPES["smoke"]()
    costs = {stage: cost_of(stage, recipe) for stage in ("pretrain", "finetune")}
    models = create_mae(recipe), create_classifier(recipe, 10)
    for stage, model, flops in zip(costs, models, flops_per_image(recipe), strict=True):
        assert costs[stage].parameters == sum(p.numel() for p in model.parameters())
        assert costs[stage].flops == flops
        assert (costs[stage].steps_per_epoch, costs[stage].trained_images) == (4, 2 * 4 * 64)
        assert costs[stage].images == (305 + 400) * 3 * 64


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_memory_is_what_pytorch_keeps_of_a_part(precision):
    recipe = with_overrides(RECIPES["smoke"](), {"finetune.precision": precision, "finetune.accumulation_steps": 2})
    vit = create_classifier(recipe, 10).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        one, two = (kept_bytes(vit, torch.randn(n, 3, 8, 8)) for n in (1, 2))
    expected = 18 * sum(p.numel() for p in vit.parameters()) + (two - one) * 32
    assert cost_of("finetune", recipe).memory == pytest.approx(expected, rel=0.01)


def kept_bytes(model, images):
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(images)
    return sum(size for pointer, size in kept.items() if pointer not in own)


def test_hours_are_operations_over_speed():
    found = cost_of("finetune", RECIPES["smoke"]())
    slow = Speed(low=found.flops * 512 / 3600 / 4, high=found.flops * 512 / 3600, source="")
    assert hours(found, slow) == (pytest.approx(1), pytest.approx(4))


def test_speed_is_that_of_runs_of_the_same_model_on_the_same_machine():
    record = next(r for r in read_promoted(promoted_folder()).values() if r.stage == "finetune")
    recipe = record.recipe
    cost: Cost = replace(cost_of("finetune", RECIPES["smoke"]()), flops=1000)
    environment = record.environment | {"device": device_name(CPU), "images_per_second": 50.0}
    same = replace(record, environment=environment)
    found = speed_of("finetune", replace(recipe, seed=5), cost, CPU, [same])
    assert (found.low, found.high) == (50_000, 50_000)
    assert found.source == "1 runs of this model on this kind of machine, 50 images/s"
    other = replace(record, environment=environment | {"device": "another"})
    for records, wanted in (([other], recipe), ([same], with_overrides(recipe, {"model.size": "large"}))):
        assert "of a large matrix product here" in speed_of("finetune", wanted, cost, CPU, records).source


def test_a_dry_run_says_what_it_would_train_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path / "runs"))
    assert cli.main(["finetune", "smoke", "--dry-run", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "305 to train on, 10 classes of 110 to 2 (1 many, 3 medium, 6 few); 400 to evaluate on" in out
    assert "2 epochs x 4 steps of 64 images = 8 steps, 512 images" in out
    assert out.count("(estimated") == 5
    assert out.endswith("nothing was trained\n")
    assert cli.main(["reproduce", "loss_ablation", "--suite", "smoke", "--dry-run", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "pretrain, 3 runs" in out
    assert "finetune, 12 runs" in out
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_leaves_out_what_is_in_the_store(tmp_path, capsys):
    assert cli.main(["pretrain", "smoke", "--runs", str(tmp_path), "--device", "cpu", "--quiet"]) == 0
    capsys.readouterr()
    assert cli.main(["finetune", "smoke", "--runs", str(tmp_path), "--dry-run", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "pretrain, " not in out
    assert out.splitlines()[-1].startswith("1 runs to train")
    assert "1 are in the run store" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetune.batch_size=4096", "batch_size 4096 exceeds the 305 training images"),
        ("finetune.loss=nothing", "finetune.loss 'nothing' is not one of"),
        ("finetune.augment.rand_augment=loud", "is no timm policy"),
    ],
)
def test_a_dry_run_refuses_what_training_would(capsys, change, message):
    assert cli.main(["finetune", "smoke", "--dry-run", "--set", change, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_no_image_of_a_folder_is_read_for_it(tmp_path, monkeypatch):
    from folders import own

    folder = own(tmp_path / "pets", "tree")
    monkeypatch.setattr(sets, "load_dataset", None)
    recipe = with_overrides(RECIPES["own"](), {"data.name": str(folder), "finetune.batch_size": 8})
    assert cost_of("finetune", recipe).found.class_counts.tolist() == [4, 9, 6]
