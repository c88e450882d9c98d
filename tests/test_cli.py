import json
import os
import resource
import subprocess
import sys

import pandas as pd
import pytest
import timm
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from livt import __main__ as cli
from livt.data.sets import load_dataset
from livt.lab.experiments import EXPERIMENTS
from livt.lab.promoted import read_promoted
from livt.lab.results import COLUMNS
from livt.lab.runs import OpenRun, RunStore
from livt.lab.stored import stored_logits
from livt.lab.suites import SUITES


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    assert cli.main(["finetune", "smoke", "--runs", str(root), "--quiet", "--device", "cpu"]) == 0
    return RunStore(root)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    try:
        status = cli.main(arguments)
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def test_help_answers_within_a_second():
    """Of its own time: what else the machine does is not counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, "-m", "livt", "--help"], capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1
    for command in ("pretrain", "finetune", "evaluate", "reproduce", "runs"):
        assert command in out


@pytest.mark.parametrize(
    "arguments",
    [["pretrain"], ["finetune"], ["evaluate"], ["reproduce"], ["runs"], ["runs", "list"], ["runs", "show"],
     ["runs", "compare"], ["runs", "model"], ["runs", "verify"], ["runs", "promote"], ["runs", "export"],
     ["runs", "import"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_has_help(capsys, arguments):
    status, out, _ = run(capsys, *arguments, "--help")
    assert status == 0
    assert out.startswith("usage: python -m livt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["pretrain", "vgg"], "invalid choice: 'vgg'"),
        (["pretrain", "smoke", "--set", "pretrain.mask_ratio=1.5"], "pretrain.mask_ratio=1.5: mask_ratio must lie in"),
        (["pretrain", "smoke", "--set", "pretrain.warmup_epochs=3"], "must be shorter than training (2 epochs)"),
        (["pretrain", "smoke", "--set", "pretrain=null"], "this recipe has no stage 'pretrain'"),
        (["finetune", "smoke", "--set", "model.patch_size=3"], "image size 8 x 8 is not a multiple of model.patch"),
        (["finetune", "smoke", "--set", "finetune.lr=1"], "finetune.lr: unknown key 'lr'"),
        (["finetune", "smoke", "--set", "finetune.epochs=ten"], "epochs must be int, not 'ten'"),
        (["finetune", "smoke", "--set", "finetune.epochs"], "expected SECTION.FIELD=VALUE"),
        (["finetune", "smoke", "--device", "tpu9"], "device 'tpu9' cannot be used"),
        (["finetune", "smoke", "--device", "meta"], "device 'meta' cannot be used"),
        (["reproduce", "loss_ablation", "--csv", "/nowhere/x.csv"], "--csv /nowhere/x.csv: cannot write a file there"),
        (["reproduce", "table9"], "invalid choice: 'table9'"),
        (["reproduce", "loss_ablation", "--suite", "huge"], "invalid choice: 'huge'"),
        (["reproduce", "loss_ablation", "--suite", "cpu"], "invalid choice: 'cpu'"),
        (["reproduce", "loss_ablation", "--profile", "cpu"], "--profile is now --suite: give --suite digits"),
        (["reproduce", "loss_ablation", "--profile", "gpu"], "--profile is now --suite: give --suite gpu"),
        (["pretrain", "smoke", "--set", "finetune.loss=nosuch"], "finetune.loss 'nosuch' is not one of ce, bal_ce,"),
        (["finetune", "smoke", "--set", "finetune.loss=nosuch"], "finetune.loss 'nosuch' is not one of ce, bal_ce,"),
        (["finetune", "smoke", "--set", "finetune.loss=bce", "--set", "finetune.tau=2"], "tau = 2 has no effect on"),
        (["reproduce", "loss_ablation", "--seeds", "a,b"], "--seeds a,b: expected whole numbers"),
        (["reproduce", "loss_ablation", "--seeds", "1,1"], "a seed appears twice"),
        (["reproduce", "loss_ablation", "--seeds", "-1"], "seed must not be negative"),
        (["reproduce", "loss_ablation", "--jobs", "0"], "--jobs must be at least 1"),
        (["evaluate", "nothing"], "no single run 'nothing'"),
        (["runs", "show", "nothing"], "no single run 'nothing'"),
        (["runs", "promote", "nothing"], "no single run 'nothing'"),
        (["runs", "compare", "nothing", "other"], "no single run 'nothing'"),
        (["runs", "export", "nothing", "--to", "x.tar"], "no single run 'nothing'"),
        (["runs", "export", "--to", "/nowhere/x.tar"], "--to /nowhere/x.tar: cannot write a file there"),
        (["runs", "export", "--to", "x.tar"], "there is no finished run in"),
        (["runs", "import", "/nowhere/x.tar"], "/nowhere/x.tar cannot be read (No such file or directory)"),
        (["runs", "import", __file__], "test_cli.py is not an archive of runs"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_status_2_before_any_work(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("LIVT_RUNS", str(tmp_path / "runs"))
    status, out, err = run(capsys, *arguments)
    assert status == 2
    assert message in err
    assert err.startswith("livt: error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "runs").exists()


def test_missing_data_is_one_line_too(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    status, _, err = run(capsys, "pretrain", "tiny_imagenet_lt", "--device", "cpu", "--runs", str(tmp_path / "runs"))
    assert status == 2
    assert "tiny_imagenet holds neither train.parquet" in err
    assert err.count("\n") == 1


def test_a_defect_is_not_dressed_up_as_a_mistake(monkeypatch):
    monkeypatch.setattr(cli, "_run", lambda options: {}["missing"])
    with pytest.raises(KeyError):
        cli.main(["runs", "list"])


def test_training_reports_both_stages_and_evaluation_agrees(capsys, store):
    pre, fine = sorted(store.ids(), reverse=True)
    status, out, _ = run(capsys, "finetune", "smoke", "--runs", str(store.root), "--quiet", "--device", "cpu")
    assert status == 0
    assert out.startswith(f"{pre}: training loss ")
    assert f"{fine}: accuracy " in out
    status, evaluated, _ = run(capsys, "evaluate", fine[:14], "--runs", str(store.root), "--device", "cpu")
    assert status == 0
    scores = out.split(f"{fine}: ")[1].strip()
    assert evaluated.strip() == f"{fine} on the test split: {scores}"
    status, _, err = run(capsys, "evaluate", pre, "--runs", str(store.root))
    assert status == 2
    assert "is a pretraining run: it has no classifier" in err


def test_runs_are_listed_shown_verified_and_promoted(capsys, store, tmp_path):
    root = str(store.root)
    fine, pre = store.ids()
    listing = run(capsys, "runs", "list", "--runs", root)[1].splitlines()
    assert [line.split()[0] for line in listing] == [fine, pre]
    assert "digits, pico, seed 0, bal_bce: accuracy" in listing[0]
    shown = json.loads(run(capsys, "runs", "show", fine, "--runs", root)[1])
    assert shown["id"] == fine
    assert shown["result"]["pretrain_run"] == pre
    status, out, _ = run(capsys, "runs", "verify", "--runs", root)
    assert (status, out) == (0, f"{fine}: sound\n{pre}: sound\n")
    status, out, _ = run(capsys, "runs", "promote", fine, pre, "--runs", root, "--to", str(tmp_path))
    assert status == 0
    assert sorted(p.stem for p in tmp_path.iterdir()) == [fine, pre]


def test_verify_names_the_damaged_file_and_fails(capsys, store, tmp_path):
    import shutil

    copy = tmp_path / "runs"
    shutil.copytree(store.root, copy)
    fine, pre = store.ids()
    (copy / fine / "metrics.jsonl").write_text("{}\n")
    (copy / pre / "result.json").unlink()
    status, out, _ = run(capsys, "runs", "verify", "--runs", str(copy))
    assert status == 1
    assert f"{copy / fine / 'metrics.jsonl'} does not match its checksum" in out
    assert "result.json is missing: the run is not finished" in out
    listing = run(capsys, "runs", "list", "--runs", str(copy))[1]
    assert "metrics.jsonl does not match" in listing
    assert f"{pre}  unfinished, 2 epochs" in listing


def test_changed_data_is_refused_in_evaluation(capsys, store, monkeypatch):
    monkeypatch.setattr("livt.data.digits.TEST_SCANS", 30)
    from livt.data.sets import load_dataset

    load_dataset.cache_clear()
    fine = store.ids()[0]
    status, _, err = run(capsys, "evaluate", fine, "--runs", str(store.root), "--device", "cpu")
    load_dataset.cache_clear()
    assert status == 2
    assert "the data digits has changed since" in err


def test_reproduce_prints_and_writes_one_tidy_table(capsys, tmp_path):
    target = tmp_path / "table.csv"
    arguments = ["reproduce", "loss_ablation", "--suite", "smoke", "--seeds", "0", "--jobs", "1", "--device", "cpu"]
    status, out, _ = run(capsys, *arguments, "--quiet", "--runs", str(tmp_path / "runs"), "--csv", str(target))
    assert status == 0
    table = pd.read_csv(target)
    assert table.columns.tolist() == COLUMNS
    assert table.loss.tolist() == ["ce", "bal_ce", "bce", "bal_bce"]
    assert all(run_id in out for run_id in table.run)


def test_a_reader_that_stops_early_is_no_error(store):
    """``livt runs list | head -1``: the pipe closes before all is written."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "livt", "runs", "list", "--runs", str(store.root)]
    process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert "Traceback" not in process.stderr


