"""GS503: clipping, not the gradient, sets the length of the step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.gain import Bools
from gradscope.rules.learning import Optimizer, norms, optimizer_of, trainable_parameters, update_ratios
from gradscope.rules.losses import has_fallen
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Ints, Trace


@dataclass(frozen=True)
class ClippingDominates(Rule):
    """Almost every step is clipped, and by a large factor.

    What it means: the learning rate no longer means what it says; the step has the length of the clip threshold
        divided by it, however good or bad the gradient is.
    How it is measured: the norm of all gradients as backward left them over their norm as the optimizer read them.
    Why the threshold: clipping is meant for the rare large gradient. Where nine steps of ten are cut to a tenth or
        less, the threshold is a second learning rate; so where that begins later and lasts for the last third of the
        run, which counts where nothing moves any more that would without clipping. It is an error where what is left
        moves no weight by 1e-4 of itself in any step; a warning where the model learns slower than its learning rate
        says; worth knowing where that costs nothing: under an optimizer that divides the gradient's size out, as long
        as what is left stays above its eps, and where the steps are of a usual size (1e-3 of some weight) and would be
        too large without clipping (0.3), so that the two together are the learning rate. From a hundredth on that is
        so only where the loss comes down, by a quarter at least: the ratio of two numbers that wrong is chance.
    What to try: a clip threshold at the 90th percentile of the observed norms, which the message gives.
    Where it stays silent: clipping now and then, or by a small factor; a factor that is the same in every step, or
        a power of two in each, which is a loss scale and no clipping; on top of such a scale, what it leaves.
    Source: Pascanu et al. 2013, section 3.2 (a threshold from the average norm over many updates).
    """

    code = "GS503"
    name = "clipping-dominates"
    reads = frozenset({Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD})

    min_share: float = 0.9
    late: float = 1 / 3  # of the steps, at the end of the run
    min_factor: float = 10.0
    min_steps: int = 5
    eps_margin: float = 10.0
    still: float = 1e-4
    usual: float = 1e-3
    too_large: float = 0.3
    extreme_factor: float = 100.0
    learned: float = 0.75  # of the first loss

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
        factor = factor / _scale(factor[known])
        begin = self._begin(known, factor)
        known &= np.arange(len(known)) >= begin
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
        above_eps = optimizer.adaptive and _rms(trace, rows) > self.eps_margin * optimizer.eps
        moved = _largest_ratios(trace)[known]
        usual = float(np.nanmedian(moved)) if np.isfinite(moved).any() else float("nan")
        enough = usual >= self.usual and usual * typical >= self.too_large
        enough &= typical < self.extreme_factor or not self._stays(trace)
        severity = Severity.INFO if above_eps or enough else Severity.WARNING
        if severity is Severity.WARNING and np.nanmax(moved, initial=-1.0) < self.still and usual >= 0:
            severity = Severity.ERROR
        if begin and not (severity is Severity.ERROR and usual * typical >= self.usual):
            severity = Severity.INFO  # a rate that falls, or a gradient that grows, makes late steps small as well
        site = next(s for s in trace.sites if s.quantity is Quantity.TOTAL_NORM and s.name == "applied")
        high = float(np.percentile(raw[known], 90))
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=severity,
            module="",
            sites=(site,),
            first_step=int(trace.steps[rows[0]]),
            last_step=int(trace.steps[rows[-1]]),
            measured=typical,
            threshold=self.min_factor,
            unit="norm before / after",
            message=(
                f"{share:.0%} of the steps are clipped, typically to 1/{number(typical)} of the gradient: its norm is"
                f" {number(np.median(raw[rows]))} before and {number(np.median(applied[rows]))} after,"
                f" {_direction(trace, rows)}."
            ),
            cause=(
                f"The threshold lies far below the usual gradient, whose 90th percentile is {number(high)}."
                f"{self._cost(optimizer, usual, typical, above_eps=above_eps)}"
            ),
            remedy=self._remedy(optimizer, high, usual, typical, by_norm=scales_all_alike(trace, rows)),
        )

    def _stays(self, trace: Trace) -> bool:
        """Whether the loss is known and does not come down."""
        known = int(np.isfinite(trace.per_step["loss"]).sum()) >= 2 * self.min_steps
        return known and not has_fallen(trace, to=self.learned)

    def _begin(self, known: Bools, factor: Doubles) -> int:
        """The step from which on clipping is judged: 0, or where heavy clipping begins that lasts to the end."""
        heavy, judged = factor >= self.min_factor, np.flatnonzero(known)
        if (factor[judged] > 1.001).mean() >= self.min_share:
            return 0
        last = judged[-max(self.min_steps, int(self.late * len(judged))) :]
        if not heavy[last].all():
            return 0
        before = np.flatnonzero(known & ~heavy)
        return int(before[-1]) + 1 if len(before) else 0

    def _cost(self, optimizer: Optimizer, usual: float, typical: float, *, above_eps: bool) -> str:
        if above_eps:
            return f" {optimizer.name} divides the size of the gradient out, so that it costs little here."
        if optimizer.adaptive:
            return (
                f" What is left comes near to the eps of {optimizer.name}, {optimizer.eps:g}, which sets the step now."
            )
        if not usual > 0:
            return ""
        further = number(usual * typical)
        return (
            f" The weight that moves most does so by {number(usual)} of its norm in the median step; without clipping"
            f" it would be {further}."
        )

    def _remedy(self, optimizer: Optimizer, high: float, usual: float, typical: float, *, by_norm: bool) -> str:
        lift = f"Clip at {number(high)}"
        if not by_norm:
            lift = f"Raise the limit, which cuts elements or parameters one by one, {number(typical)}-fold"
        if optimizer.adaptive or usual * typical < self.too_large:
            return f"{lift}, the learning rate may stay as it is."
        return f"{lift}, and divide the learning rate by {number(typical)}: it then steps as far as this clipping does."


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


def _scale(factor: Doubles) -> float:
    """The loss scale that every factor contains: the least of them, if a tenth of the steps have just that; else 1."""
    least = float(factor.min())
    return least if (factor < 1.0001 * least).sum() >= max(2, 0.1 * len(factor)) else 1.0


def _largest_ratios(trace: Trace) -> Doubles:
    """By which part of itself the weight that moved most did so, in each step."""
    ratios = [update_ratios(trace, p) for p in trainable_parameters(trace) if p.is_weight and p.update is not None]
    return np.fmax.reduce(ratios) if ratios else np.full(len(trace.steps), np.nan)


def _direction(trace: Trace, rows: Ints) -> str:
    """What has become of the direction, as far as the norms of the parameters tell.

    The cosine of two vectors is at most that of the norms of their parts.
    """
    if scales_all_alike(trace, rows):
        return "all parameters by the same factor"
    pairs = [(p.grad, p.applied) for p in trainable_parameters(trace) if p.applied is not None]
    norm = np.nan_to_num(trace.statistics[Statistic.L2_NORM][rows].astype(np.float64))
    raw, applied = (norm[:, list(columns)] for columns in zip(*pairs, strict=True))
    lengths = np.linalg.norm(raw, axis=1) * np.linalg.norm(applied, axis=1)
    cosine = (raw * applied).sum(axis=1)[lengths > 0] / lengths[lengths > 0]
    return f"in a direction whose cosine with the gradient is at most {np.median(cosine):.2f}"
