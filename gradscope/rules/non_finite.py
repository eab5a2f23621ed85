"""GS401: the place where NaN or infinity is born."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.findings import Finding, Severity
from gradscope.ranks import rank_of
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.wording import count, number
from gradscope.trace import Floats, Trace

OVERFLOW = "The numbers overflow: lower the learning rate, or the initial weights if they were large from the start."


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """Where the first NaN or infinity of a run comes from.

    Attributes:
        module: The module that made it; "" where it came from outside.
        column: The site that shows it.
        how: What happened there, as a sentence about `module`.
        remedy: What to do about it.
    """

    module: str
    column: int
    how: str
    remedy: str


@dataclass(frozen=True)
class NonFinite(Rule):
    """NaN or infinity appears; this names the module in which it was made, and in which direction.

    What it means: every later number that depends on it is lost; once it is in a weight the run is over.
    How it is measured: in the first step with a non-finite element, what came first: the data, a weight, then the
        shallowest module whose output is not finite while what ran before it was, then the deepest module that gives
        back a non-finite gradient for a finite one, then the gradients of the parameters, then the update.
    Why the threshold: one element is enough; NaN does not heal where it has reached a weight.
    What to try: clamp before log, sqrt, acos and division (an ε inside of the root, not outside); lower the learning
        rate if the numbers grew before; torch.autograd.set_detect_anomaly(True) names the operation.
    Where it stays silent: infinities that a module makes on purpose and that reach neither the loss nor a gradient, as
        a mask of −inf; overflowing gradients that an AMP scaler skips.
    Source: IEEE 754; PyTorch documentation on AMP for the scaler's skipped steps.
    """

    code = "GS401"
    name = "non-finite"
    reads = frozenset({Quantity.OUTPUT})

    growth: float = 1e3  # of the largest element since the first record: then it is an overflow
    huge: float = 1e4  # or where it was already of this size

    def check(self, trace: Trace) -> Iterator[Finding]:
        """At most one finding: where the first one was born; the others follow from it."""
        bad = np.nan_to_num(trace.statistics[Statistic.NONFINITE_COUNT]) > 0
        kind = np.array([site.quantity.value for site in trace.sites])
        harmful = bad & ~np.isin(kind, [Quantity.OUTPUT, Quantity.INPUT])[None, :]
        outputs = trace.columns(Quantity.OUTPUT)
        if outputs:  # what leaves the model last is what the loss sees
            harmful[:, outputs[-1]] |= bad[:, outputs[-1]]
        rows = np.flatnonzero(harmful.any(axis=1))
        if not len(rows):
            return
        step = int(rows[0])
        new = bad[step] & ~bad[step - 1] if step else bad[step]  # what was so before was meant, as a mask is
        birth = _birth(trace, new, begun=step > 0)
        scaled = np.nan_to_num(trace.per_step["loss_scale"], nan=1.0)[step] != 1
        only_gradients = not (bad[rows] & ~np.char.endswith(kind, "grad")[None, :] & (kind != "total_norm")).any()
        heals = rows[-1] < len(trace.steps) - 1
        if scaled and only_gradients and heals:
            return
        column = birth.column
        before = trace.statistics[Statistic.ABS_MAX][:step, column]
        before = before[np.isfinite(before)]
        grown = len(before) > 0 and float(before[-1]) > min(self.growth * max(float(before[0]), 1e-30), self.huge)
        elements = float(trace.statistics[Statistic.NONFINITE_COUNT][step, column])
        reached = len({trace.sites[c].module for c in np.flatnonzero(bad[step]) if trace.sites[c].module})
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.WARNING if only_gradients and heals else Severity.ERROR,
            module=birth.module,
            sites=(trace.sites[column],),
            first_step=int(trace.steps[step]),
            last_step=int(trace.steps[rows[-1]]),
            measured=elements,
            threshold=0.0,
            unit="elements",
            message=(
                f"{birth.how} at step {trace.steps[step]}: {elements:.0f} of"
                f" {trace.statistics[Statistic.NUMEL][step, column]:.0f} elements are NaN or infinite"
                f" ({count(reached, 'module')} {'is' if reached == 1 else 'are'} reached in it, {len(rows)} of"
                f" {len(trace.steps)} steps are affected)."
            ),
            cause=_history(grown, before),
            remedy=OVERFLOW if grown else birth.remedy,
        )


def _birth(trace: Trace, bad: NDArray[np.bool_], *, begun: bool) -> Birth:
    """What came first in a step, given which sites have become non-finite in it; `begun`: there were steps before."""
    hits = {quantity: [c for c in trace.columns(quantity) if bad[c]] for quantity in Quantity}
    born = _forward_birth(trace, hits, begun=begun) or _foreign_birth(trace, hits) or _backward_birth(trace, hits)
    if born is None:
        column = int(np.flatnonzero(bad)[0])
        site = trace.sites[column]
        born = Birth(module=site.module, column=column, how=f"{site} is not finite", remedy=f"Look at {site.module}.")
    return born


def _forward_birth(trace: Trace, hits: Mapping[Quantity, list[int]], *, begun: bool) -> Birth | None:
    if found := [c for c in hits[Quantity.INPUT] if not trace.sites[c].module]:  # others are made inside of the model
        how, remedy = "The data given to the model is not finite", "Check the data loader."
    elif found := hits[Quantity.WEIGHT]:
        site = trace.sites[found[0]]
        how = f"The parameter {site.module}.{site.name} is not finite when the step begins"
        remedy = (
            "It was broken by an update before this step: record every step, and lower the learning rate."
            if begun
            else f"It was so before the first step: look at how {site.module or 'the model'} is initialised, or at the"
            " checkpoint that was loaded."
        )
    elif found := hits[Quantity.OUTPUT]:
        site = trace.sites[found[0]]
        how = f"The output of {site.module or 'the model'} ({site.module_type}) is the first that is not finite"
        remedy = (
            f"Look at {site.module or 'the model'}, and at what is computed between {_before(trace, found[0])} and it:"
            " clamp, or add an ε inside of a log, root or division."
        )
    elif found := hits[Quantity.LOSS]:
        how, remedy = "The loss makes it from finite outputs", "Clamp inside the loss, or use the form with logits."
    else:
        return None
    return Birth(module=trace.sites[found[0]].module, column=found[0], how=how, remedy=remedy)


def _before(trace: Trace, column: int) -> str:
    """What ran before a module: functions in between are no sites, nor is what a module is given."""
    outputs = trace.columns(Quantity.OUTPUT)
    earlier = [c for c in outputs[: outputs.index(column)] if trace.sites[c].module != trace.sites[column].module]
    return trace.sites[earlier[-1]].module if earlier else "the input"


def _foreign_birth(trace: Trace, hits: Mapping[Quantity, list[int]]) -> Birth | None:
    """What came with the sum of the gradients over the ranks, where nothing that this rank has computed is broken."""
    place, found = rank_of(trace), hits[Quantity.WEIGHT_GRAD]
    if place is None or not found or hits[Quantity.INPUT_GRAD] or hits[Quantity.OUTPUT_GRAD]:
        return None
    site = trace.sites[found[-1]]
    return Birth(
        module="",
        column=found[-1],
        how=(
            f"Rank {place[0]} computes finite gradients, but the sum over all ranks is not finite for"
            f" {f'{site.module}.{site.name}'.lstrip('.')}"
        ),
        remedy="Merge the files of all ranks with `gradscope merge`: the report names the rank and the module.",
    )


def _backward_birth(trace: Trace, hits: Mapping[Quantity, list[int]]) -> Birth | None:
    returned = {trace.sites[c].module for c in hits[Quantity.OUTPUT_GRAD]}
    makers = [c for c in hits[Quantity.INPUT_GRAD] if trace.sites[c].module not in returned]
    names = [trace.sites[c].module for c in makers]
    # a container that is observed as well only repeats what a module inside of it did
    makers = [c for c, name in zip(makers, names, strict=True) if not any(n.startswith(name + ".") for n in names)]
    steps = {
        Quantity.INPUT_GRAD: (
            makers,
            "The backward pass of {module} makes it from a finite gradient",
            "Keep the input of {module} away from where its derivative is infinite: clamp it, or add an ε inside of its"
            " root, norm or inverse function.",
        ),
        Quantity.OUTPUT_GRAD: (
            hits[Quantity.OUTPUT_GRAD],
            "The gradient that comes back to {module} from what follows it is not finite",
            "Look at the functions between {module} and the loss: a root, norm, log or division at zero.",
        ),
        Quantity.WEIGHT_GRAD: (
            hits[Quantity.WEIGHT_GRAD],
            "The gradient of {module}.{name} is not finite",
            "Lower the learning rate or clip the gradient.",
        ),
        Quantity.APPLIED_GRAD: (
            hits[Quantity.APPLIED_GRAD],
            "The gradient of {module}.{name} breaks before the optimizer",
            "Check what runs between backward and the optimizer's step: clipping, unscaling.",
        ),
        Quantity.WEIGHT_UPDATE: (
            hits[Quantity.WEIGHT_UPDATE],
            "The update of {module}.{name} overflows",
            "Lower the learning rate.",
        ),
    }
    for found, how, remedy in steps.values():
        if found:
            site = trace.sites[found[-1]]
            words = {"module": site.module or "the model", "name": site.name}
            return Birth(module=site.module, column=found[-1], how=how.format(**words), remedy=remedy.format(**words))
    return None


def _history(grown: bool, before: Floats) -> str:
    """How the site came to it: what its largest element was in the steps before."""
    if not len(before):
        return "It was so from the first recorded step on."
    if grown:
        first, last = number(before[0]), number(before[-1])
        return f"Its largest element grew from {first} to {last} in the steps before: it overflowed."
    return f"Its largest element was {number(before[-1])} in the step before: it did not grow into it."
