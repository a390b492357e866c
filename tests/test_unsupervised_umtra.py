"""Tasks of single images and their augmented versions: what is drawn, and what a learner learns from them."""

import keras
import numpy as np
import pytest

import meta_keras as mk
from meta_keras.unsupervised import UMTRA

NOISE = keras.layers.GaussianNoise


def numbered(rows=12):
    """Examples that show their row number."""
    return np.arange(rows, dtype=np.float32)[:, None] * np.ones((rows, 2), np.float32)


@pytest.mark.parametrize(("ways", "shots", "queries", "meta_batch", "seed"), [(5, 1, 1, 4, 0), (3, 2, 4, 2, 1)])
def test_every_image_is_a_class_and_its_queries_come_from_it(ways, shots, queries, meta_batch, seed):
    tasks = UMTRA(numbered(), {"query": NOISE(0.1, seed=0)}, ways, shots, queries, meta_batch, seed)
    episode = next(iter(tasks))
    assert episode.support_x.shape == (meta_batch, ways * shots, 2)
    assert episode.query_x.shape == (meta_batch, ways * queries, 2)
    for support_x, support_y, query_x, query_y in zip(*(part.numpy() for part in episode), strict=True):
        image_of = {label: row for label, row in zip(support_y, support_x[:, 0], strict=True)}
        assert len({*image_of.values()}) == ways == len(image_of)
        assert sorted(support_y) == sorted(list(range(ways)) * shots)
        assert sorted(query_y) == sorted(list(range(ways)) * queries)
        np.testing.assert_array_equal(support_x[:, 0], [image_of[label] for label in support_y])
        original = np.array([image_of[label] for label in query_y])
        assert (np.abs(query_x[:, 0] - original) < 0.5).all() and (query_x[:, 0] != original).all()


def test_a_layer_augments_both_sets_and_a_dictionary_one():
    both = next(iter(UMTRA(numbered(), NOISE(0.1, seed=0))))
    queries = next(iter(UMTRA(numbered(), {"query": NOISE(0.1, seed=0)})))
    assert (both.support_x.numpy() % 1 != 0).any() and (queries.support_x.numpy() % 1 == 0).all()


def test_batches_are_repeatable_and_differ():
    tasks = UMTRA(numbered(), NOISE(0.1, seed=0), seed=3)
    first, second = (batch.query_x.numpy() for batch in tasks.take(2))
    np.testing.assert_array_equal(next(iter(UMTRA(numbered(), NOISE(0.1, seed=0), seed=3))).query_x, first)
    np.testing.assert_array_equal(next(iter(tasks.from_batch(1))).query_x, second)
    assert not np.array_equal(first, second)


def test_all_images_are_equally_likely_for_every_label():
    tasks = UMTRA(numbered(6), {"query": NOISE(0.1, seed=0)}, ways=3, meta_batch=3000)
    episode = next(iter(tasks))
    rows, labels = episode.support_x.numpy()[..., 0].astype(int).ravel(), episode.support_y.numpy().ravel()
    counts = np.histogram2d(rows, labels, bins=(6, 3))[0]
    assert np.abs(counts - 500).max() < 5 * np.sqrt(500)


def test_integer_images_are_scaled():
    images = np.full((6, 4, 4, 1), 255, np.uint8)
    episode = next(iter(UMTRA(images, {"query": keras.layers.RandomFlip(seed=0)}, ways=2)))
    assert (episode.support_x.numpy() == 1).all() and (episode.query_x.numpy() == 1).all()


def test_a_learner_learns_to_ignore_what_the_augmentation_changes():
    """Two of the ten numbers identify an example, and the augmentation changes the others."""

    @keras.saving.register_keras_serializable(package="tests")
    class NoiseInTheOthers(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.generator = keras.random.SeedGenerator(0)

        def call(self, inputs, training=False):
            changed = keras.random.normal((inputs.shape[0] or keras.ops.shape(inputs)[0], 10), seed=self.generator)
            return inputs + np.float32([0, 0, 5, 5, 5, 5, 5, 5, 5, 5]) * changed

    rng = np.random.default_rng(0)
    examples = rng.normal(size=(100, 10)).astype(np.float32)
    classes = np.repeat(rng.normal(size=(20, 2)), 10, axis=0)
    new = np.concatenate([classes, 5 * rng.normal(size=(200, 8))], axis=1).astype(np.float32)
    held_out = mk.FewShot(mk.ClassPool.from_arrays(new, np.arange(200) // 10), queries=5, meta_batch=20)
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((10,)), keras.layers.Dense(2, use_bias=False)])
    learner = mk.MetaLearner(network=network, rule=mk.rules.Prototypes())
    learner.compile(keras.optimizers.Adam(0.02))
    before = mk.evaluate(learner, held_out, 100).mean
    learner.fit(UMTRA(examples, NoiseInTheOthers(), meta_batch=16), steps_per_epoch=300, verbose=0)
    assert mk.evaluate(learner, held_out, 100).mean > before + 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": None}, "augment must change the queries"),
        ({"augment": {"support": NOISE(0.1)}}, "augment must change the queries"),
        ({"augment": "flip"}, "augment must be a Keras layer"),
        ({"ways": 13}, "13 images are needed for a 13-way task, one per class; got 12"),
        ({"ways": 0}, "ways must be"),
        ({"shots": 0}, "shots must be"),
        ({"queries": 0}, "queries must be"),
        ({"examples": 3}, "examples must be"),
    ],
)
def test_errors_say_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        UMTRA(**{"examples": numbered(), "augment": NOISE(0.1)} | settings)
