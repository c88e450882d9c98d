"""How the images of a target lie on disk: placing, writing, reading back, decoding.

``parquet``  ``train.parquet`` and ``test.parquet`` (or ``val.parquet``), as ``livt.data`` reads them: the small sets.
``tree``     ``{train,val}/CLASS/FILE`` by hard link, symbolic link or copy. The names of the class folders sort in the
             order of the labels, so a reader that numbers sorted folders gets the published labels.
``shards``   ``{train,val}-00000-of-000NN.arrow``: images reduced once to 256 pixels on the short side (JPEG, quality
             90; none is enlarged), mixed over the classes in a fixed order (by the SHA-256 of the path), 4,096 to a
             file and 256 to a record batch. Arrow IPC files, uncompressed, with the columns of the small sets.

Why Arrow for shards: a file is mapped into memory, so that any image is read without its neighbours and all processes
share one copy; of Parquet a whole row group is the least that can be read. The small sets are read whole, once, and
stay Parquet. data_prep/README.md has the measurements, those for JPEG of 256 pixels too.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.compute
from PIL import Image
from pyarrow import parquet
from tqdm import tqdm

from livt.data.decoding import rgb
from livt.lab.files import write_atomically

SHARD_IMAGES, GROUP = 4096, 256  # images in a shard, and in a row group (Parquet) or record batch (Arrow)
IMAGE = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
SHORT_SIDE, QUALITY = 256, 90


class PrepareError(ValueError):
    """A source or target that cannot be used; the message names the file or class, and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An image: its path in a tree (``split/folder/file`` or ``split/file``), its label, and its bytes or file."""

    path: str
    label: int
    source: bytes | Path

    @property
    def split(self) -> str:
        return self.path.partition("/")[0]

    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def progress(what: str, total: int, unit: str = "image") -> tqdm:
    """Return a progress bar, shown on a terminal only."""
    return tqdm(desc=what, total=total, unit=unit, unit_scale=unit == "B", disable=None, mininterval=0.5, leave=False)


def thread_map(function: Callable, values: Iterable, jobs: int) -> list:
    with ThreadPoolExecutor(jobs) as pool:  # Pillow and hashlib release the interpreter's lock
        return list(pool.map(function, values))


def parallel(function: Callable, values: Sequence, what: str, jobs: int) -> Iterator:
    """Yield ``function`` of each value, in order, with a progress bar."""
    with progress(what, len(values)) as bar:
        for start in range(0, len(values), SHARD_IMAGES):
            part = thread_map(function, values[start : start + SHARD_IMAGES], jobs)
            bar.update(len(part))
            yield from part


# ---------------------------------------------------------------- reading back


def table_files(folder: Path) -> list[Path]:
    """Return the files of a target that hold many images each; none for a tree."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".parquet", ".arrow"))


def _stored_images(path: Path) -> Iterator[tuple[pyarrow.StringArray, pyarrow.BinaryArray]]:
    """Yield names and images of a Parquet or Arrow file, a row group or record batch at a time.

    Raises PrepareError naming the file where it is damaged.
    """
    try:
        for images in _parquet_images(path) if path.suffix == ".parquet" else _arrow_images(path):
            if images.type != IMAGE or any(array.null_count for array in (images, *images.flatten())):
                raise pyarrow.ArrowInvalid(f"its images are not {IMAGE}")
            yield images.field("path"), images.field("bytes")
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise PrepareError(f"{path} cannot be read ({error}): delete it and run the same command again") from None


def _parquet_images(path: Path) -> Iterator[pyarrow.StructArray]:
    file = parquet.ParquetFile(path)
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=["image"])["image"].combine_chunks()


def _arrow_images(path: Path) -> Iterator[pyarrow.StructArray]:
    with pyarrow.memory_map(str(path)) as mapped:  # names and lengths are had without reading the images
        reader = pyarrow.ipc.open_file(mapped)
        for group in range(reader.num_record_batches):
            batch = reader.get_batch(group)
            batch.validate(full=True)  # an offset that leads out of the file would end the process
            yield batch.column("image")


