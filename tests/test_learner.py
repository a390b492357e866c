"""MetaLearner: Keras trains it over tasks and reports as for any model, and its answers agree with the formulas."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import ClassPool, FewShot, MetaLearner, Sinusoids, evaluate
from meta_keras.rules import GradientDescent, Prototypes


@functools.cache
def blobs(classes=30, each=12, width=8, spread=0.6, seed=0):
    """Clouds of points around their own centers; half of the numbers are noise that a learner must ignore."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, 1, width))
    points = centres + spread * generator.normal(size=(classes, each, width))
    noise = 3 * generator.normal(size=(classes, each, width))
    examples = np.concatenate([points, noise], axis=-1).reshape(classes * each, 2 * width)
    return ClassPool(examples.astype(np.float32), np.repeat(np.arange(classes), each))


def network(*inner, inputs=16, units=8):
    return keras.Sequential([keras.Input((inputs,)), *inner, layers.Dense(units)])


def learner_of(model, **compiled):
    learner = MetaLearner(network=model, rule=Prototypes())
    learner.compile(**({"jit_compile": False} | compiled))
    return learner


@functools.cache
def tasks_of(ways=5, shots=1, queries=3, meta_batch=4, **more):
    return FewShot(blobs(), ways, shots, queries, meta_batch, **more)


def given(tasks):
    return tuple(next(iter(tasks)))[:3]


def prototype_scores(model, support_x, support_y, query_x):
    places, there = model.predict(support_x, verbose=0), model.predict(query_x, verbose=0)
    prototypes = np.stack([places[support_y == label].mean(axis=0) for label in range(support_y.max() + 1)])
    return -np.square(there[:, None] - prototypes[None]).sum(axis=-1)


def test_training_lowers_the_loss_and_beats_chance_by_far():
    learner = learner_of(network(), optimizer=keras.optimizers.Adam(0.02))
    held_out = FewShot(blobs(seed=1), 5, 1, 3, seed=9)
    before = evaluate(learner, held_out, 100)
    losses = learner.fit(tasks_of(), steps_per_epoch=60, epochs=3, verbose=0).history["loss"]
    after = evaluate(learner, held_out, 100)
    assert losses[2] < losses[1] < losses[0]
    assert after.mean - after.interval > max(0.6, before.mean + before.interval)


@pytest.mark.parametrize(("ways", "shots"), [(2, 1), (5, 3)])
def test_the_scores_are_minus_the_squared_distances_to_the_prototypes(ways, shots):
    learner = learner_of(network(layers.Dense(6, activation="tanh")))
    episode = [part.numpy() for part in next(iter(tasks_of(ways, shots)))]
    scores = learner(tuple(episode[:3])).numpy()
    assert scores.shape == (4, 3 * ways, ways)
    for task in range(4):
        wanted = prototype_scores(learner.network, *(part[task] for part in episode[:3]))
        np.testing.assert_allclose(scores[task], wanted, rtol=1e-4, atol=1e-4)


def test_the_default_loss_is_cross_entropy_of_the_scores_and_accuracy_stands_beside_it():
    learner, tasks = learner_of(network()), tasks_of()
    reported = learner.evaluate(tasks, steps=1, verbose=0, return_dict=True)
    *inputs, query_y = next(iter(tasks))
    scores, truth = learner(tuple(inputs)).numpy().astype(np.float64), query_y.numpy()
    above = scores - scores.max(axis=-1, keepdims=True)
    of_the_truth = np.take_along_axis(above, truth[..., None], axis=-1)[..., 0]
    surprise = np.log(np.exp(above).sum(axis=-1)) - of_the_truth
    accuracy = (scores.argmax(axis=-1) == truth).mean()
    assert reported == pytest.approx({"loss": surprise.mean(), "accuracy": accuracy}, rel=1e-4)


