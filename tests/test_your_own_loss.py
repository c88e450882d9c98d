"""The chapter "Try your own loss", end to end: its file, its two lines and its command in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from house import PACKAGE

CHAPTER = (PACKAGE.parent / "book" / "your_own_loss.md").read_text(encoding="utf-8")


def fenced(language):
    """Return the text of each fenced block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", CHAPTER, re.DOTALL | re.MULTILINE)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package with the chapter's file, and its changes made by hand where the context says."""
    shutil.copytree(PACKAGE, tmp_path / "livt", ignore=shutil.ignore_patterns("__pycache__"))
    (name,) = re.findall(r"Save this as `([^`]+)`", CHAPTER)
    (tmp_path / name).write_text(fenced("python")[0], encoding="utf-8")
    for part in fenced("diff")[0].split("--- a/")[1:]:
        target, *lines = part.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if line[0] == " ")
        new = "".join(f"{line[1:]}\n" for line in lines)
        text = (tmp_path / target).read_text(encoding="utf-8")
        assert text.count(old) == 1, target
        (tmp_path / target).write_text(text.replace(old, new), encoding="utf-8")
    return tmp_path


def livt(checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"PYTHONPATH": str(checkout), "LIVT_RUNS": str(checkout / "runs")}
    variables["LIVT_RESULTS"] = str(checkout / "results")
    command = [sys.executable, "-m", "livt", *arguments]
    return subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True)


def test_a_file_two_lines_and_a_command_give_a_row(checkout):
    """On the smoke suite with one seed; the chapter's own command takes the suite that is the default."""
    (command,) = re.findall(r"^python -m livt (reproduce rivals .*)$", CHAPTER, re.MULTILINE)
    done = livt(checkout, *command.split(), "--suite", "smoke", "--seeds", "0", "--jobs", "1", "--quiet")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows[1:]] == [["mgp/poly_bal_ce", "poly_bal_ce"]]
    assert len(list((checkout / "runs").glob("finetune-*"))) == 1, "nothing else was trained"


def test_an_arm_that_is_not_there_is_refused(checkout):
    done = livt(checkout, "reproduce", "rivals", "--suite", "smoke", "--arm", "mgp/poly")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--arm 'mgp/poly' is no arm of rivals: mgp/ce; " in done.stderr


def test_the_file_is_as_short_as_the_chapter_says():
    lines = [line for line in fenced("python")[0].splitlines() if line.strip()]
    assert len(lines) <= 20
