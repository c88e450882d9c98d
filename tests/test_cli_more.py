"""The command line beyond training: lists of runs, figures, completion, and numbers that nobody can mean."""

import json
import shutil
import subprocess
import sys

import pytest

from livt import __main__ as cli
from livt.cli.completion import script
from livt.cli.parser import SHELLS, build_parser
from livt.lab.listing import chosen, in_order, row_of, with_columns
from livt.lab.recipes import RECIPES
from livt.lab.runs import RunStore


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        status = cli.main(arguments)
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


# ---------------------------------------------------------------- lists of runs


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One pretraining and two fine-tunings, one of them unfinished."""
    root = tmp_path_factory.mktemp("runs")
    for change in ("finetune.loss=bce", "seed=1"):
        options = ["--runs", str(root), "--quiet", "--device", "cpu", "--set", change]
        assert cli.main(["finetune", "smoke", *options]) == 0
    store = RunStore(root)
    ended = [run_id for run_id in store.ids() if row_of(store, run_id)["config"]["seed"] == 1 and "fine" in run_id]
    (root / ended[0] / "result.json").unlink()
    return store


def listed(capsys, store, *options) -> list:
    status, out, err = run(capsys, "runs", "list", "--runs", str(store.root), "--json", *options)
    assert (status, err) == (0, "")
    return json.loads(out)


def test_runs_are_chosen_sorted_and_shown_by_columns(capsys, store):
    assert [row["id"] for row in listed(capsys, store)] == store.ids()
    fine = [run_id for run_id in store.ids() if run_id.startswith("finetune")]
    assert [row["id"] for row in listed(capsys, store, "--stage", "finetune")] == fine
    bce = listed(capsys, store, "--where", "finetune.loss=bce")
    assert [row["config"]["finetune"]["loss"] for row in bce] == ["bce"]
    assert [row["state"] for row in listed(capsys, store, "--where", "state!=finished")] == ["unfinished"]
    seeds = listed(capsys, store, "--sort", "seed", "--descending", "--columns", "seed,id")
    assert [row["seed"] for row in seeds] == [1, 1, 0, 0]
    assert len(listed(capsys, store, "--suite", "smoke")) == 4
    assert listed(capsys, store, "--suite", "digits") == []
    assert len(listed(capsys, store, "--where", "epochs>1", "--where", "epochs<3")) == 4
    options = ["--stage", "finetune", "--columns", "finetune.loss,accuracy,state"]
    status, out, _ = run(capsys, "runs", "list", "--runs", str(store.root), *options)
    lines = [line.split() for line in out.splitlines()]
    assert (status, lines[0]) == (0, ["finetune.loss", "accuracy", "state"])
    assert sorted(line[::2] for line in lines[1:]) == [["bal_bce", "unfinished"], ["bce", "finished"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "finetune.los=bce"], "--where finetune.los: no run has this column; known are "),
        (["--where", "accuracy"], "--where accuracy: expected COLUMN=VALUE, or !=, < or > for ="),
        (["--sort", "speed"], "--sort speed: no run has this column"),
        (["--columns", "id,speed"], "--columns speed: no run has this column"),
    ],
)
def test_a_column_that_no_run_has_is_named(capsys, store, options, message):
    status, out, err = run(capsys, "runs", "list", "--runs", str(store.root), *options)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_rows_with_holes_come_last_and_text_is_compared_as_text():
    rows = [{"id": "a", "config": {"v": 2}}, {"id": "b", "config": {}}, {"id": "c", "config": {"v": "x"}}, {"id": "1"}]
    assert [row["id"] for row in in_order(rows, "v", False)] == ["a", "c", "b", "1"]
    assert [row["id"] for row in in_order(rows, "v", True)] == ["c", "a", "b", "1"]
    assert [row["id"] for row in chosen(rows, ["id=1"])] == ["1"]
    assert [row["id"] for row in chosen(rows, ["v<9"])] == ["a"]
    assert with_columns(rows[1:2], ["id"]) == [{"id": "b"}]


# ---------------------------------------------------------------- a figure


def test_a_table_becomes_a_figure(capsys, tmp_path):
    options = ["--suite", "smoke", "--seeds", "0", "--jobs", "1", "--device", "cpu", "--quiet"]
    for name, start in (("f.svg", b"<?xml"), ("f.png", b"\x89PNG"), ("f.pdf", b"%PDF")):
        command = ["reproduce", "loss_ablation", *options, "--runs", str(tmp_path / "runs"), "--figure"]
        assert run(capsys, *command, str(tmp_path / name))[0] == 0
        first = (tmp_path / name).read_bytes()
        assert first.startswith(start)
        run(capsys, *command, str(tmp_path / name))
        assert (tmp_path / name).read_bytes() == first
    svg = (tmp_path / "f.svg").read_text()
    for text in ("few classes", "4 runs, 1 seeds"):
        assert text in svg or text.split()[0] in svg


def test_a_figure_is_refused_before_training(capsys, tmp_path, monkeypatch):
    status, _, err = run(capsys, "reproduce", "loss_ablation", "--figure", str(tmp_path / "f.gif"))
    assert (status, err) == (2, f"livt: error: --figure {tmp_path}/f.gif: the name must end in .svg, .png, .pdf\n")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for name in [name for name in sys.modules if name.startswith("livt.companion.plots")]:
        monkeypatch.delitem(sys.modules, name)
    status, _, err = run(capsys, "reproduce", "loss_ablation", "--figure", str(tmp_path / "f.svg"))
    assert status == 2
    assert "--figure needs matplotlib" in err
    assert "pip install 'livt[notebooks]' brings" in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------- completion


def completed(line: str) -> set[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    code = (
        f"{script('bash', build_parser())}\nCOMP_WORDS=({' '.join(repr(w) for w in words)})\n"
        f"COMP_CWORD={len(words) - 1}\n_livt\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    return set(subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout.split())


def test_bash_completes_commands_options_and_values():
    assert completed("livt fi") == {"finetune"}
    assert {"cifar10_lt_100", "cifar10_lt_10"} <= completed("livt finetune cifar10_lt_1")
    assert completed("livt finetune smoke --dev") == {"--device"}
    assert completed("livt finetune smoke --dry") == {"--dry-run"}
    assert completed("livt runs prom") == {"promote"}
    assert completed("livt runs list --stage f") == {"finetune"}
    assert completed("livt reproduce loss_ablation --suite di") == {"digits"}
    assert completed("livt completion z") == {"zsh"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_can_read_its_script(capsys, shell):
    status, out, _ = run(capsys, "completion", shell)
    assert status == 0
    for word in ("finetune", "cifar10_lt_100", "promote", "loss_ablation"):
        assert word in out
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=out, text=True, check=True)


# ---------------------------------------------------------------- numbers that nobody can mean

SEED = "99999999999999999999999"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune", "cifar10_lt_100", "--set", "data.image_size=1000000000"], "image_size must be at most 4,096"),
        (["pretrain", "smoke", "--set", "pretrain.decoder_depth=99999999"], "decoder_depth must be at most 256"),
        (["finetune", "smoke", "--set", f"finetune.epochs={SEED}"], "epochs must be at most 1,000,000"),
        (["finetune", "smoke", "--set", f"finetune.epochs={'9' * 5000}"], "epochs must be int, not '999"),
        (["finetune", "smoke", "--set", f"seed={SEED}"], "seed must be at most 9,223,372,036,854,775,807"),
        (["finetune", "smoke", "--set", "finetune.batch_size=1e9"], "batch_size must be int"),
        (["finetune", "smoke", "--set", "finetune.batch_size=9999999999"], "batch_size must be at most 1,000,000"),
        (["finetune", "smoke", "--set", "finetune.tau=NaN"], "tau must be finite"),
        (["finetune", "smoke", "--set", "pretrain.probes=999999999999"], "probes must be at most 100,000"),
        (["finetune", "cifar10_lt_100", "--set", "data.image_size=4096"], "has more than 65,536 patches of 4: raise"),
        (["reproduce", "loss_ablation", "--seeds", SEED], "seed must be at most"),
        (["reproduce", "loss_ablation", "--seeds", "9" * 5000], "expected whole numbers such as 0,1,2"),
        (["reproduce", "loss_ablation", "--minutes", "inf"], "--minutes must be at most 527,040, not inf"),
        (["reproduce", "loss_ablation", "--minutes", "nan"], "--minutes must be positive, not nan"),
        (["reproduce", "loss_ablation", "--minutes", "-1"], "--minutes must be positive, not -1"),
        (["reproduce", "loss_ablation", "--jobs", "999999999999"], "--jobs must be at most 4,096"),
        (["reproduce", "loss_ablation", "--csv", "/proc/x.csv"], "--csv /proc/x.csv: cannot write a file there"),
        (["reproduce", "loss_ablation", "--export", "/proc/x.tar"], "--export /proc/x.tar: cannot write a file there"),
        (["finetune", "smoke", "--workers", "99999"], "--workers must be at most 1,024"),
        (["finetune", "smoke", "--workers", "-1"], "--workers must be at least 0"),
        (["evaluate", "x", "--checkpoint", "y", "--heads", "0"], "--heads must be at least 1"),
        (["evaluate", "x", "--checkpoint", "y", "--image-size", "999999"], "--image-size must be at most 4,096"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_an_absurd_number_is_refused_at_once_with_a_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path / "runs"))
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 400
    assert not (tmp_path / "runs").exists()


def test_limits_leave_room_for_every_recipe_and_model():
    from livt.config import LIMITS
    from livt.models import MAX_BLOCKS

    assert LIMITS["decoder_depth"] == MAX_BLOCKS
    for make in RECIPES.values():
        recipe = make()
        assert all(getattr(recipe, s).epochs * 100 < LIMITS["epochs"] for s in recipe.up_to(recipe.last_stage))


# ---------------------------------------------------------------- while it trains


def test_the_bar_shows_speed_time_and_last_scores(tmp_path, capsys):
    assert cli.main(["finetune", "smoke", "--runs", str(tmp_path), "--device", "cpu"]) == 0
    err = capsys.readouterr().err
    assert "512/512" in err.replace(".00", "")
    assert "image/s" in err
    assert "epoch 2/2, loss " in err
    assert ", accuracy " in err


def test_the_bar_of_a_sweep_shows_the_run_that_was_last_heard_of(tmp_path, capsys):
    options = ["--suite", "smoke", "--seeds", "0", "--jobs", "2", "--device", "cpu", "--runs", str(tmp_path)]
    assert cli.main(["reproduce", "loss_ablation", *options]) == 0
    err = capsys.readouterr().err
    assert "5 of 5 runs: 100%" in err
    assert "image/s" in err
    assert "epoch 2/2" in err


def test_damaged_metrics_do_not_stop_the_bar(tmp_path):
    store = RunStore(tmp_path)
    (tmp_path / "finetune-000000000000").mkdir()
    (tmp_path / "finetune-000000000000" / "metrics.jsonl").write_text("[1]\n")
    assert store.last_row("finetune-000000000000") == []
    assert store.last_row("finetune-000000000001") == []
    assert store.latest(["finetune-000000000001"]) == ""
    assert store.latest(["finetune-000000000001", "finetune-000000000000"]) == "finetune-000000000000"
