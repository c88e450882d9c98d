import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits

from livt.config import DataConfig
from livt.data.images import DataError
from livt.data.readers import data_folder
from livt.data.sets import load_dataset
from livt.longtail import exponential_counts, shot_groups

DIGITS = {"name": "digits", "max_count": 110, "imbalance_factor": 50}
PAIRS = {"name": "digit_pairs", "max_count": 200, "imbalance_factor": 100}


@pytest.fixture(autouse=True)
def _fresh_cache():
    load_dataset.cache_clear()
    yield
    load_dataset.cache_clear()


def scans(split) -> set[bytes]:
    """The single scans a split is made of, as bytes."""
    grey = split.images[:, 0]
    return {half.contiguous().numpy().tobytes() for image in grey for half in image.split(8, dim=1)}


def test_digits_are_the_real_scans_and_long_tailed():
    data = load_dataset(DataConfig(**DIGITS))
    assert data.class_counts.tolist() == exponential_counts(110, 50, 10).tolist()
    assert np.bincount(data.evaluation.labels).tolist() == [40] * 10
    bunch = load_digits()
    source = {
        np.round(i * 255 / 16).astype(np.uint8).tobytes(): int(t)
        for i, t in zip(bunch.images, bunch.target, strict=True)
    }
    for split in (data.train, data.evaluation):
        for image, label in zip(split.images, split.labels, strict=True):
            assert source[image[0].contiguous().numpy().tobytes()] == int(label)
            assert torch.equal(image[0], image[2])


@pytest.mark.parametrize("config", [DIGITS, PAIRS])
def test_training_validation_and_test_share_no_scan(config):
    test = load_dataset(DataConfig(**config))
    validation = load_dataset(DataConfig(**config, evaluation="validation"))
    train = scans(test.train)
    assert torch.equal(test.train.images, validation.train.images), "choosing settings must not change the training"
    # The source holds no two equal scans, so equal bytes would be the same scan.
    assert not train & scans(test.evaluation)
    assert not train & scans(validation.evaluation)
    assert not scans(test.evaluation) & scans(validation.evaluation)


