"""Every formula of the chapters, against numbers computed without the library. Test names contain formula numbers."""

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
    theta = [rng.normal(size=w.shape).astype("float32") for w in pure.weights().parameters]
    x = rng.normal(size=(5, 3)).astype("float32")
    kernel, bias, last_kernel, last_bias = theta
    by_hand = np.maximum(x @ kernel + bias, 0) @ last_kernel + last_bias
    given = pure.weights()._replace(parameters=tuple(map(tf.constant, theta)))
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


def test_formula_1_4_meta_learning_minimizes_the_loss_on_the_queries_after_adaptation():
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
    context = mk.rules.Context(None, ways=2)
    adapted = learner.rule.adapt(pure, pure.weights(), tf.constant(SUPPORT_X), tf.constant(SUPPORT_Y), context)
    np.testing.assert_allclose(adapted.memory[0], [[1, 0], [5, 4]])


def test_formula_1_6_a_logit_is_the_negative_squared_distance():
    scores = identity_learner()(one_task(SUPPORT_X, SUPPORT_Y, QUERY_X))[0]
    np.testing.assert_allclose(scores, [[0, -32], [-41, -1], [-5, -13]])


@pytest.mark.parametrize(("values", "half"), [([1, 3], 12.7062), ([1, 2, 3, 4, 5], 1.96324), (range(601), 13.9102)])
def test_formula_1_7_the_interval_of_a_mean(values, half):
    mean, found = mk.report.mean_and_interval(list(values))
    assert mean == pytest.approx(np.mean(list(values)))
    assert found == pytest.approx(half, rel=1e-4)


def test_formula_2_1_standardization():
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


@pytest.mark.parametrize(("step", "rate"), [(0, 0.5), (60, 0.25 * (1 + np.cos(0.3 * np.pi))), (100, 0.25), (200, 0.0)])
def test_formula_2_10_cosine_decay(step, rate):
    schedule = keras.optimizers.schedules.CosineDecay(0.5, decay_steps=200)
    assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


# Chapter 10: one weight with the prediction theta * x at x = 1, and a linear network of two weights


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


DOMAINS = np.random.default_rng(6).normal(size=(2, 7, 3)) * [[[1.0]], [[2.0]]]


def features_as_inputs(method, weight):
    layers = [keras.layers.Dense(3, name="features"), keras.layers.Dense(2)]
    network = keras.Sequential([keras.Input((3,)), *layers])
    learner = mk.transfer.DomainAdaptation(network, layer="features", method=method, weight=weight, hidden=4)
    network.get_layer("features").set_weights([np.eye(3), np.zeros(3)])
    return learner


def entropy_of_the_source(learner, source, y):
    kernel, bias = learner.network.layers[-1].get_weights()
    return -np.log(softmax(source @ kernel + bias)[np.arange(len(y)), y]).mean()


def test_formula_6_1_the_loss_of_the_source_and_that_of_the_domains():
    learner, y = features_as_inputs("coral", 0.4), np.array([0, 1, 0, 1, 1, 0, 0])
    apart = ((np.cov(DOMAINS[0], rowvar=False) - np.cov(DOMAINS[1], rowvar=False)) ** 2).sum() / 36
    by_hand = entropy_of_the_source(learner, DOMAINS[0], y) + 0.4 * apart
    learner.compile(keras.optimizers.SGD(0.0))
    loss = learner.fit(tuple(DOMAINS.astype("float32")), y, batch_size=7, shuffle=False, verbose=0).history["loss"][0]
    assert loss == pytest.approx(by_hand, rel=1e-5)


def test_formula_6_2_coral_is_the_distance_of_covariances():
    centred = DOMAINS - DOMAINS.mean(axis=1, keepdims=True)
    covariances = [rows.T @ rows / 6 for rows in centred]
    by_hand = ((covariances[0] - covariances[1]) ** 2).sum() / (4 * 3**2)
    np.testing.assert_allclose(mk.transfer.coral_loss(*map(tf.constant, DOMAINS)), by_hand, rtol=1e-10)


def test_formula_6_3_the_discriminator_goes_down_its_loss_and_the_features_go_up():
    learner, y = features_as_inputs("reversal", 0.4), np.array([0, 1, 0, 1, 1, 0, 0])
    (first, _), (last, _) = (layer.get_weights() for layer in learner.discriminator.layers[1:])
    rows, domain = DOMAINS.reshape(14, 3), np.repeat([0.0, 1.0], 7)[:, None]
    hidden = np.maximum(rows @ first, 0)
    wrong = (1 / (1 + np.exp(-hidden @ last)) - domain) / 14
    within = wrong @ last.T * (hidden > 0)
    discriminator, features = rows.T @ within, rows.T @ (within @ first.T)
    kernel, _ = learner.network.layers[-1].get_weights()
    of_source = DOMAINS[0].T @ ((softmax(DOMAINS[0] @ kernel) - np.eye(2)[y]) / 7 @ kernel.T)
    learner.compile(keras.optimizers.SGD(1.0))
    learner.fit(tuple(DOMAINS.astype("float32")), y, batch_size=7, shuffle=False, verbose=0)
    moved = np.eye(3) - learner.network.layers[0].get_weights()[0]
    np.testing.assert_allclose(moved, of_source - 0.4 * features, rtol=1e-4, atol=1e-5)
    step = first - learner.discriminator.layers[1].get_weights()[0]
    np.testing.assert_allclose(step, 0.4 * discriminator, rtol=1e-4, atol=1e-5)


def test_formula_6_4_reversal_changes_nothing_forward_and_the_sign_backward():
    x = tf.Variable(DOMAINS[0])
    with tf.GradientTape() as tape:
        given = mk.transfer.GradientReversal(0.3, dtype="float64")(x)
        height = tf.reduce_sum(given**3)
    np.testing.assert_array_equal(given, DOMAINS[0])
    np.testing.assert_allclose(tape.gradient(height, x), -0.3 * 3 * DOMAINS[0] ** 2, rtol=1e-12)


def test_formula_6_5_a_score_is_the_projection_times_the_description():
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    learner = mk.transfer.ZeroShot(encoder, descriptions=[[1, 0, 1], [1, 1, 0]])
    learner.projection.set_weights([np.array([[1.0, 0, 2], [0, 1, 1]]), np.array([0.0, 0, -2])])
    np.testing.assert_allclose(learner(np.float32([[2, -1]])), [[3, 1]], err_msg="projected to (2, -1, 1)")


def test_formula_6_6_the_harmonic_mean_of_two_accuracies():
    assert mk.transfer.harmonic_mean(0.9, 0.1) == pytest.approx(2 * 0.09 / 1.0)


