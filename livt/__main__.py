"""The command line: ``python -m livt``. A user's mistake is one line on stderr and exit status 2."""

import argparse
import errno
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from livt import __version__
from livt.lab.experiments import EXPERIMENTS
from livt.lab.recipes import RECIPES
from livt.lab.suites import RENAMED, SUITES

# Heavy modules (torch, timm, pandas) are imported by the command that needs them: --help answers at once.


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"livt: error: {message} (see {self.prog} --help)\n")


class _Renamed(argparse.Action):
    """An option that has another name now: using it is an error that says which."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        name = RENAMED.get(self.dest, self.dest)
        parser.error(f"--{self.dest} is now --{name}: give --{name} {RENAMED.get(values, values)}")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m livt", description="Train Vision Transformers on long-tailed data, as LiVT does.")
    parser.add_argument("--version", action="version", version=f"livt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    common = _Parser(add_help=False)
    common.add_argument("--runs", default="", metavar="DIR", help="the run store (default: $LIVT_RUNS, else runs)")
    training = _Parser(add_help=False)
    training.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    training.add_argument("--quiet", action="store_true", help="no progress bars")
    training.add_argument(
        "--workers", type=int, help="processes that load images from files (default: one per core, 16 at most)"
    )
    training.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    training.add_argument(
        "--checkpointing", action="store_true", help="compute activations again for the gradient: less memory, slower"
    )
    training.add_argument("--tensorboard", default="", metavar="DIR", help="also log each epoch for TensorBoard there")

    for stage, text in (("pretrain", "MGP: train a masked autoencoder"), ("finetune", "BFT: train a classifier")):
        sub = commands.add_parser(stage, help=text, description=text, parents=[common, training])
        names = f"a named recipe: {', '.join(RECIPES)}"
        sub.add_argument("recipe", choices=RECIPES, metavar="RECIPE", help=names)
        sub.add_argument(
            "--data",
            metavar="FOLDER",
            help="images of your own, as with recipe own (data_prep/README.md); short for --set data.name=FOLDER",
        )
        sub.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="SECTION.FIELD=VALUE",
            help="change a value of the recipe, for example finetune.loss=bce, seed=1 or pretrain=null",
        )

    sub = commands.add_parser(
        "evaluate", help="metrics of a fine-tuned run", description="Evaluate a run's weights anew.", parents=[common]
    )
    sub.add_argument("run", help="a run's id or digest, or its beginning")
    sub.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")

    sub = commands.add_parser(
        "reproduce",
        help="train what an experiment lacks, print its table",
        description="Train what an experiment lacks, then print one row per run.",
        parents=[common, training],
    )
    sub.add_argument("experiment", nargs="+", choices=EXPERIMENTS, help="in the order to train them")
    sub.add_argument("--suite", choices=SUITES, default="digits", help="the data to train on (default: digits)")
    sub.add_argument("--profile", action=_Renamed, help=argparse.SUPPRESS)
    sub.add_argument("--seeds", default=None, help="comma-separated, such as 0,1,2 (default: those of the suite)")
    sub.add_argument("--jobs", type=int, default=None, help="runs side by side (default: one per GPU or CPU core)")
    sub.add_argument(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="local: train on this machine (default); slurm: submit a job for each run and wait for them",
    )
    sub.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of each job: partition=gpu, gpus_per_node=1, cpus_per_task=8, time=240 (minutes), account=..., setup=... "
        "or another of submitit's parameters; repeat it for more",
    )
    sub.add_argument("--minutes", type=float, help="stop after this time; saved epochs and finished runs are kept")
    sub.add_argument("--csv", default=None, metavar="FILE", help="also write the table as CSV")
    sub.add_argument("--export", default=None, metavar="FILE.tar", help="also write the finished runs as one archive")

    runs = commands.add_parser("runs", help="list, show, compare, verify, promote, export, import runs; their models")
    actions = runs.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=_Parser)
    actions.add_parser("list", help="one line per run", parents=[common])
    sub = actions.add_parser("show", help="a run as JSON", parents=[common])
    sub.add_argument("run", help="a run's id or digest, or its beginning")
    sub = actions.add_parser("compare", help="what differs between two runs", parents=[common])
    sub.add_argument("run", help="a run's id or digest, or its beginning")
    sub.add_argument("other", help="the run to compare it with")
    sub = actions.add_parser("verify", help="check every file of runs", parents=[common])
    sub.add_argument("run", nargs="*", help="runs (default: all)")
    sub.add_argument(
        "--retrain",
        action="store_true",
        help="also train each again, and say whether the result is equal to the bit; a run or a promoted record keeps "
        "the proof",
    )
    sub.add_argument("--device", default="auto", help="where to train again: auto (default), cpu, cuda, cuda:N or mps")
    sub = actions.add_parser("promote", help="write runs as records for the book", parents=[common])
    sub.add_argument("run", nargs="+", help="runs to promote")
    sub.add_argument("--to", default="book/results", metavar="DIR", help="where (default: book/results)")
    sub = actions.add_parser("export", help="write runs as one archive", parents=[common])
    sub.add_argument("run", nargs="*", help="finished runs (default: all); their pretraining runs come with them")
    sub.add_argument("--to", required=True, metavar="FILE.tar", help="the archive to write")
    sub = actions.add_parser("model", help="write a run's model for timm", parents=[common])
    sub.add_argument("run", help="a fine-tuned run's id or digest, or its beginning")
    sub.add_argument("--to", required=True, metavar="DIR", help="the folder to write")
    sub = actions.add_parser("import", help="bring in the runs of an archive, verified", parents=[common])
    sub.add_argument("archive", metavar="FILE.tar", help="what export has written")
    sub.add_argument(
        "--promote",
        metavar="DIR",
        nargs="?",
        const="book/results",
        help="also write records of the runs for the book (into book/results, if no DIR is given)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt as stop:
        hint = str(stop) or "the same command goes on from the last saved epoch"
        with suppress(OSError):  # of a terminal that was closed
            print("\nlivt: interrupted" + (f"; {hint}" if options.command != "runs" else ""), file=sys.stderr)
        return getattr(stop, "status", 130)
    except BrokenPipeError:
        return 141
    except Exception as error:
        if not _is_known(error):
            raise
        print(f"livt: error: {' '.join(_message(error).split())}", file=sys.stderr)
        return 2


def _is_known(error: Exception) -> bool:
    """Tell a user's mistake, or a state of the machine that the message explains, from a defect of this program."""
    from livt.lab.failures import RunError, is_out_of_memory
    from livt.optim import NonFiniteLossError

    return isinstance(error, ValueError | RunError | NonFiniteLossError | OSError) or is_out_of_memory(error)


