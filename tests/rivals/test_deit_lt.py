"""DeiT-LT: SAM, the distillation, where a ViT looks, both stages in the run store, and the experiment."""

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from livt import __main__ as cli
from livt.companion import deit_lt as deit_page
from livt.companion.chapter import Panel
from livt.companion.ledger import ruled
from livt.companion.plots import WIDTH
from livt.companion.plots.deit_lt import idea
from livt.config import DistillConfig, Recipe, with_overrides
from livt.data.sets import load_dataset
from livt.lab.archive import export_runs, import_runs
from livt.lab.check import check_values, recipe_of
from livt.lab.cost import cost_of, flops_of
from livt.lab.deit_lt import compute, deit_lt, distilled
from livt.lab.experiments import arms
from livt.lab.find import find, starts
from livt.lab.recipe_files import write_recipe
from livt.lab.recipes import RECIPES
from livt.lab.results import results
from livt.lab.runs import RunStore
from livt.lab.stages import STAGES, load_weights, train
from livt.lab.stored import stored_logits
from livt.lab.suites import SUITES
from livt.lab.train import plan, train_all
from livt.rivals import distill as loop
from livt.rivals import teacher as teacher_loop
from livt.rivals.attention import attention_distance, attention_distances, attention_weights, uniform_distance
from livt.rivals.distill import HEADS, Distillation, create_student, head_logits
from livt.rivals.sam import Ascent, sam_step
from livt.rivals.teacher import create_teacher
from livt.rivals.weights import class_balanced_weights, deferred_epoch

ARMS = distilled(SUITES["smoke"])
RECIPE = ARMS["deit_lt"]
ALONE = replace(RECIPE, teacher=None, distill=replace(RECIPE.distill, share=1.0, epochs=2, warmup_epochs=1.0))
COUNTS = (50, 9, 2)
CPU = torch.device("cpu")
STATED = ("teacher", "distill")


# ---------------------------------------------------------------- SAM


def quadratic(w: np.ndarray) -> np.ndarray:
    """The gradient of 1/2 w A w, by hand."""
    return np.array([[3.0, 1.0], [1.0, 2.0]]) @ w


class Bowl(nn.Module):
    """1/2 w A w, with a batch normalisation beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.norm = nn.BatchNorm1d(1, affine=False).double()
        self.seen: list[torch.Tensor] = []

    def forward(self, x, y):
        self.seen.append(x)
        matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        return 0.5 * self.w @ matrix @ self.w + 0 * self.norm(x).sum()


def one_step(rho: float) -> tuple[Bowl, float]:
    """Take a plain SGD step of rate 0.1 by SAM; the batch is in two parts, doubled by what prepares them."""
    model = Bowl().train()
    optimizer = torch.optim.SGD([{"params": [model.w], "lr_scale": 1.0}], lr=0.1)
    settings = DistillConfig(epochs=1, warmup_epochs=0, batch_size=4, base_lr=1.0, accumulation_steps=2)
    parts = ((torch.tensor([[i], [i + 1.0]], dtype=torch.float64), torch.zeros(2)) for i in (0.0, 6.0))
    ascent = Ascent(optimizer, rho) if rho else None
    loss = sam_step(optimizer, ascent, model, lambda x, y: (2 * x, y), parts, lr=0.1, settings=settings, model=model)
    return model, loss.item()


def test_sam_takes_the_gradient_where_the_loss_is_worst_close_by():
    w = np.array([1.0, -2.0])
    for rho in (0.05, 0.5):
        model, loss = one_step(rho)
        gradient = quadratic(w)
        worst = w + rho * gradient / np.linalg.norm(gradient)
        assert model.w.tolist() == pytest.approx((w - 0.1 * quadratic(worst)).tolist(), rel=1e-12)
        assert loss == pytest.approx(0.5 * w @ quadratic(w)), "the loss is that of the weights themselves"


def test_sam_without_a_radius_is_plain_and_its_limit():
    w = np.array([1.0, -2.0])
    plain = (w - 0.1 * quadratic(w)).tolist()
    assert one_step(0.0)[0].w.tolist() == pytest.approx(plain, rel=1e-12)
    assert one_step(1e-9)[0].w.tolist() == pytest.approx(plain, rel=1e-8)


def test_both_passes_see_the_same_and_statistics_are_those_of_the_first():
    plain, flat = one_step(0.0)[0], one_step(0.5)[0]
    assert (len(plain.seen), len(flat.seen)) == (2, 4)
    assert all(torch.equal(a, b) for a, b in zip(flat.seen[:2], flat.seen[2:], strict=True))
    assert flat.seen[0].tolist() == [[0.0], [2.0]], "prepared once"
    for name, value in plain.norm.state_dict().items():
        assert torch.equal(value, flat.norm.state_dict()[name]), name
    assert flat.norm.track_running_stats


def test_a_gradient_of_zero_moves_nothing():
    w = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([w], lr=1.0)
    ascent = Ascent(optimizer, 0.5)
    w.grad = torch.zeros(2)
    ascent.step()
    assert w.tolist() == [0.0, 0.0]
    optimizer.step()
    assert w.tolist() == [0.0, 0.0]


# ---------------------------------------------------------------- the loss


def reference(by_class, by_teacher, labels, taught, weights):
    """The paper's loss by NumPy: labels soft [B, C], taught hard [B]."""

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(1, keepdims=True))

    first = -(labels * log_softmax(by_class)).sum(1).mean()
    w = weights[taught]
    second = -(w * log_softmax(by_teacher)[np.arange(len(taught)), taught]).sum() / w.sum()
    return 0.5 * first + 0.5 * second