def test_formula_6_7_the_seen_classes_give_up_a_constant():
    found = mk.transfer.calibrated(np.array([[2.0, 1.5, 0.0]]), [0, 2], 1.0)
    np.testing.assert_allclose(found, [[1.0, 1.5, -1.0]])


def generated_by(rule, network, *task, ways=None):
    """The weights that a rule whose learned weights are random generates for a support set."""
    learner = mk.MetaLearner(network=network, rule=rule, ways=ways)
    for n, variable in enumerate(rule.trainable_variables):
        variable.assign(np.random.default_rng(n).normal(size=variable.shape) / 2)
    found = learner.predictor(*task).adaptation.weights.parameters
    return learner, [weight.numpy() for weight in found]


def through(layers, rows):
    """A perceptron by hand: the kernels and biases in turn, with ReLUs between them."""
    weights = [weight.numpy() for layer in layers for weight in layer.weights]
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    for number, (kernel, bias) in enumerate(pairs):
        rows = rows @ kernel + bias
        rows = np.maximum(rows, 0) if number < len(pairs) - 1 else rows
    return rows


SUPPORT_TARGETS = np.float32([[1], [0], [2], [-1]])


def test_formula_8_1_a_description_is_a_mean_over_the_support_examples():
    rule = mk.rules.WeightGenerator(None, code=3, hidden=(5,))
    generated_by(rule, mk.networks.mlp(1, input_shape=(2,), hidden=(4,)), SUPPORT_X, SUPPORT_TARGETS)
    rows = np.concatenate([SUPPORT_X, SUPPORT_TARGETS], axis=1)
    by_hand = through([rule.meta_input], rows).mean(axis=0)
    np.testing.assert_allclose(rule.meta_input(rows).numpy().mean(axis=0), by_hand, rtol=1e-5)


def test_formula_8_2_what_is_generated_is_added_to_the_weights():
    rule = mk.rules.WeightGenerator("head", code=3, hidden=(5,))
    network = mk.networks.mlp(1, input_shape=(2,), hidden=(4,))
    _, found = generated_by(rule, network, SUPPORT_X, SUPPORT_TARGETS)
    *below, kernel, bias = network.get_weights()
    features = np.maximum(SUPPORT_X @ below[0] + below[1], 0)
    code = through([rule.meta_input], np.concatenate([features, SUPPORT_TARGETS], axis=1)).mean(axis=0)
    change = through([rule.meta_hidden, rule.meta_output], code)
    np.testing.assert_allclose(found[2], kernel + change[:4, None], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[3], bias + change[4:], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[0], below[0])


@pytest.mark.parametrize("prototypes", [False, True])
def test_formula_8_3_a_column_comes_from_the_examples_of_its_class(prototypes):
    rule = mk.rules.WeightGenerator(per_class=True, prototypes=prototypes, code=3, hidden=(5,))
    network = mk.networks.mlp(2, input_shape=(2,), hidden=(4,))
    _, found = generated_by(rule, network, SUPPORT_X, SUPPORT_Y)
    features = np.maximum(SUPPORT_X @ network.get_weights()[0] + network.get_weights()[1], 0)
    codes = through([rule.meta_input], features).reshape(2, 2, 3).mean(axis=1)
    rows = np.concatenate([codes, np.repeat(codes.mean(axis=0, keepdims=True), 2, axis=0)], axis=1)
    columns = through([rule.meta_hidden, rule.meta_output], rows)
    if prototypes:
        means = features.reshape(2, 2, 4).mean(axis=1)
        columns += np.concatenate([2 * means, -(means**2).sum(axis=1, keepdims=True)], axis=1)
    np.testing.assert_allclose(found[2], columns[:, :4].T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[3], columns[:, 4], rtol=1e-4, atol=1e-5)


def test_formula_8_4_inputs_and_outputs_are_described_in_pairs():
    rule = mk.rules.CoordinateGenerator(code=3, components=4, hidden=5)
    learner, _ = generated_by(rule, mk.networks.mlp(2, input_shape=(2,), hidden=(4,)), SUPPORT_X, SUPPORT_Y)
    found = rule.describe(SUPPORT_X, tf.constant(SUPPORT_Y), 2, mk.rules.Context(learner._loss_of))
    for j, k in np.ndindex(2, 2):
        rows = np.stack([SUPPORT_X[:, j], np.eye(2)[SUPPORT_Y][:, k]], axis=1)
        mean = through([rule.reader], rows).mean(axis=0)
        gamma, beta = rule.normalize.get_weights()
        normalized = (mean - mean.mean()) / np.sqrt(mean.var() + rule.normalize.epsilon) * gamma + beta
        by_hand = through([rule.summary], normalized)
        np.testing.assert_allclose(found[j, k], by_hand, rtol=1e-4, atol=1e-5)


def test_formula_8_5_a_weight_is_a_product_of_its_place_and_the_task():
    rule = mk.rules.CoordinateGenerator(code=3, components=4, hidden=5)
    network = mk.networks.mlp(2, input_shape=(2,), hidden=(4,))
    learner, found = generated_by(rule, network, SUPPORT_X, SUPPORT_Y)
    s = rule.describe(SUPPORT_X, tf.constant(SUPPORT_Y), 2, mk.rules.Context(learner._loss_of)).numpy()
    whole, by_input, by_output = s.mean(axis=(0, 1)), s.mean(axis=1), s.mean(axis=0)
    seen = [(0, 0, 2, 1, by_input[1], whole), (2, 1, 4, 3, whole, by_output[1])]
    for number, layer, inputs, row, of_row, of_column in seen:
        column = 1
        place = [(row + 0.5) / (2, 4)[layer], (column + 0.5) / (4, 2)[layer]]
        waves = [wave(np.pi * 2**k * p) for k in range(6) for p in place for wave in (np.sin, np.cos)]
        u = through([rule.basis], np.array([*waves, layer == 0, layer == 1, False, layer], float))
        z = through([rule.task], np.concatenate([whole, of_row, of_column]))
        assert found[number][row, column] == pytest.approx(u @ z / np.sqrt(4 * inputs), rel=1e-3, abs=1e-5)


class WithDecay(mk.rules.Update):
    """A meta-optimizer by hand: its memory is the last update."""

    def init(self, parameters):
        return [tf.zeros_like(one) for one in parameters]

    def update(self, gradients, state, parameters, step):
        moves = [-0.1 * g + 0.5 * last for g, last in zip(gradients, state, strict=True)]
        return moves, moves


def test_formula_9_1_a_meta_optimizer_turns_gradient_and_memory_into_an_update():
    learner = learner_of_weights(mk.rules.GradientDescent(WithDecay(), steps=4), *LINEAR_START)
    theta, memory = LINEAR_START, np.zeros(2)
    for _ in range(4):
        memory = -0.1 * linear_slope(theta, *LINEAR_SUPPORT) + 0.5 * memory
        theta = theta + memory
    np.testing.assert_allclose(theta_after(learner, *LINEAR_SUPPORT), theta, rtol=1e-5)


