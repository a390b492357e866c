"""The learned update: known optimizers are special cases, and gradients go through many of its steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import assert_slopes, in_float64, learner_of, numbers, regression

from meta_keras import MetaLearner, Sinusoids, networks
from meta_keras.rules import GradientDescent, Step, UpdateNetwork
from meta_keras.rules.update_network import MOMENTUM_DECAYS

SHAPES = [(3, 4), (4,), (), (2, 1, 3)]


@pytest.fixture
def precise():
    in_float64()


def path(update, steps, shapes=SHAPES):
    """The parameters after every step on gradients that depend on them."""
    parameters = [tf.constant(numbers(*shape, seed=n)) for n, shape in enumerate(shapes)]
    state, found = update.init(parameters), []
    for number in range(steps):
        gradients = [tf.sin(3 * one) + 0.1 * one for one in parameters]
        changes, state = update.update(gradients, state, parameters, Step(number, tf.constant(0.0), True))
        parameters = [one + change for one, change in zip(parameters, changes, strict=True)]
        found.append([one.numpy() for one in parameters])
    return found


def path_by_hand(step, steps, shapes=SHAPES):
    """The same with `step(number, gradient, memory) -> (change, memory)`, in float64 throughout."""
    parameters = [numbers(*shape, seed=n) for n, shape in enumerate(shapes)]
    memories, found = [(0.0, 0.0)] * len(parameters), []
    for number in range(steps):
        gradients = [np.sin(3 * one) + 0.1 * one for one in parameters]
        changes, memories = zip(*[step(number, *pair) for pair in zip(gradients, memories, strict=True)], strict=True)
        parameters = [one + change for one, change in zip(parameters, changes, strict=True)]
        found.append(parameters)
    return found


def sgd(number, gradient, memory):
    return -0.1 * gradient, memory


def momentum(number, gradient, memory, decay=0.9):
    velocity = decay * memory[0] - 0.1 * gradient
    return velocity, (velocity, 0.0)


def adam(number, gradient, memory, decay=0.9):
    average = decay * memory[0] + (1 - decay) * gradient
    square = 0.999 * memory[1] + 0.001 * gradient**2
    rate = 0.1 * np.sqrt(1 - 0.999 ** (number + 1)) / (1 - decay ** (number + 1))
    return -rate * average / (np.sqrt(square) + 1e-7), (average, square)


def built(hidden=(2, 2), **settings):
    update = UpdateNetwork(hidden=hidden, **settings)
    update.build()
    return update


KNOWN = {"sgd": sgd, "momentum": momentum, "adam": adam}
OF_KERAS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.1),
}


def assert_same_paths(given, wanted, tolerance=1e-11):
    for here, there in zip(given, wanted, strict=True):
        for one, other in zip(here, there, strict=True):
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("base", KNOWN)
def test_it_begins_as_the_optimizer_that_base_names(base, precise):
    assert_same_paths(path(built(learning_rate=0.1, base=base), 30), path_by_hand(KNOWN[base], 30))


@pytest.mark.parametrize("base", KNOWN)
def test_these_are_the_optimizers_of_keras(base, precise):
    optimizer, variables = OF_KERAS[base](), [keras.Variable(numbers(3, 4))]
    for _ in range(30):
        optimizer.apply([tf.sin(3 * v.value) + 0.1 * v.value for v in variables], variables)
    found = path(built(learning_rate=0.1, base=base), 30, [(3, 4)])[-1]
    np.testing.assert_allclose(found[0], variables[0], rtol=1e-4, atol=1e-5)  # Keras rounds decays to float32


@pytest.mark.parametrize("decay", MOMENTUM_DECAYS)
@pytest.mark.parametrize("base", ["momentum", "adam"])
def test_other_decays_are_reached_by_the_coefficients(base, decay, precise):
    update, place = built(learning_rate=0.1), MOMENTUM_DECAYS.index(decay)
    values = np.zeros(update.coefficients.shape)
    values[1 + place + (len(MOMENTUM_DECAYS) if base == "adam" else 0)] = 1 if base == "adam" else 1 / (1 - decay)
    update.coefficients.assign(values)
    assert_same_paths(path(update, 10), path_by_hand(lambda *parts: KNOWN[base](*parts, decay), 10))


def at_random(update, size=1.0):
    """Set all that is learned to random values, so that the network takes steps of its own."""
    for n, variable in enumerate(update.trainable_variables):
        variable.assign(variable + size * numbers(*variable.shape, seed=(1, n)))
    return update


def one_step(update, gradient, parameter, number=0):
    """The update of one tensor in the first step after nothing was remembered, and the memory after it."""
    gradient, parameter = tf.convert_to_tensor(gradient), tf.convert_to_tensor(parameter)
    step = Step(number, tf.constant(0.0), True)
    (change,), (memory,) = update.update([gradient], update.init([parameter]), [parameter], step)
    return change, memory


@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 5, 1)])
def test_the_step_is_the_one_by_hand(shape, precise):
    update = at_random(built(hidden=(3,), step_size=0.5))
    gradient, parameter = numbers(5, seed=2), numbers(5, seed=3)
    change, after = one_step(update, gradient.reshape(shape), parameter.reshape(shape), number=4)
    momenta = [(1 - decay) * gradient for decay in MOMENTUM_DECAYS]
    square = 0.001 * gradient**2

    def scaled(values):
        return values / np.sqrt(np.mean(values**2) + 1e-5)

    scale = np.sqrt(1 - 0.999**5)
    adams = [
        scale / (1 - decay**5) * m / (np.sqrt(square) + 1e-7) for decay, m in zip(MOMENTUM_DECAYS, momenta, strict=True)
    ]
    root = np.sqrt(square + 1e-5)
    features = [*map(scaled, (gradient, parameter, root)), *(one / root for one in (gradient, *momenta))]
    (kernel, bias), (kernel_2, bias_2) = [[one.numpy() for one in pair] for pair in update.dense]
    time = np.tanh(4 / np.array([3.0, 10, 30, 100, 300, 1000]) - 1)
    z = np.array([len(shape) > 1, *time[:4]])
    offset = bias + time @ update.clock.numpy() + z @ update.context_kernel.numpy()
    direction, magnitude = (np.maximum(np.stack(features, axis=-1) @ kernel + offset, 0) @ kernel_2 + bias_2).T
    coefficients = update.coefficients.numpy()
    coefficients[4:] *= np.exp(z @ update.exponents.numpy())
    known = sum(c * d for c, d in zip(coefficients, (gradient, *momenta, *adams), strict=True))
    wanted = 0.5 * direction * np.exp(0.001 * magnitude) - 0.001 * known
    np.testing.assert_allclose(change, wanted.reshape(shape), rtol=1e-10)
    np.testing.assert_allclose(after.square, square.reshape(shape), rtol=1e-12)


def test_coefficients_of_adam_may_differ_between_matrices_and_vectors_and_decay(precise):
    update = built(learning_rate=0.1)
    exponents = np.zeros(update.exponents.shape)
    exponents[0], exponents[-1] = np.log(3), -1  # three times for matrices, less with the time on the longest scale
    update.exponents.assign(exponents)
    gradient = numbers(2, 2, seed=1)
    for number, decay in ((0, np.tanh(-1)), (100, 0.0), (10**6, 1.0)):
        (matrix, _), (vector, _) = (one_step(update, g, 0 * g, number) for g in (gradient, gradient.ravel()))
        np.testing.assert_allclose(matrix, 3 * tf.reshape(vector, (2, 2)), rtol=1e-10)
        plain, _ = one_step(built(learning_rate=0.1), gradient.ravel(), 0 * gradient.ravel(), number)
        np.testing.assert_allclose(vector, np.exp(-decay) * plain, rtol=1e-10)


@pytest.mark.parametrize("base", ["sgd", "momentum"])
def test_coefficients_of_plain_gradients_do_not_depend_on_the_context(base, precise):
    update, gradient = built(base=base), numbers(2, 2, seed=1)
    before = [one_step(update, gradient, 0 * gradient, number)[0] for number in (0, 50)]
    update.exponents.assign(tf.ones_like(update.exponents))
    after = [one_step(update, gradient, 0 * gradient, number)[0] for number in (0, 50)]
    np.testing.assert_array_equal(after, before)


def test_gradients_through_20_steps_agree_with_central_differences(precise):
    rule = GradientDescent(UpdateNetwork(0.02, base="momentum", hidden=(2, 2)), 20)
    network = keras.Sequential([keras.Input((2,)), layers.Dense(1, "tanh")])
    learner = learner_of(network, rule)
    at_random(rule.transform, 0.1)
    assert_slopes(learner, regression(tasks=1), tolerance=1e-7, h=1e-5)


def test_gradients_of_zero_are_no_problem():
    """The second moments of units that no example activates are 0, where a root has an infinite derivative."""
    update = at_random(built())
    with tf.GradientTape() as tape:
        parameter = tf.zeros(4)
        tape.watch(parameter)
        change, _ = one_step(update, 0 * parameter, parameter)
    found = tape.gradient(change, [parameter, *(v.value for v in update.trainable_variables)])
    assert np.isfinite(change).all() and all(np.isfinite(one).all() for one in found if one is not None)


def test_the_order_of_parameters_does_not_matter(precise):
    update, order = at_random(built()), np.array([2, 0, 3, 1])
    gradient, parameter = numbers(4, seed=1), numbers(4, seed=2)
    plain, _ = one_step(update, gradient, parameter)
    moved, _ = one_step(update, gradient[order], parameter[order])
    np.testing.assert_allclose(moved, plain.numpy()[order], rtol=1e-12)


def test_the_scale_of_the_loss_hardly_matters_to_the_networks_own_step(precise):
    update = at_random(built())
    update.coefficients.assign(tf.zeros_like(update.coefficients))
    steps = [one_step(update, k * numbers(6, seed=1), numbers(6))[0] for k in (10.0, 1000.0)]
    np.testing.assert_allclose(*steps, rtol=0.02)


@pytest.mark.slow
def test_it_learns_as_a_rule_and_survives_a_file(tmp_path):
    def curves(**more):
        return Sinusoids(shots=5, queries=5, meta_batch=8, amplitude=(1, 2), phase=(0, 1), x_range=(-2, 2), **more)

    update = UpdateNetwork(0.01, base="sgd", hidden=(4,), step_size=0.02)
    rule = GradientDescent(update, steps=2, evaluation_steps=3)
    learner = MetaLearner(network=networks.mlp(1, hidden=(16,), activation="tanh"), rule=rule, parallel="map")
    learner.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    before = learner.evaluate(curves(seed=1), steps=8, verbose=0)
    start = [v.numpy() for v in learner.trainable_variables]
    learner.fit(curves(), steps_per_epoch=100, verbose=0)
    assert learner.evaluate(curves(seed=1), steps=8, verbose=0) < 0.5 * before
    assert all(not np.array_equal(v, s) for v, s in zip(learner.trainable_variables, start, strict=True))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    inputs = tuple(next(iter(curves())))[:3]
    np.testing.assert_array_equal(loaded(inputs), learner(inputs))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"step_size": -1.0}, "step_size must be"),
        ({"base": "adagrad"}, "base must be one of"),
        ({"hidden": ()}, "hidden must be"),
        ({"hidden": (4, 0)}, "hidden must be"),
        ({"schedules": 2}, "schedules must be"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        UpdateNetwork(**settings)


@pytest.mark.parametrize("schedules", [True, False])
def test_schedules_are_learned_unless_they_are_turned_off(schedules):
    update = UpdateNetwork(0.01, schedules=schedules)
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(update, steps=2))
    learner.compile("adam", "mse", jit_compile=False)
    learner.fit(Sinusoids(meta_batch=2, seed=0), steps_per_epoch=2, verbose=0)
    exponents = [one for one in learner.trainable_variables if one.name == "exponents"]
    assert [bool(np.any(one)) for one in exponents] == [True] * schedules


def test_without_schedules_the_step_is_that_of_exponents_of_zero(precise):
    update, plain, gradient = at_random(built()), built(schedules=False), numbers(2, 3, seed=1)
    update.exponents.assign(tf.zeros_like(update.exponents))
    plain.set_weights([one for one in update.get_weights() if one.shape != update.exponents.shape])
    for number in (0, 50):
        (expected, _), (found, _) = (one_step(one, gradient, gradient, number) for one in (update, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_what_was_learned_for_one_network_serves_others():
    update = UpdateNetwork()
    MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(update, steps=1))
    before = len(at_random(update).trainable_variables)
    other = MetaLearner(network=networks.mlp(1, hidden=(6, 5)), rule=GradientDescent(update, steps=1))
    assert len(update.trainable_variables) == before
    assert other.rule.transform is update


@pytest.mark.parametrize("schedules", [True, False])
def test_a_file_has_the_settings_and_all_that_was_learned(schedules, tmp_path):
    update = at_random(built(learning_rate=0.02, base="momentum", hidden=(3, 2), step_size=0.01, schedules=schedules))
    update.save(tmp_path / "update.npz")
    loaded = UpdateNetwork.load(tmp_path / "update.npz")
    assert loaded.get_config() == update.get_config()
    for one, other in zip(loaded.get_weights(), update.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(FileExistsError, match="update.npz exists already"):
        update.save(tmp_path / "update.npz")


def test_a_file_has_a_name_that_says_what_it_is(tmp_path):
    with pytest.raises(ValueError, match="path must end in .npz; got 'update.keras'"):
        UpdateNetwork().save("update.keras")
    with pytest.raises(FileNotFoundError):
        UpdateNetwork.load(tmp_path / "missing.npz")


@pytest.mark.parametrize("arrays", [[np.zeros(3)], ['{"hidden": [2]}', np.zeros(3)], ['{"other": 1}'], []])
def test_a_file_of_something_else_is_refused(arrays, tmp_path):
    np.savez(tmp_path / "other.npz", *arrays)
    with pytest.raises(ValueError, match=r"other.npz is no file of this version"):
        UpdateNetwork.load(tmp_path / "other.npz")


@pytest.mark.parametrize("hidden", [(4, 2), (2, 4), (2,)])
def test_only_the_outputs_begin_at_zero(hidden):
    update = built(hidden=hidden)
    *inside, outputs = [kernel.numpy() for kernel, _ in update.dense]
    assert not outputs.any() and all(kernel.any() for kernel in inside)
