"""A strategy network compares a task with the source and determines how much of each layer to take."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import in_float64, learner_of, numbers, regression
from test_transfer_strategy import (
    LOGITS,
    assert_slopes_of,
    classification,
    endless,
    in_float32,
    network,
    one_weight,
    same,
)

from meta_keras.transfer import Strategy, StrategyNetwork

SAMPLE = numbers(7, 4, 4, 1, seed=5)


def strategy(source=None, sample=SAMPLE, **more):
    return StrategyNetwork(network(5, 1) if source is None else source, sample, 0.1, **more)


def shaken(rule):
    """The rule, with weights in its network as if it had been trained."""
    for place, weight in enumerate(rule.network.weights):
        weight.assign(numbers(*weight.shape, seed=place))
    return rule


def test_learning_begins_with_the_same_coefficients_for_every_task():
    rule = strategy(coefficient={"conv": 0.2, "norm": 0.7})
    learner_of(network(3, 2), rule, LOGITS)
    for seed in range(3):
        coefficients = rule.coefficients(numbers(4, 4, 4, 1, seed=seed), np.array([0, 1, 0, 1]))
        assert coefficients == pytest.approx({"conv": 0.2, "norm": 0.7})


def test_what_has_learned_gives_different_tasks_different_coefficients():
    rule = strategy()
    learner_of(network(3, 2), rule, LOGITS)
    shaken(rule)
    coefficients = [rule.coefficients(size * SAMPLE, np.arange(7) % 2) for size in (1, 3)]
    assert all(abs(coefficients[0][name] - coefficients[1][name]) > 0.01 for name in ("conv", "norm"))


def test_compared_with_its_own_sample_nothing_is_apart_or_wider():
    rule = strategy()
    learner_of(network(3, 2), rule, LOGITS)
    apart, wider, between = rule.compare(tf.constant(SAMPLE, "float32"), tf.constant([0, 1, 2, 3, 4, 5, 6])).numpy().T
    np.testing.assert_allclose(apart, 0, atol=1e-5)
    np.testing.assert_allclose(wider, 0, atol=1e-5)
    np.testing.assert_allclose(between, 1, rtol=1e-4)


def test_targets_that_are_no_classes_have_nothing_between_them():
    rule = StrategyNetwork(one_weight(4.0), numbers(5, 1), 0.1)
    learner_of(one_weight(0.0), rule)
    assert rule.compare(tf.ones((3, 1)), tf.ones((3, 1)))[0, 2] == 0


def test_pictures_of_bytes_are_taken_as_the_tasks_take_them():
    pictures = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype("uint8")
    rules = strategy(sample=pictures), strategy(sample=pictures / 255)
    for rule in rules:
        learner_of(network(3, 2), rule, LOGITS)
    np.testing.assert_allclose(rules[0].spreads, rules[1].spreads, rtol=1e-5)
    coefficients = [shaken(rules[0]).coefficients(x, np.zeros(6, int)) for x in (pictures, pictures / 255)]
    assert coefficients[0] == pytest.approx(coefficients[1])


@pytest.mark.parametrize("kind", ["targets", "classes"])
def test_the_slope_for_the_network_goes_through_the_steps(kind):
    in_float64()
    if kind == "classes":
        learner = learner_of(network(3, 2), strategy(steps=2), keras.losses.SparseCategoricalCrossentropy(True))
        tasks = classification(seed=3)
    else:
        rule = StrategyNetwork(one_weight(4.0), numbers(5, 1), 0.1, 2)
        learner, tasks = learner_of(one_weight(0.0), rule), regression((1,), tasks=3)
    assert_slopes_of(shaken(learner.rule), learner, tasks)
    assert len(learner.rule.trainable_variables) == 4


def test_it_learns_to_take_the_source_where_it_fits():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (40, 4, 1)).astype("float32")
    x[::2] *= -1  # in every other task all x are negative; there the right weight is 0, the fresh one
    tasks = tuple(map(tf.constant, (x, 4 * np.maximum(x, 0), x))), tf.constant(4 * np.maximum(x, 0))
    rule = StrategyNetwork(one_weight(4.0), rng.uniform(1, 2, (30, 1)), 0.01)
    plain = Strategy(one_weight(4.0), 0.01)
    losses = []
    for each in (rule, plain):
        learner = learner_of(
            one_weight(0.0), each, parallel="vectorized", optimizer=keras.optimizers.Adam(0.1), jit_compile=False
        )
        losses.append(learner.fit(endless(tasks), steps_per_epoch=60, epochs=2, verbose=0).history["loss"][-1])
    near, far = (rule.coefficients(x[task], x[task])["only"] for task in (1, 0))
    assert far < 0.1 < 0.9 < near and losses[0] < losses[1] / 5


def test_learning_leaves_source_sample_and_network_as_they_are():
    source, fresh = network(5, 1), network(3, 2)
    rule = strategy(source)
    learner = learner_of(fresh, rule, LOGITS, optimizer="adam", run_eagerly=True)
    kept = [w.numpy() for w in (*source.variables, *fresh.variables, *rule.non_trainable_variables)]
    before = [w.numpy() for w in rule.trainable_variables]
    learner.fit(endless(in_float32(classification())), steps_per_epoch=2, verbose=0)
    assert same(kept, [*source.variables, *fresh.variables, *rule.non_trainable_variables])
    assert len(before) == 4 and not any(np.array_equal(*p) for p in zip(before, rule.trainable_variables, strict=True))


def test_a_strategy_network_is_saved_and_loaded_without_its_sample(tmp_path):
    rule = strategy(hidden=3)
    learner = learner_of(network(3, 2), rule, LOGITS, optimizer="adam", run_eagerly=True)
    tasks = in_float32(classification())
    learner.fit(endless(tasks), steps_per_epoch=2, verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    task = tasks[0][0][0], tasks[0][1][0]
    assert loaded.rule.coefficients(*task) == pytest.approx(rule.coefficients(*task))
    np.testing.assert_allclose(loaded(tasks[0]), learner(tasks[0]), rtol=1e-5)
    assert same(loaded.rule.means, rule.means) and rule.get_config()["source_x"] is None


def test_without_a_sample_nothing_looks_like_success():
    with pytest.raises(ValueError, match="source_x must be an array"):
        strategy(sample=None)
    rule = strategy()
    with pytest.raises(TypeError, match="A copy of a StrategyNetwork would lose the weights of its source"):
        copy.deepcopy(rule)
    again = StrategyNetwork.from_config(rule.get_config())
    learner_of(network(3, 2), again, LOGITS)
    assert np.isnan(list(again.coefficients(SAMPLE, np.arange(7) % 2).values())).all()


def test_a_layer_within_a_layer_goes_by_what_the_outer_one_answers():
    def nested(units):
        inner = keras.Sequential([layers.Dense(3, name="one"), layers.Dense(2, name="two")], name="trunk")
        return keras.Sequential([keras.Input((4,)), inner, layers.Dense(units, name="head")])

    rule = StrategyNetwork(nested(5), numbers(6, 4), 0.1)
    learner_of(nested(3), rule, LOGITS)
    seen = rule.compare(tf.ones((2, 4)), tf.constant([0, 1])).numpy()
    assert seen.shape == (2, 3) and np.array_equal(seen[0], seen[1])


def test_the_coefficients_depend_on_a_task():
    rule = strategy()
    learner_of(network(3, 2), rule, LOGITS)
    with pytest.raises(ValueError, match=r"pass its support set: \(support_x, support_y\)"):
        rule.coefficients()


def test_a_sample_has_two_examples_or_more():
    with pytest.raises(ValueError, match="at least two examples of source data; got 1"):
        strategy(sample=SAMPLE[:1])


def test_a_source_must_tell_how_its_layers_are_joined():
    class Custom(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

    source = Custom()
    source(tf.ones((1, 2)))
    with pytest.raises(ValueError, match="is not known before it runs"):
        StrategyNetwork(source, np.ones((3, 2)), 0.1)


def test_a_fixed_network_keeps_to_its_coefficients_and_cannot_learn():
    rule = strategy(learn=False, coefficient=1)
    learner = learner_of(network(3, 2), rule, LOGITS, run_eagerly=True)
    assert set(rule.coefficients(SAMPLE, np.arange(7)).values()) == {1.0}
    with pytest.raises(ValueError, match="Nothing can be trained"):
        learner.fit(endless(in_float32(classification())), steps_per_epoch=1, verbose=0)