def test_a_model_loads_in_plain_timm_with_one_call(store, capsys, tmp_path):
    run_id = store.find("finetune")
    status, out, _ = run(capsys, "runs", "model", run_id, "--to", str(tmp_path / "model"), "--runs", str(store.root))
    assert status == 0
    assert out == f'{run_id}: timm.create_model("local-dir:{tmp_path / "model"}", pretrained=True)\n'
    model = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    logits, labels = stored_logits(store.load(run_id), store)
    data = load_dataset(store.load(run_id).recipe.data)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"] == (3, 8, 8)
    assert (tuple(config["mean"]), tuple(config["std"])) == (data.mean, data.std)
    assert (config["interpolation"], config["crop_pct"]) == ("bicubic", 1.0), "images in memory are evaluated whole"
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        found = model((data.evaluation.images / 255 - mean) / std)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, data.evaluation.labels)
    status, _, err = run(capsys, "runs", "model", "pretrain", "--to", str(tmp_path), "--runs", str(store.root))
    assert (status, err) == (2, f"livt: error: {store.find('pretrain')} is a pretraining run: it has no classifier\n")


def test_tensorboard_gets_every_epoch_also_after_an_interruption(tmp_path, capsys, monkeypatch):
    board, runs = tmp_path / "board", tmp_path / "runs"
    command = ["finetune", "smoke", "--device", "cpu", "--quiet", "--runs", str(runs), "--tensorboard", str(board)]
    save = OpenRun.save

    def interrupted(self, *rest, **named):
        save(self, *rest, **named)
        if self.config["stage"] == "finetune":
            raise KeyboardInterrupt

    monkeypatch.setattr(OpenRun, "save", interrupted)
    assert run(capsys, *command)[0] == 130
    monkeypatch.undo()
    assert run(capsys, *command)[0] == 0
    store = RunStore(runs)
    for run_id in store.ids():
        events = EventAccumulator(str(board / run_id)).Reload()
        for row in store.load(run_id).metrics:
            for name in ("train_loss", "lr"):
                found = {event.step: event.value for event in events.Scalars(name)}
                assert found[row["epoch"]] == pytest.approx(row[name])
    assert "probe/knn_accuracy" in EventAccumulator(str(board / store.find("pretrain"))).Reload().Tags()["scalars"]


