"""Distillation: the loss is the documented sum, the student learns from it, and the teacher does not change."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import networks
from meta_keras.transfer import Distiller, feature_loss, same_structure, soft_labels, soft_loss
from meta_keras.transfer.distillation import projection_between


def network(*widths, given=4, classes=3, end=None):
    rows = [layers.Dense(width, activation="tanh", name=f"hidden_{n}") for n, width in enumerate(widths)]
    return keras.Sequential([keras.Input((given,)), *rows, layers.Dense(classes, activation=end, name="head")])


def data(rows=24, given=4, classes=3, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(rows, given)).astype("float32"), generator.integers(0, classes, rows)


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def by_hand(teacher, student, y, temperature, soft):
    """The rows of the loss, of scores."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    hard = -np.log(softmax(student)[np.arange(len(y)), y])
    return soft * temperature**2 * (p * np.log(p / q)).sum(axis=-1) + (1 - soft) * hard


def frozen(model):
    return [np.copy(weight) for weight in model.get_weights()]


def same(before, model):
    return all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


# What is computed


@pytest.mark.parametrize("soft", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1, 20])
def test_the_loss_is_that_of_the_paper(temperature, soft):
    student, teacher = network(), network(5)
    x, y = data()
    answers, loss = Distiller(student, teacher, temperature=temperature, soft=soft).distill(x, tf.constant(y))
    np.testing.assert_array_equal(answers, student(x))
    rows = by_hand(teacher(x).numpy(), student(x).numpy(), y, temperature, soft)
    np.testing.assert_allclose(loss, rows.mean(), rtol=1e-4)


def test_probabilities_and_scores_are_taught_alike():
    x, y = data()
    scores = {role: network(5) for role in ("student", "teacher")}
    losses = []
    for ends in ((None, None), (None, "softmax"), ("softmax", None), ("softmax", "softmax")):
        pair = [network(5, end=end) for end in ends]
        for model, role in zip(pair, scores, strict=True):
            model.set_weights(scores[role].get_weights())
        losses.append(float(Distiller(*pair, temperature=3).distill(x, tf.constant(y))[1]))
        np.testing.assert_allclose(
            soft_labels(pair[1], x, 3), softmax(scores["teacher"](x).numpy() / 3), rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


def test_a_teacher_that_is_very_sure_gives_no_nan_and_is_softened_still():
    scores = tf.constant([[60.0, 0.0, 0.0, 0.0]])
    sure = keras.Sequential([keras.Input((4,)), layers.Softmax()])
    wanted = softmax(scores.numpy() / 20)
    np.testing.assert_allclose(soft_labels(sure, scores, 20), wanted, rtol=1e-4)
    student = network(given=4, classes=4, end="softmax")
    distiller = Distiller(student, sure, soft=1.0)
    distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    assert np.isfinite(distiller.fit(1000 * scores, verbose=0).history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in student.get_weights())


@pytest.mark.parametrize(
    ("policy", "said", "softened"),
    [("mixed_float16", tf.float16, tf.float32), ("float64", tf.float64, tf.float64)],
)
def test_half_precision_is_softened_in_single_and_double_stays_double(policy, said, softened):
    keras.config.set_dtype_policy(policy)
    model = network(5, end="softmax")
    assert model(data()[0]).dtype == said and soft_labels(model, data()[0], 4).dtype == softened


def test_soft_labels_are_what_a_network_says_in_a_test():
    model = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5), layers.Dense(3)])
    x, _ = data()
    np.testing.assert_allclose(soft_labels(model, x, 2), softmax(model(x).numpy() / 2), rtol=1e-5)


def test_half_precision_learns_as_single_does():
    x, y = data(8)
    losses, weights = [], None
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        distiller = Distiller(network(5), network(6), features=("hidden_0", "hidden_0"))
        weights = weights or distiller.get_weights()
        distiller.set_weights(weights)
        losses.append(distiller.distill(x, tf.constant(y))[1])
    assert losses[1].dtype == tf.float32
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)


