"""Tasks from clusters: no labels are used, classes are clusters, and a learner trains on them."""

import keras
import numpy as np
import pytest

import meta_keras as mk
from meta_keras.unsupervised import cluster_classes, k_means


def points(seed=0, classes=6, each=10):
    """Six groups that are far apart, in random order; and the group of each row."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(classes), each))
    return (10 * np.eye(classes)[truth] + rng.normal(size=(len(truth), classes))).astype(np.float32), truth


def test_the_classes_are_the_clusters_of_the_features_and_not_of_the_examples():
    features, truth = points()
    examples = np.arange(60, dtype=np.float32)[:, None]
    pool = cluster_classes(examples, features, clusters=6)
    assert len(pool) == 6
    for number in range(6):
        (members,) = {tuple(sorted(pool.examples[pool.labels == number, 0].astype(int)))}
        assert len({*truth[list(members)]}) == 1 and len(members) == 10


def test_partitions_group_the_same_examples_differently():
    features = np.random.default_rng(0).normal(size=(60, 4))
    pool = cluster_classes(np.arange(60)[:, None], features, clusters=5, partitions=3, seed=1)
    assert pool.groupings["partition"] == tuple("000001111122222")
    parts = []
    for number in range(3):
        inside = np.isin(pool.labels, range(5 * number, 5 * number + 5))
        order = np.argsort(pool.examples[inside, 0])
        np.testing.assert_array_equal(pool.examples[inside, 0][order], np.arange(60))
        together = pool.labels[inside][order]
        parts.append(together[:, None] == together)
    assert not any(np.array_equal(parts[i], parts[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_partitions_scale_the_features_by_numbers_of_their_own(monkeypatch):
    features, clustered = np.random.default_rng(0).normal(size=(20, 3)), []

    def remembered(rows, clusters, seed):
        clustered.append(rows)
        return k_means(rows, clusters, seed=seed)

    monkeypatch.setattr("meta_keras.unsupervised.cactus.k_means", remembered)
    cluster_classes(features, features, clusters=2, partitions=4)
    scales = np.array([rows[0] / features[0] for rows in clustered])
    np.testing.assert_allclose(clustered, scales[:, None] * features)
    assert scales.min() > 0 and scales.max() < 1 and len({*scales.ravel().round(9)}) == 12


def test_tasks_stay_within_one_partition():
    features = np.random.default_rng(0).normal(size=(60, 4))
    pool = cluster_classes(np.arange(60, dtype=np.float32)[:, None], features, clusters=3, partitions=4)
    sizes = pool.with_at_least(5)
    tasks = mk.FewShot(sizes, ways=3, shots=2, queries=3, meta_batch=20, within="partition")
    episode = next(iter(tasks))
    for support, query in zip(episode.support_x.numpy(), episode.query_x.numpy(), strict=True):
        assert len({*support.ravel(), *query.ravel()}) == 15  # an image twice would be in two partitions


def test_partitions_share_their_images_and_are_not_split():
    examples = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
    with pytest.raises(ValueError, match="Split first, and rotate or cluster afterwards"):
        cluster_classes(examples, examples, clusters=5, partitions=2).split_classes()
    cluster_classes(examples, examples, clusters=5).split_classes()


def test_one_partition_clusters_the_features_as_they_are():
    features = np.random.default_rng(0).normal(size=(60, 4))
    pool = cluster_classes(np.arange(60)[:, None], features, clusters=5, seed=3)
    labels = k_means(features, 5, seed=3).labels
    np.testing.assert_array_equal(pool.labels[np.argsort(pool.examples[:, 0])], labels)


def test_a_learner_trained_on_clusters_recognizes_groups():
    x, truth = points(each=20)
    noisy = np.concatenate([x, 8 * np.random.default_rng(1).normal(size=(len(x), 20))], axis=1).astype(np.float32)
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((26,)), keras.layers.Dense(8, use_bias=False)])
    learner = mk.MetaLearner(network=network, rule=mk.rules.Prototypes())
    learner.compile(keras.optimizers.Adam(0.01))
    held_out = mk.FewShot(mk.ClassPool.from_arrays(noisy, truth), ways=5, shots=1, queries=5, meta_batch=20)
    before = mk.evaluate(learner, held_out, 100).mean
    learner.fit(mk.FewShot(cluster_classes(noisy, x, clusters=6), ways=5), steps_per_epoch=200, verbose=0)
    assert mk.evaluate(learner, held_out, 100).mean > before + 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": np.zeros((3, 2))}, "4 examples and 3 rows of features"),
        ({"clusters": 5}, "5 clusters need as many different rows"),
        ({"clusters": 0}, "clusters must be"),
        ({"clusters": np.array(["a"])}, "clusters must be"),
        ({"clusters": range(2)}, "clusters must be"),
        ({"partitions": 0}, "partitions must be"),
        ({"seed": -1}, "seed must be"),
        ({"examples": 3}, "examples must be"),
    ],
)
def test_errors_say_what_is_wrong(settings, message):
    valid = {"examples": np.eye(4), "features": np.eye(4), "clusters": 2}
    with pytest.raises(ValueError, match=message):
        cluster_classes(**valid | settings)
