"""The streaming path: the same batches as on the device, for any number of threads and hosts, and after a restart."""

import io
import json
import resource
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from jaxcnn import mesh as meshes
from jaxcnn.config import AugmentConfig, replace
from jaxcnn.data import catalog, crop, order, source
from jaxcnn.data.cached import Cached, Disk, Memory
from jaxcnn.data.image import Box
from jaxcnn.data.reader import Reader
from jaxcnn.data.records import Record
from jaxcnn.data.resident import Resident
from jaxcnn.data.stream import Stream
from jaxcnn.errors import DataError, Preempted, UsageError
from jaxcnn.evaluate import evaluate
from jaxcnn.loop import run
from jaxcnn.metrics import means
from jaxcnn.rundir import BadRecords, RunDir
from jaxcnn.task import build

RESIZED = AugmentConfig(crop="resized")
PHOTOGRAPHS = catalog.find("imagenet2012")


class Photographs:
    """Coloured JPEGs of many sizes, made here."""

    def __init__(self, count=37, bad=()):
        rng = np.random.default_rng(0)
        self.files, self.bad, self.reads = [], set(bad), []
        for _ in range(count):
            small = rng.integers(0, 255, (6, 8, 3), np.uint8)
            size = tuple(int(n) for n in rng.integers(40, 130, 2))
            file = io.BytesIO()
            Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, "jpeg", quality=90)
            self.files.append(file.getvalue())

    def __len__(self):
        return len(self.files)

    def read(self, index):
        self.reads.append(index)
        data = b"<html>" if index in self.bad else self.files[index]
        return Record(data, index, f"photographs: record {index}")

    def read_range(self, first, stop):
        return [self.read(index) for index in range(first, stop)]

    def stamp(self):
        return None


def stream(records, crops=None, num_devices=1, max_bad=0, **options):
    reader = Reader(PHOTOGRAPHS, records, 32, "crop", max_bad)
    return Stream(reader, meshes.rows(meshes.make_mesh(num_devices)), crops, **options)


