"""book/check.py: a displayed number must be what the records of its runs say."""

import importlib.util
import json
import math
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output

from livt.companion.report import number
from livt.lab.failures import RunError
from livt.lab.results import COLUMNS
from livt.lab.runs import Record

SPEC = importlib.util.spec_from_file_location("check", Path(__file__).parents[1] / "book" / "check.py")
check = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(check)

ACCURACY = {"a": [60.0, 61.5, 63.0], "b": [50.0, 50.5, 51.0]}
FEW = [10.0, None, 20.0]
LOSS = {"a": "bal_bce", "b": "bce"}
TITLE = {"a": "Bal-BCE", "b": "BCE"}


class Store:
    """Six runs, ``a0`` to ``b2``: the digit is the seed."""

    def __init__(self):
        self.records = {
            f"{name}{seed}": Record(
                id=f"{name}{seed}",
                stage="finetune",
                config={"seed": seed, "finetune": {"loss": LOSS[name]}},
                metrics=[],
                result={
                    "accuracy": accuracy,
                    "posthoc": {"few": FEW[seed]},
                    "per_class": [accuracy, None],
                    "group": {"none": None},
                },
                environment={"code": "one"},
            )
            for name, accuracies in ACCURACY.items()
            for seed, accuracy in enumerate(accuracies)
        }

    def load(self, run_id):
        if run_id not in self.records:
            raise RunError(f"there is no run {run_id}")
        return self.records[run_id]

    def is_finished(self, run_id):
        return run_id in self.records


def runs(name, seeds=(0, 1, 2)):
    return [f"{name}{seed}" for seed in seeds]


A = [[1, "accuracy", runs("a")]]
A_MINUS_B = [[1, "accuracy", runs("a")], [-1, "accuracy", runs("b")]]


def checked(tmp_path, text, terms, kind="text/html", **attributes):
    """Check a notebook with one displayed number; return the count and the problems.

    Attributes that are not given are those that the terms' own runs have, as far as they are in the store.
    """
    attributes = (parts(terms) if not isinstance(terms, str) else {}) | attributes
    terms = terms if isinstance(terms, str) else json.dumps(terms)
    given = "".join(f" data-{name}='{value}'" for name, value in attributes.items())
    page = f"<table><tr><td>1.0</td><td data-terms='{terms}'{given}>{text}</td></tr></table>"
    outputs = [new_output("display_data", {kind: page, "text/plain": "-"})]
    path = tmp_path / "page.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("show()", outputs=outputs)]), path)
    return check.check_notebooks([path], check.reader(Store(), {}))


def parts(terms):
    none = dict.fromkeys("ab", [None] * 3)
    values = {"accuracy": ACCURACY, "posthoc.few": {"a": FEW, "b": FEW}, "per_class.1": none}
    return {
        "seeds": json.dumps([int(run[1:]) for run in terms[0][2]]),
        "arms": json.dumps([TITLE[run[0][0]] if run else "a" for _, _, run in terms]),
        "values": json.dumps(
            [[values.get(metric, ACCURACY)[run[0]][int(run[1:]) % 3] for run in ids] for _, metric, ids in terms]
        ),
    }


@pytest.mark.parametrize(
    ("text", "terms", "attributes"),
    [
        ("61.5", A, {"show": "mean"}),
        ("61.50", A, {"show": "mean", "digits": 2}),
        ("+61.5", A, {"show": "mean", "signed": ""}),
        ("61.5 ± 1.5", A, {"show": "spread"}),
        ("61.5\u00a0±\u00a01.5", A, {"show": "spread"}),
        ("<b>61.5</b> ± 1.5", A, {"show": "spread"}),
        ("60.0", [[1, "accuracy", ["a0"]]], {"show": "spread"}),
        ("11.0 ± 1.0", A_MINUS_B, {"show": "spread"}),
        ("-11.0 ± 1.0", [[-w, m, r] for w, m, r in A_MINUS_B], {"show": "spread", "signed": ""}),
        ("15.0 ± 7.1", [[1, "posthoc.few", runs("a")]], {"show": "spread"}),
        ("-", [[1, "posthoc.few", ["a1"]]], {"show": "mean"}),
        ("-", [[1, "accuracy", ["a1"]]], {"show": "interval"}),
        ("-", [[1, "accuracy", []]], {"show": "mean"}),
    ],
)
def test_right_numbers_pass(text, terms, attributes, tmp_path):
    assert checked(tmp_path, text, terms, **attributes) == (1, [])
    assert checked(tmp_path, text, terms, kind="text/markdown", **attributes) == (1, [])


