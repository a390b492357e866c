"""Meta-training on whole training runs: gradients in segments, diverged runs, and what the runs are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import in_float64, numbers, regression
from test_rules_update_network import at_random, built

from meta_keras import Episode, Sinusoids, UnrolledTraining, networks
from meta_keras.rules import LearnedRates, Step, Update, UpdateNetwork


@pytest.fixture
def precise():
    in_float64()


def network():
    return keras.Sequential([keras.Input((2,)), layers.Dense(1, "tanh")])


def training_of(update, net=None, **settings):
    keras.utils.set_random_seed(0)
    settings = {"steps": 4, "truncation": 2, "batch_size": 3, "starts": 3} | settings
    training = UnrolledTraining(net or network(), update, **settings)
    training.compile(keras.optimizers.SGD(0.01), loss="mse", jit_compile=False)
    return training


def gradients_by_hand(training, inputs, clipnorm=1e9, runs=(0, 1)):
    """The meta-loss of some runs and its gradients, one run and one segment after another on eager tapes."""
    x, y, _ = inputs
    update, omega = training.update, training.update.trainable_variables
    seed = tf.constant([training.seed, 0])
    rows = training.runs.minibatches(seed, len(x), x.shape[1], training.steps)
    weights = training._start(seed, len(x))[0].parameters
    losses, gradients = [], [np.zeros(one.shape) for one in omega]
    for run in runs:
        parameters = [one[run] for one in weights]
        memory = update.init(parameters)
        for first in range(0, training.steps, training.truncation):
            with tf.GradientTape() as tape:
                along = []
                for number in range(first, first + training.truncation):
                    with tf.GradientTape() as inner:
                        inner.watch(parameters)
                        now = rows[number, run]
                        answers = tf.tanh(tf.gather(x[run], now) @ parameters[0] + parameters[1])
                        along.append(tf.reduce_mean(tf.square(tf.gather(y[run], now) - answers)))
                    slopes = inner.gradient(along[-1], parameters)
                    moves, memory = update.update(slopes, memory, parameters, Step(number, along[-1], True))
                    parameters = [one + move for one, move in zip(parameters, moves, strict=True)]
                loss = tf.add_n(along) / training.truncation
            found = [g.numpy() for g in tape.gradient(loss, omega)]
            factor = min(1, clipnorm / np.sqrt(sum(np.sum(g**2) for g in found)))
            gradients = [total + factor * g for total, g in zip(gradients, found, strict=True)]
            losses.append(float(loss))
            parameters, memory = tf.nest.map_structure(tf.stop_gradient, (parameters, memory))
    return np.mean(losses), [total / len(losses) for total in gradients]


@pytest.mark.slow
@pytest.mark.parametrize("clipnorm", [1e9, 0.01])
def test_the_gradient_is_that_of_truncated_backpropagation(clipnorm, precise):
    update = at_random(built(learning_rate=0.05, hidden=(3,), step_size=0.05), 0.3)
    training = training_of(update, clipnorm=clipnorm)
    inputs, query_y = regression(tasks=2, support=6)
    _, diverged, (loss, gradients) = tf.function(training.meta_gradients)(inputs, query_y)
    wanted_loss, wanted = gradients_by_hand(training, inputs, clipnorm)
    assert int(diverged) == 0
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-10)
    for one, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)


def test_eagerly_it_comes_to_the_same(precise):
    training, tasks = training_of(LearnedRates(0.05, per="layer")), regression(tasks=2, support=6)
    eager, graph = training.meta_gradients(*tasks), tf.function(training.meta_gradients)(*tasks)
    for one, other in zip(tf.nest.flatten(eager), tf.nest.flatten(graph), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


def test_a_longer_segment_has_another_gradient(precise):
    tasks, found = regression(tasks=2, support=6), []
    for truncation in (1, 2, 4):
        training = training_of(LearnedRates(0.05, per="layer"), truncation=truncation)
        found.append(tf.function(training.meta_gradients)(*tasks)[2])
    losses, gradients = zip(*found, strict=True)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
    # The loss before the first update of a segment does not depend on that update.
    assert all(np.all(one == 0) for one in gradients[0])
    assert not np.allclose(gradients[1][0], gradients[2][0], rtol=0.01)


def test_a_run_is_what_keras_makes_of_the_same_minibatches(precise):
    training = training_of(built(learning_rate=0.1, base="momentum"), steps=6, truncation=3)
    (x, y, query_x), query_y = regression(tasks=1, support=8)
    tasks = tf.data.Dataset.from_tensors(Episode(x, y, query_x, query_y))
    found = training.learning_curves(tasks, steps=6)
    seed = tf.constant([0, -1])
    model, rows = network(), training.runs.minibatches(seed, 1, 8, 6)
    model.set_weights([one[0] for one in training._start(seed, 1)[0].parameters])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    wanted = []
    for now in rows:
        model.reset_metrics()  # older versions of Keras return the mean over all batches so far
        wanted.append(model.train_on_batch(tf.gather(x[0], now[0]), tf.gather(y[0], now[0])))
    np.testing.assert_allclose(found[0], [float(np.ravel(one)[0]) for one in wanted], rtol=1e-5)


def test_a_diverged_run_does_not_count(precise):
    training = training_of(LearnedRates(0.05, per="layer"), clipnorm=1e9)
    (x, y, query_x), query_y = regression(tasks=2, support=6)
    bad = (x * tf.constant([1.0, np.inf], x.dtype)[:, None, None], y, query_x)
    _, diverged, (loss, gradients) = tf.function(training.meta_gradients)(bad, query_y)
    wanted_loss, wanted = gradients_by_hand(training, bad, runs=[0])
    assert int(diverged) == 1
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-10)
    for one, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)


class Root(Update):
    """Its derivative is not a number where gradients are zero, although the update is."""

    def prepare(self, network, parameters, steps):
        self.factor, self.built = self.add_weight(shape=(), initializer="ones", name="factor"), True

    def init(self, parameters):
        return []

    def update(self, gradients, state, parameters, step):
        return [-0.1 * tf.pow(self.factor * tf.square(one), 0.5) for one in gradients], state


def test_a_run_whose_gradient_is_not_finite_does_not_count(precise):
    training = training_of(Root(), clipnorm=1e9)
    (x, y, query_x), query_y = regression(tasks=2, support=6)
    first = tf.constant([1.0, 0.0], x.dtype)[:, None, None]  # in the second run, all answers are right from the start
    _, diverged, (loss, gradients) = tf.function(training.meta_gradients)((x * first, y * first, query_x), query_y)
    wanted_loss, wanted = gradients_by_hand(training, (x * first, y * first, query_x), runs=[0])
    assert int(diverged) == 1
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-10)
    np.testing.assert_allclose(gradients, wanted, rtol=1e-8)


def test_logs_say_how_many_runs_have_diverged():
    update = LearnedRates(1e4, per="layer")
    training = training_of(update, networks.mlp(1, hidden=(4,)))
    history = training.fit(Sinusoids(shots=5, meta_batch=2), steps_per_epoch=2, verbose=0).history
    assert history["diverged"] == [4.0]
    assert all(np.isfinite(one).all() for one in update.get_weights())


@pytest.mark.slow
def test_an_update_learns_from_training_runs_and_survives_a_file(tmp_path):
    curves = Sinusoids(shots=10, meta_batch=4, amplitude=(1, 2), x_range=(-2, 2))
    training = training_of(UpdateNetwork(0.001, hidden=(2,)), networks.mlp(1, hidden=(8,)), steps=20, truncation=10)
    training.compile(keras.optimizers.Adam(0.05), "mse", jit_compile=False)
    losses = training.fit(curves, steps_per_epoch=10, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    training.save(tmp_path / "training.keras")
    loaded = keras.models.load_model(tmp_path / "training.keras")
    for one, other in zip(loaded.get_weights(), training.get_weights(), strict=True):  # also those that runs start from
        np.testing.assert_array_equal(one, other)
    settings = ("steps", "truncation", "batch_size", "starts", "clipnorm", "seed")
    assert all(getattr(loaded, name) == getattr(training, name) for name in settings)
    assert loaded.optimizer.iterations == loaded.batches_seen == 40


XLA = {
    "update network": (lambda: built(learning_rate=0.01, hidden=(2,)), ()),
    "two layers": (lambda: LearnedRates(0.1, per="layer"), (3,)),
}


@pytest.mark.slow
@pytest.mark.parametrize("which", XLA)
def test_xla_comes_to_the_same(which):
    make, hidden = XLA[which]
    x, y = tf.constant(numbers(2, 6, 2).astype("float32")), tf.constant([[0, 1, 2] * 2] * 2)
    tasks, start, found = tf.data.Dataset.from_tensors(Episode(x, y, x, y)), None, []
    for jit in (False, True):
        update = make()
        training = training_of(update, networks.mlp(3, input_shape=(2,), hidden=hidden), steps=2)
        start = start or update.get_weights()
        update.set_weights(start)
        training.compile(keras.optimizers.SGD(0.1), jit_compile=jit)
        training.fit(tasks, epochs=2, verbose=0)
        found.append(update.get_weights())
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found[0][0], start[0])


def test_other_updates_can_be_trained_too():
    rates = LearnedRates(0.001, per="layer")
    training = training_of(rates, networks.mlp(1, hidden=(4,)), steps=10, truncation=5)
    training.fit(Sinusoids(shots=5, meta_batch=2), steps_per_epoch=3, verbose=0)
    assert all(float(rate) != 0.001 for rate in rates.rates)


def test_a_schedule_is_trained_but_for_the_last_step_of_each_segment(precise):
    rates = LearnedRates(0.05, per="step", logarithmic=True)
    training = training_of(rates, steps=4, truncation=2, clipnorm=1e9)
    inputs, query_y = regression(tasks=2, support=6)
    _, _, (loss, (gradient,)) = tf.function(training.meta_gradients)(inputs, query_y)
    wanted_loss, (wanted,) = gradients_by_hand(training, inputs)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-10)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-8, atol=1e-12)
    # No loss of a segment comes after its last update.
    assert gradient[1] == gradient[3] == 0 and gradient[0] != 0 and gradient[2] != 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 5}, "steps must be a multiple of truncation; got 5 and 2"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"clipnorm": 0}, "clipnorm must be"),
        ({"starts": 0}, "starts must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        training_of(UpdateNetwork(), **settings)


def test_an_optimizer_is_not_an_update():
    with pytest.raises(TypeError, match="update must be an Update"):
        training_of(keras.optimizers.Adam())


def test_a_network_with_too_few_outputs_is_refused():
    training = training_of(UpdateNetwork(), networks.mlp(2, hidden=(3,)))
    training.compile()
    x, y = tf.zeros((1, 3, 1)), tf.constant([[0, 1, 2]])
    with pytest.raises(ValueError, match="The tasks have 3 classes; the network 'mlp' has 2 outputs"):
        training.fit(tf.data.Dataset.from_tensors(Episode(x, y, x, y)), verbose=0)


def test_where_every_run_diverges_nothing_looks_like_success():
    training = training_of(LearnedRates(1e30, per="layer"), networks.mlp(1, hidden=(4,)))
    curves = Sinusoids(shots=5, meta_batch=2)
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        training.fit(curves, steps_per_epoch=1, verbose=0)
    with pytest.raises(FloatingPointError, match="The loss of these tasks is inf"):
        training.evaluate(curves, steps=1, verbose=0)


def test_an_evaluation_counts_diverged_runs_too(precise):
    training = training_of(LearnedRates(0.01, per="layer"))
    (x, y, query_x), query_y = regression(tasks=2, support=6)
    y = y * tf.constant([1.0, 1e300], y.dtype)[:, None, None]  # whose squared error is infinite
    tasks = tf.data.Dataset.from_tensors(Episode(x, y, query_x, query_y))
    found = training.evaluate(tasks, verbose=0, return_dict=True)
    assert found["diverged"] == 1 and np.isfinite(found["loss"])


def test_frozen_layers_keep_their_weights_and_others_differ():
    net = networks.mlp(1, hidden=(3,))
    net.layers[0].trainable = False
    training = training_of(built(), net)
    weights, _ = training._start(tf.constant([0, 0]), 5)
    kernels = {tuple(one.shape[1:]): one for one in tf.nest.flatten(weights)}
    np.testing.assert_array_equal(kernels[1, 3], np.repeat(net.layers[0].kernel.numpy()[None], 5, axis=0))
    assert len(np.unique(kernels[3, 1][:, 0, 0])) > 1


def test_starts_that_are_all_the_same_are_refused():
    fixed = keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, kernel_initializer=keras.initializers.GlorotUniform(seed=1))]
    )
    with pytest.raises(ValueError, match="All 3 starts have the same weights"):
        training_of(built(), fixed)
    assert training_of(built(), fixed, starts=1).starts == 1


def test_frozen_layers_keep_their_moving_averages():
    statistics, head = layers.BatchNormalization(), layers.Dense(1, kernel_initializer="ones", name="head")
    net = keras.Sequential([keras.Input((1,)), layers.Rescaling(1.0), statistics, layers.Lambda(lambda x: 2 * x), head])
    statistics.moving_mean.assign([10.0])
    statistics.moving_variance.assign([9.0])
    statistics.trainable = False
    x = 10 + numbers(1, 6, 1).astype("float32")
    tasks = tf.data.Dataset.from_tensors(Episode(x, net(x[0])[None], x, net(x[0])[None]))
    assert training_of(LearnedRates(1e-9, per="layer"), net, starts=1).learning_curves(tasks)[0, 0] < 1e-9


def test_every_run_of_every_meta_step_has_dropout_masks_of_its_own():
    net = keras.Sequential([keras.Input((1,)), layers.Dense(20), layers.Dropout(0.5, seed=3), layers.Dense(1)])
    training = training_of(built(learning_rate=0.01), net, starts=1)
    ones = tf.ones((4, 3, 1))
    tasks = tf.data.Dataset.from_tensors(Episode(ones, ones, ones, ones))
    assert len(np.unique(training.learning_curves(tasks.repeat(3), batches=3)[:, 0])) == 12


def test_the_batches_of_an_evaluation_have_different_starts_and_every_evaluation_the_same():
    training = training_of(built(learning_rate=0.01), starts=64)
    (x, y, query_x), query_y = regression(tasks=1, support=6)
    tasks = tf.data.Dataset.from_tensors(Episode(*(tf.cast(one, tf.float32) for one in (x, y, query_x, query_y))))
    one, three, again = (training.evaluate(tasks.repeat(n), verbose=0, return_dict=True)["loss"] for n in (1, 3, 3))
    curves = training.learning_curves(tasks.repeat(3), batches=3)
    np.testing.assert_allclose([one, three], [curves[0].mean(), curves.mean()], rtol=1e-5)
    assert len(np.unique(curves[:, 0])) == 3 and again == three


def masked():
    """Two sequences of which the last steps are masked; their targets are far away."""
    x, y = tf.constant([[[1, 2, 0, 0]] * 2]), tf.constant([[[[1.0], [1.0], [100.0], [100.0]]] * 2])
    net = [keras.Input((4,), dtype="int32"), layers.Embedding(10, 3, mask_zero=True), layers.Dense(1)]
    return keras.Sequential(net), tf.data.Dataset.from_tensors(Episode(x, y, x, y))


def test_masked_steps_do_not_count():
    net, tasks = masked()
    net.layers[-1].kernel_initializer = keras.initializers.Zeros()
    training = training_of(LearnedRates(1e-6, per="layer"), net, starts=1)
    np.testing.assert_allclose(training.learning_curves(tasks), 1, rtol=1e-4)
    assert np.isfinite(training.fit(tasks, verbose=0).history["loss"][0])


def test_metrics_would_count_masked_steps():
    net, tasks = masked()
    training = training_of(LearnedRates(1e-6, per="layer"), net)
    training.compile(loss="mse", metrics=["mae"])
    with pytest.raises(ValueError, match="answers are masked, which the metrics of learners do not see"):
        training.evaluate(tasks, verbose=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": keras.losses.MeanSquaredError(reduction="sum")}, "has reduction='sum'. Leave reduction out"),
        (
            {"loss": "mse", "loss_weights": [100.0]},
            "UnrolledTraining has one loss, without weights, so leave loss_weights out",
        ),
    ],
)
def test_settings_of_compile_that_would_be_ignored_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        training_of(LearnedRates(0.1, per="layer")).compile(**settings)


def test_what_it_cannot_use_is_refused():
    training = UnrolledTraining(networks.mlp(1, hidden=(2,)), built(), steps=2, truncation=1, batch_size=2, starts=2)
    curves = Sinusoids(shots=3, queries=3, meta_batch=2)
    with pytest.raises(ValueError, match="Compile this training first"):
        training.learning_curves(curves)
    training.compile()
    with pytest.raises(ValueError, match="float32 targets, as of a regression"):
        training.fit(curves, steps_per_epoch=1, verbose=0)
    training.compile(loss="mse")
    varying = curves.take(1).unbatch().batch(2)
    with pytest.raises(ValueError, match="All batches must have as many tasks"):
        training.fit(varying, verbose=0)


class Own(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_network_that_cannot_be_copied_is_refused():
    net = Own(1)
    net(tf.zeros((1, 1)))
    with pytest.raises(ValueError, match=f"The model {net.name!r} cannot be copied"):
        training_of(built(), net)


@pytest.mark.parametrize("seed", [2**31, 2**32, -1, 0.5])
def test_seeds_that_would_be_those_of_another_training_are_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        training_of(built(), seed=seed)
    training_of(built(), seed=2**31 - 3)
