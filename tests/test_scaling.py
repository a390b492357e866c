"""Pixels reach neither a model that is not made for them nor, scaled twice, one that scales them itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import ClassPool, FewShot, MetaLearner, maml_loop, networks
from meta_keras.scaling import check_scaled, check_scaled_once, check_task_network
from meta_keras.unsupervised import Contrastive

PIXELS = np.array([[[[0], [51]], [[102], [255]]]], np.uint8)


def model_of(*first, shape=(2, 2, 1), dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *first, layers.Conv2D(1, 1)])


def computed(function, shape=(2, 2, 1)):
    """A model that begins with a function."""
    image = keras.Input(shape)
    return keras.Model(image, layers.Conv2D(1, 1)(function(image)))


class Subclassed(keras.Model):
    """A model whose graph is not known."""

    def __init__(self, *first):
        super().__init__()
        self.first = [*first, layers.Conv2D(1, 1)]

    def call(self, inputs):
        for layer in self.first:
            inputs = layer(inputs)
        return inputs

    def built_for(self, shape=(None, 2, 2, 1)):
        self(tf.zeros([size or 1 for size in shape]))
        return self


class Divided(layers.Layer):
    """A layer of the user's own that scales images in its `call`."""

    def __init__(self):
        super().__init__()
        self.inner = layers.Conv2D(1, 1)

    def call(self, image):
        return self.inner(image / 255.0)


class DividedModel(Subclassed):
    """The same as a model."""

    def call(self, inputs):
        return super().call(inputs / 255.0)


def each_of_three(*first):
    """A model of three images, each of which goes through the same layers."""
    return keras.Sequential([keras.Input((3, 2, 2, 1)), layers.TimeDistributed(model_of(*first))])


def with_mask(function):
    """A model of an image and another input of the same shape."""
    image, mask = keras.Input((2, 2, 1)), keras.Input((2, 2, 1))
    return keras.Model([image, mask], layers.Conv2D(1, 1)(function(image, mask)))


def adapted(largest):
    layer = layers.Normalization()
    layer.adapt(largest * np.random.default_rng(0).random((9, 2, 2, 1)))
    return layer


def built(layer):
    layer.build((None, 2, 2, 1))
    return layer


def standardized(image):
    """Pixels minus their mean in each image."""
    return image - keras.ops.mean(image, axis=(1, 2, 3), keepdims=True)


