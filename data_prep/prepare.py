"""The target folder: what the scripts of this folder share once they know which images they want.

A target appears whole. It is built in ``TARGET/.NAME.partial``, each file under a temporary name and then renamed
(files of a tree are copied in place, and compared with their sources); its ``manifest.json`` is written last, and the
folder is then renamed to ``TARGET/NAME``. A run that was killed goes on from the files it finds there. ``files.csv``
has a line for each image (``path,label,size``, sorted by path), and the manifest holds its SHA-256: two targets with
one digest hold the same names, labels and sizes.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout
from storage import Entry, PrepareError, build_tables, build_tree, check_images, image_sizes, parallel, table_files

from livt.lab.failures import RunError
from livt.lab.files import dump_json, write_atomically

# Raise a form's number when a target of the same request would come out otherwise.
FORMAT = {"parquet": 1, "tree": 1, "shards": 2}  # shards 1 were Parquet
TAIL = 4096  # bytes compared before whole files are
SHOWN = 3  # names in a message; all of them are in a file


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a source holds: its images, the names of the classes by label, and small files to write beside."""

    entries: list[Entry]
    classes: Sequence[str]
    extras: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A target to be made.

    name: of its folder. form: parquet, tree or shards. request: what decides its content, as plain JSON values; it is
    what makes two targets the same. load: reads the source; called only where there is something to do. notes: lines
    to show at the end.
    """

    name: str
    form: str
    request: Mapping[str, Any]
    load: Callable[[], Contents]
    notes: Sequence[str] = ()


# ---------------------------------------------------------------- the command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with what all scripts take."""
    made = _Parser(prog=prog, description=description)
    made.add_argument("source", type=Path, metavar="SOURCE", help="the folder with the official files")
    made.add_argument("target", type=Path, metavar="TARGET", help="the data folder, $LIVT_DATA for livt")
    made.add_argument("--verify", action="store_true", help="decode every image of the target")
    made.add_argument("--force", action="store_true", help="replace a target that was made otherwise or is damaged")
    made.add_argument("--drop-overlap", action="store_true", help="leave training images out that evaluation has too")
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="threads (default: all cores)")
    return made


def tree_parser(prog: str, description: str, obtain: str) -> argparse.ArgumentParser:
    """Return a parser for the sets that are trees of files."""
    made = parser(prog, description)
    made.epilog = f"Nothing is downloaded: {obtain}."
    made.add_argument("--lists", type=Path, metavar="DIR", help="the folder with the official lists (default: SOURCE)")
    made.add_argument("--how", choices=("link", "symlink", "copy"), default="link", help="default: link, a hard link")
    made.add_argument("--shards", action="store_true", help="write Arrow shards of images of 256 pixels instead")
    return made


