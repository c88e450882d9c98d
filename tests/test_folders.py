"""Images of one's own, in each layout: what is read, what is refused and how, and a run by the command line."""

import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from folders import LAYOUTS, PETS, own, picture, prepare, write_images
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from livt import __main__ as cli
from livt.config import DataConfig
from livt.data import channels
from livt.data.images import DataError, FileSplit
from livt.data.sets import classes_of, load_dataset
from livt.lab.runs import RunStore
from livt.longtail import exponential_counts, shot_groups

COUNTS = [PETS[name] for name in sorted(PETS)]  # 4, 9, 6


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load_dataset.cache_clear()
    yield tmp_path / "data"
    load_dataset.cache_clear()


def load(name, **settings):
    load_dataset.cache_clear()
    return load_dataset(DataConfig(name=str(name), **({"image_size": 32} | settings)))


def told(name, **settings) -> str:
    with pytest.raises(DataError) as error:
        load(name, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_classes_labels_and_counts(data, layout):
    own(data / "pets", layout)
    pets = load("pets")
    assert isinstance(pets.train, FileSplit) == (layout != "parquet")
    assert pets.class_counts.tolist() == np.bincount(pets.train.labels).tolist() == COUNTS
    assert np.bincount(pets.evaluation.labels).tolist() == [2, 2, 2]
    assert pets.num_classes == classes_of(DataConfig(name="pets", image_size=32)) == 3
    assert set(shot_groups(pets.class_counts)) == {"few"}


@pytest.mark.parametrize("layout", ["tree", "lists"])
def test_classes_are_numbered_as_by_torchvision(data, layout):
    folder = own(data / "pets", layout)
    (folder / "train/dog/more").mkdir()
    if layout == "tree":
        (folder / "train/dog/more/LAST.JPEG").write_bytes(picture(1, 1))
        (folder / "train/dog/notes.txt").write_text("no image")
    reference = {split: ImageFolder(str(folder / split)) for split in ("train", "val")}
    pets = load("pets")
    for split, images in (("train", pets.train), ("val", pets.evaluation)):
        expected = {os.path.relpath(path, folder): label for path, label in reference[split].samples}
        found = dict(zip((path.decode() for path in images.paths), images.labels.tolist(), strict=True))
        assert found == expected
    assert reference["train"].classes == ["Axolotl", "cat", "dog"]


def test_what_other_programs_leave_is_no_image_and_no_class(data):
    folder = own(data / "pets", "tree")
    digest = load("pets").digest
    (folder / "train/.ipynb_checkpoints").mkdir()
    for name in ("._0.jpg", ".DS_Store", "Thumbs.db"):
        (folder / "train/cat" / name).write_bytes(b"x")
    assert load("pets").digest == digest


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_is_named_by_its_path_or_below_the_data_folder(data, layout, tmp_path, monkeypatch):
    own(data / "pets", layout)
    digest = load("pets").digest
    monkeypatch.chdir(data)
    monkeypatch.setenv("HOME", str(data))
    monkeypatch.setenv("LIVT_DATA", str(tmp_path / "nothing"))
    for name in (data / "pets", "./pets", "pets/", "~/pets", "../data/pets"):
        assert load(name).digest == digest
        assert DataConfig(name=str(name), image_size=32).to_dict()["name"] == str(name), "as it was given"


def test_a_folder_of_ones_own_may_have_the_name_of_a_known_set(data, monkeypatch):
    own(data / "digits", "tree")
    monkeypatch.chdir(data)
    assert load("./digits").num_classes == 3
    assert load("digits").num_classes == 10


@pytest.mark.parametrize("layout", ["tree", "lists"])
def test_the_digest_names_files_labels_and_sizes(data, layout):
    folder = own(data / "pets", layout)
    digest = load("pets").digest
    assert load("pets", image_size=64).digest == digest, "the size is configuration"
    (folder / "train/cat/0.jpg").rename(folder / "train/cat/00.jpg")
    if layout == "lists":
        text = (folder / "train.csv").read_text()
        (folder / "train.csv").write_text(text.replace("train/cat/0.jpg", "train/cat/00.jpg"))
    renamed = load("pets").digest
    (folder / "train/cat/00.jpg").write_bytes(picture(3, 3) + b" ")
    assert len({digest, renamed, load("pets").digest}) == 3


def test_test_evaluates_where_there_is_val_too(data):
    folder = own(data / "pets", "tree")
    shutil.copytree(folder / "val", folder / "test")
    assert load("pets").evaluation.paths[0].startswith(b"test/")
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()
    (folder / "test/unlabelled.jpg").write_bytes(picture(0, 0))
    assert load("pets").evaluation.paths[0].startswith(b"val/")


def test_integer_labels_of_a_list_are_taken_as_they_are(data):
    folder = own(data / "pets", "lists")
    for split in ("train", "val"):
        text = (folder / f"{split}.csv").read_text()
        for number, name in ((0, "dog"), (1, "Axolotl"), (2, "cat")):
            text = text.replace(f"{name},", f"{number},")
        (folder / f"{split}.csv").write_text("\ufeff" + text, encoding="utf-8")  # as spreadsheets save it
    assert load("pets").class_counts.tolist() == [PETS[name] for name in ("dog", "Axolotl", "cat")]


@pytest.mark.parametrize("form", ["tree", "shards"])
def test_a_prepared_folder_may_lie_anywhere(tmp_path, data, form):
    prepare(tmp_path / "elsewhere", form, "renamed", train=1)
    places = load(tmp_path / "elsewhere" / "renamed", image_size=16)
    assert places.class_counts.tolist() == [1 + c % 2 for c in range(365)]
    assert places.mean != pytest.approx((0.485, 0.456, 0.406), abs=1e-3)


def test_parquet_images_fill_the_square_and_lose_what_stands_out(data):
    """A wide image with a white border left and right, which is cut away; one of the right size stays as it is."""
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, :16] = wide[:, 48:] = 255
    exact = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    encoded = []
    for pixels in (wide, exact):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    (data / "pets").mkdir(parents=True)
    for split in ("train", "test"):
        write_images(data / "pets" / f"{split}.parquet", encoded, [0, 1])
    images = load("pets").train.images
    assert images.shape == (2, 3, 32, 32)
    assert images[0, :, :, 3:-3].max() == 0
    assert np.array_equal(images[1].permute(1, 2, 0).numpy(), exact)


