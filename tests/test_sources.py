"""Datasets that are not in the catalog: any TFDS dataset, folders of images, NumPy archives; and the catalog's own rows."""

import contextlib
import dataclasses
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxcnn.cli import main as cli
from jaxcnn.config import AugmentConfig, ModelConfig, replace
from jaxcnn.data import catalog, source
from jaxcnn.errors import DataError, UsageError
from jaxcnn.loop import run
from jaxcnn.rundir import RunDir
from jaxcnn.task import build

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def make_folder(path, per_class=6, names=tuple(COLOURS), size=20):
    rng = np.random.default_rng(0)
    for name in names:
        (path / name).mkdir(parents=True)
        for k in range(per_class):
            pixels = np.clip(rng.normal(COLOURS[name], 20, (size + k, size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path / name / f"{k}.{'png' if k % 2 else 'jpg'}")
    return path


def make_npz(path, **more):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 255, (40, 12, 12), np.uint8),
        "y_train": np.arange(40) % 4,
        "x_test": rng.integers(0, 255, (10, 12, 12), np.uint8),
        "y_test": np.arange(10) % 4,
        **more,
    }
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return f"npz:{path}"


def test_rows_of_the_catalog_are_those_of_the_builders(tmp_path):
    """Shapes, classes and keys against the official builders; their splits are known only once prepared."""
    import tensorflow_datasets as tfds

    for row in catalog.CATALOG.values():
        assert len(row.mean) == len(row.std) == row.image_shape[2]
        assert len(set(row.class_names)) == row.num_classes
        if row.origin != "tfds":
            continue
        features = tfds.builder(row.place or row.name, data_dir=tmp_path, try_gcs=False).info.features
        image, label = (features[key] for key in row.keys)
        assert (image.shape[0] is None) == row.varying
        assert row.varying or image.shape == row.image_shape
        assert label.num_classes == row.num_classes


def test_a_folder_of_classes_is_one_split_with_all_classes_in_each_part(tmp_path):
    dataset = source.find(f"folder:{make_folder(tmp_path / 'data')}")
    assert dataset.class_names == ("blue", "green", "red")
    assert source.split_sizes(dataset) == {"train": 18}
    parts = [source.load(dataset, split, size=16, fit="crop") for split in ("train[:60%]", "train[60%:]")]
    assert [len(part) for part in parts] == [11, 7]
    for part in parts:
        assert set(part.labels) == {0, 1, 2}
        for pixels, label in zip(part.images, part.labels):
            assert pixels.mean(axis=(0, 1)).argmax() == 2 - label


def test_a_folder_with_splits(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "val", per_class=2, names=("blue", "red"))
    dataset = source.find(f"folder:{tmp_path}")
    assert source.split_sizes(dataset) == {"train": 18, "val": 4}
    assert sorted(source.load(dataset, "val", size=16).labels) == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda path: (path / "empty").mkdir(), DataError, "empty: no image in this class folder"),
        (lambda path: (path / "val" / "pink").mkdir(parents=True), DataError, "no class 'pink'"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, make, error, words):
    make_folder(tmp_path / "train")
    make(tmp_path if "pink" in words else tmp_path / "train")
    with pytest.raises(error, match=words):
        source.find(f"folder:{tmp_path}")


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        source.find(f"folder:{tmp_path / 'no'}")
    with pytest.raises(UsageError, match="must hold one folder per class"):
        source.find(f"folder:{tmp_path}")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        source.find(f"folder:{tmp_path / 'file'}")


@pytest.mark.parametrize(("target", "words"), [("gone.png", "No such file"), ("zzz.png", "symbolic links")])
def test_a_link_to_nothing_is_a_file_that_cannot_be_read(tmp_path, target, words):
    folder = make_folder(tmp_path / "data")
    (folder / "red" / "zzz.png").symlink_to(target)
    (folder / "loop").symlink_to("loop")
    dataset = source.find(f"folder:{folder}")
    with pytest.raises(DataError, match=rf"zzz\.png: .*{words}"):
        source.load(dataset, "train", size=16)
    assert sorted(source.load(dataset, "train", size=16, max_bad=1).labels)[:2] == [-1, 0]


