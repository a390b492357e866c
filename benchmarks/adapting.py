"""What it costs to adapt to one task and to answer its queries: prototypes and MAML on glyphs, 5-way 1-shot, 28x28.

    PYTHONPATH=. .venv/bin/python benchmarks/adapting.py        (less than a minute; run nothing else meanwhile)

"predictor" adapts with `learner.predictor`, "answers" predicts five queries with it, and "forward pass" is that of the
network alone on the five support images, compiled: nothing that adapts can be faster. These three are called in turn.
"model" is `learner.adapt`, which creates a Keras model. The results are in benchmarks/results/adapting.json: medians
and minima in milliseconds.
"""

from collections.abc import Callable

import tensorflow as tf
from common import milliseconds, store

import meta_keras as mk

WAYS, REPEATS, MODELS = 5, 300, 10
RULES = {"prototypes": mk.rules.Prototypes(), "MAML, 5 steps": mk.rules.GradientDescent(0.1, steps=5)}


def calls(rule: mk.rules.Rule) -> dict[str, Callable[[], None]]:
    """What is measured, each as a function without arguments that waits for its result."""
    network = mk.networks.conv4(None if isinstance(rule, mk.rules.Prototypes) else WAYS, input_shape=(28, 28, 1))
    learner = mk.MetaLearner(network=network, rule=rule)
    support_x, support_y, query_x, _ = (part[0].numpy() for part in next(iter(tasks())))
    predictor = learner.predictor(support_x, support_y)
    forward = tf.function(lambda x: network(x, training=True))
    return {
        "predictor": lambda: tf.nest.flatten(learner.predictor(support_x, support_y).adaptation.memory),
        "answers": lambda: predictor.predict(query_x),
        "forward pass": lambda: forward(support_x).numpy(),
        "model": lambda: learner.adapt(support_x, support_y),
    }


def tasks() -> mk.FewShot:
    return mk.FewShot(mk.load("glyphs"), ways=WAYS, shots=1, queries=1, meta_batch=1, seed=0)


def main() -> None:
    results = {}
    for name, rule in RULES.items():
        functions = calls(rule)
        slow = {"model": functions.pop("model")}
        results[name] = milliseconds(functions, REPEATS) | milliseconds(slow, MODELS)
    store("adapting", {"milliseconds": results})


if __name__ == "__main__":
    main()
