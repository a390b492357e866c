"""`MultiTask`: Keras' methods, missing labels, and the three methods of combining tasks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import meta_keras as mk
from meta_keras.internals import seeds_of
from meta_keras.multitask import MultiTask, average_loss, gradient_cosines, project_conflicts
from meta_keras.multitask.labels import mean_over_labeled

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
KIND = np.array([0, 1, 2, -1, 1, 0, -1, 2, 2, 1, 0, -1])
SIZE = np.where(np.arange(12)[:, None] % 4 == 1, np.nan, X[:, 1:3]).astype("float32")
Y = {"kind": KIND, "size": SIZE}
METHODS = ("average", "uncertainty", "surgery")


def made(method="average", *, dropout=0.0, regularizer=None, eager=False, optimizer=None, **compiled):
    keras.utils.set_random_seed(1)
    trunk = keras.Sequential([keras.Input((4,)), layers.Dense(6, activation="tanh", kernel_regularizer=regularizer)])
    if dropout:
        trunk.add(layers.Dropout(dropout))
    model = MultiTask(trunk, {"kind": layers.Dense(3), "size": layers.Dense(2)}, method=method)
    optimizer = optimizer or keras.optimizers.SGD(0.1)
    model.compile(optimizer, run_eagerly=eager, jit_compile=False, **compiled)
    return model


def repeated(times):
    """An epoch of several steps on the same rows, since beginning an epoch takes longer than a step."""
    return np.tile(X, (times, 1)), {"kind": np.tile(KIND, times), "size": np.tile(SIZE, (times, 1))}


def losses_by_hand(model, x, y):
    """Cross-entropy and mean squared error over the labeled rows."""
    outputs = {task: answers.numpy().astype(float) for task, answers in model(x).items()}
    with_kind, with_size = y["kind"] >= 0, ~np.isnan(y["size"]).any(axis=1)
    logits = outputs["kind"][with_kind]
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    kind = -logs[np.arange(len(logs)), y["kind"][with_kind]].mean() if with_kind.any() else 0.0
    size = ((outputs["size"] - y["size"])[with_size] ** 2).mean() if with_size.any() else 0.0
    return kind, size


def test_the_outputs_are_those_of_the_heads_on_one_trunk():
    model = made()
    features = model.trunk(X)
    outputs = model.predict(X, verbose=0)
    assert list(outputs) == ["kind", "size"]
    for task, head in model.heads.items():
        np.testing.assert_allclose(outputs[task], head(features), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_means_over_labeled_rows(method):
    model = made(method)
    kind, size = losses_by_hand(model, X, Y)
    found = model.evaluate(X, Y, batch_size=12, verbose=0, return_dict=True)
    wanted = kind + size / 2 if method == "uncertainty" else (kind + size) / 2
    assert found == pytest.approx({"kind_loss": kind, "size_loss": size, "loss": wanted}, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_stands_where_a_label_is_missing_has_no_influence(method):
    """A row without any label, and the numbers beside a NaN, change nothing."""
    unlabeled = np.array([-1, -7]), np.array([[np.nan, 100.0], [-50.0, np.nan]])
    one, other = made(method), made(method)
    one.fit(X, Y, batch_size=14, epochs=2, shuffle=False, verbose=0)
    more = {task: np.concatenate([y, extra]) for (task, y), extra in zip(Y.items(), unlabeled, strict=True)}
    other.fit(np.concatenate([X, 9 * X[:2]]), more, batch_size=14, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.eagerly
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_any_label_of_a_task_trains_the_other_alone(method):
    model = made(method)
    head, variance = model.heads["size"].get_weights(), getattr(model, "log_variances", None)
    before = model.trunk.get_weights()
    nothing = np.full_like(SIZE, np.nan)
    logs = model.fit(X, {"kind": KIND, "size": nothing}, batch_size=12, verbose=0).history
    assert logs["size_loss"] == [0.0] and logs["kind_loss"][0] > 0
    for a, b in zip(head, model.heads["size"].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(before[0], model.trunk.get_weights()[0])
    assert variance is None or (float(variance[1]) == 0.0 and float(variance[0]) != 0.0)


@pytest.mark.eagerly
@pytest.mark.parametrize("method", METHODS)
def test_without_any_label_at_all_nothing_is_trained(method):
    model = made(method)
    before = model.get_weights()
    logs = model.fit(X, {"kind": np.full(12, -1), "size": np.full((12, 2), np.nan)}, verbose=0).history
    assert logs["loss"] == [0.0]
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_logs_of_several_batches_weight_each_by_its_labels():
    model = made(metrics={"kind": ["accuracy"], "size": ["mae"]})
    kind, size = losses_by_hand(model, X, Y)
    found = model.evaluate(X, Y, batch_size=5, verbose=0, return_dict=True)
    outputs = model.predict(X, verbose=0)
    labeled = KIND >= 0
    accuracy = (outputs["kind"].argmax(axis=1) == KIND)[labeled].mean()
    assert found["kind_loss"] == pytest.approx(kind, rel=1e-5) and found["size_loss"] == pytest.approx(size, rel=1e-5)
    assert found["kind_accuracy"] == pytest.approx(accuracy)
    assert found["size_mae"] == pytest.approx(np.nanmean(np.abs(outputs["size"] - SIZE)), rel=1e-5)


def test_sample_weights_multiply_losses_and_metrics():
    model = made(metrics={"kind": ["accuracy"]})
    weights = {"kind": np.arange(12.0), "size": np.ones(12)}
    found = model.evaluate(X, Y, sample_weight=weights, batch_size=12, verbose=0, return_dict=True)
    logits = model.predict(X, verbose=0)["kind"]
    rows = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)(np.maximum(KIND, 0), logits)
    labeled = KIND >= 0
    assert found["kind_loss"] == pytest.approx(
        np.sum((rows.numpy() * weights["kind"])[labeled]) / labeled.sum(), rel=1e-5
    )
    correct = (logits.argmax(axis=1) == KIND)[labeled]
    assert found["kind_accuracy"] == pytest.approx(np.average(correct, weights=weights["kind"][labeled]), rel=1e-5)


def test_loss_weights_multiply_the_loss_of_a_task_in_the_average_only():
    found = made(loss_weights={"size": 10.0}).evaluate(X, Y, batch_size=12, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx((found["kind_loss"] + 10 * found["size_loss"]) / 2, rel=1e-5)


def step_by_hand(model, x, y):
    """The gradients of one step of surgery, with a tape for each task."""
    found = []
    for place in range(2):
        with tf.GradientTape() as tape:
            losses, _ = model._task_losses(y, model(x, training=True))
        parts = tape.gradient(losses[place], model.trunk.trainable_variables)
        found.append(np.concatenate([np.ravel(part) for part in parts]))
    return np.array(found)


def test_surgery_trains_the_trunk_by_the_mean_of_projected_gradients():
    keras.config.set_floatx("float64")
    x, y = -X.astype(float), {"kind": KIND, "size": 20 * SIZE.astype(float)}
    model, plain = made("surgery", eager=True), made("average", eager=True)
    gradients = step_by_hand(model, x, y)
    assert gradient_cosines(gradients)[0, 1] < -0.01
    before, head = model.trunk.get_weights(), model.heads["kind"].get_weights()
    model.train_on_batch(x, y), plain.train_on_batch(x, y)
    moved = np.concatenate([np.ravel(a - b) for a, b in zip(before, model.trunk.get_weights(), strict=True)])
    np.testing.assert_allclose(moved, 0.1 * project_conflicts(gradients).numpy().mean(axis=0), rtol=1e-5, atol=1e-7)
    for own, other, start in zip(
        model.heads["kind"].get_weights(), plain.heads["kind"].get_weights(), head, strict=True
    ):
        np.testing.assert_allclose(own, other)
        assert not np.allclose(own, start)


def test_without_conflicts_surgery_is_the_average():
    same = {"kind": KIND, "again": KIND}
    found = []
    for method in ("average", "surgery"):
        keras.utils.set_random_seed(1)
        trunk = keras.Sequential([keras.Input((4,)), layers.Dense(6, kernel_regularizer="l2")])
        model = MultiTask(trunk, {"kind": layers.Dense(3), "again": layers.Dense(3)}, method=method)
        model.heads["again"].set_weights(model.heads["kind"].get_weights())
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        model.fit(X, same, epochs=3, batch_size=12, verbose=0)
        found.append(model.trunk.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.eagerly
@pytest.mark.parametrize("method", METHODS)
def test_losses_of_layers_are_added_and_their_gradients_are_not_projected(method):
    nothing = {"kind": np.full(12, -1), "size": np.full((12, 2), np.nan)}
    model = made(method, regularizer=keras.regularizers.L2(0.5))
    kernel = model.trunk.layers[0].kernel.numpy()
    logs = model.fit(X, nothing, batch_size=12, verbose=0).history
    assert logs["loss"][0] == pytest.approx(0.5 * np.sum(kernel**2), rel=1e-5)
    np.testing.assert_allclose(model.trunk.layers[0].kernel, kernel * (1 - 0.1), rtol=1e-5)


def test_task_gradients_are_those_of_the_trunk():
    model = made()
    found = model.task_gradients(X, Y)
    np.testing.assert_allclose(found, step_by_hand(model, X, Y), rtol=1e-4, atol=1e-6)
    assert found.shape == (2, model.trunk.count_params())


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_of_every_task(method):
    model = made(method, optimizer=keras.optimizers.Adam(0.03))
    logs = model.fit(*repeated(40), epochs=3, batch_size=12, shuffle=False, verbose=0).history
    assert logs["kind_loss"][-1] < 0.5 * logs["kind_loss"][0] and logs["size_loss"][-1] < 0.5 * logs["size_loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_saved_model_answers_and_trains_as_before(method, tmp_path):
    compiled = {"metrics": {"kind": ["accuracy"]}, "loss": {"size": keras.losses.MeanAbsoluteError()}}
    compiled |= {} if method == "uncertainty" else {"loss_weights": {"size": 3.0}}
    model = made(method, optimizer=keras.optimizers.Adam(0.01), **compiled)
    model.fit(X, Y, batch_size=12, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.method == method and list(loaded.heads) == ["kind", "size"]
    for each in (model, loaded):
        each.fit(X, Y, batch_size=12, verbose=0)
    one, other = (each.evaluate(X, Y, verbose=0, return_dict=True) for each in (model, loaded))
    assert one == pytest.approx(other, rel=1e-5) and "kind_accuracy" in one
    for a, b in zip(seeds_of(model), seeds_of(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (len(seeds_of(model)) == 1 and int(seeds_of(model)[0][1]) > 0) is (method == "surgery")
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_is_not_compiled_is_saved_cloned_and_part_of_another(method, tmp_path):
    model = MultiTask(trunk(), heads(), method=method)
    x = keras.Input((4,))
    for name, whole in {"alone": model, "part": keras.Model(x, model(x))}.items():
        whole.save(tmp_path / f"{name}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{name}.keras")
        np.testing.assert_array_equal(loaded(X)["kind"], model(X)["kind"])
    clone = keras.models.clone_model(model)
    assert not clone.compiled and clone(X)["kind"].shape == (12, 3)


def test_callbacks_and_validation_data():
    stop = keras.callbacks.EarlyStopping("val_kind_loss", mode="min", min_delta=100.0)
    model = made()
    logs = model.fit(X, Y, epochs=9, validation_data=(X, Y), callbacks=[stop], verbose=0).history
    assert len(logs["val_size_loss"]) == 2, "after the first epoch without an improvement by 100"


def test_dropout_is_active_in_training_only():
    model = made(dropout=0.5)
    np.testing.assert_array_equal(model(X)["kind"], model(X, training=False)["kind"])
    assert not np.allclose(model(X, training=True)["kind"], model(X)["kind"])
    head = keras.Sequential([keras.Input((6,)), layers.Dropout(0.5), layers.Dense(2)])
    nested = MultiTask(made().trunk, {"kind": head})
    assert not np.allclose(nested(X, training=True)["kind"], nested(X)["kind"])


def test_a_trunk_may_have_outputs_for_each_task():
    image, text = keras.Input((4,), name="image"), keras.Input((3,), name="text")
    shared = layers.Dense(5)
    features = {"image": shared(layers.Dense(2)(image)), "text": shared(layers.Dense(2)(text))}
    trunk = keras.Model({"image": image, "text": text}, features)
    model = MultiTask(trunk, {"image": layers.Dense(2), "text": layers.Dense(2)})
    model.compile(jit_compile=False)
    x = {"image": X, "text": X[:, :3]}
    model.fit(x, {"image": KIND > 0, "text": np.minimum(KIND, 1)}, verbose=0)
    outputs, own = model.predict(x, verbose=0), trunk(x)
    for task, head in model.heads.items():
        np.testing.assert_allclose(outputs[task], head(own[task]), rtol=1e-5, atol=1e-6)


def test_probabilities_get_the_loss_of_probabilities():
    heads = {"kind": layers.Dense(3, activation="softmax"), "logits": layers.Dense(3)}
    model = MultiTask(made().trunk, heads)
    model.compile(loss={"kind": "sparse_categorical_crossentropy"}, jit_compile=False)
    found = model.evaluate(X, {"kind": np.maximum(KIND, 0), "logits": np.maximum(KIND, 0)}, verbose=0, return_dict=True)
    outputs, rows = model.predict(X, verbose=0), np.arange(12)
    wanted = -np.log(outputs["kind"][rows, np.maximum(KIND, 0)]).mean()
    assert found["kind_loss"] == pytest.approx(wanted, rel=1e-4)
    logs = outputs["logits"] - np.log(np.exp(outputs["logits"]).sum(axis=1, keepdims=True))
    assert found["logits_loss"] == pytest.approx(-logs[rows, np.maximum(KIND, 0)].mean(), rel=1e-4)


@pytest.mark.slow
def test_half_precision_trains():
    keras.config.set_dtype_policy("mixed_float16")
    for method in METHODS:
        model = made(method, optimizer=keras.optimizers.Adam(0.01))
        logs = model.fit(*repeated(15), epochs=2, batch_size=12, shuffle=False, verbose=0).history
        assert np.isfinite(logs["loss"]).all() and logs["loss"][-1] < logs["loss"][0]


def test_steps_per_execution_and_xla():
    model = MultiTask(made().trunk, {"kind": layers.Dense(3), "size": layers.Dense(2)}, method="surgery")
    model.compile("sgd", steps_per_execution=3, jit_compile=True)
    data = mk.multitask.mix_tasks({"kind": (X, np.maximum(KIND, 0)), "size": (X, X[:, :2])}, rows=4)
    logs = model.fit(data, steps_per_epoch=6, shuffle=False, verbose=0).history
    assert np.isfinite(logs["loss"]).all()


def sequences(mask_zero=False, units=3):
    """A trunk with features for every step of a sequence of tokens, and a head that answers at every step."""
    embedding = layers.Embedding(10, 4, mask_zero=mask_zero, embeddings_initializer="glorot_normal")
    network = keras.Sequential([keras.Input((4,), dtype="int32"), embedding])
    return network, layers.Dense(units)


TOKENS = np.array([[1, 2, 0, 0], [3, 4, 5, 0]])


@pytest.mark.parametrize("method", METHODS)
def test_masked_steps_count_as_in_keras(method):
    network, head = sequences(mask_zero=True, units=2)
    y = np.random.default_rng(0).normal(size=(2, 4, 2)) + 1000 * (TOKENS == 0)[..., None]
    plain = keras.Sequential([network, head])
    plain.compile(loss="mse", weighted_metrics=["mae"])
    model = MultiTask(network, {"size": head}, method=method)
    model.compile(keras.optimizers.SGD(0.1), metrics={"size": ["mae"]}, jit_compile=False)
    wanted = plain.evaluate(TOKENS, y, sample_weight=np.ones((2, 4)), verbose=0, return_dict=True)
    found = model.evaluate(TOKENS, y := {"size": y}, verbose=0, return_dict=True)
    assert wanted["loss"] < 10 and found["size_loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert found["mae"] == pytest.approx(wanted["mae"], rel=1e-5)
    before = network.get_weights()[0]
    model.fit(TOKENS, y, verbose=0)
    np.testing.assert_array_equal(before[0], network.get_weights()[0][0])  # that of the masked token


def test_steps_without_a_label_are_left_out_and_the_others_are_not():
    tags = np.array([[0, 2, -1, -1], [1, 1, 2, -1]])
    model = MultiTask(*(lambda network, head: (network, {"tag": head}))(*sequences()))
    model.compile("sgd", metrics={"tag": ["accuracy"]}, jit_compile=False)
    found = model.evaluate(TOKENS, {"tag": tags}, verbose=0, return_dict=True)
    logits = model(TOKENS)["tag"].numpy().astype(float)
    logs = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[tags >= 0]
    labeled = tags[tags >= 0]
    assert found["tag_loss"] == pytest.approx(-logs[np.arange(5), labeled].mean(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((logs.argmax(axis=-1) == labeled).mean())
    weights = np.array([1.0, 3.0])
    weighted = model.evaluate(TOKENS, {"tag": tags}, sample_weight=weights, verbose=0, return_dict=True)
    each = -logs[np.arange(5), labeled] * weights[[0, 0, 1, 1, 1]]
    assert weighted["tag_loss"] == pytest.approx(each.sum() / 5, rel=1e-5)


def squared(y, p):
    return tf.reduce_mean((y - p) ** 2, axis=-1)


class Squared(keras.losses.Loss):
    def call(self, y, p):
        return tf.reduce_mean((y - p) ** 2, axis=-1)


@pytest.mark.parametrize("loss", [None, "mse", "mae", "bce", squared, Squared, keras.losses.Huber])
def test_steps_without_a_target_are_left_out_whether_or_not_targets_have_an_axis_of_one(loss):
    network, head = sequences(units=1)
    y = np.array([[0, 1, np.nan, np.nan], [1, 1, 0, np.nan]])
    answers, labeled = head(network(TOKENS)).numpy()[..., 0], ~np.isnan(y)
    function = {"bce": keras.losses.BinaryCrossentropy(from_logits=True)}.get(loss) or keras.losses.get(loss or "mse")
    wanted = np.mean(function(y[labeled][:, None], answers[labeled][:, None]))
    for targets in (y, y[..., None]):
        model = MultiTask(network, {"size": head})
        model.compile("sgd", loss=loss and {"size": loss}, jit_compile=False)
        found = model.evaluate(TOKENS, {"size": targets}, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(wanted, rel=1e-5)


def test_labels_whose_number_of_axes_is_not_known_are_refused():
    network, head = sequences(units=1)
    spec = tf.TensorSpec((None, 4), tf.int32), {"size": tf.TensorSpec(None, tf.float32)}
    data = tf.data.Dataset.from_generator(lambda: [(TOKENS, {"size": np.ones((2, 4))})], output_signature=spec)
    model = MultiTask(network, {"size": head})
    model.compile("sgd", jit_compile=False)
    with pytest.raises(ValueError, match="labels of task 'size' have an unknown number of axes.*output_signature"):
        model.evaluate(data, verbose=0)


def test_a_cross_entropy_of_any_name_is_one():
    model = made("uncertainty", loss={"kind": keras.losses.SparseCategoricalCrossentropy(True, name="ce")})
    assert model.loss_for.regression(Y) == [False, True]
    model = made("uncertainty", loss={"size": keras.losses.Huber(), "kind": "sparse_categorical_crossentropy"})
    assert model.loss_for.regression(Y) == [False, True]
    assert made("uncertainty", loss={"size": "bce"}).loss_for.regression(Y) == [False, False]


def test_targets_of_one_number_may_be_a_vector_and_booleans_are_numbers():
    targets = {"column": X[:, :1], "vector": X[:, 0], "conditions": X[:, 0] > 0}
    for y in targets.values():
        model = MultiTask(trunk(), {"size": layers.Dense(1)})
        model.compile(loss={"size": "mse"}, jit_compile=False)
        found = model.evaluate(X, {"size": y}, verbose=0, return_dict=True)["size_loss"]
        wanted = np.mean((model(X)["size"].numpy()[:, 0] - np.ravel(y)) ** 2)
        assert found == pytest.approx(wanted, rel=1e-5)


def pixel_model(dtype):
    network = keras.Sequential([keras.Input((2, 2, 1), dtype=dtype), layers.Flatten()])
    return MultiTask(network, {"pixel": layers.Identity()})


def test_pixels_are_refused_unless_the_trunk_takes_them():
    pixels = np.array([0, 51, 102, 255], "uint8").reshape(1, 2, 2, 1)
    for x in (pixels, pixels.astype("int64")):
        with pytest.raises(ValueError, match="x must be floats: these are pixels from 0 to 255, and"):
            pixel_model("float32").predict(x, verbose=0)
    np.testing.assert_array_equal(pixel_model("uint8")(pixels)["pixel"], [[0, 51, 102, 255]])
    two = [keras.Input((2, 2, 1)), keras.Input((3,), dtype="int32")]
    as_floats = layers.Lambda(lambda tokens: keras.ops.cast(tokens, "float32"), output_shape=(3,))
    network = keras.Model(two, layers.Concatenate()([layers.Flatten()(two[0]), as_floats(two[1])]))
    tokens = np.array([[7, 8, 9]], "int32")
    answers = MultiTask(network, {"both": layers.Identity()})([pixels / np.float32(255), tokens])["both"]
    np.testing.assert_allclose(answers, [[0, 0.2, 0.4, 1, 7, 8, 9]], rtol=1e-6)
    with pytest.raises(ValueError, match="x must be floats"):
        MultiTask(network, {"both": layers.Identity()})([pixels, tokens])


@pytest.mark.parametrize("eager", [False, True])
def test_steps_that_overflow_in_half_precision_are_skipped_also_in_eager_mode(eager):
    keras.config.set_dtype_policy("mixed_float16")
    model = made("surgery", eager=eager, optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.001)))
    before = model.trunk.get_weights()[0]
    model.fit(100 * X, {"kind": KIND, "size": 1000 + SIZE}, batch_size=12, verbose=0)
    np.testing.assert_array_equal(before, model.trunk.get_weights()[0])


@pytest.mark.parametrize("eager", [False, True])
def test_an_infinite_loss_is_logged_also_in_eager_mode(eager):
    model = made("uncertainty", eager=eager)
    found = model.evaluate(X, {"kind": KIND, "size": np.full_like(SIZE, 1e30)}, verbose=0, return_dict=True)
    assert found["loss"] == np.inf


def frozen(method):
    model = made(method)
    model.trunk.trainable = False
    return model


def one_unit():
    model = MultiTask(trunk(), {"age": layers.Dense(1)})
    model.compile()
    return model


def heads():
    return {"kind": layers.Dense(3)}


def trunk():
    return keras.Sequential([keras.Input((4,)), layers.Dense(6)])


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda: MultiTask(trunk(), {}), "at least one task"),
        (lambda: MultiTask(trunk(), dict.fromkeys("ab", layers.Dense(3))), "a head of its own"),
        (lambda: MultiTask(trunk(), {"kind": 3}), r"heads\['kind'\] must be a Keras layer"),
        (lambda: MultiTask(trunk(), heads(), method="sum"), "one of 'average', 'uncertainty', 'surgery'"),
        (lambda: MultiTask(keras.Sequential([layers.Dense(2)]), heads()), "has no weights yet"),
        (lambda: made(loss={"color": "mse"}), r"loss must be a dictionary with some of the tasks \['kind', 'size'\]"),
        (lambda: made(metrics=["accuracy"]), "metrics must be a dictionary"),
        (lambda: made(loss_weights={"kind": -1.0}), r"loss_weights\['kind'\] must be"),
        (lambda: made("uncertainty", loss_weights={"kind": 2.0}), "learns the weights"),
        (lambda: made().fit(X, {"kind": KIND}, verbose=0), "Mark missing labels with -1"),
        (lambda: made().evaluate(X, KIND, verbose=0), "labels for the tasks"),
        (lambda: MultiTask(trunk(), heads()).task_gradients(X, {"kind": KIND}), "call compile first"),
        (lambda: made(weighted_metrics=["mae"]), "pass them as metrics="),
        (
            lambda: made(loss={"size": keras.losses.MeanSquaredError("sum")}),
            "'mean_squared_error' of task 'size' has reduction='sum'",
        ),
        (
            lambda: made(loss={"size": "mse"}).evaluate(X, Y | {"size": np.arange(24).reshape(12, 2) - 9}, verbose=0),
            "'mean_squared_error' of task 'size' compares numbers, but its labels are of type int",
        ),
        (lambda: made().fit(X, Y | {"size": SIZE[:, :1]}, verbose=0), "targets of task 'size' have shape"),
        (lambda: made().fit(X[:2], {"kind": KIND[:2], "size": SIZE[:2, 0]}, verbose=0), "and a row has 2 answers"),
        (lambda: made().fit(X, Y | {"size": SIZE[:, [0, 1, 1]]}, verbose=0), "as many units as a target"),
        (lambda: made().fit(X, Y | {"kind": KIND + 2}, verbose=0), "task 'kind' must be classes from 0 to 2.*got 4"),
        (lambda: made().fit(X, Y, validation_data=(X, Y | {"kind": KIND + 1})), "'kind' must be classes.*got 3"),
        (lambda: made().evaluate(X, Y | {"kind": KIND + 2}, verbose=0), "'kind' must be classes"),
        (lambda: frozen("surgery").fit(X, Y, verbose=0), "trunk has no weights that train"),
        (lambda: frozen("average").task_gradients(X, Y), "trunk has no weights that train"),
        (lambda: one_unit().fit(X, {"age": KIND}, verbose=0), "Task 'age' has labels of type int64.*one output"),
    ],
)
def test_errors_say_what_is_wrong(function, complaint):
    with pytest.raises(ValueError, match=complaint):
        function()


def test_the_average_loss_is_that_of_the_library():
    model = made()
    losses, counts = model._task_losses(Y, model(X))
    assert [float(count) for count in counts] == [9.0, 9.0]
    assert float(model.compute_loss(X, Y, model(X))) == pytest.approx(float(average_loss(losses)), rel=1e-6)


@pytest.mark.parametrize(
    ("targets", "weights", "message"),
    [
        (np.eye(2, dtype=int)[[0, 1, 0]], None, r"labels of task 'pixel' must be classes of shape.*argmax"),
        (np.array([0, 1, 0]), {"pixel": np.ones((3, 2))}, r"sample_weight must have one number per row"),
    ],
    ids=["one-hot", "weights"],
)
def test_labels_and_weights_of_other_shapes_are_refused(targets, weights, message):
    network = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    model = MultiTask(network, {"pixel": layers.Dense(2)})
    model.compile()
    with pytest.raises(ValueError, match=message):
        model.fit(np.ones((3, 2)), {"pixel": targets}, sample_weight=weights, verbose=0)


@pytest.mark.parametrize("shape", [(None,), (None, None), None], ids=str)
def test_weights_of_a_dataset_may_have_a_shape_that_is_not_known(shape):
    network, weights = keras.Sequential([keras.Input((2,)), layers.Dense(3)]), np.float32([1, 2, 3])
    model = MultiTask(network, {"pixel": layers.Dense(2)})
    model.compile(jit_compile=False)
    x, y = np.ones((3, 2), "float32"), {"pixel": np.array([0, 1, 0])}
    rows = weights[:, None] if shape == (None, None) else weights
    spec = (tf.TensorSpec((None, 2)), {"pixel": tf.TensorSpec((None,), tf.int64)}, tf.TensorSpec(shape))
    data = tf.data.Dataset.from_generator(lambda: [(x, y, rows)], output_signature=spec)
    found = model.evaluate(data, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["loss"])


def test_weights_of_another_number_than_rows_are_refused_also_where_their_shape_is_not_known():
    @tf.function(input_signature=[tf.TensorSpec(None)])
    def mean(weight):
        return mean_over_labeled(tf.ones((1,)), tf.constant([True]), weight)[0]

    with pytest.raises(tf.errors.InvalidArgumentError):
        mean(tf.ones((1, 4)))


def test_losses_of_all_rows_together_are_refused():
    model = MultiTask(*(lambda network, head: (network, {"size": head}))(*sequences(units=1)))
    model.compile("sgd", loss={"size": lambda y, p: tf.reduce_mean((y - p) ** 2)}, jit_compile=False)
    with pytest.raises(ValueError, match="loss of task 'size' must return one number per row"):
        model.evaluate(TOKENS, {"size": np.ones((2, 4))}, verbose=0)


@pytest.mark.parametrize("metric", ["mae", "mse"])
def test_metrics_of_steps_do_not_need_an_axis_of_one(metric):
    network, head = sequences(units=1)
    model = MultiTask(network, {"size": head})
    y, found = np.array([[0, 1, np.nan, np.nan], [1, 1, 0, np.nan]]), []
    for targets in (y, y[..., None]):
        model.compile("sgd", metrics={"size": [metric]}, jit_compile=False)
        found.append(model.evaluate(TOKENS, {"size": targets}, verbose=0, return_dict=True)[metric])
    assert found[0] == pytest.approx(found[1])


def test_one_output_for_two_classes_has_a_loss_that_is_named():
    network = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    model = MultiTask(network, {"is_cat": layers.Dense(1)})
    model.compile()
    with pytest.raises(ValueError, match="loss={'is_cat': 'binary_crossentropy'} if they are two classes"):
        model.fit(np.ones((3, 2)), {"is_cat": np.array([0, 1, 0])}, verbose=0)
    model.compile(loss={"is_cat": "binary_crossentropy"})
    model.fit(np.ones((3, 2)), {"is_cat": np.float32([0, 1, 0])}, verbose=0)


def test_a_cross_entropy_as_a_metric_is_that_of_the_head():
    found = made(metrics={"kind": "sparse_categorical_crossentropy"}).evaluate(X, Y, verbose=0, return_dict=True)
    assert found["kind_sparse_categorical_crossentropy"] == pytest.approx(found["kind_loss"], rel=1e-5)
