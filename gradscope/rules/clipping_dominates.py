"""GS503: clipping, not the gradient, sets the length of the step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.learning import norms, optimizer_of, trainable_parameters
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Ints, Trace


@dataclass(frozen=True)
class ClippingDominates(Rule):
    """Almost every step is clipped, and by a large factor.

    What it means: the learning rate no longer means what it says; the step has the length of the clip threshold
        divided by it, however good or bad the gradient is.
    How it is measured: the norm of all gradients as backward left them over their norm as the optimizer read them.
    Why the threshold: clipping is meant for the rare large gradient. Where nine steps of ten are cut to a tenth or
        less, the threshold is a second learning rate. Under an optimizer that divides the gradient's size out, this
        matters only where what is left comes near to its eps: else it is worth knowing.
    What to try: a clip threshold at the 90th percentile of the observed norms, which the message gives.
    Where it stays silent: clipping now and then, or by a small factor; a factor that is the same in every step, or
        a power of two in each, which is a loss scale and no clipping.
    Source: Pascanu et al. 2013, section 3.2 (a threshold from the average norm over many updates).
    """

    code = "GS503"
    name = "clipping-dominates"
    reads = frozenset({Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD})

    min_share: float = 0.9
    min_factor: float = 10.0
    min_steps: int = 5
    eps_margin: float = 10.0

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding, for the model as a whole."""
        raw, applied = (_total(trace, name) for name in ("raw", "applied"))
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = raw / applied
        known = np.isfinite(factor) & (factor > 0)
        if known.sum() < self.min_steps:
            raise NotJudged(
                f"needs {self.min_steps} steps with a gradient before and after clipping, the trace has {known.sum()}"
            )
        rows = np.flatnonzero(known & (factor > 1.001))
        share = len(rows) / known.sum()
        if not len(rows):
            return
        typical = float(np.median(factor[rows]))
        scales = np.log2(factor[known])
        a_scale = np.ptp(scales) < 0.01 or np.abs(scales - np.round(scales)).max() < 1e-4  # unscaling, not clipping
        if share < self.min_share or typical < self.min_factor or a_scale:
            return
        optimizer = optimizer_of(trace)
        left = _rms(trace, rows)
        harmless = optimizer.adaptive and left > self.eps_margin * optimizer.eps
        site = next(s for s in trace.sites if s.quantity is Quantity.TOTAL_NORM and s.name == "applied")
        high = float(np.percentile(raw[known], 90))
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.INFO if harmless else Severity.WARNING,
            module="",
            sites=(site,),
            first_step=int(trace.steps[rows[0]]),
            last_step=int(trace.steps[rows[-1]]),
            measured=typical,
            threshold=self.min_factor,
            unit="norm before / after",
            message=(
                f"{share:.0%} of the steps are clipped, typically to 1/{number(typical)} of the gradient: its norm is"
                f" {number(np.median(raw[rows]))} before and {number(np.median(applied[rows]))} after."
            ),
            cause=(
                f"The threshold lies far below the usual gradient, whose 90th percentile is {number(high)}."
                + (
                    f" {optimizer.name} divides the size of the gradient out, so that it costs little here."
                    if harmless
                    else ""
                )
            ),
            remedy=(
                (
                    f"Clip at {number(high)}"
                    if scales_all_alike(trace, rows)
                    else f"Raise the limit, which cuts elements or parameters one by one, {number(typical)}-fold"
                )
                + ", and lower the learning rate instead if that is too large a step: divided by"
                f" {number(typical)} it steps as far as this clipping does."
            ),
        )


def _total(trace: Trace, name: str) -> Doubles:
    columns = trace.columns(Quantity.TOTAL_NORM, "", name)
    return norms(trace, columns[0] if columns else None)


def scales_all_alike(trace: Trace, rows: Ints) -> bool:
    """Whether every parameter's gradient is cut by the same factor, as a clip by the total norm does."""
    pairs = [(p.grad, p.applied) for p in trainable_parameters(trace) if p.applied is not None]
    if not pairs:
        return True
    norm = trace.statistics[Statistic.L2_NORM][rows].astype(np.float64)
    raw, applied = (norm[:, list(columns)] for columns in zip(*pairs, strict=True))
    known = (raw > 0) & (applied > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.log(applied / raw)
    spread = np.max(factor, axis=1, where=known, initial=-np.inf) - np.min(factor, axis=1, where=known, initial=np.inf)
    several = known.sum(axis=1) > 1
    return not several.any() or float(np.median(spread[several])) < 0.01


def _rms(trace: Trace, rows: Ints) -> float:
    """Typical rms of the applied gradients."""
    columns = [p.applied for p in trainable_parameters(trace) if p.applied is not None]
    values = trace.statistics[Statistic.RMS][rows][:, columns]
    return float(np.nanmedian(values)) if values.size and not np.isnan(values).all() else 0.0
