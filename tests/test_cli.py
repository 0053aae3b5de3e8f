"""The command line: verbs, flags, files, and what bad input gets."""

import csv
import errno
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from jaxcnn import checkpoint, loop
from jaxcnn.cli import main as cli
from jaxcnn.cli import train
from jaxcnn.cli.train import default_workdir
from jaxcnn.config import Config, replace
from jaxcnn.data import catalog, npz, source
from jaxcnn.data.resident import Resident
from jaxcnn.experiment import list_experiments
from jaxcnn.models import registry

OWN = '''"""A network and an experiment in one file."""

from typing import Any

import jax.numpy as jnp
from flax import linen

import jaxcnn


@jaxcnn.register_model("tiny_net", input_shape=(32, 32, 1))
class TinyNet(linen.Module):
    num_classes: int
    width: int = 4
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x, train=False):
        x = jaxcnn.nn.relu(jaxcnn.nn.Conv(self.width, 3, stride=2, dtype=self.dtype, name="conv")(x))
        return jaxcnn.nn.Dense(self.num_classes, name="head")(jaxcnn.nn.global_avg_pool2d(x))


config = jaxcnn.Config(steps=3, model=jaxcnn.ModelConfig("tiny_net"), data=jaxcnn.DataConfig("fake", batch_size=8))
'''


FAST = ("--dataset=fake", "--image_size=none", "--batch_size=8", "--num_devices=1", "--log.plots=false")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train for six steps. Return the folder of the run."""
    folder = tmp_path_factory.mktemp("trained")
    _, config, _ = train.read_experiment(["lenet_digits", *FAST, "--steps=6", "--eval_every=3"], train._flags)
    loop.run(config, folder / "run", num_devices=1)
    return folder


@pytest.fixture
def run_dir(trained, tmp_path):
    """Copy that run, so that the test can change it."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def test_help_lists_the_verbs(jaxcnn_):
    code, out, _ = jaxcnn_("help")
    assert code == 0
    for verb in ("train", "eval", "predict", "models", "summary"):
        assert verb in out
    assert jaxcnn_() == jaxcnn_("--help") == (0, out, "")


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb != "help"])
def test_each_verb_has_help(jaxcnn_, verb):
    code, out, err = jaxcnn_(verb, "--help")
    assert (code, err) == (0, "")
    assert f"usage: {verb}" in out
    assert all(word in out for word in ("flag", "type", "default", "meaning"))


def test_a_networks_own_fields_are_flags_of_summary_too(jaxcnn_):
    totals = [
        jaxcnn_("summary", "resnet18", *more)[1].split("total")[1].split()[0] for more in ((), ("--model.stem=small",))
    ]
    assert totals == ["11,689,512", "11,681,832"]  # 3 x 3 kernels of the stem in the place of 7 x 7
    assert jaxcnn_("summary", "resnet18", "--model.stm=small")[0] == 2


def test_the_help_of_bench_is_that_of_its_main_use(jaxcnn_):
    code, out, _ = jaxcnn_("bench", "--help")
    assert code == 0
    assert all(word in out for word in ("--vs", "--batch_size", "bench scaling EXPERIMENT"))


def test_train_help_lists_every_field_with_the_experiments_default(jaxcnn_):
    _, out, _ = jaxcnn_("train", "lenet_digits", "--help")
    for flag, default in (
        ("--optimizer.learning_rate", "0.05"),
        ("--augment.rotate", "15"),
        ("--model.activation", "tanh"),
    ):
        assert re.search(rf"{re.escape(flag)}\s(.*\s)?{re.escape(default)}\s", out), flag
    for short in (
        "--seed",
        "--steps",
        "--epochs",
        "--workdir",
        "--resume",
        "--batch_size",
        "--model",
        "--dataset",
        "--data_dir",
    ):
        assert f"{short} " in out, short


def test_a_run_leaves_what_it_promises(run_dir, jaxcnn_):
    names = {path.name for path in run_dir.iterdir()} - {".lock"}
    assert names == {"config.json", "dataset.json", "metrics.jsonl", "checkpoints", "summary.json"}
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert ["eval_accuracy" in row for row in rows] == [False, False, True, False, False, True]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == 6
    assert len(summary["state_digest"]) == 64
    assert summary["eval_accuracy"] == rows[-1]["eval_accuracy"]
    assert summary["seconds"] > 0
    assert {"jax", "python", "NPROC"} <= set(summary["versions"])
    code, _, _ = jaxcnn_("train", "lenet_digits", *FAST, "--steps=6", "--eval_every=3", "--workdir=run")
    assert code == 0
    again = json.loads((run_dir / "summary.json").read_text())
    assert again["state_digest"] == summary["state_digest"]