def test_moving_averages_follow_the_tasks_in_training_and_rest_in_evaluation():
    normalise = layers.BatchNormalization(momentum=0.9)
    model = keras.Sequential([keras.Input((16,)), normalise])
    learner = learner_of(model)
    inputs = given(tasks_of())
    means = [part.numpy().mean(axis=1) for part in (inputs[0], inputs[2])]
    learner(inputs, training=False)
    learner.evaluate(tasks_of(), steps=2, verbose=0)
    assert not normalise.moving_mean.numpy().any() and (normalise.moving_variance.numpy() == 1).all()
    learner(inputs, training=True)
    wanted = (0.09 * means[0] + 0.1 * means[1]).mean(axis=0)  # each task: the support set first, then the queries
    np.testing.assert_allclose(normalise.moving_mean.numpy(), wanted, rtol=1e-4, atol=1e-6)
    assert (normalise.moving_variance.numpy() != 1).all()


def test_evaluation_changes_no_variable_at_all():
    learner = learner_of(network(layers.Dropout(0.5), layers.BatchNormalization()))
    before = [variable.numpy() for variable in learner.network.variables]
    learner(given(tasks_of()), training=False)
    learner.evaluate(tasks_of(), steps=2, verbose=0)
    evaluate(learner, tasks_of(), 4)
    assert all(np.array_equal(v.numpy(), then) for v, then in zip(learner.network.variables, before, strict=True))
    learner(given(tasks_of()), training=True)
    assert (
        sum(not np.array_equal(v.numpy(), then) for v, then in zip(learner.network.variables, before, strict=True)) == 3
    )


def test_fit_moves_the_moving_averages():
    normalise = layers.BatchNormalization()
    learner = learner_of(keras.Sequential([keras.Input((16,)), normalise, layers.Dense(4)]))
    learner.fit(tasks_of(), steps_per_epoch=2, verbose=0)
    assert normalise.moving_mean.numpy().all()


def test_dropout_draws_a_mask_for_every_task_and_every_call_and_none_in_evaluation():
    learner = learner_of(network(layers.Dropout(0.5)))
    inputs = tuple(tf.repeat(part[:1], 3, axis=0) for part in given(tasks_of()))
    first, second = (learner(inputs, training=True).numpy() for _ in range(2))
    answers = [*first, *second]
    assert all(not np.allclose(answers[i], answers[j]) for i in range(6) for j in range(i))
    quiet = learner(inputs, training=False).numpy()
    np.testing.assert_allclose(quiet, np.repeat(quiet[:1], 3, axis=0), rtol=1e-6)


def test_a_network_with_dropout_trains():
    learner = learner_of(network(layers.Dropout(0.2)), optimizer=keras.optimizers.Adam(0.02))
    losses = learner.fit(tasks_of(), steps_per_epoch=40, epochs=2, verbose=0).history["loss"]
    assert losses[1] < min(losses[0], np.log(5))  # the logarithm is the loss of a uniform guess


def test_frozen_weights_stay_as_they_are_to_the_bit():
    model = network(layers.Dense(8), layers.BatchNormalization())
    model.layers[0].trainable = False
    before = model.layers[0].get_weights()
    last = model.layers[-1].get_weights()[0]
    learner_of(model).fit(tasks_of(meta_batch=7), steps_per_epoch=5, verbose=0)
    assert all(np.array_equal(now, then) for now, then in zip(model.layers[0].get_weights(), before, strict=True))
    assert not np.array_equal(model.layers[-1].get_weights()[0], last)


def test_the_same_seed_gives_the_same_weights_after_training():
    def trained(seed, of_tasks=0):
        keras.utils.set_random_seed(seed)
        learner = learner_of(network(layers.Dropout(0.3)))
        learner.fit(tasks_of(seed=of_tasks), steps_per_epoch=5, verbose=0)
        return learner.network.get_weights()[0]

    first = trained(1)
    np.testing.assert_allclose(trained(1), first, rtol=1e-5, atol=1e-6)
    assert not np.allclose(trained(2), first) and not np.allclose(trained(1, of_tasks=1), first)