def taken(found, count, seed=3, batch_size=16, start=0):
    batches = [batch for _, batch in zip(range(count), found.host_train_batches(seed, batch_size, start))]
    found.close()
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def assert_same(one, other):
    for name in ("image", "label", "example", "epoch"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_streamed_and_resident_batches_are_the_same():
    dataset, mesh = catalog.find("fake"), meshes.make_mesh(8)
    records = source.open_split(dataset, "train[:100]")
    resident = Resident(source.load(dataset, "train[:100]"), meshes.everywhere(mesh), meshes.rows(mesh))
    streamed = Stream(Reader(dataset, records, None, "resize"), meshes.rows(mesh))
    for make in (lambda x: x.train_batches(5, 24, 7), lambda x: x.eval_batches(24)):
        for _, ours, theirs in zip(range(9), make(streamed), make(resident)):
            real = np.asarray(theirs.get("mask", np.ones(24, bool)))
            assert ours.keys() >= {"image", "label"}
            for name in ours.keys() & theirs.keys():
                assert ours[name].dtype == theirs[name].dtype
                assert ours[name].sharding == theirs[name].sharding
                np.testing.assert_array_equal(
                    np.asarray(ours[name])[real], np.asarray(theirs[name])[real], err_msg=name
                )
    streamed.close()


@pytest.mark.soak(keep=3)
@pytest.mark.parametrize("threads", [1, 2, 5, 16])
@pytest.mark.parametrize("ahead", [1, 4])
def test_batches_do_not_depend_on_threads(threads, ahead):
    reference = taken(stream(Photographs(), RESIZED, threads=1, ahead=1), 6)
    assert_same(taken(stream(Photographs(), RESIZED, threads=threads, ahead=ahead), 6), reference)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_read_their_rows_of_the_same_batch(hosts):
    whole = taken(stream(Photographs(), RESIZED), 5)
    parts = [taken(stream(Photographs(), RESIZED, host=(number, hosts)), 5) for number in range(hosts)]
    assert all(part["image"].shape[1] == 16 // hosts for part in parts)
    assert_same({name: np.concatenate([part[name] for part in parts], axis=1) for name in whole}, whole)


@pytest.mark.parametrize("start", [1, 4, 20])
def test_a_restart_goes_on_with_the_same_examples(start):
    whole = taken(stream(Photographs(), RESIZED), start + 3)
    after = taken(stream(Photographs(), RESIZED), 3, start=start)
    assert_same(after, {name: array[start:] for name, array in whole.items()})


def test_every_example_comes_once_an_epoch_and_looks_different_in_the_next():
    found = taken(stream(Photographs(32), RESIZED), 4)  # two epochs of two batches
    example, epoch = found["example"].reshape(2, 32), found["epoch"].reshape(2, 32)
    np.testing.assert_array_equal(np.sort(example, axis=1), np.tile(np.arange(32), (2, 1)))
    np.testing.assert_array_equal(epoch, [[0] * 32, [1] * 32])
    images = found["image"].reshape(2, 32, -1)
    first, second = (images[k][np.argsort(example[k])] for k in (0, 1))
    assert (first != second).any(axis=1).mean() > 0.9
    assert not np.array_equal(taken(stream(Photographs(32), RESIZED), 2, seed=4)["example"], found["example"][:2])


def test_evaluation_reads_every_example_once(tmp_path):
    records = Photographs(37)
    found = stream(records, RESIZED, num_devices=8)
    labels, masks = [], []
    for batch in found.eval_batches(16):
        assert batch["image"].shape == (16, 32, 32, 3)
        labels += np.asarray(batch["label"])[np.asarray(batch["mask"])].tolist()
        masks += np.asarray(batch["mask"]).tolist()
    assert labels == list(range(37))
    assert sorted(records.reads) == list(range(37))
    assert sum(masks) == 37
    found.close()


def test_memory_is_bounded_by_the_batches_read_ahead():
    records = Photographs(37)
    found = stream(records, ahead=3, threads=1)
    batches = found.host_train_batches(0, 8, 0)
    for count in (1, 2, 3):
        next(batches)
        found._pool.submit(lambda: None).result()  # behind all that was begun
        assert len(records.reads) == 8 * (count + 3)
    batches.close()
    found.close()


def test_a_damaged_record_ends_the_run_and_is_named():
    found = stream(Photographs(bad=[11]))
    with pytest.raises(DataError, match="photographs: record 11"):
        taken(found, 5)


@pytest.mark.parametrize("hosts", [1, 2])
def test_damaged_records_are_left_out_when_allowed(hosts):
    good = taken(stream(Photographs(), RESIZED), 5)
    for number in range(hosts):
        found = stream(Photographs(bad=[4, 11]), RESIZED, max_bad=2, host=(number, hosts))
        ours = taken(found, 5)
        mine = slice(number * 16 // hosts, (number + 1) * 16 // hosts)
        bad = np.isin(ours["example"], [4, 11])
        assert (ours["label"][bad] == -1).all()
        assert not ours["image"][bad].any()
        np.testing.assert_array_equal(ours["image"][~bad], good["image"][:, mine][~bad])
        assert set(found.bad) <= {4, 11}
    with pytest.raises(DataError, match="max_bad_records=1"):
        taken(stream(Photographs(bad=[4, 11]), max_bad=1), 5)


def test_evaluation_masks_what_cannot_be_read():
    found = stream(Photographs(bad=[0, 36]), max_bad=2)
    labels = [
        label
        for batch in found.eval_batches(16)
        for label in np.asarray(batch["label"])[np.asarray(batch["mask"])].tolist()
    ]
    assert labels == list(range(1, 36))
    assert sorted(found.bad) == [0, 36]


def counted(_, batch):
    return {"count": batch["mask"].sum(), "labels": batch["label"].sum(where=batch["mask"])}


@pytest.mark.trains
def test_what_a_run_has_left_out_stays_out_when_it_is_readable_again(tmp_path):
    (tmp_path / "bad_records.json").write_text('{"test": {"3": "3.jpg: cut"}}')
    mended = stream(Photographs(), max_bad=1)
    BadRecords(RunDir(tmp_path), {"test": mended.bad})
    assert evaluate(counted, {}, mended, 16) == {"eval_labels": (sum(range(37)) - 3) / 36}
    found = taken(mended, 5)
    assert (found["label"][found["example"] == 3] == -1).all()
    strict = stream(Photographs())
    BadRecords(RunDir(tmp_path), {"test": strict.bad})
    with pytest.raises(DataError, match=r"3\.jpg: cut.*max_bad_records=0 must be >= 1"):
        taken(strict, 5)


def test_what_is_known_of_a_record_is_not_lost_to_an_older_file(tmp_path):
    (tmp_path / "bad_records.json").write_text('{"test": {"3": "unreadable", "4": "unreadable"}}')
    found = {"test": {3: "3.jpg: cut"}}
    BadRecords(RunDir(tmp_path), found).write()
    assert json.loads((tmp_path / "bad_records.json").read_text()) == {"test": {"3": "3.jpg: cut", "4": "unreadable"}}


def test_readers_may_meet_more_while_the_bad_records_are_written(tmp_path):
    class Growing(dict):
        def items(self):
            for item in super().items():
                self[len(self)] = "met meanwhile"
                yield item

    BadRecords(RunDir(tmp_path), {"train": Growing({0: "cut"})}).write()
    assert json.loads((tmp_path / "bad_records.json").read_text()) == {"train": {"0": "cut"}}


def test_a_record_that_ends_a_run_may_be_mended():
    records = Photographs(bad=[3])
    found = stream(records, max_bad=0)
    with pytest.raises(DataError, match="record 3"):
        list(found.eval_batches(16))
    records.bad.clear()
    assert evaluate(counted, {}, found, 16) == {"eval_labels": sum(range(37)) / 37}
    found.close()


def test_an_evaluation_without_a_readable_example_is_an_error():
    found = stream(Photographs(5, bad=range(5)), max_bad=5)
    with pytest.raises(DataError, match=r"none of the 5 examples to evaluate on can be read \(photographs: record"):
        evaluate(counted, {}, found, 16)
    found.close()


def test_a_label_out_of_range_is_an_error():
    class Wrong(Photographs):
        def read(self, index):
            return super().read(index)._replace(label=1000 if index == 5 else 0)

    with pytest.raises(DataError, match=r"record 5: label 1000 is not in \[0, 1000\)"):
        taken(stream(Wrong()), 3)


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (224, 224), (60, 900), (900, 60)])
def test_resized_crops_stay_in_the_image_and_in_their_ranges(shape):
    rows, columns = shape
    index = np.arange(4000)
    uniforms = order.uniforms(0, index, index * 0, crop.NUM_UNIFORMS).tolist()
    top, left, height, width = np.array([crop.choose(rows, columns, 224, RESIZED, u) for u in uniforms]).T
    assert ((top >= 0) & (top + height <= rows) & (left >= 0) & (left + width <= columns)).all()
    assert ((width / height > 0.72) & (width / height < 1.38)).all()
    if max(shape) <= 500:
        assert ((height * width > 0.078 * rows * columns) & (height * width <= rows * columns)).all()
        assert top.min() == left.min() == 0
        assert (top + height).max() == rows
        assert (left + width).max() == columns


@pytest.mark.parametrize("shape", [(375, 500), (120, 400)])
def test_resized_crops_are_drawn_as_torchvision_draws_them(torch, torchvision, shape):
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    index = np.arange(4000)
    uniforms = order.uniforms(0, index, index * 0, crop.NUM_UNIFORMS).tolist()
    ours = np.array([crop.choose(*shape, 224, RESIZED, u) for u in uniforms])
    blank = torch.zeros(1, *shape)
    theirs = np.array([RandomResizedCrop.get_params(blank, RESIZED.crop_area, RESIZED.crop_ratio) for _ in index])
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3


def test_scale_crops_are_squares_of_a_rescaled_image():
    config = AugmentConfig(crop="scale", shorter_side=(256.0, 512.0))
    index = np.arange(4000)
    uniforms = order.uniforms(0, index, index * 0, crop.NUM_UNIFORMS).tolist()
    boxes = np.array([crop.choose(375, 500, 224, config, u) for u in uniforms])
    np.testing.assert_array_equal(boxes[:, 2], boxes[:, 3])
    length = 224 / boxes[:, 2] * 375  # of the shorter side if the box were 224
    assert 255 < length.min() < 260
    assert 505 < length.max() < 515
    assert abs(length.mean() - 384) < 5
    one = AugmentConfig(crop="scale", shorter_side=(256.0, 256.0))
    assert {crop.choose(375, 500, 224, one, u)[2:] for u in uniforms[:50]} == {(328, 328)}
    assert crop.choose(10, 10, 224, AugmentConfig(crop="scale", shorter_side=(8.0, 8.0)), uniforms[0]) == Box(
        0, 0, 10, 10
    )


@pytest.mark.parametrize("pair", [(0.5,), (0.9, 0.1), ()])
def test_ranges_of_crops_are_checked(pair):
    with pytest.raises(UsageError, match=r"augment\.crop_area"):
        AugmentConfig(crop_area=pair)


def test_uniforms_belong_to_seed_example_and_epoch():
    index = np.arange(20_000)
    one = order.uniforms(1, index, index * 0, 22)
    assert (one.min(), one.max()) > (0, 0.999)
    assert one.max() < 1
    assert np.abs(np.corrcoef(one.T) - np.eye(22)).max() < 0.04
    np.testing.assert_allclose(one.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_array_equal(order.uniforms(1, index[7:9], index[7:9] * 0, 22), one[7:9])
    for other in (order.uniforms(2, index, index * 0, 22), order.uniforms(1, index, index * 0 + 1, 22)):
        assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.03


def test_imagenet_is_streamed_with_crops_and_resident_without(shared_tfds, tiny):
    values = {"data.dataset": "imagenet2012", "data.data_dir": shared_tfds, "data.image_size": 32, "data.fit": "crop"}
    config = replace(tiny, {**values, "data.eval_split": "validation"})
    task = build(config, 1)
    assert isinstance(task.load("validation[:4]", train=True), Resident)
    cropped = build(replace(config, {"augment.crop": "resized"}), 1)
    train, test = cropped.load("train[:8]", train=True), cropped.load("validation[:4]")
    assert isinstance(train, Stream)
    assert isinstance(test, Resident)
    streamed = build(replace(config, {"data.resident_gb": 0.0}), 1).load("validation[:4]")
    assert isinstance(streamed, Stream)
    (ours,), (theirs,) = streamed.eval_batches(4), test.eval_batches(4)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), ours, theirs))
    for one in (train, streamed):
        one.close()