SCALING = {
    "Rescaling": lambda: model_of(layers.Rescaling(1 / 255)),
    "behind another layer": lambda: model_of(layers.RandomFlip(), layers.Rescaling(1 / 255)),
    "any size": lambda: model_of(layers.Rescaling(1 / 255), shape=(None, None, 1)),
    "any size, after pooling": lambda: model_of(
        layers.AveragePooling2D(2), layers.Rescaling(1 / 255), shape=(None, None, 1)
    ),
    "brighter": lambda: computed(lambda image: image / 2 + 127.5),
    "batch norm": lambda: model_of(layers.BatchNormalization()),
    "layer norm": lambda: model_of(layers.LayerNormalization()),
    "group norm": lambda: model_of(layers.GroupNormalization(1)),
    "mean and variance": lambda: model_of(adapted(255)),
    "in a model": lambda: model_of(keras.Sequential([keras.Input((2, 2, 1)), layers.Rescaling(1 / 255)])),
    "in a model with weights": lambda: computed(model_of(layers.Rescaling(1 / 255))),
    "operator": lambda: computed(lambda image: image / 255.0),
    "operators": lambda: computed(lambda image: (image[..., 0] * (1 / 255))[..., None]),
    "Keras": lambda: computed(keras.applications.mobilenet_v2.preprocess_input),
    "only the mean": lambda: computed(lambda image: image - 127.5),
    "of each image": lambda: computed(standardized),
    "Lambda": lambda: computed(layers.Lambda(lambda image: image / 255.0)),
    "Pipeline": lambda: model_of(layers.Pipeline([layers.Rescaling(1 / 255)])),
    "subclassed": lambda: Subclassed(layers.Rescaling(1 / 255)),
    "divided in a layer": lambda: model_of(Divided()),
    "divided in a model": lambda: DividedModel().built_for(),
    "each image divided": lambda: each_of_three(layers.Rescaling(1 / 255)),
    "subclassed, batch norm": lambda: Subclassed(layers.BatchNormalization()),
    "in a wrapper": lambda: keras.Sequential(
        [keras.Input((2, 2, 1)), layers.TimeDistributed(layers.BatchNormalization()), layers.Conv2D(1, 1)]
    ),
}
NOT_SCALING = {
    "nothing": model_of,
    "one more axis": lambda: computed(lambda image: image[..., 0][..., None]),
    "transposed": lambda: computed(lambda image: keras.ops.transpose(image, (0, 2, 1, 3))),
    "padded": lambda: computed(lambda image: keras.ops.pad(image, [[0, 0], [1, 1], [1, 1], [0, 0]])),
    "pooled": lambda: model_of(layers.AveragePooling2D(2)),
    "in half precision": lambda: model_of(layers.AveragePooling2D(3, dtype="float16"), shape=(3, 3, 1)),
    "gray": lambda: computed(keras.ops.image.rgb_to_grayscale, (2, 2, 3)),
    "any size, in large windows": lambda: model_of(layers.AveragePooling2D(64), shape=(None, None, 1)),
    "Rescaling to more": lambda: model_of(layers.Rescaling(1.0)),
    "dropout": lambda: model_of(layers.Dropout(0.5)),
    "Lambda": lambda: computed(layers.Lambda(lambda image: tf.image.flip_left_right(image))),
    "one of two branches": lambda: computed(lambda image: layers.Concatenate()([image, image / 255.0])),
    "in a model": lambda: computed(model_of()),
    "after the first layer": lambda: model_of(layers.Conv2D(1, 1), layers.BatchNormalization()),
    "without weights": lambda: keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten()]),
    "any size, pooled": lambda: model_of(layers.AveragePooling2D(2), shape=(None, None, 1)),
    "of a size that is not known": lambda: model_of(layers.Reshape((5, 5, 1)), shape=(None, None, 1)),
    "subclassed": Subclassed,
    "each image": each_of_three,
    "subclassed, in a model": lambda: computed(Subclassed().built_for()),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_pixels_are_refused_by_plain_models_of_floats(dtype):
    with pytest.raises(ValueError, match="images must be floats: these are pixels from 0 to 255, and 'seq.* Divide"):
        check_scaled(model_of(), PIXELS.astype(dtype), "images")
    check_scaled(model_of(), PIXELS.astype("float64"))
    tokens = keras.Sequential([keras.Input((2, 2, 1), dtype="int32"), layers.Embedding(256, 2)])
    check_scaled(tokens, PIXELS.astype(dtype))


@pytest.mark.parametrize("name", SCALING)
def test_pixels_are_accepted_by_models_that_scale_them(name):
    check_scaled(SCALING[name](), PIXELS)


@pytest.mark.parametrize("name", NOT_SCALING)
def test_pixels_are_refused_by_models_that_pass_them_on(name):
    with pytest.raises(ValueError, match="x must be floats"):
        check_scaled(NOT_SCALING[name](), np.tile(PIXELS, (1, 1, 1, 3)))


def test_models_are_judged_alike_while_a_function_is_traced_and_random_layers_draw_nothing():
    flip = layers.RandomFlip(seed=0)
    models = model_of(flip, layers.Rescaling(1 / 255)), model_of(flip)
    before = [variable.numpy() for variable in flip.variables]
    refused = []

    @tf.function
    def judge(x):
        for model in models:
            try:
                check_scaled(model, x)
            except ValueError:
                refused.append(model)
        return x

    judge(tf.constant(PIXELS))
    assert refused == [models[1]]
    assert all(np.array_equal(value, variable) for value, variable in zip(before, flip.variables, strict=True))


def two_inputs(form):
    """A model that scales its second input, a table, and not the first, an image."""
    image, table = keras.Input((2, 2, 1), name="z_image"), keras.Input((2,), name="table")
    scaled = layers.Normalization(mean=[5.0, 5.0], variance=[1.0, 1.0])(table)
    both = layers.Concatenate()([layers.Flatten()(image), scaled])
    return keras.Model(form(image, table), layers.Dense(1)(both))


def as_dictionary(image, table):
    return {"table": table, "z_image": image}


def as_list(image, table):
    return [image, table]


@pytest.mark.parametrize("form", [as_dictionary, as_list])
@pytest.mark.parametrize("given", [as_dictionary, as_list])
def test_every_input_of_a_model_is_judged_by_itself(form, given):
    if (form, given) == (as_dictionary, as_list):
        pytest.skip("Keras does not assign a list to a dictionary of inputs")
    model, rows = two_inputs(form), np.ones((1, 2))
    with pytest.raises(ValueError, match="x must be floats"):
        check_scaled(model, given(PIXELS, rows))
    check_scaled(model, given(PIXELS / 255, rows.astype("uint8")))


