"""The mistakes of the documents, each demonstrated together with its correction. The rows are in chapters/README.md."""

import itertools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import meta_keras as mk

ROOT = Path(__file__).resolve().parents[1]


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1)).astype("uint8")


def test_transfer_comes_after_and_not_at_the_same_time():
    x = np.random.default_rng(0).normal(size=(256, 5))
    y = 3 * x.sum(axis=1, keepdims=True)
    first, second = (mk.networks.mlp(1, input_shape=(5,), hidden=(8,)) for _ in range(2))
    for model in (first, second):
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    first.fit(x, y, epochs=20, verbose=0)
    learned, untouched = (model.evaluate(x, y, verbose=0) for model in (first, second))
    assert untouched > 5 * learned, "training on the first task transferred nothing"
    second.set_weights(first.get_weights())
    assert second.evaluate(x, y, verbose=0) == pytest.approx(learned), "afterwards it can be"


def test_a_policy_must_see_the_support_set():
    network = keras.Sequential([keras.Input((1,)), keras.layers.Identity()])
    learner = mk.MetaLearner(network=network, rule=mk.rules.Prototypes())
    same_query = tf.constant([[[1.0]]])
    answers = [
        int(tf.argmax(learner((tf.constant([support]), tf.constant([[0, 1]]), same_query))[0, 0]))
        for support in ([[0.0], [9.0]], [[9.0], [0.0]])
    ]
    assert answers == [0, 1], "one x, two tasks, two answers: no function of x alone can give both"


def test_chapter_01_places_the_terms_of_the_missing_figure():
    source = (ROOT / "chapters/src/01_learning_to_learn.py").read_text(encoding="utf-8")
    part = source[source.index("## The landscape of meta-learning") :].replace("\n# ", " ").replace("> ", "")
    for word in ("metric-based", "model-based", "optimization-based", "distillation", "Unsupervised", "frameworks"):
        assert word in part
    everything = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "chapters/src").glob("*.py"))
    assert "yourusername" not in everything


def test_a_class_never_seen_must_be_described():
    rng = np.random.default_rng(0)
    pictures_of_unseen, truth = rng.normal(size=(60, 4)).astype("float32"), np.arange(60) % 3
    untold = mk.networks.mlp(3, input_shape=(4,))(pictures_of_unseen).numpy().argmax(axis=1)
    orders = [np.array(order) for order in itertools.permutations(range(3))]
    right = [(untold == order[truth]).mean() for order in orders]
    assert np.mean(right) == pytest.approx(1 / 3), "its answers do not depend on the names of the classes"

    learner = mk.transfer.ZeroShot(mk.networks.mlp(5, input_shape=(4,)), descriptions=np.eye(6)[:4])
    described = rng.normal(size=(3, 6))
    answers = learner.classify(pictures_of_unseen, described)
    assert len(set(answers)) > 1
    for order in orders:
        told = learner.classify(pictures_of_unseen, described[order])
        np.testing.assert_array_equal(order[told], answers, "swapped descriptions swap the answers")


def test_requirements_name_what_is_needed():
    listed = re.findall(r"^([a-z_\-]+)[><=]", (ROOT / "requirements.txt").read_text(), re.M)
    assert {"tensorflow", "keras", "numpy", "matplotlib"} <= set(listed)
    assert "pandas" not in listed
    assert 'requires-python = ">=3.11' in (ROOT / "pyproject.toml").read_text()


def test_dense_layers_need_a_flatten():
    as_printed = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    assert as_printed.output_shape == (None, 28, 10)
    as_printed.compile("adam", "categorical_crossentropy")
    x, y = pictures(32)[..., 0] / 255, keras.utils.to_categorical(np.arange(32) % 10)
    with pytest.raises(ValueError):
        as_printed.fit(x, y, verbose=0)

    model = mk.classical.create_model()
    assert model.output_shape == (None, 10)
    mk.classical.train_model(model, x[..., None], y, epochs=1)


def test_the_test_set_is_measured_by_the_training_set():
    train, test = pictures(20), pictures(20, seed=1)
    _, standard = mk.classical.preprocess_data(train)
    dim = (test // 2).astype("uint8")
    by_itself = [mk.classical.preprocess_data(x)[0].mean() for x in (test, dim)]
    by_training = [mk.classical.preprocess_data(x, standard)[0].mean() for x in (test, dim)]
    assert by_itself == pytest.approx([0, 0], abs=1e-4), "as printed, images at half the brightness look the same"
    assert by_training[1] < by_training[0] - 0.5


def test_the_names_of_scaling_and_standardising():
    x = pictures(50)
    scaled = x / 255.0
    assert scaled.min() >= 0 and scaled.max() <= 1 and scaled.mean() > 0.4, "what is called standardization is not"
    standardised, _ = mk.classical.preprocess_data(x)
    assert standardised.mean() == pytest.approx(0, abs=1e-3)
    assert standardised.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_the_project_does_not_learn_to_learn():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    x = rng.normal(size=(400, 4, 4, 1)).astype("float32") * 0.1
    x[np.arange(400), y, 0, 0] += 3
    model = mk.classical.create_model((4, 4, 1), 4)
    mk.classical.train_model(model, x, keras.utils.to_categorical(y, 4), epochs=20)
    pool = mk.ClassPool.from_arrays(x, y)
    dealt_anew = mk.FewShot(pool, ways=4, shots=1, queries=5, seed=0)

    def ordinary(support_x, support_y, query_x):
        return model(query_x)

    learner = mk.MetaLearner(
        network=keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()]), rule=mk.rules.Prototypes()
    )
    assert (model.predict(x, verbose=0).argmax(axis=1) == y).mean() > 0.95, "it works on its own task"
    by_ordinary, by_learner = mk.evaluate(ordinary, dealt_anew, 200), mk.evaluate(learner, dealt_anew, 200)
    assert abs(by_ordinary.mean - 0.25) < 3 * by_ordinary.interval, "with reassigned labels it is at chance"
    assert by_learner.mean > 0.95


