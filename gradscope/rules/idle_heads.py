"""Outputs of the model that the loss hands a gradient of exactly zero, while others get one.

What gets none at all is not used. What is used and gets nothing but zeros has a loss that is flat there: a ratio
outside its clip, a margin that is met, a factor of zero. It has to be an output by itself, that feeds nothing else and
comes to the loss as it is: what the model multiplies or chooses on the way is the model's affair.
"""

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.flow import Flow, Vertex, flow_of
from gradscope.links import OUTPUT
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.layers import learned_layers
from gradscope.rules.learning import has_optimizer, trainable_parameters
from gradscope.trace import Trace

# Functions that only look at elements of a tensor from another side.
_VIEWS = (
    "Alias", "As", "Expand", "Permute", "Reshape", "Select", "Slice", "Squeeze", "Swap", "T", "ToCopy", "Transpose",
    "Unsafe", "Unsqueeze", "View",
)  # fmt: skip


def idle_heads(trace: Trace, least: int) -> list[Site]:
    """The output of the last layer with weights before each such place, by depth."""
    flow = flow_of(trace)
    if flow is None:
        return []
    found = {}
    for end in flow.ends:
        owner = _owner(trace, flow, end.module)
        if owner is not None and _leaves_alone(flow, end) and _gets_zeros(trace, end.module, least):
            found[owner.module] = owner
    return sorted(found.values(), key=lambda site: site.depth)


def _leaves_alone(flow: Flow, end: Vertex) -> bool:
    """Whether what is returned there goes to the output only, as it is."""
    ways = [flow.through.get((end, after), ()) for after in flow.after[end]]
    outside = all(after.module == OUTPUT for after in flow.after[end])
    alone = all(len(flow.before[after]) == 1 for after in flow.after[end])
    return outside and alone and all(name.startswith(_VIEWS) for way in ways for name in way)


def _gets_zeros(trace: Trace, module: str, least: int) -> bool:
    """Whether the gradient of what it returns was seen and was zero in every step."""
    columns = trace.columns(Quantity.OUTPUT_GRAD, module)
    norm, broken = (trace.statistics[s][:, columns] for s in (Statistic.L2_NORM, Statistic.NONFINITE_COUNT))
    seen = ~np.isnan(norm)
    return bool(seen.any(axis=1).sum() >= least) and not (norm[seen] > 0).any() and not (broken > 0).any()


def _owner(trace: Trace, flow: Flow, module: str) -> Site | None:
    """The output of the layer that made it, if an optimizer holds it."""
    layers = {layer.module for layer in learned_layers(trace)}
    held = {p.module for p in trainable_parameters(trace) if p.update is not None or not has_optimizer(trace)}
    while module not in layers:
        feeding = flow.feeds(module)
        if len(feeding) != 1:
            return None
        module = feeding[0]
    columns = trace.columns(Quantity.OUTPUT, module)
    return trace.sites[columns[0]] if columns and module in held else None


def idle_finding(code: str, name: str, trace: Trace, site: Site) -> Finding:
    """That the loss hands nothing back to that layer."""
    return Finding(
        code=code,
        pathology=name,
        severity=Severity.ERROR,
        module=site.module,
        sites=(site,),
        first_step=int(trace.steps[0]),
        last_step=int(trace.steps[-1]),
        measured=0.0,
        threshold=0.0,
        unit="‖∂L/∂y‖₂",
        message=(
            f"What the loss hands back to {site.module or 'the model'} is exactly zero in {len(trace.steps)} recorded"
            " steps, while other outputs get a gradient."
        ),
        cause=(
            "The loss uses that output, but is flat there: a ratio outside its clip, a clamp, a margin that is met, or"
            " a weight of zero."
        ),
        remedy=f"Take the clamp or the zero factor off the term of the loss that {site.module or 'the output'} is in.",
    )
