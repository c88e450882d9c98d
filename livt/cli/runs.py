"""evaluate, and the family of runs: what is done with what was trained."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from livt.cli.inputs import new_file, pairs
from livt.cli.text import SCORES, aligned, as_csv, cell, outcome, score, scores


def evaluate(options: argparse.Namespace) -> int:
    """Print the scores of a run, or of somebody else's weights."""
    from livt.lab.plan import usable_device

    if options.checkpoint is not None:
        return _evaluate_checkpoint(options)
    if options.heads is not None or options.image_size is not None or options.set:
        raise ValueError("--heads, --image-size and --set are for --checkpoint: a run has its own model and data")

    from livt.evaluate import summarize
    from livt.lab.runs import RunStore
    from livt.lab.stored import stored_logits

    store = RunStore(options.runs)
    record = store.load(store.find(options.run))
    logits, labels = stored_logits(record, store, device=usable_device(options.device))
    result = summarize(logits, labels, record.result["class_counts"])
    split = record.recipe.data.evaluation
    if options.format == "text":
        print(f"{record.id} on the {split} split: {scores(result)}")
    else:
        _print_scores({"run": record.id, "data": record.recipe.data.name, "split": split}, result, options.format)
    return 0


def _evaluate_checkpoint(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from livt.config import DataConfig, Engine, overridden
    from livt.lab.foreign import data_for, evaluate_classifier, load_classifier
    from livt.lab.plan import usable_device
    from livt.lab.recipes import RECIPES

    path, device = Path(options.checkpoint), usable_device(options.device)
    found = load_classifier(path, num_heads=options.heads, image_size=options.image_size)
    named = RECIPES[options.run]().data if options.run in RECIPES else options.run
    data = data_for(named, found)
    data = DataConfig.from_dict(overridden({"data": asdict(data)}, pairs(options.set))["data"])
    result, notes = evaluate_classifier(found, data, device=device, engine=Engine(workers=options.workers))
    for note in notes:
        print(f"livt: note: {note}", file=sys.stderr)
    images = sum(result["reliability"]["size"])
    normal = {"mean": [round(v, 4) for v in found.mean], "std": [round(v, 4) for v in found.std]}
    about = {"checkpoint": str(path), "data": data.name, "split": data.evaluation, "images": images}
    if options.format == "text":
        from livt.longtail import GROUPS, shot_groups

        groups = list(shot_groups(result["class_counts"]))
        counted = ", ".join(f"{groups.count(group)} {group}" for group in GROUPS)
        height, width = found.size
        print(
            f"{path} on the {data.evaluation} split of {data.name}: {images:,} images of {height} x {width}, "
            f"{len(groups):,} classes ({counted} by {sum(result['class_counts']):,} training images), normalized by "
            f"mean {normal['mean']} and deviation {normal['std']}"
        )
        shown = ("many", "medium", "few", "accuracy", "ece", "mce")
        names = ["all" if name == "accuracy" else name for name in shown]
        print("\n".join(aligned([names, [score(result[name]) for name in shown]])))
    else:
        _print_scores(about | (normal if options.format == "json" else {}), result, options.format)
    return 0


def _print_scores(about: Mapping[str, Any], result: Mapping[str, Any], form: str) -> None:
    """Print scores as JSON, with those of single classes, or as CSV."""
    from livt.lab.files import dump_json

    if form == "json":
        sys.stdout.write(dump_json({**about, **result}).decode())
    else:
        sys.stdout.write(as_csv({**about, **{name: result[name] for name in SCORES}}))


def runs(options: argparse.Namespace) -> int:
    """List, show, compare, verify, promote, export and import runs."""
    from livt.lab.archive import export_runs, import_runs
    from livt.lab.failures import RunError
    from livt.lab.files import dump_json
    from livt.lab.promoted import check_record, promote
    from livt.lab.runs import RunStore
    from livt.lab.stages import load_weights

    store = RunStore(options.runs)
    match options.action:
        case "list":
            _list(options, store)
        case "show":
            sys.stdout.write(dump_json(store.load(store.find(options.run)).to_dict()).decode())
        case "compare":
            for line in _compare(*(store.load(store.find(name)) for name in (options.run, options.other))):
                print(line)
        case "export":
            target = new_file("--to", options.to)
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


def _retrain(options: argparse.Namespace, store: Any) -> int:
    from livt.lab.plan import usable_device
    from livt.lab.retrain import known_run, retrain

    if not options.run:
        raise ValueError("--retrain trains runs again, which takes as long as before: name those to train")
    device, status = usable_device(options.device), 0
    run_ids = [known_run(name, store) for name in options.run]
    for run_id, equal, said in retrain(run_ids, store, device=device):
        print(f"{run_id}: {said}", flush=True)
        status |= not equal
    return status


def _list(options: argparse.Namespace, store: Any) -> None:
    """Print the runs that are asked for: a line each, or their columns, or JSON."""
    from livt.lab.files import dump_json
    from livt.lab.listing import chosen, in_order, of_suite, row_of, with_columns

    rows = [row_of(store, run_id) for run_id in store.ids()]
    if options.stage:
        rows = [row for row in rows if row["stage"] == options.stage]
    if options.suite:
        rows = of_suite(rows, options.suite)
    rows = chosen(rows, options.where)
    if options.sort or options.descending:
        rows = in_order(rows, options.sort or "id", options.descending)
    names = [name.strip() for name in options.columns.split(",")] if options.columns else []
    if names:
        rows = with_columns(rows, names)
    if options.json:
        sys.stdout.write(dump_json(rows).decode())
    elif names:
        lines = [[cell(row[name], "{:.4g}" if name not in SCORES else "{:.1f}") for name in names] for row in rows]
        print("\n".join(aligned([names, *lines])))
    else:
        for row in rows:
            print(_describe(row))


def _describe(row: Mapping[str, Any]) -> str:
    if row["state"] == "unfinished":
        return f"{row['id']}  unfinished, {row['epochs']} epochs"
    if row["state"] == "damaged":
        return f"{row['id']}  {row['problem']}"
    config = row["config"]
    what = f"{config['data']['name']}, {config['model']['size']}, seed {config['seed']}"
    loss = f", {config['finetune']['loss']}" if "finetune" in config else ""
    method = "".join(f", {config[stage]['method']}" for stage in ("second", "cluster") if stage in config)
    taught = f", {config['teacher']['size']} by {config['teacher']['loss']}" if "teacher" in config else ""
    if "meta" in config:
        meta = config["meta"]
        kind = f"concentration {meta['concentration']:g}"
        if meta.get("ancestors"):
            kind = f"WordNet's groups of {meta['ancestors']} classes and more"
        loss = f", {meta['loss']}, metadata of {kind}"
    return f"{row['id']}  {what}{loss}{method}{taught}: {outcome(row['result'])}"


def _compare(a: Any, b: Any) -> Iterator[str]:
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
            texts = ["-" if value is missing else cell(value, form) for value in pair]
            numbers = part == "result" and all(isinstance(value, int | float) for value in pair)
            difference = "equal" if pair[0] == pair[1] else f"{pair[1] - pair[0]:+.4f}" if numbers else "differs"
            rows.append([f"  {path}", *texts, difference if part == "result" else ""])
        if len(rows[-1]) == 1:
            rows.append(["  no difference"])
    yield from aligned(rows)
