"""What a module does to the gradient that goes back through it, by the name of its class: reports know no torch."""

from enum import StrEnum

# They halve the mean square of a centred input, so the weights before them must double it (He et al. 2015, eq. 10).
RECTIFIERS = frozenset({
    "ReLU", "LeakyReLU", "RReLU", "GELU", "SiLU", "Mish", "Hardswish", "ELU", "CELU", "ReLU6", "Threshold",
    # modules of transformers
    "GELUActivation", "NewGELUActivation", "FastGELUActivation", "QuickGELUActivation", "AccurateGELUActivation",
    "ClippedGELUActivation", "GELUTanh", "SiLUActivation", "MishActivation",
})  # fmt: skip

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


class Kind(StrEnum):
    """What takes from the gradient or adds to it."""

    ACTIVATION = "activation"
    WEIGHTS = "weights"
    NORMALISATION = "normalisation"
    ATTENTION = "attention"
    RECURRENCE = "recurrence"
    SKIP = "skip path"
    BRANCHES = "parallel branches"
    POOLING = "pooling"
    OTHER = "functions between modules"


_RECURRENT = frozenset({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"})
_WEIGHTED = ("Linear", "Conv", "Embedding", "Bilinear")
_REDUCING = ("Pool", "Upsample", "PixelShuffle", "PixelUnshuffle", "Fold")


def kind_of(module_type: str, *, has_weight: bool) -> Kind:
    """What a module of this class does; `has_weight` decides of those that are not known by name."""
    if module_type in ACTIVATIONS or module_type in ("GLU", "Softmax", "LogSoftmax", "Softmin", "Softmax2d"):
        return Kind.ACTIVATION
    if "Norm" in module_type:
        return Kind.NORMALISATION
    if "Attention" in module_type:
        return Kind.ATTENTION
    if module_type in _RECURRENT:
        return Kind.RECURRENCE
    if any(word in module_type for word in _REDUCING):
        return Kind.POOLING
    if has_weight or any(word in module_type for word in _WEIGHTED):
        return Kind.WEIGHTS
    return Kind.OTHER
