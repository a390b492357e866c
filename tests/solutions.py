"""One solution and one wrong answer for every exercise, by the name of its check."""

import math

import numpy as np

import meta_keras as mk


def cosine(embedded, prototypes):
    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return unit(embedded) @ unit(prototypes).T


def tasks_needed(values, half_width):
    return int(np.ceil((1.96 * np.std(values, ddof=1) / half_width) ** 2))


def linear_head(prototypes):
    return 2 * prototypes.T, -(prototypes**2).sum(axis=1)


def standardize(train, test):
    return (train - train.mean()) / train.std(), (test - train.mean()) / train.std()


def momentum(gradient, x, steps, rate, beta):
    velocity = 0.0
    for _ in range(steps):
        velocity = beta * velocity - rate * gradient(x)
        x = x + velocity
    return x


def select(trials):
    best = max(trials, key=lambda rate: np.mean(trials[rate]))
    if best in (min(trials), max(trials)):
        raise ValueError(f"The best learning rate, {best}, is at the edge of the grid.")
    return best


def head_after_one_step(features, labels, ways, rate):
    minus_gradients = (np.eye(ways)[labels] - 1 / ways) / len(labels)  # one row per image, for the logits
    return rate * features.T @ minus_gradients, rate * minus_gradients.sum(axis=0)


def images_seen(steps, meta_batch, ways, shots, queries):
    return steps * meta_batch * ways * (shots + queries)


def inner_steps(theta, c, alpha, steps):
    for _ in range(steps):
        theta = theta - alpha * 2 * (theta - c)
    return theta


def best_initialization(curvatures, minima, alpha):
    return np.average(minima, weights=curvatures * (1 - 2 * alpha * curvatures) ** 2)


def fading(source, target, names):
    coefficients = np.linspace(1, 0, len(names))
    mk.transfer.blend_weights(source, target, dict(zip(names, coefficients, strict=True)))


def nearest_centroid(x, y, queries):
    labels = np.unique(y)
    means = np.stack([x[y == label].mean(axis=0) for label in labels])
    return labels[np.linalg.norm(queries[:, None] - means, axis=2).argmin(axis=1)]


def helps(with_transfer, from_scratch):
    mean, half_width = mk.report.mean_and_interval(np.subtract(with_transfer, from_scratch))
    return "cannot tell" if abs(mean) <= half_width else "yes" if mean > 0 else "no"


def soften(p, temperature):
    powers = np.asarray(p) ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def soft_derivative(teacher, student, temperature):
    p, q = (np.exp(logits / temperature) for logits in (teacher, student))
    return temperature * (q / q.sum() - p / p.sum())


def lookup(old, labels, new):
    table = {answer: np.bincount(labels[old == answer]).argmax() for answer in np.unique(old)}
    return np.array([table[answer] for answer in new])


def reverse_accuracy(fit, source_x, source_y, target_x, held_x, held_y):
    predicted = fit(source_x, source_y, target_x)(target_x)
    return (fit(target_x, predicted, source_x)(held_x) == held_y).mean()


def forward_accuracy(fit, source_x, source_y, target_x, held_x, held_y):
    return (fit(source_x, source_y, target_x)(held_x) == held_y).mean()


def coral(a, b):
    return ((np.cov(a, rowvar=False) - np.cov(b, rowvar=False)) ** 2).sum() / (4 * a.shape[1] ** 2)


def best_coefficient(scales, centers, source, initial, alpha, steps):
    left = (1 - 2 * alpha * scales) ** steps
    return (np.average(centers, weights=scales * left**2) - initial) / (source - initial)


def coefficient_derivative(omega, source, initial, upstream):
    coefficient = 1 / (1 + np.exp(-omega))
    return coefficient * (1 - coefficient) * np.sum((source - initial) * upstream)


def hypergradients(theta, c, q, rates):
    path = [theta]
    for rate in rates:
        path.append(path[-1] - rate * 2 * (path[-1] - c))
    of_query, found = 2 * (path[-1] - q), []
    for before, rate in zip(path[-2::-1], rates[::-1], strict=True):
        found.append(-2 * (before - c) * of_query)
        of_query = (1 - 2 * rate) * of_query
    return found[::-1]


def as_if_each_step_were_the_last(theta, c, q, rates):
    found = []
    for rate in rates:
        gradient = 2 * (theta - c)
        theta = theta - rate * gradient
        found.append(-gradient * 2 * (theta - q))
    return found


def greedy_rate(curvatures, square, noise):
    return np.sum(curvatures**2 * square) / np.sum(curvatures**3 * (square + noise**2))


def hypergradient_descent(gradient, theta, rate, beta, steps):
    before = 0.0
    for _ in range(steps):
        now = gradient(theta)
        rate, before = rate + beta * now * before, now
        theta = theta - rate * now
    return theta, rate


