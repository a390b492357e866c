"""A strategy learns how much of each layer of a source to take; it changes nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import adapted, classification, in_float64, learner_of, meta, numbers, regression

import meta_keras as mk
from meta_keras.functional import DRAWS_PER_TASK, PureModel
from meta_keras.rules import LearnedRates
from meta_keras.transfer import Strategy, blend_weights
from meta_keras.transfer.layers import weighted_layers

LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
STATISTICS = ("episode", "support", "moving")


def network(units=3, seed=0, norm=True, dropout=0.0):
    norms = [layers.BatchNormalization(name="norm", momentum=0.5)] if norm else []
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(2, 2, name="conv"),
            *norms,
            layers.Activation("tanh"),
            layers.Flatten(),
            layers.Dropout(dropout, seed=1),
            layers.Dense(units, name="head"),
        ]
    )
    random = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(random.uniform(0.3, 1, variable.shape) * random.choice([-1, 1]) ** ("var" not in variable.name))
    return model


def one_weight(value):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, name="only")])
    model.set_weights([np.array([[value]])])
    return model


def endless(tasks):
    (support_x, support_y, query_x), query_y = tasks
    return tf.data.Dataset.from_tensors(mk.Episode(support_x, support_y, query_x, query_y)).repeat()


def in_float32(tasks):
    return tf.nest.map_structure(lambda t: tf.cast(t, "float32") if t.dtype.is_floating else tf.cast(t, "int32"), tasks)


def logits(coefficients):
    coefficients = np.array(coefficients)
    return np.log(coefficients / (1 - coefficients))


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("coefficient", [0, 0.3, 1, {"conv": 0.9, "norm": 0.2}])
def test_adapting_begins_where_blend_weights_would(coefficient):
    source, fresh, blended = network(5, 1), network(3, 2), network(3, 2)
    rule = Strategy(source, 0.1, steps=0, coefficient=coefficient, learn=False)
    expert = learner_of(fresh, rule, LOGITS)
    x, y = numbers(4, 4, 4, 1).astype("float32"), np.array([0, 1, 2, 0])
    rule.batch_statistics = "moving"
    report = blend_weights(source, blended, coefficient)
    assert list(report.moved) == ["conv", "norm"]
    for mine, wanted in zip(expert.adapt(x, y).weights, blended.weights, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-6)


@pytest.mark.parametrize(("coefficient", "which"), [(0, "fresh"), (1, "source")])
def test_at_0_and_1_the_start_is_the_one_or_the_other_to_the_last_bit(coefficient, which):
    models = {"source": network(3, 1), "fresh": network(3, 2)}
    rule = Strategy(models["source"], 0.1, 0, coefficient=coefficient, learn=False)
    learner_of(models["fresh"], rule)
    pure = PureModel(models["fresh"])
    start = rule.blend(pure, pure.weights(), rule.coefficients_for(None, None))
    assert same(start.parameters, PureModel(models[which]).weights().parameters)
    assert same(start.state, PureModel(models[which]).weights().state)
    assert set(rule.coefficients().values()) == {float(coefficient)}


def test_the_coefficients_can_make_a_start_to_train_on_as_usual():
    source, fresh, other = network(5, 1), network(3, 2), network(3, 2)
    rule = Strategy(source, 0.1, 0)
    learner = learner_of(fresh, rule, LOGITS)
    rule.omega.assign([1.5, -0.7])
    blend_weights(source, other, rule.coefficients())
    expert = learner.adapt(numbers(3, 4, 4, 1).astype("float32"), np.array([0, 1, 2]))
    for name in ("conv", "head"):
        pair = (weighted_layers(model)[name].weights for model in (expert, other))
        for mine, wanted in zip(*pair, strict=True):
            np.testing.assert_allclose(mine, wanted, rtol=1e-6)


@pytest.mark.parametrize(("statistics", "frozen"), list(zip(STATISTICS, ["", "conv", "norm"], strict=True)))
def test_learning_moves_the_coefficients_alone(statistics, frozen):
    source, fresh = network(5, 1), network(3, 2)
    if frozen:
        fresh.get_layer(frozen).trainable = False
    kept = [w.numpy() for w in (*source.variables, *fresh.variables)]
    rule = Strategy(source, 0.1, 2, batch_statistics=statistics)
    learner = learner_of(fresh, rule, LOGITS, optimizer="adam", run_eagerly=True)
    inner = [w.numpy() for w in rule.source.weights]
    learner.fit(endless(in_float32(classification())), steps_per_epoch=2, verbose=0)
    assert same(kept, [*source.variables, *fresh.variables])
    assert same(inner, rule.source.weights)
    moved = [coefficient != 0.5 for coefficient in rule.coefficients().values()]
    assert any(moved) and [v.path for v in rule.trainable_variables] == [rule.omega.path]


def test_a_change_of_the_source_afterwards_does_not_reach_the_strategy():
    source = one_weight(4.0)
    learner = learner_of(one_weight(0.0), Strategy(source, 0.1, 0))
    source.set_weights([np.array([[100.0]])])
    assert learner.adapt([[1.0]], [[1.0]])(tf.ones((1, 1))).numpy().item() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("statistics", "rate", "more"),
    [("episode", 0.1, {}), ("support", 0.1, {"multi_step": 100}), ("moving", "layer", {})],
)
def test_the_slope_for_the_coefficients_goes_through_the_steps(statistics, rate, more):
    in_float64()
    rate = LearnedRates(0.1, rate) if rate == "layer" else rate
    rule = Strategy(network(5, 1), rate, 2, coefficient=0.3, batch_statistics=statistics, **more)
    exact = keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # LOGITS computes in float32
    learner, tasks = learner_of(network(3, 2), rule, exact), classification(seed=3)
    assert_slopes_of(rule, learner, tasks)


def assert_slopes_of(rule, learner, tasks):
    """As `assert_slopes` in proofs.py, for the rule's own variables: the network gets no gradient."""
    learner.optimizer.build(learner.trainable_variables)
    gradients = meta(learner, tasks)[1]
    ahead = [numbers(*variable.shape, seed=9) for variable in rule.trainable_variables]
    slope = sum(np.sum(g * d) for g, d in zip(gradients, ahead, strict=True))
    losses = []
    for h in (1e-5, -2e-5):
        for variable, direction in zip(rule.trainable_variables, ahead, strict=True):
            variable.assign_add(h * direction)
        losses.append(meta(learner, tasks)[0])
    assert abs(slope) > 1e-3 and slope == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)