# ---------------------------------------------------------------- mean, deviation and the cache


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mean_and_deviation_are_those_of_the_training_images(data, layout):
    folder = own(data / "pets", layout)
    pets = load("pets")
    if layout == "parquet":
        pixels = pets.train.images
    else:  # as evaluation sees them: the short side on 36 pixels, and of those the 32 in the centre
        paths = [folder / os.fsdecode(path) for path in pets.train.paths]
        images = [resize(Image.open(path).convert("RGB"), 36, Image.Resampling.BICUBIC) for path in paths]
        pixels = torch.stack([pil_to_tensor(center_crop(image, 32)) for image in images])
    pixels = pixels.double() / 255
    assert pets.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=2e-3)
    assert pets.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=2e-3)


def test_mean_and_deviation_of_files_are_found_once(data, tmp_path, monkeypatch):
    own(data / "pets", "tree")
    first = load("pets")
    kept = list((tmp_path / "cache" / "livt").iterdir())
    assert len(kept) == 1
    assert json.loads(kept[0].read_text()) == [list(first.mean), list(first.std)]
    calls = []
    found_by = channels._of_files
    monkeypatch.setattr(channels, "_of_files", lambda *a: calls.append(a) or found_by(*a))
    assert (load("pets").mean, load("pets").std) == (first.mean, first.std)
    assert not calls
    assert load("pets", image_size=48).mean != first.mean
    assert load("pets", max_count=4, imbalance_factor=2).mean != first.mean
    assert len(calls) == 4, "both splits, of another size and of other images"
    for damaged in (kept[0].read_text()[:-1], "[]", "{}", "[[1], null]", ""):
        kept[0].write_text(damaged)
        assert load("pets").mean == first.mean


