"""Decoded images that are kept: used where they are those of the file, never where they are not."""

import os
import shutil
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from folders import own, picture, write_images

from livt.config import DataConfig
from livt.data import decoded, images
from livt.data.sets import load_dataset, load_evaluation, overview


@pytest.fixture
def pets(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return own(tmp_path / "pets", "parquet")


@pytest.fixture
def decoding(monkeypatch) -> list[str]:
    """The names of the images that are decoded from now on."""
    names = []
    decode = images.decode
    monkeypatch.setattr(
        images, "decode", lambda content, name, remedy: names.append(name) or decode(content, name, remedy)
    )
    return names


def load(folder: Path, **changes):
    load_dataset.cache_clear()
    return load_dataset(DataConfig(name=str(folder), **{"image_size": 16} | changes))


def same(one, other) -> bool:
    pairs = ((one.train, other.train), (one.evaluation, other.evaluation))
    return one.digest == other.digest and all(bool((a.images == b.images).all()) for a, b in pairs)


def test_the_second_start_decodes_nothing_and_has_the_same_images(pets, decoding):
    first = load(pets)
    assert len(decoding) == 25
    second = load(pets)
    assert len(decoding) == 25
    assert same(first, second)
    assert sorted(os.listdir(pets)) == [".decoded", "train.parquet", "val.parquet"]
    assert len(os.listdir(pets / ".decoded")) == 2


def test_another_subset_size_or_file_is_another_entry(pets, decoding):
    first = load(pets)
    load(pets, image_size=24)
    assert len(decoding) == 50
    load(pets, max_count=4, imbalance_factor=2)
    assert len(decoding) == 50 + 8, "the images to evaluate on are those kept before"
    status = (pets / "val.parquet").stat()
    pictures = [picture(200, number) for number in range(6)]
    write_images(pets / "val.parquet", pictures, [0, 0, 1, 1, 2, 2], sorted(("cat", "dog", "Axolotl")))
    os.utime(pets / "val.parquet", ns=(status.st_atime_ns, status.st_mtime_ns))  # by its date it is the same file
    changed = load(pets)
    assert len(decoding) == 58 + 6
    assert changed.digest != first.digest


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_a_damaged_entry_is_not_used(pets, decoding, damage):
    first = load(pets)
    for entry in (pets / ".decoded").iterdir():
        content = bytearray(entry.read_bytes())
        content[-1] ^= damage == "flip"
        entry.write_bytes({"cut": content[:-5], "empty": b"", "longer": content + b"x"}.get(damage, content))
    assert same(load(pets), first)
    assert len(decoding) == 50
    assert same(load(pets), first)
    assert len(decoding) == 50, "it was written anew"


def test_where_the_data_cannot_be_written_the_users_cache_keeps_them(pets, decoding, tmp_path, monkeypatch):
    (pets / ".decoded").write_text("not a folder")  # who runs the tests may be root, for whom nothing is read-only
    first = load(pets)
    assert same(load(pets), first)
    assert len(decoding) == 25
    assert len(os.listdir(tmp_path / "cache" / "livt" / "decoded")) == 2
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("not a folder either")
    assert same(load(pets), first)
    assert same(load(pets), first)
    assert len(decoding) == 75


def test_the_folder_stays_bounded_and_the_longest_unused_goes_first(pets, decoding, monkeypatch):
    monkeypatch.setattr(decoded, "MAX_BYTES", 2 * (19 + 6) * 3 * 16 * 16 + 4 * 32)
    load(pets)
    time.sleep(0.01)
    load(pets, draw=1, max_count=4, imbalance_factor=1)
    time.sleep(0.01)
    load(pets)  # used again: what came after it is older now
    time.sleep(0.01)
    load(pets, draw=2, max_count=4, imbalance_factor=1)
    assert sum(entry.stat().st_size for entry in (pets / ".decoded").iterdir()) <= decoded.MAX_BYTES
    count = len(decoding)
    load(pets)
    assert len(decoding) == count
    monkeypatch.setattr(decoded, "MAX_BYTES", 100)
    shutil.rmtree(pets / ".decoded")
    load(pets)
    assert not (pets / ".decoded").exists(), "what is larger than all may be is not kept"


def test_a_file_that_is_replaced_while_it_is_decoded_is_not_kept(pets, monkeypatch):
    encoded = images.EncodedSplit._decoded

    def replaced(self, indices):
        found = encoded(self, indices)
        write_images(self.path, [picture(1, 1)] * len(self.labels), self.labels.tolist())
        return found

    monkeypatch.setattr(images.EncodedSplit, "_decoded", replaced)
    load(pets)
    assert not (pets / ".decoded").exists()


def test_an_entry_appears_whole_and_can_be_read_by_others(pets, monkeypatch):
    load(pets)
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in (pets / ".decoded").iterdir()} == {0o644}
    shutil.rmtree(pets / ".decoded")
    monkeypatch.setattr(decoded.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    load(pets)
    assert os.listdir(pets / ".decoded") == []


def test_what_a_data_set_holds_is_known_without_an_image(pets, decoding):
    config = DataConfig(name=str(pets), image_size=16, max_count=4, imbalance_factor=2)
    found = overview(config)
    assert (found.class_counts.tolist(), found.evaluation_images, found.in_files) == ([4, 2, 2], 6, False)
    assert decoding == []
    evaluation = load_evaluation(config)
    assert len(decoding) == 6
    assert np.array_equal(evaluation.images, load(pets, max_count=4, imbalance_factor=2).evaluation.images)
