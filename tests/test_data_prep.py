import gzip
import http.server
import importlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from dataclasses import replace
from hashlib import md5, sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pytest
from filelock import FileLock
from PIL import Image
from pyarrow import parquet

from livt import __main__ as cli
from livt import config
from livt.companion.published import published
from livt.config import DataConfig
from livt.data.sets import load_dataset
from livt.lab.runs import RunStore

DATA_PREP = Path(__file__).parents[1] / "data_prep"
sys.path.insert(0, str(DATA_PREP))  # the scripts are run from their folder
cifar, imagenet_lt, inat18, places_lt, prepare, sources, storage, tiny_imagenet = map(
    importlib.import_module,
    ("cifar", "imagenet_lt", "inat18", "places_lt", "prepare", "sources", "storage", "tiny_imagenet"),
)

COUNTS = {"train": [5, 3, 2], "val": [2, 2, 2]}
WNIDS = ["n01440764", "n01443537", "n01484850"]


def picture(seed: object, size: tuple[int, int] = (8, 8), form: str = "JPEG") -> bytes:
    """An encoded image of noise, another for each seed."""
    generator = np.random.default_rng(int(sha256(str(seed).encode()).hexdigest()[:8], 16))
    buffer = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), np.uint8)).save(buffer, form)
    return buffer.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def call(script, *arguments, capsys) -> tuple[int, str, str]:
    """Run a script in this process; return status, stdout and stderr."""
    try:
        status = script.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    return status, *capsys.readouterr()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def arrow(path: Path) -> pyarrow.Table:
    with pyarrow.memory_map(str(path)) as mapped:
        return pyarrow.ipc.open_file(mapped).read_all()