def learner_of_rates(per, rates, start, **settings):
    rule = mk.rules.GradientDescent(mk.rules.LearnedRates(0.1, per, **settings), steps=2)
    learner = learner_of_weights(rule, *start)
    learner.rule.transform.rates[0].assign(rates)
    return learner


def test_formula_9_2_every_layer_has_a_rate_of_its_own_in_every_step():
    network = keras.Sequential([keras.Input((1,)), *(keras.layers.Dense(1, use_bias=False) for _ in range(2))])
    network.set_weights([np.float32([[0.5]]), np.float32([[2.0]])])
    rates = mk.rules.LearnedRates(0.1, "layer-step")
    learner = mk.MetaLearner(network=network, rule=mk.rules.GradientDescent(rates, 2), parallel="unrolled")
    learner.compile(loss="mse")
    first, second = np.array([0.1, 0.02]), np.array([0.03, 0.2])
    for variable, value in zip(rates.rates, (first, second), strict=True):
        variable.assign(value)
    a, b = 0.5, 2.0
    for step in range(2):  # the loss is (3 a b - 4)^2
        outer = 2 * (3 * a * b - 4) * 3
        a, b = a - first[step] * outer * b, b - second[step] * outer * a
    expert = learner.adapt(np.float32([[3]]), np.float32([[4]]))
    np.testing.assert_allclose(np.ravel(expert.get_weights()), [a, b], rtol=1e-5)


def test_formula_9_3_a_hypergradient_is_minus_the_product_of_two_gradients():
    rates = np.array([0.05, 0.2])
    learner = learner_of_rates("step", rates, LINEAR_START)
    first = linear_slope(LINEAR_START, *LINEAR_SUPPORT)
    middle = LINEAR_START - rates[0] * first
    second = linear_slope(middle, *LINEAR_SUPPORT)
    of_query = linear_slope(middle - rates[1] * second, *LINEAR_QUERY)
    # The query loss as a function of the weights after the first step: one more step follows.
    through = (np.eye(2) - rates[1] * linear_hessian(LINEAR_SUPPORT[0])) @ of_query
    _, found = meta_gradients(learner, *LINEAR_TASK)
    np.testing.assert_allclose(found, [-first @ through, -second @ of_query], rtol=1e-4)


def test_formula_9_4_a_logarithmic_rate_has_the_hypergradient_times_the_rate():
    rates = np.array([0.05, 0.2])
    _, plain = meta_gradients(learner_of_rates("step", rates, LINEAR_START), *LINEAR_TASK)
    learner = learner_of_rates("step", np.log(rates), LINEAR_START, logarithmic=True)
    np.testing.assert_allclose(learner.rule.transform.values()["all"], rates, rtol=1e-6)
    _, found = meta_gradients(learner, *LINEAR_TASK)
    np.testing.assert_allclose(found, rates * plain, rtol=1e-4)


def test_formula_9_6_hypergradient_descent_is_a_step_along_the_hypergradient_of_the_next_loss():
    theta, rate = LINEAR_START, 0.05
    before = linear_slope(theta, *LINEAR_SUPPORT)
    x, y = LINEAR_SUPPORT[0], np.ravel(LINEAR_SUPPORT[1])

    def next_loss(rate):
        return np.mean((x @ (theta - rate * before) - y) ** 2)

    agreement = before @ linear_slope(theta - rate * before, *LINEAR_SUPPORT)
    difference = (next_loss(rate + 1e-6) - next_loss(rate - 1e-6)) / 2e-6
    assert agreement == pytest.approx(-difference, rel=1e-6)


def test_formula_9_5_is_the_mean_square_of_a_weight_with_noisy_gradients():
    generator, curvature, noise, square = np.random.default_rng(0), 0.7, 1.5, 4.0
    theta = np.full(200_000, 2.0)
    for rate in (0.5, 0.3, 0.8):
        theta = theta - rate * curvature * (theta - noise * generator.normal(size=theta.shape))
        square = (1 - rate * curvature) ** 2 * square + (rate * curvature * noise) ** 2
    assert np.mean(theta**2) == pytest.approx(square, rel=0.02)


@pytest.mark.parametrize("kind", ["regression", "labels"])
def test_formula_9_7_a_learned_loss_weighs_examples_and_adds_a_term(kind):
    rule = mk.rules.LearnedLoss(0.1, hidden=(3, 2))
    learner = mk.MetaLearner(network=mk.networks.mlp(2 if kind == "labels" else 1, hidden=(2,)), rule=rule)
    learner.compile(loss=None if kind == "labels" else "mse")
    generator = np.random.default_rng(0)
    for variable in rule.loss_weights:
        variable.assign(generator.normal(size=variable.shape))
    (into, within, out), (first, second, last) = ([v.numpy() for v in some] for some in (rule.kernels, rule.biases))
    if kind == "labels":
        y, answers = np.array([0, 1, 1]), np.float32([[1, -1], [0.5, 2], [3, 0]])
        target, given = np.eye(2)[y], softmax(answers)
        losses = -np.log(given[np.arange(3), y])
    else:
        y, answers = np.float32([[1], [-4], [0]]), np.float32([[0.5], [2], [0.1]])
        target, given, losses = y, answers, ((y - answers) ** 2).ravel()
    features = np.stack([target, given, target - given, losses[:, None] + 0 * target], axis=-1)
    read = np.tanh(np.arcsinh(features) @ into + first).mean(axis=1)
    around = np.repeat(read.mean(axis=0, keepdims=True), 3, axis=0)
    w, c = (np.tanh(np.concatenate([read, around], axis=1) @ within + second) @ out + last).T
    wanted = losses.mean() + np.mean(np.tanh(w) * losses + c)
    found = rule.support_loss(tf.constant(y), tf.constant(answers), mk.rules.Context(learner._loss_of))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


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


def test_formula_10_3_several_steps_multiply_one_factor_per_step():
    learner = learner_of_weights(mk.rules.GradientDescent(0.1, steps=2), 0.0)
    assert meta_gradients(learner, [[1]], [[2]], [[1]], [[3]])[0] == pytest.approx(0.8**2 * 2 * (0.72 - 3), rel=1e-5)
    adapted = LINEAR_START
    for _ in range(3):
        adapted = adapted - 0.1 * linear_slope(adapted, *LINEAR_SUPPORT)
    factor = np.eye(2) - 0.1 * linear_hessian(LINEAR_SUPPORT[0])
    learner = learner_of_weights(mk.rules.GradientDescent(0.1, steps=3), *LINEAR_START)
    wanted = factor @ factor @ factor @ linear_slope(adapted, *LINEAR_QUERY)
    np.testing.assert_allclose(meta_gradients(learner, *LINEAR_TASK)[0], wanted, rtol=1e-5)