def test_soft_labels_go_from_one_class_to_all_alike():
    scores = np.array([[1.0, 3.0, 2.0]])
    identity = keras.Sequential([keras.Input((3,)), layers.Identity()])
    np.testing.assert_allclose(soft_labels(identity, scores, 0.01), [[0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(soft_labels(identity, scores, 1000), np.full((1, 3), 1 / 3), atol=1e-3)
    np.testing.assert_allclose(soft_labels(identity, scores), softmax(scores), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 50.0])
def test_the_slope_of_the_soft_loss_is_the_difference_of_the_soft_labels_times_the_temperature(temperature):
    generator = np.random.default_rng(0)
    teacher, student = (tf.constant(generator.normal(size=(6, 5)), tf.float64) for _ in range(2))
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = tf.reduce_sum(soft_loss(student=student, teacher=teacher, temperature=temperature))
    wanted = temperature * (softmax(student.numpy() / temperature) - softmax(teacher.numpy() / temperature))
    np.testing.assert_allclose(tape.gradient(loss, student), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 3)])
def test_the_loss_of_features_is_a_mean_for_every_row(shape):
    generator = np.random.default_rng(0)
    teacher, student = (generator.normal(size=(5, *shape)) for _ in range(2))
    wanted = [np.mean((a - b) ** 2) for a, b in zip(teacher, student, strict=True)]
    found = feature_loss(student=tf.constant(student), teacher=tf.constant(teacher))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("width", [5, 7])
def test_features_add_their_mean_squared_distance(width):
    student, teacher = network(5), network(6, width)
    x, y = data()
    plain = Distiller(student, teacher).distill(x, tf.constant(y))[1]
    distiller = Distiller(student, teacher, features=("hidden_0", "hidden_1"), feature_weight=2.5)
    answers, loss = distiller.distill(x, tf.constant(y))
    seen = keras.Model(student.inputs[0], student.layers[0].output)(x).numpy()
    shown = keras.Model(teacher.inputs[0], teacher.layers[1].output)(x).numpy()
    seen = seen if distiller.projection is None else seen @ distiller.projection.kernel.numpy()
    assert (distiller.projection is None) == (width == 5)
    np.testing.assert_allclose(loss - plain, 2.5 * np.mean((seen - shown) ** 2), rtol=1e-4)
    np.testing.assert_allclose(answers, student(x), rtol=1e-6)


def test_features_of_pictures_are_mapped_place_by_place():
    student, teacher = (networks.conv4(3, filters=filters, downsample="stride") for filters in (2, 3))
    ours, theirs = student.layers[5].name, teacher.layers[5].name
    distiller = Distiller(student, teacher, features=(ours, theirs), soft=0.0)
    assert distiller.projection.kernel.shape == (2, 3)
    x = np.random.default_rng(0).normal(size=(4, 28, 28, 1)).astype("float32")
    with tf.GradientTape() as tape:
        _, loss = distiller.distill(x, tf.zeros(4, tf.int32), training=True)
    slopes = tape.gradient(loss, [*student.layers[0].trainable_variables, distiller.projection.kernel])
    assert all(np.isfinite(slope).all() and np.any(slope) for slope in slopes)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_rows_count_as_their_weights_say(shape):
    student, teacher = network(), network(5)
    x, y = data()
    weight = np.linspace(0, 2, len(y)).astype("float32")
    distiller = Distiller(student, teacher)
    distiller.compile("sgd", jit_compile=False)
    loss = distiller.evaluate(x, y, sample_weight=weight.reshape(shape), batch_size=len(y), verbose=0)
    rows = by_hand(teacher(x).numpy(), student(x).numpy(), y, 4.0, 0.9)
    np.testing.assert_allclose(loss, np.mean(rows * weight), rtol=1e-4)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 5)])
def test_weights_may_be_those_of_rows_or_of_steps(shape):
    made = [keras.Sequential([keras.Input((5, 2)), layers.Dense(3)]) for _ in range(2)]
    x = np.random.default_rng(0).normal(size=(5, 5, 2)).astype("float32")
    weight = np.arange(25 if shape[-1] == 5 else 5).astype("float32").reshape(shape)
    rows = soft_loss(student=made[0](x), teacher=made[1](x), temperature=4.0).numpy()
    _, loss = Distiller(*made, soft=1.0).distill(x, weight=tf.constant(weight))
    np.testing.assert_allclose(loss, np.mean(rows * (weight[:, None] if weight.ndim == 1 else weight)), rtol=1e-5)


