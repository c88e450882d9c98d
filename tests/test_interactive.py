"""The HTML of the interactive figures: well-formed, small, with the data of livt. tests/browser runs their script."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from livt.companion import interactive
from livt.companion.plots import COLOURS
from livt.companion.published import published
from livt.losses import BalancedBinaryCrossEntropy, balanced_bce_bias, balanced_ce_bias

STATIC = Path(__file__).parents[1] / "book" / "_static"
IMAGE = '<img src="data:," alt="A picture of nothing at all.">'
INAT = published("class_counts/inat18")["n_train"].to_numpy()
GREY = np.arange(8 * 16).reshape(8, 16)


class Outline(HTMLParser):
    """Checks that each element is closed in turn, and keeps the text of scripts."""

    def __init__(self, html):
        super().__init__()
        self.open, self.scripts, self.images, self.text = [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.images.append(dict(attributes))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else self.text).append(data)


def data_of(html):
    outline = Outline(html)
    assert len(outline.scripts) == 1
    return json.loads(outline.scripts[0])


def reconstructions():
    return {visible: GREY + 100 / 3 - visible for visible in (1, 8, 20)}


def explorer(**changed):
    return interactive.bias_explorer(**({"datasets": {"a": [3, 1]}, "fallback": IMAGE} | changed))


def profiles(**changed):
    return interactive.profile_explorer(**({"profiles": {"p": (500, 10)}, "fallback": IMAGE} | changed))


def stepper(**changed):
    given = {"original": GREY, "reconstructions": reconstructions(), "order": range(32), "patch_size": 2}
    return interactive.mae_stepper(**(given | changed))


def starts(change=lambda starts: None):
    found = {
        start: {tau: {"all": 10.0 * i + float(tau), "few": None} for tau in ("0", "1")}
        for i, start in enumerate(("zero", "uniform", "prior"))
    }
    change(found)
    return found


def anatomy(**changed):
    return interactive.anatomy_explorer(**({"panels": {"digits": starts()}, "fallback": IMAGE} | changed))


def proof(*lines):
    return interactive.proof("A proof", lines)


FIGURES = {
    "bias-explorer": explorer,
    "profile-explorer": profiles,
    "gradient-flow": interactive.gradient_flow,
    "count-explorer": interactive.count_explorer,
    "anatomy-explorer": anatomy,
    "mae-stepper": stepper,
    "mass-explorer": interactive.mass_explorer,
    "proof": lambda: proof(("name", "x", "reason", True)),
}


@pytest.mark.parametrize("kind", FIGURES)
def test_each_figure_is_well_formed_labelled_and_small(kind):
    html = FIGURES[kind]()
    outline = Outline(html)
    assert html.startswith(f'<div class="livt-interactive" data-kind="{kind}" role="group" aria-label="')
    assert len(outline.scripts) == 1
    assert all(len(image["alt"]) > 20 for image in outline.images)
    assert len(outline.images) == (kind != "proof")
    assert len(html) < 60_000
    assert html == FIGURES[kind](), "the same figure is not the same text"


def test_a_title_cannot_break_out_of_its_place():
    html = explorer(datasets={"</script><b>\"'&": [3, 1]})
    assert list(data_of(html)["datasets"]) == ["</script><b>\"'&"]
    html = proof(("<b>", "a < b", r"since \(a & b\) <i>", "</p>"))
    assert Outline(html)
    assert "<b>" not in html
    assert "<i>" not in html
    assert r"\(\displaystyle a &lt; b\)" in html
    assert r'<span class="math notranslate nohighlight">\(a &amp; b\)</span>' in html


def test_a_profile_keeps_every_class():
    html = explorer(datasets={"iNat18": np.random.default_rng(0).permutation(INAT)})
    runs = data_of(html)["datasets"]["iNat18"]
    expanded = np.repeat(runs["counts"], runs["classes"])
    assert (expanded == np.sort(INAT)[::-1]).all()
    assert len(html) < 10_000


def test_the_steps_of_a_suite_are_kept_as_given():
    assert data_of(anatomy())["panels"]["digits"] == starts()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("uniform"), "must have the starts"),
        (lambda s: s["prior"].pop("1"), "must have the same strengths"),
        (lambda s: [values.pop("1") for values in s.values()], "0 and 1 among them"),
        (lambda s: s["prior"]["1"].pop("few"), "not of the same groups"),
    ],
)
def test_steps_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        anatomy(panels={"digits": starts(change)})
    with pytest.raises(ValueError, match="panels is empty"):
        anatomy(panels={})


def test_the_toy_batch_and_its_forces():
    data = data_of(interactive.gradient_flow([5, 2], confidence=1.5, seed=3))
    noise = np.array(data["noise"])
    assert noise.shape == (7, 2)
    pull, push = interactive.class_forces(BalancedBinaryCrossEntropy([5, 2]), [5, 2], noise, 1.5)
    labels = np.repeat([0, 1], [5, 2])
    own = np.eye(2)[labels]
    p = 1 / (1 + np.exp(-(1.5 * (own + noise) + np.log([5 / 2, 2 / 5]))))
    assert pull == pytest.approx(((1 - p) * own).sum(axis=0) / 7, abs=1e-12)
    assert push == pytest.approx(-(p * (1 - own)).sum(axis=0) / 7, abs=1e-12)


def test_a_fresh_classifier_is_at_rest_under_bal_bce_only():
    from livt.losses import BinaryCrossEntropy

    counts = np.array([36, 16, 7, 3, 2])
    noise = np.zeros((64, 5))
    assert sum(interactive.class_forces(BalancedBinaryCrossEntropy(counts), counts, noise, 0)) == pytest.approx(0)
    pull, push = interactive.class_forces(BinaryCrossEntropy(), counts, noise, 0)
    assert pull + push == pytest.approx(counts / 64 - 0.5)


@pytest.mark.parametrize("counts", [(500, 158, 50, 16, 5), (9, 9, 9), (1, 10_000), (7, 1000, 3)])
def test_a_line_is_decided_by_the_minimisers_that_the_losses_have(counts):
    """Each rule as theory gives it, from the biases of livt: the posterior's log-odds less the bias for Bal-BCE."""
    place, chosen = interactive.line_decisions(counts)
    density = np.exp(-0.5 * (place[:, None] - 2 * np.arange(len(counts))) ** 2)
    density /= density.sum(axis=0)
    posterior = density * counts
    posterior /= posterior.sum(axis=1, keepdims=True)
    rest = np.stack([np.delete(posterior, c, axis=1).sum(axis=1) for c in range(len(counts))], axis=1)
    odds = np.log(posterior) - np.log(rest)
    assert (chosen["bce"] == odds.argmax(axis=1)).all()
    assert (chosen["bal_bce"] == (odds - balanced_bce_bias(counts).numpy()).argmax(axis=1)).all()
    log_prior = balanced_ce_bias(counts).numpy()
    assert (chosen["bal_ce"] == (np.log(posterior) - log_prior).argmax(axis=1)).all()
    ends = [np.flatnonzero(np.diff(rule)).tolist() for rule in chosen.values()]
    assert (ends[0] == ends[1] == ends[2]) == (len(set(counts)) == 1), "equal counts, and no others, decide alike"


