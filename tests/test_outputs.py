"""The final activation of a network is read from its operations, and losses fit the answers of a rule."""

import dataclasses
import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import ClassPool, Episode, FewShot, MetaLearner, Sinusoids, UnrolledTraining, load, maml_loop, networks
from meta_keras.multitask import MultiTask
from meta_keras.outputs import as_loss, as_metrics, default_loss
from meta_keras.rules import GradientDescent, ImplicitGradient, Prototypes, Reptile, Rule, UpdateNetwork
from meta_keras.traces import final_activation
from meta_keras.transfer import DomainAdaptation, fine_tune


class Subclassed(keras.Model):
    """A head that is not the last attribute, and a softmax in `call`."""

    def __init__(self, activation=None):
        super().__init__()
        self.head, self.body, self.final = layers.Dense(3), layers.Dense(4), activation

    def call(self, inputs):
        outputs = self.head(self.body(inputs))
        return outputs if self.final is None else self.final(outputs)


def sequential(*ending):
    return keras.Sequential([keras.Input((2,)), *ending])


def subclassed(activation=None):
    model = Subclassed(activation)
    model(tf.ones((1, 2)))
    return model


def functional(function):
    inputs = keras.Input((2,))
    return keras.Model(inputs, function(layers.Dense(3)(inputs)))


def divided_by(temperatures):
    inputs = keras.Input((2,))
    return keras.Model(inputs, layers.Lambda(lambda x: x / temperatures)(layers.Dense(len(temperatures))(inputs)))


def mixture(activation):
    """The mean of three experts, weighted by a gate."""
    inputs = keras.Input((2,))
    gate = layers.Dense(3, "softmax")(inputs)
    experts = layers.Reshape((3, 4))(layers.Dense(12)(inputs))
    return keras.Model(inputs, layers.Dot(1)([gate, layers.Activation(activation)(experts)]))


