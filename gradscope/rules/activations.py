"""What is known of activation functions by the name of their class; rules know no torch."""

from math import sqrt

from gradscope.records import Quantity
from gradscope.trace import Trace

# They halve the mean square of a centred input, so the weights before them must double it (He et al. 2015, eq. 10).
RECTIFIERS = frozenset({
    "ReLU", "LeakyReLU", "RReLU", "GELU", "SiLU", "Mish", "Hardswish", "ELU", "CELU", "ReLU6", "Threshold",
    # modules of transformers
    "GELUActivation", "NewGELUActivation", "FastGELUActivation", "QuickGELUActivation", "AccurateGELUActivation",
    "ClippedGELUActivation", "GELUTanh", "SiLUActivation", "MishActivation",
})  # fmt: skip

# Those that pass something back whatever they are given cannot die.
CAN_DIE = RECTIFIERS - {"LeakyReLU", "RReLU"}

# The largest slope of those that are bounded on both sides.
LARGEST_SLOPE: dict[str, float] = {
    "Sigmoid": 1 / 4,
    "Tanh": 1.0,
    "Softsign": 1.0,
    "Hardtanh": 1.0,
    "Hardsigmoid": 1 / 6,
    "ReLU6": 1.0,
}

ACTIVATIONS = RECTIFIERS | LARGEST_SLOPE.keys() | {"SELU", "Softplus", "PReLU", "LogSigmoid", "Tanhshrink"}


def has_activation_of(trace: Trace, kind: frozenset[str]) -> bool:
    """Whether the model has an activation function of this kind, or may have one: none that is known was seen."""
    seen = {site.module_type for site in trace.sites if site.quantity is Quantity.OUTPUT} & ACTIVATIONS
    return not seen or bool(seen & kind)


def asked_gain(activation: str) -> float:
    """√fan_in · std(w) that keeps the signal's spread through a layer followed by `activation` ("" for none)."""
    return sqrt(2.0) if activation in RECTIFIERS else 1.0
