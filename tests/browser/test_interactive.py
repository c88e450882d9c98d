"""The live figures in a real browser, opened from file://: by keyboard and mouse, their numbers are those of livt."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from livt.companion import interactive
from livt.companion.published import published
from livt.longtail import class_priors, exponential_counts
from livt.losses import (
    BalancedBinaryCrossEntropy,
    BalancedCrossEntropy,
    BinaryCrossEntropy,
    CrossEntropy,
    balanced_bce_bias,
    balanced_ce_bias,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

STATIC = Path(__file__).parents[2] / "book" / "_static"
PHONE_WIDTH = 390
EXACT = 1e-9
TITLES = {"ImageNet-LT": "imagenet_lt", "iNaturalist 2018": "inat18", "Places-LT": "places_lt"}
COUNTS = {
    title: np.sort(published(f"class_counts/{name}")["n_train"].to_numpy())[::-1] for title, name in TITLES.items()
}
PROFILES = {"ten": (5000, 10), "hundred": (500, 100), "thousand": (1280, 1000)}
BATCH = (9, 4, 2, 1)
LINE = (300, 60, 20, 6)
PATCH = 2
DIGITS = np.random.default_rng(0).integers(0, 256, (8, 16))
ORDER = np.random.default_rng(1).permutation(32).tolist()
PREDICTED = {v: DIGITS + np.random.default_rng(v).normal(scale=200 - 5 * v, size=(8, 16)) for v in range(1, 32)}
GROUPS = ("all", "few")
STRENGTHS = ("0", "0.5", "1", "1.5")
# Accuracies without a pattern, so that no step is by chance that of another place.
MEASURED = {
    title: {
        start: {
            tau: dict(zip(GROUPS, np.random.default_rng([i, j, k]).uniform(0, 100, 2).tolist(), strict=True))
            for k, tau in enumerate(strengths)
        }
        for j, start in enumerate(("zero", "uniform", "prior"))
    }
    for i, (title, strengths) in enumerate({"digits": STRENGTHS, "photos": ("0", "1")}.items())
}
for values in MEASURED["photos"].values():
    for by_group in values.values():
        by_group["few"] = None
STARTS = {"zero": "1/2 for every class", "uniform": "1/C for every class", "prior": "the prior"}
STEPS = [
    ("Sum", r"a + b = b + a", r"addition \(+\) commutes", True),
    ("Order", r"a < a + 1", "always", False),
    ("End", r"c = c", "it is itself", "by definition"),
]


def fallback(alt: str) -> str:
    figure, axis = plt.subplots()
    axis.plot([3, 1])
    return interactive.static_image(figure, alt)


def figures() -> dict[str, str]:
    """Every figure by its kind."""
    return {
        "bias-explorer": interactive.bias_explorer(COUNTS, fallback=fallback("Sigmoid curves of three classes.")),
        "profile-explorer": interactive.profile_explorer(
            PROFILES, COUNTS, fallback=fallback("Biases against class rank.")
        ),
        "gradient-flow": interactive.gradient_flow(BATCH),
        "count-explorer": interactive.count_explorer(LINE),
        "anatomy-explorer": interactive.anatomy_explorer(MEASURED, fallback=fallback("Accuracy of BCE by start.")),
        "mass-explorer": interactive.mass_explorer(),
        "mae-stepper": interactive.mae_stepper(DIGITS, PREDICTED, ORDER, PATCH),
        "proof": interactive.proof("A proof", STEPS),
    }


@pytest.fixture(scope="module")
def html_figures() -> dict[str, str]:
    return figures()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, html_figures: dict[str, str]) -> Path:
    """A page with all figures, and the script in its head as the book has it."""
    folder = tmp_path_factory.mktemp("figures")
    for name in ("interactive.js", "interactive.css"):
        shutil.copy(STATIC / name, folder / name)
    file = folder / "page.html"
    file.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Figures</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="interactive.css">'
        '<script src="interactive.js"></script></head><body style="margin: 8px auto; max-width: 720px">'
        + "".join(html_figures.values())
        + "</body></html>",
        encoding="utf-8",
    )
    return file


@pytest.fixture
def open_page(browser: Browser, page_file: Path) -> Iterator[Callable[..., Page]]:
    """Open the page with options of a browser context; an error or a request for anything else fails the test."""
    contexts, problems = [], []

    def open_page(**options) -> Page:
        context = browser.new_context(**({"viewport": {"width": 1000, "height": 900}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda note: problems.append(note.text) if note.type in ("error", "warning") else None)
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url),
        )
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems, problems


def figure(page: Page, kind: str) -> Locator:
    return page.locator(f'.livt-interactive[data-kind="{kind}"]')


def number(root: Locator, name: str) -> float:
    return float(root.locator(f'[data-name="{name}"]').get_attribute("value"))


def text(root: Locator, name: str) -> str:
    return root.locator(f'[data-name="{name}"]').inner_text()


def control(root: Locator, name: str) -> Locator:
    return root.locator(f'[data-control="{name}"]')


def press(root: Locator, name: str, *keys: str) -> None:
    control(root, name).focus()
    for key in keys:
        root.page.keyboard.press(key)


def drag(root: Locator, name: str, share: float) -> None:
    """Drag a slider's handle from where it is to a share of its length."""
    slider = control(root, name)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    low, high, value = slider.evaluate("s => [Number(s.min), Number(s.max), Number(s.value)]")
    handle = 16
    start = box["x"] + handle / 2 + (value - low) / (high - low) * (box["width"] - handle)
    end = box["x"] + handle / 2 + share * (box["width"] - handle)
    middle = box["y"] + box["height"] / 2
    mouse = root.page.mouse
    mouse.move(start, middle)
    mouse.down()
    mouse.move((start + end) / 2, middle, steps=3)
    mouse.move(end, middle, steps=3)
    mouse.up()