def visible(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


@pytest.fixture
def imagenet(tmp_path, monkeypatch) -> Path:
    """A source of three classes, with its lists and counts."""
    source = tmp_path / "source"
    lines: dict[str, list[str]] = {"train": [], "val": []}
    for split, counts in COUNTS.items():
        for label, count in enumerate(counts):
            for i in range(count):
                name = f"{split}/{WNIDS[label]}/{split}_{label}_{i}.JPEG"
                put(source / name, picture(name))
                lines[split].append(f"{name} {label}")
    for split, name in (("train", "ImageNet_LT_train.txt"), ("val", "ImageNet_LT_test.txt")):
        put(source / name, "\n".join(lines[split]) + "\n")
    table = pd.DataFrame({"class_index": range(3), "n_train": COUNTS["train"], "n_test": COUNTS["val"], "wnid": WNIDS})
    monkeypatch.setattr(imagenet_lt, "published", lambda name: table)
    return source


# ---------------------------------------------------------------- trees


@pytest.mark.parametrize("how", ["link", "symlink", "copy"])
def test_a_tree_of_the_listed_images(imagenet, tmp_path, capsys, how):
    put(imagenet / "train/n01440764/unlisted.JPEG", picture("unlisted"))
    status, out, err = call(imagenet_lt, imagenet, tmp_path / "data", "--how", how, "--verify", capsys=capsys)
    target = tmp_path / "data/imagenet_lt"
    manifest = json.loads((target / "manifest.json").read_text())
    assert (status, err) == (0, "")
    assert out.startswith(f"{target}: prepared: train 10, val 6 images, 3 classes, digest {manifest['digest'][:16]}\n")
    assert "ImageNet_LT_train.txt is not the published text" in out
    listing = (target / "files.csv").read_bytes()
    rows = pd.read_csv(io.BytesIO(listing))
    assert sha256(listing).hexdigest() == manifest["digest"]
    assert manifest["class_counts"] == COUNTS
    assert rows["path"].tolist() == sorted(p.relative_to(target).as_posix() for p in target.rglob("*.JPEG"))
    for path, label, size in rows.itertuples(index=False):
        source = imagenet / path
        assert (target / path).read_bytes() == source.read_bytes()
        assert (target / path).stat().st_size == size
        assert WNIDS[label] == Path(path).parent.name
        assert (target / path).is_symlink() == (how == "symlink")
        assert (target / path).samefile(source) == (how != "copy")
    assert visible(tmp_path / "data") == ["imagenet_lt"]


def test_a_finished_target_is_left_as_it_is(imagenet, tmp_path, capsys):
    data = tmp_path / "data"
    call(imagenet_lt, imagenet, data, capsys=capsys)
    before = {p: p.stat().st_mtime_ns for p in (data / "imagenet_lt").rglob("*")}
    for extra in ((), ("--verify",), ("--force",)):
        status, out, _ = call(imagenet_lt, imagenet, data, *extra, capsys=capsys)
        assert status == 0
        assert out.startswith(f"{data}/imagenet_lt: already prepared: train 10, val 6 images")
    assert before == {p: p.stat().st_mtime_ns for p in (data / "imagenet_lt").rglob("*")}
    # Its lists are enough: the images may be gone.
    (imagenet / "train").rename(imagenet / "elsewhere")
    assert call(imagenet_lt, imagenet, data, capsys=capsys)[0] == 0


def test_a_target_that_differs_is_refused_unless_forced(imagenet, tmp_path, capsys):
    data, target = tmp_path / "data", tmp_path / "data/imagenet_lt"
    call(imagenet_lt, imagenet, data, capsys=capsys)
    remedy = ": pass --force to make it anew, or name another TARGET\n"
    again = (imagenet_lt, imagenet, data, "--how", "copy")
    expected = f'imagenet_lt.py: error: {target} was made with how = "link", not "copy"{remedy}'
    assert call(*again, capsys=capsys) == (2, "", expected)
    assert call(*again, "--force", capsys=capsys)[0] == 0
    first = target / "train/n01440764/train_0_0.JPEG"
    for damage, reason in (
        (first.unlink, "lacks train/n01440764/train_0_0.JPEG"),
        (lambda: put(first, b"x"), "is damaged: train/n01440764/train_0_0.JPEG has 1 bytes, not"),
        (lambda: put(target / "train/a.txt", "x"), "holds train/a.txt, which its manifest does not"),
        (lambda: put(target / "files.csv", "x"), "has a files.csv that is not the manifest's"),
        ((target / "manifest.json").unlink, "has no manifest.json and files.csv that can be read"),
    ):
        damage()
        status, out, err = call(*again, capsys=capsys)
        assert (status, out) == (2, "")
        assert err.startswith(f"imagenet_lt.py: error: {target} {reason}")
        assert err.endswith(remedy)
        assert call(*again, "--force", capsys=capsys)[0] == 0
        assert call(*again, capsys=capsys)[0] == 0
    assert visible(data) == ["imagenet_lt"]


def test_a_replacement_that_was_killed_between_its_renames_is_completed(imagenet, tmp_path, capsys):
    data = tmp_path / "data"
    call(imagenet_lt, imagenet, data, "--how", "copy", capsys=capsys)
    (data / "imagenet_lt").rename(data / ".imagenet_lt.partial")
    put(data / ".imagenet_lt.old/manifest.json", "{}")
    (imagenet / "train").rename(imagenet / "elsewhere")
    status, out, _ = call(imagenet_lt, imagenet, data, "--how", "copy", capsys=capsys)
    assert status == 0
    assert "imagenet_lt: already prepared: " in out
    assert {p.name for p in data.iterdir()} - {".imagenet_lt.lock"} == {"imagenet_lt"}


def test_missing_and_empty_images_are_named_and_leave_no_target(imagenet, tmp_path, capsys):
    data, problems = tmp_path / "data", tmp_path / "data/imagenet_lt.problems.txt"
    lost = [imagenet / f"train/n01440764/train_0_{i}.JPEG" for i in range(4)]
    kept = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    status, _, err = call(imagenet_lt, imagenet, data, capsys=capsys)
    shown = ", ".join(map(str, lost[:3]))
    assert (status, err) == (
        2,
        f"imagenet_lt.py: error: 4 images are missing: {shown}, ... (all of them: {problems}); "
        "complete SOURCE and run the same command again\n",
    )
    assert problems.read_text().split() == [str(path) for path in lost]
    assert visible(data) == [problems.name]
    for path in lost:
        put(path, b"")
    err = call(imagenet_lt, imagenet, data, capsys=capsys)[2]
    assert err.startswith("imagenet_lt.py: error: 4 images are empty: ")
    for path, content in zip(lost, kept, strict=True):
        put(path, content)
    assert call(imagenet_lt, imagenet, data, capsys=capsys)[0] == 0
    assert visible(data) == ["imagenet_lt"]


@pytest.mark.parametrize("extra", [("--verify",), ("--verify", "--how", "copy"), ("--shards",)])
def test_corrupt_images_are_named_and_leave_no_target(imagenet, tmp_path, capsys, extra):
    data, bad = tmp_path / "data", imagenet / "val/n01443537/val_1_0.JPEG"
    good = bad.read_bytes()
    put(bad, good[: len(good) // 2])
    status, _, err = call(imagenet_lt, imagenet, data, *extra, capsys=capsys)
    assert status == 2
    assert err.startswith("imagenet_lt.py: error: 1 images do not decode: ")
    assert "val/n01443537/val_1_0.JPEG (all of them: " in err
    assert err.endswith(f"; obtain them anew for {imagenet} and run the command again\n")
    assert err.count("\n") == 1
    assert visible(data) == ["imagenet_lt.problems.txt"]
    bad.unlink()
    put(bad, good)
    assert call(imagenet_lt, imagenet, data, *extra, capsys=capsys)[0] == 0
    assert visible(data) == ["imagenet_lt"]


def test_a_finished_target_that_no_longer_decodes_is_reported(imagenet, tmp_path, capsys):
    data = tmp_path / "data"
    call(imagenet_lt, imagenet, data, "--how", "copy", capsys=capsys)
    bad = data / "imagenet_lt/val/n01443537/val_1_0.JPEG"
    put(bad, bytes(bad.stat().st_size))
    assert call(imagenet_lt, imagenet, data, "--how", "copy", capsys=capsys)[0] == 0, "sizes alone tell nothing"
    status, _, err = call(imagenet_lt, imagenet, data, "--how", "copy", "--verify", capsys=capsys)
    assert status == 2
    assert "1 images do not decode: val/n01443537/val_1_0.JPEG" in err


def test_duplicates_and_overlap_are_found_by_content(imagenet, tmp_path, capsys):
    twin, other = imagenet / "train/n01440764/train_0_1.JPEG", imagenet / "train/n01443537/train_1_0.JPEG"
    put(other, twin.read_bytes())
    put(imagenet / "train/n01440764/train_0_0.JPEG", (imagenet / "val/n01484850/val_2_1.JPEG").read_bytes())
    # The same size and the same end, but another beginning.
    tail = bytes(prepare.TAIL)
    put(imagenet / "train/n01440764/train_0_2.JPEG", b"a" + tail)
    put(imagenet / "train/n01440764/train_0_3.JPEG", b"b" + tail)
    status, out, _ = call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)
    duplicates = ["train/n01440764/train_0_1.JPEG", "train/n01443537/train_1_0.JPEG"]
    overlap = ["train/n01440764/train_0_0.JPEG", "val/n01484850/val_2_1.JPEG"]
    assert status == 0
    assert out.splitlines()[1:3] == [
        f"1 images of one split have the same content: {' = '.join(duplicates)} (manifest.json: duplicates)",
        "1 images are in training and in evaluation; --drop-overlap leaves them out of training: "
        f"{' = '.join(overlap)} (manifest.json: overlap)",
    ]
    status, out, _ = call(imagenet_lt, imagenet, tmp_path / "other", "--drop-overlap", capsys=capsys)
    manifest = json.loads((tmp_path / "other/imagenet_lt/manifest.json").read_text())
    assert "prepared: train 9, val 6 images" in out
    assert f"1 training images are left out: evaluation has them too: {' = '.join(overlap)}" in out
    assert (manifest["duplicates"], manifest["overlap"], manifest["dropped"]) == ([duplicates], [], [overlap])
    assert manifest["class_counts"]["train"] == [4, 3, 2]
    assert not (tmp_path / "other/imagenet_lt" / overlap[0]).exists()


def test_another_file_system_is_one_clear_error(imagenet, tmp_path, capsys, monkeypatch):
    def refuse(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    status, _, err = call(imagenet_lt, imagenet, tmp_path / "data", "--jobs", 1, capsys=capsys)
    assert status == 2
    assert "cannot be hard-linked into" in err
    assert err.endswith("(Invalid cross-device link): pass --how symlink or --how copy\n")
    assert visible(tmp_path / "data") == []


def test_one_target_is_made_by_one_process(imagenet, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    with FileLock(tmp_path / "data/.imagenet_lt.lock"):
        status, _, err = call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)
    target = tmp_path / "data/imagenet_lt"
    assert (status, err) == (
        2,
        f"imagenet_lt.py: error: {target} is being made by another process: wait for its end\n",
    )


def test_validation_images_without_class_folders(imagenet, tmp_path, capsys):
    for path in list((imagenet / "val").rglob("*.JPEG")):
        path.rename(imagenet / "val" / path.name)
    assert call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)[0] == 0
    assert (tmp_path / "data/imagenet_lt/val/n01484850/val_2_1.JPEG").is_file()


def test_balanced_draws_the_same_images_everywhere(imagenet, tmp_path, capsys, monkeypatch):
    arguments = (imagenet_lt, imagenet, tmp_path / "data", "--balanced")
    status, _, err = call(*arguments, capsys=capsys)
    assert status == 2
    assert f"{imagenet}/train/n01440764 has 5 images (*.JPEG), but 160 are drawn" in err
    monkeypatch.setattr(imagenet_lt, "PER_CLASS", 2)
    (imagenet / "ImageNet_LT_train.txt").unlink()  # not needed
    assert call(*arguments, capsys=capsys)[0] == 0
    manifest = json.loads((tmp_path / "data/imagenet_bal/manifest.json").read_text())
    assert manifest["class_counts"]["train"] == [2, 2, 2]
    names = [f"train_0_{i}.JPEG" for i in range(5)]
    expected = sorted(sorted(names, key=lambda name: sha256(name.encode()).hexdigest())[:2])
    assert sorted(p.name for p in (tmp_path / "data/imagenet_bal/train/n01440764").iterdir()) == expected


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../x.JPEG 0", "the path '../x.JPEG' leaves its folder"),
        ("/etc/passwd 0", "the path '/etc/passwd' leaves its folder"),
        ("train\\..\\x.JPEG 0", "leaves its folder"),
        ("train/n01440764/train_0_0.JPEG 3", "label 3 is not in 0 to 2"),
        ("train/n01440764/train_0_0.JPEG -1", "is not 'path label': 'train/n01440764/train_0_0.JPEG -1'"),
        ("nonsense", "is not 'path label': 'nonsense'"),
        ("train/n01440764/train_0_0.JPEG 0", "train/n01440764/train_0_0.JPEG stands in line 1 too"),
    ],
)
def test_a_bad_line_is_named(imagenet, tmp_path, capsys, line, message):
    path = imagenet / "ImageNet_LT_train.txt"
    put(path, path.read_text() + line + "\n")
    status, _, err = call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)
    assert status == 2
    assert f"{path}, line 11" in err
    assert message in err
    assert "ImageNet is at https://image-net.org/download.php" in err, "the remedy"
    assert err.count("\n") == 1