class D3sMetaLearner(keras.Model):
    """The class as D3 prints it."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = keras.layers.Conv2D(32, 3, padding="same", activation="relu")
        self.conv2 = keras.layers.Conv2D(64, 3, padding="same", activation="relu")
        self.pool = keras.layers.MaxPooling2D()
        self.flatten = keras.layers.Flatten()
        self.dense1 = keras.layers.Dense(128, activation="relu")
        self.dense2 = keras.layers.Dense(num_classes, activation="softmax")
        self.optimizer = keras.optimizers.Adam(0.001)

    def call(self, inputs, task_indices):
        x = self.pool(self.conv1(inputs))
        x = self.pool(self.conv2(x))
        x = self.dense1(self.flatten(x))
        return self.dense2(tf.gather(x, task_indices))


def as_network(printed):
    network = mk.networks.d3(printed.dense2.units)
    network.set_weights(printed.get_weights())
    return network


@pytest.mark.slow
def test_the_loop_of_four_comments_learns_nothing():
    printed = D3sMetaLearner(5)
    printed(pictures(2) / 255, task_indices=[0, 1])
    before = printed.get_weights()
    for _epoch in range(100):
        ...
    assert all(np.array_equal(a, b) for a, b in zip(before, printed.get_weights(), strict=True))

    tasks = mk.FewShot(mk.load("glyphs").split("train"), ways=5, queries=1, meta_batch=1)
    network = as_network(printed)
    mk.maml_loop(network, tasks, loss=keras.losses.SparseCategoricalCrossentropy(), iterations=1)
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(before, network.get_weights(), strict=True))


def test_gathered_rows_belong_to_a_task_and_do_not_tell_it():
    printed, x = D3sMetaLearner(10), pictures(6) / 255
    chosen = printed(x, task_indices=[4, 1])
    np.testing.assert_allclose(chosen, printed(x[[4, 1]], task_indices=[0, 1]), atol=1e-6)
    others = np.concatenate([pictures(4, seed=1) / 255, x[4:]])
    np.testing.assert_allclose(chosen[0], printed(others, task_indices=[4])[0], atol=1e-6)

    learner = mk.MetaLearner(network=as_network(printed))
    np.testing.assert_allclose(learner(x, task_indices=[4, 1]), chosen, atol=1e-6)
    support, labels, query = (x[None, :2], np.array([[0, 1]]), x[None, 4:])
    answers = learner((support, labels, query)), learner((others[None, :2], labels, query))
    assert np.abs(answers[0] - answers[1]).max() > 1e-3, "here the rest of the task matters"


def test_the_optimizer_belongs_to_compile():
    printed, x, y = D3sMetaLearner(10), pictures(4) / 255, np.arange(4)
    with pytest.raises(ValueError, match="compile"):
        printed.fit(x, y, verbose=0)
    printed.compile(loss="sparse_categorical_crossentropy")
    assert isinstance(printed.optimizer, keras.optimizers.RMSprop), "the Adam of the constructor has been replaced"

    learner, adam = mk.MetaLearner(10), keras.optimizers.Adam(0.001)
    learner.compile(optimizer=adam)
    assert learner.optimizer is adam


def test_fit_has_no_task_indices_to_give():
    printed, x, y = D3sMetaLearner(10), pictures(4) / 255, np.arange(4)
    printed.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(TypeError, match="task_indices"):
        printed.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="positional"):
        printed(x, [1, 2])

    learner = mk.MetaLearner(10)
    assert learner(x).shape == (4, 10) and learner(x, task_indices=[1, 2]).shape == (2, 10)


def test_outputs_that_always_mean_the_same_cannot_answer_two_tasks():
    printed, x = D3sMetaLearner(5), mk.load("glyphs").examples[:100:20] / np.float32(255)
    printed(x, task_indices=range(5))
    learner = mk.MetaLearner(network=as_network(printed), rule=mk.rules.GradientDescent(0.1, steps=40))
    dealings = [np.arange(5), np.array([4, 3, 2, 1, 0])]

    network = as_network(printed)
    network.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    network.fit(x, dealings[0], epochs=30, verbose=0)
    printed.set_weights(network.get_weights())
    guesses = np.argmax(printed(x, task_indices=range(5)), axis=-1)
    assert [np.sum(guesses == labels) for labels in dealings] == [5, 1], "it has learned a single task"

    for labels in dealings:
        answers = learner.predict((x[None], labels[None], x[None]), verbose=0)
        assert np.array_equal(answers[0].argmax(axis=-1), labels)


def one_weight_learner(rule, rate=0.1, **options):
    """The prediction for x is theta * x, and theta is initially 0."""
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    learner = mk.MetaLearner(network=network, rule=rule, parallel="unrolled", **options)
    learner.compile(keras.optimizers.SGD(rate), "mse", jit_compile=False)
    return learner


def at_one(supports, queries):
    """A batch of tasks with targets at x = 1, given by support and queries."""
    supports, queries = (tf.constant(np.float32(answers)[..., None]) for answers in (supports, queries))
    return mk.Episode(tf.ones_like(supports), supports, tf.ones_like(queries), queries)


def endless(episode):
    return tf.data.Dataset.from_tensors(episode).repeat()


class FreshStart(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        self.model.network.set_weights([np.zeros((1, 1))])


@pytest.mark.parametrize(("callbacks", "learns"), [([], True), ([FreshStart()], False)])
def test_one_start_is_shared_by_all_tasks(callbacks, learns):
    learner = one_weight_learner(mk.rules.GradientDescent(0.1))
    tasks = endless(at_one([[4], [6]], [[4], [6]]))
    losses = learner.fit(tasks, steps_per_epoch=1, epochs=40, callbacks=callbacks, verbose=0).history["loss"]
    assert losses[0] == pytest.approx(0.64 * 26)
    assert losses[-1] == pytest.approx(0.64 if learns else 0.64 * 26, rel=1e-2)


@pytest.mark.parametrize("steps", [1, 5, 200])
def test_after_very_many_steps_the_start_is_forgotten(steps):
    learner = one_weight_learner(mk.rules.GradientDescent(0.1, steps=steps))
    *inputs, query_y = at_one([[2]], [[3]])
    _, _, (_, [slope]) = learner.meta_gradients(tuple(inputs), query_y)
    kept = 0.8**steps
    assert slope.numpy().item() == pytest.approx(kept * 2 * (2 - 2 * kept - 3), rel=1e-4, abs=1e-6)
    assert (abs(slope.numpy().item()) < 1e-6) == (steps == 200), "after convergence the gradient vanishes"


def test_the_error_that_is_learned_from_is_that_of_the_queries():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 1))
    support, query = (truth + 2 * rng.normal(size=(400, 1)) for _ in range(2))
    honest, by_heart = at_one(support, query), at_one(support, support)
    errors = []
    for tasks in (honest, by_heart):
        learner = one_weight_learner(mk.rules.GradientDescent(mk.rules.LearnedRates(0.3, "weight")), 0.02)
        learner.parallel = "vectorized"
        learner.fit(endless(tasks), steps_per_epoch=150, verbose=0)
        errors.append(learner.evaluate(endless(at_one(support, truth)), steps=1, verbose=0, return_dict=True)["loss"])
    assert errors[0] < 0.9 and errors[1] > 3, "evaluated on the support set, it learns to trust every measurement"


def test_the_gradient_goes_through_the_adapting_to_the_original_start():
    learner = one_weight_learner(mk.rules.GradientDescent(0.1))
    learner.fit(endless(at_one([[2]], [[3]])), steps_per_epoch=1, verbose=0)
    (theta,) = learner.network.get_weights()
    assert theta.item() == pytest.approx(0.1 * 4.16), "0 minus the meta-gradient, (1 - 0.1 * 2) * 2 * (0.4 - 3)"
    as_printed = 0.4 - 0.1 * 2 * (0.4 - 3)  # the adapted weight, updated by the gradient at its own value
    assert as_printed == pytest.approx(0.92), "it continues from the adapted weights, as in ordinary training"


def as_in_d1(head=None):
    """D1's network with an eighth of its filters: five convolutions and global average pooling."""
    layers = [keras.Input((32, 32, 3))]
    for filters in (8, 16, 32, 64):
        layers += [keras.layers.Conv2D(filters, 3, padding="same", activation="relu"), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Conv2D(128, 3, padding="same", activation="relu"), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([*layers, *([keras.layers.Dense(head)] if head else [])])


def test_without_a_head_the_outputs_are_features_and_not_classes():
    x = np.random.default_rng(0).normal(size=(64, 32, 32, 3)).astype("float32")
    assert as_in_d1().output_shape == (None, 128), "as many as the last convolution has filters, 1024 in the document"
    assert (as_in_d1()(x).numpy().argmax(axis=1) >= 10).mean() > 0.5, "most answers are no class of CIFAR-10"
    assert as_in_d1(head=100).output_shape == (None, 100)


def test_a_network_of_ten_classes_cannot_be_examined_on_a_hundred():
    model, labels = as_in_d1(head=10), np.arange(100)
    x = np.random.default_rng(0).normal(size=(100, 32, 32, 3)).astype("float32")
    assert (model(x).numpy().argmax(axis=1) == labels).mean() <= 0.1, "90 labels have no output"
    with pytest.raises(ValueError, match="10 outputs, for labels 0 to 9; got the label 99"):
        mk.transfer.fine_tune(model, (x, labels), verbose=0)
    target = as_in_d1(head=100)
    assert len(mk.transfer.transfer_weights(model, target).moved) == 5, "the convolutions move, the head is new"
    mk.transfer.fine_tune(target, (x, labels), verbose=0)


def test_an_exam_with_pictures_changed_by_chance_has_no_one_result():
    picture = np.random.default_rng(0).uniform(size=(1, 32, 32, 3)).astype("float32")
    changed = keras.Sequential(
        [keras.layers.RandomFlip("horizontal", seed=1), keras.layers.RandomTranslation(0.1, 0.1, seed=2)]
    )
    model = as_in_d1(head=10)
    answers = [model(changed(picture, training=True)).numpy() for _ in range(2)]
    assert np.abs(answers[0] - answers[1]).max() > 1e-4
    np.testing.assert_array_equal(model(changed(picture, training=False)), model(changed(picture, training=False)))


def test_a_progress_line_every_2000_batches_never_comes_in_an_epoch_of_500():
    batches = 50_000 // 100
    assert not [batch for batch in range(batches) if batch % 2000 == 1999]


def test_a_network_that_enters_no_loss_gets_no_gradient_and_gives_none():
    source, target = as_in_d1(head=10), as_in_d1(head=10)
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    with tf.GradientTape() as tape:
        source(x)
        loss = tf.reduce_mean(target(x) ** 2)
    slopes = tape.gradient(loss, [v.value for v in source.trainable_variables])
    assert all(slope is None for slope in slopes), "so its optimizer has no gradients"
    assert not np.array_equal(source.get_weights()[0], target.get_weights()[0]), "and nothing is synchronized"
    mk.transfer.transfer_weights(source, target)
    np.testing.assert_array_equal(source(x), target(x))


def test_the_meta_network_of_d1_is_defined_and_never_used():
    net, source, target = (as_in_d1(head=10) for _ in range(3))
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(target(x) ** 2)
    before, slopes = target(x).numpy(), tape.gradient(loss, [v.value for v in net.trainable_variables])
    net.set_weights([weight + 1 for weight in net.get_weights()])
    np.testing.assert_array_equal(target(x), before)
    assert all(slope is None for slope in slopes), "it generates nothing, and no loss depends on it"
    rule = mk.rules.WeightGenerator("head")
    learner = mk.MetaLearner(network=mk.networks.mlp(1), rule=rule)
    learner.compile(loss="mse")
    rule.meta_output.kernel.assign(tf.ones_like(rule.meta_output.kernel))
    task = next(iter(mk.Sinusoids(shots=5, meta_batch=2)))
    *_, (_, gradients) = learner.meta_gradients(task[:3], task.query_y)
    count = len(rule.trainable_variables)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients[-count:]), "here every weight of it is trained"


