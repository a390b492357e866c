"""Settings of the rules that make no sense are refused, by an error that says what would."""

import keras
import pytest
from keras import layers
from proofs import learner_of

from meta_keras.functional import PureModel
from meta_keras.rules import GradientDescent, ImplicitGradient, Prototypes, Reptile

ADAPTING = [GradientDescent, Reptile, ImplicitGradient]


def network(*units):
    names = [layers.Dense(count, name=f"dense{place}") for place, count in enumerate(units or (3, 2))]
    return keras.Sequential([keras.Input((2,)), *names, layers.Activation("tanh", name="bent")])


@pytest.mark.parametrize("rate", [0, -0.1, float("nan"), float("inf"), "0.1", None, True, [0.1]])
@pytest.mark.parametrize("rule", ADAPTING)
def test_a_learning_rate_is_a_number_above_0(rule, rate):
    with pytest.raises(ValueError, match="learning_rate is a number above 0; .* was given"):
        rule(rate)


@pytest.mark.parametrize("strength", [0, -1.0, float("nan"), None])
def test_a_strength_is_a_number_above_0(strength):
    with pytest.raises(ValueError, match="strength is a number above 0"):
        ImplicitGradient(0.1, strength=strength)


@pytest.mark.parametrize("steps", [-1, 1.5, "2", True, None])
@pytest.mark.parametrize("rule", ADAPTING)
def test_steps_are_a_whole_number(rule, steps):
    with pytest.raises(ValueError, match="steps is a whole number of .* or more"):
        rule(0.1, steps)


@pytest.mark.parametrize("steps", [-1, 1.5, "2", True])
@pytest.mark.parametrize("rule", ADAPTING)
def test_steps_of_evaluation_are_a_whole_number(rule, steps):
    with pytest.raises(ValueError, match="evaluation_steps is a whole number of 0 or more; .* was given"):
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
    with pytest.raises(ValueError, match=f"^{name} is a whole number of 1 or more; 0 was given"):
        make()


@pytest.mark.parametrize("multi_step", [-1, 2.5])
def test_multi_step_counts_steps_of_meta_training(multi_step):
    with pytest.raises(ValueError, match="multi_step is a whole number of 0 or more"):
        GradientDescent(0.1, multi_step=multi_step)


@pytest.mark.parametrize("kind", ["layers", "step", True, 1])
def test_learned_rates_are_of_a_few_kinds(kind):
    with pytest.raises(ValueError, match="learn_rates is one of .*'weight', 'layer-step'.* was given"):
        GradientDescent(0.1, learn_rates=kind)


@pytest.mark.parametrize("statistics", ["batch", None, "query"])
@pytest.mark.parametrize("rule", [*(lambda kind=kind, **s: kind(0.1, **s) for kind in ADAPTING), Prototypes])
def test_batch_statistics_are_of_three_kinds(rule, statistics):
    with pytest.raises(ValueError, match=r"batch_statistics is one of \('episode', 'support', 'moving'\)"):
        rule(batch_statistics=statistics)


@pytest.mark.parametrize("more", [{"multi_step": 5}, {"learn_rates": "layer"}, {"learn_rates": "weight"}])
def test_without_steps_there_are_no_rates_to_learn(more):
    with pytest.raises(ValueError, match="steps=0 nothing is adapted"):
        GradientDescent(0.1, 0, **more)


@pytest.mark.parametrize("names", ["dense7", ["dense0", "dense7"], [], "bent"])
def test_layers_that_are_not_there_are_told_with_those_that_are(names):
    with pytest.raises(ValueError, match=r"layers with weights are \['dense0', 'dense1'\]"):
        learner_of(network(), GradientDescent(0.1, layers=names))


def test_frozen_layers_alone_cannot_adapt():
    model = network()
    model.get_layer("dense0").trainable = False
    with pytest.raises(ValueError, match=r"layers=\['dense0'\] are frozen, so nothing could adapt"):
        learner_of(model, GradientDescent(0.1, layers="dense0"))
    learner_of(model, GradientDescent(0.1, layers=["dense0", "dense1"]))


@pytest.mark.parametrize("kind", ["layer", "weight", "layer-step"])
def test_learned_rates_are_for_one_network(kind):
    rule = GradientDescent(0.1, learn_rates=kind)
    learner_of(network(), rule)
    learner_of(network(), rule)
    with pytest.raises(ValueError, match="has learned rates for another network. Make a new rule"):
        learner_of(network(3, 4, 2), rule)


@pytest.mark.parametrize("rule", ADAPTING)
def test_a_network_needs_an_output_for_each_class(rule):
    pure = PureModel(network(3, 2))
    rule(0.1).check_ways(pure, 2)
    with pytest.raises(ValueError, match="tasks have 5 ways; the network .* has 2 outputs. Give its last layer 5"):
        rule(0.1).check_ways(pure, 5)
