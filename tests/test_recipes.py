"""The paper's recipes against the published tables, the released runs, their stated cost; and one step of each."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from livt.companion.plan import PLAN, state
from livt.companion.published import published
from livt.config import DataConfig, ModelConfig, Recipe, StageConfig, digest, with_overrides
from livt.data.sets import classes_of
from livt.finetune import create_classifier, create_loss, create_mixer, create_network
from livt.lab import recipes
from livt.lab.experiments import EXPERIMENTS, arms, equal_compute_epochs, flops_per_image, trained
from livt.lab.recipes import RECIPES, imagenet_lt, inat18, places_lt, tiny_imagenet_lt
from livt.lab.runs import RunStore
from livt.lab.suites import SUITES
from livt.longtail import exponential_counts
from livt.mae import MaskedAutoencoder
from livt.models import load_encoder
from livt.optim import create_optimizer, epoch_schedule, take_step
from livt.pretrain import create_mae

ROOT = Path(__file__).parents[1]
PAPER = {name: make for name, make in RECIPES.items() if name.startswith(("imagenet", "inat18", "places"))}
OURS = [name for name in RECIPES if not name.startswith(("smoke", "digit", "own", "photos", "deit_lt"))]


def flat(values: dict, above: str = "") -> dict:
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found


def differences(recipe: Recipe, other: Recipe) -> dict:
    """Return the fields of ``recipe`` that ``other`` has otherwise."""
    before = flat(other.to_dict())
    return {path: value for path, value in flat(recipe.to_dict()).items() if before.get(path) != value}


# ------------------------------------------------------------------------------------------------- the published tables


@pytest.mark.parametrize("data", ["imagenet_lt", "inat18", "places_lt"])
def test_every_published_hyperparameter_is_in_the_recipe(data):
    recipe = RECIPES[data]()
    table = published("hyperparameters").set_index(["stage", "setting"])[data]
    assert len(table) == 20
    for (name, setting), value in table.items():
        stage = getattr(recipe, name)
        match setting:
            case "effective_batch_size":
                found = stage.batch_size
            case "optimizer_betas":
                found, value = (stage.beta1, stage.beta2), tuple(map(float, str(value).split()))
            case "image_size":
                config = recipe.pretrain_data if name == "pretrain" else recipe.data
                found = config.image_size
            case _:
                found = getattr(stage, setting)
        assert found == (value if isinstance(value, tuple) else float(value)), (name, setting)


@pytest.mark.parametrize("name", PAPER)
def test_every_published_augmentation_is_in_the_recipe(name):
    recipe = PAPER[name]()
    for row in published("augmentation").itertuples():
        for stage, value in ((recipe.pretrain, row.pretrain), (recipe.finetune, row.finetune)):
            augment = stage.augment
            number = 0.0 if value == "no" else value
            match row.augmentation:
                case "random_resized_crop":
                    assert value == "yes"
                    assert augment.crop_min_scale == (0.2 if stage is recipe.pretrain else 0.08)
                case "random_horizontal_flip":
                    assert augment.flip == (value == "yes")
                case "rand_augment":
                    expected = {"no": None, "magnitude 9, std 0.5": "rand-m9-mstd0.5-inc1"}
                    assert augment.rand_augment == expected[value]
                case "mixup_alpha":
                    assert getattr(stage, "mixup", 0.0) == float(number)
                case "cutmix_alpha":
                    assert getattr(stage, "cutmix", 0.0) == float(number)
                case "random_erasing_probability":
                    assert augment.random_erasing == float(number)
                case other:
                    assert (other, value) == ("normalize", "yes")  # which every batch is


@pytest.mark.parametrize("name", [*PAPER, *(n for n in RECIPES if n.startswith("cifar") and n.endswith("official"))])
def test_what_the_paper_leaves_open_is_as_in_mae(name):
    recipe = RECIPES[name]()
    decoder = recipe.pretrain.decoder_width, recipe.pretrain.decoder_depth, recipe.pretrain.decoder_heads
    assert decoder == (512, 8, 16)
    assert recipe.pretrain.normalize_targets
    assert (recipe.model.size, recipe.model.patch_size) == ("base", 16)
    assert {recipe.pretrain.precision, recipe.finetune.precision} == {"bfloat16"}
    for stage in (recipe.pretrain, recipe.finetune):
        assert stage.batch_size // stage.accumulation_steps <= 256
        assert stage.accumulation_steps % 8 == 0, "eight GPUs share it"


@pytest.mark.parametrize("name", ["imagenet_bal", "imagenet_lt", "inat18", "places_lt"])
def test_more_pixels_change_fine_tuning_alone(name):
    recipe, larger = RECIPES[name](), RECIPES[f"{name}_384"]()
    assert larger.stage("pretrain") == recipe.stage("pretrain")
    changed = differences(larger, recipe)
    assert {path for path in changed if not path.startswith("pretrain.data")} == {
        "data.image_size",
        "finetune.accumulation_steps",
    }


def test_balanced_imagenet_differs_in_its_images_and_the_loss_of_table_1():
    changed = differences(RECIPES["imagenet_bal"](), imagenet_lt())
    assert changed == {"data.name": "imagenet_bal", "finetune.loss": "ce"}


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
@pytest.mark.parametrize("make", [imagenet_lt, inat18, places_lt, recipes.imagenet_bal])
def test_a_size_is_an_argument_or_an_override(make, size):
    for pixels in (224, 384):
        assert make(pixels, size) == with_overrides(make(pixels), {"model.size": size})


# ------------------------------------------------------------------------------------------------- the released runs

PARTS = {"finetune.accumulation_steps": 32}  # of 64 images at 224 px, of 32 at 384, as the released micro-batches
COMMON = {"finetune.warmup_epochs": 5.0, "finetune.beta2": 0.999} | PARTS
IMAGENET = {"pretrain.batch_size": 1024, "pretrain.accumulation_steps": 8, "finetune.label_smoothing": 0.1}
INAT = {"pretrain.batch_size": 3072, "finetune.layer_decay": 0.65}
DIFFERENCES = {
    "imagenet_lt": COMMON | IMAGENET | {"finetune.batch_size": 2048},
    "imagenet_lt_384": COMMON | IMAGENET | {"finetune.base_lr": 5e-4, "finetune.layer_decay": 0.65},
    "inat18": COMMON | INAT | {"finetune.batch_size": 2048, "finetune.drop_path": 0.1},
    "inat18_384": COMMON | INAT,
    "places_lt": {"finetune.tau": 1.0},
    "places_lt_384": {"finetune.tau": 1.0},
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_official_recipes_differ_where_the_released_runs_do_and_nowhere_else(name):
    assert differences(RECIPES[f"{name}_official"](), RECIPES[name]()) == DIFFERENCES[name]


@pytest.mark.parametrize("log", ["imagenet_lt_vitb224", "imagenet_lt_vitb384", "inat18_vitb224", "inat18_vitb384"])
def test_official_fine_tuning_has_the_rates_of_its_log(log):
    """The first epoch's mean rate, over the micro-batches of an epoch, tells the number of steps too."""
    data, pixels = log.split("_vitb")
    recipe = {"imagenet_lt": imagenet_lt, "inat18": inat18}[data](int(pixels), official=True)
    if log == "imagenet_lt_vitb224":  # its log is of another run than its arguments: the docstring's override
        assert "--set finetune.batch_size=512 --set finetune.base_lr=5e-4" in imagenet_lt.__doc__
        recipe = with_overrides(recipe, {"finetune.batch_size": 512, "finetune.base_lr": 5e-4})
    check_rates(recipe.finetune, data, published(f"official_logs/finetune_{log}").train_lr)