def test_formula_10_4_first_order_is_the_query_slope_where_adapting_ends():
    rule = mk.rules.GradientDescent(0.1, first_order=True)
    assert meta_gradients(learner_of_weights(rule, 0.0), [[1]], [[2]], [[1]], [[3]])[0] == pytest.approx(-5.2)
    adapted = LINEAR_START - 0.1 * linear_slope(LINEAR_START, *LINEAR_SUPPORT)
    found = meta_gradients(learner_of_weights(rule, *LINEAR_START), *LINEAR_TASK)[0]
    np.testing.assert_allclose(found, linear_slope(adapted, *LINEAR_QUERY), rtol=1e-5)


def test_formula_10_5_meta_sgd_has_a_rate_for_each_weight_and_learns_it():
    learner = learner_of_weights(mk.rules.GradientDescent(mk.rules.LearnedRates(0.1, "weight")), *LINEAR_START)
    rates = np.array([0.3, -0.05])
    learner.rule.transform.rates[0].assign(rates[:, None])
    uphill = linear_slope(LINEAR_START, *LINEAR_SUPPORT)
    adapted = LINEAR_START - rates * uphill
    np.testing.assert_allclose(theta_after(learner, *LINEAR_SUPPORT), adapted, rtol=1e-5)
    _, for_rates = meta_gradients(learner, *LINEAR_TASK)
    np.testing.assert_allclose(for_rates, -uphill * linear_slope(adapted, *LINEAR_QUERY), rtol=1e-4)


@pytest.mark.parametrize(("batches", "first"), [(0, 1 / 2), (5, 1 / 4), (10, 0), (99, 0)])
def test_formula_10_6_the_query_losses_of_all_steps_count_and_in_the_end_the_last_alone(batches, first):
    learner = learner_of_weights(mk.rules.GradientDescent(0.1, steps=2, multi_step=10), 0.0)
    learner.batches_seen.assign(batches)
    one, two, three = ([[number]] for number in (1, 2, 3))
    batch = [tf.constant(np.float32(array))[None] for array in (one, two, one, three)]
    loss = learner.meta_gradients(tuple(batch[:3]), batch[3])[2][0]
    assert float(loss) == pytest.approx(first * (0.4 - 3) ** 2 + (1 - first) * (0.72 - 3) ** 2, rel=1e-5)


def test_formula_10_7_reptile_pulls_the_start_towards_where_it_ends():
    learner = learner_of_weights(mk.rules.Reptile(0.1, steps=3), 0.0)
    found = meta_gradients(learner, [[1]], [[2]], [[1]], [[3]])[0]
    assert found == pytest.approx(-(2 - 2 * 0.8**3), rel=1e-5)


def leashed_minimum(strength):
    """Where the gradients of the support loss and the proximal term cancel; for a linear network, one system."""
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


def two_layers(low, high, units=2):
    """A network of two dense layers with these kernels, and no biases."""
    layers = [keras.layers.Dense(len(low[0]), use_bias=False, name="low")]
    layers += [keras.layers.Dense(units, use_bias=False, name="high")]
    model = keras.Sequential([keras.Input((len(low),)), *layers])
    model.set_weights([np.float32(low), np.float32(high)])
    return model


SOURCE_LAYERS = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
TARGET_LAYERS = [[10, 20], [30, 40]], [[50, 60], [70, 80]]


def test_formula_3_1_the_chosen_layers_take_the_weights_of_the_source():
    source, target = two_layers(*SOURCE_LAYERS), two_layers(*TARGET_LAYERS)
    mk.transfer.transfer_weights(source, target, ["low"])
    low, high = target.get_weights()
    np.testing.assert_array_equal(low, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(high, [[50, 60], [70, 80]])


def test_formula_3_2_a_head_learns_from_what_the_source_sees():
    source = two_layers(*SOURCE_LAYERS)
    x = np.float32([[1, -1]])
    features = mk.transfer.extract_features(mk.transfer.feature_extractor(source, "low"), x)
    np.testing.assert_allclose(features, [[-2, -2]])
    head = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    head.set_weights([np.float32([[0.5], [2]])])
    np.testing.assert_allclose(head(features), [[-5]])


def test_formula_3_3_a_layer_learns_more_slowly_the_deeper_it_lies():
    eta, alpha, x, y = 0.1, 0.001, np.float32([[1, -1]]), np.float32([[0, 1]])
    model = two_layers(*SOURCE_LAYERS)
    low, high = model.get_weights()
    hidden = x @ low
    slope = hidden @ high - y  # of the mean of two squares
    data = tf.data.Dataset.from_tensors((x, y))
    optimizer = mk.transfer.LayerwiseLearningRates(keras.optimizers.SGD(alpha), decay=eta)
    mk.transfer.fine_tune(model, data, train="all", optimizer=optimizer, verbose=0)
    np.testing.assert_allclose(model.get_weights()[1], high - alpha * hidden.T @ slope, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], low - alpha * eta * x.T @ (slope @ high.T), rtol=1e-5)


def test_formula_3_4_a_blend_is_the_weighted_mean():
    source, target = two_layers(*SOURCE_LAYERS), two_layers(*TARGET_LAYERS)
    mk.transfer.blend_weights(source, target, {"low": 0.25, "high": 0.5})
    low, high = target.get_weights()
    np.testing.assert_allclose(low, [[7.75, 15.5], [23.25, 31]])
    np.testing.assert_allclose(high, [[27.5, 33], [38.5, 44]])


def test_formula_3_5_the_answer_is_the_sum_of_the_source_and_the_residual():
    source, adapter = two_layers(*SOURCE_LAYERS), two_layers(*TARGET_LAYERS)
    x = np.float32([[1, 2]])
    by_hand = x @ np.array(SOURCE_LAYERS[0]) @ SOURCE_LAYERS[1] + x @ np.array(TARGET_LAYERS[0]) @ TARGET_LAYERS[1]
    np.testing.assert_allclose(mk.transfer.with_residual(source, adapter)(x), by_hand)


def test_formula_3_6_a_product_of_thin_matrices_is_added_to_the_weights():
    model = mk.transfer.with_low_rank(two_layers(*SOURCE_LAYERS), 1, "low")
    layer = model.get_layer("low")
    layer.lora_kernel_a.assign([[2.0], [-1.0]])
    layer.lora_kernel_b.assign([[0.5, 3.0]])
    np.testing.assert_allclose(layer.kernel, [[1 + 1, 2 + 6], [3 - 0.5, 4 - 3]])
    np.testing.assert_allclose(model(np.float32([[1, 1]])), np.array([[4.5, 9]]) @ SOURCE_LAYERS[1])


