"""Finished runs as one file: written on one machine, verified on the way into the run store of another.

The file is a plain tar of ``<stage>-<digest>/<file>`` members, sorted by name, without times, owners or compression
(weights do not compress): the same runs make the same bytes. Import reads the headers itself, because an archive may
come from anywhere: tarfile would follow links, sparse files and extended headers, none of which a run has.
"""

import os
import re
import shutil
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from livt.lab.check import RUN_ID
from livt.lab.failures import RunError, cannot_write
from livt.lab.files import write_atomically
from livt.lab.promoted import check_record
from livt.lab.runs import STAGES, Record, RunStore
from livt.lab.stages import load_weights

FILES = ("config.json", "environment.json", "metrics.jsonl", "result.json", "weights.safetensors")
_MOST = 10_000 * len(FILES)  # members of an archive
# Bytes of a member: iNaturalist's classes and a thousand epochs take a megabyte, the largest model and decoder 1.4e9.
_LARGEST = {".json": 2**26, ".jsonl": 2**26, ".safetensors": 2**32}
_MEMBER = re.compile(rf"{RUN_ID.pattern}/({'|'.join(map(re.escape, FILES))})")
_REMEDY = "nothing was imported; export the runs again, or copy the archive again"


def export_runs(store: RunStore, run_ids: Collection[str], target: Path) -> list[str]:
    """Write finished runs, and the runs that they start from, as one archive; return the ids in it.

    No ids means all finished runs. Raises RunError for a run that is missing, unfinished or damaged.
    """
    records = [store.load(run_id) for run_id in run_ids or filter(store.is_finished, store.ids())]
    if not records:
        raise RunError(f"there is no finished run in {store.root}")
    chosen = {record.id for record in records}
    for record in records:  # which grows: what a run starts from starts from others
        for source in filter(None, (record.result.get(f"{stage}_run") for stage in STAGES)):
            if source in chosen:
                continue
            try:
                records.append(store.load(source))
                chosen.add(source)
            except RunError as error:
                raise RunError(f"{record.id} starts from {source}: {error}") from None

    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
                for name in (f"{run_id}/{part}" for run_id in sorted(chosen) for part in FILES):
                    member = tarfile.TarInfo(name)
                    member.size = (store.root / name).stat().st_size
                    with open(store.root / name, "rb") as content:
                        tar.addfile(member, content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return sorted(chosen)


def import_runs(store: RunStore, archive: Path) -> dict[str, bool]:
    """Bring the runs of an archive into the store; return by run id whether it is new there.

    All runs are verified before the first is put in place, each by one rename under its lock. A finished run of the
    store stays as it is. Raises RunError, and changes no run, for an archive that is damaged or holds anything but
    runs, and for a run whose result in the store is another; also at a run that another process is training.
    """
    try:
        file = open(archive, "rb")  # noqa: SIM115
    except OSError as error:
        raise RunError(f"{archive} cannot be read ({error.strerror}): give a file that `runs export` wrote") from None
    with file:
        members = _members(file, archive)
        try:
            store.root.mkdir(parents=True, exist_ok=True)
            lock = FileLock(store.root / ".import.lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"another process is importing into {store.root}: import again when it has ended") from None
        except OSError as error:
            raise RunError(cannot_write(store.root, error)) from None
        arrivals = RunStore(store.root / ".import")
        try:
            _remove(arrivals.root)  # a kill may have left one
            # Pretraining first: a kill leaves no fine-tuning run without its start.
            run_ids = sorted({name.partition("/")[0] for name in members}, reverse=True)
            records = []
            for run_id in run_ids:  # the first that is not sound ends the work
                _extract(file, run_id, members, arrivals.root)
                records.append(_verified(arrivals, run_id, archive))
            new = {record.id: not _is_here(store, record, archive) for record in records}
            for record in records:
                new[record.id] = new[record.id] and _put_in_place(store, arrivals, record, archive)
        finally:
            _remove(arrivals.root)
            lock.release()
    return new


def _members(file: BinaryIO, archive: Path) -> dict[str, tuple[int, int]]:
    """Return where each member's content lies, (first byte, bytes), by name; nothing is written yet."""
    end, position, last = file.seek(0, os.SEEK_END), 0, ""
    found: dict[str, tuple[int, int]] = {}
    while True:
        file.seek(position)
        header = file.read(tarfile.BLOCKSIZE)
        if found and header == bytes(tarfile.BLOCKSIZE):
            return found
        if found and len(header) < tarfile.BLOCKSIZE:
            raise RunError(f"{archive} is cut short after {last}: {_REMEDY}")
        try:
            member = tarfile.TarInfo.frombuf(header, "ascii", "backslashreplace")
        except tarfile.HeaderError:
            what = f"{archive}: what follows {last} is damaged" if found else f"{archive} is not an archive of runs"
            raise RunError(f"{what}: {_REMEDY}") from None
        if not _MEMBER.fullmatch(member.name):
            raise RunError(f"{archive}: {member.name!r} is not a file of a run; nothing was imported")
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise RunError(f"{archive}: {member.name} is not a plain file; nothing was imported")
        if member.name in found:
            raise RunError(f"{archive}: {member.name} appears twice; nothing was imported")
        last, position = member.name, position + tarfile.BLOCKSIZE
        if not 0 <= member.size <= end - position:
            raise RunError(f"{archive} is cut short in {last}: {_REMEDY}")
        if member.size > _LARGEST[Path(last).suffix]:
            raise RunError(f"{archive}: {last} has {member.size} bytes, more than any run's; nothing was imported")
        if len(found) == _MOST:
            raise RunError(f"{archive} has more than {_MOST // len(FILES)} runs; nothing was imported")
        found[last] = position, member.size
        position += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _extract(file: BinaryIO, run_id: str, members: dict[str, tuple[int, int]], folder: Path) -> None:
    """Write the files of one run below ``folder``."""
    (folder / run_id).mkdir(parents=True)
    for name in (f"{run_id}/{part}" for part in FILES):
        if name in members:
            start, size = members[name]
            file.seek(start)
            write_atomically(folder / name, file.read(size))


def _verified(arrivals: RunStore, run_id: str, archive: Path) -> Record:
    """Return the record of an extracted run, or raise RunError naming the archive and the member that is wrong."""
    try:
        record = arrivals.load(run_id)
        load_weights(record, arrivals)
        return check_record(record.to_dict(), str(arrivals.root / run_id))
    except RunError as error:
        what, _, _ = str(error).replace(f"{arrivals.root}{os.sep}", "").partition(": the run is ")  # advice for a store
        raise RunError(f"{archive}: {what}: {_REMEDY}") from None


def _is_here(store: RunStore, record: Record, archive: Path) -> bool:
    """Return whether the store has this run, finished; one with another result is refused."""
    if not store.is_finished(record.id):
        return False
    if store.load(record.id).result != record.result:
        raise RunError(
            f"{archive}: {record.id} is in {store.root} with another result, which stays; "
            f"to import this one, delete the folder {store.root / record.id}"
        )
    return True


def _put_in_place(store: RunStore, arrivals: RunStore, record: Record, archive: Path) -> bool:
    """Rename a verified run into the store; return False where another process has finished it meanwhile."""
    target = store.root / record.id
    lock = FileLock(store.root / f".{record.id}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"{record.id}: another process is training this run; import again when it has ended") from None
    try:
        if _is_here(store, record, archive):
            return False
        if target.is_dir():  # training was interrupted: its end has arrived
            os.replace(target, arrivals.root / f"{record.id}.unfinished")
        os.replace(arrivals.root / record.id, target)
    finally:
        lock.release()
    return True


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
