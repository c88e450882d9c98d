"""Small folders of files as data_prep leaves them, for tests: written here anew, from its README alone."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

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
