"""Weights that no step of a run moves noticeably, why, and what would move them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from gradscope.records import Statistic
from gradscope.rules.learning import ADAPTIVE, Parameter, learned_ratios, optimizer_of
from gradscope.rules.parameter_groups import Group, group_by_parameter
from gradscope.rules.wording import count
from gradscope.trace import Doubles, Trace

_USUAL = 1e-3  # of an update ratio
_ROUNDED = 6e-8  # half the spacing of float32
_LEAD = 1e-3  # a weight stands still if it moves by this part of what another one does, or less
_FELL = 1e-3  # of the learning rate: what a schedule may leave of it
_HIGHEST_RATE = 10.0  # that one would recommend


class Why(StrEnum):
    """What keeps the steps small."""

    RATE = "rate"
    SCHEDULE = "schedule"
    EPS = "eps"
    GRADIENT = "gradient"


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """How a weight moved.

    Attributes:
        ratios: Update ratios without weight decay, over the steps; NaN where not observed.
        gradient: Largest rms of the gradient that the optimizer read.
        norm: Largest norm of it.
    """

    parameter: Parameter
    group: Group | None
    ratios: Doubles
    gradient: float
    norm: float

    @property
    def largest(self) -> float:
        """The largest ratio of the run."""
        return float(np.nanmax(self.ratios))

    @property
    def wakes(self) -> bool:
        """Whether it moves more and more, as what lies before a layer that starts at zero does."""
        seen = self.ratios[np.isfinite(self.ratios)]
        third = max(1, len(seen) // 3)
        return float(np.median(seen[-third:])) > 2 * float(np.median(seen[:third]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """Weights that stand still for the same reason.

    Attributes:
        first: Index of the step from which on they do.
        bar: What their ratios stay under.
        minor: Whether it is merely worth knowing.
    """

    motions: tuple[Motion, ...]
    why: Why
    bar: float
    first: int = 0
    minor: bool = False

    def only(self, motions: tuple[Motion, ...]) -> "Standstill":
        """The same of some of the weights."""
        return replace(self, motions=motions)

    @property
    def largest(self) -> float:
        """The largest ratio of all, from `first` on."""
        return max(float(np.nanmax(m.ratios[self.first :], initial=0.0)) for m in self.motions)

    def message(self, trace: Trace, module: str) -> str:
        """What stands still, and how nearly."""
        further = f" by more than {self.largest:.1e} of the norm" if self.largest > 0 else ""
        since = f" from step {trace.steps[self.first]} on" if self.first else ""
        names = list(dict.fromkeys(m.parameter.module for m in self.motions))
        where = names[0] if len(names) == 1 else "the model" if "" in names else f"{names[0]} to {names[-1]}"
        steps = len(trace.steps) - self.first
        weights = f"{count(len(self.motions), 'weight')} of {where or 'the model'}"
        return f"{weights} never moved{further} in {steps} recorded steps{since}."

    def cause(self, trace: Trace) -> str:
        """Which of rate, schedule, eps and gradient is too small."""
        name = optimizer_of(trace).name or "The update"
        gradient, rate = max(m.norm for m in self.motions), self._rate(trace)
        if self.why is Why.SCHEDULE:
            lr = trace.per_step["lr"]
            step = trace.steps[self.first]
            return f"The learning rate fell from {np.nanmax(lr):.1e} to {lr[self.first]:.1e} by step {step}."
        if self.why is Why.EPS:
            return (
                f"The gradients have an rms of at most {self._usual_gradient:.1e}, below its eps of"
                f" {self._eps(trace):g}: {name} no longer divides their scale out."
            )
        if np.isnan(rate):  # weights that are moved by hand
            return f"The gradients have norms of no more than {gradient:.1e}."
        if self.why is Why.GRADIENT:
            return (
                f"{name} has a learning rate of {rate:g}, but the gradients have norms of no more than {gradient:.1e}."
            )
        return f"{name} has a learning rate of {rate:g} for them; their gradients have norms of up to {gradient:.1e}."

    def remedy(self, trace: Trace, module: str) -> str:
        """One thing to do, with its number."""
        where, rate = module or "the model", self._rate(trace)
        # the median weight shall move by the usual part of itself
        typical = float(np.median([m.largest for m in self.motions]))
        factor = _USUAL / typical if typical > 0 else float("inf")
        if self.why is Why.SCHEDULE:
            start = np.nanmax(trace.per_step["lr"])
            return f"Let the schedule fall slower, from {start:g} to about {start / 100:g} at the end of the run."
        if self.why is Why.EPS and self._eps(trace) > 1e-6:
            return f"Set eps to 1e-8: its {self._eps(trace):g} stands in place of the gradient's own size."
        if self.why is not Why.RATE or not rate * factor <= _HIGHEST_RATE:
            return (
                f"Find what shrinks the gradient on its way to {where}, as a gate that is shut or a loss of a tiny"
                " scale; a learning rate hardly makes up for it."
            )
        wanted = f"{rate * factor:.0e}"
        return f"Raise the learning rate of {where} from {rate:g} to about {wanted}, for update ratios near 1e-3."

    @property
    def _usual_gradient(self) -> float:
        """Of the median weight: what eps stands beside is the size of an element, not a norm."""
        return float(np.median([m.gradient for m in self.motions]))

    def _rate(self, trace: Trace) -> float:
        groups = [m.group.lr for m in self.motions if m.group is not None]
        lr = trace.per_step["lr"]
        seen = float(np.nanmax(lr)) if not np.isnan(lr).all() else float("nan")
        group = self.motions[0].group
        if not groups or group is None or group.of_first <= 0 or np.isnan(seen):
            return max(groups, default=seen)
        return max(groups) * seen / group.of_first

    def _eps(self, trace: Trace) -> float:
        return max((m.group.eps for m in self.motions if m.group is not None), default=optimizer_of(trace).eps)


def motions_of(trace: Trace, parameters: Sequence[Parameter], least: int) -> list[Motion]:
    """Those of `parameters` that were seen to move, or not to, in `least` steps."""
    groups = group_by_parameter(trace)
    found = []
    for parameter in parameters:
        group = groups.get(parameter.full_name)
        ratios = learned_ratios(trace, parameter, group)
        ratios = np.where(np.isfinite(ratios), ratios, np.nan)
        if np.isfinite(ratios).sum() >= least:
            column = parameter.grad if parameter.applied is None else parameter.applied
            rms, norm = (trace.statistics[s][:, column].astype(float) for s in (Statistic.RMS, Statistic.L2_NORM))
            known = norm[np.isfinite(norm)]
            largest = float(known.max()) if len(known) else 0.0
            spread = float(np.nanmax(rms)) if np.isfinite(rms).any() else largest / np.sqrt(max(parameter.size, 1.0))
            found.append(Motion(parameter=parameter, group=group, ratios=ratios, gradient=spread, norm=largest))
    return found


def still_throughout(
    trace: Trace, motions: list[Motion], promises: Doubles, *, ratio: float, promise: float
) -> Standstill | None:
    """All weights at once: from the start, or from where a schedule has taken the learning rate away."""
    ratios = np.stack([m.ratios for m in motions])
    largest = np.max(np.where(np.isnan(ratios), 0.0, ratios), axis=0)
    seen = ~np.isnan(promises)
    bar = ratio if seen.any() else ratio / 100  # of a loss that is not known nothing says what a step is worth
    still = (largest < bar) & (np.nan_to_num(promises) < promise)
    if still.all():
        return Standstill(motions=tuple(motions), why=_why(trace, motions), bar=bar)
    lr = trace.per_step["lr"]
    gone = still & (lr < _FELL * np.nanmax(lr, initial=0.0))
    first = len(gone) - int(np.argmin(gone[::-1])) if not gone.all() else 0
    if 0 < first <= len(gone) // 2 and not _has_learned(trace.per_step["loss"], first):
        return Standstill(motions=tuple(motions), why=Why.SCHEDULE, bar=bar, first=first)
    return None


def still_parts(motions: list[Motion], *, slow: float, bar: float, least: float) -> Iterator[Standstill]:
    """Parts that stand still beside others that move: by their own learning rate, by eps, by their gradient."""
    fastest = max((m.group.lr for m in motions if m.group is not None), default=float("nan"))
    lead = max(m.largest for m in motions)
    found: dict[tuple[Why, bool], list[Motion]] = {}
    for motion in motions:
        ratio, group = motion.largest, motion.group
        if ratio > _LEAD * lead:
            continue
        if group is not None and group.lr <= slow * fastest and ratio < bar:
            found.setdefault((Why.RATE, False), []).append(motion)
        elif ratio < least:
            why = Why.EPS if _under_eps(motion) else Why.GRADIENT
            adaptive = group is not None and _is_adaptive(group)
            minor = not adaptive and (ratio >= _ROUNDED or motion.wakes)
            found.setdefault((why, minor), []).append(motion)
    for (why, minor), members in found.items():
        yield Standstill(motions=tuple(members), why=why, bar=bar if why is Why.RATE else least, minor=minor)


def _is_adaptive(group: Group) -> bool:
    return group.optimizer in ADAPTIVE


def _under_eps(motion: Motion) -> bool:
    return motion.group is not None and _is_adaptive(motion.group) and motion.gradient < motion.group.eps


def _why(trace: Trace, motions: list[Motion]) -> Why:
    if all(_under_eps(m) for m in motions):
        return Why.EPS
    optimizer = optimizer_of(trace)
    rms = float(np.median([m.gradient for m in motions]))
    if optimizer.adaptive and rms < optimizer.eps:
        return Why.EPS
    lr = trace.per_step["lr"]
    rate = float(np.nanmax(lr)) if not np.isnan(lr).all() else float("nan")
    return Why.GRADIENT if rate >= _USUAL and not optimizer.adaptive else Why.RATE


def _has_learned(loss: Doubles, first: int) -> bool:
    """Whether the loss had come down by half before step `first`."""
    before, known = loss[: first + 1], np.isfinite(loss[: first + 1])
    return bool(known.any()) and float(before[known][-1]) < 0.5 * float(before[known][0])