TEACHER_Z = np.array([[0.0, np.log(9)], [2.0, -1.0], [0.3, 0.1]])
STUDENT_Z = np.array([[0.0, 0.0], [1.0, 1.5], [-2.0, 2.0]])


@pytest.mark.parametrize(("temperature", "first"), [(1, [0.1, 0.9]), (2, [0.25, 0.75])])
def test_formula_5_1_soft_labels_are_a_softmax_of_scores_over_the_temperature(temperature, first):
    identity = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    found = mk.transfer.soft_labels(identity, TEACHER_Z, temperature).numpy()
    np.testing.assert_allclose(found[0], first, rtol=1e-5)
    np.testing.assert_allclose(found, softmax(TEACHER_Z / temperature), rtol=1e-5)


def test_formula_5_2_the_soft_loss_is_a_divergence_times_the_temperature_squared():
    student, teacher = tf.constant(STUDENT_Z), tf.constant(TEACHER_Z)
    found = mk.transfer.soft_loss(student=student, teacher=teacher, temperature=2.0).numpy()
    assert found[0] == pytest.approx(4 * (0.25 * np.log(0.5) + 0.75 * np.log(1.5)), rel=1e-12)
    p, q = softmax(TEACHER_Z / 2), softmax(STUDENT_Z / 2)
    np.testing.assert_allclose(found, 4 * (p * np.log(p / q)).sum(axis=1), rtol=1e-12)
    shifted = mk.transfer.soft_loss(student=teacher + 5, teacher=teacher, temperature=2.0)
    np.testing.assert_allclose(shifted, 0, atol=1e-12)


def soft_slopes(temperature):
    student = tf.constant(STUDENT_Z)
    with tf.GradientTape() as tape:
        tape.watch(student)
        rows = mk.transfer.soft_loss(student=student, teacher=tf.constant(TEACHER_Z), temperature=temperature)
        loss = tf.reduce_sum(rows)
    return tape.gradient(loss, student).numpy()


def test_formula_5_3_its_slope_is_the_difference_of_soft_labels_times_the_temperature():
    np.testing.assert_allclose(soft_slopes(2.0)[0], [0.5, -0.5], rtol=1e-12)
    for temperature in (0.5, 1.0, 7.0):
        wanted = temperature * (softmax(STUDENT_Z / temperature) - softmax(TEACHER_Z / temperature))
        np.testing.assert_allclose(soft_slopes(temperature), wanted, rtol=1e-9, atol=1e-12)
    centred = [scores - scores.mean(axis=1, keepdims=True) for scores in (STUDENT_Z, TEACHER_Z)]
    np.testing.assert_allclose(soft_slopes(1e3), (centred[0] - centred[1]) / 2, rtol=1e-2)


def linear_pair():
    """A student and a teacher with two layers each, and their weights."""
    pair = [mk.networks.mlp(2, input_shape=(2,), hidden=(width,), activation="linear") for width in (3, 4)]
    return pair, [model.get_weights() for model in pair]


def test_formula_5_4_the_whole_loss_is_a_weighted_sum():
    (student, teacher), weights = linear_pair()
    scores = [(QUERY_X @ w[0] + w[1]) @ w[2] + w[3] for w in weights]
    p, q = (softmax(z / 3) for z in reversed(scores))
    soft = 9 * (p * np.log(p / q)).sum(axis=1)
    hard = -np.log(softmax(scores[0])[np.arange(3), QUERY_Y])
    distiller = mk.transfer.Distiller(student, teacher, temperature=3.0, soft=0.7)
    loss = distiller.distill(tf.constant(QUERY_X), tf.constant(QUERY_Y))[1]
    np.testing.assert_allclose(loss, np.mean(0.7 * soft + 0.3 * hard), rtol=1e-4)


def test_formula_5_5_features_are_compared_through_a_linear_map():
    (student, teacher), weights = linear_pair()
    names = tuple(model.layers[0].name for model in (student, teacher))
    plain, hinted = (
        mk.transfer.Distiller(student, teacher, features=features, feature_weight=2.0) for features in (None, names)
    )
    losses = [made.distill(tf.constant(QUERY_X), tf.constant(QUERY_Y))[1] for made in (plain, hinted)]
    ours, theirs = (QUERY_X @ w[0] + w[1] for w in weights)
    apart = ours @ hinted.projection.kernel.numpy() - theirs
    np.testing.assert_allclose(losses[1] - losses[0], 2 * np.mean(apart**2), rtol=1e-3)