def test_one_input_does_not_tell_a_network_that_generates_weights_which_task_it_is():
    learner = mk.MetaLearner(network=mk.networks.mlp(1), rule=mk.rules.WeightGenerator("head"))
    meta_output = learner.rule.meta_output
    meta_output.kernel.assign(tf.ones_like(meta_output.kernel))
    x = np.linspace(-1, 1, 5, dtype="float32")[:, None]
    up, down = (learner.predictor(x, sign * x).adaptation.weights.parameters[-2] for sign in (1, -1))
    assert np.abs(up - down).max() > 1e-3, "the same inputs, two tasks, two sets of weights: the targets must be read"
    best = np.mean([x, -x], axis=0)  # what weights from x alone could best answer in both tasks
    assert np.mean((best - x) ** 2) == pytest.approx(np.mean(x**2)), "no better than the constant 0"


def test_weights_that_were_trained_cannot_be_regressed_since_hidden_units_have_no_order():
    network = mk.networks.mlp(1, hidden=(20,), activation="tanh")
    rng = np.random.default_rng(0)
    kernel, bias, head, last = (2 * rng.normal(size=w.shape).astype("float32") for w in network.get_weights())
    network.set_weights([kernel, bias, head, last])
    order = rng.permutation(20)
    equal = [kernel[:, order], bias[order], head[order], last]
    x = np.linspace(-2, 2, 50, dtype="float32")[:, None]
    wanted = network(x).numpy()
    network.set_weights(equal)
    np.testing.assert_allclose(network(x), wanted, atol=1e-4)
    mean = [(one + other) / 2 for one, other in zip((kernel, bias, head, last), equal, strict=True)]
    network.set_weights(mean)  # the least squared error in both sets of weights
    assert np.mean((network(x) - wanted) ** 2) > 0.1 * np.mean(wanted**2), "two right answers, and their mean is wrong"