ENDINGS = {
    "nothing": (lambda: sequential(layers.Dense(3)), None),
    "relu": (lambda: sequential(layers.Dense(3, "relu")), "other"),
    "name": (lambda: sequential(layers.Dense(3, "softmax")), "softmax"),
    "tf function": (lambda: sequential(layers.Dense(3, activation=tf.nn.softmax)), "softmax"),
    "keras function": (lambda: sequential(layers.Dense(3, activation=keras.ops.softmax)), "softmax"),
    "operation": (lambda: functional(keras.ops.softmax), "softmax"),
    "then a cast": (
        lambda: sequential(layers.Dense(3), layers.Softmax(), layers.Activation("linear", dtype="float64")),
        "softmax",
    ),
    "then a shape": (lambda: sequential(layers.Dense(3, "softmax"), layers.Reshape((3,))), "softmax"),
    "within a model": (lambda: sequential(sequential(layers.Dense(3, "softmax"))), "softmax"),
    "softmax before": (lambda: sequential(layers.Dense(3, "softmax"), layers.Dense(3)), None),
    "sigmoid": (lambda: sequential(layers.Dense(3, "sigmoid")), "sigmoid"),
    "log": (lambda: functional(keras.ops.log_softmax), "log_softmax"),
    "subclassed": (subclassed, None),
    "subclassed softmax": (lambda: subclassed(tf.nn.softmax), "softmax"),
    "embedding": (lambda: keras.Sequential([keras.Input((2,), dtype="int32"), layers.Embedding(5, 3)]), None),
    "hard sigmoid": (lambda: sequential(layers.Dense(3, "hard_sigmoid")), "sigmoid"),
    "mean of softmaxes": (lambda: functional(lambda x: (keras.ops.softmax(x) + keras.ops.softmax(-x)) / 2), "softmax"),
    "softmax of steps": (
        lambda: keras.Sequential([keras.Input((4, 2)), layers.TimeDistributed(layers.Dense(3, "softmax"))]),
        "softmax",
    ),
    "last step of softmaxes": (
        lambda: keras.Sequential([keras.Input((4, 2)), layers.Dense(3, "softmax"), layers.Lambda(lambda x: x[:, -1])]),
        "softmax",
    ),
    "mixture": (lambda: mixture("softmax"), "softmax"),
    "mixture of sigmoids": (lambda: mixture("sigmoid"), "sigmoid"),
    "relu of small weights": (
        lambda: sequential(layers.Dense(3, "relu", kernel_initializer=keras.initializers.RandomNormal(stddev=0.01))),
        "other",
    ),
    "relu of tokens": (
        lambda: keras.Sequential(
            [keras.Input((2,), dtype="int32"), layers.Embedding(5, 3), layers.Flatten(), layers.Dense(3, "relu")]
        ),
        "other",
    ),
    "tanh": (lambda: sequential(layers.Dense(3, "tanh")), "other"),
    "zero": (lambda: sequential(layers.Dense(3, "relu", kernel_initializer="zeros")), "other"),
    "residual": (lambda: functional(lambda x: x + layers.Dense(3)(x)), None),
    "logits and probabilities": (
        lambda: functional(lambda x: layers.Concatenate()([x, keras.ops.sigmoid(x)])),
        "other",
    ),
    "clipped": (lambda: functional(lambda x: keras.ops.maximum(x, 0.1)), "other"),
    "last step": (
        lambda: keras.Sequential([keras.Input((4, 2)), layers.Dense(3), layers.Lambda(lambda x: x[:, -1])]),
        None,
    ),
    "steps": (lambda: keras.Sequential([keras.Input((4, 2)), layers.TimeDistributed(layers.Dense(3))]), None),
    "transposed convolution": (
        lambda: keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2DTranspose(3, 2), layers.UpSampling2D(2)]),
        None,
    ),
    "divided by a tensor": (
        lambda: divided_by(tf.ones(200)),  # TensorFlow would copy a small tensor
        None,
    ),
    "divided by a size": (
        lambda: functional(layers.Lambda(lambda x: x / tf.cast(tf.shape(x)[0], "float32"))),
        None,
    ),
    "scaled": (lambda: functional(lambda x: 2.0 * x / 0.5 - 1.0), None),
    "convolution and mean": (
        lambda: keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(3, 1), layers.GlobalAveragePooling2D()]),
        None,
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_final_activation_is_seen_however_it_is_written(ending):
    make, wanted = ENDINGS[ending]
    model = make()
    before = [v.numpy() for v in model.variables]
    assert final_activation(model) == wanted
    assert all(np.array_equal(v, b) for v, b in zip(model.variables, before, strict=True)) and not model.losses


@pytest.mark.parametrize(("activation", "logits"), [(None, True), ("log_softmax", True), ("softmax", False)])
def test_the_default_loss_fits_the_activation(activation, logits):
    assert default_loss(activation, tf.int32).get_config()["from_logits"] is logits
    assert as_loss("sparse_categorical_crossentropy", activation, "float32").get_config()["from_logits"] is logits
    if activation != "softmax":
        assert isinstance(default_loss(activation, tf.float64), keras.losses.MeanSquaredError)


def test_probabilities_of_classes_and_float_targets_need_a_loss_of_ones_own():
    y = np.eye(3, dtype="float32")
    with pytest.raises(ValueError, match="ends in a softmax, and the targets are floats. If these are one-hot, number"):
        fine_tune(sequential(layers.Dense(3, "softmax")), (np.zeros((3, 2), "float32"), y), epochs=1, verbose=0)


def test_a_sigmoid_needs_a_loss_of_ones_own():
    with pytest.raises(ValueError, match="ends in sigmoids, .*softmax or without an activation, or pass the loss"):
        MetaLearner(network=sequential(layers.Dense(3, "sigmoid"))).compile()


@pytest.mark.parametrize("kind", ["SparseCategoricalCrossentropy", "CategoricalFocalCrossentropy"])
@pytest.mark.parametrize("name", [{}, {"name": "ce"}])
@pytest.mark.parametrize("logits", [True, False])
def test_a_loss_that_contradicts_the_answers_is_refused(logits, name, kind):
    loss = getattr(keras.losses, kind)(from_logits=logits, **name)
    model = sequential(layers.Dense(3, "softmax" if logits else None))
    with pytest.raises(ValueError, match=f"from_logits={logits}, but the answers are .*Pass from_logits={not logits}"):
        MetaLearner(network=model).compile(loss=loss)
    MetaLearner(network=sequential(layers.Dense(3, None if logits else "softmax"))).compile(loss=loss)