def test_formula_5_6_a_network_is_its_parts_one_after_the_other():
    network = mk.networks.mlp(2, input_shape=(2,), hidden=(3,))
    kernel, bias, last_kernel, last_bias = network.get_weights()
    front, back = mk.transfer.split_model(network, network.layers[0].name)
    seen = np.maximum(QUERY_X @ kernel + bias, 0)
    np.testing.assert_allclose(front(QUERY_X), seen, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(back(seen), seen @ last_kernel + last_bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        mk.transfer.join_models(front, back)(QUERY_X), seen @ last_kernel + last_bias, rtol=1e-5, atol=1e-6
    )


def test_formula_5_7_hidden_units_have_no_order():
    network = mk.networks.mlp(2, input_shape=(2,), hidden=(5,))
    kernel, bias, last_kernel, last_bias = (np.float32(w + 0.1) for w in network.get_weights())
    network.set_weights([kernel, bias, last_kernel, last_bias])
    answers, order = network(QUERY_X).numpy(), [3, 0, 4, 2, 1]
    swap = np.eye(5, dtype="float32")[order]
    shuffled = [kernel @ swap.T, swap @ bias, swap @ last_kernel, last_bias]
    network.set_weights(shuffled)
    np.testing.assert_allclose(network(QUERY_X), answers, rtol=1e-5, atol=1e-6)
    network.set_weights([*shuffled[:2], last_kernel, last_bias])
    assert not np.allclose(network(QUERY_X), answers, atol=1e-3)


def test_formula_5_8_a_stitch_is_a_linear_map_between_two_parts():
    one, other = (mk.networks.mlp(2, input_shape=(2,), hidden=(3,)) for _ in range(2))
    kernel, bias, last_kernel, last_bias = one.get_weights()
    swap = np.eye(3, dtype="float32")[[2, 0, 1]]
    other.set_weights([kernel @ swap.T, swap @ bias, swap @ last_kernel, last_bias])
    front, _ = mk.transfer.split_model(one, one.layers[0].name)
    _, back = mk.transfer.split_model(other, other.layers[0].name)
    stitch = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    stitch.set_weights([swap.T, np.zeros(3)])
    answers = mk.transfer.join_models(front, stitch, back)(QUERY_X)
    np.testing.assert_allclose(answers, one(QUERY_X), rtol=1e-5, atol=1e-6)


# Chapter 12: a head that starts from zero


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_formula_11_1_a_learned_update_is_known_updates_and_the_step_of_a_network(shape):
    update, rng = mk.rules.UpdateNetwork(0.1, hidden=(3,), step_size=0.2), np.random.default_rng(0)
    update.build()
    learned = [rng.normal(size=variable.shape).astype("float32") for variable in update.trainable_variables]
    for variable, value in zip(update.trainable_variables, learned, strict=True):
        variable.assign(value)
    coefficients, exponents, clock, context_kernel, kernel, bias, kernel_2, bias_2 = learned
    gradients, weight = rng.normal(size=(2, 5)), 0.1 * rng.normal(size=5)
    values = tf.reshape(tf.constant(weight, tf.float32), shape)
    state, decays = update.init([values]), np.array([[0.5], [0.9], [0.99]])
    momenta, square = np.zeros((3, 5)), np.zeros(5)
    for number, gradient in enumerate(gradients):
        step = mk.rules.Step(number, tf.constant(0.0), False)
        (change,), state = update.update([tf.constant(gradient.reshape(shape), tf.float32)], state, [values], step)
        momenta = decays * momenta + (1 - decays) * gradient
        square = 0.999 * square + 0.001 * gradient**2
    adam = momenta / (1 - decays**2) / (np.sqrt(square / (1 - 0.999**2)) + 1e-12)
    time = np.tanh(1 / np.array([3, 10, 30, 100, 300, 1000]) - 1)
    z = np.array([len(shape) > 1, *time[:4]])
    coefficients[4:] *= np.exp(z @ exponents)  # of Adam's updates; u = 0 for the others
    known = coefficients @ np.stack([gradient, *momenta, *adam])
    root = np.sqrt(square + 1e-5)
    scaled = [one / np.sqrt(np.mean(one**2) + 1e-5) for one in (gradient, weight, root)]
    features = np.stack([*scaled, gradient / root, *(momenta / root)])
    hidden = np.maximum(features.T @ kernel + bias + time @ clock + z @ context_kernel, 0)
    direction, magnitude = (hidden @ kernel_2 + bias_2).T
    wanted = -0.1 * known + 0.2 * direction * np.exp(0.001 * magnitude)
    np.testing.assert_allclose(change, wanted.reshape(shape), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("truncation", [1, 2, 3, 6])
def test_formula_11_2_the_start_of_every_segment_is_a_constant(truncation):
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    update = mk.rules.UpdateNetwork(0.1, base="sgd", hidden=(2,))
    training = mk.UnrolledTraining(
        network, update, steps=6, truncation=truncation, batch_size=2, clipnorm=1e9, starts=1
    )
    training.compile(loss="mse")
    x, y = tf.ones((1, 4, 1)), tf.zeros((1, 4, 1))  # the loss is the square of the weight
    _, _, (loss, gradients) = tf.function(training.meta_gradients)((x, y, x), y)
    assert float(loss) == pytest.approx(np.mean([0.8 ** (2 * k) for k in range(6)]), rel=1e-5)

    def mean_loss(coefficient, start):
        return np.mean([start**2 * (1 - 0.2 * coefficient) ** (2 * k) for k in range(truncation)])

    segments = [
        (mean_loss(1 + 1e-6, 0.8**first) - mean_loss(1 - 1e-6, 0.8**first)) / 2e-6 for first in range(0, 6, truncation)
    ]
    assert float(gradients[0][0]) == pytest.approx(np.mean(segments), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("layers", ["head", None])
def test_formula_12_1_one_step_from_a_zero_head_gives_centered_prototypes(layers):
    below = keras.layers.Dense(2, use_bias=False, name="below")
    head = keras.layers.Dense(2, activation="softmax", kernel_initializer="zeros", name="head")
    network = keras.Sequential([keras.Input((2,)), below, head])
    below.set_weights([np.float32([[2, 0], [0, 1]])])
    learner = mk.MetaLearner(network=network, rule=mk.rules.GradientDescent(0.6, layers=layers))
    expert = learner.adapt(SUPPORT_X, SUPPORT_Y)
    prototypes = np.array([[2, 0], [10, 4]])  # of the embeddings (0, 0), (4, 0) and (8, 4), (12, 4)
    weights, biases = expert.get_layer("head").get_weights()
    np.testing.assert_allclose(weights.T, 0.6 / 2 * (prototypes - [6, 2]), rtol=1e-5)
    np.testing.assert_allclose(biases, 0, atol=1e-7)
    np.testing.assert_array_equal(expert.get_layer("below").get_weights()[0], below.get_weights()[0])


# Chapter 13: the linear network of two weights, blended from a source


SOURCE = np.array([2.0, 1.5])


def sigmoid(omega):
    return 1 / (1 + np.exp(-omega))


def strategy_learner(kind=mk.transfer.Strategy, *sample, fresh=LINEAR_START, **settings):
    """A learner in float64, and the function `omega -> query loss after adapting`."""
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


def strategy_loss(coefficient, steps=1):
    """The query loss after this many steps from the blend, by hand."""
    theta = coefficient * SOURCE + (1 - coefficient) * LINEAR_START
    for _ in range(steps):
        theta = theta - 0.1 * linear_slope(theta, *LINEAR_SUPPORT)
    x, y = LINEAR_QUERY
    return np.mean((x @ theta - y.ravel()) ** 2)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_formula_13_1_a_strategy_is_judged_by_the_queries_after_adapting(steps):
    learner = strategy_learner(coefficient=0.3, steps=steps)
    loss = learner.meta_gradients(*linear_batch())[2][0]
    assert float(loss) == pytest.approx(strategy_loss(0.3, steps), rel=1e-12)


@pytest.mark.parametrize("omega", [-1.2, 0.0, 2.5])
def test_formula_13_2_a_start_is_blended_by_a_sigmoid(omega):
    learner = strategy_learner(steps=0)
    learner.rule.omega.assign([omega])
    start = learner.adapt(*LINEAR_SUPPORT).get_weights()[0].ravel()
    np.testing.assert_allclose(start, sigmoid(omega) * SOURCE + (1 - sigmoid(omega)) * LINEAR_START, rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_formula_13_3_the_slope_for_a_coefficient_is_that_of_the_start_along_the_way_to_the_source(steps):
    learner = strategy_learner(coefficient=0.3, steps=steps)
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


def test_formula_13_4_the_best_coefficient_for_bowls():
    rng = np.random.default_rng(0)
    curvatures, centres = rng.uniform(0.5, 4, 3), rng.uniform(0.5, 1.5, 3)
    x = np.sqrt(curvatures)[:, None, None]
    y = x * centres[:, None, None]
    left = (1 - 2 * 0.1 * curvatures) ** 2
    best = (np.average(centres, weights=curvatures * left**2) - 0.25) / (SOURCE[0] - 0.25)
    assert 0.1 < best < 0.9
    learner = strategy_learner(fresh=np.array([0.25]), coefficient=best, steps=2)
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


def test_formula_13_5_the_coefficients_come_from_what_is_seen_of_the_task():
    rng = np.random.default_rng(0)
    sample, labels = rng.normal(size=(9, 2)), np.array([0, 1, 1, 0, 1])
    learner = strategy_learner(mk.transfer.StrategyNetwork, sample, hidden=4)
    first, bias, last = (rng.normal(size=w.shape) for w in learner.rule.network.weights)
    learner.rule.network.set_weights([first, bias, last])
    learner.rule.omega.assign([0.4])
    support = 2 * rng.normal(size=(5, 2)) + 1
    told = np.tanh(compared(support @ SOURCE[:, None], sample @ SOURCE[:, None], labels) @ first + bias) @ last
    found = learner.rule.coefficients(support, labels)["only"]
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


# Chapter 04

GRADIENTS = np.array([[1.0, 0.0], [-1.0, 1.0]])


def test_formula_4_1_each_task_has_a_head_on_one_trunk():
    trunk, heads = mk.networks.mlp(3, input_shape=(2,), hidden=(4,)), {k: keras.layers.Dense(k + 1) for k in range(2)}
    model = mk.multitask.MultiTask(trunk, {f"task {k}": head for k, head in heads.items()})
    kernel, bias, last_kernel, last_bias = trunk.get_weights()
    features = np.maximum(QUERY_X @ kernel + bias, 0) @ last_kernel + last_bias
    for k, head in heads.items():
        by_hand = features @ head.get_weights()[0] + head.get_weights()[1]
        np.testing.assert_allclose(model(QUERY_X)[f"task {k}"], by_hand, rtol=1e-4, atol=1e-5)


def test_formula_4_2_the_average_loss_is_the_mean_over_tasks():
    assert float(mk.multitask.average_loss([2.0, 0.5, 5.0])) == pytest.approx(7.5 / 3)


def test_formula_4_3_uncertainty_weighting():
    s = np.array([0.4, -1.2])
    by_hand = np.exp(-0.4) * 3.0 + 0.2 + np.exp(1.2) * 0.05 / 2 - 0.6
    found = mk.multitask.uncertainty_loss([3.0, 0.05], tf.constant(s), regression=[False, True])
    assert float(found) == pytest.approx(by_hand, rel=1e-6)
    best = [np.log(2 * 3.0), np.log(0.05)]
    lowest = mk.multitask.uncertainty_loss([3.0, 0.05], tf.constant(best), regression=[False, True])
    assert float(lowest) == pytest.approx(1 + np.log(6) / 2 + np.log(0.05) / 2, rel=1e-5)


def test_formula_4_4_the_cosine_of_two_gradients():
    assert mk.multitask.gradient_cosines(GRADIENTS).numpy()[0, 1] == pytest.approx(-1 / np.sqrt(2))


def test_formula_4_5_the_conflicting_part_of_a_gradient_is_removed():
    projected = mk.multitask.project_conflicts(GRADIENTS).numpy()
    np.testing.assert_allclose(projected, [[0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_allclose(np.sum(projected * GRADIENTS[::-1], axis=1), 0, atol=1e-12)


def test_formula_4_6_the_difference_loss_is_the_mean_distance_of_paired_outputs():
    first, second = np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.4, 0.6]])
    assert float(mk.multitask.difference_loss(first, second)) == pytest.approx((0.8 + 0.2) / 2)


def test_formula_4_7_a_meta_model_predicts_the_weights_of_a_task():
    identity = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
    meta_model = mk.networks.mlp(1, input_shape=(2,), hidden=(3,))
    space = mk.Sinusoids(meta_batch=8, seed=2)
    model = mk.multitask.generalize(space, identity, meta_model=meta_model, ridge=0.1, steps=2)
    parameters, tasks = space.draw_with_parameters(tf.constant([2, 0], tf.int64))
    x, y = (np.concatenate(part, axis=1)[..., 0] for part in ((tasks[0], tasks[2]), (tasks[1], tasks[3])))
    descriptions = (x * y).sum(axis=1) / ((x * x).sum(axis=1) + 20 * 0.1)
    standard = (parameters - np.mean(parameters, axis=0)) / np.std(parameters, axis=0)
    by_hand = 1.5 * descriptions.std() * meta_model(standard).numpy()
    np.testing.assert_allclose(model([np.full((8, 1), 1.5), parameters.numpy()]), by_hand, rtol=1e-3, atol=1e-5)


def test_formula_7_1_the_accuracy_of_the_nearest_prototype_on_frozen_features():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 3)).astype("float32"), np.repeat(range(4), 10)
    pool, mixing = mk.ClassPool.from_arrays(x, labels), rng.normal(size=(3, 2)).astype("float32")
    found = mk.unsupervised.few_shot_score(lambda x: x @ mixing, pool, ways=3, shots=2, seed=1, episodes=20)
    task = next(iter(mk.FewShot(pool, 3, 2, 5, meta_batch=20, seed=1)))
    for values, support_x, support_y, query_x, query_y in zip(
        found.values, *(part.numpy() for part in task), strict=True
    ):
        prototypes = np.array([(support_x[support_y == k] @ mixing).mean(axis=0) for k in range(3)])
        apart = np.linalg.norm((query_x @ mixing)[:, None] - prototypes, axis=2)
        assert values == pytest.approx((apart.argmin(axis=1) == query_y).mean())


def test_formula_7_2_the_loss_of_predicting_rotations():
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = mk.unsupervised.Rotation(keras.Sequential(layers))
    model.compile()
    x = np.random.default_rng(0).uniform(size=(5, 4, 4, 1)).astype("float32")
    losses = []
    for image in x:
        for turns in range(4):
            logits = model(np.rot90(image, turns)[None]).numpy()[0]
            losses.append(-np.log(np.exp(logits[turns]) / np.exp(logits).sum()))
    assert model.evaluate(x, verbose=0, return_dict=True)["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_formula_7_3_the_evidence_lower_bound_is_below_the_log_likelihood():
    """For one latent variable the likelihood is an integral that can be computed on a grid."""
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh")])
    decoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])
    decoder.layers[-1].set_weights([np.float32([[2.0, -1.0, 0.5]]), np.float32([0.1, 0.2, -0.3])])
    vae, x = mk.unsupervised.VAE(encoder, decoder), np.float32([[1, 0, 1]])
    vae.compile(jit_compile=False)
    many = np.repeat(x, 20_000, axis=0)
    bound = -vae.evaluate(many, batch_size=20_000, verbose=0, return_dict=True)["loss"]

    def log_joint(z):
        probabilities = vae.decode(z[:, None])
        prior = -0.5 * (z**2 + np.log(2 * np.pi))
        return np.log(np.where(x == 1, probabilities, 1 - probabilities)).sum(axis=1) + prior

    z = np.linspace(-8, 8, 4001).astype("float32")
    likelihood = np.log(np.exp(log_joint(z)).sum() * (z[1] - z[0]))
    mean, log_variance = (float(part[0, 0]) for part in vae.posterior(x))
    q = np.exp(-0.5 * ((z - mean) ** 2 / np.exp(log_variance) + log_variance + np.log(2 * np.pi)))
    by_hand = np.sum(q * (log_joint(z) - np.log(np.maximum(q, 1e-30)))) * (z[1] - z[0])
    assert bound == pytest.approx(by_hand, abs=0.05) and by_hand < likelihood - 1e-3


def test_formula_7_4_the_divergence_of_normal_distributions():
    mean, variance = np.array([0.5, -2.0]), np.array([0.3, 1.7])
    z = np.linspace(-20, 20, 200_001)
    by_hand = 0.0
    for m, v in zip(mean, variance, strict=True):
        q = np.exp(-0.5 * (z - m) ** 2 / v) / np.sqrt(2 * np.pi * v)
        log_ratio = -0.5 * ((z - m) ** 2 / v + np.log(v)) + 0.5 * z**2
        by_hand += np.sum(q * log_ratio) * (z[1] - z[0])
    found = mk.unsupervised.gaussian_kl(mean[None], np.log(variance)[None])
    assert float(found[0]) == pytest.approx(by_hand, rel=1e-6)


def test_formula_7_5_the_contrastive_loss():
    z = np.array(
        [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, -0.6]]
    )  # views 0 and 2 are of one image, 1 and 3 of another
    scores = np.exp(z @ z.T / 0.5)
    np.fill_diagonal(scores, 0)
    by_hand = -np.mean([np.log(scores[i, (i + 2) % 4] / scores[i].sum()) for i in range(4)])
    assert float(mk.unsupervised.contrastive_loss(z, temperature=0.5)) == pytest.approx(by_hand, rel=1e-9)


