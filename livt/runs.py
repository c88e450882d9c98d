"""The run store: what training a recipe leaves on disk, and how to trust it.

``<root>/<stage>-<digest>/`` holds ``config.json``, ``metrics.jsonl`` (a line per epoch), ``environment.json``,
``weights.safetensors`` and ``result.json``; while training, ``resume.pt``. ``result.json`` is written last and lists
the SHA-256 of the others: it is what makes a run finished. Every file appears whole (a temporary name, then a rename),
and a lock makes two processes that ask for one run do the work once.
"""

import hashlib
import io
import json
import math
import os
import pickle
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from tqdm import tqdm

from livt import distributed
from livt.config import Recipe, digest

STAGES = ("pretrain", "finetune")
_SEALED = ("config.json", "metrics.jsonl", "environment.json", "weights.safetensors")
QUICK = 1.0  # seconds: a state that is saved faster is saved after each epoch,
SAVING = 0.05  # a larger one so seldom that saving takes this share of the time


class RunError(RuntimeError):
    """A run that cannot be used: damaged, missing, or contradicting itself. The message names the file."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished run, verified against its own checksums. ``metrics`` has one row per epoch."""

    id: str
    stage: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    result: dict[str, Any]
    environment: dict[str, Any]

    @property
    def recipe(self) -> Recipe:
        """The recipe of a fine-tuning run."""
        return Recipe.from_dict({k: v for k, v in self.config.items() if k not in ("format", "stage")})

    def to_dict(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("id", "stage", "config", "metrics", "result", "environment")}