def test_the_network_is_handed_no_slope():
    learner = learner_of(network(3, 2), Strategy(network(5, 1), 0.1, 2), LOGITS)
    gradients = meta(learner, in_float32(classification()))[1]
    assert all(not np.any(gradient) for gradient in gradients[:-1]) and np.any(gradients[-1])


def test_first_order_leaves_the_second_derivatives_out():
    in_float64()
    tasks = regression((1,), tasks=1)
    slopes = {}
    for first_order in (False, True):
        learner = learner_of(one_weight(0.0), Strategy(one_weight(4.0), 0.1, 1, first_order=first_order))
        slopes[first_order] = meta(learner, tasks)[1][-1].item()
    x = tasks[0][0].numpy()
    assert slopes[False] == pytest.approx((1 - 0.2 * np.mean(x**2)) * slopes[True], rel=1e-12)


@pytest.mark.parametrize("parallel", ["vectorized", "map", "unrolled"])
def test_all_ways_through_the_tasks_agree(parallel):
    in_float64()
    tasks = regression((1,), tasks=3)
    learner = learner_of(one_weight(0.5), Strategy(one_weight(4.0), 0.1, 2, coefficient=0.3), parallel=parallel)
    (sx, sy, qx), qy = (tuple(t.numpy() for t in tasks[0]), tasks[1].numpy())
    loss = 0
    for task in range(3):
        theta = 0.3 * 4 + 0.7 * 0.5
        for _ in range(2):
            theta -= 0.1 * np.mean(2 * sx[task] * (theta * sx[task] - sy[task]))
        loss += np.mean((theta * qx[task] - qy[task]) ** 2) / 3
    assert meta(learner, tasks, graph=True)[0] == pytest.approx(loss, rel=1e-12)


def test_a_head_for_other_classes_is_left_out_and_one_that_fits_is_not():
    for units, wanted in ((5, ["conv", "norm"]), (3, ["conv", "norm", "head"])):
        rule = Strategy(network(units, 1), 0.1)
        learner_of(network(3, 2), rule)
        assert list(rule.coefficients()) == wanted


