"""Meaningless settings of the rules are rejected with an error that says what would be valid."""

import keras
import pytest
from keras import layers
from proofs import learner_of

from meta_keras.functional import PureModel
from meta_keras.rules import GradientDescent, ImplicitGradient, LearnedRates, Prototypes, Reptile

ADAPTING = [GradientDescent, Reptile, ImplicitGradient]


def network(*units):
    names = [layers.Dense(count, name=f"dense{place}") for place, count in enumerate(units or (3, 2))]
    return keras.Sequential([keras.Input((2,)), *names, layers.Activation("tanh", name="bent")])


@pytest.mark.parametrize("rate", [0, -0.1, float("nan"), float("inf"), "0.1", None, True, [0.1]])
@pytest.mark.parametrize("rule", ADAPTING)
def test_a_learning_rate_is_a_number_above_0(rule, rate):
    with pytest.raises(ValueError, match="learning_rate must be a positive finite number; got"):
        rule(rate)


@pytest.mark.parametrize("strength", [0, -1.0, float("nan"), None])
def test_a_strength_is_a_number_above_0(strength):
    with pytest.raises(ValueError, match="strength must be a positive finite number; got"):
        ImplicitGradient(0.1, strength=strength)


@pytest.mark.parametrize("steps", [-1, 1.5, "2", True, None])
@pytest.mark.parametrize("rule", ADAPTING)
def test_steps_are_a_whole_number(rule, steps):
    with pytest.raises(ValueError, match="steps must be an integer of at least [01]; got"):
        rule(0.1, steps)


@pytest.mark.parametrize("steps", [-1, 1.5, "2", True])
@pytest.mark.parametrize("rule", ADAPTING)
def test_steps_of_evaluation_are_a_whole_number(rule, steps):
    with pytest.raises(ValueError, match="evaluation_steps must be an integer of at least 0; got"):
        rule(0.1, evaluation_steps=steps)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Reptile(0.1, 0), "steps"),
        (lambda: ImplicitGradient(0.1, 0), "steps"),
        (lambda: Reptile(0.1, batch_size=0), "batch_size"),
        (lambda: ImplicitGradient(0.1, conjugate_steps=0), "conjugate_steps"),
    ],
)
def test_some_numbers_are_1_or_more(make, name):
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1; got 0"):
        make()


@pytest.mark.parametrize("multi_step", [-1, 2.5])
def test_multi_step_counts_steps_of_meta_training(multi_step):
    with pytest.raises(ValueError, match="multi_step must be an integer of at least 0; got"):
        GradientDescent(0.1, multi_step=multi_step)


@pytest.mark.parametrize("kind", ["layers", "steps", True, 1])
def test_learned_rates_are_of_a_few_kinds(kind):
    with pytest.raises(ValueError, match="per must be one of 'weight', 'layer', 'layer-step', 'step'; got"):
        LearnedRates(0.1, kind)


@pytest.mark.parametrize("statistics", ["batch", None, "query"])
@pytest.mark.parametrize("rule", [*(lambda kind=kind, **s: kind(0.1, **s) for kind in ADAPTING), Prototypes])
def test_batch_statistics_are_of_three_kinds(rule, statistics):
    with pytest.raises(ValueError, match="batch_statistics must be one of 'episode', 'support', 'moving'; got"):
        rule(batch_statistics=statistics)


@pytest.mark.parametrize(("rate", "more"), [(0.1, {"multi_step": 5}), (LearnedRates(0.1, "layer"), {})])
def test_without_steps_there_are_no_rates_to_learn(rate, more):
    with pytest.raises(ValueError, match="steps=0 nothing is adapted"):
        GradientDescent(rate, 0, **more)


@pytest.mark.parametrize("names", ["dense7", ["dense0", "dense7"], "bent"])
def test_layers_that_are_not_there_are_named_with_those_that_are(names):
    with pytest.raises(ValueError, match=r"no weights or is not there; those with weights: \['dense0', 'dense1'\]"):
        learner_of(network(), GradientDescent(0.1, layers=names))


@pytest.mark.parametrize("names", [[], 3, [1], b"dense0"])
def test_layers_are_given_by_their_names(names):
    with pytest.raises(ValueError, match="layers must be a name or a list of names; got"):
        GradientDescent(0.1, layers=names)


def test_a_name_that_two_layers_have_is_ambiguous():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="dense1")], name="inner")
    with pytest.raises(ValueError, match="'dense1' names 2 layers. Give each its own name"):
        learner_of(
            keras.Sequential([keras.Input((2,)), *network().layers[:1], inner, *network().layers[1:]]),
            GradientDescent(0.1, layers="dense1"),
        )


def test_a_network_without_trainable_weights_cannot_adapt():
    model = network()
    model.trainable = False
    with pytest.raises(ValueError, match="no trainable weights, so nothing could adapt"):
        learner_of(model, GradientDescent(0.1))


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_logarithmic_is_true_or_false(value):
    with pytest.raises(ValueError, match="logarithmic must be True or False; got"):
        LearnedRates(0.1, logarithmic=value)


@pytest.mark.parametrize("kind", ["layer", "weight", "layer-step", "step"])
def test_learned_rates_belong_to_one_learner(kind):
    rule = GradientDescent(LearnedRates(0.1, kind))
    learner_of(network(), rule)
    with pytest.raises(ValueError, match="already belong to another learner. Create a new rule"):
        learner_of(network(), rule)


@pytest.mark.parametrize("rule", [Reptile, ImplicitGradient])
def test_rules_that_do_not_differentiate_their_steps_cannot_train_an_update(rule):
    with pytest.raises(ValueError, match="does not differentiate its inner steps, so nothing would train"):
        learner_of(network(), rule(LearnedRates(0.1)))


@pytest.mark.parametrize("rule", ADAPTING)
def test_a_network_needs_an_output_for_each_class(rule):
    pure = PureModel(network(3, 2))
    rule(0.1).check_ways(pure, 2)
    with pytest.raises(ValueError, match="tasks have 5 classes; the network .* has 2 outputs. Give its last layer 5"):
        rule(0.1).check_ways(pure, 5)
