"""The learned layers of a model in the order they run, and how large their weights are for what follows them.

Rules that judge slopes compare like with like: one value for each layer that has a weight, taken before the activation
function. Normalisation layers are left out: their weights scale, they do not mix.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.once import once
from gradscope.records import Quantity, Statistic
from gradscope.rules.activations import ACTIVATIONS, asked_gain
from gradscope.trace import Doubles, Trace

LOOKUPS = frozenset({"Embedding", "EmbeddingBag"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a slope is measured: a layer, or what a module was given, where several branches join.

    Attributes:
        module: Its name.
        module_type: Its class.
        depth: Order of its first execution.
        closes: Whether paths join in it that have parted behind the place before: something leads around what is
            between, as in a residual net. Parallel towers, each with an input of its own, part nowhere.
    """

    module: str
    module_type: str
    depth: int
    closes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer(Place):
    """A module that ran and owns a weight.

    Attributes:
        weight: Column of its largest parameter.
        bias: Column of its bias; None without one.
        activation: Class of the activation function that ran next; "" if none did before the next layer.
    """

    weight: int
    bias: int | None
    activation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """log₁₀ of one statistic of each learned layer, or other place, from the input to the output.

    Attributes:
        columns: Of the trace, one for each place. Shape (layer,).
        layers: Which they are.
        values: Shape (step, layer); NaN where not observed, not finite, or zero.
    """

    columns: tuple[int, ...]
    layers: tuple[Place, ...]
    values: Doubles


def scales_only(module_type: str) -> bool:
    """Whether the weights of a module only scale its input: normalisation layers and PReLU."""
    return "Norm" in module_type or module_type == "PReLU"


@once
def learned_layers(trace: Trace) -> tuple[Layer, ...]:
    """All layers that ran at least once, by depth."""
    weights: dict[str, int] = {}
    biases: dict[str, int] = {}
    for column in trace.columns(Quantity.WEIGHT):
        site, size = trace.sites[column], size_of(trace, column)
        if site.depth < 1 or scales_only(site.module_type):
            continue
        if site.name == "bias":
            biases[site.module] = column
        elif "bias" not in site.name and size > 1:
            known = weights.get(site.module)
            if known is None or size > size_of(trace, known):
                weights[site.module] = column
    ran = sorted({(s.depth, s.module, s.module_type) for s in trace.sites if s.depth >= 1})
    layers = []
    for place, (depth, module, module_type) in enumerate(ran):
        if module in weights:
            after = next((t for _, m, t in ran[place + 1 :] if m in weights or t in ACTIVATIONS), "")
            layers.append(
                Layer(
                    module=module,
                    module_type=module_type,
                    depth=depth,
                    weight=weights[module],
                    bias=biases.get(module),
                    activation=after if after in ACTIVATIONS else "",
                )
            )
    return tuple(layers)


def profile_of(trace: Trace, quantity: Quantity, stat: Statistic) -> Profile:
    """`stat` of `quantity` at every learned layer that has it."""
    first: dict[str, int] = {}
    for column in trace.columns(quantity):
        first.setdefault(trace.sites[column].module, column)
    layers = tuple(layer for layer in learned_layers(trace) if layer.module in first)
    columns = [first[layer.module] for layer in layers]
    seen = [i for i, c in enumerate(columns) if size_of(trace, c) > 1]
    layers, columns = tuple(layers[i] for i in seen), [columns[i] for i in seen]
    return Profile(columns=tuple(columns), layers=layers, values=logarithms(trace, columns, stat))


def logarithms(trace: Trace, columns: Sequence[int], stat: Statistic) -> Doubles:
    """log₁₀ of `stat` at each of `columns`; NaN where not observed, not finite, or zero. Shape (step, column)."""
    values = trace.statistics[stat][:, list(columns)].astype(np.float64)
    broken = trace.statistics[Statistic.NONFINITE_COUNT][:, list(columns)] > 0
    usable = (values > 0) & np.isfinite(values) & ~broken
    return np.log10(np.where(usable, values, np.nan))


def relative_scale(trace: Trace, layer: Layer) -> Doubles:
    """rms(w) · √fan_in over what He (rectifiers) or Xavier (others) ask for, per step.

    1 keeps the spread of the signal. NaN for a look-up table, which sums over nothing, and where a parametrization
    makes the weight.
    """
    rms = trace.statistics[Statistic.RMS][:, layer.weight].astype(np.float64)
    if layer.module_type in LOOKUPS or has_made_weight(trace, layer):
        return np.full(len(rms), np.nan)
    return np.asarray(rms * np.sqrt(fan_in(trace, layer)) / asked_gain(layer.activation))


def has_made_weight(trace: Trace, layer: Layer) -> bool:
    """Whether a parametrization makes the weight from what the trace has; weight_norm begins with the weight."""
    name = trace.sites[layer.weight].name
    return name.startswith("parametrizations.") and not name.endswith(".original1")


def fan_in(trace: Trace, layer: Layer) -> float:
    """How many inputs one output of `layer` sums over: the elements of a row of its weight.

    Where the trace does not tell the weight's shape: numel(w) / numel(b), without a bias as of a square matrix.
    """
    site = trace.sites[layer.weight]
    shapes = trace.meta.get("shapes")
    shape = shapes.get(f"{site.module}.{site.name}".lstrip(".")) if isinstance(shapes, Mapping) else None
    if isinstance(shape, list) and len(shape) > 1:
        return float(math.prod(n for n in shape[1:] if isinstance(n, int)))
    size = size_of(trace, layer.weight)
    outputs = size_of(trace, layer.bias) if layer.bias is not None else 0.0
    return size / outputs if outputs and size % outputs == 0 else float(np.sqrt(size))


def size_of(trace: Trace, column: int) -> float:
    """Number of elements at a site, the most ever seen; 0 where it was never observed."""
    return float(_sizes(trace)[column])


@once
def _sizes(trace: Trace) -> NDArray[np.float32]:
    return np.asarray(np.fmax.reduce(trace.statistics[Statistic.NUMEL], axis=0, initial=0.0))