def test_meta_optimization_by_a_fixed_optimizer_learns_nothing_about_optimizing():
    optimizer = keras.optimizers.SGD(0.001, momentum=0.9)
    network = mk.networks.mlp(1)
    network.compile(optimizer, "mse", jit_compile=False)
    network.fit(np.ones((8, 1)), np.ones((8, 1)), epochs=3, verbose=0)
    assert float(optimizer.learning_rate) == pytest.approx(0.001)
    rule = mk.rules.GradientDescent(mk.rules.LearnedRates(0.001, "layer"))
    learner = mk.MetaLearner(network=mk.networks.mlp(1), rule=rule)
    learner.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    learner.fit(mk.Sinusoids(shots=5), steps_per_epoch=2, verbose=0)
    assert all(abs(float(rate) - 0.001) > 1e-4 for rate in rule.transform.rates), (
        "here the rates themselves are learned"
    )


class FromInputs(mk.rules.Update):
    """An update that is computed from input data alone, as D1 describes its meta-input layer."""

    inputs = np.float32([[1.0], [2.0]])

    def update(self, gradients, state, parameters, step):
        return [-0.1 * tf.reduce_mean(self.inputs) * tf.ones_like(g) for g in gradients], state


def test_a_meta_optimizer_needs_the_gradient_and_not_only_the_inputs():
    x = FromInputs.inputs
    for rate, agree in ((FromInputs(), 1), (0.1, -1)):
        learner = one_weight_learner(mk.rules.GradientDescent(rate))
        # Two tasks with the same inputs and opposite targets.
        one, other = (learner.adapt(x, slope * x).get_weights()[0].item() for slope in (3, -3))
        assert one == pytest.approx(agree * other) and one != 0


