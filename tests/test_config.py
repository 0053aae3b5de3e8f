"""Config: checks, paths, JSON."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    difference,
    from_json,
    leaves,
    replace,
    to_json,
)
from jaxcnn.errors import UsageError
from jaxcnn.fields import parse

BASE = Config(epochs=2)


def test_json_round_trip():
    config = replace(
        BASE,
        {
            "seed": 7,
            "model.hidden": (3, 4),
            "schedule.milestones": (0.1, 0.2),
            "data.image_size": 32,
            "optimizer.clip_norm": 1.0,
        },
    )
    assert from_json(to_json(config)) == config


@given(st.integers(0, 2**32 - 1), st.floats(0, 1e3), st.integers(1, 10**6), st.booleans(), st.text(max_size=20))
def test_json_round_trip_of_any_values(seed, rate, batch, flip, directory):
    values = {
        "seed": seed,
        "optimizer.learning_rate": rate,
        "data.batch_size": batch,
        "augment.flip": flip,
        "data.data_dir": directory,
    }
    config = replace(BASE, values)
    assert from_json(to_json(config)) == config


@given(
    st.text(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    ).map(json.dumps)
)
def test_any_other_text_is_one_usage_error(text):
    try:
        from_json(text)
    except UsageError as error:
        assert str(error).startswith("config")  # noqa: PT017


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("data.batch_size", 0, "data.batch_size=0 .* >= 1"),
        ("data.batch_size", 2.5, "must be int"),
        ("data.batch_size", True, "must be int"),
        ("optimizer.learning_rate", math.nan, "finite"),
        ("optimizer.learning_rate", -1.0, ">= 0"),
        ("optimizer.learning_rate", "fast", "must be float"),
        ("optimizer.name", "sdg", "did you mean 'sgd'"),
        ("schedule.milestones", (0.5, 2.0), "<= 1"),
        ("seed", -1, ">= 0"),
        ("seed", 2**32, "< 4294967296"),
        ("checkpoint.keep", 0, ">= 1"),
        ("checkpoint.every", 0, ">= 1"),
        ("log.every", 0, ">= 1"),
        ("model.dtype", "fp7", "float32, bfloat16"),
        ("epochs", 0.0, "> 0"),
        ("optimizer.lerning_rate", 0.1, "did you mean 'optimizer.learning_rate'"),
        ("optimiser.learning_rate", 0.1, "did you mean 'optimizer.learning_rate'"),
        ("optimizer", 3, "no such setting"),
        ("sed", 3, "did you mean 'seed'"),
    ],
)
def test_wrong_values_are_refused(path, value, words):
    with pytest.raises(UsageError, match=words):
        replace(BASE, {path: value})


def test_of_steps_and_epochs_there_is_one():
    assert (BASE.steps, BASE.epochs is None) == (None, False)
    changed = replace(BASE, {"steps": 5})
    assert (changed.steps, changed.epochs) == (5, None)
    for values in ({"steps": 5, "epochs": 1.0}, {"steps": None}):
        with pytest.raises(UsageError, match="exactly one"):
            replace(BASE, values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[1]", "JSON object"),
        ("import os", "not JSON"),
        ('{"epochs": 1, "epochs": 2}', "duplicate key 'epochs'"),
        ('{"epochs": 1, "sead": 2}', "did you mean 'seed'"),
        ('{"epochs": 1, "data": {"batchsize": 2}}', "did you mean 'batch_size'"),
        ('{"epochs": 1, "data": 3}', "must be a JSON object"),
        ('{"epochs": NaN}', "finite"),
        ("[" * 100000, "not JSON"),
    ],
)
def test_wrong_json_is_refused(text, words):
    with pytest.raises(UsageError, match=words):
        from_json(text)


def test_int_stands_for_float_in_json():
    assert from_json('{"epochs": 3}').epochs == 3.0


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("3", int, 3),
        ("none", int | None, None),
        ("3", int | None, 3),
        ("1e-3", float, 1e-3),
        ("true", bool, True),
        ("0.5,0.75", tuple[float, ...], (0.5, 0.75)),
        ("a=b", str, "a=b"),
    ],
)
def test_parse(text, kind, value):
    assert parse(text, kind) == value


@pytest.mark.parametrize(("text", "kind"), [("x", int), ("1.5", int), ("maybe", bool), ("1,x", tuple[int, ...])])
def test_parse_refuses(text, kind):
    with pytest.raises(ValueError, match="must be"):
        parse(text, kind)


def test_every_field_says_what_it_means():
    for path, (_, _, rule) in leaves(BASE).items():
        assert len(rule.help) > 8, path
        assert rule.on_resume in ("refuse", "switch", "notice", "silent"), path


def test_difference_names_paths_and_rules():
    other = replace(BASE, {"seed": 1, "optimizer.learning_rate": 0.2, "model.activation": "relu"})
    found = difference(BASE, other)
    assert {path: rule.on_resume for path, (_, _, rule) in found.items()} == {
        "seed": "refuse",
        "optimizer.learning_rate": "notice",
        "model.activation": "refuse",
    }
    assert found["seed"][:2] == (0, 1)


def test_configs_are_frozen():
    for part in (BASE, AugmentConfig(), DataConfig(), ModelConfig(), OptimizerConfig(), ScheduleConfig()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.seed = 3
