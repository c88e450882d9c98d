"""Variance components: against a likelihood and known truths, and the section of the page."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from livt.companion import variance
from livt.companion.variance import components, design, nested_runs, section
from livt.config import with_overrides
from livt.lab.experiments import arms, recipes
from livt.lab.runs import RunStore
from livt.lab.stages import run_id, train
from livt.lab.suites import SUITES


def restricted_likelihood(x):
    """Return the variances of draw, pretraining and fine-tuning that maximise the likelihood of the contrasts of x."""
    d, p, f = x.shape
    n = x.size
    of_draw = np.kron(np.eye(d), np.ones((p * f, p * f)))
    of_cell = np.kron(np.eye(d * p), np.ones((f, f)))
    contrasts = np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1].T  # rows orthogonal to the mean
    seen = contrasts @ x.ravel()

    def loss(logs):
        a, b, c = np.exp(logs)
        covariance = contrasts @ (a * of_draw + b * of_cell + c * np.eye(n)) @ contrasts.T
        return -multivariate_normal(cov=covariance).logpdf(seen)

    return np.exp(
        minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9999}).x
    )


def drawn(generator, deviations, shape):
    a, b, c = deviations
    d, p, f = shape
    return (
        a * generator.normal(size=(d, 1, 1))
        + b * generator.normal(size=(d, p, 1))
        + c * generator.normal(size=(d, p, f))
    )


def test_they_maximise_the_restricted_likelihood():
    """In a balanced design both estimates agree where none is negative (Searle, Casella and McCulloch, 1992)."""
    x = drawn(np.random.default_rng(3), (3.0, 1.5, 0.7), (4, 3, 3))
    c = components(x)
    assert min(c.draw, c.pretraining) > 0
    assert restricted_likelihood(x) == pytest.approx([c.draw, c.pretraining, c.fine_tuning], rel=1e-3)


def test_their_mean_is_the_truth():
    generator, truth = np.random.default_rng(0), (2.0, 1.0, 0.5)
    found = [components(drawn(generator, truth, (8, 4, 3))) for _ in range(400)]
    means = [np.mean([getattr(c, name) for c in found]) for name in ("draw", "pretraining", "fine_tuning")]
    assert means == pytest.approx([4.0, 1.0, 0.25], rel=0.1)


def test_a_test_of_no_effect_keeps_its_level():
    generator = np.random.default_rng(1)
    found = [components(drawn(generator, (0.0, 0.0, 1.0), (4, 3, 3))) for _ in range(1000)]
    for name in ("p_draw", "p_pretraining"):
        assert np.mean([getattr(c, name) < 0.05 for c in found]) == pytest.approx(0.05, abs=0.025), name
    assert all(c.draw >= 0 and c.pretraining >= 0 for c in found)


def test_what_has_no_such_design_is_refused():
    for shape in ((4, 3), (1, 3, 3), (4, 1, 3), (4, 3, 1)):
        with pytest.raises(ValueError, match="at least two of each"):
            components(np.zeros(shape))


# ---------------------------------------------------------------- the experiment


def test_a_pretraining_of_its_own_seed_is_shared():
    """Fine-tunings of other seeds start from the run that a recipe of the pretraining's seed has."""
    recipe = SUITES["smoke"].sweep
    mixed = with_overrides(recipe, {"pretrain.seed": 2})
    assert mixed.stage("pretrain") == with_overrides(recipe, {"seed": 2}).stage("pretrain") != recipe.stage("pretrain")
    assert mixed.stage("finetune") != with_overrides(recipe, {"seed": 2}).stage("finetune")
    assert with_overrides(recipe, {"pretrain.seed": None}) == recipe
    with pytest.raises(ValueError, match="pretrain.seed must not be negative"):
        with_overrides(recipe, {"pretrain.seed": -1})


