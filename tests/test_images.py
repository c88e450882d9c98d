import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from folders import CLASSES, picture, prepare, seal
from PIL import Image

from livt.config import DataConfig
from livt.data import images
from livt.data.images import DataError
from livt.data.sets import load_dataset

PLACES = DataConfig(name="places_lt", image_size=32)
REMEDY = "prepare it with data_prep/places_lt.py again, with --verify"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    clear()
    yield tmp_path
    clear()


def clear() -> None:
    load_dataset.cache_clear()
    images.shards.cache_clear()


@pytest.mark.parametrize("form", ["tree", "shards"])
def test_a_prepared_folder_gives_its_images_and_labels(data, form):
    prepare(data, form)
    places = load_dataset(PLACES)
    assert places.class_counts.tolist() == [2 + c % 2 for c in range(CLASSES)]
    assert torch.equal(places.evaluation.labels, torch.arange(CLASSES))
    assert np.array_equal(np.bincount(places.train.labels), places.class_counts)
    for split, offset in ((places.train, 0), (places.evaluation, 10)):
        for index in (0, 1, 17, 364):
            number = int(split.paths[index].decode().rpartition("/")[2].removesuffix(".jpg"))
            expected = Image.open(io.BytesIO(picture(int(split.labels[index]), number + offset)))
            assert np.array_equal(np.asarray(split.image(index)), np.asarray(expected))
    again = pickle.loads(pickle.dumps(places.train))  # as a loading process receives it
    assert np.array_equal(np.asarray(again.image(5)), np.asarray(places.train.image(5)))


def test_the_digest_names_the_files_and_the_choice_among_them(data):
    folder = prepare(data)
    digest = load_dataset(PLACES).digest
    assert load_dataset(DataConfig(name="places_lt", image_size=64)).digest == digest, "the size is configuration"
    few = load_dataset(DataConfig(name="places_lt", image_size=32, max_count=2, imbalance_factor=2))
    assert few.digest != digest
    assert set(few.class_counts) == {1, 2}
    assert len(few.train.labels) == len(few.train.paths) == few.class_counts.sum()
    load_dataset.cache_clear()
    seal(folder, (folder / "files.csv").read_text().replace("train/000_class/1.jpg,0,", "train/000_class/1.jpg,1,"))
    assert load_dataset(PLACES).digest != digest


def test_grey_and_transparent_files_become_rgb(data):
    folder = prepare(data)
    path = folder / "train/000_class/0.jpg"
    buffer = io.BytesIO()
    Image.new("LA", (50, 40), (120, 9)).save(buffer, "PNG")
    listing = (folder / "files.csv").read_text().replace(f",0,{path.stat().st_size}\n", f",0,{buffer.tell()}\n", 1)
    path.write_bytes(buffer.getvalue())
    seal(folder, listing)
    image = load_dataset(PLACES).train.image(0)
    assert (image.mode, image.getpixel((3, 3))) == ("RGB", (120, 120, 120))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "{f}/manifest.json is missing: prepare it with "
         "data_prep/places_lt.py, or set LIVT_DATA to the folder above it"),
        (lambda f: (f / "files.csv").unlink(), "{f}/files.csv is missing: prepare it with "
         "data_prep/places_lt.py, or set LIVT_DATA to the folder above it"),
        (lambda f: (f / "manifest.json").write_text("{"), "{f}/manifest.json cannot be used (Expecting property name "
         "enclosed in double quotes: line 1 column 2 (char 1)): prepare it with data_prep/places_lt.py"),
        (lambda f: (f / "manifest.json").write_text("[]"), "{f}/manifest.json cannot be used (list indices must be "
         "integers or slices, not str): prepare it with data_prep/places_lt.py"),
        (lambda f: (f / "files.csv").write_text("path,label,size\n"), "{f}/files.csv is not the one that manifest.json "
         "names: prepare it with data_prep/places_lt.py again"),
        (lambda f: seal(f, without(f, "val/007_class")), "{f}/files.csv, val: class 7 has no images (1 such in all): "
         "prepare it with data_prep/places_lt.py again"),
        (lambda f: seal(f, without(f, "train/364_class")), "{f}/files.csv, train: class 364 has no images (1 such in "
         "all): prepare it with data_prep/places_lt.py again"),
        (lambda f: seal(f, (f / "files.csv").read_text() + "val/x/y.jpg,365,10\n"), "{f}/files.csv, val: labels "
         "must lie in 0 to 364, found 0 to 365: prepare it with data_prep/places_lt.py again"),
        (lambda f: (f / "manifest.json").write_text((f / "manifest.json").read_text().replace('"364"', '"364", "365"')),
         "{f} has 366 classes, not 365: prepare it with data_prep/places_lt.py"),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_one_error_naming_the_file(data, damage, message):
    folder = prepare(data)
    damage(folder)
    with pytest.raises(DataError) as error:
        load_dataset(PLACES)
    assert str(error.value) == message.format(f=folder)