@pytest.mark.parametrize("style", ["keras", "medmnist"])
def test_an_npz_file(tmp_path, style):
    name = make_npz(tmp_path / "a.npz", class_names=np.array(["a", "b", "c", "d"]))
    if style == "medmnist":
        held = dict(np.load(tmp_path / "a.npz"))
        renamed = {"train_images": held["x_train"], "train_labels": held["y_train"][:, None]}
        renamed |= {"val_images": held["x_test"], "val_labels": held["y_test"][:, None]}
        np.savez(tmp_path / "b.npz", **renamed)
        name = f"npz:{tmp_path / 'b.npz'}"
    dataset = source.find(name)
    other = "test" if style == "keras" else "val"
    assert source.split_sizes(dataset) == {"train": 40, other: 10}
    assert dataset.image_shape == (12, 12, 1)
    assert dataset.class_names == (("a", "b", "c", "d") if style == "keras" else ("0", "1", "2", "3"))
    held = np.load(tmp_path / "a.npz")
    np.testing.assert_allclose(dataset.mean[0], held["x_train"].mean() / 255, atol=1e-5)
    np.testing.assert_allclose(dataset.std[0], held["x_train"].std() / 255, atol=1e-5)
    part = source.load(dataset, f"train[10:]+{other}[:2]")
    np.testing.assert_array_equal(part.images[..., 0], np.concatenate([held["x_train"][10:], held["x_test"][:2]]))
    np.testing.assert_array_equal(part.labels, np.concatenate([held["y_train"][10:], held["y_test"][:2]]))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"x_train": np.zeros((40, 12, 12))}, "x_train is float64"),
        ({"x_train": np.zeros((40, 12, 12, 2), np.uint8)}, "must be uint8"),
        ({"y_train": np.arange(39)}, "y_train is int64"),
        ({"y_train": np.arange(40) - 1}, "integers >= 0"),
        ({"y_train": np.arange(40) * 10**5}, "y_train has the label 3900000; .* below 1,000,000"),
        ({"y_train": np.full(40, 2**64 - 1, np.uint64)}, "y_train has the label 18446744073709551615"),
        ({"y_train": None}, "no y_train"),
        ({"x_train": None, "y_train": None}, "no x_train or train_images"),
        ({"x_test": np.zeros((10, 9, 9), np.uint8)}, "those of train"),
        ({"class_names": np.array(["a"])}, "there are 4 labels"),
        ({"x_train": np.array([{}] * 40, object)}, "without pickles"),
    ],
)
def test_npz_files_that_cannot_be_used(tmp_path, more, words):
    with pytest.raises(DataError, match=words):
        source.find(make_npz(tmp_path / "a.npz", **more))


def test_an_npz_file_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        source.find(f"npz:{tmp_path / 'no.npz'}")
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04junk")
    with pytest.raises(DataError, match="not a NumPy archive"):
        source.find(f"npz:{tmp_path / 'junk.npz'}")


def npy(array=None, header=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((40, 12, 12), np.uint8) if array is None else array)
    data = file.getvalue()
    return data if header is None else data[:10] + header.ljust(len(data[10:128]) - 1).encode() + b"\n" + data[128:]


