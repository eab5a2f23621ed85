"""What theory says of a wide random network: by which factor a layer changes the mean square of a gradient.

A report prints these numbers beside the measured ones. All factors are of the *mean square*; the gain, a factor of the
rms, is their square root. Source: Poole et al. 2016; Schoenholz et al. 2017, eq. 5 and 9.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]
Function: TypeAlias = Callable[[Doubles], Doubles]

TORCH_LINEAR = 1 / 3  # n·Var(w) of nn.Linear's default init, uniform in ±1/√n
HE = 2.0
BATCH_NORM_RELU = math.pi / (math.pi - 1)  # He or any other init: normalisation cancels it. Yang et al. 2019, cor. 3.2

LEAK = 0.01  # nn.LeakyReLU's default slope below zero

# A standard normal z on a grid. The trapezoid rule converges exponentially for smooth integrands, and unlike
# Gauss–Hermite with its few nodes near 0 it does not step over a narrow slope such as tanh′(11 z).
_Z = np.linspace(-9.0, 9.0, 7201)
_DENSITY = np.exp(-0.5 * _Z**2) / math.sqrt(2 * math.pi) * (_Z[1] - _Z[0])


def expectation(function: Function, q: float) -> float:
    """E[f(√q z)] for a standard normal z."""
    return float(np.sum(function(math.sqrt(q) * _Z) * _DENSITY))


def slope_square(module_type: str, mean: float, std: float) -> float | None:
    """E[φ′(x)²] for a normal x, φ the activation function of this class of torch.nn; None where it is not known."""
    function = _CLASSES.get(module_type)
    if function is None:
        return None
    if module_type == "ReLU":  # exact: how much of x is above zero
        return 0.5 * math.erfc(-mean / (std * math.sqrt(2))) if std > 0 else float(mean > 0)
    return expectation(lambda x: function(x + mean) ** 2, std**2)


def pre_activation(activation: str, q: float, weight_variance: float, bias_variance: float = 0.0) -> float:
    """Mean square of the next layer's pre-activation: σ_w² E[φ(√q z)²] + σ_b², for one of mean square `q`."""
    value, _ = _FUNCTIONS[activation]
    return weight_variance * expectation(lambda x: value(x) ** 2, q) + bias_variance


def fixed_point(activation: str, weight_variance: float, bias_variance: float = 0.0, *, start: float = 1.0) -> float:
    """The mean square of a pre-activation that deep layers settle at; `start` itself for a ReLU with He init."""
    q = start
    for _ in range(2000):
        q, before = pre_activation(activation, q, weight_variance, bias_variance), q
        if abs(q - before) <= 1e-12 * before or not 1e-30 < q < 1e30:
            break
    return q


def gradient_factor(activation: str, q: float, weight_variance: float) -> float:
    """χ = σ_w² E[φ′(√q z)²], the factor of a layer whose pre-activation has the mean square `q`."""
    if activation in ("relu", "leaky-relu"):  # exact, and free of q: the slope depends on the sign alone
        leak = LEAK if activation == "leaky-relu" else 0.0
        return weight_variance * (1 + leak**2) / 2
    _, slope = _FUNCTIONS[activation]
    return weight_variance * expectation(lambda x: slope(x) ** 2, q)


def deep_gradient_factor(activation: str, weight_variance: float, bias_variance: float = 0.0) -> float:
    """χ at the fixed point: what a layer far from the input does."""
    return gradient_factor(activation, fixed_point(activation, weight_variance, bias_variance), weight_variance)


def mean_gradient_factor(activation: str, weight_variance: float, *, layers: int, first: float) -> float:
    """Geometric mean of χ over the hidden layers of a net that starts with a pre-activation of mean square `first`.

    Where the fixed point is far (tanh at σ_w² = 1 nears it as 1/depth), this is what a net of this depth shows.
    """
    q, logs = first, []
    for _ in range(layers):
        logs.append(math.log(gradient_factor(activation, q, weight_variance)))
        q = min(pre_activation(activation, q, weight_variance), 1e100)  # beyond, only the factor of a ReLU counts
    return math.exp(sum(logs) / len(logs))


def slope_bound(activation: str) -> float:
    """The largest |φ′|: no gradient passes the activation with a larger factor. 1/4 for a sigmoid."""
    _, slope = _FUNCTIONS[activation]
    return float(np.abs(slope(np.linspace(-30, 30, 60001))).max())


def _sigmoid(x: Doubles) -> Doubles:
    return 0.5 + 0.5 * np.tanh(x / 2)  # does not overflow, unlike 1 / (1 + exp(−x))


def _normal_cdf(x: Doubles) -> Doubles:
    erf: Doubles = np.vectorize(math.erf)(x / math.sqrt(2))
    return 0.5 + 0.5 * erf


def _silu_slope(x: Doubles) -> Doubles:
    return _sigmoid(x) * (1 + x * (1 - _sigmoid(x)))


def _within(low: float, high: float, slope: float = 1.0) -> Function:
    return lambda x: np.where((x > low) & (x < high), slope, 0.0)


def _exponential(alpha: float, scale: float) -> Function:
    return lambda x: scale * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0)))


def _gelu_slope(x: Doubles) -> Doubles:
    return _normal_cdf(x) + x * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


# φ and φ′
_FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * (1 - _sigmoid(x))),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0).astype(np.float64)),
    "leaky-relu": (lambda x: np.where(x > 0, x, LEAK * x), lambda x: np.where(x > 0, 1.0, LEAK)),
    "gelu": (lambda x: x * _normal_cdf(x), _gelu_slope),
    "linear": (lambda x: x, np.ones_like),
}


# φ′ by class of torch.nn, with its default arguments
_CLASSES: dict[str, Function] = {
    "Sigmoid": _FUNCTIONS["sigmoid"][1],
    "Tanh": _FUNCTIONS["tanh"][1],
    "ReLU": _FUNCTIONS["relu"][1],
    "LeakyReLU": _FUNCTIONS["leaky-relu"][1],
    "GELU": _gelu_slope,
    "SiLU": _silu_slope,
    "Softplus": _sigmoid,
    "Softsign": lambda x: 1 / (1 + np.abs(x)) ** 2,
    "Hardtanh": _within(-1, 1),
    "ReLU6": _within(0, 6),
    "Hardsigmoid": _within(-3, 3, 1 / 6),
    "ELU": _exponential(1.0, 1.0),
    "SELU": _exponential(1.6732632423543772, 1.0507009873554805),
    "Identity": np.ones_like,
}
KNOWN_CLASSES = frozenset(_CLASSES)