def _message(error: Exception) -> str:
    """Return what to tell the user of a known error."""
    from livt.lab.failures import RunError, is_out_of_memory

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        kept = "saved epochs and finished runs are kept, and with more room the same command goes on from them"
        return f"{error.filename}: {error.strerror}; {kept}"
    if is_out_of_memory(error) and not isinstance(error, RunError):
        return "out of memory: close other programs, or take another --device; nothing finished is lost"
    return str(error)


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "pretrain" | "finetune":
            return _train(options)
        case "evaluate":
            return _evaluate(options)
        case "reproduce":
            return _reproduce(options)
        case _:
            return _runs(options)


def _train(options: argparse.Namespace) -> int:
    from livt.config import with_overrides

    overrides = {"data.name": options.data} if options.data else {}
    for item in options.set:
        path, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"--set {item}: expected SECTION.FIELD=VALUE")
        overrides[path] = value
    recipe = with_overrides(RECIPES[options.recipe](), overrides)
    engine = _engine(options)

    import torch

    from livt.distributed import is_leader, process_group
    from livt.lab.find import tell_of_other_code
    from livt.lab.plan import usable_device
    from livt.lab.runs import RunStore
    from livt.lab.stages import train

    def train_all(stage: str) -> None:
        """Train a stage after those that it starts from."""
        for need in recipe.needs(stage):
            train_all(need)
        record = train(stage, recipe, store, device=str(device), progress=not options.quiet, engine=engine)
        if is_leader():
            print(f"{record.id}: {_outcome(record.result)}")

    store = RunStore(options.runs, options.tensorboard)
    with process_group(torch.device(usable_device(options.device))) as device:
        if is_leader():
            tell_of_other_code([recipe], store)
        train_all("pretrain" if options.command == "pretrain" else recipe.last_stage)
    return 0


