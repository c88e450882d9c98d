"""Batches of a split, on the device: augmented ones to train on, plain ones to evaluate on.

Images in memory are augmented on the device, a batch at a time. Images in files are decoded and augmented by loading
processes, one at a time, each from random numbers of its own: neither the number of those processes nor that of the
devices changes what is seen. Shapes: ``B`` images of a part of a batch, ``N`` images of a split.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from livt import distributed
from livt.config import Engine, StageConfig
from livt.data.augment import Augment, file_transform, moved
from livt.data.images import DataError, FileSplit, Split
from livt.data.seeds import seed_everything, seed_of, seeded

EVALUATION_BATCH, FILE_EVALUATION_BATCH = 1000, 256
_Loaded = tuple[Tensor, Tensor] | DataError
_WARNINGS = {signal.SIGTERM, signal.SIGUSR2} if sys.platform == "linux" else set()  # a cluster's, that a node is lost


class TrainingBatches:
    """The batches of each epoch, each as this process's share of its parts.

    ``key`` are the integers that seed the epochs: with the same key, an epoch is the same again, also in a resumed run.
    ``weights`` [N]: how often to draw each image, relative to the others and with replacement; None takes each once.
    ``views``: how often to augment each image. ``waited`` counts the seconds spent waiting for loading processes.
    """

    def __init__(
        self,
        split: Split | FileSplit,
        settings: StageConfig,
        augment: Augment,
        key: tuple[int, ...],
        device: torch.device,
        engine: Engine,
        *,
        weights: Tensor | None = None,
        views: int = 1,
    ) -> None:
        self.augment, self.device, self.views = augment, device, views
        self.waited = 0.0
        self.parts = _Parts(len(split.labels), settings, key, weights)
        self.memory = split.to(device) if isinstance(split, Split) else None
        if isinstance(split, FileSplit):
            transform = file_transform(settings.augment, split.size, augment.mean.flatten().div(255).tolist())
            self.loader = _loader(_Files(split, transform, views), self.parts, device, engine, persistent=True)
            # The next epoch, of which parts are loaded already.
            self._ahead: tuple[int, Iterator[_Loaded]] | None = None

    def epoch(self, epoch: int) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
        """Seed all random numbers, then yield, for each step, its parts: images [B, 3, H, W] and labels [B].

        Of several views, images are [views * B, 3, H, W], those of the first view first. A rest that fills no batch is
        left out. Each part must be used up before the next is asked for, since it seeds the random numbers that the
        model draws with it.
        """
        key = self.parts.key_of(epoch)
        seed_everything(*key)
        steps = self.parts.of(torch.default_generator)
        if self.memory is None:
            if self._ahead is None or self._ahead[0] != epoch:
                self.parts.first = epoch
                self._ahead = epoch, iter(self.loader)
            batches, self._ahead = self._ahead[1], None
            loaded = self._received(batches)
        for number, own in enumerate(steps):
            if self.memory is not None:
                loaded = self._from_memory(own)
            yield self._seeded(loaded, (*key, number) if self.parts.count > 1 else None)
        if self.memory is None:
            self._ahead = epoch + 1, batches

    def _seeded(
        self, loaded: Iterator[tuple[Tensor, Tensor]], key: tuple[int, ...] | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a step's parts; each part of a divided batch draws from its own seed, whoever works it off."""
        for part in distributed.share(self.parts.count):
            if key is not None:
                seed_everything(*key, part)
            yield next(loaded)

    def _from_memory(self, parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.memory is not None
        for index in parts:
            index = moved(index, self.device)
            images, labels = self.memory.images[index], self.memory.labels[index]
            yield torch.cat([self.augment(images) for _ in range(self.views)]), labels

    def _received(self, batches: Iterator[_Loaded]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            start = time.perf_counter()
            images, labels = _received(batches, self.device)
            self.waited += time.perf_counter() - start
            yield self.augment.finish(images.transpose(0, 1).flatten(0, 1) if self.views > 1 else images), labels


class _Parts:
    """The parts of each epoch's batches, and an iterable over what this process loads of them.

    It goes on from epoch ``first`` into those that follow, so that no epoch begins with waiting.
    """

    def __init__(self, images: int, settings: StageConfig, key: tuple[int, ...], weights: Tensor | None) -> None:
        self.images, self.key, self.weights, self.first = images, key, weights, 0
        self.batch_size, self.count, self.epochs = settings.batch_size, settings.accumulation_steps, settings.epochs

    def key_of(self, epoch: int) -> tuple[int, ...]:
        return *self.key, 1 + epoch

    def of(self, generator: torch.Generator) -> list[list[Tensor]]:
        """Return, for each step of an epoch, the images of this process's parts; the generator is seeded for it."""
        if self.weights is None:
            order = torch.randperm(self.images, generator=generator)
        else:
            order = self.weights.multinomial(self.images, replacement=True, generator=generator)
        starts = range(0, self.images - self.batch_size + 1, self.batch_size)
        steps = (order[start : start + self.batch_size].chunk(self.count) for start in starts)
        own = distributed.share(self.count)
        return [[step[number] for number in own] for step in steps]

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        """Yield the keys of the images of each part: what seeds an image's augmentation, then its number."""
        for epoch in range(self.first, max(self.epochs, self.first + 1)):
            key = self.key_of(epoch)
            for own in self.of(torch.Generator().manual_seed(seed_of(*key))):
                for part in own:
                    yield [(*key, i) for i in part.tolist()]


def evaluation_batches(
    split: Split | FileSplit, augment: Augment, device: torch.device, engine: Engine
) -> Iterator[Tensor]:
    """Yield this process's share of a split in batches, normalized float32 [B, 3, H, W]."""
    own = distributed.share(len(split.labels))
    if isinstance(split, Split):
        images = split.images if len(own) == len(split.labels) else split.images[own.start :: own.step]
        for batch in images.split(EVALUATION_BATCH):
            yield augment.normalize(batch.to(device))
        return
    starts = range(0, len(own), FILE_EVALUATION_BATCH)
    parts = [[(i,) for i in own[start : start + FILE_EVALUATION_BATCH]] for start in starts]
    loader = _loader(_Files(split, file_transform(None, split.size, ())), parts, device, engine)
    batches = iter(loader)
    for _ in parts:
        yield augment.normalize(_received(batches, device)[0])


@torch.inference_mode()
def apply(
    function: Callable[[Tensor], Tensor],
    split: Split | FileSplit,
    augment: Augment,
    device: torch.device,
    engine: Engine,
) -> Tensor:
    """Return ``function`` of all images of a split in order, float32 [N, ...] on the CPU.

    Several processes share the work; each image is worked off once, and every process gets all rows.
    """
    parts = [function(images).float().cpu() for images in evaluation_batches(split, augment, device, engine)]
    return distributed.gathered(torch.cat(parts), len(split.labels), device)


def sample(split: Split | FileSplit, indices: Sequence[int] | Tensor) -> Tensor:
    """Return some images of a split as evaluation sees them, before normalization: uint8 [n, 3, H, W] for n indices.

    All are held in memory. Those in files are decoded now; raises DataError for one that cannot be.
    """
    rows = torch.as_tensor(indices, dtype=torch.int64)
    if isinstance(split, Split):
        return split.images[rows]
    transform = file_transform(None, split.size, ())
    images = torch.empty(len(rows), 3, split.size, split.size, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        for row, image in enumerate(pool.map(lambda i: transform(split.image(i)), rows.tolist())):
            images[row] = image
    return images


class _Files(Dataset):
    """An image and its label by a key whose last number is its index; the whole key seeds its augmentation."""

    def __init__(self, split: FileSplit, transform: Callable[[Image.Image], Tensor], views: int = 1) -> None:
        self.split, self.transform, self.views = split, transform, views

    def __getitem__(self, key: tuple[int, ...]) -> tuple[Tensor, Tensor] | DataError:
        index = key[-1]
        try:
            image = self.split.image(index)
        except DataError as error:
            return error  # raised by whoever asked: a traceback of a loading process is no message
        with seeded(*key):
            views = [self.transform(image) for _ in range(self.views)]
            return views[0] if self.views == 1 else torch.stack(views), self.split.labels[index]


def _together(items: Sequence[_Loaded]) -> _Loaded:
    images, labels = [], []
    for item in items:
        if isinstance(item, DataError):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.stack(labels)


def _loader(
    files: _Files, parts: Iterable, device: torch.device, engine: Engine, persistent: bool = False
) -> DataLoader:
    workers = engine.workers
    if workers is None:
        workers = loading_processes(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return DataLoader(
        files,
        batch_sampler=parts,
        num_workers=workers,
        collate_fn=_together,
        pin_memory=device.type == "cuda",
        persistent_workers=persistent and workers > 0,
        worker_init_fn=_ignore_signals,
        # Also where this process was spawned, one of several side by side: a fork starts at once, and pickles nothing.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # else it draws from the numbers of training
    )


def loading_processes(sharing: int = 1) -> int:
    """Return how many processes load images, of a training that shares the cores with as many as there are."""
    return min(16, max(1, distributed.cores() // sharing))


def _ignore_signals(_: int) -> None:
    """Leave an interrupt, and a cluster's warnings before it takes a node back, to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, _WARNINGS)
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    """End when the signal is of the process that trains: PyTorch's last resort where it ends out of order."""
    while signal.sigwaitinfo(_WARNINGS).si_pid != os.getppid():
        pass
    os._exit(0)


def _received(batches: Iterator[_Loaded], device: torch.device) -> tuple[Tensor, Tensor]:
    loaded = next(batches)
    if isinstance(loaded, DataError):
        raise loaded
    return loaded[0].to(device, non_blocking=True), loaded[1].to(device, non_blocking=True)  # the loader pins them