def test_tensorboard_without_its_package_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    status, _, err = run(capsys, "finetune", "smoke", "--runs", str(tmp_path / "runs"), "--tensorboard", str(tmp_path))
    message = "writing for TensorBoard needs its package: pip install 'livt[tensorboard]'"
    assert (status, err) == (2, f"livt: error: {message}\n")
    assert not (tmp_path / "runs").exists()


def test_a_time_limit_that_is_over_at_once_ends_a_sweep_and_says_so(tmp_path, capsys):
    options = ["--suite", "smoke", "--jobs", "2", "--device", "cpu", "--minutes", "0.001", "--quiet"]
    status, out, err = run(capsys, "reproduce", "loss_ablation", *options, "--runs", str(tmp_path / "runs"))
    over = "livt: the 0.001 minutes are over; the same command goes on from the last saved epochs\n"
    assert (status, out, err) == (0, "no finished run\n", over)


@pytest.mark.slow
def test_a_time_limit_ends_a_sweep_and_keeps_what_is_finished(tmp_path):
    """Two experiments in order; the limit comes in the midst, the table and the archive have what is there."""
    runs, archive = tmp_path / "runs", tmp_path / "runs.tar"
    command = [sys.executable, "-m", "livt", "reproduce", "loss_ablation", "anatomy", "--suite", "smoke", "--seeds"]
    command += ["0,1,2,3,4,5", "--jobs", "1", "--quiet", "--device", "cpu", "--runs", str(runs)]
    command += ["--export", str(archive)]
    for attempt in range(20):  # a little longer each time, until a run is finished, however fast the machine is
        minutes = f"{0.06 * 1.4**attempt:.3f}".rstrip("0")
        over = f"livt: the {minutes} minutes are over; the same command goes on from the last saved epochs\n"
        out = subprocess.run([*command, "--minutes", minutes], capture_output=True, text=True)
        assert (out.returncode, out.stderr) == (0, over)
        assert out.stdout.startswith("no finished run\n") != archive.exists()
        if archive.exists():
            break
    out = subprocess.run(command, capture_output=True, text=True)
    assert (out.returncode, out.stderr) == (0, "")
    store = RunStore(runs)
    rows = [line for line in out.stdout.splitlines() if line.split()[0] in ("loss_ablation", "anatomy")]
    assert len(rows) == 6 * (4 + len(EXPERIMENTS["anatomy"](SUITES["smoke"])))
    assert all(store.is_finished(run_id) for run_id in store.ids())
    imported = RunStore(tmp_path / "imported")
    command = ["runs", "import", str(archive), "--runs", str(imported.root), "--promote", str(tmp_path / "results")]
    assert cli.main(command) == 0
    assert imported.ids() == sorted(read_promoted(tmp_path / "results")) == store.ids()


def test_a_time_limit_is_for_this_machine(capsys):
    arguments = ["reproduce", "loss_ablation", "--minutes", "5", "--executor", "slurm"]
    message = "--minutes is for --executor local: give jobs their limit by --slurm time=MINUTES"
    assert run(capsys, *arguments) == (2, "", f"livt: error: {message}\n")
    assert (
        run(capsys, "reproduce", "loss_ablation", "--minutes", "0")[2]
        == "livt: error: --minutes must be positive, not 0\n"
    )
