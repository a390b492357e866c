"""The methods of processing the tasks of a batch differ only in speed."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from proofs import classification, in_float64, learner_of, regression

import meta_keras.parallel
from meta_keras import ClassPool, FewShot, MetaLearner, Sinusoids, networks
from meta_keras.parallel import SMALL, best_for, gains_from_xla, over_tasks
from meta_keras.rules import GradientDescent, ImplicitGradient, LearnedRates, Reptile

WAYS = ["map", "vectorized", "unrolled"]


def mlp():
    return keras.Sequential([keras.Input((2,)), layers.Dense(4, "tanh"), layers.Dropout(0.3), layers.Dense(1)])


def convolutional():
    inner = [layers.Conv2D(2, 3, activation="tanh"), layers.BatchNormalization(), layers.Dropout(0.3)]
    return keras.Sequential([keras.Input((4, 4, 1)), *inner, layers.Flatten(), layers.Dense(3)])


NETWORKS = {"mlp": (mlp, regression, "mse"), "convolutional": (convolutional, classification, None)}
RULES = {
    "one step": lambda: GradientDescent(0.1),
    "first order": lambda: GradientDescent(0.1, 2, first_order=True),
    "all at once": lambda: GradientDescent(
        LearnedRates(0.1, "layer-step"), 2, multi_step=5, batch_statistics="support"
    ),
    "reptile": lambda: Reptile(0.1, 2, batch_size=2),
    "implicit": lambda: ImplicitGradient(0.1, 2, conjugate_steps=2),
}


def found(way, kind, rule, floats, training=True):
    """The answers, the states, the meta-loss and its gradients."""
    keras.utils.set_random_seed(0)
    build, tasks, loss = NETWORKS[kind]
    inputs, query_y = tf.nest.map_structure(
        lambda part: tf.cast(part, floats) if part.dtype.is_floating else part, tasks(tasks=2)
    )
    learner = learner_of(build(), RULES[rule](), loss, parallel=way)
    # Unrolled eagerly, so that it is also shown that the graphs of the other two do what Python says.
    function = learner.meta_gradients if way == "unrolled" else tf.function(learner.meta_gradients)
    results = function(inputs, query_y, training=training)
    return [part.numpy() for part in tf.nest.flatten(results)]


def assert_the_same(kind, rule, floats, tolerance, training=True):
    wanted = found("map", kind, rule, floats, training)
    for way in WAYS[1:]:
        given = found(way, kind, rule, floats, training)
        assert len(given) == len(wanted)
        for one, other in zip(given, wanted, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("kind", list(NETWORKS))
def test_all_ways_come_to_the_same_in_float64(kind, rule):
    in_float64()
    assert_the_same(kind, rule, "float64", 1e-12)


@pytest.mark.parametrize(("kind", "rule"), [("mlp", "all at once"), ("convolutional", "one step")])
def test_all_ways_come_to_the_same_in_float32(kind, rule):
    assert_the_same(kind, rule, "float32", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["all at once", "reptile", "implicit"])
def test_all_ways_come_to_the_same_in_evaluation(rule):
    in_float64()
    assert_the_same("mlp", rule, "float64", 1e-12, training=False)


@pytest.mark.slow
def test_xla_comes_to_the_same_as_an_eager_step():
    def trained(**compiled):
        keras.utils.set_random_seed(0)
        dense = networks.mlp(1, input_shape=(2,), hidden=(4,), activation="tanh")  # XLA draws other dropout masks
        learner = learner_of(dense, RULES["all at once"](), "mse", "vectorized", optimizer="sgd", **compiled)
        tasks = tf.nest.map_structure(lambda part: tf.cast(part, tf.float32), regression())
        step = tf.function(learner.train_step, jit_compile=True) if learner.jit_compile else learner.train_step
        learner.optimizer.build(learner.trainable_variables)
        step(tasks)
        return [variable.numpy() for variable in learner.trainable_variables]

    for one, other in zip(trained(), trained(run_eagerly=True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rule", list(RULES))
def test_on_a_gpu_xla_compiles_loops_over_tasks_and_comes_to_the_same(rule, monkeypatch):
    monkeypatch.setattr(meta_keras.parallel, "on_gpu", lambda: True)
    images = np.random.default_rng(0).normal(size=(12, 4, 4, 1)).astype("float32")
    tasks = FewShot(ClassPool(images, np.arange(12) // 3), ways=3, shots=2, queries=1, meta_batch=2, seed=0)

    def trained(**compiled):
        keras.utils.set_random_seed(0)
        inner = [layers.Conv2D(2, 3, padding="same"), layers.BatchNormalization(), layers.MaxPooling2D()]
        network = keras.Sequential([keras.Input((4, 4, 1)), *inner, layers.Flatten(), layers.Dense(3)])
        learner = learner_of(network, RULES[rule](), None, "map", optimizer="sgd", **compiled)
        learner.fit(tasks, steps_per_epoch=3, verbose=0)
        return learner

    by_default, plain = trained(), trained(jit_compile=False)
    assert (by_default.jit_compile, plain.jit_compile) == (True, False)
    for one, other in zip(by_default.variables, plain.variables, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_xla_compiles_by_default(monkeypatch):
    convolution, lookup = layers.Conv2D(2, 3), layers.IntegerLookup(vocabulary=[1, 2])
    assert gains_from_xla("vectorized", convolution) and not gains_from_xla("map", convolution)
    assert not gains_from_xla("vectorized", convolution, lookup)
    monkeypatch.setattr(meta_keras.parallel, "on_gpu", lambda: True)
    assert gains_from_xla("map", convolution) and not gains_from_xla("unrolled", convolution)
    assert not gains_from_xla("map", keras.Sequential([lookup]))


@tf.custom_gradient
def reversed_slope(x):
    """The input itself, with a gradient that is reversed and doubled."""
    return tf.identity(x), lambda upstream: -2 * upstream


class Reversal(layers.Layer):
    def call(self, inputs):
        return reversed_slope(inputs)


class HiddenReversal(layers.Layer):
    def call(self, inputs):
        return tf.function(reversed_slope, autograph=False)(inputs)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("way", ["map", "vectorized"])
@pytest.mark.parametrize("reversal", [Reversal, HiddenReversal])
def test_a_gradient_that_a_layer_defines_for_itself_is_kept(reversal, way, compiled):
    """Vectorizing ignores the custom gradient: differentiating afterwards would use the ordinary one."""
    in_float64()
    ends = []
    for inner in ([], [reversal()]):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((2,)), layers.Dense(3), *inner, layers.Dense(1)])
        learner = learner_of(model, GradientDescent(0.1, steps=0), "mse", parallel=way)
        function = tf.function(learner.meta_gradients, jit_compile=compiled, autograph=False)
        ends.append(function(*regression())[2][1])
    for place, factor in enumerate((-2, -2, 1, 1)):
        np.testing.assert_allclose(ends[1][place], factor * ends[0][place], rtol=1e-12)


@pytest.mark.parametrize("rule", ["one step", "all at once"])
def test_the_gradient_of_the_mean_is_the_mean_of_the_gradients(rule, monkeypatch):
    keras.utils.set_random_seed(0)
    dense = networks.mlp(1, input_shape=(2,), hidden=(4,), activation="tanh")
    learner, tasks = learner_of(dense, RULES[rule](), "mse", "vectorized"), regression()
    tasks = tf.nest.map_structure(lambda part: tf.cast(part, tf.float32), tasks)
    found = []
    for differs in (lambda _: False, lambda _: True):
        monkeypatch.setattr(meta_keras.parallel, "may_override_gradient", differs)
        function = tf.function(lambda *t: learner.meta_gradients(*t)[2], jit_compile=True, autograph=False)
        found.append([part.numpy() for part in tf.nest.flatten(function(*tasks))])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_what_xla_compiles_is_written_down_in_one_piece():
    """A gradient through a function would make XLA compile again whenever the weights change, which takes seconds."""
    learner = learner_of(networks.mlp(1), GradientDescent(0.1), "mse", "vectorized")
    tasks = tf.nest.map_structure(lambda part: tf.cast(part, tf.float32), regression(shape=(1,)))
    function = tf.function(learner.meta_gradients, jit_compile=True, autograph=False)
    kinds = {operation.type for operation in function.get_concrete_function(*tasks).graph.get_operations()}
    assert "MatMul" in kinds and not any("Call" in kind for kind in kinds)


def numbered(number, row):
    """Two results that distinguish one task from another."""
    return (row * 2, tf.cast(number, tf.int64)), (tf.reduce_sum(row), [row])


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("way", WAYS)
def test_the_first_result_is_stacked_and_of_the_second_the_mean_is_taken(way, graph):
    rows = tf.constant(np.arange(12.0).reshape(4, 3))

    def through(rows):
        zeros = (tf.zeros((), tf.float64), [tf.zeros(3, tf.float64)])
        return over_tasks(numbered, (rows,), way, each=(tf.float64, tf.int64), mean=zeros)

    (doubled, numbers), (total, (row,)) = (tf.function(through) if graph else through)(rows)
    np.testing.assert_array_equal(doubled, 2 * rows)
    np.testing.assert_array_equal(numbers, range(4))
    assert float(total) == rows.numpy().sum() / 4
    np.testing.assert_array_equal(row, rows.numpy().mean(axis=0))


@pytest.mark.parametrize("way", WAYS)
def test_only_unrolled_needs_to_know_how_many_tasks_there_are(way):
    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float64)])
    def through(rows):
        zeros = (tf.zeros((), tf.float64), [tf.zeros(3, tf.float64)])
        return over_tasks(numbered, (rows,), way, each=(tf.float64, tf.int64), mean=zeros)

    rows = tf.ones((5, 3), tf.float64)
    if way == "unrolled":
        with pytest.raises(ValueError, match='"unrolled" needs to know the number of tasks in a batch; use "map"'):
            through(rows)
    else:
        assert float(through(rows)[1][0]) == 3


def nested(layer):
    return keras.Sequential([keras.Input((4, 4, 1)), keras.Sequential([layer, layers.Flatten()]), layers.Dense(2)])


@pytest.mark.parametrize(
    ("network", "best"),
    [
        (lambda: networks.mlp(1), "vectorized"),
        (mlp, "map"),
        (lambda: networks.mlp(1, hidden=[SMALL]), "map"),
        (convolutional, "map"),
        (lambda: nested(layers.Conv2D(1, 2)), "map"),
        (lambda: nested(layers.LayerNormalization()), "vectorized"),
        (lambda: keras.Sequential([keras.Input((3, 2)), layers.GRU(2)]), "map"),
        (lambda: keras.Sequential([keras.Input((3,)), layers.Embedding(9, 2), layers.Flatten()]), "vectorized"),
    ],
    ids=["mlp", "dropout", "large", "convolution", "convolution within", "norm within", "recurrent", "embedding"],
)
def test_small_networks_of_dense_layers_are_vectorized(network, best):
    assert best_for(network(), GradientDescent(0.1)) == best
    assert learner_of(network(), GradientDescent(0.1), parallel="auto").parallel == best


def test_a_rule_with_dropout_or_convolutions_of_its_own_is_mapped():
    class Own(GradientDescent):
        def __init__(self, *own):
            super().__init__(0.1)
            self.own = keras.Sequential([keras.Input((4, 4, 1)), *own])

    assert best_for(networks.mlp(1), Own(layers.Flatten(), layers.Dense(2))) == "vectorized"
    assert best_for(networks.mlp(1), Own(layers.Dropout(0.5))) == "map"
    assert best_for(networks.mlp(1), Own(layers.Conv2D(2, 2))) == "map"
    assert best_for(networks.mlp(1), GradientDescent(LearnedRates(0.1))) == "vectorized"


def test_other_ways_are_refused():
    with pytest.raises(ValueError, match="parallel must be one of .*'vectorized', 'map', 'unrolled'; got 'fast'"):
        learner_of(mlp(), GradientDescent(0.1), parallel="fast")


def test_gradients_of_biases_are_summed_within_each_task_first():
    # XLA computes sums over all examples of all tasks much more slowly on a CPU.
    learner = MetaLearner(network=networks.mlp(1, hidden=(7, 11)), rule=GradientDescent(0.1), parallel="vectorized")
    learner.compile("sgd", "mse")
    *inputs, query_y = next(iter(Sinusoids(meta_batch=4)))
    function = tf.function(
        lambda *inputs: learner.meta_gradients(inputs, query_y)[2], jit_compile=True, autograph=False
    )
    program = function.experimental_get_compiler_ir(*inputs)(stage="hlo")
    summed = re.findall(r"f32\[(?:7|11)\]\S* reduce\(.*dimensions=\{([\d,]*)\}", program)
    assert len(summed) >= 4 and set(summed) == {"0"}
