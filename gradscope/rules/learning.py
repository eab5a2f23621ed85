"""Who moves the weights, by how much, and which parameters nobody moves."""

from dataclasses import dataclass

import numpy as np

from gradscope.once import once
from gradscope.records import Quantity, Statistic
from gradscope.rules.layers import LOOKUPS, scales_only, size_of
from gradscope.rules.parameter_groups import Group, group_by_parameter
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
    def full_name(self) -> str:
        """As in `named_parameters()`."""
        return f"{self.module}.{self.name}".lstrip(".")

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


def moved_by_another(trace: Trace, parameter: Parameter) -> bool:
    """Whether a weight that no attached optimizer holds changes all the same: by an optimizer that was not attached."""
    if parameter.update is not None or parameter.weight is None:
        return False
    seen = np.stack([trace.statistics[s][:, parameter.weight] for s in (Statistic.MEAN, Statistic.RMS, Statistic.MAX)])
    known = seen[:, ~np.isnan(seen).any(axis=0)]
    return bool(np.any(known[:, 1:] != known[:, :-1]))


@once
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


def is_replaced(trace: Trace, module: str, row: int) -> bool:
    """Whether a weight of `module` moved by its own norm or more in that recorded step."""
    for update in trace.columns(Quantity.WEIGHT_UPDATE, module):
        name = trace.sites[update].name
        weight = trace.columns(Quantity.WEIGHT, module, name)
        if "bias" not in name and weight and norms(trace, update)[row] >= norms(trace, weight[0])[row] > 0:
            return True
    return False


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


def learned_ratios(trace: Trace, parameter: Parameter, group: Group | None) -> Doubles:
    """Update ratios without what weight decay has done, of a look-up table over the rows that were looked up."""
    ratios = update_ratios(trace, parameter)
    if parameter.module_type in LOOKUPS:
        idle = trace.statistics[Statistic.ZERO_FRACTION][:, parameter.grad].astype(np.float64)
        ratios = ratios / np.sqrt(np.where(idle < 1, 1 - np.nan_to_num(idle), 1.0))
    return without_decay(trace, parameter, group, ratios)


def without_decay(trace: Trace, parameter: Parameter, group: Group | None, ratios: Doubles) -> Doubles:
    """What is left of update ratios without weight decay.

    Decay that is part of the gradient takes its share of it; decay that is a step of its own is taken off as if the
    two stood at right angles.
    """
    if group is None or not group.weight_decay > 0:
        return np.asarray(ratios)
    if not group.decoupled:
        gradient, decay = norms(trace, parameter.grad), group.weight_decay * norms(trace, parameter.weight)
        return np.asarray(ratios * gradient / np.where(gradient + decay > 0, gradient + decay, 1.0))
    decay = rates(trace, group) * group.weight_decay
    by_itself = np.abs(ratios**2 - decay**2)
    return np.asarray(np.where(by_itself < 2e-3 * decay**2, 0.0, np.sqrt(by_itself)))


def rates(trace: Trace, group: Group) -> Doubles:
    """Learning rate of `group` over the steps; the trace has that of the first group, the others are said to follow."""
    now = trace.per_step["lr"].astype(np.float64)
    first = group.of_first
    return np.where(np.isnan(now) | (not first > 0), group.lr, now * (group.lr / first if first > 0 else 1.0))


def promised(trace: Trace) -> Doubles:
    """The most by which a step could lower the loss if it went straight downhill, as a share of the loss.

    Formula: Σ ‖∂L/∂w‖ ‖Δw‖ / |L| over the parameters, without weight decay: the first-order change of the loss at a
        cosine of 1. A factor on the loss cancels. NaN where the loss is not known.
    """
    total, groups = np.zeros(len(trace.steps)), group_by_parameter(trace)
    for parameter in trainable_parameters(trace):
        gradient = norms(trace, parameter.grad if parameter.applied is None else parameter.applied)
        moved = norms(trace, parameter.update)
        group = groups.get(parameter.full_name)
        if group is not None and group.weight_decay > 0:
            weight = norms(trace, parameter.weight)
            moved = np.where(
                weight > 0, without_decay(trace, parameter, group, update_ratios(trace, parameter)) * weight, moved
            )
        total += np.nan_to_num(gradient * moved)
    loss = np.abs(trace.per_step["loss"].astype(np.float64))
    return np.asarray(total / np.where(loss > 0, loss, np.nan))
