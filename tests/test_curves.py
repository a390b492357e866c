"""Sinusoids and Curves: the regression tasks match their settings, and can be learned from their support sets."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from meta_keras import Curves, Sinusoids


def fitted(x, y):
    """Amplitude and phase of a sine through some points: a sin(x - p) = a cos(p) sin(x) - a sin(p) cos(x)."""
    (s, c), *_ = np.linalg.lstsq(np.stack([np.sin(x), np.cos(x)], axis=1), y, rcond=None)
    return np.hypot(s, c), np.arctan2(-c, s)


def one_batch(tasks):
    return [part[..., 0].astype(np.float64) for part in next(tasks.take(1).as_numpy_iterator())]


def likelihood(values, low, high, bins=10):
    """The probability of values spread at least this unevenly over a range, by the chi-square test."""
    counts, _ = np.histogram(values, bins, (low, high))
    assert counts.sum() == len(values)
    statistic = np.sum((counts - counts.mean()) ** 2) / counts.mean()
    return float(tf.math.igammac(np.float64((bins - 1) / 2), statistic / 2))


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking is slow here
@given(shots=st.integers(3, 8), queries=st.integers(1, 9), meta_batch=st.integers(1, 6), seed=st.integers(-9, 9))
def test_a_sine_fitted_to_the_support_set_answers_the_queries(shots, queries, meta_batch, seed):
    episode = next(iter(Sinusoids(shots, queries, meta_batch, seed)))
    assert [part.shape[1:] for part in episode] == [(shots, 1)] * 2 + [(queries, 1)] * 2
    for x, y, query_x, query_y in zip(*one_batch(Sinusoids(shots, queries, meta_batch, seed)), strict=True):
        if np.linalg.cond(np.stack([np.sin(x), np.cos(x)], axis=1)) < 50:
            amplitude, phase = fitted(x, y)
            np.testing.assert_allclose(amplitude * np.sin(query_x - phase), query_y, atol=2e-4)
            assert 0.1 - 1e-3 <= amplitude <= 5 + 1e-3 and -1e-2 <= phase <= np.pi + 1e-2


def test_amplitudes_phases_and_inputs_are_uniform_over_their_ranges():
    tasks = Sinusoids(20, 1, 2000, 1, amplitude=(1.0, 3.0), phase=(0.5, 2.0), x_range=(-1.0, 4.0))
    x, y, *_ = one_batch(tasks)
    amplitude, phase = np.array([fitted(*task) for task in zip(x, y, strict=True)]).T
    assert likelihood(amplitude, 0.9999, 3.0001) > 1e-3
    assert likelihood(phase, 0.4999, 2.0001) > 1e-3
    assert likelihood(x.ravel(), -1.0, 4.0) > 1e-3
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 0.1


def test_noise_has_the_deviation_it_was_given_and_moves_nothing_else():
    x, y, *_ = one_batch(Sinusoids(10, 10, 500, 2))
    noisy_x, noisy_y, *_ = one_batch(Sinusoids(10, 10, 500, 2, noise=0.5))
    np.testing.assert_array_equal(x, noisy_x)
    assert abs((noisy_y - y).std() - 0.5) < 0.02 and abs((noisy_y - y).mean()) < 0.02


def test_the_same_seed_gives_the_same_curves_and_another_others():
    first, again, other = (one_batch(Sinusoids(3, 2, 4, seed)) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_subclass_draws_its_own_curves():
    class Lines(Curves):
        def parameters(self, seed):
            return tf.random.stateless_uniform((self.meta_batch, 1), seed, 1.0, 2.0)

        def curve(self, x, slope):
            return slope * x

    x, y, query_x, query_y = one_batch(Lines(3, 2, 50, 1))
    slopes = y / x
    np.testing.assert_allclose(slopes, slopes[:, :1] * np.ones(3), rtol=1e-5)
    np.testing.assert_allclose(query_y / query_x, slopes[:, :1] * np.ones(2), rtol=1e-5)
    assert 1 <= slopes.min() < 1.2 < 1.8 < slopes.max() <= 2.0001


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shots": 0}, "shots must be an integer of at least 1; got 0"),
        ({"queries": 1.5}, "queries must be an integer of at least 1; got 1.5"),
        ({"noise": -0.5}, "noise must be a finite number of at least 0; got -0.5"),
        ({"noise": float("nan")}, "noise must be a finite number of at least 0; got nan"),
        ({"x_range": (2, 1)}, r"x_range must be two finite numbers, low first; got \(2, 1\)"),
        ({"x_range": (1, 2, 3)}, r"x_range must be two finite numbers, low first; got \(1, 2, 3\)"),
        ({"amplitude": (0, np.inf)}, r"amplitude must be two finite numbers, low first; got \(0, inf\)"),
        ({"amplitude": (0, 1e39)}, r"amplitude must be two finite numbers, low first; got \(0, 1e\+39\)"),
        ({"noise": 10**400}, "noise must be a finite number of at least 0; got"),
        ({"phase": "ab"}, "phase must be two finite numbers, low first; got 'ab'"),
        ({"phase": 1.0}, "phase must be two finite numbers, low first; got 1.0"),
        ({"phase": (3, 0)}, r"phase must be two finite numbers, low first; got \(3, 0\)"),
    ],
)
def test_settings_that_make_no_curves_are_told_why(wrong, message):
    with pytest.raises(ValueError, match=message):
        Sinusoids(**wrong)


def test_a_range_may_be_a_single_point():
    x, y, *_ = one_batch(Sinusoids(2, 2, 3, amplitude=(2, 2), phase=(0, 0), x_range=(1, 1)))
    np.testing.assert_allclose(y, 2 * np.sin(1.0), rtol=1e-6)


@pytest.mark.parametrize("wrong", [lambda x, slope: slope * x[:, :1], lambda x, slope: (slope * x)[..., None]])
def test_a_curve_of_another_shape_is_refused_instead_of_broadcast(wrong):
    class Lines(Curves):
        def parameters(self, seed):
            return tf.random.stateless_uniform((self.meta_batch, 1), seed)

        def curve(self, x, slope):
            return wrong(x, slope)

    with pytest.raises(
        ValueError, match=r"Lines.curve must return one value per input, of shape \(4, 5\); it returned"
    ):
        Lines(3, 2, 4)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda tasks: pickle.loads(pickle.dumps(tasks))])
def test_curves_can_be_copied_and_pickled(again):
    tasks = Sinusoids(3, 2, 4, 5, noise=0.1, x_range=(0, 1))
    repeated = again(tasks)
    assert repeated.noise == 0.1 and repeated is not tasks
    assert all(np.array_equal(a, b) for a, b in zip(one_batch(tasks), one_batch(repeated), strict=True))


def test_curves_must_say_what_they_are():
    with pytest.raises(NotImplementedError, match=r"Curves must implement parameters\(seed\)"):
        Curves()
