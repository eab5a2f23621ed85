"""A gradient that is tiny where the loss hands it over already, so that no customary rate moves anything.

The share of the loss that an output moves does not tell it: where a logarithm or a softplus is far out, the loss is as
tiny as its slope. Nor does the size of the gradients of the weights: these may have been lost on the way.

Formula:
    slope = max ‖∂L/∂y‖₂ √n over the outputs that nothing but the loss follows, n elements each: of a mean over n
        elements, the usual slope of one of them, near 1
"""

import numpy as np

from gradscope.findings import Finding, Severity
from gradscope.flow import flow_of
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.learning import promised, trainable_parameters
from gradscope.rules.standstill import Why, motions_of, still_throughout
from gradscope.trace import Trace

_STILL = 1e-4  # of the weights, and of the loss in a step: where GS501 says that nothing moves
FAINT = 1e-4
_LEAST = 3


def faintness(trace: Trace) -> float | None:
    """The largest slope of the run, if it is that which keeps every weight where it is; else None."""
    weights = [p for p in trainable_parameters(trace) if p.is_weight and p.update is not None]
    flow = flow_of(trace)
    motions = motions_of(trace, weights, _LEAST)
    if flow is None or not motions:
        return None
    still = still_throughout(trace, motions, promised(trace), ratio=_STILL, promise=_STILL)
    if still is None or still.why not in (Why.GRADIENT, Why.EPS):
        return None
    columns = [c for end in flow.ends for c in trace.columns(Quantity.OUTPUT_GRAD, end.module)]
    norm, size, broken = (
        trace.statistics[s][:, columns].astype(np.float64)
        for s in (Statistic.L2_NORM, Statistic.NUMEL, Statistic.NONFINITE_COUNT)
    )
    slopes = (norm * np.sqrt(size))[~np.isnan(norm)]
    if not len(slopes) or (broken > 0).any() or not 0 < slopes.max() <= FAINT:
        return None
    return float(slopes.max())


def faint_finding(code: str, name: str, trace: Trace, site: Site, slope: float) -> Finding:
    """That the loss hands that little back to the last layer."""
    return Finding(
        code=code,
        pathology=name,
        severity=Severity.ERROR,
        module=site.module,
        sites=(site,),
        first_step=int(trace.steps[0]),
        last_step=int(trace.steps[-1]),
        measured=slope,
        threshold=FAINT,
        unit="‖∂L/∂y‖₂ √n",
        message=(
            f"What the loss hands back to {site.module or 'the model'} is at most {slope:.1e} for an element of a mean,"
            f" where 1 is usual, in {len(trace.steps)} recorded steps: no weight moves."
        ),
        cause=(
            "The gradient is that small before it goes through any layer: the function behind it is almost flat there,"
            " as a logarithm of a sigmoid is far out, or has a tiny factor."
        ),
        remedy=(
            "Use a loss that is steep where the outputs are wrong, as -log D in place of log(1 - D) for a generator; if"
            f" it is only a factor, multiply the loss by {1 / slope:.0e}."
        ),
    )
