"""Six types of methods fit the interface of rules unchanged: each is a sketch of at most 30 lines, and it learns."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras import ClassPool, FewShot, MetaLearner, Sinusoids, evaluate, networks
from meta_keras.functional import Outcome
from meta_keras.rules import Adaptation, GradientDescent, Reptile, Rule, Update


class UpdateNetwork(Update):
    """A stateful per-parameter update network as the inner step (D3's PNML, in small)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cell = keras.Sequential([keras.Input((3,)), layers.Dense(8, "tanh"), layers.Dense(2)])

    def init(self, parameters):
        return [tf.zeros_like(one) for one in parameters]  # momentum

    def update(self, gradients, state, parameters, step):
        state = [0.9 * m + 0.1 * g for m, g in zip(state, gradients, strict=True)]
        return list(map(self.step, gradients, state, parameters)), state

    def step(self, gradient, momentum, parameter):
        found = self.cell(tf.reshape(tf.stack([gradient, momentum, parameter], axis=-1), (-1, 3)))
        direction, magnitude = tf.unstack(tf.reshape(found, (*gradient.shape, 2)), axis=-1)
        return -0.05 * gradient + 0.01 * direction * tf.exp(0.01 * magnitude)


class WeightGenerator(Rule):
    """A network that generates the last layer of another network, with its own dropout and batch norm."""

    def prepare(self, network):
        self.shapes = [tuple(v.shape) for v in network.parameters[-2:]]
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.sizes, width = sizes, network.model.input_shape[-1] + 1
        self.reader = keras.Sequential([keras.Input((width,)), layers.Dense(32, "relu"), layers.BatchNormalization()])
        self.writer = keras.Sequential([keras.Input((32,)), layers.Dropout(0.5), layers.Dense(sum(sizes))])
        self.built = True

    def meta_variables(self, network):
        return network.parameters[:-2]  # what is generated is not trained

    def adapt(self, network, weights, x, y, context):
        read = self.reader(tf.concat([x, y], axis=-1), training=context.training)
        written = self.writer(tf.reduce_mean(read, axis=0, keepdims=True), training=context.training)[0]
        made = [tf.reshape(p, s) for p, s in zip(tf.split(written, self.sizes), self.shapes, strict=True)]
        return Adaptation(weights._replace(parameters=(*weights.parameters[:-2], *made)))

    def predict(self, network, adapted, x, context):
        return self.run(network, adapted.weights, x, context, queries=True)


class LearnedLoss(GradientDescent):
    """A learned inner loss."""

    def prepare(self, network):
        super().prepare(network)
        self.critic = keras.Sequential([keras.Input((2,)), layers.Dense(8, "tanh"), layers.Dense(1, use_bias=False)])

    def support_loss(self, y, answers, context):
        learned = tf.reduce_mean(self.critic(tf.concat([y, answers], axis=-1)))
        return context.loss(y, answers) + 0.1 * learned


class Ridge(Rule):
    """Ridge regression on the embeddings, in closed form (R2-D2: Bertinetto et al., 2019)."""

    def prepare(self, network):
        self.log_strength = self.add_weight(shape=(), initializer="zeros", name="log_strength")
        self.scale = self.add_weight(shape=(), initializer=keras.initializers.Constant(10.0), name="scale")
        self.built = True

    def answer_activation(self, network):
        return None

    def adapt(self, network, weights, x, y, context):
        outcome = self.run(network, weights, x, context)
        z = outcome.outputs
        gram = z @ tf.transpose(z) + tf.exp(self.log_strength.value) * tf.eye(z.shape[0])
        solution = tf.transpose(z) @ tf.linalg.solve(gram, tf.one_hot(y, context.ways))
        return Adaptation(outcome.weights, memory=solution, losses=outcome.losses)

    def predict(self, network, adapted, x, context):
        outcome = self.run(network, adapted.weights, x, context, queries=True)
        return outcome._replace(outputs=self.scale * (outcome.outputs @ adapted.memory))


class Matching(Rule):
    """Attention over the support set, which returns log-probabilities (Vinyals et al., 2016)."""

    needs_every_class = True

    def answer_activation(self, network):
        return "log_softmax"

    def adapt(self, network, weights, x, y, context):
        outcome = self.run(network, weights, x, context)
        memory = tf.math.l2_normalize(outcome.outputs, axis=-1), tf.one_hot(y, context.ways)
        return Adaptation(outcome.weights, memory, outcome.losses)

    def predict(self, network, adapted, x, context):
        embedded, labels = adapted.memory
        outcome = self.run(network, adapted.weights, x, context, queries=True)
        similarity = tf.math.l2_normalize(outcome.outputs, axis=-1) @ tf.transpose(embedded)
        return outcome._replace(outputs=tf.math.log(tf.nn.softmax(10 * similarity) @ labels + 1e-7))


class Momentum(Update):
    """Gradient descent with momentum inside."""

    def init(self, parameters):
        return [tf.zeros_like(one) for one in parameters]

    def update(self, gradients, state, parameters, step):
        state = [0.5 * velocity - 0.02 * g for velocity, g in zip(state, gradients, strict=True)]
        return state, state


class Adam(Update):
    """Adam inside."""

    def init(self, parameters):
        zeros = [tf.zeros_like(one) for one in parameters]
        return zeros, zeros

    def update(self, gradients, state, parameters, step):
        means = [0.9 * m + 0.1 * g for m, g in zip(state[0], gradients, strict=True)]
        squares = [0.99 * s + 0.01 * g * g for s, g in zip(state[1], gradients, strict=True)]
        t = tf.cast(step.number, means[0].dtype) + 1
        rate = 0.02 * tf.sqrt(1 - 0.99**t) / (1 - 0.9**t)
        return [-rate * m / (tf.sqrt(s + 1e-8)) for m, s in zip(means, squares, strict=True)], (means, squares)


REGRESSIONS = {
    "update network": lambda: GradientDescent(UpdateNetwork(), steps=2, evaluation_steps=3),
    "weight generator": WeightGenerator,
    "learned loss": lambda: LearnedLoss(0.02, steps=2),
    "momentum": lambda: GradientDescent(Momentum(), steps=2, evaluation_steps=4),
    "adam": lambda: GradientDescent(Adam(), steps=2, evaluation_steps=4),
}
SKETCHES = (UpdateNetwork, WeightGenerator, LearnedLoss, Ridge, Matching, Momentum, Adam)


@pytest.mark.parametrize("sketch", SKETCHES)
def test_a_sketch_has_at_most_30_lines(sketch):
    assert len(inspect.getsource(sketch).splitlines()) <= 30


@functools.cache
def curves(**more):
    return Sinusoids(shots=5, queries=5, meta_batch=8, amplitude=(1, 2), phase=(0, 1), x_range=(-2, 2), **more)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REGRESSIONS)