def set_slider(root: Locator, name: str, value: float) -> None:
    control(root, name).fill(str(value))


# ------------------------------------------------------------------------------------------- from BCE to Bal-BCE


def expected_steps(title: str, start: str, tau: str, group: str) -> dict[str, float]:
    """What each step adds to BCE from 1/2: along the starts up to ``start``, then by the removal at it."""
    of = MEASURED[title]
    path = ["zero", "uniform", "prior"][: ["zero", "uniform", "prior"].index(start) + 1]
    gains = [of[after]["0"][group] - of[before]["0"][group] for before, after in itertools.pairwise(path)] + [0, 0]
    base, result = of["zero"]["0"][group], of[start][tau][group]
    return {
        "base": base,
        "plateau": gains[0],
        "prior": gains[1] if start == "prior" else 0,
        "removal": result - of[start]["0"][group],
        "result": result,
    }


def check_steps(root: Locator, *chosen: str) -> None:
    found = {name: number(root, f"value-{name}") for name in ("base", "plateau", "prior", "removal", "result")}
    assert found == pytest.approx(expected_steps(*chosen), abs=EXACT)
    steps = sum(found[name] for name in ("base", "plateau", "prior", "removal"))
    assert steps == pytest.approx(found["result"]), "the steps do not lead to the result"


def test_the_steps_are_differences_of_what_was_measured(open_page):
    root = figure(open_page(), "anatomy-explorer")
    check_steps(root, "digits", "prior", "1", "all")
    for start, text_of in STARTS.items():
        control(root, "start").select_option(text_of)
        check_steps(root, "digits", start, "1", "all")
    control(root, "group").select_option("few")
    press(root, "tau", "ArrowRight")
    assert number(root, "tau") == 1.5
    check_steps(root, "digits", "prior", "1.5", "few")
    press(root, "tau", "Home", "ArrowRight")
    check_steps(root, "digits", "prior", "0.5", "few")
    press(root, "removal", "Space")
    check_steps(root, "digits", "prior", "0", "few")
    assert control(root, "tau").is_disabled()