def test_arrays_that_a_model_does_not_take_are_ignored():
    model, more = two_inputs(as_dictionary), {"a": np.zeros((1, 3))}
    with pytest.raises(ValueError, match="x must be floats"):
        check_scaled(model, as_dictionary(PIXELS, np.ones((1, 2))) | more)
    check_scaled(model, as_dictionary(PIXELS / 255, np.ones((1, 2), "uint8")) | more)


@pytest.mark.parametrize("first", [True, False])
def test_every_input_of_a_nested_model_is_judged_by_itself(first):
    nested = two_inputs(lambda image, table: [image, table] if first else [table, image])
    table, image = keras.Input((2,)), keras.Input((2, 2, 1))
    unscaled, scaled = (
        keras.Model([table, image], nested([one, table] if first else [table, one])) for one in (image, image / 255.0)
    )
    with pytest.raises(ValueError, match="x must be floats"):
        check_scaled(unscaled, [np.ones((1, 2)), PIXELS])
    check_scaled(scaled, [np.ones((1, 2)), PIXELS])


@pytest.mark.parametrize("function", [lambda x, y: x * y, lambda x, y: x + y, lambda x, y: x - y])
def test_pixels_that_are_combined_with_other_inputs_are_seen(function):
    with pytest.raises(ValueError, match="x must be floats"):
        check_scaled(with_mask(function), [PIXELS, np.ones(PIXELS.shape)])
    check_scaled(with_mask(lambda x, y: function(x / 255.0, y)), [PIXELS, np.ones(PIXELS.shape)])


def test_variables_are_checked():
    with pytest.raises(ValueError, match="x must be floats"):
        check_scaled(model_of(), tf.Variable(PIXELS))


def test_more_arrays_than_a_model_takes_are_left_to_keras():
    check_scaled(model_of(), [PIXELS / 255, PIXELS])


def test_inputs_without_effect_are_accepted():
    used, unused = keras.Input((2,)), keras.Input((2, 2, 1))
    try:
        model = keras.Model([used, unused], layers.Dense(1)(used))
    except ValueError:
        pytest.skip("this version of Keras refuses such models")
    check_scaled(model, [np.ones((1, 2)), PIXELS])


@pytest.mark.parametrize("inputs", [np.float64([[0.5]]), tf.constant([["a"]]), {"a": np.zeros((1, 2))}, [[1, 2]]])
def test_what_is_not_pixels_is_accepted(inputs):
    check_scaled(networks.mlp(1), inputs)


