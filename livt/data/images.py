"""The images of one split: as one tensor in memory, or as files that are decoded when they are needed.

Files lie in a folder that ``data_prep`` has made: a tree ``{train,val}/CLASS/FILE``, or Arrow shards
``{train,val}-*.arrow``, with ``files.csv`` (path, label and size of every image) and ``manifest.json``. Shards are
mapped into memory, so all processes share one copy.

Shapes: ``N`` images, ``S`` pixels.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

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
class FileSplit:
    """Images in files: paths [N] within the folder, sizes [N] in bytes, labels int64 [N].

    rows: [N] rows of the images in the split's shards, None for a tree. size: the pixels S of a side that the model
    sees.
    """

    folder: Path
    paths: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    labels: Tensor
    rows: NDArray[np.int64] | None
    size: int

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
        return str(self.folder / self.paths[index].decode())

    def image(self, index: int) -> Image.Image:
        """Return one image as RGB. Raises DataError where it is missing, has changed, or does not decode."""
        name = self.name(index)
        try:
            content = Path(name).read_bytes() if self.rows is None else self._stored(self.rows[index])
        except OSError as error:
            raise DataError(f"{name} cannot be read ({error.strerror}): prepare {self.folder} again") from None
        if len(content) != self.sizes[index]:
            found = f"it has {len(content)} bytes, not {self.sizes[index]}"
            raise DataError(f"{name} has changed since {self.folder} was prepared ({found}): prepare it again")
        return decode(content, name, f"prepare {self.folder} again with --verify")

    def _stored(self, row: int) -> bytes:
        split = self.paths[0].decode().partition("/")[0]
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