def test_a_cache_that_cannot_be_written_is_done_without(data, tmp_path):
    own(data / "pets", "tree")
    (tmp_path / "cache").write_text("a file, where a folder should be")
    assert load("pets").mean == load("pets").mean


# ---------------------------------------------------------------- which images train


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_profile_falls_in_the_order_of_the_classes_after_validation_images_are_set_apart(data, layout):
    own(data / "pets", layout)
    profile = load("pets", max_count=4, imbalance_factor=2)
    assert profile.class_counts.tolist() == exponential_counts(4, 2, 3).tolist() == [4, 2, 2]
    validation = load("pets", evaluation="validation", validation_images=3)
    assert validation.class_counts.tolist() == [1, 6, 3]
    assert np.bincount(validation.evaluation.labels).tolist() == [3, 3, 3]
    if layout != "parquet":
        train, held_out = set(validation.train.paths), set(validation.evaluation.paths)
        assert not train & held_out
        assert train | held_out == set(load("pets").train.paths)
    other = load("pets", max_count=4, imbalance_factor=2, draw=1)
    assert other.class_counts.tolist() == [4, 2, 2]
    assert other.digest != profile.digest
    assert told("pets", evaluation="validation") == (
        "pets: class 0 (Axolotl) has 4 training images, too few to set 20 apart for validation: "
        "data.validation_images may be 3 at most"
    )
    assert told("pets", evaluation="validation", validation_images=2, max_count=4, imbalance_factor=1) == (
        "pets: class 0 (Axolotl) has 2 images besides those for validation, but 4 were asked for; lower "
        "data.max_count to 2"
    )


# ---------------------------------------------------------------- what is refused


def test_the_size_must_be_set():
    with pytest.raises(ValueError, match=r"data.image_size must be set: data.name 'pets' is not one of digits, .*own"):
        DataConfig(name="pets")
    with pytest.raises(ValueError, match=r"data.name must not be empty"):
        DataConfig(name=" ", image_size=32)


def test_a_folder_that_is_not_there_or_holds_nothing_is_named(data, tmp_path):
    message = told("pets")
    assert message.startswith(f"there is no folder {data / 'pets'}: data.name is a folder below {data} (set LIVT_DATA")
    assert "or one of digits, digit_pairs, cifar10" in message
    (data / "pets").mkdir(parents=True)
    expected = f"{data / 'pets'} holds no data set: put there train/CLASS/FILE and test/CLASS/FILE, train.csv and "
    assert told("pets").startswith(expected)
    (data / "pets/train").mkdir()
    assert told("pets") == f"{data}/pets/train holds no folders of classes: put each image into train/CLASS/"


def test_a_folder_in_front_of_data_folders_is_made_absolute(data, monkeypatch):
    monkeypatch.chdir(data.parent)
    assert told("./nowhere").startswith(f"there is no folder {data.parent}/nowhere: ")


def drop_evaluation(folder):
    shutil.rmtree(folder / "val")
    return f"{folder} holds train/CLASS/, but neither test/CLASS/ nor val/CLASS/: put images to evaluate on there"


def drop_a_class(folder):
    shutil.rmtree(folder / "val/dog")
    return f"{folder}/train has a class 'dog' that {folder}/val lacks (1 such in all): every class needs a folder of " \
        "images in both"  # fmt: skip


def add_a_class(folder):
    (folder / "val/emu").mkdir()
    return f"{folder}/val has a class 'emu' that {folder}/train lacks (1 such in all): every class needs a folder of " \
        "images in both"  # fmt: skip