@pytest.mark.parametrize("deferred", [False, True])
def test_the_loss_is_that_of_the_formula(deferred):
    generator = torch.Generator().manual_seed(0)
    by_class, by_teacher = (torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in HEADS)
    labels = torch.rand(5, 3, dtype=torch.float64, generator=generator).softmax(1)
    taught = torch.tensor([0, 2, 1, 2, 0])
    criterion = Distillation(COUNTS, share=0.75, beta=0.9)
    assert criterion.begin(3 if deferred else 2, 4) == deferred
    effective = np.array([(1 - 0.9) / (1 - 0.9**n) for n in COUNTS])
    expected = reference(
        *(x.numpy() for x in (by_class, by_teacher, labels, taught)), effective if deferred else np.ones(3)
    )
    assert criterion((by_class, by_teacher), labels, taught).item() == pytest.approx(expected, rel=1e-12)
    inputs = (by_class.requires_grad_(), by_teacher.requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: criterion((a, b), labels, taught), inputs)


def test_a_teacher_that_says_the_labels_leaves_two_cross_entropies():
    logits = torch.randn(2, 6, 3)
    labels = torch.tensor([0, 1, 2, 0, 0, 1])
    criterion = Distillation(COUNTS, share=1.0, beta=0.9999)
    assert not criterion.begin(99, 100)
    expected = 0.5 * F.cross_entropy(logits[0], labels) + 0.5 * F.cross_entropy(logits[1], labels)
    assert criterion(tuple(logits), labels, labels).item() == pytest.approx(expected.item())
    soft = F.one_hot(labels, 3).float()
    assert criterion(tuple(logits), soft, soft).item() == pytest.approx(expected.item()), "without a teacher, mixed"
    assert criterion.begin(0, 1) is False
    criterion = Distillation(COUNTS, share=0.0, beta=0.9999, smoothing=0.1)
    assert criterion.begin(0, 1)
    weighted = F.cross_entropy(logits[1], labels, weight=class_balanced_weights(COUNTS, 0.9999).float())
    first = F.cross_entropy(logits[0], labels, label_smoothing=0.1)
    assert criterion(tuple(logits), labels, labels).item() == pytest.approx((0.5 * first + 0.5 * weighted).item())


# ---------------------------------------------------------------- where it looks


