"""One solution and one wrong answer for every exercise, by the name of its check."""

import numpy as np

import meta_keras as mk


def cosine(places, prototypes):
    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return unit(places) @ unit(prototypes).T


def shots(pool):
    return mk.FewShot(pool, ways=5, shots=5, queries=10, within="alphabet")


def shared(episode):
    support = {drawing.tobytes() for drawing in episode.support_x[0].numpy()}
    return sum(drawing.tobytes() in support for drawing in episode.query_x[0].numpy())


def standardise(train, test):
    return (train - train.mean()) / train.std(), (test - train.mean()) / train.std()


def momentum(gradient, x, steps, rate, beta):
    velocity = 0.0
    for _ in range(steps):
        velocity = beta * velocity - rate * gradient(x)
        x = x + velocity
    return x


RIGHT = {
    "check_chance": lambda ways: 1 / ways,
    "check_cosine": cosine,
    "check_shots": shots,
    "check_shared": shared,
    "check_standardise": standardise,
    "check_largest_rate": lambda c: 2 / c,
    "check_momentum": momentum,
    "check_warm_up": lambda step, rate, length: rate * min(step / length, 1),
}

WRONG = {
    "check_chance": lambda ways: 0.2,
    "check_cosine": lambda places, prototypes: places @ prototypes.T,
    "check_shots": lambda pool: mk.FewShot(pool, ways=5, shots=5, queries=10),
    "check_shared": lambda episode: 0,
    "check_standardise": lambda train, test: ((train - train.mean()) / train.std(), (test - test.mean()) / test.std()),
    "check_largest_rate": lambda c: 1 / c,
    "check_momentum": lambda gradient, x, steps, rate, beta: x - steps * rate * gradient(x),
    "check_warm_up": lambda step, rate, length: rate * step / length,
}
