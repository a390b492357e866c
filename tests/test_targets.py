"""What the losses of Keras compare is in one table, which has every loss of Keras."""

import inspect

import keras
import pytest

from meta_keras.targets import KINDS, kind_of


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