def empty_a_class(folder):
    for path in (folder / "train/cat").iterdir():
        path.rename(path.with_suffix(".heic"))
    return f"{folder}/train: class 1 (cat) has no images (1 such in all): put images there (.jpg, .jpeg, .png, .ppm, " \
        ".bmp, .pgm, .tif, .tiff, .webp), or delete the class from both folders"  # fmt: skip


def lose_a_target(folder):
    (folder / "val/cat/9.jpg").symlink_to(folder / "gone.jpg")
    return f"{folder}/val/cat/9.jpg is a link to a file that is gone: restore the file, or delete the link"


def cut_an_image(folder):
    path = folder / "val/cat/1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(OSError, match="runcated") as error:
        Image.open(path).load()
    return f"{path} does not decode ({error.value}): mend the file, or delete it"


def write_nonsense(folder):
    (folder / "train/dog/5.jpg").write_bytes(b"<html>404</html>")
    return f"{folder}/train/dog/5.jpg does not decode (it is no image of JPEG, PNG, WEBP, BMP, TIFF): mend the file, or delete it"  # noqa: E501


@pytest.mark.parametrize(
    "damage",
    [drop_evaluation, drop_a_class, add_a_class, empty_a_class, lose_a_target, cut_an_image, write_nonsense],
)
def test_a_tree_that_cannot_be_used_is_one_error(data, damage):
    folder = own(data / "pets", "tree")
    expected = damage(folder)
    assert told("pets") == expected


def edit(name, old, new):
    def damage(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "val.csv").unlink(),
         "{f} holds train.csv, but neither test.csv nor val.csv: list the images to evaluate on"),
        (edit("train.csv", "label,path", "class,file"),
         "{f}/train.csv does not begin with a line that names the columns path and label: add it"),
        (lambda f: (f / "train.csv").write_text(""),
         "{f}/train.csv does not begin with a line that names the columns path and label: add it"),
        (lambda f: (f / "val.csv").write_text("path,label\n"),
         "{f}/val.csv lists no images: add lines of a path and a label"),
        (lambda f: (f / "val.csv").write_bytes(b"path,label\n\xff\xfe,cat\n"), "{f}/val.csv cannot be read ("),
        (edit("train.csv", "dog,train/dog/5.jpg", "dog"),
         "{f}/train.csv, line 2 is not a path and a label: correct it, with quotes around commas"),
        (edit("train.csv", "dog,train/dog/4.jpg", "dog,train/dog/4,5.jpg"),
         "{f}/train.csv, line 3 is not a path and a label: correct it, with quotes around commas"),
        (edit("train.csv", "train/dog/5.jpg", "../../etc/passwd"),
         "{f}/train.csv, line 2: the path '../../etc/passwd' leaves the folder of the list: give the path within {f}, "
         "where links may stand for the images"),
        (edit("val.csv", "val/dog/1.jpg", "/etc/passwd"),
         "{f}/val.csv, line 2: the path '/etc/passwd' leaves the folder of the list: give the path within {f}, where "
         "links may stand for the images"),
        (edit("val.csv", "val/dog/1.jpg", "val/dog/7.jpg"),
         "{f}/val.csv, line 2: there is no file {f}/val/dog/7.jpg: correct the list, or put the image there"),
        (edit("val.csv", "val/dog/1.jpg", "val/dog"),
         "{f}/val.csv, line 2: there is no file {f}/val/dog: correct the list, or put the image there"),
        (edit("val.csv", "val/dog/1.jpg", "train/./dog/0.jpg"),
         "{f}/val.csv, line 2: train/./dog/0.jpg stands in {f}/train.csv, line 7 too: take one of them out"),
        (edit("val.csv", "dog,", "dgo,"),
         "{f}/val.csv, line 2: 'dgo' is no class of train.csv, which has 3: correct the list"),
        (lambda f: (f / "val.csv").write_text("path,label\nval/cat/0.jpg,cat\nval/dog/0.jpg,dog\n"),
         "{f}/val.csv: class 0 (Axolotl) has no images (1 such in all): list images of every class"),
        (lambda f: (f / "val/dog/1.jpg").write_bytes(b""),
         "{f}/val/dog/1.jpg does not decode (it is no image of JPEG, PNG, WEBP, BMP, TIFF): mend the file, or take it out of the list"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_used_is_one_error(data, damage, message):
    folder = own(data / "pets", "lists")
    damage(folder)
    assert told("pets").startswith(message.format(f=folder))


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ([1, 2], [1, 2], "train.csv: labels that are integers count from 0 without a gap; 0 is missing, and there is"),
        ([0, 7], [0, 7], "train.csv: labels that are integers count from 0 without a gap; 1 is missing, and there is"),
        ([0, -1], [0, 1], "train.csv: labels that are integers count from 0 without a gap; -1 is negative"),
        ([0, 10**30], [0, 1], "count from 0 without a gap; 1 is missing, and there is 1000000000000000000000000000000"),
        ([0, 1], [0, 10**30], "val.csv, line 3: '1000000000000000000000000000000' is no class of train.csv"),
        ([0, 1], [0, -1], "val.csv, line 3: '-1' is no class of train.csv"),
        ([0, 1], [1, 1], "val.csv: class 0 has no images"),
    ],
)  # fmt: skip
def test_integer_labels_out_of_range_are_named(data, train, val, message):
    folder = own(data / "pets", "tree")
    for name, labels in (("train", train), ("val", val)):
        lines = "".join(f"{name}/cat/{i}.jpg,{label}\n" for i, label in enumerate(labels))
        (folder / f"{name}.csv").write_text(f"path,label\n{lines}")
    assert message in told("pets")