def test_attention_distances_by_hand():
    """Two by two patches of 4 pixels: neighbours are 4 away, the one across 4 sqrt 2."""
    across = 4 * 2**0.5
    itself = torch.eye(4)[None, None]
    even = torch.ones(1, 1, 4, 4)
    right = torch.zeros(1, 1, 4, 4)
    for patch, other in enumerate((1, 0, 3, 2)):
        right[0, 0, patch, other] = 0.3  # not brought to a sum of 1
    grid = (2, 2)
    assert attention_distance(itself, grid, 4).tolist() == [0.0]
    assert attention_distance(right, grid, 4).tolist() == pytest.approx([4.0])
    assert attention_distance(even, grid, 4).item() == pytest.approx((0 + 4 + 4 + across) / 4)
    assert uniform_distance(grid, 4) == pytest.approx((8 + across) / 4)
    both = torch.cat([itself, even], 1)
    assert attention_distance(both, grid, 4).item() == pytest.approx((8 + across) / 8), "the mean over heads"
    assert uniform_distance((1, 3), 2) == pytest.approx((6 + 4 + 6) / 9), "rows, then columns"


def test_attention_is_that_of_the_model():
    student = create_student(RECIPE, 10).eval()
    attention, tokens = student.blocks[0].attn, torch.randn(2, 6, 32)
    weights = attention_weights(attention, tokens)
    values = attention.qkv(tokens).reshape(2, 6, 3, 2, 16)[:, :, 2].transpose(1, 2)
    out = attention.proj((weights @ values).transpose(1, 2).reshape(2, 6, 32))
    assert torch.allclose(out, attention(tokens), atol=1e-5)
    images = torch.randn(3, 3, 8, 8)
    found = attention_distances(student, images)
    assert found.shape == (3, 2)
    assert (found > 0).all()
    assert (found < 4 * 2**0.5).all()
    alone = torch.cat([attention_distances(student, image[None]) for image in images])
    assert torch.allclose(found, alone, atol=1e-5)


# ---------------------------------------------------------------- the models


def test_a_student_averages_its_heads_and_learns_with_all_it_has():
    student = create_student(RECIPE, 10)
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    for head in (student.head, student.head_dist):
        assert head.weight.abs().max() < 1e-3
        nn.init.normal_(head.weight)
    both = student.train()(images)
    criterion = Distillation(COUNTS * 3 + (1,), share=0.0, beta=0.9)
    criterion(both, labels, labels.flip(0)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
    assert torch.allclose(student.eval()(images), (both[0] + both[1]) / 2, atol=1e-5)
    assert torch.allclose(head_logits(student, images).mean(1), student(images), atol=1e-6)
    assert {"cls_token", "dist_token", "pos_embed", "head_dist.weight"} <= student.state_dict().keys()


# ---------------------------------------------------------------- both stages in the run store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> RunStore:
    """A store with a student of a flat teacher, and one without a teacher."""
    store = RunStore(tmp_path_factory.mktemp("runs"))
    train_all([RECIPE, ALONE], store, jobs=1, progress=False)
    return store


def record_of(recipe: Recipe, store: RunStore, stage: str = ""):
    return find([recipe], store, stage)[recipe]


def test_a_student_has_scores_of_each_head_and_names_its_teacher(store):
    kinds = [run_id.partition("-")[0] for run_id in store.ids()]
    assert kinds == ["distill", "distill", "teacher"]
    record, taught = record_of(RECIPE, store), record_of(RECIPE, store, "teacher")
    assert record.result["teacher_run"] == taught.id
    assert [run.id for run in starts([record], store)] == [taught.id]
    assert "teacher_run" not in record_of(ALONE, store).result
    assert set(record.result["heads"]) == set(HEADS)
    distances = record.result["attention_distance"]
    assert len(distances) == 2
    assert record.result["early_distance"] == distances[0]
    assert recipe_of("distill", record.config).distill == RECIPE.distill
    other = with_overrides(RECIPE, {"finetune.loss": "ce"})
    assert find([other], store), "fine-tuning has no part in it"


def test_heads_and_average_are_those_of_the_weights(store):
    record, data = record_of(RECIPE, store), load_dataset(RECIPE.data)
    logits, labels = stored_logits(record, store)
    assert 100 * (logits.argmax(1) == labels).double().mean().item() == pytest.approx(record.result["accuracy"])
    student = create_student(RECIPE, 10).eval()
    student.load_state_dict(load_weights(record, store))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    images = (data.evaluation.images / 255 - mean) / std
    with torch.no_grad():
        both = head_logits(student, images)
    assert torch.allclose(both.mean(1), logits, atol=1e-4)
    for number, head in enumerate(HEADS):
        accuracy = 100 * (both[:, number].argmax(1) == labels).double().mean().item()
        assert record.result["heads"][head]["accuracy"] == pytest.approx(accuracy, abs=0.6)


def test_the_teacher_sees_the_students_images_and_does_not_change(store, monkeypatch, tmp_path):
    """Mixed and augmented alike; and late in training, whole."""
    given, taken, labels = [], [], []
    create, forward = loop.create_teacher, Distillation.forward

    def watched(recipe, classes):
        teacher = create(recipe, classes)
        teacher.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
        teacher.register_forward_hook(lambda module, inputs, output: labels.append((module.training, output.argmax(1))))
        return teacher

    def step(self, outputs, targets, taught):
        taken.append((targets, taught))
        return forward(self, outputs, targets, taught)

    monkeypatch.setattr(loop, "create_teacher", watched)
    monkeypatch.setattr(Distillation, "forward", step)
    seen = []
    real = loop.create_student

    def student(*arguments, **more):
        net = real(*arguments, **more)
        net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]) if module.training else None)
        return net

    monkeypatch.setattr(loop, "create_student", student)
    recipe = replace(RECIPE, distill=replace(RECIPE.distill, share=0.5, epochs=2, warmup_epochs=0.0, mixup=0.2))
    weights = load_weights(record_of(RECIPE, store, "teacher"), store)
    with RunStore(tmp_path).open(recipe.stage("distill"), load_dataset(recipe.data).digest) as run:
        loop.distill(recipe, load_dataset(recipe.data), run, taught_by=weights, device=CPU, progress=False)
    half = len(taken) // 2
    assert len(given) == len(seen) == len(taken) == 2 * half
    assert all(torch.equal(a, b) for a, b in zip(given, seen, strict=True))
    assert all(
        not training and torch.equal(own, taught) for (training, own), (_, taught) in zip(labels, taken, strict=True)
    )
    assert [targets.ndim for targets, _ in taken] == [2] * half + [1] * half