def test_counts_other_than_the_published_ones_are_refused(imagenet, tmp_path, capsys):
    path = imagenet / "ImageNet_LT_train.txt"
    lines = path.read_text().splitlines()
    put(path, "\n".join(lines[:-1]))
    assert call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)[2] == (
        "imagenet_lt.py: error: ImageNet_LT_train.txt: class 2 (n01484850) has 1 images, published are 2 (1 such "
        "classes; 9 images in all, published are 10): obtain the official one\n"
    )
    put(path, "\n".join(lines[:-2]))
    assert (
        "class 2 (n01484850) has 0 images, published are 2"
        in call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)[2]
    )
    put(path, "\n".join([*lines[:-1], lines[-1].replace("n01484850", "n01443537")]))
    assert "has label 2, which is n01484850" in call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)[2]
    put(path, "\n".join([*lines[:-1], "elsewhere/n01484850/train_2_0.JPEG 2"]))
    assert (
        "train/n01484850/train_2_0.JPEG and elsewhere/n01484850/train_2_0.JPEG have one name in class n01484850"
        in call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)[2]
    )


def test_lists_may_be_gzipped_and_elsewhere(imagenet, tmp_path, capsys):
    for path in imagenet.glob("*.txt"):
        put(tmp_path / "lists" / f"{path.name}.gz", gzip.compress(path.read_bytes()))
        path.unlink()
    assert call(imagenet_lt, imagenet, tmp_path / "data", "--lists", tmp_path / "lists", capsys=capsys)[0] == 0
    err = call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)[2]
    assert f"{imagenet} holds neither ImageNet_LT_train.txt nor ImageNet_LT_train.txt.gz; ImageNet is at" in err
    put(imagenet / "ImageNet_LT_train.txt.gz", b"no gzip")
    assert "does not unpack" in call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)[2]


@pytest.mark.parametrize(
    ("name", "column", "total", "largest", "smallest", "classes"),
    [
        ("imagenet_lt", "n_train", 115_846, 1280, 5, 1000),
        ("imagenet_lt", "n_test", 50_000, 50, 50, 1000),
        ("inat18", "n_train", 437_513, 1000, 2, 8142),
        ("inat18", "n_test", 24_426, 3, 3, 8142),
        ("places_lt", "n_train", 62_500, 4980, 5, 365),
        ("places_lt", "n_test", 36_500, 100, 100, 365),
    ],
)
def test_lists_of_the_published_sizes_are_read_and_accepted(tmp_path, name, column, total, largest, smallest, classes):
    counts = published(f"class_counts/{name}")[column].tolist()
    text = "".join(f"d/{c}/{i}.jpg {c}\n" for c, count in enumerate(counts) for i in range(count)).encode()
    put(tmp_path / "list.txt", text)
    images = sources.read_list(tmp_path, "list.txt", classes, sha256(text).hexdigest(), "obtain it")
    names = [str(c) for c in range(classes)]
    sources.check_counts("list.txt", images.labels, counts, names)
    found = Counter(images.labels)
    assert (len(images.records), max(found.values()), min(found.values())) == (total, largest, smallest)
    assert images.official
    with pytest.raises(storage.PrepareError, match=rf"class {classes - 1} \({classes - 1}\) has"):
        sources.check_counts("list.txt", images.labels[:-1], counts, names)


def test_a_list_is_known_by_its_git_blob_id_too(tmp_path):
    put(tmp_path / "list.txt", "a/b.jpg 0\n")
    made = subprocess.run(["git", "hash-object", tmp_path / "list.txt"], capture_output=True, text=True)
    blob = made.stdout.strip()
    assert blob, made.stderr
    for known, official in ((f"git:{blob}", True), ("git:" + "0" * 40, False), ("", None)):
        assert sources.read_list(tmp_path, "list.txt", 1, known, "").official is official


# ---------------------------------------------------------------- iNaturalist and Places


@pytest.fixture
def inaturalist(tmp_path, monkeypatch) -> Path:
    """Twelve categories: enough for 10 and 11 to sort before 2 as strings."""
    source = tmp_path / "inat"
    for split, count in (("train", 2), ("val", 1)):
        images, annotations = [], []
        for category in range(12):
            for i in range(count):
                name = f"train_val2018/Aves/{category}/{split}{i}.jpg"
                put(source / name, picture(name))
                images.append({"id": len(images), "file_name": name})
                annotations.append({"id": len(annotations), "image_id": len(images) - 1, "category_id": category})
        put(source / f"{split}2018.json", json.dumps({"images": images[::-1], "annotations": annotations}))
    table = pd.DataFrame({"class_index": range(12), "n_train": 2, "n_test": 1})
    monkeypatch.setattr(inat18, "published", lambda name: table)
    return source


def test_inat_folders_sort_in_the_order_of_the_categories(inaturalist, tmp_path, capsys):
    assert call(inat18, inaturalist, tmp_path / "data", capsys=capsys)[0] == 0
    target = tmp_path / "data/inat18"
    folders = sorted(p.name for p in (target / "train").iterdir())
    for label, folder in enumerate(folders):
        assert sorted(p.name for p in (target / "train" / folder).iterdir()) == ["train0.jpg", "train1.jpg"]
        one = target / "train" / folder / "train0.jpg"
        assert one.read_bytes() == picture(f"train_val2018/Aves/{label}/train0.jpg")


def test_inat_text_lists_do_as_well(inaturalist, tmp_path, capsys):
    for split in ("train", "val"):
        values = json.loads((inaturalist / f"{split}2018.json").read_text())
        names = {image["id"]: image["file_name"] for image in values["images"]}
        lines = [f"{names[a['image_id']]} {a['category_id']}" for a in values["annotations"]]
        put(tmp_path / f"lists/iNaturalist18_{split}.txt", "\n".join(lines))
    call(inat18, inaturalist, tmp_path / "json", capsys=capsys)
    status, out, _ = call(inat18, inaturalist, tmp_path / "text", "--lists", tmp_path / "lists", capsys=capsys)
    assert status == 0
    assert "iNaturalist18_val.txt is not the published text" in out
    assert (tmp_path / "json/inat18/files.csv").read_bytes() == (tmp_path / "text/inat18/files.csv").read_bytes()


