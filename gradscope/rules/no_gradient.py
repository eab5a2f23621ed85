"""GS103: trainable parameters that no gradient ever reaches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.cut import Cut, cuts, narrowest
from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.learning import Parameter, has_optimizer, norms, trainable_parameters
from gradscope.rules.regions import Region, regions
from gradscope.rules.wording import count
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True)
class NoGradient(Rule):
    """Parameters that require a gradient get none, or exactly zero, in every recorded step.

    What it means: this part of the model cannot learn; its path to the loss is cut or multiplied by zero.
    How it is measured: for each module, whether any gradient of its parameters was ever observed and ever differed
        from zero. Neighbouring modules make one finding.
    Why the threshold: never and exactly zero need no threshold; three recorded steps tell a first step of zeros, as of
        a zero-initialised adapter, from a path that is cut.
    What to try: look for detach(), .data, torch.no_grad(), argmax, or an output that nobody uses between this module
        and the loss; freeze what is not meant to learn with requires_grad_(False).
    How grave it is: an error where the path is cut, or the first layers get nothing. A module whose output nobody uses,
        as a pooler's, costs only itself; one that never ran may belong to another task. What no optimizer holds, or
        what ran on no sample, is only worth knowing.
    Where it stays silent: frozen parameters; a module that gets its gradient in some of the steps; a single parameter
        of a module whose others learn.
    Source: follows from the definition of backpropagation.
    """

    code = "GS103"
    name = "no-gradient"
    reads = frozenset({Quantity.WEIGHT_GRAD})

    min_steps: int = 3

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for each region that is cut off."""
        parameters = [p for p in trainable_parameters(trace) if not _is_empty(trace, p)]
        gradients = {p: _arrived(trace, p) for p in parameters}
        seen = np.any([~np.isnan(g) for g in gradients.values()], axis=0) if parameters else np.zeros(0, bool)
        if seen.sum() < self.min_steps:
            raise NotJudged(f"needs {self.min_steps} steps with a gradient, the trace has {int(seen.sum())}")
        by_module: dict[str, list[Parameter]] = {}
        for parameter in parameters:
            by_module.setdefault(parameter.module, []).append(parameter)
        # by place in the model, not by depth: modules that never ran have none
        owners = sorted(by_module, key=lambda m: min(p.grad for p in by_module[m]))
        cut = {m for m in owners if not any(np.nansum(np.abs(gradients[p])) > 0 for p in by_module[m])}
        for region in regions(cut, owners):
            yield self._finding(trace, region, [p for m in region.members for p in by_module[m]], owners, cut)

    def _finding(
        self, trace: Trace, region: Region, members: list[Parameter], owners: list[str], cut: set[str]
    ) -> Finding:
        never = all(np.isnan(_arrived(trace, p)).all() for p in members)
        ran = any(p.depth >= 1 for p in members)
        held = not has_optimizer(trace) or any(p.update is not None for p in members)
        everything = len(cut) == len(owners)
        fed = not ran or any(_was_fed(trace, p.module) for p in members)
        by = narrowest(cuts(trace.meta), region.members) if never and ran else None
        front = owners[0] in region.members  # everything behind it is cut off from the loss as well
        severity = Severity.WARNING
        if not held or not fed:
            severity = Severity.INFO
        elif ran and (by is not None or front or not never or everything):
            severity = Severity.ERROR
        size = sum(p.size for p in members)
        share = size / max(sum(p.size for p in trainable_parameters(trace)), 1.0)
        kind = "never got a gradient" if never else "got a gradient of exactly zero"
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=severity,
            module=region.module,
            sites=tuple(trace.sites[p.grad] for p in members),
            alike=region.members,
            first_step=int(trace.steps[0]),
            last_step=int(trace.steps[-1]),
            measured=0.0,
            threshold=0.0,
            unit="‖∂L/∂w‖",
            message=(
                f"{count(len(members), 'parameter')} of {region} ({size:.0f} elements, {share:.0%} of all trainable)"
                f" {kind} in {len(trace.steps)} recorded steps."
            ),
            cause=_cause(by, never=never, ran=ran, everything=everything) if fed else "It ran, but never on a sample.",
            remedy=(
                f"Look at what chooses the samples of {region}."
                if not fed
                else f"Keep that value in the graph; if {region} is not meant to learn, freeze it with"
                " requires_grad_(False)."
                if by is not None
                else f"Look between {region} and the loss for detach(), torch.no_grad(), .item() or an unused output;"
                " if it is not meant to learn, freeze it with requires_grad_(False)."
                if never
                else f"Look at what follows {region}: units that are always off, a saturated function, a zero factor."
            ),
        )


def _is_empty(trace: Trace, parameter: Parameter) -> bool:
    """Whether it has no elements: nothing is known of it, or this rank has nothing of a parameter that is sharded."""
    if parameter.weight is None:
        return not parameter.size > 0
    return bool((trace.statistics[Statistic.NUMEL][:, parameter.weight] == 0).any())


def _was_fed(trace: Trace, module: str) -> bool:
    """Whether `module` ever returned an element; an expert that no sample is routed to runs on empty batches."""
    columns = trace.columns(Quantity.OUTPUT, module)
    return not columns or bool((trace.statistics[Statistic.NUMEL][:, columns] > 0).any())


def _arrived(trace: Trace, parameter: Parameter) -> Doubles:
    """‖∂L/∂w‖₂ over the steps; infinite where some of it is not finite, NaN where none was observed."""
    broken = trace.statistics[Statistic.NONFINITE_COUNT][:, parameter.grad] > 0
    return np.where(broken, np.inf, norms(trace, parameter.grad))


def _cause(by: Cut | None, *, never: bool, ran: bool, everything: bool) -> str:
    if by is not None:
        return f"It ran in the forward pass, but {by} takes what it computes out of the graph."
    if everything and not never:
        return (
            "Every gradient in the model is zero, so the loss hands back nothing or all paths are multiplied by zero."
        )
    if not never:
        return "The path to the loss exists, but something on it multiplies the gradient by zero."
    if ran:
        return "It ran in the forward pass, but nothing that leads to the loss depends on it."
    return "It was never seen to run with gradients enabled: it is unused, or runs under torch.no_grad()."