def _outcome(result: Mapping[str, Any]) -> str:
    return _scores(result) if "accuracy" in result else f"training loss {result['train_loss']:.4f}"


def _engine(options: argparse.Namespace):
    from livt.config import Engine

    return Engine(workers=options.workers, compile=options.compile, checkpointing=options.checkpointing)


def _scores(result: Mapping[str, Any]) -> str:
    names = ("accuracy", "many", "medium", "few", "ece", "mce")
    values = ((name, result[name]) for name in names)  # of an empty group null as stored, nan as found
    return ", ".join(f"{name} {'-' if value is None or value != value else f'{value:.1f}'}" for name, value in values)


def _evaluate(options: argparse.Namespace) -> int:
    from livt.evaluate import summarize
    from livt.lab.plan import usable_device
    from livt.lab.runs import RunStore
    from livt.lab.stored import stored_logits

    store = RunStore(options.runs)
    record = store.load(store.find(options.run))
    logits, labels = stored_logits(record, store, device=usable_device(options.device))
    scores = _scores(summarize(logits, labels, record.result["class_counts"]))
    print(f"{record.id} on the {record.recipe.data.evaluation} split: {scores}")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    started = time.monotonic()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "reproduce starts its own processes: run it without torchrun; to train one run on several GPUs, torchrun "
            "pretrain or finetune, or take --executor slurm"
        )
    from livt.lab.archive import export_runs
    from livt.lab.experiments import recipes
    from livt.lab.failures import RunError
    from livt.lab.files import write_atomically
    from livt.lab.plan import TimeIsUp, usable_device
    from livt.lab.results import table_of
    from livt.lab.runs import RunStore
    from livt.lab.slurm import parse_parameters
    from livt.lab.train import train_all

    target = _new_file("--csv", options.csv) if options.csv else None
    archive = _new_file("--export", options.export) if options.export else None
    seeds = None if options.seeds is None else _seeds(options.seeds)
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, not {options.jobs}")
    if options.minutes is not None and not options.minutes > 0:
        raise ValueError(f"--minutes must be positive, not {options.minutes:g}")
    slurm = options.executor == "slurm"
    if slurm and options.jobs is not None:
        raise ValueError("--jobs is for --executor local: how many jobs run side by side, SLURM decides")
    if options.slurm and not slurm:
        raise ValueError("--slurm is for --executor slurm")
    if options.minutes is not None and slurm:
        raise ValueError("--minutes is for --executor local: give jobs their limit by --slurm time=MINUTES")
    store = RunStore(options.runs, options.tensorboard)
    how = {
        "jobs": options.jobs,
        "device": options.device if slurm else usable_device(options.device),
        "progress": not options.quiet,
        "engine": _engine(options),
        "executor": options.executor,
        "slurm": parse_parameters(options.slurm),
        "deadline": None if options.minutes is None else started + 60 * options.minutes,
    }
    failure = None
    try:
        for name in options.experiment:
            train_all(recipes(name, options.suite, seeds), store, **how)
    except TimeIsUp:
        kept = "the same command goes on from the last saved epochs"
        print(f"livt: the {options.minutes:g} minutes are over; {kept}", file=sys.stderr)
    except RunError as error:  # what is finished is shown and kept all the same
        failure = error
    table = table_of(options.experiment, options.suite, store, seeds)
    if len(table):
        print(table.to_string(index=False, float_format="{:.1f}".format, na_rep="-"))
    elif failure is None:
        print("no finished run")
    if target and (len(table) or failure is None):
        write_atomically(target, table.to_csv(index=False).encode())
    if archive and any(map(store.is_finished, table["run"])):
        export_runs(store, sorted(filter(store.is_finished, set(table["run"]))), archive)
        print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")
    if failure is not None:
        raise failure
    return 0


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        raise ValueError(f"--seeds {text}: expected whole numbers such as 0,1,2") from None
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"--seeds {text}: a seed appears twice")
    return seeds


def _new_file(option: str, name: str) -> Path:
    """Return the path of a file to write, or say at once that it cannot be written."""
    path = Path(name)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{option} {name}: cannot write a file there")
    return path