def test_config_json_repeats_a_run(run_dir, jaxcnn_, tmp_path):
    code, _, err = jaxcnn_("train", "--config=run/config.json", "--workdir=again", "--num_devices=1")
    assert code == 0, err
    digests = [json.loads((tmp_path / name / "summary.json").read_text())["state_digest"] for name in ("run", "again")]
    assert digests[0] == digests[1]
    assert (tmp_path / "again" / "config.json").read_text() == (run_dir / "config.json").read_text()


def test_eval_is_exact_and_independent_of_the_batch(run_dir, jaxcnn_):
    results = []
    for size in (7, 100):
        code, out, _ = jaxcnn_("eval", run_dir, "--json", f"--batch_size={size}")
        assert code == 0
        results.append(json.loads(out))
    assert results[0]["num_examples"] == 100
    assert results[0]["eval_accuracy"] == results[1]["eval_accuracy"]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert results[0]["eval_accuracy"] == summary["eval_accuracy"]
    code, out, _ = jaxcnn_("eval", run_dir, "--split=train[:10]", "--checkpoint=best")
    assert code == 0
    assert "10 images" in out
    assert not list(run_dir.glob("checkpoints/*.damaged"))


def test_predict_gives_the_same_in_all_formats(run_dir, jaxcnn_, tmp_path):
    images = source.load(catalog.find("fake"), "test").images
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    for k in range(3):
        Image.fromarray(images[k, ..., 0]).save(folder / f"{k}.png")
    Image.fromarray(np.repeat(images[3], 3, axis=2)).resize((50, 40)).save(tmp_path / "photo.jpg")
    code, out, _ = jaxcnn_("predict", run_dir, folder.parent, tmp_path / "photo.jpg", "--format=json", "--top=2")
    assert code == 0
    answers = json.loads(out)
    assert [pathlib.Path(answer["image"]).name for answer in answers] == ["0.png", "1.png", "2.png", "photo.jpg"]
    assert all(1 >= a["top"][0]["probability"] >= a["top"][1]["probability"] >= 0 for a in answers)
    _, out, _ = jaxcnn_("predict", run_dir, folder.parent, tmp_path / "photo.jpg", "--format=csv", "--top=2")
    rows = list(csv.DictReader(io.StringIO(out)))
    tops = [top for answer in answers for top in answer["top"]]
    assert [row["class"] for row in rows] == [top["class"] for top in tops]
    np.testing.assert_allclose(
        [float(row["probability"]) for row in rows], [top["probability"] for top in tops], atol=1e-6
    )
    code, out, _ = jaxcnn_("predict", run_dir, folder, "--invert")
    assert code == 0
    assert len(out.split("%")) == 3 * 3 + 1


def test_a_network_and_an_experiment_of_ones_own_in_one_file(jaxcnn_, tmp_path, monkeypatch):
    known = dict(registry._REGISTRY)
    (tmp_path / "mine.py").write_text(OWN)
    code, _, err = jaxcnn_("train", "mine.py", "--model.width=6", "--num_devices=1", "--log.plots=false")
    assert code == 0, err
    run_dir = tmp_path / "runs" / "mine-width=6"
    assert json.loads((run_dir / "config.json").read_text())["model"]["overrides"] == {"width": 6}
    assert jaxcnn_("eval", run_dir)[0] == 0  # registered in this process by training
    monkeypatch.setattr(registry, "_REGISTRY", known)  # as in another process
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    code, _, err = jaxcnn_("eval", run_dir)
    assert (code, f"--experiment={tmp_path / 'mine.py'}" in err) == (2, True), err
    code, _, err = jaxcnn_("eval", run_dir, "--experiment=mine.py")
    assert code == 0, err


def test_flags_may_stand_before_the_experiment_and_apart_from_their_values(jaxcnn_, tmp_path):
    code, _, err = jaxcnn_(
        "train", "--steps", "2", "--model", "mlp", "lenet_digits", *FAST, "--nooptimizer.nesterov", "--workdir", "w"
    )
    assert code == 0, err
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    assert (config["steps"], config["model"]["name"], config["optimizer"]["nesterov"]) == (2, "mlp", False)


