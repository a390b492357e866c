"""Coverage of real examples by generated ones: by hand, on equal distributions, and on generators that collapsed."""

import numpy as np
import pytest

from meta_keras.unsupervised import density_and_coverage, effective_classes


def by_definition(real, generated, k):
    """The definition, one ball at a time."""
    inside = np.zeros((len(real), len(generated)), bool)
    for i, center in enumerate(real):
        others = sorted(np.linalg.norm(np.delete(real, i, axis=0) - center, axis=1))
        inside[i] = np.linalg.norm(generated - center, axis=1) <= others[k - 1]
    return inside.sum() / (k * len(generated)), inside.any(axis=1).mean()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 3])
def test_it_is_the_definition(seed, k):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(12, 2)), 1.5 * rng.normal(size=(7, 2))
    np.testing.assert_allclose(density_and_coverage(real, generated, neighbors=k), by_definition(real, generated, k))


def test_equal_distributions_have_density_one_and_the_expected_coverage():
    rng = np.random.default_rng(0)
    found = [density_and_coverage(*rng.normal(size=(2, 300, 3)), neighbors=3) for _ in range(20)]
    density, coverage = np.mean(found, axis=0)
    assert density == pytest.approx(1, abs=0.03) and coverage == pytest.approx(1 - 2**-3, abs=0.01)


def test_a_generator_that_leaves_out_half_of_the_real_examples_covers_half():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(200, 2)), 100 + rng.normal(size=(200, 2))])
    found = density_and_coverage(real, rng.normal(size=(400, 2)))
    assert found.coverage == pytest.approx(0.5, abs=0.02)
    assert found.density == pytest.approx(1, abs=0.1)  # what it makes looks real


def test_one_image_repeated_covers_almost_nothing():
    real = np.random.default_rng(0).normal(size=(200, 5))
    assert density_and_coverage(real, np.repeat(real[:1], 200, axis=0), neighbors=5).coverage < 0.1


def test_noise_far_from_all_real_examples_has_no_density():
    real = np.random.default_rng(0).normal(size=(50, 2))
    assert density_and_coverage(real, real + 1000) == (0, 0)


def test_images_far_from_the_origin_are_compared_exactly():
    """Squares of such numbers have no digits left for their differences in float32."""
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(2, 40, 4, 4, 1)).astype(np.float32)
    shifted = density_and_coverage(real.astype(float) + 1e4, generated.astype(float) + 1e4)
    np.testing.assert_allclose(shifted, density_and_coverage(real, generated))


@pytest.mark.parametrize(
    ("labels", "expected"), [([3], 1), ([0, 1, 2, 2], 2**1.5), (list(range(10)) * 7, 10), ([5] * 9 + [7], None)]
)
def test_effective_classes(labels, expected):
    expected = expected or 0.9**-0.9 * 0.1**-0.1
    assert effective_classes(labels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: density_and_coverage(np.zeros((9, 2)), np.zeros((9, 3))), "examples of one size; got 2 and 3"),
        (lambda: density_and_coverage(np.zeros((5, 2)), np.zeros((9, 2))), "More than 5 real examples"),
        (lambda: density_and_coverage(np.zeros((9, 2)), np.full((9, 2), np.nan)), "generated must be finite"),
        (lambda: density_and_coverage(np.zeros((9, 2)), np.zeros((9, 2)), neighbors=0), "neighbors must be"),
        (lambda: density_and_coverage(None, np.zeros((9, 2))), "real must be"),
        (lambda: effective_classes([0.5]), "labels must be one integer per row"),
        (lambda: effective_classes([[1]]), "labels must be one integer per row"),
        (lambda: effective_classes([]), "labels must be"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