def own_images(path, damaged=()):
    """Three classes of 14 photographs in a folder; some are cut in the middle."""
    records = Photographs(42)
    for index, data in enumerate(records.files):
        file = path / "abc"[index % 3] / f"{index}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data[: len(data) // 2] if index in damaged else data)
    return {
        "data.dataset": f"folder:{path}",
        "data.train_split": "train[:28]",
        "data.eval_split": "train[28:]",
        "data.image_size": 32,
        "data.batch_size": 8,
        "augment.crop": "resized",
    }


def digest(config, workdir, **more):
    return run(config, workdir, num_devices=1, **more)["state_digest"]


@pytest.mark.trains
def test_a_streamed_run_stopped_in_the_middle_of_an_epoch_ends_the_same(tiny, tmp_path):
    config = replace(tiny, {**own_images(tmp_path / "images"), "steps": 9, "checkpoint.every": 100})
    whole = digest(config, tmp_path / "whole")
    polls = iter([False] * 5 + [True] * 100)
    with pytest.raises(Preempted):
        run(config, tmp_path / "run", num_devices=1, stop=lambda: next(polls))
    stopped = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert 0 < stopped < 9
    assert stopped * 8 % 28  # in the middle of an epoch
    assert digest(replace(config, {"data.threads": 1, "data.ahead": 5}), tmp_path / "run") == whole


