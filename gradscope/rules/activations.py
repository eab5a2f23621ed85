"""What is known of activation functions by the name of their class; rules know no torch."""

from math import sqrt

from gradscope.kinds import ACTIVATIONS, LARGEST_SLOPE, RECTIFIERS
from gradscope.records import Quantity
from gradscope.trace import Trace

__all__ = ["ACTIVATIONS", "CAN_DIE", "LARGEST_SLOPE", "RECTIFIERS", "asked_gain", "has_activation_of"]

# Those that pass something back whatever they are given cannot die.
CAN_DIE = RECTIFIERS - {"LeakyReLU", "RReLU"}


def has_activation_of(trace: Trace, kind: frozenset[str]) -> bool:
    """Whether the model has an activation function of this kind, or may have one: none that is known was seen."""
    seen = {site.module_type for site in trace.sites if site.quantity is Quantity.OUTPUT} & ACTIVATIONS
    return not seen or bool(seen & kind)


def asked_gain(activation: str) -> float:
    """√fan_in · std(w) that keeps the signal's spread through a layer followed by `activation` ("" for none)."""
    return sqrt(2.0) if activation in RECTIFIERS else 1.0
