"""A predictor answers as its learner does and creates no model; integer images are scaled the same way everywhere."""

import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import FewShot, MetaLearner, Sinusoids, load, networks
from meta_keras.predictors import Predictors
from meta_keras.rules import GradientDescent, Prototypes

RULES = {
    "prototypes": lambda: Prototypes(batch_statistics="episode"),
    "descent": lambda: GradientDescent(0.1, steps=2, evaluation_steps=3),
    "support": lambda: GradientDescent(0.1, batch_statistics="support"),
}


def image_learner(rule):
    network = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Conv2D(4, 3, strides=4), layers.BatchNormalization(), layers.Flatten()]
        + [layers.Dense(3)]
    )
    learner = MetaLearner(network=network, rule=rule)
    learner.compile()
    return learner


def images():
    pool = load("glyphs").split("test")
    rows = np.concatenate([pool.first[:3] + n for n in range(4)])
    return pool.examples[rows], np.tile([0, 1, 2], 4)


@pytest.mark.parametrize("rule", RULES)
def test_a_predictor_answers_as_the_learner_does(rule):
    learner = image_learner(RULES[rule]())
    x, y = images()
    predictor = learner.predictor(x[:6], y[:6])
    wanted = learner.predict((x[None, :6], y[None, :6], x[None, 6:]), verbose=0)[0]
    np.testing.assert_allclose(predictor(x[6:]), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(predictor.predict(x[6:]), predictor(x[6:]))


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        *(pytest.param(rule, "uint8", marks=pytest.mark.slow) for rule in ("descent", "support")),
        *(("prototypes", dtype) for dtype in ("uint8", "int64", "int32")),
    ],
)
def test_integer_images_are_scaled_in_every_path_and_once(rule, dtype):
    learner = image_learner(RULES[rule]())
    x, y = images()
    scaled, x = np.float32(x) / 255, x.astype(dtype)
    paths = {
        "predictor": lambda x: learner.predictor(x[:6], y[:6]).predict(x[6:]),
        "expert": lambda x: learner.adapt(x[:6], y[:6]).predict(x[6:], verbose=0),
        "predict": lambda x: learner.predict((x[None, :6], y[None, :6], x[None, 6:]), verbose=0)[0],
        "call": lambda x: learner((tf.constant(x[None, :6]), tf.constant(y[None, :6]), tf.constant(x[None, 6:])))[0],
        "test": lambda x: learner.test_on_batch((x[None, :6], y[None, :6], x[None, 6:]), y[None, 6:]),
    }
    for path in paths.values():
        np.testing.assert_allclose(path(x), path(scaled), rtol=1e-4, atol=1e-5)


def test_an_expert_of_pixels_also_takes_them_as_floats_and_survives_a_file(tmp_path):
    learner = image_learner(Prototypes())
    x, y = images()
    expert = learner.adapt(x[:6], y[:6])
    expert.save(tmp_path / "expert.keras")
    loaded = keras.models.load_model(tmp_path / "expert.keras")
    wanted = learner.predictor(x[:6], y[:6]).predict(x[6:]).argmax(-1)
    for model in (expert, loaded):
        for queries in (x[6:], x[6:].astype("float32")):
            np.testing.assert_array_equal(model.predict(queries, verbose=0).argmax(-1), wanted)


def test_float_images_from_0_to_255_are_rejected():
    learner = image_learner(Prototypes())
    x, y = images()
    floats = x.astype("float32")
    with pytest.raises(ValueError, match="support examples are float images with values from 0 to 255"):
        learner.adapt(floats, y)
    with pytest.raises(ValueError, match="queries are float images"):
        learner.predictor(x, y)(floats)
    for use in (learner.predict, lambda task: learner.train_on_batch(task, y[None])):
        with pytest.raises(ValueError, match="queries are float images"):
            use((x[None], y[None], floats[None]))


def test_predicting_makes_no_model_and_traces_once(monkeypatch):
    learner = image_learner(Prototypes())
    x, y = images()
    traced = []
    whole = Prototypes.adapt
    monkeypatch.setattr(Prototypes, "adapt", lambda *a, **k: traced.append(1) or whole(*a, **k))
    monkeypatch.setattr(keras.models, "clone_model", None)
    answers = [learner.predictor(x[n : n + 3], y[n : n + 3]).predict(x[6:]) for n in range(3)]
    assert len(traced) == 1 and not np.allclose(answers[0], answers[1])


def test_a_predictor_keeps_its_weights_when_the_learner_trains_on():
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.05))
    learner.compile("sgd", "mse")
    x = np.linspace(-1, 1, 5, dtype="float32")[:, None]
    predictor = learner.predictor(x, x)
    before = predictor(x).numpy()
    learner.fit(Sinusoids(shots=3), steps_per_epoch=2, verbose=0)
    np.testing.assert_array_equal(predictor(x), before)
    assert not np.allclose(learner.predictor(x, x)(x), before)


def interrupted(function, code, place, between):
    """Calls the function, and `between` before its code executes the line of this place, in the order of execution.

    Returns whether there was such a line. Events are counted, since a loop executes a line more than once.
    """
    passed = []

    def on_line(frame, event, _):
        if event == "line":
            passed.append(frame.f_lineno)
            if len(passed) == place + 1:
                other = threading.Thread(target=between)
                other.start()
                other.join()
        return on_line

    sys.settrace(lambda frame, event, _: on_line if frame.f_code is code else None)
    try:
        function()
    finally:
        sys.settrace(None)
    return len(passed) > place