@pytest.mark.parametrize("asked", ["conv", ["conv"], {"conv": "conv"}])
def test_layers_that_are_named_are_blended_and_no_others(asked):
    rule = Strategy(network(3, 1), 0.1, 0, layers=asked, coefficient=1, learn=False)
    fresh = network(3, 2)
    pure = PureModel(fresh)
    learner_of(fresh, rule)
    start = rule.blend(pure, pure.weights(), rule.coefficients_for(None, None))
    differ = [
        path
        for path, a, b in zip(
            [v.path for v in pure.parameters], start.parameters, fresh.trainable_variables, strict=True
        )
        if np.any(a != b)
    ]
    assert [path.split("/")[-2] for path in differ] == ["conv", "conv"]


def test_layers_of_other_names_are_joined_by_a_mapping():
    source, fresh = one_weight(4.0), keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=False, name="new")])
    rule = Strategy(source, 0.1, 0, layers={"only": "new"}, coefficient=1, learn=False)
    learner_of(fresh, rule)
    assert adapted(rule, PureModel(fresh), (tf.ones((1, 1)), tf.ones((1, 1))))[0].item() == 4.0


def test_random_draws_go_on_from_task_to_task():
    fresh = network(3, 2, dropout=0.5)
    (seed,) = (v for v in fresh.non_trainable_variables if "seed" in v.name)
    before = seed.numpy()
    learner = learner_of(fresh, Strategy(network(5, 1), 0.1), LOGITS, optimizer="adam", run_eagerly=True)
    learner.fit(endless(in_float32(classification())), steps_per_epoch=1, verbose=0)
    ahead = int(seed.numpy()[1]) - int(before[1])
    assert ahead > 2 * DRAWS_PER_TASK, "two tasks have drawn random numbers, from separate ranges of the counter"


def test_a_strategy_goes_on_to_another_fresh_start():
    rule = Strategy(network(5, 1), 0.1)
    learner_of(network(3, 2), rule)
    rule.omega.assign([1.0, 2.0])
    learner = learner_of(network(3, 7), rule)
    assert learner.rule.omega.numpy().tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="coefficients for the layers conv, norm; .* would need conv\\. Create a new"):
        learner_of(network(3, 2, norm=False), rule)


def test_a_source_that_was_compiled_brings_no_metrics_and_no_optimizer(tmp_path, recwarn):
    source = network(5, 1)
    source.compile("adam", "mse", metrics=["accuracy"])
    source.fit(np.ones((4, 4, 4, 1)), np.ones((4, 5)), verbose=0)
    rule = Strategy(source, 0.1)
    learner = learner_of(network(3, 2), rule, LOGITS, optimizer="adam", run_eagerly=True)
    loss = learner.fit(endless(in_float32(classification())), steps_per_epoch=1, verbose=0).history["loss"][0]
    assert loss > 0 and [metric.name for metric in learner.metrics] == ["loss"]
    assert rule.source.model.optimizer is None and source.optimizer is not None
    learner.save(tmp_path / "learner.keras")
    keras.models.load_model(tmp_path / "learner.keras")
    assert not [w for w in recwarn if "optimizer" in str(w.message)]


