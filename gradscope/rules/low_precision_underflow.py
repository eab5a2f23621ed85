"""GS402: numbers too small for 16 bits: gradients that become zero, updates that are rounded away."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.below_range import Lost, lost_below
from gradscope.rules.learning import Parameter, optimizer_of
from gradscope.rules.rounded_updates import Rounded, divided_by_nothing, kept_in_sixteen_bits, rounded
from gradscope.rules.sixteen_bits import SMALLEST, dtype_of, full_name, holds_half, require_dtypes
from gradscope.rules.wording import count, number
from gradscope.trace import Trace

_ROOM = 2.0**10  # spacings that a gradient should have: then a thousandth of it is not lost either


@dataclass(frozen=True)
class LowPrecisionUnderflow(Rule):
    """Numbers that float32 would keep become zero, or change nothing, in float16 or bfloat16.

    What it means: part of the gradient, or of each update, never happens; layers far from the loss stop learning first.
    How it is measured: in float16, rms of what is not zero over the smallest number above zero, 2^-24: it does not
        depend on how much is zero by nature. What is all zero counts where it is made from something that small, or is
        that small in every other step. Of weights in 16 bits, the share of the elements with a gradient that an update
        leaves as they are.
    Why the threshold: of normal numbers with an rms of two spacings a fifth rounds to zero, and the rest is off by an
        eighth; at half a spacing two thirds are lost. An update is rounded away below half a spacing of the weight, a
        relative 2^-9 of bfloat16 and 2^-12 of float16. Of normal updates the smaller half carries 7 % of the square,
        the smaller four fifths 35 %, nineteen twentieths 72 %.
    What to try: a loss scale; weights kept in float32, with autocast around the forward pass.
    How grave it is: an error where every element of a gradient, or nineteen twentieths of the updates, is lost.
    Where it stays silent: subnormal numbers that still have digits; zeros of rectifiers, padding and unused rows;
        gradients of a loss that has come down to a twentieth of what it was.
    Source: IEEE 754 binary16; Micikevicius et al. 2018, §3.1 and §3.2.
    """

    code = "GS402"
    name = "low-precision-underflow"
    reads = frozenset({Quantity.WEIGHT_GRAD})

    min_spacings: float = 2.0
    warn_lost: float = 0.8
    error_lost: float = 0.95
    min_part: float = 0.2  # of the elements in 16 bits; what is lost in less of them is only worth knowing
    min_steps: int = 3

    def concerns(self, trace: Trace) -> bool:
        """Whether anything is float16, or a trainable weight has 16 bits."""
        require_dtypes(trace)
        return holds_half(trace) or bool(kept_in_sixteen_bits(trace))

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding for the gradients, one for what the forward pass computes and one for the updates."""
        if len(trace.steps) < self.min_steps:
            raise NotJudged(f"needs {self.min_steps} steps, the trace has {len(trace.steps)}")
        for quantity in (Quantity.OUTPUT, Quantity.OUTPUT_GRAD):
            lost = lost_below(trace, quantity, self.min_spacings)
            if lost:
                yield self._of_range(trace, lost)
        kept = kept_in_sixteen_bits(trace)
        broken = divided_by_nothing(trace, kept)
        if broken is not None:
            yield self._of_eps(trace, *broken)
            return
        moved = rounded(trace, kept, self.min_steps)
        still = [one for one in moved if one.share >= self.warn_lost and one.parameter.is_weight]
        if still:
            yield self._of_updates(trace, still, moved)

    def _of_range(self, trace: Trace, lost: list[Lost]) -> Finding:
        first = lost[0]  # where it begins: what follows is made from it
        site, steps = trace.sites[first.column], trace.steps
        gradient = site.quantity is Quantity.OUTPUT_GRAD
        what = "gradient" if gradient else "output"
        where = site.module or "the model"
        gone = sum(one.gone > 0.5 for one in lost)
        rms = first.spacings * SMALLEST
        wanted = 2.0 ** np.ceil(np.log2(_ROOM / max(first.spacings, 0.25)))
        rows = np.unique(np.concatenate([one.lasting.rows for one in lost]))
        state = "is zero in every element" if first.gone > 0.5 else f"has an rms of {rms:.1e} where it is not zero"
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if gone else Severity.WARNING,
            module=site.module,
            sites=tuple(trace.sites[one.column] for one in lost),
            alike=tuple(dict.fromkeys(trace.sites[one.column].module for one in lost)),
            first_step=int(steps[rows[0]]),
            last_step=int(steps[rows[-1]]),
            measured=first.spacings,
            threshold=self.min_spacings,
            unit="rms/2^-24",
            message=(
                f"The {what} of {where} {state} since step {steps[first.lasting.first]}: float16 ends at"
                f" {SMALLEST:.1e}."
                + (f" {count(len(lost), 'module')} are below it, {gone} of them wholly." if len(lost) > 1 else "")
            ),
            cause=(
                f"The loss, or its mean over many elements, gives {where} gradients too small for float16, and no loss"
                " scale lifts them."
                if gradient
                else f"What {where} computes is too small for float16."
            ),
            remedy=(
                f"Multiply the loss by {wanted:.0f} before backward() and divide the gradients by it before the step,"
                " as torch.amp.GradScaler does."
                if gradient
                else f"Multiply what {where} is given by {wanted:.0f}, or give autocast dtype=torch.bfloat16."
            ),
        )

    def _of_updates(self, trace: Trace, still: list[Rounded], moved: list[Rounded]) -> Finding:
        worst = max(still, key=lambda one: one.share * one.parameter.size)
        size = sum(one.parameter.size for one in moved)
        lost = sum(one.share * one.parameter.size for one in moved) / size
        parameter = worst.parameter
        site = trace.sites[parameter.grad]
        name, dtype = full_name(site), dtype_of(trace, full_name(site))
        lr = float(np.nanmax(trace.per_step["lr"])) if not np.isnan(trace.per_step["lr"]).all() else float("nan")
        others = f", and {count(len(still) - 1, 'other weight')} likewise" if len(still) > 1 else ""
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=(
                Severity.ERROR
                if lost >= self.error_lost
                else Severity.WARNING
                if sum(one.parameter.size for one in still) >= self.min_part * size
                else Severity.INFO
            ),
            module=site.module,
            sites=tuple(trace.sites[c] for one in still if (c := one.parameter.update) is not None),
            alike=tuple(dict.fromkeys(one.parameter.module for one in still)),
            first_step=int(trace.steps[0]),
            last_step=int(trace.steps[-1]),
            measured=worst.share,
            threshold=self.warn_lost,
            unit="of the elements",
            message=(
                f"{worst.share:.0%} of the elements of {name} that have a gradient do not move in a step{others}: the"
                f" update is rounded away in {lost:.0%} of all elements kept in 16 bits."
            ),
            cause=(
                f"{name} is {dtype}: at its rms, half the distance of two neighbouring numbers is"
                f" {worst.half_spacing:.1e}, and {optimizer_of(trace).name or 'the update'} moves it by less at a"
                f" learning rate of {lr:g}."
            ),
            remedy=f"Keep the weights in float32 and compute in {dtype} under torch.autocast.",
        )

    def _of_eps(self, trace: Trace, parameter: Parameter, row: int) -> Finding:
        optimizer, site = optimizer_of(trace), trace.sites[parameter.grad]
        assert parameter.update is not None
        broken = float(trace.statistics[Statistic.NONFINITE_COUNT][row, parameter.update])
        rms = float(trace.statistics[Statistic.RMS][row, parameter.grad])
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR,
            module=site.module,
            sites=(trace.sites[parameter.update],),
            first_step=int(trace.steps[row]),
            last_step=int(trace.steps[-1]),
            measured=optimizer.eps,
            threshold=SMALLEST / 2,
            unit="eps",
            message=(
                f"{optimizer.name} divides by zero at step {trace.steps[row]}: {number(broken)} elements of the update"
                f" of {full_name(site)} are NaN or infinite, of a finite gradient with an rms of {rms:.1e}."
            ),
            cause=(
                f"{full_name(site)} is float16: its squared gradients, and the eps of {optimizer.eps:g} that should"
                f" keep them from zero, are below {SMALLEST / 2:.1e} and become zero."
            ),
            remedy="Keep the weights in float32 and compute in float16 under torch.autocast.",
        )
