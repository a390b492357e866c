"""Evaluation: the mean score over tasks, for every kind of learner and metric, and what cannot be scored."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from meta_keras import ClassPool, Episode, FewShot, MetaLearner, Sinusoids, evaluate, networks
from meta_keras.report import mean_and_interval
from meta_keras.rules import GradientDescent, Prototypes


@functools.cache
def tasks_of(ways=4, shots=1, queries=3, meta_batch=4):
    examples = np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)
    return FewShot(ClassPool(examples, np.arange(80) // 8), ways, shots, queries, meta_batch)


def dataset_of(support_x, support_y, query_x, query_y, tasks=2):
    """A dataset of one batch in which every task is this one."""
    parts = (np.repeat(np.asarray(part)[None], tasks, axis=0) for part in (support_x, support_y, query_x, query_y))
    return tf.data.Dataset.from_tensors(Episode(*map(tf.constant, parts)))


def labeled(query_y):
    """Tasks in which only the labels of the queries matter."""
    x = np.zeros((len(query_y), 2), np.float32)
    return dataset_of(x[:1], np.zeros(1, np.int32), x, np.asarray(query_y, np.int32))


def constant(*shape, value=0.0):
    return lambda support_x, support_y, query_x: np.full(shape, value)


def test_a_random_guess_scores_chance_within_its_interval():
    generator = np.random.default_rng(0)
    score = evaluate(lambda x, y, queries: generator.normal(size=(len(queries), 4)), tasks_of(), 400)
    assert abs(score.mean - 0.25) < score.interval < 0.02
    assert (score.mean, score.interval) == pytest.approx(mean_and_interval(score.values))
    assert score.metric == "accuracy" and set(score.values * 12 % 1) == {0.0}


def nearest_label(support_x, support_y, query_x):
    """Logits of four classes that depend on the query."""
    return query_x[:, :4]


def test_perfect_answers_score_one():
    pool = ClassPool(np.repeat(np.eye(6, dtype=np.float32), 4, axis=0), np.repeat(np.arange(6), 4))

    def nearest(support_x, support_y, query_x):
        chosen = tf.gather(support_y, tf.argmax(tf.matmul(query_x, support_x, transpose_b=True), axis=-1))
        return tf.one_hot(chosen, 5)

    score = evaluate(nearest, FewShot(pool, 5, 1, 3), 6)
    assert (score.mean, score.interval) == (1.0, 0.0)


@pytest.mark.parametrize("episodes", [2, 5, 8])
def test_as_many_tasks_are_evaluated_as_requested(episodes):
    score = evaluate(constant(12, 4), tasks_of(meta_batch=4), episodes)
    assert len(score.values) == episodes


def test_a_learner_and_a_function_that_does_the_same_have_equal_scores():
    network = keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    learner = MetaLearner(network=network, rule=Prototypes())

    def by_hand(support_x, support_y, query_x):
        prototypes = tf.math.segment_mean(tf.gather(network(support_x), tf.argsort(support_y)), tf.sort(support_y))
        return -tf.reduce_sum((network(query_x)[:, None] - prototypes) ** 2, axis=-1)

    one, other = (evaluate(way, tasks_of(shots=2), 10) for way in (learner, by_hand))
    np.testing.assert_array_equal(one.values, other.values)
    assert len(set(one.values)) > 1


def test_regressions_are_scored_by_their_mean_squared_error():
    tasks = Sinusoids(shots=2, queries=5, meta_batch=3)
    score = evaluate(constant(5, 1, value=0.5), tasks, 3)
    wanted = np.square(next(iter(tasks)).query_y.numpy() - 0.5).mean(axis=(1, 2))
    np.testing.assert_allclose(score.values, wanted, rtol=1e-5)
    assert score.metric == "mean squared error"


def test_a_custom_metric_takes_the_labels_and_the_logits():
    def largest_label(query_y, scores):
        return tf.reduce_max(query_y) + scores.shape[1]

    score = evaluate(constant(12, 4), tasks_of(), 3, metric=largest_label)
    assert score.metric == "largest_label" and score.values.tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (
            constant(12, 3),
            r"12 queries of 4 classes need logits of shape \(12, 4\); the learner returned shape \(12, 3\)",
        ),
        (constant(11, 4), r"the learner returned shape \(11, 4\)"),
        (constant(1, 4), r"the learner returned shape \(1, 4\)"),
        (constant(12), r"the learner returned shape \(12,\)"),
        (constant(12, 4, value=np.nan), "must be a finite number, and none may be NaN"),
        (constant(12, 4, value=np.inf), "must be a finite number"),
        (constant(12, 4, value=-np.inf), "must be a finite number"),
        (lambda *task: np.where(np.eye(4)[np.arange(12) % 4], np.nan, 0.0), "none may be NaN"),
        (constant(12, 4, value="x"), "must return numbers; got .* of string"),
        (lambda *task: None, "must return one array per task; got None"),
        (lambda *task: [[0.0], [1.0, 2.0]], "must return one array per task"),
    ],
)
def test_answers_that_cannot_be_compared_with_the_labels_are_rejected(learner, message):
    with pytest.raises(ValueError, match=message):
        evaluate(learner, tasks_of(), 2)


def test_classes_may_have_probability_zero_and_need_not_be_in_the_task():
    scores = np.where(np.eye(6)[np.zeros(12, int)], 0.0, -np.inf)
    assert evaluate(lambda x, y, queries: scores, tasks_of(), 2).mean == 0.25


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (constant(5), r"targets have shape \(5, 1\); the learner returned shape \(5,\)"),
        (constant(5, 1, value=np.nan), "mean squared error' must return a finite number; got nan"),
    ],
)
def test_answers_that_cannot_be_compared_with_the_targets_are_rejected(answer, message):
    with pytest.raises(ValueError, match=message):
        evaluate(answer, Sinusoids(queries=5, meta_batch=2), 2)


@pytest.mark.parametrize("episodes", [1, 0, 2.5, True, "x"])
def test_an_interval_needs_at_least_two_episodes(episodes):
    with pytest.raises(ValueError, match=f"episodes must be an integer of at least 2; got {episodes!r}"):
        evaluate(constant(12, 4), tasks_of(), episodes)


def test_a_dataset_that_ends_too_soon_is_reported():
    with pytest.raises(ValueError, match="dataset ended after 8 tasks; episodes=9 needs more"):
        evaluate(constant(12, 4), tasks_of(meta_batch=4).take(2), 9)


def test_a_dataset_without_episodes_cannot_be_evaluated():
    with pytest.raises(ValueError, match="[Aa] dataset of episodes"):
        evaluate(constant(12, 4), tf.data.Dataset.range(3))


def test_a_keras_metric_is_reset_for_every_task():
    by_keras = evaluate(nearest_label, tasks_of(), 8, metric=keras.metrics.SparseCategoricalAccuracy(name="keras"))
    score = evaluate(nearest_label, tasks_of(), 8)
    np.testing.assert_allclose(by_keras.values, score.values, rtol=1e-6)
    assert by_keras.metric == "keras" and len(set(score.values)) > 2


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("accuracy", "metric must be a function .* got 'accuracy'"),
        (keras.metrics.MeanSquaredError, "metric must be a function"),
        (3, "metric must be a function"),
        (keras.metrics.Precision(name="p"), r"'p' cannot compare .* \(12,\) with .* \(12, 4\)"),
        (keras.layers.Dense(1), "metric must be a function .* got Dense"),
        (lambda query_y, logits: np.nan, "must return a finite number; got nan"),
        (lambda query_y, logits: None, "must return one number per task; got None"),
        (lambda query_y, logits: [1.0, 2.0], "must return one number per task"),
    ],
)
def test_a_metric_must_return_one_finite_number(metric, message):
    with pytest.raises(ValueError, match=message):
        evaluate(constant(12, 4), tasks_of(), 2, metric=metric)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 2), *[st.integers(-2, 2)] * 4), min_size=1, max_size=6))
def test_queries_whose_largest_logit_is_shared_count_as_a_guess(rows):
    table = np.array(rows)
    labels, logits = table[:, 0], table[:, 1:]
    chosen = logits == logits.max(axis=1, keepdims=True)
    expected = np.mean(chosen[np.arange(len(labels)), labels] / chosen.sum(axis=1))
    score = evaluate(lambda x, y, queries: logits, labeled(labels), 2)
    assert score.mean == pytest.approx(expected)


@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_a_constant_learner_scores_chance_whatever_the_label(label):
    assert evaluate(constant(5, 4, value=7.0), labeled([label] * 5), 2).mean == 0.25


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_regressions_are_scored_in_every_precision(dtype):
    score = evaluate(lambda x, y, queries: tf.cast(tf.zeros((5, 1)), dtype), Sinusoids(queries=5, meta_batch=2), 2)
    assert score.mean > 0 and score.metric == "mean squared error"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"])
def test_a_learner_in_mixed_precision_is_evaluated_on_a_regression(policy):
    keras.config.set_dtype_policy(policy)
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.01))
    score = evaluate(learner, Sinusoids(shots=3, queries=5, meta_batch=2), 4)
    assert np.isfinite(score.values).all()


def test_a_function_sees_raw_pixels_as_floats_from_zero_to_one():
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    seen = []

    def learner(support_x, support_y, query_x):
        seen.extend([support_x.numpy(), query_x.numpy()])
        return np.zeros((3, 3))

    evaluate(learner, dataset_of(images, np.arange(3), images, np.arange(3)), 2)
    evaluate(learner, dataset_of(np.float32(images / 255), np.arange(3), images, np.arange(3)), 2)
    for found in seen:
        np.testing.assert_allclose(found, images / 255, rtol=1e-6)


def test_evaluations_notice_what_has_changed_in_the_learner():
    keras.utils.set_random_seed(1)
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.05, steps=1))
    tasks = Sinusoids(shots=3, queries=5, meta_batch=2)
    first = evaluate(learner, tasks, 4)
    learner.rule.evaluation_steps = 0
    unadapted = evaluate(learner, tasks, 4)
    learner.network.set_weights([0 * weight for weight in learner.network.get_weights()])
    zero = evaluate(learner, tasks, 4)
    np.testing.assert_array_equal(zero.values, evaluate(constant(5, 1), tasks, 4).values)
    assert len({first.mean, unadapted.mean, zero.mean}) == 3


@pytest.mark.parametrize(
    ("learner", "error", "message"),
    [
        (
            networks.mlp(4, input_shape=(6,)),
            TypeError,
            "learner must be a MetaLearner or a function .* Sequential 'mlp'",
        ),
        (MetaLearner, TypeError, "learner must be a MetaLearner or a function"),
        (None, ValueError, "learner must be a function; got None"),
        (np.ones(3), ValueError, r"learner must be a function; got ndarray of shape \(3,\)"),
    ],
)
def test_what_cannot_learn_is_rejected(learner, error, message):
    with pytest.raises(error, match=message):
        evaluate(learner, tasks_of(), 2)


@pytest.mark.parametrize("verbose", ["x", np.ones(2), None, 3])
def test_verbose_is_a_small_number(verbose):
    with pytest.raises(ValueError, match="verbose must be one of 0, 1, 2"):
        evaluate(constant(12, 4), tasks_of(), 2, verbose=verbose)


def test_labels_must_be_integers_one_per_query():
    x = np.zeros((2, 3), np.float32)
    tasks = dataset_of(x, np.zeros((2, 1), np.int32), x, np.zeros((2, 1), np.int32))
    with pytest.raises(ValueError, match=r"one integer as its label; a task has shape \(2, 1\)"):
        evaluate(constant(2, 1), tasks, 2)


@pytest.mark.parametrize("as_learner", [True, False])
def test_tasks_of_a_small_pool_may_be_drawn_twice(as_learner):
    """Two classes of two examples make few different tasks, so 30 draws contain some of them several times."""
    pool = ClassPool(np.random.default_rng(0).random((4, 6)).astype("float32"), np.arange(4) // 2)
    tasks = FewShot(pool, 2, 1, queries=1, meta_batch=1, seed=0)
    learner = MetaLearner(network=networks.mlp(2, input_shape=(6,)), rule=Prototypes())
    learner.compile(jit_compile=False)
    score = evaluate(learner if as_learner else constant(2, 2), tasks, episodes=30)
    assert len(score.values) == 30
    with pytest.raises(ValueError, match="comes again"):
        evaluate(constant(2, 2), tasks.take(1).repeat(), episodes=30)


@pytest.mark.parametrize("as_learner", [True, False])
def test_the_same_tasks_again_are_no_further_tasks(as_learner):
    learner = MetaLearner(network=networks.mlp(4, input_shape=(6,)), rule=Prototypes()) if as_learner else nearest_label
    finite = tasks_of(meta_batch=2).take(3)
    assert len(evaluate(learner, finite, episodes=6).values) == 6
    with pytest.raises(ValueError, match="first batch of tasks comes again, as of tasks.repeat"):
        evaluate(learner, finite.repeat(), episodes=7)


def test_a_cross_entropy_that_does_not_fit_the_answers_is_refused():
    learner = MetaLearner(network=networks.mlp(4, input_shape=(6,)), rule=Prototypes())
    with pytest.raises(ValueError, match="has from_logits=False, but the answers are logits"):
        evaluate(learner, tasks_of(), episodes=4, metric=keras.metrics.SparseCategoricalCrossentropy())
    assert (
        evaluate(learner, tasks_of(), 4, metric=keras.metrics.SparseCategoricalCrossentropy(from_logits=True)).mean > 0
    )


@pytest.mark.parametrize("metrics", [pytest.param(None, marks=pytest.mark.slow), []])
def test_masked_answers_are_not_scored(metrics):
    inputs = keras.Input((4, 1))
    dense = keras.layers.TimeDistributed(keras.layers.Dense(1))
    learner = MetaLearner(network=keras.Model(inputs, dense(keras.layers.Masking(0.0)(inputs))))
    learner.compile(loss="mse", metrics=metrics)
    x = np.ones((2, 2, 4, 1), "float32")
    tasks = tf.data.Dataset.from_tensors(Episode(*map(tf.constant, (x, x, x, x))))
    learner.evaluate(tasks, verbose=0)
    with pytest.raises(ValueError, match="answers are masked, which the metrics of learners do not see"):
        evaluate(learner, tasks, episodes=2)
    assert learner.predict((x, x, x), verbose=0).shape == x.shape