def run(
    work: Callable[[argparse.Namespace], str], made: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> int:
    """Do the work of a script; a user's mistake is one line on stderr and exit status 2."""
    options = made.parse_args(arguments)
    if options.jobs < 1:
        made.error("--jobs must be at least 1")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # odd metadata of images that decode
            print(work(options))
        return 0
    except KeyboardInterrupt:
        print(f"\n{made.prog}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (PrepareError, RunError, OSError) as error:
        print(f"{made.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


# ---------------------------------------------------------------- from plan to target


def prepare(plan: Plan, options: argparse.Namespace) -> str:
    """Make the target of a plan, or find it made; return what to tell. Raises PrepareError."""
    options.target.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(options.target / f".{plan.name}.lock", timeout=0):
            return _prepare(plan, options)
    except Timeout:
        raise PrepareError(f"{options.target / plan.name} is being made by another process: wait for its end") from None


def _prepare(plan: Plan, options: argparse.Namespace) -> str:
    final, partial, old = (options.target / n for n in (plan.name, f".{plan.name}.partial", f".{plan.name}.old"))
    request = {
        "format": FORMAT[plan.form],
        "dataset": plan.name,
        "form": plan.form,
        "drop_overlap": options.drop_overlap,
        **({"how": options.how} if plan.form == "tree" else {}),
        **plan.request,
    }
    problems = options.target / f"{plan.name}.problems.txt"
    problems.unlink(missing_ok=True)
    if old.exists() and not final.exists() and (partial / "manifest.json").exists():  # killed between two renames
        os.rename(partial, final)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        reason = difference(final, request, thorough=options.verify)
        if reason is None:
            if options.verify:
                _refuse_corrupt(check_images(final, options.jobs), final, problems)
            return _summary(final, "already prepared")
        if not options.force:
            raise PrepareError(f"{final} {reason}: pass --force to make it anew, or name another TARGET")

    if partial.exists() and _request(partial) != request:
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    for left in (*options.target.glob(f".{plan.name}.*.tmp"), *partial.glob(".*.tmp")):  # by a run that was killed
        left.unlink()
    write_atomically(partial / "request.json", dump_json({"request": request}))
    findings = _make(partial, plan, request, options, problems)
    if final.exists():
        os.rename(final, old)
    os.rename(partial, final)
    shutil.rmtree(old, ignore_errors=True)
    return "\n".join((_summary(final, "prepared"), *_tell(findings), *plan.notes))


def _make(
    folder: Path, plan: Plan, request: Mapping[str, Any], options: argparse.Namespace, problems: Path
) -> dict[str, list[list[str]]]:
    """Fill the partial folder, going on from what it holds, and seal it; return what was found in the images."""
    contents = plan.load()
    _refuse_missing(contents.entries, options, problems)
    entries, findings = _same_content(contents.entries, options)
    if plan.form == "tree":
        build_tree(folder, entries, options.how, options.jobs)
    else:
        corrupt = build_tables(folder, plan.form, entries, contents.classes, options.jobs)
        _refuse_corrupt(corrupt, options.source, problems)
    if options.verify:
        _refuse_corrupt(check_images(folder, options.jobs), options.source, problems)
    for name, content in contents.extras.items():
        write_atomically(folder / name, content)
    _seal(folder, request, entries, contents.classes, findings)
    return findings


def _seal(
    folder: Path, request: Mapping[str, Any], entries: Sequence[Entry], classes: Sequence[str], findings: dict
) -> None:
    """Write ``files.csv`` and then the manifest."""
    labels = {entry.path: entry.label for entry in entries}
    sizes = image_sizes(folder)
    if odd := sorted(labels.keys() ^ sizes.keys()):
        raise PrepareError(f"{folder} does not hold the images of SOURCE ({odd[0]}, {len(odd)} in all): delete it")
    listing = "path,label,size\n" + "".join(f"{path},{labels[path]},{sizes[path]}\n" for path in sorted(sizes))
    write_atomically(folder / "files.csv", listing.encode())
    counts: dict[str, list[int]] = {}
    for entry in entries:
        counts.setdefault(entry.split, [0] * len(classes))[entry.label] += 1
    versions = {name: metadata.version(name) for name in ("livt", "numpy", "pillow", "pyarrow")}
    manifest = {
        "request": request,
        "digest": hashlib.sha256(listing.encode()).hexdigest(),
        "files": {path.name: _file_facts(path) for path in table_files(folder)},
        "images": {split: sum(per_class) for split, per_class in counts.items()},
        "bytes": sum(sizes.values()),
        "classes": list(classes),
        "class_counts": counts,
        **findings,
        "versions": versions | {"python": platform.python_version()},
    }
    write_atomically(folder / "manifest.json", dump_json(manifest))
    (folder / "request.json").unlink()


def difference(folder: Path, request: Mapping[str, Any], thorough: bool = False) -> str | None:
    """Say how a finished target differs from the request, or from its own manifest; None where it does not.

    The files' names and sizes are compared; ``thorough`` compares the checksums of Parquet and Arrow files too.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        made, digest, files = manifest["request"], manifest["digest"], manifest["files"]
        listing = (folder / "files.csv").read_bytes()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "has no manifest.json and files.csv that can be read"
    for key in sorted(made.keys() | request.keys()):
        if made.get(key) != request.get(key):
            return f"was made with {key} = {_short(made.get(key))}, not {_short(request.get(key))}"
    if hashlib.sha256(listing).hexdigest() != digest:
        return "has a files.csv that is not the manifest's"
    if files:
        present = {path.name: path.stat().st_size for path in table_files(folder)}
        expected = {name: facts["bytes"] for name, facts in files.items()}
    else:
        present = image_sizes(folder)
        rows = (line.rsplit(",", 2) for line in listing.decode().splitlines()[1:])
        expected = {path: int(size) for path, _, size in rows}
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            return f"lacks {name}"
        if name not in expected:
            return f"holds {name}, which its manifest does not"
        if present[name] != expected[name]:
            return f"is damaged: {name} has {present[name]} bytes, not {expected[name]}"
        if thorough and files and _file_facts(folder / name) != files[name]:
            return f"is damaged: {name} does not have the manifest's checksum"
    return None


def _request(folder: Path) -> Any:
    for name in ("manifest.json", "request.json"):
        try:
            return json.loads((folder / name).read_bytes())["request"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return None


def _summary(folder: Path, verb: str) -> str:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    splits = sorted(manifest["images"], key=lambda split: split != "train")
    images = ", ".join(f"{split} {manifest['images'][split]:,}" for split in splits)
    return f"{folder}: {verb}: {images} images, {len(manifest['classes']):,} classes, digest {manifest['digest'][:16]}"


def _tell(findings: Mapping[str, list[list[str]]]) -> Iterator[str]:
    """Yield a line for each kind of finding; the manifest names them all."""
    for kind, text in (
        ("duplicates", "images of one split have the same content"),
        ("overlap", "images are in training and in evaluation; --drop-overlap leaves them out of training"),
        ("dropped", "training images are left out: evaluation has them too"),
    ):
        if groups := findings[kind]:
            shown = "; ".join(" = ".join(group) for group in groups[:SHOWN])
            yield f"{len(groups)} {text}: {shown}{'; ...' if len(groups) > SHOWN else ''} (manifest.json: {kind})"


def _file_facts(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _short(value: Any) -> str:
    return text if len(text := json.dumps(value, sort_keys=True)) < 60 else f"{text[:57]}..."


# ---------------------------------------------------------------- what is wrong with the source


def _refuse(problems: Path, names: Sequence[str], text: str, remedy: str) -> NoReturn:
    """Raise with the first names, and write all of them beside the target."""
    write_atomically(problems, "".join(f"{name}\n" for name in names).encode())
    shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    raise PrepareError(f"{len(names)} {text}: {shown} (all of them: {problems}); {remedy}")


def _refuse_missing(entries: Sequence[Entry], options: argparse.Namespace, problems: Path) -> None:
    """Raise where files are missing or empty."""

    def state(entry: Entry) -> str | None:
        try:
            return None if entry.size() else "empty"
        except (FileNotFoundError, NotADirectoryError):
            return "missing"

    states = list(parallel(state, entries, "finding files", options.jobs))
    for kind in ("missing", "empty"):
        names = [str(entry.source) for entry, found in zip(entries, states, strict=True) if found == kind]
        if names:
            _refuse(problems, names, f"images are {kind}", "complete SOURCE and run the same command again")


def _refuse_corrupt(corrupt: Sequence[str], folder: Path, problems: Path) -> None:
    if corrupt:
        _refuse(problems, corrupt, "images do not decode", f"obtain them anew for {folder} and run the command again")


def _same_content(entries: list[Entry], options: argparse.Namespace) -> tuple[list[Entry], dict[str, list[list[str]]]]:
    """Find images with the same bytes; return the entries to keep and the findings, groups of paths.

    Sizes and the last bytes are compared first: only files that agree in both are read whole.
    """

    def tail(entry: Entry) -> tuple[int, bytes]:
        if isinstance(entry.source, bytes):
            return len(entry.source), entry.source[-TAIL:]
        with open(entry.source, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - TAIL))
            return size, hashlib.sha256(file.read()).digest()

    def whole(entry: Entry) -> tuple[int, bytes]:
        return 0, hashlib.sha256(entry.read()).digest()

    groups = [entries]
    for key in (tail, whole):
        candidates = [entry for group in groups for entry in group]
        by_key: dict[Any, list[Entry]] = defaultdict(list)
        for entry, value in zip(candidates, parallel(key, candidates, "comparing", options.jobs), strict=True):
            by_key[value].append(entry)
        groups = [group for group in by_key.values() if len(group) > 1]
    findings: dict[str, list[list[str]]] = {"duplicates": [], "overlap": [], "dropped": []}
    dropped = set()
    for group in groups:
        paths = sorted(entry.path for entry in group)
        splits = {entry.split for entry in group}
        if len(group) > len(splits):
            findings["duplicates"].append(paths)
        if len(splits) > 1:
            findings["dropped" if options.drop_overlap else "overlap"].append(paths)
            if options.drop_overlap:
                dropped |= {entry.path for entry in group if entry.split == "train"}
    return [entry for entry in entries if entry.path not in dropped], {k: sorted(v) for k, v in findings.items()}