def image_sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each image of a target by its path, read from the files themselves.

    Of an image in a Parquet or Arrow file the path is the split and the name that is stored with it.
    """
    sizes: dict[str, int] = {}
    for path in table_files(folder):
        split = path.name.partition(".")[0].partition("-")[0]
        for names, images in _stored_images(path):
            lengths = pyarrow.compute.binary_length(images).to_pylist()
            for stored, length in zip(names.to_pylist(), lengths, strict=True):
                name = f"{split}/{stored}"
                if name in sizes:  # SOURCE changed between two runs, and with it what each file holds
                    raise PrepareError(f"{path} holds {name} a second time: delete {folder} and run the command again")
                sizes[name] = length
    if sizes:
        return sizes
    for folder_of_split in sorted(path for path in folder.iterdir() if path.is_dir()):
        for top, _, files in os.walk(folder_of_split):
            for image in (Path(top, name) for name in files):
                if image.exists():  # a symbolic link may have lost its file
                    sizes[image.relative_to(folder).as_posix()] = image.stat().st_size
    return sizes


def check_images(folder: Path, jobs: int) -> list[str]:
    """Decode every image of a target, whole or partial; return the names of those that fail."""
    failed: list[str] = []
    with progress("decoding", len(image_sizes(folder))) as bar:
        for names, images in _batches(folder):
            reasons = thread_map(_reason, images, jobs)
            failed += [name for name, reason in zip(names, reasons, strict=True) if reason]
            bar.update(len(names))
    return failed


def _batches(folder: Path) -> Iterator[tuple[Sequence[str], Sequence[bytes | Path]]]:
    """Yield names and images of a target, few enough at a time to hold in memory."""
    files = table_files(folder)
    for path in files:
        for names, images in _stored_images(path):
            yield [f"{path.name}: {name}" for name in names.to_pylist()], images.to_pylist()
    paths = [] if files else sorted(image_sizes(folder))
    for start in range(0, len(paths), GROUP):
        part = paths[start : start + GROUP]
        yield part, [folder / path for path in part]


def _reason(image: bytes | Path) -> str | None:
    """Say why an image does not decode."""
    try:
        rgb(image)
    except ValueError as error:
        return str(error)
    return None


# ---------------------------------------------------------------- trees


def build_tree(folder: Path, entries: Sequence[Entry], how: str, jobs: int) -> None:
    """Put every file in place that is not there yet; ``how`` is link, symlink or copy."""
    for parent in sorted({(folder / entry.path).parent for entry in entries}):
        parent.mkdir(parents=True, exist_ok=True)
    for _ in parallel(lambda entry: _place(entry, folder / entry.path, how), entries, how, jobs):
        pass


def _place(entry: Entry, path: Path, how: str) -> None:
    """Put one file in place, unless it is there."""
    assert isinstance(entry.source, Path)
    source = entry.source.resolve()
    if os.path.lexists(path):
        if path.exists() and _stamp(path) == _stamp(source):
            return
        path.unlink()
    if how == "copy":
        shutil.copy2(source, path)  # a part that a kill leaves has another stamp
    elif how == "symlink":
        os.symlink(source, path)
    else:
        try:
            os.link(source, path)
        except OSError as error:
            reason = f"{source} cannot be hard-linked into {path.parent} ({error.strerror})"
            raise PrepareError(f"{reason}: pass --how symlink or --how copy") from None


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and time of a file: a source that was replaced since has another."""
    return path.stat().st_size, int(path.stat().st_mtime)


# ---------------------------------------------------------------- Parquet and Arrow


def build_tables(folder: Path, form: str, entries: Sequence[Entry], classes: Sequence[str], jobs: int) -> list[str]:
    """Write the Parquet or Arrow files that are not there yet; return the names of images that do not decode.

    A file with such an image is not written; the others are.
    """
    corrupt: list[str] = []
    with progress("writing", len(entries)) as bar:
        for name, part in _parts(form, entries):
            if not (folder / name).exists():
                contents = thread_map(lambda entry: _content(entry, form), part, jobs)
                failed = [
                    str(entry.source) if isinstance(entry.source, Path) else entry.path
                    for entry, content in zip(part, contents, strict=True)
                    if content is None
                ]
                if not failed:
                    write_atomically(folder / name, serialized(_table(part, contents, classes), form))
                corrupt += failed
            bar.update(len(part))
    return corrupt


def _content(entry: Entry, form: str) -> bytes | None:
    """Return the bytes to store; None where they do not decode."""
    content = entry.read()
    if form == "shards":
        return reduced(content)
    return content if _reason(content) is None else None


def _parts(form: str, entries: Sequence[Entry]) -> Iterator[tuple[str, Sequence[Entry]]]:
    """Yield name and images of each file."""
    for split in sorted({entry.split for entry in entries}):
        chosen = [entry for entry in entries if entry.split == split]
        if form == "parquet":
            yield f"{split}.parquet", chosen
            continue
        chosen.sort(key=lambda entry: hashlib.sha256(entry.path.encode()).digest())
        total = -(-len(chosen) // SHARD_IMAGES)
        for i in range(total):
            yield f"{split}-{i:05d}-of-{total:05d}.arrow", chosen[i * SHARD_IMAGES : (i + 1) * SHARD_IMAGES]


def _table(entries: Sequence[Entry], contents: Sequence[bytes], classes: Sequence[str]) -> pyarrow.Table:
    names = [entry.path.partition("/")[2] for entry in entries]
    images = pyarrow.StructArray.from_arrays(
        [pyarrow.array(contents, pyarrow.binary()), pyarrow.array(names, pyarrow.string())], fields=list(IMAGE)
    )
    labels = pyarrow.array([entry.label for entry in entries], pyarrow.int64())
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(classes)}}
    table = pyarrow.table({"image": images, "label": labels})
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def serialized(table: pyarrow.Table, form: str) -> pyarrow.Buffer:
    """Return a form's file. Not compressed: images do not become smaller, and what is mapped must lie there plain."""
    sink = pyarrow.BufferOutputStream()
    if form == "parquet":
        parquet.write_table(table, sink, row_group_size=GROUP, compression="none", use_dictionary=False)
    else:
        with pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=GROUP)
    return sink.getvalue()


def reduced(content: bytes) -> bytes | None:
    """Return the image as JPEG with at most 256 pixels on the short side; None where it does not decode."""
    try:
        image = rgb(content)
    except ValueError:
        return None
    scale = SHORT_SIDE / min(image.size)
    if scale >= 1 and content[:3] == b"\xff\xd8\xff":
        return content
    if scale < 1:
        width, height = (max(SHORT_SIDE, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