def test_models_and_summary(jaxcnn_):
    _, out, _ = jaxcnn_("models", "lenet*")
    assert "lenet5" in out
    assert "mlp" not in out
    _, out, _ = jaxcnn_("summary", "lenet5")
    assert "61,706" in out
    assert "416,520" in out


def test_preview_draws_what_the_network_sees(jaxcnn_, tmp_path):
    code, out, err = jaxcnn_("preview", "lenet_digits", *FAST[:-2], "--augment.mixup=1", "--step=3", "--out=sheet.png")
    assert code == 0, err
    assert "sheet.png" in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 300
        assert len(np.unique(np.asarray(sheet.convert("L")))) > 100
    assert jaxcnn_("preview", "lenet_digits", *FAST[:-2], "--step=-1")[0] == 2
    assert jaxcnn_("preview", "lenet_digits", *FAST[:-2], "--out=sheet.gif")[0] == 2


def test_preview_tells_mixed_labels_in_words():
    from jaxcnn.cli.preview import labels

    batch = {
        "label": np.array([0, 1, 0, 1]),
        "label_b": np.array([1, 0, 0, 0]),
        "weight": np.array([0.7, 0.03, 0.5, 1.0]),
    }
    assert labels(batch, ("cat", "dog")) == ["0.7 cat + 0.3 dog", "0.03 dog + 0.97 cat", "cat", "dog"]
    assert labels(batch, ("0", "1"))[0] == "0.7 “0” + 0.3 “1”"
    assert labels({"label": np.array([1])}, ("cat", "dog")) == ["dog"]


def test_tensorboard_events_without_tensorflow(jaxcnn_, tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    code, _, err = jaxcnn_("train", "lenet_digits", *FAST, "--steps=3", "--log.tensorboard", "--workdir=run")
    assert code == 0, err
    (events,) = (tmp_path / "run" / "tensorboard").glob("events*")
    assert b"learning_rate" in events.read_bytes()
    assert "tensorflow" not in sys.modules


def test_default_workdir_is_a_function_of_the_command():
    base = Config(experiment="lenet_digits", epochs=3)
    assert default_workdir(base, base) == pathlib.Path("runs/lenet_digits")
    changed = replace(base, {"seed": 1, "optimizer.learning_rate": 0.2, "data.data_dir": "/x", "log.every": 9})
    assert default_workdir(base, changed).name == "lenet_digits-learning_rate=0.2-seed=1"
    many = replace(
        base,
        {
            "augment.shift": 1.0,
            "augment.rotate": 2.0,
            "augment.zoom": 0.1,
            "augment.shear": 0.1,
            "loss.label_smoothing": 0.1,
            "schedule.warmup": 0.1,
            "optimizer.momentum": 0.5,
            "optimizer.weight_decay": 0.5,
        },
    )
    assert re.fullmatch(r"lenet_digits-[0-9a-f]{12}", default_workdir(base, many).name)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("mlp_mnist --model.dropout_rate=0", "mlp_mnist-dropout_rate=0.0"),
        ("resnet18_cifar10 --model.stem=imagenet", "resnet18_cifar10-stem=imagenet"),
        ("resnet50_imagenet --image_size=none", "resnet50_imagenet-image_size=none"),
        ("resnet18_cifar10 --model=resnet50 --steps=3", "resnet18_cifar10-model=resnet50-steps=3"),
        ("lenet_digits --model.activation tanh", "lenet_digits"),
        ("--model.width 24 resnet20_cifar10", "resnet20_cifar10-width=24"),
        ("--model.zero_init resnet18_cifar10", "resnet18_cifar10-zero_init=True"),
    ],
)
def test_other_runs_have_other_directories(command, name):
    original, config, _ = train.read_experiment(command.split(), train._flags)
    assert default_workdir(original, config).name == name