def write_atomically(path: Path, *content: bytes) -> None:
    """Write a file so that a reader, or a kill at any instant, sees the old content or the new, never a part.

    Raises OSError with the file's own name where the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for part in content:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):  # where nothing can be written, nothing was left
            temporary.unlink(missing_ok=True)


def dump_json(value: Any) -> bytes:
    """Return readable JSON with a fixed key order; ``nan`` (an empty group) becomes null."""
    return (json.dumps(_nan_to_none(value), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _nan_to_none(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(v) for v in value]
    return None if isinstance(value, float) and value != value else value


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def environment(device: torch.device, wall_time_s: float, images: int, waited_s: float) -> dict[str, Any]:
    """Describe where and how a run was made; ``images`` were seen in training over ``wall_time_s`` seconds.

    ``waited_s`` of them this process has waited for images. Memory is the largest that was allocated on one GPU.
    """
    on_gpu = device.type == "cuda"
    return {
        **_git_state(),
        "packages": {name: _version(name) for name in ("livt", "numpy", "timm", "torch", "torchvision")},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "processes": distributed.size(),
        "threads": torch.get_num_threads(),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated(device) / 1e9, 2) if on_gpu else None,
        "waiting_percent": round(100 * waited_s / wall_time_s, 1),
        "wall_time_s": round(wall_time_s, 2),
        "images_per_second": round(images / wall_time_s, 1),
    }


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
def _git_state() -> dict[str, Any]:
    """Return the commit of the source this package runs from, and whether it was changed; None outside a checkout.

    Asked once, when the process opens its first run: later changes of the files do not reach the code it runs.
    """

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(Path(__file__).parent), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    if git("ls-files", "--error-unmatch", __file__) is None:  # installed, perhaps inside somebody else's checkout
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "."))}


class OpenRun:
    """A run whose lock this process holds: restore it, save it after each epoch, finish it.

    ``metrics`` are the rows of the complete epochs. Of several processes that train one run, the leader alone writes.
    """

    def __init__(self, path: Path, config: dict[str, Any], data_digest: str, tensorboard: str = "") -> None:
        self.path = path
        self.tensorboard, self._writer = tensorboard, None
        self.id = path.name
        self.config = config
        self.data_digest = data_digest
        self.metrics: list[dict[str, Any]] = []
        self.saved = 0  # epochs in the saved state
        self._total = 0
        self._wall_time, self._waited, self._waited_before, self._clock = 0.0, 0.0, 0.0, time.monotonic()
        self._saved_at, self._saving = float("-inf"), 0.0  # when the state was last saved, and how long it took
        self.finished = distributed.from_leader((path / "result.json").exists())
        if not distributed.is_leader():
            return
        if self.finished:
            if (path / "resume.pt").exists():  # a kill may have come between the seal and its removal
                (path / "resume.pt").unlink(missing_ok=True)
            return
        _git_state()  # now, while the code on disk is still the code that runs
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(".*.tmp"):
            leftover.unlink()
        write_atomically(path / "config.json", dump_json(config))

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Bring back the last saved state, if there is one.

        Raises RunError for a state that holds more than weights and numbers: no code in it can run; and where several
        processes do not find the same.
        """
        path = self.path / "resume.pt"
        found, content = b"", b""
        if path.exists():
            with open(path, "rb") as file:
                found, content = file.read(32), file.read()
            if hashlib.sha256(content).digest() != found:
                if distributed.is_leader():
                    tqdm.write(f"{path} is damaged: this run starts again from the beginning", file=sys.stderr)
                found = b""
        if not distributed.agree(int.from_bytes(found[:7])):
            raise RunError(f"the processes find different states of {self.path}: the run store is one folder for all")
        if not found:
            return
        try:
            state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        except pickle.UnpicklingError:
            raise RunError(
                f"{path} holds more than weights and numbers, and was not read: it is not from livt; "
                "delete it to start this run again from the beginning"
            ) from None
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        self.metrics, self._wall_time = state["metrics"], state["wall_time_s"]
        self.saved, self._waited_before = len(self.metrics), state.get("waited_s", 0.0)

    def epochs(self, total: int, progress: bool) -> Iterator[int]:
        """Yield the epochs still to train, counted from 0, under a progress bar."""
        self._clock, self._total = time.monotonic(), total
        done = len(self.metrics)
        if self.tensorboard and distributed.is_leader():
            self._writer = _summary_writer()(str(Path(self.tensorboard) / self.id), purge_step=done + 1)
        hidden = not (progress and distributed.is_leader())
        bar = tqdm(range(done, total), self.id, total, initial=done, disable=hidden, unit="epoch", mininterval=1)
        yield from bar

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, row: dict[str, Any], waited: float = 0.0
    ) -> None:
        """Add an epoch's metrics, and save the state after it, unless that takes long and was done a while ago.

        Of the time since the run was opened, ``waited`` seconds went by for want of images.
        """
        now = time.monotonic()
        self._wall_time, self._clock = self._wall_time + now - self._clock, now
        self._waited = self._waited_before + waited
        self.metrics.append(row)
        if not distributed.is_leader():
            return
        recently = now - self._saved_at < self._saving / SAVING
        if len(self.metrics) >= self._total or self._saving < QUICK or not recently:
            self._save_state(model, optimizer)
            self._saved_at = time.monotonic()
            self._saving = self._saved_at - now
        self._write_metrics()
        if self._writer:
            for name, value in _numbers(row):
                self._writer.add_scalar(name, value, row["epoch"])
            self._writer.flush()

    def _save_state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "metrics": self.metrics,
            "wall_time_s": self._wall_time,
            "waited_s": self._waited,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        write_atomically(self.path / "resume.pt", hashlib.sha256(content).digest(), content)
        self.saved = len(self.metrics)

    def _write_metrics(self) -> None:
        rows = (json.dumps(_nan_to_none(row), sort_keys=True, allow_nan=False) + "\n" for row in self.metrics)
        write_atomically(self.path / "metrics.jsonl", "".join(rows).encode())

    def finish(self, weights: dict[str, Tensor], result: dict[str, Any], images: int, device: torch.device) -> None:
        """Write weights and environment, then seal the run with result.json; ``images`` were seen in training."""
        if not distributed.is_leader():
            return
        self._write_metrics()
        about = environment(device, self._wall_time, images, self._waited) | {"data_digest": self.data_digest}
        write_atomically(self.path / "environment.json", dump_json(about))
        tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
        write_atomically(self.path / "weights.safetensors", to_safetensors(tensors, metadata={"format": "pt"}))
        sealed = {"result": result, "files": {name: sha256((self.path / name).read_bytes()) for name in _SEALED}}
        sealed = _nan_to_none(sealed)
        write_atomically(self.path / "result.json", dump_json({**sealed, "sha256": sha256(dump_json(sealed))}))
        (self.path / "resume.pt").unlink(missing_ok=True)


