"""What the files of a run must say, whoever wrote them: types, ranges and lengths, held against the recipe.

Checksums tell an accident; they are no proof of who wrote a file. What is read from a run store, an archive or a
promoted record comes through here, so that the code behind can rely on its shape.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from livt import rivals  # noqa: F401  its losses and second stages are part of the tables
from livt.clustering import methods as clustering
from livt.config import MODEL_SIZES, RUN_FORMAT, STAGES, Recipe
from livt.lab.files import key_of
from livt.lab.recipes import smoke
from livt.losses import loss_of
from livt.rivals import distill, metaformer
from livt.rivals.methods import method_of

RUN_ID = re.compile(rf"({'|'.join(STAGES)})-[0-9a-f]{{12}}")
_PARTS = {
    "id": "text",
    "stage": "text",
    "config": "object",
    "metrics": "list",
    "result": "object",
    "environment": "object",
}
_TYPES: dict[str, type] = {"text": str, "object": dict, "list": list}


class _Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    what: str
    holds: Callable[[Any], bool]


def _number(what: str, low: float, high: float = float("inf")) -> _Kind:
    return _Kind(what, lambda value: type(value) in (int, float) and low <= value <= high)


def _whole(low: int) -> _Kind:
    return _Kind(f"a whole number from {low}", lambda value: type(value) is int and value >= low)


def _or_null(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.what} or null", lambda value: value is None or kind.holds(value))


def _list(kind: _Kind, length: int | None = None) -> _Kind:
    size = "a list" if length is None else f"a list of {length}"

    def holds(value: Any) -> bool:
        return isinstance(value, list) and length in (None, len(value)) and all(map(kind.holds, value))

    return _Kind(f"{size}, each {kind.what}", holds)


_LOSS = _number("a number", float("-inf"))
_AMOUNT = _number("a number from 0", 0)
_PERCENT = _number("a percentage", 0, 100 + 1e-6)  # a mean of 100s may be a rounding above
_SHARE = _number("a share", 0, 1 + 1e-6)
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_TEXT = _Kind("text", lambda value: isinstance(value, str))
_YES_NO = _Kind("true or false", lambda value: isinstance(value, bool))
_DIGEST = _Kind("a digest", lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-f]{1,64}", value) is not None)

_GROUPS = {group: _or_null(_PERCENT) for group in ("many", "medium", "few")}  # null: a group without classes
_LEAD = _or_null(_number("a difference of percentages", -100 - 1e-6, 100 + 1e-6))  # null: one has no classes
_SCORES = {"accuracy": _PERCENT, "ece": _PERCENT, "mce": _PERCENT, **_GROUPS}
_EPOCH = {"epoch": _whole(1), "lr": _AMOUNT, "train_loss": _LOSS}
_CLUSTERS = {"accuracy": _PERCENT, **_GROUPS, **dict.fromkeys(("image_accuracy", "nmi", "f1"), _PERCENT)}
_CLUSTERS |= {"survivors": _or_null(_PERCENT), "sizes": _list(_whole(0))}  # null: no class is smaller than another
_PROBES = {
    f"{probe}_{name}": kind for probe in ("knn", "linear") for name, kind in {"accuracy": _PERCENT, **_GROUPS}.items()
}
_ENVIRONMENT = {
    "commit": _or_null(_TEXT),
    "data_digest": _DIGEST,
    "device": _TEXT,
    "dirty": _or_null(_YES_NO),
    "finished": _TEXT,
    "images_per_second": _AMOUNT,
    "python": _TEXT,
    "threads": _whole(1),
    "wall_time_s": _AMOUNT,
}
_LATER = {  # parts of the environment that records from before lack
    "code": _TEXT,
    "processes": _whole(1),
    "peak_memory_gb": _or_null(_AMOUNT),
    "waiting_percent": _AMOUNT,
}
_PROOF = {"code": _TEXT, "equal": _YES_NO, "device": _TEXT, "torch": _or_null(_TEXT), "date": _TEXT}


def recipe_of(stage: str, config: Mapping[str, Any]) -> Recipe:
    """Return a recipe that trains the run of a stage configuration; one without fine-tuning gets any settings for that.

    Raises ValueError for a configuration that no recipe has.
    """
    return _recipe(stage, key_of(config))


@cache
def _recipe(stage: str, config: str) -> Recipe:
    values = {key: value for key, value in json.loads(config).items() if key not in ("format", "stage")}
    seed = values.pop("seed", 0)
    return replace(_of_any_seed(stage, key_of(values)), seed=seed)


@cache
def _of_any_seed(stage: str, config: str) -> Recipe:
    values = json.loads(config)
    if stage != "finetune":
        values.setdefault("finetune", smoke().finetune.to_dict() | {"augment": {}})
        values.setdefault("pretrain", None)
    return Recipe.from_dict(values)


def check_values(values: Any) -> None:
    """Raise ValueError saying what in the JSON values of a record is missing, of another type, or out of range."""
    if not isinstance(values, dict) or not _PARTS.keys() <= values.keys() <= _PARTS.keys() | {"proofs"}:
        raise ValueError(f"a record has {', '.join(_PARTS)}")
    for name, kind in _PARTS.items():
        if not isinstance(values[name], _TYPES[kind]):
            raise ValueError(f"{name} is {_shown(values[name])}, not of type {kind}")
    for text in _texts(values):
        if len(text) > 1000 or not text.isprintable():
            raise ValueError(f"the text {_shown(text)} has characters that no record has, or is too long")
    stage = values["stage"]
    if stage not in STAGES or not RUN_ID.fullmatch(values["id"]):
        raise ValueError(f"{_shown(values['id'])} is not the name of a run")
    recipe = _checked_recipe(stage, values["config"])
    check_rows(values["metrics"], stage)
    if any((row["train_loss"] is not None) != _learns(recipe, stage) for row in values["metrics"]):
        raise ValueError("a training loss is null where the method learns, or a number where it does not")
    _check_result(values["result"], stage, recipe)
    _check(values["environment"], "the environment", _ENVIRONMENT, _LATER)
    packages = values["environment"].get("packages")
    if not isinstance(packages, dict) or not all(map(_or_null(_TEXT).holds, packages.values())):
        raise ValueError(f"the environment: packages is {_shown(packages)}, not versions")
    proofs = values.get("proofs", [])
    if not isinstance(proofs, list):
        raise ValueError(f"proofs is {_shown(proofs)}")
    for proof in proofs:
        _check(proof, "a proof", _PROOF, {})


def check_rows(rows: Sequence[Any], stage: str) -> None:
    """Raise ValueError saying what in the metrics of a stage's epochs is missing, of another type, or out of range."""
    scores = {"pretrain": {}, "cluster": _CLUSTERS | {"mass": _SHARE}}.get(stage, _SCORES)  # others are of classifiers
    for number, row in enumerate(rows, 1):
        loss = {"train_loss": _or_null(_LOSS)} if stage in ("second", "cluster") else {}  # null: it learns nothing
        _check(row, f"epoch {number}", _EPOCH | loss | scores, {})
        if row["epoch"] != number:
            raise ValueError(f"epoch {number} says that it is epoch {row['epoch']}")
        for name in ("probe", "probe_untrained"):
            if name in row:
                _check(row[name], f"{name} of epoch {number}", _PROBES, {})


