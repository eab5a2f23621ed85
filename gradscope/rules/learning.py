"""Who moves the weights, by how much, and which parameters nobody moves."""

from dataclasses import dataclass

import numpy as np

from gradscope.records import Quantity, Statistic
from gradscope.rules.layers import LOOKUPS, scales_only, size_of
from gradscope.trace import Doubles, Trace

# They divide by a running size of the gradient, so that its scale cancels.
ADAPTIVE = frozenset(
    {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "SparseAdam", "RMSprop", "Adagrad", "Adadelta", "Adafactor", "Rprop"}
)
_LEAST_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """What the trace knows of the first optimizer.

    Attributes:
        name: Its class; "" if none was attached.
        adaptive: Whether it normalises the gradient.
        eps: Floor of its denominator; 0 if it has none.
    """

    name: str
    adaptive: bool
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A trainable parameter; each column is None where the trace has no such site."""

    module: str
    module_type: str
    name: str
    depth: int
    size: float
    weight: int | None
    grad: int
    applied: int | None
    update: int | None

    @property
    def is_weight(self) -> bool:
        """Whether it mixes its inputs: no bias, no scale of a normalisation, no single number."""
        return "bias" not in self.name and self.size >= _LEAST_SIZE and not scales_only(self.module_type)


def optimizer_of(trace: Trace) -> Optimizer:
    """The first attached optimizer."""
    known = trace.meta.get("optimizers")
    about = known[0] if isinstance(known, list) and known else {}
    if not isinstance(about, dict):
        about = {}
    name, eps = about.get("type", ""), about.get("eps", 0.0)
    return Optimizer(
        name=str(name),
        adaptive=str(name) in ADAPTIVE or "betas" in about,
        eps=float(eps) if isinstance(eps, int | float) else 0.0,
    )


def has_optimizer(trace: Trace) -> bool:
    """Whether an optimizer was attached, so that a parameter without an update is one it does not hold."""
    return bool(trace.meta.get("optimizers"))


def reached(trace: Trace) -> bool:
    """Whether a gradient reached any parameter in any recorded step; true where gradients were not recorded at all."""
    columns = trace.columns(Quantity.WEIGHT_GRAD)
    seen = [trace.statistics[s][:, columns] for s in (Statistic.L2_NORM, Statistic.NONFINITE_COUNT)]
    return not columns or not all(np.isnan(values).all() for values in seen)


def trainable_parameters(trace: Trace) -> tuple[Parameter, ...]:
    """All parameters that require a gradient, by depth; those that never ran first."""
    column = {(s.module, s.name, s.quantity): i for i, s in enumerate(trace.sites)}
    found = []
    for grad in trace.columns(Quantity.WEIGHT_GRAD):
        site = trace.sites[grad]
        weight = column.get((site.module, site.name, Quantity.WEIGHT))
        found.append(
            Parameter(
                module=site.module,
                module_type=site.module_type,
                name=site.name,
                depth=site.depth,
                size=max(size_of(trace, grad), size_of(trace, weight) if weight is not None else 0.0),
                weight=weight,
                grad=grad,
                applied=column.get((site.module, site.name, Quantity.APPLIED_GRAD)),
                update=column.get((site.module, site.name, Quantity.WEIGHT_UPDATE)),
            )
        )
    return tuple(found)


def norms(trace: Trace, column: int | None) -> Doubles:
    """‖·‖₂ at a site over the steps; NaN where not observed, all NaN without a site."""
    if column is None:
        return np.full(len(trace.steps), np.nan)
    return trace.statistics[Statistic.L2_NORM][:, column].astype(np.float64)


def update_ratios(trace: Trace, parameter: Parameter) -> Doubles:
    """‖Δw‖₂ / ‖w‖₂ over the steps; NaN where either was not observed or the weight is zero."""
    weight = norms(trace, parameter.weight)
    return norms(trace, parameter.update) / np.where(weight > 0, weight, np.nan)


def effective_update_ratios(trace: Trace, parameter: Parameter) -> Doubles:
    """‖Δw‖₂ over ‖w‖₂ or, where that is larger, over the norm that a weight of this size is usually drawn with.

    A head that starts at zero or nearly so must grow by more than itself; that is how it leaves zero. Look-up tables
    have a fan-in of 1, others are taken as square.
    """
    fan = 1.0 if parameter.module_type in LOOKUPS else np.sqrt(parameter.size)
    usual = np.sqrt(parameter.size / max(fan, 1.0)) / np.sqrt(3.0)  # std 1/√(3 fan_in): what torch draws by default
    return np.asarray(norms(trace, parameter.update) / np.fmax(norms(trace, parameter.weight), usual))
