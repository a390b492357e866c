"""What the losses and metrics of Keras compare is in one table, and labels are not broadcast to answers."""

import inspect

import keras
import numpy as np
import pytest
from keras import losses, metrics

import meta_keras as mk
from meta_keras.targets import CLASSES, KINDS, kind_of, targets_by_name, targets_of


def losses_of_keras():
    """The classes and functions that Keras offers, but for the base class and what reads them."""
    names = set(dir(keras.losses)) - {"Loss", "get", "serialize", "deserialize"}
    found = [getattr(keras.losses, name) for name in sorted(names) if not name.startswith("_")]
    return [one for one in found if inspect.isclass(one) or inspect.isfunction(one)]


@pytest.mark.parametrize("loss", losses_of_keras(), ids=lambda loss: loss.__name__)
def test_the_table_has_every_loss_of_keras(loss):
    kind = kind_of(loss() if inspect.isclass(loss) else loss)
    assert loss in (kind.function, kind.loss)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.loss.__name__)
def test_function_and_class_are_one_loss_and_say_whether_they_take_logits(kind):
    assert kind_of(kind.loss()) is kind_of(kind.function) is kind
    assert ("from_logits" in kind.loss().get_config()) is (kind.answers == "logits or probabilities")


def test_a_loss_of_ones_own_is_not_in_the_table():
    class Own(keras.losses.Loss):
        def call(self, y, p):
            return p - y

    assert kind_of(Own()) is kind_of(lambda y, p: p - y) is kind_of(None) is None


# As many rows as classes, so that Keras broadcasts.
LABELS, ANSWERS = np.array([1, 0, 2]), np.eye(3, dtype="float32")
SETTINGS = {"num_classes": 3, "target_class_ids": [0], "recall": 0.5, "precision": 0.5}
SETTINGS |= {"specificity": 0.5, "sensitivity": 0.5, "fn": lambda y, p: p[..., 0]}


def metrics_of_keras():
    names = set(dir(metrics)) - {"Metric", "Mean", "Sum", "get", "serialize", "deserialize"}
    found = [getattr(metrics, name) for name in sorted(names) if not name.startswith("_")]
    return [one for one in found if inspect.isclass(one) or inspect.isfunction(one)]


def is_computed(compared):
    try:
        return compared(LABELS, ANSWERS) is not None
    except Exception:  # of whatever kind Keras uses
        return False


@pytest.mark.parametrize("metric", metrics_of_keras(), ids=lambda metric: metric.__name__)
def test_the_table_has_every_metric_of_keras_that_would_broadcast_labels(metric):
    names = inspect.signature(metric).parameters
    one = metric(**{k: v for k, v in SETTINGS.items() if k in names}) if inspect.isclass(metric) else metric
    if targets_of(one) is None and metric not in (metrics.IoU, metrics.MeanIoU, metrics.MeanMetricWrapper):
        assert not is_computed(one), "it would be broadcast"


class Own(losses.MeanSquaredError):
    """It numbers the classes itself."""

    def call(self, y, p):
        return super().call(keras.ops.one_hot(keras.ops.cast(y, "int32"), 3), p)


def own(y, p):
    return Own()(y, p)


UNFIT = [
    ("mse", "softmax", "numbers"),
    (losses.MeanAbsoluteError(), None, "numbers"),
    ("poisson", None, "numbers"),
    (losses.huber, None, "numbers"),
    ("categorical_hinge", None, "one-hot rows"),
    ("categorical_focal_crossentropy", None, "one-hot rows"),
    (losses.CategoricalFocalCrossentropy(), "softmax", "one-hot rows"),
    ("categorical_crossentropy", None, "one-hot rows"),
    ("dice", "softmax", "one-hot rows"),
    (losses.KLDivergence, "softmax", "one-hot rows"),
    ("binary_crossentropy", None, "zeros and ones"),
]
UNFIT_METRICS = ["mae", metrics.MeanSquaredError(name="square"), losses.huber, "categorical_accuracy", "kl_divergence"]
UNFIT_METRICS += [metrics.Accuracy(), metrics.binary_accuracy, metrics.PearsonCorrelation()]
FIT = [["accuracy"], ["sparse_categorical_accuracy", metrics.SparseTopKCategoricalAccuracy(2)], [own], None]


