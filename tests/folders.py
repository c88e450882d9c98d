"""Small folders of images, as data_prep leaves them and as users have them: made from its README alone."""

import csv
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

CLASSES = 365  # of Places-LT


def picture(label: int, number: int) -> bytes:
    """A JPEG whose size and colours depend on its class and number; its halves differ, so that a flip shows."""
    height, width = 40 + 8 * (number % 3), 56 + 4 * (label % 5)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = (label % 256, 255 - label % 256, 40 * (number % 6))
    pixels[: height // 2, width // 2 :] = (200, label * 7 % 256, 90)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def prepare(data: Path, form: str = "tree", name: str = "places_lt", train: int = 2) -> Path:
    """Make ``data/name`` with 365 classes: class c has ``train`` + c % 2 training images and one to evaluate."""
    folder = data / name
    entries = {
        f"{split}/{label:03d}_class/{number}.jpg": (label, picture(label, number + 10 * (split == "val")))
        for label in range(CLASSES)
        for split, count in (("train", train + label % 2), ("val", 1))
        for number in range(count)
    }
    folder.mkdir(parents=True)
    if form == "tree":
        for path, (_, content) in entries.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    else:
        for split in ("train", "val"):
            mixed = sorted(
                (p for p in entries if p.startswith(split)), key=lambda p: hashlib.sha256(p.encode()).digest()
            )
            for number in range(2):
                write_shard(folder / f"{split}-{number:05d}-of-00002.arrow", mixed[number::2], entries)
    listing = "path,label,size\n" + "".join(f"{p},{entries[p][0]},{len(entries[p][1])}\n" for p in sorted(entries))
    seal(folder, listing)
    return folder


def write_shard(path: Path, names: list[str], entries: dict[str, tuple[int, bytes]]) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for start in range(0, len(names), 256):
            part = names[start : start + 256]
            images = [{"bytes": entries[p][1], "path": p.partition("/")[2]} for p in part]
            columns = [pa.array(images, image), pa.array([entries[p][0] for p in part], pa.int64())]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def seal(folder: Path, listing: str) -> None:
    (folder / "files.csv").write_text(listing)
    digest = hashlib.sha256(listing.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"digest": digest, "classes": [str(i) for i in range(CLASSES)]}))


PETS = {"cat": 9, "dog": 6, "Axolotl": 4}  # training images of each class; sorted, the capital comes first
LAYOUTS = ("tree", "lists", "parquet")


def own(folder: Path, layout: str, evaluation: str = "val", size: tuple[int, int] | None = None) -> Path:
    """Make a folder of one's own in a layout: three classes of unlike size, two images of each to evaluate on.

    ``size``: width and height of all images; without it they differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    classes = sorted(PETS)
    for split in ("train", evaluation):
        rows = [
            (f"{split}/{name}/{number}.jpg", label, resized(picture(50 * label, number + 3 * (split != "train")), size))
            for label, name in enumerate(classes)
            for number in range(PETS[name] if split == "train" else 2)
        ]
        if layout == "parquet":
            write_images(folder / f"{split}.parquet", [row[2] for row in rows], [row[1] for row in rows], classes)
            continue
        for path, _, content in rows:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        if layout == "lists":
            with open(folder / f"{split}.csv", "w", newline="") as file:
                lines = [(classes[label], path) for path, label, _ in reversed(rows)]
                csv.writer(file).writerows([("label", "path"), *lines])
    return folder


def resized(content: bytes, size: tuple[int, int] | None) -> bytes:
    if size is None:
        return content
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).resize(size).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(path: Path, encoded: list[bytes], labels: list[int], names: list[str] | None = None) -> None:
    """Write a Parquet file as Hugging Face does, with the names of the classes where they are given."""
    images = [{"bytes": content, "path": f"{i}.jpg"} for i, content in enumerate(encoded)]
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)
