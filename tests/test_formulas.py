"""Every formula of the chapters, against numbers worked out without the library. A name carries its number."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import meta_keras as mk

SUPPORT_X = np.float32([[0, 0], [2, 0], [4, 4], [6, 4]])
SUPPORT_Y = np.int32([0, 0, 1, 1])
QUERY_X = np.float32([[1, 0], [5, 5], [3, 1]])
QUERY_Y = np.int32([0, 1, 1])


def identity_learner():
    network = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    return mk.MetaLearner(network=network, rule=mk.rules.Prototypes())


def one_task(*arrays):
    return tuple(tf.constant(array)[None] for array in arrays)


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def walk(optimizer, gradient, start, steps):
    place = keras.Variable(start, dtype="float32")
    for _ in range(steps):
        optimizer.apply([tf.constant(gradient(place.numpy()), tf.float32)], [place])
    return place.numpy()


def slope(place):
    return np.array([0.2, 3.0]) * place


START = np.array([-4.0, 1.5])


def test_formula_1_1_a_network_is_a_function_of_inputs_and_weights():
    pure = mk.functional.PureModel(mk.networks.mlp(2, input_shape=(3,), hidden=(4,)))
    rng = np.random.default_rng(0)
    theta = [rng.normal(size=w.shape).astype("float32") for w in pure.weights().trainable]
    x = rng.normal(size=(5, 3)).astype("float32")
    kernel, bias, last_kernel, last_bias = theta
    by_hand = np.maximum(x @ kernel + bias, 0) @ last_kernel + last_bias
    given = pure.weights()._replace(trainable=tuple(map(tf.constant, theta)))
    np.testing.assert_allclose(pure(given, x).outputs, by_hand, rtol=1e-5, atol=1e-5)


def test_formula_1_2_a_policy_turns_a_support_set_into_a_predictor():
    learner = identity_learner()
    scores = learner(one_task(SUPPORT_X, SUPPORT_Y, QUERY_X))[0].numpy()
    relabelled = learner(one_task(SUPPORT_X, 1 - SUPPORT_Y, QUERY_X))[0].numpy()
    np.testing.assert_array_equal(scores.argmax(axis=1), [0, 1, 0])
    np.testing.assert_allclose(relabelled, scores[:, ::-1])


def test_formula_1_3_a_distribution_draws_a_support_and_a_query_set():
    examples = np.arange(60, dtype=np.float32)[:, None]
    pool = mk.ClassPool.from_arrays(examples, np.repeat(np.arange(6), 10))
    episode = next(iter(mk.FewShot(pool, ways=3, shots=2, queries=4, meta_batch=5, seed=3)))
    for support, query in zip(episode.support_x.numpy(), episode.query_x.numpy(), strict=True):
        assert len({*support.ravel(), *query.ravel()}) == 3 * (2 + 4)
    for x, y in ((episode.support_x, episode.support_y), (episode.query_x, episode.query_y)):
        classes = x.numpy()[..., 0] // 10
        for task_classes, labels in zip(classes, y.numpy(), strict=True):
            assert len({*zip(task_classes, labels, strict=True)}) == 3


def test_formula_1_4_learning_to_learn_minimises_the_loss_on_the_queries_after_adapting():
    learner = identity_learner()
    learner.compile()
    scores = -((QUERY_X[:, None] - np.array([[1, 0], [5, 4]])) ** 2).sum(axis=-1)
    by_hand = -np.log(softmax(scores)[np.arange(3), QUERY_Y]).mean()
    tasks = tf.data.Dataset.from_tensors(mk.Episode(*one_task(SUPPORT_X, SUPPORT_Y, QUERY_X, QUERY_Y)))
    loss = learner.evaluate(tasks, steps=1, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(by_hand, rel=1e-5)


def test_formula_1_5_a_prototype_is_the_mean_of_its_class():
    learner = identity_learner()
    pure = learner.pure
    adapted = learner.rule.adapt(pure, pure.weights(), tf.constant(SUPPORT_X), tf.constant(SUPPORT_Y), training=False)
    np.testing.assert_allclose(adapted.outputs, [[1, 0], [5, 4]])


def test_formula_1_6_a_score_is_the_negative_squared_distance():
    scores = identity_learner()(one_task(SUPPORT_X, SUPPORT_Y, QUERY_X))[0]
    np.testing.assert_allclose(scores, [[0, -32], [-41, -1], [-5, -13]])


@pytest.mark.parametrize(("values", "half"), [([1, 3], 12.7062), ([1, 2, 3, 4, 5], 1.96324), (range(601), 13.9102)])
def test_formula_1_7_the_interval_of_a_mean(values, half):
    mean, found = mk.report.mean_and_interval(list(values))
    assert mean == pytest.approx(np.mean(list(values)))
    assert found == pytest.approx(half, rel=1e-4)


def test_formula_2_1_standardisation():
    train, standard = mk.classical.preprocess_data(np.uint8([[0, 51], [102, 255]]))
    scaled = np.array([[0.0, 0.2], [0.4, 1.0]])
    np.testing.assert_allclose(train, (scaled - 0.4) / np.sqrt(0.14), rtol=1e-5)
    other, _ = mk.classical.preprocess_data(np.uint8([[255]]), standard)
    np.testing.assert_allclose(other, 0.6 / np.sqrt(0.14), rtol=1e-5)


def test_formula_2_2_softmax_is_the_last_layer_of_d4s_network():
    network = mk.classical.create_model((4, 4, 1), 3)
    last = network.layers[-1]
    inputs = np.random.default_rng(0).normal(size=(2, 64)).astype("float32")
    by_hand = softmax(inputs @ last.kernel.numpy() + last.bias.numpy())
    np.testing.assert_allclose(last(inputs), by_hand, rtol=1e-5)


def test_formula_2_3_cross_entropy():
    loss = keras.losses.CategoricalCrossentropy()(np.float32([[0, 1]]), np.float32([[0.25, 0.75]]))
    assert float(loss) == pytest.approx(0.2876821, rel=1e-5)


def test_formula_2_4_gradient_descent():
    place = START
    for _ in range(7):
        place = place - 0.1 * slope(place)
    np.testing.assert_allclose(walk(keras.optimizers.SGD(0.1), slope, START, 7), place, rtol=1e-5)
    assert walk(keras.optimizers.SGD(0.1), lambda x: 2 * x, np.array(1.0), 2) == pytest.approx(0.64)


def test_formula_2_5_momentum():
    place, velocity = START, 0.0
    for _ in range(7):
        velocity = 0.8 * velocity - 0.1 * slope(place)
        place = place + velocity
    np.testing.assert_allclose(walk(keras.optimizers.SGD(0.1, momentum=0.8), slope, START, 7), place, rtol=1e-5)


def test_formula_2_6_adagrad():
    place, gathered = START, 0.1
    for _ in range(7):
        gradient = slope(place)
        gathered = gathered + gradient**2
        place = place - 0.5 * gradient / np.sqrt(gathered + 1e-7)
    optimizer = keras.optimizers.Adagrad(0.5, initial_accumulator_value=0.1)
    np.testing.assert_allclose(walk(optimizer, slope, START, 7), place, rtol=1e-5)


def test_formula_2_7_adam():
    place, m, v = START, 0.0, 0.0
    for t in range(1, 8):
        gradient = slope(place)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        place = place - 0.3 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(walk(keras.optimizers.Adam(0.3), slope, START, 7), place, rtol=1e-4)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.5), (39, 0.5), (40, 0.2), (79, 0.2), (80, 0.08)])
def test_formula_2_8_step_decay(step, rate):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, decay_steps=40, decay_rate=0.4, staircase=True)
    assert float(schedule(step)) == pytest.approx(rate)


@pytest.mark.parametrize("step", [0, 1, 60, 200])
def test_formula_2_9_exponential_decay(step):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, decay_steps=40, decay_rate=0.4)
    assert float(schedule(step)) == pytest.approx(0.5 * 0.4 ** (step / 40), rel=1e-5)


# Chapter 10: one weight with the answer theta * x at x = 1, and a linear network of two weights


def learner_of_weights(rule, *weights):
    network = keras.Sequential([keras.Input((len(weights),)), keras.layers.Dense(1, use_bias=False)])
    network.set_weights([np.float32(weights)[:, None]])
    learner = mk.MetaLearner(network=network, rule=rule, parallel="unrolled")
    learner.compile(loss="mse")
    return learner


def theta_after(learner, x, y):
    return learner.adapt(np.float32(x), np.float32(y)).get_weights()[0].ravel()


def meta_gradients(learner, support_x, support_y, query_x, query_y):
    arrays = [tf.constant(np.float32(array))[None] for array in (support_x, support_y, query_x)]
    return [g.numpy().ravel() for g in learner.meta_gradients(tuple(arrays), np.float32(query_y)[None])[2][1]]


LINEAR_START = np.array([0.5, -1.0])
LINEAR_SUPPORT = np.array([[1.0, 2.0], [0.0, 1.0], [-1.0, 1.0]]), np.array([[1.0], [2.0], [0.5]])
LINEAR_QUERY = np.array([[2.0, 0.0], [1.0, -1.0]]), np.array([[1.0], [-1.0]])
LINEAR_TASK = (*LINEAR_SUPPORT, *LINEAR_QUERY)


def linear_slope(theta, x, y):
    return 2 * (x.T @ (x @ theta - y.ravel())) / len(x)


def linear_hessian(x):
    return 2 * x.T @ x / len(x)


def test_formula_10_1_steps_on_the_support_loss():
    rule = mk.rules.GradientDescent(0.1, steps=3)
    assert theta_after(learner_of_weights(rule, 0.0), [[1]], [[2]]) == pytest.approx(2 - 2 * 0.8**3)
    theta = LINEAR_START
    for _ in range(3):
        theta = theta - 0.1 * linear_slope(theta, *LINEAR_SUPPORT)
    np.testing.assert_allclose(theta_after(learner_of_weights(rule, *LINEAR_START), *LINEAR_SUPPORT), theta, rtol=1e-5)


def test_formula_10_2_the_meta_gradient_is_the_slope_of_the_query_loss_after_adapting():
    def query_loss(theta):
        for _ in range(3):
            theta = theta - 0.1 * linear_slope(theta, *LINEAR_SUPPORT)
        return np.mean((LINEAR_QUERY[0] @ theta - LINEAR_QUERY[1].ravel()) ** 2)

    learner = learner_of_weights(mk.rules.GradientDescent(0.1, steps=3), *LINEAR_START)
    nudges = 1e-5 * np.eye(2)
    differences = [(query_loss(LINEAR_START + n) - query_loss(LINEAR_START - n)) / 2e-5 for n in nudges]
    np.testing.assert_allclose(meta_gradients(learner, *LINEAR_TASK)[0], differences, rtol=1e-4)


def test_formula_10_3_one_step_puts_one_minus_alpha_hessian_before_the_query_slope():
    learner = learner_of_weights(mk.rules.GradientDescent(0.1), 0.0)
    assert meta_gradients(learner, [[1]], [[2]], [[1]], [[3]])[0] == pytest.approx(-4.16, rel=1e-5)
    adapted = LINEAR_START - 0.1 * linear_slope(LINEAR_START, *LINEAR_SUPPORT)
    bracket = np.eye(2) - 0.1 * linear_hessian(LINEAR_SUPPORT[0])
    learner = learner_of_weights(mk.rules.GradientDescent(0.1), *LINEAR_START)
    wanted = bracket @ linear_slope(adapted, *LINEAR_QUERY)
    np.testing.assert_allclose(meta_gradients(learner, *LINEAR_TASK)[0], wanted, rtol=1e-5)


def test_formula_10_4_first_order_is_the_query_slope_where_adapting_ends():
    rule = mk.rules.GradientDescent(0.1, first_order=True)
    assert meta_gradients(learner_of_weights(rule, 0.0), [[1]], [[2]], [[1]], [[3]])[0] == pytest.approx(-5.2)
    adapted = LINEAR_START - 0.1 * linear_slope(LINEAR_START, *LINEAR_SUPPORT)
    found = meta_gradients(learner_of_weights(rule, *LINEAR_START), *LINEAR_TASK)[0]
    np.testing.assert_allclose(found, linear_slope(adapted, *LINEAR_QUERY), rtol=1e-5)


def test_formula_10_5_meta_sgd_has_a_rate_for_each_weight_and_learns_it():
    learner = learner_of_weights(mk.rules.GradientDescent(0.1, learn_rates="weight"), *LINEAR_START)
    rates = np.array([0.3, -0.05])
    learner.rule.rates[0].assign(rates[:, None])
    uphill = linear_slope(LINEAR_START, *LINEAR_SUPPORT)
    adapted = LINEAR_START - rates * uphill
    np.testing.assert_allclose(theta_after(learner, *LINEAR_SUPPORT), adapted, rtol=1e-5)
    _, for_rates = meta_gradients(learner, *LINEAR_TASK)
    np.testing.assert_allclose(for_rates, -uphill * linear_slope(adapted, *LINEAR_QUERY), rtol=1e-4)


@pytest.mark.parametrize(("batches", "first"), [(0, 1 / 2), (5, 1 / 4), (10, 0), (99, 0)])
def test_formula_10_6_the_query_losses_of_all_steps_count_and_in_the_end_the_last_alone(batches, first):
    learner = learner_of_weights(mk.rules.GradientDescent(0.1, steps=2, multi_step=10), 0.0)
    learner.optimizer.iterations.assign(batches)
    one, two, three = ([[number]] for number in (1, 2, 3))
    batch = [tf.constant(np.float32(array))[None] for array in (one, two, one, three)]
    loss = learner.meta_gradients(tuple(batch[:3]), batch[3])[2][0]
    assert float(loss) == pytest.approx(first * (0.4 - 3) ** 2 + (1 - first) * (0.72 - 3) ** 2, rel=1e-5)


def test_formula_10_7_reptile_pulls_the_start_towards_where_it_ends():
    learner = learner_of_weights(mk.rules.Reptile(0.1, steps=3), 0.0)
    found = meta_gradients(learner, [[1]], [[2]], [[1]], [[3]])[0]
    assert found == pytest.approx(-(2 - 2 * 0.8**3), rel=1e-5)


def leashed_minimum(strength):
    """Where the slope of the support loss and the pull of the leash cancel; for a linear network, one system."""
    x, y = LINEAR_SUPPORT
    pull = strength * np.eye(2)
    return np.linalg.solve(linear_hessian(x) + pull, 2 * x.T @ y.ravel() / len(x) + strength * LINEAR_START)


def test_formula_10_8_imaml_adapts_on_a_leash():
    rule = mk.rules.ImplicitGradient(0.1, steps=300, strength=0.7)
    found = theta_after(learner_of_weights(rule, *LINEAR_START), *LINEAR_SUPPORT)
    np.testing.assert_allclose(found, leashed_minimum(0.7), rtol=1e-4)


def test_formula_10_9_the_implicit_gradient_solves_a_system():
    rule = mk.rules.ImplicitGradient(0.1, steps=300, strength=0.7, conjugate_steps=2)
    found = meta_gradients(learner_of_weights(rule, *LINEAR_START), *LINEAR_TASK)[0]
    system = np.eye(2) + linear_hessian(LINEAR_SUPPORT[0]) / 0.7
    wanted = np.linalg.solve(system, linear_slope(leashed_minimum(0.7), *LINEAR_QUERY))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


# Chapter 13: the linear network of two weights, blended from a source


SOURCE = np.array([2.0, 1.5])


def sigmoid(omega):
    return 1 / (1 + np.exp(-omega))


def strategy_learner(kind=mk.transfer.Strategy, *sample, fresh=LINEAR_START, **settings):
    """A learner in float64, and how it answers `(omega) -> the query loss after adapting`."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    networks = [
        keras.Sequential([keras.Input((len(w),)), keras.layers.Dense(1, use_bias=False, name="only")])
        for w in (SOURCE[: len(fresh)], fresh)
    ]
    for network, weights in zip(networks, (SOURCE[: len(fresh)], fresh), strict=True):
        network.set_weights([weights[:, None]])
    rule = kind(networks[0], *sample, 0.1, **settings)
    learner = mk.MetaLearner(network=networks[1], rule=rule, parallel="map")
    learner.compile(loss=keras.losses.mean_squared_error)
    return learner