def test_a_damaged_image_ends_the_run_with_its_name(tiny, tmp_path):
    config = replace(tiny, {**own_images(tmp_path / "images", damaged=[7]), "steps": 9})
    with pytest.raises(DataError, match=r"images/b/7\.jpg: not a readable image"):
        run(config, tmp_path / "run", num_devices=1)


@pytest.mark.trains(keep=1)
@pytest.mark.parametrize("resident", [False, True])
def test_damaged_images_are_left_out_counted_and_the_run_reproducible(tiny, tmp_path, resident):
    values = own_images(tmp_path / "images", damaged=[7, 20]) | {"steps": 9, "data.max_bad_records": 2}
    values |= {"augment.crop": "none"} if resident else {}
    config = replace(tiny, values)
    first = run(config, tmp_path / "one", num_devices=1)
    assert first["bad_records"] == 2
    found = json.loads((tmp_path / "one" / "bad_records.json").read_text())
    reasons = [reason for records in found.values() for reason in records.values()]
    assert sorted(reason.partition(": not a readable image")[0].rpartition("images/")[2] for reason in reasons) == [
        "b/7.jpg",
        "c/20.jpg",
    ]
    polls = iter([False] * 5 + [True] * 100)
    with pytest.raises(Preempted):
        run(config, tmp_path / "two", num_devices=1, stop=lambda: next(polls))
    second = run(replace(config, {"data.threads": 1}), tmp_path / "two", num_devices=1)
    assert (second["state_digest"], second["bad_records"]) == (first["state_digest"], 2)
    assert json.loads((tmp_path / "two" / "bad_records.json").read_text()) == found
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [round(8 * row["step"] / 28, 4) for row in rows]
    with pytest.raises(DataError, match="max_bad_records=1"):
        run(replace(config, {"data.max_bad_records": 1}), tmp_path / "three", num_devices=1)