def test_a_regression_rule_learns_and_trains_all_that_it_should(kind):
    learner = MetaLearner(network=networks.mlp(1, hidden=(16,), activation="tanh"), rule=REGRESSIONS[kind]())
    learner.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=kind == "momentum")  # compiling takes longest
    before = [v.numpy() for v in learner.trainable_variables]
    error = learner.evaluate(curves(seed=1), steps=8, verbose=0)
    learner.fit(curves(), steps_per_epoch=120, verbose=0)
    assert learner.evaluate(curves(seed=1), steps=8, verbose=0) < 0.8 * error
    moved = [not np.array_equal(v.numpy(), b) for v, b in zip(learner.trainable_variables, before, strict=True)]
    assert all(moved), [v.path for v, m in zip(learner.trainable_variables, moved, strict=True) if not m]


@functools.cache
def clusters(seed=0):
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(20, 1, 4))
    points = np.concatenate(
        [centers + 0.4 * generator.normal(size=(20, 10, 4)), 3 * generator.normal(size=(20, 10, 4))], -1
    )
    return ClassPool(points.reshape(200, 8).astype("float32"), np.repeat(np.arange(20), 10))


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Ridge, Matching])
@pytest.mark.parametrize("parallel", ["vectorized", "map"])
def test_a_metric_rule_learns_in_every_way_through_the_tasks(rule, parallel):
    learner = MetaLearner(network=networks.mlp(8, input_shape=(8,), hidden=(16,)), rule=rule(), parallel=parallel)
    learner.compile(keras.optimizers.Adam(0.01))
    test = FewShot(clusters(1), ways=4, shots=2, queries=3)
    before = evaluate(learner, test, 40).mean
    learner.fit(FewShot(clusters(), ways=5, shots=2, queries=3), steps_per_epoch=100, verbose=0)
    assert evaluate(learner, test, 40).mean > before + 0.05
    assert learner.predictor(np.zeros((4, 8)), [0, 1, 2, 3]).predict(np.zeros((2, 8))).shape == (2, 4)


def test_the_state_of_layers_within_a_rule_is_forked_and_joined_over_tasks():
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=WeightGenerator())
    learner.compile("sgd", "mse")
    moving = learner.rule.reader.layers[-1].moving_mean
    *inputs, _ = next(iter(curves()))
    same = tuple(tf.repeat(part[:1], 4, axis=0) for part in inputs)
    first, second = (learner(same, training=True).numpy() for _ in range(2))
    answers = [*first, *second]  # dropout within the rule: every task and every call has its own mask
    assert all(not np.allclose(answers[i], answers[j]) for i in range(8) for j in range(i))
    assert learner.parallel == "map" and moving.numpy().any()
    before = moving.numpy()
    still = learner(same, training=False).numpy()
    np.testing.assert_allclose(still, np.repeat(still[:1], 4, axis=0), rtol=1e-5)
    np.testing.assert_array_equal(moving, before)