def test_the_configuration_of_a_loss_stands_for_the_loss():
    config = keras.losses.serialize(keras.losses.Huber(delta=0.5))
    assert as_loss(config, None, "float32").get_config() == keras.losses.Huber(delta=0.5).get_config()
    contradicted = keras.losses.serialize(keras.losses.CategoricalCrossentropy())
    with pytest.raises(ValueError, match="from_logits=False, but the answers are logits"):
        as_loss(contradicted, None, "float32")


def test_prototypes_answer_with_logits_whatever_the_network_ends_in():
    """With probabilities instead of logits, the loss would always be log 5, and all gradients 0."""
    learner = MetaLearner(5, rule=Prototypes())
    learner.compile()
    assert learner.loss.get_config()["from_logits"] is True
    x = tf.constant(np.random.default_rng(0).random((1, 5, 28, 28, 1), "float32"))
    labels = tf.constant([[0, 1, 2, 3, 4]])
    _, _, (loss, gradients) = learner.meta_gradients((x, labels, x + 0.1), labels)
    assert float(loss) < np.log(5) and any(np.any(g) for g in gradients)


def masked():
    """Sequences of which the last steps are masked, with an answer for every step."""
    inputs = keras.Input((4, 1))
    hidden = layers.Masking(0.0)(inputs)
    return keras.Model(inputs, layers.TimeDistributed(layers.Dense(1))(hidden))


@pytest.mark.parametrize("loss", ["mse", keras.losses.mean_squared_error, keras.losses.MeanSquaredError()])
def test_every_form_of_a_loss_respects_masks(loss):
    x = np.float32([[[1], [2], [0], [0]], [[3], [1], [2], [0]]])
    y = np.float32([[[2], [1], [9], [9]], [[1], [1], [3], [9]]])
    plain = masked()
    plain.compile(loss=keras.losses.MeanSquaredError())
    wanted = plain.evaluate(x, y, verbose=0)
    learner = MetaLearner(network=plain, rule=GradientDescent(1e-9))
    learner.compile(loss=loss)
    found = learner.test_on_batch((x[None], y[None], x[None]), y[None])
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("weights", [[0.5], {"x": 2.0}, 3.0])
def test_loss_weights_would_be_ignored_so_they_are_refused(weights):
    with pytest.raises(ValueError, match="one loss, without weights, so leave loss_weights out"):
        MetaLearner(network=networks.mlp(1)).compile(loss="mse", loss_weights=weights)


def test_a_function_as_a_loss_is_saved_by_name(tmp_path):
    learner = MetaLearner(network=networks.mlp(1, hidden=(3,)), rule=GradientDescent(0.01))
    learner.compile("sgd", "mae")
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    tasks = Sinusoids(shots=3, meta_batch=2)
    assert loaded.evaluate(tasks, steps=1, verbose=0) == pytest.approx(learner.evaluate(tasks, steps=1, verbose=0))
    assert loaded.loss.name == "mean_absolute_error"


def test_a_replaced_head_is_seen():
    model = sequential(layers.Dense(4), layers.Dense(5, "softmax"))
    assert final_activation(model) == "softmax"
    model.pop()
    model.add(layers.Dense(3))
    assert final_activation(model) is None
    model.layers[-1].activation = keras.activations.softmax
    assert final_activation(model) == "softmax"


def resizing(interpolation):
    inputs = keras.Input((2, 2, 1))
    large = layers.UpSampling2D(2, interpolation=interpolation)(layers.Conv2D(1, 1)(inputs))
    return keras.Model(inputs, layers.Dense(1)(layers.Flatten()(large)))


def resized_by(function):
    inputs = keras.Input((4, 4, 1))
    larger = layers.Lambda(function, output_shape=(8, 8, 1))(layers.Conv2D(1, 1)(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(larger)))


@tf.function
def resized(images):
    return tf.image.resize(images, (8, 8))


class OwnRule(Rule):
    """A rule of which it is not known what it differentiates."""


