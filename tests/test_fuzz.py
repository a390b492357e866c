"""Bad and unusual arguments for every public function: no cryptic error, and no result that is not finite.

`benchmarks/fuzz.py` makes ten thousand such calls.
"""

import collections
import traceback

import numpy as np
import pytest
import tensorflow as tf

import meta_keras as mk
from benchmarks import fuzz, fuzz_verdict
from benchmarks.fuzz_targets import targets
from benchmarks.fuzz_values import VALUES

CALLS, SEED = 320, 0
TARGETS = {target.name: target for target in targets()}
CASES = collections.defaultdict(list)
for case in fuzz.cases_of(CALLS, SEED):
    CASES[case.target].append(case)

# What a run of ten thousand calls found before it was fixed.
FOUND = [
    ("ClassPool", "names", "tensor ()"),
    ("ClassPool.map", "function", "a class"),
    ("ClassPool.map", "function", "a model with two inputs"),
    ("ClassPool.map", "function", "a rule"),
    ("MetaLearner.adapt", "support_x", "array of bytes"),
    ("MetaLearner.adapt", "support_x", "array of strings"),
    ("MetaLearner.predictor", "support_x", "array of bytes"),
    ("MetaLearner.predictor", "support_x", "array of strings"),
    ("Sinusoids", "amplitude", "array ()"),
    ("Tasks.from_batch", "number", "tensor (6, 1)"),
    ("Tasks.from_batch", "number", "tensor of strings"),
    ("maml_loop", "learning_rate", "array of nan"),
    ("maml_loop", "network", "a model with two inputs"),
    ("restart", "model", "None"),
    ("transfer.LayerwiseLearningRates", "name", "empty folder"),
    ("transfer.StrategyNetwork", "source_x", "an episode"),
    ("transfer.StrategyNetwork", "source_x", "array (2, 2, 2, 2, 2)"),
    ("transfer.StrategyNetwork", "source_x", "array of nan"),
    ("transfer.StrategyNetwork", "source_x", "keras.Input"),
    ("transfer.StrategyNetwork", "source_x", "ragged tensor"),
    ("transfer.StrategyNetwork.coefficients", "support_x", "array of bytes"),
    ("transfer.StrategyNetwork.coefficients", "support_x", "array of strings"),
    ("transfer.StrategyNetwork.coefficients", "support_y", "array of bytes"),
    ("transfer.ZeroShot.classify", "x", "keras.Input"),
    ("transfer.ZeroShot.classify", "x", "ragged tensor"),
    ("transfer.ZeroShot.scores", "x", "keras.Input"),
    ("transfer.ZeroShot.scores", "x", "ragged tensor"),
    ("transfer.extract_features", "data", "ragged tensor"),
    ("transfer.extract_features", "model", "a model with two inputs"),
    ("transfer.feature_extractor", "units", "array ()"),
    ("transfer.feature_loss", "student", "ragged tensor"),
    ("transfer.feature_loss", "teacher", "ragged tensor"),
    ("transfer.pair_domains", "source_x", "array of infinity"),
    ("transfer.pair_domains", "source_x", "array of nan"),
    ("transfer.pair_domains", "source_y", "array of infinity"),
    ("transfer.pair_domains", "source_y", "keras.Input"),
    ("transfer.pair_domains", "target_x", "keras.Input"),
    ("transfer.soft_labels", "network", "a model with two outputs"),
    ("transfer.soft_loss", "student", "ragged tensor"),
    ("transfer.soft_loss", "teacher", "ragged tensor"),
    ("transfer.soft_loss", "temperature", "1e30"),
]


@pytest.mark.eagerly
@pytest.mark.parametrize("name", TARGETS)
def test_valid_arguments_are_accepted(name):
    """Otherwise an error would say nothing about the argument that is replaced."""
    result, arguments = TARGETS[name].call({})
    assert fuzz_verdict.is_finite(result) and fuzz_verdict.is_finite(list(arguments.values()))


@pytest.mark.parametrize("name", TARGETS)
def test_bad_arguments_are_rejected_clearly(name):
    assert CASES[name]
    for case in CASES[name]:
        outcome = fuzz_verdict.outcome_of(TARGETS[name], case.argument, case.value)
        assert outcome["verdict"] not in fuzz.FINDINGS, f"{case}: {outcome}"