def test_only_what_the_seed_belongs_to_changes_with_it(tmp_path):
    store = RunStore(tmp_path)
    recipe = SUITES["smoke"].sweep
    plain = with_overrides(recipe, {"seed": 2})
    mixed = with_overrides(recipe, {"pretrain.seed": 2})
    other = with_overrides(mixed, {"seed": 1})
    for stage in ("pretrain", "finetune"):
        for one in (plain, mixed, other):
            train(stage, one, store, progress=False)
    assert run_id("pretrain", plain, store) == run_id("pretrain", mixed, store) == run_id("pretrain", other, store)
    records = [store.load(run_id("finetune", one, store)) for one in (plain, mixed, other)]
    assert len({record.result["pretrain_run"] for record in records}) == 1
    assert len({record.id for record in records}) == 3
    assert len({record.metrics[0]["train_loss"] for record in records}) == 3, "each fine-tuning has its own order"


def test_the_arms_are_a_nested_design():
    found = arms("variance", "digits")
    assert len(found) == 4 * 3 * 2
    assert {(r.data.draw, r.pretrain.seed, r.finetune.loss) for r in found.values()} == {
        (draw, 3 * draw + i, loss) for draw in (1, 2, 3, 4) for i in range(3) for loss in ("ce", "bal_bce")
    }
    assert arms("variance", "paper") == {}, "its images are used whole: there is one draw"
    assert len({run_stage for r in recipes("variance", "digits") for run_stage in [str(r.stage("pretrain"))]}) == 12


# ---------------------------------------------------------------- the section


def frame_of(x):
    """Return rows as from ``results`` for accuracies of both losses, x [2, D, P, F]; no two MGPs have one seed."""
    rows = [
        {
            "arm": f"draw {d + 1}, MGP {x.shape[2] * (d + 1) + p}/{loss}",
            "seed": f,
            "run": f"r{i}{d}{p}{f}",
            "part": "",
            "accuracy": x[i, d, p, f],
        }
        for i, loss in enumerate(("ce", "bal_bce"))
        for d, p, f in np.ndindex(*x.shape[1:])
    ]
    return pd.DataFrame(rows)


def test_runs_are_told_by_draw_pretraining_and_fine_tuning():
    x = np.random.default_rng(0).normal(50, 5, size=(2, 4, 3, 3))
    measured = frame_of(x)
    assert set(measured.arm) == set(arms("variance", "digits"))
    frame = nested_runs(measured.sample(frac=1, random_state=0))
    assert (design(frame, {"ce": 1}) == x[0]).all()
    assert design(frame, {"bal_bce": 1, "ce": -1}) == pytest.approx(x[1] - x[0])
    assert variance.complete(frame)
    assert not variance.complete(frame.iloc[1:])
    with pytest.raises(ValueError, match="lacks a run"):
        design(frame[frame.index != frame.index[4]], {"ce": 1})


class FakePanel:
    """A suite's panel with given numbers."""

    name = "digits"
    title = "digit pairs, 3 seeds"
    suite = SUITES["digits"]

    def __init__(self, measured):
        self.measured = measured


def test_the_section_says_what_a_new_draw_adds():
    generator = np.random.default_rng(5)
    spread = np.stack([drawn(generator, (9.0, 0.3, 0.3), (4, 3, 3)) + level for level in (50, 60)])
    shown = section([FakePanel(frame_of(spread))])
    assert "a new draw adds to that" in shown
    assert "p &lt; 0.001" in shown
    even = np.stack([drawn(generator, (0.0, 1.0, 1.0), (4, 3, 3)) + level for level in (50, 60)])
    assert "adds nothing that can be told" in section([FakePanel(frame_of(even))])
    assert section([FakePanel(frame_of(even).iloc[2:])]) == variance.NOT_RUN == section([])


def test_the_promoted_runs_are_shown(panel_of):
    panel = panel_of("variance")
    assert design(nested_runs(panel.measured), {"ce": 1}).shape == (4, 3, 3)
    assert "of 4 draws of the training images, 3 pretrainings on each and 3 fine-tunings of each" in section([panel])