@pytest.mark.parametrize("network", [lambda: resizing("bilinear"), lambda: resized_by(resized)])
@pytest.mark.parametrize(
    "use",
    [
        lambda network: MetaLearner(network=network, rule=OwnRule()),
        lambda network: UnrolledTraining(network, UpdateNetwork()),
        lambda network: maml_loop(network, FewShot(load("glyphs"), 3, 1), loss="mse"),
    ],
)
def test_bilinear_resizing_is_refused_wherever_gradients_are_differentiated(use, network):
    with pytest.raises(ValueError, match="bilinear resizing, of which TensorFlow has no second derivatives"):
        use(network())


def test_bilinear_resizing_has_no_second_derivatives_so_second_order_rules_refuse_it():
    for rule in (GradientDescent(0.1), ImplicitGradient(0.1)):
        with pytest.raises(ValueError, match="bilinear resizing, of which TensorFlow has no second derivatives"):
            MetaLearner(network=resizing("bilinear"), rule=rule)
        MetaLearner(network=resizing("nearest"), rule=rule)
    for rule in (GradientDescent(0.1, first_order=True), Reptile(0.1), Prototypes()):
        MetaLearner(network=resizing("bilinear"), rule=rule)


def test_images_may_be_resized_before_the_first_weights_which_is_not_differentiated():
    images = np.random.default_rng(0).uniform(size=(10, 8, 8, 1)).astype("float32")
    smaller = tf.image.resize(images, (6, 6)).numpy()

    def trained(images, *first):
        keras.utils.set_random_seed(0)
        head = [layers.Conv2D(2, 3, activation="tanh"), layers.Flatten(), layers.Dense(2)]
        learner = MetaLearner(network=keras.Sequential([keras.Input(images.shape[1:]), *first, *head]))
        learner.compile(keras.optimizers.SGD(1.0), jit_compile=False)
        learner.fit(
            FewShot(ClassPool(images, np.arange(10) // 5), 2, 1, queries=1, seed=0), steps_per_epoch=2, verbose=0
        )
        return learner.network.get_weights()

    for one, other in zip(trained(images, layers.Resizing(6, 6)), trained(smaller), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_metrics_that_would_not_see_a_mask_are_refused():
    learner = MetaLearner(network=masked(), rule=GradientDescent(1e-9))
    learner.compile(loss="mse", metrics=["mae"])
    x = np.ones((1, 2, 4, 1), "float32")
    with pytest.raises(ValueError, match="answers are masked, which the metrics of learners do not see"):
        learner.test_on_batch((x, x, x), x)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_the_function_of_a_cross_entropy_is_completed_as_its_name_is(activation):
    learner = MetaLearner(network=sequential(layers.Dense(3, activation)))
    learner.compile(loss=keras.losses.sparse_categorical_crossentropy)
    assert learner.loss.get_config()["from_logits"] is (activation is None)


def squared(y, p):
    return keras.ops.mean(keras.ops.square(y - p), axis=-1)


@pytest.mark.parametrize("shapes", [((4,), (4, 1)), ((4, 1), (4,)), ((4, 1), (4, 1))], ids=str)
@pytest.mark.parametrize("loss", [squared, "poisson", "hinge", "kl_divergence", "binary_crossentropy"])
def test_a_number_per_row_and_a_row_of_one_number_are_the_same_to_every_loss(loss, shapes):
    y, p = (np.random.default_rng(n).uniform(0.1, 0.9, 4).astype("float32") for n in range(2))
    found = as_loss(loss, "sigmoid", "float32")(*(v.reshape(shape) for v, shape in zip((y, p), shapes, strict=True)))
    wanted = keras.losses.get(loss)(tf.constant(y[:, None]), tf.constant(p[:, None]))
    np.testing.assert_allclose(found, tf.reduce_mean(wanted), rtol=1e-6)


SHAPES = [(4,), (4, 1), (4, 3), (4, 3, 1), (4, 3, 2), (4, 3, 2, 1)]
ALIGNED = [(y, p) for y in SHAPES for p in SHAPES if y == p or (*y, 1) == p or y == (*p, 1)]


@pytest.mark.parametrize("shapes", ALIGNED, ids=str)
@pytest.mark.parametrize("loss", [squared, "mse", "kl_divergence", "cosine_similarity"])
def test_functions_are_called_with_the_same_shapes_as_by_keras(loss, shapes):
    y, p = (np.random.default_rng(n).uniform(0.1, 0.9, shape).astype("float32") for n, shape in enumerate(shapes))
    plain = keras.Sequential([keras.Input(p.shape[1:]), layers.Identity()])
    plain.compile(loss=loss, run_eagerly=True)
    wanted = plain.evaluate(p, y, batch_size=4, verbose=0)
    assert float(as_loss(loss, "sigmoid", "float32")(y, p)) == pytest.approx(wanted, rel=1e-5)


BINARY = ["binary_crossentropy", "bce", "BinaryCrossentropy", keras.losses.binary_crossentropy]
FOCAL = ["binary_focal_crossentropy", "BinaryFocalCrossentropy", keras.losses.binary_focal_crossentropy]


@pytest.mark.parametrize("loss", [*BINARY, *FOCAL], ids=lambda loss: getattr(loss, "__qualname__", loss))
@pytest.mark.parametrize(("activation", "logits"), [(None, True), ("sigmoid", False), ("softmax", False)])
def test_a_binary_cross_entropy_without_settings_fits_the_answers(loss, activation, logits):
    found = as_loss(loss, activation, "float32")
    kind = keras.losses.BinaryCrossentropy if loss in BINARY else keras.losses.BinaryFocalCrossentropy
    assert type(found) is kind and found.get_config()["from_logits"] is logits


@pytest.mark.parametrize("loss", ["CategoricalCrossentropy", "categorical_focal_crossentropy"])
@pytest.mark.parametrize(("activation", "logits"), [(None, True), ("softmax", False), ("sigmoid", False)])
def test_a_cross_entropy_without_settings_fits_the_answers(loss, activation, logits):
    assert as_loss(loss, activation, "float32").get_config()["from_logits"] is logits


@pytest.mark.parametrize("activation", ["tanh", "relu", "log_softmax"])
def test_a_binary_cross_entropy_needs_to_be_told_what_unusual_answers_are(activation):
    learner = MetaLearner(network=sequential(layers.Dense(3, activation)))
    with pytest.raises(ValueError, match="'binary_crossentropy' compares .*may be neither.*from_logits=..."):
        learner.compile(loss="bce")
    learner.compile(loss=keras.losses.BinaryCrossentropy(from_logits=activation == "log_softmax"))


@pytest.mark.parametrize(("from_logits", "activation"), [(False, None), (True, "sigmoid")])
def test_a_binary_cross_entropy_that_contradicts_the_answers_is_refused(from_logits, activation):
    with pytest.raises(
        ValueError, match=f"from_logits={from_logits}, but the answers are .*Pass from_logits={not from_logits}"
    ):
        as_loss(keras.losses.BinaryCrossentropy(from_logits=from_logits), activation, "float32")


class Tenfold(keras.losses.SparseCategoricalCrossentropy):
    def __init__(self):
        super().__init__(from_logits=True)

    def call(self, y, p):
        return 10 * super().call(y, p)


def test_a_class_of_ones_own_is_used_as_it_is():
    y, logits = np.array([0, 1]), np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    assert float(as_loss(Tenfold, None, "float32")(y, logits)) == pytest.approx(float(Tenfold()(y, logits)))
    with pytest.raises(ValueError, match="from_logits=True, but the answers are probabilities"):
        as_loss(Tenfold, "softmax", "float32")


def test_losses_without_a_hash_are_accepted():
    @dataclasses.dataclass
    class Scaled:
        factor: float

        def __call__(self, y, p):
            return self.factor * squared(y, p)

    assert float(as_loss(Scaled(2.0), None, "float32")(np.zeros((2, 1)), np.ones((2, 1)))) == 2.0


def test_binary_cross_entropy_by_name_fits_the_answers():
    y, logits = tf.constant([[1.0], [0.0]]), tf.constant([[2.0], [1.0]])
    wanted = keras.losses.binary_crossentropy(y, tf.sigmoid(logits))
    for activation, answers in ((None, logits), ("sigmoid", tf.sigmoid(logits))):
        loss = as_loss("binary_crossentropy", activation, "float32")(y, answers)
        np.testing.assert_allclose(loss, tf.reduce_mean(wanted), rtol=1e-5)


OF_PROBABILITIES = [
    "kl_divergence",
    keras.losses.KLDivergence(),
    keras.losses.dice,
    "tversky",
    keras.losses.CategoricalGeneralizedCrossEntropy(),
]


@pytest.mark.parametrize("loss", OF_PROBABILITIES, ids=range(5))
def test_losses_of_probabilities_refuse_logits(loss):
    for activation in (None, "log_softmax"):
        with pytest.raises(ValueError, match="compares probabilities, but the answers are logits. End the network in"):
            as_loss(loss, activation, "float32")
    for activation in ("softmax", "sigmoid", "other"):
        assert np.isfinite(as_loss(loss, activation, "float32")(np.eye(2), np.full((2, 2), 0.5)))


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_partial_cross_entropy_fits_the_answers_and_keeps_its_settings(activation):
    settings = as_loss(
        functools.partial(keras.losses.sparse_categorical_crossentropy, ignore_class=7), activation, "float32"
    ).get_config()
    assert settings["from_logits"] is (activation is None) and settings["ignore_class"] == 7
    with pytest.raises(ValueError, match="has from_logits=.*, but the answers are"):
        wrong = functools.partial(keras.losses.sparse_categorical_crossentropy, from_logits=activation is not None)
        as_loss(wrong, activation, "float32")


ENTROPY_METRICS = [
    "sparse_categorical_crossentropy",
    "BinaryCrossentropy",
    keras.losses.categorical_crossentropy,
    keras.metrics.SparseCategoricalCrossentropy,
]


@pytest.mark.parametrize("metric", ENTROPY_METRICS, ids=range(4))
def test_cross_entropies_as_metrics_fit_the_answers(metric):
    for activation in (None, "softmax"):
        (found,) = as_metrics([metric], activation)
        assert found.get_config()["from_logits"] is (activation is None)


def test_other_metrics_stay_as_they_are_and_those_that_contradict_the_answers_are_refused():
    kept = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(k=2), squared, keras.metrics.mean_absolute_error]
    assert as_metrics(kept, None) == kept and as_metrics(None, None) is None
    assert as_metrics(["crossentropy"], "softmax") == ["crossentropy"]
    with pytest.raises(ValueError, match="The metric .* has from_logits=False, but the answers are logits"):
        as_metrics([keras.metrics.SparseCategoricalCrossentropy()], None)
    with pytest.raises(ValueError, match="Say which one is meant"):
        as_metrics(["ce"], None)


LOGITS = keras.losses.BinaryCrossentropy(from_logits=True)
THRESHOLDS = [
    (keras.metrics.Precision(), r"Precision\(thresholds=0.0\)"),
    (keras.metrics.Recall(), r"Recall\(thresholds=0.0\)"),
    (keras.metrics.TruePositives(), r"TruePositives\(thresholds=0.0\)"),
    (keras.metrics.BinaryIoU(), r"BinaryIoU\(threshold=0.0\)"),
    (keras.metrics.BinaryAccuracy(), r"BinaryAccuracy\(threshold=0.0\)"),
    (keras.metrics.AUC(), r"AUC\(from_logits=True\)"),
    (keras.metrics.F1Score(threshold=0.5), "End the network in a sigmoid"),
    (keras.metrics.RecallAtPrecision(0.5), "End the network in a sigmoid"),
    ("Precision", r"Precision\(thresholds=0.0\)"),
    (keras.metrics.Recall, r"Recall\(thresholds=0.0\)"),
]


@pytest.mark.parametrize(("metric", "fix"), THRESHOLDS, ids=range(len(THRESHOLDS)))
def test_metrics_with_thresholds_of_probabilities_are_refused_for_binary_logits(metric, fix):
    with pytest.raises(ValueError, match=f"has thresholds between 0 and 1.*judging by the loss.*{fix}"):
        as_metrics([metric], None, loss=LOGITS)
    for loss in (keras.losses.BinaryCrossentropy(), keras.losses.MeanSquaredError(), None):
        assert as_metrics([metric], None, loss=loss, width=1) == [metric]


def test_metrics_that_take_logits_are_kept():
    kept = [keras.metrics.F1Score(), keras.metrics.Precision(top_k=2), keras.metrics.Recall(thresholds=0)]
    kept += [keras.metrics.AUC(from_logits=True), keras.metrics.BinaryIoU(threshold=0.0), "binary_crossentropy", "mae"]
    found = as_metrics(kept, None, loss=LOGITS, width=1)
    assert found[:5] == kept[:5] and found[6] == "mae" and found[5].get_config()["from_logits"]


GIVEN = ["binary_accuracy", "BinaryAccuracy", keras.metrics.binary_accuracy, keras.metrics.BinaryAccuracy]


@pytest.mark.parametrize("given", GIVEN, ids=range(4))
def test_binary_accuracy_of_logits_compares_them_with_zero(given):
    labels, answers = np.float32([[1], [0], [1]]), np.float32([[0.3], [-0.3], [-2.0]])
    for width in (1, 3):
        (found,) = as_metrics([given], None, loss=LOGITS, width=width)
        assert found.name == (given if isinstance(given, str) else "binary_accuracy")
        assert float(found(labels, answers)) == pytest.approx(2 / 3)
        (function,) = as_metrics([given], None, loss=LOGITS, width=width, lazily=True)
        assert function.__name__ == "binary_accuracy"
        np.testing.assert_array_equal(np.ravel(function(labels, answers)), [1, 1, 0])
    assert as_metrics([given], "sigmoid", loss=keras.losses.BinaryCrossentropy(), width=1) == [given]


def test_the_accuracy_of_one_logit_compares_it_with_zero():
    """Logits of 0.3 and -0.3 are right for the labels 1 and 0; the threshold of Keras is 0.5."""
    x, y = np.float32([[0.3], [-0.3]]), np.float32([[1], [0]])
    for metric in ("accuracy", "Accuracy", "acc", "binary_accuracy"):
        key = metric
        network = keras.Sequential([keras.Input((1,)), layers.Dense(1, kernel_initializer="ones")])
        options = {"loss": "binary_crossentropy", "metrics": [metric]}
        tuned = fine_tune(network, (x, y), learning_rate=1e-9, **options, train=None, verbose=0)
        assert tuned.history[key] == [1.0]
        learner = MetaLearner(network=network, rule=GradientDescent(learning_rate=1e-9))
        learner.compile(**options)
        episode = tf.data.Dataset.from_tensors(Episode(x[None], y[None], x[None], y[None]))
        assert learner.evaluate(episode, verbose=0, return_dict=True)[key] == 1.0
        multitask = MultiTask(keras.Sequential([keras.Input((1,)), layers.Identity()]), {"a": network.layers[-1]})
        multitask.compile("sgd", loss={"a": options["loss"]}, metrics={"a": [metric]})
        assert multitask.evaluate(x, {"a": y}, verbose=0, return_dict=True)[key] == 1.0
        adapted = DomainAdaptation(sequential_of_one(), layer="features", method=None)
        adapted.compile("sgd", **options)
        assert adapted.evaluate(x, y, verbose=0, return_dict=True)[key] == 1.0


def sequential_of_one():
    features = layers.Dense(1, kernel_initializer="ones", name="features")
    return keras.Sequential([keras.Input((1,)), features, layers.Dense(1, kernel_initializer="ones")])


def test_the_accuracy_of_several_logits_is_that_of_keras():
    assert as_metrics(["accuracy"], None, loss=LOGITS, width=3) == ["accuracy"]
    assert as_metrics(["accuracy"], None, loss=keras.losses.MeanSquaredError(), width=1) == ["accuracy"]
    assert as_metrics(["accuracy"], "sigmoid", loss=keras.losses.BinaryCrossentropy(), width=1) == ["accuracy"]


def test_the_accuracy_of_logits_is_saved_and_can_be_watched(tmp_path):
    model = DomainAdaptation(sequential_of_one(), layer="features", method=None)
    model.compile("sgd", loss="binary_crossentropy", metrics=["accuracy"], weighted_metrics=["binary_accuracy"])
    x, y = np.float32([[0.3], [-0.3]]), np.float32([[1], [0]])
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").evaluate(x, y, verbose=0, return_dict=True) == found
    assert found["accuracy"] == found["binary_accuracy"] == 1


class OneLogit(keras.Model):
    """One logit, 0.3 for the label 1 and -0.3 for 0; its number of outputs is not known before it is called."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(1, kernel_initializer="ones")

    def call(self, inputs):
        return self.head(inputs)


@pytest.mark.parametrize("labels", [np.float32([[1], [0]]), np.float32([1, 0])])
def test_the_accuracy_of_a_subclassed_model_with_one_logit_compares_it_with_zero(labels):
    model = OneLogit()
    model(np.ones((2, 1), "float32"))
    options = {"loss": "binary_crossentropy", "metrics": ["accuracy"], "learning_rate": 1e-9}
    history = fine_tune(model, (np.float32([[0.3], [-0.3]]), labels), train=None, verbose=0, **options)
    assert history.history["accuracy"] == [1.0]


def test_a_fine_tuned_model_needs_only_keras():
    model = sequential_of_one()
    x, y = np.float32([[0.3], [-0.3]]), np.float32([[1], [0]])
    fine_tune(model, (x, y), loss="binary_crossentropy", metrics=["accuracy"], train=None, verbose=0)
    assert "meta_keras" not in str(model.get_compile_config())


class OfLogits(keras.metrics.BinaryAccuracy):
    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, tf.sigmoid(y_pred), sample_weight)


def test_metrics_of_the_users_own_are_kept():
    kept = [OfLogits()]
    assert as_metrics(kept, None, loss=LOGITS, width=1) == kept


def test_the_accuracy_of_logits_can_be_compiled_within_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["cpu:0"])
    with strategy.scope():
        learner = MetaLearner(network=sequential_of_one(), rule=GradientDescent(learning_rate=0.1))
        learner.compile(loss="binary_crossentropy", metrics=["accuracy"])


def test_a_metric_of_the_loss_is_the_loss():
    pool = ClassPool(np.random.default_rng(0).normal(size=(10, 3)).astype("float32"), np.arange(10) // 2)
    learner = MetaLearner(network=networks.mlp(5, input_shape=(3,)), rule=Prototypes())
    learner.compile(metrics=["sparse_categorical_crossentropy"])
    found = learner.evaluate(FewShot(pool, 5, 1, queries=1), steps=2, verbose=0, return_dict=True)
    assert found["sparse_categorical_crossentropy"] == pytest.approx(found["loss"], rel=1e-5)


class OtherInTraining(keras.Model):
    def __init__(self, inside, otherwise):
        super().__init__()
        self.dense, self.inside, self.otherwise = layers.Dense(3), inside, otherwise

    def call(self, inputs, training=False):
        return (self.inside if training else self.otherwise)(self.dense(inputs))


@pytest.mark.parametrize(("inside", "otherwise"), [(tf.identity, tf.nn.softmax), (tf.nn.softmax, tf.identity)])
def test_a_network_that_ends_in_something_else_in_training_is_refused(inside, otherwise):
    network = OtherInTraining(inside, otherwise)
    network(np.zeros((1, 2), "float32"))
    with pytest.raises(ValueError, match="different kinds of numbers in training and in inference: logits and softmax"):
        final_activation(network)
    same = OtherInTraining(inside, inside)
    same(np.zeros((1, 2), "float32"))
    assert final_activation(same) == ("softmax" if inside is tf.nn.softmax else None)


def test_a_network_may_add_noise_to_its_answers_in_training():
    network = OtherInTraining(lambda logits: logits * tf.random.uniform(tf.shape(logits)), tf.identity)
    network(np.zeros((1, 2), "float32"))
    assert final_activation(network) is None


def test_an_activation_with_the_identity_of_a_deleted_one_is_traced():
    network = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    for _ in range(20):  # an object often has the same id as one that has just been deleted
        network.layers[-1].activation = lambda values: tf.nn.softmax(values)
        assert final_activation(network) == "softmax"
        network.layers[-1].activation = None
        network.layers[-1].activation = lambda values: 2 * values
        assert final_activation(network) is None


def test_the_network_is_deleted_although_its_trace_is_known():
    network = networks.mlp(3, input_shape=(2,))
    final_activation(network)
    reference = weakref.ref(network)
    del network
    keras.backend.clear_session()
    gc.collect()
    assert reference() is None
