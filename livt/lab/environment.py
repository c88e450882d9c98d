"""Where and how a run was made: versions, hardware, time, and the code that trained it."""

import ast
import hashlib
import importlib
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import livt
from livt import distributed

PACKAGE = Path(livt.__file__).parent
# Modules that training imports and that leave no trace of their own in its result: they say what to train, which the
# configuration of a run holds; read images, whose digest it holds; describe a run; or connect processes.
UNCOUNTED = {
    "livt",
    "livt.config",
    "livt.data",
    "livt.data.images",
    "livt.data.readers",
    "livt.data.sets",
    "livt.distributed",
    "livt.rival_sections",
    "livt.run",
    "livt.sections",
}


def environment(device: torch.device, wall_time_s: float, images: int, waited_s: float) -> dict[str, Any]:
    """Describe where and how a run was made; ``images`` were seen in training over ``wall_time_s`` seconds.

    ``waited_s`` of them this process has waited for images. Memory is the largest that was allocated on one GPU.
    """
    on_gpu = device.type == "cuda"
    return {
        **git_state(),
        "packages": {name: _version(name) for name in ("livt", "numpy", "timm", "torch", "torchvision")},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "device": device_name(device),
        "processes": distributed.size(),
        "threads": torch.get_num_threads(),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2) if on_gpu else None,
        "waiting_percent": round(100 * waited_s / wall_time_s, 1),
        "wall_time_s": round(wall_time_s, 2),
        "images_per_second": round(images / wall_time_s, 1),
    }


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    """Return the name of the CPU; Linux alone tells more than its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # livt itself, run from a checkout that is not installed
        return None


@cache
def git_state() -> dict[str, Any]:
    """Return the commit of the source this package runs from, and whether it was changed; None outside a checkout.

    Asked once, when the process opens its first run: later changes of the files do not reach the code it runs.
    """

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(PACKAGE), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    if git("ls-files", "--error-unmatch", livt.__file__) is None:  # installed, perhaps inside somebody else's checkout
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}


def code_of(*modules: str) -> str:
    """Return the digest, 12 hexadecimal digits, of the code of modules and of all of this package that they import.

    What cannot change a result does not count: comments, docstrings, annotations, formatting, and the modules
    ``UNCOUNTED``.
    """
    content = hashlib.sha256()
    for name in sorted(_closure(modules)):
        content.update(f"{name} {_meaning(name)}\n".encode())
    return content.hexdigest()[:12]


def _closure(modules: tuple[str, ...]) -> set[str]:
    """Return the modules and those of this package that they import, at whatever remove."""
    found, waiting = set[str](), [name for name in modules if name.startswith("livt.")]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in _imports(name) if other not in UNCOUNTED]
    return found


@cache
def _tree(name: str) -> ast.Module:
    file = importlib.import_module(name).__file__
    assert file is not None
    return ast.parse(Path(file).read_bytes())


@cache
def _imports(name: str) -> tuple[str, ...]:
    """Return the modules of this package that a module imports, also inside functions."""
    found = []
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    own = (other for other in found if other.startswith("livt."))
    return tuple(other for other in own if _is_module(other))


def _is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@cache
def _meaning(name: str) -> str:
    return " ".join(_words(_tree(name)))


def _words(node: ast.AST) -> Iterator[str]:
    """Yield a syntax tree as words that no comment, docstring, annotation, or version of Python's parser changes."""
    yield type(node).__name__
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_comment", "type_params", "kind", "ctx", "type_ignores"):
            continue
        values = value if isinstance(value, list) else [value]
        for part in values:
            if (
                isinstance(part, ast.Expr)
                and isinstance(part.value, ast.Constant)
                and isinstance(part.value.value, str)
            ):
                continue  # a docstring
            if isinstance(part, ast.Import | ast.ImportFrom):  # where from does not matter: what is there counts itself
                yield from (f"import={alias.name} {alias.asname}" for alias in part.names)
            elif isinstance(part, ast.AST):
                yield f"{field}:"
                yield from _words(part)
            elif part is not None:
                yield f"{field}={part!r}"
