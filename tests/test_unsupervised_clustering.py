"""k-means: what it minimizes, what it finds, and what it does with empty clusters and equal rows."""

import numpy as np
import pytest

from meta_keras.unsupervised import k_means
from meta_keras.unsupervised.clustering import _without_empty


def objective(rows, found):
    return np.sum((rows - found.centers[found.labels]) ** 2)


@pytest.mark.parametrize("seed", range(5))
def test_rows_have_their_nearest_center_and_centers_are_means(seed):
    rows = np.random.default_rng(seed).normal(size=(60, 3))
    found = k_means(rows, 5, iterations=1000, seed=seed)
    apart = np.linalg.norm(rows[:, None] - found.centers, axis=2)
    np.testing.assert_array_equal(found.labels, apart.argmin(axis=1))
    for cluster in range(5):
        np.testing.assert_allclose(found.centers[cluster], rows[found.labels == cluster].mean(axis=0))


@pytest.mark.parametrize("seed", range(5))
def test_more_iterations_never_increase_the_objective(seed):
    rows = np.random.default_rng(seed).normal(size=(80, 2))
    values = [objective(rows, k_means(rows, 6, iterations=count, seed=seed)) for count in range(1, 10)]
    assert all(later <= earlier + 1e-9 for earlier, later in zip(values, values[1:], strict=False))
    assert values[-1] < values[0]


@pytest.mark.parametrize("seed", range(20))
def test_groups_that_are_far_apart_are_found(seed):
    """k-means++ starts in all of them; random rows would often start twice in one."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(8), 10))
    rows = 1000 * np.stack([truth, truth**2], axis=1) + rng.normal(size=(80, 2))
    labels = k_means(rows, 8, seed=seed).labels
    assert len({*zip(truth, labels, strict=True)}) == 8 == len({*labels})


def test_every_cluster_has_rows_even_if_many_rows_are_equal():
    rows = np.repeat(np.arange(6.0), [50, 1, 1, 1, 1, 1])[:, None]
    for seed in range(20):
        assert np.bincount(k_means(rows, 6, seed=seed).labels, minlength=6).min() > 0


def test_an_empty_cluster_takes_the_row_that_is_farthest_from_its_center():
    apart = np.array([[1.0, 9.0, 9.0], [4.0, 9.0, 9.0], [2.0, 9.0, 9.0], [9.0, 5.0, 9.0]])
    labels = _without_empty(np.array([0, 0, 0, 1]), apart)
    np.testing.assert_array_equal(labels, [0, 2, 0, 1])  # not row 3, whose cluster would be empty


def test_a_cluster_that_becomes_empty_on_the_way_is_filled():
    rng = np.random.default_rng(1689)  # of 4,000 seeds, the one for which this happens
    rows = rng.integers(0, 6, size=(12, 2)).astype(float)
    found = k_means(rows, 5, seed=1689)
    assert np.bincount(found.labels, minlength=5).min() > 0 and np.isfinite(found.centers).all()


def test_the_seed_determines_the_clusters():
    rows = np.random.default_rng(0).normal(size=(60, 3))
    one, again, other = (k_means(rows, 7, seed=seed).labels for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_means([[0.0], [1.0]], 3), "3 clusters need as many different rows; features have 2"),
        (lambda: k_means([[0.0], [0.0]], 2), "2 clusters need as many different rows; features have 1"),
        (lambda: k_means([[0.0], [np.inf]], 2), "features must be finite"),
        (lambda: k_means([[0.0], [1.0]], 0), "clusters must be"),
        (lambda: k_means([[0.0], [1.0]], 1, iterations=0), "iterations must be"),
        (lambda: k_means([[0.0], [1.0]], 1, seed=-1), "seed must be"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
