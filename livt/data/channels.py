"""Mean and standard deviation of the channels of training images, in [0, 1], by which batches are normalized.

They are exact: found from how often each of the 256 values occurs.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from livt import distributed
from livt.data.augment import file_transform
from livt.data.images import DataError, FileSplit

CHUNK = 1024  # images that wait for a thread at a time
Moments = tuple[tuple[float, ...], tuple[float, ...]]  # means and deviations, a number for each channel


def moments(images: Tensor) -> Moments:
    """Return mean and deviation of images in memory, uint8 [N, 3, H, W]."""
    return _moments(_histogram(images.numpy().transpose(1, 0, 2, 3)))


def moments_of_files(train: FileSplit, evaluation: FileSplit, digest: str) -> Moments:
    """Return mean and deviation of training images in files, as evaluation sees them; all of both splits are decoded.

    A cache, ``$XDG_CACHE_HOME/livt`` or ``~/.cache/livt``, keeps them by the digest of the data and the size; where it
    cannot be written, they are found anew each time. Of several processes that train one run, the first does the work.
    Raises DataError for an image that cannot be used.
    """
    found: Moments | DataError | None = None
    if distributed.is_leader():
        try:
            found = _kept(train, evaluation, digest)
        except DataError as error:
            found = error
    found = distributed.from_leader(found)
    if isinstance(found, DataError):
        raise found
    assert found is not None
    return found


def _kept(train: FileSplit, evaluation: FileSplit, digest: str) -> Moments:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    path = cache / "livt" / f"{digest}-{train.size}.json"
    with suppress(OSError, ValueError, TypeError):
        mean, std = json.loads(path.read_bytes())
        return tuple(map(float, mean)), tuple(map(float, std))
    found = _moments(_of_files(train, "reading training images"))
    _of_files(evaluation, "reading evaluation images")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))  # a part of it is no JSON, and not taken for the whole
    return found


def _of_files(split: FileSplit, what: str) -> NDArray[np.int64]:
    transform = file_transform(None, split.size, ())
    total, images = np.zeros((3, 256), np.int64), range(len(split.labels))
    bar = tqdm(desc=what, total=len(images), unit="image", disable=None, leave=False)
    with bar, ThreadPoolExecutor(distributed.cores()) as pool:  # Pillow decodes without the interpreter's lock
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK]
            for image in pool.map(lambda i: transform(split.image(i)), part):
                total += _histogram(image.numpy())
            bar.update(len(part))
    return total


def _histogram(channels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each value is in each channel, int [3, 256]; channels: [3, ...]."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])


def _moments(histogram: NDArray[np.int64]) -> Moments:
    values = np.arange(256) / 255
    means, deviations = [], []
    for counts in histogram:
        share = counts / counts.sum()
        mean = share @ values
        means.append(float(mean))
        deviations.append(max(float(np.sqrt(share @ (values - mean) ** 2)), 1e-6))
    return tuple(means), tuple(deviations)
