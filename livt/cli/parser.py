"""The commands and their options."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from livt import __version__
from livt.config import LIMITS, STAGES
from livt.lab.experiments import EXPERIMENTS
from livt.lab.recipes import RECIPES
from livt.lab.suites import RENAMED, SUITES

RECIPE_FILES = (".yaml", ".yml", ".json")
SHELLS = ("bash", "zsh", "fish")
MAX_JOBS, MAX_MINUTES = 4096, 366 * 24 * 60.0
_RUN = "a run's id or digest, or its beginning"
_DEVICE = "auto (default), cpu, cuda, cuda:N or mps"


class Parser(argparse.ArgumentParser):
    """One that answers a mistake with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"livt: error: {message} (see {self.prog} --help)\n")


class _Renamed(argparse.Action):
    """An option that has another name now: using it is an error that says which."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name = RENAMED.get(self.dest, self.dest)
        parser.error(f"--{self.dest} is now --{name}: give --{name} {RENAMED.get(values, values)}")


def build_parser() -> Parser:
    """Return the parser of the command line."""
    prog = "livt" if Path(sys.argv[0]).stem == "livt" else "python -m livt"
    parser = Parser(prog=prog, description="Train Vision Transformers on long-tailed data, as LiVT does.")
    parser.add_argument("--version", action="version", version=f"livt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    store = Parser(add_help=False)
    store.add_argument("--runs", default="", metavar="DIR", help="the run store (default: $LIVT_RUNS, else runs)")
    training = _training_options()
    stages = {
        "pretrain": "MGP: train a masked autoencoder",
        "finetune": "BFT: train a classifier",
        "cluster": "cluster pretrained features without labels, such as --set cluster.method=sp2ot",
        "distill": "DeiT-LT: train a teacher, and a student that learns from it, such as deit_lt_imagenet_lt",
        "meta": "MetaFormer: fine-tune with synthetic metadata as tokens, such as --set meta.concentration=10",
        "second": "train a second stage on a classifier, such as --set second.method=crt",
    }
    for stage, text in stages.items():
        sub = commands.add_parser(stage, help=text, description=text, parents=[store, training])
        _add_recipe(sub)
    _add_evaluate(commands, store)
    _add_reproduce(commands, store, training)
    _add_recipes(commands)
    _add_runs(commands, store)
    sub = commands.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description="Print a script that completes commands in a shell: source it, or put it where the shell looks.",
    )
    sub.add_argument("shell", choices=SHELLS, help=", ".join(SHELLS))
    return parser


def _training_options() -> Parser:
    options = Parser(add_help=False)
    options.add_argument("--device", default="auto", help=_DEVICE)
    options.add_argument("--quiet", action="store_true", help="no progress bars")
    options.add_argument(
        "--workers", type=int, help="processes that load images from files (default: one per core, 16 at most)"
    )
    options.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    options.add_argument(
        "--checkpointing", action="store_true", help="compute activations again for the gradient: less memory, slower"
    )
    options.add_argument("--tensorboard", default="", metavar="DIR", help="also log each epoch for TensorBoard there")
    options.add_argument(
        "--dry-run",
        action="store_true",
        help="train nothing; print data, parameters, FLOPs and steps, and estimates of memory and hours",
    )
    return options


def is_recipe_file(name: str) -> bool:
    """Tell the path of a recipe file from the name of a recipe."""
    return name.lower().endswith(RECIPE_FILES)


def recipe_name(text: str) -> str:
    """Return the name of a recipe, or the path of a recipe file, as it is; anything else is refused."""
    if text in RECIPES or is_recipe_file(text):
        return text
    known = ", ".join(RECIPES)
    raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {known}, or give a .yaml or .json file)")


def _add_recipe(parser: Parser) -> None:
    names = f"a recipe file (.yaml, .yml or .json), or a named recipe: {', '.join(RECIPES)}"
    action = parser.add_argument("recipe", type=recipe_name, metavar="RECIPE", help=names)
    action.offered = tuple(RECIPES)  # type: ignore[attr-defined]  # for completion: not all that is taken
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="images of your own, as with recipe own (data_prep/README.md); short for --set data.name=FOLDER",
    )
    _add_set(parser, "change a value of the recipe, for example finetune.loss=bce, seed=1 or pretrain=null")


def _add_set(parser: Parser, text: str) -> None:
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help=text)


def _add_evaluate(commands: Any, store: Parser) -> None:
    sub = commands.add_parser(
        "evaluate",
        help="many, medium, few, all, ECE and MCE of a run, or of somebody else's weights",
        description="Evaluate a run's weights anew, or, with --checkpoint, a classifier on the images of a data set.",
        parents=[store],
    )
    sub.add_argument(
        "run",
        metavar="RUN_OR_DATASET",
        help=f"{_RUN}; with --checkpoint: a data set by name, a folder of images, or a recipe, whose images and class "
        "counts are meant",
    )
    sub.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="a fine-tuned .pth of LiVT or MAE, the same as .safetensors, or a folder that timm has written",
    )
    sub.add_argument("--heads", type=int, help="attention heads, where width and depth do not tell them")
    sub.add_argument("--image-size", type=int, metavar="PIXELS", help="another size than the checkpoint's own")
    _add_set(sub, "change the data, for example data.max_count=5000 and data.imbalance_factor=100")
    sub.add_argument("--device", default="auto", help=_DEVICE)
    sub.add_argument("--workers", type=int, help="processes that load images from files")
    sub.add_argument("--format", choices=("text", "json", "csv"), default="text", help="text (default), json or csv")


def _add_reproduce(commands: Any, store: Parser, training: Parser) -> None:
    sub = commands.add_parser(
        "reproduce",
        help="train what an experiment lacks, print its table",
        description="Train what an experiment lacks, then print one row per run.",
        parents=[store, training],
    )
    sub.add_argument("experiment", nargs="+", choices=EXPERIMENTS, help="in the order to train them")
    sub.add_argument("--suite", choices=SUITES, default="digits", help="the data to train on (default: digits)")
    sub.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="NAME",
        help="train this arm alone, such as mgp/ride of rivals; repeat it for more. The table has all that was trained",
    )
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
    sub.add_argument("--figure", default=None, metavar="FILE", help="also draw the table, as .svg, .png or .pdf")
    sub.add_argument("--export", default=None, metavar="FILE.tar", help="also write the finished runs as one archive")


def _add_recipes(commands: Any) -> None:
    recipe = commands.add_parser("recipe", help="show a recipe as a file that pretrain and finetune take")
    actions = recipe.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    text = "print a recipe whole, as YAML, with what each field means"
    _add_recipe(actions.add_parser("show", help=text, description=text))


def _add_runs(commands: Any, store: Parser) -> None:
    runs = commands.add_parser("runs", help="list, show, compare, verify, promote, export, import runs; their models")
    actions = runs.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    sub = actions.add_parser("list", help="one line per run", parents=[store])
    sub.add_argument("--stage", choices=STAGES, help="runs of this stage alone")
    sub.add_argument("--suite", choices=SUITES, help="runs of the experiments of this suite alone")
    sub.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="runs of which this holds, for example finetune.loss=bce, data.name=cifar10, accuracy>50 or "
        "state=unfinished; repeat it for more",
    )
    sub.add_argument("--sort", metavar="COLUMN", help="in the order of a column (default: id)")
    sub.add_argument("--descending", action="store_true", help="largest first")
    sub.add_argument(
        "--columns",
        metavar="A,B",
        help="a table of these columns: id, stage, state, epochs, a setting such as finetune.loss or seed, a result "
        "such as accuracy, or device, wall_time_s and others of the environment",
    )
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub = actions.add_parser("show", help="a run as JSON", parents=[store])
    sub.add_argument("run", help=_RUN)
    sub = actions.add_parser("compare", help="what differs between two runs", parents=[store])
    sub.add_argument("run", help=_RUN)
    sub.add_argument("other", help="the run to compare it with")
    sub = actions.add_parser("verify", help="check every file of runs", parents=[store])
    sub.add_argument("run", nargs="*", help="runs (default: all)")
    sub.add_argument(
        "--retrain",
        action="store_true",
        help="also train each again, and say whether the result is equal to the bit; a run or a promoted record keeps "
        "the proof",
    )
    sub.add_argument("--device", default="auto", help=f"where to train again: {_DEVICE}")
    sub = actions.add_parser("promote", help="write runs as records for the book", parents=[store])
    sub.add_argument("run", nargs="+", help="runs to promote")
    sub.add_argument("--to", default="book/results", metavar="DIR", help="where (default: book/results)")
    sub = actions.add_parser("export", help="write runs as one archive", parents=[store])
    sub.add_argument("run", nargs="*", help="finished runs (default: all); their pretraining runs come with them")
    sub.add_argument("--to", required=True, metavar="FILE.tar", help="the archive to write")
    sub = actions.add_parser("model", help="write a run's model for timm", parents=[store])
    sub.add_argument("run", help="a fine-tuned run's id or digest, or its beginning")
    sub.add_argument("--to", required=True, metavar="DIR", help="the folder to write")
    sub = actions.add_parser("import", help="bring in the runs of an archive, verified", parents=[store])
    sub.add_argument("archive", metavar="FILE.tar", help="what export has written")
    sub.add_argument(
        "--promote",
        metavar="DIR",
        nargs="?",
        const="book/results",
        help="also write records of the runs for the book (into book/results, if no DIR is given)",
    )


def check_options(options: argparse.Namespace) -> None:
    """Raise ValueError for a number that no command can mean."""
    bounds = {"jobs": (1, MAX_JOBS), "minutes": (0, MAX_MINUTES), "workers": (0, LIMITS["workers"]), "heads": (1, 1024)}
    bounds["image_size"] = (1, LIMITS["image_size"])
    for name, (low, high) in bounds.items():
        value = getattr(options, name, None)
        if value is None:
            continue
        option = f"--{name.replace('_', '-')}"
        if name == "minutes" and not value > 0:
            raise ValueError(f"{option} must be positive, not {value:g}")
        if value < low:
            raise ValueError(f"{option} must be at least {low}, not {value}")
        if value > high:
            raise ValueError(f"{option} must be at most {high:,.0f}, not {str(value)[:40]}")