@pytest.mark.parametrize("log", ["imagenet_lt_vitb224", "inat18_vitb128"])
def test_official_pretraining_has_the_rates_of_its_log(log):
    data = log.split("_vitb")[0]
    recipe = RECIPES[f"{data}_official"]()
    assert recipe.pretrain_data.image_size == int(log[-3:])
    check_rates(recipe.pretrain, data, published(f"official_logs/pretrain_{log}").train_lr)


def check_rates(settings: StageConfig, data: str, rates) -> None:
    steps = training_images(DataConfig(name=data, image_size=224)) // settings.batch_size
    assert len(rates) == settings.epochs
    assert rates.idxmax() == settings.warmup_epochs
    for epoch in (0, 1, 30, settings.epochs - 1):
        mean = np.mean([lr for _, lr in epoch_schedule(settings, epoch, steps)])
        assert rates[epoch] == pytest.approx(mean, rel=2e-3, abs=2e-9), epoch


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith("cifar") and n.endswith("official")])
def test_official_cifar_starts_from_the_official_imagenet_lt(name):
    recipe, source = RECIPES[name](), imagenet_lt(official=True)
    assert recipe.stage("pretrain") == source.stage("pretrain")
    assert {p: v for p, v in differences(recipe, source).items() if p.startswith(("model", "finetune", "seed"))} == {
        "finetune.epochs": 20,
        "finetune.layer_decay": 0.65,
    }
    assert recipe.finetune.warmup_epochs == 5
    assert recipe.finetune.batch_size == 2048
    assert recipe.data.size == (64, 64)


