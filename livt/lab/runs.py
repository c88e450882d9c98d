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
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from tqdm import tqdm

from livt import distributed
from livt.config import STAGES, Recipe, digest
from livt.lab import orphans
from livt.lab.check import RUN_ID, check_rows, check_values, recipe_of
from livt.lab.environment import environment, git_state
from livt.lab.failures import RunError, cannot_write, explained
from livt.lab.files import dump_json, flat, nan_to_none, parse_json, read_bytes, read_json, sha256, write_atomically
from livt.lab.weights import shapes

_SEALED = ("config.json", "metrics.jsonl", "environment.json", "weights.safetensors")
QUICK = 1.0  # seconds: a state that is saved faster is saved after each epoch,
SAVING = 0.05  # a larger one so seldom that saving takes this share of the time


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished run, verified against its own checksums. ``metrics`` has one row per epoch.

    ``proofs``: when the run was trained again, by what code and where, and whether it was equal to the bit.
    """

    id: str
    stage: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    result: dict[str, Any]
    environment: dict[str, Any]
    proofs: tuple[dict[str, Any], ...] = ()

    @property
    def recipe(self) -> Recipe:
        """A recipe that trains this run; what the run does not depend on is anything (``livt.lab.check.recipe_of``)."""
        return recipe_of(self.stage, self.config)

    @property
    def code(self) -> str:
        """The digest of the code that trained the run; of one from before it was recorded, the commit."""
        return self.environment.get("code") or f"commit {(self.environment['commit'] or 'unknown')[:10]}"

    def to_dict(self) -> dict[str, Any]:
        values = {k: getattr(self, k) for k in ("id", "stage", "config", "metrics", "result", "environment")}
        return values | ({"proofs": list(self.proofs)} if self.proofs else {})


class OpenRun:
    """A run whose lock this process holds: restore it, save it after each epoch, finish it.

    ``metrics`` are the rows of the complete epochs, ``images`` are those of an epoch, where they are known. Of several
    processes that train one run, the leader alone writes.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        data_digest: str,
        code: str = "",
        tensorboard: str = "",
        images: int = 0,
    ) -> None:
        self.path = path
        self.images = images
        self._bar: tqdm | None = None
        self.code = code
        self.sources: dict[str, str] = {}  # by stage: the runs that this one starts from
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
        git_state()  # now, while the code on disk is still the code that runs
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(".*.tmp"):
            leftover.unlink()
        write_atomically(path / "config.json", dump_json(config))

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Bring back the last saved state, if there is one that fits.

        One that is damaged, of another model, or of other training code is set aside, never deleted, and the run starts
        again. It is read as weights and numbers only: no code in it can run. Raises RunError where several processes do
        not find the same.
        """
        path = self.path / "resume.pt"
        content = read_bytes(path, "move it away; this run then starts again") if path.exists() else None
        if not distributed.agree(-1 if content is None else int.from_bytes(content[:7])):
            raise RunError(f"the processes find different states of {self.path}: the run store is one folder for all")
        if content is None:
            return
        try:
            state = self._read_state(content, model, optimizer)
        except ValueError as error:
            if distributed.is_leader():
                aside = path.with_name(f"resume-{sha256(content)[:8]}.pt")
                os.replace(path, aside)
                said = f"{path} {error}: it is kept as {aside.name}, and this run starts again from the beginning"
                tqdm.write(said, file=sys.stderr)
            return
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        self.metrics, self._wall_time = state["metrics"], state["wall_time_s"]
        self.saved, self._waited_before = len(self.metrics), state.get("waited_s", 0.0)

    def _read_state(self, content: bytes, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return a saved state that fits the model and the optimizer. Raises ValueError saying what is wrong."""
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("is damaged")
        try:
            state = torch.load(io.BytesIO(content[32:]), weights_only=True, map_location="cpu")
        except pickle.UnpicklingError:
            raise ValueError("holds more than weights and numbers, and was not read") from None
        except Exception:  # a damaged pickle can fail in any way
            raise ValueError("is no saved state") from None
        if not isinstance(state, dict) or not {"model", "optimizer", "metrics", "wall_time_s"} <= state.keys():
            raise ValueError("is no saved state")
        if state.get("code", self.code) != self.code:
            raise ValueError("was saved by other training code")
        try:
            own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
            if {name: tuple(value.shape) for name, value in state["model"].items()} != own:
                raise ValueError("is of another model")
            self._check_optimizer(state["optimizer"], optimizer)
            rows = nan_to_none(state["metrics"])
            check_rows(rows, self.config["stage"])
            if len(rows) > self.config[self.config["stage"]]["epochs"]:
                raise ValueError(f"has {len(rows)} epochs, more than its configuration")
            times = (state["wall_time_s"], state.get("waited_s", 0.0))
            if not all(isinstance(seconds, float) and 0 <= seconds < math.inf for seconds in times):
                raise ValueError("is no saved state")
        except (AttributeError, KeyError, IndexError, TypeError, RuntimeError):
            raise ValueError("is no saved state") from None
        return state

    @staticmethod
    def _check_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Raise ValueError, or an error of a missing or ill-typed part, where a state is not one of the optimizer's."""
        own = optimizer.state_dict()["param_groups"]
        # The learning rate is set anew for each step; all else follows from the recipe.
        if [{**group, "lr": 0} for group in state["param_groups"]] != [{**group, "lr": 0} for group in own]:
            raise ValueError("is of another optimizer")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, moments in state["state"].items():
            if moments.keys() != {"step", "exp_avg", "exp_avg_sq"}:
                raise ValueError("is of another optimizer")
            if any(value.shape != parameters[number].shape for value in (moments["exp_avg"], moments["exp_avg_sq"])):
                raise ValueError("is of another model")
            if moments["step"].numel() != 1:
                raise ValueError("is of another optimizer")

    def epochs(self, total: int, progress: bool) -> Iterator[int]:
        """Yield the epochs still to train, counted from 0, under a progress bar of their images."""
        self._clock, self._total = time.monotonic(), total
        done = len(self.metrics)
        if self.tensorboard and distributed.is_leader():
            self._writer = _summary_writer()(str(Path(self.tensorboard) / self.id), purge_step=done + 1)
        hidden = not (progress and distributed.is_leader())
        each, unit = (self.images, "image") if self.images else (1, "epoch")
        with tqdm(
            desc=self.id,
            total=total * each,
            initial=done * each,
            disable=hidden,
            unit=unit,
            unit_scale=True,
            mininterval=1,
        ) as self._bar:
            self._bar.set_postfix_str(progress_text(done, total, self.metrics[-1:]))
            for epoch in range(done, total):
                yield epoch
                self._bar.update(each)

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
        if self._bar is not None:
            self._bar.set_postfix_str(progress_text(len(self.metrics), self._total, self.metrics[-1:]), refresh=False)
        if not distributed.is_leader():
            return
        recently = now - self._saved_at < self._saving / SAVING
        if len(self.metrics) >= self._total or self._saving < QUICK or not recently:
            self._save_state(model, optimizer)
            self._saved_at = time.monotonic()
            self._saving = self._saved_at - now
        self._write_metrics()
        if self._writer:
            for name, value in flat(row):
                if isinstance(value, int | float) and name != "epoch":
                    self._writer.add_scalar(name.replace(".", "/"), value, row["epoch"])
            self._writer.flush()

    def _save_state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        state = {
            "code": self.code,
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
        rows = (json.dumps(nan_to_none(row), sort_keys=True, allow_nan=False) + "\n" for row in self.metrics)
        write_atomically(self.path / "metrics.jsonl", "".join(rows).encode())

    def finish(self, weights: dict[str, Tensor], result: dict[str, Any], images: int, device: torch.device) -> None:
        """Write weights and environment, then seal the run with result.json; ``images`` were seen in training."""
        if not distributed.is_leader():
            return
        self._write_metrics()
        about = environment(device, self._wall_time, images, self._waited)
        about |= {"data_digest": self.data_digest, "code": self.code}
        write_atomically(self.path / "environment.json", dump_json(about))
        tensors = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
        write_atomically(self.path / "weights.safetensors", to_safetensors(tensors, metadata={"format": "pt"}))
        starts = (stage for stage in STAGES[self.config["stage"]] if stage in self.config)
        result = result | {f"{stage}_run": self.sources.get(stage) for stage in starts}
        sealed = {"result": result, "files": {name: sha256((self.path / name).read_bytes()) for name in _SEALED}}
        sealed = nan_to_none(sealed)
        write_atomically(self.path / "result.json", dump_json({**sealed, "sha256": sha256(dump_json(sealed))}))
        (self.path / "resume.pt").unlink(missing_ok=True)


def progress_text(done: int, total: int, last: Sequence[Mapping[str, Any]]) -> str:
    """Return how far a run is, and the scores of its last epoch, if it has one.

    >>> progress_text(1, 20, [{"train_loss": 2.5, "accuracy": 31.25, "few": float("nan")}])
    'epoch 1/20, loss 2.500, accuracy 31.2'
    """
    parts = [f"epoch {done}/{total}"]
    for row in last:
        for name, key, form in (("loss", "train_loss", ".3f"), ("accuracy", "accuracy", ".1f"), ("few", "few", ".1f")):
            value = row.get(key)  # null as stored, nan as found, for an empty group
            if value is not None and value == value:
                parts.append(f"{name} {value:{form}}")
    return ", ".join(parts)


def damaged(folder: Path) -> str:
    """Return what to do about a run that cannot be used."""
    return f"the run is damaged; delete the folder {folder} to train it anew"


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RunError("writing for TensorBoard needs its package: pip install 'livt[tensorboard]'") from None
    return SummaryWriter


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
    def open(
        self,
        config: dict[str, Any],
        data_digest: str,
        device: torch.device | None = None,
        code: str = "",
        images: int = 0,
    ) -> Iterator[OpenRun]:
        """Hold the lock of the run of this stage configuration and data; wait while another process holds it.

        ``device``: a GPU whose peak memory is that of this run. ``code``: the digest of the code that trains it.
        ``images``: those of an epoch, for the progress bar.

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
            run = OpenRun(path, config, data_digest, code, self.tensorboard, images)
            if device and device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            with orphans.none():
                yield run
        except (MemoryError, RuntimeError) as error:
            told = explained(error, path.name, config)
            if told is None:
                raise
            raise told from None
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
        return sorted(p.name for p in self.root.glob("*-*") if RUN_ID.fullmatch(p.name) and p.is_dir())

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

    def last_row(self, run_id: str) -> list[dict[str, Any]]:
        """Return the metrics of a run's last complete epoch, also of one in training; nothing where there is none."""
        try:
            row = parse_json((self.root / run_id / "metrics.jsonl").read_bytes().splitlines()[-1])
        except (OSError, IndexError, ValueError):
            return []
        return [row] if isinstance(row, dict) else []

    def latest(self, run_ids: Iterable[str]) -> str:
        """Return which of some runs has last completed an epoch, or ""."""
        times = {}
        for run_id in run_ids:
            with suppress(OSError):
                times[run_id] = (self.root / run_id / "metrics.jsonl").stat().st_mtime_ns
        return max(times, key=times.__getitem__, default="")

    def is_finished(self, run_id: str) -> bool:
        return (self.root / run_id / "result.json").exists()

    def load(self, run_id: str) -> Record:
        """Return a finished run, after checking every file. Raises RunError naming what is missing or damaged."""
        path = self.root / run_id
        if not path.is_dir():
            raise RunError(f"there is no run {run_id} in {self.root}")
        if not (path / "result.json").exists():
            raise RunError(f"{path / 'result.json'} is missing: the run is not finished; train it again")
        remedy = damaged(path)
        sealed = read_json(path / "result.json", remedy)
        if not isinstance(sealed, dict) or set(sealed) != {"result", "files", "sha256"}:
            raise RunError(f"{path / 'result.json'} lacks its entries: {remedy}")
        if sealed.pop("sha256") != sha256(dump_json(sealed)):
            raise RunError(f"{path / 'result.json'} does not match its checksum: {remedy}")
        if not isinstance(sealed["files"], dict) or set(sealed["files"]) != set(_SEALED):
            raise RunError(f"{path / 'result.json'} lacks its entries: {remedy}")
        for name in _SEALED:
            if not (path / name).exists():
                raise RunError(f"{path / name} is missing: {remedy}")
            if sha256(read_bytes(path / name, remedy)) != sealed["files"][name]:
                raise RunError(f"{path / name} does not match its checksum: {remedy}")
        config = read_json(path / "config.json", remedy)
        proofs = path / "proofs.json"
        values = {
            "id": run_id,
            "stage": config.get("stage") if isinstance(config, dict) else None,
            "config": config,
            "metrics": self._rows(path / "metrics.jsonl", remedy),
            "result": sealed["result"],
            "environment": read_json(path / "environment.json", remedy),
            "proofs": read_json(proofs, f"delete {proofs}") if proofs.exists() else [],
        }
        try:
            check_values(values)
        except ValueError as error:
            raise RunError(f"{path}: {error}: {remedy}") from None
        if run_id != self.id(config, values["environment"]["data_digest"]):
            raise RunError(f"{path / 'config.json'} is not the configuration of {run_id}: {remedy}")
        try:
            shapes(path / "weights.safetensors")
        except ValueError as error:
            raise RunError(f"{path / 'weights.safetensors'} {error}: {remedy}") from None
        return Record(**{**values, "proofs": tuple(values["proofs"])})

    @staticmethod
    def _rows(path: Path, remedy: str) -> list[Any]:
        try:
            return [parse_json(line) for line in read_bytes(path, remedy).splitlines()]
        except ValueError as error:
            raise RunError(f"{path} is not readable JSON ({error}): {remedy}") from None

    def load_for_all(self, run_id: str) -> Record:
        """Return :meth:`load` of the leader in each process of a training: others may not see its files yet."""
        return distributed.from_leader(self.load(run_id) if distributed.is_leader() else None)

    def weights(self, run_id: str) -> Path:
        """Return the weights file of a run; ``load`` has verified it."""
        return self.root / run_id / "weights.safetensors"