def test_the_loss_that_trains_a_learning_rate_is_that_of_the_queries():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 1))
    support, query = (truth + 2 * rng.normal(size=(400, 1)) for _ in range(2))
    rates = {}
    for name, tasks in (("queries", at_one(support, query)), ("support", at_one(support, support))):
        rate = mk.rules.LearnedRates(0.3, "layer", logarithmic=True)
        learner = one_weight_learner(mk.rules.GradientDescent(rate), 0.02)
        learner.parallel = "vectorized"
        learner.fit(endless(tasks), steps_per_epoch=200, verbose=0)
        (rates[name],) = rate.values().values()
    # A rate of 0.5 reproduces the noisy target; the best for the truth leaves 4 / 5 of the distance.
    assert rates["support"] > 0.45 and rates["queries"] < 0.2


def test_a_flatten_of_the_wrong_size_tears_pictures_apart():
    convolved = keras.layers.Conv2D(64, 3)(keras.layers.Conv2D(32, 3)(np.zeros((64, 32, 32, 3), "float32")))
    assert convolved.shape == (64, 28, 28, 64)
    assert tf.reshape(convolved, (-1, 64 * 64)).shape == (784, 4096), "784 rows, and 64 labels"
    assert keras.layers.Flatten()(convolved).shape == (64, 28 * 28 * 64)


def test_a_weight_is_assigned_to_and_not_replaced():
    source, target = (keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]) for _ in range(2))
    half = source.layers[0].kernel * 0.5 + target.layers[0].kernel * 0.5
    with pytest.raises(AttributeError):
        target.layers[0].kernel = half
    mk.transfer.blend_weights(source, target, 0.5)
    np.testing.assert_allclose(target.layers[0].kernel, half, rtol=1e-6)


@pytest.mark.slow
def test_a_mean_of_two_networks_is_a_network_only_if_they_had_one_start():
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 4)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype(int)

    def learned(seed, start=None):
        keras.utils.set_random_seed(seed)
        model = mk.networks.mlp(2, input_shape=(4,), hidden=(16, 16))
        if start:
            mk.transfer.transfer_weights(start, model)
        mk.transfer.fine_tune(model, (x, y), train="all", learning_rate=0.01, epochs=15, verbose=0)
        return model

    source = learned(seed=1)
    accuracies = {}
    for name, target in (("one start", learned(2, source)), ("two starts", learned(3))):
        mk.transfer.blend_weights(source, target, 0.5)
        accuracies[name] = float((target(x).numpy().argmax(axis=1) == y).mean())
    assert accuracies["one start"] > 0.95 and accuracies["two starts"] < 0.85, accuracies


def test_fine_tuning_loses_the_source_and_a_sum_keeps_it():
    x = np.random.default_rng(0).normal(size=(32, 10)).astype("float32")
    source = mk.networks.mlp(1, input_shape=(10,), hidden=(16,))
    tuned = mk.networks.mlp(1, input_shape=(10,), hidden=(16,))
    tuned.set_weights(source.get_weights())
    added = mk.transfer.with_residual(source)
    for model in (tuned, added):
        mk.transfer.fine_tune(model, (x, x[:, :1]), train=None, learning_rate=0.01, epochs=10, verbose=0)
    kept = added.get_layer("source").model
    np.testing.assert_array_equal(kept(x), source(x))
    assert np.abs(tuned(x) - source(x)).max() > 0.1, "the target no longer computes what the source did"


def test_parts_that_were_trained_apart_fit_only_from_one_start_or_with_a_stitch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 8)).astype("float32")
    y = (x @ rng.normal(size=(8, 6))).argmax(axis=1)
    loss, networks = keras.losses.SparseCategoricalCrossentropy(from_logits=True), []
    start = mk.networks.mlp(6, input_shape=(8,), hidden=(32,))
    for begin in (start, start, mk.transfer.same_structure(start)):
        network = mk.transfer.same_structure(start)
        network.set_weights(begin.get_weights())
        network.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
        network.fit(x, y, epochs=8, verbose=0)
        networks.append(network)

    def accuracy(model):
        return float(np.mean(np.argmax(model(x), axis=1) == y))

    parts = [mk.transfer.split_model(network, network.layers[0].name) for network in networks]
    front = parts[0][0]
    assert min(accuracy(network) for network in networks) > 0.8
    assert accuracy(mk.transfer.join_models(front, parts[1][1])) > 0.7, "one start, other batches"
    assert accuracy(mk.transfer.join_models(front, parts[2][1])) < 0.4, "trained separately, recombined as D4 says"
    seen, wanted = (np.array(part[0](x)) for part in (parts[0], parts[2]))
    stitch = keras.Sequential([keras.Input((32,)), keras.layers.Dense(32, use_bias=False)])
    stitch.set_weights([np.linalg.lstsq(seen, wanted, rcond=None)[0]])
    assert accuracy(mk.transfer.join_models(front, stitch, parts[2][1])) > 0.7, "a linear layer fixes it"


