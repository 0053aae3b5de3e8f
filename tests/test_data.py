"""Datasets: digits from our builder, mnist from the official one, splits, caches, damage."""

import io
import os
import resource
import shutil
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from jaxcnn import mesh as meshes
from jaxcnn.data import catalog, image, source, splits
from jaxcnn.data.resident import Resident
from jaxcnn.environment import cache_dir
from jaxcnn.errors import DataError, UsageError

DIGITS = catalog.find("digits")
FAKE = catalog.find("fake")


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Create a cache with the prepared digits, so that the test can change it."""
    source.load(DIGITS, "test")
    shutil.copytree(cache_dir() / "tfds", tmp_path / "tfds")
    monkeypatch.setenv("JAXCNN_CACHE", str(tmp_path))
    return tmp_path


def test_digits_are_sklearns_and_the_last_297_are_held_out():
    train, test = source.load(DIGITS, "train"), source.load(DIGITS, "test")
    theirs = load_digits()
    assert (len(train), len(test)) == (1500, 297)
    images = np.concatenate([train.images, test.images])[..., 0]
    np.testing.assert_array_equal(np.rint(images * (16 / 255)), theirs.images)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), theirs.target)


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_catalog_statistics_fit_the_data(name):
    dataset = catalog.find(name)
    examples = source.load(dataset, "train")
    assert examples.images.shape[1:] == dataset.image_shape
    if name == "digits":
        np.testing.assert_allclose(examples.images.mean() / 255, dataset.mean[0], atol=2e-3)
        np.testing.assert_allclose(examples.images.std() / 255, dataset.std[0], atol=2e-3)


def test_mnist_through_the_official_builder(shared_tfds):
    mnist = catalog.find("mnist")
    test = source.load(mnist, "test", shared_tfds)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    import tensorflow_datasets as tfds

    record = tfds.builder("mnist", data_dir=shared_tfds).as_data_source(split="test")[1234]
    np.testing.assert_array_equal(test.images[1234], record["image"])
    assert test.labels[1234] == record["label"]


@pytest.mark.parametrize(
    ("split", "size"),
    [("train", 512), ("train[:10]", 10), ("train[:25%]", 128), ("train[500:]+test[:5]", 17), ("test[-3:]", 3)],
)
def test_splits(split, size):
    assert len(source.load(FAKE, split)) == size
    assert splits.split_size(source.split_sizes(FAKE), split) == size


def test_a_split_is_the_part_that_it_says():
    whole = source.load(FAKE, "train")
    np.testing.assert_array_equal(source.load(FAKE, "train[100:200]").images, whole.images[100:200])
    joined = source.load(FAKE, "train[500:]+test[:5]")
    np.testing.assert_array_equal(joined.labels[:12], whole.labels[500:])


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("vall", "train, test"),
        ("tran", "did you mean 'train'"),
        ("train[:0]", "no example"),
        ("test[500:]", "test"),
        ("train[x]", "TFDS syntax|parsing"),
        ("", "train, test"),
    ],
)
def test_wrong_splits(split, words):
    with pytest.raises(UsageError, match=words):
        source.load(FAKE, split)


def test_unknown_dataset():
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        catalog.find("digit")


def test_a_dataset_that_is_not_prepared_names_the_command(tmp_path):
    with pytest.raises(DataError, match=f"prepare mnist --data_dir={tmp_path}"):
        source.load(catalog.find("mnist"), "train", str(tmp_path))
    with pytest.raises(UsageError, match="does not exist"):
        source.load(catalog.find("mnist"), "train", str(tmp_path / "no"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        source.load(catalog.find("mnist"), "train", str(tmp_path / "file"))


def test_a_damaged_cache_is_made_anew(own_cache):
    before = source.load(DIGITS, "test")
    (path,) = (own_cache / "decoded").glob("digits-test-*.npy")
    for damage in ("flip", "cut", "empty", "junk"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes({"flip": data, "cut": data[:-100], "empty": b"", "junk": b"<html>"}[damage])
        after = source.load(DIGITS, "test")
        np.testing.assert_array_equal(after.images, before.images, err_msg=damage)
        np.testing.assert_array_equal(after.labels, before.labels, err_msg=damage)


def test_without_a_home_images_are_decoded_for_each_run(monkeypatch):
    before = source.load(DIGITS, "test")
    monkeypatch.delenv("JAXCNN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as of a user who has none
    with pytest.raises(OSError, match="set JAXCNN_CACHE"):
        cache_dir()
    monkeypatch.undo()

    def no_home():
        raise PermissionError("no home")

    monkeypatch.setattr(source, "cache_dir", no_home)
    np.testing.assert_array_equal(source.load(DIGITS, "test").images, before.images)


def test_a_full_disk_leaves_nothing_in_the_cache(own_cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        examples = source.load(DIGITS, "test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(examples) == 297
    assert not list((own_cache / "decoded").iterdir())


def test_two_readers_at_once(own_cache):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(source.load(DIGITS, "train").labels.sum())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [source.load(DIGITS, "train").labels.sum()] * 4


def test_a_damaged_record_file_is_named(shared_tfds, tmp_path):
    copy = tmp_path / "mnist"
    shutil.copytree(f"{shared_tfds}/mnist", copy)
    (file,) = copy.rglob("mnist-test.array_record*")
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[100_000] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="mnist-test"):
        source.load(catalog.find("mnist"), "test", str(tmp_path))
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="mnist-test"):
        source.load(catalog.find("mnist"), "test", str(tmp_path))


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png", **options)
    return file.getvalue()


def test_decode_reads_grey_and_colour():
    rgb = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    np.testing.assert_array_equal(image.decode(png(rgb), 3, "x"), rgb)
    assert image.decode(png(rgb), 1, "x").shape == (4, 5, 1)
    np.testing.assert_array_equal(image.decode(png(rgb[..., 0]), 3, "x"), np.repeat(rgb[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    "data",
    [b"", b"<html></html>", png(np.zeros((8, 8), np.uint8))[:40]],
    ids=["empty", "html", "cut"],
)
def test_decode_names_what_is_damaged(data):
    with pytest.raises(DataError, match="record 17"):
        image.decode(data, 1, "record 17")


def test_a_header_that_promises_too_much_is_refused_before_decoding():
    data = bytearray(png(np.zeros((8, 8), np.uint8)))
    data[16:24] = (65500).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match="record 3"):
        image.decode(bytes(data), 1, "record 3")


def test_fit_pads_evenly_and_resizes_as_pillow():
    stored = source.load(DIGITS, "test").images[0]
    padded = image.fit(stored, 13, "pad")
    np.testing.assert_array_equal(padded[2:10, 2:10], stored)
    assert padded.sum() == stored.sum()
    resized = image.fit(stored, 32, "resize")
    theirs = Image.fromarray(stored[..., 0]).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(resized[..., 0], np.asarray(theirs))
    np.testing.assert_array_equal(image.fit(stored, 8, "pad"), stored)
    with pytest.raises(UsageError, match="image_size=4"):
        image.fit(stored, 4, "pad")
    np.testing.assert_array_equal(source.load(DIGITS, "test", size=13, fit="pad").images[0], padded)


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (224, 224), (150, 151), (256, 1000)])
def test_crop_is_the_usual_evaluation_of_imagenet(shape):
    """The shorter side to 256, then the centre of 224: by hand, with Pillow."""
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    rows, columns = shape
    ours = image.fit(pixels, 224, "crop")
    scale = 256 / min(shape)
    size = int(256 if columns <= rows else scale * columns), int(256 if rows <= columns else scale * rows)
    scaled = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    top, left = (round((side - 224) / 2) for side in scaled.shape[:2])
    np.testing.assert_array_equal(ours, scaled[top : top + 224, left : left + 224])


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_batches_are_the_same_on_any_number_of_devices(num_devices):
    examples, mesh = source.load(FAKE, "train"), meshes.make_mesh(num_devices)
    resident = Resident(examples, meshes.everywhere(mesh), meshes.rows(mesh))
    from jaxcnn.data.order import train_indices

    for step, batch in zip(range(30, 33), resident.train_batches(seed=4, batch_size=16, start=30)):
        index = train_indices(4, step, 16, 512)[0]
        assert len(batch["image"].sharding.device_set) == num_devices
        np.testing.assert_array_equal(batch["image"], examples.images[index])
        np.testing.assert_array_equal(batch["label"], examples.labels[index])


def test_tensorflow_is_not_needed():
    assert "tensorflow" not in sys.modules
