"""Examples of test images: which are shown, what is said of them, and what a page says without images or weights."""

import json

import numpy as np
import pytest

from livt.companion import examples, landing
from livt.companion.chapter import Panel
from livt.companion.examples import by_seed, class_names, predicted, section, three_classes
from livt.companion.published import LOSS_NAMES
from livt.companion.report import plain
from livt.config import DataConfig
from livt.data.sets import load_dataset
from livt.lab.experiments import arms, recipes
from livt.lab.failures import RunError
from livt.lab.find import find
from livt.lab.promoted import promoted_folder, read_promoted
from livt.lab.runs import RunStore
from livt.lab.stored import stored_logits
from livt.lab.suites import SUITES
from livt.lab.train import train_all


@pytest.fixture(scope="module")
def panel(tmp_path_factory) -> Panel:
    store = RunStore(tmp_path_factory.mktemp("runs"))
    wanted = recipes("loss_ablation", "smoke", (0,))
    train_all(wanted, store, jobs=1, progress=False)
    return Panel("smoke", arms("loss_ablation", "smoke"), tuple(find(wanted, store).values()), store)


def test_what_is_said_is_what_the_stored_weights_say(panel, monkeypatch):
    drawn, real = [], examples.examples
    monkeypatch.setattr(examples, "examples", lambda rows: drawn.extend(rows) or real(rows))
    shown = section([panel])
    assert shown.count("<img") == 1
    assert "not shown" not in shown
    data = load_dataset(panel.suite.main.data)
    assert [example.title.split("\n")[0] for example in drawn] == [str(c) for c in three_classes(data.class_counts)]
    logits = {run.recipe.finetune.loss: stored_logits(run, panel.store)[0] for run in panel.records}
    for example, label in zip(drawn, three_classes(data.class_counts), strict=True):
        first = np.flatnonzero(data.evaluation.labels.numpy() == label)[: examples.IMAGES]
        assert (example.images == data.evaluation.images[first].permute(0, 2, 3, 1).numpy()).all()
        for loss, title in LOSS_NAMES.items():
            predicted = logits[loss][first].argmax(1).tolist()
            assert example.said[title] == [(str(p), p == label) for p in predicted]


def test_the_recall_is_that_of_the_records(panel):
    chosen = three_classes(panel.class_counts)
    table = examples.recall_table(panel.suite.main.data, panel.class_counts, panel.records)
    assert table.columns.tolist() == [f"{label} ({panel.class_counts[label]})" for label in chosen]
    for run in panel.records:
        row = table.loc[LOSS_NAMES[run.recipe.finetune.loss]]
        assert [float(plain(cell)) for cell in row] == [round(run.result["per_class"][label], 1) for label in chosen]


def test_classes_are_named():
    assert class_names(SUITES["digits"].main.data, 100)[7] == "07"
    assert class_names(SUITES["photos"].main.data, 10)[9] == "truck"
    assert class_names(DataConfig(name="digits"), 10)[3] == "3"


def test_a_suite_without_weights_has_its_recall_and_says_why_no_images(panel, tmp_path):
    """As of promoted records on a machine that did not train them."""
    empty = RunStore(tmp_path)
    records = find(recipes("loss_ablation", "digits"), empty).values()
    assert {record.id for record in records} <= read_promoted(promoted_folder()).keys()
    other = Panel("digits", arms("loss_ablation", "digits"), tuple(records), empty)
    shown = section([other, panel])
    assert shown.count("Test images stand here where") == shown.count("<img") == 1
    assert shown.count("Recall of the class") == 2


def promoted(experiments, suite, store) -> Panel:
    every = {name: recipe for experiment in experiments for name, recipe in arms(experiment, suite).items()}
    wanted = [recipe for experiment in experiments for recipe in recipes(experiment, suite)]
    return Panel(suite, every, tuple(find(dict.fromkeys(wanted), store).values()), store)


def test_the_first_page_leads_with_photographs(panel, tmp_path):
    empty = RunStore(tmp_path)
    ablations = [promoted(["loss_ablation"], suite, empty) for suite in ("digits", "photos")]
    classes = landing.three_classes([panel, *ablations])
    assert "airplane (5,000)" in classes
    assert "truck (50)" in classes
    box = landing.result_box([panel, *(promoted(landing.EXPERIMENTS, suite, empty) for suite in ("digits", "photos"))])
    assert box.index(": 10 classes with") < box.index(": 100 classes with")
    with pytest.raises(ValueError, match="no suite has 3 seeds of each loss"):
        landing.three_classes([panel])
    with pytest.raises(ValueError, match="no suite has 3 seeds of each loss"):
        landing.result_box([panel])


def test_what_runs_without_weights_say_is_kept_with_their_records(panel, tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_RESULTS", str(tmp_path / "results"))
    chosen, empty = three_classes(panel.class_counts), RunStore(tmp_path / "empty")
    run = panel.records[0]
    with pytest.raises(RunError):
        predicted(run, empty, chosen)
    examples.keep(run, panel.store, chosen)
    assert predicted(run, empty, chosen) == predicted(run, panel.store, chosen)
    assert section([Panel("smoke", panel.arms, panel.records, empty)]).count("<img") == 0, "one loss is not all four"
    for run in panel.records:
        examples.keep(run, panel.store, chosen)
    assert section([Panel("smoke", panel.arms, panel.records, empty)]).count("<img") == 1


def test_what_is_kept_agrees_with_the_records():
    """Of each loss on photographs: the share of a class's test images that is right is the recall that was recorded."""
    promoted, files = read_promoted(promoted_folder()), sorted((promoted_folder() / "predictions").glob("*.json"))
    assert {promoted[file.stem].recipe.data.name for file in files} >= {SUITES["photos"].main.data.name}
    for file in files:
        recall = promoted[file.stem].result["per_class"]
        for label, said in json.loads(file.read_text()).items():
            assert 100 * np.mean(np.array(said) == int(label)) == pytest.approx(recall[int(label)], abs=1e-6)


def test_classes_of_images_that_are_not_here_have_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    assert class_names(SUITES["photos_tiny"].main.data, 200)[17] == "class 17"


def test_a_loss_without_a_run_is_no_example(panel):
    lacking = Panel("smoke", panel.arms, panel.records[:3], panel.store)
    assert by_seed(lacking) == []
    assert section([lacking]) == ""