def test_other_losses_and_metrics_are_keras_own():
    def brier(truth, scores):
        chances = tf.nn.softmax(scores)
        return tf.reduce_mean(tf.square(chances - tf.one_hot(tf.cast(truth, tf.int32), tf.shape(scores)[-1])), axis=-1)

    surprise = keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="surprise")
    learner = learner_of(network(), loss=brier, metrics=[surprise], optimizer="sgd")
    history = learner.fit(tasks_of(), steps_per_epoch=2, verbose=0).history
    assert set(history) == {"loss", "surprise"} and 0 < history["loss"][0] < 1


def test_regularisers_of_the_network_count_in_the_loss():
    plain, decayed = (
        keras.Sequential([keras.Input((16,)), layers.Dense(4, "tanh", kernel_regularizer=how)]) for how in (None, "l2")
    )
    decayed.set_weights(plain.get_weights())
    losses = [
        learner_of(m).evaluate(tasks_of(), steps=1, verbose=0, return_dict=True)["loss"] for m in (plain, decayed)
    ]
    assert losses[1] - losses[0] == pytest.approx(0.01 * np.square(plain.get_weights()[0]).sum(), rel=1e-3)


def test_fit_validates_on_tasks_too():
    learner, held_out = learner_of(network()), tasks_of(seed=5)
    history = learner.fit(
        tasks_of(), steps_per_epoch=2, epochs=2, validation_data=held_out, validation_steps=3, verbose=0
    ).history
    reported = learner.evaluate(held_out, steps=3, verbose=0, return_dict=True)
    assert history["val_loss"][-1] == pytest.approx(reported["loss"], rel=1e-4)
    assert len(history["val_accuracy"]) == 2


def test_keras_evaluates_on_so_many_steps():
    class Count(keras.callbacks.Callback):
        batches = 0

        def on_test_batch_end(self, batch, logs=None):
            self.batches += 1

    count = Count()
    assert len(learner_of(network()).evaluate(tasks_of(), steps=3, callbacks=[count], verbose=0)) == 2
    assert count.batches == 3


def test_tasks_that_end_need_no_number_of_steps():
    history = learner_of(network()).fit(tasks_of().take(2), epochs=2, verbose=0).history
    assert len(history["loss"]) == 2


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_a_network_may_compute_in_a_precision_of_its_own(policy):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8, dtype=policy)])
    learner = learner_of(model)
    assert np.isfinite(learner.fit(tasks_of(), steps_per_epoch=2, verbose=0).history["loss"][0])
    assert learner(given(tasks_of())).dtype == ("float64" if policy == "float64" else "float32")


def curve_learner(rate=0.05, optimizer="sgd", **compiled):
    model = keras.Sequential([keras.Input((1,)), layers.Dense(3, "tanh", kernel_regularizer="l2"), layers.Dense(1)])
    learner = MetaLearner(network=model, rule=GradientDescent(rate), parallel="map")
    learner.compile(**({"optimizer": optimizer, "loss": "mse", "jit_compile": False} | compiled))
    return learner


@functools.cache
def curves(**more):
    return Sinusoids(shots=4, queries=3, meta_batch=2, **more)


def weights_of(learner):
    return [variable.numpy() for variable in learner.variables]


def same_to(tolerance, one, other):
    for here, there in zip(one, other, strict=True):
        np.testing.assert_allclose(here, there, rtol=tolerance, atol=tolerance)


def one_step_by_hand(learner, support_x, support_y, rate):
    """The weights of a network of one hidden layer, after a step down the squared error and 0.01 |kernel|^2."""
    first, bias, last, offset = [w.astype(np.float64) for w in learner.network.get_weights()]
    hidden = np.tanh(support_x @ first + bias)
    slope = 2 * (hidden @ last + offset - support_y) / len(support_y)
    back = slope @ last.T * (1 - hidden**2)
    steps = [support_x.T @ back + 0.02 * first, back.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]
    return [w - rate * step for w, step in zip((first, bias, last, offset), steps, strict=True)]


