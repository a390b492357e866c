"""Augmentation: every example gets its own random changes, and every batch can be repeated."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from meta_keras import ClassPool, FewShot


class Shift(keras.layers.Layer):
    """Adds one random number per example, drawn by `draw`."""

    def __init__(self, draw=None):
        super().__init__()
        self.generator = keras.random.SeedGenerator(3)
        self.draw = draw or (lambda layer, shape: keras.random.uniform(shape, seed=layer.generator))

    def call(self, x, training=False):
        return x + self.draw(self, (x.shape[0], *[1] * (len(x.shape) - 1))) if training else x


class Counting(keras.layers.Layer):
    """Counts its calls, like a layer with moving averages."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x


def same_images(rows=12, dtype=np.float32):
    """Identical examples, so that differences come from augmentation alone."""
    image = np.random.default_rng(0).random((6, 6, 3))
    image = image.astype(dtype) if dtype != np.uint8 else (255 * image).astype(np.uint8)
    return ClassPool(np.repeat(image[None], rows, axis=0), np.arange(rows) // 4)


def tasks_with(layer, pool=None, **options):
    return FewShot(
        same_images() if pool is None else pool, 3, 2, 2, **{"meta_batch": 2, "seed": 5, **options}, augment=layer
    )


def batches(tasks, count=3):
    return list(tasks.take(count).as_numpy_iterator())


def distinct(*parts):
    rows = np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])
    return len({row.tobytes() for row in rows})


LAYERS = [
    Shift,
    lambda: keras.layers.RandomRotation(0.2),
    lambda: keras.layers.RandomBrightness(0.3, value_range=(0, 1)),
    lambda: keras.Sequential([keras.layers.RandomTranslation(0.3, 0.3), keras.layers.GaussianNoise(0.1)]),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_every_example_of_every_task_and_batch_gets_draws_of_its_own(layer):
    tasks = tasks_with(layer())
    drawn = batches(tasks)
    assert distinct(*(part for batch in drawn for part in (batch.support_x, batch.query_x))) == 3 * 2 * (6 + 6)
    plain = batches(tasks_with(None))
    for one, other in zip(drawn, plain, strict=True):
        np.testing.assert_array_equal(one.support_y, other.support_y)
        np.testing.assert_array_equal(one.query_y, other.query_y)
        assert one.support_x.dtype == np.float32 and one.support_x.shape == other.support_x.shape


@pytest.mark.parametrize("layer", LAYERS)
def test_a_batch_depends_on_the_seed_and_its_number_and_on_nothing_else(layer):
    tasks = tasks_with(layer())
    first = batches(tasks)
    keras.utils.set_random_seed(99)
    again, elsewhere = batches(tasks), batches(tasks_with(layer()))
    later = batches(tasks.from_batch(2), 1)
    for a, b in zip(first + first + first[2:], again + elsewhere + later, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not np.array_equal(first[0].query_x, batches(tasks_with(layer(), seed=6), 1)[0].query_x)


@pytest.mark.parametrize(
    ("augment", "support", "query"),
    [
        (Shift(), 36, 36),
        ({"support": Shift()}, 36, 1),
        ({"query": Shift()}, 1, 36),
        ({"query": None}, 1, 1),
        (None, 1, 1),
    ],
)
def test_support_and_query_sets_can_be_augmented_apart(augment, support, query):
    drawn = batches(tasks_with(augment))
    assert distinct(*(b.support_x for b in drawn)) == support and distinct(*(b.query_x for b in drawn)) == query


def test_a_layer_may_change_the_shape_and_sees_what_the_network_sees():
    seen = []

    class Cropping(keras.layers.Layer):
        def call(self, x):
            seen.append(x.dtype)
            return x[:, 1:5, 1:5] * 2

    tasks = tasks_with(Cropping(), same_images(dtype=np.uint8))
    assert tasks.element_spec.query_x.shape == (2, 6, 4, 4, 3)
    wanted = 2 * (same_images(dtype=np.uint8).examples[0, 1:5, 1:5] / np.float32(255))
    np.testing.assert_allclose(batches(tasks, 1)[0].query_x[1, 3], wanted, rtol=1e-6)
    assert set(seen) == {tf.float32}


@pytest.mark.filterwarnings("ignore")
def test_tokens_can_be_augmented_too():
    class Dropped(Shift):
        def call(self, x, training=False):
            keep = keras.random.uniform(x.shape, seed=self.generator) > 0.5
            return tf.where(keep, x, 0)

    tokens = ClassPool(np.ones((12, 40), np.int32), np.arange(12) // 4)
    drawn = batches(tasks_with(Dropped(), tokens), 1)[0]
    assert drawn.support_x.dtype == np.int32 and distinct(drawn.support_x, drawn.query_x) == 24


@pytest.mark.parametrize(
    "draw",
    [
        lambda layer, shape: keras.random.uniform(shape),
        lambda layer, shape: tf.random.uniform(shape),
        lambda layer, shape: np.random.default_rng().random(shape).astype(np.float32),
    ],
    ids=["keras without a seed", "tensorflow", "numpy"],
)
def test_random_draws_that_no_seed_controls_are_refused(draw):
    with pytest.raises(ValueError, match="has random draws or updates that its own .*SeedGenerator does not control"):
        tasks_with(Shift(draw))


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("flip", r"augment must be a Keras layer such as keras.layers.RandomFlip\(\).*; got 'flip'"),
        (keras.layers.RandomFlip, "augment must be a Keras layer"),
        ([keras.layers.RandomFlip()], "augment must be a Keras layer"),
        ({"train": keras.layers.RandomFlip()}, "a key of augment must be one of 'support', 'query'; got 'train'"),
        (
            keras.layers.Rescaling(1 / 255, name="small"),
            "Images are from 0 to 1 here, and 'small' scales them once more",
        ),
        (keras.layers.RandomBrightness(0.2), r"RandomBrightness expects pixels in \(0, 255\).*value_range=\(0, 1\)"),
        (keras.Sequential([keras.layers.RandomContrast(0.2)]), "RandomContrast expects pixels in"),
        (keras.layers.MixUp(), "MixUp mixes different examples"),
        (Counting(), "updates that its own"),
        (keras.layers.Lambda(lambda x: x[:1]), "must return one example per example"),
    ],
)
def test_what_cannot_augment_is_told_why(augment, message):
    with pytest.raises(ValueError, match=message):
        tasks_with(augment)