def _runs(options: argparse.Namespace) -> int:
    from livt.lab.archive import export_runs, import_runs
    from livt.lab.failures import RunError
    from livt.lab.files import dump_json
    from livt.lab.promoted import check_record, promote
    from livt.lab.runs import RunStore
    from livt.lab.stages import load_weights

    store = RunStore(options.runs)
    match options.action:
        case "list":
            for run_id in store.ids():
                print(_describe(store, run_id))
        case "show":
            sys.stdout.write(dump_json(store.load(store.find(options.run)).to_dict()).decode())
        case "compare":
            for line in _compare(*(store.load(store.find(name)) for name in (options.run, options.other))):
                print(line)
        case "export":
            target = _new_file("--to", options.to)
            for run_id in export_runs(store, [store.find(name) for name in options.run], target):
                print(f"{run_id}: exported")
            print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
        case "model":
            from livt.lab.stored import save_for_timm

            record = store.load(store.find(options.run))
            save_for_timm(record, store, Path(options.to))
            print(f'{record.id}: timm.create_model("local-dir:{options.to}", pretrained=True)')
        case "import":
            for run_id, is_new in import_runs(store, Path(options.archive)).items():
                print(f"{run_id}: {'imported' if is_new else 'already here, with the same result'}")
                if options.promote:
                    print(promote(store, run_id, Path(options.promote)))
        case "promote":
            for name in options.run:
                print(promote(store, store.find(name), Path(options.to)))
        case _ if options.retrain:
            return _retrain(options, store)
        case _:
            status = 0
            for run_id in [store.find(name) for name in options.run] or store.ids():
                try:
                    load_weights(check_record(store.load(run_id).to_dict(), str(store.root / run_id)), store)
                    print(f"{run_id}: sound")
                except RunError as error:
                    print(f"{run_id}: {error}")
                    status = 1
            return status
    return 0


def _retrain(options: argparse.Namespace, store) -> int:
    from livt.lab.plan import usable_device
    from livt.lab.retrain import known_run, retrain

    if not options.run:
        raise ValueError("--retrain trains runs again, which takes as long as before: name those to train")
    device, status = usable_device(options.device), 0
    for run_id in [known_run(name, store) for name in options.run]:
        equal, said = retrain(run_id, store, device=device)
        print(f"{run_id}: {said}")
        status |= not equal
    return status


def _describe(store, run_id: str) -> str:
    from livt.lab.failures import RunError

    if not store.is_finished(run_id):
        return f"{run_id}  unfinished, {store.progress(run_id)} epochs"
    try:
        record = store.load(run_id)
    except RunError as error:
        return f"{run_id}  {error}"
    config = record.config
    what = f"{config['data']['name']}, {config['model']['size']}, seed {config['seed']}"
    loss = f", {config['finetune']['loss']}" if "finetune" in config else ""
    return f"{run_id}  {what}{loss}: {_outcome(record.result)}"


def _compare(a, b) -> Iterator[str]:
    """Yield the lines that lay two records side by side: settings and environment that differ, all single results."""
    from livt.lab.files import flat

    missing = object()
    rows = [["", a.id, b.id, "difference"]]
    for part in ("config", "result", "environment"):
        rows.append([{"config": "settings", "result": "results"}.get(part, part)])
        left, right = dict(flat(getattr(a, part))), dict(flat(getattr(b, part)))
        for path in sorted(left | right):
            pair = left.get(path, missing), right.get(path, missing)
            if pair[0] == pair[1] and (part != "result" or isinstance(pair[0], list)):
                continue
            form = "{:.4f}" if part == "result" else "{}"
            texts = ["-" if value is missing else _cell(value, form) for value in pair]
            numbers = part == "result" and all(isinstance(value, int | float) for value in pair)
            difference = "equal" if pair[0] == pair[1] else f"{pair[1] - pair[0]:+.4f}" if numbers else "differs"
            rows.append([f"  {path}", *texts, difference if part == "result" else ""])
        if len(rows[-1]) == 1:
            rows.append(["  no difference"])
    widths = [max(len(row[column]) for row in rows if len(row) > 1) for column in range(4)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip()


def _cell(value: Any, form: str) -> str:
    if isinstance(value, list):
        return f"{len(value)} values"
    return form.format(value) if isinstance(value, float) else "null" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