def test_equal_classes_share_the_line_equally():
    place, chosen = interactive.line_decisions([40, 40, 40])
    for rule in chosen.values():
        assert (rule == np.clip(np.round(place / 2), 0, 2)).all()


def test_the_stepper_stores_images_to_a_hundredth():
    data = data_of(stepper(order=torch.arange(31, -1, -1).tolist()))
    assert data["original"] == GREY.tolist()
    assert data["order"][0] == 31
    assert data["shown"] == 8
    for visible, image in reconstructions().items():
        assert np.abs(np.array(data["reconstructions"][str(visible)]) - image).max() <= 0.005


def test_marks_say_what_was_verified():
    html = proof(("a", "x", "r", True), ("b", "y", "r", False), ("c", "z", "r", "by definition"))
    assert re.findall(r"livt-mark[^>]*>([^<]+)<", html) == ["✓ verified by SymPy", "✗ not verified", "by definition"]


def test_the_static_image_is_an_svg_of_the_figure():
    figure, axis = plt.subplots()
    axis.set_title("Tom & Jerry's 50 % #1 ≤ 2")
    html = interactive.static_image(figure, 'A "quoted" picture of an empty axis.')
    (image,) = Outline(html).images
    assert image["alt"] == 'A "quoted" picture of an empty axis.'
    assert not plt.fignum_exists(figure.number)
    svg = unquote(image["src"].removeprefix("data:image/svg+xml,"))
    assert "Tom & Jerry's 50 % #1 ≤ 2" in "".join(ElementTree.fromstring(svg).itertext())