def test_a_suite_with_fewer_strengths_and_without_a_group(open_page):
    root = figure(open_page(), "anatomy-explorer")
    press(root, "tau", "ArrowRight")
    control(root, "data").select_option("photos")
    assert number(root, "tau") == 1
    assert "measured at 0 and 1 alone" in text(root, "tau")
    check_steps(root, "photos", "prior", "1", "all")
    control(root, "group").select_option("few")
    assert text(root, "summary") == "photos has no few classes."
    assert text(root, "value-result") == "no class"


# ------------------------------------------------------------------------------------------------ the bias


def expected_biases(counts, rank: int, tau: float, pi: float | None = None) -> dict[str, dict[str, float]]:
    """The figure's numbers of the class of this rank, from livt's biases and the losses' own probabilities."""
    prior = class_priors(counts)
    y = rank - 1
    if pi is None:
        log_prior, log_odds = balanced_ce_bias(counts), balanced_bce_bias(counts)
    else:  # the others keep their proportions
        prior = np.where(np.arange(len(prior)) == y, pi, prior * (1 - pi) / (1 - prior[y]))
        log_prior, log_odds = balanced_ce_bias(prior), balanced_bce_bias(prior)
    zero = torch.zeros(len(prior), dtype=torch.float64)
    rows = {}
    for loss, bias in {"ce": zero, "bal_ce": tau * log_prior, "bce": zero, "bal_bce": tau * log_odds}.items():
        p = torch.sigmoid(bias)[y] if loss.endswith("bce") else torch.softmax(bias, dim=0)[y]
        others = torch.cat((bias[:y], bias[y + 1 :])).logsumexp(dim=0).item()
        rows[loss] = {
            "bias": bias[y].item(),
            "bias-head": bias[0].item(),
            "margin": (bias[0] - bias[y]).item(),
            "zero": p.item(),
            "even": -bias[y].item() if loss.endswith("bce") else others - bias[y].item(),
        }
    return rows


def check_biases(root: Locator, counts, rank: int, tau: float, pi: float | None = None) -> None:
    for loss, row in expected_biases(counts, rank, tau, pi).items():
        for name, value in row.items():
            found = number(root, f"{name}-{loss}")
            assert found == pytest.approx(value, rel=EXACT, abs=EXACT), (loss, name, rank, tau, pi)


@pytest.mark.parametrize("title", COUNTS)
def test_a_class_of_real_counts_has_the_biases_of_livt(open_page, title):
    root = figure(open_page(), "bias-explorer")
    control(root, "dataset").select_option(title)
    counts = COUNTS[title]
    classes = len(counts)
    assert number(root, "rank") == classes, "starts with the tail"
    check_biases(root, counts, classes, 1.0)
    press(root, "rank", "Home")
    check_biases(root, counts, 1, 1.0)
    press(root, "rank", "ArrowRight", "ArrowRight")
    assert number(root, "rank") == 3
    assert number(root, "pi") == pytest.approx(class_priors(counts)[2])
    check_biases(root, counts, 3, 1.0)
    press(root, "tau", "ArrowLeft", "ArrowLeft")
    assert text(root, "tau") == "0.90"
    check_biases(root, counts, 3, 0.9)
    press(root, "tau", "Home")
    check_biases(root, counts, 3, 0.0)