def test_inat_places_and_dates_are_read(inaturalist, tmp_path, capsys):
    """The official form: a list by image id, in degrees, with a time of day; null where not known."""
    entries = [
        {"id": 0, "lat": 90.0, "lon": 12.0, "loc_uncert": 5, "date": "2017-01-01 14:34:12+00:00", "date_c": -1.0},
        {"id": 1, "lat": 0.0, "lon": -90.0, "loc_uncert": None, "date": None, "user_id": 7},
        {"id": 2, "lat": None, "lon": None, "loc_uncert": None, "date": "2016-07-02 00:00:00+00:00"},
        {"id": 3, "lat": 30.0, "lon": 60.0, "date": "2016-04-01"},
    ]
    put(inaturalist / "train2018_locations.json", json.dumps(entries))
    put(inaturalist / "val2018_locations.json", "[]")
    status, out, _ = call(inat18, inaturalist, tmp_path / "data", "--metadata", capsys=capsys)
    assert status == 0
    path = tmp_path / "data/inat18.metadata.csv"
    assert f"{path}: 3 places and 3 days of 36 images" in out
    table = pd.read_csv(path).set_index("path")
    assert set(table.index) == {
        str(p.relative_to(tmp_path / "data/inat18")) for p in tmp_path.rglob("inat18/*/*/*.jpg")
    }
    place, day = ["x", "y", "z"], ["sin", "cos"]
    rows = [table.loc[f"train/000{i // 2}/train{i % 2}.jpg"] for i in range(4)]
    assert rows[0][place].tolist() == pytest.approx([0, 0, 1])
    assert rows[0][day].tolist() == [0.0, 1.0]
    assert rows[1][place].tolist() == pytest.approx([0, -1, 0])
    assert rows[1][day].tolist() == [0.0, 0.0]
    assert rows[2][place].tolist() == [0.0, 0.0, 0.0]
    assert rows[2][day].tolist() == pytest.approx([0, -1]), "the middle of a year of 366 days"
    root = 3**0.5
    assert rows[3][place].tolist() == pytest.approx([root / 4, 3 / 4, 1 / 2])
    assert [(row.place, row.day) for row in rows] == [(1, 1), (1, 0), (0, 1), (1, 1)]
    nothing = table.loc["val/0011/val0.jpg"]
    assert not nothing.any(), "of an image that the file lacks"
    others = table[table.place][place]
    assert (others**2).sum(axis=1).tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "train2018_locations.json is missing; it is in inat2018_locations.zip"),
        ("{", "train2018_locations.json is not JSON (JSONDecodeError"),
        ('{"id": 3}', "does not give places and dates of images (TypeError"),
        ('[{"lat": 1}]', "does not give places and dates of images (KeyError: 'id')"),
        ('[{"id": 0, "lat": 91, "lon": 0}]', "there is no place of latitude 91 and longitude 0"),
        ('[{"id": 0, "lat": "1", "lon": 0}]', "(TypeError"),
        ('[{"id": 0, "date": "2017-13-01"}]', "(ValueError: month must be in 1..12"),
    ],
)
def test_inat_places_and_dates_that_cannot_be_used(inaturalist, tmp_path, capsys, content, message):
    if content is not None:
        put(inaturalist / "train2018_locations.json", content)
    status, _, err = call(inat18, inaturalist, tmp_path / "data", "--metadata", capsys=capsys)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "data/inat18").exists(), "read before anything is made"


def test_inat_labels_in_string_order_are_refused(inaturalist, tmp_path, capsys):
    path = inaturalist / "train2018.json"
    official = json.loads(path.read_text())
    place = sorted(map(str, range(12)))  # "0", "1", "10", "11", "2", ...
    for annotation in official["annotations"]:
        annotation["category_id"] = place.index(str(annotation["category_id"]))
    put(path, json.dumps(official))
    status, _, err = call(inat18, inaturalist, tmp_path / "data", capsys=capsys)
    assert status == 2
    assert (
        f"{path}: train_val2018/Aves/2/train0.jpg has label 4, not its category 2: the labels count the folders in "
        "string order (0, 1, 10, 100, ...); images and annotations are at https://github.com/visipedia" in err
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON with images and annotations (JSONDecodeError"),
        ("{}", "is not JSON with images and annotations (KeyError: 'images')"),
        ('{"images": [], "annotations": [{"image_id": 3, "category_id": 0}]}', "(KeyError: 3)"),
        ('{"images": [{"id": 0, "file_name": 5}], "annotations": [{"image_id": 0, "category_id": 0}]}', "no string"),
        (
            '{"images": [{"id": 0, "file_name": "../0/x"}], "annotations": [{"image_id": 0, "category_id": 0}]}',
            "the path '../0/x' leaves its folder",
        ),
        (None, "train2018.json is missing; images and annotations are at"),
    ],
)
def test_inat_json_that_cannot_be_used(inaturalist, tmp_path, capsys, content, message):
    path = inaturalist / "train2018.json"
    path.unlink() if content is None else put(path, content)
    status, _, err = call(inat18, inaturalist, tmp_path / "data", capsys=capsys)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_places_folders_sort_in_the_order_of_the_labels(tmp_path, capsys, monkeypatch):
    names = ["desert_road", "desert-sand"]  # sorted the other way round
    table = pd.DataFrame({"class_index": [0, 1], "n_train": 1, "n_test": 1, "class_name": names})
    monkeypatch.setattr(places_lt, "published", lambda name: table)
    for split, file in (("train", "Places_LT_train.txt"), ("val", "Places_LT_test.txt")):
        for name in names:
            put(tmp_path / f"source/{split}/{name}/0.jpg", picture((split, name)))
        put(tmp_path / "source" / file, "".join(f"{split}/{n}/0.jpg {i}\n" for i, n in enumerate(names)))
    assert call(places_lt, tmp_path / "source", tmp_path / "data", capsys=capsys)[0] == 0
    folders = sorted(p.name for p in (tmp_path / "data/places_lt/val").iterdir())
    assert folders == ["000_desert_road", "001_desert-sand"]
    err = call(places_lt, tmp_path / "nothing", tmp_path / "data", capsys=capsys)[2]
    assert "holds neither Places_LT_train.txt nor Places_LT_train.txt.gz; Places365-Standard is at http" in err


def test_real_class_folders_sort_in_the_order_of_the_labels():
    names = published("class_counts/places_lt")["class_name"].tolist()
    assert names != sorted(names), "why the folders are numbered"
    wnids = published("class_counts/imagenet_lt")["wnid"].tolist()
    assert wnids == sorted(wnids)


# ---------------------------------------------------------------- shards


