"""GS403: numbers leave the range of float16."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.births import Birth, birth_of
from gradscope.rules.half_range import Exit, left_range
from gradscope.rules.hidden_overflow import Swallowed, hidden_overflow
from gradscope.rules.sixteen_bits import LARGEST, full_name, holds_half, is_half, require_dtypes
from gradscope.rules.wording import number
from gradscope.trace import Trace


@dataclass(frozen=True)
class LowPrecisionOverflow(Rule):
    """Numbers that float32 would hold become infinite in float16.

    What it means: what is computed from them is NaN soon after; without a scaler that skips the step the run is over.
    How it is measured: as for GS401, what came first; and whether it is float16, and large numbers lie around: finite
        elements of the same tensor, or what the module would have computed from its input and its weight. Also a
        module that returns zeros of numbers whose square is out of range: it divides by infinity.
    Why the threshold: float16 ends at 65504. Beside an element that is beyond, others are at least a sixteenth of it,
        in a tensor of a few thousand normal numbers; log, root or division by zero need none that is large.
    What to try: bfloat16, which reaches as far as float32, or float32 for the module that leaves the range; a smaller
        loss scale, if it is the gradient.
    Where it stays silent: float32 and bfloat16; steps that an AMP scaler skips; what is not finite for another reason
        (GS401).
    Source: IEEE 754 binary16; Micikevicius et al. 2018, §3.
    """

    code = "GS403"
    name = "low-precision-overflow"
    reads = frozenset({Quantity.OUTPUT})

    error_fraction: float = 0.9  # of an output that a division by infinity has made zero

    def concerns(self, trace: Trace) -> bool:
        """Whether anything is float16."""
        require_dtypes(trace)
        return holds_half(trace)

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: where the first number left."""
        if not np.nansum(trace.statistics[Statistic.NUMEL][:, trace.columns(Quantity.OUTPUT)]):
            raise NotJudged("needs the output of a module in one step")
        birth = birth_of(trace)
        found = None if birth is None else left_range(trace, birth)
        if birth is not None and found is not None:
            yield self._finding(trace, birth, found)
        elif (swallowed := hidden_overflow(trace)) is not None:
            yield self._swallowed(trace, swallowed)

    def _swallowed(self, trace: Trace, found: Swallowed) -> Finding:
        site, lasting = trace.sites[found.column], found.lasting
        zero = float(np.median(trace.statistics[Statistic.ZERO_FRACTION][lasting.rows, found.column]))
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if zero >= self.error_fraction else Severity.WARNING,
            module=site.module,
            sites=(site,),
            first_step=int(trace.steps[lasting.first]),
            last_step=int(trace.steps[lasting.last]),
            measured=found.given**2,
            threshold=LARGEST,
            unit="largest square",
            message=(
                f"{zero:.0%} of the output of {site.module} ({site.module_type}) are zero in {len(lasting.rows)} of"
                f" {len(trace.steps)} steps, of numbers up to {number(found.given)}: their squares leave the range of"
                f" float16, ±{LARGEST:g}."
            ),
            cause="What is divided by an infinite norm or variance is zero.",
            remedy=f"Compute the squares in {site.module} in float32: call .float() on its input first.",
        )

    def _finding(self, trace: Trace, birth: Birth, found: Exit) -> Finding:
        column, row = birth.column, birth.row
        broken = float(trace.statistics[Statistic.NONFINITE_COUNT][row, column])
        size = float(trace.statistics[Statistic.NUMEL][row, column])
        where = birth.module or "the model"
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.WARNING if birth.only_gradients and birth.heals else Severity.ERROR,
            module=birth.module,
            sites=(trace.sites[column],),
            first_step=int(trace.steps[row]),
            last_step=int(trace.steps[birth.rows[-1]]),
            measured=broken,
            threshold=0.0,
            unit="elements",
            message=(
                f"{_what(found, where)} leaves the range of float16, ±{LARGEST:g}, at step {trace.steps[row]}:"
                f" {broken:.0f} of {size:.0f} elements are infinite or NaN ({birth.extent(len(trace.steps))})."
            ),
            cause=_cause(found, where),
            remedy=_remedy(trace, birth, found, where),
        )


def _what(found: Exit, where: str) -> str:
    return {
        "scores": f"What attention in {where} takes the softmax of",
        "gradient": f"The gradient at {where}",
        "function": f"What is computed in {where}, or just before it,",
    }.get(found.kind, f"The output of {where}")


def _cause(found: Exit, where: str) -> str:
    near = number(found.near)
    if found.kind == "scores":
        return f"Its largest logit is {near}."
    if found.kind == "input":
        return f"The data given to the model reach {near}."
    if found.kind == "gradient":
        return (
            f"Its largest finite element until then was {near}, with the loss scale in it."
            if found.near
            else "Hardly an element is within: the loss, or its scale, is far too large for float16."
        )
    return f"The largest finite number there, or in what it is made from, is {near}."


def _remedy(trace: Trace, birth: Birth, found: Exit, where: str) -> str:
    if found.kind == "input":
        return f"Divide the data by {number(found.near)}, or standardise them."
    if found.kind == "gradient":
        scale = float(np.nan_to_num(trace.per_step["loss_scale"], nan=1.0)[birth.row])
        told = f", which is {scale:g} here" if scale != 1 else ""
        return f"Let torch.amp.GradScaler choose the loss scale{told}: at an overflow it skips the step and halves it."
    if found.kind == "scores":
        return f"Multiply the queries of {where} by 1/√d before their product with the keys."
    kept = next((s.name for s in trace.sites if s.quantity is Quantity.WEIGHT and is_half(trace, full_name(s))), None)
    if kept is not None:
        return f"Keep the model in torch.bfloat16 instead of float16: it reaches 3e38, so {where} stays within."
    return f"Give autocast dtype=torch.bfloat16: it reaches 3e38, so {where} stays within."