def test_the_prior_can_be_set_by_hand(open_page):
    root = figure(open_page(), "bias-explorer")
    counts = COUNTS["ImageNet-LT"]
    drag(root, "pi", 0.7)
    pi = number(root, "pi")
    assert math.log10(pi) == pytest.approx(-6 + 0.7 * 5.95, abs=0.1)
    check_biases(root, counts, 1000, 1.0, pi)
    assert "π set by hand" in text(root, "rank")
    drag(root, "tau", 0.25)
    tau = number(root, "tau")
    assert tau == pytest.approx(0.5, abs=0.051)
    check_biases(root, counts, 1000, tau, pi)
    press(root, "pi", "End")
    assert number(root, "margin-bal_bce") < 0, "a class larger than the head"
    check_biases(root, counts, 1000, tau, number(root, "pi"))
    drag(root, "rank", 0.5)
    rank = int(number(root, "rank"))
    assert 400 < rank < 600
    check_biases(root, counts, rank, tau)


@pytest.mark.parametrize("rank", [1, 2, 1000])
def test_the_curve_of_the_head_crosses_one_half_where_livt_has_it(open_page, rank):
    """Drawn, and told in the label: the head beside all other classes at score 0."""
    root = figure(open_page(), "bias-explorer")
    set_slider(root, "rank", rank)
    set_slider(root, "tau", 0.75)
    for plot, loss in enumerate(("bal_bce", "bal_ce")):
        even = expected_biases(COUNTS["ImageNet-LT"], 1, 0.75)[loss]["even"]
        label = root.locator("svg.livt-plot").nth(plot).get_attribute("aria-label")
        assert f"at {even:.2f} for the head." in label.replace("−", "-")


def test_the_text_gives_the_rounded_numbers(open_page):
    root = figure(open_page(), "bias-explorer")
    row = expected_biases(COUNTS["ImageNet-LT"], 1000, 1.0)["bal_bce"]
    assert text(root, "bias-bal_bce") == f"{row['bias']:.2f}".replace("-", "−") == "−10.05"
    assert text(root, "pi") == "4.32 × 10⁻⁵"
    summary = text(root, "summary")
    assert f"by {row['margin']:.2f} nats under Bal-BCE" in summary
    assert root.locator("output").first.get_attribute("aria-live") == "polite"
    label = root.locator("svg.livt-plot").nth(2).get_attribute("aria-label")
    assert f"Bal-BCE {row['margin']:.2f} nats" in label


# ----------------------------------------------------------------------------------------------- profile


def check_profile(root: Locator, counts) -> None:
    prior, ce, bce = class_priors(counts), balanced_ce_bias(counts), balanced_bce_bias(counts)
    second = (bce - ce).numpy()
    for row, c in (("head", 0), ("tail", -1)):
        assert number(root, f"images-{row}") == counts[c]
        assert number(root, f"pi-{row}") == pytest.approx(prior[c], rel=EXACT)
        assert number(root, f"bias-ce-{row}") == pytest.approx(ce[c].item(), abs=EXACT)
        assert number(root, f"bias-bce-{row}") == pytest.approx(bce[c].item(), abs=EXACT)
        assert number(root, f"second-{row}") == pytest.approx(second[c], abs=EXACT)
    assert number(root, "margin-ce") == pytest.approx((ce[0] - ce[-1]).item(), abs=EXACT)
    assert number(root, "margin-bce") == pytest.approx((bce[0] - bce[-1]).item(), abs=EXACT)
    assert number(root, "matters") == (second - second[-1] > 0.1).sum()
    assert number(root, "realised") == counts[0] / counts[-1]


def test_dragging_the_imbalance_factor_gives_the_profile_of_livt(open_page):
    root = figure(open_page(), "profile-explorer")
    assert number(root, "imbalance-factor") == 100
    check_profile(root, exponential_counts(5000, 100, 10))
    seen = set()
    for act in (
        lambda: press(root, "imbalance-factor", "Home"),
        lambda: press(root, "imbalance-factor", "ArrowRight", "ArrowRight"),
        lambda: drag(root, "imbalance-factor", 0.6),
        lambda: drag(root, "imbalance-factor", 0.93),
        lambda: press(root, "imbalance-factor", "End"),
    ):
        for title, (largest, classes) in PROFILES.items():
            control(root, "profile").select_option(title)
            act()
            factor = number(root, "imbalance-factor")
            seen.add(factor)
            check_profile(root, exponential_counts(largest, factor, classes))
    assert {1, 1.2, 500} <= seen
    assert len(seen) >= 5