HUBER = ("huber", lambda error: np.where(np.abs(error) <= 1, error**2 / 2, np.abs(error) - 0.5))
LOSSES = {
    "name": HUBER,
    "object": (keras.losses.Huber(), HUBER[1]),
    "function": (lambda y, answers: tf.reduce_mean((y - answers) ** 4, axis=-1), lambda error: error**4),
}


@pytest.mark.parametrize("which", LOSSES)
def test_the_reported_loss_and_metrics_are_those_worked_out_by_hand(which):
    loss, errors = LOSSES[which]
    learner = curve_learner(rate=1e-9, loss=loss, metrics=["mae", keras.metrics.MeanSquaredError(name="square")])
    reported = learner.evaluate(curves(), steps=3, verbose=0, return_dict=True)
    first, bias, last, offset = learner.network.get_weights()
    error = np.stack([np.tanh(e.query_x @ first + bias) @ last + offset - e.query_y for e in curves().take(3)])
    wanted = {
        "loss": errors(error).mean() + 0.01 * np.square(first).sum(),
        "mae": np.abs(error).mean(),
        "square": np.square(error).mean(),
    }
    assert reported == pytest.approx(wanted, rel=1e-5)


def test_the_answers_are_those_after_a_step_and_fit_evaluate_and_predict_agree_on_them():
    learner = curve_learner(metrics=["mae"])
    episodes = [[part.numpy().astype(np.float64) for part in episode] for episode in curves().take(2)]
    answers, squares = [], []
    for support_x, support_y, query_x, query_y in (task for e in episodes for task in zip(*e, strict=True)):
        first, bias, last, offset = one_step_by_hand(learner, support_x, support_y, 0.05)
        answers.append(np.tanh(query_x @ first + bias) @ last + offset)
        squares.append(np.square(answers[-1] - query_y).mean() + 0.01 * np.square(first).sum())
    error = np.abs(np.stack(answers) - np.concatenate([e[3] for e in episodes])).mean()
    np.testing.assert_allclose(learner.predict(curves(), steps=2, verbose=0), answers, rtol=1e-4, atol=1e-5)
    wanted = pytest.approx({"loss": np.mean(squares), "mae": error}, rel=1e-4)
    assert learner.evaluate(curves(), steps=2, verbose=0, return_dict=True) == wanted
    learner.optimizer.learning_rate = 0.0
    history = learner.fit(curves(), steps_per_epoch=2, verbose=0).history
    assert {name: values[0] for name, values in history.items()} == wanted


WAYS = {
    "eagerly": {"run_eagerly": True},
    "three steps at once": {"steps_per_execution": 3},
    "compiled": {"jit_compile": True},
    "compiled together": {"jit_compile": True, "steps_per_execution": 3},
    "compiled or not": {"jit_compile": "auto"},
}


@functools.cache
def six_steps():
    """The weights before and after six steps that are run one by one."""
    learner = curve_learner(optimizer="adam")
    before = learner.get_weights()
    learner.fit(curves(), steps_per_epoch=6, verbose=0)
    return before, weights_of(learner)


@pytest.mark.parametrize("way", WAYS)
def test_however_the_steps_are_run_they_end_at_the_same_weights(way):
    before, after = six_steps()
    learner = curve_learner(optimizer="adam", **WAYS[way])
    learner.set_weights(before)
    learner.fit(curves(), steps_per_epoch=6, verbose=0)
    same_to(1e-5, weights_of(learner), after)
    assert int(learner.optimizer.iterations) == 6


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("kind", ["labels", "targets"])
def test_a_step_is_traced_once(kind, together, monkeypatch):
    """If variables were created within it, TensorFlow would trace it again, and compiling would take twice as long."""
    traced = []
    whole = MetaLearner.meta_gradients
    monkeypatch.setattr(MetaLearner, "meta_gradients", lambda *a, **more: traced.append(1) or whole(*a, **more))
    if kind == "labels":
        learner, tasks = learner_of(network(), steps_per_execution=together, jit_compile=False), tasks_of()
    else:
        learner, tasks = curve_learner(optimizer="adam", metrics=["mae"], steps_per_execution=together), curves()
    learner.fit(tasks, steps_per_epoch=2, epochs=2, verbose=0)
    assert len(traced) == 1
    learner.evaluate(tasks, steps=2, verbose=0)
    assert len(traced) == 2