def test_the_style_sheet_has_the_colours_of_the_plots():
    css = (STATIC / "interactive.css").read_text().lower()
    for loss, colour in COLOURS.items():
        assert f"--livt-{loss.replace('_', '-')}: {colour.lower()};" in css


def test_the_script_asks_for_nothing_else():
    for name in ("interactive.js", "interactive.css"):
        text = (STATIC / name).read_text().replace("http://www.w3.org/2000/svg", "").replace("url(#", "")
        assert not re.search(r"https?:|//cdn|import\s*\(|fetch\(|@import|url\(", text), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: explorer(datasets={}), "datasets is empty"),
        (lambda: explorer(datasets={"a": [1, 0]}), r"class_counts\[1\] = 0 is zero"),
        (lambda: explorer(datasets={"a": [5]}), "'a' needs whole class counts of at least two classes"),
        (lambda: explorer(datasets={"a": [1.5, 2]}), "'a' needs whole class counts"),
        (lambda: explorer(selected="b"), "selected 'b' is not one of a"),
        (lambda: explorer(tau=-1), "tau must lie in 0 to 5, not -1"),
        (lambda: explorer(tau=float("nan")), "tau must lie in 0 to 5, not nan"),
        (lambda: profiles(profiles={}), "profiles is empty"),
        (lambda: profiles(profiles={"p": (5, 1)}), "profile 'p' has 1 class"),
        (lambda: profiles(imbalance_factor=501), "imbalance_factor 501 must lie between 1 and max_count"),
        (lambda: profiles(threshold=0), "threshold must be above 0 nats"),
        (lambda: interactive.count_explorer([7]), "give 2 to 8 classes of 1 to 10,000 images"),
        (lambda: interactive.count_explorer([7, 1.5]), "give 2 to 8 classes"),
        (lambda: interactive.count_explorer([7, 10_001]), "give 2 to 8 classes"),
        (lambda: interactive.count_explorer([7, 0]), r"class_counts\[1\] = 0 is zero"),
        (lambda: interactive.gradient_flow([7]), "a toy batch has 2 to 8 classes"),
        (lambda: interactive.gradient_flow([199, 2]), "at most 200 images"),
        (lambda: interactive.gradient_flow(confidence=9), "confidence must lie in 0 to 8, not 9"),
        (lambda: stepper(original=GREY[0]), r"original must be \[H, W\]"),
        (lambda: stepper(original=GREY + 200), "0 to 255"),
        (lambda: stepper(patch_size=3), "patches of 3 pixels do not tile"),
        (lambda: stepper(order=range(31)), "order must hold each of the 32 patches once"),
        (lambda: stepper(reconstructions={}), "reconstructions is empty"),
        (lambda: stepper(reconstructions={32: GREY}), "32 visible patches, outside 1 to 31"),
        (lambda: stepper(reconstructions={3: GREY[:4]}), r"reconstructions\[3\] must be finite, of shape \(8, 16\)"),
        (lambda: stepper(reconstructions={3: GREY * np.nan}), r"reconstructions\[3\] must be finite"),
        (lambda: stepper(shown=2), "shown 2 is not one of the reconstructions: 1, 8, 20"),
        (lambda: proof(), "steps is empty"),
        (lambda: proof(("a", "", "r", True)), "line 1 of the proof has an empty part"),
        (lambda: interactive.static_image(plt.figure(), "short"), "alt must describe the figure"),
    ],
)
def test_bad_input_gives_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