def without(folder, beginning: str) -> str:
    lines = (folder / "files.csv").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(beginning))


def test_shards_that_cannot_be_used_are_named(data):
    folder = prepare(data, "shards")
    shard = folder / "train-00001-of-00002.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"^{shard} is not a shard of images .*: prepare {folder} again$"):
        load_dataset(PLACES)
    shard.unlink()
    clear()
    with pytest.raises(
        DataError, match=f"^the shards of {folder} lack train/.*: prepare it with .*places_lt.py again, with --verify$"
    ):
        load_dataset(PLACES)


def test_an_image_that_has_changed_or_is_damaged_is_named_when_it_is_needed(data):
    folder = prepare(data)
    path = folder / "train/000_class/0.jpg"
    train, size = load_dataset(PLACES).train, path.stat().st_size
    path.write_bytes(bytes(size))
    with pytest.raises(DataError, match=f"^{path} does not decode .*: {REMEDY}$"):
        train.image(0)
    path.write_bytes(bytes(size - 1))
    changed = f"{path} has changed since it was listed (it has {size - 1} bytes, not {size}): {REMEDY}"
    with pytest.raises(DataError) as error:
        train.image(0)
    assert str(error.value) == changed
    path.unlink()
    with pytest.raises(DataError) as error:
        train.image(0)
    assert str(error.value) == f"{path} cannot be read (No such file or directory): {REMEDY}"


@pytest.mark.parametrize("form", ["tree", "shards"])
def test_validation_images_of_a_large_set_are_taken_from_training(data, form):
    prepare(data, form)
    config = {"name": "places_lt", "image_size": 32, "evaluation": "validation"}
    with pytest.raises(DataError, match="class 0 has 2 training images, too few .* may be 1 at most"):
        load_dataset(DataConfig(**config))
    few = load_dataset(DataConfig(**config, validation_images=1))
    assert few.class_counts.tolist() == [1 + c % 2 for c in range(CLASSES)]
    assert torch.equal(few.evaluation.labels, torch.arange(CLASSES))
    assert not set(few.train.paths) & set(few.evaluation.paths)
    assert few.digest != load_dataset(PLACES).digest
    number = int(few.evaluation.paths[3].decode().rpartition("/")[2].removesuffix(".jpg"))
    expected = Image.open(io.BytesIO(picture(3, number)))
    assert np.array_equal(np.asarray(few.evaluation.image(3)), np.asarray(expected))


def test_shards_with_flipped_bytes_end_in_one_error_or_are_noticed_later(data):
    """In processes of their own: a wrong offset, followed blindly, would end the process without a word."""
    folder = prepare(data, "shards")
    code = f"""
import random, sys
from pathlib import Path
from livt.data import images
from livt.config import DataConfig
from livt.data.images import DataError
from livt.data.sets import load_dataset
shard = Path({str(folder)!r}) / "val-00000-of-00002.arrow"
sound = shard.read_bytes()
draw = random.Random(0)
for _ in range(60):
    damaged = bytearray(sound)
    for _ in range(2):
        damaged[draw.randrange(8, 3000)] ^= 1 << draw.randrange(8)
    shard.write_bytes(bytes(damaged))
    load_dataset.cache_clear()
    images.shards.cache_clear()
    try:
        split = load_dataset(DataConfig(name="places_lt", image_size=32)).evaluation
        for index in range(0, 365, 40):
            split.image(index)
        print("unnoticed")
    except DataError as error:
        assert str(shard.parent) in str(error), error
        print("refused")
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    assert out.stdout.split().count("refused") > 10