SHOWN = "11.0 ± 1.0"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"seeds": "[1, 2, 3]"}, r"names the seeds \[1, 2, 3\], the records have \[0, 1, 2\]"),
        ({"seeds": "[0, 1]"}, "names the seeds"),
        ({"values": "[[60, 61.5, 63], [50, 50.5, 51.01]]"}, "gives b2 the value 51.01, its record has 51.0000"),
        ({"values": "[[60, 61.5, 63], [50, 50.5, null]]"}, "gives b2 the value nan, its record has 51.0000"),
        ({"values": "[[60, 61.5, 63], [50, 50.5]]"}, r"has 2 arms and \[3, 2\] values"),
        ({"arms": '["Bal-BCE"]'}, "has 1 arms"),
        ({"arms": '["Bal-BCE", "pico/15/CE, zero start"]'}, "calls b0 'pico/15/CE, zero start', its loss is bce"),
        ({"arms": '["BCE", "BCE"]'}, "calls a0 'BCE', its loss is bal_bce"),
        ({"arms": "Bal-BCE"}, "cannot be checked: data-seeds, data-arms or data-values is missing or no list"),
        ({"values": "[1, 2]"}, "cannot be checked: data-seeds"),
    ],
)
def test_what_a_click_shows_is_compared_too(attributes, message, tmp_path):
    assert checked(tmp_path, SHOWN, A_MINUS_B, show="spread") == (1, [])
    near = {"values": "[[60.004, 61.5, 63], [50, 50.496, 51]]", "arms": '["small/Bal-BCE, from the start", "b"]'}
    assert checked(tmp_path, SHOWN, A_MINUS_B, show="spread", **near) == (1, [])
    count, problems = checked(tmp_path, SHOWN, A_MINUS_B, show="spread", **attributes)
    assert count == 1
    assert any(re.search(message, problem) for problem in problems), problems


def test_a_seed_without_a_value_is_null(tmp_path):
    terms = [[1, "posthoc.few", runs("a")]]
    assert checked(tmp_path, "15.0 ± 7.1", terms, show="spread", values="[[10, null, 20]]") == (1, [])
    _, problems = checked(tmp_path, "15.0 ± 7.1", terms, show="spread", values="[[10, 0, 20]]")
    assert "gives a1 the value 0.0, its record has nan" in problems[0]


def test_the_attributes_that_the_package_writes_pass():
    """The number as ``livt.companion.report`` writes it, seeds, arms and values with it."""
    rows = [
        dict.fromkeys(COLUMNS, "") | {"arm": LOSS[name], "seed": seed, "accuracy": value, "run": f"{name}{seed}"}
        for name, own in ACCURACY.items()
        for seed, value in enumerate(own)
    ]
    html = number(pd.DataFrame(rows), {"bal_bce": 1, "bce": -1}, "accuracy", signed=True)
    assert check.check_html(html, Store().load) == (1, [])
    element = BeautifulSoup(html, "html.parser").span
    assert json.loads(element["data-arms"]) == ["Bal-BCE", "BCE"]
    assert json.loads(element["data-seeds"]) == [0, 1, 2]
    assert json.loads(element["data-values"]) == [ACCURACY["a"], ACCURACY["b"]]


def test_a_list_of_runs_may_have_several_codes_and_a_table_that_compares_them_may_not():
    store = Store()
    store.records["b0"].environment["code"] = "two"
    rows = [
        dict.fromkeys(COLUMNS, "") | {"arm": LOSS[run[0]], "seed": 0, "accuracy": accuracy, "run": run}
        for run, accuracy in (("a0", 60.0), ("b0", 50.0))
    ]
    cells = [f"<td>{number(pd.DataFrame(rows), loss, 'accuracy', show='mean')}</td>" for loss in LOSS.values()]
    for kind, problems in (("livt-measured", 1), ("livt-all-runs livt-sortable", 0)):
        found = check.check_html(f'<table class="{kind}"><tr>{"".join(cells)}</tr></table>', store.load)[1]
        assert len(found) == problems
        assert all("different training code stand in one table" in problem for problem in found)


def test_the_interval_is_that_of_student(tmp_path):
    """4.303 is t(0.975, 2 degrees of freedom) of the printed tables; the sample deviation here is 1.0."""
    half = 4.303 / math.sqrt(3)
    text = f"+{11 - half:.1f} to +{11 + half:.1f}"
    assert checked(tmp_path, text, A_MINUS_B, show="interval", signed="") == (1, [])


def test_a_tie_may_be_rounded_either_way_and_no_further(tmp_path):
    """The mean of 0.25 and 0.25 is a tie at one decimal: sums in another order may fall on either side."""
    assert check.rounded(0.25, "", "1") == ["0.2", "0.3"]
    assert check.rounded(0.2500001, "", "1") == ["0.3"]