def printed_policy():
    """D5's strategy network, and the gradients of its loss: for source and target, inputs and labels."""
    keras.utils.set_random_seed(0)
    policy = mk.networks.mlp(1, input_shape=(10,), hidden=(128,))

    @tf.function
    def gradients(source_data, source_labels, target_data, target_labels):
        with tf.GradientTape() as tape:
            source_loss = tf.reduce_mean((policy(source_data) - source_labels) ** 2)
            target_loss = tf.reduce_mean((policy(target_data) - target_labels) ** 2)
            loss = source_loss + target_loss
        return tape.gradient(loss, policy.trainable_variables)

    return policy, gradients


def test_the_printed_strategy_network_fits_noise_and_answers_worse_than_a_constant():
    policy, gradients = printed_policy()
    optimizer, normal = keras.optimizers.Adam(), tf.random.normal
    optimizer.build(policy.trainable_variables)

    @tf.function
    def train(*batch):
        optimizer.apply(gradients(*batch), policy.trainable_variables)

    new, labels = normal((20_000, 10)), normal((20_000, 1))
    for _ in range(100):
        train(*(normal(shape) for shape in [(100, 10), (100, 1)] * 2))
    after, constant = tf.reduce_mean((policy(new) - labels) ** 2), tf.reduce_mean(labels**2)
    assert float(after) > float(constant), "the labels are independent of the inputs, so their mean is best"
    weights = tf.ones((10, 1))
    for _ in range(100):
        x = [normal((100, 10)) for _ in range(2)]
        train(x[0], x[0] @ weights, x[1], x[1] @ weights)
    assert tf.reduce_mean((policy(new) - new @ weights) ** 2) < 0.9 * tf.reduce_mean((new @ weights) ** 2), (
        "it could learn"
    )


