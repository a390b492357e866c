"""The faults of the documents, each shown to be one, and the cure beside it. The rows stand in chapters/README.md."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import meta_keras as mk

ROOT = Path(__file__).resolve().parents[1]


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1)).astype("uint8")


def test_transfer_comes_after_and_not_at_the_same_time():
    x = np.random.default_rng(0).normal(size=(256, 5))
    y = 3 * x.sum(axis=1, keepdims=True)
    first, second = (mk.networks.mlp(1, input_shape=(5,), hidden=(8,)) for _ in range(2))
    for model in (first, second):
        model.compile(keras.optimizers.Adam(0.01), "mse")
    first.fit(x, y, epochs=20, verbose=0)
    learned, untouched = (model.evaluate(x, y, verbose=0) for model in (first, second))
    assert untouched > 5 * learned, "while the first task was learned, nothing was carried to the second model"
    second.set_weights(first.get_weights())
    assert second.evaluate(x, y, verbose=0) == pytest.approx(learned), "afterwards it can be"


def test_a_policy_must_see_the_support_set():
    network = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
    learner = mk.MetaLearner(network=network, rule=mk.rules.Prototypes())
    same_query = tf.constant([[[1.0]]])
    answers = [
        int(tf.argmax(learner((tf.constant([support]), tf.constant([[0, 1]]), same_query))[0, 0]))
        for support in ([[0.0], [9.0]], [[9.0], [0.0]])
    ]
    assert answers == [0, 1], "one x, two tasks, two answers: no function of x alone can give both"


def test_chapter_01_draws_the_missing_picture():
    source = (ROOT / "chapters/src/01_learning_to_learn.py").read_text(encoding="utf-8")
    part = source[source.index("## A map of the field") :]
    assert "report.diagram" in part
    for word in ("meta-learning task", "transfer", "without labels", "model framework", "optimisation framework"):
        assert word in part
    everything = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "chapters/src").glob("*.py"))
    assert "yourusername" not in everything


def test_requirements_name_what_is_needed():
    listed = re.findall(r"^([a-z_\-]+)[><=]", (ROOT / "requirements.txt").read_text(), re.M)
    assert {"tensorflow", "keras", "numpy", "matplotlib"} <= set(listed)
    assert "pandas" not in listed
    assert 'requires-python = ">=3.11' in (ROOT / "pyproject.toml").read_text()


def test_dense_layers_need_a_flatten():
    as_printed = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    assert as_printed.output_shape == (None, 28, 10)
    as_printed.compile("adam", "categorical_crossentropy")
    x, y = pictures(32)[..., 0] / 255, keras.utils.to_categorical(np.arange(32) % 10)
    with pytest.raises(ValueError):
        as_printed.fit(x, y, verbose=0)

    model = mk.classical.create_model()
    assert model.output_shape == (None, 10)
    mk.classical.train_model(model, x[..., None], y, epochs=1)


def test_the_test_set_is_measured_by_the_training_set():
    train, test = pictures(20), pictures(20, seed=1)
    _, standard = mk.classical.preprocess_data(train)
    dim = (test // 2).astype("uint8")
    by_itself = [mk.classical.preprocess_data(x)[0].mean() for x in (test, dim)]
    by_training = [mk.classical.preprocess_data(x, standard)[0].mean() for x in (test, dim)]
    assert by_itself == pytest.approx([0, 0], abs=1e-4), "as printed, half the light cannot be seen"
    assert by_training[1] < by_training[0] - 0.5


def test_the_names_of_scaling_and_standardising():
    x = pictures(50)
    scaled = x / 255.0
    assert scaled.min() >= 0 and scaled.max() <= 1 and scaled.mean() > 0.4, "what is called standardised is not"
    standardised, _ = mk.classical.preprocess_data(x)
    assert standardised.mean() == pytest.approx(0, abs=1e-3)
    assert standardised.std() == pytest.approx(1, abs=1e-3)


def test_the_project_does_not_learn_to_learn():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    x = rng.normal(size=(400, 4, 4, 1)).astype("float32") * 0.1
    x[np.arange(400), y, 0, 0] += 3
    model = mk.classical.create_model((4, 4, 1), 4)
    mk.classical.train_model(model, x, keras.utils.to_categorical(y, 4), epochs=20)
    pool = mk.ClassPool.from_arrays(x, y)
    dealt_anew = mk.FewShot(pool, ways=4, shots=1, queries=5, seed=0)

    def ordinary(support_x, support_y, query_x):
        return model(query_x)

    learner = mk.MetaLearner(
        network=keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()]), rule=mk.rules.Prototypes()
    )
    assert (model.predict(x, verbose=0).argmax(axis=1) == y).mean() > 0.95, "on its own task it is good"
    by_ordinary, by_learner = mk.evaluate(ordinary, dealt_anew, 200), mk.evaluate(learner, dealt_anew, 200)
    assert abs(by_ordinary.mean - 0.25) < 3 * by_ordinary.interval, "with labels dealt anew it guesses"
    assert by_learner.mean > 0.95