def test_shards_hold_each_image_once_reduced(imagenet, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(storage, "SHARD_IMAGES", 4)
    wide = put(imagenet / "train/n01440764/train_0_0.JPEG", picture("wide", (700, 350)))
    put(imagenet / "train/n01440764/train_0_1.JPEG", picture("png", (300, 400), "PNG"))  # whatever its name says
    small = imagenet / "train/n01440764/train_0_2.JPEG"
    assert call(imagenet_lt, imagenet, tmp_path / "data", "--shards", "--verify", capsys=capsys)[0] == 0
    target = tmp_path / "data/imagenet_lt"
    assert visible(target) == [
        "files.csv",
        "manifest.json",
        *(f"train-{i:05d}-of-00003.arrow" for i in range(3)),
        *(f"val-{i:05d}-of-00002.arrow" for i in range(2)),
    ]
    both = {s: [r for p in sorted(target.glob(f"{s}-*")) for r in arrow(p).to_pylist()] for s in ("train", "val")}
    found = []
    for split, rows in both.items():
        for row in rows:
            image = row["image"]
            found.append(f"{split}/{image['path']},{row['label']},{len(image['bytes'])}")
            assert WNIDS[row["label"]] == Path(image["path"]).parent.name
    assert (target / "files.csv").read_text().splitlines() == ["path,label,size", *sorted(found)]
    facts = {p.name: {"bytes": len(c := p.read_bytes()), "sha256": sha256(c).hexdigest()} for p in target.glob("*.a*")}
    assert json.loads((target / "manifest.json").read_text())["files"] == facts
    rows = both["train"]
    stored = {row["image"]["path"]: row["image"]["bytes"] for row in rows}
    assert len(stored) == len(rows) == 10
    sizes = {name: Image.open(io.BytesIO(content)).size for name, content in stored.items()}
    assert sizes["n01440764/train_0_0.JPEG"] == (512, 256)
    assert sizes["n01440764/train_0_1.JPEG"] == (256, 341)
    assert stored["n01440764/train_0_2.JPEG"] == small.read_bytes(), "an image that is small enough is kept"
    # An independent reduction agrees up to the loss of JPEG.
    again = np.asarray(Image.open(wide).resize((512, 256), Image.Resampling.BICUBIC), float)
    reduced = np.asarray(Image.open(io.BytesIO(stored["n01440764/train_0_0.JPEG"])), float)
    assert np.abs(again.mean((0, 1)) - reduced.mean((0, 1))).max() < 1
    labels = [row["label"] for row in rows]
    assert labels != sorted(labels), "the classes are mixed"
    keys = [sha256(f"train/{row['image']['path']}".encode()).digest() for row in rows]
    assert keys == sorted(keys), "the fixed order"
    # A byte that changes without changing the size is found by --verify.
    shard = target / "train-00000-of-00003.arrow"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    put(shard, bytes(content))
    assert call(imagenet_lt, imagenet, tmp_path / "data", "--shards", capsys=capsys)[0] == 0
    err = call(imagenet_lt, imagenet, tmp_path / "data", "--shards", "--verify", capsys=capsys)[2]
    assert f"{target} is damaged: {shard.name} does not have the manifest's checksum: pass --force" in err


def test_a_shard_is_mapped_and_read_by_rows(tmp_path):
    entries = [storage.Entry(path=f"train/c/{i}.jpg", label=i % 7, source=picture(i)) for i in range(600)]
    assert storage.build_tables(tmp_path, "shards", entries, [str(c) for c in range(7)], 1) == []
    path = tmp_path / "train-00000-of-00001.arrow"
    with pyarrow.memory_map(str(path)) as mapped:
        before = pyarrow.total_allocated_bytes()
        reader = pyarrow.ipc.open_file(mapped)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        assert pyarrow.total_allocated_bytes() - before < 10_000, "nothing is copied, so nothing is compressed"
    assert [batch.num_rows for batch in batches] == [256, 256, 88]
    expected = {
        "image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
        "label": pyarrow.int64(),
    }
    assert batches[0].schema.equals(pyarrow.schema(expected))
    features = json.loads(batches[0].schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"]["names"] == [str(c) for c in range(7)]
    row = batches[2].column("image")[5].as_py()
    assert row["bytes"] == picture(int(Path(row["path"]).stem))
    assert path.stat().st_size < 1.2 * sum(entry.size() for entry in entries), "a batch does not hold the whole file"


def test_shards_that_were_killed_and_then_damaged_are_named(imagenet, tmp_path, capsys, monkeypatch):
    """A file that was whole when the run ended is taken as it is: damage since (a power cut) must not go unseen."""
    monkeypatch.setattr(storage, "SHARD_IMAGES", 4)
    data, bad = tmp_path / "data", imagenet / "val/n01443537/val_1_0.JPEG"
    good = bad.read_bytes()
    put(bad, good[: len(good) // 2])
    assert call(imagenet_lt, imagenet, data, "--shards", capsys=capsys)[0] == 2
    put(bad, good)
    shard = data / ".imagenet_lt.partial/train-00001-of-00003.arrow"
    whole = shard.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        *(whole[:cut] for cut in (0, 1, 8, 100, middle, len(whole) - 6, len(whole) - 1)),
        bytes(len(whole)),
        whole[:800] + whole[middle:],  # the footer leads out of the file
        whole[:middle] + bytes(middle),
    ):
        put(shard, damaged)
        for extra in ((), ("--verify",)):
            status, out, err = call(imagenet_lt, imagenet, data, "--shards", *extra, capsys=capsys)
            assert (status, out) == (2, "")
            assert err.startswith(f"imagenet_lt.py: error: {shard} cannot be read (")
            assert err.endswith("): delete it and run the same command again\n")
            assert err.count("\n") == 1
            assert visible(data) == []
    shard.unlink()
    kept = data / ".imagenet_lt.partial/train-00000-of-00003.arrow"
    before = kept.stat().st_mtime_ns
    assert call(imagenet_lt, imagenet, data, "--shards", "--verify", capsys=capsys)[0] == 0
    target = data / "imagenet_lt"
    assert (target / shard.name).read_bytes() == whole
    assert (target / kept.name).stat().st_mtime_ns == before, "what was whole is not made again"
    put(target / shard.name, whole[:-1])
    assert call(imagenet_lt, imagenet, data, "--shards", capsys=capsys)[2] == (
        f"imagenet_lt.py: error: {target} is damaged: {shard.name} has {len(whole) - 1} bytes, not {len(whole)}: pass "
        "--force to make it anew, or name another TARGET\n"
    )
    assert call(imagenet_lt, imagenet, data, "--shards", "--force", capsys=capsys)[0] == 0
    assert (target / shard.name).read_bytes() == whole


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_shard_never_ends_the_process(tmp_path, seed):
    """Offsets are trusted where a file is mapped: unchecked, a wrong one is read outside the file."""
    entries = [storage.Entry(path=f"train/c/{i}.jpg", label=0, source=picture(i % 5)) for i in range(300)]
    storage.build_tables(tmp_path, "shards", entries, ["c"], 1)
    path = tmp_path / "train-00000-of-00001.arrow"
    content = path.read_bytes()
    damaged = np.frombuffer(content, np.uint8).copy()
    generator = np.random.default_rng(seed)
    # The parts that are no image: schema, offsets and names of the first batch, footer.
    places = np.concatenate([np.arange(4000), np.arange(len(content) - 2000, len(content))])
    for _ in range(200):
        changed = generator.choice(places, 3)
        damaged[changed] ^= generator.integers(1, 256, 3, np.uint8)
        put(path, damaged.tobytes())
        try:
            storage.image_sizes(tmp_path)
            storage.check_images(tmp_path, 1)
        except storage.PrepareError as error:
            assert str(path) in str(error)  # noqa: PT017
        damaged[:] = np.frombuffer(content, np.uint8)


@pytest.mark.parametrize(
    "columns",
    [
        {"label": [0]},
        {"image": [1]},
        {"image": [{"bytes": b"x"}]},
        {"image": [{"bytes": b"x", "path": b"c/0.jpg"}]},
        {"image": [{"bytes": None, "path": "c/0.jpg"}, {"bytes": b"x", "path": "c/1.jpg"}]},
    ],
)
def test_a_shard_of_something_else_is_named(tmp_path, columns):
    path = tmp_path / "train-00000-of-00001.arrow"
    put(path, storage.serialized(pyarrow.table(columns), "shards").to_pybytes())
    with pytest.raises(storage.PrepareError, match=f"^{path} cannot be read .*: delete it and run the same command"):
        storage.image_sizes(tmp_path)


def test_an_image_twice_in_shards_is_named(imagenet, tmp_path, capsys, monkeypatch):
    """Shards of two runs, between which an image fell out of the source, overlap."""
    monkeypatch.setattr(storage, "SHARD_IMAGES", 4)
    order = sorted(path.relative_to(imagenet).as_posix() for path in (imagenet / "train").rglob("*.JPEG"))
    order.sort(key=lambda path: sha256(path.encode()).digest())
    bad, data = imagenet / order[1], tmp_path / "data"
    put(bad, b"no image")
    arguments = (imagenet_lt, imagenet, data, "--shards", "--drop-overlap")
    assert "1 images do not decode" in call(*arguments, capsys=capsys)[2]
    put(bad, (imagenet / "val/n01443537/val_1_0.JPEG").read_bytes())
    partial = data / ".imagenet_lt.partial"
    assert call(*arguments, capsys=capsys)[2] == (
        f"imagenet_lt.py: error: {partial}/train-00001-of-00003.arrow holds {order[4]} a second time: delete {partial} "
        "and run the command again\n"
    )
    assert visible(data) == []
    for path in partial.iterdir():
        path.unlink()
    partial.rmdir()
    assert "prepared: train 9, val 6" in call(*arguments, capsys=capsys)[1]


def test_shards_of_the_old_form_are_refused_unless_forced(imagenet, tmp_path, capsys):
    arguments = (imagenet_lt, imagenet, tmp_path / "data", "--shards")
    call(*arguments, capsys=capsys)
    target = tmp_path / "data/imagenet_lt"
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["request"]["format"] = 1
    put(target / "manifest.json", json.dumps(manifest))
    assert f"{target} was made with format = 1, not 2: pass --force" in call(*arguments, capsys=capsys)[2]
    assert call(*arguments, "--force", capsys=capsys)[0] == 0
    assert call(*arguments, capsys=capsys)[0] == 0


def test_torchvision_and_livt_agree_on_the_labels_of_a_tree(imagenet, tmp_path, capsys):
    from torchvision.datasets import ImageFolder

    call(imagenet_lt, imagenet, tmp_path / "data", capsys=capsys)
    folder = ImageFolder(str(tmp_path / "data/imagenet_lt/train"))
    listing = pd.read_csv(tmp_path / "data/imagenet_lt/files.csv").set_index("path")
    for path, label in folder.samples:
        assert listing.loc[Path(path).relative_to(tmp_path / "data/imagenet_lt").as_posix(), "label"] == label


# ---------------------------------------------------------------- CIFAR


class _Python2Pickler(pickle._Pickler):
    """Writes what the official archives hold: Python 2 pickles, protocol 2, byte strings as strings."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2(value) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


def tar(path: Path, files: dict[str, bytes], **links: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


def cifar_batch(rows: range, classes: int, seed: int = 0) -> dict[bytes, object]:
    generator = np.random.default_rng([rows.start, seed])
    return {
        b"data": generator.integers(0, 256, (len(rows), 3072), np.uint8),
        b"labels" if classes == 10 else b"fine_labels": [i % classes for i in rows],
        b"filenames": [b"thing_s_%06d.png" % i for i in rows],
        b"batch_label": b"training",
    }


def cifar_files(classes: int) -> dict[str, bytes]:
    """An archive of the official shape: two training images and a test image of each class."""
    if classes == 10:
        batches = {f"cifar-10-batches-py/data_batch_{i + 1}": range(4 * i, 4 * i + 4) for i in range(5)}
        batches["cifar-10-batches-py/test_batch"] = range(100, 110)
        meta = {"cifar-10-batches-py/batches.meta": {b"label_names": [b"class%d" % i for i in range(10)]}}
    else:
        batches = {"cifar-100-python/train": range(200), "cifar-100-python/test": range(200, 300)}
        meta = {"cifar-100-python/meta": {b"fine_label_names": [b"class%d" % i for i in range(100)]}}
    made = {name: cifar_batch(rows, classes) for name, rows in batches.items()}
    return {name: python2(value) for name, value in (made | meta).items()}


def official(monkeypatch, classes: int, path: Path) -> Path:
    """Take an archive for the official one."""
    content = path.read_bytes()
    changed = replace(cifar.ARCHIVES[classes], size=len(content), md5=md5(content).hexdigest(), unpacked=10_000_000)
    monkeypatch.setitem(cifar.ARCHIVES, classes, changed)
    monkeypatch.setattr(cifar, "IMAGES", {"train": 2 * classes, "test": classes})
    return path


def cifar_source(monkeypatch, tmp_path, files: dict[str, bytes], classes: int = 10, known=None, **links: str) -> Path:
    """A folder with an archive of ``files``; torchvision takes ``known`` (by default the good ones) for official."""
    made, known = cifar.DATASETS[classes], known or cifar_files(classes)
    md5s = {Path(name).name: md5(content).hexdigest() for name, content in known.items()}
    for lists in ("train_list", "test_list"):
        monkeypatch.setattr(made, lists, [[name, md5s[name]] for name, _ in getattr(made, lists)])
    monkeypatch.setattr(made, "meta", made.meta | {"md5": md5s[made.meta["filename"]]})
    name = f"cifar-{classes}-python.tar.gz"
    return official(monkeypatch, classes, tar(tmp_path / "source" / name, files, **links)).parent


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_pixels_and_labels_survive(tmp_path, capsys, monkeypatch, classes):
    source = cifar_source(monkeypatch, tmp_path, cifar_files(classes), classes)
    status, out, err = call(cifar, source, tmp_path / "data", "--classes", classes, "--verify", capsys=capsys)
    target = tmp_path / f"data/cifar{classes}"
    assert (status, err) == (0, "")
    assert out.startswith(f"{target}: prepared: train {2 * classes}, test {classes} images, {classes} classes, digest ")
    assert visible(target) == ["files.csv", "manifest.json", "test.parquet", "train.parquet"]
    table = parquet.read_table(target / "test.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["label"]["names"] == [f"class{i}" for i in range(classes)]
    batch = cifar_batch(range(100, 110) if classes == 10 else range(200, 300), classes)
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    assert np.array_equal(np.stack(pixels), batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert table["label"].to_pylist() == batch[b"labels" if classes == 10 else b"fine_labels"]
    train = parquet.read_table(target / "train.parquet")["image"].to_pylist()
    assert [row["path"] for row in train] == [f"{i:05d}.png" for i in range(2 * classes)], "the official order"
    again = call(cifar, source, tmp_path / "data", "--classes", classes, capsys=capsys)
    assert again[1].startswith(f"{target}: already prepared")


def test_a_truncated_parquet_file_is_named(tmp_path):
    entries = [storage.Entry(path=f"train/{i}.jpg", label=0, source=picture(i)) for i in range(3)]
    storage.build_tables(tmp_path, "parquet", entries, ["c"], 1)
    path = tmp_path / "train.parquet"
    assert storage.image_sizes(tmp_path) == {entry.path: entry.size() for entry in entries}
    put(path, path.read_bytes()[:-1])
    with pytest.raises(storage.PrepareError, match=f"^{path} cannot be read .*: delete it and run the same command"):
        storage.image_sizes(tmp_path)


def test_livt_reads_what_is_prepared(tmp_path, capsys, monkeypatch):
    source = cifar_source(monkeypatch, tmp_path, cifar_files(10))
    call(cifar, source, tmp_path / "data", capsys=capsys)
    monkeypatch.setenv("LIVT_DATA", str(tmp_path / "data"))
    load_dataset.cache_clear()
    data = load_dataset(DataConfig(name="cifar10"))
    for path in (tmp_path / "data/cifar10").glob("*.parquet"):
        table = parquet.read_table(path)
        images = [image | {"path": f"other_{image['path']}"} for image in table["image"].to_pylist()]
        parquet.write_table(table.set_column(0, "image", pyarrow.array(images, storage.IMAGE)), path)
    load_dataset.cache_clear()
    assert load_dataset(DataConfig(name="cifar10")).digest == data.digest, "names are no part of the data"
    load_dataset.cache_clear()
    batch = cifar_batch(range(100, 110), 10)
    assert np.array_equal(data.evaluation.images.numpy().reshape(-1, 3072), batch[b"data"])
    assert data.evaluation.labels.tolist() == batch[b"labels"]
    assert data.class_counts.tolist() == [2] * 10


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["malicious", "truncated", "missing"])
def test_a_file_that_is_not_cifar_is_refused_before_it_is_read(tmp_path, capsys, monkeypatch, name, damage):
    files, inner = cifar_files(10), f"cifar-10-batches-py/{name}"
    bad = pickle.dumps({"data": _Malicious(tmp_path / "pwned")}) if damage == "malicious" else files[inner][:-1]
    files = {path: bad if path == inner else content for path, content in files.items()}
    if damage == "missing":
        del files[inner]
    source = cifar_source(monkeypatch, tmp_path, files)
    assert call(cifar, source, tmp_path / "data", capsys=capsys) == (
        2,
        "",
        f"cifar.py: error: {source}/cifar-10-python.tar.gz: a batch, or the names of the classes, is missing or does "
        "not have its official MD5: delete it and run the same command again\n",
    )
    assert not (tmp_path / "pwned").exists()
    assert visible(tmp_path / "data") == []


def test_cifar_with_other_counts_is_refused(tmp_path, capsys, monkeypatch):
    batch = python2(cifar_batch(range(4), 10) | {b"labels": [1, 1, 1, 1]})
    files = cifar_files(10) | {"cifar-10-batches-py/data_batch_3": batch}
    source = cifar_source(monkeypatch, tmp_path, files, known=files)
    assert call(cifar, source, tmp_path / "data", capsys=capsys)[2] == (
        f"cifar.py: error: {source}/cifar-10-python.tar.gz (train): class 0 (class0) has 1 images, published are 2 (4 "
        "such classes; 20 images in all, published are 20): obtain the official one\n"
    )


# ---------------------------------------------------------------- archives


def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, capsys, monkeypatch):
    for name in ("../x", "/x", "cifar-10-batches-py/../../x", "C:/x"):
        source = cifar_source(monkeypatch, tmp_path, cifar_files(10) | {name: b"x"})
        assert call(cifar, source, tmp_path / "data", capsys=capsys)[2] == (
            f"cifar.py: error: {source}/cifar-10-python.tar.gz: the path {name!r} leaves its folder: it is not the "
            "official archive\n"
        )
    source = cifar_source(monkeypatch, tmp_path, cifar_files(10), link="/etc/passwd")
    assert "link is a link or a device: it is not" in call(cifar, source, tmp_path / "data", capsys=capsys)[2]
    assert not (tmp_path / "x").exists()


def test_an_archive_larger_than_stated_is_refused(tmp_path, capsys, monkeypatch):
    source = cifar_source(monkeypatch, tmp_path, cifar_files(10) | {"zeros": bytes(11_000_000)})
    assert (source / "cifar-10-python.tar.gz").stat().st_size < 1_000_000
    assert (
        "unpacks to more than 10,000,000 bytes: it is not the official archive"
        in call(cifar, source, tmp_path / "data", capsys=capsys)[2]
    )


def test_an_archive_with_another_checksum_is_refused(tmp_path, capsys, monkeypatch):
    source = cifar_source(monkeypatch, tmp_path, cifar_files(10))
    path = source / "cifar-10-python.tar.gz"
    content = path.read_bytes()
    put(path, content[:-1])
    assert call(cifar, source, tmp_path / "data", capsys=capsys)[2] == (
        f"cifar.py: error: {path} has {len(content) - 1} bytes, stated are {len(content)}: delete it and run the same "
        "command again\n"
    )
    changed = content[:-1] + bytes([content[-1] ^ 1])
    put(path, changed)
    assert (
        f"{path} has the MD5 {md5(changed).hexdigest()}, stated is"
        in call(cifar, source, tmp_path / "data", capsys=capsys)[2]
    )
    put(path, content[:-100])
    official(monkeypatch, 10, path)
    assert f"{path} cannot be read (" in call(cifar, source, tmp_path / "data", capsys=capsys)[2]


@pytest.fixture
def server(tmp_path):
    """Serve ``content`` in ``state``; with ``ranges`` the server can go on where a download stopped."""
    state: dict = {"content": b"", "ranges": True, "asked": [], "stop": None}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state["asked"].append(asked)
            start = int(asked[6:-1]) if asked and state["ranges"] else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(state["content"]) - start))
            self.end_headers()
            self.wfile.write(state["content"][start : state["stop"]])

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    state["url"] = f"http://127.0.0.1:{httpd.server_port}/a.tar.gz"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch, server, ranges):
    kept = cifar_source(monkeypatch, tmp_path / "kept", cifar_files(10)) / "cifar-10-python.tar.gz"
    content = kept.read_bytes()
    server |= {"content": content, "ranges": ranges, "stop": 1000}
    arguments = (cifar, tmp_path / "source", tmp_path / "data", "--url", server["url"])
    status, _, err = call(*arguments, capsys=capsys)
    assert status == 2
    assert "run the same command again" in err
    assert err.count("\n") == 1
    part = tmp_path / "source/cifar-10-python.tar.gz.part"
    assert part.read_bytes() == content[:1000]
    server["stop"] = None
    assert call(*arguments, capsys=capsys)[0] == 0
    assert server["asked"] == [None, "bytes=1000-"]
    assert (tmp_path / "source/cifar-10-python.tar.gz").read_bytes() == content
    assert not part.exists()
    assert call(*arguments, capsys=capsys)[0] == 0
    assert len(server["asked"]) == 2, "what is there is not fetched again"


def test_a_download_of_something_else_is_refused(tmp_path, capsys, monkeypatch, server):
    kept = cifar_source(monkeypatch, tmp_path / "kept", cifar_files(10)) / "cifar-10-python.tar.gz"
    content = kept.read_bytes()
    arguments = (cifar, tmp_path / "source", tmp_path / "data", "--url", server["url"])
    for served, message in (
        (bytes(len(content)), f"{server['url']} has the MD5 "),
        (content + bytes(5_000_000), f"{server['url']} sends more than the stated {len(content)} bytes"),
    ):
        server["content"] = served
        status, _, err = call(*arguments, capsys=capsys)
        assert status == 2
        assert message in err
        assert list((tmp_path / "source").iterdir()) == [], "nothing of it is kept"
    nowhere = (tmp_path / "nothing.tar.gz").as_uri()
    err = call(*arguments[:-1], nowhere, capsys=capsys)[2]
    assert f"{nowhere} cannot be fetched (" in err
    assert f"or put the file into {tmp_path / 'source'} yourself" in err
    assert call(*arguments[:-1], kept.as_uri(), capsys=capsys)[0] == 0, "a file URL"


# ---------------------------------------------------------------- Tiny-ImageNet


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Write an archive of the official shape with two training images and one validation image of each class."""
    wnids = published("class_counts/imagenet_lt")["wnid"].tolist()[::5]

    def write(changes: dict[str, bytes | None] | None = None) -> Path:
        files: dict[str, bytes | None] = {
            "wnids.txt": "\n".join(wnids[::-1]).encode(),  # the official order is not the sorted one
            "words.txt": "".join(f"{w}\tname of {w}, or so\n" for w in wnids).encode(),
            "test/images/test_0.JPEG": picture("test", (64, 64)),
        }
        annotations = ""
        for i, wnid in enumerate(wnids):
            for n in (2, 10):
                files[f"train/{wnid}/images/{wnid}_{n}.JPEG"] = picture((wnid, n), (64, 64))
            files[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes"
            files[f"val/images/val_{i}.JPEG"] = picture((wnid, "val"), (64, 64))
            annotations += f"val_{i}.JPEG\t{wnid}\t0\t0\t62\t62\n"
        files["val/val_annotations.txt"] = annotations.encode()
        path = tmp_path / "source/tiny-imagenet-200.zip"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.mkdir("tiny-imagenet-200")
            for name, content in (files | (changes or {})).items():
                if content is not None:
                    archive.writestr(name if name.startswith("..") else f"tiny-imagenet-200/{name}", content)
        content = path.read_bytes()
        changed = replace(tiny_imagenet.ARCHIVE, size=len(content), md5=md5(content).hexdigest(), unpacked=20_000_000)
        monkeypatch.setattr(tiny_imagenet, "ARCHIVE", changed)
        return path.parent

    monkeypatch.setattr(tiny_imagenet, "IMAGES", {"train": 2, "val": 1})
    return write, wnids


def test_tiny_imagenet_is_read_by_livt(tiny, tmp_path, capsys, monkeypatch):
    write, wnids = tiny
    status, out, err = call(tiny_imagenet, write(), tmp_path / "data", capsys=capsys)
    assert (status, err) == (0, "")
    assert "prepared: train 400, val 200 images, 200 classes, digest " in out
    target = tmp_path / "data/tiny_imagenet"
    table = parquet.read_table(target / "train.parquet").to_pylist()
    assert [row["label"] for row in table] == [c for c in range(200) for _ in range(2)]
    assert [row["image"]["path"] for row in table[:2]] == [f"{wnids[0]}_2.JPEG", f"{wnids[0]}_10.JPEG"]
    assert table[5]["image"]["bytes"] == picture((wnids[2], 10), (64, 64)), "the archive's bytes"
    rows = pd.read_csv(target / "classes.csv")
    imagenet = published("class_counts/imagenet_lt").set_index("wnid")
    assert rows["wnid"].tolist() == wnids
    assert rows["imagenet_lt_n_train"].tolist() == imagenet.loc[wnids, "n_train"].tolist()
    assert rows["name"][0] == f"name of {wnids[0]}, or so"
    monkeypatch.setenv("LIVT_DATA", str(tmp_path / "data"))
    load_dataset.cache_clear()
    data = load_dataset(DataConfig(name="tiny_imagenet"))
    load_dataset.cache_clear()
    assert data.class_counts.tolist() == [2] * 200, "no class of ImageNet-LT has fewer than 5"
    assert data.evaluation.labels.tolist() == list(range(200))


def test_tiny_imagenet_overlap_is_named_and_dropped(tiny, tmp_path, capsys):
    write, wnids = tiny
    shared = {
        f"train/{w}/images/{w}_2.JPEG": picture((v, "val"), (64, 64))
        for w, v in zip(wnids[:3], wnids[7:10], strict=True)
    }
    source = write(shared)
    out = call(tiny_imagenet, source, tmp_path / "data", capsys=capsys)[1]
    pairs = [f"train/{wnids[i]}_2.JPEG = val/val_{i + 7}.JPEG" for i in range(3)]
    expected = "3 images are in training and in evaluation; --drop-overlap leaves them out of training: "
    assert out.splitlines()[1] == f"{expected}{'; '.join(pairs)} (manifest.json: overlap)"
    status, _, err = call(tiny_imagenet, source, tmp_path / "data", "--drop-overlap", capsys=capsys)
    assert status == 2
    assert "was made with drop_overlap = false, not true: pass --force" in err
    out = call(tiny_imagenet, source, tmp_path / "data", "--drop-overlap", "--force", capsys=capsys)[1]
    assert "prepared: train 397, val 200 images" in out
    assert f"3 training images are left out: evaluation has them too: {pairs[0]}; " in out
    train = parquet.read_table(tmp_path / "data/tiny_imagenet/train.parquet").to_pylist()
    assert not {row["image"]["path"] for row in train} & {f"{w}_2.JPEG" for w in wnids[:3]}
    assert Counter(row["label"] for row in train)[0] == 1


def test_tiny_imagenet_that_is_not_official(tiny, tmp_path, capsys):
    write, wnids = tiny
    first = f"train/{wnids[0]}/images/{wnids[0]}_2.JPEG"
    for changes, message in (
        ({"../x": b"x"}, "the path '../x' leaves its folder: it is not the official archive"),
        ({"zeros": bytes(21_000_000)}, "unpacks to more than 20,000,000 bytes"),
        ({"wnids.txt": None}, "lacks tiny-imagenet-200/wnids.txt: delete it"),
        ({"wnids.txt": b"n1 n2"}, "wnids.txt names 2 classes, not 200"),
        (
            {first: None},
            f"(train): class 0 ({wnids[0]}) has 1 images, published are 2 (1 such classes; 399 images in all",
        ),
        ({"val/images/val_500.JPEG": b"x"}, "val/images/val_500.JPEG has no class of wnids.txt"),
        ({"train/n0/images/n0_0.JPEG": b"x"}, "train/n0/images/n0_0.JPEG has no class of wnids.txt"),
        ({first: b"no image"}, f"1 images do not decode: train/{wnids[0]}_2.JPEG (all of them: "),
        ({first: b""}, "1 images are empty: "),
    ):
        status, out, err = call(tiny_imagenet, write(changes), tmp_path / "data", capsys=capsys)
        assert (status, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "data/tiny_imagenet").exists()
    for content in (b"no archive", b"PK"):
        path = put(tmp_path / "source/tiny-imagenet-200.zip", content)
        with pytest.raises(storage.PrepareError, match="cannot be read"):
            list(sources.members(path, 100, lambda name: True))


# ---------------------------------------------------------------- the command line


def test_the_scripts_stand_alone(tmp_path):
    for name in ("cifar", "tiny_imagenet", "imagenet_lt", "inat18", "places_lt"):
        made = subprocess.run([sys.executable, DATA_PREP / f"{name}.py", "--help"], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        assert "SOURCE TARGET" in " ".join(made.stdout.split())
    made = subprocess.run(
        [sys.executable, DATA_PREP / "places_lt.py", tmp_path, tmp_path], capture_output=True, text=True
    )
    assert (made.returncode, made.stdout, made.stderr.count("\n")) == (2, "", 1)
    assert made.stderr.startswith(f"places_lt.py: error: {tmp_path} holds neither Places_LT_train.txt nor ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: SOURCE, TARGET"),
        (["a", "b", "--jobs", "0"], "--jobs must be at least 1"),
        (["a", "b", "--how", "move"], "argument --how: invalid choice: 'move'"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, message):
    status, out, err = call(imagenet_lt, *arguments, capsys=capsys)
    assert (status, out) == (2, "")
    assert err.startswith(f"imagenet_lt.py: error: {message}")
    assert err.count("\n") == 1


def test_the_scripts_are_named_in_the_readme():
    text = (DATA_PREP / "README.md").read_text()
    for path in DATA_PREP.glob("*.py"):
        assert path.name in text


# ---------------------------------------------------------------- from the source to a trained run

TINY = (
    "data.image_size=32", "model.size=femto", "pretrain.decoder_width=16", "pretrain.decoder_depth=1",
    "pretrain.decoder_heads=2", "pretrain.epochs=1", "pretrain.warmup_epochs=0", "pretrain.batch_size=4",
    "pretrain.accumulation_steps=2", "finetune.epochs=1", "finetune.warmup_epochs=0", "finetune.batch_size=4",
    "finetune.accumulation_steps=2",
)  # fmt: skip


@pytest.mark.parametrize("form", [(), ("--how", "symlink"), ("--shards",)], ids=["link", "symlink", "shards"])
def test_the_recipe_trains_on_what_the_script_has_made(imagenet, tmp_path, capsys, monkeypatch, form):
    """The recipe of the paper as it is, but for the sizes: both stages, through the command line."""
    data, runs = tmp_path / "data", tmp_path / "runs"
    assert call(imagenet_lt, imagenet, data, *form, capsys=capsys)[0] == 0
    monkeypatch.setitem(config.FILE_DATASETS, "imagenet_lt", 3)
    monkeypatch.setenv("LIVT_DATA", str(data))
    load_dataset.cache_clear()
    changes = [part for change in TINY for part in ("--set", change)]
    status = cli.main(
        ["finetune", "imagenet_lt", *changes, "--runs", str(runs), "--device", "cpu", "--quiet", "--workers", "1"]
    )
    assert (status, capsys.readouterr().err) == (0, "")
    store = RunStore(runs)
    pretrained, tuned = store.load(store.find("pretrain")), store.load(store.find("finetune"))
    assert tuned.result["class_counts"] == COUNTS["train"]
    assert tuned.result["pretrain_run"] == pretrained.id
    found = load_dataset(tuned.recipe.data)
    load_dataset.cache_clear()
    manifest = json.loads((data / "imagenet_lt/manifest.json").read_text())
    assert np.bincount(found.evaluation.labels).tolist() == manifest["class_counts"]["val"] == COUNTS["val"]
    for index, path in enumerate(found.train.paths):
        source = Image.open(imagenet / path.decode()).convert("RGB")
        assert found.train.image(index).size == source.size, "images this small are not reduced"
        assert WNIDS[found.train.labels[index]] == Path(path.decode()).parent.name
