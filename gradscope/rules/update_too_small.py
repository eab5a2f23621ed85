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
    norms,
    optimizer_of,
    trainable_parameters,
    update_ratios,
)
from gradscope.rules.regions import regions
from gradscope.rules.wording import count, number
from gradscope.trace import Trace


@dataclass(frozen=True)
class UpdateTooSmall(Rule):
    """Weights get a gradient, but no step of the run moves them by a noticeable part of themselves.

    What it means: this part of the model stays as it was initialised.
    How it is measured: the largest update ratio ‖Δw‖₂/‖w‖₂ of the run, for every weight that gets a gradient; a weight
        that no attached optimizer holds has no update at all.
    Why the threshold: float32 keeps relative changes from 6e-8 (half its spacing of 1.2e-7); below that, updates are
        rounded away: an error. At 1e-6 a weight needs a million steps in one direction to change by itself: a warning.
        Training is usual at 1e-3.
    What to try: give the optimizer all parameters, raise the learning rate (of that parameter group).
    Where it stays silent: frozen weights; a warm-up from zero and a converged end, because the largest step counts;
        weights that get no gradient (GS103); biases and the scales of normalisation layers.
    Source: IEEE 754 binary32; the usual 1e-3 is a rule of thumb (Karpathy, CS231n notes).
    """

    code = "GS501"
    name = "update-too-small"
    reads = frozenset({Quantity.WEIGHT_GRAD})

    warning_ratio: float = 1e-6
    error_ratio: float = 6e-8
    min_steps: int = 3

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for each region that stands still, one for each that no optimizer holds."""
        moved = {p: norms(trace, p.grad) for p in trainable_parameters(trace) if p.is_weight}
        learning = {p: g for p, g in moved.items() if np.nansum(g > 0) >= self.min_steps}
        if not learning:
            raise NotJudged(f"needs weights with a gradient in {self.min_steps} steps")
        owners = sorted({p.module for p in moved}, key=lambda m: min(p.grad for p in moved if p.module == m))
        missing = [p for p in learning if p.update is None and has_optimizer(trace)]
        yield from self._findings(trace, missing, owners, left_out=True)
        ratios = {p: self._largest(trace, p) for p in learning if p.update is not None}
        still = [p for p, ratio in ratios.items() if ratio < self.warning_ratio]
        yield from self._findings(trace, still, owners, left_out=False)

    def _largest(self, trace: Trace, parameter: Parameter) -> float:
        ratios = update_ratios(trace, parameter)
        finite = ratios[np.isfinite(ratios)]
        return float(finite.max()) if len(finite) >= self.min_steps else float("inf")

    def _findings(
        self, trace: Trace, parameters: list[Parameter], owners: list[str], *, left_out: bool
    ) -> Iterator[Finding]:
        for region in regions({p.module for p in parameters}, owners):
            members = [p for p in parameters if p.module in region.members]
            ratio = 0.0 if left_out else max(self._largest(trace, p) for p in members)
            largest = max(float(np.nanmax(norms(trace, p.grad))) for p in members)
            size = sum(p.size for p in members)
            optimizer = optimizer_of(trace)
            under_eps = optimizer.adaptive and largest < optimizer.eps
            further = f" by more than {ratio:.1e} of the norm" if ratio > 0 else ""
            weights = count(len(members), "weight")
            lr = trace.per_step["lr"]
            rate = float(np.nanmax(lr)) if not np.isnan(lr).all() else float("nan")
            yield Finding(
                code=self.code,
                pathology=self.name,
                severity=Severity.ERROR if ratio < self.error_ratio else Severity.WARNING,
                module=region.module if len(region.members) < len(owners) else "",
                sites=tuple(trace.sites[p.grad if p.update is None else p.update] for p in members),
                alike=region.members,
                first_step=int(trace.steps[0]),
                last_step=int(trace.steps[-1]),
                measured=ratio,
                threshold=self.warning_ratio,
                unit="‖Δw‖/‖w‖",
                message=(
                    f"No optimizer holds {weights} of {region} ({size:.0f} elements): a gradient arrives, but"
                    " nothing moves."
                    if left_out
                    else f"{weights} of {region} never moved{further} in {len(trace.steps)} recorded steps."
                ),
                cause=(
                    f"They are trainable, but were not given to {optimizer.name}."
                    if left_out
                    else f"{optimizer.name or 'The update'} has a learning rate of at most {rate:g} in its first group;"
                    f" their gradients have norms of up to {largest:.1e}"
                    + (
                        f", below its eps of {optimizer.eps:g}: it no longer divides their scale out."
                        if under_eps
                        else "."
                    )
                ),
                remedy=(
                    f"Pass the parameters of {region} to the optimizer, or freeze them with requires_grad_(False)."
                    if left_out
                    else f"Find what shrinks the gradient on its way to {region}, as a gate that is shut or a loss of a"
                    " tiny scale; a learning rate hardly makes up for it."
                    if under_eps
                    else f"Raise the learning rate of {region}: an update ratio near 1e-3 is usual"
                    + (f", which is {number(1e-3 / ratio)} times as much." if ratio > 0 else ".")
                ),
            )