def test_predicting_in_mid_epoch_leaves_the_metrics_of_training_alone():
    learners = [curve_learner(metrics=["mae"]) for _ in range(2)]
    learners[1].set_weights(learners[0].get_weights())

    def predict(batch, logs):
        learners[1].predict(curves(), steps=1, verbose=0)

    look = keras.callbacks.LambdaCallback(on_train_batch_end=predict)
    plain, looked_at = (
        learner.fit(curves(), steps_per_epoch=4, verbose=0, callbacks=callbacks).history
        for learner, callbacks in zip(learners, ([], [look]), strict=True)
    )
    assert {name: values[0] for name, values in looked_at.items()} == pytest.approx(
        {name: values[0] for name, values in plain.items()}, rel=1e-5
    )


def test_a_second_fit_goes_on_with_the_next_tasks():
    learners = [curve_learner(optimizer="adam") for _ in range(2)]
    learners[1].set_weights(learners[0].get_weights())
    learners[0].fit(curves(), steps_per_epoch=5, verbose=0)
    for steps in (2, 3):
        learners[1].fit(curves(), steps_per_epoch=steps, verbose=0)
    same_to(1e-6, *map(weights_of, learners))


def test_accumulated_gradients_are_averaged_over_batches_and_every_batch_is_seen_once():
    learner, other = curve_learner(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)), curve_learner()
    other.set_weights(learner.get_weights())
    slopes = [other.meta_gradients(tuple(e[:3]), e.query_y)[2][1] for e in curves().take(2)]
    for _ in range(2):  # the second batch is in a separate fit
        learner.fit(curves(), steps_per_epoch=1, verbose=0)
    wanted = [w - 0.1 * (one + two) / 2 for w, one, two in zip(other.network.get_weights(), *slopes, strict=True)]
    same_to(1e-5, learner.network.get_weights(), wanted)


def test_a_schedule_sets_the_learning_rate_of_every_step():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.0])  # two steps, and then none
    learner = curve_learner(optimizer=keras.optimizers.SGD(schedule))
    other = curve_learner(optimizer=keras.optimizers.SGD(0.1))
    other.set_weights(learner.get_weights())
    learner.fit(curves(), steps_per_epoch=4, verbose=0)
    other.fit(curves(), steps_per_epoch=2, verbose=0)
    same_to(1e-6, learner.network.get_weights(), other.network.get_weights())


