"""PureModel: a Keras model with external weights computes and updates its state exactly like the model itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from meta_keras.functional import DRAWS_PER_TASK, PureModel, Weights
from meta_keras.internals import parameters_of

ROWS = 6


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, *shape))


def sequential():
    return keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(2)]), numbers(3)


def functional():
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, activation="tanh")(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.concatenate([inputs, hidden]))), numbers(3)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = layers.Dense(4, activation="tanh"), layers.Dropout(0.5), layers.Dense(2)

    def call(self, inputs, training=False):
        return self.last(self.drop(self.first(inputs), training=training))


def subclassed():
    model = Subclassed()
    model(numbers(3))
    return model, numbers(3)


def batch_norm():
    normalise = layers.BatchNormalization(momentum=0.7)
    return keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(3, 3), normalise, layers.Flatten()]), numbers(
        4, 4, 2
    )


def dropout():
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(8), layers.Dropout(0.5), layers.GaussianNoise(0.3), layers.Dense(2)]
    ), numbers(3)


def weight_decay():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, kernel_regularizer="l2"),
            layers.Dense(2, bias_regularizer=keras.regularizers.L1L2(l1=0.01)),
        ]
    ), numbers(3)


class AddsLoss(layers.Layer):
    def call(self, inputs):
        self.add_loss(keras.ops.mean(inputs**4))
        return inputs


def activity_losses():
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, activity_regularizer="l2"), AddsLoss(), layers.Dense(2)]
    ), numbers(3)


def embedding():
    return keras.Sequential([keras.Input((5,), dtype="int32"), layers.Embedding(7, 3), layers.Flatten()]), (
        np.arange(ROWS * 5).reshape(ROWS, 5) % 6
    )


def layer_used_twice():
    inputs, twice = keras.Input((3,)), layers.Dense(3, activation="tanh")
    return keras.Model(inputs, twice(twice(inputs))), numbers(3)


class Transposed(layers.Layer):
    def __init__(self, other):
        super().__init__()
        self.kernel = other.kernel

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.kernel))


def variable_shared():
    inputs, there = keras.Input((3,)), layers.Dense(4, activation="tanh")
    hidden = there(inputs)
    return keras.Model(inputs, Transposed(there)(hidden)), numbers(3)


def frozen():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, kernel_regularizer="l2"), layers.BatchNormalization(), layers.Dense(2)]
    )
    model.layers[0].trainable = model.layers[1].trainable = False
    return model, numbers(3)


def nested():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.4)])
    return keras.Sequential([keras.Input((3,)), inner, keras.Sequential([layers.Dense(2)])]), numbers(3)


def dict_inputs():
    first, second = keras.Input((3,), name="first"), keras.Input((2,), name="second")
    outputs = {"sum": layers.Dense(2)(layers.concatenate([first, second])), "first": layers.Dense(1)(first)}
    return keras.Model({"first": first, "second": second}, outputs), {"first": numbers(3), "second": numbers(2)}


def lstm():
    return keras.Sequential([keras.Input((4, 3)), layers.LSTM(5, use_cudnn=False, dropout=0.3)]), numbers(4, 3)


MODELS = [
    sequential,
    functional,
    subclassed,
    batch_norm,
    dropout,
    weight_decay,
    activity_losses,
    embedding,
    layer_used_twice,
    variable_shared,
    frozen,
    nested,
    dict_inputs,
    lstm,
]
POLICIES = [("float64", 1e-12), ("mixed_bfloat16", 3e-2)]


def made(build, policy="float64"):
    """A model, its pure form and its inputs, all in the same precision."""
    floats = "float32" if policy.startswith("mixed") else policy
    keras.config.set_floatx(floats)
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(1)
    model, inputs = build()
    return (
        model,
        PureModel(model),
        tf.nest.map_structure(lambda x: tf.constant(x, floats if x.dtype.kind == "f" else "int32"), inputs),
    )


def values(structure):
    return [tf.convert_to_tensor(value).numpy().copy() for value in tf.nest.flatten(structure)]


def is_seed(variable):
    return "seed_generator" in variable.path


def assert_close(given, wanted, tolerance=1e-12):
    given, wanted = values(given), values(wanted)
    assert len(given) == len(wanted)
    for one, other in zip(given, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=tolerance, atol=tolerance)


def changed(weights):
    """Other weights of the same kind; seeds stay."""
    return tf.nest.map_structure(lambda w: w * 1.25 + 0.125 if w.dtype.is_floating else w, weights)


def squared(outputs):
    return tf.add_n([tf.reduce_mean(tf.square(output)) for output in tf.nest.flatten(outputs)])


def gradients(tape, target, sources):
    return [tf.convert_to_tensor(gradient) for gradient in tape.gradient(target, sources)]


def seeds_of(model, state):
    return [s for v, s in zip(model.non_trainable_variables, values(state), strict=True) if is_seed(v)]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(("policy", "tolerance"), POLICIES, ids=["float64", "bfloat16"])
@pytest.mark.parametrize("build", MODELS)
def test_with_its_own_weights_it_does_what_the_model_does_and_leaves_the_model_alone(
    build, policy, tolerance, graph, training
):
    model, pure, inputs = made(build, policy)
    before, losses_before = values(model.variables), values(model.losses)

    def answer(weights):
        return *pure(weights, inputs, training=training), pure.penalties(weights)

    outputs, weights, losses, penalties = (tf.function(answer) if graph else answer)(pure.weights())
    for now, then in zip(values(model.variables) + values(model.losses), before + losses_before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert_close(outputs, model(inputs, training=training), tolerance)
    assert_close([*losses, *penalties], model.losses, tolerance)
    assert_close(weights, pure.weights(), tolerance)


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("build", MODELS)
def test_gradients_for_borrowed_weights_are_those_of_the_variables(build, graph):
    model, pure, inputs = made(build)

    def borrowed(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights.parameters)
            outcome = pure(weights, inputs, training=True)
            total = squared([outcome.outputs, *outcome.losses, *pure.penalties(weights)])
        return gradients(tape, total, weights.parameters)

    given = (tf.function(borrowed) if graph else borrowed)(pure.weights())
    with tf.GradientTape() as tape:
        total = squared([model(inputs, training=True), *model.losses])
    wanted = gradients(tape, total, [variable.value for variable in model.trainable_variables])
    assert_close(given, wanted, 1e-10)
    assert any(np.abs(gradient).max() > 0 for gradient in values(wanted))


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("build", MODELS)
def test_other_weights_give_what_a_second_model_gives_that_owns_them(build, training):
    _, pure, inputs = made(build)
    twin, twin_pure, _ = made(build)
    borrowed = changed(pure.weights())
    given = pure(borrowed, inputs, training=training)
    with_own = values(twin(inputs))[0]
    twin_variables = [*twin.trainable_variables, *twin.non_trainable_variables]
    for variable, value in zip(twin_variables, [*borrowed.parameters, *borrowed.state], strict=True):
        variable.assign(value)
    assert_close(given.outputs, twin(inputs, training=training), 1e-10)
    assert_close([*given.losses, *pure.penalties(borrowed)], twin.losses, 1e-10)
    assert_close(given.weights, twin_pure.weights(), 1e-10)
    assert not np.allclose(values(given.outputs)[0], with_own)


def test_gradients_reach_the_variables_through_weights_read_inside_a_tape():
    model, pure, inputs = made(functional)
    with tf.GradientTape() as tape:
        total = squared(pure(pure.weights(), inputs).outputs)
    given = gradients(tape, total, [variable.value for variable in model.trainable_variables])
    with tf.GradientTape() as tape:
        total = squared(model(inputs))
    assert_close(given, gradients(tape, total, [variable.value for variable in model.trainable_variables]))


@pytest.mark.parametrize("build", [dropout, nested, subclassed, lstm])
def test_a_state_carried_on_draws_a_new_mask_and_a_dropped_one_the_same_again(build):
    _, pure, inputs = made(build)
    start = pure.weights()
    first = pure(start, inputs, training=True)
    again = pure(start, inputs, training=True)
    second = pure(start._replace(state=first.weights.state), inputs, training=True)
    second_again = pure(start._replace(state=first.weights.state), inputs, training=True)
    assert_close(again.outputs, first.outputs, 0)
    assert_close(second_again.outputs, second.outputs, 0)
    assert not np.allclose(first.outputs, second.outputs)


def test_the_trainable_weights_come_back_as_they_were_given():
    _, pure, inputs = made(batch_norm)
    borrowed = changed(pure.weights())
    outcome = pure(borrowed, inputs, training=True)
    assert all(back is given for back, given in zip(outcome.weights.parameters, borrowed.parameters, strict=True))


def test_parameters_are_the_trainable_variables_in_order():
    model, pure, _ = made(nested)
    assert [v.path for v in pure.parameters] == [variable.path for variable in model.trainable_variables]
    assert len(pure.parameters) == len(pure.weights().parameters) == 6


def two_steps(pure, weights, support, query, rate):
    """The query loss after two steps of gradient descent on the support set."""
    for _ in range(2):
        with tf.GradientTape() as tape:
            tape.watch(weights.parameters)
            outcome = pure(weights, support[0], training=True)
            loss = tf.reduce_mean(tf.square(outcome.outputs - support[1]))
        steps = tape.gradient(loss, weights.parameters)
        moved = tuple(w - rate * step for w, step in zip(weights.parameters, steps, strict=True))
        weights = Weights(moved, outcome.weights.state)
    return tf.reduce_mean(tf.square(pure(weights, query[0], training=True).outputs - query[1]))


def gradient_through_two_steps(pure, support, query, rate, graph):
    def gradient(weights):
        with tf.GradientTape() as tape:
            tape.watch(weights.parameters)
            loss = two_steps(pure, weights, support, query, rate)
        return tape.gradient(loss, weights.parameters)

    return (tf.function(gradient) if graph else gradient)(pure.weights())


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_the_gradient_through_two_steps_of_descent_is_the_one_derived_by_hand(graph):
    model, pure, _ = made(lambda: (keras.Sequential([keras.Input((1,)), layers.Dense(1)]), numbers(1)))
    (a, b), (x, y), (u, v), rate = (0.7, -0.3), (1.5, 2.0), (-0.4, 1.0), 0.05
    model.set_weights([np.array([[a]]), np.array([b])])
    support, query = [(tf.constant([[p]], tf.float64), tf.constant([[q]], tf.float64)) for p, q in ((x, y), (u, v))]
    given = gradient_through_two_steps(pure, support, query, rate, graph)
    # A step on (ax + b - y)^2 shrinks its residual r by k, and moves (a, b) along (x, 1).
    r, k = a * x + b - y, 1 - 2 * rate * (x * x + 1)
    along = 2 * rate * (1 + k) * (x * u + 1)
    residual = a * u + b - v - r * along
    np.testing.assert_allclose(
        np.concatenate([g.numpy().ravel() for g in given]),
        [2 * residual * (u - along * x), 2 * residual * (1 - along)],
        rtol=1e-12,
    )


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(
    "normalise",
    [layers.BatchNormalization, lambda: layers.LayerNormalization([1, 2, 3]), lambda: layers.GroupNormalization(1)],
    ids=["batch", "layer", "group"],
)
def test_the_gradient_through_two_steps_agrees_with_central_differences(normalise, graph):
    def build():
        return keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                layers.Conv2D(2, 3, activation="tanh"),
                normalise(),
                layers.Flatten(),
                layers.Dense(1),
            ]
        ), numbers(4, 4, 1)

    _, pure, inputs = made(build)
    support, query = (inputs, tf.constant(numbers(1, seed=1))), (-inputs, tf.constant(numbers(1, seed=2)))
    given = gradient_through_two_steps(pure, support, query, 0.1, graph)
    start, generator = pure.weights(), np.random.default_rng(3)
    for _ in range(2):
        direction = [generator.normal(size=w.shape) for w in start.parameters]

        def shifted(by, direction=direction):
            moved = tuple(w + by * d for w, d in zip(start.parameters, direction, strict=True))
            return float(two_steps(pure, start._replace(parameters=moved), support, query, 0.1))

        slope = (shifted(1e-5) - shifted(-1e-5)) / 2e-5
        np.testing.assert_allclose(
            sum(np.sum(g * d) for g, d in zip(given, direction, strict=True)), slope, rtol=1e-6, atol=1e-8
        )


def test_fork_gives_every_task_a_mask_of_its_own_and_leaves_floats_alone():
    _, pure, inputs = made(nested)
    start = pure.weights()
    forks = [pure.fork(start, task) for task in (0, 1, 2, 40_000)]
    masks = [pure(fork, inputs, training=True).outputs.numpy() for fork in forks]
    assert_close(forks[0], start, 0)
    for one in range(4):
        assert all(not np.allclose(masks[one], masks[other]) for other in range(one))
        for there, here in zip(values(forks[one]), values(start), strict=True):
            assert here.dtype.kind == "i" or np.array_equal(there, here)


def test_forks_are_as_far_apart_as_the_draws_that_a_task_may_make():
    model, pure, _ = made(dropout)
    here, there = (seeds_of(model, pure.fork(pure.weights(), task).state) for task in (3, 4))
    for one, other in zip(here, there, strict=True):
        assert (other - one).tolist() == [0, DRAWS_PER_TASK]


def test_carrying_on_averages_floats_and_moves_seeds_past_every_task():
    model, pure, inputs = made(nested)
    start, tasks = pure.weights(), 3
    after = [pure(pure.fork(start, task), inputs * (task + 1.0), training=True).weights for task in range(tasks)]
    states = [pure.running_values(weights) for weights in after]
    pure.carry_on([tf.stack(parts) for parts in zip(*states, strict=True)])
    together_in = [variable.numpy() for variable in pure.running]
    for variable, together, *apart in zip(pure.running, together_in, *states, strict=True):
        if is_seed(variable):
            assert all(int(together[1]) >= int(one[1]) + DRAWS_PER_TASK for one in apart)
        else:
            np.testing.assert_allclose(together, np.mean(apart, axis=0), rtol=1e-12)
            assert not np.allclose(apart[0], apart[1])


def test_what_all_tasks_agree_on_stays_exactly_as_it_is():
    _, pure, _ = made(batch_norm, "float32")
    state = [variable.numpy() + np.float32(0.1) for variable in pure.running]
    pure.carry_on([tf.stack([s] * 25) for s in state])
    for variable, one in zip(pure.running, state, strict=True):
        np.testing.assert_array_equal(variable, one)


def test_frozen_weights_are_state_that_no_call_changes():
    model, pure, _ = made(frozen, "float32")
    assert len(pure.state) == len(model.non_trainable_variables) > len(pure.running)
    assert not any(variable is parameter for variable in pure.running for parameter in parameters_of(model))


def test_frozen_variables_that_may_adapt_are_parameters():
    model, _, inputs = made(frozen, "float32")
    extra = [variable for variable in parameters_of(model) if not variable.trainable]
    pure = PureModel(model, adaptable=[*extra, *model.trainable_variables[:1]])
    assert [id(v) for v in pure.parameters] == [id(v) for v in [*model.trainable_variables, *extra]]
    assert len(pure.parameters) + len(pure.state) == len(model.variables)
    weights = pure.weights()
    moved = weights._replace(parameters=tuple(2 * w for w in weights.parameters))
    assert not np.allclose(pure(moved, inputs).outputs, pure(weights, inputs).outputs)


def test_an_unbuilt_model_is_told_how_to_be_built():
    with pytest.raises(ValueError, match=r"'bare' has no weights yet.*keras\.Input"):
        PureModel(keras.Sequential([layers.Dense(1)], name="bare"))


@pytest.mark.parametrize("thing", ["a model", None, 3, keras.Sequential])
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(TypeError, match="model must be a Keras model; got"):
        PureModel(thing)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w._replace(parameters=w.parameters[:-1]), "has 4 tensors of parameters; 3 were given"),
        (lambda w: w._replace(state=()), "has 2 tensors of state; 0 were given"),
        (
            lambda w: w._replace(parameters=(tf.zeros((2, 2)), *w.parameters[1:])),
            r"conv2d\S*/kernel' has shape \(3, 3, 2, 3\).*has shape \(2, 2\)",
        ),
        (
            lambda w: w._replace(state=(w.state[0], tf.zeros(4))),
            r"moving_variance' has shape \(3,\).*has shape \(4,\)",
        ),
    ],
    ids=["too few", "no state", "wrong shape", "wrong state"],
)
def test_weights_that_do_not_fit_are_told_apart_by_name(change, message):
    _, pure, inputs = made(batch_norm)
    with pytest.raises(ValueError, match=message):
        pure(change(pure.weights()), inputs)


class Decorated(layers.Layer):
    @tf.function
    def call(self, inputs):
        return inputs * 2


@pytest.mark.parametrize(
    "model",
    [
        lambda: keras.Sequential([keras.Input((2,)), Decorated(name="wrapped")]),
        lambda: keras.Sequential([keras.Input((2,)), keras.Sequential([Decorated(name="wrapped")])]),
    ],
    ids=["in the model", "in a model within"],
)
def test_a_call_wrapped_in_tf_function_is_refused(model):
    with pytest.raises(ValueError, match=r"'wrapped' is wrapped in tf\.function"):
        PureModel(model())


class Noise(layers.Layer):
    """Adds noise, by default without a seed, which Keras would draw from a generator of the whole process."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seed)


