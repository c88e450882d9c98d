"""pretrain, finetune, reproduce and recipe: what trains, or would."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from livt.cli.inputs import engine_of, new_file, recipe_of, seeds_of
from livt.cli.text import outcome
from livt.config import Recipe


def train(options: argparse.Namespace) -> int:
    """Train a stage of a recipe after those that it starts from."""
    recipe, engine = recipe_of(options), engine_of(options)
    last = options.command
    if last == "second" and recipe.second is None:
        raise ValueError(f"{options.recipe} has no second stage: give it one, such as --set second.method=crt")
    if last == "cluster" and recipe.cluster is None:
        raise ValueError(f"{options.recipe} clusters nothing: give it a method, such as --set cluster.method=sp2ot")
    if last == "meta" and recipe.meta is None:
        raise ValueError(f"{options.recipe} has no metadata: give it some, such as --set meta.concentration=10")
    if options.dry_run:
        return _tell_costs([(stage, recipe) for stage in recipe.up_to(last)], options)

    import torch

    from livt.distributed import is_leader, process_group
    from livt.lab.find import tell_of_other_code
    from livt.lab.plan import usable_device
    from livt.lab.runs import RunStore
    from livt.lab.stages import train as train_stage

    store = RunStore(options.runs, options.tensorboard)
    with process_group(torch.device(usable_device(options.device))) as device:
        if is_leader():
            tell_of_other_code([recipe], store)
        for stage in recipe.up_to(last):
            record = train_stage(stage, recipe, store, device=str(device), progress=not options.quiet, engine=engine)
            if is_leader():
                print(f"{record.id}: {outcome(record.result)}")
    return 0


def show_recipe(options: argparse.Namespace) -> int:
    """Print a recipe as a file."""
    from livt.lab.recipe_files import write_recipe

    sys.stdout.write(write_recipe(recipe_of(options)))
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """Train what experiments lack, and print a row per run."""
    started = time.monotonic()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "reproduce starts its own processes: run it without torchrun; to train one run on several GPUs, torchrun "
            "pretrain or finetune, or take --executor slurm"
        )
    from livt.lab.archive import export_runs
    from livt.lab.experiments import arms, recipes
    from livt.lab.failures import RunError
    from livt.lab.files import write_atomically
    from livt.lab.plan import TimeIsUp, usable_device
    from livt.lab.results import table_of
    from livt.lab.runs import RunStore
    from livt.lab.slurm import parse_parameters
    from livt.lab.train import train_all

    target = new_file("--csv", options.csv) if options.csv else None
    archive = new_file("--export", options.export) if options.export else None
    picture = new_file("--figure", options.figure, (".svg", ".png", ".pdf")) if options.figure else None
    draw = _drawing() if picture else None
    seeds = None if options.seeds is None else seeds_of(options.seeds)
    known = [arm for name in options.experiment for arm in arms(name, options.suite)] if options.arm else []
    for arm in options.arm:
        if arm not in known:
            raise ValueError(f"--arm {arm!r} is no arm of {', '.join(options.experiment)}: {'; '.join(known)}")
    wanted = {name: recipes(name, options.suite, seeds, options.arm) for name in options.experiment}
    if not options.arm and (empty := [name for name, own in wanted.items() if not own]):
        raise ValueError(f"on suite {options.suite} there are no arms of {', '.join(empty)}")
    slurm = options.executor == "slurm"
    if slurm and options.jobs is not None:
        raise ValueError("--jobs is for --executor local: how many jobs run side by side, SLURM decides")
    if options.slurm and not slurm:
        raise ValueError("--slurm is for --executor slurm")
    if options.minutes is not None and slurm:
        raise ValueError("--minutes is for --executor local: give jobs their limit by --slurm time=MINUTES")
    if options.dry_run:
        each = dict.fromkeys(recipe for own in wanted.values() for recipe in own)
        return _tell_costs([(s, r) for r in each for s in r.up_to(r.last_stage)], options)
    store = RunStore(options.runs, options.tensorboard)
    how: dict[str, Any] = {
        "jobs": options.jobs,
        "device": options.device if slurm else usable_device(options.device),
        "progress": not options.quiet,
        "engine": engine_of(options),
        "executor": options.executor,
        "slurm": parse_parameters(options.slurm),
        "deadline": None if options.minutes is None else started + 60 * options.minutes,
    }
    failure = None
    try:
        for own in wanted.values():
            train_all(own, store, **how)
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
    if draw and picture and len(table):
        write_atomically(picture, draw(table, picture.suffix[1:].lower()))
    if archive and any(map(store.is_finished, table["run"])):
        export_runs(store, sorted(filter(store.is_finished, set(table["run"]))), archive)
        print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB")
    if failure is not None:
        raise failure
    return 0


def _drawing() -> Any:
    """Return the function that draws a table. Raises ValueError where what it needs is not installed."""
    try:
        from livt.companion.plots.reproduced import drawn
    except ImportError as error:
        raise ValueError(f"--figure needs {error.name}, which pip install 'livt[notebooks]' brings") from None
    return drawn


# ---------------------------------------------------------------- without training


def _tell_costs(wanted: Sequence[tuple[str, Recipe]], options: argparse.Namespace) -> int:
    """Print what stages would take that the run store lacks, those that cost the same together."""
    import torch

    from livt.clustering import methods as clustering
    from livt.lab.cost import Cost, cost_of, hours, speed_of
    from livt.lab.files import key_of
    from livt.lab.plan import usable_device
    from livt.lab.promoted import promoted_folder, read_promoted
    from livt.lab.runs import RunStore
    from livt.losses import loss_of
    from livt.rivals.methods import method_of

    store, device = RunStore(options.runs), torch.device(usable_device(options.device))
    own = [store.load(run_id) for run_id in filter(store.is_finished, store.ids())]
    finished = {key_of(record.config) for record in own}
    groups: dict[str, list[tuple[str, Recipe]]] = {}
    seen, ready = set[str](), 0
    for stage, recipe in wanted:
        loss_of(recipe.finetune)
        if recipe.second is not None:
            method_of(recipe.second)
        if recipe.cluster is not None:
            clustering.method_of(recipe.cluster)
        key = key_of(recipe.stage(stage))
        if key in seen or key in finished:
            ready += key in finished and key not in seen
        else:
            groups.setdefault(_alike(stage, recipe), []).append((stage, recipe))
        seen.add(key)
    records = {record.id: record for record in (*read_promoted(promoted_folder()).values(), *own)}.values()
    total = [0.0, 0.0]
    for group in groups.values():
        stage, recipe = group[0]
        cost: Cost = cost_of(stage, recipe)
        speed = speed_of(stage, recipe, cost, device, records)
        low, high = (len(group) * each for each in hours(cost, speed))
        total = [total[0] + low, total[1] + high]
        print("\n".join(_block(recipe, cost, len(group), (low, high), f"{device}, {speed.source}")))
    runs = sum(map(len, groups.values()))
    there = f"; {ready} are in the run store" if ready else ""
    print(f"{runs} runs to train, {_span(total[0], total[1])} on one device (estimated){there}; nothing was trained")
    return 0


def _alike(stage: str, recipe: Recipe) -> str:
    """Return what decides the cost of a stage."""
    from livt.lab.files import key_of

    values = recipe.stage(stage)
    free = ("loss", "tau", "start", "label_smoothing", "smoothing_target")
    own = {key: value for key, value in values[stage].items() if key not in free}
    return key_of({"stage": stage, "data": values["data"] | {"draw": 0}, "model": values["model"], "own": own})


def _block(recipe: Recipe, cost: Any, runs: int, took: tuple[float, float], source: str) -> list[str]:
    from livt.lab.cost import counts_text

    data, settings = recipe.data_of(cost.stage), getattr(recipe, cost.stage)
    height, width = data.size
    steps = cost.epochs * cost.steps_per_epoch
    parts = settings.batch_size // settings.accumulation_steps
    held = f", and {cost.images / 1e9:.2g} GB of images" if cost.images else ""
    return [
        f"{cost.stage}, {runs} {'run' if runs == 1 else 'runs'}",
        f"  data    {data.name}, {height} x {width} pixels: {counts_text(cost.found)}",
        f"  model   {recipe.model.size}: {cost.parameters:,} parameters; {cost.flops / 1e6:,.1f} MFLOP an image",
        f"  steps   {cost.epochs:,} epochs x {cost.steps_per_epoch:,} steps of {cost.batch_size:,} images = {steps:,} "
        f"steps, {cost.trained_images:,} images",
        f"  memory  {cost.memory / 1e9:.2g} GB for a part of {parts:,} images{held} (estimated)",
        f"  time    {_span(*took)} (estimated for {source})",
    ]


def _span(low: float, high: float) -> str:
    """Return a range of hours, in seconds or minutes where it is short.

    >>> _span(0.5, 0.5), _span(0.001, 0.01), _span(3, 40)
    ('30 minutes', '3.6 to 36 seconds', '3 to 40 hours')
    """
    for unit, size in (("hours", 2.0), ("minutes", 1 / 30), ("seconds", 0.0)):
        if high >= size:
            factor = {"hours": 1, "minutes": 60, "seconds": 3600}[unit]
            numbers = [value * factor for value in (low, high)]
            texts = [f"{number:.2g}" if number < 10 else f"{number:,.0f}" for number in numbers]
            break
    return f"{' to '.join(dict.fromkeys(texts))} {unit}"