def test_digit_pairs_have_the_papers_shot_groups():
    data = load_dataset(DataConfig(**PAIRS))
    groups = shot_groups(data.class_counts)
    assert sorted(data.class_counts.tolist(), reverse=True) == exponential_counts(200, 100, 100).tolist()
    assert (data.class_counts.max(), data.class_counts.min(), data.num_classes) == (200, 2, 100)
    assert [(groups == g).sum() for g in ("many", "medium", "few")] == [15, 35, 50]
    assert np.bincount(data.evaluation.labels).tolist() == [20] * 100
    # No digit is rare in itself: each occurs on each side in hundreds of training images.
    for digits in (data.train.labels // 10, data.train.labels % 10):
        assert np.bincount(digits, minlength=10).min() > 100


def test_a_pair_shows_its_two_digits():
    data = load_dataset(DataConfig(**PAIRS))
    bunch = load_digits()
    source = {
        np.round(i * 255 / 16).astype(np.uint8).tobytes(): int(t)
        for i, t in zip(bunch.images, bunch.target, strict=True)
    }
    for image, label in zip(data.evaluation.images, data.evaluation.labels, strict=True):
        left, right = (half.contiguous().numpy().tobytes() for half in image[0].split(8, dim=1))
        assert 10 * source[left] + source[right] == int(label)
    distinct = {(i.numpy().tobytes(), int(y)) for i, y in zip(data.train.images, data.train.labels, strict=True)}
    assert len(distinct) == len(data.train.labels), "no pair is repeated"


@pytest.mark.parametrize("config", [DIGITS, PAIRS])
def test_balanced_training_has_the_same_size(config):
    tail, even = (load_dataset(DataConfig(**config, balanced=b)) for b in (False, True))
    assert len(set(even.class_counts.tolist())) == 1
    assert 0 <= len(tail.train.labels) - len(even.train.labels) < even.num_classes
    assert torch.equal(tail.evaluation.images, even.evaluation.images)


def test_the_same_configuration_gives_the_same_images():
    first = load_dataset(DataConfig(**DIGITS))
    load_dataset.cache_clear()
    again = load_dataset(DataConfig(**DIGITS))
    other = load_dataset(DataConfig(**(DIGITS | {"imbalance_factor": 10})))
    assert torch.equal(first.train.images, again.train.images)
    assert first.digest == again.digest != other.digest


def test_channel_statistics_normalize_the_training_split():
    data = load_dataset(DataConfig(**DIGITS, image_size=16))
    pixels = data.train.images.double() / 255
    assert data.train.images.shape[2:] == (16, 16)
    assert pixels.mean((0, 2, 3)).tolist() == pytest.approx(data.mean)
    assert pixels.std((0, 2, 3), correction=0).tolist() == pytest.approx(data.std)


def test_too_many_images_of_a_class_are_refused():
    with pytest.raises(
        DataError, match=r"class 0 has 118 images, but 150 were asked for; lower data.max_count to 118$"
    ):
        load_dataset(DataConfig(name="digits", max_count=150, imbalance_factor=10))
    load_dataset(DataConfig(name="digits", max_count=118, imbalance_factor=10))
    with pytest.raises(DataError, match="digit_pairs: class .* pairs, but data.max_count asks for"):
        load_dataset(DataConfig(name="digit_pairs", max_count=100_000, imbalance_factor=10))
    with pytest.raises(DataError, match="composed on demand"):
        load_dataset(DataConfig(name="digit_pairs"))


# ---------------------------------------------------------------- the data folder


def png(value: int, size: int = 32, mode: str = "RGB") -> bytes:
    """An image of one colour, another for each value."""
    buffer = io.BytesIO()
    Image.new(mode, (size, size), value if mode == "L" else (value % 256, value // 256, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, encoded: list[bytes], labels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(encoded)]
    parquet.write_table(pa.table({"image": images, "label": pa.array(labels, pa.int64())}), path)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder in the shape of CIFAR-10: 10 classes, 30 training and 2 test images each; one of them is grey."""
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    labels = [c for c in range(10) for _ in range(30)]
    encoded = [png(i) for i in range(300)]
    encoded[5] = png(9, mode="L")
    write_parquet(tmp_path / "cifar10" / "train.parquet", encoded, labels)
    write_parquet(
        tmp_path / "cifar10" / "test.parquet", [png(i) for i in range(20)], [c for c in range(10) for _ in (0, 1)]
    )
    return tmp_path / "cifar10"


def test_parquet_images_are_read_and_long_tailed(cifar):
    data = load_dataset(DataConfig(name="cifar10", max_count=30, imbalance_factor=10))
    assert data.class_counts.tolist() == exponential_counts(30, 10, 10).tolist()
    assert data.evaluation.images.shape == (20, 3, 32, 32)
    assert data.evaluation.images[7, :, 0, 0].tolist() == [7, 0, 200]
    grey = load_dataset(DataConfig(name="cifar10")).train
    assert [9, 9, 9] in grey.images[:, :, 0, 0].tolist()


def test_validation_images_of_a_folder_are_taken_from_training(cifar):
    data = load_dataset(DataConfig(name="cifar10", evaluation="validation"))
    assert data.class_counts.tolist() == [10] * 10
    assert np.bincount(data.evaluation.labels).tolist() == [20] * 10
    train, held_out = (
        {tuple(colour) for colour in split.images[:, :, 0, 0].tolist()} for split in (data.train, data.evaluation)
    )
    assert len(train) == 100
    assert len(held_out) == 200
    assert not train & held_out


def test_too_few_images_to_validate_on_is_named(cifar):
    write_parquet(cifar / "train.parquet", [png(i) for i in range(200)], [c for c in range(10) for _ in range(20)])
    with pytest.raises(DataError) as error:
        load_dataset(DataConfig(name="cifar10", evaluation="validation"))
    assert str(error.value) == (
        "cifar10: class 0 has 20 training images, too few to set 20 apart for validation: data.validation_images may "
        "be 19 at most"
    )
    data = load_dataset(DataConfig(name="cifar10", evaluation="validation", validation_images=19))
    assert data.class_counts.tolist() == [1] * 10


def test_a_profile_that_validation_leaves_too_few_images_for_names_the_count_that_fits(cifar):
    """As with the recipe cifar10_lt_100: the largest class is all of the images, and some are set apart."""
    asked = {"name": "cifar10", "imbalance_factor": 3, "evaluation": "validation", "validation_images": 4}
    with pytest.raises(DataError) as error:
        load_dataset(DataConfig(**asked, max_count=30))
    assert str(error.value) == (
        "cifar10: class 0 has 26 images besides those for validation, but 30 were asked for; lower data.max_count to 26"
    )
    assert load_dataset(DataConfig(**asked, max_count=26)).class_counts.max() == 26


def test_the_count_that_fits_is_the_largest_one(cifar):
    """Found here by trying every count, with classes of uneven size."""
    labels = [c for c in range(10) for _ in range(31 - 2 * c)]
    write_parquet(cifar / "train.parquet", [png(i) for i in range(len(labels))], labels)
    available = np.bincount(labels)
    for factor in (1, 2.5, 9):
        fits = [m for m in range(9, 60) if (exponential_counts(m, factor, 10) <= available).all()]
        with pytest.raises(DataError) as error:
            load_dataset(DataConfig(name="cifar10", max_count=60, imbalance_factor=factor))
        assert str(error.value).endswith(f"; lower data.max_count to {max(fits)}")
    with pytest.raises(
        DataError, match=r"but 22 were asked for; set data.max_count to 13 and data.imbalance_factor to"
    ):
        load_dataset(DataConfig(name="cifar10", balanced=True))
    assert set(load_dataset(DataConfig(name="cifar10", max_count=13, imbalance_factor=1)).class_counts) == {13}
    write_parquet(cifar / "train.parquet", [png(i) for i in range(11)], [0, 0, *range(1, 10)])
    with pytest.raises(
        DataError, match=r"but 3 were asked for; set data.max_count to 1 and data.imbalance_factor to 1$"
    ):
        load_dataset(DataConfig(name="cifar10", max_count=3, imbalance_factor=2.5))


def test_own_counts_of_tiny_imagenet(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_DATA", str(tmp_path))
    labels = [c for c in range(200) for _ in range(3)]
    for name, files in (("train_pool", 600), ("val", 600)):
        write_parquet(tmp_path / "tiny_imagenet" / f"{name}.parquet", [png(1, 64)] * files, labels)
    counts = [1 + c % 5 for c in range(200)]
    rows = "\n".join(f"{c},{n}" for c, n in reversed(list(enumerate(counts))))
    (tmp_path / "tiny_imagenet" / "classes.csv").write_text(f"label,imagenet_lt_n_train\n{rows}\n")
    data = load_dataset(DataConfig(name="tiny_imagenet"))
    assert data.class_counts.tolist() == [min(n, 3) for n in counts]

    profile = load_dataset(DataConfig(name="tiny_imagenet", max_count=3, imbalance_factor=3)).class_counts
    assert sorted(profile, reverse=True) == exponential_counts(3, 3, 200).tolist()
    by_rank = profile[sorted(range(200), key=lambda c: (-counts[c], c))]
    assert by_rank.tolist() == sorted(profile, reverse=True), "classes keep the order of ImageNet-LT"

    load_dataset.cache_clear()
    (tmp_path / "tiny_imagenet" / "classes.csv").write_text("label,imagenet_lt_n_train\n0,5\n")
    with pytest.raises(DataError, match=r"classes.csv does not give label .*label is not 0 to 199"):
        load_dataset(DataConfig(name="tiny_imagenet"))
    (tmp_path / "tiny_imagenet" / "classes.csv").unlink()
    with pytest.raises(DataError, match=r"classes.csv does not give .*or set data.max_count and data.imbalance_factor"):
        load_dataset(DataConfig(name="tiny_imagenet"))
    assert set(load_dataset(DataConfig(name="tiny_imagenet", max_count=3, imbalance_factor=1)).class_counts) == {3}


def test_the_data_folder_defaults_to_data(monkeypatch):
    monkeypatch.delenv("LIVT_DATA", raising=False)
    assert data_folder() == Path("data")


def test_a_missing_folder_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVT_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere/cifar10 holds neither train.parquet .*set LIVT_DATA"):
        load_dataset(DataConfig(name="cifar10"))


def test_a_class_without_images_is_named(cifar):
    write_parquet(cifar / "train.parquet", [png(0)] * 9, list(range(9)))
    with pytest.raises(DataError, match=r"train.parquet: class 9 has no images"):
        load_dataset(DataConfig(name="cifar10"))


def test_a_label_outside_the_range_is_named(cifar):
    write_parquet(cifar / "test.parquet", [png(0)] * 11, list(range(11)))
    with pytest.raises(DataError, match=r"test.parquet: labels must lie in 0 to 9, found 0 to 10"):
        load_dataset(DataConfig(name="cifar10"))


@pytest.mark.parametrize("content", [b"no image", png(0)[:40], b""])
def test_an_undecodable_image_is_named(cifar, content):
    write_parquet(cifar / "test.parquet", [png(0)] * 3 + [content] + [png(0)] * 6, list(range(10)))
    with pytest.raises(DataError, match=r"test.parquet, row 3 \(3.png\) does not decode .*fetch the file anew"):
        load_dataset(DataConfig(name="cifar10"))


def test_images_and_labels_of_another_type_are_named(cifar):
    labels = pa.array(range(10), pa.int64())
    parquet.write_table(pa.table({"image": [png(0)] * 10, "label": labels}), cifar / "test.parquet")
    with pytest.raises(DataError, match=r"test.parquet, row 0 does not decode"):
        load_dataset(DataConfig(name="cifar10"))
    images = [{"bytes": png(0), "path": "x"}] * 9 + [None]
    parquet.write_table(pa.table({"image": images, "label": labels}), cifar / "test.parquet")
    with pytest.raises(DataError, match=r"test.parquet, row 9 does not decode"):
        load_dataset(DataConfig(name="cifar10"))
    parquet.write_table(pa.table({"image": images, "label": [c + 0.7 for c in range(10)]}), cifar / "test.parquet")
    with pytest.raises(DataError, match=r"test.parquet is not a Parquet file .*label is double, not an integer"):
        load_dataset(DataConfig(name="cifar10"))


def test_an_image_of_another_size_is_named(cifar):
    write_parquet(cifar / "test.parquet", [png(0)] * 9 + [png(0, size=16)], list(range(10)))
    with pytest.raises(DataError, match=r"row 9 .* is 16 x 16 pixels, expected 32 x 32"):
        load_dataset(DataConfig(name="cifar10"))


def test_a_damaged_parquet_file_is_named(cifar):
    content = (cifar / "train.parquet").read_bytes()
    (cifar / "train.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"train.parquet is not a Parquet file"):
        load_dataset(DataConfig(name="cifar10"))
    parquet.write_table(pa.table({"picture": [1]}), cifar / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet is not a Parquet file with columns image and label"):
        load_dataset(DataConfig(name="cifar10"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "train", "test"), [("cifar10", 12_406, 10_000), ("tiny_imagenet", 21_052, 10_000)])
def test_the_real_folders(name, train, test):
    if not (data_folder() / name).is_dir():
        pytest.skip(f"needs {name} in the data folder (LIVT_DATA)")
    config = DataConfig(name=name) if name != "cifar10" else DataConfig(name=name, max_count=5000, imbalance_factor=100)
    data = load_dataset(config)
    assert (len(data.train.labels), len(data.evaluation.labels)) == (train, test)
