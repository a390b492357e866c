"""MetaLearner and its first rule, Prototypes: Keras trains it over tasks, and it scores as the formula says."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import ClassPool, FewShot, MetaLearner, Sinusoids, evaluate, networks
from meta_keras.rules import Prototypes, Rule


def blobs(classes=30, each=12, width=8, spread=0.6, seed=0):
    """Clouds of points about their own centres; half of the numbers are noise that a learner must ignore."""
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
    learner.compile(**compiled)
    return learner


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
    assert losses[1] < min(losses[0], np.log(5))  # the logarithm is the loss of a fair guess


def test_frozen_weights_stay_as_they_are_to_the_bit():
    model = network(layers.Dense(8), layers.BatchNormalization())
    model.layers[0].trainable = False
    before = model.layers[0].get_weights()
    last = model.layers[-1].get_weights()[0]
    learner_of(model).fit(tasks_of(meta_batch=7), steps_per_epoch=5, verbose=0)
    assert all(np.array_equal(now, then) for now, then in zip(model.layers[0].get_weights(), before, strict=True))
    assert not np.array_equal(model.layers[-1].get_weights()[0], last)


def test_weights_survive_a_file(tmp_path):
    inputs = given(tasks_of())
    trained = learner_of(network(layers.BatchNormalization()))
    trained.fit(tasks_of(), steps_per_epoch=3, verbose=0)
    trained.save_weights(tmp_path / "learner.weights.h5")
    other = MetaLearner(network(layers.BatchNormalization()), Prototypes())
    assert not np.allclose(other(inputs), trained(inputs))
    other.load_weights(tmp_path / "learner.weights.h5")
    np.testing.assert_array_equal(other(inputs), trained(inputs))


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


@pytest.mark.parametrize(
    ("use", "word"),
    [
        (lambda learner: learner.fit(tasks_of(), verbose=0), "steps_per_epoch=100"),
        (lambda learner: learner.evaluate(tasks_of(), verbose=0), "steps=100"),
        (
            lambda learner: learner.fit(tasks_of(), steps_per_epoch=1, validation_data=tasks_of(), verbose=0),
            "validation_steps=100",
        ),
    ],
    ids=["fit", "evaluate", "validation"],
)
def test_endless_tasks_need_a_number_of_steps(use, word):
    with pytest.raises(ValueError, match=f"never end; say how many batches of them to take, such as {word}"):
        use(learner_of(network()))


def test_tasks_that_end_need_no_number_of_steps():
    history = learner_of(network()).fit(tasks_of().take(2), epochs=2, verbose=0).history
    assert len(history["loss"]) == 2


@pytest.mark.parametrize("wrong", [np.zeros((3, 16)), tf.data.Dataset.range(3), None], ids=["array", "dataset", "None"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_what_holds_no_episodes_is_refused(method, wrong):
    with pytest.raises(ValueError, match=f"A dataset of episodes is needed.*this is {type(wrong).__name__}"):
        getattr(learner_of(network()), method)(wrong)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_a_network_may_compute_in_a_precision_of_its_own(policy):
    model = keras.Sequential([keras.Input((16,)), layers.Dense(8, dtype=policy)])
    learner = learner_of(model)
    assert np.isfinite(learner.fit(tasks_of(), steps_per_epoch=2, verbose=0).history["loss"][0])
    assert learner(given(tasks_of())).dtype == tf.float32


def many_outputs():
    inputs = keras.Input((16,))
    return keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(3)(inputs)])


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (many_outputs, r"\[\(5, 2\), \(5, 3\)\]"),
        (lambda: keras.Sequential([keras.Input((16,)), layers.Reshape((4, 4))]), r"\(5, 4, 4\)"),
    ],
    ids=["several", "not flat"],
)
def test_prototypes_need_one_flat_output(model, shape):
    with pytest.raises(ValueError, match=f"one row of numbers for each example.*outputs have shape {shape}"):
        MetaLearner(model(), Prototypes())(given(tasks_of()))


def test_prototypes_are_not_for_regression():
    learner = learner_of(networks.mlp(2), loss="mse")
    with pytest.raises(ValueError, match="Prototypes stand for classes; these answers are float32"):
        learner.fit(Sinusoids(), steps_per_epoch=1, verbose=0)


def test_a_network_without_weights_is_refused():
    with pytest.raises(ValueError, match="has no weights yet"):
        MetaLearner(keras.Sequential([layers.Dense(2)]), Prototypes())


def test_a_rule_must_say_how_it_adapts_and_predicts():
    with pytest.raises(NotImplementedError, match="Rule must say how it adapts"):
        Rule().adapt(None, None, None, None, training=False)
    with pytest.raises(NotImplementedError, match="Rule must say how it predicts"):
        Rule().predict(None, None, None, None, training=False)


def test_a_rule_is_an_object_and_not_its_class():
    with pytest.raises(TypeError, match="A rule is needed"):
        MetaLearner(network=networks.mlp(2), rule=Prototypes)