def linear_batch():
    support_x, support_y, query_x, query_y = (tf.constant(part)[None] for part in LINEAR_TASK)
    return (support_x, support_y, query_x), query_y


def strategy_loss(amount, steps=1):
    """The query loss after so many steps from the blend, by hand."""
    theta = amount * SOURCE + (1 - amount) * LINEAR_START
    for _ in range(steps):
        theta = theta - 0.1 * linear_slope(theta, *LINEAR_SUPPORT)
    x, y = LINEAR_QUERY
    return np.mean((x @ theta - y.ravel()) ** 2)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_formula_13_1_a_strategy_is_judged_by_the_queries_after_adapting(steps):
    learner = strategy_learner(amount=0.3, steps=steps)
    loss = learner.meta_gradients(*linear_batch())[2][0]
    assert float(loss) == pytest.approx(strategy_loss(0.3, steps), rel=1e-12)


@pytest.mark.parametrize("omega", [-1.2, 0.0, 2.5])
def test_formula_13_2_a_start_is_blended_by_a_sigmoid(omega):
    learner = strategy_learner(steps=0)
    learner.rule.omega.assign([omega])
    start = learner.adapt(*LINEAR_SUPPORT).get_weights()[0].ravel()
    np.testing.assert_allclose(start, sigmoid(omega) * SOURCE + (1 - sigmoid(omega)) * LINEAR_START, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_formula_13_3_the_slope_for_an_amount_is_that_of_the_start_along_the_way_to_the_source(steps):
    learner = strategy_learner(amount=0.3, steps=steps)
    found = learner.meta_gradients(*linear_batch())[2][1][-1].numpy().item()
    theta, bracket = 0.3 * SOURCE + 0.7 * LINEAR_START, np.eye(2)
    for _ in range(steps):
        theta = theta - 0.1 * linear_slope(theta, *LINEAR_SUPPORT)
        bracket = bracket @ (np.eye(2) - 0.1 * linear_hessian(LINEAR_SUPPORT[0]))
    for_start = bracket @ linear_slope(theta, *LINEAR_QUERY)
    assert found == pytest.approx(0.3 * 0.7 * (SOURCE - LINEAR_START) @ for_start, rel=1e-12)
    omega, h = np.log(0.3 / 0.7), 1e-6
    differences = (strategy_loss(sigmoid(omega + h), steps) - strategy_loss(sigmoid(omega - h), steps)) / (2 * h)
    assert found == pytest.approx(differences, rel=1e-7)


def test_formula_13_4_the_best_amount_for_bowls():
    rng = np.random.default_rng(0)
    curvatures, centres = rng.uniform(0.5, 4, 3), rng.uniform(0.5, 1.5, 3)
    x = np.sqrt(curvatures)[:, None, None]
    y = x * centres[:, None, None]
    left = (1 - 2 * 0.1 * curvatures) ** 2
    best = (np.average(centres, weights=curvatures * left**2) - 0.25) / (SOURCE[0] - 0.25)
    assert 0.1 < best < 0.9
    learner = strategy_learner(fresh=np.array([0.25]), amount=best, steps=2)
    slope = learner.meta_gradients((tf.constant(x), tf.constant(y), tf.constant(x)), tf.constant(y))[2][1][-1]
    assert slope.numpy().item() == pytest.approx(0, abs=1e-12)
    learner.rule.omega.assign(learner.rule.omega + 0.1)
    slope = learner.meta_gradients((tf.constant(x), tf.constant(y), tf.constant(x)), tf.constant(y))[2][1][-1]
    assert slope.numpy().item() > 1e-4


def compared(answers, sample, labels):
    """Formula 13.6 by hand, for answers of shape (examples, numbers)."""
    means = np.array([answers[labels == label].mean(axis=0) for label in labels])
    square, of_sample, between = (np.mean(np.sum((a - a.mean(axis=0)) ** 2, axis=1)) for a in (answers, sample, means))
    apart = np.linalg.norm(answers.mean(axis=0) - sample.mean(axis=0)) / np.sqrt(of_sample)
    return np.array([apart, np.log(np.sqrt(square / of_sample)), between / square])


def test_formula_13_5_the_amounts_come_from_what_is_seen_of_the_task():
    rng = np.random.default_rng(0)
    sample, labels = rng.normal(size=(9, 2)), np.array([0, 1, 1, 0, 1])
    learner = strategy_learner(mk.transfer.StrategyNetwork, sample, hidden=4)
    first, bias, last = (rng.normal(size=w.shape) for w in learner.rule.policy.weights)
    learner.rule.policy.set_weights([first, bias, last])
    learner.rule.omega.assign([0.4])
    support = 2 * rng.normal(size=(5, 2)) + 1
    told = np.tanh(compared(support @ SOURCE[:, None], sample @ SOURCE[:, None], labels) @ first + bias) @ last
    found = learner.rule.amounts(support, labels)["only"]
    assert found == pytest.approx(sigmoid(0.4 + told.item()), rel=1e-4)  # inputs are taken in float32


def test_formula_13_6_a_task_is_compared_with_the_source():
    rng = np.random.default_rng(1)
    sample, support, labels = rng.normal(size=(9, 4, 4, 1)), rng.normal(size=(6, 4, 4, 1)), np.array([0, 2, 1, 0, 2, 1])
    source, fresh = (
        keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 2, name="conv"), keras.layers.Flatten()])
        for _ in range(2)
    )
    rule = mk.transfer.StrategyNetwork(source, sample, 0.1)
    mk.MetaLearner(network=fresh, rule=rule)
    seen = rule.compare(tf.constant(support, "float32"), tf.constant(labels))
    by_hand = compared(*(source(x.astype("float32")).numpy() for x in (support, sample)), labels)
    np.testing.assert_allclose(seen, [by_hand], rtol=1e-4)