def test_draws_without_a_seed_would_be_the_same_in_every_task_so_they_are_refused():
    pure = PureModel(keras.Sequential([keras.Input((2,)), Noise()]))
    for call in (pure, tf.function(pure, autograph=False)):
        with pytest.raises(ValueError, match="draws random numbers without a seed.*SeedGenerator"):
            call(pure.weights(), tf.zeros((3, 2)))


def test_draws_from_a_generator_of_the_layer_differ_from_task_to_task():
    pure = PureModel(keras.Sequential([keras.Input((2,)), Noise(keras.random.SeedGenerator(1))]))
    start, x = pure.weights(), tf.zeros((3, 2))
    answers = [pure(pure.fork(start, task), x).outputs.numpy() for task in range(3)]
    assert not any(np.allclose(answers[i], answers[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize("weights", [None, (), ((), ()), [1, 2], "weights", 3])
def test_weights_must_be_weights(weights):
    pure = PureModel(keras.Sequential([keras.Input((2,)), layers.Dense(1)]))
    for use in (
        lambda: pure(weights, tf.zeros((1, 2))),
        lambda: pure.fork(weights, 0),
        lambda: pure.penalties(weights),
    ):
        with pytest.raises(TypeError, match="weights must be Weights, as PureModel.weights"):
            use()
