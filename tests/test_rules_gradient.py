"""GradientDescent: its meta-gradient computed by hand, and the effect of each of its settings."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import adapted, assert_same, assert_slopes, in_float64, learner_of, mean_square, meta, regression

from meta_keras import MetaLearner, Sinusoids, UnrolledTraining, maml_loop
from meta_keras.functional import PureModel
from meta_keras.rules import GradientDescent, LearnedRates, Prototypes, Reptile, UpdateNetwork

RATE = 0.05


@pytest.fixture(autouse=True)
def precise():
    in_float64()


def line(slope, offset=None):
    """The network slope * x, or slope * x + offset."""
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, use_bias=offset is not None)])
    model.set_weights([np.array([[slope]])] + ([] if offset is None else [np.array([offset])]))
    return model


def points(x, y, u, v):
    """One task: the support example (x, y) and the query (u, v)."""
    x, y, u, v = (tf.constant([[[number]]], tf.float64) for number in (x, y, u, v))
    return (x, y, u), v


def mlp():
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(4, "tanh", name="low"),
            layers.Dense(3, "tanh", name="middle"),
            layers.Dense(1, name="head"),
        ]
    )


def pair(*settings, build=mlp):
    """A learner with the same network and initial weights for each of the rules' settings."""
    learners = []
    for setting in settings:
        keras.utils.set_random_seed(3)
        rate = LearnedRates(0.2, setting["per"]) if setting.get("per") else 0.2
        settings = {name: value for name, value in setting.items() if name != "per"}
        learners.append(learner_of(build(), GradientDescent(rate, **settings)))
    return learners


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_of_one_weight_it_is_the_one_derived_by_hand(first_order, steps):
    a, x, y, u, v = 0.7, 1.5, 2.0, -0.4, 1.0
    learner = learner_of(line(a), GradientDescent(RATE, steps, first_order=first_order))
    loss, (gradient,) = meta(learner, points(x, y, u, v))
    # A step on (ax - y)^2 brings a nearer to y / x by the factor k.
    k = 1 - 2 * RATE * x * x
    end = y / x + k**steps * (a - y / x)
    assert loss == pytest.approx((end * u - v) ** 2, rel=1e-12)
    by_hand = 2 * u * (end * u - v) * (1 if first_order else k**steps)
    np.testing.assert_allclose(gradient, [[by_hand]], rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_of_two_weights_it_is_the_one_derived_by_hand(steps):
    (a, b), (x, y, u, v) = (0.7, -0.3), (1.5, 2.0, -0.4, 1.0)
    learner = learner_of(line(a, b), GradientDescent(RATE, steps))
    loss, (for_a, for_b) = meta(learner, points(x, y, u, v))
    # A step on (ax + b - y)^2 shrinks its residual r by k, and moves (a, b) along (x, 1).
    r, k = a * x + b - y, 1 - 2 * RATE * (x * x + 1)
    along = 2 * RATE * sum(k**step for step in range(steps)) * (x * u + 1)
    residual = a * u + b - v - r * along
    assert loss == pytest.approx(residual**2, rel=1e-12)
    np.testing.assert_allclose(for_a, [[2 * residual * (u - along * x)]], rtol=1e-12)
    np.testing.assert_allclose(for_b, [2 * residual * (1 - along)], rtol=1e-12)


def test_of_several_tasks_it_is_the_mean():
    learner, tasks = pair({"steps": 2})[0], regression(tasks=3)
    loss, gradients = meta(learner, tasks)
    *inputs, query_y = (*tasks[0], tasks[1])
    alone = [meta(learner, (tuple(p[n : n + 1] for p in inputs), query_y[n : n + 1])) for n in range(3)]
    assert loss == pytest.approx(np.mean([one for one, _ in alone]), rel=1e-12)
    assert_same(gradients, [np.mean(parts, axis=0) for parts in zip(*(g for _, g in alone), strict=True)])


def slopes_at(network, weights, x, y):
    """The gradients of the loss of a copy of `network` that owns these weights."""
    network.set_weights(weights)
    with tf.GradientTape() as tape:
        loss = mean_square(y, network(x))
    return [slope.numpy() for slope in tape.gradient(loss, [v.value for v in network.trainable_variables])]


def test_of_first_order_it_is_the_slope_of_the_query_loss_at_the_adapted_weights():
    first, second = pair({"steps": 3, "first_order": True}, {"steps": 3})
    tasks = regression(tasks=1)
    end = adapted(first.rule, first.pure, [part[0] for part in tasks[0][:2]])
    (_, given), (_, other) = meta(first, tasks), meta(second, tasks)
    assert_same(given, slopes_at(mlp(), end, tasks[0][2][0], tasks[1][0]))
    assert all(np.abs(one - two).max() > 1e-3 for one, two in zip(given, other, strict=True))


def test_without_steps_it_is_the_slope_of_the_query_loss():
    learner, tasks = pair({"steps": 0})[0], regression(tasks=1)
    loss, gradients = meta(learner, tasks)
    query = tasks[0][2][0], tasks[1][0]
    assert loss == pytest.approx(float(mean_square(query[1], learner.network(query[0]))), rel=1e-12)
    assert_same(gradients, slopes_at(mlp(), learner.network.get_weights(), *query))


@pytest.mark.parametrize(
    "settings",
    [{}, {"first_order": True}, {"layers": "head"}, {"multi_step": 9}, {"per": "layer"}],
    ids=["as it is", "first order", "head", "multi-step", "rates"],
)
def test_none_of_its_parts_is_zero(settings):
    (learner,) = pair({"steps": 2} | settings)
    _, gradients = meta(learner, regression())
    assert len(gradients) == len(learner.trainable_variables)
    assert all(np.abs(gradient).min() > 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("names", "moving"),
    [("head", [4, 5]), (["head"], [4, 5]), (["low", "head"], [0, 1, 4, 5]), (("middle",), [2, 3]), (None, range(6))],
)
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_only_the_layers_that_are_named_adapt(training, names, moving):
    (learner,) = pair({"steps": 2, "layers": names})
    end = adapted(learner.rule, learner.pure, [part[0] for part in regression()[0][:2]], training)
    for place, (now, then) in enumerate(zip(end, learner.network.get_weights(), strict=True)):
        assert (now != then).all() if place in moving else np.array_equal(now, then)


def test_layers_within_layers_can_be_named():
    def nested():
        inner = keras.Sequential([keras.Input((2,)), layers.Dense(3, "tanh", name="deep")], name="inner")
        return keras.Sequential([keras.Input((2,)), inner, layers.Dense(1, name="head")])

    whole, deep = pair({"layers": "inner"}, {"layers": "deep"}, build=nested)
    assert_same(meta(whole, regression())[1], meta(deep, regression())[1], 0)


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("layer", [(), (), ()]),
        ("weight", [(2, 4), (4,), (4, 3), (3,), (3, 1), (1,)]),
        ("layer-step", [(3,), (3,), (3,)]),
        ("step", [(3,)]),
    ],
)
def test_learned_rates_are_as_many_as_asked_for_and_alpha_at_first(kind, shapes):
    (learner,) = pair({"steps": 3, "per": kind})
    rates = learner.rule.transform.rates
    assert [tuple(rate.shape) for rate in rates] == shapes
    assert all((rate.numpy() == np.asarray(0.2, rate.dtype)).all() for rate in rates)
    assert [id(v) for v in learner.trainable_variables[6:]] == [id(rate) for rate in rates]


