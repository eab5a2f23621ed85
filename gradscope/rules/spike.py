"""A gradient that is a thousand times what it was in one step, which replaces the weights.

A rate that is too high makes the gradient grow from step to step, each by what the last one has done to the weights.
Here the steps before were as usual, and so was the rate: it is the gradient of this one batch that is too large.

Formula:
    factor = ‖g‖ / max ‖g‖ of the ten steps before, of all gradients as the optimizer read them
"""

from dataclasses import dataclass

import numpy as np

from gradscope.records import Quantity, Site
from gradscope.rules.aftermath import Aftermath, aftermath
from gradscope.rules.learning import effective_update_ratios, norms, trainable_parameters
from gradscope.trace import Doubles, Trace

_WINDOW = 10  # steps before
_LEAST = 3  # of them
SPIKE = 1e3  # times the largest of the steps before
_USUAL = 0.1  # of a weight: more than that may be what has made the gradient grow
_REPLACED = 1.0
_RATE = 3.0  # a schedule that has raised it by as much is another cause
_STAYS = 0.5  # of the loss before: a run that has come below that has got over it


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """The step and what it did.

    Attributes:
        row: Index of the step.
        site: That of the total norm.
        norm: Of all gradients in it.
        before: The largest of the steps before.
        moved: The largest ‖Δw‖/‖w‖ that it made.
        module: Whose weight that was.
        after: What became of the loss.
    """

    row: int
    site: Site
    norm: float
    before: float
    moved: float
    module: str
    after: Aftermath


def spike(trace: Trace) -> Spike | None:
    """The first such step that the run has not got over."""
    columns = trace.columns(Quantity.TOTAL_NORM, "", "applied") or trace.columns(Quantity.TOTAL_NORM, "", "raw")
    weights = [p for p in trainable_parameters(trace) if p.is_weight and p.update is not None]
    if not columns or not weights:
        return None
    norm, rate = norms(trace, columns[0]), trace.per_step["lr"].astype(np.float64)
    ratios = np.stack([np.nan_to_num(effective_update_ratios(trace, p), posinf=0.0) for p in weights])
    moved = ratios.max(axis=0)
    for row in map(int, np.flatnonzero(np.isfinite(norm) & (moved >= _REPLACED))):
        earlier = norm[max(0, row - _WINDOW) : row]
        usual = bool((moved[max(0, row - _WINDOW) : row] < _USUAL).all())
        before = float(np.max(earlier, initial=0.0, where=np.isfinite(earlier)))
        if len(earlier) < _LEAST or not usual or not before > 0 or _is_raised(rate, row):
            return None  # what made it began before
        after = aftermath(trace.per_step["loss"], row)
        if norm[row] < SPIKE * before or after is None:
            return None
        if after.end >= _STAYS:
            module = weights[int(ratios[:, row].argmax())].module
            return Spike(
                row=row,
                site=trace.sites[columns[0]],
                norm=float(norm[row]),
                before=before,
                moved=float(moved[row]),
                module=module,
                after=after,
            )
    return None


def _is_raised(rate: Doubles, row: int) -> bool:
    """Whether the learning rate of that step is far above those before."""
    earlier = rate[:row][np.isfinite(rate[:row])]
    return bool(len(earlier)) and bool(rate[row] > _RATE * np.median(earlier))