def test_a_tail_of_whole_images_gives_the_factor_that_is_there(open_page):
    """500 asked of 1,000 classes of at most 1,280: int(1280 / 500) is 2 images, and 1280 / 2 is 640."""
    root = figure(open_page(), "profile-explorer")
    control(root, "profile").select_option("thousand")
    set_slider(root, "imbalance-factor", control(root, "imbalance-factor").get_attribute("max"))
    assert number(root, "imbalance-factor") == 500
    assert number(root, "realised") == 640
    assert "Imbalance factor 640 (of the 500 asked for, as images are whole), 1,000 classes" in text(root, "summary")
    assert number(root, "margin-ce") == pytest.approx(math.log(640))


def test_a_second_term_that_all_classes_have_alike_does_not_matter(open_page):
    root = figure(open_page(), "profile-explorer")
    press(root, "imbalance-factor", "Home")
    assert number(root, "second-head") == pytest.approx(-math.log(0.9))
    assert number(root, "matters") == 0
    assert "10 classes: all have the same second term, so it moves no decision." in text(root, "summary")
    set_slider(root, "imbalance-factor", 90)
    assert "It matters for the largest" in text(root, "summary")


def test_real_counts_stand_still(open_page):
    root = figure(open_page(), "profile-explorer")
    for title, counts in COUNTS.items():
        control(root, "profile").select_option(title)
        assert control(root, "imbalance-factor").is_disabled()
        assert number(root, "imbalance-factor") == pytest.approx(counts[0] / counts[-1])
        check_profile(root, counts)


def test_bars_stand_as_high_as_their_counts(open_page):
    """The drawing too, not only the table: a bar of ten times the images is one decade higher."""
    root = figure(open_page(), "profile-explorer")
    plot = root.locator("svg.livt-plot").first
    heights = plot.locator("rect.livt-bar").evaluate_all(
        "bars => bars.map((bar) => Number(bar.getAttribute('height')))"
    )
    counts = exponential_counts(5000, 100, 10)
    assert len(heights) == 10
    decades = np.log10(counts / 0.9)
    assert np.array(heights) / heights[0] == pytest.approx(decades / decades[0], rel=1e-6)


# --------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(("confidence", "tau"), [(0, 1), (1.5, 1), (8, 1), (2.25, 0.5), (1, 0), (0.25, 2)])
def test_forces_are_minus_the_gradients_of_livt(open_page, html_figures, confidence, tau):
    root = figure(open_page(), "gradient-flow")
    set_slider(root, "confidence", confidence)
    set_slider(root, "tau", tau)
    data = json.loads(re.search(r"<script[^>]*>(.*?)</script>", html_figures["gradient-flow"]).group(1))
    labels = torch.repeat_interleave(torch.arange(len(BATCH)), torch.tensor(BATCH))
    own = torch.eye(len(BATCH), dtype=torch.float64)[labels]
    losses = {
        "ce": CrossEntropy(),
        "bal_ce": BalancedCrossEntropy(BATCH, tau),
        "bce": BinaryCrossEntropy(),
        "bal_bce": BalancedBinaryCrossEntropy(BATCH, tau),
    }
    for name, loss in losses.items():
        z = (confidence * (own + torch.tensor(data["noise"], dtype=torch.float64))).requires_grad_()
        (gradient,) = torch.autograd.grad(loss(z, labels), z)
        for c in range(len(BATCH)):
            parts = {
                "pull": -gradient[labels == c, c].sum().item(),
                "push": -gradient[labels != c, c].sum().item(),
                "net": -gradient[:, c].sum().item(),
            }
            for part, value in parts.items():
                assert number(root, f"class{c}-{part}-{name}") == pytest.approx(value, abs=EXACT), (name, c, part)


