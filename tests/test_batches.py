import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context

import numpy as np
import pytest
import torch
from folders import prepare
from PIL import Image

from livt.config import AugmentConfig, DataConfig, Engine, with_overrides
from livt.data.augment import Augment, file_transform
from livt.data.batches import TrainingBatches, apply, sample
from livt.data.images import DataError
from livt.data.seeds import seeded
from livt.data.sets import load_dataset
from livt.lab.recipes import smoke

CPU = torch.device("cpu")
CROPS = AugmentConfig(crop_min_scale=0.3, flip=True, rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The data set of a folder of files, in both forms."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for form in ("tree", "shards"):
            folder = tmp_path_factory.mktemp(form)
            prepare(folder, form)
            patch.setenv("LIVT_DATA", str(folder))
            load_dataset.cache_clear()
            found[form] = load_dataset(DataConfig(name="places_lt", image_size=32))
    load_dataset.cache_clear()
    return found


def batches_of(data, *, workers=0, size=64, parts=1, augment=CROPS, key=(0, 2)):
    changes = {"finetune.batch_size": size, "finetune.accumulation_steps": parts}
    settings = with_overrides(smoke(), changes | {"finetune.augment": augment.to_dict()}).finetune
    return TrainingBatches(
        data.train, settings, Augment(augment, data.mean, data.std), key, CPU, Engine(workers=workers)
    )


def all_of(batches, epoch=0):
    """Images and labels of an epoch, each part in a list."""
    return [part for step in batches.epoch(epoch) for part in step]


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


def test_batches_cover_the_split_once_in_random_order():
    data = load_dataset(smoke().data)
    batches = batches_of(data, size=50, augment=AugmentConfig())
    first = all_of(batches)
    assert [len(labels) for _, labels in first] == [50] * (len(data.train.labels) // 50)
    rows = torch.cat([images for images, _ in first]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows)
    assert not same(first, all_of(batches, epoch=1))
    assert same(first, all_of(batches)), "an epoch is the same again when a run resumes"
    assert not same(first, all_of(batches_of(data, size=50, augment=AugmentConfig(), key=(1, 2))))
    with pytest.raises(ValueError, match="batch_size 10000 exceeds the 305 training images"):
        data.steps_per_epoch(10_000)


def test_a_part_has_random_numbers_of_its_own():
    """What one part draws, the model's own draws included, does not depend on the parts before it."""
    data = load_dataset(smoke().data)
    batches = batches_of(data, size=64, parts=4, augment=AugmentConfig(shift=1))
    drawn = []
    for _ in range(2):
        drawn.append([(images, labels, torch.rand(3)) for step in batches.epoch(3) for images, labels in step])
        torch.rand(7)
    assert same(*drawn)
    assert [len(labels) for _, labels, _ in drawn[0]] == [16] * 4 * 4
    numbers = torch.stack([row[2] for row in drawn[0]])
    assert len(torch.unique(numbers, dim=0)) == len(numbers)


@pytest.mark.parametrize("form", ["tree", pytest.param("shards", marks=pytest.mark.slow)])
def test_loading_processes_do_not_change_what_is_seen(places, form):
    data = places[form]
    alone = all_of(batches_of(data))
    for workers in (1, 2):
        batches = batches_of(data, workers=workers)
        assert same(alone, all_of(batches))
        assert same(all_of(batches_of(data), epoch=1), all_of(batches, epoch=1)), (
            "the processes stay for the next epoch"
        )
        assert batches.waited > 0
    assert alone[0][0].shape == (64, 3, 32, 32)
    assert alone[0][0].dtype == torch.float32
    assert sum(len(labels) for _, labels in alone) == len(data.train.labels) // 64 * 64
    labels = torch.cat([labels for _, labels in alone])
    assert (torch.bincount(labels, minlength=365).numpy() <= data.class_counts).all()


def side_by_side(data) -> torch.Tensor:
    return torch.cat([images for images, _ in all_of(batches_of(data, workers=1))])


@pytest.mark.parametrize("form", [pytest.param("tree", marks=pytest.mark.slow), "shards"])
def test_a_spawned_process_has_loading_processes_too(places, form):
    """Runs side by side train in spawned processes."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(side_by_side, places[form]).result()
    assert torch.equal(found, torch.cat([images for images, _ in all_of(batches_of(places[form]))]))


@pytest.mark.skipif(sys.platform != "linux", reason="clusters and their warnings are Linux's")
def test_loading_processes_outlive_the_warnings_of_a_cluster(places):
    """SLURM signals every process of a job before it takes the node back; the one that trains decides what follows."""
    batches, others = batches_of(places["shards"], workers=1), set(active_children())
    epoch = (part for step in batches.epoch(0) for part in step)
    found = [next(epoch)]
    (loading,) = set(active_children()) - others
    for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGTERM):
        subprocess.run(["sh", "-c", f"kill -{number:d} {loading.pid}"], check=True)
        loading.join(0.2)
    assert loading.is_alive()
    assert same([*found, *epoch], all_of(batches_of(places["shards"])))
    loading.terminate()
    loading.join(10)
    assert loading.exitcode == 0, "the process that trains may end it"


def test_a_program_ends_in_the_midst_of_an_epoch(places):
    """Also where the loading processes still run: they end with it."""
    code = """
import pickle, sys
from test_batches import batches_of
epoch = batches_of(pickle.load(sys.stdin.buffer), workers=2).epoch(0)
print(len(next(next(epoch))[0]))
"""
    out = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(places["shards"]), capture_output=True, timeout=100,
        env=os.environ | {"PYTHONPATH": os.path.dirname(__file__)},
    )  # fmt: skip
    assert (out.returncode, out.stdout, out.stderr) == (0, b"64\n", b"")


def test_what_loading_processes_get_can_be_pickled():
    """Where processes are spawned, as on Windows and macOS."""
    image = Image.fromarray(np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3))
    for config in (CROPS, None):
        transform = file_transform(config, 32, (0.5, 0.5, 0.5))
        found = []
        for each in (transform, pickle.loads(pickle.dumps(transform))):
            with seeded(0, 1):
                found.append(each(image))
        assert torch.equal(*found)


def test_both_forms_of_a_folder_give_the_same_batches(places):
    assert same(all_of(batches_of(places["tree"])), all_of(batches_of(places["shards"])))


def test_every_image_is_augmented_anew_in_each_epoch(places):
    data = places["tree"]
    batches = batches_of(data, augment=AugmentConfig(crop_min_scale=0.3))
    seen = {}
    for epoch in range(2):
        for images, labels in all_of(batches, epoch):
            for image, label in zip(images, labels.tolist(), strict=True):
                seen.setdefault(label, []).append(image)
    crops = [torch.stack(images) for images in seen.values() if len(images) > 2]
    assert sum(len(torch.unique(c.flatten(1), dim=0)) == len(c) for c in crops) > 0.9 * len(crops)


def test_loading_in_the_training_process_leaves_its_random_numbers_alone(places):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded(1, 2, 3):
        inside = torch.rand(2), np.random.rand()
    assert torch.equal(torch.rand(2), expected)
    with seeded(1, 2, 3):
        assert torch.equal(torch.rand(2), inside[0])
        assert np.random.rand() == inside[1]


def test_evaluation_cuts_the_centre_out_of_an_image_as_the_official_code_does():
    """Resize the short side to size x 256 / 224 (bicubic), cut out the centre; above 224 px no margin."""
    gradient = np.linspace(0, 255, 300 * 400 * 3).reshape(300, 400, 3).astype(np.uint8)
    image = Image.fromarray(gradient)
    for size, short in ((224, 256), (112, 128), (384, 384)):
        width, height = round(400 * short / 300), short
        resized = image.resize((int(400 * short / 300), height), Image.BICUBIC)
        left, top = round((resized.width - size) / 2), round((height - size) / 2)
        expected = np.asarray(resized.crop((left, top, left + size, top + size))).transpose(2, 0, 1)
        found = file_transform(None, size, ())(image)
        assert found.dtype == torch.uint8
        assert found.shape == (3, size, size)
        assert abs(resized.width - width) <= 1
        assert np.abs(found.numpy().astype(int) - expected).max() <= 2


def test_evaluation_sees_every_image_once_in_order(places):
    data = places["shards"]
    augment = Augment(CROPS, data.mean, data.std)
    found = [apply(lambda images: images.flatten(1), data.evaluation, augment, CPU, Engine(workers=w)) for w in (0, 2)]
    assert torch.equal(*found)
    plain = file_transform(None, 32, ())
    for index in (0, 100, 364):
        expected = augment.normalize(plain(data.evaluation.image(index))[None])
        torch.testing.assert_close(found[0][index], expected.flatten())


@pytest.mark.parametrize("form", ["tree", "shards"])
def test_a_sample_of_files_is_what_evaluation_sees(places, form):
    data = places[form]
    found = sample(data.evaluation, [364, 0, 100])
    assert found.dtype == torch.uint8
    assert found.shape == (3, 3, 32, 32)
    augment = Augment(CROPS, data.mean, data.std)
    seen = apply(lambda images: images, data.evaluation, augment, CPU, Engine(workers=0))
    torch.testing.assert_close(augment.normalize(found), seen[[364, 0, 100]])
    assert torch.equal(sample(data.evaluation, torch.tensor([364, 0, 100])), found)
    assert sample(data.train, []).shape == (0, 3, 32, 32)


def test_a_sample_of_images_in_memory_is_the_images():
    train = load_dataset(smoke().data).train
    assert torch.equal(sample(train, [7, 2]), train.images[[7, 2]])
    assert torch.equal(sample(train, np.array([300])), train.images[300:301])


def test_a_damaged_image_stops_a_sample(tmp_path, monkeypatch):
    folder = prepare(tmp_path)
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    load_dataset.cache_clear()
    data = load_dataset(DataConfig(name="places_lt", image_size=32))
    load_dataset.cache_clear()
    (folder / "val/100_class/0.jpg").write_bytes(b"short")
    with pytest.raises(DataError, match="has changed since"):
        sample(data.evaluation, [99, 100, 101])


def test_training_crops_keep_the_paper_s_share_and_flip_half(places):
    """A red left half: where red ends up tells a flip; the share of images flipped is one half."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32, 0] = 255
    transform = file_transform(AugmentConfig(crop_min_scale=1.0, flip=True), 32, ())
    flipped = []
    for i in range(400):
        with seeded(0, i):
            image = transform(Image.fromarray(pixels))
        flipped.append(bool(image[0, :, :8].float().mean() < image[0, :, -8:].float().mean()))
    assert 150 < sum(flipped) < 250


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_stops_training_with_one_line(places, workers, tmp_path, monkeypatch):
    folder = prepare(tmp_path)
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    load_dataset.cache_clear()
    data = load_dataset(DataConfig(name="places_lt", image_size=32))
    load_dataset.cache_clear()
    path = folder / "train/100_class/0.jpg"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError) as error:
        all_of(batches_of(data, workers=workers, size=5))
    assert str(error.value).startswith(f"{path} does not decode (")
    assert "\n" not in str(error.value)