@pytest.mark.parametrize(("stage", "module"), [("teacher", teacher_loop), ("distill", loop)])
def test_a_killed_run_resumes_to_the_same(store, monkeypatch, tmp_path, stage, module):
    other, real, epochs = RunStore(tmp_path), module.predict, []
    if stage == "distill":
        train("teacher", RECIPE, other, progress=False)

    def killed(*arguments):
        epochs.append(1)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        train(stage, RECIPE, other, progress=False)
    monkeypatch.setattr(module, "predict", real)
    again, whole = train(stage, RECIPE, other, progress=False), record_of(RECIPE, store, stage)
    assert (again.id, again.metrics, again.result) == (whole.id, whole.metrics, whole.result)
    assert other.weights(again.id).read_bytes() == store.weights(whole.id).read_bytes()


def test_a_flat_and_a_plain_teacher_are_two_runs():
    ids = {name: str(recipe.stage("teacher")) for name, recipe in ARMS.items()}
    assert ids["deit_lt"] == ids["weak augmentation"] != ids["plain teacher"]
    assert "finetune" not in RECIPE.stage("distill")
    assert "distill" not in RECIPE.stage("teacher")
    assert STAGES["teacher"].code(RECIPE) != STAGES["distill"].code(RECIPE)
    changed = with_overrides(RECIPE, {"teacher.loss": "focal"})
    assert STAGES["distill"].code(changed) != STAGES["distill"].code(RECIPE)