def test_gradient_sliders_follow_keys_and_mouse(open_page):
    root = figure(open_page(), "gradient-flow")
    assert text(root, "confidence") == "0, a fresh classifier"
    press(root, "confidence", "ArrowRight")
    assert number(root, "confidence") == 0.25
    before = number(root, "class0-net-ce")
    drag(root, "confidence", 0.5)
    assert number(root, "confidence") == pytest.approx(4, abs=0.26)
    assert number(root, "class0-net-ce") != before
    assert "Bal-BCE" in text(root, "summary")


# ------------------------------------------------------------------------------------------------ counts


def check_line(root: Locator, counts) -> None:
    """Priors and biases of livt; decisions of the minimisers: log-odds of the posterior, with and without the bias."""
    prior, bias = class_priors(counts), balanced_bce_bias(counts).numpy()
    centres = 2 * np.arange(len(counts))
    x = -4 + 0.05 * np.arange(round((centres[-1] + 8) / 0.05)) + 0.0125
    density = np.exp(-0.5 * (x[:, None] - centres) ** 2)
    density /= density.sum(axis=0)
    posterior = prior * density / (density @ prior)[:, None]
    rest = np.stack([np.delete(posterior, c, axis=1).sum(axis=1) for c in range(len(counts))], axis=1)
    odds = np.log(posterior) - np.log(rest)
    scores = {"bce": odds, "bal_bce": odds - bias, "bal_ce": np.log(posterior) - balanced_ce_bias(counts).numpy()}
    root.locator("details").evaluate("e => (e.open = true)")
    for c in range(len(counts)):
        assert number(root, f"count{c + 1}") == counts[c]
        assert number(root, f"class{c + 1}-pi") == pytest.approx(prior[c], rel=EXACT)
        assert number(root, f"class{c + 1}-bias") == pytest.approx(bias[c], abs=EXACT)
        for rule, score in scores.items():
            share = 100 * density[score.argmax(axis=1) == c, c].sum()
            assert number(root, f"class{c + 1}-{rule}") == pytest.approx(share, abs=1e-6), (c, rule)


def test_dragging_a_count_moves_prior_bias_and_decision_as_livt_has_them(open_page):
    root = figure(open_page(), "count-explorer")
    check_line(root, np.array(LINE))
    assert text(root, "summary").startswith("Class 4: 6 of 386 images")
    drag(root, "count4", 0.75)
    moved = number(root, "count4")
    assert math.log10(moved) == pytest.approx(3, abs=0.1)
    check_line(root, np.array([*LINE[:3], moved]))
    press(root, "count1", "Home")
    check_line(root, np.array([1, *LINE[1:3], moved]))
    assert text(root, "summary").startswith("Class 1: 1 of")
    best = number(root, "class1-bal_ce")
    assert number(root, "class1-bce") < number(root, "class1-bal_bce") < best
    press(root, "count1", "End")
    assert text(root, "count1") == "10,000"
    assert number(root, "class1-bal_ce") == best, "the best decision does not depend on the counts"
    check_line(root, np.array([10_000, *LINE[1:3], moved]))


# --------------------------------------------------------------------------------------------------- MAE