def test_what_is_generated_is_not_trained_by_the_outer_loop():
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=WeightGenerator())
    learner.compile("adam", "mse")
    head = learner.network.layers[-1].get_weights()
    learner.fit(curves(), steps_per_epoch=3, verbose=0)
    for now, then in zip(learner.network.layers[-1].get_weights(), head, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not any(v is w for v in learner.trainable_variables for w in learner.network.layers[-1].weights)


def test_a_frozen_layer_can_adapt_and_is_not_trained_by_the_outer_loop():
    network = networks.mlp(1, hidden=(4,))
    network.layers[-1].trainable = False
    learner = MetaLearner(network=network, rule=GradientDescent(0.05, layers="head"))
    learner.compile("sgd", "mse")
    *inputs, _ = next(iter(curves()))
    head = network.layers[-1].get_weights()
    assert not np.allclose(learner(tuple(inputs))[0], network(inputs[2][0]), atol=1e-4)
    learner.fit(curves(), steps_per_epoch=2, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(network.layers[-1].get_weights(), head, strict=True))
    expert = learner.adapt(inputs[0][0], inputs[1][0])
    assert not np.allclose(expert.layers[-1].get_weights()[0], head[0])


def test_weight_regularizers_of_a_rule_count_in_the_meta_loss():
    class Decayed(GradientDescent):
        def prepare(self, network):
            super().prepare(network)
            self.extra = self.add_weight(shape=(2,), initializer="ones", regularizer=keras.regularizers.L2(0.5))

    losses = []
    for rule in (GradientDescent(0.01), Decayed(0.01)):
        keras.utils.set_random_seed(1)
        learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=rule)
        learner.compile("sgd", "mse")
        losses.append(learner.evaluate(curves(), steps=1, verbose=0))
    assert losses[1] - losses[0] == pytest.approx(1.0, rel=1e-4)


def test_a_rule_returns_an_outcome_and_an_adaptation():
    learner = MetaLearner(network=networks.mlp(2, hidden=()), rule=Ridge())
    predictor = learner.predictor([[0.0], [1.0]], [0, 1])
    assert isinstance(predictor.adaptation, Adaptation) and Outcome._fields == ("outputs", "weights", "losses")


def test_a_rule_with_a_memory_makes_no_expert_that_would_forget_it():
    learner = MetaLearner(network=networks.mlp(8, input_shape=(8,), hidden=()), rule=Ridge())
    with pytest.raises(ValueError, match="Ridge answers with more than the network's weights.*Use learner.predictor"):
        learner.adapt(np.eye(4, 8), [0, 1, 2, 3])


class OnSupport:
    """A weight that only the inner steps use."""

    def prepare(self, network):
        super().prepare(network)
        self.factor = self.add_weight(shape=(), initializer="ones", name="factor")

    def support_loss(self, y, answers, context):
        return self.factor.value * context.loss(y, answers)


class OnSupportOfDescent(OnSupport, GradientDescent):
    pass


class OnSupportOfReptile(OnSupport, Reptile):
    pass


@pytest.mark.parametrize("kind", ["first order", "reptile"])
def test_what_nothing_would_train_is_an_error(kind):
    rule = OnSupportOfReptile(0.01, 2) if kind == "reptile" else OnSupportOfDescent(0.01, first_order=True)
    learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=rule)
    learner.compile("sgd", "mse")
    with pytest.raises(ValueError, match="meta-loss does not depend on .*factor of the rule"):
        learner.fit(curves(), steps_per_epoch=1, verbose=0)


def test_a_rule_with_weights_belongs_to_one_learner():
    rule = Ridge()
    MetaLearner(network=networks.mlp(2), rule=rule)
    with pytest.raises(ValueError, match="already belong to another learner. Create a new rule"):
        MetaLearner(network=networks.mlp(2), rule=rule)


def test_an_update_is_told_the_step_the_loss_and_whether_it_trains():
    class Watching(Update):
        seen = []

        def update(self, gradients, state, parameters, step):
            self.seen.append((step.number, step.training, step.loss.shape))
            return [-0.01 * g for g in gradients], state

    learner = MetaLearner(
        network=networks.mlp(1, hidden=(4,)), rule=GradientDescent(Watching(), 2), parallel="unrolled"
    )
    learner.compile("sgd", "mse")
    *inputs, query_y = (part[:1] for part in next(iter(curves())))
    learner.meta_gradients(tuple(inputs), query_y)
    learner.adapt(inputs[0][0], inputs[1][0])
    assert Watching.seen == [(0, True, ()), (1, True, ()), (0, False, ()), (1, False, ())]


@pytest.mark.parametrize("steps", [1, 3])
def test_losses_that_layers_add_within_steps_count_in_a_loop_too(steps):
    class Adding(Update):
        def update(self, gradients, state, parameters, step):
            self.add_loss(tf.constant(1.0))
            return [0 * g for g in gradients], state

    found = []
    for rule in (GradientDescent(0.0001, evaluation_steps=0), GradientDescent(Adding(), evaluation_steps=steps)):
        keras.utils.set_random_seed(0)
        learner = MetaLearner(network=networks.mlp(1, hidden=(4,)), rule=rule)
        learner.compile("sgd", "mse")
        found.append(learner.evaluate(curves(), steps=1, verbose=0))
    assert found[1] - found[0] == pytest.approx(steps, rel=1e-4)