def test_a_record_is_checked_and_travels(store, tmp_path):
    record = record_of(RECIPE, store)
    values = {name: getattr(record, name) for name in ("id", "stage", "config", "metrics", "result", "environment")}
    check_values(values)
    heads, distances = record.result["heads"], record.result["attention_distance"]
    for damage, message in (
        ({"heads": {HEADS[0]: heads[HEADS[0]]}}, "distillation token of the result is None"),
        ({"heads": []}, "heads is"),
        ({"attention_distance": distances[:1]}, "attention_distance is"),
        ({"early_distance": -1.0}, "early_distance is -1.0, not a number from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check_values(values | {"result": record.result | damage})
    export_runs(store, [record.id], tmp_path / "runs.zip")
    other = RunStore(tmp_path / "other")
    import_runs(other, tmp_path / "runs.zip")
    assert other.load(record.id).result == record.result


def test_rows_of_results_have_the_heads_as_arms(store):
    found = {"deit_lt": RECIPE, "vit": ALONE}
    table = results(find(found.values(), store).values(), found)
    heads = [f"{arm}, {head}" for arm in found for head in HEADS]
    assert table.arm.tolist() == ["deit_lt", "vit", *heads]
    assert table.loss.unique().tolist() == ["deit_lt"]
    record = record_of(RECIPE, store)
    rows = table.set_index("arm")
    assert rows.many["deit_lt, class token"] == record.result["heads"]["class token"]["many"]
    assert rows.part["deit_lt, class token"] == "heads.class token"
    assert rows.early_distance["deit_lt"] == record.result["early_distance"]
    assert rows.early_distance[heads].isna().all()


def test_the_command_line_trains_and_shows_them(store, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(write_recipe(RECIPE))
    options = ["--runs", str(store.root), "--device", "cpu"]
    assert cli.main(["distill", str(path), *options, "--quiet"]) == 0
    assert record_of(RECIPE, store).id in capsys.readouterr().out
    assert cli.main(["runs", "list", "--runs", str(store.root)]) == 0
    assert "seed 0, resnet8 by ldam_drw: accuracy" in capsys.readouterr().out
    assert cli.main(["distill", "smoke", *options]) != 0
    assert "this recipe has no stage 'distill'" in capsys.readouterr().err
    assert cli.main(["distill", str(path), "--set", "seed=1", "--dry-run", *options]) == 0
    assert "2 runs to train" in capsys.readouterr().out


def test_the_chapter_shows_what_there_is(store):
    found = {"deit_lt": RECIPE, "vit": ALONE}
    panel = Panel("smoke", found, tuple(find(found.values(), store).values()), store)
    shown = deit_page.each([panel], deit_page.scores)
    assert [text in shown for text in ("DeiT-LT; class token alone", "both tokens learn the labels", "LiVT")] == [
        1,
        1,
        0,
    ]
    (teacher,) = deit_page.teachers(panel).itertuples()
    taught = record_of(RECIPE, store, "teacher")
    assert (teacher.run, teacher.few) == (taught.id, taught.result["few"])
    assert "the CNN teacher alone, flat" in shown
    assert "not flat" not in shown
    looks = deit_page.where_it_looks(panel)
    assert 'data-terms=\'[[1,"early_distance",["' in looks
    assert f"{uniform_distance((2, 2), 4):.2f} pixels" in looks
    assert "<strong>D1: " in ruled(panel, "D1")
    gaps = deit_page.gaps(panel)
    assert "minus LiVT: MGP, then Bal-BCE" in gaps
    assert f"{find([RECIPE], store)[RECIPE].result['few'] - teacher.few:+.1f}" in gaps.partition("minus the CNN")[2]
    alone = replace(panel, records=())
    assert deit_page.where_it_looks(alone) == "<p>No run of a student has a record yet.</p>"
    assert deit_page.each([], deit_page.scores) == "<p>DeiT-LT has not been run yet.</p>"
    assert deit_page.costs("smoke").compute[["DeiT-LT", "its teacher not flat (no SAM)"]].tolist() == ["100 %", "77 %"]
    assert idea().get_figwidth() <= WIDTH
    plt.close("all")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher.rho": -1}, "teacher.rho must not be negative, not -1"),
        ({"teacher.size": "pico"}, "teacher.size 'pico' is not one of resnet8"),
        ({"distill.share": 1.5}, r"distill.share must lie in \[0, 1\], not 1.5"),
        ({"distill.beta": 1}, r"distill.beta must lie in \[0, 1\), not 1"),
        ({"distill.mixup": -0.1}, "distill.mixup and distill.cutmix must not be negative"),
        ({"distill.batch_size": 63, "distill.cutmix": 1}, "batch_size / accumulation_steps must be even"),
        ({"distill.augment.shift": 8}, "distill.augment.shift 8 moves the image"),
        ({"model.size": "resnet8", "model.patch_size": 1}, "a student is a Vision Transformer, not resnet8"),
        (
            {"pretrain": with_overrides(SUITES["smoke"].main, {}).to_dict()["pretrain"]},
            "pretrain and second must be null",
        ),
    ],
)
def test_impossible_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(RECIPE, change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher.loss": "no"}, "teacher.loss 'no' is not one of ce"),
        ({"teacher.options.scale": -1}, "scale must be positive"),
        ({"teacher.loss": "sade"}, "experts have its last blocks"),
        ({"teacher.batch_size": 100000}, "batch_size 100000 exceeds"),
        ({"distill.augment.rand_augment": "strong"}, "is no timm policy"),
    ],
)
def test_what_cannot_train_is_refused_before_anything_trains(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plan([with_overrides(RECIPE, change)], RunStore(tmp_path))


def test_a_loop_without_its_section_names_it():
    with pytest.raises(ValueError, match="this recipe has no teacher"):
        create_teacher(ALONE, 10)
    with pytest.raises(ValueError, match="this recipe has no student"):
        loop.distill_settings(SUITES["smoke"].main)


# ---------------------------------------------------------------- costs and the experiment


def test_costs_count_two_passes_of_sam_and_the_teachers_look():
    plain = ARMS["plain teacher"]
    assert flops_of("teacher", RECIPE, 10) == 2 * flops_of("teacher", plain, 10)
    student = flops_of("distill", ALONE, 10)
    look = flops_of("distill", RECIPE, 10) - student
    assert flops_of("distill", plain, 10) == student + look
    assert 2 * look < flops_of("teacher", plain, 10) < 3.2 * look, "there and back is about three times there"
    assert cost_of("distill", RECIPE).parameters == sum(p.numel() for p in create_student(RECIPE, 10).parameters())


def test_arms_have_equal_compute_and_differ_as_their_names_say():
    found = deit_lt(SUITES["digits"])
    assert found == arms("deit_lt", "digits")
    budget = compute(found["deit_lt"])
    for name in ("vit", "vit, weak augmentation", "livt", "weak augmentation"):
        assert compute(found[name]) == pytest.approx(budget, rel=0.02), name
    flat, plain, weak, vit = (found[name] for name in ("deit_lt", "plain teacher", "weak augmentation", "vit"))
    assert plain == replace(flat, teacher=replace(flat.teacher, rho=0.0))
    assert weak.teacher == flat.teacher
    assert weak.distill.augment == flat.teacher.augment
    assert (weak.distill.mixup, weak.distill.cutmix, weak.distill.augment.random_erasing) == (0, 0, 0)
    assert vit.distill.augment == flat.distill.augment
    assert (vit.teacher, vit.distill.share) == (None, 1.0)
    assert found["livt"].finetune.loss == "bal_bce"


def test_the_recipe_of_the_paper_has_its_settings_and_states_its_cost():
    recipe = RECIPES["deit_lt_imagenet_lt"]()
    assert (recipe.model.size, recipe.data.size, recipe.teacher.size) == ("base", (224, 224), "resnet50")
    assert (recipe.distill.epochs, deferred_epoch(recipe.distill.share, 1400)) == (1400, 1200)
    hours = [getattr(recipe, s).epochs * flops_of(s, recipe, 1000) * 115_712 / (0.4 * 989e12) / 3600 for s in STATED]
    text = " ".join(RECIPES["deit_lt_imagenet_lt"].__doc__.split())
    found = re.search(r"estimated: ([\d.]+) for 100 epochs of the teacher, by SAM, and ([\d.]+) for the student", text)
    assert list(map(float, found.groups())) == pytest.approx(hours, rel=0.05)