@pytest.mark.parametrize(("target", "argument", "value"), FOUND)
def test_what_a_long_run_found_is_no_finding_any_more(target, argument, value):
    outcome = fuzz_verdict.outcome_of(TARGETS[target], argument, value)
    assert outcome["verdict"] not in fuzz.FINDINGS, outcome


def test_the_same_seed_gives_the_same_calls():
    one, again, other = (fuzz.cases_of(200, seed) for seed in (3, 3, 4))
    assert one == again != other
    assert {case.target for case in one} == set(TARGETS)
    assert all(case.value in VALUES for case in one)


def caught(function):
    try:
        function()
    except Exception as error:  # what is judged
        return error
    raise AssertionError("no error")


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        (lambda: mk.networks.mlp(0), fuzz_verdict.CLEAR),
        (lambda: mk.networks.mlp(), fuzz_verdict.CLEAR),
        (lambda: mk.networks.mlp(1, unknown=2), fuzz_verdict.CLEAR),
        (lambda: mk.functional.PureModel(None), fuzz_verdict.CLEAR),
        (lambda: tf.function(lambda: mk.networks.mlp(0))(), fuzz_verdict.CLEAR),
        (lambda: mk.report.figures._row(None, 0, 1), fuzz_verdict.CRYPTIC),  # an AttributeError on a line of ours
        (lambda: mk.report.tables._escaped(b"x"), fuzz_verdict.CRYPTIC),  # a TypeError on a line of ours
        (lambda: np.zeros(3).reshape(2), fuzz_verdict.CRYPTIC),  # a ValueError with a message, but of NumPy
        (lambda: len(3), fuzz_verdict.CRYPTIC),
    ],
)
def test_clear_is_an_error_that_the_library_raises_on_purpose(function, verdict):
    error = caught(function)
    assert fuzz_verdict.verdict_of(error, handed_on=False) == verdict, "".join(traceback.format_exception(error))


def test_errors_about_arguments_of_keras_are_those_of_keras():
    model, x, y = mk.classical.create_model((1,), 2), np.ones((2, 1)), np.eye(2)
    error = caught(lambda: mk.classical.train_model(model, x, y, optimizer="no such"))
    assert fuzz_verdict.verdict_of(error, handed_on=True) == fuzz_verdict.BY_KERAS


@pytest.mark.parametrize(
    ("value", "finite"),
    [
        (1.0, True),
        ({"a": [1.0, np.nan]}, False),
        (np.array([1.0, np.inf]), False),
        (np.array(["a"]), True),
        (tf.data.Dataset.from_tensors(tf.constant([np.nan])), False),
        (mk.Score("accuracy", 0.5, float("inf"), np.zeros(2)), False),
        (mk.networks.mlp(1), True),
    ],
)
def test_results_are_searched_for_numbers_that_are_not_finite(value, finite):
    assert fuzz_verdict.is_finite(value) == finite


def test_weights_that_are_not_finite_are_found():
    model = mk.networks.mlp(1)
    model.layers[0].kernel.assign(np.full((1, 40), np.nan))
    assert not fuzz_verdict.is_finite((model,))


def test_a_stopped_run_continues_with_the_calls_that_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "RECORD", tmp_path / "fuzz.jsonl")
    cases = fuzz.cases_of(8, SEED, only="harmonic_mean|Lines")
    fuzz.work(cases[:3])
    fuzz.RECORD.write_text(fuzz.RECORD.read_text() + '{"target": "half a li')
    fuzz.discard_half_a_line()
    fuzz.check_same_calls(cases)
    with pytest.raises(ValueError, match="Call 0 of the record is not one of these calls"):
        fuzz.check_same_calls(cases[1:])
    fuzz.work(cases[len(fuzz.outcomes()) :])
    found = fuzz.summary(SEED, seconds=1.0)
    assert found["calls"] == 8 == sum(found["counts"].values())
    assert set(found["functions"]) == {"transfer.harmonic_mean", "report.Lines"}
