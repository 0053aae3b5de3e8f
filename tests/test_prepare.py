"""`prepare` with the official builders, on small files in the formats of the real ones; nothing outside is reached."""

import gzip
import http.server
import importlib.util
import io
import json
import pathlib
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time

import cv2
import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from conftest import ROOT
from PIL import Image
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.utils.lazy_imports_utils import tensorflow as lazy_tensorflow
from tensorflow_datasets.image_classification import mnist as mnist_module

from jaxcnn.cli.main import main
from jaxcnn.data import catalog, source, standin
from jaxcnn.data.prepare import prepare
from jaxcnn.errors import DataError, UsageError

RNG = np.random.default_rng(0)
COUNTS = {"train": 20, "t10k": 7}
TRAIN, TEST = ("train", "t10k")


def uint8(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def idx(array):
    """The format of MNIST's files: two zeros, 8 for uint8, the rank, the sizes, the bytes."""
    head = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


def tar(files, mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def encoded(kind, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(uint8(20, 30, len(mode)), mode).save(file, kind)
    return file.getvalue()


def svhn():
    file = io.BytesIO()
    scipy.io.savemat(file, {"X": uint8(32, 32, 3, 9), "y": RNG.integers(1, 11, (9, 1), np.uint8)})
    return {f"{part}_32x32.mat": file.getvalue() for part in ("train", "test", "extra")}


IMAGES = {part: uint8(count, 28, 28) for part, count in COUNTS.items()}
LABELS = {part: RNG.integers(0, 10, count).astype(np.uint8) for part, count in COUNTS.items()}
MNIST = {f"{part}-images-idx3-ubyte.gz": idx(images) for part, images in IMAGES.items()}
MNIST |= {f"{part}-labels-idx1-ubyte.gz": idx(labels) for part, labels in LABELS.items()}
CIFAR = {
    name: RNG.integers(0, 10, (6, 3073)).astype(np.uint8)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
}
NAMES = {
    "batches.meta.txt": "\n".join(catalog.find("cifar10").class_names).encode(),
    "coarse_label_names.txt": "\n".join(f"coarse {i}" for i in range(20)).encode(),
    "fine_label_names.txt": "\n".join(f"fine {i}" for i in range(100)).encode(),
}


def cifar10():
    files = {f"cifar-10-batches-bin/{name}.bin": rows.tobytes() for name, rows in CIFAR.items()}
    return {"cifar-10-binary.tar.gz": tar(files | {"cifar-10-batches-bin/batches.meta.txt": NAMES["batches.meta.txt"]})}


def cifar100():
    rows = RNG.integers(0, 20, (6, 3074)).astype(np.uint8).tobytes()
    files = {"train.bin": rows, "test.bin": rows, **NAMES}
    return {"cifar-100-binary.tar.gz": tar({f"cifar-100-binary/{name}": data for name, data in files.items()})}


def imagenette():
    labels = tfds.core.tfds_path("image_classification/imagenette_labels.txt").read_text().split()
    files = {
        f"imagenette2/{part}/{label}/{part}_{label}.JPEG": encoded("jpeg")
        for part in ("train", "val")
        for label in labels
    }
    return {"imagenette2.tgz": tar(files)}


def imagenet():
    """With the two kinds of images that the builder converts: a CMYK one and a PNG."""
    fish = {"n01739381_1309.JPEG": encoded("jpeg", "CMYK"), "n01739381_1.JPEG": encoded("jpeg")}
    dog = {"n02105855_2933.JPEG": encoded("png")}
    train = {"n01739381.tar": tar(fish, "w"), "n02105855.tar": tar(dog, "w")}
    val = {f"ILSVRC2012_val_{i:08d}.JPEG": encoded("jpeg") for i in range(1, 5)}
    return {"ILSVRC2012_img_train.tar": tar(train, "w"), "ILSVRC2012_img_val.tar": tar(val, "w")}


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Puts files into a directory as if downloaded by hand, and their checksums into the builder; returns the directory."""

    def place(name, files):
        folder = tmp_path / "by_hand"
        folder.mkdir(exist_ok=True)
        infos = tfds.builder_cls(name).url_infos
        for url in list(infos):
            if (file := url.rsplit("/")[-1]) in files:
                (folder / file).write_bytes(files[file])
                monkeypatch.setitem(infos, url, checksums.compute_url_info(folder / file))
        return str(folder)

    monkeypatch.setattr(mnist_module, "_TRAIN_EXAMPLES", COUNTS["train"])
    monkeypatch.setattr(mnist_module, "_TEST_EXAMPLES", COUNTS["t10k"])
    return place


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError(f"a connection was tried: {arguments}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def same_images(directory):
    """Whether the prepared mnist holds each of our images, with its label, and nothing else."""
    for split, part in (("train", TRAIN), ("test", TEST)):
        examples = source.load(catalog.find("mnist"), split, str(directory))
        ours = sorted((image.tobytes(), int(label)) for image, label in zip(IMAGES[part], LABELS[part], strict=True))
        theirs = sorted(
            (image.tobytes(), int(label)) for image, label in zip(examples.images, examples.labels, strict=True)
        )
        assert ours == theirs
    return True


def test_mnist_is_prepared_exactly_and_offline(official, no_network, tmp_path):
    done = prepare("mnist", str(tmp_path / "data"), official("mnist", MNIST), offline=True)
    assert (done.new, done.splits) == (True, {"train": 20, "test": 7})
    assert done.num_bytes == sum(path.stat().st_size for path in done.directory.iterdir())
    assert same_images(tmp_path / "data")
    assert "tensorflow" not in sys.modules
    left = [path.name for path in (tmp_path / "data").rglob("*") if path.is_file() and path.parent != done.directory]
    assert left == ["mnist.lock"]  # what was extracted is gone


def test_what_does_not_fit_memory_is_shuffled_on_disk(official, tmp_path, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1000)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(pathlib.Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 12, limits[1]))  # the real one needs 1,000, of 1,024
    try:
        done = prepare("mnist", str(tmp_path), official("mnist", MNIST), offline=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert same_images(tmp_path)
    assert not [path for path in done.directory.iterdir() if "bucket" in path.name]


def test_what_is_written_is_as_in_a_copy_made_with_tensorflow(official, shared_tfds, tmp_path):
    ours = prepare("mnist", str(tmp_path), official("mnist", MNIST), offline=True).directory
    theirs = pathlib.Path(shared_tfds) / "mnist" / ours.name
    assert json.loads((ours / "features.json").read_text()) == json.loads((theirs / "features.json").read_text())
    infos = [json.loads((path / "dataset_info.json").read_text()) for path in (ours, theirs)]
    assert infos[0]["fileFormat"] == infos[1]["fileFormat"] == "array_record"
    assert [split["filepathTemplate"] for split in infos[0]["splits"]] == [
        split["filepathTemplate"] for split in infos[1]["splits"]
    ]


def test_cifar10_is_prepared_exactly(official, no_network, tmp_path):
    prepare("cifar10", str(tmp_path), official("cifar10", cifar10()), offline=True)
    for split, names in (("train", sorted(CIFAR)[:5]), ("test", ["test_batch"])):
        examples = source.load(catalog.find("cifar10"), split, str(tmp_path))
        rows = np.concatenate([CIFAR[name] for name in names])
        ours = sorted((row[1:].reshape(3, 32, 32).transpose(1, 2, 0).tobytes(), int(row[0])) for row in rows)
        assert ours == sorted(
            (image.tobytes(), int(label)) for image, label in zip(examples.images, examples.labels, strict=True)
        )


@pytest.mark.parametrize(
    ("name", "files", "splits"),
    [
        ("fashion_mnist", lambda: MNIST, {"train": 20, "test": 7}),
        ("kmnist", lambda: MNIST, {"train": 20, "test": 7}),
        ("cifar100", cifar100, {"train": 6, "test": 6}),
        ("svhn_cropped", svhn, {"train": 9, "test": 9, "extra": 9}),
        ("imagenette", imagenette, {"train": 10, "validation": 10}),
        ("imagenet2012", imagenet, {"train": 3, "validation": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_official_builders_need_no_tensorflow(official, no_network, tmp_path, name, files, splits):
    manual = official(name, files())
    ours = (
        name in catalog.CATALOG and not catalog.CATALOG[name].place
    )  # imagenette's row has a configuration of its own
    done = prepare(name if ours else f"tfds:{name}", str(tmp_path), manual, offline=True)
    assert done.splits == splits
    data = tfds.builder(name, data_dir=tmp_path, try_gcs=False).as_data_source(split="train")
    assert all(data[index]["image"].shape[-1] in (1, 3) for index in range(len(data)))
    assert "tensorflow" not in sys.modules


def test_mnist_and_fashion_mnist_do_not_share_extracted_files(official, tmp_path):
    prepare("mnist", str(tmp_path), official("mnist", MNIST), offline=True)
    other = {
        name: idx(255 - IMAGES[TRAIN]) if name == "train-images-idx3-ubyte.gz" else data for name, data in MNIST.items()
    }
    prepare("tfds:fashion_mnist", str(tmp_path), official("fashion_mnist", other), offline=True)
    data = tfds.builder("fashion_mnist", data_dir=tmp_path, try_gcs=False).as_data_source(split="train")
    theirs = sorted(data[index]["image"].tobytes() for index in range(len(data)))
    assert theirs == sorted((255 - image).tobytes() for image in IMAGES[TRAIN])


@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 7, 1), np.uint8), ((5, 7, 3), np.uint8), ((5, 7, 4), np.uint8), ((5, 7, 1), np.uint16)]
)
def test_png_is_lossless_as_opencv_reads_it(shape, dtype):
    pixels = RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    with standin.lent():
        data = tfds.features.Image(shape=shape, dtype=dtype).encode_example(pixels)
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[shape[-1]]
    read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).reshape(shape)[..., order]
    np.testing.assert_array_equal(read, pixels)


def test_colours_of_16_bits_are_left_to_tensorflow():
    feature = tfds.features.Image(shape=(5, 7, 3), dtype=np.uint16)
    with standin.lent(), pytest.raises(ImportError) as error:
        feature.encode_example(np.zeros((5, 7, 3), np.uint16))
    assert error.value.name == "tensorflow"


def test_images_of_four_inks_become_colours_as_opencv_reads_them():
    rows, columns = np.mgrid[0:64, 0:96]
    inks = np.stack([rows * 3, columns * 2, 255 - rows * 2, (rows + columns) // 2], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(file, "jpeg", quality=98)
    with standin.lent():
        made = tfds.core.utils.jpeg_cmyk_to_rgb(file.getvalue())
    pixels = np.asarray(Image.open(io.BytesIO(made)))
    theirs = cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(pixels.astype(int) - theirs).mean() < 3


def test_what_is_lent_is_given_back():
    before = dict(lazy_tensorflow._submodules)
    with standin.lent():
        assert lazy_tensorflow.io.gfile.exists("/")
        with pytest.raises(ImportError):
            _ = lazy_tensorflow.data
    assert lazy_tensorflow._submodules == before


def test_prepared_before(official, tmp_path, capsys, shared_tfds):
    first = prepare("mnist", str(tmp_path), official("mnist", MNIST), offline=True)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(SystemExit) as exit:
        main(["prepare", "mnist", f"--data_dir={tmp_path}"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    assert all(words in out for words in ("already prepared", str(first.directory), "train 20, test 7"))
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not prepare("mnist", shared_tfds).new  # which is read-only


def test_digits_are_ours():
    assert prepare("digits").splits == {"train": 1500, "test": 297}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["mnis"], 2, "did you mean 'mnist'"),
        (["tfds:kmnis"], 2, "did you mean 'tfds:kmnist'"),
        (["emnist"], 2, "did you mean .*'tfds:emnist'"),
        (["huggingface:mnist"], 2, "must be one of"),
        (["tfds:imagenette/320"], 2, "did you mean .*'320px"),
        (["mnist/x"], 2, "must be one of"),
        (["tfds:mnist/x"], 2, "it has none"),
        (["fake"], 2, "made in memory"),
        ([], 2, "one dataset"),
        (["mnist", "cifar10"], 2, "one dataset"),
        (["mnist", "--data_dir=FILE"], 2, "is a file"),
        (["mnist", "--manual_dir=FILE"], 2, "is a file"),
        (["mnist", "--offline", "--data_dir=NEW"], 3, "4 of 4 files are missing: https://.* as .*NEW.*/train-images-idx3"),
        (["imagenet2012", "--data_dir=NEW"], 3, "put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, whole, into .*manual"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(no_network, tmp_path, monkeypatch, capsys, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    with pytest.raises(SystemExit) as exit:
        main(["prepare", *arguments])
    error = capsys.readouterr().err
    assert exit.value.code == code
    assert "Traceback" not in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("jaxcnn: ")
    assert re.search(words, last)
    assert not list(tmp_path.glob("NEW/mnist/*"))
    assert code == 3 or not (tmp_path / "NEW").exists()


def test_a_damaged_file_is_refused(official, tmp_path):
    manual = official("mnist", MNIST)
    (pathlib.Path(manual) / "train-images-idx3-ubyte.gz").write_bytes(idx(255 - IMAGES[TRAIN]))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz.* wrong checksum"):
        prepare("mnist", str(tmp_path), manual, offline=True)


def test_imagenet_tells_what_to_download(official, tmp_path, capsys):
    manual = pathlib.Path(official("imagenet2012", imagenet()))
    size = (manual / "ILSVRC2012_img_val.tar").stat().st_size
    (manual / "ILSVRC2012_img_train.tar").unlink()
    with pytest.raises(DataError, match=f"put ILSVRC2012_img_train.tar, whole, into {manual}"):
        prepare("imagenet2012", str(tmp_path), str(manual))
    told = capsys.readouterr().err
    for words in (
        "register on https://image-net.org",
        f"img_val.tar: found, {size:,} bytes",
        "img_train.tar: not found",
        str(manual),
    ):
        assert words in told


def test_half_an_archive_of_imagenet_is_refused(official, tmp_path):
    manual = pathlib.Path(official("imagenet2012", imagenet()))
    (manual / "ILSVRC2012_img_val.tar").write_bytes((manual / "ILSVRC2012_img_val.tar").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"put ILSVRC2012_img_val\.tar, whole,"):
        prepare("imagenet2012", str(tmp_path), str(manual))


def test_a_full_disk_is_noticed_before_anything_is_downloaded(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 1000))
    with pytest.raises(DataError, match=f"{tmp_path}.* has 0.00 GB free, and about .* GB are needed"):
        prepare("mnist", str(tmp_path))
    assert server.asked == []


class Server(http.server.ThreadingHTTPServer):
    """MNIST's files on the loopback; stalls in the middle of a file while ``slow``."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.slow = [], False
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/")[-1]
        self.server.asked.append(name)
        data = MNIST[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        while self.server.slow and "images" in name:
            time.sleep(0.05)
        self.wfile.write(data[len(data) // 2 :])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(official, monkeypatch, tmp_path_factory):
    found = Server()
    url = f"http://127.0.0.1:{found.server_port}/"
    infos = tfds.builder_cls("mnist").url_infos
    folder = tmp_path_factory.mktemp("served")
    for name, data in MNIST.items():
        (folder / name).write_bytes(data)
        monkeypatch.setitem(infos, url + name, checksums.compute_url_info(folder / name))
    monkeypatch.setattr(mnist_module.MNIST, "URL", url)
    found.url = url
    yield found
    found.slow = False
    found.shutdown()
    found.server_close()


def test_downloads_are_kept(server, no_proxy, tmp_path, capsys):
    prepare("mnist", str(tmp_path))
    assert sorted(server.asked) == sorted(MNIST)
    assert "downloading 4 of 4 files" in capsys.readouterr().err
    assert same_images(tmp_path)
    shutil.rmtree(tmp_path / "mnist")
    server.asked.clear()
    assert prepare("mnist", str(tmp_path), offline=True).new
    assert server.asked == []
    assert same_images(tmp_path)


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_file_of_unknown_size_is_downloaded_and_told(server, no_proxy, tmp_path, monkeypatch, capsys):
    url = f"{server.url}train-images-idx3-ubyte.gz"
    monkeypatch.delitem(tfds.builder_cls("mnist").url_infos, url)
    prepare("mnist", str(tmp_path))
    assert f"the size of {url} is unknown" in capsys.readouterr().err
    assert same_images(tmp_path)
    shutil.rmtree(tmp_path / "mnist")
    assert prepare("mnist", str(tmp_path), offline=True).new


# The patches of the fixtures again, in a process of its own that can be killed. STALL makes it wait while it writes.
# Ctrl-C reaches a thread of no importance, which does not wake the main thread; so it may happen anywhere.
DRIVER = """
import json, signal, sys, threading, time
threading.Thread(target=time.sleep, args=[1000], daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import mnist
url, folder, stall, *arguments = sys.argv[1:]
mnist._TRAIN_EXAMPLES, mnist._TEST_EXAMPLES, mnist.MNIST.URL = 20, 7, url
infos = mnist.MNIST.url_infos
for old in list(infos):
    infos[url + old.rsplit("/")[-1]] = checksums.compute_url_info(folder + "/" + old.rsplit("/")[-1])
extract = mnist._extract_mnist_labels
mnist._extract_mnist_labels = lambda *a: (time.sleep(float(stall)), extract(*a))[1]
from jaxcnn.cli.main import main
main(["prepare", "mnist", *arguments])
"""


def start(server, data_dir, folder, stall=0.0):
    for name, data in MNIST.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-c", DRIVER, server.url, str(folder), str(stall), f"--data_dir={data_dir}"]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.processes
def test_killed_while_it_downloads_and_while_it_writes(server, no_proxy, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    server.slow = True
    process = start(server, tmp_path, folder)
    wait_for(lambda: len(server.asked) == 4 and len(list((tmp_path / "downloads/mnist").glob("*.tmp.*"))) == 2)
    process.kill()
    process.communicate()
    server.slow = False
    process = start(server, tmp_path, folder, stall=60)
    wait_for(lambda: len(list((tmp_path / "downloads/extracted/mnist").glob("GZIP.*"))) == 4)  # and it sleeps
    assert list((tmp_path / "mnist").glob("incomplete.*"))
    assert sorted(server.asked[4:]) == [name for name in sorted(MNIST) if "images" in name]  # the others were kept
    process.kill()
    process.communicate()
    with pytest.raises(DataError, match="not prepared"):
        source.load(catalog.find("mnist"), "train", str(tmp_path))
    assert prepare("mnist", str(tmp_path)).new
    assert same_images(tmp_path)
    assert [path.name for path in (tmp_path / "mnist").iterdir()] == ["3.0.1"]
    assert not list((tmp_path / "downloads").rglob("*.tmp.*"))


@pytest.mark.processes
def test_ctrl_c_ends_at_once_and_two_at_a_time_do_not_collide(server, no_proxy, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    server.slow = True
    process = start(server, tmp_path, folder)
    wait_for(lambda: len(server.asked) == 4)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.endswith("stopped; start it again to go on\n")
    assert "Traceback" not in error
    server.slow = False
    processes = [start(server, tmp_path, folder, stall=3) for _ in range(2)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted("already" in out for out, _ in outputs) == [False, True]
    assert any("waiting" in error for _, error in outputs)
    assert same_images(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed")
def test_a_builder_that_computes_with_tensorflow_names_it(tmp_path):
    class Computes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"label": tfds.features.ClassLabel(num_classes=2)})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield 0, {"label": int(lazy_tensorflow.constant(1))}

    with pytest.raises(DataError, match="needs the package tensorflow, for this step alone: pip install tensorflow"):
        prepare("tfds:computes", str(tmp_path))
    assert not list((tmp_path / "computes").iterdir())


def test_a_directory_of_another_format_or_of_none(official, tmp_path):
    manual = official("mnist", MNIST)
    directory = prepare("mnist", str(tmp_path), manual, offline=True).directory
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match="tfrecord files"):
        prepare("mnist", str(tmp_path), manual)
    info.unlink()
    with pytest.raises(DataError, match="no prepared dataset"):
        prepare("mnist", str(tmp_path), manual)
    with pytest.raises(UsageError, match="is a file"):
        prepare("mnist", str(directory / "features.json"))


@pytest.mark.parametrize("damage", ["missing", "cut", "swapped"])
def test_a_prepared_dataset_with_a_damaged_file_is_told(official, tmp_path, damage):
    manual = official("mnist", MNIST)
    directory = prepare("mnist", str(tmp_path), manual, offline=True).directory
    train, test = (next(directory.glob(f"mnist-{split}*")) for split in ("train", "test"))
    if damage == "missing":
        train.unlink()
    else:
        train.write_bytes(test.read_bytes() if damage == "swapped" else train.read_bytes()[:-100])
    for again in (
        lambda: prepare("mnist", str(tmp_path), manual, offline=True),
        lambda: source.load(catalog.find("mnist"), "train", str(tmp_path)),
    ):
        with pytest.raises(DataError, match=rf"{train}.*; remove {directory} and prepare the dataset again"):
            again()
    shutil.rmtree(directory)
    assert prepare("mnist", str(tmp_path), manual, offline=True).new
    assert same_images(tmp_path)
