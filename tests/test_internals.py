"""Private names of Keras and TensorFlow do what the library relies on; a failure shows what an update has changed."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from meta_keras import Sinusoids, internals


class Nested(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.more = layers.Dense(2), [layers.Dropout(0.5)]

    def call(self, inputs):
        return self.more[0](self.hidden(inputs))


def functional():
    inputs = keras.Input((3,), name="x")
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.ReLU(name="relu")(inputs)))


def test_all_layers_are_found_also_in_attributes_and_lists():
    model = Nested()
    assert internals.all_layers(model) == [model, model.hidden, *model.more]
    assert internals.direct_sublayers(model) == [model.hidden, *model.more]
    assert internals.direct_sublayers(keras.Sequential([functional()]))[0].name.startswith("functional")


def test_parameters_are_what_can_train_even_if_it_is_frozen():
    norm = layers.BatchNormalization()
    norm.build((None, 3))
    norm.trainable = False
    assert norm.trainable_variables == []
    assert [v.name for v in internals.parameters_of(norm)] == ["gamma", "beta"]
    shared = functional()
    assert len(internals.parameters_of(keras.Sequential([keras.Input((3,)), shared]))) == 2


def test_a_seed_is_recognized_and_counts_draws():
    dropout = layers.Dropout(0.5)
    dropout.build((None, 4))
    (seed,) = [v for v in dropout.variables if internals.is_seed(v)]
    before = seed.numpy()
    dropout(tf.ones((1, 4)), training=True)
    np.testing.assert_array_equal(seed.numpy() - before, [0, 1])  # what `fork` relies on: the counter comes second
    assert not any(map(internals.is_seed, functional().variables))


def test_the_calls_of_a_functional_model_are_known():
    model = functional()
    call = internals.call_of(model.outputs[0])
    assert call.operation.name == "head" and not call.is_input
    before = internals.call_of(call.input_tensors[0])
    assert before.operation.name == "relu" and before.output_tensors[0] is call.input_tensors[0]
    assert internals.call_of(before.input_tensors[0]).is_input


def test_the_calls_of_a_model_are_listed_in_order_without_those_of_other_models():
    inputs, dense = keras.Input((3,)), layers.Dense(3, name="shared")
    first = keras.Model(inputs, layers.ReLU(name="relu")(dense(inputs)))
    second = keras.Model(inputs, dense(dense(inputs)) + inputs)
    assert [call.operation.name for call in internals.calls_of(first)][1:] == ["shared", "relu"]
    found = internals.calls_of(second)
    assert [call.operation.name for call in found][1:-1] == ["shared", "shared"]
    assert {id(tensor) for tensor in found[-1].input_tensors} == {id(inputs), id(found[2].output_tensors[0])}


def test_losses_that_layers_add_are_told_from_penalties_of_weights():
    regularizers = {
        "activity_regularizer": keras.regularizers.L2(1.0),
        "kernel_regularizer": keras.regularizers.L2(5.0),
    }
    dense = layers.Dense(1, kernel_initializer="ones", **regularizers)
    model = keras.Sequential([keras.Input((2,)), keras.Sequential([dense])])
    model(tf.ones((1, 2)))
    assert [float(loss) for loss in internals.added_losses(model)] == [4.0]
    assert [float(loss) for loss in model.losses] == [4.0, 10.0]


def test_a_loss_is_known_by_its_function_whatever_its_name():
    named = keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="ce")
    assert internals.function_of(named) is keras.losses.sparse_categorical_crossentropy
    assert internals.function_of(keras.losses.Huber(name="h")) is keras.losses.huber
    assert internals.function_of(keras.losses.Loss()) is None


@pytest.mark.parametrize("kind", ["one", "list", "dict"])
def test_inputs_are_as_the_model_takes_them(kind):
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    given = {"one": a, "list": [a, b], "dict": {"a": a, "b": b}}[kind]
    model = keras.Model(given, layers.Add()([a, b]) if kind != "one" else layers.ReLU()(a))
    found = internals.input_structure(model)
    assert type(found) is type(given) or kind == "one"
    assert len(keras.tree.flatten(found)) == len(keras.tree.flatten(given))


def test_the_outputs_of_a_model_have_its_structure():
    given = keras.Input((2,))
    pair = {"a": layers.Dense(1)(given), "b": layers.Dense(3)(given)}
    assert {name: one.shape for name, one in internals.output_structure(keras.Model(given, pair)).items()} == {
        "a": (None, 1),
        "b": (None, 3),
    }
    assert internals.output_structure(keras.Sequential([given, layers.Dense(4)])).shape == (None, 4)


def test_a_dataset_can_be_built_on_the_tensor_of_another():
    tasks = Sinusoids(shots=2, meta_batch=1)
    assert internals.variant_tensor(tasks).dtype == tf.variant
    assert isinstance(tasks, tf.data.Dataset) and next(iter(tasks)).support_x.shape == (1, 2, 1)


@pytest.mark.parametrize("calls", [{}, {"num_parallel_calls": 2}])
def test_the_constants_of_a_mapped_function_are_the_same_for_every_trace(calls):
    def constants(add):
        return internals.constants_of_map(
            tf.data.Dataset.range(2).map(lambda x: tf.cond(x > 0, add(x), lambda: x), **calls)
        )

    assert constants(lambda x: lambda: x + 5) == constants(lambda x: lambda: x + 5)
    assert constants(lambda x: lambda: x + 5) != constants(lambda x: lambda: x + 6)


def test_graphs_know_the_graphs_around_them():
    assert list(internals.enclosing_graphs()) == []
    depths = []

    @tf.function
    def outer(x):
        depths.append(len(list(internals.enclosing_graphs())))

        def body(n):
            depths.append(len(list(internals.enclosing_graphs())))
            return (n + 1,)

        return tf.while_loop(lambda n: n < 2, body, (x,))

    outer(tf.constant(0))
    assert depths[0] >= 1 and depths[-1] > depths[0]


def test_custom_gradients_and_functions_are_seen_among_operations():
    @tf.custom_gradient
    def turned(x):
        return tf.identity(x), lambda upstream: -upstream

    def found(function):
        with tf.Graph().as_default():
            function(tf.constant(1.0))
            return any(map(internals.may_override_gradient, internals.operations_of_default_graph()))

    assert not found(lambda x: tf.exp(x))
    assert found(turned)
    assert found(tf.function(turned))


def test_webp_is_read_if_it_is_said_to_be():
    stored = io.BytesIO()
    Image.fromarray(np.full((2, 3, 3), 90, np.uint8)).save(stored, "WEBP", lossless=True)
    if internals.READS_WEBP:
        assert (tf.io.decode_image(stored.getvalue(), expand_animations=False).numpy() == 90).all()
    else:
        with pytest.raises(tf.errors.InvalidArgumentError):
            tf.io.decode_image(stored.getvalue())


def test_an_optimizer_knows_which_variables_decay():
    kernel, bias = (keras.Variable([1.0], name=name) for name in ("kernel", "bias"))
    optimizer = keras.optimizers.AdamW()
    assert internals.decays(optimizer, bias)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    other = keras.optimizers.AdamW()
    internals.exclude_as(other, optimizer)
    for one in (optimizer, other):
        assert internals.decays(one, kernel) and not internals.decays(one, bias)
    scaled = keras.optimizers.LossScaleOptimizer(optimizer)
    copy = scaled.from_config(scaled.get_config())
    internals.exclude_as(copy, scaled)
    assert internals.decays(copy.inner_optimizer, kernel) and not internals.decays(copy.inner_optimizer, bias)


def test_an_optimizer_knows_the_number_of_a_variable():
    optimizer, variables = keras.optimizers.SGD(), [keras.Variable(float(n)) for n in range(3)]
    optimizer.build(variables)
    assert [internals.number_of(optimizer, one) for one in (variables[2], variables[0].value)] == [2, 0]


def test_what_several_replicas_need_of_a_model_and_its_optimizer():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = functional()
        model.compile("sgd", "mse")
    assert internals.own_strategy(model) is strategy and internals.own_strategy(model) is None
    assert model.distribute_strategy is tf.distribute.get_strategy()  # so Keras trains as if on one device
    before = model.metrics[0]
    internals.local_loss_tracker(model)
    assert [metric.name for metric in model.metrics][:1] == ["loss"] and before not in model.metrics
    assert internals.initial_epoch(model) == 0
    internals.resume_at(model, 3)
    assert internals.initial_epoch(model) == 3


def test_an_optimizer_from_outside_of_a_scope_updates_every_copy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        variable = keras.Variable([1.0])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.5), initial_scale=1.0)
    internals.belong_to(optimizer, strategy)
    with strategy.scope():
        optimizer.build([variable])
    optimizer.apply([tf.constant([2.0])], [variable])
    np.testing.assert_allclose(variable.numpy(), [0.5], rtol=1e-5)