def test_only_layers_that_adapt_have_rates():
    learner, _ = pair({"steps": 2, "per": "weight", "layers": ["head"]}, {})
    assert [tuple(rate.shape) for rate in learner.rule.transform.rates] == [(3, 1), (1,)]
    assert_slopes(learner, regression())


@pytest.mark.parametrize("kind", ["weight", "layer", "layer-step", "step"])
def test_logarithms_of_rates_are_learned_as_well(kind):
    learners = []
    for logarithmic in (False, True):
        keras.utils.set_random_seed(3)
        rates = LearnedRates(0.2, kind, logarithmic=logarithmic)
        learners.append(learner_of(mlp(), GradientDescent(rates, 3)))
    plain, logarithmic = learners
    (loss, gradients), (other, of_logarithms) = (meta(learner, regression()) for learner in learners)
    assert other == pytest.approx(loss, rel=1e-12)
    assert_same(of_logarithms[:6], gradients[:6])
    assert_same(of_logarithms[6:], [0.2 * gradient for gradient in gradients[6:]])
    given, wanted = (list(learner.rule.transform.values().values()) for learner in (logarithmic, plain))
    assert_same(given, wanted)
    assert all(value.min() == value.max() == 0.2 for value in wanted)
    assert_slopes(logarithmic, regression(), tolerance=1e-7)


def test_rates_are_returned_by_layer():
    (learner,) = pair({"steps": 3, "per": "layer-step"})
    assert list(learner.rule.transform.values()) == ["low", "middle", "head"]
    (learner,) = pair({"steps": 3, "per": "step"})
    learner.rule.transform.rates[0].assign([0.3, 0.2, 0.1])
    np.testing.assert_array_equal(learner.rule.transform.values()["all"], [0.3, 0.2, 0.1])


@pytest.mark.parametrize("kind", [None, "layer", "weight", "layer-step", "step"])
@pytest.mark.parametrize("multi_step", [0, 8], ids=["last", "multi-step"])
def test_it_agrees_with_central_differences(multi_step, kind):
    learner, _ = pair({"steps": 3, "per": kind, "multi_step": multi_step}, {})
    learner.batches_seen.assign(3)
    assert_slopes(learner, regression(), h=3e-4 if kind == "step" else 1e-3)


def test_a_float64_network_is_adapted_in_float64_whatever_keras_floats_are():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    model = keras.Sequential(
        [keras.Input((2,), dtype="float64"), layers.Dense(3, "tanh", dtype="float64"), layers.Dense(1, dtype="float64")]
    )
    rates = LearnedRates(0.2, "layer-step", dtype="float64")
    for rule in (GradientDescent(0.2, 2), GradientDescent(rates, 2)):
        assert_slopes(learner_of(model, rule), regression())