GAN_REAL, GAN_GENERATED = np.array([2.0, -1.0, 0.5]), np.array([-3.0, 0.2])


def test_formula_7_6_the_loss_of_the_discriminator():
    by_hand = -(np.log(sigmoid(GAN_REAL)).mean() + np.log(1 - sigmoid(GAN_GENERATED)).mean()) / 2
    losses = mk.unsupervised.gan_losses(tf.constant(GAN_REAL), tf.constant(GAN_GENERATED))
    assert float(losses[0]) == pytest.approx(by_hand, rel=1e-12)


def test_formula_7_7_the_loss_of_the_generator():
    losses = mk.unsupervised.gan_losses(tf.constant(GAN_REAL), tf.constant(GAN_GENERATED))
    assert float(losses[1]) == pytest.approx(-np.log(sigmoid(GAN_GENERATED)).mean(), rel=1e-12)


def test_formula_7_8_the_gradient_penalty():
    """For logit D(x) = w . x^2, whose gradient is 2 w x."""
    square = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(tf.square)])
    model = mk.unsupervised.GAN(square, keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)]), penalty=3.0)
    model.compile()
    x, w = np.float32([[1, 0.2], [0.3, 0.5]]), np.float32([[0.5], [-2]])
    model.head.set_weights([w, np.zeros(1)])
    by_hand = 3 / 2 * np.mean(np.sum((2 * w[:, 0] * x) ** 2, axis=1))
    logs = model.evaluate(x, verbose=0, return_dict=True)
    assert logs["gradient_penalty"] == pytest.approx(by_hand, rel=1e-5)