@pytest.mark.parametrize(
    ("text", "terms", "attributes", "message"),
    [
        ("61.6", A, {"show": "mean"}, "shows '61.6', the records say '61.5'; runs: a0, a1, a2"),
        ("61.5 ± 1.4", A, {"show": "spread"}, "the records say '61.5 ± 1.5'"),
        ("61.5", A, {"show": "spread"}, "the records say '61.5 ± 1.5'"),
        ("61.5", A, {"show": "mean", "signed": ""}, r"the records say '\+61.5'"),
        ("\u221211.0", [[-w, m, r] for w, m, r in A_MINUS_B], {"show": "mean"}, "the records say '-11.0'"),
        ("-", A, {"show": "mean"}, "the records say '61.5'"),
        ("15.0", [[1, "posthoc.few", ["a1"]]], {"show": "mean"}, "the records say '-'"),
        ("62.2", [[1, "accuracy", ["a0", "a9"]]], {"show": "mean"}, "cannot be checked: there is no run a9"),
        ("61.5", [[1, "recall", runs("a")]], {"show": "mean"}, "a0 has no metric 'recall'"),
        ("61.6", [[1, "per_class.0", runs("a")]], {"show": "mean"}, "the records say '61.5'"),
        ("15.0", [[1, "per_class.1", ["a1"]]], {"show": "mean"}, "the records say '-'"),
        ("61.5", [[1, "per_class.2", runs("a")]], {"show": "mean"}, "a0 has no metric 'per_class.2'"),
        ("61.5", [[1, "per_class.-1", runs("a")]], {"show": "mean"}, "a0 has no metric 'per_class.-1'"),
        ("61.5", [[1, "posthoc", runs("a")]], {"show": "mean"}, "'posthoc' of a0 is not a number"),
        ("61.5", [[1, "posthoc.few.x", runs("a")]], {"show": "mean"}, "has no metric 'posthoc.few.x'"),
        ("11.0", [A[0], [-1, "accuracy", runs("b", (0, 1))]], {"show": "mean"}, "the terms have 3 and 2 runs"),
        (
            "11.0",
            [A[0], [-1, "accuracy", runs("b", (0, 2, 1))]],
            {"show": "mean"},
            "number 2 of the runs is of another",
        ),
        ("60.0 ± 0.0", [[1, "accuracy", ["a0", "a0"]]], {"show": "spread"}, "a term names a run twice"),
        ("61.5", A, {}, "data-show is None"),
        ("61.5", A, {"show": "median"}, "data-show is 'median'"),
        ("61.5", A, {"show": "mean", "digits": "one"}, "data-digits is 'one'"),
        ("61.5", '[[1, "accuracy", ["a0"]', {"show": "mean"}, "data-terms is not a list"),
        ("61.5", "[]", {"show": "mean"}, "data-terms is not a list"),
        ("61.5", '{"accuracy": 1}', {"show": "mean"}, "data-terms is not a list"),
        ("61.5", '[[1, "accuracy", [0, 1]]]', {"show": "mean"}, "data-terms is not a list"),
    ],
)
def test_wrong_numbers_are_reported(text, terms, attributes, message, tmp_path):
    count, problems = checked(tmp_path, text, terms, **attributes)
    assert count == 1
    assert len(problems) == 1
    assert problems[0].startswith("page.ipynb: ")
    assert re.search(message, problems[0]), problems[0]


def test_what_names_no_runs_is_not_counted(tmp_path):
    path = tmp_path / "page.ipynb"
    outputs = [new_output("stream", text="61.6"), new_output("display_data", {"text/html": "<b>61.6</b>"})]
    nbformat.write(new_notebook(cells=[new_code_cell("show()", outputs=outputs)]), path)
    assert check.check_notebooks([path], check.reader(Store(), {})) == (0, [])


def test_a_run_of_another_machine_is_read_from_its_promoted_record():
    elsewhere = Record(**{**Store().records["a0"].to_dict(), "id": "c0", "result": {"accuracy": 9.0}})
    load = check.reader(Store(), {"c0": elsewhere, "a0": elsewhere})
    assert load("c0").result["accuracy"] == 9.0
    assert load("a0").result["accuracy"] == 60.0, "the store comes first"
    with pytest.raises(RunError):
        load("d0")


def test_promoted_records_are_compared_not_enforced():
    promoted = Store().records
    changed = Record(**{**promoted["a0"].to_dict(), "result": {**promoted["a0"].result, "accuracy": 60.25}})
    elsewhere = Record(**{**promoted["a0"].to_dict(), "id": "c0"})
    line = check.compare_promoted({**promoted, "a0": changed, "c0": elsewhere}, Store())
    assert line.startswith("5 of 6 runs")
    assert line.endswith("at most 0.25 points")
    assert check.compare_promoted({}, Store()).startswith("0 of 0 runs")


def test_the_numbers_are_those_of_numpy():
    values = check.values_of([(1.0, "accuracy", runs("a")), (-2.0, "accuracy", runs("b"))], Store().load)
    np.testing.assert_allclose(values, np.array(ACCURACY["a"]) - 2 * np.array(ACCURACY["b"]))