# ------------------------------------------------------------------------------------------------- smaller data sets


def test_cifar_lt_is_pretrained_on_itself():
    for name in RECIPES:
        if re.fullmatch(r"cifar100?_lt_\d+", name):
            recipe = RECIPES[name]()
            assert recipe.pretrain_data == recipe.data
            assert recipe.data.image_size is None
            assert recipe.data.imbalance_factor == int(name.split("_")[-1])


def test_long_tailed_data_have_the_published_number_of_images():
    for row in published("datasets").itertuples():
        if row.dataset.startswith("cifar"):
            assert training_images(RECIPES[f"{row.dataset}_{row.imbalance_factor}"]().data) == row.training_images


def test_tiny_imagenet_profiles_differ_in_their_images_alone():
    base = tiny_imagenet_lt()
    for factor in (10, 20, 50, 100):
        changed = {"data.max_count": 500, "data.imbalance_factor": float(factor)}
        assert differences(RECIPES[f"tiny_imagenet_lt_{factor}"](), base) == changed
    assert differences(RECIPES["tiny_imagenet_balanced"](), base) == {"data.balanced": True}


def test_the_gpu_suite_keeps_its_runs():
    """Another digest would train anew what run stores hold."""
    stages = [digest(SUITES["gpu"].main.stage(stage), "") for stage in ("pretrain", "finetune")]
    assert stages == ["8ce799ea15fb", "7ec5aed905bc"]


@pytest.mark.parametrize(
    "experiment", [pytest.param(e, marks=pytest.mark.slow if e == "leaderboard" else ()) for e in EXPERIMENTS]
)
def test_every_experiment_builds_at_the_scale_of_the_paper(experiment):
    found = arms(experiment, "paper")
    assert len(set(found.values())) == len(found)
    assert {recipe.data.name for recipe in found.values()} <= {"imagenet_lt", "imagenet_bal"}


def test_the_suite_of_the_paper_is_imagenet_lt():
    suite = SUITES["paper"]
    assert suite.main == suite.sweep == imagenet_lt()
    sizes = {"ViT-Tiny": "tiny", "ViT-Small": "small", "ViT-Base": "base", "ViT-Large": "large"}
    assert suite.sizes == tuple(sizes[m] for m in published("table5_loss_by_model_size").model.unique())
    assert equal_compute_epochs(suite.sweep) > 500


# ------------------------------------------------------------------------------------------------- costs and scores

PEAK = 989e12  # floating-point operations a second of an H200, dense bfloat16
SHARE = {"base": 0.4, "tiny": 0.05}
# One of each size and data set; the others, by the slow tests.
COUNTED_AT_ONCE = ("imagenet_lt", "cifar100_lt_100", "tiny_imagenet_lt_100")
COST = r"^ +- (``\w+``(?:, ``\w+``)*): ([\d.]+) \+ ([\d.]+) GPU-hours, (\d+) GB(?:; expected score ([\d.]+))?"