@pytest.mark.parametrize("what", ["fit", "evaluate"])
def test_weights_that_keras_would_drop_are_refused(what):
    distiller = Distiller(network(), network(5), soft=1.0)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="Keras ignores sample_weight without labels"):
        getattr(distiller, what)(data()[0], sample_weight=np.zeros(24), verbose=0)


def test_pixels_are_refused_unless_both_models_scale_them():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4), "uint8")
    plain, student = network(5), network()
    teacher, learner = (
        keras.Sequential([keras.Input((4,)), layers.Rescaling(1 / 255), one]) for one in (plain, student)
    )
    for pair in ((student, teacher), (learner, plain)):
        with pytest.raises(ValueError, match="x must be floats: these are pixels from 0 to 255, and"):
            Distiller(*pair, soft=1.0).distill(tf.constant(pixels))
    _, loss = Distiller(learner, teacher, soft=1.0).distill(tf.constant(pixels))
    _, wanted = Distiller(student, plain, soft=1.0).distill(tf.constant(pixels / 255, tf.float32))
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="x must be floats: these are pixels from 0 to 255, and"):
        soft_labels(plain, pixels)
    np.testing.assert_allclose(soft_labels(teacher, pixels), soft_labels(plain, pixels / 255), rtol=1e-5)


def test_what_the_layers_of_the_student_add_is_added_and_those_of_the_teacher_are_not():
    x, y = data()
    teacher = network(5)
    teacher.layers[0].kernel_regularizer = teacher.layers[0].kernel.regularizer = keras.regularizers.L2(7.0)
    student = keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5))])
    rows = by_hand(teacher(x).numpy(), student(x).numpy(), y, 4.0, 0.9)
    extra = 0.5 * np.sum(student.get_weights()[0] ** 2)
    np.testing.assert_allclose(
        Distiller(student, teacher).distill(x, tf.constant(y))[1], rows.mean() + extra, rtol=1e-4
    )


# Training


@pytest.mark.parametrize("features", [None, ("hidden_0", "batch_norm")])
def test_the_teacher_is_bit_identical_after_and_runs_as_in_a_test(features):
    teacher = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6),
            layers.BatchNormalization(name="batch_norm"),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    student = network(5)
    before, start = frozen(teacher), frozen(student)
    flags = [v.trainable for v in teacher.variables]
    distiller = Distiller(student, teacher, features=features)
    distiller.compile("adam", metrics=["accuracy"], jit_compile=False)
    x, y = data()
    answers = teacher(x).numpy()
    distiller.fit(x, y, epochs=3, batch_size=8, verbose=0)
    assert same(before, teacher) and not any(np.array_equal(a, b) for a, b in zip(start, frozen(student), strict=True))
    assert [v.trainable for v in teacher.variables] == flags and teacher.trainable
    np.testing.assert_array_equal(teacher(x), answers)
    rows = Distiller(student, teacher, soft=1.0)
    np.testing.assert_allclose(
        rows.distill(x, training=True)[1], by_hand(answers, student(x).numpy(), y, 4.0, 1.0).mean(), rtol=1e-4
    )


@pytest.mark.parametrize("features", [None, ("hidden", "hidden_0")])
def test_the_student_runs_as_it_is_asked_to(features):
    student = keras.Sequential(
        [keras.Input((4,)), layers.Dropout(0.5), layers.Dense(5, name="hidden"), layers.Dense(3)]
    )
    distiller = Distiller(student, network(6), features=features)
    x, y = data()
    in_test, in_training = (distiller.distill(x, tf.constant(y), training=training)[0] for training in (False, True))
    np.testing.assert_allclose(in_test, student(x), rtol=1e-6)
    assert not np.allclose(in_training, student(x))


def test_a_layer_of_the_student_that_is_frozen_stays_to_the_bit():
    student = network(5)
    student.layers[0].trainable = False
    before = frozen(student)
    distiller = Distiller(student, network(6))
    distiller.compile("adam", jit_compile=False)
    distiller.fit(*data(), verbose=0)
    after = frozen(student)
    assert all(np.array_equal(a, b) for a, b in zip(before[:2], after[:2], strict=True))
    assert not np.array_equal(before[2], after[2])


