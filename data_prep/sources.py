"""What comes in: official lists of images, published class counts, archives and their download."""

import argparse
import gzip
import hashlib
import http.client
import os
import tarfile
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from prepare import Contents, Plan
from storage import Entry, PrepareError, progress

CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ImageList:
    """The lines of an official list. ``official`` is None where no checksum of the list is known."""

    name: str
    records: list[tuple[str, int]]
    sha256: str
    official: bool | None

    @property
    def labels(self) -> list[int]:
        return [label for _, label in self.records]


def is_safe(path: str) -> bool:
    """Tell whether a relative path stays in the folder that it is joined to, on any system."""
    pure = PurePosixPath(path)
    return bool(pure.parts) and not pure.is_absolute() and ".." not in pure.parts and not set(path) & set("\\:\0")


# ---------------------------------------------------------------- lists


def read_list(folder: Path, name: str, num_classes: int, known: str, obtain: str) -> ImageList:
    """Read ``folder/name``, or the same with ``.gz``: a line ``path label`` for each image.

    known: the list's SHA-256, or ``git:`` and its git blob id; a list with another is used if its counts agree.
    """
    text = read_text(folder, name, obtain)
    records: list[tuple[str, int]] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.decode(errors="replace").splitlines(), start=1):
        where = f"{folder / name}, line {number}"
        path, _, label = line.rpartition(" ")
        if not (path and label.isdecimal()):
            raise PrepareError(f"{where} is not 'path label': {line[:80]!r}; {obtain}")
        if not is_safe(path):
            raise PrepareError(f"{where}: the path {path!r} leaves its folder; {obtain}")
        if int(label) >= num_classes:
            raise PrepareError(f"{where}: label {label} is not in 0 to {num_classes - 1}; {obtain}")
        if path in lines:
            raise PrepareError(f"{where}: {path} stands in line {lines[path]} too; {obtain}")
        lines[path] = number
        records.append((path, int(label)))
    sha256 = hashlib.sha256(text).hexdigest()
    found = "git:" + hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()
    return ImageList(name=name, records=records, sha256=sha256, official=known in (sha256, found) if known else None)


