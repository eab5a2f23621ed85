"""GS501: steps so small that the weights do not move."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity
from gradscope.rules.base import Rule
from gradscope.rules.learning import (
    Parameter,
    has_optimizer,
    moved_by_another,
    norms,
    optimizer_of,
    promised,
    trainable_parameters,
)
from gradscope.rules.regions import regions
from gradscope.rules.standstill import Standstill, motions_of, still_parts, still_throughout
from gradscope.rules.wording import count
from gradscope.trace import Trace


@dataclass(frozen=True)
class UpdateTooSmall(Rule):
    """Weights get a gradient, but no step of the run moves them by a noticeable part of themselves.

    What it means: this part of the model, or all of it, stays as it was initialised.
    How it is measured: the largest update ratio ‖Δw‖₂/‖w‖₂ of the run, for every weight that gets a gradient, without
        what weight decay does and for look-up tables over the rows that were looked up; and, for the model as a whole,
        the promise Σ ‖∂L/∂w‖ ‖Δw‖ / L, the share of the loss that a step could take off if it went straight downhill.
        A weight that no attached optimizer holds has no update at all.
    Why the threshold: float32 keeps relative changes from 6e-8 (half its spacing of 1.2e-7); below that, updates are
        rounded away: an error. A model whose largest ratio stays under 1e-4, and which could not halve its loss in
        5000 steps straight downhill, has a learning rate that does not fit; of 50 healthy runs the lowest promise was
        6e-4 a step, of 12 with a tiny learning rate the highest 4e-5. A part counts where its own learning rate is a
        thousandth of the largest or less, or its gradient lies under the eps of the optimizer.
    What to try: give the optimizer all parameters, raise the learning rate (of that parameter group).
    Where it stays silent: frozen weights; a warm-up from zero and a converged end, because the largest step counts;
        weights that get no gradient (GS103); layers that learn slowly under SGD because their gradient is small, which
        is said as information below 1e-6; a model that no attached optimizer moves.
    Source: IEEE 754 binary32; the usual 1e-3 is a rule of thumb (Karpathy, CS231n notes); the promise is the
        first-order term of Taylor's theorem.
    """

    code = "GS501"
    name = "update-too-small"
    reads = frozenset({Quantity.WEIGHT_GRAD})

    whole_ratio: float = 1e-4
    whole_promise: float = 1e-4
    part_ratio: float = 1e-5
    warning_ratio: float = 1e-6
    error_ratio: float = 6e-8
    slow_group: float = 1e-3
    min_steps: int = 3

    def check(self, trace: Trace) -> Iterator[Finding]:
        """What no optimizer holds; then the model as a whole where all of it stands still, or else such parts of it."""
        parameters = trainable_parameters(trace)
        learning = [p for p in parameters if np.nansum(norms(trace, p.grad) > 0) >= self.min_steps]
        if not learning:
            raise NotJudged(f"needs weights with a gradient in {self.min_steps} steps")
        owners = list(dict.fromkeys(p.module for p in sorted(parameters, key=lambda p: p.grad)))
        if has_optimizer(trace):
            yield from self._left_out(trace, learning, owners)
        motions = motions_of(trace, [p for p in learning if p.is_weight and p.update is not None], self.min_steps)
        if not motions or (not has_optimizer(trace) and all(m.largest == 0 for m in motions)):
            return
        whole = still_throughout(trace, motions, promised(trace), ratio=self.whole_ratio, promise=self.whole_promise)
        if whole is not None:
            yield self._finding(trace, whole, "")
            return
        weights = sorted({m.parameter.module for m in motions}, key=owners.index)
        for part in still_parts(motions, slow=self.slow_group, bar=self.part_ratio, least=self.warning_ratio):
            for region in regions({m.parameter.module for m in part.motions}, weights):
                inside = tuple(m for m in part.motions if m.parameter.module in region.members)
                yield self._finding(trace, part.only(inside), region.module, region.members)

    def _left_out(self, trace: Trace, learning: list[Parameter], owners: list[str]) -> Iterator[Finding]:
        missing = [p for p in learning if p.update is None and not moved_by_another(trace, p)]
        grave = {
            p.module
            for p in missing
            if p.is_weight or not any(p.module == q.module and q.update is not None for q in learning)
        }
        optimizer = optimizer_of(trace).name
        for modules in (grave, {p.module for p in missing} - grave):
            for region in regions(modules, owners):
                members = [p for p in missing if p.module in region.members]
                size = sum(p.size for p in members)
                names = count(len(members), "parameter")
                yield Finding(
                    code=self.code,
                    pathology=self.name,
                    severity=Severity.ERROR if modules is grave else Severity.INFO,
                    module=region.module,
                    sites=tuple(trace.sites[p.grad] for p in members),
                    alike=region.members,
                    first_step=int(trace.steps[0]),
                    last_step=int(trace.steps[-1]),
                    measured=0.0,
                    threshold=self.warning_ratio,
                    unit="‖Δw‖/‖w‖",
                    message=(
                        f"No optimizer holds {names} of {region} ({size:.0f} elements): a gradient arrives, but"
                        " nothing moves."
                    ),
                    cause=f"They are trainable, but were not given to {optimizer}.",
                    remedy=(
                        f"Pass the parameters of {region} to the optimizer, or freeze them with requires_grad_(False)."
                    ),
                )

    def _finding(self, trace: Trace, still: Standstill, module: str, alike: tuple[str, ...] = ()) -> Finding:
        ratio = still.largest
        severity = Severity.WARNING
        if still.minor:
            severity = Severity.INFO
        elif ratio < self.error_ratio or (not module and ratio < self.warning_ratio):
            severity = Severity.ERROR
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=severity,
            module=module,
            sites=tuple(trace.sites[m.parameter.update] for m in still.motions if m.parameter.update is not None),
            alike=alike,
            first_step=int(trace.steps[still.first]),
            last_step=int(trace.steps[-1]),
            measured=ratio,
            threshold=still.bar,
            unit="‖Δw‖/‖w‖",
            message=still.message(trace, module),
            cause=still.cause(trace),
            remedy=still.remedy(trace, module),
        )