def archive(path, member, encrypted=False, method=zipfile.ZIP_DEFLATED):
    """An archive with one member, x_train.npy; its header may say that it is encrypted, or packed by another method."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x_train.npy", member)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    for place in (6, central + 8):
        data[place] |= encrypted
    for place in (8, central + 10):
        data[place] = method
    path.write_bytes(data)
    return data


@pytest.mark.parametrize(
    ("member", "changed"),
    [
        (npy(), {"encrypted": True}),
        (npy(), {"method": 97}),
        (npy(header="{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000000, ), }"), {}),
        (npy(header="{'descr': '|u1', 'fortran_order': False, 'shape': (4, "), {}),
        (npy(header="{'descr': '|u1' L(, 'fortran_order': ("), {}),
        (b"no array", {}),
    ],
    ids=["encrypted", "unknown method", "lying header", "cut header", "header of junk", "no array"],
)
def test_damaged_npz_files_are_data_errors(tmp_path, member, changed):
    archive(tmp_path / "a.npz", member, **changed)
    with pytest.raises(DataError, match=r"a\.npz: (not a NumPy archive|there is no x_train)"):
        source.find(f"npz:{tmp_path / 'a.npz'}")


def test_any_byte_of_an_npz_file_changed_gives_a_dataset_or_a_data_error(tmp_path):
    path, rng = tmp_path / "a.npz", np.random.default_rng(0)
    np.savez_compressed(path, x_train=np.zeros((9, 4, 4), np.uint8), y_train=np.arange(9))
    data = path.read_bytes()
    for number in range(300):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (tmp_path / f"{number}.npz").write_bytes(changed)
        with contextlib.suppress(DataError):
            source.find(f"npz:{tmp_path / f'{number}.npz'}")


def test_any_prepared_tfds_dataset(tmp_path):
    """One that the catalog does not know, prepared here."""
    import tensorflow_datasets as tfds

    from jaxcnn.data.digits import Digits

    class OtherDigits(Digits):
        __module__ = Digits.__module__  # TFDS wants a builder to be in a package
        name = "other_digits"

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "picture": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                        "digit": tfds.features.ClassLabel(names=[f"d{k}" for k in range(10)]),
                    }
                ),
                supervised_keys=("picture", "digit"),
                disable_shuffling=True,
            )

        def _generate_examples(self, start, stop):
            for index, example in super()._generate_examples(start, stop):
                yield index, {"picture": example["image"], "digit": example["label"]}

    tfds.disable_progress_bar()
    OtherDigits(data_dir=tmp_path, file_format="array_record").download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    dataset = source.find("tfds:other_digits", str(tmp_path))
    assert (dataset.image_shape, dataset.keys, dataset.class_names[3]) == ((8, 8, 1), ("picture", "digit"), "d3")
    ours, theirs = source.load(dataset, "test", str(tmp_path)), source.load(catalog.find("digits"), "test")
    np.testing.assert_array_equal(ours.images, theirs.images)
    np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_tfds_names_of_the_catalog_are_its_rows(shared_tfds, tmp_path):
    assert source.find("tfds:mnist", shared_tfds) is catalog.find("mnist")
    with pytest.raises(DataError, match="not prepared"):
        source.find("tfds:emnist/letters", str(tmp_path))
    with pytest.raises(UsageError, match=r"tfds:NAME, folder:PATH or npz:FILE"):
        source.find("tfds:")


def test_images_of_a_folder_are_padded_to_any_size_that_holds_them(tmp_path, tiny):
    name = f"folder:{make_folder(tmp_path / 'data', size=30)}"  # of 30 to 35 rows, 30 columns
    values = {"data.dataset": name, "data.eval_split": "train", "data.fit": "pad"}
    tiny = dataclasses.replace(tiny, model=ModelConfig("mlp"))
    images = build(replace(tiny, {**values, "data.image_size": 36}), 1).load("train").arrays["image"]
    assert images.shape == (18, 36, 36, 3)
    assert not np.asarray(images)[:, :, :3].any()
    with pytest.raises(UsageError, match=r"data\.image_size=32 must be >= 3\d with data\.fit=pad"):
        build(replace(tiny, {**values, "data.image_size": 32}), 1).load("train")


@pytest.mark.trains(keep=1)
@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_run_on_ones_own_images(tmp_path, tiny, kind, capsys):
    path = make_folder(tmp_path / "data", 8) if kind == "folder" else None
    name = f"folder:{path}" if path else make_npz(tmp_path / "a.npz")
    splits = {"data.train_split": "train[:70%]", "data.eval_split": "train[70%:]"}
    values = {"data.dataset": name, **splits, "data.image_size": 32, "data.batch_size": 8, "steps": 3}
    summary = run(replace(tiny, values), tmp_path / "run")
    assert summary["steps"] == 3
    shutil.rmtree(tmp_path / "data", ignore_errors=True)  # predict needs neither the images nor the file
    (tmp_path / "a.npz").unlink(missing_ok=True)
    source.folder.splits.cache_clear()
    source.npz._arrays.cache_clear()
    Image.fromarray(np.full((30, 20, 3), COLOURS["red"], np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(SystemExit) as stop:
        cli.main(["predict", str(tmp_path / "run"), str(tmp_path / "photo.png"), "--format=json"])
    assert not stop.value.code
    names = COLOURS if kind == "folder" else "0123"
    assert {one["class"] for one in json.loads(capsys.readouterr().out)[0]["top"]} <= set(names)
    with pytest.raises(UsageError, match=r"does not exist|no such file"):
        source.find(name)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["dataset"] == name


@pytest.mark.parametrize("name", ["mnist", "imagenet2012", "svhn"])
def test_a_description_survives_its_file(name):
    dataset = catalog.find(name)
    assert catalog.from_json(catalog.to_json(dataset)) == dataclasses.replace(dataset, augment=AugmentConfig())


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"name": 1}', "{" * 10_000])
def test_a_damaged_description_is_none(tmp_path, text):
    (tmp_path / "dataset.json").write_text(text)
    assert RunDir(tmp_path).read_dataset() is None