FOR_BYTES = {
    "Rescaling": lambda: model_of(layers.Rescaling(1 / 255)),
    "Rescaling and a shift": lambda: model_of(layers.Rescaling(1 / 127.5, -1.0)),
    "mean and variance": lambda: model_of(adapted(255)),
    "only the mean": lambda: computed(lambda image: image - 120.0),
    "operator": lambda: computed(lambda image: image / 255.0),
    "any size": lambda: model_of(layers.Rescaling(1 / 255), shape=(None, None, 3)),
    "in a model": lambda: computed(model_of(layers.Rescaling(1 / 255))),
    "Pipeline": lambda: model_of(layers.Pipeline([layers.Rescaling(1 / 255)])),
    "subclassed": lambda: Subclassed(layers.Rescaling(1 / 255)).built_for(),
    "of a size that is not known": lambda: model_of(
        layers.Reshape((5, 5, 1)), layers.Rescaling(1 / 255), shape=(None, None, 1)
    ),
    "divided in a layer": lambda: model_of(Divided()),
    "divided in a model": lambda: DividedModel().built_for(),
    "each image divided": lambda: each_of_three(layers.Rescaling(1 / 255)),
    "subclassed, mean and variance": lambda: Subclassed(adapted(255)).built_for(),
    "videos": lambda: keras.Sequential([keras.Input((4, 8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv3D(1, 1)]),
}
FOR_FLOATS = {
    "nothing": model_of,
    "each image": each_of_three,
    "to -1 ... 1": lambda: model_of(layers.Rescaling(2.0, -1.0)),
    "strokes and background exchanged": lambda: model_of(layers.Rescaling(-1.0, 1.0)),
    "mean and variance": lambda: model_of(adapted(1)),
    "of each image": lambda: computed(standardized),
    "undone before": lambda: model_of(layers.Rescaling(255.0), layers.Rescaling(1 / 255)),
    "undone before, only the mean": lambda: computed(lambda image: 255 * image - 120.0),
    "with coordinates": lambda: computed(
        lambda image: layers.Concatenate()([image, 0 * image + np.float32([[[[0], [63]], [[63], [0]]]])])
    ),
    "subclassed, undone before": lambda: Subclassed(layers.Rescaling(255.0), layers.Rescaling(1 / 255)).built_for(),
    "undone before a model": lambda: model_of(layers.Rescaling(255.0), Subclassed(layers.Rescaling(1 / 255))),
    "undone before a layer": lambda: model_of(layers.Rescaling(255.0), Divided()),
    "undone before, for each image": lambda: keras.Sequential(
        [
            keras.Input((3, 2, 2, 1)),
            layers.Rescaling(255.0),
            layers.TimeDistributed(model_of(layers.Rescaling(1 / 255))),
        ]
    ),
    "a table": lambda: keras.Sequential([keras.Input((2,)), layers.Rescaling(1 / 255), layers.Dense(1)]),
    "later": lambda: model_of(layers.Conv2D(3, 1), layers.Rescaling(1 / 255)),
    "subclassed": lambda: Subclassed(adapted(1)).built_for(),
    "subclassed, mean not known yet": lambda: Subclassed(built(layers.Normalization())).built_for(),
}


def images_for(model, low=0.0, high=1.0):
    """A batch of images that a model takes, with values from low to high."""
    sizes = [size or 8 for size in (getattr(model, "input_shape", None) or (None, 2, 2, 1))[1:]]
    return tf.constant(np.random.default_rng(0).uniform(low, high, (4, *sizes)).astype("float32"))


@pytest.mark.parametrize("name", FOR_BYTES)
def test_networks_for_tasks_do_not_scale_pixels_a_second_time(name):
    encoder = FOR_BYTES[name]()
    check_task_network(encoder=encoder)
    for low, high in ((0, 1), (0, 0.3), (-1, 1), (-3, 3)):  # bright, dark, centered and standardized
        with pytest.raises(ValueError, match="encoder must take pixels as floats.*then be scaled twice. Leave out"):
            check_scaled_once(images_for(encoder, low, high), encoder=encoder)


@pytest.mark.parametrize(("layer", "name"), [(layers.Rescaling(1 / 255), "rescaling"), (adapted(255), "normalization")])
def test_the_layer_that_scales_pixels_a_second_time_is_named(layer, name):
    encoder = model_of(layer)
    with pytest.raises(ValueError, match=f"encoder must take pixels as floats.*Leave out '{name}"):
        check_scaled_once(images_for(encoder), encoder=encoder)


@pytest.mark.parametrize("name", FOR_FLOATS)
def test_networks_for_tasks_may_compute_with_pixels_from_0_to_1(name):
    network = FOR_FLOATS[name]()
    check_task_network(network=network)
    if name != "a table":
        check_scaled_once(images_for(network), network=network)


def normalization_of(low, high):
    layer = layers.Normalization(axis=None)
    layer.adapt(np.random.default_rng(0).uniform(low, high, (50, 4, 4, 1)))
    return layer


OTHER_UNITS = {
    "Hounsfield units": (-1000, 1000, lambda: layers.Rescaling(1 / 1000)),
    "Hounsfield units, mean and variance": (-1000, 1000, lambda: normalization_of(-1000, 1000)),
    "decibels": (-80, 0, lambda: layers.Rescaling(1 / 80, 1.0)),
    "degrees": (-40, 40, lambda: layers.Lambda(lambda image: image / 40)),
}


def image_learner(*first):
    network = keras.Sequential([keras.Input((4, 4, 1)), *first, layers.Flatten(), layers.Dense(2)])
    learner = MetaLearner(network=network)
    learner.compile(jit_compile=False)
    return learner


def image_tasks(examples):
    return FewShot(ClassPool(examples, np.arange(10) // 5), 2, 1, queries=1, meta_batch=2, seed=0)


@pytest.mark.parametrize("units", OTHER_UNITS)
def test_images_may_have_other_units_which_a_network_scales(units):
    low, high, scaling = OTHER_UNITS[units]
    images = np.random.default_rng(0).uniform(low, high, (10, 4, 4, 1)).astype("float32")
    learner = image_learner(scaling())
    learner.fit(image_tasks(images), steps_per_epoch=1, verbose=0)
    learner.predictor(images[:4], [0, 0, 1, 1])


@pytest.mark.parametrize("kind", ["bytes", "floats", "dark floats"])
def test_learners_refuse_networks_that_would_scale_pixels_a_second_time(kind):
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1)).astype("uint8")
    images = images if kind == "bytes" else np.float32(images / (255 if kind == "floats" else 1000))
    learner = image_learner(layers.Rescaling(1 / 255))
    for use in (
        lambda: learner.fit(image_tasks(images), steps_per_epoch=1, verbose=0),
        lambda: learner.adapt(images[:4], [0, 0, 1, 1]),
    ):
        with pytest.raises(ValueError, match="network must take pixels as floats"):
            use()


NO_IMAGES = {"no axis for channels": ((8, 8), np.uint8), "rows of bytes": ((64,), np.uint8), "floats": ((8, 8), float)}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("kind", NO_IMAGES)
def test_tasks_show_that_a_network_scales_pixels_a_second_time(kind, at_once):
    shape, dtype = NO_IMAGES[kind]
    values = np.random.default_rng(0).integers(0, 256, (10, *shape))
    pool = ClassPool(values.astype(dtype) if dtype is np.uint8 else values / 255, np.arange(10) // 2)
    tasks = FewShot(pool, 2, 1, queries=1, meta_batch=2, seed=0)

    def train(*first):
        network = keras.Sequential([keras.Input(shape), *first, layers.Flatten(), layers.Dense(2)])
        learner = MetaLearner(network=network)
        learner.compile()
        *inputs, answers = next(iter(tasks))
        return learner.train_on_batch(inputs, answers) if at_once else learner.fit(tasks, steps_per_epoch=1, verbose=0)

    train()
    with pytest.raises(ValueError, match="would then be scaled twice. Leave out 'rescaling"):
        train(layers.Rescaling(1 / 255))


SLOWLY = [pytest.param(use, marks=pytest.mark.slow) for use in ("maml_loop", "another fit")]


@pytest.mark.parametrize("use", ["adapt", "predictor", *SLOWLY])
def test_pixels_of_other_shapes_are_not_scaled_twice_by_other_ways_of_using_a_network(use):
    rng = np.random.default_rng(0)
    pool = ClassPool(rng.integers(0, 256, (10, 64)).astype("uint8"), np.arange(10) // 2)
    tasks = FewShot(pool, 2, 1, queries=1, meta_batch=2, seed=0)
    dark = FewShot(ClassPool(0.4 * rng.uniform(size=(10, 64)), np.arange(10) // 2), 2, 1, queries=1, meta_batch=2)

    def run(*first):
        network = keras.Sequential([keras.Input((64,)), *first, layers.Dense(2)])
        if use == "maml_loop":
            return maml_loop(network, tasks, loss="sparse_categorical_crossentropy", iterations=1)
        learner = MetaLearner(network=network)
        learner.compile()
        if use == "another fit":  # the first one does not show that these are pixels
            learner.fit(dark, steps_per_epoch=1, verbose=0)
            return learner.fit(tasks, steps_per_epoch=1, verbose=0)
        return getattr(learner, use)(pool.examples[:4], [0, 0, 1, 1])

    run()
    with pytest.raises(ValueError, match="would then be scaled twice. Leave out 'rescaling"):
        run(layers.Rescaling(1 / 255))


def test_tables_may_be_scaled_by_a_network():
    rows = np.random.default_rng(0).normal(100, 50, (10, 3))
    network = keras.Sequential([keras.Input((3,)), layers.Rescaling(1 / 255), layers.Dense(2)])
    learner = MetaLearner(network=network)
    learner.compile()
    learner.fit(FewShot(ClassPool(rows, np.arange(10) // 2), 2, 1, queries=1, seed=0), steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("as_dataset", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_models_without_labels_do_not_scale_pixels_a_second_time(dtype, as_dataset):
    rows = np.random.default_rng(0).integers(0, 256, (10, 64)).astype(dtype)
    rows = rows if dtype is np.uint8 else rows / 255

    def train(*first):
        encoder = keras.Sequential([keras.Input((64,)), *first, layers.Dense(2)])
        model = Contrastive(encoder, augment=layers.Dropout(0.1))
        model.compile()
        model.fit(tf.data.Dataset.from_tensor_slices(rows).batch(5) if as_dataset else rows, verbose=0)

    train()
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="encoder must take pixels as floats"):
        train(layers.Rescaling(1 / 255))