def _numbers(row: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of an epoch's row as (name, value)."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{name}/")
        elif isinstance(value, int | float) and name != "epoch":
            yield above + name, value


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RunError("writing for TensorBoard needs its package: pip install 'livt[tensorboard]'") from None
    return SummaryWriter


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a failed allocation, on a GPU or the CPU, from other errors: PyTorch has one type for the GPU alone."""
    texts = ("DefaultCPUAllocator: ", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    found = isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    return found or isinstance(error, MemoryError | torch.OutOfMemoryError)


def cannot_write(root: Path, error: OSError) -> str:
    """Return what to tell a user whose run store is read-only, or full, or no folder."""
    return f"cannot write to the run store {root}: {error.strerror}; choose another with --runs DIR or LIVT_RUNS"


class RunStore:
    """All runs below one folder: ``root``, else ``$LIVT_RUNS``, else ``runs/``.

    ``tensorboard``: a folder that gets each epoch's numbers for TensorBoard as well.
    """

    def __init__(self, root: Path | str = "", tensorboard: str = "") -> None:
        self.root = Path(root or os.environ.get("LIVT_RUNS") or "runs")
        self.tensorboard = tensorboard
        if tensorboard:
            _summary_writer()  # said before anything trains

    @staticmethod
    def id(config: dict[str, Any], data_digest: str) -> str:
        """Return the run id of a stage configuration and its data, ``<stage>-<digest>``."""
        return f"{config['stage']}-{digest(config, data_digest)}"

    @contextmanager
    def open(self, config: dict[str, Any], data_digest: str, device: torch.device | None = None) -> Iterator[OpenRun]:
        """Hold the lock of the run of this stage configuration and data; wait while another process holds it.

        ``device``: a GPU whose peak memory is that of this run.

        Raises RunError where the store cannot be written, and where memory runs out under the lock.
        """
        path = self.root / self.id(config, data_digest)
        lock = FileLock(self.root / f".{path.name}.lock")
        try:
            if distributed.is_leader() and not self.is_finished(path.name):
                self.root.mkdir(parents=True, exist_ok=True)
            waiting = not self._acquire(lock, path.name, 0)
            if waiting and distributed.is_leader():
                tqdm.write(f"{path.name}: another process is training this run; waiting for it", file=sys.stderr)
            while waiting:
                waiting = not self._acquire(lock, path.name, 10)
        except OSError as error:
            raise RunError(cannot_write(self.root, error)) from None
        try:
            run = OpenRun(path, config, data_digest, self.tensorboard)
            if device and device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            yield run
        except (MemoryError, RuntimeError) as error:
            if distributed.is_lost(error):
                raise RunError(
                    f"another process that trains {path.name} has ended, as its own message says; the same command "
                    "goes on from the last saved epoch"
                ) from None
            if "out of shared memory" in str(error):
                raise RunError(
                    f"no shared memory is left for the processes that load images for {path.name}: give more "
                    "(docker run --shm-size=16g), or train with --workers 0; the same command goes on from the last "
                    "saved epoch"
                ) from None
            if "DataLoader worker (pid" in str(error):  # at any instant: PyTorch watches for their death
                raise RunError(
                    f"a process that loads images for {path.name} was killed, perhaps for lack of memory: try fewer "
                    "--workers; the same command goes on from the last saved epoch"
                ) from None
            if not is_out_of_memory(error):
                raise
            stage = config[config["stage"]]
            raise RunError(
                f"out of memory while training {path.name}: add --checkpointing (slower; this run goes on from its "
                f"last saved epoch), or train another run with more {config['stage']}.accumulation_steps (now "
                f"{stage['accumulation_steps']}; the batch of {stage['batch_size']} is then worked off in smaller "
                "parts) or a smaller model.size"
            ) from None
        finally:
            lock.release()

    def _acquire(self, lock: FileLock, run_id: str, seconds: float) -> bool:
        """Let the leader get the lock of a run for all processes, unless the run is finished; tell whether that is so.

        One exchange between the processes lasts no longer than ``seconds``.
        """
        got = True
        if distributed.is_leader() and not self.is_finished(run_id):
            try:
                lock.acquire(timeout=seconds)
            except Timeout:
                got = False
        return distributed.from_leader(got)

    def ids(self) -> list[str]:
        """Return the names of all runs, finished or not, sorted."""
        folders = (p for stage in STAGES for p in self.root.glob(f"{stage}-*") if p.is_dir())
        return sorted(p.name for p in folders)

    def find(self, name: str) -> str:
        """Return the id of the one run whose name or digest begins with ``name``."""
        matches = [i for i in self.ids() if i.startswith(name) or i.split("-", 1)[1].startswith(name)]
        if len(matches) == 1:
            return matches[0]
        found = f"fits {', '.join(matches)}" if matches else "fits none"
        raise RunError(f"no single run {name!r} in {self.root}: it {found}")

    def progress(self, run_id: str) -> int:
        """Return the number of complete epochs of a run, also of one in training."""
        try:
            return (self.root / run_id / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def is_finished(self, run_id: str) -> bool:
        return (self.root / run_id / "result.json").exists()

    def load(self, run_id: str) -> Record:
        """Return a finished run, after checking every file. Raises RunError naming what is missing or damaged."""
        path = self.root / run_id
        if not path.is_dir():
            raise RunError(f"there is no run {run_id} in {self.root}")
        if not (path / "result.json").exists():
            raise RunError(f"{path / 'result.json'} is missing: the run is not finished; train it again")
        remedy = f"the run is damaged; delete the folder {path} to train it anew"

        sealed = _read_json(path / "result.json", remedy)
        if not isinstance(sealed, dict) or set(sealed) != {"result", "files", "sha256"}:
            raise RunError(f"{path / 'result.json'} lacks its entries: {remedy}")
        if sealed.pop("sha256") != sha256(dump_json(sealed)):
            raise RunError(f"{path / 'result.json'} does not match its checksum: {remedy}")
        for name in _SEALED:
            if not (path / name).exists():
                raise RunError(f"{path / name} is missing: {remedy}")
            if sha256((path / name).read_bytes()) != sealed["files"][name]:
                raise RunError(f"{path / name} does not match its checksum: {remedy}")
        config = _read_json(path / "config.json", remedy)
        environment = _read_json(path / "environment.json", remedy)
        if run_id != self.id(config, environment["data_digest"]):
            raise RunError(f"{path / 'config.json'} is not the configuration of {run_id}: {remedy}")
        rows = (path / "metrics.jsonl").read_text().splitlines()
        return Record(
            id=run_id,
            stage=config["stage"],
            config=config,
            metrics=[json.loads(row) for row in rows],
            result=sealed["result"],
            environment=environment,
        )

    def load_for_all(self, run_id: str) -> Record:
        """Return :meth:`load` of the leader in each process of a training: others may not see its files yet."""
        return distributed.from_leader(self.load(run_id) if distributed.is_leader() else None)

    def weights(self, run_id: str) -> Path:
        """Return the weights file of a run; ``load`` has verified it."""
        return self.root / run_id / "weights.safetensors"


def _read_json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is not readable JSON ({error}): {remedy}") from None


def check_record(values: Mapping[str, Any], source: str) -> Record:
    """Return a record read from JSON, or raise RunError naming ``source`` and what contradicts its configuration.

    Checked: the digest of configuration and data, the number of epochs, the peak learning rate, and that the result is
    that of the last epoch.
    """
    try:
        record = Record(**values)
        score = "train_loss" if record.stage == "pretrain" else "accuracy"
        stage = record.config[record.stage]
        found = {
            "digest": RunStore.id(record.config, record.environment["data_digest"]),
            "epochs": [row["epoch"] for row in record.metrics],
            "peak learning rate": max(row["lr"] for row in record.metrics),
            f"last {score}": record.metrics[-1][score],
        }
        expected = {
            "digest": record.id,
            "epochs": list(range(1, stage["epochs"] + 1)),
            "peak learning rate": stage["base_lr"] * stage["batch_size"] / 256,
            f"last {score}": record.result[score],
        }
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise RunError(f"{source} is not a run record: {error!r}") from None
    for name, value in expected.items():
        same = math.isclose(found[name], value, rel_tol=1e-6) if isinstance(value, float) else found[name] == value
        if not same:
            raise RunError(f"{source}: the {name} is {found[name]}, but its configuration or result says {value}")
    return record


def promote(store: RunStore, run_id: str, folder: Path) -> Path:
    """Write a finished run as a small JSON record into ``folder``; refuse one that contradicts its configuration."""
    record = check_record(store.load(run_id).to_dict(), str(store.root / run_id))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run_id}.json"
    for leftover in folder.glob(f".{path.name}.*.tmp"):  # a kill may have left one
        leftover.unlink(missing_ok=True)
    write_atomically(path, dump_json({**record.to_dict(), "sha256": sha256(dump_json(record.to_dict()))}))
    return path


def read_promoted(folder: Path) -> dict[str, Record]:
    """Return the promoted records of a folder by run id, each checked."""
    records = {}
    for path in sorted(folder.glob("*.json")):
        values = _read_json(path, "promote the run again")
        seal = values.pop("sha256", None) if isinstance(values, dict) else None
        record = check_record(values, str(path))
        if seal != sha256(dump_json(record.to_dict())) or path.stem != record.id:
            raise RunError(f"{path} was changed after its promotion: promote the run again")
        records[record.id] = record
    return records