def test_the_stepper_measures_what_it_removes(open_page):
    root = figure(open_page(), "mae-stepper")
    patch_of = np.arange(32).reshape(4, 8).repeat(PATCH, axis=0).repeat(PATCH, axis=1)
    assert number(root, "visible") == 8

    def check() -> int:
        visible = int(number(root, "visible"))
        removed = ~np.isin(patch_of, ORDER[:visible])
        error = (((PREDICTED[visible] - DIGITS) / 255)[removed] ** 2).mean()
        assert number(root, "mse") == pytest.approx(error, rel=1e-3)
        assert number(root, "mask-ratio") == 1 - visible / 32
        assert number(root, "removed") == 32 - visible
        fills = root.locator("svg.livt-pixels").evaluate_all(
            "all => all.map((svg) => [...svg.querySelectorAll('rect')].map((pixel) => pixel.getAttribute('fill')))"
        )
        shown = [None if fill is None else int(re.match(r"rgb\((\d+),", fill)[1]) for fill in fills[1]]
        assert [value is None for value in shown] == removed.ravel().tolist()
        rebuilt = [int(re.match(r"rgb\((\d+),", fill)[1]) for fill in fills[2]]
        want = np.where(removed, PREDICTED[visible].clip(0, 255), DIGITS)
        assert np.abs(np.array(rebuilt) - want.ravel()).max() <= 0.51
        return visible

    visited = {check()}
    press(root, "removed", "ArrowRight")
    visited.add(check())
    press(root, "removed", "Home")
    visited.add(check())
    press(root, "removed", "End")
    visited.add(check())
    drag(root, "removed", 0.5)
    visited.add(check())
    assert {8, 7, 31, 1} < visited
    assert "of 32" in control(root, "removed").get_attribute("aria-valuetext")


# ------------------------------------------------------------------------------------------------- proof


def visible_lines(root: Locator) -> list[bool]:
    return [line.is_visible() for line in root.locator(".livt-line").all()]


def test_the_proof_unfolds_by_keyboard(open_page):
    page = open_page()
    root = figure(page, "proof")
    assert visible_lines(root) == [True, False, False]
    control(root, "next").focus()
    page.keyboard.press("Enter")
    assert visible_lines(root) == [True, True, False]
    assert text(root, "progress") == "Line 2 of 3: Order"
    page.keyboard.press("Space")
    page.keyboard.press("Space")  # past the end
    assert visible_lines(root) == [True, True, True]
    assert page.evaluate("document.activeElement.dataset.control") == "next", "the focus was lost"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert visible_lines(root) == [True, False, False]
    control(root, "all").click()
    assert visible_lines(root) == [True, True, True]
    assert "✗ not verified" in root.locator(".livt-line").nth(1).inner_text()


def test_all_lines_are_printed(open_page):
    page = open_page()
    page.emulate_media(media="print")
    assert visible_lines(figure(page, "proof")) == [True, True, True]


# ---------------------------------------------------------------------------------------------- the page


def test_without_scripts_the_static_figures_stand(open_page):
    page = open_page(java_script_enabled=False)
    images = page.locator(".livt-fallback img")
    assert images.count() == 7
    for image in images.all():
        assert image.is_visible()
        assert image.bounding_box()["width"] > 300
    assert visible_lines(figure(page, "proof")) == [True, True, True]


def test_with_scripts_the_live_figures_take_their_place(open_page):
    page = open_page()
    assert not any(image.is_visible() for image in page.locator(".livt-fallback img").all())
    assert page.locator(".livt-live").count() == 8
    charts = page.locator("svg.livt-plot, svg.livt-pixels")
    assert charts.count() == 20
    for chart in charts.all():
        assert chart.is_visible()
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label")) > 5


def test_every_control_has_a_label_and_the_keyboard_reaches_it(open_page):
    page = open_page()
    controls = page.locator("input, select")
    assert controls.count() == 16 + len(LINE)
    for element in controls.all():
        assert element.evaluate("e => e.labels.length === 1 && e.labels[0].textContent.length > 3")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.control ?? null"))
    assert {
        "dataset",
        "rank",
        "pi",
        "tau",
        "profile",
        "confidence",
        "count1",
        "removed",
        "next",
        "all",
        "again",
    } <= reached
    assert {"data", "group", "start", "removal", "mass"} <= reached


def test_no_number_is_missing(open_page):
    page = open_page()
    bad = page.locator("data").evaluate_all(
        "all => all.filter((e) => e.textContent === '' || !Number.isFinite(Number(e.value)))"
        ".map((e) => `${e.dataset.name}: ${e.value}`)"
    )
    assert not bad


