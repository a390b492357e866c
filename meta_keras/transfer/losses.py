"""Temporary."""

from meta_keras import outputs


def ends_in_softmax(network):
    return outputs.final_activation(network) == "softmax"


def default_loss(network, right):
    return outputs.default_loss(outputs.final_activation(network), right.dtype)
