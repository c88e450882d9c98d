"""The prose chapters of the book: their Python samples run, their commands parse, their statements fit the recipes."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import torch

from livt.__main__ import build_parser
from livt.companion.published import published
from livt.config import with_overrides
from livt.lab.recipes import RECIPES
from livt.losses import LOSSES, BalancedBinaryCrossEntropy, balanced_bce_bias

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "book").glob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"python -m livt ([^`\n&]+)")


def blocks(language):
    """Return (chapter and line, text) of every fenced block of a language."""
    found = []
    for path in CHAPTERS:
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[1] == language:
                found.append((f"{path.name}:{text.count(chr(10), 0, match.start()) + 1}", match[2]))
    return found


def commands():
    """Return (chapter, arguments) of every complete command; "reproduce" alone is a mention."""
    return [
        (path.name, arguments)
        for path in CHAPTERS
        for command in COMMAND.findall(path.read_text(encoding="utf-8").replace("\\\n", ""))
        if len(arguments := shlex.split(re.sub(r" > \S+$", "", command.rstrip()))) > 1
    ]


def run(source, name):
    exec(compile(source, name, "exec"), {"__name__": "sample"})


def test_there_are_samples_and_commands():
    chapters = {name.partition(":")[0] for name, _ in blocks("python")}
    assert chapters == {"use_the_loss.md", "rerun.md", "your_own_loss.md"}
    assert len(blocks("python")) >= 12
    assert len(commands()) >= 12


@pytest.mark.parametrize(("name", "source"), [pytest.param(*block, id=block[0]) for block in blocks("python")])
def test_sample_runs(name, source, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path))
    monkeypatch.setattr("livt.losses.LOSSES", dict(LOSSES))  # a sample may add to the table
    torch.manual_seed(0)
    for other, before in blocks("python"):  # the file of one's own loss comes before what checks it
        if other.startswith("your_own_loss.md") and other.partition(":")[0] == name.partition(":")[0] and other < name:
            run(before, other)
    run(source, name)


def sample(function):
    """Return a function that a sample of "Use the loss" defines, by its name."""
    name, source = next(block for block in blocks("python") if f"def {function}(" in block[1])
    namespace = {"__name__": "sample"}
    exec(compile(source, name, "exec"), namespace)
    return namespace[function], source


def test_the_first_sample_is_our_loss_and_needs_nothing_of_ours():
    bal_bce, source = sample("bal_bce")
    assert "livt" not in source
    logits, labels, counts = torch.randn(8, 3), torch.randint(3, (8,)), [900, 90, 10]
    for tau in (1.0, 0.5):
        expected = BalancedBinaryCrossEntropy(counts, tau)(logits, labels)
        torch.testing.assert_close(bal_bce(logits, labels, counts, tau), expected)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(bal_bce(logits, labels, [1, 1, 1]), expected)


def test_the_rule_for_another_prior_is_bayes_rule():
    """A world of ten classes and 50 images with known probabilities; the exact minimizer of Bal-BCE, found in float64.

    Where p(y | x) is the training posterior, Bal-BCE is least at sigmoid(z + b) = p(y | x).
    """
    probabilities, _ = sample("probabilities")
    generator = torch.Generator().manual_seed(0)
    likelihood = torch.rand(10, 50, generator=generator, dtype=torch.float64) ** 4
    likelihood /= likelihood.sum(1, keepdim=True)  # p(x | y)
    counts = torch.tensor([1000, 600, 350, 200, 120, 70, 40, 25, 15, 10], dtype=torch.float64)
    joint = likelihood * (counts / counts.sum())[:, None]
    posterior = (joint / joint.sum(0)).T  # [50, 10]
    z = posterior.logit() - balanced_bce_bias(counts)
    assert z.requires_grad_().grad is None
    loss = BalancedBinaryCrossEntropy(counts)(z, posterior)
    loss.backward()
    assert z.grad.abs().max() < 1e-12, "this is where Bal-BCE is least"
    reversed_prior = counts.flip(0) / counts.sum()
    for q in (torch.full((10,), 0.1, dtype=torch.float64), counts / counts.sum(), reversed_prior):
        there = likelihood * q[:, None]
        expected = (there / there.sum(0)).T
        torch.testing.assert_close(probabilities(z.detach(), counts, q), expected)
    balanced = likelihood.T / likelihood.T.sum(1, keepdim=True)
    assert not torch.equal(z.argmax(1), balanced.argmax(1)), "the raw logits decide otherwise for some images"


@pytest.mark.parametrize(("chapter", "arguments"), commands())
def test_command_parses(chapter, arguments):
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            build_parser().parse_args(arguments)
        return
    options = build_parser().parse_args(arguments)
    if options.command in ("pretrain", "finetune") and options.recipe in RECIPES:
        with_overrides(RECIPES[options.recipe](), dict(item.split("=", 1) for item in options.set))


def test_the_recipes_take_the_sides_that_the_chapter_names():
    for name, warmup, batches, smoothing, drop_path in (
        ("digit_pairs", (1.5, 30), (128, 128), 0.0, 0.0),
        ("digit_pairs_short", (1.5, 15), (128, 128), 0.0, 0.0),
        ("tiny_imagenet_lt", (10, 100), (1024, 512), 0.1, 0.1),
    ):
        recipe = RECIPES[name]()
        tuned = recipe.finetune
        assert (tuned.warmup_epochs, tuned.epochs) == warmup
        assert (tuned.beta2, tuned.layer_decay, tuned.tau, tuned.start) == (0.99, 0.75, 1, "zero")
        assert (recipe.pretrain.batch_size, tuned.batch_size) == batches
        assert (tuned.label_smoothing, tuned.drop_path) == (smoothing, drop_path)
    assert RECIPES["tiny_imagenet_lt"]().finetune.base_lr == 1e-3


def test_prose_quotes_the_published_tables():
    """The differences that the chapters state, from the tables that the package ships."""
    table = published("table5_loss_by_model_size")
    tables = {
        metric: table.pivot(index="model", columns="loss", values=metric)
        for metric in ("accuracy", "many", "few", "ece")
    }

    def change(metric, of, to):
        sizes = ["ViT-Tiny", "ViT-Small", "ViT-Base", "ViT-Large"]
        return (tables[metric][of] - tables[metric][to]).reindex(sizes).round(1).tolist()

    story = (ROOT / "book" / "story.md").read_text(encoding="utf-8")
    for metric, of, to in (
        ("accuracy", "CE", "BCE"),
        ("accuracy", "Bal-BCE", "BCE"),
        ("few", "Bal-BCE", "BCE"),
        ("accuracy", "Bal-BCE", "Bal-CE"),
        ("ece", "Bal-BCE", "BCE"),
    ):
        values = [abs(value) for value in change(metric, of, to)]
        assert re.search(r"\D+".join(map(re.escape, map(str, values))), story), (metric, of, to, values)
    many, few = change("many", "Bal-BCE", "Bal-CE"), change("few", "Bal-CE", "Bal-BCE")
    for chapter in ("story.md", "use_the_loss.md"):
        text = " ".join((ROOT / "book" / chapter).read_text(encoding="utf-8").split())
        assert f"{min(many)} to {max(many)}" in text
        assert f"{min(few)} to {max(few)}" in text

    deviations = (ROOT / "book" / "paper_vs_code.md").read_text(encoding="utf-8")
    for log in ("imagenet_lt_vitb224", "imagenet_lt_vitb384", "inat18_vitb224", "inat18_vitb384"):
        accuracy: pd.Series = published(f"official_logs/finetune_{log}").test_acc1
        assert f"| {accuracy.max():.2f} | {accuracy.iloc[-1]:.2f} |" in deviations, log
    assert published("official_logs/pretrain_imagenet_lt_vitb224").train_lr.max() == pytest.approx(6e-4, rel=1e-3)


def test_how_fast_a_step_is_is_what_its_record_says():
    groups = json.loads((ROOT / "book" / "speed.json").read_text(encoding="utf-8"))["groups"]
    text = " ".join((ROOT / "book" / "rerun.md").read_text(encoding="utf-8").split())
    ratio = "livt is times as fast"

    def rate(row):
        return f"{row['images/s']:.0f}" if row["images/s"] >= 10 else f"{row['images/s']:.1f}"

    for shape in ("tiny/8 at 64 px", "base/16 at 224 px"):
        for stage, title in (("pretrain", "MAE"), ("finetune", "fine-tuning")):
            cells = [f"{title}, ViT-{shape.capitalize()}"]
            for precision in ("float32", "bfloat16"):
                rows = groups[f"{stage}, {shape}, {precision}, cpu"]
                share = rows["livt"]["% of matrix rate"]
                cells += [f"{rate(rows['livt'])} img/s ({share:.0f} %)", rate(rows["peer"])]
                cells.append(f"{rows['peer'][ratio]:.2f}")
            assert f"| {' | '.join(cells)} | {rows['peer in float32'][ratio]:.2f} |" in text

    def times(switch, *precisions):
        """Return the least and the greatest time with a switch turned, in times of that without."""
        found = [
            groups[f"{switch}: {stage}, tiny/8 at 64 px, {precision}, cpu"]["switched"][ratio]
            for precision in precisions
            for stage in ("pretrain", "finetune")
        ]
        return min(found), max(found)

    def loaded(stage):
        form = f"{stage} from shards, JPEG of 341 x 256 and about 24 KB to 224 px, one loading process"
        return groups[form]["livt"]["images/s"]

    least, most = times("the other attention", "bfloat16")
    assert f"fused attention takes {least:.1f} to {most:.1f} times the time" in text
    least, most = times("compiled", "bfloat16")
    assert f"compilation saves {100 * (1 - most):.0f} to {100 * (1 - least):.0f} % of a bfloat16 step" in text
    least, most = times("compiled", "float32")
    assert 0.99 < least <= most
    assert f"costs up to {100 * (most - 1):.0f} % of a float32 one" in text
    least, most = times("AdamW not fused", "float32", "bfloat16")
    assert 0.97 < least <= most < 1.03
    assert "fused AdamW changes nothing" in text
    least, most = times("checkpointing", "float32", "bfloat16")
    assert f"checkpointing takes {100 * (least - 1):.0f} to {100 * (most - 1):.0f} % more time" in text
    for peer, name in (("BCE", "plain BCE"), ("torch BCE", "PyTorch's own")):
        rows = groups[f"Bal-BCE beside {peer}, forward and backward, [1024, 8142], float32, cpu"]
        assert f"{1 / rows[peer][ratio]:.2f} times as long as {name}" in text
    assert "decodes and crops about 500 images a second from shards for pretraining, and 360 with RandAugment" in text
    assert (loaded("pretrain"), loaded("finetune")) == pytest.approx((500, 360), rel=0.1)
    waiting = [groups[f"{s}, base/16 at 224 px, waiting for files, cpu"]["livt"] for s in ("pretrain", "finetune")]
    assert max(row["% waiting"] for row in waiting) < 1
    assert "less than 1 % of its time" in text