@pytest.mark.parametrize(
    ("train", "val", "names", "message"),
    [
        ([0, 1, 3], [0, 1, 3], None, "train.parquet: labels that are integers count from 0 without a gap; 2 is missing,"
         " and there is 3: write it anew"),
        ([0, -1], [0, 1], None, "train.parquet: labels that are integers count from 0 without a gap; -1 is negative"),
        ([0, 1], [0, 2], None, "val.parquet: labels must lie in 0 to 1, found 0 to 2: write it anew"),
        ([0, 1], [0, 1], ["cat", "dog", "emu"], "train.parquet: class 2 (emu) has no images (1 such in all): write it"),
        ([0, 10**15], [0, 1], ["cat", "dog"], "train.parquet: labels must lie in 0 to 1, found 0 to 1000000000000000"),
        ([], [0, 1], None, "train.parquet holds no images: write it anew"),
    ],
)  # fmt: skip
def test_parquet_labels_out_of_range_are_named(data, train, val, names, message):
    (data / "pets").mkdir(parents=True)
    for name, labels in (("train", train), ("val", val)):
        write_images(data / "pets" / f"{name}.parquet", [picture(0, 0)] * len(labels), labels, names)
    assert message in told("pets")


def test_parquet_files_that_do_not_go_together_are_named(data):
    folder = own(data / "pets", "parquet")
    write_images(folder / "val.parquet", [picture(0, 0)] * 3, [0, 1, 2], ["cat", "dog", "emu"])
    expected = f"{folder}/val.parquet names other classes than train.parquet: write it anew with the same names"
    assert told("pets") == expected
    write_images(folder / "val.parquet", [picture(0, 0), b"", picture(0, 0)], [0, 1, 2])
    expected = f"{folder}/val.parquet, row 1 (1.jpg) does not decode (it is no image of JPEG, PNG, WEBP, BMP, TIFF): write the file anew"  # noqa: E501
    assert told("pets") == expected
    (folder / "val.parquet").unlink()
    expected = f"{folder} holds neither test.parquet nor val.parquet: put the images to evaluate on there"
    assert told("pets") == expected


# ---------------------------------------------------------------- by the command line