def test_figures_fit_a_phone(open_page):
    page = open_page(viewport={"width": PHONE_WIDTH, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE_WIDTH
    for chart in page.locator("svg.livt-plot").all():
        box = chart.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE_WIDTH
        drawn = float(chart.get_attribute("viewBox").split()[2])
        assert box["width"] / drawn > 0.95, "text shrunk with the drawing"


@pytest.mark.parametrize("width", [1000, PHONE_WIDTH])
def test_nothing_below_a_control_moves(open_page, width):
    """A figure keeps its height at every place of its sliders: the page does not jump under the reader's hand."""
    page = open_page(viewport={"width": width, "height": 900})
    jumps = page.evaluate(
        """() => {
          const jumps = [];
          for (const root of document.querySelectorAll(".livt-live")) {
            const chosen = [...root.querySelectorAll("select")].at(0);
            for (const option of chosen ? [...chosen.options] : [null]) {
              if (option) { chosen.value = option.value; chosen.dispatchEvent(new Event("input")); }
              const height = root.offsetHeight;
              for (const slider of root.querySelectorAll("input")) {
                const [low, high, before] = [Number(slider.min), Number(slider.max), slider.value];
                for (let i = 0; i <= 6; i++) {
                  slider.value = low + ((high - low) * i) / 6;
                  slider.dispatchEvent(new Event("input"));
                  if (root.offsetHeight !== height)
                    jumps.push([root.dataset.kind, option?.value, slider.dataset.control, root.offsetHeight - height,
                      root.querySelector(".livt-summary").textContent]);
                }
                slider.value = before;
                slider.dispatchEvent(new Event("input"));
              }
            }
          }
          return jumps;
        }"""
    )
    assert not jumps, jumps[:4]


def test_charts_follow_the_width_of_the_page(open_page):
    page = open_page()
    plots = '[data-kind="profile-explorer"] svg.livt-plot'
    before = page.locator(plots).nth(2).get_attribute("viewBox")
    page.set_viewport_size({"width": 500, "height": 900})
    redrawn = "([plots, old]) => document.querySelectorAll(plots)[2].getAttribute('viewBox') !== old"
    page.wait_for_function(redrawn, arg=[plots, before])
    assert float(page.locator(plots).nth(2).get_attribute("viewBox").split()[2]) < 500


def luminance(colour: str) -> float:
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


# Text and ground of pydata-sphinx-theme, light and dark.
THEMES = {"light": ("#222832", "#ffffff", "#f3f4f5"), "dark": ("#ced6dd", "#14181e", "#29313d")}


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_lines_stand_out_in_both_themes(open_page, theme):
    page = open_page()
    base, ground, surface = THEMES[theme]
    page.evaluate(
        """([theme, base, ground, surface]) => {
          document.documentElement.dataset.theme = theme;
          const style = document.documentElement.style;
          style.setProperty("--pst-color-text-base", base);
          style.setProperty("--pst-color-background", ground);
          style.setProperty("--pst-color-surface", surface);
        }""",
        [theme, base, ground, surface],
    )

    def contrast(selector: str, paint: str, behind: str) -> float:
        colour = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{paint}")
        under = page.locator(behind).first.evaluate("e => getComputedStyle(e).backgroundColor")
        light, dark = sorted((luminance(colour), luminance(under)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for selector, paint in (
        (".livt-summary", "color"),
        ("svg.livt-plot text", "fill"),
        (".livt-table td", "color"),
        (".livt-legend", "color"),
        (".livt-halo", "fill"),
    ):
        assert contrast(selector, paint, ".livt-interactive") >= 4.5, selector
    assert contrast(".livt-interactive select", "color", ".livt-interactive select") >= 4.5
    for selector in (".livt-casing", ".livt-bar", ".livt-axis"):
        assert contrast(selector, "stroke", ".livt-interactive") >= 3, selector