@pytest.mark.parametrize("more", [{"layers": ["conv"]}, {"layers": {"conv": "conv", "norm": "norm"}}])
def test_a_learner_with_a_strategy_is_saved_and_loaded(tmp_path, more):
    coefficient = {"conv": 0.3} if more == {"layers": ["conv"]} else 0.3
    rule = Strategy(network(5, 1), 0.1, 2, coefficient=coefficient, first_order=True, evaluation_steps=3, **more)
    learner = learner_of(network(3, 2), rule, LOGITS, optimizer="adam", run_eagerly=True)
    tasks = in_float32(classification())
    learner.fit(endless(tasks), steps_per_epoch=2, verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    assert loaded.rule.coefficients() == rule.coefficients() and loaded.rule.evaluation_steps == 3
    np.testing.assert_allclose(loaded(tasks[0]), learner(tasks[0]), rtol=1e-5)
    assert same(loaded.rule.source.weights, rule.source.weights)
    loaded.fit(endless(tasks), steps_per_epoch=2, verbose=0)
    assert loaded.rule.coefficients() != rule.coefficients()


def test_an_expert_is_a_plain_model_with_weights_of_its_own():
    fresh = network(3, 2)
    learner = learner_of(fresh, Strategy(network(5, 1), 0.1, 2), LOGITS)
    (support_x, support_y, query_x), _ = in_float32(classification(tasks=1))
    expert = learner.adapt(support_x[0], support_y[0])
    assert type(expert) is keras.Sequential and expert(query_x[0]).shape == (6, 3)
    assert not same(expert.get_layer("conv").weights, fresh.get_layer("conv").weights)


def test_the_coefficient_that_is_learned_is_the_best_one():
    tasks = tuple(tf.constant(np.float32(a)[:, None, None]) for a in ([1, 2], [2, 14], [1, 2]))
    rule = Strategy(one_weight(4.0), 0.1)
    learner = learner_of(one_weight(0.0), rule, optimizer=keras.optimizers.SGD(0.1))
    learner.fit(endless((tasks, tasks[1])), steps_per_epoch=200, verbose=0)
    assert rule.coefficients()["only"] == pytest.approx(0.75, abs=1e-4)


@pytest.mark.parametrize("coefficient", [0, 1, {"conv": 0.5, "norm": 1}])
def test_a_learned_coefficient_cannot_begin_at_the_ends(coefficient):
    with pytest.raises(ValueError, match="initially above 0 and below 1; got .* Use learn=False"):
        learner_of(network(3, 2), Strategy(network(5, 1), 0.1, coefficient=coefficient))


@pytest.mark.parametrize("learn", [True, False])
def test_an_coefficient_lies_between_0_and_1(learn):
    with pytest.raises(ValueError, match="coefficient must be a number from 0 to 1; got 1.5"):
        Strategy(network(5, 1), 0.1, coefficient=1.5, learn=learn)


def test_a_fixed_coefficient_has_nothing_to_learn():
    learner = learner_of(network(3, 2), Strategy(network(5, 1), 0.1, learn=False), LOGITS, run_eagerly=True)
    with pytest.raises(ValueError, match="Nothing can be trained"):
        learner.fit(endless(in_float32(classification())), steps_per_epoch=1, verbose=0)
    assert np.isfinite(learner.evaluate(endless(in_float32(classification())), steps=1, verbose=0))


def test_a_fixed_coefficient_may_still_have_rates_to_learn():
    rule = Strategy(network(5, 1), LearnedRates(0.1, "layer"), coefficient=1, learn=False)
    learner = learner_of(network(3, 2), rule, LOGITS, optimizer="adam", run_eagerly=True)
    learner.fit(endless(in_float32(classification())), steps_per_epoch=2, verbose=0)
    assert any(float(rate) != np.float32(0.1) for rate in rule.transform.rates)


def test_the_coefficients_are_asked_for_too_early():
    with pytest.raises(ValueError, match="give the strategy to a MetaLearner first"):
        Strategy(network(5, 1), 0.1).coefficients()


@pytest.mark.parametrize(
    ("asked", "message"),
    [("nowhere", "no 'nowhere' among"), ("head", r"'head' cannot be transferred: its shapes are \(18, 3\)")],
)
def test_layers_that_cannot_be_blended_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        learner_of(network(3, 2), Strategy(network(5, 1), 0.1, layers=asked))


@keras.saving.register_keras_serializable(package="test_strategy")
class Counted(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="count")

    def call(self, inputs):
        return inputs


def test_whole_numbers_are_not_blended():
    source, fresh = (keras.Sequential([keras.Input((1,)), Counted(name="counted"), layers.Dense(1)]) for _ in "ab")
    with pytest.raises(ValueError, match="counted: integers cannot be blended; name the other layers"):
        learner_of(fresh, Strategy(source, 0.1))


def test_a_source_is_a_built_model():
    with pytest.raises(ValueError, match="source must have its weights"):
        Strategy(keras.Sequential([layers.Dense(1)]), 0.1)


@pytest.mark.parametrize("learn", [True, False])
def test_a_strategy_is_made_again_from_its_config(learn):
    config = Strategy(network(5, 1), 0.1, 2, coefficient=0.3, learn=learn, layers=["conv"]).get_config()
    again = Strategy.from_config(config).get_config()
    for name in ("learn", "coefficient", "layers", "learning_rate", "steps"):
        assert again[name] == config[name] and name in config
    assert config["learn"] is learn