def network(activation=None):
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation)])


def tasks():
    """One query per class and one task per class: labels have shape (3, 3), and answers (3, 3, 3)."""
    pool = mk.ClassPool(np.random.default_rng(0).normal(size=(6, 2)).astype("float32"), np.arange(6) // 2)
    return mk.FewShot(pool, 3, 1, queries=1, meta_batch=3)


def meta_train(loss=None, metrics=None, activation=None):
    learner = mk.MetaLearner(network=network(activation), rule=mk.rules.GradientDescent(0.1))
    learner.compile("sgd", loss, metrics, jit_compile=False)
    learner.fit(tasks(), steps_per_epoch=1, verbose=0)


def fine_tune(loss=None, metrics=None, activation=None):
    mk.transfer.fine_tune(network(activation), (ANSWERS[:, :2], LABELS), loss=loss, metrics=metrics, verbose=0)


@pytest.mark.parametrize(("loss", "activation", "wanted"), UNFIT, ids=range(len(UNFIT)))
@pytest.mark.parametrize("train", [meta_train, fine_tune])
def test_labels_meet_no_loss_that_takes_a_target_for_every_answer(train, loss, activation, wanted):
    words = f"loss '.*' takes {wanted} as targets, one number for every answer, but these labels number classes, each "
    with pytest.raises(ValueError, match=words + "with 3 answers.*such as 'sparse_categorical_crossentropy'"):
        train(loss, activation=activation)


@pytest.mark.parametrize("metric", UNFIT_METRICS, ids=range(len(UNFIT_METRICS)))
@pytest.mark.parametrize("train", [meta_train, fine_tune])
def test_labels_meet_no_metric_that_takes_a_target_for_every_answer(train, metric):
    with pytest.raises(ValueError, match="metric '.*' takes .* each with 3 .*such as 'sparse_categorical_accuracy'"):
        train(metrics=["accuracy", metric])


@pytest.mark.parametrize("train", [meta_train, fine_tune])
def test_what_takes_labels_and_what_users_wrote_is_not_refused(train):
    for given in FIT:
        train(metrics=given)
    for loss in (Own, Own(), own, lambda y, p: own(y, p)):
        train(loss)
    train(losses.CategoricalGeneralizedCrossEntropy(), activation="softmax")


def test_evaluate_does_not_broadcast_labels_either():
    def guess(support_x, support_y, query_x):
        return ANSWERS

    with pytest.raises(ValueError, match="metric 'categorical_accuracy' takes one-hot rows.*'sparse_categorical_acc"):
        mk.evaluate(guess, tasks(), 3, metric=metrics.CategoricalAccuracy())
    assert mk.evaluate(guess, tasks(), 3, metric=metrics.SparseCategoricalAccuracy()).mean >= 0


def test_one_hot_targets_and_numbers_may_be_integers_of_the_shape_of_the_answers():
    for loss in ("categorical_hinge", "mse", "binary_crossentropy"):
        mk.transfer.fine_tune(network(), (ANSWERS[:, :2], np.eye(3, dtype=int)), loss=loss, metrics=["mae"], verbose=0)


def test_tasks_of_one_model_do_not_broadcast_labels():
    def train(y):
        model = mk.multitask.MultiTask(network(), {"kind": keras.layers.Dense(3)})
        model.compile(loss={"kind": "categorical_hinge"}, jit_compile=False)
        model.fit(ANSWERS[:, :2], {"kind": y}, verbose=0)

    train(ANSWERS)
    with pytest.raises(ValueError, match="loss 'categorical_hinge' of task 'kind' takes one-hot rows.*'sparse_categor"):
        train(LABELS)


def test_the_names_of_what_is_compared_tell_its_targets():
    assert targets_by_name(loss=[own, None], metrics=["accuracy", "ce", own, "no metric", None]) == {}
    assert targets_by_name(metrics=["sparse_categorical_accuracy"]) == {"metric 'sparse_categorical_accuracy'": CLASSES}