@cache
def stated() -> dict[str, tuple[float, ...]]:
    """Return what the docstrings state of each recipe: GPU-hours of both stages, GB, expected score or nan."""
    makers = {getattr(make, "func", make) for make in RECIPES.values()}
    found = {}
    for make in makers:
        for names, *numbers in re.findall(COST, make.__doc__, re.MULTILINE):
            for name in re.findall(r"\w+", names):
                assert name not in found, name
                found[name] = tuple(float(n or "nan") for n in numbers)
    return found


def training_images(data: DataConfig) -> int:
    if data.max_count is not None:
        return int(exponential_counts(data.max_count, data.imbalance_factor, data.num_classes).sum())
    if data.name == "tiny_imagenet":  # its own counts, of ImageNet-LT: 21,052 images, 105 of each class when balanced
        return 21_000 if data.balanced else 21_052
    return int(published("datasets").set_index("dataset").training_images[data.name])


def gpu_hours(recipe: Recipe, share: float) -> tuple[float, float]:
    """Return the estimate of both stages, from the FLOPs of full batches at a share of the peak."""
    hours = []
    for i, (stage, data) in enumerate(((recipe.pretrain, recipe.pretrain_data), (recipe.finetune, recipe.data))):
        alone = replace(recipe, data=data, pretrain=replace(recipe.pretrain, data=None))
        plain = {"seed": 0, "finetune.loss": "ce", "finetune.tau": 1.0, "data.balanced": False}
        flops = flops_per_image(with_overrides(alone, plain))[i]
        images = stage.epochs * (training_images(data) // stage.batch_size * stage.batch_size)
        hours.append(images * flops / (share * PEAK) / 3600)
    return hours[0], hours[1]


def is_large(name: str) -> bool:
    """Whether a recipe differs from a ViT-Base that is tried anyhow in settings alone, in classes or in resolution."""
    return RECIPES[name]().model.size == "base" and name != "imagenet_lt"


@pytest.mark.parametrize("name", [n if n in COUNTED_AT_ONCE else pytest.param(n, marks=pytest.mark.slow) for n in OURS])
def test_stated_gpu_hours_are_those_of_the_flops(name):
    recipe = RECIPES[name]()
    assert "estimated" in getattr(RECIPES[name], "func", RECIPES[name]).__doc__.lower()
    expected = gpu_hours(recipe, SHARE[recipe.model.size])
    assert stated()[name][:2] == pytest.approx(expected, rel=0.04, abs=0.006), expected


def test_estimates_in_prose_are_those_that_recipes_and_plan_state(tmp_path):
    def said(path):
        return " ".join((ROOT / path).read_text().replace('\\n",\n    "', " ").split())

    pretraining, finetuning = stated()["imagenet_lt"][:2]
    for chapter in ("mdcs", "metaformer"):
        text = said(f"notebooks/{chapter}.ipynb")
        assert re.search(rf"{pretraining:g}( GPU-hours)? and (its fine-tuning at )?{finetuning:g}", text), chapter
    assert f"an estimated {pretraining:g} GPU-hours" in said("notebooks/sp2ot.ipynb")
    parts = re.search(
        r"([\d.]+) for 100 epochs of the teacher, by SAM, and ([\d.]+)", recipes.deit_lt_imagenet_lt.__doc__
    )
    assert f"an estimated {sum(map(float, parts.groups())):g} GPU-hours" in said("notebooks/deit_lt.ipynb")
    hours = sum(entry.hours for entry in PLAN if entry.experiment in trained(entry.suite))
    there = state(RunStore(tmp_path)).assign(suite=[entry.suite for entry in PLAN])
    spent = sum(row["hours spent"] for _, row in there.iterrows() if row.experiment in trained(row.suite))
    assert f"some {hours:.0f} core-hours for all, estimated ({spent:.0f} were spent" in said("README.md")


@pytest.mark.slow
def test_stated_gpu_hours_of_other_sizes_are_those_of_the_flops():
    text = " ".join(imagenet_lt.__doc__.split())
    sizes = re.search(r"tiny takes (.*) \+ (.*) GPU-hours, small (.*) \+ (.*), large (.*) \+ (.*); expected", text)
    hours = iter(map(float, sizes.groups()))
    for size in ("tiny", "small", "large"):
        expected = gpu_hours(imagenet_lt(size=size), SHARE["base"])
        assert (next(hours), next(hours)) == pytest.approx(expected, rel=0.04, abs=0.006), (size, expected)


def test_the_module_states_how_costs_are_estimated():
    for said in ("estimated from FLOPs, not measured", "989 TFLOP/s", "use 40 %", "the small ones 5 %"):
        assert said in " ".join(recipes.__doc__.split()).replace("989 TFLOP/s of", "989 TFLOP/s, of"), said


def test_expected_scores_are_the_published_ones():
    for data, table in (
        ("imagenet_lt", "table2_imagenet_lt"),
        ("inat18", "table3_inat18"),
        ("places_lt", "table4_places_lt"),
    ):
        livt = published(table).query("method == 'LiVT'").set_index("resolution").accuracy
        assert [stated()[n][3] for n in (data, f"{data}_384")] == livt[[224, 384]].tolist()
    mae = published("table1_recipes").query("dataset == 'imagenet_bal' and recipe == 'MAE'").accuracy.item()
    assert stated()["imagenet_bal"][3] == mae
    for name, log in (
        ("imagenet_lt_384", "imagenet_lt_vitb384"),
        ("inat18", "inat18_vitb224"),
        ("inat18_384", "inat18_vitb384"),
    ):
        last = published(f"official_logs/finetune_{log}").test_acc1.iloc[-1]
        assert stated()[f"{name}_official"][3] == pytest.approx(last, abs=0.06)
    sizes = published("table5_loss_by_model_size").query("loss == 'Bal-BCE'").accuracy
    assert "expected scores are {0}, {1} and {3}".format(*sizes) in " ".join(imagenet_lt.__doc__.split())


KEPT = {  # bytes kept for the backward pass, per image and MB: (stage, size, pixels, patch)
    ("pretrain", "base", 224, 16): 47.5,
    ("pretrain", "base", 128, 16): 15.8,
    ("finetune", "base", 224, 16): 65.8,
    ("finetune", "base", 384, 16): 192.8,
    ("finetune", "base", 64, 16): 5.7,
    ("pretrain", "tiny", 64, 8): 3.4,
    ("finetune", "tiny", 64, 8): 5.4,
    ("pretrain", "tiny", 32, 4): 3.4,
    ("finetune", "tiny", 32, 4): 5.4,
}


@pytest.mark.parametrize("name", OURS)
def test_stated_memory_is_that_of_the_larger_stage(name):
    recipe = RECIPES[name]()
    needs = []
    for stage, data in (("pretrain", recipe.pretrain_data), ("finetune", recipe.data)):
        with torch.device("meta"):
            model = create_mae(recipe) if stage == "pretrain" else create_classifier(recipe, classes_of(recipe.data))
        settings = getattr(recipe, stage)
        kept = KEPT[stage, recipe.model.size, data.size[0], recipe.model.patch_size]
        parameters = 18 * sum(p.numel() for p in model.parameters())
        needs.append((parameters + kept * 1e6 * settings.batch_size / settings.accumulation_steps) / 1e9)
    assert stated()[name][2] == pytest.approx(max(needs), abs=0.8), needs


@pytest.mark.parametrize(
    ("what", "expected"),
    [pytest.param(*item, marks=pytest.mark.slow) if item[0][1] == "base" else item for item in KEPT.items()],
    ids=lambda v: "-".join(map(str, v)) if type(v) is tuple else "",
)
def test_memory_per_image_is_what_pytorch_keeps(what, expected):
    stage, size, pixels, _ = what
    recipe = next(
        r
        for r in (make() for make in RECIPES.values())
        if (r.model.size, (r.pretrain_data if stage == "pretrain" else r.data).size[0]) == (size, pixels)
        and r.data.name not in ("digits", "digit_pairs", "own")
    )
    classes = classes_of(recipe.data)
    model = create_mae(recipe) if stage == "pretrain" else create_network(recipe, classes, drop_path=0.1)
    one, two = (kept_bytes(model.train(), torch.randn(n, 3, pixels, pixels)) for n in (1, 2))
    assert (two - one) / 1e6 == pytest.approx(expected, rel=0.02)


def kept_bytes(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Return the bytes of the tensors that autograd keeps of a forward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # itself, it would keep the graph alive in a circle

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        model(images)
    return sum(size for pointer, size in kept.items() if pointer not in own)


# ------------------------------------------------------------------------------------------------- one step of each


def in_small(recipe: Recipe) -> Recipe:
    """Return the recipe on 2 x 2 patches (3 x 3 to fine-tune, where pretraining has others), of 2 parts of 2 images."""
    patch = recipe.model.patch_size
    few = {"batch_size": 4, "accumulation_steps": 2}
    first = recipe.pretrain.data and replace(recipe.pretrain.data, image_size=2 * patch)
    return replace(
        recipe,
        data=replace(recipe.data, image_size=(3 if first else 2) * patch),
        pretrain=replace(recipe.pretrain, data=first, **few),
        finetune=replace(recipe.finetune, **few),
    )


def step(model, settings: StageConfig, lr: float, loss_of, parts, layer_decay: float = 1.0) -> None:
    """Take a real optimiser step and see that it moves every parameter."""
    before = {name: p.detach().flatten()[:1000].clone() for name, p in model.named_parameters()}
    optimizer = create_optimizer(model, settings, layer_decay)
    loss = take_step(optimizer, loss_of, parts, lr=lr, settings=settings)
    assert loss.isfinite()
    after = {name: p.detach().flatten()[:1000] for name, p in model.named_parameters()}
    still = {name for name in after if torch.equal(after[name], before[name])}
    assert still == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still <= {"encoder.pos_embed", "decoder_pos_embed"}
    assert all(values.isfinite().all() for values in after.values())


MODELS: dict[ModelConfig, MaskedAutoencoder] = {}  # recipes share them: what one's step leaves, the next one changes
TAKEN: set[tuple] = set()  # recipes that differ in their images alone take the same step


def pretraining_step(recipe: Recipe) -> None:
    small = in_small(recipe)
    settings = small.pretrain
    if small.model not in MODELS:
        MODELS[small.model] = create_mae(small)
    about = small.model, replace(settings, data=None), recipe.pretrain.lr
    if about not in TAKEN:
        mae = MODELS[small.model]
        images = torch.randn(2, 2, 3, *small.pretrain_data.size)
        step(mae, settings, recipe.pretrain.lr, lambda x: mae(x, settings.mask_ratio).loss, [(x,) for x in images])
        TAKEN.add(about)


def finetuning_step(recipe: Recipe) -> None:
    small = in_small(recipe)
    settings, classes = small.finetune, small.data.num_classes
    about = small.model, settings, recipe.finetune.lr, classes, small.data.size
    if about in TAKEN:
        return
    vit = create_network(small, classes_of(small.data), drop_path=settings.drop_path)
    state = MODELS[small.model].state_dict()
    report = load_encoder(vit, {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")})
    assert bool(report.resampled) == (small.pretrain.data is not None)
    counts = np.arange(classes, 0, -1)
    criterion, mix = create_loss(settings, counts), create_mixer(settings, counts)

    def loss_of(images, labels):
        mixed, targets = mix(images, labels)
        return criterion(vit(mixed), targets)

    images, labels = torch.randn(2, 2, 3, *small.data.size), torch.randint(classes, (2, 2))
    parts = list(zip(images, labels, strict=True))
    step(vit.train(), settings, recipe.finetune.lr, loss_of, parts, settings.layer_decay)
    TAKEN.add(about)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if is_large(n) else n for n in OURS])
def test_each_recipe_takes_a_step_of_both_stages(name):
    recipe = RECIPES[name]()
    torch.manual_seed(1)
    np.random.seed(1)
    pretraining_step(recipe)
    finetuning_step(recipe)


@pytest.mark.slow
def test_the_largest_model_takes_a_step_of_both_stages():
    large = imagenet_lt(size="large")
    pretraining_step(large)
    finetuning_step(large)
