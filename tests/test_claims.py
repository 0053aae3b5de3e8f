"""Claims of the lecture: how a verdict is made, and what a claim leaves behind. ``claim all --quick`` runs in .ci/run."""

import json

import numpy as np
import pytest
from scipy import stats

from jaxcnn import claims
from jaxcnn.claims import normalisation
from jaxcnn.claims.verdict import FAILS, HOLDS, OPEN, Question, together
from jaxcnn.cli.main import main
from jaxcnn.errors import UsageError

CHANCE = float(np.log(10))


def interval(values):
    """By scipy's own words."""
    return stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([1.0, 1.2, 0.8, 1.1, 0.9], HOLDS),
        ([-1.0, -1.2, -0.8, -1.1, -0.9], FAILS),
        ([1.0, -1.2, 0.8, -1.1, 0.9], OPEN),
        ([1.0, -1.2, 2.8, 1.1, -0.1], OPEN),  # its mean alone lies above
        ([0.45, 0.5, 0.55, 0.5, 0.5], OPEN),  # about the threshold itself
        ([2.0], OPEN),
    ],
)
def test_it_holds_when_the_whole_interval_lies_above(differences, verdict):
    answer = Question("a minus b", "points", above=0.5).answer(differences)
    assert answer["verdict"] == verdict
    assert answer["mean"] == pytest.approx(np.mean(differences))
    if len(differences) > 1:
        low, high = interval(differences)
        assert answer["mean"] - answer["ci95"] == pytest.approx(low)
        assert answer["mean"] + answer["ci95"] == pytest.approx(high)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, -0.1, 0.05, 0.0, -0.05], HOLDS),
        ([2.0, 2.1, 1.9, 2.0, 2.0], FAILS),
        ([-2.0, -2.1, -1.9, -2.0, -2.0], FAILS),
        ([0.9, 1.1, 0.8, 1.2, 1.0], OPEN),
        ([0.0, 0.0, 0.0, 0.0, 0.0], HOLDS),
    ],
)
def test_two_ways_are_alike_when_the_whole_interval_lies_within(differences, verdict):
    assert Question("a minus b", "points", within=1.0).answer(differences)["verdict"] == verdict


def test_exact_is_within_nothing():
    assert Question("change", "%", within=0.0).answer([0.0] * 5)["verdict"] == HOLDS
    assert Question("change", "%", within=0.0).answer([0.0, 0.0, 1e-9, 0.0, 0.0])["verdict"] != HOLDS


def test_a_claim_with_parts_holds_when_all_do():
    verdicts = {name: {"verdict": name} for name in (HOLDS, OPEN, FAILS)}
    assert together({"a": verdicts[HOLDS], "b": verdicts[HOLDS]}) == HOLDS
    assert together({"a": verdicts[HOLDS], "b": verdicts[OPEN]}) == OPEN
    assert together({"a": verdicts[OPEN], "b": verdicts[FAILS]}) == FAILS


def test_a_claim_leaves_numbers_and_a_picture(tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["claim", "equivariance", "--quick", "--seeds=3", f"--out={tmp_path}"])
    assert "holds" in capsys.readouterr().out
    result = json.loads((tmp_path / "equivariance" / "result.json").read_text())
    assert result["verdict"] == HOLDS
    assert result["seeds"] == 3
    assert result["answers"]["convolution"]["differences"] == [0.0, 0.0, 0.0]
    assert min(result["shown"]["change"]["dense layer"]) > 50  # the measure sees a change where there is one
    assert (tmp_path / "equivariance" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_all_ways_have_the_same_batches_and_differ_by_seed():
    size = claims.Size("quick", 2)
    config = claims.setting.config("mlp", claims.setting.DIGITS, 4, hidden=(8,))
    rates = [{"optimizer.learning_rate": rate} for rate in (0.0, 0.05)]
    still, moving = claims.claim.train(config, size, rates)
    assert still[0].loss[0] == moving[0].loss[0]
    assert still[0].loss[1] != moving[0].loss[1]
    assert moving[0].loss[0] != moving[1].loss[0]
    assert [run.loss.tolist() for run in claims.claim.train(config, size, rates[1:])[0]] == [
        run.loss.tolist() for run in moving
    ]


@pytest.mark.parametrize(
    ("losses", "rate"),
    [
        ([2.0, 1.5, 2.0, CHANCE], 0.1 * (0.3 / 0.1) ** ((0.9 * CHANCE - 2.0) / (CHANCE - 2.0))),  # it ends between two
        ([2.0, CHANCE, 2.0, CHANCE], 0.1 * (0.3 / 0.1) ** ((0.9 * CHANCE - 2.0) / (CHANCE - 2.0))),  # the larger counts
        ([2.0, 1.5, 1.5, 2.0], 0.3),  # the largest tried is usable still
        ([CHANCE, CHANCE, CHANCE, CHANCE], 0.01 / 3),  # none is
    ],
)
def test_the_largest_usable_rate_lies_between_two(losses, rate):
    assert normalisation._largest((0.01, 0.03, 0.1, 0.3), losses) == pytest.approx(rate)


def test_each_claim_says_what_it_asks():
    for name, claim in claims.CLAIMS.items():
        assert claim.name == name
        assert claim.questions
        assert len(claim.says) < 100
        for question in claim.questions.values():
            assert question.unit


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["claim", "rellu"], "did you mean 'relu'"),
        (["claim", "relu", "--quick", "--full"], "one of the two"),
        (["claim", "relu", "--seeds=1"], "--seeds=1 must be >= 2"),
        (["claim", "relu", "dropout"], "one name"),
    ],
)
def test_bad_input_is_one_line(arguments, match, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1


def test_unknown_names_are_told():
    with pytest.raises(UsageError, match="must be one of all, parameters"):
        claims.find("nothing")