def rate_changed_too_late(gradient, theta, rate, beta, steps):
    before = 0.0
    for _ in range(steps):
        now = gradient(theta)
        theta = theta - rate * now
        rate, before = rate + beta * now * before, now
    return theta, rate


def a_quarter(source, **more):
    return mk.transfer.Strategy(source, 0.1, layers="head", coefficient=0.25, **more)


def meta_output_size(sizes, hidden):
    return (hidden + 1) * sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))


def line(x, y):
    slope = (np.mean(x * y) - np.mean(x) * np.mean(y)) / (np.mean(x * x) - np.mean(x) ** 2)
    return slope, np.mean(y) - slope * np.mean(x)


def momentum_coefficients(decay):
    found = np.zeros(7)
    found[[0.5, 0.9, 0.99].index(decay) + 1] = 1 / (1 - decay)
    return found


def truncated_gradient(theta, alpha, steps, truncation):
    segments = []
    for first in range(0, steps, truncation):
        start = (1 - alpha) ** first * theta
        segments.append(np.mean([-k * (1 - alpha) ** (2 * k - 1) * start**2 for k in range(truncation)]))
    return np.mean(segments)


def normalized_features(gradient, average, square):
    return np.stack([gradient / np.sqrt(np.mean(gradient**2)), average / np.sqrt(square)])


def labeled_mean(losses, labels):
    labeled = losses[labels >= 0]
    return labeled.mean() if len(labeled) else 0.0


def mean_after_surgery(g, h):
    def projected(one, other):
        return one - min(one @ other, 0) / (other @ other) * other

    return (projected(g, h) + projected(h, g)) / 2


def mean_after_surgery_in_turn(g, h):
    g = g - min(g @ h, 0) / (h @ h) * h
    h = h - min(g @ h, 0) / (g @ g) * g
    return (g + h) / 2


def shares(sizes, temperature):
    powers = sizes ** (1 / temperature)
    return powers / powers.sum()


def importance_weighted(log_likelihoods, log_priors, log_posteriors):
    weights = log_likelihoods + log_priors - log_posteriors
    return weights.max() + np.log(np.mean(np.exp(weights - weights.max())))


def best_discriminator(p, q):
    probabilities = p / (p + q)
    return probabilities, -(p @ np.log(probabilities) + q @ np.log(1 - probabilities)) / 2


def all_different(counts, ways):
    sets = np.eye(1, ways + 1)[0]  # how many sets of 0 ... ways images have different classes
    for count in counts:
        sets[1:] += count * sets[:-1]
    return sets[ways] / math.comb(sum(counts), ways)


def as_if_of_equal_size(counts, ways):
    each = np.mean(counts)
    return np.prod([(len(counts) - i) * each / (sum(counts) - i) for i in range(1, ways)])


RIGHT = {
    "check_labeled_mean": labeled_mean,
    "check_best_log_variance": lambda loss, regression: np.log(loss if regression else 2 * loss),
    "check_mean_after_surgery": mean_after_surgery,
    "check_shares": shares,
    "check_tasks_needed": tasks_needed,
    "check_cosine": cosine,
    "check_linear_head": linear_head,
    "check_standardize": standardize,
    "check_best_rate": lambda smallest, largest: 2 / (smallest + largest),
    "check_momentum": momentum,
    "check_select": select,
    "check_coral": coral,
    "check_reverse_accuracy": reverse_accuracy,
    "check_missing": lambda descriptions, seen: np.flatnonzero(~descriptions[seen].any(axis=0)),
    "check_images_seen": images_seen,
    "check_through_the_step": lambda w, a, b, rate: 2 * (w - 2 * rate * (w - a) - b) * (1 - 2 * rate),
    "check_head_after_one_step": head_after_one_step,
    "check_remaining": lambda tasks, done: tasks.from_batch(done),
    "check_inner_steps": inner_steps,
    "check_best_initialization": best_initialization,
    "check_proximal": lambda theta, c, strength: (2 * c + strength * theta) / (2 + strength),
    "check_coefficients": momentum_coefficients,
    "check_truncated_gradient": truncated_gradient,
    "check_features": normalized_features,
    "check_fading": fading,
    "check_nearest_centroid": nearest_centroid,
    "check_saving": lambda m, n, r: m * n / (r * (m + n)),
    "check_helps": helps,
    "check_soften": soften,
    "check_soft_derivative": soft_derivative,
    "check_lookup": lookup,
    "check_stitch": lambda units_a, units_b: np.linalg.lstsq(units_a, units_b, rcond=None)[0],
    "check_omega_for": lambda coefficient: np.log(coefficient / (1 - coefficient)),
    "check_best_coefficient": best_coefficient,
    "check_derivative": coefficient_derivative,
    "check_fixed": lambda source: a_quarter(source, learn=False),
    "check_meta_output_size": meta_output_size,
    "check_line": line,
    "check_describe": lambda codes: np.append(codes.mean(axis=0), np.log(len(codes))),
    "check_huber_weight": lambda residual, delta: min(1.0, delta / abs(residual)),
    "check_hypergradients": hypergradients,
    "check_greedy_rate": greedy_rate,
    "check_hypergradient_descent": hypergradient_descent,
    "check_chance_loss": lambda images: np.log(2 * images - 1),
    "check_importance_weighted": importance_weighted,
    "check_best_discriminator": best_discriminator,
    "check_all_different": all_different,
}