def test_experiments_of_one_name_have_no_directory_in_common(jaxcnn_, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(OWN.replace("tiny_net", f"tiny_net_{folder}"))
    for given in ([], ["--seeds=2"]):
        assert jaxcnn_("train", tmp_path / "a" / "mine.py", "--num_devices=1", "--log.plots=false", *given)[0] == 0
        code, _, err = jaxcnn_("train", tmp_path / "b" / "mine.py", "--num_devices=1", "--log.plots=false", *given)
        assert (code, "a/mine.py" in err, "--workdir" in err) == (2, True, True), err


@pytest.mark.trains
def test_eval_on_other_images_of_the_same_classes(jaxcnn_, tmp_path):
    rng = np.random.default_rng(0)
    for folder, classes in (("old", "ab"), ("other", "bc")):
        for k in range(20):
            path = tmp_path / folder / classes[k % 2] / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 100 + 50 * (k % 2), (32, 32), np.uint8)).save(path)
    splits = ("--data.train_split=train", "--data.eval_split=train[:8]")
    flags = ("--steps=3", "--batch_size=4", "--image_size=32", *splits, "--num_devices=1", "--log.plots=false")
    code, _, err = jaxcnn_("train", "lenet_digits", "--dataset=folder:old", *flags, "--workdir=run")
    assert code == 0, err
    trained = json.loads((tmp_path / "run" / "summary.json").read_text())
    (tmp_path / "old").rename(tmp_path / "new")
    code, out, err = jaxcnn_("eval", "run", "--dataset=folder:new", "--json")
    assert code == 0, err
    assert json.loads(out)["eval_loss"] == pytest.approx(trained["eval_loss"], rel=1e-5)
    code, out, _ = jaxcnn_("eval", "run", "--dataset=folder:new")
    assert "top-5" not in out  # of two classes
    for name in "ab":  # of white images the mean is another; what the network takes stays as it was in training
        path = tmp_path / "white" / name / "w.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.full((32, 32), 255, np.uint8)).save(path)
    code, out, err = jaxcnn_("eval", "run", "--dataset=folder:white", "--split=train", "--json")
    assert code == 0, err
    _, listed, _ = jaxcnn_("predict", "run", path, "--format=json")
    chances = [top["probability"] for top in json.loads(listed)[0]["top"]]
    assert json.loads(out)["eval_loss"] == pytest.approx(-np.mean(np.log(chances)), rel=1e-4)
    code, _, err = jaxcnn_("eval", "run", "--dataset=folder:other", "--split=train")
    assert (code, "a, b (2), not b, c (2)" in err) == (3, True), err


def test_predict_answers_for_the_images_that_can_be_read(run_dir, jaxcnn_, tmp_path):
    folder = tmp_path / "scans[0]"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(np.full((32, 32), k, np.uint8)).save(folder / f"{k}.png")
    (folder / "1.png").write_bytes(b"<html>")
    (folder / "[.png").write_bytes((folder / "0.png").read_bytes())
    code, out, err = jaxcnn_("predict", run_dir, folder, "--format=csv", "--top=1")
    assert code == 3
    assert [pathlib.Path(row["image"]).name for row in csv.DictReader(io.StringIO(out))] == ["0.png", "2.png", "[.png"]
    assert len(err.splitlines()) == 1
    assert "1.png" in err
    (folder / "2.png").write_bytes(b"")
    code, out, err = jaxcnn_("predict", run_dir, folder)
    assert (code, "scans[0]/[.png" in out) == (3, True)  # no style of rich's
    assert "2 of 4" in err.splitlines()[-1]


def test_summary_of_a_network_of_ones_own(jaxcnn_, tmp_path):
    (tmp_path / "mine.py").write_text(OWN.replace("tiny_net", "tiny_net_s"))
    code, out, err = jaxcnn_("summary", "tiny_net_s", "--experiment", tmp_path / "mine.py", "--model.width=8")
    assert code == 0, err
    assert "8x" in out or "x8" in out


