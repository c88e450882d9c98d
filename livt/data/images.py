"""The images of one split: encoded in memory, decoded in memory as one tensor, or in files until they are needed.

Files are files of a folder, or rows of its Arrow shards ``{train,val}-*.arrow``. Shards are mapped into memory, so all
processes share one copy.

Shapes: ``N`` images, ``S`` pixels.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from livt.data.decoded import kept
from livt.data.decoding import rgb


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """images: uint8 [N, 3, H, W]; labels: int64 [N]."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Split":
        return Split(images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedSplit:
    """The images of a Parquet file, encoded, and labels int64 [N].

    encoded: reads the N values of its column ``image``, when they are needed. size: height and width that each image
    must have. fit: an image of another size is scaled to fill it, and its centre cut out, instead of refused.
    """

    path: Path
    encoded: Callable[[], list[Any]]
    labels: Tensor
    size: tuple[int, int]
    fit: bool
    remedy: str

    def subset(self, indices: NDArray[np.int64]) -> Split:
        """Return these images alone, decoded or as ``livt.data.decoded`` has kept them.

        Raises DataError naming the file and row of one that cannot be used.
        """
        images = kept(self.path, indices, self.size, self.fit, lambda: self._decoded(indices))
        return Split(images=images, labels=self.labels[torch.from_numpy(indices)])

    def _decoded(self, indices: NDArray[np.int64]) -> Tensor:
        encoded = self.encoded()
        images = torch.empty(len(indices), 3, *self.size, dtype=torch.uint8)

        def fill(row: int) -> None:
            images[row] = pil_to_tensor(self._image(encoded[indices[row]], indices[row]))

        with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
            for _ in pool.map(fill, range(len(indices))):
                pass
        return images

    def _image(self, value: Any, i: int) -> Image.Image:
        found = value if isinstance(value, dict) else {}
        name = f"{self.path}, row {i}" + (f" ({found['path']})" if found.get("path") else "")
        image = decode(found.get("bytes") or b"", name, self.remedy)
        height, width = self.size
        if image.size == (width, height):
            return image
        if not self.fit:
            size = f"{image.size[0]} x {image.size[1]} pixels"
            raise DataError(f"{name} is {size}, expected {width} x {height}: {self.remedy}")
        return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


@dataclass(frozen=True, kw_only=True, eq=False)
class FileSplit:
    """Images in files: paths [N] within the folder, sizes [N] in bytes, labels int64 [N].

    rows: [N] rows of the images in the split's shards, None for files. size: the pixels S of a side that the model
    sees. remedy: what to do about an image that cannot be used.
    """

    folder: Path
    paths: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    labels: Tensor
    rows: NDArray[np.int64] | None
    size: int
    remedy: str

    def subset(self, indices: NDArray[np.int64]) -> "FileSplit":
        """Return the split with these images alone."""
        return replace(
            self,
            paths=self.paths[indices],
            sizes=self.sizes[indices],
            labels=self.labels[torch.from_numpy(indices)],
            rows=None if self.rows is None else self.rows[indices],
        )

    def name(self, index: int) -> str:
        return str(self.folder / os.fsdecode(self.paths[index]))

    def image(self, index: int) -> Image.Image:
        """Return one image as RGB. Raises DataError where it is missing, has changed, or does not decode."""
        name = self.name(index)
        try:
            content = Path(name).read_bytes() if self.rows is None else self._stored(self.rows[index])
        except OSError as error:
            raise DataError(f"{name} cannot be read ({error.strerror}): {self.remedy}") from None
        if len(content) != self.sizes[index]:
            found = f"it has {len(content)} bytes, not {self.sizes[index]}"
            raise DataError(f"{name} has changed since it was listed ({found}): {self.remedy}")
        return decode(content, name, self.remedy)

    def _stored(self, row: int) -> bytes:
        split = os.fsdecode(self.paths[0]).partition("/")[0]
        starts, groups = shards(self.folder, split)
        group = int(np.searchsorted(starts, row, side="right")) - 1
        return groups[group].field("bytes")[row - starts[group]].as_py()


def decode(content: bytes, name: str, remedy: str) -> Image.Image:
    """Return an encoded image as RGB, or raise DataError naming ``name`` and the remedy."""
    try:
        return rgb(content)
    except ValueError as error:
        raise DataError(f"{name} does not decode ({error}): {remedy}") from None


@lru_cache(maxsize=2)
def shards(folder: Path, split: str) -> tuple[NDArray[np.int64], list[Any]]:
    """Return where each record batch of a split's shards begins, and the images of each: mapped, not read."""
    import pyarrow  # only shards need it

    starts, groups, total = [], [], 0
    for path in sorted(folder.glob(f"{split}-*.arrow")):
        try:
            reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                batch.validate(full=True)  # a wrong offset in a damaged file would end the process
                if batch.schema.field("image").type != pyarrow.struct(
                    {"bytes": pyarrow.binary(), "path": pyarrow.string()}
                ):
                    raise ValueError("its images are not bytes and path")
                groups.append(batch.column("image"))
                starts.append(total)
                total += batch.num_rows
        except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path} is not a shard of images ({reason}): prepare {folder} again") from None
    return np.array(starts), groups
