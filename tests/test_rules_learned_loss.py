"""The learned inner loss: it begins as the plain one, fits any task, and its gradients are right."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import (
    adapted,
    assert_same,
    assert_slopes,
    classification,
    in_float64,
    learner_of,
    meta,
    numbers,
    regression,
)

from meta_keras import MetaLearner, Sinusoids, networks
from meta_keras.rules import Context, GradientDescent, LearnedLoss, LearnedRates


@pytest.fixture
def precise():
    in_float64()


def dense(units=1, activation=None):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((2,)), layers.Dense(3, "tanh", name="low"), layers.Dense(units, activation, name="head")]
    )


def entropy(from_logits=True, **settings):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits, dtype="float64", **settings)


CASES = {
    "regression": (lambda: dense(), keras.losses.mean_squared_error, regression),
    "two targets": (lambda: dense(2), keras.losses.mean_absolute_error, lambda: regression(targets=2)),
    "logits": (lambda: dense(3), entropy(), lambda: classification((2,))),
    "softmax": (lambda: dense(3, "softmax"), entropy(False), lambda: classification((2,))),
    "log-softmax": (lambda: dense(3, "log_softmax"), entropy(), lambda: classification((2,))),
    "a sum": (lambda: dense(3), entropy(reduction="sum"), lambda: classification((2,))),
}


def learner_for(case, rule=None, **settings):
    make, loss, tasks = CASES[case]
    return learner_of(make(), LearnedLoss(0.2, 2, hidden=(3, 2)) if rule is None else rule, loss, **settings), tasks()


def at_random(rule):
    """Set the loss network to random weights, so that it is far from the plain loss."""
    for n, variable in enumerate(rule.loss_weights):
        variable.assign(variable + 0.5 * numbers(*variable.shape, seed=(1, n)))
    return rule


@pytest.mark.parametrize("case", CASES)
def test_it_begins_as_the_plain_loss(case, precise):
    (learned, tasks), (plain, _) = learner_for(case), learner_for(case, GradientDescent(0.2, 2))
    (loss, gradients), (wanted, of_network) = meta(learned, tasks), meta(plain, tasks)
    assert loss == pytest.approx(wanted, rel=1e-12)
    assert_same(gradients[: len(of_network)], of_network)
    last_kernel, last_bias = gradients[-4], gradients[-1]
    assert np.abs(last_kernel).max() > 1e-6 and np.abs(last_bias).max() > 1e-6, "it can begin to learn"


@pytest.mark.parametrize("case", CASES)
def test_its_gradients_are_those_of_central_differences(case, precise):
    learner, tasks = learner_for(case)
    at_random(learner.rule)
    assert_slopes(learner, tasks, tolerance=1e-7, h=3e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["regression", "logits"])
def test_it_comes_to_the_same_in_every_way_through_the_tasks(case, precise):
    found = []
    for parallel, graph in (("map", True), ("vectorized", True), ("unrolled", False)):
        learner, tasks = learner_for(case, parallel=parallel)
        at_random(learner.rule)
        found.append(meta(learner, tasks, graph=graph))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-12)
        assert_same(gradients, found[0][1], 1e-10)


def test_rates_and_loss_are_learned_together(precise):
    learner, tasks = learner_for(
        "regression", LearnedLoss(LearnedRates(0.2, "layer-step", logarithmic=True), 2, hidden=(3, 2))
    )
    at_random(learner.rule)
    assert_slopes(learner, tasks, tolerance=1e-7, h=3e-4)


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_the_support_set_does_not_matter(case, precise):
    learner, ((x, y, _), _) = learner_for(case)
    at_random(learner.rule)
    order = np.random.default_rng(0).permutation(x.shape[1])
    here, there = (
        adapted(learner.rule, learner.pure, task, loss=learner._loss_of)
        for task in ((x[0], y[0]), (tf.gather(x[0], order), tf.gather(y[0], order)))
    )
    assert_same(here, there)


def test_the_names_of_classes_do_not_matter(precise):
    learner, _ = learner_for("logits")
    rule, answers, y = at_random(learner.rule), tf.constant(numbers(6, 3)), tf.constant([0, 1, 2, 0, 1, 1])
    order = np.array([2, 0, 1])  # class k is now called order[k]
    renamed = tf.gather(answers, np.argsort(order), axis=1)
    context = Context(learner._loss_of)
    one, other = rule.support_loss(y, answers, context), rule.support_loss(tf.gather(order, y), renamed, context)
    assert float(one) == pytest.approx(float(other), rel=1e-12)


@pytest.mark.parametrize("examples", [1, 2, 7])
def test_any_number_of_examples_will_do(examples, precise):
    learner, _ = learner_for("regression")
    at_random(learner.rule)
    loss, gradients = meta(learner, regression(support=examples))
    assert np.isfinite(loss) and all(np.isfinite(one).all() for one in gradients)


def test_the_loss_on_the_queries_is_that_of_the_task(precise):
    learner, tasks = learner_for("regression")
    at_random(learner.rule)
    wanted = np.mean((learner(tasks[0]).numpy() - tasks[1].numpy()) ** 2)
    assert meta(learner, tasks, training=False)[0] == pytest.approx(wanted, rel=1e-12)


def test_weights_of_examples_are_between_0_and_2(precise):
    learner, _ = learner_for("regression")
    for variable in learner.rule.loss_weights:
        variable.assign(100 * numbers(*variable.shape))
    y, answers = tf.constant(numbers(8, 1)), tf.constant(1e6 * numbers(8, 1, seed=1))
    loss = learner.rule.support_loss(y, answers, Context(learner._loss_of))
    assert np.isfinite(loss)
    weights, _ = learner.rule.judgments(y, answers, tf.square(y - answers)[:, 0])
    assert (np.abs(np.tanh(weights)) <= 1).all()


def outliers(seed=0):
    """Sine curves of which some support targets are far away."""

    def replace(episode):
        far = tf.random.stateless_uniform(tf.shape(episode.support_y), [seed, 1]) < 0.2
        return episode._replace(support_y=tf.where(far, 10.0, episode.support_y))

    settings = {"amplitude": (1, 2), "phase": (0, 1), "x_range": (-2, 2)}
    return Sinusoids(shots=10, queries=10, meta_batch=8, seed=seed, **settings).map(replace)


@pytest.mark.slow
def test_it_learns_to_ignore_outliers_and_survives_a_file(tmp_path):
    errors = {}
    for rule in (GradientDescent(0.02, 2), LearnedLoss(0.02, 2)):
        keras.utils.set_random_seed(0)
        network = networks.mlp(1, hidden=(16,), activation="tanh")
        learner = MetaLearner(network=network, rule=rule, parallel="map")
        learner.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
        learner.fit(outliers(), steps_per_epoch=100, verbose=0)
        errors[type(rule).__name__] = learner.evaluate(outliers(1), steps=20, verbose=0)
    assert errors["LearnedLoss"] < 0.9 * errors["GradientDescent"]
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert loaded.rule.get_config() == learner.rule.get_config()
    inputs = tuple(next(iter(outliers(2))))[:3]
    np.testing.assert_array_equal(loaded(inputs), learner(inputs))


def test_it_works_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=LearnedLoss(0.01))
    learner.compile("sgd", "mse", jit_compile=False)
    history = learner.fit(Sinusoids(shots=5), steps_per_epoch=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": (0, 2)}, "hidden must be"),
        ({"hidden": (4,)}, r"hidden must be two numbers, the units of the loss network; got \(4,\)"),
        ({"first_order": True}, "Give a LearnedLoss first_order=False: only second derivatives lead from the loss"),
        ({"steps": 0}, "Give a LearnedLoss at least one step"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        LearnedLoss(0.1, **settings)


def test_batches_may_have_support_sets_of_several_sizes():
    learner = MetaLearner(network=networks.mlp(1, hidden=(3,)), rule=LearnedLoss(0.1))
    learner.compile(loss="mse", jit_compile=False)
    parts = [next(iter(Sinusoids(shots=shots, queries=3, meta_batch=2))) for shots in (2, 4)]
    signature = tf.nest.map_structure(lambda part: tf.TensorSpec([2, None, 1], part.dtype), parts[0])
    tasks = tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=signature)
    assert np.isfinite(learner.fit(tasks, verbose=0).history["loss"]).all()