def test_lack_of_memory_is_one_line(jaxcnn_, run_dir, monkeypatch):
    def hungry(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr("jaxcnn.cli.eval.evaluate", hungry)
    code, _, err = jaxcnn_("eval", run_dir)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "batch_size" in err


def test_a_summary_that_cannot_be_written_is_no_bad_usage(jaxcnn_, run_dir, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxcnn.rundir.write_text", full)
    code, _, err = jaxcnn_("train", "lenet_digits", *FAST, "--steps=6", "--eval_every=3", "--workdir=run")
    assert (code, "summary.json" in err) == (4, True), err


@pytest.mark.trains
def test_a_sweep_of_one_value_is_a_run_with_it(jaxcnn_, tmp_path):
    code, _, err = jaxcnn_("train", "lenet_digits", *FAST, "--sweep=learning_rate:0.3", "--steps=2")
    assert code == 0, err
    (config,) = (tmp_path / "runs").glob("*/config.json")
    assert json.loads(config.read_text())["optimizer"]["learning_rate"] == 0.3
    assert "learning_rate=0.3" in config.parent.name
    code, _, err = jaxcnn_("train", "lenet_digits", *FAST, "--sweep=steps:1,2", "--workdir=steps")
    assert code == 0, err
    assert {path.parent.name for path in (tmp_path / "steps").glob("*/config.json")} == {"steps=1", "steps=2"}


@pytest.mark.trains
def test_an_experiment_imports_its_neighbour_and_names_whole_paths(jaxcnn_, tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "neighbour_of_mine.py").write_text("WIDTH = 24\n")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (200, 32, 32), np.uint8), np.arange(200) % 4
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    text = """from neighbour_of_mine import WIDTH
import jaxcnn

data = jaxcnn.DataConfig("npz:mine.npz", batch_size=WIDTH)
config = jaxcnn.Config(steps=2, model=jaxcnn.ModelConfig("lenet5"), data=data)
"""
    (tmp_path / "own" / "mine.py").write_text(text)
    command = ("--num_devices=1", "--log.plots=false")
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, _, err = jaxcnn_("train", "own/mine.py", *command, "--workdir=run")
    assert code == 0, err
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert jaxcnn_("eval", tmp_path / "run")[0] == 0
    npz._arrays.cache_clear()  # as in another process
    looked_at = [round(k * 199 / 63) for k in range(64)]  # the others are found by their mean
    images[np.setdiff1d(np.arange(200), looked_at)] //= 2
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    code, _, err = jaxcnn_(
        "train",
        tmp_path / "own" / "mine.py",
        *command,
        "--steps=4",
        f"--workdir={tmp_path / 'run'}",
        f"--dataset=npz:{tmp_path / 'mine.npz'}",
    )
    assert (code, "was trained on other data" in err) == (2, True), err


BAD = [
    ("train", 2, "experiment"),
    ("train lenet_digit", 2, "did you mean 'lenet_digits'"),
    ("train nothere.py", 2, "no such file"),
    ("train lenet_digits more", 2, "one experiment"),
    ("trian lenet_digits", 2, "did you mean 'train'"),
    ("train lenet_digits --batch_size=5000", 2, "<= 1500"),
    ("train lenet_digits --steps=5 --epochs=3", 2, "one of the two"),
    ("train lenet_digits --dataset=digitz", 2, "did you mean 'digits'"),
    ("train lenet_digits --model=lenet6", 2, "did you mean 'lenet5'"),
    ("train lenet_digits --model.activation=rleu", 2, "did you mean 'relu'"),
    ("train lenet_digits --model.widht=3", 2, "model.widht"),
    ("train lenet_digits --image_size=20", 2, "layer conv3"),
    ("train lenet_digits --workdir={tmp}/file", 2, "is a file"),
    ("train lenet_digits --workdir={tmp}/full", 2, "not empty"),
    ("train lenet_digits --resume=perhaps --workdir=new", 2, "auto, never, must"),
    ("train lenet_digits --resume=must --workdir=new", 4, "no checkpoint"),
    ("train lenet_digits --num_devices=0", 2, "num_devices=0"),
    ("train lenet_digits --eval_every=0", 2, "every=0"),
    ("train lenet_digits --optimizer.name=sdg", 2, "did you mean 'sgd'"),
    ("train lenet_digits --schedule.milestones=0.5,x", 2, "milestones"),
    ("train --config={tmp}/nope.json --workdir=new", 2, "config.json of a run"),
    ("train lenet_digits --config={tmp}/file", 2, "one of the two"),
    ("train lenet_digits --flagfile={tmp}/file", 2, "flagfile"),
    ("train lenet_digits --lr=0.1", 2, "--learning_rate"),
    ("train lenet_digits --workdir=runs[1]", 2, "must hold no"),
    ("train lenet_digits --init_from=", 2, "must not be empty"),
    ("train lenet_digits --data.ahead=100000000", 2, "ahead=100000000"),
    ("train lenet_digits --augment.flip=perhaps", 2, "flip"),
    ("train lenet_digits --noaugment.flip=true", 2, "noaugment.flip"),
    ("plan lenet_digits --tflops=nan", 2, "tflops=nan must be > 0"),
    ("train cifar --dataset=fake", 2, "experiment 'cifar'"),
    ("train lenet_digits --together=x", 2, "auto, turns, devices, vmap"),
    ("train lenet_digits --sweep=learning_rate:0.1,0.10", 2, "twice"),
    ("bench scaling lenet_digits --devices four", 2, "devices=four"),
    ("summary resnet18 --model.block=foo", 2, "block='foo' must be one of"),
    ("summary googlenet --model.modules=9z", 2, "'9z'"),
    ("train lenet_digits --undefok=foo --foo=1", 2, "undefok"),
    ("train lenet_digits --steps=3000000000", 2, "steps=3000000000"),
    ("train lenet_digits --epochs=1e300", 2, "epochs=1e[+]300"),
    ("train lenet_digits --model.dropout_rate=2", 2, "rate=2"),
    ("train lenet_digits --model=mlp --model.hidden=0", 2, "'mlp' cannot be used"),
    ("train {tmp}/flat.py", 2, "logits of shape"),
    ("train {tmp}/leave.py", 2, "SystemExit"),
    ("train {tmp}/config.py", 2, "must be a ModelConfig"),
    ("train {tmp}/odd.py", 2, "must be a bool, int"),
    ("predict {tmp} " + 300 * "x", 2, "File name too long"),
    ("train {tmp}/bad.py", 2, r"bad.py:2 does not run: NameError"),
    ("train {tmp}/empty.py", 2, "must set `config"),
    ("eval", 2, "one run directory"),
    ("eval {tmp}", 2, "no config.json"),
    ("eval nothere", 2, "no config.json"),
    ("predict {tmp}", 2, "at least one image"),
    ("predict {tmp} nothere.png", 2, "no such file"),
    ("predict {tmp} {tmp}/full", 2, "no image in this folder"),
    ("models nothing*", 2, "nothing"),
    ("summary", 2, "one network"),
    ("summary lenet6", 2, "did you mean 'lenet5'"),
    ("summary lenet5 --image_size=5", 2, "smaller than"),
    ("summary lenet5 --num_classes=0", 2, "num_classes=0"),
]


@pytest.mark.parametrize(("command", "code", "words"), BAD, ids=[command for command, _, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(jaxcnn_, tmp_path, command, code, words):
    (tmp_path / "file").write_text("import os")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").touch()
    (tmp_path / "bad.py").write_text("x = 1\nconfig = Confg()\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "leave.py").write_text("import sys\nsys.exit(0)\n")
    own = "import jaxcnn\nconfig = jaxcnn.Config(epochs=1, model={})\n"
    (tmp_path / "config.py").write_text(own.format("'lenet5'"))
    (tmp_path / "odd.py").write_text(own.format("jaxcnn.ModelConfig('mlp', overrides=dict(hidden=dict()))"))
    flat = (
        OWN.replace("tiny_net", "flat_net").replace("TinyNet", "FlatNet").replace("jaxcnn.nn.global_avg_pool2d(x)", "x")
    )
    (tmp_path / "flat.py").write_text(flat)
    before = sorted(tmp_path.rglob("*"))
    got, out, err = jaxcnn_(*command.format(tmp=tmp_path).split())
    assert (got, out) == (code, "")
    assert len(err.splitlines()) == 1, err
    assert re.search(words, err), err
    assert sorted(tmp_path.rglob("*")) == before


def test_another_run_is_refused_and_not_touched(run_dir, jaxcnn_):
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    for flags, words in (
        (("--seed=3",), "seed 0 -> 3"),
        (("--model=mlp",), "model.name 'lenet5' -> 'mlp'"),
        (("--batch_size=16",), "data.batch_size 8 -> 16"),
        (("--resume=never",), "needs an empty --workdir"),
    ):
        code, _, err = jaxcnn_("train", "lenet_digits", *FAST, "--steps=6", "--eval_every=3", "--workdir=run", *flags)
        assert code == 2
        assert words in err
        assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_config_without_a_workdir_is_refused(run_dir, jaxcnn_):
    code, _, err = jaxcnn_("train", "--config=run/config.json")
    assert code == 2
    assert "--workdir" in err


def test_a_finished_run_keeps_its_config(run_dir, jaxcnn_):
    before = (run_dir / "config.json").read_text()
    common = ("train", "lenet_digits", *FAST, "--eval_every=3", "--workdir=run")
    code, _, err = jaxcnn_(*common, "--steps=4")
    assert code == 2
    assert "at step 6, beyond the 4" in err
    code, _, err = jaxcnn_(*common, "--steps=6", "--learning_rate=0.01")
    assert code == 0
    assert "not applied: optimizer.learning_rate" in err
    assert (run_dir / "config.json").read_text() == before


def test_parts_of_the_optimizer_can_be_switched_on_in_a_resumed_run(run_dir, jaxcnn_):
    common = ("train", "lenet_digits", *FAST, "--eval_every=3", "--workdir=run", "--steps=9")
    code, _, err = jaxcnn_(*common, "--optimizer.clip_norm=1", "--optimizer.weight_decay=0")
    assert code == 0, err


def test_a_lost_metrics_file_does_not_block_a_finished_run(run_dir, jaxcnn_):
    (run_dir / "metrics.jsonl").unlink()
    flags = ("--steps=6", "--eval_every=3", "--workdir=run", "--log.plots=true")
    code, _, err = jaxcnn_("train", "lenet_digits", *FAST, *flags)
    assert code == 0, err
    assert "lacks the rows of 6 updates" in err


def test_a_finished_run_that_lost_its_checkpoints_is_not_begun_anew(run_dir, jaxcnn_):
    for path in run_dir.glob("checkpoints/*/commit_success.txt"):
        path.unlink()
    code, _, err = jaxcnn_("train", "lenet_digits", *FAST, "--steps=6", "--eval_every=3", "--workdir=run")
    assert code == 4
    assert "finished run without a usable checkpoint" in err


def test_predict_turns_photographs_and_fills_transparent_ones(run_dir, jaxcnn_, tmp_path):
    array = np.zeros((40, 60), np.uint8)
    array[:10] = 255
    upright = Image.fromarray(array)
    upright.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen upright it must be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    rgba = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    rgba.paste((255, 255, 255, 255), (0, 0, 60, 10))
    rgba.paste((0, 0, 0, 255), (0, 10, 60, 40))
    rgba.save(tmp_path / "c.png")
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(tmp_path / "d.png")
    Image.new("L", (60, 40), 255).save(tmp_path / "e.png")
    code, out, _ = jaxcnn_("predict", run_dir, *(tmp_path / f"{name}.png" for name in "abcde"), "--format=json")
    assert code == 0
    a, b, c, d, e = (answer["top"] for answer in json.loads(out))
    assert a == b == c
    assert d == e


def test_a_longer_run_goes_on_with_a_notice(run_dir, jaxcnn_):
    code, _, err = jaxcnn_(
        "train", "lenet_digits", *FAST, "--steps=9", "--eval_every=3", "--workdir=run", "--resume=must"
    )
    assert code == 0
    assert "steps: 6 -> 9" in err
    assert "resumed at step 6" in err
    assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 9


def test_damaged_checkpoints_and_images(run_dir, jaxcnn_, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"<html>")
    code, _, err = jaxcnn_("predict", run_dir, tmp_path / "bad.png")
    assert code == 3
    assert "bad.png" in err
    for path in run_dir.glob("checkpoints/*/meta/metadata"):
        path.write_text("{}")
    code, _, err = jaxcnn_("eval", run_dir)
    assert code == 4
    assert "no usable checkpoint" in err.splitlines()[-1]
    code, _, err = jaxcnn_("train", "lenet_digits", *FAST, "--steps=6", "--eval_every=3", "--workdir=run")
    assert code == 4


def test_nan_ends_with_5_at_its_step_and_is_not_saved(jaxcnn_, tmp_path):
    code, _, err = jaxcnn_(
        "train",
        "lenet_digits",
        *FAST,
        "--steps=30",
        "--learning_rate=1e30",
        "--log.every=1",
        "--workdir=run",
        "--checkpoint_every=1",
        "--schedule.warmup=0",
    )
    assert code == 5
    line = err.splitlines()[-1]
    assert "NaN or infinity" in line
    step = int(re.search(r"step (\d+)", line)[1])
    saved = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal())
    assert saved[-1] == step - 1 if saved else step == 1


def test_two_processes_do_not_share_a_run(run_dir, jaxcnn_):
    import fcntl

    with (run_dir / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, _, err = jaxcnn_("train", "lenet_digits", *FAST, "--steps=6", "--eval_every=3", "--workdir=run")
    assert code == 2
    assert "in use by another run" in err


def test_debug_shows_the_traceback(jaxcnn_):
    code, _, err = jaxcnn_("train", "nope", "--debug")
    assert code == 2
    assert "Traceback" in err


@pytest.mark.processes
def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m jaxcnn models | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""


def test_experiments_are_listed():
    assert {"lenet_digits", "lenet_mnist", "mlp_mnist"} <= set(list_experiments())


@pytest.mark.compiles
def test_bench_input_tells_stages_threads_and_the_peer(jaxcnn_, shared_tfds):
    flags = (f"--data_dir={shared_tfds}", "--data.train_split=train[:24]", "--batch_size=8", "--turns=1")
    code, out, err = jaxcnn_("bench", "input", "resnet50_imagenet", *flags, "--num_devices=1", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {"read", "decode", "decode and crop", "transfer", "augment and normalise"} <= found["stages"].keys()
    assert all(rate > 10 for rate in [*found["stages"].values(), *found["pipeline"].values()])
    assert found["pipeline"].keys() >= {"1"}
    assert bool(found["torchvision"]) == ("torchvision" in found["stages"])


def test_bench_input_of_small_images(jaxcnn_):
    code, out, _ = jaxcnn_("bench", "input", "lenet_digits", "--turns=1", "--num_devices=1")
    assert code == 0
    assert "files to device, 1 thread" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "bench takes a network, or one of input"),
        (("inptu",), "inptu"),
        (("input", "lenet_digits", "--turns=0"), "--turns=0"),
    ],
)
def test_bench_with_bad_usage(jaxcnn_, arguments, words):
    code, _, err = jaxcnn_("bench", *arguments)
    assert code == 2
    assert words in err


def test_verify_tells_good_from_damaged_and_changes_nothing(run_dir, jaxcnn_, tmp_path):
    saved = sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    code, out, _ = jaxcnn_("verify", "run", "--json")
    assert code == 0
    assert [(line["step"], line["good"]) for line in json.loads(out)["checkpoints"]] == [(s, True) for s in saved]
    assert (
        json.loads(out)["checkpoints"][-1]["digest"]
        == json.loads((run_dir / "summary.json").read_text())["state_digest"]
    )
    state = tmp_path / "run" / "checkpoints" / str(saved[-1]) / "state"
    victim = max(state.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    code, out, err = jaxcnn_("verify", "run")
    assert code == 4
    assert "damaged" in out
    assert err.count("\n") == 1
    assert f"1 of {len(saved)} checkpoints" in err
    assert f"(step {saved[-1]})" in err
    assert victim.read_bytes() == data
    assert jaxcnn_("verify", tmp_path)[0] == 2
    assert jaxcnn_("verify")[0] == 2


def test_verify_passes_over_what_a_run_removes_meanwhile(run_dir, jaxcnn_, tmp_path, monkeypatch):
    folder = tmp_path / "run" / "checkpoints"
    oldest, *others = sorted(int(path.name) for path in folder.iterdir())
    verify = checkpoint.verify

    def removed_first(*arguments):
        shutil.rmtree(folder / str(oldest), ignore_errors=True)
        return verify(*arguments)

    monkeypatch.setattr(checkpoint, "verify", removed_first)
    code, out, err = jaxcnn_("verify", "run", "--json")
    assert code == 0, err
    assert [line["step"] for line in json.loads(out)["checkpoints"]] == others


def test_verify_resume_proves_it_and_would_tell(jaxcnn_, monkeypatch):
    command = ("verify-resume", "lenet_digits", *FAST[:-1], "--model=mlp", "--model.hidden=16")
    code, out, _ = jaxcnn_(*command, "--steps=6")
    assert code == 0
    assert "stopped at 3" in out
    assert "bit for bit" in out
    assert jaxcnn_(*command, "--steps=1")[0] == 2
    code, out, _ = jaxcnn_(*command, "--steps=7", "--steps_per_execution=20")
    assert code == 0
    assert "stopped at 3" in out

    monkeypatch.setattr("jaxcnn.data.resident.Resident.train_batches", forgetful(Resident.train_batches))
    code, out, err = jaxcnn_(*command, "--steps=6")
    assert code == 4
    assert "the resumed run differs from the straight one; the first arrays are params/fc1/bias" in err


def forgetful(train_batches):
    """Batches that start anew at each start: a data position that a resume loses."""
    return lambda self, seed, batch_size, start: train_batches(self, seed, batch_size, 0)