@pytest.mark.parametrize("last", [2, 3])
def test_another_thread_may_make_a_predictor_at_any_moment(last):
    """Between any two lines of a call, another thread makes a predictor of other settings."""
    learner = MetaLearner(network=networks.mlp(4, input_shape=(3,), hidden=(4,)), rule=Prototypes())
    x = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
    answers = {}

    def answer(ways):
        answers[ways] = learner.predictor(x, np.arange(6) % ways)(x).shape

    answer(3), answer(2), answer(last)
    place = 0
    while interrupted(lambda: answer(2), Predictors.__call__.__code__, place, lambda: answer(3)):
        for ways in (2, 3, 3, last):  # the last one is that of the call which is interrupted next, or not
            assert answers.pop(ways, (6, ways)) == (6, ways)
            answer(ways)
        place += 1
    assert place > 5


def test_a_changed_setting_of_the_rule_is_seen():
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.05))
    x = np.linspace(-1, 1, 5, dtype="float32")[:, None]
    one = learner.predictor(x, x)(x)
    learner.rule.evaluation_steps = 5
    assert not np.allclose(learner.predictor(x, x)(x), one)


def test_a_changed_update_and_a_frozen_layer_are_seen():
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.05))
    x = np.linspace(-1, 1, 5, dtype="float32")[:, None]
    answers = [learner.predictor(x, x).predict(x)]
    learner.rule.transform.learning_rate = 1e-9
    answers.append(learner.predictor(x, x).predict(x))
    learner.rule.transform.learning_rate = 0.05
    learner.network.layers[-1].trainable = False
    answers.append(learner.predictor(x, x).predict(x))
    assert not any(np.allclose(answers[i], answers[j]) for i in range(3) for j in range(i))


def test_a_changed_activation_of_the_network_is_seen():
    network = networks.mlp(1, hidden=(4,))
    learner = MetaLearner(network=network, rule=GradientDescent(0.01))
    learner.compile(loss="mse")
    x = np.linspace(-1, 1, 5, dtype="float32")[:, None]
    before = learner.predictor(x, x).predict(x)
    network.layers[0].activation = keras.activations.tanh
    after = learner.predictor(x, x).predict(x)
    np.testing.assert_allclose(after, learner.adapt(x, x).predict(x, verbose=0), rtol=1e-5)
    assert not np.allclose(before, after)


@pytest.mark.parametrize("x", [np.zeros((2, 3)), 3.0, "x", None, [[1.0], [2.0, 3.0]]])
def test_queries_need_the_shape_of_the_support_set(x):
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(0.05))
    predictor = learner.predictor(np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="x must (have shape|be one array of numbers)"):
        predictor(x)


def test_a_class_without_support_examples_is_never_the_answer():
    learner = MetaLearner(network=keras.Sequential([keras.Input((2,)), layers.Identity()]), rule=Prototypes())
    x, y = np.float32([[3, 3], [4, 4]]), [0, 2]
    queries = np.float32([[0.1, 0.1], [5, 5]])  # a prototype of class 1 at the origin would win the first
    for answers in (
        learner.predictor(x, y).predict(queries),
        learner.adapt(x, y).predict(queries, verbose=0),
        learner((x[None], np.int32([y]), queries[None]))[0].numpy(),
    ):
        assert answers.argmax(-1).tolist() == [0, 2] and np.isfinite(answers).all()


def test_prototypes_of_large_embeddings_do_not_overflow_in_half_precision():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(4, dtype="mixed_float16", kernel_initializer="ones")])
    learner = MetaLearner(network=model, rule=Prototypes())
    x = np.float32([[100, 200], [1000, 2000]])
    assert np.isfinite(learner.predictor(x, [0, 1]).predict(x)).all()


@pytest.mark.slow
def test_raw_tasks_of_bytes_are_scaled_in_fit_evaluate_and_predict():
    x, y = images()
    pool_tasks = FewShot(load("glyphs").split("test"), ways=3, shots=1, queries=2, meta_batch=1)
    raw = pool_tasks.map(
        lambda e: e._replace(support_x=tf.cast(255 * e.support_x, tf.uint8), query_x=tf.cast(255 * e.query_x, tf.uint8))
    )
    learner = image_learner(GradientDescent(0.1))
    wanted, found = (learner.evaluate(tasks, steps=2, verbose=0) for tasks in (pool_tasks, raw))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    one, two = (learner.predict(tasks, steps=1, verbose=0) for tasks in (pool_tasks, raw))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert np.isfinite(learner.fit(raw, steps_per_epoch=1, verbose=0).history["loss"][0])


@pytest.mark.parametrize("name", ["learning_rate", "evaluation_steps"])
def test_a_changed_setting_may_be_a_number_of_numpy(name):
    rule = GradientDescent(0.05, steps=1)
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=rule)
    x, owner = np.linspace(-1, 1, 5, dtype="float32")[:, None], {"learning_rate": rule.transform}.get(name, rule)
    answers = []
    for value in np.array([1, 2, 3]):
        setattr(owner, name, value)
        answers.append(learner.predictor(x, x).predict(x))
    assert not any(np.allclose(answers[i], answers[j]) for i in range(3) for j in range(i))


def test_a_changed_setting_may_be_a_list():
    scaling = layers.Rescaling([1.0, 1.0])
    network = keras.Sequential([keras.Input((2,)), scaling, layers.Dense(3)])
    learner, x = MetaLearner(network=network, rule=Prototypes()), np.eye(2, dtype="float32")
    before = learner.predictor(x, [0, 1]).predict(x)
    scaling.scale = [2.0, 2.0]
    assert not np.allclose(learner.predictor(x, [0, 1]).predict(x), before)