def read_text(folder: Path, name: str, obtain: str) -> bytes:
    """Return the content of ``folder/name``, else of ``folder/name.gz``."""
    try:
        if (folder / name).is_file():
            return (folder / name).read_bytes()
        return gzip.decompress((folder / f"{name}.gz").read_bytes())
    except FileNotFoundError:
        raise PrepareError(f"{folder} holds neither {name} nor {name}.gz; {obtain}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise PrepareError(f"{folder / name}.gz does not unpack ({error}); {obtain}") from None


def check_counts(name: str, labels: Sequence[int], published: Sequence[int], classes: Sequence[str]) -> None:
    """Raise PrepareError where a class does not have the published number of images."""
    found = Counter(labels)
    wrong = [c for c, count in enumerate(published) if found[c] != count]
    if wrong:
        c = wrong[0]
        raise PrepareError(
            f"{name}: class {c} ({classes[c]}) has {found[c]} images, published are {published[c]} ({len(wrong)} such "
            f"classes; {len(labels):,} images in all, published are {sum(published):,}): obtain the official one"
        )


def entries_of(split: str, images: ImageList, root: Path, folders: Sequence[str]) -> list[Entry]:
    """Return the images of a list; ``folders[label]`` is the class's folder in the target."""
    entries: list[Entry] = []
    seen: dict[str, str] = {}
    for path, label in images.records:
        target = f"{split}/{folders[label]}/{PurePosixPath(path).name}"
        if target in seen:
            raise PrepareError(f"{images.name}: {seen[target]} and {path} have one name in class {folders[label]}")
        seen[target] = path
        entries.append(Entry(path=target, label=label, source=root / path))
    return entries


def list_plan(
    options: argparse.Namespace,
    name: str,
    lists: Mapping[str, ImageList],
    folders: Sequence[str],
    counts: Mapping[str, Sequence[int]],
) -> Plan:
    """Return the plan of a set that official lists define, by split; the counts per class must be the published ones.

    folders: of the classes in the target, by label.
    """
    for split, images in lists.items():
        check_counts(images.name, images.labels, counts[split], folders)
    return Plan(
        name=name,
        form="shards" if options.shards else "tree",
        request={"lists": {images.name: images.sha256 for images in lists.values()}},
        load=lambda: Contents(
            entries=[e for split, images in lists.items() for e in entries_of(split, images, options.source, folders)],
            classes=folders,
        ),
        notes=[
            f"{images.name} is not the published text (SHA-256 {images.sha256[:16]}); its counts per class are"
            for images in lists.values()
            if images.official is False
        ],
    )


# ---------------------------------------------------------------- archives


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An official archive: where it is, and what it must be. ``unpacked`` bounds the bytes it may unpack to."""

    url: str
    size: int
    md5: str
    unpacked: int

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetched(archive: Archive, folder: Path, url: str | None) -> Path:
    """Return the archive in ``folder``, downloaded if it is not there, its size and MD5 checked."""
    path = folder / archive.name
    if path.exists():
        reason = _differs(path, archive)
        if reason:
            raise PrepareError(f"{path} {reason}: delete it and run the same command again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _download(url or archive.url, part, archive.size)
    reason = _differs(part, archive)
    if reason:
        part.unlink()
        raise PrepareError(f"{url or archive.url} {reason}: it is not the official archive; try again later")
    os.replace(part, path)
    return path


def _differs(path: Path, archive: Archive) -> str | None:
    if path.stat().st_size != archive.size:
        return f"has {path.stat().st_size} bytes, stated are {archive.size}"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return None if found == archive.md5 else f"has the MD5 {found}, stated is {archive.md5}"


def _download(url: str, part: Path, size: int) -> None:
    """Fetch ``url`` into ``part``, going on after the bytes that are there."""
    have = part.stat().st_size if part.exists() else 0
    if have == size:
        return
    have = have if have < size else 0
    try:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=60) as response:
            if getattr(response, "status", None) != 206:  # the server sends all of it
                have = 0
            with open(part, "ab" if have else "wb") as file, progress(part.name, size, "B") as bar:
                bar.update(have)
                while chunk := response.read(CHUNK):
                    have += len(chunk)
                    if have > size:
                        break
                    file.write(chunk)
                    bar.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        remedy = f"run the same command again, or put the file into {part.parent} yourself"
        raise PrepareError(f"{url} cannot be fetched ({error}): {remedy}") from None
    if have > size:
        part.unlink()
        raise PrepareError(f"{url} sends more than the stated {size} bytes: it is not the official archive")
    if have < size:
        raise PrepareError(f"{url} ended after {have} of {size} bytes: run the same command again to go on")


def members(path: Path, unpacked: int, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the wanted files of a tar or zip archive, in its order; nothing is unpacked to disk.

    Raises PrepareError for a name that leaves the folder, a link or device, more than ``unpacked`` bytes in all, and an
    archive that cannot be read; wanted or not.
    """
    total = 0
    try:
        for name, size, is_plain, read in _zip_members(path) if path.suffix == ".zip" else _tar_members(path):
            if not is_safe(name):
                raise PrepareError(f"{path}: the path {name!r} leaves its folder: it is not the official archive")
            if not is_plain:
                raise PrepareError(f"{path}: {name} is a link or a device: it is not the official archive")
            total += size
            if total > unpacked:
                raise PrepareError(f"{path} unpacks to more than {unpacked:,} bytes: it is not the official archive")
            if wanted(name):
                yield name, read()
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise PrepareError(f"{path} cannot be read ({error}): delete it and run the same command again") from None


Member = tuple[str, int, bool, Callable[[], bytes]]  # name, size, whether it is a plain file, reader


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if not member.isdir():
                opened = archive.extractfile(member) if member.isfile() else None
                yield member.name, member.size, member.isfile(), opened.read if opened else bytes


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                mode = member.external_attr >> 16 & 0o170000
                is_plain = mode in (0, 0o100000)
                yield member.orig_filename, member.file_size, is_plain, partial(archive.read, member)
