"""GradientDescent against a second implementation: NumPy alone, with explicit products of Hessians and vectors."""

import keras
import numpy as np
import pytest
from keras import layers
from proofs import adapted, assert_same, in_float64, learner_of, meta, regression

from meta_keras.rules import GradientDescent, LearnedRates

SHAPES = [(2, 4), (4,), (4, 3), (3,), (3, 2), (2,)]
SIZES = [int(np.prod(shape)) for shape in SHAPES]
LAYERS = [slice(0, 12), slice(12, 27), slice(27, 35)]
NAMES = ["low", "middle", "head"]


@pytest.fixture(autouse=True)
def precise():
    in_float64()


def parts(flat):
    return [part.reshape(shape) for part, shape in zip(np.split(flat, np.cumsum(SIZES)[:-1]), SHAPES, strict=True)]


def answer(theta, x):
    w1, b1, w2, b2, w3, b3 = parts(theta)
    return np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2) @ w3 + b3


def loss(theta, x, y):
    return np.mean((answer(theta, x) - y) ** 2)


def slope(theta, x, y):
    """The gradient of the loss, by hand. It holds for complex weights too."""
    w1, b1, w2, b2, w3, b3 = parts(theta)
    low = np.tanh(x @ w1 + b1)
    middle = np.tanh(low @ w2 + b2)
    at_head = 2 * (middle @ w3 + b3 - y) / y.size
    at_middle = at_head @ w3.T * (1 - middle**2)
    at_low = at_middle @ w2.T * (1 - low**2)
    pairs = [(x, at_low), (low, at_middle), (middle, at_head)]
    return np.concatenate([part.ravel() for below, at in pairs for part in (below.T @ at, at.sum(axis=0))])


def bend(theta, x, y, vector):
    """The Hessian times a vector: a complex step along it has no rounding error from subtraction."""
    return slope(theta + 1e-30j * vector, x, y).imag / 1e-30


def descend(theta, x, y, rates):
    """The weights at the start and after each step; `rates` has one row per step, with one rate per weight."""
    path = [theta]
    for rate in rates:
        path.append(path[-1] - rate * slope(path[-1], x, y))
    return path


def of_task(theta, task, rates, first_order):
    """The query loss after descent, and its gradients for theta and for the rates, from the last step back."""
    x, y, u, v = task
    path = descend(theta, x, y, rates)
    back, for_rates = slope(path[-1], u, v), []
    for before, rate in zip(path[-2::-1], rates[::-1], strict=True):
        for_rates.append(-back * slope(before, x, y))
        back = back if first_order else back - bend(before, x, y, rate * back)
    return loss(path[-1], u, v), back, np.array(for_rates[::-1])


def reference(theta, tasks, rates, first_order=False):
    results = [of_task(theta, task, rates, first_order) for task in tasks]
    return [np.mean(parts, axis=0) for parts in zip(*results, strict=True)]


def network():
    return keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(4, "tanh", name="low"),
            layers.Dense(3, "tanh", name="middle"),
            layers.Dense(2, name="head"),
        ]
    )


def both(rule, seed):
    """A learner with random weights, these weights in one row, its tasks, and the same tasks for NumPy."""
    learner, generator = learner_of(network(), rule), np.random.default_rng(seed)
    theta = generator.normal(size=sum(SIZES)) / 2
    learner.network.set_weights(parts(theta))
    inputs, query_y = tasks = regression(targets=2, tasks=3, seed=seed)
    return learner, theta, tasks, list(zip(*(part.numpy() for part in (*inputs, query_y)), strict=True))


def rates_of(steps, names, rate=0.3):
    rates = np.zeros((steps, sum(SIZES)))
    for name in names:
        rates[:, LAYERS[NAMES.index(name)]] = rate
    return rates