@pytest.mark.slow
@pytest.mark.parametrize(("step", "early"), [(0, 1 / 3), (4, 1 / 6), (6, 1 / 12), (8, 0), (50, 0)])
def test_formula_10_6_moves_from_the_mean_of_all_steps_to_the_last_alone(step, early):
    learner, *by_steps = pair({"steps": 3, "multi_step": 8}, *({"steps": count} for count in (1, 2, 3)))
    learner.batches_seen.assign(step)
    loss, gradients = meta(learner, regression())
    apart = [meta(one, regression()) for one in by_steps]
    weights = np.array([early, early, 1 - 2 * early])
    assert loss == pytest.approx(weights @ [one for one, _ in apart], rel=1e-12)
    by_weight = zip(*(slopes for _, slopes in apart), strict=True)
    assert_same(gradients, [np.tensordot(weights, parts, axes=1) for parts in by_weight])


@pytest.mark.parametrize("statistics", ["episode", "support", "moving"])
def test_each_inner_step_is_judged_as_if_it_were_the_last(statistics):
    def normalised():
        return keras.Sequential(
            [keras.Input((2,)), layers.Dense(3, "tanh"), layers.BatchNormalization(), layers.Dense(1)]
        )

    settings = {"batch_statistics": statistics}
    both = {"steps": 2, "multi_step": 8}
    learner, *by_steps = pair(settings | both, settings | {"steps": 1}, settings | {"steps": 2}, build=normalised)
    (loss, gradients), *apart = (meta(one, regression()) for one in (learner, *by_steps))
    assert loss == pytest.approx(np.mean([one for one, _ in apart]), rel=1e-12)
    assert_same(gradients, [np.mean(parts, axis=0) for parts in zip(*(g for _, g in apart), strict=True)])


def test_evaluation_is_by_the_last_step_alone():
    multi, plain = pair({"steps": 3, "multi_step": 8}, {"steps": 3})
    assert meta(multi, regression(), training=False)[0] == meta(plain, regression(), training=False)[0]
    np.testing.assert_array_equal(multi(regression()[0]), plain(regression()[0]))


@pytest.mark.parametrize("evaluation_steps", [0, 1, 4])
def test_evaluation_takes_steps_of_its_own_number(evaluation_steps):
    learner, like = pair({"steps": 2, "evaluation_steps": evaluation_steps}, {"steps": evaluation_steps})
    same, tasks = pair({"steps": 2})[0], regression()
    for training, other in ((False, like), (True, same)):
        assert meta(learner, tasks, training)[0] == pytest.approx(meta(other, tasks)[0], rel=1e-12)
    by_default = [adapted(same.rule, same.pure, [p[0] for p in tasks[0][:2]], training) for training in (True, False)]
    assert_same(*by_default)


def test_the_weights_of_the_network_stay_while_a_task_is_adapted_to():
    (learner,) = pair({"steps": 3})
    before = learner.network.get_weights()
    meta(learner, regression())
    assert_same(learner.network.get_weights(), before, 0)


def test_a_pure_model_is_adapted_without_a_learner():
    model, rule = line(0.7), GradientDescent(RATE, 1)
    pure = PureModel(model)
    rule.prepare(pure)
    (x, y, _), _ = points(1.5, 2.0, 0.0, 0.0)
    assert_same(adapted(rule, pure, (x[0], y[0])), [[[0.7 - RATE * 2 * 1.5 * (0.7 * 1.5 - 2.0)]]])


def test_layers_of_one_name_have_learning_rates_of_their_own():
    def nested():
        inner = keras.Sequential([keras.Input((2,)), layers.Dense(2, "tanh", name="same")])
        return keras.Sequential([keras.Input((2,)), inner, layers.Dense(1, name="same")])

    (learner,) = pair({"steps": 2, "per": "layer"}, build=nested)
    assert [tuple(rate.shape) for rate in learner.rule.transform.rates] == [(), ()]
    gradients = meta(learner, regression())[1][-2:]
    assert gradients[0] != gradients[1]
    assert_slopes(learner, regression())


def constrained():
    head = layers.Dense(1, name="head", kernel_constraint=keras.constraints.NonNeg())
    return keras.Sequential([keras.Input((1,)), layers.Dense(2, name="below"), head])


@pytest.mark.parametrize(
    "use",
    [
        lambda network: MetaLearner(network=network, rule=GradientDescent(0.1)),
        lambda network: MetaLearner(network=network, rule=Reptile(0.1)),
        lambda network: UnrolledTraining(network, UpdateNetwork()),
        lambda network: maml_loop(network, Sinusoids(), loss="mse", iterations=1),
    ],
)
def test_constraints_that_inner_steps_would_not_apply_are_refused(use):
    with pytest.raises(ValueError, match="Inner steps do not apply the NonNeg constraint of '.*head/kernel'"):
        use(constrained())


def test_constraints_of_layers_that_the_inner_loop_leaves_alone_are_accepted():
    for rule in (GradientDescent(0.1, layers="below"), Prototypes()):
        MetaLearner(network=constrained(), rule=rule)