def test_left_out_examples_have_no_gradient(tiny):
    """A batch with unreadable rows gives the loss and gradient norm of the readable ones, for a network without BatchNorm."""
    config = replace(
        tiny, {"data.max_bad_records": 5, "model.dropout_rate": 0.0, "augment.shift": 0.0, "augment.rotate": 0.0}
    )
    task = build(config, 1)
    batch = jax.device_get(next(task.load("train", train=True).train_batches(0, 16, 0)))
    bad = np.arange(16) % 3 == 0
    sums = {}
    for name, label, image in (
        ("all", np.where(bad, -1, batch["label"]), np.where(bad[:, None, None, None], 0, batch["image"])),
        ("good", batch["label"][~bad], batch["image"][~bad]),
    ):
        state = task.initial_state()
        given = {**batch, "label": label, "image": image} if name == "all" else {"label": label, "image": image}
        _, sums[name] = task.train_step(10)(state, given)
    for name in ("loss", "accuracy", "count", "objective", "grad_norm"):
        np.testing.assert_allclose(sums["all"][name], sums["good"][name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_a_cache_gives_the_same_batches_each_time_and_decodes_once(tmp_path, where):
    def batches(records, store, count=6):
        return taken(stream(Cached(records, store, 36, 3), RESIZED), count)

    records = Photographs()
    store = Memory() if where == "ram" else Disk(tmp_path)
    first = batches(records, store)
    assert max(records.reads.count(index) for index in range(37)) <= 2  # two threads may meet at one
    before = len(records.reads)
    assert_same(batches(records, Disk(tmp_path) if where == "disk" else store), first)
    assert len(records.reads) == before
    assert_same(batches(Photographs(), Memory()), first)
    scaled = Cached(records, store, 36, 3).read(0).image
    assert min(scaled.shape[:2]) <= 36


def test_evaluation_is_the_same_with_a_cache():
    plain, kept = stream(Photographs()), stream(Cached(Photographs(), Memory(), 36, 3))
    for ours, theirs in zip(kept.eval_batches(16), plain.eval_batches(16), strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])


def test_a_damaged_cached_file_is_made_anew(tmp_path):
    records = Photographs()
    kept = Cached(records, Disk(tmp_path), 36, 3)
    whole = [kept.read(index).image for index in range(37)]
    for number, damage in enumerate((b"", b"junk", None)):
        path = tmp_path / "0" / str(number)
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data if damage is None else damage)
    records.reads.clear()
    for index in range(37):
        np.testing.assert_array_equal(kept.read(index).image, whole[index])
    assert sorted(records.reads) == [0, 1, 2]
    np.testing.assert_array_equal(kept.read(2).image, whole[2])
    assert len(records.reads) == 3