def test_the_printed_strategy_network_cannot_tell_source_from_target():
    _, gradients = printed_policy()
    source, target = ([tf.random.normal((100, 10)), tf.random.normal((100, 1))] for _ in range(2))
    for one, other in zip(gradients(*source, *target), gradients(*target, *source), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

    def one_weight(value):
        network = one_weight_learner(mk.rules.GradientDescent(0.1)).network
        network.set_weights([np.array([[value]])])
        return network

    slopes = []
    for given, fresh in ((4.0, 0.0), (0.0, 4.0)):
        learner = mk.MetaLearner(network=one_weight(fresh), rule=mk.transfer.Strategy(one_weight(given), 0.1))
        learner.compile(loss="mse")
        *inputs, query_y = at_one([[2]], [[3]])
        slopes.append(float(learner.meta_gradients(tuple(inputs), query_y)[2][1][-1][0]))
    assert slopes[0] == pytest.approx(-slopes[1]) and slopes[0] < -0.1, (
        "a strategy takes more of the one that is the source"
    )


def test_the_printed_strategy_network_answers_examples_and_says_nothing_of_transfer():
    policy, _ = printed_policy()
    assert policy(tf.ones((7, 10))).shape == (7, 1), "one answer per example"
    rule = mk.transfer.Strategy(mk.networks.mlp(1), 0.1)
    mk.MetaLearner(network=mk.networks.mlp(1), rule=rule)
    assert len(rule.coefficients()) == 3 and set(rule.coefficients().values()) == {0.5}, "one coefficient per layer"


def rate_gradient(curvature, steps):
    """The derivative of the loss h theta^2 / 2 after gradient descent for the coefficient of the learning rate 0.1."""
    update = mk.rules.UpdateNetwork(0.1, base="sgd", hidden=(2,))
    update.build()
    theta = [tf.ones(1)]
    state = update.init(theta)
    with tf.GradientTape() as tape:
        for number in range(steps):
            moves, state = update.update([curvature * theta[0]], state, theta, mk.rules.Step(number, 0.0, True))
            theta = [theta[0] + moves[0]]
        loss = curvature * tf.reduce_sum(theta[0] ** 2) / 2
    return abs(float(tape.gradient(loss, update.trainable_variables)[0][0]))


def test_the_gradient_through_a_whole_training_vanishes_or_explodes():
    converging, unstable = (np.array([rate_gradient(h, steps) for steps in (2, 30)]) for h in (5.0, 23.0))
    assert converging[0] > 0.1 and converging[1] < 1e-12, "it vanishes"
    assert unstable[1] > 1e6 * unstable[0], "it explodes: 1 - 0.1 * 23 = -1.3"

    training = mk.UnrolledTraining(mk.networks.mlp(1, hidden=(4,)), mk.rules.UpdateNetwork(0.01), steps=4, truncation=2)
    assert (training.steps, training.truncation) == (4, 2), "a fixed number of steps, in segments"
    with pytest.raises(ValueError, match="multiple of truncation"):
        mk.UnrolledTraining(mk.networks.mlp(1), mk.rules.UpdateNetwork(0.01), steps=5, truncation=2)


@pytest.mark.slow
def test_a_parameter_network_is_kept_and_the_starts_are_new():
    network, update = mk.networks.mlp(1, hidden=()), mk.rules.UpdateNetwork(0.01, hidden=(2,))
    training = mk.UnrolledTraining(network, update, steps=2, truncation=2, batch_size=5)
    with pytest.raises(ValueError):
        network.set_weights(update.get_weights())  # as printed: the parameter network as the initialization
    before, learned = network.get_weights(), [one.numpy() for one in update.trainable_variables]
    training.compile(keras.optimizers.Adam(0.01), "mse")
    training.fit(mk.Sinusoids(shots=5, meta_batch=2), steps_per_epoch=2, verbose=0)
    assert not np.array_equal(update.trainable_variables[0], learned[0]), "the parameter network has learned"
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    starts = [training._start(tf.constant([0, seed]), 1)[0].parameters[0] for seed in range(2)]
    assert not np.array_equal(*starts), "each training run begins with other weights"


def test_an_update_rule_reads_gradients_and_fits_any_network():
    network, x = mk.networks.mlp(1, input_shape=(3,), hidden=(4,)), np.ones((1, 3), "float32")
    as_printed = mk.networks.mlp(network.count_params(), input_shape=(3,))  # x in, theta out
    assert as_printed.output_shape == (None, 21)
    bigger = mk.networks.mlp(1, input_shape=(3,), hidden=(5,))
    assert bigger.count_params() != as_printed.output_shape[1], "it fits this one network"
    targets, last_bias = (1.0, -1.0), []
    update = mk.rules.UpdateNetwork(0.01)
    for target in targets:
        for model in (network, bigger):
            copy = keras.models.clone_model(model)
            copy.set_weights(model.get_weights())
            copy.compile(mk.LearnedOptimizer(update), "mse", run_eagerly=True)
            copy.train_on_batch(x, np.full((1, 1), 100 * target, "float32"))
            last_bias.append(copy.get_weights()[-1] - model.get_weights()[-1])
    np.testing.assert_allclose(last_bias[0], -last_bias[2], rtol=1e-3)
    assert np.abs(last_bias).max() > 0, "the same x with other answers, and therefore another update"


@pytest.mark.slow
def test_one_function_cannot_give_two_answers_for_the_same_image():
    x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
    y = {"first": x[:, :1], "second": -x[:, :1]}
    shared = mk.networks.mlp(1, input_shape=(3,), hidden=(16,))  # as printed: f(x; theta) for every task
    shared.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    both = np.concatenate([x, x]), np.concatenate([y["first"], y["second"]])
    shared.fit(*both, epochs=30, batch_size=16, verbose=0)
    assert shared.evaluate(*both, verbose=0) > 0.9 * np.mean(x[:, 0] ** 2), "as bad as the constant 0"
    model = mk.multitask.MultiTask(
        mk.networks.mlp(8, input_shape=(3,), hidden=(16,)), {task: keras.layers.Dense(1) for task in y}
    )
    model.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    model.fit(x, y, epochs=60, batch_size=16, verbose=0)
    assert model.evaluate(x, y, verbose=0, return_dict=True)["loss"] < 0.1 * np.mean(x[:, 0] ** 2)


def test_the_average_loss_does_not_measure_adaptation():
    curvatures, minima, left = np.array([1.0, 4.0]), np.array([0.0, 3.0]), np.array([0.8, 0.2])  # for a step of 0.1
    theta = np.linspace(-1, 4, 50_001)[:, None]
    before = [float(mk.multitask.average_loss(list(row))) for row in (curvatures * (theta[::10] - minima) ** 2)]
    after = np.mean(curvatures * (left * (theta[::10] - minima)) ** 2, axis=1)
    of_average, of_adaptation = theta[::10][np.argmin(before), 0], theta[::10][np.argmin(after), 0]
    assert of_average == pytest.approx(2.4, abs=0.01) and of_adaptation == pytest.approx(0.6, abs=0.01)
    assert after[np.argmin(before)] > 2 * after.min()


@pytest.mark.slow
def test_the_difference_loss_alone_is_minimal_for_a_constant():
    rng = np.random.default_rng(0)
    constant = np.tile([[0.25, 0.75]], (50, 1))
    assert float(mk.multitask.difference_loss(constant, constant)) == 0.0
    image, text = rng.normal(size=(2, 50, 4)).astype("float32")
    inputs = keras.Input((4,)), keras.Input((4,))
    answers = keras.layers.Dense(2, activation="softmax")
    model = keras.Model(inputs, mk.multitask.Difference()([answers(one) for one in inputs]))
    before = [np.std(out) for out in model.predict([image, text], verbose=0)]
    model.compile(keras.optimizers.Adam(0.05), jit_compile=False)
    model.fit([image, text], epochs=60, verbose=0)  # as printed: no labels in the loss
    after = [np.std(out, axis=0).mean() for out in model.predict([image, text], verbose=0)]
    assert max(after) < 0.2 * min(before), "all inputs get the same answer"


def test_perfect_answers_differ_unless_the_pairs_have_the_same_label():
    labels = np.array([0, 1, 2, 0])
    perfect = np.eye(3)[labels]
    assert float(mk.multitask.difference_loss(perfect, perfect)) == 0.0
    assert float(mk.multitask.difference_loss(perfect, perfect[::-1])) == pytest.approx(1.0), "two of four pairs differ"
    with pytest.raises(ValueError, match="must have one shape"):
        mk.multitask.difference_loss(perfect, np.ones((4, 2)))  # a class and a position cannot be compared


def test_a_meta_model_generalizes_within_the_range_of_its_tasks():
    x = keras.Input((1,))
    waves = keras.Model(x, keras.layers.Concatenate()([keras.ops.sin(x), keras.ops.cos(x)]))
    model = mk.multitask.generalize(mk.Sinusoids(meta_batch=200, amplitude=(1, 2), phase=(0, 1)), waves, steps=600)
    errors = []
    for amplitude, phase in (((1, 2), (0, 1)), ((4, 5), (2, 3))):
        space = mk.Sinusoids(meta_batch=100, seed=1, amplitude=amplitude, phase=phase)
        parameters, tasks = space.draw_with_parameters(tf.constant([1, 0], tf.int64))
        rows = [np.reshape(part, (-1, 1)) for part in (tasks.query_x, tasks.query_y)]
        errors.append(np.mean((model([rows[0], np.repeat(parameters, 10, axis=0)]) - rows[1]) ** 2) / np.var(rows[1]))
    assert errors[0] < 0.05 and errors[1] > 4 * errors[0]


def test_a_self_supervised_loss_depends_on_the_outputs_of_a_model():
    """D4 4.3: L(x_n, y_n) of inputs and labels is a constant. With a model and labels made from x, it trains."""
    layers = [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = mk.unsupervised.Rotation(keras.Sequential(layers))
    x = np.random.default_rng(0).uniform(size=(6, 4, 4, 1)).astype("float32")
    turned, turns = model.pretext(tf.constant(x))
    with tf.GradientTape(persistent=True) as tape:
        without_model = tf.reduce_mean(tf.square(tf.reduce_sum(turned, axis=(1, 2, 3)) - tf.cast(turns, tf.float32)))
        with_model = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(turns, model(turned)))
    assert tape.gradient(without_model, model.trainable_variables) == [None] * len(model.trainable_variables)
    assert all(np.abs(gradient).max() > 0 for gradient in tape.gradient(with_model, model.trainable_variables))


def test_a_rotation_is_a_label_only_where_it_changes_the_image():
    """D4 4.3 takes the rotation of any image as its label; a symmetric one has several right answers."""
    round_shape = np.zeros((1, 28, 28, 1), "float32")
    round_shape[:, 10:18, 10:18] = 1
    model = mk.unsupervised.Rotation(mk.networks.conv4(filters=2, downsample="stride"))
    model.compile()
    found = model.evaluate(round_shape, verbose=0, return_dict=True)
    assert found["accuracy"] == 0.25 and found["loss"] >= np.log(4) - 1e-5, "no network is better than chance"
    assert mk.unsupervised.rotation_similarity(round_shape)[0] == pytest.approx(1)


def d4s_gan_loss(real, generated, transform=lambda probabilities: probabilities):
    """D4 4.4: -1/2 (E[D(x)] - E[D(G(z))]), for the logits of D; `transform` puts the logarithms in."""
    real, generated = (transform(tf.sigmoid(logits)) for logits in (real, generated))
    return -(tf.reduce_mean(real) - tf.reduce_mean(generated)) / 2


def test_a_gan_loss_without_logarithms_neither_punishes_certain_mistakes_nor_moves_the_generator():
    for logit in (-10.0, -20.0):  # a generated image that D recognizes with certainty, as at the start of training
        logits, real = tf.Variable([logit]), tf.constant([0.0])
        with tf.GradientTape(persistent=True) as tape:
            losses = (-d4s_gan_loss(real, logits), mk.unsupervised.gan_losses(real, logits)[1])
        of_d4, ours = (float(tape.gradient(loss, logits)[0]) for loss in losses)
        assert abs(of_d4) < 1e-4 and ours == pytest.approx(-1, abs=1e-3)
    logits = tf.Variable([-10.0])  # and a real image that D takes for a generated one
    with tf.GradientTape(persistent=True) as tape:
        losses = (d4s_gan_loss(logits, tf.constant([0.0])), mk.unsupervised.gan_losses(logits, tf.constant([0.0]))[0])
    of_d4, ours = (float(tape.gradient(loss, logits)[0]) for loss in losses)
    assert abs(of_d4) < 1e-4 and ours == pytest.approx(-0.5, abs=1e-3)


def test_the_second_term_of_the_gan_loss_needs_another_sign():
    """With logarithms but D4's sign, the loss of D has no minimum, and its best D is no probability."""
    real, certain = tf.constant([0.0]), [tf.constant([-logit]) for logit in (10.0, 20.0, 40.0)]
    with_logarithms = [float(d4s_gan_loss(real, logits, tf.math.log)) for logits in certain]
    corrected = [float(mk.unsupervised.gan_losses(real, logits)[0]) for logits in certain]
    np.testing.assert_allclose(np.diff(with_logarithms), [-5, -10], rtol=1e-4)
    np.testing.assert_allclose(corrected, np.log(2) / 2, rtol=1e-3)
    p, q = np.array([0.8, 0.2]), np.array([0.4, 0.6])  # two images, real and generated
    logits = np.linspace(-4, 4, 8001)
    probabilities = 1 / (1 + np.exp(-logits))
    best = [
        probabilities[np.argmin(-a * np.log(probabilities) - b * np.log(1 - probabilities))]
        for a, b in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(best, p / (p + q), atol=1e-3)
    linear = [probabilities[np.argmin(-(a - b) * probabilities)] for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(linear, [probabilities[-1], probabilities[0]])  # 1 and 0: only which one is larger


def test_a_generator_maps_noise_to_images():
    """D4 4.4 writes G(x) = z, for an image x."""
    images, noise = np.ones((2, 6), np.float32), np.ones((2, 4), np.float32)
    generator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)])
    model = mk.unsupervised.GAN(mk.networks.mlp(3, input_shape=(6,)), generator)
    assert model.generate(noise).shape == images.shape
    with pytest.raises(ValueError, match="z must have the shape"):
        model.generate(images)