@pytest.mark.parametrize(("steps", "seed"), [(1, 0), (3, 1)])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize("names", [NAMES, ["head"], ["low", "head"]], ids=["all", "head", "two"])
def test_the_meta_gradients_are_those_of_the_reference(names, first_order, steps, seed):
    chosen = None if names == NAMES else names
    rule = GradientDescent(0.3, steps, first_order=first_order, layers=chosen)
    learner, theta, tasks, by_task = both(rule, seed)
    given, gradients = meta(learner, tasks)
    wanted, back, _ = reference(theta, by_task, rates_of(steps, names), first_order)
    np.testing.assert_allclose(given, wanted, rtol=1e-12)
    assert_same(gradients, parts(back), 1e-11)


SUMS = {  # the reference's gradients for each step and weight, combined for the rates that exist
    "layer": lambda slopes: [slopes[:, layer].sum() for layer in LAYERS],
    "weight": lambda slopes: parts(slopes.sum(axis=0)),
    "layer-step": lambda slopes: [slopes[:, layer].sum(axis=1) for layer in LAYERS],
    "step": lambda slopes: [slopes.sum(axis=1)],
}
SPREAD = {  # the rates that exist, for each step and weight of the reference
    "layer": lambda rates, steps: np.repeat([np.repeat(rates, [12, 15, 8])], steps, axis=0),
    "weight": lambda rates, steps: np.repeat([np.concatenate([rate.ravel() for rate in rates])], steps, axis=0),
    "layer-step": lambda rates, steps: np.repeat(
        [[rate[min(step, 1)] for rate in rates] for step in range(steps)], [12, 15, 8], axis=1
    ),
    "step": lambda rates, steps: np.repeat([[rates[0][min(step, 1)]] for step in range(steps)], 35, axis=1),
}


def with_rates(kind, seed, **settings):
    """As `both`, with different learned rates, which are also returned as a list."""
    learner, *others = both(GradientDescent(LearnedRates(0.3, kind), 2, **settings), seed)
    generator = np.random.default_rng(seed + 10)
    rates = [generator.uniform(0.05, 0.5, size=rate.shape) for rate in learner.rule.transform.rates]
    for variable, value in zip(learner.rule.transform.rates, rates, strict=True):
        variable.assign(value)
    return learner, *others, rates


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["layer", "weight", "layer-step", "step"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
def test_learned_rates_have_the_slopes_of_the_reference(first_order, kind, seed):
    learner, theta, tasks, by_task, rates = with_rates(kind, seed, first_order=first_order)
    given, gradients = meta(learner, tasks)
    wanted, back, for_rates = reference(theta, by_task, SPREAD[kind](rates, 2), first_order)
    np.testing.assert_allclose(given, wanted, rtol=1e-12)
    assert_same(gradients, [*parts(back), *SUMS[kind](for_rates)], 1e-11)


@pytest.mark.parametrize("kind", ["layer", "weight", "layer-step", "step"])
def test_beyond_the_trained_steps_the_last_rate_holds(kind):
    learner, theta, tasks, by_task, rates = with_rates(kind, 0, evaluation_steps=5)
    answers = learner(tasks[0], training=False).numpy()
    for task, given in zip(by_task, answers, strict=True):
        end = descend(theta, *task[:2], SPREAD[kind](rates, 5))[-1]
        np.testing.assert_allclose(given, answer(end, task[2]), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_adapted_weights_are_those_of_the_reference(training):
    rule = GradientDescent(0.3, 3, evaluation_steps=7)
    learner, theta, tasks, by_task = both(rule, 0)
    task = tuple(part[1] for part in tasks[0][:2])
    wanted = descend(theta, *by_task[1][:2], rates_of(3 if training else 7, NAMES))[-1]
    assert_same(adapted(rule, learner.pure, task, training), parts(wanted))


def test_rates_equal_to_alpha_change_nothing():
    plain, _, tasks, _ = both(GradientDescent(0.3, 2), 0)
    given, gradients = meta(plain, tasks)
    for kind in SUMS:
        learner = both(GradientDescent(LearnedRates(0.3, kind), 2), 0)[0]
        other, with_omega = meta(learner, tasks)
        assert other == pytest.approx(given, rel=1e-14)
        assert_same(with_omega[:6], gradients)