def test_a_step_of_fit_is_a_step_of_the_loss_by_hand():
    student, teacher = network(), network(5)
    x, y = data(8)
    kernel, bias = student.get_weights()
    scores = x @ kernel + bias
    one_hot = np.eye(3)[y]
    slope = 0.6 * 2.0 * (softmax(scores / 2) - softmax(teacher(x).numpy() / 2)) + 0.4 * (softmax(scores) - one_hot)
    distiller = Distiller(student, teacher, temperature=2.0, soft=0.6)
    distiller.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    distiller.fit(x, y, batch_size=8, verbose=0)
    np.testing.assert_allclose(student.get_weights()[0], kernel - 0.5 * x.T @ slope / 8, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(student.get_weights()[1], bias - 0.5 * slope.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_without_labels_the_student_comes_to_answer_as_its_teacher():
    teacher, student = network(8), network(8)
    x, y = data(200)
    distiller = Distiller(student, teacher, soft=1.0, temperature=1.0)
    distiller.compile(keras.optimizers.Adam(0.05), metrics=["accuracy"], jit_compile=False)
    history = distiller.fit(x, batch_size=200, epochs=40, verbose=0).history
    assert set(history) == {"loss"} and history["loss"][-1] < 0.1 * history["loss"][0]
    new, _ = data(400, seed=1)
    agree = np.mean(student(new).numpy().argmax(axis=1) == teacher(new).numpy().argmax(axis=1))
    assert agree > 0.9
    right = np.mean(student(x).numpy().argmax(axis=1) == y)
    loss, accuracy = distiller.evaluate(x, y, verbose=0)
    assert accuracy == pytest.approx(right, abs=1e-6) and loss < history["loss"][0]


def test_the_loss_that_is_reported_is_the_mean_over_all_rows():
    student, teacher = network(), network(5)
    x, y = data(20)
    distiller = Distiller(student, teacher)
    distiller.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    rows = by_hand(teacher(x).numpy(), student(x).numpy(), y, 4.0, 0.9)
    assert distiller.fit(x, y, batch_size=8, verbose=0).history["loss"][0] == pytest.approx(rows.mean(), rel=1e-4)
    assert distiller.evaluate(x, y, batch_size=8, verbose=0) == pytest.approx(rows.mean(), rel=1e-4)


@pytest.mark.parametrize("end", [None, "softmax"])
def test_calling_the_distiller_answers_as_the_student(end):
    student = keras.Sequential([keras.Input((4,)), layers.Dropout(0.5), layers.Dense(3, activation=end)])
    distiller = Distiller(student, network(5))
    x, _ = data(50)
    np.testing.assert_array_equal(distiller(x), student(x))
    np.testing.assert_allclose(distiller.predict(x, verbose=0), student(x), rtol=1e-5, atol=1e-6)
    assert not np.allclose(distiller(x, training=True), student(x))
    assert distiller.student is student and type(student) is keras.Sequential


def test_only_the_student_and_the_projection_are_trained():
    student, teacher = network(5), network(6)
    assert Distiller(student, teacher).trainable_variables == student.trainable_variables
    distiller = Distiller(student, teacher, features=("hidden_0", "hidden_0"))
    assert distiller.trainable_variables == [*student.trainable_variables, distiller.projection.kernel]
    assert distiller.trainable_weights == distiller.trainable_variables
    distiller.compile("adam", jit_compile=False)
    before = distiller.projection.kernel.numpy()
    distiller.fit(*data(), verbose=0)
    assert not np.array_equal(before, distiller.projection.kernel)


@pytest.mark.slow
@pytest.mark.parametrize("features", [None, ("hidden_0", "hidden_0")])
def test_a_distiller_is_saved_and_goes_on_where_it_was(features, tmp_path):
    x, y = data()
    distiller = Distiller(network(5), network(6, end="softmax"), temperature=3, soft=0.5, features=features)
    distiller.compile(keras.optimizers.Adam(0.01), metrics=["accuracy"], jit_compile=False)
    distiller.fit(x, y, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(again(x), distiller(x))
    np.testing.assert_array_equal(again.teacher(x), distiller.teacher(x))
    for model in (distiller, again):
        model.fit(x, y, shuffle=False, verbose=0)
    np.testing.assert_allclose(again(x), distiller(x), rtol=1e-5, atol=1e-6)


# What is rejected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature must be a number from 0.01 to 1000; got 0"),
        ({"temperature": -1.0}, "temperature must be a number from 0.01 to 1000; got -1.0"),
        ({"temperature": float("inf")}, "temperature must be a number from 0.01 to 1000; got inf"),
        ({"soft": 1.5}, "soft must be a number from 0 to 1; got 1.5"),
        ({"soft": -0.1}, "soft must be a number from 0 to 1"),
        ({"feature_weight": -1}, "feature_weight must be a finite number of at least 0; got -1"),
        ({"features": ("hidden_0", "hidden_9")}, "no 'hidden_9' among its layers 'hidden_0', 'head'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Distiller(network(5), network(6), **settings)


def test_a_temperature_of_zero_softens_nothing():
    with pytest.raises(ValueError, match="temperature must be a number from 0.01 to 1000"):
        soft_labels(network(), data()[0], 0)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (lambda: network(classes=3), lambda: network(classes=4), r"output_shape; .* \(None, 3\), and .* \(None, 4\)"),
        (lambda: network(given=2), lambda: network(given=4), r"input_shape; .* \(None, 2\), and .* \(None, 4\)"),
        (lambda: keras.Sequential([layers.Dense(3)]), network, "student must have its weights"),
        (network, lambda: None, "teacher must be a Keras model; got None"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(student, teacher, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Distiller(student(), teacher())


def test_features_of_other_places_are_refused_with_both_shapes():
    student, teacher = (networks.conv4(3, filters=2, downsample=how) for how in ("stride", "pool"))
    ours, theirs = student.layers[2].name, teacher.layers[2].name
    with pytest.raises(ValueError, match=rf"'{ours}'.*\(None, 14, 14, 2\), and '{theirs}'.*\(None, 28, 28, 2\)"):
        Distiller(student, teacher, features=(ours, theirs))


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_features_are_those_of_models_with_one_input(role):
    one, two = keras.Input((4,)), keras.Input((4,))
    both = keras.Model([one, two], layers.Dense(3)(layers.Add(name="hidden_0")([one, two])), name="both")
    student, teacher = (both if name == role else network(5) for name in ("student", "teacher"))
    with pytest.raises(ValueError, match="'both' has 2 inputs and 1 outputs"):
        projection_between(student, "hidden_0", teacher, "hidden_0")


def test_a_student_that_shares_weights_with_its_teacher_is_refused():
    teacher = network(5)
    student = keras.Sequential([keras.Input((4,)), teacher.layers[0], layers.Dense(3)])
    with pytest.raises(ValueError, match="shares 2 weights with the student, such as '.*hidden_0/bias'"):
        Distiller(student, teacher)
    Distiller(same_structure(teacher), teacher)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, r"there are none: fit\(x, y\), or Distiller\(soft=1.0\)"),
        (np.eye(3)[[0, 1, 2, 0]].astype("int32"), r"one per row; got int32 of shape \(4, 3\)"),
        (np.zeros(4, "float32"), "integers, one per row; got float32"),
    ],
)
def test_labels_that_cannot_count_are_refused(y, message):
    distiller = Distiller(network(), network(5))
    distiller.compile("adam", jit_compile=False)
    with pytest.raises(ValueError, match=message):
        distiller.fit(data(4)[0], y, batch_size=4, verbose=0)


def test_labels_may_stand_in_a_column():
    x, y = data()
    distiller = Distiller(network(), network(5))
    flat, column = (distiller.distill(x, tf.constant(labels))[1] for labels in (y, y[:, None]))
    assert float(flat) == float(column)


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("end", ["sigmoid", keras.activations.sigmoid, layers.Activation("sigmoid")])
def test_independent_probabilities_are_not_taken_for_logits(role, end):
    if isinstance(end, layers.Layer):
        independent = keras.Sequential([network(5), layers.Activation("sigmoid")])
    else:
        independent = network(5, end=end)
    pair = {"student": network(5), "teacher": network(5)} | {role: independent}
    with pytest.raises(ValueError, match=f"{role} must end in logits or a softmax.* ends in a sigmoid"):
        Distiller(**pair)
    with pytest.raises(ValueError, match="network must end in logits or a softmax.* ends in a sigmoid"):
        soft_labels(independent, data()[0])


def test_student_and_teacher_are_named_and_never_swapped():
    z = [tf.constant([[0.0, 1.0]]), tf.constant([[3.0, 0.0]])]
    with pytest.raises(TypeError, match="positional"):
        soft_loss(*z, 2.0)
    with pytest.raises(TypeError, match="positional"):
        feature_loss(*z)
    one, other = (float(soft_loss(student=z[i], teacher=z[1 - i], temperature=1.0)[0]) for i in (0, 1))
    assert one != pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("wrong", [tf.ones((2, 3)), tf.ones((2, 2), tf.float64), np.ones((2, 2)), None, tf.ones(2)])
def test_a_student_and_a_teacher_that_do_not_fit_are_refused(wrong):
    for loss in (lambda **pair: soft_loss(**pair, temperature=1.0), feature_loss):
        with pytest.raises(ValueError, match="student and teacher must|teacher must be a tensor"):
            loss(student=tf.ones((2, 2)), teacher=wrong)


def test_what_is_measured_comes_as_numbers_and_without_metrics_that_have_seen_no_labels():
    """Keras 3.13 converts its metrics to numbers in `get_metrics_result`, and Keras 3.15 does so elsewhere."""
    x, y = data()
    distiller = Distiller(network(5), network(6), soft=1.0)
    distiller.compile(metrics=["accuracy"], jit_compile=False)
    assert list(distiller.fit(x, verbose=0).history) == ["loss"] == [metric.name for metric in distiller.metrics]
    measured = distiller.evaluate(x, y, verbose=0)
    assert len(measured) == 2 and all(isinstance(value, float) for value in measured)
    by_name = distiller.evaluate(x, y, verbose=0, return_dict=True)
    assert by_name == pytest.approx(dict(zip(["loss", "accuracy"], measured, strict=True)))


def test_a_loss_of_the_users_is_refused():
    with pytest.raises(ValueError, match="has its own loss"):
        Distiller(network(), network(5)).compile("adam", loss="mse")


def test_the_loss_of_several_inputs_is_the_mean_over_their_rows():
    def pair():
        left, right = keras.Input((2,)), keras.Input((2,))
        return keras.Model([left, right], layers.Dense(3)(layers.Concatenate()([left, right])))

    distiller = Distiller(pair(), pair(), soft=1.0)
    distiller.compile()
    x = [data(5, 2, seed=seed)[0] for seed in (1, 2)]
    measured = distiller.evaluate(x, batch_size=4, verbose=0)
    np.testing.assert_allclose(measured, distiller.distill(x)[1], rtol=1e-5)


def test_a_single_output_has_nothing_to_share():
    with pytest.raises(ValueError, match="at least two classes; .* has a single output"):
        soft_labels(network(classes=1), data()[0])


@pytest.mark.parametrize("features", ["hidden_0", ["hidden_0"]])
def test_features_are_two_layers(features):
    with pytest.raises(ValueError, match="layer of the student, layer of the teacher.*got .*hidden_0"):
        Distiller(network(5), network(5), features=features)


def test_student_and_teacher_have_one_output_each():
    x = keras.Input((4,))
    model = keras.Model(x, [layers.Dense(3)(x), layers.Dense(3)(x)])
    with pytest.raises(ValueError, match="student must have one output; .* has 1 inputs and 2 outputs"):
        Distiller(model, same_structure(model))


def test_a_cross_entropy_as_a_metric_is_that_of_the_student():
    x, y = data()
    model = Distiller(network(), network(), soft=0.0)
    model.compile(metrics=["sparse_categorical_crossentropy"])
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["sparse_categorical_crossentropy"] == pytest.approx(found["loss"], rel=1e-5)