FEW = (
    "data.image_size=32", "model.size=femto", "model.patch_size=16", "pretrain.decoder_width=16",
    "pretrain.decoder_depth=1", "pretrain.decoder_heads=2", "pretrain.epochs=2", "pretrain.warmup_epochs=0",
    "pretrain.batch_size=8", "pretrain.probes=2", "finetune.epochs=2", "finetune.warmup_epochs=0",
    "finetune.batch_size=8",
)  # fmt: skip


def finetune(runs, *arguments, capsys, stage="finetune"):
    load_dataset.cache_clear()
    changes = [part for change in FEW for part in ("--set", change)]
    fixed = ["--runs", str(runs), "--device", "cpu", "--quiet", "--workers", "0"]
    status = cli.main([stage, "own", *changes, *fixed, *arguments])
    return status, *capsys.readouterr()


def test_images_in_files_are_clustered_without_a_crop(data, tmp_path, capsys):
    """They differ in size; clustering reads them as evaluation does, so ``crop_min_scale`` is none of its settings."""
    given = ["--data", str(own(tmp_path / "my pets", "tree"))]
    for setting in ("cluster.method=sp2ot", "cluster.epochs=1", "cluster.batch_size=8"):
        given += ["--set", setting]
    status, _, err = finetune(tmp_path / "runs", *given, capsys=capsys, stage="cluster")
    assert status == 0, err
    store = RunStore(tmp_path / "runs")
    assert sum(store.load(store.find("cluster")).result["sizes"]) == sum(COUNTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_command_trains_on_a_folder(data, layout, tmp_path, capsys):
    folder = own(tmp_path / "my pets", layout)
    status, out, err = finetune(tmp_path / "runs", "--data", str(folder), capsys=capsys)
    assert (status, err) == (0, "")
    store = RunStore(tmp_path / "runs")
    tuned = store.load(store.find("finetune"))
    assert tuned.recipe.data.name == str(folder)
    assert tuned.result["class_counts"] == COUNTS
    assert f"{tuned.id}: accuracy" in out
    assert cli.main(["evaluate", tuned.id, "--runs", str(tmp_path / "runs"), "--device", "cpu"]) == 0
    scores = out.splitlines()[-1].partition(": ")[2]
    assert capsys.readouterr().out == f"{tuned.id} on the test split: {scores}\n"


def test_the_folder_own_of_the_data_folder_needs_no_name(data, tmp_path, capsys):
    own(data / "own", "tree", size=(40, 40))
    settings = ("data.max_count=4", "data.imbalance_factor=2", "finetune.batch_size=4", "pretrain=null")
    arguments = [part for change in settings for part in ("--set", change)]
    # Without pretraining, its settings are none of the recipe.
    load_dataset.cache_clear()
    changes = [p for c in FEW if not c.startswith("pretrain") for p in ("--set", c)]
    fixed = ["--runs", str(tmp_path / "runs"), "--device", "cpu", "--quiet", "--workers", "0"]
    assert cli.main(["finetune", "own", *changes, *arguments, *fixed]) == 0
    store = RunStore(tmp_path / "runs")
    assert store.load(store.find("finetune")).result["class_counts"] == [4, 2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("finetune.batch_size=64", "batch_size 64 exceeds the 19 training images"),
        ("finetune.augment.crop_min_scale=null", "finetune.augment: the images of {f} differ in size"),
        ("data.evaluation=validation", "{f}: class 0 (Axolotl) has 4 training images, too few to set 20 apart"),
        ("data.image_size=null", "data.image_size must be set: data.name '{f}' is not one of digits"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_training(data, tmp_path, capsys, change, message):
    folder = own(tmp_path / "pets", "tree")
    status, out, err = finetune(tmp_path / "runs", "--data", str(folder), "--set", change, capsys=capsys)
    assert (status, out) == (2, "")
    assert message.format(f=folder) in err
    assert err.startswith("livt: error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