def test_a_cache_that_cannot_hold_the_split_is_refused(monkeypatch):
    monkeypatch.setattr(Memory, "free", lambda self: 10_000)
    with pytest.raises(UsageError, match=r"37 images with a shorter side of 36 take about .* GB"):
        Cached(Photographs(), Memory(), 36, 3)


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    records, limits = Photographs(), resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = Cached(records, Disk(tmp_path), 36, 3)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        small = kept.read(0).image
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    np.testing.assert_array_equal(kept.read(0).image, small)
    assert (tmp_path / "0" / "0").is_file()


def test_what_a_cache_holds_already_needs_no_room(tmp_path, monkeypatch):
    kept = Cached(Photographs(), Disk(tmp_path), 36, 3)
    for index in range(30):
        kept.read(index)
    monkeypatch.setattr(Disk, "free", lambda self: 40_000)  # for 7 images of 5,184 bytes, not for 37
    assert len(Cached(Photographs(), Disk(tmp_path), 36, 3)) == 37
    with pytest.raises(UsageError, match=r"data\.cache: 37 images"):
        Cached(Photographs(), Disk(tmp_path / "empty"), 36, 3)


@pytest.mark.trains(keep=1)
@pytest.mark.parametrize("where", ["ram", "disk"])
def test_a_run_with_a_cache_can_be_stopped_and_resumed(tiny, tmp_path, where):
    config = replace(tiny, {**own_images(tmp_path / "images"), "steps": 9, "data.cache": where})
    whole = digest(config, tmp_path / "whole")
    polls = iter([False] * 5 + [True] * 100)
    with pytest.raises(Preempted):
        run(config, tmp_path / "run", num_devices=1, stop=lambda: next(polls))
    assert digest(config, tmp_path / "run") == whole
    with pytest.raises(UsageError, match=r"data\.cache"):
        run(replace(config, {"data.cache": "none"}), tmp_path / "run", num_devices=1)


@pytest.mark.trains
def test_imagenet_from_the_official_builder_stopped_in_an_epoch(shared_tfds, tiny, tmp_path, monkeypatch):
    """All 80 validation photographs once an evaluation; the same end after a stop in the middle of an epoch."""
    values = {
        "data.dataset": "imagenet2012",
        "data.data_dir": shared_tfds,
        "data.eval_split": "validation",
        "data.train_split": "train[:40]",
        "data.image_size": 32,
        "data.batch_size": 16,
        "data.fit": "crop",
        "augment.crop": "resized",
        "steps": 6,
        "log.eval_every": 3,
    }
    config = replace(tiny, values)
    counted = []
    monkeypatch.setattr("jaxcnn.evaluate.means", lambda sums: counted.append(int(sums["count"])) or means(sums))
    whole = digest(config, tmp_path / "whole")
    assert counted == [80, 80]
    polls = iter([False] * 4 + [True] * 100)
    with pytest.raises(Preempted):
        run(config, tmp_path / "run", num_devices=1, stop=lambda: next(polls))
    assert digest(replace(config, {"data.threads": 1}), tmp_path / "run") == whole
    assert "tensorflow" not in sys.modules