def test_a_scaled_loss_changes_nothing_but_the_scale():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0, dynamic_growth_steps=3)
    learner, other = curve_learner(optimizer=scaled), curve_learner(optimizer=keras.optimizers.Adam(0.01))
    other.set_weights(learner.get_weights())
    losses = [each.fit(curves(), steps_per_epoch=4, verbose=0).history["loss"] for each in (learner, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and float(scaled.dynamic_scale) == 16
    same_to(1e-5, learner.network.get_weights(), other.network.get_weights())


def test_a_learner_trains_in_half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    learner = curve_learner(optimizer=keras.optimizers.SGD(0.05))
    before = learner.evaluate(curves(seed=1), steps=10, verbose=0)
    learner.fit(curves(), steps_per_epoch=30, verbose=0)
    assert isinstance(learner.optimizer, keras.optimizers.LossScaleOptimizer)
    assert learner(given(curves())).dtype == tf.float32 and learner.network.compute_dtype == "float16"
    assert int(learner.optimizer.iterations) > 20  # at first the scale of the loss is too high for a step
    assert learner.evaluate(curves(seed=1), steps=10, verbose=0) < before


def test_callbacks_of_keras_watch_and_end_training(tmp_path):
    best, log = tmp_path / "best.weights.h5", tmp_path / "log.csv"
    learner = curve_learner(optimizer=keras.optimizers.SGD(0.0))
    history = learner.fit(
        curves(),
        steps_per_epoch=1,
        epochs=5,
        validation_data=curves(seed=1),
        validation_steps=2,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", patience=2),
            keras.callbacks.ModelCheckpoint(best, "val_loss", save_best_only=True, save_weights_only=True),
            keras.callbacks.CSVLogger(log),
        ],
    ).history
    assert len(history["val_loss"]) == 3  # nothing is learned, so two more epochs change nothing
    head, *rows = log.read_text().splitlines()
    assert head == "epoch,loss,val_loss" and len(rows) == 3
    other = curve_learner()
    other.load_weights(best)
    same_to(0, other.network.get_weights(), learner.network.get_weights())


def test_tensorboard_draws_the_loss(tmp_path):
    pytest.importorskip("tensorboard")
    callback = keras.callbacks.TensorBoard(tmp_path)
    curve_learner().fit(curves(), steps_per_epoch=1, epochs=2, verbose=0, callbacks=callback)
    events = [e for file in tmp_path.rglob("*tfevents*") for e in tf.compat.v1.train.summary_iterator(str(file))]
    assert sum(value.tag == "epoch_loss" for event in events for value in event.summary.value) == 2


def test_a_number_of_classes_makes_the_network_of_d3():
    network = MetaLearner(7).network
    kinds = [(type(layer).__name__, layer.output.shape[1:]) for layer in network.layers]
    assert kinds == [
        ("Conv2D", (28, 28, 32)),
        ("MaxPooling2D", (14, 14, 32)),
        ("Conv2D", (14, 14, 64)),
        ("MaxPooling2D", (7, 7, 64)),
        ("Flatten", (3136,)),
        ("Dense", (128,)),
        ("Dense", (7,)),
    ]


def test_tasks_indices_name_rows_of_the_networks_own_answers():
    learner = MetaLearner(3)
    pictures = np.random.default_rng(0).random((5, 28, 28, 1), np.float32)
    answers = learner.network(pictures).numpy()
    np.testing.assert_array_equal(learner(pictures), answers)
    np.testing.assert_allclose(learner(pictures, task_indices=[4, 0, 0]), answers[[4, 0, 0]], rtol=1e-6)
    assert not np.allclose(answers[4], answers[0])


def test_the_model_of_d3_trains_on_the_cross_entropy_of_its_chances():
    pictures = np.random.default_rng(0).integers(0, 256, (9, 28, 28, 1), np.uint8)
    tasks = FewShot(ClassPool(pictures, np.arange(9) // 3), ways=2, shots=1, queries=1, meta_batch=1)
    learner = MetaLearner(2, rule=GradientDescent(0.01))
    learner.compile(optimizer="sgd")
    before = weights_of(learner)
    *inputs, query_y = next(iter(tasks))
    chances = learner(tuple(inputs)).numpy()
    np.testing.assert_allclose(chances.sum(axis=-1), 1, rtol=1e-5)
    history = learner.fit(tasks, steps_per_epoch=1, verbose=0).history
    wanted = -np.log(np.take_along_axis(chances, query_y.numpy()[..., None], axis=-1)).mean()
    assert history["loss"][0] == pytest.approx(wanted, rel=1e-4) and set(history) == {"loss", "accuracy"}
    assert not np.array_equal(weights_of(learner)[0], before[0])


@pytest.mark.parametrize(
    "end",
    [
        [layers.Dense(2, "softmax")],
        [layers.Dense(2), layers.Softmax()],
        [layers.Dense(2), layers.Activation("softmax")],
        [keras.Sequential([layers.Dense(2), layers.Softmax()])],
    ],
    ids=["of a layer", "a layer", "an activation", "in a model within"],
)
def test_a_softmax_at_the_end_is_seen(end):
    for ending, logits in ((end, False), ([*end, layers.Dense(2)], True)):
        learner = MetaLearner(network=keras.Sequential([keras.Input((3,)), *ending]))
        learner.compile()
        assert learner.loss.get_config()["from_logits"] is logits