def test_formula_7_9_the_effective_number_of_classes():
    fractions = np.array([0.5, 0.3, 0.2])
    labels = np.repeat([4, 7, 9], [5, 3, 2])
    by_hand = np.exp(-np.sum(fractions * np.log(fractions)))
    assert mk.unsupervised.effective_classes(labels) == pytest.approx(by_hand)


def test_formula_7_10_density_and_coverage():
    """For k = 1 the radii are 1, 1, 2 and 8."""
    real, generated = np.array([[0.0], [1.0], [3.0], [11.0]]), np.array([[1.2], [-9.0], [2.5]])
    inside = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]])
    found = mk.unsupervised.density_and_coverage(real, generated, neighbors=1)
    assert found.density == pytest.approx(inside.sum() / 3) and found.coverage == pytest.approx(0.5)
    found = mk.unsupervised.density_and_coverage(real, generated, neighbors=2)  # radii 3, 2, 3, 10
    inside = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 1], [1, 0, 1]])
    assert found == pytest.approx((inside.sum() / 6, 1.0))


def test_formula_7_11_k_means_finds_the_least_squares_of_small_sets():
    """No other way to cut six sorted numbers into three groups has a smaller sum."""
    rows = np.array([0.0, 1.0, 4.0, 5.0, 9.0, 11.0])
    cuts = [(i, j) for i in range(1, 5) for j in range(i + 1, 6)]
    sums = [sum(np.sum((part - part.mean()) ** 2) for part in np.split(rows, cut)) for cut in cuts]
    found = [mk.unsupervised.k_means(rows[:, None], 3, seed=seed) for seed in range(10)]
    squares = [np.sum((rows[:, None] - one.centers[one.labels]) ** 2) for one in found]
    assert min(squares) == pytest.approx(min(sums)) and all(one > min(sums) - 1e-9 for one in squares)


def test_formula_7_12_the_probability_that_random_images_have_different_classes():
    classes, each, ways = 4, 5, 3
    by_hand = np.prod([(classes - i) * each / (classes * each - i) for i in range(1, ways)])
    examples = np.repeat(np.arange(classes, dtype=np.float32), each)[:, None]
    tasks = mk.unsupervised.UMTRA(
        examples, {"query": keras.layers.GaussianNoise(0.1, seed=0)}, ways=ways, meta_batch=10_000
    )
    drawn = next(iter(tasks)).support_x.numpy()[..., 0]
    different = np.mean([len({*task}) == ways for task in drawn])
    assert different == pytest.approx(by_hand, abs=0.02)
