"""WordNet's groups as metadata: what the table says, how much it tells, and that the model gets it."""

import importlib.util
import sys
from collections import Counter
from math import log2
from pathlib import Path

import numpy as np
import pytest
import torch

from livt.__main__ import main
from livt.config import with_overrides
from livt.lab.experiments import arms
from livt.rivals.ancestors import CLASSES, codes, groups, information
from livt.rivals.metaformer import create_metaformer, drawn

TINY = arms("ancestors", "photos_tiny")
PREP = Path(__file__).parents[2] / "data_prep"

NOUNS = """  1 This is the licence, which does not count.
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | the root
00000002 03 n 02 living_thing 0 animate_thing 0 001 @ 00000001 n 0000 | alive
00000003 05 n 01 dog 0 003 @ 00000002 n 0000 + 00000009 v 0101 ~ 00000004 n 0000 | it barks
00000004 05 n 01 Laika 0 001 @i 00000003 n 0000 | an instance
00000005 05 n 01 poodle 0 001 @ 00000003 n 0000 | curly
00000006 06 n 0a a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 001 @ 00000001 n 0000 | ten words, which count in hexadecimal
"""


def test_groups_are_those_of_wordnet():
    """Golden retriever, Egyptian cat, school bus and lemon, by their wnids."""
    of = {wnid: {name for name, members in groups().items() if wnid in members} for wnid in sorted(groups_of_all())}
    assert len(of) == CLASSES
    assert {"dog (n02084071)", "mammal (n01861778)", "animal (n00015388)"} <= of["n02099601"]
    assert "dog (n02084071)" not in of["n02124075"]
    assert {"carnivore (n02075296)", "feline (n02120997)"} <= of["n02124075"]
    assert {"conveyance (n03100490)", "public transport (n04019101)"} <= of["n04146614"]
    assert "fruit (n13134947)" in of["n07749582"]
    assert all("entity (n00001740)" in names for names in of.values())


def groups_of_all() -> set[str]:
    return set().union(*groups().values())


@pytest.mark.parametrize("least", [2, 10, 20, 118, 200])
def test_codes_have_the_groups_that_are_large_enough(least):
    found = codes(least)
    assert found.shape == (CLASSES, sum(len(members) >= least for members in groups().values()))
    assert set(np.unique(found)) <= {0.0, 1.0}
    assert found.sum(0).min() >= least
    number = sorted(groups_of_all()).index("n02099601")
    named = [members for members in groups().values() if len(members) >= least]
    assert found[number].tolist() == [float("n02099601" in members) for members in named]


@pytest.mark.parametrize("least", [2, 10, 20, 200])
def test_information_is_the_entropy_of_the_code(least):
    counts = Counter(map(bytes, codes(least).astype(np.uint8)))
    assert information(least) == pytest.approx(sum(n / 200 * log2(200 / n) for n in counts.values()), abs=1e-12)
    one = np.zeros(CLASSES)
    one[3] = 1
    assert information(least, one) == 0, "nothing is left to know of a class that is certain"


def test_groups_of_all_classes_say_nothing_and_small_ones_not_everything():
    assert information(200) == 0
    assert 3 < information(20) < information(10) < information(2) < log2(CLASSES)


def test_an_image_has_the_groups_of_its_class():
    settings = TINY["ce/20"].meta
    labels = torch.tensor([0, 199, 7, 7])
    found = drawn(settings, labels, CLASSES, (0, 1))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), codes(20)[labels])
    assert torch.equal(found, drawn(settings, labels, CLASSES, (5, 6))), "nothing is drawn"


def test_the_model_has_one_token_of_groups_and_it_learns():
    torch.manual_seed(0)
    model = create_metaformer(TINY["ce/20"], CLASSES)
    assert model.parts == (codes(20).shape[1],)
    torch.nn.init.normal_(model.head.weight)
    images = torch.rand(4, 3, 32, 32)
    given = torch.from_numpy(codes(20)).float()[:4]
    model(images, given).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.metadata.parameters())
    with torch.no_grad():
        assert not torch.allclose(model(images, given), model(images))
        assert torch.equal(model(images), model(images, torch.zeros_like(given)))


def test_arms_differ_by_loss_and_groups_alone():
    assert list(TINY) == ["ce/200", "ce/20", "bal_bce/200", "bal_bce/20"]
    same = {"meta.ancestors": 20, "meta.loss": "ce"}
    assert len({with_overrides(recipe, same).meta for recipe in TINY.values()}) == 1
    assert arms("ancestors", "digits") == {}
    assert set(arms("ancestors", "gpu")) == set(TINY)


def test_other_images_have_no_such_experiment(capsys):
    assert main(["reproduce", "ancestors", "--suite", "digits"]) == 2
    assert "error: on suite digits there are no arms of ancestors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta.ancestors": 1}, "meta.ancestors must be 0, or from 2 to 200 classes, not 1"),
        ({"meta.ancestors": 201}, "not 201"),
        ({"meta.concentration": 6.0}, "one kind of metadata at a time"),
        ({"data.name": "cifar10"}, "WordNet's groups are of data.name=tiny_imagenet, not cifar10"),
    ],
)
def test_impossible_settings_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        with_overrides(TINY["ce/20"], change)


# ---------------------------------------------------------------- how the table is made


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(PREP))
    spec = importlib.util.spec_from_file_location("wordnet_script", PREP / "wordnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in ("prepare", "sources", "storage"):
        sys.modules.pop(name, None)


def test_the_script_finds_groups_above_words_instances_and_pointers_of_other_kinds(script, tmp_path, capsys):
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "classes.csv").write_text("wnid\nn00000006\nn00000005\nn00000004\n")
    target = tmp_path / "out.csv"
    assert script.main([str(tmp_path / "data.noun"), str(tmp_path / "classes.csv"), "--target", str(target)]) == 0
    assert target.read_text().splitlines() == [
        "wnid,name,count,classes",
        "n00000001,entity,3,n00000004 n00000005 n00000006",
        "n00000002,living thing,2,n00000004 n00000005",
        "n00000003,dog,2,n00000004 n00000005",
    ]


@pytest.mark.parametrize(
    ("nouns", "message"),
    [("words of another kind\n", "is not data.noun of WordNet"), ("", "lacks n00000005"), (None, "No such file")],
)
def test_another_file_is_refused_in_a_line(script, tmp_path, capsys, nouns, message):
    if nouns is not None:
        (tmp_path / "data.noun").write_text(nouns)
    (tmp_path / "classes.csv").write_text("wnid\nn00000005\n")
    target = tmp_path / "out.csv"
    assert script.main([str(tmp_path / "data.noun"), str(tmp_path / "classes.csv"), "--target", str(target)]) == 2
    assert message in capsys.readouterr().err
    assert not target.exists()
