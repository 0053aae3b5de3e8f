"""Several seeds and sweeps: each run is what it would be alone, and the summary is its statistics."""

import json

import jax
import numpy as np
import pytest

from jaxcnn import loop, many
from jaxcnn.cli.train import _read_sweep
from jaxcnn.config import TRACED, Config, leaves, replace, traced
from jaxcnn.errors import NonFiniteError, Preempted, UsageError
from jaxcnn.rundir import RunDir
from jaxcnn.writers import read_rows


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Summaries and rows of single runs with the seeds 0 to 2, made when first asked for."""
    made = {}

    def get(config):
        key = json.dumps({path: str(value) for path, (value, _, _) in leaves(config).items()})
        if key not in made:
            folder = tmp_path_factory.mktemp("alone")
            made[key] = loop.run(config, folder, num_devices=1), read_rows(folder / "metrics.jsonl")
        return made[key]

    return get


@pytest.mark.trains(keep=1)
@pytest.mark.parametrize("way", ["turns", "devices", "vmap"])
def test_each_seed_is_its_single_run(tiny, tmp_path, alone, way):
    runs = many.variations(tiny, seeds=3)
    assert list(runs) == ["seed=0", "seed=1", "seed=2"]
    summary = many.run(runs, tmp_path, way=way, num_devices=2 if way == "devices" else 1)
    for name, config in runs.items():
        single, rows = alone(config)
        ours = read_rows(tmp_path / name / "metrics.jsonl")
        assert [row["step"] for row in ours] == [row["step"] for row in rows]
        np.testing.assert_allclose([row["loss"] for row in ours], [row["loss"] for row in rows], rtol=1e-4)
        assert summary["runs"][name]["eval_loss"] == pytest.approx(single["eval_loss"], rel=1e-4)
    losses = [summary["runs"][name]["eval_loss"] for name in runs]
    assert len(set(losses)) == 3
    found = summary["groups"]["all"]["eval_loss"]
    assert found["mean"] == pytest.approx(np.mean(losses))
    assert found["std"] == pytest.approx(np.std(losses, ddof=1))
    assert found["ci95"] == pytest.approx(
        4.302653 * np.std(losses, ddof=1) / np.sqrt(3), rel=1e-5
    )  # Student, 2 degrees
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(summary))


@pytest.mark.trains
@pytest.mark.parametrize("way", ["turns", "vmap"])
def test_a_sweep_of_traced_numbers_is_a_grid_of_single_runs(tiny, tmp_path, alone, way):
    sweep = {"optimizer.learning_rate": (0.01, 0.05), "optimizer.weight_decay": (0.0, 0.01)}
    runs = many.variations(tiny, 1, sweep)
    assert list(runs)[1] == "learning_rate=0.01,weight_decay=0.01"
    summary = many.run(runs, tmp_path, way=way, num_devices=1)
    assert list(summary["groups"]) == list(runs)
    for name, config in runs.items():
        assert summary["runs"][name]["eval_loss"] == pytest.approx(alone(config)[0]["eval_loss"], rel=1e-4)


@pytest.mark.trains
def test_other_numbers_are_programs_of_their_own(tiny, tmp_path):
    runs = many.variations(tiny, 2, {"augment.rotate": (0.0, 20.0)})
    summary = many.run(runs, tmp_path, num_devices=1)
    assert list(summary["groups"]) == ["rotate=0.0", "rotate=20.0"]
    assert all(group["seeds"] == [0, 1] for group in summary["groups"].values())


@pytest.mark.trains(keep=1)
@pytest.mark.parametrize("way", ["turns", "devices", "vmap"])
def test_a_stop_stops_all_and_the_same_call_goes_on(tiny, tmp_path, way):
    runs = many.variations(tiny, seeds=2)
    count = 2 if way == "devices" else 1
    calls = []

    def stop():
        calls.append(1)
        return len(calls) > 12

    with pytest.raises(Preempted, match="stopped at step"):
        many.run(runs, tmp_path / "a", way=way, num_devices=count, stop=stop)
    assert not (tmp_path / "a" / "summary.json").exists()
    went_on = many.run(runs, tmp_path / "a", way=way, num_devices=count)
    straight = many.run(runs, tmp_path / "b", way=way, num_devices=count)
    for name in runs:
        assert went_on["runs"][name]["state_digest"] == straight["runs"][name]["state_digest"]


@pytest.mark.trains(keep=1)
@pytest.mark.parametrize("way", ["vmap", "turns"])
def test_a_run_that_diverges_is_told_and_the_others_end(tiny, tmp_path, way):
    runs = many.variations(tiny, 1, {"optimizer.learning_rate": (0.05, 1e38)})
    summary = many.run(runs, tmp_path, way=way, num_devices=1)
    assert list(summary["runs"]) == ["learning_rate=0.05"]
    assert "NaN or infinity" in summary["failed"]["learning_rate=1e+38"]
    with pytest.raises(NonFiniteError, match="learning_rate=1e"):
        many.run(many.variations(tiny, 1, {"optimizer.learning_rate": (1e38, 2e38)}), tmp_path / "all", way=way)


def test_traced_values_reach_every_field():
    config = Config(steps=1)
    values = {path: object() for path in TRACED}
    found = leaves(traced(config, values))
    assert all(found[path][0] is values[path] for path in TRACED)
    assert leaves(config) == leaves(Config(steps=1)), "the config itself stays as it is"


def test_sweeps_are_read(tiny):
    assert _read_sweep("learning_rate:0.1,1e-2;augment.flip:true,false", tiny) == {
        "optimizer.learning_rate": (0.1, 0.01),
        "augment.flip": (True, False),
    }
    assert _read_sweep("model.dropout_rate:0,0.2", tiny) == {"model.dropout_rate": (0.0, 0.2)}
    assert _read_sweep(None, tiny) == {}
    for text, words in [
        ("learning_rate", "must be NAME:VALUE"),
        ("learning_rate:", "must be NAME:VALUE"),
        ("learning_rat:1", "no field.*learning_rate"),
        ("learning_rate:a", "'a' must be float"),
    ]:
        with pytest.raises(UsageError, match=words):
            _read_sweep(text, tiny)
    with pytest.raises(UsageError, match="seeds=0 must be >= 1"):
        many.variations(tiny, 0)
    with pytest.raises(UsageError, match="give one of the two"):
        many.variations(tiny, 2, {"seed": (1, 2)})
    with pytest.raises(UsageError, match="learning_rate=-1"):
        many.variations(tiny, 1, {"optimizer.learning_rate": (-1.0,)})
    with pytest.raises(UsageError, match="together='all' must be one of auto"):
        many.run({"a": tiny}, "nowhere", way="all")
    with pytest.raises(UsageError, match="elastic_exact=True is for single runs"):
        many.run(many.variations(replace(tiny, {"elastic_exact": True}), 2), "nowhere", num_devices=1)


def test_the_command_line_says_mean_and_interval(jaxcnn_, tmp_path):
    command = ("train", "lenet_digits", "--dataset=fake", "--image_size=none", "--model=mlp", "--model.hidden=16")
    code, out, err = jaxcnn_(*command, "--steps=4", "--seeds=2", "--num_devices=1", "--workdir=x", "--log.plots=false")
    assert code == 0, err
    assert "±" in out
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"seed=0", "seed=1", "summary.json", ".lock"}


def test_the_directory_of_another_run_is_refused(tiny, tmp_path):
    loop.run(tiny, tmp_path, num_devices=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="holds a run, and runs of their own shall lie in it"):
        many.run(many.variations(tiny, 2), tmp_path, num_devices=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_same_command_at_once_leaves_the_first_alone(tiny, tmp_path):
    with RunDir(tmp_path).locked_as_folder(), pytest.raises(UsageError, match="in use by another run"):
        many.run(many.variations(tiny, 2), tmp_path, num_devices=1)
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


@pytest.mark.trains
def test_each_device_has_its_own_runs(tiny, tmp_path):
    summary = many.run(many.variations(tiny, 3), tmp_path, num_devices=2)
    assert summary["way"] == "devices"
    assert all(len(run["devices"]) == 1 for run in summary["runs"].values())
    assert jax.device_count() == 8