WRONG = {
    "check_labeled_mean": lambda losses, labels: np.sum(losses * (labels >= 0)) / len(losses),
    "check_best_log_variance": lambda loss, regression: np.log(loss),
    "check_mean_after_surgery": mean_after_surgery_in_turn,
    "check_shares": lambda sizes, temperature: sizes / sizes.sum(),
    "check_tasks_needed": lambda values, half_width: int(np.ceil((1.96 * np.std(values) / half_width) ** 2)),
    "check_cosine": lambda embedded, prototypes: embedded @ prototypes.T,
    "check_linear_head": lambda prototypes: (prototypes.T, -(prototypes**2).sum(axis=1)),
    "check_standardize": lambda train, test: ((train - train.mean()) / train.std(), (test - test.mean()) / test.std()),
    "check_best_rate": lambda smallest, largest: 2 / largest,
    "check_momentum": lambda gradient, x, steps, rate, beta: x - steps * rate * gradient(x),
    "check_select": lambda trials: max(trials, key=lambda rate: np.mean(trials[rate])),
    "check_reverse_accuracy": forward_accuracy,
    "check_coral": lambda a, b: ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum(),
    "check_missing": lambda descriptions, seen: np.flatnonzero(descriptions[seen].any(axis=0)),
    "check_images_seen": lambda steps, meta_batch, ways, shots, queries: steps * meta_batch * ways * queries,
    "check_through_the_step": lambda w, a, b, rate: 2 * (w - 2 * rate * (w - a) - b),
    "check_head_after_one_step": lambda features, labels, ways, rate: (
        head_after_one_step(features, labels, ways, rate)[0],
        np.zeros(ways),
    ),
    "check_remaining": lambda tasks, done: tasks,
    "check_inner_steps": lambda theta, c, alpha, steps: theta - steps * alpha * 2 * (theta - c),
    "check_best_initialization": lambda curvatures, minima, alpha: np.average(minima, weights=curvatures),
    "check_proximal": lambda theta, c, strength: (c + strength * theta) / (1 + strength),
    "check_coefficients": lambda decay: (1 - decay) * momentum_coefficients(decay),
    "check_truncated_gradient": lambda theta, alpha, steps, truncation: truncated_gradient(theta, alpha, steps, steps),
    "check_features": lambda gradient, average, square: np.stack(
        [gradient / np.sqrt(np.mean(gradient**2)), average / square]
    ),
    "check_fading": lambda source, target, names: mk.transfer.blend_weights(source, target, 0.5, names),
    "check_nearest_centroid": lambda x, y, queries: y[np.linalg.norm(queries[:, None] - x, axis=2).argmin(axis=1)],
    "check_saving": lambda m, n, r: m * n / r,
    "check_helps": lambda with_transfer, from_scratch: (
        "yes" if np.mean(with_transfer) > np.mean(from_scratch) else "no"
    ),
    "check_soften": lambda p, temperature: p / temperature,
    "check_soft_derivative": lambda teacher, student, temperature: (
        soft_derivative(teacher, student, temperature) / temperature**2
    ),
    "check_lookup": lambda old, labels, new: np.full(len(new), np.bincount(labels).argmax()),
    "check_stitch": lambda units_a, units_b: np.eye(units_a.shape[1]),
    "check_omega_for": lambda coefficient: coefficient,
    "check_best_coefficient": lambda scales, centers, source, *_: np.average(centers, weights=scales) / source,
    "check_derivative": lambda omega, source, initial, upstream: np.sum((source - initial) * upstream),
    "check_fixed": a_quarter,
    "check_meta_output_size": lambda sizes, hidden: (
        hidden * sum((a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    ),
    "check_line": lambda x, y: (np.mean(x * y) / np.mean(x * x), 0.0),
    "check_describe": lambda codes: np.append(codes.mean(axis=0), 1.0),
    "check_huber_weight": lambda residual, delta: min(1.0, delta / residual),
    "check_hypergradients": as_if_each_step_were_the_last,
    "check_greedy_rate": lambda curvatures, square, noise: np.sum(curvatures**2 * square) / np.sum(curvatures**3),
    "check_hypergradient_descent": rate_changed_too_late,
    "check_chance_loss": lambda images: np.log(2 * images),
    "check_importance_weighted": lambda *logs: np.mean(logs[0] + logs[1] - logs[2]),
    "check_best_discriminator": lambda p, q: (p / q, best_discriminator(p, q)[1]),
    "check_all_different": as_if_of_equal_size,
}