def _learns(recipe: Recipe, stage: str) -> bool:
    """Return whether the method of a stage learns, and so has a training loss."""
    if stage == "cluster" and recipe.cluster is not None:
        return clustering.method_of(recipe.cluster).learns
    return stage != "second" or recipe.second is None or method_of(recipe.second).create is not None


def _checked_recipe(stage: str, config: Mapping[str, Any]) -> Recipe:
    try:
        recipe = recipe_of(stage, config)
        loss_of(recipe.finetune)
        if recipe.second is not None:
            method_of(recipe.second)
        if recipe.cluster is not None:
            clustering.method_of(recipe.cluster)
        if recipe.teacher is not None:
            loss_of(recipe.teacher)
        if recipe.meta is not None:
            metaformer.meta_loss(recipe.meta)
        own = recipe.stage(stage)
    except ValueError as error:
        raise ValueError(f"the configuration: {error}") from None
    # As text: 1 and 1.0 are the same value under different digests.
    if json.dumps({**config, "format": RUN_FORMAT}, sort_keys=True) != json.dumps(own, sort_keys=True):
        raise ValueError("the configuration is not that of a recipe")
    return recipe


def _check_result(result: Mapping[str, Any], stage: str, recipe: Recipe) -> None:
    for start in STAGES[stage]:
        source = result.get(f"{start}_run")
        name = isinstance(source, str) and RUN_ID.fullmatch(source) and source.startswith(f"{start}-")
        if source is not None and not name:
            raise ValueError(f"the result: {start}_run is {_shown(source)}, not the name of a run")
    if stage == "pretrain":
        _check(result, "the result", {"train_loss": _LOSS, "steps_per_epoch": _whole(1)}, {})
        return
    classes = recipe.data.num_classes if recipe.data.is_known else _classes(result)
    by_class = {"per_class": _list(_or_null(_PERCENT), classes), "class_counts": _list(_whole(1), classes)}
    if stage == "cluster":
        own = {"evaluation_accuracy": _PERCENT, "sizes": _list(_whole(0), classes)}
        _check(result, "the result", _CLUSTERS | by_class | own | {"matching": _list(_whole(0), classes)}, {})
        return
    later = {"share_to_95": _PERCENT, "fresh": _or_null(_list(_TEXT))}
    _check(result, "the result", _SCORES | by_class, later)
    if stage == "distill":
        depth = MODEL_SIZES[recipe.model.size][1]
        distances = {"attention_distance": _list(_AMOUNT, depth), "early_distance": _AMOUNT}
        _check(result, "the result", distances, {})
    if heads := {"distill": distill.HEADS, "meta": metaformer.HEADS}.get(stage, ()):
        lead = {"tail_lead": _LEAD} if stage == "meta" else {}
        _check(result, "the result", {"heads": _OBJECT, **lead}, {})
        for head in heads:
            _check(result["heads"].get(head), f"{head} of the result", _SCORES | lead, {})
    if "posthoc" in result:
        _check(result["posthoc"], "posthoc of the result", _SCORES, {})
    diagram = result.get("reliability")
    bins = len(diagram["size"]) if isinstance(diagram, dict) and isinstance(diagram.get("size"), list) else None
    parts = {"size": _list(_whole(0)), **dict.fromkeys(("accuracy", "confidence"), _list(_or_null(_SHARE), bins))}
    _check(diagram, "reliability of the result", parts, {})


def _classes(result: Mapping[str, Any]) -> int:
    """Return the number of classes of images of one's own, which the recipe does not say."""
    counts = result.get("class_counts")
    return len(counts) if isinstance(counts, list) else 0


def _check(values: Any, where: str, needed: Mapping[str, _Kind], optional: Mapping[str, _Kind]) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {_shown(values)}")
    for name, kind in {**needed, **optional}.items():
        if name not in values and name in needed:
            raise ValueError(f"{where} lacks {name}")
        if name in values and not kind.holds(values[name]):
            raise ValueError(f"{where}: {name} is {_shown(values[name])}, not {kind.what}")


def _texts(value: Any) -> set[str]:
    """Return all text in JSON values, keys too."""
    found, waiting = set(), [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, dict):
            found.update(value)
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(inner for inner in value if not isinstance(inner, float | int))  # most of a record
    return found


def _shown(value: Any) -> str:
    """Return a value as a message can show it: escaped, and not long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
